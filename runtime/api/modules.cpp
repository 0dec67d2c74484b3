// Modules, optimisers, files of parameters.
#include <cmath>
#include <fstream>

#include "frontend/data/arrays.hpp"
#include "frontend/data/file.hpp"
#include "runtime/api/tensor_impl.hpp"

namespace ag::api {

using lazy::raise;

namespace nn {

struct Module::State {
  NamedTensors parameters, buffers;
  std::vector<std::pair<std::string, std::shared_ptr<State>>> children;
  bool training = true;
};

Module::Module() : state_(std::make_shared<State>()) {}
Tensor& Module::register_parameter(const std::string& name, Tensor t) {
  t.requires_grad_(true);
  return state_->parameters.emplace_back(name, std::move(t)).second;
}
Tensor& Module::register_buffer(const std::string& name, Tensor t) {
  return state_->buffers.emplace_back(name, std::move(t)).second;
}
void Module::register_module(const std::string& name, const Module& m) {
  state_->children.emplace_back(name, m.state_);
}
void Module::collect(const State& s, const std::string& prefix, bool buffers, NamedTensors& out) {
  for (const auto& [name, t] : buffers ? s.buffers : s.parameters) out.emplace_back(prefix + name, t);
  for (const auto& [name, child] : s.children) collect(*child, prefix + name + ".", buffers, out);
}
NamedTensors Module::named_parameters() const {
  NamedTensors out;
  collect(*state_, "", false, out);
  return out;
}
NamedTensors Module::named_buffers() const {
  NamedTensors out;
  collect(*state_, "", true, out);
  return out;
}
std::vector<Tensor> Module::parameters() const {
  std::vector<Tensor> out;
  for (auto& [name, t] : named_parameters()) out.push_back(t);
  return out;
}
void Module::set_training(State& s, bool on) {
  s.training = on;
  for (auto& [name, child] : s.children) set_training(*child, on);
}
void Module::train(bool on) { set_training(*state_, on); }
bool Module::is_training() const { return state_->training; }
void Module::zero_grad(bool set_to_none) {
  for (Tensor& t : parameters()) t.zero_grad(set_to_none);
}
void Module::requires_grad_(bool on) {
  for (Tensor& t : parameters()) t.requires_grad_(on);
}

namespace {
/// Uniform in (-bound, bound), bound = 1 / sqrt(fan in): torch's default for linear and convolution.
Tensor uniform(IntList sizes, std::int64_t fan_in) {
  const double bound = fan_in > 0 ? 1 / std::sqrt(static_cast<double>(fan_in)) : 0;
  Tensor t = rand(std::move(sizes));
  float* p = t.data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) p[i] = static_cast<float>((2.0 * p[i] - 1) * bound);
  return t;
}
}  // namespace

Linear::Linear(std::int64_t in, std::int64_t out, bool with_bias) {
  weight = register_parameter("weight", uniform({out, in}, in));
  if (with_bias) bias = register_parameter("bias", uniform({out}, in));
}
Conv2d::Conv2d(std::int64_t in, std::int64_t out, IntList kernel, Conv2dOptions options)
    : options_(std::move(options)) {
  const std::int64_t h = kernel[0], w = kernel[kernel.size() - 1], each = in / options_.groups;
  weight = register_parameter("weight", uniform({out, each, h, w}, each * h * w));
  if (options_.bias) bias = register_parameter("bias", uniform({out}, each * h * w));
}
Tensor Conv2d::forward(const Tensor& x) {
  return conv2d(x, weight, bias, options_.stride, options_.padding, options_.dilation, options_.groups);
}
LayerNorm::LayerNorm(IntList shape, double eps) : shape_(std::move(shape)), eps_(eps) {
  weight = register_parameter("weight", ones(shape_));
  bias = register_parameter("bias", zeros(shape_));
}
BatchNorm2d::BatchNorm2d(std::int64_t channels, double eps, double momentum) : eps_(eps), momentum_(momentum) {
  weight = register_parameter("weight", ones(channels));
  bias = register_parameter("bias", zeros(channels));
  running_mean = register_buffer("running_mean", zeros(channels));
  running_var = register_buffer("running_var", ones(channels));
}
Tensor BatchNorm2d::forward(const Tensor& x) {
  return batch_norm(x, running_mean, running_var, weight, bias, is_training(), momentum_, eps_);
}
Embedding::Embedding(std::int64_t count, std::int64_t size) {
  weight = register_parameter("weight", randn({count, size}));
}
void Sequential::push_back(std::shared_ptr<Module> m) {
  register_module(std::to_string(modules_.size()), *m);
  modules_.push_back(std::move(m));
}
Tensor Sequential::forward(const Tensor& x) {
  Tensor y = x;
  for (auto& m : modules_) y = m->forward(y);
  return y;
}

void save(const Module& m, const std::string& path) {
  NamedTensors all = m.named_parameters();
  for (auto& b : m.named_buffers()) all.push_back(b);
  save_tensors(all, path);
}
void load(Module& m, const std::string& path) {
  const NamedTensors from = load_tensors(path);
  NamedTensors all = m.named_parameters();
  for (auto& b : m.named_buffers()) all.push_back(b);
  NoGradGuard guard;
  for (auto& [name, t] : all) {
    const Tensor* found = nullptr;
    for (const auto& [n, value] : from)
      if (n == name) found = &value;
    if (!found) raise(Code::AG5404, "Missing key in state_dict: \"" + name + "\" (file `" + path + "`)", {});
    if (found->sizes() != t.sizes() || found->dtype() != t.dtype())
      raise(Code::AG5404, "size mismatch for " + name + " in `" + path + "`", {});
    t.copy_(*found);
  }
}

}  // namespace nn

namespace {
/// The format's names of element types.
const char* stored_name(ag::DType t) {
  static constexpr const char* names[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16",
                                          "I8",  "U64", "U32", "U16",  "U8",  "BOOL"};
  return names[static_cast<int>(t)];
}
std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? '_' : c;
  }
  return out + "\"";
}
}  // namespace

/// safetensors: the length of a JSON header, the header, the arrays one after another.
void save_tensors(const std::vector<std::pair<std::string, Tensor>>& tensors, const std::string& path) {
  std::string header = "{", body;
  for (const auto& [name, t] : tensors) {
    t.eval();
    const lazy::Value& v = *t.impl()->value;
    header +=
        (header.size() > 1 ? "," : "") + quoted(name) + ":{\"dtype\":\"" + stored_name(v.dtype()) + "\",\"shape\":[";
    for (std::size_t i = 0; i < v.type->shape.size(); ++i) header += (i ? "," : "") + std::to_string(v.type->shape[i]);
    header += "],\"data_offsets\":[" + std::to_string(body.size()) + ",";
    body.append(static_cast<const char*>(v.data), v.type->bytes);
    header += std::to_string(body.size()) + "]}";
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[static_cast<std::size_t>(i)] = static_cast<char>(header.size() >> (8 * i));
  file += header + body;
  if (Status s = data::write_file(path, file); !s) raise(s.error());
}
std::vector<std::pair<std::string, Tensor>> load_tensors(const std::string& path) {
  const data::Limits limits;
  auto bytes = data::read_file(path, limits.max_file_bytes);
  if (!bytes) raise(bytes.error());
  const std::string_view text(bytes->data(), bytes->size());
  std::vector<std::pair<std::string, Tensor>> out;
  auto add = [&](const std::string& name, const Array& a) {
    out.emplace_back(name, lazy::make_tensor(lazy::from_array(a)));
  };
  if (path.ends_with(".npy")) {
    auto a = data::parse_npy(text, path, limits);
    if (!a) raise(a.error());
    add("", *a);
    return out;
  }
  auto all = path.ends_with(".npz") ? data::parse_npz(text, path, nullptr, limits)
                                    : data::parse_safetensors(text, path, nullptr, limits);
  if (!all) raise(all.error());
  for (const auto& [name, a] : *all) add(name, a);
  return out;
}

// ---- Optimisers -----------------------------------------------------------------------------------------------------

namespace optim {

void Optimizer::zero_grad(bool set_to_none) {
  for (Tensor& p : parameters_) p.zero_grad(set_to_none);
}

namespace {
/// The gradient without a warning; undefined if there is none.
Tensor grad_of(const Tensor& p) { return p.impl()->extra ? p.impl()->extra->grad : Tensor(); }
}  // namespace

SGD::SGD(std::vector<Tensor> parameters, SGDOptions options)
    : Optimizer(std::move(parameters)), options_(options), velocity_(parameters_.size()) {
  lr = options.lr;
}
void SGD::step() {
  NoGradGuard guard;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Tensor& p = parameters_[i];
    Tensor g = grad_of(p);
    if (!g.defined()) continue;
    if (options_.weight_decay != 0) g = g + p * options_.weight_decay;
    if (options_.momentum != 0) {
      Tensor& v = velocity_[i];
      v = v.defined() ? v * options_.momentum + g * (1 - options_.dampening) : g.detach();
      g = options_.nesterov ? g + v * options_.momentum : v;
    }
    p.sub_(g * lr);
  }
}

Adam::Adam(std::vector<Tensor> parameters, AdamOptions options)
    : Optimizer(std::move(parameters)), options_(options), mean_(parameters_.size()), square_(parameters_.size()) {
  lr = options.lr;
}
AdamW::AdamW(std::vector<Tensor> parameters, AdamOptions options) : Adam(std::move(parameters), options) {
  decoupled_ = true;
}
void Adam::step() {
  NoGradGuard guard;
  ++steps_;
  const AdamOptions& o = options_;
  const double c1 = 1 - std::pow(o.beta1, static_cast<double>(steps_));
  const double c2 = std::sqrt(1 - std::pow(o.beta2, static_cast<double>(steps_)));
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Tensor& p = parameters_[i];
    Tensor g = grad_of(p);
    if (!g.defined()) continue;
    if (o.weight_decay != 0) {
      if (decoupled_)
        p.mul_(1 - lr * o.weight_decay);
      else
        g = g + p * o.weight_decay;
    }
    Tensor &m = mean_[i], &v = square_[i];
    if (!m.defined()) m = zeros(p.sizes(), p.dtype()), v = zeros(p.sizes(), p.dtype());
    m = m + (g - m) * (1 - o.beta1);
    v = v * o.beta2 + g * g * (1 - o.beta2);
    p.sub_(m / (v.sqrt() / c2 + o.eps) * (lr / c1));
  }
}

}  // namespace optim
}  // namespace ag::api

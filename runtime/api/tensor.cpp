// The handle: what a tensor is, its value, its gradient.
#include <algorithm>

#include "frontend/trace/recipes.hpp"
#include "runtime/api/tensor_impl.hpp"

namespace ag::api {

using lazy::raise;
using lazy::value_of;

std::string Error::render() const { return text_.empty() ? std::string(what()) + "\n" : text_; }
void set_warning_handler(std::function<void(const std::string&)> handler) {
  lazy::set_warning_handler(std::move(handler));
}
void detail::set_console(void (*write)(const std::string&)) { lazy::set_console(write); }
const char* dtype_name(DType t) { return ag::dtype_name(lazy::ir(t)).data(); }

Tensor::Tensor(const Tensor& o) : impl_(o.impl_) {
  if (impl_) impl_->refs.fetch_add(1, std::memory_order_relaxed);
}
Tensor& Tensor::operator=(const Tensor& o) & {
  Tensor copy(o);
  std::swap(impl_, copy.impl_);
  return *this;
}
void Tensor::drop() noexcept { lazy::ImplRef::release(impl_); }

// ---- What it is -----------------------------------------------------------------------------------------------------

DType Tensor::dtype() const { return lazy::pub(value_of(*this, "dtype()", {}).dtype()); }
bool Tensor::is_floating_point() const { return is_float(lazy::ir(dtype())); }
std::int64_t Tensor::dim() const { return value_of(*this, "dim()", {}).type->type.rank(); }
std::vector<std::int64_t> Tensor::sizes() const {
  const lazy::Value& v = value_of(*this, "sizes()", {});
  if (!v.type->is_static)
    raise(Code::AG5403, "the sizes of a traced tensor are not numbers: it is " + v.type->type.str(), {});
  return v.type->shape;
}
std::int64_t Tensor::size(std::int64_t axis) const {
  const lazy::Value& v = value_of(*this, "size()", {});
  auto a = normalize_axis(axis, v.type->type.rank());
  if (!a)
    raise(Code::AG2202,
          "Dimension out of range (expected to be in range of [" + std::to_string(-dim()) + ", " +
              std::to_string(dim() - 1) + "], but got " + std::to_string(axis) + ")",
          {});
  const Dim& d = v.type->type.shape[static_cast<std::size_t>(*a)];
  if (!d.is_const()) raise(Code::AG5403, "the size `" + d.str() + "` of a traced tensor is not a number", {});
  return d.value();
}
std::int64_t Tensor::numel() const {
  std::int64_t n = 1;
  for (std::int64_t d : sizes()) n *= d;
  return n;
}

// ---- Its value
// --------------------------------------------------------------------------------------------------------

namespace {

lazy::Value& read(const Tensor& t, const Place& place) {
  lazy::Value& v = value_of(t, "a read", place);
  if (v.home || v.failed) lazy::Session::current().materialise(v, place);
  return v;
}

lazy::Value& read_one(const Tensor& t, const Place& place) {
  lazy::Value& v = read(t, place);
  if (v.type->elems != 1)
    raise(Code::AG5404, "a Tensor with " + std::to_string(v.type->elems) + " elements cannot be converted to Scalar",
          place);
  return v;
}

}  // namespace

const Tensor& Tensor::eval(Place place) const {
  read(*this, place);
  return *this;
}
double Tensor::item_real(Place place) const {
  const lazy::Value& v = read_one(*this, place);
  if (v.dtype() == ag::DType::f32) return *static_cast<const float*>(v.data);
  return lazy::to_array(v).get_double(0);
}
std::int64_t Tensor::item_int(Place place) const { return lazy::to_array(read_one(*this, place)).get_int(0); }
Tensor::operator bool() const {
  const Place place = Place::current();
  if (!defined()) raise(Code::AG5404, "the truth of None was asked for", {});
  lazy::Value& v = read(*this, {});
  if (v.type->elems != 1)
    raise(Code::AG5404,
          v.type->elems ? "Boolean value of Tensor with more than one value is ambiguous"
                        : "Boolean value of Tensor with no values is ambiguous",
          {});
  (void)place;
  if (v.dtype() == ag::DType::boolean) return *static_cast<const std::uint8_t*>(v.data) != 0;
  return lazy::to_array(v).get_double(0) != 0;
}
void* Tensor::data_of(DType t, Place place) const {
  lazy::Value& v = read(*this, place);
  if (v.dtype() != lazy::ir(t))
    raise(Code::AG5404,
          "expected scalar type " + lazy::type_name(lazy::ir(t)) + " but found " + lazy::type_name(v.dtype()), place);
  return v.data;
}

// ---- Autograd
// -----------------------------------------------------------------------------------------------------------

namespace {
lazy::TensorImpl& impl_of(const Tensor& t, const Place& place = {}) {
  value_of(t, "an operation", place);
  return *t.impl();
}
}  // namespace

bool Tensor::requires_grad() const { return impl_of(*this).tracked(); }
bool Tensor::is_leaf() const { return !impl_of(*this).grad_fn; }
Tensor& Tensor::requires_grad_(bool on, Place place) {
  lazy::TensorImpl& impl = impl_of(*this, place);
  if (impl.grad_fn) {
    if (on) return *this;
    raise(Code::AG3021,
          "you can only change requires_grad flags of leaf variables. If you want to use a computed variable in a "
          "subgraph that doesn't require differentiation use var_no_grad = var.detach().",
          place);
  }
  if (on && !is_float(impl.value->dtype()))
    raise(Code::AG3021, "only Tensors of floating point dtype can require gradients", place);
  impl.requires_grad = on;
  return *this;
}
Tensor Tensor::grad() const {
  lazy::TensorImpl& impl = impl_of(*this);
  if (impl.grad_fn && !retains_grad())
    lazy::warn(
        "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad attribute won't be "
        "populated during autograd.backward(). If you indeed want the .grad field to be populated for a non-leaf "
        "Tensor, use .retain_grad() on the non-leaf Tensor. If you access the non-leaf Tensor by mistake, make sure "
        "you access the leaf Tensor instead.");
  return impl.extra ? impl.extra->grad : Tensor();
}
Tensor& Tensor::mutable_grad() { return impl_of(*this).more().grad; }
void Tensor::set_grad(const Tensor& g) {
  lazy::before_grad_changes(impl_of(*this));
  impl_of(*this).more().grad = g;
}
void Tensor::zero_grad(bool set_to_none) {
  lazy::TensorImpl& impl = impl_of(*this);
  if (!impl.extra || !impl.extra->grad.defined()) return;
  lazy::before_grad_changes(impl);
  if (!set_to_none && lazy::Session::current().frame) {
    impl.extra->grad = zeros_like(impl.extra->grad.detach(), {}, {});
    return;
  }
  if (set_to_none) {
    impl.extra->grad = Tensor();
    return;
  }
  if (impl.extra->grad.impl()->grad_fn) impl.extra->grad = impl.extra->grad.detach();
  impl.extra->grad.zero_();
}
bool Tensor::retains_grad() const {
  lazy::TensorImpl& impl = impl_of(*this);
  if (!impl.grad_fn || !impl.grad_fn->extra) return false;
  const auto& list = impl.grad_fn->extra->retain;
  return std::any_of(list.begin(), list.end(), [&](const auto& r) { return r.second == &impl; });
}
Tensor& Tensor::retain_grad() {
  lazy::TensorImpl& impl = impl_of(*this);
  if (!impl.tracked()) raise(Code::AG3021, "can't retain_grad on Tensor that has requires_grad=False", {});
  if (!impl.grad_fn || retains_grad()) return *this;
  impl.more();  // so that the tensor takes itself off the list when it goes
  impl.grad_fn->more().retain.emplace_back(impl.output_nr, &impl);
  return *this;
}
std::shared_ptr<Node> Tensor::grad_fn() const {
  lazy::TensorImpl& impl = impl_of(*this);
  return impl.grad_fn ? std::make_shared<Node>(impl.grad_fn.get()) : nullptr;
}

unsigned Tensor::register_hook(std::function<Tensor(Tensor)> hook) const {
  lazy::TensorImpl& impl = impl_of(*this);
  if (!impl.tracked()) raise(Code::AG3021, "cannot register a hook on a tensor that doesn't require gradient", {});
  std::shared_ptr<lazy::Hooks>* hooks = nullptr;
  if (!impl.grad_fn) {
    hooks = &impl.more().hooks;
  } else {
    auto& list = impl.grad_fn->more().hooks;
    for (auto& [nr, h] : list)
      if (nr == impl.output_nr) hooks = &h;
    if (!hooks) hooks = &list.emplace_back(impl.output_nr, nullptr).second;
  }
  if (!*hooks) *hooks = std::make_shared<lazy::Hooks>();
  (*hooks)->list.emplace_back((*hooks)->next, std::move(hook));
  return (*hooks)->next++;
}
unsigned Tensor::register_hook(std::function<void(Tensor)> hook) const {
  return register_hook(std::function<Tensor(Tensor)>([hook = std::move(hook)](Tensor g) {
    hook(std::move(g));
    return Tensor();
  }));
}
void Tensor::remove_hook(unsigned id) const {
  lazy::TensorImpl& impl = impl_of(*this);
  auto erase = [&](const std::shared_ptr<lazy::Hooks>& h) {
    if (h) std::erase_if(h->list, [&](const auto& x) { return x.first == id; });
  };
  if (!impl.grad_fn) {
    if (impl.extra) erase(impl.extra->hooks);
  } else if (impl.grad_fn->extra) {
    for (auto& [nr, h] : impl.grad_fn->extra->hooks)
      if (nr == impl.output_nr) erase(h);
  }
}

void Tensor::backward(const Tensor& gradient, std::optional<bool> retain, bool create_graph,
                      const std::vector<Tensor>& inputs, Place place) const {
  const bool keep = retain.value_or(create_graph);
  if (inputs.empty()) {
    lazy::differentiate({*this}, {gradient}, nullptr, keep, create_graph, true, true, place);
    return;
  }
  auto grads = lazy::differentiate({*this}, {gradient}, &inputs, keep, create_graph, true, false, place);
  AutoGradMode mode(create_graph);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!grads[i].defined()) continue;
    Tensor& g = inputs[i].impl()->more().grad;
    g = g.defined() ? g + grads[i] : grads[i];
  }
}

Tensor Tensor::detach(Place place) const {
  lazy::Value& v = value_of(*this, "detach()", place);
  return lazy::make_tensor(lazy::ValueRef(&v));
}
Tensor& Tensor::detach_() {
  lazy::TensorImpl& impl = impl_of(*this);
  impl.grad_fn = {};
  impl.requires_grad = false;
  return *this;
}
Tensor Tensor::clone(Place place) const { return lazy::apply(rec::r::clone, {this}, {}, place); }

// ---- Gradient mode and the graph of functions
// -----------------------------------------------------------------------------

NoGradGuard::NoGradGuard() : before_(lazy::Session::current().grad_mode) { lazy::Session::current().grad_mode = false; }
NoGradGuard::~NoGradGuard() { lazy::Session::current().grad_mode = before_; }
AutoGradMode::AutoGradMode(bool enabled) : before_(lazy::Session::current().grad_mode) {
  lazy::Session::current().grad_mode = enabled;
}
AutoGradMode::~AutoGradMode() { lazy::Session::current().grad_mode = before_; }
bool is_grad_enabled() { return lazy::Session::current().grad_mode; }

Node::Node(lazy::GradNode* node) : node_(lazy::NodeRef(node).leak()) {}
Node::~Node() { lazy::NodeRef::release(node_); }
std::string Node::name() const { return std::string(node_->name); }
std::vector<Node::Edge> Node::next_functions() const {
  std::vector<Edge> out;
  for (const lazy::Edge& e : node_->next)
    out.push_back({e.node ? std::make_shared<Node>(e.node.get()) : nullptr, e.nr});
  return out;
}
Tensor Node::variable() const { return node_->variable ? lazy::wrap(node_->variable) : Tensor(); }

namespace autograd {

std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                         const std::vector<Tensor>& seeds, std::optional<bool> retain, bool create_graph,
                         bool allow_unused, Place place) {
  return lazy::differentiate(outputs, seeds, &inputs, retain.value_or(create_graph), create_graph, allow_unused, false,
                             place);
}
void backward(const std::vector<Tensor>& outputs, const std::vector<Tensor>& seeds, std::optional<bool> retain,
              bool create_graph, Place place) {
  lazy::differentiate(outputs, seeds, nullptr, retain.value_or(create_graph), create_graph, true, true, place);
}

}  // namespace autograd

// ---- The session
// -----------------------------------------------------------------------------------------------------------

std::size_t compilations() { return lazy::Session::current().compilations; }
void set_recompile_handler(std::function<void(const std::string&)> handler) {
  lazy::Session::current().on_recompile = std::move(handler);
}
void clear_compiled() { lazy::Session::current().clear(); }
void manual_seed(std::uint64_t seed) {
  lazy::Session& s = lazy::Session::current();
  s.seed = seed;
  s.draws = 0;
}

}  // namespace ag::api

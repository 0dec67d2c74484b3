// Values and gradients of the operations against torch: ops.expected holds, for each expression, the name of its
// gradient function, its value, and the gradients of (y * [1, 2, ...]).sum() with respect to what it was computed from,
// as torch 2.15 prints them.
#include <ag/ag.hpp>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

namespace {

struct Inputs {
  ag::Tensor x = ag::tensor({{0.5, -1., 2.}, {1.5, 0.25, -0.75}}, ag::requires_grad());
  ag::Tensor p = ag::tensor({{0.75, 1.25, 0.5}, {2., 1.5, 3.}}, ag::requires_grad());
  ag::Tensor v = ag::tensor({1., -0.5, 2.}, ag::requires_grad());
  ag::Tensor w = (ag::arange(12.) / 8 - 0.6).view({4, 3}).eval().detach().requires_grad_();
  ag::Tensor b = ag::arange(4.).requires_grad_();
  ag::Tensor im = (ag::arange(32.) * 7 % 11 / 4 - 1).view({1, 2, 4, 4}).eval().detach().requires_grad_();
  ag::Tensor k = (ag::arange(54.) * 5 % 13 / 8 - 0.7).view({3, 2, 3, 3}).eval().detach().requires_grad_();
};

struct Case {
  const char* text;
  ag::Tensor (*run)(Inputs&);
};

#define CASE(...) \
  Case { \
    #__VA_ARGS__, [](Inputs& in) -> ag::Tensor { \
      auto& [x, p, v, w, b, im, k] = in; \
      return __VA_ARGS__; \
    } \
  }

// clang-format off
const Case cases[] = {
    CASE(x.sum()),
    CASE(x.sum({1})),
    CASE(x.mean()),
    CASE(x.mean({0}, true)),
    CASE(x.prod()),
    CASE(x.prod(1)),
    CASE(x.max()),
    CASE(x.amax({1})),
    CASE(std::get<0>(x.max(1))),
    CASE(std::get<0>(x.min(0))),
    CASE(x.var()),
    CASE(x.std({1})),
    CASE(x.var({1}, false)),
    CASE(x.norm()),
    CASE(x.norm(1)),
    CASE(x.norm(3, {1})),
    CASE(x.logsumexp({1})),
    CASE(x.cumsum(1)),
    CASE(ag::dot(v, v)),
    CASE(x.mv(v)),
    CASE(x.mm(w.t())),
    CASE(ag::matmul(x, v)),
    CASE(ag::outer(v, v)),
    CASE(ag::linear(x, w, b)),
    CASE(ag::linear(v, w, b)),
    CASE(x.exp()),
    CASE(p.log()),
    CASE(x.sin()),
    CASE(x.cos()),
    CASE(x.tan()),
    CASE(x.tanh()),
    CASE(x.sigmoid()),
    CASE(p.sqrt()),
    CASE(p.rsqrt()),
    CASE(x.abs()),
    CASE(x.relu()),
    CASE(ag::gelu(x)),
    CASE(ag::gelu(x, "tanh")),
    CASE(x.silu()),
    CASE(x.softplus()),
    CASE(x.mish()),
    CASE(x.selu()),
    CASE(x.hardsigmoid()),
    CASE(x.hardswish()),
    CASE(x.softsign()),
    CASE(ag::log_sigmoid(x)),
    CASE(ag::leaky_relu(x)),
    CASE(ag::elu(x)),
    CASE(ag::celu(x, 1.5)),
    CASE(x.erf()),
    CASE(x.expm1()),
    CASE(p.log1p()),
    CASE(p.log2()),
    CASE(p.log10()),
    CASE(x.square()),
    CASE(p.reciprocal()),
    CASE(x.atan()),
    CASE(x.asinh()),
    CASE(x.pow(2)),
    CASE(x.pow(3)),
    CASE(p.pow(1.7)),
    CASE(ag::pow(2, x)),
    CASE(p.pow(x)),
    CASE(x / p),
    CASE(1 - x),
    CASE(2 / p),
    CASE(ag::atan2(x, p)),
    CASE(x.remainder(0.7)),
    CASE(x.fmod(0.7)),
    CASE(x.floor()),
    CASE(x.clamp(-0.5, 1)),
    CASE(x.clamp_min(0)),
    CASE(ag::maximum(x, p)),
    CASE(ag::where(x > 0, x, 2 * x)),
    CASE(x.masked_fill(x > 1, 9)),
    CASE(ag::lerp(x, p, 0.3)),
    CASE(x.view({3, 2})),
    CASE(x.t()),
    CASE(x.permute({1, 0})),
    CASE(x.flatten()),
    CASE(x.unsqueeze(1)),
    CASE(v.expand({2, 3})),
    CASE(x[1]),
    CASE(x[1][2]),
    CASE(x.slice(1, 0, 3, 2)),
    CASE(x.narrow(1, 1, 2)),
    CASE(x.index({ag::Slice(), -1})),
    CASE(x.index({0, ag::Slice(1)})),
    CASE(x.index({ag::None, 1})),
    CASE(x[ag::tensor({1, 0, 1})]),
    CASE(x.index({ag::Slice(), ag::tensor({2, 0})})),
    CASE(x.index({ag::tensor({0, 1}), ag::tensor({2, 0})})),
    CASE(x[x > 0]),
    CASE(x.index_select(1, ag::tensor({2, 2}))),
    CASE(x.gather(1, ag::tensor({{0, 2}, {1, 1}}))),
    CASE(ag::cat({x, p}, 1)),
    CASE(ag::stack({x, p})),
    CASE(x.flip({1})),
    CASE(x.roll(1, 1)),
    CASE(x.repeat({2, 1})),
    CASE(x.tril()),
    CASE(x.triu(1)),
    CASE(x.chunk(3, 1)[1]),
    CASE(ag::pad(x, {1, 0, 0, 1}, 5)),
    CASE(x.softmax(1)),
    CASE(x.log_softmax(0)),
    CASE(ag::cross_entropy(x, ag::tensor({2, 0}))),
    CASE(ag::nll_loss(x.log_softmax(1), ag::tensor({2, 0}), ag::Reduction::sum)),
    CASE(ag::cross_entropy(x, p.softmax(1).detach())),
    CASE(ag::binary_cross_entropy_with_logits(x, (p > 1).to(ag::f32))),
    CASE(ag::binary_cross_entropy(x.sigmoid(), (p > 1).to(ag::f32))),
    CASE(ag::mse_loss(x, p)),
    CASE(ag::l1_loss(x, p)),
    CASE(ag::smooth_l1_loss(x, p)),
    CASE(ag::layer_norm(x, 3)),
    CASE(ag::layer_norm(x, 3, v, v)),
    CASE(ag::rms_norm(x, 3)),
    CASE(ag::batch_norm(x, ag::zeros(3), ag::ones(3), v, v)),
    CASE(ag::batch_norm(x, {}, {}, v, v, true)),
    CASE(ag::embedding(x, ag::tensor({{1, 0}, {1, 1}}))),
    CASE(ag::group_norm(im, 2)),
    CASE(ag::scaled_dot_product_attention(x, p, x)),
    CASE(ag::conv2d(im, k)),
    CASE(ag::conv2d(im, k, {}, 2, 1)),
    CASE(ag::max_pool2d(im, 2)),
    CASE(ag::avg_pool2d(im, 2, 1, 1)),
};
// clang-format on

/// A number and what surrounds it: numbers agree to the last digit printed, or nearly.
bool agree(const std::string& a, const std::string& b) {
  std::istringstream s(a), t(b);
  auto words = [](const std::string& text) {
    std::vector<std::string> out{""};
    for (char c : text) {
      if (std::string("[](), \n").find(c) != std::string::npos)
        out.emplace_back();
      else
        out.back() += c;
    }
    std::erase(out, "");
    return out;
  };
  const auto u = words(a), w = words(b);
  if (u.size() != w.size()) return false;
  for (std::size_t i = 0; i < u.size(); ++i) {
    if (u[i] == w[i]) continue;
    try {
      if (std::fabs(std::stod(u[i]) - std::stod(w[i])) > 1.01e-4 * std::max(1.0, std::fabs(std::stod(w[i]))))
        return false;
    } catch (const std::exception&) {
      return false;
    }
  }
  return true;
}

std::map<std::string, std::string> expectations() {
  std::ifstream in(AG_SOURCE_DIR "/tests/api/ops.expected");
  std::map<std::string, std::string> out;
  std::string name;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("== "))
      name = line.substr(3);
    else
      out[name] += line + "\n";
  }
  return out;
}

}  // namespace

TEST_CASE("values, gradients and names of the operations are torch's") {
  const auto expected = expectations();
  for (const Case& c : cases) {
    INFO(c.text);
    Inputs in;
    std::string text;
    try {
      ag::Tensor y = c.run(in);
      text = (y.grad_fn() ? y.grad_fn()->name() : "NoneType") + "\n" + y.detach().str() + "\n";
      ag::Tensor weights = ag::arange(1., static_cast<double>(y.numel()) + 1).view(y.sizes());
      if (y.requires_grad()) (y * weights).sum().backward();
      for (ag::Tensor* t : {&in.x, &in.p, &in.v, &in.w, &in.b, &in.im, &in.k})
        if (t->grad().defined()) text += t->grad().str() + "\n";
    } catch (const ag::Error& e) {
      text = e.what();
    }
    auto it = expected.find(c.text);
    REQUIRE(it != expected.end());
    INFO(text);
    INFO(it->second);
    CHECK(agree(text, it->second));
  }
}

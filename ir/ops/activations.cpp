// ONNX's activation functions and softmaxes, as formulas. At kinks the slope is PyTorch's (relu'(0) = 0).
#include <cmath>
#include <numbers>

#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

double number(const View& n, std::string_view name, double otherwise) {
  return attr_number(n.attrs(), name, otherwise);
}

/// x where it is not positive, else 0: keeps exp from overflowing in the branch not taken.
Expr negative_part(Expr x) { return select(x > 0.0, 0, x); }

OpInfo activation(OpInfo o, DTypeSet set = floats) {
  o.tier = Tier::composite;
  if (o.onnx.empty()) o.onnx = o.name;
  if (o.operands.empty()) o.operands = {{.name = "x", .dtypes = set}};
  if (!o.infer) o.infer = infer_same;
  if (!o.samples)
    o.samples = [] {
      return std::vector<OpSample>{sample({"f64[3,4]"}, {}, -4, 4), sample({"f32[]"}), sample({"f16[0,2]"}),
                                   sample({"bf16[5]"})};
    };
  return o;
}

std::vector<ValueId> relu(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  return {max(x, x.lit(0))};
}
void relu_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Expr x(b, n.operand(0));
  grads[0] = select(x > 0.0, Expr(b, ct[0]), 0);
}

constexpr auto leaky_relu = [](const View& n, Expr x) { return select(x > 0.0, x, number(n, "alpha", 0.01) * x); };
constexpr auto elu = [](const View& n, Expr x) {
  return select(x > 0.0, x, number(n, "alpha", 1) * call("expm1", negative_part(x)));
};
constexpr auto celu = [](const View& n, Expr x) {
  double alpha = number(n, "alpha", 1);
  return select(x > 0.0, x, alpha * call("expm1", negative_part(x) / alpha));
};
constexpr auto selu = [](const View& n, Expr x) {
  double alpha = number(n, "alpha", 1.67326319217681884765625), gamma = number(n, "gamma", 1.05070102214813232421875);
  return gamma * select(x > 0.0, x, alpha * call("expm1", negative_part(x)));
};
constexpr auto gelu = [](const View& n, Expr x) {
  if (attr_string(n.attrs(), "approximate", "none") == "tanh")
    return 0.5 * x * (1 + call("tanh", std::sqrt(2 * std::numbers::inv_pi) * (x + 0.044715 * (x * x * x))));
  return 0.5 * x * (1 + call("erf", x * (1 / std::numbers::sqrt2)));
};
constexpr auto hard_sigmoid = [](const View& n, Expr x) {
  Expr v = number(n, "alpha", 0.2) * x + number(n, "beta", 0.5);
  return select(v >= 1.0, 1, select(v <= 0.0, 0, v));
};
constexpr auto hard_swish = [](const View&, Expr x) {
  Expr v = (1.0 / 6) * x + 0.5;
  return x * select(v >= 1.0, 1, select(v <= 0.0, 0, v));
};
Expr softplus_of(Expr x) { return max(x, x.lit(0)) + call("log1p", exp(-abs(x))); }
constexpr auto softplus = [](const View&, Expr x) { return softplus_of(x); };
constexpr auto mish = [](const View&, Expr x) { return x * call("tanh", call("Softplus", x)); };
constexpr auto softsign = [](const View&, Expr x) { return x / (1 + abs(x)); };
constexpr auto thresholded_relu = [](const View& n, Expr x) { return select(x > number(n, "alpha", 1), x, 0); };
constexpr auto swish = [](const View& n, Expr x) { return x * call("sigmoid", number(n, "alpha", 1) * x); };
constexpr auto silu = [](const View&, Expr x) { return x * call("sigmoid", x); };
constexpr auto shrink = [](const View& n, Expr x) {
  double bias = number(n, "bias", 0), lambda = number(n, "lambd", 0.5);
  return select(x < -lambda, x + bias, select(x > lambda, x - bias, 0));
};

// ---- PRelu ------------------------------------------------------------------------------------------------

Types infer_prelu(const InferCtx& c) {
  AG_TRY(Dims shape, broadcast_operands(c));
  if (shape != c.in(0).shape)
    return c.error(Code::AG2201,
                   fmt::format("`PRelu`: the slope {} must broadcast to {}", c.in(1).str(), c.in(0).str()),
                   "only the slope broadcasts", {0, 1});
  return infer_same(c);
}

std::vector<ValueId> prelu(Builder& b, const View& n) {
  Expr x(b, n.operand(0)), slope(b, n.operand(1));
  return {select(x > 0.0, x, slope * x)};
}

// ---- Softmax ----------------------------------------------------------------------------------------------

Types infer_axis(const InferCtx& c) {
  AG_TRY_(checked_axis(c, attr_int(c.attrs(), "axis", -1), c.in(0).rank()));
  return infer_same(c);
}

Ints axis_of(const View& n) { return {*normalize_axis(attr_int(n.attrs(), "axis", -1), n.in(0).rank())}; }

/// x less its maximum, which is a constant to derivatives (they cancel). A NaN need not reach the maximum: whoever asks
/// for this sums all of what comes of it.
Expr shifted(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  Dims kept = x.type().shape;
  for (std::int64_t axis : axis_of(n)) kept[static_cast<std::size_t>(axis)] = 1;
  Expr most = x.with(b.add_op("reduce_max", {x.id()}, {{"axes", axis_of(n)}, {"any_nan", true}}));
  return x - call("StopGradient", x.with(b.reshape(most, std::move(kept))));
}

std::vector<ValueId> softmax(Builder& b, const View& n) {
  Expr e = exp(shifted(b, n)), sum = reduce("reduce_sum", e, axis_of(n), true);
  const DType t = n.in(0).dtype;  // one division a row, where its rounding is small beside the sum's
  return {t == DType::f32 || t == DType::f64 ? e * (1.0 / sum) : e / sum};
}
void softmax_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Expr y(b, n.result()), g(b, ct[0]);
  grads[0] = y * (g - reduce("reduce_sum", g * y, axis_of(n), true));
}

std::vector<ValueId> log_softmax(Builder& b, const View& n) {
  Expr x = shifted(b, n);
  return {x - log(reduce("reduce_sum", exp(x), axis_of(n), true))};
}
void log_softmax_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Expr y(b, n.result()), g(b, ct[0]);
  grads[0] = g - exp(y) * reduce("reduce_sum", g, axis_of(n), true);
}

std::vector<ValueId> hardmax(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  std::int64_t axis = axis_of(n)[0];
  Expr winner = x.with(b.add_op("ArgMax", {n.operand(0)}, {{"axis", axis}, {"keepdims", std::int64_t{1}}}));
  Expr place = x.with(b.iota(x.type().with(DType::i64), axis));
  return {(place == winner).to(x.dtype())};
}

std::vector<OpSample> axis_samples() {
  return {sample({"f64[3,4]"}), sample({"f64[2,3,4]"}, {{"axis", std::int64_t{1}}}),
          sample({"f64[5]"}, {{"axis", std::int64_t{0}}}), sample({"f32[0,3]"}), sample({"f16[2,3]"})};
}

}  // namespace

std::vector<OpInfo> activation_ops() {
  AttrSpec axis = int_attr("axis", -1);
  return {
      activation({.name = "Relu", .summary = "max(x, 0)", .decompose = relu, .vjp = relu_vjp, .guards_lanes = true},
                 signed_numeric),
      activation({.name = "LeakyRelu",
                  .summary = "x, or alpha x where negative",
                  .attrs = {number_attr("alpha", 0.01)},
                  .decompose = formula1<leaky_relu>}),
      activation(
          {.name = "PRelu",
           .since = 7,
           .summary = "x, or slope x where negative",
           .operands = {{.name = "X", .dtypes = numeric}, {.name = "slope", .dtypes = numeric}},
           .infer = infer_prelu,
           .decompose = prelu,
           .samples =
               [] { return std::vector<OpSample>{sample({"f64[2,3,4]", "f64[3,1]"}), sample({"f32[4]", "f32[]"})}; }}),
      activation({.name = "Elu",
                  .summary = "x, or alpha (e^x - 1) where negative",
                  .attrs = {number_attr("alpha", 1)},
                  .decompose = formula1<elu>}),
      activation({.name = "Celu",
                  .since = 12,
                  .summary = "x, or alpha (e^(x/alpha) - 1) where negative",
                  .attrs = {number_attr("alpha", 1)},
                  .decompose = formula1<celu>}),
      activation(
          {.name = "Selu",
           .summary = "scaled Elu",
           .attrs = {number_attr("alpha", 1.67326319217681884765625), number_attr("gamma", 1.05070102214813232421875)},
           .decompose = formula1<selu>}),
      activation({.name = "Gelu",
                  .since = 20,
                  .summary = "x times the normal distribution function of x",
                  .attrs = {choice_attr("approximate", {"none", "tanh"})},
                  .decompose = formula1<gelu>}),
      activation({.name = "HardSigmoid",
                  .summary = "alpha x + beta, clipped to [0, 1]",
                  .attrs = {number_attr("alpha", 0.2), number_attr("beta", 0.5)},
                  .decompose = formula1<hard_sigmoid>}),
      activation({.name = "HardSwish",
                  .since = 14,
                  .summary = "x times HardSigmoid(x) with alpha = 1/6",
                  .decompose = formula1<hard_swish>}),
      activation({.name = "Mish", .since = 18, .summary = "x tanh(softplus(x))", .decompose = formula1<mish>}),
      activation({.name = "Softplus",
                  .summary = "log(1 + e^x)",
                  .decompose = formula1<softplus>,
                  .partials = d1<[](Point p) { return call("sigmoid", p.x); }>}),
      activation({.name = "Softsign", .summary = "x/(1 + |x|)", .decompose = formula1<softsign>}),
      activation({.name = "ThresholdedRelu",
                  .since = 10,
                  .summary = "x where above alpha, else 0",
                  .attrs = {number_attr("alpha", 1)},
                  .decompose = formula1<thresholded_relu>}),
      activation({.name = "Swish",
                  .since = 24,
                  .summary = "x sigmoid(alpha x)",
                  .attrs = {number_attr("alpha", 1)},
                  .decompose = formula1<swish>}),
      activation({.name = "Silu", .domain = "ag", .summary = "x sigmoid(x)", .decompose = formula1<silu>}),
      activation({.name = "Shrink",
                  .since = 9,
                  .summary = "x moved by bias towards 0 outside [-lambd, lambd], 0 inside",
                  .attrs = {number_attr("bias", 0), number_attr("lambd", 0.5)},
                  .decompose = formula1<shrink>},
                 signed_numeric),
      activation({.name = "Softmax",
                  .since = 13,
                  .summary = "e^x, normalised along an axis",
                  .attrs = {axis},
                  .infer = infer_axis,
                  .decompose = softmax,
                  .vjp = softmax_vjp,
                  .samples = axis_samples}),
      activation({.name = "LogSoftmax",
                  .since = 13,
                  .summary = "logarithm of Softmax",
                  .attrs = {axis},
                  .infer = infer_axis,
                  .decompose = log_softmax,
                  .vjp = log_softmax_vjp,
                  .samples = axis_samples}),
      activation({.name = "Hardmax",
                  .since = 13,
                  .summary = "1 at the first maximum along an axis, else 0",
                  .attrs = {axis},
                  .infer = infer_axis,
                  .decompose = hardmax,
                  .zero_gradient = true,
                  .samples = axis_samples}),
  };
}

}  // namespace ag

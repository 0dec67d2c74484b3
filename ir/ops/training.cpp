// Optimisers as ONNX's training domain spells them: Adam, Adagrad, Momentum on groups of tensors, all parameters first,
// then all gradients, then each kind of state; results are the new parameters and the new states.
#include "ir/ops/families.hpp"
#include "ir/ops/rewritten.hpp"

namespace ag {
using namespace ops;
namespace {

using Values = Result<std::vector<ValueId>>;
constexpr std::string_view training_domain = "ai.onnx.preview.training";

/// The tensors of one parameter: itself, its gradient, its states; and what they become: itself, its states.
struct Update {
  const Rewriting& r;
  std::vector<Expr> in;
  Expr rate(DType t) const { return scalar(0).to(t); }
  Expr step(DType t) const { return scalar(1).to(t); }
  Expr scalar(std::size_t i) const { return r.in(i).with(r.b.reshape(r.operands[i], {})); }
  double number(std::string_view name, double otherwise) const { return attr_number(r.attrs, name, otherwise); }
  /// The gradient with that of the regularisation added.
  Expr gradient() const { return in[0] * number("norm_coefficient", 0) + in[1]; }
};
using Rule = std::vector<Expr> (*)(const Update&);

template <Rule rule, std::size_t states>
Values for_each(const Rewriting& r) {
  std::size_t kinds = 2 + states, given = r.operands.size() - 2, n = given / kinds;
  if (n == 0 || given % kinds != 0)
    return r.fail(Code::AG2206, fmt::format("`{}` takes the same number of parameters, gradients and states: {} "
                                            "tensors are not {} kinds",
                                            r.op.onnx, given, kinds));
  for (std::size_t i : {0u, 1u})
    if (!r.type(i).elems().is(1)) return r.fail(Code::AG2204, fmt::format("`{}`: R and T are scalars", r.op.onnx));
  std::vector<ValueId> out((1 + states) * n);
  for (std::size_t i = 0; i < n; ++i) {
    Update u{r, {}};
    for (std::size_t k = 0; k < kinds; ++k) {
      u.in.push_back(r.in(2 + k * n + i));
      if (u.in[k].type() != u.in[0].type())
        return r.fail(Code::AG2208, fmt::format("`{}`: parameter {} is {}, and one of its tensors {}", r.op.onnx, i,
                                                u.in[0].type().str(), u.in[k].type().str()));
    }
    std::vector<Expr> next = rule(u);
    for (std::size_t k = 0; k < next.size(); ++k) out[k * n + i] = next[k];
  }
  return out;
}

std::vector<Expr> adam(const Update& u) {
  Expr x = u.in[0], v = u.in[2], h = u.in[3], g = u.gradient();
  double alpha = u.number("alpha", 0.9), beta = u.number("beta", 0.999);
  v = alpha * v + (1 - alpha) * g;
  h = beta * h + (1 - beta) * (g * g);
  Expr rate = u.rate(x.dtype()), t = u.step(x.dtype());
  Expr corrected = rate * sqrt(1 - call("pow", t.lit(beta), t)) / (1 - call("pow", t.lit(alpha), t));
  rate = select(t > t.lit(0), corrected, rate);
  x = x - rate * (v / (sqrt(h) + u.number("epsilon", 1e-6)));
  return {(1 - u.number("norm_coefficient_post", 0)) * x, v, h};
}

std::vector<Expr> adagrad(const Update& u) {
  Expr x = u.in[0], h = u.in[2], g = u.gradient();
  Expr rate = u.rate(x.dtype()) / (1 + u.step(x.dtype()) * u.number("decay_factor", 0));
  h = h + g * g;
  return {x - rate * g / (sqrt(h) + u.number("epsilon", 1e-6)), h};
}

std::vector<Expr> momentum(const Update& u) {
  Expr x = u.in[0], v = u.in[2], g = u.gradient(), t = u.step(x.dtype());
  double alpha = u.number("alpha", 0), beta = u.number("beta", 0);
  Expr factor = select(t > t.lit(0), t.lit(beta), t.lit(1));  // the first step takes the whole gradient
  v = alpha * v + factor * g;
  Expr rate = u.rate(x.dtype());
  bool nesterov = attr_string(u.r.attrs, "mode", "standard") == "nesterov";
  return {nesterov ? x - rate * (g + alpha * v) : x - rate * v, v};
}

OpInfo optimiser(OpInfo o) {
  o.operands = {{.name = "R", .type_var = "T1", .dtypes = floats},
                {.name = "T", .type_var = "T2", .dtypes = set_of(DType::i64)},
                {.name = "inputs", .type_var = "", .dtypes = floats, .variadic = true}};
  o.results = {{.name = "outputs", .type_var = "", .variadic = true}};
  return o;
}

std::vector<OpSample> optimiser_samples(std::size_t kinds, Attrs a) {
  OpSample::Operand step{sample_type("i64[]"), make_literal(Array::scalar(DType::i64, 3))};
  OpSample one{{sample_operand("f64[]", 0.1, 0.2), step}, std::move(a)}, two = one;
  for (std::size_t k = 0; k < kinds; ++k) {
    one.operands.push_back(sample_operand("f64[2,3]", k < 2 ? -2 : 0.5, 2));
    two.operands.push_back(sample_operand("f64[2]", k < 2 ? -2 : 0.5, 2));
    two.operands.push_back(sample_operand("f64[3,1]", k < 2 ? -2 : 0.5, 2));
  }
  return {one, two};
}

}  // namespace

std::vector<OpInfo> training_ops() {
  OpInfo adam_op = optimiser(rewritten<for_each<adam, 2>>(
      {.name = "Adam", .domain = training_domain, .summary = "a step of Adam: parameters, first and second moments"}));
  adam_op.attrs = {number_attr("alpha", 0.9), number_attr("beta", 0.999), number_attr("epsilon", 1e-6),
                   number_attr("norm_coefficient", 0), number_attr("norm_coefficient_post", 0)};
  adam_op.samples = [] { return optimiser_samples(4, {{"norm_coefficient", 0.01}}); };

  OpInfo adagrad_op = optimiser(rewritten<for_each<adagrad, 1>>(
      {.name = "Adagrad", .domain = training_domain, .summary = "a step of Adagrad: parameters, squared gradients"}));
  adagrad_op.attrs = {number_attr("decay_factor", 0), number_attr("epsilon", 1e-6), number_attr("norm_coefficient", 0)};
  adagrad_op.samples = [] { return optimiser_samples(3, {{"decay_factor", 0.1}}); };

  OpInfo momentum_op = optimiser(rewritten<for_each<momentum, 1>>(
      {.name = "Momentum", .domain = training_domain, .summary = "a step with momentum: parameters, momenta"}));
  momentum_op.attrs = {{"alpha", AttrKind::number, true},
                       {"beta", AttrKind::number, true},
                       {"mode", AttrKind::string, true, {}, {}, {"standard", "nesterov"}},
                       {"norm_coefficient", AttrKind::number, true}};
  momentum_op.samples = [] {
    return optimiser_samples(
        3, {{"alpha", 0.9}, {"beta", 0.8}, {"mode", std::string("nesterov")}, {"norm_coefficient", 0.01}});
  };
  return {adam_op, adagrad_op, momentum_op};
}

}  // namespace ag

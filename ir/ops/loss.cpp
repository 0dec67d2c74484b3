// Losses. Cross entropy takes scores, not probabilities, and its gradient is softmax minus one-hot.
#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

AttrSpec reduction_attr() { return choice_attr("reduction", {"mean", "sum", "none"}); }
std::string reduction_of(const Attrs& a) { return attr_string(a, "reduction", "mean"); }
Ints all_axes(const Type& t) { return iota_ints(t.rank()); }
Expr total(Expr x) { return reduce("reduce_sum", x, all_axes(x.type())); }

// ---- Class labels: axis 1 of the scores is the class ------------------------------------------------------

Types infer_classes(const InferCtx& c) {
  const Type &x = c.in(0), &labels = c.in(1);
  if (x.rank() < 2)
    return c.error(Code::AG2204,
                   fmt::format("`{}` needs [batch, class, ...]: {} is {}", c.op().onnx, operand_name(c, 0), x.str()),
                   {}, {0});
  Dims want = x.shape;
  want.erase(want.begin() + 1);
  bool fits = labels.shape.size() == want.size();
  for (std::size_t d = 0; fits && d < want.size(); ++d)
    fits = !labels.shape[d].is_const() || !want[d].is_const() || labels.shape[d] == want[d];
  if (!fits)
    return c.error(
        Code::AG2208,
        fmt::format("`{}` needs a label for each place: {} is {}, {} is {}; labels {} are wanted", c.op().onnx,
                    operand_name(c, 0), x.str(), operand_name(c, 1), labels.str(), shape_str(want)),
        "all axes but the class", {0, 1});
  if (c.has(2) &&
      (c.in(2).rank() != 1 || (c.in(2).shape[0].is_const() && x.shape[1].is_const() && c.in(2).shape[0] != x.shape[1])))
    return c.error(
        Code::AG2208,
        fmt::format("`{}` needs one weight a class: {} is {}", c.op().onnx, operand_name(c, 2), c.in(2).str()), {},
        {0, 2});
  Type loss{x.dtype, reduction_of(c.attrs()) == "none" ? want : Dims{}};
  if (c.op().results.size() == 1) return std::vector<Type>{loss};
  return std::vector<Type>{loss, x};
}

/// What a class loss is made of, at each place [batch, ...].
struct Places {
  Builder& b;
  const View& n;
  Expr labels, kept;  ///< labels in range; whether a place counts (invalid: all do)
  bool has_ignored = false;

  Places(Builder& builder, const View& v) : b(builder), n(v), labels(builder, v.operand(1)) {
    const auto* ignored = v.attrs().get<std::int64_t>("ignore_index");
    if (!ignored) return;
    has_ignored = true;
    Expr mark = labels.with(b.scalar_int(labels.dtype(), *ignored));
    kept = labels != mark;
    labels = select(kept, labels, labels.with(b.scalar_int(labels.dtype(), 0)));
  }
  /// The weight of each place; invalid if all are one.
  Expr weights(DType t) const {
    if (!n.has(2)) return has_ignored ? kept.to(t) : Expr();
    Expr w = take(Expr(b, n.operand(2)), labels, 0);
    return has_ignored ? select(kept, w, 0) : w;
  }
  /// The element of the label's class of a value shaped as the scores.
  Expr at_label(Expr x) const {
    Expr wide = labels.with(b.reshape(labels, with_unit_axis(labels.type().shape, 1)));
    Attrs axis{{"axis", std::int64_t{1}}};
    return x.with(b.reshape(b.add_op("GatherElements", {x.id(), wide.id()}, axis), labels.type().shape));
  }
  Expr over_classes(Expr place) const { return place.with(b.reshape(place, with_unit_axis(place.type().shape, 1))); }
  /// One-hot of the labels, as a mask shaped as the scores.
  Expr mask(const Type& scores) const {
    return over_classes(labels) == labels.with(b.iota(scores.with(labels.dtype()), 1));
  }
  /// What a mean divides by.
  Expr divisor(Expr w, DType t) const { return w.id() ? total(w) : size_value(b, labels.type().elems(), t); }
};

/// -log p of the label, weighted and reduced.
Expr class_loss(const View& n, const Places& p, Expr log_prob_at_label) {
  Expr w = p.weights(log_prob_at_label.dtype()), loss = -log_prob_at_label;
  if (w.id()) loss = loss * w;
  std::string how = reduction_of(n.attrs());
  if (how == "none") return loss;
  return how == "sum" ? total(loss) : total(loss) / p.divisor(w, loss.dtype());
}

std::vector<ValueId> nll(Builder& b, const View& n) {
  Places p(b, n);
  return {class_loss(n, p, p.at_label(Expr(b, n.operand(0))))};
}

Expr log_probabilities(Builder& b, const View& n) {
  return {b, b.add_op("LogSoftmax", {n.operand(0)}, {{"axis", std::int64_t{1}}})};
}

/// The loss reads the scores of the labels alone, so that log-probabilities nobody asks for are never stored. They are
/// spelled as LogSoftmax is taken apart, which the gradient does.
std::vector<ValueId> cross_entropy(Builder& b, const View& n) {
  Places p(b, n);
  Expr x(b, n.operand(0));
  Dims line = x.type().shape;
  line[1] = 1;
  Expr most = x.with(b.add_op("reduce_max", {x.id()}, {{"axes", Ints{1}}, {"any_nan", true}}));
  Expr top = call("StopGradient", x.with(b.reshape(most, std::move(line)))), d = x - top;
  Expr log_sum = log(reduce("reduce_sum", exp(d), {1}, true));
  auto place = [&](Expr v) { return v.with(b.reshape(v, p.labels.type().shape)); };
  return {class_loss(n, p, p.at_label(x) - place(top) - place(log_sum)), d - log_sum};
}

void cross_entropy_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Type scores = n.in(0);
  Expr log_prob = n.node().result_count > 1 ? Expr(b, n.result(1)) : log_probabilities(b, n);
  if (ct.size() > 1 && ct[1]) {
    Expr g(b, ct[1]);
    grads[0] = g - exp(log_prob) * reduce("reduce_sum", g, {1}, true);
  }
  if (!ct[0]) return;
  Places p(b, n);
  std::string how = reduction_of(n.attrs());
  Expr w = p.weights(scores.dtype), g(b, ct[0]);
  if (how == "mean") g = g / p.divisor(w, scores.dtype);
  // At each place: (softmax - one-hot) times the place's weight and cotangent.
  Expr place = w.id() ? g * w : g.with(b.broadcast_to(g, p.labels.type().shape));
  Expr d = (exp(log_prob) - p.mask(scores).to(scores.dtype)) * p.over_classes(place);
  grads[0] = grads[0] ? b.add(grads[0], d) : d.id();
  if (!n.has(2)) return;
  Expr slope = -p.at_label(log_prob);
  if (how == "mean") slope = slope - Expr(b, n.result(0));
  slope = slope * g;
  if (p.has_ignored) slope = select(p.kept, slope, 0);
  Ints others{0};
  for (std::int64_t d2 = 2; d2 < scores.rank(); ++d2) others.push_back(d2);
  grads[2] = reduce("reduce_sum", select(p.mask(scores), p.over_classes(slope), 0), others);
}

// ---- BinaryCrossEntropyWithLogits -------------------------------------------------------------------------

Types infer_bce(const InferCtx& c) {
  AG_TRY(Dims shape, broadcast_operands(c));
  if (shape != c.in(0).shape || shape != c.in(1).shape)
    return c.error(
        Code::AG2208,
        fmt::format("`{}` needs scores and targets of one shape: {} and {}", c.op().onnx, c.in(0).str(), c.in(1).str()),
        {}, {0, 1});
  return std::vector<Type>{{c.in(0).dtype, reduction_of(c.attrs()) == "none" ? shape : Dims{}}};
}

std::vector<ValueId> bce(Builder& b, const View& n) {
  Expr x(b, n.operand(0)), y(b, n.operand(1)), loss = call("Softplus", x) - x * y;
  std::string how = reduction_of(n.attrs());
  if (how == "none") return {loss};
  return {how == "sum" ? total(loss) : mean(loss, all_axes(loss.type()))};
}

void bce_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Expr x(b, n.operand(0)), y(b, n.operand(1)), g(b, ct[0]);
  if (reduction_of(n.attrs()) == "mean") g = g / size_value(b, x.type().elems(), x.dtype());
  grads[0] = (call("sigmoid", x) - y) * g;
  grads[1] = -x * g;
}

// ---- Samples ----------------------------------------------------------------------------------------------

OpSample::Operand labels(std::string_view type, const Ints& values) {
  Type t = sample_type(type);
  return {t, make_literal(Array::of<std::int64_t>(t.dtype, *static_shape(t.shape), values))};
}

std::vector<OpSample> class_samples() {
  OpSample::Operand l = labels("i64[4]", {0, 2, 1, 2}), scores = sample_operand("f64[4,3]"),
                    weight = sample_operand("f64[3]", 0.5, 2);
  Attrs ignore{{"ignore_index", std::int64_t{1}}},
      none{{"reduction", std::string("none")}, {"ignore_index", std::int64_t{-1}}};
  return {OpSample{{scores, l}, {}}, OpSample{{scores, l, weight}, ignore},
          OpSample{{scores, l}, {{"reduction", std::string("sum")}}},
          OpSample{{sample_operand("f64[2,3,2]"), labels("i32[2,2]", {0, -1, 2, 1}), weight}, none}};
}

}  // namespace

std::vector<OpInfo> loss_ops() {
  DTypeSet label_types = set_of(DType::i64) | set_of(DType::i32);
  OperandSpec weights{.name = "weights", .dtypes = floats, .optional = true};
  AttrSpec ignore{"ignore_index", AttrKind::integer, false, "a label that does not count"};
  return {
      composite({.name = "SoftmaxCrossEntropyLoss",
                 .since = 12,
                 .summary = "-log softmax of the label's score",
                 .operands = {{.name = "scores", .dtypes = floats},
                              {.name = "labels", .type_var = "I", .dtypes = label_types},
                              weights},
                 .results = {{"output"}, {"log_prob", "T", true}},
                 .attrs = {ignore, reduction_attr()},
                 .infer = infer_classes,
                 .decompose = cross_entropy,
                 .vjp = cross_entropy_vjp,
                 .samples = class_samples}),
      composite({.name = "NegativeLogLikelihoodLoss",
                 .since = 12,
                 .summary = "minus the label's log-probability",
                 .operands = {{.name = "input", .dtypes = floats},
                              {.name = "target", .type_var = "I", .dtypes = label_types},
                              weights},
                 .results = {{"loss"}},
                 .attrs = {ignore, reduction_attr()},
                 .infer = infer_classes,
                 .decompose = nll,
                 .samples = class_samples}),
      composite({.name = "BinaryCrossEntropyWithLogits",
                 .domain = "ag",
                 .summary = "softplus(x) - x y: cross entropy of sigmoid(x) and y, without overflow",
                 .operands = {{.name = "x", .dtypes = floats}, {.name = "y", .dtypes = floats}},
                 .results = {{"loss"}},
                 .attrs = {reduction_attr()},
                 .infer = infer_bce,
                 .decompose = bce,
                 .vjp = bce_vjp,
                 .samples =
                     [] {
                       auto s = [](Attrs a) {
                         return OpSample{{sample_operand("f64[3,2]", -4, 4), sample_operand("f64[3,2]", 0, 1)},
                                         std::move(a)};
                       };
                       return std::vector<OpSample>{s({}), s({{"reduction", std::string("sum")}}),
                                                    s({{"reduction", std::string("none")}})};
                     }}),
  };
}

}  // namespace ag

// The rules. Exact ones keep every bit (the payload and sign of NaN aside): x*0, x-x and x+0 are not among them for
// floats, because of NaN, infinities and -0. tests/passes runs each on random and special values.
#include "passes/rewrite/pattern.hpp"

namespace ag::passes {
namespace {

using Ints = std::vector<std::int64_t>;

Pattern wildcard(int i) { return {.kind = Pattern::Kind::wildcard, .index = i, .op = {}, .operands = {}}; }
Pattern constant(double v) { return {.kind = Pattern::Kind::constant, .value = v, .op = {}, .operands = {}}; }
template <class... P>
Pattern op(std::string name, P... operands) {
  return {.kind = Pattern::Kind::op, .op = std::move(name), .operands = {operands...}};
}

RewriteRule rule(std::string_view name, Exactness e, DTypeSet types, Pattern from, Pattern to) {
  return {.name = name, .exactness = e, .dtypes = types, .from = std::move(from), .to = std::move(to)};
}
RewriteRule function(std::string_view name, ValueId (*apply)(GraphBuilder&, const Candidate&),
                     std::string op_name = {}) {
  RewriteRule r{.name = name, .exactness = Exactness::exact, .from = op(std::move(op_name)), .to = {}};
  r.apply = apply;
  return r;
}

const Node* producer(GraphBuilder& b, ValueId v, std::string_view name) {
  const Node& n = b.graph().def(v);
  return n.op->name == name ? &n : nullptr;
}

ValueId unchanged(GraphBuilder& b, const Candidate& n) {
  return b.type(n.operands[0]) == n.type ? n.operands[0] : ValueId{};
}

ValueId merge_transposes(GraphBuilder& b, const Candidate& n) {
  Ints perm = n.attrs.get_or<Ints>("perm", {});
  if (perm.size() != n.type.shape.size()) return {};
  bool identity = true;
  for (std::size_t i = 0; i < perm.size(); ++i) identity = identity && perm[i] == static_cast<std::int64_t>(i);
  if (identity) return n.operands[0];
  const Node* inner = producer(b, n.operands[0], "transpose");
  if (!inner) return {};
  Ints first = inner->attrs.get_or<Ints>("perm", {}), both;
  if (first.size() != perm.size()) return {};
  for (std::int64_t p : perm) both.push_back(first[static_cast<std::size_t>(p)]);
  return b.transpose(ValueId(inner->operands[0]), both);
}

ValueId merge_reshapes(GraphBuilder& b, const Candidate& n) {
  if (ValueId v = unchanged(b, n)) return v;
  const Node* inner = producer(b, n.operands[0], "reshape");
  return inner ? b.reshape(ValueId(inner->operands[0]), n.type.shape) : ValueId{};
}

/// Elementwise ops broadcast by themselves: a broadcast scalar beside a full operand is the scalar.
ValueId drop_scalar_broadcast(GraphBuilder& b, const Candidate& n) {
  if (n.op.lower_class != LowerClass::map || n.operands.size() != 2) return {};
  for (std::size_t i = 0; i < 2; ++i) {
    const Node* inner = producer(b, n.operands[i], "broadcast_in_dim");
    if (!inner || b.type(inner->operands[0]).rank() != 0 || b.type(n.operands[1 - i]).shape != n.type.shape) continue;
    std::vector<ValueId> operands = n.operands;
    operands[i] = inner->operands[0];
    return b.add_op(n.op.name, operands, n.attrs);
  }
  return {};
}

/// Conversions to the same type, and widening followed by the way back.
ValueId drop_conversion(GraphBuilder& b, const Candidate& n) {
  if (ValueId v = unchanged(b, n)) return v;
  const Node* inner = producer(b, n.operands[0], "convert");
  if (!inner) return {};
  DType from = b.type(inner->operands[0]).dtype, middle = b.type(n.operands[0]).dtype;
  bool half = from == DType::f16 || from == DType::bf16;
  bool widened = middle == DType::f64 ? is_float(from) : middle == DType::f32 && half;
  return widened && from == n.type.dtype ? ValueId(inner->operands[0]) : ValueId{};
}

ValueId reduce_nothing(GraphBuilder& b, const Candidate& n) {
  bool none = n.op.lower_class == LowerClass::reduce && n.attrs.get_or<Ints>("axes", {}).empty();
  return none ? unchanged(b, n) : ValueId{};
}

/// True of what is a float made of an unsigned integer or truth, perhaps times something positive: never a NaN.
bool never_negative(GraphBuilder& b, ValueId v) {
  for (const Node* n = producer(b, v, "mul"); n; n = producer(b, v, "mul")) {
    const std::size_t constant = b.splat_value(n->operands[1]) ? 1 : 0;
    if (b.splat_value(n->operands[constant]).value_or(0) <= 0) return false;
    v = n->operands[1 - constant];
  }
  const Node* from = producer(b, v, "convert");
  if (!from) return false;
  const DType t = b.type(from->operands[0]).dtype;
  return is_float(b.type(v).dtype) && !is_float(t) && !is_signed_int(t);
}

/// A dropout of ratio 0 keeps where random bits as a number are at least 0.
ValueId at_least_zero(GraphBuilder& b, const Candidate& n) {
  if (b.splat_value(n.operands[1]) != 0.0 || !never_negative(b, n.operands[0])) return {};
  return b.ones(n.type);
}

ValueId select_known(GraphBuilder& b, const Candidate& n) {
  const auto known = b.splat_value(n.operands[0]);
  if (!known) return {};
  const ValueId v = n.operands[*known != 0 ? 1 : 2];
  return b.type(v).shape == n.type.shape ? v : b.broadcast_to(v, n.type.shape);
}

std::vector<RewriteRule> make_rules() {
  constexpr auto exact = Exactness::exact, algorithm = Exactness::algorithm, fast = Exactness::fast;
  const Pattern x = wildcard(0), y = wildcard(1), c = wildcard(2);
  const Pattern zero = constant(0), minus_zero = constant(-0.0), one = constant(1), minus_one = constant(-1),
                two = constant(2);
  return {
      rule("mul-one", exact, numeric, op("mul", x, one), x),
      rule("div-one", exact, numeric, op("div", x, one), x),
      rule("sub-zero", exact, numeric, op("sub", x, zero), x),
      rule("add-minus-zero", exact, floats, op("add", x, minus_zero), x),
      rule("add-zero-int", exact, ints, op("add", x, zero), x),
      rule("mul-zero-int", exact, ints, op("mul", x, zero), zero),
      rule("sub-self-int", exact, ints, op("sub", x, x), zero),
      rule("mul-minus-one", exact, signed_numeric, op("mul", x, minus_one), op("neg", x)),
      rule("neg-neg", exact, signed_numeric, op("neg", op("neg", x)), x),
      rule("add-neg", exact, signed_numeric, op("add", x, op("neg", y)), op("sub", x, y)),
      rule("sub-neg", exact, signed_numeric, op("sub", x, op("neg", y)), op("add", x, y)),
      rule("neg-times-neg", exact, signed_numeric, op("mul", op("neg", x), op("neg", y)), op("mul", x, y)),
      rule("max-self", exact, numeric, op("max", x, x), x),
      rule("min-self", exact, numeric, op("min", x, x), x),
      rule("not-not", exact, bools, op("not", op("not", x)), x),
      rule("and-self", exact, bools, op("and", x, x), x),
      rule("or-self", exact, bools, op("or", x, x), x),
      rule("select-same", exact, any_dtype, op("select", c, x, x), x),
      rule("abs-neg", exact, floats, op("abs", op("neg", x)), op("abs", x)),
      rule("abs-abs", exact, floats, op("abs", op("abs", x)), op("abs", x)),
      rule("pow-one", exact, floats, op("pow", x, one), x),
      rule("pow-two", algorithm, floats, op("pow", x, two), op("mul", x, x)),
      rule("exp-log", fast, floats, op("exp", op("log", x)), x),
      rule("log-exp", fast, floats, op("log", op("exp", x)), x),
      rule("div-by-sqrt", fast, floats, op("div", x, op("sqrt", y)), op("mul", x, op("rsqrt", y))),
      function("merge-transposes", merge_transposes, "transpose"),
      function("merge-reshapes", merge_reshapes, "reshape"),
      function("drop-broadcast", unchanged, "broadcast_in_dim"),
      function("drop-conversion", drop_conversion, "convert"),
      function("drop-scalar-broadcast", drop_scalar_broadcast),
      function("reduce-nothing", reduce_nothing),
      function("at-least-zero", at_least_zero, "ge"),
      function("select-known", select_known, "select"),
  };
}

}  // namespace

const std::vector<RewriteRule>& rewrite_rules() {
  static const std::vector<RewriteRule> rules = [] {
    std::vector<RewriteRule> all = make_rules();
    for (RewriteRule& r : movement_rules()) all.push_back(std::move(r));
    for (RewriteRule& r : convolution_rules()) all.push_back(std::move(r));
    return all;
  }();
  return rules;
}

}  // namespace ag::passes

// attend: softmax(scale q k^T + bias, masked) v, and its gradient. Both are composites that a CPU has kernels for
// (passes/lower_attention); elsewhere, and for derivatives of higher order, they are taken apart.
#include "ir/ops/attend.hpp"

#include <limits>

#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

using enum AttendOperand::Name;
constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

/// Where the optional operands of the op stand.
std::size_t bias_at(const OpInfo& op) { return op.results.size() > 1 ? 4 : 3; }
std::size_t mask_at(const OpInfo& op) { return bias_at(op) + 1; }

bool differ(const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; }

Ints perm_of(const Attrs& a, std::string_view name, std::size_t rank) {
  Ints perm = attr_ints(a, name);
  return perm.empty() ? iota_ints(static_cast<std::int64_t>(rank)) : perm;
}

Result<Dims> permuted(const InferCtx& c, std::string_view name, const Dims& shape) {
  Ints perm = perm_of(c.attrs(), name, shape.size()), sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  if (sorted != iota_ints(static_cast<std::int64_t>(shape.size())))
    return c.error(Code::AG2206, fmt::format("`{}`: {} is no permutation of {} axes", op_title(c), name, shape.size()));
  Dims out;
  for (std::int64_t p : perm) out.push_back(shape[static_cast<std::size_t>(p)]);
  return out;
}

Dims leading(const Type& t) { return {t.shape.begin(), t.shape.end() - 2}; }

/// The batch axes of the result.
Result<Dims> check_shapes(const InferCtx& c) {
  const Type &q = c.in(query), &k = c.in(key), &v = c.in(value);
  if (q.rank() < 2 || k.rank() != q.rank() || v.rank() != q.rank())
    return c.error(Code::AG2204,
                   fmt::format("`{}` needs [batch..., length, size] of one rank: {}, {}, {}", op_title(c), q.str(),
                               k.str(), v.str()),
                   {}, {query, key, value});
  std::size_t r = q.shape.size();
  auto batch = broadcast_shapes(leading(q), leading(k));
  if (batch) batch = broadcast_shapes(*batch, leading(v));
  if (!batch || differ(q.shape[r - 1], k.shape[r - 1]) || differ(k.shape[r - 2], v.shape[r - 2]))
    return c.error(Code::AG2208,
                   fmt::format("`{}`: queries {}, keys {} and values {} do not fit together", op_title(c), q.str(),
                               k.str(), v.str()),
                   {}, {query, key, value});
  Dims scores = *batch;
  scores.insert(scores.end(), {q.shape[r - 2], k.shape[r - 2]});
  for (std::size_t i : {bias_at(c.op()), mask_at(c.op())}) {
    if (!c.has(i)) continue;
    auto all = broadcast_shapes(c.in(i).shape, scores);
    if (!all || *all != scores)
      return c.error(Code::AG2201,
                     fmt::format("`{}`: {} does not broadcast to {}", op_title(c), c.in(i).str(), shape_str(scores)),
                     {}, {i});
  }
  return *batch;
}

Dims result_shape(const Dims& batch, const Type& q, const Type& v) {
  Dims shape = batch;
  shape.insert(shape.end(), {q.shape[q.shape.size() - 2], v.shape.back()});
  return shape;
}

Types infer_attend(const InferCtx& c) {
  AG_TRY(Dims batch, check_shapes(c));
  AG_TRY(Dims shape, permuted(c, "perm", result_shape(batch, c.in(query), c.in(value))));
  return std::vector<Type>{{c.in(query).dtype, shape}};
}

Types infer_attend_grad(const InferCtx& c) {
  AG_TRY(Dims batch, check_shapes(c));
  Dims want = result_shape(batch, c.in(query), c.in(value));
  auto all = broadcast_shapes(c.in(cotangent).shape, want);
  if (!all || *all != want || c.in(cotangent).rank() != static_cast<int>(want.size()))
    return c.error(Code::AG2208, fmt::format("`attend_grad`: the cotangent is {}, the result {}", c.in(cotangent).str(),
                                             shape_str(want)));
  std::vector<Type> out;
  for (auto [i, name] : {std::pair{query, "perm_q"}, {key, "perm_k"}, {value, "perm_v"}}) {
    AG_TRY(Dims shape, permuted(c, name, c.in(i).shape));
    out.push_back({c.in(i).dtype, shape});
  }
  if (c.has(bias_at(c.op()))) out.push_back(c.in(bias_at(c.op())));
  return out;
}

// ---- Decomposition ----------------------------------------------------------------------------------------------

struct Parts {
  Expr q, k, v;       ///< of the result's batch
  Expr p;             ///< probabilities
  Expr seen, empty;   ///< invalid if all is seen
  Ints axes;          ///< of the batch
};

Expr to_batch(Expr x, const Dims& batch) {
  Dims shape = batch, old = x.type().shape;
  shape.insert(shape.end(), old.end() - 2, old.end());
  return x.with(x.builder().broadcast_to(x, shape));
}

Parts parts_of(Builder& b, const View& n) {
  AttendDesc desc = describe_attend(n);
  Parts s{to_batch({b, n.operand(query)}, desc.batch),
          to_batch({b, n.operand(key)}, desc.batch),
          to_batch({b, n.operand(value)}, desc.batch),
          {},
          {},
          {},
          {}};
  auto rank = static_cast<std::int64_t>(desc.batch.size());
  s.axes = iota_ints(rank);
  Expr x = s.q.with(b.dot_general(s.q, s.k, {rank + 1}, {rank + 1}, s.axes, s.axes));
  if (desc.scale != 1) x = x * desc.scale;
  if (desc.bias) x = x + Expr(b, n.operand(*desc.bias));
  auto hide = [&](Expr seen, double instead) {
    x = select(seen, x, x.lit(instead));
    s.seen = s.seen.id() ? both(s.seen, seen) : seen;
  };
  if (desc.mask) hide({b, n.operand(*desc.mask)}, desc.fill);
  if (desc.causal) {
    Type places{DType::i64, {desc.q, desc.k}};
    Expr row(b, b.iota(places, 0)), column(b, b.iota(places, 1));
    hide(column <= row + size_value(b, *desc.causal, DType::i64), minus_infinity);
  }
  if (desc.empty_zero) {
    s.empty = reduce("reduce_max", x, {rank + 1}, true) == minus_infinity;
    x = select(s.empty, 0, x);
  }
  s.p = x.with(b.add_op("Softmax", {x.id()}, {{"axis", std::int64_t{-1}}}));
  if (desc.empty_zero) s.p = select(s.empty, 0, s.p);
  return s;
}

ValueId permute(Builder& b, ValueId v, const View& n, std::string_view name) {
  return b.transpose(v, perm_of(n.attrs(), name, b.type(v).shape.size()));
}

std::vector<ValueId> decompose_attend(Builder& b, const View& n) {
  Parts s = parts_of(b, n);
  auto rank = static_cast<std::int64_t>(s.axes.size());
  return {permute(b, b.dot_general(s.p, s.v, {rank + 1}, {rank}, s.axes, s.axes), n, "perm")};
}

std::vector<ValueId> decompose_attend_grad(Builder& b, const View& n) {
  AttendDesc desc = describe_attend(n);
  Parts s = parts_of(b, n);
  auto rank = static_cast<std::int64_t>(s.axes.size());
  Expr ct = to_batch({b, n.operand(cotangent)}, desc.batch);
  Expr dp = ct.with(b.dot_general(ct, s.v, {rank + 1}, {rank + 1}, s.axes, s.axes));
  Expr dx = s.p * (dp - reduce("reduce_sum", s.p * dp, {rank + 1}, true));
  if (s.seen.id()) dx = select(s.seen, dx, 0);
  Expr scaled = desc.scale != 1 ? dx * desc.scale : dx;
  auto sum_to = [&](ValueId v, std::size_t i) { return b.sum_to(v, Dims(n.in(i).shape)); };
  ValueId dq = b.dot_general(scaled, s.k, {rank + 1}, {rank}, s.axes, s.axes),
          dk = b.dot_general(scaled, s.q, {rank}, {rank}, s.axes, s.axes),
          dv = b.dot_general(s.p, ct, {rank}, {rank}, s.axes, s.axes);
  std::vector<ValueId> out{permute(b, sum_to(dq, query), n, "perm_q"), permute(b, sum_to(dk, key), n, "perm_k"),
                           permute(b, sum_to(dv, value), n, "perm_v")};
  if (desc.bias) out.push_back(sum_to(dx, *desc.bias));
  return out;
}

void attend_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Attrs attrs = n.attrs();
  Ints perm = perm_of(attrs, "perm", n.out().shape.size()), inverse(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i)
    inverse[static_cast<std::size_t>(perm[i])] = static_cast<std::int64_t>(i);
  attrs.erase("perm");
  std::vector<ValueId> operands = n.node().operands;
  operands.insert(operands.begin() + cotangent, b.transpose(ct[0], inverse));
  std::vector<ValueId> d = b.add_multi("attend_grad", operands, attrs);
  for (std::size_t i : {query, key, value}) grads[i] = d[i];
  if (d.size() > 3) grads[3] = d[3];
}

std::vector<OpSample> attend_samples(bool gradient) {
  auto with = [&](std::vector<std::string> types, const char* ct, Attrs attrs = {}) {
    if (gradient) types.insert(types.begin() + cotangent, ct);
    OpSample s;
    for (const std::string& t : types) s.operands.push_back(sample_operand(t));
    s.attrs = std::move(attrs);
    return s;
  };
  return {with({"f64[2,3,4]", "f64[2,5,4]", "f64[2,5,2]"}, "f64[2,3,2]", {{"scale", 0.5}}),
          with({"f64[19,8]", "f64[19,8]", "f64[19,3]"}, "f64[19,3]", {{"causal", Dims{0}}, {"scale", 0.35}}),
          with({"f64[2,1,9,4]", "f64[2,1,11,4]", "f64[2,1,11,4]", "f64[9,11]"}, "f64[2,1,9,4]"),
          with({"f64[2,3,2]", "f64[1,3,2]", "f64[1,3,2]", "f64[1,3]", "bool[3,3]"}, "f64[2,3,2]",
               {{"fill", -3.0}, {"empty_zero", std::int64_t{1}}}),
          with({"f32[2,20,4]", "f32[2,35,4]", "f32[2,35,6]", "f32[2,1,35]"}, "f32[2,20,6]", {{"causal", Dims{15}}})};
}

OpInfo attend_op(std::string_view name, std::string_view onnx, bool gradient) {
  OpInfo o{.name = name, .onnx = onnx, .domain = "ag", .tier = Tier::composite, .lower_class = LowerClass::sort};
  o.operands = {{.name = "q", .dtypes = floats}, {.name = "k", .dtypes = floats}, {.name = "v", .dtypes = floats}};
  if (gradient) o.operands.push_back({.name = "cotangent", .dtypes = floats});
  o.operands.push_back({.name = "bias", .dtypes = floats, .optional = true});
  o.operands.push_back({.name = "mask", .type_var = "B", .dtypes = bools, .optional = true});
  o.attrs = {number_attr("scale", 1, "of the products of queries and keys"),
             number_attr("fill", minus_infinity, "the score where the mask is false"),
             {"causal", AttrKind::dims, false, "one size c: query i sees keys up to i + c"},
             int_attr("empty_zero", 0, "queries that see nothing give zeros instead of NaN")};
  return o;
}

}  // namespace

AttendDesc describe_attend(const NodeView& n) {
  AttendDesc s;
  const Dims &q = n.in(query).shape, &k = n.in(key).shape, &v = n.in(value).shape;
  s.batch = *broadcast_shapes(*broadcast_shapes(leading(n.in(query)), leading(n.in(key))), leading(n.in(value)));
  s.q = q[q.size() - 2], s.d = q.back(), s.k = k[k.size() - 2], s.dv = v.back();
  s.scale = attr_number(n.attrs(), "scale", 1);
  s.fill = attr_number(n.attrs(), "fill", minus_infinity);
  if (Dims causal = attr_dims(n.attrs(), "causal"); !causal.empty()) s.causal = causal[0];
  s.empty_zero = attr_int(n.attrs(), "empty_zero", 0) != 0;
  const OpInfo& op = *n.node().op;
  if (n.has(bias_at(op))) s.bias = bias_at(op);
  if (n.has(mask_at(op))) s.mask = mask_at(op);
  return s;
}

std::vector<OpInfo> attend_ops() {
  OpInfo forward = attend_op("attend", "Attend", false), gradient = attend_op("attend_grad", "AttendGrad", true);
  forward.summary = "softmax(scale q k^T + bias, masked) v over batches of heads";
  forward.attrs.push_back({"perm", AttrKind::ints, false, "order of the result's axes"});
  forward.infer = infer_attend;
  forward.decompose = decompose_attend;
  forward.vjp = attend_vjp;
  forward.samples = [] { return attend_samples(false); };
  gradient.summary = "gradients of attend's queries, keys, values and bias";
  gradient.results = {{"dq"}, {"dk"}, {"dv"}, {"dbias", "T", true}};
  for (const char* perm : {"perm_q", "perm_k", "perm_v"})
    gradient.attrs.push_back({perm, AttrKind::ints, false, "order of that gradient's axes"});
  gradient.infer = infer_attend_grad;
  gradient.decompose = decompose_attend_grad;
  gradient.samples = [] { return attend_samples(true); };
  return {forward, gradient};
}

}  // namespace ag

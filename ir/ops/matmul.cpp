// Products of matrices in ONNX's spelling.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

Dims batch_of(const Type& t) { return t.rank() <= 2 ? Dims{} : Dims(t.shape.begin(), t.shape.end() - 2); }
const Dim& from_end(const Type& t, std::size_t k) { return t.shape[t.shape.size() - k]; }

bool differ(const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; }

/// AG2203, with the transposition that would fit if there is one.
std::unexpected<Diags> inner_mismatch(const InferCtx& c, const Dim& k_left, const Dim& k_right) {
  const Type &a = c.in(0), &b = c.in(1);
  std::string left = operand_name(c, 0), right = operand_name(c, 1);
  auto e = c.error(Code::AG2203,
                   fmt::format("`{}` inner dimensions differ: {} has {} columns, {} has {} rows", c.op().onnx, left,
                               k_left.str(), right, k_right.str()),
                   fmt::format("{} times {}: K is {} on the left and {} on the right", shape_str(a.shape),
                               shape_str(b.shape), k_left.str(), k_right.str()),
                   {0, 1});
  Diags d = std::move(e).error();
  if (b.rank() >= 2 && !differ(k_left, from_end(b, 1))) {
    Type t = b;
    std::swap(t.shape[t.shape.size() - 1], t.shape[t.shape.size() - 2]);
    d[0].note(fmt::format("the transpose of {} is {} and would fit", right, shape_str(t.shape)));
  } else if (a.rank() >= 2 && !differ(from_end(a, 2), k_right)) {
    Type t = a;
    std::swap(t.shape[t.shape.size() - 1], t.shape[t.shape.size() - 2]);
    d[0].note(fmt::format("the transpose of {} is {} and would fit", left, shape_str(t.shape)));
  }
  return std::unexpected(std::move(d));
}

Types infer_matmul(const InferCtx& c) {
  const Type &a = c.in(0), &b = c.in(1);
  for (std::size_t i : {0u, 1u})
    if (c.in(i).rank() == 0)
      return c.error(Code::AG2204, fmt::format("`MatMul` of a scalar: {} is {}", operand_name(c, i), c.in(i).str()),
                     "use Mul to scale", {i});
  const Dim &k_left = from_end(a, 1), &k_right = b.rank() == 1 ? b.shape[0] : from_end(b, 2);
  if (differ(k_left, k_right)) return inner_mismatch(c, k_left, k_right);
  auto batch = broadcast_shapes(batch_of(a), batch_of(b));
  if (!batch)
    return c.error(Code::AG2201,
                   fmt::format("`MatMul` cannot broadcast the batch axes {} with {}", shape_str(batch_of(a)),
                               shape_str(batch_of(b))),
                   "all axes but the last two broadcast", {0, 1});
  Type t{a.dtype, std::move(*batch)};
  if (a.rank() > 1) t.shape.push_back(from_end(a, 2));
  if (b.rank() > 1) t.shape.push_back(from_end(b, 1));
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

/// Repeats the batch axes of `v` to `batch`.
ValueId with_batch(Builder& b, ValueId v, const Dims& batch) {
  Type t = b.type(v);
  Dims shape = batch;
  shape.push_back(from_end(t, 2));
  shape.push_back(from_end(t, 1));
  return b.broadcast_to(v, shape);
}

std::vector<ValueId> matmul(Builder& b, const View& n) {
  ValueId x = n.operand(0), y = n.operand(1);
  std::int64_t p = n.in(0).rank(), q = n.in(1).rank();
  Dims out = n.out().shape;
  std::int64_t row = q == 1 ? 0 : q - 2;
  if (q <= 2) return {b.dot_general(x, y, {p - 1}, {row})};
  if (p <= 2) {  // [M, batch, N]: bring the batch to the front
    ValueId r = b.dot_general(x, y, {p - 1}, {row});
    if (p == 1) return {r};
    Ints perm = iota_ints(q - 2, 1);
    perm.push_back(0);
    perm.push_back(q - 1);
    return {b.transpose(r, perm)};
  }
  Dims batch(out.begin(), out.end() - 2);
  x = with_batch(b, x, batch);
  y = with_batch(b, y, batch);
  std::int64_t k = static_cast<std::int64_t>(batch.size());
  return {b.dot_general(x, y, {k + 1}, {k}, iota_ints(k), iota_ints(k))};
}

struct GemmShape {
  bool trans_a, trans_b;
  explicit GemmShape(const Attrs& a) : trans_a(attr_int(a, "transA", 0) != 0), trans_b(attr_int(a, "transB", 0) != 0) {}
};

Types infer_gemm(const InferCtx& c) {
  GemmShape g(c.attrs());
  for (std::size_t i : {0u, 1u})
    if (c.in(i).rank() != 2)
      return c.error(Code::AG2204, fmt::format("`Gemm` needs matrices: {} is {}", operand_name(c, i), c.in(i).str()),
                     "rank 2 is wanted", {i});
  const Dim &m = c.in(0).shape[g.trans_a], &k_left = c.in(0).shape[!g.trans_a], &k_right = c.in(1).shape[g.trans_b],
            &n = c.in(1).shape[!g.trans_b];
  if (differ(k_left, k_right)) return inner_mismatch(c, k_left, k_right);
  Dims shape{m, n};
  if (c.has(2)) {
    auto all = broadcast_shapes(c.in(2).shape, shape);
    if (!all || *all != shape)
      return c.error(
          Code::AG2201,
          fmt::format("`Gemm`: {} must broadcast to the product's shape {}", c.in(2).str(), shape_str(shape)), {}, {2});
  }
  AG_TRY_(checked_shape(c, shape));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

std::vector<ValueId> gemm(Builder& b, const View& n) {
  GemmShape g(n.attrs());
  double alpha = attr_number(n.attrs(), "alpha", 1), beta = attr_number(n.attrs(), "beta", 1);
  Expr y(b, b.dot_general(n.operand(0), n.operand(1), {g.trans_a ? 0 : 1}, {g.trans_b ? 1 : 0}));
  if (alpha != 1) y = alpha * y;
  if (!n.has(2)) return {y};
  Expr c(b, n.operand(2));
  return {y + (beta == 1 ? c : beta * c)};
}

std::vector<OpSample> matmul_samples() {
  return {sample({"f64[3,4]", "f64[4,2]"}), sample({"f64[4]", "f64[4]"}),           sample({"f64[4]", "f64[4,2]"}),
          sample({"f64[3,4]", "f64[4]"}),   sample({"f64[2,3,4]", "f64[4,5]"}),     sample({"f64[3,4]", "f64[2,4,5]"}),
          sample({"f64[4]", "f64[2,4,5]"}), sample({"f64[2,1,3,4]", "f64[3,4,2]"}), sample({"f32[2,0]", "f32[0,3]"}),
          sample({"f16[3,4]", "f16[4,2]"})};
}

std::vector<OpSample> gemm_samples() {
  return {sample({"f64[3,4]", "f64[4,2]", "f64[2]"}),
          sample({"f64[4,3]", "f64[2,4]", "f64[3,1]"},
                 {{"transA", std::int64_t{1}}, {"transB", std::int64_t{1}}, {"alpha", 0.5}, {"beta", 2.0}}),
          sample({"f32[3,4]", "f32[4,2]"})};
}

}  // namespace

std::vector<OpInfo> matmul_ops() {
  return {
      {.name = "MatMul",
       .onnx = "MatMul",
       .tier = Tier::composite,
       .summary = "matrix product with numpy's batch broadcasting",
       .operands = {{.name = "A", .dtypes = numeric}, {.name = "B", .dtypes = numeric}},
       .infer = infer_matmul,
       .decompose = matmul,
       .samples = matmul_samples},
      {.name = "Gemm",
       .onnx = "Gemm",
       .since = 7,
       .tier = Tier::composite,
       .summary = "alpha A B + beta C",
       .operands = {{.name = "A", .dtypes = numeric},
                    {.name = "B", .dtypes = numeric},
                    {.name = "C", .dtypes = numeric, .optional = true}},
       .attrs = {number_attr("alpha", 1), number_attr("beta", 1), int_attr("transA", 0), int_attr("transB", 0)},
       .infer = infer_gemm,
       .decompose = gemm,
       .samples = gemm_samples},
  };
}

}  // namespace ag

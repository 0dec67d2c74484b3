// Linear algebra beyond products: LU factors with partial pivoting, the systems they solve, determinants.
#include "ir/ops/linalg.hpp"

#include <cmath>

#include "ir/ops/along.hpp"
#include "ir/ops/eval.hpp"

namespace ag {
using namespace ops;
namespace {

constexpr DTypeSet reals = set_of(DType::f64) | set_of(DType::f32);

Status check_square(const InferCtx& c, std::size_t i) {
  const Dims& s = c.in(i).shape;
  if (s.size() >= 2 && s[s.size() - 1] == s[s.size() - 2]) return {};
  return c.error(Code::AG2204,
                 fmt::format("`{}` needs square matrices: {} is {}", op_title(c), operand_name(c, i), c.in(i).str()),
                 {}, {i});
}

Dims outer(const Dims& shape) { return Dims(shape.begin(), shape.end() - 2); }

// ---- lu ---------------------------------------------------------------------------------------------------

Types infer_lu(const InferCtx& c) {
  AG_TRY_(check_square(c, 0));
  const Type& a = c.in(0);
  Dims rows = outer(a.shape), batch = rows;
  rows.push_back(a.shape.back());
  return std::vector<Type>{a, {DType::i64, rows}, {a.dtype, batch}};
}

double rounded(DType t, double v) { return t == DType::f64 ? v : static_cast<double>(static_cast<float>(v)); }

/// Row by row as the kernel does it; the first of equal pivots is taken.
Result<std::vector<Array>> lu_eval(const EvalCtx& c) {
  const DType t = c.in[0].dtype();
  Array lu = c.in[0], rows(DType::i64, c.out_shapes[1]), sign(t, c.out_shapes[2]);
  const std::int64_t n = lu.shape().back();
  for (std::int64_t m = 0; m < sign.elems(); ++m) {
    auto at = [&](std::int64_t i, std::int64_t j) { return (m * n + i) * n + j; };
    double parity = 1;
    for (std::int64_t i = 0; i < n; ++i) rows.set_int(m * n + i, i);
    for (std::int64_t k = 0; k < n; ++k) {
      std::int64_t p = k;
      double best = std::fabs(lu.get_double(at(k, k)));
      for (std::int64_t i = k + 1; i < n; ++i)
        if (double v = std::fabs(lu.get_double(at(i, k))); v > best) best = v, p = i;
      if (p != k) {
        parity = -parity;
        for (std::int64_t j = 0; j < n; ++j) {
          double x = lu.get_double(at(k, j));
          lu.set_double(at(k, j), lu.get_double(at(p, j)));
          lu.set_double(at(p, j), x);
        }
        std::int64_t r = rows.get_int(m * n + k);
        rows.set_int(m * n + k, rows.get_int(m * n + p));
        rows.set_int(m * n + p, r);
      }
      double pivot = lu.get_double(at(k, k));
      for (std::int64_t i = k + 1; i < n; ++i) {
        double f = pivot == 0 ? 0 : rounded(t, lu.get_double(at(i, k)) / pivot);
        lu.set_double(at(i, k), f);
        for (std::int64_t j = k + 1; j < n; ++j)
          lu.set_double(at(i, j), lu.get_double(at(i, j)) - rounded(t, f * lu.get_double(at(k, j))));
      }
    }
    sign.set_double(m, parity);
  }
  return std::vector<Array>{lu, rows, sign};
}

// ---- lu_solve ---------------------------------------------------------------------------------------------

Types infer_lu_solve(const InferCtx& c) {
  AG_TRY_(check_square(c, 0));
  const Dims &a = c.in(0).shape, &p = c.in(1).shape, &b = c.in(2).shape;
  bool fits = b.size() == a.size() && p.size() + 1 == a.size() && outer(a) == outer(b) && b[b.size() - 2] == a.back() &&
              p == Dims(a.begin(), a.end() - 1);
  if (!fits)
    return c.error(Code::AG2208,
                   fmt::format("`lu_solve` needs right sides of as many rows: {}, {} and {}", c.in(0).str(),
                               c.in(1).str(), c.in(2).str()),
                   {}, {0, 1, 2});
  return std::vector<Type>{c.in(2)};
}

Result<std::vector<Array>> lu_solve_eval(const EvalCtx& c) {
  const Array &lu = c.in[0], &rows = c.in[1], &b = c.in[2];
  const DType t = lu.dtype();
  Array x(t, b.shape());
  const std::int64_t n = lu.shape().back(), m = b.shape().back();
  for (std::int64_t r = 0; n > 0 && m > 0 && r < b.elems() / (n * m); ++r)
    for (std::int64_t j = 0; j < m; ++j) {
      auto at = [&](std::int64_t i) { return (r * n + i) * m + j; };
      auto factor = [&](std::int64_t i, std::int64_t k) { return lu.get_double((r * n + i) * n + k); };
      for (std::int64_t i = 0; i < n; ++i) {
        std::int64_t from = rows.get_int(r * n + i);
        if (from < 0 || from >= n) return c.error(Code::AG5012, fmt::format("got {} as a row of {}", from, n));
        double s = b.get_double(at(from));
        for (std::int64_t k = 0; k < i; ++k) s = rounded(t, s - rounded(t, factor(i, k) * x.get_double(at(k))));
        x.set_double(at(i), s);
      }
      for (std::int64_t i = n; i-- > 0;) {
        double s = x.get_double(at(i));
        for (std::int64_t k = i + 1; k < n; ++k) s = rounded(t, s - rounded(t, factor(i, k) * x.get_double(at(k))));
        x.set_double(at(i), s / factor(i, i));
      }
    }
  return one(std::move(x));
}

// ---- linear_solve -----------------------------------------------------------------------------------------

Expr transposed(Expr a) {
  Ints perm = iota_ints(a.type().rank());
  std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
  return a.with(a.builder().transpose(a, perm));
}
/// Matrix products; all axes before are batches.
Expr matmul(Expr a, Expr b) {
  std::int64_t r = a.type().rank();
  Ints batch = iota_ints(r - 2);
  return a.with(a.builder().dot_general(a, b, {r - 1}, {r - 2}, batch, batch));
}
Expr solve(Expr a, Expr b) { return call("linear_solve", a, b); }

Types infer_solve(const InferCtx& c) {
  AG_TRY_(check_square(c, 0));
  const Dims &a = c.in(0).shape, &b = c.in(1).shape;
  if (b.size() != a.size() || outer(a) != outer(b) || b[b.size() - 2] != a.back())
    return c.error(
        Code::AG2208,
        fmt::format("`linear_solve` needs right sides of as many rows: {} and {}", c.in(0).str(), c.in(1).str()), {},
        {0, 1});
  return std::vector<Type>{c.in(1)};
}
std::vector<ValueId> solve_decompose(Builder& b, const View& n) {
  std::vector<ValueId> f = b.add_multi("lu", {n.operand(0)});
  return {b.add_op("lu_solve", {f[0], f[1], n.operand(1)})};
}
void solve_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Expr right = solve(transposed(Expr(b, n.operand(0))), Expr(b, ct[0]));
  grads[0] = -matmul(right, transposed(Expr(b, n.result())));
  grads[1] = right;
}
void solve_jvp(Builder& b, const View& n, Cotangents t, std::vector<ValueId>& out) {
  Expr a(b, n.operand(0)), x(b, n.result());
  Expr right = t[1] ? Expr(b, t[1]) : x.with(b.zeros(x.type()));
  if (t[0]) right = right - matmul(Expr(b, t[0]), x);
  out[0] = solve(a, right);
}

// ---- Det --------------------------------------------------------------------------------------------------

Types infer_det(const InferCtx& c) {
  AG_TRY_(check_square(c, 0));
  return std::vector<Type>{{c.in(0).dtype, outer(c.in(0).shape)}};
}

Expr unit_matrix(Expr like) {
  Type t = like.type();
  std::int64_t r = t.rank();
  return (places_along(like, r - 2) == places_along(like, r - 1)).to(t.dtype);
}

std::vector<ValueId> det(Builder& b, const View& n) {
  Expr a = Expr(b, n.operand(0));
  DType t = a.dtype();
  a = a.to(accumulator_dtype(t));
  std::int64_t r = a.type().rank();
  std::vector<ValueId> f = b.add_multi("lu", {a.id()});
  Expr diagonal = reduce("reduce_sum", select(unit_matrix(a) == 1.0, a.with(f[0]), 0), {r - 1});
  return {(reduce("reduce_prod", diagonal, {r - 2}) * a.with(f[2])).to(t)};
}

/// A scalar of each matrix, to meet its elements.
Expr spread(Builder& b, const View& n, ValueId v) {
  Dims shape = outer(n.in(0).shape);
  shape.insert(shape.end(), 2, Dim(1));
  return {b, b.reshape(v, shape)};
}
/// Jacobi's formula; a singular matrix has no gradient this way.
void det_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Expr a(b, n.operand(0));
  DType wide = accumulator_dtype(a.dtype());
  Expr inverse = solve(transposed(a.to(wide)), unit_matrix(a.to(wide)));
  grads[0] = spread(b, n, b.mul(ct[0], n.result())) * inverse.to(a.dtype());
}
void det_jvp(Builder& b, const View& n, Cotangents t, std::vector<ValueId>& out) {
  Expr a(b, n.operand(0));
  DType wide = accumulator_dtype(a.dtype());
  Expr x = solve(a.to(wide), Expr(b, t[0]).to(wide)) * unit_matrix(a.to(wide));
  std::int64_t r = a.type().rank();
  out[0] = reduce("reduce_sum", x, {r - 2, r - 1}).to(a.dtype()) * Expr(b, n.result());
}

}  // namespace

std::vector<OpInfo> linalg_ops() {
  OpInfo lu{.name = "lu",
            .lower_class = LowerClass::sort,
            .summary =
                "P A = L U with partial pivoting: L (unit diagonal) and U in one matrix, the rows of A in the "
                "order of P, and P's sign",
            .no_gradient = "gradients go through `linear_solve` and `Det`, which use it"};
  lu.operands = {{.name = "a", .dtypes = reals}};
  lu.results = {{"lu"}, {"rows", "I"}, {"sign"}};
  lu.infer = infer_lu;
  lu.eval = lu_eval;
  lu.batch = batch_in_front;
  lu.samples = [] {
    return std::vector<OpSample>{sample({"f64[4,4]"}),   sample({"f32[2,3,3]"}), sample({"f64[1,1]"}),
                                 sample({"f32[0,2,2]"}), sample({"f64[3,0,0]"}), sample({"f32[3,3]"}, {}, 0, 0)};
  };
  OpInfo lu_solve{.name = "lu_solve",
                  .lower_class = LowerClass::sort,
                  .summary = "X with A X = B from the factors of A",
                  .no_gradient = "gradients go through `linear_solve`, which uses it"};
  lu_solve.operands = {{.name = "lu", .dtypes = reals},
                       {.name = "rows", .type_var = "I", .dtypes = set_of(DType::i64)},
                       {.name = "b", .dtypes = reals}};
  lu_solve.infer = infer_lu_solve;
  lu_solve.eval = lu_solve_eval;
  lu_solve.batch = batch_in_front;
  lu_solve.samples = [] {
    OpSample s{{sample_operand("f64[3,3]", 0.5, 2), sample_ints({2, 0, 1}), sample_operand("f64[3,5]")}, {}};
    return std::vector<OpSample>{s};
  };
  OpInfo solve{.name = "linear_solve", .tier = Tier::composite, .summary = "X with A X = B"};
  solve.operands = {{.name = "a", .dtypes = reals}, {.name = "b", .dtypes = reals}};
  solve.infer = infer_solve;
  solve.decompose = solve_decompose;
  solve.vjp = solve_vjp;
  solve.jvp = solve_jvp;
  solve.samples = [] {
    return std::vector<OpSample>{sample({"f64[3,3]", "f64[3,2]"}), sample({"f32[2,4,4]", "f32[2,4,1]"}),
                                 sample({"f64[2,2,2]", "f64[2,2,3]"})};
  };
  OpInfo determinant = composite({.name = "Det", .since = 11, .summary = "determinants of the last two axes"});
  determinant.operands = {{.name = "X", .dtypes = floats}};
  determinant.infer = infer_det;
  determinant.decompose = det;
  determinant.vjp = det_vjp;
  determinant.jvp = det_jvp;
  determinant.samples = [] {
    return in_dtypes({sample({"f64[2,4,4]"}), sample({"f32[1,1]"}), sample({"f64[0,0]"})}, sample({"f64[3,3]"}),
                     floats);
  };
  return {lu, lu_solve, solve, determinant};
}

}  // namespace ag

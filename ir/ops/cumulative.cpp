// Scans along an axis: cumulative sum, product, extrema, and the first-order linear recurrence that their derivatives
// need. Elements are combined in order; f16 and bf16 are accumulated in f32.
#include <algorithm>
#include <cmath>

#include "ir/ops/along.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/lowering.hpp"

namespace ag {
using namespace ops;
namespace {

using loop::ReduceKind;

ReduceKind kind_of(std::string_view op) {
  if (op == "cumulative_prod") return ReduceKind::prod;
  if (op == "cumulative_max") return ReduceKind::max;
  if (op == "cumulative_min") return ReduceKind::min;
  return ReduceKind::sum;
}

struct ScanAttrs {
  std::int64_t axis;
  bool reverse, exclusive;
  explicit ScanAttrs(const View& n)
      : axis(attr_int(n.attrs(), "axis", 0)),
        reverse(n.attrs().get_or<bool>("reverse", false)),
        exclusive(n.attrs().get_or<bool>("exclusive", false)) {}
  /// The value of the step before (0 at the first), and of the step after.
  Expr before(Expr x) const { return shifted(x, axis, reverse ? -1 : 1); }
  Expr after(Expr x) const { return shifted(x, axis, reverse ? 1 : -1); }
};

Expr scan(std::string_view op, Expr x, std::int64_t axis, bool reverse, bool exclusive) {
  return x.with(x.builder().add_op(op, {x.id()}, {{"axis", axis}, {"reverse", reverse}, {"exclusive", exclusive}}));
}
Expr recurrence(Expr a, Expr b, std::int64_t axis, bool reverse) {
  return a.with(a.builder().add_op("linear_recurrence", {a.id(), b.id()}, {{"axis", axis}, {"reverse", reverse}}));
}

Types infer_scan(const InferCtx& c) {
  std::int64_t axis = attr_int(c.attrs(), "axis", 0);
  if (axis < 0 || axis >= c.in(0).rank())
    return c.error(Code::AG2202, fmt::format("`{}` of {} has no axis {}", op_title(c), c.in(0).str(), axis), {}, {0});
  if (c.operand_count() > 1 && c.in(0).shape != c.in(1).shape)
    return c.error(
        Code::AG2208,
        fmt::format("`{}` needs operands of one shape: {} and {}", op_title(c), c.in(0).str(), c.in(1).str()), {},
        {0, 1});
  return infer_same(c);
}

// ---- Reference values -------------------------------------------------------------------------------------

double combine(ReduceKind kind, double a, double x) {
  if (kind == ReduceKind::sum) return a + x;
  if (kind == ReduceKind::prod) return a * x;
  if (std::isnan(a) || std::isnan(x)) return std::nan("");
  if (a == x) return std::signbit(a) == (kind == ReduceKind::max) ? x : a;
  return kind == ReduceKind::max ? std::max(a, x) : std::min(a, x);
}

/// On bits of the type, wrapping.
std::uint64_t combine_bits(ReduceKind kind, DType t, std::uint64_t a, std::uint64_t x) {
  if (kind == ReduceKind::sum) return loop::constant_bits(t, static_cast<std::int64_t>(a + x));
  if (kind == ReduceKind::prod) return loop::constant_bits(t, static_cast<std::int64_t>(a * x));
  bool less = is_unsigned_int(t) ? x < a : loop::bits_to_int(t, x) < loop::bits_to_int(t, a);
  return (kind == ReduceKind::max) == less ? a : x;
}

double rounded(DType t, double v) { return t == DType::f64 ? v : static_cast<double>(static_cast<float>(v)); }

/// Every step rounds to the accumulator's type, so that these are the bits that kernels compute.
Result<std::vector<Array>> eval_scan(const EvalCtx& c) {
  CumulativeDesc desc = describe_cumulative(c.node);
  const Array& x = c.in.back();
  const DType t = x.dtype(), wide = accumulator_dtype(t);
  Array out(t, x.shape());
  const std::int64_t n = x.shape()[desc.axis], stride = row_major_strides(x.shape())[desc.axis];
  Shape rows = x.shape();
  rows[desc.axis] = n == 0 ? 0 : 1;
  Shape strides = row_major_strides(x.shape());
  for_each_index(rows, [&](const Shape& row, std::int64_t) {
    const std::int64_t base = flat_index(row, strides);
    std::uint64_t bits = loop::reduce_identity(desc.kind, wide);
    double acc = is_float(t) ? loop::bits_to_double(wide, bits) : 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t at = base + (desc.reverse ? n - 1 - i : i) * stride;
      if (is_float(t)) {
        double start = desc.kind == ReduceKind::sum ? acc + 0.0 : acc;  // the sum of nothing is 0, not -0
        if (desc.recurrence) acc = rounded(wide, c.in[0].get_double(at) * acc);
        acc = rounded(wide, combine(desc.kind, acc, x.get_double(at)));
        out.set_double(at, desc.exclusive ? start : acc);
      } else {
        std::uint64_t start = bits;
        if (desc.recurrence)
          bits = combine_bits(ReduceKind::prod, t, bits, loop::constant_bits(t, c.in[0].get_int(at)));
        bits = combine_bits(desc.kind, t, bits, loop::constant_bits(t, x.get_int(at)));
        out.set_int(at, loop::bits_to_int(t, desc.exclusive ? start : bits));
      }
    }
  });
  return one(std::move(out));
}

// ---- Derivatives ------------------------------------------------------------------------------------------

ValueId sum_transpose(Builder& b, const View& n, std::size_t, ValueId ct) {
  ScanAttrs a(n);
  return scan("cumulative_sum", Expr(b, ct), a.axis, !a.reverse, a.exclusive);
}

/// y_i = prod_{j <= i} x_j. dx_k = (prod_{j < k} x_j) s_k, where s_k = ct_k + x_{k+1} s_{k+1} runs backwards: no
/// division, so zeros are like any other number. The exclusive product is that of the step before.
void prod_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  ScanAttrs a(n);
  Expr x(b, n.operand(0)), g(b, ct[0]);
  Expr s = a.exclusive ? a.after(recurrence(x, g, a.axis, !a.reverse)) : recurrence(a.after(x), g, a.axis, !a.reverse);
  grads[0] = scan("cumulative_prod", x, a.axis, a.reverse, true) * s;
}
void prod_jvp(Builder& b, const View& n, Cotangents t, std::vector<ValueId>& out) {
  ScanAttrs a(n);
  Expr x(b, n.operand(0));
  Expr d = recurrence(x, Expr(b, t[0]) * scan("cumulative_prod", x, a.axis, a.reverse, true), a.axis, a.reverse);
  out[0] = a.exclusive ? a.before(d) : d;
}

/// The place of the element that each inclusive extremum is; of equal ones the last that the scan meets, as in torch.
Expr winners(Builder& b, const View& n, const ScanAttrs& a) {
  Expr x(b, n.operand(0));
  Expr y = scan(n.node().op->name, x, a.axis, a.reverse, false);
  Expr won = x == y;
  if (is_float(x.dtype())) won = either(won, call("is_nan", x));
  Expr place = places_along(x, a.axis);
  Expr none = a.reverse ? size_value(b, x.type().shape[static_cast<std::size_t>(a.axis)], DType::i64)
                        : place.with(b.scalar_int(DType::i64, -1));
  return scan(a.reverse ? "cumulative_min" : "cumulative_max", select(won, place, none), a.axis, a.reverse, false);
}
void extremum_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  ScanAttrs a(n);
  Expr g(b, ct[0]);
  if (a.exclusive) g = a.after(g);
  grads[0] = scatter_along(g.with(b.zeros(Type(n.in(0)))), winners(b, n, a), g, a.axis, "add");
}
void extremum_jvp(Builder& b, const View& n, Cotangents t, std::vector<ValueId>& out) {
  ScanAttrs a(n);
  Expr d = take_along(Expr(b, t[0]), winners(b, n, a), a.axis);
  out[0] = a.exclusive ? a.before(d) : d;
}

/// s_k = a_k s_{k-1} + b_k: the cotangent of b is such a recurrence backwards, r_k = ct_k + a_{k+1} r_{k+1}.
void recurrence_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  ScanAttrs a(n);
  Expr r = recurrence(a.after(Expr(b, n.operand(0))), Expr(b, ct[0]), a.axis, !a.reverse);
  grads[0] = r * a.before(Expr(b, n.result()));
  grads[1] = r;
}
void recurrence_jvp(Builder& b, const View& n, Cotangents t, std::vector<ValueId>& out) {
  ScanAttrs a(n);
  Expr x(b, n.operand(0));
  Expr driven = t[1] ? Expr(b, t[1]) : x.with(b.zeros(Type(n.in(0))));
  if (t[0]) driven = driven + Expr(b, t[0]) * a.before(Expr(b, n.result()));
  out[0] = recurrence(x, driven, a.axis, a.reverse);
}

/// One more axis in front; an operand without it is repeated.
std::vector<ValueId> batch_scan(Builder& b, const View& n, const BatchArgs& args) {
  Attrs attrs = n.attrs();
  attrs.set("axis", attr_int(attrs, "axis", 0) + 1);
  std::vector<ValueId> operands;
  for (std::size_t i = 0; i < args.operands.size(); ++i) operands.push_back(with_batch(b, args, i));
  return {b.add_op(n.node().op->name, operands, attrs)};
}

// ---- CumSum, CumProd --------------------------------------------------------------------------------------

Types infer_onnx_scan(const InferCtx& c) {
  if (!c.in(1).elems().is(1)) return c.error(Code::AG2204, fmt::format("`{}` takes one axis", op_title(c)), {}, {1});
  if (c.in(0).rank() == 0) AG_TRY_(checked_axis(c, 0, 0));
  if (auto axis = as_constants(c.ints(1))) AG_TRY_(checked_axis(c, (*axis)[0], c.in(0).rank()));
  return infer_same(c);
}

template <bool product>
std::vector<ValueId> onnx_scan(Builder& b, const View& n) {
  auto along = [&](std::int64_t axis) {
    return scan(product ? "cumulative_prod" : "cumulative_sum", Expr(b, n.operand(0)), axis,
                attr_int(n.attrs(), "reverse", 0) != 0, attr_int(n.attrs(), "exclusive", 0) != 0);
  };
  const int rank = n.in(0).rank();
  if (auto known_axis = known_constants(n, 1)) return {along(*normalize_axis((*known_axis)[0], rank))};
  return {by_data_axis(Expr(b, n.operand(1)), rank, along)};
}

// ---- The table --------------------------------------------------------------------------------------------

OpSample scan_sample(std::string_view type, std::int64_t axis, bool reverse, bool exclusive) {
  return sample({type}, {{"axis", axis}, {"reverse", reverse}, {"exclusive", exclusive}});
}

/// An exclusive extremum begins with an infinity, of which there are no differences: not in f64.
std::vector<OpSample> extremum_samples() {
  return in_dtypes({scan_sample("f64[4,3]", 0, true, false), scan_sample("f32[2,4,3]", 1, false, true),
                    scan_sample("i32[2,5]", 1, true, true), scan_sample("f16[0,2]", 0, false, true)},
                   scan_sample("f64[3,5]", 1, false, false), numeric);
}

std::vector<OpSample> scan_samples() {
  auto with = scan_sample;
  return in_dtypes({with("f64[4,3]", 0, true, false), with("f64[2,4,3]", 1, false, true), with("f64[5]", 0, true, true),
                    with("u8[4]", 0, true, false), with("f32[3,17]", 0, false, false), with("f32[0,2]", 0, false, true),
                    with("bf16[1]", 0, false, true)},
                   with("f64[3,5]", 1, false, false), numeric);
}

OpInfo cumulative(OpInfo o, std::size_t operands = 1) {
  o.lower_class = LowerClass::cumulative;
  if (operands == 1)
    o.operands = {{.name = "x", .dtypes = numeric}};
  else
    o.operands = {{.name = "a", .dtypes = numeric}, {.name = "b", .dtypes = numeric}};
  o.attrs = {{"axis", AttrKind::integer, true},
             {"reverse", AttrKind::boolean, false, "from the last element on", AttrValue(false)}};
  if (operands == 1)
    o.attrs.push_back({"exclusive", AttrKind::boolean, false, "without the element itself", AttrValue(false)});
  o.infer = infer_scan;
  o.eval = eval_scan;
  o.batch = batch_scan;
  if (!o.samples) o.samples = scan_samples;
  return o;
}

OpInfo onnx_scan_op(std::string_view name, int since, std::string_view summary,
                    std::vector<ValueId> (*decompose)(Builder&, const View&)) {
  OpInfo o = composite({.name = name, .since = since, .summary = summary});
  o.operands = {{.name = "x", .dtypes = numeric}, int_operand("axis")};
  o.attrs = {int_attr("exclusive", 0), int_attr("reverse", 0)};
  o.infer = infer_onnx_scan;
  o.decompose = decompose;
  o.samples = [] {
    OpSample plain = sample({"f64[2,5]"}),
             flags = sample({"f64[4]"}, {{"exclusive", std::int64_t{1}}, {"reverse", std::int64_t{1}}});
    plain.operands.push_back(sample_ints({-1}));
    flags.operands.push_back(sample_ints({0}));
    return in_dtypes({flags}, plain, numeric);
  };
  return o;
}

}  // namespace

CumulativeDesc describe_cumulative(const NodeView& n) {
  ScanAttrs a(n);
  return {kind_of(n.node().op->name), static_cast<std::size_t>(a.axis), a.reverse, a.exclusive, n.operand_count() == 2};
}

std::vector<OpInfo> cumulative_ops() {
  OpInfo linear = {.name = "linear_recurrence",
                   .summary = "s_k = a_k s_(k-1) + b_k along an axis, from s = 0",
                   .vjp = recurrence_vjp,
                   .jvp = recurrence_jvp,
                   .samples = [] {
                     auto with = [](std::string_view type, std::int64_t axis, bool reverse) {
                       return sample({type, type}, {{"axis", axis}, {"reverse", reverse}});
                     };
                     return in_dtypes({with("f64[4,2]", 0, true), with("f32[5]", 0, false), with("i32[2,3]", 1, true)},
                                      with("f64[3,4]", 1, false), numeric);
                   }};
  return {
      cumulative({.name = "cumulative_sum",
                  .summary = "running sums along an axis",
                  .linearity = Linearity::each,
                  .linear_in = 1,
                  .transpose = sum_transpose}),
      cumulative(
          {.name = "cumulative_prod", .summary = "running products along an axis", .vjp = prod_vjp, .jvp = prod_jvp}),
      cumulative({.name = "cumulative_max",
                  .summary = "running maxima along an axis; a NaN stays",
                  .vjp = extremum_vjp,
                  .jvp = extremum_jvp,
                  .smooth = false,
                  .samples = extremum_samples}),
      cumulative({.name = "cumulative_min",
                  .summary = "running minima along an axis; a NaN stays",
                  .vjp = extremum_vjp,
                  .jvp = extremum_jvp,
                  .smooth = false,
                  .samples = extremum_samples}),
      cumulative(linear, 2),
      onnx_scan_op("CumSum", 11, "running sums along an axis", onnx_scan<false>),
      onnx_scan_op("CumProd", 26, "running products along an axis", onnx_scan<true>)};
}

}  // namespace ag

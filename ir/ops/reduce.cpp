// Reductions over axes, which are dropped. A reduction of nothing is its identity (sum 0, prod 1, max -inf). A NaN
// makes a NaN. Reference sums are compensated, f16 and bf16 accumulate in a wider type, all round once.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "ir/ops/batching.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

Types infer_reduce(const InferCtx& c) {
  AG_TRY(Ints axes, checked_axes(c, attr_ints(c.attrs(), "axes"), c.in(0).rank()));
  Type t{c.in(0).dtype, {}};
  for (int d = 0; d < c.in(0).rank(); ++d)
    if (!contains(axes, d)) t.shape.push_back(c.in(0).shape[static_cast<std::size_t>(d)]);
  return std::vector<Type>{std::move(t)};
}

Ints axes_of(const View& n) {
  Ints axes = attr_ints(n.attrs(), "axes");
  for (std::int64_t& a : axes) a = *normalize_axis(a, n.in(0).rank());
  std::sort(axes.begin(), axes.end());
  return axes;
}

template <loop::ReduceKind kind>
ReduceDesc describe(const View& n) {
  ReduceDesc d{kind, {}};
  for (std::int64_t a : axes_of(n)) d.axes.push_back(static_cast<int>(a));
  return d;
}

/// A value of the result's shape, repeated along the reduced axes.
Expr spread(Builder& b, const View& n, ValueId v) {
  Ints axes = axes_of(n), dims;
  for (int d = 0; d < n.in(0).rank(); ++d)
    if (!contains(axes, d)) dims.push_back(d);
  return Expr(b, b.broadcast_in_dim(v, Dims(n.in(0).shape), dims));
}

/// dy/dx of max and min: ties share evenly.
Expr extremum_slope(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  Expr winner = x == spread(b, n, n.result());
  Expr count = reduce("reduce_sum", winner.to(x.dtype()), axes_of(n));
  return select(winner, spread(b, n, 1 / count), 0);
}

/// dy/dx of a product: the product of the others, right with any number of zeros.
Expr product_slope(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  Expr zero = x == 0.0;
  Expr zeros = spread(b, n, reduce("reduce_sum", zero.to(x.dtype()), axes_of(n)));
  Expr rest = spread(b, n, reduce("reduce_prod", select(zero, 1, x), axes_of(n)));
  return select(zero, select(zeros == 1.0, rest, 0), select(zeros == 0.0, rest / select(zero, 1, x), 0));
}

template <auto slope>
void slope_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  grads[0] = spread(b, n, ct[0]) * slope(b, n);
}
template <auto slope>
void slope_jvp(Builder& b, const View& n, Cotangents t, std::vector<ValueId>& out) {
  out[0] = reduce("reduce_sum", Expr(b, t[0]) * slope(b, n), axes_of(n));
}

// ---- Reference values -------------------------------------------------------------------------------------

/// Sum with the error of each addition carried along (Neumaier).
struct CompensatedSum {
  double sum = 0, lost = 0;
  void add(double x) {
    double next = sum + x;
    if (std::isfinite(next)) lost += std::fabs(sum) >= std::fabs(x) ? (sum - next) + x : (x - next) + sum;
    sum = next;
  }
  double value() const { return sum + lost; }
};

double larger(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<double>::quiet_NaN();
  return a == b ? (std::signbit(a) ? b : a) : std::max(a, b);
}

double reduce_floats(loop::ReduceKind kind, const Array& in, const Shape& offsets, std::int64_t base) {
  using loop::ReduceKind;
  constexpr double inf = std::numeric_limits<double>::infinity();
  if (kind == ReduceKind::sum) {
    CompensatedSum s;
    for (std::int64_t o : offsets) s.add(in.get_double(base + o));
    return s.value();
  }
  if (kind == ReduceKind::prod) {
    long double p = 1;
    for (std::int64_t o : offsets) p *= in.get_double(base + o);
    return static_cast<double>(p);
  }
  double sign = kind == ReduceKind::max ? 1 : -1, best = -inf;
  for (std::int64_t o : offsets) best = larger(best, sign * in.get_double(base + o));
  return sign * best;
}

std::int64_t reduce_ints(loop::ReduceKind kind, const Array& in, const Shape& offsets, std::int64_t base) {
  DType t = in.dtype();
  std::uint64_t acc = loop::reduce_identity(kind, t);
  for (std::int64_t o : offsets) {
    std::uint64_t bits = loop::constant_bits(t, in.get_int(base + o));
    std::int64_t a = loop::bits_to_int(t, acc), x = loop::bits_to_int(t, bits);
    bool less = t == DType::u64 ? bits < acc : x < a;
    switch (kind) {
      case loop::ReduceKind::sum: acc += bits; break;
      case loop::ReduceKind::prod: acc *= bits; break;
      case loop::ReduceKind::min: acc = less ? bits : acc; break;
      case loop::ReduceKind::max: acc = less ? acc : bits; break;
      case loop::ReduceKind::and_: acc &= bits; break;
      case loop::ReduceKind::or_: acc |= bits; break;
    }
    acc = loop::constant_bits(t, static_cast<std::int64_t>(acc));
  }
  return loop::bits_to_int(t, acc);
}

Array reduce_array(loop::ReduceKind kind, const Array& in, const Shape& out_shape, const Ints& axes) {
  const Shape& shape = in.shape();
  Shape strides = row_major_strides(shape), reduced, reduced_strides, kept_strides;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    bool gone = contains(axes, static_cast<std::int64_t>(d));
    (gone ? reduced_strides : kept_strides).push_back(strides[d]);
    if (gone) reduced.push_back(shape[d]);
  }
  Shape offsets;
  for_each_index(reduced, [&](const Shape& i, std::int64_t) { offsets.push_back(flat_index(i, reduced_strides)); });
  Array out(in.dtype(), out_shape);
  for_each_index(out_shape, [&](const Shape& i, std::int64_t flat) {
    std::int64_t base = flat_index(i, kept_strides);
    if (is_float(in.dtype()))
      out.set_double(flat, reduce_floats(kind, in, offsets, base));
    else
      out.set_int(flat, reduce_ints(kind, in, offsets, base));
  });
  return out;
}

template <loop::ReduceKind kind>
Result<std::vector<Array>> reduce_eval(const EvalCtx& c) {
  return one(reduce_array(kind, c.in[0], c.out_shapes[0], axes_of(c.node)));
}

// ---- sum_to_shape -----------------------------------------------------------------------------------------

Types infer_sum_to(const InferCtx& c) {
  AG_TRY(Dims shape, checked_shape(c, attr_dims(c.attrs(), "shape")));
  const Dims& from = c.in(0).shape;
  bool fits = shape.size() <= from.size();
  for (std::size_t d = 1; fits && d <= shape.size(); ++d) {
    const Dim &a = from[from.size() - d], &t = shape[shape.size() - d];
    fits = !a.is_const() || !t.is_const() || a == t || t.is(1);
  }
  if (!fits)
    return c.error(Code::AG2201, fmt::format("`sum_to_shape` cannot sum {} to {}", shape_str(from), shape_str(shape)),
                   {}, {0});
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

/// One element: a loop over each axis that is, or at run time may be, summed. Axis i has size(i) / size of the result's
/// axis trips (one where they are equal) and is read at the result's index plus the trip.
loop::ValueId sum_to_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  Dims from = c.node().in(0).shape, to = c.node().out().shape;
  DType t = c.node().out().dtype, wide = accumulator_dtype(t);
  std::size_t front = from.size() - to.size();
  std::vector<loop::ValueId> position(from.size());
  std::function<loop::ValueId(std::size_t, loop::ValueId)> sum = [&](std::size_t axis, loop::ValueId so_far) {
    if (axis == from.size()) return b.add(so_far, b.cast(c.operand(0, position), wide));
    loop::ValueId base = axis < front ? b.index(0) : index[axis - front];
    if (axis >= front && from[axis] == to[axis - front]) {
      position[axis] = base;
      return sum(axis + 1, so_far);
    }
    Dim trips = axis < front || to[axis - front].is(1) ? from[axis] : floordiv(from[axis], max(to[axis - front], 1));
    return b.for_(b.index(0), b.dim(trips), b.index(1), {}, {so_far},
                  [&](loop::ValueId trip, const loop::Builder::Values& carried) {
                    position[axis] = b.add(base, trip);
                    return loop::Builder::Values{sum(axis + 1, carried[0])};
                  })[0];
  };
  return b.cast(sum(0, b.constant_bits({wide, 1, 1}, loop::reduce_identity(loop::ReduceKind::sum, wide))), t);
}

Result<std::vector<Array>> sum_to_eval(const EvalCtx& c) {
  const Shape &from = c.in[0].shape(), &to = c.out_shapes[0];
  std::size_t front = from.size() - to.size();
  Ints axes;
  Shape kept;
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (i >= front && from[i] != to[i - front] && to[i - front] != 1)
      return fail(Code::AG2201, place(c), fmt::format("cannot sum an axis of {} to {}", from[i], to[i - front]));
    if (i < front || from[i] != to[i - front])
      axes.push_back(static_cast<std::int64_t>(i));
    else
      kept.push_back(from[i]);
  }
  return one(reduce_array(loop::ReduceKind::sum, c.in[0], kept, axes).reshaped(to));
}

std::vector<ValueId> sum_to_batch(Builder& b, const View& n, const BatchArgs& a) {
  Dims shape = attr_dims(n.attrs(), "shape"), aligned = shape;
  aligned.insert(aligned.begin(), n.in(0).shape.size() - shape.size(), Dim(1));
  aligned.insert(aligned.begin(), a.size);
  shape.insert(shape.begin(), a.size);
  return {b.reshape(b.sum_to(a.operands[0], aligned), shape)};
}

// ---- The table --------------------------------------------------------------------------------------------

std::vector<OpSample> reduce_samples() {
  return {sample({"f64[3,4]"}, {{"axes", Ints{1}}}),        sample({"f64[2,3,4]"}, {{"axes", Ints{0, 2}}}),
          sample({"f64[5]"}, {{"axes", Ints{0}}}),          sample({"f32[2,3]"}, {{"axes", Ints{}}}),
          sample({"i32[3,2]"}, {{"axes", Ints{0}}}, -9, 9), sample({"f32[0,3]"}, {{"axes", Ints{0}}}),
          sample({"f16[3,0]"}, {{"axes", Ints{0}}})};
}
std::vector<OpSample> bool_samples() {
  return {sample({"bool[3,4]"}, {{"axes", Ints{1}}}), sample({"bool[2,0]"}, {{"axes", Ints{1}}})};
}

template <loop::ReduceKind kind>
OpInfo reduction(OpInfo o, DTypeSet set = numeric) {
  o.lower_class = LowerClass::reduce;
  o.operands = {{.name = "x", .dtypes = set}};
  o.attrs = {{"axes", AttrKind::ints, true, "the axes that are summed up, dropped from the result"}};
  o.infer = infer_reduce;
  o.eval = reduce_eval<kind>;
  o.batch = batch_along_axes;
  o.reduce = describe<kind>;
  o.samples = reduce_samples;
  return o;
}

template <loop::ReduceKind kind>
OpInfo extremum(OpInfo o) {
  o = reduction<kind>(std::move(o));
  o.attrs.push_back({"any_nan", AttrKind::boolean, false, "a NaN may make a NaN or be left out, and zeros are equal",
                     AttrValue(false)});
  o.samples = [] {
    auto all = reduce_samples();
    all.push_back(sample({"f32[3,70]"}, {{"axes", Ints{1}}, {"any_nan", true}}));
    all.push_back(sample({"f64[5,2]"}, {{"axes", Ints{0}}, {"any_nan", true}}));
    return all;
  };
  return o;
}

template <auto combine>
std::optional<Dims> fold_known(const View& n) {
  auto all = known(n, 0);
  if (!all || n.in(0).rank() != 1 || n.out().rank() != 0) return std::nullopt;
  Dim total = combine(Dim(0), Dim(0)).is(0) && combine(Dim(0), Dim(1)).is(1) ? Dim(0) : Dim(1);
  for (const Dim& d : *all) total = combine(total, d);
  return Dims{total};
}

}  // namespace

std::vector<OpInfo> reduce_ops() {
  using loop::ReduceKind;
  OpInfo logical_and =
      reduction<ReduceKind::and_>({.name = "reduce_and", .summary = "whether all hold", .zero_gradient = true}, bools);
  OpInfo logical_or =
      reduction<ReduceKind::or_>({.name = "reduce_or", .summary = "whether any holds", .zero_gradient = true}, bools);
  logical_and.samples = logical_or.samples = bool_samples;
  OpInfo sum_to{.name = "sum_to_shape",
                .lower_class = LowerClass::index,
                .summary = "the transpose of numpy broadcasting: sums down to a shape"};
  sum_to.operands = {{.name = "x", .dtypes = numeric}};
  sum_to.attrs = {{"shape", AttrKind::dims, true}};
  sum_to.infer = infer_sum_to;
  sum_to.eval = sum_to_eval;
  sum_to.batch = sum_to_batch;
  sum_to.element = sum_to_element;
  sum_to.linearity = Linearity::each;
  sum_to.linear_in = 1;
  sum_to.transpose = [](Builder& b, const View& n, std::size_t, ValueId ct) {
    return b.broadcast_to(ct, Dims(n.in(0).shape));
  };
  sum_to.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,3,4]"}, {{"shape", Dims{3, 1}}}),
                                 sample({"f64[2,3]"}, {{"shape", Dims{}}}),
                                 sample({"f32[2,3]"}, {{"shape", Dims{2, 3}}})};
  };
  return {
      reduction<ReduceKind::sum>(
          {.name = "reduce_sum",
           .summary = "sum",
           .known_ints = fold_known<[](const Dim& a, const Dim& b) { return a + b; }>,
           .linearity = Linearity::each,
           .linear_in = 1,
           .transpose = [](Builder& b, const View& n, std::size_t, ValueId ct) { return spread(b, n, ct).id(); }}),
      reduction<ReduceKind::prod>({.name = "reduce_prod",
                                   .summary = "product",
                                   .known_ints = fold_known<[](const Dim& a, const Dim& b) { return a * b; }>,
                                   .vjp = slope_vjp<product_slope>,
                                   .jvp = slope_jvp<product_slope>}),
      extremum<ReduceKind::max>({.name = "reduce_max",
                                 .summary = "maximum; ties share the gradient evenly",
                                 .vjp = slope_vjp<extremum_slope>,
                                 .jvp = slope_jvp<extremum_slope>}),
      extremum<ReduceKind::min>({.name = "reduce_min",
                                 .summary = "minimum; ties share the gradient evenly",
                                 .vjp = slope_vjp<extremum_slope>,
                                 .jvp = slope_jvp<extremum_slope>}),
      logical_and,
      logical_or,
      sum_to,
  };
}

}  // namespace ag

// Reductions and products.
#include <cmath>
#include <limits>

#include "frontend/trace/recipes.hpp"
#include "ir/op.hpp"

namespace ag::rec::r {
namespace {

using Values = std::vector<ValueId>;
using In = std::span<const ValueId>;
using Axes = std::vector<std::int64_t>;

/// Axes from params[from] on; none means all.
Axes axes_of(Emit& e, ValueId x, Params p, std::size_t from) {
  Axes axes;
  const int rank = e.rank(x);
  for (std::size_t i = from; i < p.size(); ++i) axes.push_back(e.axis(p[i], rank));
  if (p.size() == from)
    for (int i = 0; i < rank; ++i) axes.push_back(i);
  if (rank == 0) axes.clear();
  std::sort(axes.begin(), axes.end());
  if (std::adjacent_find(axes.begin(), axes.end()) != axes.end())
    e.reject(Code::AG2202, "dim " + std::to_string(*std::adjacent_find(axes.begin(), axes.end())) +
                               " appears multiple times in the list of dims");
  return axes;
}

ValueId reduce(Emit& e, std::string_view op, ValueId x, const Axes& axes, bool keepdim) {
  // A reduction over no axes still is a node: its gradient function has a name of its own.
  if (axes.empty()) return e.op("Identity", {x});
  ValueId r = e.op(op, {x}, {{"axes", axes}});
  if (!keepdim) return r;
  Dims kept = e.type(x).shape;
  for (std::int64_t a : axes) kept[static_cast<std::size_t>(a)] = 1;
  return e.b().reshape(r, std::move(kept));
}

/// An ONNX reduction, with its axes as an operand.
ValueId composite(Emit& e, std::string_view op, ValueId x, const Axes& axes, bool keepdim) {
  if (axes.empty()) return e.op("Identity", {x});
  return e.op(op, {x, e.b().ints(axes)}, {{"keepdims", std::int64_t{keepdim}}});
}

template <std::size_t N>
struct Name {
  char text[N];
  consteval Name(const char (&s)[N]) { std::copy_n(s, N, text); }  // NOLINT: from a literal
  constexpr std::string_view view() const { return {text, N - 1}; }
};
template <Name op>
Values by_primitive(Emit& e, In in, Params p) {
  return {reduce(e, op.view(), in[0], axes_of(e, in[0], p, 1), p[0])};
}
template <Name op>
Values by_composite(Emit& e, In in, Params p) {
  return {composite(e, op.view(), in[0], axes_of(e, in[0], p, 1), p[0])};
}

/// Sum of squared deviations over (n - correction).
Values build_var(Emit& e, In in, Params p) {
  ValueId x = in[0];
  Axes axes = axes_of(e, x, p, 2);
  DType t = e.type(x).dtype;
  Dim count = 1;
  for (std::int64_t a : axes) count = count * e.type(x).shape[static_cast<std::size_t>(a)];
  ValueId mean = composite(e, "ReduceMean", x, axes, true);
  ValueId squares = e.op("square", {e.op("sub", {x, mean})});
  if (real(p[0]) == 0) return {composite(e, "ReduceMean", squares, axes, p[1])};
  if (!count.is_const())
    e.reject(Code::AG2211, "a variance with a correction over a symbolic size is not supported yet");
  const double n = static_cast<double>(count.value()) - real(p[0]);
  ValueId total = reduce(e, "reduce_sum", squares, axes, p[1]);
  return {e.op("div", {total, e.b().scalar(t, std::max(0.0, n))})};
}
Values build_std(Emit& e, In in, Params p) { return {e.op("sqrt", {build_var(e, in, p)[0]})}; }

Values build_norm(Emit& e, In in, Params p) {
  ValueId x = in[0];
  const double order = real(p[0]);
  Axes axes = axes_of(e, x, p, 2);
  const bool keep = p[1];
  if (axes.empty()) return {e.op("abs", {x})};
  if (order == 2) return {composite(e, "ReduceL2", x, axes, keep)};
  if (order == 1) return {composite(e, "ReduceL1", x, axes, keep)};
  ValueId size = e.op("abs", {x});
  if (std::isinf(order)) return {reduce(e, order > 0 ? "reduce_max" : "reduce_min", size, axes, keep)};
  DType t = e.type(x).dtype;
  if (order == 0) {
    ValueId some = e.b().convert(e.op("ne", {x, e.b().scalar(t, 0)}), t);
    return {reduce(e, "reduce_sum", some, axes, keep)};
  }
  ValueId sum = reduce(e, "reduce_sum", e.op("pow", {size, e.b().scalar(t, order)}), axes, keep);
  return {e.op("pow", {sum, e.b().scalar(t, 1 / order)})};
}

/// Values and their places along one axis; the gradient goes to the place that was taken.
Values extreme(Emit& e, ValueId x, std::int64_t axis, bool keepdim, std::string_view arg) {
  if (e.rank(x) == 0) return {e.op("Identity", {x}), e.b().scalar_int(DType::i64, 0)};
  axis = e.axis(axis, e.rank(x));
  ValueId place = e.op(arg, {x}, {{"axis", axis}, {"keepdims", std::int64_t{1}}});
  ValueId value = e.op("GatherElements", {x, place}, {{"axis", axis}});
  if (keepdim) return {value, place};
  Dims shape = e.type(value).shape;
  shape.erase(shape.begin() + axis);
  return {e.b().reshape(value, shape), e.b().reshape(place, shape)};
}
Values build_max_dim(Emit& e, In in, Params p) { return extreme(e, in[0], p[0], p[1], "ArgMax"); }
Values build_min_dim(Emit& e, In in, Params p) { return extreme(e, in[0], p[0], p[1], "ArgMin"); }

/// Places in sorted order, all or the first k of them (p[2], unless negative).
ValueId order_of(Emit& e, ValueId x, std::int64_t axis, Params p) {
  Attrs attrs{{"axis", axis}, {"descending", p[1] != 0}};
  if (p.size() > 2) {
    const Dim& n = e.type(x).shape[static_cast<std::size_t>(axis)];
    if (p[2] < 0 || (n.is_const() && p[2] > n.value())) e.reject(Code::AG2206, "selected index k out of range");
    attrs.set("count", Dims{Dim(p[2])});
  }
  return e.op("argsort", {x}, std::move(attrs));
}
Values build_argsort(Emit& e, In in, Params p) {
  if (e.rank(in[0]) == 0) return {e.b().scalar_int(DType::i64, 0)};
  return {order_of(e, in[0], e.axis(p[0], e.rank(in[0])), p)};
}
/// The gradient goes to the places that were taken.
Values build_sort(Emit& e, In in, Params p) {
  if (e.rank(in[0]) == 0) return {e.op("Identity", {in[0]}), e.b().scalar_int(DType::i64, 0)};
  const std::int64_t axis = e.axis(p[0], e.rank(in[0]));
  ValueId place = order_of(e, in[0], axis, p);
  return {e.op("GatherElements", {in[0], place}, {{"axis", axis}}), place};
}

template <Name op>
Values build_arg(Emit& e, In in, Params p) {
  ValueId x = in[0];
  if (p.size() < 2) {  // over all elements
    x = e.b().reshape(x, {e.type(x).elems()});
    return {e.op(op.view(), {x}, {{"axis", std::int64_t{0}}, {"keepdims", std::int64_t{0}}})};
  }
  return {e.op(op.view(), {x}, {{"axis", e.axis(p[0], e.rank(x))}, {"keepdims", p[1]}})};
}

Values build_cumsum(Emit& e, In in, Params p) {
  if (e.rank(in[0]) == 0) return {e.op("Identity", {in[0]})};
  return {e.op("CumSum", {in[0], e.b().scalar_int(DType::i64, e.axis(p[0], e.rank(in[0])))})};
}
Values build_cumprod(Emit& e, In in, Params p) {
  if (e.rank(in[0]) == 0) return {e.op("Identity", {in[0]})};
  return {e.op("CumProd", {in[0], e.b().scalar_int(DType::i64, e.axis(p[0], e.rank(in[0])))})};
}

std::string shape_of(Emit& e, ValueId v) { return shape_str(e.type(v).shape); }

void need_rank(Emit& e, std::string_view what, ValueId v, int rank) {
  if (e.rank(v) != rank)
    e.reject(Code::AG2204, std::string(what) + " must be " + std::to_string(rank) + "-D, but got a tensor of shape " +
                               shape_of(e, v));
}

Values build_dot(Emit& e, In in, Params) {
  if (e.rank(in[0]) != 1 || e.rank(in[1]) != 1)
    e.reject(Code::AG2204, "1D tensors expected, but got " + std::to_string(e.rank(in[0])) + "D and " +
                               std::to_string(e.rank(in[1])) + "D tensors");
  const Dim &a = e.type(in[0]).shape[0], &b = e.type(in[1]).shape[0];
  if (a.is_const() && b.is_const() && a != b)
    e.reject(Code::AG2203, "inconsistent tensor size, expected tensor " + shape_of(e, in[0]) + " and src " +
                               shape_of(e, in[1]) + " to have the same number of elements, but got " + a.str() +
                               " and " + b.str() + " elements respectively");
  return {e.op("MatMul", {in[0], in[1]})};
}

std::string by(Emit& e, ValueId v) {
  std::string text;
  for (const Dim& d : e.type(v).shape) text += (text.empty() ? "" : "x") + d.str();
  return text;
}
void need_product(Emit& e, ValueId a, ValueId b, std::string_view names = "mat1 and mat2") {
  const Dim &k = e.type(a).shape.back(), &l = e.type(b).shape[static_cast<std::size_t>(std::max(0, e.rank(b) - 2))];
  if (k.is_const() && l.is_const() && k != l)
    e.reject(Code::AG2203, std::string(names) + " shapes cannot be multiplied (" + by(e, a) + " and " + by(e, b) + ")");
}
Values build_mv(Emit& e, In in, Params) {
  need_rank(e, "input", in[0], 2), need_rank(e, "vec", in[1], 1);
  return {e.op("MatMul", {in[0], in[1]})};
}
Values build_mm(Emit& e, In in, Params) {
  need_rank(e, "self", in[0], 2), need_rank(e, "mat2", in[1], 2);
  need_product(e, in[0], in[1]);
  return {e.op("MatMul", {in[0], in[1]})};
}
Values build_bmm(Emit& e, In in, Params) {
  need_rank(e, "batch1", in[0], 3), need_rank(e, "batch2", in[1], 3);
  return {e.op("MatMul", {in[0], in[1]})};
}
Values build_matmul(Emit& e, In in, Params) {
  if (!e.rank(in[0]) || !e.rank(in[1]))
    e.reject(Code::AG2204, "both arguments to matmul need to be at least 1D, but they are " +
                               std::to_string(e.rank(in[0])) + "D and " + std::to_string(e.rank(in[1])) + "D");
  need_product(e, in[0], in[1]);
  return {e.op("MatMul", {in[0], in[1]})};
}
Values build_outer(Emit& e, In in, Params) {
  need_rank(e, "self", in[0], 1), need_rank(e, "vec2", in[1], 1);
  return {e.op("mul", {e.b().reshape(in[0], {e.type(in[0]).shape[0], 1}), in[1]})};
}
/// x W^T + b, weight as torch stores it: [out, in].
Values build_linear(Emit& e, In in, Params) {
  ValueId x = in[0], w = in[1];
  need_rank(e, "weight", w, 2);
  const Dim &k = e.type(x).shape.empty() ? Dim(1) : e.type(x).shape.back(), &l = e.type(w).shape[1];
  if (k.is_const() && l.is_const() && k != l)
    e.reject(Code::AG2203, "mat1 and mat2 shapes cannot be multiplied (" + by(e, x) + " and " + l.str() + "x" +
                               e.type(w).shape[0].str() + ")");
  if (e.rank(x) == 2) {
    Values args(in.begin(), in.end());
    return {e.op("Gemm", args, {{"transB", std::int64_t{1}}})};
  }
  ValueId y = e.op("MatMul", {x, e.b().transpose(w, {1, 0})});
  return {in.size() > 2 ? e.op("add", {y, in[2]}) : y};
}
Values build_addmm(Emit& e, In in, Params) {
  need_product(e, in[1], in[2]);
  return {e.op("Gemm", {in[1], in[2], in[0]})};
}

}  // namespace

const Recipe sum{"sum", "SumBackward0", by_primitive<"reduce_sum">};
const Recipe sum_dim{"sum", "SumBackward1", by_primitive<"reduce_sum">};
const Recipe mean{"mean", "MeanBackward0", by_composite<"ReduceMean">};
const Recipe mean_dim{"mean", "MeanBackward1", by_composite<"ReduceMean">};
const Recipe prod{"prod", "ProdBackward0", by_primitive<"reduce_prod">};
const Recipe prod_dim{"prod", "ProdBackward1", by_primitive<"reduce_prod">};
const Recipe amax{"amax", "AmaxBackward0", by_primitive<"reduce_max">};
const Recipe amin{"amin", "AminBackward0", by_primitive<"reduce_min">};
const Recipe amax_all{"max", "MaxBackward1", by_primitive<"reduce_max">};
const Recipe amin_all{"min", "MinBackward1", by_primitive<"reduce_min">};
const Recipe all{"all", "", by_primitive<"reduce_and">};
const Recipe any{"any", "", by_primitive<"reduce_or">};
const Recipe logsumexp{"logsumexp", "LogsumexpBackward0", by_composite<"ReduceLogSumExp">};
const Recipe var{"var", "VarBackward0", build_var};
const Recipe stddev{"std", "StdBackward0", build_std};
const Recipe norm{"norm", "LinalgVectorNormBackward0", build_norm};
const Recipe max_dim{"max", "MaxBackward0", build_max_dim};
const Recipe min_dim{"min", "MinBackward0", build_min_dim};
const Recipe argmax{"argmax", "", build_arg<"ArgMax">};
const Recipe argmin{"argmin", "", build_arg<"ArgMin">};
const Recipe argsort{"argsort", "", build_argsort};
const Recipe sort{"sort", "SortBackward0", build_sort};
const Recipe topk{"topk", "TopkBackward0", build_sort};
const Recipe cumsum{"cumsum", "CumsumBackward0", build_cumsum};
const Recipe cumprod{"cumprod", "CumprodBackward0", build_cumprod};
const Recipe dot{"dot", "DotBackward0", build_dot};
const Recipe mv{"mv", "MvBackward0", build_mv};
const Recipe mm{"mm", "MmBackward0", build_mm};
const Recipe bmm{"bmm", "BmmBackward0", build_bmm};
const Recipe matmul{"matmul", "UnsafeViewBackward0", build_matmul};
const Recipe outer{"outer", "MulBackward0", build_outer};
const Recipe linear{"linear", "AddmmBackward0", build_linear};
const Recipe addmm{"addmm", "AddmmBackward0", build_addmm};

}  // namespace ag::rec::r

// ONNX's reductions: axes as an attribute (before opset 13 for ReduceSum, 18 for the others) or as an operand.
#include "ir/dtype_sets.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

/// No axes mean all of them, or with noop_with_empty_axes none.
Ints default_axes(Ints axes, const Attrs& attrs, int rank) {
  if (!axes.empty() || attr_int(attrs, "noop_with_empty_axes", 0)) return axes;
  return iota_ints(rank);
}

Types infer_reduce(const InferCtx& c) {
  Ints axes = attr_ints(c.attrs(), "axes");
  if (c.has(1)) {
    AG_TRY(axes, required_constants(c, 1));
  }
  AG_TRY(axes, checked_axes(c, default_axes(axes, c.attrs(), c.in(0).rank()), c.in(0).rank()));
  bool keep = attr_int(c.attrs(), "keepdims", 1) != 0;
  Type t{c.in(0).dtype, {}};
  for (int d = 0; d < c.in(0).rank(); ++d) {
    if (!contains(axes, d))
      t.shape.push_back(c.in(0).shape[static_cast<std::size_t>(d)]);
    else if (keep)
      t.shape.push_back(1);
  }
  return std::vector<Type>{std::move(t)};
}

Ints axes_of(const View& n) {
  Ints axes = attr_ints(n.attrs(), "axes");
  if (auto given = known_constants(n, 1)) axes = *given;
  axes = default_axes(axes, n.attrs(), n.in(0).rank());
  for (std::int64_t& a : axes) a = *normalize_axis(a, n.in(0).rank());
  std::sort(axes.begin(), axes.end());
  return axes;
}

/// A value of the result's shape with the reduced axes as ones, ready to meet the operand.
Expr kept(Builder& b, const View& n, ValueId v) {
  Dims shape = n.in(0).shape;
  for (std::int64_t a : axes_of(n)) shape[static_cast<std::size_t>(a)] = 1;
  return {b, b.reshape(v, shape)};
}

using Formula = Expr (*)(Expr, const Ints&);

/// `decompose` from a formula of operand and axes.
template <Formula body>
std::vector<ValueId> reduce_with(Builder& b, const View& n) {
  Expr r = body(Expr(b, n.operand(0)), axes_of(n));
  return {b.reshape(r, Dims(n.out().shape))};
}

/// Runs a formula of reals on integers too: in f64, truncated at the end.
template <Formula body>
Expr in_reals(Expr x, const Ints& axes) {
  return is_float(x.dtype()) ? body(x, axes) : body(x.to(DType::f64), axes).to(x.dtype());
}

Expr sum(Expr x, const Ints& axes) { return reduce("reduce_sum", x, axes); }
Expr product(Expr x, const Ints& axes) { return reduce("reduce_prod", x, axes); }
Expr maximum(Expr x, const Ints& axes) {
  return reduce(x.dtype() == DType::boolean ? "reduce_or" : "reduce_max", x, axes);
}
Expr minimum(Expr x, const Ints& axes) {
  return reduce(x.dtype() == DType::boolean ? "reduce_and" : "reduce_min", x, axes);
}
Expr average(Expr x, const Ints& axes) { return mean(x, axes); }
Expr l1(Expr x, const Ints& axes) { return reduce("reduce_sum", abs(x), axes); }
Expr sum_square(Expr x, const Ints& axes) { return reduce("reduce_sum", call("square", x), axes); }
Expr l2(Expr x, const Ints& axes) { return sqrt(sum_square(x, axes)); }
Expr log_sum(Expr x, const Ints& axes) { return log(reduce("reduce_sum", x, axes)); }
/// log(sum(e^x)) around the maximum, which is a constant to derivatives (it cancels). An infinite one is left out.
Expr log_sum_exp(Expr x, const Ints& axes) {
  Expr top = reduce("reduce_max", x, axes, true);
  top = call("StopGradient", select(call("is_inf", top), 0, top));
  Expr y = log(reduce("reduce_sum", exp(x - top), axes));
  return y + x.with(x.builder().reshape(top, y.type().shape));
}

/// d|x| = x/|x|, 0 at the origin as in PyTorch.
void l2_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Expr x(b, n.operand(0)), y = kept(b, n, n.result());
  grads[0] = kept(b, n, ct[0]) * select(y == 0.0, 0, x / select(y == 0.0, 1, y));
}

struct Reduction {
  std::string_view name, old_name, onnx, summary;
  DTypeSet dtypes;
  int operand_since;  ///< first opset with axes as an operand
  std::vector<ValueId> (*decompose)(Builder&, const View&);
  void (*vjp)(Builder&, const View&, Cotangents, Grads&) = nullptr;
  double low = -2;
};

OpSample with_axes(std::string_view type, const Ints& axes, Attrs attrs, double low) {
  OpSample s = sample({type}, std::move(attrs), low);
  s.operands.push_back(sample_ints(axes));
  return s;
}

template <int low_tenths>
std::vector<OpSample> operand_samples() {
  double low = low_tenths / 10.0;
  Attrs drop{{"keepdims", std::int64_t{0}}};
  return {with_axes("f64[3,4]", {1}, {}, low), with_axes("f64[2,3,4]", {0, -1}, drop, low),
          sample({"f64[2,3]"}, {}, low), with_axes("f32[2,3]", {}, {{"noop_with_empty_axes", std::int64_t{1}}}, low),
          with_axes("f16[2,3]", {1}, drop, low)};
}
template <int low_tenths>
std::vector<OpSample> attribute_samples() {
  double low = low_tenths / 10.0;
  return {sample({"f64[3,4]"}, {{"axes", Ints{1}}}, low), sample({"f64[2,3]"}, {{"keepdims", std::int64_t{0}}}, low)};
}

void add_both(std::vector<OpInfo>& all, const Reduction& r) {
  OpInfo o{.name = r.name, .onnx = r.onnx, .since = r.operand_since, .tier = Tier::composite, .summary = r.summary};
  o.operands = {{.name = "data", .dtypes = r.dtypes}, int_operand("axes", true)};
  o.attrs = {int_attr("keepdims", 1), int_attr("noop_with_empty_axes", 0)};
  o.infer = infer_reduce;
  o.decompose = r.decompose;
  o.vjp = r.vjp;
  o.samples = r.low > 0 ? operand_samples<4> : operand_samples<-20>;
  all.push_back(o);
  o.name = r.old_name;
  o.since = 1;
  o.until = r.operand_since - 1;
  o.operands.pop_back();
  o.attrs = {{"axes", AttrKind::ints}, int_attr("keepdims", 1)};
  o.samples = r.low > 0 ? attribute_samples<4> : attribute_samples<-20>;
  all.push_back(o);
}

// ---- ArgMax, ArgMin ---------------------------------------------------------------------------------------

Types infer_arg(const InferCtx& c) {
  AG_TRY(int axis, checked_axis(c, attr_int(c.attrs(), "axis", 0), c.in(0).rank()));
  Dims shape = c.in(0).shape;
  auto at = shape.begin() + axis;
  if (at->is(0))
    return c.error(Code::AG2206,
                   fmt::format("`{}` along axis {} of {}, which has no elements", c.op().onnx, axis, c.in(0).str()), {},
                   {0});
  if (attr_int(c.attrs(), "keepdims", 1))
    *at = 1;
  else
    shape.erase(at);
  return std::vector<Type>{{DType::i64, std::move(shape)}};
}

/// The first (or last) place that holds the extremum; a NaN is one.
template <bool largest>
std::vector<ValueId> arg_extremum(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  std::int64_t axis = *normalize_axis(attr_int(n.attrs(), "axis", 0), n.in(0).rank());
  Expr winner = x == reduce(largest ? "reduce_max" : "reduce_min", x, {axis}, true);
  if (is_float(x.dtype())) winner = either(winner, call("is_nan", x));
  Type t = x.type().with(DType::i64);
  Expr place(b, b.iota(t, axis));
  bool last = attr_int(n.attrs(), "select_last_index", 0) != 0;
  Expr none = last ? place.with(b.scalar_int(DType::i64, -1))
                   : size_value(b, t.shape[static_cast<std::size_t>(axis)], DType::i64);
  Expr r = reduce(last ? "reduce_max" : "reduce_min", select(winner, place, none), {axis});
  return {b.reshape(r, Dims(n.out().shape))};
}

OpInfo arg_op(std::string_view name, std::string_view summary,
              std::vector<ValueId> (*decompose)(Builder&, const View&)) {
  OpInfo o = composite({.name = name, .summary = summary});
  o.operands = {{.name = "data", .dtypes = numeric}};
  o.results = {{"reduced", "I"}};
  o.attrs = {int_attr("axis", 0), int_attr("keepdims", 1), int_attr("select_last_index", 0)};
  o.infer = infer_arg;
  o.decompose = decompose;
  o.zero_gradient = true;
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[3,4]"}, {{"axis", std::int64_t{1}}}),
                                 sample({"i32[5]"}, {{"keepdims", std::int64_t{0}}}),
                                 sample({"f32[2,3]"}, {{"select_last_index", std::int64_t{1}}})};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> reduce_composite_ops() {
  std::vector<OpInfo> all;
  add_both(all, {"ReduceSum", "ReduceSum_1", "ReduceSum", "sum", numeric, 13, reduce_with<sum>});
  add_both(all,
           {"ReduceMean", "ReduceMean_1", "ReduceMean", "mean; integers truncate", numeric, 18, reduce_with<average>});
  add_both(all,
           {"ReduceMax", "ReduceMax_1", "ReduceMax", "maximum; of bools: any", computed, 18, reduce_with<maximum>});
  add_both(all,
           {"ReduceMin", "ReduceMin_1", "ReduceMin", "minimum; of bools: all", computed, 18, reduce_with<minimum>});
  add_both(all, {"ReduceProd", "ReduceProd_1", "ReduceProd", "product", numeric, 18, reduce_with<product>});
  add_both(all, {"ReduceL1", "ReduceL1_1", "ReduceL1", "sum of |x|", numeric, 18, reduce_with<l1>});
  add_both(all,
           {"ReduceL2", "ReduceL2_1", "ReduceL2", "Euclidean norm", numeric, 18, reduce_with<in_reals<l2>>, l2_vjp});
  add_both(all, {"ReduceSumSquare", "ReduceSumSquare_1", "ReduceSumSquare", "sum of squares", numeric, 18,
                 reduce_with<sum_square>});
  add_both(all, {"ReduceLogSum", "ReduceLogSum_1", "ReduceLogSum", "log of the sum", numeric, 18,
                 reduce_with<in_reals<log_sum>>, nullptr, 0.4});
  add_both(all, {"ReduceLogSumExp", "ReduceLogSumExp_1", "ReduceLogSumExp", "log of the sum of e^x, without overflow",
                 numeric, 18, reduce_with<in_reals<log_sum_exp>>});
  all.push_back(arg_op("ArgMax", "index of the maximum", arg_extremum<true>));
  all.push_back(arg_op("ArgMin", "index of the minimum", arg_extremum<false>));
  return all;
}

}  // namespace ag

// Resize and Upsample. Interpolation is separable: each axis that changes takes a weighted sum of a few elements
// ("taps") around the source coordinate, gathered along that axis; nearest takes one. Coordinates are computed in f64.
#include <cmath>

#include "ir/ops/data_sizes.hpp"
#include "ir/ops/windows.hpp"

namespace ag::ops {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// One axis that may change.
struct Axis {
  std::size_t axis;
  Dim in;
  std::optional<Dim> out;       ///< none: the data tell
  std::optional<double> scale;  ///< if given; else out / in
  Expr computed_scale = {};     ///< if it is computed from data, f64
};

/// What says how large the result is; the operand, and its values as far as the compiler knows them.
struct Given {
  ValueId scales, sizes;
  std::optional<std::vector<double>> known_scales;
  PartDims known_sizes;
  std::size_t count = 0;        ///< of scales or sizes
};

std::optional<std::vector<double>> literal_numbers(const Graph& g, ValueId v) {
  const LiteralPtr* l = g.def(v).attrs.get<LiteralPtr>("value");
  if (!l || !g.def(v).operands.empty()) return std::nullopt;
  Array a = (*l)->materialize();
  std::vector<double> out;
  for (std::int64_t i = 0; i < a.elems(); ++i) out.push_back(a.get_double(i));
  return out;
}

/// Upsample and old Resize have scales as operand 1 or as an attribute.
Given given_of(const OpInfo& op, const Attrs& a, const Graph& g, std::span<const ValueId> operands) {
  Given out;
  if (const auto* scales = a.get<std::vector<double>>("scales")) {
    out.known_scales = *scales;
    for (double& s : *out.known_scales) s = static_cast<float>(s);
    out.count = scales->size();
    return out;
  }
  auto operand = [&](std::size_t i) {
    bool there = i < operands.size() && operands[i] && !g.type(operands[i]).elems().is(0);
    return there ? operands[i] : ValueId{};
  };
  std::size_t scales = op.name == "Resize" ? 2 : 1;
  if ((out.scales = operand(scales))) out.known_scales = literal_numbers(g, out.scales);
  if (scales == 2 && (out.sizes = operand(3))) out.known_sizes = partly_known(g, out.sizes).value_or(PartDims{});
  if (ValueId v = out.sizes ? out.sizes : out.scales; v && g.type(v).elems().is_const())
    out.count = at(g.type(v).elems().value());
  return out;
}

/// floor(size * scale); exact for symbolic sizes where the scale is a small fraction.
std::optional<Dim> scaled(const Dim& size, double scale) {
  if (size.is_const()) {
    double out = std::floor(static_cast<double>(size.value()) * scale);
    return out >= 0 && out < 9e15 ? Dim(static_cast<std::int64_t>(out)) : Dim::invalid();
  }
  for (std::int64_t q = 1; q <= 64; ++q) {
    double p = scale * static_cast<double>(q);
    if (p == std::floor(p) && std::fabs(p) < 1e6) return floordiv(size * static_cast<std::int64_t>(p), q);
  }
  return std::nullopt;
}

std::vector<std::size_t> axes_of(const Attrs& a, int rank) {
  std::vector<std::size_t> out;
  const Ints* given = a.get<Ints>("axes");
  for (std::int64_t axis : given ? *given : iota_ints(rank))
    if (auto n = normalize_axis(axis, rank)) out.push_back(at(*n));
  return out;
}

bool keeps_ratio(const Attrs& a, const Given& given) {
  return given.sizes && attr_string(a, "keep_aspect_ratio_policy", "stretch") != "stretch";
}
bool not_larger(const Attrs& a) { return attr_string(a, "keep_aspect_ratio_policy", "stretch") == "not_larger"; }

/// Sizes under keep_aspect_ratio_policy: one scale for all axes.
void keep_ratio(std::vector<Axis>& axes, bool smallest) {
  double scale = 0;
  bool known = true;
  for (const Axis& axis : axes) known = known && axis.in.is_const() && axis.out && axis.out->is_const();
  for (std::size_t i = 0; known && i < axes.size(); ++i) {
    double own = static_cast<double>(axes[i].out->value()) / static_cast<double>(axes[i].in.value());
    scale = i == 0 ? own : smallest ? std::min(scale, own) : std::max(scale, own);
  }
  for (Axis& axis : axes) {
    axis.out.reset();
    if (!known) continue;
    axis.scale = scale;
    axis.out = static_cast<std::int64_t>(std::floor(scale * static_cast<double>(axis.in.value()) + 0.5));
  }
}

std::vector<Axis> resized(const Attrs& a, const Dims& shape, const Given& given) {
  std::vector<Axis> out;
  std::vector<std::size_t> axes = axes_of(a, static_cast<int>(shape.size()));
  for (std::size_t i = 0; i < axes.size(); ++i) {
    Axis axis{axes[i], shape[axes[i]], std::nullopt, std::nullopt};
    if (given.sizes && i < given.known_sizes.size()) axis.out = given.known_sizes[i];
    if (!given.sizes && given.known_scales && i < given.known_scales->size()) {
      axis.scale = (*given.known_scales)[i];
      axis.out = scaled(axis.in, *axis.scale);
    }
    out.push_back(axis);
  }
  if (keeps_ratio(a, given)) keep_ratio(out, not_larger(a));
  return out;
}

std::string mode_of(const Attrs& a) { return attr_string(a, "mode", "nearest"); }

Types infer_resize(const InferCtx& c) {
  std::vector<ValueId> operands;
  for (std::size_t i = 0; i < c.operand_count(); ++i) operands.push_back(c.operand(i));
  Given given = given_of(c.op(), c.attrs(), c.graph(), operands);
  Type t = c.in(0);
  std::string problem;
  if (const Ints* axes = c.attrs().get<Ints>("axes")) AG_TRY_(checked_axes(c, *axes, t.rank()));
  std::vector<Axis> axes = resized(c.attrs(), t.shape, given);
  if (given.count != axes.size())
    problem = fmt::format("{} axes need as many sizes or scales, in number known to the compiler", axes.size());
  for (const Axis& axis : axes) {
    if (axis.scale && !(*axis.scale > 0)) problem = fmt::format("a scale of {}", *axis.scale);
    if (axis.in.is(0) && axis.out && !axis.out->is(0)) problem = "an axis without elements cannot grow";
    t.shape[axis.axis] = axis.out ? *axis.out : c.unbacked(axis.axis);
  }
  if (!problem.empty()) return c.error(Code::AG2206, fmt::format("`{}`: {}", op_title(c), problem), {}, {0});
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

// ---- Coordinates ------------------------------------------------------------------------------------------

struct Source {
  Expr x;        ///< coordinate in the source of each element, f64 [out]
  Expr outside;  ///< tf_crop_and_resize: whether it takes the extrapolation value; else none
};

class Resizer {
 public:
  Resizer(Builder& b, const View& n) : b_(b), attrs_(n.attrs()), mode_(mode_of(attrs_)) {
    if (mode_ == "bilinear") mode_ = "linear";
    transform_ = attr_string(attrs_, "coordinate_transformation_mode",
                             n.node().op->name == "Resize" ? "half_pixel" : "asymmetric");
    rounding_ = attr_string(attrs_, "nearest_mode", n.node().op->name == "Resize" ? "round_prefer_floor" : "floor");
    if (transform_ == "tf_crop_and_resize" && n.has(1)) roi_ = Expr(b, n.operand(1));
  }

  Expr along(Expr x, const Axis& a, std::size_t index, std::size_t axes) {
    bool crop = transform_ == "tf_crop_and_resize";
    if (!crop && a.in == *a.out && a.scale.value_or(1) == 1 && !a.computed_scale.id()) return x;
    Source s = source(a, index, axes);
    Expr y = mode_ == "nearest" ? nearest(x, a, s) : taps(x, a, s);
    if (!crop) return y;
    Type t = y.type();
    Expr outside = y.with(b_.broadcast_in_dim(s.outside, t.shape, Ints{static_cast<std::int64_t>(a.axis)}));
    return select(outside, attr_number(attrs_, "extrapolation_value", 0), y);
  }

 private:
  Builder& b_;
  Attrs attrs_;
  std::string mode_, transform_, rounding_;
  Expr roi_;

  Expr number(double v) { return {b_, b_.scalar(DType::f64, v)}; }
  Expr size(const Dim& d) { return size_value(b_, d, DType::f64); }
  Expr scale(const Axis& a) {
    return a.computed_scale.id() ? a.computed_scale : a.scale ? number(*a.scale) : size(*a.out) / size(a.in);
  }

  Expr region(std::size_t i) {
    auto k = static_cast<std::int64_t>(i);
    return Expr(b_, b_.reshape(b_.slice(roi_, {k}, {k + 1}), {})).to(DType::f64);
  }

  Source source(const Axis& a, std::size_t index, std::size_t axes) {
    Expr place(b_, b_.iota({DType::f64, {*a.out}}, 0)), in = size(a.in), s = scale(a);
    Expr width = a.scale || a.computed_scale.id() ? s * in : size(*a.out), single = width == 1.0,
         steps = select(single, 1, width - 1);
    auto spread = [&](Expr v) { return v.with(b_.broadcast_in_dim(v, {*a.out}, Ints{})); };
    Expr centred = (place + 0.5) / s - 0.5;
    if (transform_ == "align_corners") return {select(spread(single), 0, place * (in - 1) / steps), {}};
    if (transform_ == "asymmetric") return {place / s, {}};
    if (transform_ == "pytorch_half_pixel") return {select(spread(single), -0.5, centred), {}};
    if (transform_ == "tf_half_pixel_for_nn") return {(place + 0.5) / s, {}};
    if (transform_ == "half_pixel_symmetric") return {in / 2 * (1 - size(*a.out) / width) + centred, {}};
    if (transform_ == "tf_crop_and_resize") {
      Expr from = region(index), to = region(axes + index), last = in - 1;
      Expr x = select(spread(single), spread((to - from) * last / 2), place * (to - from) * last / steps) + from * last;
      return {x, either(x<0.0, x> last)};
    }
    return {centred, {}};
  }

  Expr clamped(Expr places, const Axis& a) { return min(max(places, 0.0), size(a.in - 1)).to(DType::i64); }

  Expr nearest(Expr x, const Axis& a, const Source& s) {
    Expr place = rounding_ == "round_prefer_floor"  ? call("ceil", s.x - 0.5)
                 : rounding_ == "round_prefer_ceil" ? call("floor", s.x + 0.5)
                                                    : call(rounding_ == "ceil" ? "ceil" : "floor", s.x);
    return take(x, clamped(place, a), static_cast<std::int64_t>(a.axis));
  }

  static Expr max(Expr a, double v) { return ag::ops::max(a, a.lit(v)); }

  /// The interpolation kernel: a hat, or Keys' cubic with parameter a.
  Expr kernel(Expr u) {
    u = abs(u);
    if (mode_ == "linear") return max(1 - u, 0.0);
    double a = attr_number(attrs_, "cubic_coeff_a", -0.75);
    Expr near = ((a + 2) * u - (a + 3)) * u * u + 1, far = ((a * u - 5 * a) * u + 8 * a) * u - 4 * a;
    return select(u <= 1.0, near, select(u < 2.0, far, 0));
  }

  /// Offsets of the taps from the element before the coordinate, f64 [taps], and what distances are multiplied by:
  /// antialiasing widens the kernel where the axis shrinks.
  struct Reach {
    Expr offsets, shrink;
    Dim count;
  };
  Reach reach(const Axis& a) {
    double radius = mode_ == "linear" ? 1 : 2;
    bool antialias = attr_int(attrs_, "antialias", 0) != 0, sized = a.in.is_const() && a.out->is_const();
    if (antialias && (a.computed_scale.id() || (!a.scale && !sized))) {
      Expr shrink = ag::ops::min(scale(a), number(1)), first = call("floor", -radius / shrink) + 1;
      Dim count = fresh_sizes(b_, Expr(b_, b_.reshape((2 - 2 * first).to(DType::i64), {1})))[0];
      return {Expr(b_, b_.iota({DType::f64, {count}}, 0)) + first, shrink, count};
    }
    double shrink = 1;
    if (antialias)
      shrink =
          std::min(1.0, a.scale ? *a.scale : static_cast<double>(a.out->value()) / static_cast<double>(a.in.value()));
    auto first = static_cast<std::int64_t>(std::floor(-radius / shrink)) + 1, count = 2 - 2 * first;
    return {Expr(b_, b_.iota({DType::f64, {count}}, 0)) + static_cast<double>(first), number(shrink), count};
  }

  Expr taps(Expr x, const Axis& a, const Source& s) {
    bool antialias = attr_int(attrs_, "antialias", 0) != 0, exclude = attr_int(attrs_, "exclude_outside", 0) != 0;
    auto [offset, shrink, count] = reach(a);
    Expr floor = call("floor", s.x);
    Dims grid{*a.out, count};
    auto rows = [&](Expr v) { return v.with(b_.broadcast_in_dim(v, grid, Ints{0})); };
    Expr places = rows(floor) + offset, weights = kernel((offset - rows(s.x - floor)) * shrink);
    if (exclude) weights = select(both(places >= 0.0, places <= size(a.in - 1)), weights, 0);
    if (exclude || antialias) weights = weights / reduce("reduce_sum", weights, {1}, true);
    DType t = x.dtype(), wide = is_float(t) ? accumulator_dtype(t) : dtype_bytes(t) < 4 ? DType::f32 : DType::f64;
    Expr taken = take(x, clamped(places, a), static_cast<std::int64_t>(a.axis)).to(wide);
    Dims shape(taken.type().shape.size(), 1);
    shape[a.axis] = *a.out, shape[a.axis + 1] = count;
    Expr w = weights.to(wide);
    Expr sum = reduce("reduce_sum", taken * w.with(b_.reshape(w, shape)), {static_cast<std::int64_t>(a.axis) + 1});
    return sum.to(t);
  }
};

/// Scales and sizes of the axes from operands that the compiler does not know.
void compute_sizes(Builder& b, const View& n, const Given& given, std::vector<Axis>& axes) {
  Dims in, out;
  for (Axis& axis : axes) {
    in.push_back(axis.in);
    axis.out = n.out().shape[axis.axis];
    out.push_back(*axis.out);
  }
  Expr from = size_vector(b, in).to(DType::f64), scales, sizes;
  if (given.sizes) {
    sizes = as_sizes(b, given.sizes);
    if (keeps_ratio(n.attrs(), given)) {
      Expr one = reduce(not_larger(n.attrs()) ? "reduce_min" : "reduce_max", sizes.to(DType::f64) / from, {0});
      scales = from.with(b.broadcast_to(one, from.type().shape));
      sizes = call("floor", from * scales + 0.5).to(DType::i64);
    }
  } else {
    if (given.scales) {
      scales = Expr(b, b.reshape(given.scales, from.type().shape)).to(DType::f64);
    } else {
      std::vector<double> v = *given.known_scales;
      scales = {b, b.constant(make_literal(Array::of<double>(DType::f64, {static_cast<std::int64_t>(v.size())}, v)))};
    }
    sizes = call("floor", from * scales).to(DType::i64);
  }
  define_sizes(b, sizes, out);
  for (std::size_t i = 0; scales.id() && i < axes.size(); ++i) {
    auto k = static_cast<std::int64_t>(i);
    axes[i].computed_scale = {b, b.reshape(b.slice(scales, {k}, {k + 1}), {})};
  }
}

std::vector<ValueId> resize(Builder& b, const View& n) {
  Given given = given_of(*n.node().op, n.attrs(), n.graph, n.node().operands);
  std::vector<Axis> axes = resized(n.attrs(), n.in(0).shape, given);
  bool known = std::all_of(axes.begin(), axes.end(), [](const Axis& a) { return a.out.has_value(); });
  Expr x(b, n.operand(0));
  Resizer resizer(b, n);
  if (!known || names_sizes(n)) compute_sizes(b, n, given, axes);
  for (std::size_t i = 0; i < axes.size(); ++i) x = resizer.along(x, axes[i], i, axes.size());
  return {x};
}

// ---- The table --------------------------------------------------------------------------------------------

OpSample::Operand numbers(const std::vector<double>& v) {
  return {{DType::f32, {Dim(static_cast<std::int64_t>(v.size()))}},
          make_literal(Array::of<double>(DType::f32, {static_cast<std::int64_t>(v.size())}, v))};
}

OpSample resize_sample(std::string_view type, std::vector<double> scales, Ints sizes,
                       std::vector<std::pair<std::string, AttrValue>> attrs, std::vector<double> roi = {}) {
  OpSample s{{sample_operand(type), numbers(roi), numbers(scales)}, {}};
  if (!sizes.empty()) s.operands.push_back(sample_ints(sizes));
  for (auto& [name, v] : attrs) s.attrs.set(name, std::move(v));
  return s;
}

std::vector<OpSample> resize_samples() {
  using S = std::string;
  std::vector<OpSample> all;
  for (const char* mode : {"nearest", "linear", "cubic"}) {
    all.push_back(resize_sample("f64[1,2,3,4]", {1, 1, 2, 1.5}, {}, {{"mode", S(mode)}}));
    all.push_back(resize_sample("f64[1,1,5,6]", {}, {1, 1, 3, 4},
                                {{"mode", S(mode)}, {"coordinate_transformation_mode", S("align_corners")}}));
  }
  for (const char* transform : {"asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"})
    all.push_back(
        resize_sample("f64[1,1,4,4]", {0.6, 0.3}, {},
                      {{"mode", S("linear")}, {"axes", Ints{2, 3}}, {"coordinate_transformation_mode", S(transform)}}));
  for (const char* rounding : {"floor", "ceil", "round_prefer_ceil"})
    all.push_back(resize_sample("f32[2,3]", {}, {5, 7}, {{"nearest_mode", S(rounding)}}));
  all.push_back(resize_sample("f64[6,5]", {0.5, 0.6}, {}, {{"mode", S("cubic")}, {"antialias", std::int64_t{1}}}));
  all.push_back(resize_sample("f64[6,5]", {}, {4, 3}, {{"mode", S("linear")}, {"antialias", std::int64_t{1}}}));
  all.push_back(resize_sample("f64[4,4]", {0.8, 2}, {}, {{"mode", S("cubic")}, {"exclude_outside", std::int64_t{1}}}));
  all.push_back(resize_sample("f64[4,4]", {}, {3, 3},
                              {{"mode", S("linear")},
                               {"coordinate_transformation_mode", S("tf_crop_and_resize")},
                               {"extrapolation_value", 10.0}},
                              {0.4, 0.6, 1.2, 1.7}));
  all.push_back(resize_sample("f64[2,4]", {}, {7, 8}, {{"keep_aspect_ratio_policy", S("not_larger")}}));
  all.push_back(
      resize_sample("f64[2,4]", {}, {7, 8}, {{"keep_aspect_ratio_policy", S("not_smaller")}, {"mode", S("linear")}}));
  all.push_back(resize_sample("u8[3,4]", {2, 2}, {}, {{"mode", S("linear")}}));
  all.back().operands[0] = sample_operand("u8[3,4]", 0, 200);
  all.push_back(resize_sample("f16[3,4]", {2, 2}, {}, {{"mode", S("linear")}}));
  return all;
}

std::vector<OpSample> upsample_samples() {
  OpSample nearest{{sample_operand("f64[1,1,2,3]"), numbers({1, 1, 2, 3})}, {}}, linear = nearest;
  linear.attrs.set("mode", std::string("linear"));
  return {nearest, linear};
}
std::vector<OpSample> upsample_7_samples() {
  std::vector<double> scales{1, 1, 2, 3};
  return {sample({"f64[1,1,2,3]"}, {{"scales", scales}}),
          sample({"f64[1,1,2,3]"}, {{"scales", scales}, {"mode", std::string("linear")}})};
}

}  // namespace

std::vector<OpInfo> resize_ops() {
  OperandSpec x{.name = "X"},
      scales{.name = "scales", .type_var = "S", .dtypes = set_of(DType::f32), .constant_ints = true};
  OpInfo now = composite({.name = "Resize",
                          .since = 11,
                          .summary = "another size by interpolation",
                          .infer = infer_resize,
                          .decompose = resize,
                          .samples = resize_samples});
  OperandSpec optional_scales = scales;
  optional_scales.optional = true;
  now.operands = {x,
                  {.name = "roi", .type_var = "R", .dtypes = floats, .optional = true},
                  optional_scales,
                  int_operand("sizes", true)};
  now.attrs = {choice_attr("mode", {"nearest", "linear", "cubic"}),
               choice_attr("coordinate_transformation_mode",
                           {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                            "tf_crop_and_resize", "tf_half_pixel_for_nn"}),
               choice_attr("nearest_mode", {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"}),
               choice_attr("keep_aspect_ratio_policy", {"stretch", "not_larger", "not_smaller"}),
               number_attr("cubic_coeff_a", -0.75),
               number_attr("extrapolation_value", 0),
               int_attr("exclude_outside", 0),
               int_attr("antialias", 0),
               {"axes", AttrKind::ints}};
  OpInfo old = composite({.name = "Resize_10",
                          .onnx = "Resize",
                          .since = 10,
                          .until = 10,
                          .summary = "another size by interpolation",
                          .infer = infer_resize,
                          .decompose = resize,
                          .samples = upsample_samples});
  old.operands = {x, scales};
  old.attrs = {choice_attr("mode", {"nearest", "linear", "bilinear"})};
  OpInfo up = old;
  up.name = "Upsample", up.onnx = "Upsample", up.since = 9, up.until = 9;
  OpInfo up7 = up;
  up7.name = "Upsample_7", up7.since = 1, up7.until = 8;
  up7.operands = {x};
  up7.attrs.push_back({"scales", AttrKind::numbers, true});
  up7.samples = upsample_7_samples;
  return {now, old, up, up7};
}

}  // namespace ag::ops

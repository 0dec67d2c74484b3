// Images: sampling at points (GridSample, AffineGrid, DeformConv), patches (Col2Im), cropping.
#include "ir/ops/data_sizes.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/sample_points.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Component i of the last axis.
Expr component(Expr v, std::size_t i) {
  Dims start(v.type().shape.size(), 0), limit = v.type().shape, shape = limit;
  start.back() = static_cast<std::int64_t>(i), limit.back() = static_cast<std::int64_t>(i + 1);
  shape.pop_back();
  return v.with(v.builder().reshape(v.builder().slice(v, start, limit), shape));
}

// ---- GridSample -------------------------------------------------------------------------------------------

Types infer_grid_sample(const InferCtx& c) {
  const Type &x = c.in(0), &grid = c.in(1);
  bool fits =
      x.rank() >= 3 && grid.rank() == x.rank() && (!grid.shape.back().is_const() || grid.shape.back().is(x.rank() - 2));
  Dim rows = fits ? grid.shape[0] - x.shape[0] : Dim(1);
  if (!fits || (rows.is_const() && !rows.is(0)))
    return c.error(Code::AG2208, fmt::format("`GridSample`: a grid {} does not address {}", grid.str(), x.str()),
                   "the grid has batch, the result's sizes, and a coordinate for each spatial axis", {0, 1});
  Dims shape = joined(dims_between(x.shape, 0, 2), dims_between(grid.shape, 1, grid.shape.size() - 1));
  return std::vector<Type>{{x.dtype, std::move(shape)}};
}

std::vector<ValueId> grid_sample(Builder& b, const View& n) {
  std::string mode = attr_string(n.attrs(), "mode", "linear"),
              padding = attr_string(n.attrs(), "padding_mode", "zeros");
  bool corners = attr_int(n.attrs(), "align_corners", 0) != 0;
  Expr x(b, n.operand(0)), grid(b, n.operand(1));
  grid = grid.to(accumulator_dtype(grid.dtype()));
  Dims space = dims_from(n.in(0).shape, 2);
  std::vector<Expr> points;
  for (std::size_t d = 0; d < space.size(); ++d) {
    Expr g = component(grid, space.size() - 1 - d), size = size_value(b, space[d], grid.dtype());
    points.push_back(corners ? (g + 1) / 2 * (size - 1) : ((g + 1) * size - 1) / 2);
  }
  Sampling how{mode == "nearest"                      ? Interpolation::nearest
               : mode == "cubic" || mode == "bicubic" ? Interpolation::cubic
                                                      : Interpolation::linear,
               padding == "border"       ? Border::border
               : padding == "reflection" ? Border::reflection
                                         : Border::zeros,
               corners,
               {}};
  return {sample_points(x, points, how)};
}

std::vector<OpSample> grid_samples(std::vector<std::string> modes) {
  std::vector<OpSample> all;
  auto add = [&](std::string_view x, std::string_view grid, std::string mode, std::string padding,
                 std::int64_t corners) {
    OpSample s{{sample_operand(x), sample_operand(grid, -1.3, 1.3)}, {}};
    s.attrs = {{"mode", mode}, {"padding_mode", padding}, {"align_corners", corners}};
    all.push_back(s);
  };
  for (const std::string& mode : modes)
    for (std::int64_t corners : {0, 1}) {
      add("f64[1,2,4,5]", "f64[1,3,2,2]", mode, "zeros", corners);
      add("f64[2,1,3,4]", "f64[2,2,2,2]", mode, corners ? "border" : "reflection", corners);
    }
  add("f64[1,1,4,3]", "f64[1,2,3,2]", modes[0], "reflection", 1);
  add("f64[1,1,3,3,2]", "f64[1,2,1,2,3]", modes[0], "zeros", 0);
  add("f16[1,1,3,3]", "f16[1,2,2,2]", modes[0], "zeros", 0);
  return all;
}

OpInfo grid_sample_op(std::string_view name, int since, int until, std::vector<std::string_view> modes) {
  OpInfo o = composite({.name = name,
                        .onnx = "GridSample",
                        .since = since,
                        .until = until,
                        .summary = "values of images at points in [-1, 1]"});
  o.operands = {{.name = "X"}, {.name = "grid", .type_var = "T2", .dtypes = floats}};
  o.attrs = {choice_attr("mode", modes), choice_attr("padding_mode", {"zeros", "border", "reflection"}),
             int_attr("align_corners", 0)};
  o.infer = infer_grid_sample;
  o.decompose = grid_sample;
  o.smooth = false;
  return o;
}

// ---- AffineGrid -------------------------------------------------------------------------------------------

/// The elements of a vector of sizes; what the compiler does not know is named for the result's axis `axis(i)`.
template <class Axis>
Result<Dims> sizes_or_symbols(const InferCtx& c, std::size_t operand, Axis axis) {
  AG_TRY(PartDims some, sizes_of(c, operand));
  Dims out;
  for (std::size_t i = 0; i < some.size(); ++i) out.push_back(some[i] ? *some[i] : c.unbacked(axis(i)));
  return out;
}

Types infer_affine_grid(const InferCtx& c) {
  AG_TRY(Dims size, sizes_or_symbols(c, 1, [](std::size_t i) { return i; }));
  std::size_t r = size.size() < 2 ? 0 : size.size() - 2;
  const Dims& theta = c.in(0).shape;
  auto is = [](const Dim& d, std::size_t n) { return !d.is_const() || d.is(static_cast<std::int64_t>(n)); };
  if ((r != 2 && r != 3) || theta.size() != 3 || !is(theta[1], r) || !is(theta[2], r + 1))
    return c.error(Code::AG2208,
                   fmt::format("`AffineGrid`: matrices {} for an image of {} sizes", c.in(0).str(), size.size()),
                   "theta is [N,2,3] for N,C,H,W and [N,3,4] for N,C,D,H,W", {0, 1});
  Dims shape = joined(joined({theta[0]}, dims_from(size, 2)), {static_cast<std::int64_t>(r)});
  AG_TRY(shape, checked_shape(c, std::move(shape)));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

std::vector<ValueId> affine_grid(Builder& b, const View& n) {
  Dims out = n.out().shape, space = dims_between(out, 1, out.size() - 1), column = joined(space, {1});
  std::size_t r = space.size();
  bool corners = attr_int(n.attrs(), "align_corners", 0) != 0;
  if (!known(n, 1) || names_sizes(n))
    define_sizes(b, b.slice(as_sizes(b, n.operand(1)), {2}, {static_cast<std::int64_t>(r) + 2}), space);
  DType t = n.in(0).dtype, wide = accumulator_dtype(t);
  std::vector<ValueId> columns;  // x first: the last axis
  for (std::size_t d = r; d-- > 0;) {
    Expr i(b, b.iota({wide, {space[d]}}, 0)), size = size_value(b, space[d], wide);
    Expr centre = corners ? select(size == 1.0, 0, i * 2 / max(size - 1, size.lit(1)) - 1) : (i * 2 + 1) / size - 1;
    columns.push_back(b.broadcast_in_dim(centre, column, Ints{static_cast<std::int64_t>(d)}));
  }
  columns.push_back(b.ones({wide, column}));
  auto axis = static_cast<std::int64_t>(r);
  Expr theta = Expr(b, n.operand(0)).to(wide);
  Expr grid(b, b.dot_general(b.concat(columns, axis), theta, Ints{axis}, Ints{2}));  // [space..., N, r]
  Ints perm{axis};
  for (std::int64_t d = 0; d < axis; ++d) perm.push_back(d);
  perm.push_back(axis + 1);
  return {grid.with(b.transpose(grid, perm)).to(t)};
}

// ---- DeformConv -------------------------------------------------------------------------------------------

Types infer_deform_conv(const InferCtx& c) {
  const Type &x = c.in(0), &w = c.in(1), &offset = c.in(2);
  std::size_t r = x.shape.size() < 2 ? 0 : x.shape.size() - 2;
  std::int64_t group = attr_int(c.attrs(), "group", 1), offsets = attr_int(c.attrs(), "offset_group", 1);
  if (r == 0 || w.rank() != x.rank() || offset.rank() != x.rank())
    return c.error(Code::AG2204,
                   fmt::format("`DeformConv` needs operands of one rank: {}, {}, {}", x.str(), w.str(), offset.str()),
                   {}, {0, 1, 2});
  AG_TRY_(check_onnx_window(c, r));
  Window window = onnx_window(c.attrs(), dims_from(x.shape, 2), dims_from(w.shape, 2));
  auto differ = [](const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; };
  bool fits = group > 0 && offsets > 0 && !differ(x.shape[1], w.shape[1] * group) &&
              !differ(offset.shape[1], product(window.taps) * offsets * static_cast<std::int64_t>(r)) &&
              (!x.shape[1].is_const() || x.shape[1].value() % offsets == 0);
  for (std::size_t d = 0; d < r; ++d) fits = fits && !differ(offset.shape[2 + d], window.count[d]);
  if (!fits)
    return c.error(
        Code::AG2208,
        fmt::format("`DeformConv`: {}, weights {} and offsets {} do not fit", x.str(), w.str(), offset.str()), {},
        {0, 1, 2});
  AG_TRY(Dims shape, checked_shape(c, joined({x.shape[0], w.shape[0]}, window.count)));
  return std::vector<Type>{{x.dtype, std::move(shape)}};
}

/// Samples x at the taps moved by the offsets, then takes their products as a convolution over single elements.
std::vector<ValueId> deform_conv(Builder& b, const View& n) {
  Dims xs = n.in(0).shape, ws = n.in(1).shape, result = n.out().shape;
  Window w = onnx_window(n.attrs(), dims_from(xs, 2), dims_from(ws, 2));
  std::size_t r = w.rank();
  std::int64_t group = attr_int(n.attrs(), "group", 1), groups = attr_int(n.attrs(), "offset_group", 1);
  Dim images = xs[0] * groups, taps = product(w.taps), count = product(w.count);
  Expr x(b, b.reshape(n.operand(0), joined({images, floordiv(xs[1], groups)}, w.space))), offset(b, n.operand(2));
  offset = offset.with(b.reshape(offset, joined({images, taps, static_cast<std::int64_t>(r)}, w.count)));
  DType wide = accumulator_dtype(x.dtype());
  Dims grid = joined(w.taps, w.count);
  std::vector<Expr> points;
  for (std::size_t d = 0; d < r; ++d) {
    Dims start(3 + r, 0), limit = joined({images, taps, static_cast<std::int64_t>(d + 1)}, w.count);
    start[2] = static_cast<std::int64_t>(d);
    Expr moved(b, b.reshape(b.slice(offset, start, limit), joined({images}, grid)));
    Expr position(b, b.iota({wide, grid}, static_cast<std::int64_t>(r + d))),
        tap(b, b.iota({wide, grid}, static_cast<std::int64_t>(d)));
    Expr place = position * static_cast<double>(w.strides[d]) + tap * static_cast<double>(w.dilations[d]) -
                 size_value(b, w.low[d], wide);
    points.push_back(moved.to(wide) + place);
  }
  Expr columns = sample_points(x, points, {});  // [images, C/groups, taps..., count...]
  if (n.has(4)) columns = columns * Expr(b, b.reshape(n.operand(4), joined({images, 1}, grid)));
  columns = columns.with(b.reshape(columns, {xs[0], xs[1] * taps, count}));
  ValueId f = b.reshape(n.operand(1), {ws[0], ws[1] * taps, 1});
  Window point{{count}, {1}, {count}, {0}, {1}, {1}};
  Expr y(b, b.add_op("conv", {columns.id(), f},
                     window_attrs(point,
                                  {{"role", std::string("output")}, {"size", Dims{count}}, {"groups", Dims{group}}})));
  y = y.with(b.reshape(y, result));
  if (n.has(3)) {
    Dims shape(r + 1, 1);
    shape[0] = ws[0];
    y = y + Expr(b, b.reshape(n.operand(3), shape));
  }
  return {y};
}

// ---- Col2Im, CenterCropPad --------------------------------------------------------------------------------

/// The result has the image's sizes; channels are what is left of a column.
Types infer_col2im(const InferCtx& c) {
  AG_TRY(Dims image, sizes_or_symbols(c, 1, [](std::size_t i) { return i + 2; }));
  AG_TRY(PartDims block, sizes_of(c, 2));
  const Type& x = c.in(0);
  bool fits = x.rank() == 3 && image.size() == block.size() && !image.empty();
  AG_TRY_(check_onnx_window(c, image.size()));
  Dims taps;
  for (const auto& d : block)
    if (d) taps.push_back(*d);
  Dim channels;
  if (fits && taps.size() == block.size()) {
    Dim size = product(taps);
    fits = size.valid() && (!size.is_const() || size.value() > 0);
    if (fits && size.is_const() && x.shape[1].is_const()) fits = x.shape[1].value() % size.value() == 0;
    Dim rest = fits ? product(onnx_window(c.attrs(), image, taps).count) - x.shape[2] : Dim(1);
    fits = fits && (!rest.is_const() || rest.is(0));
    if (fits) channels = floordiv(x.shape[1], size);
  } else {
    channels = c.unbacked(1);
  }
  if (!fits)
    return c.error(Code::AG2208,
                   fmt::format("`Col2Im`: columns {} do not make an image {} of blocks {}", x.str(), shape_str(image),
                               shape_str(taps)),
                   {}, {0, 1, 2});
  AG_TRY(Dims shape, checked_shape(c, joined({x.shape[0], channels}, image)));
  return std::vector<Type>{{x.dtype, std::move(shape)}};
}

std::vector<ValueId> col2im(Builder& b, const View& n) {
  Dims out = n.out().shape, image = dims_from(out, 2), taps;
  if (known(n, 1) && known(n, 2) && !names_sizes(n)) {
    taps = *known(n, 2);
  } else {
    Expr block = as_sizes(b, n.operand(2)), size = reduce("reduce_prod", block, {0});
    Expr channels = size_value(b, n.in(0).shape[1], DType::i64) / size;
    define_sizes(b, as_sizes(b, n.operand(1)), image);
    define_sizes(b, b.reshape(channels, {1}), {out[1]});
    taps = known(n, 2) ? *known(n, 2) : fresh_sizes(b, block);
  }
  Window w = onnx_window(n.attrs(), image, taps);
  Expr x(b, b.reshape(n.operand(0), joined(joined({out[0], out[1]}, w.taps), w.count)));
  return {fold_windows(x, w)};
}

Types infer_center(const InferCtx& c) {
  Type t = c.in(0);
  Ints axes = c.attrs().get_or<Ints>("axes", iota_ints(t.rank()));
  AG_TRY_(checked_axes(c, axes, t.rank()));
  AG_TRY(Dims sizes, sizes_or_symbols(c, 1, [&](std::size_t i) {
           return i < axes.size() ? at(*normalize_axis(axes[i], t.rank())) : i;
         }));
  if (axes.size() != sizes.size())
    return c.error(Code::AG2206, fmt::format("`CenterCropPad`: {} sizes for {} axes", sizes.size(), axes.size()), {},
                   {1});
  for (std::size_t i = 0; i < axes.size(); ++i) t.shape[at(*normalize_axis(axes[i], t.rank()))] = sizes[i];
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

/// Half of what is cropped or padded lies in front, rounded down.
std::vector<ValueId> center_crop_pad(Builder& b, const View& n) {
  Dims from = n.in(0).shape, to = n.out().shape, start, limit, low, high;
  if (!known(n, 1) || names_sizes(n)) {
    Dims named;
    for (std::int64_t d : n.attrs().get_or<Ints>("axes", iota_ints(n.in(0).rank())))
      named.push_back(to[at(*normalize_axis(d, n.in(0).rank()))]);
    define_sizes(b, as_sizes(b, n.operand(1)), named);
  }
  for (std::size_t d = 0; d < from.size(); ++d) {
    Dim more = max(to[d] - from[d], 0);
    start.push_back(floordiv(max(from[d] - to[d], 0), 2));
    limit.push_back(start[d] + min(from[d], to[d]));
    low.push_back(floordiv(more, 2));
    high.push_back(more - low[d]);
  }
  Type value{n.in(0).dtype, {}};
  return {b.add_op("pad", {b.slice(n.operand(0), start, limit, Ints(from.size(), 1)), b.zeros(value)},
                   {{"low", low}, {"high", high}, {"interior", Ints(from.size(), 0)}})};
}

// ---- The table --------------------------------------------------------------------------------------------

OpInfo affine_grid_op() {
  OpInfo o = composite({.name = "AffineGrid",
                        .since = 20,
                        .summary = "a grid of points under affine maps",
                        .infer = infer_affine_grid,
                        .decompose = affine_grid});
  o.operands = {{.name = "theta", .dtypes = floats}, int_operand("size")};
  o.results = {{"grid"}};
  o.attrs = {int_attr("align_corners", 0)};
  o.samples = [] {
    std::vector<OpSample> all;
    for (std::int64_t corners : {0, 1}) {
      all.push_back({{sample_operand("f64[2,2,3]"), sample_ints({2, 3, 4, 5})}, {{"align_corners", corners}}});
      all.push_back({{sample_operand("f32[1,3,4]"), sample_ints({1, 1, 2, 1, 3})}, {{"align_corners", corners}}});
    }
    return all;
  };
  return o;
}

OpInfo deform_conv_op() {
  OpInfo o = composite({.name = "DeformConv",
                        .since = 19,
                        .summary = "convolution whose taps are moved by offsets",
                        .infer = infer_deform_conv,
                        .decompose = deform_conv});
  o.operands = {{.name = "X", .dtypes = floats},
                {.name = "W", .dtypes = floats},
                {.name = "offset", .dtypes = floats},
                {.name = "B", .dtypes = floats, .optional = true},
                {.name = "mask", .dtypes = floats, .optional = true}};
  o.attrs = {{"kernel_shape", AttrKind::ints}, {"pads", AttrKind::ints}, {"strides", AttrKind::ints},
             {"dilations", AttrKind::ints},    int_attr("group", 1),     int_attr("offset_group", 1)};
  o.smooth = false;
  o.samples = [] {
    OpSample plain{
        {sample_operand("f64[1,2,4,4]"), sample_operand("f64[3,2,2,2]"), sample_operand("f64[1,8,3,3]", -0.9, 0.9)},
        {}};
    OpSample full{
        {sample_operand("f64[1,4,4,3]"), sample_operand("f64[2,2,2,2]"), sample_operand("f64[1,16,3,2]", -0.9, 0.9),
         sample_operand("f64[2]"), sample_operand("f64[1,8,3,2]")},
        {{"group", std::int64_t{2}},
         {"offset_group", std::int64_t{2}},
         {"strides", Ints{2, 2}},
         {"pads", Ints{1, 1, 1, 1}}}};
    return std::vector<OpSample>{plain, full};
  };
  return o;
}

OpInfo col2im_op() {
  OpInfo o = composite({.name = "Col2Im",
                        .since = 18,
                        .summary = "sums columns of blocks into an image",
                        .infer = infer_col2im,
                        .decompose = col2im});
  o.operands = {{.name = "input"}, int_operand("image_shape"), int_operand("block_shape")};
  o.attrs = {{"pads", AttrKind::ints}, {"strides", AttrKind::ints}, {"dilations", AttrKind::ints}};
  o.samples = [] {
    return std::vector<OpSample>{{{sample_operand("f64[1,4,9]"), sample_ints({4, 4}), sample_ints({2, 2})}, {}},
                                 {{sample_operand("f64[2,6,6]"), sample_ints({5, 5}), sample_ints({2, 3})},
                                  {{"pads", Ints{0, 1, 1, 0}}, {"strides", Ints{2, 3}}}}};
  };
  return o;
}

OpInfo center_op() {
  OpInfo o = composite({.name = "CenterCropPad",
                        .since = 18,
                        .summary = "cropped or padded about the centre",
                        .infer = infer_center,
                        .decompose = center_crop_pad});
  o.operands = {{.name = "input_data"}, int_operand("shape")};
  o.attrs = {{"axes", AttrKind::ints}};
  o.samples = [] {
    return std::vector<OpSample>{{{sample_operand("f64[5,3,4]"), sample_ints({2, 6, 4})}, {}},
                                 {{
                                      sample_operand("f64[4,3]"),
                                      sample_ints({7}),
                                  },
                                  {{"axes", Ints{-1}}}}};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> spatial_ops() {
  OpInfo now = grid_sample_op("GridSample", 20, 1 << 20, {"linear", "nearest", "cubic"});
  now.samples = [] { return grid_samples({"linear", "nearest", "cubic"}); };
  OpInfo old = grid_sample_op("GridSample_16", 16, 19, {"bilinear", "nearest", "bicubic"});
  old.samples = [] { return grid_samples({"bilinear"}); };
  std::vector<OpInfo> all{now, old, affine_grid_op(), deform_conv_op(), col2im_op(), center_op()};
  for (auto more : {resize_ops, region_ops})
    for (OpInfo& o : more()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag

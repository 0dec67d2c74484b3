// Pools over regions of interest.
#include "ir/ops/data_sizes.hpp"
#include "ir/ops/sample_points.hpp"

namespace ag::ops {
namespace {

/// Column i of [rows, columns], as [rows, 1...] of this rank.
Expr column(Expr v, std::int64_t i, std::size_t rank) {
  Builder& b = v.builder();
  Dim rows = v.type().shape[0];
  Dims shape(rank, 1);
  shape[0] = rows;
  return v.with(b.reshape(b.slice(v, {0, i}, {rows, i + 1}), shape));
}

// ---- RoiAlign ---------------------------------------------------------------------------------------------

struct RoiAlign {
  std::int64_t height, width, samples;
  double scale;
  bool half_pixel, max;
  explicit RoiAlign(const View& n)
      : height(attr_int(n.attrs(), "output_height", 1)),
        width(attr_int(n.attrs(), "output_width", 1)),
        samples(attr_int(n.attrs(), "sampling_ratio", 0)),
        scale(attr_number(n.attrs(), "spatial_scale", 1)),
        half_pixel(n.node().op->name == "RoiAlign" &&
                   attr_string(n.attrs(), "coordinate_transformation_mode", "half_pixel") == "half_pixel"),
        max(attr_string(n.attrs(), "mode", "avg") == "max") {}
};

Types infer_roi_align(const InferCtx& c) {
  const Type &x = c.in(0), &rois = c.in(1), &batch = c.in(2);
  if (x.rank() != 4 || rois.rank() != 2 || batch.rank() != 1 || (rois.shape[1].is_const() && !rois.shape[1].is(4)))
    return c.error(Code::AG2204,
                   fmt::format("`RoiAlign` needs X [N,C,H,W], rois [R,4] and batch indices [R]: {}, {}, {}", x.str(),
                               rois.str(), batch.str()),
                   {}, {0, 1, 2});
  std::int64_t h = attr_int(c.attrs(), "output_height", 1), w = attr_int(c.attrs(), "output_width", 1);
  if (h < 1 || w < 1) return c.error(Code::AG2206, "`RoiAlign`: output sizes are at least 1");
  return std::vector<Type>{{x.dtype, {rois.shape[0], x.shape[1], h, w}}};
}

/// Samples along one axis. Without a ratio a region takes as many a bin as elements fit into it; then `count` is that
/// of the largest region, and the other regions leave the last ones out.
struct Line {
  Expr places, on;  ///< [R, bins * count]: coordinates, and whether they lie on the image
  Dim count;        ///< samples a bin
  Expr own, used;   ///< without a ratio: samples of each region [R, 1, 1], and which ones it takes [R, bins, count]
};
Line sample_line(Expr rois, std::int64_t low, std::int64_t high, std::int64_t bins, const RoiAlign& r,
                 const Dim& size) {
  Builder& b = rois.builder();
  DType t = rois.dtype();
  Dim regions = rois.type().shape[0];
  double offset = r.half_pixel ? 0.5 : 0;
  Expr start = column(rois, low, 3) * r.scale - offset, end = column(rois, high, 3) * r.scale - offset;
  Expr length = end - start;
  if (!r.half_pixel) length = max(length, length.lit(1));
  Expr bin = length / static_cast<double>(bins);
  Line line;
  line.count = r.samples;
  line.own = length.lit(static_cast<double>(r.samples));
  if (r.samples <= 0) {
    line.own = call("ceil", bin);
    Expr most = max(reduce("reduce_max", line.own, {0, 1, 2}), bin.lit(0));
    line.count = fresh_sizes(b, bin.with(b.reshape(most.to(DType::i64), {1})))[0];
  }
  Dims grid{1, bins, line.count};
  Expr i(b, b.iota({t, grid}, 2)), p(b, b.iota({t, grid}, 1));
  Expr places = start + p * bin + (i + 0.5) * (bin / line.own);
  auto flat = [&](Expr v) { return v.with(b.reshape(v, {regions, Dim(bins) * line.count})); };
  Expr extent = size_value(b, size, t);
  line.on = flat(both(places >= -1.0, places <= extent));
  line.places = flat(min(max(places, places.lit(0)), extent - 1));
  if (r.samples <= 0) line.used = i.with(b.broadcast_to(i, {regions, bins, line.count})) < line.own;
  return line;
}

std::vector<ValueId> roi_align(Builder& b, const View& n) {
  RoiAlign r(n);
  Dims shape = n.in(0).shape;
  DType t = n.in(0).dtype;
  Expr x(b, n.operand(0)), rois = Expr(b, n.operand(1)).to(accumulator_dtype(n.in(1).dtype));
  Dim count = n.in(1).shape[0];
  Line y = sample_line(rois, 1, 3, r.height, r, shape[2]), w = sample_line(rois, 0, 2, r.width, r, shape[3]);
  Dim rows = Dim(r.height) * y.count, columns = Dim(r.width) * w.count;
  auto at = [&](Expr v, Dims s) { return v.with(b.reshape(v, s)); };
  Sampling how{Interpolation::linear, Border::border, true, Expr(b, n.operand(2)).to(DType::i64)};
  Expr taps = sample_taps(x, {at(y.places, {count, rows, 1}), at(w.places, {count, 1, columns})}, how);
  Expr on = both(at(y.on, {count, 1, 1, 1, rows, 1}), at(w.on, {count, 1, 1, 1, 1, columns}));
  taps = select(on, taps, 0);  // [R, C, 2, 2, rows, columns]
  taps = at(taps, {count, shape[1], 2, 2, r.height, y.count, r.width, w.count});
  const Ints pooled{2, 3, 5, 7};
  if (!y.used.id()) {
    if (r.max) return {reduce("reduce_max", taps, pooled).to(t)};
    return {(reduce("reduce_sum", taps, pooled) / static_cast<double>(r.samples * r.samples)).to(t)};
  }
  Expr used =
      both(at(y.used, {count, 1, 1, 1, r.height, y.count, 1, 1}), at(w.used, {count, 1, 1, 1, 1, 1, r.width, w.count}));
  Expr own = at(max(y.own, y.own.lit(0)) * max(w.own, w.own.lit(0)), {count, 1, 1, 1}).to(taps.dtype());
  if (!r.max) return {(reduce("reduce_sum", select(used, taps, 0), pooled) / max(own, own.lit(1))).to(t)};
  Expr none(b, b.reduce("reduce_max", b.zeros({taps.dtype(), {0}}), {0}));  // -inf
  return {select(own > 0.0, reduce("reduce_max", select(used, taps, none), pooled), 0).to(t)};
}

// ---- MaxRoiPool -------------------------------------------------------------------------------------------

Types infer_max_roi_pool(const InferCtx& c) {
  const Type &x = c.in(0), &rois = c.in(1);
  Ints pooled = attr_ints(c.attrs(), "pooled_shape");
  if (x.rank() != 4 || rois.rank() != 2 || (rois.shape[1].is_const() && !rois.shape[1].is(5)) || pooled.size() != 2 ||
      pooled[0] < 1 || pooled[1] < 1)
    return c.error(Code::AG2204,
                   fmt::format("`MaxRoiPool` needs X [N,C,H,W], rois [R,5] and two sizes: {}, {}", x.str(), rois.str()),
                   {}, {0, 1});
  return std::vector<Type>{{x.dtype, {rois.shape[0], x.shape[1], pooled[0], pooled[1]}}};
}

/// Whether element e of an axis belongs to bin p of region r: [R, bins, size].
Expr bins_of(Expr rois, std::int64_t low, std::int64_t high, std::int64_t bins, double scale, const Dim& size) {
  Builder& b = rois.builder();
  DType t = rois.dtype();
  Expr start = call("floor", column(rois, low, 3) * scale + 0.5),
       end = call("floor", column(rois, high, 3) * scale + 0.5);
  Expr length = end - start + 1;
  Expr step = max(length, length.lit(1)) / static_cast<double>(bins), p(b, b.iota({t, {1, bins, 1}}, 1));
  Expr from = call("floor", p * step) + start, to = call("ceil", (p + 1) * step) + start;
  Expr e(b, b.iota({t, {1, 1, size}}, 2));
  return both(e >= from, e < to);
}

/// Maxima along columns, then rows; a bin without elements is 0.
std::vector<ValueId> max_roi_pool(Builder& b, const View& n) {
  Dims shape = n.in(0).shape;
  Ints pooled = attr_ints(n.attrs(), "pooled_shape");
  double scale = attr_number(n.attrs(), "spatial_scale", 1);
  Expr x(b, n.operand(0)), rois(b, n.operand(1));
  DType t = x.dtype();
  Dim count = n.in(1).shape[0];
  Expr images = take(x, column(rois, 0, 1).to(DType::i64), 0);  // [R, C, H, W]
  Expr rows = bins_of(rois, 2, 4, pooled[0], scale, shape[2]),
       columns = bins_of(rois, 1, 3, pooled[1], scale, shape[3]);
  auto at = [&](Expr v, Dims s) { return v.with(b.reshape(v, s)); };
  Expr none(b, b.reduce("reduce_max", b.zeros({t, {0}}), {0}));  // -inf
  Expr wide = select(at(columns, {count, 1, 1, pooled[1], shape[3]}),
                     at(images, {count, shape[1], shape[2], 1, shape[3]}), none);
  Expr lines = reduce("reduce_max", wide, {4});  // [R, C, H, PW]
  Expr tall =
      select(at(rows, {count, 1, pooled[0], shape[2], 1}), at(lines, {count, shape[1], 1, shape[2], pooled[1]}), none);
  Expr y = reduce("reduce_max", tall, {3});
  Expr filled = both(reduce("reduce_or", at(rows, {count, 1, pooled[0], 1, shape[2]}), {4}),
                     reduce("reduce_or", at(columns, {count, 1, 1, pooled[1], shape[3]}), {4}));
  return {select(filled, y, 0)};
}

// ---- The table --------------------------------------------------------------------------------------------

std::vector<OpSample> roi_align_samples() {
  std::vector<OpSample> all;
  Array boxes = Array::of<double>(DType::f64, {2, 4}, std::vector<double>{0.3, 0.4, 3.1, 4.2, 1.2, 0.7, 5.3, 3.9});
  OpSample::Operand rois{{DType::f64, {2, 4}}, make_literal(boxes)};
  for (const char* mode : {"avg", "max"}) {
    OpSample s{{sample_operand("f64[2,2,5,6]"), rois, sample_ints({1, 0})}, {}};
    s.attrs = {{"mode", std::string(mode)},
               {"output_height", std::int64_t{2}},
               {"output_width", std::int64_t{3}},
               {"sampling_ratio", std::int64_t{2}}};
    all.push_back(s);
    s.attrs.set("spatial_scale", 0.75);
    s.attrs.set("sampling_ratio", std::int64_t{1});
    all.push_back(s);
    s.attrs.set("sampling_ratio", std::int64_t{0});
    all.push_back(s);
  }
  return all;
}

OpInfo roi_align_op(std::string_view name, int since, int until) {
  OpInfo o = composite({.name = name,
                        .onnx = "RoiAlign",
                        .since = since,
                        .until = until,
                        .summary = "interpolated samples of regions, pooled in bins",
                        .infer = infer_roi_align,
                        .decompose = roi_align,
                        .samples = roi_align_samples});
  o.operands = {{.name = "X", .dtypes = floats},
                {.name = "rois", .dtypes = floats},
                {.name = "batch_indices", .type_var = "I", .dtypes = set_of(DType::i64)}};
  o.attrs = {choice_attr("mode", {"avg", "max"}), int_attr("output_height", 1), int_attr("output_width", 1),
             int_attr("sampling_ratio", 0), number_attr("spatial_scale", 1)};
  return o;
}

}  // namespace

std::vector<OpInfo> region_ops() {
  OpInfo now = roi_align_op("RoiAlign", 16, 1 << 20), old = roi_align_op("RoiAlign_10", 10, 15);
  now.attrs.push_back(choice_attr("coordinate_transformation_mode", {"half_pixel", "output_half_pixel"}));
  OpInfo pool = composite({.name = "MaxRoiPool",
                           .summary = "maxima of the bins of regions",
                           .infer = infer_max_roi_pool,
                           .decompose = max_roi_pool});
  pool.operands = {{.name = "X", .dtypes = floats}, {.name = "rois", .dtypes = floats}};
  pool.attrs = {{"pooled_shape", AttrKind::ints, true}, number_attr("spatial_scale", 1)};
  pool.samples = [] {
    Array boxes = Array::of<double>(DType::f64, {2, 5}, std::vector<double>{1, 0, 0, 4, 3, 0, 1, 1, 9, 3});
    OpSample s{{sample_operand("f64[2,2,5,6]"), {{DType::f64, {2, 5}}, make_literal(boxes)}},
               {{"pooled_shape", Ints{2, 2}}}};
    return std::vector<OpSample>{s};
  };
  return {now, old, pool};
}

}  // namespace ag::ops

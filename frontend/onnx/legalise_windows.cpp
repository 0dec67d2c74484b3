// Sliding windows in ONNX's operators. Windows are read from the padded value by Gather, axis by axis, and summed back
// by ScatterElements over the flattened axes; convolutions and their gradients are Conv and ConvTranspose where the
// attributes of these can say it.
#include <limits>

#include "frontend/onnx/legalise_ops.hpp"
#include "ir/ops/convolution.hpp"

namespace ag::onnx {
namespace {

using namespace ops;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Window window_of(const Attrs& a) {
  Window w;
  w.low = attr_dims(a, "low");
  w.strides = attr_ints(a, "strides"), w.dilations = attr_ints(a, "dilations");
  return w;
}

Expr sum(Expr a, Expr b) { return onnx(a.builder(), "Add", {a, b}); }
Expr times(Expr a, std::int64_t k) {
  return k == 1 ? a : onnx(a.builder(), "Mul", {a, a.with(a.builder().scalar_int(DType::i64, k))});
}

/// The padded axes that windows move over: `before` elements of padding, then the axis, then what the last tap needs.
struct Padded {
  Dims before, after, size;
  explicit Padded(const Window& w) {
    for (std::size_t d = 0; d < w.rank(); ++d) {
      before.push_back(w.low[d]);
      after.push_back(max(w.reach(d) - w.low[d] - w.space[d], Dim(0)));
      size.push_back(before[d] + w.space[d] + after[d]);
    }
  }
};

Expr identity_value(Builder& b, DType t, const std::string& reduction) {
  if (t == DType::boolean) return {b, b.constant(make_splat(t, {}, 0))};
  constexpr double inf = std::numeric_limits<double>::infinity();
  double v = reduction == "max" ? -inf : reduction == "min" ? inf : reduction == "prod" ? 1 : 0;
  return {b, b.constant(make_splat(t, {}, v))};  // integers: the least and the greatest
}

Expr padded(Expr x, const Window& w, const Padded& p, const std::string& reduction) {
  Builder& b = x.builder();
  std::size_t lead = x.type().shape.size() - w.rank();
  Dims pads(lead, Dim(0));
  pads.insert(pads.end(), p.before.begin(), p.before.end());
  pads.insert(pads.end(), lead, Dim(0));
  pads.insert(pads.end(), p.after.begin(), p.after.end());
  if (std::ranges::all_of(pads, [](const Dim& d) { return d.is(0); })) return x;
  return onnx(b, "Pad", {x, size_vector(b, pads), identity_value(b, x.dtype(), reduction)});
}

/// Place of each tap (axis 0) of each window (axis 1) on padded axis d.
Expr places(Builder& b, const Window& w, std::size_t d) {
  Dims shape{w.taps[d], w.count[d]};
  return sum(broadcast(times(ramp(b, w.taps[d]), w.dilations[d]), shape, {0}),
             broadcast(times(ramp(b, w.count[d]), w.strides[d]), shape, {1}));
}

/// Flat place in the padded axes, in the shape `shape`, whose axes taps_at + d are taps and count_at + d positions.
Expr flat_places(Builder& b, const Window& w, const Padded& p, const Dims& shape, std::size_t taps_at,
                 std::size_t count_at) {
  Expr all;
  Dim stride = 1;
  for (std::size_t d = w.rank(); d-- > 0;) {
    Expr one = onnx(b, "Mul", {places(b, w, d), size_value(b, stride, DType::i64)});
    one = broadcast(one, shape, {static_cast<std::int64_t>(taps_at + d), static_cast<std::int64_t>(count_at + d)});
    all = d + 1 == w.rank() ? one : sum(all, one);
    stride = stride * p.size[d];
  }
  return all;
}

/// Flat place of tap number `tap` of each window; `tap` has the axes of positions last.
Expr tap_places(Expr tap, const Window& w, const Padded& p) {
  Builder& b = tap.builder();
  Dims shape = tap.type().shape;
  std::size_t lead = shape.size() - w.rank();
  Expr all, rest = tap;
  Dim stride = 1;
  for (std::size_t d = w.rank(); d-- > 0;) {
    Expr taps = size_value(b, w.taps[d], DType::i64);
    Expr k = onnx(b, "Mod", {rest, taps});
    rest = onnx(b, "Div", {rest, taps});
    Expr position = broadcast(times(ramp(b, w.count[d]), w.strides[d]), shape, {static_cast<std::int64_t>(lead + d)});
    Expr one = onnx(b, "Mul", {sum(times(k, w.dilations[d]), position), size_value(b, stride, DType::i64)});
    all = d + 1 == w.rank() ? one : sum(all, one);
    stride = stride * p.size[d];
  }
  return all;
}

/// Values summed at flat places of the padded axes; the padding is cut off again.
Expr summed_back(Expr values, Expr where, const Window& w, const Padded& p, const Dims& lead) {
  Builder& b = values.builder();
  Dim rows = ag::product(lead), columns = ag::product(p.size);
  Dims flat{rows, floordiv(values.type().elems(), max(rows, Dim(1)))};
  if (values.type().is_static() && rows.is(0)) flat[1] = 0;
  Expr zeros = broadcast(values.lit(0), {rows, columns}, {});
  Expr out = onnx(b, "ScatterElements", {zeros, reshape_to(where, flat), reshape_to(values, flat)},
                  {{"axis", std::int64_t{1}}, {"reduction", std::string("add")}});
  Dims start(lead.size(), Dim(0)), limit = lead;
  for (std::size_t d = 0; d < w.rank(); ++d) {
    start.push_back(p.before[d]);
    limit.push_back(p.before[d] + w.space[d]);
  }
  return slice_of(reshape_to(out, joined(lead, p.size)), start, limit, Ints(start.size(), 1));
}

/// Negative padding crops, which only reading windows can say by Pad.
bool crops(const Window& w) {
  return std::ranges::any_of(w.low, [](const Dim& d) { return d.is_const() && d.value() < 0; });
}

/// The window with its cropped elements as part of the axis: what is summed there falls away with the padding.
Window uncropped(Window w, Dims& cut) {
  cut = Dims(w.rank(), Dim(0));
  for (std::size_t d = 0; d < w.rank(); ++d)
    if (w.low[d].is_const() && w.low[d].value() < 0) {
      cut[d] = Dim(0) - w.low[d];
      w.space[d] = w.space[d] + w.low[d];
      w.low[d] = 0;
    }
  return w;
}

Expr add_cut(Expr x, const Dims& cut) {
  Builder& b = x.builder();
  std::size_t lead = x.type().shape.size() - cut.size();
  Dims pads(2 * x.type().shape.size(), Dim(0));
  for (std::size_t d = 0; d < cut.size(); ++d) pads[lead + d] = cut[d];
  return onnx(b, "Pad", {x, size_vector(b, pads), x.lit(0)});
}

}  // namespace

std::vector<ValueId> rewrite_unfold(Builder& b, const View& n) {
  Window w = window_of(n.attrs());
  w.taps = attr_dims(n.attrs(), "window"), w.count = attr_dims(n.attrs(), "count");
  std::size_t r = w.rank(), lead = n.in(0).shape.size() - r;
  w.space = dims_from(n.in(0).shape, lead);
  Expr x = padded(Expr(b, n.operand(0)), w, Padded(w), attr_string(n.attrs(), "outside", "sum"));
  for (std::size_t d = r; d-- > 0;)
    x = onnx(b, "Gather", {x, places(b, w, d)}, {{"axis", static_cast<std::int64_t>(lead + d)}});
  Ints order = iota_ints(static_cast<std::int64_t>(lead));
  for (std::size_t half : {std::size_t{0}, std::size_t{1}})
    for (std::size_t d = 0; d < r; ++d) order.push_back(static_cast<std::int64_t>(lead + 2 * d + half));
  return {permute(x, order)};
}

std::vector<ValueId> rewrite_fold(Builder& b, const View& n) {
  Window w = window_of(n.attrs());
  Dims shape = n.in(0).shape, space = attr_dims(n.attrs(), "space"), cut;
  std::size_t r = space.size(), lead = shape.size() - 2 * r;
  w.space = space, w.taps = dims_between(shape, lead, lead + r), w.count = dims_from(shape, lead + r);
  bool cropped = crops(w);
  if (cropped) w = uncropped(w, cut);
  Padded p(w);
  Expr where = flat_places(b, w, p, shape, lead, lead + r);
  Expr out = summed_back(Expr(b, n.operand(0)), where, w, p, dims_between(shape, 0, lead));
  return {cropped ? add_cut(out, cut) : out};
}

std::vector<ValueId> rewrite_window_gather(Builder& b, const View& n) {
  Window w = window_of(n.attrs());
  w.taps = attr_dims(n.attrs(), "window"), w.count = attr_dims(n.attrs(), "count");
  std::size_t lead = n.in(0).shape.size() - w.rank();
  w.space = dims_from(n.in(0).shape, lead);
  Padded p(w);
  Dims front = dims_between(n.in(0).shape, 0, lead), result = n.out().shape;
  Expr x = padded(Expr(b, n.operand(0)), w, p, "sum");
  Expr where = tap_places(Expr(b, n.operand(1)).to(DType::i64), w, p);
  Dim rows = ag::product(front);
  Expr out = onnx(b, "GatherElements",
                  {reshape_to(x, {rows, ag::product(p.size)}), reshape_to(where, {rows, ag::product(w.count)})},
                  {{"axis", std::int64_t{1}}});
  return {reshape_to(out, result)};
}

std::vector<ValueId> rewrite_window_scatter(Builder& b, const View& n) {
  Window w = window_of(n.attrs());
  w.space = attr_dims(n.attrs(), "space"), w.taps = attr_dims(n.attrs(), "window");
  std::size_t lead = n.in(0).shape.size() - w.rank();
  w.count = dims_from(n.in(0).shape, lead);
  Dims front = dims_between(n.in(0).shape, 0, lead), cut;
  bool cropped = crops(w);
  if (cropped) w = uncropped(w, cut);
  Padded p(w);
  Expr out = summed_back(Expr(b, n.operand(0)), tap_places(Expr(b, n.operand(1)).to(DType::i64), w, p), w, p, front);
  return {cropped ? add_cut(out, cut) : out};
}

std::vector<ValueId> rewrite_conv(Builder& b, const View& n) {
  if (conv_layout_of(n.attrs()) == ConvLayout::channels_last) return {conv_between_transposes(b, n)};
  std::string role = attr_string(n.attrs(), "role", "output");
  const Dims &p = n.in(0).shape, &q = n.in(1).shape;
  Window w = window_of(n.attrs());
  Dims size = attr_dims(n.attrs(), "size"), groups = attr_dims(n.attrs(), "groups");
  w.space = role == "input" ? size : dims_from(p, 2);
  w.taps = role == "filter" ? size : dims_from(q, 2);
  w.count = role == "output" ? size : role == "input" ? dims_from(p, 2) : dims_from(q, 2);
  std::size_t r = w.rank();
  Ints pads(2 * r), taps(r), extra(r);
  bool fits = r > 0 && is_float(n.in(0).dtype) && n.in(0).is_static() && n.in(1).is_static() && groups[0].is_const();
  for (std::size_t d = 0; d < r && fits; ++d) {
    fits = w.low[d].is_const() && w.taps[d].is_const() && w.count[d].is_const() && w.space[d].is_const();
    if (!fits) break;
    std::int64_t high = w.reach(d).value() - w.low[d].value() - w.space[d].value();
    taps[d] = w.taps[d].value(), pads[d] = w.low[d].value(), pads[r + d] = std::max<std::int64_t>(high, 0);
    extra[d] = std::max<std::int64_t>(-high, 0);
    fits = pads[d] >= 0 && extra[d] < w.strides[d];
  }
  bool one_group = fits && groups[0].is(1);
  if (!fits || (role == "filter" && !one_group)) return n.node().op->decompose(b, n);
  Attrs attrs{{"kernel_shape", taps}, {"strides", w.strides}, {"pads", pads}, {"dilations", w.dilations}};
  Expr x(b, n.operand(0)), y(b, n.operand(1));
  if (role != "filter") {
    attrs.set("group", groups[0].value());
    if (role == "output") return {onnx(b, "Conv", {x, y}, attrs)};
    attrs.set("output_padding", extra);
    return {onnx(b, "ConvTranspose", {x, y}, attrs)};
  }
  // Channels are the batch, the batch is summed, the cotangent is the filter; strides and dilations change places.
  Ints swap = iota_ints(static_cast<std::int64_t>(r) + 2), one(r), spread = w.strides;
  std::swap(swap[0], swap[1]);
  for (std::size_t d = 0; d < r; ++d) one[d] = w.count[d].value();
  attrs = {{"kernel_shape", one}, {"strides", w.dilations}, {"pads", pads}, {"dilations", spread}};
  Expr out = permute(onnx(b, "Conv", {permute(x, swap), permute(y, swap)}, attrs), swap);
  Dims result = n.out().shape;  // elements that no window reads leave room for taps that the filter does not have
  if (out.type().shape != result) out = slice_of(out, Dims(result.size(), Dim(0)), result, Ints(result.size(), 1));
  return {out};
}

}  // namespace ag::onnx

// Sliding windows over the last axes of a value: what convolution, pooling and their gradients share.
#pragma once
#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"

namespace ag::ops {

/// A window over the last axes, one entry an axis. Tap k of the window at output position o lies at
/// o * stride + k * dilation - low of an axis of `space` elements; places outside are padding.
struct Window {
  Dims space;             ///< elements of the axis
  Dims taps;              ///< of the window
  Dims count;             ///< positions of the window
  Dims low;               ///< padding before the first element; negative crops
  Ints strides, dilations;

  std::size_t rank() const { return taps.size(); }
  /// First and one past the last place that any tap reads on axis d, from the axis' first element on.
  Dim first(std::size_t d) const { return Dim(0) - low[d]; }
  Dim reach(std::size_t d) const { return (count[d] - 1) * strides[d] + (taps[d] - 1) * dilations[d] + 1; }
  /// Whether the compiler knows that no tap reads padding on axis d.
  bool inside(std::size_t d) const {
    Dim after = space[d] + low[d] - reach(d);
    return low[d].is_const() && low[d].value() <= 0 && after.is_const() && after.value() >= 0;
  }
  bool inside() const {
    for (std::size_t d = 0; d < rank(); ++d)
      if (!inside(d)) return false;
    return true;
  }
  std::int64_t axes() const { return static_cast<std::int64_t>(rank()); }
};

/// Attributes of the window ops: `low`, `strides`, `dilations`, and what the op has beside them.
Attrs window_attrs(const Window& w, std::initializer_list<std::pair<std::string, AttrValue>> more = {});
std::vector<AttrSpec> window_attr_specs(std::vector<AttrSpec> more);
/// Checks that the attributes fit together and to a value of rank `rank`; AG2206. The number of axes.
Result<std::size_t> check_window_attrs(const InferCtx& c, std::size_t axes, int rank);

/// The windows of x: [..., taps..., count...]; padding is the identity of the reduction `outside`: sum, prod, max, min.
Expr unfold(Expr x, const Window& w, std::string_view outside = "sum");
/// The transpose of unfold: sums [..., taps..., count...] back to [..., space...].
Expr fold_windows(Expr patches, const Window& w);
/// x at tap `which` (row-major number, i32 or i64) of each window; 0 where that is padding.
Expr window_gather(Expr x, Expr which, const Window& w);
/// Its transpose: values at windows go to their tap and are summed.
Expr window_scatter(Expr values, Expr which, const Window& w);
/// reduce_window_sum, _prod, _max, _min.
Expr reduce_window(std::string_view kind, Expr x, const Window& w);
/// Number of the first tap (row-major, i32 or i64) that holds the extremum `y` of x; a NaN is one.
Expr first_winner(Expr x, Expr y, const Window& w, std::string_view kind);

/// Axes `from` to `to` of a shape.
inline Dims dims_between(const Dims& shape, std::size_t from, std::size_t to) {
  return Dims(shape.begin() + static_cast<std::ptrdiff_t>(from), shape.begin() + static_cast<std::ptrdiff_t>(to));
}
inline Dims dims_from(const Dims& shape, std::size_t from) { return dims_between(shape, from, shape.size()); }
inline Dims joined(Dims a, const Dims& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// ---- ONNX's spatial attributes ----------------------------------------------------------------------------

/// kernel_shape, strides, pads, dilations, auto_pad and ceil_mode of a pool or convolution over `space`.
Window onnx_window(const Attrs& a, const Dims& space, const Dims& taps);
/// Padding after the last element that ONNX's attributes ask for (average pools count it).
Dims onnx_high_pads(const Attrs& a, const Window& w);
/// Their lengths, and that strides and dilations are positive; AG2206.
Status check_onnx_window(const InferCtx& c, std::size_t axes);
/// strides, pads, dilations, auto_pad and the others named.
std::vector<AttrSpec> onnx_window_attrs(std::vector<AttrSpec> more);

std::vector<OpInfo> pooling_ops();
std::vector<OpInfo> convolution_layer_ops();
std::vector<OpInfo> resize_ops();
std::vector<OpInfo> region_ops();

}  // namespace ag::ops

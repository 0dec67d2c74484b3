// Winograd's minimal filtering F(t x t, 3 x 3): what the ops, their kernels and the choice among algorithms share.
#pragma once
#include <array>
#include <vector>

#include "ir/op.hpp"
#include "ir/ops/expr.hpp"

namespace ag {

using WinogradMatrix = std::vector<std::vector<double>>;

/// One axis of F(t, 3): y = at * ((g * w) .* (bt * d)) has the `tile` outputs that 3 taps w make of `points` = t + 2
/// inputs d. Two axes: Y = at * ((g W g^T) .* (bt D bt^T)) * at^T. Cook-Toom at 0, 1, -1, infinity for t = 2, and 2, -2
/// beside them for t = 4 (A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015).
struct WinogradTransform {
  std::int64_t tile = 0, points = 0;
  WinogradMatrix bt, g, at;
};
/// For t = 2 or 4.
const WinogradTransform& winograd_transform(std::int64_t tile);

/// Output channels whose transformed filters lie together: U is [panels, points^2, C, winograd_panel].
inline constexpr std::int64_t winograd_panel = 32;

/// What a `winograd` node has for filters: transformed ones, or filters [3,3,C,M] that it transforms itself, or those
/// of the convolution whose input gradient it is, [3,3,M,C], which are turned round.
enum class WinogradFilters : std::uint8_t { transformed, plain, turned };
WinogradFilters winograd_filters_of(const Attrs& attrs);
std::string_view winograd_filters_name(WinogradFilters f);

/// The numbers of a `winograd` node: x [N,H,W,C], U, y [N,OH,OW,M] with y[n,h,w] of x[n, h + i - low, w + j - low].
struct WinogradDesc {
  std::int64_t tile = 2;
  Dim batch, height, width, channels;  ///< of x
  Dim out_height, out_width, filters;  ///< of y
  Dims low;
  Dim rows() const { return ceildiv(out_height, Dim(tile)); }  ///< tiles down an image
  Dim columns() const { return ceildiv(out_width, Dim(tile)); }
  Dim tiles() const { return batch * rows() * columns(); }
  Dim panels() const { return ceildiv(filters, Dim(winograd_panel)); }
};
WinogradDesc describe_winograd(const NodeView&);

/// The same of a `winograd_gradient` node: x [N,H,W,C], cotangent y [N,OH,OW,M], sums [parts,3,3,C,M].
WinogradDesc describe_winograd_gradient(const NodeView&);
/// Parts in which the filter gradient of such a convolution is summed, for parallel tasks where filters are few: a
/// function of the sizes alone.
std::int64_t winograd_gradient_parts(const WinogradDesc& d);
/// Tiles of a part; the last parts may have fewer.
inline Dim winograd_part(const Dim& tiles, std::int64_t parts) {
  return ceildiv(ceildiv(tiles, Dim(parts)), Dim(32)) * Dim(32);
}

/// Filters [3,3,C,M] in an array that may have another order: element (i, j, c, m) lies at offset + the sum of index
/// times stride.
struct FilterView {
  std::int64_t offset = 0;
  std::array<std::int64_t, 4> strides{};
  std::int64_t channels = 0, filters = 0;
};
/// Panels [first, last) of the transformed filters, in the order of taps and points that `winograd_filter` defines.
/// f32 or f64; may run on several threads for different panels once u.as_mutable() has made `u` its own.
void transform_filters(const Array& w, const FilterView& view, std::int64_t tile, std::int64_t first, std::int64_t last,
                       Array& u);

std::vector<OpInfo> winograd_ops();
OpInfo winograd_gradient_op();

/// What the ops share: whether `tile` is one there are transforms for; the Kronecker square of a matrix as a constant.
Status check_winograd_tile(const InferCtx& c);
ops::Expr winograd_square(ops::Expr like, const WinogradMatrix& m);
WinogradMatrix transposed(const WinogradMatrix& m);

}  // namespace ag

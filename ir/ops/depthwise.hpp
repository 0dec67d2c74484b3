// Depthwise convolution over channels-last images: what the op, its kernel and the choice of it share.
#pragma once
#include <vector>

#include "ir/op.hpp"

namespace ag {

/// The numbers of a `depthwise` node: x [N,H,W,C], w [KH,KW,C], y [N,OH,OW,C] with y[n,h,w,c] the sum over i, j of
/// x[n, h * stride[0] + i * dilation[0] - low[0], w * stride[1] + j * dilation[1] - low[1], c] * w[i,j,c].
struct DepthwiseDesc {
  Dim batch, channels;
  Dims size, count;  ///< height and width of x and of y
  Dims low;
  std::vector<std::int64_t> taps, strides, dilations;
  /// Places of an axis that one position of the window spans.
  std::int64_t reach(std::size_t axis) const { return (taps[axis] - 1) * dilations[axis] + 1; }
};
DepthwiseDesc describe_depthwise(const NodeView&);

std::vector<OpInfo> depthwise_ops();

}  // namespace ag

// Rules about convolutions.
#include <algorithm>

#include "ir/ops/convolution.hpp"
#include "passes/rewrite/pattern.hpp"

namespace ag::passes {
namespace {

using ops::ConvLayout;
using ops::ConvRole;
using Int = std::int64_t;

/// Taps [first, last) of one axis are those that ever meet the image.
struct Taps {
  Int first = 0, last = 0;
};

/// Output o of an axis reads o*stride + tap*dilation - low. Taps whose readings all lie in the padding add nothing;
/// with a dilation as large as the image that is most of them. None if a size is unknown, or nothing could be left out.
std::optional<Taps> taps_that_meet(const ops::Window& w, std::size_t axis) {
  if (!w.space[axis].is_const() || !w.taps[axis].is_const() || !w.count[axis].is_const() || !w.low[axis].is_const())
    return std::nullopt;
  const Int in = w.space[axis].value(), taps = w.taps[axis].value(), out = w.count[axis].value(),
            low = w.low[axis].value(), stride = w.strides[axis], dilation = w.dilations[axis];
  auto meets = [&](Int tap) {
    const Int start = tap * dilation - low;  // of o = 0
    const Int o = start >= 0 ? 0 : (-start + stride - 1) / stride;
    return o < out && o * stride + start < in;
  };
  Taps t{0, taps};
  while (t.first < t.last && !meets(t.first)) ++t.first;
  while (t.last > t.first && !meets(t.last - 1)) --t.last;
  return t.first == t.last || (t.first == 0 && t.last == taps) ? std::nullopt : std::optional(t);
}

/// A convolution without the taps that only ever meet padding; a gradient of the filters is zero there.
ValueId drop_dead_taps(GraphBuilder& b, const Candidate& n) {
  ops::ConvParts c = ops::conv_parts(n.attrs, b.type(n.operands[0]).shape, b.type(n.operands[1]).shape);
  const std::size_t spatial = c.window.taps.size(), first = c.layout == ConvLayout::channels_last ? 0 : 2;
  const bool filter = c.role == ConvRole::filter;
  Dims size = n.attrs.get_or<Dims>("size", {});
  const Dims& whole = filter ? n.type.shape : b.type(n.operands[1]).shape;  // of the filters
  Dims start(whole.size(), Dim(0)), limit = whole, behind(whole.size(), Dim(0));
  bool any = false;
  for (std::size_t i = 0; i < spatial; ++i) {
    auto taps = taps_that_meet(c.window, i);
    if (!taps) continue;
    any = true;
    start[first + i] = Dim(taps->first), limit[first + i] = Dim(taps->last);
    behind[first + i] = whole[first + i] - taps->last;
    c.window.taps[i] = Dim(taps->last - taps->first);
    c.window.low[i] = c.window.low[i] - taps->first * c.window.dilations[i];
    if (filter) size[i] = c.window.taps[i];
  }
  if (!any) return {};
  const ValueId q = filter ? n.operands[1] : b.slice(n.operands[1], start, limit);
  const ValueId v = ops::make_conv(b, c.role, c.layout, n.operands[0], q, c.window, c.groups, size);
  if (!filter) return v;
  return b.add_op("pad", {v, b.scalar(n.type.dtype, 0)},
                  {{"low", start}, {"high", behind}, {"interior", std::vector<Int>(whole.size())}});
}

}  // namespace

std::vector<RewriteRule> convolution_rules() {
  RewriteRule taps{.name = "drop-dead-taps", .exactness = Exactness::exact, .from = {}, .to = {}};
  taps.from.kind = Pattern::Kind::op, taps.from.op = "conv";
  taps.apply = drop_dead_taps;
  return {taps};
}

}  // namespace ag::passes

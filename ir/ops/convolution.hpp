// What the parts of convolution share: a `conv` node taken to pieces, and its lowering in either layout.
#pragma once
#include "ir/ops/windows.hpp"

namespace ag::ops {

enum class ConvRole : std::uint8_t { output, input, filter };
/// channels_first: x [N,C,space...], w [M,C/groups,taps...], y [N,M,count...]. channels_last: x [N,space...,C],
/// w [taps...,C/groups,M], y [N,count...,M].
enum class ConvLayout : std::uint8_t { channels_first, channels_last };

/// Shapes of image, filters and output, all as if channels came first.
struct ConvShapes {
  Dims x, w, y;
};

/// What a `conv` node says. The operands are (x, w), (y, w), (x, y) by role.
struct ConvParts {
  ConvRole role;
  ConvLayout layout;
  ConvShapes shapes;
  Window window;  ///< over the spatial axes
  Dim groups;     ///< may be symbolic: a batch of convolutions is one of more groups
};
/// `p` and `q` are the shapes of the operands as they stand in the node's layout.
ConvParts conv_parts(const Attrs& attrs, const Dims& p, const Dims& q);
inline ConvParts conv_parts(const NodeView& n) { return conv_parts(n.attrs(), n.in(0).shape, n.in(1).shape); }

std::string_view conv_role_name(ConvRole role);
ConvRole conv_role_of(const Attrs& attrs);
ConvLayout conv_layout_of(const Attrs& attrs);
/// One of the three values of a convolution: which of them operand `i` or the result (2) is.
enum class ConvValue : std::uint8_t { image, filters, output };
ConvValue conv_value(ConvRole role, std::size_t i);
/// The axes of a value of channels_first in the order of channels_last: what `transpose` takes. `rank` is that of the
/// value.
Ints channels_last_perm(ConvValue value, std::int64_t rank);
/// Its inverse.
Ints channels_first_perm(ConvValue value, std::int64_t rank);
/// `shape` with its axes in the order of `perm`.
Dims permuted(const Dims& shape, const Ints& perm);

/// A `conv` node; `size` are the spatial sizes of its result.
ValueId make_conv(GraphBuilder& b, ConvRole role, ConvLayout layout, ValueId p, ValueId q, const Window& w,
                  const Dim& groups, Dims size);

/// The result of a `conv` node of channels_last by one of channels_first.
ValueId conv_between_transposes(GraphBuilder& b, const NodeView& n);

// ---- Lowering -------------------------------------------------------------------------------------------------

/// x with its axes from `first` on padded so that every tap of the window lies inside, then from the first tap to the
/// last one; `gaps` zeros between elements, `extra` zeros behind. The window is changed to fit; x itself if nothing
/// needs be done.
Expr padded_for(Expr x, Window& w, std::size_t first, const Ints& gaps, const Ints& extra);
/// The operand in memory of its own.
Expr materialized(Expr x);
/// Zeros between elements that a strided input gradient would need are avoided by one correlation for each place
/// modulo the strides, if these are few.
bool few_phases(const Window& w);

/// The result in terms of padding, windows and products.
ValueId lower_channels_first(GraphBuilder& b, const ConvParts& conv, Expr p, Expr q, const Dims& result);
/// The same; an invalid id for what it has no form for (sizes of groups that are not known).
ValueId lower_channels_last(GraphBuilder& b, const ConvParts& conv, Expr p, Expr q);

}  // namespace ag::ops

#include "passes/pixel_product.hpp"

#include <algorithm>

#include "passes/depthwise.hpp"
#include "passes/depthwise_model.hpp"
#include "passes/lower_contraction.hpp"

namespace ag::passes {

using loop::Mapping;
using loop::Op;
using Int = std::int64_t;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

PixelProduct::PixelProduct(PixelKernel& k, const TargetSpec& target, Int others)
    : k_(k), b_(k.builder()), target_(target), others_(others), lanes_(target.lanes(dtype_bytes(k.type().dtype))) {
  pixels_ = k.in(0).shape[2].value(), depth_ = k.in(0).shape[3].value(), columns_ = k.type().shape[3].value();
  width_ = product_panel(k.graph(), k.view().id, target);
}

Dim PixelProduct::flops() const { return k_.type().elems() * Dim(2 * depth_); }

PixelProduct::Rows PixelProduct::rows_at_a_time(Int height, Int band, Int chunk) {
  const Int last_band = height - (height - 1) / band * band;
  Int fewest = std::min(chunk, last_band);
  for (Int all : {band, last_band})
    if (all % chunk) fewest = std::min(fewest, all % chunk);
  return {chunk, fewest};
}

void PixelProduct::run(loop::BufferId scratch, LV image, LV first, LV count, const Rows& rows, LV from, LV to) {
  // The rows' pixels lie one after the other, here and in the result: they are one axis, counted from `first`.
  const LV start = times(first, pixels_), pixels = times(count, pixels_);
  k_.pixels = [&](std::span<const LV> at) {
    return b_.load(scratch, b_.add(times(b_.sub(at[2], times(first, pixels_)), depth_), at[3]));
  };
  const Int full = columns_ / width_, rest = columns_ % width_;
  stepped(b_, from, to, {}, [&](LV i) {
    auto whole = [&] { return panel(image, start, pixels, rows, times(i, width_), width_), LVs{}; };
    auto part = [&] { return panel(image, start, pixels, rows, b_.index(full * width_), rest), LVs{}; };
    if (rest == 0)
      whole();
    else if (full == 0)
      part();
    else
      b_.if_(b_.op(Op::cmp_lt, {i, b_.index(full)}), whole, part);
  });
  k_.pixels = nullptr;
}

/// `count` pixels from `start` on by columns from `from` on; the last tile overlaps the one before it, and has no more
/// pixels than there are at least.
void PixelProduct::panel(LV image, LV start, LV count, const Rows& rows, LV from, Int columns) {
  const Int registers = (columns + lanes_ - 1) / lanes_;
  const Int n = std::min(pieces(rows.most * pixels_, most_pixels(registers, target_, others_), 0.5).length,
                         rows.fewest * pixels_);
  LV last = plus(b_.add(start, count), -n), tiles = b_.op(Op::div, {plus(count, n - 1), b_.index(n)});
  stepped(b_, b_.index(0), tiles, {}, [&](LV i) {
    LV first = b_.op(Op::min, {b_.add(start, times(i, n)), last});
    const loop::ForOptions tile{
        .mapping = Mapping::rows, .role = loop::AxisRole::row, .width = static_cast<std::uint16_t>(n)};
    stepped(b_, first, plus(first, n), tile, [&](LV pixel) {
      const loop::ForOptions lanes{.mapping = Mapping::vector,
                                   .role = loop::AxisRole::col,
                                   .width = static_cast<std::uint16_t>(registers * lanes_)};
      stepped(b_, from, plus(from, columns), lanes, [&](LV c) {
        const LVs at{image, b_.index(0), pixel, c};
        k_.finish_element(at, lower_contraction(k_, k_.view().id, at, false));
      });
    });
  });
}

}  // namespace ag::passes

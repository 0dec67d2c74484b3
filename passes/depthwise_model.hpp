// The cost model of the kernel of a depthwise convolution (lower_depthwise.cpp): panels of channels, bands of rows, and
// the register tiles of the product that makes its image, if one does.
//
// Nothing here changes an answer: every element is the sum of its terms in order, however it is cut.
#pragma once
#include <cstdint>
#include <optional>

#include "ir/loop/target.hpp"
#include "ir/ops/depthwise.hpp"

namespace ag::passes {

/// Pieces of an axis of n places, the last one overlapping the one before it.
struct Pieces {
  std::int64_t length, count;
};
/// At most `most` places each: so long that least is done twice. `overhead` is what a piece costs, in places.
Pieces pieces(std::int64_t n, std::int64_t most, double overhead);

/// Neighbours of a register tile of the product, `registers` wide, at most, where so many registers hold what a kernel
/// needs elsewhere, such as bounds of a clamp.
std::int64_t most_pixels(std::int64_t registers, const TargetSpec& target, std::int64_t others = 0);
/// What a kernel of several parts keeps in registers for maps of so many additions: a clamp's bounds; more constants
/// are read where they are needed.
constexpr std::int64_t map_registers(std::int64_t map_cost) { return map_cost <= 4 ? 2 : 0; }

struct DepthwiseSizes {
  std::int64_t channels, element_bytes;
  std::int64_t images = 1;  ///< where only the run knows: 1
  std::int64_t rows_in, columns_in;  ///< of the image: all of its rows, what windows touch of a row
  std::int64_t rows, columns;  ///< of the result
  std::int64_t taps, reach, stride;  ///< taps of a window; rows of the image that one spans, rows between windows
  std::int64_t low = 0;  ///< rows of padding above the image
  std::int64_t depth = 0;  ///< terms of the product that makes the image, 0: it is copied
  std::int64_t map_cost = 0;  ///< of the maps behind that product, in additions
};
/// All but the batch must be known.
DepthwiseSizes depthwise_sizes(const DepthwiseDesc& d, std::size_t element_bytes, std::int64_t depth,
                               std::int64_t map_cost = 0);

/// A task is a panel of `width` channels by one of `bands` parts of the rows.
struct DepthwiseCut {
  std::int64_t width, bands;
};
/// `width`, if it is given by how the product's columns lie, is kept.
DepthwiseCut pick_cut(const DepthwiseSizes& sizes, std::optional<std::int64_t> width, const TargetSpec& target);

/// The product behind the convolution: its columns, and those of a panel.
struct ProjectionSizes {
  std::int64_t columns, width;
};
/// A task is one of `bands` parts of the rows with all channels, `width` at a time, and all columns; `chunk` rows of it
/// lie in scratch memory at a time.
struct BlockCut {
  std::int64_t width, bands, chunk;
};
/// How convolution and product are computed in one kernel; nothing if one for each is faster.
std::optional<BlockCut> pick_block(const DepthwiseSizes& sizes, std::optional<std::int64_t> width,
                                   const ProjectionSizes& projection, const TargetSpec& target);

}  // namespace ag::passes

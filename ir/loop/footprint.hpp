// Which elements of its buffers a kernel touches in a range of tiles: derived once from the indices of its accesses,
// evaluated whenever sizes and tiles are known. It tells which parts of two kernels need not wait for each other.
//
// An index is bounded by sums of integer multiples of *atoms*: the tile, sizes, counters of loops, lanes, and
// quotients, remainders, least and largest values of such sums. What is not of this kind (an index that was loaded) is
// bounded by nothing, and then the whole buffer counts. Bounds are those of intervals, so what is told may be too much,
// never too little.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ir/loop/kernel.hpp"

namespace ag::loop {

/// constant + sum of factor * atom; atoms in ascending order, no factor is 0.
struct Affine {
  std::int64_t constant = 0;
  std::vector<std::pair<std::uint32_t, std::int64_t>> terms;
  bool operator==(const Affine&) const = default;
};

struct FootprintAtom {
  enum class Kind : std::uint8_t {
    tile,  ///< the tile's number
    dim,  ///< Kernel::dims[id]
    count,  ///< 0, step, 2 step, ...: less than each of the operands
    product,  ///< of two operands; so are the next ones, as the statements of the same names mean them
    quotient,
    remainder,
    min,
    max,
    either,  ///< one of the operands
    unknown
  };
  Kind kind = Kind::unknown;
  std::uint32_t id = 0;  ///< of the size, or what tells counters and unknowns apart
  std::int64_t step = 1;
  std::vector<Affine> operands;  ///< of earlier atoms only
  bool operator==(const FootprintAtom&) const = default;
};

/// Accesses of a buffer: elements from the largest of the lower to the least of the upper bounds, both included; none
/// while some condition is above 0.
struct Touch {
  std::vector<Affine> lower, upper, conditions;
};

struct Footprint {
  struct Param {
    std::vector<Touch> reads, writes;
  };
  std::vector<FootprintAtom> atoms;
  std::vector<Param> params;  ///< by parameter buffer; empty: nothing is known
};

/// Nothing is known of a kernel without a tile loop, nor of one that is very large.
Footprint footprint(const Kernel& kernel);
/// Whether every atom, size and buffer that is referred to exists: what evaluation relies on.
bool fits(const Footprint& footprint, const Kernel& kernel);

/// Elements [lo, hi).
struct ElementRange {
  std::int64_t lo = 0, hi = 0;
  bool empty() const { return lo >= hi; }
  void include(const ElementRange& o) {
    if (o.empty()) return;
    *this = empty() ? o : ElementRange{std::min(lo, o.lo), std::max(hi, o.hi)};
  }
  bool meets(const ElementRange& o) const { return !empty() && !o.empty() && lo < o.hi && o.lo < hi; }
};
struct TouchedRange {
  ElementRange read, written;
};
/// Values of atoms, kept so that evaluating again allocates nothing.
struct FootprintMemory {
  std::vector<std::pair<std::int64_t, std::int64_t>> values;
};
/// What tiles [tile_lo, tile_hi) touch, per parameter, of buffers of `elems` elements. `footprint` knows something.
void touched(const Footprint& footprint, std::span<const std::int64_t> dims, std::span<const std::int64_t> elems,
             std::int64_t tile_lo, std::int64_t tile_hi, std::span<TouchedRange> out, FootprintMemory& memory);

}  // namespace ag::loop

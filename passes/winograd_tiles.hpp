// What the kernels of Winograd convolutions share: the small transforms as statements, and the tiles of an image.
#pragma once
#include <functional>

#include "ir/ops/winograd.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {

/// Matrices with few distinct numbers times vectors of statements.
class WinogradCombination {
 public:
  using LV = loop::ValueId;
  using LVs = loop::Builder::Values;

  explicit WinogradCombination(loop::Builder& b) : b_(b) {}
  /// m * x * m^T of a square of values, row by row.
  LVs both_axes(const WinogradMatrix& m, const LVs& x) const;

 private:
  loop::Builder& b_;

  LV times(double c, LV x) const;
  LV plus(LV sum, double c, LV x) const;
  LV sum(const std::vector<double>& c, const LVs& x) const;
  LVs product(WinogradMatrix m, LVs x) const;
  void pair_columns(WinogradMatrix& m, LVs& x) const;
};

/// Tiles of `points` x `points` elements of the images that an operand of a kernel is, `tile` apart.
class WinogradTiles {
 public:
  using LV = loop::ValueId;
  using LVs = loop::Builder::Values;

  /// `channels`: how many a call of `image` transforms at most. `registers`: elements that fill a register.
  WinogradTiles(OwnKernel& k, const WinogradDesc& d, int registers, const Dim& channels);

  /// Image, and first row and column in the result of the convolution, of a tile.
  struct Place {
    LV exists;  ///< none: it does
    LV image, row, column;
  };
  Place place(LV tile, bool perhaps_beyond);
  /// Channels [first, last) of operand 0's tile, transformed: point e, channel c goes to place
  /// to + (c - first) + e * step of `v`.
  void image(const Place& p, LV first, LV last, loop::BufferId v, LV to, const Dim& step);

  void loop(LV lo, LV hi, loop::ForOptions options, const std::function<void(LV)>& body);
  void each(std::int64_t n, const std::function<void(LV)>& body) { loop(b_.index(0), b_.index(n), {}, body); }
  void lanes(LV lo, LV hi, int width, const std::function<void(LV)>& body);
  LV both(LV a, LV c) { return !a ? c : b_.op(loop::Op::and_, {a, c}); }

 private:
  OwnKernel& k_;
  loop::Builder& b_;
  WinogradCombination combine_;
  WinogradDesc d_;
  const WinogradTransform& f_;
  int registers_;
  Dim pitch_;
  std::optional<loop::BufferId> patch_;  ///< the pixels of one tile

  /// Where a tile begins in the image, outside of it perhaps, and its channels.
  struct Corner {
    LV image, row, column, exists, first, last;
  };
  LV within(LV at, const Dim& size);
  void copy(const Corner& at);
};

/// Filters that an operand of a kernel is, [3,3,C,M] or, turned, [3,3,M,C]: transformed a piece at a time.
class WinogradTaps {
 public:
  using LV = loop::ValueId;
  using LVs = loop::Builder::Values;

  /// Operand `operand` of the kernel; a call transforms `channels` of them at most.
  WinogradTaps(OwnKernel& k, std::size_t operand, std::int64_t tile, bool turned, int registers, std::int64_t channels);

  /// Point e of channel c < count, filter m of panel `panel`: from c + first, to place to + c * winograd_panel + m + e
  /// * step of `u`. Lanes beyond the last filter are zero.
  void transform(WinogradTiles& loops, LV panel, LV first, LV count, loop::BufferId u, LV to, const Dim& step);

 private:
  OwnKernel& k_;
  loop::Builder& b_;
  WinogradCombination combine_;
  std::size_t operand_;
  const WinogradTransform& f_;
  bool turned_;
  int registers_;
  std::int64_t channels_;
  Dim filters_;
  std::optional<loop::BufferId> across_;  ///< turned: taps with filters along the lanes, [9][channels][winograd_panel]

  void prefetch(WinogradTiles& loops, LV tap, LV row, LV column, std::int64_t count);
  void turn(WinogradTiles& loops, LV panel, LV first, LV count);
};

}  // namespace ag::passes

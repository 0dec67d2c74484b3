// A product of a few rows of pixels, which lie in scratch memory, by the panels of its columns: the last part of
// kernels that compute the left operand themselves.
//
// Every element is the sum of its terms in order, however the work is cut.
#pragma once
#include <functional>

#include "ir/loop/target.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {

/// The kernel of such a product's group: reads the left operand [N,H,W,C] from scratch memory once it is there.
class PixelKernel : public OwnKernel {
 public:
  using OwnKernel::OwnKernel;
  loop::ValueId leaf(ValueId v, std::span<const loop::ValueId> index) override {
    return v == node().operands[0] && pixels ? pixels(index) : OwnKernel::leaf(v, index);
  }
  std::function<loop::ValueId(std::span<const loop::ValueId>)> pixels;  ///< none: they are being computed
};

class PixelProduct {
 public:
  using LV = loop::ValueId;
  using Int = std::int64_t;

  /// `others`: registers that the kernel needs elsewhere.
  PixelProduct(PixelKernel& k, const TargetSpec& target, Int others = 0);
  Int columns() const { return columns_; }
  Int depth() const { return depth_; }
  Int pixels() const { return pixels_; }  ///< of a row
  Int width() const { return width_; }  ///< columns of a panel
  Int panels() const { return (columns_ + width_ - 1) / width_; }
  Dim flops() const;

  /// Rows that are multiplied at a time: `most`, and the least number that occurs.
  struct Rows {
    Int most, fewest;
  };
  /// Where bands of `band` of `height` rows are walked `chunk` at a time.
  static Rows rows_at_a_time(Int height, Int band, Int chunk);
  /// `count` rows of `image` from `first` on, which lie in `scratch` as [rows][pixels][channels], by panels [from, to).
  void run(loop::BufferId scratch, LV image, LV first, LV count, const Rows& rows, LV from, LV to);

 private:
  PixelKernel& k_;
  loop::Builder& b_;
  const TargetSpec& target_;
  Int others_, lanes_, pixels_, depth_, columns_, width_;

  LV times(LV a, Int n) { return b_.mul(a, b_.index(n)); }
  LV plus(LV a, Int n) { return b_.add(a, b_.index(n)); }
  void panel(LV image, LV start, LV count, const Rows& rows, LV from, Int columns);
};

}  // namespace ag::passes

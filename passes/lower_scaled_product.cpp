// A product whose image is computed by maps beside it, such as the scale of a squeeze-and-excite block -> one kernel,
// scheduled here. A task owns a band of the image's rows and a part of the columns. It computes the maps for a few rows
// of pixels at a time into scratch memory, and multiplies them by the panels of its columns: the scaled image is
// nowhere in memory.
//
// Every element is the sum of its terms in order, however the work is cut.
#include <algorithm>

#include "passes/depthwise.hpp"
#include "passes/depthwise_model.hpp"
#include "passes/lower_contraction.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {
namespace {

using loop::Mapping;
using loop::Op;
using Int = std::int64_t;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

/// Scratch memory of scaled pixels: a part of the second-level cache.
constexpr Int most_bytes = 256 << 10;
/// Cycles of a register that is scaled.
constexpr double scale_cycles = 3;

/// Reads the product's image from scratch memory.
class ScaledKernel : public OwnKernel {
 public:
  using OwnKernel::OwnKernel;
  LV leaf(ValueId v, std::span<const LV> index) override {
    if (v != node().operands[0] || !scaled) return OwnKernel::leaf(v, index);
    return scaled(index);
  }
  std::function<LV(std::span<const LV>)> scaled;  ///< none: it is being computed
};

class ScaledProduct {
 public:
  ScaledProduct(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target)
      : g_(g),
        id_(plan.groups[gid].members[0]),
        k_(g, plan, gid),
        b_(k_.builder()),
        target_(target),
        t_(k_.type().dtype),
        lanes_(target.lanes(dtype_bytes(t_))) {
    const Dims &x = k_.in(0).shape, &y = k_.type().shape;
    height_ = x[1].value(), pixels_ = x[2].value(), depth_ = x[3].value(), columns_ = y[3].value();
    width_ = column_panels(g, id_)->width;
    if (width_ == 0) width_ = std::min(columns_, 3 * lanes_);
    panels_ = (columns_ + width_ - 1) / width_;
    choose();
  }

  LoweredKernel run() {
    k_.read_before();
    k_.read(1);
    k_.members();
    const Int most_rows = std::max<Int>(most_bytes / (pixels_ * depth_ * static_cast<Int>(dtype_bytes(t_))), 1);
    const Int chunks = (rows_ + most_rows - 1) / most_rows;
    chunk_ = (rows_ + chunks - 1) / chunks;
    scratch_ = b_.alloc(t_, chunk_ * pixels_ * depth_, loop::Scope::scratch);
    const Dim tasks = k_.type().shape[0] * Dim(bands_ * groups_);
    b_.kernel().tiles = tasks;
    loop(b_.index(0), b_.dim(tasks), {.mapping = Mapping::tile}, [&](LV task) {
      b_.poll();
      LV group = take_digit(b_, task, groups_), band = take_digit(b_, task, bands_);
      image_ = task;
      const Int share = (panels_ + groups_ - 1) / groups_;
      LV from = times(group, share), to = least(plus(from, share), b_.index(panels_));
      LV begin = times(band, rows_), end = least(plus(begin, rows_), b_.index(height_));
      loop(begin, end, {.role = loop::AxisRole::batch, .width = static_cast<std::uint16_t>(chunk_)},
           [&](LV first) { rows(first, least(plus(first, chunk_), end), from, to); });
    });
    return k_.finish("dot_general", k_.type().elems() * Dim(2 * depth_));
  }

 private:
  const Graph& g_;
  NodeId id_;
  ScaledKernel k_;
  loop::Builder& b_;
  const TargetSpec& target_;
  DType t_;
  Int lanes_, height_, pixels_, depth_, columns_;
  Int width_, panels_;  // columns of a panel, panels
  Int bands_ = 1, rows_ = 1, groups_ = 1;  // tasks along the height, rows of one, tasks along the panels
  Int chunk_ = 1;  // rows in scratch memory
  loop::BufferId scratch_;
  LV image_;

  /// Bands and groups of panels for which the thread with most to do has least: each group scales all its rows.
  void choose() {
    const Int threads = std::max(target_.threads, 1), registers = (width_ + lanes_ - 1) / lanes_;
    const Dim& batch = k_.type().shape[0];
    const Int images = batch.is_const() ? batch.value() : 1;
    double least = 0;
    for (Int groups = 1; groups <= std::min(panels_, threads); ++groups)
      for (Int bands = 1; bands <= std::min<Int>(height_, 4 * threads); ++bands) {
        const Int rows = (height_ + bands - 1) / bands, panels = (panels_ + groups - 1) / groups;
        if (rows * (bands - 1) >= height_) continue;
        const double terms = static_cast<double>(rows * pixels_) * static_cast<double>(depth_);
        const double task =
            terms * (scale_cycles / static_cast<double>(lanes_) + static_cast<double>(panels * registers));
        const double all = static_cast<double>((images * groups * bands + threads - 1) / threads) * (task + 200);
        if (least == 0 || all < 0.99 * least) least = all, groups_ = groups, bands_ = bands, rows_ = rows;
      }
  }

  // -- loops --------------------------------------------------------------------------------------------------
  void loop(LV lo, LV hi, loop::ForOptions options, const std::function<void(LV)>& body) {
    stepped(b_, lo, hi, options, body);
  }
  void lanes(LV lo, LV hi, Int width, const std::function<void(LV)>& body) {
    loop(lo, hi, {.mapping = Mapping::vector, .role = loop::AxisRole::col, .width = static_cast<std::uint16_t>(width)},
         body);
  }
  LV times(LV a, Int n) { return b_.mul(a, b_.index(n)); }
  LV plus(LV a, Int n) { return b_.add(a, b_.index(n)); }
  LV least(LV a, LV b) { return b_.op(Op::min, {a, b}); }

  /// Rows [first, end) by the panels [from, to).
  void rows(LV first, LV end, LV from, LV to) {
    k_.scaled = nullptr;
    loop(first, end, {.role = loop::AxisRole::batch}, [&](LV h) {
      loop(b_.index(0), b_.index(pixels_), {}, [&](LV w) {
        lanes(b_.index(0), b_.index(depth_), 2 * lanes_, [&](LV c) {
          LV pixel = b_.add(times(b_.sub(h, first), pixels_), w);
          b_.store(scratch_, b_.add(times(pixel, depth_), c), k_.before_element({image_, h, w, c}));
        });
      });
    });
    // The rows' pixels lie one after the other, here and in the result: they are one axis, counted from `first`.
    k_.scaled = [&](std::span<const LV> at) {
      return b_.load(scratch_, b_.add(times(b_.sub(at[2], times(first, pixels_)), depth_), at[3]));
    };
    LV count = times(b_.sub(end, first), pixels_), start = times(first, pixels_);
    const Int full = columns_ / width_, rest = columns_ % width_;
    loop(from, to, {}, [&](LV panel) {
      auto whole = [&] { return product(start, count, times(panel, width_), width_), LVs{}; };
      auto part = [&] { return product(start, count, b_.index(full * width_), rest), LVs{}; };
      if (rest == 0)
        whole();
      else if (full == 0)
        part();
      else
        b_.if_(b_.op(Op::cmp_lt, {panel, b_.index(full)}), whole, part);
    });
  }

  /// Pixels of a tile: no more than the least number that there is at a time.
  Int tile_pixels(Int registers) const {
    const Int last_band = height_ - (bands_ - 1) * rows_;
    Int fewest = std::min(chunk_, last_band);
    for (Int all : {rows_, last_band})
      if (all % chunk_) fewest = std::min(fewest, all % chunk_);
    return std::min(pieces(chunk_ * pixels_, most_pixels(registers, target_), 0.5).length, fewest * pixels_);
  }

  /// `count` pixels from `start` on by columns from `from` on; the last tile overlaps the one before it.
  void product(LV start, LV count, LV from, Int columns) {
    const Int registers = (columns + lanes_ - 1) / lanes_, n = tile_pixels(registers);
    LV last = plus(b_.add(start, count), -n), tiles = b_.op(Op::div, {plus(count, n - 1), b_.index(n)});
    loop(b_.index(0), tiles, {}, [&](LV i) {
      LV first = least(b_.add(start, times(i, n)), last);
      const loop::ForOptions rows{
          .mapping = Mapping::rows, .role = loop::AxisRole::row, .width = static_cast<std::uint16_t>(n)};
      loop(first, plus(first, n), rows, [&](LV pixel) {
        lanes(from, plus(from, columns), registers * lanes_, [&](LV c) {
          const LVs at{image_, b_.index(0), pixel, c};
          k_.finish_element(at, lower_contraction(k_, id_, at, false));
        });
      });
    });
  }
};

}  // namespace

Result<std::vector<LoweredKernel>> lower_scaled_product(const Graph& g, const Plan& plan, GroupId gid,
                                                        const TargetSpec& target) {
  std::vector<LoweredKernel> kernels;
  kernels.push_back(ScaledProduct(g, plan, gid, target).run());
  return kernels;
}

}  // namespace ag::passes

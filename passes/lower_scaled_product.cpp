// A product whose image is computed by maps beside it, such as the scale of a squeeze-and-excite block -> one kernel,
// scheduled here. A task owns a band of the image's rows and a part of the columns. It computes the maps for a few rows
// of pixels at a time into scratch memory, and multiplies them by the panels of its columns: the scaled image is
// nowhere in memory.
//
// Every element is the sum of its terms in order, however the work is cut.
#include <algorithm>

#include "passes/lower_own.hpp"
#include "passes/pixel_product.hpp"

namespace ag::passes {
namespace {

using loop::Mapping;
using loop::Op;
using Int = std::int64_t;
using LV = loop::ValueId;

/// Scratch memory of scaled pixels: a part of the second-level cache.
constexpr Int most_bytes = 256 << 10;
/// Cycles of a register that is scaled.
constexpr double scale_cycles = 3;

class ScaledProduct {
 public:
  ScaledProduct(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target)
      : maps_(plan.groups[gid].before),
        k_(g, plan, gid),
        b_(k_.builder()),
        product_(k_, target),
        target_(target),
        t_(k_.type().dtype),
        lanes_(target.lanes(dtype_bytes(t_))),
        height_(k_.in(0).shape[1].value()),
        pixels_(product_.pixels()),
        depth_(product_.depth()),
        panels_(product_.panels()) {
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
    stepped(b_, b_.index(0), b_.dim(tasks), {.mapping = Mapping::tile}, [&](LV task) {
      b_.poll();
      LV group = take_digit(b_, task, groups_), band = take_digit(b_, task, bands_);
      const Int share = (panels_ + groups_ - 1) / groups_;
      LV from = times(group, share), to = least(b_.add(from, b_.index(share)), b_.index(panels_));
      LV begin = times(band, rows_), end = least(b_.add(begin, b_.index(rows_)), b_.index(height_));
      stepped(b_, begin, end, {.role = loop::AxisRole::batch, .width = static_cast<std::uint16_t>(chunk_)},
              [&](LV first) { rows(task, first, least(b_.add(first, b_.index(chunk_)), end), from, to); });
    });
    return k_.finish("dot_general", product_.flops());
  }

 private:
  const std::vector<NodeId>& maps_;
  PixelKernel k_;
  loop::Builder& b_;
  PixelProduct product_;
  const TargetSpec& target_;
  DType t_;
  Int lanes_, height_, pixels_, depth_, panels_;
  Int bands_ = 1, rows_ = 1, groups_ = 1;  // tasks along the height, rows of one, tasks along the panels
  Int chunk_ = 1;  // rows in scratch memory
  loop::BufferId scratch_;

  /// Bands and groups of panels for which the thread with most to do has least: each group scales all its rows.
  void choose() {
    const Int threads = std::max(target_.threads, 1), registers = (product_.width() + lanes_ - 1) / lanes_;
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

  LV times(LV a, Int n) { return b_.mul(a, b_.index(n)); }
  LV least(LV a, LV b) { return b_.op(Op::min, {a, b}); }

  /// Rows [first, end) of an image by the panels [from, to).
  void rows(LV image, LV first, LV end, LV from, LV to) {
    stepped(b_, first, end, {.role = loop::AxisRole::batch}, [&](LV h) {
      stepped(b_, b_.index(0), b_.index(pixels_), {}, [&](LV w) {
        const loop::ForOptions lanes{
            .mapping = Mapping::vector, .role = loop::AxisRole::col, .width = static_cast<std::uint16_t>(2 * lanes_)};
        stepped(b_, b_.index(0), b_.index(depth_), lanes, [&](LV c) {
          LV pixel = b_.add(times(b_.sub(h, first), pixels_), w);
          b_.store(scratch_, b_.add(times(pixel, depth_), c),
                   k_.element_of(maps_.front(), {}, maps_.back(), {image, h, w, c}));
        });
      });
    });
    product_.run(scratch_, image, first, b_.sub(end, first), PixelProduct::rows_at_a_time(height_, rows_, chunk_), from,
                 to);
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

#include "passes/depthwise_model.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace ag::passes {
namespace {

using Int = std::int64_t;

/// Cycles: entering a register tile, finishing one of its registers (maps, a store, its load by the windows).
constexpr double tile_cycles = 24, register_cycles = 5;
/// Cycles a register of the result costs more where threads share its rows: next to it lies what another core wrote.
constexpr double shared_cycles = 5;
/// Cycles a register of the result that a product in a kernel of its own reads costs more: where it stays in the
/// second-level cache of the thread that made it, where it does not fit there, and where others made it. (The last
/// between what cores behind one shared cache and what cores behind two lose: 9 and 35 cycles.)
constexpr double near_cycles = 2, far_cycles = 6, foreign_cycles = 12;
/// What it costs more that rows of all channels do not stay in the first-level cache.
constexpr double ring_cycles = 1;
/// One kernel must gain so much of the time.
constexpr double least_gain = 0.01;
/// Rows in scratch memory: at most, and bytes as a part of the second-level cache.
constexpr Int most_chunk = 32, chunk_part = 6;
/// Bytes a cycle from the second-level cache, and from the shared one.
constexpr double l2_rate = 32, l3_rate = 25;
/// What a panel with less than its width costs in code: the kernel has another body for it.
constexpr double part_panel = 1.04;
/// Images and panels of which each is looked at.
constexpr Int most_images = 8, most_panels = 1024;

class Model {
 public:
  Model(const DepthwiseSizes& s, const TargetSpec& target)
      : s_(s), target_(target), lanes_(target.lanes(static_cast<std::size_t>(s.element_bytes))) {}

  /// The least cycles that run() found.
  double least() const { return least_; }

  /// Cycles of the product in a kernel of its own, whose image the convolution cut so has stored.
  double apart(const DepthwiseCut& cut, const ProjectionSizes& p) const {
    const Int threads = std::max(target_.threads, 1),
              pixels = (s_.images * s_.rows * s_.columns + threads - 1) / threads;
    const Int registers = (s_.channels + lanes_ - 1) / lanes_;
    const bool shared = threads > 1 && cut.bands * s_.images % threads != 0;
    const bool fits = 2 * pixels * s_.channels * s_.element_bytes <= target_.l2_bytes;
    const double traffic = shared ? foreign_cycles : fits ? near_cycles : far_cycles;
    return product(p, pixels, pixels) + traffic * static_cast<double>(pixels * registers);
  }

  /// Cycles of both in one kernel.
  std::optional<BlockCut> block(std::optional<Int> fixed, const ProjectionSizes& p, double limit) const {
    std::optional<BlockCut> best;
    const Int threads = std::max(target_.threads, 1), row_bytes = s_.columns * s_.channels * s_.element_bytes;
    const Int most = std::min(most_chunk, target_.l2_bytes / chunk_part / row_bytes);
    for (Int r = 4; r >= 1; --r) {
      const Int width = fixed.value_or(std::min(r * lanes_, s_.channels));
      if (r < 4 && (fixed || r * lanes_ >= s_.channels)) continue;
      for (Int bands = 1; bands <= std::min<Int>(s_.rows, 2 * threads); ++bands) {
        const Int rows = (s_.rows + bands - 1) / bands;
        if (rows * (bands - 1) >= s_.rows) continue;
        for (Int chunk = std::min(most, rows); chunk >= 1; --chunk) {
          const double cycles = block_cycles(width, bands, chunk, threads, p);
          if (cycles < limit) limit = 0.998 * cycles, best = {width, bands, chunk};
        }
      }
    }
    return best;
  }

  DepthwiseCut run(std::optional<Int> fixed) {
    if (fixed) {
      bands(*fixed);
      return best_;
    }
    for (Int r = 4; r >= 1; --r)
      if (r == 1 ? least_ == 0 : (r - 1) * lanes_ < s_.channels) bands(std::min(r * lanes_, s_.channels));
    return best_;
  }

 private:
  const DepthwiseSizes& s_;
  const TargetSpec& target_;
  Int lanes_;
  DepthwiseCut best_{1, 1};
  double least_ = 0;

  void bands(Int width) {
    const Int threads = std::max(target_.threads, 1);
    for (Int bands = 1; bands <= std::min<Int>(s_.rows, 4 * threads); ++bands) {
      const Int rows = (s_.rows + bands - 1) / bands;
      if (rows * (bands - 1) >= s_.rows) continue;
      double cycles = longest(width, bands, threads);
      if (s_.channels % width != 0) cycles *= part_panel;
      if (least_ == 0 || cycles < 0.98 * least_) least_ = cycles, best_ = {width, bands};
    }
  }

  /// Cycles of the thread with most to do; tasks go to threads in order, panels fastest.
  double longest(Int width, Int bands, Int threads) const {
    const Int panels = (s_.channels + width - 1) / width, images = std::clamp<Int>(s_.images, 1, most_images);
    const Int rows = (s_.rows + bands - 1) / bands, tasks = images * bands * panels;
    const bool shared = threads > 1 && bands * s_.images % threads != 0;
    const Int last_channels = s_.channels - (panels - 1) * width;
    auto cycles = [&](Int panel, Int band) {
      const Int first = band * rows, end = std::min(first + rows, s_.rows);
      return task(panel == panels - 1 ? last_channels : width, first, end, shared);
    };
    if (panels > most_panels) return static_cast<double>(tasks) / static_cast<double>(threads) * cycles(0, bands / 2);
    double most = 0;
    for (Int t = 0; t < threads; ++t) {
      double mine = 0;
      for (Int i = tasks * t / threads; i < tasks * (t + 1) / threads; ++i)
        mine += cycles(i % panels, i / panels % bands);
      most = std::max(most, mine);
    }
    return most * static_cast<double>(s_.images) / static_cast<double>(images);
  }

  /// Cycles of the thread with most bands.
  double block_cycles(Int width, Int bands, Int chunk, Int threads, const ProjectionSizes& p) const {
    const Int rows = (s_.rows + bands - 1) / bands, panels = (s_.channels + width - 1) / width;
    const Int images = std::clamp<Int>(s_.images, 1, most_images), tasks = images * bands;
    // Filters pass by once a chunk; a product of its own has a panel of them in the second-level cache for all rows.
    const Int filter_bytes = s_.channels * p.columns * s_.element_bytes;
    const double filters = 2 * filter_bytes > target_.l2_bytes ? static_cast<double>(filter_bytes) / l3_rate : 0;
    const double visits = static_cast<double>(panels) * 50 + filters;
    auto cycles = [&](Int band) {
      const Int first = band * rows, end = std::min(first + rows, s_.rows), count = end - first;
      double sum = static_cast<double>(panels - 1) * task(width, first, end, false) +
                   task(s_.channels - (panels - 1) * width, first, end, false);
      sum += ring_cycles * static_cast<double>(count * s_.columns * ((s_.channels + lanes_ - 1) / lanes_));
      const Int fewest = std::min(chunk, count % chunk ? count % chunk : chunk) * s_.columns;
      const double whole = product(p, chunk * s_.columns, fewest);
      sum += static_cast<double>(count / chunk) * (whole + visits);
      return count % chunk ? sum + product(p, fewest, fewest) + visits : sum;
    };
    double most = 0;
    for (Int t = 0; t < threads; ++t) {
      double mine = 0;
      for (Int i = tasks * t / threads; i < tasks * (t + 1) / threads; ++i) mine += cycles(i % bands);
      most = std::max(most, mine);
    }
    return most * static_cast<double>(s_.images) / static_cast<double>(images);
  }

  /// Cycles of the product of `pixels` rows; a tile has at most `fewest`.
  double product(const ProjectionSizes& p, Int pixels, Int fewest) const {
    auto panel = [&](Int columns) {
      const Int half = std::min<Int>(lanes_, 8);
      const double r = static_cast<double>((columns + half - 1) / half * half) / static_cast<double>(lanes_);
      const Int n = std::min(
          pieces(pixels, most_pixels((columns + lanes_ - 1) / lanes_, target_, map_registers(s_.map_cost)), 0.5).length,
          fewest);
      const double rows = static_cast<double>(n), tiles = static_cast<double>((pixels + n - 1) / n);
      const double step = std::max({rows * r, r + 0.5 * rows, r * target_.vector_bits / 8 / l2_rate, 4.0});
      return tiles * (static_cast<double>(s_.channels) * step + tile_cycles + register_cycles * rows * r);
    };
    const Int full = p.columns / p.width, rest = p.columns % p.width;
    return static_cast<double>(full) * panel(p.width) + (rest ? panel(rest) : 0);
  }

  /// Rows [first, end) of the result: at borders of bands rows of the image are made twice.
  double task(Int channels, Int first, Int end, bool shared) const {
    const Int registers = (channels + lanes_ - 1) / lanes_;
    const Int top = std::clamp<Int>(first * s_.stride - s_.low, 0, s_.rows_in),
              bottom = std::clamp<Int>((end - 1) * s_.stride + s_.reach - s_.low, top, s_.rows_in);
    const double finish = register_cycles + (shared ? shared_cycles : 0);
    const double out = static_cast<double>(s_.columns * registers) * (static_cast<double>(s_.taps) + finish);
    return static_cast<double>(bottom - top) * row(registers) + static_cast<double>(end - first) * out + 200;
  }

  /// Cycles of a row of the image by `registers`.
  double row(Int registers) const {
    if (s_.depth == 0) return static_cast<double>(2 * registers * s_.columns_in);
    const Pieces tiles = pieces(s_.columns_in, most_pixels(registers, target_, map_registers(s_.map_cost)), 0.5);
    const auto r = static_cast<double>(registers), n = static_cast<double>(tiles.length);
    // A panel that does not stay in the first-level cache is fetched for each tile.
    const bool far = 2 * s_.depth * registers * lanes_ * s_.element_bytes > target_.l1_bytes;
    const double fetch = far ? r * target_.vector_bits / 8 / l2_rate + 0.5 * n : 0;
    const double step = std::max({n * r, r + 0.5 * n, fetch, 4.0});
    const double maps = std::max(register_cycles, static_cast<double>(s_.map_cost));
    return static_cast<double>(tiles.count) * (static_cast<double>(s_.depth) * step + tile_cycles + maps * n * r);
  }
};

}  // namespace

Pieces pieces(Int n, Int most, double overhead) {
  Pieces best{n, 1};
  double least = 0;
  for (Int length = std::min(n, most); length >= std::max<Int>(1, most / 2); --length) {
    Int count = (n + length - 1) / length;
    double cost = static_cast<double>(count) * (static_cast<double>(length) + overhead);
    if (least == 0 || cost < least) least = cost, best = {length, count};
  }
  return best;
}

Int most_pixels(Int registers, const TargetSpec& target, Int others) {
  return std::clamp<Int>((target.vector_registers - 1 - others - registers) / registers, 1, 14);
}

DepthwiseSizes depthwise_sizes(const DepthwiseDesc& d, std::size_t element_bytes, Int depth, Int map_cost) {
  const Int low = d.low[1].value(), width = d.size[1].value(), count = d.count[1].value();
  const Int pitch = (count - 1) * d.strides[1] + d.reach(1);
  const Int first = std::clamp<Int>(low, 0, pitch), last = std::clamp<Int>(low + width, first, pitch);
  return {.channels = d.channels.value(),
          .element_bytes = static_cast<Int>(element_bytes),
          .images = d.batch.is_const() ? d.batch.value() : 1,
          .rows_in = d.size[0].value(),
          .columns_in = last - first,
          .rows = d.count[0].value(),
          .columns = count,
          .taps = d.taps[0] * d.taps[1],
          .reach = d.reach(0),
          .stride = d.strides[0],
          .low = d.low[0].value(),
          .depth = depth,
          .map_cost = map_cost};
}

DepthwiseCut pick_cut(const DepthwiseSizes& sizes, std::optional<Int> width, const TargetSpec& target) {
  return Model(sizes, target).run(width);
}

std::optional<BlockCut> pick_block(const DepthwiseSizes& sizes, std::optional<Int> width,
                                   const ProjectionSizes& projection, const TargetSpec& target) {
  Model model(sizes, target);
  const DepthwiseCut cut = model.run(width);
  return model.block(width, projection, (1 - least_gain) * (model.least() + model.apart(cut, projection)));
}

}  // namespace ag::passes

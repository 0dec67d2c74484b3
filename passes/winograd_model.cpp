// What Winograd convolutions cost on a machine beside direct sums, and how they are cut into tasks.
#include <algorithm>
#include <cmath>
#include <vector>

#include "passes/winograd.hpp"

namespace ag::passes {
namespace {

/// Bytes a cycle that all cores together read from memory, and one core from the shared cache.
constexpr double memory_bytes = 9, shared_cache_bytes = 20;
/// What a direct convolution reaches of the machine's peak.
constexpr double direct_efficiency = 0.97;
/// Cycles of a register of a tile's transform, for each point: loads, additions and stores.
constexpr double image_cycles = 7, result_cycles = 3, filter_cycles = 3;
/// Cycles of a register of filters that change places with channels.
constexpr double turn_cycles = 7;
constexpr std::int64_t unknown_size = 1024;
double number(const Dim& d) { return static_cast<double>(d.is_const() ? d.value() : unknown_size); }

struct Machine {
  double lanes, threads, l2, l3;
  int rows, columns;
  std::size_t bytes;
  Machine(DType t, const TargetSpec& target)
      : lanes(target.lanes(dtype_bytes(t))),
        threads(std::max(target.threads, 1)),
        l2(static_cast<double>(target.l2_bytes)),
        l3(static_cast<double>(target.l3_bytes)),
        rows(target.vector_registers >= 32 ? 14 : 6),
        columns(static_cast<int>(std::min<double>(2 * lanes, winograd_panel))),
        bytes(dtype_bytes(t)) {}
};

/// Cycles of transforming 32 filters of a channel.
double panel_transform_cycles(double points, bool turned, const Machine& m) {
  return winograd_panel / m.lanes * (filter_cycles * points + (turned ? 9 * turn_cycles : 0));
}

/// Cycles of all tasks with this blocking. Transformed tiles that do not stay in a core's own cache are read from the
/// shared one, once a panel; much more than that is not considered.
double cycles(const WinogradDesc& d, const Machine& m, const WinogradBlocking& b, WinogradFilters form) {
  const double points = std::pow(static_cast<double>(d.tile + 2), 2), c = number(d.channels),
               panels = std::ceil(number(d.panels()) / static_cast<double>(b.shares)),
               block = static_cast<double>(b.block), tiles = std::ceil(number(d.tiles()) / block),
               chunk = static_cast<double>(b.chunk);
  const double image_bytes = points * block * (c + 16) * static_cast<double>(m.bytes);
  const double resident =
      image_bytes + points * winograd_panel * (chunk + (b.chunk ? block : 0)) * static_cast<double>(m.bytes);
  if (resident > 4 * m.l2) return INFINITY;
  const double registers = winograd_panel / m.lanes;
  // A step of the product: an FMA a row and register, and what starting and ending its loop costs.
  const double step = std::max(b.rows * registers, 6.0) + 0.3 * registers, chunks = b.chunk ? std::ceil(c / chunk) : 1;
  const double product = panels * points * block / b.rows * (c * step + chunks * 3 * b.rows * registers);
  const double image = block * points * image_cycles * std::ceil(c / m.lanes);
  const double result = block * points * result_cycles * registers * panels;
  const double filters = panels * (b.chunk ? 9 : points) * c * winograd_panel * static_cast<double>(m.bytes);
  const double transform =
      b.chunk ? panels * c * panel_transform_cycles(points, form == WinogradFilters::turned, m) : 0;
  const double again = resident > 0.6 * m.l2 ? panels * image_bytes / shared_cache_bytes : 0;
  // Filters that no cache holds come from memory for each task.
  const double all = filters * static_cast<double>(b.shares), rate = all > m.l3 ? memory_bytes : shared_cache_bytes;
  const double task = image + result + std::max(product + transform, filters / rate) + again;
  const double per_thread = std::ceil(tiles * static_cast<double>(b.shares) / m.threads);
  return std::max(task * per_thread, all / memory_bytes);
}

}  // namespace

std::int64_t transform_chunk(const Dim& channels) {
  return channels.is_const() ? std::clamp<std::int64_t>((channels.value() + 15) / 16 * 16, 16, 64) : 64;
}

namespace {

/// The blocking that costs least; where the batch is not known, the one that at its worst is least above the best of
/// some batches.
WinogradBlocking best_blocking(const WinogradDesc& d, WinogradFilters form, DType t, const TargetSpec& target,
                               const std::vector<WinogradDesc>& batches, const std::vector<double>& least) {
  const Machine m(t, target);
  WinogradBlocking best, b;
  best.columns = b.columns = m.columns;
  best.cycles = INFINITY;
  if (form != WinogradFilters::transformed) best.chunk = b.chunk = transform_chunk(d.channels);
  const double tiles = number(d.tiles());
  for (b.rows = 1; b.rows <= m.rows; ++b.rows)
    for (std::int64_t blocks = 1; blocks <= 4; ++blocks)
      for (b.shares = 1; b.shares <= std::min<double>(number(d.panels()), 2 * m.threads); ++b.shares) {
        if (blocks > 1 && static_cast<double>(b.rows * (blocks - 1)) >= tiles) continue;
        b.block = b.rows * blocks;
        b.cycles = batches.empty() ? cycles(d, m, b, form) : 0;
        for (std::size_t i = 0; i < batches.size(); ++i)
          b.cycles = std::max(b.cycles, cycles(batches[i], m, b, form) / least[i]);
        if (b.cycles < best.cycles) best = b;
      }
  if (best.rows == 1 && tiles > 1) best.rows = 2, best.block = 2;  // too many channels for the cache: it still runs
  return best;
}

}  // namespace

WinogradBlocking winograd_blocking(const WinogradDesc& d, WinogradFilters form, DType t, const TargetSpec& target) {
  if (d.batch.is_const()) return best_blocking(d, form, t, target, {}, {});
  std::vector<WinogradDesc> batches;
  std::vector<double> least;
  for (std::int64_t n : {std::int64_t{1}, std::int64_t{8}, unknown_size}) {
    batches.push_back(d);
    batches.back().batch = n;
    least.push_back(best_blocking(batches.back(), form, t, target, {}, {}).cycles);
  }
  WinogradBlocking best = best_blocking(d, form, t, target, batches, least);
  best.cycles = cycles(d, Machine(t, target), best, form);
  return best;
}

double direct_cycles(const WinogradDesc& d, DType t, const TargetSpec& target) {
  const Machine m(t, target);
  const double filters = 9 * number(d.channels) * number(d.filters);
  const double positions = number(d.batch) * number(d.out_height) * number(d.out_width);
  const double columns = std::ceil(number(d.filters) / m.lanes);
  return std::max(positions * 9 * number(d.channels) * columns / m.threads / direct_efficiency,
                  filters * static_cast<double>(m.bytes) / memory_bytes);
}

double transform_cycles(const WinogradDesc& d, bool turned, DType t, const TargetSpec& target) {
  const Machine m(t, target);
  const double points = std::pow(static_cast<double>(d.tile + 2), 2), c = number(d.channels);
  const double bytes =
      c * (9 * number(d.filters) + points * winograd_panel * number(d.panels())) * static_cast<double>(m.bytes);
  // What is written is read again soon: it stays in the shared cache if it is small.
  const double rate = bytes > 0.5 * static_cast<double>(target.l3_bytes) ? memory_bytes : shared_cache_bytes;
  return std::max(c * number(d.panels()) * panel_transform_cycles(points, turned, m) / m.threads, bytes / rate);
}

namespace {

/// The number of equal blocks of a multiple of `unit` that `size` is cut into, ever smaller, down to one unit.
std::vector<std::int64_t> equal_blocks(const Dim& size, std::int64_t unit, std::int64_t most) {
  const auto all = static_cast<std::int64_t>(number(size));
  std::vector<std::int64_t> blocks;
  for (std::int64_t n = std::max<std::int64_t>((all + most - 1) / most, 1);; ++n) {
    const std::int64_t block = ((all + n - 1) / n + unit - 1) / unit * unit;
    if (blocks.empty() || block < blocks.back()) blocks.push_back(block);
    if (block <= unit) return blocks;
  }
}

double gradient_cycles(const WinogradDesc& d, const Machine& m, std::int64_t parts, const WinogradGradientBlocking& b) {
  const double points = std::pow(static_cast<double>(d.tile + 2), 2), c = static_cast<double>(b.channels),
               f = static_cast<double>(b.filters), chunk = static_cast<double>(b.chunk);
  const bool single = b.single(d, parts);
  const double sums = single ? b.rows * b.columns : c * f;
  if (points * (chunk * (c + f) + sums) * static_cast<double>(m.bytes) > 0.6 * m.l2) return INFINITY;
  const double tiles = number(winograd_part(Dim(static_cast<std::int64_t>(number(d.tiles()))), parts)),
               part = std::min(tiles, number(d.tiles()));
  const double cells = points * c * f / (b.rows * m.lanes), chunks = std::ceil(part / chunk);
  // A step of depth; what loading and storing the sums costs a chunk.
  const double product = cells * (part * b.rows + chunks * ((single ? 1 : 2) * b.rows + 12));
  const double image = part * points * 1.3 * image_cycles * std::ceil(c / m.lanes),
               cotangent = part * points * result_cycles * std::ceil(f / m.lanes),
               result = c * f / m.lanes * points * (single ? 0.6 : 1) * result_cycles;
  const double tasks =
      std::ceil(number(d.channels) / c) * std::ceil(number(d.filters) / f) * static_cast<double>(parts);
  return (product + image + cotangent + result) * std::ceil(tasks / m.threads);
}

}  // namespace

WinogradGradientBlocking winograd_gradient_blocking(const WinogradDesc& d, std::int64_t parts, DType t,
                                                    const TargetSpec& target) {
  const Machine m(t, target);
  WinogradGradientBlocking best, b;
  best.rows = b.rows = target.vector_registers >= 32 ? 8 : 4;
  best.columns = b.columns = static_cast<int>(2 * m.lanes);
  best.channels = best.rows, best.filters = best.columns, best.chunk = 8, best.cycles = INFINITY;
  for (std::int64_t channels : equal_blocks(d.channels, b.rows, 128))
    for (std::int64_t filters : equal_blocks(d.filters, b.columns, 128))
      for (std::int64_t chunk : {8, 16, 32, 64, 128}) {
        b.channels = channels, b.filters = filters, b.chunk = chunk;
        b.cycles = gradient_cycles(d, m, parts, b);
        if (b.cycles < best.cycles) best = b;
      }
  return best;
}

}  // namespace ag::passes

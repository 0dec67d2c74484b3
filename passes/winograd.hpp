// How a Winograd convolution is cut into tasks, and what it costs beside a direct one: a model of the machine, in
// cycles of one core (figures: docs/decisions.md).
#pragma once
#include "ir/loop/target.hpp"
#include "ir/ops/winograd.hpp"

namespace ag::passes {

struct WinogradBlocking {
  int rows = 1;             ///< tiles of a register tile, `columns` elements wide
  int columns = 32;
  std::int64_t block = 1;   ///< tiles of a task, a multiple of rows
  std::int64_t shares = 1;  ///< tasks that share the panels of one block
  std::int64_t chunk = 0;   ///< channels whose filters a task transforms at a time; 0: they are transformed
  double cycles = 0;        ///< of the convolution, on all cores
};

/// The cheapest blocking, given what the filters are. Sizes that are not known count as large.
WinogradBlocking winograd_blocking(const WinogradDesc& d, WinogradFilters form, DType t, const TargetSpec& target);
/// Cycles of the same convolution, or its filter gradient, as one product of matrices.
double direct_cycles(const WinogradDesc& d, DType t, const TargetSpec& target);
/// Cycles of transforming filters that change from run to run, in a kernel of its own.
double transform_cycles(const WinogradDesc& d, bool turned, DType t, const TargetSpec& target);
/// Channels whose filters such a kernel transforms at a time, in this form.
std::int64_t transform_chunk(const Dim& channels);

/// How a filter gradient is cut: a task owns `channels` of the image by `filters` of the output, and sums over its part
/// of the tiles, a chunk after the other.
struct WinogradGradientBlocking {
  int rows = 1, columns = 32;  ///< of a register tile, which divide channels and filters
  std::int64_t channels = 1, filters = 1, chunk = 1;  ///< chunk: tiles transformed at a time
  double cycles = 0;  ///< of the gradient, on all cores

  /// Whether a part is known to be no more than one chunk.
  bool single(const WinogradDesc& d, std::int64_t parts) const {
    const Dim part = min(winograd_part(d.tiles(), parts), d.tiles());
    return part.is_const() && part.value() <= chunk;
  }
};
/// The cheapest blocking, given the number of parts (winograd_gradient_parts).
WinogradGradientBlocking winograd_gradient_blocking(const WinogradDesc& d, std::int64_t parts, DType t,
                                                    const TargetSpec& target);

}  // namespace ag::passes

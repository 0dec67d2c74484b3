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
  double cycles = 0;        ///< of the convolution, on all cores
};

/// The cheapest blocking. Sizes that are not known count as large.
WinogradBlocking winograd_blocking(const WinogradDesc& d, DType t, const TargetSpec& target);
/// Cycles of the same convolution as one product of matrices.
double direct_cycles(const WinogradDesc& d, DType t, const TargetSpec& target);

}  // namespace ag::passes

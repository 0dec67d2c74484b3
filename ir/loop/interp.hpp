// The reference meaning of kernels: runs every form, scheduled or not, mapped to a GPU or not, with no
// LLVM and no GPU. Accesses out of bounds, reads of uninitialised local memory, and races (two iterations of
// a parallel, tile or GPU-mapped loop that touch the same element, one of them writing, with no barrier
// between) are errors, not undefined behaviour.
#pragma once
#include <span>

#include "ir/loop/kernel.hpp"

namespace ag::loop {

struct BufferView {
  void* data = nullptr;
  std::int64_t elems = 0;
};

struct InterpOptions {
  bool detect_races = true;
  std::int64_t tile_lo = 0, tile_hi = -1;   ///< -1: all tiles
  std::int64_t max_steps = 4'000'000'000;   ///< statements executed before AG5 "ran too long"
};
/// The first trap that fired, as the runtime's context keeps it.
struct TrapRecord {
  std::uint32_t kind = 0;  ///< 0 = none
  std::uint32_t origin = 0;
  std::int64_t detail = 0;
};
Result<TrapRecord> interpret(const Kernel& kernel, std::span<const BufferView> params,
                             std::span<const std::int64_t> dims, const InterpOptions& options = {});

/// One elementwise statement on scalars, as the semantics table says: what folding uses.
std::uint64_t eval_scalar(Op op, DType result, DType operand, std::span<const std::uint64_t> operands);

}  // namespace ag::loop

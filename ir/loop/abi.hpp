// The binary interface between emitted kernels and the runtime. Emitted code knows these layouts by offset
// (codegen checks them with static_asserts), so a change here changes the version below.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ag::loop {

inline constexpr std::uint32_t abi_version = 1;

/// Shared by all threads of one step; lives in the ExecContext.
struct ContextBlock {
  std::atomic<std::uint32_t> cancelled{0};   ///< polled by `poll`
  std::atomic<std::uint32_t> trap_kind{0};   ///< sticky: the first trap's kind, 0 = none
  std::uint32_t trap_origin = 0;             ///< origin id of that trap
  std::int64_t trap_detail = 0;
};

/// Trap kinds (Attr::index of `trap`).
enum class Trap : std::uint32_t {
  none = 0,
  index_out_of_range = 1,
  integer_division_by_zero = 2,
  size_mismatch = 3,
  host = 4
};

struct KernelArgs {
  void* const* buffers;        ///< one per parameter buffer
  const std::int64_t* dims;    ///< one per Kernel::dims
  ContextBlock* context;
  void* scratch;               ///< this thread's scratch, 64-byte aligned
};

/// A compiled kernel: runs tiles [tile_lo, tile_hi).
using KernelFn = void (*)(const KernelArgs*, std::int64_t tile_lo, std::int64_t tile_hi);

}  // namespace ag::loop

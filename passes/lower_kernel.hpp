// One group of the plan -> one schedule-free loop kernel.
#pragma once
#include <unordered_map>

#include "passes/element.hpp"
#include "passes/plan.hpp"

namespace ag::passes {

struct LoweredKernel {
  loop::Kernel kernel;
  std::vector<ValueId> buffers;     ///< the stored value behind each parameter
  Dims dims;                        ///< of the kernel's symbols; empty: the program's symbols of the same names
  std::vector<NodeId> origins;      ///< node behind origin k+1 of the kernel's statements
  std::string label;
};

/// Bytes of rows that a GPU kernel may keep in shared memory; of the 48 KiB that every block has, the rest is left for
/// partial results.
inline constexpr std::int64_t gpu_row_bytes = 32 << 10;

/// `row_bytes`: what is expensive and needed by several passes over a row is kept in scratch memory if those rows have
/// a constant size and all together at most so many bytes, else computed again; without a limit it is always kept.
LoweredKernel lower_group(const Graph& g, const Plan& plan, GroupId gid, std::optional<std::int64_t> row_bytes = {});
/// A kernel that copies an element-for-element value into a buffer of its own (outputs that are inputs).
LoweredKernel lower_copy(const Graph& g, ValueId from);

}  // namespace ag::passes

// Ops whose kernels are no group of maps and reductions: one function for each such class, which writes the loops.
#pragma once
#include "passes/lower_kernel.hpp"

namespace ag::passes {

/// The kernels of one node, in the order in which they run. Operands may be virtual; all results are stored.
/// For a GPU kernels keep nothing in scratch memory.
Result<std::vector<LoweredKernel>> lower_own(const Graph& g, NodeId id, bool gpu);

Result<std::vector<LoweredKernel>> lower_scatter(const Graph& g, NodeId id);
Result<std::vector<LoweredKernel>> lower_cumulative(const Graph& g, NodeId id);
Result<std::vector<LoweredKernel>> lower_sort(const Graph& g, NodeId id, bool gpu);
Result<std::vector<LoweredKernel>> lower_lu(const Graph& g, NodeId id);
Result<std::vector<LoweredKernel>> lower_lu_solve(const Graph& g, NodeId id);
Result<std::vector<LoweredKernel>> lower_suppress(const Graph& g, NodeId id);

}  // namespace ag::passes

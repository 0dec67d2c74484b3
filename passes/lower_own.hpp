// Ops whose kernels are no group of maps and reductions: one function for each such class, which writes the loops.
#pragma once
#include "passes/lower_kernel.hpp"

namespace ag::passes {

/// The kernels of one node, in the order in which they run. Operands may be virtual; all results are stored.
Result<std::vector<LoweredKernel>> lower_own(const Graph& g, NodeId id);

Result<std::vector<LoweredKernel>> lower_scatter(const Graph& g, NodeId id);

}  // namespace ag::passes

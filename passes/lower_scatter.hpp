// Scatter -> kernels: the operand is copied, then the updates are applied in index order by the owner of each window
// position, so that the result does not depend on the number of threads.
#pragma once
#include "passes/lower_kernel.hpp"

namespace ag::passes {

Result<std::vector<LoweredKernel>> lower_scatter(const Graph& g, NodeId id);

}  // namespace ag::passes

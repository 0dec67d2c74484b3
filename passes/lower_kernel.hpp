// One group of the plan -> one schedule-free loop kernel.
#pragma once
#include <unordered_map>

#include "passes/element.hpp"
#include "passes/plan.hpp"

namespace ag::passes {

struct LoweredKernel {
  loop::Kernel kernel;
  std::vector<ValueId> buffers;     ///< the stored value behind each parameter
  std::vector<NodeId> origins;      ///< node behind origin k+1 of the kernel's statements
  std::string label;
};

/// `copy_of`: for copy groups, the element source; else members decide.
LoweredKernel lower_group(const Graph& g, const Plan& plan, GroupId gid);
/// A kernel that copies an element-for-element value into a buffer of its own (outputs that are inputs).
LoweredKernel lower_copy(const Graph& g, ValueId from);

}  // namespace ag::passes

// Bodies of If, Loop and Scan.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

/// How many of a node's last operands its regions use from outside: the last inputs of each.
std::size_t capture_count(const Node& n);

/// A region as the passes before lowering leave a graph: primitives, simplified unless at -O0, in the layouts of the
/// target. Its `stage` tells that this was done; a second call returns it as it is.
Result<Graph> prepare_region(const Graph& region, PassContext& context);

extern const Pass regions;

}  // namespace ag::passes

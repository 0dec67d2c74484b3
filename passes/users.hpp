// Who reads a value: a table that passes ask when a node may change only together with all that reads it.
#pragma once
#include <vector>

#include "ir/graph.hpp"

namespace ag::passes {

using Users = std::vector<std::vector<NodeId>>;  ///< by value

/// The nodes that read each value, in their order, one entry for each operand. With `live` (by node), only those it
/// says. Outputs of the graph are no nodes: whoever must know of them looks at `g.outputs`.
Users users_of(const Graph& g, const std::vector<bool>& live = {});

/// By value: whether it is an output of the graph.
std::vector<bool> output_values(const Graph& g);

}  // namespace ag::passes

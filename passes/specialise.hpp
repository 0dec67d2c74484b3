// Fixes symbolic sizes.
#pragma once
#include "ir/graph.hpp"

namespace ag::passes {

/// The graph with the given symbols replaced by integers, everywhere, regions included. AG2 errors if a type rule or a
/// declared bound contradicts a size, AG0402 if the graph has no such symbol.
Result<Graph> specialise(const Graph& g, const DimEnv& sizes);

}  // namespace ag::passes

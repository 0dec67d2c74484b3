// What all that rebuilds a graph with changes shares.
#pragma once
#include "ir/graph.hpp"

namespace ag {

/// A graph with the same signature and metadata (name, opset, symbols, extras, grads) and no nodes.
Graph empty_like(const Graph& g);

}  // namespace ag

// A graph as Graphviz text: forward nodes, gradient nodes in another colour. User text is escaped.
#pragma once
#include <string>

#include "ir/graph.hpp"

namespace ag::tools {
std::string dot(const Graph& g);
}

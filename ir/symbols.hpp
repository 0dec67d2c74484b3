// Which node gives a symbol its value: an input, whose shape tells it, or a node whose result has a size that only the
// data knows. Nodes that mention such a symbol need that node although it is not among their operands.
#pragma once
#include <map>
#include <string>

#include "ir/graph.hpp"

namespace ag {

/// A size that only the data knows: "u12.0". Such names belong to one graph; regions do not see those outside.
bool is_unbacked(std::string_view symbol);

/// Defining nodes of the unbacked symbols of a graph: the first `sizes` node, or else the first node, with a
/// result that has the symbol as a size.
/// Inputs are left out: they are always there.
std::map<std::string, NodeId, std::less<>> unbacked_definitions(const Graph& graph);

/// Unbacked symbols in the attributes and result types of a node.
std::set<std::string> unbacked_symbols(const Graph& graph, NodeId id);

/// The graph with symbols replaced in types, attributes and known integers. Regions keep their own symbols; what they
/// take from outside by name is replaced too.
Graph substitute_symbols(const Graph& graph, const std::map<std::string, Dim, std::less<>>& symbols);

}  // namespace ag

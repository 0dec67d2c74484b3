// Helpers for passes that copy a graph with changes.
#pragma once
#include <functional>
#include <vector>

#include "ir/builder.hpp"
#include "ir/graph.hpp"
#include "ir/rebuild.hpp"

namespace ag::passes {

using ValueMap = std::vector<ValueId>;  ///< indexed by the old id; invalid where dropped

/// Sets inputs and outputs of `to` as those of `from`, mapped.
void map_signature(const Graph& from, const ValueMap& map, Graph& to);

/// Appends `node`, which stands for node `id` of `g` and has operands of `out`, with that node's types; `map` receives
/// its results. Names go along if asked.
NodeId append_as(const Graph& g, NodeId id, Node node, Graph& out, ValueMap& map, bool keep_names = true);
/// Appends a copy of node `id` with mapped operands, its types as they are.
NodeId copy_node(const Graph& g, NodeId id, Graph& out, ValueMap& map, bool keep_names = true);
/// The same by a builder, which derives the types anew: sizes may have become known.
NodeId copy_node(GraphBuilder& b, const Graph& g, NodeId id, ValueMap& map);
/// Notes in `map` that `to` of `out` stands for value `from` of `g`, and names it so if both names are free.
void bind(const Graph& g, ValueId from, Graph& out, ValueId to, ValueMap& map);

/// Copies the nodes that `keep` says, all of whose operands must be kept too. Inputs are always kept.
Graph copy_if(const Graph& g, const std::function<bool(NodeId)>& keep, ValueMap* map = nullptr);

/// Values that outputs (and, if asked, gradient requests) need.
std::vector<bool> live_nodes(const Graph& g);

/// Replaces each node that `which` says by its decomposition, once (not what the decomposition yields). Names and
/// places move to the new nodes. `map` receives old value -> new value.
Graph decompose_where(const Graph& g, const std::function<bool(const NodeView&)>& which, ValueMap* map = nullptr);

}  // namespace ag::passes

// Inputs whose values decide types: axes, the k of a TopK, sizes. A compiler must know them; where a run has the
// values at hand, the graph is built for them.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ir/builder.hpp"
#include "ir/op.hpp"

namespace ag {

struct InputValues {
  /// The value that input `index` (of this name and type) will have; nullopt if that is not known.
  std::function<std::optional<Array>(std::size_t index, const std::string& name, const Type& type)> value;
  /// Names of the inputs whose values the graph was built for. It is wrong for others.
  std::vector<std::string> used;
};

/// Adds a node. Operands that decide types (those the op table marks, and short ones beside them) become constants if
/// they follow from constants and known sizes alone, through any ops. If its type rule lacks the elements of an operand
/// (AG2207) that depends on nothing but constants and inputs of known value, those elements are computed and stand in
/// the node as a constant.
Result<NodeId> add_settled(GraphBuilder& builder, const OpInfo& op, GraphBuilder::NodeArgs args, InputValues* values);

/// The value of `v` if it depends on nothing but constants and inputs of known value, and is not large.
std::optional<Array> settled_value(const Graph& g, ValueId v, InputValues* values);

}  // namespace ag

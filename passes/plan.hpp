// What is fused with what. A Plan is side tables over a graph of primitives; the graph itself stays as it is.
//
// Every value is one of: stored (it has a buffer), virtual (an index map such as a transpose, recomputed where it is
// used), or a member of one group. A group becomes one kernel. All members of a group are computed at the group's
// iteration index: in the full space (the group's shape), or, beside reductions, in the outer space (the shape
// without the reduced axes). A member may be used inside its group only at that same index.
#pragma once
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "ir/loop/target.hpp"
#include "ir/op.hpp"

namespace ag::passes {

using GroupId = Id<struct GroupTag>;

enum class GroupKind : std::uint8_t {
  map,
  row,
  contraction,
  own,   ///< a node whose class writes its own kernels (passes/lower_own), first, and maps over its result if it can
  host,
  copy
};
enum class Space : std::uint8_t { full, outer };

struct Group {
  GroupKind kind = GroupKind::map;
  Dims full;                        ///< the iteration space
  std::vector<int> axes;            ///< row: the reduced axes of `full`, sorted
  std::vector<NodeId> members;      ///< in topological order
  /// own: what makes the first member's operand, which is nowhere in memory: the kernel computes a few rows of it at a
  /// time (fuse_block.cpp). A product and maps over it; if the first member is a product, maps alone, or a depthwise
  /// convolution with maps and what makes its own operand.
  std::vector<NodeId> before;
  ValueId copy_source;  ///< copy: stores this value (an output that is an input or a view)
};

/// A stored value that lies in another's memory: its elements by the strides of the shape `within`, from `begin` on.
/// That is `root`'s shape, or what takes its place where the value lies there in another shape.
struct Placement {
  ValueId root;
  Dim begin;  ///< in elements
  Dims within;
};

struct Plan {
  IdMap<GroupId, Group> groups;
  std::vector<GroupId> order;  ///< of execution
  std::vector<GroupId> group_of;  ///< by node; invalid for sources and virtual nodes
  std::vector<Space> space;  ///< by node, for members
  std::vector<bool> stored;  ///< by value
  std::unordered_map<ValueId, Placement> placed;
  std::unordered_set<NodeId> joined;  ///< concats and pads that copy at most what is not in its place
  std::vector<std::string> notes;  ///< --print-fusion: why two ops were or were not fused
};

/// True for nodes that are index maps or constants: inlined where they are used.
bool is_virtual(const Graph& g, NodeId id);

/// Index vector of a node in a space, given one loop value per dim of the group's full shape. Empty if the node's
/// shape does not fit. `zero` stands for dims of size one.
std::vector<loop::ValueId> index_in_space(const Group& group, const Dims& shape, Space space,
                                          const std::vector<loop::ValueId>& full, loop::ValueId zero);

/// Terms after which a reduction of `full` along `axes` begins a new part, whose results are then combined in order:
/// where few results, or none, are computed side by side. A function of shapes alone. Nothing if it has one part.
std::optional<Dim> terms_per_part(const Dims& full, const std::vector<int>& axes);

/// Greedy, near-linear: a node joins the group of a producer when indices align and no cycle arises.
Plan make_plan(const Graph& g, bool fuse, const TargetSpec& target);

}  // namespace ag::passes

// What the two files of the pass checkpoint share: which loops hand values of all trips to which others. Only those
// files include this.
#pragma once
#include <map>
#include <optional>

#include "passes/autodiff_internal.hpp"

namespace ag::passes::ckpt {

using Axes = std::vector<std::int64_t>;

/// A Loop or Scan of a family: it makes stacks that are not to be kept, or reads such stacks.
struct Member {
  NodeId id;
  ad::Recurrence r;
  bool backward = false;                ///< it meets the elements of stacks from the last to the first
  std::vector<std::size_t> dropped = {};     ///< its results that are stacks no longer
  std::vector<ValueId> reads = {};           ///< dropped stacks among its sequences
  std::vector<NodeId> products = {};         ///< contractions over all trips that its sweep sums up
  std::vector<NodeId> upstream = {};         ///< makers of what it reads, of what those read ..., in order
  bool is_source = false;               ///< others compute its stacks again
  std::vector<std::size_t> carries = {};     ///< of those that its stacks depend on
};

/// A loop, the root, and all that run over its stacks or over stacks made from them: one number of trips.
struct Family {
  NodeId root;
  std::vector<NodeId> members;          ///< in order, the root first
  std::optional<std::int64_t> trips;    ///< if the compiler knows them
  std::optional<std::int64_t> carry_bytes, trip_bytes;  ///< of checkpoints and of dropped stacks, a trip
  bool by_root = false;                 ///< the request says: about the square root of the trips
};

struct Families {
  std::vector<Family> list;
  std::map<NodeId, Member> members;
  std::map<ValueId, NodeId> maker;      ///< of a dropped stack
  std::map<NodeId, NodeId> host;        ///< of a product
};

/// Families whose stacks may take more than a quarter of `limit` bytes (0: only those that a request names).
Families find_families(const Graph& g, std::int64_t limit);

/// The graph with each family in segments. `share`: bytes that one family may use. AG5009 if that cannot be.
Result<Graph> rewrite_families(Graph g, const Families& families, std::int64_t share);

inline std::int64_t entry(const Node& n, std::string_view list, std::size_t i) {
  const auto* axes = n.attrs.get<Axes>(list);
  return axes && i < axes->size() ? (*axes)[i] : 0;
}
/// The axis along which a sequence runs (`in`), or an output is stacked, and whether from the end.
struct Along {
  std::int64_t axis = 0;
  bool back = false;
};
inline Along along(const Node& n, bool in, std::size_t i, int rank) {
  std::int64_t axis = entry(n, in ? "scan_input_axes" : "scan_output_axes", i);
  return {axis < 0 ? axis + rank : axis, entry(n, in ? "scan_input_directions" : "scan_output_directions", i) != 0};
}

}  // namespace ag::passes::ckpt

// What the files of the pass autodiff share: activity, and differentiation of closed graphs, which the regions of If,
// Loop and Scan are. Only those files include this.
#pragma once
#include <set>

#include "ir/op.hpp"
#include "passes/autodiff.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes::ad {

using Bits = std::vector<bool>;

enum class Mode : std::uint8_t { reverse, forward };

/// The op states a rule for this mode (regions have theirs in autodiff_control.cpp).
bool has_rule(const OpInfo& op, Mode mode);
/// The op is differentiated through its decomposition.
inline bool is_expanded(const OpInfo& op, Mode mode) {
  return !has_rule(op, mode) && op.decompose && op.no_gradient.empty();
}
bool linear_operand(const OpInfo& op, std::size_t i);

// ---- Activity (autodiff_activity.cpp) -----------------------------------------------------------------------
/// Values that depend on those of `from` along real-valued paths. Looks into regions.
Bits reached_values(const Graph& g, const Bits& from, const Bits& stopped);
/// Of the `reached` values, those that some value of `to` depends on. Looks into regions.
Bits wanted_values(const Graph& g, const Bits& to, const Bits& reached, const Bits& stopped);
/// Values on a real-valued path from `from` to `to`: only they carry derivatives.
Bits active_values(const Graph& g, const std::vector<ValueId>& from, const std::vector<ValueId>& to,
                   const std::vector<ValueId>& stop);
/// Some operand and some result are active.
bool node_active(const Graph& g, NodeId id, const Bits& active);
/// All that stands in the way from `from` to `to`, inside decompositions and regions too: AG3004 at `at`.
Status check_paths(const Graph& g, const std::vector<ValueId>& from, const std::vector<ValueId>& to,
                   const std::vector<ValueId>& stop, const Loc& at, Mode mode);

// ---- Regions ------------------------------------------------------------------------------------------------
/// Which operands, results, region inputs and region outputs of a Loop or Scan belong together.
/// Operands: [M, cond,] carries, sequences, captures. Inputs: [trip, cond,] carries, elements, captures.
/// Outputs: [cond,] carries, scans. Results: carries, scans.
struct Recurrence {
  bool loop = false;
  std::size_t carries = 0, sequences = 0, captures = 0, scans = 0;

  explicit Recurrence(const Node& n);
  std::size_t first() const { return loop ? 2 : 0; }                         ///< operand and input of carry 0
  std::size_t sequence(std::size_t i) const { return first() + carries + i; }  ///< operand and input
  std::size_t capture(std::size_t i) const { return sequence(sequences) + i; }  ///< operand and input
  std::size_t output(std::size_t result) const { return (loop ? 1 : 0) + result; }
  std::size_t results() const { return carries + scans; }
};
bool is_recurrence(const Node& n);
/// What carries derivatives in a Loop or Scan, given active operands and results, after any number of trips.
struct RecurrenceActivity {
  Bits carried;  ///< carries that depend on an active operand
  Bits results;  ///< results (carries, scans) that have a cotangent, some trip or other
  Bits inputs;   ///< inputs of the region whose cotangents are wanted
};
RecurrenceActivity close_recurrence(const Node& n, const Bits& operands, const Bits& results);
/// A carry of a size that may change from trip to trip cannot be stacked.
bool keeps_sizes(const Node& n);

/// A Loop with a trip count that no condition cuts short.
bool runs_out(const Graph& g, const Node& n);

/// A control node that a larger one replaces: old result r is result `results[r]` of `fresh`.
struct Swap {
  NodeId old, fresh;
  std::vector<std::uint32_t> results;
};

/// What was appended to a graph. `map`: values of the graph given -> of the graph now; `primal`: nodes of the graph
/// now that compute the function itself.
struct Appended {
  std::vector<ValueId> values;
  ValueMap map;
  Bits primal;
};
struct Seed {
  ValueId of, cotangent;
  bool guarded = false;  ///< lanes that a select did not take are zero
};
/// Cotangents of `wrt`, invalid where absent. Every path must have been checked.
Appended append_reverse(Graph& g, std::vector<Seed> seeds, std::vector<ValueId> wrt, std::vector<ValueId> stop);
/// Tangents of `outs`, invalid where absent.
Appended append_forward(Graph& g, std::vector<ValueId> ins, std::vector<ValueId> tangents, std::vector<ValueId> outs);

/// A control node as the reverse loop sees it (autodiff_control.cpp).
struct ControlReverse {
  GraphBuilder& b;
  NodeId id;
  std::vector<ValueId> cotangents;  ///< of the results
  Bits wants;                       ///< operands that carry a derivative
  bool guarded;
  std::vector<Swap>& swaps;
  Grads grads;                      ///< out: one per operand
};
void reverse_if(ControlReverse& c);
void reverse_recurrence(ControlReverse& c);

struct ControlForward {
  GraphBuilder& b;
  NodeId id;
  std::vector<ValueId> tangents;  ///< of the operands
  std::vector<Swap>& swaps;
  std::vector<ValueId> out;       ///< out: of the results
};
void forward_if(ControlForward& c);
void forward_recurrence(ControlForward& c);

// ---- Helpers (autodiff_regions.cpp) ---------------------------------------------------------------------------
/// The part of a graph that `outputs` need, as a closed graph whose inputs are `inputs`, in order.
Graph extract(const Graph& g, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs);
/// The graph in which `instead[v]` stands for each value v, without the `dropped` nodes. Nodes move behind their
/// operands, and keep their order otherwise.
Graph redirect(const Graph& g, const std::vector<ValueId>& instead, const Bits& dropped, ValueMap& map);
/// Puts the larger nodes in the place of the old ones.
Graph apply_swaps(const Graph& g, const std::vector<Swap>& swaps, ValueMap& map);
struct Larger {
  std::vector<ValueId> operands;
  Attrs attrs;
  std::vector<GraphPtr> regions;
  std::vector<std::uint32_t> kept;  ///< old result r is this result of the larger node
  std::vector<std::pair<std::uint32_t, std::uint32_t>> like = {};  ///< this result is of the type of that old one
};
/// A node of the op of `old` that does more; sizes that only the data knows are the old ones.
NodeId add_larger(GraphBuilder& b, NodeId old, Larger larger);
/// For rules that cannot go wrong: InternalError if the node is refused.
NodeId must_add(GraphBuilder& b, const OpInfo& op, GraphBuilder::NodeArgs args);
/// A region whose input types are those of the operands (an element's without its axis), so that its sizes are spelled
/// as outside.
Graph instantiate(const Graph& outer, const Node& n, const Recurrence& r);
std::set<std::string> symbols_of(const Type& t);
std::set<std::string> symbols_of_graph(const Graph& g);

/// Whether the derivative of a node may be infinite where its operands are finite: log, division and the like, unless
/// what they are taken of provably stays away from 0.
bool unbounded_derivative(const Graph& g, NodeId id);

}  // namespace ag::passes::ad

// The graph IR: typed, pure SSA over tensors.
//
// A Graph is append-only: an operand's id is below its user's, so there are no cycles, every walk is a loop over
// ids, and passes rebuild instead of mutating. Regions (bodies of if, loop, scan) are closed graphs: what they use
// from outside is an explicit operand of the node and an input of the region. Inputs and constants are nodes.
// Locations and names never influence what is computed.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "ir/attr.hpp"
#include "ir/base/ids.hpp"

namespace ag {

struct OpInfo;  // ir/op.hpp
class Graph;
using GraphPtr = std::shared_ptr<const Graph>;
using NodeId = Id<struct NodeTag>;
using ValueId = Id<struct ValueTag>;

struct Node {
  const OpInfo* op = nullptr;
  std::vector<ValueId> operands;     ///< an invalid id is an omitted optional operand
  Attrs attrs;
  std::vector<GraphPtr> regions;     ///< in the order of OpInfo::regions
  ValueId first_result;
  std::uint32_t result_count = 1;
  std::string name;                  ///< the user's node name, may be empty
  std::vector<Loc> locs;             ///< all places this node stands for
  ValueId grad_of;                   ///< a gradient node: the forward value whose adjoint it computes
  std::uint32_t remat = 0;           ///< nonzero: a recomputed copy, never merged with the original
  std::vector<std::pair<std::string, std::string>> extras;  ///< preserved `x-*`, `doc`, `meta` members, as JSON text

  ValueId result(std::uint32_t i = 0) const { return ValueId(first_result.index + i); }
};

struct Value {
  Type type;
  NodeId node;
  std::uint32_t result = 0;
  std::string name;                  ///< the user's value name, may be empty; unique if not
  /// Known elements of a small integer tensor (shape arithmetic); flat order.
  std::shared_ptr<const Dims> known_ints;
};

struct Output {
  std::string name;
  ValueId value;
  Loc loc;
};

/// A declared symbol: bounds are checked when inputs are bound.
struct SymbolInfo {
  std::string name;
  std::optional<std::int64_t> min, max, multiple_of;
  Loc loc;
  std::vector<std::pair<std::string, std::string>> extras = {};  ///< as in Node
};

/// `grad` of the JSON format and `--grad`: consumed by the pass autodiff.
struct GradRequest {
  std::string of;
  std::vector<std::string> wrt;      ///< value names; {"trainable"} with `trainable` set
  bool trainable = false;
  std::string seed;                  ///< name of a value, "" for none
  std::optional<double> seed_value;  ///< --grad-seed Y=VALUE
  std::vector<std::pair<std::string, std::string>> names;
  std::vector<std::string> stop;
  std::string checkpoint;            ///< "", "auto", "none", "sqrt"
  Loc loc, of_loc, seed_loc;
  std::vector<Loc> wrt_locs;
  std::vector<Loc> stop_locs;
  std::vector<std::pair<std::string, std::string>> extras;  ///< as in Node
};

class Graph {
 public:
  std::string name;
  std::string stage = "import";      ///< the last stage reached: header of the text form
  int opset = 21, ag_opset = 1;
  std::vector<SymbolInfo> symbols;
  std::vector<ValueId> inputs;       ///< results of `input` nodes, in order
  std::vector<Output> outputs;
  std::vector<GradRequest> grads;
  std::vector<std::pair<std::string, std::string>> extras;

  std::size_t node_count() const { return nodes_.size(); }
  std::size_t value_count() const { return values_.size(); }
  // References stay valid while nodes are appended.
  const Node& node(NodeId id) const { return nodes_[id.index]; }
  Node& node(NodeId id) { return nodes_[id.index]; }
  const Value& value(ValueId id) const { return values_[id.index]; }
  Value& value(ValueId id) { return values_[id.index]; }
  const Type& type(ValueId id) const { return values_[id.index].type; }
  const Node& def(ValueId id) const { return nodes_[values_[id.index].node.index]; }
  Loc loc(ValueId id) const;          ///< first known place of the defining node
  ValueId find(std::string_view value_name) const;  ///< invalid if none
  std::string display(ValueId id) const;  ///< "`x`" or "%7", for messages

  /// Appends without checking; use GraphBuilder unless copying a node that is known to be right.
  NodeId append(Node node, std::vector<Type> result_types);
  /// The name must be free (find) or empty.
  void set_name(ValueId id, std::string name);
  /// Number of the next unbacked symbol, "u<number>.<index>": above that of every one that a type mentions.
  std::uint64_t next_unbacked() const { return next_unbacked_; }

  auto node_ids() const {
    struct Range {
      std::uint32_t n;
      struct It {
        std::uint32_t i;
        NodeId operator*() const { return NodeId(i); }
        It& operator++() {
          ++i;
          return *this;
        }
        bool operator!=(const It& o) const { return i != o.i; }
      };
      It begin() const { return {0}; }
      It end() const { return {n}; }
    };
    return Range{static_cast<std::uint32_t>(nodes_.size())};
  }

 private:
  std::deque<Node> nodes_;
  std::deque<Value> values_;
  std::uint64_t next_unbacked_ = 0;
  std::unordered_map<std::string, ValueId> by_name_;
};

/// A node seen by op rules.
struct NodeView {
  const Graph& graph;
  NodeId id;
  const Node& node() const { return graph.node(id); }
  const Attrs& attrs() const { return node().attrs; }
  std::size_t operand_count() const { return node().operands.size(); }
  bool has(std::size_t i) const { return i < node().operands.size() && node().operands[i].valid(); }
  ValueId operand(std::size_t i) const { return node().operands[i]; }
  ValueId result(std::uint32_t i = 0) const { return node().result(i); }
  const Type& in(std::size_t i) const { return graph.type(operand(i)); }
  const Type& out(std::uint32_t i = 0) const { return graph.type(result(i)); }
};

// ---- What one can do with a graph ------------------------------------------------------------------------

/// Re-runs every type rule and checks the structure; all violations at once.
Status verify(const Graph& graph);

struct PrintOptions {
  bool elide_weights = false;   ///< long constants as `elided`: not an input, and the header says so
  std::int64_t inline_elems = 64;  ///< constants up to this size are spelled out, longer ones base64
  /// If set, longer constants go here, named by the SHA-256 of their bytes, instead of into the text.
  std::function<void(const std::string& name, std::span<const std::byte> bytes)> resource;
};
/// The text form (SPEC 2; grammar in ir/print.cpp). print(parse_graph(print(g))) == print(g).
std::string print(const Graph& graph, const PrintOptions& options = {});
/// The same, long constants as files NAME.bin in `folder`, which is made; AG0305 if one cannot be written.
Result<std::string> print_with_resources(const Graph& graph, const std::string& folder, PrintOptions options = {});
/// `resources`: the folder of such files. The text is not trusted; the result is verified.
Result<Graph> parse_graph(std::string_view text, std::string file = "<text>", const std::string& resources = {});

struct InterpretOptions {
  std::int64_t max_trips = std::int64_t{1} << 31;  ///< of one Loop
  std::size_t max_bytes = 0;    ///< all values alive at once; 0: the machine's memory
  DimEnv dims;                  ///< bindings of symbols that no input gives
  std::function<void(NodeId, std::span<const Array>)> observer;  ///< after each node of the top graph
};
/// The reference interpreter: evaluates in each op's dtype, one node at a time. Inputs in graph order. The outputs
/// in graph order. Errors: AG5xxx with the node's place.
Result<std::vector<Array>> interpret(const Graph& graph, std::span<const Array> inputs,
                                     const InterpretOptions& options = {});

/// One node alone, as the interpreter runs it: one array per operand (an empty Array for an omitted one). Constant
/// folding uses it. Nodes of any tier; an input is an error.
Result<std::vector<Array>> evaluate(const NodeView& node, std::span<const Array> operands,
                                    const InterpretOptions& options = {});

/// Symbols of the input types solved from concrete shapes (`N` from 2*N + 1 = 7 too); AG52xx where they contradict or
/// break declared bounds. `given` helps where the inputs do not determine a symbol; it never overrides them.
Result<DimEnv> bind_dims(const Graph& graph, std::span<const std::vector<std::int64_t>> input_shapes,
                         const DimEnv& given = {});

}  // namespace ag

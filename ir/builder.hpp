// Typed construction of graphs. Types are inferred by the op's own rule, errors come at the call.
#pragma once
#include <initializer_list>
#include <map>

#include "ir/graph.hpp"

namespace ag {

struct OpInfo;

class GraphBuilder {
 public:
  explicit GraphBuilder(Graph& graph, bool intern = false) : graph_(graph), intern_(intern) {}
  Graph& graph() { return graph_; }
  const Type& type(ValueId v) const { return graph_.type(v); }

  // -- checked: for importers and user-facing construction
  struct NodeArgs {
    std::vector<ValueId> operands;
    Attrs attrs;
    std::vector<GraphPtr> regions;
    std::string name;
    std::vector<Loc> locs;
    std::uint32_t result_count = 0;   ///< 0 = as many as the rule gives; fewer leaves trailing ones out
    ValueId grad_of = {};
    std::uint32_t remat = 0;
    /// Types the results must have (AG2103), with the names of unbacked symbols to keep; empty: as the rule gives.
    std::vector<Type> stated = {};
    std::vector<std::pair<std::string, std::string>> extras = {};
  };
  /// Checks operand counts, dtypes (type variables), attributes (unknown, missing, kind, choices) and the op's
  /// rule. Equal pure nodes are shared if the builder interns.
  Result<NodeId> try_add(const OpInfo& op, NodeArgs args);
  ValueId input(std::string name, Type type, Loc loc = {});
  ValueId constant(LiteralPtr literal, Loc loc = {});

  // -- unchecked: for rules and passes; a type error here is a bug of ag (InternalError)
  ValueId add_op(std::string_view op, std::initializer_list<ValueId> operands, Attrs attrs = {});
  ValueId add_op(std::string_view op, std::vector<ValueId> operands, Attrs attrs = {});
  std::vector<ValueId> add_multi(std::string_view op, std::vector<ValueId> operands, Attrs attrs = {});
  /// Location and grad_of given to every node that follows.
  void set_origin(std::vector<Loc> locs, ValueId grad_of = {}) {
    locs_ = std::move(locs);
    grad_of_ = grad_of;
  }

  ValueId scalar(DType t, double v);                    ///< constant of shape []
  ValueId scalar_int(DType t, std::int64_t v);
  ValueId ints(std::span<const std::int64_t> values);   ///< i64[n]
  ValueId zeros(const Type& t);
  ValueId ones(const Type& t);
  ValueId full(const Type& t, double v);                ///< broadcast_in_dim of a scalar (symbolic shapes too)
  // Elementwise, with the trivial cases left out where bits allow it (x*1, x+(-0)... see cpp).
  ValueId neg(ValueId a);
  ValueId add(ValueId a, ValueId b);
  ValueId sub(ValueId a, ValueId b);
  ValueId mul(ValueId a, ValueId b);
  ValueId div(ValueId a, ValueId b);
  ValueId mul(ValueId a, double b) { return mul(a, scalar(type(a).dtype, b)); }
  ValueId add(ValueId a, double b) { return add(a, scalar(type(a).dtype, b)); }
  ValueId unary(std::string_view op, ValueId a) { return add_op(op, {a}); }
  ValueId select(ValueId c, ValueId a, ValueId b);
  ValueId compare(std::string_view op, ValueId a, ValueId b) { return add_op(op, {a, b}); }
  ValueId convert(ValueId a, DType t);
  // Movement; identities return the operand.
  ValueId reshape(ValueId a, Dims shape);
  ValueId transpose(ValueId a, std::vector<std::int64_t> perm);
  /// Result dim dims[i] is operand dim i (equal or 1); all others are new.
  ValueId broadcast_in_dim(ValueId a, Dims shape, std::vector<std::int64_t> dims);
  ValueId broadcast_to(ValueId a, Dims shape);          ///< numpy alignment
  /// The inverse of broadcasting: sums `a` down to `shape`.
  ValueId sum_to(ValueId a, const Dims& shape);
  ValueId reduce(std::string_view op, ValueId a, std::vector<std::int64_t> axes, bool keepdims = false);
  ValueId iota(const Type& type, std::int64_t axis);
  ValueId slice(ValueId a, Dims start, Dims limit, std::vector<std::int64_t> stride = {});
  ValueId concat(std::vector<ValueId> parts, std::int64_t axis);
  ValueId dot_general(ValueId a, ValueId b, std::vector<std::int64_t> lhs_contract,
                      std::vector<std::int64_t> rhs_contract, std::vector<std::int64_t> lhs_batch = {},
                      std::vector<std::int64_t> rhs_batch = {});

  /// The scalar value if `v` is a constant whose elements are all equal (through broadcasts).
  std::optional<double> splat_value(ValueId v) const;

  /// Copies one node of another graph, its operands mapped; its types are inferred anew, unbacked symbols renamed in
  /// the attributes of later copies from the same graph. Names are kept where they are free.
  NodeId copy(const Graph& from, NodeId id, const std::function<ValueId(ValueId)>& map);
  /// Inlines a closed graph: inputs bound to `args`, symbols of their types to the dims of the arguments; names are
  /// dropped. Returns its outputs.
  std::vector<ValueId> inline_graph(const Graph& from, std::span<const ValueId> args);

 private:
  using SymbolMap = std::map<std::string, Dim, std::less<>>;
  NodeId must_add(const OpInfo& op, NodeArgs args);
  NodeId copy_node(const Graph& from, NodeId id, const std::function<ValueId(ValueId)>& map, SymbolMap& symbols,
                   bool names);
  NodeId find_interned(const OpInfo& op, const NodeArgs& args, std::size_t hash) const;
  Status take_stated(const OpInfo& op, std::vector<Type>& types, std::vector<Type> stated,
                     std::span<const Loc> locs) const;
  void merge_locs(Node& node, const std::vector<Loc>& locs);
  Graph& graph_;
  bool intern_;
  std::vector<Loc> locs_;
  ValueId grad_of_;
  std::unordered_multimap<std::size_t, NodeId> interned_;
  std::map<const Graph*, SymbolMap> copied_symbols_;
};

}  // namespace ag

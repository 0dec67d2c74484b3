#include <map>

#include "ir/op.hpp"
#include "passes/constants.hpp"
#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

/// Bytes of constants that folding may make: one result, unless it is no larger than what it is made of, and all
/// together, beyond twice those of the graph (networks lay out each of their weights). Chains cannot get around the
/// second.
constexpr std::size_t max_result_bytes = 16u << 20, max_total_bytes = 64u << 20;

class Folder {
 public:
  Folder(const Graph& g, PassContext& context) : g_(g), context_(context) {
    for (NodeId id : g.node_ids())
      if (g.node(id).result_count == 1) budget_ += 2 * stored_bytes(g, g.node(id).result());
  }

  Result<Graph> run() {
    Graph out = empty_like(g_);
    GraphBuilder b(out);
    ValueMap map(g_.value_count());
    std::vector<bool> is_input(g_.node_count());
    for (ValueId v : g_.inputs) is_input[g_.value(v).node.index] = true;
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      std::vector<LiteralPtr> values;
      if (is_input[id.index] || !evaluate(b, map, id, values)) {
        copy_node(b, g_, id, map);
        continue;
      }
      for (std::uint32_t r = 0; r < n.result_count; ++r) {
        b.set_origin(n.locs, n.grad_of ? map[n.grad_of.index] : ValueId{});
        bind(g_, n.result(r), out, b.constant(values[r]), map);
      }
    }
    map_signature(g_, map, out);
    return out;
  }

 private:
  const Graph& g_;
  PassContext& context_;
  std::size_t total_ = 0, budget_ = max_total_bytes;
  struct KnownView {
    std::size_t bytes;  // of the constants under it
    int depth;          // views of views
  };
  static constexpr int max_depth = 32;
  std::map<ValueId, KnownView> views_;  // what is known and yet not stored

  static std::size_t bytes_of(const Type& t) {
    auto shape = static_shape(t.shape);
    return shape ? Array::byte_size(t.dtype, *shape).value_or(0) : 0;
  }

  /// A view that is larger than the constants it shows is cheaper looked through than read: it is neither evaluated nor
  /// stored, until something that is computed of it folds.
  bool enlarging_view(const NodeView& n) {
    const OpInfo& op = *n.node().op;
    if (op.lower_class != LowerClass::index || !op.inlined || n.node().result_count != 1) return false;
    KnownView under{0, 0};
    for (ValueId v : n.node().operands) {
      auto view = views_.find(v);
      under.bytes += view != views_.end() ? view->second.bytes : v ? bytes_of(g_.type(v)) : 0;
      if (view != views_.end()) under.depth = std::max(under.depth, view->second.depth + 1);
    }
    if (under.depth > max_depth || bytes_of(n.out()) <= std::max<std::size_t>(2 * under.bytes, 4096)) return false;
    views_.emplace(n.node().result(), under);
    return true;
  }

  /// A constant, or a view of constants, in the graph that is evaluated.
  ValueId leaf(GraphBuilder& s, GraphBuilder& b, const ValueMap& map, std::map<ValueId, ValueId>& leaves, ValueId v) {
    if (!v || leaves.contains(v)) return v ? leaves[v] : v;
    const bool view = views_.contains(v);
    const NodeId id = view ? g_.value(v).node : b.graph().value(map[v.index]).node;
    if (view)
      for (ValueId under : g_.node(id).operands) leaf(s, b, map, leaves, under);
    s.copy(view ? g_ : b.graph(), id, [&](ValueId x) { return view && x ? leaves[x] : x; });
    return leaves[v] = ValueId(s.graph().value_count() - 1);
  }

  static const Literal* constant(const Graph& g, ValueId v) {
    const Node& n = g.def(v);
    const LiteralPtr* literal = n.attrs.get<LiteralPtr>("value");
    bool parameter = n.attrs.get_or<bool>("trainable", false);
    return literal && !parameter && n.operands.empty() ? literal->get() : nullptr;
  }

  /// Bytes of a constant that has elements of its own. Random ones are only claimed by a file, so few of them count.
  static std::size_t stored_bytes(const Graph& g, ValueId v) {
    const Literal* l = constant(g, v);
    if (!l || l->form == Literal::Form::splat) return 0;
    return l->form == Literal::Form::random ? std::min(bytes_of(g.type(v)), max_result_bytes) : bytes_of(g.type(v));
  }

  /// The node's results if all its operands are constants, or if shape arithmetic knows them.
  bool evaluate(GraphBuilder& b, const ValueMap& map, NodeId id, std::vector<LiteralPtr>& out) {
    const Node& n = g_.node(id);
    if (constant(g_, n.result()) || !n.regions.empty()) return false;
    std::size_t bytes = 0;
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      auto shape = static_shape(g_.type(n.result(r)).shape);
      auto size = shape ? Array::byte_size(g_.type(n.result(r)).dtype, *shape) : std::nullopt;
      if (!size) return false;
      bytes += *size;
    }
    std::size_t given = 0;
    for (ValueId v : n.operands)
      if (v && !views_.contains(v)) given += stored_bytes(b.graph(), map[v.index]);
    if (bytes > std::max(max_result_bytes, given) || total_ + bytes > budget_) return false;
    if (known_ints(n, out)) return true;
    if (n.operands.empty()) return false;  // iota and the like are cheaper computed than stored
    for (ValueId v : n.operands)
      if (v && !views_.contains(v) && !constant(b.graph(), map[v.index])) return false;
    if (enlarging_view(NodeView{g_, id})) return false;
    Graph sub;
    GraphBuilder s(sub);
    std::map<ValueId, ValueId> leaves;
    for (ValueId v : n.operands) leaf(s, b, map, leaves, v);
    NodeId copy = s.copy(g_, id, [&](ValueId v) { return leaves.contains(v) ? leaves[v] : ValueId{}; });
    for (std::uint32_t r = 0; r < n.result_count; ++r) sub.outputs.push_back({"", sub.node(copy).result(r), {}});
    auto values = evaluate_constants(sub, context_);
    if (!values) return false;  // it would fail at run time too: let it, with its place
    total_ += bytes;
    out = std::move(*values);
    return true;
  }

  bool known_ints(const Node& n, std::vector<LiteralPtr>& out) const {
    if (n.result_count != 1) return false;
    const Value& v = g_.value(n.result());
    if (!v.known_ints) return false;
    auto shape = static_shape(v.type.shape);
    if (!shape) return false;
    Array a(v.type.dtype, *shape);
    for (std::size_t i = 0; i < v.known_ints->size(); ++i) {
      if (!(*v.known_ints)[i].is_const()) return false;
      a.set_int(static_cast<std::int64_t>(i), (*v.known_ints)[i].value());
    }
    out = {make_literal(std::move(a))};
    return true;
  }
};

Result<Graph> run(const Graph& g, PassContext& context) { return Folder(g, context).run(); }

}  // namespace

const Pass fold = {.name = "fold", .summary = "evaluate what depends on constants only", .on_graph = run};

}  // namespace ag::passes

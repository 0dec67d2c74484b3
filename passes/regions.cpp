// Bodies of If, Loop and Scan are closed graphs, so passes over the graph around them do not see inside. Here they get
// what that graph got: constants that they capture become constants of theirs (the literal is shared, nothing is
// copied), so that folding, packing and transformed filters reach them; the passes of the target run over them; and
// what a loop would compute anew in each trip from values that never change is computed once before it.
#include "passes/regions.hpp"

#include <algorithm>
#include <array>

#include "ir/op.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

using Ints = std::vector<std::int64_t>;

constexpr std::string_view prepared_stage = "regions";

bool has_body(const Node& n) {
  const std::string_view name = n.op->name;
  return !n.regions.empty() && (name == "If" || name == "Loop" || name == "Scan");
}

/// The literal of a constant that no one changes.
LiteralPtr literal_of(const Graph& g, ValueId v) {
  const Node& n = g.def(v);
  const LiteralPtr* l = n.attrs.get<LiteralPtr>("value");
  return l && n.op->name == "constant" && !n.attrs.get_or<bool>("trainable", false) ? *l : nullptr;
}

bool is_static(const Type& t) { return static_shape(t.shape).has_value(); }

void drop_captures(Node& n, std::size_t first, const std::vector<bool>& dropped) {
  for (std::size_t i = dropped.size(); i-- > 0;)
    if (dropped[i]) n.operands.erase(n.operands.begin() + static_cast<std::ptrdiff_t>(first + i));
  const auto left = std::count(dropped.begin(), dropped.end(), false);
  n.attrs.set("captures", static_cast<std::int64_t>(left));
}

/// A copy of a region without some of its captures, its last inputs: constants take their places, or nothing where
/// nobody reads them.
Graph without_captures(const Graph& body, const std::vector<bool>& dropped, const std::vector<LiteralPtr>& literals) {
  const std::size_t own = body.inputs.size() - dropped.size();
  Graph out = empty_like(body);
  GraphBuilder b(out);
  ValueMap map(body.value_count());
  std::vector<int> capture_of(body.node_count(), -1);
  for (std::size_t i = 0; i < dropped.size(); ++i)
    if (dropped[i]) capture_of[body.value(body.inputs[own + i]).node.index] = static_cast<int>(i);
  for (NodeId id : body.node_ids()) {
    const int capture = capture_of[id.index];
    if (capture < 0)
      copy_node(body, id, out, map);
    else if (literals[static_cast<std::size_t>(capture)])
      map[body.node(id).result().index] =
          b.constant(literals[static_cast<std::size_t>(capture)], body.loc(body.node(id).result()));
  }
  for (std::size_t i = 0; i < body.inputs.size(); ++i)
    if (i < own || !dropped[i - own]) out.inputs.push_back(map[body.inputs[i].index]);
  for (const Output& o : body.outputs) out.outputs.push_back({o.name, map[o.value.index], o.loc});
  return out;
}

/// Constants that node `n` captures become constants of its regions.
void sink_constants(const Graph& g, Node& n) {
  const std::size_t captures = capture_count(n), first = n.operands.size() - captures;
  std::vector<bool> dropped(captures);
  std::vector<LiteralPtr> literals(captures);
  for (std::size_t i = 0; i < captures; ++i) {
    literals[i] = literal_of(g, n.operands[first + i]);
    dropped[i] = literals[i] != nullptr;
    for (const GraphPtr& r : n.regions)  // a size that the region calls by a name stays outside
      dropped[i] = dropped[i] && r->type(r->inputs[r->inputs.size() - captures + i]) == g.type(n.operands[first + i]);
  }
  if (std::ranges::find(dropped, true) == dropped.end()) return;
  for (GraphPtr& r : n.regions) r = std::make_shared<const Graph>(without_captures(*r, dropped, literals));
  drop_captures(n, first, dropped);
}

/// Finds what of a loop's body does not change from trip to trip and is worth computing once.
class Invariants {
 public:
  Invariants(const Graph& body, std::size_t captures) : body_(body), fixed_(body.value_count()) {
    for (std::size_t i = body.inputs.size() - captures; i < body.inputs.size(); ++i)
      fixed_[body.inputs[i].index] = true;
    std::vector<bool> needed(body.value_count());
    for (NodeId id : body.node_ids()) mark_fixed(id);
    for (const Output& o : body.outputs) needed[o.value.index] = true;
    const std::vector<bool> live = live_nodes(body);
    for (NodeId id : body.node_ids())
      if (live[id.index] && !fixed_node(id)) need_operands(id, needed);
    for (std::size_t i = body.node_count(); i-- > 0;) {
      const NodeId id(i);
      const Node& n = body.node(id);
      if (!live[i] || !fixed_node(id) || n.result_count != 1 || !needed[n.result().index]) continue;
      if (pays(n))
        roots_.push_back(n.result());
      else
        need_operands(id, needed);
    }
    std::ranges::reverse(roots_);
  }

  /// Values to be computed before the loop, each of one node.
  const std::vector<ValueId>& roots() const { return roots_; }

 private:
  const Graph& body_;
  std::vector<bool> fixed_;  ///< by value
  std::vector<ValueId> roots_;

  bool fixed_node(NodeId id) const {
    const Node& n = body_.node(id);
    return n.result_count > 0 && fixed_[n.result().index] && !n.operands.empty();
  }
  void need_operands(NodeId id, std::vector<bool>& needed) const {
    for (ValueId v : body_.node(id).operands)
      if (v) needed[v.index] = true;
  }

  /// Only what cannot fail may run in front of a loop that makes no trip.
  static bool harmless(const Node& n, const Type& type) {
    constexpr std::array views{"materialize", "transpose", "reshape",     "broadcast_in_dim",
                               "slice",       "pad",       "concatenate", "reverse"};
    switch (n.op->lower_class) {
      case LowerClass::map: return is_float(type.dtype);
      case LowerClass::index: return std::ranges::find(views, n.op->name) != views.end();
      case LowerClass::reduce:
      case LowerClass::contraction: return true;
      default: return false;
    }
  }

  void mark_fixed(NodeId id) {
    const Node& n = body_.node(id);
    if (n.op->name == "constant") fixed_[n.result().index] = true;
    if (n.operands.empty() || n.result_count != 1 || !n.regions.empty()) return;
    if (!harmless(n, body_.type(n.result())) || !is_static(body_.type(n.result()))) return;
    fixed_[n.result().index] =
        std::ranges::all_of(n.operands, [&](ValueId v) { return v && fixed_[v.index] && is_static(body_.type(v)); });
  }

  /// Views cost nothing where they are, and a result larger than what it is made of is read dearer than made.
  bool pays(const Node& n) const {
    if (n.op->lower_class == LowerClass::index) return n.op->name == "materialize";
    if (n.op->lower_class != LowerClass::map) return true;
    const std::int64_t size = body_.type(n.result()).elems().value();
    return std::ranges::any_of(n.operands, [&](ValueId v) {
      return body_.type(v).elems().value() >= size && body_.def(v).op->name != "broadcast_in_dim";
    });
  }
};

std::vector<ValueId> invariants(const Graph& body, std::size_t captures) { return Invariants(body, captures).roots(); }

/// A product whose right matrix lies with the contracted axis last gathers it, a tile at a time, whenever it runs.
/// Where the matrix is a capture of a loop, the body gets a copy that lies the other way round, which can then be made
/// once.
Graph with_turned_matrices(const Graph& body, std::size_t captures) {
  std::vector<bool> captured(body.value_count());
  for (std::size_t i = body.inputs.size() - captures; i < body.inputs.size(); ++i)
    captured[body.inputs[i].index] = true;
  Graph out = empty_like(body);
  GraphBuilder b(out);
  ValueMap map(body.value_count());
  for (NodeId id : body.node_ids()) {
    Node n = body.node(id);
    for (ValueId& v : n.operands)
      if (v) v = map[v.index];
    if (n.grad_of) n.grad_of = map[n.grad_of.index];
    if (n.op->name == "dot_general") {
      ValueId matrix = body.node(id).operands[1];
      std::int64_t contract = n.attrs.get_or<Ints>("rhs_contract", {-1})[0];
      if (const Node& view = body.def(matrix); view.op->name == "transpose" && body.type(matrix).rank() == 2) {
        matrix = view.operands[0];
        contract = view.attrs.get_or<Ints>("perm", {})[static_cast<std::size_t>(contract)];
      }
      const Type& type = body.type(matrix);
      if (captured[matrix.index] && type.rank() == 2 && contract == 1 && is_static(type) && is_float(type.dtype)) {
        n.operands[1] = b.add_op("materialize", {b.transpose(map[matrix.index], {1, 0})});
        n.attrs.set("rhs_contract", Ints{0});
      }
    }
    append_as(body, id, std::move(n), out, map);
  }
  map_signature(body, map, out);
  return out;
}

/// The body with `roots` as its last inputs.
Graph with_inputs(const Graph& body, const std::vector<ValueId>& roots) {
  Graph out = empty_like(body);
  GraphBuilder b(out);
  ValueMap map(body.value_count());
  std::vector<bool> root(body.value_count());
  for (ValueId v : roots) root[v.index] = true;
  std::vector<ValueId> inputs;
  for (NodeId id : body.node_ids()) {
    const Node& n = body.node(id);
    if (n.result_count == 1 && root[n.result().index])
      inputs.push_back(map[n.result().index] = b.input("", body.type(n.result()), body.loc(n.result())));
    else
      copy_node(body, id, out, map);
  }
  map_signature(body, map, out);
  out.inputs.insert(out.inputs.end(), inputs.begin(), inputs.end());
  return out;
}

class Preparer {
 public:
  Preparer(const Graph& g, PassContext& context) : g_(g), context_(context), out_(empty_like(g)) {
    map_.resize(g.value_count());
  }

  Result<Graph> run() {
    for (NodeId id : g_.node_ids()) {
      if (!has_body(g_.node(id)))
        copy_node(g_, id, out_, map_);
      else
        AG_TRY_(control(id));
    }
    map_signature(g_, map_, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  PassContext& context_;
  Graph out_;
  ValueMap map_;

  Status control(NodeId id) {
    Node n = g_.node(id);
    for (ValueId& v : n.operands)
      if (v) v = map_[v.index];
    if (n.grad_of) n.grad_of = map_[n.grad_of.index];
    if (context_.fuse) sink_constants(out_, n);
    for (GraphPtr& r : n.regions) {
      AG_TRY(Graph body, prepare_region(*r, context_));
      r = std::make_shared<const Graph>(std::move(body));
    }
    if (context_.fuse) {
      if (n.op->name != "If") AG_TRY_(hoist(n));
      drop_unused(n);
    }
    append_as(g_, id, std::move(n), out_, map_);
    return {};
  }

  /// Appends what the loop `n` need not compute in each trip, and gives it the results as captures.
  Status hoist(Node& n) {
    const std::size_t captures = capture_count(n), first = n.operands.size() - captures;
    const Graph body =
        context_.target.kind == TargetSpec::Kind::cpu ? with_turned_matrices(*n.regions[0], captures) : *n.regions[0];
    const std::vector<ValueId> roots = invariants(body, captures);
    if (roots.empty()) return {};
    ValueMap outside(body.value_count());
    for (std::size_t i = 0; i < captures; ++i)
      outside[body.inputs[body.inputs.size() - captures + i].index] = n.operands[first + i];
    std::vector<bool> wanted(body.node_count());
    for (ValueId v : roots) wanted[body.value(v).node.index] = true;
    for (std::size_t i = body.node_count(); i-- > 0;)
      if (wanted[i])
        for (ValueId v : body.node(NodeId(i)).operands) wanted[body.value(v).node.index] = true;
    for (NodeId k : body.node_ids())
      if (wanted[k.index] && !outside[body.node(k).result().index]) copy_node(body, k, out_, outside, false);
    for (ValueId v : roots) n.operands.push_back(outside[v.index]);
    n.attrs.set("captures", static_cast<std::int64_t>(captures + roots.size()));
    AG_TRY(Graph rest, dce.on_graph(with_inputs(body, roots), context_));
    n.regions[0] = std::make_shared<const Graph>(std::move(rest));
    return {};
  }

  /// What no region reads any more is no capture.
  static void drop_unused(Node& n) {
    const std::size_t captures = capture_count(n);
    std::vector<bool> unused(captures, true);
    for (const GraphPtr& r : n.regions) {
      std::vector<bool> read(r->value_count());
      for (NodeId id : r->node_ids())
        for (ValueId v : r->node(id).operands)
          if (v) read[v.index] = true;
      for (const Output& o : r->outputs) read[o.value.index] = true;
      for (std::size_t i = 0; i < captures; ++i) {
        const ValueId input = r->inputs[r->inputs.size() - captures + i];
        if (read[input.index] || !is_static(r->type(input))) unused[i] = false;  // it may bind a size
      }
    }
    if (std::ranges::find(unused, true) == unused.end()) return;
    for (GraphPtr& r : n.regions)
      r = std::make_shared<const Graph>(without_captures(*r, unused, std::vector<LiteralPtr>(captures)));
    drop_captures(n, n.operands.size() - captures, unused);
  }
};

Result<Graph> run(const Graph& g, PassContext& context) { return Preparer(g, context).run(); }

}  // namespace

std::size_t capture_count(const Node& n) {
  return static_cast<std::size_t>(std::max<std::int64_t>(0, n.attrs.get_or<std::int64_t>("captures", 0)));
}

Result<Graph> prepare_region(const Graph& region, PassContext& context) {
  if (region.stage == prepared_stage) return region;
  Graph g = region;
  std::vector<std::string_view> passes{"decompose", "regions", "dce"};
  if (context.fuse && context.target.kind == TargetSpec::Kind::cpu)
    passes = {"cse",     "algebra", "fold", "dce",    "decompose_early", "fold_affine",    "cse",
              "algebra", "fold",    "dce",  "layout", "winograd",        "depthwise",      "decompose",
              "cse",     "algebra", "fold", "dce",    "regions",         "pack_constants", "dce"};
  else if (context.fuse)
    passes = {"cse", "algebra", "fold", "dce", "decompose", "cse", "algebra", "fold", "regions", "dce"};
  for (std::string_view name : passes) {
    g.stage = "dce";  // names of constants are no variables any more
    AG_TRY(g, find_pass(name)->on_graph(g, context));
  }
  g.stage = prepared_stage;
  return g;
}

const Pass regions = {.name = "regions",
                      .summary = "prepare the bodies of loops and branches; move what stays the same out",
                      .on_graph = run};

}  // namespace ag::passes

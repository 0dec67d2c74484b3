// Closed graphs cut out of others, and larger control nodes put in the place of smaller ones.
#include <algorithm>

#include "ir/check.hpp"
#include "ir/symbols.hpp"
#include "passes/autodiff_internal.hpp"

namespace ag::passes::ad {
namespace {

/// Appends a copy of node `id` of `from`, its types as they are.
void copy_raw(const Graph& from, NodeId id, Graph& to, ValueMap& map, bool names) {
  const Node& old = from.node(id);
  Node node = old;
  for (ValueId& v : node.operands)
    if (v) v = map[v.index];
  if (node.grad_of) node.grad_of = map[node.grad_of.index];
  std::vector<Type> types;
  for (std::uint32_t r = 0; r < old.result_count; ++r) types.push_back(from.type(old.result(r)));
  NodeId fresh = to.append(std::move(node), std::move(types));
  for (std::uint32_t r = 0; r < old.result_count; ++r) {
    const Value& was = from.value(old.result(r));
    ValueId now = to.node(fresh).result(r);
    map[old.result(r).index] = now;
    to.value(now).known_ints = was.known_ints;
    if (names && !was.name.empty() && !to.find(was.name)) to.set_name(now, was.name);
  }
}

Type operand_type_inside(const Graph& g, const Node& n, const Recurrence& r, std::size_t i) {
  Type t = g.type(n.operands[i]);
  if (i < r.sequence(0) || i >= r.capture(0)) return t;
  const auto* axes = n.attrs.get<std::vector<std::int64_t>>("scan_input_axes");
  std::size_t k = i - r.sequence(0);
  std::int64_t axis = axes && k < axes->size() ? (*axes)[k] : 0;
  t.shape.erase(t.shape.begin() + *normalize_axis(axis, t.rank()));
  return t;
}

}  // namespace

std::set<std::string> symbols_of(const Type& t) {
  std::set<std::string> out;
  for (const Dim& d : t.shape) d.collect_symbols(out);
  return out;
}

std::set<std::string> symbols_of_graph(const Graph& g) {
  std::set<std::string> out;
  auto add = [&](const Dims& dims) {
    for (const Dim& d : dims) d.collect_symbols(out);
  };
  for (std::size_t v = 0; v < g.value_count(); ++v) add(g.type(ValueId(v)).shape);
  for (NodeId id : g.node_ids())
    for (const auto& [name, value] : g.node(id).attrs) {
      if (const auto* dims = std::get_if<Dims>(&value)) add(*dims);
      if (const auto* type = std::get_if<Type>(&value)) add(type->shape);
    }
  return out;
}

Graph extract(const Graph& g, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs) {
  Bits cut(g.value_count()), live(g.node_count());
  for (ValueId v : inputs) cut[v.index] = true;
  auto need = [&](ValueId v) {
    if (v && !cut[v.index]) live[g.value(v).node.index] = true;
  };
  std::ranges::for_each(outputs, need);
  for (std::size_t i = g.node_count(); i-- > 0;)
    if (live[i]) std::ranges::for_each(g.node(NodeId(i)).operands, need);
  Graph out;
  out.opset = g.opset;
  out.ag_opset = g.ag_opset;
  GraphBuilder b(out);
  ValueMap map(g.value_count());
  for (ValueId v : inputs) {
    map[v.index] = b.input(g.value(v).name, g.type(v), g.loc(v));
    out.value(map[v.index]).known_ints = g.value(v).known_ints;
  }
  for (NodeId id : g.node_ids()) {
    if (!live[id.index]) continue;
    AG_CHECK(g.node(id).op->name != "input", "a region needs a value that it is not given");
    ValueMap keep;  // a node may give values that are cut beside one that is not: those stay inputs
    for (std::uint32_t r = 0; r < g.node(id).result_count; ++r) keep.push_back(map[g.node(id).result(r).index]);
    copy_raw(g, id, out, map, true);
    for (std::uint32_t r = 0; r < g.node(id).result_count; ++r)
      if (keep[r]) map[g.node(id).result(r).index] = keep[r];
  }
  for (ValueId v : outputs) out.outputs.push_back({"", map[v.index], g.loc(v)});
  return out;
}

namespace {

/// Which node tells a size that only the data knows, now that others stand in the place of the dropped nodes.
std::map<std::string, NodeId, std::less<>> sizes_told(const Graph& g, const std::vector<ValueId>& instead,
                                                      const Bits& dropped) {
  auto out = unbacked_definitions(g);
  for (auto& [name, id] : out) {
    if (!dropped[id.index]) continue;
    const Node& old = g.node(id);
    for (std::uint32_t r = 0; r < old.result_count; ++r) {
      ValueId fresh = instead[old.result(r).index];
      if (fresh != old.result(r) && symbols_of(g.type(fresh)).contains(name)) id = g.value(fresh).node;
    }
  }
  std::erase_if(out, [&](const auto& x) { return dropped[x.second.index]; });
  return out;
}

}  // namespace

Graph redirect(const Graph& g, const std::vector<ValueId>& instead, const Bits& dropped, ValueMap& map) {
  Bits done(g.node_count());
  Graph work = g;  // users of the old results use the new ones
  for (NodeId id : work.node_ids()) {
    for (ValueId& v : work.node(id).operands)
      if (v) v = instead[v.index];
    if (ValueId& v = work.node(id).grad_of) v = instead[v.index];
  }
  for (std::size_t i = 0; i < instead.size(); ++i) {
    ValueId old(i), fresh = instead[i];
    std::string name = work.value(old).name;
    if (fresh != old && !name.empty() && work.value(fresh).name.empty()) {
      work.set_name(old, {});
      work.set_name(fresh, name);
    }
  }
  Graph out = empty_like(g);
  map.assign(g.value_count(), {});
  // Larger nodes stand behind the values that they replace: operands first, and what tells a size that only the data
  // knows; in the old order otherwise.
  const auto told = sizes_told(work, instead, dropped);
  auto first_of = [&](NodeId id) -> NodeId {
    for (ValueId v : work.node(id).operands)
      if (v && !done[work.value(v).node.index]) return work.value(v).node;
    if (!told.empty())
      for (const std::string& s : unbacked_symbols(work, id))
        if (auto at = told.find(s); at != told.end() && at->second != id && !done[at->second.index]) return at->second;
    return {};
  };
  std::vector<NodeId> open;
  for (NodeId root : work.node_ids()) {
    if (dropped[root.index] || done[root.index]) continue;
    open.push_back(root);
    while (!open.empty()) {
      NodeId id = open.back();
      if (NodeId before = first_of(id)) {
        open.push_back(before);
        continue;
      }
      open.pop_back();
      if (done[id.index]) continue;
      done[id.index] = true;
      copy_raw(work, id, out, map, true);
    }
  }
  for (std::size_t i = 0; i < instead.size(); ++i)
    if (instead[i].index != i) map[i] = map[instead[i].index];
  map_signature(g, map, out);
  return out;
}

Graph apply_swaps(const Graph& g, const std::vector<Swap>& swaps, ValueMap& map) {
  std::vector<ValueId> instead(g.value_count());
  Bits dropped(g.node_count());
  for (std::size_t i = 0; i < instead.size(); ++i) instead[i] = ValueId(i);
  for (const Swap& s : swaps) {
    dropped[s.old.index] = true;
    const Node &old = g.node(s.old), &fresh = g.node(s.fresh);
    for (std::uint32_t r = 0; r < old.result_count; ++r) instead[old.result(r).index] = fresh.result(s.results[r]);
  }
  return redirect(g, instead, dropped, map);
}

NodeId must_add(GraphBuilder& b, const OpInfo& op, GraphBuilder::NodeArgs args) {
  auto id = b.try_add(op, std::move(args));
  if (!id)
    internal_error("the gradient of a region is a wrong `" + std::string(op.name) + "`: " + id.error()[0].message,
                   __FILE__, __LINE__);
  return *id;
}

NodeId add_larger(GraphBuilder& b, NodeId old, Larger larger) {
  const Node n = b.graph().node(old);
  GraphBuilder::NodeArgs args;
  args.operands = std::move(larger.operands);
  args.attrs = std::move(larger.attrs);
  args.regions = std::move(larger.regions);
  auto types = n.op->infer(InferCtx(b.graph(), *n.op, args.operands, args.attrs, args.regions, n.locs));
  AG_CHECK(types.has_value(), "a control node with a derivative");
  std::map<std::string, Dim, std::less<>> symbols;
  std::string fresh = "u" + std::to_string(b.graph().next_unbacked()) + ".";
  auto is_fresh = [&](const std::string& s) { return s.starts_with(fresh); };
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    const Type& was = b.graph().type(n.result(r));
    AG_CHECK(unify((*types)[larger.kept[r]], was, symbols, is_fresh), "a control node keeps its types");
    (*types)[larger.kept[r]] = was;
  }
  for (auto [at, r] : larger.like) (*types)[at] = b.graph().type(n.result(r));
  for (Type& t : *types)
    for (Dim& d : t.shape) d = d.substitute(symbols);
  args.stated = std::move(*types);
  args.name = n.name;
  args.extras = n.extras;
  args.locs = n.locs;
  args.grad_of = n.grad_of;
  args.remat = n.remat;
  return must_add(b, *n.op, std::move(args));
}

Graph instantiate(const Graph& outer, const Node& n, const Recurrence& r) {
  const Graph& body = *n.regions[0];
  bool same = true;
  for (std::size_t i = r.first(); i < body.inputs.size(); ++i)
    same = same && body.type(body.inputs[i]) == operand_type_inside(outer, n, r, i);
  if (same) return body;
  Graph out;
  out.opset = body.opset;
  out.ag_opset = body.ag_opset;
  GraphBuilder b(out);
  std::vector<ValueId> args;
  for (std::size_t i = 0; i < body.inputs.size(); ++i) {
    const Value& in = body.value(body.inputs[i]);
    args.push_back(
        b.input(in.name, i < r.first() ? in.type : operand_type_inside(outer, n, r, i), body.loc(body.inputs[i])));
  }
  std::vector<ValueId> results = b.inline_graph(body, args);
  for (std::size_t i = 0; i < results.size(); ++i)
    out.outputs.push_back({body.outputs[i].name, results[i], body.outputs[i].loc});
  return out;
}

}  // namespace ag::passes::ad

#include "passes/rebuild.hpp"

#include <algorithm>

#include "ir/op.hpp"
#include "ir/symbols.hpp"

namespace ag::passes {

void map_signature(const Graph& from, const ValueMap& map, Graph& to) {
  to.inputs.clear();
  to.outputs.clear();
  for (ValueId v : from.inputs) to.inputs.push_back(map[v.index]);
  for (const Output& o : from.outputs) to.outputs.push_back({o.name, map[o.value.index], o.loc});
}

NodeId append_as(const Graph& g, NodeId id, Node node, Graph& out, ValueMap& map, bool keep_names) {
  const Node& old = g.node(id);
  std::vector<Type> types;
  for (std::uint32_t r = 0; r < old.result_count; ++r) types.push_back(g.type(old.result(r)));
  NodeId fresh = out.append(std::move(node), std::move(types));
  for (std::uint32_t r = 0; r < old.result_count; ++r) {
    ValueId from = old.result(r), to = out.node(fresh).result(r);
    map[from.index] = to;
    out.value(to).known_ints = g.value(from).known_ints;
    if (keep_names && !g.value(from).name.empty()) out.set_name(to, g.value(from).name);
  }
  return fresh;
}

NodeId copy_node(const Graph& g, NodeId id, Graph& out, ValueMap& map, bool keep_names) {
  Node node = g.node(id);
  for (ValueId& v : node.operands)
    if (v) v = map[v.index];
  if (node.grad_of) node.grad_of = map[node.grad_of.index];
  return append_as(g, id, std::move(node), out, map, keep_names);
}

NodeId copy_node(GraphBuilder& b, const Graph& g, NodeId id, ValueMap& map) {
  const NodeId copy = b.copy(g, id, [&](ValueId v) { return map[v.index]; });
  const Node &from = g.node(id), &to = b.graph().node(copy);
  for (std::uint32_t r = 0; r < from.result_count; ++r) map[from.result(r).index] = to.result(r);
  return copy;
}

void bind(const Graph& g, ValueId from, Graph& out, ValueId to, ValueMap& map) {
  map[from.index] = to;
  const std::string& name = g.value(from).name;
  if (!name.empty() && out.value(to).name.empty() && !out.find(name)) out.set_name(to, name);
}

Graph copy_if(const Graph& g, const std::function<bool(NodeId)>& keep, ValueMap* map_out) {
  Graph out = empty_like(g);
  ValueMap map(g.value_count());
  std::vector<bool> is_input(g.node_count());
  for (ValueId v : g.inputs) is_input[g.value(v).node.index] = true;
  for (NodeId id : g.node_ids())
    if (is_input[id.index] || keep(id)) copy_node(g, id, out, map);
  map_signature(g, map, out);
  if (map_out) *map_out = std::move(map);
  return out;
}

std::vector<bool> live_nodes(const Graph& g) {
  std::vector<bool> live(g.node_count());
  for (const Output& o : g.outputs) live[g.value(o.value).node.index] = true;
  for (const GradRequest& r : g.grads) {
    auto mark = [&](const std::string& name) {
      if (ValueId v = g.find(name)) live[g.value(v).node.index] = true;
    };
    mark(r.of);
    mark(r.seed);
    for (const std::string& w : r.wrt) mark(w);
  }
  const auto definitions = unbacked_definitions(g);
  for (std::size_t i = g.node_count(); i-- > 0;) {
    if (!live[i]) continue;
    for (ValueId v : g.node(NodeId(i)).operands)
      if (v) live[g.value(v).node.index] = true;
    if (definitions.empty()) continue;
    for (const std::string& s : unbacked_symbols(g, NodeId(i)))
      if (auto d = definitions.find(s); d != definitions.end()) live[d->second.index] = true;
  }
  return live;
}

Graph decompose_where(const Graph& g, const std::function<bool(const NodeView&)>& which, ValueMap* map_out) {
  Graph work = empty_like(g);
  GraphBuilder b(work);
  ValueMap map(g.value_count());
  std::vector<bool> replaced;  // nodes of `work` that only served their decomposition
  if (g.next_unbacked() > 0) {
    // Symbols that a decomposition makes up must not be those of nodes that are still to come: numbers go on above
    // theirs, since a node that goes again has the last one.
    Node last;
    last.op = &op("iota");
    work.append(std::move(last), {{DType::boolean, {Dim::symbol("u" + std::to_string(g.next_unbacked() - 1) + ".0")}}});
    replaced = {true};
  }
  for (NodeId id : g.node_ids()) {
    bool expand = g.node(id).op->decompose && which(NodeView{g, id});
    NodeId fresh = copy_node(g, id, work, map, !expand);
    if (!expand) continue;
    replaced.resize(fresh.index + 1);
    replaced[fresh.index] = true;
    const Node copy = work.node(fresh);  // by value: the decomposition appends
    b.set_origin(copy.locs, copy.grad_of);
    std::size_t first_new = work.node_count();
    std::vector<ValueId> results = copy.op->decompose(b, NodeView{work, fresh});
    AG_CHECK(results.size() >= copy.result_count);
    for (std::uint32_t r = 0; r < copy.result_count; ++r) {
      ValueId old = g.node(id).result(r);
      if (!results[r]) continue;  // an output that nobody asked for
      map[old.index] = results[r];
      Value& made = work.value(results[r]);  // what is known of a composite's elements is known of what stands for it
      if (!made.known_ints && made.node.index >= first_new) made.known_ints = work.value(copy.result(r)).known_ints;
      const std::string& name = g.value(old).name;
      if (!name.empty() && work.value(results[r]).name.empty() && work.value(results[r]).node.index >= first_new)
        work.set_name(results[r], name);
    }
    if (work.node_count() > first_new) {  // the node's own name goes to what computes its result
      Node& last = work.node(work.value(results[0]).node);
      if (last.name.empty() && work.value(results[0]).node.index >= first_new) last.name = copy.name;
    }
  }
  map_signature(g, map, work);
  if (std::find(replaced.begin(), replaced.end(), true) == replaced.end()) {
    if (map_out) *map_out = std::move(map);
    return work;
  }
  replaced.resize(work.node_count());
  ValueMap second;
  Graph out = copy_if(work, [&](NodeId id) { return !replaced[id.index]; }, &second);
  if (map_out) {
    for (ValueId& v : map)
      if (v) v = second[v.index];
    *map_out = std::move(map);
  }
  return out;
}

}  // namespace ag::passes

#include <algorithm>
#include <unordered_map>

#include "ir/op.hpp"
#include "ir/symbols.hpp"
#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

/// Nodes with equal op, operands, attributes and remat id become one; places and names of the first win, places of
/// the others are kept behind it. Nodes with regions are left alone.
Result<Graph> share(const Graph& given) {
  Graph g = given;
  std::vector<ValueId> leader;
  for (std::size_t i = 0; i < g.value_count(); ++i) leader.push_back(ValueId(i));
  std::vector<bool> drop(g.node_count());
  std::unordered_multimap<std::size_t, NodeId> seen;
  std::map<std::string, Dim, std::less<>> renamed;  // sizes that two nodes found, and that are one
  std::vector<bool> is_input(g.node_count());
  for (ValueId v : g.inputs) is_input[g.value(v).node.index] = true;
  for (NodeId id : g.node_ids()) {
    Node& n = g.node(id);
    for (ValueId& v : n.operands)
      if (v) v = leader[v.index];
    if (!n.regions.empty() || is_input[id.index]) continue;
    std::size_t h = std::hash<const void*>()(n.op) ^ hash(n.attrs) * 31 ^ n.remat;
    for (ValueId v : n.operands) h = h * 1000003 + v.index;
    auto [begin, end] = seen.equal_range(h);
    for (auto it = begin; it != end; ++it) {
      Node& first = g.node(it->second);
      if (first.op != n.op || first.operands != n.operands || first.remat != n.remat ||
          first.result_count != n.result_count || !equal(first.attrs, n.attrs))
        continue;
      drop[id.index] = true;
      for (const Loc& l : n.locs)
        if (first.locs.size() < 8 && std::find(first.locs.begin(), first.locs.end(), l) == first.locs.end())
          first.locs.push_back(l);
      for (std::uint32_t r = 0; r < n.result_count; ++r) {
        leader[n.result(r).index] = first.result(r);
        const Dims &mine = g.type(n.result(r)).shape, &other = g.type(first.result(r)).shape;
        for (std::size_t d = 0; d < mine.size(); ++d)
          if (auto s = mine[d].as_symbol(); s && is_unbacked(*s) && mine[d] != other[d]) renamed.emplace(*s, other[d]);
      }
      break;
    }
    if (!drop[id.index]) seen.emplace(h, id);
  }
  for (ValueId& v : g.inputs) v = leader[v.index];
  for (Output& o : g.outputs) o.value = leader[o.value.index];
  for (NodeId id : g.node_ids())
    if (g.node(id).grad_of) g.node(id).grad_of = leader[g.node(id).grad_of.index];
  Graph out = copy_if(g, [&](NodeId id) { return !drop[id.index]; });
  if (renamed.empty()) return out;
  return share(substitute_symbols(out, renamed));  // attributes that mentioned them may be equal now
}

Result<Graph> run(const Graph& given, PassContext&) { return share(given); }

}  // namespace

const Pass cse = {.name = "cse", .summary = "share equal nodes", .on_graph = run};

}  // namespace ag::passes

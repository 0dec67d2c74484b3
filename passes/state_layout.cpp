// A layout chosen for convolutions gives a filter's gradient with its axes in another order than the filter's. The
// update of the filter, one loop over all elements in row-major order, would then read the gradient with large strides.
// Here the state that such an update goes over (the filter and its slots) takes the gradient's order: the update reads
// and writes everything in the order in which it lies, and what uses the filter sees it transposed, which the layout
// mostly wants anyway. The attribute `axes` of a state says where its axes lie; only import and export of a state look
// at it.
#include "passes/state_layout.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "ir/op.hpp"
#include "passes/rebuild.hpp"
#include "passes/train.hpp"
#include "passes/users.hpp"

namespace ag::passes {
namespace {

using Perm = std::vector<std::int64_t>;

bool is_op(const Graph& g, ValueId v, std::string_view op) { return g.def(v).op->name == op; }

/// An update: flat elementwise nodes between states and their next values.
struct Update {
  std::set<NodeId> nodes;
  std::vector<ValueId> states, others;  ///< what is flattened: states, and one value of their shape that is none
};

class Finder {
 public:
  explicit Finder(const Graph& g) : g_(g), users_(users_of(g)) {
    for (ValueId v : g.inputs)
      if (const std::string* next = next_of_state(g, v))
        for (const Output& o : g.outputs)
          if (o.name == *next && o.value != v) next_[v] = o.value;
  }

  const std::map<ValueId, ValueId>& next() const { return next_; }

  /// The update that the state takes part in, if its order is free to choose.
  std::optional<Update> update_of(ValueId state) const {
    Update u;
    std::vector<ValueId> work{next_.at(state)};
    const Dims flat = g_.type(work[0]).shape;
    if (flat.size() != 1 || g_.type(state).rank() < 2) return std::nullopt;
    std::set<ValueId> seen;
    auto meet = [&](ValueId v) {  // a flat value: from here the walk goes both ways
      if (seen.insert(v).second) work.push_back(v);
    };
    while (!work.empty()) {
      const ValueId v = work.back();
      work.pop_back();
      const Node& n = g_.def(v);
      if (is_op(g_, v, "reshape")) {
        if (!leaf(u, n.operands[0], state)) return std::nullopt;
      } else if (n.op->lower_class == LowerClass::map) {
        u.nodes.insert(g_.value(v).node);
        for (ValueId x : n.operands) {
          if (g_.type(x).shape == flat && !g_.def(x).attrs.find("value"))
            meet(x);
          else if (!g_.type(x).elems().is(1) && !splat(x))
            return std::nullopt;
        }
      } else {
        return std::nullopt;
      }
      for (NodeId user : users_[v.index]) {
        const Node& m = g_.node(user);
        if (m.op->lower_class != LowerClass::map || g_.type(m.result()).shape != flat) return std::nullopt;
        meet(m.result());
      }
    }
    for (const Output& o : g_.outputs)  // a flat value that is wanted as such
      if (seen.contains(o.value) &&
          std::none_of(u.states.begin(), u.states.end(), [&](ValueId s) { return next_.at(s) == o.value; }))
        return std::nullopt;
    return u;
  }

 private:
  const Graph& g_;
  Users users_;
  std::map<ValueId, ValueId> next_;

  bool splat(ValueId v) const {
    const LiteralPtr* l = g_.def(v).attrs.get<LiteralPtr>("value");
    return l && (*l)->form == Literal::Form::splat;
  }
  bool leaf(Update& u, ValueId x, ValueId state) const {
    if (g_.type(x).shape != g_.type(state).shape) return false;
    auto& list = next_.contains(x) ? u.states : u.others;
    if (std::find(list.begin(), list.end(), x) == list.end()) list.push_back(x);
    return u.others.size() <= 1;
  }
};

/// The value that `v` is a transpose of, stored or not, and the permutation of all transposes between.
std::pair<ValueId, Perm> untransposed(const Graph& g, ValueId v) {
  Perm perm(static_cast<std::size_t>(g.type(v).rank()));
  for (std::size_t i = 0; i < perm.size(); ++i) perm[i] = static_cast<std::int64_t>(i);
  for (; is_op(g, v, "transpose") || is_op(g, v, "materialize"); v = g.def(v).operands[0]) {
    if (is_op(g, v, "materialize")) continue;
    const auto inner = g.def(v).attrs.get_or<Perm>("perm", {});
    for (std::int64_t& p : perm) p = inner[static_cast<std::size_t>(p)];
  }
  return {v, perm};
}

/// What is changed: states by their new order, and flattened values by what is flattened instead.
struct Changes {
  std::map<ValueId, Perm> states;
  std::map<ValueId, ValueId> flattened;
};

Changes find_changes(const Graph& g) {
  const Finder finder(g);
  Changes c;
  for (const auto& [state, next] : finder.next()) {
    if (c.states.contains(state)) continue;
    const auto update = finder.update_of(state);
    if (!update || update->others.empty()) continue;
    const auto [source, perm] = untransposed(g, update->others[0]);
    if (std::is_sorted(perm.begin(), perm.end())) continue;
    for (ValueId s : update->states) c.states[s] = perm;
    c.flattened[update->others[0]] = source;
  }
  return c;
}

Result<Graph> run(const Graph& g, PassContext&) {
  const Changes c = find_changes(g);
  if (c.states.empty()) return g;
  Graph out = empty_like(g);
  GraphBuilder b(out);
  ValueMap map(g.value_count()), stored(g.value_count());  // as it was; as it lies now
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    const ValueId v = n.result();
    b.set_origin(n.locs, n.grad_of ? map[n.grad_of.index] : ValueId{});
    if (auto s = c.states.find(v); s != c.states.end()) {
      Type t = g.type(v);
      for (std::size_t i = 0; i < s->second.size(); ++i)
        t.shape[static_cast<std::size_t>(s->second[i])] = g.type(v).shape[i];
      stored[v.index] = b.input(g.value(v).name, t, g.loc(v));
      Node& fresh = out.node(out.value(stored[v.index]).node);
      fresh.attrs.set("state", *next_of_state(g, v));
      fresh.attrs.set("axes", s->second);
      map[v.index] = b.transpose(stored[v.index], s->second);
      continue;
    }
    if (n.op->name == "reshape") {
      const ValueId x = n.operands[0];
      if (stored[x.index] && g.type(v).rank() == 1) {
        map[v.index] = b.reshape(stored[x.index], g.type(v).shape);
        continue;
      }
      if (auto f = c.flattened.find(x); f != c.flattened.end() && g.type(v).rank() == 1) {
        const ValueId source = map[f->second.index];
        map[v.index] = b.reshape(b.add_op("materialize", {source}, {{"apart", true}}), g.type(v).shape);
        continue;
      }
    }
    if (n.op->name == "transpose") {  // of a state: one transpose, or none
      const auto [source, perm] = untransposed(g, v);
      if (auto s = c.states.find(source); s != c.states.end()) {
        Perm both;
        for (std::int64_t p : perm) both.push_back(s->second[static_cast<std::size_t>(p)]);
        map[v.index] = b.transpose(stored[source.index], both);
        continue;
      }
    }
    if (n.op->name == "materialize") {  // of what lies so already
      const ValueId x = map[n.operands[0].index];
      if (is_op(out, x, "input") && out.def(x).attrs.find("axes")) {
        map[v.index] = x;
        continue;
      }
    }
    copy_node(b, g, id, map);
  }
  map_signature(g, map, out);
  for (ValueId& v : out.inputs) v = is_op(out, v, "transpose") ? out.def(v).operands[0] : v;
  return out;
}

}  // namespace

const Pass state_layout = {.name = "state_layout", .summary = "state takes the order of its gradient", .on_graph = run};

}  // namespace ag::passes

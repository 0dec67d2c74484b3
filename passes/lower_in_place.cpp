// Updates in place: a scatter writes into its operand's own memory where nothing reads the operand afterwards.
#include <algorithm>

#include "passes/lower_graph.hpp"

namespace ag::passes {

void GraphLowering::count_users() const {
  if (!users_.empty()) return;
  users_.resize(g_.value_count());
  for (NodeId id : g_.node_ids())
    for (ValueId x : g_.node(id).operands)
      if (x) users_[x.index].push_back(id);
  order_.resize(plan_.groups.size());
  for (std::size_t i = 0; i < plan_.order.size(); ++i) order_[plan_.order[i].index] = i;
  for (const auto& group : plan_.groups)
    if (group.copy_source) copied_.insert(group.copy_source);
}

/// Whether every use of `v` beside node `except` is computed before `except` is.
bool GraphLowering::dies_before(ValueId v, NodeId except) const {
  count_users();
  const std::size_t end = order_[plan_.group_of[except.index].index];
  std::vector<ValueId> work{v};
  while (!work.empty()) {
    ValueId x = work.back();
    work.pop_back();
    for (const Output& o : g_.outputs)
      if (o.value == x) return false;
    if (copied_.contains(x) && (x != v || !is_virtual(g_, g_.value(v).node))) return false;
    for (NodeId user : users_[x.index]) {
      if (user == except && x == v) continue;
      const Node& n = g_.node(user);
      if (is_virtual(g_, user)) {
        work.push_back(n.result());
        continue;
      }
      GroupId group = plan_.group_of[user.index];
      if (group && (user == except || order_[group.index] >= end)) return false;
    }
  }
  return true;
}

bool GraphLowering::updates_in_place(NodeId id) {
  const Node& n = g_.node(id);
  if (!p_.context.fuse || n.op->lower_class != LowerClass::scatter) return false;
  ValueId v = n.operands[0];
  if (g_.def(v).op->lower_class == LowerClass::source ? !owned_.contains(v) : is_virtual(g_, g_.value(v).node))
    return false;
  return plan_.stored[v.index] && g_.type(v) == g_.type(n.result()) && dies_before(v, id);
}

bool GraphLowering::takes_over(NodeId id, std::size_t operand) {
  ValueId v = g_.node(id).operands[operand];
  if (!p_.context.fuse || std::ranges::count(g_.node(id).operands, v) != 1) return false;
  if (g_.def(v).op->lower_class == LowerClass::source ? !owned_.contains(v) : !plan_.stored[v.index]) return false;
  if (!dies_before(v, id)) return false;
  const loop::ProgramBuffer& b = program().buffers[buffer(v)];
  return b.kind == loop::BufferKind::temp && b.place == loop::Place::arena && !b.alias_of;
}

ValueId GraphLowering::in_place_root(ValueId v) {
  while (updates_in_place(g_.value(v).node)) v = g_.def(v).operands[0];
  return v;
}

}  // namespace ag::passes

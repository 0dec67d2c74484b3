// State: inputs that a step gives new values (passes/train.hpp). A next value is computed straight into the state's
// memory where everything that reads the old value has run by then, or reads it in the same kernel at the same element
// before it is written; else it is computed beside and copied at the end. Equal updates become one (lower_update.cpp).
#include <algorithm>

#include "passes/lower_graph.hpp"
#include "passes/rebuild.hpp"
#include "passes/train.hpp"

namespace ag::passes {

using loop::BufferId;
using loop::Op;
using loop::StmtId;

namespace {

bool touches(const loop::Stmt& s, BufferId b) {
  return (s.op == Op::load || s.op == Op::store || s.op == Op::load_tile || s.op == Op::store_tile) &&
         s.attr.buffer == b;
}

/// Whether each element of `read` is read only by the iteration that writes it to `written`, and before: all in one
/// block and at one index.
bool reads_before_writing(const loop::Kernel& k, BufferId read, BufferId written) {
  loop::ValueId index;
  std::size_t uses = 0, in_block = 0;
  auto same = [&](const loop::Stmt& s) {
    if (s.op != Op::load && s.op != Op::store) return false;
    if (!index) index = s.operands[0];
    return s.operands[0] == index;
  };
  for (const loop::Stmt& s : k.stmts) {
    if (!touches(s, read) && !touches(s, written)) continue;
    ++uses;
    if (!same(s)) return false;
  }
  for (const loop::Block& block : k.blocks) {
    std::size_t here = 0;
    bool stored = false;
    for (StmtId id : block.stmts) {
      const loop::Stmt& s = k.stmts[id];
      if (touches(s, read) && stored) return false;
      if (touches(s, written)) {
        if (s.op != Op::store) return false;
        stored = true;
      }
      if (touches(s, read) || touches(s, written)) ++here;
    }
    in_block = std::max(in_block, here);
  }
  return in_block == uses;
}

/// Parameter `from` becomes parameter `to`, which is then read and written.
void merge_parameters(LoweredKernel& lowered, BufferId from, BufferId to) {
  loop::Kernel& k = lowered.kernel;
  k.buffers[to.index].access = loop::Access::read_write;
  for (loop::Stmt& s : k.stmts) {
    if (!s.attr.buffer) continue;
    if (s.attr.buffer == from) s.attr.buffer = to;
    if (s.attr.buffer.index > from.index) s.attr.buffer = BufferId(s.attr.buffer.index - 1);
  }
  k.buffers.erase(k.buffers.begin() + from.index);
  lowered.buffers.erase(lowered.buffers.begin() + from.index);
}

}  // namespace

/// Which values are next values of states; those of no other use are computed last.
void GraphLowering::find_states() {
  if (is_region_) return;
  for (ValueId v : g_.inputs) {
    const std::string* next = next_of_state(g_, v);
    if (!next) continue;
    for (const Output& o : g_.outputs)
      if (o.name == *next) states_.emplace_back(v, o.value);
  }
  if (states_.empty()) return;
  for (ValueId v : g_.inputs) next_state_ += next_of_state(g_, v) != nullptr;
  count_users();
  // A group that only updates states goes to the end: what reads the old values has run by then.
  auto is_update = [&](GroupId gid) {
    bool any = false;
    for (NodeId id : plan_.groups[gid].members) {
      const ValueId v = g_.node(id).result();
      any =
          any || std::any_of(states_.begin(), states_.end(), [&](const auto& s) { return group_of(s.second) == gid; });
      for (GroupId reader : readers(v))
        if (reader != gid) return false;
    }
    return any;
  };
  std::stable_partition(plan_.order.begin(), plan_.order.end(), [&](GroupId gid) { return !is_update(gid); });
  for (std::size_t i = 0; i < plan_.order.size(); ++i) order_[plan_.order[i].index] = i;
}

/// Groups that read a value, itself or through what is computed where it is used; an invalid one stands for a reader
/// that nobody orders.
std::vector<GroupId> GraphLowering::readers(ValueId v) const {
  std::vector<GroupId> out;
  std::vector<ValueId> work{v};
  while (!work.empty()) {
    const ValueId x = work.back();
    work.pop_back();
    if (copied_.contains(x)) out.push_back({});
    for (NodeId user : users_[x.index]) {
      if (is_virtual(g_, user))
        work.push_back(g_.node(user).result());
      else if (GroupId gid = plan_.group_of[user.index])
        out.push_back(gid);
    }
  }
  return out;
}

/// Before the kernel of group `gid` is called: next values that it computes go into their state's memory, where that
/// is allowed.
void GraphLowering::claim_states(GroupId gid, LoweredKernel& lowered) {
  bool updates = false;
  for (const auto& [state, next] : states_) {
    if (group_of(next) != gid || buffer_of_[next.index]) continue;
    bool safe = std::none_of(g_.outputs.begin(), g_.outputs.end(), [&](const Output& o) { return o.value == state; });
    for (GroupId reader : readers(state))
      safe = safe && reader && (reader == gid || order_[reader.index] < order_[gid.index]);
    if (!safe) continue;
    auto parameter = [&](ValueId x) {
      auto it = std::find(lowered.buffers.begin(), lowered.buffers.end(), x);
      return BufferId(static_cast<std::uint32_t>(it - lowered.buffers.begin()));
    };
    const BufferId read = parameter(state), written = parameter(next);
    if (written.index == lowered.buffers.size()) continue;
    if (read.index < lowered.buffers.size()) {
      if (!reads_before_writing(lowered.kernel, read, written)) continue;
      merge_parameters(lowered, written, read);
    }
    buffer_of_[next.index] = buffer(state);
    updates = true;
  }
  if (updates && take_any_size(lowered)) updates_.push_back(steps_.steps.size());
}

/// After all groups: what was not computed in place is copied. Old values that are wanted still, as an output or as
/// another state's next value, are saved before anything is written.
void GraphLowering::finish_states() {
  struct Move {
    loop::ProgramBufferId from, to;
    NodeId why;
  };
  std::vector<Move> moves;
  std::map<ValueId, loop::ProgramBufferId> saved;
  auto save = [&](ValueId v) {
    auto [it, fresh] = saved.try_emplace(v);
    if (!fresh) return it->second;
    it->second = p_.temp(g_.type(v).dtype, g_.type(v).shape);
    copy(buffer(v), it->second, g_.value(v).node);
    return it->second;
  };
  std::set<ValueId> changing;
  for (const auto& [state, next] : states_)
    if (next != state) changing.insert(state);
  for (const auto& [state, next] : states_)
    if (buffer(next) != buffer(state))
      moves.push_back({changing.contains(next) ? save(next) : buffer(next), buffer(state), g_.value(next).node});
  for (const Output& o : g_.outputs)
    if (changing.contains(o.value)) save(o.value);
  for (const Move& m : moves) copy(m.from, m.to, m.why);
  for (const auto& [v, to] : saved) buffer_of_[v.index] = to;  // where outputs find the old value
}

}  // namespace ag::passes

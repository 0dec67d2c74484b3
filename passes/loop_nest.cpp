#include "passes/loop_nest.hpp"

#include <algorithm>

#include "passes/clone.hpp"

namespace ag::passes {

using loop::Op;
using loop::Stmt;
using loop::StmtId;

bool LoopNest::contains(StmtId stmt) const {
  return std::any_of(loops.begin(), loops.end(), [&](const NestLoop& l) { return l.stmt == stmt; });
}

LoopNest find_nest(const loop::Kernel& k) {
  LoopNest nest;
  nest.body = k.top();
  for (;;) {
    StmtId only;
    for (StmtId id : k.blocks[nest.body].stmts) {
      const Stmt& s = k.stmts[id];
      if (is_pure(s) || s.op == Op::yield) continue;
      if (only.valid()) return nest;  // several effects: the body
      only = id;
    }
    if (!only.valid()) return nest;
    const Stmt& s = k.stmts[only];
    if (s.op != Op::for_ || s.attr.mapping != loop::Mapping::parallel || s.attr.role == loop::AxisRole::reduce)
      return nest;
    nest.loops.push_back({only, s.attr.role, k.blocks[s.blocks[0]].args[0], s.operands[1], as_dim(k, s.operands[1])});
    nest.body = s.blocks[0];
  }
}

std::optional<loop::ReduceKind> selected_extremum(const loop::Kernel& k, const Stmt& s, loop::ValueId carried) {
  if (s.op != Op::select || s.operands[2] != carried) return std::nullopt;
  StmtId def = k.values[s.operands[0]].def;
  if (!def) return std::nullopt;
  const Stmt& better = k.stmts[def];
  const bool greater = better.op == Op::cmp_gt;
  if ((!greater && better.op != Op::cmp_lt) || better.operands[0] != s.operands[1] || better.operands[1] != carried)
    return std::nullopt;
  return greater ? loop::ReduceKind::max : loop::ReduceKind::min;
}

}  // namespace ag::passes

#include "passes/vectorise_plan.hpp"

#include <algorithm>
#include <bit>
#include <optional>

#include "ir/loop/fold.hpp"
#include "passes/loop_nest.hpp"

namespace ag::passes {
namespace {

using namespace loop;

Dependence active(StmtId rows, StmtId lanes) {
  return static_cast<Dependence>((rows ? on_rows : 0) | (lanes ? on_lanes : 0));
}
Dependence without(Dependence d, Dependence bits) { return static_cast<Dependence>(d & ~bits); }

}  // namespace

WideningPlan::WideningPlan(const Kernel& kernel)
    : k_(kernel), depends_(kernel.values.size(), 0), uses_(kernel.values.size(), 0) {
  count_uses();
  for (std::size_t i = 0; i < k_.stmts.size(); ++i) {
    const Stmt& s = k_.stmts[StmtId(i)];
    if (s.op != Op::for_ || (s.attr.mapping != Mapping::vector && s.attr.mapping != Mapping::rows)) continue;
    if (s.attr.width < 1) continue;
    candidates_.insert(StmtId(i));
    if (s.operands.size() > 3 && !recognise(StmtId(i))) refused_.insert(StmtId(i));
  }
  // Each round either refuses one more loop or is the last.
  for (std::size_t refused = refused_.size() + 1; refused != refused_.size();) {
    refused = refused_.size();
    depends_ = IdMap<ValueId, Dependence>(k_.values.size(), 0);
    checking_ = false;
    do {
      changed_ = false;
      walk(k_.top(), {});
    } while (changed_);
    checking_ = true;
    walk(k_.top(), {});
  }
}

void WideningPlan::count_uses() {
  for (const Stmt& s : k_.stmts)
    for (ValueId v : s.operands) ++uses_[v];
}

void WideningPlan::add(ValueId v, Dependence d) {
  auto next = static_cast<Dependence>(depends_[v] | d);
  changed_ = changed_ || next != depends_[v];
  depends_[v] = next;
}

/// What a statement cannot do with values that depend on these loops: they stay serial.
void WideningPlan::refuse(const Scope& scope, Dependence d) {
  if (!checking_) return;
  if ((d & on_rows) && scope.rows) refused_.insert(scope.rows);
  if ((d & on_lanes) && scope.lanes) refused_.insert(scope.lanes);
}

Dependence WideningPlan::of(const std::vector<ValueId>& values) const {
  Dependence d = 0;
  for (ValueId v : values) d |= depends_[v];
  return d;
}

const std::vector<ValueId>& WideningPlan::yields(BlockId block) const {
  return k_.stmts[k_.blocks[block].stmts.back()].operands;
}

void WideningPlan::walk(BlockId block, const Scope& scope) {
  for (StmtId s : k_.blocks[block].stmts) visit(s, scope);
}

/// "Is the condition true anywhere" is asked with reduce_lanes, which halves.
void WideningPlan::need_any(const Scope& scope, Dependence d) {
  if (!(d & on_lanes) || !scope.lanes) return;
  power_of_two_.insert(scope.lanes);
  if (!std::has_single_bit(k_.stmts[scope.lanes].attr.width)) refuse(scope, on_lanes);
}

void WideningPlan::visit(StmtId id, const Scope& scope) {
  const Stmt& s = k_.stmts[id];
  if (s.op == Op::for_) return visit_for(id, scope);
  if (s.op == Op::while_) return visit_while(s, scope);
  if (s.op == Op::if_) return visit_if(s, scope);
  OpClass cls = describe(s.op).cls;
  Dependence inside = active(scope.rows, scope.lanes), d = of(s.operands);
  auto scalar = [&](ValueId v) { return k_.type(v).scalar(); };
  bool scalars = std::all_of(s.operands.begin(), s.operands.end(), scalar) &&
                 std::all_of(s.results.begin(), s.results.end(), scalar);
  bool allowed = is_elementwise(cls) || s.op == Op::constant || s.op == Op::dim || s.op == Op::load ||
                 s.op == Op::store || s.op == Op::yield || s.op == Op::poll || s.op == Op::prefetch || s.op == Op::trap;
  if (!scalars || !allowed) refuse(scope, inside);
  // A store to one place by all lanes of one and the same value is one store; of different values it is a race.
  if (s.op == Op::store) {
    Dependence stored = depends_[s.operands[1]] | (s.operands.size() > 2 ? depends_[s.operands[2]] : 0);
    refuse(scope, without(stored, depends_[s.operands[0]]));
  }
  if (s.op == Op::trap) need_any(scope, inside);
  for (ValueId v : s.results) add(v, d);
}

void WideningPlan::visit_for(StmtId id, const Scope& scope) {
  const Stmt& s = k_.stmts[id];
  const Block& body = k_.blocks[s.blocks[0]];
  refuse(scope, depends_[s.operands[0]] | depends_[s.operands[1]] | depends_[s.operands[2]]);
  Scope inner = scope;
  Dependence own = 0;
  if (widened(id)) {
    bool lanes = s.attr.mapping == Mapping::vector;
    StmtId& slot = lanes ? inner.lanes : inner.rows;
    if (slot) {
      if (checking_) refused_.insert(id);  // an outer loop has the lanes (or rows) already
    } else {
      slot = id;
      own = lanes ? on_lanes : on_rows;
    }
  }
  add(body.args[0], own);
  Dependence accumulator = s.operands.size() > 3 ? own : 0;
  for (std::size_t i = 3; i < s.operands.size(); ++i) {
    ValueId yielded = yields(s.blocks[0])[i - 3];
    add(body.args[i - 2], depends_[s.operands[i]] | depends_[yielded] | accumulator);
  }
  walk(s.blocks[0], inner);
  for (std::size_t i = 0; i < s.results.size(); ++i) add(s.results[i], without(depends_[body.args[i + 1]], own));
}

void WideningPlan::visit_while(const Stmt& s, const Scope& scope) {
  const auto &condition = k_.blocks[s.blocks[0]].args, &body = k_.blocks[s.blocks[1]].args;
  const auto &passed = yields(s.blocks[0]), &next = yields(s.blocks[1]);
  for (std::size_t i = 0; i < condition.size(); ++i) add(condition[i], depends_[s.operands[i]] | depends_[next[i]]);
  walk(s.blocks[0], scope);
  refuse(scope, depends_[passed[0]]);
  for (std::size_t i = 0; i < body.size(); ++i) {
    add(body[i], depends_[passed[i + 1]]);
    add(s.results[i], depends_[passed[i + 1]]);
  }
  walk(s.blocks[1], scope);
}

void WideningPlan::visit_if(const Stmt& s, const Scope& scope) {
  Dependence condition = depends_[s.operands[0]];
  need_any(scope, condition);
  for (BlockId block : s.blocks) {
    walk(block, scope);
    for (std::size_t i = 0; i < s.results.size(); ++i) add(s.results[i], depends_[yields(block)[i]] | condition);
  }
}

/// The reduction by which `yielded` is made from `carried`, if each is used for nothing else.
std::optional<ReduceKind> WideningPlan::reduction(ValueId carried, ValueId yielded) const {
  StmtId def = k_.values[yielded].def;
  if (!def || uses_[yielded] != 1) return std::nullopt;
  const Stmt& s = k_.stmts[def];
  if (uses_[carried] == 2) return selected_extremum(k_, s, carried);
  if (uses_[carried] != 1) return std::nullopt;
  auto at = [&](std::size_t i) { return s.operands[i] == carried; };
  switch (s.op) {
    case Op::add: return at(0) || at(1) ? std::optional(ReduceKind::sum) : std::nullopt;
    case Op::sub: return at(0) ? std::optional(ReduceKind::sum) : std::nullopt;
    case Op::fma: return at(2) ? std::optional(ReduceKind::sum) : std::nullopt;
    case Op::mul: return at(0) || at(1) ? std::optional(ReduceKind::prod) : std::nullopt;
    case Op::min: return at(0) || at(1) ? std::optional(ReduceKind::min) : std::nullopt;
    case Op::max: return at(0) || at(1) ? std::optional(ReduceKind::max) : std::nullopt;
    case Op::and_: return at(0) || at(1) ? std::optional(ReduceKind::and_) : std::nullopt;
    case Op::or_: return at(0) || at(1) ? std::optional(ReduceKind::or_) : std::nullopt;
    case Op::for_: {
      std::size_t i = k_.values[yielded].result;
      if (!at(i + 3)) return std::nullopt;
      return reduction(k_.blocks[s.blocks[0]].args[i + 1], yields(s.blocks[0])[i]);
    }
    default: return std::nullopt;
  }
}

bool WideningPlan::recognise(StmtId id) {
  const Stmt& s = k_.stmts[id];
  if (!s.attr.reassociate || s.attr.mapping != Mapping::vector || !std::has_single_bit(s.attr.width)) return false;
  std::vector<ReduceKind> kinds;
  for (std::size_t i = 3; i < s.operands.size(); ++i) {
    auto kind = reduction(k_.blocks[s.blocks[0]].args[i - 2], yields(s.blocks[0])[i - 3]);
    if (!kind) return false;
    kinds.push_back(*kind);
  }
  reductions_[id] = std::move(kinds);
  return true;
}

}  // namespace ag::passes

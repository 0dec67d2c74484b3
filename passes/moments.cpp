#include "passes/moments.hpp"

#include <algorithm>
#include <set>

namespace ag::passes {

using loop::BlockId;
using loop::Builder;
using loop::ForOptions;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;
using Values = Builder::Values;

namespace {

/// Sums of squares that are so much larger than what is left of them are summed again.
constexpr double most_cancelled = 16;

const Stmt* maker(const loop::Kernel& k, LV v) {
  StmtId def = k.values[v].def;
  return def ? &k.stmts[def] : nullptr;
}

}  // namespace

Moments::Moments(const loop::Kernel& kernel, BlockId block) : k_(kernel) { find(block); }

void Moments::find(BlockId block) {
  const auto& stmts = k_.blocks[block].stmts;
  for (std::size_t i = 0; i < stmts.size(); ++i) {
    const Stmt& a = k_.stmts[stmts[i]];
    if (a.op == Op::for_ && !sums(a)) find(a.blocks[0]);
    if (a.op != Op::for_ || !sums(a)) continue;
    auto next = std::find_if(stmts.begin() + static_cast<std::ptrdiff_t>(i) + 1, stmts.end(),
                             [&](StmtId id) { return k_.stmts[id].op == Op::for_; });
    if (next == stmts.end()) continue;  // only the next loop: nothing is stored in between
    const Stmt& b = k_.stmts[*next];
    auto y = squared(b);
    if (!y || a.operands[0] != b.operands[0] || a.operands[1] != b.operands[1]) continue;
    for (std::size_t r = 0; r < a.results.size(); ++r)
      if (auto x = summed(a, r); x && same(*x, a, y->first, b)) {
        pairs_.push_back({stmts[i], *next, r, *x, y->second, subtracted(*x, a), {}, {}, {}});
        break;
      }
  }
}

bool Moments::sums(const Stmt& loop) const {
  if (loop.attr.role != loop::AxisRole::reduce || !loop.attr.reassociate || loop.results.empty()) return false;
  const auto& stmts = k_.blocks[loop.blocks[0]].stmts;
  return std::all_of(stmts.begin(), stmts.end(), [&](StmtId id) {
    const Stmt& s = k_.stmts[id];
    return is_pure(s) || s.op == Op::load || s.op == Op::store || s.op == Op::yield || s.op == Op::prefetch;
  });
}

std::optional<LV> Moments::summed(const Stmt& loop, std::size_t result) const {
  if (!sums(loop)) return {};
  const loop::Block& body = k_.blocks[loop.blocks[0]];
  const LV carried = body.args[result + 1];
  const Stmt* sum = maker(k_, k_.stmts[body.stmts.back()].operands[result]);
  if (!sum || sum->op != Op::add || sum->operands[0] != carried || !is_float(k_.type(carried).elem)) return {};
  LV x = sum->operands[1];
  return x != carried && k_.values[x].def ? std::optional(x) : std::nullopt;
}

std::optional<std::pair<LV, LV>> Moments::squared(const Stmt& loop) const {
  auto square = loop.op == Op::for_ && loop.results.size() == 1 ? summed(loop) : std::nullopt;
  const Stmt* mul = square ? maker(k_, *square) : nullptr;
  if (!mul || mul->op != Op::mul || mul->operands[0] != mul->operands[1]) return {};
  const Stmt* sub = maker(k_, mul->operands[0]);
  if (!sub || sub->op != Op::sub) return {};
  const auto& stmts = k_.blocks[loop.blocks[0]].stmts;
  StmtId m = k_.values[sub->operands[1]].def;
  if (!m || std::find(stmts.begin(), stmts.end(), m) != stmts.end()) return {};
  if (std::any_of(stmts.begin(), stmts.end(), [&](StmtId id) { return k_.stmts[id].op == Op::store; })) return {};
  return std::pair{sub->operands[0], sub->operands[1]};
}

bool Moments::same(LV x, const Stmt& in_x, LV y, const Stmt& in_y, int depth) const {
  const LV iv_x = k_.blocks[in_x.blocks[0]].args[0], iv_y = k_.blocks[in_y.blocks[0]].args[0];
  if (x == iv_x || y == iv_y) return x == iv_x && y == iv_y;
  if (x == y) return true;
  const Stmt *a = maker(k_, x), *b = maker(k_, y);
  if (!a || !b || depth > 32) return false;
  if (b->op == Op::load)
    if (LV kept = stored(in_x, *b, in_y)) return kept == x;
  if (a->op != b->op || !(a->attr == b->attr) || a->operands.size() != b->operands.size()) return false;
  if (!is_pure(*a) && (a->op != Op::load || k_.buffers[a->attr.buffer.index].access != loop::Access::read ||
                       k_.buffers[a->attr.buffer.index].scope != loop::Scope::param))
    return false;
  if (k_.type(x) != k_.type(y)) return false;
  for (std::size_t i = 0; i < a->operands.size(); ++i)
    if (!same(a->operands[i], in_x, b->operands[i], in_y, depth + 1)) return false;
  return true;
}

/// What is made outside of a loop and subtracted from x in it.
LV Moments::subtracted(LV x, const Stmt& loop) const {
  const auto& stmts = k_.blocks[loop.blocks[0]].stmts;
  for (StmtId id : stmts)
    if (const Stmt& s = k_.stmts[id]; s.op == Op::sub && s.operands[0] == x)
      if (StmtId m = k_.values[s.operands[1]].def; m && std::find(stmts.begin(), stmts.end(), m) == stmts.end())
        return s.operands[1];
  return {};
}

/// What `loop` stores where `load`, in the loop `other`, reads.
LV Moments::stored(const Stmt& loop, const Stmt& load, const Stmt& other) const {
  for (StmtId id : k_.blocks[loop.blocks[0]].stmts)
    if (const Stmt& s = k_.stmts[id]; s.op == Op::store && s.attr.buffer == load.attr.buffer)
      return s.operands.size() == 2 && load.operands.size() == 1 && same(s.operands[0], loop, load.operands[0], other)
                 ? s.operands[1]
                 : LV{};
  return {};
}

bool Moments::emit(StmtId id, KernelCloner& c, Builder& b) {
  for (Pair& p : pairs_) {
    if (p.sum == id) return emit_sums(p, c, b), true;
    if (p.squares == id && p.d) return emit_squares(p, c, b), true;
  }
  return false;
}

void Moments::emit_sums(Pair& p, KernelCloner& c, Builder& b) {
  const Stmt& s = k_.stmts[p.sum];
  const loop::Block& body = k_.blocks[s.blocks[0]];
  const auto& yielded = k_.stmts[body.stmts.back()].operands;
  const StmtId add = k_.values[yielded[p.result]].def;
  LV lo = c.get(s.operands[0]), hi = c.get(s.operands[1]), step = c.get(s.operands[2]);
  const DType t = k_.type(p.summed).elem;
  auto first = [&] {  // without what is added to the sums, and what is stored
    KernelCloner one = c;
    one.set(body.args[0], lo);
    std::set<LV> sums(body.args.begin() + 1, body.args.end());
    one.clone_block(s.blocks[0], [&](StmtId id) {
      const Stmt& inner = k_.stmts[id];
      const bool adds =
          std::any_of(inner.operands.begin(), inner.operands.end(), [&](LV v) { return sums.contains(v); });
      if (adds) sums.insert(inner.results.begin(), inner.results.end());
      return adds || inner.results.empty();
    });
    return Values{one.get(p.summed)};
  };
  auto from = b.int_value(lo), to = b.int_value(hi);
  if (p.given)
    p.first = c.get(p.given);
  else if (from && to && *from < *to)
    p.first = first()[0];
  else
    p.first = b.if_(b.op(Op::cmp_lt, {lo, hi}), first, [&] { return Values{b.constant(t, 0.0)}; })[0];
  ForOptions options{.mapping = s.attr.mapping, .role = s.attr.role, .reassociate = true};
  if (c.on_for) c.on_for(s, options, step);
  LV zero = b.constant(t, -0.0);  // which nothing needs to be added to
  Values init{zero, zero};  // and the other sums behind
  for (std::size_t r = 0; r < s.results.size(); ++r)
    if (r != p.result) init.push_back(c.get(s.operands[r + 3]));
  Values totals = b.for_(lo, hi, step, options, init, [&](LV iv, const Values& carried) {
    c.set(body.args[0], iv);
    for (std::size_t r = 0, at = 2; r < s.results.size(); ++r)
      if (r != p.result) c.set(body.args[r + 1], carried[at++]);
    c.clone_block(s.blocks[0], [&](StmtId id) { return id == add; });
    LV d = b.op(Op::sub, {c.get(p.summed), p.first});
    Values next{b.op(Op::add, {carried[0], d}), b.op(Op::fma, {d, d, carried[1]})};
    for (std::size_t r = 0; r < s.results.size(); ++r)
      if (r != p.result) next.push_back(c.get(yielded[r]));
    return next;
  });
  p.d = totals[0], p.d2 = totals[1];
  for (std::size_t r = 0, at = 2; r < s.results.size(); ++r)
    if (r != p.result) c.set(s.results[r], totals[at++]);
  LV n = b.cast(b.sub(hi, lo), t);
  c.set(s.results[p.result], b.op(Op::add, {c.get(s.operands[p.result + 3]), b.op(Op::fma, {p.first, n, p.d})}));
}

/// By what the sum of a pair is divided to give m; none if m is something else.
LV Moments::counted(const Pair& p) const {
  const Stmt &sum = k_.stmts[p.sum], *start = maker(k_, sum.operands[p.result + 3]), *mean = maker(k_, p.centre);
  const bool zero =
      start && start->op == Op::constant && loop::bits_to_double(k_.type(p.summed).elem, start->attr.imm) == 0;
  return zero && mean && mean->op == Op::div && mean->operands[0] == sum.results[p.result] ? mean->operands[1] : LV{};
}

/// sum((x - m)^2) from the sums over d.
LV Moments::deviations(const Pair& p, KernelCloner& c, Builder& b) const {
  const Stmt& s = k_.stmts[p.squares];
  const DType t = k_.type(s.results[0]).elem;
  const LV n = b.cast(b.sub(c.get(s.operands[1]), c.get(s.operands[0])), t), by = counted(p);
  auto of_any = [&] {
    LV off = b.op(Op::sub, {c.get(p.centre), p.first});
    LV half = b.op(Op::fma, {n, off, b.op(Op::mul, {p.d, b.constant(t, -2.0)})});
    return b.op(Op::fma, {off, half, p.d2});
  };
  auto of_mean = [&] {
    LV off = b.op(Op::mul, {p.d, b.op(Op::div, {b.constant(t, 1.0), n})});
    return b.op(Op::fma, {b.op(Op::neg, {off}), p.d, p.d2});
  };
  if (!by) return of_any();
  const auto count = as_dim(k_, s.operands[1]), from = as_dim(k_, s.operands[0]);
  if (const Stmt* constant = maker(k_, by);
      constant && constant->op == Op::constant && count && from && (*count - *from).is_const())
    return loop::bits_to_double(t, constant->attr.imm) == static_cast<double>((*count - *from).value()) ? of_mean()
                                                                                                        : of_any();
  return b.select(b.op(Op::cmp_eq, {c.get(by), n}), of_mean(), of_any());
}

void Moments::emit_squares(const Pair& p, KernelCloner& c, Builder& b) {
  const Stmt& s = k_.stmts[p.squares];
  const DType t = k_.type(s.results[0]).elem;
  LV left = deviations(p, c, b);
  LV cancelled = b.op(Op::cmp_gt, {p.d2, b.op(Op::mul, {left, b.constant(t, most_cancelled)})});
  Values v = b.if_(
      cancelled,
      [&] {
        c.clone(p.squares);
        return Values{c.get(s.results[0])};
      },
      [&] { return Values{b.op(Op::add, {c.get(s.operands[3]), left})}; });
  c.set(s.results[0], v[0]);
}

}  // namespace ag::passes

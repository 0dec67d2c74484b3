#include "passes/contraction_body.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <numeric>
#include <unordered_set>

#include "passes/clone.hpp"

namespace ag::passes {

using loop::BlockId;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;

namespace {

std::optional<std::int64_t> constant(const loop::Kernel& k, LV v) {
  StmtId def = k.values[v].def;
  if (!def || k.stmts[def].op != Op::constant || is_float(k.type(v).elem)) return std::nullopt;
  return loop::bits_to_int(k.type(v).elem, k.stmts[def].attr.imm);
}

}  // namespace

std::optional<IndexDivision> index_division(const loop::Kernel& k, const Stmt& s) {
  if (s.operands.size() != 2 || k.type(s.operands[0]) != loop::index_type) return std::nullopt;
  auto n = constant(k, s.operands[1]);
  if (!n || *n < 1) return std::nullopt;
  auto power = [](std::int64_t x) { return std::has_single_bit(static_cast<std::uint64_t>(x)); };
  switch (s.op) {
    case Op::div: return IndexDivision{false, *n};
    case Op::rem: return IndexDivision{true, *n};
    case Op::shr: return *n < 62 ? std::optional(IndexDivision{false, std::int64_t{1} << *n}) : std::nullopt;
    case Op::and_: return *n < INT64_MAX && power(*n + 1) ? std::optional(IndexDivision{true, *n + 1}) : std::nullopt;
    default: return std::nullopt;
  }
}

namespace {

bool is_loop_index(const loop::Kernel& k, LV v) {
  const BlockId block = k.values[v].block;
  if (k.blocks[block].args[0] != v) return false;
  for (const Stmt& s : k.stmts)
    if (s.op == Op::for_ && s.blocks[0] == block) return true;
  return false;
}

}  // namespace

bool bounded_index(const loop::Kernel& k, LV v) {
  constexpr std::size_t most = 32;  // values looked at
  std::vector<LV> work{v};
  int products = 0;
  for (std::size_t i = 0; i < work.size(); ++i) {
    if (i == most) return false;
    const loop::Value& value = k.values[work[i]];
    if (value.type != loop::index_type) return false;
    if (!value.def) {
      if (!is_loop_index(k, work[i])) return false;
      continue;
    }
    const Stmt& s = k.stmts[value.def];
    switch (s.op) {
      case Op::constant:
        if (std::abs(loop::bits_to_int(DType::i64, s.attr.imm)) > std::int64_t{1} << 20) return false;
        break;
      case Op::dim: break;
      case Op::mul:
        if (++products > 1) return false;
        [[fallthrough]];
      case Op::add:
      case Op::sub:
      case Op::div:
      case Op::rem:
      case Op::min:
      case Op::max: work.insert(work.end(), s.operands.begin(), s.operands.end()); break;
      default: return false;
    }
  }
  return true;
}

bool IndexSteps::depends(LV v, LV iv) const {
  std::vector<LV> work{v};
  std::unordered_set<LV> seen;
  while (!work.empty()) {
    LV x = work.back();
    work.pop_back();
    if (x == iv) return true;
    if (!seen.insert(x).second) continue;
    StmtId def = k_.values[x].def;
    if (!def) {  // an argument of a block: another loop's index, or carried
      if (k_.values[x].result != 0) return true;
      continue;
    }
    if (!k_.stmts[def].blocks.empty()) return true;
    for (LV operand : k_.stmts[def].operands) work.push_back(operand);
  }
  return false;
}

bool IndexSteps::is_multiple(LV v, std::int64_t n) const {
  if (auto c = constant(k_, v)) return *c % n == 0;
  StmtId def = k_.values[v].def;
  if (!def) return false;
  const Stmt& s = k_.stmts[def];
  if (s.op == Op::mul) return is_multiple(s.operands[0], n) || is_multiple(s.operands[1], n);
  if (s.op == Op::add || s.op == Op::sub) return is_multiple(s.operands[0], n) && is_multiple(s.operands[1], n);
  return false;
}

/// v = iv + a multiple of n.
bool IndexSteps::congruent(LV v, LV iv, std::int64_t n) const {
  if (v == iv) return true;
  StmtId def = k_.values[v].def;
  if (!def || k_.stmts[def].op != Op::add) return false;
  const auto& x = k_.stmts[def].operands;
  return (congruent(x[0], iv, n) && is_multiple(x[1], n)) || (congruent(x[1], iv, n) && is_multiple(x[0], n));
}

std::optional<Dim> IndexSteps::step(LV v, LV iv, std::int64_t within) const {
  if (v == iv) return Dim(1);
  if (!depends(v, iv)) return Dim(0);
  StmtId def = k_.values[v].def;
  if (!def) return std::nullopt;
  const Stmt& s = k_.stmts[def];
  if (auto d = index_division(k_, s)) {
    bool whole = within > 0 && d->by % within == 0 && congruent(s.operands[0], iv, within);
    return whole ? std::optional(Dim(d->remainder ? 1 : 0)) : std::nullopt;
  }
  if (s.op != Op::add && s.op != Op::sub && s.op != Op::mul) return std::nullopt;
  if (s.op == Op::mul) {
    std::size_t moves = depends(s.operands[0], iv) ? 0 : 1;
    if (depends(s.operands[1 - moves], iv)) return std::nullopt;
    auto factor = as_dim(k_, s.operands[1 - moves]);
    auto inner = step(s.operands[moves], iv, within);
    return factor && inner ? std::optional(*factor * *inner) : std::nullopt;
  }
  auto a = step(s.operands[0], iv, within), b = step(s.operands[1], iv, within);
  if (!a || !b) return std::nullopt;
  return s.op == Op::add ? *a + *b : *a - *b;
}

std::int64_t IndexSteps::divisor(LV v, LV iv) const {
  std::int64_t by = 0;
  std::vector<LV> work{v};
  std::unordered_set<LV> seen;
  while (!work.empty()) {
    LV x = work.back();
    work.pop_back();
    StmtId def = k_.values[x].def;
    if (!def || !seen.insert(x).second) continue;
    const Stmt& s = k_.stmts[def];
    if (auto d = index_division(k_, s); d && congruent(s.operands[0], iv, d->by)) by = std::gcd(by, d->by);
    for (LV operand : s.operands) work.push_back(operand);
  }
  return by;
}

namespace {

/// The only loop of the block; none if there are several, or one of another kind.
StmtId only_loop(const loop::Kernel& k, BlockId block) {
  StmtId only;
  for (StmtId id : k.blocks[block].stmts) {
    const Stmt& s = k.stmts[id];
    if (s.blocks.empty()) continue;
    if (s.op == Op::if_) continue;
    if (only || s.op != Op::for_ || s.attr.role != loop::AxisRole::reduce || s.operands.size() != 4) return {};
    only = id;
  }
  return only;
}

}  // namespace

ContractionBody find_contraction(const loop::Kernel& k, BlockId block) {
  ContractionBody out;
  LV carried;
  while (StmtId id = only_loop(k, block)) {
    const Stmt& s = k.stmts[id];
    auto extent = as_dim(k, s.operands[1]);
    auto constant_is = [&](std::size_t i, std::int64_t n) { return constant(k, s.operands[i]) == n; };
    if (!extent || !constant_is(0, 0) || !constant_is(2, 1) || (carried && s.operands[3] != carried)) return {};
    if (!out.loops.empty() && k.stmts[k.blocks[block].stmts.back()].operands[0] != s.results[0]) return {};
    out.loops.push_back(id);
    out.extents.push_back(*extent);
    block = s.blocks[0];
    carried = k.blocks[block].args[1];
    for (StmtId inner : k.blocks[block].stmts) {
      const Stmt& load = k.stmts[inner];
      if (load.op == Op::load && load.operands.size() == 1 && k.type(load.operands[0]) == loop::index_type)
        out.loads.push_back(inner);
    }
  }
  return out;
}

int epilogue_statements(const loop::Kernel& k, BlockId block, const ContractionBody& body) {
  constexpr int of_function = 32;
  int n = 0;
  std::vector<BlockId> work{block};
  while (!work.empty()) {
    const BlockId b = work.back();
    work.pop_back();
    const auto& stmts = k.blocks[b].stmts;
    const auto sums = std::find(stmts.begin(), stmts.end(), body.loops[0]);
    for (auto at = sums == stmts.end() ? stmts.begin() : sums + 1; at != stmts.end(); ++at) {
      const Stmt& s = k.stmts[*at];
      work.insert(work.end(), s.blocks.begin(), s.blocks.end());
      const bool index = s.results.size() == 1 && k.type(s.results[0]) == loop::index_type;
      if (index || s.op == Op::constant || !s.blocks.empty() || s.op == Op::yield) continue;
      n += loop::describe(s.op).cls == loop::OpClass::math ? of_function : 1;
    }
  }
  return n;
}

}  // namespace ag::passes

#include "passes/index_facts.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace ag::passes {

using loop::Kernel;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using loop::ValueId;
using Values = loop::Builder::Values;

std::optional<std::int64_t> IndexFacts::residue(ValueId v, std::int64_t n, int depth) const {
  if (auto c = b_.int_value(v)) return std::abs(*c) <= INT32_MAX ? std::optional((*c % n + n) % n) : std::nullopt;
  if (auto it = indices_.find(v); it != indices_.end())
    return it->second.step % n == 0 ? residue(it->second.lo, n, depth + 1) : std::nullopt;
  StmtId def = b_.kernel().values[v].def;
  if (!def || depth > 16) return std::nullopt;
  const Stmt& s = b_.kernel().stmts[def];
  if (s.op != Op::add && s.op != Op::sub && s.op != Op::mul) return std::nullopt;
  auto x = residue(s.operands[0], n, depth + 1), y = residue(s.operands[1], n, depth + 1);
  if (s.op == Op::mul && (x == 0 || y == 0)) return 0;
  if (!x || !y || n > INT32_MAX) return std::nullopt;
  return s.op == Op::mul ? *x * *y % n : ((s.op == Op::add ? *x + *y : *x - *y) + n) % n;
}

bool IndexFacts::not_negative(ValueId v, int depth) const {
  if (auto c = b_.int_value(v)) return *c >= 0 && *c <= INT32_MAX;  // no product of a few wraps
  if (auto it = indices_.find(v); it != indices_.end()) return not_negative(it->second.lo, depth + 1);
  StmtId def = b_.kernel().values[v].def;
  if (!def || depth > 16) return false;
  const Stmt& s = b_.kernel().stmts[def];
  auto operand = [&](std::size_t i) { return not_negative(s.operands[i], depth + 1); };
  switch (s.op) {
    case Op::dim: return true;
    case Op::add:
    case Op::mul:
    case Op::div:
    case Op::min: return operand(0) && operand(1);
    case Op::max:
    case Op::and_: return operand(0) || operand(1);
    case Op::sub: return at_least(s.operands[0], s.operands[1], depth + 1) || floor_quotient(s, depth + 1);
    case Op::rem:
    case Op::shr: return operand(0);
    default: return false;
  }
}

/// A quotient of numbers that are not negative, rounded down as the builder writes it: less one where signs differ.
bool IndexFacts::floor_quotient(const Stmt& s, int depth) const {
  auto made = [&](ValueId v) { return b_.kernel().stmts[b_.kernel().values[v].def]; };
  auto is = [&](ValueId v, Op op) { return b_.kernel().values[v].def && made(v).op == op; };
  ValueId q = s.operands[0], v = s.operands[1];
  for (auto [op, next] : {std::pair{Op::cast, 0}, {Op::and_, 1}, {Op::cmp_lt, 0}})
    if (is(v, op)) v = made(v).operands[static_cast<std::size_t>(next)];
  if (!is(q, Op::div) || !is(v, Op::xor_) || !is(made(v).operands[0], Op::rem)) return false;
  const Values of = made(q).operands, sign = made(v).operands;
  return made(sign[0]).operands == of && sign[1] == of[1] && not_negative(of[0], depth) && not_negative(of[1], depth);
}

bool IndexFacts::at_least(ValueId v, ValueId low, int depth) const {
  if (v == low || depth > 16) return v == low;
  if (auto it = indices_.find(v); it != indices_.end()) return at_least(it->second.lo, low, depth + 1);
  StmtId def = b_.kernel().values[v].def;
  if (!def || b_.kernel().stmts[def].op != Op::add) return false;
  const Stmt& s = b_.kernel().stmts[def];
  return (at_least(s.operands[0], low, depth + 1) && not_negative(s.operands[1], depth + 1)) ||
         (at_least(s.operands[1], low, depth + 1) && not_negative(s.operands[0], depth + 1));
}

bool IndexFacts::linear(ValueId v, std::int64_t scale, int depth, Linear& out) const {
  const Kernel& k = b_.kernel();
  StmtId def = k.values[v].def;
  Op op = def ? k.stmts[def].op : Op::load;
  auto wrapped_add = [](std::int64_t& sum, std::int64_t x) { return !__builtin_add_overflow(sum, x, &sum); };
  std::int64_t product = 0;
  if (auto n = b_.int_value(v))
    return !__builtin_mul_overflow(*n, scale, &product) && wrapped_add(out.constant, product);
  if (depth < 16 && (op == Op::add || op == Op::sub)) {
    const Values operands = k.stmts[def].operands;
    return linear(operands[0], scale, depth + 1, out) &&
           linear(operands[1], op == Op::add ? scale : -scale, depth + 1, out);
  }
  if (depth < 16 && op == Op::mul)
    if (auto n = b_.int_value(k.stmts[def].operands[1]); n && !__builtin_mul_overflow(*n, scale, &product))
      return linear(k.stmts[def].operands[0], product, depth + 1, out);
  return wrapped_add(out.terms[v], scale);
}

IndexFacts::Extent IndexFacts::extent(ValueId lo, ValueId hi) const {
  Linear d;
  if (!linear(hi, 1, 0, d) || !linear(lo, -1, 0, d)) return {};
  Extent e{d.constant, d.constant};
  for (auto [v, n] : d.terms)
    if (n) e.value.reset(), e.divisor = std::gcd(e.divisor, n);
  if (e.value) e.value = std::max<std::int64_t>(*e.value, 0);
  return e;
}

}  // namespace ag::passes

#include "passes/expand_math.hpp"

#include <algorithm>
#include <map>
#include <tuple>
#include <type_traits>

#include "ir/loop/math.hpp"
#include "passes/pass.hpp"

namespace ag::loop {
namespace {

/// Appends statements to one block, and reuses equal ones of that block.
class Emitter {
 public:
  Emitter(Kernel& k, std::vector<StmtId>& out) : k_(k), out_(out) {}

  std::uint32_t origin = 0;
  const VType& type(ValueId v) const { return k_.type(v); }

  ValueId emit(Op op, DType elem, std::initializer_list<ValueId> operands, std::uint64_t imm = 0) {
    VType type{elem, 1, 1};
    std::array<ValueId, 3> in;
    std::copy(operands.begin(), operands.end(), in.begin());
    for (ValueId v : operands) {
      type.rows = std::max(type.rows, k_.type(v).rows);
      type.lanes = std::max(type.lanes, k_.type(v).lanes);
    }
    auto [it, fresh] = known_.try_emplace(std::tuple(op, elem, imm, in));
    if (!fresh) return it->second;
    Stmt s{op};
    s.attr.imm = imm;
    s.operands = operands;
    s.origin = origin;
    Value value{type};
    value.def = StmtId(k_.stmts.size());
    ValueId v = k_.values.push(value);
    s.results = {v};
    out_.push_back(k_.stmts.push(std::move(s)));
    return it->second = v;
  }

 private:
  Kernel& k_;
  std::vector<StmtId>& out_;
  std::map<std::tuple<Op, DType, std::uint64_t, std::array<ValueId, 3>>, ValueId> known_;
};

/// A value that math.hpp computes with by emitting statements, or a literal that takes the type of its partner.
struct Expr {
  Emitter* e = nullptr;
  ValueId v;
  double f = 0;
  std::int64_t i = 0;

  Expr() = default;
  Expr(Emitter* emitter, ValueId value) : e(emitter), v(value) {}
  template <class U>
    requires std::is_arithmetic_v<U>
  Expr(U x) : f(static_cast<double>(x)) {
    if constexpr (std::is_integral_v<U>) i = static_cast<std::int64_t>(x);
  }

  DType elem() const { return e->type(v).elem; }
  ValueId as(Emitter* emitter, DType t) const {
    if (e) return v;
    return emitter->emit(Op::constant, t, {}, is_float(t) ? constant_bits(t, f) : constant_bits(t, i));
  }
};

const Expr& typed(const Expr& a, const Expr& b) { return a.e ? a : b; }
Expr unary(Op op, const Expr& a) { return {a.e, a.e->emit(op, a.elem(), {a.v})}; }
Expr convert(Op op, const Expr& a, DType t) { return {a.e, a.e->emit(op, t, {a.v})}; }
Expr binary(Op op, const Expr& a, const Expr& b) {
  const Expr& t = typed(a, b);
  return {t.e, t.e->emit(op, t.elem(), {a.as(t.e, t.elem()), b.as(t.e, t.elem())})};
}
Expr compare(Op op, const Expr& a, const Expr& b) {
  const Expr& t = typed(a, b);
  return {t.e, t.e->emit(op, DType::boolean, {a.as(t.e, t.elem()), b.as(t.e, t.elem())})};
}

Expr operator+(const Expr& a, const Expr& b) { return binary(Op::add, a, b); }
Expr operator-(const Expr& a, const Expr& b) { return binary(Op::sub, a, b); }
Expr operator*(const Expr& a, const Expr& b) { return binary(Op::mul, a, b); }
Expr operator/(const Expr& a, const Expr& b) { return binary(Op::div, a, b); }
Expr operator-(const Expr& a) { return unary(Op::neg, a); }
Expr operator&(const Expr& a, const Expr& b) { return binary(Op::and_, a, b); }
Expr operator|(const Expr& a, const Expr& b) { return binary(Op::or_, a, b); }
Expr operator!(const Expr& a) { return unary(Op::not_, a); }
Expr operator<(const Expr& a, const Expr& b) { return compare(Op::cmp_lt, a, b); }
Expr operator>(const Expr& a, const Expr& b) { return compare(Op::cmp_gt, a, b); }
Expr operator>=(const Expr& a, const Expr& b) { return compare(Op::cmp_ge, a, b); }
Expr operator==(const Expr& a, const Expr& b) { return compare(Op::cmp_eq, a, b); }
Expr operator!=(const Expr& a, const Expr& b) { return compare(Op::cmp_ne, a, b); }
Expr shl(const Expr& a, const Expr& n) { return binary(Op::shl, a, n); }
Expr shr(const Expr& a, const Expr& n) { return binary(Op::shr, a, n); }
Expr mulhi(const Expr& a, const Expr& b) { return binary(Op::mulhi, a, b); }
Expr copysign(const Expr& a, const Expr& b) { return binary(Op::copysign, a, b); }
Expr abs(const Expr& a) { return unary(Op::abs, a); }
Expr sqrt(const Expr& a) { return unary(Op::sqrt, a); }
Expr floor(const Expr& a) { return unary(Op::floor, a); }
Expr ldexp(const Expr& a, const Expr& k) { return {a.e, a.e->emit(Op::ldexp, a.elem(), {a.v, k.v})}; }
Expr fma(const Expr& a, const Expr& b, const Expr& c) {
  const Expr& t = typed(a, typed(b, c));
  return {t.e, t.e->emit(Op::fma, t.elem(), {a.as(t.e, t.elem()), b.as(t.e, t.elem()), c.as(t.e, t.elem())})};
}
Expr select(const Expr& c, const Expr& a, const Expr& b) {
  const Expr& t = typed(a, b);
  return {t.e, t.e->emit(Op::select, t.elem(), {c.v, a.as(t.e, t.elem()), b.as(t.e, t.elem())})};
}
Expr like(const Expr& a, const Expr& c) { return {a.e, c.as(a.e, a.elem())}; }

Expr as_int(const Expr& a) { return convert(Op::bitcast, a, a.elem() == DType::f64 ? DType::i64 : DType::i32); }
Expr as_float(const Expr& a) { return convert(Op::bitcast, a, a.elem() == DType::i64 ? DType::f64 : DType::f32); }
Expr to_float(const Expr& a) { return convert(Op::cast, a, a.elem() == DType::i64 ? DType::f64 : DType::f32); }
Expr widen(const Expr& a) { return convert(Op::cast, a, is_float(a.elem()) ? DType::f64 : DType::i64); }
Expr narrow(const Expr& a) { return convert(Op::cast, a, DType::f32); }
Expr as_unsigned(const Expr& a) { return convert(Op::bitcast, a, DType::u64); }
Expr as_signed(const Expr& a) { return convert(Op::bitcast, a, DType::i64); }

/// The value of a math statement, from statements that `e` appends.
ValueId expand(Emitter& e, const Stmt& s) {
  const DType t = e.type(s.operands[0]).elem;
  const bool half = t == DType::f16 || t == DType::bf16;
  Expr x(&e, s.operands[0]), y(&e, s.operands.size() > 1 ? s.operands[1] : s.operands[0]), r;
  if (half) {
    x = convert(Op::cast, x, DType::f32);
    y = convert(Op::cast, y, DType::f32);
  }
  math::with_math_op(s.op, [&]<Op op>() {
    r = t == DType::f64 ? math::evaluate<op, math::F64>(x, y) : math::evaluate<op, math::F32>(x, y);
  });
  return half ? convert(Op::cast, r, t).v : r.v;
}

}  // namespace

Kernel expand_math(const Kernel& kernel) {
  Kernel k = kernel;
  std::map<ValueId, ValueId> replaced;
  for (std::size_t b = 0; b < kernel.blocks.size(); ++b) {
    std::vector<StmtId> out;
    Emitter e(k, out);
    for (StmtId id : kernel.blocks[BlockId(b)].stmts) {
      const Stmt& s = kernel.stmts[id];
      if (describe(s.op).cls != OpClass::math) {
        out.push_back(id);
        continue;
      }
      e.origin = s.origin;
      replaced[s.results[0]] = expand(e, s);
    }
    k.blocks[BlockId(b)].stmts = std::move(out);
  }
  for (Stmt& s : k.stmts)
    for (ValueId& v : s.operands)
      if (auto it = replaced.find(v); it != replaced.end()) v = it->second;
  return k;
}

}  // namespace ag::loop

namespace ag::passes {

const Pass expand_math{.name = "expand_math",
                       .summary = "replaces elementary functions by arithmetic",
                       .on_program = [](loop::Program program, PassContext&) -> Result<loop::Program> {
                         for (loop::Kernel& k : program.kernels) k = loop::expand_math(k);
                         return program;
                       }};

}  // namespace ag::passes

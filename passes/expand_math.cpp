#include "passes/expand_math.hpp"

#include <algorithm>
#include <bit>
#include <map>
#include <tuple>
#include <type_traits>
#include <utility>

#include "ir/loop/math.hpp"
#include "passes/pass.hpp"

namespace ag::loop {
namespace {

using ValueIds = std::vector<ValueId>;

/// Appends statements to a block, and reuses equal ones of that block and those around it.
class Emitter {
 public:
  Emitter(Kernel& k, std::vector<StmtId>& out) : k_(k), out_(&out) {}

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
    if (fresh) it->second = statement(op, {.imm = imm}, operands, {type})[0];
    return it->second;
  }

  /// Any statement; its results.
  ValueIds statement(Op op, const Attr& attr, ValueIds operands, const std::vector<VType>& results,
                     std::vector<BlockId> blocks = {}) {
    Stmt s{op};
    s.attr = attr;
    s.operands = std::move(operands);
    s.blocks = std::move(blocks);
    s.origin = origin;
    for (const VType& type : results) {
      Value value{type};
      value.def = StmtId(k_.stmts.size());
      value.result = static_cast<std::uint32_t>(s.results.size());
      s.results.push_back(k_.values.push(value));
    }
    ValueIds out = s.results;
    out_->push_back(k_.stmts.push(std::move(s)));
    return out;
  }

  /// A block of what `body` emits, given the block's arguments; it yields what `body` returns.
  template <class Body>
  BlockId block(const std::vector<VType>& args, Body body) {
    const BlockId id = k_.blocks.push({});
    for (const VType& type : args) {
      Value value{type};
      value.block = id;
      k_.blocks[id].args.push_back(k_.values.push(value));
    }
    std::vector<StmtId> stmts;
    std::vector<StmtId>* outer = std::exchange(out_, &stmts);
    auto known = known_;
    statement(Op::yield, {}, body(ValueIds(k_.blocks[id].args)), {});
    known_ = std::move(known);
    out_ = outer;
    k_.blocks[id].stmts = std::move(stmts);
    return id;
  }

  ValueId index(std::int64_t i) { return emit(Op::constant, DType::i64, {}, static_cast<std::uint64_t>(i)); }

  /// Room for a tile's elements, so that a loop can take them one by one.
  BufferId local(const VType& type) {
    const BufferId id(k_.buffers.size());
    k_.buffers.push_back({.name = "b" + std::to_string(id.index),
                          .dtype = type.elem,
                          .scope = Scope::local,
                          .access = Access::read_write,
                          .elems = Dim(std::int64_t{type.rows} * type.lanes)});
    return id;
  }
  void store(BufferId b, ValueId tile) {
    statement(Op::store_tile, {.buffer = b}, {index(0), index(type(tile).lanes), index(1), tile}, {});
  }
  ValueId load(BufferId b, VType type) {
    return statement(Op::load_tile, {.buffer = b}, {index(0), index(type.lanes), index(1)}, {type})[0];
  }

 private:
  Kernel& k_;
  std::vector<StmtId>* out_;
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

/// math_num.hpp says what this means. Element by element: the code is small, and it hardly ever runs.
template <class R, class Slow>
R rarely(const Expr& flag, const Expr& x, Slow slow, const R& otherwise) {
  Emitter& e = *x.e;
  if (!std::has_single_bit(static_cast<unsigned>(e.type(flag.v).lanes))) return slow(x);  // reduce_lanes halves
  std::vector<VType> types;
  ValueIds fast;
  otherwise.map([&](const Expr& v) {
    types.push_back({v.elem(), e.type(flag.v).rows, e.type(flag.v).lanes});
    fast.push_back(v.v);
    return v;
  });
  auto slow_values = [&](ValueId element) {
    ValueIds out;
    slow(Expr(&e, element)).map([&](const Expr& v) {
      out.push_back(v.v);
      return v;
    });
    return out;
  };
  const VType tile = e.type(x.v);
  const bool scalar = tile.rows == 1 && tile.lanes == 1;
  ValueId any = flag.v;
  if (tile.lanes > 1)
    any = e.statement(Op::reduce_lanes, {.reduce = ReduceKind::or_}, {any}, {{DType::boolean, tile.rows, 1}})[0];
  if (tile.rows > 1)
    any = e.statement(Op::reduce_rows, {.reduce = ReduceKind::or_}, {any}, {{DType::boolean, 1, 1}})[0];
  const BlockId then = e.block({}, [&](const ValueIds&) {
    if (scalar) return slow_values(x.v);
    const BufferId in = e.local(tile);
    e.store(in, x.v);
    std::vector<BufferId> out;
    for (const VType& t : types) out.push_back(e.local(t));
    const BlockId body = e.block({{DType::i64, 1, 1}}, [&](const ValueIds& i) {
      const ValueId element = e.statement(Op::load, {.buffer = in}, {i[0]}, {{tile.elem, 1, 1}})[0];
      const ValueIds values = slow_values(element);
      for (std::size_t r = 0; r < values.size(); ++r) e.statement(Op::store, {.buffer = out[r]}, {i[0], values[r]}, {});
      return ValueIds{};
    });
    e.statement(Op::for_, {}, {e.index(0), e.index(std::int64_t{tile.rows} * tile.lanes), e.index(1)}, {}, {body});
    ValueIds loaded;
    for (std::size_t r = 0; r < out.size(); ++r) loaded.push_back(e.load(out[r], types[r]));
    return loaded;
  });
  const BlockId otherwise_block = e.block({}, [&](const ValueIds&) { return fast; });
  const ValueIds results = e.statement(Op::if_, {}, {any}, types, {then, otherwise_block});
  std::size_t at = 0;
  return otherwise.map([&](const Expr&) { return Expr(&e, results[at++]); });
}

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

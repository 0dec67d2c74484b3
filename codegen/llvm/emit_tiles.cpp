// Tile values as LLVM vectors: splitting, broadcasting, elementwise application, lane operations, contraction.
#include <llvm/IR/Intrinsics.h>

#include <bit>
#include <numeric>

#include "codegen/llvm/emit_internal.hpp"

namespace ag::codegen {
using llvm::Value;
using loop::Op;
using loop::OpClass;
using loop::VType;

/// Elements that fill a vector register. A bool counts as 32 bits wide (its use is to mask such lanes), and so do
/// f16 and bf16, which are computed in f32. A GPU thread computes scalars.
int Emitter::native_lanes(DType e) const {
  if (target.kind == TargetSpec::Kind::cuda) return 1;
  bool as_32 = e == DType::boolean || e == DType::f16 || e == DType::bf16;
  return target.lanes(as_32 ? 4 : dtype_bytes(e));
}

int Emitter::canonical_chunk(VType t) const { return std::min<int>(native_lanes(t.elem), t.lanes); }

Tile Emitter::make(VType type, int chunk) const {
  Tile t{type, std::min<int>(chunk, type.lanes), {}};
  t.parts.resize(static_cast<std::size_t>(type.rows * t.parts_per_row()));
  return t;
}

Value* Emitter::slice(Value* v, int from, int count) {
  auto* vector = llvm::cast<llvm::FixedVectorType>(v->getType());
  if (from == 0 && count == static_cast<int>(vector->getNumElements())) return v;
  llvm::SmallVector<int, 64> mask(static_cast<std::size_t>(count));
  std::iota(mask.begin(), mask.end(), from);
  return b.CreateShuffleVector(v, mask);
}

Value* Emitter::element(const Tile& t, int r, int l) {
  Value* part = t.part(r, l / t.chunk);
  return t.chunk == 1 ? part : b.CreateExtractElement(part, static_cast<std::uint64_t>(l % t.chunk));
}

Tile Emitter::rechunk(const Tile& t, int chunk) {
  chunk = std::min<int>(chunk, t.type.lanes);
  if (chunk == t.chunk) return t;
  // A wide chunk is reached by doubling, so that whole registers are joined and not elements.
  if (t.chunk > 1 && chunk > 2 * t.chunk && chunk % (2 * t.chunk) == 0) return rechunk(rechunk(t, 2 * t.chunk), chunk);
  Tile out = make(t.type, chunk);
  llvm::Type* elem = arith.reg_type(t.type.elem);
  for (int r = 0; r < t.type.rows; ++r)
    for (int j = 0; j < out.parts_per_row(); ++j) {
      int lanes = out.part_lanes(j), first = j * chunk;
      Value*& result = out.parts[static_cast<std::size_t>(r * out.parts_per_row() + j)];
      if (t.chunk > chunk && t.chunk % chunk == 0 && chunk > 1) {
        result = slice(t.part(r, first / t.chunk), first % t.chunk, lanes);
      } else if (chunk == 1) {
        result = element(t, r, first);
      } else if (chunk == 2 * t.chunk && t.chunk > 1 && lanes == chunk) {
        llvm::SmallVector<int, 64> mask(static_cast<std::size_t>(chunk));
        std::iota(mask.begin(), mask.end(), 0);
        result = b.CreateShuffleVector(t.part(r, 2 * j), t.part(r, 2 * j + 1), mask);
      } else {
        result = llvm::PoisonValue::get(llvm::FixedVectorType::get(elem, static_cast<unsigned>(lanes)));
        for (int l = 0; l < lanes; ++l)
          result = b.CreateInsertElement(result, element(t, r, first + l), static_cast<std::uint64_t>(l));
      }
    }
  return out;
}

/// One of a scalar in a block: rows of many parts ask for the same again and again.
Value* Emitter::splat(Value* scalar, const Tile& shape, int j) {
  if (shape.chunk == 1) return scalar;
  const auto lanes = static_cast<unsigned>(shape.part_lanes(j));
  if (llvm::isa<llvm::Constant>(scalar)) return b.CreateVectorSplat(lanes, scalar);
  Value*& made = splats_[{b.GetInsertBlock(), scalar, lanes}];
  if (!made) made = b.CreateVectorSplat(lanes, scalar);
  return made;
}

/// Part (r, j) of an operand that broadcasts to `shape`; `t` has shape's chunk or a single lane.
Value* Emitter::operand_part(const Tile& t, const Tile& shape, int r, int j) {
  int row = t.type.rows == 1 ? 0 : r;
  return t.type.lanes == 1 && shape.type.lanes > 1 ? splat(t.part(row, 0), shape, j) : t.part(row, j);
}

Tile Emitter::constant_tile(VType type, std::uint64_t bits) {
  Tile t = make(type, canonical_chunk(type));
  for (int r = 0; r < type.rows; ++r)
    for (int j = 0; j < t.parts_per_row(); ++j)
      t.parts[static_cast<std::size_t>(r * t.parts_per_row() + j)] = splat(arith.constant(type.elem, bits), t, j);
  return t;
}

Tile Emitter::iota(VType type, bool rows) {
  Tile t = make(type, canonical_chunk(type));
  auto number = [&](int i) { return arith.constant(type.elem, loop::constant_bits(type.elem, std::int64_t{i})); };
  for (int r = 0; r < type.rows; ++r)
    for (int j = 0; j < t.parts_per_row(); ++j) {
      llvm::SmallVector<llvm::Constant*, 64> elements;
      for (int l = 0; l < t.part_lanes(j); ++l) elements.push_back(number(rows ? r : j * t.chunk + l));
      t.parts[static_cast<std::size_t>(r * t.parts_per_row() + j)] =
          t.chunk == 1 ? elements[0] : llvm::ConstantVector::get(elements);
    }
  return t;
}

/// Lane numbers against a scalar of i64, which is how tails are masked: i32 lanes say the same once the scalar is
/// clamped to what lane numbers can reach, at half the width and without packing the mask.
std::optional<Tile> Emitter::compare_iota(const loop::Stmt& s) {
  if (loop::describe(s.op).cls != OpClass::compare || target.kind != TargetSpec::Kind::cpu) return std::nullopt;
  auto is_iota = [&](loop::ValueId v) {
    loop::StmtId def = kernel.values[v].def;
    return def && kernel.stmts[def].op == Op::lane_iota && kernel.type(v).elem == DType::i64;
  };
  std::size_t lanes_at = is_iota(s.operands[0]) ? 0 : 1;
  VType type = kernel.type(s.operands[lanes_at]), other = kernel.type(s.operands[1 - lanes_at]);
  if (!is_iota(s.operands[lanes_at]) || !other.scalar() || type.lanes == 1) return std::nullopt;
  Value* bound = scalar(s.operands[1 - lanes_at]);
  bound = b.CreateBinaryIntrinsic(llvm::Intrinsic::smax, bound, i64(-1));
  bound = b.CreateBinaryIntrinsic(llvm::Intrinsic::smin, bound, i64(1 << 16));
  bound = b.CreateTrunc(bound, b.getInt32Ty());
  Tile numbers = iota({DType::i32, 1, type.lanes}, false);
  Tile out = make({DType::boolean, 1, type.lanes}, numbers.chunk);
  for (int j = 0; j < out.parts_per_row(); ++j) {
    Value *l = numbers.part(0, j), *r = splat(bound, out, j);
    if (lanes_at == 1) std::swap(l, r);
    out.parts[static_cast<std::size_t>(j)] = arith.compare(s.op, DType::i32, l, r);
  }
  return out;
}

/// ldexp(x, bits of t - bits of magic), where t = magic + k was rounded to a whole k (math_common.hpp): t - magic is k
/// as a number, which is what vscalefps takes; integers need not come into it.
std::optional<Tile> Emitter::scale_by_rounded(const loop::Stmt& s) {
  if (s.op != Op::ldexp) return std::nullopt;
  auto def = [&](loop::ValueId v) {
    loop::StmtId id = kernel.values[v].def;
    return id ? &kernel.stmts[id] : nullptr;
  };
  const loop::Stmt* k = def(s.operands[1]);
  if (!k || k->op != Op::sub) return std::nullopt;
  const loop::Stmt *bits = def(k->operands[0]), *magic = def(k->operands[1]);
  if (!bits || bits->op != Op::bitcast || !magic || magic->op != Op::constant) return std::nullopt;
  VType type = kernel.type(s.results[0]);
  const bool f64 = type.elem == DType::f64;
  const std::uint64_t expected = f64 ? 0x4338000000000000 : 0x4b400000;  // 1.5 * 2^(digits - 1)
  if (magic->attr.imm != expected || kernel.type(bits->operands[0]) != type) return std::nullopt;
  Tile x = value(s.operands[0]), t = value(bits->operands[0]);
  if (t.chunk != x.chunk || x.type != t.type || x.type != type) return std::nullopt;
  for (Value* part : x.parts)
    if (!arith.fills_zmm(part)) return std::nullopt;
  for (std::size_t i = 0; i < x.parts.size(); ++i) {
    Value* whole = b.CreateFSub(t.parts[i], llvm::ConstantFP::get(t.parts[i]->getType(), f64 ? 0x1.8p52 : 0x1.8p23));
    x.parts[i] = arith.scale(x.parts[i], whole);
  }
  return x;
}

/// The divider is what roots and quotients wait for: of four registers, the multipliers take the last one's root.
bool Emitter::leaves_divider(const loop::Stmt& s, const Tile& shape, int j) const {
  return s.op == Op::sqrt && shape.type.elem == DType::f32 && shape.chunk == 16 && j % 4 == 3 &&
         shape.part_lanes(j) == 16 && target.kind == TargetSpec::Kind::cpu && target.vector_bits == 512;
}

Tile Emitter::elementwise(const loop::Stmt& s) {
  if (auto mask = compare_iota(s)) return *mask;
  if (auto scaled = scale_by_rounded(s)) return *scaled;
  VType type = kernel.type(s.results[0]);
  int chunk = type.elem == DType::boolean ? 1 << 16 : native_lanes(type.elem);
  int widest_bool = 1;
  llvm::SmallVector<Tile, 3> operands;
  for (auto id : s.operands) {
    const Tile& t = operands.emplace_back(value(id));
    if (t.type.lanes == 1) continue;
    if (t.type.elem == DType::boolean)
      widest_bool = std::max(widest_bool, t.chunk);
    else
      chunk = std::min(chunk, native_lanes(t.type.elem));
  }
  if (chunk == 1 << 16) chunk = std::min(widest_bool == 1 ? native_lanes(DType::boolean) : widest_bool, 1 << 15);
  if (type.lanes == 1) chunk = 1;
  Tile out = make(type, chunk);
  for (Tile& t : operands)
    if (t.type.lanes > 1) t = rechunk(t, out.chunk);
  DType from = operands[0].type.elem;
  for (int r = 0; r < type.rows; ++r)
    for (int j = 0; j < out.parts_per_row(); ++j) {
      auto arg = [&](std::size_t i) { return operand_part(operands[i], out, r, j); };
      Value*& result = out.parts[static_cast<std::size_t>(r * out.parts_per_row() + j)];
      switch (loop::describe(s.op).cls) {
        case OpClass::unary:
          result = s.op == Op::cast            ? arith.cast(from, type.elem, arg(0))
                   : s.op == Op::bitcast       ? arith.bitcast(from, type.elem, arg(0))
                   : leaves_divider(s, out, j) ? arith.sqrt_by_fma(arg(0))
                                               : arith.unary(s.op, from, arg(0));
          break;
        case OpClass::binary: result = arith.binary(s.op, from, arg(0), arg(1)); break;
        case OpClass::compare: result = arith.compare(s.op, from, arg(0), arg(1)); break;
        default:
          result = s.op == Op::fma ? arith.fma(from, arg(0), arg(1), arg(2)) : b.CreateSelect(arg(0), arg(1), arg(2));
      }
    }
  return out;
}

Value* Emitter::combine(loop::ReduceKind kind, DType t, Value* x, Value* y) {
  Op op = loop::reduce_op(kind);
  if (t == DType::boolean) {  // sums and maxima of truth values are "any", products and minima "all"
    bool any = op == Op::add || op == Op::max || op == Op::or_;
    return any ? b.CreateOr(x, y) : b.CreateAnd(x, y);
  }
  return arith.binary(op, t, x, y);
}

Tile Emitter::convert(const Tile& t, DType e) {
  Tile out = t;
  out.type.elem = e;
  for (Value*& v : out.parts) v = arith.cast(t.type.elem, e, v);
  return out;
}

// Reductions and contractions of f16 and bf16 run in f32 and are rounded once, at the end of the statement.
Tile Emitter::reduce_lanes(loop::ReduceKind kind, const Tile& t) {
  if (DType wide = accumulator_dtype(t.type.elem); wide != t.type.elem)
    return convert(reduce_lanes(kind, convert(t, wide)), t.type.elem);
  DType e = t.type.elem;
  Tile out = make({e, t.type.rows, 1}, 1);
  for (int r = 0; r < t.type.rows; ++r) {
    llvm::SmallVector<Value*, 8> parts;
    for (int j = 0; j < t.parts_per_row(); ++j) parts.push_back(t.part(r, j));
    // Lane l meets lane l + C/2: whole parts first, then halves of the last part.
    for (; parts.size() > 1; parts.resize(parts.size() / 2))
      for (std::size_t j = 0; j < parts.size() / 2; ++j)
        parts[j] = combine(kind, e, parts[j], parts[j + parts.size() / 2]);
    out.parts[static_cast<std::size_t>(r)] = parts[0];
  }
  if (t.type.rows > 1 && t.chunk > 2 && e != DType::boolean && target.kind == TargetSpec::Kind::cpu) {
    reduce_together(kind, e, t.chunk, out.parts);
    return out;
  }
  for (Value*& v : out.parts)
    for (int n = t.chunk / 2; n >= 1; n /= 2) {
      if (n == 1)
        v = combine(kind, e, b.CreateExtractElement(v, std::uint64_t{0}), b.CreateExtractElement(v, 1));
      else
        v = combine(kind, e, slice(v, 0, n), slice(v, n, n));
    }
  return out;
}

/// Each of several registers to one element, the same lanes meeting as alone: the halves that meet are those of two
/// registers at once, whose results lie in one, so each round has half as many.
void Emitter::reduce_together(loop::ReduceKind kind, DType e, int lanes, llvm::SmallVectorImpl<Value*>& rows) {
  struct Register {
    Value* v;
    std::vector<int> row;  // whose lanes each block of n is; -1: nobody's
  };
  std::vector<Register> all;
  for (int r = 0; r < static_cast<int>(rows.size()); ++r) all.push_back({rows[static_cast<std::size_t>(r)], {r}});
  for (int n = lanes; n > 1; n /= 2) {
    std::vector<Register> next;
    for (std::size_t i = 0; i < all.size(); i += 2) {
      const Register &x = all[i], *y = i + 1 < all.size() ? &all[i + 1] : nullptr;
      Register both{nullptr, {}};
      for (std::size_t k = 0; k < x.row.size(); ++k) both.row.insert(both.row.end(), {x.row[k], y ? y->row[k] : -1});
      llvm::SmallVector<int, 64> lower, upper;
      for (int l = 0; l < lanes; ++l) {
        const bool second = l % n >= n / 2;
        const int from = second ? l - n / 2 + lanes : l;
        lower.push_back(y || !second ? from : -1), upper.push_back(y || !second ? from + n / 2 : -1);
      }
      Value* other = y ? y->v : x.v;
      Value* low = y ? b.CreateShuffleVector(x.v, other, lower) : x.v;
      both.v = combine(kind, e, low, b.CreateShuffleVector(x.v, other, upper));
      next.push_back(std::move(both));
    }
    all = std::move(next);
  }
  for (const Register& r : all)
    for (std::size_t l = 0; l < r.row.size(); ++l)
      if (r.row[l] >= 0) rows[static_cast<std::size_t>(r.row[l])] = b.CreateExtractElement(r.v, std::uint64_t{l});
}

Tile Emitter::reduce_rows(loop::ReduceKind kind, const Tile& t) {
  if (DType wide = accumulator_dtype(t.type.elem); wide != t.type.elem)
    return convert(reduce_rows(kind, convert(t, wide)), t.type.elem);
  Tile out = make({t.type.elem, 1, t.type.lanes}, t.chunk);
  for (int j = 0; j < t.parts_per_row(); ++j) {
    Value* v = t.part(0, j);
    for (int r = 1; r < t.type.rows; ++r) v = combine(kind, t.type.elem, v, t.part(r, j));
    out.parts[static_cast<std::size_t>(j)] = v;
  }
  return out;
}

/// Square blocks of n x n by Eklundh's exchange: log2(n) rounds of two-operand shuffles; other shapes by element.
Tile Emitter::transpose(const Tile& from) {
  VType type{from.type.elem, from.type.lanes, from.type.rows};
  Tile out = make(type, canonical_chunk(type));
  // Rows of whole lines in blocks of fewer rows: a line is loaded once and cut in registers.
  const Tile t = from.chunk > out.chunk && out.chunk > 1 ? rechunk(from, out.chunk) : from;
  int n = t.chunk;
  if (n > 1 && n == out.chunk && t.type.rows % n == 0 && t.type.lanes % n == 0 && std::has_single_bit(unsigned(n))) {
    for (int rb = 0; rb < t.type.rows / n; ++rb)
      for (int cb = 0; cb < t.type.lanes / n; ++cb) {
        llvm::SmallVector<Value*, 32> v;
        for (int i = 0; i < n; ++i) v.push_back(t.part(rb * n + i, cb));
        for (int h = n / 2; h >= 1; h /= 2) {
          // LLVM looks for better shuffles through chains of them, in time exponential in their length.
          if (h == n / 8 && v[0]->getType()->isFPOrFPVectorTy())
            for (Value*& row : v) row = b.CreateArithmeticFence(row, row->getType());
          llvm::SmallVector<int, 64> low, high;
          for (int l = 0; l < n; ++l) {
            low.push_back((l & h) ? n + (l ^ h) : l);
            high.push_back((l & h) ? n + l : (l ^ h));
          }
          for (int i = 0; i < n; ++i) {
            if (i & h) continue;
            auto x = static_cast<std::size_t>(i), y = static_cast<std::size_t>(i + h);
            Value* first = b.CreateShuffleVector(v[x], v[y], low);
            v[y] = b.CreateShuffleVector(v[x], v[y], high);
            v[x] = first;
          }
        }
        for (int i = 0; i < n; ++i)
          out.parts[static_cast<std::size_t>((cb * n + i) * out.parts_per_row() + rb)] = v[static_cast<std::size_t>(i)];
      }
    return out;
  }
  llvm::Type* elem = arith.reg_type(type.elem);
  for (int r = 0; r < type.rows; ++r)
    for (int j = 0; j < out.parts_per_row(); ++j) {
      Value*& result = out.parts[static_cast<std::size_t>(r * out.parts_per_row() + j)];
      if (out.chunk == 1) {
        result = element(t, j, r);
        continue;
      }
      result = llvm::PoisonValue::get(llvm::FixedVectorType::get(elem, static_cast<unsigned>(out.part_lanes(j))));
      for (int l = 0; l < out.part_lanes(j); ++l)
        result = b.CreateInsertElement(result, element(t, j * out.chunk + l, r), static_cast<std::uint64_t>(l));
    }
  return out;
}

Tile Emitter::contract(const Tile& acc, const Tile& x, const Tile& y) {
  DType e = accumulator_dtype(acc.type.elem);
  if (e != acc.type.elem) return convert(contract(convert(acc, e), x, y), acc.type.elem);
  Tile out = rechunk(acc, canonical_chunk(acc.type));
  Tile right = convert(rechunk(y, out.chunk), e), left = convert(x, e);
  for (int k = 0; k < x.type.lanes; ++k)
    for (int r = 0; r < acc.type.rows; ++r) {
      Value* scalar = element(left, r, k);
      for (int j = 0; j < out.parts_per_row(); ++j) {
        Value*& sum = out.parts[static_cast<std::size_t>(r * out.parts_per_row() + j)];
        sum = arith.fma(e, splat(scalar, out, j), right.part(k, j), sum);
      }
    }
  return out;
}

Tile Emitter::broadcast(const Tile& t, VType type) {
  Tile out = make(type, t.type.lanes == 1 ? canonical_chunk(type) : t.chunk);
  for (int r = 0; r < type.rows; ++r)
    for (int j = 0; j < out.parts_per_row(); ++j)
      out.parts[static_cast<std::size_t>(r * out.parts_per_row() + j)] = operand_part(t, out, r, j);
  return out;
}

Tile Emitter::extract(const Tile& t, int lane) {
  Tile out = make({t.type.elem, t.type.rows, 1}, 1);
  for (int r = 0; r < t.type.rows; ++r) out.parts[static_cast<std::size_t>(r)] = element(t, r, lane);
  return out;
}

/// The warp exchanges 32-bit words: narrower elements are extended, 64-bit ones go as two.
Tile Emitter::shuffle_xor(const Tile& t, std::uint32_t mask) {
  Tile out = t;
  std::size_t bytes = dtype_bytes(t.type.elem);
  for (Value*& v : out.parts) {
    llvm::Type* type = v->getType();
    auto* bits = b.getIntNTy(type->getPrimitiveSizeInBits());
    Value* word = b.CreateBitCast(v, bits);
    if (bytes == 8) {
      Value* low = dialect.shuffle_xor(*this, b.CreateTrunc(word, b.getInt32Ty()), mask);
      Value* high = dialect.shuffle_xor(*this, b.CreateTrunc(b.CreateLShr(word, 32), b.getInt32Ty()), mask);
      word = b.CreateOr(b.CreateZExt(low, bits), b.CreateShl(b.CreateZExt(high, bits), 32));
    } else {
      word = b.CreateTrunc(dialect.shuffle_xor(*this, b.CreateZExt(word, b.getInt32Ty()), mask), bits);
    }
    v = b.CreateBitCast(word, type);
  }
  return out;
}

}  // namespace ag::codegen

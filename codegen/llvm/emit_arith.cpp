// What each elementwise statement means on an element, in LLVM instructions. The table is ir/loop/kernel.hpp.
#include <llvm/IR/Intrinsics.h>
#include <llvm/IR/IntrinsicsX86.h>
#include <llvm/Support/DivisionByConstantInfo.h>

#include "codegen/llvm/emit_internal.hpp"

namespace ag::codegen {
using llvm::Type;
using llvm::Value;
namespace Intrinsic = llvm::Intrinsic;
using llvm::Intrinsic::ID;
using loop::Op;

namespace {

/// The constant that all lanes hold, if `v` is one.
llvm::ConstantInt* constant_of_lanes(Value* v) {
  auto* c = llvm::dyn_cast<llvm::Constant>(v);
  if (c && v->getType()->isVectorTy()) c = c->getSplatValue();
  return llvm::dyn_cast_or_null<llvm::ConstantInt>(c);
}

bool is_half(DType t) { return t == DType::f16 || t == DType::bf16; }

Type* with_shape(Type* element, const Value* shape) {
  if (auto* v = llvm::dyn_cast<llvm::VectorType>(shape->getType()))
    return llvm::VectorType::get(element, v->getElementCount());
  return element;
}

/// Splat or scalar integer of the type of `shape`.
Value* int_like(const Value* shape, std::uint64_t v) {
  return llvm::ConstantInt::get(shape->getType(), v, false, /*ImplicitTrunc=*/true);
}

constexpr std::uint32_t current_rounding = 4;  // of AVX-512 intrinsics that could name another

}  // namespace

Type* Arith::reg_type(DType t) const {
  switch (t) {
    case DType::f64: return b_.getDoubleTy();
    case DType::f32: return b_.getFloatTy();
    case DType::boolean: return b_.getInt1Ty();
    default: return b_.getIntNTy(static_cast<unsigned>(8 * dtype_bytes(t)));
  }
}

Type* Arith::mem_type(DType t) const { return t == DType::boolean ? b_.getInt8Ty() : reg_type(t); }

llvm::Constant* Arith::constant(DType t, std::uint64_t bits) const {
  Type* type = reg_type(t);
  if (t == DType::boolean) return b_.getInt1(bits != 0);
  auto* integer = b_.getIntNTy(static_cast<unsigned>(8 * dtype_bytes(t)));
  auto* c = llvm::ConstantInt::get(integer, bits, false, true);
  if (!type->isFloatingPointTy()) return c;
  const auto& semantics = type->getFltSemantics();
  return llvm::ConstantFP::get(b_.getContext(), llvm::APFloat(semantics, llvm::cast<llvm::ConstantInt>(c)->getValue()));
}

Value* Arith::widen(DType t, Value* v) {
  Type* f32 = with_shape(b_.getFloatTy(), v);
  if (t == DType::f16) return b_.CreateFPExt(b_.CreateBitCast(v, with_shape(b_.getHalfTy(), v)), f32);
  Value* wide = b_.CreateShl(b_.CreateZExt(v, with_shape(b_.getInt32Ty(), v)), 16);
  return b_.CreateBitCast(wide, f32);
}

// bf16 by hand: LLVM calls a library function without AVX512-BF16, and that instruction flushes subnormals.
Value* Arith::narrow(DType t, Value* v) {
  Type* i16 = with_shape(b_.getInt16Ty(), v);
  if (t == DType::f16) return b_.CreateBitCast(b_.CreateFPTrunc(v, with_shape(b_.getHalfTy(), v)), i16);
  Value* u = b_.CreateBitCast(v, with_shape(b_.getInt32Ty(), v));
  Value* high = b_.CreateLShr(u, 16);
  Value* odd = b_.CreateAnd(high, int_like(u, 1));
  Value* rounded = b_.CreateLShr(b_.CreateAdd(u, b_.CreateAdd(odd, int_like(u, 0x7fff))), 16);
  Value* nan = b_.CreateFCmpUNO(v, v);
  return b_.CreateTrunc(b_.CreateSelect(nan, b_.CreateOr(high, int_like(u, 0x40)), rounded), i16);
}

// f64 -> f32 towards the neighbour with an odd last bit: rounding that again to 16 bits is then exact.
Value* Arith::round_to_odd(Value* v) {
  Value* f = b_.CreateFPTrunc(v, with_shape(b_.getFloatTy(), v));
  Value* back = b_.CreateFPExt(f, v->getType());
  Value* inexact = b_.CreateFCmpONE(back, v);
  Value* over = b_.CreateFCmpOGT(b_.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, back),
                                 b_.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, v));
  Value* u = b_.CreateBitCast(f, with_shape(b_.getInt32Ty(), v));
  Value* down = b_.CreateSelect(over, b_.CreateSub(u, int_like(u, 1)), u);
  return b_.CreateBitCast(b_.CreateSelect(inexact, b_.CreateOr(down, int_like(u, 1)), u), f->getType());
}

Value* Arith::unary(Op op, DType t, Value* v) {
  if (is_half(t)) {
    if (op == Op::neg) return b_.CreateXor(v, int_like(v, 0x8000));
    if (op == Op::abs) return b_.CreateAnd(v, int_like(v, 0x7fff));
    if (op != Op::not_ && op != Op::popcount) return narrow(t, unary(op, DType::f32, widen(t, v)));
  }
  auto intrinsic = [&](ID id) { return b_.CreateUnaryIntrinsic(id, v); };
  bool fp = v->getType()->isFPOrFPVectorTy();
  switch (op) {
    case Op::neg: return fp ? b_.CreateFNeg(v) : b_.CreateNeg(v);
    case Op::abs:
      if (fp) return intrinsic(llvm::Intrinsic::fabs);
      return is_signed_int(t) ? b_.CreateBinaryIntrinsic(llvm::Intrinsic::abs, v, b_.getFalse()) : v;
    case Op::not_: return b_.CreateNot(v);
    case Op::popcount: return intrinsic(llvm::Intrinsic::ctpop);
    case Op::sqrt: return fp ? intrinsic(llvm::Intrinsic::sqrt) : v;
    case Op::floor: return fp ? intrinsic(llvm::Intrinsic::floor) : v;
    case Op::ceil: return fp ? intrinsic(llvm::Intrinsic::ceil) : v;
    case Op::trunc: return fp ? intrinsic(llvm::Intrinsic::trunc) : v;
    case Op::round_even: return fp ? intrinsic(llvm::Intrinsic::roundeven) : v;
    default: AG_CHECK(false, "not a unary statement");
  }
  return v;
}

Value* Arith::binary(Op op, DType t, Value* x, Value* y) {
  if (op == Op::ldexp) return is_half(t) ? narrow(t, ldexp(DType::f32, widen(t, x), y)) : ldexp(t, x, y);
  if (!is_float(t)) return int_binary(op, t, x, y);
  if (is_half(t)) {
    if (op == Op::copysign)
      return b_.CreateOr(b_.CreateAnd(x, int_like(x, 0x7fff)), b_.CreateAnd(y, int_like(y, 0x8000)));
    return narrow(t, float_binary(op, widen(t, x), widen(t, y)));
  }
  return float_binary(op, x, y);
}

namespace {

/// 1 / y, if y is a constant power of two: multiplying by it gives every bit of the quotient, in a third of the time.
Value* exact_inverse(Value* y) {
  auto* constant = llvm::dyn_cast<llvm::Constant>(y);
  auto* splat = constant && y->getType()->isVectorTy() ? constant->getSplatValue() : constant;
  auto* number = llvm::dyn_cast_or_null<llvm::ConstantFP>(splat);
  llvm::APFloat inverse(0.0);
  if (!number || !number->getValueAPF().getExactInverse(&inverse)) return nullptr;
  return llvm::ConstantFP::get(y->getType(), inverse);
}

}  // namespace

Value* Arith::float_binary(Op op, Value* x, Value* y) {
  switch (op) {
    case Op::add: return b_.CreateFAdd(x, y);
    case Op::sub: return b_.CreateFSub(x, y);
    case Op::mul: return b_.CreateFMul(x, y);
    case Op::div: {
      Value* inverse = exact_inverse(y);
      return inverse ? b_.CreateFMul(x, inverse) : b_.CreateFDiv(x, y);
    }
    case Op::rem: return float_rem(x, y);
    case Op::min:
    case Op::max: return float_extreme(op, x, y);
    case Op::copysign: return b_.CreateBinaryIntrinsic(llvm::Intrinsic::copysign, x, y);
    default: AG_CHECK(false, "not a statement on floats");
  }
  return x;
}

// vrangeps orders -0 before +0, but of a NaN and a number it gives the number: the sum takes its place, in half the
// instructions of LLVM's own lowering. That one is better where an operand is a constant.
Value* Arith::float_extreme(Op op, Value* x, Value* y) {
  bool max = op == Op::max;
  if (!fills_zmm(x) || llvm::isa<llvm::Constant>(x) || llvm::isa<llvm::Constant>(y))
    return b_.CreateBinaryIntrinsic(max ? llvm::Intrinsic::maximum : llvm::Intrinsic::minimum, x, y);
  bool f32 = x->getType()->getScalarType()->isFloatTy();
  Value* r = b_.CreateIntrinsic(
      f32 ? llvm::Intrinsic::x86_avx512_mask_range_ps_512 : llvm::Intrinsic::x86_avx512_mask_range_pd_512, {},
      {x, y, b_.getInt32(max ? 5 : 4), x, all_lanes(x), b_.getInt32(current_rounding)});
  return b_.CreateSelect(b_.CreateFCmpUNO(x, y), b_.CreateFAdd(x, y), r);
}

/// The value fills a 512-bit register of f32 or f64.
bool Arith::fills_zmm(const Value* v) const {
  auto* type = llvm::dyn_cast<llvm::FixedVectorType>(v->getType());
  return type && target_.kind == TargetSpec::Kind::cpu && target_.vector_bits == 512 &&
         type->getPrimitiveSizeInBits() == 512 &&
         (type->getElementType()->isFloatTy() || type->getElementType()->isDoubleTy());
}

Value* Arith::all_lanes(const Value* v) {
  auto* type = llvm::cast<llvm::FixedVectorType>(v->getType());
  return llvm::Constant::getAllOnesValue(b_.getIntNTy(type->getNumElements()));
}

/// x * 2^n for a whole number n of the type of x, rounded once: vscalefps.
Value* Arith::scale(Value* x, Value* n) {
  bool f32 = x->getType()->getScalarType()->isFloatTy();
  return b_.CreateIntrinsic(
      f32 ? llvm::Intrinsic::x86_avx512_mask_scalef_ps_512 : llvm::Intrinsic::x86_avx512_mask_scalef_pd_512, {},
      {x, n, x, all_lanes(x), b_.getInt32(current_rounding)});
}

// The square root, to the bit, of f32 lanes that fill a zmm register, by multiply-adds: the divider takes as long for
// one root as a stream of memory for an element of an optimiser's state, and this beside it. With v = m 4^k and m in
// [1/2, 2): Newton's step for g ~ sqrt(m) and h ~ 1 / (2 sqrt(m)) at once, then the remainder m - g^2, which is exact
// (Markstein, IBM J. R&D 34, 1990). Whatever a machine's 14 bits of 1 / sqrt(m) are: of all m and all floats within
// 2^-14 of it none leads to another root. vfixupimm puts the sign of zeros right, and the root of -inf.
Value* Arith::sqrt_by_fma(Value* v) {
  auto number = [&](double x) { return llvm::ConstantFP::get(v->getType(), x); };
  auto fma = [&](Value* x, Value* y, Value* z) -> Value* {
    return b_.CreateIntrinsic(Intrinsic::fma, {v->getType()}, {x, y, z});
  };
  auto call = [&](ID id, std::initializer_list<Value*> args) -> Value* { return b_.CreateIntrinsic(id, {}, args); };
  Value *half = number(0.5), *mode = b_.getInt32(current_rounding), *all = all_lanes(v), *zero = number(0);
  constexpr std::uint32_t from_half_to_two = 1, negative_is_nan = 2 << 2;
  Value* m = call(Intrinsic::x86_avx512_mask_getmant_ps_512,
                  {v, b_.getInt32(from_half_to_two | negative_is_nan), zero, all, mode});
  Value* exponent = fma(call(Intrinsic::x86_avx512_mask_getexp_ps_512, {v, zero, all, mode}), half, half);
  Value* y = call(Intrinsic::x86_avx512_rsqrt14_ps_512, {m, zero, all});
  Value *g = b_.CreateFMul(m, y), *h = b_.CreateFMul(y, half);
  Value* error = fma(b_.CreateFNeg(g), h, half);
  g = fma(g, error, g), h = fma(h, error, h);
  Value* remainder = fma(b_.CreateFNeg(g), g, m);
  Value* root = scale(fma(remainder, h, g), exponent);
  // A nibble a class of v: zeros (2) give v itself (1), -inf (4) the indefinite NaN (3), all others keep the root.
  constexpr std::uint32_t repairs = 1 << 2 * 4 | 3 << 4 * 4;
  Value* table = b_.CreateVectorSplat(16, b_.getInt32(repairs));
  return call(Intrinsic::x86_avx512_mask_fixupimm_ps_512, {root, v, table, b_.getInt32(0), all, mode});
}

// fmod, exactly, without a library. In f64, with a = |x|, b = |y|: while a >= b in any lane, take whole multiples of
// t = b * 2^n from a, n chosen so that a/t < 2^53. The rounded a/t truncates to the true quotient or one more, so
// a - q*t is a multiple of t's last place no larger than t, thus exact in one fma; if negative, t is added back.
Value* Arith::float_rem(Value* x0, Value* y0) {
  Type* f64 = with_shape(b_.getDoubleTy(), x0);
  Type* i64 = with_shape(b_.getInt64Ty(), x0);
  bool narrower = x0->getType() != f64;
  Value* x = narrower ? b_.CreateFPExt(x0, f64) : x0;
  Value* y = narrower ? b_.CreateFPExt(y0, f64) : y0;
  auto number = [&](double v) { return llvm::ConstantFP::get(f64, v); };
  auto bits = [&](std::int64_t v) { return llvm::ConstantInt::get(i64, static_cast<std::uint64_t>(v)); };
  auto fabs = [&](Value* v) { return b_.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, v); };
  auto exponent = [&](Value* v) {  // of a positive number; subnormals count as the least normal exponent
    Value* e = b_.CreateLShr(b_.CreateBitCast(v, i64), 52);
    return b_.CreateBinaryIntrinsic(llvm::Intrinsic::smax, e, bits(1));
  };
  Value* infinity = llvm::ConstantFP::getInfinity(f64);
  Value* valid = b_.CreateAnd(b_.CreateFCmpOLT(fabs(x), infinity), b_.CreateFCmpOGT(fabs(y), number(0)));
  Value* a0 = b_.CreateSelect(valid, fabs(x), number(0));
  Value* b = b_.CreateSelect(valid, fabs(y), number(1));
  // The true exponent of a subnormal b is read after scaling by 2^54.
  Value* tiny = b_.CreateFCmpOLT(b, number(0x1p-1000));
  Value* eb = b_.CreateSelect(tiny, b_.CreateSub(exponent(b_.CreateFMul(b, number(0x1p54))), bits(54)), exponent(b));

  auto* before = b_.GetInsertBlock();
  auto* f = before->getParent();
  auto* header = llvm::BasicBlock::Create(b_.getContext(), "fmod", f);
  auto* body = llvm::BasicBlock::Create(b_.getContext(), "fmod.step", f);
  auto* after = llvm::BasicBlock::Create(b_.getContext(), "fmod.end", f);
  b_.CreateBr(header);
  b_.SetInsertPoint(header);
  auto* a = b_.CreatePHI(f64, 2);
  a->addIncoming(a0, before);
  Value* more = b_.CreateFCmpOGE(a, b);
  b_.CreateCondBr(more->getType()->isVectorTy() ? b_.CreateOrReduce(more) : more, body, after);
  b_.SetInsertPoint(body);
  Value* e = b_.CreateSub(exponent(a), eb);
  Value* n = b_.CreateSelect(b_.CreateICmpSGT(e, bits(52)), b_.CreateSub(e, bits(50)), bits(0));
  Value* half = b_.CreateLShr(n, 1);
  auto power = [&](Value* k) { return b_.CreateBitCast(b_.CreateShl(b_.CreateAdd(k, bits(1023)), 52), f64); };
  Value* t = b_.CreateFMul(b_.CreateFMul(b, power(half)), power(b_.CreateSub(n, half)));
  Value* q = b_.CreateUnaryIntrinsic(llvm::Intrinsic::trunc, b_.CreateFDiv(a, t));
  Value* r = b_.CreateIntrinsic(llvm::Intrinsic::fma, {f64}, {b_.CreateFNeg(q), t, a});
  r = b_.CreateSelect(b_.CreateFCmpOLT(r, number(0)), b_.CreateFAdd(r, t), r);
  a->addIncoming(b_.CreateSelect(more, r, a), body);
  b_.CreateBr(header);
  b_.SetInsertPoint(after);
  Value* result = b_.CreateBinaryIntrinsic(llvm::Intrinsic::copysign, a, x);
  result = b_.CreateSelect(valid, result, llvm::ConstantFP::getNaN(f64));
  return narrower ? b_.CreateFPTrunc(result, x0->getType()) : result;
}

Value* Arith::int_binary(Op op, DType t, Value* x, Value* y) {
  bool s = is_signed_int(t);
  auto intrinsic = [&](ID id) { return b_.CreateBinaryIntrinsic(id, x, y); };
  switch (op) {
    case Op::add: return b_.CreateAdd(x, y);
    case Op::sub: return b_.CreateSub(x, y);
    case Op::mul: return b_.CreateMul(x, y);
    case Op::div: return div_rem(false, t, x, y);
    case Op::rem: return div_rem(true, t, x, y);
    case Op::min: return intrinsic(s ? llvm::Intrinsic::smin : llvm::Intrinsic::umin);
    case Op::max: return intrinsic(s ? llvm::Intrinsic::smax : llvm::Intrinsic::umax);
    case Op::and_: return b_.CreateAnd(x, y);
    case Op::or_: return b_.CreateOr(x, y);
    case Op::xor_: return b_.CreateXor(x, y);
    case Op::shl:
    case Op::shr: return shift(op, t, x, y);
    case Op::mulhi: return mulhi(x, y);
    default: AG_CHECK(false, "not a statement on integers");
  }
  return x;
}

// x86 traps on a division by zero and on INT_MIN / -1; the divisor is made harmless first.
Value* Arith::div_rem(bool rem, DType t, Value* x, Value* y) {
  bool s = is_signed_int(t);
  auto plain = [&](Value* d) {
    if (rem) return s ? b_.CreateSRem(x, d) : b_.CreateURem(x, d);
    return s ? b_.CreateSDiv(x, d) : b_.CreateUDiv(x, d);
  };
  bool vector = x->getType()->isVectorTy();
  auto* c = constant_of_lanes(y);
  if (c && !c->isZero() && !c->isMinusOne()) {
    const llvm::APInt& d = c->getValue();
    bool wide = d.getBitWidth() == 64 && target_.kind == TargetSpec::Kind::cpu;
    if (!wide || !s || d.isOne() || (vector && d.isPowerOf2()) || d.isNegatedPowerOf2()) return plain(y);
    Value* q = d.isPowerOf2() ? divide_by_power(x, d.logBase2()) : divide_by_constant(x, d);
    return rem ? b_.CreateSub(x, b_.CreateMul(q, y)) : q;
  }
  Value* zero = b_.CreateICmpEQ(y, int_like(y, 0));
  Value* harmful = zero;
  unsigned bits = x->getType()->getScalarSizeInBits();
  if (s) {
    Value* least = b_.CreateICmpEQ(x, int_like(x, std::uint64_t{1} << (bits - 1)));
    harmful = b_.CreateOr(zero, b_.CreateAnd(least, b_.CreateICmpEQ(y, int_like(y, ~std::uint64_t{0}))));
  }
  Value* safe = b_.CreateSelect(harmful, int_like(y, 1), y);
  if (vector && bits <= 32 && target_.kind == TargetSpec::Kind::cpu) {
    Value* r = div_rem_by_float(rem, t, x, safe);
    return b_.CreateSelect(zero, rem ? x : int_like(x, 0), r);
  }
  return b_.CreateSelect(zero, rem ? x : int_like(x, 0), plain(safe));
}

// A shift, after 2^n - 1 is added to what is negative.
Value* Arith::divide_by_power(Value* x, unsigned n) {
  Value* negative = b_.CreateLShr(b_.CreateAShr(x, 63), 64 - n);
  return b_.CreateAShr(b_.CreateAdd(x, negative), n);
}

// LLVM takes vectors of 64-bit integers apart for this, and divides indices where its combiner is off. Hacker's
// Delight, 10-3: the high half of a product, shifted; the high half of a signed product is the unsigned one less the
// other factor where one is negative.
Value* Arith::divide_by_constant(Value* x, const llvm::APInt& d) {
  const auto magic = llvm::SignedDivisionByConstantInfo::get(d);
  const bool vector = x->getType()->isVectorTy();
  Value *m = llvm::ConstantInt::get(x->getType(), magic.Magic), *q = nullptr;
  if (vector) {
    q = b_.CreateSub(mulhi(x, m), b_.CreateAnd(b_.CreateAShr(x, 63), m));
  } else {
    Type* twice = b_.getInt128Ty();
    q = b_.CreateMul(b_.CreateSExt(x, twice), llvm::ConstantInt::get(twice, magic.Magic.sext(128)));
    q = b_.CreateTrunc(b_.CreateAShr(q, 64), x->getType());
  }
  // Less x where the factor is negative; plus x, less x where its sign is not the divisor's.
  const int more = (d.isStrictlyPositive() && magic.Magic.isNegative()) -
                   (d.isNegative() && magic.Magic.isStrictlyPositive()) - (vector && magic.Magic.isNegative());
  if (more > 0) q = b_.CreateAdd(q, x);
  if (more < 0) q = b_.CreateSub(q, x);
  q = b_.CreateAShr(q, magic.ShiftAmount);
  return b_.CreateAdd(q, b_.CreateLShr(q, 63));
}

// Vectors have no integer division. The quotient of two n-bit integers in a float of at least 2n+1 bits, or of
// n < 24 (53) bits, truncates to the true one: it is never rounded up to an integer it does not reach, as the distance
// to the next integer is at least 1/y, more than half an ulp.
Value* Arith::div_rem_by_float(bool rem, DType t, Value* x, Value* y) {
  bool s = is_signed_int(t);
  bool small = x->getType()->getScalarSizeInBits() <= 16;
  Type* fp = with_shape(small ? b_.getFloatTy() : b_.getDoubleTy(), x);
  auto to = [&](Value* v) { return s ? b_.CreateSIToFP(v, fp) : b_.CreateUIToFP(v, fp); };
  Value* q = b_.CreateFDiv(to(x), to(y));
  q = s ? b_.CreateFPToSI(q, x->getType()) : b_.CreateFPToUI(q, x->getType());
  return rem ? b_.CreateSub(x, b_.CreateMul(q, y)) : q;
}

Value* Arith::shift(Op op, DType t, Value* x, Value* count) {
  unsigned bits = x->getType()->getScalarSizeInBits();
  if (op == Op::shr && is_signed_int(t)) {
    Value* clamped = b_.CreateBinaryIntrinsic(llvm::Intrinsic::umin, count, int_like(count, bits - 1));
    return b_.CreateAShr(x, clamped);
  }
  Value* inside = b_.CreateICmpULT(count, int_like(count, bits));
  // The count is made valid before the shift, so that no poison is computed.
  Value* valid = b_.CreateAnd(count, int_like(count, bits - 1));
  Value* shifted = op == Op::shl ? b_.CreateShl(x, valid) : b_.CreateLShr(x, valid);
  return b_.CreateSelect(inside, shifted, int_like(x, 0));
}

// x * 2^k as (x * 2^(k - a)) * 2^a with a = k clamped to the normal exponents. Rounded once: the first product is
// exact, or the result is 0 or infinite anyway.
Value* Arith::ldexp(DType t, Value* x, Value* k) {
  bool f64 = t == DType::f64;
  if (fills_zmm(x)) return scale(x, b_.CreateSIToFP(k, x->getType()));
  std::int64_t bias = f64 ? 1023 : 127, mantissa = f64 ? 52 : 23;
  auto clamp = [&](Value* v) {
    Value* low = b_.CreateBinaryIntrinsic(llvm::Intrinsic::smax, v, int_like(v, static_cast<std::uint64_t>(1 - bias)));
    return b_.CreateBinaryIntrinsic(llvm::Intrinsic::smin, low, int_like(v, static_cast<std::uint64_t>(bias)));
  };
  auto power = [&](Value* e) {
    Value* biased = b_.CreateAdd(e, int_like(e, static_cast<std::uint64_t>(bias)));
    return b_.CreateBitCast(b_.CreateShl(biased, static_cast<std::uint64_t>(mantissa)), x->getType());
  };
  Value* a = clamp(k);
  Value* rest = clamp(b_.CreateSub(k, a));
  return b_.CreateFMul(b_.CreateFMul(x, power(rest)), power(a));
}

Value* Arith::mulhi(Value* x, Value* y) {
  unsigned bits = x->getType()->getScalarSizeInBits();
  if (bits == 64 && x->getType()->isVectorTy()) {  // from products of halves: there is no wider vector product
    Value* low = int_like(x, 0xffffffff);
    auto half = [&](Value* v, bool high) { return high ? b_.CreateLShr(v, 32) : b_.CreateAnd(v, low); };
    auto product_of = [&](bool hx, bool hy) { return b_.CreateMul(half(x, hx), half(y, hy)); };
    Value* t = b_.CreateAdd(product_of(true, false), half(product_of(false, false), true));
    Value* u = b_.CreateAdd(product_of(false, true), half(t, false));
    return b_.CreateAdd(b_.CreateAdd(product_of(true, true), half(t, true)), half(u, true));
  }
  Type* wide = with_shape(b_.getIntNTy(2 * bits), x);
  Value* product = b_.CreateMul(b_.CreateZExt(x, wide), b_.CreateZExt(y, wide));
  return b_.CreateTrunc(b_.CreateLShr(product, bits), x->getType());
}

Value* Arith::compare(Op op, DType t, Value* x, Value* y) {
  using P = llvm::CmpInst::Predicate;
  if (is_float(t)) {
    if (is_half(t)) x = widen(t, x), y = widen(t, y);
    P p = op == Op::cmp_eq   ? P::FCMP_OEQ
          : op == Op::cmp_ne ? P::FCMP_UNE
          : op == Op::cmp_lt ? P::FCMP_OLT
          : op == Op::cmp_le ? P::FCMP_OLE
          : op == Op::cmp_gt ? P::FCMP_OGT
                             : P::FCMP_OGE;
    return b_.CreateFCmp(p, x, y);
  }
  bool s = is_signed_int(t);
  P p = op == Op::cmp_eq   ? P::ICMP_EQ
        : op == Op::cmp_ne ? P::ICMP_NE
        : op == Op::cmp_lt ? (s ? P::ICMP_SLT : P::ICMP_ULT)
        : op == Op::cmp_le ? (s ? P::ICMP_SLE : P::ICMP_ULE)
        : op == Op::cmp_gt ? (s ? P::ICMP_SGT : P::ICMP_UGT)
                           : (s ? P::ICMP_SGE : P::ICMP_UGE);
  return b_.CreateICmp(p, x, y);
}

Value* Arith::fma(DType t, Value* x, Value* y, Value* z) {
  if (!is_float(t)) return b_.CreateAdd(b_.CreateMul(x, y), z);
  if (is_half(t)) return narrow(t, fma(DType::f32, widen(t, x), widen(t, y), widen(t, z)));
  return b_.CreateIntrinsic(llvm::Intrinsic::fma, {x->getType()}, {x, y, z});
}

Value* Arith::cast(DType from, DType to, Value* v) {
  if (from == to) return v;
  if (is_half(from)) return cast(DType::f32, to, widen(from, v));
  Type* type = with_shape(reg_type(to), v);
  if (from == DType::boolean && (to == DType::f32 || to == DType::i32))  // what LLVM would make of it in more steps
    return b_.CreateSelect(v, to == DType::f32 ? llvm::ConstantFP::get(type, 1.0) : llvm::ConstantInt::get(type, 1),
                           llvm::Constant::getNullValue(type));
  if (to == DType::boolean)
    return is_float(from) ? b_.CreateFCmpUNE(v, llvm::Constant::getNullValue(v->getType()))
                          : b_.CreateICmpNE(v, llvm::Constant::getNullValue(v->getType()));
  if (is_float(to)) return cast_to_float(from, to, v);
  if (is_float(from)) {
    ID id = is_signed_int(to) ? llvm::Intrinsic::fptosi_sat : llvm::Intrinsic::fptoui_sat;
    return b_.CreateIntrinsic(id, {type, v->getType()}, {v});
  }
  return is_signed_int(from) ? b_.CreateSExtOrTrunc(v, type) : b_.CreateZExtOrTrunc(v, type);
}

Value* Arith::cast_to_float(DType from, DType to, Value* v) {
  Type* f32 = with_shape(b_.getFloatTy(), v);
  Type* f64 = with_shape(b_.getDoubleTy(), v);
  auto from_int = [&](Value* x, Type* type) {
    return is_signed_int(from) ? b_.CreateSIToFP(x, type) : b_.CreateUIToFP(x, type);
  };
  if (to == DType::f64) return is_float(from) ? b_.CreateFPExt(v, f64) : from_int(v, f64);
  if (to == DType::f32) return is_float(from) ? b_.CreateFPTrunc(v, f32) : from_int(v, f32);
  if (from == DType::f32) return narrow(to, v);
  if (from == DType::f64) return narrow(to, round_to_odd(v));
  if (dtype_bytes(from) <= 2) return narrow(to, from_int(v, f32));  // exact in f32
  if (dtype_bytes(from) == 8) {
    // Above 2^53 the low 11 bits become one sticky bit, so that the way through f64 rounds once.
    Value* low = b_.CreateAnd(v, int_like(v, 0x7ff));
    Value* sticky = b_.CreateSelect(b_.CreateICmpNE(low, int_like(v, 0)), int_like(v, 0x800), int_like(v, 0));
    Value* odd = b_.CreateOr(b_.CreateAnd(v, int_like(v, ~std::uint64_t{0x7ff})), sticky);
    Value* magnitude = is_signed_int(from) ? b_.CreateBinaryIntrinsic(llvm::Intrinsic::abs, v, b_.getFalse()) : v;
    Value* large = b_.CreateICmpUGE(magnitude, int_like(v, std::uint64_t{1} << 53));
    v = b_.CreateSelect(large, odd, v);
  }
  return narrow(to, round_to_odd(from_int(v, f64)));
}

Value* Arith::bitcast(DType from, DType to, Value* v) {
  if (from == DType::boolean && to != from) v = b_.CreateZExt(v, with_shape(b_.getInt8Ty(), v));
  if (to == DType::boolean && to != from) return b_.CreateICmpNE(v, llvm::Constant::getNullValue(v->getType()));
  return b_.CreateBitCast(v, with_shape(reg_type(to), v));
}

}  // namespace ag::codegen

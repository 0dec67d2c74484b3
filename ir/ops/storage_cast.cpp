// Storage types are taken apart and put together with integer arithmetic on the bits of an f32.
#include "ir/ops/storage_cast.hpp"

#include <bit>
#include <cmath>

namespace ag::ops {
namespace {

using L = loop::Op;
using LV = loop::ValueId;

/// Arithmetic on u32 tiles.
struct Bits {
  loop::Builder& b;
  LV u32(std::uint32_t v) const { return b.constant_int(DType::u32, v); }
  LV f32(double v) const { return b.constant(DType::f32, v); }
  LV op(L o, LV x, std::uint32_t v) const { return b.op(o, {x, u32(v)}); }
  LV bits(LV x) const { return b.bitcast(x, DType::u32); }
  LV real(LV u) const { return b.bitcast(u, DType::f32); }
};

/// The value of a storage float's byte, as f32.
LV decode(const Bits& k, LV byte, DType t) {
  loop::Builder& b = k.b;
  LV u = b.cast(byte, DType::u32), nan = k.f32(NAN);
  if (t == DType::f8e8m0) {  // 2^-127 is an f32 without its leading bit
    LV power = b.select(k.op(L::cmp_eq, u, 0), k.u32(0x00400000), k.op(L::shl, u, 23));
    return b.select(k.op(L::cmp_eq, u, 0xff), nan, k.real(power));
  }
  const SmallFloat& f = *small_float(t);
  LV magnitude = k.op(L::and_, u, static_cast<std::uint32_t>(f.sign() - 1));
  LV sign =
      k.op(L::shl, k.op(L::and_, u, static_cast<std::uint32_t>(f.sign())), static_cast<std::uint32_t>(32 - f.bits));
  // The bits where an f32 has them, times what the biases differ by: exact, for subnormals too.
  LV value = b.mul(k.real(k.op(L::shl, magnitude, static_cast<std::uint32_t>(23 - f.mantissa))),
                   k.f32(std::ldexp(1.0, 127 - f.bias)));
  if (f.infinity >= 0)
    value = b.select(k.op(L::cmp_eq, magnitude, static_cast<std::uint32_t>(f.infinity)), k.f32(INFINITY), value);
  value = k.real(b.op(L::or_, {k.bits(value), sign}));
  if (!f.negative_zero) return b.select(k.op(L::cmp_eq, u, static_cast<std::uint32_t>(f.nan)), nan, value);
  if (f.nan < 0) return value;
  auto last = static_cast<std::uint32_t>(f.infinity >= 0 ? f.infinity : f.largest);
  return b.select(k.op(L::cmp_gt, magnitude, last), nan, value);
}

/// As f32, rounded to odd where it does not fit, so that one more rounding is as if there were one.
LV to_f32(const Bits& k, LV x) {
  loop::Builder& b = k.b;
  DType t = b.type(x).elem;
  bool fits = t == DType::f32 || t == DType::f16 || t == DType::bf16 || t == DType::boolean || dtype_bytes(t) <= 2;
  if (fits) return b.cast(x, DType::f32);
  if (t != DType::f64) x = b.cast(x, DType::f64);
  LV near = b.cast(x, DType::f32), back = b.cast(near, DType::f64), u = k.bits(near);
  LV over = b.op(L::cmp_gt, {b.op(L::abs, {back}), b.op(L::abs, {x})});
  LV odd = k.op(L::or_, b.select(over, k.op(L::sub, u, 1), u), 1);
  // A NaN differs from itself and stays one.
  return k.real(b.select(b.op(L::cmp_ne, {back, x}), odd, u));
}

LV encode_scale(const Bits& k, LV x, bool saturate, ScaleRounding rounding) {
  loop::Builder& b = k.b;
  LV a = k.op(L::and_, k.bits(x), 0x7fffffff), e = k.op(L::shr, a, 23), fraction = k.op(L::and_, a, 0x7fffff), code = e;
  auto one_if = [&](LV c) { return b.cast(c, DType::u32); };
  if (rounding == ScaleRounding::up) code = b.add(e, one_if(k.op(L::cmp_ne, fraction, 0)));
  if (rounding == ScaleRounding::nearest) {
    LV half = b.op(L::and_, {k.op(L::cmp_eq, fraction, 0x400000), k.op(L::cmp_ne, e, 0)});
    code = b.add(e, one_if(b.op(L::or_, {k.op(L::cmp_gt, fraction, 0x400000), half})));
  }
  if (saturate) code = b.op(L::min, {code, k.u32(0xfe)});
  code = b.op(L::min, {code, k.u32(0xff)});
  return b.cast(b.select(b.op(L::cmp_ne, {x, x}), k.u32(0xff), code), DType::u8);
}

LV encode(const Bits& k, LV x, DType t, bool saturate, ScaleRounding rounding) {
  loop::Builder& b = k.b;
  if (t == DType::f8e8m0) return encode_scale(k, x, saturate, rounding);
  const SmallFloat& f = *small_float(t);
  auto drop = static_cast<std::uint32_t>(23 - f.mantissa);
  LV u = k.bits(x), a = k.op(L::and_, u, 0x7fffffff), value = k.real(a);
  LV sign = k.op(L::shl, k.op(L::shr, u, 31), static_cast<std::uint32_t>(f.bits - 1));
  // Subnormals count units; others round at the last bit kept, and a carry goes into the exponent.
  LV units = b.op(L::round_even, {b.mul(value, k.f32(std::ldexp(1.0, f.bias + f.mantissa - 1)))});
  LV small = b.cast(units, DType::u32);
  LV even = k.op(L::and_, k.op(L::shr, a, drop), 1);
  LV rounded = k.op(L::shr, b.add(k.op(L::add, a, (1u << (drop - 1)) - 1), even), drop);
  LV large = k.op(L::sub, rounded, static_cast<std::uint32_t>((127 - f.bias) << f.mantissa));
  LV below = b.op(L::cmp_lt, {value, k.f32(std::ldexp(1.0, 1 - f.bias))});
  LV code = b.select(below, small, large);
  int beyond = saturate || f.nan < 0 ? f.largest : f.infinity >= 0 ? f.infinity : f.nan;
  code = b.select(k.op(L::cmp_gt, code, static_cast<std::uint32_t>(f.largest)),
                  k.u32(static_cast<std::uint32_t>(beyond)), code);
  code = b.select(b.op(L::cmp_ne, {x, x}), k.u32(static_cast<std::uint32_t>(std::max(f.nan, 0))), code);
  LV with_sign = b.op(L::or_, {code, sign});
  if (!f.negative_zero) with_sign = b.select(k.op(L::cmp_eq, code, 0), code, with_sign);
  if (f.nan < 0) with_sign = b.select(b.op(L::cmp_ne, {x, x}), k.u32(0), with_sign);
  return b.cast(with_sign, DType::u8);
}

/// The low bits of a byte as an i32.
LV low_bits(const Bits& k, LV u, DType t) {
  auto free = static_cast<std::uint32_t>(32 - storage_int_bits(t));
  LV top = k.op(L::shl, u, free);
  if (!is_signed_storage(t)) return k.b.bitcast(k.op(L::shr, top, free), DType::i32);
  return k.b.op(L::shr, {k.b.bitcast(top, DType::i32), k.b.constant_int(DType::i32, free)});
}

}  // namespace

LV cast_any(loop::Builder& b, LV x, DType from, DType to, bool saturate, ScaleRounding rounding) {
  if (from == to) return x;
  Bits k{b};
  if (is_storage_float(from))
    x = decode(k, x, from);
  else if (is_storage(from))
    x = low_bits(k, b.cast(x, DType::u32), from);
  if (!is_storage(to)) return b.cast(x, to);
  if (is_storage_float(to)) return encode(k, to_f32(k, x), to, saturate, rounding);
  LV low = low_bits(k, b.bitcast(b.cast(x, DType::i32), DType::u32), to);
  return b.cast(low, DType::u8);
}

}  // namespace ag::ops

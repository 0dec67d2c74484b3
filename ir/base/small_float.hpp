// Storage types as values: floats of 8 and 4 bits, integers of 4 and 2 bits, one element a byte. A signed integer is
// sign-extended in its byte; all other codes stand in the low bits. Formats and conversions are ONNX's.
#pragma once
#include <cstdint>

#include "ir/base/dtype.hpp"

namespace ag {

/// A float of sign, exponent and mantissa: (-1)^s 2^(e - bias) 1.m, or 2^(1 - bias) 0.m where e is 0.
struct SmallFloat {
  int bits;                ///< in all
  int mantissa;            ///< bits of m
  int bias;
  int largest;             ///< code of the largest finite magnitude
  int infinity;            ///< its code; -1 if there is none
  int nan;                 ///< a NaN's code without the sign; -1 if there is none
  bool negative_zero;      ///< else the code of -0 is the only NaN
  constexpr int sign() const { return 1 << (bits - 1); }
};

/// f8e4m3fn, f8e4m3fnuz, f8e5m2, f8e5m2fnuz, f4e2m1.
inline constexpr SmallFloat small_floats[] = {{8, 3, 7, 0x7e, -1, 0x7f, true},
                                              {8, 3, 8, 0x7f, -1, 0x80, false},
                                              {8, 2, 15, 0x7b, 0x7c, 0x7e, true},
                                              {8, 2, 16, 0x7f, -1, 0x80, false},
                                              {4, 1, 1, 7, -1, -1, true}};
/// The format of t; null for f8e8m0, which is a power of two alone, and for what is no storage float.
constexpr const SmallFloat* small_float(DType t) {
  if (t == DType::f4e2m1) return &small_floats[4];
  if (t < DType::f8e4m3fn || t > DType::f8e5m2fnuz) return nullptr;
  return &small_floats[static_cast<int>(t) - static_cast<int>(DType::f8e4m3fn)];
}
constexpr bool is_storage_float(DType t) { return t >= DType::f8e4m3fn && t <= DType::f4e2m1; }
/// Of i4, u4, i2, u2.
constexpr int storage_int_bits(DType t) { return t == DType::i4 || t == DType::u4 ? 4 : 2; }
constexpr bool is_signed_storage(DType t) { return t == DType::i4 || t == DType::i2; }

/// How a value between two powers of two becomes an f8e8m0.
enum class ScaleRounding : std::uint8_t { up, down, nearest };

/// The type in which kernels hold elements of t.
constexpr DType element_dtype(DType t) { return is_storage(t) ? DType::u8 : t; }

/// The value of a storage float.
double decode_float(DType t, std::uint8_t code);
/// Rounded once, to nearest even. What is too large becomes the largest value if it saturates, else infinity or NaN.
std::uint8_t encode_float(DType t, double v, bool saturate = true, ScaleRounding rounding = ScaleRounding::up);
/// The value of a storage integer.
std::int64_t decode_int(DType t, std::uint8_t code);
/// The low bits.
std::uint8_t encode_int(DType t, std::int64_t v);

}  // namespace ag

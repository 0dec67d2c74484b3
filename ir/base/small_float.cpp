#include "ir/base/small_float.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ag {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// 2^(code - 127); 255 is a NaN. Signs are ignored, and as in ONNX's definition values below 2^-126 count as 2^-127.
std::uint8_t encode_scale(double v, bool saturate, ScaleRounding rounding) {
  if (v != v) return 0xff;
  double a = std::abs(v);
  if (a == 0) return 0;
  if (std::isinf(a)) return saturate ? 0xfe : 0xff;
  a = std::min(a, std::nextafter(0x1p128, 0.0));  // beyond f32, as the largest that is below its infinity
  bool small = std::ilogb(a) < -126;
  int e = small ? 0 : std::ilogb(a) + 127;
  double fraction = small ? std::ldexp(a, 126) : std::ldexp(a, 127 - e) - 1;
  bool more = rounding == ScaleRounding::up
                  ? fraction > 0
                  : rounding == ScaleRounding::nearest && (fraction > 0.5 || (fraction == 0.5 && e > 0));
  int code = e + more;
  return static_cast<std::uint8_t>(saturate ? std::min(code, 0xfe) : code);
}

}  // namespace

double decode_float(DType t, std::uint8_t code) {
  if (t == DType::f8e8m0) return code == 0xff ? nan : std::ldexp(1.0, code - 127);
  const SmallFloat& f = *small_float(t);
  int magnitude = code & (f.sign() - 1), exponent = magnitude >> f.mantissa;
  int mantissa = magnitude & ((1 << f.mantissa) - 1);
  bool negative = code & f.sign();
  if (!f.negative_zero && magnitude == 0 && negative) return nan;
  if (magnitude > f.largest) return magnitude == f.infinity ? (negative ? -INFINITY : INFINITY) : nan;
  double a = exponent ? std::ldexp((1 << f.mantissa) + mantissa, exponent - f.bias - f.mantissa)
                      : std::ldexp(mantissa, 1 - f.bias - f.mantissa);
  return negative ? -a : a;
}

std::uint8_t encode_float(DType t, double v, bool saturate, ScaleRounding rounding) {
  if (t == DType::f8e8m0) return encode_scale(v, saturate, rounding);
  const SmallFloat& f = *small_float(t);
  int sign = std::signbit(v) ? f.sign() : 0;
  if (v != v) return static_cast<std::uint8_t>(f.nan < 0 ? 0 : f.nan | sign);
  double a = std::abs(v);
  int code = f.largest + 1;
  if (!std::isinf(a)) {
    int least = 1 - f.bias, exponent = a == 0 ? least : std::max(std::ilogb(a), least);
    if (exponent <= 127) {
      int units = static_cast<int>(std::rint(std::ldexp(a, f.mantissa - exponent)));
      code = ((exponent + f.bias) << f.mantissa) + units - (1 << f.mantissa);
    }
  }
  if (code > f.largest) code = saturate || f.nan < 0 ? f.largest : f.infinity >= 0 ? f.infinity : f.nan;
  if (code == 0 && !f.negative_zero) sign = 0;
  return static_cast<std::uint8_t>(code | sign);
}

std::int64_t decode_int(DType t, std::uint8_t code) {
  int bits = storage_int_bits(t), v = code & ((1 << bits) - 1);
  return is_signed_storage(t) && v >> (bits - 1) ? v - (1 << bits) : v;
}

std::uint8_t encode_int(DType t, std::int64_t v) {
  return static_cast<std::uint8_t>(decode_int(t, static_cast<std::uint8_t>(v & 0xf)));
}

}  // namespace ag

// C++ types of elements, and conversions between them as `cast` does.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "ir/base/dtype.hpp"
#include "ir/base/half.hpp"

namespace ag::loop {

/// A bool element: one byte, 0 or 1 (a C++ bool of another bit pattern would be undefined).
struct Bool8 {
  std::uint8_t v = 0;
};

template <class T>
inline constexpr bool is_half_v = std::is_same_v<T, f16> || std::is_same_v<T, bf16>;
template <class T>
inline constexpr bool is_float_v = std::is_floating_point_v<T> || is_half_v<T>;

/// The type in which a statement on T computes.
template <class T>
using Compute = std::conditional_t<is_half_v<T>, float, std::conditional_t<std::is_same_v<T, Bool8>, std::uint8_t, T>>;

template <class T>
Compute<T> to_compute(T x) {
  if constexpr (std::is_same_v<T, Bool8>)
    return x.v;
  else
    return static_cast<Compute<T>>(x);
}
/// Rounds once from the compute type.
template <class T>
T from_compute(Compute<T> x) {
  if constexpr (std::is_same_v<T, Bool8>)
    return Bool8{x};
  else
    return static_cast<T>(x);
}

/// Truncates and saturates; NaN gives 0.
template <class I, class F>
I float_to_int(F x) {
  using L = std::numeric_limits<I>;
  if (x != x) return 0;
  // 2^digits is a power of two, hence exact in F; every x at or above it saturates.
  const F above = std::ldexp(F(1), L::digits);
  if (x >= above) return L::max();
  if constexpr (std::is_signed_v<I>) {
    if (x < -above) return L::min();
  } else {
    if (x <= F(-1)) return 0;
  }
  return static_cast<I>(x);
}

/// An integer as a double rounded to odd, so that one more rounding (to bf16 or f16) is as if there were one.
template <class I>
double int_to_double_odd(I x) {
  double d = static_cast<double>(x);
  if constexpr (sizeof(I) == 8) {
    __int128 back = static_cast<__int128>(d), exact = static_cast<__int128>(x);
    if (back != exact) {
      auto u = std::bit_cast<std::uint64_t>(d);
      if (back < 0 ? back < exact : back > exact) --u;  // overshot: step towards zero
      d = std::bit_cast<double>(u | 1);
    }
  }
  return d;
}

template <class To, class From>
To convert(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_same_v<To, Bool8>)
    return Bool8{static_cast<std::uint8_t>(to_compute(x) != 0)};
  else if constexpr (std::is_same_v<From, Bool8>)
    return convert<To>(x.v);
  else if constexpr (is_float_v<From>) {
    if constexpr (std::is_integral_v<To>)
      return float_to_int<To>(to_compute(x));
    else
      return static_cast<To>(to_compute(x));
  } else {
    if constexpr (is_half_v<To>)
      return static_cast<To>(int_to_double_odd(x));
    else
      return static_cast<To>(x);
  }
}

/// Calls f with a value-initialised element of type `t`: f(float{}), ...
template <class F>
auto with_element(DType t, F&& f) {
  switch (t) {
    case DType::f64: return f(double{});
    case DType::f32: return f(float{});
    case DType::f16: return f(f16{});
    case DType::bf16: return f(bf16{});
    case DType::i64: return f(std::int64_t{});
    case DType::i32: return f(std::int32_t{});
    case DType::i16: return f(std::int16_t{});
    case DType::i8: return f(std::int8_t{});
    case DType::u64: return f(std::uint64_t{});
    case DType::u32: return f(std::uint32_t{});
    case DType::u16: return f(std::uint16_t{});
    case DType::u8: return f(std::uint8_t{});
    default: break;  // bool and storage types: bytes
  }
  return f(Bool8{});
}

}  // namespace ag::loop

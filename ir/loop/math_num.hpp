// Numbers with the operations of the loop IR and nothing else: the scalar side of math.hpp. What an operator does
// here is, bit for bit, what the statement of the same name does (kernel.hpp has the table). The pass expand_math
// has a type with the same operations that emits those statements instead.
#pragma once
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace ag::loop::math {

template <class T>
struct Num {
  T v{};
  Num() = default;
  /// Literals become constants of the type.
  template <class U>
    requires std::is_arithmetic_v<U>
  Num(U x) : v(static_cast<T>(x)) {}

  static constexpr bool is_float = std::is_floating_point_v<T>;
  using Bits = std::conditional_t<std::is_same_v<T, bool>, bool,
                                  std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>>;
  using Int = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;
  using Flag = Num<bool>;
  static Bits u(Num a) { return static_cast<Bits>(a.v); }  // integers only: wrapping arithmetic

  friend Num operator+(Num a, Num b) {
    if constexpr (is_float)
      return a.v + b.v;
    else
      return static_cast<T>(u(a) + u(b));
  }
  friend Num operator-(Num a, Num b) {
    if constexpr (is_float)
      return a.v - b.v;
    else
      return static_cast<T>(u(a) - u(b));
  }
  friend Num operator*(Num a, Num b) {
    if constexpr (is_float)
      return a.v * b.v;
    else
      return static_cast<T>(u(a) * u(b));
  }
  friend Num operator/(Num a, Num b)
    requires is_float
  {
    return a.v / b.v;
  }
  friend Num operator-(Num a)
    requires is_float
  {
    return -a.v;
  }
  friend Num operator&(Num a, Num b)
    requires(!is_float)
  {
    return static_cast<T>(a.v & b.v);
  }
  friend Num operator|(Num a, Num b)
    requires(!is_float)
  {
    return static_cast<T>(a.v | b.v);
  }
  /// Counts outside [0, bits) give 0.
  friend Num shl(Num a, Num n)
    requires(!is_float)
  {
    return Bits(n.v) < sizeof(T) * 8 ? static_cast<T>(u(a) << Bits(n.v)) : T(0);
  }
  /// Arithmetic for signed types, logical for unsigned ones.
  friend Num shr(Num a, Num n)
    requires(!is_float)
  {
    return Bits(n.v) < sizeof(T) * 8 ? static_cast<T>(a.v >> Bits(n.v)) : static_cast<T>(a.v < 0 ? -1 : 0);
  }
  friend Num mulhi(Num a, Num b)
    requires std::same_as<T, std::uint64_t>
  {
    return static_cast<T>((static_cast<unsigned __int128>(a.v) * b.v) >> 64);
  }

  friend Flag operator<(Num a, Num b) { return a.v < b.v; }
  friend Flag operator<=(Num a, Num b) { return a.v <= b.v; }
  friend Flag operator>(Num a, Num b) { return a.v > b.v; }
  friend Flag operator>=(Num a, Num b) { return a.v >= b.v; }
  friend Flag operator==(Num a, Num b) { return a.v == b.v; }
  friend Flag operator!=(Num a, Num b) { return a.v != b.v; }
  friend Flag operator!(Num a)
    requires std::same_as<T, bool>
  {
    return !a.v;
  }
  friend Num select(Flag c, Num a, Num b) { return c.v ? a : b; }
  /// A constant of the type of a value.
  template <class U>
  friend Num like(Num, U c) {
    return Num(c);
  }

  friend Num fma(Num a, Num b, Num c)
    requires is_float
  {
    return std::fma(a.v, b.v, c.v);
  }
  friend Num abs(Num a)
    requires is_float
  {
    return std::fabs(a.v);
  }
  friend Num sqrt(Num a)
    requires is_float
  {
    return std::sqrt(a.v);
  }
  friend Num floor(Num a)
    requires is_float
  {
    return std::floor(a.v);
  }
  friend Num copysign(Num a, Num b)
    requires is_float
  {
    return std::copysign(a.v, b.v);
  }
  /// x * 2^k, rounded once; x normal, |k| at most twice the exponent range.
  friend Num ldexp(Num a, Num<Int> k)
    requires is_float
  {
    constexpr Int top = sizeof(T) == 8 ? 1023 : 127, low = 1 - top;
    auto clamp = [](Int e) { return e < low ? low : e > top ? top : e; };
    auto power = [](Int e) { return std::bit_cast<T>(static_cast<Int>((e + top) << (sizeof(T) == 8 ? 52 : 23))); };
    Int first = clamp(k.v);
    return a.v * power(clamp(static_cast<Int>(Bits(k.v) - Bits(first)))) * power(first);
  }
  friend Num<Int> as_int(Num a)
    requires is_float
  {
    return std::bit_cast<Int>(a.v);
  }
};

inline Num<float> as_float(Num<std::int32_t> a) { return std::bit_cast<float>(a.v); }
inline Num<double> as_float(Num<std::int64_t> a) { return std::bit_cast<double>(a.v); }
inline Num<float> to_float(Num<std::int32_t> a) { return static_cast<float>(a.v); }
inline Num<double> to_float(Num<std::int64_t> a) { return static_cast<double>(a.v); }
inline Num<double> widen(Num<float> a) { return static_cast<double>(a.v); }
inline Num<float> narrow(Num<double> a) { return static_cast<float>(a.v); }
inline Num<std::int64_t> widen(Num<std::int32_t> a) { return static_cast<std::int64_t>(a.v); }
inline Num<std::uint64_t> as_unsigned(Num<std::int64_t> a) { return static_cast<std::uint64_t>(a.v); }
inline Num<std::int64_t> as_signed(Num<std::uint64_t> a) { return static_cast<std::int64_t>(a.v); }

/// What is seldom needed: slow(x) where `flag` is set; elsewhere any value, which the caller does not use. Emitted code
/// jumps over it unless an element of the tile has the flag. R has map(f): itself with f of each of its values.
template <class T, class R, class Slow>
R rarely(Num<bool> flag, Num<T> x, Slow slow, const R& otherwise) {
  return flag.v ? slow(x) : otherwise;
}

}  // namespace ag::loop::math

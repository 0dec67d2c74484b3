// 16-bit floats as values: conversions round to nearest even, once, from the wider type.
#pragma once
#include <bit>
#include <cstdint>

namespace ag {

using f16 = _Float16;

struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float x) {
    auto u = std::bit_cast<std::uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40u);  // a quiet NaN stays a NaN
    else
      bits = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  /// From f64: rounds to odd in f32 first, so that the second rounding is exact.
  explicit bf16(double x);
  operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

inline bf16::bf16(double x) {
  float f = static_cast<float>(x);
  if (static_cast<double>(f) != x && x == x) {
    auto u = std::bit_cast<std::uint32_t>(f);
    // Make f the round-to-odd value of x: step towards x if f overshot, then set the last bit.
    bool over = f > 0 || x > 0 ? static_cast<double>(f) > x : static_cast<double>(f) < x;
    if (over) --u;
    if ((u & 0x7f800000u) != 0x7f800000u) u |= 1u;
    f = std::bit_cast<float>(u);
  }
  *this = bf16(f);
}

}  // namespace ag

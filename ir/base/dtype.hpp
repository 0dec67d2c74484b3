// Element types.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace ag {

/// Those after `boolean` are storage types: they are converted, moved and stored (one byte an element in memory), but
/// not computed with.
enum class DType : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  f8e4m3fn,
  f8e4m3fnuz,
  f8e5m2,
  f8e5m2fnuz,
  f8e8m0,
  f4e2m1,
  i4,
  u4,
  i2,
  u2
};
inline constexpr int dtype_count = 13;          ///< types that are computed with
inline constexpr int dtype_count_stored = 23;   ///< and storage types

std::string_view dtype_name(DType t);  ///< "f32", "bool"
std::optional<DType> parse_dtype(std::string_view name);
/// Size of an element in bytes. A bool is one byte, 0 or 1.
constexpr std::size_t dtype_bytes(DType t) {
  constexpr std::size_t sizes[] = {8, 4, 2, 2, 8, 4, 2, 1, 8, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  return sizes[static_cast<int>(t)];
}
constexpr bool is_float(DType t) { return t <= DType::bf16; }
constexpr bool is_storage(DType t) { return t > DType::boolean; }
constexpr bool is_signed_int(DType t) { return t >= DType::i64 && t <= DType::i8; }
constexpr bool is_unsigned_int(DType t) { return t >= DType::u64 && t <= DType::u8; }
constexpr bool is_int(DType t) { return t >= DType::i64 && t <= DType::u8; }
/// The type in which reductions and contractions of `t` accumulate: f32 for f16 and bf16, else `t`.
constexpr DType accumulator_dtype(DType t) { return t == DType::f16 || t == DType::bf16 ? DType::f32 : t; }

}  // namespace ag

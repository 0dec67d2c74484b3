#include "ir/base/dtype.hpp"

#include <array>

namespace ag {

namespace {
constexpr std::array<std::string_view, dtype_count_stored> names = {
    "f64",  "f32",      "f16",        "bf16",   "i64",        "i32",    "i16",    "i8", "u64", "u32", "u16", "u8",
    "bool", "f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f8e8m0", "f4e2m1", "i4", "u4",  "i2",  "u2"};
}  // namespace

std::string_view dtype_name(DType t) { return names[static_cast<std::size_t>(t)]; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (int i = 0; i < dtype_count_stored; ++i)
    if (names[static_cast<std::size_t>(i)] == name) return static_cast<DType>(i);
  return std::nullopt;
}

}  // namespace ag

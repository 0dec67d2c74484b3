// Arrays in host memory: what constants hold, what the interpreter computes with, what files are read into.
#pragma once
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ir/base/diag.hpp"
#include "ir/base/dtype.hpp"
#include "ir/base/half.hpp"

namespace ag {

/// A dense, row-major array. Copies share the bytes; `mutable_bytes` copies them first if shared. The bytes are
/// 64-byte aligned. Shapes are concrete; the byte size has been checked against overflow.
class Array {
 public:
  Array() = default;
  /// Zero-filled. The caller has checked the size with byte_size().
  Array(DType dtype, std::vector<std::int64_t> shape);
  static Array from_bytes(DType dtype, std::vector<std::int64_t> shape, std::span<const std::byte> bytes);
  template <class T>
  static Array of(DType dtype, std::vector<std::int64_t> shape, std::span<const T> values);
  static Array scalar(DType dtype, double value);
  static Array ints(std::span<const std::int64_t> values);  ///< i64[n]

  DType dtype() const { return dtype_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::int64_t elems() const { return elems_; }
  std::size_t bytes_size() const { return static_cast<std::size_t>(elems_) * dtype_bytes(dtype_); }
  std::span<const std::byte> bytes() const { return {data_.get(), bytes_size()}; }
  std::span<std::byte> mutable_bytes();
  template <class T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(data_.get()), static_cast<std::size_t>(elems_)};
  }
  template <class T>
  std::span<T> as_mutable() {
    return {reinterpret_cast<T*>(mutable_bytes().data()), static_cast<std::size_t>(elems_)};
  }
  std::shared_ptr<const std::byte[]> shared_bytes() const { return data_; }

  double get_double(std::int64_t i) const;        ///< element i (flat) as f64
  std::int64_t get_int(std::int64_t i) const;     ///< element i (flat); floats truncate, saturating
  void set_double(std::int64_t i, double v);      ///< rounded to the dtype once
  void set_int(std::int64_t i, std::int64_t v);
  Array reshaped(std::vector<std::int64_t> shape) const;  ///< same bytes, same element count
  bool same_bits(const Array& other) const;       ///< dtype, shape and bytes

  /// Bytes of such an array; nullopt on overflow or a negative dim.
  static std::optional<std::size_t> byte_size(DType dtype, std::span<const std::int64_t> shape);

 private:
  DType dtype_ = DType::f32;
  std::vector<std::int64_t> shape_;
  std::int64_t elems_ = 0;
  std::shared_ptr<std::byte[]> data_;
};

/// Calls f.template operator()<T>() with the C++ type of the dtype (f16, bf16 as in half.hpp; bool as std::uint8_t).
template <class F>
decltype(auto) dispatch_dtype(DType t, F&& f) {
  switch (t) {
    case DType::f64: return f.template operator()<double>();
    case DType::f32: return f.template operator()<float>();
    case DType::f16: return f.template operator()<f16>();
    case DType::bf16: return f.template operator()<bf16>();
    case DType::i64: return f.template operator()<std::int64_t>();
    case DType::i32: return f.template operator()<std::int32_t>();
    case DType::i16: return f.template operator()<std::int16_t>();
    case DType::i8: return f.template operator()<std::int8_t>();
    case DType::u64: return f.template operator()<std::uint64_t>();
    case DType::u32: return f.template operator()<std::uint32_t>();
    case DType::u16: return f.template operator()<std::uint16_t>();
    case DType::u8: return f.template operator()<std::uint8_t>();
    default: break;  // bool and storage types: bytes
  }
  return f.template operator()<std::uint8_t>();
}

/// "[0, 4, 8]" nested like the shape, shortest round-trip numbers; more than `max` elements: norm, min, max.
std::string format_values(const Array& a, std::int64_t max = 1000);
/// Element i (flat): the shortest text that reads back to the same value; "nan", "-inf", "true".
std::string format_element(const Array& a, std::int64_t i);
std::string format_double(double v);

template <class T>
Array Array::of(DType dtype, std::vector<std::int64_t> shape, std::span<const T> values) {
  Array a(dtype, std::move(shape));
  for (std::int64_t i = 0; i < a.elems() && i < static_cast<std::int64_t>(values.size()); ++i) {
    if constexpr (std::is_floating_point_v<T>)
      a.set_double(i, static_cast<double>(values[i]));
    else
      a.set_int(i, static_cast<std::int64_t>(values[i]));
  }
  return a;
}

}  // namespace ag

#include "ir/array.hpp"

#include <sys/mman.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "ir/base/dim.hpp"
#include "ir/base/small_float.hpp"

namespace ag {
namespace {

constexpr std::align_val_t alignment{64};
/// Large arrays lie in huge pages: first touches and address translation cost a fraction.
constexpr std::size_t huge_page = std::size_t{2} << 20, large = 2 * huge_page;

/// Memory straight from the system: zero, given back when it is released, not touched before it is used.
std::shared_ptr<std::byte[]> allocate_pages(std::size_t bytes) {
  const std::size_t whole = (bytes + huge_page - 1) / huge_page * huge_page, mapped = whole + huge_page;
  void* at = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(at);
  const std::size_t skip = (huge_page - reinterpret_cast<std::uintptr_t>(begin) % huge_page) % huge_page;
  if (skip) munmap(begin, skip);
  if (skip < huge_page) munmap(begin + skip + whole, huge_page - skip);
  begin += skip;
  madvise(begin, whole, MADV_HUGEPAGE);  // a hint
  return {begin, [whole](std::byte* q) { munmap(q, whole); }};
}

std::shared_ptr<std::byte[]> allocate(std::size_t bytes, bool zero) {
  if (bytes >= large) return allocate_pages(bytes);
  auto* p = static_cast<std::byte*>(::operator new[](bytes ? bytes : 1, alignment));
  if (zero) std::memset(p, 0, bytes);
  return {p, [](std::byte* q) { ::operator delete[](q, alignment); }};
}

/// Truncates towards zero and saturates; NaN gives 0 (the semantics table of ir/loop/kernel.hpp).
template <class T>
T saturate(double v) {
  if (v != v) return 0;
  constexpr double low = static_cast<double>(std::numeric_limits<T>::min());
  // 2^bits, exact: the greatest value itself may not be a double.
  constexpr double past = 2.0 * static_cast<double>(std::numeric_limits<T>::max() / 2 + 1);
  if (v >= past) return std::numeric_limits<T>::max();
  if (v <= low) return std::numeric_limits<T>::min();
  return static_cast<T>(v);
}

/// An integer as a double that rounds to at most 51 bits just as the integer does: the bits that do not fit are
/// folded into the last one (rounding to odd).
double to_double_odd(std::int64_t v) {
  bool negative = v < 0;
  std::uint64_t u = negative ? 0 - static_cast<std::uint64_t>(v) : static_cast<std::uint64_t>(v);
  if (u >> 53) u = (u & ~std::uint64_t{0x7ff}) | ((u & 0x7ff) ? std::uint64_t{0x800} : 0);
  double d = static_cast<double>(u);
  return negative ? -d : d;
}

template <class T>
std::string shortest(T v) {
  char buffer[40];
  auto r = std::to_chars(buffer, buffer + sizeof buffer, v);
  return {buffer, r.ptr};
}

/// Fewest digits that read back as the same 16-bit float.
template <class T>
std::string shortest_16bit(T v) {
  char buffer[40];
  for (int digits = 1; digits < 9; ++digits) {
    auto r = std::to_chars(buffer, buffer + sizeof buffer, static_cast<double>(v), std::chars_format::general, digits);
    double back = 0;
    std::from_chars(buffer, r.ptr, back);
    T narrowed = static_cast<T>(back);
    if (std::memcmp(&narrowed, &v, sizeof v) == 0) return shortest(back);
  }
  return shortest(static_cast<double>(v));
}

}  // namespace

std::optional<std::size_t> Array::byte_size(DType dtype, std::span<const std::int64_t> shape) {
  std::int64_t n = static_cast<std::int64_t>(dtype_bytes(dtype));
  bool empty = false;
  for (std::int64_t d : shape) {
    if (d < 0) return std::nullopt;
    if (d == 0)
      empty = true;
    else if (auto m = checked_mul(n, d))
      n = *m;
    else
      return std::nullopt;
  }
  return empty ? 0 : static_cast<std::size_t>(n);
}

Array::Array(DType dtype, std::vector<std::int64_t> shape) : dtype_(dtype), shape_(std::move(shape)) {
  auto bytes = byte_size(dtype_, shape_);
  AG_CHECK(bytes.has_value(), "array size overflows");
  elems_ = static_cast<std::int64_t>(*bytes / dtype_bytes(dtype_));
  data_ = allocate(*bytes, true);
}

Array Array::from_bytes(DType dtype, std::vector<std::int64_t> shape, std::span<const std::byte> bytes) {
  Array a;
  a.dtype_ = dtype, a.shape_ = std::move(shape);
  AG_CHECK(byte_size(dtype, a.shape_) == bytes.size(), "array bytes do not fit its shape");
  a.elems_ = static_cast<std::int64_t>(bytes.size() / dtype_bytes(dtype));
  a.data_ = allocate(bytes.size(), false);
  if (!bytes.empty()) std::memcpy(a.data_.get(), bytes.data(), bytes.size());
  return a;
}

Array Array::scalar(DType dtype, double value) {
  Array a(dtype, {});
  a.set_double(0, value);
  return a;
}

Array Array::ints(std::span<const std::int64_t> values) {
  return from_bytes(DType::i64, {static_cast<std::int64_t>(values.size())}, std::as_bytes(values));
}

std::span<std::byte> Array::mutable_bytes() {
  if (data_ && data_.use_count() > 1) {
    auto copy = allocate(bytes_size(), false);
    std::memcpy(copy.get(), data_.get(), bytes_size());
    data_ = std::move(copy);
  }
  return {data_.get(), bytes_size()};
}

double Array::get_double(std::int64_t i) const {
  if (is_storage(dtype_)) {
    std::uint8_t code = as<std::uint8_t>()[static_cast<std::size_t>(i)];
    return is_storage_float(dtype_) ? decode_float(dtype_, code) : static_cast<double>(decode_int(dtype_, code));
  }
  return dispatch_dtype(dtype_, [&]<class T>() { return static_cast<double>(as<T>()[static_cast<std::size_t>(i)]); });
}

std::int64_t Array::get_int(std::int64_t i) const {
  if (is_float(dtype_) || is_storage(dtype_)) return saturate<std::int64_t>(get_double(i));
  return dispatch_dtype(dtype_,
                        [&]<class T>() { return static_cast<std::int64_t>(as<T>()[static_cast<std::size_t>(i)]); });
}

void Array::set_double(std::int64_t i, double v) {
  auto k = static_cast<std::size_t>(i);
  if (dtype_ == DType::boolean) {
    as_mutable<std::uint8_t>()[k] = v != 0;
    return;
  }
  if (is_storage(dtype_)) {
    as_mutable<std::uint8_t>()[k] = is_storage_float(dtype_) ? encode_float(dtype_, v, true, ScaleRounding::nearest)
                                                             : encode_int(dtype_, saturate<std::int32_t>(v));
    return;
  }
  dispatch_dtype(dtype_, [&]<class T>() {
    if constexpr (std::is_integral_v<T>)
      as_mutable<T>()[k] = saturate<T>(v);
    else
      as_mutable<T>()[k] = static_cast<T>(v);
  });
}

void Array::set_int(std::int64_t i, std::int64_t v) {
  auto k = static_cast<std::size_t>(i);
  switch (dtype_) {
    case DType::boolean: as_mutable<std::uint8_t>()[k] = v != 0; break;
    case DType::f64: as_mutable<double>()[k] = static_cast<double>(v); break;
    case DType::f32: as_mutable<float>()[k] = static_cast<float>(v); break;
    case DType::f16:
    case DType::bf16: set_double(i, to_double_odd(v)); break;
    default:
      if (is_storage_float(dtype_)) return set_double(i, to_double_odd(v));
      if (is_storage(dtype_)) {
        as_mutable<std::uint8_t>()[k] = encode_int(dtype_, v);
        return;
      }
      dispatch_dtype(dtype_, [&]<class T>() {
        if constexpr (std::is_integral_v<T>) as_mutable<T>()[k] = static_cast<T>(v);
      });
  }
}

Array Array::reshaped(std::vector<std::int64_t> shape) const {
  auto bytes = byte_size(dtype_, shape);
  AG_CHECK(bytes && *bytes == bytes_size(), "reshaped to another element count");
  Array a = *this;
  a.shape_ = std::move(shape);
  return a;
}

bool Array::same_bits(const Array& other) const {
  if (dtype_ != other.dtype_ || shape_ != other.shape_ || elems_ != other.elems_) return false;
  return data_ == other.data_ || elems_ == 0 || std::memcmp(data_.get(), other.data_.get(), bytes_size()) == 0;
}

std::string format_element(const Array& a, std::int64_t i) {
  auto k = static_cast<std::size_t>(i);
  if (a.dtype() == DType::boolean) return a.as<std::uint8_t>()[k] ? "true" : "false";
  if (is_float(a.dtype()) || is_storage_float(a.dtype())) {
    double v = a.get_double(i);
    if (v != v) return "nan";
    if (std::isinf(v)) return v < 0 ? "-inf" : "inf";
    if (is_storage_float(a.dtype())) return shortest(static_cast<float>(v));
  }
  if (is_storage(a.dtype())) return shortest(a.get_int(i));
  return dispatch_dtype(a.dtype(), [&]<class T>() {
    T v = a.as<T>()[k];
    if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>)
      return shortest_16bit(v);
    else
      return shortest(v);
  });
}

std::string format_double(double v) {
  if (v != v) return "nan";
  if (std::isinf(v)) return v < 0 ? "-inf" : "inf";
  return shortest(v);
}

std::string format_values(const Array& a, std::int64_t max) {
  if (a.elems() > max) {
    double sum = 0, low = a.get_double(0), high = low;
    for (std::int64_t i = 0; i < a.elems(); ++i) {
      double v = a.get_double(i);
      sum += v * v;
      if (v != v || v < low) low = v;  // a NaN stays
      if (v != v || v > high) high = v;
    }
    return "norm " + format_double(std::sqrt(sum)) + ", min " + format_double(low) + ", max " + format_double(high);
  }
  if (a.shape().empty()) return a.elems() ? format_element(a, 0) : "";
  // The brackets around element i: one opens for every trailing extent that divides i.
  if (a.elems() == 0) return std::string(a.shape().size(), '[') + std::string(a.shape().size(), ']');
  std::string out;
  for (std::int64_t i = 0; i < a.elems(); ++i) {
    std::size_t opened = 0, closed = 0;
    std::int64_t block = 1;
    for (std::size_t d = a.shape().size(); d-- > 0;) {
      block *= a.shape()[d];
      if (i % block == 0) ++opened;
      if ((i + 1) % block == 0) ++closed;
    }
    if (i) out += ", ";
    out.append(opened, '[');
    out += format_element(a, i);
    out.append(closed, ']');
  }
  return out;
}

}  // namespace ag

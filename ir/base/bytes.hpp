// Binary records: numbers as LEB128, lengths before what they count. The reader trusts nothing: what does not fit makes
// it fail, and from then on everything it gives is empty.
#pragma once
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ir/base/dim.hpp"

namespace ag {

class ByteWriter {
 public:
  void number(std::uint64_t v) {
    for (; v >= 0x80; v >>= 7) out_ += static_cast<char>(v | 0x80);
    out_ += static_cast<char>(v);
  }
  void integer(std::int64_t v) { number(static_cast<std::uint64_t>(v) << 1 ^ static_cast<std::uint64_t>(v >> 63)); }
  void real(double v) { word(std::bit_cast<std::uint64_t>(v)); }
  void word(std::uint64_t v) {
    for (int i = 0; i < 8; ++i) out_ += static_cast<char>(v >> (8 * i));
  }
  void text(std::string_view s) {
    number(s.size());
    out_ += s;
  }
  void dim(const Dim& d) {
    number(!d.valid() ? 2 : d.is_const() ? 0 : 1);
    if (!d.valid()) return;
    if (d.is_const())
      integer(d.value());
    else
      text(d.str());
  }
  /// A list: its length, then f(element) for each.
  template <class List, class F>
  void list(const List& values, F f) {
    number(values.size());
    for (const auto& v : values) f(v);
  }
  void dims(const Dims& values) {
    list(values, [&](const Dim& d) { dim(d); });
  }
  void integers(const std::vector<std::int64_t>& values) {
    list(values, [&](std::int64_t v) { integer(v); });
  }
  const std::string& str() const { return out_; }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}
  bool ok() const { return ok_; }
  bool done() const { return ok_ && rest_.empty(); }
  void refuse() {
    ok_ = false;
    rest_ = {};
  }

  std::uint64_t number() {
    std::uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return refuse(), 0;
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      v |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return v;
    }
    return refuse(), 0;
  }
  /// A number of at most `last`; what lies beyond is refused.
  std::uint64_t number(std::uint64_t last) {
    const std::uint64_t v = number();
    return v <= last ? v : (refuse(), 0);
  }
  std::uint32_t index() { return static_cast<std::uint32_t>(number(UINT32_MAX)); }
  bool flag() { return number(1) != 0; }
  template <class E>
  E choice(E last) {
    return static_cast<E>(number(static_cast<std::uint64_t>(last)));
  }
  std::int64_t integer() {
    const std::uint64_t v = number();
    return static_cast<std::int64_t>(v >> 1 ^ (0 - (v & 1)));
  }
  std::uint64_t word() {
    if (rest_.size() < 8) return refuse(), 0;
    std::uint64_t v = 0;
    for (int i = 0; i < 8; ++i)
      v |= std::uint64_t{static_cast<unsigned char>(rest_[static_cast<std::size_t>(i)])} << (8 * i);
    rest_.remove_prefix(8);
    return v;
  }
  double real() { return std::bit_cast<double>(word()); }
  std::string_view view() {
    const std::uint64_t n = number();
    if (n > rest_.size()) return refuse(), std::string_view{};
    std::string_view out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return out;
  }
  std::string text() { return std::string(view()); }
  Dim dim() {
    switch (number(2)) {
      case 0: return Dim(integer());
      case 2: return Dim::invalid();
      default: break;
    }
    auto d = ok_ ? Dim::parse(view()) : std::nullopt;
    return d ? *d : (refuse(), Dim());
  }
  /// Each element takes at least a byte, so the length is believed only if the rest is as long.
  template <class F>
  auto list(F f) {
    std::vector<decltype(f())> out;
    const std::uint64_t n = number();
    if (n > rest_.size()) return refuse(), out;
    out.reserve(n);
    for (std::uint64_t i = 0; i < n && ok_; ++i) out.push_back(f());
    return out;
  }
  Dims dims() {
    return list([&] { return dim(); });
  }
  std::vector<std::int64_t> integers() {
    return list([&] { return integer(); });
  }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace ag

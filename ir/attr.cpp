#include "ir/attr.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ir/random.hpp"

namespace ag {
namespace {

std::size_t mix(std::size_t h, std::size_t v) {
  h = (h ^ v) * 0x9E3779B97F4A7C15ull;
  return h ^ (h >> 29);
}

std::size_t hash_bytes(std::size_t h, std::span<const std::byte> bytes) {
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t w;
    std::memcpy(&w, bytes.data() + i, 8);
    h = mix(h, w);
  }
  for (; i < bytes.size(); ++i) h = mix(h, std::to_integer<std::size_t>(bytes[i]));
  return mix(h, bytes.size());
}

/// Large constants, weights above all, are told apart by a sample: reading all of them takes longer than the rest of
/// a compilation. Equal hashes are compared in full anyway.
std::size_t hash_sample(std::size_t h, std::span<const std::byte> bytes) {
  constexpr std::size_t piece = 64, pieces = 64;
  if (bytes.size() <= 2 * piece * pieces) return hash_bytes(h, bytes);
  const std::size_t step = (bytes.size() - piece) / (pieces - 1);
  for (std::size_t i = 0; i < pieces; ++i) h = hash_bytes(h, bytes.subspan(i * step, piece));
  return mix(h, bytes.size());
}

std::size_t hash_text(std::size_t h, std::string_view s) { return hash_bytes(h, std::as_bytes(std::span(s))); }

std::size_t hash_literal(const Literal& l) {
  std::size_t h = mix(static_cast<std::size_t>(l.form), static_cast<std::size_t>(l.dtype));
  for (std::int64_t d : l.shape) h = mix(h, static_cast<std::size_t>(d));
  switch (l.form) {
    case Literal::Form::dense: return hash_sample(h, l.array.bytes());
    case Literal::Form::splat: return mix(h, l.bits);
    case Literal::Form::random:
      return mix(mix(hash_text(h, l.distribution), l.key), std::bit_cast<std::uint64_t>(l.scale));
    case Literal::Form::file: return hash_text(hash_text(h, l.file), l.file_key);
  }
  return h;
}

bool same_bits(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

}  // namespace

Array Literal::materialize() const {
  if (form == Form::dense || form == Form::file) return array;
  if (array.elems() > 0) return array;
  Array a(dtype, shape);
  if (form == Form::random) {
    auto d = parse_distribution(distribution);
    AG_CHECK(d.has_value(), "unknown distribution");
    fill_random(a, *d, scale, key);
    return a;
  }
  std::span<std::byte> bytes = a.mutable_bytes();
  std::size_t size = dtype_bytes(dtype);
  for (std::size_t i = 0; i < bytes.size(); i += size) std::memcpy(bytes.data() + i, &bits, size);
  return a;
}

bool Literal::operator==(const Literal& o) const {
  if (form != o.form || dtype != o.dtype || shape != o.shape) return false;
  switch (form) {
    case Form::dense: return array.same_bits(o.array);
    case Form::splat: return bits == o.bits;
    case Form::random: return distribution == o.distribution && same_bits(scale, o.scale) && key == o.key;
    case Form::file: return file == o.file && file_key == o.file_key && array.same_bits(o.array);
  }
  return false;
}

LiteralPtr make_literal(Array array) {
  auto l = std::make_shared<Literal>();
  l->dtype = array.dtype();
  l->shape = array.shape();
  std::span<const std::byte> bytes = array.bytes();
  std::size_t size = dtype_bytes(l->dtype);
  // All elements agree if the bytes equal themselves shifted by one element.
  if (array.elems() >= 2 && std::memcmp(bytes.data(), bytes.data() + size, bytes.size() - size) == 0) {
    l->form = Literal::Form::splat;
    std::memcpy(&l->bits, bytes.data(), size);
  } else {
    l->array = std::move(array);
  }
  return l;
}

LiteralPtr make_splat(DType t, std::vector<std::int64_t> shape, double value) {
  auto l = std::make_shared<Literal>();
  l->form = Literal::Form::splat;
  l->dtype = t;
  l->shape = std::move(shape);
  Array one = Array::scalar(t, value);
  std::memcpy(&l->bits, one.bytes().data(), dtype_bytes(t));
  return l;
}

bool equal(const AttrValue& a, const AttrValue& b) {
  if (a.index() != b.index()) return false;
  switch (kind_of(a)) {
    case AttrKind::number: return same_bits(std::get<double>(a), std::get<double>(b));
    case AttrKind::numbers: {
      const auto &x = std::get<std::vector<double>>(a), &y = std::get<std::vector<double>>(b);
      return std::equal(x.begin(), x.end(), y.begin(), y.end(), same_bits);
    }
    case AttrKind::literal: {
      const auto &x = std::get<LiteralPtr>(a), &y = std::get<LiteralPtr>(b);
      return x == y || (x && y && *x == *y);
    }
    default: return a == b;
  }
}

std::size_t hash(const AttrValue& v) {
  struct Visitor {
    std::size_t operator()(std::int64_t x) const { return static_cast<std::size_t>(x); }
    std::size_t operator()(double x) const { return std::bit_cast<std::uint64_t>(x); }
    std::size_t operator()(bool x) const { return x; }
    std::size_t operator()(const std::string& x) const { return hash_text(1, x); }
    std::size_t operator()(const std::vector<std::int64_t>& x) const {
      return hash_bytes(2, std::as_bytes(std::span(x)));
    }
    std::size_t operator()(const std::vector<double>& x) const { return hash_bytes(3, std::as_bytes(std::span(x))); }
    std::size_t operator()(const std::vector<std::string>& x) const {
      std::size_t h = x.size();
      for (const std::string& s : x) h = hash_text(h, s);
      return h;
    }
    std::size_t operator()(DType x) const { return static_cast<std::size_t>(x); }
    std::size_t operator()(const Dims& x) const {
      std::size_t h = x.size();
      for (const Dim& d : x) h = mix(h, d.hash());
      return h;
    }
    std::size_t operator()(const LiteralPtr& x) const { return x ? hash_literal(*x) : 0; }
    std::size_t operator()(const Type& x) const { return mix((*this)(x.shape), static_cast<std::size_t>(x.dtype)); }
  };
  return mix(v.index(), std::visit(Visitor{}, v));
}

namespace {
auto position(auto& list, std::string_view name) {
  return std::lower_bound(list.begin(), list.end(), name,
                          [](const auto& e, std::string_view n) { return e.first < n; });
}
}  // namespace

void Attrs::set(std::string_view name, AttrValue value) {
  auto it = position(list_, name);
  if (it != list_.end() && it->first == name)
    it->second = std::move(value);
  else
    list_.emplace(it, std::string(name), std::move(value));
}

void Attrs::erase(std::string_view name) {
  auto it = position(list_, name);
  if (it != list_.end() && it->first == name) list_.erase(it);
}

const AttrValue* Attrs::find(std::string_view name) const {
  auto it = position(list_, name);
  return it != list_.end() && it->first == name ? &it->second : nullptr;
}

bool equal(const Attrs& a, const Attrs& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.first == y.first && equal(x.second, y.second); });
}

std::size_t hash(const Attrs& a) {
  std::size_t h = a.size();
  for (const auto& [name, value] : a) h = mix(hash_text(h, name), hash(value));
  return h;
}

}  // namespace ag

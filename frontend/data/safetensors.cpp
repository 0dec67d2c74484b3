#include <algorithm>

#include <fmt/format.h>

#include "frontend/data/arrays.hpp"
#include "frontend/data/keys.hpp"
#include "frontend/json/document.hpp"
#include "ir/base/suggest.hpp"

namespace ag::data {
namespace {

struct Entry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;
};

std::optional<DType> dtype_of(std::string_view s) {
  struct Row {
    std::string_view name;
    DType dtype;
  };
  static constexpr Row rows[] = {
      {"F64", DType::f64},      {"F32", DType::f32},          {"F16", DType::f16},        {"BF16", DType::bf16},
      {"I64", DType::i64},      {"I32", DType::i32},          {"I16", DType::i16},        {"I8", DType::i8},
      {"U64", DType::u64},      {"U32", DType::u32},          {"U16", DType::u16},        {"U8", DType::u8},
      {"BOOL", DType::boolean}, {"F8_E4M3", DType::f8e4m3fn}, {"F8_E5M2", DType::f8e5m2}, {"F8_E8M0", DType::f8e8m0}};
  for (const Row& r : rows)
    if (r.name == s) return r.dtype;
  return std::nullopt;
}

/// One member of the header; empty on success, else what is wrong.
std::string read_entry(json::View v, std::uint64_t data_size, Entry& e) {
  e.name = v.key();
  json::View dtype = v.find("dtype"), shape = v.find("shape"), offsets = v.find("data_offsets");
  if (!dtype.is(json::Kind::string) || !shape.is(json::Kind::array) || !offsets.is(json::Kind::array) ||
      offsets.size() != 2 || v.size() != 3)
    return fmt::format("the entry of `{}` is malformed", e.name);
  auto t = dtype_of(dtype.str());
  if (!t) return fmt::format("the element type {} of `{}` is not supported", dtype.str(), e.name);
  e.dtype = *t;
  if (shape.size() > 16) return fmt::format("`{}` has more than 16 axes", e.name);
  for (json::View d : shape) {
    auto n = d.is(json::Kind::integer) ? d.as_int() : std::nullopt;
    if (!n || *n < 0) return fmt::format("the shape of `{}` is malformed", e.name);
    e.shape.push_back(*n);
  }
  auto offset = [&](std::size_t i, std::uint64_t otherwise) {
    return offsets[i].is(json::Kind::integer) ? offsets[i].as_uint().value_or(otherwise) : otherwise;
  };
  e.begin = offset(0, 1);  // 1 and 0 are refused below
  e.end = offset(1, 0);
  if (e.begin > e.end || e.end > data_size) return fmt::format("the offsets of `{}` lie outside the file", e.name);
  auto size = Array::byte_size(e.dtype, e.shape);
  if (!size || *size != e.end - e.begin)
    return fmt::format("the shape of `{}` does not need as many bytes as its offsets span", e.name);
  return {};
}

}  // namespace

Diag no_such_array(std::string_view file, const std::string& key, const std::vector<std::string>& names,
                   const Loc& loc) {
  Diag d = error(Code::AG0017, loc, fmt::format("`{}` holds no array `{}`", file, key));
  if (auto near = suggest(key, names))
    d.help(fmt::format("an array with a similar name exists: `{}`", *near));
  else if (names.empty())
    d.note("it holds no arrays");
  else {
    std::size_t shown = std::min<std::size_t>(names.size(), 10);
    d.note(fmt::format("it holds {}{}",
                       fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                       shown < names.size() ? ", ..." : ""));
  }
  return d;
}

Result<NamedArrays> parse_safetensors(std::string_view bytes, std::string_view name, const std::string* key,
                                      const Limits& limits, const Loc& loc) {
  auto refuse = [&](std::string why) {
    return fail(Code::AG0016, loc, fmt::format("`{}` is not a readable .safetensors file: {}", name, why));
  };
  if (bytes.size() < 8) return refuse("it ends inside its header");
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)]);
  if (length > bytes.size() - 8) return refuse("it ends inside its header");
  std::string header(bytes.substr(8, length));
  std::string_view data = bytes.substr(8 + length);
  auto doc = json::Document::parse(std::move(header), nullptr, {.max_bytes = std::size_t{100} << 20, .max_depth = 4});
  if (!doc) return refuse("its header is not JSON: " + doc.error().front().message);
  if (!(*doc)->root().is(json::Kind::object)) return refuse("its header is not an object");
  std::vector<Entry> entries;
  std::vector<std::string> names;
  for (json::View v : (*doc)->root()) {
    if (v.key() == "__metadata__") continue;
    Entry e;
    if (std::string why = read_entry(v, data.size(), e); !why.empty()) return refuse(std::move(why));
    names.push_back(e.name);
    entries.push_back(std::move(e));
  }
  // The format allows neither holes nor overlaps.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const Entry& e : entries) ranges.emplace_back(e.begin, e.end);
  std::ranges::sort(ranges);
  std::uint64_t at = 0;
  for (auto [begin, end] : ranges) {
    if (begin != at) return refuse("its arrays overlap or leave holes");
    at = end;
  }
  if (at != data.size()) return refuse("bytes follow the last array");
  NamedArrays out;
  for (Entry& e : entries) {
    if (key && e.name != *key) continue;
    if (e.end - e.begin > limits.max_array_bytes) return refuse(fmt::format("`{}` is larger than the limit", e.name));
    std::string_view body = data.substr(e.begin, e.end - e.begin);
    Array a = Array::from_bytes(e.dtype, std::move(e.shape), std::as_bytes(std::span(body.data(), body.size())));
    if (e.dtype == DType::boolean)
      for (std::byte& b : a.mutable_bytes()) b = b == std::byte{0} ? std::byte{0} : std::byte{1};
    out.emplace_back(std::move(e.name), std::move(a));
  }
  if (key && out.empty()) return fail(no_such_array(name, *key, names, loc));
  return out;
}

Result<Array> parse_array(std::string_view bytes, std::string_view name, const std::string* key, const Limits& limits,
                          const Loc& loc) {
  if (bytes.starts_with("\x93NUMPY")) {
    if (key)
      return fail(Code::AG0017, loc,
                  fmt::format("`{}` holds a single array without a name; leave the key `{}` out", name, *key));
    return parse_npy(bytes, name, limits, loc);
  }
  bool zip = bytes.starts_with("PK\x03\x04") || bytes.starts_with("PK\x05\x06");
  bool safetensors = bytes.size() > 9 && bytes[8] == '{';
  if (!zip && !safetensors)
    return fail(Code::AG0016, loc, fmt::format("`{}` is neither .npy nor .npz nor .safetensors", name));
  auto all = zip ? parse_npz(bytes, name, key, limits, loc) : parse_safetensors(bytes, name, key, limits, loc);
  if (!all) return fail(std::move(all).error());
  if (all->size() == 1) return std::move(all->front().second);
  std::vector<std::string> names;
  for (const auto& [n, a] : *all) names.push_back(n);
  if (names.size() > 10) names.resize(10);
  return fail(error(Code::AG0017, loc, fmt::format("`{}` holds {} arrays; name one with a key", name, all->size()))
                  .note(fmt::format("it holds {}", fmt::join(names, ", "))));
}

}  // namespace ag::data

#include "ir/type.hpp"

namespace ag {
namespace {

constexpr std::size_t max_rank = 64;  // of a type that is read

/// Splits at top-level commas: dims hold calls, "floordiv(N, 2)", and quoted names.
std::optional<std::vector<std::string_view>> split_dims(std::string_view text) {
  std::vector<std::string_view> parts;
  int depth = 0;
  bool quoted = false;
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quoted) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '(') {
      ++depth;
    } else if (c == ')') {
      --depth;
    } else if (c == ',' && depth == 0) {
      parts.push_back(text.substr(start, i - start));
      start = i + 1;
    }
  }
  if (quoted || depth != 0) return std::nullopt;
  parts.push_back(text.substr(start));
  return parts;
}

}  // namespace

bool Type::is_static() const {
  for (const Dim& d : shape)
    if (!d.is_const()) return false;
  return true;
}

std::string Type::str() const {
  std::string out(dtype_name(dtype));
  out += '[';
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i) out += ',';
    out += shape[i].str();
  }
  return out + ']';
}

std::optional<Type> Type::parse(std::string_view text) {
  std::size_t open = text.find('[');
  if (open == std::string_view::npos || text.back() != ']') return std::nullopt;
  auto dtype = parse_dtype(text.substr(0, open));
  if (!dtype) return std::nullopt;
  auto dims = parse_dims(text.substr(open + 1, text.size() - open - 2));
  if (!dims || dims->size() > max_rank) return std::nullopt;
  for (const Dim& d : *dims)
    if (d.is_const() && d.value() < 0) return std::nullopt;
  return Type{*dtype, *std::move(dims)};
}

std::optional<Dims> parse_dims(std::string_view text) {
  Dims out;
  if (text.find_first_not_of(" \t") == std::string_view::npos) return out;
  auto parts = split_dims(text);
  if (!parts) return std::nullopt;
  for (std::string_view part : *parts) {
    auto d = Dim::parse(part);
    if (!d) return std::nullopt;
    out.push_back(*std::move(d));
  }
  return out;
}

std::string shape_str(const Dims& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i) out += ", ";
    out += shape[i].str();
  }
  return out + ']';
}

std::optional<Dims> broadcast_shapes(const Dims& a, const Dims& b) {
  const Dims& longer = a.size() >= b.size() ? a : b;
  const Dims& shorter = a.size() >= b.size() ? b : a;
  Dims out = longer;
  std::size_t offset = longer.size() - shorter.size();
  for (std::size_t i = 0; i < shorter.size(); ++i) {
    const Dim& l = longer[offset + i];
    const Dim& s = shorter[i];
    Dim& o = out[offset + i];
    if (l == s || s.is(1)) continue;
    if (l.is(1))
      o = s;
    else if (l.is_const() && s.is_const())
      return std::nullopt;
    else if (l.is_const())
      o = l;  // the symbol is 1 or this very size: settled at run time
    else if (s.is_const())
      o = s;
    else
      o = Dim::bcast(l, s);
  }
  return out;
}

std::optional<std::vector<std::int64_t>> static_shape(const Dims& shape) {
  std::vector<std::int64_t> out;
  out.reserve(shape.size());
  for (const Dim& d : shape) {
    if (!d.is_const()) return std::nullopt;
    out.push_back(d.value());
  }
  return out;
}

std::optional<int> normalize_axis(std::int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) return std::nullopt;
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

}  // namespace ag

#include "frontend/data/value.hpp"

#include <array>
#include <charconv>

#include <fmt/format.h>

#include "frontend/onnx/onnx.hpp"
#include "ir/base/suggest.hpp"
#include "ir/random.hpp"

namespace ag::data {
namespace {

std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\n')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\n')) s.remove_suffix(1);
  return s;
}

Diag malformed(std::string_view name, std::string_view text, std::string_view why) {
  constexpr std::size_t most = 40;
  std::string shown(text.substr(0, most));
  if (text.size() > most) shown += "...";
  return error(Code::AG0019, {}, fmt::format("`{}` cannot be the value of `{}`: {}", shown, name, why));
}

/// `@file` or `@file:key`; the key follows the last colon after the file's extension.
Result<Array> from_file(std::string_view text, std::string_view name, const ValueOptions& o) {
  std::string path(text);
  std::optional<std::string> key;
  for (std::string_view ext : {".npz:", ".safetensors:", ".npy:"}) {
    std::size_t at = text.find(ext);
    if (at == text.npos) continue;
    path = std::string(text.substr(0, at + ext.size() - 1));
    key = std::string(text.substr(at + ext.size()));
    break;
  }
  if (path.empty()) return fail(malformed(name, "@", "a file name must follow the `@`"));
  AG_TRY(Bytes bytes, read_file(path, o.limits.max_file_bytes));
  std::string_view view(bytes.data(), bytes.size());
  if (path.ends_with(".pb")) {
    AG_TRY(auto named, onnx::parse_tensor(view, path, o.limits));
    return std::move(named.second);
  }
  if (!key && view.starts_with("PK")) {  // an archive of many: the array of the input's own name
    std::string own(name);
    auto all = parse_npz(view, path, nullptr, o.limits);
    if (!all) return fail(std::move(all).error());
    if (all->size() == 1) return std::move(all->front().second);
    for (auto& [n, a] : *all)
      if (n == own) return std::move(a);
  }
  return parse_array(view, path, key ? &*key : nullptr, o.limits);
}

/// randn, rand, iota, ones, zeros, const(c); nullopt if the text is none of them.
std::optional<Result<Array>> from_generator(std::string_view text, const Type& type, std::string_view name,
                                            const ValueOptions& o) {
  bool constant = text.starts_with("const(") && text.ends_with(")");
  constexpr std::array<std::string_view, 5> words = {"randn", "rand", "iota", "ones", "zeros"};
  if (!constant && std::find(words.begin(), words.end(), text) == words.end()) return std::nullopt;
  std::vector<std::int64_t> shape;
  for (const Dim& d : type.shape) {
    auto n = o.dims ? d.eval(*o.dims) : d.eval({});
    if (!n || *n < 0) {
      return fail(malformed(name, text, fmt::format("the size `{}` of {} is not known", d.str(), type.str()))
                      .help(fmt::format("give it with `--dim {}=...`", d.str())));
    }
    shape.push_back(*n);
  }
  auto size = Array::byte_size(type.dtype, shape);
  if (!size || *size > o.limits.max_array_bytes) return fail(malformed(name, text, "the array is too large"));
  Array a(type.dtype, shape);
  if (text == "randn")
    fill_random(a, Distribution::normal, 1, o.key);
  else if (text == "rand") {
    fill_random(a, Distribution::uniform, 0.5, o.key);  // (-1/2, 1/2)
    for (std::int64_t i = 0; i < a.elems() && is_float(type.dtype); ++i) a.set_double(i, a.get_double(i) + 0.5);
  } else if (text == "iota") {
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_int(i, i);
  } else if (text == "ones") {
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_int(i, 1);
  } else if (constant) {
    std::string_view inner = trim(text.substr(6, text.size() - 7));
    AG_TRY(Array c, parse_value(inner, Type{type.dtype, {}}, name, o));
    for (std::int64_t i = 0; i < a.elems(); ++i) {
      if (is_float(type.dtype))
        a.set_double(i, c.get_double(0));
      else
        a.set_int(i, c.get_int(0));
    }
  }
  return a;
}

/// `nan`, `inf` and friends as the strings that JSON data uses.
std::string quote_non_finite(std::string_view text) {
  std::string out;
  for (std::size_t p = 0; p < text.size();) {
    bool letter = (text[p] >= 'a' && text[p] <= 'z') || (text[p] >= 'A' && text[p] <= 'Z');
    bool sign = (text[p] == '-' || text[p] == '+') && p + 1 < text.size() &&
                (text[p + 1] == 'i' || text[p + 1] == 'I' || text[p + 1] == 'n' || text[p + 1] == 'N');
    bool inside_number = p > 0 && ((text[p - 1] >= '0' && text[p - 1] <= '9') || text[p - 1] == '.');
    if ((!letter && !sign) || inside_number) {
      out += text[p++];
      continue;
    }
    std::size_t end = p + 1;
    while (end < text.size() && ((text[end] >= 'a' && text[end] <= 'z') || (text[end] >= 'A' && text[end] <= 'Z')))
      ++end;
    std::string_view w = text.substr(p, end - p);
    p = end;
    if (w == "nan" || w == "NaN" || w == "-nan")
      out += "\"NaN\"";
    else if (w == "inf" || w == "Infinity" || w == "+inf")
      out += "\"Infinity\"";
    else if (w == "-inf" || w == "-Infinity")
      out += "\"-Infinity\"";
    else if (w == "True")
      out += "true";
    else if (w == "False")
      out += "false";
    else
      out += w;
  }
  return out;
}

}  // namespace

Status check_array(const Array& array, const Type& type, std::string_view name, const Loc& loc) {
  std::string have = fmt::format("{}[{}]", dtype_name(array.dtype()), fmt::join(array.shape(), ","));
  bool fits = array.dtype() == type.dtype && array.shape().size() == type.shape.size();
  for (std::size_t i = 0; fits && i < type.shape.size(); ++i)
    fits = !type.shape[i].is_const() || type.shape[i].is(array.shape()[i]);
  if (fits) return {};
  return fail(Code::AG0018, loc, fmt::format("`{}` is {}, and the array given for it is {}", name, type.str(), have));
}

Result<Array> parse_value(std::string_view given, const Type& type, std::string_view name,
                          const ValueOptions& options) {
  std::string_view text = trim(given);
  if (text.empty()) return fail(malformed(name, given, "it is empty"));
  if (text.front() == '@') {
    AG_TRY(Array a, from_file(text.substr(1), name, options));
    AG_TRY_(check_array(a, type, name));
    return a;
  }
  if (auto generated = from_generator(text, type, name, options)) return std::move(*generated);
  std::string source = quote_non_finite(text);
  bool list = source.front() != '[' && (type.rank() > 0 || source.find(',') != source.npos);
  if (list) source = "[" + source + "]";
  auto doc = json::Document::parse(source, nullptr, {.max_bytes = std::size_t{1} << 30, .max_depth = 17});
  if (!doc) {
    Diag d = malformed(name, text, doc.error().front().message);
    constexpr std::array<std::string_view, 6> words = {"randn", "rand", "iota", "ones", "zeros", "const"};
    if (auto near = suggest(text, words)) d.help(fmt::format("did you mean `{}`?", *near));
    return fail(std::move(d));
  }
  json::View root = (*doc)->root();
  bool nested = root.size() > 0 && root.is(json::Kind::array) && root[0].is(json::Kind::array);
  std::vector<std::int64_t> shape;
  bool known = true;
  for (const Dim& d : type.shape) {
    auto n = options.dims ? d.eval(*options.dims) : d.eval({});
    known = known && n;
    shape.push_back(n.value_or(0));
  }
  auto a = array_from_json(root, type.dtype, known && (!nested || type.rank() > 0) ? &shape : nullptr, options.limits);
  if (!a) {
    const Diag& why = a.error().front();
    bool label = why.code == Code::AG2003 && !why.spans.empty() && !why.spans.front().label.empty();
    return fail(
        malformed(name, text, label ? fmt::format("{}: {}", why.message, why.spans.front().label) : why.message));
  }
  AG_TRY_(check_array(*a, type, name));
  return a;
}

}  // namespace ag::data

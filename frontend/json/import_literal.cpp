// Types, and tensors as the format writes them: data, fill, file, random.
#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "frontend/data/value.hpp"
#include "frontend/json/importer.hpp"
#include "ir/base/suggest.hpp"
#include "ir/check.hpp"
#include "ir/dtype_sets.hpp"
#include "ir/random.hpp"

namespace ag::json {
namespace {

constexpr std::int64_t max_dim = std::int64_t{1} << 47;
constexpr std::size_t max_rank = 16;

bool identifier(std::string_view s) {
  auto d = Dim::parse(s);
  return d && d->as_symbol() == std::string(s);
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

/// Names that other systems use.
std::string_view dtype_alias(std::string_view s) {
  constexpr std::pair<std::string_view, std::string_view> rows[] = {
      {"float", "f32"},   {"float32", "f32"},   {"double", "f64"},   {"float64", "f64"}, {"half", "f16"},
      {"float16", "f16"}, {"bfloat16", "bf16"}, {"int64", "i64"},    {"long", "i64"},    {"int", "i32"},
      {"int32", "i32"},   {"int16", "i16"},     {"int8", "i8"},      {"uint64", "u64"},  {"uint32", "u32"},
      {"uint16", "u16"},  {"uint8", "u8"},      {"boolean", "bool"}, {"i1", "bool"}};
  for (auto [from, to] : rows)
    if (from == s) return to;
  return {};
}

}  // namespace

std::optional<Type> Importer::type(View v, std::string_view name) {
  if (!text(v, "a type")) return std::nullopt;
  std::string_view s = trim(v.str());
  auto refuse = [&](std::string why) {
    return error(Code::AG2001, v.loc(), fmt::format("`{}` is not a type", v.str()), std::move(why));
  };
  std::size_t open = s.find('[');
  std::string_view head = trim(s.substr(0, open));
  auto dtype = parse_dtype(head);
  if (!dtype) {
    Diag d = refuse(fmt::format("`{}` is not an element type", head));
    std::vector<std::string_view> names;
    for (int i = 0; i < dtype_count_stored; ++i) names.push_back(dtype_name(static_cast<DType>(i)));
    std::string rest(open == s.npos ? "[]" : s.substr(open));
    if (std::string_view alias = dtype_alias(head); !alias.empty())
      d.help(fmt::format("ag writes `{}`", alias), v.loc(), quote(std::string(alias) + rest));
    else if (auto near = suggest(head, names))
      d.help(fmt::format("did you mean `{}`?", *near), v.loc(), quote(*near + rest));
    else
      d.note(fmt::format("element types are {}", fmt::join(names, ", ")));
    report(std::move(d));
    return std::nullopt;
  }
  if (open == s.npos || s.back() != ']') {
    Diag d = refuse(open == s.npos ? "the dims are missing" : "expected `]` at its end");
    if (open == s.npos) d.help("a scalar has empty brackets", v.loc(), quote(std::string(s) + "[]"));
    report(std::move(d));
    return std::nullopt;
  }
  Type t{*dtype, {}};
  std::string_view dims = trim(s.substr(open + 1, s.size() - open - 2));
  while (!dims.empty()) {
    std::size_t comma = dims.find(',');
    std::string_view part = trim(dims.substr(0, comma));
    auto d = part == "?" ? std::nullopt : Dim::parse(part);
    if (part == "?") {
      std::string symbol = fmt::format("{}.{}", name, t.shape.size());
      t.shape.push_back(Dim::symbol(std::move(symbol)));
    } else if (d &&
               ((d->is_const() && d->value() >= 0 && d->value() <= max_dim) || (d->as_symbol() && identifier(part)))) {
      t.shape.push_back(*d);
    } else {
      std::string why = d && d->is_const() ? "a size lies between 0 and 2^47" : "a dim is an integer, a symbol or `?`";
      report(refuse(part.empty() ? "a dim is missing between the commas" : fmt::format("the dim `{}`: {}", part, why)));
      return std::nullopt;
    }
    if (comma == dims.npos) break;
    dims = dims.substr(comma + 1);
    if (trim(dims).empty()) {
      report(refuse("a dim is missing after the last comma"));
      return std::nullopt;
    }
  }
  if (t.shape.size() > max_rank) {
    report(refuse(fmt::format("it has {} axes; at most {} are allowed", t.shape.size(), max_rank)));
    return std::nullopt;
  }
  if (auto fixed = static_shape(t.shape); fixed && !Array::byte_size(*dtype, *fixed)) {
    report(refuse("its size in bytes overflows"));
    return std::nullopt;
  }
  return t;
}

/// Sizes of a tensor whose values the graph gives; symbols have none.
std::optional<std::vector<std::int64_t>> Importer::static_shape_of(View v, const Type& t) {
  auto shape = static_shape(t.shape);
  if (!shape) {
    report(error(Code::AG2001, v.loc(), fmt::format("`{}` leaves a size open, and values are given for it", t.str()),
                 "needs integer dims"));
    return std::nullopt;
  }
  auto size = Array::byte_size(t.dtype, *shape);
  if (!size || *size > options_.data.max_array_bytes) {
    report(error(Code::AG0006, v.loc(),
                 fmt::format("`{}` is larger than the limit of {} bytes", t.str(), options_.data.max_array_bytes),
                 "too large"));
    return std::nullopt;
  }
  return shape;
}

MaybeLiteral Importer::tensor(View v, bool attribute) {
  if (!v.is(Kind::object)) {
    expect(v, Kind::object, "a tensor");
    return std::nullopt;
  }
  if (attribute) keys(v, "tensor", {"type", "data", "fill", "file", "key", "random", "scale"});
  View type_view = v.find("type"), source;
  constexpr std::array<std::string_view, 4> sources = {"data", "fill", "file", "random"};
  for (std::string_view key : sources) {
    View found = v.find(key);
    if (!found) continue;
    if (source) {
      report(error(Code::AG1016, found.key_loc(), fmt::format("both `{}` and `{}` are given", source.key(), key),
                   "a second source of values")
                 .at(source.key_loc(), "the first one"));
      return std::nullopt;
    }
    source = found;
  }
  std::optional<Type> t = type_view ? type(type_view, "tensor") : std::nullopt;
  if (type_view && !t) return std::nullopt;
  if (!source) {
    report(error(Code::AG1016, v.loc(), "no values are given", "needs one of `data`, `fill`, `file`, `random`"));
    return std::nullopt;
  }
  for (std::string_view key : {"key", "scale"}) {
    View extra = v.find(key);
    bool fits = source.key() == "random" || (source.key() == "file" && key == "key");
    if (extra && !fits)
      report(error(Code::AG0013, extra.key_loc(), fmt::format("`{}` has no meaning beside `{}`", key, source.key()),
                   "remove it"));
  }
  if (source.key() == "file") return from_file(v, t);
  if (!type_view) {
    required(v, "type", attribute ? "tensor" : "initializer");
    return std::nullopt;
  }
  if (source.key() == "random") return random(v, *t);
  auto shape = static_shape_of(type_view, *t);
  if (!shape) return std::nullopt;
  auto literal = std::make_shared<Literal>();
  literal->dtype = t->dtype;
  literal->shape = *shape;
  std::vector<std::int64_t> scalar;
  bool fill = source.key() == "fill";
  auto a = data::array_from_json(source, t->dtype, fill ? &scalar : &*shape, options_.data);
  if (!a) {
    for (Diag& d : a.error()) d.at(type_view.loc(), fmt::format("declared as {}", t->str()));
    report(std::move(a).error());
    return std::nullopt;
  }
  if (fill) {
    literal->form = Literal::Form::splat;
    std::memcpy(&literal->bits, a->bytes().data(), a->bytes_size());
  } else {
    literal->array = std::move(*a);
  }
  return literal;
}

MaybeLiteral Importer::random(View v, const Type& t) {
  View how = v.find("random");
  auto word = text(how, "`random`");
  if (!word) return std::nullopt;
  if (!parse_distribution(*word)) {
    constexpr std::array<std::string_view, 2> words = {"normal", "uniform"};
    Diag d =
        error(Code::AG1105, how.loc(), fmt::format("`random` cannot be {}", quote(*word)), "\"normal\" or \"uniform\"");
    if (auto near = suggest(*word, words)) d.help(fmt::format("did you mean \"{}\"?", *near), how.loc(), quote(*near));
    report(std::move(d));
    return std::nullopt;
  }
  auto shape = static_shape_of(v.find("type"), t);
  if (!shape) return std::nullopt;
  if (!is_float(t.dtype)) {
    report(error(Code::AG2101, v.find("type").loc(),
                 fmt::format("random values are floats, and this is {}", dtype_name(t.dtype))));
    return std::nullopt;
  }
  auto literal = std::make_shared<Literal>();
  literal->form = Literal::Form::random;
  literal->dtype = t.dtype;
  literal->shape = *shape;
  literal->distribution = *word;
  if (View scale = v.find("scale")) {
    if (!scale.is_numeric()) {
      expect(scale, Kind::number, "`scale`");
      return std::nullopt;
    }
    literal->scale = scale.as_double();
  }
  if (View key = v.find("key")) {
    if (!expect(key, Kind::integer, "`key` of a random tensor")) return std::nullopt;
    auto n = key.as_uint();
    if (!n) {
      report(error(Code::AG0008, key.loc(), "`key` of a random tensor is out of range", "0 to 2^64 - 1"));
      return std::nullopt;
    }
    literal->key = *n;
  }
  return literal;
}

MaybeLiteral Importer::from_file(View v, const std::optional<Type>& declared) {
  View file = v.find("file"), key_view = v.find("key");
  auto path = text(file, "`file`");
  std::optional<std::string> key;
  if (key_view) {
    key = text(key_view, "`key` of a file");
    if (!key) return std::nullopt;
  }
  if (!path) return std::nullopt;
  auto bytes = data::read_beneath(options_.folders, *path, options_.data, file.loc());
  if (!bytes) {
    report(std::move(bytes).error());
    return std::nullopt;
  }
  auto a = data::parse_array(std::string_view(bytes->data(), bytes->size()), *path, key ? &*key : nullptr,
                             options_.data, key_view ? key_view.loc() : file.loc());
  if (!a) {
    report(std::move(a).error());
    return std::nullopt;
  }
  if (declared) {
    if (!static_shape_of(v.find("type"), *declared)) return std::nullopt;
    if (Status ok = data::check_array(*a, *declared, key.value_or(*path), v.find("type").loc()); !ok) {
      for (Diag& d : ok.error()) d.at(file.loc(), "read from here");
      report(std::move(ok).error());
      return std::nullopt;
    }
  }
  auto literal = std::make_shared<Literal>();
  literal->form = Literal::Form::file;
  literal->dtype = a->dtype();
  literal->shape = a->shape();
  literal->array = std::move(*a);
  literal->file = *path;
  literal->file_key = key.value_or("");
  return literal;
}

// ---- Literals as operands ------------------------------------------------------------------------------------

std::optional<DType> literal_dtype(const OpInfo& op, std::size_t position,
                                   const std::vector<std::optional<DType>>& known, const std::vector<bool>& is_literal,
                                   const std::function<bool(std::size_t, DType)>& fits) {
  const OperandSpec& spec = *operand_spec(op, position);
  auto shares = [&](std::size_t i) {
    const OperandSpec* other = operand_spec(op, i);
    return i == position || (other && !spec.type_var.empty() && other->type_var == spec.type_var);
  };
  for (std::size_t i = 0; i < known.size(); ++i)
    if (known[i] && shares(i)) return known[i];
  std::vector<DType> candidates = {DType::i64, DType::f32, DType::boolean};
  if (!known.empty() && known[0]) candidates.insert(candidates.begin(), *known[0]);
  for (DType t : candidates) {
    bool ok = true;
    for (std::size_t i = 0; i < known.size() && ok; ++i)
      if (is_literal[i] && shares(i)) ok = takes(operand_spec(op, i)->dtypes, t) && fits(i, t);
    if (ok) return t;
  }
  return std::nullopt;
}

}  // namespace ag::json

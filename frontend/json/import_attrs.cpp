// Attributes: each by the kind that the operator's record states.
#include <algorithm>
#include <array>
#include <limits>

#include <fmt/format.h>

#include "frontend/json/importer.hpp"
#include "ir/base/suggest.hpp"
#include "ir/check.hpp"

namespace ag::json {
namespace {

/// ONNX's TensorProto.DataType.
std::optional<DType> dtype_of_onnx(std::int64_t n) {
  switch (n) {
    case 1: return DType::f32;
    case 2: return DType::u8;
    case 3: return DType::i8;
    case 4: return DType::u16;
    case 5: return DType::i16;
    case 6: return DType::i32;
    case 7: return DType::i64;
    case 9: return DType::boolean;
    case 10: return DType::f16;
    case 11: return DType::f64;
    case 12: return DType::u32;
    case 13: return DType::u64;
    case 16: return DType::bf16;
    case 17: return DType::f8e4m3fn;
    case 18: return DType::f8e4m3fnuz;
    case 19: return DType::f8e5m2;
    case 20: return DType::f8e5m2fnuz;
    case 21: return DType::u4;
    case 22: return DType::i4;
    case 23: return DType::f4e2m1;
    case 24: return DType::f8e8m0;
    case 25: return DType::u2;
    case 26: return DType::i2;
    default: return std::nullopt;
  }
}

std::vector<std::string_view> dtype_names() {
  std::vector<std::string_view> out;
  for (int i = 0; i < dtype_count_stored; ++i) out.push_back(dtype_name(static_cast<DType>(i)));
  return out;
}

}  // namespace

std::optional<Attrs> Importer::attributes(View v, const OpInfo& op) {
  Attrs out;
  bool ok = true;
  std::string_view title = op.onnx.empty() ? op.name : op.onnx;
  std::vector<std::string_view> known;
  for (const AttrSpec& s : op.attrs) known.push_back(s.name);
  for (View a : v) {
    auto spec = std::ranges::find(op.attrs, a.key(), &AttrSpec::name);
    if (spec != op.attrs.end()) {
      auto value = attribute(a, *spec, op);
      if (value)
        out.set(spec->name, std::move(*value));
      else
        ok = false;
      continue;
    }
    ok = false;
    Diag d = error(Code::AG1102, a.key_loc(), fmt::format("`{}` has no attribute `{}`", title, a.key()),
                   "unknown attribute");
    if (auto near = suggest(a.key(), known))
      d.help(fmt::format("an attribute with a similar name exists: `{}`", *near), a.key_loc(), quote(*near));
    else if (known.empty())
      d.note(fmt::format("`{}` has no attributes", title));
    else
      d.note(fmt::format("it has: {}", fmt::join(known, ", ")));
    report(std::move(d));
  }
  if (!ok) return std::nullopt;
  return out;
}

std::optional<AttrValue> Importer::attribute(View v, const AttrSpec& spec, const OpInfo& op) {
  std::string_view title = op.onnx.empty() ? op.name : op.onnx;
  auto wrong = [&](View at) {
    std::string given = at.is_numeric() || at.is(Kind::boolean) ? fmt::format("`{}`", at.spelling())
                                                                : std::string(kind_name(at.kind()));
    Diag d =
        error(Code::AG1104, at.loc(),
              fmt::format("attribute `{}` of `{}` is {}, not {}", spec.name, title, attr_kind_name(spec.kind), given),
              fmt::format("expected {}", attr_kind_name(spec.kind)));
    bool list = spec.kind == AttrKind::ints || spec.kind == AttrKind::numbers || spec.kind == AttrKind::strings ||
                spec.kind == AttrKind::dims;
    if (list && at.is(Kind::integer) && at.id() == v.id())
      d.help("put it in brackets", at.loc(), fmt::format("[{}]", at.spelling()));
    report(std::move(d));
    return std::nullopt;
  };
  auto as_integer = [&](View at) -> std::optional<std::int64_t> {
    if (!at.is(Kind::integer)) return wrong(at);
    auto n = at.as_int();
    if (!n)
      report(error(Code::AG0008, at.loc(), fmt::format("attribute `{}` of `{}` is out of range", spec.name, title),
                   "outside 64-bit integers"));
    return n;
  };
  auto as_number = [&](View at) -> std::optional<double> {
    if (at.is(Kind::string)) {
      if (at.str() == "NaN") return std::numeric_limits<double>::quiet_NaN();
      if (at.str() == "Infinity") return std::numeric_limits<double>::infinity();
      if (at.str() == "-Infinity") return -std::numeric_limits<double>::infinity();
    }
    if (!at.is_numeric()) return wrong(at);
    return at.as_double();
  };
  auto as_text = [&](View at) -> std::optional<std::string> {
    if (!at.is(Kind::string)) return wrong(at);
    return std::string(at.str());
  };
  auto list = [&]<class T>(std::vector<T> out, auto&& read) -> std::optional<AttrValue> {
    if (!v.is(Kind::array)) return wrong(v);
    for (View item : v) {
      auto value = read(item);
      if (!value) return std::nullopt;
      out.push_back(std::move(*value));
    }
    return AttrValue(std::move(out));
  };
  auto one = [](auto value) -> std::optional<AttrValue> {
    if (!value) return std::nullopt;
    return AttrValue(std::move(*value));
  };
  switch (spec.kind) {
    case AttrKind::integer: return one(as_integer(v));
    case AttrKind::number: return one(as_number(v));
    case AttrKind::ints: return list(std::vector<std::int64_t>{}, as_integer);
    case AttrKind::numbers: return list(std::vector<double>{}, as_number);
    case AttrKind::strings: return list(std::vector<std::string>{}, as_text);
    case AttrKind::boolean:
      if (v.is(Kind::boolean)) return AttrValue(v.as_bool());
      if (v.is(Kind::integer) && (v.as_int() == 0 || v.as_int() == 1)) return AttrValue(v.as_int() == 1);
      return wrong(v);
    case AttrKind::string: {
      auto s = as_text(v);
      if (!s) return std::nullopt;
      if (!spec.choices.empty() && std::ranges::find(spec.choices, *s) == spec.choices.end()) {
        std::vector<std::string> choices;
        for (std::string_view c : spec.choices) choices.push_back(quote(c));
        Diag d = error(Code::AG1105, v.loc(),
                       fmt::format("attribute `{}` of `{}` cannot be {}", spec.name, title, quote(*s)),
                       fmt::format("one of {}", fmt::join(choices, ", ")));
        if (auto near = suggest(*s, spec.choices))
          d.help(fmt::format("did you mean {}?", quote(*near)), v.loc(), quote(*near));
        report(std::move(d));
        return std::nullopt;
      }
      return AttrValue(std::move(*s));
    }
    case AttrKind::dtype: {
      std::optional<DType> t;
      if (v.is(Kind::integer))
        t = dtype_of_onnx(v.as_int().value_or(0));
      else if (v.is(Kind::string))
        t = parse_dtype(v.str());
      else
        return wrong(v);
      if (t) return AttrValue(*t);
      Diag d = error(Code::AG2001, v.loc(), fmt::format("{} is not an element type", v.spelling()),
                     "expected a dtype, or ONNX's number of one");
      if (v.is(Kind::string))
        if (auto near = suggest(v.str(), dtype_names()))
          d.help(fmt::format("did you mean `{}`?", *near), v.loc(), quote(*near));
      report(std::move(d));
      return std::nullopt;
    }
    case AttrKind::dims:
      return list(Dims{}, [&](View item) -> std::optional<Dim> {
        if (item.is(Kind::integer)) {
          auto n = as_integer(item);
          if (!n) return std::nullopt;
          return Dim(*n);
        }
        if (!item.is(Kind::string)) return wrong(item);
        auto d = Dim::parse(item.str());
        if (!d)
          report(error(Code::AG2001, item.loc(), fmt::format("`{}` is not a size", item.str()),
                       "expected an integer or an expression of symbols"));
        return d;
      });
    case AttrKind::type: {
      auto t = type(v, spec.name);
      if (!t) return std::nullopt;
      return AttrValue(std::move(*t));
    }
    case AttrKind::literal: {
      auto l = expect(v, Kind::object, fmt::format("attribute `{}`", spec.name)) ? tensor(v, true) : std::nullopt;
      if (!l) return std::nullopt;
      return AttrValue(std::move(*l));
    }
  }
  return std::nullopt;
}

}  // namespace ag::json

// Attributes: each by the kind that the operator's record states.
#include <frontend/onnx/onnx.pb.h>

#include <algorithm>

#include <fmt/format.h>

#include "frontend/onnx/importer.hpp"
#include "ir/base/suggest.hpp"
#include "ir/check.hpp"

namespace ag::onnx {
namespace {

using Kind = pb::AttributeProto;

/// What an attribute holds; old files do not say, so that the fields decide.
pb::AttributeProto::AttributeType kind_of(const pb::AttributeProto& a) {
  if (a.type() != Kind::UNDEFINED) return a.type();
  if (a.has_f()) return Kind::FLOAT;
  if (a.has_i()) return Kind::INT;
  if (a.has_s()) return Kind::STRING;
  if (a.has_t()) return Kind::TENSOR;
  if (a.has_g()) return Kind::GRAPH;
  if (a.floats_size()) return Kind::FLOATS;
  if (a.ints_size()) return Kind::INTS;
  if (a.strings_size()) return Kind::STRINGS;
  if (a.tensors_size()) return Kind::TENSORS;
  if (a.graphs_size()) return Kind::GRAPHS;
  if (a.has_sparse_tensor()) return Kind::SPARSE_TENSOR;
  if (a.has_tp()) return Kind::TYPE_PROTO;
  return Kind::UNDEFINED;
}

std::string_view kind_name(pb::AttributeProto::AttributeType t) {
  switch (t) {
    case Kind::FLOAT: return "a number";
    case Kind::INT: return "an integer";
    case Kind::STRING: return "a string";
    case Kind::TENSOR: return "a tensor";
    case Kind::GRAPH: return "a graph";
    case Kind::FLOATS: return "a list of numbers";
    case Kind::INTS: return "a list of integers";
    case Kind::STRINGS: return "a list of strings";
    case Kind::TENSORS: return "a list of tensors";
    case Kind::GRAPHS: return "a list of graphs";
    case Kind::SPARSE_TENSOR: return "a sparse tensor";
    case Kind::TYPE_PROTO: return "a type";
    default: return "of no known kind";
  }
}

template <class To, class Field>
std::vector<To> list(const Field& field) {
  return {field.begin(), field.end()};
}

/// The attribute's value as it stands in the file; the builder turns integers into bools, numbers and dims.
std::optional<AttrValue> plain_value(const pb::AttributeProto& a, AttrKind want) {
  switch (kind_of(a)) {
    case Kind::FLOAT: return AttrValue(static_cast<double>(a.f()));
    case Kind::STRING: return AttrValue(std::string(a.s()));
    case Kind::FLOATS: return AttrValue(list<double>(a.floats()));
    case Kind::INTS: return AttrValue(list<std::int64_t>(a.ints()));
    case Kind::STRINGS: return AttrValue(list<std::string>(a.strings()));
    case Kind::INT:
      if (want == AttrKind::dtype) {
        auto t = dtype_of(a.i());
        return t ? std::optional(AttrValue(*t)) : std::nullopt;
      }
      return AttrValue(static_cast<std::int64_t>(a.i()));
    default: return std::nullopt;
  }
}

}  // namespace

const pb::AttributeProto* Importer::resolve(const Frame& f, const pb::AttributeProto& a) const {
  if (a.ref_attr_name().empty()) return &a;
  if (!f.call) return nullptr;
  auto it = f.call->attributes.find(a.ref_attr_name());
  return it == f.call->attributes.end() ? nullptr : it->second;
}

std::optional<Attrs> Importer::attributes(Frame& f, const pb::NodeProto& n, const OpInfo& op, const Loc& at) {
  Attrs out;
  bool ok = true;
  std::vector<std::string_view> known;
  for (const AttrSpec& s : op.attrs) known.push_back(s.name);
  for (const pb::AttributeProto& given : n.attribute()) {
    bool is_region = std::ranges::find(op.regions, given.name(), &RegionSpec::name) != op.regions.end();
    if (is_region) continue;
    const pb::AttributeProto* a = resolve(f, given);
    if (!a) continue;  // a reference to what the call leaves out
    auto spec = std::ranges::find(op.attrs, given.name(), &AttrSpec::name);
    if (spec == op.attrs.end()) {
      ok = false;
      Diag d = error(Code::AG1102, at, fmt::format("`{}` has no attribute `{}`", n.op_type(), given.name()));
      if (auto near = suggest(given.name(), known))
        d.help(fmt::format("an attribute with a similar name exists: `{}`", *near));
      else if (!known.empty())
        d.note(fmt::format("it has: {}", fmt::join(known, ", ")));
      report(std::move(d));
      continue;
    }
    if (out.find(spec->name)) {
      report(error(Code::AG1006, at, fmt::format("the attribute `{}` is given twice", given.name())));
      ok = false;
    }
    auto value = attribute(*a, *spec, op, at);
    ok = ok && value;
    if (value) out.set(spec->name, std::move(*value));
  }
  if (!ok) return std::nullopt;
  return out;
}

std::optional<AttrValue> Importer::attribute(const pb::AttributeProto& a, const AttrSpec& spec, const OpInfo& op,
                                             const Loc& at) {
  if (spec.kind == AttrKind::literal && (kind_of(a) == Kind::TENSOR || kind_of(a) == Kind::SPARSE_TENSOR)) {
    auto literal = constant_value(a, at);
    if (!literal) return std::nullopt;
    return AttrValue(std::move(*literal));
  }
  if (spec.kind == AttrKind::type && kind_of(a) == Kind::TYPE_PROTO) {
    auto t = type(a.tp(), a.name(), at);
    if (!t) return std::nullopt;
    return AttrValue(std::move(*t));
  }
  bool text = true;
  if (kind_of(a) == Kind::STRING) text = valid_utf8(a.s());
  for (const std::string& s : a.strings()) text = text && valid_utf8(s);
  auto value = text ? plain_value(a, spec.kind) : std::nullopt;
  if (value && ag::kind_of(*value) == AttrKind::numbers && spec.kind == AttrKind::ints && a.floats_size() == 0)
    value = AttrValue(std::vector<std::int64_t>{});  // an empty list of whatever kind
  if (value) return value;
  if (spec.kind == AttrKind::dtype && kind_of(a) == Kind::INT)
    report(error(Code::AG2011, at,
                 fmt::format("attribute `{}` of `{}` asks for {}, which ag does not compute with", spec.name, op.onnx,
                             onnx_type_name(a.i()))));
  else
    report(error(Code::AG1104, at,
                 fmt::format("attribute `{}` of `{}` is {}, not {}", spec.name, op.onnx, attr_kind_name(spec.kind),
                             text ? kind_name(kind_of(a)) : "text that is not UTF-8")));
  return std::nullopt;
}

std::optional<LiteralPtr> Importer::constant_value(const pb::AttributeProto& a, const Loc& at) {
  auto refuse = [&](std::string why) -> std::optional<LiteralPtr> {
    report(error(Code::AG2011, at, fmt::format("the constant is {}, which ag does not compute with", why)));
    return std::nullopt;
  };
  Array out;
  switch (kind_of(a)) {
    case Kind::TENSOR:
    case Kind::SPARSE_TENSOR: {
      auto array = kind_of(a) == Kind::TENSOR ? read_tensor(a.t(), external_, at)
                                              : read_sparse(a.sparse_tensor(), external_, at);
      if (!array) {
        report(std::move(array).error());
        return std::nullopt;
      }
      out = std::move(*array);
      break;
    }
    case Kind::FLOAT: out = Array::scalar(DType::f32, static_cast<double>(a.f())); break;
    case Kind::INT:
      out = Array(DType::i64, {});
      out.set_int(0, a.i());
      break;
    case Kind::FLOATS: {
      auto values = list<double>(a.floats());
      out = Array::of<double>(DType::f32, {a.floats_size()}, values);
      break;
    }
    case Kind::INTS: out = Array::ints(list<std::int64_t>(a.ints())); break;
    default: return refuse(std::string(kind_name(kind_of(a))));
  }
  return make_literal(std::move(out));
}

}  // namespace ag::onnx

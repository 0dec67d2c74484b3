#include "ir/check.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "ir/base/suggest.hpp"
#include "ir/dtype_sets.hpp"

namespace ag {
namespace {

Loc first(std::span<const Loc> locs) { return locs.empty() ? Loc{} : locs[0]; }

std::string title(const OpInfo& op) { return fmt::format("`{}`", op.onnx.empty() ? op.name : op.onnx); }

std::string names_of(DTypeSet set) {
  std::string out;
  for (int i = 0; i < dtype_count_stored; ++i) {
    auto t = static_cast<DType>(i);
    if (!set.has(t)) continue;
    if (!out.empty()) out += ", ";
    out += dtype_name(t);
  }
  return out;
}

Status check_count(const OpInfo& op, std::span<const ValueId> operands, std::span<const Loc> locs) {
  std::size_t least = 0;
  for (std::size_t i = 0; i < op.operands.size(); ++i)
    if (!op.operands[i].optional) least = i + 1;
  bool variadic = !op.operands.empty() && op.operands.back().variadic;
  std::size_t most = variadic ? ~std::size_t{0} : op.operands.size();
  if (operands.size() < least) {
    return fail(
        Code::AG1101, first(locs),
        fmt::format("{} takes {} {} operand{}, and {} given", title(op),
                    variadic || least < op.operands.size() ? "at least" : "exactly", least, least == 1 ? "" : "s",
                    operands.size() == 1 ? "1 is" : fmt::format("{} are", operands.size())),
        fmt::format("operand `{}` is missing", op.operands[operands.size()].name));
  }
  if (operands.size() > most) {
    return fail(Code::AG1101, first(locs),
                fmt::format("{} takes at most {} operand{}, and {} are given", title(op), most, most == 1 ? "" : "s",
                            operands.size()));
  }
  return {};
}

/// Converts in place where the kinds are compatible.
bool convert_attr(AttrValue& v, AttrKind want) {
  if (kind_of(v) == want) return true;
  if (const auto* i = std::get_if<std::int64_t>(&v)) {
    if (want == AttrKind::number) return v = static_cast<double>(*i), true;
    if (want == AttrKind::boolean && (*i == 0 || *i == 1)) return v = *i == 1, true;
    return false;
  }
  if (const auto* list = std::get_if<std::vector<std::int64_t>>(&v)) {
    if (want == AttrKind::numbers) return v = std::vector<double>(list->begin(), list->end()), true;
    if (want == AttrKind::dims) return v = Dims(list->begin(), list->end()), true;
    if (want == AttrKind::strings && list->empty()) return v = std::vector<std::string>{}, true;
  }
  return false;
}

Status check_attr(const OpInfo& op, const AttrSpec& spec, AttrValue& value, std::span<const Loc> locs) {
  AttrKind given = kind_of(value);
  if (!convert_attr(value, spec.kind)) {
    return fail(Code::AG1104, first(locs),
                fmt::format("attribute `{}` of {} is {}, not {}", spec.name, title(op), attr_kind_name(spec.kind),
                            attr_kind_name(given)));
  }
  const auto* text = std::get_if<std::string>(&value);
  if (!text || spec.choices.empty() || std::ranges::find(spec.choices, *text) != spec.choices.end()) return {};
  std::vector<std::string> choices;
  for (std::string_view c : spec.choices) choices.push_back(fmt::format("\"{}\"", c));
  return fail(Code::AG1105, first(locs),
              fmt::format("attribute `{}` of {} cannot be \"{}\"; it is one of {}", spec.name, title(op), *text,
                          fmt::join(choices, ", ")));
}

Diag unknown_attr(const OpInfo& op, const std::string& name, std::span<const Loc> locs) {
  Diag d = error(Code::AG1102, first(locs), fmt::format("{} has no attribute `{}`", title(op), name));
  std::vector<std::string_view> known;
  for (const AttrSpec& s : op.attrs) known.push_back(s.name);
  if (known.empty())
    d.note(fmt::format("{} has no attributes", title(op)));
  else if (auto near = suggest(name, std::span<const std::string_view>(known)))
    d.help(fmt::format("did you mean `{}`?", *near));
  if (!known.empty()) d.note(fmt::format("it has: {}", fmt::join(known, ", ")));
  return d;
}

}  // namespace

std::string_view attr_kind_name(AttrKind kind) {
  constexpr std::string_view names[] = {"an integer",
                                        "a number",
                                        "a bool",
                                        "a string",
                                        "a list of integers",
                                        "a list of numbers",
                                        "a list of strings",
                                        "a dtype",
                                        "a list of dims",
                                        "a tensor",
                                        "a type"};
  return names[static_cast<int>(kind)];
}

const OperandSpec* operand_spec(const OpInfo& op, std::size_t i) {
  if (i < op.operands.size()) return &op.operands[i];
  return !op.operands.empty() && op.operands.back().variadic ? &op.operands.back() : nullptr;
}

Status check_operands(const Graph& graph, const OpInfo& op, std::span<const ValueId> operands,
                      std::span<const Loc> locs) {
  AG_TRY_(check_count(op, operands, locs));
  std::map<std::string_view, std::size_t> bound;  // type variable -> the operand that fixed it
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const OperandSpec& spec = *operand_spec(op, i);
    if (!operands[i]) {
      if (spec.optional) continue;
      return fail(Code::AG1101, first(locs),
                  fmt::format("operand `{}` of {} cannot be left out", spec.name, title(op)));
    }
    const Type& t = graph.type(operands[i]);
    if (!takes(spec.dtypes, t.dtype)) {
      Diag d = error(Code::AG2101, first(locs),
                     fmt::format("{} does not take {} for `{}`", title(op), dtype_name(t.dtype), spec.name));
      if (Loc at = graph.loc(operands[i]); at.known()) d.at(at, graph.display(operands[i]) + ": " + t.str());
      d.note("allowed: " + names_of(spec.dtypes));
      return fail(std::move(d));
    }
    if (spec.type_var.empty()) continue;
    auto [it, fresh] = bound.emplace(spec.type_var, i);
    const Type& other = graph.type(operands[it->second]);
    if (fresh || other.dtype == t.dtype) continue;
    Diag d = error(Code::AG2102, first(locs),
                   fmt::format("operands of {} have different dtypes: {} is {}, {} is {}", title(op),
                               graph.display(operands[it->second]), other.str(), graph.display(operands[i]), t.str()));
    for (ValueId v : {operands[it->second], operands[i]})
      if (Loc at = graph.loc(v); at.known()) d.at(at, graph.display(v) + ": " + graph.type(v).str());
    return fail(std::move(d).help("insert a Cast"));
  }
  return {};
}

Status check_attrs(const OpInfo& op, Attrs& attrs, std::span<const Loc> locs) {
  Diags diags;
  for (const auto& [name, value] : attrs)
    if (std::ranges::none_of(op.attrs, [&](const AttrSpec& s) { return s.name == name; }))
      diags.push_back(unknown_attr(op, name, locs));
  for (const AttrSpec& spec : op.attrs) {
    const AttrValue* given = attrs.find(spec.name);
    if (given) {
      AttrValue value = *given;
      Status ok = check_attr(op, spec, value, locs);
      if (!ok)
        diags.insert(diags.end(), ok.error().begin(), ok.error().end());
      else if (kind_of(value) != kind_of(*given))
        attrs.set(spec.name, std::move(value));
    } else if (spec.required) {
      diags.push_back(
          error(Code::AG1103, first(locs), fmt::format("{} needs the attribute `{}`", title(op), spec.name)));
    } else if (spec.fallback) {
      attrs.set(spec.name, *spec.fallback);
    }
  }
  if (!diags.empty()) return fail(std::move(diags));
  return {};
}

bool same_computation(const Graph& a, const Graph& b) {
  if (&a == &b) return true;
  if (a.node_count() != b.node_count() || a.inputs != b.inputs || a.outputs.size() != b.outputs.size()) return false;
  for (std::size_t i = 0; i < a.outputs.size(); ++i)
    if (a.outputs[i].value != b.outputs[i].value) return false;
  for (NodeId id : a.node_ids()) {
    const Node &x = a.node(id), &y = b.node(id);
    if (x.op != y.op || x.operands != y.operands || x.result_count != y.result_count || x.remat != y.remat ||
        !equal(x.attrs, y.attrs) || x.regions.size() != y.regions.size())
      return false;
    for (std::size_t r = 0; r < x.regions.size(); ++r)
      if (x.regions[r] != y.regions[r] && !same_computation(*x.regions[r], *y.regions[r])) return false;
  }
  return true;
}

bool unify(const Type& from, const Type& to, std::map<std::string, Dim, std::less<>>& symbols,
           const std::function<bool(const std::string&)>& may_bind) {
  if (from.dtype != to.dtype || from.rank() != to.rank()) return false;
  for (std::size_t i = 0; i < from.shape.size(); ++i)
    if (auto s = from.shape[i].as_symbol(); s && may_bind(*s)) symbols.emplace(*s, to.shape[i]);
  for (std::size_t i = 0; i < from.shape.size(); ++i)
    if (from.shape[i] != to.shape[i] && from.shape[i].substitute(symbols) != to.shape[i]) return false;
  return true;
}

}  // namespace ag

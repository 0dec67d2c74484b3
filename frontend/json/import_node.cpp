// Nodes: operator, operands, results. One wrong node does not hide the next one's errors.
#include <algorithm>

#include <fmt/format.h>

#include "frontend/data/value.hpp"
#include "frontend/json/importer.hpp"
#include "ir/base/suggest.hpp"
#include "ir/check.hpp"

namespace ag::json {

void Importer::nodes(Scope& scope, View list) {
  if (!expect(list, Kind::array, "`nodes`")) return;
  for (View v : list) {
    if (errors_.size() > options_.max_errors) return;
    if (expect(v, Kind::object, "a node")) node(scope, v);
  }
}

void Importer::node(Scope& scope, View v) {
  std::size_t before = errors_.size();
  keys(v, "node", {"op", "domain", "name", "in", "out", "attrs", "regions", "loc"});
  auto outs = out_names(v);
  std::string domain;
  const OpInfo* info = find_op(v, domain);
  View attrs_view = v.find("attrs");
  if (attrs_view && !expect(attrs_view, Kind::object, "`attrs`")) attrs_view = {};
  if (!info && errors_.size() == before && outs) return constant_node(scope, v, attrs_view, *outs);

  GraphBuilder::NodeArgs args;
  auto in = operands(scope, v.find("in"), info);
  std::optional<Attrs> attrs;
  if (info) attrs = attrs_view ? attributes(attrs_view, *info) : Attrs();
  bool ok = info && in && attrs && outs && errors_.size() == before;
  if (info) {
    std::vector<ValueId> none;
    Attrs no_attrs;
    ok = regions(scope, v, *info, in ? *in : none, args.regions, attrs ? *attrs : no_attrs) && ok;
  }
  if (View name = v.find("name")) args.name = text(name, "`name` of a node").value_or("");
  Loc whole = v.loc();
  args.locs = {whole};
  if (View loc = v.find("loc"); loc && text(loc, "`loc`")) {
    // "file:line:col" of the program that the graph was traced from: a second place of the node.
    std::string s(loc.str());
    std::size_t col = s.rfind(':'),
                line = col == std::string::npos || col == 0 ? std::string::npos : s.rfind(':', col - 1);
    auto number = [](std::string_view t) -> std::uint32_t {
      std::uint32_t n = 0;
      for (char c : t) n = c >= '0' && c <= '9' && n < 100000000 ? n * 10 + static_cast<std::uint32_t>(c - '0') : 0;
      return n;
    };
    std::uint32_t l = line == std::string::npos ? 0 : number(std::string_view(s).substr(line + 1, col - line - 1));
    std::uint32_t c = line == std::string::npos ? 0 : number(std::string_view(s).substr(col + 1));
    if (l == 0 || c == 0)
      report(error(Code::AG0014, loc.loc(), "`loc` is \"file:line:col\"", "not a place"));
    else
      args.locs.push_back(make_loc(s.substr(0, line), l, c));
  }
  args.extras = extras(v);
  if (!outs) return;
  if (!ok || errors_.size() != before) return define_all(scope, *outs, nullptr, {});

  args.operands = std::move(*in);
  args.attrs = std::move(*attrs);
  if (counts_results(*info, args.operands, args.attrs))
    args.attrs.set("num_outputs", static_cast<std::int64_t>(outs->size()));
  std::size_t most = info->results.size();
  if (!info->results.empty() && info->results.back().variadic) most = outs->size();
  if (outs->size() > most) {
    View extra = (*outs)[most];
    report(error(Code::AG1014, extra.loc(),
                 fmt::format("`{}` has {} result{}, and {} are named", v.find("op").str(), most, most == 1 ? "" : "s",
                             outs->size()),
                 "one too many"));
    return define_all(scope, *outs, nullptr, {});
  }
  // How many parts a Split makes stood in its results alone until opset 18.
  bool counts = std::ranges::any_of(info->attrs, [](const AttrSpec& a) { return a.name == "num_outputs"; });
  if (counts && opset_ < 18 && !args.attrs.find("num_outputs") && args.operands.size() < 2)
    args.attrs.set("num_outputs", static_cast<std::int64_t>(outs->size()));
  args.result_count = static_cast<std::uint32_t>(outs->size());
  auto id = add_settled(scope.builder, *info, std::move(args), options_.values);
  if (!id) {
    for (Diag& d : id.error()) report(place(std::move(d), v, *info, whole));
    return define_all(scope, *outs, nullptr, {});
  }
  if (scope.graph.node(*id).result_count < outs->size()) {
    View extra = (*outs)[scope.graph.node(*id).result_count];
    report(error(Code::AG1014, extra.loc(),
                 fmt::format("`{}` has {} results here, and {} are named", v.find("op").str(),
                             scope.graph.node(*id).result_count, outs->size()),
                 "one too many"));
  }
  define_all(scope, *outs, &scope.graph, *id);
}

void Importer::define_all(Scope& scope, const std::vector<View>& outs, const Graph* graph, NodeId id) {
  for (std::uint32_t i = 0; i < outs.size(); ++i) {
    if (!outs[i].is(Kind::string) || outs[i].str().empty()) continue;
    bool there = graph && i < graph->node(id).result_count;
    define(scope, outs[i], there ? graph->node(id).result(i) : ValueId());
  }
}

/// ONNX's Constant, whose attribute is the value.
void Importer::constant_node(Scope& scope, View v, View attrs, const std::vector<View>& outs) {
  MaybeLiteral literal;
  View value = attrs ? attrs[0] : View();
  std::string_view key = value ? value.key() : std::string_view();
  bool list = key == "value_ints" || key == "value_floats";
  if (attrs.size() != 1) {
    report(error(Code::AG1103, (attrs ? attrs : v).loc(), "`Constant` has exactly one attribute", "its value"));
  } else if (key == "value") {
    literal = tensor(value, true);
  } else if (list || key == "value_int" || key == "value_float") {
    DType t = key.starts_with("value_int") ? DType::i64 : DType::f32;
    std::vector<std::int64_t> shape;
    if (list && expect(value, Kind::array, fmt::format("`{}`", key))) shape = {static_cast<std::int64_t>(value.size())};
    auto a = data::array_from_json(value, t, &shape, options_.data);
    if (!a)
      report(std::move(a).error());
    else {
      auto l = std::make_shared<Literal>();
      l->dtype = t;
      l->shape = a->shape();
      l->array = std::move(*a);
      literal = std::move(l);
    }
  } else {
    report(
        error(Code::AG1102, value.key_loc(), fmt::format("`Constant` has no attribute `{}`", key), "unknown attribute")
            .note("it has: value, value_int, value_ints, value_float, value_floats"));
  }
  if (outs.size() != 1)
    report(error(Code::AG1014, v.find("out") ? v.find("out").loc() : v.loc(), "`Constant` has one result"));
  if (!literal || outs.size() != 1) return define_all(scope, outs, nullptr, {});
  ValueId id = scope.builder.constant(std::move(*literal), v.loc());
  define_all(scope, outs, &scope.graph, scope.graph.value(id).node);
}

// ---- Operators -----------------------------------------------------------------------------------------------

/// The operator of a node; null if there is none. ONNX's Constant is the one operator that is found here to be null
/// without a report.
const OpInfo* Importer::find_op(View v, std::string& domain) {
  View name = required(v, "op", "node");
  View d = v.find("domain");
  if (d && text(d, "`domain`")) domain = d.str();
  if (domain == "ai.onnx") domain.clear();
  if (!name || !text(name, "`op`") || (d && !d.is(Kind::string))) return nullptr;
  std::string type(name.str());
  const OpTable& table = op_table();
  bool known = domain.empty() || domain == "ag" ||
               std::ranges::any_of(table.all(), [&](const OpInfo& o) { return o.domain == domain; });
  if (!known) {
    report(error(Code::AG1013, d.loc(), fmt::format("the domain `{}` is not known", domain),
                 "known are \"\" (ONNX) and \"ag\""));
    return nullptr;
  }
  // The other domains have one version of each operator.
  if (const OpInfo* found = table.find_onnx(domain, type, domain == "ag" ? ag_opset_ : opset_)) return found;
  // Every op can be named by its own name in the domain `ag`: primitives have no other.
  if (domain == "ag" && type != "input" && type != "constant")
    if (const OpInfo* found = table.find(type)) return found;
  if (domain.empty() && type == "Constant") return nullptr;
  unknown_op(name, domain);
  return nullptr;
}

void Importer::unknown_op(View name, const std::string& domain) {
  std::string type(name.str());
  const OpTable& table = op_table();
  std::string where = domain == "ag"   ? fmt::format("domain ag, version {}", ag_opset_)
                      : domain.empty() ? fmt::format("opset {}", opset_)
                                       : fmt::format("domain {}", domain);
  Diag d = error(Code::AG1002, name.loc(), fmt::format("operator `{}` does not exist in {}", type, where),
                 "unknown operator");
  std::vector<std::string> ranges;
  for (const OpInfo& o : table.all()) {
    if (o.onnx != type || o.domain != domain) continue;
    ranges.push_back(o.until >= 1 << 20 ? fmt::format("{} and later", o.since)
                                        : fmt::format("{} to {}", o.since, o.until));
  }
  if (!ranges.empty()) {
    report(std::move(d).note(fmt::format("`{}` is known in opset {}", type, fmt::join(ranges, ", "))));
    return;
  }
  std::string other = domain == "ag" ? "" : "ag";
  std::vector<std::string> others = table.onnx_names(other);
  if (std::ranges::find(others, type) != others.end() ||
      (other == "ag" && table.find(type) && type != "input" && type != "constant")) {
    report(std::move(d).help(
        other.empty() ? fmt::format("`{}` is an operator of ONNX: leave `domain` out", type)
                      : fmt::format("`{}` is an operator of the domain ag: add `\"domain\": \"ag\"`", type)));
    return;
  }
  std::vector<std::string> names;
  for (const OpInfo& o : table.all()) {
    bool now = o.domain == domain && !o.onnx.empty() && (domain == "ag" || (o.since <= opset_ && opset_ <= o.until));
    if (now) names.emplace_back(o.onnx);
    if (domain == "ag" && o.name != "input" && o.name != "constant") names.emplace_back(o.name);
  }
  if (auto near = suggest(type, names))
    d.help(fmt::format("an operator with a similar name exists: `{}`", *near), name.loc(), quote(*near));
  report(std::move(d));
}

// ---- Results and operands ------------------------------------------------------------------------------------

std::optional<std::vector<View>> Importer::out_names(View v) {
  View out = required(v, "out", "node");
  if (!out) return std::nullopt;
  if (out.is(Kind::string)) {
    if (!check_name(out)) return std::nullopt;
    return std::vector<View>{out};
  }
  if (!out.is(Kind::array)) {
    report(error(Code::AG0014, out.loc(),
                 fmt::format("`out` is a name or an array of names, and this is {}", kind_name(out.kind())),
                 "expected a name"));
    return std::nullopt;
  }
  std::vector<View> names;
  bool ok = true;
  for (View o : out) {
    if (!o.is(Kind::null) && !(o.is(Kind::string) && o.str().empty())) ok = check_name(o) && ok;
    names.push_back(o);
  }
  if (!ok) return std::nullopt;
  return names;
}

std::optional<std::vector<ValueId>> Importer::operands(Scope& scope, View in, const OpInfo* info) {
  if (!in) return std::vector<ValueId>{};
  if (!in.is(Kind::array)) {
    Diag d =
        error(Code::AG0014, in.loc(), fmt::format("`in` is an array of operands, and this is {}", kind_name(in.kind())),
              "expected an array");
    report(std::move(d).help("put it in brackets", in.loc(), fmt::format("[{}]", in.spelling())));
    return std::nullopt;
  }
  bool ok = true;
  std::vector<View> views(in.begin(), in.end());
  std::vector<ValueId> out(views.size());
  std::vector<std::optional<DType>> known(views.size());
  std::vector<bool> literals(views.size());
  for (std::size_t i = 0; i < views.size(); ++i) {
    View v = views[i];
    if (v.is(Kind::null)) continue;
    if (v.is(Kind::object)) {
      report(error(Code::AG0014, v.loc(), "an operand is a name, a literal or null, and this is an object",
                   "not an operand")
                 .help("nodes are not nested: give the inner one its own line and use its result's name"));
      ok = false;
    } else if (v.is(Kind::string)) {
      if (v.str().empty()) continue;
      const Def* def = lookup(scope, v.str());
      if (!def) report(unknown_value(scope, v));
      if (!def || !def->value) {
        ok = false;  // poisoned: said before
        continue;
      }
      // A value of a graph around this region is bound under its own name; see captures().
      out[i] = def->value;
      known[i] = scope.graph.type(def->value).dtype;
    } else {
      literals[i] = true;
    }
  }
  if (!ok || !info) return std::nullopt;
  auto fits = [&](std::size_t i, DType t) {
    return data::array_from_json(views[i], t, nullptr, options_.data).has_value();
  };
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (!literals[i]) continue;
    if (!operand_spec(*info, i)) continue;  // too many operands: the builder says so
    auto t = literal_dtype(*info, i, known, literals, fits);
    if (!t) {
      // Whether the element is at fault or the lack of a type: i64 and f32 take any sound number.
      auto a = data::array_from_json(views[i], DType::f32, nullptr, options_.data);
      if (!a && a.error().front().code != Code::AG2003)
        report(std::move(a).error());
      else
        report(error(Code::AG2002, views[i].loc(),
                     fmt::format("no element type fits the literal `{}`", views[i].spelling()),
                     "neither a value beside it nor its spelling gives one"));
      ok = false;
      continue;
    }
    auto a = data::array_from_json(views[i], *t, nullptr, options_.data);
    if (!a) {
      for (Diag& d : a.error()) {
        for (std::size_t j = 0; j < views.size(); ++j)
          if (known[j] == *t && operand_spec(*info, j)->type_var == operand_spec(*info, i)->type_var) {
            d.at(scope.graph.loc(out[j]), fmt::format("`{}` is {}", views[j].str(), scope.graph.type(out[j]).str()));
            break;
          }
      }
      report(std::move(a).error());
      ok = false;
      continue;
    }
    auto literal = std::make_shared<Literal>();
    literal->dtype = *t;
    literal->shape = a->shape();
    literal->array = std::move(*a);
    literal->inline_operand = true;
    out[i] = scope.builder.constant(std::move(literal), views[i].loc());
  }
  if (!ok) return std::nullopt;
  return out;
}

// ---- Places --------------------------------------------------------------------------------------------------

/// The builder knows a node's place as a whole; this finds the member that an error is about.
Diag Importer::place(Diag d, View v, const OpInfo&, const Loc& whole) {
  if (d.spans.empty() || !(d.spans.front().loc == whole)) return d;
  if (View attrs = v.find("attrs"); attrs.is(Kind::object)) {
    for (View a : attrs) {
      bool axes = a.key() == "axis" || a.key() == "axes" || a.key() == "perm";
      bool about =
          d.message.find(fmt::format("`{}`", a.key())) != std::string::npos || (axes && d.code == Code::AG2202);
      if (!about) continue;
      d.spans.front().loc = a.loc();
      return d;
    }
  }
  View op = v.find("op"), in = v.find("in");
  bool about_operands = d.spans.size() > 1 || d.code == Code::AG1101 || code_name(d.code)[2] == '2';
  if (about_operands && in.is(Kind::array) && in.size() > 0) {
    d.spans.front().loc = in.loc();
    d.spans.insert(d.spans.begin() + 1, Span{op.loc(), {}, false});
  } else {
    d.spans.front().loc = op.loc();
  }
  return d;
}

}  // namespace ag::json

// Regions become closed graphs: what they use from outside is made an operand of the node and an input of every
// region of it, under its own name.
#include <algorithm>

#include <fmt/format.h>

#include "frontend/json/importer.hpp"
#include "ir/base/suggest.hpp"

namespace ag::json {

/// Names that the regions use and the graphs around them define, in order of first use.
std::vector<std::string> Importer::captures(const Scope& scope, View regions) {
  std::vector<std::string> order;
  std::set<std::string, std::less<>> seen;
  auto use = [&](View v) {
    if (!v.is(Kind::string) || v.str().empty() || !lookup(scope, v.str())) return;
    if (seen.emplace(v.str()).second) order.emplace_back(v.str());
  };
  // A name is defined once in the whole text, so one that is visible here is not defined inside.
  std::vector<View> open = {regions};
  while (!open.empty()) {
    View list = open.back();
    open.pop_back();
    std::vector<View> inner;
    for (View region : list) {
      if (View nodes = region.find("nodes"); nodes.is(Kind::array)) {
        for (View node : nodes) {
          if (View in = node.find("in"); in.is(Kind::array))
            for (View v : in) use(v);
          if (View nested = node.find("regions"); nested.is(Kind::object)) inner.push_back(nested);
        }
      }
      if (View outputs = region.find("outputs"); outputs.is(Kind::array))
        for (View v : outputs) use(v);
    }
    open.insert(open.end(), inner.rbegin(), inner.rend());
  }
  return order;
}

std::optional<std::vector<Type>> region_input_types(const OpInfo& op, const Graph& graph,
                                                    std::span<const ValueId> operands, const Attrs& attrs) {
  std::vector<Type> types;
  if (op.onnx == "If") return types;
  if (op.onnx == "FlexAttention") {
    // Scores, or what their softmax gives: [batch, query heads, queries, keys], in the type of the softmax.
    if (operands.size() < 2 || !operands[0] || !operands[1]) return std::nullopt;
    const Type &q = graph.type(operands[0]), &k = graph.type(operands[1]);
    if (q.rank() != 4 || k.rank() != 4) return std::nullopt;
    DType t = attrs.get_or<DType>("softmax_precision", accumulator_dtype(q.dtype));
    return std::vector<Type>{{t, {q.shape[0], q.shape[1], q.shape[2], k.shape[2]}}};
  }
  auto carried = [&](std::size_t from, std::size_t to) {
    for (std::size_t i = from; i < to && i < operands.size(); ++i)
      if (operands[i]) types.push_back(graph.type(operands[i]));
  };
  if (op.onnx == "Loop") {
    types = {Type{DType::i64, {}}, Type{DType::boolean, {}}};
    carried(2, operands.size());
    return types;
  }
  if (op.name == "Scan_8") {  // behind sequence_lens; all have a batch axis, which the body does not see
    carried(1, operands.size());
    std::int64_t scans = attrs.get_or<std::int64_t>("num_scan_inputs", 0);
    for (std::size_t i = 0; i < types.size(); ++i) {
      bool sequence = static_cast<std::int64_t>(types.size() - i) <= scans;
      auto& shape = types[i].shape;
      shape.erase(shape.begin(), shape.begin() + std::min<std::ptrdiff_t>(std::ssize(shape), sequence ? 2 : 1));
    }
    return types;
  }
  if (op.onnx == "Scan") {
    std::size_t scans =
        static_cast<std::size_t>(std::max<std::int64_t>(0, attrs.get_or<std::int64_t>("num_scan_inputs", 0)));
    std::size_t states = operands.size() - std::min(scans, operands.size());
    carried(0, operands.size());
    const auto* axes = attrs.get<std::vector<std::int64_t>>("scan_input_axes");
    for (std::size_t i = states; i < types.size(); ++i) {
      std::int64_t axis = axes && i - states < axes->size() ? (*axes)[i - states] : 0;
      auto at = normalize_axis(axis, types[i].rank());
      if (at) types[i].shape.erase(types[i].shape.begin() + *at);
    }
    return types;
  }
  return std::nullopt;
}

bool counts_results(const OpInfo& op, std::span<const ValueId> operands, const Attrs& attrs) {
  bool counted = std::ranges::any_of(op.attrs, [](const AttrSpec& s) { return s.name == "num_outputs"; });
  return counted && (operands.size() < 2 || !operands[1]) && !attrs.find("num_outputs") && !attrs.find("split");
}

GraphPtr identity_region(std::span<const Type> inputs) {
  auto g = std::make_shared<Graph>();
  GraphBuilder b(*g);
  for (const Type& t : inputs) b.input("", t);
  if (!inputs.empty()) g->outputs = {{"", g->inputs[0], {}}};
  return g;
}

/// Builds a node's regions and appends what they capture to its operands. False if something was refused.
bool Importer::regions(Scope& scope, View v, const OpInfo& op, std::vector<ValueId>& operands,
                       std::vector<GraphPtr>& out, Attrs& attrs) {
  View given = v.find("regions");
  std::string title(op.onnx.empty() ? op.name : op.onnx);
  if (given && !expect(given, Kind::object, "`regions`")) return false;
  bool ok = true;
  std::vector<std::string_view> names;
  for (const RegionSpec& r : op.regions) names.push_back(r.name);
  if (given) {
    for (View r : given) {
      if (std::ranges::find(names, r.key()) != names.end()) continue;
      ok = false;
      Diag d =
          error(Code::AG1106, r.key_loc(), fmt::format("`{}` has no region `{}`", title, r.key()), "unknown region");
      if (auto near = suggest(r.key(), names))
        d.help(fmt::format("a region with a similar name exists: `{}`", *near), r.key_loc(), quote(*near));
      else if (names.empty())
        d.note(fmt::format("`{}` has no regions", title));
      else
        d.note(fmt::format("it has: {}", fmt::join(names, ", ")));
      report(std::move(d));
    }
  }
  if (op.regions.empty()) return ok;
  std::vector<std::string> outside = given ? captures(scope, given) : std::vector<std::string>();
  auto types = region_input_types(op, scope.graph, operands, attrs);
  for (const RegionSpec& r : op.regions) {
    View region_view = given ? given.find(r.name) : View();
    // What modifies a value of a composite may be left out: then it does not.
    if (!region_view && op.tier == Tier::composite && types) {
      std::vector<Type> all = *types;
      for (const std::string& name : outside)
        if (const Def* def = lookup(scope, name); def->value) all.push_back(scope.graph.type(def->value));
      out.push_back(identity_region(all));
      continue;
    }
    if (!region_view) {
      report(error(Code::AG1106, v.find("op").loc(), fmt::format("`{}` needs the region `{}`", title, r.name),
                   fmt::format("`{}` is missing", r.name)));
      ok = false;
      continue;
    }
    GraphPtr g = region(scope, region_view, op, r.name, types, outside);
    ok = ok && g;
    out.push_back(std::move(g));
  }
  // Captures follow the op's own operands, so those that are left out get their places.
  std::size_t fixed = op.operands.size() - (!op.operands.empty() && op.operands.back().variadic ? 1 : 0);
  if (!outside.empty() && operands.size() < fixed) operands.resize(fixed);
  std::size_t captured = 0;
  for (const std::string& name : outside) {
    const Def* def = lookup(scope, name);
    if (!def->value) continue;
    operands.push_back(def->value);
    ++captured;
  }
  bool counted = std::ranges::any_of(op.attrs, [](const AttrSpec& s) { return s.name == "captures"; });
  if (counted) attrs.set("captures", static_cast<std::int64_t>(captured));
  return ok;
}

GraphPtr Importer::region(Scope& outer, View v, const OpInfo& op, std::string_view name,
                          const std::optional<std::vector<Type>>& types, const std::vector<std::string>& captures) {
  if (!expect(v, Kind::object, fmt::format("the region `{}`", name))) return nullptr;
  std::size_t before = errors_.size();
  keys(v, "region", {"inputs", "nodes", "outputs", "initializers"});
  Scope scope(&outer);
  scope.graph.opset = opset_;
  scope.graph.ag_opset = ag_opset_;
  scope.graph.extras = extras(v);
  collect_later(scope, v);
  View inputs = v.find("inputs");
  if (inputs && !expect(inputs, Kind::array, "`inputs`")) inputs = {};
  std::size_t i = 0;
  std::vector<View> list;
  if (inputs) list.assign(inputs.begin(), inputs.end());
  if (types && list.size() != types->size()) {
    View at = list.size() > types->size() ? list[types->size()] : inputs ? inputs : v;
    report(error(Code::AG2210, at.loc(),
                 fmt::format("the region `{}` of `{}` has {} input{} here, and {} are given", name, op.onnx,
                             types->size(), types->size() == 1 ? "" : "s", list.size()),
                 list.size() > types->size() ? "one too many" : "too few")
               .note(op.onnx == "Loop"
                         ? "they are the iteration number (i64[]), the condition (bool[]) and the carried values"
                     : op.onnx == "Scan" ? "they are the states and one slice of each scanned input"
                                         : "a branch of If has no inputs: it sees the values around it"));
    for (View in : list) {
      View n = in.is(Kind::object) ? in.find("name") : in;
      if (n.is(Kind::string)) define(scope, n, {});
    }
    list.clear();
  }
  for (View in : list) {
    View n = in, type_view;
    if (in.is(Kind::object)) {
      keys(in, "region input", {"name", "type"});
      n = required(in, "name", "region input");
      type_view = in.find("type");
    }
    if (!n || !check_name(n)) {
      ++i;
      continue;
    }
    std::optional<Type> t;
    if (types) t = (*types)[i];
    if (type_view) {
      auto stated = type(type_view, n.str());
      bool fits = !t || !stated || (stated->dtype == t->dtype && stated->rank() == t->rank());
      for (int axis = 0; t && stated && fits && axis < t->rank(); ++axis)
        fits = !stated->shape[axis].is_const() || !t->shape[axis].is_const() || stated->shape[axis] == t->shape[axis];
      if (!fits) {
        report(error(Code::AG2103, type_view.loc(),
                     fmt::format("`{}` is stated as {} and is {}", n.str(), stated->str(), t->str()),
                     "not the type that the operands give"));
      }
      if (stated) t = stated;  // may leave a size open that changes from trip to trip
    } else if (!t) {
      report(error(Code::AG0012, in.loc(), fmt::format("the input `{}` of this region needs a `type`", n.str()),
                   "its type follows from nothing"));
    }
    if (t && !defined_.contains(std::string(n.str())))
      define(scope, n, scope.builder.input({}, *t, n.loc()));
    else
      define(scope, n, {});
    ++i;
  }
  for (const std::string& c : captures) {
    const Def* def = lookup(outer, c);
    ValueId id;
    if (def->value) id = scope.builder.input(c, outer.graph.type(def->value), outer.graph.loc(def->value));
    scope.names.emplace(c, Def{id, def->loc});
  }
  if (View list_view = v.find("initializers")) initializers(scope, list_view);
  if (View list_view = v.find("nodes")) nodes(scope, list_view);
  if (View list_view = v.find("outputs")) outputs(scope, list_view);
  if (errors_.size() != before) return nullptr;
  return std::make_shared<const Graph>(std::move(scope.graph));
}

}  // namespace ag::json

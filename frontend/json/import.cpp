// Graph-level members of the format: version, opset, dims, inputs, initializers, outputs, gradient requests.
#include "frontend/json/import.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "frontend/json/importer.hpp"
#include "ir/base/suggest.hpp"
#include "ir/random_keys.hpp"

namespace ag::json {

Result<Graph> import_graph(const Document& doc, const ImportOptions& options) {
  AG_TRY(Graph graph, Importer(doc, options).run());
  return with_random_keys(std::move(graph));
}

Result<Graph> Importer::run() {
  View root = doc_.root();
  if (!root.is(Kind::object)) {
    return fail(Code::AG0014, root.loc(), fmt::format("a graph is an object, and this is {}", kind_name(root.kind())),
                "expected `{`");
  }
  Scope scope;
  if (!header(root, scope.graph)) return fail(std::move(errors_));
  keys(root, "graph",
       {"ag", "opset", "name", "dims", "inputs", "initializers", "nodes", "outputs", "grad", "functions"});
  if (View f = root.find("functions"))
    report(error(Code::AG1012, f.key_loc(), "`functions` is reserved for a later version of the format",
                 "not supported yet"));
  if (View n = root.find("name"))
    if (auto name = text(n, "`name` of the graph")) scope.graph.name = *name;
  scope.graph.extras = extras(root);
  if (View d = root.find("dims")) dims(d, scope.graph);
  collect_later(scope, root);
  if (View v = root.find("inputs")) inputs(scope, v);
  if (View v = root.find("initializers")) initializers(scope, v);
  if (View v = root.find("nodes")) nodes(scope, v);
  if (View v = root.find("outputs")) outputs(scope, v);
  if (View v = root.find("grad")) grads(scope.graph, v);
  if (errors_.empty()) return std::move(scope.graph);
  std::ranges::stable_sort(errors_, [](const Diag& a, const Diag& b) {
    const Loc &x = a.spans.front().loc, &y = b.spans.front().loc;
    return std::pair(x.line, x.col) < std::pair(y.line, y.col);
  });
  if (errors_.size() > options_.max_errors) {
    std::size_t more = errors_.size() - options_.max_errors;
    errors_.resize(options_.max_errors);
    errors_.back().note(fmt::format("{} more error{} not shown", more, more == 1 ? " is" : "s are"));
  }
  return fail(std::move(errors_));
}

bool Importer::header(View root, Graph& graph) {
  View version = root.find("ag");
  if (!version) {
    Diag d = error(Code::AG0012, root.loc(), "the graph has no member `ag`, the version of the format");
    d.spans.front().loc.end_line = d.spans.front().loc.line;
    d.spans.front().loc.end_col = d.spans.front().loc.col + 1;
    report(std::move(d).help("begin with `\"ag\": 1`"));
    return false;
  }
  auto n = integer(version, "`ag`");
  if (!n) return false;
  if (*n != 1) {
    report(error(Code::AG0011, version.loc(), fmt::format("version {} of the format is not known", *n),
                 "this version of ag reads 1"));
    return false;
  }
  if (View v = root.find("opset")) opset(v, graph);
  graph.opset = opset_;
  graph.ag_opset = ag_opset_;
  return true;
}

void Importer::opset(View v, Graph&) {
  auto number = [&](View n, std::int64_t low, std::int64_t high, int& into) {
    auto value = integer(n, "`opset`");
    if (!value) return;
    if (*value >= low && *value <= high)
      into = static_cast<int>(*value);
    else
      report(error(Code::AG1013, n.loc(), fmt::format("opset {} is not supported", *value),
                   fmt::format("{} to {}", low, high)));
  };
  if (!v.is(Kind::object)) return number(v, 6, 28, opset_);
  for (View n : v) {
    if (n.key() == "" || n.key() == "ai.onnx")
      number(n, 6, 28, opset_);
    else if (n.key() == "ag")
      number(n, 1, 1, ag_opset_);
    else if (std::ranges::any_of(op_table().all(), [&](const OpInfo& o) { return o.domain == n.key(); }))
      continue;  // one version of each operator
    else
      report(error(Code::AG1013, n.key_loc(), fmt::format("the domain `{}` is not known", n.key()),
                   "known are \"\" (ONNX) and \"ag\""));
  }
}

void Importer::dims(View v, Graph& graph) {
  if (!expect(v, Kind::object, "`dims`")) return;
  for (View d : v) {
    SymbolInfo info{.name = std::string(d.key()), .loc = d.key_loc()};
    auto dim = Dim::parse(info.name);
    if (!dim || dim->as_symbol() != info.name) {
      report(error(Code::AG1015, d.key_loc(), fmt::format("`{}` cannot be a symbol", info.name),
                   "a symbol is an identifier"));
      continue;
    }
    if (!expect(d, Kind::object, fmt::format("the declaration of `{}`", info.name))) continue;
    keys(d, "declaration of a dim", {"min", "max", "multiple_of"});
    auto bound = [&](std::string_view key, std::int64_t least, std::optional<std::int64_t>& into) {
      View b = d.find(key);
      if (!b) return;
      into = integer(b, fmt::format("`{}`", key));
      if (into && *into < least)
        report(error(Code::AG0008, b.loc(), fmt::format("`{}` is {}", key, *into),
                     fmt::format("must be at least {}", least)));
    };
    bound("min", 0, info.min);
    bound("max", 0, info.max);
    bound("multiple_of", 1, info.multiple_of);
    if (info.min && info.max && *info.min > *info.max)
      report(error(Code::AG0008, d.find("max").loc(), fmt::format("`max` of `{}` is below its `min`", info.name),
                   fmt::format("{} < {}", *info.max, *info.min)));
    info.extras = extras(d);
    graph.symbols.push_back(std::move(info));
  }
}

void Importer::inputs(Scope& scope, View list) {
  if (!expect(list, Kind::array, "`inputs`")) return;
  for (View v : list) {
    if (!expect(v, Kind::object, "an input")) continue;
    keys(v, "input", {"name", "type"});
    View name = required(v, "name", "input"), type_view = required(v, "type", "input");
    std::optional<Type> t = type_view ? type(type_view, name.is(Kind::string) ? name.str() : "input") : std::nullopt;
    if (!name || !check_name(name)) continue;
    if (!t || defined_.contains(std::string(name.str()))) {
      define(scope, name, {});
      continue;
    }
    ValueId id = scope.builder.input({}, *t, type_view.loc());
    scope.graph.node(scope.graph.value(id).node).extras = extras(v);
    define(scope, name, id);
  }
}

void Importer::initializers(Scope& scope, View list) {
  if (!expect(list, Kind::array, "`initializers`")) return;
  for (View v : list)
    if (expect(v, Kind::object, "an initializer")) initializer(scope, v);
}

void Importer::initializer(Scope& scope, View v) {
  keys(v, "initializer", {"name", "type", "data", "fill", "file", "key", "random", "scale", "trainable"});
  View name = required(v, "name", "initializer");
  MaybeLiteral literal = tensor(v, false);
  bool trainable = false;
  if (View t = v.find("trainable"))
    if (expect(t, Kind::boolean, "`trainable`")) trainable = t.as_bool();
  if (!name || !check_name(name)) return;
  if (!literal || defined_.contains(std::string(name.str()))) {
    define(scope, name, {});
    return;
  }
  if (trainable && !is_float((*literal)->dtype)) {
    report(error(Code::AG2101, v.find("trainable").loc(),
                 fmt::format("`{}` is {} and cannot be trainable", name.str(), dtype_name((*literal)->dtype)),
                 "only floats have gradients"));
  }
  GraphBuilder::NodeArgs args;
  args.attrs.set("value", *literal);
  if (trainable) args.attrs.set("trainable", true);
  View at = v.find("type") ? v.find("type") : v;
  args.locs = {at.loc()};
  args.extras = extras(v);
  auto id = scope.builder.try_add(op("constant"), std::move(args));
  if (!id) report(std::move(id).error());
  define(scope, name, id ? scope.graph.node(*id).result() : ValueId());
}

void Importer::outputs(Scope& scope, View list) {
  if (!expect(list, Kind::array, "`outputs`")) return;
  std::map<std::string, Loc> seen;
  for (View v : list) {
    if (!text(v, "an output")) continue;
    std::string name(v.str());
    auto [it, fresh] = seen.emplace(name, v.loc());
    if (!fresh) {
      report(error(Code::AG1006, v.loc(), fmt::format("output `{}` is listed twice", name), "again here")
                 .at(it->second, "first here"));
      continue;
    }
    const Def* def = lookup(scope, name);
    if (!def)
      report(unknown_value(scope, v));
    else if (def->value)
      scope.graph.outputs.push_back({name, def->value, v.loc()});
  }
}

// ---- Gradient requests ---------------------------------------------------------------------------------------

void Importer::grads(Graph& graph, View v) {
  auto add = [&](View request) {
    if (!expect(request, Kind::object, "a gradient request")) return;
    if (auto g = grad(request)) graph.grads.push_back(std::move(*g));
  };
  if (!v.is(Kind::array)) return add(v);
  for (View request : v) add(request);
}

std::vector<std::string> Importer::strings(View list, std::string_view what, std::vector<Loc>& locs) {
  std::vector<std::string> out;
  if (!expect(list, Kind::array, what)) return out;
  for (View v : list) {
    auto s = text(v, fmt::format("an element of {}", what));
    if (!s) continue;
    out.push_back(*s);
    locs.push_back(v.loc());
  }
  return out;
}

std::optional<GradRequest> Importer::grad(View v) {
  std::size_t before = errors_.size();
  keys(v, "gradient request", {"of", "wrt", "seed", "names", "stop", "checkpoint"});
  GradRequest g;
  g.loc = v.loc();
  if (View of = required(v, "of", "gradient request")) {
    g.of = text(of, "`of`").value_or("");
    g.of_loc = of.loc();
  }
  if (View wrt = required(v, "wrt", "gradient request")) {
    if (wrt.is(Kind::string) && wrt.str() == "trainable") {
      g.trainable = true;
      g.wrt = {"trainable"};
      g.wrt_locs = {wrt.loc()};
    } else if (wrt.is(Kind::string)) {
      report(error(Code::AG0014, wrt.loc(), "`wrt` is an array of names, or \"trainable\"", "a single name")
                 .help("put it in brackets", wrt.loc(), fmt::format("[{}]", wrt.spelling())));
    } else {
      g.wrt = strings(wrt, "`wrt`", g.wrt_locs);
    }
  }
  if (View seed = v.find("seed")) {
    g.seed = text(seed, "`seed`").value_or("");
    g.seed_loc = seed.loc();
  }
  if (View stop = v.find("stop")) g.stop = strings(stop, "`stop`", g.stop_locs);
  if (View c = v.find("checkpoint")) {
    g.checkpoint = text(c, "`checkpoint`").value_or("");
    std::vector<std::string> known = {"auto", "none", "sqrt"};
    if (c.is(Kind::string) && std::ranges::find(known, g.checkpoint) == known.end()) {
      Diag d = error(Code::AG1105, c.loc(), fmt::format("`checkpoint` cannot be \"{}\"", g.checkpoint),
                     "one of \"auto\", \"none\", \"sqrt\"");
      if (auto near = suggest(g.checkpoint, known))
        d.help(fmt::format("did you mean \"{}\"?", *near), c.loc(), quote(*near));
      report(std::move(d));
    }
  }
  if (View names = v.find("names"); names && expect(names, Kind::object, "`names`")) {
    for (View n : names) {
      std::string key(n.key());
      if (!g.trainable && std::ranges::find(g.wrt, key) == g.wrt.end()) {
        Diag d = error(Code::AG1001, n.key_loc(),
                       fmt::format("`names` names a gradient of `{}`, which is not in `wrt`", key), "not in `wrt`");
        if (auto near = suggest(key, g.wrt))
          d.help(fmt::format("a name in `wrt` is similar: `{}`", *near), n.key_loc(), quote(*near));
        report(std::move(d));
      }
      if (n.is(Kind::string) && !check_name(n)) continue;
      if (auto s = text(n, "the name of a gradient")) g.names.emplace_back(std::move(key), *s);
    }
  }
  g.extras = extras(v);
  if (errors_.size() != before) return std::nullopt;
  return g;
}

// ---- Names ---------------------------------------------------------------------------------------------------

void Importer::collect_later(Scope& scope, View graph_like) {
  auto add = [&](View name) {
    if (name.is(Kind::string)) scope.later.emplace(name.str(), name);
  };
  for (std::string_view key : {"inputs", "initializers"})
    if (View list = graph_like.find(key); list.is(Kind::array))
      for (View v : list) add(v.is(Kind::object) ? v.find("name") : v);
  if (View list = graph_like.find("nodes"); list.is(Kind::array)) {
    for (View v : list) {
      View out = v.find("out");
      if (!out.is(Kind::array))
        add(out);
      else
        for (View o : out) add(o);
    }
  }
}

const Def* Importer::lookup(const Scope& scope, std::string_view name) const {
  for (const Scope* s = &scope; s; s = s->outer) {
    auto it = s->names.find(name);
    if (it != s->names.end()) return &it->second;
  }
  return nullptr;
}

bool Importer::check_name(View name) {
  if (!expect(name, Kind::string, "a name")) return false;
  constexpr std::size_t longest = 4096;
  if (!name.str().empty() && name.str().size() <= longest) return true;
  report(error(Code::AG1015, name.loc(), name.str().empty() ? "a name is empty" : "a name is longer than 4096 bytes"));
  return false;
}

/// Enters a checked name; a second definition of the same one is refused.
bool Importer::define(Scope& scope, View name, ValueId value) {
  std::string n(name.str());
  auto [it, fresh] = defined_.emplace(n, name.loc());
  if (!fresh) {
    report(error(Code::AG1006, name.loc(), fmt::format("`{}` is defined twice", n), "defined again here")
               .at(it->second, "first defined here")
               .note("a name is defined once in the graph, its regions included"));
    return false;
  }
  scope.names.emplace(n, Def{value, name.loc()});
  if (value) scope.graph.set_name(value, n);
  return true;
}

Diag Importer::unknown_value(const Scope& scope, View use) {
  std::string name(use.str());
  for (const Scope* s = &scope; s; s = s->outer) {
    auto it = s->later.find(name);
    if (it == s->later.end()) continue;
    if (std::string path = cycle_through(*s, name); !path.empty()) {
      return error(Code::AG1008, use.loc(), fmt::format("`{}` depends on itself: {}", name, path), "used here")
          .at(it->second.loc(), "defined here, from this very value");
    }
    return error(Code::AG1007, use.loc(), fmt::format("`{}` is used before it is defined", name), "used here")
        .at(it->second.loc(), "defined later")
        .help(fmt::format("nodes stand in the order in which they run: move the node that defines `{}` before this one",
                          name));
  }
  Diag d = error(Code::AG1001, use.loc(), fmt::format("`{}` is not defined", name), "no value of this name");
  std::vector<std::string> candidates;
  for (const Scope* s = &scope; s; s = s->outer) {
    for (const auto& [n, def] : s->names) candidates.push_back(n);
    for (const auto& [n, view] : s->later)
      if (!s->names.contains(n)) candidates.push_back(n);
  }
  if (auto it = defined_.find(name); it != defined_.end())
    return std::move(d)
        .at(it->second, "defined here, inside a region")
        .note("values of a region are seen outside only through its outputs");
  if (auto near = suggest(name, candidates))
    d.help(fmt::format("a value with a similar name exists: `{}`", *near), use.loc(), quote(*near));
  return d;
}

/// "a -> b -> a" if the definition of `name` needs `name`, through nodes of this scope; empty if not.
std::string Importer::cycle_through(const Scope& scope, const std::string& name) {
  auto uses_of = [&](const std::string& n) {
    std::vector<std::string> out;
    auto it = scope.later.find(n);
    if (it == scope.later.end()) return out;
    View node = it->second.parent();  // the name is the value of `out`, or an element of it
    if (node.is(Kind::array)) node = node.parent();
    if (View in = node.find("in"); in.is(Kind::array))
      for (View v : in)
        if (v.is(Kind::string)) out.emplace_back(v.str());
    return out;
  };
  // Breadth first from `name`; `from` remembers the user, so the path reads backwards.
  std::map<std::string, std::string> from;
  std::vector<std::string> queue = {name};
  for (std::size_t i = 0; i < queue.size(); ++i) {
    std::string current = queue[i];
    for (const std::string& used : uses_of(current)) {
      if (used == name) {
        std::string path = name;
        for (std::string n = current; n != name; n = from[n]) path += " <- " + n;
        return path + " <- " + name;
      }
      if (from.emplace(used, current).second) queue.push_back(used);
    }
  }
  return {};
}

}  // namespace ag::json

// Nodes: operator, operands, results, regions. One wrong node does not hide the next one's errors.
#include <frontend/onnx/onnx.pb.h>

#include <algorithm>

#include <fmt/format.h>

#include "frontend/json/importer.hpp"
#include "frontend/onnx/importer.hpp"

namespace ag::onnx {
namespace {

/// How many results a node names: trailing empty names are results that nobody wants.
int result_count(const pb::NodeProto& n) {
  int count = n.output_size();
  while (count > 0 && n.output(count - 1).empty()) --count;
  return count;
}

}  // namespace

std::vector<std::string> free_names(const std::vector<const pb::GraphProto*>& graphs) {
  std::vector<std::string> order;
  std::set<std::string> seen;
  // A stack of graphs with what each defines: a name is free if no graph from its own outwards defines it.
  struct Open {
    const pb::GraphProto* graph;
    std::size_t outer;  ///< index of the graph around it; itself for the outermost
  };
  std::vector<Open> all;
  std::vector<std::set<std::string_view>> defined;
  for (const pb::GraphProto* g : graphs) all.push_back({g, all.size()});
  for (std::size_t k = 0; k < all.size(); ++k) {
    const pb::GraphProto& g = *all[k].graph;
    auto& own = defined.emplace_back();
    for (const auto& v : g.input()) own.insert(v.name());
    for (const auto& t : g.initializer()) own.insert(t.name());
    for (const auto& t : g.sparse_initializer()) own.insert(t.values().name());
    for (const auto& n : g.node())
      for (const std::string& o : n.output()) own.insert(o);
    for (const auto& n : g.node())
      for (const auto& a : n.attribute()) {
        if (a.has_g()) all.push_back({&a.g(), k});
        for (const auto& inner : a.graphs()) all.push_back({&inner, k});
      }
  }
  for (std::size_t k = 0; k < all.size(); ++k) {
    auto use = [&](const std::string& name) {
      if (name.empty()) return;
      for (std::size_t at = k;; at = all[at].outer) {
        if (defined[at].contains(name)) return;
        if (all[at].outer == at) break;
      }
      if (seen.insert(name).second) order.push_back(name);
    };
    for (const auto& n : all[k].graph->node())
      for (const std::string& i : n.input()) use(i);
    for (const auto& o : all[k].graph->output()) use(o.name());
  }
  return order;
}

void Importer::node(Frame& f, const pb::NodeProto& n, const std::string& path) {
  Loc at = loc(path);
  if (const pb::FunctionProto* function = find_function(n)) return inline_call(f, n, *function, path, at);
  if (domain_of(n).empty() && n.op_type() == "Constant") return constant(f, n, at);
  const OpInfo* op = find_op(f.opsets, n);
  if (op && op->onnx == "Gradient") return gradient(f, n, *op, at);
  if (op) return add_node(f, n, *op, path, at);
  report(unknown_op(f.opsets, n, at));
  poison(f, n, at);
}

void Importer::poison(Frame& f, const pb::NodeProto& n, const Loc& at) {
  for (const std::string& o : n.output())
    if (!o.empty() && check_name(o, at)) define(f, o, {}, at);
}

/// ONNX's Constant, whose attribute is the value.
void Importer::constant(Frame& f, const pb::NodeProto& n, const Loc& at) {
  std::optional<LiteralPtr> literal;
  const pb::AttributeProto* a = n.attribute_size() == 1 ? resolve(f, n.attribute(0)) : nullptr;
  if (a)
    literal = constant_value(*a, at);
  else
    report(error(Code::AG1103, at, "`Constant` has exactly one attribute, its value"));
  if (n.output_size() != 1) report(error(Code::AG1014, at, "`Constant` has one result"));
  if (!literal || n.output_size() != 1 || !check_name(n.output(0), at)) return poison(f, n, at);
  define(f, n.output(0), f.scope.builder.constant(std::move(*literal), at), at);
}

std::optional<std::vector<ValueId>> Importer::operands(Frame& f, const pb::NodeProto& n, const Loc& at) {
  std::vector<ValueId> out;
  bool ok = true;
  for (const std::string& name : n.input()) {
    ValueId& v = out.emplace_back();
    if (name.empty()) continue;
    const Binding* b = lookup(f, name);
    if (!b) report(unknown_value(f, name, at));
    ok = ok && b && (b->value || b->absent);  // poisoned: said before
    if (b) v = b->value;
  }
  if (!ok) return std::nullopt;
  return out;
}

void Importer::add_node(Frame& f, const pb::NodeProto& n, const OpInfo& op, const std::string& path, const Loc& at) {
  auto in = operands(f, n, at);
  auto attrs = attributes(f, n, op, at);
  std::vector<GraphPtr> inner;
  // Captures follow the operands; their number is an attribute.
  std::size_t before = errors_.size();
  bool ok = in && attrs && regions(f, n, op, path, *in, inner, *attrs);
  if (!ok && in && attrs && op.onnx == "If" && inline_branch(f, n, *in, path, before)) return;
  if (!ok) return poison(f, n, at);
  int wanted = result_count(n);
  bool any_number = !op.results.empty() && op.results.back().variadic;
  if (!any_number && wanted > static_cast<int>(op.results.size())) {
    report(error(Code::AG1014, at,
                 fmt::format("`{}` has {} result{}, and {} are named", n.op_type(), op.results.size(),
                             op.results.size() == 1 ? "" : "s", wanted)));
    return poison(f, n, at);
  }
  // How many parts a Split makes stood in its results alone until opset 18.
  bool counts = std::ranges::any_of(op.attrs, [](const AttrSpec& a) { return a.name == "num_outputs"; });
  if (counts && f.scope.graph.opset < 18 && !attrs->find("num_outputs") && in->size() < 2)
    attrs->set("num_outputs", static_cast<std::int64_t>(wanted));
  GraphBuilder::NodeArgs args;
  std::vector<ValueId> condition(in->begin(), in->begin() + (in->empty() ? 0 : 1));
  args.operands = std::move(*in);
  args.attrs = std::move(*attrs);
  args.regions = std::move(inner);
  args.name = valid_utf8(n.name()) ? n.name() : std::string();
  args.locs = {at};
  args.result_count = static_cast<std::uint32_t>(wanted);
  auto id = add_settled(f.scope.builder, op, std::move(args), options_.values);
  if (!id && op.onnx == "If" && inline_branch(f, n, condition, path, before)) return;
  if (!id) {
    report(std::move(id).error());
    return poison(f, n, at);
  }
  define_results(f, n, *id, at);
}

void Importer::define_results(Frame& f, const pb::NodeProto& n, NodeId id, const Loc& at) {
  const Node& added = f.scope.graph.node(id);
  for (int i = 0; i < result_count(n); ++i) {
    const std::string& name = n.output(i);
    if (name.empty() || !check_name(name, at)) continue;
    auto r = static_cast<std::uint32_t>(i);
    if (r >= added.result_count) {
      report(error(
          Code::AG1014, at,
          fmt::format("`{}` has {} results here, and {} are named", n.op_type(), added.result_count, result_count(n))));
      return;
    }
    define(f, name, added.result(r), at);
  }
}

/// A branch that makes no sense for these sizes is none where the condition is known and chooses the other one, which
/// takes the place of the node. `errors`: how many there were before the branches were read.
bool Importer::inline_branch(Frame& f, const pb::NodeProto& n, const std::vector<ValueId>& in, const std::string& path,
                             std::size_t errors) {
  auto condition = in.empty() || !in[0] ? std::nullopt : settled_value(f.scope.graph, in[0], options_.values);
  if (!condition || condition->elems() != 1) return false;
  std::string_view branch = condition->get_int(0) ? "then_branch" : "else_branch";
  auto it = std::ranges::find(n.attribute(), branch, &pb::AttributeProto::name);
  if (it == n.attribute().end() || !it->has_g() || f.depth >= options_.max_region_depth) return false;
  errors_.resize(errors);
  Frame body{.scope = f.scope,
             .outer = nullptr,
             .call = f.call,
             .opsets = f.opsets,
             .path = fmt::format("{}.{}", path, branch),
             .prefix = f.prefix,
             .depth = f.depth + 1,
             .names = f.names};
  const pb::GraphProto& g = it->g();
  for (const auto& o : g.output()) body.given_names.insert(o.name());
  initializers(body, g);
  nodes(body, g.node());
  if (errors_.size() != errors) return false;
  for (int i = 0; i < n.output_size(); ++i) {
    Loc at = loc(path);
    if (n.output(i).empty() || !check_name(n.output(i), at)) continue;
    const Binding* b = i < g.output_size() ? lookup(body, g.output(i).name()) : nullptr;
    if (!b) report(error(Code::AG1014, at, fmt::format("the branch of `If` has no result {}", i)));
    define(f, n.output(i), b ? b->value : ValueId(), at);
  }
  return true;
}

// ---- Regions -------------------------------------------------------------------------------------------------

/// Builds a node's regions and appends what they capture to its operands. False if something was refused.
bool Importer::regions(Frame& f, const pb::NodeProto& n, const OpInfo& op, const std::string& path,
                       std::vector<ValueId>& operands, std::vector<GraphPtr>& out, Attrs& attrs) {
  std::vector<const pb::GraphProto*> graphs;
  for (const RegionSpec& r : op.regions) {
    auto it = std::ranges::find(n.attribute(), r.name, &pb::AttributeProto::name);
    // What modifies a value of a composite may be left out.
    if (it == n.attribute().end() && op.tier == Tier::composite) {
      graphs.push_back(nullptr);
      continue;
    }
    if (it == n.attribute().end() || !it->has_g()) {
      report(error(Code::AG1106, loc(path), fmt::format("`{}` needs the graph `{}`", n.op_type(), r.name)));
      return false;
    }
    graphs.push_back(&it->g());
  }
  if (graphs.empty()) return true;
  if (f.depth >= options_.max_region_depth) {
    report(
        error(Code::AG1108, loc(path), fmt::format("graphs are nested more than {} deep", options_.max_region_depth)));
    return false;
  }
  std::vector<const pb::GraphProto*> there;
  for (const pb::GraphProto* g : graphs)
    if (g) there.push_back(g);
  std::vector<std::string> captures;
  for (std::string& name : free_names(there))
    if (lookup(f, name)) captures.push_back(std::move(name));
  // Whole numbers and conditions that are constants stay constants inside: shapes and axes may depend on them.
  auto copied = [&](const std::string& name) {
    const Binding* b = lookup(f, name);
    return b->value && f.scope.graph.def(b->value).op->name == "constant" &&
           !is_float(f.scope.graph.type(b->value).dtype);
  };
  std::vector<std::string> passed;
  for (const std::string& name : captures)
    if (!copied(name)) passed.push_back(name);
  bool counted = std::ranges::any_of(op.attrs, [](const AttrSpec& s) { return s.name == "captures"; });
  RegionTypes types{json::region_input_types(op, f.scope.graph, operands, attrs)};
  if (types.inputs && op.onnx != "If") {
    auto slices = static_cast<std::size_t>(std::max<std::int64_t>(0, attrs.get_or<std::int64_t>("num_scan_inputs", 0)));
    types.first = op.onnx == "Loop" ? 2 : 0;
    types.last = types.inputs->size() - std::min(types.inputs->size(), slices);
    types.offset = op.onnx == "Loop" ? 1 : 0;
  }
  for (std::size_t r = 0; r < graphs.size(); ++r) {
    std::string inner = fmt::format("{}.{}", path, op.regions[r].name);
    if (!graphs[r]) {
      std::vector<Type> all = types.inputs.value_or(std::vector<Type>());
      for (const std::string& name : passed) all.push_back(f.scope.graph.type(lookup(f, name)->value));
      out.push_back(json::identity_region(all));
      continue;
    }
    GraphPtr g = region(f, *graphs[r], op, inner, types, captures);
    if (!g) return false;
    out.push_back(std::move(g));
  }
  std::size_t fixed = op.operands.size() - (!op.operands.empty() && op.operands.back().variadic ? 1 : 0);
  if (!passed.empty() && operands.size() < fixed) operands.resize(fixed);
  for (const std::string& name : passed) operands.push_back(lookup(f, name)->value);
  if (counted) attrs.set("captures", static_cast<std::int64_t>(passed.size()));
  return true;
}

/// Types of a region's inputs with those sizes open that a trip changes: a symbol of the region where the value goes
/// in with one size and comes out with another.
std::vector<Type> Importer::opened(const Frame& f, const RegionTypes& types) const {
  std::vector<Type> out = *types.inputs;
  const Graph& g = f.scope.graph;
  for (std::size_t i = types.first; i < types.last && i - types.first + types.offset < g.outputs.size(); ++i) {
    const Type& next = g.type(g.outputs[i - types.first + types.offset].value);
    if (next.dtype != out[i].dtype || next.rank() != out[i].rank()) continue;
    for (std::size_t d = 0; d < next.shape.size(); ++d)
      if (out[i].shape[d] != next.shape[d]) out[i].shape[d] = Dim::symbol(fmt::format("carry{}.{}.{}", f.depth, i, d));
  }
  return out;
}

GraphPtr Importer::region(Frame& outer, const pb::GraphProto& g, const OpInfo& op, const std::string& path,
                          const RegionTypes& types, const std::vector<std::string>& captures) {
  std::size_t before = errors_.size();
  if (types.inputs && static_cast<std::size_t>(g.input_size()) != types.inputs->size()) {
    report(error(Code::AG2210, loc(path),
                 fmt::format("this graph of `{}` takes {} inputs here, and {} are declared", op.onnx,
                             types.inputs->size(), g.input_size())));
    return nullptr;
  }
  Scope scope;
  scope.graph.opset = outer.scope.graph.opset;
  Frame f{.scope = scope,
          .outer = &outer,
          .call = outer.call,
          .opsets = outer.opsets,
          .path = path,
          .prefix = outer.prefix,
          .depth = outer.depth + 1};
  for (int i = 0; i < g.input_size(); ++i) {
    const auto& v = g.input(i);
    Loc at = loc(fmt::format("{}.input[{}] {}", path, i, valid_utf8(v.name()) ? v.name() : ""));
    if (!check_name(v.name(), at)) continue;
    std::optional<Type> t = types.inputs ? (*types.inputs)[static_cast<std::size_t>(i)] : input_type(v, at);
    define(f, v.name(), t ? scope.builder.input({}, *t, at) : ValueId(), at);
  }
  // Captures have no frame of their own to be shadowed in: they are the names outside.
  f.outer = nullptr;
  for (const std::string& name : captures) {
    const Binding* b = lookup(outer, name);
    ValueId v;
    if (b->value) {
      const Graph& around = outer.scope.graph;
      const Node& def = around.def(b->value);
      if (def.op->name == "constant" && !is_float(around.type(b->value).dtype))
        v = scope.builder.constant(*def.attrs.get<LiteralPtr>("value"), b->loc);
      else
        v = scope.builder.input({}, around.type(b->value), b->loc);
    }
    define(f, name, v, b->loc);
  }
  f.outer = &outer;
  initializers(f, g);
  nodes(f, g.node());
  outputs(f, g);
  if (errors_.size() != before) return nullptr;
  if (types.last > types.first) {
    RegionTypes wider = types;
    wider.inputs = opened(f, types);
    if (wider.inputs != types.inputs) return region(outer, g, op, path, wider, captures);
  }
  return std::make_shared<const Graph>(std::move(scope.graph));
}

}  // namespace ag::onnx

// ai.onnx.preview.training Gradient: the part of the graph between the values that it names becomes its region.
#include <frontend/onnx/onnx.pb.h>

#include <algorithm>

#include <fmt/format.h>

#include "frontend/onnx/importer.hpp"

namespace ag::onnx {
namespace {

/// The function from `leaves` to `y`, closed: what it needs besides follows as further inputs, named in `captures`.
/// Whole numbers that are constants stay constants.
Graph function_between(const Graph& g, const std::vector<ValueId>& leaves, ValueId y, std::vector<ValueId>& captures) {
  std::vector<bool> live(g.node_count()), leaf(g.value_count());
  for (ValueId v : leaves) leaf[v.index] = true;
  auto need = [&](ValueId v) {
    if (v && !leaf[v.index]) live[g.value(v).node.index] = true;
  };
  auto captured = [&](NodeId id) {
    const Node& n = g.node(id);
    return n.op->name == "input" || (n.op->name == "constant" && is_float(g.type(n.result()).dtype));
  };
  need(y);
  for (std::size_t i = g.node_count(); i-- > 0;)
    if (live[i]) std::ranges::for_each(g.node(NodeId(i)).operands, need);
  Graph out;
  out.opset = g.opset;
  GraphBuilder b(out);
  std::vector<ValueId> map(g.value_count());
  auto input = [&](ValueId v) {
    ValueId in = b.input("", g.type(v), g.loc(v));
    if (!map[v.index]) map[v.index] = in;
  };
  for (ValueId v : leaves) input(v);
  for (NodeId id : g.node_ids())
    if (live[id.index] && captured(id)) {
      input(g.node(id).result());
      captures.push_back(g.node(id).result());
    }
  for (NodeId id : g.node_ids()) {
    if (!live[id.index] || captured(id)) continue;
    NodeId copy = b.copy(g, id, [&](ValueId v) { return map[v.index]; });
    for (std::uint32_t r = 0; r < g.node(id).result_count; ++r)
      if (ValueId v = g.node(id).result(r); !map[v.index]) map[v.index] = out.node(copy).result(r);
  }
  out.outputs.push_back({"", map[y.index], g.loc(y)});
  return out;
}

}  // namespace

/// Operands: values for `xs`, then for `zs`; they may be others than those that the names stand for.
void Importer::gradient(Frame& f, const pb::NodeProto& n, const OpInfo& op, const Loc& at) {
  auto in = operands(f, n, at);
  auto attrs = attributes(f, n, op, at);
  if (!in || !attrs) return poison(f, n, at);
  std::vector<ValueId> leaves;
  auto named = [&](const std::string& name) {
    const Binding* b = lookup(f, name);
    if (!b) report(unknown_value(f, name, at));
    return b ? b->value : ValueId{};
  };
  for (const char* list : {"xs", "zs"})
    for (const std::string& name : attrs->get_or<std::vector<std::string>>(list, {})) leaves.push_back(named(name));
  ValueId y = named(attrs->get_or<std::string>("y", {}));
  if (!y || std::ranges::any_of(leaves, [](ValueId v) { return !v.valid(); })) return poison(f, n, at);
  if (in->size() != leaves.size() || std::ranges::any_of(*in, [](ValueId v) { return !v.valid(); })) {
    report(
        error(Code::AG1101, at,
              fmt::format("`Gradient` names {} values in `xs` and `zs`, and {} are given", leaves.size(), in->size())));
    return poison(f, n, at);
  }
  std::vector<ValueId> captures;
  auto body = std::make_shared<const Graph>(function_between(f.scope.graph, leaves, y, captures));
  GraphBuilder::NodeArgs args;
  args.operands = std::move(*in);
  args.operands.insert(args.operands.end(), captures.begin(), captures.end());
  attrs->set("captures", static_cast<std::int64_t>(captures.size()));
  args.attrs = std::move(*attrs);
  args.regions = {std::move(body)};
  args.name = valid_utf8(n.name()) ? n.name() : std::string();
  args.locs = {at};
  auto id = f.scope.builder.try_add(op, std::move(args));
  if (!id) {
    report(std::move(id).error());
    return poison(f, n, at);
  }
  define_results(f, n, *id, at);
}

}  // namespace ag::onnx

// Brings convolutions and all that lies between them into channels-last order, so that transposes are left only where a
// network begins and ends.
//
// One walk over the nodes, each done in the order in which its operands already lie: a convolution starts an order, and
// the rules of layout_rules.cpp carry it on. Where an op has no rule it gets its operands back as they were. So a value
// has one order, and a transpose is made at most once for each order in which it is wanted. A transpose of a constant
// is evaluated by the pass `fold`.
//
// A change of layout pays if it saves more than the transposes at its borders cost: of products in the old order lanes
// and threads do about half of what they can, a transpose moves an element in and out of memory. If all transposes
// together cost more than all products gain, the graph stays as it is. Exactness: `algorithm`, since sums over channels
// and taps have another order.
#include "passes/layout.hpp"

#include <algorithm>

#include "passes/layout_internal.hpp"
#include "passes/plan.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {

/// Multiply-adds of convolutions that must be there for each element that is transposed.
constexpr double work_per_element = 32;
/// What a symbol counts for in estimates.
constexpr double symbol_size = 8;

bool is_identity(const Order& order) {
  for (std::size_t i = 0; i < order.size(); ++i)
    if (order[i] != static_cast<std::int64_t>(i)) return false;
  return true;
}

Order inverse(const Order& order) {
  Order out(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) out[static_cast<std::size_t>(order[i])] = static_cast<std::int64_t>(i);
  return out;
}

Order moved(const Order& axes, const Order& order) {
  Order at = inverse(order), out;
  for (std::int64_t d : axes) out.push_back(at[static_cast<std::size_t>(d)]);
  return out;
}

double estimated(const Dims& shape) {
  double n = 1;
  for (const Dim& d : shape) n *= d.is_const() ? static_cast<double>(d.value()) : symbol_size;
  return n;
}

namespace {

Order identity(int rank) { return ops::iota_ints(rank); }

/// The axes that are longer than 1, in this order.
Order long_axes(const Dims& shape, const Order& order) {
  Order out;
  for (std::int64_t d : order)
    if (!shape[static_cast<std::size_t>(d)].is(1)) out.push_back(d);
  return out;
}

}  // namespace

Layouts::Layouts(const Graph& g)
    : old(g), graph(empty_like(g)), b(graph), hints(g.value_count()), placed_(g.value_count()) {}

ValueId Layouts::take(ValueId v, const Order& wanted) {
  if (!v) return v;
  const Placed& p = placed_[v.index];
  if (p.order == wanted) return p.id;
  ValueId& to = taken_[{v, wanted}];
  if (to) return to;
  const Dims& shape = old.type(v).shape;
  if (long_axes(shape, p.order) == long_axes(shape, wanted)) return to = b.reshape(p.id, ops::permuted(shape, wanted));
  if (!p.light) moved_elements_ += estimated(shape);
  if (const Node& n = old.def(v); p.light && n.op->name == "broadcast_in_dim") {
    const Placed& from = placed_[n.operands[0].index];
    Order dims = moved(arranged(n.attrs.get_or<Order>("dims", {}), from.order), wanted);
    return to = b.broadcast_in_dim(from.id, ops::permuted(shape, wanted), dims);
  }
  return to = b.transpose(p.id, moved(wanted, p.order));
}

ValueId Layouts::take_in_memory(ValueId v, const Order& wanted) {
  if (!v || placed_[v.index].light) return take(v, wanted);
  const Dims& shape = old.type(v).shape;
  if (long_axes(shape, order(v)) == long_axes(shape, wanted)) return take(v, wanted);
  ValueId& to = in_memory_[{v, wanted}];
  if (!to) to = b.add_op("materialize", {take(v, wanted)});
  return to;
}

ValueId Layouts::take_broadcast(ValueId v, const Order& wanted) {
  const Dims shape = old.type(v).shape;
  if (shape.size() == wanted.size()) return take(v, wanted);
  if (shape.empty()) return placed_[v.index].id;
  Dims full(wanted.size() - shape.size(), 1);
  full.insert(full.end(), shape.begin(), shape.end());
  ValueId x = b.reshape(take(v, identity(static_cast<int>(shape.size()))), full);
  if (long_axes(full, wanted) == long_axes(full, identity(static_cast<int>(full.size()))))
    return b.reshape(x, ops::permuted(full, wanted));
  return b.transpose(x, wanted);
}

bool Layouts::is_light(const NodeView& n) const {
  const OpInfo& op = *n.node().op;
  if (op.name == "input") return false;
  if (!is_virtual(old, n.id)) return false;
  double elements = 0;
  for (ValueId v : n.node().operands)
    if (v && !placed_[v.index].light) elements += estimated(old.type(v).shape);
  return elements * 4 <= estimated(n.out().shape);
}

void Layouts::put(ValueId old_value, ValueId id, Order order) {
  const Value& v = old.value(old_value);
  bool light = is_light(NodeView{old, v.node});
  if (!v.name.empty() && graph.value(id).name.empty() && !graph.find(v.name)) graph.set_name(id, v.name);
  placed_[old_value.index] = {id, std::move(order), light};
}

void Layouts::begin(const NodeView& n) {
  const ValueId grad_of = n.node().grad_of;
  b.set_origin(n.node().locs, grad_of ? placed_[grad_of.index].id : ValueId{});
}

ValueId Layouts::add(const NodeView& n, std::vector<ValueId> operands, Attrs attrs) {
  ValueId id = b.add_op(n.node().op->name, std::move(operands), std::move(attrs));
  Node& made = graph.node(graph.value(id).node);
  made.remat = n.node().remat;
  made.name = n.node().name;
  return id;
}

void Layouts::copy(const NodeView& n) {
  const LowerClass cls = n.node().op->lower_class;
  // A reshape would divide the place of each element before it finds it elsewhere.
  const bool simple = cls == LowerClass::map || cls == LowerClass::index || cls == LowerClass::reduce,
             reads_once = simple && n.node().op->name != "reshape";
  Node node = n.node();
  std::vector<ValueId> operands;
  for (ValueId v : node.operands) {
    Order same = v ? identity(old.type(v).rank()) : Order{};
    operands.push_back(reads_once ? take(v, same) : take_in_memory(v, same));
  }
  node.operands = std::move(operands);
  if (node.grad_of) node.grad_of = placed_[node.grad_of.index].id;
  std::vector<Type> types;
  for (std::uint32_t r = 0; r < node.result_count; ++r) types.push_back(n.out(r));
  NodeId made = graph.append(std::move(node), std::move(types));
  for (std::uint32_t r = 0; r < n.node().result_count; ++r) {
    ValueId from = n.result(r), to = graph.node(made).result(r);
    graph.value(to).known_ints = old.value(from).known_ints;
    put(from, to, identity(n.out(r).rank()));
  }
}

namespace {

/// What users of each value would like, from the convolutions backwards.
void find_hints(Layouts& l) {
  for (std::size_t i = l.old.node_count(); i-- > 0;) {
    NodeView n{l.old, NodeId(i)};
    const Order wish = n.node().result_count == 1 ? l.hints[n.result().index] : Order{};
    for (std::size_t k = 0; k < n.operand_count(); ++k)
      if (n.has(k) && l.hints[n.operand(k).index].empty()) l.hints[n.operand(k).index] = hint_for(n, k, wish);
  }
}

Result<Graph> run(const Graph& g, PassContext&) {
  const auto keep = [](NodeId) { return true; };
  double work = 0;
  for (NodeId id : g.node_ids())
    if (NodeView n{g, id}; n.node().op->name == "conv" && prefers_channels_last(n, false)) {
      ops::ConvParts c = ops::conv_parts(n);
      work += estimated(c.shapes.y) * estimated(ops::dims_from(c.shapes.w, 1));
    }
  if (work == 0) return copy_if(g, keep);
  Layouts l(g);
  find_hints(l);
  for (NodeId id : g.node_ids()) {
    NodeView n{g, id};
    l.begin(n);
    LayoutRule rule = layout_rule(*n.node().op);
    if (!rule || !rule(l, n)) l.copy(n);
  }
  for (ValueId v : g.inputs) l.graph.inputs.push_back(l.at(v).id);
  for (const Output& o : g.outputs)
    l.graph.outputs.push_back({o.name, l.take(o.value, identity(g.type(o.value).rank())), o.loc});
  if (work < work_per_element * l.moved_elements()) return copy_if(g, keep);
  return std::move(l.graph);
}

}  // namespace

const Pass layout = {
    .name = "layout", .summary = "convolutions and what is between them, channels last", .on_graph = run};

}  // namespace ag::passes

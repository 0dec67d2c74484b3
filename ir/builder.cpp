#include "ir/builder.hpp"

#include <algorithm>
#include <cmath>

#include "ir/check.hpp"
#include "ir/known.hpp"
#include "ir/op.hpp"
#include "ir/symbols.hpp"

namespace ag {
namespace {

constexpr std::size_t max_locs = 8;  // a merged constant may stand for thousands of places

std::size_t hash_node(const OpInfo& op, const GraphBuilder::NodeArgs& args) {
  auto mix = [](std::size_t h, std::size_t v) { return ((h ^ v) * 0x9E3779B97F4A7C15ull) ^ (h >> 31); };
  std::size_t h = mix(std::hash<const void*>()(&op), hash(args.attrs));
  for (ValueId v : args.operands) h = mix(h, v.index);
  for (const GraphPtr& r : args.regions) h = mix(h, r->node_count());
  return mix(h, args.remat);
}

bool is_input(const OpInfo& op) { return op.name == "input"; }

/// Random ops without a seed are told apart by the number of their node, which copies keep.
void number_random(const Graph& graph, const OpInfo& op, Attrs& attrs) {
  auto has = [&](std::string_view name) {
    return std::ranges::any_of(op.attrs, [&](const AttrSpec& a) { return a.name == name; });
  };
  if (has("ordinal") && !attrs.find("ordinal") && !attrs.find("seed"))
    attrs.set("ordinal", static_cast<std::int64_t>(graph.node_count()));
}

std::string first_message(const Diags& diags) { return diags.empty() ? "" : diags[0].message; }

/// Attributes with symbols replaced.
Attrs substitute(const Attrs& attrs, const std::map<std::string, Dim, std::less<>>& symbols) {
  if (symbols.empty()) return attrs;
  Attrs out = attrs;
  for (const auto& [name, value] : attrs) {
    if (const auto* dims = std::get_if<Dims>(&value)) {
      Dims fresh;
      for (const Dim& d : *dims) fresh.push_back(d.substitute(symbols));
      out.set(name, std::move(fresh));
    } else if (const auto* type = std::get_if<Type>(&value)) {
      Type fresh = *type;
      for (Dim& d : fresh.shape) d = d.substitute(symbols);
      out.set(name, std::move(fresh));
    }
  }
  return out;
}

}  // namespace

// ---- Adding nodes ------------------------------------------------------------------------------------------

NodeId GraphBuilder::find_interned(const OpInfo& op, const NodeArgs& args, std::size_t hash) const {
  auto [begin, end] = interned_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const Node& n = graph_.node(it->second);
    bool same = n.op == &op && n.operands == args.operands && n.remat == args.remat && equal(n.attrs, args.attrs) &&
                n.regions.size() == args.regions.size() &&
                (args.result_count == 0 || args.result_count == n.result_count);
    for (std::size_t r = 0; same && r < n.regions.size(); ++r) same = same_computation(*n.regions[r], *args.regions[r]);
    if (same) return it->second;
  }
  return {};
}

void GraphBuilder::merge_locs(Node& node, const std::vector<Loc>& locs) {
  for (const Loc& l : locs)
    if (node.locs.size() < max_locs && std::ranges::find(node.locs, l) == node.locs.end()) node.locs.push_back(l);
}

Result<NodeId> GraphBuilder::try_add(const OpInfo& op, NodeArgs args) {
  if (args.locs.empty()) args.locs = locs_;
  if (!args.grad_of) args.grad_of = grad_of_;
  while (!args.operands.empty() && !args.operands.back()) args.operands.pop_back();
  AG_TRY_(check_operands(graph_, op, args.operands, args.locs));
  AG_TRY_(check_attrs(op, args.attrs, args.locs));
  number_random(graph_, op, args.attrs);
  if (args.regions.size() != op.regions.size())
    return fail(Code::AG1106, args.locs.empty() ? Loc{} : args.locs[0],
                "`" + std::string(op.name) + "` has " + std::to_string(op.regions.size()) + " regions, and " +
                    std::to_string(args.regions.size()) + " are given");
  std::size_t hash = intern_ && !is_input(op) ? hash_node(op, args) : 0;
  if (intern_ && !is_input(op)) {
    if (NodeId same = find_interned(op, args, hash)) {
      merge_locs(graph_.node(same), args.locs);
      return same;
    }
  }
  InferCtx ctx(graph_, op, args.operands, args.attrs, args.regions, args.locs);
  AG_TRY(std::vector<Type> types, op.infer(ctx));
  if (args.result_count && args.result_count < types.size()) types.resize(args.result_count);
  if (types.empty() && !op.regions.empty())
    return fail(Code::AG1014, args.locs.empty() ? Loc() : args.locs.front(),
                "`" + std::string(op.onnx.empty() ? op.name : op.onnx) + "` has no results here");
  if (!args.stated.empty()) AG_TRY_(take_stated(op, types, std::move(args.stated), args.locs));
  Node node;
  node.op = &op;
  node.operands = std::move(args.operands);
  node.attrs = std::move(args.attrs);
  node.regions = std::move(args.regions);
  node.name = std::move(args.name);
  node.locs = std::move(args.locs);
  node.grad_of = args.grad_of;
  node.remat = args.remat;
  node.extras = std::move(args.extras);
  NodeId id = graph_.append(std::move(node), std::move(types));
  if (graph_.node(id).result_count > 0)
    graph_.value(graph_.node(id).result()).known_ints = known_elements(NodeView{graph_, id});
  if (intern_ && !is_input(op)) interned_.emplace(hash, id);
  return id;
}

Status GraphBuilder::take_stated(const OpInfo& op, std::vector<Type>& types, std::vector<Type> stated,
                                 std::span<const Loc> locs) const {
  SymbolMap symbols;
  std::string fresh = "u" + std::to_string(graph_.next_unbacked()) + ".";
  Loc loc = locs.empty() ? Loc{} : locs[0];
  if (stated.size() != types.size())
    return fail(Code::AG2103, loc,
                "`" + std::string(op.name) + "` gives " + std::to_string(types.size()) + " results, and " +
                    std::to_string(stated.size()) + " are stated");
  for (std::size_t r = 0; r < stated.size(); ++r)
    if (!unify(types[r], stated[r], symbols, [&](const std::string& s) { return s.starts_with(fresh); }))
      return fail(Code::AG2103, loc,
                  "result " + std::to_string(r) + " is stated to be " + stated[r].str() + ", but `" +
                      std::string(op.name) + "` gives " + types[r].str());
  types = std::move(stated);
  return {};
}

NodeId GraphBuilder::must_add(const OpInfo& op, NodeArgs args) {
  auto id = try_add(op, std::move(args));
  if (!id)
    internal_error("a rule built a wrong `" + std::string(op.name) + "`: " + first_message(id.error()), __FILE__,
                   __LINE__);
  return *id;
}

ValueId GraphBuilder::input(std::string name, Type type, Loc loc) {
  NodeArgs args;
  args.attrs.set("type", std::move(type));
  if (loc.known()) args.locs = {std::move(loc)};
  ValueId v = graph_.node(must_add(op("input"), std::move(args))).result();
  graph_.inputs.push_back(v);
  graph_.set_name(v, std::move(name));
  return v;
}

ValueId GraphBuilder::constant(LiteralPtr literal, Loc loc) {
  NodeArgs args;
  args.attrs.set("value", std::move(literal));
  if (loc.known()) args.locs = {std::move(loc)};
  return graph_.node(must_add(op("constant"), std::move(args))).result();
}

ValueId GraphBuilder::add_op(std::string_view name, std::initializer_list<ValueId> operands, Attrs attrs) {
  return add_op(name, std::vector<ValueId>(operands), std::move(attrs));
}
ValueId GraphBuilder::add_op(std::string_view name, std::vector<ValueId> operands, Attrs attrs) {
  return graph_.node(must_add(op(name), {.operands = std::move(operands), .attrs = std::move(attrs)})).result();
}
std::vector<ValueId> GraphBuilder::add_multi(std::string_view name, std::vector<ValueId> operands, Attrs attrs) {
  const Node& n = graph_.node(must_add(op(name), {.operands = std::move(operands), .attrs = std::move(attrs)}));
  std::vector<ValueId> out;
  for (std::uint32_t r = 0; r < n.result_count; ++r) out.push_back(n.result(r));
  return out;
}

// ---- Constants ---------------------------------------------------------------------------------------------

ValueId GraphBuilder::scalar(DType t, double v) { return constant(make_literal(Array::scalar(t, v))); }
ValueId GraphBuilder::scalar_int(DType t, std::int64_t v) {
  Array a(t, {});
  a.set_int(0, v);
  return constant(make_literal(std::move(a)));
}
ValueId GraphBuilder::ints(std::span<const std::int64_t> values) { return constant(make_literal(Array::ints(values))); }
ValueId GraphBuilder::full(const Type& t, double v) { return broadcast_in_dim(scalar(t.dtype, v), t.shape, {}); }
ValueId GraphBuilder::zeros(const Type& t) { return full(t, 0); }
ValueId GraphBuilder::ones(const Type& t) { return full(t, 1); }

std::optional<double> GraphBuilder::splat_value(ValueId v) const {
  for (;;) {
    const Node& n = graph_.def(v);
    if (n.op->name == "broadcast_in_dim" || n.op->name == "reshape") {
      v = n.operands[0];
      continue;
    }
    if (n.op->name != "constant") return std::nullopt;
    // Until gradients are taken, a named constant is a variable that one may ask for.
    const bool early = graph_.stage == "import" || graph_.stage == "attention";
    if (n.attrs.get_or<bool>("trainable", false) || (early && !graph_.value(v).name.empty())) return std::nullopt;
    const Literal& l = **n.attrs.get<LiteralPtr>("value");
    if (l.form == Literal::Form::random) return std::nullopt;
    if (l.form == Literal::Form::splat)
      return Array::from_bytes(l.dtype, {}, std::as_bytes(std::span(&l.bits, 1)).first(dtype_bytes(l.dtype)))
          .get_double(0);
    if (l.array.elems() != 1) return std::nullopt;
    return l.array.get_double(0);
  }
}

// ---- Elementwise. Left out where every bit stays: x + (-0), x - (+0), x * 1, x / 1 ------------------------------

namespace {
bool is_value(const GraphBuilder& b, ValueId v, double want) {
  auto s = b.splat_value(v);
  return s && *s == want && std::signbit(*s) == std::signbit(want);
}
/// The result of an elementwise op on both has the type of `a`.
bool keeps_shape(const GraphBuilder& b, ValueId a, ValueId other) {
  auto shape = broadcast_shapes(b.type(a).shape, b.type(other).shape);
  return shape && *shape == b.type(a).shape && b.type(a).dtype == b.type(other).dtype;
}
}  // namespace

ValueId GraphBuilder::neg(ValueId a) { return add_op("neg", {a}); }
ValueId GraphBuilder::add(ValueId a, ValueId b) {
  double neutral = is_float(type(a).dtype) ? -0.0 : 0.0;
  if (is_value(*this, b, neutral) && keeps_shape(*this, a, b)) return a;
  if (is_value(*this, a, neutral) && keeps_shape(*this, b, a)) return b;
  return add_op("add", {a, b});
}
ValueId GraphBuilder::sub(ValueId a, ValueId b) {
  if (is_value(*this, b, 0.0) && keeps_shape(*this, a, b)) return a;
  return add_op("sub", {a, b});
}
ValueId GraphBuilder::mul(ValueId a, ValueId b) {
  if (is_value(*this, b, 1.0) && keeps_shape(*this, a, b)) return a;
  if (is_value(*this, a, 1.0) && keeps_shape(*this, b, a)) return b;
  return add_op("mul", {a, b});
}
ValueId GraphBuilder::div(ValueId a, ValueId b) {
  if (is_value(*this, b, 1.0) && keeps_shape(*this, a, b)) return a;
  return add_op("div", {a, b});
}
ValueId GraphBuilder::select(ValueId c, ValueId a, ValueId b) {
  if (a == b && broadcast_shapes(type(c).shape, type(a).shape) == type(a).shape) return a;
  return add_op("select", {c, a, b});
}
ValueId GraphBuilder::convert(ValueId a, DType t) {
  return type(a).dtype == t ? a : add_op("convert", {a}, {{"to", t}});
}

// ---- Movement ----------------------------------------------------------------------------------------------

ValueId GraphBuilder::reshape(ValueId a, Dims shape) {
  if (type(a).shape == shape) return a;
  return add_op("reshape", {a}, {{"shape", std::move(shape)}});
}

ValueId GraphBuilder::transpose(ValueId a, std::vector<std::int64_t> perm) {
  bool identity = true;
  for (std::size_t i = 0; i < perm.size(); ++i) identity = identity && perm[i] == static_cast<std::int64_t>(i);
  return identity ? a : add_op("transpose", {a}, {{"perm", std::move(perm)}});
}

ValueId GraphBuilder::broadcast_in_dim(ValueId a, Dims shape, std::vector<std::int64_t> dims) {
  bool identity = type(a).shape == shape;
  for (std::size_t i = 0; i < dims.size(); ++i) identity = identity && dims[i] == static_cast<std::int64_t>(i);
  return identity ? a : add_op("broadcast_in_dim", {a}, {{"shape", std::move(shape)}, {"dims", std::move(dims)}});
}

ValueId GraphBuilder::broadcast_to(ValueId a, Dims shape) {
  std::vector<std::int64_t> dims;
  std::size_t rank = type(a).shape.size();
  AG_CHECK(rank <= shape.size(), "broadcast to a lower rank");
  for (std::size_t i = 0; i < rank; ++i) dims.push_back(static_cast<std::int64_t>(shape.size() - rank + i));
  return broadcast_in_dim(a, std::move(shape), std::move(dims));
}

ValueId GraphBuilder::sum_to(ValueId a, const Dims& shape) {
  const Dims& from = type(a).shape;
  if (from == shape) return a;
  std::vector<std::int64_t> axes;
  std::size_t extra = from.size() >= shape.size() ? from.size() - shape.size() : 0;
  bool known = from.size() >= shape.size();
  for (std::size_t i = 0; known && i < from.size(); ++i) {
    if (i < extra)
      axes.push_back(static_cast<std::int64_t>(i));
    else if (from[i] == shape[i - extra])
      continue;
    else if (shape[i - extra].is(1))
      axes.push_back(static_cast<std::int64_t>(i));
    else
      known = false;  // a symbol that may be 1: settled at run time
  }
  if (!known) return add_op("sum_to_shape", {a}, {{"shape", shape}});
  return reshape(reduce("reduce_sum", a, axes), shape);
}

ValueId GraphBuilder::reduce(std::string_view name, ValueId a, std::vector<std::int64_t> axes, bool keepdims) {
  if (axes.empty()) return a;
  Dims kept = type(a).shape;
  for (std::int64_t axis : axes) kept[static_cast<std::size_t>(axis)] = 1;
  ValueId r = add_op(name, {a}, {{"axes", std::move(axes)}});
  return keepdims ? reshape(r, std::move(kept)) : r;
}

ValueId GraphBuilder::iota(const Type& type, std::int64_t axis) {
  return add_op("iota", std::vector<ValueId>{}, {{"type", type}, {"axis", axis}});
}

ValueId GraphBuilder::slice(ValueId a, Dims start, Dims limit, std::vector<std::int64_t> stride) {
  if (stride.empty()) stride.assign(start.size(), 1);
  bool whole = limit == type(a).shape;
  for (std::size_t i = 0; i < start.size(); ++i) whole = whole && start[i].is(0) && stride[i] == 1;
  return whole ? a
               : add_op("slice", {a},
                        {{"start", std::move(start)}, {"limit", std::move(limit)}, {"stride", std::move(stride)}});
}

ValueId GraphBuilder::concat(std::vector<ValueId> parts, std::int64_t axis) {
  return parts.size() == 1 ? parts[0] : add_op("concat", std::move(parts), {{"axis", axis}});
}

ValueId GraphBuilder::dot_general(ValueId a, ValueId b, std::vector<std::int64_t> lhs_contract,
                                  std::vector<std::int64_t> rhs_contract, std::vector<std::int64_t> lhs_batch,
                                  std::vector<std::int64_t> rhs_batch) {
  return add_op("dot_general", {a, b},
                {{"lhs_contract", std::move(lhs_contract)},
                 {"rhs_contract", std::move(rhs_contract)},
                 {"lhs_batch", std::move(lhs_batch)},
                 {"rhs_batch", std::move(rhs_batch)}});
}

// ---- Copies ------------------------------------------------------------------------------------------------

NodeId GraphBuilder::copy_node(const Graph& from, NodeId id, const std::function<ValueId(ValueId)>& map,
                               SymbolMap& symbols, bool names) {
  const Node& old = from.node(id);
  NodeArgs args;
  for (ValueId v : old.operands) args.operands.push_back(v ? map(v) : ValueId{});
  args.attrs = substitute(old.attrs, symbols);
  args.regions = old.regions;
  args.locs = old.locs;
  args.grad_of = old.grad_of ? map(old.grad_of) : ValueId{};
  args.remat = old.remat;
  args.extras = old.extras;
  args.result_count = old.result_count;
  if (names) args.name = old.name;
  std::uint64_t first_fresh = graph_.next_unbacked();
  NodeId fresh = must_add(*old.op, std::move(args));
  const Node& made = graph_.node(fresh);
  for (std::uint32_t r = 0; r < old.result_count; ++r) {
    const Value& was = from.value(old.result(r));
    bool fresh_sizes = graph_.next_unbacked() != first_fresh;  // else sizes that only the data knew may be known now
    unify(was.type, graph_.type(made.result(r)), symbols,
          [&](const std::string& s) { return fresh_sizes || is_unbacked(s); });
    Value& now = graph_.value(made.result(r));
    if (!now.known_ints && was.known_ints) {  // a rule may see less of operands that were rewritten
      Dims known = *was.known_ints;
      for (Dim& d : known) d = d.substitute(symbols);
      now.known_ints = std::make_shared<const Dims>(std::move(known));
    }
    if (names && !was.name.empty() && graph_.value(made.result(r)).name.empty() && !graph_.find(was.name))
      graph_.set_name(made.result(r), was.name);
  }
  if (is_input(*old.op)) graph_.inputs.push_back(made.result());
  return fresh;
}

NodeId GraphBuilder::copy(const Graph& from, NodeId id, const std::function<ValueId(ValueId)>& map) {
  return copy_node(from, id, map, copied_symbols_[&from], true);
}

std::vector<ValueId> GraphBuilder::inline_graph(const Graph& from, std::span<const ValueId> args) {
  AG_CHECK(args.size() == from.inputs.size(), "arguments of an inlined graph");
  SymbolMap symbols;
  std::vector<ValueId> map(from.value_count());
  for (std::size_t i = 0; i < args.size(); ++i) {
    unify(from.type(from.inputs[i]), type(args[i]), symbols, [](const std::string&) { return true; });
    map[from.inputs[i].index] = args[i];
  }
  for (NodeId id : from.node_ids()) {
    const Node& n = from.node(id);
    if (is_input(*n.op)) continue;
    NodeId fresh = copy_node(from, id, [&](ValueId v) { return map[v.index]; }, symbols, false);
    for (std::uint32_t r = 0; r < n.result_count; ++r) map[n.result(r).index] = graph_.node(fresh).result(r);
  }
  std::vector<ValueId> out;
  for (const Output& o : from.outputs) out.push_back(map[o.value.index]);
  return out;
}

}  // namespace ag

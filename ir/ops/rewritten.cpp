#include "ir/ops/rewritten.hpp"

#include <set>

namespace ag::ops {
namespace {

Loc first(std::span<const Loc> locs) { return locs.empty() ? Loc{} : locs[0]; }

/// A graph of the node's operands alone, in which types are tried out.
struct Scratch {
  Graph graph;
  Builder b{graph};
  std::vector<ValueId> operands;

  Scratch(const Graph& from, std::span<const ValueId> in) {
    std::set<std::string> taken;
    for (ValueId v : in) {
      if (!v) {
        operands.emplace_back();
        continue;
      }
      const Value& value = from.value(v);
      const LiteralPtr* literal =
          from.def(v).op->name == "constant" ? from.def(v).attrs.get<LiteralPtr>("value") : nullptr;
      ValueId mine = literal ? b.constant(*literal) : b.input("", value.type);
      if (!value.name.empty() && taken.insert(value.name).second) graph.set_name(mine, value.name);
      graph.value(mine).known_ints = value.known_ints;
      operands.push_back(mine);
    }
  }
};

/// Symbols that the scratch graph made up are the node's own.
void own_symbols(std::vector<Type>& types, const InferCtx& c) {
  std::set<std::string> given, now;
  for (std::size_t i = 0; i < c.operand_count(); ++i)
    if (c.has(i)) {
      for (const Dim& d : c.in(i).shape) d.collect_symbols(given);
      if (auto v = c.ints(i))
        for (const Dim& d : *v) d.collect_symbols(given);
    }
  for (const Type& t : types)
    for (const Dim& d : t.shape) d.collect_symbols(now);
  std::map<std::string, Dim, std::less<>> fresh;
  for (const std::string& s : now)
    if (!given.contains(s)) fresh.emplace(s, c.unbacked(fresh.size()));
  if (fresh.empty()) return;
  for (Type& t : types)
    for (Dim& d : t.shape) d = d.substitute(fresh);
}

}  // namespace

std::optional<Dims> Rewriting::ints(std::size_t i) const {
  if (!has(i) || !b.graph().value(operands[i]).known_ints) return std::nullopt;
  return *b.graph().value(operands[i]).known_ints;
}

Result<std::vector<ValueId>> Rewriting::nodes(std::string_view name, std::vector<ValueId> in, Attrs a) const {
  AG_TRY(NodeId id, b.try_add(ag::op(name), {.operands = std::move(in), .attrs = std::move(a)}));
  const Node& n = b.graph().node(id);
  std::vector<ValueId> out;
  for (std::uint32_t r = 0; r < n.result_count; ++r) out.push_back(n.result(r));
  return out;
}

Result<Expr> Rewriting::node(std::string_view name, std::vector<ValueId> in, Attrs a) const {
  AG_TRY(std::vector<ValueId> out, nodes(name, std::move(in), std::move(a)));
  return Expr(b, out[0]);
}

std::unexpected<Diags> Rewriting::fail(Code code, std::string message, std::string label) const {
  return ag::fail(error(code, {}, std::move(message), std::move(label)));
}

Types infer_rewritten(const InferCtx& c, Rewrite rewrite) {
  std::vector<ValueId> in;
  for (std::size_t i = 0; i < c.operand_count(); ++i) in.push_back(c.has(i) ? c.operand(i) : ValueId());
  Scratch s(c.graph(), in);
  auto out = rewrite({s.b, c.op(), s.operands, c.attrs(), 0, {}});
  if (!out) {
    // Said of the scratch graph: told at the node, with the places of its operands.
    const Diag& d = out.error().front();
    auto placed = c.error(d.code, d.message, d.spans.empty() ? "" : d.spans.front().label);
    Diags all = std::move(placed).error();
    for (std::size_t i = 0; i < c.operand_count(); ++i)
      if (c.has(i))
        if (Loc at = c.graph().loc(c.operand(i)); at.known())
          all[0].at(at, c.graph().display(c.operand(i)) + ": " + c.in(i).str());
    return std::unexpected(std::move(all));
  }
  std::vector<Type> types;
  for (ValueId v : *out) types.push_back(s.graph.type(v));
  own_symbols(types, c);
  return types;
}

std::optional<Dims> known_rewritten(const View& n, Rewrite rewrite) {
  // Sizes are few; nobody asks for the elements of a large tensor.
  bool any = false;
  for (std::size_t i = 0; i < n.operand_count(); ++i) any = any || known(n, i);
  if (!any || !n.out().elems().is_const() || n.out().elems().value() > 1024) return std::nullopt;
  Scratch s(n.graph, n.node().operands);
  auto out = rewrite({s.b, *n.node().op, s.operands, n.attrs(), n.node().result_count, {}});
  if (!out || !s.graph.value((*out)[0]).known_ints) return std::nullopt;
  return *s.graph.value((*out)[0]).known_ints;
}

std::vector<ValueId> build_rewritten(Builder& b, const View& n, Rewrite rewrite) {
  std::vector<ValueId> operands = n.node().operands;
  Attrs attrs = n.attrs();
  std::vector<Type> types;
  for (std::uint32_t r = 0; r < n.node().result_count; ++r) types.push_back(n.out(r));
  auto out = rewrite({b, *n.node().op, operands, attrs, types.size(), types});
  AG_CHECK(out, "a node that was typed cannot be rewritten");
  return std::move(*out);
}

}  // namespace ag::ops

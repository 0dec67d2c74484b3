// What must hold of sizes that are known at run time only, so that no kernel reads beside its operands.
#include "ir/op.hpp"
#include "passes/lower_graph.hpp"

namespace ag::passes {
namespace {

using Rel = loop::DimGuard::Rel;
using Add = std::function<void(Dim, Rel, Dim, std::string)>;

Dims dims_attr(const Node& n, std::string_view name) { return n.attrs.get_or<Dims>(name, {}); }
std::vector<std::int64_t> ints_attr(const Node& n, std::string_view name) {
  return n.attrs.get_or<std::vector<std::int64_t>>(name, {});
}

/// bcast(N, M) has a value only if N == M or one of them is 1: evaluating it is the check.
void broadcasts(const Graph& g, const Node& n, const Add& add) {
  for (std::uint32_t r = 0; r < n.result_count; ++r)
    for (const Dim& d : g.type(n.result(r)).shape) {
      if (d.is_const()) continue;
      for (const Dim::Term& t : d.terms())
        for (const Dim::Factor& f : t.factors)
          if (f.kind == Dim::Atom::bcast) {
            Dim whole = Dim::bcast(f.args[0], f.args[1]);
            add(whole, Rel::eq, whole, "sizes " + f.args[0].str() + " and " + f.args[1].str() + " broadcast");
          }
    }
}

void operand_broadcasts(const Dim& have, const Dim& want, const Add& add) {
  if (have != want && !have.is(1))
    add(Dim::bcast(have, want), Rel::eq, want, "size " + have.str() + " broadcasts to " + want.str());
}

/// A symbol that meets a constant other than 1.
void operands_broadcast(const Graph& g, const Node& n, const Add& add) {
  const Dims& to = g.type(n.result()).shape;
  for (ValueId v : n.operands) {
    if (!v) continue;
    const Dims& from = g.type(v).shape;
    for (std::size_t d = 0; d < from.size() && from.size() <= to.size(); ++d)
      if (const Dim& want = to[d + to.size() - from.size()]; want.is_const()) operand_broadcasts(from[d], want, add);
  }
}

void equal_sizes(const Dim& a, const Dim& b, const std::string& what, const Add& add) {
  if (a != b) add(a, Rel::eq, b, what);
}

void slices(const Graph& g, const Node& n, const Add& add) {
  Dims start = dims_attr(n, "start"), limit = dims_attr(n, "limit");
  const Dims& from = g.type(n.operands[0]).shape;
  auto at_most = [&](const Dim& a, const Dim& b) {
    if (Dim room = b - a; !room.is_const() || room.value() < 0) add(a, Rel::le, b, "a slice lies within its operand");
  };
  for (std::size_t d = 0; d < from.size() && d < start.size() && d < limit.size(); ++d) {
    if (start[d].is(0) && limit[d] == from[d]) continue;
    at_most(0, start[d]);
    at_most(start[d], limit[d]);
    at_most(limit[d], from[d]);
  }
}

void contractions(const Graph& g, NodeId id, const Add& add) {
  const Node& n = g.node(id);
  ContractionDesc c = n.op->contraction(NodeView{g, id});
  const Dims &a = g.type(n.operands[0]).shape, &b = g.type(n.operands[1]).shape;
  auto pair = [&](const std::vector<int>& x, const std::vector<int>& y) {
    for (std::size_t i = 0; i < x.size(); ++i)
      equal_sizes(a[static_cast<std::size_t>(x[i])], b[static_cast<std::size_t>(y[i])],
                  "the sizes that a product sums over, or goes along, are equal", add);
  };
  pair(c.lhs_batch, c.rhs_batch);
  pair(c.lhs_contract, c.rhs_contract);
}

}  // namespace

void node_guards(const Graph& g, NodeId id, const Add& add) {
  const Node& n = g.node(id);
  const std::string_view op = n.op->name;
  broadcasts(g, n, add);
  if (n.operands.empty() || !n.operands[0]) return;
  if (n.op->lower_class == LowerClass::map) return operands_broadcast(g, n, add);
  const Dims &from = g.type(n.operands[0]).shape, &to = g.type(n.result()).shape;
  if (op == "reshape") {
    equal_sizes(product(from), product(to), "a reshape keeps the number of elements", add);
  } else if (op == "slice") {
    slices(g, n, add);
  } else if (op == "broadcast_in_dim") {
    auto dims = ints_attr(n, "dims");
    for (std::size_t i = 0; i < dims.size() && i < from.size(); ++i)
      operand_broadcasts(from[i], to[static_cast<std::size_t>(dims[i])], add);
  } else if (op == "concat") {
    std::int64_t axis = n.attrs.get_or<std::int64_t>("axis", 0);
    if (axis < 0) axis += static_cast<std::int64_t>(to.size());
    for (ValueId v : n.operands)
      for (std::size_t d = 0; d < to.size(); ++d)
        if (d != static_cast<std::size_t>(axis))
          equal_sizes(g.type(v).shape[d], to[d], "parts of a concatenation agree on the other axes", add);
  } else if (op == "gather") {
    Dims sizes = dims_attr(n, "slice_sizes");
    for (std::size_t d = 0; d < sizes.size() && d < from.size(); ++d)
      if (Dim room = from[d] - sizes[d]; !room.is_const() && !sizes[d].is(1))
        add(sizes[d], Rel::le, from[d], "a window lies within its operand");
  } else if (op == "argsort") {
    for (std::size_t d = 0; d < to.size(); ++d)
      if (Dim room = from[d] - to[d]; !room.is_const() || room.value() < 0)
        add(to[d], Rel::le, from[d], "no more elements are wanted than there are");
  } else if (n.op->contraction) {
    contractions(g, id, add);
  }
}

}  // namespace ag::passes

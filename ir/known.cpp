#include "ir/known.hpp"

#include "ir/op.hpp"

namespace ag {
namespace {

constexpr std::int64_t most = 64;  ///< elements that are worth the trouble: shapes are short

bool all_known(const NodeView& n) {
  if (n.operand_count() == 0) return false;
  for (std::size_t i = 0; i < n.operand_count(); ++i)
    if (n.has(i) && !n.graph.value(n.operand(i)).known_ints) return false;
  return true;
}

/// The same node's decomposition in a graph of its own, whose inputs are known too. Symbols stay symbols.
std::shared_ptr<const Dims> by_parts(const NodeView& n) {
  Graph scratch;
  GraphBuilder b(scratch);
  Node copy = n.node();
  for (ValueId& v : copy.operands) {
    if (!v) continue;
    const Value& value = n.graph.value(v);
    v = b.input("", value.type);
    scratch.value(v).known_ints = value.known_ints;
  }
  std::vector<Type> types;
  for (std::uint32_t r = 0; r < copy.result_count; ++r) types.push_back(n.out(r));
  NodeId id = scratch.append(std::move(copy), std::move(types));
  std::vector<ValueId> results = n.node().op->decompose(b, NodeView{scratch, id});
  return results.empty() || !results[0] ? nullptr : scratch.value(results[0]).known_ints;
}

std::optional<Array> concrete(const Value& v) {
  auto shape = static_shape(v.type.shape);
  if (!shape) return std::nullopt;
  Array a(v.type.dtype, *shape);
  if (a.elems() != static_cast<std::int64_t>(v.known_ints->size())) return std::nullopt;
  for (std::int64_t i = 0; i < a.elems(); ++i) {
    const Dim& d = (*v.known_ints)[static_cast<std::size_t>(i)];
    if (!d.is_const()) return std::nullopt;
    a.set_int(i, d.value());
  }
  return a;
}

std::shared_ptr<const Dims> by_value(const NodeView& n) {
  if (!static_shape(n.out().shape)) return nullptr;
  std::vector<Array> operands;
  for (ValueId v : n.node().operands) {
    auto a = v ? concrete(n.graph.value(v)) : std::optional(Array());
    if (!a) return nullptr;
    operands.push_back(std::move(*a));
  }
  auto results = evaluate(n, operands);  // an error comes again when the graph runs
  if (!results || results->empty()) return nullptr;
  auto out = std::make_shared<Dims>();
  for (std::int64_t i = 0; i < (*results)[0].elems(); ++i) out->emplace_back((*results)[0].get_int(i));
  return out;
}

}  // namespace

std::shared_ptr<const Dims> known_elements(const NodeView& n) {
  const OpInfo& op = *n.node().op;
  const Type& t = n.out();
  if (is_float(t.dtype) || is_storage(t.dtype)) return nullptr;
  if (op.known_ints)
    if (auto known = op.known_ints(n)) return std::make_shared<const Dims>(*std::move(known));
  if (!t.elems().is_const() || t.elems().value() > most || !n.node().regions.empty() || !all_known(n)) return nullptr;
  if (op.tier == Tier::composite)
    if (auto known = by_parts(n)) return known;
  return by_value(n);
}

}  // namespace ag

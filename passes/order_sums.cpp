// Which products are sums along lanes.
//
// Products of a few rows whose right operand lies with its terms one after another are sums of products along lanes
// (attribute `lanes`): each line of the large operand is read once, in order, and nothing is turned. That is another
// order of the same terms (class `algorithm`), which follows from the op, its sizes and the instruction set alone.
#include "passes/order_sums.hpp"

#include "ir/op.hpp"
#include "passes/contraction_model.hpp"
#include "passes/rebuild.hpp"
#include "passes/strided_view.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

Int at(const Ints& from, Int i) { return from[static_cast<std::size_t>(i)]; }

/// Whether both operands lie with their terms one after another, the left one has few rows, and the right one is so
/// large that reading it is what takes time.
bool along_lanes(const Graph& g, const Node& n, const TargetSpec& target) {
  const Type &lhs = g.type(n.operands[0]), &rhs = g.type(n.operands[1]);
  if (!is_float(lhs.dtype) || lhs.dtype != rhs.dtype || is_storage(lhs.dtype)) return false;
  const Ints lhs_contract = n.attrs.get_or<Ints>("lhs_contract", {}),
             rhs_contract = n.attrs.get_or<Ints>("rhs_contract", {});
  if (lhs_contract.size() != 1 || !n.attrs.get_or<Ints>("lhs_batch", {}).empty()) return false;
  auto left = strided_view(g, n.operands[0]), right = strided_view(g, n.operands[1]);
  if (!left || !right || at(left->strides, lhs_contract[0]) != 1 || at(right->strides, rhs_contract[0]) != 1)
    return false;
  auto free = [](const StridedView& v, Int contracted) {  // elements of the other axes; 0 if there are several
    Int size = 1;
    for (Int d = 0; d < static_cast<Int>(v.shape.size()); ++d)
      if (d != contracted && at(v.shape, d) != 1) size = size == 1 ? at(v.shape, d) : 0;
    return size;
  };
  return few_rows(free(*left, lhs_contract[0]), free(*right, rhs_contract[0]), at(left->shape, lhs_contract[0]),
                  static_cast<Int>(dtype_bytes(rhs.dtype)), target);
}

Result<Graph> run(const Graph& g, PassContext& context) {
  if (context.target.kind != TargetSpec::Kind::cpu) return g;
  Graph out = empty_like(g);
  GraphBuilder b(out);
  ValueMap map(g.value_count());
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (n.op->name != "dot_general" || !along_lanes(g, n, context.target)) {
      copy_node(b, g, id, map);
      continue;
    }
    b.set_origin(n.locs, n.grad_of ? map[n.grad_of.index] : ValueId{});
    Attrs attrs = n.attrs;
    attrs.set("lanes", static_cast<Int>(context.target.lanes(dtype_bytes(g.type(n.operands[1]).dtype))));
    bind(g, n.result(), out, b.add_op("dot_general", {map[n.operands[0].index], map[n.operands[1].index]}, attrs), map);
  }
  map_signature(g, map, out);
  return out;
}

}  // namespace

const Pass order_sums = {
    .name = "order_sums", .summary = "products of a few rows become sums along lanes", .on_graph = run};

}  // namespace ag::passes

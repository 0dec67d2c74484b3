// concat -> one kernel for each operand, which writes its part of the result: each element is read from where it is
// known to lie, none is looked for among the operands. What is computed in its place of the result needs no kernel.
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {
namespace {

/// Elements of a part from which it pays to give it a kernel, and operands up to which there are as many kernels.
constexpr std::int64_t min_part = 1024;
constexpr std::size_t max_parts = 64;

std::size_t axis_of(const Graph& g, NodeId id) {
  auto axis = g.node(id).attrs.get_or<std::int64_t>("axis", 0);
  return static_cast<std::size_t>(axis < 0 ? axis + g.type(g.node(id).result()).rank() : axis);
}

/// Whether operand i, which belongs at `from` along the axis, is computed just there.
bool lies_there(const Graph& g, const Plan& plan, NodeId id, std::size_t i, const Dim& from) {
  const ValueId result = g.node(id).result();
  const auto part = plan.placed.find(placed_source(g, g.node(id).operands[i])), whole = plan.placed.find(result);
  if (part == plan.placed.end() || !plan.joined.contains(id)) return false;
  const Placement in = whole == plan.placed.end() ? Placement{result, 0, g.type(result).shape} : whole->second;
  Dim stride = 1;
  for (std::size_t d = axis_of(g, id) + 1; d < in.within.size(); ++d) stride = stride * in.within[d];
  return part->second.root == in.root && part->second.begin == in.begin + from * stride;
}

}  // namespace

bool concat_by_parts(const Graph& g, NodeId id) {
  const Node& n = g.node(id);
  if (n.op->name != "concat" || n.operands.size() > max_parts) return false;
  for (ValueId v : n.operands)
    if (Dim elems = g.type(v).elems(); elems.is_const() && elems.value() < min_part) return false;
  return true;
}

Result<std::vector<LoweredKernel>> lower_concat(const Graph& g, const Plan& plan, GroupId gid) {
  NodeId id = plan.groups[gid].members[0];
  const std::size_t axis = axis_of(g, id);
  std::vector<LoweredKernel> kernels;
  Dim from = 0;
  for (std::size_t i = 0; i < g.node(id).operands.size(); ++i) {
    if (lies_there(g, plan, id, i, from)) {
      from = from + g.type(g.node(id).operands[i]).shape[axis];
      continue;
    }
    OwnKernel k(g, plan, gid);
    k.read(i);
    k.members();
    const Dims& shape = k.in(i).shape;
    std::vector<loop::ValueId> at(shape.size());
    k.nest(axes_without(shape.size(), shape.size()), shape, at, true, [&] {
      loop::ValueId value = k.operand(i, at);
      std::vector<loop::ValueId> to = at;
      to[axis] = k.builder().add(to[axis], k.builder().dim(from));
      k.finish_element(to, value);
    });
    kernels.push_back(k.finish("concat", k.in(i).elems()));
    from = from + shape[axis];
  }
  return kernels;
}

}  // namespace ag::passes

// concat -> one kernel for each operand, which writes its part of the result: each element is read from where it is
// known to lie, none is looked for among the operands.
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

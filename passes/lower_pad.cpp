// pad -> the elements around an operand that is computed inside its padding already: kernels for what lies before and
// behind it along each axis.
#include "ir/attr.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {

std::optional<Dims> pads_around(const Graph& g, NodeId pad) {
  const Node& n = g.node(pad);
  const Dims low = n.attrs.get_or<Dims>("low", {}), high = n.attrs.get_or<Dims>("high", {});
  for (const Dims* sides : {&low, &high})
    for (const Dim& d : *sides)
      if (!d.is_const() || d.value() < 0) return std::nullopt;
  for (std::int64_t i : n.attrs.get_or<std::vector<std::int64_t>>("interior", {}))
    if (i != 0) return std::nullopt;
  if (low.size() != g.type(n.result()).rank()) return std::nullopt;
  return low;
}

Result<std::vector<LoweredKernel>> lower_pad(const Graph& g, const Plan& plan, GroupId gid) {
  const NodeId id = plan.groups[gid].members[0];
  const Dims low = g.node(id).attrs.get_or<Dims>("low", {}), high = g.node(id).attrs.get_or<Dims>("high", {});
  const Dims& inside = g.type(g.node(id).operands[0]).shape;
  std::vector<LoweredKernel> kernels;
  for (std::size_t axis = 0; axis < inside.size(); ++axis)
    for (const auto& [from, size] : {std::pair(Dim(0), low[axis]), std::pair(low[axis] + inside[axis], high[axis])}) {
      if (size.is(0)) continue;
      OwnKernel k(g, plan, gid);
      k.read(1);
      k.members();
      Dims shape = k.type().shape;  // of axes before, only what lies beside the operand: the rest is filled already
      for (std::size_t d = 0; d < axis; ++d) shape[d] = inside[d];
      shape[axis] = size;
      std::vector<loop::ValueId> at(shape.size());
      k.nest(axes_without(shape.size(), shape.size()), shape, at, true, [&] {
        std::vector<loop::ValueId> to = at;
        for (std::size_t d = 0; d <= axis; ++d)
          to[d] = k.builder().add(at[d], k.builder().dim(d == axis ? from : low[d]));
        k.finish_element(to, k.operand(1, {}));
      });
      kernels.push_back(k.finish("pad", product(shape)));
      // Not all that the buffer holds: most of these are small enough to become one call.
      const auto bytes = static_cast<std::int64_t>(dtype_bytes(g.type(g.node(id).result()).dtype));
      kernels.back().kernel.bytes = product(shape) * Dim(bytes);
    }
  return kernels;
}

}  // namespace ag::passes

// Cumulative ops -> one kernel: all other axes in parallel, the accumulator carried along the axis in order. Lanes run
// over the last axis if that is not the one accumulated along.
#include "ir/ops/lowering.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {

Result<std::vector<LoweredKernel>> lower_cumulative(const Graph& g, const Plan& plan, GroupId gid) {
  using loop::Op;
  using LV = loop::ValueId;
  OwnKernel k(g, plan, gid);
  loop::Builder& b = k.builder();
  CumulativeDesc desc = describe_cumulative(k.view());
  const std::size_t operands = k.node().operands.size();
  for (std::size_t i = 0; i < operands; ++i) k.read(i);
  k.members();
  const Dims shape = k.type().shape;
  const DType t = k.type().dtype, wide = accumulator_dtype(t);
  std::size_t axis = desc.axis, last = shape.size();
  while (last > axis + 1 && shape[last - 1].is(1)) --last;
  std::vector<LV> at(shape.size());
  k.nest(axes_without(shape.size(), axis), shape, at, last > axis + 1, [&] {
    LV n = b.dim(shape[axis]);
    LV first = b.constant_bits({wide, 1, 1}, loop::reduce_identity(desc.kind, wide));
    b.for_(b.index(0), n, b.index(1), {}, {first}, [&](LV step, const loop::Builder::Values& carried) {
      at[axis] = desc.reverse ? b.sub(b.sub(n, b.index(1)), step) : step;
      LV next = carried[0];
      if (desc.recurrence) next = b.mul(b.cast(k.operand(0, at), wide), next);
      LV x = b.cast(k.operand(operands - 1, at), wide);
      next = b.op(loop::reduce_op(desc.kind), {next, x});
      LV value = desc.exclusive ? carried[0] : next;
      if (desc.exclusive && desc.kind == loop::ReduceKind::sum && is_float(t))
        value = b.add(value, b.constant(wide, 0.0));  // the sum of nothing is 0, though sums begin with -0
      k.finish_element(at, b.cast(value, t));
      return loop::Builder::Values{next};
    });
  });
  std::vector<LoweredKernel> kernels;
  kernels.push_back(k.finish(std::string(k.node().op->name), k.type().elems() * Dim(4)));
  return kernels;
}

}  // namespace ag::passes

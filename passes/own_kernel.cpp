#include "passes/own_kernel.hpp"

namespace ag::passes {

using LV = loop::ValueId;

void OwnKernel::read(std::size_t operand) {
  LeafProbe probe(g_);
  ValueId v = node().operands[operand];
  probe.element(v, probe.indices(g_.type(v).shape));
  for (const auto& leaf : probe.leaves) {
    if (reads_.contains(leaf.value)) continue;
    const Type& t = g_.type(leaf.value);
    reads_.emplace(leaf.value, b_.param(t.dtype, t.elems(), loop::Access::read));
    lowered_.buffers.push_back(leaf.value);
  }
}

loop::BufferId OwnKernel::result(std::uint32_t r, loop::Access access) {
  lowered_.buffers.push_back(node().result(r));
  return b_.param(type(r).dtype, type(r).elems(), access);
}

void OwnKernel::nest(const std::vector<std::size_t>& axes, const Dims& shape, std::vector<LV>& at, bool lanes,
                     const std::function<void()>& body) {
  std::size_t last = axes.size();
  while (last > 0 && shape[axes[last - 1]].is(1)) --last;
  std::function<void(std::size_t)> loops = [&](std::size_t i) {
    if (i == axes.size()) return body();
    std::size_t d = axes[i];
    if (shape[d].is(1)) {
      at[d] = b_.index(0);
      return loops(i + 1);
    }
    loop::AxisRole role = lanes && i + 1 == last ? loop::AxisRole::col : loop::AxisRole::batch;
    b_.for_each(b_.dim(shape[d]), {.mapping = loop::Mapping::parallel, .role = role}, [&](LV iv) {
      at[d] = iv;
      loops(i + 1);
    });
  };
  loops(0);
}

LoweredKernel OwnKernel::finish(std::string label, const Dim& flops) {
  lowered_.label = std::move(label);
  b_.set_origin(0);
  loop::Kernel& k = b_.kernel();
  k.flops = flops;
  k.bytes = 0;
  for (ValueId v : lowered_.buffers)
    k.bytes = k.bytes + g_.type(v).elems() * Dim(static_cast<std::int64_t>(dtype_bytes(g_.type(v).dtype)));
  lowered_.kernel = std::move(b_).finish();
  return std::move(lowered_);
}

}  // namespace ag::passes

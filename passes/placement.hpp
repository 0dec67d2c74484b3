// Where stored values lie. Most have a buffer of their own; operands of a concat are computed in their place of its
// result, in another shape too (heads of attention side by side), wherever all that read them can follow, and a concat
// whose operands lie side by side already is there without being computed. What is padded is computed inside its
// padding.
#pragma once
#include <unordered_map>

#include "passes/lower_kernel.hpp"

namespace ag::passes {

/// Decides where the operands of concats and pads lie: sets plan.placed and plan.joined. The largest concats choose
/// first, so that one whose operands begin a larger one's (features that are gathered layer by layer) is a view of it.
void place_values(const Graph& g, const std::vector<bool>& live, Plan& plan);

/// What a value is a reshape of: that is stored, and may be placed.
ValueId placed_source(const Graph& g, ValueId v);

/// Parameters of one kernel for stored values, and addresses in them. Where a value begins in another's memory is a
/// size given by the call, so that equal kernels stay equal.
class KernelMemory {
 public:
  /// Without a plan every value has a buffer of its own. All parameters are declared before any code.
  KernelMemory(const Graph& g, const Plan* plan, loop::Builder& b, LoweredKernel& kernel)
      : g_(g), plan_(plan), b_(b), kernel_(kernel) {}
  loop::BufferId param(ValueId v, loop::Access access);
  loop::ValueId address(ValueId v, std::span<const loop::ValueId> index);

 private:
  const Graph& g_;
  const Plan* plan_;
  loop::Builder& b_;
  LoweredKernel& kernel_;
  std::unordered_map<ValueId, loop::ValueId> begin_;

  const Placement* placement(ValueId v) const;
};

}  // namespace ag::passes

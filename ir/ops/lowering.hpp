// What lowering asks about ops whose class writes its own kernels (passes/lower_own).
#pragma once
#include "ir/op.hpp"

namespace ag {

/// A cumulative op: acc = combine(acc, x), with `recurrence` acc = a * acc + b, along an axis.
struct CumulativeDesc {
  loop::ReduceKind kind = loop::ReduceKind::sum;
  std::size_t axis = 0;
  bool reverse = false, exclusive = false, recurrence = false;
};
CumulativeDesc describe_cumulative(const NodeView&);

/// A key as an unsigned integer of its width that orders as sorting does: NaN above all, -0 equal to 0, all bits
/// inverted if descending.
loop::ValueId sort_key(loop::Builder&, loop::ValueId key, bool descending);

}  // namespace ag

// Batching rules (vmap) that families share: OpInfo::batch. Results have the batch axis in front.
#pragma once
#include "ir/ops/common.hpp"

namespace ag::ops {

/// Operand i with the batch axis in front; one that has none is repeated along it.
ValueId with_batch_axis(Builder& b, const View& n, const BatchArgs& a, std::size_t i);
/// All operands like that.
std::vector<ValueId> with_batch_axes(Builder& b, const View& n, const BatchArgs& a);
/// Axis numbers behind a new leading axis.
Ints behind_batch(Ints axes);

/// The op on operands that all have a batch axis, its attributes `axes` (ints) and `axis` (integer, counted from the
/// front) moved behind it: reductions, reversal, concatenation, cumulative ops, sort.
std::vector<ValueId> batch_along_axes(Builder& b, const View& n, const BatchArgs& a);

}  // namespace ag::ops

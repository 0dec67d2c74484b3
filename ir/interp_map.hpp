// Elementwise nodes in the reference interpreter: the op's `scalar` rule, built once over tiles and run by the loop
// interpreter, so that folding, the interpreter and compiled kernels share one meaning.
#pragma once
#include "ir/loop/kernel.hpp"
#include "ir/op.hpp"

namespace ag {

/// A node's `scalar` rule over flat arrays of `elems` elements.
struct MapKernel {
  loop::Kernel kernel;
  std::int64_t elems = -1;
  std::vector<bool> splat;  ///< operand i is one element, read again and again
};

/// Evaluates a map node; `cache` keeps its kernel between calls. `shape` is the result's.
Result<Array> evaluate_map(const NodeView& node, std::span<const Array> operands,
                           const std::vector<std::int64_t>& shape, MapKernel& cache);

/// numpy's broadcast of concrete shapes; nullopt if they do not fit.
std::optional<std::vector<std::int64_t>> broadcast_concrete(std::span<const Array> operands);
/// `a` repeated to `shape` (numpy alignment; fits).
Array expand_to(const Array& a, const std::vector<std::int64_t>& shape);

}  // namespace ag

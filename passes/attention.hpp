// Attention: which nodes have a kernel of their own.
#pragma once
#include "ir/op.hpp"
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass attention;

bool is_attention(const OpInfo& op);  ///< `attend` or `attend_grad`

/// True if an `attend` or `attend_grad` node is to become one kernel (CPU); else it is taken apart.
/// The model: scores in memory cost a write and three reads of q x k elements and the products' transposed operands a
/// copy each, while one kernel costs the transposed block of queries; so it pays as soon as a block has enough queries
/// to fill lanes, unless heads are so large that a block leaves the cache.
bool has_attention_kernel(const Graph& g, NodeId id);

}  // namespace ag::passes

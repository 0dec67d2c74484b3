// Scaled dot-product attention over batches of heads, as one op: what the pass `attention` makes of products around a
// softmax, and what passes/lower_attention has kernels for.
#pragma once
#include "ir/op.hpp"

namespace ag {

/// Sizes of an `attend` or `attend_grad` node: queries [batch..., q, d], keys [batch..., k, d], values
/// [batch..., k, dv].
struct AttendDesc {
  Dims batch;            ///< of the result; each batch axis of an operand is equal to it or 1
  Dim q, k, d, dv;
  double scale = 1;      ///< of the products
  double fill = 0;       ///< what stands for a score where the mask is false
  std::optional<Dim> causal;  ///< query i sees keys j <= i + causal
  bool empty_zero = false;    ///< a query that sees nothing gives zeros, not NaN
  std::optional<std::size_t> bias, mask;  ///< operands that are there
};
AttendDesc describe_attend(const NodeView&);

/// Operands of both ops; optional ones of `attend` follow at 3, those of `attend_grad` behind the cotangent.
struct AttendOperand {
  enum Name : std::size_t { query, key, value, cotangent };
};

std::vector<OpInfo> attend_ops();

}  // namespace ag

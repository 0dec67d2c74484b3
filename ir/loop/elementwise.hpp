// Elementwise statements on arrays of elements: the one implementation of the semantics table in kernel.hpp
// for the host. The interpreter runs tiles through it, eval_scalar and constant folding single elements.
#pragma once
#include <cstddef>

#include "ir/loop/kernel.hpp"

namespace ag::loop {

/// out[i] = op(in[0][i * stride[0]], ...) for i < n; strides count elements and are 0 or 1.
/// Elements lie in their own type: a bool is a byte 0 or 1, f16 and bf16 are two bytes.
struct ElemArgs {
  void* out = nullptr;
  const void* in[3] = {};
  std::ptrdiff_t stride[3] = {};
  std::ptrdiff_t n = 1;
};
using ElemFn = void (*)(const ElemArgs&);

/// The function of an elementwise statement (unary, binary, compare, ternary, math), or nullptr if the op is
/// not defined on these types. `operand` is the type of the operands; for select that of the second and third
/// (the first is bool), for ldexp that of the first (the second is i64 for f64, else i32).
ElemFn elementwise_fn(Op op, DType result, DType operand);
/// The same for class math only (elementwise_math.cpp).
ElemFn math_fn(Op op, DType type);

/// reduce(a, b) of two elements in the type in which a statement accumulates (f32 for f16 and bf16).
ElemFn accumulate_fn(ReduceKind kind, DType type);

}  // namespace ag::loop

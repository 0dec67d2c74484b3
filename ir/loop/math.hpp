// The elementary functions of ops.def's class math, each written once over the operations of a value type V:
// Num<T> computes (interpreter, folding), the pass expand_math's type emits statements. Both give the same bits.
// f16 and bf16 compute in f32 and round once.
#pragma once
#include "ir/loop/kernel.hpp"
#include "ir/loop/math_f32.hpp"
#include "ir/loop/math_f64.hpp"

namespace ag::loop::math {

/// P is F32 or F64; `y` is used by the functions of two arguments only.
template <Op op, class P, class V>
V evaluate(V x, [[maybe_unused]] V y) {
#define AG_MATH_1(f) \
  if constexpr (op == Op::f) \
    return P::f(x); \
  else
  AG_MATH_1(exp)
  AG_MATH_1(exp2)
  AG_MATH_1(expm1)
  AG_MATH_1(log)
  AG_MATH_1(log2) AG_MATH_1(log1p) AG_MATH_1(tanh) AG_MATH_1(sigmoid) AG_MATH_1(erf) AG_MATH_1(erfc) AG_MATH_1(sin)
      AG_MATH_1(cos) AG_MATH_1(tan) AG_MATH_1(asin) AG_MATH_1(acos) AG_MATH_1(atan) AG_MATH_1(sinh) AG_MATH_1(cosh)
          AG_MATH_1(asinh) AG_MATH_1(acosh) AG_MATH_1(atanh) AG_MATH_1(rsqrt) AG_MATH_1(cbrt)
#undef AG_MATH_1
              if constexpr (op == Op::pow) return P::pow(x, y);
  else if constexpr (op == Op::atan2) return P::atan2(x, y);
  else static_assert(op == Op::exp, "not a math op");
}

/// Calls f.template operator()<op>() for the math op that `op` is at run time; returns whether it is one.
template <class F>
bool with_math_op(Op op, F&& f) {
  switch (op) {
#define AG_LOOP_OP(name, operands, cls) AG_MATH_CASE_##cls(name)
#define AG_MATH_CASE_math(name) \
  case Op::name: f.template operator()<Op::name>(); return true;
#define AG_MATH_CASE_leaf(name)
#define AG_MATH_CASE_unary(name)
#define AG_MATH_CASE_binary(name)
#define AG_MATH_CASE_compare(name)
#define AG_MATH_CASE_ternary(name)
#define AG_MATH_CASE_lanes(name)
#define AG_MATH_CASE_memory(name)
#define AG_MATH_CASE_control(name)
#define AG_MATH_CASE_sync(name)
#include "ir/loop/ops.def"
#undef AG_LOOP_OP
#undef AG_MATH_CASE_math
#undef AG_MATH_CASE_leaf
#undef AG_MATH_CASE_unary
#undef AG_MATH_CASE_binary
#undef AG_MATH_CASE_compare
#undef AG_MATH_CASE_ternary
#undef AG_MATH_CASE_lanes
#undef AG_MATH_CASE_memory
#undef AG_MATH_CASE_control
#undef AG_MATH_CASE_sync
    default: return false;
  }
}

}  // namespace ag::loop::math

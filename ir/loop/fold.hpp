// Folding of integer and bool statements, shared by the builder and passes. Never touches floats.
#pragma once
#include <optional>
#include <span>

#include "ir/loop/kernel.hpp"

namespace ag::loop {

/// True for the classes whose statements work element by element on broadcast operands.
constexpr bool is_elementwise(OpClass c) {
  return c == OpClass::unary || c == OpClass::binary || c == OpClass::compare || c == OpClass::ternary ||
         c == OpClass::math;
}
/// True if the statement has no effect and its result depends on its operands and attributes alone.
constexpr bool is_pure(OpClass c) { return is_elementwise(c) || c == OpClass::leaf || c == OpClass::lanes; }
constexpr bool is_commutative_int(Op op) {
  return op == Op::add || op == Op::mul || op == Op::min || op == Op::max || op == Op::and_ || op == Op::or_ ||
         op == Op::xor_ || op == Op::cmp_eq || op == Op::cmp_ne;
}

/// The element that an integer or bool statement gives for constant operands; nullopt if the op is not one of
/// those or a type is a float. `operand` is the type of the operands (for select of the second and third).
std::optional<std::uint64_t> fold_int(Op op, DType result, DType operand, std::span<const std::uint64_t> operands);

}  // namespace ag::loop

#include "ir/loop/fold.hpp"

#include "ir/loop/elementwise.hpp"
#include "ir/loop/interp.hpp"

namespace ag::loop {

std::optional<std::uint64_t> fold_int(Op op, DType result, DType operand, std::span<const std::uint64_t> operands) {
  if (is_float(result) || is_float(operand) || operands.size() > 3) return std::nullopt;
  if (!elementwise_fn(op, result, operand)) return std::nullopt;
  return eval_scalar(op, result, operand, operands);
}

}  // namespace ag::loop

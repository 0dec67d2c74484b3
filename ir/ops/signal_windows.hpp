// Windows of signals, mel bands, and operands that are one size: a part of the family `spectral`.
#pragma once
#include "ir/ops/data_sizes.hpp"

namespace ag {

std::vector<OpInfo> signal_window_ops();

namespace ops {

/// Operand i, one number, as a size; nothing if only the data knows it.
inline Result<std::optional<Dim>> scalar_dim(const InferCtx& c, std::size_t i) {
  if (!c.in(i).elems().is(1))
    return c.error(Code::AG2204, fmt::format("`{}` of `{}` is one number", c.op().operands[i].name, op_title(c)), {},
                   {i});
  auto v = c.ints(i);
  return v ? std::optional((*v)[0]) : std::nullopt;
}

}  // namespace ops
}  // namespace ag

#pragma once
#include "ir/base/small_float.hpp"
#include "ir/loop/builder.hpp"

namespace ag::ops {

/// Statements that convert x, an element of dtype `from` (storage types: their byte, as u8), to `to`, the same way:
/// bit for bit what decode_float, encode_float, decode_int and encode_int give.
loop::ValueId cast_any(loop::Builder& b, loop::ValueId x, DType from, DType to, bool saturate = true,
                       ScaleRounding rounding = ScaleRounding::up);

}  // namespace ag::ops

#pragma once
#include "ir/op.hpp"

namespace ag::ops {

/// ONNX's LinearAttention: a state of keys by values, updated at each place and read by its queries.
OpInfo linear_attention_op();

}  // namespace ag::ops

// Elementary functions become arithmetic.
#pragma once
#include "ir/loop/kernel.hpp"

namespace ag::loop {

/// Replaces each statement of class math by the statements of its algorithm (ir/loop/math.hpp), in the same block
/// and on tiles of the same shape; f16 and bf16 go through f32. All else stays as it is, and so do all bits: what the
/// interpreter computes for the statement it computes for its expansion. Expects a kernel that verifies.
Kernel expand_math(const Kernel& kernel);

}  // namespace ag::loop

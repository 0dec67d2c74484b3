#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass split_reductions;  ///< Program -> Program

}  // namespace ag::passes

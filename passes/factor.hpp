// One residual for each elementwise region of a backward pass.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass factor;  // Graph -> Graph

}  // namespace ag::passes

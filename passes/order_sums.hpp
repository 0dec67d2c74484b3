#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass order_sums;  // Graph -> Graph

}  // namespace ag::passes

#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass pack_operands;  // Graph -> Graph

}  // namespace ag::passes

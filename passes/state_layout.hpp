// State in the layout that its gradient has.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass state_layout;  // Graph -> Graph

}  // namespace ag::passes

// Loops over the rows of tiles, where a run of statements on all rows at once would be long.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass roll;

}  // namespace ag::passes

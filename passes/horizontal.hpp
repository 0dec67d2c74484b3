#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass horizontal;

}  // namespace ag::passes

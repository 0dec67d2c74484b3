// Passes that bring networks and their loops into the order in which memory is walked.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

/// Takes composites apart but for those with an attribute `layout`, which the pass `layout` sets first.
extern const Pass decompose_early;
extern const Pass layout;    ///< Graph -> Graph
extern const Pass collapse;  ///< Program -> Program

}  // namespace ag::passes

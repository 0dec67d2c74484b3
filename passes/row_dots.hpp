// Sums of products along rows, taken in an earlier pass over the row.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass row_dots;  ///< Program -> Program, after split_reductions, before join_column_sums

}  // namespace ag::passes

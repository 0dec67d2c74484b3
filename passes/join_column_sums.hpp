// Sums of columns inside the kernel that walks the rows.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass join_column_sums;  ///< Program -> Program, after split_reductions, before schedule

}  // namespace ag::passes

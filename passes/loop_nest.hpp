// The nest of parallel loops that a schedule-free kernel is: what schedulers distribute.
#pragma once
#include <optional>
#include <vector>

#include "ir/loop/kernel.hpp"

namespace ag::passes {

struct NestLoop {
  loop::StmtId stmt;
  loop::AxisRole role;
  loop::ValueId iv, extent;
  std::optional<Dim> size;  ///< the extent over the kernel's dims, if it is such an expression
};

/// Parallel loops, outermost first, each the only statement with an effect in the block around it, from the top block
/// inwards; `body` is the innermost one's block (the top block without any). Loops over reduced axes belong to the
/// body.
struct LoopNest {
  std::vector<NestLoop> loops;
  loop::BlockId body;
  bool contains(loop::StmtId stmt) const;
};
LoopNest find_nest(const loop::Kernel& kernel);

/// Which extremum `s` makes of x and the value that a reduction carries, if it is a select of x where x is greater or
/// less: two uses of the carried value.
std::optional<loop::ReduceKind> selected_extremum(const loop::Kernel& kernel, const loop::Stmt& s,
                                                  loop::ValueId carried);

}  // namespace ag::passes

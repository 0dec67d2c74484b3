// All passes, one line each.
#include "passes/attention.hpp"
#include "passes/depthwise.hpp"
#include "passes/factor.hpp"
#include "passes/horizontal.hpp"
#include "passes/join_column_sums.hpp"
#include "passes/layout.hpp"
#include "passes/order_sums.hpp"
#include "passes/pack_constants.hpp"
#include "passes/pass.hpp"
#include "passes/regions.hpp"
#include "passes/rewrite/fold_affine.hpp"
#include "passes/roll.hpp"
#include "passes/row_dots.hpp"
#include "passes/small_region.hpp"
#include "passes/split_reductions.hpp"
#include "passes/state_layout.hpp"
#include "passes/stream_stores.hpp"

namespace ag::passes {

const std::vector<const Pass*>& all_passes() {
  static const std::vector<const Pass*> passes{
      &autodiff,
      &checkpoint,
      &cse,
      &algebra,
      &fold,
      &dce,
      &attention,
      &horizontal,
      &decompose_early,
      &fold_affine,
      &layout,
      &winograd,
      &depthwise,
      &decompose,
      &factor,
      &regions,
      &pack_constants,
      &order_sums,
      &state_layout,
      &lower,                                            // Graph -> Program
      &collapse,
      &split_reductions,
      &row_dots,
      &join_column_sums,
      &schedule,
      &vectorise,
      &gpu_map,  // Program -> Program
      &expand_math,
      &roll,
      &merge_small,
      &stream_stores,
      &plan_memory,
  };
  return passes;
}

const Pass* find_pass(std::string_view name) {
  for (const Pass* p : all_passes())
    if (p->name == name) return p;
  return nullptr;
}

}  // namespace ag::passes

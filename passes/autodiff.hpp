// Differentiation: Graph -> Graph, reverse and forward mode, closed to any order.
//
// Reverse mode is one loop over the nodes in reverse. An adjoint that is absent stays absent: nothing is built for
// it. Contributions are added in the order in which the loop meets the users, so the result is a function of the
// graph alone. A composite is differentiated by its own rule if it has one, else it is decomposed first.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

struct ReverseSpec {
  ValueId of;
  ValueId seed;                   ///< cotangent of `of`, same type; invalid: one (of must have one element)
  std::vector<ValueId> wrt;
  std::vector<ValueId> stop;      ///< no gradient passes these values
};
/// Differentiability of every path from `wrt` to `of`: all obstacles at once, AG3004 at `at`.
Status check_differentiable(const Graph& g, const ReverseSpec& spec, const Loc& at, bool forward_mode = false);

/// Appends the gradient nodes to `g`; returns one value per `wrt`, invalid where nothing connects it to `of`. Ids in
/// `spec` are of `g` as given; decomposition may renumber, so `g` is replaced and `map` (if given) tells how.
Result<std::vector<ValueId>> reverse(Graph& g, const ReverseSpec& spec, const Loc& at = {},
                                     std::vector<ValueId>* map = nullptr);

/// Appends the tangents of `outs`, given tangents of `ins` (same types); invalid where zero.
Result<std::vector<ValueId>> forward(Graph& g, const std::vector<ValueId>& ins, const std::vector<ValueId>& tangents,
                                     const std::vector<ValueId>& outs, const Loc& at = {},
                                     std::vector<ValueId>* map = nullptr);

}  // namespace ag::passes

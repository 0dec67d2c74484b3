// Contractions as loops: which axis plays which role, and the sum behind one element.
#pragma once
#include "passes/element.hpp"

namespace ag::passes {

struct ContractionAxes {
  std::vector<loop::AxisRole> roles;  ///< one per dim of the result
  bool dot;                           ///< no columns: lanes go along the contracted axes
};
ContractionAxes contraction_axes(const Graph& g, NodeId id, const Dims& result);

/// Element `at` of a contraction: its terms are added in order, in loops over the contracted axes; along lanes if it is
/// a `dot` or has the attribute `lanes`.
loop::ValueId lower_contraction(ElementSource& source, NodeId id, std::span<const loop::ValueId> at, bool dot);

}  // namespace ag::passes

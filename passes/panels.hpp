// Products whose right operand lies in panels, [batch, other free, N / width, contracted, width]: what a register tile
// reads is one stream. The product sees the panels through views (transpose, reshape, slice), whose indices stay simple
// within a panel.
#pragma once
#include <cstdint>
#include <vector>

#include "ir/builder.hpp"
#include "ir/graph.hpp"
#include "passes/contraction_model.hpp"

namespace ag::passes {

/// Axes of the right operand of a dot_general by their part in it.
struct RightAxes {
  std::vector<std::int64_t> batch, contract, free;  ///< the columns are the last of `free`
};
RightAxes right_axes(const Graph& g, const Node& dot, int rank);

/// What the schedule will see of a product; rows that lie one after another in memory count as one axis.
ContractionSizes product_sizes(const Graph& g, const Node& dot, const TargetSpec& target);

/// Whether a product sums along lanes, and which side has few elements (contraction_model.hpp). Rows want a right
/// operand that lies with its terms one after another; for columns one is made, so that it is asked of the left only.
/// `counted_rows`: the run knows whether rows are few.
enum class FewSide : std::uint8_t { none, rows, columns, counted_rows };
FewSide few_side(const Graph& g, const Node& dot, const TargetSpec& target);

/// The product `id` of `g`, made in `b`, with its right operand replaced by `panels`. `left` is the left operand in
/// `b`.
ValueId product_of_panels(GraphBuilder& b, const Graph& g, NodeId id, ValueId left, ValueId panels);

}  // namespace ag::passes

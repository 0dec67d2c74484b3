// Depthwise convolutions and what is computed beside them in one kernel.
#pragma once
#include <unordered_map>

#include "ir/ops/depthwise.hpp"
#include "passes/pass.hpp"
#include "passes/plan.hpp"

namespace ag::passes {

extern const Pass depthwise;

/// Whether the node's sizes are such that a kernel can be written: all but the batch are known.
bool has_depthwise_kernel(const Graph& g, NodeId id);

/// How the right operand of a product lies, seen from columns.
struct ColumnPanels {
  std::int64_t width = 0;  ///< columns of a panel; 0: whole rows lie one after another
};
/// Nothing if the columns of one step of depth are no neighbours in memory.
std::optional<ColumnPanels> column_panels(const Graph& g, NodeId product);

/// By product whose result, through maps, only a depthwise convolution reads: the columns of a panel that suit its
/// kernel.
std::unordered_map<NodeId, std::int64_t> depthwise_panels(const Graph& g, const TargetSpec& target);

/// Whether a product [N,H,W,C] can be computed a few rows of pixels at a time.
bool makes_rows(const Graph& g, NodeId product);

/// Columns of a panel of a product that makes rows: as they lie, or a few registers.
std::int64_t product_panel(const Graph& g, NodeId product, const TargetSpec& target);

/// Group `before` can be computed inside the kernel of group `kernel` (Group::before).
struct BlockFusion {
  GroupId kernel, before;
};
/// Those that pay; notes tell about all that were looked at.
std::vector<BlockFusion> find_blocks(const Graph& g, Plan& plan);
/// The same for products whose image maps compute from that of a depthwise or Winograd convolution.
std::vector<BlockFusion> find_scaled_products(const Graph& g, Plan& plan);
/// The same for products whose image a depthwise convolution makes, in a kernel with whatever makes its image.
std::vector<BlockFusion> find_projections(const Graph& g, Plan& plan, const TargetSpec& target);

}  // namespace ag::passes

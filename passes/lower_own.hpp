// Ops whose kernels are no group of maps and reductions: one function for each such class, which writes the loops.
#pragma once
#include "passes/lower_kernel.hpp"
#include "passes/pass.hpp"

namespace ag::passes {

/// The kernels of a group, in the order in which they run. Operands may be virtual; unless the group takes members all
/// results are stored. For a GPU kernels keep nothing in scratch memory.
Result<std::vector<LoweredKernel>> lower_own(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target);

/// Whether a composite is lowered as it is: one with a lowering class, on a CPU, unless ops shall stay apart or the
/// kernel would not pay for its sizes.
bool has_kernel(const NodeView& node, const PassContext& context);

/// Whether the node is a concat whose parts have a kernel each.
bool concat_by_parts(const Graph& g, NodeId id);

/// What lies before the operand of a pad on each axis, if it adds elements around it and does nothing else.
std::optional<Dims> pads_around(const Graph& g, NodeId pad);

/// Whether the op's kernel computes maps over its one result in its last loop (OwnKernel::members).
bool takes_members(const OpInfo& op);

Result<std::vector<LoweredKernel>> lower_scatter(const Graph& g, NodeId id);
Result<std::vector<LoweredKernel>> lower_cumulative(const Graph& g, const Plan& plan, GroupId gid);
Result<std::vector<LoweredKernel>> lower_sort(const Graph& g, NodeId id, bool gpu);
Result<std::vector<LoweredKernel>> lower_lu(const Graph& g, NodeId id);
Result<std::vector<LoweredKernel>> lower_lu_solve(const Graph& g, NodeId id);
Result<std::vector<LoweredKernel>> lower_suppress(const Graph& g, NodeId id);
Result<std::vector<LoweredKernel>> lower_concat(const Graph& g, const Plan& plan, GroupId gid);
Result<std::vector<LoweredKernel>> lower_pad(const Graph& g, const Plan& plan, GroupId gid);
Result<std::vector<LoweredKernel>> lower_attention(const Graph& g, const Plan& plan, GroupId gid);
Result<std::vector<LoweredKernel>> lower_winograd(const Graph& g, const Plan& plan, GroupId gid,
                                                  const TargetSpec& target);
Result<std::vector<LoweredKernel>> lower_depthwise(const Graph& g, const Plan& plan, GroupId gid,
                                                   const TargetSpec& target);
/// A product whose image maps of its group compute (Group::before).
Result<std::vector<LoweredKernel>> lower_scaled_product(const Graph& g, const Plan& plan, GroupId gid,
                                                        const TargetSpec& target);
/// The same where a depthwise convolution makes its image.
Result<std::vector<LoweredKernel>> lower_block(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target);
Result<std::vector<LoweredKernel>> lower_winograd_filter(const Graph& g, NodeId id, const TargetSpec& target);
Result<std::vector<LoweredKernel>> lower_winograd_gradient(const Graph& g, NodeId id, const TargetSpec& target);

}  // namespace ag::passes

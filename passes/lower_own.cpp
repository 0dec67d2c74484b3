#include "passes/lower_own.hpp"

#include "passes/attention.hpp"
#include "passes/depthwise.hpp"
#include "passes/depthwise_rows.hpp"

namespace ag::passes {
namespace {

/// Sorting and other algorithms that are kernels of their own each.
Result<std::vector<LoweredKernel>> lower_algorithm(const Graph& g, const Plan& plan, GroupId gid, bool gpu) {
  const NodeId id = plan.groups[gid].members[0];
  std::string_view op = g.node(id).op->name;
  if (op == "lu") return lower_lu(g, id);
  if (op == "lu_solve") return lower_lu_solve(g, id);
  if (op == "suppress") return lower_suppress(g, id);
  if (is_attention(*g.node(id).op)) return lower_attention(g, plan, gid);
  return lower_sort(g, id, gpu);
}

}  // namespace

bool has_kernel(const NodeView& node, const PassContext& context) {
  const OpInfo& op = *node.node().op;
  if (op.lower_class == LowerClass::none || !context.fuse || context.target.kind != TargetSpec::Kind::cpu) return false;
  if (op.name == "depthwise") return has_depthwise_kernel(node.graph, node.id);
  return !is_attention(op) || has_attention_kernel(node.graph, node.id);
}

bool takes_members(const OpInfo& op) {
  return op.lower_class == LowerClass::cumulative || op.lower_class == LowerClass::contraction ||
         op.name == "winograd" || op.name == "depthwise" || op.name == "concat";
}

Result<std::vector<LoweredKernel>> lower_own(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target) {
  NodeId id = plan.groups[gid].members[0];
  switch (g.node(id).op->lower_class) {
    case LowerClass::scatter: return lower_scatter(g, id);
    case LowerClass::cumulative: return lower_cumulative(g, plan, gid);
    case LowerClass::index: return g.node(id).op->name == "pad" ? lower_pad(g, plan, gid) : lower_concat(g, plan, gid);
    case LowerClass::contraction: {
      const std::vector<NodeId>& before = plan.groups[gid].before;
      if (depthwise_among(g, before) < before.size()) return lower_block(g, plan, gid, target);
      return lower_scaled_product(g, plan, gid, target);
    }
    case LowerClass::sort: return lower_algorithm(g, plan, gid, target.kind == TargetSpec::Kind::cuda);
    case LowerClass::window:
      if (g.node(id).op->name == "winograd") return lower_winograd(g, plan, gid, target);
      if (g.node(id).op->name == "depthwise") return lower_depthwise(g, plan, gid, target);
      if (g.node(id).op->name == "winograd_gradient") return lower_winograd_gradient(g, id, target);
      return lower_winograd_filter(g, id, target);
    default: break;
  }
  AG_CHECK(false, "the op's class has no kernels of its own");
  return {};
}

}  // namespace ag::passes

#include <algorithm>
#include <functional>

#include "ir/op.hpp"
#include "passes/layout.hpp"
#include "passes/lower_own.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

/// A composite that a pass gives another layout before it is taken apart.
bool waits(const OpInfo& op) {
  return std::any_of(op.attrs.begin(), op.attrs.end(), [](const AttrSpec& a) { return a.name == "layout"; });
}

/// Composites that the target has a kernel for stay; all others that `which` says are taken apart, outermost first.
Result<Graph> decomposed(const Graph& given, PassContext& context, const std::function<bool(const OpInfo&)>& which) {
  Graph g = copy_if(given, [](NodeId) { return true; });
  auto composite = [&](const NodeView& v) {
    const OpInfo& op = *v.node().op;
    return op.tier == Tier::composite && !has_kernel(v, context) && which(op);
  };
  for (int depth = 0; depth < 64; ++depth) {
    bool any = false;
    for (NodeId id : g.node_ids()) any = any || (composite(NodeView{g, id}) && g.node(id).op->decompose);
    if (!any) return g;
    g = decompose_where(g, composite);
  }
  return fail(Code::AG9001, {}, "decomposition does not end");
}

Result<Graph> run(const Graph& g, PassContext& context) {
  return decomposed(g, context, [](const OpInfo&) { return true; });
}
Result<Graph> run_early(const Graph& g, PassContext& context) {
  return decomposed(g, context, [](const OpInfo& op) { return !waits(op); });
}

}  // namespace

const Pass decompose_early = {
    .name = "decompose_early", .summary = "the same, but for those that a layout is chosen for", .on_graph = run_early};
const Pass decompose = {.name = "decompose", .summary = "take composites apart into primitives", .on_graph = run};

}  // namespace ag::passes

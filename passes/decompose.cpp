#include "ir/op.hpp"
#include "passes/lower_own.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

/// Composites that the target has a kernel for stay; all others are taken apart, outermost first.
Result<Graph> run(const Graph& given, PassContext& context) {
  Graph g = copy_if(given, [](NodeId) { return true; });
  auto composite = [&](const NodeView& v) {
    return v.node().op->tier == Tier::composite && !has_kernel(*v.node().op, context);
  };
  for (int depth = 0; depth < 64; ++depth) {
    bool any = false;
    for (NodeId id : g.node_ids()) any = any || (composite(NodeView{g, id}) && g.node(id).op->decompose);
    if (!any) return g;
    g = decompose_where(g, composite);
  }
  return fail(Code::AG9001, {}, "decomposition does not end");
}

}  // namespace

const Pass decompose = {.name = "decompose", .summary = "take composites apart into primitives", .on_graph = run};

}  // namespace ag::passes

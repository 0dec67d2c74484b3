#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

/// Drops nodes that no output needs. Inputs stay: they are the signature.
Result<Graph> run(const Graph& g, PassContext&) {
  std::vector<bool> live = live_nodes(g);
  return copy_if(g, [&](NodeId id) { return live[id.index]; });
}

}  // namespace

const Pass dce = {.name = "dce", .summary = "drop nodes that no output needs", .on_graph = run};

}  // namespace ag::passes

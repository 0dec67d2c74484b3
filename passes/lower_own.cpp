#include "passes/lower_own.hpp"

namespace ag::passes {

Result<std::vector<LoweredKernel>> lower_own(const Graph& g, NodeId id) {
  switch (g.node(id).op->lower_class) {
    case LowerClass::scatter: return lower_scatter(g, id);
    default: break;
  }
  AG_CHECK(false, "the op's class has no kernels of its own");
  return {};
}

}  // namespace ag::passes

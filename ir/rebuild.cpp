#include "ir/rebuild.hpp"

namespace ag {

Graph empty_like(const Graph& g) {
  Graph out;
  out.name = g.name;
  out.stage = g.stage;
  out.opset = g.opset;
  out.ag_opset = g.ag_opset;
  out.symbols = g.symbols;
  out.grads = g.grads;
  out.extras = g.extras;
  return out;
}

}  // namespace ag

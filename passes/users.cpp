#include "passes/users.hpp"

namespace ag::passes {

Users users_of(const Graph& g, const std::vector<bool>& live) {
  Users users(g.value_count());
  for (NodeId id : g.node_ids())
    if (live.empty() || live[id.index])
      for (ValueId v : g.node(id).operands)
        if (v) users[v.index].push_back(id);
  return users;
}

std::vector<bool> output_values(const Graph& g) {
  std::vector<bool> outputs(g.value_count());
  for (const Output& o : g.outputs) outputs[o.value.index] = true;
  return outputs;
}

}  // namespace ag::passes

#include "frontend/settle.hpp"

#include <algorithm>
#include <map>

namespace ag {
namespace {

constexpr std::int64_t max_elems = 4096;  // of what is built in: axes, sizes, scales
constexpr std::size_t max_ancestors = 1000;

bool lacks_values(const Diags& diags) {
  return std::any_of(diags.begin(), diags.end(), [](const Diag& d) { return d.code == Code::AG2207; });
}

/// The nodes that `v` is computed by, in order; empty if there are too many.
std::vector<NodeId> ancestors(const Graph& g, ValueId v) {
  std::vector<NodeId> found{g.value(v).node};
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found.size() > max_ancestors) return {};
    for (ValueId operand : g.node(found[i]).operands)
      if (operand && std::find(found.begin(), found.end(), g.value(operand).node) == found.end())
        found.push_back(g.value(operand).node);
  }
  std::sort(found.begin(), found.end());
  return found;
}

class Evaluation {
 public:
  Evaluation(const Graph& g, InputValues& values) : g_(g), values_(values) {}

  std::optional<Array> run(ValueId v) {
    std::vector<std::string> used;
    for (NodeId id : ancestors(g_, v))
      if (!node(id, used)) return std::nullopt;
    auto it = known_.find(v);
    if (it == known_.end()) return std::nullopt;
    for (std::string& name : used)
      if (std::find(values_.used.begin(), values_.used.end(), name) == values_.used.end())
        values_.used.push_back(std::move(name));
    return it->second;
  }

 private:
  const Graph& g_;
  InputValues& values_;
  std::map<ValueId, Array> known_;

  bool node(NodeId id, std::vector<std::string>& used) {
    const Node& n = g_.node(id);
    if (n.op->name == "input") {
      auto at = std::find(g_.inputs.begin(), g_.inputs.end(), n.result());
      const std::string& name = g_.value(n.result()).name;
      auto value = values_.value(static_cast<std::size_t>(at - g_.inputs.begin()), name, g_.type(n.result()));
      if (!value || value->dtype() != g_.type(n.result()).dtype || value->elems() > max_elems) return false;
      known_.emplace(n.result(), std::move(*value));
      used.push_back(name);
      return true;
    }
    std::vector<Array> operands;
    for (ValueId v : n.operands) operands.push_back(v ? known_.at(v) : Array());
    auto results = evaluate(NodeView{g_, id}, operands);
    if (!results) return false;
    for (std::uint32_t r = 0; r < n.result_count && r < results->size(); ++r) {
      if ((*results)[r].elems() > max_elems) return false;
      known_.emplace(n.result(r), std::move((*results)[r]));
    }
    return true;
  }
};

/// Operands whose elements a type rule may ask for: those that the table marks first, then other short ones.
std::vector<std::size_t> candidates(const Graph& g, const OpInfo& op, const std::vector<ValueId>& operands) {
  std::vector<std::size_t> marked, others;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (!operands[i] || g.def(operands[i]).op->name == "constant") continue;
    bool deciding = i < op.operands.size() && op.operands[i].constant_ints;
    if (deciding)
      marked.push_back(i);
    else if (i > 0 && g.type(operands[i]).rank() <= 1)
      others.push_back(i);
  }
  marked.insert(marked.end(), others.begin(), others.end());
  return marked;
}

}  // namespace

Result<NodeId> add_settled(GraphBuilder& builder, const OpInfo& op, GraphBuilder::NodeArgs args, InputValues* values) {
  auto added = values ? builder.try_add(op, args) : builder.try_add(op, std::move(args));
  if (added || !values || !lacks_values(added.error())) return added;
  for (std::size_t i : candidates(builder.graph(), op, args.operands)) {
    auto value = Evaluation(builder.graph(), *values).run(args.operands[i]);
    if (!value) continue;
    args.operands[i] = builder.constant(make_literal(std::move(*value)), builder.graph().loc(args.operands[i]));
    added = builder.try_add(op, args);
    if (added || !lacks_values(added.error())) break;
  }
  return added;
}

}  // namespace ag

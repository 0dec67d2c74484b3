#include "frontend/settle.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace ag {
namespace {

constexpr std::int64_t max_elems = 4096;  // of what is built in: axes, sizes, scales
constexpr std::size_t max_ancestors = 1000;

bool lacks_values(const Diags& diags) {
  return std::any_of(diags.begin(), diags.end(), [](const Diag& d) { return d.code == Code::AG2207; });
}

bool sizes_known(const Graph& g, ValueId v) {
  const auto& known = g.value(v).known_ints;
  return known && static_shape(*known).has_value();
}

/// The nodes that `v` is computed by, in order, up to those whose elements are known; empty if there are too many, or
/// if one is an input and `inputs` do not count.
std::vector<NodeId> ancestors(const Graph& g, ValueId v, bool inputs) {
  std::vector<NodeId> found{g.value(v).node};
  std::set<NodeId> seen{found[0]};
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Node& n = g.node(found[i]);
    if (found.size() > max_ancestors) return {};
    if (sizes_known(g, n.result())) continue;
    if (!inputs && n.op->name == "input") return {};
    for (ValueId operand : n.operands)
      if (operand && seen.insert(g.value(operand).node).second) found.push_back(g.value(operand).node);
  }
  std::sort(found.begin(), found.end());
  return found;
}

class Evaluation {
 public:
  /// Without `values`, of what depends on no input's value.
  Evaluation(const Graph& g, InputValues* values) : g_(g), values_(values) {}

  std::optional<Array> run(ValueId v) {
    std::vector<std::string> used;
    for (NodeId id : ancestors(g_, v, values_ != nullptr))
      if (!node(id, used)) return std::nullopt;
    auto it = known_.find(v);
    if (it == known_.end()) return std::nullopt;
    for (std::string& name : used)
      if (std::find(values_->used.begin(), values_->used.end(), name) == values_->used.end())
        values_->used.push_back(std::move(name));
    return it->second;
  }

 private:
  const Graph& g_;
  InputValues* values_;
  std::map<ValueId, Array> known_;
  InterpretOptions options_;  ///< the sizes found so far

  void learn(ValueId v, Array value) {
    const Dims& shape = g_.type(v).shape;
    for (std::size_t d = 0; d < shape.size() && d < value.shape().size(); ++d)
      if (auto s = shape[d].as_symbol()) options_.dims.emplace(*s, value.shape()[d]);
    known_.emplace(v, std::move(value));
  }

  /// The sizes in a node's attributes follow from what is known.
  bool attributes_known(const Node& n) const {
    std::set<std::string> used;
    for (const auto& [name, value] : n.attrs) {
      if (const auto* dims = std::get_if<Dims>(&value))
        for (const Dim& d : *dims) d.collect_symbols(used);
      if (const auto* type = std::get_if<Type>(&value))
        for (const Dim& d : type->shape) d.collect_symbols(used);
    }
    return std::all_of(used.begin(), used.end(), [&](const std::string& s) { return options_.dims.contains(s); });
  }

  /// A shape, or what was computed from one: its elements are known though its ancestors are not.
  bool sizes(const Node& n) {
    const auto& known = g_.value(n.result()).known_ints;
    auto shape = static_shape(g_.type(n.result()).shape);
    if (n.result_count != 1 || !known || !shape) return false;
    auto elems = static_shape(*known);
    if (!elems) return false;
    known_.emplace(n.result(), Array::of<std::int64_t>(g_.type(n.result()).dtype, *shape, *elems));
    return true;
  }

  bool node(NodeId id, std::vector<std::string>& used) {
    const Node& n = g_.node(id);
    if (sizes(n)) return true;
    if (n.op->name == "input") {
      auto at = std::find(g_.inputs.begin(), g_.inputs.end(), n.result());
      const std::string& name = g_.value(n.result()).name;
      auto value = values_->value(static_cast<std::size_t>(at - g_.inputs.begin()), name, g_.type(n.result()));
      if (!value || value->dtype() != g_.type(n.result()).dtype || value->elems() > max_elems) return false;
      learn(n.result(), std::move(*value));
      used.push_back(name);
      return true;
    }
    if (!attributes_known(n)) return false;
    std::vector<Array> operands;
    for (ValueId v : n.operands) operands.push_back(v ? known_.at(v) : Array());
    auto results = evaluate(NodeView{g_, id}, operands, options_);
    if (!results) return false;
    for (std::uint32_t r = 0; r < n.result_count && r < results->size(); ++r) {
      if ((*results)[r].elems() > max_elems) return false;
      learn(n.result(r), std::move((*results)[r]));
    }
    return true;
  }
};

/// Operands whose elements a type rule may ask for: those that the table marks first, then other short ones.
std::vector<std::size_t> candidates(const Graph& g, const OpInfo& op, const std::vector<ValueId>& operands) {
  std::vector<std::size_t> marked, others;
  if (std::none_of(op.operands.begin(), op.operands.end(), [](const OperandSpec& s) { return s.constant_ints; }))
    return {};
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (!operands[i] || g.def(operands[i]).op->name == "constant" || g.value(operands[i]).known_ints) continue;
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

std::optional<Array> settled_value(const Graph& g, ValueId v, InputValues* values) {
  return Evaluation(g, values).run(v);
}

Result<NodeId> add_settled(GraphBuilder& builder, const OpInfo& op, GraphBuilder::NodeArgs args, InputValues* values) {
  auto build_in = [&](std::size_t i, InputValues* given) {
    auto value = Evaluation(builder.graph(), given).run(args.operands[i]);
    if (value)
      args.operands[i] = builder.constant(make_literal(std::move(*value)), builder.graph().loc(args.operands[i]));
    return value.has_value();
  };
  std::vector<std::size_t> deciding = candidates(builder.graph(), op, args.operands);
  std::erase_if(deciding, [&](std::size_t i) { return build_in(i, nullptr); });
  auto added = values ? builder.try_add(op, args) : builder.try_add(op, std::move(args));
  if (added || !values || !lacks_values(added.error())) return added;
  for (std::size_t i : deciding) {
    if (!build_in(i, values)) continue;
    added = builder.try_add(op, args);
    if (added || !lacks_values(added.error())) break;
  }
  return added;
}

}  // namespace ag

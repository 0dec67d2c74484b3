#include "ir/op.hpp"

#include <iterator>

#include "ir/ops/families.hpp"

namespace ag {

OpTable::OpTable(std::vector<OpInfo> ops) : ops_(std::move(ops)) {
  for (std::size_t i = 0; i < ops_.size(); ++i) {
    bool fresh = by_name_.emplace(ops_[i].name, i).second;
    AG_CHECK(fresh, "two ops of one name");
    AG_CHECK(ops_[i].infer, "an op without a type rule");
    if (!ops_[i].onnx.empty()) by_onnx_.emplace(ops_[i].onnx, i);
  }
}

const OpInfo* OpTable::find(std::string_view name) const {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &ops_[it->second];
}

const OpInfo* OpTable::find_onnx(std::string_view domain, std::string_view type, int opset) const {
  const OpInfo* best = nullptr;
  auto [begin, end] = by_onnx_.equal_range(type);
  for (auto it = begin; it != end; ++it) {
    const OpInfo& op = ops_[it->second];
    bool fits = op.domain == domain && op.since <= opset && opset <= op.until;
    if (fits && (!best || op.since > best->since)) best = &op;
  }
  return best;
}

std::vector<std::string> OpTable::onnx_names(std::string_view domain) const {
  std::vector<std::string> out;
  for (const OpInfo& op : ops_)
    if (!op.onnx.empty() && op.domain == domain) out.emplace_back(op.onnx);
  return out;
}

std::vector<std::string> OpTable::names() const {
  std::vector<std::string> out;
  for (const OpInfo& op : ops_) out.emplace_back(op.name);
  return out;
}

namespace {
std::vector<OpInfo> all_ops() {
  std::vector<OpInfo> all;
  for (OpFamily family : op_families) {
    std::vector<OpInfo> part = family();
    all.insert(all.end(), std::make_move_iterator(part.begin()), std::make_move_iterator(part.end()));
  }
  return all;
}
}  // namespace

const OpTable& op_table() {
  static const OpTable table(all_ops());
  return table;
}

const OpInfo& op(std::string_view name) {
  const OpInfo* found = op_table().find(name);
  if (!found) internal_error("no op named " + std::string(name), __FILE__, __LINE__);
  return *found;
}

std::optional<Dims> InferCtx::ints(std::size_t i) const {
  if (!has(i)) return std::nullopt;
  const auto& known = graph_.value(operands_[i]).known_ints;
  return known ? std::optional(*known) : std::nullopt;
}

const Literal* InferCtx::literal(std::size_t i) const {
  if (!has(i)) return nullptr;
  const LiteralPtr* l = graph_.def(operands_[i]).attrs.get<LiteralPtr>("value");
  return l && graph_.def(operands_[i]).op->name == "constant" ? l->get() : nullptr;
}

Dim InferCtx::unbacked(std::size_t index) const {
  return Dim::symbol("u" + std::to_string(graph_.next_unbacked()) + "." + std::to_string(index));
}

std::unexpected<Diags> InferCtx::error(Code code, std::string message, std::string label,
                                       std::initializer_list<std::size_t> operands) const {
  Diag d = ag::error(code, locs_.empty() ? Loc{} : locs_[0], std::move(message), std::move(label));
  for (std::size_t i : operands) {
    if (!has(i)) continue;
    Loc at = graph_.loc(operands_[i]);
    if (at.known()) d.at(at, graph_.display(operands_[i]) + ": " + in(i).str());
  }
  return fail(std::move(d));
}

std::unexpected<Diags> EvalCtx::error(Code code, std::string message) const {
  return fail(code, node.graph.loc(node.result()), "`" + std::string(node.node().op->name) + "` " + std::move(message));
}

}  // namespace ag

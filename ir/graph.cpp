#include "ir/graph.hpp"

#include <algorithm>
#include <charconv>
#include <set>

namespace ag {
namespace {

/// 1 + number of an unbacked symbol, "u12.0"; 0 for any other.
std::uint64_t unbacked_number(std::string_view symbol) {
  std::uint64_t n = 0;
  if (symbol.size() < 4 || symbol[0] != 'u') return 0;
  auto [end, err] = std::from_chars(symbol.data() + 1, symbol.data() + symbol.size(), n);
  bool ours = err == std::errc() && end != symbol.data() + symbol.size() && *end == '.' && n < 1'000'000'000'000'000;
  return ours ? n + 1 : 0;
}

}  // namespace

Loc Graph::loc(ValueId id) const {
  if (!id.valid() || id.index >= values_.size()) return {};
  for (const Loc& l : def(id).locs)
    if (l.known()) return l;
  return {};
}

ValueId Graph::find(std::string_view value_name) const {
  auto it = by_name_.find(std::string(value_name));
  return it == by_name_.end() ? ValueId() : it->second;
}

std::string Graph::display(ValueId id) const {
  if (!id.valid()) return "_";
  if (id.index < values_.size() && !value(id).name.empty()) return "`" + value(id).name + "`";
  return "%" + std::to_string(id.index);
}

NodeId Graph::append(Node node, std::vector<Type> result_types) {
  NodeId id(nodes_.size());
  node.first_result = ValueId(values_.size());
  node.result_count = static_cast<std::uint32_t>(result_types.size());
  for (std::uint32_t i = 0; i < node.result_count; ++i) {
    Value v;
    v.type = std::move(result_types[i]);
    std::set<std::string> symbols;
    for (const Dim& d : v.type.shape)
      if (!d.is_const()) d.collect_symbols(symbols);
    for (const std::string& s : symbols) next_unbacked_ = std::max(next_unbacked_, unbacked_number(s));
    v.node = id;
    v.result = i;
    values_.push_back(std::move(v));
  }
  nodes_.push_back(std::move(node));
  return id;
}

void Graph::set_name(ValueId id, std::string name) {
  Value& v = values_[id.index];
  if (v.name == name) return;
  if (!v.name.empty()) by_name_.erase(v.name);
  v.name = std::move(name);
  if (v.name.empty()) return;
  bool added = by_name_.emplace(v.name, id).second;
  AG_CHECK(added, "two values of one name");
}

}  // namespace ag

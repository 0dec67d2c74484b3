#include "ir/symbols.hpp"

#include "ir/op.hpp"

namespace ag {
namespace {

using Symbols = std::map<std::string, Dim, std::less<>>;

void collect(const Dims& dims, std::set<std::string>& out) {
  for (const Dim& d : dims)
    if (!d.is_const()) d.collect_symbols(out);
}

Dims replaced(const Dims& dims, const Symbols& symbols) {
  Dims out;
  for (const Dim& d : dims) out.push_back(d.is_const() ? d : d.substitute(symbols));
  return out;
}

Attrs replaced(const Attrs& attrs, const Symbols& symbols) {
  Attrs out;
  for (const auto& [name, value] : attrs) {
    if (const Dims* d = std::get_if<Dims>(&value))
      out.set(name, replaced(*d, symbols));
    else if (const Type* t = std::get_if<Type>(&value))
      out.set(name, Type{t->dtype, replaced(t->shape, symbols)});
    else
      out.set(name, value);
  }
  return out;
}

/// What a region means by names that none of its inputs binds.
Symbols seen_inside(const Graph& region, const Symbols& symbols) {
  std::set<std::string> own;
  for (ValueId v : region.inputs) collect(region.type(v).shape, own);
  Symbols out;
  for (const auto& [name, dim] : symbols)
    if (!is_unbacked(name) && !own.contains(name)) out.emplace(name, dim);
  return out;
}

}  // namespace

bool is_unbacked(std::string_view symbol) {
  if (symbol.size() < 4 || symbol[0] != 'u') return false;
  std::size_t i = 1;
  while (i < symbol.size() && symbol[i] >= '0' && symbol[i] <= '9') ++i;
  return i > 1 && i + 1 < symbol.size() && symbol[i] == '.';
}

std::map<std::string, NodeId, std::less<>> unbacked_definitions(const Graph& g) {
  std::map<std::string, NodeId, std::less<>> out;
  std::set<std::string> given;
  for (ValueId v : g.inputs) collect(g.type(v).shape, given);
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (n.op->name == "input") continue;
    const bool names = n.op->name == "sizes";  // a composite's decomposition names what the composite's type mentions
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      for (const Dim& d : g.type(n.result(r)).shape) {
        if (d.is_const()) continue;
        auto s = d.as_symbol();
        if (!s || !is_unbacked(*s) || given.contains(*s)) continue;
        auto [at, fresh] = out.emplace(*s, id);
        if (!fresh && names && g.node(at->second).op->name != "sizes") at->second = id;
      }
  }
  return out;
}

std::set<std::string> unbacked_symbols(const Graph& g, NodeId id) {
  std::set<std::string> all;
  const Node& n = g.node(id);
  for (std::uint32_t r = 0; r < n.result_count; ++r) collect(g.type(n.result(r)).shape, all);
  for (const auto& [name, value] : n.attrs) {
    if (const Dims* d = std::get_if<Dims>(&value)) collect(*d, all);
    if (const Type* t = std::get_if<Type>(&value)) collect(t->shape, all);
  }
  std::erase_if(all, [](const std::string& s) { return !is_unbacked(s); });
  return all;
}

Graph substitute_symbols(const Graph& g, const Symbols& symbols) {
  Graph out;
  out.name = g.name;
  out.stage = g.stage;
  out.opset = g.opset;
  out.ag_opset = g.ag_opset;
  for (const SymbolInfo& s : g.symbols)
    if (!symbols.contains(s.name)) out.symbols.push_back(s);
  out.grads = g.grads;
  out.extras = g.extras;
  for (NodeId id : g.node_ids()) {
    Node n = g.node(id);
    for (GraphPtr& r : n.regions)
      if (Symbols inside = seen_inside(*r, symbols); !inside.empty())
        r = std::make_shared<const Graph>(substitute_symbols(*r, inside));
    n.attrs = replaced(n.attrs, symbols);
    std::vector<Type> types;
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      types.push_back({g.type(n.result(r)).dtype, replaced(g.type(n.result(r)).shape, symbols)});
    NodeId fresh = out.append(std::move(n), std::move(types));
    for (std::uint32_t r = 0; r < out.node(fresh).result_count; ++r) {
      ValueId v = out.node(fresh).result(r);
      if (const auto& known = g.value(v).known_ints)
        out.value(v).known_ints = std::make_shared<const Dims>(replaced(*known, symbols));
      if (!g.value(v).name.empty()) out.set_name(v, g.value(v).name);
    }
  }
  out.inputs = g.inputs;
  out.outputs = g.outputs;
  return out;
}

}  // namespace ag

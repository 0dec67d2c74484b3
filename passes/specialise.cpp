#include "passes/specialise.hpp"

#include <algorithm>

#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

using Subst = std::map<std::string, Dim, std::less<>>;

Dims fixed(const Dims& dims, const Subst& env) {
  Dims out;
  for (const Dim& d : dims) out.push_back(d.substitute(env));
  return out;
}

Graph substitute(const Graph& g, const Subst& env) {
  Graph out = empty_like(g);
  out.symbols.erase(
      std::remove_if(out.symbols.begin(), out.symbols.end(), [&](const SymbolInfo& s) { return env.contains(s.name); }),
      out.symbols.end());
  ValueMap map;
  for (std::size_t i = 0; i < g.value_count(); ++i) map.push_back(ValueId(i));
  for (NodeId id : g.node_ids()) {
    Node n = g.node(id);
    for (GraphPtr& r : n.regions) r = std::make_shared<const Graph>(substitute(*r, env));
    Attrs attrs;
    for (const auto& [name, value] : n.attrs) {
      if (const Dims* d = std::get_if<Dims>(&value))
        attrs.set(name, fixed(*d, env));
      else if (const Type* t = std::get_if<Type>(&value))
        attrs.set(name, Type{t->dtype, fixed(t->shape, env)});
      else
        attrs.set(name, value);
    }
    n.attrs = std::move(attrs);
    std::vector<Type> types;
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      types.push_back({g.type(n.result(r)).dtype, fixed(g.type(n.result(r)).shape, env)});
    NodeId fresh = out.append(std::move(n), std::move(types));
    for (std::uint32_t r = 0; r < out.node(fresh).result_count; ++r) {
      ValueId v = out.node(fresh).result(r);
      if (const auto& known = g.value(v).known_ints)
        out.value(v).known_ints = std::make_shared<const Dims>(fixed(*known, env));
      if (!g.value(v).name.empty()) out.set_name(v, g.value(v).name);
    }
  }
  map_signature(g, map, out);
  return out;
}

}  // namespace

Result<Graph> specialise(const Graph& g, const DimEnv& sizes) {
  Subst env;
  std::set<std::string> used;
  for (ValueId v : g.inputs)
    for (const Dim& d : g.type(v).shape) d.collect_symbols(used);
  for (const auto& [name, value] : sizes) {
    if (!used.contains(name)) return fail(Code::AG0402, {}, "no input of this graph has a size `" + name + "`");
    for (const SymbolInfo& s : g.symbols)
      if (s.name == name &&
          ((s.min && value < *s.min) || (s.max && value > *s.max) || (s.multiple_of && value % *s.multiple_of)))
        return fail(Code::AG2901, s.loc, name + " = " + std::to_string(value) + " is outside the declared bounds",
                    "declared here");
    env.emplace(name, Dim(value));
  }
  Graph out = substitute(g, env);
  AG_TRY_(verify(out));
  return out;
}

}  // namespace ag::passes

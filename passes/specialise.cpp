#include "passes/specialise.hpp"

#include <algorithm>

#include "ir/symbols.hpp"

namespace ag::passes {
namespace {

using Subst = std::map<std::string, Dim, std::less<>>;

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
  Graph out = substitute_symbols(g, env);
  AG_TRY_(verify(out));
  return out;
}

}  // namespace ag::passes

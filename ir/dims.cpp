// Sizes at run time: symbols solved from the shapes of inputs.
#include <fmt/format.h>

#include <limits>
#include <set>

#include "ir/graph.hpp"

namespace ag {
namespace {

struct Equation {
  const Dim* dim;
  std::int64_t size;
  std::size_t input;
  std::size_t axis;
};

std::string where(const Graph& g, const Equation& e) {
  return fmt::format("axis {} of input {}", e.axis, g.display(g.inputs[e.input]));
}

/// dim = coefficient * symbol + rest, with everything but one symbol known.
struct Linear {
  std::string symbol;
  std::int64_t coefficient = 0, rest = 0;
};
std::optional<Linear> linear_in_one(const Dim& dim, const DimEnv& env) {
  Linear out;
  for (const Dim::Term& t : dim.terms()) {
    std::int64_t value = t.coeff;
    const std::string* unknown = nullptr;
    for (const Dim::Factor& f : t.factors) {
      std::optional<std::int64_t> known;
      if (f.kind == Dim::Atom::symbol) {
        if (auto it = env.find(f.name); it != env.end())
          known = it->second;
        else if (unknown)
          return std::nullopt;
        else
          unknown = &f.name;
        if (!known) continue;
      } else {
        Dim atom = Dim(0);
        switch (f.kind) {
          case Dim::Atom::floordiv: atom = floordiv(f.args[0], f.args[1]); break;
          case Dim::Atom::mod: atom = mod(f.args[0], f.args[1]); break;
          case Dim::Atom::min: atom = min(f.args[0], f.args[1]); break;
          case Dim::Atom::max: atom = max(f.args[0], f.args[1]); break;
          case Dim::Atom::bcast: atom = Dim::bcast(f.args[0], f.args[1]); break;
          case Dim::Atom::symbol: break;
        }
        known = atom.eval(env);
        if (!known) return std::nullopt;
      }
      auto next = checked_mul(value, *known);
      if (!next) return std::nullopt;
      value = *next;
    }
    if (unknown && !out.symbol.empty() && out.symbol != *unknown) return std::nullopt;
    if (unknown) out.symbol = *unknown;
    std::int64_t& sum = unknown ? out.coefficient : out.rest;
    auto next = checked_add(sum, value);
    if (!next) return std::nullopt;
    sum = *next;
  }
  return out.symbol.empty() || out.coefficient == 0 ? std::nullopt : std::optional(out);
}

/// True if the equation is done with: a symbol bound, or everything known and right.
Result<bool> solve(const Graph& g, const Equation& e, DimEnv& env, std::map<std::string, std::string>& from) {
  if (auto v = e.dim->eval(env)) {
    if (*v == e.size) return true;
    std::string reason;
    std::set<std::string> symbols;
    e.dim->collect_symbols(symbols);
    for (const std::string& s : symbols)
      reason += fmt::format("{}{} is {}{}", reason.empty() ? ": " : ", ", s, env.find(s)->second,
                            from.contains(s) ? " from " + from[s] : "");
    Code code = symbols.empty() ? Code::AG5202 : Code::AG5203;
    return fail(code, g.loc(g.inputs[e.input]),
                fmt::format("{} is {}, but must be {}{}{}", where(g, e), e.size,
                            e.dim->is_const() ? "" : e.dim->str() + " = ", *v, reason));
  }
  auto l = linear_in_one(*e.dim, env);
  if (!l) return false;
  auto difference = l->rest == std::numeric_limits<std::int64_t>::min() ? std::nullopt : checked_add(e.size, -l->rest);
  if (!difference || *difference % l->coefficient != 0 || *difference / l->coefficient < 0)
    return fail(Code::AG5203, g.loc(g.inputs[e.input]),
                fmt::format("{} is {}, which no value of {} makes {}", where(g, e), e.size, l->symbol, e.dim->str()));
  env[l->symbol] = *difference / l->coefficient;
  from[l->symbol] = where(g, e);
  return true;
}

/// Symbols of equations that cannot be solved, from `given`; true if there was one.
bool borrow(const std::vector<Equation>& open, const DimEnv& given, DimEnv& env) {
  std::set<std::string> symbols;
  for (const Equation& e : open) e.dim->collect_symbols(symbols);
  bool any = false;
  for (const std::string& s : symbols)
    if (auto it = given.find(s); it != given.end()) any = env.insert(*it).second || any;
  return any;
}

Status check_bounds(const Graph& g, const DimEnv& env) {
  for (const SymbolInfo& s : g.symbols) {
    auto it = env.find(s.name);
    if (it == env.end()) continue;
    std::int64_t v = it->second;
    std::string rule;
    if (s.min && v < *s.min)
      rule = fmt::format("at least {}", *s.min);
    else if (s.max && v > *s.max)
      rule = fmt::format("at most {}", *s.max);
    else if (s.multiple_of && *s.multiple_of > 0 && v % *s.multiple_of)
      rule = fmt::format("a multiple of {}", *s.multiple_of);
    if (!rule.empty())
      return fail(Code::AG5203, s.loc, fmt::format("{} is {}, but is declared to be {}", s.name, v, rule));
  }
  return {};
}

}  // namespace

Result<DimEnv> bind_dims(const Graph& g, std::span<const std::vector<std::int64_t>> shapes, const DimEnv& given) {
  if (shapes.size() != g.inputs.size())
    return fail(Code::AG5201, {},
                fmt::format("the graph has {} inputs, and {} are given", g.inputs.size(), shapes.size()));
  std::vector<Equation> open;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Type& t = g.type(g.inputs[i]);
    if (shapes[i].size() != t.shape.size())
      return fail(Code::AG5202, g.loc(g.inputs[i]),
                  fmt::format("input {} is {}, of rank {}, but an array of rank {} is given", g.display(g.inputs[i]),
                              t.str(), t.rank(), shapes[i].size()));
    for (std::size_t a = 0; a < shapes[i].size(); ++a) open.push_back({&t.shape[a], shapes[i][a], i, a});
  }
  DimEnv env;
  std::map<std::string, std::string> from;  // symbol -> what gave its value
  for (bool progress = true; progress && !open.empty();) {
    progress = false;
    std::vector<Equation> still;
    for (const Equation& e : open) {
      AG_TRY(bool done, solve(g, e, env, from));
      if (done)
        progress = true;
      else
        still.push_back(e);
    }
    open = std::move(still);
    if (!progress) progress = borrow(open, given, env);
  }
  if (!open.empty())
    return fail(
        Code::AG5204, g.loc(g.inputs[open[0].input]),
        fmt::format("{} is {}, but the inputs do not determine its symbols", where(g, open[0]), open[0].dim->str()));
  env.insert(given.begin(), given.end());  // what is bound already stays
  AG_TRY_(check_bounds(g, env));
  return env;
}

}  // namespace ag

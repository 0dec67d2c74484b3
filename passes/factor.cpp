// The gradient of an activation reaches its operand along several paths: g * a + (g * b) * c for a GELU. Each factor is
// a value of the forward pass, which stores one array for each. Here the paths are joined, g * (a + b * c): what stands
// in the brackets needs no cotangent, so it is computed where the forward pass has everything in registers, and one
// array is stored and read.
//
// A value of a gradient that multiplications by such early values, sums and differences of one and the same cotangent
// lead to is that cotangent times a factor. The topmost ones are rewritten where that saves an array. Rounding moves
// within the bound of the operations it replaces (class `algorithm`); selects stay, since they mask a cotangent.
#include "passes/factor.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "ir/op.hpp"
#include "passes/rebuild.hpp"
#include "passes/users.hpp"

namespace ag::passes {
namespace {

constexpr std::size_t max_forms = 6;  // cotangents that one value is followed back to

/// A factor: a tree over early values; a node without operands is 1 or a value.
struct Factor {
  enum class Kind : std::uint8_t { one, value, mul, div, add, sub, neg } kind = Kind::one;
  ValueId value;
  std::uint32_t a = 0, b = 0;  ///< places in a table of factors
};
/// A value is `cotangent` times `factor`.
struct Form {
  ValueId cotangent;
  std::uint32_t factor = 0;
};
struct Rewrite {
  Form form;
  std::set<NodeId> region;  ///< what it replaces
};

class Finder {
 public:
  explicit Finder(const Graph& g) : g_(g), early_(g.node_count()), forms_(g.node_count()), factors_(1) {
    const std::vector<bool> live = live_nodes(g);
    users_ = users_of(g, live);
    for (auto& users : users_) users.erase(std::unique(users.begin(), users.end()), users.end());
    for (const Output& o : g.outputs) users_[o.value.index].push_back({});
    for (NodeId id : g.node_ids()) {
      early_[id.index] = is_early(id);
      if (live[id.index]) find_forms(id);
    }
  }

  const std::vector<Factor>& factors() const { return factors_; }

  /// By root; topmost first.
  std::map<NodeId, Rewrite> rewrites() const {
    std::map<NodeId, Rewrite> found;
    std::vector<bool> taken(g_.node_count());
    for (std::size_t i = g_.node_count(); i-- > 0;) {
      if (taken[i]) continue;
      std::size_t best = 1;
      for (const Form& form : forms_[i]) {
        Rewrite r{form, region(NodeId(i), form.cotangent)};
        const std::size_t arrays = residuals(r.region);
        if (arrays <= best) continue;
        best = arrays;
        found[NodeId(i)] = std::move(r);
      }
      if (auto it = found.find(NodeId(i)); it != found.end())
        for (NodeId id : it->second.region) taken[id.index] = true;
    }
    return found;
  }

 private:
  const Graph& g_;
  std::vector<bool> early_;  // by node: needs no cotangent
  Users users_;  // each node once; an invalid one is an output
  std::vector<std::vector<Form>> forms_;  // by node
  std::vector<Factor> factors_;

  bool early(ValueId v) const { return early_[g_.value(v).node.index]; }

  bool is_early(NodeId id) const {
    const Node& n = g_.node(id);
    if (!n.grad_of) return true;
    if (n.op->lower_class == LowerClass::source) return true;
    const bool elementwise =
        n.op->lower_class == LowerClass::map || (n.op->lower_class == LowerClass::index && n.op->inlined);
    return elementwise && std::all_of(n.operands.begin(), n.operands.end(), [&](ValueId v) { return !v || early(v); });
  }

  std::uint32_t push(Factor::Kind kind, std::uint32_t a, std::uint32_t b = 0) {
    factors_.push_back({kind, {}, a, b});
    return static_cast<std::uint32_t>(factors_.size() - 1);
  }
  std::uint32_t push(ValueId v) {
    factors_.push_back({Factor::Kind::value, v});
    return static_cast<std::uint32_t>(factors_.size() - 1);
  }

  /// What a value is a multiple of, itself first; further only if nobody else reads it.
  std::vector<Form> through(ValueId v) const {
    std::vector<Form> all{{v, 0}};
    const std::vector<Form>& more = forms_[g_.value(v).node.index];
    if (users_[v.index].size() == 1) all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  void find_forms(NodeId id) {
    const Node& n = g_.node(id);
    if (early_[id.index] || n.op->lower_class != LowerClass::map) return;
    const Type& t = g_.type(n.result());
    if (t.dtype != DType::f32 && t.dtype != DType::f64) return;
    std::vector<Form>& forms = forms_[id.index];
    auto same = [&](ValueId v) { return !early(v) && g_.type(v) == t; };
    using Kind = Factor::Kind;
    const std::string_view op = n.op->name;
    if (op == "neg" && same(n.operands[0])) {
      for (const Form& f : through(n.operands[0])) forms.push_back({f.cotangent, push(Kind::neg, f.factor)});
    } else if (op == "mul" || op == "div") {
      std::size_t late = same(n.operands[0]) ? 0 : 1;
      if (!same(n.operands[late]) || !early(n.operands[1 - late]) || (op == "div" && late == 1)) return;
      const std::uint32_t other = push(n.operands[1 - late]);
      for (const Form& f : through(n.operands[late]))
        forms.push_back({f.cotangent, push(op == "div" ? Kind::div : Kind::mul, f.factor, other)});
    } else if ((op == "add" || op == "sub") && same(n.operands[0]) && same(n.operands[1])) {
      const std::vector<Form> right = through(n.operands[1]);
      for (const Form& a : through(n.operands[0]))
        for (const Form& b : right)
          if (a.cotangent == b.cotangent)
            forms.push_back({a.cotangent, push(op == "add" ? Kind::add : Kind::sub, a.factor, b.factor)});
    }
    if (forms.size() > max_forms) forms.resize(max_forms);
  }

  /// The nodes from the cotangent (without it) up to the root.
  std::set<NodeId> region(NodeId root, ValueId cotangent) const {
    std::set<NodeId> all;
    std::vector<NodeId> work{root};
    while (!work.empty()) {
      const NodeId id = work.back();
      work.pop_back();
      if (!all.insert(id).second) continue;
      for (ValueId v : g_.node(id).operands)
        if (v != cotangent && !early(v)) work.push_back(g_.value(v).node);
    }
    return all;
  }

  /// How many arrays the forward pass stores for the region alone.
  std::size_t residuals(const std::set<NodeId>& region) const {
    std::set<ValueId> arrays;
    for (NodeId id : region)
      for (ValueId v : g_.node(id).operands) {
        if (!early(v) || g_.def(v).op->lower_class == LowerClass::source) continue;
        if (g_.type(v).shape != g_.type(g_.node(id).result()).shape) continue;
        const bool alone = std::all_of(users_[v.index].begin(), users_[v.index].end(), [&](NodeId user) {
          return user && (region.contains(user) || (early_[user.index] && is_map(user)));
        });
        if (alone) arrays.insert(v);
      }
    return arrays.size();
  }

  bool is_map(NodeId id) const { return g_.node(id).op->lower_class == LowerClass::map; }
};

/// The factor as a value of the graph that is built; invalid for 1.
class Emitter {
 public:
  Emitter(GraphBuilder& b, const std::vector<Factor>& factors, const ValueMap& map)
      : b_(b), factors_(factors), map_(map) {}

  /// Factors stand behind their operands in the table, and a tree is as deep as the region it came from: some nodes.
  ValueId emit(std::uint32_t at, DType t) {
    const Factor& f = factors_[at];
    using Kind = Factor::Kind;
    switch (f.kind) {
      case Kind::one: return {};
      case Kind::value: return map_[f.value.index];
      case Kind::neg: {
        const ValueId a = emit(f.a, t);
        return a ? b_.neg(a) : b_.scalar(t, -1);
      }
      case Kind::mul:
      case Kind::div: {
        const ValueId a = emit(f.a, t), c = emit(f.b, t);
        if (f.kind == Kind::mul) return a ? b_.mul(a, c) : c;
        return b_.div(a ? a : b_.scalar(t, 1), c);
      }
      default: break;
    }
    ValueId a = emit(f.a, t), c = emit(f.b, t);
    if (!a) a = b_.scalar(t, 1);
    if (!c) c = b_.scalar(t, 1);
    return f.kind == Kind::add ? b_.add(a, c) : b_.sub(a, c);
  }

 private:
  GraphBuilder& b_;
  const std::vector<Factor>& factors_;
  const ValueMap& map_;
};

Result<Graph> run(const Graph& g, PassContext&) {
  const Finder finder(g);
  const std::map<NodeId, Rewrite> rewrites = finder.rewrites();
  if (rewrites.empty()) return g;
  Graph out = empty_like(g);
  GraphBuilder b(out);
  ValueMap map(g.value_count());
  Emitter emitter(b, finder.factors(), map);
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    b.set_origin(n.locs, n.grad_of ? map[n.grad_of.index] : ValueId{});
    if (auto r = rewrites.find(id); r != rewrites.end()) {
      const Form& form = r->second.form;
      const ValueId factor = emitter.emit(form.factor, g.type(n.result()).dtype);
      const ValueId v = b.mul(map[form.cotangent.index], factor);
      map[n.result().index] = v;
      if (const std::string& name = g.value(n.result()).name; !name.empty() && !out.find(name)) out.set_name(v, name);
      continue;
    }
    copy_node(b, g, id, map);
  }
  map_signature(g, map, out);
  return out;
}

}  // namespace

const Pass factor = {.name = "factor", .summary = "one stored factor for each activation's gradient", .on_graph = run};

}  // namespace ag::passes

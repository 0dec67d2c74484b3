// Finds softmax(scale q k^T + mask) v, however it is spelled, and makes one op of it.
//
// The pass runs twice. Before autodiff it sees what users and exporters wrote, composites among it, and the op that it
// makes has a gradient of its own; a backward pass would not be recognised from its pieces. Later it sees primitives:
// what decomposition made of other attention ops, and gradients whose results are only transposed, which are then
// stored in the order their readers want.
//
// Matching goes backwards from the product with the values. Every value in between must be used there alone.
#include "passes/attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "ir/ops/attend.hpp"
#include "ir/ops/expr.hpp"
#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

using Ints = std::vector<std::int64_t>;
using ops::Expr;
constexpr double minus_infinity = -std::numeric_limits<double>::infinity();
/// Scores below this are as good as -inf beside any other score of the row.
constexpr double hidden = -1e30;
/// Elements up to which masks are evaluated.
constexpr std::int64_t max_mask = std::int64_t{1} << 22;

Ints iota_ints(std::int64_t n) {
  Ints r(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < r.size(); ++i) r[i] = static_cast<std::int64_t>(i);
  return r;
}

/// A product of two batches of matrices: orders of axes that make them [batch..., m, k] and [batch..., n, k].
struct Product {
  ValueId lhs, rhs;
  Ints lhs_perm, rhs_perm;
};

/// What is added to scores, perhaps to scores in another shape: `reshapes` (from, to) lead to that of the product.
struct Term {
  ValueId value;
  std::vector<std::pair<Dims, Dims>> reshapes;
};

/// What has been found on the way from the probabilities to the scores.
struct Found {
  ValueId q, k, v, mask;
  std::vector<Term> terms;  ///< outermost first
  double scale = 1, fill = minus_infinity;
  std::optional<std::int64_t> causal;
  bool empty_zero = false, negated_mask = false;
  Ints q_perm, k_perm, v_perm;  ///< orders of axes that make them [batch..., length, size]
};

class Finder {
 public:
  explicit Finder(const Graph& g)
      : g_(g), out_(empty_like(g)), b_(out_), map_(g.value_count()), uses_(g.value_count()) {
    const std::vector<bool> live = live_nodes(g);
    for (NodeId id : g.node_ids())
      for (ValueId v : g.node(id).operands)
        if (v && live[id.index]) ++uses_[v.index];
    for (const Output& o : g.outputs) ++uses_[o.value.index];
    auto request = [&](const std::string& name) {
      if (ValueId v = g.find(name)) uses_[v.index] += 2, requested_.insert(v);
    };
    for (const GradRequest& r : g.grads) {
      request(r.of);
      for (const std::string& w : r.wrt) request(w);
      for (const std::string& s : r.stop) request(s);
    }
  }

  Graph run() {
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (auto found = match(id)) {
        b_.set_origin(n.locs, n.grad_of ? map_[n.grad_of.index] : ValueId{});
        ValueId y = build(*found);
        b_.set_origin({});
        if (has_attention_kernel(out_, out_.value(y).node)) {
          map_[n.result().index] = y;
          out_.node(out_.value(y).node).name = n.name;
          if (const std::string& name = g_.value(n.result()).name; !name.empty()) out_.set_name(y, name);
          continue;
        }
      }
      copy_node(b_, g_, id, map_);
    }
    map_signature(g_, map_, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  Graph out_;
  GraphBuilder b_;
  ValueMap map_;
  std::vector<int> uses_;
  std::set<ValueId> requested_;  ///< by gradients: no constants even if they are constant

  const Node& def(ValueId v) const { return g_.def(v); }
  const Type& type(ValueId v) const { return g_.type(v); }
  bool is(ValueId v, std::initializer_list<std::string_view> names) const {
    return std::find(names.begin(), names.end(), def(v).op->name) != names.end();
  }
  bool alone(ValueId v) const { return uses_[v.index] == 1 && def(v).result_count == 1; }

  // -- constants --------------------------------------------------------------------------------------------------
  /// The elements of a value that depends on constants only, if they are few.
  std::optional<Array> constant(ValueId v) const {
    auto shape = static_shape(type(v).shape);
    if (!shape || product(type(v).shape).value() > max_mask) return std::nullopt;
    Graph sub;
    GraphBuilder s(sub);
    std::map<ValueId, ValueId> copies;
    std::vector<std::pair<ValueId, bool>> work{{v, false}};
    while (!work.empty()) {
      auto [x, ready] = work.back();
      work.pop_back();
      if (copies.contains(x)) continue;
      const Node& n = def(x);
      if (auto known = known_elements(x)) {
        copies[x] = s.constant(make_literal(std::move(*known)));
        continue;
      }
      if (!ready) {
        if (copies.size() + work.size() > 64 || !n.regions.empty() || requested_.contains(x) ||
            n.attrs.get_or<bool>("trainable", false) || n.op->name == "input" ||
            (n.operands.empty() && n.op->name != "constant" && n.op->name != "iota") ||
            product(type(x).shape).is_const() == false || product(type(x).shape).value() > max_mask)
          return std::nullopt;
        work.emplace_back(x, true);
        for (ValueId o : n.operands)
          if (o) work.emplace_back(o, false);
        continue;
      }
      NodeId copy = s.copy(g_, g_.value(x).node, [&](ValueId o) { return o ? copies.at(o) : o; });
      for (std::uint32_t r = 0; r < n.result_count; ++r) copies[n.result(r)] = sub.node(copy).result(r);
    }
    sub.outputs.push_back({"", copies.at(v), {}});
    auto values = interpret(sub, {});
    return values ? std::optional(std::move((*values)[0])) : std::nullopt;
  }

  /// Sizes that are known whatever they are computed from.
  std::optional<Array> known_elements(ValueId v) const {
    const Value& value = g_.value(v);
    auto shape = static_shape(value.type.shape);
    if (!value.known_ints || !shape) return std::nullopt;
    Array a(value.type.dtype, *shape);
    for (std::size_t i = 0; i < value.known_ints->size(); ++i) {
      const Dim& d = (*value.known_ints)[i];
      if (!d.is_const()) return std::nullopt;
      a.set_int(static_cast<std::int64_t>(i), d.value());
    }
    return a;
  }

  /// The number that all elements of a value are.
  std::optional<double> number(ValueId v) const {
    if (!product(type(v).shape).is(1)) {
      if (is(v, {"broadcast_in_dim", "Expand"})) return number(def(v).operands[0]);
      const LiteralPtr* literal = def(v).attrs.get<LiteralPtr>("value");
      bool variable = requested_.contains(v) || def(v).attrs.get_or<bool>("trainable", false);
      if (literal && (*literal)->form == Literal::Form::splat && !variable)
        return loop::bits_to_double((*literal)->dtype, (*literal)->bits);
      return std::nullopt;
    }
    auto a = constant(v);
    return a ? std::optional(a->get_double(0)) : std::nullopt;
  }

  /// c if [.., q, k] is `seen` exactly where j <= i + c.
  static std::optional<std::int64_t> triangle(const Array& a, const std::function<bool(std::int64_t)>& seen) {
    const auto& shape = a.shape();
    if (shape.size() < 2) return std::nullopt;
    std::int64_t q = shape[shape.size() - 2], k = shape.back(), c = 0;
    if (q < 2 || k < 2 || a.elems() % (q * k) != 0) return std::nullopt;
    while (c < k && seen(c)) ++c;
    --c;  // the first row sees keys up to c
    for (std::int64_t e = 0; e < a.elems(); ++e)
      if (seen(e) != (e % k <= e / k % q + c)) return std::nullopt;
    return c;
  }

  // -- products ---------------------------------------------------------------------------------------------------
  /// Operands are values of g_; axes are moved by nodes of out_ when the op is built.
  std::optional<Product> product_of(ValueId v) const {
    const Node& n = def(v);
    if (n.op->name != "MatMul" && n.op->name != "dot_general") return std::nullopt;
    ValueId l = n.operands[0], r = n.operands[1];
    std::size_t rank = type(l).shape.size();
    if (rank < 2 || type(r).shape.size() != rank || type(v).shape.size() != rank || !is_float(type(v).dtype))
      return std::nullopt;
    const Ints identity = iota_ints(static_cast<std::int64_t>(rank));
    if (n.op->name == "MatMul") return Product{l, r, identity, last_swapped(identity)};
    auto order = [&](const char* batch, const char* contract) {
      Ints perm = n.attrs.get_or<Ints>(batch, {}), c = n.attrs.get_or<Ints>(contract, {});
      for (std::int64_t d : identity)
        if (std::find(perm.begin(), perm.end(), d) == perm.end() && c != Ints{d}) perm.push_back(d);
      perm.insert(perm.end(), c.begin(), c.end());
      return perm;
    };
    if (n.attrs.get_or<Ints>("lhs_batch", {}).size() + 2 != rank ||
        n.attrs.get_or<Ints>("lhs_contract", {}).size() != 1)
      return std::nullopt;
    return Product{l, r, order("lhs_batch", "lhs_contract"), order("rhs_batch", "rhs_contract")};
  }
  static Ints last_swapped(Ints perm) {
    std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
    return perm;
  }

  // -- from the probabilities to the scores -----------------------------------------------------------------------
  std::optional<Found> match(NodeId id) const {
    const Node& n = g_.node(id);
    if (n.result_count != 1) return std::nullopt;
    auto product = product_of(n.result());
    if (!product) return std::nullopt;
    Found f;
    f.v = product->rhs;
    f.v_perm = last_swapped(product->rhs_perm);
    if (product->lhs_perm != iota_ints(type(product->lhs).rank())) return std::nullopt;
    ValueId p = product->lhs;
    if (!through_probabilities(p, f)) return std::nullopt;
    if (!through_scores(p, f)) return std::nullopt;
    return f;
  }

  /// From probabilities to what the softmax is taken of.
  bool through_probabilities(ValueId& v, Found& f) const {
    for (;;) {
      if (!alone(v)) return false;
      const Node& n = def(v);
      if (is(v, {"Identity", "convert"}) && is_float(type(n.operands[0]).dtype)) {
        v = n.operands[0];
      } else if (is(v, {"select"}) && is(n.operands[0], {"IsNaN", "is_nan"}) && number(n.operands[1]) == 0.0 &&
                 def(n.operands[0]).operands[0] == n.operands[2] && uses_[n.operands[2].index] == 2) {
        f.empty_zero = true;  // rows that see nothing, as torch exports them
        v = n.operands[2];
        return softmax(v, true);
      } else {
        return softmax(v, false);
      }
    }
  }

  bool softmax(ValueId& v, bool shared) const {
    const Node& n = def(v);
    const int rank = type(v).rank();
    if (!shared && !alone(v)) return false;
    if (n.op->name == "Softmax") {
      if (normalize_axis(n.attrs.get_or<std::int64_t>("axis", -1), rank) != rank - 1) return false;
      v = n.operands[0];
      return true;
    }
    if (n.op->name != "div" || !is(n.operands[0], {"exp"})) return false;
    ValueId e = n.operands[0], sum = reduced(n.operands[1], "reduce_sum");
    if (sum != e || uses_[e.index] != 2) return false;
    const Node& shift = def(def(e).operands[0]);
    if (shift.op->name != "sub" || !alone(def(e).operands[0])) return false;
    ValueId m = shift.operands[1];
    if (is(m, {"StopGradient"})) m = def(m).operands[0];
    if (reduced(m, "reduce_max") != shift.operands[0] || uses_[shift.operands[0].index] != 2) return false;
    v = shift.operands[0];
    return true;
  }

  /// What a reduction over the last axis, whose axis is kept, is of.
  ValueId reduced(ValueId v, std::string_view op) const {
    if (!alone(v)) return {};
    if (is(v, {"reshape"})) v = def(v).operands[0];
    const Node& n = def(v);
    if (n.op->name != op || !alone(v)) return {};
    std::int64_t last = type(n.operands[0]).rank() - 1;
    return n.attrs.get_or<Ints>("axes", {}) == Ints{last} ? n.operands[0] : ValueId{};
  }

  /// From what the softmax is taken of to the product. `v` itself has been counted.
  bool through_scores(ValueId v, Found& f) const {
    for (bool first = true;; first = false) {
      const Node& n = def(v);
      if (n.result_count != 1 || (!first && !alone(v))) return false;
      if (is(v, {"Identity", "convert"}) && is_float(type(n.operands[0]).dtype)) {
        v = n.operands[0];
      } else if (is(v, {"mul", "div"})) {
        bool swap = n.op->name == "mul" && !number(n.operands[1]);
        auto c = number(n.operands[swap ? 0 : 1]);
        ValueId rest = n.operands[swap ? 1 : 0];
        if (!c || type(rest).shape != type(v).shape) return false;
        f.scale *= n.op->name == "mul" ? *c : 1 / *c;
        v = rest;
      } else if (is(v, {"add"})) {
        bool swap = type(n.operands[0]).shape != type(v).shape || leads_to_scores(n.operands[1]);
        ValueId rest = n.operands[swap ? 1 : 0], term = n.operands[swap ? 0 : 1];
        if (f.scale != 1 || type(rest).shape != type(v).shape || !add_term(term, type(v).rank(), f)) return false;
        v = rest;
      } else if (is(v, {"select"})) {
        if (!add_mask(n, v, f)) return false;
      } else if (is(v, {"reshape", "Reshape"})) {
        const Dims &to = type(v).shape, &from = type(n.operands[0]).shape;
        if (f.mask || from.size() < 2 || to.size() < 2 || !std::equal(to.end() - 2, to.end(), from.end() - 2))
          return false;
        for (Term& t : f.terms) t.reshapes.emplace_back(to, from);
        v = n.operands[0];
      } else if (auto p = product_of(v)) {
        return take_factors(*p, f);
      } else {
        return false;
      }
    }
  }

  bool leads_to_scores(ValueId v) const {
    for (int depth = 0; depth < 8; ++depth) {
      if (is(v, {"MatMul", "dot_general"})) return true;
      const Node& n = def(v);
      if (!is(v, {"mul", "div", "add", "convert", "Identity", "select"}) || n.operands.empty()) return false;
      v = n.operands[n.op->name == "select" ? 1 : 0];
    }
    return false;
  }

  bool add_term(ValueId term, int rank, Found& f) const {
    if (f.scale != 1) return false;
    if (auto a = constant(term); a && !f.causal) {
      bool plain = true;
      for (std::int64_t i = 0; plain && i < a->elems(); ++i) plain = a->get_double(i) == 0 || a->get_double(i) < hidden;
      if (plain)
        if (auto c = triangle(*a, [&](std::int64_t i) { return a->get_double(i) == 0; }); c && *c >= 0) {
          f.causal = *c;
          return true;
        }
    }
    if (f.mask || type(term).rank() > rank) return false;  // the mask goes on last
    f.terms.push_back({term, {}});
    return true;
  }

  bool add_mask(const Node& n, ValueId& v, Found& f) const {
    auto yes = number(n.operands[1]), no = number(n.operands[2]);
    if (yes.has_value() == no.has_value() || f.scale != 1) return false;
    bool negated = yes.has_value();
    double fill = negated ? *yes : *no;
    ValueId rest = n.operands[negated ? 2 : 1];
    if (type(rest).shape != type(v).shape) return false;
    v = rest;
    if (auto a = constant(n.operands[0]); a && fill < hidden && !f.causal) {
      auto c = triangle(*a, [&](std::int64_t i) { return (a->get_double(i) != 0) != negated; });
      if (c && (*c >= 0 || fill == minus_infinity)) {
        f.causal = *c;
        return true;
      }
    }
    if (!f.terms.empty() || f.mask) return false;
    f.mask = n.operands[0];
    f.negated_mask = negated;
    f.fill = fill;
    return true;
  }

  /// Factors of queries and keys that are numbers go to the scale.
  ValueId without_factors(ValueId v, Found& f) const {
    while (is(v, {"mul", "div"})) {
      const Node& n = def(v);
      bool swap = n.op->name == "mul" && !number(n.operands[1]);
      auto c = number(n.operands[swap ? 0 : 1]);
      ValueId rest = n.operands[swap ? 1 : 0];
      if (!c || type(rest).shape != type(v).shape) break;
      f.scale *= n.op->name == "mul" ? *c : 1 / *c;
      v = rest;
    }
    return v;
  }

  bool take_factors(const Product& p, Found& f) const {
    if (type(p.lhs).dtype != type(f.v).dtype) return false;
    f.q = without_factors(p.lhs, f);
    f.k = without_factors(p.rhs, f);
    f.q_perm = p.lhs_perm, f.k_perm = p.rhs_perm;
    auto same = [&](const Term& t) { return type(t.value).dtype == type(f.q).dtype; };
    return type(f.q).dtype == type(f.k).dtype && std::all_of(f.terms.begin(), f.terms.end(), same);
  }

  // -- building ---------------------------------------------------------------------------------------------------
  static ValueId placed(GraphBuilder& b, ValueId v, const Term& t) {
    for (const auto& [from, to] : t.reshapes) v = b.reshape(b.broadcast_to(v, from), to);
    return v;
  }

  /// All terms together. Of constants a constant whose queries are neighbours in memory, as the kernel reads it.
  ValueId bias_of(const Found& f) {
    if (f.terms.empty()) return {};
    if (ValueId v = constant_bias(f)) return v;
    ValueId sum;
    for (auto t = f.terms.rbegin(); t != f.terms.rend(); ++t) {
      ValueId v = placed(b_, map_[t->value.index], *t);
      sum = sum ? b_.add(sum, v) : v;
    }
    return sum;
  }

  ValueId constant_bias(const Found& f) {
    Graph sub;
    GraphBuilder s(sub);
    ValueId sum;
    for (auto t = f.terms.rbegin(); t != f.terms.rend(); ++t) {
      auto a = constant(t->value);
      if (!a) return {};
      ValueId v = placed(s, s.constant(make_literal(std::move(*a))), *t);
      sum = sum ? s.add(sum, v) : v;
    }
    Dims shape = sub.type(sum).shape;
    if (shape.size() < 2 || !product(shape).is_const() || product(shape).value() > max_mask) return {};
    Ints perm = iota_ints(static_cast<std::int64_t>(shape.size()));
    std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
    sub.outputs.push_back({"", s.transpose(sum, perm), {}});
    auto values = interpret(sub, {});
    return values ? b_.transpose(b_.constant(make_literal(std::move((*values)[0]))), perm) : ValueId{};
  }

  ValueId build(const Found& f) {
    auto mapped = [&](ValueId v) { return map_[v.index]; };
    std::vector<ValueId> operands{b_.transpose(mapped(f.q), f.q_perm), b_.transpose(mapped(f.k), f.k_perm),
                                  b_.transpose(mapped(f.v), f.v_perm)};
    if (!f.terms.empty() || f.mask) operands.push_back(bias_of(f));
    if (f.mask) operands.push_back(f.negated_mask ? b_.unary("not", mapped(f.mask)) : mapped(f.mask));
    Attrs attrs{{"scale", f.scale}};
    if (f.mask) attrs.set("fill", f.fill);
    if (f.causal) attrs.set("causal", Dims{*f.causal});
    if (f.empty_zero) attrs.set("empty_zero", std::int64_t{1});
    return b_.add_op("attend", operands, attrs);
  }
};

// -- results in the order of their readers --------------------------------------------------------------------------

/// The only use of each result of attention nodes that is a transpose: that node; elsewhere invalid.
std::vector<NodeId> sole_transposes(const Graph& g) {
  std::vector<NodeId> user(g.value_count());
  std::vector<int> uses(g.value_count());
  const std::vector<bool> live = live_nodes(g);
  for (NodeId id : g.node_ids())
    for (ValueId v : g.node(id).operands)
      if (v && live[id.index]) user[v.index] = id, ++uses[v.index];
  for (const Output& o : g.outputs) uses[o.value.index] += 2;
  for (std::size_t i = 0; i < user.size(); ++i) {
    bool fits = uses[i] == 1 && is_attention(*g.def(ValueId(i)).op) && g.node(user[i]).op->name == "transpose";
    if (!fits) user[i] = {};
  }
  return user;
}

Graph order_results(Graph g) {
  std::vector<NodeId> transposes = sole_transposes(g);
  if (std::none_of(transposes.begin(), transposes.end(), [](NodeId id) { return id.valid(); })) return g;
  Graph out = empty_like(g);
  GraphBuilder b(out);
  ValueMap map(g.value_count());
  const char* gradient_perms[] = {"perm_q", "perm_k", "perm_v"};
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (map[n.result().index]) continue;  // a transpose that its operand took over
    bool attention = is_attention(*n.op), changes = false;
    for (std::uint32_t r = 0; attention && r < n.result_count; ++r) changes = changes || transposes[n.result(r).index];
    if (!changes) {
      copy_node(b, g, id, map);
      continue;
    }
    Attrs attrs = n.attrs;
    std::vector<ValueId> operands;
    for (ValueId v : n.operands) operands.push_back(v ? map[v.index] : v);
    for (std::uint32_t r = 0; r < n.result_count && r < 3; ++r) {
      NodeId t = transposes[n.result(r).index];
      const char* name = n.op->name == "attend" ? "perm" : gradient_perms[r];
      if (!t) continue;
      const Ints before = attrs.get_or<Ints>(name, {});  // an order from an earlier run of this pass
      Ints perm = g.node(t).attrs.get_or<Ints>("perm", {});
      if (!before.empty())
        for (std::int64_t& p : perm) p = before[static_cast<std::size_t>(p)];
      attrs.set(name, perm);
    }
    b.set_origin(n.locs, n.grad_of ? map[n.grad_of.index] : ValueId{});
    std::vector<ValueId> results = b.add_multi(n.op->name, operands, attrs);
    b.set_origin({});
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      NodeId t = r < 3 ? transposes[n.result(r).index] : NodeId{};
      map[n.result(r).index] = results[r];
      if (t) map[g.node(t).result().index] = results[r];
    }
  }
  map_signature(g, map, out);
  return out;
}

Result<Graph> run(const Graph& g, PassContext& context) {
  if (!context.fuse || context.target.kind != TargetSpec::Kind::cpu) return copy_if(g, [](NodeId) { return true; });
  // What is written as sums over letters, or as an attention op of ONNX, is looked at in simpler ops.
  auto spelled = [](const NodeView& v) {
    std::string_view op = v.node().op->name;
    return op == "Einsum" || op == "Attention";
  };
  bool any = false;
  for (NodeId id : g.node_ids()) any = any || spelled(NodeView{g, id});
  Graph found = any ? Finder(decompose_where(g, spelled)).run() : Finder(g).run();
  return found.grads.empty() ? order_results(std::move(found)) : std::move(found);
}

}  // namespace

const Pass attention = {.name = "attention", .summary = "products around a softmax become one op", .on_graph = run};

}  // namespace ag::passes

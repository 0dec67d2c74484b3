// Applies the rules in one walk over the graph: a node is matched before it is built, so nothing dead is left behind
// but what only replaced nodes used.
#include <cmath>

#include "ir/check.hpp"
#include "passes/rebuild.hpp"
#include "passes/rewrite/pattern.hpp"

namespace ag::passes {

bool commutative(std::string_view op) {
  for (std::string_view c : {"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne"})
    if (op == c) return true;
  return false;
}

namespace {

bool match_value(GraphBuilder& b, const Pattern& p, ValueId v, std::vector<ValueId>& bound);

bool match_operands(GraphBuilder& b, const Pattern& p, const std::vector<ValueId>& operands,
                    std::vector<ValueId>& bound) {
  if (p.operands.size() != operands.size()) return false;
  const std::vector<ValueId> before = bound;
  auto in_order = [&](bool swapped) {
    for (std::size_t i = 0; i < operands.size(); ++i) {
      ValueId v = operands[swapped ? operands.size() - 1 - i : i];
      if (!v || !match_value(b, p.operands[i], v, bound)) {
        bound = before;
        return false;
      }
    }
    return true;
  };
  return in_order(false) || (operands.size() == 2 && commutative(p.op) && in_order(true));
}

bool match_value(GraphBuilder& b, const Pattern& p, ValueId v, std::vector<ValueId>& bound) {
  if (p.kind == Pattern::Kind::wildcard) {
    auto i = static_cast<std::size_t>(p.index);
    if (bound.size() <= i) bound.resize(i + 1);
    if (!bound[i]) bound[i] = v;
    return bound[i] == v;
  }
  if (p.kind == Pattern::Kind::constant) {
    std::optional<double> value = b.splat_value(v);
    return value && *value == p.value &&
           (p.value != 0 || !is_float(b.type(v).dtype) || std::signbit(*value) == std::signbit(p.value));
  }
  const Node& n = b.graph().def(v);
  return n.op->name == p.op && n.result_count == 1 && match_operands(b, p, n.operands, bound);
}

class Rewriter {
 public:
  Rewriter(const Graph& g, PassContext& context)
      : g_(g), context_(context), out_(empty_like(g)), b_(out_), map_(g.value_count()) {}

  Result<Graph> run() {
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      bool candidate = n.result_count == 1 && !n.operands.empty() && n.regions.empty();
      if (!candidate || !rewrite(id)) copy(id);
    }
    map_signature(g_, map_, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  PassContext& context_;
  Graph out_;
  GraphBuilder b_;
  ValueMap map_;
  std::map<std::string, Dim, std::less<>> renamed_;  // sizes that only the data knows: copies name them anew

  void rename(Dims& dims) const {
    for (Dim& d : dims)
      if (!d.is_const()) d = d.substitute(renamed_);
  }
  /// What rules read of a node of the old graph, in the names of the new one.
  Type renamed(Type t) const {
    rename(t.shape);
    return t;
  }
  Attrs renamed(const Attrs& attrs) const {
    if (renamed_.empty()) return attrs;
    Attrs out = attrs;
    for (const auto& [name, value] : attrs) {
      if (const Type* t = std::get_if<Type>(&value)) out.set(name, renamed(*t));
      if (const Dims* d = std::get_if<Dims>(&value)) {
        Dims fresh = *d;
        rename(fresh);
        out.set(name, std::move(fresh));
      }
    }
    return out;
  }

  void copy(NodeId id) {
    const std::uint64_t unbacked = out_.next_unbacked();
    NodeId fresh = b_.copy(g_, id, [&](ValueId v) { return map_[v.index]; });
    for (std::uint32_t r = 0; r < g_.node(id).result_count; ++r) {
      ValueId from = g_.node(id).result(r), to = out_.node(fresh).result(r);
      if (out_.next_unbacked() != unbacked)
        unify(g_.type(from), out_.type(to), renamed_, [](const std::string&) { return true; });
      bind(g_, from, out_, to, map_);
    }
  }

  bool allowed(const RewriteRule& r, const Type& t) const {
    return r.dtypes.has(t.dtype) && (r.exactness != Exactness::fast || context_.fast_math);
  }

  bool rewrite(NodeId id) {
    const Node& n = g_.node(id);
    std::vector<ValueId> operands;
    for (ValueId v : n.operands) operands.push_back(v ? map_[v.index] : ValueId{});
    const Type type = renamed(g_.type(n.result()));
    const Attrs attrs = renamed(n.attrs);
    for (const RewriteRule& r : rewrite_rules()) {
      if ((!r.from.op.empty() && r.from.op != n.op->name) || !allowed(r, type)) continue;
      b_.set_origin(n.locs, n.grad_of ? map_[n.grad_of.index] : ValueId{});
      ValueId to = replacement(r, Candidate{*n.op, operands, attrs, type});
      if (!to) continue;
      if (context_.trace_rule) context_.trace_rule(r.name);
      bind(g_, n.result(), out_, to, map_);
      return true;
    }
    return false;
  }

  ValueId replacement(const RewriteRule& r, const Candidate& c) {
    if (r.apply) return r.apply(b_, c);
    std::vector<ValueId> bound;
    if (!matches(b_, r.from, c, bound)) return {};
    ValueId to = instantiate(b_, r.to, bound, c.type.dtype);
    return b_.type(to).shape == c.type.shape ? to : b_.broadcast_to(to, c.type.shape);
  }
};

Result<Graph> run(const Graph& g, PassContext& context) { return Rewriter(g, context).run(); }

}  // namespace

bool matches(GraphBuilder& b, const Pattern& p, const Candidate& c, std::vector<ValueId>& bound) {
  return p.kind == Pattern::Kind::op && p.op == c.op.name && match_operands(b, p, c.operands, bound);
}

ValueId instantiate(GraphBuilder& b, const Pattern& p, const std::vector<ValueId>& bound, DType t) {
  if (p.kind == Pattern::Kind::wildcard) return bound[static_cast<std::size_t>(p.index)];
  if (p.kind == Pattern::Kind::constant) return b.scalar(t, p.value);
  std::vector<ValueId> operands;
  for (const Pattern& o : p.operands) operands.push_back(instantiate(b, o, bound, t));
  return b.add_op(p.op, std::move(operands));
}

const Pass algebra = {.name = "algebra", .summary = "apply the rewrite rules", .on_graph = run};

}  // namespace ag::passes

#include "passes/autodiff.hpp"

#include <algorithm>

#include "ir/base/suggest.hpp"
#include "ir/op.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

bool has_reverse_rule(const OpInfo& op) { return op.partials || op.transpose || op.vjp || op.zero_gradient; }
bool has_forward_rule(const OpInfo& op) {
  return op.partials || op.linearity != Linearity::none || op.jvp || op.zero_gradient;
}
bool has_rule(const OpInfo& op, bool forward_mode) {
  return forward_mode ? has_forward_rule(op) : has_reverse_rule(op);
}

bool linear_operand(const OpInfo& op, std::size_t i) {
  if (i < 31 && (op.linear_in >> i & 1u)) return true;
  return (op.linear_in >> 31) && i + 1 >= op.operands.size();
}

/// Values on a real-valued path from `from` to `to`: only they carry derivatives.
std::vector<bool> active_values(const Graph& g, const std::vector<ValueId>& from, const std::vector<ValueId>& to,
                                const std::vector<ValueId>& stop) {
  std::vector<bool> stopped(g.value_count()), reached(g.value_count()), wanted(g.value_count());
  for (ValueId v : stop) stopped[v.index] = true;
  for (ValueId v : from) reached[v.index] = true;
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (n.op->zero_gradient) continue;
    bool any = std::any_of(n.operands.begin(), n.operands.end(),
                           [&](ValueId v) { return v && reached[v.index] && !stopped[v.index]; });
    if (!any) continue;
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      if (is_float(g.type(n.result(r)).dtype)) reached[n.result(r).index] = true;
  }
  for (ValueId v : to) wanted[v.index] = true;
  for (std::size_t i = g.node_count(); i-- > 0;) {
    const Node& n = g.node(NodeId(i));
    if (n.op->zero_gradient) continue;
    bool any = false;
    for (std::uint32_t r = 0; r < n.result_count; ++r) any |= wanted[n.result(r).index] && reached[n.result(r).index];
    if (!any) continue;
    for (ValueId v : n.operands)
      if (v && reached[v.index] && !stopped[v.index]) wanted[v.index] = true;
  }
  std::vector<bool> active(g.value_count());
  for (std::size_t i = 0; i < active.size(); ++i) active[i] = reached[i] && wanted[i];
  return active;
}

bool node_active(const Graph& g, NodeId id, const std::vector<bool>& active) {
  const Node& n = g.node(id);
  if (n.op->zero_gradient) return false;
  bool out = false, in = false;
  for (std::uint32_t r = 0; r < n.result_count; ++r) out |= active[n.result(r).index];
  for (ValueId v : n.operands) in |= v && active[v.index];
  return out && in;
}

std::string place(const Graph& g, ValueId v) {
  Loc l = g.loc(v);
  std::string name = g.value(v).name.empty() ? std::string(g.def(v).op->name) : g.value(v).name;
  return l.line ? name + " (" + std::to_string(l.line) + ":" + std::to_string(l.col) + ")" : name;
}

/// "x (4:5) -> Mul (9:5) -> NonZero (11:5) -> y": one active path through the node, for people.
std::string path_through(const Graph& g, NodeId id, const std::vector<bool>& active, const std::vector<ValueId>& from) {
  std::vector<std::string> names;
  ValueId v;
  for (ValueId o : g.node(id).operands)
    if (o && active[o.index]) {
      v = o;
      break;
    }
  for (int depth = 0; v && depth < 12; ++depth) {
    names.push_back(place(g, v));
    if (std::find(from.begin(), from.end(), v) != from.end()) break;
    ValueId next;
    for (ValueId o : g.def(v).operands)
      if (o && active[o.index]) {
        next = o;
        break;
      }
    v = next;
  }
  std::reverse(names.begin(), names.end());
  std::string text;
  for (const std::string& n : names) text += n + " -> ";
  return text + std::string(g.node(id).op->name);
}

Status check_paths(const Graph& g, const std::vector<ValueId>& from, const std::vector<ValueId>& to,
                   const std::vector<ValueId>& stop, const Loc& at, bool forward_mode) {
  Diags diags;
  std::vector<bool> active = active_values(g, from, to, stop);
  for (NodeId id : g.node_ids()) {
    if (!node_active(g, id, active)) continue;
    const OpInfo& op = *g.node(id).op;
    if (has_rule(op, forward_mode) || (op.decompose && op.no_gradient.empty())) continue;
    Loc node_loc = g.loc(g.node(id).result());
    Diag d = error(Code::AG3004, at.known() ? at : node_loc,
                   "no gradient for `" + std::string(op.onnx.empty() ? op.name : op.onnx) +
                       "`, which is on the differentiated path",
                   "this derivative was asked for");
    if (at.known() && node_loc.known())
      d.at(node_loc, op.no_gradient.empty() ? "this op has no derivative rule" : std::string(op.no_gradient));
    d.note("path: " + path_through(g, id, active, from));
    d.help(
        "if its result is meant to be constant, insert {\"op\": \"StopGradient\", \"domain\": \"ag\"} or name the "
        "value in \"stop\"");
    diags.push_back(std::move(d));
  }
  if (!diags.empty()) return fail(std::move(diags));
  return {};
}

/// Decomposes active composites that have no rule of their own, until none is left; remaps the ids in `ids`.
void expand_composites(Graph& g, const std::function<std::vector<bool>()>& active_now,
                       const std::vector<std::vector<ValueId>*>& ids, bool forward_mode, std::vector<ValueId>* total) {
  for (;;) {
    std::vector<bool> active = active_now();
    auto needs = [&](const NodeView& v) {
      return !has_rule(*v.node().op, forward_mode) && v.node().op->decompose && node_active(v.graph, v.id, active);
    };
    bool any = false;
    for (NodeId id : g.node_ids()) any = any || needs(NodeView{g, id});
    if (!any) return;
    ValueMap map;
    Graph next = decompose_where(g, needs, &map);
    g = std::move(next);
    for (auto* list : ids)
      for (ValueId& v : *list)
        if (v) v = map[v.index];
    if (total)
      for (ValueId& v : *total)
        if (v) v = map[v.index];
  }
}

std::vector<ValueId> identity_map(const Graph& g) {
  std::vector<ValueId> map;
  for (std::size_t i = 0; i < g.value_count(); ++i) map.push_back(ValueId(i));
  return map;
}

/// The reverse loop over one graph whose active composites all have rules.
class Reverse {
 public:
  Reverse(Graph& g, std::vector<bool> active)
      : g_(g), b_(g), active_(std::move(active)), adjoint_(g.value_count()), guarded_(g.value_count()) {}

  void seed(ValueId v, ValueId ct) { adjoint_[v.index] = ct; }
  ValueId adjoint(ValueId v) const { return adjoint_[v.index]; }

  void run(std::size_t node_count) {
    for (std::size_t i = node_count; i-- > 0;)
      if (node_active(g_, NodeId(i), active_)) visit(NodeId(i));
  }

 private:
  Graph& g_;
  GraphBuilder b_;
  std::vector<bool> active_;
  std::vector<ValueId> adjoint_;
  std::vector<bool> guarded_;  // the cotangent went through a select: lanes not taken are zero

  void visit(NodeId id) {
    const Node n = g_.node(id);  // by value: rules append nodes
    const OpInfo& op = *n.op;
    std::vector<ValueId> cts;
    bool any = false, guarded = false;
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      cts.push_back(adjoint_[n.result(r).index]);
      any |= cts.back().valid();
      guarded |= guarded_[n.result(r).index];
    }
    if (!any) return;
    b_.set_origin(n.locs, n.result());
    NodeView view{g_, id};
    Grads grads(n.operands.size());
    if (op.vjp) {
      op.vjp(b_, view, cts, grads);
    } else if (op.partials) {
      Grads d(n.operands.size());
      op.partials(b_, view, d);
      for (std::size_t i = 0; i < d.size(); ++i)
        if (d[i] && wants(n.operands[i])) grads[i] = product(cts[0], d[i], op.unbounded_derivative && guarded);
    } else {
      for (std::size_t i = 0; i < n.operands.size(); ++i)
        if (wants(n.operands[i]) && linear_operand(op, i)) grads[i] = op.transpose(b_, view, i, cts[0]);
    }
    for (std::size_t i = 0; i < grads.size(); ++i)
      if (grads[i] && wants(n.operands[i])) accumulate(n.operands[i], grads[i], guarded || op.guards_lanes);
  }

  bool wants(ValueId v) const { return v && active_[v.index]; }

  /// ct * d; where the cotangent is an exact zero that a select put there, d may be infinite: it is masked first.
  ValueId product(ValueId ct, ValueId d, bool masked) {
    if (!masked) return b_.mul(ct, d);
    ValueId zero = b_.scalar(b_.type(ct).dtype, 0);
    ValueId off = b_.compare("eq", ct, zero);
    return b_.select(off, zero, b_.mul(ct, b_.select(off, zero, d)));
  }

  void accumulate(ValueId v, ValueId g, bool guarded) {
    g = b_.sum_to(g, g_.type(v).shape);
    if (g_.type(g).shape != g_.type(v).shape) g = b_.broadcast_to(g, g_.type(v).shape);
    ValueId& slot = adjoint_[v.index];
    slot = slot ? b_.add(slot, g) : g;
    if (guarded) guarded_[v.index] = true;
  }
};

ValueId tangent_of_node(GraphBuilder& b, const Graph& g, NodeId id, const std::vector<ValueId>& t) {
  const Node n = g.node(id);
  const OpInfo& op = *n.op;
  NodeView view{g, id};
  ValueId sum;
  auto add = [&](ValueId v) { sum = sum ? b.add(sum, v) : v; };
  if (op.partials) {
    Grads d(n.operands.size());
    op.partials(b, view, d);
    for (std::size_t i = 0; i < d.size(); ++i)
      if (d[i] && t[i]) add(b.mul(t[i], d[i]));
  } else if (op.linearity == Linearity::joint) {
    std::vector<ValueId> operands = n.operands;
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i] && linear_operand(op, i)) operands[i] = t[i] ? t[i] : b.zeros(g.type(operands[i]));
    add(b.add_op(op.name, operands, n.attrs));
  } else {
    for (std::size_t i = 0; i < n.operands.size(); ++i) {
      if (!t[i] || !linear_operand(op, i)) continue;
      std::vector<ValueId> operands = n.operands;
      operands[i] = t[i];
      add(b.add_op(op.name, operands, n.attrs));
    }
  }
  if (sum && b.type(sum).shape != g.type(n.result()).shape) sum = b.broadcast_to(sum, g.type(n.result()).shape);
  return sum;
}

}  // namespace

Status check_differentiable(const Graph& g, const ReverseSpec& spec, const Loc& at, bool forward_mode) {
  return check_paths(g, spec.wrt, {spec.of}, spec.stop, at, forward_mode);
}

Result<std::vector<ValueId>> reverse(Graph& g, const ReverseSpec& given, const Loc& at, std::vector<ValueId>* map) {
  AG_TRY_(check_differentiable(g, given, at));
  std::vector<ValueId> of{given.of}, seed{given.seed}, wrt = given.wrt, stop = given.stop, total = identity_map(g);
  auto active_now = [&] { return active_values(g, wrt, of, stop); };
  expand_composites(g, active_now, {&of, &seed, &wrt, &stop}, false, &total);
  // Obstacles may hide inside a decomposition.
  AG_TRY_(check_paths(g, wrt, of, stop, at, false));
  if (map) *map = std::move(total);
  std::size_t nodes = g.node_count();
  Reverse pass(g, active_now());
  if (!seed[0]) {
    GraphBuilder b(g);
    b.set_origin(g.def(of[0]).locs, of[0]);
    seed[0] = b.ones(g.type(of[0]));
  }
  pass.seed(of[0], seed[0]);
  pass.run(nodes);
  std::vector<ValueId> grads;
  for (ValueId v : wrt) grads.push_back(pass.adjoint(v));
  return grads;
}

Result<std::vector<ValueId>> forward(Graph& g, const std::vector<ValueId>& ins_given,
                                     const std::vector<ValueId>& tangents_given, const std::vector<ValueId>& outs_given,
                                     const Loc& at, std::vector<ValueId>* map) {
  std::vector<ValueId> ins = ins_given, outs = outs_given, given = tangents_given, total = identity_map(g);
  AG_TRY_(check_paths(g, ins, outs, {}, at, true));
  auto active_now = [&] { return active_values(g, ins, outs, {}); };
  expand_composites(g, active_now, {&ins, &outs, &given}, true, &total);
  AG_TRY_(check_paths(g, ins, outs, {}, at, true));
  if (map) *map = std::move(total);
  std::vector<bool> active = active_now();
  std::vector<ValueId> tangent(g.value_count());
  for (std::size_t i = 0; i < ins.size(); ++i) tangent[ins[i].index] = given[i];
  GraphBuilder b(g);
  std::size_t nodes = g.node_count();
  for (std::size_t i = 0; i < nodes; ++i) {
    NodeId id(i);
    if (!node_active(g, id, active)) continue;
    const Node n = g.node(id);
    std::vector<ValueId> t;
    for (ValueId v : n.operands) t.push_back(v ? tangent[v.index] : ValueId{});
    if (std::none_of(t.begin(), t.end(), [](ValueId v) { return v.valid(); })) continue;
    b.set_origin(n.locs, n.result());
    if (n.op->jvp) {
      std::vector<ValueId> out(n.result_count);
      n.op->jvp(b, NodeView{g, id}, t, out);
      for (std::uint32_t r = 0; r < n.result_count; ++r)
        if (out[r]) tangent[n.result(r).index] = out[r];
    } else if (ValueId sum = tangent_of_node(b, g, id, t)) {
      // A value that is both seeded and computed keeps its seed: the caller asked for that direction.
      if (std::find(ins.begin(), ins.end(), n.result()) == ins.end()) tangent[n.result().index] = sum;
    }
  }
  std::vector<ValueId> result;
  for (ValueId v : outs) result.push_back(tangent[v.index]);
  return result;
}

// ---- The pass: gradient requests of the graph ---------------------------------------------------------------
namespace {

class Requests {
 public:
  Requests(Graph g, PassContext& context) : g_(std::move(g)), context_(context) {}

  Result<Graph> run() {
    std::vector<GradRequest> requests = std::move(g_.grads);
    g_.grads.clear();
    for (const GradRequest& r : requests) AG_TRY_(one(r));
    g_.stage = "autodiff";
    return std::move(g_);
  }

 private:
  Graph g_;
  PassContext& context_;

  ValueId lookup(const std::string& name) const {
    for (const Output& o : g_.outputs)
      if (o.name == name) return o.value;
    return g_.find(name);
  }

  /// AG3002 with the nearest name that there is.
  Diag unknown(const std::string& name, const Loc& loc, const std::string& what, std::string label) const {
    Diag d = error(Code::AG3002, loc, "there is no value `" + name + "`, named " + what, std::move(label));
    std::vector<std::string> candidates;
    for (const Output& o : g_.outputs) candidates.push_back(o.name);
    for (NodeId id : g_.node_ids())
      for (std::uint32_t r = 0; r < g_.node(id).result_count; ++r)
        if (const std::string& n = g_.value(g_.node(id).result(r)).name; !n.empty()) candidates.push_back(n);
    if (auto near = suggest(name, candidates))
      d.help("a value with a similar name exists: `" + *near + "`", loc, "\"" + *near + "\"");
    return d;
  }

  Result<ValueId> named(const std::string& name, const Loc& loc, const char* what) const {
    ValueId v = lookup(name);
    if (!v) return fail(unknown(name, loc, std::string("as ") + what, "not defined in this graph"));
    if (!is_float(g_.type(v).dtype))
      return fail(error(Code::AG3003, loc,
                        "`" + name + "` is " + g_.type(v).str() + ": only real values have derivatives", "not a float")
                      .at(g_.loc(v), "defined here"));
    return v;
  }

  static Loc loc_at(const std::vector<Loc>& locs, std::size_t i, const Loc& otherwise) {
    return i < locs.size() ? locs[i] : otherwise;
  }

  Status one(const GradRequest& r) {
    ReverseSpec spec;
    Diags diags;
    auto keep = [&](auto result, auto& into) {
      if (result)
        into = *result;
      else
        diags.insert(diags.end(), result.error().begin(), result.error().end());
    };
    keep(named(r.of, r.of_loc.known() ? r.of_loc : r.loc, "what is differentiated"), spec.of);
    std::vector<std::string> wrt = r.wrt;
    if (r.trainable) wrt = trainable();
    if (wrt.empty() && diags.empty())
      diags.push_back(error(Code::AG3008, r.loc, "this gradient request names nothing to differentiate with respect to",
                            r.trainable ? "no initializer is marked trainable" : ""));
    for (std::size_t i = 0; i < wrt.size(); ++i) {
      ValueId v;
      keep(named(wrt[i], loc_at(r.wrt_locs, i, r.loc), "a variable to differentiate with respect to"), v);
      spec.wrt.push_back(v);
    }
    for (std::size_t i = 0; i < r.stop.size(); ++i) {
      ValueId v = lookup(r.stop[i]);
      if (!v)
        diags.push_back(unknown(r.stop[i], loc_at(r.stop_locs, i, r.loc), "in `stop`", "not defined in this graph"));
      else
        spec.stop.push_back(v);
    }
    if (spec.of) keep(seed_of(r, spec.of), spec.seed);
    if (!diags.empty()) return fail(std::move(diags));
    return differentiate(r, spec, wrt);
  }

  std::vector<std::string> trainable() const {
    std::vector<std::string> names;
    for (NodeId id : g_.node_ids())
      if (g_.node(id).attrs.get_or<bool>("trainable", false)) names.push_back(g_.value(g_.node(id).result()).name);
    return names;
  }

  Result<ValueId> seed_of(const GradRequest& r, ValueId of) {
    const Type& t = g_.type(of);
    if (!r.seed.empty()) {
      Loc loc = r.seed_loc.known() ? r.seed_loc : r.loc;
      ValueId seed = lookup(r.seed);
      if (!seed) return fail(unknown(r.seed, loc, "as the seed", "a seed names an existing value"));
      if (g_.type(seed) != t)
        return fail(error(Code::AG3005, loc,
                          "the seed `" + r.seed + "` is " + g_.type(seed).str() + ", but `" + r.of + "` is " + t.str())
                        .at(g_.loc(of), "`" + r.of + "` is defined here"));
      return seed;
    }
    if (r.seed_value) {
      GraphBuilder b(g_);
      return b.full(t, *r.seed_value);
    }
    for (const Dim& d : t.shape)
      if (!d.is(1))
        return fail(
            error(Code::AG3001, r.of_loc.known() ? r.of_loc : r.loc,
                  "`" + r.of + "` is " + t.str() +
                      ": a gradient can be created implicitly only for a value of one element",
                  "needs a seed")
                .at(g_.loc(of), "defined here")
                .help("give \"seed\": the name of a value of type " + t.str() + ", or --grad-seed " + r.of + "=1"));
    return ValueId{};
  }

  Status differentiate(const GradRequest& r, const ReverseSpec& spec, const std::vector<std::string>& wrt) {
    std::vector<Type> types;
    for (ValueId v : spec.wrt) types.push_back(g_.type(v));
    AG_TRY(std::vector<ValueId> grads, reverse(g_, spec, r.loc));
    GraphBuilder b(g_);
    for (std::size_t i = 0; i < wrt.size(); ++i) {
      Loc loc = loc_at(r.wrt_locs, i, r.loc);
      if (!grads[i]) {
        context_.diagnostics.push_back(
            warning(Code::AG3007, loc, "`" + wrt[i] + "` is not connected to `" + r.of + "`: its gradient is zero"));
        b.set_origin({loc});
        grads[i] = b.zeros(types[i]);
      }
      std::string name = wrt[i] + "_grad";
      for (const auto& [from, to] : r.names)
        if (from == wrt[i]) name = to;
      if (lookup(name))
        return fail(error(Code::AG3006, loc,
                          "the gradient of `" + wrt[i] + "` would be named `" + name + "`, which exists already")
                        .at(g_.loc(lookup(name)), "`" + name + "` is defined here")
                        .help("choose a name: \"names\": { \"" + wrt[i] + "\": \"...\" }"));
      if (g_.value(grads[i]).name.empty()) g_.set_name(grads[i], name);
      g_.outputs.push_back({name, grads[i], loc});
    }
    return {};
  }
};

Result<Graph> run(const Graph& g, PassContext& context) { return Requests(g, context).run(); }

}  // namespace

const Pass autodiff = {.name = "autodiff", .summary = "append the gradients that the graph asks for", .on_graph = run};

}  // namespace ag::passes

#include "passes/autodiff.hpp"

#include <algorithm>

#include "passes/autodiff_internal.hpp"

namespace ag::passes {
namespace ad {
namespace {

void remap(std::vector<ValueId>& ids, const ValueMap& map) {
  for (ValueId& v : ids)
    if (v) v = map[v.index];
}

ValueMap identity_map(const Graph& g) {
  ValueMap map;
  for (std::size_t i = 0; i < g.value_count(); ++i) map.push_back(ValueId(i));
  return map;
}

/// Decomposes active composites that have no rule of their own, until none is left; remaps the ids in `ids`.
void expand_composites(Graph& g, const std::function<Bits()>& active_now, const std::vector<std::vector<ValueId>*>& ids,
                       Mode mode) {
  for (;;) {
    Bits active = active_now();
    auto needs = [&](const NodeView& v) {
      return is_expanded(*v.node().op, mode) && node_active(v.graph, v.id, active);
    };
    bool any = false;
    for (NodeId id : g.node_ids()) any = any || needs(NodeView{g, id});
    if (!any) return;
    ValueMap map;
    Graph next = decompose_where(g, needs, &map);
    g = std::move(next);
    for (auto* list : ids) remap(*list, map);
  }
}

/// Values that may not be finite in a lane that a select does not take: results of ops whose derivative is unbounded
/// (log, division, exp), as far as lanes stay lanes.
Bits doubtful_values(const Graph& g) {
  Bits out(g.value_count());
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    LowerClass c = n.op->lower_class;
    if (c != LowerClass::map && c != LowerClass::index && n.op->tier != Tier::composite) continue;
    bool doubtful = unbounded_derivative(g, id);
    for (ValueId v : n.operands) doubtful = doubtful || (v && out[v.index]);
    for (std::uint32_t r = 0; r < n.result_count; ++r) out[n.result(r).index] = doubtful;
  }
  return out;
}

/// The reverse loop over one graph whose active composites all have rules.
class Reverse {
 public:
  Reverse(Graph& g, Bits active)
      : g_(g),
        b_(g),
        active_(std::move(active)),
        doubtful_(doubtful_values(g)),
        adjoint_(g.value_count()),
        guarded_(g.value_count()) {}

  void seed(const Seed& s) { accumulate(s.of, s.cotangent, s.guarded); }
  ValueId adjoint(ValueId v) const { return adjoint_[v.index]; }
  const std::vector<Swap>& swaps() const { return swaps_; }

  void run(std::size_t node_count) {
    for (std::size_t i = node_count; i-- > 0;)
      if (node_active(g_, NodeId(i), active_)) visit(NodeId(i));
  }

 private:
  Graph& g_;
  GraphBuilder b_;
  Bits active_;
  Bits doubtful_;
  std::vector<ValueId> adjoint_;
  Bits guarded_;  // the cotangent went through a select: lanes not taken are zero
  std::vector<Swap> swaps_;

  void visit(NodeId id) {
    const Node n = g_.node(id);  // by value: rules append nodes
    const OpInfo& op = *n.op;
    std::vector<ValueId> cts;
    bool any = false, guarded = false;
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      cts.push_back(active_[n.result(r).index] ? adjoint_[n.result(r).index] : ValueId{});
      any |= cts.back().valid();
      guarded |= guarded_[n.result(r).index];
    }
    if (!any) return;
    b_.set_origin(n.locs, n.result());
    Grads grads = n.regions.empty() ? rule(id, n, cts, guarded) : control(id, n, cts, guarded);
    guarded |= op.guards_lanes || !n.regions.empty();
    for (std::size_t i = 0; i < grads.size(); ++i)
      if (grads[i] && wants(n.operands[i])) accumulate(n.operands[i], grads[i], guarded);
  }

  Grads rule(NodeId id, const Node& n, const std::vector<ValueId>& cts, bool guarded) {
    const OpInfo& op = *n.op;
    NodeView view{g_, id};
    Grads grads(n.operands.size());
    if (op.vjp) {
      op.vjp(b_, view, cts, grads);
    } else if (op.partials) {
      Grads d(n.operands.size());
      op.partials(b_, view, d);
      bool masked = guarded && (unbounded_derivative(g_, id) ||
                                std::ranges::any_of(n.operands, [&](ValueId v) { return v && doubtful_[v.index]; }));
      for (std::size_t i = 0; i < d.size(); ++i)
        if (d[i] && wants(n.operands[i])) grads[i] = product(cts[0], d[i], masked);
    } else {
      for (std::size_t i = 0; i < n.operands.size(); ++i)
        if (wants(n.operands[i]) && linear_operand(op, i)) grads[i] = op.transpose(b_, view, i, cts[0]);
    }
    return grads;
  }

  Grads control(NodeId id, const Node& n, const std::vector<ValueId>& cts, bool guarded) {
    ControlReverse c{b_, id, cts, Bits(n.operands.size()), guarded, swaps_, Grads(n.operands.size())};
    for (std::size_t i = 0; i < n.operands.size(); ++i) c.wants[i] = wants(n.operands[i]);
    is_recurrence(n) ? reverse_recurrence(c) : reverse_if(c);
    return std::move(c.grads);
  }

  bool wants(ValueId v) const { return v && v.index < active_.size() && active_[v.index]; }

  /// ct * d; where the cotangent is an exact zero that a select put there, d may be infinite: it is masked first.
  ValueId product(ValueId ct, ValueId d, bool masked) {
    if (!masked || b_.splat_value(d)) return b_.mul(ct, d);
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

/// Nodes of the graph now that were there before the derivative was appended, or that replace one of those.
Bits primal_nodes(const Graph& g, std::size_t before, const std::vector<Swap>& swaps) {
  Bits primal(g.node_count());
  std::fill_n(primal.begin(), before, true);
  for (const Swap& s : swaps) primal[s.fresh.index] = true;
  return primal;
}

/// Puts larger control nodes in place and carries ids and marks over.
void finish(Graph& g, Appended& a, std::size_t before, const std::vector<Swap>& swaps) {
  Bits primal = primal_nodes(g, before, swaps);
  if (swaps.empty()) {
    a.primal = std::move(primal);
    return;
  }
  ValueMap map;
  Graph next = apply_swaps(g, swaps, map);
  a.primal.assign(next.node_count(), false);
  for (NodeId id : g.node_ids())
    if (ValueId v = map[g.node(id).result().index]; v && primal[id.index]) a.primal[next.value(v).node.index] = true;
  g = std::move(next);
  remap(a.values, map);
  remap(a.map, map);
}

}  // namespace

Appended append_reverse(Graph& g, std::vector<Seed> seeds, std::vector<ValueId> wrt, std::vector<ValueId> stop) {
  Appended out{{}, identity_map(g), {}};
  std::vector<ValueId> of, cts;
  for (const Seed& s : seeds) {
    of.push_back(s.of);
    cts.push_back(s.cotangent);
  }
  auto active_now = [&] { return active_values(g, wrt, of, stop); };
  expand_composites(g, active_now, {&of, &cts, &wrt, &stop, &out.map}, Mode::reverse);
  std::size_t before = g.node_count();
  Reverse pass(g, active_now());
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    if (!cts[i]) {
      GraphBuilder b(g);
      b.set_origin(g.def(of[i]).locs, of[i]);
      cts[i] = b.ones(g.type(of[i]));
    }
    pass.seed({of[i], cts[i], seeds[i].guarded});
  }
  pass.run(before);
  for (ValueId v : wrt) out.values.push_back(pass.adjoint(v));
  finish(g, out, before, pass.swaps());
  return out;
}

Appended append_forward(Graph& g, std::vector<ValueId> ins, std::vector<ValueId> given, std::vector<ValueId> outs) {
  Appended out{{}, identity_map(g), {}};
  auto active_now = [&] { return active_values(g, ins, outs, {}); };
  expand_composites(g, active_now, {&ins, &given, &outs, &out.map}, Mode::forward);
  Bits active = active_now();
  std::vector<ValueId> tangent(g.value_count());
  std::vector<Swap> swaps;
  for (std::size_t i = 0; i < ins.size(); ++i) tangent[ins[i].index] = given[i];
  GraphBuilder b(g);
  std::size_t nodes = g.node_count();
  for (std::size_t i = 0; i < nodes; ++i) {
    NodeId id(i);
    if (!node_active(g, id, active)) continue;
    const Node n = g.node(id);
    std::vector<ValueId> t, result(n.result_count);
    for (ValueId v : n.operands) t.push_back(v ? tangent[v.index] : ValueId{});
    if (std::none_of(t.begin(), t.end(), [](ValueId v) { return v.valid(); })) continue;
    b.set_origin(n.locs, n.result());
    if (!n.regions.empty()) {
      ControlForward c{b, id, t, swaps, std::move(result)};
      is_recurrence(n) ? forward_recurrence(c) : forward_if(c);
      result = std::move(c.out);
    } else if (n.op->jvp) {
      n.op->jvp(b, NodeView{g, id}, t, result);
    } else {
      result[0] = tangent_of_node(b, g, id, t);
    }
    // A value that is both seeded and computed keeps its seed: the caller asked for that direction.
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      if (result[r] && std::find(ins.begin(), ins.end(), n.result(r)) == ins.end())
        tangent[n.result(r).index] = result[r];
  }
  for (ValueId v : outs) out.values.push_back(tangent[v.index]);
  finish(g, out, nodes, swaps);
  return out;
}

}  // namespace ad

Status check_differentiable(const Graph& g, const ReverseSpec& spec, const Loc& at, bool forward_mode) {
  return ad::check_paths(g, spec.wrt, {spec.of}, spec.stop, at, forward_mode ? ad::Mode::forward : ad::Mode::reverse);
}

Result<std::vector<ValueId>> reverse(Graph& g, const ReverseSpec& spec, const Loc& at, std::vector<ValueId>* map) {
  AG_TRY_(check_differentiable(g, spec, at));
  ad::Appended a = ad::append_reverse(g, {{spec.of, spec.seed}}, spec.wrt, spec.stop);
  if (map) *map = std::move(a.map);
  return std::move(a.values);
}

Result<std::vector<ValueId>> forward(Graph& g, const std::vector<ValueId>& ins, const std::vector<ValueId>& tangents,
                                     const std::vector<ValueId>& outs, const Loc& at, std::vector<ValueId>* map) {
  AG_TRY_(ad::check_paths(g, ins, outs, {}, at, ad::Mode::forward));
  ad::Appended a = ad::append_forward(g, ins, tangents, outs);
  if (map) *map = std::move(a.map);
  return std::move(a.values);
}

}  // namespace ag::passes

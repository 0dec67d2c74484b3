// Which values carry derivatives, through regions; what stands in their way.
#include <algorithm>

#include "passes/autodiff_internal.hpp"

namespace ag::passes::ad {

bool has_rule(const OpInfo& op, Mode mode) {
  if (op.zero_gradient || op.partials) return true;
  return mode == Mode::reverse ? op.transpose || op.vjp : op.linearity != Linearity::none || op.jvp;
}

bool linear_operand(const OpInfo& op, std::size_t i) {
  if (i < 31 && (op.linear_in >> i & 1u)) return true;
  return (op.linear_in >> 31) && i + 1 >= op.operands.size();
}

bool is_recurrence(const Node& n) { return n.regions.size() == 1; }

Recurrence::Recurrence(const Node& n) : loop(n.op->name == "Loop") {
  const Graph& body = *n.regions[0];
  captures = static_cast<std::size_t>(std::max<std::int64_t>(0, n.attrs.get_or<std::int64_t>("captures", 0)));
  if (!loop) sequences = static_cast<std::size_t>(n.attrs.get_or<std::int64_t>("num_scan_inputs", 0));
  carries = body.inputs.size() - first() - sequences - captures;
  scans = body.outputs.size() - output(carries);
}

bool keeps_sizes(const Node& n) {
  Recurrence r(n);
  const Graph& body = *n.regions[0];
  for (std::size_t i = 0; i < r.carries; ++i)
    if (body.type(body.inputs[r.first() + i]) != body.type(body.outputs[r.output(i)].value)) return false;
  return true;
}

bool runs_out(const Graph& g, const Node& n) {
  if (n.operands.empty() || !n.operands[0]) return false;
  auto is_true = [](const Graph& in, ValueId v) {
    const LiteralPtr* l = in.def(v).attrs.get<LiteralPtr>("value");
    return l && in.def(v).op->name == "constant" && (*l)->materialize().get_int(0) != 0;
  };
  if (n.operands.size() > 1 && n.operands[1] && !is_true(g, n.operands[1])) return false;
  const Graph& body = *n.regions[0];
  ValueId again = body.outputs[0].value;
  while (body.def(again).op->name == "Identity") again = body.def(again).operands[0];
  return again == body.inputs[1] || is_true(body, again);
}

namespace {

/// Regions nested deeper are taken as a whole: each level asks the next one more than once.
constexpr int max_depth = 12;

/// Derivatives enter and leave regions; this says where, for one node.
class RegionActivity {
 public:
  RegionActivity(const Node& n, int depth) : n_(n), depth_(depth) {}

  /// Results that depend on the reached operands.
  Bits reach(const Bits& operands) const {
    Bits out(n_.result_count);
    if (n_.regions.size() == 2) {
      for (const GraphPtr& region : n_.regions) {
        Bits inside = values(*region, operands, 1);
        for (std::uint32_t r = 0; r < n_.result_count; ++r)
          if (inside[region->outputs[r].value.index]) out[r] = true;
      }
      return out;
    }
    const Graph& body = *n_.regions[0];
    Recurrence r(n_);
    Bits carried = carried_in(operands, r);
    Bits inside = fixpoint(body, operands, r, carried);
    for (std::uint32_t k = 0; k < n_.result_count; ++k)
      out[k] = inside[body.outputs[r.output(k)].value.index] || (k < r.carries && carried[k]);
    return out;
  }

  /// Operands that the wanted results depend on.
  Bits want(const Bits& operands, const Bits& results) const {
    Bits out(n_.operands.size());
    if (n_.regions.size() == 2) {
      for (const GraphPtr& region : n_.regions) {
        Bits inside = values(*region, operands, 1), to(region->value_count());
        for (std::uint32_t r = 0; r < n_.result_count; ++r)
          if (results[r]) to[region->outputs[r].value.index] = true;
        Bits wanted = wanted_inside(*region, to, inside);
        for (std::size_t i = 1; i < out.size(); ++i)
          if (wanted[region->inputs[i - 1].index]) out[i] = true;
      }
      return out;
    }
    Recurrence r(n_);
    RecurrenceActivity act = close(operands, results);
    for (std::size_t i = r.first(); i < out.size() && i < act.inputs.size(); ++i) out[i] = act.inputs[i];
    return out;
  }

  RecurrenceActivity close(const Bits& operands, const Bits& results) const {
    const Graph& body = *n_.regions[0];
    Recurrence r(n_);
    RecurrenceActivity act{carried_in(operands, r), results, Bits(body.inputs.size())};
    Bits inside = fixpoint(body, operands, r, act.carried);
    act.results.resize(r.results());
    for (;;) {
      Bits to(body.value_count());
      for (std::size_t k = 0; k < act.results.size(); ++k)
        if (act.results[k]) to[body.outputs[r.output(k)].value.index] = true;
      Bits wanted = wanted_inside(body, to, inside);
      bool more = false;
      for (std::size_t i = 0; i < r.carries; ++i)
        if (wanted[body.inputs[r.first() + i].index] && !act.results[i]) act.results[i] = more = true;
      if (more) continue;
      for (std::size_t i = r.first(); i < act.inputs.size(); ++i) {
        bool last = i < r.first() + r.carries && act.results[i - r.first()] && act.carried[i - r.first()];
        act.inputs[i] = last || (wanted[body.inputs[i].index] && inside[body.inputs[i].index]);
      }
      return act;
    }
  }

 private:
  const Node& n_;
  int depth_;

  static Bits carried_in(const Bits& operands, const Recurrence& r) {
    Bits carried(r.carries);
    for (std::size_t i = 0; i < r.carries; ++i) carried[i] = operands[r.first() + i];
    return carried;
  }

  /// Reached values of a region whose inputs are operands from `skip` on.
  Bits values(const Graph& region, const Bits& operands, std::size_t skip) const {
    Bits from(region.value_count());
    for (std::size_t i = 0; i < region.inputs.size(); ++i)
      if (i + skip < operands.size()) from[region.inputs[i].index] = operands[i + skip];
    return reached_inside(region, from);
  }

  /// Reached values of the body when every trip has run; `carried` grows to what is reached by then.
  Bits fixpoint(const Graph& body, const Bits& operands, const Recurrence& r, Bits& carried) const {
    for (;;) {
      Bits with = operands;
      with.resize(body.inputs.size());
      for (std::size_t i = 0; i < r.carries; ++i) with[r.first() + i] = carried[i];
      Bits inside = values(body, with, 0);
      bool more = false;
      for (std::size_t i = 0; i < r.carries; ++i)
        if (!carried[i] && inside[body.outputs[r.output(i)].value.index]) carried[i] = more = true;
      if (!more) return inside;
    }
  }

  Bits reached_inside(const Graph& region, const Bits& from) const;
  Bits wanted_inside(const Graph& region, const Bits& to, const Bits& reached) const;
};

bool looked_into(const Node& n) { return n.op->lower_class == LowerClass::control && n.op->no_gradient.empty(); }

Bits reached_at(const Graph& g, Bits reached, const Bits& stopped, int depth) {
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (n.op->zero_gradient) continue;
    Bits in(n.operands.size());
    bool any = false;
    for (std::size_t i = 0; i < in.size(); ++i)
      if (ValueId v = n.operands[i]; v && reached[v.index] && !stopped[v.index]) in[i] = any = true;
    if (!any) continue;
    Bits out(n.result_count, true);
    if (looked_into(n) && depth < max_depth) out = RegionActivity(n, depth).reach(in);
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      if (out[r] && is_float(g.type(n.result(r)).dtype)) reached[n.result(r).index] = true;
  }
  return reached;
}

Bits wanted_at(const Graph& g, Bits wanted, const Bits& reached, const Bits& stopped, int depth) {
  for (std::size_t i = g.node_count(); i-- > 0;) {
    const Node& n = g.node(NodeId(i));
    if (n.op->zero_gradient) continue;
    Bits out(n.result_count);
    bool any = false;
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      if (wanted[n.result(r).index] && reached[n.result(r).index]) out[r] = any = true;
    if (!any) continue;
    Bits in(n.operands.size());
    for (std::size_t k = 0; k < in.size(); ++k)
      in[k] = n.operands[k] && reached[n.operands[k].index] && !stopped[n.operands[k].index];
    if (looked_into(n) && depth < max_depth) {
      Bits through = RegionActivity(n, depth).want(in, out);
      for (std::size_t k = 0; k < in.size(); ++k) in[k] = in[k] && through[k];
    }
    for (std::size_t k = 0; k < in.size(); ++k)
      if (in[k]) wanted[n.operands[k].index] = true;
  }
  return wanted;
}

Bits RegionActivity::reached_inside(const Graph& region, const Bits& from) const {
  return reached_at(region, from, Bits(region.value_count()), depth_ + 1);
}
Bits RegionActivity::wanted_inside(const Graph& region, const Bits& to, const Bits& reached) const {
  return wanted_at(region, to, reached, Bits(region.value_count()), depth_ + 1);
}

}  // namespace

RecurrenceActivity close_recurrence(const Node& n, const Bits& operands, const Bits& results) {
  return RegionActivity(n, 0).close(operands, results);
}

Bits reached_values(const Graph& g, const Bits& from, const Bits& stopped) { return reached_at(g, from, stopped, 0); }
Bits wanted_values(const Graph& g, const Bits& to, const Bits& reached, const Bits& stopped) {
  return wanted_at(g, to, reached, stopped, 0);
}

Bits active_values(const Graph& g, const std::vector<ValueId>& from, const std::vector<ValueId>& to,
                   const std::vector<ValueId>& stop) {
  Bits stopped(g.value_count()), reached(g.value_count()), wanted(g.value_count()), active(g.value_count());
  for (ValueId v : stop) stopped[v.index] = true;
  for (ValueId v : from) reached[v.index] = true;
  for (ValueId v : to) wanted[v.index] = true;
  reached = reached_values(g, reached, stopped);
  wanted = wanted_values(g, wanted, reached, stopped);
  for (std::size_t i = 0; i < active.size(); ++i) active[i] = reached[i] && wanted[i];
  return active;
}

bool node_active(const Graph& g, NodeId id, const Bits& active) {
  const Node& n = g.node(id);
  if (n.op->zero_gradient) return false;
  bool out = false, in = false;
  for (std::uint32_t r = 0; r < n.result_count; ++r) out |= active[n.result(r).index];
  for (ValueId v : n.operands) in |= v && active[v.index];
  return out && in;
}

// ---- Obstacles ------------------------------------------------------------------------------------------------
namespace {

std::string place(const Graph& g, ValueId v) {
  Loc l = g.loc(v);
  std::string name = g.value(v).name.empty() ? std::string(g.def(v).op->name) : g.value(v).name;
  return l.line ? name + " (" + std::to_string(l.line) + ":" + std::to_string(l.col) + ")" : name;
}

std::string_view title(const OpInfo& op) { return op.onnx.empty() ? op.name : op.onnx; }

ValueId first_active(const Node& n, const Bits& active) {
  for (ValueId o : n.operands)
    if (o && active[o.index]) return o;
  return {};
}

/// "x (4:5) -> Mul (9:5) -> ": one active path to the node, for people.
std::string path_to(const Graph& g, NodeId id, const Bits& active, const std::vector<ValueId>& from) {
  std::vector<std::string> names;
  ValueId v = first_active(g.node(id), active);
  for (int depth = 0; v && depth < 12; ++depth) {
    names.push_back(place(g, v));
    if (std::find(from.begin(), from.end(), v) != from.end()) break;
    v = first_active(g.def(v), active);
  }
  std::reverse(names.begin(), names.end());
  std::string text;
  for (const std::string& n : names) text += n + " -> ";
  return text;
}

/// One node as a closed graph: an input per distinct operand, constants as they are.
Graph isolate(const Graph& from, NodeId id, std::vector<ValueId>& operands) {
  Graph g;
  g.opset = from.opset;
  GraphBuilder b(g);
  std::map<ValueId, ValueId> map;
  Node copy = from.node(id);
  for (ValueId& v : copy.operands) {
    if (!v) {
      operands.push_back({});
      continue;
    }
    auto [it, fresh] = map.try_emplace(v);
    if (fresh) {
      const LiteralPtr* literal = from.def(v).attrs.get<LiteralPtr>("value");
      it->second = literal ? b.constant(*literal) : b.input("", from.type(v));
      g.value(it->second).known_ints = from.value(v).known_ints;
    }
    operands.push_back(v = it->second);
  }
  copy.grad_of = {};
  std::vector<Type> types;
  for (std::uint32_t r = 0; r < copy.result_count; ++r) types.push_back(from.type(copy.result(r)));
  NodeId fresh = g.append(std::move(copy), std::move(types));
  for (std::uint32_t r = 0; r < g.node(fresh).result_count; ++r) g.outputs.push_back({"", g.node(fresh).result(r), {}});
  return g;
}

class Obstacles {
 public:
  Obstacles(Loc at, Mode mode) : at_(std::move(at)), mode_(mode) {}

  /// `before`: the path to this graph; `user`: the op of the user's graph that this graph is part of.
  void find(const Graph& g, const std::vector<ValueId>& from, const std::vector<ValueId>& to,
            const std::vector<ValueId>& stop, const std::string& before, const Node* user, int depth) {
    Bits active = active_values(g, from, to, stop);
    for (NodeId id : g.node_ids()) {
      if (!node_active(g, id, active)) continue;
      const Node& n = g.node(id);
      if (has_rule(*n.op, mode_)) continue;
      std::string path = before + path_to(g, id, active, from) + std::string(n.op->name);
      if (looked_into(n))
        regions(g, id, active, path, user, depth);
      else if (is_expanded(*n.op, mode_))
        decomposition(g, id, active, path, user, depth);
      else
        report(g, n, path, user, n.op->no_gradient.empty() ? "this op has no derivative rule" : n.op->no_gradient);
    }
  }

  Status result() {
    if (!diags_.empty()) return fail(std::move(diags_));
    return {};
  }

 private:
  Loc at_;
  Mode mode_;
  Diags diags_;
  std::set<std::string> reported_;

  void report(const Graph& g, const Node& n, const std::string& path, const Node* user, std::string_view why) {
    const Node& shown = user ? *user : n;
    Loc loc;
    for (const Loc& l : shown.locs)
      if (l.known()) {
        loc = l;
        break;
      }
    if (!loc.known()) loc = g.loc(n.result());
    std::string text = "no gradient for `" + std::string(title(*shown.op)) + "`, which is on the differentiated path";
    if (user) text += ": it is made of `" + std::string(title(*n.op)) + "`, which has none";
    if (!reported_.insert(text + loc.str()).second) return;
    Diag d = error(Code::AG3004, at_.known() ? at_ : loc, std::move(text), "this derivative was asked for");
    if (at_.known() && loc.known()) d.at(loc, std::string(why));
    d.note("path: " + path);
    d.help(
        "if its result is meant to be constant, insert {\"op\": \"StopGradient\", \"domain\": \"ag\"} or name the "
        "value in \"stop\"");
    diags_.push_back(std::move(d));
  }

  void decomposition(const Graph& g, NodeId id, const Bits& active, const std::string& path, const Node* user,
                     int depth) {
    const Node& n = g.node(id);
    if (depth > 64) return report(g, n, path, user, "its decomposition does not end");
    std::vector<ValueId> operands, from, to;
    Graph alone = isolate(g, id, operands);
    ValueMap map;
    Graph inside =
        decompose_where(alone, [&](const NodeView& v) { return v.id.index + 1 == alone.node_count(); }, &map);
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i] && active[n.operands[i].index]) from.push_back(map[operands[i].index]);
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      if (active[n.result(r).index] && inside.outputs[r].value) to.push_back(inside.outputs[r].value);
    find(inside, from, to, {}, path + ": ", user ? user : &n, depth + 1);
  }

  void regions(const Graph& g, NodeId id, const Bits& active, const std::string& path, const Node* user, int depth) {
    const Node& n = g.node(id);
    if (depth > 64) return report(g, n, path, user, "regions are nested too deeply");
    if (is_recurrence(n) && mode_ == Mode::reverse && !keeps_sizes(n))
      return report(g, n, path, user, "it carries a value whose size changes from trip to trip");
    Bits operands, results;
    for (ValueId v : n.operands) operands.push_back(v && active[v.index]);
    for (std::uint32_t r = 0; r < n.result_count; ++r) results.push_back(active[n.result(r).index]);
    std::size_t skip = 1, first_output = 0;  // of an If
    if (is_recurrence(n)) {
      RecurrenceActivity act = close_recurrence(n, operands, results);
      operands = act.inputs;
      results = act.results;
      skip = 0;
      first_output = Recurrence(n).output(0);
    }
    for (const GraphPtr& region : n.regions) {
      std::vector<ValueId> from, to;
      for (std::size_t i = skip; i < operands.size() && i - skip < region->inputs.size(); ++i)
        if (operands[i]) from.push_back(region->inputs[i - skip]);
      for (std::size_t k = 0; k < results.size(); ++k)
        if (results[k]) to.push_back(region->outputs[first_output + k].value);
      find(*region, from, to, {}, path + ": ", user, depth + 1);
    }
  }
};

}  // namespace

Status check_paths(const Graph& g, const std::vector<ValueId>& from, const std::vector<ValueId>& to,
                   const std::vector<ValueId>& stop, const Loc& at, Mode mode) {
  Obstacles obstacles(at, mode);
  obstacles.find(g, from, to, stop, {}, nullptr, 0);
  return obstacles.result();
}

}  // namespace ag::passes::ad

#include "passes/batch.hpp"

#include <algorithm>

#include "ir/op.hpp"
#include "passes/autodiff_internal.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

using ad::Bits;
using ad::Recurrence;

std::string_view title(const OpInfo& op) { return op.onnx.empty() ? op.name : op.onnx; }

bool has_batch_rule(const OpInfo& op) {
  bool control = op.lower_class == LowerClass::control && op.no_gradient.empty();
  return op.batch || op.lower_class == LowerClass::map || control;
}

/// Which values differ from member to member, given which inputs do.
Bits batched_values(const Graph& g, const Bits& inputs) {
  Bits out(g.value_count());
  for (std::size_t i = 0; i < inputs.size(); ++i) out[g.inputs[i].index] = inputs[i];
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    bool any = std::any_of(n.operands.begin(), n.operands.end(), [&](ValueId v) { return v && out[v.index]; });
    for (std::uint32_t r = 0; any && r < n.result_count; ++r) out[n.result(r).index] = true;
  }
  return out;
}

/// Takes apart composites that differ from member to member and have no rule of their own.
Graph expanded(Graph g, const Bits& inputs) {
  for (;;) {
    Bits batched = batched_values(g, inputs);
    auto needs = [&](const NodeView& v) {
      const Node& n = v.node();
      return n.op->decompose && !has_batch_rule(*n.op) && batched[n.result().index];
    };
    bool any = false;
    for (NodeId id : g.node_ids()) any = any || needs(NodeView{g, id});
    if (!any) return g;
    g = decompose_where(g, needs);
  }
}

/// A value of the batched graph; `batched`: it has the batch axis in front.
struct Lane {
  ValueId id;
  bool batched = false;
};
using Lanes = std::vector<Lane>;

/// Batches closed graphs: the nodes of one are appended to a builder's graph, given its inputs.
class Batcher {
 public:
  explicit Batcher(Dim size) : size_(std::move(size)) {}
  Diags diags;

  Lanes inlined(GraphBuilder& b, const Graph& given, const Lanes& inputs) {
    Bits flags;
    for (const Lane& l : inputs) flags.push_back(l.batched);
    Graph g = expanded(given, flags);
    Lanes map(g.value_count());
    for (std::size_t i = 0; i < inputs.size(); ++i) map[g.inputs[i].index] = inputs[i];
    for (NodeId id : g.node_ids()) {
      if (g.node(id).op->name == "input") continue;
      if (!node(b, g, id, map)) return {};
    }
    Lanes out;
    for (const Output& o : g.outputs) out.push_back(map[o.value.index]);
    return out;
  }

  ValueId with_axis(GraphBuilder& b, Lane l) {
    if (l.batched) return l.id;
    Dims shape = b.type(l.id).shape;
    shape.insert(shape.begin(), size_);
    return b.broadcast_to(l.id, shape);
  }

  Type batched_type(Type t) const {
    t.shape.insert(t.shape.begin(), size_);
    return t;
  }

 private:
  Dim size_;

  bool node(GraphBuilder& b, const Graph& g, NodeId id, Lanes& map) {
    const Node& n = g.node(id);
    Lanes in;
    bool any = false;
    for (ValueId v : n.operands) {
      in.push_back(v ? map[v.index] : Lane{});
      any = any || in.back().batched;
    }
    b.set_origin(n.locs);
    if (!any) {
      NodeId copy = b.copy(g, id, [&](ValueId v) { return v ? map[v.index].id : ValueId{}; });
      for (std::uint32_t r = 0; r < n.result_count; ++r) map[n.result(r).index] = {b.graph().node(copy).result(r)};
      return true;
    }
    Lanes out;
    if (n.op->batch)
      out = rule(b, g, id, in);
    else if (n.op->lower_class == LowerClass::map)
      out = {{elementwise(b, g, n, in), true}};
    else if (!n.regions.empty() && n.op->no_gradient.empty())
      out = ad::is_recurrence(n) ? recurrence(b, g, n, in) : branches(b, g, n, in);
    else
      out = one_by_one(b, g, id, in);
    if (out.empty()) return false;
    for (std::uint32_t r = 0; r < n.result_count; ++r) map[n.result(r).index] = out[r];
    return true;
  }

  void refuse(const Graph& g, const Node& n, const std::string& why) {
    diags.push_back(
        error(Code::AG3010, g.loc(n.result()), "`" + std::string(title(*n.op)) + "` cannot be batched: " + why));
  }

  Lanes rule(GraphBuilder& b, const Graph& g, NodeId id, const Lanes& in) {
    std::vector<ValueId> operands;
    Bits batched;
    for (const Lane& l : in) operands.push_back(l.id), batched.push_back(l.batched);
    Lanes out;
    for (ValueId v : g.node(id).op->batch(b, NodeView{g, id}, {operands, batched, size_})) out.push_back({v, true});
    return out;
  }

  /// numpy aligns from the right: a batch axis goes in front of ones for the axes that an operand lacks.
  ValueId elementwise(GraphBuilder& b, const Graph& g, const Node& n, const Lanes& in) {
    auto rank = g.type(n.result()).shape.size();
    std::vector<ValueId> operands;
    for (const Lane& l : in) {
      Dims shape = b.type(l.id).shape;
      if (l.batched && shape.size() < rank + 1) shape.insert(shape.begin() + 1, rank + 1 - shape.size(), Dim(1));
      operands.push_back(b.reshape(l.id, shape));
    }
    ValueId y = b.add_op(n.op->name, operands, n.attrs);
    Type want = batched_type(g.type(n.result()));
    return b.type(y).shape == want.shape ? y : b.broadcast_to(y, want.shape);
  }

  /// An op without a rule: a Scan over the members.
  Lanes one_by_one(GraphBuilder& b, const Graph& g, NodeId id, const Lanes& in) {
    const Node& n = g.node(id);
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      if (!sizes_known(g, n.result(r)))
        return refuse(g, n, "the sizes of its results differ from member to member"), Lanes{};
    auto body = std::make_shared<Graph>();
    body->opset = g.opset;
    GraphBuilder inner(*body);
    GraphBuilder::NodeArgs args;
    std::map<ValueId, ValueId> inside;
    for (bool batched : {true, false})  // sequences, then captures
      for (std::size_t i = 0; i < in.size(); ++i)
        if (ValueId v = n.operands[i]; v && in[i].batched == batched && !inside.contains(v)) {
          const LiteralPtr* literal = g.def(v).attrs.get<LiteralPtr>("value");
          inside[v] = literal ? inner.constant(*literal) : inner.input("", g.type(v));
          if (!literal) args.operands.push_back(in[i].id);
        }
    auto sequences = std::ranges::count_if(inside, [&](const auto& p) {
      auto at = std::ranges::find(n.operands, p.first) - n.operands.begin();
      return in[static_cast<std::size_t>(at)].batched;
    });
    inner.set_origin(n.locs);
    NodeId copy = inner.copy(g, id, [&](ValueId v) {
      auto it = inside.find(v);
      return it == inside.end() ? ValueId{} : it->second;
    });
    for (std::uint32_t r = 0; r < n.result_count; ++r) body->outputs.push_back({"", body->node(copy).result(r), {}});
    args.attrs = {{"num_scan_inputs", static_cast<std::int64_t>(sequences)},
                  {"captures", static_cast<std::int64_t>(args.operands.size()) - sequences}};
    args.regions = {body};
    for (std::uint32_t r = 0; r < n.result_count; ++r) args.stated.push_back(batched_type(g.type(n.result(r))));
    return results(b, ad::must_add(b, op("Scan"), std::move(args)), Bits(n.result_count, true));
  }

  /// No unbacked symbol of the node's own.
  static bool sizes_known(const Graph& g, ValueId v) {
    std::set<std::string> from;
    for (ValueId o : g.def(v).operands)
      if (o) from.merge(ad::symbols_of(g.type(o)));
    for (const std::string& s : ad::symbols_of(g.type(v)))
      if (s.find('.') != s.npos && !from.contains(s)) return false;
    return true;
  }

  // -- regions ------------------------------------------------------------------------------------------------
  struct Region {
    Graph graph;
    Lanes outputs;
  };

  /// A region for these inputs (types as outside a batch); outputs as they come.
  Region region(const Graph& g, const Bits& batched) {
    Region r;
    r.graph.opset = g.opset;
    GraphBuilder b(r.graph);
    Lanes in;
    for (std::size_t i = 0; i < g.inputs.size(); ++i) {
      const Type& t = g.type(g.inputs[i]);
      in.push_back(
          {b.input(g.value(g.inputs[i]).name, batched[i] ? batched_type(t) : t, g.loc(g.inputs[i])), batched[i]});
    }
    r.outputs = inlined(b, g, in);
    return r;
  }

  /// Sets the region's outputs, with the batch axis where `batched` says so.
  GraphPtr closed(Region r, const Bits& batched) {
    GraphBuilder b(r.graph);
    for (std::size_t i = 0; i < r.outputs.size(); ++i)
      r.graph.outputs.push_back({"", batched[i] ? with_axis(b, r.outputs[i]) : r.outputs[i].id, {}});
    return std::make_shared<const Graph>(std::move(r.graph));
  }

  Lanes results(GraphBuilder& b, NodeId id, const Bits& batched) {
    Lanes out;
    const Node& n = b.graph().node(id);
    for (std::uint32_t r = 0; r < n.result_count; ++r) out.push_back({n.result(r), batched[r]});
    return out;
  }

  Lanes branches(GraphBuilder& b, const Graph& g, const Node& n, const Lanes& in) {
    Lanes captures(in.begin() + 1, in.end()), out;
    if (in[0].batched) {  // both branches, each member takes its own
      Lanes yes = inlined(b, *n.regions[0], captures), no = inlined(b, *n.regions[1], captures);
      if (!diags.empty()) return {};
      for (std::uint32_t r = 0; r < n.result_count; ++r) {
        if (g.type(n.result(r)).rank() + 1 != b.type(with_axis(b, yes[r])).rank())
          return refuse(g, n, "its branches give results of different ranks"), Lanes{};
        out.push_back({choose(b, in[0].id, with_axis(b, yes[r]), with_axis(b, no[r])), true});
      }
      return out;
    }
    Bits flags;
    for (const Lane& l : captures) flags.push_back(l.batched);
    Region yes = region(*n.regions[0], flags), no = region(*n.regions[1], flags);
    if (!diags.empty()) return {};
    Bits batched;
    for (std::size_t r = 0; r < yes.outputs.size(); ++r)
      batched.push_back(yes.outputs[r].batched || no.outputs[r].batched);
    GraphBuilder::NodeArgs args;
    for (const Lane& l : in) args.operands.push_back(l.id);
    args.attrs = n.attrs;
    args.regions = {closed(std::move(yes), batched), closed(std::move(no), batched)};
    args.result_count = n.result_count;
    return results(b, ad::must_add(b, *n.op, std::move(args)), batched);
  }

  /// Member by member: `mask` is [size].
  ValueId choose(GraphBuilder& b, ValueId mask, ValueId yes, ValueId no) {
    Dims shape = b.type(yes).shape;
    mask = b.reshape(mask, {size_});
    return b.select(b.broadcast_in_dim(mask, shape, {0}), yes, no);
  }

  /// Carries that differ from member to member once every trip has run, and the body for them.
  Region body_of(const Node& n, const Recurrence& r, Bits& inputs, bool all_carries) {
    const Graph& g = *n.regions[0];
    for (std::size_t i = 0; all_carries && i < r.carries; ++i) inputs[r.first() + i] = true;
    for (;;) {
      Region body = region(g, inputs);
      if (!diags.empty()) return body;
      bool more = false;
      for (std::size_t i = 0; i < r.carries; ++i)
        if (body.outputs[r.output(i)].batched && !inputs[r.first() + i]) inputs[r.first() + i] = more = true;
      if (!more) return body;
    }
  }

  Lanes recurrence(GraphBuilder& b, const Graph& g, const Node& n, const Lanes& in) {
    Recurrence r(n);
    Bits inputs(n.regions[0]->inputs.size());
    for (std::size_t i = r.first(); i < in.size(); ++i) inputs[i] = in[i].batched;
    Region body = body_of(n, r, inputs, false);
    if (!diags.empty()) return {};
    bool apart =
        r.loop && ((!in.empty() && in[0].batched) || (in.size() > 1 && in[1].batched) || body.outputs[0].batched);
    if (apart) return members_apart(b, g, n, r, in, inputs);
    GraphBuilder::NodeArgs args;
    for (std::size_t i = 0; i < in.size(); ++i) {
      bool carry = i >= r.first() && i < r.first() + r.carries;
      args.operands.push_back(in[i].id && carry && inputs[i] ? with_axis(b, in[i]) : in[i].id);
    }
    Bits outputs;
    for (std::size_t k = 0; k < body.outputs.size(); ++k) {
      bool carry = k >= r.output(0) && k < r.output(r.carries);
      outputs.push_back(carry ? inputs[r.first() + k - r.output(0)] : body.outputs[k].batched);
    }
    args.attrs = r.loop ? n.attrs : scan_attrs(n, r, inputs, outputs);
    args.regions = {closed(std::move(body), outputs)};
    args.result_count = n.result_count;
    NodeId id = ad::must_add(b, *n.op, std::move(args));
    Bits batched(outputs.begin() + static_cast<std::ptrdiff_t>(r.output(0)), outputs.end());
    Lanes out = results(b, id, batched);
    for (std::size_t k = r.carries; r.loop && k < out.size(); ++k)  // a Loop stacks in front of the batch axis
      if (out[k].batched) out[k].id = swap_front(b, out[k].id);
    return out;
  }

  ValueId swap_front(GraphBuilder& b, ValueId v) {
    std::vector<std::int64_t> perm;
    for (int i = 0; i < b.type(v).rank(); ++i) perm.push_back(i);
    std::swap(perm[0], perm[1]);
    return b.transpose(v, perm);
  }

  /// Sequences and outputs with a batch axis run along one axis further.
  Attrs scan_attrs(const Node& n, const Recurrence& r, const Bits& inputs, const Bits& outputs) {
    Attrs a = n.attrs;
    auto shift = [&](std::string_view name, std::size_t count, auto batched) {
      auto list = a.get_or<std::vector<std::int64_t>>(name, {});
      list.resize(count, 0);
      for (std::size_t k = 0; k < count; ++k)
        if (batched(k) && list[k] >= 0) ++list[k];
      a.set(name, std::move(list));
    };
    shift("scan_input_axes", r.sequences, [&](std::size_t k) { return inputs[r.sequence(k)]; });
    shift("scan_output_axes", r.scans, [&](std::size_t k) { return outputs[r.carries + k]; });
    return a;
  }

  /// A Loop whose members stop at different times: a mask of those that go on is carried in front.
  Lanes members_apart(GraphBuilder& b, const Graph& g, const Node& n, const Recurrence& r, const Lanes& in,
                      Bits inputs) {
    if (r.scans) return refuse(g, n, "its members would gather different numbers of values"), Lanes{};
    Region body = body_of(n, r, inputs, true);
    if (!diags.empty()) return {};
    DType boolean = DType::boolean;
    ValueId mask = b.full({boolean, {size_}}, 1), count;
    if (in.size() > 1 && in[1].id) mask = b.reshape(with_axis(b, in[1]), {size_});
    bool counts = in[0].batched;
    if (counts) {
      count = b.reshape(in[0].id, {size_});
      mask = b.add_op("and", {mask, b.compare("gt", count, b.scalar_int(DType::i64, 0))});
    }
    GraphBuilder::NodeArgs args;
    args.operands = {counts ? b.reduce("reduce_max", count, {0}) : in[0].id, b.reduce("reduce_or", mask, {0}), mask};
    for (std::size_t i = 0; i < r.carries; ++i) args.operands.push_back(with_axis(b, in[r.first() + i]));
    for (std::size_t k = 0; k < r.captures; ++k) args.operands.push_back(in[r.capture(k)].id);
    if (counts) args.operands.push_back(count);
    args.attrs = {{"captures", static_cast<std::int64_t>(r.captures + (counts ? 1 : 0))}};
    args.regions = {masked_body(std::move(body), r, counts)};
    NodeId id = ad::must_add(b, *n.op, std::move(args));
    Lanes out;
    for (std::uint32_t i = 0; i < n.result_count; ++i) out.push_back({b.graph().node(id).result(i + 1), true});
    return out;
  }

  /// Behind the body: members that have stopped keep what they had.
  GraphPtr masked_body(Region body, const Recurrence& r, bool counts) {
    Graph& g = body.graph;
    GraphBuilder b(g);
    std::vector<ValueId> given = g.inputs;
    ValueId mask = b.input("", {DType::boolean, {size_}}), limit;
    if (counts) limit = b.input("", {DType::i64, {size_}});
    ValueId on = b.add_op("and", {mask, b.reshape(with_axis(b, body.outputs[0]), {size_})});
    if (counts) {
      ValueId next = b.add(given[0], b.scalar_int(DType::i64, 1));
      on = b.add_op("and", {on, b.compare("lt", next, limit)});
    }
    g.outputs = {{"", b.reduce("reduce_or", on, {0}), {}}, {"", on, {}}};
    for (std::size_t i = 0; i < r.carries; ++i)
      g.outputs.push_back({"", choose(b, mask, with_axis(b, body.outputs[r.output(i)]), given[r.first() + i]), {}});
    g.inputs = {given[0], given[1], mask};
    g.inputs.insert(g.inputs.end(), given.begin() + 2, given.end());
    if (counts) g.inputs.push_back(limit);
    return std::make_shared<const Graph>(std::move(g));
  }
};

}  // namespace

Result<Graph> batch(const Graph& g, const std::vector<bool>& batched, const Dim& size) {
  AG_CHECK(batched.size() == g.inputs.size(), "one flag per input");
  Graph out = empty_like(g);
  out.grads.clear();
  GraphBuilder b(out);
  Batcher batcher(size);
  Lanes in;
  for (std::size_t i = 0; i < g.inputs.size(); ++i) {
    const Type& t = g.type(g.inputs[i]);
    std::string name = g.value(g.inputs[i]).name;
    in.push_back({b.input(name, batched[i] ? batcher.batched_type(t) : t, g.loc(g.inputs[i])), batched[i]});
  }
  Lanes results = batcher.inlined(b, g, in);
  if (!batcher.diags.empty()) return fail(std::move(batcher.diags));
  for (std::size_t i = 0; i < results.size(); ++i)
    out.outputs.push_back({g.outputs[i].name, batcher.with_axis(b, results[i]), g.outputs[i].loc});
  return out;
}

}  // namespace ag::passes

// The pass autodiff: the gradient requests of a graph become nodes.
#include <algorithm>

#include "ir/base/suggest.hpp"
#include "ir/op.hpp"
#include "passes/autodiff_internal.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

/// The region of a Gradient node, which gives the gradients of its output instead.
Result<Graph> gradient_region(const Graph& body, std::size_t variables, const Loc& at) {
  Graph g = body;
  ReverseSpec spec{.of = g.outputs[0].value, .seed = {}, .wrt = {}, .stop = {}};
  for (std::size_t i = 0; i < variables; ++i) spec.wrt.push_back(g.inputs[i]);
  for (ValueId v : spec.wrt)
    if (!is_float(g.type(v).dtype) || !is_float(g.type(spec.of).dtype))
      return fail(Code::AG3003, at, "`Gradient` of or with respect to a value that is not real");
  AG_TRY(std::vector<ValueId> grads, reverse(g, spec, at));
  GraphBuilder b(g);
  g.outputs.clear();
  for (std::size_t i = 0; i < variables; ++i)
    g.outputs.push_back({"", grads[i] ? grads[i] : b.zeros(Type(g.type(g.inputs[i]))), {}});
  return g;
}

/// ONNX's Gradient nodes become the gradients that they stand for, those of others' regions first.
Result<Graph> place_gradients(Graph g, int depth = 0) {
  const OpInfo* gradient = &op("Gradient");
  auto is_one = [&](NodeId id) { return g.node(id).op == gradient; };
  bool any = false;
  for (NodeId id : g.node_ids()) any = any || is_one(id);
  if (!any) return g;
  if (depth > 64) return fail(Code::AG1108, {}, "gradients of gradients are nested too deeply");
  Graph out = empty_like(g);
  GraphBuilder b(out);
  ValueMap map(g.value_count());
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    std::vector<ValueId> results;
    if (is_one(id)) {
      AG_TRY(Graph inner, place_gradients(*n.regions[0], depth + 1));
      auto variables = n.attrs.get_or<std::vector<std::string>>("xs", {}).size();
      AG_TRY(Graph region, gradient_region(inner, variables, g.loc(n.result())));
      std::vector<ValueId> args;
      for (ValueId v : n.operands) args.push_back(map[v.index]);
      b.set_origin(n.locs);
      results = b.inline_graph(region, args);
    } else {
      NodeId copy = b.copy(g, id, [&](ValueId v) { return map[v.index]; });
      for (std::uint32_t r = 0; r < n.result_count; ++r) results.push_back(out.node(copy).result(r));
    }
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      map[n.result(r).index] = results[r];
      const std::string& name = g.value(n.result(r)).name;
      if (!name.empty() && out.value(results[r]).name.empty() && !out.find(name)) out.set_name(results[r], name);
    }
  }
  map_signature(g, map, out);
  return out;
}

class Requests {
 public:
  Requests(Graph g, PassContext& context) : g_(std::move(g)), context_(context) {}

  Result<Graph> run() {
    AG_TRY(g_, place_gradients(std::move(g_)));
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

  /// What the request says of checkpoints is kept at the loops for the pass checkpoint.
  void mark_loops(const std::string& policy) {
    if (policy.empty() || policy == "auto") return;
    for (NodeId id : g_.node_ids()) {
      Node& n = g_.node(id);
      bool marked = std::ranges::any_of(n.extras, [](const auto& e) { return e.first == "x-checkpoint"; });
      if (ad::is_recurrence(n) && !marked) n.extras.emplace_back("x-checkpoint", '"' + policy + '"');
    }
  }

  Status differentiate(const GradRequest& r, const ReverseSpec& spec, const std::vector<std::string>& wrt) {
    std::vector<Type> types;
    for (ValueId v : spec.wrt) types.push_back(g_.type(v));
    AG_TRY(std::vector<ValueId> grads, reverse(g_, spec, r.loc));
    mark_loops(r.checkpoint);
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

#include "ir/random_keys.hpp"

#include <algorithm>

#include "ir/ops/common.hpp"
#include "ir/rebuild.hpp"

namespace ag {
namespace {

using ops::Expr;
using Ints = std::vector<std::int64_t>;

/// Random ops are those that are numbered (their attribute `ordinal`); the key is their last operand.
bool is_random(const Node& n) {
  return std::ranges::any_of(n.op->attrs, [](const AttrSpec& a) { return a.name == "ordinal"; });
}
bool lacks_key(const Node& n) { return is_random(n) && n.operands.size() < n.op->operands.size(); }

bool any_random(const Graph& g) {
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (lacks_key(n)) return true;
    for (const GraphPtr& r : n.regions)
      if (any_random(*r)) return true;
  }
  return false;
}

bool any_random_region(const Node& n) {
  return std::ranges::any_of(n.regions, [](const GraphPtr& r) { return any_random(*r); });
}

std::size_t captures_of(const Node& n) {
  auto captures = static_cast<std::size_t>(n.attrs.get_or<std::int64_t>("captures", 0));
  return std::min(captures, n.operands.size());
}

/// What a region gets beside its own inputs.
struct Keys {
  bool outer = false;          ///< a u64 key as the last capture
  bool trip_is_first = false;  ///< its first input is the trip number (Loop)
  std::optional<std::size_t> new_trip = {};  ///< the trip number becomes this input (Scan)
  std::string trip_name = "trip";
};

class Rebuilder {
 public:
  Rebuilder(const Graph& from, Keys keys)
      : g_(from), keys_(keys), out_(empty_like(from)), b_(out_), map_(from.value_count()) {}

  Graph run() {
    inputs();
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (n.op->name == "input") continue;
      if (lacks_key(n) && key_) {
        random(id);
      } else if (!n.regions.empty() && any_random_region(n)) {
        regions(id);
      } else {
        bind(id, b_.copy(g_, id, [this](ValueId v) { return map_[v.index]; }));
      }
    }
    for (const Output& o : g_.outputs) out_.outputs.push_back({o.name, map_[o.value.index], o.loc});
    return std::move(out_);
  }

 private:
  const Graph& g_;
  Keys keys_;
  Graph out_;
  GraphBuilder b_;
  std::vector<ValueId> map_;
  ValueId key_;  // u64[] of this graph

  void bind(NodeId from, NodeId to) {
    for (std::uint32_t r = 0; r < g_.node(from).result_count; ++r)
      map_[g_.node(from).result(r).index] = out_.node(to).result(r);
  }

  void inputs() {
    ValueId trip;
    for (std::size_t i = 0; i <= g_.inputs.size(); ++i) {
      if (keys_.new_trip == i) trip = b_.input(free_name(keys_.trip_name), {DType::i64, {}});
      if (i == g_.inputs.size()) break;
      NodeId id = g_.value(g_.inputs[i]).node;
      bind(id, b_.copy(g_, id, [](ValueId v) { return v; }));
      if (i == 0 && keys_.trip_is_first) trip = map_[g_.inputs[0].index];
    }
    if (keys_.outer) key_ = b_.input(free_name("key"), {DType::u64, {}});
    if (!trip) return;
    // Keys of trips lie far apart, and those of inner loops mix with those of outer ones.
    Expr number = Expr(b_, b_.reshape(trip, {})).to(DType::u64) * Expr(b_, b_.scalar_int(DType::u64, odd_));
    if (key_) number = number + Expr(b_, key_) * Expr(b_, b_.scalar_int(DType::u64, other_odd_));
    key_ = number;
  }
  static constexpr std::int64_t odd_ = 0x5851F42D4C957F2D, other_odd_ = 0x14057B7EF767814F;

  std::string free_name(std::string name) const {
    auto taken = [&](const std::string& s) {
      return g_.find(s).valid() || std::ranges::any_of(g_.inputs, [&](ValueId v) { return g_.value(v).name == s; });
    };
    for (int i = 1; taken(name); ++i) name = name.substr(0, name.find('.')) + "." + std::to_string(i);
    return name;
  }

  GraphBuilder::NodeArgs arguments(NodeId id) const {
    const Node& n = g_.node(id);
    GraphBuilder::NodeArgs args;
    for (ValueId v : n.operands) args.operands.push_back(v ? map_[v.index] : ValueId{});
    args.attrs = n.attrs;
    args.regions = n.regions;
    args.name = n.name;
    args.locs = n.locs;
    args.result_count = n.result_count;
    args.extras = n.extras;
    return args;
  }

  void add(NodeId id, GraphBuilder::NodeArgs args) {
    auto made = b_.try_add(*g_.node(id).op, std::move(args));
    if (!made) internal_error("a random key does not fit: " + made.error()[0].message, __FILE__, __LINE__);
    bind(id, *made);
    for (std::uint32_t r = 0; r < g_.node(id).result_count; ++r) {
      const std::string& name = g_.value(g_.node(id).result(r)).name;
      if (!name.empty() && !out_.find(name)) out_.set_name(out_.node(*made).result(r), name);
    }
  }

  void random(NodeId id) {
    GraphBuilder::NodeArgs args = arguments(id);
    args.operands.resize(g_.node(id).op->operands.size());
    args.operands.back() = key_;
    add(id, std::move(args));
  }

  void regions(NodeId id) {
    const Node& n = g_.node(id);
    GraphBuilder::NodeArgs args = arguments(id);
    const bool counts = n.op->regions[0].name == "body" && !n.attrs.find("num_scan_inputs");
    Keys keys{.outer = key_.valid(), .trip_is_first = counts};
    if (n.attrs.find("num_scan_inputs")) keys.new_trip = add_trips(n, args);
    if (key_) {
      args.operands.push_back(key_);
      args.attrs.set("captures", static_cast<std::int64_t>(captures_of(n)) + 1);
    }
    for (GraphPtr& r : args.regions) r = std::make_shared<const Graph>(Rebuilder(*r, keys).run());
    add(id, std::move(args));
  }

  /// One more sequence of a Scan: 0, 1, ...; where its element stands among the body's inputs.
  std::size_t add_trips(const Node& n, GraphBuilder::NodeArgs& args) {
    const std::size_t at = n.operands.size() - captures_of(n);
    auto sequences = n.attrs.get_or<std::int64_t>("num_scan_inputs", 1);
    const Type first = g_.type(n.operands[at - static_cast<std::size_t>(sequences)]);
    Ints axes = n.attrs.get_or<Ints>("scan_input_axes", {}), ways = n.attrs.get_or<Ints>("scan_input_directions", {});
    std::int64_t axis = axes.empty() ? 0 : *normalize_axis(axes[0], first.rank());
    ValueId trips = b_.iota({DType::i64, {first.shape[static_cast<std::size_t>(axis)]}}, 0);
    args.operands.insert(args.operands.begin() + static_cast<std::ptrdiff_t>(at), trips);
    args.attrs.set("num_scan_inputs", sequences + 1);
    if (!axes.empty()) axes.push_back(0), args.attrs.set("scan_input_axes", axes);
    if (!ways.empty()) ways.push_back(0), args.attrs.set("scan_input_directions", ways);
    return at;
  }
};

}  // namespace

Graph with_random_keys(Graph graph) {
  for (NodeId id : graph.node_ids())
    if (any_random_region(graph.node(id))) return Rebuilder(graph, {}).run();
  return graph;
}

Graph with_run_keys(Graph graph, const std::string& name) {
  if (!any_random(graph)) return graph;
  const std::size_t inputs = graph.inputs.size();
  return Rebuilder(graph, {.new_trip = inputs, .trip_name = name}).run();
}

}  // namespace ag

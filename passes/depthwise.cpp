// Depthwise convolutions over channels-last images become the op `depthwise`, whose kernel reads images as they lie:
// nothing is padded in memory, and what makes the image may be computed in the same kernel (fuse_block.cpp).
#include "passes/depthwise.hpp"

#include <algorithm>

#include "ir/op.hpp"
#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

using Ints = std::vector<std::int64_t>;

/// Taps of a window that are worth a kernel: each is code in it.
constexpr std::int64_t max_taps = 128;

class Chooser {
 public:
  explicit Chooser(const Graph& g) : g_(g), out_(empty_like(g)), b_(out_) {}

  Graph run() {
    ValueMap map(g_.value_count());
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (n.op->name == "conv" && fits(id)) {
        bind(g_, n.result(), out_, depthwise(id, map), map);
        continue;
      }
      copy_node(b_, g_, id, map);
    }
    map_signature(g_, map, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  Graph out_;
  GraphBuilder b_;

  bool turned(const Node& n) const { return n.attrs.get_or<std::string>("role", "output") == "input"; }

  /// One input and one output channel a group, two axes, sizes known but for the batch. An input gradient of stride 1
  /// is the same with filters turned round.
  bool fits(NodeId id) const {
    const NodeView n{g_, id};
    const Attrs& a = n.attrs();
    const Dims groups = a.get_or<Dims>("groups", {}), low = a.get_or<Dims>("low", {});
    const Dims &p = n.in(0).shape, &q = n.in(1).shape, &y = n.out().shape;
    const Ints strides = a.get_or<Ints>("strides", {});
    if (a.get_or<std::string>("layout", "") != "channels_last" || a.get_or<std::string>("role", "output") == "filter" ||
        (n.out().dtype != DType::f32 && n.out().dtype != DType::f64) || p.size() != 4 || groups.size() != 1)
      return false;
    if (turned(n.node()) && std::any_of(strides.begin(), strides.end(), [](std::int64_t s) { return s != 1; }))
      return false;
    auto positive = [](const Dim& d) { return d.is_const() && d.value() > 0; };
    for (const Dim& d : {p[1], p[2], p[3], q[0], q[1], y[1], y[2], y[3]})
      if (!positive(d)) return false;
    const std::int64_t taps = q[0].value() * q[1].value();
    return low[0].is_const() && low[1].is_const() && groups[0] == p[3] && groups[0] == y[3] && p[3].value() > 1 &&
           taps > 1 && taps <= max_taps;
  }

  ValueId depthwise(NodeId id, const ValueMap& map) {
    const NodeView n{g_, id};
    b_.set_origin(n.node().locs, n.node().grad_of ? map[n.node().grad_of.index] : ValueId{});
    const Dims &y = n.out().shape, &q = n.in(1).shape;
    Dims low = n.attrs().get_or<Dims>("low", {});
    const Ints dilations = n.attrs().get_or<Ints>("dilations", {});
    ValueId w = map[n.node().operands[1].index];
    if (turned(n.node())) {
      for (std::size_t d : {0u, 1u}) low[d] = (q[d] - Dim(1)) * Dim(dilations[d]) - low[d];
      w = b_.add_op("rev", {w}, {{"axes", Ints{0, 1}}});
    }
    w = b_.reshape(w, {q[0], q[1], y[3]});
    return b_.add_op("depthwise", {map[n.node().operands[0].index], w},
                     {{"size", Dims{y[1], y[2]}},
                      {"low", low},
                      {"strides", n.attrs().get_or<Ints>("strides", {})},
                      {"dilations", dilations}});
  }
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (context.target.kind != TargetSpec::Kind::cpu || !context.fuse) return copy_if(g, [](NodeId) { return true; });
  return Chooser(g).run();
}

}  // namespace

const Pass depthwise = {
    .name = "depthwise", .summary = "depthwise convolutions become kernels of their own", .on_graph = run};

}  // namespace ag::passes

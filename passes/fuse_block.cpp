// Products whose rows are computed inside the kernel of the depthwise convolution that reads them.
//
// Cost model. The expanded image of a mobile block is the largest value of its net; inside the kernel a few rows of it
// lie in the cache at a time, so neither its store, nor the padded copy, nor the load goes through memory. What the
// kernel pays is that a product runs row by row (its tile of pixels ends where a row of the image ends) and that rows
// at the borders of bands are computed twice. The first costs little from `min_pixels` pixels a row on; the second is
// weighed when bands are chosen (lower_depthwise.cpp). The rows must stay in the second-level cache.
#include <algorithm>

#include "passes/depthwise.hpp"
#include "passes/depthwise_model.hpp"
#include "passes/panels.hpp"

namespace ag::passes {
namespace {

constexpr std::int64_t min_pixels = 4, max_ring_bytes = 512 << 10, usual_panel = 64;

class BlockFinder {
 public:
  BlockFinder(const Graph& g, Plan& plan) : g_(g), plan_(plan), users_(g.value_count()), output_(g.value_count()) {
    for (NodeId id : g.node_ids())
      for (ValueId v : g.node(id).operands)
        if (v) users_[v.index].push_back(id);
    for (const Output& o : g.outputs) output_[o.value.index] = true;
  }

  std::vector<BlockFusion> run() {
    std::vector<BlockFusion> found;
    for (NodeId id : g_.node_ids()) {
      GroupId gid = plan_.group_of[id.index];
      if (!gid || plan_.groups[gid].kind != GroupKind::own || plan_.groups[gid].members[0] != id ||
          g_.node(id).op->name != "depthwise")
        continue;
      GroupId from = plan_.group_of[g_.value(g_.node(id).operands[0]).node.index];
      if (!from || plan_.groups[from].kind != GroupKind::contraction) continue;
      const char* why = refusal(id, from);
      plan_.notes.push_back("group " + std::to_string(from.index) + " into depthwise %" +
                            std::to_string(g_.node(id).result().index) + ": " + (why ? "no, " : "yes, by rows") +
                            (why ? why : ""));
      if (!why) found.push_back({gid, from});
    }
    return found;
  }

 private:
  const Graph& g_;
  Plan& plan_;
  std::vector<std::vector<NodeId>> users_;
  std::vector<bool> output_;

  const char* refusal(NodeId id, GroupId from) const {
    const ValueId x = g_.node(id).operands[0];
    const Group& group = plan_.groups[from];
    const Type& t = g_.type(x);
    if (group.full != t.shape || g_.node(group.members[0]).op->lower_class != LowerClass::contraction ||
        !makes_rows(g_, group.members[0]))
      return "the product does not make rows of pixels";
    for (NodeId m : group.members) {
      const ValueId v = g_.node(m).result();
      if (output_[v.index] || g_.type(v).shape != t.shape) return "a value of the product's group is needed elsewhere";
      for (NodeId user : users_[v.index])
        if (user != id && plan_.group_of[user.index] != from)
          return "a value of the product's group is needed elsewhere";
    }
    const DepthwiseDesc d = describe_depthwise(NodeView{g_, id});
    const std::int64_t w = d.size[1].value(), h = d.size[0].value();
    if (w < min_pixels && h > 1) return "rows of the image are short";
    const auto bytes = static_cast<std::int64_t>(dtype_bytes(t.dtype));
    if (d.reach(0) * (w + d.reach(1)) * usual_panel * bytes > max_ring_bytes)
      return "the rows that a window needs do not fit into the cache";
    return nullptr;
  }
};

}  // namespace

namespace {

/// How often a value is read.
std::vector<int> count_uses(const Graph& g) {
  std::vector<int> uses(g.value_count());
  for (NodeId id : g.node_ids())
    for (ValueId v : g.node(id).operands)
      if (v) ++uses[v.index];
  for (const Output& o : g.outputs) ++uses[o.value.index];
  return uses;
}

/// The one product that makes `x` together with maps that nothing else reads.
NodeId product_of(const Graph& g, ValueId x, const std::vector<int>& uses) {
  std::vector<ValueId> values{x};
  std::vector<int> inside{1};
  NodeId product;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const NodeId id = g.value(values[i]).node;
    const Node& n = g.node(id);
    if (n.op->name == "dot_general" && !product) {
      product = id;
      continue;
    }
    if (n.op->lower_class != LowerClass::map || values.size() > 64) return {};
    for (ValueId v : n.operands) {
      if (g.type(v).shape != g.type(x).shape || g.def(v).op->lower_class == LowerClass::index) continue;
      auto it = std::find(values.begin(), values.end(), v);
      if (it == values.end())
        values.push_back(v), inside.push_back(1);
      else
        ++inside[static_cast<std::size_t>(it - values.begin())];
    }
  }
  for (std::size_t i = 0; i < values.size(); ++i)
    if (uses[values[i].index] != inside[i]) return {};
  return product;
}

}  // namespace

std::unordered_map<NodeId, std::int64_t> depthwise_panels(const Graph& g, const TargetSpec& target) {
  std::unordered_map<NodeId, std::int64_t> panels;
  std::vector<int> uses;
  for (NodeId id : g.node_ids()) {
    if (g.node(id).op->name != "depthwise" || !has_depthwise_kernel(g, id)) continue;
    if (uses.empty()) uses = count_uses(g);
    const NodeId product = product_of(g, g.node(id).operands[0], uses);
    if (!product) continue;
    const ContractionSizes sizes = product_sizes(g, g.node(product), target);
    const std::size_t bytes = dtype_bytes(g.type(g.node(id).result()).dtype);
    if (sizes.depth)
      panels[product] =
          pick_cut(depthwise_sizes(describe_depthwise(NodeView{g, id}), bytes, *sizes.depth), std::nullopt, target)
              .width;
  }
  return panels;
}

std::vector<BlockFusion> find_blocks(const Graph& g, Plan& plan) { return BlockFinder(g, plan).run(); }

}  // namespace ag::passes

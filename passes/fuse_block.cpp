// Products whose rows are computed inside the kernel of the depthwise convolution that reads them.
//
// Cost model. The expanded image of a mobile block is the largest value of its net; inside the kernel a few rows of it
// lie in the cache at a time, so neither its store, nor the padded copy, nor the load goes through memory. What the
// kernel pays is that a product runs row by row (its tile of pixels ends where a row of the image ends) and that rows
// at the borders of bands are computed twice. The first costs little from `min_pixels` pixels a row on; the second is
// weighed when bands are chosen (lower_depthwise.cpp). The rows must stay in the second-level cache.
#include <algorithm>
#include <string>
#include <string_view>

#include "passes/depthwise.hpp"
#include "passes/depthwise_model.hpp"
#include "passes/depthwise_rows.hpp"
#include "passes/element.hpp"
#include "passes/panels.hpp"
#include "passes/users.hpp"

namespace ag::passes {
namespace {

constexpr std::int64_t min_pixels = 4, max_ring_bytes = 512 << 10, usual_panel = 64;

/// Who reads what, and the fusions found so far, each told in the plan's notes.
class Finder {
 protected:
  Finder(const Graph& g, Plan& plan) : g_(g), plan_(plan), users_(users_of(g)), output_(output_values(g)) {}

  /// Group `from` is computed inside the kernel of `into`, whose first node is `id`, unless `why` refuses it.
  void decide(GroupId into, GroupId from, NodeId id, std::string_view kind, const char* why) {
    plan_.notes.push_back("group " + std::to_string(from.index) + " into " + std::string(kind) + " %" +
                          std::to_string(g_.node(id).result().index) + ": " + (why ? "no, " : "yes, by rows") +
                          (why ? why : ""));
    if (!why) found_.push_back({into, from});
  }

  /// Why a product's image cannot be computed a few rows at a time for it by the nodes of `from`, which begin with
  /// `first`: what they make, all as large as the image, must be read there alone.
  const char* no_image(NodeId id, const std::vector<NodeId>& from) const {
    const Type &x = g_.type(g_.node(id).operands[0]), &y = g_.type(g_.node(id).result());
    const ContractionDesc desc = g_.node(id).op->contraction(NodeView{g_, id});
    auto known = [](const Dim& d) { return d.is_const() && d.value() > 0 && d.value() <= 1 << 20; };
    if (!makes_rows(g_, id) || desc.lhs_contract != std::vector<int>{3} || !known(x.shape[1]) || !known(x.shape[2]) ||
        !known(x.shape[3]) || !known(y.shape[3]) || x.shape[2].is(1) ||
        (y.dtype != DType::f32 && y.dtype != DType::f64) || g_.node(id).attrs.get_or<std::int64_t>("lanes", 1) > 1)
      return "the product does not make rows of pixels";
    for (NodeId m : from) {
      const ValueId v = g_.node(m).result();
      if (output_[v.index] || g_.type(v).shape != x.shape || g_.type(v).dtype != x.dtype)
        return "a value of the group is needed elsewhere";
      for (NodeId user : users_[v.index])
        if (std::find(from.begin(), from.end(), user) == from.end() &&
            (user != id || v == g_.node(id).operands[1] || m != from.back()))
          return "a value of the group is needed elsewhere";
    }
    return nullptr;
  }

  /// Whether pixels of an image may be counted through, whatever their rows: all that the product's maps read and store
  /// lies as the result does, or is the same for all pixels.
  bool one_axis(const Group& product) const {
    LeafProbe probe(g_);
    const std::vector<loop::ValueId> full = probe.indices(product.full);
    for (NodeId m : product.members) {
      if (plan_.placed.contains(g_.node(m).result())) return false;
      if (m != product.members[0]) probe.compute(m, full);
    }
    for (const auto& leaf : probe.leaves) {
      const Dims& shape = g_.type(leaf.value).shape;
      if (shape == product.full ? leaf.index == full && !plan_.placed.contains(leaf.value) : same_for_pixels(shape))
        continue;
      return false;
    }
    return true;
  }
  static bool same_for_pixels(const Dims& shape) {
    return shape.size() < 2 || (shape.size() == 4 && shape[1].is(1) && shape[2].is(1)) ||
           std::all_of(shape.begin(), shape.end() - 1, [](const Dim& d) { return d.is(1); });
  }

  /// Decides for each product whose left operand a group that `which` says makes; `refusal` is given the product's node
  /// and group, and the other group.
  template <class Which, class Refusal>
  void decide_products(Which which, Refusal refusal) {
    for (std::size_t i = 0; i < plan_.groups.size(); ++i) {
      const GroupId gid(i);
      const Group& group = plan_.groups[gid];
      if (group.kind != GroupKind::contraction || group.members.empty()) continue;
      const NodeId id = group.members[0];
      if (g_.node(id).op->name != "dot_general") continue;
      const GroupId from = plan_.group_of[g_.value(g_.node(id).operands[0]).node.index];
      if (!from || !which(plan_.groups[from])) continue;
      decide(gid, from, id, "product", refusal(id, group, plan_.groups[from]));
    }
  }

  const Graph& g_;
  Plan& plan_;
  Users users_;
  std::vector<bool> output_;
  std::vector<BlockFusion> found_;
};

class BlockFinder : Finder {
 public:
  BlockFinder(const Graph& g, Plan& plan) : Finder(g, plan) {}

  std::vector<BlockFusion> run() {
    for (NodeId id : g_.node_ids()) {
      GroupId gid = plan_.group_of[id.index];
      if (!gid || plan_.groups[gid].kind != GroupKind::own || plan_.groups[gid].members[0] != id ||
          g_.node(id).op->name != "depthwise")
        continue;
      GroupId from = plan_.group_of[g_.value(g_.node(id).operands[0]).node.index];
      if (!from || plan_.groups[from].kind != GroupKind::contraction) continue;
      decide(gid, from, id, "depthwise", refusal(id, from));
    }
    return std::move(found_);
  }

 private:
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

/// Bytes of a row of scaled pixels at most, and additions that scaling one is worth: each part of the columns does it.
constexpr std::int64_t max_row_bytes = 256 << 10, max_scale_cost = 16;

/// Scales of squeeze-and-excite blocks and the like.
class ScaleFinder : Finder {
 public:
  ScaleFinder(const Graph& g, Plan& plan) : Finder(g, plan) {}

  std::vector<BlockFusion> run() {
    decide_products([&](const Group& from) { return from.kind == GroupKind::map && of_window(from); },
                    [&](NodeId id, const Group& product, const Group& from) { return refusal(id, product, from); });
    return std::move(found_);
  }

 private:
  /// The maps read what a kernel for windows makes. (Those are for CPUs alone.)
  bool of_window(const Group& maps) const {
    for (NodeId m : maps.members)
      for (ValueId v : g_.node(m).operands) {
        const GroupId gid = v ? plan_.group_of[g_.value(v).node.index] : GroupId{};
        if (!gid || plan_.groups[gid].kind != GroupKind::own || g_.type(v).shape != maps.full) continue;
        const std::string_view op = g_.node(plan_.groups[gid].members[0]).op->name;
        if (op == "depthwise" || op == "winograd") return true;
      }
    return false;
  }

  const char* refusal(NodeId id, const Group& product, const Group& maps) const {
    const Type& x = g_.type(g_.node(id).operands[0]);
    if (const char* why = no_image(id, maps.members)) return why;
    std::int64_t cost = 0;
    for (NodeId m : maps.members) cost += g_.node(m).op->cost;
    if (cost > max_scale_cost) return "the maps are too much to be computed for each part of the columns";
    if (x.shape[2].value() * x.shape[3].value() * static_cast<std::int64_t>(dtype_bytes(x.dtype)) > max_row_bytes)
      return "a row does not fit into the cache";
    return one_axis(product) ? nullptr : "the product's rows are not read as one axis";
  }
};

}  // namespace

namespace {

/// Projections of mobile blocks: what the kernel of a depthwise convolution makes is all that they read.
class ProjectionFinder : Finder {
 public:
  ProjectionFinder(const Graph& g, Plan& plan, const TargetSpec& target) : Finder(g, plan), target_(target) {}

  std::vector<BlockFusion> run() {
    decide_products(
        [&](const Group& from) {
          return from.kind == GroupKind::own && g_.node(from.members[0]).op->name == "depthwise";
        },
        [&](NodeId id, const Group& product, const Group& from) { return refusal(id, product, from); });
    return std::move(found_);
  }

 private:
  const TargetSpec& target_;

  const char* refusal(NodeId id, const Group& product, const Group& from) const {
    if (const char* why = no_image(id, from.members)) return why;
    if (!one_axis(product)) return "the product's rows are not read as one axis";
    std::vector<NodeId> before = from.before;
    before.insert(before.end(), from.members.begin(), from.members.end());
    return block_cut(g_, id, before, target_) ? nullptr : "a kernel for each is faster";
  }
};

}  // namespace

std::vector<BlockFusion> find_projections(const Graph& g, Plan& plan, const TargetSpec& target) {
  return ProjectionFinder(g, plan, target).run();
}

std::vector<BlockFusion> find_scaled_products(const Graph& g, Plan& plan) { return ScaleFinder(g, plan).run(); }

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

/// The one product that makes `x` together with maps that nothing else reads; `cost` of the maps.
NodeId product_of(const Graph& g, ValueId x, const std::vector<int>& uses, std::int64_t& cost) {
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
    cost += n.op->cost;
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
    std::int64_t cost = 0;
    const NodeId product = product_of(g, g.node(id).operands[0], uses, cost);
    if (!product) continue;
    const ContractionSizes sizes = product_sizes(g, g.node(product), target);
    const std::size_t bytes = dtype_bytes(g.type(g.node(id).result()).dtype);
    if (sizes.depth)
      panels[product] = pick_cut(depthwise_sizes(describe_depthwise(NodeView{g, id}), bytes, *sizes.depth, cost),
                                 std::nullopt, target)
                            .width;
  }
  return panels;
}

std::vector<BlockFusion> find_blocks(const Graph& g, Plan& plan) { return BlockFinder(g, plan).run(); }

}  // namespace ag::passes

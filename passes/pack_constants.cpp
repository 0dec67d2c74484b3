// Lays constant right-hand sides of products out in panels, [N / width][K][width], so that a product reads each panel
// as one stream of whole registers. The product reads the panels through views (transpose, reshape, slice), whose
// indices stay simple within a panel; the width is that of the schedule's register tile (contraction_model.hpp). The
// last panel is padded with zeros, which nobody reads. Values are copied, never computed with: every bit is kept.
#include <algorithm>
#include <map>
#include <numeric>

#include "ir/op.hpp"
#include "passes/constants.hpp"
#include "passes/depthwise.hpp"
#include "passes/pack_constants.hpp"
#include "passes/panels.hpp"
#include "passes/rebuild.hpp"
#include "passes/strided_view.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

/// Elements from which a copy pays.
constexpr Int min_elements = 2048;

/// A constant seen through views: its elements by strides.
struct ConstantView {
  LiteralPtr literal;
  Ints shape, strides;
};

std::optional<ConstantView> constant_view(const Graph& g, ValueId v) {
  auto view = strided_view(g, v);
  if (!view || !view->whole) return std::nullopt;
  const Node& n = g.def(view->source);
  const LiteralPtr* literal = n.attrs.get<LiteralPtr>("value");
  if (!literal || !n.operands.empty()) return std::nullopt;
  const bool plain = (*literal)->form != Literal::Form::splat && !n.attrs.get_or<bool>("trainable", false);
  if (!plain) return std::nullopt;
  return ConstantView{*literal, std::move(view->shape), std::move(view->strides)};
}

class Packer {
 public:
  Packer(const Graph& g, PassContext& context)
      : g_(g), context_(context), target_(context.target), out_(empty_like(g)), b_(out_) {}

  Graph run() {
    map_.resize(g_.value_count());
    if (context_.fuse) depthwise_panels_ = depthwise_panels(g_, target_);
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (n.op->name == "dot_general" && product(id)) continue;
      copy_node(b_, g_, id, map_);
    }
    map_signature(g_, map_, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  PassContext& context_;
  const TargetSpec& target_;
  Graph out_;
  GraphBuilder b_;
  ValueMap map_;
  using Key = std::tuple<const Literal*, Ints, Ints, Ints, Ints>;
  std::unordered_map<NodeId, Int> depthwise_panels_;
  std::map<Key, ValueId> packed_;  // panels that are there already, whatever their width

  /// The product of `id` with its constant in panels, if it has one that gains by it.
  bool product(NodeId id) {
    const Node& n = g_.node(id);
    auto view = constant_view(g_, n.operands[1]);
    if (!view || !is_float(view->literal->dtype) || is_storage(view->literal->dtype)) return false;
    const auto [batch, contract, free] = right_axes(g_, n, static_cast<int>(view->shape.size()));
    if (contract.empty()) return false;
    if (free.empty()) return false;
    auto at = [](const Ints& from, Int i) { return from[static_cast<std::size_t>(i)]; };
    Int columns = at(view->shape, free.back()), step = at(view->strides, free.back()), depth = 1, elements = 1;
    for (Int d : contract) depth *= at(view->shape, d);
    for (Int s : view->shape) elements *= s;
    if (columns < 2 || depth < 2 || elements < min_elements) return false;
    const bool runs = few_side(g_, n, target_) == FewSide::columns;  // each column is a panel
    if (runs && at(view->strides, contract[0]) == 1) return false;
    const Int lanes = target_.lanes(dtype_bytes(view->literal->dtype));
    const Int width = runs ? 1 : std::min(panel_width(id), (columns + lanes - 1) / lanes * lanes);
    // One panel as it lies, unless its steps begin within lines of the cache.
    if (step == 1 && columns <= width && columns * static_cast<Int>(dtype_bytes(view->literal->dtype)) % 64 == 0)
      return false;
    Ints outer = batch;
    outer.insert(outer.end(), free.begin(), free.end() - 1);
    ValueId panels = constant_panels(*view, outer, contract, free.back(), width);
    b_.set_origin(n.locs, n.grad_of ? map_[n.grad_of.index] : ValueId{});
    ValueId z = product_of_panels(b_, g_, id, map_[n.operands[0].index], panels);
    bind(g_, n.result(), out_, z, map_);
    return true;
  }

  /// That of the tile that the schedule, or the kernel that takes the product in, will choose.
  Int panel_width(NodeId id) const {
    if (auto it = depthwise_panels_.find(id); it != depthwise_panels_.end()) return it->second;
    const ContractionSizes sizes = product_sizes(g_, g_.node(id), target_);
    return pick_tile(sizes, target_).registers * sizes.lanes;
  }

  ValueId constant_panels(const ConstantView& v, const Ints& outer, const Ints& contract, Int column, Int width) {
    Key key{v.literal.get(), v.strides, outer, contract, {column, width == 1}};
    if (auto it = packed_.find(key); it != packed_.end()) return it->second;
    return packed_[key] =
               b_.constant(make_panels(v.literal, {v.shape, v.strides, outer, contract, column, width}, context_));
  }
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (context.target.kind != TargetSpec::Kind::cpu) return copy_if(g, [](NodeId) { return true; });
  return Packer(g, context).run();
}

}  // namespace

const Pass pack_constants = {
    .name = "pack_constants", .summary = "lay constant operands of products out in panels", .on_graph = run};

}  // namespace ag::passes

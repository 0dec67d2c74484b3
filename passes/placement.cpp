#include "passes/placement.hpp"

#include <algorithm>

#include "passes/attention.hpp"
#include "passes/lower_own.hpp"
#include "passes/users.hpp"

namespace ag::passes {
namespace {

/// The memory `within` that elements of `shape` lie in, as another shape of them sees it: axes that are split or merged
/// leave room at their outermost part alone. Nothing if that is no whole number.
std::optional<Dims> room_of(const Dims& shape, const Dims& within, const Dims& to) {
  Dims room = to;
  std::size_t i = 0, j = 0;
  while (i < shape.size() || j < to.size()) {  // the shortest runs of axes with equal products
    const std::size_t i0 = i, j0 = j;
    Dim a = i < shape.size() ? shape[i++] : Dim(1), b = j < to.size() ? to[j++] : Dim(1);
    while (a != b) {
      if (!a.is_const() || !b.is_const()) return std::nullopt;
      if (a.value() < b.value() && i < shape.size())
        a = a * shape[i++];
      else if (b.value() < a.value() && j < to.size())
        b = b * to[j++];
      else
        return std::nullopt;
    }
    Dim all = 1, inner = 1;
    for (std::size_t d = i0; d < i; ++d) {
      if (d > i0 && within[d] != shape[d]) return std::nullopt;
      all = all * within[d];
    }
    if (all == a) continue;
    for (std::size_t d = j0 + 1; d < j; ++d) inner = inner * to[d];
    if (j == j0 || !mod(all, inner).is(0)) return std::nullopt;
    room[j0] = floordiv(all, inner);
  }
  return room;
}

class Placer {
 public:
  Placer(const Graph& g, const std::vector<bool>& live, Plan& plan) : g_(g), live_(live), plan_(plan) {}

  void run() {
    std::vector<NodeId> concats, pads;
    for (NodeId id : g_.node_ids()) {
      if (live_[id.index] && concat_by_parts(g_, id)) concats.push_back(id);
      if (live_[id.index] && g_.node(id).op->name == "pad") pads.push_back(id);
    }
    if (concats.empty() && pads.empty()) return;
    std::reverse(concats.begin(), concats.end());  // of unknown sizes, what holds another comes first too
    users_ = users_of(g_, live_);
    output_ = output_values(g_);
    auto elems = [&](NodeId id) {
      const Dim n = g_.type(g_.node(id).result()).elems();
      return n.is_const() ? n.value() : 0;
    };
    std::stable_sort(concats.begin(), concats.end(), [&](NodeId a, NodeId b) { return elems(a) > elems(b); });
    auto joined = [&](ValueId v) {
      return std::any_of(users_[v.index].begin(), users_[v.index].end(),
                         [&](NodeId user) { return g_.node(user).op->name == "concat"; });
    };
    for (NodeId id : pads)  // a concat that is padded is put together there
      if (!joined(g_.node(id).operands[0])) halo(id);
    for (NodeId id : concats)
      if (!view(id)) join(id);
    for (NodeId id : pads)
      if (!plan_.joined.contains(id)) halo(id);
  }

 private:
  const Graph& g_;
  const std::vector<bool>& live_;
  Plan& plan_;
  Users users_;
  std::vector<bool> output_;

  std::size_t axis(NodeId concat) const {
    const auto axis = g_.node(concat).attrs.get_or<std::int64_t>("axis", 0);
    return static_cast<std::size_t>(axis < 0 ? axis + g_.type(g_.node(concat).result()).rank() : axis);
  }

  /// Kernels that ask KernelMemory for addresses.
  bool follows(NodeId id) const {
    const OpInfo& op = *g_.node(id).op;
    if (is_attention(op)) return true;
    switch (op.lower_class) {
      case LowerClass::map:
      case LowerClass::reduce:
      case LowerClass::index:
      case LowerClass::contraction: return true;
      default: return false;
    }
  }

  /// Whether all that read `v`, through views too, find it wherever it lies.
  bool readers_follow(ValueId v) const {
    std::vector<ValueId> work{v};
    while (!work.empty()) {
      const ValueId x = work.back();
      work.pop_back();
      for (NodeId user : users_[x.index]) {
        if (!follows(user)) return false;
        if (is_virtual(g_, user)) work.push_back(g_.node(user).result());
      }
    }
    return true;
  }

  bool placeable(ValueId v) const {
    const NodeId id = g_.value(v).node;
    if (plan_.placed.contains(v) || plan_.joined.contains(id) || output_[v.index] || is_virtual(g_, id)) return false;
    if (g_.node(id).result_count != 1 && !is_attention(*g_.node(id).op)) return false;
    return (follows(id) || g_.node(id).op->name == "winograd") && readers_follow(v);
  }

  /// Where operand `i` of a concat belongs: in the result, or where that itself is placed.
  std::vector<Placement> places(NodeId concat) const {
    const ValueId result = g_.node(concat).result();
    const auto at = plan_.placed.find(result);
    Placement next = at == plan_.placed.end() ? Placement{result, 0, g_.type(result).shape} : at->second;
    Dim stride = 1;
    for (std::size_t d = axis(concat) + 1; d < next.within.size(); ++d) stride = stride * next.within[d];
    std::vector<Placement> out;
    for (ValueId v : g_.node(concat).operands) {
      out.push_back(next);
      next.begin = next.begin + g_.type(v).shape[axis(concat)] * stride;
    }
    return out;
  }

  /// All operands lie side by side in a larger result already.
  bool view(NodeId concat) {
    const Node& n = g_.node(concat);
    const auto first = plan_.placed.find(n.operands[0]);
    if (first == plan_.placed.end() || !placeable(n.result())) return false;
    plan_.placed.emplace(n.result(), Placement(first->second));
    const std::vector<Placement> wanted = places(concat);
    for (std::size_t i = 0; i < n.operands.size(); ++i) {
      const auto at = plan_.placed.find(n.operands[i]);
      if (at != plan_.placed.end() && at->second.root == wanted[i].root && at->second.begin == wanted[i].begin &&
          at->second.within == wanted[i].within)
        continue;
      plan_.placed.erase(n.result());
      return false;
    }
    plan_.joined.insert(concat);
    return true;
  }

  /// Computes what is padded inside its padding. Not where that is about as much as what it is put around, nor where a
  /// map computes the padded value as it reads it.
  void halo(NodeId pad) {
    const Node& n = g_.node(pad);
    const ValueId v = n.operands[0], result = n.result();
    const auto low = pads_around(g_, pad);
    if (!low || !placeable(v)) return;
    const Dim all = g_.type(result).elems(), own = g_.type(v).elems();
    if (all.is_const() && own.is_const() && all.value() - own.value() > own.value() / 2) return;
    for (NodeId user : users_[result.index])
      if (g_.node(user).op->lower_class == LowerClass::map) return;
    const auto at = plan_.placed.find(result);
    Placement inside = at == plan_.placed.end() ? Placement{result, 0, g_.type(result).shape} : at->second;
    Dim stride = 1;
    for (std::size_t d = inside.within.size(); d-- > 0; stride = stride * inside.within[d])
      inside.begin = inside.begin + (*low)[d] * stride;
    plan_.placed.emplace(v, std::move(inside));
    plan_.joined.insert(pad);
  }

  /// Computes operands in place. Others are copied; not, where a map over the result could read them as it is computed.
  void join(NodeId concat) {
    const Node& n = g_.node(concat);
    const std::vector<Placement> wanted = places(concat);
    std::vector<std::pair<ValueId, Placement>> found;
    std::vector<ValueId> sources;
    for (ValueId v : n.operands) sources.push_back(placed_source(g_, v));
    Dim there = 0;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const ValueId v = sources[i];
      if (std::count(sources.begin(), sources.end(), v) != 1 || !placeable(v)) continue;
      auto room = room_of(g_.type(n.operands[i]).shape, wanted[i].within, g_.type(v).shape);
      if (!room) continue;
      found.emplace_back(v, Placement{wanted[i].root, wanted[i].begin, std::move(*room)});
      there = there + g_.type(v).elems();
    }
    if (found.size() < n.operands.size()) {
      const Dim all = g_.type(n.result()).elems();
      const auto& users = users_[n.result().index];
      const bool mapped = std::any_of(users.begin(), users.end(), [&](NodeId user) {
        return g_.node(user).op->lower_class == LowerClass::map &&
               g_.type(g_.node(user).result()).shape == g_.type(n.result()).shape;
      });
      if (mapped || !there.is_const() || !all.is_const() || 2 * there.value() < all.value()) return;
    }
    for (auto& [v, at] : found) plan_.placed.emplace(v, std::move(at));
    plan_.joined.insert(concat);
  }
};

}  // namespace

void place_values(const Graph& g, const std::vector<bool>& live, Plan& plan) { Placer(g, live, plan).run(); }

ValueId placed_source(const Graph& g, ValueId v) {
  while (g.def(v).op->name == "reshape" && is_virtual(g, g.value(v).node)) v = g.def(v).operands[0];
  return v;
}

const Placement* KernelMemory::placement(ValueId v) const {
  if (!plan_) return nullptr;
  const auto at = plan_->placed.find(v);
  return at == plan_->placed.end() ? nullptr : &at->second;
}

loop::BufferId KernelMemory::param(ValueId v, loop::Access access) {
  kernel_.buffers.push_back(v);
  const Placement* at = placement(v);
  if (at && !at->begin.is(0) && !begin_.contains(v)) {
    const std::string name = "begin." + std::to_string(begin_.size());
    begin_.emplace(v, b_.dim_param(name));
    kernel_.dims.push_back(at->begin);
  }
  return b_.param(g_.type(v).dtype, g_.type(at ? at->root : v).elems(), access);
}

loop::ValueId KernelMemory::address(ValueId v, std::span<const loop::ValueId> index) {
  const Placement* at = placement(v);
  loop::ValueId i = linear_index(b_, g_.type(v).shape, index, at ? at->within : g_.type(v).shape);
  const auto begin = begin_.find(v);
  return begin == begin_.end() ? i : b_.add(begin->second, i);
}

}  // namespace ag::passes

// Which nodes share a kernel.
//
// Cost model. A kernel reads each value it needs from memory once and writes each value that others need once; what
// runs between is cheap beside that (storing and loading an f32 costs what a GELU costs). So:
//  * A node joins the group of a producer whenever its elements are computed at the same place of the same space: that
//    saves a read of the value, and the write as well if nobody else needs it. Of several producers the latest wins.
//  * Where a node uses values of several groups over one space that do not depend on each other, the groups become one:
//    again each value saved is a write and a read, and nothing is computed that was not computed before.
//  * No node is computed in two kernels. Only index maps and constants (virtual nodes) are repeated where they are
//    used; in a kernel of several passes over a row, a value is kept in cache from the pass that computes it unless it
//    takes fewer operations than a load and a store (keep_cost in lower_kernel.cpp).
//  * A reduction is refused where it would leave too few independent rows for threads and lanes.
// Each node is tried with the groups of its direct producers only, and order between groups is kept as bit sets, so
// the work is near-linear in the nodes.
#include <algorithm>
#include <functional>
#include <set>

#include "ir/symbols.hpp"
#include "passes/depthwise.hpp"
#include "passes/element.hpp"
#include "passes/lower_own.hpp"
#include "passes/placement.hpp"
#include "passes/plan.hpp"
#include "passes/reach.hpp"
#include "passes/rebuild.hpp"
#include "passes/users.hpp"

namespace ag::passes {

namespace {

/// A value that shall lie in memory, apart from the kernels that read it.
bool is_apart(const Graph& g, NodeId id) {
  const Node& n = g.node(id);
  return n.op->name == "materialize" && n.attrs.get_or<bool>("apart", false);
}

/// A kernel of its own computes the value, and takes nothing more: it lies in memory.
bool is_stored_alone(const Graph& g, ValueId v) {
  const OpInfo& op = *g.def(v).op;
  switch (op.lower_class) {
    case LowerClass::scatter:
    case LowerClass::cumulative:
    case LowerClass::window:
    case LowerClass::sort:
    case LowerClass::control: return !takes_members(op);
    default: return false;
  }
}

}  // namespace

bool is_virtual(const Graph& g, NodeId id) {
  const OpInfo& op = *g.node(id).op;
  if (op.lower_class == LowerClass::source) return true;
  if (op.lower_class != LowerClass::index) return false;
  return op.inlined || (is_apart(g, id) && is_stored_alone(g, g.node(id).operands[0]));
}

std::vector<loop::ValueId> index_in_space(const Group& group, const Dims& shape, Space space,
                                          const std::vector<loop::ValueId>& full, loop::ValueId zero) {
  auto reduced = [&](std::size_t d) {
    return std::binary_search(group.axes.begin(), group.axes.end(), static_cast<int>(d));
  };
  std::vector<loop::ValueId> index;
  if (space == Space::full) return shape == group.full ? full : index;
  Dims outer;
  for (std::size_t d = 0; d < group.full.size(); ++d)
    if (!reduced(d)) outer.push_back(group.full[d]);
  if (shape == outer) {
    for (std::size_t d = 0; d < full.size(); ++d)
      if (!reduced(d)) index.push_back(full[d]);
    return index;
  }
  if (shape.size() != group.full.size()) return {};
  for (std::size_t d = 0; d < shape.size(); ++d) {  // reduced axes kept with size one
    if (reduced(d) ? !shape[d].is(1) : shape[d] != group.full[d]) return {};
    index.push_back(reduced(d) ? zero : full[d]);
  }
  return index;
}

/// Along the last axis lanes share a sum; then only sums of everything are taken in parts. Sums over leading axes have
/// lanes side by side, and parts of some 64 Ki elements.
std::optional<Dim> terms_per_part(const Dims& full, const std::vector<int>& axes) {
  Dim terms = 1, results = 1;
  bool along_last = false;
  for (std::size_t d = 0; d < full.size(); ++d) {
    bool reduced = std::binary_search(axes.begin(), axes.end(), static_cast<int>(d));
    (reduced ? terms : results) = (reduced ? terms : results) * full[d];
    if (!full[d].is(1)) along_last = reduced;
  }
  if (along_last && !results.is(1)) return std::nullopt;
  constexpr std::int64_t fewest = 64;
  Dim part = along_last ? Dim(1 << 14) : max(floordiv(Dim(1 << 16), max(results, Dim(1))), Dim(fewest));
  if (terms.is_const() && terms.value() <= (part.is_const() ? part.value() : fewest)) return std::nullopt;
  return part;
}

namespace {

constexpr std::size_t max_members = 64;
// In units of an addition (OpInfo::cost). What is longer runs no faster for being one kernel, and LLVM's time grows
// faster than the kernel: a chain of sines becomes several equal kernels.
constexpr int max_cost = 160;

class Planner {
 public:
  Planner(const Graph& g, bool fuse, const TargetSpec& target) : g_(g), fuse_(fuse), target_(target) {
    plan_.group_of.resize(g.node_count());
    plan_.space.resize(g.node_count(), Space::full);
    plan_.stored.resize(g.value_count());
  }

  Plan run() {
    live_ = live_nodes(g_);
    if (fuse_) place_values(g_, live_, plan_);
    find_sizes();
    if (fuse_) find_users();
    for (NodeId id : g_.node_ids()) {
      if (!live_[id.index] || is_virtual(g_, id)) continue;
      if (!fuse_ || !join_a_producer(id)) start_group(id);
    }
    if (fuse_) fuse_blocks();
    mark_stored();
    order_groups();
    return std::move(plan_);
  }

 private:
  const Graph& g_;
  bool fuse_;
  const TargetSpec& target_;
  Plan plan_;
  std::vector<bool> live_;
  Reachability order_;  // of groups
  std::vector<bool> merged_away_;  // by group

  // By node: nodes that tell the sizes that only the data know, of it and of the virtual values it is computed through.
  std::vector<std::vector<NodeId>> sizes_;

  void find_sizes() {
    sizes_.resize(g_.node_count());
    const auto definitions = unbacked_definitions(g_);
    if (definitions.empty()) return;
    for (NodeId id : g_.node_ids()) {
      std::set<NodeId> from;
      for (const std::string& s : unbacked_symbols(g_, id))
        if (auto d = definitions.find(s); d != definitions.end() && d->second < id) from.insert(d->second);
      for (ValueId v : g_.node(id).operands)
        if (NodeId p = v ? g_.value(v).node : NodeId{}; p && is_virtual(g_, p))
          from.insert(sizes_[p.index].begin(), sizes_[p.index].end());
      sizes_[id.index].assign(from.begin(), from.end());
    }
  }

  /// Adds the groups that must have run before the node's sizes are known.
  void add_size_groups(NodeId id, std::vector<GroupId>& groups) const {
    for (NodeId d : sizes_[id.index]) {
      GroupId gid = plan_.group_of[d.index];
      if (gid && std::find(groups.begin(), groups.end(), gid) == groups.end()) groups.push_back(gid);
    }
  }

  LowerClass cls(NodeId id) const { return g_.node(id).op->lower_class; }

  // -- leaves of a node's operands --------------------------------------------------------------------------
  /// The shape whose index space the node is computed in: its result's, or a reduction's operand's.
  const Dims& domain(NodeId id) const {
    const Node& n = g_.node(id);
    return cls(id) == LowerClass::reduce ? g_.type(n.operands[0]).shape : g_.type(n.result()).shape;
  }

  std::vector<LeafProbe::Leaf> leaves(LeafProbe& probe, NodeId id, const std::vector<loop::ValueId>& index) const {
    probe.leaves.clear();
    const Node& n = g_.node(id);
    if (cls(id) == LowerClass::reduce) {
      probe.element(n.operands[0], index);
    } else if (cls(id) == LowerClass::map || cls(id) == LowerClass::index) {
      probe.compute(id, index);
    } else {
      for (ValueId v : n.operands)
        if (v) probe.element(v, probe.indices(g_.type(v).shape));
    }
    return std::move(probe.leaves);
  }

  /// Groups that values used by a node come from.
  std::vector<GroupId> producer_groups(const std::vector<LeafProbe::Leaf>& leaves) const {
    std::vector<GroupId> groups;
    for (const auto& leaf : leaves) {
      GroupId gid = plan_.group_of[g_.value(leaf.value).node.index];
      if (gid && std::find(groups.begin(), groups.end(), gid) == groups.end()) groups.push_back(gid);
    }
    return groups;
  }

  // -- joining --------------------------------------------------------------------------------------------------
  bool join_a_producer(NodeId id) {
    LowerClass c = cls(id);
    if (c != LowerClass::map && c != LowerClass::reduce && c != LowerClass::index) return false;
    if (concat_by_parts(g_, id) || plan_.joined.contains(id)) return false;
    LeafProbe probe(g_);
    std::vector<LeafProbe::Leaf> found = leaves(probe, id, probe.indices(domain(id)));
    std::vector<GroupId> candidates = producer_groups(found), producers = candidates;
    add_size_groups(id, producers);
    // The latest group first: the value is most likely to be in registers there.
    std::sort(candidates.rbegin(), candidates.rend());
    for (GroupId gid : candidates)
      if (try_join(id, gid, producers)) return true;
    return false;
  }

  bool try_join(NodeId id, GroupId gid, const std::vector<GroupId>& producers) {
    Group& group = plan_.groups[gid];
    const std::string pair = std::string(g_.node(id).op->name) + " %" + std::to_string(g_.node(id).result().index) +
                             " into group " + std::to_string(gid.index) + ": ";
    auto no = [&](const char* why) {
      plan_.notes.push_back(pair + "no, " + why);
      return false;
    };
    if (!open(group)) return no("its group takes no members");
    if (group.members.size() >= max_members || cost(group) + g_.node(id).op->cost > max_cost)
      return no("the group is full");
    for (GroupId p : producers)
      if (p != gid && order_.before(gid.index, p.index)) return no("another operand depends on the group");
    Space space = Space::full;
    std::vector<int> axes;
    if (cls(id) == LowerClass::reduce) {
      axes = g_.node(id).op->reduce(NodeView{g_, id}).axes;
      if (group.kind == GroupKind::contraction || group.kind == GroupKind::own)
        return no("a contraction or a kernel of its own takes no reduction");
      if (domain(id) != group.full) return no("the reduction ranges over another shape");
      if (group.kind == GroupKind::row && axes != group.axes) return no("the reduction has other axes");
      if (group.kind == GroupKind::map && !reduction_keeps_parallel(group, axes))
        return no("too few independent rows remain");
    } else {
      LeafProbe probe(g_);
      std::vector<loop::ValueId> full = probe.indices(group.full);
      const Dims& shape = g_.type(g_.node(id).result()).shape;
      if (shape == group.full)
        space = Space::full;
      else if (group.kind == GroupKind::row &&
               (shape.empty() || !index_in_space(group, shape, Space::outer, full, probe.builder().index(0)).empty()) &&
               fits_outer(group, shape))
        space = Space::outer;
      else
        return no("the shapes differ");
    }
    if (!aligned(id, gid, space)) return no("an operand in the group is used at another index");
    if (belongs_to_rows(id, gid)) return no("its operand is stored anyway, and kernels of reductions alone read it");
    if (space == Space::full && cls(id) != LowerClass::reduce && waits_for_parts(id, gid))
      return no("a reduction that it needs is taken in parts");
    plan_.notes.push_back(pair + "yes");
    if (cls(id) != LowerClass::reduce && space == Space::full) gid = merge_producers(id, gid, producers);
    accept(id, gid, space, axes, producers);
    return true;
  }

  // -- maps between a contraction and reductions ----------------------------------------------------------------
  Users users_;  // through views
  std::vector<bool> output_;

  void find_users() {
    users_ = users_of(g_, live_);
    output_ = output_values(g_);
    for (std::size_t i = g_.node_count(); i-- > 0;) {  // users of a view use what it is a view of
      const NodeId id(static_cast<std::uint32_t>(i));
      const Node& n = g_.node(id);
      if (!live_[i] || cls(id) != LowerClass::index || !is_virtual(g_, id)) continue;
      for (ValueId v : n.operands) {
        if (!v) continue;
        auto& users = users_[v.index];
        users.erase(std::remove(users.begin(), users.end(), id), users.end());
        users.insert(users.end(), users_[n.result().index].begin(), users_[n.result().index].end());
      }
    }
  }

  /// Whether all that a map is needed for, through further maps, are reductions.
  bool feeds_reductions(NodeId id) const {
    std::vector<NodeId> work{id};
    for (std::size_t i = 0; i < work.size(); ++i) {
      const ValueId v = g_.node(work[i]).result();
      if (i == max_members || output_[v.index] || users_[v.index].empty()) return false;
      const bool reduced = std::any_of(users_[v.index].begin(), users_[v.index].end(),
                                       [&](NodeId user) { return cls(user) == LowerClass::reduce; });
      if (reduced && i > 0) continue;
      for (NodeId user : users_[v.index]) {
        if (cls(user) == LowerClass::reduce) continue;
        if (cls(user) != LowerClass::map) return false;
        if (!reduced && std::find(work.begin(), work.end(), user) == work.end()) work.push_back(user);
      }
    }
    return true;
  }

  /// Whether a map of what a contraction stores anyway is better computed where it is reduced: there it is not stored.
  bool belongs_to_rows(NodeId id, GroupId gid) const {
    const GroupKind kind = plan_.groups[gid].kind;
    if (cls(id) != LowerClass::map || (kind != GroupKind::contraction && kind != GroupKind::own)) return false;
    LeafProbe probe(g_);
    for (const auto& leaf : leaves(probe, id, probe.indices(domain(id)))) {
      if (plan_.group_of[g_.value(leaf.value).node.index] != gid || output_[leaf.value.index]) continue;
      const auto& users = users_[leaf.value.index];
      if (std::none_of(users.begin(), users.end(), [&](NodeId user) { return cls(user) == LowerClass::reduce; }))
        return false;
    }
    return feeds_reductions(id);
  }

  bool open(const Group& group) const {
    return group.kind == GroupKind::map || group.kind == GroupKind::row || group.kind == GroupKind::contraction ||
           (group.kind == GroupKind::own && takes_members(*g_.node(group.members[0]).op) &&
            !plan_.joined.contains(group.members[0]));
  }

  int cost(const Group& group) const {
    int sum = 0;
    for (NodeId member : group.members) sum += g_.node(member).op->cost;
    return sum;
  }

  static bool fits_outer(const Group& group, const Dims& shape) {
    std::size_t outer = group.full.size() - group.axes.size();
    return shape.size() == outer || shape.size() == group.full.size();
  }

  /// The node needs the result of a reduction in the group that is a kernel of parts and one that combines them. (With
  /// sizes not known yet, the parts are taken one after the other instead.)
  bool waits_for_parts(NodeId id, GroupId gid) const {
    const Group& group = plan_.groups[gid];
    if (group.kind != GroupKind::row) return false;
    Dim terms = 1;
    for (int d : group.axes) terms = terms * group.full[d];
    if (!terms.is_const() || !terms_per_part(group.full, group.axes)) return false;
    LeafProbe probe(g_);
    for (const auto& leaf : leaves(probe, id, probe.indices(group.full))) {
      NodeId from = g_.value(leaf.value).node;
      if (plan_.group_of[from.index] == gid && plan_.space[from.index] == Space::outer) return true;
    }
    return false;
  }

  /// The size where each symbol is one: what sizes of any value are planned for.
  static std::int64_t at_least(const Dim& size) {
    std::set<std::string> symbols;
    size.collect_symbols(symbols);
    DimEnv ones;
    for (const std::string& s : symbols) ones.emplace(s, 1);
    return size.eval(ones).value_or(0);
  }

  /// A reduction over leading axes walks its rows serially: joining must not take away the parallelism of a map.
  static bool reduction_keeps_parallel(const Group& group, const std::vector<int>& axes) {
    std::size_t last = group.full.size();
    while (last > 0 && group.full[last - 1].is(1)) --last;
    Dim outer = 1;
    for (std::size_t d = 0; d < group.full.size(); ++d)
      if (!std::binary_search(axes.begin(), axes.end(), static_cast<int>(d))) outer = outer * group.full[d];
    bool along_last = last > 0 && std::binary_search(axes.begin(), axes.end(), static_cast<int>(last - 1));
    if (terms_per_part(group.full, axes)) return true;
    return along_last ? !outer.is_const() || outer.value() >= 8 || group.full.empty() : at_least(outer) >= 256;
  }

  bool aligned(NodeId id, GroupId gid, Space space) {
    Group group = plan_.groups[gid];
    if (cls(id) == LowerClass::reduce && group.kind == GroupKind::map)
      group.axes = g_.node(id).op->reduce(NodeView{g_, id}).axes;
    LeafProbe probe(g_);
    std::vector<loop::ValueId> full = probe.indices(group.full);
    loop::ValueId zero = probe.builder().index(0);
    std::vector<loop::ValueId> at = cls(id) == LowerClass::reduce
                                        ? full
                                        : index_in_space(group, g_.type(g_.node(id).result()).shape, space, full, zero);
    for (const auto& leaf : leaves(probe, id, at)) {
      NodeId p = g_.value(leaf.value).node;
      if (plan_.group_of[p.index] != gid) continue;
      if (is_apart(g_, p)) return false;
      if (leaf.index != index_in_space(group, g_.type(leaf.value).shape, plan_.space[p.index], full, zero))
        return false;
      if (plan_.space[p.index] == Space::full && space == Space::outer) return false;
    }
    return true;
  }

  void accept(NodeId id, GroupId gid, Space space, const std::vector<int>& axes,
              const std::vector<GroupId>& producers) {
    Group& group = plan_.groups[gid];
    if (cls(id) == LowerClass::reduce) {
      group.kind = GroupKind::row;
      group.axes = axes;
      space = Space::outer;
    }
    group.members.push_back(id);
    plan_.group_of[id.index] = gid;
    plan_.space[id.index] = space;
    add_producers(gid, producers);
  }

  void start_group(NodeId id) {
    Group group;
    const Node& n = g_.node(id);
    switch (cls(id)) {
      case LowerClass::reduce:
        group.kind = GroupKind::row;
        group.axes = n.op->reduce(NodeView{g_, id}).axes;
        plan_.space[id.index] = Space::outer;
        break;
      case LowerClass::contraction: group.kind = GroupKind::contraction; break;
      case LowerClass::scatter:
      case LowerClass::cumulative:
      case LowerClass::window:
      case LowerClass::sort: group.kind = GroupKind::own; break;
      case LowerClass::map:
      case LowerClass::index: {
        const bool own = concat_by_parts(g_, id) || plan_.joined.contains(id);
        group.kind = own ? GroupKind::own : GroupKind::map;
        break;
      }
      default: group.kind = GroupKind::host; break;
    }
    if (n.result_count == 1) group.full = domain(id);
    group.members.push_back(id);
    LeafProbe probe(g_);
    bool simple = cls(id) == LowerClass::map || cls(id) == LowerClass::index || cls(id) == LowerClass::reduce;
    std::vector<GroupId> producers =
        producer_groups(leaves(probe, id, simple ? probe.indices(domain(id)) : std::vector<loop::ValueId>{}));
    add_size_groups(id, producers);
    GroupId gid = plan_.groups.push(std::move(group));
    plan_.group_of[id.index] = gid;
    new_group(gid, producers);
  }

  void new_group(GroupId gid, const std::vector<GroupId>& producers) {
    order_.push();
    merged_away_.push_back(false);
    add_producers(gid, producers);
  }

  void add_producers(GroupId gid, const std::vector<GroupId>& producers) {
    for (GroupId p : producers) order_.add(p.index, gid.index);
  }

  // -- merging --------------------------------------------------------------------------------------------------
  /// Groups over the space of `gid` that the node, which is about to join it, uses values of become one with it.
  GroupId merge_producers(NodeId id, GroupId gid, const std::vector<GroupId>& producers) {
    for (GroupId p : producers) {
      bool between = std::any_of(producers.begin(), producers.end(),
                                 [&](GroupId other) { return order_.before(p.index, other.index); });
      if (p == gid || merged_away_[p.index] || between || !mergeable(gid, p)) continue;
      if (!aligned(id, p, Space::full) || waits_for_parts(id, p)) continue;
      bool into_p = plan_.groups[gid].kind == GroupKind::map;
      GroupId from = into_p ? gid : p, into = into_p ? p : gid;
      plan_.notes.push_back("group " + std::to_string(from.index) + " into group " + std::to_string(into.index) +
                            ": yes, both feed " + std::string(g_.node(id).op->name) + " %" +
                            std::to_string(g_.node(id).result().index));
      merge(from, into);
      gid = into;
    }
    return gid;
  }

  bool mergeable(GroupId a, GroupId b) const {
    const Group &x = plan_.groups[a], &y = plan_.groups[b];
    auto takes = [](GroupKind k) { return k == GroupKind::map || k == GroupKind::row || k == GroupKind::contraction; };
    if (!takes(x.kind) || !takes(y.kind) || x.full != y.full) return false;
    if (x.members.size() + y.members.size() > max_members || cost(x) + cost(y) > max_cost) return false;
    bool one_map = x.kind == GroupKind::map || y.kind == GroupKind::map;
    bool same_rows = x.kind == GroupKind::row && y.kind == GroupKind::row && x.axes == y.axes;
    return (one_map || same_rows) && !order_.before(a.index, b.index) && !order_.before(b.index, a.index);
  }

  void merge(GroupId from, GroupId into) {
    Group &source = plan_.groups[from], &target = plan_.groups[into];
    target.members.insert(target.members.end(), source.members.begin(), source.members.end());
    // A contraction stands first, whatever feeds its epilogue.
    std::sort(target.members.begin() + (target.kind == GroupKind::contraction ? 1 : 0), target.members.end());
    for (NodeId id : source.members) plan_.group_of[id.index] = into;
    source.members.clear();
    order_.merge(from.index, into.index);
    merged_away_[from.index] = true;
  }

  /// Products that feed depthwise convolutions alone become part of their kernels, maps that feed products alone part
  /// of theirs. (Nothing else reads them, so no order between groups can be violated.)
  void fuse_blocks() {
    auto fuse = [&](const BlockFusion& f) {
      Group &from = plan_.groups[f.before], &kernel = plan_.groups[f.kernel];
      for (const auto& nodes : {from.before, from.members})
        for (NodeId id : nodes) plan_.group_of[id.index] = f.kernel;
      kernel.kind = GroupKind::own;
      kernel.before = std::move(from.before);
      kernel.before.insert(kernel.before.end(), from.members.begin(), from.members.end());
      from.members.clear();
      order_.merge(f.before.index, f.kernel.index);
      merged_away_[f.before.index] = true;
    };
    for (const BlockFusion& f : find_blocks(g_, plan_)) fuse(f);
    for (const BlockFusion& f : find_scaled_products(g_, plan_)) fuse(f);
    for (const BlockFusion& f : find_projections(g_, plan_, target_)) fuse(f);
  }

  // -- after grouping ----------------------------------------------------------------------------------------
  /// A member is stored if something outside its group needs it; a virtual value only if it is an output.
  void mark_stored() {
    for (ValueId v : g_.inputs) plan_.stored[v.index] = true;
    for (NodeId id : g_.node_ids()) {
      if (!live_[id.index] || is_virtual(g_, id)) continue;
      GroupId gid = plan_.group_of[id.index];
      bool simple = cls(id) == LowerClass::map || cls(id) == LowerClass::index || cls(id) == LowerClass::reduce;
      LeafProbe probe(g_);
      for (const auto& leaf : leaves(probe, id, simple ? probe.indices(domain(id)) : std::vector<loop::ValueId>{})) {
        NodeId p = g_.value(leaf.value).node;
        if (plan_.group_of[p.index] != gid) plan_.stored[leaf.value.index] = true;
      }
      GroupKind kind = plan_.groups[gid].kind;
      if (kind == GroupKind::host || (kind == GroupKind::own && !open(plan_.groups[gid]))) {
        if (kind == GroupKind::host)
          for (ValueId v : g_.node(id).operands)
            if (v) store_whole(v);
        for (std::uint32_t r = 0; r < g_.node(id).result_count; ++r) plan_.stored[g_.node(id).result(r).index] = true;
      }
    }
    for (const Output& o : g_.outputs) store_whole(o.value);
  }

  /// The value itself must lie in a buffer. A view or a splat gets a copy group.
  void store_whole(ValueId v) {
    NodeId id = g_.value(v).node;
    bool source = g_.node(id).op->lower_class == LowerClass::source;
    if (plan_.stored[v.index] && !source) return;
    plan_.stored[v.index] = true;
    if (source || !is_virtual(g_, id)) return;
    Group group;
    group.kind = GroupKind::copy;
    group.full = g_.type(v).shape;
    group.copy_source = v;
    LeafProbe probe(g_);
    probe.compute(id, probe.indices(group.full));
    std::vector<GroupId> producers = producer_groups(probe.leaves);
    for (const auto& leaf : probe.leaves) plan_.stored[leaf.value.index] = true;
    add_size_groups(id, producers);
    GroupId gid = plan_.groups.push(std::move(group));
    copies_.emplace_back(v, gid);
    new_group(gid, producers);
  }

  void order_groups() {
    // A host node that reads a copied view runs after the copy.
    for (NodeId id : g_.node_ids()) {
      GroupId gid = plan_.group_of[id.index];
      if (!gid || plan_.groups[gid].kind != GroupKind::host) continue;
      for (ValueId v : g_.node(id).operands)
        for (const auto& [copied, copy] : copies_)
          if (copied == v) add_producers(gid, {copy});
    }
    std::vector<std::size_t> depth(plan_.groups.size());
    for (std::size_t a = 0; a < depth.size(); ++a) {
      depth[a] = order_.depth(a);
      if (!merged_away_[a]) plan_.order.push_back(GroupId(a));
    }
    // A group has strictly more predecessors than each of its predecessors.
    std::stable_sort(plan_.order.begin(), plan_.order.end(),
                     [&](GroupId a, GroupId b) { return depth[a.index] < depth[b.index]; });
    delay_first(depth);
  }

  /// Groups that need inputs and parameters alone, such as filters transformed anew in each training step, run just
  /// before the first group that needs them: their results live no longer than they must, and are read from the cache.
  void delay_first(const std::vector<std::size_t>& depth) {
    std::vector<GroupId> waiting, order;
    auto run_those = [&](const std::function<bool(GroupId)>& which) {
      std::vector<GroupId> rest;
      for (GroupId w : waiting) (which(w) ? order : rest).push_back(w);
      waiting = std::move(rest);
    };
    for (GroupId id : plan_.order) {
      if (depth[id.index] == 0) {
        waiting.push_back(id);
        continue;
      }
      run_those([&](GroupId w) { return order_.before(w.index, id.index); });
      order.push_back(id);
    }
    run_those([](GroupId) { return true; });
    plan_.order = std::move(order);
  }

  std::vector<std::pair<ValueId, GroupId>> copies_;
};

}  // namespace

Plan make_plan(const Graph& g, bool fuse, const TargetSpec& target) { return Planner(g, fuse, target).run(); }

}  // namespace ag::passes

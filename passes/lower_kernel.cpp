#include "passes/lower_kernel.hpp"

#include <algorithm>

#include "ir/loop/abi.hpp"
#include "passes/lower_contraction.hpp"
#include "passes/placement.hpp"

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::BufferId;
using loop::ForOptions;
using loop::Mapping;
using LV = loop::ValueId;
using LVs = std::vector<loop::ValueId>;

/// Cost (additions, from what is in memory) from which a value that several passes over a row need is kept instead of
/// computed again.
constexpr int keep_cost = 4;

class KernelLowering : public ElementSource {
 public:
  KernelLowering(const Graph& g, const Plan& plan, GroupId gid, std::optional<std::int64_t> row_bytes = {})
      : g_(g),
        plan_(plan),
        group_(plan.groups[gid]),
        gid_(gid),
        row_bytes_(row_bytes),
        b_("k"),
        memory_(g, &plan, b_, out_) {}

  LoweredKernel run() {
    prepare();
    switch (group_.kind) {
      case GroupKind::map: map_kernel(); break;
      case GroupKind::copy: copy_kernel(group_.copy_source); break;
      case GroupKind::row: row_kernel(); break;
      case GroupKind::contraction: contraction_kernel(); break;
      default: AG_CHECK(false, "group has no kernel");
    }
    return finish();
  }

  LoweredKernel run_copy(ValueId from) {
    reads_.insert({from, memory_.param(from, loop::Access::read)});
    copy_kernel(from);
    return finish();
  }

  loop::Builder& builder() override { return b_; }
  const Graph& graph() const override { return g_; }

  LV leaf(ValueId v, std::span<const LV> index) override {
    NodeId id = g_.value(v).node;
    if (gid_ && plan_.group_of[id.index] == gid_ && group_.kind != GroupKind::copy) {
      AG_CHECK(LVs(index.begin(), index.end()) == index_of(id));
      return member(id);
    }
    auto it = reads_.find(v);
    AG_CHECK(it != reads_.end());
    return b_.load(it->second, memory_.address(v, index));
  }

  void origin(NodeId id) override { set_origin(id); }

  void trap(NodeId node, LV cond, std::uint32_t kind, LV detail) override {
    set_origin(node);
    b_.trap(cond, kind, detail);
  }

 private:
  const Graph& g_;
  const Plan& plan_;
  Group group_;
  GroupId gid_;
  std::optional<std::int64_t> row_bytes_;                     // left for rows kept in scratch memory
  loop::Builder b_;
  LoweredKernel out_;
  KernelMemory memory_;
  std::unordered_map<ValueId, BufferId> reads_, writes_;
  std::unordered_map<NodeId, std::vector<ValueId>> leaves_;   // of members: values outside and inside the group
  std::vector<std::unordered_map<NodeId, LV>> memo_;          // innermost scope last
  LVs at_;                                                    // current index in the full space
  std::unordered_map<NodeId, int> level_;
  std::unordered_map<NodeId, int> cost_;                      // of a member's element, from what is in memory
  std::unordered_map<NodeId, BufferId> kept_;                 // members that later phases read back
  int phase_ = 0;

  const Node& node(NodeId id) const { return g_.node(id); }
  LowerClass cls(NodeId id) const { return node(id).op->lower_class; }
  bool is_member(ValueId v) const { return plan_.group_of[g_.value(v).node.index] == gid_; }
  bool full_space(NodeId id) const { return plan_.space[id.index] == Space::full; }

  void set_origin(NodeId id) {
    auto it = std::find(out_.origins.begin(), out_.origins.end(), id);
    if (it == out_.origins.end()) it = out_.origins.insert(out_.origins.end(), id);
    b_.set_origin(static_cast<std::uint32_t>(it - out_.origins.begin()) + 1);
  }

  LV zero() { return b_.index(0); }
  LVs index_of(NodeId id) {
    if (cls(id) == LowerClass::contraction) return at_;
    Group group = group_;
    return index_in_space(group, g_.type(node(id).result()).shape, plan_.space[id.index], at_, zero());
  }

  // -- parameters -------------------------------------------------------------------------------------------
  void add_read(ValueId v) {
    if (reads_.contains(v)) return;
    reads_.emplace(v, memory_.param(v, loop::Access::read));
  }

  void prepare() {
    if (group_.kind == GroupKind::copy) {
      LeafProbe probe(g_);
      probe.compute(g_.value(group_.copy_source).node, probe.indices(group_.full));
      for (const auto& leaf : probe.leaves) add_read(leaf.value);
      return;
    }
    for (NodeId id : group_.members) {
      LeafProbe probe(g_);
      if (cls(id) == LowerClass::map || cls(id) == LowerClass::index)
        probe.compute(id, probe.indices(g_.type(node(id).result()).shape));
      else
        for (ValueId v : node(id).operands)
          if (v) probe.element(v, probe.indices(g_.type(v).shape));
      std::vector<ValueId>& used = leaves_[id];
      for (const auto& leaf : probe.leaves) {
        used.push_back(leaf.value);
        if (!is_member(leaf.value)) add_read(leaf.value);
      }
      out_.label += (out_.label.empty() ? "" : "+") + std::string(node(id).op->name);
    }
    if (group_.kind == GroupKind::row) assign_levels();
    for (NodeId id : group_.members) {
      ValueId v = node(id).result();
      if (!plan_.stored[v.index]) continue;
      auto access = read_back(id) ? loop::Access::read_write : loop::Access::write;
      writes_.emplace(v, memory_.param(v, access));
    }
  }

  LoweredKernel finish() {
    b_.set_origin(0);
    Dim elems = product(group_.full);
    int cost = 0;
    for (NodeId id : group_.members) cost += node(id).op->cost;
    loop::Kernel& k = b_.kernel();
    k.flops = elems * Dim(std::max(cost, 1));
    if (group_.kind == GroupKind::contraction) {
      ContractionDesc desc = node(group_.members[0]).op->contraction(NodeView{g_, group_.members[0]});
      Dim terms = 1;
      for (int d : desc.lhs_contract) terms = terms * g_.type(node(group_.members[0]).operands[0]).shape[d];
      k.flops = k.flops + elems * terms * Dim(2);
    }
    k.bytes = 0;
    for (ValueId v : out_.buffers)
      k.bytes = k.bytes + g_.type(v).elems() * Dim(static_cast<std::int64_t>(dtype_bytes(g_.type(v).dtype)));
    out_.kernel = std::move(b_).finish();
    return std::move(out_);
  }

  // -- members ----------------------------------------------------------------------------------------------
  LV member(NodeId id) {
    for (std::size_t i = memo_.size(); i-- > 0;)
      if (auto it = memo_[i].find(id); it != memo_[i].end()) return it->second;
    LV value;
    if (auto kept = kept_.find(id); kept != kept_.end() && level_[id] < phase_) {
      value = b_.load(kept->second, kept_index(id, kept->second));
    } else {
      LVs at = index_of(id);
      value = compute(id, at);
      set_origin(id);
    }
    memo_.back().emplace(id, value);
    return value;
  }

  void store(NodeId id) {
    ValueId v = node(id).result();
    auto it = writes_.find(v);
    if (it == writes_.end()) return;
    LV value = member(id);
    set_origin(id);
    b_.store(it->second, memory_.address(v, index_of(id)), value);
  }

  // -- loop nests -------------------------------------------------------------------------------------------
  /// Parallel loops over the given dims of the full space, outermost first; dims of size one need no loop.
  void nest(const std::vector<int>& dims, const std::vector<AxisRole>& roles, const std::function<void()>& body,
            std::size_t i = 0) {
    if (i == dims.size()) return body();
    int d = dims[i];
    if (group_.full[d].is(1)) {
      at_[d] = zero();
      return nest(dims, roles, body, i + 1);
    }
    b_.for_each(b_.dim(group_.full[d]), ForOptions{.mapping = Mapping::parallel, .role = roles[i]}, [&](LV iv) {
      at_[d] = iv;
      nest(dims, roles, body, i + 1);
    });
  }

  int last_real_dim(const std::vector<int>& dims) const {
    for (std::size_t i = dims.size(); i-- > 0;)
      if (!group_.full[dims[i]].is(1)) return static_cast<int>(i);
    return -1;
  }

  std::vector<int> all_dims() const {
    std::vector<int> dims;
    for (std::size_t d = 0; d < group_.full.size(); ++d) dims.push_back(static_cast<int>(d));
    return dims;
  }

  void map_kernel() {
    at_.assign(group_.full.size(), LV{});
    std::vector<int> dims = all_dims();
    std::vector<AxisRole> roles(dims.size(), AxisRole::batch);
    if (int last = last_real_dim(dims); last >= 0) roles[last] = AxisRole::col;
    nest(dims, roles, [&] {
      memo_.emplace_back();
      for (NodeId id : group_.members) store(id);
      memo_.pop_back();
    });
  }

  void copy_kernel(ValueId from) {
    const Type& t = g_.type(from);
    group_.full = t.shape;
    BufferId out = b_.param(t.dtype, t.elems(), loop::Access::write);
    out_.buffers.push_back(from);
    out_.label = "copy";
    at_.assign(t.shape.size(), LV{});
    std::vector<int> dims = all_dims();
    std::vector<AxisRole> roles(dims.size(), AxisRole::batch);
    if (int last = last_real_dim(dims); last >= 0) roles[last] = AxisRole::col;
    nest(dims, roles, [&] {
      LV value = group_.kind == GroupKind::copy ? element(from, at_) : leaf(from, at_);
      b_.store(out, linear_index(b_, t.shape, at_), value);
    });
  }

  // -- rows: maps and reductions over the same axes ------------------------------------------------------------
  bool reduced_dim(int d) const { return std::binary_search(group_.axes.begin(), group_.axes.end(), d); }

  /// Phase in which a member is computed: the first that uses it. A reduction's result is there one phase after its
  /// operand.
  void assign_levels() {
    for (NodeId id : group_.members) {
      int level = 0;
      for (ValueId v : leaves_[id])
        if (is_member(v)) level = std::max(level, level_[g_.value(v).node]);
      level_[id] = cls(id) == LowerClass::reduce ? level + 1 : level;
    }
    std::unordered_map<NodeId, int> first_use;
    for (std::size_t i = group_.members.size(); i-- > 0;) {
      NodeId id = group_.members[i];
      if (auto use = first_use.find(id); use != first_use.end() && full_space(id)) level_[id] = use->second;
      for (ValueId v : leaves_[id]) {
        if (!is_member(v)) continue;
        int phase = cls(id) == LowerClass::reduce ? level_[id] - 1 : level_[id];
        auto [it, fresh] = first_use.try_emplace(g_.value(v).node, phase);
        it->second = std::min(it->second, phase);
      }
    }
    assign_costs();
  }

  /// Cost of a member's element from what is in memory, values kept by an earlier phase included.
  void assign_costs() {
    for (NodeId id : group_.members) {
      int cost = node(id).op->cost;
      for (ValueId v : leaves_[id]) {
        NodeId from = g_.value(v).node;
        if (!is_member(v) || !full_space(from)) continue;
        bool kept = level_[from] < level_[id] && cost_[from] >= keep_cost;
        if (!kept) cost = std::min(cost + cost_[from], 1 << 20);
      }
      cost_[id] = cost;
    }
  }

  /// Members in the full space that phase `p` computes or reads back, from its roots backwards.
  std::vector<NodeId> needed_in(int p) const {
    std::vector<NodeId> needed;
    std::vector<NodeId> work;
    for (NodeId id : group_.members) {
      if (cls(id) == LowerClass::reduce) {
        if (level_.at(id) == p + 1)
          for (ValueId v : leaves_.at(id))
            if (is_member(v)) work.push_back(g_.value(v).node);
      } else if (full_space(id) && level_.at(id) == p && plan_.stored[node(id).result().index]) {
        work.push_back(id);
      }
    }
    while (!work.empty()) {
      NodeId id = work.back();
      work.pop_back();
      if (!full_space(id) || std::find(needed.begin(), needed.end(), id) != needed.end()) continue;
      needed.push_back(id);
      if (cost_.at(id) >= keep_cost && level_.at(id) < p) continue;  // read back
      auto it = leaves_.find(id);
      if (it == leaves_.end()) continue;
      for (ValueId v : it->second)
        if (is_member(v)) work.push_back(g_.value(v).node);
    }
    return needed;
  }

  int last_phase() const {
    int last = 0;
    for (NodeId id : group_.members)
      last = std::max(last, cls(id) == LowerClass::reduce ? level_.at(id) - 1 : full_space(id) ? level_.at(id) : 0);
    return last;
  }

  /// True if the member is expensive and a later phase needs it again.
  bool read_back(NodeId id) const {
    if (group_.kind != GroupKind::row || !full_space(id) || cost_.at(id) < keep_cost) return false;
    for (int p = level_.at(id) + 1; p <= last_phase(); ++p) {
      std::vector<NodeId> needed = needed_in(p);
      if (std::find(needed.begin(), needed.end(), id) != needed.end()) return true;
    }
    return false;
  }

  LV kept_index(NodeId id, BufferId buffer) {
    ValueId v = node(id).result();
    if (auto it = writes_.find(v); it != writes_.end() && it->second == buffer) return memory_.address(v, at_);
    Dims inner;
    LVs index;
    for (int d : group_.axes) {
      inner.push_back(group_.full[d]);
      index.push_back(at_[d]);
    }
    return linear_index(b_, inner, index);
  }

  bool may_keep(const Dim& bytes) {
    if (!row_bytes_) return true;
    if (!bytes.is_const() || bytes.value() > *row_bytes_) return false;
    *row_bytes_ -= bytes.value();
    return true;
  }

  void row_kernel() {
    std::vector<int> outer;
    for (int d : all_dims())
      if (!reduced_dim(d)) outer.push_back(d);
    std::vector<int> all = all_dims();
    int last = last_real_dim(all);
    bool lanes_inner = last >= 0 && reduced_dim(all[last]);
    for (NodeId id : group_.members) {
      if (!read_back(id)) continue;
      ValueId v = node(id).result();
      if (writes_.contains(v))
        kept_.emplace(id, writes_.at(v));
      else if (lanes_inner) {
        Dim inner = 1;
        for (int d : group_.axes) inner = inner * group_.full[d];
        if (may_keep(inner * Dim(static_cast<std::int64_t>(dtype_bytes(g_.type(v).dtype)))))
          kept_.emplace(id, b_.alloc(g_.type(v).dtype, inner, loop::Scope::scratch));
      }
    }
    at_.assign(group_.full.size(), LV{});
    std::vector<AxisRole> roles(outer.size(), AxisRole::batch);
    if (int i = last_real_dim(outer); i >= 0 && !lanes_inner) roles[i] = AxisRole::col;
    nest(outer, roles, [&] {
      memo_.emplace_back();
      for (phase_ = 0; phase_ <= last_phase(); ++phase_) {
        outer_members(phase_);
        phase(lanes_inner);
      }
      outer_members(phase_);
      for (NodeId id : group_.members)
        if (!full_space(id)) store(id);
      memo_.pop_back();
    });
  }

  void outer_members(int level) {
    for (NodeId id : group_.members)
      if (!full_space(id) && cls(id) != LowerClass::reduce && level_[id] == level) member(id);
  }

  void phase(bool lanes_inner) {
    std::vector<NodeId> reductions;
    bool stores = false;
    for (NodeId id : group_.members) {
      if (cls(id) == LowerClass::reduce && level_[id] == phase_ + 1) reductions.push_back(id);
      stores = stores ||
               (full_space(id) && level_[id] == phase_ && (writes_.contains(node(id).result()) || kept_.contains(id)));
    }
    if (reductions.empty() && !stores) return;
    LVs init;
    for (NodeId id : reductions) {
      DType acc = accumulator_dtype(g_.type(node(id).operands[0]).dtype);
      init.push_back(b_.constant_bits({acc, 1, 1}, loop::reduce_identity(kind_of(id), acc)));
    }
    ForOptions options{.mapping = reductions.empty() ? Mapping::parallel : Mapping::serial,
                       .role = AxisRole::reduce,
                       .reassociate = lanes_inner};
    std::vector<loop::Op> combine;
    for (NodeId id : reductions) combine.push_back(loop::reduce_op(kind_of(id)));
    LVs final = in_parts(lanes_inner, combine, init, options, [&](const LVs& carried) {
      memo_.emplace_back();
      for (NodeId id : group_.members)
        if (full_space(id) && level_[id] == phase_) keep_or_store(id);
      LVs next;
      for (std::size_t i = 0; i < reductions.size(); ++i) {
        NodeId id = reductions[i];
        LV x = element(node(id).operands[0], at_);
        set_origin(id);
        x = b_.cast(x, b_.type(carried[i]).elem);
        next.push_back(combined(id, carried[i], x));
      }
      memo_.pop_back();
      return next;
    });
    for (int d : group_.axes) at_[d] = zero();
    for (std::size_t i = 0; i < reductions.size(); ++i)
      memo_.back()[reductions[i]] = b_.cast(final[i], g_.type(node(reductions[i]).result()).dtype);
  }

  void keep_or_store(NodeId id) {
    ValueId v = node(id).result();
    if (writes_.contains(v)) return store(id);
    auto it = kept_.find(id);
    if (it == kept_.end()) return;
    LV value = member(id);
    b_.store(it->second, kept_index(id, it->second), value);
  }

  /// The accumulator after one more element. An extremum that need not see NaNs is one comparison.
  LV combined(NodeId id, LV accumulator, LV x) {
    const loop::ReduceKind kind = kind_of(id);
    const bool extremum = kind == loop::ReduceKind::max || kind == loop::ReduceKind::min;
    if (!extremum || !is_float(b_.type(x).elem) || !node(id).attrs.get_or<bool>("any_nan", false))
      return b_.op(loop::reduce_op(kind), {accumulator, x});
    const loop::Op better = kind == loop::ReduceKind::max ? loop::Op::cmp_gt : loop::Op::cmp_lt;
    return b_.select(b_.op(better, {x, accumulator}), x, accumulator);
  }

  loop::ReduceKind kind_of(NodeId id) const { return node(id).op->reduce(NodeView{g_, id}).kind; }

  /// The loops over the reduced axes; where there are several parts, each begins anew and is then combined with those
  /// before it. (The GPU has an order of its own.)
  LVs in_parts(bool lanes_inner, const std::vector<loop::Op>& combine, const LVs& init, const ForOptions& options,
               const std::function<LVs(const LVs&)>& body) {
    std::optional<Dim> terms = terms_per_part(group_.full, group_.axes);
    if (!terms || row_bytes_ || combine.empty()) return inner_loops(0, init, options, body);
    std::size_t first = 0;  // lanes along the last axis: parts are runs of the first; else of all axes as one
    while (group_.full[group_.axes[first]].is(1)) ++first;
    Dim size = 1, inner = 1;
    for (std::size_t i = first; i < group_.axes.size(); ++i) {
      size = size * group_.full[group_.axes[i]];
      if (i > first) inner = inner * group_.full[group_.axes[i]];
    }
    if (lanes_inner) size = group_.full[group_.axes[first]];
    if (lanes_inner) terms = max(floordiv(*terms, max(inner, Dim(1))), Dim(1));
    const ForOptions parts{.mapping = Mapping::serial, .role = AxisRole::batch};
    return b_.for_(zero(), b_.dim(ceildiv(size, *terms)), b_.index(1), parts, init, [&](LV part, const LVs& sums) {
      LV lo = b_.mul(part, b_.dim(*terms));
      LV hi = b_.op(loop::Op::min, {b_.add(lo, b_.dim(*terms)), b_.dim(size)});
      for (std::size_t i = 0; i < first; ++i) at_[group_.axes[i]] = zero();
      LVs mine = b_.for_(lo, hi, b_.index(1), options, init, [&](LV iv, const LVs& carried) {
        if (!lanes_inner) {
          decode_axes(iv, first);
          return body(carried);
        }
        at_[group_.axes[first]] = iv;
        return inner_loops(first + 1, carried, options, body);
      });
      LVs next;
      for (std::size_t i = 0; i < mine.size(); ++i) next.push_back(b_.op(combine[i], {sums[i], mine[i]}));
      return next;
    });
  }

  /// Indices along the reduced axes from `first` on, from their row-major number.
  void decode_axes(LV flat, std::size_t first) {
    for (std::size_t i = group_.axes.size(); i-- > first;) {
      const Dim& extent = group_.full[group_.axes[i]];
      if (extent.is(1)) {
        at_[group_.axes[i]] = zero();
        continue;
      }
      LV size = b_.dim(extent);
      at_[group_.axes[i]] = i == first ? flat : b_.op(loop::Op::rem, {flat, size});
      if (i > first) flat = b_.op(loop::Op::div, {flat, size});
    }
  }

  LVs inner_loops(std::size_t i, const LVs& init, const ForOptions& options,
                  const std::function<LVs(const LVs&)>& body) {
    if (i == group_.axes.size()) return body(init);
    int d = group_.axes[i];
    if (group_.full[d].is(1)) {
      at_[d] = zero();
      return inner_loops(i + 1, init, options, body);
    }
    return b_.for_(b_.index(0), b_.dim(group_.full[d]), b_.index(1), options, init, [&](LV iv, const LVs& carried) {
      at_[d] = iv;
      return inner_loops(i + 1, carried, options, body);
    });
  }

  // -- contractions -------------------------------------------------------------------------------------------
  void contraction_kernel() {
    NodeId id = group_.members[0];
    ContractionAxes axes = contraction_axes(g_, id, group_.full);
    at_.assign(group_.full.size(), LV{});
    nest(all_dims(), axes.roles, [&] {
      memo_.emplace_back();
      memo_.back()[id] = lower_contraction(*this, id, at_, axes.dot);
      for (NodeId m : group_.members) store(m);
      memo_.pop_back();
    });
  }
};

}  // namespace

LoweredKernel lower_group(const Graph& g, const Plan& plan, GroupId gid, std::optional<std::int64_t> row_bytes) {
  return KernelLowering(g, plan, gid, row_bytes).run();
}

LoweredKernel lower_copy(const Graph& g, ValueId from) {
  Plan plan;
  plan.groups.push(Group{.kind = GroupKind::map, .full = g.type(from).shape});
  plan.group_of.resize(g.node_count());
  return KernelLowering(g, plan, GroupId(std::size_t{0})).run_copy(from);
}

}  // namespace ag::passes

// A kernel of one node whose class writes its own loops: parameters for what chosen operands are made of and for
// results, nests of parallel loops, estimates. Sort, cumulative and the like are written with it.
//
// Such a kernel may compute maps over its result as well, the further members of its group: it declares their
// parameters with members(), and finish_element() takes each element of the result where its last loop has it, computes
// the members there and stores what others need.
#pragma once
#include <functional>
#include <optional>
#include <unordered_map>

#include "passes/lower_kernel.hpp"
#include "passes/placement.hpp"

namespace ag::passes {

/// The loop from `lo` to `hi` that `options` describes, in steps of their width; a serial one has that step alone.
void stepped(loop::Builder& b, loop::ValueId lo, loop::ValueId hi, loop::ForOptions options,
             const std::function<void(loop::ValueId)>& body);

/// The last digit of a task's number to base `n`, which `task` loses.
loop::ValueId take_digit(loop::Builder& b, loop::ValueId& task, std::int64_t n);

class OwnKernel : public ElementSource {
 public:
  OwnKernel(const Graph& g, NodeId id) : OwnKernel(g, id, nullptr) {}
  /// The kernel of a whole group: its first node and maps over that node's one result.
  OwnKernel(const Graph& g, const Plan& plan, GroupId gid) : OwnKernel(g, plan.groups[gid].members[0], &plan) {
    gid_ = gid;
  }

  /// Declares the leaves of an operand as parameters; all operands come before the first result.
  void read(std::size_t operand);
  /// The buffer of a result.
  loop::BufferId result(std::uint32_t r, loop::Access access);
  /// Declares what the group's members read beside the result, then whatever of result and members is stored.
  void members();
  /// The result's element at `index` is `value`: computes the members there and stores.
  void finish_element(const std::vector<loop::ValueId>& index, loop::ValueId value);

  /// Declares what nodes of the group that are computed before the first member (Group::before) read.
  void read_before();
  /// Element `index` of `last`, where that of `first` is `value` and maps of the group lie between them; without a
  /// value `first` is a map too.
  loop::ValueId element_of(NodeId first, loop::ValueId value, NodeId last, const std::vector<loop::ValueId>& index);

  /// Element `index` of an operand.
  loop::ValueId operand(std::size_t i, std::span<const loop::ValueId> index) {
    loop::ValueId v = element(node().operands[i], index);
    origin(id_);
    return v;
  }
  /// The same where `cond` holds, else 0: `index` may lie outside then.
  loop::ValueId operand_where(std::size_t i, std::span<const loop::ValueId> index, loop::ValueId cond);
  /// Asks for the lines that an element of an operand is read from, ahead of its use: `index` may lie outside.
  void ask(std::size_t i, std::span<const loop::ValueId> index) {
    asking_ = true;
    operand(i, index);
    asking_ = false;
  }
  /// The buffer that operand i itself lies in, if it does.
  std::optional<loop::BufferId> buffer_of(std::size_t i) const;
  loop::ValueId at_result(std::uint32_t r, std::span<const loop::ValueId> index) {
    return memory_.address(node().result(r), index);
  }
  /// Parallel loops over these axes of `shape`, outermost first, around `body`; `at` receives their indices (0 for an
  /// axis of size one). The last one goes to lanes if asked: `body` is the same for each of its indices.
  void nest(const std::vector<std::size_t>& axes, const Dims& shape, std::vector<loop::ValueId>& at, bool lanes,
            const std::function<void()>& body);
  LoweredKernel finish(std::string label, const Dim& flops);

  const Node& node() const { return g_.node(id_); }
  NodeView view() const { return {g_, id_}; }
  const Type& type(std::uint32_t r = 0) const { return g_.type(node().result(r)); }
  const Type& in(std::size_t i) const { return g_.type(node().operands[i]); }

  loop::Builder& builder() override { return b_; }
  const Graph& graph() const override { return g_; }
  loop::ValueId leaf(ValueId v, std::span<const loop::ValueId> index) override;
  void origin(NodeId id) override;
  void trap(NodeId node, loop::ValueId cond, std::uint32_t kind, loop::ValueId detail) override {
    origin(node);
    b_.trap(cond, kind, detail);
  }

 private:
  OwnKernel(const Graph& g, NodeId id, const Plan* plan)
      : g_(g), id_(id), b_("k"), plan_(plan), memory_(g, plan, b_, lowered_) {
    lowered_.origins.push_back(id);
    b_.set_origin(1);
  }

  const Graph& g_;
  NodeId id_;
  loop::Builder b_;
  LoweredKernel lowered_;
  std::unordered_map<ValueId, loop::BufferId> reads_;
  loop::ValueId mask_;  // of loads from them; none: all
  bool asking_ = false;  // instead of loading

  const Plan* plan_;
  GroupId gid_;
  KernelMemory memory_;
  std::unordered_map<ValueId, loop::BufferId> writes_;
  std::unordered_map<NodeId, loop::ValueId> done_;  // members at the element being finished
  std::vector<loop::ValueId> at_;

  void read_leaves(const LeafProbe& probe);
  void start_element(NodeId first, const std::vector<loop::ValueId>& index, loop::ValueId value);
  bool is_member(ValueId v) const { return plan_ && plan_->group_of[g_.value(v).node.index] == gid_; }
  loop::ValueId member(NodeId id);
};

/// All axes but one.
inline std::vector<std::size_t> axes_without(std::size_t rank, std::size_t axis) {
  std::vector<std::size_t> out;
  for (std::size_t d = 0; d < rank; ++d)
    if (d != axis) out.push_back(d);
  return out;
}

}  // namespace ag::passes

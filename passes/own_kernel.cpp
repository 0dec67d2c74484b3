#include "passes/own_kernel.hpp"

#include <algorithm>

namespace ag::passes {

using LV = loop::ValueId;

void OwnKernel::read(std::size_t operand) {
  LeafProbe probe(g_);
  ValueId v = node().operands[operand];
  probe.element(v, probe.indices(g_.type(v).shape));
  read_leaves(probe);
}

void OwnKernel::read_leaves(const LeafProbe& probe) {
  for (const auto& leaf : probe.leaves) {
    if (reads_.contains(leaf.value) || is_member(leaf.value)) continue;
    reads_.emplace(leaf.value, memory_.param(leaf.value, loop::Access::read));
  }
}

loop::BufferId OwnKernel::result(std::uint32_t r, loop::Access access) {
  return memory_.param(node().result(r), access);
}

LV OwnKernel::operand_where(std::size_t i, std::span<const LV> index, LV cond) {
  mask_ = cond;
  LV v = operand(i, index);
  mask_ = {};
  return buffer_of(i) ? v : b_.select(cond, v, b_.constant_int(b_.type(v).elem, 0));
}

std::optional<loop::BufferId> OwnKernel::buffer_of(std::size_t i) const {
  auto it = reads_.find(node().operands[i]);
  return it == reads_.end() ? std::nullopt : std::optional(it->second);
}

// -- members ------------------------------------------------------------------------------------------------------

void OwnKernel::members() {
  const std::vector<NodeId>& all = plan_->groups[gid_].members;
  for (NodeId id : all) {
    if (id == id_) continue;
    LeafProbe probe(g_);
    probe.compute(id, probe.indices(g_.type(g_.node(id).result()).shape));
    read_leaves(probe);
  }
  for (NodeId id : all) {
    ValueId v = g_.node(id).result();
    if (!plan_->stored[v.index]) continue;
    writes_.emplace(v, memory_.param(v, loop::Access::write));
  }
}

void OwnKernel::start_element(NodeId first, const std::vector<LV>& index, LV value) {
  done_.clear();
  at_ = index;
  const Dims& shape = g_.type(g_.node(first).result()).shape;
  for (std::size_t d = 0; d < at_.size(); ++d)
    if (shape[d].is(1)) at_[d] = b_.index(0);
  if (value) done_.emplace(first, value);
}

void OwnKernel::finish_element(const std::vector<LV>& index, LV value) {
  start_element(id_, index, value);
  for (NodeId id : plan_->groups[gid_].members) {
    ValueId v = g_.node(id).result();
    auto out = writes_.find(v);
    if (out == writes_.end()) continue;
    LV x = member(id);
    origin(id);
    b_.store(out->second, memory_.address(v, at_), x);
  }
  origin(id_);
}

void OwnKernel::read_before() {
  for (NodeId id : plan_->groups[gid_].before) {
    LeafProbe probe(g_);
    const Node& n = g_.node(id);
    if (n.op->lower_class == LowerClass::contraction || n.op->lower_class == LowerClass::window)
      for (ValueId v : n.operands) probe.element(v, probe.indices(g_.type(v).shape));
    else
      probe.compute(id, probe.indices(g_.type(n.result()).shape));
    read_leaves(probe);
  }
}

LV OwnKernel::element_of(NodeId first, LV value, NodeId last, const std::vector<LV>& index) {
  start_element(first, index, value);
  LV x = member(last);
  origin(id_);
  return x;
}

LV OwnKernel::member(NodeId id) {
  if (auto it = done_.find(id); it != done_.end()) return it->second;
  LV value = compute(id, at_);
  done_.emplace(id, value);
  return value;
}

LV OwnKernel::leaf(ValueId v, std::span<const LV> index) {
  if (is_member(v)) {
    AG_CHECK(std::equal(index.begin(), index.end(), at_.begin(), at_.end()));
    return member(g_.value(v).node);
  }
  if (asking_) {
    constexpr std::uint32_t level = 2;
    b_.prefetch(reads_.at(v), memory_.address(v, index), level);
    return b_.constant_int(g_.type(v).dtype, 0);
  }
  return b_.load(reads_.at(v), memory_.address(v, index), mask_);
}

void OwnKernel::origin(NodeId id) {
  std::vector<NodeId>& origins = lowered_.origins;
  auto it = std::find(origins.begin(), origins.end(), id);
  if (it == origins.end()) it = origins.insert(origins.end(), id);
  b_.set_origin(static_cast<std::uint32_t>(it - origins.begin()) + 1);
}

// -- loops --------------------------------------------------------------------------------------------------------

void OwnKernel::nest(const std::vector<std::size_t>& axes, const Dims& shape, std::vector<LV>& at, bool lanes,
                     const std::function<void()>& body) {
  std::size_t last = axes.size();
  while (last > 0 && shape[axes[last - 1]].is(1)) --last;
  std::function<void(std::size_t)> loops = [&](std::size_t i) {
    if (i == axes.size()) return body();
    std::size_t d = axes[i];
    if (shape[d].is(1)) {
      at[d] = b_.index(0);
      return loops(i + 1);
    }
    loop::AxisRole role = lanes && i + 1 == last ? loop::AxisRole::col : loop::AxisRole::batch;
    b_.for_each(b_.dim(shape[d]), {.mapping = loop::Mapping::parallel, .role = role}, [&](LV iv) {
      at[d] = iv;
      loops(i + 1);
    });
  };
  loops(0);
}

LoweredKernel OwnKernel::finish(std::string label, const Dim& flops) {
  lowered_.label = std::move(label);
  b_.set_origin(0);
  loop::Kernel& k = b_.kernel();
  k.flops = flops;
  auto add_cost = [&](NodeId id) {
    const OpInfo& op = *g_.node(id).op;
    k.flops = k.flops + g_.type(g_.node(id).result()).elems() * Dim(op.cost);
    return std::string(op.name);
  };
  if (plan_) {
    std::string before;
    for (NodeId id : plan_->groups[gid_].before) before += add_cost(id) + "+";
    lowered_.label = before + lowered_.label;
    for (NodeId id : plan_->groups[gid_].members)
      if (id != id_) lowered_.label += "+" + add_cost(id);
  }
  k.bytes = 0;
  for (ValueId v : lowered_.buffers)
    k.bytes = k.bytes + g_.type(v).elems() * Dim(static_cast<std::int64_t>(dtype_bytes(g_.type(v).dtype)));
  lowered_.kernel = std::move(b_).finish();
  return std::move(lowered_);
}

void stepped(loop::Builder& b, loop::ValueId lo, loop::ValueId hi, loop::ForOptions options,
             const std::function<void(loop::ValueId)>& body) {
  const std::int64_t step = options.width ? options.width : 1;
  if (options.mapping == loop::Mapping::serial) options.width = 0;
  b.for_(lo, hi, b.index(step), options, {}, [&](loop::ValueId iv, const loop::Builder::Values&) {
    body(iv);
    return loop::Builder::Values{};
  });
}

loop::ValueId take_digit(loop::Builder& b, loop::ValueId& task, std::int64_t n) {
  if (n == 1) return b.index(0);
  const loop::ValueId d = b.op(loop::Op::rem, {task, b.index(n)});
  task = b.op(loop::Op::div, {task, b.index(n)});
  return d;
}

}  // namespace ag::passes

// The update of all parameters as one kernel. A parameter, its gradient and the optimiser's slots are vectors to the
// update, and the updates of all parameters are one kernel, called with different vectors of different sizes. Here the
// vectors that stand for the same parameter of the kernel are laid one behind the other, as parts of one buffer each:
// parameters, gradients, slots. What else reads or writes a part does so where it lies, so nothing is copied, and one
// call goes over everything. Parts whose size is no multiple of a cache line come last: the others stay aligned, and
// there are no gaps.
#include <algorithm>

#include "ir/loop/storage.hpp"
#include "passes/lower_graph.hpp"

namespace ag::passes {

using loop::BufferKind;
using loop::KernelCall;
using loop::Op;
using loop::ProgramBuffer;
using loop::ProgramBufferId;
using loop::StmtId;

namespace {

/// Statements whose results nobody uses, such as the quotients of a reshape that cancelled out.
void drop_unused(loop::Kernel& k) {
  std::vector<bool> used(k.stmts.size());
  std::vector<StmtId> work;
  auto use = [&](StmtId id) {
    if (!id || used[id.index]) return;
    used[id.index] = true;
    work.push_back(id);
  };
  for (std::size_t i = 0; i < k.stmts.size(); ++i) {
    const loop::Stmt& s = k.stmts[StmtId(i)];
    const loop::OpClass cls = describe(s.op).cls;
    const bool reads = s.op == Op::load || s.op == Op::load_tile;
    if (cls == loop::OpClass::control || cls == loop::OpClass::sync || (cls == loop::OpClass::memory && !reads))
      use(StmtId(i));
  }
  while (!work.empty()) {
    const loop::Stmt& s = k.stmts[work.back()];
    work.pop_back();
    for (loop::ValueId v : s.operands) use(k.values[v].def);
  }
  for (loop::Block& block : k.blocks) std::erase_if(block.stmts, [&](StmtId id) { return !used[id.index]; });
}

}  // namespace

bool take_any_size(LoweredKernel& lowered) {
  loop::Kernel& k = lowered.kernel;
  if (!k.dims.empty()) return false;
  drop_unused(k);
  StmtId loop_id;
  for (std::uint32_t i = 0; i < k.stmts.size(); ++i) {
    if (k.stmts[StmtId(i)].blocks.empty()) continue;
    if (loop_id || k.stmts[StmtId(i)].op != Op::for_) return false;
    loop_id = StmtId(i);
  }
  if (!loop_id) return false;
  const loop::ValueId end = k.stmts[loop_id].operands[1];
  loop::Stmt& size = k.stmts[k.values[end].def];
  if (size.op != Op::constant) return false;
  for (const loop::Stmt& s : k.stmts)
    if (std::count(s.operands.begin(), s.operands.end(), end) != (&s == &k.stmts[loop_id] ? 1 : 0)) return false;
  const auto n = static_cast<std::int64_t>(size.attr.imm);
  const Dim symbol = Dim::symbol("n");
  for (const loop::Buffer& b : k.buffers)
    if (!b.elems.is(n) && !b.elems.is(1)) return false;
  if (n < 2) return false;
  for (loop::Buffer& b : k.buffers)
    if (b.elems.is(n)) b.elems = symbol;
  size.op = Op::dim;
  size.attr = {};
  k.dims = {"n"};
  for (Dim* estimate : {&k.flops, &k.bytes})
    if (estimate->is_const()) *estimate = symbol * Dim(estimate->value() / n);
  lowered.dims = {Dim(n)};
  return true;
}

namespace {

/// How the calls of one kernel take its parameters.
struct Taken {
  std::vector<std::size_t> own;     ///< parameters that are vectors of their own in each call
  std::vector<std::size_t> common;  ///< and those that all share
};

Taken parameters_of(const loop::Kernel& k) {
  Taken t;
  for (std::size_t i = 0; i < k.param_count(); ++i) (k.buffers[i].elems.is(1) ? t.common : t.own).push_back(i);
  return t;
}

/// What exchanges its memory with others is no part of anything.
std::set<ProgramBufferId> exchanged(const loop::Program& p) {
  std::set<ProgramBufferId> ids;
  loop::for_each_step(p.body, [&](const loop::Step& step) {
    if (const auto* swap = std::get_if<loop::SwapStep>(&step.value)) ids.insert({swap->a, swap->b});
  });
  return ids;
}

}  // namespace

void GraphLowering::join_updates() {
  if (!p_.context.fuse) return;
  std::map<loop::KernelId, std::vector<std::size_t>> by_kernel;
  for (std::size_t step : updates_) by_kernel[std::get<KernelCall>(steps_.steps[step].value).kernel].push_back(step);
  std::vector<bool> joined(steps_.steps.size());
  for (auto& [kernel, calls] : by_kernel)
    for (std::size_t step : join(std::move(calls))) joined[step] = true;
  std::size_t at = 0;
  std::erase_if(steps_.steps, [&](const loop::Step&) { return joined[at++]; });
}

/// Joins calls of one kernel, given by their steps, into the last one; returns the others.
std::vector<std::size_t> GraphLowering::join(std::vector<std::size_t> steps) {
  loop::Program& p = program();
  auto call_at = [&](std::size_t step) -> KernelCall& { return std::get<KernelCall>(steps_.steps[step].value); };
  const loop::Kernel& k = p.kernels[call_at(steps[0]).kernel];
  const Taken taken = parameters_of(k);
  std::set<ProgramBufferId> parts = exchanged(p);
  auto joins = [&](std::size_t step) {
    const KernelCall& call = call_at(step);
    for (std::size_t i : taken.common)
      if (call.buffers[i] != call_at(steps[0]).buffers[i]) return false;
    std::set<ProgramBufferId> own;
    for (std::size_t i : taken.own) {
      const ProgramBuffer& b = p.buffers[call.buffers[i]];
      if (b.kind != p.buffers[call_at(steps[0]).buffers[i]].kind || b.alias_of || b.place != loop::Place::arena ||
          (b.kind != BufferKind::state && b.kind != BufferKind::temp) || product(b.shape) != call.dims[0] ||
          parts.contains(call.buffers[i]) || !own.insert(call.buffers[i]).second)
        return false;
    }
    parts.insert(own.begin(), own.end());
    return true;
  };
  std::erase_if(steps, [&](std::size_t step) { return !joins(step); });
  if (steps.size() < 2 || !may_wait(steps, parts)) return {};
  auto whole_lines = [&](std::size_t step) {
    return std::all_of(taken.own.begin(), taken.own.end(), [&](std::size_t i) {
      return byte_size(p.buffers[call_at(step).buffers[i]]).value() % loop::buffer_alignment == 0;
    });
  };
  std::vector<std::size_t> order = steps;
  std::stable_partition(order.begin(), order.end(), whole_lines);
  KernelCall& last = call_at(steps.back());
  std::vector<ProgramBufferId> wholes = last.buffers;
  Dim total = 0;
  for (std::size_t step : order) total = total + call_at(step).dims[0];
  for (std::size_t i : taken.own) {
    const ProgramBuffer& first = p.buffers[last.buffers[i]];
    ProgramBuffer whole;
    whole.kind = first.kind, whole.dtype = first.dtype, whole.shape = {total};
    if (whole.kind == BufferKind::state) whole.index = next_state_++;
    wholes[i] = p.buffers.push(std::move(whole));
    Dim offset = 0;
    for (std::size_t step : order) {
      ProgramBuffer& part = p.buffers[call_at(step).buffers[i]];
      part.alias_of = wholes[i];
      part.offset = offset;
      offset = offset + byte_size(part);
    }
  }
  last.buffers = std::move(wholes);
  last.dims = {total};
  steps.pop_back();
  return steps;
}

/// Whether all calls may run where the last one stands: no step between needs what they write, or gives what they read
/// another value.
bool GraphLowering::may_wait(const std::vector<std::size_t>& steps, const std::set<ProgramBufferId>& parts) const {
  std::set<ProgramBufferId> read;
  for (ProgramBufferId b : std::get<KernelCall>(steps_.steps[steps[0]].value).buffers) read.insert(b);
  for (std::size_t step = steps.front(); step < steps.back(); ++step) {
    if (std::binary_search(steps.begin(), steps.end(), step)) continue;
    const auto* call = std::get_if<KernelCall>(&steps_.steps[step].value);
    if (!call) return false;
    const loop::Kernel& k = p_.program.kernels[call->kernel];
    for (std::size_t i = 0; i < call->buffers.size(); ++i)
      if (parts.contains(call->buffers[i]) ||
          (k.buffers[i].access != loop::Access::read && read.contains(call->buffers[i])))
        return false;
  }
  return true;
}

}  // namespace ag::passes

#include "passes/contraction_ahead.hpp"

#include <cstdlib>

namespace ag::passes {

using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;
using Int = std::int64_t;

namespace {

/// Steps of depth between a request and its use: some 1500 cycles of a full tile.
constexpr Int steps_ahead = 64;
/// Bytes between steps up to which hardware follows a stream.
constexpr Int followed = 128;
/// Cache level that lines are brought into: they would be driven out of the first before their use.
constexpr std::uint32_t level = 2;

}  // namespace

void LinesAhead::pick_rows(const loop::Kernel& k, const IndexSteps& steps, const std::vector<StmtId>& loads, LV row,
                           const ContractionBody& body, const ContractionSizes& sizes) {
  if (body.loops.empty() || sizes.depth.value_or(2 * steps_ahead) < 2 * steps_ahead) return;
  k_ = &k, innermost_ = body.iv(k, body.loops.size() - 1);
  for (StmtId l : loads) {
    const Stmt& load = k.stmts[l];
    auto next = steps.step(load.operands[0], row, 0), deeper = steps.step(load.operands[0], innermost_, 0);
    if (!next || !next->is(1) || !deeper || !deeper->is_const()) continue;
    const auto bytes = static_cast<Int>(dtype_bytes(k.buffers[load.attr.buffer.index].dtype));
    if (std::abs(deeper->value()) > followed / bytes) rows_.push_back(l);
  }
}

void LinesAhead::pick_beside(const loop::Kernel& k, const IndexSteps& steps, loop::BlockId block, LV row, LV column,
                             int width) {
  k_ = &k;
  for (StmtId id : k.blocks[block].stmts) {
    const Stmt& s = k.stmts[id];
    if (s.op != Op::load || s.operands.size() != 1) continue;
    auto along = steps.step(s.operands[0], column, width);
    if (along && along->is(1) && steps.depends(s.operands[0], row)) beside_.push_back(id);
  }
}

void LinesAhead::ask_rows(loop::Builder& b, const KernelCloner& at, LV depth) const {
  for (StmtId l : rows_) {
    KernelCloner ahead = at;
    ahead.set(innermost_, b.add(depth, b.index(steps_ahead)));
    ask(b, std::move(ahead), l);
  }
}

void LinesAhead::ask_beside(loop::Builder& b, const KernelCloner& cell) const {
  for (StmtId l : beside_) ask(b, cell, l);
}

void LinesAhead::ask(loop::Builder& b, KernelCloner at, StmtId load) const {
  const Stmt& s = k_->stmts[load];
  b.prefetch(at.get(s.attr.buffer), at.get(s.operands[0]), level);
}

}  // namespace ag::passes

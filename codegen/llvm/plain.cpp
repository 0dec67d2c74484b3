// What LLVM's code generator may leave out for a kernel: the selector's generic combining of nodes, moving what does
// not change out of loops, scheduling.
#include <algorithm>
#include <map>
#include <set>

#include "codegen/backend.hpp"
#include "codegen/llvm/generator_internal.hpp"

namespace ag::codegen {
namespace {

using loop::Op;
using loop::OpClass;

bool plain_element(DType t) { return t == DType::f32 || t == DType::i32; }

/// Integers in vectors: what masks and elementary functions are made of.
bool plain_integer(Op op) {
  switch (op) {
    case Op::constant:
    case Op::lane_iota:
    case Op::row_iota:
    case Op::broadcast:
    case Op::load_tile:
    case Op::cast:
    case Op::bitcast:
    case Op::add:
    case Op::sub:
    case Op::min:
    case Op::max:
    case Op::and_:
    case Op::or_:
    case Op::xor_:
    case Op::shl:
    case Op::shr:
    case Op::select: return true;
    default: return false;
  }
}

bool plain_truth(Op op) {
  return loop::describe(op).cls == OpClass::compare || op == Op::and_ || op == Op::or_ || op == Op::not_ ||
         op == Op::constant || op == Op::broadcast;
}

bool plain_stmt(const loop::Kernel& k, const loop::Stmt& s) {
  const bool compares = loop::describe(s.op).cls == OpClass::compare;
  for (loop::ValueId v : s.operands) {
    const loop::VType& t = k.type(v);
    if (t.elem == DType::boolean && (compares || s.op == Op::bitcast)) return false;
    if (!t.scalar() && t.elem != DType::boolean && !plain_element(t.elem)) return false;
  }
  for (loop::ValueId v : s.results) {
    const loop::VType& t = k.type(v);
    if (t.scalar() || t.elem == DType::f32) continue;
    if (t.elem == DType::i32 ? !plain_integer(s.op) : t.elem != DType::boolean || !plain_truth(s.op)) return false;
  }
  return true;
}

/// Vector registers that a kernel needs if its statements stay in order.
class Registers {
 public:
  Registers(const loop::Kernel& k, const TargetSpec& target) : k_(k), target_(target) { most_ = block(k.top(), 0); }
  int most() const { return most_; }
  int constants() const { return constants_; }  ///< of the block that has most, spread over lanes
  int singles() const { return singles_; }      ///< multiply-adds of one register, of the block that has most

 private:
  using Uses = std::map<loop::ValueId, std::size_t>;  ///< the last statement of a block that uses a value

  int of(loop::ValueId v) const {
    const loop::VType& t = k_.type(v);
    const loop::StmtId def = k_.values[v].def;
    if (def && k_.stmts[def].op == Op::constant) return 0;
    if (t.lanes == 1 || (t.elem == DType::boolean && target_.masked_ops)) return 0;
    const int lanes = std::max(1, target_.lanes(std::max<int>(4, static_cast<int>(dtype_bytes(t.elem)))));
    return t.rows * ((t.lanes + lanes - 1) / lanes);
  }

  void uses(const loop::Stmt& s, std::size_t at, Uses& last) const {
    for (loop::ValueId v : s.operands) last[v] = at;
    for (loop::BlockId inner : s.blocks)
      for (loop::StmtId id : k_.blocks[inner].stmts) uses(k_.stmts[id], at, last);
  }

  /// The most at any statement of a block, with `around` that are kept for what follows it.
  int block(loop::BlockId id, int around) {
    const loop::Block& b = k_.blocks[id];
    Uses last;
    for (std::size_t i = 0; i < b.stmts.size(); ++i) uses(k_.stmts[b.stmts[i]], i, last);
    int live = around;
    std::set<loop::ValueId> own(b.args.begin(), b.args.end()), numbers;
    for (loop::ValueId v : b.args) live += of(v);
    int most = live, singles = 0;
    for (std::size_t i = 0; i < b.stmts.size(); ++i) {
      const loop::Stmt& s = k_.stmts[b.stmts[i]];
      const bool wide = !s.results.empty() && k_.type(s.results[0]).lanes > 1;
      const std::set<loop::ValueId> operands(s.operands.begin(), s.operands.end());
      for (loop::ValueId v : operands) {
        const loop::StmtId def = k_.values[v].def;
        if (wide && def && k_.stmts[def].op == Op::constant && k_.type(v) != loop::index_type) numbers.insert(v);
        if (own.contains(v) && last.at(v) == i) live -= of(v);
      }
      for (loop::BlockId inner : s.blocks) most = std::max(most, block(inner, live));
      for (loop::ValueId v : s.results) {
        own.insert(v);
        if (last.contains(v)) live += of(v);
      }
      most = std::max(most, live);
      singles += s.op == Op::fma && of(s.results[0]) == 1;
    }
    singles_ = std::max(singles_, singles);
    constants_ = std::max(constants_, static_cast<int>(numbers.size()));
    return most;
  }

  const loop::Kernel& k_;
  const TargetSpec& target_;
  int most_ = 0, constants_ = 0, singles_ = 0;
};

}  // namespace

Effort effort(const loop::Kernel& k, const TargetSpec& target) {
  const Registers r(k, target);
  const int all = target.vector_registers;
  Effort e{.combine = !plain(k)};
  // Long polynomials of several registers side by side: before the loop, their coefficients take the registers that the
  // loop needs, and the allocator takes as long to undo it as for all the rest.
  e.hoist = r.constants() < all * 5 / 8 || r.most() + r.constants() <= all;
  // Tiles that fill the registers were made to fit, in the order in which they stand. Smaller ones, and sums of taps,
  // load about as often as they compute, and gain where LLVM spreads the loads.
  e.schedule = r.most() < all * 5 / 8 || r.singles() >= 8 || r.most() + (e.hoist ? r.constants() : 2) > all;
  return e;
}

bool plain(const loop::Kernel& k) {
  for (const loop::Buffer& b : k.buffers)
    if (!plain_element(b.dtype) && b.dtype != DType::i64) return false;
  for (const loop::Block& block : k.blocks)
    for (loop::StmtId id : block.stmts)
      if (!plain_stmt(k, k.stmts[id])) return false;
  return true;
}

}  // namespace ag::codegen

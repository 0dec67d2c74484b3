// Which kernels LLVM's selector takes without its generic combining of nodes.
#include "codegen/backend.hpp"

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

}  // namespace

bool plain(const loop::Kernel& k) {
  for (const loop::Buffer& b : k.buffers)
    if (!plain_element(b.dtype) && b.dtype != DType::i64) return false;
  for (const loop::Block& block : k.blocks)
    for (loop::StmtId id : block.stmts)
      if (!plain_stmt(k, k.stmts[id])) return false;
  return true;
}

}  // namespace ag::codegen

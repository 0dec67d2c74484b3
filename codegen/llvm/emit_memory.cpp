// Buffers, addresses, loads and stores.
#include <llvm/IR/Intrinsics.h>
#include <llvm/IR/MDBuilder.h>

#include "codegen/llvm/emit_internal.hpp"
#include "ir/loop/scratch.hpp"

namespace ag::codegen {
using llvm::Align;
using llvm::Value;
using loop::Scope;
using loop::VType;

namespace {

constexpr int line_bytes = 64;

bool all_true(Value* mask) {
  auto* c = llvm::dyn_cast_or_null<llvm::Constant>(mask);
  return c && c->isAllOnesValue();
}

}  // namespace

/// Every buffer that aliases no other gets a scope of its own; accesses to any other buffer exclude it.
void Emitter::make_alias_scopes() {
  llvm::MDBuilder md(module.getContext());
  llvm::MDNode* domain = md.createAnonymousAliasScopeDomain("kernel");
  llvm::SmallVector<llvm::Metadata*, 8> scopes(kernel.buffers.size(), nullptr);
  for (std::size_t i = 0; i < scopes.size(); ++i)
    if (kernel.buffers[i].scope != Scope::param || kernel.buffers[i].noalias)
      scopes[i] = md.createAnonymousAliasScope(domain, "buffer");
  for (std::size_t i = 0; i < scopes.size(); ++i) {
    llvm::SmallVector<llvm::Metadata*, 8> others;
    for (std::size_t k = 0; k < scopes.size(); ++k)
      if (k != i && scopes[k]) others.push_back(scopes[k]);
    BufferAccess& access = buffers_[i];
    if (scopes[i]) access.scope = llvm::MDNode::get(module.getContext(), {scopes[i]});
    if (!others.empty()) access.noalias = llvm::MDNode::get(module.getContext(), others);
    const loop::Buffer& buffer = kernel.buffers[i];
    access.invariant = buffer.scope == Scope::param && buffer.noalias && buffer.access == loop::Access::read;
  }
}

void Emitter::annotate(llvm::Instruction* i, loop::BufferId id) {
  const BufferAccess& access = buffers_[id.index];
  if (access.scope) i->setMetadata(llvm::LLVMContext::MD_alias_scope, access.scope);
  if (access.noalias) i->setMetadata(llvm::LLVMContext::MD_noalias, access.noalias);
  if (access.invariant && llvm::isa<llvm::LoadInst>(i))
    i->setMetadata(llvm::LLVMContext::MD_invariant_load, llvm::MDNode::get(module.getContext(), {}));
}

/// A buffer's address, computed once in the entry block.
Value* Emitter::pointer(loop::BufferId id) {
  BufferAccess& access = buffers_[id.index];
  if (access.pointer) return access.pointer;
  const loop::Buffer& buffer = kernel.buffers[id.index];
  switch (buffer.scope) {
    case Scope::param: access.pointer = dialect.param_pointer(*this, id.index); break;
    case Scope::local: {
      auto* type = llvm::ArrayType::get(arith.mem_type(buffer.dtype), static_cast<std::uint64_t>(buffer.elems.value()));
      auto* slot = entry.CreateAlloca(type);
      slot->setAlignment(Align(64));
      access.pointer = slot;
      break;
    }
    case Scope::scratch: {
      auto here = b.saveIP();
      b.SetInsertPoint(entry.GetInsertPoint());
      Value* offset = emit_dim(loop::scratch_offset(kernel, id));
      b.restoreIP(here);
      access.pointer = entry.CreateGEP(entry.getInt8Ty(), dialect.scratch(*this), offset);
      break;
    }
    case Scope::shared: access.pointer = dialect.shared(*this, id, buffer.elems.value()); break;
  }
  return access.pointer;
}

/// The value of an expression over Kernel::dims, at the builder's place.
Value* Emitter::emit_dim(const Dim& d) {
  Value* sum = nullptr;
  for (const Dim::Term& term : d.terms()) {
    Value* product = nullptr;
    for (const Dim::Factor& f : term.factors) {
      Value* v = emit_factor(f);
      product = product ? b.CreateMul(product, v) : v;
    }
    product = !product ? i64(term.coeff) : term.coeff == 1 ? product : b.CreateMul(product, i64(term.coeff));
    sum = sum ? b.CreateAdd(sum, product) : product;
  }
  return sum ? sum : i64(0);
}

Value* Emitter::emit_factor(const Dim::Factor& f) {
  if (f.kind == Dim::Atom::symbol) {
    for (std::size_t i = 0; i < kernel.dims.size(); ++i)
      if (kernel.dims[i] == f.name) {
        if (!dims_[i]) dims_[i] = dialect.dim(*this, i);
        return dims_[i];
      }
    AG_CHECK(false, "a size over an unknown symbol");
  }
  Value* x = emit_dim(f.args[0]);
  Value* y = emit_dim(f.args[1]);
  auto floor_mod = [&] {  // of the divisor's sign
    Value* r = arith.binary(loop::Op::rem, DType::i64, x, y);
    Value* wrong = b.CreateAnd(b.CreateICmpNE(r, i64(0)), b.CreateICmpSLT(b.CreateXor(r, y), i64(0)));
    return std::pair{r, wrong};
  };
  switch (f.kind) {
    case Dim::Atom::min: return b.CreateBinaryIntrinsic(llvm::Intrinsic::smin, x, y);
    case Dim::Atom::max: return b.CreateBinaryIntrinsic(llvm::Intrinsic::smax, x, y);
    case Dim::Atom::bcast: return b.CreateSelect(b.CreateICmpEQ(y, i64(1)), x, y);
    case Dim::Atom::mod: {
      auto [r, wrong] = floor_mod();
      return b.CreateSelect(wrong, b.CreateAdd(r, y), r);
    }
    default: {
      Value* q = arith.binary(loop::Op::div, DType::i64, x, y);
      auto [r, wrong] = floor_mod();
      return b.CreateSelect(wrong, b.CreateSub(q, i64(1)), q);
    }
  }
}

Value* Emitter::at(loop::BufferId id, Value* base, Value* index) {
  auto* c = llvm::dyn_cast<llvm::ConstantInt>(index);
  if (c && c->isZero()) return base;
  llvm::Type* element = arith.mem_type(kernel.buffers[id.index].dtype);
  // Where part of a sum is known before this block, the pointer moves by it there: what is left to the block is an
  // address of one instruction. LLVM takes the sum of integers as given, an addition for each access.
  const llvm::BasicBlock* here = b.GetInsertBlock();
  auto* sum = llvm::dyn_cast<llvm::BinaryOperator>(index);
  auto* start = llvm::dyn_cast<llvm::Instruction>(base);
  for (unsigned known : {0u, 1u}) {
    if (!sum || sum->getOpcode() != llvm::Instruction::Add) break;
    auto* part = llvm::dyn_cast<llvm::Instruction>(sum->getOperand(known));
    auto* rest = llvm::dyn_cast<llvm::Instruction>(sum->getOperand(1 - known));
    if (!part || !rest || part->getParent() == here || rest->getParent() != here) continue;
    llvm::Instruction* end = part->getParent()->getTerminator();
    if (!end || (start && !start->getParent()->isEntryBlock())) continue;
    return b.CreateGEP(element, llvm::IRBuilder<>(end).CreateGEP(element, base, part), rest);
  }
  return b.CreateGEP(element, base, index);
}

/// `lanes` consecutive elements (0: a scalar) where `mask`, a scalar or vector of i1 or null, is set; else 0.
Value* Emitter::load_part(loop::BufferId id, Value* p, int lanes, Value* mask) {
  DType e = kernel.buffers[id.index].dtype;
  llvm::Type* type = arith.mem_type(e);
  if (lanes) type = llvm::FixedVectorType::get(type, static_cast<unsigned>(lanes));
  Align align(dtype_bytes(e));
  Value* v;
  if (!mask || all_true(mask)) {
    auto* load = b.CreateAlignedLoad(type, p, align);
    annotate(load, id);
    v = load;
  } else if (lanes) {
    auto* load = b.CreateMaskedLoad(type, p, align, mask, llvm::Constant::getNullValue(type));
    annotate(load, id);
    v = load;
  } else {
    llvm::BasicBlock *from = b.GetInsertBlock(), *inside = new_block("masked"), *after = new_block("after");
    b.CreateCondBr(mask, inside, after);
    b.SetInsertPoint(inside);
    auto* load = b.CreateAlignedLoad(type, p, align);
    annotate(load, id);
    b.CreateBr(after);
    b.SetInsertPoint(after);
    auto* phi = b.CreatePHI(type, 2);
    phi->addIncoming(load, inside);
    phi->addIncoming(llvm::Constant::getNullValue(type), from);
    v = phi;
  }
  return e == DType::boolean ? b.CreateICmpNE(v, llvm::Constant::getNullValue(v->getType())) : v;
}

void Emitter::store_part(loop::BufferId id, Value* p, int lanes, Value* value, Value* mask) {
  DType e = kernel.buffers[id.index].dtype;
  if (e == DType::boolean) {
    llvm::Type* byte = b.getInt8Ty();
    value = b.CreateZExt(value, lanes ? llvm::FixedVectorType::get(byte, static_cast<unsigned>(lanes)) : byte);
  }
  Align align(dtype_bytes(e));
  if (!mask || all_true(mask)) {
    annotate(b.CreateAlignedStore(value, p, align), id);
  } else if (lanes) {
    annotate(b.CreateMaskedStore(value, p, align, mask), id);
  } else {
    llvm::BasicBlock *inside = new_block("masked"), *after = new_block("after");
    b.CreateCondBr(mask, inside, after);
    b.SetInsertPoint(inside);
    annotate(b.CreateAlignedStore(value, p, align), id);
    b.CreateBr(after);
    b.SetInsertPoint(after);
  }
}

/// One element per index. Without a mask and for elements narrower than 32 bits, which no gather instruction loads,
/// element by element.
Value* Emitter::gather_part(loop::BufferId id, Value* base, Value* index, int lanes, Value* mask) {
  DType e = kernel.buffers[id.index].dtype;
  if (!lanes) return load_part(id, at(id, base, index), 0, mask);
  auto* type = llvm::FixedVectorType::get(arith.mem_type(e), static_cast<unsigned>(lanes));
  if (all_true(mask)) mask = nullptr;
  if (!mask && (dtype_bytes(e) < 4 || llvm::isa<llvm::Constant>(index))) {
    Value* v = llvm::PoisonValue::get(llvm::FixedVectorType::get(arith.reg_type(e), static_cast<unsigned>(lanes)));
    for (int l = 0; l < lanes; ++l) {
      auto lane = static_cast<std::uint64_t>(l);
      Value* p = at(id, base, b.CreateExtractElement(index, lane));
      v = b.CreateInsertElement(v, load_part(id, p, 0, nullptr), lane);
    }
    return v;
  }
  Value* pointers = b.CreateGEP(arith.mem_type(e), base, index);
  auto* load = b.CreateMaskedGather(type, pointers, Align(dtype_bytes(e)), mask, llvm::Constant::getNullValue(type));
  annotate(load, id);
  return e == DType::boolean ? b.CreateICmpNE(load, llvm::Constant::getNullValue(type)) : load;
}

/// In ascending order of lanes, so that of equal indices the last one wins.
void Emitter::scatter_part(loop::BufferId id, Value* base, Value* index, int lanes, Value* value, Value* mask) {
  DType e = kernel.buffers[id.index].dtype;
  if (!lanes) return store_part(id, at(id, base, index), 0, value, mask);
  if (all_true(mask)) mask = nullptr;
  if (!mask) {
    for (int l = 0; l < lanes; ++l) {
      auto lane = static_cast<std::uint64_t>(l);
      Value* p = at(id, base, b.CreateExtractElement(index, lane));
      store_part(id, p, 0, b.CreateExtractElement(value, lane), nullptr);
    }
    return;
  }
  auto count = static_cast<unsigned>(lanes);
  if (e == DType::boolean) value = b.CreateZExt(value, llvm::FixedVectorType::get(b.getInt8Ty(), count));
  Value* pointers = b.CreateGEP(arith.mem_type(e), base, index);
  annotate(b.CreateMaskedScatter(value, pointers, Align(dtype_bytes(e)), mask), id);
}

/// Lane numbers of part j times the lane stride, as a vector of i64 (a scalar if parts are scalars).
Value* Emitter::lane_offsets(const Tile& shape, int j, Value* lane_stride) {
  int first = j * shape.chunk;
  if (shape.chunk == 1) return b.CreateMul(i64(first), lane_stride);
  llvm::SmallVector<llvm::Constant*, 64> lanes;
  for (int l = 0; l < shape.part_lanes(j); ++l) lanes.push_back(i64(first + l));
  return b.CreateMul(llvm::ConstantVector::get(lanes), splat(lane_stride, shape, j));
}

/// The mask operand at `operand`, if there is one, cut like `shape`.
std::optional<Tile> Emitter::mask_of(const loop::Stmt& s, std::size_t operand, const Tile& shape) {
  if (operand >= s.operands.size()) return std::nullopt;
  return rechunk(value(s.operands[operand]), shape.chunk);
}

namespace {

bool is_constant(Value* v, std::uint64_t n) {
  auto* c = llvm::dyn_cast<llvm::ConstantInt>(v);
  return c && c->equalsInt(n);
}

}  // namespace

/// Whether neighbours in memory are neighbouring rows, and the tile consists of square blocks: then it is moved line by
/// line as its transpose.
bool Emitter::moves_turned(VType t, Value* row_stride, Value* lane_stride) const {
  const VType turned{t.elem, t.lanes, t.rows};
  const int chunk = canonical_chunk(t);
  return chunk > 1 && is_constant(row_stride, 1) && !is_constant(lane_stride, 1) && !is_constant(lane_stride, 0) &&
         canonical_chunk(turned) == chunk && t.rows % chunk == 0 && t.lanes % chunk == 0;
}

Tile Emitter::load_tile(const loop::Stmt& s) {
  VType type = kernel.type(s.results[0]);
  auto mask = mask_of(s, 3, make(type, canonical_chunk(type)));
  Value *row_stride = scalar(s.operands[1]), *lane_stride = scalar(s.operands[2]);
  Value* base = at(s.attr.buffer, pointer(s.attr.buffer), scalar(s.operands[0]));
  if (!mask && moves_turned(type, row_stride, lane_stride))
    return transpose(load_rows(s.attr.buffer, {type.elem, type.lanes, type.rows}, base, lane_stride, row_stride, mask));
  return load_rows(s.attr.buffer, type, base, row_stride, lane_stride, mask);
}

Tile Emitter::load_rows(loop::BufferId id, VType type, Value* base, Value* row_stride, Value* lane_stride,
                        const std::optional<Tile>& mask) {
  Tile out = make(type, canonical_chunk(type));
  for (int r = 0; r < type.rows; ++r) {
    Value* row = b.CreateMul(i64(r), row_stride);
    Value* same = nullptr;  // the one element of a row with lane stride 0
    for (int j = 0; j < out.parts_per_row(); ++j) {
      Value* m = mask ? operand_part(*mask, out, r, j) : nullptr;
      int lanes = out.chunk == 1 ? 0 : out.part_lanes(j);
      Value*& v = out.parts[static_cast<std::size_t>(r * out.parts_per_row() + j)];
      if (is_constant(lane_stride, 1) || type.lanes == 1) {
        v = load_part(id, at(id, base, b.CreateAdd(row, i64(j * out.chunk))), lanes, m);
      } else if (is_constant(lane_stride, 0) && !m) {
        if (!same) same = load_part(id, at(id, base, row), 0, nullptr);
        v = splat(same, out, j);
      } else {
        v = gather_part(id, at(id, base, row), lane_offsets(out, j, lane_stride), lanes, m);
      }
    }
  }
  return out;
}

void Emitter::store_tile(const loop::Stmt& s) {
  loop::BufferId id = s.attr.buffer;
  const Tile& stored = value(s.operands[3]);
  Tile shape = rechunk(stored, canonical_chunk(stored.type));
  auto mask = mask_of(s, 4, shape);
  Value *row_stride = scalar(s.operands[1]), *lane_stride = scalar(s.operands[2]);
  Value* base = at(id, pointer(id), scalar(s.operands[0]));
  if (!mask && moves_turned(shape.type, row_stride, lane_stride)) {
    shape = transpose(shape);
    std::swap(row_stride, lane_stride);
  }
  if (is_constant(row_stride, 1) && shape.type.rows > 1 && shape.type.rows <= 8 && shape.chunk > 1 &&
      is_constant(lane_stride, static_cast<std::uint64_t>(shape.type.rows)))
    return store_interleaved(id, shape, base, mask);
  const bool whole_lines = !mask && is_constant(lane_stride, 1) && fills_lines(shape);
  for (int r = 0; r < shape.type.rows; ++r) {
    Value* row = b.CreateMul(i64(r), row_stride);
    if (s.attr.nontemporal && whole_lines) {
      store_around(id, at(id, base, row), shape, r);
      continue;
    }
    for (int j = 0; j < shape.parts_per_row(); ++j) {
      Value* m = mask ? operand_part(*mask, shape, r, j) : nullptr;
      int lanes = shape.chunk == 1 ? 0 : shape.part_lanes(j);
      Value* v = shape.part(r, j);
      if (is_constant(lane_stride, 1) || shape.type.lanes == 1)
        store_part(id, at(id, base, b.CreateAdd(row, i64(j * shape.chunk))), lanes, v, m);
      else
        scatter_part(id, at(id, base, row), lane_offsets(shape, j, lane_stride), lanes, v, m);
    }
  }
}

/// Lane l of row r of `rows` goes to l * rows + r: whole registers, put together from lanes of all rows.
void Emitter::store_interleaved(loop::BufferId id, const Tile& rows, Value* base, const std::optional<Tile>& mask) {
  const int n = rows.type.rows;
  auto woven = [&](llvm::ArrayRef<Value*> v, int lanes, int piece) {
    Value* out = v[0];
    for (int r = 1; r < n; ++r) {
      llvm::SmallVector<int, 64> from;
      for (int i = 0; i < lanes; ++i) {
        const int e = piece * lanes + i, row = e % n;
        from.push_back(row == r ? lanes + e / n : r > 1 ? i : row == 0 ? e / n : -1);
      }
      out = b.CreateShuffleVector(out, v[static_cast<std::size_t>(r)], from);
    }
    return out;
  };
  for (int j = 0; j < rows.parts_per_row(); ++j) {
    const int lanes = rows.part_lanes(j);
    llvm::SmallVector<Value*, 8> parts, masks;
    for (int r = 0; r < n; ++r) {
      parts.push_back(rows.part(r, j));
      if (mask) masks.push_back(operand_part(*mask, rows, r, j));
    }
    for (int piece = 0; piece < n; ++piece)
      store_part(id, at(id, base, i64(j * rows.chunk * n + piece * lanes)), lanes, woven(parts, lanes, piece),
                 mask ? woven(masks, lanes, piece) : nullptr);
  }
}

/// Whether a row of the tile is made of full registers that fill lines of the cache.
bool Emitter::fills_lines(const Tile& t) const {
  const auto bytes = static_cast<int>(dtype_bytes(t.type.elem));
  return target.kind == TargetSpec::Kind::cpu && t.type.elem != DType::boolean && t.chunk * bytes >= 16 &&
         t.type.lanes % t.chunk == 0 && t.type.lanes * bytes % line_bytes == 0;
}

/// A row of a tile around the caches, if its place is aligned, which is asked at run time: arrays of the caller, and
/// rows of any length, begin anywhere.
void Emitter::store_around(loop::BufferId id, Value* p, const Tile& t, int r) {
  llvm::BasicBlock *lines = new_block("lines"), *others = new_block("others"), *after = new_block("after");
  Value* rest = b.CreateAnd(b.CreatePtrToInt(p, b.getInt64Ty()), i64(line_bytes - 1));
  b.CreateCondBr(b.CreateICmpEQ(rest, i64(0)), lines, others);
  b.SetInsertPoint(others);
  for (int j = 0; j < t.parts_per_row(); ++j)
    store_part(id, at(id, p, i64(j * t.chunk)), t.chunk, t.part(r, j), nullptr);
  b.CreateBr(after);
  b.SetInsertPoint(lines);
  const Align align(
      std::min<std::uint64_t>(static_cast<std::uint64_t>(t.chunk) * dtype_bytes(t.type.elem), line_bytes));
  for (int j = 0; j < t.parts_per_row(); ++j) {
    auto* store = b.CreateAlignedStore(t.part(r, j), at(id, p, i64(j * t.chunk)), align);
    store->setMetadata(llvm::LLVMContext::MD_nontemporal,
                       llvm::MDNode::get(module.getContext(), llvm::ConstantAsMetadata::get(b.getInt32(1))));
    annotate(store, id);
  }
  b.CreateBr(after);
  b.SetInsertPoint(after);
  nontemporal_ = true;
}

Tile Emitter::load_indexed(const loop::Stmt& s) {
  loop::BufferId id = s.attr.buffer;
  VType type = kernel.type(s.results[0]);
  Tile out = make(type, std::min(native_lanes(type.elem), native_lanes(DType::i64)));
  Tile index = rechunk(value(s.operands[0]), out.chunk);
  auto mask = mask_of(s, 1, out);
  Value* base = pointer(id);
  for (int r = 0; r < type.rows; ++r)
    for (int j = 0; j < out.parts_per_row(); ++j) {
      Value* m = mask ? operand_part(*mask, out, r, j) : nullptr;
      out.parts[static_cast<std::size_t>(r * out.parts_per_row() + j)] =
          gather_part(id, base, operand_part(index, out, r, j), out.chunk == 1 ? 0 : out.part_lanes(j), m);
    }
  return out;
}

void Emitter::store_indexed(const loop::Stmt& s) {
  loop::BufferId id = s.attr.buffer;
  VType type = kernel.type(s.operands[0]);
  DType e = kernel.buffers[id.index].dtype;
  Tile shape = make({e, type.rows, type.lanes}, std::min(native_lanes(e), native_lanes(DType::i64)));
  Tile index = rechunk(value(s.operands[0]), shape.chunk);
  Tile stored = rechunk(value(s.operands[1]), shape.chunk);
  auto mask = mask_of(s, 2, shape);
  Value* base = pointer(id);
  for (int r = 0; r < type.rows; ++r)
    for (int j = 0; j < shape.parts_per_row(); ++j) {
      Value* m = mask ? operand_part(*mask, shape, r, j) : nullptr;
      scatter_part(id, base, operand_part(index, shape, r, j), shape.chunk == 1 ? 0 : shape.part_lanes(j),
                   operand_part(stored, shape, r, j), m);
    }
}

/// The address is one that may lie outside of the buffer, so it is not said to be `inbounds`.
void Emitter::prefetch(const loop::Stmt& s) {
  if (target.kind != TargetSpec::Kind::cpu) return;
  Value* p = at(s.attr.buffer, pointer(s.attr.buffer), scalar(s.operands[0]));
  const auto locality = 4 - s.attr.index;  // LLVM's 3 is the first level
  auto* call = b.CreateIntrinsic(llvm::Intrinsic::prefetch, {p->getType()},
                                 {p, b.getInt32(0), b.getInt32(locality), b.getInt32(1)});
  annotate(call, s.attr.buffer);
}

}  // namespace ag::codegen

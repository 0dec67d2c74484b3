// The function, structured control flow, and synchronisation.
#include <llvm/BinaryFormat/Dwarf.h>
#include <llvm/IR/DIBuilder.h>
#include <llvm/IR/Intrinsics.h>
#include <llvm/IR/IntrinsicsX86.h>
#include <llvm/Transforms/Utils/Local.h>

#include "codegen/llvm/emit_internal.hpp"

namespace ag::codegen {
using llvm::BasicBlock;
using llvm::Value;
using loop::Mapping;
using loop::Op;
using loop::OpClass;

namespace {
constexpr std::size_t max_emitted = 200'000;    // statements after unrolling: beyond, LLVM takes minutes
constexpr std::int64_t max_unroll = 1024;
}  // namespace

Emitter::Emitter(const loop::Kernel& kernel, const TargetSpec& target, const EmitOptions& options, llvm::Module& module,
                 Dialect& dialect)
    : kernel(kernel),
      target(target),
      options(options),
      module(module),
      dialect(dialect),
      b(module.getContext()),
      entry(module.getContext()),
      arith(b, this->target),
      values_(kernel.values.size()),
      buffers_(kernel.buffers.size()),
      dims_(kernel.dims.size(), nullptr) {}

Status Emitter::run() {
  function = dialect.begin(*this);
  BasicBlock* entry_block = BasicBlock::Create(module.getContext(), "entry", function);
  BasicBlock* body = new_block("body");
  exit_ = new_block("exit");
  // The entry block keeps its branch last; what belongs there is inserted before it.
  entry.SetInsertPoint(llvm::BranchInst::Create(body, entry_block));
  b.SetInsertPoint(body);
  std::unique_ptr<llvm::DIBuilder> debug;
  if (options.line_info) {
    debug = std::make_unique<llvm::DIBuilder>(module);
    auto* file = debug->createFile("kernel.loops", ".");
    auto* unit = debug->createCompileUnit(llvm::DISourceLanguageName(llvm::dwarf::DW_LANG_C), file, "ag", true, "", 0,
                                          "", llvm::DICompileUnit::LineTablesOnly);
    (void)unit;
    auto* type = debug->createSubroutineType(debug->getOrCreateTypeArray({}));
    subprogram_ = debug->createFunction(file, options.symbol, options.symbol, file, 1, type, 1, llvm::DINode::FlagZero,
                                        llvm::DISubprogram::SPFlagDefinition | llvm::DISubprogram::SPFlagOptimized);
    function->setSubprogram(subprogram_);
    module.addModuleFlag(llvm::Module::Warning, "Debug Info Version", llvm::DEBUG_METADATA_VERSION);
    entry.SetCurrentDebugLocation(llvm::DILocation::get(module.getContext(), 1, 0, subprogram_));
  }
  make_alias_scopes();
  emit_block(kernel.top());
  b.CreateBr(exit_);
  exit_->moveAfter(b.GetInsertBlock());
  drop_unused();
  b.SetInsertPoint(exit_);
  if (nontemporal_) b.CreateIntrinsic(llvm::Intrinsic::x86_sse_sfence, llvm::ArrayRef<Value*>());
  b.CreateRetVoid();
  if (debug) debug->finalize();
  if (too_large_)
    return fail(Code::AG4005, {},
                "the kernel has more than " + std::to_string(max_emitted) + " statements once unrolled");
  return {};
}

/// Places and offsets that nothing asked for in the end.
void Emitter::drop_unused() {
  for (BasicBlock& block : llvm::reverse(*function))
    for (llvm::Instruction& i : llvm::make_early_inc_range(llvm::reverse(block)))
      if (llvm::isInstructionTriviallyDead(&i)) i.eraseFromParent();
}

BasicBlock* Emitter::new_block(const char* name) { return BasicBlock::Create(module.getContext(), name, function); }

void Emitter::set_line(const loop::Stmt& s) {
  if (subprogram_) b.SetCurrentDebugLocation(llvm::DILocation::get(module.getContext(), s.origin, 0, subprogram_));
}

void Emitter::emit_block(loop::BlockId id) {
  for (loop::StmtId stmt : kernel.blocks[id].stmts) {
    const loop::Stmt& s = kernel.stmts[stmt];
    if (s.op == Op::yield) return;
    if (++emitted_ > max_emitted) {
      too_large_ = true;  // the module is thrown away; values are needed all the same so that emission can go on
    }
    set_line(s);
    emit_stmt(s);
  }
}

void Emitter::emit_stmt(const loop::Stmt& s) {
  auto set = [&](Tile t) { values_[s.results[0].index] = std::move(t); };
  switch (s.op) {
    case Op::constant: return set(constant_tile(kernel.type(s.results[0]), s.attr.imm));
    case Op::dim: return set(scalar_tile(emit_dim(Dim::symbol(kernel.dims[s.attr.index])), DType::i64));
    case Op::lane_iota: return set(iota(kernel.type(s.results[0]), false));
    case Op::row_iota: return set(iota(kernel.type(s.results[0]), true));
    case Op::reduce_lanes: return set(reduce_lanes(s.attr.reduce, value(s.operands[0])));
    case Op::reduce_rows: return set(reduce_rows(s.attr.reduce, value(s.operands[0])));
    case Op::transpose: return set(transpose(value(s.operands[0])));
    case Op::contract: return set(contract(value(s.operands[0]), value(s.operands[1]), value(s.operands[2])));
    case Op::broadcast: return set(broadcast(value(s.operands[0]), kernel.type(s.results[0])));
    case Op::extract: return set(extract(value(s.operands[0]), static_cast<int>(s.attr.index)));
    case Op::shuffle_xor: return set(shuffle_xor(value(s.operands[0]), s.attr.index));
    case Op::load: return set(load_indexed(s));
    case Op::store: return store_indexed(s);
    case Op::load_tile: return set(load_tile(s));
    case Op::store_tile: return store_tile(s);
    case Op::for_: return emit_for(s);
    case Op::while_: return emit_while(s);
    case Op::if_: return emit_if(s);
    case Op::barrier: return dialect.barrier(*this);
    case Op::poll: return emit_poll();
    case Op::prefetch: return prefetch(s);
    case Op::trap: return emit_trap(s);
    default: return set(elementwise(s));
  }
}

void Emitter::set_values(const std::vector<loop::ValueId>& ids, const Tiles& tiles, std::size_t first) {
  for (std::size_t i = first; i < ids.size(); ++i) values_[ids[i].index] = tiles[i - first];
}

/// What block `id` yields, in the form in which values cross blocks.
Emitter::Tiles Emitter::yielded(loop::BlockId id) {
  Tiles tiles;
  for (loop::ValueId v : kernel.stmts[kernel.blocks[id].stmts.back()].operands)
    tiles.push_back(rechunk(value(v), canonical_chunk(kernel.type(v))));
  return tiles;
}

Emitter::Tiles Emitter::phis(const Tiles& like) {
  Tiles out = like;
  for (Tile& t : out)
    for (Value*& v : t.parts) v = b.CreatePHI(v->getType(), 2);
  return out;
}

void Emitter::add_incoming(const Tiles& phis, const Tiles& values, BasicBlock* from) {
  for (std::size_t i = 0; i < phis.size(); ++i)
    for (std::size_t k = 0; k < phis[i].parts.size(); ++k)
      llvm::cast<llvm::PHINode>(phis[i].parts[k])->addIncoming(values[i].parts[k], from);
}

Emitter::Tiles Emitter::body_once(Value* iv, const Tiles& carried, loop::BlockId body) {
  const auto& args = kernel.blocks[body].args;
  values_[args[0].index] = scalar_tile(iv, DType::i64);
  set_values(args, carried, 1);
  emit_block(body);
  return yielded(body);
}

/// All our loops are in final form already.
llvm::MDNode* Emitter::loop_metadata() {
  auto& context = module.getContext();
  auto flag = [&](const char* name, llvm::SmallVector<llvm::Metadata*, 2> more = {}) {
    llvm::SmallVector<llvm::Metadata*, 2> ops{llvm::MDString::get(context, name)};
    ops.append(more.begin(), more.end());
    return llvm::MDNode::get(context, ops);
  };
  auto* no = llvm::ConstantAsMetadata::get(b.getFalse());
  auto self = llvm::MDNode::getTemporary(context, {});
  auto* node = llvm::MDNode::getDistinct(
      context, {self.get(), flag("llvm.loop.unroll.disable"), flag("llvm.loop.vectorize.enable", {no})});
  node->replaceOperandWith(0, node);
  return node;
}

namespace {
/// hi is lo and something more: a piece of a loop.
bool lies_before(const Value* lo, const Value* hi) {
  auto* sum = llvm::dyn_cast<llvm::BinaryOperator>(hi);
  if (!sum || sum->getOpcode() != llvm::Instruction::Add || sum->getOperand(0) != lo) return false;
  auto* more = llvm::dyn_cast<llvm::ConstantInt>(sum->getOperand(1));
  return more && more->getSExtValue() > 0;
}
}  // namespace

/// A loop that tests at its end, behind a guard unless it is known to run.
Emitter::Tiles Emitter::loop_nest(Value* lo, Value* hi, Value* step, Tiles init, loop::BlockId body) {
  Value* guard = lies_before(lo, hi) ? b.getTrue() : b.CreateICmpSLT(lo, hi);
  auto* known = llvm::dyn_cast<llvm::ConstantInt>(guard);
  if (known && known->isZero()) return init;
  BasicBlock *before = b.GetInsertBlock(), *loop = new_block("loop"), *after = new_block("after");
  if (known)
    b.CreateBr(loop);
  else
    b.CreateCondBr(guard, loop, after);

  b.SetInsertPoint(loop);
  auto* iv = b.CreatePHI(b.getInt64Ty(), 2);
  iv->addIncoming(lo, before);
  Tiles carried = phis(init);
  add_incoming(carried, init, before);
  Tiles next = body_once(iv, carried, body);
  Value* next_iv = b.CreateNSWAdd(iv, step);
  BasicBlock* latch = b.GetInsertBlock();
  auto* branch = b.CreateCondBr(b.CreateICmpSLT(next_iv, hi), loop, after);
  branch->setMetadata(llvm::LLVMContext::MD_loop, loop_metadata());
  iv->addIncoming(next_iv, latch);
  add_incoming(carried, next, latch);

  after->moveAfter(latch);
  b.SetInsertPoint(after);
  if (known) return next;
  Tiles results = phis(init);
  add_incoming(results, init, before);
  add_incoming(results, next, latch);
  return results;
}

/// Emits the body once per iteration if the bounds are constant, also by way of an outer unrolled loop.
bool Emitter::unroll(Value* lo, Value* hi, Value* step, Tiles& carried, loop::BlockId body) {
  auto* first = llvm::dyn_cast<llvm::ConstantInt>(lo);
  auto* end = llvm::dyn_cast<llvm::ConstantInt>(hi);
  auto* by = llvm::dyn_cast<llvm::ConstantInt>(step);
  if (!first || !end || !by || by->getSExtValue() <= 0 || too_large_) return false;
  auto span = static_cast<__int128>(end->getSExtValue()) - first->getSExtValue();
  if (span > static_cast<__int128>(max_unroll) * by->getSExtValue()) return false;
  for (auto i = first->getSExtValue(); i < end->getSExtValue() && !too_large_; i += by->getSExtValue())
    carried = body_once(i64(i), carried, body);
  return true;
}

void Emitter::emit_for(const loop::Stmt& s) {
  Value *lo = scalar(s.operands[0]), *hi = scalar(s.operands[1]), *step = scalar(s.operands[2]);
  Tiles carried;
  for (std::size_t i = 3; i < s.operands.size(); ++i)
    carried.push_back(rechunk(value(s.operands[i]), canonical_chunk(kernel.type(s.operands[i]))));
  switch (s.attr.mapping) {
    case Mapping::unrolled:
      if (unroll(lo, hi, step, carried, s.blocks[0])) return set_values(s.results, carried);
      break;
    case Mapping::tile: std::tie(lo, hi) = dialect.mapped(*this, Mapping::tile); break;
    case Mapping::serial: break;
    default: {  // this thread's iterations: its index, then on by the number of threads
      auto [index, count] = dialect.mapped(*this, s.attr.mapping);
      lo = b.CreateAdd(lo, b.CreateMul(index, step));
      step = b.CreateMul(step, count);
    }
  }
  set_values(s.results, loop_nest(lo, hi, step, std::move(carried), s.blocks[0]));
}

void Emitter::emit_while(const loop::Stmt& s) {
  Tiles init;
  for (loop::ValueId v : s.operands) init.push_back(rechunk(value(v), canonical_chunk(kernel.type(v))));
  BasicBlock *before = b.GetInsertBlock(), *header = new_block("while");
  b.CreateBr(header);
  b.SetInsertPoint(header);
  Tiles carried = phis(init);
  add_incoming(carried, init, before);
  set_values(kernel.blocks[s.blocks[0]].args, carried);
  emit_block(s.blocks[0]);
  Tiles tested = yielded(s.blocks[0]);
  Value* condition = tested[0].parts[0];
  tested.erase(tested.begin());

  BasicBlock *body = new_block("do"), *after = new_block("after");
  b.CreateCondBr(condition, body, after);
  b.SetInsertPoint(body);
  set_values(kernel.blocks[s.blocks[1]].args, tested);
  emit_block(s.blocks[1]);
  add_incoming(carried, yielded(s.blocks[1]), b.GetInsertBlock());
  b.CreateBr(header)->setMetadata(llvm::LLVMContext::MD_loop, loop_metadata());

  after->moveAfter(b.GetInsertBlock());
  b.SetInsertPoint(after);
  set_values(s.results, tested);
}

void Emitter::emit_if(const loop::Stmt& s) {
  BasicBlock *then = new_block("then"), *otherwise = new_block("else"), *after = new_block("after");
  b.CreateCondBr(scalar(s.operands[0]), then, otherwise);
  std::array<Tiles, 2> results;
  std::array<BasicBlock*, 2> ends;
  for (std::size_t i = 0; i < 2; ++i) {
    b.SetInsertPoint(i == 0 ? then : otherwise);
    emit_block(s.blocks[i]);
    results[i] = yielded(s.blocks[i]);
    ends[i] = b.GetInsertBlock();
    b.CreateBr(after);
  }
  after->moveAfter(ends[1]);
  b.SetInsertPoint(after);
  Tiles merged = phis(results[0]);
  for (std::size_t i = 0; i < 2; ++i) add_incoming(merged, results[i], ends[i]);
  set_values(s.results, merged);
}

namespace {

Value* field(Emitter& e, std::size_t offset) {
  return e.b.CreateConstGEP1_64(e.b.getInt8Ty(), e.dialect.context(e), offset);
}

}  // namespace

void Emitter::emit_poll() {
  auto* flag =
      b.CreateAlignedLoad(b.getInt32Ty(), field(*this, offsetof(loop::ContextBlock, cancelled)), llvm::Align(4));
  flag->setAtomic(llvm::AtomicOrdering::Monotonic);
  BasicBlock* go_on = new_block("go_on");
  b.CreateCondBr(b.CreateICmpNE(flag, b.getInt32(0)), exit_, go_on);
  b.SetInsertPoint(go_on);
}

/// The first trap wins the kind by compare-and-swap and then describes itself; readers wait for the kernel's end.
void Emitter::emit_trap(const loop::Stmt& s) {
  using loop::ContextBlock;
  BasicBlock *hit = new_block("trap"), *won = new_block("won"), *after = new_block("after");
  b.CreateCondBr(scalar(s.operands[0]), hit, after);
  b.SetInsertPoint(hit);
  auto relaxed = llvm::AtomicOrdering::Monotonic;
  Value* exchanged = b.CreateAtomicCmpXchg(field(*this, offsetof(ContextBlock, trap_kind)), b.getInt32(0),
                                           b.getInt32(s.attr.index), llvm::Align(4), relaxed, relaxed);
  b.CreateCondBr(b.CreateExtractValue(exchanged, 1), won, after);
  b.SetInsertPoint(won);
  b.CreateAlignedStore(b.getInt32(s.origin), field(*this, offsetof(ContextBlock, trap_origin)), llvm::Align(4));
  Value* detail = s.operands.size() > 1 ? scalar(s.operands[1]) : i64(0);
  b.CreateAlignedStore(detail, field(*this, offsetof(ContextBlock, trap_detail)), llvm::Align(8));
  b.CreateBr(after);
  b.SetInsertPoint(after);
}

}  // namespace ag::codegen

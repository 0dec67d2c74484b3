// Shared by the .cpp files of this folder only: the one place outside .cpp files where LLVM headers stand.
#pragma once
#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/SmallVector.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Module.h>

#include "codegen/backend.hpp"
#include "ir/loop/abi.hpp"

namespace llvm {
class Target;
}

namespace ag::codegen {

/// Element-level semantics (the table in ir/loop/kernel.hpp) over LLVM values that are scalars or vectors.
/// In registers f16 and bf16 are their bits (i16) and a bool is an i1; in memory a bool is a byte.
class Arith {
 public:
  Arith(llvm::IRBuilder<>& builder, const TargetSpec& target) : b_(builder), target_(target) {}

  llvm::Type* reg_type(DType t) const;
  llvm::Type* mem_type(DType t) const;
  llvm::Constant* constant(DType t, std::uint64_t bits) const;

  llvm::Value* unary(loop::Op op, DType t, llvm::Value* v);
  llvm::Value* binary(loop::Op op, DType t, llvm::Value* x, llvm::Value* y);
  llvm::Value* compare(loop::Op op, DType t, llvm::Value* x, llvm::Value* y);
  llvm::Value* fma(DType t, llvm::Value* x, llvm::Value* y, llvm::Value* z);
  llvm::Value* cast(DType from, DType to, llvm::Value* v);
  llvm::Value* bitcast(DType from, DType to, llvm::Value* v);
  llvm::Value* widen(DType t, llvm::Value* v);   ///< f16, bf16 -> f32
  llvm::Value* narrow(DType t, llvm::Value* v);  ///< f32 -> f16, bf16
  bool fills_zmm(const llvm::Value* v) const;
  llvm::Value* scale(llvm::Value* x, llvm::Value* n);  ///< of values that fill a zmm register
  llvm::Value* sqrt_by_fma(llvm::Value* v);            ///< of f32 that fill a zmm register

 private:
  llvm::Value* float_binary(loop::Op op, llvm::Value* x, llvm::Value* y);
  llvm::Value* float_extreme(loop::Op op, llvm::Value* x, llvm::Value* y);
  llvm::Value* float_rem(llvm::Value* x, llvm::Value* y);
  llvm::Value* all_lanes(const llvm::Value* v);
  llvm::Value* int_binary(loop::Op op, DType t, llvm::Value* x, llvm::Value* y);
  llvm::Value* div_rem(bool rem, DType t, llvm::Value* x, llvm::Value* y);
  llvm::Value* divide_by_constant(llvm::Value* x, const llvm::APInt& d);
  llvm::Value* divide_by_power(llvm::Value* x, unsigned n);
  llvm::Value* div_rem_by_float(bool rem, DType t, llvm::Value* x, llvm::Value* y);
  llvm::Value* shift(loop::Op op, DType t, llvm::Value* x, llvm::Value* count);
  llvm::Value* ldexp(DType t, llvm::Value* x, llvm::Value* k);
  llvm::Value* mulhi(llvm::Value* x, llvm::Value* y);
  llvm::Value* cast_to_float(DType from, DType to, llvm::Value* v);
  llvm::Value* round_to_odd(llvm::Value* f64);

  llvm::IRBuilder<>& b_;
  const TargetSpec& target_;
};

/// A tile value: rows of parts, row after row. `chunk` lanes make a part, the last of a row may have fewer.
/// With chunk 1 (tiles of one lane, and all tiles on a GPU) parts are scalars, otherwise vectors.
struct Tile {
  loop::VType type;
  int chunk = 1;
  llvm::SmallVector<llvm::Value*, 4> parts;

  int parts_per_row() const { return (type.lanes + chunk - 1) / chunk; }
  int part_lanes(int j) const { return std::min(chunk, type.lanes - j * chunk); }
  llvm::Value* part(int r, int j) const { return parts[static_cast<std::size_t>(r * parts_per_row() + j)]; }
};

class Emitter;

/// What differs between machines: the entry, thread indices, synchronisation.
struct Dialect {
  virtual ~Dialect() = default;
  /// Creates the entry function (in Emitter::module) and leaves the emitter's builder in its entry block.
  virtual llvm::Function* begin(Emitter& e) = 0;
  virtual llvm::Value* param_pointer(Emitter& e, std::size_t index) = 0;
  virtual llvm::Value* dim(Emitter& e, std::size_t index) = 0;
  virtual llvm::Value* context(Emitter& e) = 0;
  virtual llvm::Value* scratch(Emitter& e) = 0;
  virtual llvm::Value* shared(Emitter& e, loop::BufferId b, std::int64_t elems) = 0;
  /// For a mapped loop: this thread's index and the number of threads (i64). Bounds for `tile`.
  virtual std::pair<llvm::Value*, llvm::Value*> mapped(Emitter& e, loop::Mapping m) = 0;
  virtual void barrier(Emitter& e) = 0;
  virtual llvm::Value* shuffle_xor(Emitter& e, llvm::Value* i32, std::uint32_t mask) = 0;
  /// Why this target cannot run the kernel; nothing if it can.
  virtual bool supports(loop::Mapping m) const = 0;
  virtual bool supports(loop::Scope s) const = 0;
  virtual bool supports(loop::Op op) const = 0;
};

/// Emits one kernel as one function. Only what check_emittable() let through comes here.
class Emitter {
 public:
  Emitter(const loop::Kernel& kernel, const TargetSpec& target, const EmitOptions& options, llvm::Module& module,
          Dialect& dialect);
  Status run();

  const loop::Kernel& kernel;
  const TargetSpec& target;
  const EmitOptions& options;
  llvm::Module& module;
  Dialect& dialect;
  llvm::IRBuilder<> b;      ///< where code goes
  llvm::IRBuilder<> entry;  ///< the end of the entry block: parameters and allocas
  llvm::Function* function = nullptr;
  Arith arith;

 private:
  // emit_tiles.cpp
  int native_lanes(DType e) const;
  int canonical_chunk(loop::VType t) const;
  Tile rechunk(const Tile& t, int chunk);
  llvm::Value* slice(llvm::Value* v, int from, int count);
  llvm::Value* splat(llvm::Value* scalar, const Tile& shape, int j);
  llvm::Value* element(const Tile& t, int r, int l);
  llvm::Value* operand_part(const Tile& t, const Tile& shape, int r, int j);
  Tile make(loop::VType type, int chunk) const;
  Tile constant_tile(loop::VType type, std::uint64_t bits);
  Tile iota(loop::VType type, bool rows);
  Tile elementwise(const loop::Stmt& s);
  bool leaves_divider(const loop::Stmt& s, const Tile& shape, int j) const;
  std::optional<Tile> compare_iota(const loop::Stmt& s);
  std::optional<Tile> scale_by_rounded(const loop::Stmt& s);
  Tile convert(const Tile& t, DType e);
  Tile reduce_lanes(loop::ReduceKind kind, const Tile& t);
  void reduce_together(loop::ReduceKind kind, DType e, int lanes, llvm::SmallVectorImpl<llvm::Value*>& rows);
  Tile reduce_rows(loop::ReduceKind kind, const Tile& t);
  Tile transpose(const Tile& t);
  Tile contract(const Tile& acc, const Tile& x, const Tile& y);
  Tile broadcast(const Tile& t, loop::VType type);
  Tile extract(const Tile& t, int lane);
  Tile shuffle_xor(const Tile& t, std::uint32_t mask);
  llvm::Value* combine(loop::ReduceKind kind, DType t, llvm::Value* x, llvm::Value* y);

  // emit_memory.cpp
  struct BufferAccess {
    llvm::Value* pointer = nullptr;
    llvm::MDNode *scope = nullptr, *noalias = nullptr;
    bool invariant = false;
  };
  void make_alias_scopes();
  llvm::Value* pointer(loop::BufferId b);
  llvm::Value* emit_dim(const Dim& d);
  llvm::Value* emit_factor(const Dim::Factor& f);
  void annotate(llvm::Instruction* i, loop::BufferId b);
  Tile load_tile(const loop::Stmt& s);
  void store_tile(const loop::Stmt& s);
  void store_interleaved(loop::BufferId id, const Tile& rows, llvm::Value* base, const std::optional<Tile>& mask);
  bool moves_turned(loop::VType t, llvm::Value* row_stride, llvm::Value* lane_stride) const;
  Tile load_rows(loop::BufferId b, loop::VType type, llvm::Value* base, llvm::Value* row_stride,
                 llvm::Value* lane_stride, const std::optional<Tile>& mask);
  Tile load_indexed(const loop::Stmt& s);
  void store_indexed(const loop::Stmt& s);
  void prefetch(const loop::Stmt& s);
  llvm::Value* load_part(loop::BufferId b, llvm::Value* pointer, int lanes, llvm::Value* mask);
  void store_part(loop::BufferId b, llvm::Value* pointer, int lanes, llvm::Value* value, llvm::Value* mask);
  bool fills_lines(const Tile& t) const;
  void store_around(loop::BufferId b, llvm::Value* pointer, const Tile& stored, int r);
  llvm::Value* gather_part(loop::BufferId b, llvm::Value* base, llvm::Value* index, int lanes, llvm::Value* mask);
  void scatter_part(loop::BufferId b, llvm::Value* base, llvm::Value* index, int lanes, llvm::Value* value,
                    llvm::Value* mask);
  llvm::Value* lane_offsets(const Tile& shape, int j, llvm::Value* lane_stride);
  llvm::Value* at(loop::BufferId b, llvm::Value* base, llvm::Value* index);
  std::optional<Tile> mask_of(const loop::Stmt& s, std::size_t operand, const Tile& shape);

  // emit_control.cpp
  void emit_block(loop::BlockId id);
  void emit_stmt(const loop::Stmt& s);
  void emit_for(const loop::Stmt& s);
  void emit_while(const loop::Stmt& s);
  void emit_if(const loop::Stmt& s);
  void emit_poll();
  void emit_trap(const loop::Stmt& s);
  using Tiles = std::vector<Tile>;
  Tiles loop_nest(llvm::Value* lo, llvm::Value* hi, llvm::Value* step, Tiles init, loop::BlockId body);
  bool unroll(llvm::Value* lo, llvm::Value* hi, llvm::Value* step, Tiles& carried, loop::BlockId body);
  Tiles body_once(llvm::Value* iv, const Tiles& carried, loop::BlockId body);
  Tiles yielded(loop::BlockId id);
  Tiles phis(const Tiles& like);
  void add_incoming(const Tiles& phis, const Tiles& values, llvm::BasicBlock* from);
  void set_values(const std::vector<loop::ValueId>& ids, const Tiles& tiles, std::size_t first = 0);
  llvm::MDNode* loop_metadata();
  void set_line(const loop::Stmt& s);
  void drop_unused();

  const Tile& value(loop::ValueId v) const { return values_[v.index]; }
  llvm::Value* scalar(loop::ValueId v) const { return values_[v.index].parts[0]; }
  Tile scalar_tile(llvm::Value* v, DType e) const { return {loop::VType{e, 1, 1}, 1, {v}}; }
  llvm::ConstantInt* i64(std::int64_t v) { return b.getInt64(static_cast<std::uint64_t>(v)); }
  llvm::BasicBlock* new_block(const char* name);

  std::vector<Tile> values_;
  std::vector<BufferAccess> buffers_;
  std::vector<llvm::Value*> dims_;
  llvm::Value* context_ = nullptr;
  llvm::BasicBlock* exit_ = nullptr;
  llvm::DISubprogram* subprogram_ = nullptr;
  llvm::DenseMap<std::tuple<const llvm::BasicBlock*, const llvm::Value*, unsigned>, llvm::Value*>
      splats_;  ///< by lanes
  std::size_t emitted_ = 0;
  bool too_large_ = false;
  bool nontemporal_ = false;  ///< some store goes around the caches

  friend struct Dialect;
};

/// The part that both backends share: check, emit into a fresh module, verify, run LLVM's code generator.
Result<std::string> emit_kernel(const loop::Kernel& kernel, const TargetSpec& target, EmitKind kind,
                                const EmitOptions& options, std::string_view triple, Dialect& dialect);
/// Initialises LLVM's X86 and NVPTX targets, once.
void initialise_targets();
/// LLVM's description of a target, null if it has none.
const llvm::Target* find_target(std::string_view triple);
bool known_cpu(std::string_view triple, const std::string& cpu);
/// The first of `wanted` that the CPU with these features lacks, "" if it has all.
std::string missing_feature(std::string_view triple, const std::string& cpu, const std::string& features,
                            std::initializer_list<const char*> wanted);

/// A hash of the sources that decide what a kernel becomes; made by the build (cmake/source_hash.cmake).
extern const char* const source_hash;

extern const Backend cpu_backend;
extern const Backend cuda_backend;

}  // namespace ag::codegen

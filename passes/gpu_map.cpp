// Maps schedule-free kernels to a GPU's grid, blocks and threads.
//
// Points: a kernel whose body has no loop over reduced axes with free order computes one point of its nest of parallel
// loops a thread; the flattened index runs through the threads, last loop fastest, so that accesses coalesce.
// Columns (reductions along other axes than the last), contractions and scatters are of this form too.
//
// Rows: a body with such loops (row reductions and the passes over the row between them) gets a block of T threads for
// each point of the nest, or eight points of a warp each. Element e of the flattened row belongs to thread e mod T.
// Partial results of a thread are combined by a butterfly in each warp (16, 8, 4, 2, 1 lanes apart), then by one over
// the warps through shared memory, so that every thread has the result. T is 256, less only for rows of fewer elements;
// then each thread has at most one and the others hold identities, so that the bits do not depend on whether sizes are
// known.
//
// Loops over grid and block stride: every launch of at least one block computes everything. A grid of 0 blocks (an
// empty array) is not launched at all.
#include <algorithm>
#include <bit>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "passes/clone.hpp"
#include "passes/loop_nest.hpp"
#include "passes/lower_kernel.hpp"
#include "passes/pass.hpp"

namespace ag::passes {
namespace {

using loop::BlockId;
using loop::BufferId;
using loop::Builder;
using loop::ForOptions;
using loop::Mapping;
using loop::Op;
using loop::OpClass;
using loop::ReduceKind;
using loop::Scope;
using loop::Stmt;
using loop::StmtId;
using Buffers = std::set<BufferId>;
using LV = loop::ValueId;
using LVs = Builder::Values;

constexpr std::int64_t warp = 32;
constexpr std::int64_t block_threads = 256;
constexpr std::int64_t warps_per_block = block_threads / warp;
constexpr std::int64_t max_grid = std::numeric_limits<std::int32_t>::max();  // blocks along x
constexpr std::int64_t unsized_grid = 1024;  // blocks where the size is no expression over the dims

bool is_store(const Stmt& s) { return s.op == Op::store || s.op == Op::store_tile; }
bool is_load(const Stmt& s) { return s.op == Op::load || s.op == Op::load_tile; }

/// Loops of a body of which thread t runs iterations t, t + T, ... of the flattened range.
struct RowLoop {
  std::vector<StmtId> loops;  // a perfect nest, outermost first
  std::vector<ReduceKind> kinds;  // of the carried values
};

class GpuMapper {
 public:
  explicit GpuMapper(const loop::Kernel& k)
      : k_(k), b_(k.name), clone_(k, b_), nest_(find_nest(k)), uniform_(k.values.size(), 0), uses_(k.values.size(), 0) {
    for (const Stmt& s : k.stmts) {  // definitions come before their uses
      bool known = is_pure(s);
      for (LV v : s.operands) {
        ++uses_[v];
        known = known && uniform_[v];
      }
      for (LV v : s.results) uniform_[v] = known;
    }
  }

  Result<loop::Kernel> run() {
    AG_TRY_(check());
    if (!has_row_loops(nest_.body)) {
      points();
    } else {
      AG_TRY_(check_rows());
      rows(row_threads(), 1);
    }
    return hoist_invariants(std::move(b_).finish());
  }

  /// Rows of a warp, several to a block; nothing if the kernel is not of that form. Warps of a block leave at different
  /// times, so with barriers each row has its own block.
  std::optional<loop::Kernel> run_warps() {
    if (!check() || !has_row_loops(nest_.body) || !check_rows()) return std::nullopt;
    if (row_threads() != warp || nest_.loops.empty() || has_scratch()) return std::nullopt;
    rows(warp, warps_per_block);
    if (needs_barrier_) return std::nullopt;
    return hoist_invariants(std::move(b_).finish());
  }

 private:
  const loop::Kernel& k_;
  Builder b_;
  KernelCloner clone_;
  LoopNest nest_;
  IdMap<LV, char> uniform_;  // follows from constants and dims alone: can be computed before all loops
  IdMap<LV, std::uint32_t> uses_;
  std::int64_t threads_ = 1;  // of a row
  LV thread_;  // in its row
  Buffers read_, written_;  // by any thread of the block since the last barrier
  bool needs_barrier_ = false, uses_shared_ = false;

  static std::unexpected<Diags> refuse(const std::string& why) { return fail(Code::AG4021, {}, why); }

  // -- what cannot be mapped -------------------------------------------------------------------------------------
  Status check() const {
    for (const Stmt& s : k_.stmts)
      if (s.op == Op::for_ && s.attr.mapping != Mapping::serial && s.attr.mapping != Mapping::parallel &&
          s.attr.mapping != Mapping::unrolled)
        return refuse(fmt::format("it has a loop mapped to `{}` already", mapping_name(s.attr.mapping)));
    for (const NestLoop& l : nest_.loops)
      if (!uniform_[l.extent]) return refuse("the size of a parallel loop depends on the loops around it");
    if (has_scratch() && !has_row_loops(nest_.body))
      return refuse("it keeps values between loops that threads do not share");
    std::int64_t bytes = 0;
    for (const loop::Buffer& buffer : k_.buffers) {
      if (buffer.scope != Scope::scratch) continue;
      if (!buffer.elems.is_const())
        return refuse("it keeps a row of " + buffer.elems.str() +
                      " elements, but shared memory must have a constant size");
      auto size = checked_mul(buffer.elems.value(), static_cast<std::int64_t>(dtype_bytes(buffer.dtype)));
      auto sum = size ? checked_add(bytes, *size) : std::nullopt;
      if (!sum || *sum > gpu_row_bytes)
        return refuse(fmt::format("it keeps rows of more than {} bytes, which is what it may have of shared memory",
                                  gpu_row_bytes));
      bytes = *sum;
    }
    return {};
  }

  /// All threads of a row run its body: what is not split among them must not write.
  Status check_rows() const {
    for (StmtId id : k_.blocks[nest_.body].stmts) {
      const Stmt& s = k_.stmts[id];
      if (describe(s.op).cls != OpClass::control || s.op == Op::yield || row_loop(id)) continue;
      Buffers read, written;
      accesses(id, read, written);
      if (!written.empty())
        return refuse("between reductions of a row it writes in an order that threads cannot share");
    }
    return {};
  }

  bool has_scratch() const {
    return std::any_of(k_.buffers.begin(), k_.buffers.end(),
                       [](const loop::Buffer& b) { return b.scope == Scope::scratch; });
  }

  void accesses(StmtId id, Buffers& read, Buffers& written) const {
    const Stmt& s = k_.stmts[id];
    if (is_load(s)) read.insert(s.attr.buffer);
    if (is_store(s)) written.insert(s.attr.buffer);
    for (BlockId b : s.blocks)
      for (StmtId inner : k_.blocks[b].stmts) accesses(inner, read, written);
  }

  // -- launch and indices ------------------------------------------------------------------------------------------
  void begin(std::int64_t block_x, std::int64_t block_y) {
    clone_.clone_buffers();
    for (loop::Buffer& buffer : b_.kernel().buffers)
      if (buffer.scope == Scope::scratch) buffer.scope = Scope::shared;
    clone_.on_for = [](const Stmt&, ForOptions& o, LV&) {  // what one thread runs
      if (o.mapping == Mapping::parallel) o.mapping = Mapping::serial;
      o.reassociate = false;
    };
    b_.kernel().block = {static_cast<std::uint32_t>(block_x), static_cast<std::uint32_t>(block_y), 1};
  }

  /// The number of points of the nest as a value, and the grid of ceil(number / per_block) blocks.
  LV count_points(std::int64_t per_block) {
    Dim size = 1;
    bool sized = true;
    LV n = b_.index(1);
    for (const NestLoop& l : nest_.loops) {
      n = b_.mul(n, clone_.get(l.extent));
      sized = sized && l.size;
      if (sized) size = size * *l.size;
    }
    Dim blocks = ceildiv(size, Dim(per_block));
    if (!sized || !blocks.valid()) blocks = Dim(unsized_grid);
    if (!nest_.loops.empty())
      b_.kernel().grid[0] = blocks.is_const() ? Dim(std::min(blocks.value(), max_grid)) : min(blocks, Dim(max_grid));
    return n;
  }

  /// for i in [lo, hi): by the blocks or threads that `mapping` names.
  void mapped(Mapping mapping, LV lo, LV hi, std::int64_t step, const std::function<void(LV)>& body) {
    b_.for_(lo, hi, b_.index(step), {.mapping = mapping}, {}, [&](LV iv, const LVs&) {
      body(iv);
      return LVs{};
    });
  }

  /// for i in [first, first + n) below hi.
  void mapped_chunk(Mapping mapping, LV first, std::int64_t n, LV hi, const std::function<void(LV)>& body) {
    mapped(mapping, first, b_.op(Op::min, {b_.add(first, b_.index(n)), hi}), 1, body);
  }

  /// Sets the indices of loops from a flat one, the last loop fastest. 32-bit divisions are several times faster.
  void decode(const std::vector<std::pair<LV, LV>>& loops, LV flat) {  // (iv, extent) of the old kernel
    Dim total = 1;
    for (const auto& [iv, extent] : loops) {
      auto n = b_.int_value(clone_.get(extent));
      total = n ? total * Dim(*n) : Dim::invalid();
    }
    const DType t = total.valid() && total.value() <= max_grid ? DType::u32 : DType::i64;
    if (loops.size() > 1) flat = b_.cast(flat, t);
    for (std::size_t i = loops.size(); i-- > 0;) {
      LV index = flat;
      if (i > 0) {
        LV extent = b_.cast(clone_.get(loops[i].second), t);
        index = b_.op(Op::rem, {flat, extent});
        flat = b_.op(Op::div, {flat, extent});
      }
      clone_.set(loops[i].first, b_.cast(index, DType::i64));
    }
  }

  void decode_nest(LV point) {
    std::vector<std::pair<LV, LV>> loops;
    for (const NestLoop& l : nest_.loops) loops.emplace_back(l.iv, l.extent);
    decode(loops, point);
    for (const NestLoop& l : nest_.loops)  // index arithmetic between the loops, or the whole body
      if (k_.stmts[l.stmt].blocks[0] != nest_.body)
        clone_.clone_block(k_.stmts[l.stmt].blocks[0], [this](StmtId id) { return nest_.contains(id); });
  }

  /// Statements above the nest.
  void prologue() {
    if (!nest_.loops.empty()) clone_.clone_block(k_.top(), [this](StmtId id) { return nest_.contains(id); });
  }

  // -- one thread a point ------------------------------------------------------------------------------------------
  void points() {
    if (nest_.loops.empty()) {
      begin(1, 1);
      return clone_.clone_block(k_.top());
    }
    begin(block_threads, 1);
    prologue();
    LV n = count_points(block_threads);
    mapped(Mapping::grid_x, b_.index(0), n, block_threads, [&](LV first) {
      mapped_chunk(Mapping::block_x, first, block_threads, n, [&](LV point) {
        decode_nest(point);
        clone_.clone_block(nest_.body);
      });
    });
  }

  // -- a block or a warp a row
  // -----------------------------------------------------------------------------------------
  bool has_row_loops(BlockId block) const {
    const auto& stmts = k_.blocks[block].stmts;
    return std::any_of(stmts.begin(), stmts.end(), [&](StmtId id) { return row_loop(id).has_value(); });
  }

  const std::vector<LV>& yields(BlockId block) const { return k_.stmts[k_.blocks[block].stmts.back()].operands; }

  std::optional<RowLoop> row_loop(StmtId id) const {
    const Stmt* s = &k_.stmts[id];
    if (!free_order(*s)) return std::nullopt;
    RowLoop row{{id}, {}};
    for (std::optional<StmtId> inner; (inner = perfect_inner(*s)); s = &k_.stmts[*inner]) row.loops.push_back(*inner);
    for (std::size_t i = 3; i < s->operands.size(); ++i) {
      auto kind = reduction(k_.blocks[s->blocks[0]].args[i - 2], yields(s->blocks[0])[i - 3]);
      if (!kind) return std::nullopt;
      row.kinds.push_back(*kind);
    }
    return row;
  }

  bool free_order(const Stmt& s) const {
    return s.op == Op::for_ && s.attr.reassociate && uniform_[s.operands[1]] && is_const(s.operands[0], 0) &&
           is_const(s.operands[2], 1);
  }

  bool is_const(LV v, std::int64_t want) const {
    StmtId def = k_.values[v].def;
    return def.valid() && k_.stmts[def].op == Op::constant &&
           loop::bits_to_int(k_.type(v).elem, k_.stmts[def].attr.imm) == want;
  }

  /// The loop that is all that another one does, its carried values passed straight through.
  std::optional<StmtId> perfect_inner(const Stmt& outer) const {
    const loop::Block& body = k_.blocks[outer.blocks[0]];
    std::optional<StmtId> inner;
    for (StmtId id : body.stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.op == Op::yield || is_pure(s)) continue;
      if (inner || !free_order(s) || s.attr.mapping != outer.attr.mapping) return std::nullopt;
      inner = id;
    }
    if (!inner) return std::nullopt;
    const Stmt& s = k_.stmts[*inner];
    if (!std::equal(s.operands.begin() + 3, s.operands.end(), body.args.begin() + 1, body.args.end()))
      return std::nullopt;
    const auto& out = yields(outer.blocks[0]);
    if (!std::equal(out.begin(), out.end(), s.results.begin(), s.results.end())) return std::nullopt;
    return inner;
  }

  /// The reduction by which `yielded` is made from `carried`.
  std::optional<ReduceKind> reduction(LV carried, LV yielded) const {
    StmtId def = k_.values[yielded].def;
    if (!def.valid() || uses_[yielded] != 1) return std::nullopt;
    const Stmt& s = k_.stmts[def];
    if (uses_[carried] == 2) return selected_extremum(k_, s, carried);
    if (uses_[carried] != 1) return std::nullopt;
    auto at = [&](std::size_t i) { return i < s.operands.size() && s.operands[i] == carried; };
    if (s.op == Op::fma && at(2)) return ReduceKind::sum;
    if (!at(0) && !at(1)) return std::nullopt;
    for (ReduceKind kind :
         {ReduceKind::sum, ReduceKind::prod, ReduceKind::min, ReduceKind::max, ReduceKind::and_, ReduceKind::or_})
      if (s.op == reduce_op(kind)) return kind;
    return std::nullopt;
  }

  /// Threads of a row: 256, or as few warps as give each element of a shorter row its own thread.
  std::int64_t row_threads() const {
    std::int64_t most = warp;
    for (StmtId id : k_.blocks[nest_.body].stmts) {
      auto row = row_loop(id);
      if (!row) continue;
      Dim size = 1;
      for (StmtId l : row->loops) size = size * as_dim(k_, k_.stmts[l].operands[1]).value_or(Dim::invalid());
      if (!size.is_const() || !size.valid() || size.value() >= block_threads) return block_threads;
      most = std::max(most, static_cast<std::int64_t>(
                                std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(size.value(), 1)))));
    }
    return most;
  }

  void rows(std::int64_t threads, std::int64_t rows_per_block) {
    threads_ = threads;
    needs_barrier_ = uses_shared_ = false;
    read_.clear(), written_.clear();
    begin(threads, rows_per_block);
    prologue();
    LV n = count_points(rows_per_block);
    auto body = [&](LV point) {
      mapped(Mapping::block_x, b_.index(0), b_.index(threads), 1, [&](LV thread) {
        thread_ = thread;
        if (!nest_.loops.empty()) decode_nest(point);
        for (StmtId id : k_.blocks[nest_.body].stmts)
          if (k_.stmts[id].op != Op::yield) row_statement(id);
        if ((uses_shared_ || has_scratch()) && !nest_.loops.empty()) b_.barrier();  // before the block's next row
      });
    };
    if (nest_.loops.empty()) return body(LV{});
    if (rows_per_block == 1) return mapped(Mapping::grid_x, b_.index(0), n, 1, body);
    mapped(Mapping::grid_x, b_.index(0), n, rows_per_block,
           [&](LV first) { mapped_chunk(Mapping::block_y, first, rows_per_block, n, body); });
  }

  void barrier() {
    b_.barrier();
    needs_barrier_ = true;
    read_.clear(), written_.clear();
  }

  /// A barrier if another thread's earlier access must be ordered before those of the statement.
  void order(StmtId id) {
    Buffers read, written;
    accesses(id, read, written);
    auto meet = [](const Buffers& a, const Buffers& b) {
      return std::any_of(a.begin(), a.end(), [&](BufferId x) { return b.contains(x); });
    };
    if (meet(read, written_) || meet(written, written_) || meet(written, read_)) barrier();
    read_.insert(read.begin(), read.end());
    written_.insert(written.begin(), written.end());
  }

  void row_statement(StmtId id) {
    const Stmt& s = k_.stmts[id];
    order(id);
    if (auto row = row_loop(id)) return strided(*row);
    b_.set_origin(s.origin);
    if (!is_store(s)) return clone_.clone(id);  // every thread needs it, or the same trap
    b_.if_(b_.op(Op::cmp_eq, {thread_, b_.index(0)}), [&] { return clone_.clone(id), LVs{}; }, {});
  }

  /// This thread's share of the row, then the results of all threads together.
  void strided(const RowLoop& row) {
    const Stmt &outer = k_.stmts[row.loops.front()], &inner = k_.stmts[row.loops.back()];
    std::vector<std::pair<LV, LV>> loops;
    LV n = b_.index(1);
    for (StmtId id : row.loops) {
      const Stmt& s = k_.stmts[id];
      loops.emplace_back(k_.blocks[s.blocks[0]].args[0], s.operands[1]);
      n = b_.mul(n, clone_.get(s.operands[1]));
    }
    LVs init;
    for (std::size_t i = 0; i < row.kinds.size(); ++i) {
      const loop::VType& t = k_.type(outer.results[i]);
      init.push_back(b_.constant_bits(t, reduce_identity(row.kinds[i], t.elem)));
    }
    LVs partial =
        b_.for_(thread_, n, b_.index(threads_), {.role = outer.attr.role}, init, [&](LV flat, const LVs& carried) {
          decode(loops, flat);
          for (StmtId id : row.loops)
            if (id != row.loops.back())
              clone_.clone_block(k_.stmts[id].blocks[0], [&](StmtId s) { return !is_pure(k_.stmts[s]); });
          for (std::size_t i = 0; i < carried.size(); ++i)
            clone_.set(k_.blocks[inner.blocks[0]].args[i + 1], carried[i]);
          clone_.clone_block(inner.blocks[0]);
          return clone_.yielded(inner.blocks[0]);
        });
    b_.set_origin(outer.origin);
    combine(row, partial);
    for (std::size_t i = 0; i < partial.size(); ++i) {
      LV first = clone_.get(outer.operands[i + 3]);
      clone_.set(outer.results[i], first == init[i] ? partial[i] : b_.op(reduce_op(row.kinds[i]), {first, partial[i]}));
    }
  }

  LV butterfly(ReduceKind kind, LV v, std::int64_t lanes) {
    for (std::int64_t mask = lanes / 2; mask; mask /= 2)
      v = b_.op(reduce_op(kind), {v, b_.shuffle_xor(v, static_cast<int>(mask))});
    return v;
  }

  void combine(const RowLoop& row, LVs& values) {
    if (values.empty()) return;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = butterfly(row.kinds[i], values[i], warp);
    const std::int64_t warps = threads_ / warp;
    if (warps == 1) return;
    std::vector<BufferId> shared;
    for (LV v : values) shared.push_back(b_.alloc(b_.type(v).elem, Dim(warps), Scope::shared));
    LV lane = b_.op(Op::rem, {thread_, b_.index(warp)}), which = b_.op(Op::div, {thread_, b_.index(warp)});
    b_.if_(b_.op(Op::cmp_eq, {lane, b_.index(0)}),
           [&] {
             for (std::size_t i = 0; i < values.size(); ++i) b_.store(shared[i], which, values[i]);
             return LVs{};
           },
           {});
    barrier();
    uses_shared_ = true;
    LV from = b_.op(Op::rem, {thread_, b_.index(warps)});
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = butterfly(row.kinds[i], b_.load(shared[i], from), warps);
  }
};

/// The place and label of the first call of a kernel, for messages.
std::pair<Loc, std::string> first_call(const loop::Program& p, const loop::Seq& seq, loop::KernelId id) {
  for (const loop::Step& step : seq.steps) {
    if (const auto* call = std::get_if<loop::KernelCall>(&step.value)) {
      if (call->kernel != id) continue;
      bool placed = !call->origins.empty() && call->origins[0] < p.sources.size();
      return {placed ? p.sources[call->origins[0]] : Loc{}, call->label};
    }
    std::vector<const loop::Seq*> nested;
    if (const auto* branch = std::get_if<loop::IfStep>(&step.value))
      nested = {branch->then.get(), branch->otherwise.get()};
    if (const auto* loop = std::get_if<loop::WhileStep>(&step.value)) nested = {loop->cond.get(), loop->body.get()};
    for (const loop::Seq* s : nested)
      if (auto found = s ? first_call(p, *s, id) : std::pair<Loc, std::string>{}; !found.second.empty()) return found;
  }
  return {};
}

Result<loop::Program> run(loop::Program program, PassContext& context) {
  Diags refused;
  for (std::size_t i = 0; i < program.kernels.size(); ++i) {
    loop::KernelId id(i);
    if (auto warps = GpuMapper(program.kernels[id]).run_warps()) {
      program.kernels[id] = std::move(*warps);
      continue;
    }
    auto mapped = GpuMapper(program.kernels[id]).run();
    if (mapped) {
      program.kernels[id] = std::move(*mapped);
      continue;
    }
    auto [loc, label] = first_call(program, program.body, id);
    const std::string& target = context.target.name;
    refused.push_back(error(mapped.error()[0].code, loc,
                            fmt::format("`{}` cannot be mapped to {}", label, target.empty() ? "a GPU" : target),
                            mapped.error()[0].message));
  }
  if (!refused.empty()) return fail(std::move(refused));
  return program;
}

}  // namespace

const Pass gpu_map = {.name = "gpu_map", .summary = "grid, blocks and threads of a GPU", .on_program = run};

}  // namespace ag::passes

// Schedules kernels for a CPU: which loops become tiles for threads, rows and lanes of registers.
//
// A kernel is a nest of parallel loops around a body. The nest's `col` loop goes to lanes; with a `row` loop beside it
// (contractions) the two become a register tile; without a `col` loop the body's own loops over the reduced axes
// go to lanes. All other loops are flattened into the kernel's tile range. Which loop plays which role was
// fixed by lowering from the op alone, so the order of every reduction is the same however sizes are known.
#include <algorithm>
#include <set>

#include "passes/clone.hpp"
#include "passes/loop_nest.hpp"
#include "passes/pass.hpp"

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::BlockId;
using loop::Builder;
using loop::ForOptions;
using loop::Mapping;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;

/// Additions a tile should be worth: large against the cost of a call (tens of ns), small against a thread's share.
constexpr std::int64_t tile_work = 32768;
/// Rows of a contraction that share one panel of columns while it lies in the second-level cache.
constexpr std::int64_t rows_per_panel = 96;
/// The same when the panel is a packed copy, which costs about as much as a few rows of products.
constexpr std::int64_t rows_per_packed_panel = 384, min_packed_rows = 4;
/// Contracted elements of a panel beyond which its copy lies in no cache.
constexpr std::int64_t max_panel_depth = 1 << 15;

class CpuScheduler {
 public:
  CpuScheduler(const loop::Kernel& k, const TargetSpec& target)
      : k_(k), target_(target), b_(k.name), clone_(k, b_), nest_(find_nest(k)) {}

  loop::Kernel run() {
    clone_.clone_buffers();
    if (!nest_.loops.empty())
      for (StmtId id : k_.blocks[k_.top()].stmts)  // sizes, strides
        if (is_pure(k_.stmts[id])) clone_.clone(id);
    for (const NestLoop& l : nest_.loops)
      if (l.role == AxisRole::col)
        col_ = &l;
      else if (l.role == AxisRole::row)
        row_ = &l;
      else
        outer_.push_back(&l);
    clone_.on_for = [this](const Stmt& s, ForOptions& o, LV& step) { inner_loop(s, o, step); };
    if (nest_.loops.empty()) {
      body();
    } else if (!all_sized()) {
      serial_nest(0);
    } else if (row_ && col_) {
      contraction();
    } else {
      elementwise();
    }
    return hoist_invariants(std::move(b_).finish());
  }

 private:
  const loop::Kernel& k_;
  const TargetSpec& target_;
  Builder b_;
  KernelCloner clone_;
  LoopNest nest_;
  const NestLoop *col_ = nullptr, *row_ = nullptr;
  std::vector<const NestLoop*> outer_;

  // -- the nest -----------------------------------------------------------------------------------------------
  bool all_sized() const {
    return std::all_of(nest_.loops.begin(), nest_.loops.end(), [](const NestLoop& l) { return l.size.has_value(); });
  }

  /// Index arithmetic between the loops, then the innermost block.
  void body() {
    for (const NestLoop& l : nest_.loops)
      clone_.clone_block(k_.stmts[l.stmt].blocks[0], [this](StmtId id) { return nest_.contains(id); });
    if (nest_.loops.empty()) clone_.clone_block(k_.top());
  }

  void serial_nest(std::size_t i) {
    if (i == nest_.loops.size()) return body();
    b_.for_each(clone_.get(nest_.loops[i].extent), {.mapping = Mapping::serial, .role = nest_.loops[i].role},
                [&](LV iv) {
                  clone_.set(nest_.loops[i].iv, iv);
                  serial_nest(i + 1);
                });
  }

  // -- lanes ------------------------------------------------------------------------------------------------------
  /// Bytes of the elements that decide how many fit into a register.
  std::size_t element_bytes() const {
    bool wide = false, narrow = false;
    for (const loop::Buffer& b : k_.buffers) {
      if (b.dtype == DType::f64) return 8;
      wide = wide || dtype_bytes(b.dtype) == 8;
      narrow = narrow || dtype_bytes(b.dtype) < 8;
    }
    return wide && !narrow ? 8 : 4;
  }
  int lanes() const { return target_.lanes(element_bytes()); }

  /// Lanes of a loop: up to `registers` full registers, no more than the size needs.
  int width_for(const std::optional<Dim>& size, int registers) const {
    int width = lanes() * registers;
    if (size && size->is_const())
      while (width > lanes() && width / 2 >= size->value()) width /= 2;
    return width;
  }

  /// Loops over reduced axes: four accumulators of a register each hide the latency of an addition.
  void inner_loop(const Stmt& s, ForOptions& o, LV& step) {
    if (o.mapping == Mapping::parallel) o.mapping = Mapping::serial;
    if (col_ || s.attr.role != AxisRole::reduce || !s.attr.reassociate || !innermost_loop(s)) return;
    bool carries = s.operands.size() > 3;
    int width = width_for(as_dim(k_, s.operands[1]), carries ? 4 : 2);
    o.mapping = Mapping::vector;
    o.width = static_cast<std::uint16_t>(width);
    step = b_.index(width);
  }

  bool innermost_loop(const Stmt& s) const {
    for (StmtId id : k_.blocks[s.blocks[0]].stmts)
      if (k_.stmts[id].op == Op::for_ || k_.stmts[id].op == Op::while_) return false;
    return true;
  }

  void vector_loop(LV lo, LV hi, int width, const std::function<void(LV)>& body) {
    ForOptions o{.mapping = Mapping::vector, .role = AxisRole::col, .width = static_cast<std::uint16_t>(width)};
    b_.for_(lo, hi, b_.index(width), o, {}, [&](LV iv, const Builder::Values&) {
      body(iv);
      return Builder::Values{};
    });
  }

  // -- maps and reductions -----------------------------------------------------------------------------------------
  Dim outer_size() const {
    Dim n = 1;
    for (const NestLoop* l : outer_) n = n * *l->size;
    return n;
  }

  void tiles(const Dim& count, const std::function<void(LV)>& body) {
    b_.kernel().tiles = count;
    b_.for_(b_.index(0), b_.dim(count), b_.index(1), {.mapping = Mapping::tile}, {}, [&](LV t, const Builder::Values&) {
      b_.poll();
      body(t);
      return Builder::Values{};
    });
  }

  /// Sets the outer loops' indices from a flat one, the last loop fastest.
  void decode(LV flat) {
    for (std::size_t i = outer_.size(); i-- > 0;) {
      if (i == 0) {
        clone_.set(outer_[i]->iv, flat);
        break;
      }
      LV size = b_.dim(*outer_[i]->size);
      clone_.set(outer_[i]->iv, b_.op(Op::rem, {flat, size}));
      flat = b_.op(Op::div, {flat, size});
    }
  }

  /// Work of one iteration of all nest loops together, if the estimate is a plain number.
  Dim work_per_point() const {
    Dim points = 1;
    for (const NestLoop& l : nest_.loops) points = points * *l.size;
    return max(floordiv(k_.flops, max(points, Dim(1))), Dim(1));
  }

  void elementwise() {
    int width = col_ ? width_for(col_->size, has_inner_loop(nest_.body) ? 1 : 2) : 1;
    Dim work = work_per_point();
    if (outer_.empty()) {  // one long axis
      Dim chunk =
          work.is_const() ? Dim(std::max<std::int64_t>(tile_work / work.value() / width, 1) * width) : Dim(width);
      tiles(ceildiv(*col_->size, chunk), [&](LV t) {
        LV lo = b_.mul(t, b_.dim(chunk));
        LV hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(*col_->size)});
        vector_loop(lo, hi, width, [&](LV iv) {
          clone_.set(col_->iv, iv);
          body();
        });
      });
      return;
    }
    Dim per_row = work * (col_ ? *col_->size : Dim(1));
    Dim chunk = max(floordiv(Dim(tile_work), max(per_row, Dim(1))), Dim(1)), rows = outer_size();
    tiles(ceildiv(rows, chunk), [&](LV t) {
      LV lo = b_.mul(t, b_.dim(chunk));
      LV hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(rows)});
      b_.for_(lo, hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
              [&](LV flat, const Builder::Values&) {
                decode(flat);
                if (col_)
                  vector_loop(b_.index(0), b_.dim(*col_->size), width, [&](LV iv) {
                    clone_.set(col_->iv, iv);
                    body();
                  });
                else
                  body();
                return Builder::Values{};
              });
    });
  }

  bool has_inner_loop(BlockId block) const {
    for (StmtId id : k_.blocks[block].stmts)
      if (k_.stmts[id].op == Op::for_) return true;
    return false;
  }

  // -- contractions --------------------------------------------------------------------------------------------------
  struct RegisterTile {
    int rows, registers;  // registers of lanes per row
  };

  /// Tiles that reach the FMA peak without spills, with operands as they lie (research in docs/decisions.md): rows x
  /// registers accumulators, one register per column block, one for the broadcast.
  RegisterTile pick_tile() const {
    const std::vector<RegisterTile> wide{{6, 4}, {8, 3}, {12, 2}, {14, 1}}, narrow{{6, 2}, {12, 1}};
    const std::vector<RegisterTile>& options = target_.vector_registers >= 32 ? wide : narrow;
    const Dim& n = *col_->size;
    RegisterTile best = options[0];
    if (n.is_const()) {
      std::int64_t need = (n.value() + lanes() - 1) / lanes(), least = INT64_MAX;
      for (const RegisterTile& t : options) {
        std::int64_t used = (need + t.registers - 1) / t.registers * t.registers;
        if (used < least) least = used, best = t;
      }
    }
    if (row_->size->is_const()) {
      std::int64_t m = row_->size->value(), blocks = (m + best.rows - 1) / best.rows;
      best.rows = static_cast<int>((m + blocks - 1) / std::max<std::int64_t>(blocks, 1));
    }
    return best;
  }

  // -- packing ------------------------------------------------------------------------------------------------------
  /// A load in the contracted loops whose column axis is not contiguous: its panel is copied column by column into
  /// scratch, [depth x width], once for all rows of the tile.
  struct Panel {
    StmtId load;
    std::vector<StmtId> loops;  // the contracted loops around it, outermost first
    Dim depth;
    loop::BufferId scratch;
  };
  std::vector<Panel> panels_;

  void find_panels() {
    if (row_->size->is_const() && row_->size->value() < min_packed_rows) return;
    std::vector<StmtId> loops;
    find_panels_in(nest_.body, loops);
  }

  void find_panels_in(BlockId block, std::vector<StmtId>& loops) {
    for (StmtId id : k_.blocks[block].stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.op == Op::for_ && s.attr.role == AxisRole::reduce) {
        loops.push_back(id);
        find_panels_in(s.blocks[0], loops);
        loops.pop_back();
      } else if (s.op == Op::load && s.operands.size() == 1 && !loops.empty() && strided(s, loops)) {
        Panel p{id, loops, 1, {}};
        for (StmtId l : loops) {
          auto extent = as_dim(k_, k_.stmts[l].operands[1]);
          if (!extent) return;
          p.depth = p.depth * *extent;
        }
        bool fits = !p.depth.is_const() || p.depth.value() <= max_panel_depth;
        if (fits) panels_.push_back(std::move(p));
      }
    }
  }

  /// Neighbouring columns are not neighbours in memory, and the place does not depend on the row.
  bool strided(const Stmt& load, const std::vector<StmtId>& loops) const {
    auto symbol = [](LV v) { return "%" + std::to_string(v.index); };
    std::function<std::optional<Dim>(LV)> leaf = [&](LV v) -> std::optional<Dim> {
      for (const NestLoop& l : nest_.loops)
        if (l.iv == v) return Dim::symbol(symbol(v));
      for (StmtId l : loops)
        if (k_.blocks[k_.stmts[l].blocks[0]].args[0] == v) return Dim::symbol(symbol(v));
      StmtId def = k_.values[v].def;  // axes that a reshape took together; indices are not negative
      if (!def || (k_.stmts[def].op != Op::div && k_.stmts[def].op != Op::rem)) return std::nullopt;
      auto a = as_dim(k_, k_.stmts[def].operands[0], leaf), b = as_dim(k_, k_.stmts[def].operands[1], leaf);
      if (!a || !b || b->is(0)) return std::nullopt;
      return k_.stmts[def].op == Op::div ? floordiv(*a, *b) : mod(*a, *b);
    };
    std::optional<Dim> index = as_dim(k_, load.operands[0], leaf);
    if (!index) return false;
    std::set<std::string> used;
    index->collect_symbols(used);
    if (!used.contains(symbol(col_->iv)) || used.contains(symbol(row_->iv))) return false;
    Dim next = index->substitute({{symbol(col_->iv), Dim::symbol(symbol(col_->iv)) + 1}});
    return !(next - *index).is(1);
  }

  LV iv_of(StmtId loop_stmt) const { return k_.blocks[k_.stmts[loop_stmt].blocks[0]].args[0]; }

  /// Position in the panel: contracted indices in row-major order, then the column.
  LV panel_index(const Panel& p, KernelCloner& c, LV column, int width) {
    LV flat = b_.index(0);
    for (StmtId l : p.loops) flat = b_.add(b_.mul(flat, b_.dim(*as_dim(k_, k_.stmts[l].operands[1]))), c.get(iv_of(l)));
    return b_.add(b_.mul(flat, b_.index(width)), column);
  }

  void pack(const Panel& p, LV n_lo, int width) {
    const Stmt& load = k_.stmts[p.load];
    b_.for_each(b_.index(width), {.mapping = Mapping::serial}, [&](LV column) {
      KernelCloner c = clone_;
      LV last = b_.sub(b_.dim(*col_->size), b_.index(1));
      c.set(col_->iv, b_.op(Op::min, {b_.add(n_lo, column), last}));  // columns beyond the last repeat it; nobody looks
      pack_loops(p, 0, c, [&] {
        b_.store(p.scratch, panel_index(p, c, column, width),
                 b_.load(c.get(load.attr.buffer), c.get(load.operands[0])));
      });
    });
  }

  void pack_loops(const Panel& p, std::size_t i, KernelCloner& c, const std::function<void()>& body) {
    if (i == p.loops.size()) return body();
    bool innermost = i + 1 == p.loops.size();
    LV extent = b_.dim(*as_dim(k_, k_.stmts[p.loops[i]].operands[1]));
    auto step = [&](LV iv) {
      c.set(iv_of(p.loops[i]), iv);
      pack_loops(p, i + 1, c, body);
    };
    if (innermost)
      vector_loop(b_.index(0), extent, lanes(), step);
    else
      b_.for_each(extent, {.mapping = Mapping::serial}, step);
  }

  LV packed(const Stmt& load, LV n_lo, int width) {
    for (const Panel& p : panels_)
      if (&k_.stmts[p.load] == &load)
        return b_.load(p.scratch, panel_index(p, clone_, b_.sub(clone_.get(col_->iv), n_lo), width));
    return {};
  }

  void contraction() {
    RegisterTile tile = pick_tile();
    int width = tile.registers * lanes(), mr = std::max(tile.rows, 1);
    const Dim &m = *row_->size, &n = *col_->size;
    find_panels();
    for (Panel& p : panels_)
      p.scratch =
          b_.alloc(k_.buffers[k_.stmts[p.load].attr.buffer.index].dtype, p.depth * Dim(width), loop::Scope::scratch);
    std::int64_t chunk =
        std::max<std::int64_t>((panels_.empty() ? rows_per_panel : rows_per_packed_panel) / mr, 1) * mr;
    Dim m_chunks = ceildiv(m, Dim(chunk)), n_blocks = ceildiv(n, Dim(width));
    bool n_full = mod(n, Dim(width)).is(0), m_full = mod(m, Dim(chunk)).is(0);
    tiles(outer_size() * n_blocks * m_chunks, [&](LV t) {
      LV mc = b_.op(Op::rem, {t, b_.dim(m_chunks)}), rest = b_.op(Op::div, {t, b_.dim(m_chunks)});
      LV nb = b_.op(Op::rem, {rest, b_.dim(n_blocks)});
      decode(b_.op(Op::div, {rest, b_.dim(n_blocks)}));
      LV n_lo = b_.mul(nb, b_.index(width)), m_lo = b_.mul(mc, b_.index(chunk));
      LV n_hi = b_.add(n_lo, b_.index(width)), m_hi = b_.add(m_lo, b_.index(chunk));
      if (!n_full) n_hi = b_.op(Op::min, {n_hi, b_.dim(n)});
      if (!m_full) m_hi = b_.op(Op::min, {m_hi, b_.dim(m)});
      for (const Panel& p : panels_) pack(p, n_lo, width);
      clone_.on_load = [this, n_lo, width](const Stmt& load) { return packed(load, n_lo, width); };
      ForOptions rows{.mapping = Mapping::rows, .role = AxisRole::row, .width = static_cast<std::uint16_t>(mr)};
      b_.for_(m_lo, m_hi, b_.index(mr), rows, {}, [&](LV mi, const Builder::Values&) {
        vector_loop(n_lo, n_hi, width, [&](LV ni) {
          clone_.set(row_->iv, mi);
          clone_.set(col_->iv, ni);
          body();
        });
        return Builder::Values{};
      });
    });
  }
};

Result<loop::Program> run(loop::Program program, PassContext& context) {
  for (loop::Kernel& k : program.kernels) k = CpuScheduler(k, context.target).run();
  return program;
}

}  // namespace

const Pass schedule = {
    .name = "schedule", .summary = "tiles for threads, rows and lanes of registers", .on_program = run};

}  // namespace ag::passes

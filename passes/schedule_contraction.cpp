// Schedules contractions for a CPU: the nest's `row` and `col` loops become tiles of registers, columns that are not
// contiguous become packed panels, and blocks of both become the tiles that threads share.
#include <algorithm>
#include <set>

#include "passes/schedule_internal.hpp"

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

/// Rows of a contraction that share one panel of columns while it lies in the second-level cache.
constexpr std::int64_t rows_per_panel = 96;
/// The same when the panel is a packed copy, which costs about as much as a few rows of products.
constexpr std::int64_t rows_per_packed_panel = 384, min_packed_rows = 4;
/// Contracted elements of a panel beyond which its copy lies in no cache.
constexpr std::int64_t max_panel_depth = 1 << 15;

class ContractionScheduler : public CpuNest {
 public:
  using CpuNest::CpuNest;

  loop::Kernel run() {
    begin();
    clone_.on_for = [](const Stmt&, ForOptions& o, LV&) {
      if (o.mapping == Mapping::parallel) o.mapping = Mapping::serial;
    };
    schedule();
    return finish();
  }

 private:
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

  void schedule() {
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

}  // namespace

loop::Kernel schedule_contraction(const loop::Kernel& kernel, const TargetSpec& target) {
  return ContractionScheduler(kernel, target).run();
}

}  // namespace ag::passes

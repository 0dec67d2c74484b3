// Schedules contractions for a CPU: the nest's `row` and `col` loops become tiles of registers, panels of columns
// are packed where they lie badly, and blocks of both become the tasks that threads share. What is chosen
// comes from contraction_model.hpp; how it is written, and the interpreter of loops, sees the order of tasks only.
#include <algorithm>
#include <numeric>

#include "passes/contraction_ahead.hpp"
#include "passes/contraction_body.hpp"
#include "passes/contraction_model.hpp"
#include "passes/contraction_pack.hpp"
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
using Int = std::int64_t;

/// Instructions of an epilogue, for all registers of a tile, beyond which it is a loop of its own; steps of depth below
/// which that costs more than some hundredths of the time, and the pass roll serves.
constexpr int long_epilogue = 256, shallow = 64;

class ContractionScheduler : public DotNest {
 public:
  using DotNest::DotNest;

  loop::Kernel run() {
    begin_contraction();
    analyse();
    allocate();
    schedule();
    return finish();
  }

 private:
  std::vector<const NestLoop*> batch_, shared_;  // outer loops: of both operands; of rows alone
  ContractionSizes sizes_;
  RegisterTile tile_;
  Blocking plan_;
  PackedColumns packed_;
  LinesAhead lines_;
  std::size_t split_ = 0;  // the contracted loop that is cut into blocks of depth
  Int split_step_ = 0;  // 0: it is not
  bool long_epilogue_ = false;  // sums wait in scratch memory, and one loop makes results of them
  Int band_ = 0;  // rows whose sums wait so, where depth is not cut; else all of a task's
  std::optional<loop::BufferId> partial_;  // sums between blocks of depth, or that wait for their epilogue
  int width_ = 0;
  std::vector<StmtId> row_loads_, panel_loads_;  // streams whose lines are asked for ahead of their use
  Int chunk_ = 0;  // steps of depth between requests; 0: there are none
  bool dots_ = false;  // along lanes, if the run has few rows
  bool in_place_ = false;  // what is written reads columns where they lie, though others pack them

  // -- what there is ------------------------------------------------------------------------------------------------
  static std::optional<Int> number(const Dim& d) { return d.is_const() ? std::optional(d.value()) : std::nullopt; }

  Int element_size(StmtId load) const {
    return static_cast<Int>(dtype_bytes(k_.buffers[k_.stmts[load].attr.buffer.index].dtype));
  }

  void analyse() {
    IndexSteps steps(k_);
    std::vector<StmtId> columns, rows;
    for (StmtId l : body_.loads) {
      LV index = k_.stmts[l].operands[0];
      bool on_col = steps.depends(index, col_->iv), on_row = row_ && steps.depends(index, row_->iv);
      if (on_col && !on_row) columns.push_back(l);
      if (on_row && !on_col) rows.push_back(l);
    }
    split_outer(steps, columns);
    sizes_.rows = row_ ? number(*row_->size) : 1;
    sizes_.cols = number(*col_->size);
    Dim depth = 1;
    for (const Dim& d : body_.extents) depth = depth * d;
    sizes_.depth = number(depth);
    auto product_of = [](const std::vector<const NestLoop*>& loops) {  // an estimate
      Int n = 1;
      for (const NestLoop* l : loops)
        n = std::min<Int>(n * std::clamp<Int>(number(*l->size).value_or(4), 1, 1 << 20), 1 << 20);
      return n;
    };
    sizes_.batch = product_of(batch_), sizes_.outer = product_of(shared_);
    sizes_.lanes = lanes();
    sizes_.element_bytes = static_cast<Int>(element_bytes());
    for (StmtId l : columns)
      if (Int n = steps.divisor(k_.stmts[l].operands[0], col_->iv); n > 0) sizes_.panel = static_cast<int>(n);
    for (StmtId l : rows) {
      auto apart = steps.step(k_.stmts[l].operands[0], row_->iv, 0);
      if (apart && apart->is_const() && apart->value() != 0 && apart->value() * element_size(l) % 4096 == 0)
        sizes_.rows_collide = true;
    }
    tile_ = pick_tile(sizes_, target_);
    width_ = tile_.registers * lanes();
    const OperandLayout lies = columns_layout(k_, steps, columns, *col_, body_, width_);
    plan_ = pick_blocking(sizes_, tile_, lies, target_);
    if (plan_.pack_columns) packed_.add(k_, columns, steps, *col_, body_, width_, lanes());
    dots_ = along_lanes() && row_ && !sizes_.rows && sizes_.cols;
    pick_split();
    pick_band();
    pick_streams(steps, rows, columns);
    pick_lines(steps, rows);
  }

  void pick_lines(const IndexSteps& steps, const std::vector<StmtId>& rows) {
    if (!row_ || body_.loops.empty()) return;
    lines_.pick_rows(k_, steps, rows, row_->iv, body_, sizes_);
    // Results that the second-level cache holds are beside operands that it holds.
    const Int cells = sizes_.rows.value_or(width_) * sizes_.outer * sizes_.cols.value_or(width_);
    if (split_step_ || 2 * cells * sizes_.element_bytes < target_.l2_bytes) return;
    for (const NestLoop& l : nest_.loops)
      lines_.pick_beside(k_, steps, k_.stmts[l.stmt].blocks[0], row_->iv, col_->iv, width_);
  }

  /// Streams whose next lines have known addresses, and how often a line of them is begun.
  void pick_streams(const IndexSteps& steps, const std::vector<StmtId>& rows, const std::vector<StmtId>& columns) {
    if (!row_ || body_.loops.empty() || !body_.extents.back().is_const()) return;
    const LV depth = body_.iv(k_, body_.loops.size() - 1);
    auto runs = [&](StmtId l, const Dim& by) {
      auto deeper = steps.step(k_.stmts[l].operands[0], depth, 0);
      return deeper && *deeper == by;
    };
    auto known = [&](StmtId l, LV iv, Int within) {
      return steps.step(k_.stmts[l].operands[0], iv, within).has_value();
    };
    if (plan_.fetch_rows)
      for (StmtId l : rows)
        if (runs(l, 1) && known(l, row_->iv, 0)) row_loads_.push_back(l);
    if (plan_.fetch_panel && plan_.outer == 1 && split_step_ == 0)
      for (StmtId l : columns)
        if (runs(l, width_) && known(l, col_->iv, width_)) panel_loads_.push_back(l);
    if (row_loads_.empty() && panel_loads_.empty()) return;
    const Int line = 64 / sizes_.element_bytes, depth_steps = body_.extents.back().value();
    for (Int c = line; c >= line / 2 && chunk_ == 0; --c)
      if (depth_steps % c == 0 && split_step_ % c == 0) chunk_ = c;
  }

  /// Outer loops that the columns' operand does not see are further rows.
  void split_outer(const IndexSteps& steps, const std::vector<StmtId>& columns) {
    for (const NestLoop* l : outer_) {
      bool both = columns.empty() || std::any_of(columns.begin(), columns.end(), [&](StmtId load) {
                    return steps.depends(k_.stmts[load].operands[0], l->iv);
                  });
      (both ? batch_ : shared_).push_back(l);
    }
  }

  /// Which contracted loop is cut so that a block has about plan_.depth steps.
  void pick_split() {
    if (plan_.depth == 0 || body_.loops.empty()) return;
    Int inner = 1;
    split_ = body_.loops.size() - 1;
    while (split_ > 0 && body_.extents[split_].is_const() && inner * body_.extents[split_].value() <= plan_.depth)
      inner *= body_.extents[split_--].value();
    split_step_ = std::max<Int>(plan_.depth / inner, 1);
    const Dim& extent = body_.extents[split_];
    if (extent.is_const() && split_ == 0 && extent.value() <= split_step_) split_step_ = 0, split_ = 0;
    if (split_step_ > lanes()) split_step_ = (split_step_ + lanes() - 1) / lanes() * lanes();
  }

  /// An epilogue whose statements, for all registers of a tile, are more than LLVM should see.
  void pick_band() {
    if (body_.loops.empty() || sizes_.depth.value_or(shallow) < shallow) return;
    const int statements = epilogue_statements(k_, nest_.body, body_);
    long_epilogue_ = statements * tile_.rows * tile_.registers >= long_epilogue;
    if (!long_epilogue_ || split_step_) return;
    band_ = row_ ? tile_.rows : 1;
  }

  Dim rows_of_task() const {
    if (!row_) return Dim(plan_.outer);
    return plan_.outer > 1 ? *row_->size * Dim(plan_.outer) : Dim(plan_.rows);
  }

  /// Rows of `partial_`.
  Dim rows_kept() const { return band_ ? Dim(band_) : rows_of_task(); }

  void allocate() {
    Dim depth = 1;
    for (std::size_t i = split_; i < body_.extents.size(); ++i)
      depth = depth * (i == split_ && split_step_ ? Dim(split_step_) : body_.extents[i]);
    packed_.allocate(b_, depth, plan_.group);
    if (split_step_ || long_epilogue_)
      partial_ = b_.alloc(k_.type(k_.stmts[body_.loops[0]].results[0]).elem, rows_kept() * Dim(plan_.group * width_),
                          band_ ? loop::Scope::local : loop::Scope::scratch);
    if (!dots_) return;
    const Int task = plan_.panels * width_;
    DotBlocking plan = pick_dots(4, task, *sizes_.depth, sizes_.element_bytes, target_);
    plan.task = task;
    begin_dots(col_, row_, most_few_rows, plan);
  }

  // -- tasks ----------------------------------------------------------------------------------------------------------
  static Dim size_of(const std::vector<const NestLoop*>& loops) {
    Dim n = 1;
    for (const NestLoop* l : loops) n = n * *l->size;
    return n;
  }

  /// The loops' indices from a flat one, the last loop fastest.
  void decode(KernelCloner& c, const std::vector<const NestLoop*>& loops, LV flat) {
    for (std::size_t i = loops.size(); i-- > 0;) {
      LV size = b_.dim(*loops[i]->size);
      c.set(loops[i]->iv, i == 0 ? flat : b_.op(Op::rem, {flat, size}));
      if (i > 0) flat = b_.op(Op::div, {flat, size});
    }
  }

  LV least(LV a, LV b) { return b_.op(Op::min, {a, b}); }

  /// What a task works on.
  struct Task {
    LV outer_lo, outer_hi, m_lo, m_hi;  // iterations of the outer rows; rows of each
    bool whole_rows = false;  // m_hi - m_lo is a number of whole tiles
  };

  void schedule() {
    Dim m = row_ ? *row_->size : Dim(1), outer = size_of(shared_), per_outer = ceildiv(m, Dim(plan_.rows));
    Dim parts = plan_.outer > 1 ? ceildiv(outer, Dim(plan_.outer)) : outer * per_outer;
    parts = ceildiv(parts, Dim(plan_.supers));
    Dim panels = ceildiv(*col_->size, Dim(width_)), groups = ceildiv(panels, Dim(plan_.panels));
    tiles(size_of(batch_) * Dim(plan_.supers) * groups * parts, [&](LV t) {
      KernelCloner c = clone_;
      auto next = [&](const Dim& size) {
        LV digit = size.is(1) ? b_.index(0) : b_.op(Op::rem, {t, b_.dim(size)});
        if (!size.is(1)) t = b_.op(Op::div, {t, b_.dim(size)});
        return digit;
      };
      LV part = next(parts), group = next(groups), super = next(Dim(plan_.supers));
      decode(c, batch_, t);
      part = b_.add(b_.mul(super, b_.dim(parts)), part);
      Task task;
      if (plan_.outer > 1) {
        task.outer_lo = b_.mul(part, b_.index(plan_.outer));
        task.outer_hi = least(b_.add(task.outer_lo, b_.index(plan_.outer)), b_.dim(outer));
        task.m_lo = b_.index(0), task.m_hi = b_.dim(m);
      } else {
        bool one = per_outer.is(1);
        LV at = one ? part : b_.op(Op::div, {part, b_.dim(per_outer)});
        task.m_lo = one ? b_.index(0) : b_.mul(b_.op(Op::rem, {part, b_.dim(per_outer)}), b_.index(plan_.rows));
        task.m_hi = b_.add(task.m_lo, b_.index(plan_.rows));
        task.whole_rows = mod(m, Dim(plan_.rows)).is(0);
        if (one)
          task.m_hi = b_.dim(m);
        else if (!task.whole_rows)
          task.m_hi = least(task.m_hi, b_.dim(m));
        task.outer_lo = at, task.outer_hi = b_.add(at, b_.index(1));
      }
      // The last part of a super may be beyond the rows there are.
      bool beyond =
          plan_.supers > 1 &&
          !mod(plan_.outer > 1 ? ceildiv(outer, Dim(plan_.outer)) : outer * per_outer, Dim(plan_.supers)).is(0);
      if (!beyond) return panels_of(c, task, group);
      b_.if_(b_.op(Op::cmp_lt, {task.outer_lo, b_.dim(outer)}),
             [&] { return panels_of(c, task, group), Builder::Values{}; }, {});
    });
  }

  /// Columns at work: panels of the tile's width, or less than one.
  struct Columns {
    LV lo, hi;
    bool panels = true;
  };

  void panels_of(const KernelCloner& from, const Task& task, LV group) {
    KernelCloner c = from;
    if (plan_.outer == 1) decode(c, shared_, task.outer_lo);
    const Dim& n = *col_->size;
    const Int step = plan_.panels * width_;
    LV lo = b_.mul(group, b_.index(step)), hi = b_.add(lo, b_.index(step));
    if (!mod(n, Dim(step)).is(0)) hi = least(hi, b_.dim(n));
    const Dim m = row_ ? *row_->size : Dim(1);
    auto panels = [&] { return panels_of(c, task, lo, hi), Builder::Values{}; };
    auto few = [&](Int rows, auto&& then, auto&& otherwise) {
      b_.if_(b_.op(Op::cmp_lt, {b_.dim(m), b_.index(rows)}), then, otherwise);
      return Builder::Values{};
    };
    auto in_order = [&] {
      if (!plan_.pack_from) return panels();
      return few(
          plan_.pack_from, [&] { return in_place_ = true, panels(); }, [&] { return in_place_ = false, panels(); });
    };
    if (!dots_) return void(in_order());
    auto along_lanes = [&] { return add_dots(c, lo, hi), rest_of_dots(c, lo, hi), Builder::Values{}; };
    few(most_few_rows + 1, along_lanes, in_order);
  }

  void panels_of(const KernelCloner& c, const Task& task, LV lo, LV hi) {
    const Dim& n = *col_->size;
    const Int step = plan_.panels * width_;
    if (!n.is_const()) return columns(c, task, {lo, hi, false});
    Int rest = n.value() % width_, full = n.value() - rest;
    LV end = hi;
    if (rest != 0) end = full == 0 ? lo : least(hi, b_.index(full));
    if (full != 0) groups(c, task, lo, end);
    if (rest == 0) return;
    auto tail = [&] { columns(c, task, {b_.index(full), b_.index(n.value()), false}); };
    if (step >= n.value()) return tail();
    b_.if_(b_.op(Op::cmp_lt, {end, hi}), [&] { return tail(), Builder::Values{}; }, {});
  }

  /// Whole panels, as many at a time as lie in the cache together; none if a task is the tail alone.
  void groups(const KernelCloner& c, const Task& task, LV lo, LV hi) {
    const Int step = plan_.group * width_;
    b_.for_(lo, hi, b_.index(step), {}, {}, [&](LV at, const Builder::Values&) {
      LV end = b_.add(at, b_.index(step));
      if (plan_.group > 1) end = least(end, hi);
      return columns(c, task, {at, end, plan_.group > 1}), Builder::Values{};
    });
  }

  // -- depth --------------------------------------------------------------------------------------------------------
  LV extent(std::size_t loop) { return b_.dim(body_.extents[loop]); }

  void pack(const KernelCloner& c, const DepthRange& range, const Columns& n) {
    if (!in_place_) packed_.pack(b_, c, range, n.lo, n.hi);
  }

  void read(KernelCloner& cell, const DepthRange& range, const Columns& n) {
    if (!in_place_) packed_.read(b_, cell, range, n.lo);
    if (row_ && plan_.fetch_copied) packed_.ask_next(b_, cell, cell.get(row_->iv), plan_.fetch_copied, n.lo);
  }

  void columns(const KernelCloner& c, const Task& task, const Columns& n) {
    if (!split_step_) {
      DepthRange all{0, b_.index(0), body_.loops.empty() ? b_.index(0) : extent(0)};
      if (!body_.loops.empty()) all.multiple = number(body_.extents[0]).value_or(1);
      pack(c, all, n);
      if (long_epilogue_) return bands(c, task, n, all);
      return sweep(c, task, n, [&](KernelCloner& cell) {
        read(cell, all, n);
        lines_.ask_beside(b_, cell);
        if (chunk_ == 0 && !lines_.of_rows()) return nest_body(cell, {});
        Ahead ahead{cell, task, n};
        nest_body(cell, [&] {
          const Stmt& first = k_.stmts[body_.loops[0]];
          cell.set(first.results[0], sum(cell, 0, cell.get(first.operands[3]), all, &ahead));
        });
      });
    }
    StmtId first = body_.loops[0];
    sweep(c, task, n, [&](KernelCloner& cell) {
      before_sum(cell);
      b_.store(*partial_, partial_index(cell, task, n), cell.get(k_.stmts[first].operands[3]));
    });
    depth_blocks(c, 0, [&](const KernelCloner& at, const DepthRange& range) {
      pack(at, range, n);
      sweep(at, task, n, [&](KernelCloner& cell) {
        read(cell, range, n);
        Ahead ahead{cell, task, n};
        before_sum(cell);
        LV place = partial_index(cell, task, n);
        b_.store(*partial_, place, sum(cell, 0, b_.load(*partial_, place), range, &ahead));
      });
    });
    if (long_epilogue_) return outer_rows(c, task, [&](const KernelCloner& outer) { results(outer, task, n); });
    sweep(c, task, n, [&](KernelCloner& cell) { result(cell, task, n); });
  }

  /// What a sum that waits becomes.
  void result(KernelCloner& cell, const Task& task, const Columns& n) {
    const StmtId first = body_.loops[0];
    nest_body(cell, [&] { cell.set(k_.stmts[first].results[0], b_.load(*partial_, partial_index(cell, task, n))); });
  }

  /// Results of the sums that wait, in one loop for all shapes of tiles.
  void results(const KernelCloner& c, const Task& task, const Columns& n) {
    auto columns = [&](LV m) {
      int registers = target_.vector_registers >= 32 && tile_.rows > 1 ? 4 : 2;  // latencies overlap
      while (tile_.registers % registers != 0) --registers;
      vector_loop(n.lo, n.hi, registers * lanes(), [&](LV at) {
        KernelCloner cell = c;
        if (row_) cell.set(row_->iv, m);
        cell.set(col_->iv, at);
        result(cell, task, n);
      });
      return Builder::Values{};
    };
    if (!row_) return void(columns({}));
    b_.for_(task.m_lo, task.m_hi, b_.index(1), {.role = AxisRole::row}, {},
            [&](LV m, const Builder::Values&) { return columns(m); });
  }

  /// Sums of one tile of rows at a time, then their results: stores to memory that is far take their time while the
  /// next tile is summed up.
  void bands(const KernelCloner& c, const Task& task, const Columns& n, const DepthRange& all) {
    auto band = [&](const KernelCloner& outer, const Task& part) {
      rows(outer, part, n, [&](KernelCloner& cell) {
        read(cell, all, n);
        lines_.ask_beside(b_, cell);
        Ahead ahead{cell, task, n};
        before_sum(cell);
        LV place = partial_index(cell, part, n);
        b_.store(*partial_, place, sum(cell, 0, cell.get(k_.stmts[body_.loops[0]].operands[3]), all, &ahead));
      });
      results(outer, part, n);
    };
    const Dim all_rows = !row_ ? Dim(1) : plan_.outer > 1 ? *row_->size : rows_of_task();
    outer_rows(c, task, [&](const KernelCloner& outer) {
      if (all_rows.is_const() && all_rows.value() <= band_) return band(outer, task);
      b_.for_(task.m_lo, task.m_hi, b_.index(band_), {.role = AxisRole::row}, {}, [&](LV lo, const Builder::Values&) {
        Task part = task;
        part.m_lo = lo, part.m_hi = b_.add(lo, b_.index(band_));
        part.whole_rows = mod(*row_->size, Dim(band_)).is(0);
        if (!part.whole_rows) part.m_hi = least(part.m_hi, task.m_hi);
        return band(outer, part), Builder::Values{};
      });
    });
  }

  /// Blocks of depth in order: loops outside the split one run as they are.
  void depth_blocks(const KernelCloner& from, std::size_t i,
                    const std::function<void(const KernelCloner&, const DepthRange&)>& body) {
    if (i == split_) {
      ForOptions o{.role = AxisRole::reduce};
      b_.for_(b_.index(0), extent(i), b_.index(split_step_), o, {}, [&](LV lo, const Builder::Values&) {
        LV hi = b_.add(lo, b_.index(split_step_));
        if (!mod(body_.extents[i], Dim(split_step_)).is(0)) hi = least(hi, extent(i));
        body(from, {i, lo, hi, std::gcd(number(body_.extents[i]).value_or(1), split_step_)});
        return Builder::Values{};
      });
      return;
    }
    b_.for_each(extent(i), {.role = AxisRole::reduce}, [&](LV iv) {
      KernelCloner c = from;
      c.set(body_.iv(k_, i), iv);
      depth_blocks(c, i + 1, body);
    });
  }

  /// A cell before anything of it is computed, and where it lies.
  struct Ahead {
    KernelCloner cell;
    const Task& task;
    const Columns& columns;
  };

  /// Adds a range's terms to `carry`: the loops from `i` inwards.
  LV sum(KernelCloner& c, std::size_t i, LV carry, const DepthRange& range, const Ahead* ahead) {
    BlockId block = body_.block(k_, i);
    if (i < range.loop) {
      for (StmtId id : k_.blocks[block].stmts) {
        if (id == body_.loops[i + 1]) return sum(c, i + 1, carry, range, ahead);
        c.clone(id);
      }
    }
    const bool last = i + 1 == body_.loops.size();
    LV lo = i == range.loop ? range.lo : b_.index(0), hi = i == range.loop ? range.hi : extent(i);
    ForOptions o{.role = AxisRole::reduce};
    auto step = [&](LV iv, const Builder::Values& carried) {
      c.set(k_.blocks[block].args[0], iv);
      c.set(k_.blocks[block].args[1], carried[0]);
      if (last) lines_.ask_rows(b_, c, iv);
      for (StmtId id : k_.blocks[block].stmts) {
        if (k_.stmts[id].op == Op::yield) break;
        if (!last && id == body_.loops[i + 1])
          c.set(k_.stmts[id].results[0], sum(c, i + 1, carried[0], range, ahead));
        else
          c.clone(id);
      }
      return Builder::Values{c.yielded(block)[0]};
    };
    if (!last || chunk_ == 0) return b_.for_(lo, hi, b_.index(1), o, {carry}, step)[0];
    return b_.for_(lo, hi, b_.index(chunk_), o, {carry}, [&](LV at, const Builder::Values& carried) {
      ask(*ahead, c, at);
      return b_.for_(at, b_.add(at, b_.index(chunk_)), b_.index(1), o, carried, step);
    })[0];
  }

  /// Asks for the next tile's rows at this depth, and for a share of the next panel.
  void ask(const Ahead& ahead, KernelCloner& c, LV depth) {
    const std::size_t last = body_.loops.size() - 1;
    LV m = c.get(row_->iv);
    for (StmtId l : row_loads_) {
      KernelCloner at = ahead.cell;
      at.set(row_->iv, b_.add(m, b_.index(tile_.rows)));
      for (std::size_t i = 0; i < last; ++i) at.set(body_.iv(k_, i), c.get(body_.iv(k_, i)));
      at.set(body_.iv(k_, last), depth);
      b_.prefetch(at.get(k_.stmts[l].attr.buffer), at.get(k_.stmts[l].operands[0]), 2);
    }
    for (StmtId l : panel_loads_) {
      KernelCloner at = ahead.cell;
      at.set(col_->iv, b_.add(ahead.columns.lo, b_.index(width_)));
      for (std::size_t i = 0; i <= last; ++i) at.set(body_.iv(k_, i), b_.index(0));
      LV from = at.get(k_.stmts[l].operands[0]);
      // Each row asks for its share, `chunk_` steps' part of it at a time.
      const Int line = 64 / element_size(l), rows = std::max<Int>(std::min(plan_.rows, sizes_.rows.value_or(1)), 1);
      LV flat = b_.index(0);
      for (std::size_t i = 0; i < last; ++i) flat = b_.mul(b_.add(flat, c.get(body_.iv(k_, i))), extent(i + 1));
      LV share = b_.op(Op::div, {b_.mul(b_.add(flat, depth), b_.index(width_)), b_.index(rows)});
      LV row = b_.mul(b_.sub(m, ahead.task.m_lo), b_.index(sizes_.depth.value_or(1) * width_ / rows));
      from = b_.add(b_.add(from, share), row);
      for (Int e = 0; e * rows < chunk_ * width_; e += line)
        b_.prefetch(at.get(k_.stmts[l].attr.buffer), b_.add(from, b_.index(e)), 2);
    }
  }

  LV partial_index(KernelCloner& c, const Task& task, const Columns& n) {
    LV row = row_ ? b_.sub(c.get(row_->iv), task.m_lo) : b_.index(0);
    if (plan_.outer > 1 && !band_)
      row = b_.add(b_.mul(b_.sub(outer_at_, task.outer_lo), b_.dim(row_ ? *row_->size : Dim(1))), row);
    LV column = b_.sub(c.get(col_->iv), n.lo), width = b_.index(width_);
    if (n.panels) {
      row = b_.add(b_.mul(b_.op(Op::div, {column, width}), b_.dim(rows_kept())), row);
      column = b_.op(Op::rem, {column, width});
    }
    return b_.add(b_.mul(row, width), column);
  }

  // -- cells --------------------------------------------------------------------------------------------------------
  LV outer_at_;
  using Cell = std::function<void(KernelCloner&)>;

  /// All rows of the task by these columns.
  void sweep(const KernelCloner& c, const Task& task, const Columns& n, const Cell& cell) {
    outer_rows(c, task, [&](const KernelCloner& outer) { rows(outer, task, n, cell); });
  }

  void outer_rows(const KernelCloner& c, const Task& task, const std::function<void(const KernelCloner&)>& body) {
    if (plan_.outer == 1) return body(c);
    b_.for_(task.outer_lo, task.outer_hi, b_.index(1), {.role = AxisRole::batch}, {},
            [&](LV at, const Builder::Values&) {
              KernelCloner inner = c;
              decode(inner, shared_, at);
              outer_at_ = at;
              body(inner);
              return Builder::Values{};
            });
  }

  /// Whole tiles of rows, then what is left: a tile of its own if that is a number.
  void rows(const KernelCloner& c, const Task& task, const Columns& n, const Cell& cell) {
    if (!row_) return row(c, {}, n, cell);
    int height = tile_.rows;
    LV middle = task.m_hi;
    if (!task.whole_rows) {
      LV tiles = b_.op(Op::div, {b_.sub(task.m_hi, task.m_lo), b_.index(height)});
      middle = b_.add(task.m_lo, b_.mul(tiles, b_.index(height)));
    }
    row_loop(c, task.m_lo, middle, height, n, cell);
    if (task.whole_rows) return;
    const Dim& m = *row_->size;
    if (!m.is_const()) return rest_of_rows(c, middle, task.m_hi, n, cell);
    int rest = static_cast<int>(m.value() % height);
    if (rest == 0) return;
    auto tail = [&] { row_loop(c, middle, b_.add(middle, b_.index(rest)), rest, n, cell); };
    if (b_.int_value(task.m_lo)) return tail();
    b_.if_(b_.op(Op::cmp_lt, {middle, task.m_hi}), [&] { return tail(), Builder::Values{}; }, {});
  }

  /// Fewer rows than a tile has, in tiles of powers of two: a few rows take one or two, each of which fetches the
  /// columns. Copied columns are at hand, and rows are many: tiles of half the height and single rows.
  void rest_of_rows(const KernelCloner& c, LV lo, LV hi, const Columns& n, const Cell& cell) {
    if (plan_.pack_columns && !in_place_) return row_loop(c, lo, hi, std::max(tile_.rows / 2, 1), n, cell);
    int height = 1;
    while (2 * height < tile_.rows) height *= 2;
    for (; height > 1; height /= 2) {
      LV tiles = b_.op(Op::div, {b_.sub(hi, lo), b_.index(height)});
      LV end = b_.add(lo, b_.mul(tiles, b_.index(height)));
      row_loop(c, lo, end, height, n, cell);
      lo = end;
    }
    row_loop(c, lo, hi, 1, n, cell);
  }

  void row_loop(const KernelCloner& c, LV lo, LV hi, int height, const Columns& n, const Cell& cell) {
    ForOptions o{.mapping = Mapping::rows, .role = AxisRole::row, .width = static_cast<std::uint16_t>(height)};
    b_.for_(lo, hi, b_.index(height), o, {},
            [&](LV m, const Builder::Values&) { return row(c, m, n, cell), Builder::Values{}; });
  }

  void row(const KernelCloner& c, LV m, const Columns& n, const Cell& cell) {
    auto panel = [&](LV lo, LV hi) {
      vector_loop(lo, hi, width_, [&](LV at) {
        KernelCloner inner = c;
        if (row_) inner.set(row_->iv, m);
        inner.set(col_->iv, at);
        cell(inner);
      });
    };
    if (!n.panels) return panel(n.lo, n.hi);
    b_.for_(n.lo, n.hi, b_.index(width_), {.role = AxisRole::col}, {},
            [&](LV lo, const Builder::Values&) { return panel(lo, b_.add(lo, b_.index(width_))), Builder::Values{}; });
  }
};

}  // namespace

loop::Kernel schedule_contraction(const loop::Kernel& kernel, const TargetSpec& target) {
  if (auto dots = schedule_dots(kernel, target)) return std::move(*dots);
  return ContractionScheduler(kernel, target).run();
}

}  // namespace ag::passes

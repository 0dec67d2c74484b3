#include "passes/contraction_model.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace ag::passes {
namespace {

using Int = std::int64_t;

/// What a size counts as in estimates if only the run knows it.
constexpr Int usual_size = 512;
/// Cycles: entering a cell (its accumulators' first and last use), starting a task.
constexpr double cell_cycles = 24, task_cycles = 120;
/// Bytes a cycle that a core reads from the second-level cache, and from what lies behind it.
constexpr double l2_rate = 32, l3_rate = 16;
/// Cycles a byte that a stream costs beside multiply-adds, most of it hidden, from the shared cache and from memory.
constexpr double l3_stream = 0.0125, memory_stream = 0.02;
/// Rows that take less time than fetching their columns.
constexpr std::int64_t waiting_rows = 48;
/// Rows that gain more by a panel's steps lying one after another than their copy costs, however they lie.
constexpr std::int64_t many_rows = 768;
/// Rows from which it pays to copy a panel whose steps lie badly.
constexpr std::int64_t packed_rows = 256;
/// Cycles an element of a copy of rows on pages of their own, a transposed and an element-wise copy.
constexpr double copy_cycles = 0.5, transpose_cycles = 0.6, scatter_cycles = 2;

/// Steps of depth that a row asks for at most: each is code.
constexpr Int most_share = 4;

/// What a panel with less than its width costs more than its multiply-adds tell.
constexpr double part_panel = 1.25;

/// Iterations of outer rows a thread, below which the rows of each are divided too.
constexpr std::int64_t few_outer = 8;

/// Tasks that are counted one by one.
constexpr double counted_tasks = 512;

/// Sizes beyond this count as this in estimates: products of three and a few bytes do not overflow.
constexpr Int most = Int{1} << 18;

Int estimate(const std::optional<Int>& size) { return std::clamp<Int>(size.value_or(usual_size), 1, most); }

Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

/// Cycles of one step of depth of a cell.
double step_cycles(Int rows, double registers) {
  double fma = static_cast<double>(rows) * registers, loads = registers + 0.5 * static_cast<double>(rows);
  // Longer runs of a row of columns are fetched a little faster: it decides where a few rows wait for columns.
  double panel = (registers + 0.5) * 64 / l2_rate, latency = 4;
  return std::max({fma, loads, panel, latency});
}

/// Cycles of all rows of one panel of `registers`.
double panel_cycles(Int rows, Int tile_rows, double registers, Int depth) {
  auto cells = [&](Int r) { return static_cast<double>(depth) * step_cycles(r, registers) + cell_cycles; };
  double cycles = static_cast<double>(rows / tile_rows) * cells(tile_rows);
  return rows % tile_rows ? cycles + cells(rows % tile_rows) : cycles;
}

/// Registers that a last panel takes: half ones too (vectorise).
double registers_of(Int columns, int lanes) {
  const Int part = std::min<Int>(lanes, 8);
  return static_cast<double>(ceil_div(columns, part) * part) / lanes;
}

double product_cycles(const ContractionSizes& s, const RegisterTile& t, Int rows) {
  Int cols = estimate(s.cols), depth = estimate(s.depth), width = t.registers * s.lanes;
  double cycles = static_cast<double>(cols / width) * panel_cycles(rows, t.rows, t.registers, depth);
  Int rest = cols % width;
  if (rest == 0) return cycles;
  // The lines of a last panel that is not full are fetched in vain.
  double last = panel_cycles(rows, t.rows, registers_of(rest, s.lanes), depth);
  return cycles + (cols > width ? part_panel * last : last);
}

/// Rows of equal tiles, at most `most` each.
int equal_rows(Int rows, int most) {
  Int tiles = ceil_div(std::max<Int>(rows, 1), most);
  return static_cast<int>(ceil_div(std::max<Int>(rows, 1), tiles));
}

/// Steps that lie `step` bytes apart, `run` bytes each, share few sets of a cache: they do not fit into what is left.
bool collides(Int count, Int step, Int run, long cache) {
  run = std::max<Int>(run, 64);
  Int apart = step & -step;  // the power of two that divides it
  if (apart <= run) return false;
  return static_cast<double>(count * run) >
         static_cast<double>(cache) * static_cast<double>(run) / static_cast<double>(apart);
}

/// Steps of depth of a contiguous run of columns lie so that they should be copied.
bool badly_stepped(Int depth, Int step, Int run_bytes, const TargetSpec& target) {
  bool pages = step >= 2048 && depth * step > 2 * target.l2_bytes;  // a page for each step
  return pages || collides(depth, step, run_bytes, target.l2_bytes / 2);  // rows want room beside them
}

constexpr Int most_few_columns = 16, least_runs = 16, least_run = 256;

/// Enough runs, and so much of them that reading them is what takes time.
bool many_runs(Int runs, Int depth, Int element_bytes, const TargetSpec& target) {
  return runs >= least_runs && depth >= least_run &&
         std::min(runs, most) * std::min(depth, most) * element_bytes * 4 >= target.l2_bytes;
}

}  // namespace

bool few_rows(Int rows, Int cols, Int depth, Int element_bytes, const TargetSpec& target) {
  return rows >= 1 && rows <= most_few_rows && many_runs(cols, depth, element_bytes, target);
}

bool few_columns(Int rows, Int cols, Int depth, Int element_bytes, const TargetSpec& target) {
  return cols >= 2 && cols < most_few_columns && many_runs(rows, depth, element_bytes, target);
}

DotBlocking pick_dots(Int few, Int runs, Int depth, Int element_bytes, const TargetSpec& target) {
  const bool many = target.vector_registers >= 32;
  DotBlocking b;
  // Beside the lines that pass by, the first-level cache holds some of the few.
  const Int run_bytes = std::clamp<Int>(depth, 1, most) * element_bytes, near = 3 * target.l1_bytes / 4 / run_bytes;
  b.few = equal_rows(few, static_cast<int>(many ? std::clamp<Int>(near, 4, 7) : 4));
  b.few_outside = b.few <= near;
  b.runs = std::clamp<Int>((target.vector_registers - 2 - b.few) / b.few, 1, 4);
  // Some 64 KiB a task; each thread has some.
  constexpr Int task_bytes = Int{64} << 10, lines = 16;
  b.task = std::max<Int>(task_bytes / run_bytes / lines, 1) * lines;
  b.task = std::min(b.task, runs);
  return b;
}

RegisterTile pick_tile(const ContractionSizes& s, const TargetSpec& target) {
  // Tiles that reach the peak without spills: accumulators, one register a column block, one for the broadcast.
  const std::vector<RegisterTile> wide{{6, 4}, {8, 3}, {14, 2}, {8, 2}, {14, 1}, {3, 8}, {4, 6}},
      narrow{{6, 2}, {4, 3}, {12, 1}, {1, 8}, {2, 6}};
  Int rows = s.rows.value_or(usual_size);
  RegisterTile best;
  double least = 0;
  for (RegisterTile t : target.vector_registers >= 32 ? wide : narrow) {
    if (s.panel && s.panel % (t.registers * s.lanes) != 0) continue;
    if (s.rows_collide && t.rows > 8) continue;
    if (s.rows) t.rows = equal_rows(rows, t.rows);
    double cycles = product_cycles(s, t, rows);
    if (least == 0 || cycles < 0.99 * least) least = cycles, best = t;
  }
  if (least == 0) best = {equal_rows(rows, 6), 1};
  return best;
}

namespace {

class Planner {
 public:
  Planner(const ContractionSizes& s, const RegisterTile& t, const OperandLayout& columns, const TargetSpec& target)
      : s_(s), t_(t), columns_(columns), target_(target) {
    m_ = estimate(s.rows), n_ = estimate(s.cols), k_ = estimate(s.depth);
    width_ = t.registers * s.lanes;
    threads_ = std::max(target.threads, 1);
    panels_ = ceil_div(n_, width_);
  }

  Blocking run() {
    best_.pack_columns = columns_.present && pack_columns();
    if (best_.pack_columns && !s_.rows && columns_.run == OperandLayout::Run::contiguous) best_.pack_from = packed_rows;
    best_.group = best_.panels = panel_group();
    best_.depth = block_depth();
    if (!s_.rows) {
      best_.rows = ceil_div(best_.pack_columns ? 384 : 96, t_.rows) * t_.rows;
      return best_;
    }
    const bool small = s_.outer > 1 && m_ * 2 <= rows_cap();
    for (Int outer = 1; small && outer <= s_.outer && outer * m_ <= rows_cap();
         outer = outer < 8 ? outer + 1 : outer * 5 / 4)
      consider(m_, outer);
    // Few iterations of outer rows do not divide among threads: the three lines of a filter's gradient.
    if (!small || s_.outer < few_outer * threads_) {
      Int blocks = ceil_div(m_, t_.rows);
      for (Int parts = 1; parts <= blocks; parts = parts < 16 ? parts + 1 : parts * 5 / 4) {
        Int rows = ceil_div(blocks, parts) * t_.rows;
        if (rows <= rows_cap() || rows == t_.rows) consider(rows, 1);
      }
      if (least_ == 0) consider(t_.rows, 1);
    }
    ask_ahead();
    return best_;
  }

 private:
  const ContractionSizes& s_;
  const RegisterTile& t_;
  const OperandLayout& columns_;
  const TargetSpec& target_;
  Int m_ = 0, n_ = 0, k_ = 0, width_ = 0, threads_ = 1, panels_ = 0;
  Blocking best_;
  double least_ = 0;

  /// Rows of a task: partial results of blocks of depth stay in the second-level cache.
  Int rows_cap() const {
    return best_.depth ? target_.l2_bytes / 8 / (best_.group * width_ * s_.element_bytes) : 1 << 14;
  }
  Int total_rows() const { return std::min(m_ * s_.outer, most); }

  bool pack_columns() const {
    Int rows = s_.rows ? total_rows() : usual_size;
    if (columns_.run == OperandLayout::Run::transposed) return true;
    if (columns_.run == OperandLayout::Run::scattered) return rows >= 4;
    if (!columns_.step || !s_.depth) return false;
    if (rows < packed_rows || s_.panel != 0) return false;
    const Int run = width_ * s_.element_bytes;
    return (rows >= many_rows && *columns_.step > run) || badly_stepped(k_, *columns_.step, run, target_);
  }

  /// Rows that stay in no cache are read once for two panels.
  Int panel_group() const {
    if (!s_.rows || !s_.cols || !s_.depth || !best_.pack_columns || panels_ < 2 * threads_) return 1;
    bool far = total_rows() * k_ * s_.element_bytes > target_.l3_bytes / 4;
    return far && 8 * width_ * k_ * s_.element_bytes <= 3 * target_.l2_bytes ? 2 : 1;
  }

  /// Steps of depth whose panel takes at most half of the second-level cache, two panels all of it; a transposed copy
  /// for few rows is used at once and need not be larger than the first.
  Int block_depth() const {
    Int fits = target_.l2_bytes / (best_.group > 1 ? 1 : 2) / (best_.group * width_ * s_.element_bytes);
    if (best_.pack_columns && columns_.run == OperandLayout::Run::transposed && s_.rows && total_rows() < 16)
      fits = target_.l1_bytes / 2 / (width_ * s_.element_bytes);
    if (!s_.depth) return best_.pack_columns ? fits : 0;
    if (k_ <= fits) return 0;
    Int blocks = ceil_div(k_, fits);
    return ceil_div(k_, blocks);
  }

  /// Hardware follows a stream up to the end of a page, so rows beyond the second-level cache are asked for, and panels
  /// that come from memory; requests for what the shared cache holds take more than they give.
  void ask_ahead() {
    if (!s_.cols || !s_.depth) return;
    const Int row_bytes = k_ * s_.element_bytes;
    best_.fetch_rows = 2 * total_rows() * row_bytes > target_.l2_bytes;
    best_.fetch_panel = s_.panel > 0 && 4 * panels_ * width_ * row_bytes > target_.l3_bytes &&
                        2 * width_ * row_bytes <= target_.l2_bytes;
    // Columns of a larger copy are pushed out by the rows before their turn comes.
    if (best_.pack_columns && columns_.run == OperandLayout::Run::contiguous && best_.panels == 1 && s_.outer == 1 &&
        best_.rows >= m_ && panels_ >= 4 * threads_ && 4 * width_ * row_bytes <= target_.l2_bytes &&
        k_ <= most_share * m_)
      best_.fetch_copied = ceil_div(k_, m_);
  }

  double pack_cost(const OperandLayout& o, Int elements) const {
    double rate = o.run == OperandLayout::Run::contiguous   ? copy_cycles
                  : o.run == OperandLayout::Run::transposed ? transpose_cycles
                                                            : scatter_cycles;
    return static_cast<double>(elements) * (rate + static_cast<double>(s_.element_bytes) / l3_rate);
  }

  void consider(Int rows, Int outer) {
    const Int parts = outer > 1 ? ceil_div(s_.outer, outer) : s_.outer * ceil_div(m_, rows);
    for (Int supers : {Int{1}, threads_, parts}) {
      Blocking b = best_;
      b.rows = rows, b.outer = outer, b.supers = supers;
      double cycles = time(b);
      if (least_ == 0 || cycles < 0.995 * least_) least_ = cycles, best_ = b;
    }
  }

  /// Cycles of the thread with most to do.
  double time(const Blocking& b) const {
    Int row_parts = b.outer > 1 ? ceil_div(s_.outer, b.outer) : s_.outer * ceil_div(m_, b.rows);
    if (b.supers > row_parts) return 1e30;
    const Int groups = ceil_div(panels_, b.panels), parts = ceil_div(row_parts, b.supers);
    const double tasks = static_cast<double>(s_.batch) * static_cast<double>(parts * b.supers * groups);
    const double share = std::ceil(tasks / static_cast<double>(threads_));
    double most = share * task_time(b, std::min(b.rows, m_), b.outer, std::min(b.panels, panels_), false);
    if (tasks <= counted_tasks) most = std::min(most, busiest(b, row_parts, groups));
    return most + streams(b, share, parts);
  }

  /// Cycles of a task; with `rest`, the last of its panels is the last of all.
  double task_time(const Blocking& b, Int rows, Int outer, Int panels, bool rest) const {
    const auto whole = [&](double registers) {
      double cycles = static_cast<double>(outer) * panel_cycles(rows, t_.rows, registers, k_);
      return b.pack_columns ? cycles + pack_cost(columns_, width_ * k_) : cycles;
    };
    double cycles = task_cycles + static_cast<double>(panels) * whole(t_.registers);
    if (const Int columns = n_ % width_; rest && columns)
      cycles += (panels_ > 1 ? part_panel : 1) * whole(registers_of(columns, s_.lanes)) - whole(t_.registers);
    // Sums between blocks of depth are written and read again.
    if (b.depth)
      cycles +=
          static_cast<double>(2 * ceil_div(k_, b.depth) * rows * outer * panels * width_ * s_.element_bytes) / l3_rate;
    return cycles;
  }

  /// Cycles of the thread with most to do, each task counted as what it is: the last ones of rows and columns are
  /// smaller, and threads take equal numbers of tasks in their order.
  double busiest(const Blocking& b, Int row_parts, Int groups) const {
    const Int parts = ceil_div(row_parts, b.supers), tasks = s_.batch * b.supers * groups * parts;
    const Int per_outer = b.outer > 1 ? row_parts : ceil_div(m_, b.rows),
              last_panels = panels_ - (groups - 1) * b.panels;
    double cycles[2][2];  // by: the last rows, the last columns
    for (int r = 0; r < 2; ++r) {
      const Int rows = r && b.outer == 1 ? m_ - (per_outer - 1) * b.rows : std::min(b.rows, m_),
                outer = r && b.outer > 1 ? s_.outer - (row_parts - 1) * b.outer : b.outer;
      cycles[r][0] = task_time(b, rows, outer, std::min(b.panels, panels_), false);
      cycles[r][1] = task_time(b, rows, outer, last_panels, true);
    }
    double most = 0, sum = 0;
    for (Int t = 0, thread = 0; t < tasks; ++t) {
      for (; t >= tasks * (thread + 1) / threads_; ++thread) sum = 0;
      const Int group = t / parts % groups, part = t / parts / groups % b.supers * parts + t % parts;
      sum += part >= row_parts ? task_cycles : cycles[(part + 1) % per_outer == 0][group == groups - 1];
      most = std::max(most, sum);
    }
    return most;
  }

  /// Cycles that a thread spends on fetching what its `share` of tasks reads, `in_a_row` of which use the same panels.
  double streams(const Blocking& b, double share, Int in_a_row) const {
    if (!s_.rows || !s_.cols || !s_.depth) return 0;
    auto level = [&](Int between) {  // where a stream comes from that is read again after so many bytes
      return between * 4 <= target_.l2_bytes ? 0 : between * 4 <= target_.l3_bytes ? l3_stream : memory_stream;
    };
    const Int row_bytes = k_ * s_.element_bytes, all_rows = total_rows() * row_bytes;
    const Int task_rows = std::min(b.rows, m_) * b.outer * row_bytes;
    const Int panel_bytes = std::min(b.panels, panels_) * width_ * row_bytes;
    double cycles = share * static_cast<double>(task_rows) *
                    level(in_a_row > 1 ? all_rows : std::min(task_rows * threads_, all_rows));
    // Panels copied by the task itself have their price already.
    if (b.pack_columns) return cycles;
    const double panel_reads = std::max(1.0, share / static_cast<double>(in_a_row));
    const Int all_panels = panels_ * width_ * row_bytes;
    const double rate =
        std::min(b.rows, m_) * b.outer < waiting_rows ? 1 / l3_rate : std::max(l3_stream, level(all_panels));
    return cycles + panel_reads * static_cast<double>(panel_bytes) * rate;
  }
};

}  // namespace

Blocking pick_blocking(const ContractionSizes& sizes, const RegisterTile& tile, const OperandLayout& columns,
                       const TargetSpec& target) {
  return Planner(sizes, tile, columns, target).run();
}

}  // namespace ag::passes

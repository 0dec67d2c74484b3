// Long sums whose neighbours share what they read: the gradient of a depthwise filter sums an image, shifted by each
// tap, times the same gradient. One such sum at a time waits for its additions and reads the shared operand for each
// tap anew; here some neighbours along the last outer axes are summed side by side, some registers of columns each.
// Each sum takes its terms in the order it had, so every bit stays.
#include <algorithm>

#include "passes/schedule_internal.hpp"

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::BlockId;
using loop::Builder;
using loop::Mapping;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;
using Values = Builder::Values;

/// Trips from which a sum is long: shorter ones are windows, with a schedule of their own.
constexpr std::int64_t long_sum = 64;
/// Neighbours at once.
constexpr std::int64_t most_rows = 9;

class SumsScheduler : public CpuNest {
 public:
  using CpuNest::CpuNest;

  std::optional<loop::Kernel> run() {
    if (!applies()) return std::nullopt;
    begin();
    schedule();
    return finish();
  }

 private:
  std::vector<const NestLoop*> line_;  // the neighbours' loops
  std::int64_t neighbours_ = 1;
  std::vector<KernelCloner> cells_;  // one for each neighbour
  std::vector<StmtId> loads_;  // within the sum
  std::vector<LV> bounds_;  // of the sum's loops
  std::int64_t trips_ = 1;

  bool applies() {
    if (!col_ || row_ || !all_sized() || outer_.empty()) return false;
    if (!one_sum(nest_.body) || trips_ <= long_sum) return false;
    for (std::size_t i = outer_.size(); i-- > 0 && takes(*outer_[i]);) {
      line_.insert(line_.begin(), outer_[i]);
      neighbours_ *= outer_[i]->size->value();
    }
    return neighbours_ > 1;
  }

  /// Whether neighbours along a loop are summed side by side, beside those that are already: they share something, and
  /// there are few.
  bool takes(const NestLoop& l) const {
    if (!l.size->is_const() || l.size->value() < 1) return false;
    if (l.size->is(1)) return true;
    if (!line_.empty() && neighbours_ * l.size->value() > most_rows) return false;
    const IndexSteps steps(k_);
    for (LV bound : bounds_)
      if (steps.depends(bound, l.iv)) return false;
    const auto own = std::count_if(loads_.begin(), loads_.end(),
                                   [&](StmtId id) { return steps.depends(k_.stmts[id].operands[0], l.iv); });
    return own > 0 && own < std::ssize(loads_);
  }

  /// One sum of one value: loops one in the other, the same trips for all neighbours, and arithmetic.
  bool one_sum(BlockId block) {
    int sums = 0;
    for (StmtId id : k_.blocks[block].stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.op == Op::for_) {
        if (++sums > 1 || s.results.size() != 1 || s.attr.role != AxisRole::reduce) return false;
        const IndexSteps steps(k_);
        for (std::size_t i = 0; i < 2; ++i) {
          if (steps.depends(s.operands[i], col_->iv)) return false;
          bounds_.push_back(s.operands[i]);
        }
        auto lo = as_dim(k_, s.operands[0]), hi = as_dim(k_, s.operands[1]);
        const bool known = lo && hi && (*hi - *lo).is_const();
        trips_ = std::min<std::int64_t>(trips_ * (known ? (*hi - *lo).value() : long_sum + 1), 1 << 20);
        if (!one_sum(s.blocks[0])) return false;
      } else if (s.op == Op::load) {
        if (block != nest_.body) loads_.push_back(id);
      } else if (!is_pure(s) && !(s.op == Op::store && block == nest_.body) && s.op != Op::yield) {
        return false;
      }
    }
    return sums == 1 || block != nest_.body;
  }

  void schedule() {
    for (const NestLoop* l : line_) std::erase(outer_, l);
    const std::int64_t n = neighbours_, blocks = (n + most_rows - 1) / most_rows, rows = (n + blocks - 1) / blocks;
    const int width = width_beside(rows);
    const Dim lines = outer_size(), points = Dim(n) * *col_->size;
    const Dim work = max(floordiv(k_.flops, max(lines * points, Dim(1))), Dim(1)) * points;
    const Dim chunk = max(floordiv(Dim(tile_work), max(work, Dim(1))), Dim(1));
    tiles(ceildiv(lines, chunk), [&](LV t) {
      LV lo = b_.mul(t, b_.dim(chunk)), hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(lines)});
      b_.for_(lo, hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
              [&](LV flat, const Values&) { return decode(flat), neighbours(rows, width), Values{}; });
    });
  }

  /// Lanes of each neighbour: sums and what they share stay in registers; parts of the columns are equal.
  int width_beside(std::int64_t rows) const {
    std::int64_t registers = std::max<std::int64_t>((target_.vector_registers >= 32 ? 24 : 10) / (rows + 1), 1);
    if (col_->size->is_const()) {
      const std::int64_t all = (col_->size->value() + lanes() - 1) / lanes(), parts = (all + registers - 1) / registers;
      registers = std::max<std::int64_t>((all + parts - 1) / std::max<std::int64_t>(parts, 1), 1);
    }
    return width_for(col_->size, static_cast<int>(registers));
  }

  /// All neighbours, `rows` at a time.
  void neighbours(std::int64_t rows, int width) {
    if (neighbours_ <= rows) return columns(b_.index(0), rows, width);
    const std::int64_t whole = neighbours_ / rows * rows;
    b_.for_(b_.index(0), b_.index(whole), b_.index(rows), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
            [&](LV first, const Values&) { return columns(first, rows, width), Values{}; });
    if (whole < neighbours_) columns(b_.index(whole), neighbours_ - whole, width);
  }

  void columns(LV first, std::int64_t count, int width) {
    vector_loop(b_.index(0), b_.dim(*col_->size), width, [&](LV column) {
      clone_.set(col_->iv, column);
      cells_ = std::vector<KernelCloner>(static_cast<std::size_t>(count), clone_);
      for (std::int64_t i = 0; i < count; ++i) place(cells_[static_cast<std::size_t>(i)], first, i);
      for (const NestLoop& l : nest_.loops) block(k_.stmts[l.stmt].blocks[0]);
    });
  }

  /// The indices of neighbour first + i: of several loops known numbers, so that loads stay runs of columns.
  void place(KernelCloner& cell, LV first, std::int64_t i) {
    const bool several = neighbours_ <= most_rows;
    for (std::size_t l = line_.size(); l-- > 0;) {
      const std::int64_t size = line_[l]->size->value();
      if (size == 1)
        cell.set(line_[l]->iv, b_.index(0));
      else if (several)
        cell.set(line_[l]->iv, b_.index(i % size)), i /= size;
      else
        cell.set(line_[l]->iv, b_.add(first, b_.index(i)));
    }
  }

  /// A block for all neighbours: what does not tell them apart once, sums side by side.
  void block(BlockId id) {
    for (StmtId s : k_.blocks[id].stmts) {
      if (nest_.contains(s) || k_.stmts[s].op == Op::yield) continue;
      if (k_.stmts[s].op == Op::for_) {
        sum(k_.stmts[s]);
      } else if (k_.stmts[s].op == Op::store || differs(k_.stmts[s])) {
        for (KernelCloner& c : cells_) c.clone(s);
      } else {
        cells_[0].clone(s);
        for (LV v : k_.stmts[s].results)
          for (KernelCloner& c : cells_) c.set(v, cells_[0].get(v));
      }
    }
  }

  /// Whether neighbours' values of `s` differ.
  bool differs(const Stmt& s) const {
    const IndexSteps steps(k_);
    return std::any_of(s.operands.begin(), s.operands.end(), [&](LV v) {
      return std::any_of(line_.begin(), line_.end(), [&](const NestLoop* l) { return steps.depends(v, l->iv); });
    });
  }

  void sum(const Stmt& s) {
    Values init;
    for (KernelCloner& c : cells_) init.push_back(c.get(s.operands[3]));
    const BlockId body = s.blocks[0];
    Values sums =
        b_.for_(cells_[0].get(s.operands[0]), cells_[0].get(s.operands[1]), cells_[0].get(s.operands[2]),
                {.mapping = Mapping::serial, .role = AxisRole::reduce}, init, [&](LV iv, const Values& carried) {
                  for (std::size_t i = 0; i < cells_.size(); ++i) {
                    cells_[i].set(k_.blocks[body].args[0], iv);
                    cells_[i].set(k_.blocks[body].args[1], carried[i]);
                  }
                  block(body);
                  Values next;
                  for (KernelCloner& c : cells_) next.push_back(c.yielded(body)[0]);
                  return next;
                });
    for (std::size_t i = 0; i < cells_.size(); ++i) cells_[i].set(s.results[0], sums[i]);
  }
};

}  // namespace

std::optional<loop::Kernel> schedule_sums(const loop::Kernel& kernel, const TargetSpec& target) {
  return SumsScheduler(kernel, target).run();
}

}  // namespace ag::passes

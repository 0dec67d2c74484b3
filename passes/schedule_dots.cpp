// Schedules contractions whose sums run along lanes: a few rows by columns whose terms lie one after another. A block
// of columns times a tile of rows is held in registers of partial sums while the terms pass by; each line of the
// columns is read once. The sums go to scratch memory, from where the rest of the kernel takes them with columns along
// lanes.
#include <algorithm>
#include <map>

#include "passes/contraction_model.hpp"
#include "passes/schedule_internal.hpp"

namespace ag::passes {

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

// -- what contractions share ------------------------------------------------------------------------------------------
void ContractionNest::begin_contraction() {
  begin();
  clone_.on_for = [](const Stmt&, ForOptions& o, LV&) {
    if (o.mapping == Mapping::parallel) o.mapping = Mapping::serial;
  };
  body_ = find_contraction(k_, nest_.body);
}

void ContractionNest::nest_body(KernelCloner& c, const std::function<void()>& sum) {
  for (const NestLoop& l : nest_.loops) {
    for (StmtId id : k_.blocks[k_.stmts[l.stmt].blocks[0]].stmts) {
      if (k_.stmts[id].op == Op::yield || nest_.contains(id)) continue;
      if (sum && !body_.loops.empty() && id == body_.loops[0])
        sum();
      else
        c.clone(id);
    }
  }
}

void ContractionNest::before_sum(KernelCloner& c) {
  for (const NestLoop& l : nest_.loops)
    for (StmtId id : k_.blocks[k_.stmts[l.stmt].blocks[0]].stmts) {
      if (id == body_.loops[0]) return;
      if (!nest_.contains(id)) c.clone(id);
    }
}

namespace {

class DotScheduler : public ContractionNest {
 public:
  using ContractionNest::ContractionNest;

  std::optional<loop::Kernel> run() {
    body_ = find_contraction(k_, nest_.body);
    if (!applies()) return std::nullopt;
    begin_contraction();
    const loop::VType sum = k_.type(k_.stmts[body_.loops[0]].results[0]);
    lanes_ = target_.lanes(dtype_bytes(sum.elem));
    rows_ = row_ ? row_->size->value() : 1, cols_ = col_->size->value(), depth_ = body_.extents[0].value();
    plan_ = pick_dots(rows_, cols_, depth_, static_cast<Int>(dtype_bytes(sum.elem)), target_);
    sums_ = b_.alloc(sum.elem, Dim(rows_ * plan_.task), loop::Scope::scratch);
    const Int tasks = (cols_ + plan_.task - 1) / plan_.task;
    tiles(tasks, [&](LV t) {
      LV lo = b_.mul(t, b_.index(plan_.task)), hi = b_.add(lo, b_.index(plan_.task));
      if (cols_ % plan_.task != 0) hi = b_.op(Op::min, {hi, b_.index(cols_)});
      add(lo, hi);
      rest(lo, hi);
    });
    return finish();
  }

 private:
  DotBlocking plan_;
  loop::BufferId sums_;  // of a task, [rows][columns]
  Int rows_ = 1, cols_ = 1, depth_ = 1;
  int lanes_ = 1;

  bool applies() const {
    if (!col_ || !outer_.empty() || body_.loops.size() != 1 || !k_.stmts[body_.loops[0]].attr.reassociate) return false;
    return col_->size->is_const() && (!row_ || row_->size->is_const()) && body_.extents[0].is_const();
  }

  LV place(LV row, LV column, LV lo) { return b_.add(b_.mul(row, b_.index(plan_.task)), b_.sub(column, lo)); }

  /// The sums of columns [lo, hi).
  void add(LV lo, LV hi) {
    const auto columns = static_cast<std::uint16_t>(plan_.columns);
    ForOptions o{.mapping = Mapping::rows, .role = AxisRole::row, .width = columns};
    b_.for_(lo, hi, b_.index(columns), o, {}, [&](LV n, const Builder::Values&) {
      auto tile = [&](LV m, Int rows) {
        Builder::Values sums = dots(m, rows, n);
        for (Int i = 0; i < rows; ++i)
          b_.store(sums_, place(b_.add(m, b_.index(i)), n, lo), sums[static_cast<std::size_t>(i)]);
      };
      for (Int m = 0; m < rows_; m += plan_.rows) tile(b_.index(m), std::min(plan_.rows, rows_ - m));
      return Builder::Values{};
    });
  }

  /// The sums of `rows` rows from `from` on at column n, one carried value each.
  Builder::Values dots(LV from, Int rows, LV n) {
    const Stmt& loop = k_.stmts[body_.loops[0]];
    std::vector<KernelCloner> cells;
    Builder::Values first;
    for (Int i = 0; i < rows; ++i) {
      KernelCloner& c = cells.emplace_back(clone_);
      if (row_) c.set(row_->iv, b_.add(from, b_.index(i)));
      c.set(col_->iv, n);
      before_sum(c);
      first.push_back(c.get(loop.operands[3]));
    }
    ForOptions o{.mapping = Mapping::vector,
                 .role = AxisRole::reduce,
                 .width = static_cast<std::uint16_t>(lanes_),
                 .reassociate = true};
    return b_.for_(b_.index(0), b_.index(depth_), b_.index(lanes_), o, first,
                   [&](LV k, const Builder::Values& carried) { return terms(cells, k, carried); });
  }

  /// One more term of each cell; what does not depend on the row is loaded once.
  Builder::Values terms(const std::vector<KernelCloner>& cells, LV k, const Builder::Values& carried) {
    const BlockId block = body_.block(k_, 0);
    const IndexSteps steps(k_);
    std::map<const Stmt*, LV> loaded;
    Builder::Values next;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      KernelCloner c = cells[i];
      c.set(k_.blocks[block].args[0], k);
      c.set(k_.blocks[block].args[1], carried[i]);
      c.on_load = [&](const Stmt& load) -> LV {
        if (load.operands.size() != 1 || (row_ && steps.depends(load.operands[0], row_->iv))) return {};
        auto [it, fresh] = loaded.try_emplace(&load);
        if (fresh) it->second = b_.load(c.get(load.attr.buffer), c.get(load.operands[0]));
        return it->second;
      };
      for (StmtId id : k_.blocks[block].stmts)
        if (k_.stmts[id].op != Op::yield) c.clone(id);
      next.push_back(c.yielded(block)[0]);
    }
    return next;
  }

  /// What is computed from the sums of columns [lo, hi), and stored.
  void rest(LV lo, LV hi) {
    auto row = [&](LV m) {
      vector_loop(lo, hi, lanes_, [&](LV n) {
        KernelCloner c = clone_;
        if (row_) c.set(row_->iv, m);
        c.set(col_->iv, n);
        LV at = place(row_ ? m : b_.index(0), n, lo);
        nest_body(c, [&] { c.set(k_.stmts[body_.loops[0]].results[0], b_.load(sums_, at)); });
      });
    };
    if (!row_) return row({});
    b_.for_each(b_.index(rows_), {.role = AxisRole::row}, row);
  }
};

}  // namespace

std::optional<loop::Kernel> schedule_dots(const loop::Kernel& kernel, const TargetSpec& target) {
  return DotScheduler(kernel, target).run();
}

}  // namespace ag::passes

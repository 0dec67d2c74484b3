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
    const bool few_columns = row_ && row_->size->value() > col_->size->value();
    runs_ = few_columns ? row_ : col_, few_ = few_columns ? col_ : row_;
    count_ = few_ ? few_->size->value() : 1;
    const loop::VType sum = k_.type(k_.stmts[body_.loops[0]].results[0]);
    lanes_ = target_.lanes(dtype_bytes(sum.elem));
    const Int runs = runs_->size->value(), depth = body_.extents[0].value();
    plan_ = pick_dots(count_, runs, depth, static_cast<Int>(dtype_bytes(sum.elem)), target_);
    sums_ = b_.alloc(sum.elem, Dim(count_ * plan_.task), loop::Scope::scratch);
    tiles(outer_size() * Dim((runs + plan_.task - 1) / plan_.task), [&](LV t) {
      const Int tasks = (runs + plan_.task - 1) / plan_.task;
      LV block = t;
      if (!outer_.empty()) decode(b_.op(Op::div, {t, b_.index(tasks)})), block = b_.op(Op::rem, {t, b_.index(tasks)});
      LV lo = b_.mul(block, b_.index(plan_.task)), hi = b_.add(lo, b_.index(plan_.task));
      if (runs % plan_.task != 0) hi = b_.op(Op::min, {hi, b_.index(runs)});
      add(lo, hi);
      rest(lo, hi);
    });
    return finish();
  }

 private:
  const NestLoop *runs_ = nullptr, *few_ = nullptr;  // of the operand that is read once, and of the other
  DotBlocking plan_;
  loop::BufferId sums_;  // of a task, [rows][columns]
  Int count_ = 1;  // of the few
  int lanes_ = 1;

  bool applies() const {
    if (!col_ || body_.loops.size() != 1 || !k_.stmts[body_.loops[0]].attr.reassociate) return false;
    return col_->size->is_const() && (!row_ || row_->size->is_const()) && body_.extents[0].is_const();
  }

  /// Where the sum of a run, counted from the task's first, and one of the few lies.
  LV place(LV run, LV few) {
    return few_ == col_ ? b_.add(b_.mul(run, b_.index(count_)), few) : b_.add(b_.mul(few, b_.index(plan_.task)), run);
  }

  /// The sums of runs [lo, hi).
  void add(LV lo, LV hi) {
    const auto at_once = static_cast<std::uint16_t>(plan_.runs);
    ForOptions o{.mapping = Mapping::rows, .role = AxisRole::row, .width = at_once};
    b_.for_(lo, hi, b_.index(at_once), o, {}, [&](LV run, const Builder::Values&) {
      for (Int from = 0; from < count_; from += plan_.few) {
        Builder::Values sums = dots(from, std::min(from + plan_.few, count_), run);
        for (std::size_t i = 0; i < sums.size(); ++i)
          b_.store(sums_, place(b_.sub(run, lo), b_.index(from + static_cast<Int>(i))), sums[i]);
      }
      return Builder::Values{};
    });
  }

  /// The sums of one run with the few [from, to), one carried value each.
  Builder::Values dots(Int from, Int to, LV run) {
    const Stmt& loop = k_.stmts[body_.loops[0]];
    std::vector<KernelCloner> cells;
    Builder::Values first;
    for (Int i = from; i < to; ++i) {
      KernelCloner& c = cells.emplace_back(clone_);
      if (few_) c.set(few_->iv, b_.index(i));
      c.set(runs_->iv, run);
      before_sum(c);
      first.push_back(c.get(loop.operands[3]));
    }
    ForOptions o{.mapping = Mapping::vector,
                 .role = AxisRole::reduce,
                 .width = static_cast<std::uint16_t>(lanes_),
                 .reassociate = true};
    return b_.for_(b_.index(0), b_.dim(body_.extents[0]), b_.index(lanes_), o, first,
                   [&](LV k, const Builder::Values& carried) { return terms(cells, k, carried); });
  }

  /// One more term of each cell; what does not depend on the few is loaded once.
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
        if (load.operands.size() != 1 || (few_ && steps.depends(load.operands[0], few_->iv))) return {};
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

  /// What is computed from the sums of runs [lo, hi), and stored: rows one after the other, columns along lanes.
  void rest(LV lo, LV hi) {
    const bool few_columns = few_ == col_;
    auto row = [&](LV m) {
      LV first = few_columns ? b_.index(0) : lo, end = few_columns ? b_.index(count_) : hi;
      vector_loop(first, end, lanes_, [&](LV n) {
        KernelCloner c = clone_;
        if (row_) c.set(row_->iv, m);
        c.set(col_->iv, n);
        LV at = few_columns ? place(b_.sub(m, lo), n) : place(b_.sub(n, lo), row_ ? m : b_.index(0));
        nest_body(c, [&] { c.set(k_.stmts[body_.loops[0]].results[0], b_.load(sums_, at)); });
      });
      return Builder::Values{};
    };
    if (!row_) return void(row({}));
    b_.for_(few_columns ? lo : b_.index(0), few_columns ? hi : b_.index(count_), b_.index(1), {.role = AxisRole::row},
            {}, [&](LV m, const Builder::Values&) { return row(m); });
  }
};

}  // namespace

std::optional<loop::Kernel> schedule_dots(const loop::Kernel& kernel, const TargetSpec& target) {
  return DotScheduler(kernel, target).run();
}

}  // namespace ag::passes

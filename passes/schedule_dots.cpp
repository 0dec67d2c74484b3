// Schedules contractions whose sums run along lanes: a few rows by columns whose terms lie one after another. A block
// of columns times a tile of rows is held in registers of partial sums while the terms pass by; each line of the
// columns is read once. The sums go to scratch memory, from where the rest of the kernel takes them with columns along
// lanes. How many rows there are may be known to the run alone: then they are taken by fours, twos and ones.
#include <algorithm>
#include <map>

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

// -- sums along lanes -------------------------------------------------------------------------------------------------
bool DotNest::along_lanes() const {
  return col_ && body_.loops.size() == 1 && k_.stmts[body_.loops[0]].attr.reassociate && body_.extents[0].is_const();
}

int DotNest::sum_lanes() const { return target_.lanes(dtype_bytes(k_.type(k_.stmts[body_.loops[0]].results[0]).elem)); }

void DotNest::begin_dots(const NestLoop* runs, const NestLoop* few, Int at_most, const DotBlocking& plan) {
  runs_ = runs, few_ = few, at_most_ = at_most, dots_ = plan;
  sums_ = b_.alloc(k_.type(k_.stmts[body_.loops[0]].results[0]).elem, Dim(at_most_ * dots_.task), loop::Scope::scratch);
}

/// Where the sum of a run, counted from the task's first, and one of the few lies.
LV DotNest::place(LV run, LV few) {
  return few_ == col_ ? b_.add(b_.mul(run, b_.index(at_most_)), few) : b_.add(b_.mul(few, b_.index(dots_.task)), run);
}

void DotNest::add_dots(const KernelCloner& from, LV lo, LV hi) {
  const auto at_once = static_cast<std::uint16_t>(dots_.runs);
  const ForOptions o{.mapping = Mapping::rows, .role = AxisRole::row, .width = at_once};
  auto over_runs = [&](auto&& body) {
    b_.for_(lo, hi, b_.index(at_once), o, {},
            [&](LV run, const Builder::Values&) { return body(run), Builder::Values{}; });
  };
  auto add = [&](LV first, Int count, LV run) {
    Builder::Values sums = dots(from, first, count, run);
    for (std::size_t i = 0; i < sums.size(); ++i)
      b_.store(sums_, place(b_.sub(run, lo), b_.add(first, b_.index(static_cast<Int>(i)))), sums[i]);
  };
  if (!dots_.few_outside) return over_runs([&](LV run) { over_few([&](LV at, Int n) { add(at, n, run); }); });
  over_few([&](LV at, Int n) { over_runs([&](LV run) { add(at, n, run); }); });
}

/// The few, some at a time: first and number.
void DotNest::over_few(const std::function<void(LV first, Int count)>& some) {
  auto groups = [&](LV first, LV end, Int count) {
    b_.for_(first, end, b_.index(count), {.role = AxisRole::row}, {},
            [&](LV at, const Builder::Values&) { return some(at, count), Builder::Values{}; });
  };
  if (!few_ || few_->size->is_const()) {
    const Int rest = at_most_ % dots_.few, whole = at_most_ - rest;
    whole > dots_.few ? groups(b_.index(0), b_.index(whole), dots_.few) : some(b_.index(0), whole);
    if (rest) some(b_.index(whole), rest);
    return;
  }
  const LV all = b_.dim(*few_->size);
  LV at = b_.index(0);
  for (Int count = dots_.few; count >= 1; count /= 2) {
    LV end = count == 1 ? all : b_.mul(b_.op(Op::div, {all, b_.index(count)}), b_.index(count));
    groups(at, end, count);
    at = end;
  }
}

/// The sums of one run with `count` of the few, one carried value each.
Builder::Values DotNest::dots(const KernelCloner& from, LV first, Int count, LV run) {
  const Stmt& loop = k_.stmts[body_.loops[0]];
  std::vector<KernelCloner> cells;
  Builder::Values zeros;
  for (Int i = 0; i < count; ++i) {
    KernelCloner& c = cells.emplace_back(from);
    if (few_) c.set(few_->iv, b_.add(first, b_.index(i)));
    c.set(runs_->iv, run);
    before_sum(c);
    zeros.push_back(c.get(loop.operands[3]));
  }
  ForOptions o{.mapping = Mapping::vector,
               .role = AxisRole::reduce,
               .width = static_cast<std::uint16_t>(sum_lanes()),
               .reassociate = true};
  return b_.for_(b_.index(0), b_.dim(body_.extents[0]), b_.index(sum_lanes()), o, zeros,
                 [&](LV k, const Builder::Values& carried) { return terms(cells, k, carried); });
}

/// One more term of each cell; what does not depend on the few is loaded once.
Builder::Values DotNest::terms(const std::vector<KernelCloner>& cells, LV k, const Builder::Values& carried) {
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

void DotNest::rest_of_dots(const KernelCloner& from, LV lo, LV hi) {
  const bool few_columns = few_ == col_;
  auto row = [&](LV m) {
    LV first = few_columns ? b_.index(0) : lo, end = few_columns ? b_.index(at_most_) : hi;
    vector_loop(first, end, sum_lanes(), [&](LV n) {
      KernelCloner c = from;
      if (row_) c.set(row_->iv, m);
      c.set(col_->iv, n);
      LV at = few_columns ? place(b_.sub(m, lo), n) : place(b_.sub(n, lo), row_ ? m : b_.index(0));
      nest_body(c, [&] { c.set(k_.stmts[body_.loops[0]].results[0], b_.load(sums_, at)); });
    });
    return Builder::Values{};
  };
  if (!row_) return void(row({}));
  b_.for_(few_columns ? lo : b_.index(0), few_columns ? hi : b_.dim(*row_->size), b_.index(1), {.role = AxisRole::row},
          {}, [&](LV m, const Builder::Values&) { return row(m); });
}

namespace {

/// The whole kernel so, where all sizes are known.
class DotScheduler : public DotNest {
 public:
  using DotNest::DotNest;

  std::optional<loop::Kernel> run() {
    body_ = find_contraction(k_, nest_.body);
    if (!along_lanes() || !col_->size->is_const() || (row_ && !row_->size->is_const())) return std::nullopt;
    begin_contraction();
    const bool few_columns = row_ && row_->size->value() > col_->size->value();
    const NestLoop *all = few_columns ? row_ : col_, *few = few_columns ? col_ : row_;
    const Int count = few ? few->size->value() : 1, runs = all->size->value();
    const auto bytes = static_cast<Int>(dtype_bytes(k_.type(k_.stmts[body_.loops[0]].results[0]).elem));
    const DotBlocking plan = pick_dots(count, runs, body_.extents[0].value(), bytes, target_);
    begin_dots(all, few, count, plan);
    const Int tasks = (runs + plan.task - 1) / plan.task;
    tiles(outer_size() * Dim(tasks), [&](LV t) {
      LV block = t;
      if (!outer_.empty()) decode(b_.op(Op::div, {t, b_.index(tasks)})), block = b_.op(Op::rem, {t, b_.index(tasks)});
      LV lo = b_.mul(block, b_.index(plan.task)), hi = b_.add(lo, b_.index(plan.task));
      if (runs % plan.task != 0) hi = b_.op(Op::min, {hi, b_.index(runs)});
      add_dots(clone_, lo, hi);
      rest_of_dots(clone_, lo, hi);
    });
    return finish();
  }
};

}  // namespace

std::optional<loop::Kernel> schedule_dots(const loop::Kernel& kernel, const TargetSpec& target) {
  return DotScheduler(kernel, target).run();
}

}  // namespace ag::passes

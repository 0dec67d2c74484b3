// A norm's gradient computes each row of dx from sums along the row, and sums dy * x^ and dy of all rows for its scale
// and shift. The second are sums of columns: kernels of their own, since they run along other axes, split into parts
// of so many rows each (split_reductions). Here the kernel that walks the rows takes those parts over: a tile is a
// part, one row of sums in scratch memory is added to while each row of the operands is in registers, and stored where
// the part ends. What was stored only to be summed is stored no longer. The sums are taken in the order in which the
// kernel of the parts takes them, so no bit changes, at any number of threads.
#include "passes/join_column_sums.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "ir/loop/storage.hpp"
#include "passes/clone.hpp"
#include "passes/loop_nest.hpp"

namespace ag::passes {
namespace {

using loop::Access;
using loop::AxisRole;
using loop::BlockId;
using loop::BufferId;
using loop::BufferKind;
using loop::Builder;
using loop::Kernel;
using loop::KernelCall;
using loop::KernelId;
using loop::Mapping;
using loop::Op;
using loop::ProgramBufferId;
using loop::Step;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;
using Values = Builder::Values;

/// Parts below which threads would have too little to share.
std::int64_t least_parts(int threads) { return std::clamp(2 * threads, 4, 16); }

std::optional<std::int64_t> number(const Kernel& k, LV v) {
  auto d = as_dim(k, v);
  return d && d->is_const() ? std::optional(d->value()) : std::nullopt;
}

bool all_params(const Kernel& k) {
  return std::all_of(k.buffers.begin(), k.buffers.end(),
                     [](const loop::Buffer& b) { return b.scope == loop::Scope::param && b.noalias; });
}

/// Whether an index is row * columns + column.
bool of_element(const Kernel& k, LV index, LV row, LV column, std::int64_t columns) {
  const Dim r = Dim::symbol("%r"), c = Dim::symbol("%c");
  auto at = as_dim(k, index, [&](LV v) {
    return v == row ? std::optional(r) : v == column ? std::optional(c) : std::nullopt;
  });
  return at && *at == r * Dim(columns) + c;
}

/// A kernel of parts of sums over rows, for each column.
struct Sums {
  const Kernel& k;
  std::int64_t parts = 0, rows = 0, rows_a_part = 0, columns = 0;
  LV part, column, row;
  StmtId over_rows;
  std::vector<StmtId> stores;  ///< of the parts, behind the loop

  explicit Sums(const Kernel& kernel) : k(kernel) {}

  const loop::Block& body() const { return k.blocks[k.stmts[over_rows].blocks[0]]; }

  bool found() {
    const LoopNest nest = find_nest(k);
    if (!all_params(k) || !k.dims.empty() || nest.loops.size() != 2 || nest.loops[1].role != AxisRole::col)
      return false;
    part = nest.loops[0].iv, column = nest.loops[1].iv;
    auto p = number(k, nest.loops[0].extent), c = number(k, nest.loops[1].extent);
    if (!p || !c) return false;
    parts = *p, columns = *c;
    for (StmtId id : k.blocks[nest.body].stmts) {
      const Stmt& s = k.stmts[id];
      if (is_pure(s) || s.op == Op::yield) continue;
      if (s.op == Op::for_ && !over_rows && s.operands.size() > 3)
        over_rows = id;
      else if (s.op == Op::store && over_rows && s.operands.size() == 2)
        stores.push_back(id);
      else
        return false;
    }
    return over_rows && !stores.empty() && find_range() && straight();
  }

 private:
  /// Rows [part * n, min(part * n + n, rows)).
  bool find_range() {
    const Stmt& s = k.stmts[over_rows];
    const Dim p = Dim::symbol("%p");
    auto leaf = [&](LV v) { return v == part ? std::optional(p) : std::nullopt; };
    auto lo = as_dim(k, s.operands[0], leaf), hi = as_dim(k, s.operands[1], leaf);
    if (!lo || !hi) return false;
    const Dim step = lo->substitute({{"%p", Dim(1)}}), all = hi->substitute({{"%p", Dim(parts - 1)}});
    if (!step.is_const() || !all.is_const() || step.value() < 1) return false;
    rows_a_part = step.value(), rows = all.value();
    return *lo == p * step && *hi == min(p * step + step, Dim(rows)) &&
           (rows + step.value() - 1) / step.value() == parts;
  }

  bool straight() {
    const loop::Block& b = body();
    row = b.args[0];
    for (StmtId id : b.stmts) {
      const Stmt& s = k.stmts[id];
      if (s.op == Op::load ? s.operands.size() != 1 : !is_pure(s) && s.op != Op::yield) return false;
    }
    return true;
  }
};

/// A kernel that walks rows: one loop over them, and in it loops along each.
struct Rows {
  const Kernel& k;
  LoopNest nest;

  explicit Rows(const Kernel& kernel) : k(kernel), nest(find_nest(kernel)) {}

  bool found() const {
    if (!all_params(k) || !k.dims.empty() || nest.loops.size() != 1 || nest.loops[0].role != AxisRole::batch)
      return false;
    bool along = false;
    for (StmtId id : k.blocks[nest.body].stmts) {
      const Stmt& s = k.stmts[id];
      if (s.op == Op::for_ && s.attr.role == AxisRole::reduce && s.attr.reassociate)
        along = true;
      else if (s.op == Op::if_ ? !without_stores(s)
                               : !is_pure(s) && s.op != Op::yield && s.op != Op::load && s.op != Op::store)
        return false;
    }
    return along;
  }
  LV row() const { return nest.loops[0].iv; }

 private:
  bool without_stores(const Stmt& s) const {
    return std::all_of(s.blocks.begin(), s.blocks.end(), [&](BlockId block) {
      return std::all_of(k.blocks[block].stmts.begin(), k.blocks[block].stmts.end(), [&](StmtId id) {
        const Stmt& inner = k.stmts[id];
        return is_pure(inner) || inner.op == Op::yield || inner.op == Op::load ||
               (inner.op == Op::for_ && without_stores(inner));
      });
    });
  }
};

/// One call whose sums go into the kernel of the rows.
struct Joined {
  std::size_t step;  ///< of the call
  Sums sums;
  StmtId loop;  ///< of the rows' kernel, along a row: where the columns are added up
  std::map<BufferId, StmtId> stored;  ///< of the sums' kernel: what that loop stores there, for loads of an element
};

class ColumnSums {
 public:
  ColumnSums(loop::Program p, loop::Storage storage, const TargetSpec& target)
      : p_(std::move(p)),
        storage_(std::move(storage)),
        scratch_bytes_(target.l2_bytes / 4),
        least_parts_(least_parts(target.threads)) {}

  loop::Program run() {
    std::vector<Step>& steps = p_.body.steps;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto* call = std::get_if<KernelCall>(&steps[i].value);
      if (!call || !Rows(p_.kernels[call->kernel]).found()) continue;
      if (std::vector<Joined> sums = sums_for(i); !sums.empty()) join(i, sums);
    }
    return std::move(p_);
  }

 private:
  loop::Program p_;
  const loop::Storage storage_;
  const std::int64_t scratch_bytes_, least_parts_;

  const KernelCall& call_at(std::size_t step) const { return std::get<KernelCall>(p_.body.steps[step].value); }
  const Kernel& kernel_of(const KernelCall& c) const { return p_.kernels[c.kernel]; }
  ProgramBufferId home(ProgramBufferId b) const { return storage_.home[b]; }
  bool same(ProgramBufferId a, ProgramBufferId b) const {
    return home(a) == home(b) && storage_.begin[a] == storage_.begin[b];
  }

  /// Calls behind `at` that sum up columns of what its kernel has in hand.
  std::vector<Joined> sums_for(std::size_t at) const {
    std::vector<Joined> out;
    const Rows rows(kernel_of(call_at(at)));
    std::set<ProgramBufferId> written, touched;  // by the steps between
    std::int64_t bytes = 0;
    for (std::size_t i = at + 1; i < p_.body.steps.size(); ++i) {
      const auto* call = std::get_if<KernelCall>(&p_.body.steps[i].value);
      if (!call) break;
      const Kernel& k = kernel_of(*call);
      Joined j{i, Sums(k), {}, {}};
      bool may = out.size() < 4 && j.sums.found() && fits(rows, j, *call, at);
      for (std::size_t b = 0; may && b < call->buffers.size(); ++b)
        may = k.buffers[b].access == Access::read
                  ? !written.contains(home(call->buffers[b]))
                  : k.buffers[b].access == Access::write && !touched.contains(home(call->buffers[b]));
      if (may && !out.empty()) may = j.sums.parts == out[0].sums.parts && j.sums.columns == out[0].sums.columns;
      const std::int64_t more = may ? j.sums.columns * 8 * static_cast<std::int64_t>(j.sums.stores.size()) : 0;
      if (may && bytes + more <= scratch_bytes_) {
        bytes += more;
        out.push_back(std::move(j));
        continue;
      }
      for (std::size_t b = 0; b < call->buffers.size(); ++b) {
        touched.insert(home(call->buffers[b]));
        if (k.buffers[b].access != Access::read) written.insert(home(call->buffers[b]));
      }
    }
    return out;
  }

  /// Whether the sums run over the rows of that kernel, and one of its loops has all that they add up.
  bool fits(const Rows& rows, Joined& j, const KernelCall& call, std::size_t at) const {
    const KernelCall& of_rows = call_at(at);
    const auto all = number(rows.k, rows.nest.loops[0].extent);
    if (all != j.sums.rows || j.sums.parts < least_parts_) return false;
    std::vector<ProgramBufferId> read;  // an element of each row
    std::vector<BufferId> read_as;
    for (StmtId id : j.sums.body().stmts) {
      const Stmt& s = j.sums.k.stmts[id];
      if (s.op != Op::load) continue;
      const ProgramBufferId b = call.buffers[s.attr.buffer.index];
      const bool element = of_element(j.sums.k, s.operands[0], j.sums.row, j.sums.column, j.sums.columns);
      if (element) read.push_back(b), read_as.push_back(s.attr.buffer);
      if (!element && writes(of_rows, b)) return false;
    }
    std::size_t most = 0;
    for (StmtId id : rows.k.blocks[rows.nest.body].stmts) {
      const Stmt& loop = rows.k.stmts[id];
      if (loop.op != Op::for_ || number(rows.k, loop.operands[0]) != 0 ||
          number(rows.k, loop.operands[1]) != j.sums.columns)
        continue;
      std::map<BufferId, StmtId> stored;
      std::size_t in_hand = 0;
      bool usable = true;
      for (std::size_t r = 0; r < read.size(); ++r) {
        const StmtId access = access_in(rows, of_rows, loop, read[r], j.sums.columns);
        in_hand += access.valid();
        if (!writes(of_rows, read[r])) continue;
        usable = usable && access.valid() && rows.k.stmts[access].op == Op::store;
        if (usable) stored[read_as[r]] = access;
      }
      if (usable && in_hand > most) most = in_hand, j.loop = id, j.stored = std::move(stored);
    }
    return most > 0;
  }

  bool writes(const KernelCall& c, ProgramBufferId b) const {
    for (std::size_t i = 0; i < c.buffers.size(); ++i)
      if (home(c.buffers[i]) == home(b) && kernel_of(c).buffers[i].access != Access::read) return true;
    return false;
  }

  /// The access of a loop along a row to each element of a buffer; a store if there is one.
  StmtId access_in(const Rows& rows, const KernelCall& call, const Stmt& loop, ProgramBufferId b,
                   std::int64_t columns) const {
    StmtId found;
    for (StmtId id : rows.k.blocks[loop.blocks[0]].stmts) {
      const Stmt& s = rows.k.stmts[id];
      if ((s.op != Op::load && s.op != Op::store) || !same(call.buffers[s.attr.buffer.index], b)) continue;
      const std::size_t plain = s.op == Op::load ? 1 : 2;
      const LV column = rows.k.blocks[loop.blocks[0]].args[0];
      if (s.operands.size() == plain && of_element(rows.k, s.operands[0], rows.row(), column, columns)) found = id;
    }
    return found;
  }

  // ---- The kernel that does both.

  /// Whether nobody but the joined sums reads what the kernel of the rows stores there.
  bool only_summed(std::size_t at, ProgramBufferId b, const std::vector<Joined>& sums) const {
    if (p_.buffers[b].kind != BufferKind::temp || p_.buffers[b].alias_of || home(b) != b) return false;
    std::size_t uses = 0, known = 1;
    for (std::size_t i = 0; i < p_.buffers.size(); ++i)
      if (p_.buffers[ProgramBufferId(i)].alias_of == b) return false;
    loop::for_each_step(p_.body, [&](const Step& step) {
      if (const auto* c = std::get_if<KernelCall>(&step.value))
        uses += static_cast<std::size_t>(std::count(c->buffers.begin(), c->buffers.end(), b));
      else
        uses += 1000;  // some other step may: not worth looking
    });
    for (const Joined& j : sums) {
      const auto& buffers = call_at(j.step).buffers;
      known += static_cast<std::size_t>(std::count(buffers.begin(), buffers.end(), b));
    }
    return uses == known && std::count(call_at(at).buffers.begin(), call_at(at).buffers.end(), b) == 1;
  }

  void join(std::size_t at, const std::vector<Joined>& sums) {
    const KernelCall of_rows = call_at(at);
    const Kernel& rows_kernel = kernel_of(of_rows);
    KernelCall call = of_rows;
    call.buffers.clear();
    std::vector<Kernel> kernels;  // of the sums, with origins that no other has
    std::uint32_t origin = 0;
    for (std::uint32_t o : rows_kernel.origins) origin = std::max(origin, o);
    std::map<std::uint32_t, std::uint32_t> source_of;
    for (std::size_t i = 0; i < rows_kernel.origins.size() && i < of_rows.origins.size(); ++i)
      source_of[rows_kernel.origins[i]] = of_rows.origins[i];
    for (const Joined& j : sums) {
      kernels.push_back(j.sums.k);
      for (std::size_t i = 0; i < kernels.back().origins.size(); ++i) {
        kernels.back().origins[i] = ++origin;
        if (i < call_at(j.step).origins.size()) source_of[origin] = call_at(j.step).origins[i];
      }
      call.label += "+" + call_at(j.step).label;
    }
    Kernel k = Maker(*this, at, sums, kernels).run(call.buffers);
    call.origins.clear();
    for (std::uint32_t o : k.origins)
      if (auto it = source_of.find(o); it != source_of.end()) call.origins.push_back(it->second);
    if (call.origins.size() != k.origins.size()) call.origins.clear(), k.origins.clear();
    call.kernel = p_.kernels.push(std::move(k));
    p_.body.steps[at].value = std::move(call);
    for (std::size_t i = sums.size(); i-- > 0;)
      p_.body.steps.erase(p_.body.steps.begin() + static_cast<std::ptrdiff_t>(sums[i].step));
  }

  class Maker {
   public:
    Maker(const ColumnSums& all, std::size_t at, const std::vector<Joined>& sums, const std::vector<Kernel>& kernels)
        : all_(all),
          at_(at),
          call_(all.call_at(at)),
          rows_(all.kernel_of(call_)),
          sums_(sums),
          b_(rows_.k.name),
          clone_(rows_.k, b_) {
      for (const Kernel& k : kernels) cloners_.emplace_back(k, b_);
    }

    Kernel run(std::vector<ProgramBufferId>& params) {
      declare(params);
      const Sums& s = sums_[0].sums;
      b_.for_each(b_.index(s.parts), {.mapping = Mapping::parallel, .role = AxisRole::batch}, [&](LV part) {
        columns([&](LV c) {
          for (std::size_t j = 0; j < sums_.size(); ++j)
            for (std::size_t n = 0; n < totals_[j].size(); ++n)
              b_.store(totals_[j][n], c, cloners_[j].get(loop_of(j).operands[n + 3]));
        });
        LV lo = b_.mul(part, b_.index(s.rows_a_part));
        LV hi = b_.op(Op::min, {b_.add(lo, b_.index(s.rows_a_part)), b_.index(s.rows)});
        b_.for_(lo, hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
                [&](LV row, const Values&) { return one_row(row), Values{}; });
        columns([&](LV c) { store_part(part, c); });
      });
      return std::move(b_).finish();
    }

   private:
    const ColumnSums& all_;
    const std::size_t at_;
    const KernelCall& call_;
    const Rows rows_;
    const std::vector<Joined>& sums_;
    Builder b_;
    KernelCloner clone_;
    std::vector<KernelCloner> cloners_;  // of the sums
    std::vector<std::vector<BufferId>> totals_;  // of the sums: a row in scratch memory for each
    std::set<StmtId> dropped_;  // stores that nobody reads

    const Stmt& loop_of(std::size_t j) const { return sums_[j].sums.k.stmts[sums_[j].sums.over_rows]; }

    void declare(std::vector<ProgramBufferId>& params) {
      std::set<ProgramBufferId> gone;
      for (const Joined& j : sums_)
        for (const auto& [buffer, store] : j.stored)
          if (ProgramBufferId b = all_.call_at(j.step).buffers[buffer.index]; all_.only_summed(at_, b, sums_)) {
            gone.insert(b);
            dropped_.insert(store);
          }
      std::map<ProgramBufferId, BufferId> place;
      clone_.clone_buffers([&](BufferId id) { return !gone.contains(call_.buffers[id.index]); });
      for (std::size_t i = 0; i < call_.buffers.size(); ++i)
        if (!gone.contains(call_.buffers[i])) {
          place.emplace(call_.buffers[i], clone_.get(BufferId(i)));
          params.push_back(call_.buffers[i]);
        }
      for (std::size_t j = 0; j < sums_.size(); ++j) {
        const Kernel& k = sums_[j].sums.k;
        const auto& buffers = all_.call_at(sums_[j].step).buffers;
        for (std::size_t i = 0; i < buffers.size(); ++i) {
          if (sums_[j].stored.contains(BufferId(i))) continue;
          auto [it, fresh] = place.try_emplace(buffers[i]);
          if (fresh) {
            it->second = b_.param(k.buffers[i].dtype, k.buffers[i].elems, k.buffers[i].access);
            params.push_back(buffers[i]);
          }
          cloners_[j].set(BufferId(i), it->second);
        }
        b_.kernel().flops = b_.kernel().flops + k.flops;
      }
      for (std::size_t j = 0; j < sums_.size(); ++j) {
        totals_.emplace_back();
        for (LV v : loop_of(j).results)
          totals_[j].push_back(
              b_.alloc(sums_[j].sums.k.type(v).elem, Dim(sums_[j].sums.columns), loop::Scope::scratch));
      }
    }

    void columns(const std::function<void(LV)>& body) {
      const loop::ForOptions o{.mapping = Mapping::parallel, .role = AxisRole::reduce, .reassociate = true};
      b_.for_each(b_.index(sums_[0].sums.columns), o, body);
    }

    void one_row(LV row) {
      KernelCloner c = clone_;
      c.set(rows_.row(), row);
      for (StmtId id : rows_.k.blocks[rows_.nest.body].stmts) {
        const Stmt& s = rows_.k.stmts[id];
        if (s.op == Op::for_)
          along(id, row, c);
        else if (s.op != Op::yield)
          c.clone(id);
      }
    }

    /// A loop along the row, with the sums that are added up in it. The last one asks for the next row, of which this
    /// one's passes leave memory idle.
    void along(StmtId id, LV row, KernelCloner& c) {
      const Stmt& s = rows_.k.stmts[id];
      const loop::Block& body = rows_.k.blocks[s.blocks[0]];
      Values init;
      for (std::size_t i = 3; i < s.operands.size(); ++i) init.push_back(c.get(s.operands[i]));
      const loop::ForOptions o{.mapping = s.attr.mapping, .role = s.attr.role, .reassociate = s.attr.reassociate};
      Values results = b_.for_(c.get(s.operands[0]), c.get(s.operands[1]), c.get(s.operands[2]), o, init,
                               [&](LV iv, const Values& carried) {
                                 c.set(body.args[0], iv);
                                 for (std::size_t i = 0; i < carried.size(); ++i) c.set(body.args[i + 1], carried[i]);
                                 c.clone_block(s.blocks[0], [&](StmtId inner) { return dropped_.contains(inner); });
                                 for (std::size_t j = 0; j < sums_.size(); ++j)
                                   if (sums_[j].loop == id) add_up(j, row, iv, c);
                                 if (id == last_loop()) ask_for_next(body, c);
                                 return c.yielded(s.blocks[0]);
                               });
      for (std::size_t i = 0; i < results.size(); ++i) c.set(s.results[i], results[i]);
    }

    StmtId last_loop() const {
      const auto& stmts = rows_.k.blocks[rows_.nest.body].stmts;
      auto it = std::find_if(stmts.rbegin(), stmts.rend(), [&](StmtId id) { return rows_.k.stmts[id].op == Op::for_; });
      return *it;
    }

    void ask_for_next(const loop::Block& body, KernelCloner& c) {
      const std::int64_t n = sums_[0].sums.columns;
      std::set<BufferId> asked;
      for (StmtId id : body.stmts) {
        const Stmt& s = rows_.k.stmts[id];
        if (s.op == Op::load && s.operands.size() == 1 && rows_.k.buffers[s.attr.buffer.index].access == Access::read &&
            of_element(rows_.k, s.operands[0], rows_.row(), body.args[0], n) && asked.insert(s.attr.buffer).second)
          b_.prefetch(c.get(s.attr.buffer), b_.add(c.get(s.operands[0]), b_.index(n)), 2);
      }
    }

    void add_up(std::size_t j, LV row, LV column, KernelCloner& of_row) {
      const Sums& s = sums_[j].sums;
      KernelCloner c = cloners_[j];
      c.set(s.row, row);
      c.set(s.column, column);
      for (std::size_t n = 0; n < totals_[j].size(); ++n) c.set(s.body().args[n + 1], b_.load(totals_[j][n], column));
      c.on_load = [&](const Stmt& load) {
        auto it = sums_[j].stored.find(load.attr.buffer);
        return it == sums_[j].stored.end() ? LV{} : of_row.get(rows_.k.stmts[it->second].operands[1]);
      };
      const BlockId block = s.k.stmts[s.over_rows].blocks[0];
      c.clone_block(block);
      const Values next = c.yielded(block);
      for (std::size_t n = 0; n < next.size(); ++n) b_.store(totals_[j][n], column, next[n]);
    }

    void store_part(LV part, LV column) {
      for (std::size_t j = 0; j < sums_.size(); ++j) {
        const Sums& s = sums_[j].sums;
        KernelCloner c = cloners_[j];
        c.set(s.part, part);
        c.set(s.column, column);
        for (std::size_t n = 0; n < totals_[j].size(); ++n)
          c.set(loop_of(j).results[n], b_.load(totals_[j][n], column));
        for (StmtId id : s.stores) c.clone(id);
      }
    }
  };
};

Result<loop::Program> run(loop::Program p, PassContext& context) {
  if (!context.fuse) return p;  // -O0: an op a kernel
  AG_TRY(loop::Storage storage, loop::resolve_storage(p));
  return ColumnSums(std::move(p), std::move(storage), context.target).run();
}

}  // namespace

const Pass join_column_sums = {
    .name = "join_column_sums", .summary = "sums of columns inside the kernel that walks the rows", .on_program = run};

}  // namespace ag::passes

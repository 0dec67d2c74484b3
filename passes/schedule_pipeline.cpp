// Rows that are walked several times, as a pipeline: while one row is in its last pass, the next is in the pass before,
// and so on, all in one loop over the elements. The passes of a softmax wait for different things (memory,
// multiply-adds, stores); side by side they overlap, and the ends of their reductions are waited for once a row instead
// of once a pass.
//
// Pass p of row r runs in iteration r + p. Where only some passes have a row (the first and last iterations of a tile),
// they run one after the other. What a pass computes for a later one travels in values carried from iteration to
// iteration; a row kept in scratch memory is read by the later pass before the earlier one overwrites it, or has a copy
// for each iteration in between. The order of every reduction is that of the passes run apart.
#include <algorithm>
#include <map>
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
using loop::OpClass;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;
using Values = Builder::Values;

/// Statements beyond which a loop over all passes has no registers left to gain from; an elementary function counts as
/// some two dozen.
constexpr int most_statements = 110, statements_of_function = 24;
constexpr std::int64_t least_elements = 64, least_rows = 64, rows_a_tile = 32;

class RowPipeline : public CpuNest {
 public:
  using CpuNest::CpuNest;

  bool applies() {
    if (col_ || row_ || outer_.empty() || !moments_.empty() || !all_sized() || target_.vector_registers < 32)
      return false;
    return find_stages() && worth_it() && find_scratch();
  }

  loop::Kernel run() {
    begin();
    find_values();
    for (std::size_t i = 0; i < k_.buffers.size(); ++i)
      if (copies_[i] > 1) {
        loop::Buffer& b = b_.kernel().buffers[clone_.get(loop::BufferId(i)).index];
        b.elems = b.elems * Dim(copies_[i]);
      }
    Dim rows = outer_size(), chunk = rows_a_tile;
    if (rows.is_const()) chunk = std::clamp<std::int64_t>(rows.value() / 32, 8, rows_a_tile);
    tiles(ceildiv(rows, chunk), [&](LV t) {
      LV lo = b_.mul(t, b_.dim(chunk)), hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(rows)});
      LV last = b_.index(count() - 1);
      Values none;
      for (const Carried& c : carried_) none.push_back(b_.constant_bits(k_.type(c.value), 0));
      b_.for_(lo, b_.add(hi, last), b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, none,
              [&](LV i, const Values& carried) {
                LV all = b_.op(Op::and_, {b_.op(Op::cmp_ge, {b_.sub(i, last), lo}), b_.op(Op::cmp_lt, {i, hi})});
                return b_.if_(all, [&] { return together(i, carried); }, [&] { return apart(i, lo, hi, carried); });
              });
    });
    return finish();
  }

 private:
  struct Stage {
    StmtId loop;
    std::vector<StmtId> after;  // statements between this pass and the next
  };
  /// A value of one iteration as a later one sees it.
  struct Carried {
    LV value;
    int age;  // iterations ago
  };
  std::vector<Stage> stages_;
  std::vector<StmtId> before_;  // loads above the first pass
  std::map<LV, int> stage_of_;  // of values that passes and the statements around them make
  std::vector<Carried> carried_;  // a value's ages follow each other
  std::vector<std::int64_t> copies_;  // by buffer: of a row kept in scratch memory

  int count() const { return static_cast<int>(stages_.size()); }
  const Stmt& loop_of(int p) const { return k_.stmts[stages_[static_cast<std::size_t>(p)].loop]; }
  BlockId body_of(int p) const { return loop_of(p).blocks[0]; }
  LV iv_of(int p) const { return k_.blocks[body_of(p)].args[0]; }

  // -- whether ----------------------------------------------------------------------------------------------------
  bool find_stages() {
    for (StmtId id : k_.blocks[nest_.body].stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.op == Op::yield) continue;
      if (s.op == Op::for_) {
        if (s.attr.role != AxisRole::reduce || !s.attr.reassociate || !straight(s)) return false;
        if (!stages_.empty() && (s.operands[0] != loop_of(0).operands[0] || s.operands[1] != loop_of(0).operands[1]))
          return false;
        stages_.push_back({id, {}});
        for (LV v : s.results) stage_of_[v] = count() - 1;
        continue;
      }
      const bool memory = s.op == Op::load || s.op == Op::store;
      if (!is_pure(s) && !memory) return false;
      bool made =
          memory || std::any_of(s.operands.begin(), s.operands.end(), [&](LV v) { return stage_of_.contains(v); });
      if (!made) continue;  // sizes and places: computed for each pass
      if (stages_.empty() && s.op != Op::load) return false;
      (stages_.empty() ? before_ : stages_.back().after).push_back(id);
      for (LV v : s.results) stage_of_[v] = std::max(count() - 1, 0);
    }
    return stages_.size() >= 2 && stages_.size() <= 4;
  }

  bool straight(const Stmt& s) const {
    for (StmtId id : k_.blocks[s.blocks[0]].stmts) {
      const Op op = k_.stmts[id].op;
      if (op != Op::yield && op != Op::load && op != Op::store && !is_pure(k_.stmts[id])) return false;
    }
    return true;
  }

  bool worth_it() const {
    auto extent = as_dim(k_, loop_of(0).operands[1]);
    if (!extent || (extent->is_const() && extent->value() < least_elements)) return false;
    Dim rows = outer_size();
    if (rows.is_const() && rows.value() < least_rows) return false;
    std::size_t row_bytes = 0;
    if (extent->is_const()) row_bytes = static_cast<std::size_t>(extent->value()) * element_bytes();
    if (stages_.size() * row_bytes * 2 > static_cast<std::size_t>(target_.l2_bytes)) return false;
    int statements = 0;
    for (int p = 0; p < count(); ++p)
      for (StmtId id : k_.blocks[body_of(p)].stmts)
        statements += describe(k_.stmts[id].op).cls == OpClass::math ? statements_of_function : 1;
    // Without a function there is nothing to overlap with memory, and one row at a time is faster.
    return statements <= most_statements && statements > statements_of_function;
  }

  /// Rows in scratch memory are written by one pass and read at the same place; what is written elsewhere is of the
  /// row itself.
  bool find_scratch() {
    copies_.assign(k_.buffers.size(), 0);
    std::vector<int> writer(k_.buffers.size(), -1);
    for (int p = 0; p < count(); ++p)
      for (StmtId id : k_.blocks[body_of(p)].stmts) {
        const Stmt& s = k_.stmts[id];
        if (s.op != Op::load && s.op != Op::store) continue;
        const std::size_t b = s.attr.buffer.index;
        if (k_.buffers[b].scope == loop::Scope::param) continue;
        if (s.operands[0] != iv_of(p)) return false;
        if (s.op == Op::store && writer[b] >= 0) return false;
        if (s.op == Op::store) writer[b] = p;
        if (s.op == Op::load && (writer[b] < 0 || writer[b] == p)) return false;
        if (s.op == Op::load) copies_[b] = std::max<std::int64_t>(copies_[b], p - writer[b]);
      }
    for (const Stage& stage : stages_)
      for (StmtId id : stage.after)
        if (const Stmt& s = k_.stmts[id];
            s.op == Op::load && k_.buffers[s.attr.buffer.index].access != loop::Access::read)
          return false;
    return true;
  }

  /// Which values are used by passes after their own, and how much later at most.
  void find_values() {
    std::map<LV, int> age;
    auto used = [&](const Stmt& s, int p) {
      for (LV v : s.operands)
        if (auto it = stage_of_.find(v); it != stage_of_.end() && p > it->second)
          age[v] = std::max(age[v], p - it->second);
    };
    for (int p = 0; p < count(); ++p) {
      used(loop_of(p), p);
      for (StmtId id : k_.blocks[body_of(p)].stmts) used(k_.stmts[id], p);
      for (StmtId id : stages_[static_cast<std::size_t>(p)].after) used(k_.stmts[id], p);
    }
    for (auto [v, most] : age)
      for (int a = 1; a <= most; ++a) carried_.push_back({v, a});
  }

  // -- one iteration -------------------------------------------------------------------------------------------------
  /// A cloner for the pass `p` in iteration `i`, which knows its row and what earlier iterations made for it.
  KernelCloner cloner(int p, LV i, const Values& carried) {
    LV row = b_.sub(i, b_.index(p));
    decode(row);
    KernelCloner c = clone_;
    for (std::size_t n = 0; n < carried_.size(); ++n)
      if (stage_of_.at(carried_[n].value) + carried_[n].age == p) c.set(carried_[n].value, carried[n]);
    if (p == 0)
      for (StmtId id : before_) c.clone(id);
    rows_of_[p] = row;
    return c;
  }
  std::map<int, LV> rows_of_;

  /// The values that the next iteration is given, from those that the passes made in this one.
  Values next(const std::map<LV, LV>& made, const Values& carried) const {
    Values out;
    for (std::size_t n = 0; n < carried_.size(); ++n)
      out.push_back(carried_[n].age == 1 ? made.at(carried_[n].value) : carried[n - 1]);
    return out;
  }

  void after(int p, KernelCloner& c, std::map<LV, LV>& made) {
    for (StmtId id : stages_[static_cast<std::size_t>(p)].after) c.clone(id);
    for (const Carried& v : carried_)
      if (v.age == 1 && stage_of_.at(v.value) == p) made[v.value] = c.get(v.value);
  }

  int width() const {
    bool carries = false;
    for (int p = 0; p < count(); ++p) carries = carries || !loop_of(p).results.empty();
    return width_for(as_dim(k_, loop_of(0).operands[1]), carries ? 4 : 2);
  }

  /// Index of an element of a kept row: rows between writer and reader have copies of their own.
  LV kept_index(const Stmt& s, int p, KernelCloner& c) {
    const std::size_t b = s.attr.buffer.index;
    LV at = c.get(s.operands[0]);
    if (copies_[b] <= 1) return at;
    LV copy = b_.op(Op::rem, {rows_of_.at(p), b_.index(copies_[b])});
    return b_.add(b_.mul(copy, b_.dim(k_.buffers[b].elems)), at);
  }

  void load(StmtId id, int p, KernelCloner& c) {
    const Stmt& s = k_.stmts[id];
    if (k_.buffers[s.attr.buffer.index].scope == loop::Scope::param) return c.clone(id);
    c.set(s.results[0], b_.load(c.get(s.attr.buffer), kept_index(s, p, c)));
  }
  void store(StmtId id, int p, KernelCloner& c) {
    const Stmt& s = k_.stmts[id];
    if (k_.buffers[s.attr.buffer.index].scope == loop::Scope::param) return c.clone(id);
    b_.store(c.get(s.attr.buffer), kept_index(s, p, c), c.get(s.operands[1]));
  }

  /// The passes `from` to `to` in one loop over the elements. All loads come first: rows a multiple of 4 KiB apart
  /// would otherwise wait for each other's stores.
  void loops(int from, int to, std::map<int, KernelCloner>& cloners) {
    Values init;
    for (int p = to; p >= from; --p)
      for (std::size_t n = 3; n < loop_of(p).operands.size(); ++n)
        init.push_back(cloners.at(p).get(loop_of(p).operands[n]));
    KernelCloner& first = cloners.at(from);
    LV lo = first.get(loop_of(from).operands[0]), hi = first.get(loop_of(from).operands[1]);
    ForOptions o{.mapping = Mapping::vector, .role = AxisRole::reduce, .reassociate = true};
    o.width = static_cast<std::uint16_t>(width());
    Values results = b_.for_(lo, hi, b_.index(o.width), o, init, [&](LV iv, const Values& carried) {
      std::size_t at = 0;
      for (int p = to; p >= from; --p) {
        KernelCloner& c = cloners.at(p);
        const auto& args = k_.blocks[body_of(p)].args;
        c.set(args[0], iv);
        for (std::size_t n = 1; n < args.size(); ++n) c.set(args[n], carried[at++]);
      }
      auto each = [&](auto&& f) {
        for (int p = to; p >= from; --p)
          for (StmtId id : k_.blocks[body_of(p)].stmts) f(k_.stmts[id], id, p, cloners.at(p));
      };
      each([&](const Stmt& s, StmtId id, int p, KernelCloner& c) {
        if (s.op == Op::load) load(id, p, c);
      });
      each([&](const Stmt& s, StmtId id, int, KernelCloner& c) {
        if (s.op != Op::load && s.op != Op::store && s.op != Op::yield) c.clone(id);
      });
      each([&](const Stmt& s, StmtId id, int p, KernelCloner& c) {
        if (s.op == Op::store) store(id, p, c);
      });
      Values yielded;
      for (int p = to; p >= from; --p)
        for (LV v : cloners.at(p).yielded(body_of(p))) yielded.push_back(v);
      return yielded;
    });
    std::size_t at = 0;
    for (int p = to; p >= from; --p)
      for (LV v : loop_of(p).results) cloners.at(p).set(v, results[at++]);
  }

  Values together(LV i, const Values& carried) {
    std::map<int, KernelCloner> cloners;
    for (int p = 0; p < count(); ++p) cloners.emplace(p, cloner(p, i, carried));
    loops(0, count() - 1, cloners);
    std::map<LV, LV> made;
    for (int p = count() - 1; p >= 0; --p) after(p, cloners.at(p), made);
    return next(made, carried);
  }

  Values apart(LV i, LV lo, LV hi, const Values& carried) {
    std::map<LV, LV> made;
    for (int p = count() - 1; p >= 0; --p) {
      Values kinds;
      std::vector<LV> own;
      for (const Carried& c : carried_)
        if (c.age == 1 && stage_of_.at(c.value) == p) own.push_back(c.value);
      LV row = b_.sub(i, b_.index(p));
      LV active = b_.op(Op::and_, {b_.op(Op::cmp_ge, {row, lo}), b_.op(Op::cmp_lt, {row, hi})});
      Values results = b_.if_(
          active,
          [&] {
            std::map<int, KernelCloner> one;
            one.emplace(p, cloner(p, i, carried));
            loops(p, p, one);
            std::map<LV, LV> mine;
            after(p, one.at(p), mine);
            Values out;
            for (LV v : own) out.push_back(mine.at(v));
            return out;
          },
          [&] {
            Values out;
            for (LV v : own) out.push_back(b_.constant_bits(k_.type(v), 0));
            return out;
          });
      for (std::size_t n = 0; n < own.size(); ++n) made[own[n]] = results[n];
    }
    return next(made, carried);
  }
};

}  // namespace

std::optional<loop::Kernel> schedule_pipeline(const loop::Kernel& kernel, const TargetSpec& target) {
  RowPipeline p(kernel, target);
  if (!p.applies()) return std::nullopt;
  return p.run();
}

}  // namespace ag::passes

// The gradient of a norm walks a row for sum(x), for sum((x - m)^2), for sum(h (x - m) s) and for its result: the third
// sum waits for the mean m and the scale s, but only as factors. With c the row's first element it is
//
//   s (sum(h (x - c)) - (m - c) sum(h)),
//
// whose sums are taken in the first pass (where `Moments` takes the second one, too), and what the third pass stored is
// stored by the last. Without a mean (RMS norms) s comes before the sum alone. Where much cancels (the first element is
// far from m, as in `Moments`) or the product is no number, the sum is taken as it stood; the data alone decide.
#include "passes/row_dots.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "passes/clone.hpp"
#include "passes/loop_nest.hpp"
#include "passes/moments.hpp"

namespace ag::passes {
namespace {

using loop::BlockId;
using loop::BufferId;
using loop::Builder;
using loop::ForOptions;
using loop::Kernel;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;
using Values = Builder::Values;

/// n (m - c)^2 may be so many times sum((x - m)^2): sums over x - c are then no more than four times as large.
constexpr double most_cancelled = 15;
constexpr int most_dots = 4;

/// A sum of products that waits for values as factors alone.
struct Dot {
  StmtId sum, loop, later;  ///< the earlier pass, the sum's own, and the one that stores in its stead (or none)
  std::vector<LV> plain;  ///< factors in the loop's body that wait for nothing
  std::vector<LV> scales;  ///< factors made outside
  LV x, mean;  ///< the factor x - mean, if there is one
  StmtId squares;  ///< with a mean: the loop that sums up (x - mean)^2
  std::optional<std::size_t> plain_sum;  ///< with a mean: which result of `sum` adds up the plain factor
};

class Finder {
 public:
  explicit Finder(const Kernel& k) : k_(k), block_(find_nest(k).body), moments_(k, block_) {}

  std::optional<Dot> find() {
    const auto& stmts = k_.blocks[block_].stmts;
    bool loops = false;  // so far: what is read after one may not be there for it
    for (std::size_t i = 0; i < stmts.size(); ++i) {
      const Stmt& s = k_.stmts[stmts[i]];
      if (auto d = s.op == Op::for_ && s.results.size() == 1 ? dot(i) : std::nullopt) return d;
      loops = loops || s.op == Op::for_;
      const bool waits = (loops && !is_pure(s)) ||
                         std::any_of(s.operands.begin(), s.operands.end(), [&](LV v) { return late_.contains(v); });
      if (waits) late_.insert(s.results.begin(), s.results.end());
    }
    return {};
  }

 private:
  const Kernel& k_;
  const BlockId block_;
  const Moments moments_;
  std::set<LV> late_;  // made by loops, from what they make, or read after one
  std::set<StmtId> body_;  // of the loop in question

  const Stmt* inside(LV v) const {
    const StmtId def = k_.values[v].def;
    return def && body_.contains(def) ? &k_.stmts[def] : nullptr;
  }
  bool waits(LV v) const {
    if (late_.contains(v)) return true;
    const Stmt* s = inside(v);
    return s && std::any_of(s->operands.begin(), s->operands.end(), [&](LV o) { return waits(o); });
  }

  /// Whether a value is a product of factors of the kinds of a `Dot`.
  bool factors(LV v, Dot& d) const {
    const Stmt* s = inside(v);
    if (!waits(v)) return d.plain.push_back(v), true;
    if (!s) return d.scales.push_back(v), true;
    if (s->op == Op::mul) return factors(s->operands[0], d) && factors(s->operands[1], d);
    if (s->op != Op::sub || d.mean || waits(s->operands[0]) || inside(s->operands[1])) return false;
    d.x = s->operands[0], d.mean = s->operands[1];
    return true;
  }

  bool same_range(const Stmt& a, const Stmt& b) const {
    return a.operands[0] == b.operands[0] && a.operands[1] == b.operands[1];
  }

  std::optional<Dot> dot(std::size_t at) {
    const auto& stmts = k_.blocks[block_].stmts;
    Dot d;
    d.loop = stmts[at];
    const Stmt& s = k_.stmts[d.loop];
    auto product = moments_.summed(s);
    if (!product || (k_.type(*product).elem != DType::f32 && k_.type(*product).elem != DType::f64)) return {};
    const auto& body = k_.blocks[s.blocks[0]].stmts;
    body_ = {body.begin(), body.end()};
    if (!factors(*product, d) || d.plain.empty() || (!d.mean && d.scales.empty())) return {};
    if (!std::all_of(body.begin(), body.end(), [&](StmtId id) { return may_move(k_.stmts[id]); })) return {};
    for (std::size_t i = 0; i < at; ++i) {
      const Stmt& before = k_.stmts[stmts[i]];
      if (before.op != Op::for_ || !same_range(before, s)) continue;
      if (!d.sum && moments_.sums(before)) d.sum = stmts[i];
      if (auto y = d.mean ? moments_.squared(before) : std::nullopt;
          y && y->second == d.mean && moments_.same(y->first, before, d.x, s))
        d.squares = stmts[i];
    }
    if (!d.sum || (d.mean && (!d.squares || d.squares == d.sum)) || !find_later(at, d)) return {};
    if (d.mean && d.plain.size() == 1) find_plain_sum(d);
    return d;
  }

  /// Loads of what nobody writes, and stores of what nobody reads.
  bool may_move(const Stmt& s) const {
    if (is_pure(s) || s.op == Op::yield) return true;
    if (s.op != Op::load && s.op != Op::store) return false;
    const loop::Buffer& b = k_.buffers[s.attr.buffer.index];
    return b.scope == loop::Scope::param && b.noalias && s.operands.size() == (s.op == Op::load ? 1 : 2) &&
           b.access == (s.op == Op::load ? loop::Access::read : loop::Access::write);
  }

  bool find_later(std::size_t at, Dot& d) const {
    const auto& stmts = k_.blocks[block_].stmts;
    if (std::none_of(body_.begin(), body_.end(), [&](StmtId id) { return k_.stmts[id].op == Op::store; })) return true;
    for (std::size_t i = at + 1; i < stmts.size() && !d.later; ++i)
      if (k_.stmts[stmts[i]].op == Op::for_) d.later = stmts[i];
    if (!d.later) return false;
    const Stmt& later = k_.stmts[d.later];
    const auto& body = k_.blocks[later.blocks[0]].stmts;
    return same_range(later, k_.stmts[d.loop]) && std::all_of(body.begin(), body.end(), [&](StmtId id) {
             const Stmt& s = k_.stmts[id];
             return is_pure(s) || s.op == Op::load || s.op == Op::store || s.op == Op::yield;
           });
  }

  void find_plain_sum(Dot& d) const {
    const Stmt& sum = k_.stmts[d.sum];
    for (std::size_t r = 0; r < sum.results.size(); ++r) {
      const StmtId start = k_.values[sum.operands[r + 3]].def;
      if (!start || k_.stmts[start].op != Op::constant) continue;
      if (loop::bits_to_double(k_.type(sum.results[r]).elem, k_.stmts[start].attr.imm) != 0) continue;
      if (auto h = moments_.summed(sum, r); h && moments_.same(*h, sum, d.plain[0], k_.stmts[d.loop])) d.plain_sum = r;
    }
  }
};

class Rewriter {
 public:
  Rewriter(const Kernel& k, const Dot& d) : k_(k), d_(d), b_(k.name), clone_(k, b_), type_(type()) {}

  Kernel run() {
    clone_.clone_buffers();
    clone_.instead = [this](StmtId id) {
      if (id == d_.sum) return emit_sum(), true;
      if (id == d_.loop) return emit_dot(), true;
      if (id == d_.later) return emit_later(), true;
      return false;
    };
    clone_.clone_block(k_.top());
    return std::move(b_).finish();
  }

 private:
  const Kernel& k_;
  const Dot& d_;
  Builder b_;
  KernelCloner clone_;
  const DType type_;
  LV first_, dot_, plain_;  // c, the sum of products, and that of the plain factor
  std::map<std::pair<BufferId, LV>, LV> loaded_;  // in the body that is open

  DType type() const { return k_.type(k_.stmts[d_.loop].results[0]).elem; }
  const loop::Block& body_of(StmtId loop) const { return k_.blocks[k_.stmts[loop].blocks[0]]; }

  /// What several loops had loaded is loaded once where they are joined.
  void share_loads(KernelCloner& c) {
    c.on_load = [this, &c](const Stmt& s) {
      const loop::Buffer& b = k_.buffers[s.attr.buffer.index];
      if (s.operands.size() != 1 || b.access != loop::Access::read || b.scope != loop::Scope::param) return LV{};
      LV& v = loaded_[{c.get(s.attr.buffer), c.get(s.operands[0])}];
      if (!v) v = b_.load(c.get(s.attr.buffer), c.get(s.operands[0]));
      return v;
    };
  }

  /// Clones what some values of the dot's body are made of, stores too if asked for.
  void clone_parts(KernelCloner& c, const std::vector<LV>& wanted, bool stores) const {
    const auto& stmts = body_of(d_.loop).stmts;
    std::set<LV> needed(wanted.begin(), wanted.end());
    std::set<StmtId> parts;
    for (std::size_t i = stmts.size(); i-- > 0;) {
      const Stmt& s = k_.stmts[stmts[i]];
      const bool part = (stores && s.op == Op::store) ||
                        std::any_of(s.results.begin(), s.results.end(), [&](LV v) { return needed.contains(v); });
      if (!part) continue;
      parts.insert(stmts[i]);
      needed.insert(s.operands.begin(), s.operands.end());
    }
    for (StmtId id : stmts)
      if (parts.contains(id)) c.clone(id);
  }
  KernelCloner cloner_at(LV iv) const {
    KernelCloner c = clone_;
    c.on_load = {};
    c.set(body_of(d_.loop).args[0], iv);
    return c;
  }

  ForOptions options(const Stmt& s) const {
    return {.mapping = s.attr.mapping, .role = s.attr.role, .reassociate = s.attr.reassociate};
  }
  Values starts(const Stmt& s) {
    Values init;
    for (std::size_t i = 3; i < s.operands.size(); ++i) init.push_back(clone_.get(s.operands[i]));
    return init;
  }

  void find_first(LV lo, LV hi) {
    auto value = [&] {
      KernelCloner c = cloner_at(lo);
      clone_parts(c, {d_.x}, false);
      return Values{c.get(d_.x)};
    };
    auto from = b_.int_value(lo), to = b_.int_value(hi);
    first_ = from && to && *from < *to
                 ? value()[0]
                 : b_.if_(b_.op(Op::cmp_lt, {lo, hi}), value, [&] { return Values{b_.constant(type_, 0.0)}; })[0];
  }

  void emit_sum() {
    const Stmt& s = k_.stmts[d_.sum];
    const auto& args = body_of(d_.sum).args;
    const LV lo = clone_.get(s.operands[0]), hi = clone_.get(s.operands[1]), step = clone_.get(s.operands[2]);
    if (d_.mean) find_first(lo, hi);
    Values init = starts(s);
    const std::size_t own = init.size();
    const bool plain = d_.mean && !d_.plain_sum;
    init.resize(own + (plain ? 2 : 1), b_.constant(type_, -0.0));
    Values totals = b_.for_(lo, hi, step, options(s), init, [&](LV iv, const Values& carried) {
      loaded_.clear();
      share_loads(clone_);
      clone_.set(args[0], iv);
      for (std::size_t r = 0; r < own; ++r) clone_.set(args[r + 1], carried[r]);
      clone_.clone_block(s.blocks[0]);
      clone_.on_load = {};
      KernelCloner c = cloner_at(iv);
      share_loads(c);
      std::vector<LV> wanted = d_.plain;
      if (d_.mean) wanted.push_back(d_.x);
      clone_parts(c, wanted, false);
      Values next = clone_.yielded(s.blocks[0]), factors;
      for (LV v : d_.plain) factors.push_back(c.get(v));
      LV h = factors[0];
      for (std::size_t i = 1; i + (d_.mean ? 0 : 1) < factors.size(); ++i) h = b_.mul(h, factors[i]);
      if (d_.mean)
        next.push_back(b_.op(Op::fma, {h, b_.sub(c.get(d_.x), first_), carried[own]}));
      else if (factors.size() == 1)
        next.push_back(b_.add(carried[own], h));
      else
        next.push_back(b_.op(Op::fma, {h, factors.back(), carried[own]}));
      if (plain) next.push_back(b_.add(carried[own + 1], h));
      return next;
    });
    for (std::size_t r = 0; r < own; ++r) clone_.set(s.results[r], totals[r]);
    dot_ = totals[own];
    if (d_.mean) plain_ = plain ? totals[own + 1] : totals[*d_.plain_sum];
  }

  void emit_dot() {
    const Stmt& s = k_.stmts[d_.loop];
    LV total = dot_, sure;
    if (d_.mean) {
      const LV off = b_.sub(clone_.get(d_.mean), first_);
      total = b_.op(Op::fma, {b_.op(Op::neg, {off}), plain_, dot_});
      const LV n = b_.cast(b_.sub(clone_.get(s.operands[1]), clone_.get(s.operands[0])), type_);
      const LV squares = clone_.get(k_.stmts[d_.squares].results[0]);
      sure = b_.op(Op::cmp_le, {b_.mul(b_.mul(off, off), n), b_.mul(squares, b_.constant(type_, most_cancelled))});
    }
    for (LV v : d_.scales) total = b_.mul(total, clone_.get(v));
    const double largest = type_ == DType::f32 ? static_cast<double>(std::numeric_limits<float>::max())
                                               : std::numeric_limits<double>::max();
    const LV number = b_.op(Op::cmp_le, {b_.op(Op::abs, {total}), b_.constant(type_, largest)});
    sure = sure ? b_.op(Op::and_, {sure, number}) : number;
    const Values v =
        b_.if_(sure, [&] { return Values{b_.add(clone_.get(s.operands[3]), total)}; }, [&] { return as_it_stood(s); });
    clone_.set(s.results[0], v[0]);
  }

  Values as_it_stood(const Stmt& s) {
    const auto& args = body_of(d_.loop).args;
    return b_.for_(clone_.get(s.operands[0]), clone_.get(s.operands[1]), clone_.get(s.operands[2]), options(s),
                   starts(s), [&](LV iv, const Values& carried) {
                     KernelCloner c = cloner_at(iv);
                     c.set(args[1], carried[0]);
                     clone_parts(c, k_.stmts[body_of(d_.loop).stmts.back()].operands, false);
                     return c.yielded(s.blocks[0]);
                   });
  }

  /// The last pass with the stores of the dot's own, which it comes after.
  void emit_later() {
    const Stmt& s = k_.stmts[d_.later];
    const auto& args = body_of(d_.later).args;
    Values results = b_.for_(clone_.get(s.operands[0]), clone_.get(s.operands[1]), clone_.get(s.operands[2]),
                             options(s), starts(s), [&](LV iv, const Values& carried) {
                               loaded_.clear();
                               KernelCloner c = cloner_at(iv);
                               share_loads(c);
                               clone_parts(c, {}, true);
                               share_loads(clone_);
                               clone_.set(args[0], iv);
                               for (std::size_t r = 0; r < carried.size(); ++r) clone_.set(args[r + 1], carried[r]);
                               clone_.clone_block(s.blocks[0]);
                               clone_.on_load = {};
                               return clone_.yielded(s.blocks[0]);
                             });
    for (std::size_t r = 0; r < results.size(); ++r) clone_.set(s.results[r], results[r]);
  }
};

Result<loop::Program> run(loop::Program p, PassContext& context) {
  if (!context.fuse) return p;  // -O0: an op a kernel
  for (Kernel& k : p.kernels)
    for (int n = 0; n < most_dots; ++n) {
      const auto dot = Finder(k).find();
      if (!dot) break;
      k = Rewriter(k, *dot).run();
    }
  return p;
}

}  // namespace

const Pass row_dots = {.name = "row_dots",
                       .summary = "sums along rows that wait for a factor are taken in an earlier pass",
                       .on_program = run};

}  // namespace ag::passes

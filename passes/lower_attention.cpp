// attend, attend_grad -> one kernel each, without a score outside the cache.
//
// Scores lie in scratch memory transposed, [keys x queries of the block]: keys and values are then read as they lie, a
// key's element beside a register of queries, maxima and sums over keys need nothing across lanes, and probabilities
// are the column of the product with the values. Only the block's queries are transposed, once.
//
// Keys come in blocks. Each block corrects sums and products so far by exp(old maximum - new maximum), as in flash
// attention; a row of one block is the same computation without the correction, so bits do not depend on whether sizes
// are constants. The last block of queries overlaps the one before where it would be short, and has its own results
// stored only; in sizes that are not known, queries beyond the last one repeat it instead.
#include "ir/ops/attend.hpp"
#include "passes/attention.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

#include <limits>

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::BufferId;
using loop::Mapping;
using loop::Op;
using loop::ReduceKind;
using LV = loop::ValueId;
using LVs = std::vector<LV>;
using Name = AttendOperand::Name;

/// Queries of a task: two registers of f32 lanes with AVX-512; their scores against a block of keys fill 64 KiB. Where
/// queries see the keys before them only, blocks of one register compute less that nobody sees.
constexpr std::int64_t query_block = 32, key_block = 512, causal_block = 16;
/// The gradient keeps whole rows, and adds to the gradients of keys and values once a block of queries.
constexpr std::int64_t gradient_block = 64, gradient_keys = 2048;
/// What a head reads if it is asked for while the one before is computed.
constexpr std::int64_t ahead_bytes = 256 << 10;
/// Sizes of heads and numbers of queries for which these kernels beat products with scores in memory between them.
constexpr std::int64_t max_size = 512, min_queries = 8;
/// Halves of a block are taken down to these queries where they leave less of the last block to what is computed twice.
constexpr std::int64_t smallest_block = 16;
/// What a block costs beside its queries, in queries: blocks of 16 take 3 % longer than one of 64 (128 queries).
constexpr double block_cost = 0.5;
/// Chains of maxima and sums over keys that run side by side.
constexpr int chains = 4;

/// How many of `most` queries a block has. Each query has its own lane, so no bit depends on it.
std::int64_t pick_block(const Dim& queries, std::int64_t most) {
  if (!queries.is_const() || queries.value() <= most) return most;
  auto cost = [&](std::int64_t block) {
    return static_cast<double>(ceildiv(queries, Dim(block)).value()) * (static_cast<double>(block) + block_cost);
  };
  std::int64_t best = most;
  for (std::int64_t block = most / 2; block >= smallest_block; block /= 2)
    if (cost(block) < cost(best)) best = block;
  return best;
}

class AttentionKernel {
 protected:
  AttentionKernel(const Graph& g, const Plan& plan, GroupId gid, std::int64_t block)
      : k_(g, plan, gid),
        b_(k_.builder()),
        s_(describe_attend(k_.view())),
        block_(s_.causal ? causal_block : pick_block(s_.q, block)),
        width_(block_) {
    if (s_.q.is_const()) width_ = std::min(block_, s_.q.value());
    for (std::size_t i = 0; i < k_.node().operands.size(); ++i)
      if (k_.node().operands[i]) k_.read(i);
    acc_ = accumulator_dtype(k_.in(Name::query).dtype);
  }

  OwnKernel k_;
  loop::Builder& b_;
  AttendDesc s_;
  std::int64_t block_;  ///< queries of a block as they lie in scratch memory
  std::int64_t width_;  ///< of them computed with: fewer if there are fewer altogether
  DType acc_;
  LVs batch_;  ///< index in the batch
  LV first_;  ///< the block's first query
  LV own_, end_;  ///< the block's own queries among its lanes
  LV keys_;  ///< number of keys that the block looks at
  bool within_ = false;  ///< and that never exceeds those that there are
  BufferId queries_, scores_, maximum_, sum_;

  LV index(std::int64_t i) { return b_.index(i); }
  LV number(double x) { return b_.constant(acc_, x); }
  LV minus_infinity() { return number(-std::numeric_limits<double>::infinity()); }
  LV lower(LV a, LV b) { return b_.op(Op::min, {a, b}); }
  LV at(LV row, std::int64_t width, LV column) { return b_.add(b_.mul(row, index(width)), column); }
  BufferId scratch(const Dim& elems) { return b_.alloc(acc_, elems, loop::Scope::scratch); }

  bool whole_blocks() const { return mod(s_.q, Dim(block_)).is(0) || width_ < block_; }
  bool clamped() const { return !whole_blocks() && !s_.q.is_const(); }
  /// Keys in groups of `chains`; rows of scores that fill the last group up hold what changes no result.
  static Dim grouped(const Dim& keys) { return ceildiv(keys, Dim(chains)) * Dim(chains); }

  /// Index of an operand whose batch axes may be of size one, from its last two components.
  LVs operand_at(std::size_t operand, LV row, LV column) {
    const Dims& shape = k_.in(operand).shape;
    std::size_t batch = shape.size() - 2, lead = batch_.size() - std::min(batch_.size(), batch);
    LVs out;
    for (std::size_t d = 0; d < batch; ++d) {
      const Dim& size = shape[d];
      if (size.is(1))
        out.push_back(index(0));
      else if (size == s_.batch[lead + d])
        out.push_back(batch_[lead + d]);
      else
        out.push_back(b_.select(b_.op(Op::cmp_eq, {b_.dim(size), index(1)}), index(0), batch_[lead + d]));
    }
    out.push_back(row), out.push_back(column);
    return out;
  }
  LV read(std::size_t operand, LV row, LV column) {
    return b_.cast(k_.operand(operand, operand_at(operand, row, column)), acc_);
  }

  /// Element of bias or mask for this query and key, whose axes may be fewer or of size one.
  LV beside(std::size_t operand, LV query, LV key) {
    Dims whole = s_.batch;
    whole.push_back(s_.q), whole.push_back(s_.k);
    LVs at = batch_;
    at.push_back(query), at.push_back(key);
    return k_.operand(operand, broadcast_index(b_, k_.in(operand).shape, whole, at));
  }

  /// The query of lane l of the block.
  LV query_of(LV lane) {
    LV q = b_.add(first_, lane);
    return clamped() ? lower(q, b_.sub(b_.dim(s_.q), index(1))) : q;
  }

  /// An index of a result, in the order of axes that an attribute gives it.
  LVs permuted(const LVs& at, std::string_view name) {
    auto perm = k_.node().attrs.get_or<std::vector<std::int64_t>>(name, {});
    if (perm.empty()) return at;
    LVs out;
    for (std::int64_t p : perm) out.push_back(at[static_cast<std::size_t>(p)]);
    return out;
  }

  // -- loops ----------------------------------------------------------------------------------------------------
  void rows(LV extent, const std::function<void(LV)>& body) {
    b_.for_each(extent, {.mapping = Mapping::parallel, .role = AxisRole::row}, body);
  }
  void columns(LV extent, const std::function<void(LV)>& body) {
    b_.for_each(extent, {.mapping = Mapping::parallel, .role = AxisRole::col}, body);
  }
  void lanes(const std::function<void(LV)>& body) { columns(index(width_), body); }

  LV sum_over(LV from, LV to, LV start, const std::function<LV(LV, LV)>& step) {
    return b_.for_(from, to, index(1), {.role = AxisRole::reduce}, {start},
                   [&](LV i, const LVs& c) { return LVs{step(i, c[0])}; })[0];
  }

  /// Rows of `to` from n on up to a whole group.
  void fill_group(BufferId to, LV n, LV value) {
    b_.for_(n, group_end(n), index(1), {}, {}, [&](LV j, const LVs&) {
      lanes([&](LV l) { b_.store(to, at(j, block_, l), value); });
      return LVs{};
    });
  }
  LV group_end(LV n) { return b_.mul(b_.op(Op::div, {b_.add(n, index(chains - 1)), index(chains)}), index(chains)); }
  bool groups_known() const {
    auto whole = [](const Dim& d) { return mod(d, Dim(chains)).is(0); };
    return whole(s_.k) && (!s_.causal || (within_ && whole(*s_.causal) && whole(s_.q + *s_.causal)));
  }

  /// Combines step(j) over j < n, filled up to a group, in `chains` chains, and these in a tree.
  LV over_keys(LV n, Op op, LV start, const std::function<LV(LV)>& step) {
    LVs c = b_.for_(index(0), groups_known() ? n : group_end(n), index(chains), {}, LVs(chains, start),
                    [&](LV j, const LVs& carried) {
                      LVs next;
                      for (int i = 0; i < chains; ++i)
                        next.push_back(b_.op(op, {carried[i], step(b_.add(j, index(i)))}));
                      return next;
                    });
    for (int stride = chains / 2; stride > 0; stride /= 2)
      for (int i = 0; i < stride; ++i) c[i] = b_.op(op, {c[i], c[i + stride]});
    return c[0];
  }

  /// The nest of parallel loops over the batch.
  void over_batch(std::size_t axis, const std::function<void()>& body) {
    if (axis == 0) batch_.assign(s_.batch.size(), LV{});
    if (axis == s_.batch.size()) return body();
    if (s_.batch[axis].is(1)) {
      batch_[axis] = index(0);
      return over_batch(axis + 1, body);
    }
    b_.for_each(b_.dim(s_.batch[axis]), {.mapping = Mapping::parallel, .role = AxisRole::batch}, [&](LV iv) {
      batch_[axis] = iv;
      over_batch(axis + 1, body);
    });
  }

  // -- parts of both kernels --------------------------------------------------------------------------------------
  /// Sets what belongs to block number `number`.
  void start_block(LV number) {
    LV start = b_.mul(number, index(block_)), size = b_.dim(s_.q);
    first_ = start, own_ = index(0), end_ = index(width_);
    if (clamped()) {
      end_ = lower(index(block_), b_.sub(size, start));
    } else if (!whole_blocks()) {
      first_ = lower(start, b_.sub(size, index(block_)));
      own_ = b_.sub(start, first_);
    }
    keys_ = b_.dim(s_.k);
    if (!s_.causal) return;
    Dim last = clamped() ? Dim(block_) * ceildiv(s_.q, Dim(block_)) : s_.q, beyond = last + *s_.causal - s_.k;
    within_ = beyond.is_const() && beyond.value() <= 0;
    LV seen = b_.add(first_, b_.dim(*s_.causal + Dim(width_)));
    if (!within_) seen = lower(seen, keys_);
    keys_ = s_.causal->is_const() && s_.causal->value() >= 0 ? seen : b_.op(Op::max, {seen, index(0)});
  }

  /// Rows of an operand that belong to the block, transposed: [size x block].
  void transpose(std::size_t operand, const Dim& size, BufferId to, double scale) {
    rows(index(width_), [&](LV l) {
      columns(b_.dim(size), [&](LV c) {
        LV x = read(operand, query_of(l), c);
        if (scale != 1) x = b_.mul(x, number(scale));
        b_.store(to, at(c, block_, l), x);
      });
    });
  }

  /// to[j][l] = sum over c of operand[from + j][c] * columns[c][l] for j < n, then `finish`.
  void against_rows(std::size_t operand, LV from, LV n, const Dim& size, BufferId columns, BufferId to,
                    const std::function<LV(LV j, LV l, LV x)>& finish) {
    rows(n, [&](LV j) {
      lanes([&](LV l) {
        LV x = sum_over(index(0), b_.dim(size), number(0), [&](LV c, LV sum) {
          return b_.op(Op::fma, {read(operand, b_.add(from, j), c), b_.load(columns, at(c, block_, l)), sum});
        });
        b_.store(to, at(j, block_, l), finish(j, l, x));
      });
    });
  }

  /// Scores of keys [from, from + n).
  void scores(LV from, LV n) {
    against_rows(Name::key, from, n, s_.d, queries_, scores_, [&](LV j, LV l, LV x) {
      LV key = b_.add(from, j);
      if (s_.bias) x = b_.add(x, b_.cast(beside(*s_.bias, query_of(l), key), acc_));
      if (s_.mask) x = b_.select(beside(*s_.mask, query_of(l), key), x, number(s_.fill));
      return x;
    });
    if (!groups_known()) fill_group(scores_, n, minus_infinity());
    if (!s_.causal) return;
    LV seen_by_all = b_.sub(b_.add(first_, b_.dim(*s_.causal + Dim(1))), from);
    LV start = b_.op(Op::max, {index(0), lower(seen_by_all, n)});
    b_.for_(start, n, index(1), {}, {}, [&](LV j, const LVs&) {
      lanes([&](LV l) {
        LV last = b_.add(b_.add(first_, l), b_.dim(*s_.causal)), here = at(j, block_, l);
        LV seen = b_.op(Op::cmp_le, {b_.add(from, j), last});
        b_.store(scores_, here, b_.select(seen, b_.load(scores_, here), minus_infinity()));
      });
      return LVs{};
    });
  }

  /// A row whose scores are all -inf has no maximum to subtract.
  LV finite(LV maximum) { return b_.select(b_.op(Op::cmp_eq, {maximum, minus_infinity()}), number(0), maximum); }
  LV inverse(LV sum) {
    LV inv = b_.op(Op::div, {number(1), sum});
    return s_.empty_zero ? b_.select(b_.op(Op::cmp_eq, {sum, number(0)}), number(0), inv) : inv;
  }
  LV score(LV j, LV l) { return b_.load(scores_, at(j, block_, l)); }
  LV row_maximum(LV n, LV l, LV start) {
    return over_keys(n, Op::max, start, [&](LV j) { return score(j, l); });
  }
  /// Scores become exp(score - maximum); their sum.
  LV exponentials(LV n, LV l, LV maximum) {
    return over_keys(n, Op::add, number(0), [&](LV j) {
      LV e = b_.op(Op::exp, {b_.sub(score(j, l), maximum)});
      b_.store(scores_, at(j, block_, l), e);
      return e;
    });
  }
};

class Forward : AttentionKernel {
 public:
  Forward(const Graph& g, const Plan& plan, GroupId gid) : AttentionKernel(g, plan, gid, query_block) {}

  LoweredKernel run() {
    out_ = k_.result(0, loop::Access::write);
    const bool one_block = s_.k.is_const() && s_.k.value() <= key_block;
    queries_ = scratch(s_.d * Dim(block_));
    scores_ = scratch((one_block ? grouped(s_.k) : Dim(key_block)) * Dim(block_));
    sum_ = scratch(block_);
    direct_ = one_block && whole_blocks();
    if (!direct_) products_ = scratch(s_.dv * Dim(block_));
    if (!one_block) maximum_ = scratch(block_), correction_ = scratch(block_);
    over_batch(0, [&] {
      b_.for_each(b_.dim(ceildiv(s_.q, Dim(block_))), {.mapping = Mapping::parallel, .role = AxisRole::batch},
                  [&](LV number) {
                    start_block(number);
                    transpose(Name::query, s_.d, queries_, s_.scale);
                    one_block ? single() : online();
                    if (!direct_) store();
                  });
    });
    return k_.finish("attend", product(s_.batch) * s_.q * s_.k * (s_.d + s_.dv) * Dim(2));
  }

 private:
  BufferId out_, products_, correction_;
  bool direct_ = false;  ///< the products with the values go straight to the result

  void single() {
    scores(index(0), keys_);
    lanes([&](LV l) {
      LV sum = exponentials(keys_, l, finite(row_maximum(keys_, l, minus_infinity())));
      b_.store(sum_, l, inverse(sum));
    });
    times_values(index(0), keys_, false);
  }

  void online() {
    lanes([&](LV l) {
      b_.store(maximum_, l, minus_infinity());
      b_.store(sum_, l, number(0));
    });
    rows(index(width_),
         [&](LV l) { columns(b_.dim(s_.dv), [&](LV c) { b_.store(products_, product_at(l, c), number(0)); }); });
    b_.for_(index(0), keys_, index(key_block), {}, {}, [&](LV from, const LVs&) {
      LV n = lower(index(key_block), b_.sub(keys_, from));
      scores(from, n);
      lanes([&](LV l) {
        LV old = b_.load(maximum_, l), best = row_maximum(n, l, old), base = finite(best);
        LV correction = b_.op(Op::exp, {b_.sub(old, base)});
        LV sum = exponentials(n, l, base);
        b_.store(maximum_, l, best);
        b_.store(correction_, l, correction);
        b_.store(sum_, l, b_.op(Op::fma, {b_.load(sum_, l), correction, sum}));
      });
      times_values(from, n, true);
      return LVs{};
    });
    lanes([&](LV l) { b_.store(sum_, l, inverse(b_.load(sum_, l))); });
  }

  LV product_at(LV l, LV c) { return b_.add(b_.mul(l, b_.dim(s_.dv)), c); }

  void times_values(LV from, LV n, bool more) {
    rows(index(width_), [&](LV l) {
      columns(b_.dim(s_.dv), [&](LV c) {
        LV start = number(0);
        if (more) start = b_.mul(b_.load(products_, product_at(l, c)), b_.load(correction_, l));
        LV x = sum_over(index(0), n, start, [&](LV j, LV sum) {
          return b_.op(Op::fma, {score(j, l), read(Name::value, b_.add(from, j), c), sum});
        });
        if (direct_)
          put(l, c, x);
        else
          b_.store(products_, product_at(l, c), x);
      });
    });
  }

  void put(LV l, LV c, LV x) {
    LVs at = batch_;
    at.push_back(b_.add(first_, l)), at.push_back(c);
    LV y = b_.cast(b_.mul(x, b_.load(sum_, l)), k_.type().dtype);
    b_.store(out_, k_.at_result(0, permuted(at, "perm")), y);
  }

  void store() {
    b_.for_(own_, end_, index(1), {}, {}, [&](LV l, const LVs&) {
      columns(b_.dim(s_.dv), [&](LV c) { put(l, c, b_.load(products_, product_at(l, c))); });
      return LVs{};
    });
  }
};

/// One task a head: blocks of queries in order, so that gradients of keys and values add up where they lie.
class Backward : AttentionKernel {
 public:
  Backward(const Graph& g, const Plan& plan, GroupId gid) : AttentionKernel(g, plan, gid, gradient_block) {}

  LoweredKernel run() {
    dq_ = k_.result(0, loop::Access::write);
    dk_ = k_.result(1, loop::Access::read_write);
    dv_ = k_.result(2, loop::Access::read_write);
    queries_ = scratch(s_.d * Dim(block_));
    cotangents_ = scratch(s_.dv * Dim(block_));
    scores_ = scratch(grouped(s_.k) * Dim(block_));
    slopes_ = scratch(grouped(s_.k) * Dim(block_));
    over_batch(0, [&] {
      clear(dk_, 1, s_.d);
      clear(dv_, 2, s_.dv);
      b_.for_(index(0), b_.dim(ceildiv(s_.q, Dim(block_))), index(1), {}, {}, [&](LV number, const LVs&) {
        start_block(number);
        ask_ahead(number);
        block();
        return LVs{};
      });
    });
    Dim products = s_.d * Dim(3) + s_.dv * Dim(2);
    return k_.finish("attend_grad", product(s_.batch) * s_.q * s_.k * products * Dim(2));
  }

 private:
  BufferId dq_, dk_, dv_;
  BufferId cotangents_;  ///< of the block's results, transposed
  BufferId slopes_;  ///< cotangents of probabilities, then of scores, laid out as scores_

  LV place(std::uint32_t result, LV row, LV column) {
    constexpr std::string_view perms[] = {"perm_q", "perm_k", "perm_v"};
    LVs at = batch_;
    at.push_back(row), at.push_back(column);
    return k_.at_result(result, permuted(at, perms[result]));
  }

  void clear(BufferId to, std::uint32_t result, const Dim& size) {
    LV zero = b_.constant(k_.type().dtype, 0.0);
    b_.for_(index(0), b_.dim(s_.k), index(1), {}, {}, [&](LV j, const LVs&) {
      columns(b_.dim(size), [&](LV c) { b_.store(to, place(result, j, c), zero); });
      return LVs{};
    });
  }

  /// Asks for a block's share of what the next head reads: rows far apart, where hardware does not look ahead.
  void ask_ahead(LV number) {
    const Dim rows = s_.q + s_.k, bytes = rows * (s_.d + s_.dv) * Dim(static_cast<std::int64_t>(dtype_bytes(acc_)));
    if (s_.batch.empty() || !bytes.is_const() || bytes.value() > ahead_bytes) return;
    const LVs here = batch_;
    batch_.back() = b_.add(here.back(), index(1));
    auto ask = [&](std::size_t operand, LV from, LV to, const Dim& size) {
      b_.for_(from, to, index(1), {}, {}, [&](LV row, const LVs&) {
        const auto line = static_cast<std::int64_t>(64 / dtype_bytes(acc_));
        for (std::int64_t c = 0; c < size.value(); c += line) k_.ask(operand, operand_at(operand, row, index(c)));
        return LVs{};
      });
    };
    LV end = b_.add(first_, index(width_));
    ask(Name::query, first_, end, s_.d);
    ask(Name::cotangent, first_, end, s_.dv);
    const LV share = b_.dim(ceildiv(s_.k, ceildiv(s_.q, Dim(block_)))), from = b_.mul(number, share);
    end = b_.add(from, share);
    ask(Name::key, from, end, s_.d);
    ask(Name::value, from, end, s_.dv);
    batch_ = here;
  }

  void block() {
    transpose(Name::query, s_.d, queries_, s_.scale);
    transpose(Name::cotangent, s_.dv, cotangents_, 1);
    scores(index(0), keys_);
    lanes([&](LV l) { probabilities(l); });
    against_rows(Name::value, index(0), keys_, s_.dv, cotangents_, slopes_, [](LV, LV, LV x) { return x; });
    if (!groups_known()) fill_group(slopes_, keys_, number(0));
    lanes([&](LV l) { score_slopes(l); });
    add_products(dv_, 2, scores_, Name::cotangent, s_.dv);
    add_products(dk_, 1, slopes_, Name::query, s_.d);
    rows(end_, [&](LV l) {
      columns(b_.dim(s_.d), [&](LV c) {
        LV x = sum_over(index(0), keys_, number(0), [&](LV j, LV sum) {
          return b_.op(Op::fma, {b_.load(slopes_, at(j, block_, l)), read(Name::key, j, c), sum});
        });
        b_.store(dq_, place(0, b_.add(first_, l), c), x);
      });
    });
  }

  void probabilities(LV l) {
    LV sum = exponentials(keys_, l, finite(row_maximum(keys_, l, minus_infinity()))), inv = inverse(sum);
    b_.for_(index(0), keys_, index(1), {}, {}, [&](LV j, const LVs&) {
      b_.store(scores_, at(j, block_, l), b_.mul(score(j, l), inv));
      return LVs{};
    });
  }

  /// p (dp - sum of p dp), scaled: what queries and keys are multiplied by.
  void score_slopes(LV l) {
    auto slope = [&](LV j) { return b_.load(slopes_, at(j, block_, l)); };
    LV mean = over_keys(keys_, Op::add, number(0), [&](LV j) { return b_.mul(score(j, l), slope(j)); });
    b_.for_(index(0), keys_, index(1), {}, {}, [&](LV j, const LVs&) {
      LV x = b_.mul(b_.mul(score(j, l), b_.sub(slope(j), mean)), number(s_.scale));
      if (s_.mask) x = b_.select(beside(*s_.mask, query_of(l), j), x, number(0));
      b_.store(slopes_, at(j, block_, l), x);
      return LVs{};
    });
  }

  /// to[j][c] += sum over the block's queries l of factors[j][l] * operand[l][c].
  void add_products(BufferId to, std::uint32_t result, BufferId factors, std::size_t operand, const Dim& size) {
    rows(keys_, [&](LV j) {
      columns(b_.dim(size), [&](LV c) {
        LV here = place(result, j, c);
        LV x = sum_over(own_, end_, b_.load(to, here), [&](LV l, LV sum) {
          return b_.op(Op::fma, {b_.load(factors, at(j, block_, l)), read(operand, b_.add(first_, l), c), sum});
        });
        b_.store(to, here, x);
      });
    });
  }
};

}  // namespace

bool is_attention(const OpInfo& op) { return op.name == "attend" || op.name == "attend_grad"; }

namespace {
bool used(const Graph& g, ValueId v) {
  for (NodeId id : g.node_ids())
    for (ValueId o : g.node(id).operands)
      if (o == v) return true;
  return std::any_of(g.outputs.begin(), g.outputs.end(), [&](const Output& o) { return o.value == v; });
}
}  // namespace

bool has_attention_kernel(const Graph& g, NodeId id) {
  const Node& n = g.node(id);
  AttendDesc s = describe_attend(NodeView{g, id});
  auto small = [](const Dim& d) { return d.is_const() && d.value() > 0 && d.value() <= max_size; };
  if (!small(s.d) || !small(s.dv)) return false;
  if (s.q.is_const() && s.q.value() < min_queries) return false;
  if (n.op->name == "attend") return true;
  // Gradients add up in the results themselves, of the batch's shape; that of a bias needs all scores in memory.
  if (s.k.is_const() && s.k.value() > gradient_keys) return false;
  const Type& t = g.type(n.operands[Name::query]);
  if (accumulator_dtype(t.dtype) != t.dtype || (n.result_count > 3 && used(g, n.result(3)))) return false;
  for (std::size_t i : {Name::query, Name::key, Name::value})
    if (!std::equal(s.batch.begin(), s.batch.end(), g.type(n.operands[i]).shape.begin())) return false;
  return true;
}

Result<std::vector<LoweredKernel>> lower_attention(const Graph& g, const Plan& plan, GroupId gid) {
  const bool forward = g.node(plan.groups[gid].members[0]).op->name == "attend";
  std::vector<LoweredKernel> kernels;
  kernels.push_back(forward ? Forward(g, plan, gid).run() : Backward(g, plan, gid).run());
  return kernels;
}

}  // namespace ag::passes

// Sorting -> kernels, rows in parallel.
//
// On a CPU each row is a stable merge sort from below, O(n log n), of keys and places in scratch memory. The keys are
// unsigned integers that order as wanted (sort_key), so that one comparison serves every dtype and direction. Rows of
// matrices (argsort_rows) are compared element by element where they lie; only places move. Where only the first few
// places are wanted, those of the elements seen so far are kept in order: most elements are turned away by one
// comparison.
//
// A GPU has no scratch memory of a thread: there the place of each element is the number of those before it, one
// thread an element, O(n) each.
#include "ir/ops/lowering.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {
namespace {

using loop::Op;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

class SortKernel {
 public:
  SortKernel(const Graph& g, NodeId id)
      : k_(g, id),
        b_(k_.builder()),
        rows_(k_.node().op->name == "argsort_rows"),
        down_(k_.node().attrs.get_or<bool>("descending", false)),
        shape_(k_.type().shape),
        axis_(rows_ ? shape_.size() - 1 : static_cast<std::size_t>(k_.node().attrs.get_or<std::int64_t>("axis", 0))),
        at_(shape_.size()) {
    k_.read(0);
    out_ = k_.result(0, loop::Access::write);
    size_ = k_.in(0).shape[axis_];
    n_ = b_.dim(size_);
    kept_ = shape_[axis_];
  }

  /// Whether keeping the best in order beats sorting all.
  bool few() const {
    return !rows_ && kept_.is_const() && kept_.value() <= 64 && kept_ != size_ &&
           !(size_.is_const() && size_.value() < 4 * kept_.value());
  }

  LoweredKernel merge_sort() {
    const Dim room = size_ * Dim(2);
    places_ = b_.alloc(DType::i64, room, loop::Scope::scratch);
    if (!rows_) keys_ = b_.alloc(key_type(), room, loop::Scope::scratch);
    k_.nest(axes_without(shape_.size(), axis_), shape_, at_, false, [&] {
      each(zero(), n_, [&](LV i) { put(zero(), i, i, rows_ ? LV{} : key(i)); });
      LVs last = b_.while_(
          {b_.index(1), zero(), n_}, [&](const LVs& v) { return std::pair{b_.op(Op::cmp_lt, {v[0], n_}), v}; },
          [&](const LVs& v) {
            b_.for_(zero(), n_, b_.mul(v[0], b_.index(2)), {}, {}, [&](LV low, const LVs&) {
              merge(low, v[0], v[1], v[2]);
              return LVs{};
            });
            return LVs{b_.mul(v[0], b_.index(2)), v[2], v[1]};
          });
      each(zero(), b_.dim(kept_), [&](LV i) { store(i, b_.load(places_, b_.add(last[1], i))); });
    });
    return k_.finish("sort", elements() * Dim(rows_ ? 256 : 128));
  }

  LoweredKernel keep_few() {
    places_ = b_.alloc(DType::i64, kept_, loop::Scope::scratch);
    keys_ = b_.alloc(key_type(), kept_, loop::Scope::scratch);
    LV room = b_.dim(kept_), one = b_.index(1);
    k_.nest(axes_without(shape_.size(), axis_), shape_, at_, false, [&] {
      if (kept_.is(0)) return;
      each(zero(), room, [&](LV i) { put(zero(), i, i, b_.constant_int(key_type(), 0)); });
      b_.for_(zero(), n_, one, {}, {zero()}, [&](LV i, const LVs& held) {
        LV mine = key(i), space = b_.op(Op::cmp_lt, {held[0], room});
        LV better = b_.op(Op::cmp_lt, {mine, b_.load(keys_, b_.sub(room, one))});
        b_.if_(
            b_.op(Op::or_, {space, better}),
            [&] {
              insert(mine, i, b_.select(space, held[0], b_.sub(room, one)));
              return LVs{};
            },
            [] { return LVs{}; });
        return LVs{b_.op(Op::min, {b_.add(held[0], one), room})};
      });
      each(zero(), room, [&](LV i) { store(i, b_.load(places_, i)); });
    });
    return k_.finish("top", elements() * Dim(4));
  }

  LoweredKernel rank_sort() {
    std::vector<std::size_t> all;
    for (std::size_t d = 0; d < shape_.size(); ++d) all.push_back(d);
    Dims space = shape_;
    space[axis_] = size_;
    k_.nest(all, space, at_, false, [&] {
      const LV i = at_[axis_];
      const LV mine = rows_ ? LV{} : key(i);
      LV before = b_.for_(zero(), n_, b_.index(1), {}, {zero()}, [&](LV j, const LVs& count) {
        const LV other = rows_ ? LV{} : key(j);
        LV less = precedes(other, j, mine, i);
        LV tie = b_.op(Op::and_, {b_.op(Op::cmp_lt, {j, i}), b_.op(Op::not_, {precedes(mine, i, other, j)})});
        return LVs{b_.add(count[0], b_.cast(b_.op(Op::or_, {less, tie}), DType::i64))};
      })[0];
      if (kept_ == size_) return store(before, i);
      b_.if_(b_.op(Op::cmp_lt, {before, b_.dim(kept_)}), [&] { return store(before, i), LVs{}; }, [] { return LVs{}; });
    });
    return k_.finish("sort", elements() * size_ * Dim(8));
  }

 private:
  OwnKernel k_;
  loop::Builder& b_;
  bool rows_, down_;
  Dims shape_;
  std::size_t axis_;
  LVs at_;
  loop::BufferId out_, places_, keys_;
  Dim size_, kept_;  // of the axis; how many places are wanted
  LV n_;

  LV zero() { return b_.index(0); }

  Dim elements() const { return product(rows_ ? shape_ : k_.in(0).shape); }

  /// Place number i of the result's current row.
  void store(LV i, LV place) {
    LVs at = at_;
    at[axis_] = i;
    b_.store(out_, k_.at_result(0, at), place);
  }

  /// Moves what belongs after `key` up by one, from position `last` on, and puts it there. Equal keys stay before it.
  void insert(LV key, LV place, LV last) {
    LV one = b_.index(1);
    LV to = b_.while_(
        {last},
        [&](const LVs& v) {
          LV before = b_.load(keys_, b_.op(Op::max, {b_.sub(v[0], one), zero()}));
          return std::pair{b_.op(Op::and_, {b_.op(Op::cmp_gt, {v[0], zero()}), b_.op(Op::cmp_lt, {key, before})}), v};
        },
        [&](const LVs& v) {
          LV before = b_.sub(v[0], one);
          put(zero(), v[0], b_.load(places_, before), b_.load(keys_, before));
          return LVs{before};
        })[0];
    put(zero(), to, place, key);
  }

  DType key_type() const {
    constexpr DType of_bytes[] = {DType::u8,  DType::u8,  DType::u16, DType::u16, DType::u32,
                                  DType::u32, DType::u32, DType::u32, DType::u64};
    return of_bytes[dtype_bytes(k_.in(0).dtype)];
  }

  void each(LV from, LV to, const std::function<void(LV)>& body) {
    b_.for_(from, to, b_.index(1), {}, {}, [&](LV iv, const LVs&) {
      body(iv);
      return LVs{};
    });
  }

  /// The key of element i of the current row.
  LV key(LV i) {
    LVs place = at_;
    place[axis_] = i;
    return sort_key(b_, k_.operand(0, place), down_);
  }

  /// Whether element i belongs before j.
  LV precedes(LV key_i, LV i, LV key_j, LV j) {
    if (!rows_) return b_.op(Op::cmp_lt, {key_i, key_j});
    // The first column in which the two rows differ decides.
    LV columns = b_.dim(k_.in(0).shape.back()), no = b_.constant_int(DType::boolean, 0);
    auto element = [&](LV row, LV column) {
      LVs place = at_;
      place[axis_] = row;
      place.push_back(column);
      return sort_key(b_, k_.operand(0, place), false);
    };
    return b_.while_(
        {zero(), no, no},
        [&](const LVs& v) {
          LV more = b_.op(Op::and_, {b_.op(Op::cmp_lt, {v[0], columns}), b_.op(Op::not_, {v[2]})});
          return std::pair{more, v};
        },
        [&](const LVs& v) {
          LV p = element(i, v[0]), q = element(j, v[0]);
          return LVs{b_.add(v[0], b_.index(1)), b_.op(Op::cmp_lt, {p, q}), b_.op(Op::cmp_ne, {p, q})};
        })[1];
  }

  void put(LV half, LV i, LV place, LV key) {
    LV to = b_.add(half, i);
    b_.store(places_, to, place);
    if (!rows_) b_.store(keys_, to, key);
  }

  /// Runs [low, low + width) and [low + width, low + 2 width) of one half of scratch, cut at n, become one of the
  /// other.
  void merge(LV low, LV width, LV from, LV to) {
    LV middle = b_.op(Op::min, {b_.add(low, width), n_}), high = b_.op(Op::min, {b_.add(middle, width), n_});
    LV last = b_.sub(n_, b_.index(1));
    b_.for_(low, high, b_.index(1), {}, {low, middle}, [&](LV k, const LVs& v) {
      // A run that is used up is read at a place inside, and loses.
      LV left = b_.add(from, b_.op(Op::min, {v[0], last})), right = b_.add(from, b_.op(Op::min, {v[1], last}));
      LV p = b_.load(places_, left), q = b_.load(places_, right), key_p, key_q;
      if (!rows_) key_p = b_.load(keys_, left), key_q = b_.load(keys_, right);
      LV has_left = b_.op(Op::cmp_lt, {v[0], middle}), no_right = b_.op(Op::cmp_ge, {v[1], high});
      LV take_left =
          b_.op(Op::and_, {has_left, b_.op(Op::or_, {no_right, b_.op(Op::not_, {precedes(key_q, q, key_p, p)})})});
      put(to, k, b_.select(take_left, p, q), rows_ ? LV{} : b_.select(take_left, key_p, key_q));
      LV step = b_.cast(take_left, DType::i64);
      return LVs{b_.add(v[0], step), b_.add(v[1], b_.sub(b_.index(1), step))};
    });
  }
};

}  // namespace

Result<std::vector<LoweredKernel>> lower_sort(const Graph& g, NodeId id, bool gpu) {
  SortKernel kernel(g, id);
  std::vector<LoweredKernel> kernels;
  kernels.push_back(gpu ? kernel.rank_sort() : kernel.few() ? kernel.keep_few() : kernel.merge_sort());
  return kernels;
}

}  // namespace ag::passes

// Sliding windows. `unfold` views a value as its windows (im2col), `fold` sums windows back (col2im); they are each
// other's transposes, as are `window_gather` and `window_scatter`, which move one tap a window: the gradient of max
// pooling, where the first winner in row-major order takes all. Reductions over windows are reductions of unfold.
#include <functional>

#include "ir/dtype_sets.hpp"
#include "ir/ops/batching.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/windows.hpp"

namespace ag {
using namespace ops;
namespace {

using LoopValue = loop::ValueId;
using LoopVector = std::vector<loop::ValueId>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// What the attributes and the types of a node of these ops say; `lead` axes stand before the window's.
struct Layout {
  Window w;
  std::size_t lead = 0;
};

Window from_attrs(const Attrs& a) {
  Window w;
  w.low = attr_dims(a, "low");
  w.strides = attr_ints(a, "strides"), w.dilations = attr_ints(a, "dilations");
  return w;
}

Layout unfold_layout(const Attrs& a, const Dims& x) {
  Layout l{from_attrs(a), 0};
  l.w.taps = attr_dims(a, "window"), l.w.count = attr_dims(a, "count");
  l.lead = x.size() - l.w.rank();
  l.w.space = dims_from(x, l.lead);
  return l;
}

Layout fold_layout(const Attrs& a, const Dims& patches) {
  Layout l{from_attrs(a), 0};
  l.w.space = attr_dims(a, "space");
  std::size_t r = l.w.space.size();
  l.lead = patches.size() - 2 * r;
  l.w.taps = dims_between(patches, l.lead, l.lead + r);
  l.w.count = dims_from(patches, l.lead + r);
  return l;
}

/// Of window_scatter: the values have no axes for taps.
Layout scatter_layout(const Attrs& a, const Dims& values) {
  Layout l{from_attrs(a), 0};
  l.w.space = attr_dims(a, "space"), l.w.taps = attr_dims(a, "window");
  l.lead = values.size() - l.w.rank();
  l.w.count = dims_from(values, l.lead);
  return l;
}

// ---- Types ------------------------------------------------------------------------------------------------

Types infer_unfold(const InferCtx& c) {
  Dims taps = attr_dims(c.attrs(), "window"), count = attr_dims(c.attrs(), "count");
  AG_TRY_(check_window_attrs(c, taps.size(), c.in(0).rank()));
  if (count.size() != taps.size())
    return c.error(Code::AG2206, fmt::format("`{}`: `window` and `count` differ in length", op_title(c)), {}, {0});
  Type t{c.in(0).dtype, dims_between(c.in(0).shape, 0, c.in(0).shape.size() - taps.size())};
  if (c.op().name == "unfold") t.shape = joined(t.shape, taps);
  AG_TRY(t.shape, checked_shape(c, joined(t.shape, count)));
  return std::vector<Type>{std::move(t)};
}

Types infer_fold(const InferCtx& c) {
  Dims space = attr_dims(c.attrs(), "space");
  bool taps = c.op().name == "fold";
  AG_TRY_(check_window_attrs(c, space.size(), c.in(0).rank()));
  std::size_t axes = space.size() * (taps ? 2 : 1);
  if (c.in(0).shape.size() < axes)
    return c.error(Code::AG2204, fmt::format("`{}` of {}: too few axes", op_title(c), c.in(0).str()), {}, {0});
  AG_TRY(Dims shape, checked_shape(c, joined(dims_between(c.in(0).shape, 0, c.in(0).shape.size() - axes), space)));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

// ---- unfold -----------------------------------------------------------------------------------------------

loop::ReduceKind kind_named(std::string_view name) {
  using loop::ReduceKind;
  return name == "max" ? ReduceKind::max : name == "min" ? ReduceKind::min : ReduceKind::prod;
}

std::uint64_t outside_bits(const Attrs& a, DType t) {
  std::string kind = attr_string(a, "outside", "sum");
  return kind == "sum" ? 0
                       : loop::reduce_identity(kind_named(kind), t);  // padding is 0, not the -0 that changes no sum
}

/// Place of a tap on axis d, clamped into the axis where it may be padding; `valid` then says whether it is not.
LoopValue tap_place(loop::Builder& b, const Window& w, std::size_t d, LoopValue position, LoopValue tap,
                    LoopValue& valid) {
  LoopValue place = b.add(b.mul(position, b.index(w.strides[d])), b.mul(tap, b.index(w.dilations[d])));
  place = b.sub(place, b.dim(w.low[d]));
  if (w.inside(d)) return place;
  LoopValue zero = b.index(0), last = b.dim(w.space[d] - 1);
  LoopValue here = b.op(L::and_, {b.op(L::cmp_ge, {place, zero}), b.op(L::cmp_le, {place, last})});
  valid = valid ? b.op(L::and_, {valid, here}) : here;
  return b.op(L::max, {b.op(L::min, {place, last}), zero});
}

bool has_empty(const Dims& dims) {
  return std::any_of(dims.begin(), dims.end(), [](const Dim& d) { return d.is(0); });
}

LoopValue unfold_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  Layout l = unfold_layout(c.node().attrs(), c.node().in(0).shape);
  DType t = c.node().out().dtype;
  LoopValue outside = b.constant_bits({t, 1, 1}, outside_bits(c.node().attrs(), t)), valid;
  if (has_empty(l.w.space)) return outside;
  std::size_t r = l.w.rank();
  LoopVector from(index.begin(), index.begin() + static_cast<std::ptrdiff_t>(l.lead));
  for (std::size_t d = 0; d < r; ++d)
    from.push_back(tap_place(b, l.w, d, index[l.lead + r + d], index[l.lead + d], valid));
  LoopValue x = c.operand(0, from);
  return valid ? b.select(valid, x, outside) : x;
}

/// Concrete sizes of a window in evaluation.
struct Concrete {
  Shape space, taps, count, low;
  Ints strides, dilations;
  Concrete(const EvalCtx& c, const Window& w)
      : space(concrete(c, w.space)),
        taps(concrete(c, w.taps)),
        count(concrete(c, w.count)),
        low(concrete(c, w.low)),
        strides(w.strides),
        dilations(w.dilations) {}
  /// Offset into the space of a tap of a window, or -1 for padding.
  std::int64_t place(const std::int64_t* position, const std::int64_t* tap) const {
    std::int64_t sum = 0;
    for (std::size_t d = 0; d < space.size(); ++d) {
      std::int64_t p = position[d] * strides[d] + tap[d] * dilations[d] - low[d];
      if (p < 0 || p >= space[d]) return -1;
      sum = sum * space[d] + p;
    }
    return sum;
  }
  static std::int64_t elems(const Shape& s) {
    std::int64_t n = 1;
    for (std::int64_t d : s) n *= d;
    return n;
  }
  Shape unravel_tap(std::int64_t number) const {
    Shape tap(taps.size());
    for (std::size_t d = taps.size(); d-- > 0; number /= std::max<std::int64_t>(taps[d], 1))
      tap[d] = number % std::max<std::int64_t>(taps[d], 1);
    return tap;
  }
};

Result<std::vector<Array>> unfold_eval(const EvalCtx& c) {
  Layout l = unfold_layout(c.node.attrs(), c.node.in(0).shape);
  Concrete w(c, l.w);
  Array outside(c.in[0].dtype(), {});
  std::uint64_t bits = outside_bits(c.node.attrs(), c.in[0].dtype());
  std::memcpy(outside.mutable_bytes().data(), &bits, dtype_bytes(c.in[0].dtype()));
  std::int64_t block = Concrete::elems(w.space);
  Shape lead(c.out_shapes[0].begin(), c.out_shapes[0].begin() + static_cast<std::ptrdiff_t>(l.lead)),
      strides = row_major_strides(lead);
  auto source = [&](const Shape& i) {
    std::int64_t p = w.place(i.data() + l.lead + w.taps.size(), i.data() + l.lead), outer = 0;
    for (std::size_t d = 0; d < l.lead; ++d) outer += i[d] * strides[d];
    return p < 0 ? p : outer * block + p;
  };
  return one(copy_elements(c.in[0], c.out_shapes[0], source, &outside));
}

// ---- fold, window_scatter ---------------------------------------------------------------------------------

/// A tap of a window on one axis that lies at `place`: which position of the window that is, if there is one.
struct TapThere {
  LoopValue tap, position, valid;  // valid: none if it always is
};

/// Tap number `tap`: the window may stand between positions then.
TapThere tap_at(loop::Builder& b, const Window& w, std::size_t d, LoopValue place, LoopValue tap) {
  LoopValue from = b.sub(b.add(place, b.dim(w.low[d])), b.mul(tap, b.index(w.dilations[d]))), zero = b.index(0);
  LoopValue stride = b.index(w.strides[d]), last = b.dim(w.count[d] - 1), o = b.op(L::div, {from, stride});
  LoopValue ok = b.op(L::and_, {b.op(L::cmp_ge, {from, zero}), b.op(L::cmp_le, {o, last})});
  if (w.strides[d] != 1) ok = b.op(L::and_, {ok, b.op(L::cmp_eq, {b.mul(o, stride), from})});
  return {tap, b.op(L::max, {b.op(L::min, {o, last}), zero}), ok};
}

/// Of neighbouring taps every stride-th one meets the place: the `step`-th of these.
TapThere strided_tap_at(loop::Builder& b, const Window& w, std::size_t d, LoopValue place, LoopValue step) {
  LoopValue zero = b.index(0), last = b.dim(w.count[d] - 1), stride = b.index(w.strides[d]);
  LoopValue from = b.add(place, b.dim(w.low[d])), safe = b.op(L::max, {from, zero});
  LoopValue o = b.sub(b.op(L::div, {safe, stride}), step),
            tap = b.add(b.op(L::rem, {safe, stride}), b.mul(step, stride));
  LoopValue ok = b.op(L::and_, {b.op(L::cmp_ge, {o, zero}), b.op(L::cmp_le, {o, last})});
  if (!mod(w.taps[d], Dim(w.strides[d])).is(0)) {
    ok = b.op(L::and_, {ok, b.op(L::cmp_lt, {tap, b.dim(w.taps[d])})});
    tap = b.op(L::min, {tap, b.dim(w.taps[d] - 1)});
  }
  if (!w.low[d].is_const() || w.low[d].value() < 0) ok = b.op(L::and_, {ok, b.op(L::cmp_ge, {from, zero})});
  return {tap, b.op(L::max, {b.op(L::min, {o, last}), zero}), ok};
}

/// Sums term(taps, positions) over all taps whose window at `place` exists, taps in row-major order.
LoopValue sum_over_taps(loop::Builder& b, const Window& w, std::span<const LoopValue> place, DType t,
                        const std::function<LoopValue(const LoopVector& taps, const LoopVector& positions)>& term) {
  DType wide = accumulator_dtype(t);
  LoopVector taps(w.rank()), positions(w.rank());
  LoopValue nothing = b.constant_bits({wide, 1, 1}, 0);
  auto add = [&](LoopValue sum, LoopValue x) { return b.op(wide == DType::boolean ? L::or_ : L::add, {sum, x}); };
  std::function<LoopValue(std::size_t, LoopValue, LoopValue)> sum = [&](std::size_t d, LoopValue so_far,
                                                                        LoopValue valid) -> LoopValue {
    if (d == w.rank()) {
      LoopValue x = b.cast(term(taps, positions), wide);
      return add(so_far, valid ? b.select(valid, x, nothing) : x);
    }
    auto visit = [&](const TapThere& there, LoopValue carried) {
      taps[d] = there.tap, positions[d] = there.position;
      LoopValue both = valid && there.valid ? b.op(L::and_, {valid, there.valid}) : valid ? valid : there.valid;
      return sum(d + 1, carried, both);
    };
    const bool point = w.taps[d].is(1), strided = w.dilations[d] == 1 && w.strides[d] > 1;
    if (point && w.strides[d] == 1 && w.low[d].is(0) && w.count[d] == w.space[d])  // an axis that is no window's
      return visit({b.index(0), place[d], {}}, so_far);
    if (point) return visit(tap_at(b, w, d, place[d], b.index(0)), so_far);
    const Dim trips = strided ? ceildiv(w.taps[d], Dim(w.strides[d])) : w.taps[d];
    return b.for_(b.index(0), b.dim(trips), b.index(1), {}, {so_far}, [&](LoopValue i, const LoopVector& carried) {
      TapThere there = strided ? strided_tap_at(b, w, d, place[d], i) : tap_at(b, w, d, place[d], i);
      return LoopVector{visit(there, carried[0])};
    })[0];
  };
  if (w.rank() == 0) return b.cast(term({}, {}), t);
  return b.cast(sum(0, nothing, {}), t);
}

LoopValue fold_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  Layout l = fold_layout(c.node().attrs(), c.node().in(0).shape);
  DType t = c.node().out().dtype;
  if (has_empty(l.w.count) || has_empty(l.w.taps)) return b.constant_int(t, 0);
  return sum_over_taps(b, l.w, index.subspan(l.lead), t, [&](const LoopVector& taps, const LoopVector& positions) {
    LoopVector from(index.begin(), index.begin() + static_cast<std::ptrdiff_t>(l.lead));
    from.insert(from.end(), taps.begin(), taps.end());
    from.insert(from.end(), positions.begin(), positions.end());
    return c.operand(0, from);
  });
}

LoopValue scatter_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  Layout l = scatter_layout(c.node().attrs(), c.node().in(0).shape);
  DType t = c.node().out().dtype;
  if (has_empty(l.w.count) || has_empty(l.w.taps)) return b.constant_int(t, 0);
  LoopValue zero = b.constant_bits({t, 1, 1}, 0);
  return sum_over_taps(b, l.w, index.subspan(l.lead), t, [&](const LoopVector& taps, const LoopVector& positions) {
    LoopVector from(index.begin(), index.begin() + static_cast<std::ptrdiff_t>(l.lead));
    from.insert(from.end(), positions.begin(), positions.end());
    LoopValue number = b.index(0);
    for (std::size_t d = 0; d < taps.size(); ++d) number = b.add(b.mul(number, b.dim(l.w.taps[d])), taps[d]);
    number = b.cast(number, c.node().in(1).dtype);
    return b.select(b.op(L::cmp_eq, {c.operand(1, from), number}), c.operand(0, from), zero);
  });
}

/// Sums in the order of the kernels: for each element, taps in row-major order. `source(lead, tap, position)` is the
/// offset of the term, or -1.
template <class T, class Source>
Array sum_windows(const Array& in, const Shape& out_shape, std::size_t lead_rank, const Concrete& w, Source source) {
  using Acc = std::conditional_t<std::is_same_v<T, double>, double,
                                 std::conditional_t<std::is_integral_v<T>, std::uint64_t, float>>;
  Array out(in.dtype(), out_shape);
  Shape lead(out_shape.begin(), out_shape.begin() + static_cast<std::ptrdiff_t>(lead_rank));
  std::int64_t block = Concrete::elems(w.space);
  std::vector<Acc> sums(static_cast<std::size_t>(block));
  const T* from = in.as<T>().data();
  T* to = out.as_mutable<T>().data();
  for (std::int64_t outer = 0; outer < Concrete::elems(lead); ++outer) {
    std::fill(sums.begin(), sums.end(), Acc(0));
    for_each_index(w.taps, [&](const Shape& tap, std::int64_t tap_number) {
      for_each_index(w.count, [&](const Shape& position, std::int64_t position_number) {
        std::int64_t p = w.place(position.data(), tap.data()), o = source(outer, tap_number, position_number);
        if (p >= 0 && o >= 0) sums[at(p)] += static_cast<Acc>(from[o]);
      });
    });
    for (Acc s : sums) *to++ = static_cast<T>(in.dtype() == DType::boolean && s != Acc(0) ? Acc(1) : s);
  }
  return out;
}

Result<std::vector<Array>> fold_eval(const EvalCtx& c) {
  Layout l = fold_layout(c.node.attrs(), c.node.in(0).shape);
  Concrete w(c, l.w);
  std::int64_t taps = Concrete::elems(w.taps), count = Concrete::elems(w.count);
  auto source = [&](std::int64_t outer, std::int64_t tap, std::int64_t o) { return (outer * taps + tap) * count + o; };
  return one(dispatch_dtype(c.in[0].dtype(),
                            [&]<class T>() { return sum_windows<T>(c.in[0], c.out_shapes[0], l.lead, w, source); }));
}

Result<std::vector<Array>> scatter_eval(const EvalCtx& c) {
  Layout l = scatter_layout(c.node.attrs(), c.node.in(0).shape);
  Concrete w(c, l.w);
  std::int64_t count = Concrete::elems(w.count);
  auto source = [&](std::int64_t outer, std::int64_t tap, std::int64_t o) {
    return c.in[1].get_int(outer * count + o) == tap ? outer * count + o : -1;
  };
  return one(dispatch_dtype(c.in[0].dtype(),
                            [&]<class T>() { return sum_windows<T>(c.in[0], c.out_shapes[0], l.lead, w, source); }));
}

// ---- window_gather ----------------------------------------------------------------------------------------

LoopValue gather_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  Layout l = unfold_layout(c.node().attrs(), c.node().in(0).shape);
  DType t = c.node().out().dtype;
  LoopValue nothing = b.constant_bits({t, 1, 1}, 0);
  if (has_empty(l.w.space)) return nothing;
  LoopValue number = b.cast(c.operand(1, index), DType::i64), valid;
  LoopVector from(index.begin(), index.end());
  for (std::size_t d = l.w.rank(); d-- > 0;) {
    LoopValue taps = b.dim(l.w.taps[d]), tap = d == 0 ? number : b.op(L::rem, {number, taps});
    if (d > 0) number = b.op(L::div, {number, taps});
    const Window& w = l.w;
    LoopValue place = b.add(b.mul(index[l.lead + d], b.index(w.strides[d])), b.mul(tap, b.index(w.dilations[d])));
    place = b.sub(place, b.dim(l.w.low[d]));
    LoopValue zero = b.index(0), last = b.dim(w.space[d] - 1);  // the tap is data: always checked
    LoopValue here = b.op(L::and_, {b.op(L::cmp_ge, {place, zero}), b.op(L::cmp_le, {place, last})});
    valid = valid ? b.op(L::and_, {valid, here}) : here;
    from[l.lead + d] = b.op(L::max, {b.op(L::min, {place, last}), zero});
  }
  LoopValue x = c.operand(0, from);
  return valid ? b.select(valid, x, nothing) : x;
}

Result<std::vector<Array>> gather_eval(const EvalCtx& c) {
  Layout l = unfold_layout(c.node.attrs(), c.node.in(0).shape);
  Concrete w(c, l.w);
  std::int64_t block = Concrete::elems(w.space), flat = 0, count = std::max<std::int64_t>(Concrete::elems(w.count), 1);
  Array zero(c.in[0].dtype(), {});
  auto source = [&](const Shape& i) {
    std::int64_t place = w.place(i.data() + l.lead, w.unravel_tap(c.in[1].get_int(flat)).data()), outer = flat / count;
    ++flat;
    return place < 0 ? place : outer * block + place;
  };
  return one(copy_elements(c.in[0], c.out_shapes[0], source, &zero));
}

// ---- Reductions -------------------------------------------------------------------------------------------

Ints tap_axes(std::size_t lead, const Window& w) { return iota_ints(w.axes(), static_cast<std::int64_t>(lead)); }

/// x with its padding, where all sizes are numbers: windows are then read without looking whether they are inside.
Expr with_padding(Expr x, Window& w, std::string_view kind) {
  Dims shape = x.type().shape, low(shape.size(), 0), high = low;
  std::size_t lead = shape.size() - w.rank();
  for (std::size_t d = 0; d < w.rank(); ++d) {
    Dim beyond = w.reach(d) - w.low[d] - w.space[d];
    if (!beyond.is_const() || !w.low[d].is_const() || w.low[d].value() < 0) return x;
    low[lead + d] = w.low[d];
    high[lead + d] = max(beyond, 0);
  }
  Builder& b = x.builder();
  Array outside(x.dtype(), {});
  std::uint64_t bits = kind == "sum" ? 0 : loop::reduce_identity(kind_named(kind), x.dtype());
  std::memcpy(outside.mutable_bytes().data(), &bits, dtype_bytes(x.dtype()));
  for (std::size_t d = 0; d < w.rank(); ++d) {
    w.space[d] = w.space[d] + low[lead + d] + high[lead + d];
    w.low[d] = 0;
  }
  return x.with(b.add_op("pad", {x.id(), b.constant(make_literal(outside))},
                         {{"low", low}, {"high", high}, {"interior", Ints(shape.size(), 0)}}));
}

template <auto kind>
std::vector<ValueId> reduce_windows(Builder& b, const View& n) {
  Layout l = unfold_layout(n.attrs(), n.in(0).shape);
  constexpr std::string_view name = kind();
  Expr x(b, n.operand(0));
  if (!l.w.inside()) x = with_padding(x, l.w, name);
  return {reduce("reduce_" + std::string(name), unfold(x, l.w, name), tap_axes(l.lead, l.w))};
}

template <auto kind>
void extremum_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Layout l = unfold_layout(n.attrs(), n.in(0).shape);
  Expr winner = first_winner(Expr(b, n.operand(0)), Expr(b, n.result()), l.w, kind());
  grads[0] = window_scatter(Expr(b, ct[0]), winner, l.w);
}
template <auto kind>
void extremum_jvp(Builder& b, const View& n, Cotangents t, std::vector<ValueId>& out) {
  Layout l = unfold_layout(n.attrs(), n.in(0).shape);
  Expr winner = first_winner(Expr(b, n.operand(0)), Expr(b, n.result()), l.w, kind());
  out[0] = window_gather(Expr(b, t[0]), winner, l.w);
}

// ---- The table --------------------------------------------------------------------------------------------

Attrs sample_attrs(Dims low, Ints strides, Ints dilations, std::vector<std::pair<std::string, AttrValue>> more) {
  Attrs a{{"low", std::move(low)}, {"strides", std::move(strides)}, {"dilations", std::move(dilations)}};
  for (auto& [k, v] : more) a.set(k, std::move(v));
  return a;
}

std::vector<OpSample> unfold_samples() {
  auto with = [](Dims low, Ints strides, Ints dilations, Dims window, Dims count) {
    return sample_attrs(low, strides, dilations, {{"window", window}, {"count", count}});
  };
  return {sample({"f64[2,5]"}, with({1}, {2}, {1}, {3}, {3})),
          sample({"f64[2,4,5]"}, with({0, 1}, {1, 2}, {1, 1}, {2, 3}, {3, 3})),
          sample({"f32[6]"}, with({0}, {1}, {2}, {2}, {4})),
          sample({"f64[3,4]"}, with({-1, 2}, {1, 1}, {1, 3}, {1, 2}, {2, 5})),
          sample({"i8[4]"}, with({1}, {1}, {1}, {2}, {5}), -9, 9)};
}

std::vector<OpSample> fold_samples() {
  auto with = [](Dims low, Ints strides, Ints dilations, Dims space) {
    return sample_attrs(low, strides, dilations, {{"space", space}});
  };
  return {
      sample({"f64[2,3,3]"}, with({1}, {2}, {1}, {5})), sample({"f64[2,3,3,4]"}, with({0, 1}, {1, 1}, {2, 1}, {5, 4})),
      sample({"f32[2,4]"}, with({0}, {3}, {1}, {11})), sample({"f64[2,5,1,4,3]"}, with({2, 0}, {2, 1}, {1, 1}, {7, 3})),
      sample({"i32[2,3]"}, with({1}, {1}, {1}, {3}), -9, 9)};
}

OpSample::Operand taps_operand(std::string_view type, std::int64_t taps) {
  return sample_operand(type, 0, static_cast<double>(taps - 1));
}

std::vector<OpSample> gather_samples() {
  OpSample s{{sample_operand("f64[2,5]"), taps_operand("i64[2,3]", 3)},
             sample_attrs({1}, {2}, {1}, {{"window", Dims{3}}, {"count", Dims{3}}})};
  OpSample two{{sample_operand("f64[4,5]"), taps_operand("i64[3,2]", 6)},
               sample_attrs({1, 0}, {2, 1}, {1, 2}, {{"window", Dims{3, 2}}, {"count", Dims{3, 2}}})};
  return {s, two};
}
std::vector<OpSample> scatter_samples() {
  OpSample s{{sample_operand("f64[2,3]"), taps_operand("i64[2,3]", 3)},
             sample_attrs({1}, {2}, {1}, {{"window", Dims{3}}, {"space", Dims{5}}})};
  OpSample two{{sample_operand("f64[3,2]"), taps_operand("i64[3,2]", 6)},
               sample_attrs({1, 0}, {2, 1}, {1, 2}, {{"window", Dims{3, 2}}, {"space", Dims{4, 5}}})};
  OpSample steps{{sample_operand("f64[2,4,2]"), taps_operand("i32[2,4,2]", 20)},
                 sample_attrs({-1, 1}, {2, 3}, {1, 1}, {{"window", Dims{5, 4}}, {"space", Dims{11, 6}}})};
  return {s, two, steps};
}

/// All axes in front of the window's are alike.
std::vector<ValueId> batch_leading(Builder& b, const View& n, const BatchArgs& a) {
  return b.add_multi(n.node().op->name, with_batch_axes(b, n, a), n.attrs());
}

OpInfo primitive(OpInfo o) {
  o.lower_class = LowerClass::index;
  o.linearity = Linearity::each;
  o.linear_in = 1;
  o.batch = batch_leading;
  return o;
}

const AttrSpec window_spec{"window", AttrKind::dims, true, "taps of the window on each axis"},
    count_spec{"count", AttrKind::dims, true, "positions of the window on each axis"},
    space_spec{"space", AttrKind::dims, true, "sizes of the axes that the window moves over"};

OpInfo unfold_op() {
  OpInfo o = primitive({.name = "unfold",
                        .summary = "the windows of the last axes: [..., taps..., positions...] (im2col)",
                        .operands = {{.name = "x"}},
                        .attrs = window_attr_specs({window_spec, count_spec,
                                                    choice_attr("outside", {"sum", "prod", "max", "min"},
                                                                "padding is the identity of this reduction")}),
                        .infer = infer_unfold,
                        .eval = unfold_eval,
                        .element = unfold_element,
                        .inlined = true,
                        .samples = unfold_samples});
  // With padding that is not 0 it is affine: its derivative is that with 0.
  o.vjp = [](Builder& b, const View& n, Cotangents ct, Grads& grads) {
    grads[0] = fold_windows(Expr(b, ct[0]), unfold_layout(n.attrs(), n.in(0).shape).w);
  };
  o.jvp = [](Builder& b, const View& n, Cotangents t, std::vector<ValueId>& out) {
    out[0] = unfold(Expr(b, t[0]), unfold_layout(n.attrs(), n.in(0).shape).w);
  };
  o.linearity = Linearity::none;
  o.linear_in = 0;
  return o;
}

OpInfo fold_op() {
  OpInfo o = primitive({.name = "fold",
                        .summary = "sums windows back to where their taps lie: the transpose of unfold (col2im)",
                        .operands = {{.name = "x", .dtypes = computed}},
                        .attrs = window_attr_specs({space_spec}),
                        .infer = infer_fold,
                        .eval = fold_eval,
                        .element = fold_element,
                        .samples = fold_samples});
  o.transpose = [](Builder& b, const View& n, std::size_t, ValueId ct) {
    return unfold(Expr(b, ct), fold_layout(n.attrs(), n.in(0).shape).w).id();
  };
  return o;
}

std::vector<OpInfo> tap_ops() {
  std::vector<OperandSpec> operands{
      {.name = "x"}, {.name = "tap", .type_var = "I", .dtypes = set_of(DType::i64) | set_of(DType::i32)}};
  OpInfo gather = primitive({.name = "window_gather",
                             .summary = "one tap of each window; 0 where it is padding",
                             .operands = operands,
                             .attrs = window_attr_specs({window_spec, count_spec}),
                             .infer = infer_unfold,
                             .eval = gather_eval,
                             .element = gather_element,
                             .samples = gather_samples});
  gather.transpose = [](Builder& b, const View& n, std::size_t, ValueId ct) {
    Layout l = unfold_layout(n.attrs(), n.in(0).shape);
    return window_scatter(Expr(b, ct), Expr(b, n.operand(1)), l.w).id();
  };
  OpInfo scatter = primitive({.name = "window_scatter",
                              .summary = "sums the value of each window at one of its taps",
                              .operands = operands,
                              .attrs = window_attr_specs({window_spec, space_spec}),
                              .infer = infer_fold,
                              .eval = scatter_eval,
                              .element = scatter_element,
                              .samples = scatter_samples});
  scatter.transpose = [](Builder& b, const View& n, std::size_t, ValueId ct) {
    Layout l = scatter_layout(n.attrs(), n.in(0).shape);
    return window_gather(Expr(b, ct), Expr(b, n.operand(1)), l.w).id();
  };
  return {gather, scatter};
}

template <auto kind>
OpInfo window_reduction(std::string_view name, std::string_view summary) {
  OpInfo o{.name = name,
           .tier = Tier::composite,
           .summary = summary,
           .operands = {{.name = "x", .dtypes = numeric}},
           .attrs = window_attr_specs({window_spec, count_spec}),
           .infer = infer_unfold,
           .decompose = reduce_windows<kind>,
           .batch = batch_leading,
           .samples = unfold_samples};
  if constexpr (kind() == "max" || kind() == "min") {
    o.vjp = extremum_vjp<kind>;
    o.jvp = extremum_jvp<kind>;
  }
  return o;
}

}  // namespace

namespace ops {

Result<std::size_t> check_window_attrs(const InferCtx& c, std::size_t axes, int rank) {
  Window w = from_attrs(c.attrs());
  if (w.low.size() != axes || w.strides.size() != axes || w.dilations.size() != axes)
    return c.error(Code::AG2206, fmt::format("`{}`: the attributes speak of different numbers of axes", op_title(c)));
  if (at(rank) < axes)
    return c.error(Code::AG2204,
                   fmt::format("`{}` has windows over {} axes: {} has {}", op_title(c), axes, operand_name(c, 0), rank),
                   {}, {0});
  for (std::size_t d = 0; d < axes; ++d)
    if (w.strides[d] < 1 || w.dilations[d] < 1 || !w.low[d].valid())
      return c.error(Code::AG2206, fmt::format("`{}`: strides and dilations are at least 1", op_title(c)));
  return axes;
}

}  // namespace ops

std::vector<OpInfo> window_ops() {
  std::vector<OpInfo> all{unfold_op(), fold_op()};
  for (OpInfo& o : tap_ops()) all.push_back(std::move(o));
  all.push_back(window_reduction<[] { return std::string_view("sum"); }>("reduce_window_sum", "sums of windows"));
  all.push_back(window_reduction<[] { return std::string_view("prod"); }>("reduce_window_prod", "products of windows"));
  all.push_back(window_reduction<[] { return std::string_view("max"); }>(
      "reduce_window_max", "maxima of windows; the first winner takes the gradient"));
  all.push_back(window_reduction<[] { return std::string_view("min"); }>(
      "reduce_window_min", "minima of windows; the first winner takes the gradient"));
  for (OpInfo& o : pooling_ops()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag

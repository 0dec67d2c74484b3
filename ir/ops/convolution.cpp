// Convolution: one op with a role. The sums over batch n, group g, output channel m, channel c, tap k and position o of
// x[n,gc,o*stride+k*dilation-low] * w[gm,c,k] * y[n,gm,o] are linear in each of x, w and y; leaving one of them out
// gives the output (y), the input gradient (x) and the filter gradient (w). So the derivatives of each role are the
// other roles, at every order. Layouts are ONNX's: x [N,C,space...], w [M,C/groups,taps...], y [N,M,count...].
//
// It is taken apart late into padding, a view of windows and a product of matrices, which nothing materialises but the
// padded operand.
#include <cmath>

#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/windows.hpp"

namespace ag {
using namespace ops;
namespace {

enum class Role : std::uint8_t { output, input, filter };

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Role role_of(const Attrs& a) {
  std::string r = attr_string(a, "role", "output");
  return r == "input" ? Role::input : r == "filter" ? Role::filter : Role::output;
}
std::string_view role_name(Role r) { return r == Role::input ? "input" : r == Role::filter ? "filter" : "output"; }
/// May be symbolic: a batch of convolutions is one of more groups.
Dim groups_of(const Attrs& a) { return attr_dims(a, "groups")[0]; }

/// The three shapes; the one that the role computes is that of the result.
struct Shapes {
  Dims x, w, y;
};

Shapes shapes_of(const Attrs& a, const Dims& p, const Dims& q) {
  Dims size = attr_dims(a, "size");
  Dim groups = groups_of(a);
  switch (role_of(a)) {
    case Role::output: return {p, q, joined({p[0], q[0]}, size)};
    case Role::input: return {joined({p[0], q[1] * groups}, size), q, p};
    default: return {p, joined({q[1], floordiv(p[1], groups)}, size), q};
  }
}

Window window_of(const Attrs& a, const Shapes& s) {
  return {dims_from(s.x, 2),   dims_from(s.w, 2),       dims_from(s.y, 2),
          attr_dims(a, "low"), attr_ints(a, "strides"), attr_ints(a, "dilations")};
}

Types infer_conv(const InferCtx& c) {
  const Type &p = c.in(0), &q = c.in(1);
  std::size_t r = attr_dims(c.attrs(), "size").size();
  if (attr_dims(c.attrs(), "groups").size() != 1) return c.error(Code::AG2206, "`groups` of `conv` is one number");
  Dim groups = groups_of(c.attrs());
  for (std::size_t i : {0u, 1u})
    if (c.in(i).shape.size() != r + 2)
      return c.error(Code::AG2204,
                     fmt::format("`conv` over {} axes needs operands of rank {}: {} is {}", r, r + 2,
                                 operand_name(c, i), c.in(i).str()),
                     {}, {i});
  AG_TRY_(check_window_attrs(c, r, p.rank()));
  bool known = groups.is_const() && groups.value() > 0;
  auto divides = [&](const Dim& d) { return !d.is_const() || !known || d.value() % groups.value() == 0; };
  auto equal = [](const Dim& a, const Dim& b) { return !a.is_const() || !b.is_const() || a == b; };
  Role role = role_of(c.attrs());
  bool fits = known || !groups.is_const();
  if (fits && role == Role::output) fits = divides(q.shape[0]) && equal(p.shape[1], q.shape[1] * groups);
  if (fits && role == Role::input) fits = divides(q.shape[0]) && equal(p.shape[1], q.shape[0]);
  if (fits && role == Role::filter) fits = divides(p.shape[1]) && divides(q.shape[1]) && equal(p.shape[0], q.shape[0]);
  if (!fits)
    return c.error(Code::AG2203,
                   fmt::format("`conv` ({}) in {} groups: the channels of {} and {} do not fit", role_name(role),
                               groups.str(), p.str(), q.str()),
                   {}, {0, 1});
  Shapes s = shapes_of(c.attrs(), p.shape, q.shape);
  AG_TRY(Dims shape, checked_shape(c, role == Role::output ? s.y : role == Role::input ? s.x : s.w));
  return std::vector<Type>{{p.dtype, std::move(shape)}};
}

ValueId make(Builder& b, Role role, ValueId p, ValueId q, const Window& w, const Dim& groups, Dims size) {
  return b.add_op(
      "conv", {p, q},
      window_attrs(w, {{"role", std::string(role_name(role))}, {"size", std::move(size)}, {"groups", Dims{groups}}}));
}

ValueId conv_transpose(Builder& b, const View& n, std::size_t i, ValueId ct) {
  Shapes s = shapes_of(n.attrs(), n.in(0).shape, n.in(1).shape);
  Window w = window_of(n.attrs(), s);
  Dim groups = groups_of(n.attrs());
  ValueId other = n.operand(1 - i);
  auto output = [&](ValueId x, ValueId f) { return make(b, Role::output, x, f, w, groups, w.count); };
  auto input = [&](ValueId y, ValueId f) { return make(b, Role::input, y, f, w, groups, w.space); };
  auto filter = [&](ValueId x, ValueId y) { return make(b, Role::filter, x, y, w, groups, w.taps); };
  switch (role_of(n.attrs())) {  // operands: (x, w), (y, w), (x, y)
    case Role::output: return i == 0 ? input(ct, other) : filter(other, ct);
    case Role::input: return i == 0 ? output(ct, other) : filter(ct, other);
    default: return i == 0 ? input(other, ct) : output(other, ct);
  }
}

// ---- Reference values -------------------------------------------------------------------------------------

/// Offsets into the spaces of x and y of each pair that a tap joins.
struct Pair {
  std::int64_t x, y;
};
std::vector<std::vector<Pair>> tap_pairs(const Shape& space, const Shape& taps, const Shape& count, const Shape& low,
                                         const Window& w) {
  std::vector<std::vector<Pair>> out;
  for_each_index(taps, [&](const Shape& tap, std::int64_t) {
    auto& pairs = out.emplace_back();
    for_each_index(count, [&](const Shape& o, std::int64_t y) {
      std::int64_t x = 0;
      for (std::size_t d = 0; d < space.size(); ++d) {
        std::int64_t p = o[d] * w.strides[d] + tap[d] * w.dilations[d] - low[d];
        if (p < 0 || p >= space[d]) return;
        x = x * space[d] + p;
      }
      pairs.push_back({x, y});
    });
  });
  return out;
}

struct Sizes {
  std::int64_t n, groups, m, c, space, taps, count;  // m and c of a group
};

/// sums[target] += a * b over all terms, channels before taps; `step(x, w, y)` gets flat offsets.
template <class Step>
void for_each_term(const Sizes& z, const std::vector<std::vector<Pair>>& pairs, Step step) {
  for (std::int64_t n = 0; n < z.n; ++n)
    for (std::int64_t g = 0; g < z.groups; ++g)
      for (std::int64_t m = 0; m < z.m; ++m)
        for (std::int64_t c = 0; c < z.c; ++c) {
          std::int64_t x = ((n * z.groups + g) * z.c + c) * z.space, y = ((n * z.groups + g) * z.m + m) * z.count,
                       w = ((g * z.m + m) * z.c + c) * z.taps;
          for (std::size_t k = 0; k < pairs.size(); ++k)
            for (const Pair& p : pairs[k]) step(x + p.x, w + static_cast<std::int64_t>(k), y + p.y);
        }
}

template <class T, class Acc>
Array conv_array(Role role, const Array& p, const Array& q, const Shape& out_shape, const Sizes& z,
                 const std::vector<std::vector<Pair>>& pairs) {
  Array out(p.dtype(), out_shape);
  std::vector<Acc> sums(static_cast<std::size_t>(out.elems()));
  const T *a = p.as<T>().data(), *b = q.as<T>().data();
  auto add = [&](std::int64_t to, std::int64_t i, std::int64_t j) {
    Acc l = static_cast<Acc>(a[i]), r = static_cast<Acc>(b[j]);
    if constexpr (std::is_floating_point_v<Acc>)
      sums[at(to)] = std::fma(l, r, sums[at(to)]);
    else
      sums[at(to)] += l * r;
  };
  if (role == Role::output)
    for_each_term(z, pairs, [&](std::int64_t x, std::int64_t w, std::int64_t y) { add(y, x, w); });
  else if (role == Role::input)
    for_each_term(z, pairs, [&](std::int64_t x, std::int64_t w, std::int64_t y) { add(x, y, w); });
  else
    for_each_term(z, pairs, [&](std::int64_t x, std::int64_t w, std::int64_t y) { add(w, x, y); });
  T* to = out.as_mutable<T>().data();
  for (Acc s : sums) *to++ = static_cast<T>(s);
  return out;
}

Result<std::vector<Array>> conv_eval(const EvalCtx& c) {
  Shapes s = shapes_of(c.node.attrs(), c.node.in(0).shape, c.node.in(1).shape);
  Window w = window_of(c.node.attrs(), s);
  Role role = role_of(c.node.attrs());
  Shape x = concrete(c, s.x), f = concrete(c, s.w), y = concrete(c, s.y), low = concrete(c, w.low);
  auto spatial = [](const Shape& v) { return Shape(v.begin() + 2, v.end()); };
  auto elems = [](const Shape& v) {
    std::int64_t n = 1;
    for (std::int64_t d : v) n *= d;
    return n;
  };
  std::int64_t groups = concrete(c, {groups_of(c.node.attrs())})[0];
  const Shape &p = c.in[0].shape(), &q = c.in[1].shape();
  bool fits = groups > 0 && (role == Role::output  ? p[1] == q[1] * groups && q[0] % groups == 0
                             : role == Role::input ? p[1] == q[0] && q[0] % groups == 0
                                                   : p[0] == q[0] && p[1] % groups == 0 && q[1] % groups == 0);
  if (!fits) return fail(Code::AG2203, place(c), "the channels of a convolution do not fit");
  Sizes z{x[0], groups, f[0] / groups, f[1], elems(spatial(x)), elems(spatial(f)), elems(spatial(y))};
  auto pairs = tap_pairs(spatial(x), spatial(f), spatial(y), low, w);
  return one(dispatch_dtype(c.in[0].dtype(), [&]<class T>() {
    using Acc = std::conditional_t<std::is_same_v<T, double>, double,
                                   std::conditional_t<std::is_integral_v<T>, std::uint64_t, float>>;
    return conv_array<T, Acc>(role, c.in[0], c.in[1], c.out_shapes[0], z, pairs);
  }));
}

// ---- As padding, windows and a product --------------------------------------------------------------------

/// Fewer columns than this waste lanes: two axes are then taken as one.
constexpr std::int64_t few_columns = 32;
/// Phases of a strided input gradient that get a kernel each.
constexpr std::int64_t max_phases = 9;
/// Positions up to which the filter gradient packs windows instead of running along output channels.
constexpr std::int64_t few_positions = 1024;
/// Output channels a group from which the filter gradient runs along them.
constexpr std::int64_t many_channels = 8;

struct Lowering {
  Builder& b;
  Dim groups;

  Expr reshape(Expr x, Dims shape) const { return x.with(b.reshape(x, std::move(shape))); }
  /// [N, C, ...] with the channels of each group apart: [N, G, C/G, ...].
  Expr grouped(Expr x) const {
    Dims s = x.type().shape;
    return reshape(x, joined({s[0], groups, floordiv(s[1], groups)}, dims_from(s, 2)));
  }
  Expr materialized(Expr x) const { return x.with(b.add_op("materialize", {x.id()})); }

  /// x padded so that every tap of the window lies inside, then from its first tap to its last one; `gaps` zeros
  /// between elements. `extra` zeros behind on each axis.
  Expr padded(Expr x, Window& w, const Ints& gaps, const Ints& extra) const {
    Dims shape = x.type().shape, low(shape.size(), 0), high(shape.size(), 0);
    std::size_t lead = shape.size() - w.rank();
    Ints interior(shape.size(), 0);
    bool needed = false;
    for (std::size_t d = 0; d < w.rank(); ++d) {
      Dim size = shape[lead + d] + max(shape[lead + d] - 1, 0) * gaps[d], reach = w.reach(d);
      interior[lead + d] = gaps[d];
      low[lead + d] = w.low[d];
      high[lead + d] = reach - w.low[d] - size + Dim(extra[d]);
      Dim rest = high[lead + d];
      bool inside = w.low[d].is(0) && rest.is_const() && rest.value() <= 0;
      if (inside && gaps[d] == 0) high[lead + d] = 0;
      needed = needed || gaps[d] > 0 || !inside;
      w.low[d] = 0;
      w.space[d] = inside && gaps[d] == 0 ? shape[lead + d] : reach + Dim(extra[d]);
    }
    if (!needed) return x;
    ValueId zero = b.scalar_int(x.dtype(), 0);
    if (is_float(x.dtype())) zero = b.scalar(x.dtype(), 0);
    return x.with(b.add_op("pad", {x.id(), zero}, {{"low", low}, {"high", high}, {"interior", interior}}));
  }

  /// y[n,g,m,o] = sum over c, k of w[g,m,c,k] * patches[n,g,c,k,o], patches of any free axes.
  Expr product(Expr f, Expr patches, std::size_t taps) const {
    Dims from = f.type().shape;
    Dim batch = patches.type().shape[0];
    Ints spread = iota_ints(static_cast<std::int64_t>(from.size()), 1);
    Expr filters = f.with(b.broadcast_in_dim(f, joined({batch}, from), spread));
    std::int64_t contracted = static_cast<std::int64_t>(taps) + 1;
    return f.with(b.dot_general(filters, patches, iota_ints(contracted, 3), iota_ints(contracted, 2), {0, 1}, {0, 1}));
  }

  /// The output role for filters [G, M, C, taps...]: [N, G*M, count...].
  Expr correlate(Expr x, Expr f, Window w, const Ints& gaps) const {
    std::size_t r = w.rank();
    Dims fs = f.type().shape;
    Dims result = joined({x.type().shape[0], fs[0] * fs[1]}, w.count);
    bool steps = std::all_of(w.strides.begin(), w.strides.end(), [](std::int64_t s) { return s == 1; });
    bool points = std::all_of(w.taps.begin(), w.taps.end(), [](const Dim& k) { return k.is(1); });
    const Dim columns = w.count[r - 1];
    bool few = columns.is_const() && columns.value() < few_columns;
    if (r == 2 && steps && !points && few && w.taps[0].is_const() && w.taps[1].is_const())
      return pitched(x, f, w, gaps, result);
    x = padded(x, w, gaps, Ints(r, 0));
    if (w.strides[r - 1] > 1) x = by_phase(x, w);
    x = grouped(x);
    if (points && steps && w.space == w.count) {
      Dims xs = x.type().shape;
      Expr flat = reshape(x, {xs[0], xs[1], xs[2], ag::product(w.count)});
      return reshape(product(reshape(f, dims_between(fs, 0, 3)), flat, 0), result);
    }
    return reshape(product(f, unfold(x, w), r), result);
  }

  /// x laid out so that the elements that neighbouring windows read at one tap lie next to each other: along the last
  /// axis first the elements 0, stride, 2 * stride ..., then 1, stride + 1, ... It is seen as before.
  Expr by_phase(Expr x, Window& w) const {
    std::size_t last = w.rank() - 1;
    std::int64_t stride = w.strides[last];
    Dims shape = x.type().shape, split = shape;
    Dim length = ceildiv(w.space[last], stride);
    auto axis = static_cast<std::int64_t>(shape.size()) - 1;
    Window pad{{w.space[last]}, {1}, {length * stride}, {0}, {1}, {1}};
    split.back() = length, split.push_back(stride);
    Ints swapped = iota_ints(axis);
    swapped.push_back(axis + 1), swapped.push_back(axis);
    Expr phases = reshape(unfold(x, pad), split);
    phases = materialized(phases.with(b.transpose(phases, swapped)));
    shape.back() = w.space[last] = length * stride;
    return reshape(phases.with(b.transpose(phases, swapped)), shape);
  }

  /// Two axes of few columns, stride 1: rows of the padded image follow each other in memory, so positions are taken
  /// as one axis over whole padded rows; what lies beyond a row's last window is computed and dropped.
  Expr pitched(Expr x, Expr f, Window w, const Ints& gaps, const Dims& result) const {
    std::int64_t beyond = (w.taps[1].value() - 1) * w.dilations[1], pitch = w.count[1].value() + beyond;
    x = padded(x, w, gaps, {beyond > 0 ? (beyond + pitch - 1) / pitch : 0, 0});
    if (w.space[1].is_const()) pitch = w.space[1].value();
    x = grouped(x);
    Dims xs = x.type().shape, fs = f.type().shape;
    Dim rows = w.count[0], flat = xs[3] * xs[4];
    Dim columns = rows * pitch, down = columns + beyond;
    Expr lines = unfold(reshape(x, {xs[0], xs[1], xs[2], flat}),
                        {{flat}, {w.taps[0]}, {down}, {0}, {1}, {w.dilations[0] * pitch}});
    Expr patches = unfold(lines, {{down}, {w.taps[1]}, {columns}, {0}, {1}, {w.dilations[1]}});
    Expr y = product(f, patches, 2);
    y = reshape(y, {result[0], result[1], rows, pitch});
    return y.with(b.slice(y, Dims(4, 0), result, Ints(4, 1)));
  }

  /// Filters [M, C/G, taps...] as [G, M/G, C/G, taps...].
  Expr filters(Expr f) const {
    Dims s = f.type().shape;
    return reshape(f, joined({groups, floordiv(s[0], groups), s[1]}, dims_from(s, 2)));
  }

  /// Filters [G, M, C, taps...] as those of the way back, [G, C, M, taps...] turned round.
  Expr turned(Expr by_group) const {
    Dims shape = by_group.type().shape, taps = dims_from(shape, 3);
    Dim all = ag::product(taps);
    Expr f = reshape(by_group, {shape[0], shape[1], shape[2], all});
    f = f.with(b.transpose(f, {0, 2, 1, 3}));
    if (!all.is(1))  // in memory, so that sums run along it
      f = materialized(f.with(b.add_op("rev", {f.id()}, {{"axes", Ints{3}}})));
    return reshape(f, joined({shape[0], shape[2], shape[1]}, taps));
  }

  /// The input gradient: correlates y, its elements `stride` apart, with the filters turned round.
  Expr input(Expr y, Expr f, const Window& w) const {
    std::size_t r = w.rank();
    if (few_phases(w)) return input_by_phase(y, f, w);
    Window back{dims_from(y.type().shape, 2), w.taps, w.space, {}, Ints(r, 1), w.dilations};
    Ints gaps;
    for (std::size_t d = 0; d < r; ++d) {
      back.low.push_back((w.taps[d] - 1) * w.dilations[d] - w.low[d]);
      gaps.push_back(w.strides[d] - 1);
    }
    return correlate(y, turned(filters(f)), back, gaps);
  }

  static bool few_phases(const Window& w) {
    std::int64_t phases = 1;
    for (std::size_t d = 0; d < w.rank(); ++d) {
      bool known = w.taps[d].is_const() && w.low[d].is_const() && w.low[d].value() >= 0;
      if (!known || w.dilations[d] != 1 || w.strides[d] > max_phases) return false;
      phases *= w.strides[d];
    }
    return phases > 1 && phases <= max_phases;
  }

  /// Elements of x that lie at the same place modulo the strides meet the same taps, every stride-th one: each such
  /// phase is a correlation of its own, without gaps, and the results are interleaved.
  Expr input_by_phase(Expr y, Expr f, const Window& w) const {
    std::size_t r = w.rank();
    Expr by_group = filters(f);
    Dims fs = by_group.type().shape, batch = {y.type().shape[0], fs[0] * fs[2]}, count;
    for (std::size_t d = 0; d < r; ++d) count.push_back(ceildiv(w.space[d] + w.low[d], w.strides[d]));
    std::vector<ValueId> parts;
    for_each_index(Shape(w.strides), [&](const Shape& phase, std::int64_t) {
      Dims start(3 + r, 0);
      Ints step(3 + r, 1);
      Window part{dims_from(y.type().shape, 2), {}, count, {}, Ints(r, 1), Ints(r, 1)};
      for (std::size_t d = 0; d < r; ++d) {
        start[3 + d] = std::min(phase[d], w.taps[d].value());
        step[3 + d] = w.strides[d];
        part.taps.push_back(ceildiv(w.taps[d] - start[3 + d], w.strides[d]));
        part.low.push_back(part.taps[d] - 1);
      }
      bool none = ag::product(part.taps).is(0);
      Expr x = none ? y.with(b.zeros({y.dtype(), joined(batch, count)}))
                    : correlate(y, turned(y.with(b.slice(by_group, start, fs, step))), part, Ints(r, 0));
      parts.push_back(reshape(x, joined(joined(batch, {1}), count)));
    });
    Dims phases(w.strides.begin(), w.strides.end()), whole = batch, start{0, 0}, limit = batch;
    Ints perm{0, 1};
    for (std::size_t d = 0; d < r; ++d) {
      perm.push_back(static_cast<std::int64_t>(2 + r + d));
      perm.push_back(static_cast<std::int64_t>(2 + d));
      whole.push_back(count[d] * w.strides[d]);
      start.push_back(w.low[d]);
      limit.push_back(w.low[d] + w.space[d]);
    }
    Expr all = reshape(y.with(b.concat(parts, 2)), joined(joined(batch, phases), count));
    all = reshape(all.with(b.transpose(all, perm)), whole);
    return all.with(b.slice(all, start, limit, Ints(2 + r, 1)));
  }

  /// The filter gradient: the sum runs over batch and positions. Where these are many, the rows are the channels and
  /// taps of x and the columns the output channels, else the other way round.
  Expr filter(Expr x, Expr y, Window w, const Dims& result) const {
    std::size_t r = w.rank();
    Expr patches = unfold(grouped(padded(x, w, Ints(r, 0), Ints(r, 0))), w), cotangent = grouped(y);
    Dims ps = patches.type().shape, cs = cotangent.type().shape;
    Ints summed{0}, lhs{0};
    for (std::size_t d = 0; d < r; ++d) {
      summed.push_back(static_cast<std::int64_t>(3 + d));
      lhs.push_back(static_cast<std::int64_t>(3 + r + d));
    }
    Dims rows = dims_between(ps, 2, 3 + r);
    Dim depth = cs[0] * ag::product(w.count);
    if (depth.is_const() && depth.value() <= few_positions) {
      patches = reshape(patches, joined({ps[0], ps[1], ag::product(rows)}, w.count));
      return reshape(x.with(b.dot_general(cotangent, patches, summed, summed, {1}, {1})), result);
    }
    bool many = !cs[2].is_const() || cs[2].value() >= many_channels;
    if (many) {  // columns next to each other in memory, and all rows as one axis
      Ints perm{0, 1};
      for (std::size_t d = 0; d < r; ++d) perm.push_back(static_cast<std::int64_t>(3 + d));
      perm.push_back(2);
      cotangent = materialized(cotangent.with(b.transpose(cotangent, perm)));
      patches = reshape(patches, joined({ps[0], ps[1], ag::product(rows)}, w.count));
      for (std::size_t d = 0; d < r; ++d) {
        summed[d + 1] = static_cast<std::int64_t>(2 + d);
        lhs[d + 1] = static_cast<std::int64_t>(3 + d);
      }
    }
    Expr dw = x.with(b.dot_general(patches, cotangent, lhs, summed, {1}, {1}));  // [G, C/G, taps..., M/G]
    dw = reshape(dw, joined({groups, ag::product(rows)}, {cs[2]}));
    return reshape(dw.with(b.transpose(dw, {0, 2, 1})), result);
  }
};

std::vector<ValueId> conv_lowering(Builder& b, const View& n) {
  Shapes s = shapes_of(n.attrs(), n.in(0).shape, n.in(1).shape);
  Window w = window_of(n.attrs(), s);
  Expr p(b, n.operand(0)), q(b, n.operand(1));
  Lowering l{b, groups_of(n.attrs())};
  Dims result = n.out().shape;
  for (const Dims* shape : {&s.x, &s.w, &s.y})
    for (const Dim& d : *shape)
      if (d.is(0)) return {b.zeros(Type(n.out()))};
  if (w.rank() == 0) {  // a product of matrices
    for (Dims* shape : {&s.x, &s.w, &s.y}) shape->push_back(1);
    Window point{{1}, {1}, {1}, {0}, {1}, {1}};
    Role role = role_of(n.attrs());
    ValueId v = make(b, role, b.reshape(p, role == Role::input ? s.y : s.x),
                     b.reshape(q, role == Role::filter ? s.y : s.w), point, l.groups, {1});
    return {b.reshape(v, result)};
  }
  switch (role_of(n.attrs())) {
    case Role::output: return {l.correlate(p, l.filters(q), w, Ints(w.rank(), 0))};
    case Role::input: return {l.input(p, q, w)};
    default: return {l.filter(p, q, w, result)};
  }
}

// ---- Batching ---------------------------------------------------------------------------------------------

/// A batch of convolutions is one with as many more groups. Where only one operand is batched the other is repeated,
/// except for x (or y) over the same filters, whose batch simply grows.
std::vector<ValueId> conv_batch(Builder& b, const View& n, const BatchArgs& a) {
  Role role = role_of(n.attrs());
  Attrs attrs = n.attrs();
  Dims result = n.out().shape;
  if (role != Role::filter && a.batched[0] && !a.batched[1]) {
    Dims s = b.type(a.operands[0]).shape;
    ValueId p = b.reshape(a.operands[0], joined({s[0] * s[1]}, dims_from(s, 2)));
    ValueId v = b.add_op("conv", {p, a.operands[1]}, attrs);
    return {b.reshape(v, joined({a.size}, result))};
  }
  auto merged = [&](std::size_t i, bool channels) {
    ValueId v = a.operands[i];
    if (!a.batched[i]) v = b.broadcast_to(v, joined({a.size}, b.type(v).shape));
    Dims s = b.type(v).shape;
    if (!channels) return b.reshape(v, joined({s[0] * s[1]}, dims_from(s, 2)));  // filters: [B*M, ...]
    Ints perm{1, 0, 2};
    for (std::int64_t d = 3; d < static_cast<std::int64_t>(s.size()); ++d) perm.push_back(d);
    return b.reshape(b.transpose(v, perm), joined({s[1], s[0] * s[2]}, dims_from(s, 3)));
  };
  attrs.set("groups", Dims{groups_of(attrs) * a.size});
  ValueId v = b.add_op("conv", {merged(0, true), merged(1, role == Role::filter)}, attrs);
  if (role == Role::filter) return {b.reshape(v, joined({a.size}, result))};
  Dims apart = joined({result[0], a.size, result[1]}, dims_from(result, 2));
  Ints perm{1, 0, 2};
  for (std::int64_t d = 3; d < static_cast<std::int64_t>(apart.size()); ++d) perm.push_back(d);
  return {b.transpose(b.reshape(v, apart), perm)};
}

// ---- The table --------------------------------------------------------------------------------------------

std::vector<OpSample> conv_samples() {
  auto with = [](std::string role, Dims size, Dims low, Ints strides, Ints dilations, std::int64_t groups) {
    return Attrs{{"role", role},       {"size", size},           {"low", low},
                 {"strides", strides}, {"dilations", dilations}, {"groups", Dims{groups}}};
  };
  return {sample({"f64[2,3,5]", "f64[4,3,3]"}, with("output", {5}, {1}, {1}, {1}, 1)),
          sample({"f64[1,2,5,6]", "f64[3,2,2,3]"}, with("output", {3, 4}, {1, 1}, {2, 1}, {1, 2}, 1)),
          sample({"f64[1,4,4,4]", "f64[4,2,2,2]"}, with("output", {3, 3}, {0, 0}, {1, 1}, {1, 1}, 2)),
          sample({"f64[2,3,4,4]", "f64[3,1,3,3]"}, with("output", {4, 4}, {1, 1}, {1, 1}, {1, 1}, 3)),
          sample({"f64[2,3,3,4]", "f64[4,3,1,1]"}, with("output", {3, 4}, {0, 0}, {1, 1}, {1, 1}, 1)),
          sample({"f64[1,1,3,3,3]", "f64[2,1,2,2,2]"}, with("output", {2, 2, 2}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}, 1)),
          sample({"f64[2,4,3]", "f64[4,3,3]"}, with("input", {5}, {1}, {2}, {1}, 1)),
          sample({"f64[1,4,3,2]", "f64[4,1,2,2]"}, with("input", {5, 5}, {0, 1}, {2, 3}, {1, 2}, 2)),
          sample({"f64[2,3,5]", "f64[2,4,3]"}, with("filter", {3}, {1}, {2}, {1}, 1)),
          sample({"f64[1,4,5,4]", "f64[1,4,4,3]"}, with("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 2)),
          sample({"f64[1,2,4,4]", "f64[1,16,3,3]"}, with("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 1)),
          sample({"f64[2,2,24,24]", "f64[2,8,23,23]"}, with("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 1)),
          sample({"f64[2,2,24,24]", "f64[2,2,23,23]"}, with("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 2)),
          sample({"f16[1,2,4,4]", "f16[3,2,3,3]"}, with("output", {4, 4}, {1, 1}, {1, 1}, {1, 1}, 1)),
          sample({"i32[1,2,4]", "i32[2,2,2]"}, with("output", {3}, {0}, {1}, {1}, 1), -9, 9),
          sample({"f32[0,2,4]", "f32[2,2,2]"}, with("output", {3}, {0}, {1}, {1}, 1)),
          sample({"f32[2,3]", "f32[4,3]"}, with("output", {}, {}, {}, {}, 1))};
}

OpInfo conv_op() {
  OpInfo o{.name = "conv",
           .tier = Tier::composite,
           .summary = "convolution over any number of axes, or its gradient with respect to input or filter",
           .operands = {{.name = "p", .dtypes = numeric}, {.name = "q", .dtypes = numeric}},
           .infer = infer_conv,
           .eval = conv_eval,
           .decompose = conv_lowering,
           .linearity = Linearity::each,
           .linear_in = 3,
           .transpose = conv_transpose,
           .batch = conv_batch,
           .samples = conv_samples};
  o.attrs = window_attr_specs(
      {choice_attr("role", {"output", "input", "filter"}, "of x, w and y the one that is computed from the others"),
       {"size", AttrKind::dims, true, "spatial sizes of the result"},
       {"groups", AttrKind::dims, true, "one number, which divides the channels"}});
  return o;
}

OpInfo materialize_op() {
  return {.name = "materialize",
          .lower_class = LowerClass::index,
          .summary = "the operand in memory of its own: what several passes over a view should read",
          .operands = {{.name = "x"}},
          .infer = infer_same,
          .eval = [](const EvalCtx& c) { return one(c.in[0]); },
          .linearity = Linearity::each,
          .linear_in = 1,
          .transpose = [](Builder&, const View&, std::size_t, ValueId ct) { return ct; },
          .batch = [](Builder& b, const View&, const BatchArgs& a) -> std::vector<ValueId> {
            return {b.add_op("materialize", {a.operands[0]})};
          },
          .element = [](ElementCtx& c, LoopValues index) { return c.operand(0, index); },
          .samples = [] { return std::vector<OpSample>{sample({"f64[2,3]"}), sample({"i8[0,2]"})}; }};
}

}  // namespace

std::vector<OpInfo> convolution_ops() {
  std::vector<OpInfo> all{conv_op(), materialize_op()};
  for (OpInfo& o : convolution_layer_ops()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag

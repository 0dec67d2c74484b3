// Convolution with channels first: lanes run along positions, or along output channels in the filter gradient.
#include "ir/ops/convolution.hpp"
#include "ir/ops/dims.hpp"

namespace ag::ops {
namespace {

/// Phases of a strided input gradient that get a kernel each.
constexpr std::int64_t max_phases = 9;
/// Fewer columns than this waste lanes: two axes are then taken as one.
constexpr std::int64_t few_columns = 32;
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
    x = padded_for(x, w, 2, gaps, Ints(r, 0));
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
    x = padded_for(x, w, 2, gaps, {beyond > 0 ? (beyond + pitch - 1) / pitch : 0, 0});
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

  /// Elements of x whose indices are the same modulo the strides meet the same taps, every stride-th one: each such
  /// phase is a correlation of its own, without gaps, and the results are interleaved.
  Expr input_by_phase(Expr y, Expr f, const Window& w) const {
    std::size_t r = w.rank();
    Expr by_group = filters(f);
    Dims fs = by_group.type().shape, batch = {y.type().shape[0], fs[0] * fs[2]}, count;
    for (std::size_t d = 0; d < r; ++d) count.push_back(ceildiv(w.space[d], w.strides[d]));
    std::vector<ValueId> parts;
    for_each_index(Shape(w.strides), [&](const Shape& phase, std::int64_t) {
      Dims start(3 + r, 0);
      Ints step(3 + r, 1);
      Window part{dims_from(y.type().shape, 2), {}, count, {}, Ints(r, 1), Ints(r, 1)};
      for (std::size_t d = 0; d < r; ++d) {
        const std::int64_t s = w.strides[d], place = phase[d] + w.low[d].value();  // behind the padding
        start[3 + d] = std::min(place % s, w.taps[d].value());
        step[3 + d] = s;
        part.taps.push_back(ceildiv(w.taps[d] - start[3 + d], s));
        part.low.push_back(part.taps[d] - 1 - place / s);
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
      start.push_back(0);
      limit.push_back(w.space[d]);
    }
    Expr all = reshape(y.with(b.concat(parts, 2)), joined(joined(batch, phases), count));
    all = reshape(all.with(b.transpose(all, perm)), whole);
    return all.with(b.slice(all, start, limit, Ints(2 + r, 1)));
  }

  /// The filter gradient: the sum runs over batch and positions. Where these are many, the rows are the channels and
  /// taps of x and the columns the output channels, else the other way round.
  Expr filter(Expr x, Expr y, Window w, const Dims& result) const {
    std::size_t r = w.rank();
    Expr patches = unfold(grouped(padded_for(x, w, 2, Ints(r, 0), Ints(r, 0))), w), cotangent = grouped(y);
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

}  // namespace

Expr materialized(Expr x) { return x.with(x.builder().add_op("materialize", {x.id()})); }

bool few_phases(const Window& w) {
  std::int64_t phases = 1;
  for (std::size_t d = 0; d < w.rank(); ++d) {
    bool known = w.taps[d].is_const() && w.low[d].is_const() && w.low[d].value() >= 0;
    if (!known || w.dilations[d] != 1 || w.strides[d] > max_phases) return false;
    phases *= w.strides[d];
  }
  return phases > 1 && phases <= max_phases;
}

Expr padded_for(Expr x, Window& w, std::size_t first, const Ints& gaps, const Ints& extra) {
  Builder& b = x.builder();
  Dims shape = x.type().shape, low(shape.size(), 0), high(shape.size(), 0);
  Ints interior(shape.size(), 0);
  bool needed = false;
  for (std::size_t d = 0; d < w.rank(); ++d) {
    Dim size = shape[first + d] + max(shape[first + d] - 1, 0) * gaps[d], reach = w.reach(d);
    interior[first + d] = gaps[d];
    low[first + d] = w.low[d];
    high[first + d] = reach - w.low[d] - size + Dim(extra[d]);
    Dim rest = high[first + d];
    bool inside = w.low[d].is(0) && rest.is_const() && rest.value() <= 0;
    if (inside && gaps[d] == 0) high[first + d] = 0;
    needed = needed || gaps[d] > 0 || !inside;
    w.low[d] = 0;
    w.space[d] = inside && gaps[d] == 0 ? shape[first + d] : reach + Dim(extra[d]);
  }
  if (!needed) return x;
  ValueId zero = is_float(x.dtype()) ? b.scalar(x.dtype(), 0) : b.scalar_int(x.dtype(), 0);
  return x.with(b.add_op("pad", {x.id(), zero}, {{"low", low}, {"high", high}, {"interior", interior}}));
}

ValueId lower_channels_first(Builder& b, const ConvParts& c, Expr p, Expr q, const Dims& result) {
  Lowering l{b, c.groups};
  Window w = c.window;
  if (w.rank() == 0) {  // a product of matrices
    ConvParts points = c;
    for (Dims* shape : {&points.shapes.x, &points.shapes.w, &points.shapes.y}) shape->push_back(1);
    points.window = {{1}, {1}, {1}, {0}, {1}, {1}};
    p = p.with(b.reshape(p, c.role == ConvRole::input ? points.shapes.y : points.shapes.x));
    q = q.with(b.reshape(q, c.role == ConvRole::filter ? points.shapes.y : points.shapes.w));
    return b.reshape(lower_channels_first(b, points, p, q, joined(result, {1})), result);
  }
  switch (c.role) {
    case ConvRole::output: return l.correlate(p, l.filters(q), w, Ints(w.rank(), 0));
    case ConvRole::input: return l.input(p, q, w);
    default: return l.filter(p, q, w, result);
  }
}

}  // namespace ag::ops

// Convolution with channels last: lanes run along channels. The windows of an image are a view in which a tap's
// channels lie next to each other, and so do those of the taps of one row, so that a kernel adds up runs of memory;
// nothing is gathered. The channels are one more axis of the window: its taps are the channels of a group, its
// positions the groups.
#include "ir/ops/convolution.hpp"
#include "ir/ops/dims.hpp"

namespace ag::ops {
namespace {

/// Channels up to which an image is padded before its channels are moved: rows of pixels are longer runs of memory.
constexpr std::int64_t few_channels = 4;
/// Output channels of a group up to which a convolution with one input channel a group runs along the groups.
constexpr std::int64_t few_multiples = 4;

struct LastLowering {
  Builder& b;
  std::int64_t groups, each;  // groups, and input channels of one
  Dim outputs;                // output channels of a group

  Expr reshape(Expr x, Dims shape) const { return x.with(b.reshape(x, std::move(shape))); }
  Expr transpose(Expr x, Ints perm) const { return x.with(b.transpose(x, std::move(perm))); }
  bool by_channel() const { return each == 1 && groups > 1 && outputs.is_const() && outputs.value() <= few_multiples; }

  /// x [N,space...,C] as its windows [N,taps...,C/G,count...,G].
  Expr windows(Expr x, Window w) const {
    w.space.push_back(groups * each), w.taps.push_back(each), w.count.push_back(groups), w.low.push_back(0);
    w.strides.push_back(each), w.dilations.push_back(1);
    return unfold(x, w);
  }
  /// The same where each group has one channel: [N,taps...,count...,C].
  Expr channel_windows(Expr x, const Window& w) const {
    return reshape(windows(x, w), joined(joined({x.type().shape[0]}, joined(w.taps, w.count)), {groups}));
  }

  /// Whether each position has one tap, and that is the position itself.
  static bool is_point(const Window& w) {
    auto one = [](const auto& v) { return std::all_of(v.begin(), v.end(), [](const auto& k) { return k == 1; }); };
    return one(w.taps) && one(w.strides) && w.space == w.count && w.inside();
  }

  /// x before its channels were moved behind its pixels, if they are few; else an invalid id.
  Expr planes_of(Expr x) const {
    const Node& n = b.graph().def(x);
    auto perm = attr_ints(n.attrs, "perm");
    bool moved = n.op->name == "transpose" && perm == channels_last_perm(ConvValue::image, x.type().rank());
    return groups == 1 && each <= few_channels && moved ? x.with(n.operands[0]) : x.with({});
  }
  /// x [N,C,space...] as its windows [N,C,taps...,count...].
  static Expr plane_windows(Expr x, Window w, const Ints& gaps) {
    x = padded_for(x, w, 2, gaps, Ints(w.rank(), 0));
    return unfold(x, w);
  }

  /// The output role: x [N,space...,C] and f [taps...,C/G,M] to [N,count...,M].
  Expr correlate(Expr x, Expr f, Window w, const Ints& gaps) const {
    const auto r = static_cast<std::int64_t>(w.rank());
    if (Expr planes = planes_of(x); planes.id()) {
      Ints perm = iota_ints(r + 2, -1);
      perm[0] = r, perm.back() = r + 1;  // [C,taps...,M]
      return x.with(
          b.dot_general(plane_windows(planes, w, gaps), transpose(f, perm), iota_ints(r + 1, 1), iota_ints(r + 1)));
    }
    x = padded_for(x, w, 1, gaps, Ints(w.rank(), 0));
    if (by_channel()) return by_channels(x, f, w);
    Dims fs = f.type().shape, result = joined(joined({x.type().shape[0]}, w.count), {fs.back()});
    if (groups == 1 && is_point(w)) return x.with(b.dot_general(x, reshape(f, {each, fs.back()}), {r + 1}, {0}));
    Expr patches = windows(x, w);
    if (groups == 1) {
      patches = reshape(patches, joined(joined({x.type().shape[0]}, w.taps), joined({each}, w.count)));
      return x.with(b.dot_general(patches, f, iota_ints(r + 1, 1), iota_ints(r + 1)));
    }
    f = reshape(f, joined(joined(w.taps, {each}), {groups, outputs}));
    Expr y = x.with(b.dot_general(patches, f, iota_ints(r + 1, 1), iota_ints(r + 1), {2 * r + 2}, {r + 1}));
    Ints perm = iota_ints(r + 1, 1);  // of [G,N,count...,M/G]
    perm.push_back(0), perm.push_back(r + 2);
    return reshape(transpose(y, perm), result);
  }

  /// Each output channel has one input channel: a sum over taps with channels along the lanes.
  Expr by_channels(Expr x, Expr f, const Window& w) const {
    const auto r = static_cast<std::int64_t>(w.rank());
    const DType t = x.dtype(), wide = t == DType::f16 || t == DType::bf16 ? DType::f32 : t;
    Dims result = joined(joined({x.type().shape[0]}, w.count), {outputs * groups});
    Expr patches = channel_windows(x, w).to(wide);
    Dims spread = joined(joined(w.taps, Dims(w.rank(), 1)), {groups});
    if (!outputs.is(1)) {
      patches = reshape(patches, joined(patches.type().shape, {1}));
      spread.push_back(outputs);
    }
    Expr y = reduce("reduce_sum", patches * reshape(f, spread).to(wide), iota_ints(r, 1)).to(t);
    return reshape(y, result);
  }

  /// Filters [taps...,C/G,M] as those of the way back, turned round: [taps...,M/G,C].
  Expr turned(Expr f, std::size_t rank) const {
    const auto r = static_cast<std::int64_t>(rank);
    Dims shape = f.type().shape, taps = dims_between(shape, 0, rank);
    if (!product(taps).is(1)) f = f.with(b.add_op("rev", {f.id()}, {{"axes", iota_ints(r)}}));
    Ints perm = iota_ints(r);
    if (groups == 1) {
      perm.push_back(r + 1), perm.push_back(r);
      return transpose(f, perm);
    }
    perm.push_back(r + 2), perm.push_back(r + 1), perm.push_back(r);
    f = transpose(reshape(f, joined(taps, {each, groups, outputs})), perm);  // [taps...,M/G,G,C/G]
    return reshape(f, joined(taps, {outputs, groups * each}));
  }

  /// The form of the way back: input and output channels change places.
  LastLowering back() const { return {b, groups, outputs.value(), each}; }

  /// The input gradient: correlates y, its elements `stride` apart, with the filters turned round.
  Expr input(Expr y, Expr f, const Window& w) const {
    const std::size_t r = w.rank();
    Dims count = dims_between(y.type().shape, 1, 1 + r);
    bool points = std::all_of(w.taps.begin(), w.taps.end(), [](const Dim& k) { return k.is(1); });
    bool steps = std::all_of(w.strides.begin(), w.strides.end(), [](std::int64_t s) { return s == 1; });
    if (points && !steps) return spread(y, f, w, count);
    if (groups == 1 && product(count).is(1)) return from_point(y, f, w);
    if (few_phases(w)) return input_by_phase(y, f, w, count);
    Window way{count, w.taps, w.space, {}, Ints(r, 1), w.dilations};
    Ints gaps;
    for (std::size_t d = 0; d < r; ++d) {
      way.low.push_back((w.taps[d] - 1) * w.dilations[d] - w.low[d]);
      gaps.push_back(w.strides[d] - 1);
    }
    return back().correlate(y, turned(f, r), way, gaps);
  }

  /// One tap: the product of each position goes to every stride-th place.
  Expr spread(Expr y, Expr f, const Window& w, const Dims& count) const {
    const std::size_t r = w.rank();
    Window point{count, w.taps, count, Dims(r, 0), Ints(r, 1), Ints(r, 1)};
    Expr x = back().correlate(y, turned(f, r), point, Ints(r, 0));
    Dims low(r + 2, 0), high(r + 2, 0);
    Ints interior(r + 2, 0);
    for (std::size_t d = 0; d < r; ++d) {
      low[1 + d] = Dim(0) - w.low[d];
      interior[1 + d] = w.strides[d] - 1;
      high[1 + d] = w.space[d] + w.low[d] - ((count[d] - 1) * w.strides[d] + 1);
    }
    return padded(x, low, high, interior);
  }

  /// One position: what each tap adds to its place is a product of y's channels with the filters.
  Expr from_point(Expr y, Expr f, const Window& w) const {
    const std::size_t r = w.rank();
    Expr x = reshape(y, {y.type().shape[0], outputs});
    x = x.with(b.dot_general(x, f, {1}, {static_cast<std::int64_t>(r) + 1}));  // [N,taps...,C]
    Dims low(r + 2, 0), high(r + 2, 0);
    Ints interior(r + 2, 0);
    for (std::size_t d = 0; d < r; ++d) {
      low[1 + d] = Dim(0) - w.low[d];
      interior[1 + d] = w.dilations[d] - 1;
      high[1 + d] = w.space[d] + w.low[d] - ((w.taps[d] - 1) * w.dilations[d] + 1);
    }
    return padded(x, low, high, interior);
  }

  Expr padded(Expr x, const Dims& low, const Dims& high, const Ints& interior) const {
    ValueId zero = is_float(x.dtype()) ? b.scalar(x.dtype(), 0) : b.scalar_int(x.dtype(), 0);
    return x.with(b.add_op("pad", {x.id(), zero}, {{"low", low}, {"high", high}, {"interior", interior}}));
  }

  /// Elements of x whose indices are the same modulo the strides meet the same taps, every stride-th one: each such
  /// phase is a correlation of its own, without gaps, and the results are interleaved.
  Expr input_by_phase(Expr y, Expr f, const Window& w, const Dims& positions) const {
    const std::size_t r = w.rank();
    const Dims fs = f.type().shape;
    const Dim batch = y.type().shape[0], channels = groups * each;
    Dims count;  // element i of a phase is x at i * stride + phase
    for (std::size_t d = 0; d < r; ++d) count.push_back(ceildiv(w.space[d], w.strides[d]));
    const Dims shape = joined(joined({batch}, count), {channels});
    std::vector<ValueId> parts;
    for_each_index(Shape(w.strides), [&](const Shape& phase, std::int64_t) {
      Dims start(r + 2, 0);
      Ints step(r + 2, 1);
      Window part{positions, {}, count, {}, Ints(r, 1), Ints(r, 1)};
      for (std::size_t d = 0; d < r; ++d) {
        const std::int64_t s = w.strides[d], place = phase[d] + w.low[d].value();  // behind the padding
        start[d] = std::min(place % s, w.taps[d].value());
        step[d] = s;
        part.taps.push_back(ceildiv(w.taps[d] - start[d], s));
        part.low.push_back(part.taps[d] - 1 - place / s);
      }
      bool none = product(part.taps).is(0);
      Expr x = none ? y.with(b.zeros({y.dtype(), shape}))
                    : back().correlate(y, turned(y.with(b.slice(f, start, fs, step)), r), part, Ints(r, 0));
      parts.push_back(reshape(x, joined({batch, 1}, joined(count, {channels}))));
    });
    Dims whole{batch}, start(r + 2, 0), limit{batch};
    Ints perm{0};
    for (std::size_t d = 0; d < r; ++d) {
      perm.push_back(static_cast<std::int64_t>(1 + r + d));
      perm.push_back(static_cast<std::int64_t>(1 + d));
      whole.push_back(count[d] * w.strides[d]);
      limit.push_back(w.space[d]);
    }
    perm.push_back(static_cast<std::int64_t>(1 + 2 * r));
    whole.push_back(channels), limit.push_back(channels);
    Dims phases(w.strides.begin(), w.strides.end());
    Expr all = reshape(y.with(b.concat(parts, 1)), joined(joined({batch}, phases), joined(count, {channels})));
    all = reshape(transpose(all, perm), whole);
    return all.with(b.slice(all, start, limit, Ints(r + 2, 1)));
  }

  /// The filter gradient: rows are the taps and channels of x, columns the output channels, and the sum runs over batch
  /// and positions.
  Expr filter(Expr x, Expr y, Window w) const {
    const auto r = static_cast<std::int64_t>(w.rank());
    const Dims result = joined(w.taps, {each, outputs * groups});
    Ints places{0}, positions = iota_ints(r + 1);
    if (Expr planes = planes_of(x); planes.id()) {
      for (std::int64_t d = 0; d < r; ++d) places.push_back(r + 2 + d);
      Expr dw = x.with(b.dot_general(plane_windows(planes, w, Ints(w.rank(), 0)), y, places, positions));
      Ints perm = iota_ints(r, 1);
      perm.push_back(0), perm.push_back(r + 1);
      return transpose(dw, perm);
    }
    x = padded_for(x, w, 1, Ints(w.rank(), 0), Ints(w.rank(), 0));
    if (by_channel()) {
      for (std::int64_t d = 0; d < r; ++d) places.push_back(r + 1 + d);
      const DType t = x.dtype(), wide = t == DType::f16 || t == DType::bf16 ? DType::f32 : t;
      Expr patches = channel_windows(x, w).to(wide);
      Dims spread = joined(joined({y.type().shape[0]}, Dims(w.rank(), 1)), joined(w.count, {groups}));
      if (!outputs.is(1)) {
        patches = reshape(patches, joined(patches.type().shape, {1}));
        spread.push_back(outputs);
      }
      return reshape(reduce("reduce_sum", patches * reshape(y, spread).to(wide), places).to(t), result);
    }
    if (groups == 1 && is_point(w)) return reshape(x.with(b.dot_general(x, y, positions, positions)), result);
    for (std::int64_t d = 0; d < r; ++d) places.push_back(r + 2 + d);
    Expr patches = windows(x, w);  // [N,taps...,C/G,count...,G]
    if (groups == 1) {
      patches = reshape(patches, joined(joined({x.type().shape[0]}, w.taps), joined({each}, w.count)));
      return x.with(b.dot_general(patches, y, places, positions));
    }
    y = reshape(y, joined(joined({y.type().shape[0]}, w.count), {groups, outputs}));
    Expr dw = x.with(b.dot_general(patches, y, places, positions, {2 * r + 2}, {r + 1}));  // [G,taps...,C/G,M/G]
    Ints perm = iota_ints(r + 1, 1);
    perm.push_back(0), perm.push_back(r + 2);
    return reshape(transpose(dw, perm), result);
  }
};

}  // namespace

ValueId lower_channels_last(Builder& b, const ConvParts& c, Expr p, Expr q) {
  const Dim channels = c.shapes.x[1], outputs = floordiv(c.shapes.y[1], c.groups);
  if (!c.groups.is_const() || !channels.is_const()) return {};
  LastLowering l{b, c.groups.value(), channels.value() / c.groups.value(), outputs};
  if (c.role == ConvRole::input && !outputs.is_const()) return {};
  switch (c.role) {
    case ConvRole::output: return l.correlate(p, q, c.window, Ints(c.window.rank(), 0));
    case ConvRole::input: return l.input(p, q, c.window);
    default: return l.filter(p, q, c.window);
  }
}

}  // namespace ag::ops

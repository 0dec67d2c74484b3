#include "ir/ops/sample_points.hpp"

#include "ir/ops/dims.hpp"

namespace ag::ops {
namespace {

/// Polynomials of the fraction t, one a tap: column k holds the coefficients of t^k. Cubic is Keys' with a = -0.75.
std::vector<std::vector<double>> tap_polynomials(Interpolation mode) {
  if (mode == Interpolation::nearest) return {{1}};
  if (mode == Interpolation::linear) return {{1, 0}, {-1, 1}};
  constexpr double a = -0.75;
  return {{0, 1, 0, 0}, {a, 0, -a, 0}, {-2 * a, -(a + 3), 2 * a + 3, a}, {a, a + 2, -(a + 2), -a}};
}

Expr constants(Builder& b, const std::vector<double>& v, std::size_t axis, std::size_t rank, DType t) {
  Ints shape(rank, 1);
  shape[axis] = static_cast<std::int64_t>(v.size());
  return {b, b.constant(make_literal(Array::of<double>(t, shape, v)))};
}

/// Mirrored into [low, high] as often as needed.
Expr reflected(Expr x, Expr low, Expr high) {
  Expr range = high - low, none = range <= 0.0, safe = select(none, 1, range);
  Expr d = abs(x - low), n = call("floor", d / safe), rest = d - n * safe;
  Expr odd = (n - call("floor", n * 0.5) * 2.0) == 1.0;
  return select(none, low, select(odd, high - rest, low + rest));
}

struct Taps {
  Expr places, weights;  ///< i64 and real, [rows, taps..., D...] with 1 where they do not vary
  Expr valid;            ///< none: all are
};

Taps taps_of(Expr point, std::size_t axis, std::size_t axes, const Dim& size, const Sampling& how) {
  Builder& b = point.builder();
  DType t = point.dtype();
  Expr last = size_value(b, size, t) - 1;
  Expr low = how.align_corners ? last.lit(0) : last.lit(-0.5), high = how.align_corners ? last : last + 0.5;
  if (how.mode == Interpolation::nearest) point = call("round", point);
  auto clamp = [&](Expr v) { return min(max(v, v.lit(0)), last); };
  if (how.border == Border::border) point = clamp(point);
  if (how.border == Border::reflection)
    point = select(both(point >= low, point <= high), point, reflected(point, low, high));
  Dims shape = point.type().shape;
  shape.insert(shape.begin() + 1, axes, Dim(1));
  point = point.with(b.reshape(point, shape));
  std::size_t rank = shape.size();
  Taps out;
  Expr place = point;
  if (how.mode != Interpolation::nearest) {
    bool cubic = how.mode == Interpolation::cubic;
    Expr base = call("floor", point), fraction = point - base;
    auto polynomials = tap_polynomials(how.mode);
    for (std::size_t k = polynomials.size(); k-- > 0;) {
      Expr c = constants(b, polynomials[k], axis + 1, rank, t);
      out.weights = k + 1 == polynomials.size() ? c : out.weights * fraction + c;
    }
    std::vector<double> offsets = cubic ? std::vector<double>{-1, 0, 1, 2} : std::vector<double>{0, 1};
    place = base + constants(b, offsets, axis + 1, rank, t);
  }
  if (how.border == Border::zeros) out.valid = both(place >= 0.0, place <= last);
  if (how.border == Border::reflection)  // taps beside the point may lie outside again
    place = call("trunc", select(both(place >= low, place <= high), place, reflected(place, low, high)));
  out.places = clamp(place).to(DType::i64);
  return out;
}

/// x [images, channels, elements] at flat places [rows, P]: [rows, channels, P].
Expr fetch(Expr x, Expr places, const Expr& batch) {
  Builder& b = x.builder();
  Dims p = places.type().shape;
  Dim channels = x.type().shape[1];
  if (!batch.id().valid())
    return x.with(b.add_op("gather", {x.id(), places.id()},
                           {{"offset_dims", Ints{1}},
                            {"collapsed_slice_dims", Ints{2}},
                            {"operand_batching_dims", Ints{0}},
                            {"start_indices_batching_dims", Ints{0}},
                            {"start_index_map", Ints{2}},
                            {"index_vector_dim", std::int64_t{2}},
                            {"slice_sizes", Dims{1, channels, 1}}}));
  Expr image = batch.with(b.broadcast_in_dim(batch, {p[0], p[1], 1}, Ints{0}));
  Expr element = places.with(b.reshape(places, {p[0], p[1], 1}));
  return x.with(b.add_op("gather", {x.id(), b.concat({image.id(), element.id()}, 2)},
                         {{"offset_dims", Ints{1}},
                          {"collapsed_slice_dims", Ints{0, 2}},
                          {"operand_batching_dims", Ints{}},
                          {"start_indices_batching_dims", Ints{}},
                          {"start_index_map", Ints{0, 2}},
                          {"index_vector_dim", std::int64_t{2}},
                          {"slice_sizes", Dims{1, channels, 1}}}));
}

}  // namespace

Expr sample_taps(Expr x, const std::vector<Expr>& points, const Sampling& how) {
  Builder& b = x.builder();
  Dims from = x.type().shape, space = dims_from(from, 2);
  Expr flat, weights, valid;
  for (std::size_t d = 0; d < points.size(); ++d) {
    Taps t = taps_of(points[d], d, points.size(), space[d], how);
    flat = d == 0 ? t.places : flat * size_value(b, space[d], DType::i64) + t.places;
    if (t.weights.id().valid()) weights = d == 0 ? t.weights : weights * t.weights;
    if (t.valid.id().valid()) valid = d == 0 ? t.valid : both(valid, t.valid);
  }
  Dims shape = flat.type().shape, result = shape;
  Dim count = product(dims_from(shape, 1));
  result.insert(result.begin() + 1, from[1]);
  Expr taken = fetch(x.with(b.reshape(x, {from[0], from[1], product(space)})),
                     flat.with(b.reshape(flat, {shape[0], count})), how.batch);
  taken = taken.with(b.reshape(taken, result));
  auto channelled = [&](Expr v) {
    Dims s = v.type().shape;
    s.insert(s.begin() + 1, Dim(1));
    return v.with(b.reshape(v, s));
  };
  if (valid.id().valid()) taken = select(channelled(valid), taken, taken.with(b.zeros({taken.dtype(), {}})));
  if (weights.id().valid())
    taken = taken.to(accumulator_dtype(x.dtype())) * channelled(weights).to(accumulator_dtype(x.dtype()));
  return taken;
}

Expr sample_points(Expr x, const std::vector<Expr>& points, const Sampling& how) {
  DType t = x.dtype();
  return reduce("reduce_sum", sample_taps(x, points, how), iota_ints(static_cast<std::int64_t>(points.size()), 2))
      .to(t);
}

}  // namespace ag::ops

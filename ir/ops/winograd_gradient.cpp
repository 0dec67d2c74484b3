// The filter gradient of a 3 x 3 convolution of stride 1 by Winograd's minimal filtering: the transposes of the
// transforms of the result and of the filters around the same products, so as many multiplications fewer as forward.
// dW = g^T (sum over tiles of (bt D bt^T) .* (at^T dY at)) g.
#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/windows.hpp"
#include "ir/ops/winograd.hpp"

namespace ag {
using namespace ops;

WinogradDesc describe_winograd_gradient(const View& n) {
  const Dims &x = n.in(0).shape, &y = n.in(1).shape;
  return {attr_int(n.attrs(), "tile", 2), x[0], x[1], x[2], x[3], y[1], y[2], y[3], attr_dims(n.attrs(), "low")};
}

std::int64_t winograd_gradient_parts(const WinogradDesc& d) {
  constexpr std::int64_t usual_tiles = 1024, tiles_of_part = 128, sums = 8 * 64 * 64;
  if (!d.channels.is_const() || !d.filters.is_const()) return 1;
  const Dim tiles = d.tiles();
  const std::int64_t most = (tiles.is_const() ? tiles.value() : usual_tiles) / tiles_of_part,
                     size = std::max<std::int64_t>(d.channels.value() * d.filters.value(), 1);
  return std::clamp<std::int64_t>(sums / size, 1, std::clamp<std::int64_t>(most, 1, 64));
}

namespace {

Types infer(const InferCtx& c) {
  AG_TRY_(check_winograd_tile(c));
  const Type &x = c.in(0), &y = c.in(1);
  if (attr_dims(c.attrs(), "low").size() != 2 || attr_int(c.attrs(), "parts", 1) < 1)
    return c.error(Code::AG2206, "`low` of `winograd_gradient` is two numbers, `parts` is at least 1");
  if (x.rank() != 4 || y.rank() != 4)
    return c.error(
        Code::AG2204,
        fmt::format("`winograd_gradient` needs images [N,H,W,C] and [N,H,W,M], not {} and {}", x.str(), y.str()), {},
        {0, 1});
  if (x.shape[0].is_const() && y.shape[0].is_const() && x.shape[0] != y.shape[0])
    return c.error(Code::AG2203, fmt::format("`winograd_gradient` of {} does not fit to {}", x.str(), y.str()), {},
                   {0, 1});
  AG_TRY(Dims shape, checked_shape(c, {attr_int(c.attrs(), "parts", 1), 3, 3, x.shape[3], y.shape[3]}));
  return std::vector<Type>{{x.dtype, std::move(shape)}};
}

std::vector<ValueId> decompose(Builder& b, const View& n) {
  const WinogradDesc d = describe_winograd_gradient(n);
  const WinogradTransform& f = winograd_transform(d.tile);
  const std::int64_t parts = attr_int(n.attrs(), "parts", 1);
  const Dim e = f.points * f.points, rows = d.rows(), columns = d.columns(), tiles = d.tiles(),
            part = winograd_part(tiles, parts);
  Expr x(b, n.operand(0)), y(b, n.operand(1));
  /// Windows of `taps` squared, transformed by `m`: [e, channels, parts, tiles of a part].
  auto transformed = [&](Expr v, const Window& w, const Dim& channels, const WinogradMatrix& m) {
    Expr patches = unfold(v.with(b.transpose(v, {0, 3, 1, 2})), w);  // [N, channels, taps, taps, rows, columns]
    patches = v.with(b.reshape(patches, {d.batch, channels, w.taps[0] * w.taps[1], rows, columns}));
    Expr all = v.with(b.dot_general(winograd_square(v, m), patches, {1}, {2}));  // [e, N, channels, rows, columns]
    all = v.with(b.reshape(b.transpose(all, {0, 2, 1, 3, 4}), {e, channels, tiles}));
    all = v.with(b.add_op(
        "pad", {all.id(), b.scalar(v.dtype(), 0)},
        {{"low", Dims{0, 0, 0}}, {"high", Dims{0, 0, part * Dim(parts) - tiles}}, {"interior", Ints{0, 0, 0}}}));
    return v.with(b.reshape(all, {e, channels, parts, part}));
  };
  const Window image{{d.height, d.width}, {f.points, f.points}, {rows, columns}, d.low, {d.tile, d.tile}, {1, 1}};
  const Window result{{d.out_height, d.out_width}, {d.tile, d.tile}, {rows, columns}, {0, 0}, {d.tile, d.tile}, {1, 1}};
  Expr v = transformed(x, image, d.channels, f.bt), z = transformed(y, result, d.filters, transposed(f.at));
  Expr sums = x.with(b.dot_general(v, z, {3}, {3}, {0, 2}, {0, 2}));                         // [e, parts, C, M]
  Expr taps = x.with(b.dot_general(winograd_square(x, transposed(f.g)), sums, {1}, {0}));  // [9, parts, C, M]
  return {b.reshape(b.transpose(taps, {1, 0, 2, 3}), n.out().shape)};
}

std::vector<OpSample> samples() {
  auto with = [](std::string_view x, std::string_view y, std::int64_t tile, Dims low, std::int64_t parts) {
    return sample({x, y}, {{"tile", tile}, {"low", std::move(low)}, {"parts", parts}});
  };
  return {
      with("f64[1,4,4,2]", "f64[1,4,4,3]", 2, {1, 1}, 1),       with("f64[2,3,5,1]", "f64[2,3,4,2]", 2, {1, 0}, 2),
      with("f64[1,5,6,2]", "f64[1,5,6,2]", 4, {1, 1}, 1),       with("f32[3,7,8,17]", "f32[3,7,8,40]", 2, {1, 1}, 1),
      with("f32[4,14,10,24]", "f32[4,14,10,32]", 2, {1, 1}, 3), with("f32[1,9,11,4]", "f32[1,7,9,64]", 4, {0, 0}, 1),
      with("f32[1,2,2,3]", "f32[1,6,5,1]", 2, {3, 2}, 1),       with("f32[0,4,4,2]", "f32[0,4,4,3]", 2, {1, 1}, 2)};
}

}  // namespace

OpInfo winograd_gradient_op() {
  constexpr DTypeSet reals = set_of(DType::f64) | set_of(DType::f32);
  OpInfo o{.name = "winograd_gradient",
           .tier = Tier::composite,
           .lower_class = LowerClass::window,
           .summary = "filter gradient of a 3 x 3 convolution of stride 1 by Winograd's minimal filtering, in parts"};
  o.operands = {{.name = "x", .dtypes = reals}, {.name = "y", .dtypes = reals}};
  o.attrs = {int_attr("tile", 2, "outputs of a tile along an axis: 2 or 4"),
             {"low", AttrKind::dims, true, "padding before the first row and column"},
             int_attr("parts", 1, "sums over as many parts of the tiles")};
  o.infer = infer;
  o.decompose = decompose;
  o.samples = samples;
  return o;
}

}  // namespace ag

// 3 x 3 convolutions of stride 1 over channels-last images in fewer multiplications. The pass `winograd` makes these
// ops where they pay; a CPU has kernels for them (passes/lower_winograd), elsewhere they are products of matrices.
#include "ir/ops/winograd.hpp"

#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/windows.hpp"

namespace ag {
using namespace ops;

const WinogradTransform& winograd_transform(std::int64_t tile) {
  static const WinogradTransform two{2,
                                     4,
                                     {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}},
                                     {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}},
                                     {{1, 1, 1, 0}, {0, 1, -1, -1}}};
  static const WinogradTransform four{
      4,
      6,
      {{4, 0, -5, 0, 1, 0},
       {0, -4, -4, 1, 1, 0},
       {0, 4, -4, -1, 1, 0},
       {0, -2, -1, 2, 1, 0},
       {0, 2, -1, -2, 1, 0},
       {0, 4, 0, -5, 0, 1}},
      {{1. / 4, 0, 0},
       {-1. / 6, -1. / 6, -1. / 6},
       {-1. / 6, 1. / 6, -1. / 6},
       {1. / 24, 1. / 12, 1. / 6},
       {1. / 24, -1. / 12, 1. / 6},
       {0, 0, 1}},
      {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}}};
  AG_CHECK(tile == 2 || tile == 4);
  return tile == 2 ? two : four;
}

WinogradFilters winograd_filters_of(const Attrs& a) {
  const std::string f = attr_string(a, "taps", "transformed");
  return f == "plain" ? WinogradFilters::plain : f == "turned" ? WinogradFilters::turned : WinogradFilters::transformed;
}
std::string_view winograd_filters_name(WinogradFilters f) {
  return f == WinogradFilters::plain ? "plain" : f == WinogradFilters::turned ? "turned" : "transformed";
}

WinogradDesc describe_winograd(const View& n) {
  const Dims &x = n.in(0).shape, y = n.out().shape;
  return {attr_int(n.attrs(), "tile", 2), x[0], x[1], x[2], x[3], y[1], y[2], y[3], attr_dims(n.attrs(), "low")};
}

Status check_winograd_tile(const InferCtx& c) {
  std::int64_t tile = attr_int(c.attrs(), "tile", 2);
  if (tile == 2 || tile == 4) return {};
  return c.error(Code::AG2206, fmt::format("`tile` of `{}` is 2 or 4, not {}", op_title(c), tile));
}

Expr winograd_square(Expr like, const WinogradMatrix& m) {
  const std::size_t rows = m.size(), columns = m[0].size();
  Array a(like.dtype(), {static_cast<std::int64_t>(rows * rows), static_cast<std::int64_t>(columns * columns)});
  std::int64_t i = 0;
  for (std::size_t r = 0; r < rows * rows; ++r)
    for (std::size_t c = 0; c < columns * columns; ++c)
      a.set_double(i++, m[r / rows][c / columns] * m[r % rows][c % columns]);
  return like.with(like.builder().constant(make_literal(a)));
}

WinogradMatrix transposed(const WinogradMatrix& m) {
  WinogradMatrix t(m[0].size(), std::vector<double>(m.size()));
  for (std::size_t r = 0; r < m.size(); ++r)
    for (std::size_t c = 0; c < t.size(); ++c) t[c][r] = m[r][c];
  return t;
}

namespace {

constexpr std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Dim points_squared(const Attrs& a) {
  std::int64_t points = winograd_transform(attr_int(a, "tile", 2)).points;
  return points * points;
}

// ---- winograd_filter ----------------------------------------------------------------------------------------

Types infer_filter(const InferCtx& c) {
  AG_TRY_(check_winograd_tile(c));
  const Type& w = c.in(0);
  if (w.rank() != 4 || !w.shape[0].is(3) || !w.shape[1].is(3))
    return c.error(Code::AG2204, fmt::format("`winograd_filter` needs filters [3,3,C,M], not {}", w.str()), {}, {0});
  const bool turned = winograd_filters_of(c.attrs()) == WinogradFilters::turned;
  Dims shape{ceildiv(w.shape[turned ? 2 : 3], Dim(winograd_panel)), points_squared(c.attrs()), w.shape[turned ? 3 : 2],
             winograd_panel};
  AG_TRY(shape, checked_shape(c, std::move(shape)));
  return std::vector<Type>{{w.dtype, std::move(shape)}};
}

std::vector<ValueId> decompose_filter(Builder& b, const View& n) {
  Expr w(b, n.operand(0));
  if (winograd_filters_of(n.attrs()) == WinogradFilters::turned)
    w = w.with(b.transpose(b.add_op("rev", {w.id()}, {{"axes", Ints{0, 1}}}), {0, 1, 3, 2}));
  Dims s = w.type().shape, u = n.out().shape;
  const WinogradTransform& f = winograd_transform(attr_int(n.attrs(), "tile", 2));
  Expr flat = w.with(b.reshape(w, {9, s[2], s[3]}));
  Expr all = w.with(b.dot_general(winograd_square(w, f.g), flat, {1}, {0}));  // [e, C, M]
  Dim padding = u[0] * Dim(winograd_panel) - s[3];
  if (!padding.is(0)) all = w.with(b.concat({all, b.zeros({w.dtype(), {u[1], s[2], padding}})}, 2));
  all = w.with(b.reshape(all, {u[1], s[2], u[0], winograd_panel}));
  return {b.transpose(all, {2, 0, 1, 3})};
}

constexpr auto lanes = at(winograd_panel);

template <class T>
struct Lanes {
  T v[lanes];
};

/// m times a column of vectors, `step` and `y_step` apart.
template <class T>
void multiply(const WinogradMatrix& m, const Lanes<T>* __restrict x, std::size_t step, Lanes<T>* __restrict y,
              std::size_t y_step) {
  for (std::size_t r = 0; r < m.size(); ++r) {
    Lanes<T> sum{};
    for (std::size_t k = 0; k < m[r].size(); ++k) {
      const T c = static_cast<T>(m[r][k]);
      if (m[r][k] != 0)
        for (std::size_t l = 0; l < lanes; ++l) sum.v[l] += c * x[k * step].v[l];
    }
    y[r * y_step] = sum;
  }
}

template <class T>
void transform_panels(const T* from, const FilterView& w, const WinogradTransform& f, std::size_t first,
                      std::size_t last, T* to) {
  const std::size_t channels = at(w.channels), filters = at(w.filters), points = at(f.points);
  const std::int64_t* s = w.strides.data();
  std::vector<Lanes<T>> taps(9), half(points * 3), all(points * points);
  for (std::size_t p = first; p < last; ++p) {
    const std::size_t count = std::min(lanes, filters - p * lanes);
    taps.assign(9, {});
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t l = 0; l < count; ++l) {
        const T* one =
            from + w.offset + static_cast<std::int64_t>(c) * s[2] + static_cast<std::int64_t>(p * lanes + l) * s[3];
        for (int k = 0; k < 9; ++k) taps[at(k)].v[l] = one[(k / 3) * s[0] + (k % 3) * s[1]];
      }
      for (std::size_t j = 0; j < 3; ++j) multiply(f.g, &taps[j], 3, &half[j], 3);
      for (std::size_t i = 0; i < points; ++i) multiply(f.g, &half[i * 3], 1, &all[i * points], 1);
      for (std::size_t e = 0; e < all.size(); ++e)
        std::copy_n(all[e].v, lanes, to + ((p * all.size() + e) * channels + c) * lanes);
    }
  }
}

Result<std::vector<Array>> eval_filter(const EvalCtx& c) {
  const Shape& s = c.in[0].shape();
  FilterView w{0, {3 * s[2] * s[3], s[2] * s[3], s[3], 1}, s[2], s[3]};
  if (winograd_filters_of(c.node.attrs()) == WinogradFilters::turned)
    w = {8 * s[2] * s[3], {-3 * s[2] * s[3], -s[2] * s[3], 1, s[3]}, s[3], s[2]};
  Array u(c.in[0].dtype(), c.out_shapes[0]);
  transform_filters(c.in[0], w, attr_int(c.node.attrs(), "tile", 2), 0, c.out_shapes[0][0], u);
  return one(std::move(u));
}

}  // namespace

void transform_filters(const Array& w, const FilterView& view, std::int64_t tile, std::int64_t first, std::int64_t last,
                       Array& u) {
  const WinogradTransform& f = winograd_transform(tile);
  if (w.dtype() == DType::f64)
    transform_panels(w.as<double>().data(), view, f, at(first), at(last), u.as_mutable<double>().data());
  else
    transform_panels(w.as<float>().data(), view, f, at(first), at(last), u.as_mutable<float>().data());
}

namespace {

// ---- winograd -----------------------------------------------------------------------------------------------

Types infer_winograd(const InferCtx& c) {
  AG_TRY_(check_winograd_tile(c));
  const Type &x = c.in(0), &u = c.in(1);
  Dims size = attr_dims(c.attrs(), "size"), filters = attr_dims(c.attrs(), "filters");
  if (size.size() != 2 || attr_dims(c.attrs(), "low").size() != 2 || filters.size() != 1)
    return c.error(Code::AG2206, "`size` and `low` of `winograd` are two numbers each, `filters` is one");
  const WinogradFilters form = winograd_filters_of(c.attrs());
  const bool taps = form != WinogradFilters::transformed;
  if (x.rank() != 4 || u.rank() != 4 || (taps && (!u.shape[0].is(3) || !u.shape[1].is(3))))
    return c.error(
        Code::AG2204,
        fmt::format("`winograd` needs images [N,H,W,C] and filters of 3 x 3 taps, not {} and {}", x.str(), u.str()), {},
        {0, 1});
  Dims want{3, 3, x.shape[3], filters[0]};
  if (form == WinogradFilters::turned) std::swap(want[2], want[3]);
  if (form == WinogradFilters::transformed)
    want = {ceildiv(filters[0], Dim(winograd_panel)), points_squared(c.attrs()), x.shape[3], winograd_panel};
  for (std::size_t d = 0; d < 4; ++d)
    if (u.shape[d].is_const() && want[d].is_const() && u.shape[d] != want[d])
      return c.error(Code::AG2203, fmt::format("`winograd` of {} does not fit to {}", x.str(), u.str()), {}, {0, 1});
  AG_TRY(Dims shape, checked_shape(c, {x.shape[0], size[0], size[1], filters[0]}));
  return std::vector<Type>{{x.dtype, std::move(shape)}};
}

std::vector<ValueId> decompose_winograd(Builder& b, const View& n) {
  WinogradDesc d = describe_winograd(n);
  const WinogradTransform& f = winograd_transform(d.tile);
  const Dim e = f.points * f.points, rows = d.rows(), columns = d.columns();
  Expr x(b, n.operand(0)), u(b, n.operand(1));
  if (const WinogradFilters form = winograd_filters_of(n.attrs()); form != WinogradFilters::transformed)
    u = u.with(
        b.add_op("winograd_filter", {u.id()}, {{"tile", d.tile}, {"taps", std::string(winograd_filters_name(form))}}));
  Window w{{d.height, d.width}, {f.points, f.points}, {rows, columns}, d.low, {d.tile, d.tile}, {1, 1}};
  Expr patches = unfold(x.with(b.transpose(x, {0, 3, 1, 2})), w);  // [N, C, points, points, rows, columns]
  patches = x.with(b.reshape(patches, {d.batch, d.channels, e, rows, columns}));
  Expr v = x.with(b.dot_general(winograd_square(x, f.bt), patches, {1}, {2}));  // [e, N, C, rows, columns]
  Expr filters = x.with(b.reshape(b.transpose(u, {1, 2, 0, 3}), {e, d.channels, d.panels() * Dim(winograd_panel)}));
  filters = x.with(b.slice(filters, {0, 0, 0}, {e, d.channels, d.filters}, {1, 1, 1}));
  Expr m = x.with(b.dot_general(v, filters, {2}, {1}, {0}, {0}));      // [e, N, rows, columns, M]
  Expr y = x.with(b.dot_general(winograd_square(x, f.at), m, {1}, {0}));        // [t * t, N, rows, columns, M]
  y = x.with(b.reshape(y, {d.tile, d.tile, d.batch, rows, columns, d.filters}));
  y = x.with(b.transpose(y, {2, 3, 0, 4, 1, 5}));
  y = x.with(b.reshape(y, {d.batch, rows * Dim(d.tile), columns * Dim(d.tile), d.filters}));
  return {b.slice(y, {0, 0, 0, 0}, n.out().shape, {1, 1, 1, 1})};
}

// ---- The table ------------------------------------------------------------------------------------------------

constexpr DTypeSet reals = set_of(DType::f64) | set_of(DType::f32);

std::vector<OpSample> filter_samples() {
  auto with = [](std::string_view type, std::int64_t tile, std::string taps = "plain") {
    return sample({type}, {{"tile", tile}, {"taps", std::move(taps)}});
  };
  return {with("f64[3,3,2,3]", 2, "turned"),
          with("f32[3,3,40,21]", 2, "turned"),
          with("f32[3,3,64,32]", 4, "turned"),
          with("f64[3,3,2,3]", 2),
          with("f64[3,3,1,2]", 4),
          with("f32[3,3,5,33]", 2),
          with("f32[3,3,3,64]", 4),
          with("f32[3,3,0,4]", 2)};
}

std::vector<OpSample> winograd_samples() {
  auto with = [](std::string_view x, std::string_view u, std::int64_t tile, Dims size, Dims low, std::int64_t m,
                 std::string taps = "transformed") {
    return sample({x, u}, {{"tile", tile},
                           {"size", std::move(size)},
                           {"low", std::move(low)},
                           {"filters", Dims{m}},
                           {"taps", std::move(taps)}});
  };
  return {with("f64[1,4,4,2]", "f64[1,16,2,32]", 2, {4, 4}, {1, 1}, 3),
          with("f64[2,3,5,1]", "f64[1,16,1,32]", 2, {3, 4}, {1, 0}, 2),
          with("f64[1,5,6,2]", "f64[1,36,2,32]", 4, {5, 6}, {1, 1}, 2),
          with("f32[3,7,8,17]", "f32[2,16,17,32]", 2, {7, 8}, {1, 1}, 40),
          with("f32[1,14,14,32]", "f32[1,16,32,32]", 2, {14, 14}, {1, 1}, 32),
          with("f32[1,9,11,4]", "f32[2,36,4,32]", 4, {7, 9}, {0, 0}, 64),
          with("f32[1,2,2,3]", "f32[1,16,3,32]", 2, {6, 5}, {3, 2}, 1),
          with("f32[0,4,4,2]", "f32[1,16,2,32]", 2, {4, 4}, {1, 1}, 3),
          with("f64[1,4,4,2]", "f64[3,3,2,3]", 2, {4, 4}, {1, 1}, 3, "plain"),
          with("f64[1,4,4,2]", "f64[3,3,3,2]", 2, {4, 4}, {1, 1}, 3, "turned"),
          with("f32[3,7,8,70]", "f32[3,3,70,40]", 2, {7, 8}, {1, 1}, 40, "plain"),
          with("f32[3,7,8,70]", "f32[3,3,40,70]", 2, {7, 8}, {1, 1}, 40, "turned")};
}

}  // namespace

std::vector<OpInfo> winograd_ops() {
  AttrSpec tile = int_attr("tile", 2, "outputs of a tile along an axis: 2 or 4");
  AttrSpec taps = choice_attr("taps", {"transformed", "plain", "turned"},
                              "`u` is transformed; or is filters [3,3,C,M]; or [3,3,M,C] of an input gradient");
  OpInfo filter{.name = "winograd_filter",
                .tier = Tier::composite,
                .lower_class = LowerClass::window,
                .summary = "filters [3,3,C,M] transformed for `winograd`: [panels, points, C, 32]"};
  filter.operands = {{.name = "w", .dtypes = reals}};
  filter.attrs = {tile, choice_attr("taps", {"plain", "turned"}, "turned: [3,3,M,C] of an input gradient")};
  filter.infer = infer_filter;
  filter.eval = eval_filter;
  filter.decompose = decompose_filter;
  filter.samples = filter_samples;
  OpInfo product{.name = "winograd",
                 .tier = Tier::composite,
                 .lower_class = LowerClass::window,
                 .summary = "3 x 3 convolution of stride 1 of images [N,H,W,C] by Winograd's minimal filtering"};
  product.operands = {{.name = "x", .dtypes = reals}, {.name = "u", .dtypes = reals}};
  product.attrs = {tile,
                   {"size", AttrKind::dims, true, "height and width of the result"},
                   {"low", AttrKind::dims, true, "padding before the first row and column"},
                   {"filters", AttrKind::dims, true, "one number: channels of the result"},
                   taps};
  product.infer = infer_winograd;
  product.decompose = decompose_winograd;
  product.samples = winograd_samples;
  return {filter, product, winograd_gradient_op()};
}

}  // namespace ag

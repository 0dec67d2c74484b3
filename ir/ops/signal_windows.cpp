#include "ir/ops/signal_windows.hpp"

#include <array>
#include <numbers>

#include "ir/ops/along.hpp"

namespace ag {
using namespace ops;
namespace {

// ---- Windows ----------------------------------------------------------------------------------------------

Types infer_window(const InferCtx& c) {
  AG_TRY(std::optional<Dim> n, scalar_dim(c, 0));
  AG_TRY(Dims shape, checked_shape(c, {n ? *n : c.unbacked(0)}));
  DType t = c.attrs().get_or<DType>("output_datatype", DType::f32);
  if (is_storage(t) || t == DType::boolean)
    return c.error(Code::AG2206, fmt::format("`{}` does not give {}", op_title(c), dtype_name(t)));
  return std::vector<Type>{{t, std::move(shape)}};
}

/// a0 - a1 cos(2 pi i / N) + a2 cos(4 pi i / N), where N is the size, or one less if not periodic.
template <auto coefficients>
std::vector<ValueId> window(Builder& b, const View& n) {
  Type t = n.out();
  if (!known(n, 0) || names_sizes(n)) define_sizes(b, as_sizes(b, n.operand(0)), t.shape);
  DType real = t.dtype == DType::f64 ? DType::f64 : DType::f32;
  Expr i(b, b.iota(t.with(real), 0));
  Dim period = attr_int(n.attrs(), "periodic", 1) ? t.shape[0] : t.shape[0] - Dim(1);
  Expr angle = i * (2 * std::numbers::pi) / size_value(b, period, real);
  constexpr auto a = coefficients();
  Expr y = call("cos", angle) * -a[1] + a[0];
  if (a[2] != 0) y = y + call("cos", angle * 2.0) * a[2];
  return {y.to(t.dtype)};
}

constexpr std::array<double, 3> hann() { return {0.5, 0.5, 0}; }
constexpr std::array<double, 3> hamming() { return {25.0 / 46.0, 21.0 / 46.0, 0}; }
constexpr std::array<double, 3> blackman() { return {0.42, 0.5, 0.08}; }

// ---- MelWeightMatrix --------------------------------------------------------------------------------------

Types infer_mel(const InferCtx& c) {
  AG_TRY(std::optional<Dim> bands, scalar_dim(c, 0));
  AG_TRY(std::optional<Dim> length, scalar_dim(c, 1));
  for (std::size_t i = 2; i < 5; ++i)
    if (!c.in(i).elems().is(1)) return c.error(Code::AG2204, "operands of `MelWeightMatrix` are scalars", {}, {i});
  AG_TRY(Dims shape,
         checked_shape(c, {length ? floordiv(*length, 2) + 1 : c.unbacked(0), bands ? *bands : c.unbacked(1)}));
  return std::vector<Type>{{c.attrs().get_or<DType>("output_datatype", DType::f32), std::move(shape)}};
}

/// Triangles over the bins of a spectrum, whose corners are evenly spaced on the mel scale 2595 log10(1 + f / 700).
std::vector<ValueId> mel(Builder& b, const View& n) {
  Type t = n.out();
  const Dim bands = t.shape[1];
  const DType real = DType::f64;
  auto scalar = [&](std::size_t i) { return Expr(b, b.reshape(n.operand(i), {})).to(real); };
  if (names_sizes(n)) {
    Expr bins = as_sizes(b, n.operand(1));
    bins = bins / bins.lit(2) + bins.lit(1);
    define_sizes(b, bins.with(b.concat({bins, as_sizes(b, n.operand(0))}, 0)), t.shape);
  }
  auto to_mel = [](Expr f) { return call("log1p", f / 700.0) * (2595 / std::numbers::ln10); };
  Expr low = to_mel(scalar(3)), high = to_mel(scalar(4));
  Expr count = size_value(b, bands + 2, real);
  Expr point(b, b.iota({real, {bands + 2}}, 0));
  Expr hertz = call("expm1", (point * ((high - low) / count) + low) * (std::numbers::ln10 / 2595)) * 700.0;
  Expr corner = call("floor", hertz * (scalar(1) + 1.0) / scalar(2));
  auto corners = [&](std::int64_t from) { return slice_along(corner, 0, from, bands + from); };
  Expr left = corners(0), center = corners(1), right = corners(2);
  Expr bin(b, b.iota({real, t.shape}, 0));
  Expr rise = center - left, fall = right - center;
  Expr up = select(rise == 0.0, 1, (bin - left) / select(rise == 0.0, 1, rise));
  Expr rising = both(bin >= left, bin <= center), falling = both(bin >= center, bin < right);
  Expr y = select(falling, (right - bin) / select(fall == 0.0, 1, fall), select(rising, up, 0));
  return {y.to(t.dtype)};
}

// ---- The table --------------------------------------------------------------------------------------------

OpInfo window_op(std::string_view name, std::string_view summary,
                 std::vector<ValueId> (*decompose)(Builder&, const View&)) {
  OpInfo o = composite({.name = name, .since = 17, .summary = summary});
  o.operands = {int_operand("size")};
  o.results = {{"output", "R"}};
  o.attrs = {{"output_datatype", AttrKind::dtype}, int_attr("periodic", 1)};
  o.infer = infer_window;
  o.decompose = decompose;
  o.zero_gradient = true;
  o.samples = [] {
    return std::vector<OpSample>{
        OpSample{{sample_ints({10})}, {}},
        OpSample{{sample_ints({7})}, {{"periodic", std::int64_t{0}}, {"output_datatype", DType::f64}}}};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> signal_window_ops() {
  OpInfo weights =
      composite({.name = "MelWeightMatrix", .since = 17, .summary = "from a spectrum's bins to mel bands"});
  weights.operands = {int_operand("num_mel_bins"),
                      int_operand("dft_length"),
                      {.name = "sample_rate", .type_var = "S", .dtypes = ints},
                      {.name = "lower_edge_hertz", .type_var = "F", .dtypes = floats},
                      {.name = "upper_edge_hertz", .type_var = "F", .dtypes = floats}};
  weights.results = {{"output", "R"}};
  weights.attrs = {{"output_datatype", AttrKind::dtype}};
  weights.infer = infer_mel;
  weights.decompose = mel;
  weights.zero_gradient = true;
  weights.samples = [] {
    return std::vector<OpSample>{OpSample{{sample_ints({8}), sample_ints({16}), sample_operand("i32[]", 8192, 8192),
                                           sample_operand("f32[]", 0, 0), sample_operand("f32[]", 4096, 4096)},
                                          {}}};
  };
  return {weights, window_op("HannWindow", "raised cosine window", window<hann>),
          window_op("HammingWindow", "Hamming's window", window<hamming>),
          window_op("BlackmanWindow", "Blackman's window", window<blackman>)};
}

}  // namespace ag

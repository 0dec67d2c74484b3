// ONNX's convolutions, by `conv`.
#include "ir/ops/dims.hpp"
#include "ir/ops/windows.hpp"

namespace ag::ops {
namespace {

std::int64_t group_of(const Attrs& a) { return attr_int(a, "group", 1); }

/// A value a channel, or a scalar, ready to meet [N, C, space...].
Expr per_channel(Expr v, std::size_t space, bool filter = false) {
  Dims from = v.type().shape;
  if (from.empty()) return v;
  Dims shape(space + (filter ? 2 : 1), 1);
  shape[0] = from[0];
  return v.with(v.builder().reshape(v, shape));
}

Expr convolve(std::string_view role, Expr p, Expr q, const Window& w, std::int64_t groups, const Dims& size) {
  Attrs a = window_attrs(w, {{"role", std::string(role)}, {"size", size}, {"groups", Dims{groups}}});
  return p.with(p.builder().add_op("conv", {p.id(), q.id()}, a));
}

/// Ranks and channels of x [N,C,...] and w [M,C/group,...] (transposed: [C,M/group,...]), a bias [M] if there is one.
Status check_layer(const InferCtx& c, std::size_t x, std::size_t w, std::optional<std::size_t> bias, bool transposed) {
  const Type &xt = c.in(x), &wt = c.in(w);
  std::int64_t group = group_of(c.attrs());
  if (xt.rank() < 2 || xt.rank() != wt.rank())
    return c.error(Code::AG2204,
                   fmt::format("`{}` needs input and weights of the same rank of at least 2: {} and {}", c.op().onnx,
                               xt.str(), wt.str()),
                   {}, {x, w});
  if (group < 1) return c.error(Code::AG2206, fmt::format("`{}` in {} groups", c.op().onnx, group));
  Dim channels = transposed ? wt.shape[0] : wt.shape[1] * group;
  auto differ = [](const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; };
  if (differ(xt.shape[1], channels) || (wt.shape[0].is_const() && wt.shape[0].value() % group != 0))
    return c.error(Code::AG2203,
                   fmt::format("`{}` in {} group{}: the weights {} take {} channels, {} is {}", c.op().onnx, group,
                               group == 1 ? "" : "s", wt.str(), channels.str(), operand_name(c, x), xt.str()),
                   {}, {x, w});
  AG_TRY_(check_onnx_window(c, xt.shape.size() - 2));
  if (const Ints* kernel = c.attrs().get<Ints>("kernel_shape"))
    for (std::size_t d = 0; d < kernel->size(); ++d)
      if (differ(wt.shape[2 + d], (*kernel)[d]))
        return c.error(Code::AG2208,
                       fmt::format("`kernel_shape` of `{}` is [{}], the weights are {}", c.op().onnx,
                                   fmt::join(*kernel, ", "), wt.str()),
                       {}, {w});
  Dim outputs = transposed ? wt.shape[1] * group : wt.shape[0];
  if (bias && c.has(*bias) && (c.in(*bias).rank() != 1 || differ(c.in(*bias).shape[0], outputs)))
    return c.error(Code::AG2208,
                   fmt::format("the bias of `{}` is {}; {} output channels need one each", c.op().onnx,
                               c.in(*bias).str(), outputs.str()),
                   {}, {*bias, w});
  return {};
}

Window layer_window(const Attrs& a, const Type& x, const Type& w) {
  return onnx_window(a, dims_from(x.shape, 2), dims_from(w.shape, 2));
}

Result<Dims> output_shape(const InferCtx& c, std::size_t x, std::size_t w) {
  Window window = layer_window(c.attrs(), c.in(x), c.in(w));
  return checked_shape(c, joined({c.in(x).shape[0], c.in(w).shape[0]}, window.count));
}

// ---- Conv, ConvTranspose ----------------------------------------------------------------------------------

Types infer_conv(const InferCtx& c) {
  AG_TRY_(check_layer(c, 0, 1, 2, false));
  AG_TRY(Dims shape, output_shape(c, 0, 1));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

Expr with_bias(Expr y, Builder& b, const View& n, std::size_t i, std::size_t space) {
  return n.has(i) ? y + per_channel(Expr(b, n.operand(i)), space) : y;
}

std::vector<ValueId> conv(Builder& b, const View& n) {
  Window w = layer_window(n.attrs(), n.in(0), n.in(1));
  Expr y = convolve("output", Expr(b, n.operand(0)), Expr(b, n.operand(1)), w, group_of(n.attrs()), w.count);
  return {with_bias(y, b, n, 2, w.rank())};
}

/// The convolution whose input gradient a transposed one is: x's sizes are its counts.
Window transposed_window(const Attrs& a, const Type& x, const Type& w) {
  Window t{{}, dims_from(w.shape, 2), dims_from(x.shape, 2), {}, {}, {}};
  std::size_t r = t.rank();
  t.strides = a.get_or<Ints>("strides", Ints(r, 1)), t.dilations = a.get_or<Ints>("dilations", Ints(r, 1));
  Ints pads = a.get_or<Ints>("pads", Ints(2 * r, 0)), more = a.get_or<Ints>("output_padding", Ints(r, 0));
  Ints sizes = attr_ints(a, "output_shape");
  if (sizes.size() == r + 2) sizes.erase(sizes.begin(), sizes.begin() + 2);
  std::string mode = attr_string(a, "auto_pad", "NOTSET");
  bool same = mode.starts_with("SAME");
  for (std::size_t d = 0; d < r; ++d) {
    Dim full = (t.count[d] - 1) * t.strides[d] + (t.taps[d] - 1) * t.dilations[d] + 1 + more[d];
    if (sizes.empty() && !same) {
      bool padded = mode == "NOTSET";
      t.low.push_back(padded ? pads[d] : 0);
      t.space.push_back(padded ? full - pads[d] - pads[r + d] : full);
      continue;
    }
    Dim size = sizes.empty() ? t.count[d] * t.strides[d] : Dim(sizes[d]), all = full - size;
    if (sizes.empty()) all = max(all, 0);
    t.low.push_back(mode == "SAME_UPPER" ? floordiv(all, 2) : all - floordiv(all, 2));
    t.space.push_back(size);
  }
  return t;
}

Types infer_transposed(const InferCtx& c) {
  AG_TRY_(check_layer(c, 0, 1, 2, true));
  std::size_t r = c.in(0).shape.size() - 2;
  Ints sizes = attr_ints(c.attrs(), "output_shape"), more = attr_ints(c.attrs(), "output_padding");
  if ((!sizes.empty() && sizes.size() != r && sizes.size() != r + 2) || (!more.empty() && more.size() != r))
    return c.error(Code::AG2206, fmt::format("`ConvTranspose` over {} axes needs as many entries in `output_shape` and "
                                             "`output_padding`",
                                             r));
  Window w = transposed_window(c.attrs(), c.in(0), c.in(1));
  Dims shape = joined({c.in(0).shape[0], c.in(1).shape[1] * group_of(c.attrs())}, w.space);
  AG_TRY(shape, checked_shape(c, std::move(shape)));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

std::vector<ValueId> conv_transposed(Builder& b, const View& n) {
  Window w = transposed_window(n.attrs(), n.in(0), n.in(1));
  Expr y = convolve("input", Expr(b, n.operand(0)), Expr(b, n.operand(1)), w, group_of(n.attrs()), w.space);
  return {with_bias(y, b, n, 2, w.rank())};
}

// ---- ConvInteger, QLinearConv -----------------------------------------------------------------------------

Types infer_conv_integer(const InferCtx& c) {
  AG_TRY_(check_layer(c, 0, 1, {}, false));
  AG_TRY(Dims shape, output_shape(c, 0, 1));
  return std::vector<Type>{{DType::i32, std::move(shape)}};
}

/// An operand in i32 less its zero point; padding is then 0.
Expr centred(Builder& b, const View& n, std::size_t i, std::size_t zero, bool filter) {
  Expr x = Expr(b, n.operand(i)).to(DType::i32);
  if (!n.has(zero)) return x;
  Expr z = Expr(b, n.operand(zero)).to(DType::i32);
  if (z.type().elems().is(1)) z = z.with(b.reshape(z, {}));
  return x - per_channel(z, n.in(i).shape.size() - 2, filter);
}

std::vector<ValueId> conv_integer(Builder& b, const View& n) {
  Window w = layer_window(n.attrs(), n.in(0), n.in(1));
  return {convolve("output", centred(b, n, 0, 2, false), centred(b, n, 1, 3, true), w, group_of(n.attrs()), w.count)};
}

Types infer_qlinear(const InferCtx& c) {
  AG_TRY_(check_layer(c, 0, 3, 8, false));
  AG_TRY(Dims shape, output_shape(c, 0, 3));
  return std::vector<Type>{{c.in(7).dtype, std::move(shape)}};
}

std::vector<ValueId> qlinear_conv(Builder& b, const View& n) {
  Window w = layer_window(n.attrs(), n.in(0), n.in(3));
  DType t = n.out().dtype;
  Expr sum = convolve("output", centred(b, n, 0, 2, false), centred(b, n, 3, 5, true), w, group_of(n.attrs()), w.count);
  sum = with_bias(sum, b, n, 8, w.rank());
  auto scale = [&](std::size_t i) {
    Expr s(b, n.operand(i));
    return per_channel(s.type().elems().is(1) ? s.with(b.reshape(s, {})) : s, w.rank());
  };
  Expr scaled = call("round", sum.to(DType::f32) * (scale(1) * scale(4) / scale(6)));
  Expr zero = Expr(b, n.operand(7)).to(DType::f32);
  if (zero.type().rank() > 0) zero = zero.with(b.reshape(zero, {}));
  Expr y = scaled + zero;
  bool is_signed = t == DType::i8;
  return {min(max(y, y.lit(is_signed ? -128 : 0)), y.lit(is_signed ? 127 : 255)).to(t)};
}

// ---- CausalConvWithState ----------------------------------------------------------------------------------

Types infer_causal(const InferCtx& c) {
  const Type &x = c.in(0), &w = c.in(1);
  if (x.rank() != 3 || w.rank() != 3 || (w.shape[1].is_const() && !w.shape[1].is(1)))
    return c.error(Code::AG2204,
                   fmt::format("`CausalConvWithState` needs input [batch, channels, length] and weights "
                               "[channels, 1, k]: {} and {}",
                               x.str(), w.str()),
                   {}, {0, 1});
  auto differ = [](const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; };
  Type state{x.dtype, {x.shape[0], x.shape[1], w.shape[2] - 1}};
  bool fits =
      !differ(x.shape[1], w.shape[0]) && (!c.has(2) || (c.in(2).rank() == 1 && !differ(c.in(2).shape[0], x.shape[1])));
  if (c.has(3)) fits = fits && c.in(3).rank() == 3 && !differ(c.in(3).shape[2], state.shape[2]);
  if (!fits)
    return c.error(Code::AG2208, "`CausalConvWithState`: channels or the length of the state do not fit", {}, {0, 1});
  AG_TRY_(checked_shape(c, state.shape));
  return std::vector<Type>{x, state};
}

std::vector<ValueId> causal_conv(Builder& b, const View& n) {
  Dims x = n.in(0).shape, f = n.in(1).shape;
  Dim keep = f[2] - 1;
  Expr past = n.has(3) ? Expr(b, n.operand(3)) : Expr(b, b.zeros({n.in(0).dtype, {x[0], x[1], keep}}));
  Expr all = past.with(b.concat({past.id(), n.operand(0)}, 2));
  Window w{{x[2] + keep}, {f[2]}, {x[2]}, {0}, {1}, {1}};
  // A sum of a few products an element: no group of its own for each channel, whose number may be symbolic.
  DType wide = accumulator_dtype(n.in(0).dtype);
  Expr taps = Expr(b, b.reshape(n.operand(1), {x[1], f[2], 1})).to(wide);
  Expr y = reduce("reduce_sum", unfold(all, w).to(wide) * taps, {2}).to(n.in(0).dtype);
  std::vector<ValueId> out(2);
  y = with_bias(y, b, n, 2, 1);
  if (attr_string(n.attrs(), "activation", "none") != "none") {
    Expr z = y.to(wide);
    y = (z * call("sigmoid", z)).to(y.dtype());
  }
  out[0] = y;
  out[1] = b.slice(all, {0, 0, x[2]}, {x[0], x[1], x[2] + keep});
  return out;
}

// ---- The table --------------------------------------------------------------------------------------------

std::vector<AttrSpec> layer_attrs() {
  return onnx_window_attrs({{"kernel_shape", AttrKind::ints}, int_attr("group", 1)});
}

std::vector<OpSample> conv_samples() {
  using S = std::string;
  std::vector<OpSample> all{
      sample({"f64[2,3,5]", "f64[4,3,3]", "f64[4]"}, {{"pads", Ints{1, 1}}}),
      sample({"f64[1,2,5,6]", "f64[3,2,3,2]"}, {{"strides", Ints{2, 2}}, {"pads", Ints{1, 0, 2, 1}}}),
      sample({"f64[1,4,4,5]", "f64[6,2,2,2]", "f64[6]"}, {{"group", std::int64_t{2}}, {"dilations", Ints{2, 1}}}),
      sample({"f64[1,3,5,5]", "f64[3,1,3,3]"}, {{"group", std::int64_t{3}}, {"auto_pad", S("SAME_UPPER")}}),
      sample({"f64[1,1,5,4]", "f64[2,1,2,2]"}, {{"auto_pad", S("SAME_LOWER")}, {"strides", Ints{2, 1}}}),
      sample({"f64[1,2,3,3,3]", "f64[2,2,2,2,2]"}, {{"auto_pad", S("VALID")}}),
      sample({"bf16[1,2,4,4]", "bf16[3,2,3,3]", "bf16[3]"}, {{"kernel_shape", Ints{3, 3}}}),
      sample({"f32[2,8,9,9]", "f32[16,8,3,3]", "f32[16]"}, {{"pads", Ints{1, 1, 1, 1}}, {"strides", Ints{2, 2}}}),
      sample({"f32[1,3,34,35]", "f32[5,3,3,3]"}, {{"pads", Ints{1, 1, 1, 1}}})};
  return all;
}

std::vector<OpSample> transposed_samples() {
  return {sample({"f64[1,3,4]", "f64[3,2,3]", "f64[2]"},
                 {{"strides", Ints{2}}, {"pads", Ints{1, 1}}, {"output_padding", Ints{1}}}),
          sample({"f64[1,2,3,3]", "f64[2,1,2,3]"}, {{"group", std::int64_t{2}}, {"dilations", Ints{2, 1}}}),
          sample({"f64[1,1,3,3]", "f64[1,2,3,3]"}, {{"strides", Ints{2, 2}}, {"auto_pad", std::string("SAME_UPPER")}}),
          sample({"f64[1,1,3,3]", "f64[1,2,3,3]"},
                 {{"strides", Ints{3, 2}}, {"output_shape", Ints{10, 8}}, {"output_padding", Ints{1, 1}}}),
          sample({"f64[1,1,2,2,2]", "f64[1,2,2,2,2]"}),
          sample({"f16[1,2,3]", "f16[2,2,2]"})};
}

std::vector<OpSample> integer_samples() {
  auto in = [](std::string_view t, double low, double high) { return sample_operand(t, low, high); };
  OpSample plain{{in("u8[1,2,4,4]", 0, 20), in("i8[3,2,2,2]", -9, 9)}, {}};
  OpSample zeros{{in("u8[1,2,4]", 0, 20), in("u8[3,2,2]", 0, 9), in("u8[]", 1, 3), in("u8[3]", 1, 5)},
                 {{"pads", Ints{1, 1}}}};
  return {plain, zeros};
}

std::vector<OpSample> qlinear_samples() {
  auto in = [](std::string_view t, double low, double high) { return sample_operand(t, low, high); };
  return {
      {{in("u8[1,2,4,4]", 0, 20), in("f32[]", 0.1, 0.2), in("u8[]", 3, 9), in("u8[3,2,3,3]", 0, 20),
        in("f32[3]", 0.1, 0.2), in("u8[3]", 3, 9), in("f32[]", 0.3, 0.5), in("u8[]", 100, 110), in("i32[3]", -5, 5)},
       {{"pads", Ints{1, 1, 1, 1}}}}};
}

std::vector<OpSample> causal_samples() {
  return {sample({"f64[2,3,5]", "f64[3,1,3]", "f64[3]", "f64[2,3,2]"}, {{"activation", std::string("silu")}}),
          sample({"f64[1,2,4]", "f64[2,1,2]"})};
}

OpInfo qlinear_op() {
  DTypeSet bytes = set_of(DType::i8) | set_of(DType::u8);
  OpInfo o = composite({.name = "QLinearConv", .since = 10, .summary = "convolution of quantised values"});
  auto in = [](std::string_view name, std::string_view var, DTypeSet set) {
    return OperandSpec{.name = name, .type_var = var, .dtypes = set};
  };
  DTypeSet f32 = set_of(DType::f32);
  o.operands = {in("x", "T1", bytes),
                in("x_scale", "S", f32),
                in("x_zero_point", "T1", bytes),
                in("w", "T2", bytes),
                in("w_scale", "S", f32),
                in("w_zero_point", "T2", bytes),
                in("y_scale", "S", f32),
                in("y_zero_point", "T3", bytes),
                {.name = "B", .type_var = "T4", .dtypes = set_of(DType::i32), .optional = true}};
  o.results = {{"y", "T3"}};
  o.attrs = layer_attrs();
  o.infer = infer_qlinear;
  o.decompose = qlinear_conv;
  o.no_gradient = "its values are integers";
  o.samples = qlinear_samples;
  return o;
}

}  // namespace

std::vector<OpInfo> convolution_layer_ops() {
  DTypeSet bytes = set_of(DType::i8) | set_of(DType::u8);
  std::vector<OperandSpec> layer{{.name = "X", .dtypes = floats},
                                 {.name = "W", .dtypes = floats},
                                 {.name = "B", .dtypes = floats, .optional = true}};
  OpInfo forward = composite({.name = "Conv",
                              .summary = "convolution over any number of axes",
                              .operands = layer,
                              .attrs = layer_attrs(),
                              .infer = infer_conv,
                              .decompose = conv,
                              .samples = conv_samples});
  OpInfo transposed = composite({.name = "ConvTranspose",
                                 .summary = "transposed convolution: the input gradient of one",
                                 .operands = layer,
                                 .attrs = layer_attrs(),
                                 .infer = infer_transposed,
                                 .decompose = conv_transposed,
                                 .samples = transposed_samples});
  transposed.attrs.push_back({"output_padding", AttrKind::ints, false, "more elements behind each axis"});
  transposed.attrs.push_back({"output_shape", AttrKind::ints, false, "spatial sizes; padding follows from them"});
  OpInfo integer = composite({.name = "ConvInteger", .since = 10, .summary = "convolution of bytes, summed in i32"});
  integer.operands = {{.name = "x", .type_var = "T1", .dtypes = bytes},
                      {.name = "w", .type_var = "T2", .dtypes = bytes},
                      {.name = "x_zero_point", .type_var = "T1", .dtypes = bytes, .optional = true},
                      {.name = "w_zero_point", .type_var = "T2", .dtypes = bytes, .optional = true}};
  integer.results = {{"y", "T3"}};
  integer.attrs = layer_attrs();
  integer.infer = infer_conv_integer;
  integer.decompose = conv_integer;
  integer.no_gradient = "its values are integers";
  integer.samples = integer_samples;
  OpInfo causal =
      composite({.name = "CausalConvWithState",
                 .since = 27,
                 .summary = "depthwise convolution over the past; the last inputs are kept for the next call"});
  causal.operands = {{.name = "input", .dtypes = floats},
                     {.name = "weight", .dtypes = floats},
                     {.name = "bias", .dtypes = floats, .optional = true},
                     {.name = "past_state", .dtypes = floats, .optional = true}};
  causal.results = {{"output"}, {"present_state", "T", true}};
  causal.attrs = {choice_attr("activation", {"none", "silu", "swish"})};
  causal.infer = infer_causal;
  causal.decompose = causal_conv;
  causal.samples = causal_samples;
  return {forward, transposed, integer, qlinear_op(), causal};
}

}  // namespace ag::ops

// Elementwise recipes.
#include <cmath>

#include "frontend/trace/recipes.hpp"
#include "ir/op.hpp"

namespace ag::rec::r {
namespace {

using Values = std::vector<ValueId>;
using In = std::span<const ValueId>;

/// A name as a template argument.
template <std::size_t N>
struct Name {
  char text[N];
  consteval Name(const char (&s)[N]) { std::copy_n(s, N, text); }  // NOLINT: from a literal
  constexpr std::string_view view() const { return {text, N - 1}; }
};

DType dtype_of(std::int64_t p) { return static_cast<DType>(p); }

/// All operands as the type in params[0].
Values converted(Emit& e, In in, Params p) {
  Values v(in.begin(), in.end());
  for (ValueId& x : v) x = e.b().convert(x, dtype_of(p[0]));
  return v;
}

template <Name name>
Values map(Emit& e, In in, Params p) {
  return {e.op(name.view(), converted(e, in, p))};
}
/// Operands as they are.
template <Name name>
Values plain(Emit& e, In in, Params) {
  return {e.op(name.view(), Values(in.begin(), in.end()))};
}
template <Name name>
Values with_alpha(Emit& e, In in, Params p) {
  return {e.op(name.view(), converted(e, in, p), {{"alpha", real(p[1])}})};
}

ValueId constant(Emit& e, ValueId like, double v) { return e.b().scalar(e.type(like).dtype, v); }

Values build_floor_div(Emit& e, In in, Params p) {
  Values v = converted(e, in, p);
  if (is_float(dtype_of(p[0]))) return {e.op("floor", {e.op("div", v)})};
  // Integer division truncates; one less where the signs differ and something is left over.
  ValueId q = e.op("div", v), left = e.op("rem", v), zero = e.b().scalar_int(dtype_of(p[0]), 0);
  if (is_unsigned_int(dtype_of(p[0]))) return {q};
  ValueId differ = e.op("ne", {e.op("lt", {left, zero}), e.op("lt", {v[1], zero})});
  ValueId down = e.op("and", {e.op("ne", {left, zero}), differ});
  return {e.op("sub", {q, e.b().convert(down, dtype_of(p[0]))})};
}

Values build_remainder(Emit& e, In in, Params p) { return {e.op("Mod", converted(e, in, p))}; }

Values build_pow(Emit& e, In in, Params p) { return {e.op("pow", converted(e, in, p))}; }

/// Exponents that are part of the structure, since better code than a general power exists for them.
Values build_pow_const(Emit& e, In in, Params p) {
  ValueId x = e.b().convert(in[0], dtype_of(p[1]));
  const double n = real(p[0]);
  auto unary = [&](std::string_view op, ValueId v) { return e.op(op, {v}); };
  if (n == 0) return {e.b().ones(e.type(x))};
  if (n == 1) return {e.op("mul", {x, constant(e, x, 1)})};
  if (n == 2) return {unary("square", x)};
  if (n == 3) return {e.op("mul", {unary("square", x), x})};
  if (n == 4) return {unary("square", unary("square", x))};
  if (n == -1) return {unary("reciprocal", x)};
  if (n == -2) return {unary("reciprocal", unary("square", x))};
  if (n == 0.5) return {unary("sqrt", x)};
  if (n == -0.5) return {unary("rsqrt", x)};
  return {e.op("pow", {x, constant(e, x, n)})};
}

Values build_log10(Emit& e, In in, Params p) {
  ValueId x = converted(e, in, p)[0];
  return {e.op("mul", {e.op("log2", {x}), constant(e, x, std::log10(2.0))})};
}

Values build_isfinite(Emit& e, In in, Params p) {
  ValueId x = converted(e, in, p)[0];
  return {e.op("not", {e.op("or", {e.op("is_nan", {x}), e.op("is_inf", {x})})})};
}

Values build_gelu(Emit& e, In in, Params p) {
  return {e.op("Gelu", {converted(e, in, p)[0]}, {{"approximate", std::string(p[1] ? "tanh" : "none")}})};
}
Values build_hardsigmoid(Emit& e, In in, Params p) {
  return {e.op("HardSigmoid", converted(e, in, p), {{"alpha", 1.0 / 6}})};
}
Values build_log_sigmoid(Emit& e, In in, Params p) {
  ValueId x = converted(e, in, p)[0];
  return {e.op("neg", {e.op("Softplus", {e.op("neg", {x})})})};
}

Values build_clamp(Emit& e, In in, Params p) {
  Values v = converted(e, in, p);
  Values args{v[0], {}, {}};
  std::size_t next = 1;
  if (p[1]) args[1] = v[next++];
  if (p[2]) args[2] = v[next];
  while (!args.back()) args.pop_back();
  for (std::size_t i = 1; i < args.size(); ++i)
    if (args[i] && e.rank(args[i]) > 0) {  // bounds that are tensors
      ValueId x = v[0];
      if (args[1]) x = e.op("max", {x, args[1]});
      if (args.size() > 2) x = e.op("min", {x, args[2]});
      return {x};
    }
  return {e.op("Clip", args)};
}

Values build_where(Emit& e, In in, Params p) {
  DType t = dtype_of(p[0]);
  return {e.op("select", {in[0], e.b().convert(in[1], t), e.b().convert(in[2], t)})};
}
Values build_masked_fill(Emit& e, In in, Params p) {
  DType t = dtype_of(p[0]);
  return {e.op("select", {in[1], e.b().convert(in[2], t), e.b().convert(in[0], t)})};
}

/// A node of its own even where the type is the same: a copy has another gradient function than its source.
Values build_to(Emit& e, In in, Params p) {
  DType t = dtype_of(p[0]);
  if (e.type(in[0]).dtype == t) return {e.op("Identity", {in[0]})};
  if (t == DType::boolean)
    return {e.op("ne", {in[0], e.b().convert(e.b().scalar_int(DType::i64, 0), e.type(in[0]).dtype)})};
  return {e.op("convert", {in[0]}, {{"to", t}})};
}

Values build_lerp(Emit& e, In in, Params p) {
  Values v = converted(e, in, p);
  return {e.op("add", {v[0], e.op("mul", {v[2], e.op("sub", {v[1], v[0]})})})};
}
Values build_addcmul(Emit& e, In in, Params p) {
  Values v = converted(e, in, p);
  return {e.op("add", {v[0], e.op("mul", {v[3], e.op("mul", {v[1], v[2]})})})};
}

Dims sizes(Params p, std::size_t from) { return Dims(p.begin() + static_cast<std::ptrdiff_t>(from), p.end()); }

Values build_full(Emit& e, In, Params p) {
  Type t{dtype_of(p[0]), sizes(p, 2)};
  return {is_float(t.dtype) ? e.b().full(t, real(p[1]))
                            : e.b().broadcast_in_dim(e.b().scalar(t.dtype, real(p[1])), t.shape, {})};
}
Values build_full_like(Emit& e, In in, Params p) {
  return {e.b().full(e.type(in[0]).with(dtype_of(p[0])), real(p[1]))};
}
Values build_arange(Emit& e, In in, Params p) {
  DType t = dtype_of(p[0]);
  ValueId i = e.b().iota({t, {Dim(p[1])}}, 0);
  return {e.op("add", {in[0], e.op("mul", {i, in[1]})})};
}

}  // namespace

#define AG_BINARY(id, op, grad) const Recipe id{#id, grad, map<op>};
AG_BINARY(add, "add", "AddBackward0")
AG_BINARY(sub, "sub", "SubBackward0")
AG_BINARY(mul, "mul", "MulBackward0")
AG_BINARY(div, "div", "DivBackward0")
AG_BINARY(maximum, "max", "MaximumBackward0")
AG_BINARY(minimum, "min", "MinimumBackward0")
AG_BINARY(fmod, "rem", "FmodBackward0")
AG_BINARY(atan2, "atan2", "Atan2Backward0")
AG_BINARY(eq, "eq", "")
AG_BINARY(ne, "ne", "")
AG_BINARY(lt, "lt", "")
AG_BINARY(le, "le", "")
AG_BINARY(gt, "gt", "")
AG_BINARY(ge, "ge", "")
AG_BINARY(bitwise_and, "bitwise_and", "")
AG_BINARY(bitwise_or, "bitwise_or", "")
AG_BINARY(bitwise_xor, "bitwise_xor", "")
#undef AG_BINARY
const Recipe pow{"pow", "PowBackward1", build_pow};
const Recipe pow_const{"pow", "PowBackward0", build_pow_const};
const Recipe floor_div{"floor_divide", "", build_floor_div};
const Recipe remainder{"remainder", "RemainderBackward0", build_remainder};
const Recipe logical_and{"logical_and", "", plain<"and">};
const Recipe logical_or{"logical_or", "", plain<"or">};
const Recipe logical_xor{"logical_xor", "", plain<"xor">};
const Recipe logical_not{"logical_not", "", plain<"not">};

#define AG_UNARY(id, op, grad) const Recipe id{#id, grad, map<op>};
AG_UNARY(neg, "neg", "NegBackward0")
AG_UNARY(abs, "abs", "AbsBackward0")
AG_UNARY(sign, "sign", "SignBackward0")
AG_UNARY(square, "square", "PowBackward0")
AG_UNARY(reciprocal, "reciprocal", "ReciprocalBackward0")
AG_UNARY(sqrt, "sqrt", "SqrtBackward0")
AG_UNARY(rsqrt, "rsqrt", "RsqrtBackward0")
AG_UNARY(exp, "exp", "ExpBackward0")
AG_UNARY(exp2, "exp2", "Exp2Backward0")
AG_UNARY(expm1, "expm1", "Expm1Backward0")
AG_UNARY(log, "log", "LogBackward0")
AG_UNARY(log2, "log2", "Log2Backward0")
AG_UNARY(log1p, "log1p", "Log1PBackward0")
AG_UNARY(sin, "sin", "SinBackward0")
AG_UNARY(cos, "cos", "CosBackward0")
AG_UNARY(tan, "tan", "TanBackward0")
AG_UNARY(asin, "asin", "AsinBackward0")
AG_UNARY(acos, "acos", "AcosBackward0")
AG_UNARY(atan, "atan", "AtanBackward0")
AG_UNARY(sinh, "sinh", "SinhBackward0")
AG_UNARY(cosh, "cosh", "CoshBackward0")
AG_UNARY(tanh, "tanh", "TanhBackward0")
AG_UNARY(asinh, "asinh", "AsinhBackward0")
AG_UNARY(acosh, "acosh", "AcoshBackward0")
AG_UNARY(atanh, "atanh", "AtanhBackward0")
AG_UNARY(sigmoid, "sigmoid", "SigmoidBackward0")
AG_UNARY(erf, "erf", "ErfBackward0")
AG_UNARY(erfc, "erfc", "ErfcBackward0")
AG_UNARY(floor, "floor", "FloorBackward0")
AG_UNARY(ceil, "ceil", "CeilBackward0")
AG_UNARY(round, "round", "RoundBackward0")
AG_UNARY(trunc, "trunc", "TruncBackward0")
AG_UNARY(relu, "Relu", "ReluBackward0")
AG_UNARY(isnan, "is_nan", "")
AG_UNARY(isinf, "is_inf", "")
AG_UNARY(silu, "Silu", "SiluBackward0")
AG_UNARY(softplus, "Softplus", "SoftplusBackward0")
AG_UNARY(mish, "Mish", "MishBackward0")
AG_UNARY(selu, "Selu", "EluBackward0")
AG_UNARY(hardswish, "HardSwish", "HardswishBackward0")
AG_UNARY(softsign, "Softsign", "DivBackward0")
#undef AG_UNARY
const Recipe log10{"log10", "Log10Backward0", build_log10};
const Recipe isfinite{"isfinite", "", build_isfinite};
const Recipe log_sigmoid{"log_sigmoid", "LogSigmoidBackward0", build_log_sigmoid};
const Recipe hardsigmoid{"hardsigmoid", "HardsigmoidBackward0", build_hardsigmoid};
const Recipe gelu{"gelu", "GeluBackward0", build_gelu};
const Recipe leaky_relu{"leaky_relu", "LeakyReluBackward0", with_alpha<"LeakyRelu">};
const Recipe elu{"elu", "EluBackward0", with_alpha<"Elu">};
const Recipe celu{"celu", "CeluBackward0", with_alpha<"Celu">};
const Recipe clamp{"clamp", "ClampBackward1", build_clamp};
const Recipe where{"where", "WhereBackward0", build_where};
const Recipe masked_fill{"masked_fill", "MaskedFillBackward0", build_masked_fill};
const Recipe to{"to", "ToCopyBackward0", build_to};
const Recipe clone{"clone", "CloneBackward0", plain<"Identity">};
const Recipe stop{"stop_gradient", "", plain<"StopGradient">};
const Recipe lerp{"lerp", "LerpBackward1", build_lerp};
const Recipe addcmul{"addcmul", "AddcmulBackward0", build_addcmul};
const Recipe full{"full", "", build_full};
const Recipe full_like{"full_like", "", build_full_like};
const Recipe arange{"arange", "", build_arange};

}  // namespace ag::rec::r

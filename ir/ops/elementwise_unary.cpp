// Elementwise functions of one operand. Derivatives at kinks are PyTorch's: |x|'(0) = 0; rounding has slope 0.
#include <limits>
#include <numbers>

#include "ir/dtype_sets.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/storage_cast.hpp"

namespace ag {
using namespace ops;
namespace {

constexpr double two_over_sqrt_pi = 2 * std::numbers::inv_sqrtpi;

loop::ValueId number(loop::Builder& b, loop::ValueId like, double v) { return b.constant(b.type(like).elem, v); }

loop::ValueId sign_scalar(loop::Builder& b, const View&, LoopValues x) {
  loop::ValueId zero = number(b, x[0], 0);
  // What is neither above nor below zero (0, -0, NaN) is its own sign.
  loop::ValueId low =
      is_unsigned_int(b.type(x[0]).elem) ? x[0] : b.select(b.op(L::cmp_lt, {x[0], zero}), number(b, x[0], -1), x[0]);
  return b.select(b.op(L::cmp_gt, {x[0], zero}), number(b, x[0], 1), low);
}

loop::ValueId is_inf_scalar(loop::Builder& b, const View& n, LoopValues x) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  bool positive = attr_int(n.attrs(), "detect_positive", 1) != 0,
       negative = attr_int(n.attrs(), "detect_negative", 1) != 0;
  if (positive && negative) return b.op(L::cmp_eq, {b.op(L::abs, {x[0]}), number(b, x[0], inf)});
  if (!positive && !negative) return b.constant_int(DType::boolean, 0);
  return b.op(L::cmp_eq, {x[0], number(b, x[0], positive ? inf : -inf)});
}

Types infer_predicate(const InferCtx& c) { return std::vector<Type>{c.in(0).with(DType::boolean)}; }

Types infer_convert(const InferCtx& c) {
  const DType* to = c.attrs().get<DType>("to");
  if (!to) return c.error(Code::AG2206, fmt::format("`{}` needs the attribute `to`", c.op().name));
  return std::vector<Type>{c.in(0).with(*to)};
}

Types infer_bitcast(const InferCtx& c) {
  AG_TRY(std::vector<Type> types, infer_convert(c));
  if (dtype_bytes(types[0].dtype) != dtype_bytes(c.in(0).dtype))
    return c.error(Code::AG2206,
                   fmt::format("`{}` from {} to {}: the element sizes differ", c.op().name, dtype_name(c.in(0).dtype),
                               dtype_name(types[0].dtype)),
                   {}, {0});
  return types;
}

/// A bool's byte is 0 or 1, so its bits are those of the number.
loop::ValueId bitcast_scalar(loop::Builder& b, const View& n, LoopValues x) {
  DType to = n.out().dtype;
  if (to == DType::boolean) return b.cast(x[0], to);
  return b.type(x[0]).elem == DType::boolean ? b.bitcast(b.cast(x[0], DType::u8), to) : b.bitcast(x[0], to);
}

std::vector<OpInfo> arithmetic() {
  return {
      unary({.name = "neg",
             .onnx = "Neg",
             .summary = "-x",
             .known_ints = [](const View& n) { return map_known(n, [](const Dim& d) { return Dim(0) - d; }); },
             .partials = d1<[](Point p) { return p.x.lit(-1); }>,
             .scalar = as<L::neg>},
            signed_numeric),
      unary({.name = "abs",
             .onnx = "Abs",
             .summary = "|x|; the least integer is its own",
             .partials = d1<[](Point p) { return call("sign", p.x); }>,
             .scalar = [](loop::Builder& b, const View&,
                          LoopValues x) { return is_unsigned_int(b.type(x[0]).elem) ? x[0] : b.op(L::abs, x); }},
            numeric),
      unary({.name = "sign",
             .onnx = "Sign",
             .summary = "-1, 0 or 1; zeros and NaN as they are",
             .zero_gradient = true,
             .scalar = sign_scalar,
             .cost = 2},
            numeric),
      unary({.name = "square",
             .summary = "x*x",
             .partials = d1<[](Point p) { return 2 * p.x; }>,
             .scalar = [](loop::Builder& b, const View&, LoopValues x) { return b.mul(x[0], x[0]); }},
            numeric),
      unary({.name = "reciprocal",
             .onnx = "Reciprocal",
             .summary = "1/x",
             .partials = d1<[](Point p) { return -p.y * p.y; }>,
             .unbounded_derivative = true,
             .scalar = [](loop::Builder& b, const View&,
                          LoopValues x) { return b.op(L::div, {number(b, x[0], 1), x[0]}); },
             .cost = 4,
             .low = 0.4},
            floats),
      unary({.name = "sqrt",
             .onnx = "Sqrt",
             .summary = "square root",
             .partials = d1<[](Point p) { return 0.5 / p.y; }>,
             .unbounded_derivative = true,
             .scalar = as<L::sqrt>,
             .cost = 6,
             .low = 0.2},
            floats),
      unary({.name = "rsqrt",
             .summary = "1/sqrt(x)",
             .partials = d1<[](Point p) { return -0.5 * p.y / p.x; }>,
             .unbounded_derivative = true,
             .scalar = as<L::rsqrt>,
             .cost = 8,
             .low = 0.2},
            floats),
      unary({.name = "cbrt",
             .summary = "real cube root",
             .partials = d1<[](Point p) { return 1 / (3 * (p.y * p.y)); }>,
             .unbounded_derivative = true,
             .scalar = as<L::cbrt>,
             .cost = 16,
             .low = 0.2},
            floats),
  };
}

std::vector<OpInfo> exponentials() {
  return {
      unary({.name = "exp",
             .onnx = "Exp",
             .summary = "e^x",
             .partials = d1<[](Point p) { return p.y; }>,
             .unbounded_derivative = true,
             .scalar = as<L::exp>,
             .cost = 10},
            floats),
      unary({.name = "exp2",
             .summary = "2^x",
             .partials = d1<[](Point p) { return p.y * std::numbers::ln2; }>,
             .unbounded_derivative = true,
             .scalar = as<L::exp2>,
             .cost = 10},
            floats),
      unary({.name = "expm1",
             .summary = "e^x - 1, accurate near 0",
             .partials = d1<[](Point p) { return exp(p.x); }>,
             .unbounded_derivative = true,
             .scalar = as<L::expm1>,
             .cost = 12},
            floats),
      unary({.name = "log",
             .onnx = "Log",
             .summary = "natural logarithm",
             .partials = d1<[](Point p) { return 1 / p.x; }>,
             .unbounded_derivative = true,
             .scalar = as<L::log>,
             .cost = 12,
             .low = 0.2},
            floats),
      unary({.name = "log2",
             .summary = "logarithm to base 2",
             .partials = d1<[](Point p) { return std::numbers::log2e / p.x; }>,
             .unbounded_derivative = true,
             .scalar = as<L::log2>,
             .cost = 12,
             .low = 0.2},
            floats),
      unary({.name = "log1p",
             .summary = "log(1 + x), accurate near 0",
             .partials = d1<[](Point p) { return 1 / (1 + p.x); }>,
             .unbounded_derivative = true,
             .scalar = as<L::log1p>,
             .cost = 14,
             .low = -0.6},
            floats),
      unary({.name = "tanh",
             .onnx = "Tanh",
             .summary = "hyperbolic tangent",
             .partials = d1<[](Point p) { return (1 - p.y) * (1 + p.y); }>,
             .scalar = as<L::tanh>,
             .cost = 12},
            floats),
      unary({.name = "sigmoid",
             .onnx = "Sigmoid",
             .summary = "1/(1 + e^-x)",
             .partials = d1<[](Point p) { return p.y * (1 - p.y); }>,
             .scalar = as<L::sigmoid>,
             .cost = 14},
            floats),
      unary({.name = "erf",
             .onnx = "Erf",
             .summary = "error function",
             .partials = d1<[](Point p) { return two_over_sqrt_pi * exp(-(p.x * p.x)); }>,
             .scalar = as<L::erf>,
             .cost = 16},
            floats),
      unary({.name = "erfc",
             .summary = "1 - erf(x), accurate for large x",
             .partials = d1<[](Point p) { return -two_over_sqrt_pi * exp(-(p.x * p.x)); }>,
             .scalar = as<L::erfc>,
             .cost = 20},
            floats),
  };
}

std::vector<OpInfo> trigonometry() {
  return {
      unary({.name = "sin",
             .onnx = "Sin",
             .summary = "sine (radians)",
             .partials = d1<[](Point p) { return call("cos", p.x); }>,
             .scalar = as<L::sin>,
             .cost = 14},
            floats),
      unary({.name = "cos",
             .onnx = "Cos",
             .summary = "cosine (radians)",
             .partials = d1<[](Point p) { return -call("sin", p.x); }>,
             .scalar = as<L::cos>,
             .cost = 14},
            floats),
      unary({.name = "tan",
             .onnx = "Tan",
             .summary = "tangent (radians)",
             .partials = d1<[](Point p) { return 1 + p.y * p.y; }>,
             .unbounded_derivative = true,
             .scalar = as<L::tan>,
             .cost = 20,
             .low = -1,
             .high = 1},
            floats),
      unary({.name = "asin",
             .onnx = "Asin",
             .summary = "inverse sine",
             .partials = d1<[](Point p) { return call("rsqrt", (1 - p.x) * (1 + p.x)); }>,
             .unbounded_derivative = true,
             .scalar = as<L::asin>,
             .cost = 20,
             .low = -0.8,
             .high = 0.8},
            floats),
      unary({.name = "acos",
             .onnx = "Acos",
             .summary = "inverse cosine",
             .partials = d1<[](Point p) { return -call("rsqrt", (1 - p.x) * (1 + p.x)); }>,
             .unbounded_derivative = true,
             .scalar = as<L::acos>,
             .cost = 20,
             .low = -0.8,
             .high = 0.8},
            floats),
      unary({.name = "atan",
             .onnx = "Atan",
             .summary = "inverse tangent",
             .partials = d1<[](Point p) { return 1 / (1 + p.x * p.x); }>,
             .scalar = as<L::atan>,
             .cost = 18},
            floats),
      unary({.name = "sinh",
             .onnx = "Sinh",
             .summary = "hyperbolic sine",
             .partials = d1<[](Point p) { return call("cosh", p.x); }>,
             .unbounded_derivative = true,
             .scalar = as<L::sinh>,
             .cost = 16},
            floats),
      unary({.name = "cosh",
             .onnx = "Cosh",
             .summary = "hyperbolic cosine",
             .partials = d1<[](Point p) { return call("sinh", p.x); }>,
             .unbounded_derivative = true,
             .scalar = as<L::cosh>,
             .cost = 16},
            floats),
      unary({.name = "asinh",
             .onnx = "Asinh",
             .summary = "inverse hyperbolic sine",
             .partials = d1<[](Point p) { return call("rsqrt", p.x * p.x + 1); }>,
             .scalar = as<L::asinh>,
             .cost = 20},
            floats),
      unary({.name = "acosh",
             .onnx = "Acosh",
             .summary = "inverse hyperbolic cosine",
             .partials = d1<[](Point p) { return call("rsqrt", (p.x - 1) * (p.x + 1)); }>,
             .unbounded_derivative = true,
             .scalar = as<L::acosh>,
             .cost = 20,
             .low = 1.4,
             .high = 4},
            floats),
      unary({.name = "atanh",
             .onnx = "Atanh",
             .summary = "inverse hyperbolic tangent",
             .partials = d1<[](Point p) { return 1 / ((1 - p.x) * (1 + p.x)); }>,
             .unbounded_derivative = true,
             .scalar = as<L::atanh>,
             .cost = 20,
             .low = -0.8,
             .high = 0.8},
            floats),
  };
}

std::vector<OpInfo> rounding_and_bits() {
  return {
      unary({.name = "floor",
             .onnx = "Floor",
             .summary = "the nearest integer below",
             .zero_gradient = true,
             .scalar = as<L::floor>},
            floats),
      unary({.name = "ceil",
             .onnx = "Ceil",
             .summary = "the nearest integer above",
             .zero_gradient = true,
             .scalar = as<L::ceil>},
            floats),
      unary(
          {.name = "trunc", .summary = "the nearest integer towards 0", .zero_gradient = true, .scalar = as<L::trunc>},
          floats),
      unary({.name = "round",
             .onnx = "Round",
             .summary = "the nearest integer, halves to even",
             .zero_gradient = true,
             .scalar = as<L::round_even>},
            floats),
      unary({.name = "not", .onnx = "Not", .summary = "logical not", .zero_gradient = true, .scalar = as<L::not_>},
            bools),
      unary({.name = "bitwise_not",
             .onnx = "BitwiseNot",
             .summary = "all bits flipped",
             .zero_gradient = true,
             .scalar = as<L::not_>},
            ints),
      unary({.name = "popcount", .summary = "number of set bits", .zero_gradient = true, .scalar = as<L::popcount>},
            ints),
      unary({.name = "is_nan",
             .onnx = "IsNaN",
             .summary = "whether x is a NaN",
             .results = {{"y", "B"}},
             .infer = infer_predicate,
             .zero_gradient = true,
             .scalar = [](loop::Builder& b, const View&, LoopValues x) { return b.op(L::cmp_ne, {x[0], x[0]}); }},
            floats),
      unary({.name = "is_inf",
             .onnx = "IsInf",
             .summary = "whether x is infinite",
             .results = {{"y", "B"}},
             .attrs = {int_attr("detect_negative", 1), int_attr("detect_positive", 1)},
             .infer = infer_predicate,
             .zero_gradient = true,
             .scalar = is_inf_scalar},
            floats),
  };
}

loop::ValueId convert_scalar(loop::Builder& b, const View& n, LoopValues x) {
  std::string mode = attr_string(n.attrs(), "round_mode", "up");
  ScaleRounding rounding = mode == "down"      ? ScaleRounding::down
                           : mode == "nearest" ? ScaleRounding::nearest
                                               : ScaleRounding::up;
  return cast_any(b, x[0], n.in(0).dtype, n.out().dtype, attr_int(n.attrs(), "saturate", 1) != 0, rounding);
}

std::vector<OpInfo> conversions() {
  return {
      unary(
          {.name = "convert",
           .onnx = "Cast",
           .summary = "value conversion: floats round to even, integers wrap, float to integer truncates and saturates "
                      "(NaN: 0)",
           .results = {{"y", "R"}},
           .attrs = {{"to", AttrKind::dtype, true, "the dtype of the result"},
                     int_attr("saturate", 1, "for 8-bit floats"),
                     choice_attr("round_mode", {"up", "down", "nearest"}, "for 8-bit floats")},
           .infer = infer_convert,
           .known_ints =
               [](const View& n) {
                 return dtype_bytes(n.out().dtype) >= 4 && is_int(n.out().dtype) ? known(n, 0) : std::nullopt;
               },
           .linearity = Linearity::each,
           .linear_in = 1,
           .transpose = [](Builder& b, const View& n, std::size_t, ValueId ct) { return b.convert(ct, n.in(0).dtype); },
           .scalar = convert_scalar,
           .samples =
               [] {
                 return std::vector<OpSample>{
                     sample({"f64[2,3]"}, {{"to", DType::f64}}),      sample({"f32[2,3]"}, {{"to", DType::f64}}),
                     sample({"f64[3]"}, {{"to", DType::i32}}, -9, 9), sample({"i32[3]"}, {{"to", DType::f32}}, -9, 9),
                     sample({"f32[]"}, {{"to", DType::boolean}}),     sample({"i64[0,2]"}, {{"to", DType::u8}}),
                     sample({"f32[2,3]"}, {{"to", DType::f8e4m3fn}}), sample({"f8e5m2[2,3]"}, {{"to", DType::f16}}),
                     sample({"f64[5]"}, {{"to", DType::i4}}, -9, 9),  sample({"u2[5]"}, {{"to", DType::f32}}, 0, 3)};
               }},
          any_dtype),
      unary({.name = "bitcast",
             .onnx = "BitCast",
             .summary = "the same bits as another dtype of the same size",
             .results = {{"y", "R"}},
             .attrs = {{"to", AttrKind::dtype, true, "the dtype of the result"}},
             .infer = infer_bitcast,
             .no_gradient = "it reinterprets bits",
             .scalar = bitcast_scalar,
             .samples =
                 [] {
                   return std::vector<OpSample>{sample({"f32[2,3]"}, {{"to", DType::i32}}),
                                                sample({"i64[3]"}, {{"to", DType::f64}})};
                 }},
            computed),
      unary({.name = "StopGradient",
             .onnx = "StopGradient",
             .domain = "ag",
             .summary = "x, through which no gradient passes",
             .known_ints = [](const View& n) { return known(n, 0); },
             .zero_gradient = true,
             .scalar = [](loop::Builder&, const View&, LoopValues x) { return x[0]; }},
            any_dtype),
  };
}

}  // namespace

std::vector<OpInfo> elementwise_unary_ops() {
  std::vector<OpInfo> all;
  for (auto* part : {arithmetic, exponentials, trigonometry, rounding_and_bits, conversions})
    for (OpInfo& o : part()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag

// ONNX's elementwise ops that are more than one primitive: optional bounds, mixed dtypes, any number of operands.
#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

// ---- Clip -------------------------------------------------------------------------------------------------

Types infer_clip(const InferCtx& c) {
  for (std::size_t i = 1; i < c.operand_count(); ++i)
    if (c.has(i) && !c.in(i).elems().is(1) && c.in(i).elems().is_const())
      return c.error(Code::AG2204,
                     fmt::format("the bounds of `Clip` are scalars: {} is {}", operand_name(c, i), c.in(i).str()), {},
                     {i});
  return infer_same(c);
}

std::vector<ValueId> clip(Builder& b, const View& n) {
  Expr y(b, n.operand(0));
  if (n.has(1)) y = max(y, y.with(b.reshape(n.operand(1), {})));
  if (n.has(2)) y = min(y, y.with(b.reshape(n.operand(2), {})));
  return {y};
}

/// The gradient passes inside and at the bounds; a bound gets it where it is the result.
void clip_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  Expr x(b, n.operand(0)), g(b, ct[0]), inside(b, b.scalar_int(DType::boolean, 1));
  Expr below = x, above = x;
  if (n.has(1)) {
    Expr low = x.with(b.reshape(n.operand(1), {}));
    inside = both(inside, x >= low);
    below = x < low;
  }
  if (n.has(2)) {
    Expr high = x.with(b.reshape(n.operand(2), {}));
    inside = both(inside, x <= high);
    above = x > high;
    // Where the bounds cross the upper one is the result.
    if (n.has(1)) {
      Expr crossed = x.with(b.reshape(n.operand(1), {})) > high;
      below = both(below, call("not", crossed));
      above = either(above, crossed);
    }
  }
  grads[0] = select(inside, g, 0);
  auto bound = [&](std::size_t i, Expr hit) {
    if (n.has(i))
      grads[i] = b.reshape(reduce("reduce_sum", select(hit, g, 0), iota_ints(g.type().rank())), Dims(n.in(i).shape));
  };
  bound(1, below);
  bound(2, above);
}

// ---- Mod, Pow, BitShift, CastLike -------------------------------------------------------------------------

/// fmod: the sign of a. Else the sign of b, as Python's %.
std::vector<ValueId> mod(Builder& b, const View& n) {
  Expr x(b, n.operand(0)), y(b, n.operand(1)), r = call("rem", x, y);
  if (attr_int(n.attrs(), "fmod", 0) || is_unsigned_int(x.dtype())) return {r};
  Expr zero = r.lit(0);
  Expr wrong_sign = both(r != zero, (r < zero) != (y < zero));
  return {select(wrong_sign, r + y, r)};
}

/// In the base's dtype; a real exponent of an integer base is computed in f64 and truncated.
std::vector<ValueId> power(Builder& b, const View& n) {
  Expr x(b, n.operand(0)), e(b, n.operand(1));
  if (x.dtype() == e.dtype()) return {call("pow", x, e)};
  if (is_float(x.dtype()) || is_int(e.dtype())) return {call("pow", x, e.to(x.dtype()))};
  return {call("pow", x.to(DType::f64), e.to(DType::f64)).to(x.dtype())};
}

std::vector<ValueId> bit_shift(Builder& b, const View& n) {
  return {b.add_op(attr_string(n.attrs(), "direction", "LEFT") == "LEFT" ? "shift_left" : "shift_right",
                   {n.operand(0), n.operand(1)})};
}

// ---- Any number of operands -------------------------------------------------------------------------------

template <auto combine>
std::vector<ValueId> chain(Builder& b, const View& n) {
  Expr y(b, n.operand(0));
  for (std::size_t i = 1; i < n.operand_count(); ++i) y = combine(y, Expr(b, n.operand(i)));
  return {y};
}
constexpr auto sum = [](Expr a, Expr b) { return a + b; };
constexpr auto larger = [](Expr a, Expr b) { return max(a, b); };
constexpr auto smaller = [](Expr a, Expr b) { return min(a, b); };

std::vector<ValueId> mean_of(Builder& b, const View& n) {
  Expr total(b, chain<sum>(b, n)[0]);
  return {total / static_cast<double>(n.operand_count())};
}

OpInfo variadic(OpInfo o) {
  o = composite(std::move(o));
  o.operands = {{.name = "data", .dtypes = numeric, .variadic = true}};
  o.infer = infer_elementwise;
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,3]", "f64[3]", "f64[2,1]"}), sample({"f32[2]"}),
                                 sample({"f64[]", "f64[2]"})};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> onnx_elementwise_ops() {
  return {
      composite({.name = "Clip",
                 .since = 11,
                 .summary = "min(max(x, low), high); no bound where it is left out",
                 .operands = {{.name = "input", .dtypes = numeric},
                              {.name = "min", .dtypes = numeric, .optional = true},
                              {.name = "max", .dtypes = numeric, .optional = true}},
                 .infer = infer_clip,
                 .decompose = clip,
                 .vjp = clip_vjp,
                 .guards_lanes = true,
                 .samples =
                     [] {
                       return std::vector<OpSample>{sample({"f64[3,4]"}),
                                                    OpSample{{sample_operand("f64[6]"), sample_operand("f64[]", -1, 0),
                                                              sample_operand("f64[]", 0.2, 1)},
                                                             {}},
                                                    sample({"i32[4]", "i32[]"}, {}, -9, 9)};
                     }}),
      composite({.name = "Mod",
                 .since = 10,
                 .summary = "remainder with the sign of b, or with fmod of a",
                 .operands = {{.name = "A", .dtypes = numeric}, {.name = "B", .dtypes = numeric}},
                 .attrs = {int_attr("fmod", 0)},
                 .infer = infer_elementwise,
                 .decompose = mod,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           OpSample{{sample_operand("i32[5]", -9, 9), sample_operand("i32[5]", 1, 5)}, {}},
                           OpSample{{sample_operand("f64[4]", -9, 9), sample_operand("f64[4]", 1, 3)},
                                    {{"fmod", std::int64_t{1}}}}};
                     },
                 .low = 0.4}),
      composite({.name = "Pow",
                 .since = 7,
                 .summary = "x to the power y, in the dtype of x",
                 .operands = {{.name = "X", .dtypes = numeric}, {.name = "Y", .type_var = "E", .dtypes = numeric}},
                 .infer = infer_elementwise,
                 .decompose = power,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           sample({"f64[2,3]", "f64[3]"}, {}, 0.4, 2),
                           OpSample{{sample_operand("f64[3]"), sample_operand("i64[]", 2, 2)}, {}},
                           OpSample{{sample_operand("i32[3]", -3, 3), sample_operand("i32[3]", 0, 4)}, {}}};
                     }}),
      composite({.name = "BitShift",
                 .since = 11,
                 .summary = "x shifted left or right by y bits",
                 .operands = {{.name = "X", .dtypes = ints}, {.name = "Y", .dtypes = ints}},
                 .attrs = {{"direction", AttrKind::string, true, {}, {}, {"LEFT", "RIGHT"}}},
                 .infer = infer_elementwise,
                 .decompose = bit_shift,
                 .zero_gradient = true,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           sample({"u32[3]", "u32[3]"}, {{"direction", std::string("RIGHT")}}, 0, 9),
                           sample({"u8[3]", "u8[]"}, {{"direction", std::string("LEFT")}}, 0, 9)};
                     }}),
      composite({.name = "CastLike",
                 .since = 15,
                 .summary = "converted to the dtype of another value",
                 .operands = {{.name = "input"}, {.name = "target_type", .type_var = "R"}},
                 .results = {{"output", "R"}},
                 .attrs = {int_attr("saturate", 1), choice_attr("round_mode", {"up", "down", "nearest"})},
                 .infer = [](const InferCtx& c) -> Types { return std::vector<Type>{c.in(0).with(c.in(1).dtype)}; },
                 .decompose =
                     [](Builder& b, const View& n) {
                       Attrs a = n.attrs();
                       a.set("to", DType(n.in(1).dtype));
                       return std::vector<ValueId>{b.add_op("convert", {n.operand(0)}, a)};
                     },
                 .samples = [] { return std::vector<OpSample>{sample({"f64[3]", "f32[2]"})}; }}),
      variadic({.name = "Sum", .since = 6, .summary = "the sum of all operands", .decompose = chain<sum>}),
      variadic({.name = "Mean", .since = 6, .summary = "the mean of all operands", .decompose = mean_of}),
      variadic({.name = "Max", .since = 6, .summary = "the largest of all operands", .decompose = chain<larger>}),
      variadic({.name = "Min", .since = 6, .summary = "the smallest of all operands", .decompose = chain<smaller>}),
  };
}

}  // namespace ag

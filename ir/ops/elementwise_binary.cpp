// Elementwise functions of two operands of one dtype. Where max and min tie, each operand gets half the gradient.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

void trap_on_zero(loop::Builder& b, loop::ValueId divisor) {
  loop::ValueId zero = b.op(L::cmp_eq, {divisor, b.constant_int(b.type(divisor).elem, 0)});
  b.trap(zero, static_cast<std::uint32_t>(loop::Trap::integer_division_by_zero));
}

/// div or rem: integers report a zero divisor (and go on with the total operation).
template <L op>
loop::ValueId divide(loop::Builder& b, const View&, LoopValues x) {
  if (!is_float(b.type(x[1]).elem)) trap_on_zero(b, x[1]);
  return b.op(op, x);
}

/// x^e of integers by repeated squaring, wrapping. A negative exponent truncates (0 but for x = 1, -1), and is a
/// division by zero for x = 0.
loop::ValueId integer_power(loop::Builder& b, loop::ValueId x, loop::ValueId e) {
  DType t = b.type(x).elem;
  loop::ValueId zero = b.constant_int(t, 0), one = b.constant_int(t, 1), result = one, square = x;
  for (int bit = 0; bit < static_cast<int>(dtype_bytes(t)) * 8; ++bit) {
    loop::ValueId odd = b.op(L::and_, {b.op(L::shr, {e, b.constant_int(t, bit)}), one});
    result = b.select(b.op(L::cmp_ne, {odd, zero}), b.mul(result, square), result);
    square = b.mul(square, square);
  }
  if (is_unsigned_int(t)) return result;
  loop::ValueId negative = b.op(L::cmp_lt, {e, zero}), minus_one = b.constant_int(t, -1);
  b.trap(b.op(L::and_, {negative, b.op(L::cmp_eq, {x, zero})}),
         static_cast<std::uint32_t>(loop::Trap::integer_division_by_zero));
  // For x = 1 and -1 the bits of a negative exponent give the right answer: only the parity counts.
  loop::ValueId unit = b.op(L::or_, {b.op(L::cmp_eq, {x, one}), b.op(L::cmp_eq, {x, minus_one})});
  return b.select(b.op(L::and_, {negative, b.op(L::not_, {unit})}), zero, result);
}

loop::ValueId power_scalar(loop::Builder& b, const View&, LoopValues x) {
  if (is_float(b.type(x[0]).elem)) return b.op(L::pow, x);
  return integer_power(b, x[0], x[1]);
}

/// d(a^b): b a^(b-1) and a^b log a, with 0 where b = 0, and where a = 0 with b >= 0, as in PyTorch.
void power_partials(Builder& b, const View& n, Grads& d) {
  Expr x(b, n.operand(0)), e(b, n.operand(1)), y(b, n.result());
  if (auto k = b.splat_value(e)) {
    if (*k == 0) return;
    d[0] = *k == 1 ? x.lit(1) : *k == 2 ? 2 * x : *k == 3 ? 3 * call("square", x) : *k * call("pow", x, *k - 1);
    return;
  }
  d[0] = select(e == 0.0, 0, e * call("pow", x, e - 1));
  d[1] = select(both(x == 0.0, e >= 0.0), 0, y * log(select(x == 0.0, 1, x)));
}

template <L op>
loop::ValueId shift(loop::Builder& b, const View&, LoopValues x) {
  return b.op(op, x);
}

template <auto wins>
Expr half_at_ties(Expr a, Expr b) {
  return select(wins(a, b), 1, select(a == b, a.lit(0.5), a.lit(0)));
}

/// v / (a^2 + b^2); 0 at the origin.
Expr over_square(Expr v, Point2 p) {
  Expr square = p.a * p.a + p.b * p.b;
  return select(square == 0.0, 0, v / select(square == 0.0, 1, square));
}
constexpr auto above = [](Expr a, Expr b) { return a > b; };
constexpr auto below = [](Expr a, Expr b) { return a < b; };

std::optional<Dim> divide_known(const Dim& a, const Dim& b) {
  // Sizes are not negative, so truncation is flooring if the divisor is positive.
  if (!b.is_const() || b.value() <= 0 || (a.is_const() && a.value() < 0)) return std::nullopt;
  return floordiv(a, b);
}

std::vector<OpInfo> arithmetic() {
  return {
      binary({.name = "add",
              .onnx = "Add",
              .since = 7,
              .summary = "a + b",
              .known_ints =
                  [](const View& n) {
                    return zip_known(n, [](const Dim& a, const Dim& b) { return std::optional(a + b); });
                  },
              .partials = d2<[](Point2 p) { return p.y.lit(1); }, [](Point2 p) { return p.y.lit(1); }>,
              .scalar = as<L::add>},
             numeric),
      binary({.name = "sub",
              .onnx = "Sub",
              .since = 7,
              .summary = "a - b",
              .known_ints =
                  [](const View& n) {
                    return zip_known(n, [](const Dim& a, const Dim& b) { return std::optional(a - b); });
                  },
              .partials = d2<[](Point2 p) { return p.y.lit(1); }, [](Point2 p) { return p.y.lit(-1); }>,
              .scalar = as<L::sub>},
             numeric),
      binary({.name = "mul",
              .onnx = "Mul",
              .since = 7,
              .summary = "a * b",
              .known_ints =
                  [](const View& n) {
                    return zip_known(n, [](const Dim& a, const Dim& b) { return std::optional(a * b); });
                  },
              .partials = d2<[](Point2 p) { return p.b; }, [](Point2 p) { return p.a; }>,
              .scalar = as<L::mul>},
             numeric),
      binary({.name = "div",
              .onnx = "Div",
              .since = 7,
              .summary = "a / b; integers truncate, and report division by zero",
              .known_ints = [](const View& n) { return zip_known(n, divide_known); },
              .partials = d2<[](Point2 p) { return 1 / p.b; }, [](Point2 p) { return -(p.y / p.b); }>,
              .unbounded_derivative = true,
              .scalar = divide<L::div>,
              .cost = 4,
              .low = 0.4},
             numeric),
      binary({.name = "rem",
              .summary = "remainder of truncated division, with the sign of a (C's fmod and %)",
              .partials = d2<[](Point2 p) { return p.y.lit(1); }, [](Point2 p) { return -call("trunc", p.a / p.b); }>,
              .unbounded_derivative = true,
              .smooth = false,
              .scalar = divide<L::rem>,
              .cost = 8,
              .low = 0.4},
             numeric),
      binary({.name = "pow",
              .summary = "a^b; integers wrap",
              .partials = power_partials,
              .unbounded_derivative = true,
              .scalar = power_scalar,
              .cost = 30,
              .low = 0.4},
             numeric),
      binary({.name = "max",
              .summary = "the larger; a NaN wins, -0 < 0",
              .known_ints =
                  [](const View& n) {
                    return zip_known(n, [](const Dim& a, const Dim& b) { return std::optional(max(a, b)); });
                  },
              .partials = d2<[](Point2 p) { return half_at_ties<above>(p.a, p.b); },
                             [](Point2 p) { return half_at_ties<above>(p.b, p.a); }>,
              .guards_lanes = true,
              .scalar = as<L::max>},
             numeric),
      binary({.name = "min",
              .summary = "the smaller; a NaN wins, -0 < 0",
              .known_ints =
                  [](const View& n) {
                    return zip_known(n, [](const Dim& a, const Dim& b) { return std::optional(min(a, b)); });
                  },
              .partials = d2<[](Point2 p) { return half_at_ties<below>(p.a, p.b); },
                             [](Point2 p) { return half_at_ties<below>(p.b, p.a); }>,
              .guards_lanes = true,
              .scalar = as<L::min>},
             numeric),
      binary(
          {.name = "atan2",
           .summary = "angle of the point (b, a)",
           .partials = d2<[](Point2 p) { return over_square(p.b, p); }, [](Point2 p) { return -over_square(p.a, p); }>,
           .unbounded_derivative = true,
           .scalar = as<L::atan2>,
           .cost = 24,
           .low = 0.4},
          floats),
  };
}

std::vector<OpInfo> logic() {
  return {
      binary({.name = "and",
              .onnx = "And",
              .since = 7,
              .summary = "logical and",
              .zero_gradient = true,
              .scalar = as<L::and_>},
             bools),
      binary({.name = "or",
              .onnx = "Or",
              .since = 7,
              .summary = "logical or",
              .zero_gradient = true,
              .scalar = as<L::or_>},
             bools),
      binary({.name = "xor",
              .onnx = "Xor",
              .since = 7,
              .summary = "logical exclusive or",
              .zero_gradient = true,
              .scalar = as<L::xor_>},
             bools),
      binary({.name = "bitwise_and",
              .onnx = "BitwiseAnd",
              .summary = "bits of both",
              .zero_gradient = true,
              .scalar = as<L::and_>},
             ints),
      binary({.name = "bitwise_or",
              .onnx = "BitwiseOr",
              .summary = "bits of either",
              .zero_gradient = true,
              .scalar = as<L::or_>},
             ints),
      binary({.name = "bitwise_xor",
              .onnx = "BitwiseXor",
              .summary = "bits of one alone",
              .zero_gradient = true,
              .scalar = as<L::xor_>},
             ints),
      binary({.name = "shift_left",
              .summary = "a * 2^b; 0 if b is not in [0, bits)",
              .zero_gradient = true,
              .scalar = shift<L::shl>},
             ints),
      binary({.name = "shift_right",
              .summary = "a / 2^b rounded down; 0 (or -1) if b is not in [0, bits)",
              .zero_gradient = true,
              .scalar = shift<L::shr>},
             ints),
  };
}

}  // namespace

std::vector<OpInfo> elementwise_binary_ops() {
  std::vector<OpInfo> all = arithmetic();
  for (OpInfo& o : logic()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag

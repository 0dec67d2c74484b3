// The semantics table of ir/loop/kernel.hpp, row by row, against models written another way (128-bit integers,
// long double), over all element types.
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>

#include "ir/loop/elementwise.hpp"
#include "ir/loop/interp.hpp"

using namespace ag;
using namespace ag::loop;

namespace {

using Wide = __int128;
constexpr DType all_types[] = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32,    DType::i16,
                               DType::i8,  DType::u64, DType::u32, DType::u16,  DType::u8,  DType::boolean};

int bits_of(DType t) { return static_cast<int>(dtype_bytes(t)) * 8; }
Wide lowest(DType t) { return is_signed_int(t) ? -(Wide(1) << (bits_of(t) - 1)) : 0; }
Wide highest(DType t) { return t == DType::boolean ? 1 : (Wide(1) << (bits_of(t) - (is_signed_int(t) ? 1 : 0))) - 1; }
Wide value(DType t, std::uint64_t bits) {
  Wide v = bits;
  return is_signed_int(t) && v > highest(t) ? v - (Wide(1) << bits_of(t)) : v;
}
std::uint64_t wrap(DType t, Wide v) {
  return static_cast<std::uint64_t>(v) & (bits_of(t) == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits_of(t)) - 1);
}
std::vector<std::uint64_t> integers(DType t) {
  std::vector<std::uint64_t> out;
  for (Wide base : {Wide(0), lowest(t), highest(t), highest(t) / 2, highest(t) / 3})
    for (int d = -3; d <= 3; ++d) out.push_back(wrap(t, base + d));
  for (int i = 1; i < bits_of(t); i += 3) out.push_back(wrap(t, Wide(1) << i));
  return out;
}
std::uint64_t eval(Op op, DType result, DType operand, std::initializer_list<std::uint64_t> in) {
  return eval_scalar(op, result, operand, std::span(in.begin(), in.size()));
}

std::vector<std::uint64_t> floats(DType t) {
  std::vector<std::uint64_t> out;
  for (double d : {0.0,    1.0,     1.5,     2.5,     0.5,   3.7,          127.5,        128.0,        255.5,
                   256.0,  32767.5, 65504.0, 65535.5, 1e5,   2147483647.5, 2147483648.0, 4294967296.0, 9.3e18,
                   1.9e19, 1e38,    1e300,   1e-7,    1e-40, 1e-310,       HUGE_VAL,     std::nan("")})
    for (double s : {1.0, -1.0}) out.push_back(constant_bits(t, s * d));
  return out;
}
bool is_nan(DType t, std::uint64_t b) { return std::isnan(bits_to_double(t, b)); }

}  // namespace

TEST_CASE("integers wrap, division has no traps, shifts have no undefined counts") {
  const std::pair<Op, std::function<Wide(DType, Wide, Wide)>> table[] = {
      {Op::add, [](DType, Wide a, Wide b) { return a + b; }},
      {Op::sub, [](DType, Wide a, Wide b) { return a - b; }},
      {Op::mul,
       [](DType, Wide a, Wide b) {
         return static_cast<Wide>(static_cast<unsigned __int128>(a) * static_cast<unsigned __int128>(b));
       }},
      {Op::div, [](DType, Wide a, Wide b) { return b == 0 ? 0 : a / b; }},
      {Op::rem, [](DType, Wide a, Wide b) { return b == 0 ? a : a % b; }},
      {Op::min, [](DType, Wide a, Wide b) { return a < b ? a : b; }},
      {Op::max, [](DType, Wide a, Wide b) { return a > b ? a : b; }},
      {Op::and_, [](DType, Wide a, Wide b) { return a & b; }},
      {Op::or_, [](DType, Wide a, Wide b) { return a | b; }},
      {Op::xor_, [](DType, Wide a, Wide b) { return a ^ b; }},
      {Op::shl,
       [](DType t, Wide a, Wide n) { return n < 0 || n >= bits_of(t) ? 0 : a * (Wide(1) << static_cast<int>(n)); }},
      {Op::shr,
       [](DType t, Wide a, Wide n) { return n < 0 || n >= bits_of(t) ? (a < 0 ? -1 : 0) : a >> static_cast<int>(n); }},
  };
  for (DType t : all_types) {
    if (!is_int(t)) continue;
    for (auto& [op, model] : table)
      for (auto a : integers(t))
        for (auto b : integers(t)) {
          std::uint64_t got = eval(op, t, t, {a, b}), want = wrap(t, model(t, value(t, a), value(t, b)));
          if (got != want) {
            CAPTURE(describe(op).name, dtype_name(t), a, b, got, want);
            REQUIRE(got == want);
          }
        }
    for (auto a : integers(t)) {
      Wide v = value(t, a);
      REQUIRE(eval(Op::neg, t, t, {a}) == wrap(t, -v));
      REQUIRE(eval(Op::abs, t, t, {a}) == wrap(t, v < 0 ? -v : v));
      REQUIRE(eval(Op::not_, t, t, {a}) == wrap(t, ~v));
      REQUIRE(eval(Op::popcount, t, t, {a}) == static_cast<std::uint64_t>(__builtin_popcountll(a)));
      for (auto b : integers(t)) {
        Wide w = value(t, b);
        REQUIRE(eval(Op::cmp_lt, DType::boolean, t, {a, b}) == (v < w));
        REQUIRE(eval(Op::cmp_ge, DType::boolean, t, {a, b}) == (v >= w));
        REQUIRE(eval(Op::cmp_eq, DType::boolean, t, {a, b}) == (v == w));
      }
    }
  }
  for (auto a : integers(DType::u64))
    for (auto b : integers(DType::u64))
      REQUIRE(eval(Op::mulhi, DType::u64, DType::u64, {a, b}) ==
              static_cast<std::uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64));
}

TEST_CASE("casts saturate, wrap, and round once") {
  for (DType from : all_types)
    for (DType to : all_types) {
      CAPTURE(dtype_name(from), dtype_name(to));
      for (std::uint64_t a : is_float(from) ? floats(from) : integers(from == DType::boolean ? DType::u8 : from)) {
        if (from == DType::boolean) a &= 1;
        std::uint64_t got = eval(Op::cast, to, from, {a});
        CAPTURE(a, got);
        if (is_float(from)) {
          double d = bits_to_double(from, a);
          if (to == DType::boolean)
            REQUIRE(got == (d != 0));
          else if (is_float(to) && std::isnan(d))
            REQUIRE(is_nan(to, got));
          else if (is_float(to))
            REQUIRE(got == constant_bits(to, d));
          else if (std::isnan(d))
            REQUIRE(got == 0);
          else {
            long double x = std::trunc(static_cast<long double>(d)), lo = static_cast<long double>(lowest(to)),
                        hi = static_cast<long double>(highest(to));
            REQUIRE(got == wrap(to, x < lo ? lowest(to) : x > hi ? highest(to) : static_cast<Wide>(x)));
          }
        } else {
          Wide v = value(from, a);
          if (to == DType::boolean)
            REQUIRE(got == (v != 0));
          else if (!is_float(to))
            REQUIRE(got == wrap(to, v));
          else {
            // Nearest: no neighbour is closer, and on a tie the significand is even. 80-bit floats hold any i64
            // exactly.
            auto distance = [&](std::uint64_t bits) {
              double d = bits_to_double(to, bits);
              return std::isinf(d) ? HUGE_VALL : std::fabs(static_cast<long double>(d) - static_cast<long double>(v));
            };
            if (std::isinf(bits_to_double(to, got))) {
              REQUIRE(std::fabs(static_cast<long double>(v)) >= 65520);
              REQUIRE(to == DType::f16);
            } else if (v == 0) {
              REQUIRE(got == 0);
            } else {
              REQUIRE(distance(got) <= distance(got + 1));
              REQUIRE(distance(got) <= distance(got - 1));
              if (distance(got) == distance(got + 1) || distance(got) == distance(got - 1)) REQUIRE(got % 2 == 0);
            }
          }
        }
      }
    }
}

TEST_CASE("floats: NaN, signed zeros, one rounding to 16 bits") {
  for (DType t : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    CAPTURE(dtype_name(t));
    for (auto a : floats(t))
      for (auto b : floats(t)) {
        double x = bits_to_double(t, a), y = bits_to_double(t, b);
        CAPTURE(x, y);
        const bool nan = std::isnan(x) || std::isnan(y);
        auto lo = eval(Op::min, t, t, {a, b}), hi = eval(Op::max, t, t, {a, b});
        REQUIRE(is_nan(t, lo) == nan);
        REQUIRE(is_nan(t, hi) == nan);
        if (!nan) {
          bool first = x < y || (x == y && std::signbit(x));
          REQUIRE(lo == (first ? a : b));
          REQUIRE(hi == (first ? b : a));
        }
        REQUIRE(eval(Op::cmp_ne, DType::boolean, t, {a, b}) == (nan || x != y));
        REQUIRE(eval(Op::cmp_le, DType::boolean, t, {a, b}) == (!nan && x <= y));
        if (t == DType::f16 || t == DType::bf16) {
          // A sum of two f16 or bf16 in f64 is exact or so far apart that f32 rounds alike: rounded once from f32.
          float s = static_cast<float>(x) + static_cast<float>(y);
          auto got = eval(Op::add, t, t, {a, b});
          if (std::isnan(s))
            REQUIRE(is_nan(t, got));
          else
            REQUIRE(got == constant_bits(t, static_cast<double>(s)));
        }
        REQUIRE(eval(Op::select, t, t, {1, a, b}) == a);
        REQUIRE(eval(Op::select, t, t, {0, a, b}) == b);
        auto copied = eval(Op::copysign, t, t, {a, b});
        REQUIRE((copied ^ b) >> (bits_of(t) - 1) == 0);
      }
    REQUIRE(bits_to_double(t, eval(Op::round_even, t, t, {constant_bits(t, 2.5)})) == 2);
    REQUIRE(bits_to_double(t, eval(Op::round_even, t, t, {constant_bits(t, 3.5)})) == 4);
    REQUIRE(std::signbit(bits_to_double(t, eval(Op::neg, t, t, {constant_bits(t, 0.0)}))));
  }
  // ldexp rounds once: 2^-149 * 1.5 * 2^... into the subnormals.
  auto ldexp32 = [](float x, std::int32_t k) {
    std::uint64_t b =
        eval(Op::ldexp, DType::f32, DType::f32, {constant_bits(DType::f32, x), static_cast<std::uint32_t>(k)});
    return bits_to_double(DType::f32, b);
  };
  for (float x : {1.0f, 1.25f, 1.4142135f, 1.9999999f, -1.3333334f})
    for (int k = -252; k <= 254; ++k) REQUIRE(ldexp32(x, k) == static_cast<double>(std::ldexp(x, k)));
}

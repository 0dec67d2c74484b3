#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>

#include "tests/math/reference.hpp"

using namespace ag;
using namespace ag::test;
using loop::Op;

namespace {

template <class T, class F>
void check(Op op, DType t, const std::vector<T>& x, const std::vector<T>& y, double limit, F&& reference) {
  auto got = apply(op, t, x, y);
  double worst = 0;
  std::size_t at = 0, wrong_zero = 0, zero_at = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    auto want = reference(i);
    double e = ulp_error<T>(got[i], want);
    if (e > worst) worst = e, at = i;
    if (want == 0 && got[i] == 0 && std::signbit(want) != std::signbit(got[i])) ++wrong_zero, zero_at = i;
  }
  CAPTURE(describe(op).name, dtype_name(t), worst, x[at], got[at], static_cast<double>(reference(at)), x[zero_at]);
  const double y_at = y.empty() ? 0 : y[at], y_zero = y.empty() ? 0 : y[zero_at];
  CAPTURE(y_at, y_zero);
  CHECK(worst <= limit);
  CHECK(wrong_zero == 0);
  if (std::getenv("AG_MATH_REPORT"))
    std::printf("%-8s %s worst %.3f ulp at %.17g\n", std::string(describe(op).name).c_str(),
                std::string(dtype_name(t)).c_str(), worst, double(x[at]));
}

const std::vector<double> special = {
    0.0,          -0.0,      1,          -1,         2,           -2,     3,          -3,       0.5,
    -0.5,         1.5,       -1.5,       1e30,       -1e30,       1e-30,  -1e-30,     1e300,    -1e300,
    1e-310,       0x1p53,    0x1p53 + 2, 0x1p52 + 1, -0x1p52 - 1, 0x1p24, 0x1p23 + 1, HUGE_VAL, -HUGE_VAL,
    std::nan(""), 0.9999999, 1.0000001,  127,        128,         1023,   1024,       1e-45,    3.4e38};
template <class T>
std::pair<std::vector<T>, std::vector<T>> pairs(bool positive) {
  std::pair<std::vector<T>, std::vector<T>> out;
  for (double a : special)
    for (double b : special) out.first.push_back(static_cast<T>(a)), out.second.push_back(static_cast<T>(b));
  std::uint64_t state = 88172645463325252;
  auto uniform = [&state] {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<double>(state >> 11) * 0x1p-53;
  };
  const double range = sizeof(T) == 8 ? 1000 : 120;
  for (int i = 0; i < 200000; ++i) {
    // Powers of all sizes: log2(x) in +-range, y such that the result stays finite, or close to the edges.
    double l = (uniform() * 2 - 1) * (i % 3 == 0 ? range : i % 3 == 1 ? 4 : 0.01);
    double x = std::exp2(l), y = positive ? (uniform() * 2 - 1) * range * 1.1 / (std::fabs(l) + 1e-3)
                                          : std::exp2((uniform() * 2 - 1) * range * 0.9);
    if (!positive && uniform() < 0.5) x = -x;
    if (!positive && uniform() < 0.5) y = -y;
    if (!positive && i % 2) y = x * (uniform() * 6 - 3);
    out.first.push_back(static_cast<T>(x)), out.second.push_back(static_cast<T>(y));
  }
  return out;
}

}  // namespace

TEST_CASE("f32 functions are within their bound on every 4099th pattern") {
  auto x = floats(4099);
  for (const Function& f : functions())
    check<float>(f.op, DType::f32, x, {}, f.max_ulp_f32, [&](std::size_t i) { return f.f(x[i]); });
}

TEST_CASE("f64 functions are within their bound on stratified samples") {
  auto x = doubles(20);
  for (const Function& f : functions())
    check<double>(f.op, DType::f64, x, {}, f.max_ulp_f64, [&](std::size_t i) { return f.fl(x[i]); });
}

TEST_CASE("pow and atan2") {
  auto check_both = [](auto element, DType t, double limit) {
    using T = decltype(element);
    using W = Wide<T>;
    auto [px, py] = pairs<T>(true);
    check<T>(Op::pow, t, px, py, limit, [&](std::size_t i) { return std::pow(W(px[i]), W(py[i])); });
    auto [ay, ax] = pairs<T>(false);
    check<T>(Op::atan2, t, ay, ax, limit, [&](std::size_t i) { return std::atan2(W(ay[i]), W(ax[i])); });
  };
  check_both(float{}, DType::f32, 2);
  check_both(double{}, DType::f64, 4);
}

TEST_CASE("special values") {
  const double inf = HUGE_VAL;
  auto one = [](Op op, double x) { return apply<double>(op, DType::f64, {x})[0]; };
  auto onef = [](Op op, float x) { return apply<float>(op, DType::f32, {x})[0]; };
  CHECK(one(Op::exp, -inf) == 0);
  CHECK(onef(Op::exp, -HUGE_VALF) == 0);
  CHECK(onef(Op::exp, HUGE_VALF) == HUGE_VALF);
  CHECK(onef(Op::exp, -103.0f) > 0);  // subnormal
  CHECK(onef(Op::log, 0.0f) == -HUGE_VALF);
  CHECK(std::isnan(onef(Op::log, -1.0f)));
  CHECK(onef(Op::log2, 8.0f) == 3.0f);
  CHECK(one(Op::exp2, 10) == 1024);
  CHECK(onef(Op::rsqrt, -0.0f) == -HUGE_VALF);
  CHECK(std::isnan(onef(Op::sin, HUGE_VALF)));
  for (const Function& f : functions()) {
    CAPTURE(describe(f.op).name);
    CHECK(std::isnan(one(f.op, std::nan(""))));
    CHECK(std::isnan(onef(f.op, std::nanf(""))));
  }
}

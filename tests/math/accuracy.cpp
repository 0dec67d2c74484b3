#include <atomic>
#include <bit>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "ir/builder.hpp"
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

namespace {

/// The largest error over many inputs, found on all cores in pieces.
template <class T>
struct Worst {
  double ulp = 0;
  T x = 0, y = 0;
};
template <class T, class Input, class Error>
Worst<T> worst_of(std::uint64_t count, Input input, Error error) {
  const std::uint64_t piece = 1 << 14;
  std::atomic<std::uint64_t> next{0};
  std::mutex mutex;
  Worst<T> worst;
  auto work = [&] {
    std::vector<T> x, y;
    for (std::uint64_t at; (at = next.fetch_add(piece)) < count;) {
      x.clear(), y.clear();
      for (std::uint64_t i = at; i < std::min(at + piece, count); ++i) input(i, x, y);
      const std::vector<double> errors = error(x, y);
      const auto largest = static_cast<std::size_t>(std::max_element(errors.begin(), errors.end()) - errors.begin());
      std::lock_guard lock(mutex);
      if (errors[largest] > worst.ulp) worst = {errors[largest], x[largest], y.empty() ? T(0) : y[largest]};
    }
  };
  std::vector<std::thread> threads;
  for (unsigned t = 1; t < std::thread::hardware_concurrency(); ++t) threads.emplace_back(work);
  work();
  for (auto& t : threads) t.join();
  return worst;
}

template <class T, class Reference>
std::vector<double> errors_of(Op op, DType t, const std::vector<T>& x, const std::vector<T>& y, Reference reference) {
  const auto got = apply(op, t, x, y);
  std::vector<double> out;
  for (std::size_t i = 0; i < x.size(); ++i) out.push_back(ulp_error<T>(got[i], reference(i)));
  return out;
}

template <class T>
void expect(std::string_view name, const Worst<T>& worst, double limit) {
  CAPTURE(name, sizeof(T), worst.ulp, worst.x, worst.y);
  CHECK(worst.ulp <= limit);
  if (std::getenv("AG_MATH_REPORT"))
    std::printf("%-8s f%zu worst %.3f ulp at %.17g %.17g\n", std::string(name).c_str(), 8 * sizeof(T), worst.ulp,
                double(worst.x), double(worst.y));
}

std::uint64_t random_bits(std::uint64_t i) {  // splitmix64
  std::uint64_t x = (i + 1) * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// Number i of `count`: half of them spread over all exponents, half over those around 1.
double stratified(std::uint64_t i, std::uint64_t count) {
  const std::uint64_t e = i % 2 ? i * 2047 / count : 1023 - 30 + i / 2 % 45;
  return std::bit_cast<double>((random_bits(i) & 0x800fffffffffffff) | e << 52);
}

void every_float(const Function& f, std::uint64_t stride) {
  const auto worst =
      worst_of<float>(((std::uint64_t{1} << 32) + stride - 1) / stride,
                      [&](std::uint64_t i, auto& x, auto&) {
                        x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(i * stride)));
                      },
                      [&](const auto& x, const auto& y) {
                        return errors_of(f.op, DType::f32, x, y, [&](std::size_t i) { return f.f(x[i]); });
                      });
  expect(describe(f.op).name, worst, f.max_ulp_f32);
}

void many_doubles(const Function& f, std::uint64_t count) {
  const auto worst = worst_of<double>(
      count, [&](std::uint64_t i, auto& x, auto&) { x.push_back(stratified(i, count)); },
      [&](const auto& x, const auto& y) {
        return errors_of(f.op, DType::f64, x, y, [&](std::size_t i) { return f.fl(x[i]); });
      });
  expect(describe(f.op).name, worst, f.max_ulp_f64);
}

/// Powers of all sizes: log2(x) in +-range, y such that the result stays finite, or goes just beyond.
template <class T>
void many_powers(std::uint64_t count, double limit) {
  using W = Wide<T>;
  const double range = sizeof(T) == 8 ? 1000 : 120;
  const auto worst = worst_of<T>(
      count,
      [&](std::uint64_t i, auto& x, auto& y) {
        auto uniform = [](std::uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-52 - 1; };
        const double l = uniform(random_bits(2 * i)) * (i % 3 == 0 ? range : i % 3 == 1 ? 4 : 0.01);
        x.push_back(static_cast<T>(std::exp2(l)));
        y.push_back(static_cast<T>(uniform(random_bits(2 * i + 1)) * range * 1.1 / (std::fabs(l) + 1e-3)));
      },
      [&](const auto& x, const auto& y) {
        const DType t = sizeof(T) == 8 ? DType::f64 : DType::f32;
        return errors_of(Op::pow, t, x, y, [&](std::size_t i) { return std::pow(W(x[i]), W(y[i])); });
      });
  expect("pow", worst, limit);
}

}  // namespace

TEST_CASE("f32 functions are within their bound: every 257th pattern of the common ones, every 4099th of the others") {
  for (const Function& f : functions()) every_float(f, f.everywhere ? 257 : 4099);
}

TEST_CASE("f32 functions are within their bound where they change their ways") {
  auto x = floats(65537);
  for (const Function& f : functions())
    check<float>(f.op, DType::f32, x, {}, f.max_ulp_f32, [&](std::size_t i) { return f.f(x[i]); });
}

TEST_CASE("f64 functions and pow are within their bound on stratified samples") {
  for (const Function& f : functions()) many_doubles(f, 1 << 17);
  many_powers<double>(1 << 17, 2);
  many_powers<float>(1 << 17, 2);
}

// Minutes: ag_test_math "[full]". With AG_MATH_REPORT set it prints the worst cases.
TEST_CASE("f64 functions and pow are within their bound on 2^24 samples", "[.][full]") {
  for (const Function& f : functions()) many_doubles(f, 1 << 24);
  many_powers<double>(1 << 24, 2);
  many_powers<float>(1 << 24, 2);
}

TEST_CASE("f64 functions are within their bound where they change their ways") {
  auto x = doubles(2);
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
    check<T>(Op::atan2, t, ay, ax, limit + (sizeof(T) == 8),
             [&](std::size_t i) { return std::atan2(W(ay[i]), W(ax[i])); });
  };
  check_both(float{}, DType::f32, 2);
  check_both(double{}, DType::f64, 2);
}

TEST_CASE("gelu is within 2 ulp of its argument on every 257th pattern") {
  Graph g;
  GraphBuilder b(g);
  const std::int64_t piece = 1 << 16;
  const ValueId x = b.input("x", Type{DType::f32, {Dim(piece)}});
  g.outputs.push_back({"y", b.add_op("Gelu", {x}), {}});
  double worst = 0;
  float at = 0;
  for (std::uint64_t first = 0; first < std::uint64_t{1} << 32; first += 257 * piece) {
    Array in(DType::f32, {piece});
    for (std::int64_t i = 0; i < piece; ++i)
      in.as_mutable<float>()[static_cast<std::size_t>(i)] =
          std::bit_cast<float>(static_cast<std::uint32_t>(first + static_cast<std::uint64_t>(i) * 257));
    const auto out = interpret(g, {{in}});
    REQUIRE(out);
    for (std::size_t i = 0; i < static_cast<std::size_t>(piece); ++i) {
      const float v = in.as<float>()[i], got = out->at(0).as<float>()[i];
      const double want = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
      if (!std::isfinite(v)) continue;
      const int e = v == 0 ? -125 : std::max(std::ilogb(v) + 1, -125);
      const double error = std::isnan(got) ? 1e30 : std::ldexp(std::fabs(got - want), 24 - e);
      if (error > worst) worst = error, at = v;
    }
  }
  CAPTURE(worst, at);
  CHECK(worst <= 2);
}

TEST_CASE("tanh and erf stay within [-1, 1], also where they round to 1") {
  for (std::uint64_t i = 0; i < 200'000; ++i) {
    const double x = 15 + 10 * static_cast<double>(i) / 200'000;
    for (Op op : {Op::tanh, Op::erf}) {
      REQUIRE(apply<double>(op, DType::f64, {x})[0] <= 1);
      REQUIRE(apply<float>(op, DType::f32, {static_cast<float>(x - 12)})[0] <= 1);
    }
  }
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

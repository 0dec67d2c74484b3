// Values of elementwise ops against the C++ library, special values included.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>

#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity(), not_a_number = std::numeric_limits<double>::quiet_NaN();

std::vector<double> run1(std::string_view op_name, DType t, const std::vector<double>& x) {
  Graph g;
  GraphBuilder b(g);
  std::vector<std::int64_t> shape{static_cast<std::int64_t>(x.size())};
  ValueId y = b.add_op(op_name, {b.input("x", {t, {shape[0]}})});
  g.outputs.push_back({"y", y, {}});
  auto out = interpret(g, std::vector<Array>{Array::of<double>(t, shape, x)});
  REQUIRE(out);
  std::vector<double> r;
  for (std::int64_t i = 0; i < shape[0]; ++i) r.push_back((*out)[0].get_double(i));
  return r;
}

double run2(std::string_view op_name, DType t, double a, double c) {
  Graph g;
  GraphBuilder b(g);
  ValueId y = b.add_op(op_name, {b.input("a", {t, {}}), b.input("c", {t, {}})});
  g.outputs.push_back({"y", y, {}});
  auto out = interpret(g, std::vector<Array>{Array::scalar(t, a), Array::scalar(t, c)});
  REQUIRE(out);
  return (*out)[0].get_double(0);
}

bool close(double got, double want, double rel) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want) || want == 0) return got == want;
  return std::fabs(got - want) <= rel * std::fabs(want);
}

double round_to(DType t, double v) { return Array::scalar(t, v).get_double(0); }

}  // namespace

TEST_CASE("functions of one operand agree with the C++ library") {
  const std::map<std::string_view, double (*)(double)> reference = {
      {"neg", [](double x) { return -x; }},
      {"abs", std::fabs},
      {"exp", std::exp},
      {"exp2", std::exp2},
      {"expm1", std::expm1},
      {"log", std::log},
      {"log2", std::log2},
      {"log1p", std::log1p},
      {"sqrt", std::sqrt},
      {"rsqrt", [](double x) { return 1 / std::sqrt(x); }},
      {"sin", std::sin},
      {"cos", std::cos},
      {"tan", std::tan},
      {"asin", std::asin},
      {"acos", std::acos},
      {"atan", std::atan},
      {"sinh", std::sinh},
      {"cosh", std::cosh},
      {"asinh", std::asinh},
      {"acosh", std::acosh},
      {"atanh", std::atanh},
      {"tanh", std::tanh},
      {"erf", std::erf},
      {"erfc", std::erfc},
      {"sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }},
      {"cbrt", std::cbrt},
      {"reciprocal", [](double x) { return 1 / x; }},
      {"floor", std::floor},
      {"ceil", std::ceil},
      {"trunc", std::trunc},
      {"round", std::nearbyint},
      {"square", [](double x) { return x * x; }},
      {"sign", [](double x) { return x > 0   ? 1.0
                                     : x < 0 ? -1.0
                                             : x; }},
      {"is_nan", [](double x) { return std::isnan(x) ? 1.0 : 0.0; }},
      {"is_inf", [](double x) { return std::isinf(x) ? 1.0 : 0.0; }}};
  const std::vector<double> points = {0.0,  -0.0,  1,     -1,     0.5, -0.5, 2.5, -2.5, 1.5,
                                      3.75, -3.75, 0.001, -0.001, 9,   -9,   inf, -inf, not_a_number};
  for (DType t : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    double rel = t == DType::f64 ? 4e-15 : t == DType::f32 ? 2e-6 : t == DType::f16 ? 2e-3 : 1.6e-2;
    for (const auto& [name, f] : reference) {
      std::vector<double> x;
      for (double p : points) x.push_back(round_to(t, p));
      std::vector<double> got = run1(name, t, x);
      for (std::size_t i = 0; i < x.size(); ++i) {
        double want = round_to(t, f(x[i]));
        CAPTURE(name, dtype_name(t), x[i], got[i], want);
        CHECK((close(got[i], want, rel) || std::fabs(got[i] - want) < 1e-300));
        if (want == 0 && name != "tan") CHECK(std::signbit(got[i]) == std::signbit(want));
      }
    }
  }
}

TEST_CASE("max and min: a NaN wins, -0 is below 0") {
  for (DType t : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    CHECK(std::isnan(run2("max", t, not_a_number, 1)));
    CHECK(std::isnan(run2("min", t, 1, not_a_number)));
    CHECK(!std::signbit(run2("max", t, -0.0, 0.0)));
    CHECK(std::signbit(run2("min", t, 0.0, -0.0)));
    CHECK(run2("max", t, -inf, 2) == 2);
  }
}

TEST_CASE("integer division truncates; by zero it is an error") {
  CHECK(run2("div", DType::i32, -7, 2) == -3);
  CHECK(run2("rem", DType::i32, -7, 2) == -1);
  CHECK(run2("div", DType::i8, -128, -1) == -128);
  for (const char* name : {"div", "rem"}) {
    Graph g;
    GraphBuilder b(g);
    g.outputs.push_back({"y", b.add_op(name, {b.input("a", {DType::i32, {}}), b.input("c", {DType::i32, {}})}), {}});
    auto out = interpret(g, std::vector<Array>{Array::scalar(DType::i32, 1), Array::scalar(DType::i32, 0)});
    REQUIRE(!out);
    CHECK(out.error()[0].message.find("zero") != std::string::npos);
  }
}

TEST_CASE("powers of integers") {
  for (auto [x, e, want] :
       {std::tuple(3, 4, 81), {-2, 3, -8}, {2, 0, 1}, {0, 0, 1}, {2, -1, 0}, {-1, -3, -1}, {1, -5, 1}, {7, 1, 7}})
    CHECK(run2("pow", DType::i32, x, e) == want);
  CHECK(run2("pow", DType::u8, 2, 8) == 0);
}

TEST_CASE("shifts outside the width") {
  CHECK(run2("shift_left", DType::i32, 1, 31) == -2147483648.0);
  CHECK(run2("shift_left", DType::u32, 1, 32) == 0);
  CHECK(run2("shift_right", DType::i32, -8, 1) == -4);
  CHECK(run2("shift_right", DType::i32, -8, 40) == -1);
}

TEST_CASE("conversions saturate, NaN gives 0") {
  auto convert = [](DType from, double x, DType to) {
    Graph g;
    GraphBuilder b(g);
    g.outputs.push_back({"y", b.convert(b.input("x", {from, {}}), to), {}});
    auto out = interpret(g, std::vector<Array>{Array::scalar(from, x)});
    REQUIRE(out);
    return (*out)[0].get_double(0);
  };
  CHECK(convert(DType::f32, 1e10, DType::i32) == 2147483647.0);
  CHECK(convert(DType::f32, -1, DType::u8) == 0);
  CHECK(convert(DType::f64, not_a_number, DType::i64) == 0);
  CHECK(convert(DType::f64, -2.9, DType::i8) == -2);
  CHECK(convert(DType::f32, not_a_number, DType::boolean) == 1);
  CHECK(convert(DType::i32, 300, DType::u8) == 44);
  CHECK(convert(DType::f64, 65520, DType::f16) == inf);
}

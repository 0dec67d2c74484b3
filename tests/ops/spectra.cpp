// Fourier transforms of every kind of size against the definition, and linear systems.
#include <catch2/catch.hpp>
#include <complex>
#include <numbers>

#include "tests/ops/lowered.hpp"

using namespace ag;
using namespace ag::test;

namespace {

using Complex = std::complex<double>;

std::vector<Complex> by_definition(const std::vector<Complex>& x, int sign) {
  const std::size_t n = x.size();
  std::vector<Complex> y(n);
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t j = 0; j < n; ++j)
      y[k] +=
          x[j] * std::polar(1.0, sign * 2 * std::numbers::pi * static_cast<double>(j * k % n) / static_cast<double>(n));
  return y;
}

}  // namespace

TEST_CASE("transforms of composite, prime, large prime and symbolic sizes") {
  for (std::int64_t n : {1, 2, 7, 12, 32, 37, 64, 97, 131, 210, 262, 1024, 1031}) {
    for (bool symbolic : {false, true}) {
      if (symbolic && n > 300) continue;
      INFO("size " << n << (symbolic ? " symbolic" : ""));
      Graph g;
      GraphBuilder b(g);
      Dim size = symbolic ? Dim::symbol("N") : Dim(n);
      ValueId x = b.input("x", {DType::f64, {size, 2}});
      ValueId axis = b.ints(std::vector<std::int64_t>{0});
      g.outputs = {{"y", b.add_op("DFT", {x, ValueId{}, axis}), {}},
                   {"z", b.add_op("DFT", {x, ValueId{}, axis}, {{"inverse", std::int64_t{1}}}), {}}};
      Random random("dft" + std::to_string(n));
      Array in = random_array({DType::f64, {n, 2}}, -1, 1, random);
      auto got = interpret(g, std::vector<Array>{in});
      if (!got) FAIL(messages(got.error()));
      std::vector<Complex> signal;
      for (std::int64_t i = 0; i < n; ++i) signal.emplace_back(in.get_double(2 * i), in.get_double(2 * i + 1));
      for (int way : {0, 1}) {
        auto want = by_definition(signal, way ? 1 : -1);
        double worst = 0;
        for (std::int64_t i = 0; i < n; ++i) {
          Complex have((*got)[way].get_double(2 * i), (*got)[way].get_double(2 * i + 1));
          worst = std::max(worst, std::abs(have - want[static_cast<std::size_t>(i)] / (way ? double(n) : 1.0)));
        }
        CHECK(worst < 1e-11 * std::sqrt(static_cast<double>(n)) + 1e-12);
      }
    }
  }
}

TEST_CASE("determinants and solutions of systems") {
  Graph g;
  GraphBuilder b(g);
  ValueId a = b.input("a", {DType::f64, {3, 3}}), r = b.input("r", {DType::f64, {3, 1}});
  g.outputs = {{"det", b.add_op("Det", {a}), {}}, {"x", b.add_op("linear_solve", {a, r}), {}}};
  std::vector<Array> in{Array::of<double>(DType::f64, {3, 3}, std::vector<double>{0, 2, 1, 1, 1, 1, 2, 0, 3}),
                        Array::of<double>(DType::f64, {3, 1}, std::vector<double>{7, 6, 11})};
  auto out = interpret(g, in);
  REQUIRE(out);
  CHECK((*out)[0].get_double(0) == Approx(-4));
  for (std::int64_t i = 0; i < 3; ++i)
    CHECK((*out)[1].get_double(i) == Approx(std::vector<double>{1, 2, 3}[static_cast<std::size_t>(i)]));
  check_lowered(g, in, true);
}

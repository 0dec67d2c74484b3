// Scans, sorting and searching on chosen values: ties, NaN, zeros, and the slopes there.
#include <catch2/catch.hpp>
#include <limits>

#include "passes/autodiff.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

using Numbers = std::vector<double>;
constexpr double nan_ = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

Numbers numbers(const Array& a) {
  Numbers out;
  for (std::int64_t i = 0; i < a.elems(); ++i) out.push_back(a.get_double(i));
  return out;
}

Array vector_of(const Numbers& x, DType t = DType::f64) {
  return Array::of<double>(t, {static_cast<std::int64_t>(x.size())}, x);
}

/// All results of a graph of one vector.
std::vector<Array> run(const Numbers& x, const std::function<std::vector<ValueId>(GraphBuilder&, ValueId)>& build,
                       DType t = DType::f64) {
  Graph g;
  GraphBuilder b(g);
  ValueId in = b.input("x", {t, {static_cast<std::int64_t>(x.size())}});
  for (ValueId v : build(b, in)) g.outputs.push_back({"", v, {}});
  auto out = interpret(g, std::vector<Array>{vector_of(x, t)});
  if (!out) FAIL(messages(out.error()));
  return std::move(*out);
}

Numbers order(const Numbers& x, bool descending, DType t = DType::f64) {
  return numbers(run(
      x,
      [&](GraphBuilder& b, ValueId v) {
        return std::vector<ValueId>{b.add_op("argsort", {v}, {{"axis", std::int64_t{0}}, {"descending", descending}})};
      },
      t)[0]);
}

/// Gradient of sum(w * op(x)).
Numbers slopes(std::string_view op, Attrs attrs, const Numbers& x, const Numbers& w) {
  return numbers(run(x, [&](GraphBuilder& b, ValueId v) {
    ValueId y = b.add_op(op, {v}, attrs);
    ValueId loss = b.reduce("reduce_sum", b.mul(y, b.constant(make_literal(vector_of(w)))), {0});
    auto grads = passes::reverse(b.graph(), {.of = loss, .wrt = {v}});
    REQUIRE(grads);
    return std::vector<ValueId>{(*grads)[0]};
  })[0]);
}

}  // namespace

TEST_CASE("sorting is stable, NaN is above all numbers, -0 equals 0") {
  CHECK(order({3, 1, 2, 1}, false) == Numbers{1, 3, 2, 0});
  CHECK(order({3, 1, 2, 1}, true) == Numbers{0, 2, 1, 3});
  CHECK(order({nan_, -inf, 0, inf, -0.0}, false) == Numbers{1, 2, 4, 3, 0});
  CHECK(order({nan_, -inf, 0, inf, -0.0}, true) == Numbers{0, 3, 2, 4, 1});
  CHECK(order({200, 3, 255, 0}, false, DType::u8) == Numbers{3, 1, 0, 2});
  CHECK(order({-5, 3, -128, 127}, true, DType::i8) == Numbers{3, 1, 0, 2});
}

TEST_CASE("the largest elements come first, of equal ones those of the lowest index") {
  auto out = run({2, 5, 2, 5, 1}, [](GraphBuilder& b, ValueId x) {
    return b.add_multi("TopK", {x, b.ints(std::vector<std::int64_t>{3})});
  });
  CHECK(numbers(out[0]) == Numbers{5, 5, 2});
  CHECK(numbers(out[1]) == Numbers{1, 3, 0});
}

TEST_CASE("slopes of running products are right with zeros") {
  Attrs plain{{"axis", std::int64_t{0}}}, exclusive{{"axis", std::int64_t{0}}, {"exclusive", true}};
  // y = x0, x0 x1, x0 x1 x2, x0 x1 x2 x3
  CHECK(slopes("cumulative_prod", plain, {2, 0, 3, 5}, {1, 1, 1, 1}) == Numbers{1, 2 + 6 + 30, 0, 0});
  CHECK(slopes("cumulative_prod", plain, {0, 0, 3, 5}, {1, 1, 1, 1}) == Numbers{1, 0, 0, 0});
  CHECK(slopes("cumulative_prod", exclusive, {2, 0, 3, 5}, {1, 1, 1, 1}) == Numbers{1, 2 + 6, 0, 0});
}

TEST_CASE("of equal running extrema the last has the slope, and a NaN stays") {
  Attrs plain{{"axis", std::int64_t{0}}}, reverse{{"axis", std::int64_t{0}}, {"reverse", true}};
  CHECK(slopes("cumulative_max", plain, {1, 3, 3, 2}, {1, 10, 100, 1000}) == Numbers{1, 10, 1100, 0});
  CHECK(slopes("cumulative_min", reverse, {2, 2, 5, 4}, {1, 10, 100, 1000}) == Numbers{1, 10, 0, 1100});
  Numbers y = numbers(run({1, nan_, 3}, [&](GraphBuilder& b, ValueId x) {
    return std::vector<ValueId>{b.add_op("cumulative_max", {x}, plain)};
  })[0]);
  CHECK(y[0] == 1);
  CHECK((std::isnan(y[1]) && std::isnan(y[2])));
}

TEST_CASE("places in a sorted vector") {
  auto places = [](bool right) {
    return numbers(run({0, 1, 2, 2.5, 9}, [&](GraphBuilder& b, ValueId x) {
      ValueId sorted = b.constant(make_literal(vector_of({1, 2, 2, 4})));
      return std::vector<ValueId>{b.add_op("searchsorted", {sorted, x}, {{"right", right}})};
    })[0]);
  };
  CHECK(places(false) == Numbers{0, 0, 1, 3, 4});
  CHECK(places(true) == Numbers{0, 1, 3, 3, 4});
}

// The comparisons behind --verify, --expect and gradcheck: what must be found is found.
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/cli/command.hpp"
#include "tools/differences.hpp"

using namespace ag;
using namespace ag::tools;

namespace {

Array floats(std::vector<double> values) {
  Array a(DType::f32, {static_cast<std::int64_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i) a.set_double(static_cast<std::int64_t>(i), values[i]);
  return a;
}

const double inf = INFINITY, not_a_number = NAN;

}  // namespace

TEST_CASE("arrays are compared within tolerances that scale with the largest element") {
  Tolerance t{1e-5, 1e-5};
  CHECK(compare_arrays(floats({1, 2, 3}), floats({1, 2, 3}), t).empty());
  CHECK(compare_arrays(floats({1.000005, 2, 3}), floats({1, 2, 3}), t).empty());
  CHECK(compare_arrays(floats({0.00002, 0, 3}), floats({0, 0, 3}), t).empty());
  CHECK(!compare_arrays(floats({0.0001, 0, 3}), floats({0, 0, 3}), t).empty());
  std::string report = compare_arrays(floats({1, 2.1, 3}), floats({1, 2, 3}), t);
  CHECK(contains(report, "1 of 3 elements differ"));
  CHECK(contains(report, "[1]  got 2.0999999"));
  CHECK(compare_arrays(floats({1}), floats({1, 1}), t) == "the shapes differ");
}

TEST_CASE("what is not finite agrees only with itself") {
  Tolerance t{1e-5, 1e-5};
  CHECK(compare_arrays(floats({not_a_number, inf, -inf}), floats({not_a_number, inf, -inf}), t).empty());
  for (double wrong : {0.0, 1e30, -inf, not_a_number})
    CHECK(!compare_arrays(floats({wrong}), floats({inf}), t).empty());
  for (double wrong : {0.0, inf}) CHECK(!compare_arrays(floats({wrong}), floats({not_a_number}), t).empty());
  CHECK(!compare_arrays(floats({not_a_number}), floats({1}), t).empty());
}

TEST_CASE("integers and booleans agree exactly") {
  for (DType t : {DType::i32, DType::u8, DType::boolean}) {
    CHECK(default_tolerance(t).relative == 0);
    CHECK(default_tolerance(t).absolute == 0);
  }
}

TEST_CASE("a wrong gradient is found") {
  GradientLine line{.name = "x", .type = "f64[4]", .elems = 4};
  line.add(0, 1.0, 1.0 + 1e-9, 2.0);
  line.add(1, 2.0, 2.0, 2.0);
  CHECK(line.good(1e-6));
  CHECK(line.worst_index == 0);
  line.add(2, 2.0, 3.0, 2.0);
  CHECK(!line.good(1e-6));
  CHECK(line.worst == Approx(0.5));
  CHECK(line.worst_index == 2);
  line.add(3, 2.0, 2.0, 2.0);
  CHECK(!line.good(1e-6));
  std::string table = gradient_table({line}, 1e-6);
  CHECK(contains(table, "4/4"));
  CHECK(contains(table, "WRONG at element 2"));
}

TEST_CASE("a gradient that is no number is wrong") {
  for (auto [analytic, numeric] :
       {std::pair{not_a_number, 1.0}, {1.0, not_a_number}, {not_a_number, not_a_number}, {inf, 1.0}, {inf, inf}}) {
    for (bool first : {true, false}) {
      GradientLine line{.name = "x", .type = "f64[2]", .elems = 2};
      if (!first) line.add(0, 1, 1, 1);
      line.add(1, analytic, numeric, 1);
      if (first) line.add(0, 1, 1, 1);
      CHECK(!line.good(1e-6));
    }
  }
}

TEST_CASE("a gradient of which nothing was compared is not good") {
  CHECK(!GradientLine{.name = "x", .type = "f64[2]", .elems = 2}.good(1));
  CHECK(GradientLine{.name = "x", .type = "f64[0]", .elems = 0}.good(1));
}

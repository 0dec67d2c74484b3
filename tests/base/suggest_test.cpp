#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "ir/base/suggest.hpp"

using namespace ag;

TEST_CASE("edit distance: known values, symmetry, and one edit is one") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("nmae", "name") == 1);
  CHECK(edit_distance("ca", "abc") == 3);  // no byte is edited twice
  std::mt19937 rng(1);
  for (int i = 0; i < 2000; ++i) {
    std::string a, b;
    for (auto* s : {&a, &b})
      for (unsigned n = rng() % 9; n > 0; --n) *s += static_cast<char>('a' + rng() % 3);
    std::size_t d = edit_distance(a, b);
    CHECK(d == edit_distance(b, a));
    CHECK((d == 0) == (a == b));
    CHECK(d <= std::max(a.size(), b.size()));
    CHECK(d >= std::max(a.size(), b.size()) - std::min(a.size(), b.size()));
    std::string grown = a;
    grown.insert(grown.begin() + static_cast<long>(rng() % (a.size() + 1)), 'z');
    CHECK(edit_distance(a, grown) == 1);
  }
}

TEST_CASE("suggestions are near, and absent if nothing is") {
  std::vector<std::string_view> ops = {"MatMul", "Mul", "Max", "Relu", "Sigmoid", "Sum", "LayerNormalization",
                                       "in",     "out"};
  auto near = [&](std::string_view name) { return suggest(name, std::span<const std::string_view>(ops)); };
  CHECK(near("MatMull") == "MatMul");
  CHECK(near("matmul") == "MatMul");
  CHECK(near("ReLU") == "Relu");
  CHECK(near("Sigmodi") == "Sigmoid");
  CHECK(near("LayerNorm") == std::nullopt);
  CHECK(near("LayerNormalisatoin") == "LayerNormalization");
  CHECK(near("Mux") == "Mul");
  CHECK(near("inn") == "in");
  CHECK(near("Convolution") == std::nullopt);
  CHECK(near("x") == std::nullopt);
  CHECK(near("") == std::nullopt);
  CHECK(near(std::string(100000, 'x')) == std::nullopt);
}

// How rows, columns and depth of a product are cut into tasks.
#include <catch2/catch.hpp>

#include "passes/contraction_model.hpp"

using namespace ag;
using namespace ag::passes;

TEST_CASE("rows are divided where the iterations around them do not divide among threads") {
  TargetSpec target{.vector_bits = 512, .vector_registers = 32, .masked_ops = true, .threads = 2};
  ContractionSizes filter{.rows = 48, .cols = 16, .depth = 16384, .outer = 3};  // three lines of taps
  auto tasks = [&] {
    const Blocking b = pick_blocking(filter, pick_tile(filter, target), {}, target);
    return b.outer > 1 ? (filter.outer + b.outer - 1) / b.outer : filter.outer * ((*filter.rows + b.rows - 1) / b.rows);
  };
  CHECK(tasks() % 2 == 0);
  filter.outer = 4;
  CHECK(tasks() % 2 == 0);
  target.threads = 1;
  filter.outer = 3;
  CHECK(tasks() <= 3);
}

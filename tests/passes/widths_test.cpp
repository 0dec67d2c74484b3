// How many registers of lanes maps are computed for at once.
#include <catch2/catch.hpp>

#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/pass.hpp"

using namespace ag;

namespace {

/// Lanes of the widest tile that the statement `op` computes with.
int widest(const Graph& g, loop::Op op, int vector_bits) {
  passes::PassContext context;
  context.target.vector_bits = vector_bits;
  passes::PipelineOptions options;
  options.passes = {"decompose", "dce", "lower", "collapse", "schedule", "vectorise"};
  auto r = passes::run_pipeline(g, options, context);
  REQUIRE(r);
  int lanes = 0;
  for (const loop::Kernel& k : std::get<loop::Program>(r->stage).kernels)
    for (const loop::Stmt& s : k.stmts)
      if (s.op == op) lanes = std::max<int>(lanes, k.type(s.results[0]).lanes);
  return lanes;
}

/// The same of roots in x / (sqrt(y) + 1), `before` that an op of x.
int lanes_of_roots(int vector_bits, DType dtype = DType::f32, const char* before = "") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {dtype, {1 << 20}}), y = b.input("y", {dtype, {1 << 20}});
  if (*before) x = b.add_op(before, {x}, {});
  ValueId z = b.add_op("div", {x, b.add(b.add_op("sqrt", {y}, {}), b.scalar(dtype, 1.0))}, {});
  g.outputs.push_back({"z", z, {}});
  return widest(g, loop::Op::sqrt, vector_bits);
}

}  // namespace

TEST_CASE("what waits for the divider is computed for four registers at once, of which one spares it") {
  CHECK(lanes_of_roots(512) == 4 * 16);
  CHECK(lanes_of_roots(256) == 2 * 8);
  CHECK(lanes_of_roots(512, DType::f64) == 2 * 8);
  CHECK(lanes_of_roots(512, DType::f32, "tanh") == 2 * 16);  // the multipliers have enough to do
}

TEST_CASE("a product without columns and sums is a map along lanes") {
  auto lanes_of = [](const Dims& left, const Dims& right, std::vector<std::int64_t> contract, std::size_t batch) {
    Graph g;
    GraphBuilder b(g);
    std::vector<std::int64_t> first(batch);
    for (std::size_t i = 0; i < batch; ++i) first[i] = static_cast<std::int64_t>(i);
    ValueId x = b.input("x", {DType::f32, left}), y = b.input("y", {DType::f32, right});
    g.outputs.push_back({"z", b.dot_general(x, y, contract, contract, first, first), {}});
    return widest(g, loop::Op::fma, 512);
  };
  CHECK(lanes_of({4096}, {}, {}, 0) == 32);              // scaled by a number
  CHECK(lanes_of({4096}, {4096}, {}, 1) >= 32);          // element by element
  CHECK(lanes_of({64, 512, 1}, {64, 1}, {}, 1) >= 16);   // each row by its number
  CHECK(lanes_of({1, 4096}, {1}, {0}, 0) == 32);         // a sum of one term
}

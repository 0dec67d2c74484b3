// The pass `pack_operands`: transposed left operands whose steps compete for the cache are copied once, others are not.
#include <cmath>

#include <catch2/catch.hpp>

#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/pack_operands.hpp"

using namespace ag;

namespace {

Array filled(const std::vector<std::int64_t>& shape) {
  Array a(DType::f32, shape);
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, std::sin(0.3 * static_cast<double>(i)));
  return a;
}

Graph packed(const Graph& g) {
  passes::PassContext context;
  context.target.l2_bytes = 4 << 10;
  passes::PipelineOptions options;
  options.passes = {"pack_operands", "dce"};
  auto r = passes::run_pipeline(g, options, context);
  REQUIRE(r);
  return std::get<Graph>(r->stage);
}

int copies(const Graph& g) {
  int n = 0;
  for (NodeId id : g.node_ids()) n += g.node(id).op->name == "materialize" ? 1 : 0;
  return n;
}

}  // namespace

TEST_CASE("a transposed left operand is copied once for all products that read it") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {48, 64}}), y = b.input("y", {DType::f32, {48, 128}});
  ValueId batch = b.input("u", {DType::f32, {2, 48, 64}}), v = b.input("v", {DType::f32, {2, 130, 48}});
  g.outputs.push_back({"a", b.dot_general(x, y, {0}, {0}), {}});
  g.outputs.push_back({"b", b.dot_general(x, b.neg(y), {0}, {0}), {}});
  g.outputs.push_back({"c", b.dot_general(batch, v, {1}, {2}, {0}, {0}), {}});
  Graph after = packed(g);
  CHECK(copies(after) == 2);
  const std::vector<Array> inputs{filled({48, 64}), filled({48, 128}), filled({2, 48, 64}), filled({2, 130, 48})};
  auto want = interpret(g, inputs), got = interpret(after, inputs);
  REQUIRE(want);
  REQUIRE(got);
  for (std::size_t i = 0; i < want->size(); ++i) CHECK((*got)[i].same_bits((*want)[i]));
}

TEST_CASE("left operands that are read well stay where they are") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {64, 48}}), y = b.input("y", {DType::f32, {48, 128}});
  ValueId odd = b.input("u", {DType::f32, {48, 67}}), few = b.input("v", {DType::f32, {48, 8}});
  ValueId n = b.input("n", {DType::f32, {Dim::symbol("N"), 64}}),
          z = b.input("z", {DType::f32, {Dim::symbol("N"), 128}});
  g.outputs.push_back({"a", b.dot_general(x, y, {1}, {0}), {}});  // not transposed
  g.outputs.push_back({"b", b.dot_general(odd, y, {0}, {0}), {}});  // steps spread over the sets
  g.outputs.push_back({"c", b.dot_general(few, y, {0}, {0}), {}});  // too few rows
  g.outputs.push_back({"d", b.dot_general(n, z, {0}, {0}), {}});  // of unknown depth
  CHECK(copies(packed(g)) == 0);
}

TEST_CASE("a transposed left operand with several contracted axes is copied too") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {4, 12, 64}}), y = b.input("y", {DType::f32, {4, 12, 128}});
  g.outputs.push_back({"a", b.dot_general(x, y, {0, 1}, {0, 1}), {}});
  g.outputs.push_back({"b", b.dot_general(x, b.neg(y), {0, 1}, {0, 1}), {}});
  Graph after = packed(g);
  CHECK(copies(after) == 1);
  const std::vector<Array> inputs{filled({4, 12, 64}), filled({4, 12, 128})};
  auto want = interpret(g, inputs), got = interpret(after, inputs);
  REQUIRE(want);
  REQUIRE(got);
  for (std::size_t i = 0; i < want->size(); ++i) CHECK((*got)[i].same_bits((*want)[i]));
}

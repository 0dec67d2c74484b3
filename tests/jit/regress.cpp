// Faults that were found once.
#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

Graph load(const char* text) {
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  REQUIRE(g);
  return *g;
}

runtime::Compiled compile(const Graph& g) {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  auto compiled = (*engine)->compile(g);
  REQUIRE(compiled);
  return *compiled;
}

}  // namespace

TEST_CASE("an initializer of ones is a variable until gradients are taken") {
  // The product with it was left out while LayerNormalization was taken apart, and its gradient was zero.
  Graph g = load(R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[2,3]" } ],
    "initializers": [ { "name": "g", "type": "f32[3]", "fill": 1 }, { "name": "b", "type": "f32[3]", "fill": 0 } ],
    "nodes": [ { "op": "LayerNormalization", "in": ["x", "g", "b"], "out": "y" },
               { "op": "Mul", "in": ["y", "y"], "out": "z" },
               { "op": "ReduceSum", "in": ["z"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss"], "grad": { "of": "loss", "wrt": ["g"] } })");
  runtime::Compiled c = compile(g);
  CHECK(c.report.warnings.empty());
  runtime::ExecContext context(c.executable);
  float values[] = {1, 2, 4, -1, 0, 5};
  Array x = Array::of<float>(DType::f32, {2, 3}, values);
  auto out = runtime::run(context, std::vector{x});
  REQUIRE(out);
  double sum = 0;
  for (int i = 0; i < 3; ++i) sum += (*out)[1].get_double(i);
  CHECK(sum == Approx(2 * (*out)[0].get_double(0)));  // the loss is quadratic in g: <g, dloss/dg> = 2 loss
}

TEST_CASE("a trap names the node that set it, not its neighbour in the kernel") {
  Graph g = load(R"({ "ag": 1, "inputs": [ { "name": "i", "type": "i64[N]" }, { "name": "t", "type": "f32[N,2]" } ],
    "initializers": [ { "name": "e", "type": "f32[4,2]", "fill": 1 } ],
    "nodes": [
      { "op": "Gather", "in": ["e", "i"], "out": "r" },
      { "op": "Sub", "in": ["r", "t"], "out": "d" } ],
    "outputs": ["d"] })");
  runtime::Compiled c = compile(g);
  runtime::ExecContext context(c.executable);
  std::int64_t ids[] = {0, 4};
  auto out =
      runtime::run(context, std::vector{Array::of<std::int64_t>(DType::i64, {2}, ids), Array(DType::f32, {2, 2})});
  REQUIRE(!out);
  CHECK(out.error()[0].code == Code::AG5012);
  CHECK(out.error()[0].spans.at(0).loc.pointer == "/nodes/0");
}

TEST_CASE("a division by zero names the division, not the remainder before it") {
  Graph g = load(R"({ "ag": 1, "inputs": [ { "name": "k", "type": "i64[N]" } ],
    "nodes": [
      { "op": "Mod", "in": ["k", 3], "out": "m" },
      { "op": "Div", "in": ["k", "m"], "out": "d" } ],
    "outputs": ["d"] })");
  runtime::Compiled c = compile(g);
  runtime::ExecContext context(c.executable);
  std::int64_t values[] = {1, 3};
  auto out = runtime::run(context, std::vector{Array::of<std::int64_t>(DType::i64, {2}, values)});
  REQUIRE(!out);
  CHECK(out.error()[0].code == Code::AG5013);
  CHECK(out.error()[0].spans.at(0).loc.pointer == "/nodes/1");
}

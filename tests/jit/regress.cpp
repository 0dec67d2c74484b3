// Faults that were found once.
#include <cmath>
#include <sstream>

#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

Graph load(const std::string& text) {
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

TEST_CASE("a size read through Shape and Range stays known to every pass") {
  // Gather's decomposition forgot what was known of its elements: T came back as a size that only the data tell.
  Graph g = load(R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[B,T,4]" } ],
    "nodes": [ { "op": "Shape", "in": ["x"], "out": "s" }, { "op": "Gather", "in": ["s", 1], "out": "t" },
               { "op": "Range", "in": [0, "t", 1], "out": "r" },
               { "op": "Cast", "in": ["r"], "out": "f", "attrs": { "to": "f32" } },
               { "op": "Cos", "in": ["f"], "out": "c" }, { "op": "Unsqueeze", "in": ["c", [1]], "out": "u" },
               { "op": "Mul", "in": ["x", "u"], "out": "y" } ],
    "outputs": ["y"] })");
  runtime::Compiled c = compile(g);
  CHECK(c.executable->program().segments.size() == 0);
  runtime::ExecContext context(c.executable);
  Array x(DType::f32, {2, 3, 4});
  for (std::int64_t i = 0; i < x.elems(); ++i) x.set_double(i, 1);
  auto out = runtime::run(context, std::vector{x});
  REQUIRE(out);
  for (std::int64_t i = 0; i < x.elems(); ++i)
    CHECK((*out)[0].get_double(i) == Approx(std::cos(static_cast<double>(i / 4 % 3))));
}

TEST_CASE("panels of a product over symbolic rows are read as runs") {
  // Quotients of sizes were corrected for negative operands, and the loop over a panel gathered: 8 times slower.
  Graph g = load(R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[N,64]" } ],
    "initializers": [ { "name": "w", "type": "f32[64,200]", "random": "normal", "key": 3 } ],
    "nodes": [ { "op": "MatMul", "in": ["x", "w"], "out": "y" } ], "outputs": ["y"] })");
  runtime::Compiled c = compile(g);
  std::istringstream text(loop::print(c.executable->program()));
  int reads = 0;
  for (std::string line; std::getline(text, line);) {
    if (line.find(" b1[") == std::string::npos) continue;
    ++reads;
    CHECK(line.find("= load_tile b1[") != std::string::npos);
  }
  CHECK(reads > 0);
}

TEST_CASE("a batch of any size is planned and fused as one of a known size") {
  // Temps of different multiples of N did not share memory, and sums over taps were cut up where N might be one.
  auto graph = [](const std::string& n) {
    return load(R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[)" + n + R"(,32,20,20]" } ], "initializers": [
      { "name": "a", "type": "f32[96,32,1,1]", "random": "normal", "key": 1 },
      { "name": "d", "type": "f32[96,1,3,3]", "random": "normal", "key": 2 },
      { "name": "b", "type": "f32[48,96,1,1]", "random": "normal", "key": 3 },
      { "name": "c", "type": "f32[8,48,1,1]", "random": "normal", "key": 4 } ], "nodes": [
      { "op": "Conv", "in": ["x", "a"], "out": "p" }, { "op": "Relu", "in": ["p"], "out": "q" },
      { "op": "Conv", "in": ["q", "d"], "out": "r", "attrs": { "group": 96, "pads": [1, 1, 1, 1] } },
      { "op": "Relu", "in": ["r"], "out": "s" }, { "op": "Conv", "in": ["s", "b"], "out": "t" },
      { "op": "Relu", "in": ["t"], "out": "u" }, { "op": "Conv", "in": ["u", "c"], "out": "y" } ],
      "outputs": ["y"] })");
  };
  const runtime::Compiled any = compile(graph("N")), eight = compile(graph("8"));
  CHECK(any.executable->program().kernels.size() <= eight.executable->program().kernels.size());
  const auto arena = any.executable->program().arena_bytes.eval({{"N", 8}});
  REQUIRE(arena);
  CHECK(static_cast<double>(*arena) <= 1.1 * static_cast<double>(eight.executable->program().arena_bytes.value()));
}

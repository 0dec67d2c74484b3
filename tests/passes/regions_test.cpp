// The pass `regions`: what bodies get from around them, and what loops need not compute in each trip.
#include <algorithm>
#include <cmath>

#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "ir/attr.hpp"
#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/regions.hpp"

using namespace ag;

namespace {

Graph loaded(const std::string& text) {
  Sources sources;
  auto g = load_text(text, "m.json", "", sources);
  INFO((g ? "" : g.error()[0].message));
  REQUIRE(g);
  return *g;
}

Graph prepared(const Graph& g) {
  passes::PassContext context;
  passes::PipelineOptions options;
  options.stop_after = "dce.4";
  auto r = passes::run_pipeline(g, options, context);
  REQUIRE(r);
  return std::get<Graph>(r->stage);
}

const Node& control(const Graph& g, std::string_view op) {
  for (NodeId id : g.node_ids())
    if (g.node(id).op->name == op) return g.node(id);
  FAIL("no " << op);
  return g.node(NodeId(0));
}

std::int64_t count(const Graph& g, std::string_view op) {
  std::int64_t n = 0;
  for (NodeId id : g.node_ids()) n += g.node(id).op->name == op;
  return n;
}

std::int64_t captures(const Node& n) { return n.attrs.get_or<std::int64_t>("captures", 0); }

Array filled(const std::vector<std::int64_t>& shape) {
  Array a(DType::f32, shape);
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, std::sin(0.7 * static_cast<double>(i)));
  return a;
}

void same_answers(const Graph& before, const Graph& after, const std::vector<Array>& inputs) {
  auto want = interpret(before, inputs), got = interpret(after, inputs);
  REQUIRE(want);
  REQUIRE(got);
  for (std::size_t i = 0; i < want->size(); ++i)
    for (std::int64_t k = 0; k < (*want)[i].elems(); ++k)
      CHECK((*got)[i].get_double(k) == Approx((*want)[i].get_double(k)).epsilon(1e-5).margin(1e-6));
}

Array trips(std::int64_t n) { return Array::of<std::int64_t>(DType::i64, {}, std::vector<std::int64_t>{n}); }

}  // namespace

TEST_CASE("a constant that a loop captures is packed inside, and no capture any more") {
  Graph g = loaded(R"({ "ag": 1,
    "inputs": [{"name": "n", "type": "i64[]"}, {"name": "x", "type": "f32[2,64]"}],
    "initializers": [{"name": "w", "type": "f32[64,64]", "random": "normal", "scale": 0.1, "key": 1}],
    "nodes": [{"op": "Loop", "in": ["n", null, "x"], "out": "y", "regions": {"body": {
      "inputs": ["i", "go", "s"],
      "nodes": [{"op": "Gemm", "in": ["s", "w"], "out": "t", "attrs": {"transB": 1}},
                {"op": "Tanh", "in": ["t"], "out": "u"}],
      "outputs": ["go", "u"]}}}],
    "outputs": ["y"]})");
  Graph after = prepared(g);
  const Node& loop = control(after, "Loop");
  CHECK(captures(loop) == 0);
  CHECK(loop.regions[0]->stage == "regions");
  bool panels = false;
  for (NodeId id : loop.regions[0]->node_ids())
    if (const LiteralPtr* l = loop.regions[0]->node(id).attrs.get<LiteralPtr>("value"))
      panels = panels || (*l)->shape.size() == 3;
  CHECK(panels);
  for (std::int64_t n : {0, 1, 3}) same_answers(g, after, {trips(n), filled({2, 64})});
}

TEST_CASE("what does not change is computed before the loop; what may fail or only views is not") {
  Graph g = loaded(R"({ "ag": 1,
    "inputs": [{"name": "n", "type": "i64[]"}, {"name": "x", "type": "f32[2,8]"}, {"name": "w", "type": "f32[8,8]"},
               {"name": "k", "type": "i64[2,8]"}, {"name": "d", "type": "i64[]"}],
    "nodes": [{"op": "Loop", "in": ["n", null, "x"], "out": "y", "regions": {"body": {
      "inputs": ["i", "go", "s"],
      "nodes": [{"op": "Exp", "in": ["w"], "out": "e"},
                {"op": "MatMul", "in": ["e", "w"], "out": "m"},
                {"op": "MatMul", "in": ["s", "m"], "out": "t"},
                {"op": "Div", "in": ["k", "d"], "out": "q"},
                {"op": "Cast", "in": ["q"], "out": "qf", "attrs": {"to": "f32"}},
                {"op": "Add", "in": ["t", "qf"], "out": "v"},
                {"op": "Sin", "in": ["v"], "out": "u"}],
      "outputs": ["go", "u"]}}}],
    "outputs": ["y"]})");
  Graph after = prepared(g);
  const Node& loop = control(after, "Loop");
  const Graph& body = *loop.regions[0];
  CHECK(count(after, "exp") == 1);
  CHECK(count(after, "dot_general") == 1);
  CHECK(count(after, "div") == 0);  // by zero it would fail, even if the loop makes no trip
  CHECK(count(body, "exp") == 0);
  CHECK(count(body, "dot_general") == 1);
  CHECK(count(body, "div") == 1);
  CHECK(captures(loop) == 3);  // the product, k and d: nothing inside reads w
  Array k(DType::i64, {2, 8});
  for (std::int64_t i = 0; i < 16; ++i) k.set_int(i, i - 5);
  for (std::int64_t n : {0, 1, 4}) same_answers(g, after, {trips(n), filled({2, 8}), filled({8, 8}), k, trips(3)});
}

TEST_CASE("a captured matrix that each trip would turn is turned once") {
  Graph g = loaded(R"({ "ag": 1,
    "inputs": [{"name": "n", "type": "i64[]"}, {"name": "x", "type": "f32[3,20]"}, {"name": "w", "type": "f32[20,20]"}],
    "nodes": [{"op": "Loop", "in": ["n", null, "x"], "out": "y", "regions": {"body": {
      "inputs": ["i", "go", "s"],
      "nodes": [{"op": "Gemm", "in": ["s", "w"], "out": "t", "attrs": {"transB": 1}},
                {"op": "Tanh", "in": ["t"], "out": "u"}],
      "outputs": ["go", "u"]}}}],
    "outputs": ["y"]})");
  Graph after = prepared(g);
  CHECK(count(after, "materialize") == 1);
  CHECK(count(*control(after, "Loop").regions[0], "materialize") == 0);
  for (std::int64_t n : {0, 2}) same_answers(g, after, {trips(n), filled({3, 20}), filled({20, 20})});
}

TEST_CASE("branches get constants, and nothing moves out of them") {
  Graph g = loaded(R"({ "ag": 1,
    "inputs": [{"name": "p", "type": "bool[]"}, {"name": "x", "type": "f32[8,8]"}],
    "initializers": [{"name": "w", "type": "f32[8,8]", "random": "normal", "key": 2}],
    "nodes": [{"op": "If", "in": ["p"], "out": "y", "regions": {
      "then_branch": {"nodes": [{"op": "Exp", "in": ["x"], "out": "a"}, {"op": "Mul", "in": ["a", "w"], "out": "b"}],
                      "outputs": ["b"]},
      "else_branch": {"nodes": [{"op": "Sub", "in": ["x", "w"], "out": "c"}], "outputs": ["c"]}}}],
    "outputs": ["y"]})");
  Graph after = prepared(g);
  CHECK(captures(control(after, "If")) == 1);
  CHECK(count(after, "exp") == 0);
  for (int p : {0, 1})
    same_answers(g, after, {Array::of<std::int64_t>(DType::boolean, {}, std::vector<std::int64_t>{p}), filled({8, 8})});
}

TEST_CASE("a loop inside a loop hands what never changes out of both") {
  Graph g = loaded(R"({ "ag": 1,
    "inputs": [{"name": "n", "type": "i64[]"}, {"name": "x", "type": "f32[4]"}, {"name": "w", "type": "f32[4]"}],
    "nodes": [{"op": "Loop", "in": ["n", null, "x"], "out": "y", "regions": {"body": {
      "inputs": ["i", "go", "s"],
      "nodes": [{"op": "Loop", "in": ["n", null, "s"], "out": "r", "regions": {"body": {
        "inputs": ["j", "on", "t"],
        "nodes": [{"op": "Exp", "in": ["w"], "out": "e"}, {"op": "Mul", "in": ["t", "e"], "out": "m"},
                  {"op": "Sin", "in": ["m"], "out": "o"}],
        "outputs": ["on", "o"]}}}],
      "outputs": ["go", "r"]}}}],
    "outputs": ["y"]})");
  Graph after = prepared(g);
  CHECK(count(after, "exp") == 1);
  same_answers(g, after, {trips(3), filled({4}), filled({4})});
}

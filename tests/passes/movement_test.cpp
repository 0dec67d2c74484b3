// Rules about elements that only move: the gradient of parts taken one by one is their concatenation, nothing is
// scattered, and every element but for a zero's sign stays.
#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "ir/builder.hpp"
#include "passes/pass.hpp"

using namespace ag;

namespace {

int count(const Graph& g, std::string_view op) {
  int n = 0;
  for (NodeId id : g.node_ids()) n += g.node(id).op->name == op;
  return n;
}

Graph after(const Graph& g, const std::vector<std::string>& names) {
  passes::PassContext context;
  auto result = passes::run_pipeline(g, {.passes = names}, context);
  if (!result) FAIL(result.error()[0].message);
  return std::get<Graph>(std::move(result->stage));
}

/// y = sum over i of i + 1 times part i of x, taken by Gather along `axis`, and the gradient of its parts' squares.
std::string program(const std::string& type, int axis, int parts) {
  std::string nodes, sum = "zero";
  for (int i = 0; i < parts; ++i) {
    const std::string n = std::to_string(i);
    nodes += R"({"op": "Gather", "in": ["x", )" + n + R"(], "out": "p)" + n + R"(", "attrs": {"axis": )" +
             std::to_string(axis) + "}}, ";
    nodes += R"({"op": "Mul", "in": ["p)" + n + R"(", "p)" + n + R"("], "out": "q)" + n + "\"}, ";
    nodes += R"({"op": "Mul", "in": ["q)" + n + "\", " + std::to_string(i + 1) + R"(.0], "out": "r)" + n + "\"}, ";
    nodes += R"({"op": "ReduceSum", "in": ["r)" + n + R"("], "out": "s)" + n + R"(", "attrs": {"keepdims": 0}}, )";
    nodes += R"({"op": "Add", "in": [")" + sum + R"(", "s)" + n + R"("], "out": "t)" + n + "\"}, ";
    sum = "t" + n;
  }
  nodes.resize(nodes.size() - 2);
  return R"({"ag": 1, "inputs": [{"name": "x", "type": ")" + type +
         R"("}], "initializers": [{"name": "zero", "type": "f32[]", "data": 0}], "nodes": [)" + nodes +
         R"(], "outputs": [")" + sum + R"("], "grad": {"of": ")" + sum + R"(", "wrt": ["x"]}})";
}

}  // namespace

TEST_CASE("the gradient of parts taken one by one is their concatenation") {
  struct {
    const char* type;
    std::vector<std::int64_t> shape;
    int axis, parts, concats;
  } cases[] = {{"f32[3,5,4]", {3, 5, 4}, 0, 3, 1},
               {"f32[5,3,4]", {5, 3, 4}, 1, 3, 1},
               {"f32[5,4,3]", {5, 4, 3}, -1, 3, 1},
               {"f32[4,5]", {4, 5}, 0, 3, 0}};  // a part that nobody takes is padding
  for (const auto& c : cases) {
    INFO(c.type);
    Sources sources;
    auto g = load_text(program(c.type, c.axis, c.parts), "parts.json", "", sources);
    if (!g) FAIL(render(g.error(), sources));
    const Graph plain = after(*g, {"autodiff"});
    const Graph moved = after(*g, {"autodiff", "cse", "algebra", "dce"});
    CHECK(count(plain, "scatter") == c.parts);
    CHECK(count(moved, "scatter") == 0);
    CHECK(count(moved, "concat") == c.concats);
    Array x(DType::f32, c.shape);
    for (std::int64_t i = 0; i < x.elems(); ++i) x.set_double(i, static_cast<double>(i % 7) - 3);
    auto want = interpret(plain, std::vector{x}), got = interpret(moved, std::vector{x});
    REQUIRE(want);
    REQUIRE(got);
    REQUIRE(want->size() == got->size());
    for (std::size_t i = 0; i < want->size(); ++i)
      for (std::int64_t j = 0; j < (*want)[i].elems(); ++j) CHECK((*want)[i].get_double(j) == (*got)[i].get_double(j));
  }
}

TEST_CASE("heads side by side are read by whole registers") {
  // [heads, rows, size] as [rows, heads * size]: columns are as wide as registers within a head, not gathered.
  for (std::int64_t size : {48, 80, 64, 32}) {
    INFO(size);
    Graph g;
    GraphBuilder b(g);
    ValueId heads = b.input("x", {DType::f32, {4, 10, size}});
    ValueId flat = b.reshape(b.transpose(heads, {1, 0, 2}), {10, 4 * size});
    g.outputs.push_back({"y", b.add_op("exp", {flat}), {}});
    passes::PassContext context;
    context.target.vector_bits = 512, context.target.vector_registers = 32;
    auto r = passes::run_pipeline(g, {.passes = {"lower", "collapse", "schedule", "vectorise"}}, context);
    REQUIRE(r);
    int tiles = 0;
    for (const loop::Kernel& k : std::get<loop::Program>(r->stage).kernels)
      for (const loop::Stmt& s : k.stmts) {
        CHECK(s.op != loop::Op::load);
        tiles += s.op == loop::Op::load_tile;
      }
    CHECK(tiles > 0);
  }
}

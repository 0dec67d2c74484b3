// Graphs from JSON: what a text means, and the canonical form.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "frontend/json/import.hpp"
#include "ir/op.hpp"

using namespace ag;

namespace {

Result<Graph> read(std::string text) {
  auto doc = json::Document::parse(std::move(text), std::make_shared<std::string>("g.json"));
  if (!doc) return fail(std::move(doc).error());
  return json::import_graph(**doc);
}

std::string messages(const Diags& d) {
  std::string out;
  for (const Diag& x : d)
    out += fmt::format("{} {}:{} {}\n", code_name(x.code), x.spans[0].loc.line, x.spans[0].loc.col, x.message);
  return out;
}

Graph must(std::string text) {
  auto g = read(std::move(text));
  if (!g) FAIL(messages(g.error()));
  return std::move(*g);
}

/// A graph of x: f32[3], k: i64[3], b: bool[3] with these nodes.
std::string with_nodes(const std::string& nodes, const std::string& outputs = "\"y\"") {
  return R"({"ag":1,"inputs":[{"name":"x","type":"f32[3]"},{"name":"k","type":"i64[3]"},
    {"name":"b","type":"bool[3]"},{"name":"h","type":"f64[3]"}],"nodes":[)" +
         nodes + "],\"outputs\":[" + outputs + "]}";
}

/// The dtype of the first literal among y's operands.
std::string literal_type(const std::string& node) {
  auto g = read(with_nodes(node));
  if (!g) return messages(g.error());
  for (ValueId v : g->def(g->find("y")).operands)
    if (v && g->def(v).op->name == "constant") return g->type(v).str();
  return "none";
}

}  // namespace

TEST_CASE("a graph is built") {
  Graph g = must(R"({ "ag": 1, "opset": 21, "name": "two_dot",
  "inputs":  [ { "name": "x", "type": "f32[N]" } ],
  "nodes": [
    { "op": "MatMul", "in": ["x", "x"], "out": "d" },
    { "op": "Mul",    "in": [2.0, "d"], "out": "y" } ],
  "outputs": ["y"],
  "grad": { "of": "y", "wrt": ["x"] } })");
  CHECK(g.name == "two_dot");
  REQUIRE(g.inputs.size() == 1);
  CHECK(g.type(g.inputs[0]).str() == "f32[N]");
  REQUIRE(g.outputs.size() == 1);
  CHECK(g.type(g.outputs[0].value).str() == "f32[]");
  REQUIRE(g.grads.size() == 1);
  CHECK(g.grads[0].of == "y");
  CHECK(g.grads[0].wrt == std::vector<std::string>{"x"});
  CHECK(g.grads[0].wrt_locs[0].str() == "g.json:7:32");
  CHECK(g.loc(g.find("d")).str() == "g.json:4:5");
  CHECK(g.loc(g.find("d")).pointer == "/nodes/0");
  CHECK(verify(g).has_value());
}

TEST_CASE("a literal takes the dtype of its type variable") {
  CHECK(literal_type(R"({"op":"Mul","in":["x",2],"out":"y"})") == "f32[]");
  CHECK(literal_type(R"({"op":"Mul","in":[2,"k"],"out":"y"})") == "i64[]");
  CHECK(literal_type(R"({"op":"Mul","in":["h",[1,2.5,3]],"out":"y"})") == "f64[3]");
  CHECK(literal_type(R"({"op":"Pow","in":["x",1.7],"out":"y"})") == "f32[]");
  CHECK(literal_type(R"({"op":"Pow","in":["h",2],"out":"y"})") == "f64[]");
  CHECK(literal_type(R"({"op":"Slice","in":["x",[1],[2],[0]],"out":"y"})") == "i64[1]");
  CHECK(literal_type(R"({"op":"Where","in":["b",1,2],"out":"y"})") == "i64[]");
  CHECK(literal_type(R"({"op":"Where","in":["b",1,2.5],"out":"y"})") == "f32[]");
  CHECK(literal_type(R"({"op":"Where","in":["b",true,false],"out":"y"})") == "bool[]");
  CHECK(literal_type(R"({"op":"And","in":["b",true],"out":"y"})") == "bool[]");
}

TEST_CASE("initializers") {
  Graph g = must(R"({"ag":1,"initializers":[
    {"name":"a","type":"f32[2,2]","data":[[1,2],[3,"NaN"]]},
    {"name":"f","type":"i64[2,3]","data":[1,2,3,4,5,6]},
    {"name":"s","type":"bf16[4]","fill":1.5},
    {"name":"r","type":"f32[8]","random":"normal","scale":0.1,"key":7,"trainable":true},
    {"name":"u","type":"u64[]","data":18446744073709551615},
    {"name":"e","type":"f32[0,3]","data":[]},
    {"name":"n","type":"i8[2]","data":[-128,127]}],"outputs":["a"]})");
  auto values = [&](std::string_view n) { return (*g.def(g.find(n)).attrs.get<LiteralPtr>("value"))->materialize(); };
  CHECK(format_values(values("a")) == "[[1, 2], [3, nan]]");
  CHECK(format_values(values("f")) == "[[1, 2, 3], [4, 5, 6]]");
  CHECK(format_values(values("s")) == "[1.5, 1.5, 1.5, 1.5]");
  CHECK(format_values(values("u")) == "18446744073709551615");
  CHECK(values("e").elems() == 0);
  CHECK(format_values(values("n")) == "[-128, 127]");
  CHECK(g.def(g.find("r")).attrs.get_or<bool>("trainable", false));
}

TEST_CASE("canonical text imports and exports to the same bytes") {
  const std::string text = R"({
  "ag": 1,
  "opset": 21,
  "name": "all",
  "doc": "what it is",
  "x-tool": { "a": [1, 2.50] },
  "dims": { "N": { "min": 1, "max": 65536, "multiple_of": 8 } },
  "inputs": [
    { "name": "x", "type": "f32[N,?]", "doc": "data" },
    { "name": "i", "type": "i64[]" }
  ],
  "initializers": [
    { "name": "w", "type": "f32[2,2]", "data": [[1.0, -0.0], [1e-07, "NaN"]], "trainable": true },
    { "name": "z", "type": "bf16[1000]", "fill": 0.1 },
    { "name": "r", "type": "f64[3]", "random": "uniform", "scale": 0.5, "key": 18446744073709551615 },
    { "name": "e", "type": "f32[2,0]", "data": [[], []] }
  ],
  "nodes": [
    { "op": "Mul", "name": "m", "in": [2.0, "x"], "out": "y" },
    { "op": "ReduceSum", "in": ["y", [0]], "out": "s", "loc": "m.py:8:3", "x-note": null },
    { "op": "StopGradient", "domain": "ag", "in": ["s"], "out": "t" },
    { "op": "Cast", "in": ["t"], "out": "c", "attrs": { "to": "f64" } }
  ],
  "outputs": ["c", "x"],
  "grad": [
    { "of": "s", "wrt": ["x", "y"], "seed": "s", "names": { "x": "dx" }, "stop": ["t"], "checkpoint": "sqrt" },
    { "of": "s", "wrt": "trainable" }
  ]
}
)";
  Graph g = must(text);
  auto again = json::export_graph(g);
  REQUIRE(again);
  CHECK(*again == text);
}

namespace {

/// ecosystem's example: a while loop that halves, then a branch.
const char* const loop_text = R"({
  "ag": 1,
  "opset": 21,
  "name": "two_dot",
  "dims": { "N": { "min": 1, "max": 65536 } },
  "inputs": [
    { "name": "x",   "type": "f32[N]" },
    { "name": "neg", "type": "bool[]" }
  ],
  "initializers": [
    { "name": "limit", "type": "f32[]", "data": 100.0 }
  ],
  "nodes": [
    { "op": "MatMul",  "in": ["x", "x"],           "out": "d" },
    { "op": "Mul",     "in": [2.0, "d"],           "out": "y0" },
    { "op": "Greater", "in": ["y0", "limit"],      "out": "big" },
    { "op": "Loop",    "in": [null, "big", "y0"],  "out": "y1",
      "regions": { "body": {
        "inputs": ["i", "go", "acc"],
        "nodes": [
          { "op": "Mul",     "in": [0.5, "acc"],      "out": "half" },
          { "op": "Greater", "in": ["half", "limit"], "out": "again" }
        ],
        "outputs": ["again", "half"] } } },
    { "op": "If",      "in": ["neg"],              "out": "y",
      "regions": {
        "then_branch": { "nodes": [ { "op": "Neg", "in": ["y1"], "out": "m" } ], "outputs": ["m"] },
        "else_branch": { "outputs": ["y1"] } } }
  ],
  "outputs": ["y"]
})";

}  // namespace

TEST_CASE("regions: captures become operands, and the values are right") {
  Graph g = must(loop_text);
  REQUIRE(verify(g));
  const Node& loop = g.def(g.find("y1"));
  CHECK(loop.operands.size() == 4);  // trip count (left out), condition, acc, limit
  CHECK(!loop.operands[0].valid());
  CHECK(loop.operands[3] == g.find("limit"));
  CHECK(loop.attrs.get_or<std::int64_t>("captures", -1) == 1);
  REQUIRE(loop.regions.size() == 1);
  CHECK(loop.regions[0]->inputs.size() == 4);
  auto run = [&](std::vector<float> x, bool neg) {
    Array a = Array::of<float>(DType::f32, {static_cast<std::int64_t>(x.size())}, x);
    std::vector<Array> in = {a, Array::scalar(DType::boolean, neg)};
    auto out = interpret(g, in);
    if (!out) FAIL(messages(out.error()));
    return (*out)[0].get_double(0);
  };
  CHECK(run({1, 2, 3}, false) == 28);
  CHECK(run({4, 5, 6}, false) == 77);
  CHECK(run({4, 5, 6}, true) == -77);
  CHECK(run({40, 50, 60}, false) == 60.15625);
  auto text = json::export_graph(g);
  REQUIRE(text);
  auto again = json::export_graph(must(*text));
  REQUIRE(again);
  CHECK(*again == *text);
}

TEST_CASE("nested regions capture through each other") {
  Graph g = must(R"({"ag":1,"inputs":[{"name":"x","type":"f32[2]"},{"name":"p","type":"bool[]"}],"nodes":[
    {"op":"If","in":["p"],"out":"y","regions":{
      "then_branch":{"nodes":[
        {"op":"If","in":["p"],"out":"inner","regions":{
          "then_branch":{"nodes":[{"op":"Mul","in":["x",3.0],"out":"t"}],"outputs":["t"]},
          "else_branch":{"outputs":["x"]}}}],"outputs":["inner"]},
      "else_branch":{"outputs":["x"]}}}],"outputs":["y"]})");
  REQUIRE(verify(g));
  std::vector<float> x = {1, 2};
  for (bool p : {false, true}) {
    std::vector<Array> in = {Array::of<float>(DType::f32, {2}, x), Array::scalar(DType::boolean, p)};
    auto out = interpret(g, in);
    REQUIRE(out);
    CHECK(format_values((*out)[0]) == (p ? "[3, 6]" : "[1, 2]"));
  }
}

TEST_CASE("a chain of many nodes imports and exports in linear time") {
  std::string text = R"({"ag":1,"inputs":[{"name":"v0","type":"f32[2]"}],"nodes":[)";
  constexpr int count = 20000;
  for (int i = 0; i < count; ++i)
    text += fmt::format("{}{{\"op\":\"Neg\",\"in\":[\"v{}\"],\"out\":\"v{}\"}}", i ? ",\n" : "", i, i + 1);
  text += fmt::format("],\"outputs\":[\"v{}\"]}}", count);
  Graph g = must(text);
  CHECK(g.node_count() == count + 1);
  auto out = json::export_graph(g);
  REQUIRE(out);
  CHECK(json::export_graph(must(*out)).value() == *out);
}

TEST_CASE("errors are limited in number, and the last one says how many are left") {
  std::string text = R"({"ag":1,"nodes":[)";
  for (int i = 0; i < 100; ++i)
    text += fmt::format("{}{{\"op\":\"Neg\",\"in\":[\"u{}\"],\"out\":\"v{}\"}}", i ? ",\n" : "", i, i);
  auto g = read(text + "]}");
  REQUIRE(!g);
  CHECK(g.error().size() == 20);
  CHECK(g.error().back().children.size() >= 1);
}

// Operands that decide types: known through any arithmetic on constants and sizes, or from the values of inputs.
#include <catch2/catch.hpp>

#include "frontend/load.hpp"

using namespace ag;

namespace {

Result<Graph> load_json(const std::string& text, InputValues* values = nullptr) {
  Sources sources;
  LoadOptions options;
  options.values = values;
  return load_text(text, "g.json", "", sources, options);
}

const std::string reduce =
    R"({ "ag": 1, "inputs": [{"name": "x", "type": "f32[2,3]"}, {"name": "axes", "type": "i64[1]"}],
  "nodes": [{"op": "ReduceSum", "in": ["x", "axes"], "out": "y", "attrs": {"keepdims": 0}}], "outputs": ["y"] })";

}  // namespace

TEST_CASE("sizes are followed through ops that have no rule for known elements", "[settle]") {
  // Mod and the way through floats: 2 mod 3 elements of the shape, twice their value as an f32.
  auto g = load_json(R"({ "ag": 1, "inputs": [{"name": "x", "type": "f32[4,6,5]"}], "nodes": [
    {"op": "Shape", "in": ["x"], "out": "s"},
    {"op": "Mod", "in": [[2], [3]], "out": "m"},
    {"op": "Slice", "in": ["s", [0], "m"], "out": "front"},
    {"op": "Cast", "in": ["front"], "out": "f", "attrs": {"to": "f32"}},
    {"op": "Mul", "in": ["f", 0.5], "out": "half"},
    {"op": "Floor", "in": ["half"], "out": "floor"},
    {"op": "Cast", "in": ["floor"], "out": "sizes", "attrs": {"to": "i64"}},
    {"op": "Concat", "in": ["sizes", [20]], "out": "shape", "attrs": {"axis": 0}},
    {"op": "Reshape", "in": ["x", "shape"], "out": "y"}], "outputs": ["y"] })");
  REQUIRE(g);
  CHECK(g->type(g->outputs[0].value).str() == "f32[2,3,20]");
}

TEST_CASE("values of inputs that decide types are built in and named", "[settle]") {
  auto unknown = load_json(reduce);
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().front().code == Code::AG2207);
  for (std::int64_t axis : {0, 1}) {
    InputValues values;
    values.value = [&](std::size_t index, const std::string& name, const Type& type) -> std::optional<Array> {
      CHECK(index == 1);
      CHECK(name == "axes");
      CHECK(type.str() == "i64[1]");
      return Array::ints(std::vector<std::int64_t>{axis});
    };
    auto g = load_json(reduce, &values);
    REQUIRE(g);
    CHECK(g->type(g->outputs[0].value).str() == (axis ? "f32[2]" : "f32[3]"));
    CHECK(g->inputs.size() == 2);
    CHECK(values.used == std::vector<std::string>{"axes"});
  }
}

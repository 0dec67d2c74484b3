// FlexAttention against Attention: regions that scale, cap and mask do what attributes and a mask do there.
#include <catch2/catch.hpp>

#include "frontend/json/import.hpp"
#include "passes/pass.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;

namespace {

Graph graph_of(const std::string& node) {
  std::string text = R"({ "ag": 1, "opset": 24, "inputs": [
    { "name": "q", "type": "f64[2,4,3,2]" }, { "name": "k", "type": "f64[2,2,3,2]" },
    { "name": "v", "type": "f64[2,2,3,5]" }, { "name": "m", "type": "f64[3,3]" } ],
    "nodes": [ )" + node +
                     R"(, { "op": "ReduceSum", "in": [ "y" ], "out": "s", "attrs": { "keepdims": 0 } } ],
    "outputs": [ "y" ], "grad": { "of": "s", "wrt": [ "q", "k", "v", "m" ] } })";
  auto doc = json::Document::parse(text, std::make_shared<std::string>("flex"));
  REQUIRE(doc);
  auto graph = json::import_graph(**doc, {});
  if (!graph) FAIL(test::messages(graph.error()));
  passes::PassContext context;
  auto gradients = passes::autodiff.on_graph(*graph, context);
  if (!gradients) FAIL(test::messages(gradients.error()));
  return std::move(*gradients);
}

}  // namespace

TEST_CASE("FlexAttention is Attention with regions for its attributes") {
  Graph flex = graph_of(R"({ "op": "FlexAttention", "domain": "ai.onnx.preview", "in": ["q", "k", "v"], "out": "y",
    "attrs": { "scale": 0.7 }, "regions": { "score_mod": { "inputs": ["a"], "outputs": ["d"], "nodes": [
      { "op": "Div", "in": ["a", 2.0], "out": "b" }, { "op": "Tanh", "in": ["b"], "out": "t" },
      { "op": "Mul", "in": ["t", 2.0], "out": "c" }, { "op": "Add", "in": ["c", "m"], "out": "d" } ] } } })");
  Graph plain = graph_of(R"({ "op": "Attention", "in": ["q", "k", "v", "m"], "out": "y",
    "attrs": { "scale": 0.7, "softcap": 2.0 } })");
  test::Random random("flex");
  std::vector<Array> values;
  for (ValueId v : plain.inputs) values.push_back(test::random_array(plain.type(v), -2, 2, random));
  auto got = interpret(flex, values), want = interpret(plain, values);
  if (!got) FAIL(test::messages(got.error()));
  REQUIRE(want);
  REQUIRE(got->size() == 5);
  for (std::size_t r = 0; r < got->size(); ++r) {
    const Array &a = (*got)[r], &b = (*want)[r];
    REQUIRE(a.shape() == b.shape());
    for (std::int64_t i = 0; i < a.elems(); ++i) CHECK(a.get_double(i) == Approx(b.get_double(i)).margin(1e-12));
  }
}

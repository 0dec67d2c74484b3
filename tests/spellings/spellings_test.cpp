// Older spellings of ONNX's operators against today's: adapters.json has, for each, nodes as they were written in some
// opset and nodes of opset 21 that mean the same. Both run on the same numbers.
#include <fstream>
#include <set>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "frontend/json/import.hpp"
#include "ir/op.hpp"
#include "passes/autodiff.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using Json = nlohmann::ordered_json;

namespace {

Json adapters() {
  std::ifstream in(AG_SOURCE_DIR "/tests/spellings/adapters.json");
  return Json::parse(in);
}

Graph graph_of(const Json& entry, const char* nodes, int opset) {
  Json g{{"ag", 1}, {"opset", opset}, {"inputs", Json::array()}, {"nodes", entry[nodes]}, {"outputs", {"y"}}};
  for (const auto& [name, type] : entry["inputs"].items()) g["inputs"].push_back({{"name", name}, {"type", type}});
  auto doc = json::Document::parse(g.dump(), std::make_shared<std::string>(nodes));
  REQUIRE(doc);
  auto graph = json::import_graph(**doc, {});
  if (!graph) FAIL(g.dump() << "\n" << test::messages(graph.error()));
  return std::move(*graph);
}

std::vector<Array> inputs_of(const Graph& g, const Json& entry) {
  std::vector<Array> out;
  test::Random random(entry.dump());
  bool positive = entry.value("positive", false);
  for (std::size_t i = 0; i < g.inputs.size(); ++i) {
    bool variance = g.value(g.inputs[i]).name == "v";
    out.push_back(test::random_array(g.type(g.inputs[i]), positive || variance ? 0.5 : -2, 2, random));
  }
  return out;
}

std::string title(const Json& entry) {
  return entry["old"][0]["op"].get<std::string>() + " of opset " + std::to_string(entry["opset"].get<int>());
}

}  // namespace

TEST_CASE("older spellings compute what today's do") {
  for (const Json& entry : adapters()) {
    CAPTURE(title(entry));
    Graph before = graph_of(entry, "old", entry["opset"]), now = graph_of(entry, "new", 21);
    auto values = inputs_of(before, entry);
    auto got = interpret(before, values), want = interpret(now, values);
    REQUIRE(got);
    REQUIRE(want);
    const Array &a = (*got)[0], &b = (*want)[0];
    REQUIRE(a.dtype() == b.dtype());
    REQUIRE(a.shape() == b.shape());
    REQUIRE(a.elems() > 0);
    for (std::int64_t i = 0; i < a.elems(); ++i) CHECK(a.get_double(i) == Approx(b.get_double(i)).epsilon(1e-6));
  }
}

TEST_CASE("every spelling that ended has an entry at its last opset or before") {
  std::set<const OpInfo*> seen;
  for (const Json& entry : adapters())
    for (const Json& node : entry["old"])
      seen.insert(op_table().find_onnx("", node["op"].get<std::string>(), entry["opset"]));
  for (const OpInfo& op : op_table().all()) {
    if (!op.domain.empty() || op.onnx.empty() || op.until >= 28) continue;
    CAPTURE(op.name);
    CHECK(seen.contains(&op));
  }
}

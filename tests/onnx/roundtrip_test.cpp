// Graphs through ONNX files and back, low-bit tensors, and files with bytes changed.
#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "frontend/json/import.hpp"
#include "frontend/load.hpp"
#include "frontend/onnx/onnx.hpp"
#include "ir/op.hpp"
#include "passes/pass.hpp"
#include "tests/onnx/wire.hpp"

using namespace ag;
namespace fs = std::filesystem;

namespace {

std::vector<fs::path> examples() {
  std::vector<fs::path> out;
  for (const auto& e : fs::directory_iterator(fs::path(AG_SOURCE_DIR) / "examples"))
    if (e.path().extension() == ".json") out.push_back(e.path());
  std::ranges::sort(out);
  return out;
}

/// The example with its gradients taken.
Graph differentiated(const fs::path& path) {
  Sources sources;
  auto g = load(path.string(), sources);
  REQUIRE(g);
  passes::PassContext context;
  auto r = passes::autodiff.on_graph(*g, context);
  REQUIRE(r);
  return std::move(*r);
}

Graph imported(const std::string& bytes) {
  auto g = onnx::import_model(bytes, "m.onnx");
  if (!g) FAIL(render(g.error(), {}, DiagFormat::short_));
  REQUIRE(verify(*g));
  return std::move(*g);
}

std::vector<Array> inputs_for(const Graph& g) {
  std::vector<Array> out;
  for (ValueId v : g.inputs) {
    std::vector<std::int64_t> shape;
    for (const Dim& d : g.type(v).shape) shape.push_back(d.is_const() ? d.value() : 3);
    Array a(g.type(v).dtype, shape);
    for (std::int64_t i = 0; i < a.elems(); ++i) {
      if (is_float(a.dtype()))
        a.set_double(i, 0.25 + 0.5 * static_cast<double>(i % 5));
      else
        a.set_int(i, i % 2);
    }
    out.push_back(std::move(a));
  }
  return out;
}

}  // namespace

TEST_CASE("examples and their gradients mean the same as ONNX files") {
  for (const fs::path& path : examples()) {
    CAPTURE(path.filename().string());
    Graph g = differentiated(path);
    auto bytes = onnx::export_model(g);
    if (!bytes) FAIL(render(bytes.error(), {}, DiagFormat::short_));
    Graph back = imported(*bytes);
    REQUIRE(back.inputs.size() == g.inputs.size());
    REQUIRE(back.outputs.size() == g.outputs.size());
    auto inputs = inputs_for(g);
    auto want = interpret(g, inputs), got = interpret(back, inputs);
    REQUIRE(want);
    if (!got) FAIL(render(got.error(), {}, DiagFormat::short_));
    for (std::size_t i = 0; i < want->size(); ++i) {
      CHECK(back.outputs[i].name == g.outputs[i].name);
      REQUIRE((*got)[i].shape() == (*want)[i].shape());
      for (std::int64_t k = 0; k < (*want)[i].elems(); ++k)
        CHECK((*got)[i].get_double(k) == Approx((*want)[i].get_double(k)).epsilon(1e-5).margin(1e-6));
    }
  }
}

TEST_CASE("what was written is written again the same") {
  for (const fs::path& path : examples()) {
    CAPTURE(path.filename().string());
    auto first = onnx::export_model(differentiated(path));
    REQUIRE(first);
    Graph g = imported(*first);
    auto second = onnx::export_model(g);
    REQUIRE(second);
    Graph again = imported(*second);
    auto a = json::export_graph(g), b = json::export_graph(again);
    REQUIRE(a);
    REQUIRE(b);
    CHECK(*a == *b);
    // ONNX-JSON says the same as the bytes.
    auto text = onnx::export_model_json(g);
    REQUIRE(text);
    Sources sources;
    auto from_text = load_text(*text, "m.json", "", sources);
    if (!from_text) FAIL(render(from_text.error(), sources, DiagFormat::short_));
    auto c = json::export_graph(*from_text);
    REQUIRE(c);
    CHECK(*a == *c);
  }
}

TEST_CASE("low-bit tensors are packed in files, the first element in the low bits") {
  std::string t = wire::tensor("w", {5}, 22, "\xf8\x21\x07");  // i4: -8 -1 1 2 7
  auto a = onnx::parse_tensor(t, "t.pb");
  REQUIRE(a);
  CHECK(a->second.dtype() == DType::i4);
  std::vector<int> values;
  for (std::byte b : a->second.bytes()) values.push_back(static_cast<signed char>(b));
  CHECK(values == std::vector<int>{-8, -1, 1, 2, 7});
  auto two = onnx::parse_tensor(wire::tensor("w", {5}, 25, "\xe4\x03"), "t.pb");  // u2: 0 1 2 3 3
  REQUIRE(two);
  values.clear();
  for (std::byte b : two->second.bytes()) values.push_back(static_cast<int>(b));
  CHECK(values == std::vector<int>{0, 1, 2, 3, 3});
}

TEST_CASE("names, defaults of inputs, functions and their attributes survive the import") {
  using namespace wire;
  // f(x) = Softmax(x, axis = `a`), `a` by default 0; called once with axis 1 and once without.
  std::string soft = node("Softmax", {"x"}, {"y"}, str(5, str(1, "axis") + str(21, "a") + num(20, 2)));
  std::string f = function("f", {soft}) + str(11, str(1, "a") + num(3, 0) + num(20, 2));
  std::string with = node("f", {"x"}, {"p"}, str(7, "local") + str(5, str(1, "a") + num(3, 1) + num(20, 2)));
  std::string graph = str(1, with) + str(1, node("f", {"x"}, {"q"}, str(7, "local"))) +
                      str(1, node("Add", {"q", "w"}, {"y"})) + str(2, "g") +
                      str(5, tensor("w", {1}, 1, std::string("\0\0\x80\x3f", 4))) + str(11, value("x", 1, {-1, 3})) +
                      str(11, value("w", 1, {1})) + str(12, value("p", 1, {-1, 3})) + str(12, value("y", 1, {-1, 3}));
  Graph g = imported(model(graph, 21, str(25, f)));
  REQUIRE(g.inputs.size() == 1);  // w has a default
  CHECK(g.find("w"));
  CHECK(g.type(g.inputs[0]).str() == "f32[x.0,3]");
  CHECK(g.def(g.find("p")).attrs.get_or<std::int64_t>("axis", -9) == 1);
  CHECK(g.def(g.find("q")).attrs.get_or<std::int64_t>("axis", -9) == 0);
  CHECK(g.loc(g.find("q")).pointer == "graph.node[1] (f)/local.f.node[0] (Softmax)");
}

TEST_CASE("models with bytes changed give a graph or errors") {
  std::mt19937 random(7);
  int graphs = 0, errors = 0;
  for (const fs::path& path : examples()) {
    if (path.filename() == "digits.json") continue;  // weights, mostly
    auto bytes = onnx::export_model(differentiated(path));
    REQUIRE(bytes);
    CAPTURE(path.filename().string());
    for (std::size_t i = 0; i < 3 * bytes->size(); ++i) {
      std::string mutant = *bytes;
      std::size_t at = random() % mutant.size();
      switch (i % 4) {
        case 0: mutant[at] = static_cast<char>(random()); break;
        case 1: mutant[at] = static_cast<char>(mutant[at] ^ 1 << random() % 8); break;
        case 2: mutant.erase(at, 1 + random() % 4); break;
        default: mutant.resize(at); break;
      }
      CAPTURE(i, at);
      onnx::ImportOptions options;
      options.data.max_array_bytes = 1 << 24;
      auto g = onnx::import_model(mutant, "m.onnx", options);
      if (g) {
        ++graphs;
        REQUIRE(verify(*g));
      } else {
        ++errors;
        REQUIRE(!g.error().empty());
        REQUIRE(!g.error()[0].message.empty());
      }
    }
  }
  CHECK(graphs > 100);
  CHECK(errors > 100);
}

TEST_CASE(
    "a Gradient node holds the part that it differentiates; a branch that cannot be is left out where the other one is "
    "taken") {
  using namespace wire;
  // y = x * x; ONNX's Gradient of y with respect to x.
  std::string attributes =
      str(5, str(1, "xs") + str(9, "x") + num(20, 8)) + str(5, str(1, "y") + str(4, "y") + num(20, 3));
  std::string domain = str(7, "ai.onnx.preview.training");
  std::string graph = str(1, node("Mul", {"x", "x"}, {"y"})) +
                      str(1, node("Gradient", {"x"}, {"dx"}, attributes + domain)) + str(2, "g") +
                      str(11, value("x", 1, {})) + str(12, value("y", 1, {})) + str(12, value("dx", 1, {}));
  std::string imports = str(8, str(1, "ai.onnx.preview.training") + num(2, 1));
  Graph g = imported(model(graph, 21, imports));
  CHECK(g.def(g.outputs[1].value).op->onnx == "Gradient");
  CHECK(g.outputs[1].name == "dx");

  // If(true): the other branch adds f32[2] and f32[3].
  std::string taken = str(1, node("Relu", {"x"}, {"t"})) + str(12, value("t", 1, {2}));
  std::string other = str(1, node("Add", {"x", "w"}, {"e"})) + str(12, value("e", 1, {2}));
  std::string branches = graph_attribute("then_branch", taken) + graph_attribute("else_branch", other);
  std::string weights = str(5, tensor("w", {3}, 1, std::string(12, '\0'))) + str(5, tensor("c", {}, 9, "\x01"));
  Graph chosen = imported(model(graph_of(str(1, node("If", {"c"}, {"y"}, branches)), weights)));
  CHECK(chosen.def(chosen.outputs[0].value).op->onnx == "Relu");
}

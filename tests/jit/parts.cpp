// Products joined side by side, and arrays put together from parts.
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

struct Outcome {
  std::vector<Array> values;
  std::map<std::string, std::size_t> calls;  ///< by label
};

Outcome run(const std::string& text, const std::vector<std::string>& disabled = {}) {
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  INFO(text << (g ? "" : messages(g.error())));
  REQUIRE(g);
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  runtime::EngineOptions options;
  options.pipeline.disabled = disabled;
  auto c = (*engine)->compile(*g, options);
  REQUIRE(c);
  std::vector<Array> in;
  Random random("parts");
  for (ValueId v : g->inputs) {
    Array a(g->type(v).dtype, sizes(g->type(v)));
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, random.uniform(-2, 2));
    in.push_back(std::move(a));
  }
  Outcome out;
  runtime::ExecContext context(c->executable, {.threads = 2});
  auto values = runtime::run(context, in);
  REQUIRE(values);
  out.values = std::move(*values);
  for (const auto& k : c->report.kernels) out.calls[k.label] += k.calls;
  return out;
}

void same(const Outcome& got, const Outcome& want) {
  REQUIRE(got.values.size() == want.values.size());
  for (std::size_t i = 0; i < got.values.size(); ++i) {
    double worst = 0;
    for (std::int64_t e = 0; e < got.values[i].elems(); ++e)
      worst = std::max(worst, std::abs(got.values[i].get_double(e) - want.values[i].get_double(e)));
    CHECK(worst < 1e-4);
    CHECK(got.values[i].shape() == want.values[i].shape());
  }
}

}  // namespace

TEST_CASE("queries and keys and values of one array come from one product") {
  auto literal = [](const char* name, int seed) {
    std::string data;
    for (int i = 0; i < 12 * 16; ++i) data += fmt::format("{}{}", i ? ", " : "", (i * seed % 101 - 50) / 50.0);
    return fmt::format(R"({{ "name": "{}", "type": "f32[12,16]", "data": [{}] }})", name, data);
  };
  std::string text = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[20,12]" } ], "initializers": [ )" +
                     literal("wq", 37) + "," + literal("wk", 41) + "," + literal("wv", 43) +
                     R"( ], "nodes": [ { "op": "MatMul", "in": ["x", "wq"], "out": "q" },
    { "op": "MatMul", "in": ["x", "wk"], "out": "k" }, { "op": "MatMul", "in": ["x", "wv"], "out": "v" },
    { "op": "Transpose", "in": ["k"], "out": "kt", "attrs": { "perm": [1, 0] } },
    { "op": "MatMul", "in": ["q", "kt"], "out": "s" }, { "op": "Softmax", "in": ["s"], "out": "p" },
    { "op": "MatMul", "in": ["p", "v"], "out": "y" } ], "outputs": ["y"] })";
  Outcome joined = run(text), apart = run(text, {"horizontal"});
  same(joined, apart);
  CHECK(joined.calls["dot_general"] < apart.calls["dot_general"]);
  CHECK(joined.calls["attend"] == 1);
}

TEST_CASE("a concat writes its parts, and what follows is computed with them") {
  std::string text =
      R"({ "ag": 1, "inputs": [ { "name": "a", "type": "f32[40,30]" }, { "name": "b", "type": "f32[40,70]" } ],
    "nodes": [ { "op": "Concat", "in": ["a", "b"], "out": "c", "attrs": { "axis": 1 } },
      { "op": "Tanh", "in": ["c"], "out": "y" } ], "outputs": ["y"] })";
  Outcome out = run(text);
  CHECK(out.calls["concat+tanh"] == 2);
  Outcome plain =
      run(R"({ "ag": 1, "inputs": [ { "name": "a", "type": "f32[40,30]" }, { "name": "b", "type": "f32[40,70]" } ],
    "nodes": [ { "op": "Tanh", "in": ["a"], "out": "y" }, { "op": "Tanh", "in": ["b"], "out": "z" } ],
    "outputs": ["y", "z"] })");
  for (std::int64_t i = 0; i < 40; ++i)
    for (std::int64_t j = 0; j < 100; ++j) {
      double want = j < 30 ? plain.values[0].get_double(i * 30 + j) : plain.values[1].get_double(i * 70 + j - 30);
      if (out.values[0].get_double(i * 100 + j) != want) FAIL_CHECK(i << ", " << j);
    }
}

TEST_CASE("gradients of all parts of an array are put one after another") {
  std::string text = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[32,96]" } ],
    "nodes": [ { "op": "Split", "in": ["x"], "out": ["a", "b", "c"], "attrs": { "axis": 1, "num_outputs": 3 } },
      { "op": "Mul", "in": ["a", "b"], "out": "ab" }, { "op": "Sin", "in": ["c"], "out": "d" },
      { "op": "Add", "in": ["ab", "d"], "out": "e" },
      { "op": "ReduceSum", "in": ["e"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss"], "grad": { "of": "loss", "wrt": ["x"] } })";
  Outcome joined = run(text), apart = run(text, {"algebra"});
  same(joined, apart);
  std::size_t concats = 0;
  for (const auto& [label, n] : joined.calls) concats += label.starts_with("concat") ? n : 0;
  CHECK(concats == 3);
}

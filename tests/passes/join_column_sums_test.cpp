// Sums of columns inside the kernel that walks the rows: fewer kernels, the same bits.
#include <catch2/catch.hpp>

#include <cmath>

#include <fmt/format.h>

#include "frontend/load.hpp"
#include "passes/pass.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;

namespace {

struct Outcome {
  std::vector<Array> values;
  std::size_t kernels = 0;
  std::int64_t arena = 0;
};

Outcome run(const Graph& g, const std::vector<Array>& inputs, bool joined, int threads, const std::string& target) {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  runtime::EngineOptions options;
  options.target = target;
  options.pipeline.disabled = {"merge_small"};
  if (!joined) options.pipeline.disabled.push_back("join_column_sums");
  auto c = (*engine)->compile(g, options);
  REQUIRE(c);
  runtime::ExecContext context(c->executable, {.threads = threads});
  auto values = runtime::run(context, inputs);
  REQUIRE(values);
  Outcome out{std::move(*values), 0, 0};
  for (const auto& k : c->report.kernels) out.kernels += k.calls;
  out.arena = c->executable->program().arena_bytes.value();
  return out;
}

std::string norm(const std::string& shape, const std::string& columns, const std::string& op, const std::string& more) {
  return fmt::format(R"({{ "ag": 1, "opset": 23, "inputs": [ {{ "name": "x", "type": "f32[{0}]" }},
      {{ "name": "g", "type": "f32[{1}]" }}, {{ "name": "dy", "type": "f32[{0}]" }} {3} ],
    "nodes": [ {{ "op": "{2}", "in": ["x", "g"{4}], "out": "y" }} ], "outputs": [],
    "grad": {{ "of": "y", "wrt": ["x", "g"{4}], "seed": "dy" }} }})",
                     shape, columns, op,
                     more.empty() ? "" : fmt::format(R"(, {{ "name": "{}", "type": "f32[{}]" }})", more, columns),
                     more.empty() ? "" : fmt::format(R"(, "{}")", more));
}

}  // namespace

TEST_CASE("a norm's gradients are one pass over the rows") {
  struct Case {
    std::string text;
    std::size_t kernels;  ///< with the sums of the parts
  };
  const Case cases[] = {{norm("1024,1024", "1024", "LayerNormalization", "b"), 3},
                        {norm("1100,1000", "1000", "LayerNormalization", ""), 2},
                        {norm("32,64,520", "520", "LayerNormalization", "b"), 3},
                        {norm("2048,512", "512", "RMSNormalization", ""), 2}};
  for (const Case& c : cases)
    for (std::string target : {"cpu", "cpu:x86-64-v3"}) {
      INFO(c.text << target);
      Sources sources;
      auto g = load_text(c.text, "test.json", "", sources);
      REQUIRE(g);
      std::vector<Array> in;
      test::Random random("norm");
      for (ValueId v : g->inputs) {
        Array a(DType::f32, test::sizes(g->type(v)));
        for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, random.uniform(-2, 2));
        in.push_back(std::move(a));
      }
      const Outcome joined = run(*g, in, true, 1, target), apart = run(*g, in, false, 2, target),
                    threads = run(*g, in, true, 2, target);
      CHECK(joined.kernels == c.kernels);
      CHECK(joined.kernels < apart.kernels);
      CHECK(joined.arena < apart.arena);
      for (std::size_t i = 0; i < joined.values.size(); ++i)
        for (std::int64_t e = 0; e < joined.values[i].elems(); ++e) {
          const double v = joined.values[i].get_double(e);
          if (v != apart.values[i].get_double(e) || v != threads.values[i].get_double(e))
            FAIL("result " << i << ", element " << e);
        }
      if (&c != &cases[0]) continue;
      passes::PassContext context;
      auto whole = passes::autodiff.on_graph(*g, context);
      REQUIRE(whole);
      auto want = interpret(*whole, in);
      REQUIRE(want);
      REQUIRE(want->size() == joined.values.size());
      for (std::size_t i = 0; i < joined.values.size(); ++i) {
        double worst = 0, largest = 1;
        for (std::int64_t e = 0; e < joined.values[i].elems(); ++e) {
          worst = std::max(worst, std::abs(joined.values[i].get_double(e) - (*want)[i].get_double(e)));
          largest = std::max(largest, std::abs((*want)[i].get_double(e)));
        }
        CHECK(worst < 1e-5 * largest);
      }
    }
}

TEST_CASE("sums of what others read too, or in other parts, stay right") {
  // The norm of a sum whose columns are summed as well; what is summed is an output; rows in fewer parts.
  for (const char* rows : {"16000", "2048", "40"}) {
    const std::string text = fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[{0},80]" }} ],
    "nodes": [ {{ "op": "Softmax", "in": ["x"], "out": "s" }}, {{ "op": "Mul", "in": ["s", "x"], "out": "p" }},
      {{ "op": "ReduceSum", "in": ["s", [0]], "out": "a" }}, {{ "op": "ReduceSum", "in": ["p", [0]], "out": "b" }},
      {{ "op": "ReduceSum", "in": ["x", [0]], "out": "c" }} ], "outputs": ["s", "a", "b", "c"] }})",
                                         rows);
    INFO(text);
    Sources sources;
    auto g = load_text(text, "test.json", "", sources);
    REQUIRE(g);
    std::vector<Array> in;
    in.emplace_back(DType::f32, test::sizes(g->type(g->inputs[0])));
    for (std::int64_t i = 0; i < in[0].elems(); ++i) in[0].set_double(i, std::cos(0.7 * static_cast<double>(i)));
    const Outcome joined = run(*g, in, true, 2, "cpu"), apart = run(*g, in, false, 1, "cpu");
    for (std::size_t i = 0; i < joined.values.size(); ++i)
      for (std::int64_t e = 0; e < joined.values[i].elems(); ++e)
        if (joined.values[i].get_double(e) != apart.values[i].get_double(e)) FAIL("result " << i << ", element " << e);
  }
}

// One executable on many inputs, at -O0 and -O2, with 1 to 3 threads, against the interpreter.
#pragma once
#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"
#include "tests/lower/run_program.hpp"

namespace ag::test {

inline Graph load(const std::string& text) {
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  INFO((g ? std::string() : g.error()[0].message));
  REQUIRE(g);
  return *g;
}

inline runtime::Compiled compile(const Graph& g, int level = 2) {
  static auto engine = runtime::Engine::create();
  REQUIRE(engine);
  runtime::EngineOptions options;
  options.pipeline.opt_level = level;
  auto compiled = (*engine)->compile(g, options);
  INFO((compiled ? std::string() : compiled.error()[0].message));
  REQUIRE(compiled);
  return *compiled;
}

inline Array vec(std::vector<std::int64_t> v) { return Array::ints(v); }
inline Array scalar(std::int64_t v) { return Array::ints(std::vector{v}).reshaped({}); }
inline Array ramp(std::vector<std::int64_t> shape) {
  Array a(DType::f32, std::move(shape));
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, 0.5 * static_cast<double>(i) - 3);
  return a;
}

inline bool same(const Array& a, const Array& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && std::ranges::equal(a.bytes(), b.bytes());
}

/// The same numbers; sums are added up in another order than the interpreter's.
inline bool alike(const Array& a, const Array& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  for (std::int64_t i = 0; i < a.elems(); ++i)
    if (a.get_double(i) != b.get_double(i) &&
        !(std::abs(a.get_double(i) - b.get_double(i)) <= 1e-4 * std::abs(b.get_double(i)) + 1e-5))
      return false;
  return true;
}

/// The graph with the gradients that it asks for.
inline Graph differentiated(const Graph& g) {
  passes::PassContext context;
  auto d = passes::find_pass("autodiff")->on_graph(g, context);
  INFO((d ? std::string() : d.error()[0].message));
  REQUIRE(d);
  d->stage = "autodiff";
  return *d;
}

/// The program in its text form is the same program; the loop interpreter runs it too.
inline void agree_as_loops(const Graph& g, const std::vector<Array>& inputs, const std::vector<Array>& want) {
  passes::PassContext context;
  passes::PipelineOptions options;
  options.stop_after = "lower";
  auto staged = passes::run_pipeline(g, options, context);
  REQUIRE(staged);
  const auto& program = std::get<loop::Program>(staged->stage);
  const std::string text = loop::print(program);
  auto again = loop::parse_program(text);
  INFO((again ? std::string() : again.error()[0].message));
  REQUIRE(again);
  CHECK(loop::print(*again) == text);
  auto got = run_program(program, inputs);
  INFO((got ? std::string() : got.error()[0].message));
  REQUIRE(got);
  for (std::size_t o = 0; o < want.size(); ++o) {
    CHECK((*got)[o].shape() == want[o].shape());
    for (std::int64_t i = 0; i < want[o].elems() && (*got)[o].shape() == want[o].shape(); ++i)
      if (want[o].get_double(i) != (*got)[o].get_double(i))
        CHECK((*got)[o].get_double(i) == Approx(want[o].get_double(i)).epsilon(1e-4).margin(1e-5));
  }
}

/// Runs one executable on all inputs, at both levels and with 1 to 3 threads, against the interpreter.
inline void agree(const std::string& json, const std::vector<std::vector<Array>>& runs) {
  Graph g = differentiated(load(json));
  for (const auto& inputs : runs) {
    std::int64_t most = 0;
    for (const Array& a : inputs) most = std::max(most, a.elems());
    auto want = interpret(g, inputs);
    INFO((want ? std::string() : want.error()[0].message));
    REQUIRE(want);
    if (most < 1000) agree_as_loops(g, inputs, *want);
  }
  for (int level : {0, 2}) {
    runtime::Compiled c = compile(g, level);
    std::vector<std::vector<Array>> first;
    for (int threads : {1, 2, 3}) {
      runtime::ExecContext context(c.executable, {.threads = threads, .pool = {}, .host_pool = {}});
      for (int round = 0; round < 2; ++round)
        for (std::size_t i = 0; i < runs.size(); ++i) {
          INFO("level " << level << ", " << threads << " threads, run " << i);
          auto want = interpret(g, runs[i]);
          INFO((want ? std::string() : want.error()[0].message));
          REQUIRE(want);
          auto got = runtime::run(context, runs[i]);
          INFO((got ? std::string() : got.error()[0].message));
          REQUIRE(got);
          REQUIRE(got->size() == want->size());
          for (std::size_t o = 0; o < got->size(); ++o) CHECK(alike((*got)[o], (*want)[o]));
          if (threads == 1 && round == 0) first.push_back(*got);
          for (std::size_t o = 0; o < got->size(); ++o) CHECK(same((*got)[o], first[i][o]));  // the same bits
        }
    }
  }
}

inline std::string code_of(const Diags& d) { return code_name(d[0].code); }

}  // namespace ag::test

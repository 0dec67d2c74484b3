// One executable on many inputs, at -O0 and -O2, with 1 to 3 threads, against the interpreter.
#pragma once
#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"

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

inline Array ints(std::vector<std::int64_t> v) { return Array::ints(v); }
inline Array scalar(std::int64_t v) { return Array::ints(std::vector{v}).reshaped({}); }
inline Array ramp(std::vector<std::int64_t> shape) {
  Array a(DType::f32, std::move(shape));
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, 0.5 * static_cast<double>(i) - 3);
  return a;
}

inline bool same(const Array& a, const Array& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && std::ranges::equal(a.bytes(), b.bytes());
}

/// Runs one executable on all inputs, at both levels and with 1 to 3 threads, against the interpreter.
inline void agree(const std::string& json, const std::vector<std::vector<Array>>& runs) {
  Graph g = load(json);
  for (int level : {0, 2}) {
    runtime::Compiled c = compile(g, level);
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
          for (std::size_t o = 0; o < got->size(); ++o) CHECK(same((*got)[o], (*want)[o]));
        }
    }
  }
}

inline std::string code_of(const Diags& d) { return code_name(d[0].code); }

}  // namespace ag::test

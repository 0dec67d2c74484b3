// Short rows, whose sums are taken before the last pass over the row above: the same bits as one row at a time.
#include <catch2/catch.hpp>

#include <fmt/format.h>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;

namespace {

struct Outcome {
  std::vector<Array> values;
  bool ahead = false;  ///< whether a loop over rows carries values from row to row
};

Outcome run(std::int64_t rows, std::int64_t columns, const Array& x, const std::string& target, int threads) {
  const std::string text = fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[{0},{1}]" }},
      {{ "name": "g", "type": "f32[{1}]" }} ],
    "nodes": [ {{ "op": "Add", "in": ["x", "g"], "out": "s" }},
      {{ "op": "LayerNormalization", "in": ["s", "g"], "out": "y" }} ], "outputs": ["s", "y"] }})",
                                       rows, columns);
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  REQUIRE(g);
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  runtime::EngineOptions options;
  options.target = target;
  auto c = (*engine)->compile(*g, options);
  REQUIRE(c);
  Outcome out;
  for (const loop::Kernel& k : c->executable->program().kernels)
    for (const loop::Stmt& s : k.stmts)
      out.ahead = out.ahead || (s.op == loop::Op::for_ && s.attr.role == loop::AxisRole::batch && !s.results.empty());
  Array in(DType::f32, {rows, columns}), scale(DType::f32, {columns});
  for (std::int64_t i = 0; i < rows * columns; ++i) in.set_double(i, x.get_double(i));
  for (std::int64_t i = 0; i < columns; ++i) scale.set_double(i, 0.5 + 0.01 * static_cast<double>(i));
  runtime::ExecContext context(c->executable, {.threads = threads});
  auto values = runtime::run(context, std::vector<Array>{in, scale});
  REQUIRE(values);
  out.values = std::move(*values);
  return out;
}

}  // namespace

TEST_CASE("sums of short rows are taken a row ahead") {
  test::Random random("ahead");
  const Array x = test::random_array({DType::f32, {300, 1024}}, -2, 2, random);
  for (std::string target : {"cpu:native", "cpu:x86-64-v3"})
    for (std::int64_t columns : {9, 20, 160, 1024}) {
      INFO(target << " " << columns);
      const Outcome many = run(300, columns, x, target, 2), one = run(300, columns, x, target, 1),
                    few = run(33, columns, x, target, 1);  // too few to look ahead
      CHECK(many.ahead == (columns < 1024));
      CHECK(!few.ahead);
      for (std::size_t o = 0; o < many.values.size(); ++o)
        for (std::int64_t i = 0; i < many.values[o].elems(); ++i) {
          const double v = many.values[o].get_double(i);
          if (v != one.values[o].get_double(i)) FAIL("threads, result " << o << ", element " << i);
          if (i < 33 * columns && v != few.values[o].get_double(i)) FAIL("rows, result " << o << ", element " << i);
        }
    }
}

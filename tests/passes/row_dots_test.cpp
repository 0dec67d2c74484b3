// Sums of products along rows in an earlier pass: fewer loops over a row, right results whatever lies in the row.
#include <catch2/catch.hpp>

#include <cmath>

#include <fmt/format.h>

#include "codegen/backend.hpp"
#include "frontend/load.hpp"
#include "passes/row_dots.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;

namespace {

Graph load(const std::string& text) {
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  REQUIRE(g);
  return *g;
}

/// The gradients of a norm for its rows and its scale.
Graph norm_gradient(const std::string& rows, const std::string& columns, const char* type) {
  return load(fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "{2}[{0},{1}]" }},
      {{ "name": "g", "type": "{2}[{1}]" }}, {{ "name": "dy", "type": "{2}[{0},{1}]" }},
      {{ "name": "b", "type": "{2}[{1}]" }} ],
    "nodes": [ {{ "op": "LayerNormalization", "in": ["x", "g", "b"], "out": "y" }} ], "outputs": [],
    "grad": {{ "of": "y", "wrt": ["x", "g"], "seed": "dy" }} }})",
                          rows, columns, type));
}

/// What is left of x when its part along x^ = x / |x| is taken from h g: a factor without a mean.
Graph projection(const std::string& rows, const std::string& columns, const char* type) {
  return load(fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "{2}[{0},{1}]" }},
      {{ "name": "g", "type": "{2}[{1}]" }}, {{ "name": "h", "type": "{2}[{0},{1}]" }} ],
    "nodes": [ {{ "op": "Mul", "in": ["x", "x"], "out": "q" }},
      {{ "op": "ReduceSum", "in": ["q", [1]], "out": "s" }}, {{ "op": "Sqrt", "in": ["s"], "out": "t" }},
      {{ "op": "Reciprocal", "in": ["t"], "out": "r" }}, {{ "op": "Mul", "in": ["x", "r"], "out": "u" }},
      {{ "op": "Mul", "in": ["h", "g"], "out": "k" }}, {{ "op": "Mul", "in": ["k", "u"], "out": "v" }},
      {{ "op": "ReduceSum", "in": ["v", [1]], "out": "d" }}, {{ "op": "Mul", "in": ["d", "u"], "out": "e" }},
      {{ "op": "Sub", "in": ["k", "e"], "out": "z" }} ],
    "outputs": ["z", "v"] }})",
                          rows, columns, type));
}

using Make = Graph (*)(const std::string&, const std::string&, const char*);

runtime::EngineOptions options_of(const std::string& target, bool early) {
  runtime::EngineOptions o;
  o.target = target;
  if (!early) o.pipeline.disabled = {"row_dots"};
  return o;
}

/// Rows whose first element is far from the mean, whose squares or products overflow, and ordinary ones.
Array rows_of_all_kinds(DType t, std::int64_t m, std::int64_t n) {
  Array x(t, {m, n});
  test::Random random("rows");
  for (std::int64_t i = 0; i < m * n; ++i) {
    const double v = random.uniform(-2, 2);
    const bool first = i % n == 0;
    switch (i / n) {
      case 0: x.set_double(i, first ? 1e5 : v); break;
      case 1: x.set_double(i, first ? 0 : 300 + v); break;
      case 2: x.set_double(i, 300 + v); break;
      case 3: x.set_double(i, v * 1e17); break;
      case 4: x.set_double(i, i % n == 17 ? std::nan("") : v); break;
      default: x.set_double(i, v);
    }
  }
  return x;
}

}  // namespace

TEST_CASE("a dot that waits for factors is taken with the first sums") {
  for (Make make : {norm_gradient, projection}) {
    const Graph g = make("256", "512", "f32");
    std::size_t loops[2];
    for (bool early : {false, true}) {
      passes::PassContext context;
      context.target = codegen::describe_target("cpu:native").value();
      passes::PipelineOptions options;
      options.stop_after = "row_dots";
      if (!early) options.disabled = {"row_dots"};
      auto result = passes::run_pipeline(g, options, context);
      REQUIRE(result);
      std::size_t& n = loops[early] = 0;
      for (const loop::Kernel& k : std::get<loop::Program>(result->stage).kernels)
        for (const loop::Block& b : k.blocks)  // along a row, and made for each row
          for (loop::StmtId id : b.stmts)
            if (const loop::Stmt& s = k.stmts[id];
                s.op == loop::Op::for_ && s.attr.role == loop::AxisRole::reduce && !b.args.empty())
              ++n;
    }
    INFO((make == projection) << " " << loops[0] << " " << loops[1]);
    CHECK(loops[1] == loops[0] - 1);  // what is made in an `if` has a block without arguments
  }
}

TEST_CASE("dots in an earlier pass are right where they would cancel or overflow") {
  const std::int64_t m = 16, n = 300;
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  for (const char* type : {"f32", "f64"})
    for (Make make : {norm_gradient, projection})
      for (const char* target : {"cpu:native", "cpu:x86-64-v3"})
        for (bool symbolic : {false, true}) {
          const DType t = type == std::string("f32") ? DType::f32 : DType::f64;
          const Graph g = make(symbolic ? "M" : "16", symbolic ? "N" : "300", type);
          test::Random random("weights");
          std::vector<Array> in{rows_of_all_kinds(t, m, n), test::random_array({t, {n}}, 0.5, 2, random),
                                test::random_array({t, {m, n}}, -2, 2, random)};
          for (std::int64_t i = 5 * n; i < 6 * n; ++i) in[2].set_double(i, in[2].get_double(i) * 1e30);
          for (std::int64_t i = 5 * n; i < 6 * n; ++i) in[0].set_double(i, in[0].get_double(i) * 1e12);
          if (in.size() < g.inputs.size()) in.push_back(test::random_array({t, {n}}, -1, 1, random));
          std::vector<std::vector<Array>> got;
          for (bool early : {false, true}) {
            auto c = (*engine)->compile(g, options_of(target, early));
            REQUIRE(c);
            runtime::ExecContext context(c->executable, {.threads = 2});
            auto values = runtime::run(context, in);
            REQUIRE(values);
            got.push_back(std::move(*values));
          }
          for (std::int64_t r = 0; r < m; ++r) {
            double largest = 0;
            for (std::int64_t i = r * n; i < r * n + n; ++i)
              if (const double v = std::abs(got[0][0].get_double(i)); v > largest) largest = v;
            for (std::int64_t i = r * n; i < r * n + n; ++i) {
              const double a = got[1][0].get_double(i), b = got[0][0].get_double(i);
              INFO(type << " " << (make == projection) << " " << target << symbolic << " row " << r << ": " << a << " "
                        << b);
              REQUIRE((std::isnan(b) ? std::isnan(a) : std::abs(a - b) <= (t == DType::f32 ? 1e-5 : 1e-13) * largest));
            }
          }
          for (std::int64_t i = 0; i < got[0][1].elems(); ++i) {
            const double a = got[1][1].get_double(i), b = got[0][1].get_double(i);
            INFO(type << " " << (make == projection) << " " << target << symbolic << " element " << i << ": " << a
                      << " " << b);
            REQUIRE((a == b || (std::isnan(a) && std::isnan(b))));
          }
        }
}

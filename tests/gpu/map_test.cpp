// Kernels mapped to a GPU, run by the loop interpreter with its checks of races, bounds and divergence, compute what
// the graph interpreter says; and the mapping is the one that passes/gpu_map.cpp documents.
#include <algorithm>

#include <catch2/catch.hpp>

#include "codegen/backend.hpp"
#include "passes/pass.hpp"
#include "tests/lower/cases.hpp"
#include "tests/lower/run_program.hpp"

using namespace ag;
using namespace ag::test;
using namespace ag::test::graphs;

namespace {

std::vector<Case> gpu_cases() {
  std::vector<Case> list = cases();
  for (int n : {1, 10, 33, 100, 255, 256, 1000})
    list.push_back({"rows", [n](GraphBuilder& b) {
                      ValueId x = b.input("x", f32({21, n}));
                      output(b, "s", b.reduce("reduce_sum", b.mul(x, x), {1}));
                      output(b, "y", softmax(b, x, 1));
                    }});
  list.push_back(
      {"row_too_long_to_keep", [](GraphBuilder& b) { output(b, "y", softmax(b, b.input("x", f32({2, 9000})), 1)); }});
  list.push_back({"rows_of_two_axes", [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({5, 7, 90}));
                    ValueId s = b.reduce("reduce_sum", x, {1, 2}, true);
                    output(b, "y", b.sub(x, s));
                    output(b, "z", b.reduce("reduce_max", b.mul(x, s), {1, 2}));
                  }});
  list.push_back(
      {"long_row", [](GraphBuilder& b) { output(b, "y", b.reduce("reduce_sum", b.input("x", f32({10000})), {0})); }});
  list.push_back({"three_axes", [](GraphBuilder& b) {
                    output(b, "y", b.unary("neg", b.transpose(b.input("x", f32({11, 13, 17})), {2, 0, 1})));
                  }});
  return list;
}

Result<loop::Program> mapped(const Graph& g, bool fuse,
                             std::vector<std::string> stages = {"lower", "gpu_map", "expand_math"}) {
  passes::PassContext context;
  context.target = codegen::describe_target("cuda:sm_80").value();
  context.fuse = fuse;
  passes::PipelineOptions options;
  options.passes = std::move(stages);
  AG_TRY(passes::PipelineResult r, passes::run_pipeline(g, options, context));
  return std::get<loop::Program>(std::move(r.stage));
}

Graph built(const std::function<void(GraphBuilder&)>& build) {
  Graph g;
  GraphBuilder b(g);
  build(b);
  return g;
}

bool has(const loop::Kernel& k, loop::Op op) {
  return std::any_of(k.stmts.begin(), k.stmts.end(), [&](const loop::Stmt& s) { return s.op == op; });
}

}  // namespace

TEST_CASE("mapped programs agree with the graph interpreter") {
  for (const Case& c : gpu_cases())
    for (bool fuse : {false, true}) {
      INFO(c.name << (fuse ? " fused" : " unfused"));
      Graph g = built(c.build);
      std::vector<Array> inputs = random_inputs(g, c);
      auto want = interpret(g, inputs);
      if (!want) FAIL(text(want.error()));
      auto program = mapped(g, fuse);
      if (!program) FAIL(text(program.error()));
      if (auto ok = loop::verify(*program, true); !ok) FAIL(text(ok.error()));
      auto got = run_program(*program, inputs);
      if (!got) FAIL(text(got.error()) << loop::print(*program));
      for (std::size_t i = 0; i < want->size(); ++i) compare((*got)[i], (*want)[i]);
      auto again = loop::parse_program(loop::print(*program));
      if (!again) FAIL(text(again.error()));
      CHECK(loop::print(*again) == loop::print(*program));
    }
}

TEST_CASE("the order of a row reduction does not depend on whether sizes are known") {
  for (std::int64_t n : {1, 7, 31, 32, 33, 64, 100, 200, 256, 257, 1000}) {
    INFO(n);
    auto rows = [](Dim size) {
      return built([&](GraphBuilder& b) {
        ValueId x = b.input("x", f32({Dim(5), std::move(size)}));
        output(b, "y", b.reduce("reduce_sum", b.mul(x, x), {1}));
      });
    };
    std::vector<Array> inputs = random_inputs(rows(Dim(n)), {"", {}, {}});
    auto known = mapped(rows(Dim(n)), true), symbolic = mapped(rows(Dim::symbol("N")), true);
    REQUIRE(known);
    REQUIRE(symbolic);
    auto a = run_program(*known, inputs), b = run_program(*symbolic, inputs);
    REQUIRE(a);
    REQUIRE(b);
    CHECK((*a)[0].same_bits((*b)[0]));
  }
}

TEST_CASE("the launch shape follows the kernel's form") {
  struct Row {
    const char* name;
    std::function<void(GraphBuilder&)> build;
    Dim grid;
    std::array<std::uint32_t, 3> block;
    bool shuffles, barriers;
  };
  const Dim n = Dim::symbol("N");
  const std::vector<Row> rows{
      {"map",
       [](GraphBuilder& b) { output(b, "y", b.unary("neg", b.input("x", f32({1000})))); },
       4,
       {256, 1, 1},
       false,
       false},
      {"symbolic map",
       [&](GraphBuilder& b) { output(b, "y", b.unary("neg", b.input("x", f32({n, 8})))); },
       min(ceildiv(n * 8, 256), Dim(INT32_MAX)),
       {256, 1, 1},
       false,
       false},
      {"columns",
       [](GraphBuilder& b) { output(b, "y", b.reduce("reduce_sum", b.input("x", f32({50, 300})), {0})); },
       2,
       {256, 1, 1},
       false,
       false},
      {"short rows",
       [](GraphBuilder& b) { output(b, "y", b.reduce("reduce_sum", b.input("x", f32({20, 30})), {1})); },
       3,
       {32, 8, 1},
       true,
       false},
      {"rows",
       [](GraphBuilder& b) { output(b, "y", b.reduce("reduce_sum", b.input("x", f32({20, 100})), {1})); },
       20,
       {128, 1, 1},
       true,
       true},
      {"long rows",
       [](GraphBuilder& b) { output(b, "y", b.reduce("reduce_sum", b.input("x", f32({20, 999})), {1})); },
       20,
       {256, 1, 1},
       true,
       true},
      {"product",
       [](GraphBuilder& b) {
         output(b, "y", b.dot_general(b.input("x", f32({30, 8})), b.input("w", f32({8, 40})), {1}, {0}));
       },
       5,
       {256, 1, 1},
       false,
       false},
      {"nothing",
       [](GraphBuilder& b) { output(b, "y", b.unary("neg", b.input("x", f32({0, 3})))); },
       0,
       {256, 1, 1},
       false,
       false},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    auto p = mapped(built(row.build), true);
    if (!p) FAIL(text(p.error()));
    REQUIRE(p->kernels.size() == 1);
    const loop::Kernel& k = p->kernels[loop::KernelId(std::size_t{0})];
    INFO(loop::print(k));
    CHECK(k.grid == std::array<Dim, 3>{row.grid, 1, 1});
    CHECK(k.block == row.block);
    CHECK(has(k, loop::Op::shuffle_xor) == row.shuffles);
    CHECK(has(k, loop::Op::barrier) == row.barriers);
  }
}

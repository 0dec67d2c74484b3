// Lowered programs, at every stage, compute what the graph interpreter says.
#include <catch2/catch.hpp>

#include "codegen/backend.hpp"
#include "passes/pass.hpp"
#include "tests/lower/cases.hpp"
#include "tests/lower/run_program.hpp"

using namespace ag;
using namespace ag::test;
using namespace ag::test::graphs;

TEST_CASE("a kernel of its own computes maps over its result") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", f32({5, 33})), c = b.input("c", f32({33}));
  ValueId y = b.add_op("cumulative_sum", {x}, {{"axis", std::int64_t{0}}});
  output(b, "y", b.unary("tanh", b.add(b.mul(y, 0.5), c)));
  output(b, "z", b.neg(y));
  std::vector<Array> inputs = random_inputs(g, {});
  auto want = interpret(g, inputs);
  if (!want) FAIL(text(want.error()));
  passes::PassContext context;
  context.target = codegen::describe_target("cpu:x86-64-v3").value();
  auto r = passes::run_pipeline(g, {.passes = {"lower", "schedule", "vectorise"}}, context);
  if (!r) FAIL(text(r.error()));
  const auto& program = std::get<loop::Program>(r->stage);
  CHECK(program.kernels.size() == 1);  // and the sums themselves have no memory
  CHECK(program.buffers.size() == 4);
  auto got = run_program(program, inputs);
  if (!got) FAIL(text(got.error()) << loop::print(program));
  for (std::size_t i = 0; i < want->size(); ++i) compare((*got)[i], (*want)[i]);
}

TEST_CASE("lowered programs agree with the graph interpreter") {
  for (const Case& c : cases()) {
    for (std::string target : {"cpu:x86-64-v3", "cpu:x86-64-v4"}) {
      for (bool fuse : {false, true}) {
        INFO(c.name << " " << target << (fuse ? " fused" : " unfused"));
        Graph g;
        GraphBuilder b(g);
        c.build(b);
        std::vector<Array> inputs = random_inputs(g, c);
        auto want = interpret(g, inputs);
        if (!want) FAIL(text(want.error()));
        passes::PassContext context;
        context.target = codegen::describe_target(target).value();
        context.fuse = fuse;
        passes::PipelineOptions options;
        for (std::string stage : {"lower", "collapse", "split_reductions", "row_dots", "join_column_sums", "schedule",
                                  "vectorise", "expand_math", "merge_small"}) {
          if (!passes::find_pass(stage)) continue;
          INFO("stage " << stage);
          options.passes.push_back(stage);
          auto r = passes::run_pipeline(g, options, context);
          if (!r) FAIL(text(r.error()));
          auto got = run_program(std::get<loop::Program>(r->stage), inputs);
          if (!got) FAIL(text(got.error()) << loop::print(std::get<loop::Program>(r->stage)));
          for (std::size_t i = 0; i < want->size(); ++i) compare((*got)[i], (*want)[i]);
        }
      }
    }
  }
}

TEST_CASE("products larger than the caches are cut into blocks, copied and asked for ahead of their use") {
  for (auto [m, n, k] : {std::array<int, 3>{70, 96, 64}, {128, 200, 80}, {67, 131, 100}, {260, 64, 48}})
    for (int layout : {0, 1, 2, 3}) {
      INFO(m << " x " << n << " x " << k << " layout " << layout);
      Graph g;
      GraphBuilder b(g);
      bool left = (layout & 1) != 0, right = (layout & 2) != 0;
      ValueId x = b.input("x", left ? f32({k, m}) : f32({m, k})), w = b.input("w", right ? f32({n, k}) : f32({k, n}));
      output(b, "y", b.neg(b.dot_general(x, w, {left ? 0 : 1}, {right ? 1 : 0})));
      std::vector<Array> inputs = random_inputs(g, {});
      auto want = interpret(g, inputs);
      if (!want) FAIL(text(want.error()));
      for (std::string target : {"cpu:x86-64-v3", "cpu:x86-64-v4"}) {
        passes::PassContext context;
        context.target = codegen::describe_target(target).value();
        context.target.l1_bytes = 2 << 10, context.target.l2_bytes = 8 << 10, context.target.l3_bytes = 64 << 10;
        context.target.threads = 2;
        auto r = passes::run_pipeline(g, {}, context);
        if (!r) FAIL(text(r.error()));
        const auto& program = std::get<loop::Program>(r->stage);
        std::string loops = loop::print(program);
        if (!left && k % 16 == 0) CHECK(loops.find("prefetch") != std::string::npos);
        auto got = run_program(program, inputs);
        if (!got) FAIL(text(got.error()) << loops);
        compare((*got)[0], (*want)[0]);
      }
    }
}

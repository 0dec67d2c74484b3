// Lowered programs, at every stage, compute what the graph interpreter says.
#include <catch2/catch.hpp>

#include "codegen/backend.hpp"
#include "passes/pass.hpp"
#include "tests/lower/cases.hpp"
#include "tests/lower/run_program.hpp"

using namespace ag;
using namespace ag::test;
using namespace ag::test::graphs;

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
        for (std::string stage : {"lower", "schedule", "vectorise", "expand_math"}) {
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

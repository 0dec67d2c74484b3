// The whole road to PTX: every example's kernels, and every graph of tests/lower, emitted and assembled.
#include <filesystem>
#include <set>

#include "codegen/backend.hpp"
#include "frontend/load.hpp"
#include "passes/pass.hpp"
#include "tests/gpu/ptxas.hpp"
#include "tests/lower/cases.hpp"
#include "tests/ops/lowered.hpp"

using namespace ag;
using namespace ag::test;

namespace {

/// All kernels of a graph as PTX, each assembled on its own if wanted.
std::size_t check_ptx(const Graph& g, const std::string& arch, bool assembled = true) {
  passes::PassContext context;
  context.target = codegen::describe_target("cuda:" + arch).value();
  auto r = passes::run_pipeline(g, {}, context);
  if (!r) FAIL(graphs::text(r.error()));
  const auto& program = std::get<loop::Program>(r->stage);
  CHECK(program.stage == "plan_memory");
  for (const loop::Kernel& k : program.kernels) {
    INFO(loop::print(k));
    if (auto ok = loop::verify(k, true); !ok) FAIL(graphs::text(ok.error()));
    auto ptx = codegen::backend_of(context.target).emit(k, context.target, codegen::EmitKind::ptx, {.symbol = k.name});
    if (!ptx) FAIL(graphs::text(ptx.error()));
    CHECK(ptx->find(".visible .entry " + k.name + "(") != std::string::npos);
    CHECK(ptx->find(".func") == std::string::npos);  // nothing is called that nobody provides
    if (!assembled) continue;
    std::string log = assemble(*ptx, arch);
    if (auto at = log.find("Used "); !log.empty()) {
      REQUIRE(at != std::string::npos);
      CHECK(std::stoi(log.substr(at + 5)) <= 64);  // registers: four blocks of 256 threads fit a multiprocessor
    }
  }
  return program.kernels.size();
}

}  // namespace

TEST_CASE("every example's kernels are PTX that assembles") {
  std::size_t examples = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(AG_SOURCE_DIR) + "/examples")) {
    if (entry.path().extension() != ".json") continue;
    INFO(entry.path().filename().string());
    Sources sources;
    auto g = load(entry.path().string(), sources);
    if (!g) FAIL(render(g.error(), sources));
    CHECK(check_ptx(*g, "sm_80") > 0);
    ++examples;
  }
  CHECK(examples >= 14);
}

TEST_CASE("the graphs of tests/lower are PTX that assembles") {
  for (const graphs::Case& c : graphs::cases()) {
    INFO(c.name);
    Graph g;
    GraphBuilder b(g);
    c.build(b);
    check_ptx(g, "sm_90");
  }
}

TEST_CASE("every op is PTX") {
  std::set<std::pair<const OpInfo*, DType>> seen;  // one shape for each type of elementwise ops, else all samples
  for (const Case& c : all_cases()) {
    if (!compiled(*c.op)) continue;
    bool map = c.op->lower_class == LowerClass::map && !c.sample.operands.empty();
    if (map && !seen.emplace(c.op, c.sample.operands[0].type.dtype).second) continue;
    INFO(c.label);
    auto built = build(c);
    REQUIRE(built);
    check_ptx(built->graph, "sm_80", false);
  }
}

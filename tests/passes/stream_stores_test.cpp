// Which stores go around the caches: those of what is read much later than a cache keeps it.
#include <catch2/catch.hpp>

#include <fmt/format.h>

#include "codegen/backend.hpp"
#include "frontend/load.hpp"
#include "passes/pass.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

/// How many kernels of the program have such stores, for a shared cache of `l3` bytes.
std::size_t around(const std::string& text, long l3) {
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  REQUIRE(g);
  passes::PassContext context;
  context.target = codegen::describe_target("cpu").value();
  context.target.l3_bytes = l3;
  auto r = passes::run_pipeline(*g, {}, context);
  REQUIRE(r);
  const auto& program = std::get<loop::Program>(r->stage);
  std::size_t n = 0;
  for (const loop::Kernel& k : program.kernels)
    n += std::any_of(k.stmts.begin(), k.stmts.end(), [](const loop::Stmt& s) { return s.attr.nontemporal; });
  // The text keeps them.
  auto again = loop::parse_program(loop::print(program));
  REQUIRE(again);
  CHECK(loop::print(*again) == loop::print(program));
  return n;
}

std::string graph(const std::string& size, const std::string& nodes, const std::string& outputs) {
  return fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[{0}]" }},
      {{ "name": "w", "type": "f32[128,128]" }} ], "nodes": [ {1} ], "outputs": [ {2} ] }})",
                     size, nodes, outputs);
}

}  // namespace

TEST_CASE("what no cache keeps until it is read is stored around the caches") {
  const std::string relu = R"({ "op": "Relu", "in": ["x"], "out": "y" })";
  // 512 KiB move, and only the caller reads the result.
  const std::string one = graph("512,128", relu, R"("y")");
  CHECK(around(one, 400 << 10) == 1);
  CHECK(around(one, 420 << 10) == 0);
  // Sums and another pass take longer for as many bytes; functions hide what they wait for.
  const std::string norm = graph("512,128", R"({ "op": "LpNormalization", "in": ["x"], "out": "y" })", R"("y")");
  CHECK(around(norm, 510 << 10) == 1);
  CHECK(around(norm, 520 << 10) == 0);
  const std::string softmax = graph("512,128", R"({ "op": "Softmax", "in": ["x"], "out": "y" })", R"("y")");
  CHECK(around(softmax, 400 << 10) == 1);
  CHECK(around(softmax, 420 << 10) == 0);
  // Of a size that the run tells, nobody knows.
  CHECK(around(graph("N,128", relu, R"("y")"), 1 << 10) == 0);
  // A product waits for its arithmetic.
  CHECK(around(graph("512,128", R"({ "op": "MatMul", "in": ["x", "w"], "out": "y" })", R"("y")"), 16 << 10) == 0);
  // An output that the next kernel reads is still there (the last one is not read), one that is read by nobody has the
  // rest of the program too.
  const std::string sums = R"(, { "op": "CumSum", "in": ["y", 0], "out": "z" })";
  CHECK(around(graph("512,128", relu + sums, R"("y", "z")"), 400 << 10) == 1);
  const std::string others = R"(, { "op": "CumSum", "in": ["x", 0], "out": "z" })";
  CHECK(around(graph("512,128", relu + others, R"("y", "z")"), 800 << 10) == 1);
  CHECK(around(graph("512,128", relu + others, R"("y", "z")"), 840 << 10) == 0);
  // One that is read after 2560 KiB have moved, made together with one that is read at once: a third of that.
  const std::string later = relu + R"(, { "op": "Neg", "in": ["y"], "out": "a" },
    { "op": "CumSum", "in": ["a", 0], "out": "z" }, { "op": "CumSum", "in": ["z", 0], "out": "u" },
    { "op": "Concat", "in": ["u", "y"], "attrs": {"axis": 1}, "out": "v" })";
  CHECK(around(graph("512,128", later, R"("y", "v", "z", "a")"), 850 << 10) == 1);
  CHECK(around(graph("512,128", later, R"("y", "v", "z", "a")"), 856 << 10) == 0);
}

TEST_CASE("stores around the caches give the same bits at any number of threads") {
  const long l3 = codegen::describe_target("cpu").value().l3_bytes;
  const std::int64_t n = std::min<std::int64_t>(3 * l3 / 8, 64 << 20) + 17;
  const std::string text = fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[{}]" }} ],
    "nodes": [ {{ "op": "Mul", "in": ["x", 3.0], "out": "y" }} ], "outputs": ["y"] }})",
                                       n);
  CHECK(around(text, l3) == 1);
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  REQUIRE(g);
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  auto compiled = (*engine)->compile(*g);
  REQUIRE(compiled);
  std::vector<float> x(static_cast<std::size_t>(n) + 1), y(static_cast<std::size_t>(n) + 1);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 1001) * 0.37f - 100;
  for (int threads : {1, 2})
    for (std::size_t from : {0, 1}) {  // aligned or not
      std::fill(y.begin(), y.end(), -1.0f);
      const auto bytes = static_cast<std::size_t>(n) * 4;
      runtime::HostArray in{DType::f32, {n}, x.data() + from, bytes}, out{DType::f32, {n}, y.data() + from, bytes};
      runtime::ExecContext context(compiled->executable, {.threads = threads});
      REQUIRE(context.run({&in, 1}, {&out, 1}));
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) wrong += y[from + i] != x[from + i] * 3.0f;
      CHECK(wrong == 0);
    }
}

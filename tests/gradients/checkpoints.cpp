// Loops that keep checkpoints instead of the values of all trips: the same bits, in memory that does not grow.
#include <catch2/catch.hpp>

#include "runtime/engine.hpp"
#include "tests/gradients/programs.hpp"

using namespace ag;
using namespace ag::test;

namespace {

struct Ran {
  std::vector<Array> values;
  std::size_t bytes;
};
Ran compiled(const Graph& g, const std::vector<Array>& values, std::int64_t limit) {
  static const auto engine = runtime::Engine::create();
  REQUIRE(engine);
  runtime::EngineOptions options;
  options.memory_limit = limit;
  auto c = (*engine)->compile(g, options);
  if (!c) FAIL(messages(c.error()));
  runtime::ExecContext context(c->executable, {.threads = 1, .pool = {}, .host_pool = {}, .memory_limit = limit});
  auto got = runtime::run(context, values);
  if (!got) FAIL(messages(got.error()));
  return {std::move(*got), context.arena_bytes()};
}

void same_bits(const std::vector<Array>& a, const std::vector<Array>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t k = 0; k < a.size(); ++k) {
    REQUIRE(a[k].bytes().size() == b[k].bytes().size());
    CHECK(std::equal(a[k].bytes().begin(), a[k].bytes().end(), b[k].bytes().begin()));
  }
}

/// tanh(s * w + x) as long as the data says so, n times at most.
Probe long_loop(const std::string& type, const std::string& count, const std::string& first, const std::string& again,
                std::vector<Array> values) {
  return program(R"({"name": "x", "type": ")" + type + R"("}, {"name": "w", "type": ")" + type +
                     R"("}, {"name": "n", "type": "i64[]"})",
                 R"({"op": "ReduceMean", "in": ["x"], "out": "start", "attrs": {"keepdims": 0}},
         {"op": "Loop", "in": [)" +
                     count + ", " + first + R"(, "x", "start"], "out": ["last", "scale"], "regions": {"body": {
           "inputs": ["i", "go", "s", "e"],
           "nodes": [{"op": "Mul", "in": ["s", "w"], "out": "m"}, {"op": "Add", "in": ["m", "x"], "out": "a"},
                     {"op": "Tanh", "in": ["a"], "out": "t"},
                     {"op": "ReduceMax", "in": ["t"], "out": "h", "attrs": {"keepdims": 0}},
                     {"op": "Mul", "in": ["e", 0.99], "out": "c0"}, {"op": "Mul", "in": ["c0", "h"], "out": "c1"},
                     {"op": "Less", "in": ["i", "n"], "out": "more"}],
           "outputs": [")" +
                     again + R"(", "t", "c1"]}}},
         {"op": "ReduceSum", "in": ["last"], "out": "r", "attrs": {"keepdims": 0}},
         {"op": "Add", "in": ["r", "scale"], "out": "y"})",
                 std::move(values));
}

}  // namespace

TEST_CASE("checkpoints: any number of trips, known or not, gives the bits of the loop that keeps all") {
  auto values = [](double n) {
    return std::vector<Array>{reals({3}, {0.3, -0.5, 0.7}), reals({3}, {0.8, 1.1, -0.4}), Array::scalar(DType::i64, n)};
  };
  for (const char* type : {"f64[3]", "f64[N]"})
    for (double n : {0., 1., 2., 7., 8., 9., 31., 64., 257., 1000.}) {
      CAPTURE(type, n);
      // n trips; and a while that takes n + 1
      for (const Probe& p :
           {long_loop(type, "\"n\"", "null", "go", values(n)), long_loop(type, "null", "true", "more", values(n))}) {
        const Graph g = gradient(p);
        const std::vector<Array> want = run(g, p.values);
        for (std::int64_t limit : {600, 2000, 20000}) {
          const Graph bounded = with_checkpoints(g, limit);
          sound(bounded);
          CHECK(count_ops(bounded, "Loop") > count_ops(g, "Loop"));
          same_bits(run(bounded, p.values), want);
        }
      }
    }
}

TEST_CASE("checkpoints: compiled, in memory that the number of trips does not set") {
  std::vector<double> x, w;
  for (int i = 0; i < 1024; ++i) x.push_back(0.001 * i - 0.4), w.push_back(0.9 - 0.0003 * i);
  auto values = [&](double n) {
    return std::vector<Array>{reals({1024}, x), reals({1024}, w), Array::scalar(DType::i64, n)};
  };
  for (bool counted : {true, false}) {
    CAPTURE(counted);
    const Probe p = counted ? long_loop("f64[1024]", "\"n\"", "null", "go", values(3000))
                            : long_loop("f64[1024]", "null", "true", "more", values(3000));
    const Graph g = gradient(p);
    const Ran all = compiled(g, p.values, 0), some = compiled(g, p.values, 8 << 20);
    same_bits(all.values, some.values);
    CHECK(all.bytes > 3000 * 8192);
    CHECK(some.bytes < 8 << 20);
    CHECK(compiled(g, values(50000), 8 << 20).bytes < 8 << 20);  // 400 MB if kept
  }
}

TEST_CASE("checkpoints: a request asks for them, or for none") {
  const char* text = R"({ "ag": 1, "inputs": [{"name": "x", "type": "f64[4]"}], "nodes": [
      {"op": "Loop", "in": [100, null, "x"], "out": ["last"], "regions": {"body": {
        "inputs": ["i", "go", "s"], "nodes": [{"op": "Sin", "in": ["s"], "out": "t"}], "outputs": ["go", "t"]}}},
      {"op": "ReduceSum", "in": ["last"], "out": "y", "attrs": {"keepdims": 0}}],
    "outputs": ["y"], "grad": {"of": "y", "wrt": ["x"], "checkpoint": "POLICY"} })";
  const std::vector<Array> x{reals({4}, {0.1, 0.7, 1.3, 2.2})};
  std::vector<Array> want;
  for (auto [policy, limit, loops] :
       {std::tuple{"auto", 0, 1u}, {"sqrt", 0, 3u}, {"none", 1000, 1u}, {"auto", 1000, 3u}}) {
    std::string t = text;
    t.replace(t.find("POLICY"), 6, policy);
    passes::PassContext context;
    auto g = passes::autodiff.on_graph(import(t), context);
    REQUIRE(g);
    Graph bounded = with_checkpoints(*g, limit);
    CAPTURE(policy, limit);
    CHECK(count_ops(bounded, "Loop") == loops);
    if (want.empty()) want = run(*g, x);
    same_bits(run(bounded, x), want);
  }
}

TEST_CASE("checkpoints: a loop that carries more than the limit is refused at its place") {
  Probe p = long_loop("f64[1024]", "50", "null", "go", {});
  passes::PassContext context;
  context.memory_limit = 10000;
  auto out = passes::checkpoint.on_graph(gradient(p), context);
  REQUIRE(!out);
  CHECK(out.error()[0].code == Code::AG5009);
  CHECK(out.error()[0].spans.size() == 1);
}

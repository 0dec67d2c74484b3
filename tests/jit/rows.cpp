// Kernels that walk rows and columns: the same as the interpreter, and the same bits at any number of threads, with the
// sizes known or not.
#include <catch2/catch.hpp>

#include <cmath>

#include <fmt/format.h>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;

namespace {

struct Program {
  const char* name;
  const char* nodes;  // from x [M, N] and w [N] to y
  const char* wrt = "";
};

const Program programs[] = {
    {"softmax", R"({ "op": "Softmax", "in": ["x"], "out": "y" })", "x"},
    {"log_softmax", R"({ "op": "LogSoftmax", "in": ["x"], "out": "y" })", "x"},
    {"layer norm", R"({ "op": "LayerNormalization", "in": ["x", "w"], "out": "y" })", "x,w"},
    {"gelu and layer norm, gated",
     R"({ "op": "Gelu", "in": ["x"], "out": "a" }, { "op": "LayerNormalization", "in": ["a", "w"], "out": "b" },
        { "op": "Tanh", "in": ["b"], "out": "c" }, { "op": "Sigmoid", "in": ["x"], "out": "d" },
        { "op": "Mul", "in": ["c", "d"], "out": "y" })",
     "x"},
    {"largest and smallest",
     R"({ "op": "ReduceMax", "in": ["x", "last"], "out": "a" },
        { "op": "ReduceMin", "in": ["x", "last"], "out": "b" },
        { "op": "Add", "in": ["a", "b"], "out": "c" }, { "op": "Mul", "in": ["x", "c"], "out": "y" })"},
    {"transposed",
     R"({ "op": "Mul", "in": ["x", "w"], "out": "a" }, { "op": "Transpose", "in": ["a"], "out": "b" },
        { "op": "Unsqueeze", "in": ["w", [1]], "out": "c" }, { "op": "Add", "in": ["b", "c"], "out": "d" },
        { "op": "Relu", "in": ["d"], "out": "y" })",
     "x"},
    {"column sums", R"({ "op": "ReduceSum", "in": ["x", "first"], "out": "y", "attrs": { "keepdims": 0 } })"},
    {"sum of squares", R"({ "op": "ReduceSumSquare", "in": ["x"], "out": "y", "attrs": { "keepdims": 0 } })", "x"},
    {"bias and gate", R"({ "op": "Add", "in": ["x", "w"], "out": "a" }, { "op": "Relu", "in": ["a"], "out": "y" })",
     "w"},
};

std::string json_of(const Program& p, const std::string& m, const std::string& n, const char* dtype) {
  std::string grad;
  if (*p.wrt) {
    std::string names;
    for (const char* c = p.wrt; *c; ++c) names += *c == ',' ? std::string("\", \"") : std::string(1, *c);
    grad = R"(, "grad": { "of": "loss", "wrt": [")" + names + R"("] })";
  }
  return fmt::format(R"({{ "ag": 1, "opset": 21, "inputs": [ {{ "name": "x", "type": "{0}[{1},{2}]" }},
      {{ "name": "w", "type": "{0}[{2}]" }} ],
    "initializers": [ {{ "name": "first", "type": "i64[1]", "fill": 0 }},
      {{ "name": "last", "type": "i64[1]", "fill": 1 }} ],
    "nodes": [ {3}, {{ "op": "ReduceSumSquare", "in": ["y"], "out": "loss", "attrs": {{ "keepdims": 0 }} }} ],
    "outputs": ["y"]{4} }})",
                     dtype, m, n, p.nodes, grad);
}

/// The largest difference, in units of the largest value.
double difference(const Array& got, const Array& want) {
  double scale = 1e-3, worst = got.shape() == want.shape() ? 0 : 1e9;
  for (std::int64_t i = 0; i < want.elems(); ++i) scale = std::max(scale, std::abs(want.get_double(i)));
  for (std::int64_t i = 0; worst < 1e9 && i < want.elems(); ++i)
    worst = std::max(worst, std::abs(got.get_double(i) - want.get_double(i)) / scale);
  return worst;
}

void check(runtime::Engine& engine, const Program& p, std::int64_t m, std::int64_t n, const char* dtype,
           const std::string& target) {
  INFO(p.name << " " << dtype << "[" << m << "," << n << "] " << target);
  std::vector<Array> known;
  for (bool symbolic : {false, true}) {
    Sources sources;
    auto g = load_text(symbolic ? json_of(p, "M", "N", dtype) : json_of(p, std::to_string(m), std::to_string(n), dtype),
                       "rows.json", "", sources);
    if (!g) FAIL(test::messages(g.error()));
    test::Random random(p.name);
    const DType t = g->type(g->inputs[0]).dtype;
    std::vector<Array> inputs{test::random_array({t, {m, n}}, -3, 3, random),
                              test::random_array({t, {n}}, -2, 2, random)};
    auto want = interpret(*g, inputs);
    if (!want) FAIL(test::messages(want.error()));
    runtime::EngineOptions options;
    options.target = target;
    auto compiled = engine.compile(*g, options);
    if (!compiled) FAIL(test::messages(compiled.error()));
    for (int threads : {1, 2, 3}) {
      runtime::ExecContext context(compiled->executable, {.threads = threads});
      auto got = runtime::run(context, inputs);
      if (!got) FAIL(test::messages(got.error()));
      if (known.empty()) known = *got;
      for (std::size_t i = 0; i < want->size(); ++i) {
        CHECK(difference((*got)[i], (*want)[i]) < (t == DType::f64 ? 1e-12 : 1e-4));
        CHECK((*got)[i].same_bits(known[i]));
      }
    }
  }
}

}  // namespace

TEST_CASE("rows and columns") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  const std::pair<std::int64_t, std::int64_t> shapes[] = {{1, 1}, {3, 7}, {70, 64}, {97, 200}, {256, 10}, {2000, 129}};
  for (const Program& p : programs)
    for (auto [m, n] : shapes) {
      check(**engine, p, m, n, "f32", "cpu:native");
      if (m < 100) check(**engine, p, m, n, "f32", "cpu:x86-64-v3");
      if (m < 100) check(**engine, p, m, n, "f64", "cpu:native");
    }
}

TEST_CASE("a norm in one pass is right where the row's first element is far from its mean") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  const std::int64_t m = 8, n = 300;
  Array x(DType::f32, {m, n}), w(DType::f32, {n});
  test::Random random("norm");
  Array noise = test::random_array({DType::f32, {m, n}}, -1, 1, random);
  for (std::int64_t i = 0; i < m * n; ++i) {
    const bool first = i % n == 0;
    const double v = noise.get_double(i);
    switch (i / n) {
      case 0: x.set_double(i, 3.7); break;  // no variance at all
      case 1: x.set_double(i, first ? 1e6 : v); break;  // all of it from the first element
      case 2: x.set_double(i, first ? 0 : 1000 + v); break;  // a mean far from it
      case 3: x.set_double(i, 1000 + v); break;  // a mean far from zero
      case 4: x.set_double(i, first ? 1e30 : v * 1e30); break;  // squares overflow
      case 5: x.set_double(i, i % n == 17 ? std::nan("") : v); break;
      case 6: x.set_double(i, i % n == 5 ? -1e4 : v); break;
      default: x.set_double(i, v * 1e-20);
    }
  }
  for (std::int64_t i = 0; i < n; ++i) w.set_double(i, 1);
  for (const char* target : {"cpu:native", "cpu:x86-64-v3"})
    for (bool symbolic : {false, true}) {
      Sources sources;
      auto g = load_text(symbolic ? json_of(programs[2], "M", "N", "f32") : json_of(programs[2], "8", "300", "f32"),
                         "rows.json", "", sources);
      REQUIRE(g);
      g->grads.clear();
      std::vector<Array> inputs{x, w};
      auto want = interpret(*g, inputs);
      auto compiled = engine.value()->compile(*g, {.target = target});
      REQUIRE((want && compiled));
      runtime::ExecContext context(compiled->executable, {.threads = 2});
      auto got = runtime::run(context, inputs);
      REQUIRE(got);
      for (std::size_t o = 0; o < want->size(); ++o)
        for (std::int64_t i = 0; i < (*want)[o].elems(); ++i) {
          const double a = (*got)[o].get_double(i), b = (*want)[o].get_double(i);
          INFO(target << " output " << o << " element " << i << ": " << a << " " << b);
          CHECK((std::isnan(b) ? std::isnan(a) : std::abs(a - b) <= 1e-4 * std::max(1.0, std::abs(b))));
        }
    }
}

TEST_CASE("a few long rows are woven into one, whole and masked registers of every type") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  test::Random random("woven");
  for (const char* target : {"cpu:native", "cpu:x86-64-v3"})
    for (DType t : {DType::f32, DType::f64, DType::f16, DType::i64, DType::i8, DType::boolean})
      for (std::int64_t rows : {2, 3, 4, 7})
        for (std::int64_t n : {7, 16, 58, 64}) {
          INFO(target << " " << dtype_name(t) << "[" << rows << "," << n << "]");
          Graph g;
          GraphBuilder b(g);
          ValueId x = b.input("x", {t, {5, rows, n}});
          g.outputs = {{"y", b.add_op("materialize", {b.transpose(x, {0, 2, 1})}), {}}};
          const std::vector<Array> inputs{test::random_array(g.type(x), 0, 100, random)};
          auto want = interpret(g, inputs);
          runtime::EngineOptions options;
          options.target = target;
          auto compiled = (*engine)->compile(g, options);
          if (!compiled) FAIL(test::messages(compiled.error()));
          runtime::ExecContext context(compiled->executable, {.threads = 2});
          auto got = runtime::run(context, inputs);
          REQUIRE(got);
          CHECK((*got)[0].same_bits((*want)[0]));
        }
}

// The reference interpreter: sizes bound, maps, errors at run time.
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>

#include "ir/op.hpp"
#include "ir/random.hpp"

using namespace ag;

namespace {
Array f32s(std::vector<std::int64_t> shape, std::vector<double> v) {
  return Array::of<double>(DType::f32, std::move(shape), v);
}
Array integers(DType t, std::vector<std::int64_t> shape, std::vector<std::int64_t> v) {
  return Array::of<std::int64_t>(t, std::move(shape), v);
}
Graph graph_of(std::vector<std::pair<std::string, std::string>> inputs) {
  Graph g;
  GraphBuilder b(g);
  for (auto& [name, type] : inputs) b.input(name, *Type::parse(type));
  return g;
}
DimEnv bound(const Graph& g, std::vector<std::vector<std::int64_t>> shapes) { return bind_dims(g, shapes).value(); }
Code code_of(const auto& result) { return result ? Code{} : result.error()[0].code; }
}  // namespace

TEST_CASE("sizes are solved from shapes") {
  CHECK(bound(graph_of({{"x", "f32[N,4]"}}), {{3, 4}}) == DimEnv{{"N", 3}});
  CHECK(bound(graph_of({{"x", "f32[2*N + 1]"}}), {{7}}) == DimEnv{{"N", 3}});
  CHECK(bound(graph_of({{"x", "f32[N*M]"}, {"y", "f32[M]"}}), {{6}, {2}}) == DimEnv{{"M", 2}, {"N", 3}});
  CHECK(bound(graph_of({{"x", "f32[floordiv(N, 2)]"}, {"y", "f32[N]"}}), {{3}, {7}}) == DimEnv{{"N", 7}});
  auto fails = [](Graph g, std::vector<std::vector<std::int64_t>> shapes) { return code_of(bind_dims(g, shapes)); };
  CHECK(fails(graph_of({{"x", "f32[N]"}, {"y", "f32[N]"}}), {{3}, {4}}) == Code::AG5203);
  CHECK(fails(graph_of({{"x", "f32[2*N]"}}), {{7}}) == Code::AG5203);
  CHECK(fails(graph_of({{"x", "f32[N + 5]"}}), {{3}}) == Code::AG5203);
  CHECK(fails(graph_of({{"x", "f32[floordiv(N, 2)]"}}), {{3}}) == Code::AG5204);
  CHECK(fails(graph_of({{"x", "f32[N*M]"}}), {{3}}) == Code::AG5204);
  CHECK(fails(graph_of({{"x", "f32[N]"}}), {{3, 1}}) == Code::AG5202);
  CHECK(fails(graph_of({{"x", "f32[3]"}}), {{4}}) == Code::AG5202);
  CHECK(fails(graph_of({{"x", "f32[3]"}}), {}) == Code::AG5201);
  Graph g = graph_of({{"x", "f32[N]"}});
  g.symbols = {{.name = "N", .min = 2, .max = 8, .multiple_of = 2}};
  CHECK(fails(g, {{4}}) == Code{});
  for (std::int64_t bad : {0, 5, 10}) CHECK(fails(g, {{bad}}) == Code::AG5203);
  Graph h = graph_of({{"x", "f32[floordiv(N, 2)]"}});
  CHECK(bind_dims(h, std::vector<std::vector<std::int64_t>>{{3}}, {{"N", 6}}).value() == DimEnv{{"N", 6}});
  CHECK(code_of(bind_dims(h, std::vector<std::vector<std::int64_t>>{{3}}, {{"N", 9}})) == Code::AG5203);
}

TEST_CASE("maps broadcast as numpy does") {
  Graph g = graph_of({{"x", "f32[N,1,3]"}, {"y", "f32[2,1]"}, {"s", "f32[]"}});
  GraphBuilder b(g);
  ValueId sum = b.add_op("add", {g.inputs[0], g.inputs[1]});
  CHECK(g.type(sum).str() == "f32[N,2,3]");
  g.outputs.push_back({"z", b.add_op("mul", {sum, g.inputs[2]}), {}});
  REQUIRE(verify(g));
  auto out = interpret(g, std::vector{f32s({2, 1, 3}, {1, 2, 3, 4, 5, 6}), f32s({2, 1}, {10, 20}), f32s({}, {2})});
  REQUIRE(out);
  CHECK(format_values((*out)[0]) == "[[[22, 24, 26], [42, 44, 46]], [[28, 30, 32], [48, 50, 52]]]");
  // Sizes known only now.
  Graph h = graph_of({{"x", "f32[N]"}, {"y", "f32[M]"}, {"five", "f32[5]"}});
  GraphBuilder c(h);
  h.outputs.push_back({"z", c.add_op("add", {h.inputs[0], h.inputs[1]}), {}});
  h.outputs.push_back({"w", c.add_op("add", {h.inputs[0], h.inputs[2]}), {}});
  auto run = [&](std::int64_t n, std::int64_t m) {
    return interpret(h, std::vector{Array(DType::f32, {n}), Array(DType::f32, {m}), Array(DType::f32, {5})});
  };
  CHECK(run(5, 5));
  CHECK(run(1, 4).value()[0].shape() == std::vector<std::int64_t>{4});
  CHECK(run(5, 1));
  CHECK(run(1, 0).value()[0].shape() == std::vector<std::int64_t>{0});
  CHECK(code_of(run(5, 4)) == Code::AG5205);
  CHECK(code_of(run(3, 3)) == Code::AG5205);  // 3 with 5
}

TEST_CASE("maps of every dtype at sizes around a tile") {
  for (int t = 0; t < dtype_count; ++t) {
    auto dtype = static_cast<DType>(t);
    if (dtype == DType::boolean) continue;
    for (std::int64_t n : {0, 1, 2, 255, 256, 257, 1000}) {
      Graph g;
      GraphBuilder b(g);
      ValueId x = b.input("x", {dtype, {Dim::symbol("N")}});
      g.outputs.push_back({"y", b.add_op("add", {b.add_op("mul", {x, x}), x}), {}});
      Array a(dtype, {n});
      for (std::int64_t i = 0; i < n; ++i) a.set_int(i, i % 9);
      auto out = interpret(g, std::vector{a});
      REQUIRE(out);
      for (std::int64_t i = 0; i < n; ++i) REQUIRE((*out)[0].get_int(i) == (i % 9) * (i % 9) + i % 9);
    }
  }
}

TEST_CASE("integer division by zero is an error with a place, in any lane but no other") {
  Graph g = graph_of({{"x", "i32[N]"}, {"y", "i32[N]"}});
  GraphBuilder b(g);
  b.set_origin({make_loc("m.json", 4, 2)});
  g.outputs.push_back({"z", b.add_op("div", {g.inputs[0], g.inputs[1]}), {}});
  auto run = [&](std::int64_t n, std::int64_t zero_at) {
    std::vector<std::int64_t> y(n, 2);
    if (zero_at < n) y[zero_at] = 0;
    return interpret(
        g, std::vector{integers(DType::i32, {n}, std::vector<std::int64_t>(n, 7)), integers(DType::i32, {n}, y)});
  };
  CHECK(run(300, 300));  // no zero: the lanes past the end do not trap
  for (std::int64_t at : {0, 255, 256, 299}) {
    auto r = run(300, at);
    REQUIRE_FALSE(r);
    CHECK(r.error()[0].code == Code::AG5013);
    CHECK(r.error()[0].spans.at(0).loc.str() == "m.json:4:2");
  }
}

TEST_CASE("inputs are checked, memory is limited, dead nodes are not run") {
  Graph g = graph_of({{"x", "f32[N]"}, {"i", "i32[]"}});
  GraphBuilder b(g);
  b.add_op("div", {g.inputs[1], g.inputs[1]});  // dead, would trap
  g.outputs.push_back({"y", b.add_op("exp", {g.inputs[0]}), {}});
  CHECK(interpret(g, std::vector{f32s({1}, {0}), integers(DType::i32, {}, {0})}).value()[0].get_double(0) == 1);
  CHECK(code_of(interpret(g, std::vector{f32s({1}, {0})})) == Code::AG5201);
  CHECK(code_of(interpret(g, std::vector{f32s({1}, {0}), f32s({}, {0})})) == Code::AG5202);
  CHECK(code_of(interpret(g, std::vector{f32s({1}, {0}), integers(DType::i32, {}, {0})}, {.dims = {{"N", 2}}})) ==
        Code::AG5203);
  CHECK(code_of(interpret(g, std::vector{Array(DType::f32, {1000}), integers(DType::i32, {}, {0})},
                          {.max_bytes = 7000})) == Code::AG5206);
  CHECK(interpret(g, std::vector{Array(DType::f32, {1000}), integers(DType::i32, {}, {0})}, {.max_bytes = 9000}));
}

TEST_CASE("an elementwise chain over 200,000 elements is quick") {
  Graph g = graph_of({{"x", "f32[N]"}});
  GraphBuilder b(g);
  ValueId x = g.inputs[0];
  ValueId erf = b.add_op("erf", {b.mul(x, std::sqrt(0.5))});
  g.outputs.push_back({"y", b.mul(b.mul(x, 0.5), b.add(erf, 1)), {}});
  Array a(DType::f32, {200'000});
  fill_random(a, Distribution::normal, 1, 1);
  auto start = std::chrono::steady_clock::now();
  auto out = interpret(g, std::vector{a});
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  REQUIRE(out);
  for (std::int64_t i = 0; i < a.elems(); i += 997) {
    double v = a.get_double(i);
    CHECK((*out)[0].get_double(i) == Approx(0.5 * v * (1 + std::erf(v * std::sqrt(0.5)))).margin(1e-6));
  }
  INFO(seconds << " s");
  CHECK(seconds < 5);  // about 0.1 s on an idle machine; the machines that run tests are not idle
}

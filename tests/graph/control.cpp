// If, Loop and Scan: types, evaluation, text.
#include <catch2/catch.hpp>

#include "ir/op.hpp"

using namespace ag;

namespace {
Type type(const char* text) { return *Type::parse(text); }
Array i64(std::int64_t v) { return Array::of<std::int64_t>(DType::i64, {}, std::span(&v, 1)); }
Array f32s(std::vector<std::int64_t> shape, std::vector<double> v) {
  return Array::of<double>(DType::f32, std::move(shape), v);
}
std::string show(const Result<std::vector<Array>>& r, std::size_t i = 0) {
  return r ? format_values((*r)[i]) : r.error()[0].message;
}
void round_trip(const Graph& g) {
  auto back = parse_graph(print(g));
  if (!back) FAIL(print(g) << back.error()[0].message);
  CHECK(print(*back) == print(g));
}

/// body(trip, cond, x, step): cond and x < 100, x + step, scanned x
GraphPtr counting_body() {
  auto g = std::make_shared<Graph>();
  GraphBuilder b(*g);
  b.input("i", type("i64[]"));
  ValueId cond = b.input("cond", type("bool[]"));
  ValueId x = b.input("x", type("f32[]")), step = b.input("step", type("f32[]"));
  ValueId next = b.add(x, step);
  ValueId go = b.add_op("and", {cond, b.compare("lt", next, b.scalar(DType::f32, 100))});
  g->outputs = {{"go", go, {}}, {"next", next, {}}, {"seen", x, {}}};
  return g;
}
}  // namespace

TEST_CASE("Loop counts, carries, scans and stops") {
  Graph g;
  GraphBuilder b(g);
  ValueId trips = b.input("trips", type("i64[]")), start = b.input("start", type("f32[]")),
          step = b.input("step", type("f32[]"));
  auto id = b.try_add(
      op("Loop"),
      {.operands = {trips, {}, start, step}, .attrs = {{"captures", std::int64_t{1}}}, .regions = {counting_body()}});
  REQUIRE(id);
  CHECK(g.type(g.node(*id).result(0)).str() == "f32[]");
  CHECK(g.type(g.node(*id).result(1)).rank() == 1);
  ValueId seen = b.add_op("neg", {g.node(*id).result(1)});
  g.outputs = {{"x", g.node(*id).result(0), {}}, {"seen", seen, {}}};
  REQUIRE(verify(g));
  auto run = [&](std::int64_t n, double from, double by) {
    return interpret(g, std::vector{i64(n), f32s({}, {from}), f32s({}, {by})});
  };
  CHECK(show(run(3, 1, 2)) == "7");
  CHECK(show(run(3, 1, 2), 1) == "[-1, -3, -5]");
  CHECK(show(run(1000, 90, 4)) == "102");
  CHECK(show(run(1000, 90, 4), 1) == "[-90, -94, -98]");
  CHECK(show(run(0, 5, 1)) == "5");
  CHECK(show(run(0, 5, 1), 1) == "[]");
  CHECK(show(run(-1, 5, 1)) == "5");
  auto endless = interpret(g, std::vector{i64(1000), f32s({}, {0}), f32s({}, {0})}, {.max_trips = 10});
  REQUIRE_FALSE(endless);
  CHECK(endless.error()[0].code == Code::AG5209);
  round_trip(g);
}

TEST_CASE("If runs one branch only") {
  auto branch = [](bool trap) {
    auto g = std::make_shared<Graph>();
    GraphBuilder b(*g);
    ValueId x = b.input("", type("i32[N]"));
    g->outputs = {{"", trap ? b.add_op("div", {x, b.scalar_int(DType::i32, 0)}) : b.add_op("add", {x, x}), {}}};
    return g;
  };
  Graph g;
  GraphBuilder b(g);
  ValueId c = b.input("c", type("bool[]")), x = b.input("x", type("i32[N]"));
  auto id = b.try_add(
      op("If"),
      {.operands = {c, x}, .attrs = {{"captures", std::int64_t{1}}}, .regions = {branch(false), branch(true)}});
  REQUIRE(id);
  CHECK(g.type(g.node(*id).result()).str() == "i32[N]");
  g.outputs = {{"y", g.node(*id).result(), {}}};
  REQUIRE(verify(g));
  std::vector<std::int64_t> two{1, 2};
  Array v = Array::of<std::int64_t>(DType::i32, {2}, two);
  CHECK(show(interpret(g, std::vector{Array::scalar(DType::boolean, 1), v})) == "[2, 4]");
  auto bad = interpret(g, std::vector{Array::scalar(DType::boolean, 0), v});
  REQUIRE_FALSE(bad);
  CHECK(bad.error()[0].code == Code::AG5013);
  round_trip(g);
}

TEST_CASE("Loop whose value grows has an unbacked size") {
  auto body = std::make_shared<Graph>();
  GraphBuilder r(*body);
  r.input("i", type("i64[]"));
  ValueId cond = r.input("c", type("bool[]")), x = r.input("x", type("f32[L]"));
  body->outputs = {{"c", cond, {}}, {"x", r.concat({x, x}, 0), {}}};
  Graph g;
  GraphBuilder b(g);
  ValueId x0 = b.input("x", type("f32[3]"));
  auto id = b.try_add(op("Loop"), {.operands = {b.constant(make_literal(i64(2))), {}, x0}, .regions = {body}});
  REQUIRE(id);
  ValueId y = g.node(*id).result();
  CHECK_FALSE(g.type(y).is_static());
  g.outputs = {{"y", b.add_op("neg", {y}), {}}};
  REQUIRE(verify(g));
  CHECK(show(interpret(g, std::vector{f32s({3}, {1, 2, 3})})) == "[-1, -2, -3, -1, -2, -3, -1, -2, -3, -1, -2, -3]");
  round_trip(g);
}

TEST_CASE("Scan runs over sequences, forwards and backwards") {
  auto body = std::make_shared<Graph>();
  GraphBuilder r(*body);
  ValueId s = r.input("s", type("f32[2]")), e = r.input("e", type("f32[2]"));
  ValueId sum = r.add(s, e);
  body->outputs = {{"s", sum, {}}, {"out", sum, {}}};
  for (std::int64_t back : {0, 1}) {
    Graph g;
    GraphBuilder b(g);
    ValueId s0 = b.input("s0", type("f32[2]")), xs = b.input("xs", type("f32[T,2]"));
    std::vector<std::int64_t> directions{back};
    auto id =
        b.try_add(op("Scan"), {.operands = {s0, xs},
                               .attrs = {{"num_scan_inputs", std::int64_t{1}}, {"scan_input_directions", directions}},
                               .regions = {body}});
    REQUIRE(id);
    CHECK(g.type(g.node(*id).result(1)).str() == "f32[T,2]");
    g.outputs = {{"s", g.node(*id).result(0), {}}, {"ys", g.node(*id).result(1), {}}};
    auto out = interpret(g, std::vector{f32s({2}, {0, 10}), f32s({3, 2}, {1, 2, 3, 4, 5, 6})});
    CHECK(show(out) == "[9, 22]");
    CHECK(show(out, 1) == (back ? "[[5, 16], [8, 20], [9, 22]]" : "[[1, 12], [4, 16], [9, 22]]"));
    round_trip(g);
  }
}

TEST_CASE("regions that do not fit are refused") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", type("f64[]")), n = b.input("n", type("i64[]"));
  auto code = [&](GraphBuilder::NodeArgs args) {
    auto id = b.try_add(op("Loop"), std::move(args));
    return id ? Code{} : id.error()[0].code;
  };
  CHECK(code({.operands = {n, {}, x}, .regions = {counting_body()}}) == Code::AG2210);      // one input too many
  CHECK(code({.operands = {n, {}, x, x}, .attrs = {{"captures", std::int64_t{1}}}, .regions = {counting_body()}}) ==
        Code::AG2210);  // f64 for f32
  CHECK(code({.operands = {n, {}, x}, .attrs = {{"captures", std::int64_t{9}}}, .regions = {counting_body()}}) ==
        Code::AG2210);
  CHECK(code({.operands = {n}}) == Code::AG1106);
}

TEST_CASE("regions nest 64 deep and no deeper") {
  auto nested = [](int levels) {
    GraphPtr level;
    for (int i = 0; i <= levels; ++i) {
      auto next = std::make_shared<Graph>();
      GraphBuilder b(*next);
      b.input("i", type("i64[]"));
      ValueId c = b.input("c", type("bool[]")), x = b.input("x", type("f32[]"));
      ValueId y = x;
      if (level) {
        ValueId one = b.constant(make_literal(i64(1)));
        y = next->node(b.try_add(op("Loop"), {.operands = {one, {}, x}, .regions = {level}}).value()).result();
      } else {
        y = b.add(x, x);
      }
      next->outputs = {{"", c, {}}, {"", y, {}}};
      level = next;
    }
    return level;
  };
  GraphPtr good = nested(64), bad = nested(65);
  REQUIRE(verify(*good));
  round_trip(*good);
  CHECK(show(interpret(*good, std::vector{i64(0), Array::scalar(DType::boolean, 1), f32s({}, {21})}), 1) == "42");
  auto refused = verify(*bad);
  REQUIRE_FALSE(refused);
  CHECK(refused.error()[0].code == Code::AG1108);
  auto text = parse_graph(print(*bad));
  REQUIRE_FALSE(text);
  CHECK(text.error()[0].code == Code::AG1108);
}

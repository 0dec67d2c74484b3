// Sizes that only the data know: one executable for every size, compiled against the interpreter.
#include <catch2/catch.hpp>

#include "tests/exec/agree.hpp"

using namespace ag;

using namespace ag::test;

TEST_CASE("a range to a limit from data is a new size in every run of one executable") {
  agree(R"({ "ag": 1, "inputs": [ { "name": "n", "type": "i64[]" } ],
    "nodes": [ { "op": "Range", "in": [0, "n", 1], "out": "r" },
               { "op": "Mul", "in": ["r", "r"], "out": "y" },
               { "op": "ReduceSum", "in": ["y"], "out": "s", "attrs": { "keepdims": 0 } } ],
    "outputs": ["y", "s"] })",
        {{scalar(4)}, {scalar(0)}, {scalar(100)}, {scalar(-3)}, {scalar(4)}, {scalar(70000)}});
  agree(R"({ "ag": 1, "inputs": [ { "name": "a", "type": "f32[]" }, { "name": "b", "type": "f32[]" },
                                  { "name": "d", "type": "f32[]" } ],
    "nodes": [ { "op": "Range", "in": ["a", "b", "d"], "out": "r" }, { "op": "Exp", "in": ["r"], "out": "y" } ],
    "outputs": ["r", "y"] })",
        {{Array::scalar(DType::f32, 1), Array::scalar(DType::f32, 3), Array::scalar(DType::f32, 0.3)},
         {Array::scalar(DType::f32, 1), Array::scalar(DType::f32, -3), Array::scalar(DType::f32, -0.5)},
         {Array::scalar(DType::f32, 1), Array::scalar(DType::f32, 0), Array::scalar(DType::f32, 1)}});
}

TEST_CASE("shapes from data: Reshape, Expand, Tile, ConstantOfShape") {
  auto shaped = [](const std::string& nodes, const std::string& type = "i64[2]") {
    return R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[N,6]" }, { "name": "s", "type": ")" + type +
           R"(" } ], "nodes": [ )" + nodes + R"( ], "outputs": ["y", "z"] })";
  };
  agree(shaped(R"({ "op": "Reshape", "in": ["x", "s"], "out": "r" }, { "op": "Exp", "in": ["r"], "out": "y" },
                  { "op": "ReduceSum", "in": ["r", [1]], "out": "z" })"),
        {{ramp({2, 6}), vec({3, 4})},
         {ramp({2, 6}), vec({4, -1})},
         {ramp({2, 6}), vec({-1, 1})},
         {ramp({4, 6}), vec({0, -1})},
         {ramp({4, 6}), vec({24, 1})}});
  agree(shaped(R"({ "op": "Expand", "in": ["x", "s"], "out": "r" }, { "op": "Neg", "in": ["r"], "out": "y" },
                  { "op": "ReduceMax", "in": ["r", [0, 2]], "out": "z" })",
               "i64[3]"),
        {{ramp({2, 6}), vec({3, 1, 1})}, {ramp({1, 6}), vec({2, 4, 6})}, {ramp({1, 6}), vec({1, 1, 1})}});
  agree(shaped(R"({ "op": "Tile", "in": ["x", "s"], "out": "y" },
                  { "op": "Add", "in": ["y", 1.0], "out": "z" })"),
        {{ramp({2, 6}), vec({3, 1})}, {ramp({1, 6}), vec({2, 2})}, {ramp({3, 6}), vec({0, 1})}});
  agree(shaped(R"({ "op": "ConstantOfShape", "in": ["s"], "out": "c" }, { "op": "Add", "in": ["c", "x"], "out": "y" },
                  { "op": "Shape", "in": ["c"], "out": "z" })"),
        {{ramp({1, 6}), vec({3, 6})}, {ramp({4, 6}), vec({1, 1})}, {ramp({1, 6}), vec({0, 6})}});
}

TEST_CASE("sizes that one decomposition names are not those of a later node") {
  agree(R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[N,5]" }, { "name": "p", "type": "i64[4]" },
                                  { "name": "a", "type": "i64[2]" }, { "name": "b", "type": "i64[2]" } ],
    "nodes": [ { "op": "Pad", "in": ["x", "p"], "out": "w" }, { "op": "Slice", "in": ["w", "a", "b"], "out": "y" } ],
    "outputs": ["y"] })",
        {{ramp({2, 5}), vec({1, 2, 3, 4}), vec({0, 1}), vec({4, 9})},
         {ramp({3, 5}), vec({0, 0, 2, 0}), vec({1, 0}), vec({5, 2})}});
}

TEST_CASE("Slice, Split and Pad by data") {
  const std::string head =
      R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[N,5]" }, { "name": "a", "type": "i64[2]" },
           { "name": "b", "type": "i64[2]" }, { "name": "s", "type": "i64[2]" } ], "nodes": [ )";
  std::vector<std::vector<Array>> runs;
  for (auto [a, b, s] :
       std::vector<std::array<std::vector<std::int64_t>, 3>>{{{{1, 0}, {3, 4}, {1, 1}}},
                                                             {{{-1, 4}, {INT64_MIN, -3}, {-1, -2}}},
                                                             {{{0, 1}, {INT64_MAX, INT64_MAX}, {2, 3}}},
                                                             {{{3, 3}, {1, 100}, {1, 1}}},
                                                             {{{-100, -2}, {100, -1}, {3, 1}}}})
    runs.push_back({ramp({4, 5}), vec(a), vec(b), vec(s)});
  runs.push_back({ramp({1, 5}), vec({0, 0}), vec({5, 5}), vec({1, 2})});
  agree(head + R"({ "op": "Slice", "in": ["x", "a", "b", [0, 1], "s"], "out": "c" },
                  { "op": "Mul", "in": ["c", 2.0], "out": "y" } ], "outputs": ["c", "y"] })",
        runs);
  agree(
      head + R"({ "op": "Slice", "in": ["x", "a", "b"], "out": "c" }, { "op": "Slice", "in": ["x", "a", "b", "s"],
                  "out": "d" }, { "op": "ReduceSum", "in": ["c"], "out": "y" } ], "outputs": ["c", "y"] })",
      {{ramp({4, 5}), vec({1, 2}), vec({3, 5}), vec({1, 0})}, {ramp({3, 5}), vec({-2, -9}), vec({9, 3}), vec({0, 1})}});
  agree(head + R"({ "op": "Split", "in": ["x", "a"], "out": ["p", "q"], "attrs": { "axis": 1 } },
                  { "op": "Concat", "in": ["q", "p"], "out": "y", "attrs": { "axis": 1 } } ], "outputs": ["p", "q",
                    "y"] })",
        {{ramp({2, 5}), vec({2, 3}), vec({0, 0}), vec({0, 0})}, {ramp({3, 5}), vec({0, 5}), vec({0, 0}), vec({0, 0})}});
  for (const char* mode : {"constant", "edge", "reflect", "wrap"})
    agree(
        head + R"({ "op": "Concat", "in": ["a", "b"], "out": "pads", "attrs": { "axis": 0 } },
                    { "op": "Pad", "in": ["x", "pads"], "out": "y", "attrs": { "mode": ")" +
            mode + R"(" } } ],
                    "outputs": ["y"] })",
        {{ramp({3, 5}), vec({1, 2}), vec({0, 3}), vec({0, 0})}, {ramp({4, 5}), vec({0, 0}), vec({2, 1}), vec({0, 0})}});
}

TEST_CASE("impossible sizes and sizes that do not fit are errors with a place; the context runs on") {
  auto error_of = [](const std::string& json, const std::vector<Array>& bad, const std::vector<Array>& good) {
    runtime::Compiled c = compile(load(json));
    runtime::ExecContext context(c.executable);
    auto out = runtime::run(context, bad);
    REQUIRE(!out);
    CHECK(out.error()[0].spans.size() == 1);
    CHECK(out.error()[0].spans[0].loc.line > 0);
    CHECK(runtime::run(context, good));
    return code_of(out.error());
  };
  const std::string shape =
      R"({ "ag": 1, "inputs": [ { "name": "s", "type": "i64[1]" }, { "name": "x", "type": "f32[4]" } ],
    "nodes": [ { "op": "ConstantOfShape", "in": ["s"], "out": "c" }, { "op": "Cos", "in": ["c"], "out": "d" },
               { "op": "Add", "in": ["d", "x"], "out": "y" } ], "outputs": ["d", "y"] })";
  CHECK(error_of(shape, {vec({-1}), ramp({4})}, {vec({1}), ramp({4})}) == "AG5021");
  CHECK(error_of(shape, {vec({3}), ramp({4})}, {vec({4}), ramp({4})}) == "AG5014");
  CHECK(error_of(R"({ "ag": 1, "inputs": [ { "name": "s", "type": "i64[2]" }, { "name": "x", "type": "f32[N]" } ],
    "nodes": [ { "op": "Reshape", "in": ["x", "s"], "out": "y" } ], "outputs": ["y"] })",
                 {vec({3, 2}), ramp({4})}, {vec({2, -1}), ramp({4})}) == "AG5014");
}

TEST_CASE("memory limits hold for sizes from data; callers' arrays need room") {
  Graph g = load(R"({ "ag": 1, "inputs": [ { "name": "n", "type": "i64[]" } ],
    "nodes": [ { "op": "Range", "in": [0, "n", 1], "out": "r" }, { "op": "Mul", "in": ["r", "r"], "out": "y" } ],
    "outputs": ["y"] })");
  runtime::Compiled c = compile(g);
  runtime::ExecContext limited(c.executable, {.threads = 1, .pool = {}, .host_pool = {}, .memory_limit = 1 << 16});
  CHECK(runtime::run(limited, std::vector{scalar(100)}));
  auto out = runtime::run(limited, std::vector{scalar(100000)});
  REQUIRE(!out);
  CHECK(code_of(out.error()) == "AG5009");
  CHECK(runtime::run(limited, std::vector{scalar(200)}));

  runtime::ExecContext context(c.executable);
  Array n = scalar(5);
  std::vector<std::int64_t> room(8);
  runtime::HostArray in = runtime::view_of(n), y{DType::i64, {8}, room.data(), room.size() * 8};
  REQUIRE(context.run({&in, 1}, {&y, 1}));
  CHECK(std::ranges::equal(context.output_shape(0), std::vector<std::int64_t>{5}));
  CHECK(room == std::vector<std::int64_t>{0, 1, 4, 9, 16, 0, 0, 0});
  n = scalar(9);
  in = runtime::view_of(n);
  auto small = context.run({&in, 1}, {&y, 1});
  REQUIRE(!small);
  CHECK(code_of(small.error()) == "AG5022");
}

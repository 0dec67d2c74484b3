// Compiled If, Loop and Scan against the interpreter.
#include <catch2/catch.hpp>

#include <thread>

#include "tests/exec/agree.hpp"

extern thread_local long allocations;  // counted in executable.cpp

using namespace ag;
using namespace ag::test;

namespace {
Array flag(bool v) { return Array::scalar(DType::boolean, v); }
Array number(double v) { return Array::scalar(DType::f32, v); }
std::string graph(const std::string& inputs, const std::string& nodes, const std::string& outputs) {
  return R"({ "ag": 1, "inputs": [)" + inputs + R"(], "nodes": [)" + nodes + R"(], "outputs": [)" + outputs + "] }";
}
const std::string x3 = R"({ "name": "x", "type": "f32[N]" })";
const std::string count = R"({ "name": "n", "type": "i64[]" })";
}  // namespace

TEST_CASE("If: computed, captured and constant results of either branch") {
  agree(graph(R"({ "name": "c", "type": "bool[]" }, )" + x3, R"(
    { "op": "If", "in": ["c"], "out": ["u", "v", "w"], "regions": {
      "then_branch": { "nodes": [ { "op": "Mul", "in": ["x", "x"], "out": "a" }, { "op": "Exp", "in": ["a"],
        "out": "b" },
                                  { "op": "ReduceSum", "in": ["x"], "out": "s" } ], "outputs": ["b", "x", "s"] },
      "else_branch": { "nodes": [ { "op": "Neg", "in": ["x"], "out": "e" }, { "op": "Identity", "in": ["e"],
        "out": "e2" },
                                  { "op": "ReduceMax", "in": ["x"], "out": "m" } ], "outputs": ["e", "e2", "m"] } } },
    { "op": "Add", "in": ["u", "v"], "out": "y" })",
              R"("y", "u", "w")"),
        {{flag(true), ramp({5})}, {flag(false), ramp({5})}, {flag(true), ramp({40000})}});
}

TEST_CASE("If: branches of different sizes, and of sizes that only the data know") {
  agree(graph(R"({ "name": "c", "type": "bool[]" }, )" + x3 + ", " + count, R"(
    { "op": "If", "in": ["c"], "out": ["u"], "regions": {
      "then_branch": { "nodes": [ { "op": "Concat", "in": ["x", "x"], "out": "a", "attrs": { "axis": 0 } } ],
        "outputs": ["a"] },
      "else_branch": { "nodes": [ { "op": "Range", "in": [0, "n", 1], "out": "r" },
                                  { "op": "Cast", "in": ["r"], "out": "f", "attrs": { "to": "f32" } } ],
                                    "outputs": ["f"] } } },
    { "op": "Mul", "in": ["u", 2.0], "out": "y" })",
              R"("y", "u")"),
        {{flag(true), ramp({5}), scalar(3)},
         {flag(false), ramp({5}), scalar(3)},
         {flag(false), ramp({5}), scalar(0)},
         {flag(true), ramp({1}), scalar(3)}});
}

TEST_CASE("Loop: counted, carried values, gathered values, zero trips") {
  agree(graph(x3 + ", " + count, R"(
    { "op": "Loop", "in": ["n", true, "x", 1.0], "out": ["last", "k", "all", "ks"], "regions": { "body": {
      "inputs": ["i", "c", "v", "p"],
      "nodes": [ { "op": "Sin", "in": ["v"], "out": "a" }, { "op": "Mul", "in": ["a", "p"], "out": "w" },
                 { "op": "Cast", "in": ["i"], "out": "f", "attrs": { "to": "f32" } },
                 { "op": "Add", "in": ["p", "f"], "out": "q" }, { "op": "Add", "in": ["w", "x"], "out": "z" },
                 { "op": "Identity", "in": ["q"], "out": "q2" } ],
      "outputs": ["c", "z", "q", "w", "q2"] } } })",
              R"("last", "k", "all", "ks")"),
        {{ramp({4}), scalar(3)},
         {ramp({4}), scalar(0)},
         {ramp({4}), scalar(17)},
         {ramp({700}), scalar(2)},
         {ramp({4}), scalar(-1)}});
  agree(graph(x3, R"(
    { "op": "Loop", "in": [5, null, "x"], "out": ["last", "all"], "regions": { "body": {
      "inputs": ["i", "c", "v"], "nodes": [ { "op": "Identity", "in": [true], "out": "on" }, { "op": "Mul",
        "in": ["v", 0.5], "out": "w" }, { "op": "ReduceSum", "in": ["w"], "out": "s" } ],
      "outputs": ["on", "w", "s"] } } })",
              R"("last", "all")"),
        {{ramp({4})}, {ramp({9})}});
}

TEST_CASE("Loop: a while that the data end, carried values that change places") {
  agree(graph(x3 + R"(, { "name": "y", "type": "f32[N]" })", R"(
    { "op": "ReduceSum", "in": ["x"], "out": "s0", "attrs": { "keepdims": 0 } }, { "op": "Less",
      "in": ["s0", 1000.0], "out": "go" },
    { "op": "Loop", "in": [null, "go", "x", "y"], "out": ["a", "b"], "regions": { "body": {
      "inputs": ["i", "c", "p", "q"],
      "nodes": [ { "op": "Mul", "in": ["p", 2.0], "out": "p2" }, { "op": "Add", "in": ["p2", 1.0], "out": "p3" },
                 { "op": "ReduceSum", "in": ["p3"], "out": "s", "attrs": { "keepdims": 0 } },
                 { "op": "Less", "in": ["s", 1000.0], "out": "again" } ],
      "outputs": ["again", "q", "p3"] } } })",
              R"("a", "b")"),
        {{ramp({8}), ramp({8})}, {ramp({60}), ramp({60})}, {ramp({600}), ramp({600})}});
}

TEST_CASE("Loop: carried values that grow, gathered values of a size that the data tell") {
  agree(graph(x3 + ", " + count, R"(
    { "op": "Loop", "in": ["n", true, "x"], "out": ["longer", "parts"], "regions": { "body": {
      "inputs": ["i", "c", { "name": "v", "type": "f32[K]" }],
      "nodes": [ { "op": "Slice", "in": ["v", [0], [1]], "out": "h" }, { "op": "Add", "in": ["h", 1.0], "out": "h1" },
                 { "op": "Concat", "in": ["h1", "v"], "out": "w", "attrs": { "axis": 0 } } ],
      "outputs": ["c", "w", "h1"] } } },
    { "op": "Mul", "in": ["longer", "longer"], "out": "y" })",
              R"("longer", "parts", "y")"),
        {{ramp({2}), scalar(4)}, {ramp({2}), scalar(0)}, {ramp({3}), scalar(40)}, {ramp({1}), scalar(1)}});
  agree(graph(x3 + ", " + count, R"(
    { "op": "Loop", "in": [4, true, "n"], "out": ["m", "rows"], "regions": { "body": {
      "inputs": ["i", "c", "k"],
      "nodes": [ { "op": "Range", "in": [0, "n", 1], "out": "r" }, { "op": "Add", "in": ["k", "i"], "out": "k2" },
                 { "op": "Add", "in": ["r", "k"], "out": "row" } ],
      "outputs": ["c", "k2", "row"] } } })",
              R"("m", "rows")"),
        {{ramp({2}), scalar(3)}, {ramp({2}), scalar(0)}, {ramp({2}), scalar(5)}});
}

TEST_CASE("Loops and branches in each other") {
  agree(graph(x3 + ", " + count, R"(
    { "op": "Loop", "in": ["n", true, "x"], "out": ["y", "norms"], "regions": { "body": {
      "inputs": ["i", "c", "v"],
      "nodes": [
        { "op": "Loop", "in": ["i", null, "v"], "out": ["w"], "regions": { "body": {
          "inputs": ["j", "d", "u"], "nodes": [ { "op": "Identity", "in": [true], "out": "on" }, { "op": "Add",
            "in": ["u", "x"], "out": "u2" }, { "op": "Tanh", "in": ["u2"], "out": "u3" } ],
          "outputs": ["on", "u3"] } } },
        { "op": "ReduceSum", "in": ["w"], "out": "s", "attrs": { "keepdims": 0 } },
        { "op": "Greater", "in": ["s", 0.0], "out": "positive" },
        { "op": "If", "in": ["positive"], "out": ["z"], "regions": {
          "then_branch": { "nodes": [ { "op": "Mul", "in": ["w", 0.5], "out": "g" } ], "outputs": ["g"] },
          "else_branch": { "nodes": [ { "op": "Sub", "in": ["x", "w"], "out": "h" } ], "outputs": ["h"] } } } ],
      "outputs": ["c", "z", "s"] } } })",
              R"("y", "norms")"),
        {{ramp({4}), scalar(4)}, {ramp({14}), scalar(6)}, {ramp({14}), scalar(0)}});
}

TEST_CASE("Scan: states, sequences from either end and along any axis") {
  agree(graph(
            R"({ "name": "s", "type": "f32[N]" }, { "name": "a", "type": "f32[T,N]" }, { "name": "b",
            "type": "f32[N,T]" })",
            R"(
    { "op": "Scan", "in": ["s", "a", "b"], "out": ["last", "sums", "rows"], "attrs": { "num_scan_inputs": 2,
      "scan_input_axes": [0, 1], "scan_input_directions": [1, 0], "scan_output_axes": [0, 1],
        "scan_output_directions": [0, 1] },
      "regions": { "body": { "inputs": ["p", "u", "v"],
        "nodes": [ { "op": "Mul", "in": ["u", "v"], "out": "uv" }, { "op": "Add", "in": ["p", "uv"], "out": "q" },
                   { "op": "ReduceSum", "in": ["q"], "out": "t", "attrs": { "keepdims": 0 } } ],
        "outputs": ["q", "t", "uv"] } } })",
            R"("last", "sums", "rows")"),
        {{ramp({3}), ramp({4, 3}), ramp({3, 4})},
         {ramp({3}), ramp({0, 3}), ramp({3, 0})},
         {ramp({30}), ramp({7, 30}), ramp({30, 7})}});
}

TEST_CASE("a trap in a loop names its line; a run in a loop can be cancelled") {
  runtime::Compiled c = compile(
      load(graph(R"({ "name": "x", "type": "f32[4]" }, { "name": "n", "type": "i64[]" })",
                 "{ \"op\": \"Loop\", \"in\": [\"n\", true, \"x\"], \"out\": [\"y\"], \"regions\": { \"body\": { "
                 "\"inputs\": [\"i\", \"c\", \"v\"],\n"
                 "\"nodes\": [ { \"op\": \"Gather\", \"in\": [\"v\", \"i\"], \"out\": \"e\" },\n"
                 "{ \"op\": \"Add\", \"in\": [\"v\", \"e\"], \"out\": \"w\" } ], \"outputs\": [\"c\", \"w\"] } } }",
                 "\"y\"")));
  runtime::ExecContext context(c.executable);
  CHECK(runtime::run(context, std::vector{ramp({4}), scalar(4)}));
  auto out = runtime::run(context, std::vector{ramp({4}), scalar(5)});
  REQUIRE(!out);
  CHECK(code_of(out.error()) == "AG5012");
  CHECK(out.error()[0].spans[0].loc.line == 2);
  CHECK(runtime::run(context, std::vector{ramp({4}), scalar(2)}));
}

TEST_CASE("gradients of branches and loops run compiled, those of unknown length too") {
  auto with_grad = [](const std::string& inputs, const std::string& nodes, const std::string& outputs,
                      const char* wrt) {
    std::string g = graph(inputs, nodes, outputs);
    g.pop_back();
    return g + R"(, "grad": { "of": "y", "wrt": [)" + wrt + "] } }";
  };
  const std::string loop = R"(
    { "op": "Loop", "in": ["n", true, "x"], "out": ["last", "all"], "regions": { "body": {
      "inputs": ["i", "c", "v"],
      "nodes": [ { "op": "Mul", "in": ["v", "w"], "out": "m" }, { "op": "Tanh", "in": ["m"], "out": "t" },
                 { "op": "Add", "in": ["t", "x"], "out": "z" }, { "op": "ReduceSum", "in": ["t"], "out": "s" },
                 { "op": "Greater", "in": ["s", 0.0], "out": "up" }, { "op": "Squeeze", "in": ["up"], "out": "up0" },
                 { "op": "If", "in": ["up0"], "out": ["b"], "regions": {
                   "then_branch": { "nodes": [ { "op": "Mul", "in": ["z", 0.5], "out": "h" } ], "outputs": ["h"] },
                   "else_branch": { "nodes": [ { "op": "Sin", "in": ["z"], "out": "k" } ], "outputs": ["k"] } } } ],
      "outputs": ["c", "b", "m"] } } },
    { "op": "ReduceSum", "in": ["all"], "out": "p", "attrs": { "keepdims": 0 } },
    { "op": "ReduceSum", "in": ["last"], "out": "q", "attrs": { "keepdims": 0 } },
    { "op": "Mul", "in": ["p", "q"], "out": "y" })";
  agree(with_grad(x3 + R"(, { "name": "w", "type": "f32[N]" }, )" + count, loop, R"("y")", R"("x", "w")"),
        {{ramp({3}), ramp({3}), scalar(4)}, {ramp({3}), ramp({3}), scalar(0)}, {ramp({9}), ramp({9}), scalar(11)}});
  agree(with_grad(x3 + R"(, { "name": "a", "type": "f32[T,N]" })", R"(
    { "op": "Scan", "in": ["x", "a"], "out": ["last", "rows"], "attrs": { "num_scan_inputs": 1 },
      "regions": { "body": { "inputs": ["p", "u"],
        "nodes": [ { "op": "Mul", "in": ["p", "u"], "out": "pu" }, { "op": "Tanh", "in": ["pu"], "out": "q" },
                   { "op": "Exp", "in": ["q"], "out": "r" } ], "outputs": ["q", "r"] } } },
    { "op": "ReduceSum", "in": ["rows"], "out": "s", "attrs": { "keepdims": 0 } },
    { "op": "ReduceSum", "in": ["last"], "out": "t", "attrs": { "keepdims": 0 } }, { "op": "Mul", "in": ["s", "t"],
      "out": "y" })",
                  R"("y")", R"("x", "a")"),
        {{ramp({3}), ramp({4, 3})}, {ramp({3}), ramp({0, 3})}, {ramp({5}), ramp({6, 5})}});
}

TEST_CASE("after the first run at given sizes a loop allocates nothing; several sizes need no new code") {
  runtime::Compiled c = compile(differentiated(load(graph(x3 + ", " + count, R"(
    { "op": "Loop", "in": ["n", true, "x"], "out": ["last", "all"], "regions": { "body": {
      "inputs": ["i", "c", "v"], "nodes": [ { "op": "Range", "in": [0, "i", 1], "out": "r" },
        { "op": "Cast", "in": ["r"], "out": "f", "attrs": { "to": "f32" } },
        { "op": "ReduceSum", "in": ["f"], "out": "s", "attrs": { "keepdims": 0 } },
        { "op": "Add", "in": ["v", "s"], "out": "w" } ], "outputs": ["c", "w", "s"] } } })",
                                                          R"("last", "all")"))));
  runtime::ExecContext context(c.executable);
  Array x = ramp({4}), n = scalar(9);
  std::vector<float> last(4), all(64);
  runtime::HostArray in[] = {runtime::view_of(x), runtime::view_of(n)};
  runtime::HostArray out[] = {{DType::f32, {4}, last.data(), 16}, {DType::f32, {64}, all.data(), 256}};
  for (std::int64_t trips : {9, 20, 9, 3, 20}) {
    n.set_int(0, trips);
    in[1] = runtime::view_of(n);
    const long before = allocations;
    REQUIRE(context.run(in, out));
    if (trips != 9 || context.output_shape(1)[0] != 9) CHECK(context.output_shape(1)[0] == trips);
    if (trips < 20) continue;
    const long again = allocations;
    REQUIRE(context.run(in, out));
    CHECK(allocations == again);
    CHECK(before <= again);
  }
  CHECK(all[19] == 171);
}

TEST_CASE("a loop without an end is cancelled; what a loop gathers respects the memory limit") {
  runtime::Compiled c = compile(load(graph(x3, R"(
    { "op": "Loop", "in": [null, true, "x"], "out": ["last", "all"], "regions": { "body": {
      "inputs": ["i", "c", "v"], "nodes": [ { "op": "Mul", "in": ["v", 0.5], "out": "w" } ],
      "outputs": ["c", "w", "v"] } } })",
                                           R"("last", "all")")));
  runtime::ExecContext limited(c.executable, {.threads = 1, .pool = {}, .host_pool = {}, .memory_limit = 1 << 20});
  auto out = runtime::run(limited, std::vector{ramp({100})});
  REQUIRE(!out);
  CHECK(code_of(out.error()) == "AG5009");
  runtime::Compiled d = compile(load(graph(x3, R"(
    { "op": "Loop", "in": [null, true, "x"], "out": ["last"], "regions": { "body": {
      "inputs": ["i", "c", "v"], "nodes": [ { "op": "Mul", "in": ["v", 0.5], "out": "w" } ],
      "outputs": ["c", "w"] } } })",
                                           R"("last")")));
  runtime::ExecContext context(d.executable);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    context.cancel();
  });
  out = runtime::run(context, std::vector{ramp({100})});
  other.join();
  REQUIRE(!out);
  CHECK(code_of(out.error()) == "AG5011");
}

TEST_CASE("a loop updates a carried array in place") {
  const std::string json = graph(R"({ "name": "x", "type": "f32[N,3]" }, )" + count, R"(
    { "op": "Loop", "in": ["n", true, "x"], "out": ["y", "old"], "regions": { "body": {
      "inputs": ["i", "c", "v"],
      "nodes": [ { "op": "Gather", "in": ["v", "i"], "out": "row" }, { "op": "Mul", "in": ["row", 2.0], "out": "row2" },
                 { "op": "Unsqueeze", "in": ["row2", [0]], "out": "upd" }, { "op": "Unsqueeze", "in": ["i", [0, 1]],
                   "out": "at" },
                 { "op": "ScatterND", "in": ["v", "at", "upd"], "out": "w" } ],
      "outputs": ["c", "w", "row"] } } })",
                                 R"("y", "old")");
  agree(json, {{ramp({4, 3}), scalar(3)}, {ramp({4, 3}), scalar(4)}, {ramp({4, 3}), scalar(0)}});
  const std::string text = loop::print(compile(load(json)).executable->program());
  const std::string body = text.substr(text.find("while"));
  CHECK(body.find("scatter") != std::string::npos);
  CHECK(body.find("swap") == std::string::npos);
  CHECK(body.substr(0, body.find("}", body.find("do {"))).find("\"copy\"") == std::string::npos);
  // Two users of the old value: no update in place, the same answers.
  agree(graph(R"({ "name": "x", "type": "f32[N,3]" }, )" + count, R"(
    { "op": "Loop", "in": ["n", true, "x", "x"], "out": ["y", "z"], "regions": { "body": {
      "inputs": ["i", "c", "v", "u"],
      "nodes": [ { "op": "Unsqueeze", "in": ["i", [0, 1]], "out": "at" },
                 { "op": "ScatterND", "in": ["v", "at", [[1.0, 2.0, 3.0]]], "out": "w" },
                 { "op": "Add", "in": ["w", "v"], "out": "s" }, { "op": "Add", "in": ["s", "u"], "out": "u2" } ],
      "outputs": ["c", "w", "u2"] } } })",
              R"("y", "z")"),
        {{ramp({4, 3}), scalar(3)}, {ramp({4, 3}), scalar(0)}});
}

TEST_CASE("Scan gathers rows of a size that the data tell; rows of different sizes are an error") {
  const std::string rows = graph(count + R"(, { "name": "a", "type": "i64[T]" })", R"(
    { "op": "Scan", "in": ["n", "a"], "out": ["k", "r1", "r2"], "attrs": { "num_scan_inputs": 1,
        "scan_output_axes": [0, 1], "scan_output_directions": [1, 0] },
      "regions": { "body": { "inputs": ["p", "u"],
        "nodes": [ { "op": "Range", "in": [0, "n", 1], "out": "r" }, { "op": "Add", "in": ["r", "u"], "out": "s" },
                   { "op": "Add", "in": ["p", "u"], "out": "q" }, { "op": "Mul", "in": ["s", "q"], "out": "t" } ],
        "outputs": ["q", "s", "t"] } } })",
                                 R"("k", "r1", "r2")");
  agree(rows, {{scalar(3), vec({5, 6, 7})}, {scalar(2), vec({5})}, {scalar(4), vec({1, 2, 3, 4, 5})}});
  runtime::Compiled c = compile(load(graph(count, R"(
    { "op": "Loop", "in": ["n", true], "out": ["rows"], "regions": { "body": { "inputs": ["i", "c"],
        "nodes": [ { "op": "Range", "in": [0, "i", 1], "out": "r" } ], "outputs": ["c", "r"] } } })",
                                           R"("rows")")));
  runtime::ExecContext context(c.executable);
  CHECK(runtime::run(context, std::vector{scalar(1)}));
  auto out = runtime::run(context, std::vector{scalar(3)});
  REQUIRE(!out);
  CHECK(code_of(out.error()) == "AG5014");
}

TEST_CASE("Loop: carried values that grow alike; where they do not, it is an error") {
  const std::string json = graph(x3 + R"(, { "name": "y", "type": "f32[M]" }, )" + count, R"(
    { "op": "Loop", "in": ["n", true, "x", "y"], "out": ["a", "b"], "regions": { "body": {
      "inputs": ["i", "c", { "name": "v", "type": "f32[K]" }, { "name": "w", "type": "f32[K]" }],
      "nodes": [ { "op": "Add", "in": ["v", "w"], "out": "s" },
                 { "op": "Concat", "in": ["s", [1.0]], "out": "v2", "attrs": { "axis": 0 } },
                 { "op": "Concat", "in": ["w", [2.0]], "out": "w2", "attrs": { "axis": 0 } } ],
      "outputs": ["c", "v2", "w2"] } } })",
                                 R"("a", "b")");
  agree(json,
        {{ramp({3}), ramp({3}), scalar(4)}, {ramp({2}), ramp({2}), scalar(0)}, {ramp({1}), ramp({1}), scalar(9)}});
  runtime::ExecContext context(compile(load(json)).executable);
  auto out = runtime::run(context, std::vector{ramp({3}), ramp({2}), scalar(1)});
  REQUIRE(!out);
  CHECK(code_of(out.error()) == "AG5014");
}

// Derivatives of If, Loop and Scan: differences, forward mode, second order, and the same programs unrolled.
#include <catch2/catch.hpp>

#include "runtime/engine.hpp"
#include "tests/gradients/programs.hpp"

using namespace ag;
using namespace ag::test;

namespace {

/// The compiled program, its regions included, gives what the interpreter gives.
void check_compiled(const Graph& g, const std::vector<Array>& values) {
  static const auto engine = runtime::Engine::create();
  REQUIRE(engine);
  const std::vector<Array> want = run(g, values);
  for (int level : {0, 2}) {
    runtime::EngineOptions options;
    options.pipeline.opt_level = level;
    auto c = (*engine)->compile(g, options);
    if (!c) FAIL(messages(c.error()));
    runtime::ExecContext context(c->executable);
    auto got = runtime::run(context, values);
    if (!got) FAIL(messages(got.error()));
    for (std::size_t k = 0; k < want.size(); ++k) {
      CHECK((*got)[k].shape() == want[k].shape());
      for (std::int64_t i = 0; i < want[k].elems(); ++i)
        CHECK((*got)[k].get_double(i) == Approx(want[k].get_double(i)).epsilon(1e-10).margin(1e-12));
    }
  }
}

/// The same bits with checkpoints instead of the values of all trips; products over all trips are summed in parts.
void check_checkpoints(const Graph& g, const std::vector<Array>& values) {
  const std::vector<Array> want = run(g, values);
  for (std::int64_t limit : {300, 1000, 4000}) {
    Graph bounded = with_checkpoints(g, limit);
    if (count_ops(bounded, "Loop") == count_ops(g, "Loop")) continue;
    sound(bounded);
    check_compiled(bounded, values);
    const std::vector<Array> got = run(bounded, values);
    for (std::size_t k = 0; k < want.size(); ++k)
      for (std::int64_t i = 0; i < want[k].elems(); ++i)
        CHECK(got[k].get_double(i) == Approx(want[k].get_double(i)).epsilon(1e-13));
  }
}

void check_all(const Probe& p) {
  check_checkpoints(gradient(p), p.values);
  check_compiled(gradient(p), p.values);
  sound(gradient(p));
  check_reverse(p, "control");
  check_forward(p, "control");
  Probe second = slope_probe(p, directions(p, "u"));
  sound(gradient(second));
  check_compiled(gradient(second), second.values);
  check_checkpoints(gradient(second), second.values);
  check_second(p, "control");
}

/// Both programs have the same value and gradients.
void check_same(const Probe& a, const Probe& b) {
  CHECK(run(a.graph, a.values)[0].get_double(0) == Approx(run(b.graph, b.values)[0].get_double(0)));
  std::vector<Array> ga = run(gradient(a), a.values), gb = run(gradient(b), b.values);
  REQUIRE(ga.size() == gb.size());
  for (std::size_t k = 0; k < ga.size(); ++k)
    for (std::int64_t i = 0; i < ga[k].elems(); ++i) CHECK(ga[k].get_double(i) == Approx(gb[k].get_double(i)));
}

}  // namespace

TEST_CASE("If: captured values, one branch without a gradient, values passed through") {
  for (std::int64_t side : {0, 1}) {
    Probe p =
        program(R"({"name": "c", "type": "bool[]"}, {"name": "a", "type": "f64[3]"}, {"name": "b", "type": "f64[3]"})",
                R"({"op": "If", "in": ["c"], "out": ["u", "v"], "regions": {
             "then_branch": {"nodes": [{"op": "Mul", "in": ["a", "b"], "out": "ab"},
                                       {"op": "Sin", "in": ["ab"], "out": "s"}], "outputs": ["s", "a"]},
             "else_branch": {"nodes": [{"op": "Exp", "in": ["a"], "out": "e"},
                                       {"op": "Identity", "in": ["e"], "out": "e2"}],
                             "outputs": ["e", "e2"]}}},
           {"op": "Mul", "in": ["u", "v"], "out": "uv"},
           {"op": "ReduceSum", "in": ["uv"], "out": "y", "attrs": {"keepdims": 0}})",
                {Array::scalar(DType::boolean, static_cast<double>(side)), reals({3}, {0.3, -0.7, 1.1}),
                 reals({3}, {1.5, 0.4, -0.9})});
    check_all(p);
  }
}

TEST_CASE("If: a branch that the predicate did not take leaves no NaN") {
  Probe p = program(R"({"name": "a", "type": "f64[]"})",
                    R"({"op": "Greater", "in": ["a", 0.0], "out": "c"},
         {"op": "If", "in": ["c"], "out": "y", "regions": {
             "then_branch": {"nodes": [{"op": "Log", "in": ["a"], "out": "l"}], "outputs": ["l"]},
             "else_branch": {"nodes": [{"op": "Mul", "in": ["a", 2.0], "out": "t"}], "outputs": ["t"]}}})",
                    {real(0)});
  CHECK(run(gradient(p), p.values)[0].get_double(0) == 2);
}

namespace {
const char* counted =
    R"({"op": "Loop", "in": [4, null, "x"], "out": ["last", "all"], "regions": {"body": {
         "inputs": ["i", "go", "s"],
         "nodes": [{"op": "Mul", "in": ["s", "w"], "out": "m"}, {"op": "Tanh", "in": ["m"], "out": "t"},
                   {"op": "Exp", "in": ["s"], "out": "e"}, {"op": "Add", "in": ["t", "x"], "out": "n"}],
         "outputs": ["go", "n", "e"]}}},
       {"op": "ReduceSum", "in": ["all"], "out": "q", "attrs": {"keepdims": 0}},
       {"op": "ReduceSum", "in": ["last"], "out": "r", "attrs": {"keepdims": 0}},
       {"op": "Mul", "in": ["q", "r"], "out": "y"})";
const char* two_inputs = R"({"name": "x", "type": "f64[2]"}, {"name": "w", "type": "f64[2]"})";
}  // namespace

TEST_CASE("Loop: a known number of trips, carried and captured values, scan outputs") {
  Probe p = program(two_inputs, counted, {reals({2}, {0.3, -0.5}), reals({2}, {0.8, 1.2})});
  check_all(p);
  std::string flat, sum, s = "x";
  for (int k = 0; k < 4; ++k) {
    std::string i = std::to_string(k);
    flat += R"({"op": "Mul", "in": [")" + s + R"(", "w"], "out": "m)" + i + R"("}, {"op": "Tanh", "in": ["m)" + i +
            R"("], "out": "t)" + i + R"("}, {"op": "Exp", "in": [")" + s + R"("], "out": "e)" + i +
            R"("}, {"op": "Add", "in": ["t)" + i + R"(", "x"], "out": "n)" + i + R"("},)";
    sum += (k ? ", \"e" : "\"e") + i + "\"";
    s = "n" + i;
  }
  flat += R"({"op": "Concat", "in": [)" + sum + R"(], "out": "all", "attrs": {"axis": 0}},
             {"op": "ReduceSum", "in": ["all"], "out": "q", "attrs": {"keepdims": 0}},
             {"op": "ReduceSum", "in": [")" +
          s + R"("], "out": "r", "attrs": {"keepdims": 0}},
             {"op": "Mul", "in": ["q", "r"], "out": "y"})";
  check_same(p, program(two_inputs, flat, p.values));
}

TEST_CASE("Loop: no trip at all, and trips that only the data knows") {
  for (std::int64_t trips : {0, 1, 5}) {
    Probe p = program(
        R"({"name": "n", "type": "i64[]"}, {"name": "x", "type": "f64[N]"}, {"name": "w", "type": "f64[N]"},
           {"name": "one", "type": "f64[]"})",
        R"({"op": "Loop", "in": ["n", null, "x", "one"], "out": ["last", "scale", "all"], "regions": {"body": {
             "inputs": ["i", "go", "s", "c"],
             "nodes": [{"op": "Mul", "in": ["s", "w"], "out": "m"}, {"op": "Sin", "in": ["m"], "out": "t"},
                       {"op": "Cast", "in": ["i"], "out": "f", "attrs": {"to": 11}},
                       {"op": "Mul", "in": ["t", "f"], "out": "tf"},
                       {"op": "ReduceSum", "in": ["t"], "out": "h", "attrs": {"keepdims": 0}},
                       {"op": "Mul", "in": ["c", "h"], "out": "ch"}],
             "outputs": ["go", "t", "ch", "tf"]}}},
           {"op": "ReduceSum", "in": ["all"], "out": "q", "attrs": {"keepdims": 0}},
           {"op": "ReduceSum", "in": ["last"], "out": "r", "attrs": {"keepdims": 0}},
           {"op": "Add", "in": ["q", "r"], "out": "qr"}, {"op": "Mul", "in": ["qr", "scale"], "out": "y"})",
        {Array::scalar(DType::i64, static_cast<double>(trips)), reals({2}, {0.3, -0.5}), reals({2}, {0.8, 1.2}),
         real(1)});
    CAPTURE(trips);
    check_all(p);
  }
}

TEST_CASE("Loop: a while whose condition looks at the carried value; integers are carried silently") {
  Probe p = program(R"({"name": "x", "type": "f64[3]"}, {"name": "w", "type": "f64[]"})",
                    R"({"op": "Loop", "in": [null, true, "x", 0], "out": ["b", "count"], "regions": {"body": {
           "inputs": ["i", "go", "s", "k"],
           "nodes": [{"op": "Mul", "in": ["s", "w"], "out": "m"}, {"op": "ReduceL2", "in": ["m"], "out": "n",
                      "attrs": {"keepdims": 0}},
                     {"op": "Less", "in": ["n", 50.0], "out": "again"}, {"op": "Add", "in": ["k", 1], "out": "k1"}],
           "outputs": ["again", "m", "k1"]}}},
         {"op": "Cast", "in": ["count"], "out": "f", "attrs": {"to": 11}},
         {"op": "ReduceSumSquare", "in": ["b"], "out": "q", "attrs": {"keepdims": 0}},
         {"op": "Mul", "in": ["q", "f"], "out": "y"})",
                    {reals({3}, {0.3, -0.5, 0.9}), real(2.1)});
  check_all(p);
}

TEST_CASE("Loop: a reverse that needs nothing of a trip but its number keeps nothing of the trips") {
  Probe p =
      program(R"({"name": "x", "type": "f64[2]"}, {"name": "w", "type": "f64[]"}, {"name": "n", "type": "i64[1]"})",
              R"({"op": "Sin", "in": ["w"], "out": "sw"},
         {"op": "Loop", "in": ["n", true, "x"], "out": ["b"], "regions": {"body": {
           "inputs": ["i", "go", "s"],
           "nodes": [{"op": "Cast", "in": ["i"], "out": "f", "attrs": {"to": 11}},
                     {"op": "Mul", "in": ["f", 0.1], "out": "g"}, {"op": "Add", "in": ["g", 1.5], "out": "k"},
                     {"op": "Mul", "in": ["s", "k"], "out": "m"}, {"op": "Add", "in": ["m", "sw"], "out": "m1"},
                     {"op": "ReduceMax", "in": ["m1"], "out": "top", "attrs": {"keepdims": 0}},
                     {"op": "Less", "in": ["top", 9.0], "out": "again"}],
           "outputs": ["again", "m1"]}}},
         {"op": "ReduceSumSquare", "in": ["b"], "out": "y", "attrs": {"keepdims": 0}})",
              {reals({2}, {0.3, -0.5}), real(0.9), Array::of<double>(DType::i64, {1}, std::vector<double>{100})});
  CHECK(count_ops(gradient(p), "Scan") == 0);
  check_all(p);
  p.values[2].set_int(0, 0);
  check_all(p);
}

TEST_CASE("Loop: carries become active through each other, and what is not connected stays away") {
  Probe p = program(R"({"name": "x", "type": "f64[2]"}, {"name": "z", "type": "f64[2]"})",
                    R"({"op": "Constant", "out": "u", "attrs": {"value": {"type": "f64[]", "data": 1.0}}},
         {"op": "Constant", "out": "v", "attrs": {"value": {"type": "f64[]", "data": 0.5}}},
         {"op": "Loop", "in": [3, null, "u", "v", "x", "z"], "out": ["a", "b", "c", "d"], "regions": {"body": {
           "inputs": ["i", "go", "p", "q", "r", "s"],
           "nodes": [{"op": "ReduceSum", "in": ["r"], "out": "h", "attrs": {"keepdims": 0}},
                     {"op": "Mul", "in": ["q", "h"], "out": "p1"}, {"op": "Sin", "in": ["p"], "out": "q1"},
                     {"op": "Mul", "in": ["r", 0.9], "out": "r1"}, {"op": "Cos", "in": ["s"], "out": "s1"}],
           "outputs": ["go", "p1", "q1", "r1", "s1"]}}},
         {"op": "Add", "in": ["a", "b"], "out": "y"})",
                    {reals({2}, {0.3, 0.4}), reals({2}, {0.8, 1.2})});
  check_all(p);
  Graph g = p.graph;
  auto grads = passes::reverse(g, {.of = p.loss, .seed = {}, .wrt = p.wrt, .stop = {}});
  REQUIRE(grads);
  CHECK((*grads)[0].valid());
  CHECK_FALSE((*grads)[1].valid());
  CHECK(count_ops(g, "sin") + count_ops(g, "cos") < 5);  // no derivative of the cosine that nobody wants
}

TEST_CASE("Loop: carried values that change places, and a result that is the initial value") {
  check_all(program(R"({"name": "x", "type": "f64[]"}, {"name": "z", "type": "f64[]"})",
                    R"({"op": "Loop", "in": [3, null, "x", "z", "x"], "out": ["a", "b", "c"], "regions": {"body": {
           "inputs": ["i", "go", "p", "q", "r"],
           "nodes": [{"op": "Mul", "in": ["p", "q"], "out": "pq"}, {"op": "Sin", "in": ["pq"], "out": "t"}],
           "outputs": ["go", "q", "t", "r"]}}},
         {"op": "Mul", "in": ["a", "b"], "out": "ab"}, {"op": "Mul", "in": ["ab", "c"], "out": "y"})",
                    {real(0.7), real(1.3)}));
}

TEST_CASE("Scan: several sequences, axes, both directions, a captured weight") {
  for (int back : {0, 1}) {
    std::string d = std::to_string(back);
    check_all(program(
        R"({"name": "s0", "type": "f64[2]"}, {"name": "xs", "type": "f64[2,T]"}, {"name": "zs", "type": "f64[T]"},
           {"name": "w", "type": "f64[2,2]"})",
        R"({"op": "Scan", "in": ["s0", "xs", "zs"], "out": ["last", "ys", "hs"],
             "attrs": {"num_scan_inputs": 2, "scan_input_axes": [1, 0], "scan_input_directions": [)" +
            d + R"(, 0],
                       "scan_output_axes": [1, 0], "scan_output_directions": [0, )" +
            d + R"(]},
             "regions": {"body": {"inputs": ["s", "x", "z"],
               "nodes": [{"op": "MatMul", "in": ["w", "s"], "out": "ws"}, {"op": "Add", "in": ["ws", "x"], "out": "a"},
                         {"op": "Tanh", "in": ["a"], "out": "t"}, {"op": "Mul", "in": ["t", "z"], "out": "n"},
                         {"op": "Exp", "in": ["z"], "out": "ez"}],
               "outputs": ["n", "t", "ez"]}}},
           {"op": "ReduceL2", "in": ["ys"], "out": "q", "attrs": {"keepdims": 0}},
           {"op": "ReduceSumSquare", "in": ["hs"], "out": "h", "attrs": {"keepdims": 0}},
           {"op": "ReduceSum", "in": ["last"], "out": "r", "attrs": {"keepdims": 0}},
           {"op": "Mul", "in": ["q", "h"], "out": "qh"}, {"op": "Add", "in": ["qh", "r"], "out": "y"})",
        {reals({2}, {0.1, -0.3}), reals({2, 3}, {0.3, -0.5, 0.8, 1.1, -0.2, 0.4}), reals({3}, {0.9, 1.4, -0.6}),
         reals({2, 2}, {0.5, -0.4, 0.3, 0.9})}));
  }
}

TEST_CASE("nested: a while inside a loop runs another number of trips each time") {
  Probe p = program(R"({"name": "x", "type": "f64[2]"}, {"name": "w", "type": "f64[]"})",
                    R"({"op": "Loop", "in": [3, null, "x"], "out": ["last"], "regions": {"body": {
           "inputs": ["i", "go", "s"],
           "nodes": [
             {"op": "Loop", "in": ["i", null, "s"], "out": ["t"], "regions": {"body": {
               "inputs": ["j", "on", "u"],
               "nodes": [{"op": "Mul", "in": ["u", "w"], "out": "uw"}, {"op": "Sin", "in": ["uw"], "out": "su"},
                         {"op": "Add", "in": ["su", "s"], "out": "v"}],
               "outputs": ["on", "v"]}}},
             {"op": "ReduceSum", "in": ["t"], "out": "h", "attrs": {"keepdims": 0}},
             {"op": "Greater", "in": ["h", 0.6], "out": "big"},
             {"op": "If", "in": ["big"], "out": "n", "regions": {
               "then_branch": {"nodes": [{"op": "Mul", "in": ["t", "w"], "out": "tw"}], "outputs": ["tw"]},
               "else_branch": {"nodes": [{"op": "Cos", "in": ["s"], "out": "cs"}], "outputs": ["cs"]}}}],
           "outputs": ["go", "n"]}}},
         {"op": "ReduceSum", "in": ["last"], "out": "y", "attrs": {"keepdims": 0}})",
                    {reals({2}, {0.3, 0.2}), real(0.7)});
  check_all(p);
}

TEST_CASE("a Loop inside an If, which is differentiated twice") {
  check_all(program(R"({"name": "x", "type": "f64[2]"}, {"name": "n", "type": "i64[]"})",
                    R"({"op": "ReduceSum", "in": ["x"], "out": "h", "attrs": {"keepdims": 0}},
         {"op": "Greater", "in": ["h", 0.0], "out": "c"},
         {"op": "If", "in": ["c"], "out": "r", "regions": {
           "then_branch": {"nodes": [
             {"op": "Loop", "in": ["n", null, "x"], "out": ["t"], "regions": {"body": {
               "inputs": ["j", "on", "u"],
               "nodes": [{"op": "Sin", "in": ["u"], "out": "su"}, {"op": "Mul", "in": ["su", "x"], "out": "v"}],
               "outputs": ["on", "v"]}}}], "outputs": ["t"]},
           "else_branch": {"nodes": [{"op": "Mul", "in": ["x", "x"], "out": "xx"}], "outputs": ["xx"]}}},
         {"op": "ReduceSum", "in": ["r"], "out": "y", "attrs": {"keepdims": 0}})",
                    {reals({2}, {0.9, 0.7}), Array::scalar(DType::i64, 3)}));
}

TEST_CASE("obstacles inside regions and decompositions are all named, with the op that the user wrote") {
  Graph g = import(R"({ "ag": 1, "inputs": [{"name": "x", "type": "f64[2]"}], "nodes": [
      {"op": "Loop", "in": [3, null, "x"], "out": ["t"], "regions": {"body": {
        "inputs": ["j", "on", {"name": "u", "type": "f64[?]"}],
        "nodes": [{"op": "Concat", "in": ["u", "x"], "out": "v", "attrs": {"axis": 0}}], "outputs": ["on", "v"]}}},
      {"op": "ReduceSum", "in": ["t"], "out": "y", "attrs": {"keepdims": 0}}], "outputs": ["y"] })");
  auto grads = passes::reverse(g, {.of = g.outputs[0].value, .seed = {}, .wrt = {g.inputs[0]}, .stop = {}});
  REQUIRE_FALSE(grads);
  CHECK(grads.error()[0].code == Code::AG3004);
  CHECK(grads.error()[0].message.find("`Loop`") != std::string::npos);
}

namespace {
/// A Gradient node with respect to `x`; the region takes it and the captures.
ValueId add_gradient(GraphBuilder& b, ValueId x, std::vector<ValueId> captures,
                     const std::function<ValueId(GraphBuilder&, ValueId, const std::vector<ValueId>&)>& f) {
  auto body = std::make_shared<Graph>();
  GraphBuilder inner(*body);
  ValueId u = inner.input("", {DType::f64, {}});
  std::vector<ValueId> inside;
  GraphBuilder::NodeArgs args;
  args.operands = {x};
  for (ValueId v : captures) {
    inside.push_back(inner.input("", Type(b.type(v))));
    args.operands.push_back(v);
  }
  body->outputs = {{"", f(inner, u, inside), {}}};
  args.attrs = {{"xs", std::vector<std::string>{"x"}},
                {"y", std::string("y")},
                {"captures", static_cast<std::int64_t>(captures.size())}};
  args.regions = {body};
  return b.graph().node(b.try_add(op("Gradient"), std::move(args)).value()).result();
}
}  // namespace

TEST_CASE("ONNX's Gradient: inside the graph, at other values, of a gradient") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f64, {}}), a = b.input("a", {DType::f64, {}});
  ValueId dx = add_gradient(
      b, x, {a}, [](GraphBuilder& in, ValueId u, const std::vector<ValueId>& c) { return in.mul(in.mul(u, u), c[0]); });
  ValueId d = add_gradient(b, dx, {}, [](GraphBuilder& in, ValueId p, const std::vector<ValueId>&) {
    return add_gradient(
        in, p, {}, [](GraphBuilder& most, ValueId s, const std::vector<ValueId>&) { return most.unary("sin", s); });
  });
  g.outputs = {{"dx", dx, {}}, {"d", d, {}}};
  sound(g);
  auto unplaced = interpret(g, std::vector{real(3), real(0.25)});
  REQUIRE_FALSE(unplaced);
  CHECK(unplaced.error()[0].code == Code::AG5210);
  passes::PassContext context;
  auto placed = passes::autodiff.on_graph(g, context);
  if (!placed) FAIL(messages(placed.error()));
  sound(*placed);
  CHECK(count_ops(*placed, "Gradient") == 0);
  std::vector<Array> out = run(*placed, {real(3), real(0.25)});
  CHECK(out[0].get_double(0) == 1.5);                     // d (a u^2)/du = 2 a u
  CHECK(out[1].get_double(0) == Approx(-std::sin(1.5)));  // sin'' at that value
}

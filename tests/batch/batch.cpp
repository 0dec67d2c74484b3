// Batching: every sample of every op, with each set of operands batched, gives what its members give one by one.
#include <catch2/catch.hpp>

#include <cstring>
#include <set>

#include "frontend/json/import.hpp"
#include "passes/autodiff.hpp"
#include "passes/batch.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

constexpr std::int64_t members = 3;
using Members = std::vector<std::vector<Array>>;  ///< inputs, member by member

Array stacked(const std::vector<Array>& parts) {
  std::vector<std::int64_t> shape = parts[0].shape();
  shape.insert(shape.begin(), static_cast<std::int64_t>(parts.size()));
  Array out(parts[0].dtype(), shape);
  std::byte* to = out.mutable_bytes().data();
  for (const Array& p : parts) {
    if (p.bytes_size()) std::memcpy(to, p.bytes().data(), p.bytes_size());
    to += p.bytes_size();
  }
  return out;
}

/// Errors are measured by the largest element: those of a sum that cancels are errors of its terms.
bool close(const Array& got, const Array& want) {
  if (got.dtype() != want.dtype() || got.shape() != want.shape()) return false;
  double tolerance = want.dtype() == DType::f64 ? 1e-12 : want.dtype() == DType::f32 ? 1e-5 : 2e-2;
  double largest = 0;
  for (std::int64_t i = 0; i < want.elems(); ++i)
    if (std::isfinite(want.get_double(i))) largest = std::max(largest, std::fabs(want.get_double(i)));
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double a = got.get_double(i), b = want.get_double(i);
    if (!(a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= tolerance * (1 + largest))) return false;
  }
  return true;
}

/// False if batching was refused; the codes of the refusal are checked.
bool agrees(const Graph& g, const Members& values, const std::vector<bool>& batched) {
  auto b = passes::batch(g, batched, members);
  if (!b) {
    for (const Diag& d : b.error()) CHECK(d.code == Code::AG3010);
    return false;
  }
  if (auto ok = verify(*b); !ok) FAIL(messages(ok.error()) << print(*b));
  std::vector<Array> inputs;
  for (std::size_t i = 0; i < batched.size(); ++i) {
    std::vector<Array> parts;
    for (const auto& v : values) parts.push_back(v[i]);
    inputs.push_back(batched[i] ? stacked(parts) : parts[0]);
  }
  auto got = interpret(*b, inputs);
  std::vector<std::vector<Array>> want(g.outputs.size());
  for (const auto& v : values) {
    std::vector<Array> one = v;
    for (std::size_t i = 0; i < batched.size(); ++i)
      if (!batched[i]) one[i] = values[0][i];
    auto out = interpret(g, one);
    if (!out) FAIL(messages(out.error()));
    for (std::size_t k = 0; k < out->size(); ++k) want[k].push_back((*out)[k]);
  }
  if (!got) FAIL(messages(got.error()) << print(*b));
  for (std::size_t k = 0; k < want.size(); ++k) {
    INFO("output " << k);
    if (!close((*got)[k], stacked(want[k]))) FAIL_CHECK("differs\n" << print(*b));
  }
  return true;
}

Members random_members(const Case& c) {
  Members out;
  Random random(c.label + "members");
  for (std::int64_t m = 0; m < members; ++m) {
    auto& v = out.emplace_back();
    for (const auto& o : c.sample.operands)
      if (!o.literal) v.push_back(random_array(o.type, o.low, o.high, random));
  }
  return out;
}

Graph import(const std::string& inputs, const std::string& nodes) {
  auto doc = json::Document::parse(
      R"({ "ag": 1, "inputs": [)" + inputs + R"(], "nodes": [)" + nodes + R"(], "outputs": ["y"] })",
      std::make_shared<std::string>("test.json"));
  if (!doc) FAIL(messages(doc.error()));
  auto g = json::import_graph(**doc);
  if (!g) FAIL(messages(g.error()));
  return std::move(*g);
}

/// Every set of batched inputs, of the graph and of its gradient.
void check_program(Graph g, const Members& values) {
  for (std::size_t set = 1; set < (std::size_t{1} << g.inputs.size()); ++set) {
    std::vector<bool> batched;
    for (std::size_t i = 0; i < g.inputs.size(); ++i) batched.push_back(set >> i & 1u);
    CAPTURE(set);
    CHECK(agrees(g, values, batched));
  }
}

Array real(double v) { return Array::scalar(DType::f64, v); }
Array reals(const std::vector<double>& v) {
  return Array::of<double>(DType::f64, {static_cast<std::int64_t>(v.size())}, v);
}

}  // namespace

TEST_CASE("batched ops agree with their members one by one") {
  std::size_t checked = 0;
  for (const Case& c : all_cases()) {
    CAPTURE(c.label);
    auto built = build(c);
    REQUIRE(built);
    std::size_t n = built->inputs.size();
    if (n == 0) continue;
    Members values = random_members(c);
    std::set<std::vector<bool>> sets{std::vector<bool>(n, true)};
    for (std::size_t i = 0; i < n; ++i) {
      std::vector<bool> one(n);
      one[i] = true;
      sets.insert(one);
    }
    bool known = true;  // sizes that only the data knows may differ from member to member
    for (const Output& o : built->graph.outputs) known = known && built->graph.type(o.value).is_static();
    for (const std::vector<bool>& batched : sets) {
      bool done = agrees(built->graph, values, batched);
      CHECK((done || !known));
      checked += done;
    }
  }
  CHECK(checked > 500);
}

TEST_CASE("batched If: a common predicate, and one for each member") {
  Graph g =
      import(R"({"name": "c", "type": "bool[]"}, {"name": "a", "type": "f64[2]"}, {"name": "b", "type": "f64[2]"})",
             R"({"op": "If", "in": ["c"], "out": ["u"], "regions": {
           "then_branch": {"nodes": [{"op": "Mul", "in": ["a", "b"], "out": "ab"}], "outputs": ["ab"]},
           "else_branch": {"nodes": [{"op": "Exp", "in": ["a"], "out": "e"}], "outputs": ["e"]}}},
         {"op": "Add", "in": ["u", "b"], "out": "y"})");
  check_program(g, {{Array::scalar(DType::boolean, 1), reals({1, 2}), reals({3, 4})},
                    {Array::scalar(DType::boolean, 0), reals({5, 6}), reals({7, 8})},
                    {Array::scalar(DType::boolean, 1), reals({-1, 0.5}), reals({0.3, 4})}});
}

TEST_CASE("batched Loop: members stop at different times and keep what they had") {
  Graph g = import(R"({"name": "n", "type": "i64[]"}, {"name": "x", "type": "f64[2]"}, {"name": "w", "type": "f64[]"})",
                   R"({"op": "Loop", "in": ["n", null, "x"], "out": ["b"], "regions": {"body": {
           "inputs": ["i", "go", "s"],
           "nodes": [{"op": "Mul", "in": ["s", "w"], "out": "m"}, {"op": "ReduceL2", "in": ["m"], "out": "l",
                      "attrs": {"keepdims": 0}},
                     {"op": "Less", "in": ["l", 50.0], "out": "again"}],
           "outputs": ["again", "m"]}}},
         {"op": "Mul", "in": ["b", "b"], "out": "y"})");
  auto count = [](std::int64_t n) { return Array::scalar(DType::i64, static_cast<double>(n)); };
  check_program(g, {{count(9), reals({1, 2}), real(1.5)},
                    {count(2), reals({0.1, 0.2}), real(3)},
                    {count(0), reals({7, 8}), real(2)}});
}

TEST_CASE("batched Loop and Scan: outputs that are gathered") {
  Graph loop = import(R"({"name": "x", "type": "f64[2]"}, {"name": "w", "type": "f64[2]"})",
                      R"({"op": "Loop", "in": [3, null, "x"], "out": ["b", "all"], "regions": {"body": {
           "inputs": ["i", "go", "s"],
           "nodes": [{"op": "Mul", "in": ["s", "w"], "out": "m"}, {"op": "Exp", "in": ["w"], "out": "e"},
                     {"op": "Add", "in": ["e", "s"], "out": "es"}],
           "outputs": ["go", "m", "es"]}}},
         {"op": "Mul", "in": ["all", "b"], "out": "y"})");
  check_program(loop, {{reals({1, 2}), reals({3, 4})}, {reals({5, 6}), reals({7, 8})}, {reals({0, 1}), reals({2, 3})}});
  Graph scan =
      import(R"({"name": "s0", "type": "f64[2]"}, {"name": "xs", "type": "f64[2,4]"}, {"name": "w", "type": "f64[2]"})",
             R"({"op": "Scan", "in": ["s0", "xs"], "out": ["last", "ys"],
           "attrs": {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_input_directions": [1],
                     "scan_output_axes": [1]},
           "regions": {"body": {"inputs": ["s", "x"],
             "nodes": [{"op": "Mul", "in": ["w", "s"], "out": "ws"}, {"op": "Add", "in": ["ws", "x"], "out": "a"}],
             "outputs": ["a", "ws"]}}},
         {"op": "ReduceSum", "in": ["ys"], "out": "q", "attrs": {"keepdims": 0}},
         {"op": "Mul", "in": ["q", "last"], "out": "y"})");
  auto matrix = [](std::vector<double> v) { return Array::of<double>(DType::f64, {2, 4}, v); };
  check_program(scan, {{reals({1, 2}), matrix({1, 2, 3, 4, 5, 6, 7, 8}), reals({3, 4})},
                       {reals({5, 6}), matrix({8, 7, 6, 5, 4, 3, 2, 1}), reals({7, 8})},
                       {reals({0, 1}), matrix({1, 0, 1, 0, 1, 0, 1, 0}), reals({2, 3})}});
}

TEST_CASE("a gradient is batched like any graph: one derivative for each member") {
  Graph g = import(R"({"name": "x", "type": "f64[3]"}, {"name": "w", "type": "f64[3,3]"})",
                   R"({"op": "Loop", "in": [3, null, "x"], "out": ["b"], "regions": {"body": {
           "inputs": ["i", "go", "s"],
           "nodes": [{"op": "MatMul", "in": ["w", "s"], "out": "m"}, {"op": "Tanh", "in": ["m"], "out": "t"}],
           "outputs": ["go", "t"]}}},
         {"op": "Softmax", "in": ["b"], "out": "p"},
         {"op": "ReduceL2", "in": ["p"], "out": "y", "attrs": {"keepdims": 0}})");
  auto grads = passes::reverse(g, {.of = g.outputs[0].value, .seed = {}, .wrt = g.inputs, .stop = {}});
  REQUIRE(grads);
  g.outputs = {{"dx", (*grads)[0], {}}, {"dw", (*grads)[1], {}}};
  auto matrix = [](double k) {
    return Array::of<double>(DType::f64, {3, 3}, std::vector<double>{k, 2, -k, 0.5, k, 1, -1, k * k, 0.2});
  };
  check_program(
      g, {{reals({1, 2, 3}), matrix(0.3)}, {reals({-1, 0, 1}), matrix(-0.4)}, {reals({0.1, 0.2, 3}), matrix(1)}});
}

TEST_CASE("what cannot be batched is named") {
  Graph g = import(R"({"name": "n", "type": "i64[]"}, {"name": "x", "type": "f64[2]"})",
                   R"({"op": "Loop", "in": ["n", null, "x"], "out": ["b", "y"], "regions": {"body": {
                        "inputs": ["i", "go", "s"], "nodes": [{"op": "Mul", "in": ["s", "s"], "out": "m"}],
                        "outputs": ["go", "m", "s"]}}})");
  auto b = passes::batch(g, {true, false}, members);
  REQUIRE_FALSE(b);
  CHECK(b.error()[0].code == Code::AG3010);
  CHECK(b.error()[0].message.find("`Loop`") != std::string::npos);
}

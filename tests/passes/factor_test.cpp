// The pass `factor`: a backward pass reads one array for each activation, and means what it meant.
#include <catch2/catch.hpp>

#include <set>

#include "passes/factor.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

Graph after(Graph g, std::vector<std::string> names) {
  g.stage = "import";  // so that no pass is taken to have run
  passes::PassContext context;
  passes::PipelineOptions options;
  options.passes = std::move(names);
  auto r = passes::run_pipeline(std::move(g), options, context);
  if (!r) FAIL(messages(r.error()));
  return std::get<Graph>(r->stage);
}

/// Two layers with an activation between, with gradients of everything.
Graph network(const std::string& activation, Attrs attrs = {}) {
  Graph g;
  GraphBuilder b(g);
  const ValueId x = b.input("x", {DType::f64, {6, 5}}), w = b.input("w", {DType::f64, {5, 7}}),
                v = b.input("v", {DType::f64, {7, 4}});
  const ValueId h = b.dot_general(x, w, {1}, {0}), a = b.add_multi(activation, {h}, std::move(attrs))[0];
  const ValueId y = b.dot_general(a, v, {1}, {0});
  g.outputs.push_back({"loss", b.reduce("reduce_sum", b.mul(y, y), {0, 1}), {}});
  GradRequest r;
  r.of = "loss";
  r.wrt = {"x", "w", "v"};
  g.grads.push_back(r);
  return after(g, {"autodiff", "cse", "algebra", "fold", "decompose", "cse", "algebra", "fold", "dce"});
}

/// Values of the forward pass, 6 x 7, that elementwise nodes of the backward pass read beside a cotangent.
std::size_t residuals(const Graph& g) {
  std::vector<bool> early(g.node_count());
  std::set<ValueId> read;
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    bool all = true;
    for (ValueId v : n.operands) all = all && early[g.value(v).node.index];
    early[id.index] =
        !n.grad_of || n.op->lower_class == LowerClass::source || (n.op->lower_class == LowerClass::map && all);
    if (early[id.index] || n.op->lower_class != LowerClass::map) continue;
    for (ValueId v : n.operands)
      if (early[g.value(v).node.index] && g.type(v).shape == Dims{6, 7}) read.insert(v);
  }
  return read.size();
}

}  // namespace

TEST_CASE("the paths of a cotangent through an activation become one factor") {
  struct Case {
    const char* name;
    std::size_t before;
  };
  for (const Case& c : {Case{"Gelu", 3}, Case{"Swish", 2}, Case{"Mish", 2}, Case{"tanh", 1}, Case{"sigmoid", 1}}) {
    CAPTURE(c.name);
    const Graph g = network(c.name), h = after(g, {"factor", "dce"});
    CHECK(residuals(g) >= c.before);
    CHECK(residuals(h) == 1);
    Random r(c.name);
    std::vector<Array> in;
    for (ValueId v : g.inputs) in.push_back(random_array(g.type(v), -1, 1, r));
    auto want = interpret(g, in), got = interpret(h, in);
    REQUIRE(want);
    REQUIRE(got);
    for (std::size_t k = 0; k < want->size(); ++k)
      for (std::int64_t i = 0; i < (*want)[k].elems(); ++i)
        CHECK((*got)[k].get_double(i) == Approx((*want)[k].get_double(i)).epsilon(1e-12).margin(1e-12));
  }
}

TEST_CASE("what saves no array stays as it is") {
  for (const char* name : {"tanh", "Relu", "sigmoid"}) {
    const Graph g = network(name);
    CHECK(after(g, {"factor"}).node_count() == g.node_count());
  }
}

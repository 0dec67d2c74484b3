// What folding stores, and what it leaves a view.
#include <catch2/catch.hpp>

#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/pass.hpp"

using namespace ag;

namespace {

Graph folded(const Graph& g) {
  passes::PassContext context;
  passes::PipelineOptions options;
  options.passes = {"fold", "dce"};
  auto r = passes::run_pipeline(g, options, context);
  REQUIRE(r);
  return std::get<Graph>(r->stage);
}

std::int64_t largest_constant(const Graph& g) {
  std::int64_t most = 0;
  for (NodeId id : g.node_ids())
    if (g.node(id).attrs.get<LiteralPtr>("value")) most = std::max(most, g.type(g.node(id).result()).elems().value());
  return most;
}

ValueId numbers(GraphBuilder& b, std::int64_t n) {
  Array a(DType::f32, {n});
  for (std::int64_t i = 0; i < n; ++i) a.set_double(i, static_cast<double>(i));
  return b.constant(make_literal(a));
}

}  // namespace

TEST_CASE("a view that is larger than its constant is not stored, what is computed of it is") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {500, 2, 8}}), c = numbers(b, 8);
  ValueId wide = b.broadcast_in_dim(c, {500, 2, 8}, {2}), turned = b.transpose(wide, {1, 0, 2});
  g.outputs.push_back({"y", b.add_op("max", {x, wide}), {}});
  g.outputs.push_back({"sums", b.reduce("reduce_sum", turned, {1}), {}});
  Graph f = folded(g);
  CHECK(largest_constant(f) == 16);
  std::size_t views = 0, sums = 0;
  for (NodeId id : f.node_ids()) {
    views += f.node(id).op->name == "broadcast_in_dim";
    sums += f.node(id).op->name == "reduce_sum";
  }
  CHECK(views == 1);
  CHECK(sums == 0);
  Array in(DType::f32, {500, 2, 8});
  auto want = interpret(g, std::vector<Array>{in}), got = interpret(f, std::vector<Array>{in});
  REQUIRE((want && got));
  for (std::size_t i = 0; i < 2; ++i) CHECK((*want)[i].same_bits((*got)[i]));
}

TEST_CASE("weights are laid out however many there are; what grows is limited") {
  Graph g;
  GraphBuilder b(g);
  const std::int64_t n = 2 << 20;  // 8 MiB each, 120 together
  std::size_t added = 0;
  for (int i = 0; i < 15; ++i) {
    ValueId w = b.reshape(numbers(b, n), {2, n / 2});
    g.outputs.push_back({"w" + std::to_string(i), b.transpose(w, {1, 0}), {}});
  }
  ValueId small = numbers(b, 1 << 10), sum = b.broadcast_in_dim(small, {1 << 11, 1 << 10}, {1});
  for (int i = 0; i < 100; ++i) {  // each as large as they, of next to nothing
    sum = b.add(sum, b.transpose(b.reshape(sum, {1 << 10, 1 << 11}), {1, 0}));
    g.outputs.push_back({"s" + std::to_string(i), sum, {}});
  }
  Graph f = folded(g);
  for (NodeId id : f.node_ids()) added += f.node(id).op->name == "add";
  for (int i = 0; i < 15; ++i) CHECK(f.def(f.outputs[static_cast<std::size_t>(i)].value).op->name == "constant");
  CHECK(added > 50);
  CHECK(added < 100);
}

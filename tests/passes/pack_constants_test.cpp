// The pass `pack_constants`: products keep their bits, panels are shared, and only what may be copied is.
#include <cmath>

#include <catch2/catch.hpp>

#include "ir/attr.hpp"
#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/pack_constants.hpp"

using namespace ag;

namespace {

using Ints = std::vector<std::int64_t>;

Array filled(const Ints& shape, DType t = DType::f32) {
  Array a(t, shape);
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, std::sin(0.3 * static_cast<double>(i)));
  return a;
}

Graph packed(const Graph& g) {
  passes::PassContext context;
  context.target.threads = 2;
  passes::PipelineOptions options;
  options.passes = {"pack_constants", "dce"};
  auto r = passes::run_pipeline(g, options, context);
  REQUIRE(r);
  return std::get<Graph>(r->stage);
}

/// Shapes of the constants of more than two axes: panels.
std::vector<Ints> panels(const Graph& g) {
  std::vector<Ints> out;
  for (NodeId id : g.node_ids())
    if (const LiteralPtr* l = g.node(id).attrs.get<LiteralPtr>("value"); l && (*l)->shape.size() > 2)
      out.push_back((*l)->shape);
  return out;
}

void same_answers(const Graph& before, const Graph& after, const std::vector<Array>& inputs) {
  auto want = interpret(before, inputs), got = interpret(after, inputs);
  REQUIRE(want);
  REQUIRE(got);
  for (std::size_t i = 0; i < want->size(); ++i) CHECK((*got)[i].same_bits((*want)[i]));
}

}  // namespace

TEST_CASE("a constant operand lies in panels, its last one padded, whatever layout it had") {
  for (bool turned : {false, true})
    for (DType t : {DType::f32, DType::f64, DType::bf16}) {
      Graph g;
      GraphBuilder b(g);
      ValueId x = b.input("x", {t, {5, 60}});
      ValueId w = b.constant(make_literal(filled(turned ? Ints{100, 60} : Ints{60, 100}, t)));
      g.outputs.push_back({"z", b.dot_general(x, w, {1}, {turned ? 1 : 0}), {}});
      Graph after = packed(g);
      REQUIRE(panels(after).size() == 1);
      Ints shape = panels(after)[0];
      CHECK(shape[1] == 60);
      CHECK(shape[0] == (100 + shape[2] - 1) / shape[2]);
      same_answers(g, after, {filled({5, 60}, t)});
    }
}

TEST_CASE("products share the panels of a constant; views of it and batches are seen through") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {7, 48}}), y = b.input("y", {DType::f32, {3, 9, 16}});
  ValueId w = b.constant(make_literal(filled({48, 70})));
  g.outputs.push_back({"a", b.dot_general(x, w, {1}, {0}), {}});
  g.outputs.push_back({"b", b.dot_general(b.add(x, x), w, {1}, {0}), {}});
  ValueId parts = b.transpose(b.reshape(w, {3, 16, 70}), {0, 2, 1});  // [3, 70, 16]
  g.outputs.push_back({"c", b.dot_general(y, parts, {2}, {2}, {0}, {0}), {}});
  Graph after = packed(g);
  CHECK(panels(after).size() == 2);
  same_answers(g, after, {filled({7, 48}), filled({3, 9, 16})});
}

TEST_CASE("splats and small constants stay as they are") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {4, 60}}), s = b.input("s", {DType::f32, {4, 3}});
  ValueId splat = b.constant(make_splat(DType::f32, {60, 100}, 0.5));
  ValueId small = b.constant(make_literal(filled({3, 5})));
  g.outputs.push_back({"a", b.dot_general(x, splat, {1}, {0}), {}});
  g.outputs.push_back({"b", b.dot_general(s, small, {1}, {0}), {}});
  CHECK(panels(packed(g)).empty());
}

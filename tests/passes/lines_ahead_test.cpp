// What products ask for ahead of its use: rows that lie side by side, what maps behind a sum read beside it, and the
// next panel of columns that are copied.
#include <catch2/catch.hpp>

#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/pass.hpp"

using namespace ag;

namespace {

int requests(const Graph& g) {
  passes::PassContext context;
  context.target.l2_bytes = 128 << 10;
  passes::PipelineOptions options;
  options.passes = {"decompose", "dce", "lower", "collapse", "schedule", "vectorise"};
  auto r = passes::run_pipeline(g, options, context);
  REQUIRE(r);
  int n = 0;
  for (const loop::Kernel& k : std::get<loop::Program>(r->stage).kernels)
    for (const loop::Stmt& s : k.stmts) n += s.op == loop::Op::prefetch && s.attr.index == 2 ? 1 : 0;
  return n;
}

/// Requests of a product of x, contracted at `axis`, by y, and of `beside` if that is added.
int of_product(const Dims& x, std::vector<std::int64_t> axes, const Dims& y, bool beside = false) {
  Graph g;
  GraphBuilder b(g);
  ValueId left = b.input("x", {DType::f32, x}), right = b.input("y", {DType::f32, y});
  std::vector<std::int64_t> first(axes.size());
  for (std::size_t i = 0; i < first.size(); ++i) first[i] = static_cast<std::int64_t>(i);
  ValueId z = b.dot_general(left, right, axes, first);
  if (beside) z = b.add(z, b.input("z", b.type(z)));
  g.outputs.push_back({"z", z, {}});
  return requests(g);
}

}  // namespace

TEST_CASE("rows that lie side by side are asked for some steps of depth ahead") {
  CHECK(of_product({256, 96}, {0}, {256, 64}) > 0);
  CHECK(of_product({4, 64, 96}, {0, 1}, {4, 64, 64}) > 0);  // axes of depth that are one
  CHECK(of_product({64, 96}, {0}, {64, 64}) == 0);          // used before it could come
  CHECK(of_product({256, 16}, {0}, {256, 64}) == 0);        // hardware follows
  CHECK(of_product({40, 256}, {1}, {256, 64}) == 0);        // they lie one after another
}

TEST_CASE("what is read beside a sum is asked for while it is computed") {
  CHECK(of_product({40, 256}, {1}, {256, 512}, true) > 0);
  CHECK(of_product({40, 256}, {1}, {256, 64}, true) == 0);  // the second-level cache holds it
}

TEST_CASE("rows ask for the next panel of columns that are copied") {
  const int copied = of_product({800, 1024}, {1}, {1024, 512});  // copies alone: the rows would push it out again
  CHECK(copied > 0);
  CHECK(of_product({800, 128}, {1}, {128, 512}) > copied);
  CHECK(of_product({800, 128}, {1}, {128, 32}) <= copied);  // few panels
}

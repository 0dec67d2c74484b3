// A mobile block as one kernel: what makes the image of a depthwise convolution, the convolution, and the product
// behind it. Its loops, interpreted, compute what the graph does, for any number of threads that they were cut for.
#include <catch2/catch.hpp>

#include "codegen/backend.hpp"
#include "passes/depthwise_model.hpp"
#include "passes/pass.hpp"
#include "tests/lower/cases.hpp"
#include "tests/lower/run_program.hpp"

using namespace ag;
using namespace ag::test;
using namespace ag::test::graphs;

namespace {

using Int = std::int64_t;

struct Shape {
  const char* what;
  Int batch, height, width, channels, expanded, out;  // expanded 0: the image is in memory
  Int taps = 3, stride = 1;
  bool residual = false, kept = false;  // kept: the convolution's result is an output too
  DType dtype = DType::f32;
};

Graph block(const Shape& s) {
  Graph g;
  GraphBuilder b(g);
  auto weights = [&](const Dims& shape, const char* name) { return b.input(name, {s.dtype, shape}); };
  ValueId x = b.input("x", {s.dtype, {s.batch, s.height, s.width, s.channels}}), v = x;
  auto relu6 = [&](ValueId y) {
    return b.add_op("min", {b.add_op("max", {y, b.scalar(s.dtype, 0)}), b.scalar(s.dtype, 6)});
  };
  Int c = s.channels;
  if (s.expanded) {
    v = relu6(b.dot_general(v, weights({c, s.expanded}, "e"), {3}, {0}));
    c = s.expanded;
  }
  const Int low = s.taps / 2, h = (s.height + 2 * low - s.taps) / s.stride + 1,
            w = (s.width + 2 * low - s.taps) / s.stride + 1;
  const ValueId conv = b.add_op("conv", {v, weights({s.taps, s.taps, 1, c}, "d")},
                                {{"role", std::string("output")},
                                 {"size", Dims{h, w}},
                                 {"groups", Dims{c}},
                                 {"low", Dims{low, low}},
                                 {"strides", std::vector<Int>{s.stride, s.stride}},
                                 {"dilations", std::vector<Int>{1, 1}},
                                 {"layout", std::string("channels_last")}});
  v = relu6(b.add(conv, weights({c}, "bias")));
  if (s.kept) output(b, "v", v);
  v = b.dot_general(v, weights({c, s.out}, "p"), {3}, {0});
  if (s.residual) v = b.add(v, x);
  output(b, "y", v);
  return g;
}

}  // namespace

TEST_CASE("mobile blocks as one kernel compute what their parts do, whatever they were cut for") {
  const Shape shapes[] = {{"residual", 1, 20, 20, 16, 48, 16, 3, 1, true},
                          {"stride and parts of panels", 2, 23, 21, 8, 50, 20, 3, 2},
                          {"large windows", 1, 18, 18, 16, 32, 24, 5},
                          {"no expansion", 1, 24, 20, 64, 0, 48},
                          {"rows in several chunks", 1, 40, 10, 16, 72, 16, 3, 1, true},
                          {"doubles", 1, 20, 16, 16, 36, 16, 3, 1, true, false, DType::f64}};
  int together = 0;
  for (const Shape& s : shapes)
    for (std::string target : {"cpu:x86-64-v3", "cpu:x86-64-v4"})
      for (int threads : {1, 2, 3}) {
        INFO(s.what << " " << target << " " << threads);
        Graph g = block(s);
        std::vector<Array> inputs = random_inputs(g, {});
        auto want = interpret(g, inputs);
        if (!want) FAIL(text(want.error()));
        passes::PassContext context;
        context.target = codegen::describe_target(target).value();
        context.target.threads = threads;
        // A small cache: what a kernel of its own would store does not stay there.
        context.target.l2_bytes = 96 << 10;
        auto r = passes::run_pipeline(
            g, {.passes = {"layout", "depthwise", "decompose", "algebra", "lower", "schedule", "vectorise"}}, context);
        if (!r) FAIL(text(r.error()));
        bool one = false;
        for (const std::string& note : context.fusion_notes)
          one |= note.find("into product") != std::string::npos && note.find("yes") != std::string::npos;
        together += one;
        const auto& program = std::get<loop::Program>(r->stage);
        CHECK(program.kernels.size() == (one ? 1 : 2));
        auto got = run_program(program, inputs);
        if (!got) FAIL(text(got.error()) << loop::print(program));
        compare((*got)[0], (*want)[0]);
      }
  CHECK(together >= 20);
}

TEST_CASE("a depthwise convolution whose result is wanted keeps a kernel of its own") {
  Shape s{"kept", 1, 20, 20, 16, 48, 16};
  s.kept = true;
  Graph g = block(s);
  std::vector<Array> inputs = random_inputs(g, {});
  auto want = interpret(g, inputs);
  if (!want) FAIL(text(want.error()));
  passes::PassContext context;
  context.target = codegen::describe_target("cpu:x86-64-v3").value();
  context.target.threads = 2;
  auto r = passes::run_pipeline(g, {}, context);
  if (!r) FAIL(text(r.error()));
  std::string notes;
  for (const std::string& note : context.fusion_notes) notes += note + "\n";
  CHECK(notes.find("no, a value of the group is needed elsewhere") != std::string::npos);
  auto got = run_program(std::get<loop::Program>(r->stage), inputs);
  if (!got) FAIL(text(got.error()));
  for (std::size_t i = 0; i < want->size(); ++i) compare((*got)[i], (*want)[i]);
}

TEST_CASE("a block is one kernel where rows made twice cost less than what threads read of each other") {
  auto cut = [](Int size, Int channels, Int depth, Int columns, int threads) {
    const TargetSpec target{.vector_bits = 512, .vector_registers = 32, .masked_ops = true, .threads = threads};
    const passes::DepthwiseSizes s{.channels = channels,
                                   .element_bytes = 4,
                                   .rows_in = size,
                                   .columns_in = size,
                                   .rows = size,
                                   .columns = size,
                                   .taps = 9,
                                   .reach = 3,
                                   .stride = 1,
                                   .low = 1,
                                   .depth = depth,
                                   .map_cost = 3};
    return pick_block(s, 48, {columns, 32}, target);
  };
  auto large = cut(56, 144, 24, 24, 2), middle = cut(14, 384, 64, 64, 2);
  REQUIRE(large);
  CHECK(large->bands == 2);
  CHECK(large->chunk < 28);  // rows in scratch memory are a part of the second-level cache
  REQUIRE(middle);
  CHECK(middle->bands == 2);
  CHECK_FALSE(cut(7, 960, 160, 160, 2));  // 10 rows made instead of 7
  CHECK_FALSE(cut(14, 384, 64, 64, 14));  // a row for each thread: three made for each
  CHECK(cut(32, 192, 0, 192, 2));
  CHECK_FALSE(cut(32, 768, 0, 768, 2));  // 2.4 MB of filters would be fetched once a row
}

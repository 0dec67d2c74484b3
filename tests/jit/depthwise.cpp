// Depthwise convolutions: their kernels read images as they lie, take what makes the image and what follows into one
// kernel, agree with the parts, and give the same bits however the work is split.
#include <random>

#include <catch2/catch.hpp>

#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/depthwise_model.hpp"
#include "passes/pass.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

using Ints = std::vector<std::int64_t>;

struct Window2 {
  Dims size, low;
  Ints taps{3, 3}, strides{1, 1}, dilations{1, 1};
};

ValueId conv(GraphBuilder& b, ValueId x, ValueId w, const Window2& s, const Dim& groups, const char* role = "output") {
  return b.add_op("conv", {x, w},
                  {{"role", std::string(role)},
                   {"size", s.size},
                   {"groups", Dims{groups}},
                   {"low", s.low},
                   {"strides", s.strides},
                   {"dilations", s.dilations},
                   {"layout", std::string("channels_last")}});
}

Array random_array(DType t, const Ints& shape, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> u;
  Array a(t, shape);
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, u(rng));
  return a;
}
ValueId weights(GraphBuilder& b, DType t, const Ints& shape, unsigned seed) {
  return b.constant(make_literal(random_array(t, shape, seed)));
}

/// A mobile block: expand to `expanded` channels (0: none), depthwise, project to `out` (0: none), each but the last
/// with a bias and a clamp; a residual where shapes allow.
struct Block {
  Dim batch;
  std::int64_t height, width, channels, expanded, out;
  Window2 window;
  bool residual = false;
  bool scaled = false;  ///< each channel by a function of its sum, before the projection
};

Graph block(const Block& s, DType t = DType::f32) {
  Graph g;
  GraphBuilder b(g);
  const Window2 point{{s.height, s.width}, {0, 0}};
  ValueId x = b.input("x", {t, {s.batch, s.height, s.width, s.channels}}), v = x;
  auto clamp = [&](ValueId y, std::int64_t c, unsigned seed) {
    y = b.add(y, weights(b, t, {c}, seed));
    return b.add_op("min", {b.add_op("max", {y, b.scalar(t, 0)}), b.scalar(t, 6)});
  };
  std::int64_t c = s.channels;
  if (s.expanded) {
    v = clamp(conv(b, v, weights(b, t, {1, 1, c, s.expanded}, 1), point, 1), s.expanded, 2);
    c = s.expanded;
  }
  v = clamp(conv(b, v, weights(b, t, {s.window.taps[0], s.window.taps[1], 1, c}, 3), s.window, c), c, 4);
  if (s.scaled) {
    ValueId sum = b.reshape(b.reduce("reduce_sum", v, {1, 2}), {s.batch, 1, 1, c});
    sum = b.dot_general(b.mul(sum, b.scalar(t, 0.01)), weights(b, t, {c, c}, 7), {3}, {0});
    v = b.mul(v, b.unary("sigmoid", sum));
  }
  if (s.out) {
    v = conv(b, v, weights(b, t, {1, 1, c, s.out}, 5), {s.window.size, {0, 0}}, 1);
    v = b.add(v, weights(b, t, {s.out}, 6));
    if (s.residual) v = b.add(v, x);
  }
  g.outputs.push_back({"y", v, {}});
  return g;
}

std::string messages(const Diags& d) { return render(d, Sources{}); }

struct Ran {
  std::vector<Array> values;
  std::vector<std::string> labels;
  bool has(std::string_view text) const {
    return std::any_of(labels.begin(), labels.end(), [&](const auto& l) { return l.find(text) != std::string::npos; });
  }
};

Ran run(const Graph& g, const std::vector<Array>& inputs, const std::string& target = "cpu:native", int threads = 1) {
  static auto engine = runtime::Engine::create();
  REQUIRE(engine);
  auto compiled = (*engine)->compile(g, {.target = target});
  if (!compiled) FAIL(messages(compiled.error()));
  runtime::ExecContext context(compiled->executable, {.threads = threads});
  auto values = runtime::run(context, inputs);
  if (!values) FAIL(messages(values.error()));
  Ran r{std::move(*values), {}};
  for (const auto& k : compiled->report.kernels) r.labels.push_back(k.label);
  return r;
}

double error(const Array& got, const Array& want) {
  REQUIRE(got.shape() == want.shape());
  double most = 0, scale = 0;
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    most = std::max(most, std::abs(got.get_double(i) - want.get_double(i)));
    scale = std::max(scale, std::abs(want.get_double(i)));
  }
  return most / scale;
}

std::vector<Array> inputs_of(const Graph& g, std::int64_t batch) {
  std::vector<Array> inputs;
  unsigned seed = 10;
  for (ValueId v : g.inputs) {
    Ints shape;
    for (const Dim& d : g.type(v).shape) shape.push_back(d.is_const() ? d.value() : batch);
    inputs.push_back(random_array(g.type(v).dtype, shape, seed++));
  }
  return inputs;
}

}  // namespace

TEST_CASE(
    "mobile blocks of any size, stride and padding agree with the interpreter, with the same bits on any threads") {
  const Dim n = Dim::symbol("N");
  struct Case {
    Block block;
    bool fused;  // expand and depthwise are one kernel
  };
  const Case cases[] = {
      {{1, 28, 28, 24, 144, 24, {{28, 28}, {1, 1}}, true}, true},
      {{1, 14, 14, 32, 96, 16, {{7, 7}, {1, 1}, {3, 3}, {2, 2}}}, true},
      {{2, 15, 13, 10, 72, 20, {{8, 7}, {1, 1}, {3, 3}, {2, 2}}}, true},        // odd sizes, parts of registers
      {{1, 16, 12, 16, 70, 24, {{8, 6}, {2, 1}, {5, 5}, {2, 2}}}, true},        // asymmetric padding
      {{n, 7, 7, 40, 160, 40, {{7, 7}, {2, 2}, {5, 5}}, true}, true},           // a batch known only when it runs
      {{1, 9, 11, 8, 33, 8, {{9, 11}, {2, 2}, {3, 3}, {1, 1}, {2, 2}}}, true},  // dilated
      {{1, 12, 12, 16, 48, 0, {{4, 3}, {-1, -2}, {3, 3}, {3, 4}}}, true},       // cut rather than padded
      {{1, 20, 20, 0 + 12, 0, 16, {{20, 20}, {1, 1}}}, false},                  // no expansion
      {{2, 5, 3, 8, 32, 8, {{5, 3}, {1, 1}}}, false},                           // short rows
      {{1, 10, 10, 8, 40, 8, {{10, 10}, {3, 3}, {7, 7}}}, true},                // rows of taps as a loop
      {{1, 6, 6, 8, 32, 8, {{9, 8}, {3, 2}, {3, 3}}}, true}};                   // windows all in the padding
  for (const auto& [s, fused] : cases)
    for (std::string target : {"cpu:native", "cpu:x86-64-v3"}) {
      INFO(s.height << "x" << s.width << " " << s.channels << "->" << s.expanded << " " << target);
      Graph g = block(s);
      std::vector<Array> inputs = inputs_of(g, 3);
      auto want = interpret(g, inputs);
      if (!want) FAIL(messages(want.error()));
      Ran one = run(g, inputs, target);
      CHECK(error(one.values[0], (*want)[0]) < 2e-6);
      CHECK(one.has("depthwise"));
      CHECK_FALSE(one.has("pad"));
      bool together = one.has("max+min+depthwise");
      CHECK(together == fused);
      for (int threads : {2, 3}) CHECK(run(g, inputs, target, threads).values[0].same_bits(one.values[0]));
    }
}

TEST_CASE("a scaled image is computed where the projection reads it, with the same bits on any threads") {
  const Dim n = Dim::symbol("N");
  const Block cases[] = {
      {1, 28, 28, 24, 144, 24, {{28, 28}, {1, 1}}, true, true},
      {2, 15, 13, 10, 72, 90, {{8, 7}, {1, 1}, {3, 3}, {2, 2}}, false, true},  // bands of unequal height, two panels
      {n, 7, 7, 40, 160, 40, {{7, 7}, {2, 2}, {5, 5}}, true, true},  // a batch known only when it runs
      {1, 7, 7, 16, 200, 130, {{7, 7}, {1, 1}}, false, true},  // columns in parts
      {1, 33, 30, 0 + 272, 0, 70, {{33, 30}, {1, 1}}, false, true}};  // not all rows fit into scratch memory
  for (DType t : {DType::f32, DType::f64})
    for (const Block& s : cases)
      for (std::string target : {"cpu:native", "cpu:x86-64-v3"}) {
        INFO(dtype_name(t) << " " << s.height << "x" << s.width << " " << s.expanded << "->" << s.out << " " << target);
        Graph g = block(s, t);
        std::vector<Array> inputs = inputs_of(g, 3);
        auto want = interpret(g, inputs);
        if (!want) FAIL(messages(want.error()));
        Ran one = run(g, inputs, target);
        CHECK(error(one.values[0], (*want)[0]) < (t == DType::f32 ? 2e-6 : 1e-14));
        CHECK(one.has("mul+dot_general"));
        for (int threads : {2, 3}) CHECK(run(g, inputs, target, threads).values[0].same_bits(one.values[0]));
      }
}

TEST_CASE("a depthwise convolution has the interpreter's bits, in f64 too") {
  for (DType t : {DType::f32, DType::f64}) {
    Graph g;
    GraphBuilder b(g);
    ValueId x = b.input("x", {t, {2, 9, 17, 37}}), w = b.input("w", {t, {3, 5, 1, 37}});
    g.outputs.push_back({"y", conv(b, x, w, {{5, 17}, {1, 2}, {3, 5}, {2, 1}}, 37), {}});
    std::vector<Array> inputs = inputs_of(g, 1);
    auto want = interpret(g, inputs);
    if (!want) FAIL(messages(want.error()));
    for (std::string target : {"cpu:native", "cpu:x86-64-v3"})
      CHECK(run(g, inputs, target, 2).values[0].same_bits((*want)[0]));
  }
}

TEST_CASE("the expanded image stays in memory where something else needs it") {
  Block s{1, 14, 14, 16, 64, 0, {{14, 14}, {1, 1}}};
  Graph g = block(s);
  for (NodeId id : g.node_ids())  // the clamp that the depthwise convolution reads
    if (g.node(id).op->name == "conv" && g.node(id).operands[0] != g.inputs[0])
      g.outputs.push_back({"expanded", g.node(id).operands[0], {}});
  REQUIRE(g.outputs.size() == 2);
  std::vector<Array> inputs = inputs_of(g, 1);
  auto want = interpret(g, inputs);
  if (!want) FAIL(messages(want.error()));
  Ran got = run(g, inputs);
  CHECK(got.has("depthwise"));
  CHECK_FALSE(got.has("min+depthwise"));
  for (std::size_t i = 0; i < want->size(); ++i) CHECK(error(got.values[i], (*want)[i]) < 2e-6);
}

TEST_CASE("groups of several channels are not depthwise, input gradients of stride 1 are") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {1, 8, 8, 32}}), w = b.input("w", {DType::f32, {3, 3, 2, 32}});
  g.outputs.push_back({"y", conv(b, x, w, {{8, 8}, {1, 1}}, 16), {}});
  std::vector<Array> inputs = inputs_of(g, 1);
  auto want = interpret(g, inputs);
  Ran got = run(g, inputs);
  CHECK_FALSE(got.has("depthwise"));
  CHECK(error(got.values[0], (*want)[0]) < 2e-6);

  Graph back;
  GraphBuilder bb(back);
  ValueId dy = bb.input("dy", {DType::f32, {2, 8, 7, 32}}), v = bb.input("w", {DType::f32, {3, 5, 1, 32}});
  back.outputs.push_back({"dx", conv(bb, dy, v, {{9, 7}, {0, 2}, {3, 5}}, 32, "input"), {}});
  inputs = inputs_of(back, 1);
  want = interpret(back, inputs);
  if (!want) FAIL(messages(want.error()));
  got = run(back, inputs);
  CHECK(got.has("depthwise"));
  CHECK(error(got.values[0], (*want)[0]) < 2e-6);
}

TEST_CASE("taps of a depthwise filter's gradient are summed side by side, with the bits of one after the other") {
  struct Case {
    Window2 window;
    Ints image, size;
    std::int64_t channels;
    std::size_t beside;
  };
  for (const Case& s : {Case{{{3, 3}, {1, 1}}, {4, 13, 14}, {13, 14}, 144, 9},
                        Case{{{5, 5}, {2, 2}, {5, 5}, {2, 2}}, {2, 20, 24}, {10, 12}, 37, 5},
                        Case{{{3, 11}, {1, 5}, {3, 11}}, {3, 9, 12}, {9, 12}, 40, 6}}) {
    Graph g;
    GraphBuilder b(g);
    ValueId x = b.input("x", {DType::f32, {s.image[0], s.image[1], s.image[2], s.channels}});
    ValueId dy = b.input("dy", {DType::f32, {s.image[0], s.size[0], s.size[1], s.channels}});
    g.outputs.push_back({"dw", conv(b, x, dy, s.window, s.channels, "filter"), {}});
    std::vector<Array> inputs = inputs_of(g, 1);
    auto want = interpret(g, inputs);
    if (!want) FAIL(messages(want.error()));
    Ran one = run(g, inputs);
    CHECK(error(one.values[0], (*want)[0]) < 2e-6);
    for (int threads : {2, 3}) CHECK(run(g, inputs, "cpu:native", threads).values[0].same_bits(one.values[0]));
    CHECK(run(g, inputs, "cpu:x86-64-v3", 2).values[0].same_bits(one.values[0]));

    passes::PassContext context;
    context.target = {.vector_bits = 512, .vector_registers = 32, .masked_ops = true, .threads = 2};
    auto scheduled = passes::run_pipeline(g, {.stop_after = "schedule"}, context);
    if (!scheduled) FAIL(messages(scheduled.error()));
    std::size_t beside = 0;
    for (const loop::Kernel& k : std::get<loop::Program>(scheduled->stage).kernels)
      for (const loop::Stmt& stmt : k.stmts)
        if (stmt.op == loop::Op::for_) beside = std::max(beside, stmt.results.size());
    CHECK(beside == s.beside);
  }
}

TEST_CASE("panels before a depthwise convolution suit its rows and the threads") {
  const TargetSpec target{.vector_bits = 512, .vector_registers = 32, .masked_ops = true, .threads = 2};
  // 14 pixels are two tiles of 7 by 48 channels; by 64 they would be three of 5, and 9 panels for two threads.
  passes::DepthwiseSizes s{.channels = 576,
                           .element_bytes = 4,
                           .rows_in = 14,
                           .columns_in = 14,
                           .rows = 14,
                           .columns = 14,
                           .taps = 9,
                           .reach = 3,
                           .stride = 1,
                           .depth = 96};
  passes::DepthwiseCut cut = pick_cut(s, std::nullopt, target);
  CHECK(cut.width == 48);
  CHECK(cut.bands == 1);
  CHECK(pick_cut(s, 64, target).width == 64);
  // Few terms: what rows at the border of two bands cost is less than what sharing every row does.
  s.channels = 192, s.rows_in = s.columns_in = s.rows = s.columns = 28, s.depth = 8;
  CHECK(pick_cut(s, std::nullopt, target).bands == 2);
  CHECK(passes::pieces(14, 9, 0.5).length == 7);
  CHECK(passes::most_pixels(3, target) == 9);
}

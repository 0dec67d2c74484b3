// Winograd convolutions: the choice, their kernels with fused maps, how exact they are, and the same bits however the
// work is split.
#include <cmath>
#include <random>

#include <catch2/catch.hpp>

#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

using Ints = std::vector<std::int64_t>;

struct Shape3x3 {
  Dim batch;
  std::int64_t height, width, channels, filters, out_height, out_width, low_row = 1, low_column = 1;
};

ValueId convolution(GraphBuilder& b, ValueId x, ValueId w, const Shape3x3& s, const char* role = "output") {
  return b.add_op("conv", {x, w},
                  {{"role", std::string(role)},
                   {"size", Dims{s.out_height, s.out_width}},
                   {"groups", Dims{1}},
                   {"low", Dims{s.low_row, s.low_column}},
                   {"strides", Ints{1, 1}},
                   {"dilations", Ints{1, 1}},
                   {"layout", std::string("channels_last")}});
}

/// relu(conv(x, w) + bias + residual), and whether anything else reads the convolution.
Graph block(const Shape3x3& s, DType t, bool constant_filters = false, bool also = false) {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {t, {s.batch, s.height, s.width, s.channels}}), w;
  if (constant_filters) {
    std::mt19937 rng(3);
    std::uniform_real_distribution<double> u(-1, 1);
    Array a(t, {3, 3, s.channels, s.filters});
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, u(rng));
    w = b.constant(make_literal(a));
  } else {
    w = b.input("w", {t, {3, 3, s.channels, s.filters}});
  }
  ValueId bias = b.input("bias", {t, {s.filters}});
  ValueId residual = b.input("residual", {t, {s.batch, s.out_height, s.out_width, s.filters}});
  ValueId y = convolution(b, x, w, s);
  g.outputs.push_back({"y", b.add_op("max", {b.add(b.add(y, bias), residual), b.scalar(t, 0)}), {}});
  if (also) g.outputs.push_back({"conv", y, {}});
  return g;
}

std::vector<Array> random_inputs(const Graph& g, std::int64_t batch) {
  std::mt19937 rng(7);
  std::normal_distribution<double> u;
  std::vector<Array> inputs;
  for (ValueId v : g.inputs) {
    Ints shape;
    for (const Dim& d : g.type(v).shape) shape.push_back(d.is_const() ? d.value() : batch);
    Array a(g.type(v).dtype, shape);
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, u(rng));
    inputs.push_back(std::move(a));
  }
  return inputs;
}

std::string messages(const Diags& d) { return render(d, Sources{}); }

struct Ran {
  std::vector<Array> values;
  std::size_t winograd = 0, kernels = 0;
};

Ran run(const Graph& g, const std::vector<Array>& inputs, runtime::EngineOptions options, int threads = 1) {
  static auto engine = runtime::Engine::create();
  REQUIRE(engine);
  auto compiled = (*engine)->compile(g, options);
  if (!compiled) FAIL(messages(compiled.error()));
  runtime::ExecContext context(compiled->executable, {.threads = threads});
  auto values = runtime::run(context, inputs);
  if (!values) FAIL(messages(values.error()));
  Ran r{std::move(*values), 0, compiled->report.kernels.size()};
  for (const auto& k : compiled->report.kernels) r.winograd += k.label.find("winograd") != std::string::npos;
  return r;
}

/// The largest error relative to the largest element.
double error(const Array& got, const Array& want) {
  REQUIRE(got.shape() == want.shape());
  double most = 0, scale = 0;
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    most = std::max(most, std::abs(got.get_double(i) - want.get_double(i)));
    scale = std::max(scale, std::abs(want.get_double(i)));
  }
  return most / scale;
}

runtime::EngineOptions with(int tile, const std::string& target = "cpu:native") {
  runtime::EngineOptions o{.target = target};
  o.winograd_tile = tile;
  return o;
}

}  // namespace

TEST_CASE("Winograd kernels with fused maps agree with a direct sum") {
  const Dim n = Dim::symbol("N");
  const Shape3x3 shapes[] = {{1, 28, 28, 64, 64, 28, 28},   // whole tiles and panels
                             {2, 15, 13, 40, 72, 15, 13},   // odd sizes, parts of registers and panels
                             {1, 17, 16, 48, 60, 12, 18, 0, 2}, // cut below, wider than the image
                             {16, 2, 2, 160, 96, 2, 2},         // few tiles, filters transformed beside the product
                             {n, 14, 14, 64, 96, 14, 14}};
  for (const Shape3x3& s : shapes)
    for (int tile : {2, 4})
      for (std::string target : {"cpu:native", "cpu:x86-64-v3"}) {
        INFO(s.height << "x" << s.width << " " << s.channels << "->" << s.filters << " F(" << tile << ") " << target);
        Graph g = block(s, DType::f32, false, s.channels == 40);
        std::vector<Array> inputs = random_inputs(g, 3);
        auto want = interpret(g, inputs);
        if (!want) FAIL(messages(want.error()));
        Ran got = run(g, inputs, with(tile, target));
        CHECK(got.winograd >= 1);             // the product, and filters if they have a kernel of their own
        CHECK(got.kernels == got.winograd);  // the maps are in the product's
        for (std::size_t i = 0; i < want->size(); ++i)
          CHECK(error(got.values[i], (*want)[i]) < (tile == 2 ? 3e-6 : 2e-5));
      }
}

TEST_CASE("constant filters are transformed while compiling, and results have the same bits on any number of threads") {
  Graph g = block({1, 28, 28, 64, 64, 28, 28}, DType::f32, true);
  std::vector<Array> inputs = random_inputs(g, 1);
  Ran one = run(g, inputs, with(2));
  CHECK(one.kernels == 1);
  for (int threads : {2, 3}) CHECK(run(g, inputs, with(2), threads).values[0].same_bits(one.values[0]));
}

TEST_CASE("the input gradient of a 3 x 3 convolution is one with turned filters") {
  const Shape3x3 shapes[] = {{2, 14, 14, 64, 48, 16, 15, 0, 1},   // y of 14 x 14 comes from x of 16 x 15
                             {16, 2, 2, 160, 96, 2, 2, 1, 1},     // few tiles
                             {3, 14, 14, 40, 72, 14, 14, 1, 1}};  // parts of registers and panels
  for (const Shape3x3& s : shapes)
    for (std::string target : {"cpu:native", "cpu:x86-64-v3"}) {
      INFO(s.height << "x" << s.width << " " << s.channels << "->" << s.filters << " " << target);
      Graph g;
      GraphBuilder b(g);
      ValueId y = b.input("y", {DType::f32, {s.batch, s.height, s.width, s.channels}}),
              w = b.input("w", {DType::f32, {3, 3, s.filters, s.channels}});
      g.outputs.push_back({"x", convolution(b, y, w, s, "input"), {}});
      std::vector<Array> inputs = random_inputs(g, 2);
      auto want = interpret(g, inputs);
      if (!want) FAIL(messages(want.error()));
      Ran got = run(g, inputs, with(2, target));
      CHECK(got.winograd >= 1);
      CHECK(error(got.values[0], (*want)[0]) < 3e-6);
      for (int threads : {2, 3}) CHECK(run(g, inputs, with(2, target), threads).values[0].same_bits(got.values[0]));
    }
}

TEST_CASE("images that are views are read through a copy of each tile") {
  const Shape3x3 s{2, 15, 14, 32, 64, 15, 14};
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {2, 16, 15, 40}}), w = b.input("w", {DType::f32, {64, 32, 3, 3}});
  x = b.slice(x, {0, 1, 1, 8}, {2, 16, 15, 40}, {1, 1, 1, 1});
  g.outputs.push_back({"y", convolution(b, x, b.transpose(w, {2, 3, 1, 0}), s), {}});
  std::vector<Array> inputs = random_inputs(g, 2);
  auto want = interpret(g, inputs);
  if (!want) FAIL(messages(want.error()));
  for (std::string target : {"cpu:native", "cpu:x86-64-v3"}) {
    Ran got = run(g, inputs, with(2, target));
    CHECK(got.winograd >= 1);
    CHECK(error(got.values[0], (*want)[0]) < 3e-6);
  }
}

TEST_CASE("F(2x2) is as exact as a direct sum") {
  const Shape3x3 s{1, 14, 14, 128, 64, 14, 14};
  Graph g = block(s, DType::f32);
  std::vector<Array> inputs = random_inputs(g, 1);
  auto wide = runtime::widen_to_f64(g);
  REQUIRE(wide);
  std::vector<Array> exact_inputs;
  for (const Array& a : inputs) {
    Array x(DType::f64, a.shape());
    for (std::int64_t i = 0; i < a.elems(); ++i) x.set_double(i, a.get_double(i));
    exact_inputs.push_back(std::move(x));
  }
  auto exact = interpret(*wide, exact_inputs);
  REQUIRE(exact);
  runtime::EngineOptions none = with(2);
  none.pipeline.disabled = {"winograd"};
  Ran direct = run(g, inputs, none), two = run(g, inputs, with(2)), four = run(g, inputs, with(4));
  REQUIRE((direct.winograd == 0 && two.winograd >= 1 && four.winograd >= 1));
  const double e = error(direct.values[0], (*exact)[0]), e2 = error(two.values[0], (*exact)[0]),
               e4 = error(four.values[0], (*exact)[0]);
  INFO("direct " << e << ", F(2x2) " << e2 << ", F(4x4) " << e4);
  CHECK(e < 2e-6);
  CHECK(e2 < 2 * e);
  CHECK(e4 < 1.2e-5);
}

TEST_CASE("a direct sum stays where Winograd cannot or would not pay") {
  for (const Shape3x3& s : {Shape3x3{1, 28, 28, 3, 64, 28, 28}, Shape3x3{1, 28, 28, 64, 4, 28, 28}}) {
    Graph g = block(s, DType::f32);
    CHECK(run(g, random_inputs(g, 1), with(2)).winograd == 0);
  }
  Graph wide = block({1, 28, 28, 64, 64, 28, 28}, DType::f64);
  CHECK(run(wide, random_inputs(wide, 1), with(4)).winograd == 0);
  runtime::EngineOptions plain = with(2);
  plain.pipeline.opt_level = 0;
  Graph g = block({1, 8, 8, 32, 32, 8, 8}, DType::f32);
  CHECK(run(g, random_inputs(g, 1), plain).winograd == 0);
}

namespace {

/// The filter gradient of a convolution of x with the cotangent y.
Graph filter_gradient(const Shape3x3& s, DType t = DType::f32) {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {t, {s.batch, s.height, s.width, s.channels}}),
          y = b.input("y", {t, {s.batch, s.out_height, s.out_width, s.filters}});
  g.outputs.push_back({"w",
                       b.add_op("conv", {x, y},
                                {{"role", std::string("filter")},
                                 {"size", Dims{3, 3}},
                                 {"groups", Dims{1}},
                                 {"low", Dims{s.low_row, s.low_column}},
                                 {"strides", Ints{1, 1}},
                                 {"dilations", Ints{1, 1}},
                                 {"layout", std::string("channels_last")}}),
                       {}});
  return g;
}

}  // namespace

TEST_CASE("filter gradients by Winograd agree with a direct sum") {
  const Dim n = Dim::symbol("N");
  const Shape3x3 shapes[] = {{16, 16, 16, 64, 64, 16, 16},       // summed in parts
                             {16, 2, 2, 128, 96, 2, 2},          // one tile an image, borders all around
                             {5, 15, 13, 40, 72, 15, 13},        // odd sizes, parts of blocks
                             {3, 17, 16, 24, 60, 12, 18, 0, 2},  // cut below, wider than the image, parts of lanes
                             {n, 14, 14, 64, 96, 14, 14}};
  for (const Shape3x3& s : shapes)
    for (int tile : {2, 4})
      for (std::string target : {"cpu:native", "cpu:x86-64-v3"}) {
        INFO(s.height << "x" << s.width << " " << s.channels << "->" << s.filters << " F(" << tile << ") " << target);
        Graph g = filter_gradient(s);
        std::vector<Array> inputs = random_inputs(g, 3);
        auto want = interpret(g, inputs);
        if (!want) FAIL(messages(want.error()));
        Ran got = run(g, inputs, with(tile, target));
        CHECK(got.winograd == 1);
        CHECK(error(got.values[0], (*want)[0]) < (tile == 2 ? 5e-6 : 3e-5));
        for (int threads : {2, 3})
          CHECK(run(g, inputs, with(tile, target), threads).values[0].same_bits(got.values[0]));
      }
}

TEST_CASE("filter gradients by F(2x2) are as exact as direct sums") {
  Graph g = filter_gradient({8, 14, 14, 64, 64, 14, 14});
  std::vector<Array> inputs = random_inputs(g, 1), exact_inputs;
  auto wide = runtime::widen_to_f64(g);
  REQUIRE(wide);
  for (const Array& a : inputs) {
    Array x(DType::f64, a.shape());
    for (std::int64_t i = 0; i < a.elems(); ++i) x.set_double(i, a.get_double(i));
    exact_inputs.push_back(std::move(x));
  }
  auto exact = interpret(*wide, exact_inputs);
  REQUIRE(exact);
  runtime::EngineOptions none = with(2);
  none.pipeline.disabled = {"winograd"};
  Ran direct = run(g, inputs, none), two = run(g, inputs, with(2));
  REQUIRE((direct.winograd == 0 && two.winograd == 1));
  const double e = error(direct.values[0], (*exact)[0]), e2 = error(two.values[0], (*exact)[0]);
  INFO("direct " << e << ", F(2x2) " << e2);
  CHECK(e2 < 2 * e);
}

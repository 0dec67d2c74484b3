// Constants of channels that become part of constant weights: the values stay those of the graph as it was, and nothing
// of the normalisation is left where it can be folded.
#include <cmath>
#include <random>

#include <catch2/catch.hpp>

#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/pass.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

using Ints = std::vector<std::int64_t>;

struct Random {
  std::mt19937 rng{11};
  Array array(DType t, Ints shape, double low, double high) {
    std::uniform_real_distribution<double> u(low, high);
    Array a(t, shape);
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, u(rng));
    return a;
  }
  ValueId constant(GraphBuilder& b, Ints shape, double low = -1, double high = 1, DType t = DType::f32) {
    return b.constant(make_literal(array(t, std::move(shape), low, high)));
  }
};

std::string messages(const Diags& d) { return render(d, Sources{}); }

std::size_t count(const Graph& g, std::string_view op) {
  std::size_t n = 0;
  for (NodeId id : g.node_ids()) n += g.node(id).op->name == op;
  return n;
}

/// The graph after the passes up to the one that folds, without what is dead.
Graph folded(const Graph& g, std::vector<std::string> passes = {"decompose_early", "fold_affine", "fold", "dce"}) {
  passes::PassContext context;
  passes::PipelineOptions options;
  options.passes = std::move(passes);
  auto r = passes::run_pipeline(g, options, context);
  if (!r) FAIL(messages(r.error()));
  return std::get<Graph>(r->stage);
}

/// The values agree with the graph's in f64, relative to the largest one.
void check_values(const Graph& g, const Graph& changed) {
  Random random;
  std::vector<Array> inputs, wide_inputs;
  for (ValueId v : g.inputs) {
    Ints shape;
    for (const Dim& d : g.type(v).shape) shape.push_back(d.is_const() ? d.value() : 3);
    inputs.push_back(random.array(g.type(v).dtype, shape, -2, 2));
    Array w(DType::f64, shape);
    for (std::int64_t i = 0; i < w.elems(); ++i) w.set_double(i, inputs.back().get_double(i));
    wide_inputs.push_back(w);
  }
  auto wide = runtime::widen_to_f64(g);
  REQUIRE(wide);
  auto want = interpret(*wide, wide_inputs), plain = interpret(g, inputs), got = interpret(changed, inputs);
  REQUIRE((want && plain && got));
  double scale = 0, error = 0, before = 0;
  for (std::int64_t i = 0; i < (*want)[0].elems(); ++i) {
    const double exact = (*want)[0].get_double(i);
    scale = std::max(scale, std::abs(exact));
    error = std::max(error, std::abs((*got)[0].get_double(i) - exact));
    before = std::max(before, std::abs((*plain)[0].get_double(i) - exact));
  }
  INFO("error " << error / scale << ", unfolded " << before / scale);
  CHECK(error <= 2e-6 * scale);
}

ValueId convolution(GraphBuilder& b, ValueId x, ValueId w, Ints pads, std::int64_t group = 1, ValueId bias = {},
                    const char* op = "Conv") {
  std::vector<ValueId> operands{x, w};
  if (bias) operands.push_back(bias);
  return b.add_op(op, operands, {{"pads", pads}, {"group", group}});
}

ValueId batch_norm(GraphBuilder& b, Random& r, ValueId x, std::int64_t channels) {
  return b.add_op("BatchNormalization", {x, r.constant(b, {channels}, 0.5, 2), r.constant(b, {channels}),
                                         r.constant(b, {channels}), r.constant(b, {channels}, 0.1, 3)});
}

}  // namespace

TEST_CASE("a batch norm with constant statistics behind a convolution becomes part of it") {
  for (const char* op : {"Conv", "ConvTranspose"})
    for (std::int64_t group : {1, 2})
      for (bool bias : {false, true}) {
        INFO(op << " groups " << group << " bias " << bias);
        Random r;
        Graph g;
        GraphBuilder b(g);
        const bool transposed = std::string_view(op) == "ConvTranspose";
        ValueId x = b.input("x", {DType::f32, {Dim::symbol("N"), 4, 7, 6}});
        ValueId w = r.constant(b, transposed ? Ints{4, 6 / group, 3, 3} : Ints{6, 4 / group, 3, 3});
        ValueId y = convolution(b, x, w, {1, 1, 1, 1}, group, bias ? r.constant(b, {6}) : ValueId{}, op);
        g.outputs.push_back({"y", b.add_op("max", {batch_norm(b, r, y, 6), b.scalar(DType::f32, 0)}), {}});
        Graph f = folded(g);
        CHECK(count(f, "conv") == 1);
        CHECK(count(f, "add") == 1);
        for (const char* left : {"mul", "sub", "rsqrt"}) CHECK(count(f, left) == 0);
        check_values(g, f);
      }
}

TEST_CASE("factors before a convolution fold always, terms where nothing is padded") {
  for (std::int64_t pad : {0, 1})
    for (std::int64_t group : {1, 2}) {
      INFO("pad " << pad << " groups " << group);
      Random r;
      Graph g;
      GraphBuilder b(g);
      ValueId x = b.input("x", {DType::f32, {2, 4, 7, 6}});
      ValueId y =
          convolution(b, batch_norm(b, r, x, 4), r.constant(b, {6, 4 / group, 3, 3}), {pad, pad, pad, pad}, group);
      g.outputs.push_back({"y", y, {}});
      Graph f = folded(g);
      CHECK(count(f, "mul") == (pad ? 1 : 0));
      check_values(g, f);
      Graph h;
      GraphBuilder c(h);
      ValueId scaled = c.mul(c.input("x", {DType::f32, {2, 4, 7, 6}}), r.constant(c, {4, 1, 1}));
      h.outputs.push_back(
          {"y", convolution(c, scaled, r.constant(c, {6, 4 / group, 3, 3}), {pad, pad, pad, pad}, group), {}});
      Graph k = folded(h);
      CHECK(count(k, "mul") == 0);
      check_values(h, k);
    }
}

TEST_CASE("constants behind a product with constant weights fold, of a column or of all") {
  Random r;
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f32, {5, 8}});
  ValueId y = b.add_op("Gemm", {x, r.constant(b, {10, 8}), r.constant(b, {10})}, {{"transB", std::int64_t{1}}});
  y = b.sub(r.constant(b, {1, 10}), b.div(b.mul(y, r.constant(b, {10})), b.scalar(DType::f32, 3)));
  g.outputs.push_back({"y", y, {}});
  Graph f = folded(g);
  CHECK(count(f, "dot_general") == 1);
  CHECK(count(f, "add") == 1);
  for (const char* left : {"mul", "div", "sub"}) CHECK(count(f, left) == 0);
  check_values(g, f);
}

TEST_CASE("what others read, what is trained and what is not one number a channel stays") {
  Random r;
  auto kept = [&](const std::function<ValueId(GraphBuilder&, ValueId conv)>& behind, bool trainable, bool also) {
    Graph g;
    GraphBuilder b(g);
    ValueId x = b.input("x", {DType::f32, {2, 4, 5, 5}}), w = r.constant(b, {6, 4, 3, 3});
    if (trainable) g.node(g.value(w).node).attrs.set("trainable", true);
    ValueId y = convolution(b, x, w, {0, 0, 0, 0});
    g.outputs.push_back({"y", behind(b, y), {}});
    if (also) g.outputs.push_back({"conv", y, {}});
    Graph f = folded(g);
    check_values(g, f);
    return count(f, "mul");
  };
  auto channel = [&](GraphBuilder& b, ValueId y) { return b.mul(y, r.constant(b, {6, 1, 1})); };
  auto pixel = [&](GraphBuilder& b, ValueId y) { return b.mul(y, r.constant(b, {3, 3})); };
  CHECK(kept(channel, false, false) == 0);
  CHECK(kept(channel, true, false) == 1);
  CHECK(kept(channel, false, true) == 1);
  CHECK(kept(pixel, false, false) == 1);
}

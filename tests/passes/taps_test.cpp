// The rule `drop-dead-taps`: filters lose what only ever meets padding, in every role and layout, and keep every bit.
#include <cmath>

#include <catch2/catch.hpp>

#include "ir/ops/convolution.hpp"
#include "passes/pass.hpp"

using namespace ag;
using ops::ConvLayout;
using ops::ConvRole;

namespace {

using Ints = std::vector<std::int64_t>;

struct Axis {
  std::int64_t space, taps, count, low, stride, dilation, left;  ///< left: taps that stay
};

Array filled(const Dims& shape) {
  Ints sizes;
  for (const Dim& d : shape) sizes.push_back(d.value());
  Array a(DType::f32, sizes);
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, std::cos(1.3 * static_cast<double>(i)));
  return a;
}

/// A convolution over one axis as `a` says and one axis of a single tap.
Graph convolution(ConvRole role, ConvLayout layout, const Axis& a, std::vector<Array>& inputs) {
  Dims x{2, 4, a.space, 3}, w{6, 2, a.taps, 1}, y{2, 6, a.count, 3};
  ops::Window window{{a.space, 3}, {a.taps, 1}, {a.count, 3}, {a.low, 0}, {a.stride, 1}, {a.dilation, 1}};
  const Dims* values[3] = {&x, &w, &y};  // in the order of ConvValue
  Graph g;
  GraphBuilder b(g);
  ValueId operands[2];
  for (std::size_t i : {0u, 1u}) {
    const ops::ConvValue value = ops::conv_value(role, i);
    Dims shape = *values[static_cast<std::size_t>(value)];
    if (layout == ConvLayout::channels_last) shape = ops::permuted(shape, ops::channels_last_perm(value, 4));
    operands[i] = b.input(i ? "q" : "p", {DType::f32, shape});
    inputs.push_back(filled(shape));
  }
  const Dims size = role == ConvRole::output ? window.count : role == ConvRole::input ? window.space : window.taps;
  g.outputs.push_back({"z", ops::make_conv(b, role, layout, operands[0], operands[1], window, Dim(2), size), {}});
  return g;
}

}  // namespace

TEST_CASE("taps that only meet padding are dropped, their gradients are zeros") {
  const Axis axes[] = {{8, 3, 8, 12, 1, 12, 1},  // dilated beyond the image
                       {8, 3, 8, 6, 1, 6, 3},    // every tap meets something
                       {5, 5, 5, 2, 1, 2, 4},    // padded on one side more than on the other
                       {4, 5, 2, 7, 3, 2, 3},    // with strides
                       {4, 4, 3, -2, 1, 1, 2}};  // cropped: the last taps lie behind the image
  for (const Axis& a : axes)
    for (ConvRole role : {ConvRole::output, ConvRole::input, ConvRole::filter})
      for (ConvLayout layout : {ConvLayout::channels_first, ConvLayout::channels_last}) {
        std::vector<Array> inputs;
        const Graph g = convolution(role, layout, a, inputs);
        passes::PassContext context;
        passes::PipelineOptions options;
        options.passes = {"algebra", "dce"};
        auto r = passes::run_pipeline(g, options, context);
        REQUIRE(r);
        const Graph& after = std::get<Graph>(r->stage);
        std::int64_t left = -1;
        for (NodeId id : after.node_ids())
          if (after.node(id).op->name == "conv") {
            const Node& n = after.node(id);
            Dims w = role == ConvRole::filter ? after.type(n.result()).shape : after.type(n.operands[1]).shape;
            left = w[layout == ConvLayout::channels_last ? 0 : 2].value();
          }
        CAPTURE(a.space, a.taps, a.low, static_cast<int>(role), static_cast<int>(layout));
        CHECK(left == a.left);
        auto want = interpret(g, inputs), got = interpret(after, inputs);
        REQUIRE(want);
        REQUIRE(got);
        for (std::int64_t i = 0; i < (*want)[0].elems(); ++i)
          CHECK((*got)[0].get_double(i) == (*want)[0].get_double(i));
      }
}

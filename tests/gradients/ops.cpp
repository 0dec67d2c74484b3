// Derivatives of every differentiable op and sample, in f64: reverse mode against central differences, reverse
// against forward mode, and second derivatives where the op says that it is smooth.
#include <catch2/catch.hpp>

#include "tests/gradients/probe.hpp"

using namespace ag;
using namespace ag::test;

namespace {

bool real_case(const Case& c) {
  bool any = false;
  for (const auto& o : c.sample.operands) {
    if (is_float(o.type.dtype) && o.type.dtype != DType::f64) return false;
    any = any || (!o.literal && o.type.dtype == DType::f64);
  }
  return any && c.op->differentiable() && !c.op->zero_gradient;
}

/// The op's real results, each times random numbers, summed up: a scalar function of the real inputs.
std::optional<Probe> probe(const Case& c) {
  auto built = build(c);
  REQUIRE(built);
  Probe p{std::move(built->graph), {}, {}, std::move(built->values), {}};
  GraphBuilder b(p.graph);
  Random random(c.label + "weights");
  for (const Output& o : p.graph.outputs) {
    Type t = p.graph.type(o.value);
    if (t.dtype != DType::f64) continue;
    ValueId w = is_static(t) ? b.constant(make_literal(random_array(t, 0.5, 2, random))) : ramp_like(b, t);
    ValueId sum = b.reduce("reduce_sum", b.mul(o.value, w), all_axes(t));
    p.loss = p.loss ? b.add(p.loss, sum) : sum;
  }
  if (!p.loss) return std::nullopt;
  p.graph.outputs = {{"loss", p.loss, {}}};
  for (std::size_t i = 0; i < built->inputs.size(); ++i)
    if (p.graph.type(built->inputs[i]).dtype == DType::f64) {
      p.wrt.push_back(built->inputs[i]);
      p.places.push_back(i);
    }
  return p;
}

/// Calls `check` on every differentiable case; returns how many there were.
template <class F>
std::size_t for_each_probe(F check, bool smooth_only = false) {
  std::size_t count = 0;
  for (const Case& c : all_cases()) {
    if (!real_case(c) || (smooth_only && !c.op->smooth)) continue;
    auto p = probe(c);
    if (!p) continue;
    CAPTURE(c.label);
    check(*p, c.label);
    ++count;
  }
  return count;
}

}  // namespace

TEST_CASE("reverse mode agrees with central differences") { CHECK(for_each_probe(check_reverse) > 100); }

TEST_CASE("forward mode is the transpose of reverse mode") { CHECK(for_each_probe(check_forward) > 100); }

TEST_CASE("second derivatives agree with differences of first ones") { CHECK(for_each_probe(check_second, true) > 50); }

namespace {
/// d loss/dx at given values of an op's one input.
std::vector<double> slopes_at(std::string_view name, const std::vector<double>& x, Attrs attrs = {}) {
  Graph g;
  GraphBuilder b(g);
  std::vector<std::int64_t> shape{static_cast<std::int64_t>(x.size())};
  ValueId in = b.input("x", {DType::f64, {shape[0]}});
  ValueId loss = b.reduce("reduce_sum", b.add_op(name, {in}, std::move(attrs)), {0});
  auto grads = passes::reverse(g, {.of = loss, .seed = {}, .wrt = {in}, .stop = {}});
  REQUIRE(grads);
  g.outputs = {{"d", (*grads)[0], {}}};
  Array out = run(g, {Array::of<double>(DType::f64, shape, x)})[0];
  std::vector<double> r;
  for (std::int64_t i = 0; i < out.elems(); ++i) r.push_back(out.get_double(i));
  return r;
}
}  // namespace

TEST_CASE("slopes at kinks are PyTorch's") {
  CHECK(slopes_at("Relu", {-1, 0, 1}) == std::vector<double>{0, 0, 1});
  CHECK(slopes_at("abs", {-1, 0, 1}) == std::vector<double>{-1, 0, 1});
  CHECK(slopes_at("LeakyRelu", {-1, 0, 1}, {{"alpha", 0.1}}) == std::vector<double>{0.1, 0.1, 1});
  CHECK(slopes_at("ReduceL2", {0, 0}) == std::vector<double>{0, 0});
  CHECK(slopes_at("ReduceMax", {1, 3, 3}) == std::vector<double>{0, 0.5, 0.5});
  CHECK(slopes_at("ReduceProd", {0, 2, 3}) == std::vector<double>{6, 0, 0});
  CHECK(slopes_at("ReduceProd", {0, 2, 0}) == std::vector<double>{0, 0, 0});
  CHECK(slopes_at("Softplus", {0}) == std::vector<double>{0.5});
  CHECK(slopes_at("Elu", {1000, -1000}) == std::vector<double>{1, 0});
}

TEST_CASE("the gradient of Clip passes at its bounds") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f64, {5}}), low = b.input("low", {DType::f64, {}}),
          high = b.input("high", {DType::f64, {}});
  ValueId loss = b.reduce("reduce_sum", b.add_op("Clip", {x, low, high}), {0});
  auto grads = passes::reverse(g, {.of = loss, .seed = {}, .wrt = {x, low, high}, .stop = {}});
  REQUIRE(grads);
  for (ValueId v : *grads) g.outputs.push_back({"", v, {}});
  std::vector<double> at = {-2, -1, 0, 1, 2};
  std::vector<Array> out =
      run(g, {Array::of<double>(DType::f64, {5}, at), Array::scalar(DType::f64, -1), Array::scalar(DType::f64, 1)});
  for (std::int64_t i = 0; i < 5; ++i) CHECK(out[0].get_double(i) == (i == 0 || i == 4 ? 0 : 1));
  CHECK(out[1].get_double(0) == 1);
  CHECK(out[2].get_double(0) == 1);
}

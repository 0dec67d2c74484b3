// Derivatives of every differentiable op and sample, in f64: reverse mode against central differences, reverse
// against forward mode, and second derivatives where the op says that it is smooth.
#include <catch2/catch.hpp>

#include "passes/autodiff.hpp"
#include "tests/ops/cases.hpp"

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
struct Probe {
  Graph graph;
  std::vector<ValueId> wrt;          ///< the real inputs
  std::vector<std::size_t> places;   ///< where they stand among the inputs
  std::vector<Array> values;
  ValueId loss;
};

std::optional<Probe> probe(const Case& c) {
  auto built = build(c);
  REQUIRE(built);
  Probe p{std::move(built->graph), {}, {}, std::move(built->values), {}};
  GraphBuilder b(p.graph);
  Random random(c.label + "weights");
  for (const Output& o : p.graph.outputs) {
    Type t = p.graph.type(o.value);
    if (t.dtype != DType::f64) continue;
    ValueId w = b.constant(make_literal(random_array(t, 0.5, 2, random)));
    ValueId sum = b.reduce("reduce_sum", b.mul(o.value, w), [&] {
      std::vector<std::int64_t> a;
      for (int i = 0; i < t.rank(); ++i) a.push_back(i);
      return a;
    }());
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

std::vector<Array> run(const Graph& g, const std::vector<Array>& inputs) {
  auto out = interpret(g, inputs);
  if (!out) FAIL(messages(out.error()));
  return std::move(*out);
}

std::vector<Array> moved(const Probe& p, const std::vector<Array>& direction, double h) {
  std::vector<Array> x = p.values;
  for (std::size_t k = 0; k < p.places.size(); ++k) {
    Array& a = x[p.places[k]];
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, a.get_double(i) + h * direction[k].get_double(i));
  }
  return x;
}

double dot(const Array& a, const Array& b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.elems(); ++i) sum += a.get_double(i) * b.get_double(i);
  return sum;
}

std::vector<Array> directions(const Probe& p, const std::string& seed) {
  Random random(seed);
  std::vector<Array> out;
  for (ValueId v : p.wrt) out.push_back(random_array(p.graph.type(v), -1, 1, random));
  return out;
}

/// Appends d loss / d wrt; what is not connected gets zeros. Outputs become the gradients.
Graph gradient(const Probe& p, std::vector<ValueId>* grads_out = nullptr) {
  Graph g = p.graph;
  std::vector<ValueId> map;
  auto grads = passes::reverse(g, {.of = p.loss, .wrt = p.wrt}, {}, &map);
  if (!grads) FAIL(messages(grads.error()));
  GraphBuilder b(g);
  g.outputs.clear();
  for (std::size_t i = 0; i < grads->size(); ++i) {
    ValueId v = (*grads)[i] ? (*grads)[i] : b.zeros(p.graph.type(p.wrt[i]));
    CHECK(b.type(v) == p.graph.type(p.wrt[i]));
    g.outputs.push_back({"d" + std::to_string(i), v, {}});
    if (grads_out) grads_out->push_back(v);
  }
  return g;
}

void check_close(double got, double want, double tolerance) {
  CHECK(std::fabs(got - want) <= tolerance * (1 + std::fabs(want)));
}

constexpr double h = 1e-5;

}  // namespace

TEST_CASE("reverse mode agrees with central differences") {
  std::size_t count = 0;
  for (const Case& c : all_cases()) {
    if (!real_case(c)) continue;
    auto p = probe(c);
    if (!p) continue;
    CAPTURE(c.label);
    std::vector<Array> v = directions(*p, c.label + "direction"), grads = run(gradient(*p), p->values);
    double slope = 0;
    for (std::size_t k = 0; k < grads.size(); ++k) slope += dot(grads[k], v[k]);
    double ahead = run(p->graph, moved(*p, v, h))[0].get_double(0),
           behind = run(p->graph, moved(*p, v, -h))[0].get_double(0);
    double want = (ahead - behind) / (2 * h);
    CAPTURE(slope, want);
    check_close(slope, want, 1e-6);
    ++count;
  }
  CHECK(count > 100);
}

TEST_CASE("forward mode is the transpose of reverse mode") {
  for (const Case& c : all_cases()) {
    if (!real_case(c)) continue;
    auto p = probe(c);
    if (!p) continue;
    CAPTURE(c.label);
    std::vector<Array> v = directions(*p, c.label + "tangent"), grads = run(gradient(*p), p->values);
    double reverse_slope = 0;
    for (std::size_t k = 0; k < grads.size(); ++k) reverse_slope += dot(grads[k], v[k]);
    Graph g = p->graph;
    std::vector<ValueId> tangents;
    {
      GraphBuilder b(g);
      for (const Array& a : v) tangents.push_back(b.constant(make_literal(a)));
    }
    auto out = passes::forward(g, p->wrt, tangents, {p->loss});
    if (!out) FAIL(messages(out.error()));
    if (!(*out)[0]) {
      CHECK(reverse_slope == 0);
      continue;
    }
    g.outputs = {{"t", (*out)[0], {}}};
    double forward_slope = run(g, p->values)[0].get_double(0);
    CAPTURE(reverse_slope, forward_slope);
    check_close(reverse_slope, forward_slope, 1e-10);
  }
}

TEST_CASE("second derivatives agree with differences of first ones") {
  for (const Case& c : all_cases()) {
    if (!real_case(c) || !c.op->smooth) continue;
    auto p = probe(c);
    if (!p) continue;
    CAPTURE(c.label);
    std::vector<Array> u = directions(*p, c.label + "first"), v = directions(*p, c.label + "second");
    // s(x) = <gradient(x), u>, differentiated once more along v.
    std::vector<ValueId> grads;
    Probe second{gradient(*p, &grads), {}, p->places, p->values, {}};
    for (std::size_t i : p->places) second.wrt.push_back(second.graph.inputs[i]);
    GraphBuilder b(second.graph);
    for (std::size_t k = 0; k < grads.size(); ++k) {
      Type t = b.type(grads[k]);
      std::vector<std::int64_t> axes;
      for (int i = 0; i < t.rank(); ++i) axes.push_back(i);
      ValueId s = b.reduce("reduce_sum", b.mul(grads[k], b.constant(make_literal(u[k]))), axes);
      second.loss = second.loss ? b.add(second.loss, s) : s;
    }
    second.graph.outputs = {{"s", second.loss, {}}};
    std::vector<Array> hessian_u = run(gradient(second), second.values);
    double slope = 0;
    for (std::size_t k = 0; k < hessian_u.size(); ++k) slope += dot(hessian_u[k], v[k]);
    double want = (run(second.graph, moved(second, v, h))[0].get_double(0) -
                   run(second.graph, moved(second, v, -h))[0].get_double(0)) /
                  (2 * h);
    CAPTURE(slope, want);
    check_close(slope, want, 1e-5);
  }
}

namespace {
/// d loss/dx at given values of an op's one input.
std::vector<double> slopes_at(std::string_view name, const std::vector<double>& x, Attrs attrs = {}) {
  Graph g;
  GraphBuilder b(g);
  std::vector<std::int64_t> shape{static_cast<std::int64_t>(x.size())};
  ValueId in = b.input("x", {DType::f64, {shape[0]}});
  ValueId loss = b.reduce("reduce_sum", b.add_op(name, {in}, std::move(attrs)), {0});
  auto grads = passes::reverse(g, {.of = loss, .wrt = {in}});
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
  auto grads = passes::reverse(g, {.of = loss, .wrt = {x, low, high}});
  REQUIRE(grads);
  for (ValueId v : *grads) g.outputs.push_back({"", v, {}});
  std::vector<double> at = {-2, -1, 0, 1, 2};
  std::vector<Array> out =
      run(g, {Array::of<double>(DType::f64, {5}, at), Array::scalar(DType::f64, -1), Array::scalar(DType::f64, 1)});
  for (std::int64_t i = 0; i < 5; ++i) CHECK(out[0].get_double(i) == (i == 0 || i == 4 ? 0 : 1));
  CHECK(out[1].get_double(0) == 1);
  CHECK(out[2].get_double(0) == 1);
}

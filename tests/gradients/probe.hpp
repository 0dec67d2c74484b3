// A scalar function of real inputs, and its derivatives checked: against central differences, reverse mode against
// forward mode, the second derivative against differences of the first.
#pragma once
#include <catch2/catch.hpp>

#include "passes/autodiff.hpp"
#include "tests/ops/cases.hpp"

namespace ag::test {

struct Probe {
  Graph graph;
  std::vector<ValueId> wrt;          ///< the real inputs
  std::vector<std::size_t> places;   ///< where they stand among the inputs
  std::vector<Array> values;
  ValueId loss;
};

inline std::vector<std::int64_t> all_axes(const Type& t) {
  std::vector<std::int64_t> a;
  for (int i = 0; i < t.rank(); ++i) a.push_back(i);
  return a;
}

inline std::vector<Array> run(const Graph& g, const std::vector<Array>& inputs) {
  auto out = interpret(g, inputs);
  if (!out) FAIL(messages(out.error()));
  return std::move(*out);
}

inline std::vector<Array> moved(const Probe& p, const std::vector<Array>& direction, double h) {
  std::vector<Array> x = p.values;
  for (std::size_t k = 0; k < p.places.size(); ++k) {
    Array& a = x[p.places[k]];
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, a.get_double(i) + h * direction[k].get_double(i));
  }
  return x;
}

inline double dot(const Array& a, const Array& b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.elems(); ++i) sum += a.get_double(i) * b.get_double(i);
  return sum;
}

inline std::vector<Array> directions(const Probe& p, const std::string& seed) {
  Random random(seed);
  std::vector<Array> out;
  for (std::size_t k : p.places) {
    const std::vector<std::int64_t>& shape = p.values[k].shape();
    out.push_back(random_array({DType::f64, Dims(shape.begin(), shape.end())}, -1, 1, random));
  }
  return out;
}

/// Appends d loss / d wrt; what is not connected gets zeros. Outputs become the gradients.
inline Graph gradient(const Probe& p, std::vector<ValueId>* grads_out = nullptr) {
  Graph g = p.graph;
  std::vector<ValueId> map;
  auto grads = passes::reverse(g, {.of = p.loss, .seed = {}, .wrt = p.wrt, .stop = {}}, {}, &map);
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

inline void check_close(double got, double want, double tolerance) {
  CHECK(std::fabs(got - want) <= tolerance * (1 + std::fabs(want)));
}

constexpr double h = 1e-5;

inline double slope_of(const Probe& p, const std::vector<Array>& v) {
  std::vector<Array> grads = run(gradient(p), p.values);
  double slope = 0;
  for (std::size_t k = 0; k < grads.size(); ++k) slope += dot(grads[k], v[k]);
  return slope;
}

inline double difference(const Probe& p, const std::vector<Array>& v) {
  return (run(p.graph, moved(p, v, h))[0].get_double(0) - run(p.graph, moved(p, v, -h))[0].get_double(0)) / (2 * h);
}

inline void check_reverse(const Probe& p, const std::string& label) {
  std::vector<Array> v = directions(p, label + "direction");
  double slope = slope_of(p, v), want = difference(p, v);
  CAPTURE(slope, want);
  check_close(slope, want, 1e-6);
}

inline void check_forward(const Probe& p, const std::string& label) {
  std::vector<Array> v = directions(p, label + "tangent");
  double reverse_slope = slope_of(p, v);
  Graph g = p.graph;
  std::vector<ValueId> tangents;
  {
    GraphBuilder b(g);
    for (std::size_t k = 0; k < v.size(); ++k)
      tangents.push_back(b.reshape(b.constant(make_literal(v[k])), Dims(g.type(p.wrt[k]).shape)));
  }
  auto out = passes::forward(g, p.wrt, tangents, {p.loss});
  if (!out) FAIL(messages(out.error()));
  if (!(*out)[0]) {
    CHECK(reverse_slope == 0);
    return;
  }
  g.outputs = {{"t", (*out)[0], {}}};
  if (auto ok = verify(g); !ok) FAIL(messages(ok.error()));
  double forward_slope = run(g, p.values)[0].get_double(0);
  CAPTURE(reverse_slope, forward_slope);
  check_close(reverse_slope, forward_slope, 1e-10);
}

/// s(x) = <gradient(x), u>: what is differentiated once more.
inline Probe slope_probe(const Probe& p, const std::vector<Array>& u) {
  std::vector<ValueId> grads;
  Probe second{gradient(p, &grads), {}, p.places, p.values, {}};
  for (std::size_t i : p.places) second.wrt.push_back(second.graph.inputs[i]);
  GraphBuilder b(second.graph);
  for (std::size_t k = 0; k < grads.size(); ++k) {
    Type t = b.type(grads[k]);
    ValueId s = b.reduce("reduce_sum", b.mul(grads[k], b.constant(make_literal(u[k]))), all_axes(t));
    second.loss = second.loss ? b.add(second.loss, s) : s;
  }
  second.graph.outputs = {{"s", second.loss, {}}};
  return second;
}

inline void check_second(const Probe& p, const std::string& label) {
  Probe second = slope_probe(p, directions(p, label + "first"));
  std::vector<Array> v = directions(p, label + "second");
  double slope = slope_of(second, v), want = difference(second, v);
  CAPTURE(slope, want);
  check_close(slope, want, 1e-5);
}

}  // namespace ag::test

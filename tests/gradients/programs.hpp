// Programs with control flow in JSON, as probes.
#pragma once
#include <catch2/catch.hpp>

#include "frontend/json/import.hpp"
#include "passes/pass.hpp"
#include "tests/gradients/probe.hpp"

namespace ag::test {

inline Graph import(const std::string& text) {
  auto doc = json::Document::parse(text, std::make_shared<std::string>("test.json"));
  if (!doc) FAIL(messages(doc.error()));
  auto g = json::import_graph(**doc);
  if (!g) FAIL(messages(g.error()));
  return std::move(*g);
}

/// The graph with `inputs`, `nodes` and the scalar output `y`; real inputs are differentiated.
inline Probe program(const std::string& inputs, const std::string& nodes, std::vector<Array> values) {
  Probe p;
  p.graph = import(R"({ "ag": 1, "inputs": [)" + inputs + R"(], "nodes": [)" + nodes + R"(], "outputs": ["y"] })");
  p.loss = p.graph.outputs[0].value;
  p.values = std::move(values);
  for (std::size_t i = 0; i < p.graph.inputs.size(); ++i)
    if (p.graph.type(p.graph.inputs[i]).dtype == DType::f64) {
      p.wrt.push_back(p.graph.inputs[i]);
      p.places.push_back(i);
    }
  return p;
}

inline Array reals(std::vector<std::int64_t> shape, const std::vector<double>& v) {
  return Array::of<double>(DType::f64, std::move(shape), v);
}
inline Array real(double v) { return Array::scalar(DType::f64, v); }

inline void sound(const Graph& g) {
  if (auto ok = verify(g); !ok) FAIL(messages(ok.error()));
  auto again = parse_graph(print(g));
  if (!again) FAIL(messages(again.error()));
  CHECK(print(*again) == print(g));
}

inline std::size_t count_ops(const Graph& g, std::string_view name) {
  std::size_t n = 0;
  for (NodeId id : g.node_ids()) {
    n += g.node(id).op->name == name;
    for (const GraphPtr& r : g.node(id).regions) n += count_ops(*r, name);
  }
  return n;
}

/// The graph as the pass checkpoint leaves it; unchanged where the limit is too small for what must be kept.
inline Graph with_checkpoints(const Graph& g, std::int64_t limit) {
  passes::PassContext context;
  context.memory_limit = limit;
  auto out = passes::checkpoint.on_graph(g, context);
  if (!out && out.error()[0].code != Code::AG5009) FAIL(messages(out.error()));
  return out ? *out : g;
}

}  // namespace ag::test

// Graphs lowered to loops and run by the loop interpreter, compared with their reference evaluation.
#pragma once
#include <catch2/catch.hpp>

#include "codegen/backend.hpp"
#include "passes/autodiff.hpp"
#include "passes/pass.hpp"
#include "tests/lower/run_program.hpp"
#include "tests/ops/cases.hpp"

namespace ag::test {

inline bool same(const Array& got, const Array& want) {
  if (got.dtype() != want.dtype() || got.shape() != want.shape()) return false;
  if (!is_float(got.dtype())) return got.same_bits(want);
  double rel = want.dtype() == DType::f64   ? 1e-13
               : want.dtype() == DType::f32 ? 2e-6
               : want.dtype() == DType::f16 ? 4e-3
                                            : 3e-2,
         scale = 1;
  for (std::int64_t i = 0; i < want.elems(); ++i)
    if (std::isfinite(want.get_double(i))) scale = std::max(scale, std::fabs(want.get_double(i)));
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double a = got.get_double(i), b = want.get_double(i);
    if (!(a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= rel * scale)) return false;
  }
  return true;
}

struct Lowering {
  std::string target = "cpu:x86-64-v3";
  std::vector<std::string> passes{"decompose", "lower"};
  bool mapped = false;  ///< the result is ready for an emitter
};

inline void check_lowered(const Graph& g, const std::vector<Array>& inputs, bool fuse, const Lowering& to = {}) {
  auto want = interpret(g, inputs);
  if (!want) FAIL(messages(want.error()));
  passes::PassContext context;
  context.target = codegen::describe_target(to.target).value();
  context.fuse = fuse;
  passes::PipelineOptions options;
  options.passes = to.passes;
  auto lowered = passes::run_pipeline(g, options, context);
  if (!lowered) FAIL(messages(lowered.error()));
  const auto& program = std::get<loop::Program>(lowered->stage);
  if (auto ok = loop::verify(program, to.mapped); !ok) FAIL(messages(ok.error()) << loop::print(program));
  auto got = run_program(program, inputs, true, context.host_graphs);
  if (!got) FAIL(messages(got.error()) << loop::print(program));
  for (std::size_t i = 0; i < want->size(); ++i) {
    bool agree = same((*got)[i], (*want)[i]);
    if (!agree)
      FAIL_CHECK("result " << i << " is " << format_values((*got)[i]) << " instead of " << format_values((*want)[i]));
    CHECK(agree);
  }
}

inline bool compiled(const OpInfo& op) { return op.lower_class != LowerClass::control; }

/// Every sample of every op.
inline void check_ops(const Lowering& to = {}) {
  for (const Case& c : all_cases()) {
    if (!compiled(*c.op)) continue;
    INFO(c.label);
    auto built = build(c);
    REQUIRE(built);
    check_lowered(built->graph, built->values, false, to);
  }
}

/// Every gradient of every sample in f64.
inline void check_gradients(const Lowering& to = {}) {
  for (const Case& c : all_cases()) {
    if (!compiled(*c.op) || !c.op->differentiable() || c.op->zero_gradient) continue;
    auto built = build(c);
    REQUIRE(built);
    INFO(c.label);
    ValueId y = built->graph.node(built->node).result();
    Type t = built->graph.type(y);
    std::vector<ValueId> wrt;
    for (ValueId v : built->inputs)
      if (built->graph.type(v).dtype == t.dtype) wrt.push_back(v);
    if (t.dtype != DType::f64 || wrt.empty()) continue;
    GraphBuilder b(built->graph);
    ValueId seed;
    if (is_static(t)) {
      seed = b.input("seed", t);
      Random random(c.label + "seed");
      built->values.push_back(random_array(t, 0.5, 2, random));
    } else {
      seed = ramp_like(b, t);
    }
    auto grads = passes::reverse(built->graph, {.of = y, .seed = seed, .wrt = wrt});
    if (!grads) FAIL(messages(grads.error()));
    built->graph.outputs.clear();
    for (ValueId v : *grads)
      if (v) built->graph.outputs.push_back({"d" + std::to_string(built->graph.outputs.size()), v, {}});
    check_lowered(built->graph, built->values, true, to);
  }
}

}  // namespace ag::test

// Graphs that lowering must get right, and how results are compared: shared by the tests of every target.
#pragma once
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <random>

#include <catch2/catch.hpp>

#include "ir/array.hpp"
#include "ir/builder.hpp"
#include "ir/op.hpp"

namespace ag::test::graphs {

struct Case {
  const char* name;
  std::function<void(GraphBuilder&)> build;   // declares inputs and outputs
  std::map<std::string, std::int64_t> sizes = {};
};

inline Type f32(Dims shape) { return {DType::f32, std::move(shape)}; }
inline void output(GraphBuilder& b, std::string name, ValueId v) {
  b.graph().outputs.push_back({std::move(name), v, {}});
}
inline const Dim N = Dim::symbol("N"), M = Dim::symbol("M");

inline ValueId softmax(GraphBuilder& b, ValueId x, std::int64_t axis) {
  ValueId e = b.unary("exp", b.sub(x, b.reduce("reduce_max", x, {axis}, true)));
  return b.div(e, b.reduce("reduce_sum", e, {axis}, true));
}

inline std::vector<Case> cases() {
  std::vector<Case> list;
  list.push_back({"scalar", [](GraphBuilder& b) { output(b, "y", b.mul(b.input("x", f32({})), 2.0)); }});
  list.push_back({"map", [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({7, 37})), y = b.input("y", f32({37}));
                    output(b, "z", b.unary("tanh", b.add(b.mul(x, y), 1.5)));
                  }});
  list.push_back({"map_symbolic",
                  [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({N, M})), y = b.input("y", f32({N, 1}));
                    output(b, "z", b.mul(x, b.unary("exp", y)));
                  },
                  {{"N", 5}, {"M", 41}}});
  list.push_back({"dot",
                  [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({N}));
                    output(b, "y", b.dot_general(x, x, {0}, {0}));
                  },
                  {{"N", 133}}});
  for (auto [m, k, n] :
       {std::array<int, 3>{17, 9, 70}, {6, 5, 64}, {1, 7, 33}, {13, 300, 10}, {100, 8, 1}, {20, 4, 48}})
    list.push_back({"matmul", [m = m, k = k, n = n](GraphBuilder& b) {
                      ValueId x = b.input("x", f32({m, k})), w = b.input("w", f32({k, n})), c = b.input("c", f32({n}));
                      output(b, "y", b.unary("tanh", b.add(b.dot_general(x, w, {1}, {0}), c)));
                    }});
  for (int rows : {1, 3, 7})
    list.push_back({"few_rows_transposed", [rows](GraphBuilder& b) {
                      ValueId x = b.input("x", f32({2, rows, 70})), w = b.input("w", f32({2, 19, 70}));
                      ValueId y = b.dot_general(x, w, {2}, {2}, {0}, {0});
                      output(b, "y", b.unary("tanh", b.add(y, b.input("c", f32({19})))));
                      output(b, "z",
                             b.dot_general(b.input("v", f32({rows, 133})), b.input("u", f32({5, 133})), {1}, {1}));
                    }});
  list.push_back({"turned_squares", [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({3, 48, 32})), y = b.input("y", f32({3, 32, 48}));
                    output(b, "z", b.add(b.unary("exp", b.transpose(x, {0, 2, 1})), y));
                    output(b, "t", b.add_op("materialize", {b.transpose(y, {2, 0, 1})}));
                  }});
  list.push_back({"matmul_transposed", [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({9, 20})), w = b.input("w", f32({70, 20}));
                    output(b, "y", b.dot_general(x, b.transpose(w, {1, 0}), {1}, {0}));
                    output(b, "z", b.dot_general(x, b.input("v", f32({9, 30})), {0}, {0}));
                  }});
  list.push_back({"matmul_symbolic",
                  [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({N, 20})), w = b.input("w", f32({20, M}));
                    output(b, "y", b.mul(b.dot_general(x, w, {1}, {0}), 0.5));
                  },
                  {{"N", 14}, {"M", 65}}});
  list.push_back({"batched", [](GraphBuilder& b) {
                    ValueId q = b.input("q", f32({2, 3, 10, 8})), k = b.input("k", f32({2, 3, 12, 8}));
                    ValueId s = softmax(b, b.dot_general(q, k, {3}, {3}, {0, 1}, {0, 1}), 3);
                    output(b, "y", b.dot_general(s, b.input("v", f32({2, 3, 12, 8})), {3}, {2}, {0, 1}, {0, 1}));
                  }});
  list.push_back({"softmax", [](GraphBuilder& b) { output(b, "y", softmax(b, b.input("x", f32({11, 300})), 1)); }});
  list.push_back({"few_taps", [](GraphBuilder& b) {  // rows of neighbours x lanes, 3 taps
                    ValueId x = b.input("x", f32({5, 9, 40})), w = b.input("w", f32({3, 40})), sum;
                    for (std::int64_t k = 0; k < 3; ++k) {
                      ValueId part = b.reshape(b.slice(x, {0, k, 0}, f32({5, 7 + k, 40}).shape, {1, 1, 1}),
                                               f32({1, 5, 7, 40}).shape);
                      sum = k ? b.concat({sum, part}, 0) : part;
                    }
                    ValueId taps = b.broadcast_in_dim(w, f32({3, 5, 7, 40}).shape, {0, 3});
                    output(b, "y", b.reduce("reduce_sum", b.mul(sum, taps), {0}, false));
                  }});
  list.push_back({"softmax_pipelined",
                  [](GraphBuilder& b) { output(b, "y", softmax(b, b.input("x", f32({N, 75})), 1)); },
                  {{"N", 70}}});
  list.push_back({"norm_pipelined", [](GraphBuilder& b) {  // kept over two passes, with results for each row
                    ValueId x = b.unary("tanh", b.input("x", f32({67, 100})));
                    ValueId mean = b.mul(b.reduce("reduce_sum", x, {1}, true), 0.01), d = b.sub(x, mean);
                    ValueId r = b.unary("rsqrt", b.reduce("reduce_sum", b.mul(d, d), {1}, true));
                    output(b, "y", b.mul(d, r));
                    output(b, "mean", mean);
                  }});
  list.push_back({"groups_with_one_between", [](GraphBuilder& b) {  // of which not all three can be one kernel
                    ValueId x = b.input("x", f32({9, 17})), u = b.unary("exp", x);
                    ValueId t = b.unary(
                        "sin", b.broadcast_in_dim(b.reduce("reduce_sum", u, {0}, false), f32({9, 17}).shape, {1}));
                    output(b, "y", b.add(b.mul(u, t), b.unary("cos", b.input("z", f32({9, 17})))));
                  }});
  list.push_back({"softmax_rows", [](GraphBuilder& b) { output(b, "y", softmax(b, b.input("x", f32({40, 33})), 0)); }});
  list.push_back({"softmax_symbolic",
                  [](GraphBuilder& b) { output(b, "y", softmax(b, b.input("x", f32({N, M})), 1)); },
                  {{"N", 3}, {"M", 77}}});
  list.push_back({"layer_norm", [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({6, 50})), g = b.input("g", f32({50}));
                    ValueId mean = b.mul(b.reduce("reduce_sum", x, {1}, true), 1 / 50.0), d = b.sub(x, mean);
                    ValueId var = b.mul(b.reduce("reduce_sum", b.mul(d, d), {1}, true), 1 / 50.0);
                    output(b, "y", b.mul(b.mul(d, b.unary("rsqrt", b.add(var, 1e-5))), g));
                    output(b, "mean", mean);
                  }});
  list.push_back({"column_sum", [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({70, 19}));
                    output(b, "y", b.reduce("reduce_sum", x, {0}));
                    output(b, "z", b.reduce("reduce_max", x, {0, 1}));
                  }});
  list.push_back({"middle_axis",
                  [](GraphBuilder& b) { output(b, "y", b.reduce("reduce_sum", b.input("x", f32({4, 30, 5})), {1})); }});
  list.push_back({"views", [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({4, 6, 10}));
                    ValueId y = b.reshape(b.transpose(x, {1, 0, 2}), {6, 40});
                    output(b, "a", b.slice(y, {1, 3}, {5, 33}, {2, 3}));
                    output(b, "b", b.mul(b.reshape(x, {24, 10}), b.reshape(x, {24, 10})));
                    output(b, "c", x);
                    output(b, "d", b.concat({b.reshape(x, {24, 10}), b.reshape(x, {24, 10})}, 0));
                  }});
  list.push_back({"two_users", [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({8, 100}));
                    ValueId t = b.unary("tanh", x), s = b.reduce("reduce_sum", t, {1});
                    output(b, "t", t);
                    output(b, "s", s);
                    output(b, "y", b.dot_general(t, b.input("w", f32({100, 5})), {1}, {0}));
                    output(b, "u", b.reduce("reduce_sum", b.mul(s, s), {0}));
                  }});
  list.push_back({"empty",
                  [](GraphBuilder& b) {
                    ValueId x = b.input("x", f32({N, 4}));
                    output(b, "y", b.unary("exp", x));
                    output(b, "s", b.reduce("reduce_sum", x, {0}));
                    output(b, "t", b.reduce("reduce_sum", x, {0, 1}));
                  },
                  {{"N", 0}}});
  return list;
}

inline Array random_array(const Type& t, const DimEnv& env, std::mt19937& rng) {
  std::vector<std::int64_t> shape;
  for (const Dim& d : t.shape) shape.push_back(d.eval(env).value());
  Array a(t.dtype, shape);
  std::uniform_real_distribution<double> u(-2, 2);
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, u(rng));
  return a;
}

inline std::string text(const Diags& d) { return render(d, Sources{}); }

inline void compare(const Array& got, const Array& want) {
  REQUIRE(got.shape() == want.shape());
  double scale = 1e-30;
  for (std::int64_t i = 0; i < want.elems(); ++i) scale = std::max(scale, std::abs(want.get_double(i)));
  for (std::int64_t i = 0; i < want.elems(); ++i)
    if (std::abs(got.get_double(i) - want.get_double(i)) > 3e-6 * scale)
      FAIL("element " << i << ": " << got.get_double(i) << " instead of " << want.get_double(i));
}

inline std::vector<Array> random_inputs(const Graph& g, const Case& c) {
  std::mt19937 rng(7);
  DimEnv env(c.sizes.begin(), c.sizes.end());
  std::vector<Array> inputs;
  for (ValueId v : g.inputs) inputs.push_back(random_array(g.type(v), env, rng));
  return inputs;
}

}  // namespace ag::test::graphs

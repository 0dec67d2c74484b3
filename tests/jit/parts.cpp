// Products joined side by side, and arrays put together from parts.
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

struct Outcome {
  std::vector<Array> values, wanted;         ///< compiled, interpreted
  std::map<std::string, std::size_t> calls;  ///< by label
  std::size_t object_bytes = 0;
};

Outcome run(const std::string& text, const std::vector<std::string>& disabled = {}) {
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  INFO(text << (g ? "" : messages(g.error())));
  REQUIRE(g);
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  runtime::EngineOptions options;
  options.pipeline.disabled = disabled;
  options.pipeline.disabled.push_back("merge_small");  // kernels are counted by their labels
  auto c = (*engine)->compile(*g, options);
  REQUIRE(c);
  std::vector<Array> in;
  Random random("parts");
  for (ValueId v : g->inputs) {
    Type type = g->type(v);
    for (Dim& d : type.shape)
      if (!d.is_const()) d = 24;
    Array a(type.dtype, sizes(type));
    for (std::int64_t i = 0; i < a.elems(); ++i) a.set_double(i, random.uniform(-2, 2));
    in.push_back(std::move(a));
  }
  Outcome out;
  runtime::ExecContext context(c->executable, {.threads = 2});
  auto values = runtime::run(context, in);
  REQUIRE(values);
  out.values = std::move(*values);
  auto wanted = interpret(*g, in);
  REQUIRE(wanted);
  out.wanted = std::move(*wanted);
  for (const auto& k : c->report.kernels) out.calls[k.label] += k.calls, out.object_bytes += k.object_bytes;
  return out;
}

void same(const std::vector<Array>& got, const std::vector<Array>& want) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    double worst = 0, largest = 1;
    CHECK(got[i].shape() == want[i].shape());
    for (std::int64_t e = 0; e < got[i].elems(); ++e) {
      worst = std::max(worst, std::abs(got[i].get_double(e) - want[i].get_double(e)));
      largest = std::max(largest, std::abs(want[i].get_double(e)));
    }
    CHECK(worst < 1e-5 * largest);
  }
}
void same(const Outcome& got, const Outcome& want) { same(got.values, want.values); }

std::size_t concats(const Outcome& out) {
  std::size_t calls = 0;
  for (const auto& [label, n] : out.calls) calls += label.starts_with("concat") ? n : 0;
  return calls;
}

}  // namespace

TEST_CASE("queries and keys and values of one array come from one product") {
  auto literal = [](const char* name, int seed) {
    std::string data;
    for (int i = 0; i < 12 * 16; ++i) data += fmt::format("{}{}", i ? ", " : "", (i * seed % 101 - 50) / 50.0);
    return fmt::format(R"({{ "name": "{}", "type": "f32[12,16]", "data": [{}] }})", name, data);
  };
  std::string text = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[20,12]" } ], "initializers": [ )" +
                     literal("wq", 37) + "," + literal("wk", 41) + "," + literal("wv", 43) +
                     R"( ], "nodes": [ { "op": "MatMul", "in": ["x", "wq"], "out": "q" },
    { "op": "MatMul", "in": ["x", "wk"], "out": "k" }, { "op": "MatMul", "in": ["x", "wv"], "out": "v" },
    { "op": "Transpose", "in": ["k"], "out": "kt", "attrs": { "perm": [1, 0] } },
    { "op": "MatMul", "in": ["q", "kt"], "out": "s" }, { "op": "Softmax", "in": ["s"], "out": "p" },
    { "op": "MatMul", "in": ["p", "v"], "out": "y" } ], "outputs": ["y"] })";
  Outcome joined = run(text), apart = run(text, {"horizontal"});
  same(joined, apart);
  CHECK(joined.calls["dot_general"] < apart.calls["dot_general"]);
  CHECK(joined.calls["attend"] == 1);
}

TEST_CASE("a concat writes its parts, and what follows is computed with them") {
  std::string text =
      R"({ "ag": 1, "inputs": [ { "name": "a", "type": "f32[40,30]" }, { "name": "b", "type": "f32[40,70]" } ],
    "nodes": [ { "op": "Concat", "in": ["a", "b"], "out": "c", "attrs": { "axis": 1 } },
      { "op": "Tanh", "in": ["c"], "out": "y" } ], "outputs": ["y"] })";
  Outcome out = run(text);
  CHECK(out.calls["concat+tanh"] == 2);
  Outcome plain =
      run(R"({ "ag": 1, "inputs": [ { "name": "a", "type": "f32[40,30]" }, { "name": "b", "type": "f32[40,70]" } ],
    "nodes": [ { "op": "Tanh", "in": ["a"], "out": "y" }, { "op": "Tanh", "in": ["b"], "out": "z" } ],
    "outputs": ["y", "z"] })");
  for (std::int64_t i = 0; i < 40; ++i)
    for (std::int64_t j = 0; j < 100; ++j) {
      double want = j < 30 ? plain.values[0].get_double(i * 30 + j) : plain.values[1].get_double(i * 70 + j - 30);
      if (out.values[0].get_double(i * 100 + j) != want) FAIL_CHECK(i << ", " << j);
    }
}

TEST_CASE("gradients of all parts of an array are put one after another") {
  std::string text = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[32,96]" } ],
    "nodes": [ { "op": "Split", "in": ["x"], "out": ["a", "b", "c"], "attrs": { "axis": 1, "num_outputs": 3 } },
      { "op": "Mul", "in": ["a", "b"], "out": "ab" }, { "op": "Sin", "in": ["c"], "out": "d" },
      { "op": "Add", "in": ["ab", "d"], "out": "e" },
      { "op": "ReduceSum", "in": ["e"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss"], "grad": { "of": "loss", "wrt": ["x"] } })";
  Outcome joined = run(text), apart = run(text, {"algebra"});
  same(joined, apart);
  CHECK(concats(joined) == 3);  // two are views of x, and are copied
}

TEST_CASE("what a concat puts together is computed in its place") {
  // Features gathered layer by layer: the last concat holds all, the others are views of its first columns.
  Outcome layers =
      run(R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[40,32]" }, { "name": "w", "type": "f32[96,32]" } ],
    "nodes": [ { "op": "Tanh", "in": ["x"], "out": "a" },
      { "op": "Slice", "in": ["w", [0], [32], [0]], "out": "w1" }, { "op": "MatMul", "in": ["a", "w1"], "out": "b" },
      { "op": "Concat", "in": ["a", "b"], "out": "ab", "attrs": { "axis": 1 } },
      { "op": "Relu", "in": ["ab"], "out": "r" },
      { "op": "Slice", "in": ["w", [0], [64], [0]], "out": "w2" }, { "op": "MatMul", "in": ["r", "w2"], "out": "c" },
      { "op": "Concat", "in": ["a", "b", "c"], "out": "abc", "attrs": { "axis": 1 } },
      { "op": "Softmax", "in": ["abc"], "out": "s" }, { "op": "MatMul", "in": ["s", "w"], "out": "y" },
      { "op": "ReduceSum", "in": ["abc", [0]], "out": "z", "attrs": { "keepdims": 0 } } ], "outputs": ["y", "z"] })");
  same(layers.values, layers.wanted);
  CHECK(concats(layers) == 0);

  for (int axis : {0, 1, 2})  // a concat in a concat, sizes that the run knows, an output
    for (std::string size : {"24", "N"}) {
      INFO(axis << " " << size);
      Outcome nested = run(fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[{0},12,20]" }} ],
    "nodes": [ {{ "op": "Sin", "in": ["x"], "out": "a" }}, {{ "op": "Cos", "in": ["x"], "out": "b" }},
      {{ "op": "Concat", "in": ["a", "b"], "out": "ab", "attrs": {{ "axis": {1} }} }},
      {{ "op": "ReduceSum", "in": ["a", [2]], "out": "sums" }}, {{ "op": "Mul", "in": ["x", "sums"], "out": "c" }},
      {{ "op": "Concat", "in": ["c", "ab"], "out": "y", "attrs": {{ "axis": {1} }} }},
      {{ "op": "Transpose", "in": ["ab"], "out": "t", "attrs": {{ "perm": [2, 0, 1] }} }},
      {{ "op": "Exp", "in": ["t"], "out": "z" }} ], "outputs": ["y", "z"] }})",
                                       size, axis));
      same(nested.values, nested.wanted);
      CHECK(concats(nested) == 0);
    }

  // What is needed elsewhere in one piece, twice, or is an output or an input, stays where it is.
  Outcome mixed = run(R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[40,32]" } ],
    "nodes": [ { "op": "Tanh", "in": ["x"], "out": "a" }, { "op": "Sin", "in": ["x"], "out": "b" },
      { "op": "Cos", "in": ["x"], "out": "c" }, { "op": "Sqrt", "in": ["x"], "out": "d" },
      { "op": "Abs", "in": ["x"], "out": "e" },
      { "op": "TopK", "in": ["b", [3]], "out": ["top", "at"], "attrs": { "axis": 1 } },
      { "op": "Concat", "in": ["a", "e"], "out": "k", "attrs": { "axis": 1 } },
      { "op": "Concat", "in": ["c", "b", "a", "c", "x", "e"], "out": "y", "attrs": { "axis": 1 } } ],
    "outputs": ["y", "k", "top", "a"] })");
  same(mixed.values, mixed.wanted);
}

TEST_CASE("what a concat puts together in another shape is computed in its place") {
  for (std::string size : {"24", "N"}) {  // axes that are split and merged
    INFO(size);
    Outcome out = run(fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[{0},12,20]" }} ],
    "nodes": [ {{ "op": "Sin", "in": ["x"], "out": "a" }}, {{ "op": "Reshape", "in": ["a", [0, 240]], "out": "a2" }},
      {{ "op": "Slice", "in": ["x", [0], [7], [1]], "out": "s" }}, {{ "op": "Cos", "in": ["s"], "out": "b" }},
      {{ "op": "Reshape", "in": ["b", [0, 2, 70]], "out": "b2" }},
      {{ "op": "Reshape", "in": ["b2", [0, -1]], "out": "b3" }},
      {{ "op": "Concat", "in": ["a2", "b3"], "out": "ab", "attrs": {{ "axis": 1 }} }},
      {{ "op": "ReduceSum", "in": ["a", [1]], "out": "y", "attrs": {{ "keepdims": 0 }} }},
      {{ "op": "Softmax", "in": ["ab"], "out": "z" }} ], "outputs": ["y", "z"] }})",
                                  size));
    same(out.values, out.wanted);
    CHECK(concats(out) == 0);
  }
  // A part that no strides lead to is copied: 85 columns are no whole number of rows of 20.
  Outcome odd =
      run(R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[64,3,20]" }, { "name": "w", "type": "f32[64,25]" } ],
    "nodes": [ { "op": "Sin", "in": ["x"], "out": "a" }, { "op": "Reshape", "in": ["a", [64, 60]], "out": "a2" },
      { "op": "Cos", "in": ["w"], "out": "b" },
      { "op": "Concat", "in": ["a2", "b"], "out": "ab", "attrs": { "axis": 1 } },
      { "op": "ReduceSum", "in": ["a", [1]], "out": "y" }, { "op": "Softmax", "in": ["ab"], "out": "z" } ],
    "outputs": ["y", "z"] })");
  same(odd.values, odd.wanted);
}

TEST_CASE("what is padded is computed inside its padding") {
  auto pads = [](const Outcome& out) {
    std::size_t calls = 0;
    for (const auto& [label, n] : out.calls) calls += label.starts_with("pad") ? n : 0;
    return calls;
  };
  // {nodes from x to z, kernels that pad}: before and behind, along each axis.
  for (const auto& [nodes, kernels] : {
           // read by sums too, which find it there
           std::pair(R"({ "op": "Tanh", "in": ["x"], "out": "a" },
      { "op": "Pad", "in": ["a", [0, 1, 2, 0, 3, 0], 0.5], "out": "p" },
      { "op": "ReduceMax", "in": ["p", [2]], "out": "s" }, { "op": "ReduceSum", "in": ["a", [1]], "out": "b" },
      { "op": "ReduceSum", "in": ["s", [1]], "out": "c" }, { "op": "ReduceMax", "in": ["b", [2]], "out": "d" },
      { "op": "Add", "in": ["c", "d"], "out": "z" })",
                     3),
           // a concat that is padded
           std::pair(R"({ "op": "Sin", "in": ["x"], "out": "a" }, { "op": "Cos", "in": ["x"], "out": "b" },
      { "op": "Concat", "in": ["a", "b"], "out": "ab", "attrs": { "axis": 2 } },
      { "op": "Pad", "in": ["ab", [0, 1, 0, 0, 1, 4]], "out": "p" },
      { "op": "ReduceSum", "in": ["p", [1]], "out": "z" })",
                     3),
           // a padded value that is put together with another one
           std::pair(
               R"({ "op": "Exp", "in": ["x"], "out": "a" },
      { "op": "Pad", "in": ["a", [0, 0, 3, 0, 1, 0]], "out": "p" },
      { "op": "Cos", "in": ["x"], "out": "b" }, { "op": "Pad", "in": ["b", [0, 1, 0, 0, 0, 3]], "out": "q" },
      { "op": "Concat", "in": ["p", "q"], "out": "pq", "attrs": { "axis": 0 } },
      { "op": "ReduceMax", "in": ["pq", [2]], "out": "z" })",
               4),
           // cropped, as large as what is around it, and followed by a map: as it was
           std::pair(
               R"({ "op": "Tanh", "in": ["x"], "out": "a" },
      { "op": "Pad", "in": ["a", [0, 1, 0, 0, -1, 0]], "out": "p" },
      { "op": "ReduceSum", "in": ["p", [1]], "out": "z" })",
               1),
           std::pair(
               R"({ "op": "Tanh", "in": ["x"], "out": "a" },
      { "op": "Pad", "in": ["a", [0, 9, 0, 0, 9, 0]], "out": "p" },
      { "op": "ReduceSum", "in": ["p", [1]], "out": "z" })",
               1),
           std::pair(
               R"({ "op": "Softmax", "in": ["x"], "out": "a" },
      { "op": "Pad", "in": ["a", [0, 1, 0, 0, 1, 0]], "out": "p" },
      { "op": "Exp", "in": ["p"], "out": "z" })",
               1),
       })
    for (const char* size : {"24", "N"}) {
      INFO(nodes << " " << size);
      Outcome out = run(fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[{},12,20]" }} ],
    "nodes": [ {} ], "outputs": ["z"] }})",
                                    size, nodes));
      same(out.values, out.wanted);
      if (*size == '2') CHECK(pads(out) == static_cast<std::size_t>(kernels));
    }
}

TEST_CASE("images are padded where they are made") {
  const std::string text = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[2,8,21,19]" },
      { "name": "w", "type": "f32[16,8,3,3]" }, { "name": "v", "type": "f32[8,16,5,5]" } ],
    "nodes": [ { "op": "Conv", "in": ["x", "w"], "out": "a", "attrs": { "pads": [1, 1, 1, 1] } },
      { "op": "Relu", "in": ["a"], "out": "b" },
      { "op": "Conv", "in": ["b", "v"], "out": "c", "attrs": { "pads": [2, 2, 2, 2], "strides": [2, 2] } },
      { "op": "Relu", "in": ["c"], "out": "d" },
      { "op": "MaxPool", "in": ["d"], "out": "y",
        "attrs": { "kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1] } } ],
    "outputs": ["y"], "grad": { "of": "y", "seed": "y", "wrt": ["x", "w", "v"] } })";
  same(run(text), run(text, {"layout"}));  // channels last, and as they are
}

TEST_CASE("gradients of queries, keys and values are computed in one array") {
  for (std::string mask : {"s", "m"}) {
    const std::string text =
        R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[2,40,24]" }, { "name": "w", "type": "f32[24,96]" },
      { "name": "c", "type": "f32[2,40,32]" } ],
    "initializers": [ { "name": "ones", "type": "f32[40,40]", "fill": 1 } ],
    "nodes": [ { "op": "MatMul", "in": ["x", "w"], "out": "qkv" },
      { "op": "Split", "in": ["qkv", [32, 32, 32]], "out": ["q", "k", "v"], "attrs": { "axis": 2 } },
      { "op": "Reshape", "in": ["q", [2, 40, 4, 8]], "out": "q4" },
      { "op": "Reshape", "in": ["k", [2, 40, 4, 8]], "out": "k4" },
      { "op": "Reshape", "in": ["v", [2, 40, 4, 8]], "out": "v4" },
      { "op": "Transpose", "in": ["q4"], "out": "qt", "attrs": { "perm": [0, 2, 1, 3] } },
      { "op": "Transpose", "in": ["k4"], "out": "kt", "attrs": { "perm": [0, 2, 3, 1] } },
      { "op": "Transpose", "in": ["v4"], "out": "vt", "attrs": { "perm": [0, 2, 1, 3] } },
      { "op": "MatMul", "in": ["qt", "kt"], "out": "s" },
      { "op": "Trilu", "in": ["ones", 0], "out": "seen", "attrs": { "upper": 0 } },
      { "op": "Equal", "in": ["seen", 0.0], "out": "hidden" },
      { "op": "Where", "in": ["hidden", -1e38, "s"], "out": "m" },
      { "op": "Softmax", "in": [")" +
        mask + R"("], "out": "p" }, { "op": "MatMul", "in": ["p", "vt"], "out": "o" },
      { "op": "Transpose", "in": ["o"], "out": "ot", "attrs": { "perm": [0, 2, 1, 3] } },
      { "op": "Reshape", "in": ["ot", [2, 40, 32]], "out": "y" }, { "op": "Mul", "in": ["y", "c"], "out": "yc" },
      { "op": "ReduceSum", "in": ["yc"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss"], "grad": { "of": "loss", "wrt": ["x", "w"] } })";
    Outcome out = run(text);
    same(out, run(text, {"attention"}));
    CHECK(out.calls["attend_grad"] == 1);
    CHECK(concats(out) == 0);
  }
}

TEST_CASE("maps of a stored product that are only reduced are computed where they are reduced") {
  auto text = [](const std::string& last, const std::string& outputs) {
    return R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[48,32]" }, { "name": "w", "type": "f32[32,96]" },
      { "name": "c", "type": "f32[48,96]" } ],
    "nodes": [ { "op": "MatMul", "in": ["x", "w"], "out": "y" },
      { "op": "ReduceSum", "in": ["y", [0]], "out": "s", "attrs": { "keepdims": 0 } },
      { "op": "Mul", "in": ["y", "c"], "out": "p" }, { "op": "ReduceSum", "in": ["p", [1]], "out": "r" },
      { "op": "Sub", "in": ["p", "r"], "out": "d" }, )" +
           last + R"( ], "outputs": [)" + outputs + "] }";
  };
  const std::string exp = R"({ "op": "Exp", "in": ["d"], "out": "z" })";
  Outcome rows = run(text(exp, R"("s", "z")"));
  same(rows.values, rows.wanted);
  CHECK(rows.calls["dot_general"] == 1);
  Outcome kept = run(text(exp, R"("s", "z", "p")"));  // stored anyway
  same(kept.values, kept.wanted);
  CHECK(kept.calls["dot_general+mul"] == 1);
  const std::string product = R"({ "op": "Gemm", "in": ["p", "w"], "out": "z", "attrs": { "transB": 1 } })";
  Outcome read = run(text(product, R"("s", "z", "d")"));
  same(read.values, read.wanted);
  CHECK(read.calls["dot_general+mul"] == 1);
}

TEST_CASE("long epilogues are taken a few rows at a time") {
  for (std::string op : {"Gelu", "Sigmoid", "Erf", "Mish"})
    for (std::string rows : {"37", "N"}) {
      INFO(op << " " << rows);
      Outcome out = run(fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[{0},48]" }},
      {{ "name": "w", "type": "f32[48,130]" }}, {{ "name": "c", "type": "f32[130]" }},
      {{ "name": "r", "type": "f32[{0},130]" }} ],
    "nodes": [ {{ "op": "MatMul", "in": ["x", "w"], "out": "p" }}, {{ "op": "Add", "in": ["p", "c"], "out": "q" }},
      {{ "op": "{1}", "in": ["q"], "out": "s" }}, {{ "op": "Mul", "in": ["s", "r"], "out": "y" }} ],
    "outputs": ["y", "s"] }})",
                                    rows, op));
      same(out.values, out.wanted);
    }
  for (std::string stride : {"1", "2"}) {
    INFO("a convolution of stride " << stride);
    Outcome out = run(fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[2,12,19,17]" }},
      {{ "name": "w", "type": "f32[40,12,5,3]" }}, {{ "name": "c", "type": "f32[40]" }} ],
    "nodes": [ {{ "op": "Conv", "in": ["x", "w", "c"], "out": "p",
        "attrs": {{ "pads": [2, 1, 2, 1], "strides": [{0}, {0}] }} }},
      {{ "op": "Sigmoid", "in": ["p"], "out": "s" }}, {{ "op": "Mul", "in": ["p", "s"], "out": "y" }} ],
    "outputs": ["y"] }})",
                                  stride));
    same(out.values, out.wanted);
  }
  std::string text =
      R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[40,48]" }, { "name": "w", "type": "f32[48,128]" } ],
    "nodes": [ { "op": "MatMul", "in": ["x", "w"], "out": "p" }, { "op": "Gelu", "in": ["p"], "out": "y" } ],
    "outputs": ["y"] })";
  Outcome rolled = run(text), whole = run(text, {"roll"});
  CHECK(2 * rolled.object_bytes < whole.object_bytes);
  for (std::int64_t i = 0; i < rolled.values[0].elems(); ++i)
    if (rolled.values[0].get_double(i) != whole.values[0].get_double(i)) FAIL_CHECK(i);
}

TEST_CASE("places that lanes compare are those of all integers") {
  for (std::string k : {"-3", "0", "5"}) {
    Outcome out = run(fmt::format(R"({{ "ag": 1, "inputs": [ {{ "name": "x", "type": "f32[37,70]" }} ],
    "nodes": [ {{ "op": "Trilu", "in": ["x", {0}], "out": "y" }},
      {{ "op": "Trilu", "in": ["x", {0}], "out": "z", "attrs": {{ "upper": 0 }} }} ], "outputs": ["y", "z"] }})",
                                  k));
    same(out.values, out.wanted);
  }
  Outcome out = run(R"({ "ag": 1, "inputs": [ { "name": "i", "type": "i64[7]" } ],
    "initializers": [ { "name": "at", "type": "i64[7]",
      "data": [-9223372036854775807, 9223372036854775807, 3, 4294967299, -4294967290, 39, 0] } ],
    "nodes": [ { "op": "Add", "in": ["i", "at"], "out": "p" },
      { "op": "OneHot", "in": ["p", 40, [0.0, 1.0]], "out": "y" } ], "outputs": ["y"] })");
  same(out.values, out.wanted);
}

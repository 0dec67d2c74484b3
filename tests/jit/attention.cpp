// Attention however it is spelled: found, computed by one kernel, and right, with its gradients, at any length.
#include <cmath>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

/// One head's scores `s` from q [B,H,Q,D] and k [B,H,K,D] as nodes of JSON; then softmax and the values v [B,H,K,V].
struct Spelling {
  std::string name, scores;
  std::string inputs;  ///< beside q, k, v
  bool found = true;
};

const char* const plain = R"({ "op": "Transpose", "in": ["k"], "out": "kt", "attrs": { "perm": [0, 1, 3, 2] } },
  { "op": "MatMul", "in": ["q", "kt"], "out": "qk" },)";

std::vector<Spelling> spellings() {
  std::string p = plain;
  return {
      {"scaled", p + R"({ "op": "Mul", "in": ["qk", 0.3], "out": "s" },)", ""},
      {"divided", p + R"({ "op": "Div", "in": ["qk", 3.5], "out": "s" },)", ""},
      {"factors",
       R"({ "op": "Mul", "in": ["q", 0.5], "out": "q2" }, { "op": "Mul", "in": ["k", 0.5], "out": "k2" },
          { "op": "Transpose", "in": ["k2"], "out": "kt", "attrs": { "perm": [0, 1, 3, 2] } },
          { "op": "MatMul", "in": ["q2", "kt"], "out": "s" },)",
       ""},
      {"einsum", R"({ "op": "Einsum", "in": ["q", "k"], "out": "s", "attrs": { "equation": "bhqd,bhkd->bhqk" } },)",
       ""},
      {"padding", p + R"({ "op": "Add", "in": ["qk", "bias"], "out": "s" },)",
       R"(, { "name": "bias", "type": "T[B,1,1,K]" })"},
      {"bias of heads", p + R"({ "op": "Add", "in": ["bias", "qk"], "out": "s" },)",
       R"(, { "name": "bias", "type": "T[H,Q,K]" })"},
      {"mask", p + R"({ "op": "Where", "in": ["seen", "qk", -10000.0], "out": "s" },)",
       R"(, { "name": "seen", "type": "bool[Q,K]" })"},
      {"hidden", p + R"({ "op": "Where", "in": ["hidden", -10000.0, "qk"], "out": "s" },)",
       R"(, { "name": "hidden", "type": "bool[B,1,1,K]" })"},
      {"scores used twice", p + R"({ "op": "Identity", "in": ["qk"], "out": "s" },
          { "op": "ReduceSum", "in": ["qk"], "out": "other", "attrs": { "keepdims": 0 } },)",
       "", false},
  };
}

struct Sizes {
  std::int64_t b, h, q, k, d, v;
};

std::string spelled(const Spelling& s, const Sizes& z, const std::string& t, bool symbolic, bool gradient) {
  std::string text =
      R"({ "ag": 1, "inputs": [ { "name": "q", "type": "T[B,H,Q,D]" }, { "name": "k", "type": "T[B,H,K,D]" },
    { "name": "v", "type": "T[B,H,K,V]" }, { "name": "w", "type": "T[B,Q,H,V]" })" +
      s.inputs + "], \"nodes\": [" + s.scores +
      R"({ "op": "Softmax", "in": ["s"], "out": "p" }, { "op": "MatMul", "in": ["p", "v"], "out": "o" },
    { "op": "Transpose", "in": ["o"], "out": "y", "attrs": { "perm": [0, 2, 1, 3] } },
    { "op": "Mul", "in": ["y", "w"], "out": "yw" },
    { "op": "ReduceSum", "in": ["yw"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["y")" +
      (s.found ? "" : ", \"other\"") + "]" +
      (gradient ? R"(, "grad": { "of": "loss", "wrt": ["q", "k", "v"] } })" : "}");
  auto put = [&](const std::string& name, const std::string& value) {
    for (const char* after : {",", "]"})
      for (const char* before : {"[", ","})
        for (std::size_t at; (at = text.find(before + name + after)) != std::string::npos;)
          text.replace(at, name.size() + 2, before + value + after);
  };
  for (auto [name, n] : {std::pair{"B", z.b}, {"H", z.h}, {"D", z.d}, {"V", z.v}}) put(name, std::to_string(n));
  if (!symbolic) put("Q", std::to_string(z.q)), put("K", std::to_string(z.k));
  for (std::size_t at; (at = text.find("\"T[")) != std::string::npos;) text.replace(at, 3, "\"" + t + "[");
  return text;
}

Graph load(const std::string& text) {
  Sources sources;
  auto g = load_text(text, "test.json", "", sources);
  INFO(text << (g ? "" : messages(g.error())));
  REQUIRE(g);
  return *g;
}

std::vector<Array> inputs_of(const Graph& g, const Sizes& z) {
  std::vector<Array> out;
  Random random("attention");
  for (ValueId v : g.inputs) {
    std::vector<std::int64_t> shape;
    for (const Dim& d : g.type(v).shape) shape.push_back(*d.eval({{"Q", z.q}, {"K", z.k}}));
    Array a(g.type(v).dtype, shape);
    for (std::int64_t i = 0; i < a.elems(); ++i)
      if (a.dtype() == DType::boolean)
        a.set_int(i, random.uniform(0, 1) < 0.7);
      else
        a.set_double(i, random.uniform(-2, 2));
    out.push_back(std::move(a));
  }
  return out;
}

double worst(const Array& got, const Array& want) {
  double scale = 1e-30, error = 0;
  for (std::int64_t i = 0; i < want.elems(); ++i) scale = std::max(scale, std::abs(want.get_double(i)));
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double e = std::abs(got.get_double(i) - want.get_double(i));
    error = std::isnan(e) ? 1 : std::max(error, e / scale);
  }
  return error;
}

std::size_t kernels_named(const runtime::Compiled& c, std::string_view label) {
  std::size_t n = 0;
  for (const auto& k : c.report.kernels) n += k.label == label ? k.calls : 0;
  return n;
}

struct Bench {
  std::shared_ptr<runtime::Engine> engine = *runtime::Engine::create();

  runtime::Compiled compile(const Graph& g, bool fused, const std::string& target) {
    runtime::EngineOptions options{.target = target};
    options.pipeline.disabled = {"merge_small"};  // kernels are counted by their labels
    if (!fused) options.pipeline.disabled.push_back("attention");
    auto c = engine->compile(g, options);
    INFO((c ? "" : messages(c.error())));
    REQUIRE(c);
    return *c;
  }
  std::vector<Array> run(const runtime::Compiled& c, const std::vector<Array>& in, int threads = 1) {
    runtime::ExecContext context(c.executable, {.threads = threads});
    auto out = runtime::run(context, in);
    INFO((out ? "" : messages(out.error())));
    REQUIRE(out);
    return *out;
  }

  /// Fused against taken apart, and fused with other numbers of threads.
  void check(const Spelling& s, const Sizes& z, const std::string& t, bool gradient, const std::string& target) {
    INFO(s.name << " " << t << " q " << z.q << " k " << z.k << " d " << z.d << " v " << z.v << " " << target);
    Graph g = load(spelled(s, z, t, false, gradient));
    std::vector<Array> in = inputs_of(g, z);
    runtime::Compiled fused = compile(g, true, target), apart = compile(g, false, target);
    CHECK(kernels_named(fused, "attend") == (s.found ? 1 : 0));
    CHECK(kernels_named(fused, "attend_grad") == (s.found && gradient ? 1 : 0));
    CHECK(kernels_named(apart, "attend") == 0);
    std::vector<Array> got = run(fused, in), want = run(apart, in);
    for (std::size_t i = 0; i < want.size(); ++i) CHECK(worst(got[i], want[i]) < (t == "f64" ? 1e-13 : 2e-5));
    for (int threads : {2, 3}) {
      std::vector<Array> again = run(fused, in, threads);
      for (std::size_t i = 0; i < got.size(); ++i) CHECK(again[i].same_bits(got[i]));
    }
  }
};

}  // namespace

TEST_CASE("attention is one kernel however it is spelled") {
  Bench bench;
  for (const Spelling& s : spellings()) bench.check(s, {2, 2, 12, 21, 8, 5}, "f32", true, "cpu:native");
}

TEST_CASE("attention's kernels fit any lengths and sizes") {
  Bench bench;
  const Spelling plainly = spellings()[0], biased = spellings()[5];
  for (Sizes z : {Sizes{1, 1, 8, 1, 1, 1}, {1, 2, 32, 64, 16, 16}, {1, 1, 33, 31, 24, 40}, {1, 1, 67, 130, 7, 3}}) {
    bench.check(plainly, z, "f32", true, "cpu:native");
    bench.check(biased, z, "f64", true, "cpu:native");
  }
  bench.check(biased, {1, 2, 35, 50, 20, 17}, "f32", true, "cpu:x86-64-v3");
  bench.check(plainly, {1, 1, 40, 1100, 8, 8}, "f32", false, "cpu:native");  // blocks of keys
}

TEST_CASE("attention with lengths that are symbols gives the bits of constant ones") {
  Bench bench;
  const Spelling plainly = spellings()[0];
  Graph g = load(spelled(plainly, {1, 2, 0, 0, 8, 4}, "f32", true, true));
  runtime::Compiled c = bench.compile(g, true, "cpu:native");
  CHECK(kernels_named(c, "attend") == 1);
  for (Sizes z : {Sizes{1, 2, 9, 5, 8, 4}, {1, 2, 64, 64, 8, 4}, {1, 2, 70, 601, 8, 4}}) {
    std::vector<Array> in = inputs_of(g, z), got = bench.run(c, in);
    runtime::Compiled known = bench.compile(load(spelled(plainly, z, "f32", false, true)), true, "cpu:native");
    std::vector<Array> want = bench.run(known, in);
    for (std::size_t i = 0; i < want.size(); ++i) CHECK(got[i].same_bits(want[i]));
  }
}

TEST_CASE("causal masks are bounds, not masks") {
  Bench bench;
  for (auto [q, k, offset] : {std::tuple{40, 40, 0}, {64, 64, 0}, {20, 33, 13}, {70, 67, -2}}) {
    std::string seen;
    for (int i = 0; i < q; ++i) {
      seen += i ? ", [" : "[";
      for (int j = 0; j < k; ++j) seen += std::string(j ? ", " : "") + (j <= i + offset ? "0" : "\"-Infinity\"");
      seen += "]";
    }
    INFO(q << " " << k << " " << offset);
    Spelling s{"causal", plain + std::string(R"({ "op": "Add", "in": ["qk", "tri"], "out": "s" },)"), ""};
    std::string text = spelled(s, {1, 2, q, k, 8, 8}, "f32", false, true);
    text.insert(
        text.find("\"nodes\""),
        fmt::format(R"("initializers": [ {{ "name": "tri", "type": "f32[{},{}]", "data": [{}] }} ], )", q, k, seen));
    Graph g = load(text);
    std::vector<Array> in = inputs_of(g, {1, 2, q, k, 8, 8});
    runtime::Compiled fused = bench.compile(g, true, "cpu:native"), apart = bench.compile(g, false, "cpu:native");
    CHECK(kernels_named(fused, "attend") == 1);
    std::vector<Array> got = bench.run(fused, in), want = bench.run(apart, in);
    for (std::size_t i = 0; offset >= 0 && i < want.size(); ++i) CHECK(worst(got[i], want[i]) < 2e-5);
    if (offset < 0) CHECK(std::isnan(got[0].get_double(0)));  // a query that sees nothing
  }
}

TEST_CASE("an order of the result from an earlier run of the pass is kept by a later one") {
  Graph g =
      load(R"({ "ag": 1, "inputs": [ { "name": "q", "type": "f32[2,3,5,4]" }, { "name": "k", "type": "f32[2,3,7,4]" },
      { "name": "v", "type": "f32[2,3,7,6]" } ], "nodes": [
    { "op": "Transpose", "in": ["k"], "out": "kt", "attrs": { "perm": [0, 1, 3, 2] } },
    { "op": "MatMul", "in": ["q", "kt"], "out": "s" }, { "op": "Softmax", "in": ["s"], "out": "p" },
    { "op": "MatMul", "in": ["p", "v"], "out": "z" },
    { "op": "Transpose", "in": ["z"], "out": "a", "attrs": { "perm": [1, 3, 0, 2] } },
    { "op": "Transpose", "in": ["a"], "out": "y", "attrs": { "perm": [3, 0, 1, 2] } } ], "outputs": ["y"] })");
  passes::PassContext context;
  passes::PipelineOptions options;
  options.passes = {"attention", "attention", "dce"};  // one transpose a run
  auto r = passes::run_pipeline(g, options, context);
  REQUIRE(r);
  const Graph& after = std::get<Graph>(r->stage);
  Random random("orders of a result");
  std::vector<Array> in;
  for (ValueId v : g.inputs) in.push_back(random_array(g.type(v), -2, 2, random));
  auto want = interpret(g, in), got = interpret(after, in);
  REQUIRE(want);
  REQUIRE(got);
  CHECK((*got)[0].shape() == (*want)[0].shape());
  CHECK(worst((*got)[0], (*want)[0]) < 1e-5);
}

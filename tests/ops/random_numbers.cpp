// Random ops: their distributions, their keys, and that compiled kernels draw the same numbers.
#include <catch2/catch.hpp>
#include <numeric>
#include <set>

#include "frontend/load.hpp"
#include "ir/random.hpp"
#include "passes/autodiff.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/lowered.hpp"

using namespace ag;
using namespace ag::test;

namespace {

using Ints = std::vector<std::int64_t>;

std::vector<double> draw(std::string_view op, Attrs attrs, const std::vector<Array>& inputs = {}) {
  Graph g;
  GraphBuilder b(g);
  std::vector<ValueId> operands;
  for (const Array& a : inputs) operands.push_back(b.constant(make_literal(a)));
  g.outputs.push_back({"y", b.add_op(op, operands, std::move(attrs)), {}});
  auto out = interpret(g, {});
  if (!out) FAIL(messages(out.error()));
  std::vector<double> v;
  for (std::int64_t i = 0; i < (*out)[0].elems(); ++i) v.push_back((*out)[0].get_double(i));
  return v;
}

struct Moments {
  double mean = 0, variance = 0, fourth = 0;
};
Moments moments(const std::vector<double>& x) {
  Moments m;
  auto n = static_cast<double>(x.size());
  for (double v : x) m.mean += v / n;
  for (double v : x) {
    double d = v - m.mean;
    m.variance += d * d / n;
    m.fourth += d * d * d * d / n;
  }
  return m;
}

/// Sum of (seen - expected)^2 / expected.
double chi_square(const std::vector<double>& seen, const std::vector<double>& expected) {
  double sum = 0;
  for (std::size_t i = 0; i < seen.size(); ++i) sum += (seen[i] - expected[i]) * (seen[i] - expected[i]) / expected[i];
  return sum;
}

constexpr std::int64_t n = 40000;

}  // namespace

TEST_CASE("rng_bits are the words of Philox") {
  auto words = draw("rng_bits", {{"type", Type{DType::u32, {9}}}, {"key", std::int64_t{77}}});
  for (std::size_t i = 0; i < words.size(); ++i) CHECK(words[i] == philox4x32(77, i / 4)[i % 4]);
}

TEST_CASE("uniform numbers are uniform") {
  for (DType t : {DType::f32, DType::f64}) {
    auto x = draw("RandomUniform", {{"shape", Ints{n}}, {"dtype", t}, {"low", -1.0}, {"high", 3.0}});
    Moments m = moments(x);
    CHECK(std::fabs(m.mean - 1) < 5 * std::sqrt(16.0 / 12 / n));
    CHECK(std::fabs(m.variance - 16.0 / 12) < 0.04);
    std::vector<double> seen(20), expected(20, n / 20.0);
    for (double v : x) {
      REQUIRE((v >= -1 && v < 3));
      seen[static_cast<std::size_t>((v + 1) * 5)] += 1;
    }
    CHECK(chi_square(seen, expected) < 43.8);  // 19 degrees of freedom: 1 in 1000
    double lag = 0;  // neighbours are independent
    for (std::size_t i = 1; i < x.size(); ++i) lag += (x[i] - m.mean) * (x[i - 1] - m.mean) / n;
    CHECK(std::fabs(lag / m.variance) < 5 / std::sqrt(double(n)));
  }
}

TEST_CASE("normal numbers are normal") {
  for (DType t : {DType::f32, DType::f64}) {
    auto x = draw("RandomNormal", {{"shape", Ints{n}}, {"dtype", t}, {"mean", 2.0}, {"scale", 3.0}});
    Moments m = moments(x);
    CHECK(std::fabs(m.mean - 2) < 5 * 3 / std::sqrt(double(n)));
    CHECK(std::fabs(m.variance - 9) < 0.4);
    CHECK(std::fabs(m.fourth / (m.variance * m.variance) - 3) < 0.15);
    std::vector<double> seen(8), expected;
    const double edges[] = {-1.5, -1, -0.5, 0, 0.5, 1, 1.5};
    auto below = [](double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); };
    for (std::size_t i = 0; i < 8; ++i)
      expected.push_back(n * ((i < 7 ? below(edges[i]) : 1) - (i > 0 ? below(edges[i - 1]) : 0)));
    for (double v : x) {
      double z = (v - 2) / 3;
      std::size_t i = 0;
      while (i < 7 && z >= edges[i]) ++i;
      seen[i] += 1;
    }
    CHECK(chi_square(seen, expected) < 24.3);  // 7 degrees of freedom: 1 in 1000
  }
}

TEST_CASE("coins and classes fall by their probabilities") {
  Array p(DType::f32, {n});
  for (std::int64_t i = 0; i < n; ++i) p.set_double(i, i % 2 ? 0.25 : 0.5);
  auto coins = draw("Bernoulli", {}, {p});
  double odd = 0, even = 0;
  for (std::size_t i = 0; i < coins.size(); ++i) (i % 2 ? odd : even) += coins[i];
  CHECK(std::fabs(odd / (n / 2) - 0.25) < 0.02);
  CHECK(std::fabs(even / (n / 2) - 0.5) < 0.02);
  Array scores = Array::of<double>(DType::f32, {1, 4}, std::vector<double>{0, std::log(2.0), -1e30, std::log(5.0)});
  auto classes = draw("Multinomial", {{"sample_size", n}}, {scores});
  std::vector<double> seen(4), share{1, 2, 0, 5};
  for (double c : classes) seen[static_cast<std::size_t>(c)] += 1;
  CHECK(seen[2] == 0);
  for (std::size_t i : {0u, 1u, 3u}) CHECK(std::fabs(seen[i] / n - share[i] / 8) < 0.015);
}

TEST_CASE("equal seeds give equal numbers, nodes without a seed differ and repeat") {
  auto first = draw("RandomNormal", {{"shape", Ints{8}}, {"seed", 5.0}});
  CHECK(first == draw("RandomNormal", {{"shape", Ints{8}}, {"seed", 5.0}}));
  CHECK(first != draw("RandomNormal", {{"shape", Ints{8}}, {"seed", 6.0}}));
  Graph g;
  GraphBuilder b(g);
  Attrs attrs{{"shape", Ints{8}}};
  g.outputs = {{"p", b.add_op("RandomUniform", std::vector<ValueId>{}, attrs), {}},
               {"q", b.add_op("RandomUniform", std::vector<ValueId>{}, attrs), {}}};
  auto once = interpret(g, {}), twice = interpret(g, {});
  REQUIRE((once && twice));
  CHECK((*once)[0].same_bits((*twice)[0]));
  CHECK(!(*once)[0].same_bits((*once)[1]));
  check_lowered(g, {}, true);
}

TEST_CASE("Dropout keeps the share it should, scales it, and its gradient has the same mask") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", {DType::f64, {n}});
  auto out = b.add_multi("Dropout",
                         {x, b.scalar(DType::f64, 0.25), b.constant(make_literal(Array::scalar(DType::boolean, 1)))});
  ValueId loss = b.reduce("reduce_sum", out[0], {0});
  g.outputs = {{"y", out[0], {}}, {"mask", out[1], {}}};
  auto grads = passes::reverse(g, {.of = loss, .wrt = {x}});
  REQUIRE(grads);
  g.outputs.push_back({"dx", (*grads)[0], {}});
  Array ones(DType::f64, {n});
  for (std::int64_t i = 0; i < n; ++i) ones.set_double(i, 1);
  auto r = interpret(g, std::vector<Array>{ones});
  REQUIRE(r);
  double kept = 0;
  bool agree = true;
  for (std::int64_t i = 0; i < n; ++i) {
    double mask = (*r)[1].get_double(i), want = mask / 0.75;
    kept += mask;
    agree = agree && (*r)[0].get_double(i) == want && (*r)[2].get_double(i) == want;
  }
  CHECK(agree);
  CHECK(std::fabs(kept / n - 0.75) < 0.011);
}

namespace {

/// Runs a JSON graph without inputs by the interpreter and compiled.
std::vector<Array> run_json(const std::string& text) {
  Sources sources;
  auto g = load_text(text, "random.json", "", sources);
  if (!g) FAIL(messages(g.error()));
  auto sound = verify(*g);
  if (!sound) FAIL(messages(sound.error()));
  auto out = interpret(*g, {});
  if (!out) FAIL(messages(out.error()));
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  auto compiled = (*engine)->compile(*g, {});
  if (!compiled) FAIL(messages(compiled.error()));
  runtime::ExecContext context(compiled->executable);
  auto got = runtime::run(context, {});
  if (!got) FAIL(messages(got.error()));
  for (std::size_t i = 0; i < out->size(); ++i) CHECK(same((*got)[i], (*out)[i]));
  return std::move(*out);
}

bool all_differ(const Array& a) {
  std::set<double> seen;
  for (std::int64_t i = 0; i < a.elems(); ++i) seen.insert(a.get_double(i));
  return static_cast<std::int64_t>(seen.size()) == a.elems();
}

constexpr const char* draw_node = R"({"op":"RandomUniform","in":[],"out":"r","attrs":{"shape":[3]SEED}})";

constexpr const char* other_draw_node = R"({"op":"RandomUniform","in":[],"out":"q","attrs":{"shape":[3]SEED}})";

std::string with_seed(std::string text, const std::string& seed) {
  for (std::size_t at; (at = text.find("SEED")) != text.npos;) text.replace(at, 4, seed);
  return text;
}

}  // namespace

TEST_CASE("each trip of a loop draws new numbers, whatever loops are around it") {
  const std::string head = R"({"ag":1,"opset":21,"name":"random","inputs":[],"nodes":[)";
  for (const std::string seed : {"", ",\"seed\":1.5"}) {
    INFO("seed " << seed);
    std::string loop = head +
                       R"({"op":"Loop","in":[4,true],"out":["y"],"regions":{"body":{"inputs":["t","c"],"nodes":[)" +
                       draw_node + R"(],"outputs":["c","r"]}}}],"outputs":["y"]})";
    CHECK(all_differ(run_json(with_seed(loop, seed))[0]));
    std::string nested = head +
                         R"({"op":"Loop","in":[3,true],"out":["y"],"regions":{"body":{"inputs":["t","c"],"nodes":[
      {"op":"Equal","in":["t",1],"out":"odd"},
      {"op":"Loop","in":[2,true],"out":["z"],"regions":{"body":{"inputs":["t2","c2"],"nodes":[
        {"op":"If","in":["odd"],"out":["s"],"regions":{
          "then_branch":{"nodes":[)" +
                         draw_node + R"(],"outputs":["r"]},
          "else_branch":{"nodes":[)" +
                         other_draw_node + R"(],"outputs":["q"]}}}],"outputs":["c2","s"]}}}],"outputs":["c","z"]}}}],
      "outputs":["y"]})";
    Array y = run_json(with_seed(nested, seed))[0];
    CHECK(y.elems() == 18);
    CHECK(all_differ(y));
    std::string scan = head +
                       R"({"op":"Scan","in":[[[1.0,2.0],[3.0,4.0]]],"out":["y"],"attrs":{"num_scan_inputs":1},
      "regions":{"body":{"inputs":["x"],"nodes":[)" +
                       draw_node + R"(,{"op":"ReduceSum","in":["x"],"out":"q","attrs":{"keepdims":0}},
      {"op":"Mul","in":["q",0.0],"out":"zero"},{"op":"Add","in":["r","zero"],"out":"s"}],"outputs":["s"]}}}],
      "outputs":["y"]})";
    CHECK(all_differ(run_json(with_seed(scan, seed))[0]));
  }
}

TEST_CASE("Dropout of ratio 0 draws nothing, and its gradient is that of the identity") {
  const std::string text = R"({"ag":1,"opset":21,"name":"random",
    "inputs":[{"name":"x","type":"f32[7,5]"},{"name":"s","type":"f32[7,5]"}],
    "initializers":[{"name":"ratio","type":"f32[]","data":0}],
    "nodes":[{"op":"Tanh","in":["x"],"out":"t"},{"op":"Dropout","in":["t","ratio",true],"out":["y","mask"]}],
    "outputs":["y","mask"],"grad":{"of":"y","wrt":["x"],"seed":"s"}})";
  Sources sources;
  auto g = load_text(text, "random.json", "", sources);
  if (!g) FAIL(messages(g.error()));
  passes::PassContext context;
  auto optimised = passes::run_pipeline(*g, {.stop_after = "dce"}, context);
  if (!optimised) FAIL(messages(optimised.error()));
  const Graph& out = std::get<Graph>(optimised->stage);
  for (NodeId id : out.node_ids()) CHECK(out.node(id).op->name != "rng_bits");
  Array x(DType::f32, {7, 5}), s(DType::f32, {7, 5});
  for (std::int64_t i = 0; i < 35; ++i)
    x.set_double(i, 0.1 * static_cast<double>(i) - 2), s.set_double(i, 1 - 0.05 * static_cast<double>(i));
  auto want = interpret(*g, std::vector<Array>{x, s}), got = interpret(out, std::vector<Array>{x, s});
  REQUIRE(want);
  REQUIRE(got);
  for (std::size_t i = 0; i < want->size(); ++i) CHECK(same((*got)[i], (*want)[i]));
}

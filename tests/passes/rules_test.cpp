// Every rewrite rule that is a pattern, on random and special values of every dtype it may be used for: the graph of
// its left side and what the pass makes of it, both interpreted. And the graph passes on every example.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>

#include "frontend/load.hpp"
#include "ir/builder.hpp"
#include "passes/rewrite/pattern.hpp"

using namespace ag;
using namespace ag::passes;

namespace {

constexpr std::int64_t random_count = 600;

/// One wildcard of a pattern: its number and whether it is the condition of a select.
void find_wildcards(const Pattern& p, std::vector<int>& kinds, bool condition = false) {
  if (p.kind == Pattern::Kind::wildcard) {
    if (kinds.size() <= static_cast<std::size_t>(p.index)) kinds.resize(static_cast<std::size_t>(p.index) + 1, -1);
    kinds[static_cast<std::size_t>(p.index)] = condition;
  }
  for (std::size_t i = 0; i < p.operands.size(); ++i) find_wildcards(p.operands[i], kinds, p.op == "select" && i == 0);
}

/// Bit patterns that rules go wrong on, as an array of their dtype.
Array special_values(DType t) {
  if (t == DType::boolean) return Array::of<std::int64_t>(t, {2}, std::vector<std::int64_t>{0, 1});
  if (is_float(t)) {
    double tiny = t == DType::f64 ? 5e-324 : t == DType::f32 ? 1e-45 : t == DType::f16 ? 6e-8 : 9.2e-41;
    double huge = t == DType::f64 ? 1.7e308 : t == DType::f16 ? 65504 : 3.3e38;
    std::vector<double> v{0.0,      -0.0,      1,   -1,   2,     -2,       0.5,  3,    0.1,
                          INFINITY, -INFINITY, NAN, tiny, -tiny, 3 * tiny, huge, -huge};
    return Array::of<double>(t, {static_cast<std::int64_t>(v.size())}, v);
  }
  int bits = static_cast<int>(dtype_bytes(t)) * 8;
  std::int64_t top = is_signed_int(t) ? std::int64_t((std::uint64_t{1} << (bits - 1)) - 1)
                                      : std::int64_t(~std::uint64_t{0} >> (64 - bits));
  std::int64_t low = is_signed_int(t) ? -top - 1 : 0;
  std::vector<std::int64_t> v{0, 1, 2, 3, is_signed_int(t) ? -1 : top, top, low, top - 1, low + 1, 100};
  return Array::of<std::int64_t>(t, {static_cast<std::int64_t>(v.size())}, v);
}

void copy_element(Array& to, std::int64_t i, const Array& from, std::int64_t j) {
  std::size_t n = dtype_bytes(to.dtype());
  std::memcpy(to.mutable_bytes().data() + static_cast<std::size_t>(i) * n,
              from.bytes().data() + static_cast<std::size_t>(j) * n, n);
}

/// Input number `which`: every pair of special values turns up with its neighbour, the rest is random bits.
Array values(DType t, int which, std::int64_t pairs, std::mt19937_64& rng) {
  Array special = special_values(t), out(t, {pairs + random_count});
  std::int64_t n = special.elems(),
               side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(pairs))));
  for (std::int64_t i = 0; i < pairs; ++i) copy_element(out, i, special, (which % 2 ? i / side : i % side) % n);
  std::size_t size = dtype_bytes(t);
  for (std::int64_t i = pairs; i < out.elems(); ++i) {
    std::uint64_t bits = t == DType::boolean ? rng() & 1 : rng();
    std::memcpy(out.mutable_bytes().data() + static_cast<std::size_t>(i) * size, &bits, size);
  }
  return out;
}

/// Values of everyday size, for rules that are only close.
Array tame_values(DType t, std::int64_t n, std::mt19937_64& rng) {
  Array out(t, {n});
  std::uniform_real_distribution<double> d(0.5, 3);
  for (std::int64_t i = 0; i < n; ++i) out.set_double(i, d(rng));
  return out;
}

double epsilon(DType t) {
  return t == DType::f64 ? 0x1p-52 : t == DType::f32 ? 0x1p-23 : t == DType::f16 ? 0x1p-10 : 0x1p-7;
}

/// The first element that breaks the promise, or -1. `tolerance` in units of the result's last place; 0: every bit.
std::int64_t first_difference(const Array& a, const Array& b, double tolerance) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return 0;
  std::size_t n = dtype_bytes(a.dtype());
  for (std::int64_t i = 0; i < a.elems(); ++i) {
    auto at = static_cast<std::size_t>(i) * n;
    if (std::memcmp(a.bytes().data() + at, b.bytes().data() + at, n) == 0) continue;
    double x = a.get_double(i), y = b.get_double(i);
    if (std::isnan(x) && std::isnan(y)) continue;
    if (tolerance > 0 && is_float(a.dtype()) && std::isfinite(y) &&
        std::abs(x - y) <= tolerance * epsilon(a.dtype()) * std::abs(y))
      continue;
    return i;
  }
  return -1;
}

struct Outcome {
  bool fired = false;
  Array before, after;
};

/// The rule's left side on the given values, and the same after the algebra pass.
Outcome apply(const RewriteRule& rule, DType t, const std::vector<Array>& inputs) {
  Graph g;
  GraphBuilder b(g);
  std::vector<ValueId> bound;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    bound.push_back(b.input("w" + std::to_string(i), Type{inputs[i].dtype(), {Dim(inputs[i].elems())}}));
  g.outputs.push_back({"y", instantiate(b, rule.from, bound, t), {}});
  REQUIRE(verify(g));
  Outcome out;
  PassContext context;
  context.fast_math = rule.exactness == Exactness::fast;
  context.trace_rule = [&](std::string_view name) { out.fired = out.fired || name == rule.name; };
  auto rewritten = algebra.on_graph(g, context);
  REQUIRE(rewritten);
  REQUIRE(verify(*rewritten));
  auto before = interpret(g, inputs), after = interpret(*rewritten, inputs);
  REQUIRE(before);
  REQUIRE(after);
  out.before = before->at(0);
  out.after = after->at(0);
  return out;
}

const char* class_name(Exactness e) {
  return e == Exactness::exact ? "exact" : e == Exactness::algorithm ? "algorithm" : "fast";
}

}  // namespace

TEST_CASE("every pattern rule keeps its promise on special and random values") {
  int rules = 0;
  for (const RewriteRule& rule : rewrite_rules()) {
    if (rule.apply) continue;
    ++rules;
    std::vector<int> kinds;
    find_wildcards(rule.from, kinds);
    int dtypes = 0;
    for (int d = 0; d < dtype_count; ++d) {
      DType t = static_cast<DType>(d);
      if (!rule.dtypes.has(t)) continue;
      ++dtypes;
      std::mt19937_64 rng(static_cast<std::uint64_t>(d) + 1);
      std::int64_t side = std::max<std::int64_t>(special_values(t).elems(), 2);
      std::vector<Array> inputs;
      for (std::size_t i = 0; i < kinds.size(); ++i) {
        DType w = kinds[i] == 1 ? DType::boolean : t;
        bool tame = rule.exactness == Exactness::fast;
        inputs.push_back(tame ? tame_values(w, side * side + random_count, rng)
                              : values(w, static_cast<int>(i), side * side, rng));
      }
      Outcome o = apply(rule, t, inputs);
      double ulps = rule.exactness == Exactness::exact ? 0 : rule.exactness == Exactness::algorithm ? 2 : 64;
      std::int64_t bad = first_difference(o.after, o.before, ulps);
      CAPTURE(rule.name, class_name(rule.exactness), dtype_name(t), bad);
      std::string where = bad < 0 ? ""
                                  : format_element(inputs[0], bad) + ": " + format_element(o.before, bad) + " became " +
                                        format_element(o.after, bad);
      INFO(where);
      CHECK(o.fired);
      CHECK(bad == -1);
    }
    CHECK(dtypes > 0);
  }
  CHECK(rules >= 20);
}

TEST_CASE("fast rules do nothing unless asked for") {
  for (const RewriteRule& rule : rewrite_rules()) {
    if (rule.apply || rule.exactness != Exactness::fast) continue;
    RewriteRule strict = rule;
    strict.exactness = Exactness::exact;  // so that the pass runs without fast math
    std::mt19937_64 rng(3);
    std::vector<int> kinds;
    find_wildcards(rule.from, kinds);
    std::vector<Array> inputs(kinds.size(), tame_values(DType::f32, 10, rng));
    Outcome o = apply(strict, DType::f32, inputs);
    CAPTURE(rule.name);
    CHECK(!o.fired);
    CHECK(o.before.same_bits(o.after));
  }
}

TEST_CASE("the comparison of rules finds what it is there for") {
  auto f = [](std::vector<double> v) {
    return Array::of<double>(DType::f32, {static_cast<std::int64_t>(v.size())}, v);
  };
  CHECK(first_difference(f({1, NAN}), f({1, -NAN}), 0) == -1);
  CHECK(first_difference(f({1, 0.0}), f({1, -0.0}), 0) == 1);
  CHECK(first_difference(f({1, NAN}), f({1, 2}), 2) == 1);
  CHECK(first_difference(f({1, INFINITY}), f({1, 2}), 2) == 1);
  CHECK(first_difference(f({1}), f({1 + 0x1p-23}), 0) == 0);
  CHECK(first_difference(f({1}), f({1 + 0x1p-23}), 2) == -1);
  CHECK(first_difference(f({1}), f({1 + 0x1p-20}), 2) == 0);
}

namespace {

/// Values for the inputs of a graph; open sizes become 4.
std::vector<Array> inputs_of(const Graph& g) {
  std::mt19937_64 rng(5);
  std::vector<Array> out;
  for (ValueId v : g.inputs) {
    std::vector<std::int64_t> shape;
    for (const Dim& d : g.type(v).shape) shape.push_back(d.is_const() ? d.value() : 4);
    Array a(g.type(v).dtype, shape);
    std::uniform_real_distribution<double> real(-2, 2);
    for (std::int64_t i = 0; i < a.elems(); ++i)
      if (is_float(a.dtype()))
        a.set_double(i, real(rng));
      else
        a.set_int(i, static_cast<std::int64_t>(rng() % 10));
    out.push_back(std::move(a));
  }
  return out;
}

std::vector<Array> after_passes(const Graph& g, const std::vector<std::string>& names, bool* exact = nullptr) {
  PassContext context;
  context.trace_rule = [&](std::string_view name) {
    for (const RewriteRule& r : rewrite_rules())
      if (r.name == name && r.exactness != Exactness::exact && exact) *exact = false;
  };
  auto result = run_pipeline(g, {.passes = names}, context);
  REQUIRE(result);
  auto values = interpret(std::get<Graph>(result->stage), inputs_of(g));
  REQUIRE(values);
  return *values;
}

}  // namespace

TEST_CASE("graph passes keep the results of every example") {
  int graphs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(AG_SOURCE_DIR "/examples")) {
    if (entry.path().extension() != ".json") continue;
    Sources sources;
    auto g = load(entry.path().string(), sources);
    REQUIRE(g);
    ++graphs;
    std::vector<Array> want = after_passes(*g, {"autodiff"});
    using Names = std::vector<std::string>;
    for (const Names& names :
         {Names{"cse"}, Names{"dce"}, Names{"fold"}, Names{"algebra"}, Names{"decompose"},
          Names{"cse", "algebra", "fold", "dce"}, Names{"algebra", "cse", "algebra", "fold", "dce"}}) {
      Names all{"autodiff"};
      all.insert(all.end(), names.begin(), names.end());
      bool exact = names != Names{"decompose"};  // a composite's own evaluation may round otherwise
      std::vector<Array> got = after_passes(*g, all, &exact);
      REQUIRE(got.size() == want.size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        CAPTURE(entry.path().filename().string(), names, i, exact);
        CHECK(first_difference(got[i], want[i], exact ? 0 : 64) == -1);
      }
    }
  }
  CHECK(graphs >= 14);
}

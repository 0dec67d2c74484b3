// Random graphs with their gradients: compiled at -O2 and -O0 and interpreted, the same; at 1, 2 and 3 threads, the
// same bits. Seeds are fixed; AG_FUZZ=N runs N of them.
#include <cmath>
#include <cstdlib>

#include <catch2/catch.hpp>

#include "ir/builder.hpp"
#include "passes/autodiff.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

using Ints = std::vector<std::int64_t>;

class Generator {
 public:
  explicit Generator(int seed) : r_("graph " + std::to_string(seed)), b_(g_) {}

  /// A scalar loss of two or three inputs, with gradients of all of them, and a few values on the way.
  std::optional<Graph> run(DType t) {
    symbolic_ = pick(3) == 0;
    Dim n = symbolic_ ? Dim::symbol("N") : Dim(1 + pick(40));
    Dim m = 1 + pick(70), k = 1 + pick(20);
    std::vector<ValueId> inputs;
    for (const Dims& s : {Dims{n, m}, Dims{m, k}, Dims{m}}) {
      inputs.push_back(b_.input("x" + std::to_string(inputs.size()), {t, s}));
      values_.push_back(inputs.back());
    }
    int steps = 4 + pick(14);
    for (int i = 0; i < steps; ++i) step();
    ValueId loss = total(values_.back());
    for (int i = 0; i < 2; ++i)
      loss = b_.add(loss, total(values_[values_.size() - 1 - static_cast<std::size_t>(pick(4))]));
    std::vector<ValueId> map;
    auto grads = passes::reverse(g_, {.of = loss, .seed = {}, .wrt = inputs, .stop = {}}, {}, &map);
    if (!grads) {
      INFO(messages(grads.error()));
      CHECK(false);
      return std::nullopt;
    }
    g_.outputs.push_back({"loss", map[loss.index], {}});
    g_.outputs.push_back({"mid", map[values_[values_.size() / 2].index], {}});
    g_.outputs.push_back({"last", map[values_.back().index], {}});
    for (std::size_t i = 0; i < grads->size(); ++i)
      if ((*grads)[i]) g_.outputs.push_back({"g" + std::to_string(i), (*grads)[i], {}});
    return std::move(g_);
  }

 private:
  Random r_;
  Graph g_;
  GraphBuilder b_;
  std::vector<ValueId> values_;
  bool symbolic_ = false;

  int pick(int n) { return static_cast<int>(r_.uniform(0, n - 1e-9)); }
  ValueId any() {
    return values_[values_.size() - 1 -
                   static_cast<std::size_t>(std::min<int>(pick(6), static_cast<int>(values_.size()) - 1))];
  }
  void keep(ValueId v) { values_.push_back(v); }

  ValueId total(ValueId v) {
    Ints axes;
    for (int d = 0; d < b_.type(v).rank(); ++d) axes.push_back(d);
    return axes.empty() ? v : b_.reduce("reduce_sum", v, axes);
  }

  /// Values stay within a few units, so that gradients do too.
  ValueId tame(ValueId v) { return b_.unary("tanh", v); }

  void step() {
    ValueId x = any();
    Type t = b_.type(x);
    int rank = t.rank();
    switch (pick(13)) {
      case 0:
        return keep(
            b_.unary(std::array{"tanh", "sigmoid", "sin", "erf", "exp2"}[static_cast<std::size_t>(pick(5))], tame(x)));
      case 1: return keep(b_.unary("sqrt", b_.add(b_.mul(x, x), 0.5)));
      case 2: {
        ValueId y = any();
        if (!broadcast_shapes(t.shape, b_.type(y).shape)) return;
        const char* ops[] = {"add", "sub", "mul", "max"};
        return keep(tame(b_.add_op(ops[pick(4)], {x, y})));
      }
      case 3: {
        ValueId y = any();
        if (!broadcast_shapes(t.shape, b_.type(y).shape)) return;
        return keep(b_.div(x, b_.add(b_.unary("exp", tame(y)), 1.0)));
      }
      case 4: return rank ? keep(tame(b_.reduce("reduce_sum", x, {pick(rank)}, pick(2) == 0))) : void();
      case 5: return rank ? keep(b_.reduce("reduce_max", x, {pick(rank)}, true)) : void();
      case 6: return rank ? softmax(x, pick(rank)) : void();
      case 7: return rank == 2 ? keep(b_.transpose(x, {1, 0})) : void();
      case 8: return matmul(x);
      case 9: return rank && t.shape.back().is_const() && t.shape.back().value() > 3 ? slice(x) : void();
      case 10: return rank == 2 && !symbolic_ ? keep(b_.reshape(x, {t.shape[0] * t.shape[1]})) : void();
      case 11: return rank && rank < 3 ? keep(b_.concat({x, tame(x)}, pick(rank))) : void();
      default:
        return keep(b_.select(b_.compare("gt", x, b_.scalar(t.dtype, 0.1)), b_.unary("log1p", b_.unary("abs", x)),
                              b_.mul(x, 0.3)));
    }
  }

  void softmax(ValueId x, std::int64_t axis) {
    ValueId e = b_.unary("exp", b_.sub(x, b_.add_op("StopGradient", {b_.reduce("reduce_max", x, {axis}, true)})));
    keep(b_.div(e, b_.reduce("reduce_sum", e, {axis}, true)));
  }

  void matmul(ValueId x) {
    ValueId y = any();
    const Dims &a = b_.type(x).shape, &c = b_.type(y).shape;
    if (a.empty() || c.empty()) return;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(a.size()); ++i)
      for (std::int64_t j = 0; j < static_cast<std::int64_t>(c.size()); ++j)
        if (a[static_cast<std::size_t>(i)] == c[static_cast<std::size_t>(j)] && a.size() + c.size() <= 5)
          return keep(tame(b_.mul(b_.dot_general(x, y, {i}, {j}), 0.2)));
  }

  void slice(ValueId x) {
    Dims shape = b_.type(x).shape, start(shape.size(), 0), limit = shape;
    Ints stride(shape.size(), 1);
    std::int64_t n = shape.back().value();
    start.back() = pick(static_cast<int>(n / 2));
    stride.back() = 1 + pick(3);
    keep(b_.slice(x, start, limit, stride));
  }
};

std::string compare(const Array& got, const Array& want, double tolerance) {
  if (got.shape() != want.shape()) return "shape";
  double scale = 1e-2;  // sums of numbers near one leave this much noise where the true value is zero
  for (std::int64_t i = 0; i < want.elems(); ++i)
    if (double w = std::abs(want.get_double(i)); std::isfinite(w)) scale = std::max(scale, w);
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double g = got.get_double(i), w = want.get_double(i);
    if (g == w || (std::isnan(g) && std::isnan(w))) continue;
    if (!(std::abs(got.get_double(i) - want.get_double(i)) <= tolerance * scale))
      return "[" + std::to_string(i) + "] " + std::to_string(got.get_double(i)) + " instead of " +
             std::to_string(want.get_double(i));
  }
  return {};
}

void check(runtime::Engine& engine, int seed) {
  DType t = seed % 3 ? DType::f64 : DType::f32;
  auto g = Generator(seed).run(t);
  if (!g) return;
  INFO("seed " << seed << "\n" << print(*g));
  Random values("values " + std::to_string(seed));
  DimEnv env{{"N", seed % 7 ? 1 + seed % 37 : 0}};
  std::vector<Array> inputs;
  for (ValueId v : g->inputs) {
    Type type = g->type(v);
    for (Dim& d : type.shape) d = d.eval(env).value();
    inputs.push_back(random_array(type, -1.5, 1.5, values));
  }
  auto want = interpret(*g, inputs);
  if (!want) return;  // sizes that only broadcast for some N
  for (int level : {2, 0}) {
    runtime::EngineOptions options;
    options.pipeline.opt_level = level;
    if (seed % 4 == 0) options.target = "cpu:x86-64-v3";
    auto compiled = engine.compile(*g, options);
    if (!compiled) FAIL_CHECK("-O" << level << " " << messages(compiled.error()));
    if (!compiled) return;
    std::vector<Array> first;
    for (int threads : {1, 2, 3}) {
      runtime::ExecContext context(compiled->executable, {.threads = threads});
      auto got = runtime::run(context, inputs);
      if (!got) FAIL_CHECK(messages(got.error()));
      if (!got) return;
      for (std::size_t i = 0; i < want->size(); ++i) {
        if (std::string d = compare((*got)[i], (*want)[i], t == DType::f64 ? 1e-10 : 2e-4); !d.empty())
          FAIL_CHECK("-O" << level << " output " << g->outputs[i].name << ": " << d);
        if (threads > 1 && !(*got)[i].same_bits(first[i]))
          FAIL_CHECK("-O" << level << " other bits at " << threads << " threads");
      }
      if (threads == 1) first = *got;
    }
  }
}

}  // namespace

TEST_CASE("random graphs and their gradients") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  const char* fuzz = std::getenv("AG_FUZZ");
  int count = fuzz ? std::atoi(fuzz) : 60;
  for (int seed = 1; seed <= count; ++seed) check(**engine, seed);
}

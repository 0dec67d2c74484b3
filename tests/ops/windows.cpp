// Convolutions, windows and reshapes of random sizes: the roles of a convolution are adjoint, compiled loops compute
// what the interpreter does, pools treat ties, padding and NaN as PyTorch does.
#include <limits>

#include "ir/ops/convolution.hpp"
#include "tests/ops/lowered.hpp"

using namespace ag;
using namespace ag::test;
using namespace ag::ops;

namespace {

std::int64_t pick(Random& r, std::int64_t low, std::int64_t high) {
  return low + static_cast<std::int64_t>(r.bits() % static_cast<std::uint64_t>(high - low + 1));
}

/// A convolution drawn at random: the shapes of x, w and y and the attributes that all roles share.
struct Drawn {
  Dims x, w, y, low;
  Ints strides, dilations;
  std::int64_t groups;
  std::string text;
};

Drawn draw(Random& r) {
  Drawn d;
  std::int64_t axes = pick(r, 1, 3), cg = pick(r, 1, 3), mg = pick(r, 1, 9);
  d.groups = pick(r, 1, 3);
  d.x = {pick(r, 1, 2), cg * d.groups}, d.w = {mg * d.groups, cg}, d.y = {d.x[0], d.w[0]};
  for (std::int64_t i = 0; i < axes; ++i) {
    std::int64_t stride = pick(r, 1, 3), dilation = pick(r, 1, 2), taps = pick(r, 1, 3), low = pick(r, -1, 3),
                 count = pick(r, 1, axes == 1 ? 40 : 6), span = (taps - 1) * dilation + 1;
    std::int64_t size = std::max<std::int64_t>((count - 1) * stride + span - low - pick(r, 0, 2), 1);
    d.x.push_back(size), d.w.push_back(taps), d.y.push_back(count);
    d.low.push_back(low), d.strides.push_back(stride), d.dilations.push_back(dilation);
  }
  d.text = shape_str(d.x) + " " + shape_str(d.w) + " " + shape_str(d.y) + " low " + shape_str(d.low) + " groups " +
           std::to_string(d.groups);
  return d;
}

/// With `last`, operands and result still have their channels first, but the convolution between transposes does not.
Graph conv_graph(const Drawn& d, const std::string& role, DType t, bool last = false) {
  const Dims &p = role == "input" ? d.y : d.x, &q = role == "filter" ? d.y : d.w,
             &out = role == "output"  ? d.y
                    : role == "input" ? d.x
                                      : d.w;
  Graph g;
  GraphBuilder b(g);
  ConvRole r = role == "output" ? ConvRole::output : role == "input" ? ConvRole::input : ConvRole::filter;
  auto rank = static_cast<std::int64_t>(p.size());
  auto moved = [&](ValueId x, std::size_t i) {
    return last ? b.transpose(x, channels_last_perm(conv_value(r, i), rank)) : x;
  };
  Attrs attrs{{"role", role},
              {"size", Dims(out.begin() + 2, out.end())},
              {"low", d.low},
              {"strides", d.strides},
              {"dilations", d.dilations},
              {"groups", Dims{d.groups}}};
  if (last) attrs.set("layout", std::string("channels_last"));
  ValueId v = b.add_op("conv", {moved(b.input("p", {t, p}), 0), moved(b.input("q", {t, q}), 1)}, attrs);
  if (last) v = b.transpose(v, channels_first_perm(conv_value(r, 2), rank));
  g.outputs = {{"r", v, {}}};
  return g;
}

double dot(const Array& a, const Array& b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.elems(); ++i) sum += a.get_double(i) * b.get_double(i);
  return sum;
}

Array run_one(const Graph& g, const std::vector<Array>& in) {
  auto out = interpret(g, in);
  if (!out) FAIL(messages(out.error()));
  return (*out)[0];
}

std::vector<double> values(const Array& a) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < a.elems(); ++i) out.push_back(a.get_double(i));
  return out;
}

/// Result and gradient of the sum of a pool over one row, f64.
struct Pooled {
  std::vector<double> y, gradient, indices;
};
Pooled pool(std::string_view name, const std::vector<double>& x, Attrs attrs) {
  Graph g;
  GraphBuilder b(g);
  ValueId in = b.input("x", {DType::f64, {1, 1, static_cast<std::int64_t>(x.size())}});
  std::vector<ValueId> out = b.add_multi(name, {in}, std::move(attrs));
  ValueId loss = b.reduce("reduce_sum", out[0], {0, 1, 2});
  for (ValueId v : out) g.outputs.push_back({"", v, {}});
  auto grads = passes::reverse(g, {.of = loss, .wrt = {in}});
  REQUIRE(grads);
  g.outputs.insert(g.outputs.begin() + 1, {"d", (*grads)[0], {}});
  auto got = interpret(g, std::vector{Array::of<double>(DType::f64, {1, 1, static_cast<std::int64_t>(x.size())}, x)});
  if (!got) FAIL(messages(got.error()));
  return {values((*got)[0]), values((*got)[1]), got->size() > 2 ? values((*got)[2]) : std::vector<double>{}};
}

}  // namespace

TEST_CASE("the roles of a convolution are adjoint") {
  Random r("adjoint");
  for (int i = 0; i < 60; ++i) {
    Drawn d = draw(r);
    INFO(d.text);
    Array x = random_array({DType::f64, d.x}, -1, 1, r), w = random_array({DType::f64, d.w}, -1, 1, r),
          y = random_array({DType::f64, d.y}, -1, 1, r);
    double out = dot(run_one(conv_graph(d, "output", DType::f64), {x, w}), y),
           in = dot(run_one(conv_graph(d, "input", DType::f64), {y, w}), x),
           filter = dot(run_one(conv_graph(d, "filter", DType::f64), {x, y}), w);
    CHECK(std::fabs(out - in) <= 1e-11 * (1 + std::fabs(out)));
    CHECK(std::fabs(out - filter) <= 1e-11 * (1 + std::fabs(out)));
  }
}

TEST_CASE("convolutions of random sizes are lowered to what they mean") {
  Random r("lowered convolutions");
  for (int i = 0; i < 40; ++i) {
    Drawn d = draw(r);
    DType t = i % 4 == 0 ? DType::f32 : DType::f64;
    for (const char* role : {"output", "input", "filter"}) {
      INFO(role << " " << d.text);
      Graph g = conv_graph(d, role, t), last = conv_graph(d, role, t, true);
      std::vector<Array> in;
      for (ValueId v : g.inputs) in.push_back(random_array(g.type(v), -1, 1, r));
      check_lowered(g, in, true);
      check_lowered(last, in, true);
      Array a = run_one(g, in), b = run_one(last, in);
      for (std::int64_t k = 0; k < a.elems(); ++k)
        CHECK(std::fabs(a.get_double(k) - b.get_double(k)) <= 2e-5 * (1 + std::fabs(a.get_double(k))));
    }
  }
}

TEST_CASE("reshapes and transposes of random sizes are lowered to what they mean") {
  Random r("reshapes");
  for (int i = 0; i < 60; ++i) {
    Graph g;
    GraphBuilder b(g);
    Dims shape;
    for (std::int64_t k = pick(r, 1, 4); k > 0; --k) shape.push_back(pick(r, 1, 6));
    ValueId v = b.input("x", {DType::i32, shape});
    std::vector<Array> in{random_array(g.type(v), -99, 99, r)};
    for (int step = 0; step < 4; ++step) {
      Dims now = b.type(v).shape;
      if (pick(r, 0, 2) == 0) {  // another factorisation
        std::int64_t left = *product(now).eval({});
        Dims to;
        while (left > 1 && to.size() < 4) {
          std::int64_t f = pick(r, 1, left);
          while (left % f != 0) --f;
          to.push_back(f);
          left /= f;
        }
        to.push_back(left);
        v = b.reshape(v, to);
      } else if (pick(r, 0, 1) == 0) {
        Ints perm;
        for (std::size_t d = 0; d < now.size(); ++d) perm.push_back(static_cast<std::int64_t>(d));
        for (std::size_t d = now.size(); d > 1; --d) std::swap(perm[d - 1], perm[r.bits() % d]);
        v = b.transpose(v, perm);
      } else {
        Dims start;
        for (const Dim& d : now) start.push_back(d.value() > 2 ? pick(r, 0, 1) : 0);
        v = b.slice(v, start, now);
      }
    }
    g.outputs = {{"y", b.neg(v), {}}};
    INFO(print(g));
    check_lowered(g, in, true);
  }
}

TEST_CASE("the first winner of a max pool takes the gradient; padding never wins; a NaN does") {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  Attrs three{{"kernel_shape", Ints{3}}, {"pads", Ints{1, 1}}};
  Pooled ties = pool("MaxPool", {1, 2, 2, 0}, three);
  CHECK(ties.y == std::vector<double>{2, 2, 2, 2});
  CHECK(ties.indices == std::vector<double>{1, 1, 1, 2});
  CHECK(ties.gradient == std::vector<double>{0, 3, 1, 0});
  Pooled low = pool("MaxPool", {-inf, -inf, -inf}, three);
  CHECK(low.indices == std::vector<double>{0, 0, 1});
  CHECK(low.gradient == std::vector<double>{2, 1, 0});
  Pooled lost = pool("MaxPool", {1, nan, 2, 3}, three);
  CHECK(std::isnan(lost.y[0]));
  CHECK(std::isnan(lost.y[2]));
  CHECK(lost.y[3] == 3);
  CHECK(lost.gradient == std::vector<double>{0, 3, 0, 1});
}

TEST_CASE("average pools divide by what a window covers") {
  auto averages = [](std::int64_t ceil, std::int64_t padding) {
    return pool("AveragePool", {1, 2, 3, 4},
                {{"kernel_shape", Ints{3}},
                 {"strides", Ints{2}},
                 {"pads", Ints{1, 0}},
                 {"ceil_mode", ceil},
                 {"count_include_pad", padding}})
        .y;
  };
  CHECK(averages(0, 0) == std::vector<double>{1.5, 3});
  CHECK(averages(0, 1) == std::vector<double>{1, 3});
  CHECK(averages(1, 0) == std::vector<double>{1.5, 3});
  // A window rounded up does not count what lies beyond the padded axis.
  Attrs up{{"kernel_shape", Ints{3}}, {"strides", Ints{2}}, {"ceil_mode", std::int64_t{1}}};
  up.set("count_include_pad", std::int64_t{1});
  CHECK(pool("AveragePool", {1, 2, 3, 5}, up).y == std::vector<double>{2, 4});
}

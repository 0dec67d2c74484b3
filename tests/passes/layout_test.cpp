// The pass `layout`: networks mean what they meant, and transposes are left only at their borders. Networks drawn at
// random from all ops that have a rule.
#include <catch2/catch.hpp>

#include "ir/ops/windows.hpp"
#include "passes/autodiff.hpp"
#include "passes/layout.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

using Ints = std::vector<std::int64_t>;

Graph after(const Graph& g, std::vector<std::string> names) {
  passes::PassContext context;
  passes::PipelineOptions options;
  options.passes = std::move(names);
  auto r = passes::run_pipeline(g, options, context);
  if (!r) FAIL(messages(r.error()));
  return std::get<Graph>(r->stage);
}
Graph laid_out(const Graph& g) {
  return after(g, {"decompose_early", "dce", "layout", "cse", "algebra", "fold", "dce"});
}

/// Transposes of values of at least three axes, those of constants aside.
int transposes(const Graph& g) {
  int n = 0;
  for (NodeId id : g.node_ids()) n += g.node(id).op->name == "transpose" && g.type(g.node(id).result()).rank() > 2;
  return n;
}
int channels_last(const Graph& g) {
  int n = 0;
  for (NodeId id : g.node_ids()) n += g.node(id).attrs.get_or<std::string>("layout", "") == "channels_last";
  return n;
}

void same_values(const Graph& g, const Graph& h, Random& r) {
  std::vector<Array> in;
  for (ValueId v : g.inputs) in.push_back(random_array(g.type(v), -1, 1, r));
  auto want = interpret(g, in), got = interpret(h, in);
  if (!want) FAIL(messages(want.error()));
  if (!got) FAIL(messages(got.error()) << print(h));
  REQUIRE(want->size() == got->size());
  for (std::size_t k = 0; k < want->size(); ++k) {
    REQUIRE((*want)[k].shape() == (*got)[k].shape());
    double scale = 1, worst = 0;
    for (std::int64_t i = 0; i < (*want)[k].elems(); ++i) {
      scale = std::max(scale, std::fabs((*want)[k].get_double(i)));
      worst = std::max(worst, std::fabs((*want)[k].get_double(i) - (*got)[k].get_double(i)));
    }
    CHECK(worst <= 1e-12 * scale);
  }
}

struct Net {
  Graph g;
  GraphBuilder b{g};
  Random r;
  int constants = 0;
  explicit Net(std::string seed) : r(std::move(seed)) {}

  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(r.bits() % static_cast<std::uint64_t>(high - low + 1));
  }
  ValueId input(Dims shape) { return b.input("x" + std::to_string(constants++), {DType::f64, std::move(shape)}); }
  ValueId weights(Dims shape) { return b.constant(make_literal(random_array({DType::f64, shape}, -1, 1, r))); }
  ValueId op(const char* name, std::vector<ValueId> operands, Attrs a = {}) {
    return b.add_multi(name, std::move(operands), std::move(a))[0];
  }
  /// A 3 x 3 or 1 x 1 convolution of the same size, with a bias.
  ValueId conv(ValueId x, std::int64_t m, std::int64_t taps = 3, std::int64_t stride = 1, std::int64_t groups = 1) {
    std::int64_t axes = g.type(x).rank() - 2;
    Dims filter{m, floordiv(g.type(x).shape[1], Dim(groups))};
    for (std::int64_t d = 0; d < axes; ++d) filter.push_back(taps);
    return op("Conv", {x, weights(filter), weights({m})},
              {{"pads", Ints(static_cast<std::size_t>(2 * axes), taps / 2)},
               {"strides", Ints(static_cast<std::size_t>(axes), stride)},
               {"group", groups}});
  }
  ValueId channels(std::int64_t m, int rank) {
    Dims shape(static_cast<std::size_t>(rank) - 1, 1);
    shape[0] = m;
    return weights(shape);
  }
};

}  // namespace

TEST_CASE("a residual network is transposed at its borders only") {
  Net n("residual");
  ValueId x = n.input({1, 3, 12, 12});
  ValueId y = n.op("Relu", {n.conv(x, 16, 3, 2)});
  y = n.op("MaxPool", {y}, {{"kernel_shape", Ints{3, 3}}, {"strides", Ints{2, 2}}, {"pads", Ints{1, 1, 1, 1}}});
  ValueId shortcut = y;
  y = n.b.add(n.b.mul(n.conv(y, 16), n.channels(16, 4)), n.channels(16, 4));
  y = n.op("Relu", {n.b.add(y, shortcut)});
  ValueId narrow = n.conv(n.op("Relu", {n.conv(n.op("GlobalAveragePool", {y}), 8, 1)}), 16, 1);
  y = n.b.mul(n.b.unary("sigmoid", narrow), y);
  y = n.conv(n.conv(y, 32, 1), 32, 3, 1, 32);
  y = n.b.concat({y, n.op("AveragePool", {y}, {{"kernel_shape", Ints{3, 3}}, {"pads", Ints{1, 1, 1, 1}}})}, 1);
  y = n.op("Flatten", {n.op("GlobalAveragePool", {y})});
  n.g.outputs = {{"y", n.op("MatMul", {y, n.weights({64, 5})}), {}}};
  Graph h = laid_out(n.g);
  INFO(print(h, {.elide_weights = true}));
  CHECK(channels_last(h) == 6);
  CHECK(transposes(h) == 1);
  same_values(n.g, h, n.r);
}

TEST_CASE("convolutions of one and of three axes are moved, patches of a transformer too") {
  for (std::size_t axes : {1u, 3u}) {
    Net n("axes " + std::to_string(axes));
    Dims shape{2, 3};
    for (std::size_t d = 0; d < axes; ++d) shape.push_back(6);
    ValueId y = n.conv(n.op("Relu", {n.conv(n.input(shape), 16)}), 8);
    n.g.outputs = {{"y", y, {}}};
    Graph h = laid_out(n.g);
    CHECK(channels_last(h) == 2);
    CHECK(transposes(h) == 2);
    same_values(n.g, h, n.r);
  }
  Net n("patches");
  ValueId y = n.op("Conv", {n.input({2, 3, 8, 8}), n.weights({64, 3, 4, 4})}, {{"strides", Ints{4, 4}}});
  y = n.b.transpose(n.b.reshape(y, {2, 64, 4}), {0, 2, 1});
  n.g.outputs = {{"y", n.op("MatMul", {y, n.weights({64, 16})}), {}}};
  Graph h = laid_out(n.g);
  CHECK(channels_last(h) == 1);
  CHECK(transposes(h) == 1);
  same_values(n.g, h, n.r);
}

TEST_CASE("a change that costs more than it gains is not made") {
  Net n("small");
  n.g.outputs = {{"y", n.conv(n.input({1, 4, 9, 9}), 8, 1), {}}};
  CHECK(channels_last(laid_out(n.g)) == 0);
  Net one("one channel");
  one.g.outputs = {{"y", one.conv(one.input({1, 16, 9, 9}), 1), {}}};
  CHECK(channels_last(laid_out(one.g)) == 0);
  Net none("none");
  ValueId x = none.input({2, 3, 4, 5});
  none.g.outputs = {{"y", none.b.reduce("reduce_sum", none.b.transpose(x, {0, 2, 3, 1}), {1}), {}}};
  Graph h = after(none.g, {"layout"});
  CHECK(h.node_count() == none.g.node_count());
}

TEST_CASE("a training step is moved as a whole") {
  Net n("training");
  ValueId x = n.input({2, 3, 32, 32}), w = n.input({8, 3, 3, 3}), v = n.input({16, 8, 3, 3}), scale = n.input({8});
  auto conv = [&](ValueId a, ValueId f, std::int64_t stride) {
    return n.op("Conv", {a, f}, {{"pads", Ints{1, 1, 1, 1}}, {"strides", Ints{stride, stride}}});
  };
  ValueId y = conv(x, w, 1);
  ValueId mean = n.b.mul(n.b.reduce("reduce_sum", y, {0, 2, 3}), 1.0 / 2048);
  auto spread = [&](ValueId a) { return n.b.reshape(a, {8, 1, 1}); };
  y = n.op("Relu", {n.b.mul(n.b.sub(y, spread(mean)), spread(scale))});
  y = n.op("MaxPool", {y}, {{"kernel_shape", Ints{3, 3}}, {"strides", Ints{2, 2}}, {"pads", Ints{1, 1, 1, 1}}});
  y = conv(y, v, 2);
  ValueId loss = n.b.reduce("reduce_sum", n.b.mul(y, y), {0, 1, 2, 3});
  n.g.outputs.push_back({"loss", loss, {}});
  auto grads = passes::reverse(n.g, {.of = loss, .wrt = {w, v, scale}});
  REQUIRE(grads);
  for (ValueId d : *grads) n.g.outputs.push_back({"", d, {}});
  Graph h = laid_out(n.g);
  INFO(print(h));
  CHECK(channels_last(h) == 5);
  CHECK(transposes(h) <= 5);  // the image, two filters, their gradients
  same_values(n.g, h, n.r);
}

TEST_CASE("shuffled channels are copied as the innermost axis, and so are those that become pixels") {
  Net n("shuffle");
  ValueId y = n.conv(n.input({2, 3, 6, 6}), 16);
  y = n.b.reshape(n.b.transpose(n.b.reshape(y, {2, 2, 8, 6, 6}), {0, 2, 1, 3, 4}), {2, 16, 6, 6});
  ValueId low = n.b.slice(y, {0, 0, 0, 0}, {2, 8, 6, 6}), high = n.b.slice(y, {0, 8, 0, 0}, {2, 16, 6, 6});
  y = n.b.concat({low, n.conv(high, 8)}, 1);
  y = n.b.reshape(y, {2, 4, 2, 2, 6, 6});
  y = n.b.reshape(n.b.transpose(y, {0, 1, 4, 2, 5, 3}), {2, 4, 12, 12});
  n.g.outputs = {{"y", n.conv(y, 16), {}}};
  Graph h = laid_out(n.g);
  INFO(print(h, {.elide_weights = true}));
  CHECK(transposes(h) == 4);  // image, shuffle, pixels, result
  std::vector<Dims> copied;
  for (NodeId id : h.node_ids())
    if (h.node(id).op->name == "materialize") copied.push_back(h.type(h.node(id).result()).shape);
  REQUIRE(copied.size() == 2);
  CHECK(copied[0] == Dims{2, 6, 6, 8, 2});
  CHECK(copied[1] == Dims{2, 6, 2, 6, 2, 4});
  same_values(n.g, h, n.r);
}

namespace {

/// One more op of any kind on values of a network.
ValueId random_step(Net& n, ValueId x) {
  const Dims shape = n.g.type(x).shape;
  const int rank = static_cast<int>(shape.size());
  const auto last = static_cast<std::size_t>(rank);
  auto axis = [&] { return n.pick(0, rank - 1); };
  switch (n.pick(0, 13)) {
    case 0: return n.b.unary("neg", x);
    case 1: {  // a broadcast operand of fewer axes
      Dims other(shape.begin() + n.pick(0, rank), shape.end());
      for (Dim& d : other)
        if (n.pick(0, 1)) d = 1;
      return n.b.add(x, n.pick(0, 1) ? n.weights(other) : n.b.unary("neg", n.input(other)));
    }
    case 2: {
      Ints perm = ops::iota_ints(rank);
      for (std::size_t d = last; d > 1; --d) std::swap(perm[d - 1], perm[n.r.bits() % d]);
      return n.b.transpose(x, perm);
    }
    case 3: {
      Dims start(last, 0), limit = shape;
      Ints stride(last, 1);
      auto d = static_cast<std::size_t>(axis());
      if (shape[d].value() > 2) start[d] = 1, stride[d] = n.pick(1, 2);
      return n.b.slice(x, start, limit, stride);
    }
    case 4: {
      Dims low(last, 0), high(last, 0);
      low[static_cast<std::size_t>(axis())] = 1, high[static_cast<std::size_t>(axis())] = 2;
      return n.op("pad", {x, n.b.scalar(DType::f64, 0.5)}, {{"low", low}, {"high", high}, {"interior", Ints(last, 0)}});
    }
    case 5: return n.op("rev", {x}, {{"axes", Ints{axis()}}});
    case 6: return n.b.concat({x, n.b.unary("abs", x)}, axis());
    case 7: return rank > 3 ? n.b.reduce("reduce_sum", x, {axis()}) : n.b.unary("sin", x);
    case 8: {  // split or merge
      auto d = static_cast<std::size_t>(n.pick(0, rank - 2));
      Dims to = shape;
      if (n.pick(0, 1) || rank > 5) {
        to[d] = shape[d] * shape[d + 1], to.erase(to.begin() + static_cast<std::ptrdiff_t>(d) + 1);
      } else if (shape[d].value() % 2 == 0) {
        to[d] = shape[d].value() / 2, to.insert(to.begin() + static_cast<std::ptrdiff_t>(d), 2);
      } else {
        to.insert(to.begin() + static_cast<std::ptrdiff_t>(d), 1);
      }
      return n.b.reshape(x, to);
    }
    case 9: return n.op("cumulative_sum", {x}, {{"axis", axis()}});
    case 10: {
      std::int64_t a = axis();
      Ints which{0, shape[static_cast<std::size_t>(a)].value() - 1, 0};
      return n.op("Gather", {x, n.b.ints(which)}, {{"axis", a}});
    }
    case 11: {
      ops::Expr e(n.b, x);
      std::size_t axes = n.r.bits() % 2 + 1, lead = last - axes;
      ops::Window w{ops::dims_from(shape, lead), Dims(axes, 2), {}, Dims(axes, n.pick(0, 1)),
                    Ints(axes, n.pick(1, 2)),    Ints(axes, 1)};
      for (std::size_t d = 0; d < axes; ++d)
        w.count.push_back(floordiv(w.space[d] + w.low[d] - 2, Dim(w.strides[d])) + 1);
      for (const Dim& c : w.count)
        if (c.value() < 1) return x;
      if (n.pick(0, 1)) {
        ops::Expr most = ops::reduce_window("max", e, w);
        ops::Expr which = ops::first_winner(e, most, w, "max");
        return n.pick(0, 1) ? ops::window_gather(e, which, w) : ops::window_scatter(most, which, w);
      }
      return ops::fold_windows(ops::unfold(e, w), w);
    }
    case 12: {  // a product over one axis
      std::int64_t a = axis();
      return n.b.dot_general(x, n.weights({shape[static_cast<std::size_t>(a)], 4}), {a}, {0});
    }
    default: return n.b.mul(x, n.b.broadcast_in_dim(n.weights({shape[0]}), shape, {0}));
  }
}

}  // namespace

TEST_CASE("networks drawn at random mean what they meant") {
  int moved = 0;
  for (int i = 0; i < 150; ++i) {
    Net n("random " + std::to_string(i));
    ValueId x = n.conv(n.input({2, 4, 5, 6}), 8 * n.pick(1, 2));
    for (std::int64_t k = n.pick(1, 8); k > 0; --k) {
      if (*n.g.type(x).elems().eval({}) > 8000) break;
      if (n.g.type(x).rank() == 4 && n.g.type(x).shape[1].value() > 1 && n.pick(0, 3) == 0)
        x = n.conv(x, 8);
      else
        x = random_step(n, x);
    }
    n.g.outputs = {{"y", x, {}}};
    Graph h = laid_out(n.g);
    moved += channels_last(h) > 0;
    INFO(print(n.g, {.elide_weights = true}) << print(h, {.elide_weights = true}));
    same_values(n.g, h, n.r);
  }
  CHECK(moved > 75);
}

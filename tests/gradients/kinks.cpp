// The table of docs/kinks.md, row by row, and lanes that a select does not take.
#include <catch2/catch.hpp>

#include <fstream>
#include <sstream>

#include "frontend/json/import.hpp"
#include "tests/gradients/probe.hpp"

using namespace ag;
using namespace ag::test;

namespace {

struct Row {
  std::string node, note;
  std::vector<double> x, gradient;
};

std::vector<double> numbers(const std::string& text) {
  std::vector<double> out;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) out.push_back(std::stod(part));
  return out;
}

std::vector<Row> rows() {
  std::vector<Row> out;
  std::ifstream in(AG_SOURCE_DIR "/docs/kinks.md");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("| `")) continue;
    std::vector<std::string> cells;
    std::istringstream cut(line.substr(1));
    for (std::string cell; std::getline(cut, cell, '|');) cells.push_back(cell);
    REQUIRE(cells.size() >= 4);
    std::size_t first = cells[0].find('`'), last = cells[0].rfind('`');
    out.push_back({cells[0].substr(first + 1, last - first - 1), cells[3], numbers(cells[1]), numbers(cells[2])});
  }
  return out;
}

/// x -> sum of the elements of the row's result `y`.
Graph program(const Row& r) {
  std::string n = std::to_string(r.x.size()), node = r.node;
  if (node.find("\"out\"") == node.npos) node += R"(, "out": "y")";
  std::string weights;
  for (std::size_t i = 0; i < r.x.size(); ++i)
    weights +=
        (i ? ", " : "") + (r.note.find("weighted") == r.note.npos ? std::string("1.0") : std::to_string(i + 1) + ".0");
  std::string text = R"({ "ag": 1, "opset": 26, "inputs": [{"name": "x", "type": "f64[)" + n + R"(]"}], "nodes": [
      {"op": "Reshape", "in": ["x", [1, 1, 1, )" +
                     n + R"(]], "out": "x4"}, {)" + node + R"(},
      {"op": "Reshape", "in": ["y", [-1]], "out": "flat"})";
  bool weighted = r.note.find("weighted") != r.note.npos;
  if (weighted) text += R"(, {"op": "Mul", "in": ["flat", [)" + weights + R"(]], "out": "w"})";
  text += R"(, {"op": "ReduceSum", "in": [")" + std::string(weighted ? "w" : "flat") +
          R"("], "out": "s", "attrs": {"keepdims": 0}}], "outputs": ["s"] })";
  auto doc = json::Document::parse(text, std::make_shared<std::string>("kinks.md"));
  if (!doc) FAIL(messages(doc.error()));
  auto g = json::import_graph(**doc);
  if (!g) FAIL(messages(g.error()));
  return std::move(*g);
}

std::vector<double> gradient_at(Graph g, const std::vector<Array>& values, std::size_t order = 1) {
  ValueId of = g.outputs[0].value;
  for (std::size_t k = 0; k < order; ++k) {
    auto grads = passes::reverse(g, {.of = of, .seed = {}, .wrt = {g.inputs[0]}, .stop = {}});
    if (!grads) FAIL(messages(grads.error()));
    GraphBuilder b(g);
    ValueId d = (*grads)[0] ? (*grads)[0] : b.zeros(Type(g.type(g.inputs[0])));
    of = k + 1 < order ? b.reduce("reduce_sum", d, all_axes(g.type(d))) : d;
  }
  g.outputs = {{"d", of, {}}};
  Array out = run(g, values)[0];
  std::vector<double> r;
  for (std::int64_t i = 0; i < out.elems(); ++i) r.push_back(out.get_double(i));
  return r;
}

}  // namespace

TEST_CASE("gradients at kinks are those of docs/kinks.md") {
  std::size_t count = 0;
  for (const Row& r : rows()) {
    CAPTURE(r.node);
    ++count;
    Array x = Array::of<double>(DType::f64, {static_cast<std::int64_t>(r.x.size())}, r.x);
    std::vector<double> got = gradient_at(program(r), {x});
    REQUIRE(got.size() == r.gradient.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CAPTURE(i, got[i], r.gradient[i]);
      CHECK((got[i] == r.gradient[i] || std::fabs(got[i] - r.gradient[i]) < 1e-12));
    }
  }
  CHECK(count > 30);
}

namespace {

const std::vector<double>& poles() {
  static const double inf = std::numeric_limits<double>::infinity();
  static const std::vector<double> x{-inf, -1e300, -1000, -2, -1, -0.0, 0, 1, 2, 1000, 1e300, inf};
  return x;
}

/// Real ops of one operand that work element by element: no axis among their attributes, none required.
std::vector<const OpInfo*> unary_ops() {
  std::vector<const OpInfo*> out;
  for (const OpInfo& o : op_table().all()) {
    bool composite_map = o.tier == Tier::composite && o.results.size() == 1 && o.operands.size() == 1 &&
                         !o.operands[0].variadic &&
                         std::ranges::none_of(o.attrs, [](const AttrSpec& a) { return a.name.starts_with("ax"); });
    bool map = o.lower_class == LowerClass::map && o.operands.size() == 1;
    bool required = std::ranges::any_of(o.attrs, [](const AttrSpec& a) { return a.required; });
    if ((map || composite_map) && !required && o.differentiable() && !o.zero_gradient &&
        o.operands[0].dtypes.has(DType::f64))
      out.push_back(&o);
  }
  return out;
}

/// Invalid where the op does not take a vector.
ValueId apply(GraphBuilder& b, const OpInfo& o, ValueId x) {
  GraphBuilder::NodeArgs args;
  args.operands.assign(o.operands.size(), x);
  auto id = b.try_add(o, std::move(args));
  return id ? b.graph().node(*id).result() : ValueId{};
}

/// The derivative of the sum of select(false, f(x), 0) is zero at every pole, and the second one where x is finite (x x
/// has no bounded derivative at infinity, and multiplications that no pole is behind are not masked).
template <class F>
void check_lanes(F f, const std::string& label) {
  CAPTURE(label);
  Graph g;
  GraphBuilder b(g);
  auto n = static_cast<std::int64_t>(poles().size());
  ValueId x = b.input("x", {DType::f64, {n}}), off = b.input("off", {DType::boolean, {n}});
  ValueId y = f(b, x);
  if (!y || b.type(y) != b.type(x)) return;
  ValueId taken = b.select(off, b.scalar(DType::f64, 3), y);
  g.outputs = {{"s", b.reduce("reduce_sum", taken, {0}), {}}};
  Array at = Array::of<double>(DType::f64, {n}, poles()), mask(DType::boolean, {n});
  for (std::int64_t i = 0; i < n; ++i) mask.set_int(i, 1);
  for (std::size_t order : {1u, 2u})
    if (std::vector<double> d = gradient_at(g, {at, mask}, order); d.size() == poles().size())
      for (std::size_t i = 0; i < d.size(); ++i) {
        CAPTURE(order, poles()[i]);
        CHECK((d[i] == 0 || (order == 2 && std::isinf(poles()[i]))));
      }
}

}  // namespace

TEST_CASE("no NaN leaks from the lane of a select that is not taken: every op with an unbounded derivative") {
  std::size_t count = 0;
  for (const OpInfo& o : op_table().all()) {
    if (!o.unbounded_derivative) continue;
    check_lanes([&](GraphBuilder& b, ValueId x) { return apply(b, o, x); }, std::string(o.name));
    ++count;
  }
  CHECK(count > 15);
}

TEST_CASE("no NaN leaks through chains of such ops, and of others behind them") {
  std::vector<const OpInfo*> unary = unary_ops();
  REQUIRE(unary.size() > 40);
  for (const OpInfo& first : op_table().all()) {
    if (!first.unbounded_derivative) continue;
    for (const OpInfo* second : unary)
      check_lanes([&](GraphBuilder& b, ValueId x) { return apply(b, *second, apply(b, first, x)); },
                  std::string(first.name) + ", then " + std::string(second->name));
    check_lanes([&](GraphBuilder& b, ValueId x) { return b.mul(x, apply(b, first, x)); },
                "x times " + std::string(first.name));
  }
}

TEST_CASE("no NaN leaks from what Relu, Clip, Max and Min cut off") {
  auto at_zero = [](auto f) {
    Graph g;
    GraphBuilder b(g);
    ValueId x = b.input("x", {DType::f64, {1}});
    g.outputs = {{"s", b.reduce("reduce_sum", f(b, b.unary("log", x)), {0}), {}}};
    return gradient_at(std::move(g), {Array::of<double>(DType::f64, {1}, std::vector<double>{0})})[0];
  };
  CHECK(at_zero([](GraphBuilder& b, ValueId y) { return b.add_op("Relu", {y}); }) == 0);
  CHECK(at_zero([](GraphBuilder& b, ValueId y) {
          return b.add_op("Clip", {y, b.scalar(DType::f64, -1), b.scalar(DType::f64, 1)});
        }) == 0);
  CHECK(at_zero([](GraphBuilder& b, ValueId y) { return b.add_op("max", {y, b.scalar(DType::f64, 0)}); }) == 0);
}

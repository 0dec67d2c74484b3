// Each program of examples/ against the values that its doc states: imported, differentiated, interpreted.
#include <catch2/catch.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "frontend/data/value.hpp"
#include "frontend/json/import.hpp"
#include "passes/pass.hpp"

using namespace ag;
namespace fs = std::filesystem;

namespace {

const fs::path folder = fs::path(AG_SOURCE_DIR) / "examples";

std::string slurp(const fs::path& p) {
  std::ifstream in(p, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string messages(const Diags& d) {
  std::string out;
  for (const Diag& x : d)
    out += code_name(x.code) + " " + (x.spans.empty() ? "" : x.spans[0].loc.str()) + " " + x.message + "\n";
  return out;
}

template <class T>
T must(Result<T> r) {
  if (!r) FAIL(messages(r.error()));
  return std::move(*r);
}

Graph import(const std::string& text, const std::string& name) {
  auto doc = must(json::Document::parse(text, std::make_shared<std::string>(name)));
  json::ImportOptions options;
  options.folders = {folder.string()};
  return must(json::import_graph(*doc, options));
}

using Values = std::map<std::string, Array>;

Values run(const std::string& name, const Values& inputs = {}) {
  Graph g = import(slurp(folder / (name + ".json")), name + ".json");
  REQUIRE(verify(g));
  passes::PassContext context;
  Graph with_grads = must(passes::autodiff.on_graph(g, context));
  REQUIRE(verify(with_grads));
  CHECK(with_grads.grads.empty());
  std::vector<Array> in;
  for (ValueId v : with_grads.inputs) in.push_back(inputs.at(with_grads.value(v).name));
  std::vector<Array> out = must(interpret(with_grads, in));
  Values named;
  for (std::size_t i = 0; i < out.size(); ++i) named.emplace(with_grads.outputs[i].name, out[i]);
  return named;
}

Array reals(std::vector<double> values) {
  return Array::of<double>(DType::f32, {static_cast<std::int64_t>(values.size())}, values);
}

void near(const Array& a, const std::vector<double>& expected, double tolerance = 0) {
  REQUIRE(a.elems() == static_cast<std::int64_t>(expected.size()));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(a.get_double(static_cast<std::int64_t>(i)) - expected[i]) <=
          tolerance * std::max(1.0, std::abs(expected[i])));
  }
}

}  // namespace

TEST_CASE("two_dot") {
  Values v = run("two_dot", {{"x", reals({0, 1, 2, 3})}});
  near(v.at("y"), {28});
  near(v.at("x_grad"), {0, 4, 8, 12});
  near(run("two_dot", {{"x", reals({1, 2, 3})}}).at("x_grad"), {4, 8, 12});
}

TEST_CASE("sum") {
  Values v = run("sum", {{"x", reals({1, 2, 3})}});
  near(v.at("y"), {6});
  near(v.at("x_grad"), {1, 1, 1});
}

TEST_CASE("square_seeded") {
  Values v = run("square_seeded", {{"x", reals({0, 1, 2, 3})}});
  near(v.at("y"), {0, 1, 4, 9});
  near(v.at("s"), {14});
  near(v.at("x_grad"), {0, 2, 4, 6});
  near(v.at("s_x_grad"), {0, 2, 4, 6});
}

TEST_CASE("stop_gradient") {
  Values v = run("stop_gradient", {{"x", reals({0, 1, 2, 3})}});
  near(v.at("z"), {0, 1, 8, 27});
  near(v.at("s"), {36});
  near(v.at("x_grad"), {0, 1, 4, 9});
}

TEST_CASE("eye_square") {
  Values v = run("eye_square");
  CHECK(v.at("inp_grad").shape() == std::vector<std::int64_t>{5, 5});
  for (std::int64_t i = 0; i < 25; ++i) {
    CHECK(v.at("y").get_double(i) == (i % 6 == 0 ? 4 : 1));
    CHECK(v.at("inp_grad").get_double(i) == (i % 6 == 0 ? 4 : 2));
  }
}

TEST_CASE("frozen_linear") {
  Values v = run("frozen_linear", {{"x", reals({1, 2}).reshaped({1, 2})}});
  near(v.at("y"), {16});
  near(v.at("x_grad"), {4, 4});
  CHECK(v.size() == 2);  // none for the weights
}

TEST_CASE("one_layer_bce") {
  Values v = run("one_layer_bce");
  double loss = 0;
  std::vector<double> b_grad, w_grad;
  for (std::int64_t j = 0; j < 3; ++j) {
    double z = v.at("z").get_double(j);
    loss += std::log1p(std::exp(z)) / 3;
    b_grad.push_back(1 / (1 + std::exp(-z)) / 3);
  }
  for (int row = 0; row < 5; ++row) w_grad.insert(w_grad.end(), b_grad.begin(), b_grad.end());
  near(v.at("loss"), {loss}, 1e-6);
  near(v.at("b_grad"), b_grad, 1e-6);
  near(v.at("w_grad"), w_grad, 1e-6);
}

TEST_CASE("plus_one") {
  Values v = run("plus_one", {{"x", reals({1, 2, 3})}});
  near(v.at("y"), {2, 3, 4});
  near(v.at("s"), {9});
  near(v.at("x_grad"), {1, 1, 1});
}

TEST_CASE("pow2 and pow3") {
  Values inputs = {{"a", reals({100, 101, 102, 103})}};
  Values v = run("pow2", inputs);
  near(v.at("s"), {41214});
  near(v.at("a_grad"), {200, 202, 204, 206});
  v = run("pow3", inputs);
  near(v.at("s"), {4184236});
  near(v.at("a_grad"), {30000, 30603, 31212, 31827});
}

TEST_CASE("second_derivative") {
  Values v = run("second_derivative", {{"a", reals({100, 101, 102, 103})}});
  near(v.at("q"), {1000000, 1030301, 1061208, 1092727});
  near(v.at("a_grad"), {30000, 30603, 31212, 31827});
  near(v.at("a_grad2"), {600, 606, 612, 618});
}

TEST_CASE("sine") {
  Values v = run("sine");
  const double pi = 3.141592653589793;
  near(
      v.at("x"),
      [&] {
        std::vector<double> x;
        for (int i = 0; i < 100; ++i) x.push_back(-pi + 2 * pi * i / 99);
        return x;
      }(),
      1e-6);
  for (std::int64_t i = 0; i < 100; ++i) {
    double x = v.at("x").get_double(i);
    CHECK(std::abs(v.at("y").get_double(i) - std::sin(x)) < 1e-6);
    CHECK(std::abs(v.at("x_grad").get_double(i) - std::cos(x)) < 1e-6);
  }
}

TEST_CASE("while_if") {
  Values v = run("while_if", {{"a", reals({1, 2, 2})}});
  near(v.at("c"), {512, 1024, 1024});
  near(v.at("a_grad"), {512, 512, 512});
  v = run("while_if", {{"a", reals({-1, -2, -2})}});
  near(v.at("c"), {-51200, -102400, -102400});
  near(v.at("a_grad"), {51200, 51200, 51200});
  v = run("while_if", {{"a", reals({600, 0, 0, 0})}});  // not a single trip
  near(v.at("c"), {1200, 0, 0, 0});
  near(v.at("a_grad"), {2, 2, 2, 2});
}

TEST_CASE("two_dot_loop") {
  auto at = [](std::vector<double> x, bool negated) {
    return run("two_dot_loop", {{"x", reals(std::move(x))}, {"neg", Array::scalar(DType::boolean, negated)}});
  };
  near(at({1, 2, 3}, false).at("y"), {28});
  near(at({1, 2, 3}, false).at("x_grad"), {4, 8, 12});
  near(at({4, 5, 6}, true).at("y"), {-77});
  near(at({4, 5, 6}, true).at("x_grad"), {-8, -10, -12});
  near(at({40, 50, 60}, false).at("y"), {60.15625});
  near(at({40, 50, 60}, false).at("x_grad"), {0.625, 0.78125, 0.9375});
}

TEST_CASE("digits") {
  std::string bytes = slurp(folder / "digits.npz");
  Values inputs;
  for (auto& [name, array] : must(data::parse_npz(bytes, "digits.npz", nullptr, {}))) inputs.emplace(name, array);
  CHECK(inputs.at("x_train").shape() == std::vector<std::int64_t>{1437, 64});
  // The first 64 images: the interpreter is slow. All of them run compiled, see tests of the command.
  auto head = [&](const std::string& name, std::vector<std::int64_t> shape) {
    const Array& a = inputs.at(name);
    std::size_t size = *Array::byte_size(a.dtype(), shape);
    return Array::from_bytes(a.dtype(), shape, a.bytes().first(size));
  };
  Values v = run("digits", {{"x_train", head("x_train", {64, 64})}, {"y_train", head("y_train", {64})}});
  CHECK(v.at("loss").get_double(0) > 1.5);
  CHECK(v.at("loss").get_double(0) < 3.5);
  CHECK(v.at("accuracy").get_double(0) >= 0);
  CHECK(v.at("accuracy").get_double(0) < 0.5);
  CHECK(v.at("w1_grad").shape() == std::vector<std::int64_t>{64, 128});
  CHECK(v.at("b1_grad").shape() == std::vector<std::int64_t>{128});
  CHECK(v.at("w2_grad").shape() == std::vector<std::int64_t>{128, 10});
  // The gradient of the last bias sums to zero: softmax minus one-hot does.
  double sum = 0, size = 0;
  for (std::int64_t i = 0; i < 10; ++i) {
    sum += v.at("b2_grad").get_double(i);
    size += std::abs(v.at("b2_grad").get_double(i));
  }
  CHECK(size > 1e-3);
  CHECK(std::abs(sum) < 1e-6);
}

TEST_CASE("every example has a canonical form that is a fixed point") {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    CAPTURE(entry.path().filename().string());
    ++count;
    Graph g = import(slurp(entry.path()), "a.json");
    std::string once = must(json::export_graph(g));
    std::string twice = must(json::export_graph(import(once, "b.json")));
    CHECK(once == twice);
  }
  CHECK(count >= 15);
}

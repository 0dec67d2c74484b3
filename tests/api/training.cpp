// Training steps compiled as one program, beside the same steps taken op by op.
#include <ag/ag.hpp>
#include <catch2/catch.hpp>

#include <cmath>
#include <filesystem>

using ag::Tensor;
namespace nn = ag::nn;

namespace {

struct Net : nn::Module {
  nn::Linear first{4, 8}, last{8, 3};
  Net() {
    register_module("first", first);
    register_module("last", last);
  }
  Tensor forward(const Tensor& x) override { return last(ag::gelu(first(x))); }
};

Tensor images() {
  return ag::tensor({0.5, -1., 0.25, 2., 1., 0., -0.5, 1.5, -2., 0.75, 1., -1.}).reshape({3, 4}).to(ag::f32);
}
Tensor labels() { return ag::tensor({0, 2, 1}).to(ag::i64); }

double gap(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

const auto x_arg = ag::arg("x", ag::f32, {3, 4});
const auto y_arg = ag::arg("y", ag::i64, {3});

/// Both ways from the same start; the largest difference of a parameter, and of a loss.
template <class Optimizer>
std::pair<double, double> compare(const ag::optim::Rule& rule, Optimizer make) {
  Net net;
  auto step = ag::train_step(
      "step", net, rule, [&](const Tensor& x, const Tensor& y) { return cross_entropy(net(x), y); }, x_arg, y_arg);
  auto optimizer = make(net.parameters());
  double of_loss = 0, of_parameters = 0;
  for (int i = 0; i < 5; ++i) {
    float loss = 0;
    step.run({{"x", images()}, {"y", labels()}}, {{"loss", loss}});
    optimizer.zero_grad();
    Tensor eager = cross_entropy(net(images()), labels());
    eager.backward();
    optimizer.step();
    of_loss = std::max(of_loss, std::abs(loss - eager.item<double>()));
  }
  for (auto& [name, t] : net.named_parameters())
    of_parameters = std::max(of_parameters, gap(t.detach(), step.state(name)));
  return {of_parameters, of_loss};
}

}  // namespace

TEST_CASE("a compiled step does what the optimisers do") {
  using namespace ag::optim;
  auto check = [](std::pair<double, double> worst) {
    CHECK(worst.first < 1e-5);
    CHECK(worst.second < 1e-5);
  };
  check(compare(sgd({.lr = 0.1}), [](auto p) { return SGD(p, SGDOptions{.lr = 0.1}); }));
  check(compare(sgd({.lr = 0.1, .momentum = 0.9, .weight_decay = 0.1, .nesterov = true}), [](auto p) {
    return SGD(p, SGDOptions{.lr = 0.1, .momentum = 0.9, .weight_decay = 0.1, .nesterov = true});
  }));
  check(compare(adam({.lr = 0.01}), [](auto p) { return Adam(p, AdamOptions{.lr = 0.01}); }));
  check(compare(adamw({.lr = 0.01}), [](auto p) { return AdamW(p, AdamOptions{.lr = 0.01, .weight_decay = 0.01}); }));
}

TEST_CASE("the state of a step is its own, and goes to modules and files when asked") {
  Net net;
  const Tensor before = net.first.weight.detach() + 0.0;
  auto step = ag::train_step(
      "step", net, ag::optim::adamw(), [&](const Tensor& x, const Tensor& y) { return cross_entropy(net(x), y); },
      x_arg, y_arg);
  CHECK(step.inputs().size() == 2);
  REQUIRE(step.outputs().size() == 1);
  CHECK(step.outputs()[0].str() == "loss: f32[]");
  CHECK(step.state().size() == 4 * 3 + 2);
  // The function was traced, not run: the module is as it was.
  CHECK(net.first.weight.requires_grad());
  CHECK(gap(net.first.weight.detach(), before) == 0);
  const double first = step({images(), labels()})[0].item<double>();
  for (int i = 0; i < 20; ++i) step.run({{"x", images()}, {"y", labels()}});
  CHECK(step({images(), labels()})[0].item<double>() < first);
  CHECK(gap(net.first.weight.detach(), before) == 0);
  CHECK(step.state("optimizer.step").item<std::int64_t>() == 22);
  step.store(net);
  CHECK(gap(net.first.weight.detach(), before) > 1e-3);
  CHECK(gap(net.first.weight.detach(), step.state("first.weight")) == 0);

  const std::string file = (std::filesystem::temp_directory_path() / "ag_training_test.safetensors").string();
  ag::save_tensors(step.state_dict(), file);
  const double here = step({images(), labels()})[0].item<double>();
  step.run({{"x", images()}, {"y", labels()}});
  step.load_state_dict(ag::load_tensors(file));
  CHECK(step({images(), labels()})[0].item<double>() == here);
  std::filesystem::remove(file);

  CHECK(step.learning_rate() == 1e-3);
  step.set_learning_rate(0);
  const Tensor frozen = step.state("last.bias");
  step.run({{"x", images()}, {"y", labels()}});
  CHECK(gap(step.state("last.bias"), frozen) == 0);
  CHECK_THROWS_AS(step.state("nothing"), ag::Error);
  CHECK_THROWS_AS(step.load_state_dict({{"last.bias", ag::zeros({4})}}), ag::Error);
  CHECK_THROWS_AS(step.run({{"x", images()}}), ag::Error);
}

TEST_CASE("running statistics follow in the state, frozen parameters stay") {
  nn::Sequential net(nn::Conv2d(1, 2, 3), nn::BatchNorm2d(2), nn::ReLU(), nn::Flatten(), nn::Linear(2 * 4, 3));
  net[0].requires_grad_(false);
  const Tensor x = ag::randn({3, 1, 4, 4});
  auto step = ag::train_step(
      "step", net, ag::optim::sgd({.lr = 0.1}),
      [&](const Tensor& x, const Tensor& y) { return cross_entropy(net(x), y); }, ag::arg("x", ag::f32, {3, 1, 4, 4}),
      y_arg);
  for (const auto& p : step.state()) CHECK(p.name.substr(0, 2) != "0.");
  CHECK(gap(step.state("1.running_mean"), ag::zeros(2)) == 0);
  float loss = 0;
  step.run({{"x", x}, {"y", labels()}}, {{"loss", loss}});
  // The same op by op.
  ag::optim::SGD optimizer(net.parameters(), 0.1);
  Tensor eager = cross_entropy(net(x), labels());
  eager.backward();
  optimizer.step();
  CHECK(loss == Approx(eager.item<double>()).epsilon(1e-5));
  for (const char* name : {"1.running_mean", "1.running_var"})
    for (auto& [n, t] : net.named_buffers())
      if (n == name) CHECK(gap(t, step.state(name)) < 1e-6);
  for (auto& [n, t] : net.named_parameters())
    if (t.requires_grad()) CHECK(gap(t.detach(), step.state(n)) < 1e-5);
}

TEST_CASE("graphs from files and traces are trained too") {
  auto step = ag::train_step(ag::load(AG_SOURCE_DIR "/examples/bench/logreg.json"), ag::optim::sgd({.lr = 0.5}));
  const std::vector<float> x(5, 1), y(3, 0);
  float first = 0, last = 0;
  step.run({{"x", x}, {"y", y}}, {{"loss", first}});
  for (int i = 0; i < 50; ++i) step.run({{"x", x}, {"y", y}}, {{"loss", last}});
  CHECK(last < first / 2);

  // What is trained is an argument here.
  auto g = ag::trace(
      "fit", [](const Tensor& w, const Tensor& x) { return ((w * x).sum() - 3).pow(2); }, ag::arg("w", ag::f32, {2}),
      ag::arg("x", ag::f32, {2}));
  auto fit = ag::train_step(g, ag::optim::sgd({.lr = 0.1}), {"w"});
  fit.load_state_dict({{"w", ag::tensor({1., 1.}).to(ag::f32)}});
  const std::vector<float> v{1, 0.5};
  for (int i = 0; i < 100; ++i) fit.run({{"x", v}});
  CHECK((fit.state("w") * ag::tensor({1., 0.5}).to(ag::f32)).sum().item<double>() == Approx(3).epsilon(1e-4));
  CHECK_THROWS_AS(ag::train_step(g, ag::optim::sgd({}), {"v"}), ag::Error);
  CHECK_THROWS_AS(ag::train_step(g, ag::optim::sgd({})), ag::Error);
}

TEST_CASE("dropout in a compiled step draws at each step what the same steps draw op by op") {
  Net net;
  auto loss = [&](const Tensor& x, const Tensor& y) {
    return cross_entropy(net.last(ag::dropout(ag::gelu(net.first(x)), 0.5)), y);
  };
  auto step = ag::train_step("step", net, ag::optim::sgd({.lr = 0.0}), loss, x_arg, y_arg);
  ag::manual_seed(3);
  std::vector<double> compiled, eager;
  for (int i = 0; i < 4; ++i) compiled.push_back(step({images(), labels()})[0].item<double>());
  ag::manual_seed(3);
  for (int i = 0; i < 4; ++i) eager.push_back(loss(images(), labels()).item<double>());
  for (int i = 0; i < 4; ++i) CHECK(compiled[i] == Approx(eager[i]).epsilon(1e-5));
  CHECK(compiled[0] != compiled[1]);
}

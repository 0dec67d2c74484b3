// Autograd as torch has it: what the notes on automatic differentiation show, and what they say about errors.
#include <ag/ag.hpp>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <sstream>

namespace {
/// The message of the error that f throws, "" if it throws none; it stands in errors.txt with its code.
template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const ag::Error& e) {
    std::ifstream in(AG_SOURCE_DIR "/tests/api/errors.txt");
    bool listed = false;
    for (std::string line; std::getline(in, line);) listed |= line == e.code() + " " + e.what();
    INFO(e.code() << " " << e.what());
    CHECK(listed);
    return e.what();
  }
  return "";
}
}  // namespace

TEST_CASE("the gradient of 2 dot(x, x)") {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  CHECK(x.str() == "tensor([0., 1., 2., 3.], requires_grad=True)");
  CHECK_FALSE(x.grad().defined());
  ag::Tensor y = 2 * ag::dot(x, x);
  CHECK(y.str() == "tensor(28., grad_fn=<MulBackward0>)");
  y.backward();
  CHECK(x.grad().str() == "tensor([ 0.,  4.,  8., 12.])");
  CHECK((x.grad() == 4 * x).str() == "tensor([True, True, True, True])");
  x.grad().zero_();
  x.sum().backward();
  CHECK(x.grad().str() == "tensor([1., 1., 1., 1.])");
}

TEST_CASE("gradients accumulate; products seeded or summed") {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  x.sum().backward();
  x.sum().backward();
  CHECK(x.grad().str() == "tensor([2., 2., 2., 2.])");
  x.zero_grad();
  ag::Tensor y = x * x;
  CHECK(error_of([&] { y.backward(); }) == "grad can be implicitly created only for scalar outputs");
  y.backward(ag::ones(4));
  CHECK(x.grad().str() == "tensor([0., 2., 4., 6.])");
  x.zero_grad(true);
  CHECK_FALSE(x.grad().defined());
  (x * x).sum().backward();
  CHECK(x.grad().str() == "tensor([0., 2., 4., 6.])");
}

TEST_CASE("detach cuts, and each side lives on") {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  ag::Tensor y = x * x, u = y.detach(), z = u * x;
  z.sum().backward();
  CHECK((x.grad() == u).all().item<bool>());
  x.zero_grad();
  y.sum().backward();
  CHECK((x.grad() == 2 * x).all().item<bool>());
  CHECK_FALSE(u.requires_grad());
}

TEST_CASE("Jacobian products twice") {
  ag::Tensor inp = ag::eye(4, 5).requires_grad_();
  ag::Tensor out = (inp + 1).pow(2).t();
  out.backward(ag::ones_like(out), true);
  CHECK(inp.grad().str() ==
        "tensor([[4., 2., 2., 2., 2.],\n        [2., 4., 2., 2., 2.],\n        [2., 2., 4., 2., 2.],\n"
        "        [2., 2., 2., 4., 2.]])");
  out.backward(ag::ones_like(out), true);
  CHECK(inp.grad()[0].str() == "tensor([8., 4., 4., 4., 4.])");
  inp.grad().zero_();
  out.backward(ag::ones_like(out), true);
  CHECK(inp.grad()[0].str() == "tensor([4., 2., 2., 2., 2.])");
}

TEST_CASE("the graph of functions has torch's names") {
  ag::Tensor x = ag::ones(5), y = ag::zeros(3);
  ag::Tensor w = ag::randn({5, 3}, ag::requires_grad()), b = ag::randn(3, ag::requires_grad());
  ag::Tensor z = ag::matmul(x, w) + b;
  ag::Tensor loss = ag::binary_cross_entropy_with_logits(z, y);
  CHECK(z.grad_fn()->name() == "AddBackward0");
  CHECK(loss.grad_fn()->name() == "BinaryCrossEntropyWithLogitsBackward0");
  CHECK(z.requires_grad());
  {
    ag::NoGradGuard guard;
    CHECK_FALSE((ag::matmul(x, w) + b).requires_grad());
  }
  CHECK_FALSE(z.detach().requires_grad());
  loss.backward();
  CHECK(w.grad().sizes() == std::vector<std::int64_t>{5, 3});

  ag::Tensor a = ag::tensor({2., 3.}, ag::requires_grad());
  ag::Tensor d = ((a * 3).sum() + 1).pow(2);
  std::string walk;
  for (auto f = d.grad_fn(); f; f = f->next_functions().empty() ? nullptr : f->next_functions()[0].function)
    walk += f->name() + " ";
  CHECK(walk == "PowBackward0 AddBackward0 SumBackward0 MulBackward0 AccumulateGrad ");
  auto leaf = d.grad_fn()->next_functions()[0].function->next_functions()[0].function->next_functions()[0].function;
  CHECK(leaf->next_functions()[0].function->variable().is_same(a));
}

TEST_CASE("errors and warnings in torch's words") {
  ag::Tensor x = ag::ones(3).requires_grad_();
  ag::Tensor y = (x * x).sum();
  y.backward();
  CHECK(error_of([&] { y.backward(); }).starts_with("Trying to backward through the graph a second time"));
  ag::Tensor s = x.sum();  // saves nothing, so it may run again
  s.backward();
  s.backward();
  CHECK(error_of([&] { x.add_(1); }) == "a leaf Variable that requires grad is being used in an in-place operation.");
  CHECK(!error_of([&] { ag::ones(1).backward(); }).empty());
  CHECK(!error_of([&] { ag::autograd::grad({(x * x).sum()}, {ag::ones(2).requires_grad_()}); }).empty());
  CHECK(!error_of([&] { x.item(); }).empty());
  CHECK(!error_of([&] { ag::ones({1}).expand(3).add_(1); }).empty());
  std::vector<std::string> warnings;
  ag::set_warning_handler([&](const std::string& w) { warnings.push_back(w); });
  ag::Tensor c = x * 2;
  CHECK_FALSE(c.grad().defined());
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].starts_with("The .grad attribute of a Tensor that is not a leaf Tensor is being accessed."));
  c.retain_grad();
  c.sum().backward();
  CHECK(c.grad().str() == "tensor([1., 1., 1.])");
  CHECK(warnings.size() == 1);
}

TEST_CASE("data-dependent C++ control flow") {
  auto f = [](ag::Tensor a) {
    ag::Tensor b = a * 2;
    while (b.norm() < 1000) b = b * 2;
    if (b.sum() > 0) return b;
    return 100 * b;
  };
  for (double v : {0.3, 4.7, -0.9, 0.001}) {
    ag::Tensor a = ag::tensor(v).requires_grad_();
    ag::Tensor d = f(a);
    d.backward();
    CHECK(a.grad().item() == Approx((d / a).item()).epsilon(1e-6));
  }
  const std::size_t compiled = ag::compilations();
  ag::Tensor a = ag::tensor(1e-6).requires_grad_();  // many more trips
  f(a).backward();
  CHECK(a.grad().item() > 1e8);
  CHECK(ag::compilations() == compiled);
}

TEST_CASE("second derivatives") {
  ag::Tensor x = ag::tensor({1., 2., 3.}, ag::requires_grad());
  ag::Tensor g = ag::autograd::grad({(x * x * x).sum()}, {x}, {}, {}, true)[0];
  CHECK(g.str() == "tensor([ 3., 12., 27.], grad_fn=<AddBackward0>)");
  g.sum().backward();
  CHECK(x.grad().str() == "tensor([ 6., 12., 18.])");
  auto third = ag::grad(ag::grad(ag::grad([](const ag::Tensor& t) { return t.pow(4); })));
  CHECK(third(ag::tensor(2.0)).item() == Approx(48));
}

TEST_CASE("functional forms") {
  auto f = [](const ag::Tensor& x) { return ag::sin(x) * x; };
  ag::Tensor x = ag::tensor({0.5, 1.0, 2.0});
  auto [y, t] = ag::jvp(f, x, ag::ones(3));
  auto [y2, back] = ag::vjp(ag::Function(f), x);
  CHECK(ag::allclose(y, y2));
  CHECK(ag::allclose(t, back(ag::ones(3))));
  CHECK(ag::allclose(t, ag::sin(x) + x * ag::cos(x)));
  ag::Tensor j = ag::jacobian(f, x);
  CHECK(j.sizes() == std::vector<std::int64_t>{3, 3});
  CHECK(ag::allclose(j, ag::diag(t)));
  auto g = [](const ag::Tensor& x) { return (x * x * x).sum(); };
  CHECK(ag::allclose(ag::hessian(g, x), ag::diag(6 * x)));
  CHECK(ag::allclose(ag::hvp(g, x, ag::ones(3)), 6 * x));
  CHECK_FALSE(t.requires_grad());
}

TEST_CASE("hooks") {
  ag::Tensor x = ag::ones(2).requires_grad_(), y = x * 3;
  std::string seen;
  y.register_hook([&](ag::Tensor g) { seen = g.str(); });
  unsigned id = x.register_hook([](ag::Tensor g) { return g * 10; });
  y.sum().backward(ag::Tensor(), true);
  CHECK(seen == "tensor([1., 1.])");
  CHECK(x.grad().str() == "tensor([30., 30.])");
  x.remove_hook(id);
  x.zero_grad(true);
  y.sum().backward();
  CHECK(x.grad().str() == "tensor([3., 3.])");
}

TEST_CASE("in-place changes and views") {
  ag::Tensor x = ag::zeros({2, 3});
  x[0] = 1.0;
  x[1][2] = 5.0;
  CHECK(x.str() == "tensor([[1., 1., 1.],\n        [0., 0., 5.]])");
  x.t()[0].mul_(3);
  CHECK(x.str() == "tensor([[3., 1., 1.],\n        [0., 0., 5.]])");
  ag::Tensor row = x[0];
  x.add_(1);
  CHECK(row.str() == "tensor([4., 2., 2.])");
  ag::Tensor w = ag::ones(3).requires_grad_(), y = w * 2;
  y[1] = 0.0;
  y.sum().backward();
  CHECK(w.grad().str() == "tensor([2., 0., 2.])");
  {
    ag::NoGradGuard guard;
    w -= 0.5 * w.grad();
  }
  CHECK(w.str() == "tensor([0., 1., 0.], requires_grad=True)");
}

TEST_CASE("checkpoint and custom derivatives") {
  ag::Tensor x = ag::tensor({0.1, 0.2}, ag::requires_grad());
  ag::Tensor y = ag::checkpoint([](const ag::Tensor& t) { return ag::tanh(ag::exp(t)); }, x);
  y.sum().backward();
  ag::Tensor got = x.grad().clone();
  x.zero_grad(true);
  ag::tanh(ag::exp(x)).sum().backward();
  CHECK(ag::allclose(got, x.grad()));
  auto twice = ag::custom_vjp([](const ag::Tensors& in) { return std::pair{ag::Tensors{in[0] * 2}, in}; },
                              [](const ag::Tensors&, const ag::Tensors& ct) { return ag::Tensors{ct[0] * 7}; });
  x.zero_grad(true);
  twice({x})[0].sum().backward();
  CHECK(x.grad().str() == "tensor([7., 7.])");
}

TEST_CASE("the tape") {
  ag::Tensor x = ag::arange(4.0);
  ag::GradientTape tape(true);
  tape.watch(x);
  ag::Tensor y = x * x;
  ag::Tensor u;
  {
    auto stopped = tape.stop_recording();
    u = x * x;
  }
  ag::Tensor z = u * x;
  CHECK(tape.gradient(y, x).str() == "tensor([0., 2., 4., 6.])");
  CHECK(tape.gradient(z, x).str() == "tensor([0., 1., 4., 9.])");
  CHECK_FALSE(tape.gradient(u, x).defined());
}

TEST_CASE("a training loop compiles once and does not grow") {
  ag::manual_seed(1);
  ag::Tensor w = ag::randn({4, 1}, ag::requires_grad()), x = ag::randn({8, 4}), t = ag::randn({8, 1});
  std::size_t after_some = 0;
  for (int step = 0; step < 200; ++step) {
    ag::Tensor loss = ag::mse_loss(x.mm(w), t);
    loss.backward();
    {
      ag::NoGradGuard guard;
      w -= (0.1 / (1 + step)) * w.grad();  // a changing number compiles nothing
      w.zero_grad();
    }
    if (step == 5) after_some = ag::compilations();
  }
  CHECK(std::isfinite(w.sum().item()));
  CHECK(ag::compilations() <= after_some + 1);  // the read at the end
}

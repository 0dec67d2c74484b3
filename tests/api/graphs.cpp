// Tracing, compiling and running graphs; control flow inside them.
#include <ag/ag.hpp>
#include <catch2/catch.hpp>
#include <thread>

TEST_CASE("trace, differentiate, compile, run") {
  ag::Graph g = ag::trace("two_dot", [](ag::Tensor x) { return 2.0f * ag::dot(x, x); }, ag::arg("x", ag::f32, {"N"}));
  CHECK(g.inputs()[0].str() == "x: f32[N]");
  CHECK(g.outputs()[0].str() == "y: f32[]");
  CHECK(g.str().find("graphs.cpp:7:") != std::string::npos);
  ag::Executable f = ag::compile(ag::value_and_grad(g, {.wrt = {"x"}}));
  std::vector<float> x{1, 2, 3}, dx(3);
  float y = 0;
  f.run({{"x", x}}, {{"y", y}, {"x_grad", dx}});
  CHECK(y == 28);
  CHECK(dx == std::vector<float>{4, 8, 12});
  auto call = f.bind({{"x", x}}, {{"y", y}, {"x_grad", dx}});
  x = {1, 1, 1};
  call();
  CHECK(y == 6);
  ag::Tensors out = f({ag::tensor({0., 1., 2., 3.})});
  CHECK(out[1].str() == "tensor([ 0.,  4.,  8., 12.])");
  CHECK_THROWS_AS(f.run({{"z", x}}, {{"y", y}}), ag::Error);
}

TEST_CASE("one executable, many threads") {
  ag::Graph g = ag::trace("f", [](ag::Tensor x) { return (ag::sin(x) * x).sum(); }, ag::arg("x", ag::f32, {"N"}));
  ag::Executable f = ag::compile(ag::value_and_grad(g), {.threads = 1});
  std::vector<std::thread> threads;
  std::vector<int> wrong(8);
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      std::vector<float> x(16, 0.1f * static_cast<float>(t)), dx(16);
      float y = 0, first = 0;
      for (int i = 0; i < 200; ++i) {
        f.run({{"x", x}}, {{"y", y}, {"x_grad", dx}});
        if (i == 0) first = y;
        if (y != first) ++wrong[static_cast<std::size_t>(t)];
      }
    });
  for (auto& t : threads) t.join();
  CHECK(wrong == std::vector<int>(8));
}

TEST_CASE("reading a value inside a trace") {
  try {
    ag::trace("f", [](ag::Tensor x) { return x.sum().item() > 0 ? x : -x; }, ag::arg("x", ag::f32, {"N"}));
    FAIL();
  } catch (const ag::Error& e) {
    CHECK(e.code() == "AG5403");
    CHECK(e.place().find("graphs.cpp:") != std::string::npos);
  }
}

TEST_CASE("compiled control flow") {
  auto f = [](ag::Tensor a) {
    ag::Tensor b = ag::while_loop([](const ag::Tensor& b) { return b.norm() < 1000; },
                                  [](const ag::Tensor& b) { return b * 2; }, a * 2);
    return ag::cond(b.sum() > 0, [&] { return b; }, [&] { return 100 * b; });
  };
  ag::Graph g = ag::trace("f", f, ag::arg("a", ag::f32));
  ag::Executable run = ag::compile(g);
  for (double v : {0.5, -0.5, 3.0}) {
    float a = static_cast<float>(v), y = 0;
    run.run({{"a", a}}, {{"y", y}});
    CHECK(y == f(ag::tensor(v)).item<float>());
  }
  // And differentiated, whatever the number of trips.
  ag::Executable both = ag::compile(ag::value_and_grad(g));
  for (double v : {0.5, -0.5, 3.0, 1e-3}) {
    float a = static_cast<float>(v), y = 0, da = 0;
    both.run({{"a", a}}, {{"y", y}, {"a_grad", da}});
    CHECK(da == Approx(y / a).epsilon(1e-6));
  }
}

TEST_CASE("loops and scans that capture tensors of the trace, differentiated inside it") {
  auto f = [](ag::Tensor x, ag::Tensor w) {
    auto out = ag::fori_loop(
        0, 3, [&](const ag::Tensor&, const ag::Tensors& s) { return ag::Tensors{ag::tanh(s[0] * w)}; }, {x});
    return out[0].sum();
  };
  ag::Graph g = ag::trace("f", f, ag::arg("x", ag::f32, {3}), ag::arg("w", ag::f32, {3}));
  ag::Tensor x = ag::tensor({0.3, -0.2, 0.9}).requires_grad_(), w = ag::tensor({1.5, 0.5, -1.}).requires_grad_();
  f(x, w).backward();
  ag::Tensors out = ag::compile(ag::value_and_grad(g))({x.detach(), w.detach()});
  CHECK(ag::allclose(out[1], x.grad()));
  CHECK(ag::allclose(out[2], w.grad()));

  // The whole of it traced: forward, backward() and the update as one graph.
  ag::Graph step = ag::trace(
      "step",
      [&](ag::Tensor x, ag::Tensor w) {
        w.requires_grad_();
        f(x, w).backward();
        return w.detach() - 0.1 * w.grad();
      },
      ag::arg("x", ag::f32, {3}), ag::arg("w", ag::f32, {3}));
  CHECK(ag::allclose(ag::compile(step)({x.detach(), w.detach()})[0], (w - 0.1 * w.grad()).detach()));

  ag::Graph s = ag::trace(
      "s",
      [](ag::Tensor x) {
        auto [last, all] = ag::scan([](const ag::Tensor& c, const ag::Tensor& e) { return std::pair{c + e, c * e}; },
                                    ag::zeros({}), x);
        return std::tuple{last, all};
      },
      ag::arg("x", ag::f32, {4}));
  ag::Tensors r = ag::compile(s)({ag::arange(4.)});
  CHECK(r[0].item() == 6);
  CHECK(r[1].str() == "tensor([0., 0., 2., 9.])");
}

TEST_CASE("vmap") {
  ag::Tensor w = ag::tensor({1., 2., 3.}).requires_grad_();
  auto f = ag::vmap([&](const ag::Tensor& x) { return ag::dot(x, w); });
  ag::Tensor x = ag::arange(6.).view({2, 3}), y = f(x);
  CHECK(ag::allclose(y, ag::mv(x, w)));
  y.sum().backward();
  CHECK(w.grad().str() == "tensor([3., 5., 7.])");
  const std::size_t compiled = ag::compilations();
  CHECK(ag::allclose(f(x + 1), ag::mv(x + 1, w)));
  f(x + 2).eval();
  CHECK(ag::compilations() <= compiled + 2);
}

TEST_CASE("optimisers take torch's steps") {
  auto after_five = [](auto make) {
    ag::Tensor w = ag::tensor({1., 2., 3.}, ag::requires_grad());
    auto optimizer = make({w});
    for (int i = 0; i < 5; ++i) {
      optimizer.zero_grad();
      (w * w * ag::tensor({1., -.5, .25})).sum().backward();
      optimizer.step();
    }
    return w.detach();
  };
  using P = std::vector<ag::Tensor>;
  using namespace ag::optim;
  auto near = [](const ag::Tensor& t, const ag::Data& want) { return ag::allclose(t, ag::tensor(want), 1e-5, 1e-6); };
  // torch 2.15, five steps of each.
  CHECK(near(after_five([](P p) {
               return SGD(p, SGDOptions{.lr = .1, .momentum = .9, .weight_decay = .1, .nesterov = true});
             }),
             {-0.420547, 6.319272, 0.639300}));
  CHECK(near(after_five([](P p) { return SGD(p, SGDOptions{.lr = .1, .momentum = .9, .dampening = .5}); }),
             {-0.285120, 3.976189, 1.795329}));
  CHECK(near(after_five([](P p) { return Adam(p, AdamOptions{.lr = .1, .weight_decay = .1}); }),
             {0.507964, 2.501559, 2.501780}));
  CHECK(near(after_five([](P p) { return AdamW(p, AdamOptions{.lr = .1, .weight_decay = .01}); }),
             {0.504080, 2.490557, 2.487869}));
}

TEST_CASE("batch normalisation learns its statistics, and stops in eval()") {
  ag::manual_seed(0);
  ag::nn::BatchNorm2d norm(2);
  ag::Tensor x = ag::randn({3, 2, 4, 4}) * 2 + 1;
  ag::Tensor y = norm(x);
  CHECK(ag::allclose(y.mean({0, 2, 3}), ag::zeros(2), 0, 1e-5));
  CHECK(ag::allclose(norm.running_mean, 0.1 * x.mean({0, 2, 3}), 1e-4, 1e-6));
  CHECK(ag::allclose(norm.running_var, 0.9 + 0.1 * x.var({0, 2, 3}), 1e-4, 1e-6));
  norm.eval();
  ag::Tensor before = norm.running_mean.clone();
  norm(x).eval();
  CHECK(ag::equal(before, norm.running_mean));
}

TEST_CASE("parameters to a file and back") {
  ag::nn::Sequential a(ag::nn::Linear(3, 4), ag::nn::ReLU(), ag::nn::Linear(4, 2)),
      b(ag::nn::Linear(3, 4), ag::nn::ReLU(), ag::nn::Linear(4, 2));
  const std::string path = AG_BINARY_DIR "/api_parameters.safetensors";
  ag::nn::save(a, path);
  ag::nn::load(b, path);
  ag::Tensor x = ag::randn({5, 3});
  CHECK(ag::equal(a(x), b(x)));
  CHECK(a.named_parameters()[2].first == "2.weight");
}

TEST_CASE("random numbers of a trace are drawn when it runs: from the generator, or under a key that is given") {
  auto f = [](const ag::Tensor& x) {
    ag::Tensor noise = ag::randn({4}) + ag::rand_like(x) * 10;
    return ag::dropout(x, 0.5) + noise + ag::randint(0, 100, {4}).to(ag::f32);
  };
  ag::Tensor x = ag::ones({4});
  ag::manual_seed(7);
  const ag::Tensor first = f(x).eval(), second = f(x).eval();
  CHECK_FALSE(ag::equal(first, second));
  ag::Graph g = ag::trace("noise", f, ag::arg("x", ag::f32, {4}));
  REQUIRE(g.inputs().size() == 2);
  CHECK(g.inputs()[1].str() == "rng: u64[]");
  ag::Executable e = ag::compile(g);
  ag::manual_seed(7);
  CHECK(ag::allclose(e({x})[0], first));
  CHECK(ag::allclose(e({x})[0], second));
  const ag::Tensor key = ag::tensor(std::vector<std::uint64_t>{12345}).reshape({});
  CHECK(ag::equal(e({x, key})[0], e({x, key})[0]));
  std::vector<float> in(4, 1), a(4), b(4);
  std::uint64_t number = 3;
  const std::string y = g.outputs()[0].name;
  auto bound = e.bind({{"x", in}}, {{y, a}});
  bound();
  b = a;
  bound();
  CHECK(a != b);
  e.run({{"x", in}, {"rng", number}}, {{y, a}});
  e.run({{"x", in}, {"rng", number}}, {{y, b}});
  CHECK(a == b);
}

TEST_CASE("random numbers in the body of a traced loop differ from trip to trip") {
  auto distinct = [](const ag::Tensor& v) {
    auto [s, places] = v.sort();
    return (s.slice(0, 1, 8) > s.slice(0, 0, 7)).all().item<bool>();
  };
  ag::Graph g = ag::trace(
      "noise",
      [](const ag::Tensor& x) {
        auto body = [](const ag::Tensor& i, const ag::Tensors& s) {
          return ag::Tensors{s[0].scatter(0, i.reshape({1}), ag::rand({1}))};
        };
        ag::Tensor drawn = ag::fori_loop(0, 8, body, {x})[0];
        auto [last, all] = ag::scan(
            [](const ag::Tensor& s, const ag::Tensor& e) { return std::pair{s + ag::rand({}), e + ag::rand({})}; },
            ag::zeros({}), x);
        return ag::Tensors{drawn, all};
      },
      ag::arg("x", ag::f32, {8}));
  auto out = ag::compile(g)({ag::zeros({8})});
  CHECK(distinct(out[0]));
  CHECK(distinct(out[1]));
}

TEST_CASE("sort, argsort and topk: values, places, gradients") {
  ag::Tensor x = ag::tensor({{3., 1., 2.}, {-1., 5., 4.}}).requires_grad_();
  auto [v, p] = x.sort();
  CHECK(ag::equal(v, ag::tensor({{1., 2., 3.}, {-1., 4., 5.}})));
  CHECK(ag::equal(p, ag::tensor({{1, 2, 0}, {0, 2, 1}})));
  CHECK(ag::equal(x.argsort(0, true), ag::tensor({{0, 1, 1}, {1, 0, 0}})));
  auto [top, where] = ag::topk(x, 2);
  CHECK(ag::equal(top, ag::tensor({{3., 2.}, {5., 4.}})));
  (top * ag::tensor({1., 10.})).sum().backward();
  CHECK(ag::equal(x.grad(), ag::tensor({{1., 0., 10.}, {0., 1., 10.}})));
  CHECK_THROWS_AS(x.topk(4), ag::Error);
}

TEST_CASE("backward inside a trace leaves no gradient of the trace behind") {
  ag::Tensor w = ag::tensor({1., 2.}).requires_grad_();
  (w * 3).sum().backward();
  ag::Graph g = ag::trace(
      "step",
      [&](const ag::Tensor& x) {
        w.zero_grad();
        (w * x).pow(2).sum().backward();
        (w * x).sum().backward();
        return w.grad();
      },
      ag::arg("x", ag::f32, {2}));
  CHECK(ag::equal(w.grad(), ag::tensor({3., 3.})));
  CHECK(ag::equal(ag::compile(g)({ag::tensor({2., 5.})})[0], ag::tensor({10., 105.})));
  ag::trace(
      "step",
      [&](const ag::Tensor& x) {
        (w * x).sum().backward();
        return w.grad() * 2;
      },
      ag::arg("x", ag::f32, {2}));
  CHECK(ag::equal(w.grad(), ag::tensor({3., 3.})));
}

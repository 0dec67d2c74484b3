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
}

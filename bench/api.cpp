// What a call of the C++ library costs: recorded lazily, through an Executable, bound. Best of several rounds.
#include <ag/ag.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>

namespace {

using Clock = std::chrono::steady_clock;

template <class F>
double micros(int calls, F f) {
  for (int i = 0; i < std::max(10, calls / 10); ++i) f();
  double best = 1e30;
  for (int round = 0; round < 7; ++round) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) f();
    best = std::min(best, std::chrono::duration<double, std::micro>(Clock::now() - start).count() / calls);
  }
  return best;
}

ag::Tensor f(ag::Tensor a) {
  ag::Tensor b = a * 2;
  while (b.norm() < 1000) b = b * 2;
  return b.sum() > 0 ? b : 100 * b;
}
ag::Tensor traced_f(ag::Tensor a) {
  ag::Tensor b = ag::while_loop([](const ag::Tensor& b) { return b.norm() < 1000; },
                                [](const ag::Tensor& b) { return b * 2; }, a * 2);
  return ag::cond(b.sum() > 0, [&] { return b; }, [&] { return 100 * b; });
}

void report(const char* what, double us) { std::printf("%-48s %9.3f us\n", what, us); }

}  // namespace

int main() {
  {
    const auto start = Clock::now();
    ag::Tensor x = ag::arange(4.0).requires_grad_();
    (2 * ag::dot(x, x)).backward();
    x.grad().eval();
    report("first lazy call, compilation included",
           std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    report("gradient of 2 dot(x,x), 4 elements, lazy", micros(20000, [&] {
             x.zero_grad(true);
             (2 * ag::dot(x, x)).backward();
             x.grad().eval();
           }));
  }
  {
    ag::Graph g = ag::trace("two_dot", [](ag::Tensor x) { return 2.0 * ag::dot(x, x); }, ag::arg("x", ag::f32, {4}));
    ag::Executable e = ag::compile(ag::value_and_grad(g));
    std::vector<float> x{0, 1, 2, 3}, dx(4);
    float y = 0;
    report("the same, Executable::run", micros(20000, [&] { e.run({{"x", x}}, {{"y", y}, {"x_grad", dx}}); }));
    auto call = e.bind({{"x", x}}, {{"y", y}, {"x_grad", dx}});
    report("the same, bound", micros(200000, [&] { call(); }));
  }
  {
    // One step of the benchmark `logreg`: value, gradients and the update as one program.
    auto step = [](ag::Tensor w, ag::Tensor b) {
      w.requires_grad_(), b.requires_grad_();
      ag::Tensor loss = ag::binary_cross_entropy_with_logits(ag::matmul(ag::ones(5), w) + b, ag::zeros(3));
      loss.backward();
      return std::tuple{loss.detach(), w.detach() - 0.01 * w.grad(), b.detach() - 0.01 * b.grad()};
    };
    ag::Executable e =
        ag::compile(ag::trace("logreg", step, ag::arg("w", ag::f32, {5, 3}), ag::arg("b", ag::f32, {3})));
    std::vector<float> w(15, 0.1f), b(3), w2(15), b2(3);
    float loss = 0;
    auto there = e.bind({{"w", w}, {"b", b}}, {{"y0", loss}, {"y1", w2}, {"y2", b2}});
    auto back = e.bind({{"w", w2}, {"b", b2}}, {{"y0", loss}, {"y1", w}, {"y2", b}});
    report("a step of logreg (5 -> 3), bound", micros(50000, [&] { there(), back(); }) / 2);
  }
  report("f(a) with C++ while and its gradient, lazy", micros(500, [] {
           ag::Tensor a = ag::tensor(0.37).requires_grad_();
           f(a).backward();
           a.grad().eval();
         }));
  try {
    ag::Executable e = ag::compile(ag::value_and_grad(ag::trace("f", traced_f, ag::arg("a", ag::f32))));
    float a = 0.37f, y = 0, da = 0;
    auto call = e.bind({{"a", a}}, {{"y", y}, {"a_grad", da}});
    report("the same, traced and bound", micros(20000, [&] { call(); }));
  } catch (const ag::Error& e) {
    std::printf("f(a) traced: %s\n", e.what());
  }
}

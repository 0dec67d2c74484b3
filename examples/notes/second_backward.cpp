// What a second backward and a second derivative need, and cost. Times go to the error stream: they are never the same.
#include <ag/ag.hpp>
#include <chrono>
#include <iostream>

template <class F>
double micros(F f, int times) {
  f();  // compiles
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) f();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / times;
}

int main() {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  ag::Tensor y = ag::dot(x, x * x);
  y.backward();
  try {
    y.backward();
  } catch (const ag::Error& e) {
    std::cout << std::string(e.what()).substr(0, 55) << '\n';
  }
  y = ag::dot(x, x * x);
  y.backward(ag::Tensor(), /*retain_graph=*/true);
  y.backward();
  std::cout << x.grad() << '\n';  // three times 3 x^2

  auto first = [&] { return ag::autograd::grad({ag::dot(x, x * x)}, {x})[0]; };
  auto second = [&] {
    ag::Tensor g = ag::autograd::grad({ag::dot(x, x * x)}, {x}, {}, {}, true)[0];
    return ag::autograd::grad({g.sum()}, {x})[0];
  };
  std::cout << first() << '\n' << second() << '\n';
  std::cerr << "first derivative " << micros([&] { first().eval(); }, 1000) << " us, second "
            << micros([&] { second().eval(); }, 1000) << " us\n";
}

// A result with several elements: through its sum, or with a seed.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  ag::Tensor y = x * x;
  y.sum().backward();
  std::cout << x.grad() << '\n';
  x.grad().zero_();
  y = x * x;
  y.backward(ag::ones(4));
  std::cout << x.grad() << '\n';
  try {
    (x * x).backward();
  } catch (const ag::Error& e) {
    std::cout << e.what() << '\n';
  }
}

// Gradients accumulate until they are zeroed.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  (2 * ag::dot(x, x)).backward();
  x.sum().backward();
  std::cout << x.grad() << '\n';  // the sum of both
  x.grad().zero_();
  ag::Tensor y = x.sum();
  y.backward();
  std::cout << x.grad() << '\n';
}

// The gradient of y = 2 x.x with respect to a column vector.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor x = ag::arange(4.0);
  std::cout << x << '\n';
  x.requires_grad_(true);
  std::cout << x.grad() << '\n';  // None so far
  ag::Tensor y = 2 * ag::dot(x, x);
  std::cout << y << '\n';
  y.backward();
  std::cout << x.grad() << '\n';
  std::cout << (x.grad() == 4 * x) << '\n';
}

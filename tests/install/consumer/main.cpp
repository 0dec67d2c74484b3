// A program of somebody else's: only installed headers, only ag::ag.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  (2 * ag::dot(x, x)).backward();
  std::cout << x.grad() << '\n';
  return x.grad()[3].item() == 12 ? 0 : 1;
}

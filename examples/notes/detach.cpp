// A part of the computation taken as constant; the other part is differentiated afterwards.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  ag::Tensor y = x * x;
  ag::Tensor u = y.detach();
  ag::Tensor z = u * x;
  z.sum().backward();
  std::cout << (x.grad() == u) << '\n';
  x.grad().zero_();
  y.sum().backward();
  std::cout << (x.grad() == 2 * x) << '\n';
}

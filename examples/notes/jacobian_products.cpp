// Products with the Jacobian: twice over a graph that is kept, then from zero again.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor inp = ag::eye(4, 5, ag::requires_grad());
  ag::Tensor out = (inp + 1).pow(2).t();
  out.backward(ag::ones_like(out), /*retain_graph=*/true);
  std::cout << "First call\n" << inp.grad() << '\n';
  out.backward(ag::ones_like(out), true);
  std::cout << "\nSecond call\n" << inp.grad() << '\n';
  inp.grad().zero_();
  out.backward(ag::ones_like(out), true);
  std::cout << "\nCall after zeroing gradients\n" << inp.grad() << '\n';
}

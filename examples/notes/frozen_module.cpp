// A module whose parameters are frozen, and a tensor that the result does not depend on.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::nn::Linear M(2, 2);
  M.eval();
  for (ag::Tensor& p : M.parameters()) {
    ag::NoGradGuard no_grad;
    p.fill_(1);
  }
  for (ag::Tensor& p : M.parameters()) p.requires_grad_(false);
  ag::set_warning_handler(
      [](const std::string& text) { std::cout << "UserWarning: " << text.substr(0, 70) << "...\n"; });

  ag::Tensor a = ag::tensor({1., 2.}, ag::requires_grad());
  ag::Tensor b = ag::tensor({1., 2.}, ag::requires_grad());
  ag::Tensor c = M(a);
  ag::Tensor c2 = M(b);  // not used below
  ag::Tensor d = c.sum();
  d.backward();
  std::cout << c << '\n' << a.grad() << '\n';
  std::cout << b.grad() << '\n';  // c2 is not part of d
  std::cout << c.grad() << '\n';  // not a leaf: none, and a warning
  for (ag::Tensor& p : M.parameters()) std::cout << p << ' ' << p.grad() << '\n';
}

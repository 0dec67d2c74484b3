// A network of one layer: names of gradient functions, and three ways not to track.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor x = ag::ones(5), y = ag::zeros(3);
  ag::Tensor w = ag::linspace(-1, 1, 15).view({5, 3}).clone().requires_grad_(true);
  ag::Tensor b = ag::zeros(3, ag::requires_grad());
  ag::Tensor z = ag::matmul(x, w) + b;
  ag::Tensor loss = ag::binary_cross_entropy_with_logits(z, y);
  std::cout << "Gradient function for z = " << z.grad_fn()->name() << '\n';
  std::cout << "Gradient function for loss = " << loss.grad_fn()->name() << '\n';
  loss.backward();
  std::cout << w.grad() << '\n' << b.grad() << '\n';

  z = ag::matmul(x, w) + b;
  std::cout << std::boolalpha << z.requires_grad() << '\n';
  {
    ag::NoGradGuard no_grad;
    z = ag::matmul(x, w) + b;
  }
  std::cout << z.requires_grad() << '\n';
  z = ag::matmul(x, w) + b;
  ag::Tensor z_det = z.detach();
  std::cout << z_det.requires_grad() << '\n';
}

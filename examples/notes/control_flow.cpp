// Gradients through a while and an if of C++: for a scalar, a vector and a matrix.
#include <ag/ag.hpp>
#include <iostream>

ag::Tensor f(ag::Tensor a) {
  ag::Tensor b = a * 2;
  while (b.norm() < 1000) {
    b = b * 2;
    std::cout << b << '\n';
  }
  if (b.sum() > 0) return b;
  return 100 * b;
}

int main() {
  for (ag::Tensor a : {ag::tensor(150.0), ag::tensor({-100., -60.}), ag::tensor({{120., 30.}, {-50., 80.}})}) {
    a.requires_grad_();
    ag::Tensor d = f(a);
    d.backward(ag::ones_like(d));
    std::cout << d << '\n' << a.grad() << '\n';
    // The branch that multiplies by 100 rounds: equal to a few units in the last place.
    std::cout << ag::allclose(a.grad(), d / a, 1e-6, 0) << '\n';
  }
}

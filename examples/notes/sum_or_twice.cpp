// The sum if it is positive, else twice the sum.
#include <ag/ag.hpp>
#include <iostream>

ag::Tensor f(ag::Tensor x) { return x.sum() > 0 ? x.sum() : 2 * x.sum(); }

int main() {
  for (ag::Tensor x : {ag::tensor({1., -1.}), ag::tensor({3., -1.})}) {
    x.requires_grad_();
    ag::Tensor y = f(x);
    y.backward();
    std::cout << y << ' ' << x.grad() << '\n';
  }
}

// A norm that decides a branch, and is differentiated in it.
#include <ag/ag.hpp>
#include <iostream>

ag::Tensor f(ag::Tensor x) {
  ag::Tensor n = x.norm();
  if (n > 5) return n * n;
  return 3 * n;
}

int main() {
  for (ag::Tensor x : {ag::tensor({3., 4.}), ag::tensor({6., 8.})}) {
    x.requires_grad_();
    ag::Tensor y = f(x);
    y.backward();
    std::cout << y << '\n' << x.grad() << '\n';
  }
}

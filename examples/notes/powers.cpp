// a^2 and a^3 at 100 .. 103, with first and second derivatives.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor a = ag::arange(100., 104.).requires_grad_();
  ag::Tensor squares = a.pow(2), cubes = a.pow(3);
  std::cout << squares << '\n' << cubes << '\n';
  std::cout << ag::autograd::grad({squares.sum()}, {a})[0] << '\n';
  ag::Tensor slope = ag::autograd::grad({cubes.sum()}, {a}, {}, {}, /*create_graph=*/true)[0];
  std::cout << slope.detach() << '\n';
  std::cout << ag::autograd::grad({slope.sum()}, {a})[0] << '\n';
}

// The graph of functions, walked from the result back to the leaf.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor a = ag::tensor({2., 3.}, ag::requires_grad());
  ag::Tensor b = a * 3;
  ag::Tensor c = b.sum();
  ag::Tensor d = c.pow(2);
  for (auto f = d.grad_fn(); f;) {
    std::cout << f->name() << '\n';
    auto next = f->next_functions();
    if (next.empty()) {
      std::cout << "leaf: " << f->variable() << '\n';
      break;
    }
    f = next[0].function;
  }
  d.backward();
  std::cout << a.grad() << '\n';
}

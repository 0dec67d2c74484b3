// Gradients in TensorFlow's manner: one persistent tape answers 200 times.
#include <ag/ag.hpp>
#include <iostream>

int main() {
  ag::Tensor x = ag::arange(4.0);
  {
    ag::GradientTape t;
    t.watch(x);
    ag::Tensor y = 2 * ag::dot(x, x);
    std::cout << t.gradient(y, x) << '\n';
  }
  ag::GradientTape tape(/*persistent=*/true);
  tape.watch(x);
  std::vector<ag::Tensor> ys;
  for (int k = 1; k <= 200; ++k) ys.push_back((x * x * k).sum());
  ag::Tensor total = ag::zeros(4);
  for (const ag::Tensor& y : ys) total = total + tape.gradient(y, x);
  std::cout << total << '\n';  // sum of 2 k x for k = 1 .. 200
  ag::Tensor u;
  {
    auto stopped = tape.stop_recording();
    u = x * x;
  }
  std::cout << tape.gradient(u, x) << ' ' << tape.gradient(u * x, x) << '\n';
}

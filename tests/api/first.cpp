#include <ag/ag.hpp>
#include <catch2/catch.hpp>

TEST_CASE("the gradient of 2 dot(x, x)") {
  ag::Tensor x = ag::arange(4.0).requires_grad_();
  CHECK(x.str() == "tensor([0., 1., 2., 3.], requires_grad=True)");
  CHECK_FALSE(x.grad().defined());
  ag::Tensor y = 2 * ag::dot(x, x);
  CHECK(y.str() == "tensor(28., grad_fn=<MulBackward0>)");
  y.backward();
  CHECK(x.grad().str() == "tensor([ 0.,  4.,  8., 12.])");
  CHECK((x.grad() == 4 * x).str() == "tensor([True, True, True, True])");
  x.grad().zero_();
  x.sum().backward();
  CHECK(x.grad().str() == "tensor([1., 1., 1., 1.])");
}

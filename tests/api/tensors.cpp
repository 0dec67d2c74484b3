// Tensors themselves: types, shapes, printing, indexing, random numbers.
#include <ag/ag.hpp>
#include <catch2/catch.hpp>

TEST_CASE("element types meet as in torch") {
  ag::Tensor i = ag::arange(3), f = ag::ones(3), d = ag::ones(3, ag::f64), b = ag::tensor({true, false, true});
  CHECK(i.dtype() == ag::i64);
  CHECK((i + f).dtype() == ag::f32);
  CHECK((f + 2.5).dtype() == ag::f32);
  CHECK((i + 2.5).dtype() == ag::f32);
  CHECK((i + 2).dtype() == ag::i64);
  CHECK((i / 2).dtype() == ag::f32);
  CHECK((f + d).dtype() == ag::f64);
  CHECK((f + d[0]).dtype() == ag::f32);  // no axes: does not widen
  CHECK((b + 1).dtype() == ag::i64);
  CHECK(b.sum().dtype() == ag::i64);
  CHECK((f > 0).dtype() == ag::boolean);
  CHECK(ag::tensor({1., 2.}).dtype() == ag::f32);
  CHECK(ag::full({2}, 7).dtype() == ag::i64);
  CHECK((f.to(ag::f16) + 1).dtype() == ag::f16);
}

TEST_CASE("printing") {
  CHECK(ag::Tensor().str() == "None");
  CHECK(ag::tensor(3).str() == "tensor(3)");
  CHECK(ag::ones({0}).str() == "tensor([])");
  CHECK(ag::ones({0, 3}).str() == "tensor([], size=(0, 3))");
  CHECK(ag::tensor({1.5, 1000000.}).str() == "tensor([1.5000e+00, 1.0000e+06])");
  CHECK(ag::ones(2, ag::f64).str() == "tensor([1., 1.], dtype=torch.float64)");
  CHECK(ag::tensor({true, false}).str() == "tensor([ True, False])");
  CHECK(ag::arange(2000).str() == "tensor([   0,    1,    2,  ..., 1997, 1998, 1999])");
  CHECK(ag::eye(2, ag::requires_grad()).str() == "tensor([[1., 0.],\n        [0., 1.]], requires_grad=True)");
  CHECK(ag::arange(30.).str() ==
        "tensor([ 0.,  1.,  2.,  3.,  4.,  5.,  6.,  7.,  8.,  9., 10., 11., 12., 13.,\n"
        "        14., 15., 16., 17., 18., 19., 20., 21., 22., 23., 24., 25., 26., 27.,\n"
        "        28., 29.])");
}

TEST_CASE("index assignment") {
  ag::Tensor x = ag::zeros({3, 3});
  x.index_put_({ag::Slice(), 1}, 5);
  x.index_put_({0, ag::Slice(1)}, ag::tensor({7., 8.}));
  x.index_put_({ag::tensor({2, 1}), ag::tensor({2, 0})}, ag::tensor({-1., -2.}));
  CHECK(x.str() == "tensor([[ 0.,  7.,  8.],\n        [-2.,  5.,  0.],\n        [ 0.,  5., -1.]])");
  x.masked_fill_(x > 4, 0);
  CHECK(x.sum().item() == -3);
  CHECK(ag::masked_select(x, x < 0).str() == "tensor([-2., -1.])");
  CHECK(ag::nonzero(x).str() == "tensor([[1, 0],\n        [2, 2]])");
}

TEST_CASE("random numbers come from the seed") {
  ag::manual_seed(3);
  ag::Tensor a = ag::randn({100}), b = ag::rand({100});
  ag::manual_seed(3);
  CHECK(ag::equal(a, ag::randn({100})));
  CHECK(ag::equal(b, ag::rand({100})));
  CHECK_FALSE(ag::equal(a, ag::randn({100})));
  CHECK(b.min().item() >= 0);
  CHECK(b.max().item() < 1);
  ag::Tensor p = ag::randperm(50);
  CHECK(p.sum().item<int>() == 49 * 25);
  ag::Tensor r = ag::randint(2, 5, {200});
  CHECK(r.min().item<int>() == 2);
  CHECK(r.max().item<int>() == 4);
}

TEST_CASE("what was seen is not compiled again, and why something was is told") {
  ag::clear_compiled();
  std::vector<std::string> why;
  ag::set_recompile_handler([&](const std::string& w) { why.push_back(w); });
  auto run = [](int n, double k) { return ((ag::ones(n) * k).exp() + 0.25).sum().item(); };
  const std::size_t before = ag::compilations();
  run(5, 2.0);
  run(5, 3.0);
  CHECK(ag::compilations() == before + 1);
  run(6, 3.0);
  CHECK(ag::compilations() == before + 2);
  REQUIRE(why.size() == 2);
  CHECK(why[1].find("an input f32[6] at ") != std::string::npos);
  CHECK(why[1].find("before, it was an input f32[5]") != std::string::npos);
  ag::set_recompile_handler({});
}

TEST_CASE("errors name their place in the program") {
  ag::Tensor a = ag::ones({2, 3}), b = ag::ones({4, 5});
  try {
    ag::mm(a, b);
    FAIL();
  } catch (const ag::Error& e) {
    CHECK(std::string(e.what()) == "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)");
    CHECK(e.place().find("tensors.cpp:") != std::string::npos);
    CHECK(e.code() == "AG2203");
  }
  CHECK_THROWS_AS(a + b, ag::Error);
  CHECK_THROWS_AS(a.view({7}), ag::Error);
  CHECK_THROWS_AS(a.data<double>(), ag::Error);
}

// Programs with control flow whose values and gradients torch gives (2.15, f64).
#include <ag/ag.hpp>
#include <catch2/catch.hpp>

using ag::Tensor;
using ag::Tensors;

namespace {

Tensor doubles(std::vector<double> v) { return ag::tensor(v).to(ag::f64); }
void close(const Tensor& got, const std::vector<double>& want) {
  CHECK(ag::allclose(got.flatten(0, -1), ag::tensor(want).to(ag::f64), 1e-6, 1e-8));
}

}  // namespace

TEST_CASE("programs: a while inside a while, both as long as the data says") {
  auto f = [](const Tensor& a) {
    return ag::while_loop([](const Tensor& b) { return b.norm().lt(100.0); },
                          [&](const Tensor& b) {
                            Tensor c = ag::while_loop([](const Tensor& c) { return c.abs().max().gt(8.0); },
                                                      [&](const Tensor& c) { return c * 0.5 + a.sin(); }, b * 1.5);
                            return b + c.exp().clamp(0, 5);
                          },
                          a)
        .sum();
  };
  const Tensor a = doubles({0.7, -1.3, 2.1});
  auto traced = ag::compile(ag::value_and_grad(ag::trace("f", f, ag::arg("a", ag::f64, {3}))))({a});
  close(traced[0], {151.850326836});
  close(traced[1], {5.28647667709, 3.11583940304, 1});
  auto [y, g] = ag::value_and_grad(f)(a);
  close(y, {151.850326836});
  close(g, {5.28647667709, 3.11583940304, 1});
}

TEST_CASE("programs: a scan inside a scan, with the state of the outer one captured") {
  auto f = [](const Tensor& x) {
    auto [s, ys] = ag::scan(
        [](const Tensor& s, const Tensor& row) {
          auto [t, zs] = ag::scan(
              [&](const Tensor& t, const Tensor& e) {
                Tensor n = ag::tanh(t + e * s);
                return std::pair{n, n * e};
              },
              s, row);
          return std::pair{t, zs.sum()};
        },
        ag::zeros({}, ag::f64) + 0.5, x);
    return s + ys.pow(2).sum();
  };
  const Tensor x = (ag::arange(12.0, ag::f64) * 0.4).sin().reshape({3, 4});
  const ag::Graph g = ag::value_and_grad(ag::trace("f", f, ag::arg("x", ag::f64, {3, 4})));
  for (std::int64_t limit : {0, 100000}) {
    auto r = ag::compile(g, {.memory_limit = limit})({x});
    close(r[0], {9.38618504736});
    close(r[1], {2.21112499736, 2.77686611157, 3.16629767595, 3.45492890329, 5.64120313121, 5.58755738571,
                 5.50560896613, 5.14799068933, 0.148901343628, -1.13807839019, -1.69994714502, -1.57756751603});
  }
}

TEST_CASE("programs: a while of each member of a batch, and its gradient") {
  auto f = [](const Tensor& x) {
    return ag::while_loop([](const Tensor& s) { return s.lt(100.0); }, [](const Tensor& s) { return s * 1.7 + 0.3; },
                          x);
  };
  auto g = ag::trace("f", [&](const Tensor& x) { return ag::vmap(f)(x).sum(); }, ag::arg("x", ag::f64, {4}));
  auto r = ag::compile(ag::value_and_grad(g))({doubles({1, 20, 300, 0.1})});
  close(r[0], {745.306686877});
  close(r[1], {118.587876497, 8.3521, 1, 201.599390045});
}

TEST_CASE("programs: weights of a recurrence under a memory limit; the trips follow from the data") {
  auto f = [](const Tensor& x, const Tensor& w) {
    return ag::while_loop([](const Tensors& s) { return s[1].lt(2000.0); },
                          [&](const Tensors& s) { return Tensors{ag::tanh(ag::mv(w, s[0]) + x), s[1] + 1}; },
                          Tensors{x, x.sum() * 0})[0]
        .sum();
  };
  const ag::Graph g =
      ag::value_and_grad(ag::trace("f", f, ag::arg("x", ag::f64, {64}), ag::arg("w", ag::f64, {64, 64})));
  const Tensor x = (ag::arange(64.0, ag::f64) * 0.3).sin(),
               w = (ag::arange(4096.0, ag::f64) * 0.7).sin().reshape({64, 64}) * 0.1;
  auto all = ag::compile(g)({x, w}), some = ag::compile(g, {.memory_limit = 1 << 19})({x, w});
  CHECK(ag::equal(all[1], some[1]));
  CHECK((all[2] - some[2]).abs().max().item<double>() < 1e-14 * all[2].abs().max().item<double>());
}

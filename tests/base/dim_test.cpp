#include <catch2/catch.hpp>
#include <random>

#include "ir/base/dim.hpp"

using namespace ag;
using Rng = std::mt19937_64;

namespace {

/// A random expression built twice: as a Dim and as plain arithmetic on the values of its symbols. The plain
/// side is nullopt where the expression has no value.
struct Random {
  Rng rng;
  DimEnv env;
  std::int64_t pick(std::int64_t lo, std::int64_t hi) { return std::uniform_int_distribution(lo, hi)(rng); }

  static std::int64_t floor_div(std::int64_t a, std::int64_t b) {
    std::int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
  }

  std::pair<Dim, std::optional<std::int64_t>> make(int depth) {
    std::int64_t kind = depth == 0 ? pick(0, 1) : pick(0, 9);
    if (kind == 0) {
      std::int64_t c = pick(-6, 12);
      return {Dim(c), c};
    }
    if (kind == 1) {
      const char* names[] = {"N", "M", "batch size", "K.0"};
      std::string name = names[pick(0, 3)];
      return {Dim::symbol(name), env.at(name)};
    }
    auto [a, x] = make(depth - 1);
    auto [b, y] = pick(0, 4) == 0 ? std::pair{a, x} : make(depth - 1);
    Dim d;
    std::optional<std::int64_t> v;
    bool both = x && y;
    switch (kind) {
      case 2:
      case 3:
        d = a + b;
        if (both) v = *x + *y;
        break;
      case 4:
        d = a - b;
        if (both) v = *x - *y;
        break;
      case 5:
        d = a * b;
        if (both) v = *x * *y;
        break;
      case 6:
        d = floordiv(a, b);
        if (both && *y != 0) v = floor_div(*x, *y);
        break;
      case 7:
        d = mod(a, b);
        if (both && *y != 0) v = *x - *y * floor_div(*x, *y);
        break;
      case 8: {
        bool lower = pick(0, 1);
        d = lower ? min(a, b) : max(a, b);
        if (both) v = lower ? std::min(*x, *y) : std::max(*x, *y);
        break;
      }
      default:
        d = Dim::bcast(a, b);
        if (both && (*x == *y || *y == 1))
          v = x;
        else if (both && *x == 1)
          v = y;
    }
    return {d, v};
  }
};

}  // namespace

TEST_CASE("Dim algebra keeps the value of random expressions") {
  int with_value = 0;
  for (std::uint64_t seed = 0; seed < 40000; ++seed) {
    Random r{Rng(seed), {}};
    for (const char* name : {"N", "M", "batch size", "K.0"}) r.env[name] = r.pick(-2, 9);
    auto [d, v] = r.make(static_cast<int>(r.pick(1, 4)));
    INFO("seed " << seed << ": " << d.str());
    if (v) {
      ++with_value;
      REQUIRE(d.eval(r.env) == v);
      std::map<std::string, Dim, std::less<>> bind;
      for (auto& [name, value] : r.env) bind.emplace(name, Dim(value));
      Dim s = d.substitute(bind);
      REQUIRE(s.valid());
      REQUIRE(s.is(*v));
    }
    if (!d.valid()) continue;
    auto again = Dim::parse(d.str());
    REQUIRE(again);
    REQUIRE(*again == d);
    REQUIRE(again->hash() == d.hash());
    REQUIRE(d.substitute({}) == d);
    REQUIRE(d - d == Dim(0));
    REQUIRE_FALSE(d < *again);
  }
  REQUIRE(with_value > 20000);
}

TEST_CASE("Dim canonical forms") {
  Dim n = Dim::symbol("N"), m = Dim::symbol("M"), k = Dim::symbol("k");
  auto text = [](const Dim& d) { return d.str(); };
  CHECK(text(n * 2 + 1) == "2*N + 1");
  CHECK(text(1 - n) == "-N + 1");
  CHECK(text((n + 1) * (n - 1)) == "N*N - 1");
  CHECK(text(n * m - m * n) == "0");
  CHECK(text(floordiv(k * n, k)) == "N");
  CHECK(text(floordiv(4 * n + 4, Dim(4))) == "N + 1");
  CHECK(text(floordiv(n * m + m, n + 1)) == "M");
  CHECK(text(floordiv(n + 2 - 3, Dim(2)) + 1) == "floordiv(N + 1, 2)");  // a convolution of stride 2
  CHECK(text(floordiv(floordiv(n, Dim(2)), Dim(3))) == "floordiv(N, 6)");
  CHECK(text(mod(4 * n + 6, Dim(4))) == "2");
  CHECK(text(mod(2 * n + 1, Dim(4))) == "2*mod(N, 2) + 1");
  CHECK(text(mod(mod(n, Dim(8)), Dim(4))) == "mod(N, 4)");
  CHECK(text(min(n, n + 1)) == "N");
  CHECK(text(max(n, max(m, n))) == text(max(m, n)));
  CHECK(text(min(n, m)) == text(min(m, n)));
  CHECK(text(Dim::bcast(n, 1)) == "N");
  CHECK(text(Dim::bcast(n, n)) == "N");
  CHECK(text(Dim::bcast(Dim::bcast(n, m), n)) == text(Dim::bcast(m, n)));
  CHECK(text(ceildiv(n, Dim(16))) == "floordiv(N + 15, 16)");
  CHECK(text(product({n, Dim(3), m})) == text(3 * m * n));
  CHECK(*n.as_symbol() == "N");
  CHECK_FALSE((2 * n).as_symbol());
  std::set<std::string> names;
  floordiv(n + m, k).collect_symbols(names);
  CHECK(names == std::set<std::string>{"N", "M", "k"});
}

TEST_CASE("Dim overflow and size poison, and never crash") {
  Dim n = Dim::symbol("N");
  CHECK_FALSE((Dim(INT64_MAX) + 1).valid());
  CHECK_FALSE((Dim(INT64_MIN) - 1).valid());
  CHECK_FALSE((n * INT64_MAX * 2).valid());
  CHECK_FALSE(floordiv(Dim(INT64_MIN), Dim(-1)).valid());
  CHECK_FALSE(floordiv(n, Dim(0)).valid());
  CHECK_FALSE(mod(n, Dim(0)).valid());
  CHECK_FALSE(Dim::bcast(Dim(3), Dim(4)).valid());
  CHECK_FALSE((Dim::invalid() * 0).valid());
  CHECK(min(Dim(INT64_MIN), Dim(INT64_MAX)).is(INT64_MIN));
  CHECK_FALSE((n * n).eval({{"N", INT64_MAX}}));
  CHECK_FALSE(n.eval({}));
  CHECK_FALSE(Dim::bcast(n, 3).eval({{"N", 2}}));
  CHECK(Dim::bcast(n, 3).eval({{"N", 1}}) == 3);

  for (Dim d : {Dim(INT64_MIN), n + INT64_MIN, n * INT64_MIN, Dim::symbol("floordiv"), Dim::symbol("a\"\\\n\x01"),
                Dim::symbol("")}) {
    auto again = Dim::parse(d.str());
    INFO(d.str());
    REQUIRE(again);
    CHECK(*again == d);
  }

  // A DAG whose tree has 2^200 leaves.
  Dim d = n;
  for (int i = 0; i < 200; ++i) d = floordiv(d * d + 1, d + 3);
  CHECK_FALSE(d.valid());
  d = n + 1;
  for (int i = 0; i < 30; ++i) d = d * (d + Dim::symbol("s" + std::to_string(i)));
  CHECK_FALSE(d.valid());
}

TEST_CASE("Dim::parse refuses what is not an expression") {
  for (const char* bad : {"", "+", "N +", "2N", "N M", "floordiv(N)", "floordiv(N, 2", "mod(N, 0)",
                          "9223372036854775808", "\"open", "\"\\q\"", "N)", "1e3", "<invalid>", "floordiv", "- - N"}) {
    INFO(bad);
    CHECK_FALSE(Dim::parse(bad));
  }
  std::string deep = std::string(100000, '(') + "N" + std::string(100000, ')');
  CHECK_FALSE(Dim::parse(deep));
  CHECK(Dim::parse(" ( N+1 ) * 2 + 1*-3 ").value_or(0) == 2 * Dim::symbol("N") - 1);
}

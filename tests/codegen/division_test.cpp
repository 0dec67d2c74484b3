// Quotients and remainders by constants: lanes must not be taken apart for them, indices cost no division, and every
// bit must be right.
#include <catch2/catch.hpp>
#include <limits>

#include "harness.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;

namespace {

constexpr DType integers[] = {DType::i64, DType::i32, DType::i16, DType::u64, DType::u32};

std::vector<std::int64_t> divisors() {
  using L = std::numeric_limits<std::int64_t>;
  return {1,  -1,  0,   2,       3,       5,        7,        -3,           -7,          10,
          64, -64, 641, 1000003, 6700417, L::max(), L::min(), L::max() - 1, L::min() + 1};
}

}  // namespace

TEST_CASE("single integers are divided by constants") {
  constexpr std::int64_t size = 960;
  for (DType t : integers)
    for (std::int64_t d : divisors()) {
      Builder b("k0");
      BufferId x = b.param(t, size, Access::read);
      BufferId quotient = b.param(t, size, Access::write), rest = b.param(t, size, Access::write);
      b.for_each(b.index(size), {.mapping = Mapping::tile}, [&](ValueId i) {
        ValueId v = b.load(x, i), c = b.constant_int(t, d);
        b.store(quotient, i, b.op(Op::div, {v, c}));
        b.store(rest, i, b.op(Op::rem, {v, c}));
      });
      b.kernel().tiles = size;
      Kernel k = std::move(b).finish();
      INFO(dtype_name(t) << " by " << d);
      const Bytes out(static_cast<std::size_t>(size) * dtype_bytes(t) + 64);
      for (std::uint64_t seed : {0, 1}) CHECK(compare(k, {sample(t, size, seed), out, out}) == "");
    }
}

TEST_CASE("vectors of integers are divided by constants") {
  constexpr std::int64_t tiles = 60, lanes = 16;
  for (DType t : integers)
    for (std::int64_t d : divisors()) {
      Builder b("k0");
      BufferId x = b.param(t, tiles * lanes, Access::read);
      BufferId quotient = b.param(t, tiles * lanes, Access::write), rest = b.param(t, tiles * lanes, Access::write);
      b.for_each(b.index(tiles), {.mapping = Mapping::tile}, [&](ValueId i) {
        ValueId base = b.mul(i, b.index(lanes)), zero = b.index(0), one = b.index(1);
        ValueId v = b.load_tile(x, {t, 1, lanes}, base, zero, one), c = b.constant_int(t, d);
        b.store_tile(quotient, base, zero, one, b.op(Op::div, {v, c}));
        b.store_tile(rest, base, zero, one, b.op(Op::rem, {v, c}));
      });
      b.kernel().tiles = tiles;
      Kernel k = std::move(b).finish();
      INFO(dtype_name(t) << " by " << d);
      const auto size = static_cast<std::size_t>(tiles * lanes);
      const Bytes out(size * dtype_bytes(t) + 64);
      for (std::uint64_t seed : {0, 1}) CHECK(compare(k, {sample(t, size, seed), out, out}) == "");
    }
}

// Elementary functions: what the interpreter computes for the statement, emitted code computes for its expansion.
#include <catch2/catch.hpp>

#include "harness.hpp"
#include "passes/expand_math.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;

TEST_CASE("expanded elementary functions have the interpreter's bits") {
  constexpr std::int64_t tiles = 100;
  for (int o = 0; o <= static_cast<int>(Op::trap); ++o) {
    Op op = static_cast<Op>(o);
    if (describe(op).cls != OpClass::math) continue;
    // 16 lanes are whole vectors; 11 and 1 what tails and scalars are made of.
    for (auto [t, lanes] : {std::pair{DType::f64, 16},
                            {DType::f64, 11},
                            {DType::f32, 16},
                            {DType::f32, 11},
                            {DType::f32, 1},
                            {DType::f16, 16},
                            {DType::bf16, 16}}) {
      Builder b("k0");
      BufferId x = b.param(t, tiles * lanes, Access::read), y = b.param(t, tiles * lanes, Access::read);
      BufferId out = b.param(t, tiles * lanes, Access::write);
      b.for_each(b.index(tiles), {.mapping = Mapping::tile}, [&](ValueId i) {
        ValueId base = b.mul(i, b.index(lanes)), zero = b.index(0), one = b.index(1);
        VType type{t, 1, static_cast<std::uint16_t>(lanes)};
        std::vector<ValueId> args{b.load_tile(x, type, base, zero, one)};
        if (describe(op).operands == 2) args.push_back(b.load_tile(y, type, base, zero, one));
        b.store_tile(out, base, zero, one, b.op(op, args));
      });
      b.kernel().tiles = tiles;
      Kernel k = expand_math(std::move(b).finish());
      INFO(describe(op).name << " " << dtype_name(t) << " " << lanes);
      auto size = static_cast<std::size_t>(tiles * lanes);
      for (std::uint64_t seed : {0, 2})  // special values and random bits; moderate numbers in f32
        CHECK(compare(k, {sample(t, size, seed), sample(t, size, seed + 3), Bytes(size * dtype_bytes(t) + 64)}) == "");
    }
  }
}

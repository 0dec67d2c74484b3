// Elementary functions: what the interpreter computes for the statement, emitted code computes for its expansion.
#include <catch2/catch.hpp>

#include <cstring>

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

// Of four registers of f32 one is given to the multipliers. A tile holds the same 16 numbers four times, so that each
// goes through all registers.
TEST_CASE("square roots of four registers are rounded as those of one, whatever computes them") {
  std::vector<std::uint32_t> bits;
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent)
    for (std::uint32_t mantissa : {0u, 1u, 2u, 3u, 0x3fffffu, 0x400000u, 0x7ffffdu, 0x7ffffeu, 0x7fffffu})
      for (std::uint32_t sign : {0u, 1u}) bits.push_back(sign << 31 | exponent << 23 | mantissa);
  for (std::uint32_t shift = 0; shift < 23; ++shift) bits.push_back(1u << shift);  // subnormals
  for (std::uint64_t b = 0; b < 0x7f800000; b += 16411) bits.push_back(static_cast<std::uint32_t>(b));
  bits.resize((bits.size() + 15) / 16 * 16, 0x3f800000);
  const auto tiles = static_cast<std::int64_t>(bits.size() / 16);
  Bytes in(bits.size() * 4 * 4);
  for (std::size_t i = 0; i < bits.size(); ++i)
    for (std::size_t part = 0; part < 4; ++part) std::memcpy(&in[4 * (i / 16 * 64 + part * 16 + i % 16)], &bits[i], 4);
  Builder b("k0");
  BufferId x = b.param(DType::f32, tiles * 64, Access::read), out = b.param(DType::f32, tiles * 64, Access::write);
  b.for_each(b.index(tiles), {.mapping = Mapping::tile}, [&](ValueId i) {
    ValueId base = b.mul(i, b.index(64)), zero = b.index(0), one = b.index(1);
    b.store_tile(out, base, zero, one, b.op(Op::sqrt, {b.load_tile(x, {DType::f32, 1, 64}, base, zero, one)}));
  });
  b.kernel().tiles = tiles;
  CHECK(compare(std::move(b).finish(), {in, Bytes(in.size() + 64)}) == "");
}

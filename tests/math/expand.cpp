// The expansion of every math statement, run by the interpreter, against the scalar form, bit for bit.
#include <catch2/catch.hpp>

#include "ir/loop/builder.hpp"
#include "ir/loop/interp.hpp"
#include "ir/loop/math.hpp"
#include "passes/expand_math.hpp"
#include "tests/math/reference.hpp"

using namespace ag;
using namespace ag::loop;

namespace {

/// y[r, l] = op(x[r, l] (, z[r, l])) on one tile.
Kernel tile_kernel(Op op, VType t) {
  Builder b("math");
  const Dim n = t.count();
  BufferId x = b.param(t.elem, n, Access::read), z = b.param(t.elem, n, Access::read);
  BufferId y = b.param(t.elem, n, Access::write);
  ValueId zero = b.index(0), one = b.index(1), row = b.index(t.lanes);
  ValueId v = b.load_tile(x, t, zero, row, one), w = b.load_tile(z, t, zero, row, one);
  ValueId r = describe(op).operands == 2 ? b.op(op, {v, w}) : b.op(op, {v});
  b.store_tile(y, zero, row, one, r);
  return std::move(b).finish();
}

std::vector<Op> math_ops() {
  std::vector<Op> out;
#define AG_LOOP_OP(name, operands, cls) \
  if (OpClass::cls == OpClass::math) out.push_back(Op::name);
#include "ir/loop/ops.def"
#undef AG_LOOP_OP
  return out;
}

/// Bit patterns of elements: spread over all of them, with zeros, ones, infinities and NaN.
std::vector<std::uint64_t> patterns(DType t, std::size_t count) {
  const int bits = static_cast<int>(dtype_bytes(t)) * 8;
  std::vector<std::uint64_t> out;
  for (double d : {0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.75, HUGE_VAL, -HUGE_VAL, std::nan(""), 30.0, -30.0, 3.0, 1e-6,
                   700.0, -104.0})
    out.push_back(constant_bits(t, d));
  std::uint64_t state = 42;
  while (out.size() < count) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    std::uint64_t u = bits == 64 ? state : state & ((std::uint64_t{1} << bits) - 1);
    // Two thirds near 1, where functions have their curves; random patterns are mostly huge or tiny.
    if (out.size() % 3)
      u = constant_bits(
          t, std::ldexp(bits_to_double(t, constant_bits(t, double(state % 20001) - 10000)), -int(state % 16)));
    out.push_back(u);
  }
  return out;
}

std::vector<std::uint8_t> pack(DType t, const std::vector<std::uint64_t>& bits, std::size_t from, std::size_t n) {
  std::vector<std::uint8_t> out(n * dtype_bytes(t));
  for (std::size_t i = 0; i < n; ++i)
    std::memcpy(out.data() + i * dtype_bytes(t), &bits[(from + i) % bits.size()], dtype_bytes(t));
  return out;
}

void run(const Kernel& k, std::vector<std::uint8_t>& x, std::vector<std::uint8_t>& z, std::vector<std::uint8_t>& y,
         std::int64_t n) {
  BufferView views[] = {{x.data(), n}, {z.data(), n}, {y.data(), n}};
  auto r = interpret(k, views, {});
  REQUIRE(r.has_value());
}

}  // namespace

TEST_CASE("expansions of math statements give the bits of the scalar functions") {
  for (Op op : math_ops())
    for (DType t : {DType::f64, DType::f32, DType::f16, DType::bf16})
      for (auto [rows, lanes] : {std::pair{1, 1}, std::pair{1, 64}, std::pair{5, 16}}) {
        CAPTURE(describe(op).name, dtype_name(t), rows, lanes);
        VType vt{t, static_cast<std::uint16_t>(rows), static_cast<std::uint16_t>(lanes)};
        Kernel k = tile_kernel(op, vt), expanded = expand_math(k);
        REQUIRE(verify(expanded).has_value());
        for (StmtId s : expanded.blocks[expanded.top()].stmts)
          REQUIRE(describe(expanded.stmts[s].op).cls != OpClass::math);
        auto bits = patterns(t, 640);
        const auto n = static_cast<std::size_t>(vt.count());
        std::size_t different = 0;
        for (std::size_t from = 0; from + n <= (n == 1 ? 64 : bits.size()); from += n) {
          auto x = pack(t, bits, from, n), z = pack(t, bits, from * 7 + 3, n);
          std::vector<std::uint8_t> y(x.size()), want(x.size()), direct(x.size());
          run(expanded, x, z, y, vt.count());
          run(k, x, z, direct, vt.count());
          math_fn(op, t)({want.data(), {x.data(), z.data()}, {1, 1}, static_cast<std::ptrdiff_t>(n)});
          for (std::size_t i = 0; i < n; ++i) {
            std::uint64_t a = 0, b = 0;
            std::memcpy(&a, y.data() + i * dtype_bytes(t), dtype_bytes(t));
            std::memcpy(&b, want.data() + i * dtype_bytes(t), dtype_bytes(t));
            bool nans = std::isnan(bits_to_double(t, a)) && std::isnan(bits_to_double(t, b));
            different += a != b && !nans;
          }
          REQUIRE(direct == want);
        }
        CHECK(different == 0);
      }
}

TEST_CASE("two equal functions in one block are expanded once, and uses in other blocks follow") {
  Builder b("twice");
  BufferId y = b.param(DType::f32, 8, Access::read_write);
  ValueId outer = b.op(Op::tanh, {b.load(y, b.index(0))});
  b.for_each(b.index(8), {}, [&](ValueId i) {
    ValueId v = b.op(Op::exp, {outer});
    b.store(y, i, b.op(Op::add, {v, b.op(Op::tanh, {b.load(y, i)})}));
  });
  Kernel k = std::move(b).finish();
  Kernel e = expand_math(k);
  REQUIRE(verify(e).has_value());
  std::vector<float> p(8, 0.5f), q = p;
  BufferView vp{p.data(), 8}, vq{q.data(), 8};
  REQUIRE(interpret(k, {&vp, 1}, {}).has_value());
  REQUIRE(interpret(e, {&vq, 1}, {}).has_value());
  CHECK(p == q);
  CHECK(p[0] != 0.5f);
}

// Control flow, tiles and memory of the loop interpreter against plain C++.
#include <catch2/catch.hpp>
#include <cmath>

#include "ir/loop/builder.hpp"
#include "ir/loop/interp.hpp"
#include "tests/interp/run.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;
using Values = Builder::Values;

TEST_CASE("a loop that yields its arguments in another order swaps them at once") {
  Builder b("fibonacci");
  BufferId y = b.param(DType::i64, 2, Access::write);
  auto r = b.for_(b.index(0), b.index(10), b.index(1), {}, {b.index(0), b.index(1)},
                  [&](ValueId, const Values& c) { return Values{c[1], b.add(c[0], c[1])}; });
  b.store(y, b.index(0), r[0]);
  b.store(y, b.index(1), r[1]);
  Kernel k = std::move(b).finish();
  std::vector<std::int64_t> out(2);
  REQUIRE(run(k, out) == "");
  CHECK(out == std::vector<std::int64_t>{55, 89});
}

TEST_CASE("a while loop carries values from its condition to its body and out") {
  Builder b("collatz");
  BufferId x = b.param(DType::i64, 8, Access::read), y = b.param(DType::i64, 8, Access::write);
  b.for_each(b.index(8), {.mapping = Mapping::parallel}, [&](ValueId i) {
    auto r = b.while_(
        {b.load(x, i), b.index(0)}, [&](const Values& c) { return std::pair{b.op(Op::cmp_ne, {c[0], b.index(1)}), c}; },
        [&](const Values& c) {
          ValueId odd = b.op(Op::cmp_ne, {b.op(Op::and_, {c[0], b.index(1)}), b.index(0)});
          auto next = b.if_(
              odd, [&] { return Values{b.add(b.mul(c[0], b.index(3)), b.index(1))}; },
              [&] { return Values{b.op(Op::div, {c[0], b.index(2)})}; });
          return Values{next[0], b.add(c[1], b.index(1))};
        });
    b.store(y, i, r[1]);
  });
  Kernel k = std::move(b).finish();
  std::vector<std::int64_t> in{1, 2, 3, 6, 7, 9, 27, 97}, out(8);
  REQUIRE(run(k, in, out) == "");
  CHECK(out == std::vector<std::int64_t>{0, 1, 7, 8, 16, 19, 111, 118});
  // The same as one thread of a block each: lockstep execution with masks must agree.
  for (Stmt& s : k.stmts)
    if (s.op == Op::for_) s.attr.mapping = Mapping::block_x;
  for (std::uint32_t threads : {1u, 3u, 8u, 32u}) {
    k.block = {threads, 1, 1};
    std::vector<std::int64_t> lockstep(8);
    REQUIRE(run(k, in, lockstep) == "");
    CHECK(lockstep == out);
  }
}

TEST_CASE("loops begin, step and end as stated, also at the edges of i64") {
  Builder b("bounds");
  BufferId p = b.param(DType::i64, 4, Access::read), y = b.param(DType::i64, 2, Access::write);
  auto at = [&](int i) { return b.load(p, b.index(i)); };
  auto r = b.for_(at(0), at(1), at(2), {}, {b.index(0), b.index(-1)},
                  [&](ValueId iv, const Values& c) { return Values{b.add(c[0], b.index(1)), iv}; });
  b.store(y, b.index(0), r[0]);
  b.store(y, b.index(1), r[1]);
  Kernel k = std::move(b).finish();
  auto trips = [&](std::int64_t lo, std::int64_t hi, std::int64_t step) {
    std::vector<std::int64_t> in{lo, hi, step, 0}, out(2);
    return run(k, in, out) == "" ? out : std::vector<std::int64_t>{};
  };
  const std::int64_t top = std::numeric_limits<std::int64_t>::max(), bottom = std::numeric_limits<std::int64_t>::min();
  CHECK(trips(0, 10, 3) == std::vector<std::int64_t>{4, 9});
  CHECK(trips(5, 5, 1) == std::vector<std::int64_t>{0, -1});
  CHECK(trips(7, 5, 1) == std::vector<std::int64_t>{0, -1});
  CHECK(trips(top - 5, top, 4) == std::vector<std::int64_t>{2, top - 1});
  CHECK(trips(bottom, top, top) == std::vector<std::int64_t>{3, top - 1});
  CHECK(trips(0, 10, 0).empty());
  CHECK(trips(0, 10, -1).empty());
}

TEST_CASE("tile operations combine in the stated order") {
  constexpr int rows = 3, lanes = 8;
  std::vector<float> x(rows * lanes), out(64);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = std::ldexp(1.0f + static_cast<float>(i) * 0x1.234567p-5f, static_cast<int>(i * 7 % 40) - 20);
  Builder b("tiles");
  BufferId px = b.param(DType::f32, rows * lanes, Access::read), py = b.param(DType::f32, 64, Access::write);
  ValueId zero = b.index(0), one = b.index(1);
  VType t{DType::f32, rows, lanes};
  ValueId v = b.load_tile(px, t, zero, b.index(lanes), one);
  b.store_tile(py, zero, one, zero, b.reduce_lanes(ReduceKind::sum, v));
  b.store_tile(py, b.index(8), zero, one, b.reduce_rows(ReduceKind::sum, v));
  // Rows 0 and 1 of the transpose, through strides: element (r, l) of the tile is at r + l * rows.
  b.store_tile(py, b.index(24), one, b.index(rows), v);
  ValueId mask =
      b.op(Op::cmp_lt, {b.broadcast(b.lane_iota(DType::i32, lanes), rows, lanes), b.constant_int(DType::i32, 2)});
  ValueId masked = b.load_tile(px, t, zero, b.index(lanes), one, mask);
  b.store_tile(py, b.index(16), zero, one, b.reduce_rows(ReduceKind::max, masked));
  Kernel k = std::move(b).finish();
  REQUIRE(run(k, x, out) == "");
  for (int r = 0; r < rows; ++r) {
    const float* p = &x[static_cast<std::size_t>(r * lanes)];
    CHECK(out[static_cast<std::size_t>(r)] == ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7])));
  }
  for (std::size_t l = 0; l < lanes; ++l) {
    CHECK(out[8 + l] == (x[l] + x[lanes + l]) + x[2 * lanes + l]);
    CHECK(out[16 + l] == (l < 2 ? std::max({x[l], x[lanes + l], x[2 * lanes + l]}) : 0.0f));
    for (std::size_t r = 0; r < rows; ++r) CHECK(out[24 + l * rows + r] == x[r * lanes + l]);
  }
}

TEST_CASE("contract adds products in ascending order, one fma each") {
  constexpr int m = 2, n = 4, depth = 5;
  Builder b("contract");
  BufferId pa = b.param(DType::f32, m * depth, Access::read), pb = b.param(DType::f32, depth * n, Access::read);
  BufferId pc = b.param(DType::f32, m * n, Access::read_write);
  ValueId zero = b.index(0), one = b.index(1);
  auto tile = [&](BufferId p, int r, int c) {
    return b.load_tile(p, {DType::f32, static_cast<std::uint16_t>(r), static_cast<std::uint16_t>(c)}, zero, b.index(c),
                       one);
  };
  ValueId c = b.op(Op::contract, {tile(pc, m, n), tile(pa, m, depth), tile(pb, depth, n)});
  b.store_tile(pc, zero, b.index(n), one, c);
  Kernel k = std::move(b).finish();
  std::vector<float> va(m * depth), vb(depth * n), vc(m * n, 0.1f), want = vc;
  for (std::size_t i = 0; i < va.size(); ++i) va[i] = 1.0f / (static_cast<float>(i) + 3.0f);
  for (std::size_t i = 0; i < vb.size(); ++i) vb[i] = 0.7f - static_cast<float>(i) * 0.13f;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j)
      for (int p = 0; p < depth; ++p)
        want[static_cast<std::size_t>(i * n + j)] =
            std::fma(va[static_cast<std::size_t>(i * depth + p)], vb[static_cast<std::size_t>(p * n + j)],
                     want[static_cast<std::size_t>(i * n + j)]);
  REQUIRE(run(k, va, vb, vc) == "");
  CHECK(vc == want);
}

TEST_CASE("the tile range runs a part of the tile loop, and traps keep the first") {
  Builder b("range");
  BufferId y = b.param(DType::i64, 10, Access::write);
  b.kernel().tiles = 10;
  b.for_each(b.index(10), {.mapping = Mapping::tile}, [&](ValueId i) {
    b.trap(b.op(Op::cmp_ge, {i, b.index(4)}), 2, i);
    b.store(y, i, b.index(1));
  });
  Kernel k = std::move(b).finish();
  std::vector<std::int64_t> out(10);
  BufferView view{out.data(), 10};
  auto r = interpret(k, {&view, 1}, {}, {.tile_lo = 3, .tile_hi = 7});
  REQUIRE(r.has_value());
  CHECK(out == std::vector<std::int64_t>{0, 0, 0, 1, 1, 1, 1, 0, 0, 0});
  CHECK(r->kind == 2);
  CHECK(r->detail == 4);
}

TEST_CASE("a product of 1437 x 64 x 128 takes seconds, scalar form, races checked") {
  const Dim m = 1437, n = 128, depth = 64;
  Kernel k = samples::matmul(m, n, depth);
  std::vector<float> a(1437 * 64, 0.5f), w(64 * 128, 0.25f), c(1437 * 128);
  REQUIRE(run(k, a, w, c) == "");
  CHECK(c.back() == 8.0f);
}

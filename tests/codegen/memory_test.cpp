// Loads and stores of every element type, in tiles of many shapes, with masks and strides, and by index.
#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "codegen/backend.hpp"
#include "harness.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;

namespace {

constexpr VType forms(DType e, int i) {
  constexpr std::pair<std::uint16_t, std::uint16_t> list[] = {{1, 1}, {1, 3}, {1, 32}, {3, 1}, {2, 21}};
  return {e, list[i].first, list[i].second};
}
constexpr int form_count = 5;
constexpr std::int64_t room = 512;

/// Index data: a permutation of [0, n), so that scattered stores do not meet.
Bytes permutation(std::size_t n, std::uint64_t seed) {
  std::vector<std::int64_t> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = static_cast<std::int64_t>(i);
  std::shuffle(v.begin(), v.end(), std::mt19937_64(seed));
  Bytes out(n * 8);
  std::memcpy(out.data(), v.data(), out.size());
  return out;
}

}  // namespace

TEST_CASE("tiles are loaded and stored with strides and masks") {
  struct Stride {
    std::int64_t value;
    bool dynamic;
  };
  for (int d = 0; d < dtype_count; ++d) {
    auto e = static_cast<DType>(d);
    for (int f = 0; f < form_count; ++f) {
      VType t = forms(e, f);
      Builder b("k0");
      BufferId x = b.param(e, room, Access::read), m = b.param(DType::boolean, room, Access::read);
      BufferId out = b.param(e, 16 * room, Access::write);
      ValueId stride = b.dim_param("S");
      std::int64_t at = 0;
      for (bool masked : {false, true})
        for (Stride s : {Stride{1, false}, Stride{0, false}, Stride{2, false}, Stride{-1, false}, Stride{3, true}}) {
          if (s.dynamic && t.rows * t.lanes * 3 > room) continue;
          ValueId ls = s.dynamic ? stride : b.index(s.value), one = b.index(1);
          ValueId rs = s.dynamic ? b.mul(stride, b.index(t.lanes)) : b.index(s.value == 0 ? 5 : s.value * t.lanes);
          ValueId mask = masked ? b.load_tile(m, t.with(DType::boolean), b.index(f), b.index(t.lanes), one) : ValueId{};
          ValueId base = b.index(s.value < 0 ? t.count() : 1);
          ValueId v = b.load_tile(x, t, base, rs, ls, mask);
          b.store_tile(out, b.index(at), b.index(t.lanes), one, v);
          at += t.count() + 1;
          if (s.value == 0) continue;
          b.store_tile(out, b.index(at + (s.value < 0 ? t.count() - 1 : 0)), rs, ls, v, mask);
          at += 3 * t.count() + 1;
        }
      REQUIRE(at <= 16 * room);
      INFO(dtype_name(e) << " " << t.rows << "x" << t.lanes);
      CHECK(compare(std::move(b).finish(),
                    {sample(e, room, 1), sample(DType::boolean, room, 2), sample(e, 16 * room, 3)}, {3}) == "");
    }
  }
}

TEST_CASE("masked accesses do not touch memory where the mask is false") {
  // The buffer ends where the mask does; beyond are bytes that must stay, and in the interpreter an error.
  for (int d = 0; d < dtype_count; ++d) {
    auto e = static_cast<DType>(d);
    Builder b("k0");
    BufferId x = b.param(e, 21, Access::read), out = b.param(e, 21, Access::write);
    ValueId zero = b.index(0), one = b.index(1);
    ValueId mask = b.op(Op::cmp_lt, {b.lane_iota(DType::i64, 32), b.index(21)});
    b.store_tile(out, zero, zero, one, b.load_tile(x, {e, 1, 32}, zero, zero, one, mask), mask);
    INFO(dtype_name(e));
    CHECK(compare(std::move(b).finish(), {sample(e, 21, 1), sample(e, 32, 2)}) == "");
  }
}

TEST_CASE("elements are gathered and scattered by index") {
  for (int d = 0; d < dtype_count; ++d) {
    auto e = static_cast<DType>(d);
    for (int f = 0; f < form_count; ++f) {
      VType t = forms(e, f);
      Builder b("k0");
      BufferId x = b.param(e, room, Access::read), idx = b.param(DType::i64, room, Access::read);
      BufferId m = b.param(DType::boolean, room, Access::read);
      BufferId gathered = b.param(e, 2 * room, Access::write), scattered = b.param(e, 2 * room, Access::write);
      ValueId one = b.index(1), row = b.index(t.lanes);
      ValueId index = b.load_tile(idx, t.with(DType::i64), b.index(0), row, one);
      ValueId mask = b.load_tile(m, t.with(DType::boolean), b.index(0), row, one);
      for (bool masked : {false, true}) {
        ValueId v = b.load(x, index, masked ? mask : ValueId{});
        b.store_tile(gathered, b.index(masked ? room : 0), row, one, v);
        b.store(scattered, b.add(index, b.index(masked ? room : 0)), v, masked ? mask : ValueId{});
      }
      INFO(dtype_name(e) << " " << t.rows << "x" << t.lanes);
      CHECK(compare(std::move(b).finish(), {sample(e, room, 1), permutation(room, 4), sample(DType::boolean, room, 2),
                                            sample(e, 2 * room, 3), sample(e, 2 * room, 5)}) == "");
    }
  }
}

TEST_CASE("scratch and local buffers") {
  Builder b("k0");
  ValueId n = b.dim_param("N");
  Dim size = Dim::symbol("N");
  BufferId x = b.param(DType::f32, size, Access::read), out = b.param(DType::f32, size, Access::write);
  BufferId flags = b.alloc(DType::boolean, size, Scope::scratch), copy = b.alloc(DType::f32, size + 3, Scope::scratch);
  BufferId last = b.alloc(DType::f64, floordiv(size, 2) + mod(size, 3), Scope::scratch);
  BufferId kept = b.alloc(DType::i32, 4, Scope::local);
  b.store(kept, b.index(2), b.constant_int(DType::i32, 5));
  b.store(last, b.index(0), b.constant(DType::f64, 0.25));
  b.for_each(n, {}, [&](ValueId i) {
    ValueId v = b.load(x, i);
    b.store(flags, i, b.op(Op::cmp_gt, {v, b.constant(DType::f32, 0)}));
    b.store(copy, i, v);
  });
  b.for_each(n, {}, [&](ValueId i) {
    ValueId extra =
        b.op(Op::mul, {b.cast(b.load(kept, b.index(2)), DType::f32), b.cast(b.load(last, b.index(0)), DType::f32)});
    ValueId v = b.load(copy, i);
    b.store(out, i, b.select(b.load(flags, i), b.add(v, extra), v));
  });
  Kernel k = std::move(b).finish();
  for (std::int64_t size : {1, 7, 64, 100})
    CHECK(compare(k, {sample(DType::f32, 100, 5), sample(DType::f32, 100, 3)}, {size}) == "");
}

TEST_CASE("stores around the caches store what others do, wherever rows begin") {
  for (DType e : {DType::f32, DType::f64, DType::bf16, DType::u8, DType::boolean})
    for (std::uint16_t lanes : {16, 32, 64, 128}) {
      // Three rows, whole lines at first, then begun at any element; the last part of a row is masked.
      Builder b("k0");
      BufferId in = b.param(e, 2048, Access::read), out = b.param(e, 2048, Access::read_write);
      ValueId one = b.index(1), stride = b.index(lanes + 3);
      b.for_each(b.index(5), {}, [&](ValueId i) {
        ValueId base = b.mul(i, b.index(3 * (lanes + 3) + 1)),
                left = b.op(Op::cmp_lt, {b.lane_iota(DType::i64, lanes), i});
        ValueId t = b.load_tile(in, {e, 3, lanes}, base, stride, one);
        b.store_tile(out, base, stride, one, t);
        b.kernel().stmts[StmtId(b.kernel().stmts.size() - 1)].attr.nontemporal = true;
        ValueId row = b.load_tile(in, {e, 1, lanes}, i, stride, one, left);
        b.store_tile(out, i, stride, one, row, left);
        b.kernel().stmts[StmtId(b.kernel().stmts.size() - 1)].attr.nontemporal = true;
      });
      INFO(dtype_name(e) << " x " << lanes);
      CHECK(compare(std::move(b).finish(), {sample(e, 2048, 1), sample(e, 2048, 2)}) == "");
    }
  Builder b("k0");
  BufferId in = b.param(DType::f32, 4096, Access::read), out = b.param(DType::f32, 4096, Access::write);
  b.for_(b.index(0), b.index(4096), b.index(64), {}, {}, [&](ValueId i, const Builder::Values&) {
    b.store_tile(out, i, b.index(0), b.index(1), b.load_tile(in, {DType::f32, 1, 64}, i, b.index(0), b.index(1)));
    b.kernel().stmts[StmtId(b.kernel().stmts.size() - 1)].attr.nontemporal = true;
    return Builder::Values{};
  });
  Kernel k = std::move(b).finish();
  CHECK(compare(k, {sample(DType::f32, 4096, 1), sample(DType::f32, 4096, 2)}) == "");
  for (const std::string& name : targets()) {
    auto target = codegen::describe_target(name);
    auto text = codegen::backend_of(*target).emit(k, *target, codegen::EmitKind::assembly, {});
    REQUIRE(text.has_value());
    CHECK(text->find("movntp") != std::string::npos);
    CHECK(text->find("sfence") != std::string::npos);
  }
}

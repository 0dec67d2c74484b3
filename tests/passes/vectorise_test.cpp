// Widening against the loop interpreter: every kernel before and after gives the same bytes, at sizes around
// the widths, constant and symbolic. Sums are of small whole numbers, so that every order gives the same bits.
#include "passes/vectorise.hpp"

#include <catch2/catch.hpp>

#include <cstring>
#include <random>

#include "ir/loop/abi.hpp"
#include "ir/loop/builder.hpp"
#include "ir/loop/interp.hpp"
#include "tests/loop/kernels.hpp"

using namespace ag;
using namespace ag::loop;
using Values = Builder::Values;

namespace {

TargetSpec avx512() {
  TargetSpec t;
  t.vector_bits = 512, t.vector_registers = 32;
  return t;
}

using Bytes = std::vector<std::uint8_t>;
struct Outcome {
  std::vector<Bytes> buffers;
  TrapRecord trap;
};

/// Runs a kernel on buffers of whole numbers in -4..4 (floats) or small non-negative indices, the same for each seed.
Outcome execute(const Kernel& k, const std::map<std::string, std::int64_t, std::less<>>& env, bool fractions = false) {
  Outcome out;
  std::mt19937 random(7);
  std::vector<BufferView> views;
  for (std::size_t i = 0; i < k.param_count(); ++i) {
    const Buffer& b = k.buffers[i];
    std::int64_t n = b.elems.eval(env).value();
    Bytes bytes(static_cast<std::size_t>(n) * dtype_bytes(b.dtype) + 1);
    for (std::int64_t j = 0; j < n && b.access != Access::write; ++j) {
      std::int64_t whole = static_cast<std::int64_t>(random() % 9) - 4;
      std::uint64_t bits = is_int(b.dtype) ? constant_bits(b.dtype, whole + 4) : constant_bits(b.dtype, whole);
      if (fractions && is_float(b.dtype)) bits = constant_bits(b.dtype, static_cast<double>(random()) / 1e9 - 2);
      std::memcpy(&bytes[static_cast<std::size_t>(j) * dtype_bytes(b.dtype)], &bits, dtype_bytes(b.dtype));
    }
    out.buffers.push_back(std::move(bytes));
  }
  for (std::size_t i = 0; i < out.buffers.size(); ++i)
    views.push_back({out.buffers[i].data(), k.buffers[i].elems.eval(env).value()});
  std::vector<std::int64_t> dims;
  for (const std::string& d : k.dims) dims.push_back(env.find(d)->second);
  auto r = interpret(k, views, dims);
  if (!r) FAIL(r.error()[0].message << "\n" << print(k));
  out.trap = *r;
  return out;
}

Kernel widened(const Kernel& k) {
  auto before = verify(k);
  if (!before) FAIL(before.error()[0].message << "\n" << print(k));
  Kernel w = passes::vectorise_kernel(k, avx512());
  auto after = verify(w, true);
  if (!after) FAIL(after.error()[0].message << "\n" << print(w));
  auto again = parse_kernel(print(w));
  if (!again) FAIL(again.error()[0].message << again.error()[0].spans[0].loc.str() << "\n" << print(w));
  CHECK(print(*again) == print(w));
  return w;
}

bool has_tiles(const Kernel& k) {
  for (const Value& v : k.values)
    if (!v.type.scalar() && v.type.elem != DType::i64) return true;
  return false;
}

void same(const Kernel& k, const std::map<std::string, std::int64_t, std::less<>>& env, bool wide = true) {
  Kernel w = widened(k);
  INFO(print(k) << print(w));
  CHECK(has_tiles(w) == wide);
  Outcome a = execute(k, env), b = execute(w, env);
  for (std::size_t i = 0; i < a.buffers.size(); ++i) {
    INFO("buffer " << i);
    CHECK(a.buffers[i] == b.buffers[i]);
  }
  CHECK(a.trap.kind == b.trap.kind);
  CHECK(a.trap.detail == b.trap.detail);
}

/// Builds with a symbolic and with a constant size, for sizes around multiples of the width.
void at_sizes(const std::function<Kernel(Dim n)>& make, bool wide = true) {
  for (std::int64_t n : {0, 1, 5, 8, 15, 16, 17, 31, 32, 33, 50, 64, 100, 129}) {
    INFO("n = " << n);
    Kernel symbolic = make(Dim::symbol("N"));
    same(symbolic, {{"N", n}}, wide);
    Kernel fixed = make(Dim(n));
    Kernel a = widened(symbolic), b = widened(fixed);
    Outcome x = execute(a, {{"N", n}}, true), y = execute(b, {{"N", n}}, true);
    INFO(print(a) << print(b));
    CHECK(x.buffers == y.buffers);
    Outcome z = execute(fixed, {}), w = execute(b, {});
    CHECK(z.buffers == w.buffers);
  }
}

constexpr ForOptions lanes(int width) {
  return {.mapping = Mapping::vector, .role = AxisRole::col, .width = static_cast<std::uint16_t>(width)};
}
constexpr ForOptions rows(int width) {
  return {.mapping = Mapping::rows, .role = AxisRole::row, .width = static_cast<std::uint16_t>(width)};
}
ForOptions reducing(int width, int unroll = 0) {
  ForOptions o = lanes(width);
  o.reassociate = true, o.unroll = static_cast<std::uint16_t>(unroll);
  return o;
}

void each(Builder& b, ValueId lo, ValueId hi, ForOptions o, const std::function<void(ValueId)>& body) {
  b.for_(lo, hi, b.index(o.width ? o.width : 1), o, {}, [&](ValueId iv, const Values&) {
    body(iv);
    return Values{};
  });
}
Values reduce(Builder& b, ValueId extent, ForOptions o, Values init,
              const std::function<Values(ValueId, Values)>& body) {
  return b.for_(b.index(0), extent, b.index(o.width ? o.width : 1), o, std::move(init), body);
}

}  // namespace

TEST_CASE("maps widen for every element type") {
  for (DType t : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i32, DType::u8, DType::i64}) {
    INFO(dtype_name(t));
    at_sizes([&](Dim n) {
      Builder b("map");
      BufferId x = b.param(t, n, Access::read), y = b.param(t, n, Access::write);
      each(b, b.index(0), b.dim(n), lanes(16), [&](ValueId i) {
        ValueId v = b.load(x, i);
        b.store(y, i, b.add(b.mul(v, v), b.constant(t, 1.0)));
      });
      return std::move(b).finish();
    });
  }
}

TEST_CASE("one-trip tiles are full or masked") {
  at_sizes([](Dim n) {
    Builder b("tiles");
    BufferId x = b.param(DType::f32, n, Access::read), y = b.param(DType::f32, n, Access::write);
    b.kernel().tiles = ceildiv(n, 32);
    each(b, b.index(0), b.dim(ceildiv(n, 32)), {.mapping = Mapping::tile}, [&](ValueId t) {
      ValueId lo = b.mul(t, b.index(32));
      ValueId hi = b.op(Op::min, {b.add(lo, b.index(32)), b.dim(n)});
      each(b, lo, hi, lanes(32), [&](ValueId i) { b.store(y, i, b.op(Op::neg, {b.load(x, i)})); });
    });
    return std::move(b).finish();
  });
}

TEST_CASE("the naive product nest becomes a register tile") {
  struct {
    int rows, lanes;
  } tiles[] = {{6, 64}, {8, 48}, {1, 16}, {4, 16}};
  for (auto t : tiles)
    for (std::int64_t m : {1, 5, 6, 13})
      for (std::int64_t n : {1, 16, 63, 64, 130})
        for (bool symbolic : {false, true}) {
          INFO(t.rows << "x" << t.lanes << " " << m << " " << n << " " << symbolic);
          Dim dm = symbolic ? Dim::symbol("M") : Dim(m), dn = symbolic ? Dim::symbol("N") : Dim(n);
          same(samples::matmul(dm, dn, 7, rows(t.rows), lanes(t.lanes)), {{"M", m}, {"N", n}});
        }
}

TEST_CASE("the final form of a product has one fma of [R x 1], [1 x C], [R x C] in its inner loop") {
  Kernel w = widened(samples::matmul(12, 128, 32, rows(6), lanes(64)));
  INFO(print(w));
  int fmas = 0;
  for (const Stmt& s : w.stmts) {
    CHECK(s.op != Op::load);
    CHECK(s.op != Op::if_);
    if (s.op != Op::fma) continue;
    ++fmas;
    CHECK(w.type(s.operands[0]) == VType{DType::f32, 6, 1});
    CHECK(w.type(s.operands[1]) == VType{DType::f32, 1, 64});
    CHECK(w.type(s.results[0]) == VType{DType::f32, 6, 64});
  }
  CHECK(fmas == 1);
  // Nothing in the innermost loop but index arithmetic on scalars, two loads and the fma.
  for (const Stmt& s : w.stmts)
    if (s.op == Op::for_ && s.operands.size() > 3)
      for (StmtId id : w.blocks[s.blocks[0]].stmts) {
        const Stmt& inner = w.stmts[id];
        bool index = inner.results.size() == 1 && w.type(inner.results[0]) == index_type;
        CHECK((index || inner.op == Op::load_tile || inner.op == Op::fma || inner.op == Op::yield));
      }
}

TEST_CASE("lanes within a part of a divisor are neighbours, whatever divides it") {
  // Column n of three arrays of 192 side by side: 64 columns from a multiple of 64 on are in one of them.
  for (std::int64_t side : {64, 96, 192, 320, 7 * 64}) {
    INFO(side);
    Builder b("parts");
    BufferId x = b.param(DType::f32, 3 * side, Access::read), y = b.param(DType::f32, 3 * side, Access::write);
    each(b, b.index(0), b.index(3 * side), lanes(32), [&](ValueId n) {
      ValueId part = b.op(Op::div, {n, b.index(side)}), at = b.op(Op::rem, {n, b.index(side)});
      b.store(y, n, b.load(x, b.add(b.mul(b.sub(b.index(2), part), b.index(side)), at)));
    });
    Kernel k = std::move(b).finish();
    same(k, {});
    Kernel w = widened(k);
    INFO(print(w));
    for (const Stmt& s : w.stmts) CHECK(s.op != Op::load);
  }
}

TEST_CASE("what an index adds before a loop is added up before it") {
  // Rows at places of their own: in the loop, each row's address is one sum with the loop's index.
  Builder b("rows");
  BufferId x = b.param(DType::f32, 40 * 16, Access::read), y = b.param(DType::f32, 10, Access::write);
  each(b, b.index(0), b.index(10), rows(5), [&](ValueId r) {
    ValueId a = b.mul(b.op(Op::div, {r, b.index(4)}), b.index(16)),
            c = b.mul(b.op(Op::rem, {r, b.index(4)}), b.index(64));
    Values sum = reduce(b, b.index(16), {}, {b.constant(DType::f32, 0)}, [&](ValueId i, const Values& at) {
      return Values{b.add(at[0], b.load(x, b.add(a, b.add(c, i))))};
    });
    b.store(y, r, sum[0]);
  });
  Kernel k = std::move(b).finish();
  same(k, {});
  Kernel w = widened(k);
  INFO(print(w));
  int sums = 0;
  for (const Stmt& s : w.stmts) {
    if (s.op != Op::load) continue;
    const Stmt& sum = w.stmts[w.values[s.operands[0]].def];
    REQUIRE(sum.op == Op::add);
    for (ValueId v : sum.operands) sums += w.values[v].def && w.stmts[w.values[v].def].op == Op::add;
  }
  CHECK(sums == 1);  // of what is known before the loop
}

TEST_CASE("broadcast, transposed and strided operands") {
  at_sizes([](Dim n) {
    Builder b("operands");
    BufferId col = b.param(DType::f32, 7, Access::read), row = b.param(DType::f32, n, Access::read);
    BufferId t = b.param(DType::f32, n * 7, Access::read), y = b.param(DType::f32, n * 7, Access::write);
    ValueId vn = b.dim(n);
    each(b, b.index(0), b.index(7), rows(3), [&](ValueId m) {
      ValueId c = b.load(col, m);
      each(b, b.index(0), vn, lanes(16), [&](ValueId i) {
        ValueId sum = b.add(b.add(c, b.load(row, i)), b.load(t, b.add(b.mul(i, b.index(7)), m)));
        b.store(y, b.add(b.mul(m, vn), b.sub(b.sub(vn, b.index(1)), i)), sum);
      });
    });
    return std::move(b).finish();
  });
}

TEST_CASE("indices used as numbers, gathers with traps") {
  at_sizes([](Dim n) {
    Builder b("gather");
    BufferId idx = b.param(DType::i32, n, Access::read), table = b.param(DType::f32, 5, Access::read);
    BufferId y = b.param(DType::f32, n, Access::write);
    each(b, b.index(0), b.dim(n), lanes(16), [&](ValueId i) {
      ValueId k = b.cast(b.load(idx, i), DType::i64);
      ValueId bad = b.op(Op::cmp_ge, {k, b.index(5)});
      b.trap(bad, static_cast<std::uint32_t>(Trap::index_out_of_range), b.add(b.mul(i, b.index(100)), k));
      ValueId v = b.load(table, b.select(bad, b.index(0), k));
      b.store(y, i, b.add(v, b.cast(i, DType::f32)));
    });
    return std::move(b).finish();
  });
}

TEST_CASE("conditions that differ between lanes become masks") {
  at_sizes([](Dim n) {
    Builder b("branches");
    BufferId x = b.param(DType::f32, n, Access::read), z = b.param(DType::f32, 6, Access::read);
    BufferId y = b.param(DType::f32, n, Access::read_write), w = b.param(DType::f32, 1, Access::read_write);
    each(b, b.index(0), b.dim(n), lanes(16), [&](ValueId i) {
      ValueId few = b.op(Op::cmp_lt, {i, b.index(6)});
      auto r = b.if_(
          few, [&] { return Values{b.load(z, i)}; },
          [&] {
            ValueId v = b.load(x, i);
            b.if_(b.op(Op::cmp_gt, {v, b.constant(DType::f32, 0.0)}),
                  [&] {
                    b.store(y, i, v);
                    return Values{};
                  },
                  {});
            return Values{b.op(Op::neg, {v})};
          });
      b.if_(b.op(Op::cmp_eq, {i, b.index(40)}),
            [&] {
              b.store(w, b.index(0), b.constant(DType::f32, 3.0));
              return Values{};
            },
            {});
      b.store(y, i, b.add(b.load(y, i), r[0]));
    });
    return std::move(b).finish();
  });
}

TEST_CASE("a padded convolution: loops of taps inside, conditions on rows and lanes") {
  at_sizes([](Dim n) {
    Builder b("conv");
    Dim h = 9;
    BufferId x = b.param(DType::f32, h * n, Access::read), f = b.param(DType::f32, 9, Access::read);
    BufferId y = b.param(DType::f32, h * n, Access::write);
    ValueId vn = b.dim(n), vh = b.dim(h), one = b.index(1), three = b.index(3);
    auto inside = [&](ValueId i, ValueId size) {
      return b.op(Op::and_, {b.op(Op::cmp_ge, {i, b.index(0)}), b.op(Op::cmp_lt, {i, size})});
    };
    each(b, b.index(0), vh, rows(4), [&](ValueId oh) {
      each(b, b.index(0), vn, lanes(32), [&](ValueId ow) {
        auto sum = reduce(b, three, {}, {b.constant(DType::f32, 0.5)}, [&](ValueId kh, Values a) {
          return reduce(b, three, {}, a, [&](ValueId kw, Values acc) {
            ValueId ih = b.sub(b.add(oh, kh), one), iw = b.sub(b.add(ow, kw), one);
            return b.if_(
                b.op(Op::and_, {inside(ih, vh), inside(iw, vn)}),
                [&] {
                  ValueId v = b.load(x, b.add(b.mul(ih, vn), iw)), t = b.load(f, b.add(b.mul(kh, three), kw));
                  return Values{b.op(Op::fma, {v, t, acc[0]})};
                },
                [&] { return acc; });
          });
        });
        b.store(y, b.add(b.mul(oh, vn), ow), sum[0]);
      });
    });
    return std::move(b).finish();
  });
}

TEST_CASE("reductions accumulate in lanes") {
  struct {
    Op op;
    DType t;
    double init;
  } kinds[] = {{Op::add, DType::f32, 3},  {Op::add, DType::i32, 3},   {Op::max, DType::f32, 1},
               {Op::min, DType::f64, -1}, {Op::mul, DType::i64, 3},   {Op::fma, DType::f32, 0.5},
               {Op::or_, DType::u8, 0},   {Op::and_, DType::u8, 255}, {Op::sub, DType::f32, 2}};
  for (auto kind : kinds)
    for (int unroll : {0, 2, 3, 4}) {
      INFO(describe(kind.op).name << " " << unroll);
      at_sizes([&](Dim n) {
        Builder b("reduce");
        BufferId x = b.param(kind.t, n, Access::read), y = b.param(kind.t, 1, Access::write);
        auto r = reduce(b, b.dim(n), reducing(16, unroll), {b.constant(kind.t, kind.init)}, [&](ValueId i, Values acc) {
          ValueId v = b.load(x, i);
          if (kind.op == Op::fma) return Values{b.op(Op::fma, {v, v, acc[0]})};
          return Values{b.op(kind.op, {acc[0], v})};
        });
        b.store(y, b.index(0), r[0]);
        return std::move(b).finish();
      });
    }
}

TEST_CASE("row by row: two reductions at once and a map, on rows of registers") {
  at_sizes([](Dim n) {
    Builder b("rows");
    BufferId x = b.param(DType::f32, n * 5, Access::read), y = b.param(DType::f32, n * 5, Access::write);
    ValueId vn = b.dim(n);
    each(b, b.index(0), b.index(5), rows(2), [&](ValueId m) {
      auto at = [&](ValueId i) { return b.add(b.mul(m, vn), i); };
      auto r = reduce(b, vn, reducing(16, 2), {b.constant(DType::f32, -100.0), b.constant(DType::f32, 0.0)},
                      [&](ValueId i, Values acc) {
                        ValueId v = b.load(x, at(i));
                        return Values{b.op(Op::max, {v, acc[0]}), b.add(acc[1], b.cast(i, DType::f32))};
                      });
      each(b, b.index(0), vn, lanes(16),
           [&](ValueId i) { b.store(y, at(i), b.add(b.sub(b.load(x, at(i)), r[0]), r[1])); });
    });
    return std::move(b).finish();
  });
}

TEST_CASE("a reduction over two axes, the outer one in lanes") {
  at_sizes([](Dim n) {
    Builder b("two");
    BufferId x = b.param(DType::f32, n * 3, Access::read), y = b.param(DType::f32, 1, Access::write);
    auto r = reduce(b, b.dim(n), reducing(16, 2), {b.constant(DType::f32, 1.0)}, [&](ValueId i, Values outer) {
      return reduce(b, b.index(3), {}, outer, [&](ValueId j, Values acc) {
        return Values{b.add(acc[0], b.load(x, b.add(b.mul(i, b.index(3)), j)))};
      });
    });
    b.store(y, b.index(0), r[0]);
    return std::move(b).finish();
  });
}

TEST_CASE("a uniform while and a carried index inside lanes") {
  at_sizes([](Dim n) {
    Builder b("while");
    BufferId x = b.param(DType::f32, n, Access::read), y = b.param(DType::f32, n, Access::write);
    each(b, b.index(0), b.dim(n), lanes(16), [&](ValueId i) {
      auto r = b.while_(
          {b.index(0), b.load(x, i)},
          [&](const Values& v) { return std::pair{b.op(Op::cmp_lt, {v[0], b.index(3)}), v}; },
          [&](const Values& v) { return Values{b.add(v[0], b.index(1)), b.add(v[1], v[1])}; });
      b.store(y, i, r[1]);
    });
    return std::move(b).finish();
  });
}

TEST_CASE("what cannot be widened runs serially") {
  SECTION("bounds that differ between lanes") {
    at_sizes(
        [](Dim n) {
          Builder b("triangle");
          BufferId y = b.param(DType::f32, n, Access::write);
          each(b, b.index(0), b.dim(n), lanes(16), [&](ValueId i) {
            auto r = reduce(b, i, {}, {b.constant(DType::f32, 0.0)},
                            [&](ValueId j, Values a) { return Values{b.add(a[0], b.cast(j, DType::f32))}; });
            b.store(y, i, r[0]);
          });
          return std::move(b).finish();
        },
        false);
  }
  SECTION("a while that differs between lanes") {
    at_sizes(
        [](Dim n) {
          Builder b("while");
          BufferId y = b.param(DType::i64, n, Access::write);
          each(b, b.index(0), b.dim(n), lanes(16), [&](ValueId i) {
            auto r = b.while_(
                {i}, [&](const Values& v) { return std::pair{b.op(Op::cmp_lt, {v[0], b.index(9)}), v}; },
                [&](const Values& v) { return Values{b.add(v[0], b.index(2))}; });
            b.store(y, i, r[0]);
          });
          return std::move(b).finish();
        },
        false);
  }
  SECTION("a carried value that is no reduction") {
    at_sizes(
        [](Dim n) {
          Builder b("argmax");
          BufferId x = b.param(DType::f32, n, Access::read), y = b.param(DType::f32, 1, Access::write);
          auto r = reduce(b, b.dim(n), reducing(16), {b.constant(DType::f32, 0.0)}, [&](ValueId i, Values acc) {
            ValueId v = b.load(x, i);
            return Values{b.sub(v, acc[0])};
          });
          b.store(y, b.index(0), r[0]);
          return std::move(b).finish();
        },
        false);
  }
  SECTION("rows keep what lanes cannot do") {
    at_sizes([](Dim n) {
      Builder b("mixed");
      BufferId x = b.param(DType::f32, n * 4, Access::read), y = b.param(DType::f32, 4, Access::write);
      ValueId vn = b.dim(n);
      each(b, b.index(0), b.index(4), rows(4), [&](ValueId m) {
        auto r = reduce(b, vn, reducing(16), {b.constant(DType::f32, 0.0)}, [&](ValueId i, Values acc) {
          return Values{b.sub(b.load(x, b.add(b.mul(m, vn), i)), acc[0])};
        });
        b.store(y, m, r[0]);
      });
      return std::move(b).finish();
    });
  }
}

TEST_CASE("a prefetch of widened loops asks for each line once") {
  Dim n = Dim::symbol("N");
  Builder b("k0");
  BufferId x = b.param(DType::f32, 64 * n, Access::read), y = b.param(DType::f32, 64 * n, Access::write);
  ValueId size = b.dim(n);
  b.for_(b.index(0), b.index(64), b.index(4), rows(4), {}, [&](ValueId r, const Values&) {
    b.for_(b.index(0), size, b.index(32), lanes(32), {}, [&](ValueId i, const Values&) {
      ValueId at = b.add(b.mul(r, size), i);
      b.prefetch(x, b.add(at, b.index(256)), 2);
      b.prefetch(x, b.mul(at, at));  // scattered: dropped
      b.store(y, at, b.load(x, at));
      return Values{};
    });
    return Values{};
  });
  Kernel k = std::move(b).finish();
  for (std::int64_t size : {1, 31, 32, 100}) same(k, {{"N", size}});
  Kernel w = widened(k);
  std::size_t hints = 0, loops = 0;
  for (const Stmt& s : w.stmts) hints += s.op == Op::prefetch, loops += s.op == Op::store_tile;
  INFO(print(w));
  CHECK(hints == 8 * loops);  // four rows of two lines
}

// What the builder folds and reuses, and what it must leave alone.
#include <catch2/catch.hpp>

#include "ir/loop/builder.hpp"

using namespace ag;
using namespace ag::loop;

TEST_CASE("integer statements fold") {
  Builder b("k");
  ValueId n = b.dim(Dim::symbol("N"));
  auto c = [&](std::int64_t v) { return b.index(v); };
  auto value = [&](ValueId v) { return b.int_value(v).value_or(-12345); };
  CHECK(value(b.add(c(2), c(3))) == 5);
  CHECK(value(b.op(Op::div, {c(-7), c(2)})) == -3);
  CHECK(value(b.op(Op::rem, {c(7), c(0)})) == 7);
  CHECK(value(b.op(Op::div, {c(INT64_MIN), c(-1)})) == INT64_MIN);
  CHECK(value(b.op(Op::shr, {c(-8), c(1)})) == -4);
  CHECK(value(b.op(Op::shl, {c(1), c(64)})) == 0);
  CHECK(value(b.mul(n, c(0))) == 0);
  CHECK(value(b.sub(n, n)) == 0);
  CHECK(value(b.op(Op::cmp_le, {n, n})) == 1);
  CHECK(value(b.cast(c(300), DType::u8)) == 44);
  CHECK(value(b.op(Op::neg, {b.constant_int(DType::i8, -128)})) == -128);
  CHECK(b.add(n, c(0)) == n);
  CHECK(b.add(c(0), n) == n);
  CHECK(b.mul(n, c(1)) == n);
  CHECK(b.select(b.op(Op::cmp_lt, {c(1), c(2)}), n, c(9)) == n);
  CHECK(b.sub(b.add(n, c(5)), c(5)) == n);
  CHECK(b.mul(c(6), b.mul(c(7), n)) == b.mul(n, c(42)));
}

TEST_CASE("floats are never folded") {
  Builder b("k");
  BufferId x = b.param(DType::f32, 1, Access::read);
  ValueId v = b.load(x, b.index(0)), zero = b.constant(DType::f32, 0.0), one = b.constant(DType::f32, 1.0);
  for (Op op : {Op::add, Op::sub, Op::mul, Op::div, Op::min, Op::max}) {
    CHECK(b.op(op, {v, zero}) != v);
    CHECK(b.op(op, {v, one}) != v);
    CHECK(b.op(op, {v, v}) != v);
    CHECK(b.kernel().stmts[b.kernel().values[b.op(op, {zero, one})].def].op == op);
  }
  CHECK(b.op(Op::cmp_eq, {v, v}) != b.constant_int(DType::boolean, 1));
}

TEST_CASE("equal statements are shared in visible blocks only") {
  Builder b("k");
  BufferId x = b.param(DType::f32, 8, Access::read), y = b.param(DType::f32, 8, Access::read_write);
  ValueId n = b.dim(Dim::symbol("N")), outer = b.mul(n, n), inner, later;
  CHECK(b.mul(n, n) == outer);
  b.for_each(n, {}, [&](ValueId i) {
    CHECK(b.mul(n, n) == outer);
    inner = b.add(n, b.index(3));
    CHECK(b.load(x, i) == b.load(x, i));
    ValueId before = b.load(y, i);
    CHECK(b.load(y, i) != before);
  });
  later = b.add(n, b.index(3));
  CHECK(later != inner);
  CHECK(verify(b.kernel()));
}

TEST_CASE("sizes become index arithmetic") {
  Builder b("k");
  Dim n = Dim::symbol("N"), m = Dim::symbol("M");
  CHECK(b.int_value(b.dim(Dim(6) * 7)) == 42);
  CHECK(b.dim(n) == b.dim_param("N"));
  CHECK(b.dim(n * m + 1) == b.dim(Dim(1) + m * n));
  b.dim(floordiv(n, 3) + mod(n + m, 8) + min(n, m) + max(n * n, m) + Dim::bcast(n, m) + floordiv(n, m));
  CHECK(b.kernel().dims.size() == 2);
  CHECK(verify(b.kernel()));
}

TEST_CASE("verify finds what builders cannot do wrong") {
  Builder b("k");
  BufferId x = b.param(DType::f32, 8, Access::read_write);
  b.for_each(b.index(8), {}, [&](ValueId i) { b.store(x, i, b.load(x, i)); });
  Kernel good = std::move(b).finish();
  REQUIRE(verify(good));
  auto broken = [&](auto&& change) {
    Kernel k = good;
    change(k);
    auto s = verify(k);
    return s ? std::string() : code_name(s.error()[0].code);
  };
  StmtId loop = good.blocks[good.top()].stmts.back();
  BlockId body = good.stmts[loop].blocks[0];
  CHECK(broken([&](Kernel& k) { k.blocks[body].stmts.pop_back(); }) == "AG1803");
  CHECK(broken([&](Kernel& k) { k.stmts[loop].operands[0] = ValueId(std::size_t{999}); }) == "AG1801");
  CHECK(broken([&](Kernel& k) { k.stmts[loop].operands[1] = k.blocks[body].args[0]; }) == "AG1801");
  CHECK(broken([&](Kernel& k) { k.stmts[loop].blocks[0] = k.top(); }) == "AG1803");
  CHECK(broken([&](Kernel& k) { k.stmts[loop].blocks.clear(); }) == "AG1803");
  CHECK(broken([&](Kernel& k) { k.blocks[body].stmts.push_back(loop); }) == "AG1803");
  CHECK(broken([&](Kernel& k) { k.stmts[loop].attr.mapping = Mapping::vector; }) == "AG1804");
  CHECK(broken([&](Kernel& k) { k.buffers[0].access = Access::read; }) == "AG1805");
  CHECK(broken([&](Kernel& k) { k.buffers[0].elems = Dim::symbol("Q"); }) == "AG1801");
  CHECK(broken([&](Kernel& k) { k.stmts[loop].origin = 3; }) == "AG1803");
  Kernel parallel = good;
  parallel.stmts[loop].attr.mapping = Mapping::parallel;
  CHECK(verify(parallel));
  CHECK_FALSE(verify(parallel, true));
}

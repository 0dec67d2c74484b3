// The text form: print, parse and print again give the same text; broken texts name their place.
#include <catch2/catch.hpp>

#include <limits>

#include "ir/loop/program.hpp"
#include "tests/diag/golden.hpp"
#include "tests/loop/kernels.hpp"

using namespace ag;
using namespace ag::loop;

namespace {

void round_trip(const Kernel& k) {
  std::string text = print(k);
  INFO(text);
  auto status = verify(k);
  if (!status) FAIL(status.error()[0].message);
  auto again = parse_kernel(text);
  if (!again) FAIL(again.error()[0].message << " at " << again.error()[0].spans[0].loc.str());
  CHECK(print(*again) == text);
  CHECK(structural_hash(*again) == structural_hash(k));
}

/// A kernel with one statement or nested block of every kind.
Kernel everything() {
  Builder b("all");
  Dim n = Dim::symbol("N");
  BufferId x = b.param(DType::f32, n * 64, Access::read);
  BufferId y = b.param(DType::f32, n * 64, Access::read_write);
  BufferId z = b.alloc(DType::f32, 64, Scope::local);
  b.kernel().tiles = ceildiv(n, 1024);
  b.kernel().flops = n * 12;
  ValueId size = b.dim(floordiv(n, 3) + mod(n, 8)), one = b.index(1), lanes = b.lane_iota(DType::i64, 64);
  b.for_(b.index(0), size, one, {.mapping = Mapping::tile}, {}, [&](ValueId i, const Builder::Values&) {
    ValueId rows = b.row_iota(DType::i64, 6);
    ValueId mask = b.op(Op::cmp_lt, {b.add(b.mul(rows, size), lanes), b.sub(size, i)});
    ValueId t = b.load_tile(x, {DType::f32, 6, 64}, i, size, one, mask);
    ValueId column = b.reduce_lanes(ReduceKind::max, t), row = b.reduce_rows(ReduceKind::sum, t);
    ValueId all = b.op(Op::contract, {t, b.broadcast(column, 6, 6), b.broadcast(row, 6, 64)});
    b.store_tile(y, i, size, one, all, mask);
    b.kernel().stmts[StmtId(b.kernel().stmts.size() - 1)].attr.nontemporal = true;
    ValueId e = b.op(Op::transpose, {b.extract(b.op(Op::exp, {t}), 3)});
    b.store_tile(z, b.index(0), one, one, e);
    b.prefetch(x, b.add(i, size), 2);
    b.poll();
    return Builder::Values{};
  });
  auto loop = b.while_(
      {one, b.constant(DType::f32, 0.5)},
      [&](const Builder::Values& v) {
        return std::pair{b.op(Op::cmp_lt, {v[0], size}), Builder::Values{v[0], v[1], one}};
      },
      [&](const Builder::Values& v) {
        ValueId big = b.op(Op::cmp_gt, {v[1], b.constant(DType::f32, 1e10)});
        auto r = b.if_(
            big, [&] { return Builder::Values{v[1]}; }, [&] { return Builder::Values{b.op(Op::mul, {v[1], v[1]})}; });
        b.trap(big, 1, v[0]);
        b.set_origin(b.kernel().origins.size() + 41);
        return Builder::Values{b.add(v[0], v[2]), r[0]};
      });
  ValueId whole = b.load(x, b.mul(lanes, loop[0]));
  ValueId bits = b.cast(b.bitcast(b.shuffle_xor(whole, 16), DType::u32), DType::i64);
  b.store(y, lanes, whole, b.op(Op::cmp_eq, {bits, lanes}));
  b.kernel().stmts[StmtId(b.kernel().stmts.size() - 1)].attr.nontemporal = true;
  b.barrier();
  return std::move(b).finish();
}

}  // namespace

TEST_CASE("kernels round-trip through text") {
  round_trip(samples::square_plus_one());
  round_trip(samples::matmul(Dim::symbol("M"), Dim::symbol("N"), Dim::symbol("K")));
  round_trip(
      samples::matmul(64, 128, 32, {.mapping = Mapping::rows, .width = 6}, {.mapping = Mapping::vector, .width = 64}));
  round_trip(everything());
}

TEST_CASE("the text of a small kernel") {
  CHECK(print(samples::square_plus_one()) ==
        "kernel @square(b0: f32[N] read, b1: f32[N] write) dims(N) origins(7) {\n"
        "  %0: i64 = constant 0 !1\n"
        "  %1: i64 = constant 1 !1\n"
        "  %2: i64 = dim N !1\n"
        "  for.parallel(col) %3 = %0 to %2 step %1 {\n"
        "    %4: f32 = load b0[%3] !1\n"
        "    %5: f32 = constant 1.0 !1\n"
        "    %6: f32 = fma %4, %4, %5 !1\n"
        "    store b1[%3], %6 !1\n"
        "    yield !1\n"
        "  } !1\n"
        "}\n");
}

TEST_CASE("constants keep every bit") {
  Builder b("c");
  struct {
    DType t;
    std::vector<std::uint64_t> bits;
  } rows[] = {
      {DType::f32,
       {0x80000000, 0x7fc00000, 0x7fc12345, 0xff800000, 0x7f800000, 0x00000001, 0x3dcccccd, 0x7f7fffff, 0x7fa00000}},
      {DType::f64, {0x8000000000000000, 0x7ff8000000000001, 0x3fb999999999999a, 1, 0x7fefffffffffffff}},
      {DType::f16, {0x8000, 0x7e01, 0x3c01, 0x0001, 0x7bff, 0xfc00}},
      {DType::bf16, {0x8000, 0x7fc1, 0x3dcd, 0x0001, 0xff7f}},
      {DType::i64, {0x8000000000000000, 0xffffffffffffffff, 5}},
      {DType::u64, {0xffffffffffffffff, 0}},
      {DType::i8, {0x80, 0xff, 3}},
      {DType::u8, {0xff}},
      {DType::boolean, {0, 1}},
  };
  for (auto& row : rows)
    for (std::uint64_t bits : row.bits) b.constant_bits({row.t, 1, 1}, bits);
  Kernel k = std::move(b).finish();
  round_trip(k);
  auto again = parse_kernel(print(k));
  REQUIRE(again);
  REQUIRE(again->stmts.size() == k.stmts.size());
  for (std::size_t i = 0; i < k.stmts.size(); ++i)
    CHECK(again->stmts[StmtId(i)].attr.imm == k.stmts[StmtId(i)].attr.imm);
}

TEST_CASE("every elementwise op parses by its name") {
#define AG_LOOP_OP(id, operands, cls) CHECK_FALSE(describe(Op::id).name.ends_with('_'));
#include "ir/loop/ops.def"
#undef AG_LOOP_OP
  CHECK(describe(Op::for_).name == "for");
}

namespace {

struct Fault {
  std::string_view body;
  Code code;
  unsigned line, col;
};
const Fault faults[] = {
    {"%0: i64 = constant 1.5\n", Code::AG0801, 2, 20},
    {"%0: f33 = constant 1\n", Code::AG0801, 2, 5},
    {"%0: i64 = frob %1\n", Code::AG0801, 2, 11},
    {"%0: i8 = constant 300\n", Code::AG0801, 2, 19},
    {"%0: i64 = add %1, %2\n", Code::AG1801, 2, 15},
    {"%0: i64 = dim M\n", Code::AG1801, 2, 15},
    {"%0: i64 = dim N\n%0: i64 = dim N\n", Code::AG1802, 3, 1},
    {"%0: i64 = dim N\n%1: f32 = add %0, %0\n", Code::AG2801, 3, 11},
    {"%0: i64 = dim N\n%1: i64 = add %0\n", Code::AG1803, 3, 11},
    {"%0: i64 = dim N\n%1: i64 = sqrt %0\n", Code::AG2801, 3, 11},
    {"%0: i64 = dim N\n%1: f32 = load b9[%0]\n", Code::AG1805, 3, 16},
    {"%0: i64 = dim N\n%1: f32 = load b1[%0]\n", Code::AG1805, 3, 11},
    {"%0: i64 = dim N\n%1: f64 = load b0[%0]\n", Code::AG2801, 3, 11},
    {"%0: i64 = dim N\nprefetch(1) b9[%0]\n", Code::AG1805, 3, 13},
    {"%0: i64 = dim N\nprefetch(4) b0[%0]\n", Code::AG1803, 3, 1},
    {"%0: f32 = constant 1.0\nprefetch(1) b0[%0]\n", Code::AG2801, 3, 1},
    {"%0: i64 = dim N\nfor.serial %1 = %0 to %0 step %0 {\n}\n", Code::AG1803, 3, 1},
    {"%0: i64 = dim N\nfor.cereal %1 = %0 to %0 step %0 {\n}\n", Code::AG0801, 3, 1},
    {"%0: i64 = dim N\nfor.vector %1 = %0 to %0 step %0 width 8 {\nyield\n}\n", Code::AG1804, 3, 1},
    {"%0: i64 = dim N\n%2: f32 = for.serial %1 = %0 to %0 step %0 {\nyield\n}\n", Code::AG1803, 3, 11},
    {"%0: i64 = dim N\nfor.serial %1 = %0 to %0 step %0 {\n%2: i64 = add %1, %1\nyield\n}\n%3: i64 = add %2, %2\n",
     Code::AG1801, 7, 11},
    {"%0: bool = constant true\n%1: i64 = if %0 {\nyield %0\n} else {\nyield %0\n}\n", Code::AG2801, 4, 1},
    {"yield\n", Code::AG1803, 2, 1},
    {"%0: f32<6x> = constant 1\n", Code::AG0801, 2, 9},
    {"%0: bool<1x3> = constant true\n%1: bool = reduce_lanes(or) %0\n", Code::AG2801, 3, 12},
    {"%0: i64 = dim N\n  \"\x01", Code::AG0801, 3, 3},
};

std::string kernel_with(std::string_view body) {
  return "kernel @k(b0: f32[N] read, b1: f32[N] write) dims(N) {\n" + std::string(body) + "}\n";
}

}  // namespace

TEST_CASE("broken texts are named with their place") {
  for (const Fault& row : faults) {
    std::string text = kernel_with(row.body);
    INFO(text);
    auto k = parse_kernel(text, "t.ag");
    REQUIRE_FALSE(k);
    const Diag& d = k.error()[0];
    INFO(d.message);
    CHECK(code_name(d.code) == code_name(row.code));
    REQUIRE_FALSE(d.spans.empty());
    CHECK(d.spans[0].loc.str() == "t.ag:" + std::to_string(row.line) + ":" + std::to_string(row.col));
  }
}

TEST_CASE("what the user sees of broken texts") {
  std::string shown;
  auto show = [&](const std::string& text, const auto& result) {
    Sources sources;
    sources.add("t.ag", text);
    REQUIRE_FALSE(result);
    shown += render(result.error(), sources) + "\n";
  };
  for (const Fault& row : faults) show(kernel_with(row.body), parse_kernel(kernel_with(row.body), "t.ag"));
  for (std::string text :
       {"program \"p\" {\n  inputs(p3)\n}\n", "program \"p\" {\n  p0: temp f32[N]\n  body {\n    call 0(p0)\n  }\n}\n",
        "program \"p\" {\n  p0: constant 0 f32[2] = \"AAAA\"\n}\n"})
    show(text, parse_program(text, "t.ag"));
  check_golden("loop_text.txt", shown);
}

TEST_CASE("truncated and deep texts are errors, not crashes") {
  std::string text = print(everything());
  for (std::size_t n = 0; n < text.size() - 2; n += 3) CHECK_FALSE(parse_kernel(text.substr(0, n)));
  std::string deep = "kernel @k() {\n%0: bool = constant true\n";
  for (int i = 0; i < 100000; ++i) deep += "if %0 {\n";
  auto k = parse_kernel(deep);
  REQUIRE_FALSE(k);
  CHECK(k.error()[0].code == Code::AG0801);
}

TEST_CASE("the hash sees structure and nothing else") {
  Kernel a = samples::square_plus_one(), b = a;
  b.name = "other", b.dims[0] = "M", b.origins[0] = 99, b.flops = 5;
  for (auto& buffer : b.buffers) buffer.elems = Dim::symbol("M");
  CHECK(structural_hash(a) == structural_hash(b));
  b.buffers[0].noalias = false;
  CHECK(structural_hash(a) != structural_hash(b));
  CHECK(structural_hash(samples::matmul(4, 4, 4)) != structural_hash(samples::matmul(4, 4, 5)));
}

TEST_CASE("only stores go around the caches") {
  Kernel k = everything();
  CHECK(print(k).find(" nontemporal") != std::string::npos);
  REQUIRE(verify(k));
  for (Stmt& s : k.stmts)
    if (s.op == Op::load) s.attr.nontemporal = true;
  auto checked = verify(k);
  REQUIRE_FALSE(checked);
  CHECK(checked.error()[0].code == Code::AG1803);
}

// PTX: everything is selected by LLVM and, where ptxas is installed, assembles without spills.
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "codegen/backend.hpp"
#include "gemm.hpp"
#include "ir/loop/elementwise.hpp"

using namespace ag;
using namespace ag::loop;

namespace {

std::string ptxas_path() {
  for (const char* p : {"ptxas", "/usr/local/cuda/bin/ptxas"})
    if (std::system((std::string(p) + " --version > /dev/null 2>&1").c_str()) == 0) return p;
  return "";
}

/// Emits `kernel`, assembles it if ptxas is there, and returns the PTX. `log` gets ptxas's report.
std::string assemble(const Kernel& kernel, const std::string& arch, std::string& log) {
  auto target = codegen::describe_target("cuda:" + arch);
  REQUIRE(target.has_value());
  auto ptx = codegen::backend_of(*target).emit(kernel, *target, codegen::EmitKind::ptx, {});
  if (!ptx) FAIL(ptx.error()[0].message << (ptx.error()[0].children.empty() ? "" : ptx.error()[0].children[0].message));
  CHECK(ptx->find(".target " + arch) != std::string::npos);
  static const std::string ptxas = ptxas_path();
  if (ptxas.empty()) {
    static bool said = false;
    if (!said) WARN("skipped: ptxas is not installed, the PTX is not assembled");
    said = true;
    return *ptx;
  }
  std::string stem = std::string(AG_BINARY_DIR) + "/ptx_test." + std::to_string(std::rand());
  std::ofstream(stem + ".ptx") << *ptx;
  std::string command = ptxas + " -v -arch=" + arch + " " + stem + ".ptx -o " + stem + ".cubin > " + stem + ".log 2>&1";
  int status = std::system(command.c_str());
  std::ifstream in(stem + ".log");
  log.assign(std::istreambuf_iterator<char>(in), {});
  for (const char* ext : {".ptx", ".cubin", ".log"}) std::remove((stem + ext).c_str());
  INFO(log);
  CHECK(status == 0);
  CHECK(log.find("error") == std::string::npos);
  return *ptx;
}

/// One statement of every elementwise op on operands of type t, each on its own thread's element.
Kernel all_ops(DType t) {
  Builder b("k0");
  Dim n = Dim::symbol("N");
  BufferId x = b.param(t, n, Access::read), m = b.param(DType::boolean, n, Access::read);
  BufferId k32 = b.param(DType::i32, n, Access::read), k64 = b.param(DType::i64, n, Access::read);
  std::vector<BufferId> out;
  for (int i = 0; i < dtype_count; ++i) out.push_back(b.param(static_cast<DType>(i), 200 * n, Access::write));
  ValueId size = b.dim_param("N");
  b.for_(b.index(0), size, b.index(128), {.mapping = Mapping::grid_x}, {}, [&](ValueId first, const Builder::Values&) {
    b.for_(first, b.op(Op::min, {b.add(first, b.index(128)), size}), b.index(1), {.mapping = Mapping::block_x}, {},
           [&](ValueId i, const Builder::Values&) {
             std::int64_t count = 0;
             ValueId v = b.load(x, i), w = b.load(x, b.sub(b.sub(size, i), b.index(1))), mask = b.load(m, i);
             auto keep = [&](ValueId r) {
               b.store(out[static_cast<std::size_t>(b.type(r).elem)], b.add(b.mul(b.index(count++), size), i), r);
             };
             for (int o = 0; o <= static_cast<int>(Op::trap); ++o) {
               Op op = static_cast<Op>(o);
               OpClass c = describe(op).cls;
               if (op == Op::cast) {
                 for (int to = 0; to < dtype_count; ++to) keep(b.cast(v, static_cast<DType>(to)));
               } else if (op == Op::bitcast) {
                 if (t != DType::boolean) keep(b.bitcast(v, t));
               } else if (op == Op::select) {
                 keep(b.select(mask, v, w));
               } else if (op == Op::ldexp) {
                 if (is_float(t)) keep(b.op(op, {v, t == DType::f64 ? b.load(k64, i) : b.load(k32, i)}));
               } else if (elementwise_fn(op, c == OpClass::compare ? DType::boolean : t, t)) {
                 if (c == OpClass::unary) keep(b.op(op, {v}));
                 if (c == OpClass::binary || c == OpClass::compare) keep(b.op(op, {v, w}));
                 if (c == OpClass::ternary) keep(b.op(op, {v, w, v}));
               }
             }
             return Builder::Values{};
           });
    return Builder::Values{};
  });
  Kernel k = std::move(b).finish();
  k.grid[0] = ceildiv(n, 128);
  k.block[0] = 128;
  return k;
}

/// out[row] = sum of x[row, :], a block a row: lanes, shuffles, shared memory, a barrier, a trap.
Kernel row_sums(DType t) {
  Builder b("k0");
  Dim rows = Dim::symbol("R"), cols = Dim::symbol("C");
  BufferId x = b.param(t, rows * cols, Access::read), out = b.param(t, rows, Access::write);
  BufferId partial = b.alloc(t, 4, Scope::shared);
  ValueId r = b.dim_param("R"), c = b.dim_param("C");
  b.for_each(r, {.mapping = Mapping::grid_x}, [&](ValueId row) {
    b.for_each(b.index(128), {.mapping = Mapping::block_x}, [&](ValueId thread) {
      auto sum = b.for_(thread, c, b.index(128), {}, {b.constant(t, 0)}, [&](ValueId i, const Builder::Values& acc) {
        return Builder::Values{b.add(acc[0], b.load(x, b.add(b.mul(row, c), i)))};
      });
      ValueId v = sum[0];
      for (int mask : {16, 8, 4, 2, 1}) v = b.add(v, b.shuffle_xor(v, mask));
      ValueId warp = b.op(Op::div, {thread, b.index(32)});
      b.if_(
          b.op(Op::cmp_eq, {b.op(Op::rem, {thread, b.index(32)}), b.index(0)}),
          [&] { return b.store(partial, warp, v), Builder::Values{}; }, [] { return Builder::Values{}; });
      b.barrier();
      b.trap(b.op(Op::cmp_lt, {c, b.index(0)}), 3, c);
      b.if_(
          b.op(Op::cmp_eq, {thread, b.index(0)}),
          [&] {
            ValueId total = b.load(partial, b.index(0));
            for (int i = 1; i < 4; ++i) total = b.add(total, b.load(partial, b.index(i)));
            b.store(out, row, total);
            return Builder::Values{};
          },
          [] { return Builder::Values{}; });
    });
  });
  Kernel k = std::move(b).finish();
  k.grid[0] = rows;
  k.block[0] = 128;
  return k;
}

}  // namespace

TEST_CASE("PTX of every elementwise statement assembles") {
  for (int d = 0; d < dtype_count; ++d) {
    auto t = static_cast<DType>(d);
    std::string log;
    INFO(dtype_name(t));
    std::string ptx = assemble(all_ops(t), d % 2 ? "sm_80" : "sm_90a", log);
    CHECK(ptx.find("approx") == std::string::npos);  // divisions and roots are rounded correctly
    CHECK(ptx.find(".ftz") == std::string::npos);    // subnormals are kept
  }
}

TEST_CASE("PTX of every architecture") {
  for (const std::string& arch : codegen::backend_of(*codegen::describe_target("cuda:sm_80")).known_targets()) {
    INFO(arch);
    auto target = codegen::describe_target("cuda:" + arch);
    REQUIRE(target.has_value());
    auto ptx = codegen::backend_of(*target).emit(row_sums(DType::f32), *target, codegen::EmitKind::ptx, {});
    CHECK(ptx.has_value());
  }
}

TEST_CASE("PTX with shuffles, shared memory, barriers") {
  for (DType t : {DType::f32, DType::f64, DType::f16, DType::i64, DType::u8}) {
    std::string log;
    INFO(dtype_name(t));
    std::string ptx = assemble(row_sums(t), "sm_80", log);
    CHECK(ptx.find("bar.sync") != std::string::npos);
    CHECK(ptx.find("shfl.sync.bfly.b32") != std::string::npos);
    CHECK(ptx.find(".shared") != std::string::npos);
    CHECK(ptx.find(".reqntid 128") != std::string::npos);
  }
}

TEST_CASE("PTX of register tiles keeps them in registers") {
  // The CPU's micro-kernel on one thread a tile: 4 x 8 accumulators.
  Kernel k = test::gemm_kernel(64, 64, 32, 4, 8, false);
  for (auto& s : k.stmts)
    if (s.op == Op::for_ && s.attr.mapping == Mapping::tile) s.attr.mapping = Mapping::block_x;
  k.tiles = 1;
  k.block[0] = 128;
  std::string log;
  std::string ptx = assemble(k, "sm_80", log);
  CHECK(ptx.find("fma.rn.f32") != std::string::npos);
  CHECK(ptx.find(".local") == std::string::npos);
  if (!log.empty()) CHECK(log.find(" 0 bytes spill stores") != std::string::npos);
}

// What the emitter costs and what its code reaches: compile times of small kernels, GFLOP/s of matrix-product tiles
// on one core. Usage: ag-bench-codegen [TARGET [llvm|asm]]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "codegen/backend.hpp"
#include "tests/codegen/gemm.hpp"
#include "tests/codegen/loader.hpp"

using namespace ag;
using namespace ag::loop;

namespace {

double seconds(const std::function<void()>& f) {
  auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Processor time of this thread: compilation measured on a busy machine.
double cpu_seconds(const std::function<void()>& f) {
  auto now = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  double start = now();
  f();
  return now() - start;
}

double best_compile(int n, const std::function<void()>& f) {
  double best = 1e9;
  for (int i = 0; i < n; ++i) best = std::min(best, cpu_seconds(f));
  return best;
}

double best_of(int n, const std::function<void()>& f) {
  double best = 1e9;
  for (int i = 0; i < n; ++i) best = std::min(best, seconds(f));
  return best;
}

std::string emit(const Kernel& k, const TargetSpec& target, codegen::EmitKind kind = codegen::EmitKind::object) {
  auto r = codegen::backend_of(target).emit(k, target, kind, {});
  if (r) return *r;
  for (const Diag& d : r.error()) std::fprintf(stderr, "%s\n", d.message.c_str());
  std::exit(1);
}

/// out = relu(x * y + x), masked tail included.
Kernel elementwise(int lanes) {
  Builder b("k0");
  auto l = static_cast<std::uint16_t>(lanes);
  ValueId n = b.dim_param("N");
  Dim elems = Dim::symbol("N"), tiles = ceildiv(elems, lanes);
  BufferId x = b.param(DType::f32, elems, Access::read), y = b.param(DType::f32, elems, Access::read);
  BufferId z = b.param(DType::f32, elems, Access::write);
  b.for_each(b.dim(tiles), {.mapping = Mapping::tile}, [&](ValueId iv) {
    ValueId base = b.mul(iv, b.index(lanes)), one = b.index(1), zero = b.index(0);
    ValueId mask = b.op(Op::cmp_lt, {b.lane_iota(DType::i64, lanes), b.sub(n, base)});
    ValueId p = b.load_tile(x, {DType::f32, 1, l}, base, zero, one, mask);
    ValueId q = b.load_tile(y, {DType::f32, 1, l}, base, zero, one, mask);
    ValueId r = b.op(Op::max, {b.op(Op::fma, {p, q, p}), b.constant(DType::f32, 0)});
    b.store_tile(z, base, zero, one, r, mask);
  });
  b.kernel().tiles = tiles;
  return std::move(b).finish();
}

void gemm(const TargetSpec& target, int rows, int lanes, std::int64_t m, std::int64_t n, std::int64_t k, bool packed) {
  Kernel kernel = test::gemm_kernel(m, n, k, rows, lanes, packed);
  std::string object;
  double compile = best_compile(10, [&] { object = emit(kernel, target); });
  test::Code code(object, "k");
  auto floats = [](std::int64_t count) {
    auto p = static_cast<float*>(std::aligned_alloc(64, static_cast<std::size_t>(count * 4 + 63) / 64 * 64));
    for (std::int64_t i = 0; i < count; ++i) p[i] = static_cast<float>(i % 7) * 0.25f;
    return p;
  };
  float *a = floats(m * k), *b = floats(k * n), *c = floats(m * n);
  void* buffers[] = {a, b, c};
  ContextBlock context;
  KernelArgs args{buffers, nullptr, &context, nullptr};
  std::int64_t tiles = (m / rows) * (n / lanes);
  double t = best_of(200, [&] { code.fn(&args, 0, tiles); });
  std::printf("gemm %2dx%-2d  %ldx%ldx%ld %-8s compile %.2f ms, object %zu bytes, %.1f GFLOP/s\n", rows, lanes, m, n, k,
              packed ? "packed" : "", compile * 1e3, object.size(), 2e-9 * static_cast<double>(m * n * k) / t);
  std::free(a), std::free(b), std::free(c);
}

}  // namespace

int main(int argc, char** argv) {
  auto target = codegen::describe_target(argc > 1 ? argv[1] : "cpu:native");
  if (!target) return std::fprintf(stderr, "%s\n", target.error()[0].message.c_str()), 1;
  std::printf("# %s: %s, %d bits, %d registers, caches %ld %ld %ld, %d threads\n", target->name.c_str(),
              target->cpu.c_str(), target->vector_bits, target->vector_registers, target->l1_bytes, target->l2_bytes,
              target->l3_bytes, target->threads);
  int v = target->lanes(4), wide = v == 16 ? 64 : 16;
  if (argc > 2) {
    bool llvm = argv[2][0] == 'l';
    auto kind = llvm ? codegen::EmitKind::llvm : codegen::EmitKind::assembly;
    std::fputs(emit(test::gemm_kernel(48, 256, 256, 6, wide, true), *target, kind).c_str(), stdout);
    std::fputs(emit(elementwise(v), *target, kind).c_str(), stdout);
    return 0;
  }
  Kernel small = elementwise(v);
  double first = cpu_seconds([&] { emit(small, *target); });
  std::printf("elementwise: first %.2f ms, then %.2f ms (of it IR and verifier %.2f ms)\n", first * 1e3,
              1e3 * best_compile(20, [&] { emit(small, *target); }),
              1e3 * best_compile(20, [&] { emit(small, *target, codegen::EmitKind::llvm); }));
  if (v == 16) {
    gemm(*target, 6, 64, 48, 256, 256, true);
    gemm(*target, 6, 64, 96, 256, 1024, false);
    gemm(*target, 6, 64, 96, 1024, 256, false);
    gemm(*target, 8, 48, 96, 192, 256, true);
    gemm(*target, 14, 32, 112, 256, 256, true);
    gemm(*target, 12, 32, 96, 256, 256, true);
  } else {
    gemm(*target, 6, 16, 48, 256, 256, true);
    gemm(*target, 4, 24, 48, 240, 256, true);
    gemm(*target, 6, 16, 96, 256, 1024, false);
  }
}

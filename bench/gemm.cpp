// Square f32 products of ag beside OpenBLAS, in one process, taking turns; minima of many runs. Both run on two
// threads.
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "ir/builder.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

template <class F>
double best_ms(F&& f, double best) {
  auto start = std::chrono::steady_clock::now();
  f();
  return std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
}

bool measure(runtime::Engine& engine, std::int64_t n, int rounds) {
  Graph g;
  GraphBuilder b(g);
  Type t{DType::f32, {n, n}};
  ValueId x = b.input("x", t), y = b.input("y", t);
  g.outputs.push_back({"z", b.dot_general(x, y, {1}, {0}), {}});
  auto compiled = engine.compile(g);
  if (!compiled) return false;
  Array a(DType::f32, {n, n}), c(DType::f32, {n, n}), ours(DType::f32, {n, n});
  std::vector<float> theirs(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n * n; ++i) {
    a.as_mutable<float>()[i] = static_cast<float>(std::sin(0.37 * static_cast<double>(i)));
    c.as_mutable<float>()[i] = static_cast<float>(std::cos(0.11 * static_cast<double>(i)));
  }
  runtime::ExecContext context(compiled->executable, {.threads = 2});
  std::vector<runtime::HostArray> in{runtime::view_of(a), runtime::view_of(c)}, out{runtime::view_of(ours)};
  const float *pa = a.as<float>().data(), *pc = c.as<float>().data();
  int size = static_cast<int>(n);
  double ag_ms = 1e9, blas_ms = 1e9;
  for (int i = 0; i < rounds; ++i) {
    ag_ms = best_ms(
        [&] {
          if (!context.run(in, out)) std::abort();
        },
        ag_ms);
    blas_ms = best_ms(
        [&] {
          cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, size, size, size, 1, pa, size, pc, size, 0,
                      theirs.data(), size);
        },
        blas_ms);
  }
  double worst = 0;
  for (std::size_t i = 0; i < theirs.size(); ++i)
    worst = std::max(worst, static_cast<double>(std::abs(theirs[i] - ours.as<float>()[i])));
  double flops = 2.0 * std::pow(static_cast<double>(n), 3) / 1e6;
  fmt::print(
      "gemm {:>5}   ag {:8.3f} ms {:6.1f} GFLOP/s   OpenBLAS {:8.3f} ms {:6.1f} GFLOP/s   ag is {:.2f} times as fast   "
      "(largest difference {:.1e})\n",
      n, ag_ms, flops / ag_ms, blas_ms, flops / blas_ms, blas_ms / ag_ms, worst);
  return true;
}

}  // namespace

int main() {
  openblas_set_num_threads(2);
  auto engine = runtime::Engine::create();
  if (!engine) return 1;
  for (std::int64_t n : {64, 128, 256, 512, 1024})
    if (!measure(**engine, n, n >= 1024 ? 60 : 400)) return 1;
}

// f32 products of ag against the FMA peak measured in the same run, and, if it is there, beside OpenBLAS, in one
// process, taking turns; minima of many runs. Two threads unless a row says one.
//
//   ag-bench-gemm                       the table
//   ag-bench-gemm 128,3072,768,nt ...   these: m,n,k[,nn|nt|tn][,w: constant right side][,b12: batch of 12][,t1]
#include <immintrin.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <sstream>
#include <thread>
#include <vector>

#include <fmt/format.h>

#ifdef AG_BENCH_BLAS
#include <cblas.h>
#endif

#include "ir/attr.hpp"
#include "ir/builder.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class F>
double best_ms(F&& f, double best) {
  double start = now_ms();
  f();
  return std::min(best, now_ms() - start);
}

// -- the peak -------------------------------------------------------------------------------------------------------
constexpr int fma_trips = 40000;

/// GFLOP/s of independent multiply-adds on whole registers, on the calling core.
[[gnu::target("avx512f"), gnu::optimize("O2")]] double fma_rate_512() {
  __m512 acc[14];
  __m512 x = _mm512_set1_ps(1.0000001F), y = _mm512_set1_ps(1e-9F);
  for (auto& a : acc) a = y;
  double start = now_ms();
  for (int i = 0; i < fma_trips; ++i) {
#pragma GCC unroll 16
    for (auto& a : acc) a = _mm512_fmadd_ps(a, x, y);
  }
  double ms = now_ms() - start;
  __m512 sum = y;
  for (auto& a : acc) sum = _mm512_add_ps(sum, a);
  asm volatile("" ::"v"(sum));
  return 14.0 * 32 * fma_trips / ms / 1e6;
}

[[gnu::target("avx2,fma"), gnu::optimize("O2")]] double fma_rate_256() {
  __m256 acc[14];
  __m256 x = _mm256_set1_ps(1.0000001F), y = _mm256_set1_ps(1e-9F);
  for (auto& a : acc) a = y;
  double start = now_ms();
  for (int i = 0; i < fma_trips; ++i) {
#pragma GCC unroll 16
    for (auto& a : acc) a = _mm256_fmadd_ps(a, x, y);
  }
  double ms = now_ms() - start;
  __m256 sum = y;
  for (auto& a : acc) sum = _mm256_add_ps(sum, a);
  asm volatile("" ::"x"(sum));
  return 14.0 * 16 * fma_trips / ms / 1e6;
}

double fma_rate() { return __builtin_cpu_supports("avx512f") ? fma_rate_512() : fma_rate_256(); }

/// The peak of one core and of two at once.
struct Peak {
  double one = 0, two = 0;
  void measure() {
    for (int i = 0; i < 5; ++i) one = std::max(one, fma_rate());
    std::atomic<int> ready{0};
    double rates[2] = {0, 0};
    auto work = [&](int i) {
      ++ready;
      while (ready < 2) _mm_pause();
      for (int r = 0; r < 5; ++r) rates[i] = std::max(rates[i], fma_rate());
    };
    std::thread other(work, 1);
    work(0);
    other.join();
    two = std::max(two, rates[0] + rates[1]);
  }
};

// -- shapes ---------------------------------------------------------------------------------------------------------
struct Shape {
  std::int64_t m, n, k, batch = 1;
  bool left_transposed = false, right_transposed = false, weights = false;
  int threads = 2;

  std::string text() const {
    std::string s = fmt::format("{}x{}x{}", m, n, k);
    if (batch > 1) s = fmt::format("{}x {}", batch, s);
    s += left_transposed ? " TN" : right_transposed ? " NT" : " NN";
    if (weights) s += " W";
    if (threads == 1) s += " 1 thread";
    return s;
  }
  double flops() const { return 2.0 * static_cast<double>(m * n * k * batch); }
  double bytes() const { return 4.0 * static_cast<double>(batch * (m * k + n * k + m * n)); }
};

Shape parse(const std::string& text) {
  Shape s{0, 0, 0};
  std::stringstream in(text);
  std::string word;
  for (std::int64_t* size : {&s.m, &s.n, &s.k})
    if (std::getline(in, word, ',')) *size = std::stoll(word);
  while (std::getline(in, word, ',')) {
    s.left_transposed = s.left_transposed || word == "tn";
    s.right_transposed = s.right_transposed || word == "nt";
    s.weights = s.weights || word == "w";
    if (word == "t1") s.threads = 1;
    if (word[0] == 'b') s.batch = std::stoll(word.substr(1));
  }
  return s;
}

Array filled(std::vector<std::int64_t> shape, double step) {
  Array a(DType::f32, std::move(shape));
  auto values = a.as_mutable<float>();
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(std::sin(step * static_cast<double>(i)));
  return a;
}

/// The graph of a product and its operands in the layout asked for.
struct Product {
  Graph graph;
  Array left, right;

  explicit Product(const Shape& s) {
    std::int64_t b = s.batch;
    auto batched = [&](std::int64_t r, std::int64_t c) {
      return b > 1 ? std::vector<std::int64_t>{b, r, c} : std::vector<std::int64_t>{r, c};
    };
    left = filled(s.left_transposed ? batched(s.k, s.m) : batched(s.m, s.k), 0.37);
    right = filled(s.right_transposed ? batched(s.n, s.k) : batched(s.k, s.n), 0.11);
    GraphBuilder g(graph);
    auto type = [](const Array& a) { return Type{DType::f32, Dims(a.shape().begin(), a.shape().end())}; };
    ValueId x = g.input("x", type(left));
    ValueId y = s.weights ? g.constant(make_literal(right)) : g.input("y", type(right));
    std::int64_t at = b > 1 ? 1 : 0;
    std::vector<std::int64_t> batch = b > 1 ? std::vector<std::int64_t>{0} : std::vector<std::int64_t>{};
    ValueId z =
        g.dot_general(x, y, {at + (s.left_transposed ? 0 : 1)}, {at + (s.right_transposed ? 1 : 0)}, batch, batch);
    graph.outputs.push_back({"z", z, {}});
  }
};

void blas(const Shape& s, const float* left, const float* right, float* out) {
#ifdef AG_BENCH_BLAS
  auto m = static_cast<int>(s.m), n = static_cast<int>(s.n), k = static_cast<int>(s.k);
  for (std::int64_t b = 0; b < s.batch; ++b)
    cblas_sgemm(CblasRowMajor, s.left_transposed ? CblasTrans : CblasNoTrans,
                s.right_transposed ? CblasTrans : CblasNoTrans, m, n, k, 1, left + b * s.m * s.k,
                s.left_transposed ? m : k, right + b * s.n * s.k, s.right_transposed ? k : n, 0, out + b * s.m * s.n,
                n);
#else
  (void)s, (void)left, (void)right, (void)out;
#endif
}

/// Percent of the peak of the same run below which a product has become slower: well under what it reaches on a busy
/// machine.
double floor_of(const Shape& s) {
  const bool plain = !s.left_transposed && !s.right_transposed && !s.weights && s.batch == 1 && s.threads == 2;
  return plain && std::min({s.m, s.n, s.k}) >= 256 ? 80 : 0;
}

/// Counts those below their floor.
bool measure(runtime::Engine& engine, const Shape& s, Peak& peak, int& below) {
  Product p(s);
  auto compiled = engine.compile(p.graph);
  if (!compiled) return false;
  std::vector<std::int64_t> out_shape =
      s.batch > 1 ? std::vector<std::int64_t>{s.batch, s.m, s.n} : std::vector<std::int64_t>{s.m, s.n};
  Array ours(DType::f32, out_shape), theirs(DType::f32, out_shape);
  runtime::ExecContext context(compiled->executable, {.threads = s.threads});
  std::vector<runtime::HostArray> in{runtime::view_of(p.left)}, out{runtime::view_of(ours)};
  if (!s.weights) in.push_back(runtime::view_of(p.right));
  double ag_ms = 1e9, blas_ms = 1e9, spent = 0, limit = 600;
  for (int i = 0; i < 2000 && (spent < limit || i < 20); ++i) {
    double start = now_ms();
    for (int again = 0; again < 3; ++again) ag_ms = best_ms([&] { (void)context.run(in, out); }, ag_ms);
    blas_ms = best_ms(
        [&] { blas(s, p.left.as<float>().data(), p.right.as<float>().data(), theirs.as_mutable<float>().data()); },
        blas_ms);
    if (i % 10 == 0) peak.measure();
    spent += now_ms() - start;
  }
  double worst = 0;
  for (std::int64_t i = 0; i < ours.elems(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(theirs.as<float>()[i]) - ours.as<float>()[i]));
  double rate = s.flops() / 1e6 / ag_ms, top = s.threads == 1 ? peak.one : peak.two, codegen = 0;
  for (const auto& k : compiled->report.kernels) codegen += k.codegen_ms;
  std::string beside;
#ifdef AG_BENCH_BLAS
  beside =
      fmt::format("   OpenBLAS {:5.1f} %   largest difference {:.1e}", 100 * s.flops() / 1e6 / blas_ms / top, worst);
#endif
  fmt::print(
      "{:<24} {:9.4f} ms {:7.1f} GFLOP/s {:6.1f} % of peak {:6.1f} % of a core {:6.1f} GB/s  {} kernels {:5.1f} ms{}\n",
      s.text(), ag_ms, rate, 100 * rate / top, 100 * rate / peak.one, s.bytes() / 1e6 / ag_ms,
      compiled->report.kernels.size(), codegen, beside);
  if (100 * rate / top < floor_of(s)) {
    ++below;
    fmt::print("{:<24} is below {} % of the peak\n", s.text(), floor_of(s));
  }
  std::fflush(stdout);
  return true;
}

const char* const table[] = {
    "64,64,64",        "96,96,96",          "128,128,128",       "192,192,192",     "256,256,256",
    "512,512,512",     "1024,1024,1024",    "2048,2048,2048",    "512,512,512,nt",  "1024,1024,1024,nt",
    "512,512,512,tn",  "1024,1024,1024,tn", "1024,768,256,tn",   "1000,1000,1000",  "127,129,131",
    "128,768,768,w",   "128,768,3072,w",    "128,3072,768,w",    "64,1024,1024,w",  "1,1024,1024,w",
    "1,1024,1024,nt",  "4,4096,1024,w",     "128,128,64,nt,b12", "128,64,128,b12",  "128,128,32,nt,b64",
    "128,32,128,b64",  "1024,10,512",       "4,1024,1024,nt",    "16,1024,1024,nt", "4096,4,1024",
    "64,1024,1024,nt",
};

}  // namespace

int main(int argc, char** argv) {
  // OpenBLAS reads this when it is loaded; without it its threads go on spinning while ag is measured.
  if (setenv("OPENBLAS_THREAD_TIMEOUT", "4", 0) == 0 && !std::getenv("AG_BENCH_STARTED")) {
    setenv("AG_BENCH_STARTED", "1", 1);
    execv("/proc/self/exe", argv);
  }
#ifdef AG_BENCH_BLAS
  openblas_set_num_threads(2);
#endif
  auto engine = runtime::Engine::create();
  if (!engine) return 1;
  std::vector<std::string> shapes(argv + 1, argv + argc);
  if (shapes.empty()) shapes.assign(std::begin(table), std::end(table));
  Peak peak;
  peak.measure();
  fmt::print("FMA peak: {:.1f} GFLOP/s on one core, {:.1f} on two\n", peak.one, peak.two);
  int below = 0;
  for (const std::string& s : shapes)
    if (!measure(**engine, parse(s), peak, below)) return 1;
  return below > 0;
}

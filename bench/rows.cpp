// Row kernels, reductions and elementwise updates of ag beside plain streaming loops that read and write as much,
// taking turns in one process; minima of many runs, both on two threads. A kernel bound by memory should reach the
// stream.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "frontend/load.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

using Clock = std::chrono::steady_clock;
using Vector = float __attribute__((vector_size(64), aligned(4)));

/// Half of a job for this thread, half for a second one, which spins for a while after it and then sleeps, as the
/// threads of ag do: neither may keep a core from the other.
class Pair {
 public:
  Pair() : other_([this] { loop(); }) {}
  ~Pair() {
    stop_ = true;
    go_.fetch_add(1);
    go_.notify_one();
    other_.join();
  }
  void run(const std::function<void(int)>& job) {
    job_ = &job;
    go_.fetch_add(1);
    go_.notify_one();
    job(0);
    while (done_.load(std::memory_order_acquire) != go_.load()) __builtin_ia32_pause();
  }

 private:
  const std::function<void(int)>* job_ = nullptr;
  std::atomic<int> go_ = 0, done_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread other_;

  void loop() {
    for (int seen = 0;;) {
      for (auto since = Clock::now(); go_.load() == seen && Clock::now() - since < std::chrono::milliseconds(1);)
        __builtin_ia32_pause();
      go_.wait(seen);
      if (stop_) return;
      (*job_)(1);
      done_.store(++seen, std::memory_order_release);
    }
  }
};

/// Reads `in` arrays and writes `out` ones (the last of which may be read as well), element by element. Both halves of
/// an array are walked as one thread each.
void stream(int half, const std::vector<const float*>& in, const std::vector<float*>& out, std::size_t elems) {
  const std::size_t from = half ? elems / 2 / 16 * 16 : 0, to = half ? elems : elems / 2 / 16 * 16;
  Vector kept{};
  for (std::size_t i = from; i + 16 <= to; i += 16) {
    Vector sum{};
    for (const float* p : in) sum += *reinterpret_cast<const Vector*>(p + i);
    for (float* p : out) *reinterpret_cast<Vector*>(p + i) = sum;
    kept += sum;
  }
  volatile float sink = kept[0];
  (void)sink;
}

struct Work {
  const char* name;
  std::int64_t rows, columns;
  int reads, writes;  // arrays of rows x columns that the plain loop reads and writes
  const char* json;   // inputs x, and what else it names; {0}: rows, {1}: columns
};

const Work works[] = {
    {"softmax", 4096, 1024, 1, 1, R"("nodes": [ {{ "op": "Softmax", "in": ["x"], "out": "y" }} ])"},
    {"layer norm", 4096, 1024, 1, 1,
     R"("initializers": [ {{ "name": "g", "type": "f32[{1}]", "fill": 2 }} ],
        "nodes": [ {{ "op": "LayerNormalization", "in": ["x", "g"], "out": "y" }} ])"},
    {"gelu", 4096, 1024, 1, 1, R"("nodes": [ {{ "op": "Gelu", "in": ["x"], "out": "y" }} ])"},
    {"relu", 4096, 1024, 1, 1, R"("nodes": [ {{ "op": "Relu", "in": ["x"], "out": "y" }} ])"},
    {"x + x * c", 4096, 1024, 1, 1,
     R"("initializers": [ {{ "name": "c", "type": "f32[{1}]", "fill": 2 }} ],
        "nodes": [ {{ "op": "Mul", "in": ["x", "c"], "out": "a" }},
          {{ "op": "Add", "in": ["a", "x"], "out": "y" }} ])"},
    {"sum of everything", 4096, 1024, 1, 0,
     R"("nodes": [ {{ "op": "ReduceSum", "in": ["x"], "out": "y", "attrs": {{ "keepdims": 0 }} }} ])"},
    {"sums of columns", 4096, 1024, 1, 0,
     R"("initializers": [ {{ "name": "axis", "type": "i64[1]", "fill": 0 }} ],
        "nodes": [ {{ "op": "ReduceSum", "in": ["x", "axis"], "out": "y" }} ])"},
    {"sums of narrow columns", 419430, 10, 1, 0,
     R"("initializers": [ {{ "name": "axis", "type": "i64[1]", "fill": 0 }} ],
        "nodes": [ {{ "op": "ReduceSum", "in": ["x", "axis"], "out": "y" }} ])"},
    {"sums of rows", 4096, 1024, 1, 0,
     R"("initializers": [ {{ "name": "axis", "type": "i64[1]", "fill": 1 }} ],
        "nodes": [ {{ "op": "ReduceSum", "in": ["x", "axis"], "out": "y" }} ])"},
    {"narrow rows plus a bias", 419430, 10, 1, 1,
     R"("initializers": [ {{ "name": "c", "type": "f32[{1}]", "fill": 2 }} ],
        "nodes": [ {{ "op": "Add", "in": ["x", "c"], "out": "y" }} ])"},
};

bool measure(runtime::Engine& engine, Pair& pair, const Work& w) {
  std::string text = fmt::format(fmt::runtime(R"({{ "ag": 1, "opset": 21,
    "inputs": [ {{ "name": "x", "type": "f32[{0},{1}]" }} ], )" +
                                              std::string(w.json) + R"(, "outputs": ["y"] }})"),
                                 w.rows, w.columns);
  Sources sources;
  auto g = load_text(text, "rows.json", "", sources);
  if (!g) return false;
  auto compiled = engine.compile(*g);
  if (!compiled) return false;
  Array x(DType::f32, {w.rows, w.columns});
  auto elems = static_cast<std::size_t>(w.rows * w.columns);
  for (std::size_t i = 0; i < elems; ++i) x.as_mutable<float>()[i] = static_cast<float>(i % 1000) * 0.01f - 5;
  std::vector<std::int64_t> shape;
  for (const Dim& d : g->type(g->outputs[0].value).shape) shape.push_back(d.value());
  Array y(DType::f32, shape);
  runtime::ExecContext context(compiled->executable, {.threads = 2});
  std::vector<runtime::HostArray> in{runtime::view_of(x)}, out{runtime::view_of(y)};
  std::vector<const float*> reads(static_cast<std::size_t>(w.reads), x.as<float>().data());
  std::vector<float*> writes(static_cast<std::size_t>(w.writes), y.as_mutable<float>().data());
  const std::function<void(int)> plain = [&](int half) { stream(half, reads, writes, elems); };
  auto timed = [](auto&& f, double best) {
    auto start = Clock::now();
    f();
    return std::min(best, std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  };
  double ag_ms = 1e9, plain_ms = 1e9;
  for (int round = 0; round < 12; ++round) {
    for (int i = 0; i < 8; ++i)
      ag_ms = timed(
          [&] {
            if (!context.run(in, out)) std::abort();
          },
          ag_ms);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    for (int i = 0; i < 8; ++i) plain_ms = timed([&] { pair.run(plain); }, plain_ms);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  fmt::print("{:24} {:>7} x {:<5}  ag {:7.3f} ms   plain stream {:7.3f} ms   {:5.1f} % of it\n", w.name, w.rows,
             w.columns, ag_ms, plain_ms, 100 * plain_ms / ag_ms);
  return true;
}

}  // namespace

int main() {
  auto engine = runtime::Engine::create();
  if (!engine) return 1;
  Pair pair;
  for (const Work& w : works)
    if (!measure(**engine, pair, w)) return 1;
}

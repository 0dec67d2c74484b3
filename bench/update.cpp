// The optimiser's update of all parameters beside a plain loop that reads and writes the same arrays, both on two
// threads, minima of many steps that take turns. AdamW reads parameter, gradient and two slots and writes all but the
// gradient. Before each, the same kernels compute loss and gradients, so that caches hold the same: the two cores of
// some machines share no cache, or do so only at times (a line's trip between them tells), and what a core did not
// compute is then far away.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "bench/pair.hpp"
#include "frontend/load.hpp"
#include "passes/train.hpp"
#include "runtime/engine.hpp"
#include "runtime/exec/gang.hpp"
#include "runtime/exec/state.hpp"

using namespace ag;
using ag::bench::Pair;

namespace {

using Clock = std::chrono::steady_clock;
using Vector = float __attribute__((vector_size(64), aligned(4)));

/// Reads all arrays of `in` and writes all of `out`, element by element; each half by one thread.
void stream(int half, const std::vector<float*>& in, const std::vector<float*>& out, std::size_t elems) {
  const std::size_t middle = elems / 2 / 16 * 16, from = half ? middle : 0, to = half ? elems : middle;
  for (std::size_t i = from; i + 16 <= to; i += 16) {
    Vector sum{};
    for (const float* p : in) sum += *reinterpret_cast<const Vector*>(p + i);
    for (float* p : out) *reinterpret_cast<Vector*>(p + i) = sum * 0.125f;
  }
}

/// Nanoseconds for a line of memory to go from one core to the other and back, the least of many.
double trip_of_a_line(Pair& pair) {
  alignas(64) std::atomic<int> ball = 0;
  constexpr int trips = 2000;
  double least = 1e18;
  for (int round = 0; round < 10; ++round) {
    ball = 0;
    pair.run([&](int half) {
      const auto start = Clock::now();
      for (int i = half; i < 2 * trips; i += 2) {
        while (ball.load(std::memory_order_acquire) != i) {
        }
        ball.store(i + 1, std::memory_order_release);
      }
      if (half == 0) least = std::min(least, std::chrono::duration<double, std::nano>(Clock::now() - start).count());
    });
  }
  return least / trips;
}

/// A model whose gradients are multiples of its inputs: the sum of w * x over all parameters, and a function of it, so
/// that forward comes before backward. The parameters are trained, or inputs of a program that ends with gradients.
std::string model(const std::vector<std::int64_t>& sizes, bool trained) {
  std::string inputs, parameters, nodes, sum, wrt;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const char* comma = i ? ", " : "";
    const std::string type = fmt::format("f32[{}]", sizes[i]);
    inputs += fmt::format(R"({}{{ "name": "x{}", "type": "{}" }})", comma, i, type);
    parameters += fmt::format(R"({}{{ "name": "w{}", "type": "{}"{} }})", comma, i, type,
                              trained ? R"(, "fill": 0.5, "trainable": true)" : "");
    nodes += fmt::format(R"({}{{ "op": "MatMul", "in": ["w{}", "x{}"], "out": "s{}" }})", comma, i, i, i);
    wrt += fmt::format(R"({}"w{}")", comma, i);
    if (i) nodes += fmt::format(R"(, {{ "op": "Add", "in": ["{}", "s{}"], "out": "t{}" }})", sum, i, i);
    sum = i ? fmt::format("t{}", i) : "s0";
  }
  nodes += fmt::format(R"(, {{ "op": "Mul", "in": ["{}", 1e-9], "out": "small" }},
                            {{ "op": "Tanh", "in": ["small"], "out": "loss" }})",
                       sum);
  return fmt::format(
      R"({{ "ag": 1, "inputs": [ {}{}{} ], "initializers": [ {} ], "nodes": [ {} ], "outputs": ["loss"]{} }})", inputs,
      trained ? "" : ", ", trained ? "" : parameters, trained ? parameters : "", nodes,
      trained ? "" : fmt::format(R"(, "grad": {{ "of": "loss", "wrt": [{}] }})", wrt));
}

struct Updates {
  double ns = 0, total_ns = 0;  ///< least time of each, and of all runs, together
  std::size_t calls = 0;
};
/// The kernels that change state: how many, and their times.
Updates updates(const runtime::ExecContext& context) {
  Updates u;
  const loop::Program& p = context.executable().program();
  for (const runtime::CallProfile& c : context.profile()) {
    const loop::Kernel& k = p.kernels[c.call->kernel];
    bool writes = false;
    for (std::size_t i = 0; i < c.call->buffers.size(); ++i)
      writes = writes || (p.buffers[c.call->buffers[i]].kind == loop::BufferKind::state &&
                          k.buffers[i].access != loop::Access::read && !k.buffers[i].elems.is(1));
    if (writes) u.ns += c.min_ns, u.total_ns += c.total_ns, ++u.calls;
  }
  return u;
}

/// What the plain loop needs: a program that computes loss and gradients and no update, and the loop's arrays, which
/// are that program's parameters and gradients.
struct Reference {
  runtime::Compiled compiled;
  std::vector<runtime::OwnedArray> memory;
  std::vector<float*> arrays;                  ///< gradients, parameters, slots: of all parameters each
  std::vector<runtime::HostArray> in, out;     ///< of the program
  float loss = 0;
};

Status prepare(runtime::Engine& engine, Reference& r, int slots, const std::vector<std::int64_t>& sizes,
               std::span<const runtime::HostArray> inputs, std::int64_t total) {
  Sources sources;
  AG_TRY(const Graph g, load_text(model(sizes, false), "gradients.json", "", sources));
  AG_TRY(r.compiled, engine.compile(g));
  for (int i = 0; i < 2 + slots; ++i) {
    AG_TRY(runtime::OwnedArray array, runtime::OwnedArray::allocate(DType::f32, {total}));
    r.arrays.push_back(static_cast<float*>(array.view().data));
    std::fill_n(r.arrays.back(), total, 0.25f);
    r.memory.push_back(std::move(array));
  }
  r.in.assign(inputs.begin(), inputs.end());
  r.out.push_back({DType::f32, {}, &r.loss, sizeof r.loss});
  for (std::int64_t n : sizes) {
    const auto done = r.in.size() - sizes.size();
    const std::int64_t at = std::accumulate(sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(done), 0L);
    const auto bytes = static_cast<std::size_t>(n) * sizeof(float);
    r.in.push_back({DType::f32, {n}, r.arrays[1] + at, bytes});
    r.out.push_back({DType::f32, {n}, r.arrays[0] + at, bytes});
  }
  return {};
}

Result<int> measure(runtime::Engine& engine, Pair& pair, const char* optimiser, int slots,
                    std::vector<std::int64_t> sizes) {
  std::stable_partition(sizes.begin(), sizes.end(), [](std::int64_t n) { return n % 16 == 0; });  // as ag lays them
  Sources sources;
  AG_TRY(Graph g, load_text(model(sizes, true), "update.json", "", sources));
  passes::PassContext pass_context;
  AG_TRY(const passes::Optimiser o, passes::parse_optimiser(optimiser));
  AG_TRY(passes::TrainStep step, passes::train_step(std::move(g), o, pass_context));
  AG_TRY(runtime::Compiled compiled, engine.compile(step.graph));
  AG_TRY(std::unique_ptr<runtime::State> state, runtime::State::create(compiled.executable));
  for (const passes::StateValue& v : step.states)
    AG_TRY_(state->set(*state->find(v.name), runtime::view_of(v.initial->materialize())));
  std::vector<Array> inputs;
  std::vector<runtime::HostArray> views;
  const std::int64_t total = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  for (std::int64_t n : sizes) {
    inputs.emplace_back(DType::f32, std::vector<std::int64_t>{n});
    std::ranges::fill(inputs.back().as_mutable<float>(), 0.25f);
  }
  for (const Array& a : inputs) views.push_back(runtime::view_of(a));
  Reference r;
  AG_TRY_(prepare(engine, r, slots, sizes, views, total));

  const auto pool = bench::patient_pool();
  runtime::ExecContext context(compiled.executable, {.threads = 2, .pool = pool, .profile = true});
  runtime::ExecContext gradients(r.compiled.executable, {.threads = 2, .pool = pool, .profile = true});
  runtime::Gang gang;
  const std::vector<float*> kept(r.arrays.begin() + 1, r.arrays.end());
  std::function<void(int)> plain = [&](int half) { stream(half, r.arrays, kept, static_cast<std::size_t>(total)); };
  auto part = [](void* job, int p, int) { (*static_cast<std::function<void(int)>*>(job))(p); };
  AG_TRY_(context.run_allocating(views, *state));  // the threads are there
  const bench::KeptCores cores;
  double plain_ns = 1e18;
  std::vector<double> ratios;  // of the means of a round
  const auto begun = Clock::now();
  for (int round = 0; round < 10 || Clock::now() - begun < std::chrono::milliseconds(1500); ++round) {
    const double begin_ns = updates(context).total_ns;
    for (int i = 0; i < 6; ++i) AG_TRY_(context.run_allocating(views, *state));
    const double own_ns = updates(context).total_ns - begin_ns;
    double round_ns = 0;
    for (int i = 0; i < 6; ++i) {
      AG_TRY_(gradients.run(r.in, r.out));
      gang.acquire(*pool, 2);
      const auto start = Clock::now();
      gang.run(2, part, &plain);
      const double ns = std::chrono::duration<double, std::nano>(Clock::now() - start).count();
      gang.release();
      plain_ns = std::min(plain_ns, ns);
      round_ns += ns;
    }
    ratios.push_back(round_ns / own_ns);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(3));  // the pool's thread leaves the core to the pair's
  std::nth_element(ratios.begin(), ratios.begin() + static_cast<std::ptrdiff_t>(ratios.size() / 2), ratios.end());
  const Updates u = updates(context);
  fmt::print(
      "{:18} {:>9} parameters in {:3} arrays  ag {:7.3f} ms in {} kernels   plain stream {:7.3f} ms   {:5.1f} %   "
      "median round {:5.1f} %   a line's trip {:.0f} ns\n",
      optimiser, total, sizes.size(), u.ns * 1e-6, u.calls, plain_ns * 1e-6, 100 * plain_ns / u.ns,
      100 * ratios[ratios.size() / 2], trip_of_a_line(pair));
  return 0;
}

}  // namespace

int main() {
  auto engine = runtime::Engine::create();
  if (!engine) return 1;
  Pair pair;
  const std::vector<std::int64_t> mlp{784 * 1024, 1024, 1024 * 1024, 1024, 10240, 10};
  std::vector<std::int64_t> transformer{256000, 32768, 256000, 1000}, large{2048 * 1000, 1000};
  for (int block = 0; block < 4; ++block)
    for (std::int64_t n : {256, 256, 196608, 768, 65536, 256, 256, 256, 262144, 1024, 262144, 256})
      transformer.push_back(n);
  for (int layer = 0; layer < 10; ++layer)
    for (std::int64_t n : {512 * 512 * 9, 512, 1001}) large.push_back(n);
  struct Case {
    const char* optimiser;
    int slots;
  };
  for (const std::vector<std::int64_t>& sizes : {mlp, transformer, large})
    for (const Case& c : {Case{"adamw", 2}, Case{"sgd,momentum=0.9", 1}, Case{"sgd", 0}})
      if (auto done = measure(**engine, pair, c.optimiser, c.slots, sizes); !done) {
        for (const Diag& d : done.error()) fmt::print("{}\n", d.message);
        return 1;
      }
}

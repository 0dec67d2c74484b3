// Programs in several threads: the same bits, no more threads than asked for, cancelling, sharing.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "passes/pass.hpp"
#include "runtime/exec/executable.hpp"
#include "tests/exec/programs.hpp"

using namespace ag;
using namespace ag::runtime;
using namespace ag::runtime::test;
using Clock = std::chrono::steady_clock;

namespace {
/// Each tile sums 100 numbers of its own; with a scratch buffer that other threads must not see.
void chunk_sums(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  auto* scratch = static_cast<float*>(a->scratch);
  for (auto t = lo; t < hi; ++t) {
    for (int i = 0; i < 100; ++i) scratch[i] = ptr<float>(a, 0)[t * 100 + i] * 1.0001f;
    float sum = 0;
    for (int i = 0; i < 100; ++i) sum += scratch[i];
    ptr<float>(a, 1)[t] = sum;
  }
}
ProgramMaker chunk_program() {
  ProgramMaker m;
  const Dim N = Dim::symbol("N"), n = Dim::symbol("n");
  const auto x = m.input("x", {N, 100}), y = m.output("y", {N});
  const auto k = m.kernel(chunk_sums, {{DType::f32, Access::read, n * Dim(100)}, {DType::f32, Access::write, n}}, n,
                          n * Dim(20000));
  m.add(m.call(k, {x, y}, {N}));
  m.p.scratch_bytes = 400;
  return m;
}
std::vector<float> random_floats(std::size_t n, unsigned seed) {
  std::mt19937 gen(seed);
  std::uniform_real_distribution<float> d(-1, 1);
  std::vector<float> v(n);
  for (auto& x : v) x = d(gen);
  return v;
}
/// The host's threads: started anew for each job.
struct PlainPool : HostPool {
  int n;
  std::atomic<int> jobs{0};
  explicit PlainPool(int threads) : n(threads) {}
  int threads() const override { return n; }
  void parallel_for(int parts, PartFn part, void* user) override {
    ++jobs;
    std::vector<std::thread> threads;
    for (int p = 0; p < parts; ++p) threads.emplace_back([=] { part(user, p, parts); });
    for (auto& t : threads) t.join();
  }
};
}  // namespace

TEST_CASE("the same bits at any number of threads, and on a host's pool") {
  auto exe = chunk_program().must();
  auto x = random_floats(100 * 777, 1);
  auto in = view(x, {777, 100});
  std::vector<float> expected(777);
  {
    ExecContext ctx(exe);
    auto out = view(expected);
    REQUIRE(ctx.run({&in, 1}, {&out, 1}));
  }
  auto check = [&](ExecOptions options) {
    ExecContext ctx(exe, std::move(options));
    for (int i = 0; i < 20; ++i) {
      std::vector<float> y(777);
      auto out = view(y);
      REQUIRE(ctx.run({&in, 1}, {&out, 1}));
      REQUIRE(std::memcmp(y.data(), expected.data(), 777 * 4) == 0);
    }
  };
  for (int threads : {2, 3, 8})  // eight on two cores: finishes all the same
    check({.threads = threads, .pool = std::make_shared<ThreadPool>(threads - 1)});
  auto host = std::make_shared<PlainPool>(3);
  check({.host_pool = host});
  CHECK(host->jobs == 20);
}

TEST_CASE("small programs start no thread, large ones do") {
  for (bool expensive : {false, true}) {
    auto pool = std::make_shared<ThreadPool>(1);
    ExecContext ctx(small_program(expensive).must(), {.threads = 2, .pool = pool});
    std::vector<float> x(1000), y(1000);
    auto in = view(x), out = view(y);
    for (int i = 0; i < 100; ++i) REQUIRE(ctx.run({&in, 1}, {&out, 1}));
    CHECK(pool->started() == (expensive ? 1 : 0));
  }
}

namespace {
std::size_t threads_of_process() {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& task : std::filesystem::directory_iterator("/proc/self/task")) ++n;
  return n;
}
double best_ms(ExecContext& ctx, const HostArray& in, const HostArray& out) {
  double best = 1e9;
  for (int i = 0; i < 8; ++i) {
    const auto start = Clock::now();
    REQUIRE(ctx.run({&in, 1}, {&out, 1}));
    best = std::min(best, std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  return best;
}
}  // namespace

TEST_CASE("a context never has more threads than were asked for, nor more than there are cores") {
  const std::size_t before = threads_of_process();
  for (int threads : {1, 2, 3, 64}) {
    ExecContext ctx(chunk_program().must(), {.threads = threads});
    auto x = random_floats(100 * 777, 1);
    std::vector<float> y(777);
    auto in = view(x, {777, 100}), out = view(y);
    for (int i = 0; i < 10; ++i) REQUIRE(ctx.run({&in, 1}, {&out, 1}));
    CHECK(threads_of_process() - before <= static_cast<std::size_t>(useful_threads(threads)) - 1);
  }
}

TEST_CASE("eight threads on fewer cores take turns without losing much") {
  // Sixty calls in a row, each too short to sleep through: whoever waits must let the others run.
  ProgramMaker m;
  const Dim N = Dim::symbol("N"), n = Dim::symbol("n");
  const auto x = m.input("x", {N, 100}), y = m.output("y", {N});
  const auto k = m.kernel(chunk_sums, {{DType::f32, Access::read, n * Dim(100)}, {DType::f32, Access::write, n}}, n,
                          n * Dim(20000));
  for (int i = 0; i < 60; ++i) m.add(m.call(k, {x, y}, {N}));
  m.p.scratch_bytes = 400;
  auto exe = m.must();
  auto numbers = random_floats(100 * 777, 1);
  std::vector<float> sums(777), expected(777);
  auto in = view(numbers, {777, 100}), out = view(sums), want = view(expected);
  ExecContext few(exe, {.threads = 2, .pool = std::make_shared<ThreadPool>(1)});
  ExecContext many(exe, {.threads = 8, .pool = std::make_shared<ThreadPool>(7)});
  const double two = best_ms(few, in, want), eight = best_ms(many, in, out);
  INFO(two << " ms with two threads, " << eight << " ms with eight");
  CHECK(std::memcmp(sums.data(), expected.data(), 777 * 4) == 0);
  CHECK(eight < 10 * two + 5);
}

namespace {
/// b2[i] = b0[n-1-i] + 3 b1[i]: what one part wrote, others read.
void cross(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  const std::int64_t n = a->dims[0];
  for (auto i = lo; i < hi; ++i) {
    ptr<float>(a, 2)[i] = ptr<float>(a, 0)[n - 1 - i] * 0.25f + ptr<float>(a, 1)[i] * 0.5f;
    if (i % 97 == 0) std::this_thread::yield();
  }
}
/// Calls over few temps, some alone on a thread; temps share memory as the planner decides.
ProgramMaker crossing_calls(unsigned seed) {
  std::mt19937 gen(seed);
  auto roll = [&](int n) { return static_cast<int>(gen() % static_cast<unsigned>(n)); };
  ProgramMaker m;
  constexpr std::int64_t size = 300;
  const Dim n = Dim::symbol("n");
  std::vector<ProgramBufferId> readable{m.input("x", {size})};
  const std::vector<ProgramMaker::Param> params{
      {DType::f32, Access::read, n}, {DType::f32, Access::read, n}, {DType::f32, Access::write, n}};
  const auto divided = m.kernel(cross, params, n, n * Dim(20000)), alone = m.kernel(cross, params, n, 1);
  auto call = [&](ProgramBufferId to) {
    const auto last = static_cast<int>(readable.size());
    const int a = std::max(0, last - 1 - roll(6)), b = std::max(0, last - 1 - roll(6));
    m.add(m.call(roll(4) ? divided : alone,
                 {readable[static_cast<std::size_t>(a)], readable[static_cast<std::size_t>(b)], to}, {size}));
  };
  for (int i = 0; i < 40; ++i) {
    const auto t = m.temp("t" + std::to_string(i), {size});
    call(t);
    readable.push_back(t);
  }
  for (int i = 0; i < 3; ++i) call(m.output("y" + std::to_string(i), {size}));
  ag::passes::PassContext context;
  m.p = ag::passes::plan_memory.on_program(std::move(m.p), context).value();
  return m;
}
}  // namespace

TEST_CASE("calls that wait only for what they share memory with give the same bits") {
  auto x = random_floats(300, 5);
  auto in = view(x);
  for (unsigned seed = 0; seed < 40; ++seed) {
    INFO("seed " << seed);
    auto exe = crossing_calls(seed).must();
    std::vector<std::vector<float>> want(3, std::vector<float>(300)), have = want;
    auto views = [](auto& list) {
      std::vector<HostArray> v;
      for (auto& y : list) v.push_back(view(y));
      return v;
    };
    REQUIRE(ExecContext(exe).run({&in, 1}, views(want)));
    ExecContext ctx(exe, {.threads = 3, .pool = std::make_shared<ThreadPool>(2)});
    for (int i = 0; i < 5; ++i) {
      REQUIRE(ctx.run({&in, 1}, views(have)));
      REQUIRE(have == want);
    }
  }
}

TEST_CASE("one executable in eight threads, a context each") {
  auto exe = chunk_program().must();
  auto pool = std::make_shared<ThreadPool>(1);
  std::atomic<int> bad{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      ExecContext ctx(exe, {.threads = 2, .pool = pool});
      for (std::int64_t n = 1; n < 60; ++n) {
        auto x = random_floats(100 * n, t);
        std::vector<float> y(n), z(n);
        auto in = view(x, {n, 100}), out = view(y);
        if (!ctx.run({&in, 1}, {&out, 1})) ++bad;
        std::vector<float> scratch(100);
        void* buffers[] = {x.data(), z.data()};
        KernelArgs args{buffers, nullptr, nullptr, scratch.data()};
        chunk_sums(&args, 0, n);
        if (std::memcmp(y.data(), z.data(), n * 4) != 0) ++bad;
      }
    });
  for (auto& t : threads) t.join();
  CHECK(bad == 0);
  CHECK(pool->started() <= 1);
}

namespace {
/// Runs until cancelled.
void endless(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  for (auto i = lo; i < hi; ++i)
    while (a->context->cancelled.load(std::memory_order_relaxed) == 0) {
    }
}
void one_pass(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  auto* x = ptr<float>(a, 0);
  if (x[0] > 0) endless(a, lo, hi);
}
}  // namespace

TEST_CASE("another thread cancels a run; the context can be used again") {
  for (int threads : {1, 2}) {
    ProgramMaker m;
    const auto x = m.input("x", {1});
    const auto k = m.kernel(one_pass, {{DType::f32, Access::read, 1}}, 2, 1 << 30, false);
    m.add(m.call(k, {x}, {}));
    ExecContext ctx(m.must(), {.threads = threads});
    std::vector<float> v{1};
    auto in = view(v);
    Clock::time_point asked;
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      asked = Clock::now();
      ctx.cancel();
    });
    auto status = ctx.run({&in, 1}, std::span<const HostArray>{});
    const auto late = Clock::now();
    other.join();
    CHECK(code_of(status) == "AG5011");
    check_golden("exec_cancelled.txt", text_of(status));
    CHECK(late - asked < std::chrono::milliseconds(200));  // 10 ms on a quiet machine
    v[0] = 0;
    CHECK(ctx.run({&in, 1}, std::span<const HostArray>{}));
    ctx.cancel();
    CHECK(code_of(ctx.run({&in, 1}, std::span<const HostArray>{})) == "AG5011");
    CHECK(ctx.run({&in, 1}, std::span<const HostArray>{}));
  }
}

TEST_CASE("a context in use is an error, not a race") {
  ProgramMaker m;
  const auto x = m.input("x", {1});
  m.add(m.call(m.kernel(endless, {{DType::f32, Access::read, 1}}, 1, 0, false), {x}, {}));
  ExecContext ctx(m.must());
  std::vector<float> v{1};
  auto in = view(v);
  std::string first;
  std::thread other([&] { first = code_of(ctx.run({&in, 1}, std::span<const HostArray>{})); });
  std::string second;
  const auto until = Clock::now() + std::chrono::seconds(10);
  while (second != "AG5018" && Clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    auto shapes = ctx.output_shapes({&in, 1});
    second = code_of(shapes);
    if (!shapes) check_golden("exec_busy.txt", text_of(shapes));
  }
  ctx.cancel();
  other.join();
  CHECK(first == "AG5011");
  CHECK(second == "AG5018");
}

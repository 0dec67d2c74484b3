// What running costs beside the kernels: an entry of the step table, a fork and join, waking parked workers,
// starting the linker, linking kernels.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "codegen/backend.hpp"
#include "ir/loop/builder.hpp"
#include "runtime/cpu/loader.hpp"

using namespace ag;
using namespace ag::runtime;
using Clock = std::chrono::steady_clock;

namespace {

double us(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

struct Stats {
  double min, median;
};
template <class F>
Stats measure(int repeats, F f) {
  std::vector<double> t;
  for (int i = 0; i < repeats; ++i) {
    const auto start = Clock::now();
    f();
    t.push_back(us(Clock::now() - start));
  }
  std::sort(t.begin(), t.end());
  return {t[0], t[t.size() / 2]};
}
void report(const char* what, Stats s, double scale, const char* unit) {
  fmt::print("{:<58} min {:9.2f}  median {:9.2f} {}\n", what, s.min * scale, s.median * scale, unit);
}

void nothing(const loop::KernelArgs*, std::int64_t, std::int64_t) {}

loop::Program empty_program(int calls, std::int64_t flops) {
  loop::Program p;
  p.inputs = {p.buffers.push({.name = "x", .kind = loop::BufferKind::input, .shape = {16}})};
  p.outputs = {p.buffers.push({.name = "y", .kind = loop::BufferKind::output, .shape = {16}})};
  loop::Kernel k;
  k.buffers = {{.elems = 16}, {.access = loop::Access::write, .elems = 16}};
  k.tiles = 16;
  k.flops = flops;
  const auto id = p.kernels.push(k);
  for (int i = 0; i < calls; ++i)
    p.body.steps.push_back({loop::KernelCall{id, {p.inputs[0], p.outputs[0]}, {}, {}, "k"}});
  return p;
}

void step_table(const char* what, int threads, std::int64_t flops) {
  for (int calls : {1, 1000}) {
    auto exe = Executable::create(empty_program(calls, flops), {{nothing}, nullptr});
    ExecContext ctx(*exe, {.threads = threads});
    std::vector<float> x(16), y(16);
    HostArray in{DType::f32, {16}, x.data(), 64}, out{DType::f32, {16}, y.data(), 64};
    const int runs = calls == 1 ? 1000 : 1;
    auto s = measure(200, [&] {
      for (int i = 0; i < runs; ++i) (void)ctx.run({&in, 1}, {&out, 1});
    });
    report(fmt::format("{}, {} calls a run: per call", what, calls).c_str(), s, 1000.0 / (calls * runs), "ns");
  }
}

/// Keeps a core busy for about a nanosecond a unit.
void work(std::int64_t units) {
  for (std::int64_t i = 0; i < units * 2; ++i) asm volatile("" ::: "memory");
}

/// What a division costs beyond the work of its longest part.
void fork_join(int threads) {
  for (std::int64_t units : {1000, 5000}) {
    ThreadPool pool(threads - 1);
    Gang gang;
    gang.acquire(pool, threads);
    auto part = [](void* u, int, int) { work(*static_cast<std::int64_t*>(u)); };
    const auto alone = measure(2000, [&] { work(units); });
    const auto divided = measure(2000, [&] { gang.run(threads, part, &units); });
    fmt::print("{:<58} min {:9.2f}  median {:9.2f} us, beyond {:.2f} us of work\n",
               fmt::format("fork and join of {} threads", threads), divided.min - alone.min,
               divided.median - alone.median, alone.median);
  }
}

void wake() {
  ThreadPool pool(1, {.park = std::chrono::microseconds(1)});
  Gang gang;
  gang.acquire(pool, 2);
  std::vector<double> began, posted;
  for (int i = 0; i < 200; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    struct Job {
      Clock::time_point start;
      std::atomic<bool> began{false};
      double post_us = 0;
    } job{Clock::now()};
    // Part 0 waits for the worker, so that the worker's part is not taken over.
    gang.run(
        2,
        [](void* user, int part, int) {
          auto& j = *static_cast<Job*>(user);
          if (part == 1) {
            j.began = true;
            return;
          }
          j.post_us = us(Clock::now() - j.start);
          while (!j.began && Clock::now() - j.start < std::chrono::milliseconds(20)) {
          }
        },
        &job);
    began.push_back(us(Clock::now() - job.start));
    posted.push_back(job.post_us);
  }
  for (auto* t : {&began, &posted}) std::sort(t->begin(), t->end());
  report("a parked worker begins its part", {began[0], began[began.size() / 2]}, 1, "us");
  report("... the caller goes on", {posted[0], posted[posted.size() / 2]}, 1, "us");
}

void link() {
  std::vector<loop::Kernel> kernels;
  for (int i = 0; i < 50; ++i) {
    loop::Builder b("k");
    const auto x = b.param(DType::f32, 1024, loop::Access::read), y = b.param(DType::f32, 1024, loop::Access::write);
    b.for_each(b.index(1024), {.mapping = loop::Mapping::tile},
               [&](loop::ValueId iv) { b.store(y, iv, b.mul(b.load(x, iv), b.constant(DType::f32, i + 2))); });
    b.kernel().tiles = 1024;
    kernels.push_back(std::move(b).finish());
  }
  auto target = codegen::describe_target("cpu:native");
  const auto start = Clock::now();
  auto first = compile_kernels({kernels.data(), 3}, *target, {.threads = 2});
  fmt::print("{:<58} {:>13.2f} ms\n", "first 3 tiny kernels compiled on 2 threads", us(Clock::now() - start) / 1000);
  const auto created = Clock::now();
  auto loader = Loader::create();
  fmt::print("{:<58} {:>13.2f} ms\n", "linker started", us(Clock::now() - created) / 1000);
  const auto linking = Clock::now();
  auto code = (*loader)->load(first->kernels);
  fmt::print("{:<58} {:>13.2f} ms\n", "first 3 tiny kernels linked", us(Clock::now() - linking) / 1000);
  auto all = compile_kernels(kernels, *target, {.threads = 2});
  report("link of 50 kernels: per kernel", measure(20, [&] { auto c = (*loader)->load(all->kernels); }), 1.0 / 50,
         "us");
  report("link of 1 kernel", measure(50, [&] { auto c = (*loader)->load({all->kernels.data(), 1}); }), 1, "us");
}

}  // namespace

int main() {
  link();
  step_table("one thread", 1, 0);
  step_table("small kernels, two threads allowed", 2, 0);
  step_table("divided, but done by the caller before others begin", 2, 1 << 20);
  fork_join(2);
  wake();
}

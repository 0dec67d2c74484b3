// One Executable run by eight threads with a context each, under the thread sanitizer, which ends the program with an
// error if it sees a race. Kernels are C++ here, so that they are watched too. Exit status 0: the answers are right.
#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include "runtime/exec/executable.hpp"

using namespace ag;
using namespace ag::runtime;
using loop::KernelArgs;

namespace {

constexpr std::int64_t tile = 64;

/// y = 3 x + 1 for the elements of tiles [lo, hi).
void affine(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  const auto* x = static_cast<const float*>(a->buffers[0]);
  auto* y = static_cast<float*>(a->buffers[1]);
  for (std::int64_t i = lo * tile; i < hi * tile; ++i) y[i] = 3 * x[i] + 1;
}
/// What affine touches: tile t elements 64 t to 64 t + 63 of both buffers.
loop::Footprint rows_of_tiles() {
  loop::FootprintAtom number{.kind = loop::FootprintAtom::Kind::tile, .operands = {}};
  const loop::Touch touch{{{0, {{0, tile}}}}, {{tile - 1, {{0, tile}}}}, {}};
  return {{number}, {{{touch}, {}}, {{}, {touch}}}};
}
/// Reversed copy: what one part wrote, another part reads in the next kernel. Uses the thread's scratch.
void reverse(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  const auto* x = static_cast<const float*>(a->buffers[0]);
  auto* y = static_cast<float*>(a->buffers[1]);
  auto* scratch = static_cast<float*>(a->scratch);
  const std::int64_t n = a->dims[0];
  for (std::int64_t t = lo; t < hi; ++t) {
    for (std::int64_t i = 0; i < tile; ++i) scratch[i] = x[n - 1 - (t * tile + i)];
    for (std::int64_t i = 0; i < tile; ++i) y[t * tile + i] = scratch[i];
  }
}

loop::Program make_program() {
  loop::Program p;
  const Dim n = Dim::symbol("n"), tiles = floordiv(n, Dim(tile));
  auto buffer = [&](loop::BufferKind kind) {
    loop::ProgramBuffer b{.kind = kind, .shape = {n}};
    return p.buffers.push(std::move(b));
  };
  p.inputs = {buffer(loop::BufferKind::input)};
  p.outputs = {buffer(loop::BufferKind::output)};
  const auto temp = buffer(loop::BufferKind::temp), next = buffer(loop::BufferKind::temp);
  p.buffers[temp].planned = p.buffers[next].planned = true;
  p.buffers[temp].offset = 0;
  p.buffers[next].offset = n * Dim(4);
  p.arena_bytes = n * Dim(8);
  p.scratch_bytes = tile * 4;
  p.dim_sources.push_back({"n", 0, 0});
  auto kernel = [&] {
    loop::Kernel k;
    k.buffers = {{.access = loop::Access::read, .elems = n}, {.access = loop::Access::write, .elems = n}};
    k.dims = {"n"};
    k.tiles = tiles;
    k.flops = Dim(1 << 22);
    return p.kernels.push(std::move(k));
  };
  const auto first = kernel(), second = kernel();
  p.body.steps.push_back({loop::KernelCall{first, {p.inputs[0], temp}, {n}, {}, "affine"}});
  p.body.steps.push_back({loop::KernelCall{first, {temp, next}, {n}, {}, "affine without a wait"}});
  p.body.steps.push_back({loop::KernelCall{second, {next, p.outputs[0]}, {n}, {}, "reverse"}});
  return p;
}

std::atomic<int> wrong{0};

void work(const std::shared_ptr<const Executable>& e, const std::shared_ptr<ThreadPool>& pool, int id) {
  ExecContext context(e, {.threads = 3, .pool = pool});
  for (int run = 0; run < 60; ++run) {
    const std::int64_t n = tile * (1 + (run * 7 + id) % 20);
    std::vector<float> x(static_cast<std::size_t>(n)), y(x.size());
    for (std::int64_t i = 0; i < n; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>(i + id);
    const HostArray in{DType::f32, {n}, x.data(), x.size() * 4}, out{DType::f32, {n}, y.data(), y.size() * 4};
    std::thread canceller;
    const bool cancelled = run % 10 == 9;
    if (cancelled) canceller = std::thread([&] { context.cancel(); });
    const bool ran = context.run({&in, 1}, {&out, 1}).has_value();
    if (cancelled) {
      canceller.join();
      (void)context.run({&in, 1}, {&out, 1});  // takes the cancellation if the run before did not
      continue;
    }
    bool right = ran;
    for (std::int64_t i = 0; right && i < n; ++i)
      right = y[static_cast<std::size_t>(i)] == static_cast<float>(9 * (n - 1 - i + id) + 4);
    if (!right) ++wrong;
  }
}

}  // namespace

int main() {
  auto e = Executable::create(make_program(), {{affine, reverse}, nullptr, {rows_of_tiles(), {}}});
  if (!e) {
    std::fprintf(stderr, "%s\n", e.error().front().message.c_str());
    return 2;
  }
  auto shared = std::make_shared<ThreadPool>(3);
  std::vector<std::thread> threads;
  for (int id = 0; id < 8; ++id) threads.emplace_back([&, id] { work(*e, id % 2 ? shared : nullptr, id); });
  for (auto& t : threads) t.join();
  if (wrong) std::fprintf(stderr, "%d runs gave wrong answers\n", wrong.load());
  return wrong ? 1 : 0;
}

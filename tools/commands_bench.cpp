// bench.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "ir/loop/live_bytes.hpp"
#include "tools/kernel_times.hpp"
#include "tools/values.hpp"

namespace ag::tools {
namespace {

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// A line a kernel call, slowest first: its best time, its share of the sum, speed by the estimate of its work.
void say_profile(const Session& s, const runtime::ExecContext& context) {
  std::vector<runtime::CallProfile> calls(context.profile().begin(), context.profile().end());
  double sum = 0;
  for (const auto& c : calls) sum += c.min_ns;
  std::stable_sort(calls.begin(), calls.end(), [](const auto& a, const auto& b) { return a.min_ns > b.min_ns; });
  if (!calls.empty()) s.say(fmt::format("{:>10} {:>6} {:>8} {:>8}  threads  kernel\n", "us", "%", "GFLOP/s", "GB/s"));
  const auto& kernels = context.executable().program().kernels;
  for (const auto& c : calls) {
    const loop::Kernel& k = kernels[c.call->kernel];
    auto speed = [&](const Dim& work) {
      return work.is_const() ? fmt::format("{:.1f}", static_cast<double>(work.value()) / c.min_ns) : "-";
    };
    s.say(fmt::format("{:10.2f} {:6.1f} {:>8} {:>8}  {:7}  {} {}\n", c.min_ns * 1e-3, 100 * c.min_ns / sum,
                      speed(k.flops), speed(k.bytes), c.parts, k.name, c.call->label));
  }
}

}  // namespace

int bench_command(Session& s) {
  auto start = Clock::now();
  auto g = load_model(s);
  if (!g) return s.failed(g.error());
  const double reading = ms_since(start) - s.step_ms;
  start = Clock::now();
  auto compiled = compile(s, std::move(*g), compile_options(s));
  double compile_ms = ms_since(start) + s.step_ms;
  if (!compiled) return s.failed(compiled.error());
  const double packing = compiled->report.constants_ms;
  compile_ms -= packing;
  s.report(compiled->report.warnings);
  say_passes(s, compiled->report.passes, compiled->report.fusion);
  start = Clock::now();
  auto inputs = read_inputs(s, compiled->inputs);
  if (!inputs) return s.failed(inputs.error());
  auto options = exec_options(s);
  if (!options) return s.failed(options.error());
  options->profile = s.options.profile;
  runtime::ExecContext context(compiled->executable, *options);
  std::vector<runtime::HostArray> views;
  for (const Array& a : *inputs) views.push_back(runtime::view_of(a));
  auto state = begin_state(s, *compiled);
  if (!state) return s.failed(state.error());
  auto outputs = context.run_allocating(views, **state);
  if (!outputs) return s.failed(outputs.error());
  double load_ms = reading + packing + ms_since(start);
  std::vector<runtime::HostArray> out_views;
  for (auto& o : *outputs) out_views.push_back(o.view());
  auto once = [&] { return context.run(views, out_views, **state); };
  for (auto begin = Clock::now(); ms_since(begin) < s.options.warmup * 1e3;)
    if (auto ok = once(); !ok) return s.failed(ok.error());
  std::vector<double> times;
  for (auto begin = Clock::now(); times.size() < 5 || ms_since(begin) < s.options.seconds * 1e3;) {
    auto t = Clock::now();
    if (auto ok = once(); !ok) return s.failed(ok.error());
    times.push_back(ms_since(t));
  }
  std::sort(times.begin(), times.end());
  const KernelTimes kernel_ms = kernel_times(compiled->report);
  nlohmann::ordered_json j{{"compile_ms", compile_ms},
                           {"load_ms", load_ms},
                           {"min_ms", times.front()},
                           {"median_ms", times[times.size() / 2]},
                           {"peak_arena_bytes", context.arena_bytes()},
                           {"plan_bytes", compiled->executable->program().arena_bytes.is_const()
                                              ? compiled->executable->program().arena_bytes.value()
                                              : -1},
                           {"live_bytes", loop::peak_live_bytes(compiled->executable->program()).value_or(-1)},
                           {"kernels", compiled->report.kernels.size()},
                           {"kernel_compile_ms",
                            {{"compiled", kernel_ms.compiled},
                             {"median", kernel_ms.median},
                             {"p90", kernel_ms.p90},
                             {"max", kernel_ms.max},
                             {"sum", kernel_ms.sum}}},
                           {"threads", options->threads}};
  if (s.options.json == "-")
    fmt::print("{}\n", j.dump());
  else if (!s.options.json.empty()) {
    if (auto ok = data::write_file(s.options.json, j.dump() + "\n"); !ok) return s.failed(ok.error());
  } else {
    fmt::print(
        "compile {:.1f} ms   load {:.1f} ms   min {:.4f} ms   median {:.4f} ms   arena {} bytes   {} kernels   {} "
        "threads\n",
        compile_ms, load_ms, times.front(), times[times.size() / 2], context.arena_bytes(),
        compiled->report.kernels.size(), options->threads);
  }
  say_profile(s, context);
  return exit_ok;
}

}  // namespace ag::tools

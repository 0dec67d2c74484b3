// run and bench.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "frontend/data/value.hpp"
#include "tools/values.hpp"

namespace ag::tools {
namespace {

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// The graph after autodiff, for the interpreter; ports of the whole.
struct Reference {
  Graph graph;
  std::vector<runtime::Port> inputs, outputs;
};
Result<Reference> reference(Session& s, const Graph& g) {
  passes::PassContext context;
  passes::PipelineOptions options{.passes = {"autodiff"}};
  AG_TRY(passes::PipelineResult r, passes::run_pipeline(g, options, context));
  Reference out{std::move(std::get<Graph>(r.stage)), {}, {}};
  for (ValueId v : out.graph.inputs) out.inputs.push_back({out.graph.value(v).name, out.graph.type(v)});
  for (const Output& o : out.graph.outputs) out.outputs.push_back({o.name, out.graph.type(o.value)});
  if (s.options.interpret) s.report(context.diagnostics);
  return out;
}

Result<runtime::ExecOptions> exec_options(const Session& s) {
  runtime::ExecOptions e{.threads = thread_count(s.options)};
  if (!s.options.memory_limit.empty()) {
    AG_TRY(e.memory_limit, parse_bytes(s.options.memory_limit));
  }
  return e;
}

/// Compares all outputs with the interpreter's; the number of outputs that differ.
Result<int> verify_outputs(Session& s, const Graph& g, const std::vector<Array>& inputs,
                           const std::vector<runtime::Port>& ports, const std::vector<Array>& got) {
  AG_TRY(Reference ref, reference(s, g));
  auto start = Clock::now();
  AG_TRY(std::vector<Array> want, interpret(ref.graph, inputs));
  int bad = 0;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    std::string text = compare_arrays(got[i], want[i], tolerance_for(s.options, got[i].dtype()));
    if (text.empty()) continue;
    ++bad;
    fmt::print(stderr, "error[AG5301]: `{}` differs from the interpreter: {}\n", ports[i].name, text);
  }
  if (!bad && !s.options.quiet)
    fmt::print("verified: {} output{} with the interpreter ({:.0f} ms)\n", ports.size(),
               ports.size() == 1 ? " agrees" : "s agree", ms_since(start));
  return bad;
}

/// What --expect asks for, read before anything is printed or written.
struct Expected {
  std::size_t output;
  Array value;
};
Result<std::vector<Expected>> read_expected(Session& s, const std::vector<runtime::Port>& ports,
                                            const std::vector<Array>& got) {
  std::vector<Expected> out;
  for (const std::string& text : s.options.expect) {
    std::size_t eq = std::min(text.find('='), text.size());
    std::string name = text.substr(0, eq);
    if (eq == text.size())
      return fail(Code::AG0402, option_loc(s, "--expect", text, 0, eq), "`--expect` takes NAME=VALUE", "no `=` here");
    auto port = std::find_if(ports.begin(), ports.end(), [&](auto& p) { return p.name == name; });
    if (port == ports.end()) return fail(unknown_port("output", name, ports, option_loc(s, "--expect", text, 0, eq)));
    auto i = static_cast<std::size_t>(port - ports.begin());
    Type type{got[i].dtype(), Dims(got[i].shape().begin(), got[i].shape().end())};
    auto value = data::parse_value(text.substr(eq + 1), type, name);
    if (!value) return fail(located(std::move(value).error(), option_loc(s, "--expect", text, eq + 1, text.size())));
    out.push_back({i, std::move(*value)});
  }
  return out;
}

int finish(Session& s, const Graph& g, const std::vector<Array>& inputs, const std::vector<runtime::Port>& ports,
           const std::vector<Array>& got) {
  auto expected = read_expected(s, ports, got);
  if (!expected) return s.failed(expected.error());
  if (auto ok = write_outputs(s, ports, got); !ok) return s.failed(ok.error());
  print_outputs(s, ports, got);
  int bad = 0;
  for (const Expected& e : *expected) {
    std::string report = compare_arrays(got[e.output], e.value, tolerance_for(s.options, e.value.dtype()));
    if (report.empty()) continue;
    ++bad;
    fmt::print(stderr, "error[AG5302]: `{}` is not what was expected: {}\n", ports[e.output].name, report);
  }
  if (s.options.verify) {
    auto wrong = verify_outputs(s, g, inputs, ports, got);
    if (!wrong) return s.failed(wrong.error());
    bad += *wrong;
  }
  return bad ? exit_mismatch : exit_ok;
}

int run_interpreted(Session& s, const Graph& g) {
  auto ref = reference(s, g);
  if (!ref) return s.failed(ref.error());
  auto inputs = read_inputs(s, ref->inputs);
  if (!inputs) return s.failed(inputs.error());
  auto values = interpret(ref->graph, *inputs);
  if (!values) return s.failed(values.error());
  s.options.verify = false;
  return finish(s, g, *inputs, ref->outputs, *values);
}

}  // namespace

int run_command(Session& s) {
  auto g = load_model(s);
  if (!g) return s.failed(g.error());
  if (s.options.interpret) return run_interpreted(s, *g);
  auto compiled = compile(s, *g, compile_options(s));
  if (!compiled) return s.failed(compiled.error());
  s.report(compiled->report.warnings);
  say_passes(s, compiled->report.passes, compiled->report.fusion);
  auto inputs = read_inputs(s, compiled->inputs);
  if (!inputs) return s.failed(inputs.error());
  auto options = exec_options(s);
  if (!options) return s.failed(options.error());
  runtime::ExecContext context(compiled->executable, *options);
  auto values = runtime::run(context, *inputs);
  if (!values) return s.failed(values.error());
  int code = finish(s, *g, *inputs, compiled->outputs, *values);
  if (!s.options.dump_dir.empty() && !s.options.quiet) fmt::print("dumps of every pass: {}\n", s.options.dump_dir);
  return code;
}

int bench_command(Session& s) {
  if (!s.options.train.empty())
    return s.failed(
        {error(Code::AG5303, {}, "`bench --train` is not there yet: whole training steps come with the optimisers")
             .help("time value and gradients: --grad loss:trainable")});
  auto g = load_model(s);
  if (!g) return s.failed(g.error());
  auto start = Clock::now();
  auto compiled = compile(s, std::move(*g), compile_options(s));
  double compile_ms = ms_since(start);
  if (!compiled) return s.failed(compiled.error());
  s.report(compiled->report.warnings);
  say_passes(s, compiled->report.passes, compiled->report.fusion);
  start = Clock::now();
  auto inputs = read_inputs(s, compiled->inputs);
  if (!inputs) return s.failed(inputs.error());
  auto options = exec_options(s);
  if (!options) return s.failed(options.error());
  runtime::ExecContext context(compiled->executable, *options);
  std::vector<runtime::HostArray> views;
  for (const Array& a : *inputs) views.push_back(runtime::view_of(a));
  auto outputs = context.run_allocating(views);
  if (!outputs) return s.failed(outputs.error());
  double load_ms = ms_since(start);
  std::vector<runtime::HostArray> out_views;
  for (auto& o : *outputs) out_views.push_back(o.view());
  auto once = [&] { return context.run(views, out_views); };
  for (auto begin = Clock::now(); ms_since(begin) < s.options.warmup * 1e3;)
    if (auto ok = once(); !ok) return s.failed(ok.error());
  std::vector<double> times;
  for (auto begin = Clock::now(); times.size() < 5 || ms_since(begin) < s.options.seconds * 1e3;) {
    auto t = Clock::now();
    if (auto ok = once(); !ok) return s.failed(ok.error());
    times.push_back(ms_since(t));
  }
  std::sort(times.begin(), times.end());
  nlohmann::ordered_json j{{"compile_ms", compile_ms},
                           {"load_ms", load_ms},
                           {"min_ms", times.front()},
                           {"median_ms", times[times.size() / 2]},
                           {"peak_arena_bytes", context.arena_bytes()},
                           {"kernels", compiled->report.kernels.size()},
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
  return exit_ok;
}

}  // namespace ag::tools

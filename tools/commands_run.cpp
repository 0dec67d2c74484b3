// run.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include <fmt/format.h>

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

Result<runtime::ExecOptions> exec_options(const Session& s) {
  runtime::ExecOptions e{.threads = thread_count(s.options)};
  if (!s.options.memory_limit.empty()) {
    AG_TRY(e.memory_limit, parse_bytes(s.options.memory_limit));
  }
  return e;
}

int run_command(Session& s) {
  if (!s.options.train.empty()) return train_command(s);
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

}  // namespace ag::tools

// compile, check, convert, opt, inspect: what can be said and made of a model without running it.
#include <unistd.h>

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "codegen/backend.hpp"
#include "frontend/json/import.hpp"
#include "frontend/onnx/onnx.hpp"
#include "ir/base/suggest.hpp"
#include "ir/op.hpp"
#include "tools/coverage.hpp"
#include "tools/dot.hpp"
#include "tools/kernel_times.hpp"
#include "tools/options.hpp"

namespace ag::tools {
namespace {

struct Kind {
  const char* name;
  enum class Level { graph, program, kernel } level;
  bool text;
};
const Kind kinds[] = {
    {"ir", Kind::Level::graph, true},      {"json", Kind::Level::graph, true},  {"dot", Kind::Level::graph, true},
    {"loops", Kind::Level::program, true}, {"llvm", Kind::Level::kernel, true}, {"asm", Kind::Level::kernel, true},
    {"ptx", Kind::Level::kernel, true},    {"obj", Kind::Level::kernel, false},
};

Result<const Kind*> find_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const Kind& k : kinds) {
    if (name == k.name) return &k;
    names.emplace_back(k.name);
  }
  std::string text = "`" + name + "` cannot be emitted";
  if (auto s = suggest(name, names)) text += "; did you mean `" + *s + "`?";
  return fail(error(Code::AG0403, {}, text).help("kinds: ir json dot loops llvm asm obj ptx"));
}

Result<std::string> graph_text(const Options& o, const Graph& g) {
  PrintOptions options;
  options.elide_weights = o.elide_weights;
  if (!o.resources.empty()) return print_with_resources(g, o.resources, options);
  return print(g, options);
}

/// --to, where it is not given: by the name of the output.
std::string format_of(const std::string& output) {
  if (output.ends_with(".onnx")) return "onnx";
  if (output.ends_with(".onnx.json")) return "onnx-json";
  return output.ends_with(".ag") ? "ag" : "json";
}

Status write(const Session& s, const Result<std::string>& text) {
  return text ? write_output(s, *text) : fail(text.error());
}

/// Runs the pipeline up to a stage; `keep` receives warnings.
Result<passes::PipelineResult> staged(Session& s, Graph g, const std::string& stop_after) {
  passes::PassContext context;
  AG_TRY(context.target, codegen::describe_target(s.options.target));
  context.fast_math = s.options.fast_math;
  context.fuse = s.options.opt_level > 0;
  if (!s.options.memory_limit.empty()) {
    AG_TRY(context.memory_limit, parse_bytes(s.options.memory_limit));
  }
  runtime::EngineOptions options = compile_options(s);
  context.winograd_tile = options.winograd_tile;
  options.pipeline.stop_after = stop_after;
  auto result = passes::run_pipeline(std::move(g), options.pipeline, context);
  s.report(context.diagnostics);
  if (result) say_passes(s, result->times, context.fusion_notes);
  return result;
}

/// A PTX text without the lines that a file has once: version, target, address size.
std::string_view without_header(std::string_view ptx) {
  constexpr std::string_view last = ".address_size 64\n";
  std::size_t at = ptx.find(last);
  return at == ptx.npos ? ptx : ptx.substr(at + last.size());
}

Result<std::string> emit_kernels(Session& s, const loop::Program& program, codegen::EmitKind kind) {
  AG_TRY(TargetSpec target, codegen::describe_target(s.options.target));
  std::string out;
  for (std::size_t i = 0; i < program.kernels.size(); ++i) {
    codegen::EmitOptions options{.opt_level = s.options.opt_level, .symbol = "k" + std::to_string(i)};
    AG_TRY(std::string text,
           codegen::backend_of(target).emit(program.kernels[loop::KernelId(i)], target, kind, options));
    out += kind == codegen::EmitKind::ptx && i > 0 ? without_header(text) : std::string_view(text);
  }
  return out;
}

Status emit_one(Session& s, const Graph& g, const Kind& kind, bool several) {
  std::string text;
  if (kind.level == Kind::Level::graph) {
    AG_TRY(passes::PipelineResult r, staged(s, g, s.options.stage.empty() ? "autodiff" : s.options.stage));
    const Graph* graph = std::get_if<Graph>(&r.stage);
    if (!graph)
      text = loop::print(std::get<loop::Program>(r.stage));
    else if (kind.name == std::string("dot"))
      text = dot(*graph);
    else {
      AG_TRY(text, kind.name == std::string("ir") ? graph_text(s.options, *graph) : json::export_graph(*graph));
    }
  } else {
    AG_TRY(passes::PipelineResult r, staged(s, g, s.options.stage));
    const loop::Program* program = std::get_if<loop::Program>(&r.stage);
    if (!program)
      return fail(Code::AG0403, {},
                  fmt::format("`--emit {}` needs the loop level, but the pipeline stopped at `{}`", kind.name,
                              std::get<Graph>(r.stage).stage));
    if (kind.level == Kind::Level::program)
      text = loop::print(*program);
    else {
      using codegen::EmitKind;
      EmitKind what = kind.name == std::string("llvm")  ? EmitKind::llvm
                      : kind.name == std::string("asm") ? EmitKind::assembly
                      : kind.name == std::string("ptx") ? EmitKind::ptx
                                                        : EmitKind::object;
      AG_TRY(text, emit_kernels(s, *program, what));
    }
  }
  if (!kind.text && s.options.output.empty())
    return fail(Code::AG0403, {}, std::string("`--emit ") + kind.name + "` is binary: give -o FILE");
  return write_output(s, text, several ? std::string(".") + kind.name : "");
}

int report_compile(Session& s, Graph g) {
  auto compiled = compile(s, std::move(g), compile_options(s));
  if (!compiled) return s.failed(compiled.error());
  const runtime::CompileReport& r = compiled->report;
  s.report(r.warnings);
  say_passes(s, r.passes, r.fusion);
  for (const runtime::KernelReport& k : r.kernels)
    fmt::print("{:<6} {:>4} call{}  {:>7} bytes  {:7.2f} ms{}  {}\n", k.name, k.calls, k.calls == 1 ? " " : "s",
               k.object_bytes, k.codegen_ms, k.cached ? " (cached)" : "", k.label);
  std::string arena = compiled->executable->program().arena_bytes.str();
  fmt::print(
      "{} kernels   {}   code {:.1f} ms   link {:.1f} ms   constants {:.1f} ms   total {:.1f} ms   arena {} bytes\n",
      r.kernels.size(), r.kept ? "kept whole" : fmt::format("passes {:.1f} ms", r.passes_ms), r.codegen_ms, r.link_ms,
      r.constants_ms, r.total_ms, arena);
  if (const KernelTimes t = kernel_times(r); t.compiled > 0)
    fmt::print("{} compiled   a kernel: median {:.2f} ms of a thread, nine tenths below {:.2f}, longest {:.2f}\n",
               t.compiled, t.median, t.p90, t.max);
  return exit_ok;
}

int list_tables(const Session& s) {
  if (s.options.list_passes)
    for (const passes::Pass* p : passes::all_passes()) fmt::print("{:<14} {}\n", p->name, p->summary);
  if (s.options.list_stages) {
    auto target = codegen::describe_target(s.options.target);
    if (!target) return s.failed(target.error());
    fmt::print("import\n");
    for (const std::string& l : passes::pipeline(s.options.opt_level, *target)) fmt::print("{}\n", l);
  }
  return exit_ok;
}

Status known_stage(const Session& s) {
  if (s.options.stage.empty() || s.options.stage == "import") return {};
  AG_TRY(TargetSpec target, codegen::describe_target(s.options.target));
  std::vector<std::string> stages = passes::pipeline(s.options.opt_level, target);
  if (std::find(stages.begin(), stages.end(), s.options.stage) != stages.end()) return {};
  std::string text = "there is no stage `" + s.options.stage + "`";
  if (auto near = suggest(s.options.stage, stages)) text += "; did you mean `" + *near + "`?";
  return fail(error(Code::AG0101, {}, text).help("ag-compile --list-stages names them"));
}

}  // namespace

int compile_command(Session& s) {
  if (s.options.list_passes || s.options.list_stages) return list_tables(s);
  if (auto ok = known_stage(s); !ok) return s.failed(ok.error());
  std::vector<const Kind*> wanted;
  for (const std::string& name : s.options.emit) {
    auto kind = find_kind(name);
    if (!kind) return s.failed(kind.error());
    wanted.push_back(*kind);
  }
  if (wanted.empty() && !s.options.stage.empty()) wanted.push_back(&kinds[0]);
  auto g = load_model(s);
  if (!g) return s.failed(g.error());
  if (wanted.empty()) return report_compile(s, std::move(*g));
  for (const Kind* k : wanted)
    if (auto ok = emit_one(s, *g, *k, wanted.size() > 1); !ok) return s.failed(ok.error());
  return exit_ok;
}

int check_command(Session& s) {
  auto g = load_model(s);
  if (!g) return s.failed(g.error());
  auto r = staged(s, std::move(*g), "autodiff");
  if (!r) return s.failed(r.error());
  if (!s.options.quiet && s.options.diagnostics != "json") fmt::print("{}: ok\n", s.options.model);
  return exit_ok;
}

int convert_command(Session& s) {
  auto g = load_model(s);
  if (!g) return s.failed(g.error());
  const std::string to = s.options.to.empty() ? format_of(s.options.output) : s.options.to;
  if (to == "markdown")
    return s.failed({error(Code::AG0403, {}, "markdown is what `ops` writes: a model is no table")});
  if (to == "onnx" && (s.options.output.empty() || s.options.output == "-") && isatty(STDOUT_FILENO))
    return s.failed({error(Code::AG0403, {}, "a binary model is not written to a terminal: give -o FILE")});
  if (to.starts_with("onnx") && !g->grads.empty()) {  // ONNX has no gradient requests: the graph with its gradients
    auto r = staged(s, std::move(*g), "autodiff");
    if (!r) return s.failed(r.error());
    g = std::move(std::get<Graph>(r->stage));
  }
  auto ok = write(s, to == "onnx"        ? onnx::export_model(*g)
                     : to == "onnx-json" ? onnx::export_model_json(*g)
                     : to == "json"      ? json::export_graph(*g)
                                         : graph_text(s.options, *g));
  return ok ? exit_ok : s.failed(ok.error());
}

int opt_command(Session& s) {
  if (s.options.list_passes || s.options.list_stages) return list_tables(s);
  auto g = load_model(s);
  if (!g) return s.failed(g.error());
  bool printing = !s.options.print_change.empty() || !s.options.print_after.empty() || !s.options.print_before.empty();
  auto r = staged(s, std::move(*g), s.options.stage.empty() && s.options.passes.empty() ? "dce.2" : s.options.stage);
  if (!r) return s.failed(r.error());
  if (printing) return exit_ok;
  const Graph* graph = std::get_if<Graph>(&r->stage);
  auto ok = write(s, graph ? graph_text(s.options, *graph) : loop::print(std::get<loop::Program>(r->stage)));
  return ok ? exit_ok : s.failed(ok.error());
}

namespace {

/// "compiled", or why the graph is not machine code alone.
std::string how_it_runs(Session& s, const Graph& g) {
  auto lowered = staged(s, g, "lower");
  if (!lowered) return "not compiled: " + lowered.error().front().message;
  const auto* program = std::get_if<loop::Program>(&lowered->stage);
  return program && !calls_host(program->body) ? "compiled" : "host, in part: some steps are the interpreter's";
}

}  // namespace

int inspect_command(Session& s) {
  auto loaded = load_model(s);
  if (!loaded) return s.failed(loaded.error());
  const Graph& g = *loaded;
  std::map<std::string, int> histogram;
  std::int64_t parameters = 0, bytes = 0, nodes = 0;
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (const LiteralPtr* literal = n.attrs.get<LiteralPtr>("value")) {
      auto size = Array::byte_size((*literal)->dtype, (*literal)->shape);
      if (!(*literal)->inline_operand && size) {
        bytes += static_cast<std::int64_t>(*size);
        parameters += static_cast<std::int64_t>(*size / dtype_bytes((*literal)->dtype));
      }
    } else if (n.op->lower_class != LowerClass::source) {
      ++histogram[std::string(n.op->onnx.empty() ? n.op->name : n.op->onnx)];
      ++nodes;
    }
  }
  std::string ops;
  for (const auto& [name, count] : histogram) ops += fmt::format("{}{} {}", ops.empty() ? "" : ", ", name, count);
  fmt::print("{}  opset {}   {} nodes ({})   {} parameters ({} bytes)\n", g.name.empty() ? s.options.model : g.name,
             g.opset, nodes, ops, parameters, bytes);
  fmt::print("runs     {}\n", how_it_runs(s, g));
  for (ValueId v : g.inputs) fmt::print("input    {:<20} {}\n", g.value(v).name, g.type(v).str());
  for (const Output& o : g.outputs) fmt::print("output   {:<20} {}\n", o.name, g.type(o.value).str());
  for (const GradRequest& r : g.grads)
    fmt::print("gradient of {} with respect to {}\n", r.of,
               r.trainable ? "trainable" : fmt::format("{}", fmt::join(r.wrt, ", ")));
  return exit_ok;
}

}  // namespace ag::tools

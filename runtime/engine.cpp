#include "runtime/engine.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "codegen/backend.hpp"
#include "ir/op.hpp"
#include "passes/rebuild.hpp"
#include "passes/train.hpp"
#include "runtime/exec/compile_team.hpp"

namespace ag::runtime {
namespace {

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// A step that the reference interpreter runs: regions that are not compiled yet.
HostFn host_function(GraphPtr graph) {
  return [graph](const HostCallArgs& args) -> Status {
    std::vector<Array> inputs;
    for (const HostArray& a : args.inputs)
      inputs.push_back(Array::from_bytes(a.dtype, a.shape, {static_cast<const std::byte*>(a.data), a.bytes}));
    AG_TRY(std::vector<Array> values, interpret(*graph, inputs));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const HostArray& out = args.outputs[i];
      if (values[i].shape() != out.shape)
        return fail(Code::AG5014, graph->loc(graph->outputs[i].value),
                    "a region gave a result of another shape than its type says");
      std::memcpy(out.data, values[i].bytes().data(), values[i].bytes_size());
    }
    return {};
  };
}

void count_calls(const loop::Seq& seq, std::vector<KernelReport>& kernels) {
  for (const loop::Step& step : seq.steps) {
    if (const auto* call = std::get_if<loop::KernelCall>(&step.value)) {
      KernelReport& k = kernels[call->kernel.index];
      if (!k.calls++) k.label = call->label;
    } else if (const auto* branch = std::get_if<loop::IfStep>(&step.value)) {
      count_calls(*branch->then, kernels);
      count_calls(*branch->otherwise, kernels);
    } else if (const auto* loop_step = std::get_if<loop::WhileStep>(&step.value)) {
      count_calls(*loop_step->cond, kernels);
      count_calls(*loop_step->body, kernels);
    }
  }
}

int compile_threads(const EngineOptions& options) {
  return options.compile_threads ? options.compile_threads
                                 : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace

Result<std::shared_ptr<Engine>> Engine::create() {
  auto engine = std::make_shared<Engine>();
  AG_TRY(engine->loader_, Loader::create());
  return engine;
}

/// The cache in files, if one is wanted and can be used; why not is a warning.
ObjectStore* Engine::store(const EngineOptions& options, Diags& warnings) {
  if (options.cache_folder.empty()) return nullptr;
  std::lock_guard lock(mutex_);
  auto at = folders_.find(options.cache_folder);
  if (at == folders_.end()) at = folders_.emplace(options.cache_folder, DiskCache::open(options.cache_folder)).first;
  if (at->second) return at->second->get();
  for (Diag d : at->second.error()) {
    d.level = Level::warning;
    warnings.push_back(std::move(d));
  }
  return nullptr;
}

namespace {

/// What a compilation notes so that its result can be kept.
struct Keeping {
  std::string key;
  LiteralIndex literals;
  PlaceIndex places;
  passes::ConstantRecipes recipes;
  Keeping(std::string k, const GraphSurvey& survey)
      : key(std::move(k)), literals(survey.literals), places(survey.places) {}
};

void list_ports(const Graph& graph, KeptProgram& out) {
  for (ValueId v : graph.inputs)
    (passes::next_of_state(graph, v) ? out.states : out.inputs).push_back({graph.value(v).name, graph.type(v)});
}

/// Passes, up to loops.
Result<loop::Program> run_passes(Graph graph, const EngineOptions& options, passes::PassContext& context,
                                 CompileReport& report) {
  context.fast_math = options.fast_math;
  context.winograd_tile = options.winograd_tile;
  context.memory_limit = options.memory_limit;
  context.fuse = options.pipeline.opt_level > 0;
  AG_TRY(passes::PipelineResult result, passes::run_pipeline(std::move(graph), options.pipeline, context));
  loop::Program* program = std::get_if<loop::Program>(&result.stage);
  if (!program) return fail(Code::AG0102, {}, "the passes given end with a graph; to run it they must end with loops");
  report.passes = std::move(result.times);
  return std::move(*program);
}

}  // namespace

/// The last steps, the same for programs made and found.
Result<Compiled> Engine::link(KeptProgram kept, std::vector<HostFn> host, CompileReport report) {
  for (std::size_t i = 0; i < kept.objects.size(); ++i) {
    if (i >= report.kernels.size()) report.kernels.push_back({.label = {}, .codegen_ms = 0, .cached = true});
    KernelReport& k = report.kernels[i];
    k.name = kept.program.kernels[loop::KernelId(i)].name;
    k.object_bytes = kept.objects[i]->bytes.size();
    k.statements = kept.statements[i];
  }
  count_calls(kept.program.body, report.kernels);
  report.warnings.insert(report.warnings.end(), kept.warnings.begin(), kept.warnings.end());
  report.fusion = std::move(kept.fusion);
  const auto start = Clock::now();
  AG_TRY(KernelCode code, loader_->load(kept.objects));
  code.footprints = std::move(kept.footprints);
  report.link_ms = ms_since(start);
  Compiled out{std::move(kept.inputs), std::move(kept.outputs), std::move(kept.states), nullptr, std::move(report)};
  AG_TRY(out.executable, Executable::create(std::move(kept.program), std::move(code), std::move(host)));
  return out;
}

Result<Compiled> Engine::compile(Graph graph, const EngineOptions& options) {
  const auto start = Clock::now();
  passes::PassContext context;
  AG_TRY(context.target, codegen::describe_target(options.target));
  if (context.target.kind != TargetSpec::Kind::cpu)
    return fail(error(Code::AG4020, {}, "programs for `" + options.target + "` are not launched yet")
                    .help("--emit ptx shows the code; docs/gpu.md says what is missing"));
  CompileReport report;
  ObjectStore* const files = options.use_cache ? store(options, report.warnings) : nullptr;
  auto finish = [&](KeptProgram kept, std::vector<HostFn> host) -> Result<Compiled> {
    AG_TRY(Compiled out, link(std::move(kept), std::move(host), std::move(report)));
    out.report.total_ms = ms_since(start);
    return out;
  };
  std::optional<Keeping> keeping;
  if (files && program_may_be_kept(options)) {
    GraphSurvey found = survey(graph, compile_threads(options));
    report.constants_ms += found.contents_ms;
    keeping.emplace(program_key(found, context.target, options), found);
    if (auto entry = files->load(keeping->key)) {
      AG_TRY(std::optional<KeptProgram> kept,
             read_entry(*entry, found, compile_threads(options), [&] { graph = Graph(); }, report.constants_ms));
      report.kept = kept.has_value();
      if (kept) return finish(std::move(*kept), {});
    }
    context.recipes = &keeping->recipes;
  }
  // With a cache in files most compilations need no LLVM: then nobody shall wait for it to warm up.
  std::function<void()> prepare;
  if (!files && !codegen::warm(context.target))
    prepare = [&] { codegen::warm_up(context.target, options.pipeline.opt_level); };
  CompileTeam team(compile_threads(options), std::move(prepare));
  KeptProgram made;
  list_ports(graph, made);
  const auto passes_start = Clock::now();
  AG_TRY(made.program, run_passes(std::move(graph), options, context, report));
  for (loop::ProgramBufferId id : made.program.outputs) {
    const loop::ProgramBuffer& b = made.program.buffers[id];
    made.outputs.push_back({b.name, {b.dtype, b.shape}});
  }
  report.passes_ms = ms_since(passes_start) - context.constants_ms;
  report.constants_ms += context.constants_ms;
  made.warnings = std::move(context.diagnostics);
  made.fusion = std::move(context.fusion_notes);

  const auto codegen_start = Clock::now();
  CompileOptions kernel_options{.opt_level = options.pipeline.opt_level, .line_info = options.line_info, .team = &team};
  if (options.use_cache) kernel_options.cache = &cache_, kernel_options.store = files;
  std::span<const loop::Kernel> kernels;
  if (made.program.kernels.size())
    kernels = {&made.program.kernels[loop::KernelId(std::size_t{0})], made.program.kernels.size()};
  AG_TRY(CompiledKernels objects, compile_kernels(kernels, context.target, kernel_options));
  report.codegen_ms = ms_since(codegen_start);
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    made.statements.push_back(kernels[i].stmts.size());
    made.footprints.push_back(loop::footprint(kernels[i]));
    report.kernels.push_back({.label = {}, .codegen_ms = objects.compile_ms[i], .cached = objects.compile_ms[i] == 0});
  }
  made.objects = std::move(objects.kernels);
  if (keeping && context.host_graphs.empty())
    if (auto entry = write_entry(made, keeping->recipes, keeping->literals, keeping->places))
      files->save(keeping->key, *entry);
  std::vector<HostFn> host;
  for (const GraphPtr& g : context.host_graphs) host.push_back(host_function(g));
  return finish(std::move(made), std::move(host));
}

HostArray view_of(const Array& array) {
  // Inputs are only read; the view type serves outputs too.
  return {array.dtype(), array.shape(), const_cast<std::byte*>(array.bytes().data()), array.bytes_size()};
}

Result<std::vector<Array>> run(ExecContext& context, std::span<const Array> inputs) {
  std::vector<HostArray> views;
  for (const Array& a : inputs) views.push_back(view_of(a));
  AG_TRY(std::vector<OwnedArray> results, context.run_allocating(views));
  std::vector<Array> out;
  for (const OwnedArray& r : results) {
    const HostArray& v = r.view();
    auto bytes = Array::byte_size(v.dtype, v.shape).value_or(0);
    out.push_back(Array::from_bytes(v.dtype, v.shape, {static_cast<const std::byte*>(v.data), bytes}));
  }
  return out;
}

Result<Graph> widen_to_f64(const Graph& g) {
  auto wide = [](DType t) { return is_float(t) ? DType::f64 : t; };
  Graph out = empty_like(g);
  GraphBuilder b(out);
  passes::ValueMap map(g.value_count());
  std::vector<bool> is_input(g.node_count());
  for (ValueId v : g.inputs) is_input[g.value(v).node.index] = true;
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (is_input[id.index]) {
      Type t = g.type(n.result());
      map[n.result().index] = b.input(g.value(n.result()).name, t.with(wide(t.dtype)), g.loc(n.result()));
      continue;
    }
    GraphBuilder::NodeArgs args;
    for (ValueId v : n.operands) args.operands.push_back(v ? map[v.index] : ValueId{});
    for (const auto& [name, value] : n.attrs) {
      AttrValue w = value;
      if (const DType* t = std::get_if<DType>(&value)) w = wide(*t);
      if (const Type* t = std::get_if<Type>(&value)) w = t->with(wide(t->dtype));
      if (const LiteralPtr* literal = std::get_if<LiteralPtr>(&value);
          literal && is_float((*literal)->dtype) && (*literal)->dtype != DType::f64) {
        Array from = (*literal)->materialize(), to(DType::f64, from.shape());
        for (std::int64_t i = 0; i < from.elems(); ++i) to.set_double(i, from.get_double(i));
        w = make_literal(std::move(to));
      }
      args.attrs.set(name, w);
    }
    for (const GraphPtr& r : n.regions) {
      AG_TRY(Graph region, widen_to_f64(*r));
      args.regions.push_back(std::make_shared<const Graph>(std::move(region)));
    }
    args.name = n.name;
    args.locs = n.locs;
    args.result_count = n.result_count;
    AG_TRY(NodeId copy, b.try_add(*n.op, std::move(args)));
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      map[n.result(r).index] = out.node(copy).result(r);
      if (!g.value(n.result(r)).name.empty()) out.set_name(out.node(copy).result(r), g.value(n.result(r)).name);
    }
  }
  passes::map_signature(g, map, out);
  return out;
}

}  // namespace ag::runtime

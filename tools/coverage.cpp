#include "tools/coverage.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "codegen/backend.hpp"
#include "ir/builder.hpp"
#include "passes/autodiff.hpp"

namespace ag::tools {
bool calls_host(const loop::Seq& seq) {
  return std::ranges::any_of(seq.steps, [](const loop::Step& s) {
    if (std::holds_alternative<loop::HostCall>(s.value)) return true;
    if (const auto* i = std::get_if<loop::IfStep>(&s.value)) return calls_host(*i->then) || calls_host(*i->otherwise);
    if (const auto* w = std::get_if<loop::WhileStep>(&s.value)) return calls_host(*w->cond) || calls_host(*w->body);
    return false;
  });
}

namespace {

/// A graph of the one node; operands that are not literals are inputs.
std::optional<Graph> sample_graph(const OpInfo& op, const OpSample& sample) {
  Graph g;
  GraphBuilder b(g);
  GraphBuilder::NodeArgs args;
  for (std::size_t i = 0; i < sample.operands.size(); ++i) {
    const auto& o = sample.operands[i];
    args.operands.push_back(o.literal ? b.constant(o.literal) : b.input("x" + std::to_string(i), o.type));
  }
  args.attrs = sample.attrs;
  auto id = b.try_add(op, std::move(args));
  if (!id) return std::nullopt;
  for (std::uint32_t r = 0; r < g.node(*id).result_count; ++r)
    g.outputs.push_back({"y" + std::to_string(r), g.node(*id).result(r), {}});
  return g;
}

/// The op's samples; a map has vectors of each of its dtypes.
std::vector<OpSample> samples_of(const OpInfo& op) {
  if (op.samples) return op.samples();
  std::vector<OpSample> out;
  if (op.lower_class != LowerClass::map) return out;
  for (int i = 0; i < dtype_count; ++i) {
    auto t = static_cast<DType>(i);
    if (!op.operands[0].dtypes.has(t)) continue;
    OpSample& s = out.emplace_back();
    for (std::size_t k = 0; k < op.operands.size(); ++k) s.operands.push_back({{t, {3}}, nullptr});
  }
  return out;
}

enum class Lowered : std::uint8_t { no, host, yes };

Lowered lowered(Graph g, const char* target, std::vector<std::string> names) {
  passes::PassContext context;
  auto spec = codegen::describe_target(target);
  if (!spec) return Lowered::no;
  context.target = *spec;
  passes::PipelineOptions options;
  options.passes = std::move(names);
  options.verify_each = false;
  auto result = passes::run_pipeline(std::move(g), options, context);
  if (!result) return Lowered::no;
  return calls_host(std::get<loop::Program>(result->stage).body) ? Lowered::host : Lowered::yes;
}

/// A region op in a graph of its own.
const char* region_sample(std::string_view op) {
  if (op == "If")
    return R"(%0: bool[] = input "c"
%1: f32[3] = input "x"
%2: f32[3] = If %0, %1 {captures = 1}
region then_branch {
  %0: f32[3] = input "x"
  %1: f32[3] = neg %0
  return "" %1
}
region else_branch {
  %0: f32[3] = input "x"
  %1: f32[3] = exp %0
  return "" %1
}
return "y" %2)";
  if (op == "Loop")
    return R"(%0: i64[] = input "n"
%1: f32[3] = input "x"
%2: f32[3] = Loop %0, _, %1
region body {
  %0: i64[] = input "i"
  %1: bool[] = input "go"
  %2: f32[3] = input "s"
  %3: f32[3] = exp %2
  return "" %1, "" %3
}
return "y" %2)";
  if (op != "Scan") return nullptr;
  return R"(%0: f32[3] = input "s"
%1: f32[4,3] = input "xs"
%2: f32[3], %3: f32[4,3] = Scan %0, %1 {num_scan_inputs = 1}
region body {
  %0: f32[3] = input "s"
  %1: f32[3] = input "x"
  %2: f32[3] = add %0, %1
  return "" %2, "" %2
}
return "y" %2, "ys" %3)";
}

/// The worst of a few samples.
void compile_samples(const OpInfo& op, OpCoverage& row) {
  std::vector<Graph> graphs;
  for (const OpSample& sample : samples_of(op))
    if (auto g = sample_graph(op, sample); g && graphs.size() < 2) graphs.push_back(std::move(*g));
  if (const char* text = op.regions.empty() ? nullptr : region_sample(op.name))
    if (auto g = parse_graph(std::string("ag.ir 1\ngraph {\n") + text + "\n}\n")) graphs.push_back(std::move(*g));
  Lowered cpu = Lowered::yes, gpu = Lowered::yes;
  std::size_t tried = graphs.size();
  for (const Graph& g : graphs) {
    cpu = std::min(cpu, lowered(g, "cpu:x86-64-v3", {"decompose", "lower"}));
    gpu = std::min(gpu, lowered(g, "cuda:sm_80", {"decompose", "lower", "gpu_map", "expand_math"}));
  }
  if (op.lower_class == LowerClass::source) tried = 1;
  auto word = [&](Lowered l) { return !tried ? "-" : l == Lowered::yes ? "yes" : l == Lowered::host ? "host" : "no"; };
  row.compiled = word(cpu);
  row.ptx = gpu == Lowered::yes ? word(gpu) : "no";
}

/// Whether the decomposition of a real sample is differentiable.
bool parts_differentiable(const OpInfo& op) {
  for (const OpSample& s : samples_of(op)) {
    auto g = sample_graph(op, s);
    if (!g) continue;
    passes::ReverseSpec spec;
    for (const Output& o : g->outputs)
      if (is_float(g->type(o.value).dtype)) spec.of = o.value;
    for (ValueId v : g->inputs)
      if (is_float(g->type(v).dtype)) spec.wrt.push_back(v);
    if (!spec.of || spec.wrt.empty()) continue;
    return passes::check_differentiable(*g, spec, {}).has_value();
  }
  return true;
}

std::string derivative_of(const OpInfo& op) {
  if (op.zero_gradient) return "zero";
  if (!op.no_gradient.empty()) return "none: " + std::string(op.no_gradient);
  if (!op.regions.empty()) return "regions";
  if (op.partials) return "partials";
  if (op.vjp) return "own rule";
  if (op.transpose) return "linear";
  return parts_differentiable(op) ? "by parts" : "none: a part of it has none";
}

std::string batching_of(const OpInfo& op) {
  if (!op.regions.empty()) return "regions";
  if (op.batch) return "own rule";
  if (op.lower_class == LowerClass::source) return "-";
  if (op.lower_class == LowerClass::map) return "map";
  return op.decompose ? "by parts" : "one by one";
}

std::string spelling_of(const OpInfo& op) {
  if (op.onnx.empty()) return {};
  std::string out(op.onnx);
  if (!op.domain.empty()) out += " of " + std::string(op.domain);
  if (op.until < 1 << 20) return out + fmt::format(" ({} to {})", op.since, op.until);
  return op.since > 1 ? out + fmt::format(" (from {})", op.since) : out;
}

}  // namespace

std::string dtypes_text(DTypeSet set) {
  constexpr std::pair<DTypeSet, std::string_view> names[] = {{any_dtype, "any"},      {numeric, "numeric"},
                                                             {floats, "floats"},      {ints, "ints"},
                                                             {signed_ints, "signed"}, {unsigned_ints, "unsigned"}};
  std::string out;
  auto add = [&](std::string_view name) { out += (out.empty() ? "" : " ") + std::string(name); };
  for (auto [of, name] : names)
    if (of.bits && (set.bits & of.bits) == of.bits) {
      add(name);
      set.bits &= ~of.bits;
    }
  for (int t = 0; t < dtype_count; ++t)
    if (set.has(static_cast<DType>(t))) add(dtype_name(static_cast<DType>(t)));
  return out;
}

OpCoverage coverage_of(const OpInfo& op) {
  OpCoverage row;
  row.name = op.name;
  row.spelling = spelling_of(op);
  row.tier = op.tier == Tier::primitive ? "primitive" : "composite";
  row.types = op.operands.empty() ? "-" : dtypes_text(op.operands[0].dtypes);
  row.eval = op.eval ? "own" : op.scalar ? "map" : op.decompose ? "by parts" : "-";
  compile_samples(op, row);
  row.derivative = derivative_of(op);
  row.batching = batching_of(op);
  DTypeSet verified;
  for (const OpSample& s : samples_of(op))
    if (!s.operands.empty()) verified = verified | set_of(s.operands[0].type.dtype);
  row.verified = verified.bits ? dtypes_text(verified) : "-";
  row.summary = op.summary;
  return row;
}

std::string coverage_text(const std::vector<OpCoverage>& rows) {
  std::string out = fmt::format("{:<28} {:<10} {:<9} {:<9} {:<5} {:<10} {:<11} {:<16} {}\n", "op", "tier", "eval",
                                "compiled", "ptx", "gradient", "batching", "types", "verified");
  for (const OpCoverage& r : rows)
    out += fmt::format("{:<28} {:<10} {:<9} {:<9} {:<5} {:<10} {:<11} {:<16} {}\n", r.name, r.tier, r.eval, r.compiled,
                       r.ptx, r.derivative.substr(0, r.derivative.find(':')), r.batching, r.types, r.verified);
  return out + fmt::format("{} ops\n", rows.size());
}

std::string coverage_json(const std::vector<OpCoverage>& rows) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const OpCoverage& r : rows)
    all.push_back({{"op", r.name},
                   {"onnx", r.spelling},
                   {"tier", r.tier},
                   {"types", r.types},
                   {"eval", r.eval},
                   {"compiled", r.compiled},
                   {"ptx", r.ptx},
                   {"derivative", r.derivative},
                   {"batching", r.batching},
                   {"verified", r.verified},
                   {"summary", r.summary}});
  return all.dump(1) + "\n";
}

std::string coverage_markdown(const std::vector<OpCoverage>& rows) {
  std::string out =
      "# Operators\nMade by `ag-compile ops --to markdown`; `AG_BLESS=1` with the tests of the command renews it. What "
      "the columns say:\n\n"
      "- eval: own reference evaluation, a map over elements, or by its parts; compiled, PTX: `host` is a step that "
      "the\n"
      "  interpreter runs;\n"
      "- derivative: stated as partial derivatives, as linear (its transpose), by a rule of its own, by its parts, by\n"
      "  its regions; `zero` cuts the path as in PyTorch;\n"
      "- batching: a Scan over the members where it says one by one;\n"
      "- verified: dtypes of the samples that interpreter, compiled code, gradients and batching are tested with.\n\n"
      "| op | in files | tier | types | eval | compiled | PTX | derivative | batching | verified |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const OpCoverage& r : rows)
    out += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", r.name, r.spelling, r.tier, r.types,
                       r.eval, r.compiled, r.ptx, r.derivative, r.batching, r.verified);
  return out + fmt::format("\n{} operators.\n", rows.size());
}

}  // namespace ag::tools

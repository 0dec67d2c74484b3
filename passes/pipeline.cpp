// The order of passes, and the one wrapper that verifies, times, prints and dumps around each.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <regex>

#include <fmt/format.h>

#include "ir/base/suggest.hpp"
#include "passes/diff.hpp"
#include "passes/pass.hpp"

namespace ag::passes {
namespace {

const std::vector<std::string> graph_o0{"autodiff", "checkpoint", "decompose", "regions", "dce"};
const std::vector<std::string> graph_o2{"attention",  "autodiff",  "checkpoint", "cse",     "algebra", "fold",
                                        "dce",        "decompose", "cse",        "algebra", "fold",    "attention",
                                        "horizontal", "dce",       "regions",    "dce"};
/// With what is for vectors of lanes.
const std::vector<std::string> graph_cpu{"attention",
                                         "autodiff",
                                         "checkpoint",
                                         "cse",
                                         "algebra",
                                         "fold",
                                         "dce",
                                         "decompose_early",
                                         "fold_affine",
                                         "cse",
                                         "algebra",
                                         "fold",
                                         "dce",
                                         "layout",
                                         "winograd",
                                         "depthwise",
                                         "decompose",
                                         "cse",
                                         "algebra",
                                         "fold",
                                         "attention",
                                         "horizontal",
                                         "factor",
                                         "dce",
                                         "regions",
                                         "state_layout",
                                         "pack_constants",
                                         "order_sums",
                                         "dce"};
const std::vector<std::string> cpu_program{
    "lower",       "collapse", "split_reductions", "row_dots",      "join_column_sums", "schedule", "vectorise",
    "expand_math", "roll",     "merge_small",      "stream_stores", "plan_memory"};
const std::vector<std::string> cuda_program{"lower", "gpu_map", "expand_math", "plan_memory"};

std::string text_of(const Stage& s) {
  if (const Graph* g = std::get_if<Graph>(&s)) return print(*g, {.elide_weights = true});
  return loop::print(std::get<loop::Program>(s));
}

/// Enough to tell whether a pass changed something: without the program's constants, which may be gigabytes as text.
std::string brief_text_of(const Stage& s) {
  if (std::holds_alternative<Graph>(s)) return text_of(s);
  loop::Program p = std::get<loop::Program>(s);
  for (loop::ProgramBuffer& b : p.buffers) b.constant = nullptr;
  return loop::print(p);
}

std::size_t size_of(const Stage& s) {
  if (const Graph* g = std::get_if<Graph>(&s)) return g->node_count();
  std::size_t n = 0;
  for (const loop::Kernel& k : std::get<loop::Program>(s).kernels) n += k.stmts.size();
  return n;
}

/// The header names the stage, so it always differs: texts are compared without it.
std::string_view body(std::string_view text) { return text.substr(std::min(text.find('\n'), text.size())); }

bool listed(const std::vector<std::string>& names, const std::string& label, std::string_view pass) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& n) { return n == "all" || n == label || n == pass; });
}

class Runner {
 public:
  Runner(const PipelineOptions& options, PassContext& context) : options_(options), context_(context) {}

  Result<PipelineResult> run(Graph graph) {
    AG_TRY_(check_options());
    context_.fusion_notes.clear();
    std::vector<std::string> labels =
        options_.passes.empty() ? pipeline(options_.opt_level, context_.target) : stage_labels(options_.passes);
    std::size_t first = 0;
    if (auto at = std::find(labels.begin(), labels.end(), graph.stage); at != labels.end())
      first = static_cast<std::size_t>(at - labels.begin()) + 1;
    PipelineResult result{std::move(graph), {}};
    if (std::string stage = std::get<Graph>(result.stage).stage; !options_.stop_after.empty() && past(labels, stage))
      return result;
    for (std::size_t i = first; i < labels.size(); ++i) {
      std::string name = labels[i].substr(0, labels[i].find('.'));
      const Pass* pass = find_pass(name);
      if (!pass) return fail(unknown_pass(labels[i]));
      if (!listed(options_.disabled, labels[i], name)) AG_TRY_(one(*pass, labels[i], result));
      const bool last = i + 1 == labels.size() || labels[i] == options_.stop_after;
      const Pass* next = last ? nullptr : find_pass(labels[i + 1].substr(0, labels[i + 1].find('.')));
      if (!options_.verify_each && (last || (next && next->lower))) AG_TRY_(check(labels[i], result.stage));
      if (last) break;
    }
    return result;
  }

 private:
  const PipelineOptions& options_;
  PassContext& context_;
  std::optional<std::regex> filter_;
  int number_ = 0;
  bool dump_failed_ = false;

  static Diag unknown_pass(const std::string& name) {
    std::vector<std::string> names;
    for (const Pass* p : all_passes()) names.emplace_back(p->name);
    std::string text = "there is no pass `" + name + "`";
    if (auto near = suggest(name, names)) text += "; did you mean `" + *near + "`?";
    return error(Code::AG0101, {}, text).help("--list-passes names them");
  }

  /// A misspelled name in an option must not mean that nothing happens.
  Status check_options() {
    Diags diags;
    for (const auto* names : {&options_.passes, &options_.disabled, &options_.print_before, &options_.print_after})
      for (const std::string& n : *names)
        if (!find_pass(n.substr(0, n.find('.'))) && n != "all") diags.push_back(unknown_pass(n));
    if (!diags.empty()) return fail(std::move(diags));
    if (options_.filter.empty()) return {};
    try {
      filter_.emplace(options_.filter);
    } catch (const std::regex_error&) {
      return fail(Code::AG0104, {}, "`" + options_.filter + "` is not a regular expression");
    }
    return {};
  }

  /// True if the stage to stop at is the given one or lies before it.
  bool past(const std::vector<std::string>& labels, const std::string& stage) const {
    if (options_.stop_after == "import") return true;
    auto want = std::find(labels.begin(), labels.end(), options_.stop_after),
         is = std::find(labels.begin(), labels.end(), stage);
    return is != labels.end() && want <= is;
  }

  bool selected(const std::string& label) const { return !filter_ || std::regex_search(label, *filter_); }
  void print(const std::string& text) const {
    if (options_.print) options_.print(text);
  }

  Status one(const Pass& pass, const std::string& label, PipelineResult& result) {
    bool change = options_.print_change != PipelineOptions::Change::none && selected(label);
    bool before_wanted = listed(options_.print_before, label, pass.name) && selected(label);
    std::string before = change || before_wanted ? text_of(result.stage) : "";
    std::string brief = options_.track_changes && !change ? brief_text_of(result.stage) : "";
    if (before_wanted) print("// ----- before " + label + "\n" + before);
    PassTime time{.name = label, .before = size_of(result.stage)};
    auto start = std::chrono::steady_clock::now();
    AG_TRY_(apply(pass, label, result.stage));
    time.ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    time.after = size_of(result.stage);
    if (options_.verify_each) AG_TRY_(check(label, result.stage));
    if (options_.track_changes && !change) time.changed = body(brief) != body(brief_text_of(result.stage));
    report(label, before, change, result.stage, time);
    result.times.push_back(time);
    return {};
  }

  Status apply(const Pass& pass, const std::string& label, Stage& stage) {
    bool graph_now = std::holds_alternative<Graph>(stage);
    if (graph_now != (pass.on_program == nullptr))
      return fail(Code::AG0102, {},
                  fmt::format("pass `{}` works on {}, but the program is at the {} level here", pass.name,
                              pass.on_program ? "loops" : "graphs", graph_now ? "graph" : "loop"));
    if (pass.on_graph) {
      AG_TRY(Graph g, pass.on_graph(std::get<Graph>(stage), context_));
      g.stage = label;
      stage = std::move(g);
    } else if (pass.lower) {
      AG_TRY(loop::Program p, pass.lower(std::get<Graph>(stage), context_));
      p.stage = label;
      stage = std::move(p);
    } else {
      AG_TRY(loop::Program p, pass.on_program(std::move(std::get<loop::Program>(stage)), context_));
      p.stage = label;
      stage = std::move(p);
    }
    return {};
  }

  Status check(const std::string& label, const Stage& stage) const {
    const Graph* g = std::get_if<Graph>(&stage);
    Status s = g ? verify(*g) : loop::verify(std::get<loop::Program>(stage));
    if (s) return s;
    Diags diags{error(Code::AG9001, {}, "the pass `" + label + "` produced an invalid program; this is a bug of ag")};
    diags.insert(diags.end(), s.error().begin(), s.error().end());
    return fail(std::move(diags));
  }

  void report(const std::string& label, const std::string& before, bool change, const Stage& stage, PassTime& time) {
    bool after_wanted = listed(options_.print_after, label, label.substr(0, label.find('.'))) && selected(label);
    bool dump = !options_.dump_dir.empty() && selected(label);
    if (!change && !after_wanted && !dump) return;
    std::string after = text_of(stage);
    if (change) time.changed = body(before) != body(after);
    if (after_wanted) print("// ----- after " + label + "\n" + after);
    if (change) {
      if (!time.changed)
        print("// ----- " + label + ": omitted because no change\n");
      else if (options_.print_change == PipelineOptions::Change::diff)
        print("// ----- " + label + "\n" + line_diff(before, after));
      else
        print("// ----- " + label + "\n" + after);
    }
    if (dump) {
      if (!write_dump(label, stage, after) && !dump_failed_) {
        dump_failed_ = true;  // once says it
        std::string text = "cannot write into the dump folder `" + options_.dump_dir + "`";
        context_.diagnostics.push_back(warning(Code::AG0103, {}, text));
      }
    }
  }

  /// Dumps are inputs: long constants lie beside them as files, named by their content. `text` is that of a program.
  bool write_dump(const std::string& label, const Stage& stage, const std::string& text) {
    std::error_code ec;
    std::filesystem::create_directories(options_.dump_dir, ec);
    const Graph* g = std::get_if<Graph>(&stage);
    auto whole = g ? print_with_resources(*g, options_.dump_dir) : Result<std::string>(text);
    std::string name = fmt::format("{:02}-{}.{}", ++number_, label, g ? "ag" : "loops");
    std::ofstream out(std::filesystem::path(options_.dump_dir) / name);
    if (whole) out << *whole;
    return whole && out.flush();
  }

 public:
  /// Second and later occurrences of a pass get a number: "cse", "cse.2".
  static std::vector<std::string> stage_labels(const std::vector<std::string>& names) {
    std::vector<std::string> labels;
    for (std::size_t i = 0; i < names.size(); ++i) {
      auto n = std::count(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(i), names[i]);
      labels.push_back(n ? names[i] + "." + std::to_string(n + 1) : names[i]);
    }
    return labels;
  }
};

}  // namespace

std::vector<std::string> pipeline(int opt_level, const TargetSpec& target) {
  const bool cuda = target.kind == TargetSpec::Kind::cuda;
  std::vector<std::string> names = opt_level == 0 ? graph_o0 : cuda ? graph_o2 : graph_cpu;
  const std::vector<std::string>& tail = cuda ? cuda_program : cpu_program;
  names.insert(names.end(), tail.begin(), tail.end());
  return Runner::stage_labels(names);
}

Result<PipelineResult> run_pipeline(Graph graph, const PipelineOptions& options, PassContext& context) {
  return Runner(options, context).run(std::move(graph));
}

}  // namespace ag::passes

// A pass is one file that exports one record; passes/registry.cpp lists it on one line; passes/pipeline.cpp orders it.
#pragma once
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "ir/graph.hpp"
#include "ir/loop/program.hpp"
#include "ir/loop/target.hpp"

namespace ag::passes {

class ConstantRecipes;  // passes/constants.hpp

/// How far a rewrite may change numbers (DESIGN, Numbers).
enum class Exactness : std::uint8_t {
  exact,      ///< keeps every bit
  algorithm,  ///< deterministic, within the op's error bound: on by default
  fast,       ///< only with --fast-math
};

/// What passes may read and write beside the program.
struct PassContext {
  TargetSpec target;
  bool fast_math = false;
  int winograd_tile = 2;  ///< outputs along an axis of a Winograd tile: 2, or 4 (less exact)
  Diags diagnostics;  ///< warnings; the caller shows them
  std::function<void(std::string_view)> trace_rule;  ///< --trace-rules: name of each rule that fires
  bool fuse = true;  ///< -O0: every op is a kernel of its own
  std::vector<std::string> fusion_notes;  ///< out: --print-fusion
  std::vector<GraphPtr> host_graphs;  ///< out: what each HostCall::function evaluates
  std::int64_t memory_limit = 0;  ///< bytes a run may take (--mem-limit); 0: none
  ConstantRecipes* recipes = nullptr;  ///< where to note how constants are made; null: nobody asks
  double constants_ms = 0;  ///< out: time spent on the values of constants, not on the program
};

/// The level that a pass works on decides which member is set.
struct Pass {
  std::string_view name;  ///< "autodiff", as in --passes and --print-ir-after
  std::string_view summary;  ///< one line for --list-passes
  Result<Graph> (*on_graph)(const Graph&, PassContext&) = nullptr;
  Result<loop::Program> (*lower)(const Graph&, PassContext&) = nullptr;  ///< the one step from graphs to programs
  Result<loop::Program> (*on_program)(loop::Program, PassContext&) = nullptr;
};

extern const Pass autodiff, checkpoint, fold, algebra, cse, dce, winograd, decompose;  // Graph -> Graph
extern const Pass lower;  // Graph -> Program
extern const Pass schedule, vectorise, gpu_map, expand_math, plan_memory;  // Program -> Program
const std::vector<const Pass*>& all_passes();
const Pass* find_pass(std::string_view name);

using Stage = std::variant<Graph, loop::Program>;

/// Called around every pass; the wrapper verifies, times, dumps.
struct PipelineOptions {
  int opt_level = 2;
  std::vector<std::string> passes;  ///< --passes: exactly these, in this order; empty: the level's list
  std::vector<std::string> disabled;  ///< --disable-pass
  bool verify_each = true;
  bool track_changes = false;  ///< fill PassTime::changed
  std::vector<std::string> print_before, print_after;  ///< names or "all"
  enum class Change : std::uint8_t { none, full, diff } print_change = Change::none;
  std::string filter;  ///< --filter-pass: regular expression on names
  std::string dump_dir;  ///< --dump-dir: numbered files, one after each pass
  std::function<void(std::string_view)> print;  ///< receives what the print options produce
  std::string stop_after;  ///< stage to stop at
};
struct PassTime {
  std::string name;
  double ms = 0;
  std::size_t before = 0, after = 0;  ///< nodes or kernel statements
  bool changed = false;  ///< known only with track_changes or print_change
};
struct PipelineResult {
  Stage stage;
  std::vector<PassTime> times;
};
/// Pass names of a level and target, in order.
std::vector<std::string> pipeline(int opt_level, const TargetSpec& target);
/// Runs the pipeline from where the graph's `stage` says it stands.
Result<PipelineResult> run_pipeline(Graph graph, const PipelineOptions& options, PassContext& context);

}  // namespace ag::passes

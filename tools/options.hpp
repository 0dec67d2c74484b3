// The options of ag-compile, as parsed; SPEC 3 lists them.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "frontend/data/arrays.hpp"
#include "ir/base/diag.hpp"
#include "ir/graph.hpp"
#include "passes/train.hpp"
#include "runtime/engine.hpp"
#include "runtime/exec/state.hpp"

namespace ag::tools {

struct Options {
  std::string command, model;
  int opt_level = 2;
  std::string target = "cpu:native";
  std::vector<std::string> grad, grad_seed, dims, emit, mllvm;
  std::string output, diagnostics = "text", stage, winograd;
  int threads = 0;               ///< 0: all cores
  bool no_cache = false, fast_math = false, print_fusion = false, quiet = false, verbose = false, interpret = false;
  bool elide_weights = false;
  std::string resources, to, trainable;
  std::string memory_limit;
  // passes
  std::vector<std::string> passes, disabled, print_before, print_after;
  std::string print_change, filter, dump_dir;
  bool list_passes = false, list_stages = false, verify_each = false, time_passes = false;
  // values
  std::vector<std::string> input, inputs_files, expect;
  std::string outputs_file;
  std::int64_t print_max = 64;
  bool verify = false;
  double rtol = -1, atol = -1;
  std::uint64_t seed = 0;
  // bench
  std::string json, train;
  std::int64_t steps = 1;        ///< run --train
  double warmup = 0.1, seconds = 1.0;
  bool profile = false;   ///< a table of the time that each kernel took
  // explain, ops
  std::string topic;
};

/// Exit codes (SPEC 3).
enum Exit { exit_ok = 0, exit_error = 1, exit_usage = 2, exit_mismatch = 3, exit_internal = 70 };

/// One run of the command: options, the files that diagnostics point into, where diagnostics go.
struct Session {
  Options options;
  Sources sources;
  std::shared_ptr<runtime::Engine> engine;   ///< made when first needed
  std::optional<std::vector<std::pair<std::string, data::NamedArrays>>> archives;  ///< --inputs by path, read once
  std::vector<passes::StateValue> states;    ///< of a training step (--train), as they begin
  double step_ms = 0;                        ///< what making the step (differentiating it) took
  void report(const Diags& diags) const;   ///< to standard error, in the chosen format
  int failed(const Diags& diags) const;    ///< report, then the exit code
  /// What is told beside the result: to standard error where standard output is the result (--emit, --json -).
  void say(std::string_view text) const;
};

/// An option's text becomes a source of its own, so that errors point into it: bytes [from, to) of `value`.
Loc option_loc(Session& s, const std::string& option, const std::string& value, std::size_t from, std::size_t to);
/// Errors without a place get this one.
Diags located(Diags diags, const Loc& loc);

/// Loads the model and adds what --grad, --grad-seed, --trainable and --dim ask for.
Result<Graph> load_model(Session& s);
runtime::EngineOptions compile_options(const Session& s);
Result<std::int64_t> parse_bytes(const std::string& text);   ///< "64M", "1GiB", "1000"
/// --time-passes and --print-fusion.
void say_passes(const Session& s, const std::vector<passes::PassTime>& times, const std::vector<std::string>& fusion);
Result<runtime::Compiled> compile(Session& s, Graph g, const runtime::EngineOptions& options);
int thread_count(const Options& o);
Result<runtime::ExecOptions> exec_options(const Session& s);
/// Text to -o (atomically) or to standard output.
Status write_output(const Session& s, const std::string& text, const std::string& suffix = {});

/// The state that the step of --train begins with, if the program has any.
Result<std::unique_ptr<runtime::State>> begin_state(const Session& s, const runtime::Compiled& compiled);
int train_command(Session& s);   ///< run --train

int compile_command(Session& s);
int check_command(Session& s);
int convert_command(Session& s);
int opt_command(Session& s);
int inspect_command(Session& s);
int run_command(Session& s);
int bench_command(Session& s);
int gradcheck_command(Session& s);
int ops_command(Session& s);
int targets_command(Session& s);
int explain_command(Session& s);
int conform_command(Session& s);

}  // namespace ag::tools

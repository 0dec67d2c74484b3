// ag-compile: parses the command line and calls the command. All of SPEC 3's surface starts here.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <regex>
#include <sstream>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "codegen/backend.hpp"
#include "ir/base/suggest.hpp"
#include "tools/options.hpp"

namespace ag::tools {
namespace {

using Handler = int (*)(Session&);
struct Command {
  const char* name;
  const char* summary;
  Handler handler;
  enum class Takes { model, topic, nothing } takes;
};
const Command commands[] = {
    {"compile", "compile and report kernels, times, arena (the default)", compile_command, Command::Takes::model},
    {"check", "report every error without compiling", check_command, Command::Takes::model},
    {"convert", "write in another format (--to json, onnx, onnx-json, ag)", convert_command, Command::Takes::model},
    {"opt", "run passes and print the result", opt_command, Command::Takes::model},
    {"run", "compile and run", run_command, Command::Takes::model},
    {"bench", "time the compiled program", bench_command, Command::Takes::model},
    {"gradcheck", "compare gradients with differences", gradcheck_command, Command::Takes::model},
    {"conform", "run a conformance suite", conform_command, Command::Takes::topic},
    {"inspect", "inputs, outputs, operators, sizes", inspect_command, Command::Takes::model},
    {"ops", "the operators and what is known of each (--to markdown, --json F)", ops_command, Command::Takes::topic},
    {"targets", "machines that code can be made for", targets_command, Command::Takes::nothing},
    {"explain", "what an error code means", explain_command, Command::Takes::topic},
};

const char* const help_text = R"(ag-compile - compile, differentiate, run and inspect tensor programs

Usage:  ag-compile [compile] MODEL [-o OUT] [options]
        ag-compile COMMAND MODEL [options]      MODEL: .json, .onnx, .ag text, or - for standard input

Examples
  ag-compile run examples/two_dot.json --input x=0,1,2,3      value and gradient
  ag-compile examples/two_dot.json --emit ir                  the graph with its gradient
  ag-compile opt examples/digits.json --print-ir-change=diff  what each pass did

Commands
  Build  compile (default)  check  convert  opt
  Run    run  bench  gradcheck
  Look   inspect  ops [NAME]  targets  explain CODE  conform DIR [--json F]  (-v says why a case runs on the host)

Common options
  -O0..-O3             optimisation level                                  [-O2]
  --target T           cpu:native, cpu:x86-64-v3, cuda:sm_80, ...          [cpu:native]
  --grad Y:X[,X..]     add gradients of Y (repeatable); --grad-seed Y=VALUE
  --dim N=1024         fix a symbolic size (repeatable)
  --emit KIND[,KIND]   ir json dot loops llvm asm obj ptx     -o FILE      [standard output]
  --stage S            the stage that --emit ir shows; --list-stages
  --threads N          threads of the compiled program                     [all cores]
  --diagnostics FMT    text, short, json                                   [text]
  --no-cache  --fast-math  --print-fusion  --mem-limit BYTES  --mllvm=FLAG

Values (run, bench, gradcheck)
  --input NAME=VALUE   1,2,3  [[1,2],[3,4]]  @x.npy  @all.npz:key  randn rand iota ones zeros const(c)
  --inputs F.npz       all inputs by name        --outputs F.npz   write the results
  --expect NAME=VALUE  compare a result          --verify          compare with the interpreter
  --rtol R --atol A    tolerances                --print-max N     elements printed in full
  bench: --json F      the figures (- : standard output)           --profile  the time of each kernel
  --train OPT[,lr=X..] a step of sgd, adam or adamw on the first output; run: --steps N

Passes
  --passes a,b  --disable-pass P  --list-passes  --verify-each  --time-passes  --dump-dir DIR
  --print-ir-before P  --print-ir-after P|all  --print-ir-change[=diff]  --filter-pass RE

AG_FLAGS in the environment holds further options. Exit codes: 0 ok, 1 an error in the program or its values,
2 a malformed command line, 3 a numeric mismatch, 70 a bug of ag.
)";

std::string bad_pattern(const std::string& text) {
  try {
    std::regex pattern(text);
    return {};
  } catch (const std::regex_error&) {
    return "`" + text + "` is not a regular expression";
  }
}

void add_options(CLI::App& app, Options& o) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto many = [](CLI::Option* opt) {
    opt->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
  };
  auto list = [&](CLI::Option* opt) {
    many(opt);
    opt->delimiter(',');
  };
  app.add_option("-O", o.opt_level)->check(CLI::Range(0, 3));
  app.add_option("-o,--output", o.output);
  app.add_option("--target", o.target);
  many(app.add_option("--grad", o.grad));
  many(app.add_option("--grad-seed", o.grad_seed));
  app.add_option("--trainable", o.trainable);
  many(app.add_option("--dim", o.dims));
  list(app.add_option("--emit", o.emit));
  app.add_option("--stage", o.stage);
  app.add_option("--to", o.to)->check(CLI::IsMember({"json", "onnx", "onnx-json", "ag", "markdown"}));
  app.add_option("--diagnostics", o.diagnostics)->check(CLI::IsMember({"text", "short", "json"}));
  app.add_option("--threads", o.threads)->check(CLI::Range(1, 1024));
  app.add_option("--winograd", o.winograd)->check(CLI::IsMember({"f2", "f4"}));
  app.add_option("--mem-limit", o.memory_limit);
  many(app.add_option("--mllvm", o.mllvm));
  app.add_option("--resources", o.resources);
  app.add_flag("--elide-weights", o.elide_weights);
  app.add_flag("--no-cache", o.no_cache);
  app.add_flag("--fast-math", o.fast_math);
  app.add_flag("--print-fusion", o.print_fusion);
  app.add_flag("-q,--quiet", o.quiet);
  app.add_flag("-v,--verbose", o.verbose);
  list(app.add_option("--passes", o.passes));
  list(app.add_option("--disable-pass", o.disabled));
  list(app.add_option("--print-ir-before", o.print_before));
  list(app.add_option("--print-ir-after", o.print_after));
  app.add_option("--print-ir-change", o.print_change)->check(CLI::IsMember({"full", "diff"}));
  app.add_option("--filter-pass", o.filter)->check(bad_pattern);
  app.add_option("--dump-dir", o.dump_dir);
  app.add_flag("--list-passes", o.list_passes);
  app.add_flag("--list-stages", o.list_stages);
  app.add_flag("--verify-each", o.verify_each);
  app.add_flag("--time-passes", o.time_passes);
  many(app.add_option("--input", o.input));
  many(app.add_option("--inputs", o.inputs_files));
  app.add_option("--outputs", o.outputs_file);
  many(app.add_option("--expect", o.expect));
  app.add_option("--print-max", o.print_max)->check(CLI::NonNegativeNumber);
  app.add_flag("--verify", o.verify);
  app.add_flag("--interpret", o.interpret);
  app.add_option("--rtol", o.rtol)->check(CLI::NonNegativeNumber);
  app.add_option("--atol", o.atol)->check(CLI::NonNegativeNumber);
  app.add_option("--seed", o.seed);
  app.add_option("--json", o.json);
  app.add_option("--train", o.train);
  app.add_option("--steps", o.steps)->check(CLI::PositiveNumber);
  app.add_option("--warmup", o.warmup)->check(CLI::NonNegativeNumber);
  app.add_flag("--profile", o.profile);
  app.add_option("--time", o.seconds)->check(CLI::NonNegativeNumber);
}

int usage_error(const std::string& message) {
  fmt::print(stderr, "ag-compile: {}\nSee: ag-compile --help\n", message);
  return exit_usage;
}

/// The first unknown option, with the nearest known one.
std::string unknown_option(const CLI::App& app, const std::string& given) {
  std::vector<std::string> names;
  for (const CLI::Option* opt : app.get_options())
    for (const std::string& n : opt->get_lnames()) names.push_back("--" + n);
  std::string bare = given.substr(0, given.find('='));
  std::string text = given.starts_with('-') ? "unknown option `" + bare + "`" : "unexpected argument `" + given + "`";
  if (given.starts_with('-'))
    if (auto s = suggest(bare, names)) text += "; did you mean `" + *s + "`?";
  return text;
}

const Command* find_command(const std::string& name) {
  for (const Command& c : commands)
    if (name == c.name) return &c;
  return nullptr;
}

/// Options of AG_FLAGS, then those given. An option whose value may be left out gets it here, so that the word after
/// it is not taken for one.
std::vector<std::string> all_arguments(const std::vector<std::string>& args) {
  std::vector<std::string> out;
  const char* env = std::getenv("AG_FLAGS");
  std::istringstream words(env ? env : "");
  for (std::string w; words >> w;) out.push_back(w);
  out.insert(out.end(), args.begin(), args.end());
  for (std::string& a : out) {
    if (a == "--") break;
    if (a == "--print-ir-change") a += "=full";
  }
  return out;
}

/// Takes the command off the words that are no options; a model's name in its place means `compile`.
const Command* take_command(std::vector<std::string>& words, std::string& problem) {
  if (words.empty()) return &commands[0];
  if (const Command* c = find_command(words[0])) {
    words.erase(words.begin());
    return c;
  }
  if (words[0] == "-" || words[0].find_first_of("./") != std::string::npos || std::filesystem::exists(words[0]))
    return &commands[0];
  std::vector<std::string> names;
  for (const Command& c : commands) names.emplace_back(c.name);
  problem = "there is no command and no file `" + words[0] + "`";
  if (auto s = suggest(words[0], names)) problem += "; did you mean `" + *s + "`?";
  return nullptr;
}

int run_main(const std::vector<std::string>& args) {
  for (const std::string& a : args) {
    if (a == "--") break;
    if (a == "-h" || a == "--help" || (a == "help" && &a == args.data())) return fmt::print("{}", help_text), exit_ok;
    if (a == "--version") return fmt::print("ag-compile {} (LLVM {})\n", AG_VERSION, codegen::llvm_version()), exit_ok;
  }
  if (args.empty()) return fmt::print("{}", help_text), exit_ok;
  Session session;
  Options& o = session.options;
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  add_options(app, o);
  std::vector<std::string> all = all_arguments(args);
  std::vector<std::string> reversed(all.rbegin(), all.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& e) {
    return usage_error(e.what());
  }
  std::vector<std::string> words;
  bool options_end = false;
  for (const std::string& r : app.remaining()) {
    if (r == "--")
      options_end = true;
    else if (!options_end && r.size() > 1 && r[0] == '-')
      return usage_error(unknown_option(app, r));
    else
      words.push_back(r);
  }
  std::string problem;
  const Command* command = take_command(words, problem);
  if (!command) return usage_error(problem);
  o.command = command->name;
  std::size_t allowed = command->takes == Command::Takes::nothing ? 0 : 1;
  if (words.size() > allowed) return usage_error(unknown_option(app, words[allowed]));
  bool listing = o.list_passes || o.list_stages;
  if (command->takes == Command::Takes::model && words.empty() && !listing)
    return usage_error("`" + o.command + "` needs a model");
  if (!words.empty()) (command->takes == Command::Takes::topic ? o.topic : o.model) = words[0];
  if (auto s = codegen::set_llvm_options(o.mllvm); !s) return session.failed(s.error());
  return command->handler(session);
}

}  // namespace
}  // namespace ag::tools

int main(int argc, char** argv) {
  try {
    int code = ag::tools::run_main({argv + 1, argv + argc});
    if (std::fflush(stdout) != 0) return ag::tools::exit_error;
    return code;
  } catch (const ag::InternalError& e) {
    fmt::print(stderr,
               "error[AG9001]: internal error: {} ({}:{})\nThis is a bug of ag. Please report it with the command line "
               "and the model.\n",
               e.message, e.file, e.line);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "error[AG5010]: out of memory\n");
    return ag::tools::exit_error;
  } catch (const std::exception& e) {
    fmt::print(stderr, "error[AG9001]: internal error: {}\n", e.what());
  }
  return ag::tools::exit_internal;
}

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "frontend/data/file.hpp"
#include "frontend/load.hpp"
#include "ir/base/suggest.hpp"
#include "passes/specialise.hpp"
#include "tools/values.hpp"

namespace ag::tools {

void Session::report(const Diags& diags) const {
  DiagFormat format = options.diagnostics == "json"    ? DiagFormat::json
                      : options.diagnostics == "short" ? DiagFormat::short_
                                                       : DiagFormat::text;
  fmt::print(stderr, "{}", render(diags, sources, format));
}

int Session::failed(const Diags& diags) const {
  report(diags);
  for (const Diag& d : diags)
    if (code_name(d.code).starts_with("AG9")) return exit_internal;
  if (options.diagnostics == "text") {
    auto n = std::count_if(diags.begin(), diags.end(), [](const Diag& d) { return d.level == Level::error; });
    fmt::print(stderr, "error: {} error{}{}; nothing was written\n", n, n == 1 ? "" : "s",
               options.model.empty() ? "" : " in " + options.model);
  }
  return exit_error;
}

void Session::say(std::string_view text) const {
  const Options& o = options;
  bool emits = o.command == "convert" || (o.command == "compile" && (!o.emit.empty() || !o.stage.empty()));
  bool data_on_stdout = (emits && (o.output.empty() || o.output == "-")) || (o.command == "bench" && o.json == "-");
  fmt::print(data_on_stdout ? stderr : stdout, "{}", text);
}

Loc option_loc(Session& s, const std::string& option, const std::string& value, std::size_t from, std::size_t to) {
  // A source's name must be its own; values may be long.
  auto file = s.sources.add("<" + option + " " + value.substr(0, 40) + ">", option + " " + value + "\n");
  auto at = static_cast<std::uint32_t>(option.size() + 2);
  Loc loc;
  loc.file = file;
  loc.line = loc.end_line = 1;
  loc.col = at + static_cast<std::uint32_t>(from);
  loc.end_col = at + static_cast<std::uint32_t>(std::max(to, from + 1));
  return loc;
}

Diags located(Diags diags, const Loc& loc) {
  for (Diag& d : diags)
    if (d.spans.empty()) d.spans.push_back({.loc = loc, .label = {}, .primary = true});
  return diags;
}

void say_passes(const Session& s, const std::vector<passes::PassTime>& times, const std::vector<std::string>& fusion) {
  if (s.options.print_fusion)
    for (const std::string& note : fusion) s.say(note + "\n");
  if (s.options.time_passes)
    for (const passes::PassTime& t : times)
      s.say(fmt::format("{:<14} {:9.3f} ms  {:>6} -> {:<6} {}\n", t.name, t.ms, t.before, t.after,
                        t.changed ? "changed" : "no change"));
}

Result<runtime::Compiled> compile(Session& s, Graph g, const runtime::EngineOptions& options) {
  if (!s.engine) {
    AG_TRY(s.engine, runtime::Engine::create());
  }
  return s.engine->compile(std::move(g), options);
}

int thread_count(const Options& o) {
  if (o.threads) return o.threads;
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

Result<std::int64_t> parse_bytes(const std::string& text) {
  std::int64_t value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit(end, text.data() + text.size());
  for (const char* suffix : {"iB", "B"})
    if (unit.size() > 1 && unit.ends_with(suffix)) unit.resize(unit.size() - std::string_view(suffix).size());
  int shift = unit.empty() || unit == "B"  ? 0
              : unit == "K" || unit == "k" ? 10
              : unit == "M"                ? 20
              : unit == "G"                ? 30
              : unit == "T"                ? 40
                                           : -1;
  auto scaled = shift < 0 ? std::nullopt : checked_mul(value, std::int64_t{1} << shift);
  if (ec != std::errc() || value < 0 || !scaled)
    return fail(Code::AG0401, {}, "`" + text + "` is not a number of bytes (like 64M or 1GiB)");
  return *scaled;
}

Status write_output(const Session& s, const std::string& text, const std::string& suffix) {
  if (s.options.output.empty() || s.options.output == "-") {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size())
      return fail(Code::AG0020, {}, "cannot write to standard output");
    return {};
  }
  return data::write_file(s.options.output + suffix, text);
}

namespace {

/// A name up to one of `ends`; in double quotes it may contain anything but quotes.
std::string take_name(std::string_view text, std::size_t& i, std::string_view ends) {
  std::string name;
  if (i < text.size() && text[i] == '"') {
    for (++i; i < text.size() && text[i] != '"';) name += text[i++];
    if (i < text.size()) ++i;
    return name;
  }
  while (i < text.size() && ends.find(text[i]) == std::string_view::npos) name += text[i++];
  return name;
}

Result<GradRequest> parse_grad(Session& s, const std::string& text) {
  GradRequest r;
  std::size_t i = 0;
  r.of = take_name(text, i, ":");
  r.loc = option_loc(s, "--grad", text, 0, text.size());
  r.of_loc = option_loc(s, "--grad", text, 0, i);
  if (i >= text.size() || text[i] != ':' || r.of.empty())
    return fail(Code::AG0402, r.loc,
                "`--grad` takes Y:X[,X..]: a value, a colon, and what to differentiate with respect to");
  while (i < text.size()) {
    std::size_t from = ++i;
    std::string name = take_name(text, i, ",");
    if (name.empty())
      return fail(Code::AG0402, option_loc(s, "--grad", text, from, i), "`--grad` names nothing here",
                  "the name of a value is wanted");
    if (name == "trainable" && text[from] != '"')
      r.trainable = true;
    else
      r.wrt.push_back(name);
    r.wrt_locs.push_back(option_loc(s, "--grad", text, from, i));
  }
  return r;
}

bool glob_match(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '*')
    return glob_match(pattern.substr(1), text) || (!text.empty() && glob_match(pattern, text.substr(1)));
  return !text.empty() && (pattern[0] == '?' || pattern[0] == text[0]) && glob_match(pattern.substr(1), text.substr(1));
}

Status add_grads(Session& s, Graph& g) {
  for (const std::string& text : s.options.grad) {
    AG_TRY(GradRequest r, parse_grad(s, text));
    g.grads.push_back(std::move(r));
  }
  for (const std::string& text : s.options.grad_seed) {
    std::size_t i = 0;
    std::string of = take_name(text, i, "=");
    double value = 0;
    const char *begin = text.data() + std::min(i + 1, text.size()), *end = text.data() + text.size();
    auto [stop, ec] = std::from_chars(begin, end, value);
    bool number = i < text.size() && ec == std::errc() && stop == end, found = false;
    for (GradRequest& r : g.grads) {
      if (r.of != of) continue;
      found = true;
      if (number) {
        r.seed_value = value;
      } else {
        r.seed = text.substr(std::min(i + 1, text.size()));
        r.seed_loc = option_loc(s, "--grad-seed", text, i + 1, text.size());
      }
    }
    if (!found)
      return fail(Code::AG0402, option_loc(s, "--grad-seed", text, 0, text.size()),
                  "`--grad-seed` names `" + of + "`, of which no gradient is asked for");
  }
  return {};
}

Status fix_dims(Session& s, Graph& g) {
  DimEnv env;
  for (const std::string& text : s.options.dims) {
    std::size_t eq = text.find('=');
    std::int64_t value = 0;
    auto [end, ec] = eq == std::string::npos ? std::from_chars_result{text.data(), std::errc::invalid_argument}
                                             : std::from_chars(text.data() + eq + 1, text.data() + text.size(), value);
    if (ec != std::errc() || end != text.data() + text.size() || value < 0)
      return fail(Code::AG0402, option_loc(s, "--dim", text, 0, text.size()), "`--dim` takes NAME=SIZE");
    env[text.substr(0, eq)] = value;
  }
  if (env.empty()) return {};
  auto fixed = passes::specialise(g, env);
  // An error of a size is one of the option that gave it; which one, the message says.
  if (!fixed)
    return fail(located(std::move(fixed).error(),
                        option_loc(s, "--dim", s.options.dims.back(), 0, s.options.dims.back().size())));
  g = std::move(*fixed);
  return {};
}

/// --train: the graph becomes a whole training step.
Status make_step(Session& s, Graph& g) {
  const Loc at = option_loc(s, "--train", s.options.train, 0, s.options.train.size());
  auto optimiser = passes::parse_optimiser(s.options.train);
  if (!optimiser) return fail(located(std::move(optimiser).error(), at));
  passes::PassContext context;
  auto step = passes::train_step(std::move(g), *optimiser, context);
  if (!step) return fail(located(std::move(step).error(), at));
  s.report(context.diagnostics);
  g = std::move(step->graph);
  s.states = std::move(step->states);
  return {};
}

}  // namespace

Result<Graph> load_model(Session& s) {
  LoadOptions load_options;
  if (!s.options.resources.empty()) load_options.external_dirs.push_back(s.options.resources);
  // Of an ONNX model `trainable` is every weight, unless --trainable says which.
  bool asked = std::ranges::any_of(s.options.grad, [](const std::string& g) { return g.ends_with("trainable"); });
  load_options.mark_trainable = (asked || !s.options.train.empty()) && s.options.trainable.empty();
  InputValues values;
  values.value = [&s](std::size_t i, const std::string& name, const Type& t) { return given_value(s, i, name, t); };
  if (!s.options.input.empty() || !s.options.inputs_files.empty()) load_options.values = &values;
  AG_TRY(Graph g, load(s.options.model, s.sources, load_options));
  if (!values.used.empty() && !s.options.quiet)
    fmt::print(stderr, "note: types follow from the values of `{}`: compiled for those given\n",
               fmt::join(values.used, "`, `"));
  if (!s.options.trainable.empty())
    for (NodeId id : g.node_ids()) {
      Node& n = g.node(id);
      ValueId v = n.result();
      if (n.attrs.get<LiteralPtr>("value") && is_float(g.type(v).dtype) &&
          glob_match(s.options.trainable, g.value(v).name))
        n.attrs.set("trainable", true);
    }
  AG_TRY_(add_grads(s, g));
  AG_TRY_(fix_dims(s, g));
  if (s.options.train.empty()) return g;
  const auto start = std::chrono::steady_clock::now();
  AG_TRY_(make_step(s, g));
  s.step_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return g;
}

runtime::EngineOptions compile_options(const Session& s) {
  const Options& o = s.options;
  runtime::EngineOptions c;
  c.target = o.target;
  c.fast_math = o.fast_math;
  c.winograd_tile = o.winograd.empty() ? (o.fast_math ? 4 : 2) : o.winograd == "f4" ? 4 : 2;
  c.compile_threads = thread_count(o);
  c.memory_limit = parse_bytes(o.memory_limit).value_or(0);  // what is wrong with it is said where it is run
  c.use_cache = !o.no_cache;
  c.cache_folder = runtime::DiskCache::default_folder();
  c.keep_programs = !o.verify_each;  // else there would be no pass to verify
  c.pipeline.opt_level = o.opt_level;
  c.pipeline.passes = o.passes;
  c.pipeline.disabled = o.disabled;
  c.pipeline.verify_each = o.verify_each;
  c.pipeline.print_before = o.print_before;
  c.pipeline.print_after = o.print_after;
  using Change = passes::PipelineOptions::Change;
  c.pipeline.print_change = o.print_change == "diff" ? Change::diff
                            : o.print_change.empty() ? Change::none
                                                     : Change::full;
  c.pipeline.filter = o.filter;
  c.pipeline.dump_dir = o.dump_dir;
  c.pipeline.print = [&s](std::string_view text) { s.say(text); };
  c.pipeline.track_changes = o.time_passes;
  return c;
}

}  // namespace ag::tools

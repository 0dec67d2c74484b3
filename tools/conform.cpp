// conform: the cases of an ONNX conformance suite, each in a child that may crash without harm.
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "frontend/data/file.hpp"
#include "frontend/load.hpp"
#include "frontend/onnx/onnx.hpp"
#include "tools/coverage.hpp"
#include "tools/options.hpp"

namespace ag::tools {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

enum class Verdict : char { compiled, host, failed, crashed };
constexpr const char* verdict_names[] = {"compiled", "host", "failed", "crashed"};

struct Case {
  std::string name, model;
  std::vector<std::string> data_sets;  ///< folders; empty for a light model
  std::string light_output;            ///< its expected output's file
};
struct Outcome {
  Verdict verdict = Verdict::crashed;
  std::string message;
};

// ---- The cases -----------------------------------------------------------------------------------------------

/// `*` and `?` in the last part of a path.
bool matches(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0, star = pattern.npos, from = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = t;
    } else if (star != pattern.npos) {
      p = star + 1;
      t = ++from;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::optional<Case> case_at(const fs::path& path) {
  std::error_code ec;
  Case c{.name = path.filename().string()};
  if (fs::is_directory(path, ec)) {
    c.model = (path / "model.onnx").string();
    if (!fs::is_regular_file(c.model, ec)) return std::nullopt;
    for (const auto& entry : fs::directory_iterator(path, ec))
      if (entry.path().filename().string().starts_with("test_data_set_")) c.data_sets.push_back(entry.path().string());
    std::ranges::sort(c.data_sets);
    return c;
  }
  if (path.extension() != ".onnx") return std::nullopt;
  c.name = path.stem().string();
  c.model = path.string();
  c.light_output = (path.parent_path() / (c.name + "_output_0.pb")).string();
  if (!fs::is_regular_file(c.light_output, ec)) return std::nullopt;
  return c;
}

/// The cases of a folder; a folder that is a case; or those of a folder that match `*` and `?` in the last part.
std::vector<Case> find_cases(const std::string& where) {
  fs::path dir = where;
  if (dir.filename().empty()) dir = dir.parent_path();
  std::string pattern = "*";
  std::error_code ec;
  if (auto one = case_at(dir)) return {*one};
  if (!fs::is_directory(dir, ec) && where.find_first_of("*?") != where.npos) {
    pattern = dir.filename().string();
    dir = dir.parent_path();
  }
  std::vector<Case> out;
  for (const auto& entry : fs::directory_iterator(dir.empty() ? "." : dir, ec))
    if (auto c = case_at(entry.path()); c && matches(pattern, c->name)) out.push_back(std::move(*c));
  std::ranges::sort(out, {}, &Case::name);
  return out;
}

// ---- One case, in the child ----------------------------------------------------------------------------------

/// Two bf16 numbers that differ in their last place; what the suite's own runner allows between them.
constexpr double bf16_rtol = 1.0 / 64;

/// numpy's assert_allclose with the suite's tolerances, exact in element type and shape. Empty if all is well.
std::string difference(const Array& got, const Array& want, double rtol, double atol) {
  auto describe = [](const Array& a) {
    return fmt::format("{}[{}]", dtype_name(a.dtype()), fmt::join(a.shape(), ","));
  };
  if (got.dtype() != want.dtype() || got.shape() != want.shape())
    return fmt::format("is {}, expected {}", describe(got), describe(want));
  if (want.dtype() == DType::bf16) rtol = std::max(rtol, bf16_rtol);
  std::int64_t bad = 0, first = 0;
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double g = got.get_double(i), w = want.get_double(i);
    bool close = g == w || (std::isnan(g) && std::isnan(w)) || std::abs(g - w) <= atol + rtol * std::abs(w);
    if (is_int(want.dtype()) && close) close = got.get_int(i) == want.get_int(i) || std::abs(w) * rtol >= 1;
    if (!close && bad++ == 0) first = i;
  }
  if (bad == 0) return {};
  return fmt::format("{} of {} elements differ; element {} is {}, expected {}", bad, want.elems(), first,
                     format_element(got, first), format_element(want, first));
}

std::string first_line(const Diags& diags, const Sources& sources) {
  std::string text = diags.empty() ? "no message" : render({diags.front()}, sources, DiagFormat::short_);
  return text.substr(0, text.find('\n'));
}

Result<Array> tensor_file(const std::string& path) {
  AG_TRY(data::Bytes bytes, data::read_file(path, data::Limits{}.max_array_bytes));
  AG_TRY(auto named, onnx::parse_tensor({bytes.data(), bytes.size()}, path));
  return std::move(named.second);
}

/// input_0.pb, input_1.pb, ... of a data set.
Result<std::vector<Array>> tensor_files(const std::string& folder, std::string_view kind) {
  std::vector<Array> out;
  for (;;) {
    std::string path = fmt::format("{}/{}_{}.pb", folder, kind, out.size());
    std::error_code ec;
    if (!fs::exists(path, ec)) return out;
    AG_TRY(Array a, tensor_file(path));
    out.push_back(std::move(a));
  }
}

/// arange(n) / n in the shape of each input, as the suite runs its light models.
Result<std::vector<Array>> ramp_inputs(const Graph& g) {
  std::vector<Array> out;
  for (ValueId v : g.inputs) {
    const Type& t = g.type(v);
    std::vector<std::int64_t> shape;
    for (const Dim& d : t.shape) shape.push_back(d.is_const() ? d.value() : 1);
    Array a(t.dtype, shape);
    for (std::int64_t i = 0; i < a.elems(); ++i)
      a.set_double(i, static_cast<double>(static_cast<float>(i) / static_cast<float>(a.elems())));
    out.push_back(std::move(a));
  }
  return out;
}

class Worker {
 public:
  explicit Worker(Session& s) : s_(s) {}

  Outcome run(const Case& c) {
    try {
      return run_case(c);
    } catch (const InternalError& e) {
      return {Verdict::failed, fmt::format("internal error: {} ({}:{})", e.message, e.file, e.line)};
    } catch (const std::exception& e) {
      return {Verdict::failed, fmt::format("exception: {}", e.what())};
    }
  }

 private:
  /// The graph after autodiff, as the interpreter takes it.
  Result<Graph> differentiated(const Graph& g) {
    passes::PassContext context;
    passes::PipelineOptions options{.passes = {"autodiff"}};
    AG_TRY(passes::PipelineResult r, passes::run_pipeline(g, options, context));
    return std::move(std::get<Graph>(r.stage));
  }

  Outcome run_case(const Case& c) {
    Sources sources;
    auto fail_with = [&](const Diags& d) { return Outcome{Verdict::failed, first_line(d, sources)}; };
    // Values that decide types (axes, the k of a TopK) are built in.
    std::vector<Array> given;
    if (!c.data_sets.empty())
      if (auto read = tensor_files(c.data_sets[0], "input")) given = std::move(*read);
    InputValues values;
    values.value = [&](std::size_t i, const std::string&, const Type&) {
      return i < given.size() ? std::optional(given[i]) : std::nullopt;
    };
    auto g = load(c.model, sources, {.values = &values});
    if (!g) return fail_with(g.error());
    // Compiled if every step is machine code; what cannot be compiled (or not entirely) may still pass on the host.
    std::string why;
    auto compiled = compile_guarded(*g, why, sources);
    bool host = !compiled || calls_host(compiled->executable->program().body);
    if (host && why.empty()) why = "a step runs on the host";
    std::optional<Graph> reference;
    if (!compiled) {
      auto r = differentiated(*g);
      if (!r) return fail_with(r.error());
      reference = std::move(*r);
    }
    auto check = [&](Result<std::vector<Array>> inputs, Result<std::vector<Array>> want) -> Result<std::string> {
      if (!inputs) return fail(std::move(inputs).error());
      if (!want) return fail(std::move(want).error());
      if (inputs->size() < g->inputs.size())
        return fmt::format("the data set has {} inputs, the model {}", inputs->size(), g->inputs.size());
      inputs->resize(g->inputs.size());
      AG_TRY(std::vector<Array> got, evaluate(compiled, reference, *inputs, why));
      if (got.size() < want->size()) return fmt::format("{} outputs, expected {}", got.size(), want->size());
      for (std::size_t i = 0; i < want->size(); ++i) {
        std::string text = difference(got[i], (*want)[i], rtol(), atol());
        if (!text.empty()) return fmt::format("output {}: {}", i, text);
      }
      return std::string();
    };
    auto judge = [&](Result<std::string> result) -> std::optional<Outcome> {
      if (!result) return fail_with(result.error());
      if (!result->empty()) return Outcome{Verdict::failed, *result + (host ? " (on the host: " + why + ")" : "")};
      return std::nullopt;
    };
    for (const std::string& set : c.data_sets)
      if (auto bad = judge(check(tensor_files(set, "input"), tensor_files(set, "output")))) return *bad;
    if (c.data_sets.empty()) {
      auto want = tensor_file(c.light_output);
      Result<std::vector<Array>> wants = std::vector<Array>{};
      if (want)
        wants->push_back(std::move(*want));
      else
        wants = fail(want.error());
      if (auto bad = judge(check(ramp_inputs(*g), std::move(wants)))) return *bad;
    }
    return {host ? Verdict::host : Verdict::compiled, host ? why : ""};
  }

  std::optional<runtime::Compiled> compile_guarded(const Graph& g, std::string& why, const Sources& sources) {
    runtime::EngineOptions options = compile_options(s_);
    options.compile_threads = 1;
    options.use_cache = false;
    try {
      auto compiled = compile(s_, g, options);
      if (compiled) return std::move(*compiled);
      why = first_line(compiled.error(), sources);
    } catch (const InternalError& e) {
      why = fmt::format("internal error: {} ({}:{})", e.message, e.file, e.line);
    }
    return std::nullopt;
  }

  Result<std::vector<Array>> evaluate(const std::optional<runtime::Compiled>& compiled,
                                      const std::optional<Graph>& reference, const std::vector<Array>& inputs,
                                      std::string&) {
    if (!compiled) return interpret(*reference, inputs);
    runtime::ExecContext context(compiled->executable, {.threads = 1});
    return runtime::run(context, inputs);
  }

  double rtol() const { return s_.options.rtol >= 0 ? s_.options.rtol : 1e-3; }
  double atol() const { return s_.options.atol >= 0 ? s_.options.atol : 1e-7; }
  Session& s_;
};

// ---- Children ------------------------------------------------------------------------------------------------

bool read_all(int fd, void* to, std::size_t n) {
  for (auto* p = static_cast<char*>(to); n > 0;) {
    ssize_t got = ::read(fd, p, n);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    p += got;
    n -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_all(int fd, const void* from, std::size_t n) {
  for (auto* p = static_cast<const char*>(from); n > 0;) {
    ssize_t put = ::write(fd, p, n);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    p += put;
    n -= static_cast<std::size_t>(put);
  }
  return true;
}

[[noreturn]] void child_main(Session& s, const std::vector<Case>& cases, int fd) {
  rlimit core{0, 0};
  ::setrlimit(RLIMIT_CORE, &core);
  Worker worker(s);
  for (std::uint32_t index; read_all(fd, &index, sizeof index);) {
    Outcome o = worker.run(cases[index]);
    auto size = static_cast<std::uint32_t>(o.message.size());
    if (!write_all(fd, &o.verdict, 1) || !write_all(fd, &size, sizeof size) || !write_all(fd, o.message.data(), size))
      break;
  }
  ::_exit(0);
}

/// A child that takes one case after the other. One that dies or takes too long is replaced.
class Child {
 public:
  Child(Session& s, const std::vector<Case>& cases) : s_(s), cases_(cases) {}
  ~Child() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);  // idle; other children hold its socket open
    stop();
  }

  bool busy() const { return current_ >= 0; }
  int fd() const { return fd_; }
  std::size_t current() const { return static_cast<std::size_t>(current_); }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  bool give(std::size_t index) {
    if (fd_ < 0 && !spawn()) return false;
    current_ = static_cast<std::int64_t>(index);
    start_ = Clock::now();
    auto n = static_cast<std::uint32_t>(index);
    if (!write_all(fd_, &n, sizeof n)) return false;
    return true;
  }

  /// The outcome of the case that was given; of a dead child, how it died.
  Outcome take() {
    Outcome o;
    std::uint32_t size = 0;
    char verdict = 0;
    bool whole = read_all(fd_, &verdict, 1) && read_all(fd_, &size, sizeof size) && size < (1u << 20);
    if (whole) {
      o.message.resize(size);
      whole = read_all(fd_, o.message.data(), size);
    }
    current_ = -1;
    if (whole) {
      o.verdict = static_cast<Verdict>(verdict);
      return o;
    }
    int status = stop();
    std::string how = WIFSIGNALED(status) ? fmt::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)))
                                          : fmt::format("exit status {}", WEXITSTATUS(status));
    return {Verdict::crashed, how};
  }

  Outcome expire() {
    ::kill(pid_, SIGKILL);
    current_ = -1;
    stop();
    return {Verdict::failed, fmt::format("took longer than {} seconds", time_limit)};
  }

  static constexpr double time_limit = 120;

 private:
  bool spawn() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return false;
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) {
      ::close(fds[0]);
      ::close(fds[1]);
      return false;
    }
    if (pid_ == 0) {
      ::close(fds[0]);
      child_main(s_, cases_, fds[1]);
    }
    ::close(fds[1]);
    fd_ = fds[0];
    return true;
  }

  int stop() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    int status = 0;
    if (pid_ > 0) ::waitpid(std::exchange(pid_, -1), &status, 0);
    return status;
  }

  Session& s_;
  const std::vector<Case>& cases_;
  int fd_ = -1;
  pid_t pid_ = -1;
  std::int64_t current_ = -1;
  Clock::time_point start_;
};

std::vector<Outcome> run_all(Session& s, const std::vector<Case>& cases,
                             const std::function<void(std::size_t, const Outcome&)>& done) {
  std::vector<Outcome> out(cases.size());
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < std::min(2, thread_count(s.options)); ++i) children.push_back(std::make_unique<Child>(s, cases));
  std::size_t next = 0, finished = 0;
  auto finish = [&](Child& c, std::size_t index, Outcome o) {
    out[index] = std::move(o);
    ++finished;
    done(index, out[index]);
    (void)c;
  };
  while (finished < cases.size()) {
    std::vector<pollfd> fds;
    std::vector<Child*> waiting;
    for (auto& c : children) {
      if (!c->busy() && next < cases.size()) {
        std::size_t index = next++;
        if (!c->give(index)) {
          finish(*c, index, {Verdict::crashed, "no child could be started"});
          continue;
        }
      }
      if (!c->busy()) continue;
      fds.push_back({c->fd(), POLLIN, 0});
      waiting.push_back(c.get());
    }
    if (fds.empty()) continue;
    ::poll(fds.data(), fds.size(), 500);
    for (std::size_t i = 0; i < fds.size(); ++i) {
      std::size_t index = waiting[i]->current();
      if (fds[i].revents)
        finish(*waiting[i], index, waiting[i]->take());
      else if (waiting[i]->seconds() > Child::time_limit)
        finish(*waiting[i], index, waiting[i]->expire());
    }
  }
  return out;
}

}  // namespace

int conform_command(Session& s) {
  if (s.options.topic.empty()) {
    fmt::print(stderr, "ag-compile: `conform` needs the folder of a conformance suite\nSee: ag-compile --help\n");
    return exit_usage;
  }
  std::vector<Case> cases = find_cases(s.options.topic);
  if (cases.empty())
    return s.failed({error(Code::AG5304, {}, fmt::format("`{}` holds no conformance cases", s.options.topic))
                         .note("a case is a folder with model.onnx and test_data_set_*, or NAME.onnx beside "
                               "NAME_output_0.pb")});
  std::signal(SIGPIPE, SIG_IGN);
  std::vector<Outcome> outcomes = run_all(s, cases, [&](std::size_t i, const Outcome& o) {
    bool shown = s.options.verbose || o.verdict >= Verdict::failed;
    if (shown && !s.options.quiet)
      fmt::print(stderr, "{:<8}  {}{}{}\n", verdict_names[static_cast<int>(o.verdict)], cases[i].name,
                 o.message.empty() ? "" : ": ", o.message);
  });
  std::size_t counts[4] = {};
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    ++counts[static_cast<int>(outcomes[i].verdict)];
    json[cases[i].name] = verdict_names[static_cast<int>(outcomes[i].verdict)];
  }
  std::string text = json.dump(0) + "\n";
  if (s.options.json == "-") {
    fmt::print("{}", text);
  } else if (!s.options.json.empty()) {
    if (auto ok = data::write_file(s.options.json, text); !ok) return s.failed(ok.error());
  }
  std::size_t passed = counts[0] + counts[1], failures = counts[2] + counts[3];
  if (s.options.json == "-") return failures ? exit_mismatch : exit_ok;
  fmt::print("{} compiled, {} on the host, {} failed, {} crashed\n{} passed, {} failed\n", counts[0], counts[1],
             counts[2], counts[3], passed, failures);
  return failures ? exit_mismatch : exit_ok;
}

}  // namespace ag::tools

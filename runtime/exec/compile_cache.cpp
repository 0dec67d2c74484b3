#include "runtime/exec/compile_cache.hpp"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <atomic>

#include "codegen/backend.hpp"
#include "ir/loop/abi.hpp"
#include "runtime/exec/compile_team.hpp"

namespace ag::runtime {
namespace {

/// Processor time of this thread in ms: what a kernel costs, whatever else the machine does.
double thread_ms() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

/// With line info emitted code holds the origins of all statements; the structural hash knows those of traps.
std::uint64_t origin_hash(const loop::Kernel& kernel) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const auto& s : kernel.stmts) h = (h ^ (s.origin + 1)) * 0x100000001b3u;
  return h;
}

std::string kernel_id(const loop::Kernel& kernel, const CompileOptions& options) {
  const auto h = loop::structural_hash(kernel);
  std::string id = fmt::format("{:016x}{:016x}", h[0], h[1]);
  return options.line_info ? fmt::format("{}_{:016x}", id, origin_hash(kernel)) : id;
}

Result<std::string> emit(const loop::Kernel& kernel, const TargetSpec& target, const CompileOptions& options,
                         const std::string& symbol) {
  const auto kind = target.kind == TargetSpec::Kind::cuda ? codegen::EmitKind::ptx : codegen::EmitKind::object;
  const codegen::EmitOptions emit_options{options.opt_level, symbol, options.line_info};
  try {
    return codegen::backend_of(target).emit(kernel, target, kind, emit_options);
  } catch (const InternalError& e) {  // must not leave the thread
    return fail(Code::AG9001, {}, fmt::format("{} ({}:{})", e.message, e.file, e.line));
  } catch (const std::exception& e) {
    return fail(Code::AG9001, {}, fmt::format("while compiling kernel {}: {}", kernel.name, e.what()));
  }
}

}  // namespace

CompiledKernelRef CompileCache::find_or_begin(const std::string& key) {
  std::unique_lock lock(mutex_);
  for (;;) {
    auto [at, fresh] = entries_.try_emplace(key, Entry{nullptr, used_.end()});
    if (fresh) return nullptr;
    if (at->second.object) {
      used_.splice(used_.begin(), used_, at->second.used);
      return at->second.object;
    }
    made_.wait(lock);
  }
}

void CompileCache::end(const std::string& key, CompiledKernelRef object) {
  std::lock_guard lock(mutex_);
  const auto at = entries_.find(key);
  if (object) {
    bytes_ += object->bytes.size();
    used_.push_front(key);
    at->second = {std::move(object), used_.begin()};
  } else {
    entries_.erase(at);
  }
  while (bytes_ > max_bytes_ && !used_.empty()) {
    const auto oldest = entries_.find(used_.back());
    bytes_ -= oldest->second.object->bytes.size();
    entries_.erase(oldest);
    used_.pop_back();
  }
  made_.notify_all();
}

std::size_t CompileCache::entries() const {
  std::lock_guard lock(mutex_);
  return used_.size();
}

std::size_t CompileCache::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

std::string compile_key(const loop::Kernel& kernel, const TargetSpec& target, const CompileOptions& options) {
  return fmt::format("{}-{}-{}-{}-v{}-O{}{}-abi{}-ptx{}-{}", kernel_id(kernel, options),
                     target.kind == TargetSpec::Kind::cuda ? "cuda" : "cpu", target.cpu, target.features,
                     target.vector_bits, options.opt_level, options.line_info ? "g" : "", loop::abi_version,
                     target.ptx_version, codegen::code_version());
}

std::string compile_symbol(const loop::Kernel& kernel, const CompileOptions& options) {
  return "ag_" + kernel_id(kernel, options);
}

Result<CompiledKernels> compile_kernels(std::span<const loop::Kernel> kernels, const TargetSpec& target,
                                        const CompileOptions& options) {
  CompileCache own;
  CompileCache& cache = options.cache ? *options.cache : own;
  std::vector<std::string> keys;
  std::unordered_map<std::string, std::size_t> first;  // of the equal ones
  std::vector<std::size_t> unique;
  for (const auto& k : kernels) {
    keys.push_back(compile_key(k, target, options));
    if (first.emplace(keys.back(), keys.size() - 1).second) unique.push_back(keys.size() - 1);
  }
  CompiledKernels out{std::vector<CompiledKernelRef>(kernels.size()), std::vector<double>(kernels.size()), 0};
  std::vector<Diags> errors(kernels.size());
  // The longest first: what is begun last must not keep one thread busy alone. Kind after kind.
  std::vector<bool> plain;
  for (const auto& k : kernels) plain.push_back(codegen::plain(k));
  std::stable_sort(unique.begin(), unique.end(), [&](std::size_t a, std::size_t b) {
    if (plain[a] != plain[b]) return bool(plain[a]);
    return kernels[a].stmts.size() > kernels[b].stmts.size();
  });
  std::atomic<int> compiled{0};
  CompileTeam team(options.threads);
  (options.team ? *options.team : team).run(unique.size(), [&](std::size_t u) {
    const std::size_t i = unique[u];
    const std::string symbol = compile_symbol(kernels[i], options);
    auto object = cache.get(keys[i], symbol, options.store, [&] {
      const double start = thread_ms();
      auto bytes = emit(kernels[i], target, options, symbol);
      out.compile_ms[i] = thread_ms() - start;
      ++compiled;
      return bytes;
    });
    if (object)
      out.kernels[i] = std::move(*object);
    else
      errors[i] = std::move(object).error();
  });
  for (auto& e : errors)
    if (!e.empty()) return fail(std::move(e));
  for (std::size_t i = 0; i < kernels.size(); ++i) out.kernels[i] = out.kernels[first.at(keys[i])];
  out.compiled = compiled;
  return out;
}

}  // namespace ag::runtime

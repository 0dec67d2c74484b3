// Machine code of kernels, compiled in parallel and kept. The key is what determines the bytes: structure of
// the kernel, target, options, versions; so equal kernels of one program, or of several, compile once.
#pragma once
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "ir/loop/kernel.hpp"
#include "ir/loop/target.hpp"

namespace ag::runtime {

/// One kernel's object file (CPU) or PTX, whose entry is `symbol`: a name made from the key.
struct CompiledKernel {
  std::string symbol;
  std::string bytes;
};
using CompiledKernelRef = std::shared_ptr<const CompiledKernel>;

/// A slower cache behind the one in memory: files, say. Called from several threads.
class ObjectStore {
 public:
  virtual ~ObjectStore() = default;
  virtual std::optional<std::string> load(const std::string& key) = 0;
  virtual void save(const std::string& key, const std::string& bytes) = 0;
};

/// Thread-safe. Forgets what was used longest ago when it holds more than `max_bytes`.
class CompileCache {
 public:
  explicit CompileCache(std::size_t max_bytes = std::size_t{256} << 20) : max_bytes_(max_bytes) {}

  /// The object of `key`, from memory, from `store` if there is one, or else from `make`. While one thread makes it,
  /// others that want the same wait for it. Failures are not kept.
  template <class Make>
  Result<CompiledKernelRef> get(const std::string& key, const std::string& symbol, ObjectStore* store, Make make);

  std::size_t entries() const;
  std::size_t bytes() const;

 private:
  struct Entry {
    CompiledKernelRef object;  // null while it is being made
    std::list<std::string>::iterator used;
  };
  CompiledKernelRef find_or_begin(const std::string& key);
  void end(const std::string& key, CompiledKernelRef object);

  const std::size_t max_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable made_;
  std::unordered_map<std::string, Entry> entries_;
  std::list<std::string> used_;  // most recently used first
  std::size_t bytes_ = 0;
};

class CompileTeam;
struct CompileOptions {
  int opt_level = 2;
  bool line_info = false;
  int threads = 1;
  CompileCache* cache = nullptr;
  ObjectStore* store = nullptr;  ///< behind the cache
  CompileTeam* team = nullptr;   ///< instead of `threads` new ones
};
struct CompiledKernels {
  std::vector<CompiledKernelRef> kernels;  ///< as given; equal kernels share one
  std::vector<double> compile_ms;  ///< processor time of the thread; 0 for what was cached or equal to another
  int compiled = 0;  ///< how many the code generator made
};
/// Compiles scheduled kernels with the backend of `target`. Errors: the code generator's, of the first kernel
/// that has any.
Result<CompiledKernels> compile_kernels(std::span<const loop::Kernel> kernels, const TargetSpec& target,
                                        const CompileOptions& options = {});

/// What determines the bytes of a compiled kernel, and a symbol made from it.
std::string compile_key(const loop::Kernel& kernel, const TargetSpec& target, const CompileOptions& options);
std::string compile_symbol(const loop::Kernel& kernel, const CompileOptions& options);

template <class Make>
Result<CompiledKernelRef> CompileCache::get(const std::string& key, const std::string& symbol, ObjectStore* store,
                                            Make make) {
  if (auto found = find_or_begin(key)) return found;
  struct End {  // also if `make` throws
    CompileCache& cache;
    const std::string& key;
    CompiledKernelRef object;
    ~End() { cache.end(key, std::move(object)); }
  } end{*this, key, nullptr};
  std::optional<std::string> stored = store ? store->load(key) : std::nullopt;
  if (!stored) {
    Result<std::string> made = make();
    if (!made) return fail(std::move(made).error());
    if (store) store->save(key, *made);
    stored = std::move(*made);
  }
  end.object = std::make_shared<const CompiledKernel>(CompiledKernel{symbol, std::move(*stored)});
  return end.object;
}

}  // namespace ag::runtime

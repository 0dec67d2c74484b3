// Object files in memory become functions. Hermetic: kernels may call nothing but memcpy, memmove, memset
// and memcmp. Memory is writable while linking and executable afterwards, never both.
#pragma once
#include <memory>
#include <span>

#include "runtime/exec/compile_cache.hpp"
#include "runtime/exec/executable.hpp"

namespace ag::runtime {

/// A linker for this process. Thread-safe. Costs about a millisecond, so an engine keeps one.
class Loader {
 public:
  /// Errors: AG4101, LLVM cannot set up linking on this machine.
  static Result<std::shared_ptr<Loader>> create();
  virtual ~Loader() = default;

  /// Links the objects in one go, equal symbols once. Functions as given; they stay loaded as long as
  /// `owner` (which also keeps the loader). Errors: AG4101, an object cannot be linked.
  virtual Result<KernelCode> load(std::span<const CompiledKernelRef> objects) = 0;
};

}  // namespace ag::runtime

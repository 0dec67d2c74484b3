// A code generator: loop IR in, bytes out. Pure: no device, no file, no global state.
#pragma once
#include <string>
#include <vector>

#include "ir/loop/kernel.hpp"
#include "ir/loop/target.hpp"

namespace ag::codegen {

enum class EmitKind : std::uint8_t { llvm, assembly, object, ptx };

struct EmitOptions {
  int opt_level = 2;                 ///< 0: LLVM's fast selector; 3: all its passes; else those that pay
  std::string symbol = "k";          ///< the entry's name; never user text
  bool line_info = false;            ///< statement origins as line numbers
};

/// A backend is one record in one folder; codegen/backends.cpp lists them.
struct Backend {
  std::string_view name;             ///< "cpu", "cuda"
  std::string_view summary;
  /// Facts about a target string such as "native", "x86-64-v3", "sm_80".
  Result<TargetSpec> (*describe)(std::string_view target);
  /// Emits one fully scheduled kernel (math expanded). The same input gives the same bytes.
  Result<std::string> (*emit)(const loop::Kernel& kernel, const TargetSpec& target, EmitKind kind,
                              const EmitOptions& options);
  std::vector<std::string> (*known_targets)();
};
const std::vector<const Backend*>& backends();
/// "cpu:native", "cpu", "cpu:x86-64-v3", "cuda:sm_80" -> facts; AG4001 with the known ones otherwise.
Result<TargetSpec> describe_target(std::string_view target);
const Backend& backend_of(const TargetSpec& target);

/// Whether a kernel is of the common kind, vectors of f32 with what their masks and functions are made of, for which
/// the code generator leaves out more. The two kinds are never compiled at the same time, so give it one after the
/// other.
bool plain(const loop::Kernel& kernel);

/// LLVM's first kernel in a process takes some 10 ms more than others: its code is read from the disk, tables are made.
/// warm_up() compiles one that nobody wants, for a thread that has nothing better to do; warm() says whether any kernel
/// was compiled yet.
bool warm(const TargetSpec& target);
void warm_up(const TargetSpec& target, int opt_level);

/// Passes options to LLVM's own command line (--mllvm). Once per process, before the first emit.
Status set_llvm_options(const std::vector<std::string>& flags);
std::string llvm_version();
/// What determines emitted bytes beside kernel, target and options: ag's own code generator, the LLVM that is loaded,
/// options given to it. For keys of caches.
std::string code_version();

}  // namespace ag::codegen

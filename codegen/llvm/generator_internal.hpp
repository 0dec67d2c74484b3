// LLVM's code generator, set up once and used again: making its passes costs about half of what a small kernel takes.
#pragma once
#include <llvm/IR/DiagnosticHandler.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <memory>
#include <string>
#include <string_view>

#include "codegen/backend.hpp"

namespace ag::codegen {

/// Which of LLVM's dearer steps a kernel needs.
struct Effort {
  bool combine = true;   ///< the selector's generic combining of nodes
  bool hoist = true;     ///< what does not change goes before the loop
  bool schedule = true;  ///< an order of instructions other than the kernel's
};
Effort effort(const loop::Kernel& kernel, const TargetSpec& target);

/// A context, a machine and its passes for one thread at a time. Not shared: none of them is thread-safe.
class Generator {
 public:
  /// Null if LLVM has no such machine.
  static std::unique_ptr<Generator> create(std::string_view triple, const TargetSpec& target, int opt_level);

  ~Generator();

  llvm::LLVMContext& context() { return *context_; }
  llvm::TargetMachine& machine() { return *machine_; }
  /// Bytes of a verified module of context(). Errors: AG4003, LLVM's own complaints.
  Result<std::string> generate(llvm::Module& module, EmitKind kind, const std::string& target, Effort effort);
  /// False after an error, and when the context has gathered the types and constants of many kernels.
  bool usable() const { return !failed_ && generated_ < max_kernels; }

 private:
  static constexpr int max_kernels = 256;
  struct Complaints;
  struct Gate;
  Generator();

  std::unique_ptr<Gate> gate_;
  std::unique_ptr<llvm::LLVMContext> context_;
  std::unique_ptr<llvm::TargetMachine> machine_;
  Complaints* complaints_ = nullptr;  // owned by the context
  llvm::SmallVector<char, 0> bytes_;
  llvm::raw_svector_ostream out_{bytes_};
  std::unique_ptr<llvm::legacy::PassManager> object_passes_;
  int generated_ = 0;
  bool whole_ = false;  // with all of LLVM's passes
  bool failed_ = false;
};

/// Whether one has been made for the target in this process.
bool generator_made(const TargetSpec& target);

/// Generators that no thread uses right now, by machine.
class GeneratorLease {
 public:
  GeneratorLease(std::string_view triple, const TargetSpec& target, int opt_level);
  ~GeneratorLease();
  GeneratorLease(const GeneratorLease&) = delete;
  GeneratorLease& operator=(const GeneratorLease&) = delete;
  Generator* get() const { return generator_.get(); }

 private:
  std::string key_;
  std::unique_ptr<Generator> generator_;
};

}  // namespace ag::codegen

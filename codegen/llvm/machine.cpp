// From a checked kernel to bytes: the module around the function, LLVM's verifier and its code generator.
#include <llvm-c/Core.h>
#include <llvm/IR/Verifier.h>
#include <llvm/MC/MCSubtargetInfo.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/CommandLine.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <mutex>

#include "codegen/llvm/emit_internal.hpp"
#include "codegen/llvm/generator_internal.hpp"

namespace ag::codegen {

void initialise_targets() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
  });
}

const llvm::Target* find_target(std::string_view triple) {
  initialise_targets();
  std::string error;
  return llvm::TargetRegistry::lookupTarget(llvm::Triple(llvm::StringRef(triple)), error);
}

namespace {

std::unique_ptr<llvm::MCSubtargetInfo> subtarget(std::string_view triple, const std::string& cpu,
                                                 const std::string& features) {
  const llvm::Target* target = find_target(triple);
  if (!target) return nullptr;
  return std::unique_ptr<llvm::MCSubtargetInfo>(
      target->createMCSubtargetInfo(llvm::Triple(llvm::StringRef(triple)), cpu, features));
}

class Checker {
 public:
  Checker(const loop::Kernel& kernel, const TargetSpec& target, const Dialect& dialect)
      : kernel_(kernel), target_(target), dialect_(dialect) {}

  Status run() {
    for (const loop::Buffer& b : kernel_.buffers) {
      if (!dialect_.supports(b.scope)) return refuse("buffers of this scope");
      bool fixed = b.scope == loop::Scope::local || b.scope == loop::Scope::shared;
      if (fixed && !b.elems.is_const()) return refuse("a local or shared buffer whose size is not a constant");
      if (!fixed) continue;
      auto bytes = checked_mul(b.elems.value(), static_cast<std::int64_t>(dtype_bytes(b.dtype)));
      std::int64_t limit = b.scope == loop::Scope::local ? 64 << 10 : target_.shared_bytes;
      if (!bytes || *bytes < 0 || *bytes > limit)
        return refuse("a " + std::string(b.scope == loop::Scope::local ? "local" : "shared") + " buffer of more than " +
                      std::to_string(limit) + " bytes");
    }
    return block(kernel_.top(), 0);
  }

 private:
  Status refuse(const std::string& what) const {
    return fail(Code::AG4005, {}, "`" + target_.name + "` cannot run the kernel: it has " + what);
  }

  Status block(loop::BlockId id, int depth) const {
    if (depth > 64) return refuse("control flow nested more than 64 deep");
    for (loop::StmtId stmt : kernel_.blocks[id].stmts) {
      const loop::Stmt& s = kernel_.stmts[stmt];
      std::string name(loop::describe(s.op).name);
      if (loop::describe(s.op).cls == loop::OpClass::math)
        return refuse("the statement " + name + ", which the pass expand_math should have replaced");
      if (!dialect_.supports(s.op)) return refuse("the statement " + name);
      if (s.op == loop::Op::for_ && !dialect_.supports(s.attr.mapping))
        return refuse("a loop mapped to " + std::string(loop::mapping_name(s.attr.mapping)));
      for (loop::ValueId v : s.results)
        if (kernel_.type(v).count() > 16384) return refuse("a tile of more than 16384 elements");
      for (loop::BlockId inner : s.blocks) AG_TRY_(block(inner, depth + 1));
    }
    return {};
  }

  const loop::Kernel& kernel_;
  const TargetSpec& target_;
  const Dialect& dialect_;
};

Status check_kind(const TargetSpec& target, EmitKind kind) {
  bool gpu = target.kind == TargetSpec::Kind::cuda;
  if (kind == EmitKind::llvm || gpu == (kind == EmitKind::ptx)) return {};
  return fail(Code::AG4004, {},
              "`" + target.name + "` has no " +
                  (kind == EmitKind::ptx      ? "PTX"
                   : kind == EmitKind::object ? "object files"
                                              : "assembly") +
                  (gpu ? "; it emits llvm and ptx" : "; it emits llvm, asm and obj"));
}

}  // namespace

bool known_cpu(std::string_view triple, const std::string& cpu) {
  auto info = subtarget(triple, "", "");
  return info && info->isCPUStringValid(cpu);
}

std::string missing_feature(std::string_view triple, const std::string& cpu, const std::string& features,
                            std::initializer_list<const char*> wanted) {
  auto info = subtarget(triple, cpu, features);
  for (const char* f : wanted)
    if (!info || !info->checkFeatures(std::string("+") + f)) return f;
  return "";
}

Result<std::string> emit_kernel(const loop::Kernel& kernel, const TargetSpec& target, EmitKind kind,
                                const EmitOptions& options, std::string_view triple, Dialect& dialect) {
  AG_TRY_(check_kind(target, kind));
  AG_TRY_(loop::verify(kernel, /*mapped=*/true));
  AG_TRY_(Checker(kernel, target, dialect).run());
  GeneratorLease lease(triple, target, options.opt_level);
  Generator* generator = lease.get();
  if (!generator) return fail(Code::AG4003, {}, "LLVM has no code generator for " + std::string(triple));

  llvm::Module module("ag", generator->context());
  module.setTargetTriple(generator->machine().getTargetTriple());
  module.setDataLayout(generator->machine().createDataLayout());
  AG_TRY_(Emitter(kernel, target, options, module, dialect).run());

  std::string wrong;
  llvm::raw_string_ostream wrong_stream(wrong);
  if (llvm::verifyModule(module, &wrong_stream))
    return fail(error(Code::AG4003, {}, "LLVM's verifier refused the emitted code").note(wrong));

  if (kind == EmitKind::llvm) {
    std::string text;
    llvm::raw_string_ostream out(text);
    module.print(out, nullptr);
    return text;
  }
  return generator->generate(module, kind, target.name, effort(kernel, target));
}

namespace {
std::string& llvm_flags() {
  static std::string flags;
  return flags;
}
}  // namespace

Status set_llvm_options(const std::vector<std::string>& flags) {
  if (flags.empty()) return {};
  initialise_targets();
  std::vector<const char*> argv{"ag"};
  for (const std::string& f : flags) argv.push_back(f.c_str());
  std::string text;
  llvm::raw_string_ostream errors(text);
  if (llvm::cl::ParseCommandLineOptions(static_cast<int>(argv.size()), argv.data(), "", &errors)) {
    for (const std::string& f : flags) llvm_flags() += " " + f;
    return {};
  }
  return fail(error(Code::AG4006, {}, "LLVM does not accept the options given with --mllvm").note(text));
}

std::string llvm_version() { return LLVM_VERSION_STRING; }

std::string code_version() {
  unsigned major = 0, minor = 0, patch = 0;
  LLVMGetVersion(&major, &minor, &patch);  // of the library that is loaded
  return std::string(source_hash) + "-llvm" + std::to_string(major) + "." + std::to_string(minor) + "." +
         std::to_string(patch) + "-" LLVM_VERSION_STRING + llvm_flags();
}

}  // namespace ag::codegen

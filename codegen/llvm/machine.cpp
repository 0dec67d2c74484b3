// From a checked kernel to bytes: the module around the function, LLVM's verifier and its code generator.
#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/DiagnosticPrinter.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Verifier.h>
#include <llvm/MC/MCSubtargetInfo.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/CommandLine.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>
#include <llvm/Target/TargetOptions.h>

#include <mutex>

#include "codegen/llvm/emit_internal.hpp"

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

namespace {

const llvm::Target* find_target(std::string_view triple) {
  initialise_targets();
  std::string error;
  return llvm::TargetRegistry::lookupTarget(llvm::Triple(llvm::StringRef(triple)), error);
}

std::unique_ptr<llvm::MCSubtargetInfo> subtarget(std::string_view triple, const std::string& cpu,
                                                 const std::string& features) {
  const llvm::Target* target = find_target(triple);
  if (!target) return nullptr;
  return std::unique_ptr<llvm::MCSubtargetInfo>(
      target->createMCSubtargetInfo(llvm::Triple(llvm::StringRef(triple)), cpu, features));
}

/// One per thread, machine and level: they are costly to make and must not be shared between threads.
llvm::TargetMachine* machine_for(std::string_view triple, const TargetSpec& spec, int opt_level) {
  thread_local std::map<std::string, std::unique_ptr<llvm::TargetMachine>> cache;
  std::string key = std::string(triple) + "|" + spec.cpu + "|" + spec.features + (opt_level == 0 ? "|0" : "|2");
  auto& machine = cache[key];
  if (!machine) {
    const llvm::Target* target = find_target(triple);
    if (!target) return nullptr;
    llvm::TargetOptions options;
    options.AllowFPOpFusion = llvm::FPOpFusion::Strict;
    bool gpu = spec.kind == TargetSpec::Kind::cuda;
    machine.reset(
        target->createTargetMachine(llvm::Triple(llvm::StringRef(triple)), spec.cpu, spec.features, options,
                                    llvm::Reloc::PIC_, gpu ? std::nullopt : std::optional(llvm::CodeModel::Small),
                                    opt_level == 0 ? llvm::CodeGenOptLevel::None : llvm::CodeGenOptLevel::Default));
  }
  return machine.get();
}

/// Collects LLVM's own complaints, which otherwise go to standard error or end the process.
struct Complaints : llvm::DiagnosticHandler {
  std::string text;
  bool handleDiagnostics(const llvm::DiagnosticInfo& info) override {
    if (info.getSeverity() != llvm::DS_Error) return true;
    llvm::raw_string_ostream out(text);
    llvm::DiagnosticPrinterRawOStream printer(out);
    info.print(printer);
    out << "\n";
    return true;
  }
};

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
  llvm::TargetMachine* machine = machine_for(triple, target, options.opt_level);
  if (!machine) return fail(Code::AG4003, {}, "LLVM has no code generator for " + std::string(triple));

  llvm::LLVMContext context;
  auto handler = std::make_unique<Complaints>();
  Complaints& complaints = *handler;
  context.setDiagnosticHandler(std::move(handler));
  llvm::Module module("ag", context);
  module.setTargetTriple(machine->getTargetTriple());
  module.setDataLayout(machine->createDataLayout());
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
  llvm::SmallVector<char, 0> bytes;
  llvm::raw_svector_ostream out(bytes);
  llvm::legacy::PassManager passes;
  auto type = kind == EmitKind::object ? llvm::CodeGenFileType::ObjectFile : llvm::CodeGenFileType::AssemblyFile;
  if (machine->addPassesToEmitFile(passes, out, nullptr, type))
    return fail(Code::AG4003, {}, "LLVM cannot emit this kind of file for " + target.name);
  passes.run(module);
  if (!complaints.text.empty())
    return fail(error(Code::AG4003, {}, "LLVM's code generator failed").note(complaints.text));
  return std::string(bytes.begin(), bytes.end());
}

Status set_llvm_options(const std::vector<std::string>& flags) {
  if (flags.empty()) return {};
  initialise_targets();
  std::vector<const char*> argv{"ag"};
  for (const std::string& f : flags) argv.push_back(f.c_str());
  std::string text;
  llvm::raw_string_ostream errors(text);
  if (llvm::cl::ParseCommandLineOptions(static_cast<int>(argv.size()), argv.data(), "", &errors)) return {};
  return fail(error(Code::AG4006, {}, "LLVM does not accept the options given with --mllvm").note(text));
}

std::string llvm_version() { return LLVM_VERSION_STRING; }

}  // namespace ag::codegen

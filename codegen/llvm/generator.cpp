#include "codegen/llvm/generator_internal.hpp"

#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/DiagnosticPrinter.h>
#include <llvm/IR/Module.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Target/TargetOptions.h>

#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "codegen/llvm/emit_internal.hpp"

namespace ag::codegen {

/// Collects LLVM's own complaints, which otherwise go to standard error or end the process.
struct Generator::Complaints : llvm::DiagnosticHandler {
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

namespace {
std::atomic<bool>& made(TargetSpec::Kind kind) {
  static std::atomic<bool> cpu{false}, gpu{false};
  return kind == TargetSpec::Kind::cpu ? cpu : gpu;
}
}  // namespace

bool generator_made(const TargetSpec& target) { return made(target.kind).load(std::memory_order_relaxed); }

std::unique_ptr<Generator> Generator::create(std::string_view triple_name, const TargetSpec& target, int opt_level) {
  const llvm::Triple triple{llvm::StringRef(triple_name)};
  const llvm::Target* found = find_target(triple_name);
  if (!found) return nullptr;
  std::unique_ptr<Generator> g(new Generator);
  g->context_ = std::make_unique<llvm::LLVMContext>();
  auto handler = std::make_unique<Complaints>();
  g->complaints_ = handler.get();
  g->context_->setDiagnosticHandler(std::move(handler));
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Strict;
  const bool gpu = target.kind == TargetSpec::Kind::cuda;
  g->machine_.reset(
      found->createTargetMachine(triple, target.cpu, target.features, options, llvm::Reloc::PIC_,
                                 gpu ? std::nullopt : std::optional(llvm::CodeModel::Small),
                                 opt_level == 0 ? llvm::CodeGenOptLevel::None : llvm::CodeGenOptLevel::Default));
  made(target.kind).store(true, std::memory_order_relaxed);
  return g->machine_ ? std::move(g) : nullptr;
}

Result<std::string> Generator::generate(llvm::Module& module, EmitKind kind, const std::string& target) {
  const bool object = kind == EmitKind::object;
  auto fail_with = [&](Diag d) {
    failed_ = true;
    return fail(std::move(d));
  };
  // Only passes that write objects are kept: text is for people to read, and NVPTX's printer keeps state.
  std::unique_ptr<llvm::legacy::PassManager> passes = object ? std::move(object_passes_) : nullptr;
  if (!passes) {
    passes = std::make_unique<llvm::legacy::PassManager>();
    const auto type = object ? llvm::CodeGenFileType::ObjectFile : llvm::CodeGenFileType::AssemblyFile;
    if (machine_->addPassesToEmitFile(*passes, out_, nullptr, type))
      return fail_with(error(Code::AG4003, {}, "LLVM cannot emit this kind of file for " + target));
  }
  bytes_.clear();
  complaints_->text.clear();
  passes->run(module);
  ++generated_;
  if (!complaints_->text.empty())
    return fail_with(error(Code::AG4003, {}, "LLVM's code generator failed").note(complaints_->text));
  std::string bytes(bytes_.begin(), bytes_.end());
  if (object) object_passes_ = std::move(passes);
  return bytes;
}

namespace {

struct Pool {
  std::mutex mutex;
  std::map<std::string, std::vector<std::unique_ptr<Generator>>, std::less<>> idle;
};
/// Never destroyed: threads may still compile while the process ends, and LLVM's own statics go first.
Pool& pool() {
  static Pool& p = *new Pool;
  return p;
}
constexpr std::size_t max_idle = 64;  // of one machine

}  // namespace

GeneratorLease::GeneratorLease(std::string_view triple, const TargetSpec& target, int opt_level)
    : key_(std::string(triple) + "|" + target.cpu + "|" + target.features + (opt_level == 0 ? "|0" : "|2")) {
  {
    std::lock_guard lock(pool().mutex);
    auto& idle = pool().idle[key_];
    if (!idle.empty()) {
      generator_ = std::move(idle.back());
      idle.pop_back();
    }
  }
  if (!generator_) generator_ = Generator::create(triple, target, opt_level);
}

GeneratorLease::~GeneratorLease() {
  if (!generator_ || !generator_->usable()) return;
  std::lock_guard lock(pool().mutex);
  if (auto& idle = pool().idle[key_]; idle.size() < max_idle) idle.push_back(std::move(generator_));
}

}  // namespace ag::codegen

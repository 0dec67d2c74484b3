#include "codegen/llvm/generator_internal.hpp"

#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/DiagnosticPrinter.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/OptBisect.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Pass.h>
#include <llvm/PassInfo.h>
#include <llvm/Support/CommandLine.h>
#include <llvm/Target/TargetOptions.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
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

/// Keeps passes from kernels that need not have them; LLVM asks it by their names.
struct Generator::Gate : llvm::OptPassGate {
  Effort effort;
  bool isEnabled() const override { return !effort.hoist || !effort.schedule; }
  bool shouldRunPass(llvm::StringRef pass, llvm::StringRef) const override {
    if (pass == "machine-scheduler") return effort.schedule;
    return effort.hoist || (pass != "early-machinelicm" && pass != "machinelicm");
  }
};

Generator::Generator() = default;
Generator::~Generator() = default;

namespace {

/// Passes of LLVM's code generator for x86 that find nothing to do in our code, or do nothing for its speed, by the
/// names of LLVM's registry. Kernels come in final form: addresses are a base, a loop's counter times a constant, and a
/// constant, so that strength reduction, the most expensive of all, only renames them; nothing is called, thrown or
/// counted. Together they take two fifths of a kernel's time.
constexpr std::string_view left_out[] = {
    // on LLVM's IR
    "canon-freeze", "loop-reduce", "mergeicmps", "expand-memcmp", "gc-lowering", "shadow-stack-gc-lowering",
    "consthoist", "replace-with-veclib", "partially-inline-libcalls", "post-inline-ee-instrument", "interleaved-access",
    "x86-partial-reduction", "indirectbr-expand", "codegenprepare", "dwarf-eh-prepare", "objc-arc-contract",
    "callbrprepare", "safe-stack", "stack-protector", "x86-lower-amx-intrinsics", "x86-lower-amx-type",
    // before registers are allocated
    "x86-domain-reassignment", "early-tailduplication", "opt-phis", "stack-coloring", "localstackalloc", "early-ifcvt",
    "machine-combiner", "x86-cmov-conversion", "lrshrink", "x86-fixup-setcc", "x86-cf-opt", "x86-avoid-sfb", "x86-slh",
    "tilepreconfig", "x86-tile-config",
    // after
    "regallocscoringpass", "x86-lower-tile-copy", "x86-lvi-load", "removeredundantdebugvalues",
    "fixup-statepoint-caller-saved", "shrink-wrap", "kcfi", "post-RA-sched", "gc-analysis", "fentry-insert",
    "xray-instrumentation", "patchable-function", "x86-execution-domain-fix", "funclet-layout",
    "remove-loads-into-fake-uses", "stackmap-liveness", "livedebugvalues", "machine-sanmd", "stack-frame-layout",
    "x86-seses", "x86-lvi-ret"};

/// Hands the passes that a target asks for on to a pass manager, but those of `left_out`.
class ChosenPasses : public llvm::legacy::PassManagerBase {
 public:
  explicit ChosenPasses(llvm::legacy::PassManagerBase& to) : to_(to) {}
  void add(llvm::Pass* pass) override {
    const llvm::PassInfo* info = llvm::Pass::lookupPassInfo(pass->getPassID());
    const std::string_view name = info ? std::string_view(info->getPassArgument()) : std::string_view();
    if (std::ranges::find(left_out, name) != std::end(left_out))
      delete pass;
    else
      to_.add(pass);
  }

 private:
  llvm::legacy::PassManagerBase& to_;
};

/// LLVM's generic combining of selection nodes takes a quarter of a kernel's time and changes next to nothing in plain
/// kernels; others need it, since patterns are missing for what it would have rewritten (comparisons of vectors of i1).
/// Its switch is the process's: while one kind of code is made, the other waits. What users set with --mllvm stays.
class CombinerSwitch {
 public:
  explicit CombinerSwitch(bool off) {
    State& s = state();
    std::unique_lock lock(s.mutex);
    s.free.wait(lock, [&] { return s.users == 0 || s.off == off; });
    if (s.users++ == 0 && s.off != off) set(s.off = off);
  }
  ~CombinerSwitch() {
    State& s = state();
    std::lock_guard lock(s.mutex);
    if (--s.users > 0) return;
    if (s.off) set(s.off = false);
    s.free.notify_all();
  }
  CombinerSwitch(const CombinerSwitch&) = delete;
  CombinerSwitch& operator=(const CombinerSwitch&) = delete;

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable free;
    int users = 0;
    bool off = false;
  };
  static State& state() {
    static State& s = *new State;  // threads may still compile while the process ends
    return s;
  }
  static void set(bool off) {
    constexpr llvm::StringRef name = "combiner-disabled";
    auto& all = llvm::cl::getRegisteredOptions();
    const auto found = all.find(name);
    if (found == all.end()) return;
    static const bool of_the_user = found->second->getNumOccurrences() > 0;
    if (of_the_user) return;
    found->second->reset();
    if (off) found->second->addOccurrence(0, name, "true");
  }
};

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
  g->gate_ = std::make_unique<Gate>();
  g->context_->setOptPassGate(*g->gate_);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Strict;
  const bool gpu = target.kind == TargetSpec::Kind::cuda;
  g->whole_ = gpu || opt_level == 0 || opt_level > 2;
  g->machine_.reset(
      found->createTargetMachine(triple, target.cpu, target.features, options, llvm::Reloc::PIC_,
                                 gpu ? std::nullopt : std::optional(llvm::CodeModel::Small),
                                 opt_level == 0 ? llvm::CodeGenOptLevel::None : llvm::CodeGenOptLevel::Default));
  made(target.kind).store(true, std::memory_order_relaxed);
  return g->machine_ ? std::move(g) : nullptr;
}

Result<std::string> Generator::generate(llvm::Module& module, EmitKind kind, const std::string& target, Effort effort) {
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
    ChosenPasses chosen(*passes);
    llvm::legacy::PassManagerBase& into = whole_ ? static_cast<llvm::legacy::PassManagerBase&>(*passes) : chosen;
    if (machine_->addPassesToEmitFile(into, out_, nullptr, type))
      return fail_with(error(Code::AG4003, {}, "LLVM cannot emit this kind of file for " + target));
  }
  bytes_.clear();
  complaints_->text.clear();
  {
    gate_->effort = whole_ ? Effort{} : effort;
    CombinerSwitch combiner(!gate_->effort.combine);
    passes->run(module);
  }
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
    : key_(std::string(triple) + "|" + target.cpu + "|" + target.features +
           (opt_level == 0  ? "|0"
            : opt_level > 2 ? "|3"
                            : "|2")) {
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

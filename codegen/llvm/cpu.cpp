// x86-64: target facts, and kernels as functions void(const KernelArgs*, i64 lo, i64 hi).
#include <llvm/TargetParser/Host.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "codegen/llvm/emit_internal.hpp"

namespace ag::codegen {
namespace {

using llvm::Value;
using loop::KernelArgs;
using loop::Mapping;

constexpr std::string_view triple = "x86_64-unknown-linux-gnu";

static_assert(sizeof(void*) == 8 && sizeof(KernelArgs) == 32);
static_assert(offsetof(KernelArgs, buffers) == 0 && offsetof(KernelArgs, dims) == 8 &&
              offsetof(KernelArgs, context) == 16 && offsetof(KernelArgs, scratch) == 24);
static_assert(sizeof(std::atomic<std::uint32_t>) == 4 && offsetof(loop::ContextBlock, cancelled) == 0 &&
              offsetof(loop::ContextBlock, trap_kind) == 4 && offsetof(loop::ContextBlock, trap_origin) == 8 &&
              offsetof(loop::ContextBlock, trap_detail) == 16);

class CpuDialect : public Dialect {
 public:
  llvm::Function* begin(Emitter& e) override {
    auto& context = e.module.getContext();
    auto* ptr = llvm::PointerType::get(context, 0);
    auto* i64 = llvm::Type::getInt64Ty(context);
    auto* type = llvm::FunctionType::get(llvm::Type::getVoidTy(context), {ptr, i64, i64}, false);
    auto* f = llvm::Function::Create(type, llvm::Function::ExternalLinkage, e.options.symbol, e.module);
    std::string bits = std::to_string(e.target.vector_bits);
    f->addFnAttr("target-cpu", e.target.cpu);
    if (!e.target.features.empty()) f->addFnAttr("target-features", e.target.features);
    f->addFnAttr("prefer-vector-width", bits);
    f->addFnAttr("min-legal-vector-width", bits);
    f->addFnAttr("frame-pointer", "none");
    f->addFnAttr(llvm::Attribute::NoUnwind);
    f->addParamAttr(0, llvm::Attribute::NoAlias);
    f->addParamAttr(0, llvm::Attribute::ReadOnly);
    f->addDereferenceableParamAttr(0, sizeof(KernelArgs));
    return f;
  }

  Value* param_pointer(Emitter& e, std::size_t index) override {
    auto* ptr = e.entry.getPtrTy();
    return load(e, ptr, e.entry.CreateConstGEP1_64(ptr, arg(e, offsetof(KernelArgs, buffers), buffers_), index));
  }
  Value* dim(Emitter& e, std::size_t index) override {
    auto* i64 = e.entry.getInt64Ty();
    return load(e, i64, e.entry.CreateConstGEP1_64(i64, arg(e, offsetof(KernelArgs, dims), dims_), index));
  }
  Value* context(Emitter& e) override { return arg(e, offsetof(KernelArgs, context), context_); }
  Value* scratch(Emitter& e) override { return arg(e, offsetof(KernelArgs, scratch), scratch_); }
  Value* shared(Emitter&, loop::BufferId, std::int64_t) override { AG_CHECK(false, "shared memory on a CPU"); }

  std::pair<Value*, Value*> mapped(Emitter& e, Mapping) override {
    return {e.function->getArg(1), e.function->getArg(2)};
  }
  void barrier(Emitter&) override { AG_CHECK(false, "barrier on a CPU"); }
  Value* shuffle_xor(Emitter&, Value*, std::uint32_t) override { AG_CHECK(false, "shuffle on a CPU"); }

  bool supports(Mapping m) const override {
    return m == Mapping::serial || m == Mapping::tile || m == Mapping::unrolled;
  }
  bool supports(loop::Scope s) const override { return s != loop::Scope::shared; }
  bool supports(loop::Op op) const override { return op != loop::Op::barrier && op != loop::Op::shuffle_xor; }

 private:
  /// What the caller passes does not change while the kernel runs.
  static Value* load(Emitter& e, llvm::Type* type, Value* address) {
    auto* v = e.entry.CreateAlignedLoad(type, address, llvm::Align(8));
    v->setMetadata(llvm::LLVMContext::MD_invariant_load, llvm::MDNode::get(e.module.getContext(), {}));
    return v;
  }
  static Value* arg(Emitter& e, std::size_t offset, Value*& cached) {
    if (!cached)
      cached =
          load(e, e.entry.getPtrTy(), e.entry.CreateConstGEP1_64(e.entry.getInt8Ty(), e.function->getArg(0), offset));
    return cached;
  }
  Value *buffers_ = nullptr, *dims_ = nullptr, *context_ = nullptr, *scratch_ = nullptr;
};

/// Every feature of the host, "+avx2,-sse4a,...", sorted.
std::string host_features() {
  std::vector<std::string> all;
  for (const auto& feature : llvm::sys::getHostCPUFeatures())
    all.push_back((feature.second ? "+" : "-") + feature.first().str());
  std::sort(all.begin(), all.end(), [](const auto& x, const auto& y) { return x.substr(1) < y.substr(1); });
  std::string text;
  for (const std::string& f : all) text += (text.empty() ? "" : ",") + f;
  return text;
}

int usable_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// A cache's size as the kernel reports it ("32768K"), or 0. Preferred to sysconf, which under virtualisation gives
/// the sum of all L3 slices of the host.
long cache_bytes(int level) {
  for (int i = 0; i < 8; ++i) {
    std::string dir = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    auto read = [&](const char* file) {
      std::string text;
      std::ifstream(dir + file) >> text;
      return text;
    };
    if (read("level") != std::to_string(level) || read("type") == "Instruction") continue;
    std::string size = read("size");
    long n = std::atol(size.c_str());
    return size.ends_with('K') ? n << 10 : size.ends_with('M') ? n << 20 : n;
  }
  return 0;
}

void host_caches(TargetSpec& spec) {
  auto read = [](int level, int name, long& bytes) {
    long n = cache_bytes(level);
    if (n <= 0) n = sysconf(name);
    if (n > 0) bytes = n;
  };
  read(1, _SC_LEVEL1_DCACHE_SIZE, spec.l1_bytes);
  read(2, _SC_LEVEL2_CACHE_SIZE, spec.l2_bytes);
  read(3, _SC_LEVEL3_CACHE_SIZE, spec.l3_bytes);
}

std::vector<std::string> known_targets() {
  return {"native",  "x86-64-v3",      "x86-64-v4",   "haswell",        "broadwell",
          "skylake", "skylake-avx512", "cascadelake", "icelake-server", "sapphirerapids",
          "znver1",  "znver2",         "znver3",      "znver4",         "znver5"};
}

Result<TargetSpec> describe(std::string_view target) {
  initialise_targets();
  TargetSpec spec;
  spec.kind = TargetSpec::Kind::cpu;
  bool native = target.empty() || target == "native";
  spec.name = "cpu:" + std::string(native ? "native" : target);
  if (native) {
    spec.cpu = llvm::sys::getHostCPUName().str();
    spec.features = host_features();
    host_caches(spec);
  } else {
    spec.cpu = std::string(target);
    if (!known_cpu(triple, spec.cpu)) {
      std::string known;
      for (const std::string& name : known_targets()) known += (known.empty() ? "cpu:" : ", cpu:") + name;
      return fail(error(Code::AG4001, {}, "unknown target `" + spec.name + "`").note("known targets: " + known));
    }
  }
  spec.threads = usable_threads();
  auto missing = [&](std::initializer_list<const char*> wanted) {
    return missing_feature(triple, spec.cpu, spec.features, wanted);
  };
  if (std::string lacks = missing({"64bit", "avx2", "fma", "f16c", "bmi2"}); !lacks.empty())
    return fail(error(Code::AG4002, {}, "`" + spec.name + "` lacks " + lacks)
                    .note("ag needs a 64-bit processor with AVX2, FMA, F16C and BMI2 (x86-64-v3)"));
  bool wide = missing({"avx512f", "avx512bw", "avx512dq", "avx512vl"}).empty();
  spec.vector_bits = wide ? 512 : 256;
  spec.vector_registers = wide ? 32 : 16;
  spec.masked_ops = wide;
  return spec;
}

Result<std::string> emit(const loop::Kernel& kernel, const TargetSpec& target, EmitKind kind,
                         const EmitOptions& options) {
  CpuDialect dialect;
  return emit_kernel(kernel, target, kind, options, triple, dialect);
}

}  // namespace

const Backend cpu_backend{"cpu", "x86-64 objects for AVX2 and AVX-512", describe, emit, known_targets};

}  // namespace ag::codegen

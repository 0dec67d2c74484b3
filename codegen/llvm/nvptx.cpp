// NVIDIA GPUs: kernels as PTX entries. Parameters: one global pointer per parameter buffer, one i64 per
// Kernel::dims, the ContextBlock's address.
#include <llvm/IR/IntrinsicsNVPTX.h>

#include <algorithm>
#include <array>

#include "codegen/llvm/emit_internal.hpp"

namespace ag::codegen {
namespace {

using llvm::Value;
using loop::Mapping;
using loop::Scope;
namespace nvvm = llvm::Intrinsic;

constexpr std::string_view triple = "nvptx64-nvidia-cuda";

/// The PTX version that introduced an architecture, at least 7.0: older drivers can then load the text.
struct Architecture {
  const char* name;
  int ptx;
};
constexpr std::array architectures{
    Architecture{"sm_70", 70},  Architecture{"sm_72", 70},  Architecture{"sm_75", 70},   Architecture{"sm_80", 70},
    Architecture{"sm_86", 71},  Architecture{"sm_87", 74},  Architecture{"sm_89", 78},   Architecture{"sm_90", 78},
    Architecture{"sm_90a", 80}, Architecture{"sm_100", 86}, Architecture{"sm_100a", 86}, Architecture{"sm_103", 88},
    Architecture{"sm_120", 87},
};

class NvptxDialect : public Dialect {
 public:
  llvm::Function* begin(Emitter& e) override {
    auto& context = e.module.getContext();
    auto* global = llvm::PointerType::get(context, 1);
    auto* i64 = llvm::Type::getInt64Ty(context);
    params_ = e.kernel.param_count();
    llvm::SmallVector<llvm::Type*, 16> types(params_, global);
    types.append(e.kernel.dims.size(), i64);
    types.push_back(global);
    auto* type = llvm::FunctionType::get(llvm::Type::getVoidTy(context), types, false);
    auto* f = llvm::Function::Create(type, llvm::Function::ExternalLinkage, e.options.symbol, e.module);
    f->setCallingConv(llvm::CallingConv::PTX_Kernel);
    f->addFnAttr(llvm::Attribute::NoUnwind);
    f->addFnAttr("target-cpu", e.target.cpu);
    f->addFnAttr("target-features", e.target.features);
    const auto& block = e.kernel.block;
    f->addFnAttr("nvvm.reqntid",
                 std::to_string(block[0]) + "," + std::to_string(block[1]) + "," + std::to_string(block[2]));
    for (unsigned i = 0; i < params_; ++i)
      if (e.kernel.buffers[i].noalias) f->addParamAttr(i, llvm::Attribute::NoAlias);
    return f;
  }

  Value* param_pointer(Emitter& e, std::size_t index) override {
    return e.function->getArg(static_cast<unsigned>(index));
  }
  Value* dim(Emitter& e, std::size_t index) override {
    return e.function->getArg(static_cast<unsigned>(params_ + index));
  }
  Value* context(Emitter& e) override {
    return e.function->getArg(static_cast<unsigned>(params_ + e.kernel.dims.size()));
  }
  Value* scratch(Emitter&) override { AG_CHECK(false, "scratch memory on a GPU"); }
  Value* shared(Emitter& e, loop::BufferId id, std::int64_t elems) override {
    auto* type =
        llvm::ArrayType::get(e.arith.mem_type(e.kernel.buffers[id.index].dtype), static_cast<std::uint64_t>(elems));
    auto* v = new llvm::GlobalVariable(e.module, type, false, llvm::GlobalValue::InternalLinkage,
                                       llvm::PoisonValue::get(type), "shared" + std::to_string(id.index), nullptr,
                                       llvm::GlobalValue::NotThreadLocal, 3);
    v->setAlignment(llvm::Align(16));
    return v;
  }

  std::pair<Value*, Value*> mapped(Emitter& e, Mapping m) override {
    auto axis = [&](Mapping first) { return static_cast<std::size_t>(m) - static_cast<std::size_t>(first); };
    auto id = [&](nvvm::ID which) {
      return e.entry.CreateZExt(e.entry.CreateIntrinsic(which, {}), e.entry.getInt64Ty());
    };
    if (m >= Mapping::grid_x && m <= Mapping::grid_z) {
      constexpr std::array ids{nvvm::nvvm_read_ptx_sreg_ctaid_x, nvvm::nvvm_read_ptx_sreg_ctaid_y,
                               nvvm::nvvm_read_ptx_sreg_ctaid_z};
      constexpr std::array counts{nvvm::nvvm_read_ptx_sreg_nctaid_x, nvvm::nvvm_read_ptx_sreg_nctaid_y,
                                  nvvm::nvvm_read_ptx_sreg_nctaid_z};
      return {id(ids[axis(Mapping::grid_x)]), id(counts[axis(Mapping::grid_x)])};
    }
    if (m == Mapping::lane) return {id(nvvm::nvvm_read_ptx_sreg_laneid), e.b.getInt64(32)};
    constexpr std::array ids{nvvm::nvvm_read_ptx_sreg_tid_x, nvvm::nvvm_read_ptx_sreg_tid_y,
                             nvvm::nvvm_read_ptx_sreg_tid_z};
    std::size_t a = axis(Mapping::block_x);
    return {id(ids[a]), e.b.getInt64(e.kernel.block[a])};
  }

  void barrier(Emitter& e) override {
    e.b.CreateIntrinsic(nvvm::nvvm_barrier_cta_sync_aligned_all, {}, {e.b.getInt32(0)});
  }
  Value* shuffle_xor(Emitter& e, Value* word, std::uint32_t mask) override {
    return e.b.CreateIntrinsic(nvvm::nvvm_shfl_sync_bfly_i32, {},
                               {e.b.getInt32(~0u), word, e.b.getInt32(mask), e.b.getInt32(31)});
  }

  bool supports(Mapping m) const override {
    return m == Mapping::serial || m == Mapping::unrolled || (m >= Mapping::grid_x && m <= Mapping::lane);
  }
  bool supports(Scope s) const override { return s != Scope::scratch; }
  bool supports(loop::Op) const override { return true; }

 private:
  std::size_t params_ = 0;
};

std::vector<std::string> known_targets() {
  std::vector<std::string> names;
  for (const Architecture& a : architectures) names.emplace_back(a.name);
  return names;
}

Result<TargetSpec> describe(std::string_view target) {
  auto it = std::find_if(architectures.begin(), architectures.end(), [&](const auto& a) { return target == a.name; });
  if (it == architectures.end()) {
    std::string known;
    for (const Architecture& a : architectures) known += (known.empty() ? "cuda:" : ", cuda:") + std::string(a.name);
    return fail(
        error(Code::AG4001, {}, "unknown target `cuda:" + std::string(target) + "`").note("known targets: " + known));
  }
  TargetSpec spec;
  spec.kind = TargetSpec::Kind::cuda;
  spec.name = "cuda:" + std::string(target);
  spec.cpu = it->name;
  spec.ptx_version = it->ptx;
  spec.features = "+ptx" + std::to_string(it->ptx);
  spec.vector_bits = 128;
  spec.vector_registers = 255;
  spec.shared_bytes = 48 << 10;  // what an entry may declare; more needs dynamic shared memory
  return spec;
}

Result<std::string> emit(const loop::Kernel& kernel, const TargetSpec& target, EmitKind kind,
                         const EmitOptions& options) {
  NvptxDialect dialect;
  return emit_kernel(kernel, target, kind, options, triple, dialect);
}

}  // namespace

const Backend cuda_backend{"cuda", "PTX for NVIDIA GPUs", describe, emit, known_targets};

}  // namespace ag::codegen

#include "runtime/cpu/loader.hpp"

#include <fmt/format.h>
#include <llvm/ExecutionEngine/Orc/AbsoluteSymbols.h>
#include <llvm/ExecutionEngine/Orc/Core.h>
#include <llvm/ExecutionEngine/Orc/MapperJITLinkMemoryManager.h>
#include <llvm/ExecutionEngine/Orc/MemoryMapper.h>
#include <llvm/ExecutionEngine/Orc/ObjectLinkingLayer.h>
#include <llvm/ExecutionEngine/Orc/SelfExecutorProcessControl.h>
#include <llvm/Support/MemoryBuffer.h>

#include <atomic>
#include <cstring>
#include <set>

namespace ag::runtime {
namespace {

namespace orc = llvm::orc;

// Address space reserved at a time: kernels and their constants lie within reach of 32-bit offsets.
constexpr std::size_t slab_bytes = std::size_t{16} << 20;

/// The ORC session without LLJIT: nothing is compiled here, so no target machine and no platform is needed.
class OrcLoader final : public Loader, public std::enable_shared_from_this<OrcLoader> {
 public:
  ~OrcLoader() override {
    if (session_) llvm::consumeError(session_->endSession());
  }

  llvm::Error open() {
    auto control = orc::SelfExecutorProcessControl::Create(nullptr, std::make_unique<orc::InPlaceTaskDispatcher>());
    if (!control) return control.takeError();
    session_ = std::make_unique<orc::ExecutionSession>(std::move(*control));
    session_->setErrorReporter([this](llvm::Error e) {
      std::lock_guard lock(mutex_);
      if (!reported_.empty()) reported_ += "; ";
      reported_ += llvm::toString(std::move(e));
    });
    auto memory = orc::MapperJITLinkMemoryManager::CreateWithMapper<orc::InProcessMemoryMapper>(slab_bytes);
    if (!memory) return memory.takeError();
    layer_ = std::make_unique<orc::ObjectLinkingLayer>(*session_, std::move(*memory));
    runtime_ = &session_->createBareJITDylib("ag.runtime");
    return runtime_->define(orc::absoluteSymbols({function("memcpy", &std::memcpy), function("memmove", &std::memmove),
                                                  function("memset", &std::memset), function("memcmp", &std::memcmp)}));
  }

  Result<KernelCode> load(std::span<const CompiledKernelRef> objects) override {
    auto& lib = session_->createBareJITDylib(fmt::format("ag.{}", next_++));
    auto owner = std::make_shared<Loaded>(shared_from_this(), lib);
    lib.addToLinkOrder(*runtime_);
    orc::SymbolLookupSet wanted;
    std::set<std::string_view> added;
    for (const auto& object : objects) {
      if (!added.insert(object->symbol).second) continue;
      auto buffer = llvm::MemoryBuffer::getMemBuffer(object->bytes, object->symbol, false);
      if (auto error = layer_->add(lib, std::move(buffer))) return failure(std::move(error));
      wanted.add(session_->intern(object->symbol));
    }
    if (added.empty()) return KernelCode{{}, owner};
    auto found = session_->lookup({{&lib, orc::JITDylibLookupFlags::MatchAllSymbols}}, std::move(wanted));
    if (!found) return failure(found.takeError());
    KernelCode code{{}, owner};
    for (const auto& object : objects)
      code.functions.push_back(found->at(session_->intern(object->symbol)).getAddress().toPtr<loop::KernelFn>());
    return code;
  }

 private:
  /// Unloads on destruction.
  struct Loaded {
    std::shared_ptr<OrcLoader> loader;
    orc::JITDylib& lib;
    Loaded(std::shared_ptr<OrcLoader> l, orc::JITDylib& d) : loader(std::move(l)), lib(d) {}
    Loaded(const Loaded&) = delete;
    Loaded& operator=(const Loaded&) = delete;
    ~Loaded() { llvm::consumeError(loader->session_->removeJITDylib(lib)); }
  };

  template <class F>
  orc::SymbolMap::value_type function(const char* name, F* f) {
    return {session_->intern(name),
            {orc::ExecutorAddr::fromPtr(f), llvm::JITSymbolFlags::Exported | llvm::JITSymbolFlags::Callable}};
  }

  std::unexpected<Diags> failure(llvm::Error error) {
    std::string text = llvm::toString(std::move(error));
    std::lock_guard lock(mutex_);
    Diag d = ag::error(Code::AG4101, {}, fmt::format("machine code cannot be linked: {}", text));
    if (!reported_.empty()) d.note(std::exchange(reported_, {}));
    return fail(std::move(d));
  }

  std::unique_ptr<orc::ExecutionSession> session_;
  std::unique_ptr<orc::ObjectLinkingLayer> layer_;
  orc::JITDylib* runtime_ = nullptr;
  std::atomic<unsigned> next_{0};
  std::mutex mutex_;
  std::string reported_;
};

}  // namespace

Result<std::shared_ptr<Loader>> Loader::create() {
  auto loader = std::make_shared<OrcLoader>();
  if (auto error = loader->open())
    return fail(Code::AG4101, {}, fmt::format("no linker for this machine: {}", llvm::toString(std::move(error))));
  return loader;
}

}  // namespace ag::runtime

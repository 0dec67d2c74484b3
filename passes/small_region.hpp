// A stretch of a program's steps, written as one kernel.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "ir/base/small_float.hpp"
#include "ir/loop/program.hpp"
#include "ir/loop/storage.hpp"
#include "passes/pass.hpp"

namespace ag::passes {

/// Copies kernels into one that one thread runs: calls follow one another, branches and loops of the step table become
/// `if` and `while`, an exchange of two buffers' memory an exchange of their values, a slot an offset. The order of all
/// accesses is that of the steps, so every bit stays. Buffers that share memory become one parameter.
class SmallRegion {
 public:
  /// `owners`: what slots point into, as slot_owners() finds it.
  SmallRegion(const loop::Program& program, const loop::Storage& storage,
              const std::map<loop::ProgramBufferId, loop::ProgramBufferId>& owners)
      : p_(program), storage_(storage), owners_(owners) {}

  /// The kernel of the given steps and its call; the call's kernel id is not set. `dead_after_swap` names buffers whose
  /// values an exchange need not keep.
  struct Made {
    loop::Kernel kernel;
    loop::KernelCall call;
  };
  Made make(std::span<const loop::Step> steps, const std::set<loop::ProgramBufferId>& dead_after_swap);

 private:
  using LV = loop::ValueId;
  struct Window {  ///< where a buffer lies: a parameter, and the element it begins at (invalid: 0)
    loop::BufferId param;
    LV offset;
  };
  void declare(const loop::Seq& seq);
  void declare(loop::ProgramBufferId id, loop::Access access);
  void add_local_buffers(const loop::Seq& seq);
  Window window(loop::ProgramBufferId id) const;

  LV emit(loop::Op op, loop::VType type, std::vector<LV> operands, loop::Attr attr = {});
  std::vector<LV> control(loop::Op op, std::vector<LV> operands, std::vector<loop::BlockId> blocks,
                          const std::vector<loop::VType>& results, loop::Attr attr = {});
  template <class Body>
  loop::BlockId block(const std::vector<loop::VType>& args, Body body);
  LV constant(loop::VType type, std::uint64_t bits);
  LV index(std::int64_t i) { return constant(loop::index_type, static_cast<std::uint64_t>(i)); }
  LV size(const Dim& d);
  LV load_first(loop::ProgramBufferId id, DType type);
  std::string dim_name(const Dim& d);
  Dim in_kernel(const Dim& d);

  LV seq(std::span<const loop::Step> steps, LV ok);
  void call(const loop::KernelCall& c);
  void copy_block(const loop::Kernel& from, loop::BlockId block, std::vector<loop::StmtId>& out);
  LV branch(const loop::IfStep& s, LV ok);
  LV loop(const loop::WhileStep& s, LV ok);
  void swap(const loop::SwapStep& s);
  LV slot(const loop::SlotStep& s, LV ok);
  void note_origins(const loop::Kernel& from, const loop::KernelCall& c);

  const loop::Program& p_;
  const loop::Storage& storage_;
  const std::map<loop::ProgramBufferId, loop::ProgramBufferId>& owners_;
  loop::Kernel k_;
  loop::KernelCall call_;
  std::vector<loop::StmtId>* out_ = nullptr;  ///< of the block that is being written
  std::map<loop::ProgramBufferId, loop::BufferId> params_;  ///< by home
  std::map<loop::ProgramBufferId, LV> offsets_;  ///< of slots, in elements
  std::map<const loop::KernelCall*, std::vector<loop::BufferId>> locals_;
  std::set<loop::ProgramBufferId> dead_;
  bool has_slot_ = false;
  std::uint32_t slot_origin_ = 0;
  struct Copy {  ///< the call that is being copied: where its ids begin
    const loop::KernelCall* call = nullptr;
    std::vector<Window> buffers;
    std::size_t values = 0, stmts = 0, blocks = 0;
    std::uint32_t origins = 0;
    bool has_origins = false;
  } copy_;
};

/// By each buffer that slot steps choose a place for: what they point into.
std::map<loop::ProgramBufferId, loop::ProgramBufferId> slot_owners(const loop::Program& program);

extern const Pass merge_small;

}  // namespace ag::passes

// Copies statements of one kernel into another through a Builder, with values and buffers replaced.
#pragma once
#include <functional>
#include <unordered_map>

#include "ir/loop/builder.hpp"

namespace ag::passes {

class KernelCloner {
 public:
  KernelCloner(const loop::Kernel& from, loop::Builder& to) : from_(from), b_(to) {}

  /// Declares the parameters (and local buffers) of `from` in the new kernel, in order, and its dims; `keep` tells
  /// which.
  void clone_buffers(const std::function<bool(loop::BufferId)>& keep = {});
  loop::ValueId get(loop::ValueId v);
  void set(loop::ValueId old_value, loop::ValueId new_value) { values_[old_value] = new_value; }
  loop::BufferId get(loop::BufferId b) const { return buffers_.at(b); }
  void set(loop::BufferId old_buffer, loop::BufferId new_buffer) { buffers_[old_buffer] = new_buffer; }
  const loop::Kernel& from() const { return from_; }

  /// Clones a statement, its blocks included.
  void clone(loop::StmtId id);
  /// Clones the statements of a block without its yield; `skip` leaves statements out.
  void clone_block(loop::BlockId block, const std::function<bool(loop::StmtId)>& skip = {});
  std::vector<loop::ValueId> yielded(loop::BlockId block);

  /// Called for each for_ before it is cloned: may change how it runs.
  std::function<void(const loop::Stmt&, loop::ForOptions&, loop::ValueId& step)> on_for;
  /// Called for each statement that blocks are made of; true: it was emitted in another way.
  std::function<bool(loop::StmtId)> instead;
  /// Called for each load; a valid result stands for it.
  std::function<loop::ValueId(const loop::Stmt&)> on_load;

 private:
  const loop::Kernel& from_;
  loop::Builder& b_;
  std::unordered_map<loop::ValueId, loop::ValueId> values_;
  std::unordered_map<loop::BufferId, loop::BufferId> buffers_;
  void set_origin(const loop::Stmt& s);
  void clone_control(const loop::Stmt& s);
  void clone_memory(const loop::Stmt& s);
};

/// True for statements that only compute a value from their operands: no memory, no control, no effect.
bool is_pure(const loop::Stmt& s);

/// Moves pure statements out of the loops whose iterations do not change them.
loop::Kernel hoist_invariants(const loop::Kernel& kernel);

/// The value as an expression over the kernel's dims, if it is one. `leaf` may name further values: loop indices, as
/// symbols.
std::optional<Dim> as_dim(const loop::Kernel& kernel, loop::ValueId v,
                          const std::function<std::optional<Dim>(loop::ValueId)>& leaf = {});

}  // namespace ag::passes

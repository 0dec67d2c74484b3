// What a program keeps from step to step and changes in place: parameters, slots of an optimiser, running statistics.
#pragma once
#include <atomic>
#include <optional>
#include <string_view>

#include "runtime/exec/executable.hpp"

namespace ag::runtime {

/// Owns the arrays of a program's states. One step at a time may run on it (AG5018); a step that fails half-way leaves
/// it spoilt (AG5402) until every array was set anew. Between steps its arrays may be read and set.
class State {
 public:
  /// Arrays of zeros. Errors: AG5008, AG5010.
  static Result<std::unique_ptr<State>> create(std::shared_ptr<const Executable> executable);

  std::size_t size() const { return parts_.size(); }
  const std::string& name(std::size_t i) const { return parts_[i].name; }
  std::optional<std::size_t> find(std::string_view name) const;
  DType dtype(std::size_t i) const { return parts_[i].view.dtype; }
  const std::vector<std::int64_t>& shape(std::size_t i) const { return parts_[i].shape; }
  /// Copies the elements of `from`, into the layout that the program wants. Errors: AG5002 to AG5004, AG5007 if it is
  /// not of that element type and shape.
  Status set(std::size_t i, const HostArray& from);
  /// The other way round; the same errors.
  Status get(std::size_t i, const HostArray& to) const;
  bool spoilt() const { return phase_.load(std::memory_order_acquire) == Phase::spoilt; }

 private:
  friend class ExecContext;
  enum class Phase : std::uint8_t { ready, running, spoilt };
  State() = default;
  Status begin();
  void end(bool completed);
  struct Part;
  static Result<Part> part_of(const loop::ProgramBuffer& b, void* memory);
  static Status check(const Part& part, const HostArray& array);

  std::shared_ptr<const Executable> executable_;
  /// What the owner sees; many may lie in one array.
  struct Part {
    std::string name;
    HostArray view;  ///< as it lies
    std::vector<std::int64_t> shape;  ///< as the owner sees it: axis i lies at axes[i]
    std::vector<std::int64_t> axes;  ///< empty: in order
    bool fresh = false;  ///< set since a step failed
  };
  std::vector<Part> parts_;
  std::vector<OwnedArray> memory_;
  std::vector<HostArray> views_;  ///< of `memory_`: what a run takes
  std::atomic<Phase> phase_{Phase::ready};
};

}  // namespace ag::runtime

// Where the buffers of a program live and how long: shared by the memory planner, the verifier and the
// runtime, so that they cannot disagree.
#pragma once
#include <span>

#include "ir/loop/program.hpp"

namespace ag::loop {

/// product(shape) * bytes of an element; invalid on overflow.
Dim byte_size(const ProgramBuffer& buffer);

/// Memory homes. Buffers tied together by `alias_of` share one home: an input, a constant, a state, an
/// output (the caller's array is then written directly), or else a temp, whose `offset` in the arena counts.
struct Storage {
  IdMap<ProgramBufferId, ProgramBufferId> home;
  IdMap<ProgramBufferId, std::int64_t> begin;  ///< bytes from where the home begins
  /// Per Program::outputs: the value lives elsewhere (in an input, say, or in another output) and is
  /// copied to the caller's array at the end of the step.
  std::vector<bool> copied;
};
/// Errors: AG1091, an alias that cannot be.
Result<Storage> resolve_storage(const Program& program);
/// States that have memory of their own, by their index: what a run is given. Those without a name are wholes that
/// others are parts of.
std::vector<ProgramBufferId> state_homes(const Program& program);

/// The steps during which a home holds something: positions in the step sequence, first to last inclusive.
/// If arms count one after the other. What is touched inside a While is live during all of the outermost
/// one, unless each trip provably begins by writing it: a buffer that a kernel takes as Access::write is taken to be
/// written whole (one that keeps older elements is read_write).
struct LiveRange {
  std::uint32_t first = 1, last = 0;
  bool empty() const { return first > last; }
  bool overlaps(const LiveRange& o) const { return !empty() && !o.empty() && first <= o.last && o.first <= last; }
};
IdMap<ProgramBufferId, LiveRange> live_ranges(const Program& program, const Storage& storage);

inline constexpr std::int64_t buffer_alignment = 64;

/// That no two homes live at the same time overlap in the arena, and that all lie within it, 64-byte
/// aligned, with the sizes that `env` gives. Errors: AG1092; AG1093 for a size that cannot be computed.
Status check_memory_plan(const Program& program, const Storage& storage, const DimEnv& env);

/// What verify(Program) asks of aliases and, once temps have places, of the plan: exact for constant sizes, at
/// some sample sizes otherwise (the runtime checks the sizes it meets).
Status verify_storage(const Program& program);

}  // namespace ag::loop

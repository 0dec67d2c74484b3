// The interpreter's state while a decoded kernel runs. interp.cpp executes statements, interp_memory.cpp loads and
// stores with all their checks, interp_control.cpp loops and branches, serial and in lockstep.
#pragma once
#include <cstring>
#include <optional>

#include "ir/loop/interp_code.hpp"

namespace ag::loop::detail {

inline std::int64_t as_index(const std::uint8_t* p) {
  std::int64_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void copy_element(std::uint8_t* to, const std::uint8_t* from, std::uint32_t bytes) {
  switch (bytes) {
    case 1: *to = *from; return;
    case 2: std::memcpy(to, from, 2); return;
    case 4: std::memcpy(to, from, 4); return;
    default: std::memcpy(to, from, 8); return;
  }
}

/// A thread's tile of a value.
inline std::uint8_t* of_thread(const Slot& s, int t) { return s.data + static_cast<std::size_t>(t) * s.bytes; }

/// One run. Functions that execute return false after setting the error.
class Machine {
 public:
  Machine(Decoded& code, const InterpOptions& options)
      : code_(code), k_(*code.kernel), options_(options), steps_(options.max_steps), threads_(code.threads) {}

  Result<TrapRecord> run();

 private:
  Decoded& code_;
  const Kernel& k_;
  const InterpOptions& options_;
  std::int64_t steps_;
  const int threads_;
  TrapRecord trap_;
  std::optional<Diag> error_;
  // Serial execution.
  Strands strands_;
  // Lockstep execution: null means that all threads are active.
  const std::uint8_t* active_ = nullptr;
  std::array<std::int64_t, 3> block_id_{};
  std::uint64_t seq_ = 0, block_seq_ = 0;  // intervals between barriers; the first one of this block

  bool is_active(int t) const { return !active_ || active_[t]; }
  int active_count() const;
  const std::string& buffer_name(const Instr& in) const { return k_.buffers[in.buffer].name; }

  bool fail_at(const Instr& in, Code code, const std::string& what);
  bool run_block(const BlockCode& b);
  bool quick(const Step& s);
  bool exec(const Instr& in);
  bool barrier(const Instr& in);
  bool trap(const Instr& in);

  // Across a tile.
  std::vector<std::uint8_t> widened(const Instr& in, const Slot& s, int t) const;
  void narrow(const Instr& in, const std::uint8_t* from, int t) const;
  void reduce_lanes(const Instr& in) const;
  void reduce_rows(const Instr& in) const;
  void contract(const Instr& in) const;
  template <class F>
  void permute(const Instr& in, F&& source) const;
  void transpose(const Instr& in) const;
  void extract(const Instr& in) const;
  bool shuffle(const Instr& in);

  // Memory.
  bool race(const Instr& in, std::int64_t index, std::string who);
  bool race_serial(const Instr& in, std::int64_t index, std::uint64_t other);
  bool race_lockstep(const Instr& in, std::int64_t index, std::uint64_t other, int t);
  bool uninitialised(const Instr& in, std::int64_t index, std::string_view why);
  bool shadow_read(const Instr& in, const Memory& m, Shadow& s, std::int64_t index);
  bool shadow_write(const Instr& in, const Memory& m, Shadow& s, std::int64_t index);
  bool unordered(std::uint64_t s, int t) const;
  bool lockstep_read(const Instr& in, const Memory& m, Shadow& s, std::int64_t index, int t);
  bool lockstep_write(const Instr& in, const Memory& m, Shadow& s, std::int64_t index, int t);
  template <bool write>
  std::uint8_t* element(const Instr& in, std::int64_t index, int t);
  template <class Index, class Access, class Skip>
  bool each(const Instr& in, VType shape, Index&& index, Access&& access, Skip&& skipped);
  template <class Index>
  bool load_each(const Instr& in, Index&& index);
  template <class Index>
  bool store_each(const Instr& in, VType shape, const Slot& value, Index&& index);
  bool load(const Instr& in);
  bool store(const Instr& in);
  bool load_tile(const Instr& in);
  bool load_rows(const Instr& in);
  bool store_tile(const Instr& in);

  // Control.
  void assign(Control& c, std::span<const Slot> to, std::span<const Slot> from, const std::uint8_t* mask) const;
  bool for_serial(const Instr& in);
  bool if_serial(const Instr& in);
  bool while_serial(const Instr& in);
  bool run_masked(const BlockCode& b, const std::vector<std::uint8_t>& mask);
  std::pair<std::int64_t, std::int64_t> share(Mapping m, int t) const;
  bool for_lockstep(const Instr& in);
  bool if_lockstep(const Instr& in);
  bool while_lockstep(const Instr& in);
};

}  // namespace ag::loop::detail

// What a context keeps for one set of sizes: every size, offset and argument list of the program, so that a
// run with the same sizes only stores the pointers that changed.
#pragma once
#include "runtime/exec/executable.hpp"

namespace ag::runtime {

/// Rough single-core speeds, to tell kernels worth dividing from those that are not. Only the order of
/// magnitude matters: no result depends on how work is divided.
inline constexpr double flops_per_ns = 16, bytes_per_ns = 16;
/// Two threads that wait for each other before and after a call lose some 0.1 us to 0.3 us; a part should take longer.
/// By these speeds: what lies in a core's caches takes a quarter of what they say.
inline constexpr double min_part_ns = 3000;
/// Waking parked workers costs about 30 us: only after this much divisible work in a step are they woken.
inline constexpr double wake_ns = 30000;

struct BoundCall {
  loop::KernelFn fn;
  loop::KernelArgs args;
  std::int64_t tiles;
  std::uint32_t touched;  ///< index of what part 0 touches of its first buffer, in Binding::touched
  double cost_ns;  ///< estimate for one thread
};

struct Binding {
  DimEnv env;  ///< sizes that only the data tell are 0 until they are bound
  std::vector<std::vector<std::int64_t>> shapes;    ///< per buffer
  std::vector<std::int64_t> bytes;                  ///< per buffer; -1: cannot be computed
  std::vector<std::int64_t> offsets;                ///< per buffer: in the arena, if it is a home there
  std::int64_t arena_bytes = 0, scratch_bytes = 0;  ///< scratch of one thread, a multiple of a cache line
  std::vector<BoundCall> calls;                     ///< one without `fn` cannot be run with these sizes
  std::vector<BlockEntry> entries;                  ///< how each call is divided
  /// Per call, part and buffer: what is touched, in bytes from where the buffer's home begins.
  std::vector<loop::TouchedRange> touched;
  std::vector<DimEnv> call_envs;                    ///< sizes by the kernel's names
  std::vector<std::int64_t> dims;                   ///< of all calls
  struct HostViews {
    std::vector<HostArray> inputs, outputs;
  };
  std::vector<HostViews> host;
  std::vector<loop::ProgramBufferId> states;  ///< those with memory of their own
  struct SegmentState {
    std::vector<std::int64_t> values, next;     ///< of its symbols; `next` while they are computed
    bool bound = false;
    std::uint64_t evaluated = 0, changed = 0;   ///< when its sizes were computed, when its values changed last
    std::int64_t arena_bytes = 0, scratch_bytes = 0;
    char* base = nullptr;                       ///< where its temps have their addresses
  };
  std::vector<SegmentState> segments;  ///< by SegmentId

  // Set by each run, where they changed.
  std::vector<void*> home_data;  ///< per buffer that is a home
  std::vector<void*> slots;      ///< pointer arguments of all calls
  char* arena = nullptr;
  bool placed = false;  ///< temps have their addresses in `arena`
  struct Passed {
    loop::ProgramBufferId id;
    std::string_view role;
    bool writable;
    void* data;
    std::int64_t bytes;
  };
  std::vector<Passed> passed;  ///< the caller's arrays: inputs, outputs, states

  /// Computes everything that the sizes in `env` tell. Errors: AG5006, AG5008.
  static Result<std::unique_ptr<Binding>> make(const Executable& e, DimEnv env, int threads);
  /// True if the segment is bound to these values already, and nothing that it depends on has changed since.
  bool is_bound(const Executable& e, std::size_t segment, const std::int64_t* values) const;
  /// Computes what a segment's values tell; allocates nothing. Errors: AG5014, AG5021, AG5008.
  Status update(const Executable& e, const loop::BindStep& step, const std::int64_t* values, int threads);
  /// That nothing the program writes overlaps another of the caller's arrays. Errors: AG5017.
  Status check_overlap(const loop::Program& program);
  void set_home(const Executable& e, std::uint32_t home, void* data);
  /// Where a buffer lies, once its home has memory.
  void* address(const loop::Storage& storage, loop::ProgramBufferId id) const {
    return static_cast<char*>(home_data[storage.home[id].index]) + storage.begin[id];
  }
  /// Binds one call again, for the error that it met.
  Status set_call(const Executable& e, std::size_t call, int threads);

 private:
  Status set_buffer(const Executable& e, std::size_t buffer);
  void prepare_calls(const Executable& e, int threads);
  void set_touched(const Executable& e, std::size_t call);
  void plan_waits(const Executable& e, std::span<const std::uint32_t> changed);
  bool must_wait(const Executable& e, std::size_t earlier, std::size_t later) const;
  bool parts_meet(const Executable& e, std::size_t earlier, std::size_t x, std::size_t later, std::size_t y,
                  std::int64_t distance) const;
  void set_hosts(const Executable& e, std::size_t segment);
  void set_passed(const Executable& e);
  loop::FootprintMemory footprints_;
  std::vector<std::int64_t> elems_;  ///< of one call's buffers
  std::vector<std::uint32_t> by_address_;  // of `passed`; kept so that sorting allocates nothing
  std::uint64_t clock_ = 0;
};

/// Errors: `code`, AG5006 or AG5014.
Status check_guard(const loop::Program& program, const loop::DimGuard& guard, const DimEnv& env, Code code);
/// The place a bind step, a slot or a guard stands for.
Loc source_of(const loop::Program& program, std::uint32_t source);
/// Errors: AG5001.
Status check_count(std::string_view role, std::size_t wanted, std::size_t passed);
/// Sizes of the program's symbols as the inputs have them. Errors: AG5001 to AG5006.
Result<DimEnv> bind_sizes(const loop::Program& program, std::span<const HostArray> inputs);
/// Checks the dtype and the number of axes.
Status check_rank(std::string_view role, const loop::ProgramBuffer& b, const HostArray& array);
/// Checks dtype and shape of an array that was passed for buffer `b`. `role`: "input", "output", "state".
Status check_array(const loop::Program& program, std::string_view role, const loop::ProgramBuffer& b,
                   std::span<const std::int64_t> shape, const HostArray& array, const DimEnv& env);
/// Checks its memory. Errors: AG5007.
Status check_memory(std::string_view role, const loop::ProgramBuffer& b, std::int64_t bytes, const HostArray& array);
bool memory_ok(std::int64_t bytes, const HostArray& array);

}  // namespace ag::runtime

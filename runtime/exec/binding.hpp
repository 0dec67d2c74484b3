// What a context keeps for one set of sizes: every size, offset and argument list of the program, so that a
// run with the same sizes only stores the pointers that changed.
#pragma once
#include "runtime/exec/executable.hpp"

namespace ag::runtime {

/// Rough single-core speeds, to tell kernels worth dividing from those that are not. Only the order of
/// magnitude matters: no result depends on how work is divided.
inline constexpr double flops_per_ns = 16, bytes_per_ns = 16;
/// Handing a part to a spinning worker and joining costs some 0.2 us to 0.4 us; a part should take longer.
inline constexpr double min_part_ns = 1000;
/// Waking parked workers costs about 30 us: only after this much divisible work in a step are they woken.
inline constexpr double wake_ns = 30000;

struct BoundCall {
  loop::KernelFn fn;
  loop::KernelArgs args;
  std::int64_t tiles;
  double cost_ns;  ///< estimate for one thread
  int max_parts;   ///< 1: never divided
};

struct Binding {
  DimEnv env;
  std::vector<std::vector<std::int64_t>> shapes;    ///< per buffer
  std::vector<std::int64_t> bytes;                  ///< per buffer
  std::vector<std::int64_t> offsets;                ///< per buffer: in the arena, if it is a home there
  std::int64_t arena_bytes = 0, scratch_bytes = 0;  ///< scratch of one thread, a multiple of a cache line
  std::vector<BoundCall> calls;
  std::vector<std::int64_t> dims;  ///< of all calls
  struct HostViews {
    std::vector<HostArray> inputs, outputs;
  };
  std::vector<HostViews> host;
  std::vector<loop::ProgramBufferId> states;  ///< by state index

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
  };
  std::vector<Passed> passed;  ///< the caller's arrays: inputs, outputs, states

  /// Computes everything for the sizes in `env`. Errors: AG5006, AG5008.
  static Result<std::unique_ptr<Binding>> make(const Executable& e, DimEnv env, int threads);
  /// That nothing the program writes overlaps another of the caller's arrays. Errors: AG5017.
  Status check_overlap(const loop::Program& program);
  void set_home(const Executable& e, std::uint32_t home, void* data);

 private:
  Status set_buffers(const Executable& e);
  Status set_calls(const Executable& e, int threads);
  Status set_call(const Executable& e, std::size_t call, int threads);
  void set_passed(const Executable& e);
  std::vector<std::uint32_t> by_address_;  // of `passed`; kept so that sorting allocates nothing
};

/// Errors: AG5001.
Status check_count(std::string_view role, std::size_t wanted, std::size_t passed);
/// Sizes of the program's symbols as the inputs have them. Errors: AG5001 to AG5006.
Result<DimEnv> bind_sizes(const loop::Program& program, std::span<const HostArray> inputs);
/// Checks dtype and shape of an array that was passed for buffer `b`. `role`: "input", "output", "state".
Status check_array(const loop::Program& program, std::string_view role, const loop::ProgramBuffer& b,
                   std::span<const std::int64_t> shape, const HostArray& array, const DimEnv& env);
/// Checks its memory. Errors: AG5007.
Status check_memory(std::string_view role, const loop::ProgramBuffer& b, std::int64_t bytes, const HostArray& array);
bool memory_ok(std::int64_t bytes, const HostArray& array);

}  // namespace ag::runtime

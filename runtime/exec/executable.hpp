// A program with its machine code, ready to run. An Executable is immutable and may be shared by many
// threads, each with an ExecContext of its own: arena, scratch, gang, flags, and what was computed for the
// sizes seen last. After the first run with given sizes, a run allocates nothing.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "ir/loop/abi.hpp"
#include "ir/loop/footprint.hpp"
#include "ir/loop/storage.hpp"
#include "runtime/exec/gang.hpp"
#include "runtime/exec/host_array.hpp"

namespace ag::runtime {

/// What a host function sees: views of the buffers of its step.
struct HostCallArgs {
  std::span<const HostArray> inputs, outputs;
  const std::atomic<std::uint32_t>& cancelled;  ///< long work looks at it now and then
};
/// Its errors become the run's. May be called from several contexts at the same time.
using HostFn = std::function<Status(const HostCallArgs&)>;

/// Machine code of a program's kernels, indexed by KernelId; `owner` keeps it loaded. Footprints let threads go on
/// without waiting for each other where their parts of the memory are apart; without any they wait.
struct KernelCode {
  std::vector<loop::KernelFn> functions;
  std::shared_ptr<const void> owner;
  std::vector<loop::Footprint> footprints;
};

class Executable {
 public:
  /// Errors: AG5020, something that the program needs is missing (a kernel, a host function, the memory
  /// plan, the source of a size), and what resolve_storage() finds.
  static Result<std::shared_ptr<const Executable>> create(loop::Program program, KernelCode code,
                                                          std::vector<HostFn> host = {});
  const loop::Program& program() const { return program_; }

 private:
  friend class ExecContext;
  friend struct Binding;
  /// The steps as a flat table with jumps.
  struct Entry {
    enum class Kind : std::uint8_t { kernel, host, jump_if_false, jump, bind, swap, slot, check } kind;
    std::uint32_t index;   ///< into calls_, host_calls_, binds_, ..., or the predicate's buffer
    std::uint32_t target;  ///< of jumps
  };
  Executable() = default;
  Status flatten(const loop::Seq& seq, int depth);
  Status check() const;
  Status check_data_steps() const;
  void index_runs();
  void index_slots();
  void index_segments();
  /// Nothing where none is known.
  const loop::Footprint* footprint(const loop::KernelCall& call) const {
    if (code_.footprints.empty() || code_.footprints[call.kernel.index].params.empty()) return nullptr;
    return &code_.footprints[call.kernel.index];
  }

  loop::Program program_;
  loop::Storage storage_;
  KernelCode code_;
  std::vector<HostFn> host_;
  std::vector<Entry> table_;
  std::vector<const loop::KernelCall*> calls_;
  std::vector<std::uint32_t> run_end_;  ///< per call: 1 + the last of the calls that follow one another in the table
  std::vector<const loop::HostCall*> host_calls_;
  std::vector<const loop::BindStep*> binds_;
  std::vector<const loop::SwapStep*> swaps_;
  std::vector<const loop::SlotStep*> slot_steps_;
  std::vector<const loop::CheckStep*> checks_;
  /// What is bound when a segment becomes known; entry 0 is what the inputs tell.
  struct Members {
    std::vector<std::uint32_t> buffers, calls, hosts, growable, outputs;
    std::vector<std::uint32_t> needs;  ///< earlier segments that its sizes depend on, by SegmentId
  };
  std::vector<Members> segments_;
  std::vector<std::uint32_t> output_segment_;  ///< per output: 1 + SegmentId, or 0
  std::vector<std::uint32_t> segment_of_;   ///< per buffer: 1 + SegmentId, or 0
  std::vector<bool> moves_;                 ///< per buffer: its address changes while the program runs
  std::vector<std::uint32_t> growable_;     ///< buffers with memory of their own
  std::vector<std::uint32_t> growable_of_;  ///< per buffer: index into growable_, if it is one
  std::vector<std::uint32_t> call_slots_;   ///< where each call's pointers begin
  std::vector<std::uint32_t> slots_;        ///< pointer slots that hold a home's address, home by home
  std::vector<std::uint32_t> slots_begin_;  ///< per home, into slots_; one more at the end
  std::vector<std::int64_t> slot_offsets_;  ///< per pointer slot: bytes from where its home begins
  bool fixed_plan_ = false;                 ///< all sizes constant: the memory plan is checked once
};

struct ExecOptions {
  int threads = 1;                      ///< the calling thread included
  std::shared_ptr<ThreadPool> pool;     ///< shared with other contexts; without one the context makes its own
  std::shared_ptr<HostPool> host_pool;  ///< instead of threads of ours
  std::int64_t memory_limit = 0;        ///< bytes of arenas, scratch and allocated outputs; 0: none
  bool profile = false;                 ///< measure every kernel call; see ExecContext::profile()
};

/// What a kernel call of the program took, all runs together.
struct CallProfile {
  const loop::KernelCall* call = nullptr;
  std::uint64_t runs = 0;
  double total_ns = 0, min_ns = 0;
  int parts = 1;  ///< threads of the last run
};

struct Binding;
struct BoundCall;
class State;

/// One run at a time; cancel() alone may be called from any thread.
class ExecContext {
 public:
  explicit ExecContext(std::shared_ptr<const Executable> executable, ExecOptions options = {});
  ~ExecContext();
  ExecContext(const ExecContext&) = delete;
  ExecContext& operator=(const ExecContext&) = delete;

  /// Runs the program. Inputs and outputs in the order of Program::inputs and outputs, `states` by their
  /// index. The caller's output arrays must have the right dtype and shape and overlap nothing. After an
  /// error the outputs (and states) hold anything; the context can be used again. An output whose size only the data
  /// know is given as an array with room enough: its sizes may be any, output_shape() tells what was written.
  Status run(std::span<const HostArray> inputs, std::span<const HostArray> outputs,
             std::span<const HostArray> states = {});
  /// The same, into new arrays.
  Result<std::vector<OwnedArray>> run_allocating(std::span<const HostArray> inputs,
                                                 std::span<const HostArray> states = {});
  /// A step on a state that an object owns (runtime/exec/state.hpp). Errors also: AG5018, AG5402.
  Status run(std::span<const HostArray> inputs, std::span<const HostArray> outputs, State& state);
  Result<std::vector<OwnedArray>> run_allocating(std::span<const HostArray> inputs, State& state);
  /// Shape of an output of the last run. Valid until the next.
  std::span<const std::int64_t> output_shape(std::size_t output) const;
  /// Shapes that the outputs will have; -1 for a size that only the data know.
  Result<std::vector<std::vector<std::int64_t>>> output_shapes(std::span<const HostArray> inputs);

  /// Makes the run in progress, or if there is none the next one, return AG5011 soon.
  void cancel();

  const Executable& executable() const { return *executable_; }
  std::size_t arena_bytes() const;
  /// One entry a kernel call, in the order of the program; empty unless ExecOptions::profile is set.
  std::span<const CallProfile> profile() const { return profile_; }

 private:
  struct Busy;
  Result<Binding*> bind(std::span<const HostArray> inputs);
  Status prepare_memory(Binding& binding, std::int64_t extra_bytes);
  Status set_pointers(Binding& b, std::span<const HostArray> inputs, std::span<const HostArray> outputs,
                      std::span<const HostArray> states);
  Status execute(Binding& b, std::span<const HostArray> outputs);
  Status step(std::span<const HostArray> inputs, std::span<const HostArray> outputs, std::span<const HostArray> states,
              State* state);
  Result<std::vector<OwnedArray>> step_allocating(std::span<const HostArray> inputs, std::span<const HostArray> states,
                                                  State* state);
  Status execute_on(Binding& b, std::span<const HostArray> outputs, State* state);
  Result<std::uint32_t> call_kernels(Binding& b, std::uint32_t first);
  Result<std::uint32_t> time_kernel(Binding& b, std::uint32_t call);
  Status bind_segment(Binding& b, const loop::BindStep& step);
  Status check_sizes(const Binding& b, const loop::CheckStep& step) const;
  Status place_segment(Binding& b, std::size_t segment);
  Status place_output(Binding& b, std::uint32_t output);
  Status grow(Binding& b, std::uint32_t buffer, std::int64_t bytes);
  void swap_memory(Binding& b, const loop::SwapStep& step);
  Status choose_slot(Binding& b, std::uint32_t step);
  Status check_limit(const Binding& b, std::int64_t more) const;
  Status call_host(Binding& b, std::uint32_t call);
  void call_on_host_pool(Binding& b, std::uint32_t call);
  void run_part(Binding& b, std::uint32_t call, int part, int parts);
  bool wants_gang(double cost_ns);
  bool has_stopped() const { return stop_at_.load(std::memory_order_relaxed) != nowhere; }
  Status stopped(const Executable::Entry& entry);

  std::shared_ptr<const Executable> executable_;
  ExecOptions options_;
  /// What a thread's kernels report, and are told. The first call that stopped the run is found from all of them.
  struct alignas(64) Flags {
    loop::ContextBlock block;
    std::uint32_t trapped_call = 0;
  };
  static constexpr std::uint32_t nowhere = UINT32_MAX;
  std::vector<Flags> flags_;                    ///< one a thread
  std::atomic<std::uint32_t> stop_at_{nowhere};  ///< no call after this one needs to be run
  std::mutex cancel_mutex_;                      ///< so that each request to cancel ends one run
  Arena arena_, scratch_;
  std::int64_t scratch_stride_ = 0;               ///< of one thread
  std::vector<std::unique_ptr<Arena>> segments_;  ///< memory of temps, by SegmentId
  std::vector<std::unique_ptr<Arena>> growable_;  ///< by Executable::growable_
  std::span<const HostArray> outputs_;            ///< of the run in progress
  std::vector<OwnedArray>* allocated_ = nullptr;  ///< where run_allocating wants its outputs, and
  std::vector<HostArray>* views_ = nullptr;       ///< views of them
  std::int64_t output_bytes_ = 0;
  std::vector<std::int64_t> row_bytes_;  ///< per slot step: of the first part that a loop gathered
  Binding* last_ = nullptr;
  Gang gang_;
  std::vector<CallProfile> profile_;
  double waiting_ns_ = 0;  ///< divisible work done so far in this step without a gang
  std::atomic<bool> busy_{false};
  std::vector<std::unique_ptr<Binding>> bindings_;  ///< last used first
};

}  // namespace ag::runtime

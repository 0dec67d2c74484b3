// The run of a step: bind sizes, set pointers, walk the table.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>

#include "runtime/exec/binding.hpp"
#include "runtime/exec/fp_state.hpp"
#include "runtime/exec/state.hpp"

namespace ag::runtime {
namespace {

using loop::BufferKind;
using loop::ProgramBuffer;
using loop::ProgramBufferId;

constexpr std::size_t max_bindings = 8;

/// Whether an array is exactly what was bound: the test of every run, so it makes no text.
bool same_array(const HostArray& a, DType dtype, std::span<const std::int64_t> shape, std::int64_t bytes) {
  return a.dtype == dtype && std::equal(a.shape.begin(), a.shape.end(), shape.begin(), shape.end()) &&
         memory_ok(bytes, a);
}

std::string largest_temps(const loop::Program& p, const loop::Storage& s, const Binding& b) {
  std::vector<std::size_t> temps;
  for (std::size_t i = 0; i < p.buffers.size(); ++i)
    if (p.buffers[ProgramBufferId(i)].kind == BufferKind::temp && s.home[ProgramBufferId(i)].index == i)
      temps.push_back(i);
  const std::size_t n = std::min<std::size_t>(temps.size(), 5);
  std::partial_sort(temps.begin(), temps.begin() + n, temps.end(),
                    [&](auto x, auto y) { return b.bytes[x] > b.bytes[y]; });
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < n; ++i)
    lines.push_back(fmt::format("`{}` {} ({} bytes)", p.buffers[ProgramBufferId(temps[i])].name,
                                describe(p.buffers[ProgramBufferId(temps[i])].dtype, b.shapes[temps[i]]),
                                b.bytes[temps[i]]));
  return fmt::format("{}", fmt::join(lines, ", "));
}

}  // namespace

/// Marks the context as running and gives its threads back at the end.
struct ExecContext::Busy {
  ExecContext& c;
  bool entered;
  explicit Busy(ExecContext& context) : c(context), entered(!c.busy_.exchange(true, std::memory_order_acquire)) {}
  ~Busy() {
    if (!entered) return;
    c.gang_.release();
    c.busy_.store(false, std::memory_order_release);
  }
  Status ok() const {
    if (entered) return {};
    return fail(Code::AG5018, {}, "this context is running already; each thread needs a context of its own");
  }
};

ExecContext::ExecContext(std::shared_ptr<const Executable> executable, ExecOptions options)
    : executable_(std::move(executable)), options_(std::move(options)) {
  if (options_.host_pool) options_.threads = options_.host_pool->threads();
  options_.threads = std::clamp(options_.threads, 1, int{UINT16_MAX});
  if (!options_.host_pool && !options_.pool) {
    options_.threads = useful_threads(options_.threads);
    if (options_.threads > 1) options_.pool = std::make_shared<ThreadPool>(options_.threads - 1);
  }
  flags_ = std::vector<Flags>(static_cast<std::size_t>(options_.threads));
  bindings_.reserve(max_bindings + 1);
  for (std::size_t i = 0; i < executable_->program_.segments.size(); ++i)
    segments_.push_back(std::make_unique<Arena>());
  row_bytes_.resize(executable_->slot_steps_.size());
  if (options_.profile)
    for (const loop::KernelCall* call : executable_->calls_) profile_.push_back({call});
  for (std::size_t i = 0; i < executable_->growable_.size(); ++i) growable_.push_back(std::make_unique<Arena>());
}

ExecContext::~ExecContext() = default;

std::size_t ExecContext::arena_bytes() const {
  std::size_t sum = arena_.capacity() + scratch_.capacity();
  for (const auto* list : {&segments_, &growable_})
    for (const auto& a : *list) sum += a->capacity();
  return sum;
}

Result<Binding*> ExecContext::bind(std::span<const HostArray> inputs) {
  const loop::Program& p = executable_->program_;
  auto matches = [&](const Binding& b) {
    if (inputs.size() != p.inputs.size()) return false;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const auto id = p.inputs[i];
      if (!same_array(inputs[i], p.buffers[id].dtype, b.shapes[id.index], b.bytes[id.index])) return false;
    }
    return true;
  };
  for (std::size_t i = 0; i < bindings_.size(); ++i)
    if (matches(*bindings_[i])) {
      std::rotate(bindings_.begin(), bindings_.begin() + i, bindings_.begin() + i + 1);
      return bindings_.front().get();
    }
  AG_TRY(DimEnv env, bind_sizes(p, inputs));
  AG_TRY(auto binding, Binding::make(*executable_, std::move(env), options_.threads));
  for (std::size_t i = 0; i < inputs.size(); ++i)
    AG_TRY_(check_memory("input", p.buffers[p.inputs[i]], binding->bytes[p.inputs[i].index], inputs[i]));
  bindings_.insert(bindings_.begin(), std::move(binding));
  if (bindings_.size() > max_bindings) bindings_.pop_back();
  last_ = nullptr;
  return bindings_.front().get();
}

Status ExecContext::prepare_memory(Binding& b, std::int64_t extra_bytes) {
  const loop::Program& p = executable_->program_;
  const auto scratch = checked_mul(std::max(b.scratch_bytes, scratch_stride_), options_.threads);
  const auto own = scratch ? checked_add(b.arena_bytes, *scratch) : std::nullopt;
  const auto total = own ? checked_add(*own, extra_bytes) : std::nullopt;
  if (!total) return fail(Code::AG5008, {}, "the memory that the program needs cannot be counted in 64 bits");
  if (options_.memory_limit > 0 && *total > options_.memory_limit) {
    Diag d = error(Code::AG5009, {},
                   fmt::format("the program needs {} bytes, the limit is {}", *total, options_.memory_limit));
    d.note(fmt::format("{} bytes for temporaries, {} for scratch of {} threads, {} for outputs", b.arena_bytes,
                       *scratch, options_.threads, extra_bytes));
    if (b.arena_bytes > 0) d.note("largest temporaries: " + largest_temps(p, executable_->storage_, b));
    return fail(std::move(d));
  }
  if (!arena_.reserve(b.arena_bytes) || !scratch_.reserve(*scratch))
    return fail(Code::AG5010, {},
                fmt::format("no memory for {} bytes of temporaries and {} of scratch", b.arena_bytes, *scratch));
  if (b.arena != arena_.base() || !b.placed) {
    b.arena = arena_.base();
    b.placed = true;
    for (std::size_t i = 0; i < p.buffers.size(); ++i)
      if (const auto& buffer = p.buffers[ProgramBufferId(i)]; buffer.kind == BufferKind::temp &&
                                                              buffer.place == loop::Place::arena &&
                                                              executable_->storage_.home[ProgramBufferId(i)].index == i)
        b.set_home(*executable_, static_cast<std::uint32_t>(i), b.arena + b.offsets[i]);
  }
  scratch_stride_ = std::max(scratch_stride_, b.scratch_bytes);
  for (std::size_t i = 0; i < growable_.size(); ++i)
    b.set_home(*executable_, executable_->growable_[i], growable_[i]->base());
  for (std::uint32_t i : executable_->segments_[0].growable) AG_TRY_(grow(b, i, b.bytes[i]));
  output_bytes_ = extra_bytes;
  return {};
}

Status ExecContext::set_pointers(Binding& b, std::span<const HostArray> inputs, std::span<const HostArray> outputs,
                                 std::span<const HostArray> states) {
  const loop::Program& p = executable_->program_;
  bool changed = false;
  std::size_t at = 0;
  auto set = [&](ProgramBufferId id, const HostArray& a, std::int64_t bytes, bool is_home) {
    if (b.passed[at].data != a.data || b.passed[at].bytes != bytes) {
      b.passed[at].data = a.data;
      b.passed[at].bytes = bytes;
      changed = true;
      if (is_home) b.set_home(*executable_, id.index, a.data);
    }
    ++at;
  };
  auto check = [&](std::string_view role, ProgramBufferId id, const HostArray& a) -> Status {
    if (same_array(a, p.buffers[id].dtype, b.shapes[id.index], b.bytes[id.index])) return {};
    AG_TRY_(check_array(p, role, p.buffers[id], b.shapes[id.index], a, b.env));
    return check_memory(role, p.buffers[id], b.bytes[id.index], a);
  };
  AG_TRY_(check_count("output", p.outputs.size(), outputs.size()));
  AG_TRY_(check_count("state", b.states.size(), states.size()));
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (executable_->output_segment_[i] == 0)
      AG_TRY_(check("output", p.outputs[i], outputs[i]));
    else
      AG_TRY_(check_rank("output", p.buffers[p.outputs[i]], outputs[i]));
  }
  for (std::size_t i = 0; i < states.size(); ++i) AG_TRY_(check("state", b.states[i], states[i]));
  for (std::size_t i = 0; i < inputs.size(); ++i) set(p.inputs[i], inputs[i], b.bytes[p.inputs[i].index], true);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const bool known = executable_->output_segment_[i] == 0;  // others get their memory when their size is known
    set(p.outputs[i], outputs[i], known ? b.bytes[p.outputs[i].index] : static_cast<std::int64_t>(outputs[i].bytes),
        known && !executable_->storage_.copied[i]);
  }
  for (std::size_t i = 0; i < states.size(); ++i) set(b.states[i], states[i], b.bytes[b.states[i].index], true);
  if (!changed) return {};
  auto overlap = b.check_overlap(p);
  if (!overlap)
    for (auto& x : b.passed) x.data = nullptr;  // look again next time
  return overlap;
}

/// Whether a call that can be divided shall be: a gang is taken at the first work worth it, and kept.
bool ExecContext::wants_gang(double cost_ns) {
  if (gang_.held()) return true;
  waiting_ns_ += cost_ns;
  if (waiting_ns_ < wake_ns && !options_.pool->hot()) return false;
  gang_.acquire(*options_.pool, options_.threads);
  return true;
}

/// One part of a call, on any thread. After a trap the calls before it are still made in all parts: so the first trap
/// of the program is reported, whoever met one first.
void ExecContext::run_part(Binding& b, std::uint32_t index, int part, int parts) {
  if (index > stop_at_.load(std::memory_order_relaxed)) return;
  BoundCall& c = b.calls[index];
  Flags& flags = flags_[static_cast<std::size_t>(part)];
  loop::KernelArgs args = c.args;
  args.context = &flags.block;
  args.scratch = scratch_.base() + part * scratch_stride_;
  const TileRange tiles = parts == 1 ? TileRange{0, c.tiles} : tile_range(c.tiles, part, parts);
  if (tiles.lo < tiles.hi) c.fn(&args, tiles.lo, tiles.hi);
  const bool trapped = flags.block.trap_kind.load(std::memory_order_relaxed) != 0;
  if (!trapped && flags.block.cancelled.load(std::memory_order_relaxed) == 0) return;
  if (trapped && flags.trapped_call == nowhere) flags.trapped_call = index;
  for (auto at = stop_at_.load(); index < at && !stop_at_.compare_exchange_weak(at, index);) {
  }
}

void ExecContext::call_on_host_pool(Binding& b, std::uint32_t index) {
  struct Job {
    ExecContext& context;
    Binding& binding;
    std::uint32_t index;
  } job{*this, b, index};
  options_.host_pool->parallel_for(
      b.entries[index].parts,
      [](void* user, int part, int parts) {
        FpState fp;  // the host's threads may be in any mode
        const Job& j = *static_cast<const Job*>(user);
        j.context.run_part(j.binding, j.index, part, parts);
      },
      &job);
}

/// Makes a call, and if that takes a gang, also those that follow it in the table. Returns how many were made.
Result<std::uint32_t> ExecContext::call_kernels(Binding& b, std::uint32_t first) {
  BoundCall& c = b.calls[first];
  if (!c.fn) AG_TRY_(b.set_call(*executable_, first, options_.threads));
  if (b.entries[first].parts == 1) {
    run_part(b, first, 0, 1);
    return 1;
  }
  if (options_.host_pool) {
    call_on_host_pool(b, first);
    return 1;
  }
  if (!wants_gang(c.cost_ns)) {
    run_part(b, first, 0, 1);
    return 1;
  }
  std::uint32_t end = first + 1;
  if (profile_.empty())
    while (end < executable_->run_end_[first] && b.calls[end].fn) ++end;
  struct Walk {
    ExecContext& context;
    Binding& binding;
    std::uint32_t first;
  } walk{*this, b, first};
  gang_.run({[](void* user, std::uint32_t entry, int part, int parts) {
               const Walk& w = *static_cast<const Walk*>(user);
               w.context.run_part(w.binding, w.first + entry, part, parts);
             },
             &walk, std::span<const BlockEntry>(b.entries).subspan(first, end - first),
             gang_.size() != options_.threads});
  return end - first;
}

Status ExecContext::call_host(Binding& b, std::uint32_t index) {
  const loop::HostCall& call = *executable_->host_calls_[index];
  auto& views = b.host[index];
  auto point = [&](const std::vector<ProgramBufferId>& ids, std::vector<HostArray>& arrays) {
    for (std::size_t i = 0; i < ids.size(); ++i) arrays[i].data = b.address(executable_->storage_, ids[i]);
  };
  point(call.inputs, views.inputs);
  point(call.outputs, views.outputs);
  try {
    return executable_->host_[call.function]({views.inputs, views.outputs, flags_[0].block.cancelled});
  } catch (const std::exception& e) {
    return fail(Code::AG5015, {}, fmt::format("host function `{}` threw: {}", call.label, e.what()));
  } catch (...) {
    return fail(Code::AG5015, {}, fmt::format("host function `{}` threw", call.label));
  }
}

Result<std::uint32_t> ExecContext::time_kernel(Binding& b, std::uint32_t index) {
  const auto start = std::chrono::steady_clock::now();
  AG_TRY(const std::uint32_t made, call_kernels(b, index));
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  CallProfile& p = profile_[index];
  p.min_ns = p.runs++ == 0 ? took.count() : std::min(p.min_ns, took.count());
  p.total_ns += took.count();
  p.parts = std::min<int>(b.entries[index].parts, options_.host_pool ? options_.threads
                                                  : gang_.held()     ? gang_.size()
                                                                     : 1);
  return made;
}

void ExecContext::cancel() {
  std::lock_guard lock(cancel_mutex_);
  for (Flags& f : flags_) f.block.cancelled.store(1, std::memory_order_relaxed);
}

/// The error of a trap or a cancellation noticed after `entry`; both are then over. Of several traps that of the first
/// call, in its lowest part.
Status ExecContext::stopped(const Executable::Entry& entry) {
  const Flags* first = nullptr;
  for (const Flags& f : flags_)
    if (f.block.trap_kind.load() != 0 && (!first || f.trapped_call < first->trapped_call)) first = &f;
  const auto kind = static_cast<loop::Trap>(first ? first->block.trap_kind.load() : 0);
  {
    std::lock_guard lock(cancel_mutex_);
    for (Flags& f : flags_) f.block.cancelled.store(0);
  }
  if (kind == loop::Trap::none) return fail(Code::AG5011, {}, "the run was cancelled");
  const loop::ContextBlock& flags = first->block;
  Loc place;
  std::string where;
  if (entry.kind == Executable::Entry::Kind::kernel) {
    const loop::KernelCall& call = *executable_->calls_[first->trapped_call];
    const auto& sources = executable_->program_.sources;
    const std::size_t local = std::size_t{flags.trap_origin} - 1;  // 0 means none
    if (flags.trap_origin != 0 && local < call.origins.size() && call.origins[local] < sources.size())
      place = sources[call.origins[local]];
    if (!call.label.empty() && (call.label.size() <= 40 || !place.known())) where = fmt::format(" in `{}`", call.label);
  }
  switch (kind) {
    case loop::Trap::index_out_of_range:
      return fail(Code::AG5012, place, fmt::format("index {} is out of range{}", flags.trap_detail, where));
    case loop::Trap::integer_division_by_zero:
      return fail(Code::AG5013, place, fmt::format("integer division by zero{}", where));
    case loop::Trap::size_mismatch:
      return fail(Code::AG5014, place, fmt::format("sizes do not match{}: {}", where, flags.trap_detail));
    default: return fail(Code::AG5015, place, fmt::format("the host stopped the run{}", where));
  }
}

Status ExecContext::execute(Binding& b, std::span<const HostArray> outputs) {
  using Kind = Executable::Entry::Kind;
  const auto& table = executable_->table_;
  FpState fp;
  for (Flags& f : flags_) f.block.trap_kind.store(0, std::memory_order_relaxed), f.trapped_call = nowhere;
  stop_at_.store(nowhere, std::memory_order_relaxed);
  waiting_ns_ = 0;
  for (std::size_t pc = 0; pc < table.size();) {
    const auto& entry = table[pc++];
    switch (entry.kind) {
      case Kind::kernel: {
        AG_TRY(const auto made, profile_.empty() ? call_kernels(b, entry.index) : time_kernel(b, entry.index));
        pc += made - 1;
        break;
      }
      case Kind::host: AG_TRY_(call_host(b, entry.index)); break;
      case Kind::jump: pc = entry.target; break;
      case Kind::bind: AG_TRY_(bind_segment(b, *executable_->binds_[entry.index])); break;
      case Kind::check: AG_TRY_(check_sizes(b, *executable_->checks_[entry.index])); break;
      case Kind::swap: swap_memory(b, *executable_->swaps_[entry.index]); break;
      case Kind::slot: AG_TRY_(choose_slot(b, entry.index)); break;
      case Kind::jump_if_false: {
        const auto home = executable_->storage_.home[ProgramBufferId{std::size_t{entry.index}}].index;
        if (*static_cast<const std::uint8_t*>(b.home_data[home]) == 0) pc = entry.target;
        break;
      }
    }
    if (has_stopped() || flags_[0].block.cancelled.load(std::memory_order_relaxed)) return stopped(entry);
  }
  const auto& p = executable_->program_;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto id = p.outputs[i];
    if (!executable_->storage_.copied[i] || b.bytes[id.index] == 0) continue;
    std::memcpy(outputs[i].data, b.address(executable_->storage_, id), static_cast<std::size_t>(b.bytes[id.index]));
  }
  return {};
}

/// Only what happens from here on can leave a state half new, half old.
Status ExecContext::execute_on(Binding& b, std::span<const HostArray> outputs, State* state) {
  if (!state) return execute(b, outputs);
  AG_TRY_(state->begin());
  Status done = execute(b, outputs);
  state->end(done.has_value());
  return done;
}

Status ExecContext::run(std::span<const HostArray> inputs, std::span<const HostArray> outputs,
                        std::span<const HostArray> states) {
  return step(inputs, outputs, states, nullptr);
}
Status ExecContext::run(std::span<const HostArray> inputs, std::span<const HostArray> outputs, State& state) {
  return step(inputs, outputs, state.views_, &state);
}
Result<std::vector<OwnedArray>> ExecContext::run_allocating(std::span<const HostArray> inputs,
                                                            std::span<const HostArray> states) {
  return step_allocating(inputs, states, nullptr);
}
Result<std::vector<OwnedArray>> ExecContext::run_allocating(std::span<const HostArray> inputs, State& state) {
  return step_allocating(inputs, state.views_, &state);
}

Status ExecContext::step(std::span<const HostArray> inputs, std::span<const HostArray> outputs,
                         std::span<const HostArray> states, State* state) {
  Busy busy(*this);
  AG_TRY_(busy.ok());
  AG_TRY(Binding * b, bind(inputs));
  AG_TRY_(prepare_memory(*b, 0));
  AG_TRY_(set_pointers(*b, inputs, outputs, states));
  outputs_ = outputs;
  last_ = b;
  return execute_on(*b, outputs, state);
}

Result<std::vector<OwnedArray>> ExecContext::step_allocating(std::span<const HostArray> inputs,
                                                             std::span<const HostArray> states, State* state) {
  Busy busy(*this);
  AG_TRY_(busy.ok());
  AG_TRY(Binding * b, bind(inputs));
  const auto& p = executable_->program_;
  std::int64_t bytes = 0;
  for (auto i : executable_->segments_[0].outputs) {
    const auto sum = checked_add(bytes, b->bytes[p.outputs[i].index]);
    if (!sum) return fail(Code::AG5008, {}, "the size of the outputs cannot be counted in 64 bits");
    bytes = *sum;
  }
  AG_TRY_(prepare_memory(*b, bytes));
  std::vector<OwnedArray> arrays(p.outputs.size());
  std::vector<HostArray> outputs;
  for (std::size_t i = 0; i < p.outputs.size(); ++i) {
    const auto& buffer = p.buffers[p.outputs[i]];
    if (executable_->output_segment_[i] == 0) {
      AG_TRY(arrays[i], OwnedArray::allocate(buffer.dtype, b->shapes[p.outputs[i].index]));
      outputs.push_back(arrays[i].view());
    } else {  // made when its size is known
      outputs.push_back({buffer.dtype, std::vector<std::int64_t>(buffer.shape.size()), nullptr, 0});
    }
  }
  AG_TRY_(set_pointers(*b, inputs, outputs, states));
  outputs_ = outputs;
  allocated_ = &arrays, views_ = &outputs;
  last_ = b;
  Status done = execute_on(*b, outputs, state);
  allocated_ = nullptr, views_ = nullptr;
  if (!done) return fail(std::move(done).error());
  return arrays;
}

Result<std::vector<std::vector<std::int64_t>>> ExecContext::output_shapes(std::span<const HostArray> inputs) {
  Busy busy(*this);
  AG_TRY_(busy.ok());
  AG_TRY(Binding * b, bind(inputs));
  const auto& p = executable_->program_;
  std::vector<std::vector<std::int64_t>> shapes;
  const loop::SegmentIndex segments(p);
  for (auto id : p.outputs) {
    auto& shape = shapes.emplace_back();
    for (const Dim& d : p.buffers[id].shape) shape.push_back(segments.of(d) ? -1 : d.eval(b->env).value_or(-1));
  }
  return shapes;
}

std::span<const std::int64_t> ExecContext::output_shape(std::size_t output) const {
  const auto& outputs = executable_->program_.outputs;
  if (!last_ || output >= outputs.size()) return {};
  return last_->shapes[outputs[output].index];
}

}  // namespace ag::runtime

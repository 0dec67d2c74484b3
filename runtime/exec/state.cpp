#include "runtime/exec/state.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/exec/binding.hpp"

namespace ag::runtime {

namespace {

/// Calls f(place as the owner sees it, place in memory, bytes) for runs that cover an array whose axis i lies at
/// axes[i].
template <class F>
void for_each_run(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& axes, std::size_t element,
                  F f) {
  const std::size_t rank = shape.size();
  std::vector<std::int64_t> dims(rank), inner(rank), stride(rank), index(rank);
  for (std::size_t i = 0; i < rank; ++i) dims[static_cast<std::size_t>(axes[i])] = shape[i];
  std::int64_t step = 1, count = 1;
  for (std::size_t i = rank; i-- > 0; step *= dims[i]) inner[i] = step;
  for (std::size_t i = 0; i < rank; ++i) {
    stride[i] = inner[static_cast<std::size_t>(axes[i])];
    count *= shape[i];
  }
  std::int64_t at = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    f(static_cast<std::size_t>(n) * element, static_cast<std::size_t>(at) * element, element);
    for (std::size_t i = rank; i-- > 0;) {
      at += stride[i];
      if (++index[i] < shape[i]) break;
      at -= stride[i] * shape[i];
      index[i] = 0;
    }
  }
}

bool is_permutation(std::vector<std::int64_t> axes) {
  std::sort(axes.begin(), axes.end());
  for (std::size_t i = 0; i < axes.size(); ++i)
    if (axes[i] != static_cast<std::int64_t>(i)) return false;
  return true;
}

}  // namespace

/// The state of buffer `b`, whose first byte lies at `memory`.
Result<State::Part> State::part_of(const loop::ProgramBuffer& b, void* memory) {
  if (!b.axes.empty() && (b.axes.size() != b.shape.size() || !is_permutation(b.axes)))
    return fail(Code::AG5020, {}, "the axes of state `" + b.name + "` are no permutation");
  Part part{.name = b.name, .view = {b.dtype, {}, memory, dtype_bytes(b.dtype)}, .shape = {}, .axes = b.axes};
  for (const Dim& d : b.shape) {
    part.view.shape.push_back(d.eval({}).value_or(0));
    part.view.bytes *= static_cast<std::size_t>(part.view.shape.back());
  }
  part.shape = part.view.shape;
  for (std::size_t i = 0; i < b.axes.size(); ++i) part.shape[i] = part.view.shape[static_cast<std::size_t>(b.axes[i])];
  return part;
}

Result<std::unique_ptr<State>> State::create(std::shared_ptr<const Executable> executable) {
  std::unique_ptr<State> s(new State);
  const loop::Program& p = executable->program();
  AG_TRY(const loop::Storage storage, loop::resolve_storage(p));
  IdMap<loop::ProgramBufferId, std::size_t> array_of(p.buffers.size());
  for (loop::ProgramBufferId id : loop::state_homes(p)) {
    std::vector<std::int64_t> shape;
    for (const Dim& d : p.buffers[id].shape) shape.push_back(d.eval({}).value_or(-1));  // negative: AG5008
    AG_TRY(OwnedArray array, OwnedArray::allocate(p.buffers[id].dtype, std::move(shape)));
    std::memset(array.view().data, 0, array.view().bytes);
    array_of[id] = s->memory_.size();
    s->views_.push_back(array.view());
    s->memory_.push_back(std::move(array));
  }
  for (std::size_t i = 0; i < p.buffers.size(); ++i) {
    const loop::ProgramBufferId id(i);
    const loop::ProgramBuffer& b = p.buffers[id];
    if (b.kind != loop::BufferKind::state || b.name.empty()) continue;
    if (b.index >= s->parts_.size()) s->parts_.resize(b.index + 1);
    char* memory = static_cast<char*>(s->views_[array_of[storage.home[id]]].data);
    AG_TRY(s->parts_[b.index], part_of(b, memory + storage.begin[id]));
  }
  s->executable_ = std::move(executable);
  return s;
}

std::optional<std::size_t> State::find(std::string_view name) const {
  auto it = std::find_if(parts_.begin(), parts_.end(), [&](const Part& p) { return p.name == name; });
  return it == parts_.end() ? std::nullopt : std::optional(static_cast<std::size_t>(it - parts_.begin()));
}

Status State::check(const Part& part, const HostArray& array) {
  const std::string wanted = "state `" + part.name + "` is " + describe(part.view.dtype, part.shape);
  if (array.dtype != part.view.dtype)
    return fail(Code::AG5002, {}, wanted + ", not " + describe(array.dtype, array.shape));
  if (array.shape != part.shape)
    return fail(array.shape.size() == part.shape.size() ? Code::AG5004 : Code::AG5003, {},
                wanted + ", not " + describe(array.dtype, array.shape));
  if (part.view.bytes > 0 && (!array.data || array.bytes < part.view.bytes))
    return fail(Code::AG5007, {}, "the array given for state `" + part.name + "` is too short");
  return {};
}

Status State::set(std::size_t i, const HostArray& from) {
  Part& part = parts_[i];
  AG_TRY_(check(part, from));
  char* to = static_cast<char*>(part.view.data);
  const char* source = static_cast<const char*>(from.data);
  if (part.axes.empty() && part.view.bytes > 0) std::memcpy(to, source, part.view.bytes);
  if (!part.axes.empty())
    for_each_run(part.shape, part.axes, dtype_bytes(from.dtype),
                 [&](std::size_t seen, std::size_t lies, std::size_t n) { std::memcpy(to + lies, source + seen, n); });
  part.fresh = true;
  if (spoilt() && std::all_of(parts_.begin(), parts_.end(), [](const Part& p) { return p.fresh; }))
    phase_.store(Phase::ready, std::memory_order_release);
  return {};
}

Status State::get(std::size_t i, const HostArray& to) const {
  const Part& part = parts_[i];
  AG_TRY_(check(part, to));
  const char* from = static_cast<const char*>(part.view.data);
  char* target = static_cast<char*>(to.data);
  if (part.axes.empty() && part.view.bytes > 0) std::memcpy(target, from, part.view.bytes);
  if (!part.axes.empty())
    for_each_run(part.shape, part.axes, dtype_bytes(to.dtype), [&](std::size_t seen, std::size_t lies, std::size_t n) {
      std::memcpy(target + seen, from + lies, n);
    });
  return {};
}

Status State::begin() {
  Phase expected = Phase::ready;
  if (phase_.compare_exchange_strong(expected, Phase::running, std::memory_order_acquire)) return {};
  if (expected == Phase::running)
    return fail(Code::AG5018, {}, "another step is running on this state; steps follow one another");
  return fail(error(Code::AG5402, {}, "the last step failed half-way: some of its state is new, some is old")
                  .help("set every array of the state, from a checkpoint say"));
}

void State::end(bool completed) {
  if (!completed)
    for (Part& part : parts_) part.fresh = false;
  phase_.store(completed ? Phase::ready : Phase::spoilt, std::memory_order_release);
}

}  // namespace ag::runtime

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

Result<std::unique_ptr<State>> State::create(std::shared_ptr<const Executable> executable) {
  std::unique_ptr<State> s(new State);
  const loop::Program& p = executable->program();
  for (const loop::ProgramBuffer& b : p.buffers) {
    if (b.kind != loop::BufferKind::state) continue;
    if (b.index >= s->names_.size()) {
      s->names_.resize(b.index + 1);
      s->memory_.resize(b.index + 1);
      s->shapes_.resize(b.index + 1);
      s->axes_.resize(b.index + 1);
    }
    if (!b.axes.empty() && (b.axes.size() != b.shape.size() || !is_permutation(b.axes)))
      return fail(Code::AG5020, {}, "the axes of state `" + b.name + "` are no permutation");
    std::vector<std::int64_t> shape;
    for (const Dim& d : b.shape) shape.push_back(d.eval({}).value_or(-1));  // negative: AG5008
    s->shapes_[b.index] = shape;
    for (std::size_t i = 0; i < b.axes.size(); ++i) s->shapes_[b.index][i] = shape[static_cast<std::size_t>(b.axes[i])];
    AG_TRY(OwnedArray array, OwnedArray::allocate(b.dtype, std::move(shape)));
    std::memset(array.view().data, 0, array.view().bytes);
    s->names_[b.index] = b.name;
    s->axes_[b.index] = b.axes;
    s->memory_[b.index] = std::move(array);
  }
  for (const OwnedArray& a : s->memory_) s->views_.push_back(a.view());
  s->fresh_.resize(s->size());
  s->executable_ = std::move(executable);
  return s;
}

std::optional<std::size_t> State::find(std::string_view name) const {
  auto it = std::find(names_.begin(), names_.end(), name);
  return it == names_.end() ? std::nullopt : std::optional(static_cast<std::size_t>(it - names_.begin()));
}

Status State::check(std::size_t i, const HostArray& array) const {
  const std::string wanted = "state `" + names_[i] + "` is " + describe(views_[i].dtype, shapes_[i]);
  if (array.dtype != views_[i].dtype)
    return fail(Code::AG5002, {}, wanted + ", not " + describe(array.dtype, array.shape));
  if (array.shape != shapes_[i])
    return fail(array.shape.size() == shapes_[i].size() ? Code::AG5004 : Code::AG5003, {},
                wanted + ", not " + describe(array.dtype, array.shape));
  if (views_[i].bytes > 0 && (!array.data || array.bytes < views_[i].bytes))
    return fail(Code::AG5007, {}, "the array given for state `" + names_[i] + "` is too short");
  return {};
}

Status State::set(std::size_t i, const HostArray& from) {
  AG_TRY_(check(i, from));
  char* to = static_cast<char*>(views_[i].data);
  const char* source = static_cast<const char*>(from.data);
  if (axes_[i].empty() && views_[i].bytes > 0) std::memcpy(to, source, views_[i].bytes);
  if (!axes_[i].empty())
    for_each_run(shapes_[i], axes_[i], dtype_bytes(from.dtype),
                 [&](std::size_t seen, std::size_t lies, std::size_t n) { std::memcpy(to + lies, source + seen, n); });
  fresh_[i] = true;
  if (spoilt() && std::find(fresh_.begin(), fresh_.end(), false) == fresh_.end())
    phase_.store(Phase::ready, std::memory_order_release);
  return {};
}

Status State::get(std::size_t i, const HostArray& to) const {
  AG_TRY_(check(i, to));
  const char* from = static_cast<const char*>(views_[i].data);
  char* target = static_cast<char*>(to.data);
  if (axes_[i].empty() && views_[i].bytes > 0) std::memcpy(target, from, views_[i].bytes);
  if (!axes_[i].empty())
    for_each_run(shapes_[i], axes_[i], dtype_bytes(to.dtype), [&](std::size_t seen, std::size_t lies, std::size_t n) {
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
  if (!completed) fresh_.assign(fresh_.size(), false);
  phase_.store(completed ? Phase::ready : Phase::spoilt, std::memory_order_release);
}

}  // namespace ag::runtime

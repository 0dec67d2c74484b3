#include "runtime/exec/state.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/exec/binding.hpp"

namespace ag::runtime {

Result<std::unique_ptr<State>> State::create(std::shared_ptr<const Executable> executable) {
  std::unique_ptr<State> s(new State);
  const loop::Program& p = executable->program();
  for (const loop::ProgramBuffer& b : p.buffers) {
    if (b.kind != loop::BufferKind::state) continue;
    if (b.index >= s->names_.size()) {
      s->names_.resize(b.index + 1);
      s->memory_.resize(b.index + 1);
    }
    std::vector<std::int64_t> shape;
    for (const Dim& d : b.shape) shape.push_back(d.eval({}).value_or(-1));  // negative: AG5008
    AG_TRY(OwnedArray array, OwnedArray::allocate(b.dtype, std::move(shape)));
    std::memset(array.view().data, 0, array.view().bytes);
    s->names_[b.index] = b.name;
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

Status State::set(std::size_t i, const HostArray& from) {
  const HostArray& to = views_[i];
  if (from.dtype != to.dtype)
    return fail(
        Code::AG5002, {},
        "state `" + names_[i] + "` is " + describe(to.dtype, to.shape) + ", not " + describe(from.dtype, from.shape));
  if (from.shape != to.shape)
    return fail(
        from.shape.size() == to.shape.size() ? Code::AG5004 : Code::AG5003, {},
        "state `" + names_[i] + "` is " + describe(to.dtype, to.shape) + ", not " + describe(from.dtype, from.shape));
  if (to.bytes > 0 && (!from.data || from.bytes < to.bytes))
    return fail(Code::AG5007, {}, "the array given for state `" + names_[i] + "` is too short");
  if (to.bytes > 0) std::memcpy(to.data, from.data, to.bytes);
  fresh_[i] = true;
  if (spoilt() && std::find(fresh_.begin(), fresh_.end(), false) == fresh_.end())
    phase_.store(Phase::ready, std::memory_order_release);
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

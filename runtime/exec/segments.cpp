// Sizes, memory and outputs that become known while a program runs; memory that moves without a copy.
#include <fmt/format.h>

#include <algorithm>

#include "runtime/exec/binding.hpp"

namespace ag::runtime {

using loop::BufferKind;
using loop::ProgramBufferId;

/// That `more` bytes beyond what the program holds by now stay within the limit.
Status ExecContext::check_limit(const Binding& b, std::int64_t more) const {
  if (options_.memory_limit <= 0) return {};
  std::optional<std::int64_t> sum = checked_add(b.arena_bytes, output_bytes_);
  auto add = [&](std::int64_t bytes) { sum = sum ? checked_add(*sum, bytes) : sum; };
  const auto scratch = checked_mul(scratch_stride_, options_.threads);
  add(scratch.value_or(std::numeric_limits<std::int64_t>::max()));
  for (const auto& s : b.segments)
    if (s.bound) add(s.arena_bytes);
  for (const auto& a : growable_) add(static_cast<std::int64_t>(a->capacity()));
  add(more);
  if (sum && *sum <= options_.memory_limit) return {};
  return fail(error(Code::AG5009, {},
                    fmt::format("the program needs {} bytes, the limit is {}",
                                sum ? fmt::to_string(*sum) : "more than can be counted", options_.memory_limit))
                  .note("sizes that only the data know became known while it ran"));
}

Status ExecContext::bind_segment(Binding& b, const loop::BindStep& step) {
  const std::size_t segment = step.segment.index;
  auto& next = b.segments[segment].next;
  const std::int64_t* values = next.data();
  if (step.values)
    values = static_cast<const std::int64_t*>(b.address(executable_->storage_, step.values));
  else
    for (std::size_t i = 0; i < next.size(); ++i) next[i] = step.exprs[i].eval(b.env).value_or(-1);
  if (!b.is_bound(*executable_, segment, values)) AG_TRY_(b.update(*executable_, step, values, options_.threads));
  return place_segment(b, segment);
}

Status ExecContext::check_sizes(const Binding& b, const loop::CheckStep& step) const {
  for (const auto& g : step.guards) AG_TRY_(check_guard(executable_->program_, g, b.env, Code::AG5014));
  return {};
}

/// Gives a segment's temps, growable buffers and outputs their memory.
Status ExecContext::place_segment(Binding& b, std::size_t segment) {
  const auto& p = executable_->program_;
  const auto& members = executable_->segments_[segment + 1];
  auto& s = b.segments[segment];
  const std::int64_t stride = std::max(scratch_stride_, s.scratch_bytes);
  const auto scratch = checked_mul(stride, options_.threads);
  if (!scratch) return fail(Code::AG5008, {}, "the scratch memory of the threads cannot be counted in 64 bits");
  scratch_stride_ = stride;
  AG_TRY_(check_limit(b, 0));
  Arena& arena = *segments_[segment];
  if (!arena.reserve(static_cast<std::size_t>(s.arena_bytes)) || !scratch_.reserve(static_cast<std::size_t>(*scratch)))
    return fail(Code::AG5010, {},
                fmt::format("no memory for {} bytes of temporaries and {} of scratch", s.arena_bytes, *scratch));
  // Offsets may have moved with the sizes; an address that is right already costs a comparison.
  for (std::uint32_t i : members.buffers) {
    const auto& buffer = p.buffers[ProgramBufferId(std::size_t{i})];
    if (buffer.kind == BufferKind::temp && buffer.place == loop::Place::arena &&
        executable_->storage_.home[ProgramBufferId(std::size_t{i})].index == i && b.bytes[i] >= 0)
      b.set_home(*executable_, i, arena.base() + b.offsets[i]);
  }
  for (std::uint32_t i : members.growable)
    if (b.bytes[i] > 0) AG_TRY_(grow(b, i, b.bytes[i]));
  for (std::uint32_t i : members.buffers) {  // aliases of what grows
    const auto home = executable_->storage_.home[ProgramBufferId(std::size_t{i})];
    if (home.index != i && p.buffers[home].place == loop::Place::growable && b.bytes[i] > 0)
      AG_TRY_(grow(b, home.index, b.bytes[i]));
  }
  for (std::uint32_t i : members.outputs) AG_TRY_(place_output(b, i));
  return {};
}

Status ExecContext::place_output(Binding& b, std::uint32_t output) {
  const auto id = executable_->program_.outputs[output];
  const auto& buffer = executable_->program_.buffers[id];
  const std::int64_t bytes = b.bytes[id.index];
  if (bytes < 0) return fail(Code::AG5008, {}, fmt::format("the size of output `{}` cannot be computed", buffer.name));
  if (allocated_) {
    AG_TRY_(check_limit(b, bytes));
    AG_TRY((*allocated_)[output], OwnedArray::allocate(buffer.dtype, b.shapes[id.index]));
    (*views_)[output] = (*allocated_)[output].view();
    output_bytes_ += bytes;
  } else if (!memory_ok(bytes, outputs_[output])) {
    if (outputs_[output].data == nullptr || outputs_[output].bytes >= static_cast<std::size_t>(bytes))
      return check_memory("output", buffer, bytes, outputs_[output]);
    return fail(Code::AG5022, {},
                fmt::format("output `{}` is {}, {} bytes; the array given for it has {}", buffer.name,
                            describe(buffer.dtype, b.shapes[id.index]), bytes, outputs_[output].bytes));
  }
  if (!executable_->storage_.copied[output]) b.set_home(*executable_, id.index, outputs_[output].data);
  return {};
}

Status ExecContext::grow(Binding& b, std::uint32_t buffer, std::int64_t bytes) {
  Arena& memory = *growable_[executable_->growable_of_[buffer]];
  if (static_cast<std::size_t>(bytes) <= memory.capacity()) return {};
  AG_TRY_(check_limit(b, bytes - static_cast<std::int64_t>(memory.capacity())));
  if (!memory.grow(static_cast<std::size_t>(bytes)))
    return fail(Code::AG5010, {}, fmt::format("no memory for {} bytes that a loop gathers", bytes));
  b.set_home(*executable_, buffer, memory.base());
  return {};
}

void ExecContext::swap_memory(Binding& b, const loop::SwapStep& step) {
  void *first = b.home_data[step.a.index], *second = b.home_data[step.b.index];
  b.set_home(*executable_, step.a.index, second);
  b.set_home(*executable_, step.b.index, first);
  if (executable_->program_.buffers[step.a].place == loop::Place::growable)
    std::swap(growable_[executable_->growable_of_[step.a.index]], growable_[executable_->growable_of_[step.b.index]]);
}

Status ExecContext::choose_slot(Binding& b, std::uint32_t number) {
  const loop::SlotStep& step = *executable_->slot_steps_[number];
  const auto& p = executable_->program_;
  const auto of = executable_->storage_.home[step.of].index;
  const auto* index = static_cast<const std::int64_t*>(b.address(executable_->storage_, step.index));
  std::int64_t at = *index;
  const bool first = at == 0;
  if (step.backwards) at = step.count.eval(b.env).value_or(0) - 1 - at;
  const std::int64_t row = b.bytes[step.view.index];
  std::int64_t begin = 0, end = 0;
  if (at < 0 || row < 0 || __builtin_mul_overflow(at, row, &begin) || __builtin_add_overflow(begin, row, &end))
    return fail(Code::AG5014, source_of(p, step.source), fmt::format("part {} of {} bytes cannot be placed", at, row));
  if (p.buffers[ProgramBufferId(std::size_t{of})].place == loop::Place::growable) {
    if (first) row_bytes_[number] = row;
    if (row != row_bytes_[number])
      return fail(Code::AG5014, source_of(p, step.source),
                  fmt::format("values that a loop gathers differ in size: {} bytes, and {} in trip {}",
                              row_bytes_[number], row, *index));
    AG_TRY_(grow(b, of, end));
  } else if (end > b.bytes[of])
    return fail(Code::AG5014, source_of(p, step.source),
                fmt::format("part {} of {} bytes lies outside the {} bytes of `{}`", at, row, b.bytes[of],
                            p.buffers[step.of].name));
  b.set_home(*executable_, step.view.index, static_cast<char*>(b.address(executable_->storage_, step.of)) + begin);
  return {};
}

}  // namespace ag::runtime

#include <fmt/format.h>

#include <algorithm>

#include "ir/loop/interp_machine.hpp"

namespace ag::loop::detail {
namespace {

std::span<const Slot> tail(const std::vector<Slot>& s) { return std::span(s).subspan(1); }
bool independent(Mapping m) {
  return m == Mapping::parallel || m == Mapping::tile || m == Mapping::vector || m == Mapping::rows;
}
/// The body of such a loop still stands for one element, though its step is the width that it will have.
bool to_widen(Mapping m) { return m == Mapping::vector || m == Mapping::rows; }
bool any(const std::vector<std::uint8_t>& mask) { return std::find(mask.begin(), mask.end(), 1) != mask.end(); }
std::uint64_t trip_count(std::int64_t lo, std::int64_t hi, std::int64_t step) {
  if (lo >= hi) return 0;
  return (static_cast<std::uint64_t>(hi) - static_cast<std::uint64_t>(lo) - 1) / static_cast<std::uint64_t>(step) + 1;
}

}  // namespace

/// to[i] = from[i] at once for all i, for the threads of `mask` (null: all). Blocks may yield their own arguments in
/// another order, hence the detour.
void Machine::assign(Control& c, std::span<const Slot> to, std::span<const Slot> from, const std::uint8_t* mask) const {
  if (threads_ == 1 && !mask && to.size() == 1 && to[0].bytes <= 8)
    return copy_element(to[0].data, from[0].data, to[0].bytes);
  std::size_t at = 0;
  const bool detour = to.size() > 1;
  if (detour)
    for (std::size_t i = 0; i < to.size(); ++i) {
      std::size_t n = static_cast<std::size_t>(from[i].bytes) * threads_;
      if (c.temp.size() < at + n) c.temp.resize(at + n);
      std::memcpy(c.temp.data() + at, from[i].data, n);
      at += n;
    }
  at = 0;
  for (std::size_t i = 0; i < to.size(); ++i) {
    const std::size_t bytes = to[i].bytes;
    const std::uint8_t* src = detour ? c.temp.data() + at : from[i].data;
    if (!mask) {
      std::memcpy(to[i].data, src, bytes * threads_);
    } else {
      for (int t = 0; t < threads_; ++t)
        if (mask[t]) std::memcpy(to[i].data + bytes * t, src + bytes * t, bytes);
    }
    at += bytes * threads_;
  }
}

bool Machine::for_serial(const Instr& in) {
  Control& c = code_.controls[in.control];
  BlockCode& body = c.blocks[0];
  std::int64_t lo = as_index(in.in[0].data), hi = as_index(in.in[1].data), step = as_index(in.in[2].data);
  if (to_widen(c.mapping)) step = 1;
  if (c.mapping == Mapping::tile && options_.tile_hi >= 0)
    lo = std::max(lo, options_.tile_lo), hi = std::min(hi, options_.tile_hi);
  if (step <= 0) return fail_at(in, Code::AG5106, fmt::format("the step of a loop is {}", step));
  assign(c, tail(body.args), c.init, nullptr);
  const std::uint64_t trips = trip_count(lo, hi, step);
  const bool strands = independent(c.mapping) && c.init.empty() && trips > 1;
  if (strands) strands_.begin(trips);
  for (std::uint64_t i = 0; i < trips; ++i) {
    const std::uint64_t iv = static_cast<std::uint64_t>(lo) + i * static_cast<std::uint64_t>(step);
    if (strands) strands_.enter(i);
    std::memcpy(body.args[0].data, &iv, 8);
    if (!run_block(body)) return false;
    assign(c, tail(body.args), body.yields, nullptr);
  }
  if (strands) strands_.end();
  assign(c, c.results, tail(body.args), nullptr);
  return true;
}

bool Machine::if_serial(const Instr& in) {
  Control& c = code_.controls[in.control];
  BlockCode& b = c.blocks[*in.in[0].data ? 0 : 1];
  if (!run_block(b)) return false;
  assign(c, c.results, b.yields, nullptr);
  return true;
}

bool Machine::while_serial(const Instr& in) {
  Control& c = code_.controls[in.control];
  BlockCode &cond = c.blocks[0], &body = c.blocks[1];
  assign(c, cond.args, c.init, nullptr);
  for (;;) {
    if (!run_block(cond)) return false;
    if (!*cond.yields[0].data) break;
    assign(c, body.args, tail(cond.yields), nullptr);
    if (!run_block(body)) return false;
    assign(c, cond.args, body.yields, nullptr);
  }
  assign(c, c.results, tail(cond.yields), nullptr);
  return true;
}

/// Runs a block with the threads of `mask` (all bytes 0 or 1, of threads that are active now).
bool Machine::run_masked(const BlockCode& b, const std::vector<std::uint8_t>& mask) {
  const std::uint8_t* saved = active_;
  bool all = std::find(mask.begin(), mask.end(), 0) == mask.end();
  active_ = all ? nullptr : mask.data();
  bool ok = run_block(b);
  active_ = saved;
  return ok;
}

/// Where thread t of a mapped loop begins, and by how many steps it goes on.
std::pair<std::int64_t, std::int64_t> Machine::share(Mapping m, int t) const {
  const std::int64_t bx = k_.block[0], by = k_.block[1];
  switch (m) {
    case Mapping::grid_x: return {block_id_[0], code_.grid[0]};
    case Mapping::grid_y: return {block_id_[1], code_.grid[1]};
    case Mapping::grid_z: return {block_id_[2], code_.grid[2]};
    case Mapping::block_x: return {t % bx, bx};
    case Mapping::block_y: return {t / bx % by, by};
    case Mapping::block_z: return {t / (bx * by), k_.block[2]};
    case Mapping::lane: return {t % 32, 32};
    default: return {0, 1};
  }
}

bool Machine::for_lockstep(const Instr& in) {
  Control& c = code_.controls[in.control];
  BlockCode& body = c.blocks[0];
  for (int t = 0; t < threads_; ++t) {
    auto at = [&](int i) { return as_index(of_thread(in.in[i], t)); };
    auto [first, stride] = share(c.mapping, t);
    std::int64_t step = to_widen(c.mapping) ? 1 : at(2), skip;
    c.mask[t] = is_active(t);
    if (!c.mask[t]) continue;
    if (step <= 0) return fail_at(in, Code::AG5106, fmt::format("the step of a loop is {}", step));
    c.hi[t] = at(1);
    if (__builtin_mul_overflow(step, first, &skip) || __builtin_add_overflow(at(0), skip, &c.iv[t]) ||
        __builtin_mul_overflow(step, stride, &c.step[t]))
      c.mask[t] = 0;
  }
  assign(c, tail(body.args), c.init, active_);
  for (;;) {
    for (int t = 0; t < threads_; ++t) {
      c.mask[t] = c.mask[t] && c.iv[t] < c.hi[t];
      if (c.mask[t]) std::memcpy(body.args[0].data + 8 * t, &c.iv[t], 8);
    }
    if (!any(c.mask)) break;
    if (!run_masked(body, c.mask)) return false;
    assign(c, tail(body.args), body.yields, c.mask.data());
    for (int t = 0; t < threads_; ++t)
      if (c.mask[t] && __builtin_add_overflow(c.iv[t], c.step[t], &c.iv[t])) c.mask[t] = 0;
  }
  assign(c, c.results, tail(body.args), active_);
  return true;
}

bool Machine::if_lockstep(const Instr& in) {
  Control& c = code_.controls[in.control];
  for (int t = 0; t < threads_; ++t) {
    c.mask[t] = is_active(t) && *of_thread(in.in[0], t);
    c.other_mask[t] = is_active(t) && !c.mask[t];
  }
  for (int i = 0; i < 2; ++i) {
    const auto& mask = i == 0 ? c.mask : c.other_mask;
    if (!any(mask)) continue;
    if (!run_masked(c.blocks[i], mask)) return false;
    assign(c, c.results, c.blocks[i].yields, mask.data());
  }
  return true;
}

bool Machine::while_lockstep(const Instr& in) {
  Control& c = code_.controls[in.control];
  BlockCode &cond = c.blocks[0], &body = c.blocks[1];
  for (int t = 0; t < threads_; ++t) c.mask[t] = is_active(t);
  assign(c, cond.args, c.init, active_);
  while (any(c.mask)) {
    if (!run_masked(cond, c.mask)) return false;
    for (int t = 0; t < threads_; ++t) {
      bool goes_on = *of_thread(cond.yields[0], t);
      c.other_mask[t] = c.mask[t] && !goes_on;
      c.mask[t] = c.mask[t] && goes_on;
    }
    assign(c, c.results, tail(cond.yields), c.other_mask.data());
    assign(c, body.args, tail(cond.yields), c.mask.data());
    if (!any(c.mask)) break;
    if (!run_masked(body, c.mask)) return false;
    assign(c, cond.args, body.yields, c.mask.data());
  }
  return true;
}

}  // namespace ag::loop::detail

#include <fmt/format.h>

#include <algorithm>

#include "ir/loop/interp_machine.hpp"

namespace ag::loop::detail {
namespace {

/// Offset in bytes of element (r, l) in a tile that broadcasts to the accessed one.
std::size_t tile_at(const Slot& s, int r, int l, std::size_t size) {
  int rr = s.type.rows == 1 ? 0 : r, ll = s.type.lanes == 1 ? 0 : l;
  return static_cast<std::size_t>(rr * s.type.lanes + ll) * size;
}
bool masked_out(const Instr& in, int t, int r, int l) {
  const Slot& m = in.in[4];
  return m.data && !of_thread(m, t)[tile_at(m, r, l, 1)];
}
auto gather_index(const Instr& in) {
  return [&s = in.in[0]](int t, int r, int l) { return as_index(of_thread(s, t) + tile_at(s, r, l, 8)); };
}
auto tile_index(const Instr& in) {
  return [&in](int t, int r, int l) {
    auto n = [&](int i) { return static_cast<std::uint64_t>(as_index(of_thread(in.in[i], t))); };
    return static_cast<std::int64_t>(n(0) + n(1) * static_cast<std::uint64_t>(r) +
                                     n(2) * static_cast<std::uint64_t>(l));
  };
}

}  // namespace

bool Machine::race(const Instr& in, std::int64_t index, std::string who) {
  return fail_at(in, Code::AG5103,
                 fmt::format("race on element {} of buffer {} between {}", index, buffer_name(in), who));
}

bool Machine::race_serial(const Instr& in, std::int64_t index, std::uint64_t other) {
  auto [a, b] = strands_.find(other);
  return race(in, index, fmt::format("iterations {} and {} of a parallel loop", a, b));
}
bool Machine::uninitialised(const Instr& in, std::int64_t index, std::string_view why) {
  return fail_at(in, Code::AG5102, fmt::format("element {} of buffer {} is read but {}", index, buffer_name(in), why));
}

bool Machine::shadow_read(const Instr& in, const Memory& m, Shadow& s, std::int64_t index) {
  if (s.writer == 0 && m.track_init) return uninitialised(in, index, "nothing has written it");
  const std::uint64_t me = strands_.current();
  if (s.writer != me && strands_.parallel(s.writer)) {
    if (m.is_private) return uninitialised(in, index, "only another iteration of a parallel loop has written it");
    if (options_.detect_races) return race_serial(in, index, s.writer);
  }
  if (s.reader != me && !strands_.parallel(s.reader)) s.reader = me;
  return true;
}
bool Machine::shadow_write(const Instr& in, const Memory& m, Shadow& s, std::int64_t index) {
  const std::uint64_t me = strands_.current();
  if (!m.is_private && options_.detect_races) {
    if (s.writer != me && strands_.parallel(s.writer)) return race_serial(in, index, s.writer);
    if (s.reader != me && strands_.parallel(s.reader)) return race_serial(in, index, s.reader);
  }
  s.writer = me;
  return true;
}

/// Whether an earlier access `s` is unordered with the current thread's.
bool Machine::unordered(std::uint64_t s, int t) const {
  using S = LockstepStamp;
  if (s == 0) return false;
  if (S::seq(s) < block_seq_) return true;
  return S::seq(s) == seq_ && (S::many(s) || S::thread(s) != static_cast<std::uint32_t>(t));
}
bool Machine::race_lockstep(const Instr& in, std::int64_t index, std::uint64_t other, int t) {
  if (LockstepStamp::seq(other) < block_seq_) return race(in, index, "two blocks");
  return race(in, index, fmt::format("threads {} and {} of a block", LockstepStamp::thread(other), t));
}
bool Machine::lockstep_read(const Instr& in, const Memory& m, Shadow& s, std::int64_t index, int t) {
  using S = LockstepStamp;
  // Memory of a block or thread: what an earlier block left there is nothing to this one.
  bool fresh = m.scope != Scope::param && S::seq(s.writer) < block_seq_;
  if (m.track_init && (s.writer == 0 || fresh)) return uninitialised(in, index, "nothing has written it");
  if (m.is_private || !options_.detect_races) return true;
  if (unordered(s.writer, t)) return race_lockstep(in, index, s.writer, t);
  bool foreign = m.scope == Scope::param && s.reader && S::seq(s.reader) < block_seq_;
  if (foreign) return true;  // a reader of another block is unordered with every later writer
  if (S::seq(s.reader) == seq_) {
    if (S::thread(s.reader) != static_cast<std::uint32_t>(t)) s.reader |= 1;
  } else {
    s.reader = S::make(seq_, static_cast<std::uint32_t>(t));
  }
  return true;
}
bool Machine::lockstep_write(const Instr& in, const Memory& m, Shadow& s, std::int64_t index, int t) {
  if (!m.is_private && options_.detect_races) {
    bool fresh = m.scope != Scope::param;
    auto relevant = [&](std::uint64_t x) { return !fresh || LockstepStamp::seq(x) >= block_seq_; };
    if (relevant(s.writer) && unordered(s.writer, t)) return race_lockstep(in, index, s.writer, t);
    if (relevant(s.reader) && unordered(s.reader, t)) return race_lockstep(in, index, s.reader, t);
  }
  s.writer = LockstepStamp::make(seq_, static_cast<std::uint32_t>(t));
  return true;
}

/// Address of an element after all checks; nullptr on error.
template <bool write>
std::uint8_t* Machine::element(const Instr& in, std::int64_t index, int t) {
  const Memory& m = code_.memory[in.buffer];
  if (static_cast<std::uint64_t>(index) >= static_cast<std::uint64_t>(m.elems)) [[unlikely]] {
    fail_at(in, Code::AG5101, fmt::format("element {} of buffer {}, which has {}", index, buffer_name(in), m.elems));
    return nullptr;
  }
  const std::int64_t at = index + t * m.thread_stride;
  if (m.shadow) {
    Shadow& s = m.shadow[at];
    bool ok = code_.lockstep ? (write ? lockstep_write(in, m, s, index, t) : lockstep_read(in, m, s, index, t))
                             : (write ? shadow_write(in, m, s, index) : shadow_read(in, m, s, index));
    if (!ok) [[unlikely]]
      return nullptr;
  }
  return m.data + at * m.elem_bytes;
}

/// Runs access(t, r, l, index) for each active thread and element whose mask is set, skipped(t, r, l) for the others.
template <class Index, class Access, class Skip>
bool Machine::each(const Instr& in, VType shape, Index&& index, Access&& access, Skip&& skipped) {
  for (int t = 0; t < threads_; ++t) {
    if (!is_active(t)) continue;
    for (int r = 0; r < shape.rows; ++r)
      for (int l = 0; l < shape.lanes; ++l) {
        if (masked_out(in, t, r, l))
          skipped(t, r, l);
        else if (!access(t, r, l, index(t, r, l)))
          return false;
      }
  }
  return true;
}
template <class Index>
bool Machine::load_each(const Instr& in, Index&& index) {
  const auto size = code_.memory[in.buffer].elem_bytes;
  auto out = [&](int t, int r, int l) {
    return in.out.data + static_cast<std::size_t>(t) * in.out.bytes +
           static_cast<std::size_t>(r * in.out.type.lanes + l) * size;
  };
  return each(
      in, in.out.type, index,
      [&](int t, int r, int l, std::int64_t i) {
        const std::uint8_t* p = element<false>(in, i, t);
        if (!p) return false;
        copy_element(out(t, r, l), p, size);
        return true;
      },
      [&](int t, int r, int l) { std::memset(out(t, r, l), 0, size); });
}
template <class Index>
bool Machine::store_each(const Instr& in, VType shape, const Slot& value, Index&& index) {
  const auto size = code_.memory[in.buffer].elem_bytes;
  return each(
      in, shape, index,
      [&](int t, int r, int l, std::int64_t i) {
        std::uint8_t* p = element<true>(in, i, t);
        if (!p) return false;
        copy_element(p, of_thread(value, t) + tile_at(value, r, l, size), size);
        return true;
      },
      [](int, int, int) {});
}
bool Machine::load(const Instr& in) {
  if (threads_ == 1 && in.out.type.scalar() && !in.in[4].data) {
    const std::uint8_t* p = element<false>(in, as_index(in.in[0].data), 0);
    if (!p) return false;
    copy_element(in.out.data, p, in.out.bytes);
    return true;
  }
  return load_each(in, gather_index(in));
}
bool Machine::store(const Instr& in) {
  VType shape = in.in[0].type;
  shape.rows = std::max(shape.rows, in.in[1].type.rows), shape.lanes = std::max(shape.lanes, in.in[1].type.lanes);
  return store_each(in, shape, in.in[1], gather_index(in));
}
bool Machine::load_tile(const Instr& in) { return load_rows(in) || load_each(in, tile_index(in)); }
/// The plain case, rows of consecutive elements of memory that is not watched; false if it is not that.
bool Machine::load_rows(const Instr& in) {
  const Memory& m = code_.memory[in.buffer];
  const VType t = in.out.type;
  if (threads_ > 1 || m.shadow || in.in[4].data || as_index(in.in[2].data) != 1) return false;
  const std::int64_t base = as_index(in.in[0].data), stride = as_index(in.in[1].data), last = m.elems - t.lanes;
  for (int r = 0; r < t.rows; ++r) {
    std::int64_t offset, at;
    if (__builtin_mul_overflow(stride, r, &offset) || __builtin_add_overflow(base, offset, &at) || at < 0 || at > last)
      return false;
    const std::size_t bytes = static_cast<std::size_t>(t.lanes) * m.elem_bytes;
    std::memcpy(in.out.data + static_cast<std::size_t>(r) * bytes, m.data + at * m.elem_bytes, bytes);
  }
  return true;
}
bool Machine::store_tile(const Instr& in) { return store_each(in, in.in[3].type, in.in[3], tile_index(in)); }

}  // namespace ag::loop::detail

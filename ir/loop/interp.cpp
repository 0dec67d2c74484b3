#include "ir/loop/interp.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "ir/loop/interp_code.hpp"

namespace ag::loop {
namespace {

using namespace detail;

std::int64_t as_index(const std::uint8_t* p) {
  std::int64_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

void copy_element(std::uint8_t* to, const std::uint8_t* from, std::uint32_t bytes) {
  switch (bytes) {
    case 1:
      *to = *from;
      return;
    case 2:
      std::memcpy(to, from, 2);
      return;
    case 4:
      std::memcpy(to, from, 4);
      return;
    default:
      std::memcpy(to, from, 8);
      return;
  }
}

/// One run. Functions that execute return false after setting `error`.
class Machine {
 public:
  Machine(Decoded& code, const InterpOptions& options)
      : code_(code), k_(*code.kernel), options_(options), steps_(options.max_steps), threads_(code.threads) {}

  Result<TrapRecord> run() {
    if (!code_.lockstep) {
      if (!run_block(code_.top)) return fail(std::move(*error_));
      return trap_;
    }
    for (block_id_[2] = 0; block_id_[2] < code_.grid[2]; ++block_id_[2])
      for (block_id_[1] = 0; block_id_[1] < code_.grid[1]; ++block_id_[1])
        for (block_id_[0] = 0; block_id_[0] < code_.grid[0]; ++block_id_[0]) {
          block_seq_ = ++seq_;
          if (!run_block(code_.top)) return fail(std::move(*error_));
        }
    return trap_;
  }

 private:
  Decoded& code_;
  const Kernel& k_;
  const InterpOptions& options_;
  std::int64_t steps_;
  const int threads_;
  TrapRecord trap_;
  std::optional<Diag> error_;
  // Serial execution.
  Strands strands_;
  // Lockstep execution: null means that all threads are active.
  const std::uint8_t* active_ = nullptr;
  std::array<std::int64_t, 3> block_id_{};
  std::uint64_t seq_ = 0, block_seq_ = 0;  // intervals between barriers; the first one of this block

  bool is_active(int t) const { return !active_ || active_[t]; }
  int active_count() const {
    int n = 0;
    for (int t = 0; t < threads_; ++t) n += is_active(t);
    return n;
  }

  bool fail_at(const Instr& in, Code code, const std::string& what) {
    error_ = error(code, {}, fmt::format("{}: {}", place_of(k_, in.stmt), what));
    error_->note(print_stmt(k_, in.stmt));
    if (code_.lockstep) error_->note(fmt::format("in block ({}, {}, {})", block_id_[0], block_id_[1], block_id_[2]));
    return false;
  }

  bool run_block(const BlockCode& b) {
    steps_ -= b.end - b.begin + 1;
    if (steps_ < 0) {
      error_ = error(Code::AG5105, {},
                     fmt::format("kernel {}: more than {} statements executed", k_.name, options_.max_steps));
      return false;
    }
    for (std::uint32_t i = b.begin; i < b.end; ++i)
      if (!quick(code_.steps[i])) return false;
    return true;
  }

  template <class T>
  static T value(const std::uint8_t* p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  template <class T>
  static bool set(std::uint8_t* p, T v) {
    std::memcpy(p, &v, sizeof v);
    return true;
  }
  bool quick(const Step& s) {
    using U = std::uint64_t;
    switch (s.quick) {
      case Quick::add_i64:
        return set(s.out, value<U>(s.a) + value<U>(s.b));
      case Quick::sub_i64:
        return set(s.out, value<U>(s.a) - value<U>(s.b));
      case Quick::mul_i64:
        return set(s.out, value<U>(s.a) * value<U>(s.b));
      case Quick::add_f32:
        return set(s.out, value<float>(s.a) + value<float>(s.b));
      case Quick::sub_f32:
        return set(s.out, value<float>(s.a) - value<float>(s.b));
      case Quick::mul_f32:
        return set(s.out, value<float>(s.a) * value<float>(s.b));
      case Quick::fma_f32:
        return set(s.out, std::fma(value<float>(s.a), value<float>(s.b), value<float>(s.c)));
      case Quick::load4: {
        const Memory& m = code_.memory[code_.instrs[s.instr].buffer];
        const auto index = value<U>(s.a);
        if (index >= static_cast<U>(m.elems)) [[unlikely]]
          return exec(code_.instrs[s.instr]);  // which says why
        std::memcpy(s.out, m.data + index * 4, 4);
        return true;
      }
      default:
        return exec(code_.instrs[s.instr]);
    }
  }

  bool exec(const Instr& in) {
    switch (in.op) {
      case Op::load:
        return load(in);
      case Op::store:
        return store(in);
      case Op::load_tile:
        return load_tile(in);
      case Op::store_tile:
        return store_tile(in);
      case Op::for_:
        return code_.lockstep ? for_lockstep(in) : for_serial(in);
      case Op::if_:
        return code_.lockstep ? if_lockstep(in) : if_serial(in);
      case Op::while_:
        return code_.lockstep ? while_lockstep(in) : while_serial(in);
      case Op::barrier:
        return barrier(in);
      case Op::poll:
        return true;
      case Op::trap:
        return trap(in);
      case Op::reduce_lanes:
        return reduce_lanes(in), true;
      case Op::reduce_rows:
        return reduce_rows(in), true;
      case Op::contract:
        return contract(in), true;
      case Op::transpose:
        return transpose(in), true;
      case Op::extract:
        return extract(in), true;
      case Op::shuffle_xor:
        return shuffle(in);
      default:
        return elementwise(in.elem), true;
    }
  }

  static void elementwise(const Elementwise& e) {
    if (e.threads == 1 && e.rows == 1) return e.fn(e.args);
    for (int t = 0; t < e.threads; ++t)
      for (int r = 0; r < e.rows; ++r) {
        ElemArgs a = e.args;
        a.out = static_cast<std::uint8_t*>(a.out) + t * e.out_thread + r * e.out_row;
        for (int i = 0; i < e.inputs; ++i)
          a.in[i] = static_cast<const std::uint8_t*>(a.in[i]) + t * e.in_thread[i] + r * e.in_row[i];
        e.fn(a);
      }
  }

  // ---- across a tile ----

  /// Each thread's tile, in the accumulator type: f(thread, input, output), arrays of the accumulator's size.
  static std::size_t acc_bytes(const Instr& in) { return dtype_bytes(accumulator_dtype(in.out.type.elem)); }
  std::vector<std::uint8_t> widened(const Instr& in, const Slot& s, int t) const {
    std::vector<std::uint8_t> out(static_cast<std::size_t>(s.type.count()) * acc_bytes(in));
    in.widen({out.data(), {s.data + static_cast<std::size_t>(t) * s.bytes}, {1}, s.type.count()});
    return out;
  }
  void narrow(const Instr& in, const std::uint8_t* from, int t) const {
    in.narrow({in.out.data + static_cast<std::size_t>(t) * in.out.bytes, {from}, {1}, in.out.type.count()});
  }

  void reduce_lanes(const Instr& in) const {
    const VType it = in.in[0].type;
    const std::size_t size = acc_bytes(in);
    for (int t = 0; t < threads_; ++t) {
      auto x = widened(in, in.in[0], t);
      for (int r = 0; r < it.rows; ++r) {
        std::uint8_t* row = x.data() + static_cast<std::size_t>(r) * it.lanes * size;
        for (std::ptrdiff_t half = it.lanes / 2; half; half /= 2)
          in.combine({row, {row, row + static_cast<std::size_t>(half) * size}, {1, 1}, half});
        std::memmove(x.data() + static_cast<std::size_t>(r) * size, row, size);
      }
      narrow(in, x.data(), t);
    }
  }

  void reduce_rows(const Instr& in) const {
    const VType it = in.in[0].type;
    const std::size_t row_bytes = acc_bytes(in) * it.lanes;
    for (int t = 0; t < threads_; ++t) {
      auto x = widened(in, in.in[0], t);
      for (int r = 1; r < it.rows; ++r)
        in.combine({x.data(), {x.data(), x.data() + static_cast<std::size_t>(r) * row_bytes}, {1, 1}, it.lanes});
      narrow(in, x.data(), t);
    }
  }

  /// out += a * b on rows x cols elements of `size` bytes in the accumulator's type.
  static void contract_rows(const Instr& in, std::uint8_t* out, const std::uint8_t* a, const std::uint8_t* b,
                            std::size_t size) {
    const int rows = in.in[0].type.rows, cols = in.in[0].type.lanes, depth = in.in[1].type.lanes;
    for (int i = 0; i < rows; ++i)
      for (int p = 0; p < depth; ++p) {
        std::uint8_t* row = out + static_cast<std::size_t>(i) * cols * size;
        in.combine(
            {row,
             {a + static_cast<std::size_t>(i * depth + p) * size, b + static_cast<std::size_t>(p) * cols * size, row},
             {0, 1, 1},
             cols});
      }
  }
  void contract(const Instr& in) const {
    const std::size_t size = acc_bytes(in);
    const DType acc_type = accumulator_dtype(in.out.type.elem);
    const bool direct =
        in.out.type.elem == acc_type && in.in[0].type.elem == acc_type && in.in[1].type.elem == acc_type;
    for (int t = 0; t < threads_; ++t) {
      if (direct) {
        std::uint8_t* out = in.out.data + static_cast<std::size_t>(t) * in.out.bytes;
        std::memcpy(out, of_thread(in.in[0], t), in.out.bytes);
        contract_rows(in, out, of_thread(in.in[1], t), of_thread(in.in[2], t), size);
        continue;
      }
      std::vector<std::uint8_t> acc(static_cast<std::size_t>(in.out.type.count()) * size);
      elementwise_fn(Op::cast, acc_type,
                     in.in[0].type.elem)({acc.data(), {of_thread(in.in[0], t)}, {1}, in.out.type.count()});
      auto a = widened(in, in.in[1], t), b = widened(in, in.in[2], t);
      contract_rows(in, acc.data(), a.data(), b.data(), size);
      narrow(in, acc.data(), t);
    }
  }

  /// out (r, l) of thread t = in(element index given by f(r, l)) of thread src(t).
  template <class F>
  void permute(const Instr& in, F&& source) const {
    const auto size = static_cast<std::uint32_t>(dtype_bytes(in.out.type.elem));
    for (int t = 0; t < threads_; ++t)
      for (int r = 0; r < in.out.type.rows; ++r)
        for (int l = 0; l < in.out.type.lanes; ++l)
          copy_element(in.out.data + static_cast<std::size_t>(t) * in.out.bytes +
                           static_cast<std::size_t>(r * in.out.type.lanes + l) * size,
                       in.in[0].data + static_cast<std::size_t>(t) * in.in[0].bytes +
                           static_cast<std::size_t>(source(r, l)) * size,
                       size);
  }
  void transpose(const Instr& in) const {
    permute(in, [lanes = in.in[0].type.lanes](int r, int l) { return l * lanes + r; });
  }
  void extract(const Instr& in) const {
    const int lane = static_cast<int>(k_.stmts[in.stmt].attr.index);
    permute(in, [lanes = in.in[0].type.lanes, lane](int r, int) { return r * lanes + lane; });
  }

  bool shuffle(const Instr& in) {
    const int mask = static_cast<int>(k_.stmts[in.stmt].attr.index);
    for (int t = 0; t < threads_; ++t) {
      if (!is_active(t)) continue;
      int from = (t & ~31) | ((t ^ mask) & 31);
      if (from >= threads_ || !is_active(from))
        return fail_at(in, Code::AG5104, fmt::format("thread {} shuffles with thread {}, which is not there", t, from));
      std::memcpy(in.out.data + static_cast<std::size_t>(t) * in.out.bytes,
                  in.in[0].data + static_cast<std::size_t>(from) * in.in[0].bytes, in.out.bytes);
    }
    return true;
  }

  // ---- memory ----

  bool race(const Instr& in, std::int64_t index, std::string who) {
    return fail_at(in, Code::AG5103,
                   fmt::format("race on element {} of buffer {} between {}", index, buffer_name(in), who));
  }
  const std::string& buffer_name(const Instr& in) const { return k_.buffers[in.buffer].name; }

  bool race_serial(const Instr& in, std::int64_t index, std::uint64_t other) {
    auto [a, b] = strands_.find(other);
    return race(in, index, fmt::format("iterations {} and {} of a parallel loop", a, b));
  }
  bool uninitialised(const Instr& in, std::int64_t index, std::string_view why) {
    return fail_at(in, Code::AG5102,
                   fmt::format("element {} of buffer {} is read but {}", index, buffer_name(in), why));
  }

  bool shadow_read(const Instr& in, const Memory& m, Shadow& s, std::int64_t index) {
    if (s.writer == 0 && m.track_init) return uninitialised(in, index, "nothing has written it");
    const std::uint64_t me = strands_.current();
    if (s.writer != me && strands_.parallel(s.writer)) {
      if (m.is_private) return uninitialised(in, index, "only another iteration of a parallel loop has written it");
      if (options_.detect_races) return race_serial(in, index, s.writer);
    }
    if (s.reader != me && !strands_.parallel(s.reader)) s.reader = me;
    return true;
  }
  bool shadow_write(const Instr& in, const Memory& m, Shadow& s, std::int64_t index) {
    const std::uint64_t me = strands_.current();
    if (!m.is_private && options_.detect_races) {
      if (s.writer != me && strands_.parallel(s.writer)) return race_serial(in, index, s.writer);
      if (s.reader != me && strands_.parallel(s.reader)) return race_serial(in, index, s.reader);
    }
    s.writer = me;
    return true;
  }

  /// Whether an earlier access `s` is unordered with the current thread's.
  bool unordered(std::uint64_t s, int t) const {
    using S = LockstepStamp;
    if (s == 0) return false;
    if (S::seq(s) < block_seq_) return true;
    return S::seq(s) == seq_ && (S::many(s) || S::thread(s) != static_cast<std::uint32_t>(t));
  }
  bool race_lockstep(const Instr& in, std::int64_t index, std::uint64_t other, int t) {
    if (LockstepStamp::seq(other) < block_seq_) return race(in, index, "two blocks");
    return race(in, index, fmt::format("threads {} and {} of a block", LockstepStamp::thread(other), t));
  }
  bool lockstep_read(const Instr& in, const Memory& m, Shadow& s, std::int64_t index, int t) {
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
  bool lockstep_write(const Instr& in, const Memory& m, Shadow& s, std::int64_t index, int t) {
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
  std::uint8_t* element(const Instr& in, std::int64_t index, int t) {
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

  /// Offset in bytes of element (r, l) in a tile that broadcasts to the accessed one.
  static std::size_t tile_at(const Slot& s, int r, int l, std::size_t size) {
    int rr = s.type.rows == 1 ? 0 : r, ll = s.type.lanes == 1 ? 0 : l;
    return static_cast<std::size_t>(rr * s.type.lanes + ll) * size;
  }
  static const std::uint8_t* of_thread(const Slot& s, int t) { return s.data + static_cast<std::size_t>(t) * s.bytes; }
  static bool masked_out(const Instr& in, int t, int r, int l) {
    const Slot& m = in.in[4];
    return m.data && !of_thread(m, t)[tile_at(m, r, l, 1)];
  }

  /// Runs access(t, r, l, index) for each active thread and element whose mask is set, skipped(t, r, l) for the others.
  template <class Index, class Access, class Skip>
  bool each(const Instr& in, VType shape, Index&& index, Access&& access, Skip&& skipped) {
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
  bool load_each(const Instr& in, Index&& index) {
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
  bool store_each(const Instr& in, VType shape, const Slot& value, Index&& index) {
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
  static auto gather_index(const Instr& in) {
    return [&s = in.in[0]](int t, int r, int l) { return as_index(of_thread(s, t) + tile_at(s, r, l, 8)); };
  }
  static auto tile_index(const Instr& in) {
    return [&in](int t, int r, int l) {
      auto n = [&](int i) { return static_cast<std::uint64_t>(as_index(of_thread(in.in[i], t))); };
      return static_cast<std::int64_t>(n(0) + n(1) * static_cast<std::uint64_t>(r) +
                                       n(2) * static_cast<std::uint64_t>(l));
    };
  }
  bool load(const Instr& in) {
    if (threads_ == 1 && in.out.type.scalar() && !in.in[4].data) {
      const std::uint8_t* p = element<false>(in, as_index(in.in[0].data), 0);
      if (!p) return false;
      copy_element(in.out.data, p, in.out.bytes);
      return true;
    }
    return load_each(in, gather_index(in));
  }
  bool store(const Instr& in) {
    VType shape = in.in[0].type;
    shape.rows = std::max(shape.rows, in.in[1].type.rows), shape.lanes = std::max(shape.lanes, in.in[1].type.lanes);
    return store_each(in, shape, in.in[1], gather_index(in));
  }
  bool load_tile(const Instr& in) { return load_rows(in) || load_each(in, tile_index(in)); }
  /// The plain case, rows of consecutive elements of memory that is not watched; false if it is not that.
  bool load_rows(const Instr& in) {
    const Memory& m = code_.memory[in.buffer];
    const VType t = in.out.type;
    if (threads_ > 1 || m.shadow || in.in[4].data || as_index(in.in[2].data) != 1) return false;
    const std::int64_t base = as_index(in.in[0].data), stride = as_index(in.in[1].data), last = m.elems - t.lanes;
    for (int r = 0; r < t.rows; ++r) {
      std::int64_t offset, at;
      if (__builtin_mul_overflow(stride, r, &offset) || __builtin_add_overflow(base, offset, &at) || at < 0 ||
          at > last)
        return false;
      const std::size_t bytes = static_cast<std::size_t>(t.lanes) * m.elem_bytes;
      std::memcpy(in.out.data + static_cast<std::size_t>(r) * bytes, m.data + at * m.elem_bytes, bytes);
    }
    return true;
  }
  bool store_tile(const Instr& in) { return store_each(in, in.in[3].type, in.in[3], tile_index(in)); }

  // ---- control ----

  /// to[i] = from[i] at once for all i, for the threads of `mask` (null: all). Blocks may yield their own arguments in
  /// another order, hence the detour.
  void assign(Control& c, std::span<const Slot> to, std::span<const Slot> from, const std::uint8_t* mask) const {
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
  static std::span<const Slot> tail(const std::vector<Slot>& s) { return std::span(s).subspan(1); }

  static bool independent(Mapping m) {
    return m == Mapping::parallel || m == Mapping::tile || m == Mapping::vector || m == Mapping::rows;
  }
  /// The body of such a loop still stands for one element, though its step is the width that it will have.
  static bool to_widen(Mapping m) { return m == Mapping::vector || m == Mapping::rows; }

  bool for_serial(const Instr& in) {
    Control& c = code_.controls[in.control];
    BlockCode& body = c.blocks[0];
    std::int64_t lo = as_index(in.in[0].data), hi = as_index(in.in[1].data), step = as_index(in.in[2].data);
    if (to_widen(c.mapping)) step = 1;
    if (c.mapping == Mapping::tile && options_.tile_hi >= 0)
      lo = std::max(lo, options_.tile_lo), hi = std::min(hi, options_.tile_hi);
    if (step <= 0) return fail_at(in, Code::AG5106, fmt::format("the step of a loop is {}", step));
    assign(c, tail(body.args), c.init, nullptr);
    const auto trips = lo < hi ? (static_cast<std::uint64_t>(hi) - static_cast<std::uint64_t>(lo) - 1) /
                                         static_cast<std::uint64_t>(step) +
                                     1
                               : 0;
    const bool strands = independent(c.mapping) && c.init.empty() && trips > 1;
    if (strands) strands_.begin(trips);
    for (std::uint64_t i = 0; i < trips; ++i) {
      std::int64_t iv = lo + static_cast<std::int64_t>(i) * step;
      if (strands) strands_.enter(i);
      std::memcpy(body.args[0].data, &iv, 8);
      if (!run_block(body)) return false;
      assign(c, tail(body.args), body.yields, nullptr);
    }
    if (strands) strands_.end();
    assign(c, c.results, tail(body.args), nullptr);
    return true;
  }

  bool if_serial(const Instr& in) {
    Control& c = code_.controls[in.control];
    BlockCode& b = c.blocks[*in.in[0].data ? 0 : 1];
    if (!run_block(b)) return false;
    assign(c, c.results, b.yields, nullptr);
    return true;
  }

  bool while_serial(const Instr& in) {
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
  bool run_masked(const BlockCode& b, const std::vector<std::uint8_t>& mask) {
    const std::uint8_t* saved = active_;
    bool all = std::find(mask.begin(), mask.end(), 0) == mask.end();
    active_ = all ? nullptr : mask.data();
    bool ok = run_block(b);
    active_ = saved;
    return ok;
  }
  static bool any(const std::vector<std::uint8_t>& mask) {
    return std::find(mask.begin(), mask.end(), 1) != mask.end();
  }

  /// Where thread t of a mapped loop begins, and by how many steps it goes on.
  std::pair<std::int64_t, std::int64_t> share(Mapping m, int t) const {
    const std::int64_t bx = k_.block[0], by = k_.block[1];
    switch (m) {
      case Mapping::grid_x:
        return {block_id_[0], code_.grid[0]};
      case Mapping::grid_y:
        return {block_id_[1], code_.grid[1]};
      case Mapping::grid_z:
        return {block_id_[2], code_.grid[2]};
      case Mapping::block_x:
        return {t % bx, bx};
      case Mapping::block_y:
        return {t / bx % by, by};
      case Mapping::block_z:
        return {t / (bx * by), k_.block[2]};
      case Mapping::lane:
        return {t % 32, 32};
      default:
        return {0, 1};
    }
  }

  bool for_lockstep(const Instr& in) {
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

  bool if_lockstep(const Instr& in) {
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

  bool while_lockstep(const Instr& in) {
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

  bool barrier(const Instr& in) {
    if (active_ && active_count() != threads_)
      return fail_at(in, Code::AG5104, fmt::format("{} of {} threads reach the barrier", active_count(), threads_));
    ++seq_;
    return true;
  }

  bool trap(const Instr& in) {
    const Stmt& s = k_.stmts[in.stmt];
    for (int t = 0; t < threads_ && trap_.kind == 0; ++t) {
      if (!is_active(t)) continue;
      const std::uint8_t* c = of_thread(in.in[0], t);
      for (int i = 0; i < in.in[0].type.count() && trap_.kind == 0; ++i) {
        if (!c[i]) continue;
        const Slot& d = in.in[1];
        std::int64_t detail = d.data ? as_index(of_thread(d, t) + (d.type.scalar() ? 0 : std::size_t(i) * 8)) : 0;
        trap_ = {s.attr.index, s.origin, detail};
      }
    }
    return true;
  }
};

}  // namespace

Result<TrapRecord> interpret(const Kernel& kernel, std::span<const BufferView> params,
                             std::span<const std::int64_t> dims, const InterpOptions& options) {
  AG_TRY_(verify(kernel));
  AG_TRY(auto code, detail::decode(kernel, params, dims, options));
  return Machine(*code, options).run();
}

}  // namespace ag::loop

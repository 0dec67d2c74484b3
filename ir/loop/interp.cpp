#include "ir/loop/interp.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "ir/loop/interp_machine.hpp"

namespace ag::loop::detail {
namespace {

template <class T>
T value(const std::uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
bool set(std::uint8_t* p, T v) {
  std::memcpy(p, &v, sizeof v);
  return true;
}

void elementwise(const Elementwise& e) {
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

std::size_t acc_bytes(const Instr& in) { return dtype_bytes(accumulator_dtype(in.out.type.elem)); }

/// out += a * b on rows x cols elements of `size` bytes in the accumulator's type.
void contract_rows(const Instr& in, std::uint8_t* out, const std::uint8_t* a, const std::uint8_t* b, std::size_t size) {
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

}  // namespace

Result<TrapRecord> Machine::run() {
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

int Machine::active_count() const {
  int n = 0;
  for (int t = 0; t < threads_; ++t) n += is_active(t);
  return n;
}

bool Machine::fail_at(const Instr& in, Code code, const std::string& what) {
  error_ = error(code, {}, fmt::format("{}: {}", place_of(k_, in.stmt), what));
  error_->note(print_stmt(k_, in.stmt));
  if (code_.lockstep) error_->note(fmt::format("in block ({}, {}, {})", block_id_[0], block_id_[1], block_id_[2]));
  return false;
}

bool Machine::run_block(const BlockCode& b) {
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

bool Machine::quick(const Step& s) {
  using U = std::uint64_t;
  switch (s.quick) {
    case Quick::add_i64: return set(s.out, value<U>(s.a) + value<U>(s.b));
    case Quick::sub_i64: return set(s.out, value<U>(s.a) - value<U>(s.b));
    case Quick::mul_i64: return set(s.out, value<U>(s.a) * value<U>(s.b));
    case Quick::add_f32: return set(s.out, value<float>(s.a) + value<float>(s.b));
    case Quick::sub_f32: return set(s.out, value<float>(s.a) - value<float>(s.b));
    case Quick::mul_f32: return set(s.out, value<float>(s.a) * value<float>(s.b));
    case Quick::fma_f32: return set(s.out, std::fma(value<float>(s.a), value<float>(s.b), value<float>(s.c)));
    case Quick::load4: {
      const Memory& m = code_.memory[code_.instrs[s.instr].buffer];
      const auto index = value<U>(s.a);
      if (index >= static_cast<U>(m.elems)) [[unlikely]]
        return exec(code_.instrs[s.instr]);  // which says why
      std::memcpy(s.out, m.data + index * 4, 4);
      return true;
    }
    default: return exec(code_.instrs[s.instr]);
  }
}

bool Machine::exec(const Instr& in) {
  switch (in.op) {
    case Op::load: return load(in);
    case Op::store: return store(in);
    case Op::load_tile: return load_tile(in);
    case Op::store_tile: return store_tile(in);
    case Op::for_: return code_.lockstep ? for_lockstep(in) : for_serial(in);
    case Op::if_: return code_.lockstep ? if_lockstep(in) : if_serial(in);
    case Op::while_: return code_.lockstep ? while_lockstep(in) : while_serial(in);
    case Op::barrier: return barrier(in);
    case Op::poll:
    case Op::prefetch: return true;
    case Op::trap: return trap(in);
    case Op::reduce_lanes: return reduce_lanes(in), true;
    case Op::reduce_rows: return reduce_rows(in), true;
    case Op::contract: return contract(in), true;
    case Op::transpose: return transpose(in), true;
    case Op::extract: return extract(in), true;
    case Op::shuffle_xor: return shuffle(in);
    default: return elementwise(in.elem), true;
  }
}

std::vector<std::uint8_t> Machine::widened(const Instr& in, const Slot& s, int t) const {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(s.type.count()) * acc_bytes(in));
  in.widen({out.data(), {s.data + static_cast<std::size_t>(t) * s.bytes}, {1}, s.type.count()});
  return out;
}
void Machine::narrow(const Instr& in, const std::uint8_t* from, int t) const {
  in.narrow({in.out.data + static_cast<std::size_t>(t) * in.out.bytes, {from}, {1}, in.out.type.count()});
}

void Machine::reduce_lanes(const Instr& in) const {
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

void Machine::reduce_rows(const Instr& in) const {
  const VType it = in.in[0].type;
  const std::size_t row_bytes = acc_bytes(in) * it.lanes;
  for (int t = 0; t < threads_; ++t) {
    auto x = widened(in, in.in[0], t);
    for (int r = 1; r < it.rows; ++r)
      in.combine({x.data(), {x.data(), x.data() + static_cast<std::size_t>(r) * row_bytes}, {1, 1}, it.lanes});
    narrow(in, x.data(), t);
  }
}

void Machine::contract(const Instr& in) const {
  const std::size_t size = acc_bytes(in);
  const DType acc_type = accumulator_dtype(in.out.type.elem);
  const bool direct = in.out.type.elem == acc_type && in.in[0].type.elem == acc_type && in.in[1].type.elem == acc_type;
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
void Machine::permute(const Instr& in, F&& source) const {
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
void Machine::transpose(const Instr& in) const {
  permute(in, [lanes = in.in[0].type.lanes](int r, int l) { return l * lanes + r; });
}
void Machine::extract(const Instr& in) const {
  const int lane = static_cast<int>(k_.stmts[in.stmt].attr.index);
  permute(in, [lanes = in.in[0].type.lanes, lane](int r, int) { return r * lanes + lane; });
}

bool Machine::shuffle(const Instr& in) {
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

bool Machine::barrier(const Instr& in) {
  if (active_ && active_count() != threads_)
    return fail_at(in, Code::AG5104, fmt::format("{} of {} threads reach the barrier", active_count(), threads_));
  ++seq_;
  return true;
}

bool Machine::trap(const Instr& in) {
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

}  // namespace ag::loop::detail

namespace ag::loop {

Result<TrapRecord> interpret(const Kernel& kernel, std::span<const BufferView> params,
                             std::span<const std::int64_t> dims, const InterpOptions& options) {
  AG_TRY_(verify(kernel));
  AG_TRY(auto code, detail::decode(kernel, params, dims, options));
  return detail::Machine(*code, options).run();
}

}  // namespace ag::loop

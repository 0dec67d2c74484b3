// A kernel decoded for interpretation: flat arrays of instructions with resolved operand addresses.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "ir/loop/elementwise.hpp"
#include "ir/loop/interp.hpp"
#include "ir/loop/shadow.hpp"

namespace ag::loop::detail {

/// A value's storage: one tile per thread, `bytes` each, threads in ascending order.
struct Slot {
  std::uint8_t* data = nullptr;
  std::uint32_t bytes = 0;
  VType type;
};

/// An elementwise statement as nested loops over threads and rows around calls of `fn` on arrays.
struct Elementwise {
  ElemFn fn = nullptr;
  ElemArgs args;
  int threads = 1, rows = 1, inputs = 0;
  std::ptrdiff_t out_thread = 0, out_row = 0, in_thread[3] = {}, in_row[3] = {};  // bytes
};

struct Instr {
  Op op{};
  StmtId stmt;
  Elementwise elem;
  Slot in[5];  ///< operands in order; a missing mask has data == nullptr
  Slot out;
  std::uint32_t buffer = 0, control = 0;
  ElemFn combine = nullptr;                  ///< reductions, in the accumulator type
  ElemFn widen = nullptr, narrow = nullptr;  ///< to and from the accumulator type
};

struct BlockCode {
  std::uint32_t begin = 0, end = 0;
  std::vector<Slot> args, yields;
};

/// The scalar statements that inner loops consist of, without the detour through Instr.
enum class Quick : std::uint8_t { none, add_i64, sub_i64, mul_i64, add_f32, sub_f32, mul_f32, fma_f32, load4 };
struct Step {
  Quick quick = Quick::none;
  std::uint32_t instr = 0;
  std::uint8_t* out = nullptr;
  const std::uint8_t *a = nullptr, *b = nullptr, *c = nullptr;
};

/// For, While and If. The vectors over threads belong to lockstep execution; no statement is entered again before it
/// has ended, so each can own its own.
struct Control {
  BlockCode blocks[2];
  std::vector<Slot> init, results;
  Mapping mapping = Mapping::serial;
  std::vector<std::int64_t> iv, hi, step;
  std::vector<std::uint8_t> mask, other_mask;
  std::vector<std::uint8_t> temp;
};

/// The memory of a buffer.
struct Memory {
  std::uint8_t* data = nullptr;
  std::int64_t elems = 0;
  std::uint32_t elem_bytes = 0;
  std::int64_t thread_stride = 0;  ///< elements; private memory of lockstep threads
  Shadow* shadow = nullptr;        ///< null: not checked
  bool is_private = false;         ///< local, scratch: of one iteration or thread
  bool track_init = false;
  Scope scope = Scope::param;
};

struct CFree {
  void operator()(void* p) const;
};
template <class T>
using CArray = std::unique_ptr<T[], CFree>;
/// Zeroed, 64-byte aligned enough for vectors, and not touched before use; null if memory is short.
std::uint8_t* zeroed_bytes(std::size_t count, std::size_t size);

struct Decoded {
  const Kernel* kernel = nullptr;
  std::vector<Instr> instrs;
  std::vector<Step> steps;  ///< one per instruction
  std::vector<Control> controls;
  std::vector<Memory> memory;  ///< one per buffer
  BlockCode top;
  int threads = 1;
  bool lockstep = false;
  std::array<std::int64_t, 3> grid{1, 1, 1};
  CArray<std::uint8_t> values;
  std::vector<CArray<std::uint8_t>> owned;  ///< buffers and shadows
};

/// "kernel k0, statement 12 (load, origin 3)".
std::string place_of(const Kernel& kernel, StmtId stmt);

/// Sizes and checks everything; the views must outlive the code.
Result<std::unique_ptr<Decoded>> decode(const Kernel& kernel, std::span<const BufferView> params,
                                        std::span<const std::int64_t> dims, const InterpOptions& options);

}  // namespace ag::loop::detail

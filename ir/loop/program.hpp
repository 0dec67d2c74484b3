// A lowered computation: buffers, kernels, and the structured table of steps that runs them.
// Knows nothing of tensor graphs and nothing of machine code.
#pragma once
#include <memory>
#include <variant>

#include "ir/loop/kernel.hpp"

namespace ag::loop {

using ProgramBufferId = Id<struct ProgramBufferTag>;
using KernelId = Id<struct KernelTag>;

enum class BufferKind : std::uint8_t { input, output, constant, temp, state };

struct ProgramBuffer {
  std::string name;          ///< the graph's name of an input or output; else for dumps
  BufferKind kind = BufferKind::temp;
  DType dtype = DType::f32;
  Dims shape;                ///< of inputs, outputs; element count of temps is product(shape)
  std::uint32_t index = 0;   ///< which input, output or constant
  std::shared_ptr<const void> constant;  ///< constant: the bytes, product(shape) elements
  // Filled by the pass plan_memory for temps. Bytes, 64-aligned.
  Dim offset;
  bool planned = false;
  /// A temp or output that shares an earlier buffer's memory (in place, views).
  ProgramBufferId alias_of;
};

struct KernelCall {
  KernelId kernel;
  std::vector<ProgramBufferId> buffers;  ///< one per parameter buffer
  Dims dims;                             ///< one per Kernel::dims, over the program's symbols
  /// origin id of the kernel's statements -> index into Program::sources, per call: a shared kernel serves many lines.
  std::vector<std::uint32_t> origins;
  std::string label;  ///< for reports: "dot_general+add+gelu"
};

/// A node that the host runs (the engine supplies the function): regions not yet compiled.
struct HostCall {
  std::uint32_t function = 0;  ///< index into the engine's table
  std::vector<ProgramBufferId> inputs, outputs;
  std::string label;
};

struct Step;
struct Seq {
  std::vector<Step> steps;
};
/// Runs `then` or `otherwise` by the first element of a bool buffer.
struct IfStep {
  ProgramBufferId predicate;
  std::shared_ptr<Seq> then, otherwise;
};
/// Runs `cond`, then while the predicate holds `body` and `cond` again.
struct WhileStep {
  ProgramBufferId predicate;
  std::shared_ptr<Seq> cond, body;
};
struct Step {
  std::variant<KernelCall, HostCall, IfStep, WhileStep> value;
};

struct DimSource {  ///< where a symbol's value is read at bind time
  std::string symbol;
  std::uint32_t input = 0, axis = 0;
};
/// A requirement on sizes, checked when inputs are bound; `text` goes into the error.
struct DimGuard {
  Dim lhs, rhs;
  enum class Rel : std::uint8_t { eq, le, divides } rel = Rel::eq;
  std::string text;
};

struct Program {
  std::string name;
  std::string stage = "lower";  ///< the last stage reached
  IdMap<ProgramBufferId, ProgramBuffer> buffers;
  std::vector<ProgramBufferId> inputs, outputs;
  IdMap<KernelId, Kernel> kernels;
  Seq body;
  std::vector<DimSource> dim_sources;
  std::vector<DimGuard> guards;
  std::vector<Loc> sources;  ///< places that origins point to
  Dim arena_bytes;  ///< after plan_memory
  Dim scratch_bytes;  ///< per thread: the largest Scope::scratch need of a kernel
};

/// Kernels, references, types and numbers of arguments. (AG1806, and what verify(Kernel) finds.)
Status verify(const Program& program, bool mapped = false);
/// The whole program as text, constants in base64; print(parse(print(p))) == print(p).
std::string print(const Program& program);
Result<Program> parse_program(std::string_view text, std::string file = "<text>");

}  // namespace ag::loop

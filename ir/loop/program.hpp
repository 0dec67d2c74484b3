// A lowered computation: buffers, kernels, and the structured table of steps that runs them.
// Knows nothing of tensor graphs and nothing of machine code.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <variant>

#include "ir/loop/kernel.hpp"

namespace ag::loop {

using ProgramBufferId = Id<struct ProgramBufferTag>;
using KernelId = Id<struct KernelTag>;
using SegmentId = Id<struct SegmentTag>;

enum class BufferKind : std::uint8_t { input, output, constant, temp, state };

/// Where a temp's memory comes from.
enum class Place : std::uint8_t {
  arena,     ///< an offset in the arena of its segment
  growable,  ///< memory of its own that keeps its contents when it grows: what a loop carries or gathers
  slot       ///< a part of another buffer, which a SlotStep chooses
};

struct ProgramBuffer {
  std::string name;          ///< the graph's name of an input or output; else for dumps
  BufferKind kind = BufferKind::temp;
  DType dtype = DType::f32;
  Dims shape;                ///< of inputs, outputs; element count of temps is product(shape)
  std::uint32_t index = 0;   ///< which input, output or constant
  std::shared_ptr<const void> constant;  ///< constant: the bytes, product(shape) elements
  Place place = Place::arena;
  // Bytes. plan_memory gives temps their places, 64-aligned, in the arena of their segment; of an alias: see below.
  Dim offset;
  bool planned = false;
  /// A state whose axes lie in another order than its owner sees them: axis i of the owner's is axes[i] of `shape`.
  std::vector<std::int64_t> axes;
  /// A buffer that shares the memory of another, from byte `offset` on: in place, views, parts of a whole.
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
/// The symbols of a segment get the values of the first elements of an i64 buffer, or of expressions over sizes known
/// by now (its own former values among them); then everything whose sizes are known by them is bound: buffers, kernels,
/// memory. Binding equal values again costs next to nothing.
struct BindStep {
  SegmentId segment;
  ProgramBufferId values;  ///< or, if invalid,
  Dims exprs;  ///< one per symbol
  std::uint32_t source = 0;  ///< 1 + index into Program::sources; 0: none
  std::string label;
};
/// Two temps of equal size exchange their memory, and with it their values.
struct SwapStep {
  ProgramBufferId a, b;
};
/// `view` (Place::slot) becomes part number index[0] of `of`, parts of the view's size lying one after the other;
/// counted from the end, count - 1 - index[0], if `backwards`. A growable `of` is made large enough first.
struct SlotStep {
  ProgramBufferId view, of, index;
  bool backwards = false;
  Dim count;
  std::uint32_t source = 0;  ///< as in BindStep
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
  std::uint32_t source = 0;  ///< 1 + index into Program::sources; 0: none
};

/// Requirements of a branch or a loop's body: checked where they stand, since it may never run.
struct CheckStep {
  std::vector<DimGuard> guards;
};
struct Step {
  std::variant<KernelCall, HostCall, IfStep, WhileStep, BindStep, SwapStep, SlotStep, CheckStep> value;
};

/// Sizes that become known together while the program runs. A buffer, kernel call or guard belongs to the last segment
/// that has one of its symbols; without any to the program itself, whose sizes the inputs tell.
struct Segment {
  std::vector<std::string> symbols;
  std::vector<DimGuard> guards;
  Dim arena_bytes, scratch_bytes;  ///< after plan_memory
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
  IdMap<SegmentId, Segment> segments;  ///< in the order in which they are first bound
  std::vector<Loc> sources;  ///< places that origins point to
  Dim arena_bytes;  ///< after plan_memory
  Dim scratch_bytes;  ///< per thread: the largest Scope::scratch need of a kernel
};

/// 1 + the index of the last segment that has one of the symbols; 0: only inputs tell them.
class SegmentIndex {
 public:
  explicit SegmentIndex(const Program& program);
  std::size_t of(const Dim& d) const;
  std::size_t of(const Dims& dims) const;

 private:
  std::map<std::string, std::size_t, std::less<>> segment_of_;
};

/// f(step) for every step, those nested in others included, in the order of the text.
void for_each_step(const Seq& seq, const std::function<void(const Step&)>& f);

/// Kernels, references, types and numbers of arguments. (AG1806, and what verify(Kernel) finds.)
Status verify(const Program& program, bool mapped = false);
/// The whole program as text, constants in base64; print(parse(print(p))) == print(p).
std::string print(const Program& program);
Result<Program> parse_program(std::string_view text, std::string file = "<text>");

}  // namespace ag::loop

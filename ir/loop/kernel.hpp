// The loop IR: structured, imperative kernels over flat buffers.
//
// A Kernel is what one machine-code function or one PTX entry computes: parameters, local buffers and a tree
// of blocks of SSA statements. Control flow is structured (For, While, If) and carries values. A
// value is a tile of rows x lanes elements held in registers; 1 x 1 is a scalar, 1 x L a vector.
//
// Semantics shared by the interpreter, the CPU and PTX (the one table; reliability.md rows 29-33):
//  * Float add, sub, mul, div, sqrt, fma: IEEE 754, round to nearest even, subnormals kept. f16 and bf16
//    values are rounded after every statement (computed in f32).
//  * min, max: a NaN operand gives NaN; -0 < +0. Comparisons with NaN are false, cmp_ne is true.
//  * Integers wrap. div and rem truncate; x div 0 = 0, x rem 0 = x, INT_MIN div -1 = INT_MIN, rem 0.
//    (An op that must report division by zero emits a `trap` beside it.) abs(INT_MIN) = INT_MIN.
//  * shl, shr by a count outside [0, bits) give 0 (shr of a negative signed value: -1).
//  * cast float -> int truncates and saturates, NaN gives 0; int -> int wraps; to bool: x != 0 (NaN: true);
//    to float rounds to nearest even once.
//  * select does not evaluate lazily; it picks bits, so a NaN in the lane not taken does not leak.
//  * reduce_lanes over C lanes: halves are combined (l with l + C/2) until one is left; C is a power of two.
//  * Masked loads give 0 where the mask is false, and do not touch memory there; nor do masked stores. A mask,
//    an index tile and a stored value have exactly the access's shape (`broadcast` makes them so).
//  * prefetch asks for the cache line of an element that will be read soon. It is a hint: it reads nothing, changes
//    nothing, and its index is not checked, so that it may run past the end of the buffer. In a widened loop it asks
//    for the lines of all rows and lanes. On a GPU it is dropped.
//  * A nontemporal store is one whose elements nobody reads soon: it should not push others out of the caches. A hint,
//    for whole aligned lines; where the kernel ends the elements are stored as any others are.
//  * Conditions of if_, while_ and trap, bounds of loops, bases and strides are scalars.
//
// Mapping. Lowering emits schedule-free loops: `serial` where order matters, `parallel` where iterations are
// independent. Scheduling passes re-map them (see Mapping). On a CPU, at most one top-level `tile` loop splits
// the kernel over calls k(args, tile_lo, tile_hi). On a GPU loops are bound to grid, block and lane.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ir/base/diag.hpp"
#include "ir/base/dim.hpp"
#include "ir/base/dtype.hpp"
#include "ir/base/ids.hpp"

namespace ag::loop {

using ValueId = Id<struct LoopValueTag>;
using StmtId = Id<struct LoopStmtTag>;
using BlockId = Id<struct LoopBlockTag>;
using BufferId = Id<struct LoopBufferTag>;

enum class Op : std::uint8_t {
#define AG_LOOP_OP(name, operands, cls) name,
#include "ir/loop/ops.def"
#undef AG_LOOP_OP
};
enum class OpClass : std::uint8_t { leaf, unary, binary, compare, ternary, math, lanes, memory, control, sync };
struct OpDesc {
  std::string_view name;
  int operands;
  OpClass cls;
};
const OpDesc& describe(Op op);

/// The type of a value: a tile of rows x lanes elements.
struct VType {
  DType elem = DType::f32;
  std::uint16_t rows = 1, lanes = 1;
  bool scalar() const { return rows == 1 && lanes == 1; }
  int count() const { return rows * lanes; }
  VType with(DType e) const { return {e, rows, lanes}; }
  bool operator==(const VType&) const = default;
};
inline constexpr VType index_type{DType::i64, 1, 1};

enum class ReduceKind : std::uint8_t { sum, prod, min, max, and_, or_ };
/// The identity of a reduction in `t`: bits of the element, see constant_bits().
std::uint64_t reduce_identity(ReduceKind kind, DType t);
Op reduce_op(ReduceKind kind);

/// How a For runs.
enum class Mapping : std::uint8_t {
  serial,    ///< in order; may carry values
  parallel,  ///< not yet scheduled; iterations are independent, nothing is carried
  tile,      ///< CPU: the kernel's tile range; iv in [tile_lo, tile_hi); top level, step 1
  vector,    ///< to be widened to lanes by the pass vectorise; may carry reductions. Step = width, but the body
             ///< stands for one element: until it is widened, iv takes every value in [lo, hi)
  rows,      ///< to be widened to rows by the pass vectorise; steps like `vector`
  unrolled,  ///< constant bounds; emitted unrolled
  // GPU: iv goes from lo + step * own index on by step * number of them, while below hi; all threads in lockstep, so a
  // barrier inside is allowed only if every thread makes the same trips.
  grid_x,
  grid_y,
  grid_z,  ///< index and number of the block
  block_x,
  block_y,
  block_z,  ///< of the thread in its block
  lane,  ///< of the lane in its warp (32; lanes are consecutive threads, x fastest)
};
std::string_view mapping_name(Mapping m);

/// What a loop ranges over, stated by lowering for scheduling. Scheduling may ignore it.
enum class AxisRole : std::uint8_t { none, batch, row, col, reduce };

/// Numbers of a statement beyond its operands; which apply depends on the op.
struct Attr {
  std::uint64_t imm = 0;  ///< constant: bits of the element, zero-extended
  std::uint32_t index = 0;  ///< dim, extract, shuffle_xor, trap; prefetch: cache level
  BufferId buffer;  ///< load, store, load_tile, store_tile, prefetch
  ReduceKind reduce = ReduceKind::sum;  ///< reduce_lanes, reduce_rows
  Mapping mapping = Mapping::serial;  ///< for_
  AxisRole role = AxisRole::none;  ///< for_
  std::uint16_t width = 0;  ///< for_ mapped to vector or rows: number of lanes or rows
  std::uint16_t unroll = 0;  ///< for_ mapped to vector: accumulators of a reduction (0 = 1), combined in a tree
  bool reassociate = false;  ///< for_: carried values are reductions whose order the schedule fixes
  bool nontemporal = false;  ///< store, store_tile: around the caches, see above
  bool operator==(const Attr&) const = default;
};

struct Stmt {
  Op op;
  Attr attr;
  std::vector<ValueId> operands;
  std::vector<BlockId> blocks;
  std::vector<ValueId> results;
  std::uint32_t origin = 0;  ///< 0 = none, else 1 + index into Kernel::origins
};

struct Block {
  std::vector<ValueId> args;
  std::vector<StmtId> stmts;  ///< the last one is `yield` (the kernel's top block has none)
};

struct Value {
  VType type;
  StmtId def;  ///< the statement, or
  BlockId block;  ///< the block whose argument this is
  std::uint32_t result = 0;
};

enum class Scope : std::uint8_t {
  param,  ///< passed by the caller
  local,  ///< registers or stack: small, of one iteration; constant size
  scratch,  ///< of one thread, in cache; from the context's arena; uninitialised at each tile
  shared,  ///< GPU shared memory of the block
};
enum class Access : std::uint8_t { read, write, read_write };

struct Buffer {
  std::string name;  ///< for dumps only: b0, b1, ...
  DType dtype = DType::f32;
  Scope scope = Scope::param;
  Access access = Access::read;
  Dim elems;  ///< number of elements, over Kernel::dims
  bool noalias = true;
};

/// A function from buffers and sizes to buffers. Parameter buffers come first in `buffers`.
struct Kernel {
  std::string name;  ///< k<index> or a hint; no user text
  std::vector<Buffer> buffers;
  std::vector<std::string> dims;  ///< symbols passed as i64, in order: d0, d1, ...
  Dim tiles = 1;  ///< trip count of the `tile` loop, over `dims`; 1 without one
  std::array<Dim, 3> grid{1, 1, 1};  ///< GPU launch, over `dims`
  std::array<std::uint32_t, 3> block{1, 1, 1};
  Dim flops, bytes;  ///< estimates over `dims`, for threading decisions and reports

  IdMap<ValueId, Value> values;
  IdMap<StmtId, Stmt> stmts;
  IdMap<BlockId, Block> blocks;  ///< blocks[0] is the top block
  std::vector<std::uint32_t> origins;  ///< statement origins: ids that the engine maps to sources

  std::size_t param_count() const;
  const VType& type(ValueId v) const { return values[v].type; }
  BlockId top() const { return BlockId(std::size_t{0}); }
};

/// Bits of a number as an element of type t (rounded, wrapped or saturated as `cast` does), zero-extended.
std::uint64_t constant_bits(DType t, double v);
std::uint64_t constant_bits(DType t, std::int64_t v);
double bits_to_double(DType t, std::uint64_t bits);
std::int64_t bits_to_int(DType t, std::uint64_t bits);

/// Checks every structural and type rule, and that values dominate their uses. `mapped`: also that no
/// parallel, vector or rows loop is left, as emitters require.
Status verify(const Kernel& kernel, bool mapped = false);

/// The text form; values are numbered in the order of the text, so print(parse(print(k))) == print(k).
std::string print(const Kernel& kernel);
std::string print(const VType& type);  ///< "f32", "f32<6x64>"
/// A constant's text: shortest round-trip decimal; bits in hexadecimal where decimals would lose some (NaN payloads).
std::string print_bits(DType t, std::uint64_t bits);
/// The text of one statement without its nested blocks, for messages; values are numbered by id.
std::string print_stmt(const Kernel& kernel, StmtId stmt);
/// Parses and verifies. Errors have places in the text.
Result<Kernel> parse_kernel(std::string_view text, std::string file = "<text>");

/// 128-bit hash of everything that determines the machine code: not names, not origin ids, not estimates. (The
/// local origin numbers of traps count, because emitted code stores them.)
std::array<std::uint64_t, 2> structural_hash(const Kernel& kernel);

}  // namespace ag::loop

// The op table: everything ag knows about an operation, in one record. Tables, docs, JSON checks, tests and
// fuzzers enumerate it; no other file switches on an op.
//
// Two tiers. A primitive has evaluation, a derivative rule, and a lowering. A composite (an ONNX op, a norm, a
// loss) has a decomposition; it may override the derivative. How to add an op: ir/README.md.
//
// Elementwise primitives broadcast their operands as numpy does and need equal dtypes (select's condition aside).
#pragma once
#include <functional>
#include <span>
#include <unordered_map>

#include "ir/builder.hpp"
#include "ir/graph.hpp"
#include "ir/loop/builder.hpp"

namespace ag {

enum class Tier : std::uint8_t { primitive, composite };

/// How a primitive is lowered: one of about ten schemes (passes/lower), not one per op.
enum class LowerClass : std::uint8_t {
  none,         ///< composites; control ops that the host runs
  source,       ///< input, constant
  map,          ///< elementwise: `scalar`
  index,        ///< movement, gather, iota: `element`
  reduce,       ///< `reduce`
  contraction,  ///< `contraction`
  scatter,      ///< `scatter` dimension numbers
  cumulative,
  window,
  sort,
  control,      ///< regions
};

// ---- What operands and attributes look like; drives import, checks, literals and docs ---------------------

struct DTypeSet {
  std::uint32_t bits = 0;
  constexpr bool has(DType t) const { return bits >> static_cast<int>(t) & 1u; }
  constexpr DTypeSet operator|(DTypeSet o) const { return {bits | o.bits}; }
};
constexpr DTypeSet set_of(DType t) { return {1u << static_cast<int>(t)}; }
inline constexpr DTypeSet floats{0b0000000001111}, ints{0b0111111110000}, signed_ints{0b0000011110000},
    unsigned_ints{0b0111100000000}, bools{0b1000000000000}, numeric{0b0111111111111}, any_dtype{0b1111111111111},
    signed_numeric{0b0000011111111};

struct OperandSpec {
  std::string_view name;
  std::string_view type_var =
      "T";   ///< operands with the same variable have the same dtype; literals take it; empty: any dtype each
  DTypeSet dtypes = any_dtype;
  bool optional = false;
  bool variadic = false;             ///< the last one; one or more
  bool constant_ints = false;        ///< its elements should be known at compile time (axes, shapes)
};
struct ResultSpec {
  std::string_view name;
  std::string_view type_var = "T";
  bool optional = false;
  bool variadic = false;
};
struct AttrSpec {
  std::string_view name;
  AttrKind kind;
  bool required = false;
  std::string_view doc = {};
  std::optional<AttrValue> fallback = {};   ///< the default; none if the op computes it
  std::vector<std::string_view> choices = {};  ///< allowed strings
};
struct RegionSpec {
  std::string_view name;             ///< "body", "then_branch"
};

// ---- Rules ------------------------------------------------------------------------------------------------

/// What a type rule sees. Errors are returned through error(): the primary span is the node, each operand that
/// is named gets a secondary one at its definition.
class InferCtx {
 public:
  InferCtx(const Graph& graph, const OpInfo& op, std::span<const ValueId> operands, const Attrs& attrs,
           std::span<const GraphPtr> regions, std::span<const Loc> locs)
      : graph_(graph), op_(op), operands_(operands), attrs_(attrs), regions_(regions), locs_(locs) {}
  std::size_t operand_count() const { return operands_.size(); }
  bool has(std::size_t i) const { return i < operands_.size() && operands_[i].valid(); }
  ValueId operand(std::size_t i) const { return operands_[i]; }
  const Type& in(std::size_t i) const { return graph_.type(operands_[i]); }
  const Attrs& attrs() const { return attrs_; }
  const Graph& graph() const { return graph_; }
  const OpInfo& op() const { return op_; }
  std::span<const GraphPtr> regions() const { return regions_; }
  /// The elements of an integer operand, as far as they are known at compile time.
  std::optional<Dims> ints(std::size_t i) const;
  /// The literal if operand i is a constant.
  const Literal* literal(std::size_t i) const;
  /// A symbol for a size that only the data knows; the same index gives the same name again, another node another.
  Dim unbacked(std::size_t index) const;
  std::unexpected<Diags> error(Code code, std::string message, std::string label = {},
                               std::initializer_list<std::size_t> operands = {}) const;

 private:
  const Graph& graph_;
  const OpInfo& op_;
  std::span<const ValueId> operands_;
  const Attrs& attrs_;
  std::span<const GraphPtr> regions_;
  std::span<const Loc> locs_;
};

/// What reference evaluation sees: concrete arrays.
struct EvalCtx {
  NodeView node;
  std::span<const Array> in;                         ///< one per operand (an empty Array for an omitted one)
  std::vector<std::vector<std::int64_t>> out_shapes; ///< concrete; empty where only the data determines it
  const DimEnv& dims;                                ///< values of all symbols
  const InterpretOptions& options;
  /// Runs a region of the node on these inputs.
  std::function<Result<std::vector<Array>>(const Graph& region, std::span<const Array> inputs)> run;
  std::optional<std::int64_t> value(const Dim& d) const { return d.eval(dims); }
  /// An error at this node: "`name` message".
  std::unexpected<Diags> error(Code code, std::string message) const;
};

/// Emits element `index` of a node's result; passes/lower implements it. `operand(i, idx)` is element idx of operand
/// i: a load, or the producer's own element if it is fused. Indices are i64, one per dim of the operand.
class ElementCtx {
 public:
  virtual ~ElementCtx() = default;
  virtual loop::Builder& b() = 0;
  virtual NodeView node() const = 0;
  virtual loop::ValueId operand(std::size_t i, std::span<const loop::ValueId> index) = 0;
  /// Traps (run-time error at this node's place) if cond holds.
  virtual void trap(loop::ValueId cond, std::uint32_t kind, loop::ValueId detail) = 0;
};

struct ReduceDesc {
  loop::ReduceKind kind;
  std::vector<int> axes;      ///< sorted
};
struct ContractionDesc {      ///< result dims: batch..., lhs free..., rhs free...
  std::vector<int> lhs_batch, rhs_batch, lhs_contract, rhs_contract;
};

/// Cotangents in, gradients of operands out; an invalid id means zero (nothing is built for it).
using Cotangents = std::span<const ValueId>;
using Grads = std::vector<ValueId>;  ///< one per operand, invalid at first

enum class Linearity : std::uint8_t {
  none,
  each,   ///< linear in each argument of `linear_in` apart (dot_general): tangents add up one argument at a time
  joint,  ///< linear in all arguments of `linear_in` together (concat, add)
};

/// A case for machine-made tests: operand types (or a literal for constant operands) and attributes.
struct OpSample {
  struct Operand {
    Type type;
    LiteralPtr literal;      ///< set: this very constant
    double low = -2, high = 2;  ///< range of random values (inclusive for integers)
  };
  std::vector<Operand> operands;
  Attrs attrs;
};

/// What a batching rule (vmap) sees: operands of one more axis, in front, where `batched`; the others as they are.
struct BatchArgs {
  std::span<const ValueId> operands;
  const std::vector<bool>& batched;
  Dim size;                        ///< of the batch axis
};

struct OpInfo {
  std::string_view name;           ///< text form: "tanh", "MatMul"; unique
  std::string_view onnx = {};      ///< ONNX's op_type if nodes of that type import as this op
  std::string_view domain = {};    ///< "" or "ag"
  int since = 1, until = 1 << 20;  ///< opsets of that spelling
  Tier tier = Tier::primitive;
  LowerClass lower_class = LowerClass::none;
  std::string_view summary = {};
  std::vector<OperandSpec> operands = {};
  std::vector<ResultSpec> results = {{"y"}};
  std::vector<AttrSpec> attrs = {};
  std::vector<RegionSpec> regions = {};

  /// Types of the results. Checks everything that is not already in the specs (dtype variables are).
  Result<std::vector<Type>> (*infer)(const InferCtx&) = nullptr;
  /// Elements of an integer result in terms of known operands (shape arithmetic); nullptr if it never is known.
  std::optional<Dims> (*known_ints)(const NodeView&) = nullptr;
  /// Reference values. Null for composites and for maps (they run `scalar` through the loop interpreter's ops).
  Result<std::vector<Array>> (*eval)(const EvalCtx&) = nullptr;
  /// Composites: the results, in terms of primitives and other composites.
  std::vector<ValueId> (*decompose)(GraphBuilder&, const NodeView&) = nullptr;

  // The derivative, stated once. Exactly one of: partials, transpose with linearity, vjp, zero_gradient,
  // no_gradient (a reason); composites may state none and are differentiated through their decomposition.
  /// Elementwise: d[i] = dy/dx_i elementwise (broadcastable to the result), invalid for zero.
  void (*partials)(GraphBuilder&, const NodeView&, Grads& d) = nullptr;
  Linearity linearity = Linearity::none;
  std::uint32_t linear_in = 0;     ///< bit i: operand i; bit 31: all from the last spec on (variadic)
  /// Linear ops: the cotangent of operand i from that of the result.
  ValueId (*transpose)(GraphBuilder&, const NodeView&, std::size_t i, ValueId ct) = nullptr;
  void (*vjp)(GraphBuilder&, const NodeView&, Cotangents ct, Grads& grads) = nullptr;
  void (*jvp)(GraphBuilder&, const NodeView&, Cotangents tangents, std::vector<ValueId>& out) = nullptr;
  bool zero_gradient = false;      ///< stop_gradient, floor, comparisons: cuts the path silently
  std::string_view no_gradient = {};
  bool unbounded_derivative = false;  ///< log, sqrt, div, pow: under a select the cotangent masks the product
  bool guards_lanes = false;   ///< select, Relu, Clip: its cotangents are zero in the lanes not taken
  bool smooth = true;              ///< second derivatives are tested

  /// The op on a batch: results with the batch axis in front. Elementwise ops and composites need none.
  std::vector<ValueId> (*batch)(GraphBuilder&, const NodeView&, const BatchArgs&) = nullptr;

  // Lowering, by lower_class.
  loop::ValueId (*scalar)(loop::Builder&, const NodeView&, std::span<const loop::ValueId> operands) = nullptr;
  loop::ValueId (*element)(ElementCtx&, std::span<const loop::ValueId> index) = nullptr;
  bool inlined = false;  ///< index class: a mere index map (transpose, slice, iota), recomputed where it is used
  ReduceDesc (*reduce)(const NodeView&) = nullptr;
  ContractionDesc (*contraction)(const NodeView&) = nullptr;
  int cost = 1;  ///< of a map, in units of an addition: decides recompute or store

  std::vector<OpSample> (*samples)() = nullptr;  ///< for tests; elementwise ops get theirs from low/high below
  double low = -2, high = 2;  ///< elementwise: safe inputs

  bool differentiable() const {
    return partials || transpose || vjp || zero_gradient || (no_gradient.empty() && tier == Tier::composite);
  }
};

class OpTable {
 public:
  explicit OpTable(std::vector<OpInfo> ops);
  const std::vector<OpInfo>& all() const { return ops_; }
  const OpInfo* find(std::string_view name) const;  ///< by text name
  /// The op that an ONNX (or `ag` domain) node of this type and opset imports as.
  const OpInfo* find_onnx(std::string_view domain, std::string_view type, int opset) const;
  std::vector<std::string> onnx_names(std::string_view domain) const;  ///< for suggestions
  std::vector<std::string> names() const;  ///< of the text form, for suggestions

 private:
  std::vector<OpInfo> ops_;
  std::unordered_map<std::string_view, std::size_t> by_name_;
  std::unordered_multimap<std::string_view, std::size_t> by_onnx_;
};
const OpTable& op_table();
const OpInfo& op(std::string_view name);  ///< must exist

}  // namespace ag

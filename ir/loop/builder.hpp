// Typed construction of kernels. The builder folds constants and trivial index arithmetic as it goes
// (x+0, x*1, constant operands; integers only, so float bits are never touched), and reuses equal pure
// statements (and loads from parameters that the kernel only reads) of the block and the blocks around it, so
// that lowering code can be plain. Misuse (wrong types, wrong nesting) is an internal error.
#pragma once
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>

#include "ir/loop/kernel.hpp"

namespace ag::loop {

struct ForOptions {
  Mapping mapping = Mapping::serial;
  AxisRole role = AxisRole::none;
  std::uint16_t width = 0;
  bool reassociate = false;
  std::uint16_t unroll = 0;
};

class Builder {
 public:
  explicit Builder(std::string name);
  explicit Builder(Kernel kernel);            ///< goes on at the end of the top block
  Builder(Builder&&) noexcept;
  Builder& operator=(Builder&&) noexcept;
  ~Builder();

  BufferId param(DType t, Dim elems, Access access);
  BufferId alloc(DType t, Dim elems, Scope scope);  ///< at any time; parameters must all come before
  ValueId dim_param(const std::string& symbol);  ///< declares it on first use
  /// The value of an expression over symbols: emitted index arithmetic (symbols become dim parameters).
  ValueId dim(const Dim& d);

  ValueId constant(DType t, double v);
  ValueId constant_int(DType t, std::int64_t v);
  ValueId index(std::int64_t v) { return constant_int(DType::i64, v); }
  ValueId constant_bits(VType t, std::uint64_t bits);

  /// Any pure elementwise or lane op; the result's rows and lanes are those of the broadcast operands.
  ValueId op(Op op, std::initializer_list<ValueId> operands);
  ValueId op(Op op, std::span<const ValueId> operands);
  ValueId add(ValueId a, ValueId b) { return op(Op::add, {a, b}); }
  ValueId sub(ValueId a, ValueId b) { return op(Op::sub, {a, b}); }
  ValueId mul(ValueId a, ValueId b) { return op(Op::mul, {a, b}); }
  ValueId cast(ValueId a, DType t);  ///< `a` itself if it has that type
  ValueId bitcast(ValueId a, DType t);
  ValueId select(ValueId c, ValueId a, ValueId b) { return op(Op::select, {c, a, b}); }
  ValueId lane_iota(DType t, int lanes);
  ValueId row_iota(DType t, int rows);
  ValueId broadcast(ValueId a, int rows, int lanes);
  ValueId reduce_lanes(ReduceKind kind, ValueId a);
  ValueId reduce_rows(ReduceKind kind, ValueId a);
  ValueId extract(ValueId a, int lane);
  ValueId shuffle_xor(ValueId a, int mask);

  ValueId load(BufferId b, ValueId index, ValueId mask = {});
  void store(BufferId b, ValueId index, ValueId value, ValueId mask = {});
  ValueId load_tile(BufferId b, VType type, ValueId base, ValueId row_stride, ValueId lane_stride, ValueId mask = {});
  void store_tile(BufferId b, ValueId base, ValueId row_stride, ValueId lane_stride, ValueId value, ValueId mask = {});

  /// Asks for the line of an element to be brought into the cache of this level, 1 to 3; a hint without bounds.
  void prefetch(BufferId b, ValueId index, std::uint32_t level = 1);

  /// for iv in [lo, hi) by step; `body(iv, carried)` returns the next carried values. Returns the final ones.
  using Values = std::vector<ValueId>;
  Values for_(ValueId lo, ValueId hi, ValueId step, ForOptions options, Values init,
              const std::function<Values(ValueId iv, const Values& carried)>& body);
  /// Without carried values, by step 1.
  void for_each(ValueId extent, ForOptions options, const std::function<void(ValueId iv)>& body);
  Values if_(ValueId cond, const std::function<Values()>& then, const std::function<Values()>& otherwise);
  Values while_(Values init, const std::function<std::pair<ValueId, Values>(const Values&)>& cond,
                const std::function<Values(const Values&)>& body);
  void barrier();
  void poll();
  void trap(ValueId cond, std::uint32_t kind, ValueId detail = {});

  /// A statement without nested blocks like `s` of `from`, with these operands: its op, attributes and result types.
  Values repeat(const Kernel& from, const Stmt& s, std::span<const ValueId> operands);
  /// From now on pure elementwise statements go to the outermost block that they can be moved to without leaving an
  /// `if`: loop invariants are computed before the loop.
  void hoist_invariants(bool on) { hoist_ = on; }

  void set_origin(std::uint32_t origin);  ///< of the statements that follow (an engine's id, 0 = none)
  const VType& type(ValueId v) const { return kernel_.type(v); }
  /// The constant's value if `v` is a constant integer.
  std::optional<std::int64_t> int_value(ValueId v) const;
  Kernel& kernel() { return kernel_; }
  const Kernel& kernel() const { return kernel_; }
  Kernel finish() &&;

 private:
  Kernel kernel_;
  BlockId block_;
  std::uint32_t origin_ = 0;
  bool hoist_ = false;
  struct Memo;
  std::unique_ptr<Memo> memo_;  ///< pure statements of the open blocks

  ValueId emit(Stmt stmt, VType type);
  Values emit(Stmt stmt, const std::vector<VType>& types, BlockId block);
  Values emit(Stmt stmt, const std::vector<VType>& types) { return emit(std::move(stmt), types, block_); }
  StmtId append(Stmt stmt, BlockId block);
  StmtId append(Stmt stmt) { return append(std::move(stmt), block_); }
  std::size_t home(const Stmt& stmt) const;
  BlockId open(const std::vector<VType>& args, bool loop);
  void close(BlockId outer, const Values& yielded);
  std::optional<std::uint64_t> splat(ValueId v) const;
  ValueId fold(Op op, VType type, std::span<const ValueId> operands);
  ValueId fold_binary(Op op, VType type, ValueId a, ValueId b);
  ValueId factor_value(const Dim::Factor& factor);
};

}  // namespace ag::loop

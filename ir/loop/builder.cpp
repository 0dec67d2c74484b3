#include "ir/loop/builder.hpp"

#include <algorithm>
#include <unordered_map>

#include "ir/base/small_float.hpp"
#include "ir/loop/fold.hpp"

namespace ag::loop {
namespace {

struct Key {
  Op op;
  VType type;
  Attr attr;
  std::vector<ValueId> operands;
  bool operator==(const Key&) const = default;
};
struct KeyHash {
  std::size_t operator()(const Key& k) const {
    std::size_t h = static_cast<std::size_t>(k.op);
    auto mix = [&h](std::size_t v) { h = (h ^ v) * 0x9e3779b97f4a7c15u + (h >> 29); };
    mix(static_cast<std::size_t>(k.type.elem) | std::size_t{k.type.rows} << 8 | std::size_t{k.type.lanes} << 24);
    mix(k.attr.imm), mix(k.attr.index), mix(k.attr.buffer.index);
    for (ValueId v : k.operands) mix(v.index);
    return h;
  }
};

std::uint16_t wider(std::uint16_t a, std::uint16_t b) {
  AG_CHECK(a == b || a == 1 || b == 1, "tile shapes that do not broadcast");
  return std::max(a, b);
}

}  // namespace

/// The open blocks, the outermost first, each with its pure statements by what they compute.
struct Builder::Memo {
  struct Scope {
    BlockId block;
    bool loop = false;  ///< body of a loop: invariants may leave it
    std::unordered_map<Key, ValueId, KeyHash> values;
  };
  std::vector<Scope> scopes{1};
  std::vector<std::uint32_t> levels;  ///< of each value: the open block that defines it; 0 if not known

  ValueId find(const Key& key) const {
    for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope)
      if (auto it = scope->values.find(key); it != scope->values.end()) return it->second;
    return {};
  }
  std::uint32_t level(ValueId v) const { return v.index < levels.size() ? levels[v.index] : 0; }
  std::uint32_t level(BlockId b) const {
    auto i = scopes.size();
    while (i > 1 && scopes[i - 1].block != b) --i;
    return static_cast<std::uint32_t>(i - 1);
  }
  void set_level(ValueId v, std::uint32_t level) {
    if (level > 0) levels.resize(std::max<std::size_t>(levels.size(), v.index + 1)), levels[v.index] = level;
  }
};

Builder::Builder(std::string name) : memo_(std::make_unique<Memo>()) {
  kernel_.name = std::move(name);
  block_ = kernel_.blocks.push({});
  memo_->scopes[0].block = block_;
}

Builder::Builder(Kernel kernel) : kernel_(std::move(kernel)), memo_(std::make_unique<Memo>()) {
  if (kernel_.blocks.size() == 0) kernel_.blocks.push({});
  block_ = kernel_.top();
  memo_->scopes[0].block = block_;
}

Builder::Builder(Builder&&) noexcept = default;
Builder& Builder::operator=(Builder&&) noexcept = default;
Builder::~Builder() = default;

Kernel Builder::finish() && {
  AG_CHECK(memo_->scopes.size() == 1, "a kernel finished inside a nested block");
  return std::move(kernel_);
}

// Buffers and sizes.

BufferId Builder::param(DType t, Dim elems, Access access) {
  AG_CHECK(kernel_.param_count() == kernel_.buffers.size(), "parameters come before local buffers");
  std::size_t id = kernel_.buffers.size();
  kernel_.buffers.push_back({"b" + std::to_string(id), element_dtype(t), Scope::param, access, std::move(elems), true});
  return BufferId(id);
}

BufferId Builder::alloc(DType t, Dim elems, Scope scope) {
  AG_CHECK(scope != Scope::param, "use param()");
  std::size_t id = kernel_.buffers.size();
  kernel_.buffers.push_back(
      {"b" + std::to_string(id), element_dtype(t), scope, Access::read_write, std::move(elems), true});
  return BufferId(id);
}

ValueId Builder::dim_param(const std::string& symbol) {
  auto& dims = kernel_.dims;
  auto it = std::find(dims.begin(), dims.end(), symbol);
  Stmt s{Op::dim};
  s.attr.index = static_cast<std::uint32_t>(it - dims.begin());
  if (it == dims.end()) dims.push_back(symbol);
  return emit(std::move(s), index_type);
}

ValueId Builder::dim(const Dim& d) {
  AG_CHECK(d.valid(), "an invalid size");
  ValueId sum = index(0);
  for (const Dim::Term& term : d.terms()) {
    ValueId product = index(1);
    for (const Dim::Factor& f : term.factors) product = mul(product, factor_value(f));
    sum = add(sum, mul(product, index(term.coeff)));
  }
  return sum;
}

ValueId Builder::factor_value(const Dim::Factor& f) {
  if (f.kind == Dim::Atom::symbol) return dim_param(f.name);
  ValueId a = dim(f.args[0]), b = dim(f.args[1]);
  auto power = int_value(b);
  bool power_of_two = power && *power > 0 && (*power & (*power - 1)) == 0;
  switch (f.kind) {
    case Dim::Atom::min: return op(Op::min, {a, b});
    case Dim::Atom::max: return op(Op::max, {a, b});
    case Dim::Atom::bcast: return select(op(Op::cmp_eq, {a, index(1)}), b, a);
    case Dim::Atom::floordiv: {
      if (power_of_two) return op(Op::shr, {a, index(__builtin_ctzll(static_cast<std::uint64_t>(*power)))});
      // One less where the division was inexact and the signs differ.
      ValueId r = op(Op::rem, {a, b});
      ValueId inexact = op(Op::cmp_ne, {r, index(0)});
      ValueId negative = op(Op::cmp_lt, {op(Op::xor_, {r, b}), index(0)});
      return sub(op(Op::div, {a, b}), cast(op(Op::and_, {inexact, negative}), DType::i64));
    }
    default: {
      if (power_of_two) return op(Op::and_, {a, index(*power - 1)});
      ValueId r = op(Op::rem, {a, b});
      ValueId inexact = op(Op::cmp_ne, {r, index(0)});
      ValueId negative = op(Op::cmp_lt, {op(Op::xor_, {r, b}), index(0)});
      return add(r, select(op(Op::and_, {inexact, negative}), b, index(0)));
    }
  }
}

// Values.

ValueId Builder::constant(DType t, double v) {
  if (is_storage(t))
    return constant_int(DType::u8, is_storage_float(t) ? encode_float(t, v, true, ScaleRounding::nearest)
                                                       : encode_int(t, static_cast<int>(v)));
  return constant_bits({t, 1, 1}, loop::constant_bits(t, v));
}
ValueId Builder::constant_int(DType t, std::int64_t v) {
  if (is_storage(t)) return constant(t, static_cast<double>(v));
  return constant_bits({t, 1, 1}, loop::constant_bits(t, v));
}

ValueId Builder::constant_bits(VType t, std::uint64_t bits) {
  Stmt s{Op::constant};
  s.attr.imm = bits;
  return emit(std::move(s), t.with(element_dtype(t.elem)));
}

ValueId Builder::op(Op op, std::initializer_list<ValueId> operands) {
  return this->op(op, std::span<const ValueId>(operands.begin(), operands.size()));
}

ValueId Builder::op(Op op, std::span<const ValueId> operands) {
  const OpDesc& desc = describe(op);
  AG_CHECK(static_cast<int>(operands.size()) == desc.operands, "wrong number of operands");
  VType t = type(operands[op == Op::select ? 1 : 0]);
  if (op == Op::transpose) {
    std::swap(t.rows, t.lanes);
  } else if (op != Op::contract) {
    AG_CHECK(is_elementwise(desc.cls), "op() builds elementwise statements, transpose and contract");
    for (ValueId v : operands) t.rows = wider(t.rows, type(v).rows), t.lanes = wider(t.lanes, type(v).lanes);
    if (desc.cls == OpClass::compare) t.elem = DType::boolean;
    if (ValueId folded = fold(op, t, operands)) return folded;
    if (op == Op::add && hoist_ && t.elem == index_type.elem) {
      // x + (y + i), where a loop gives i, is (x + y) + i: the sum x + y leaves the loop. Exact, because integers wrap.
      ValueId x = operands[0], sum = operands[1];
      if (memo_->level(x) > memo_->level(sum)) std::swap(x, sum);
      const StmtId def = kernel_.values[sum].def;
      const auto level = memo_->level(sum);
      if (def && kernel_.stmts[def].op == Op::add) {
        const Values parts = kernel_.stmts[def].operands;
        for (std::size_t known : {0u, 1u})
          if (home(Stmt{Op::add, {}, {x, parts[known]}}) < level) return add(add(x, parts[known]), parts[1 - known]);
      }
    }
  }
  Stmt s{op};
  s.operands.assign(operands.begin(), operands.end());
  return emit(std::move(s), t);
}

ValueId Builder::cast(ValueId a, DType t) {
  VType from = type(a);
  t = element_dtype(t);
  if (from.elem == t) return a;
  if (auto c = splat(a))
    if (auto bits = fold_int(Op::cast, t, from.elem, std::array{*c})) return constant_bits(from.with(t), *bits);
  Stmt s{Op::cast, {}, {a}};
  return emit(std::move(s), from.with(t));
}

ValueId Builder::bitcast(ValueId a, DType t) {
  AG_CHECK(dtype_bytes(t) == dtype_bytes(type(a).elem), "bitcast between different sizes");
  return type(a).elem == t ? a : emit(Stmt{Op::bitcast, {}, {a}}, type(a).with(t));
}

ValueId Builder::lane_iota(DType t, int lanes) {
  return emit(Stmt{Op::lane_iota}, VType{t, 1, static_cast<std::uint16_t>(lanes)});
}
ValueId Builder::row_iota(DType t, int rows) {
  return emit(Stmt{Op::row_iota}, VType{t, static_cast<std::uint16_t>(rows), 1});
}

ValueId Builder::broadcast(ValueId a, int rows, int lanes) {
  VType t{type(a).elem, static_cast<std::uint16_t>(rows), static_cast<std::uint16_t>(lanes)};
  AG_CHECK((type(a).rows == rows || type(a).rows == 1) && (type(a).lanes == lanes || type(a).lanes == 1));
  if (t == type(a)) return a;
  if (auto c = splat(a)) return constant_bits(t, *c);
  return emit(Stmt{Op::broadcast, {}, {a}}, t);
}

ValueId Builder::reduce_lanes(ReduceKind kind, ValueId a) {
  VType t = type(a);
  if (t.lanes == 1) return a;
  Stmt s{Op::reduce_lanes, {}, {a}};
  s.attr.reduce = kind;
  return emit(std::move(s), {t.elem, t.rows, 1});
}

ValueId Builder::reduce_rows(ReduceKind kind, ValueId a) {
  VType t = type(a);
  if (t.rows == 1) return a;
  Stmt s{Op::reduce_rows, {}, {a}};
  s.attr.reduce = kind;
  return emit(std::move(s), {t.elem, 1, t.lanes});
}

ValueId Builder::extract(ValueId a, int lane) {
  AG_CHECK(lane >= 0 && lane < type(a).lanes);
  if (type(a).lanes == 1) return a;
  Stmt s{Op::extract, {}, {a}};
  s.attr.index = static_cast<std::uint32_t>(lane);
  return emit(std::move(s), {type(a).elem, type(a).rows, 1});
}

ValueId Builder::shuffle_xor(ValueId a, int mask) {
  Stmt s{Op::shuffle_xor, {}, {a}};
  s.attr.index = static_cast<std::uint32_t>(mask);
  return emit(std::move(s), type(a));
}

// Memory.

ValueId Builder::load(BufferId b, ValueId index, ValueId mask) {
  Stmt s{Op::load, {}, {index}};
  s.attr.buffer = b;
  if (mask) s.operands.push_back(mask);
  return emit(std::move(s), type(index).with(kernel_.buffers[b.index].dtype));
}

void Builder::store(BufferId b, ValueId index, ValueId value, ValueId mask) {
  Stmt s{Op::store, {}, {index, value}};
  s.attr.buffer = b;
  if (mask) s.operands.push_back(mask);
  append(std::move(s));
}

ValueId Builder::load_tile(BufferId b, VType t, ValueId base, ValueId row_stride, ValueId lane_stride, ValueId mask) {
  Stmt s{Op::load_tile, {}, {base, row_stride, lane_stride}};
  s.attr.buffer = b;
  if (mask) s.operands.push_back(mask);
  return emit(std::move(s), t.with(element_dtype(t.elem)));
}

void Builder::store_tile(BufferId b, ValueId base, ValueId row_stride, ValueId lane_stride, ValueId value,
                         ValueId mask) {
  Stmt s{Op::store_tile, {}, {base, row_stride, lane_stride, value}};
  s.attr.buffer = b;
  if (mask) s.operands.push_back(mask);
  append(std::move(s));
}

void Builder::prefetch(BufferId b, ValueId index, std::uint32_t level) {
  Stmt s{Op::prefetch, {}, {index}};
  s.attr.buffer = b;
  s.attr.index = level;
  append(std::move(s));
}

// Control.

BlockId Builder::open(const std::vector<VType>& args, bool loop) {
  BlockId id = kernel_.blocks.push({});
  block_ = id;
  memo_->scopes.push_back({id, loop, {}});
  for (std::size_t i = 0; i < args.size(); ++i) {
    ValueId v = kernel_.values.push({args[i], {}, id, static_cast<std::uint32_t>(i)});
    kernel_.blocks[id].args.push_back(v);
    memo_->set_level(v, static_cast<std::uint32_t>(memo_->scopes.size() - 1));
  }
  return id;
}

void Builder::close(BlockId outer, const Values& yielded) {
  append(Stmt{Op::yield, {}, yielded});
  block_ = outer;
  memo_->scopes.pop_back();
}

Builder::Values Builder::for_(ValueId lo, ValueId hi, ValueId step, ForOptions options, Values init,
                              const std::function<Values(ValueId iv, const Values& carried)>& body) {
  std::vector<VType> types;
  for (ValueId v : init) types.push_back(type(v));
  std::vector<VType> args = types;
  args.insert(args.begin(), index_type);
  BlockId outer = block_, inner = open(args, true);
  const Values& block_args = kernel_.blocks[inner].args;
  Values carried(block_args.begin() + 1, block_args.end());
  ValueId iv = block_args[0];
  Values next = body(iv, carried);
  AG_CHECK(next.size() == init.size(), "a loop yields another number of values than it carries");
  close(outer, next);
  Stmt s{Op::for_, {}, {lo, hi, step}, {inner}};
  s.attr.mapping = options.mapping, s.attr.role = options.role, s.attr.width = options.width;
  s.attr.reassociate = options.reassociate, s.attr.unroll = options.unroll;
  s.operands.insert(s.operands.end(), init.begin(), init.end());
  return emit(std::move(s), types);
}

void Builder::for_each(ValueId extent, ForOptions options, const std::function<void(ValueId iv)>& body) {
  for_(index(0), extent, index(1), options, {}, [&](ValueId iv, const Values&) {
    body(iv);
    return Values{};
  });
}

Builder::Values Builder::if_(ValueId cond, const std::function<Values()>& then,
                             const std::function<Values()>& otherwise) {
  BlockId outer = block_;
  BlockId b0 = open({}, false);
  Values v0 = then ? then() : Values{};
  close(outer, v0);
  BlockId b1 = open({}, false);
  Values v1 = otherwise ? otherwise() : Values{};
  close(outer, v1);
  AG_CHECK(v0.size() == v1.size(), "the branches of an if yield different numbers of values");
  std::vector<VType> types;
  for (ValueId v : v0) types.push_back(type(v));
  return emit(Stmt{Op::if_, {}, {cond}, {b0, b1}}, types);
}

Builder::Values Builder::while_(Values init, const std::function<std::pair<ValueId, Values>(const Values&)>& cond,
                                const std::function<Values(const Values&)>& body) {
  std::vector<VType> types, passed;
  for (ValueId v : init) types.push_back(type(v));
  BlockId outer = block_;
  BlockId b0 = open(types, true);
  auto [predicate, values] = cond(Values(kernel_.blocks[b0].args));
  for (ValueId v : values) passed.push_back(type(v));
  Values yielded{predicate};
  yielded.insert(yielded.end(), values.begin(), values.end());
  close(outer, yielded);
  BlockId b1 = open(passed, true);
  Values next = body(Values(kernel_.blocks[b1].args));
  close(outer, next);
  return emit(Stmt{Op::while_, {}, std::move(init), {b0, b1}}, passed);
}

void Builder::barrier() { append(Stmt{Op::barrier}); }
void Builder::poll() { append(Stmt{Op::poll}); }

void Builder::trap(ValueId cond, std::uint32_t kind, ValueId detail) {
  Stmt s{Op::trap, {}, {cond}};
  s.attr.index = kind;
  if (detail) s.operands.push_back(detail);
  append(std::move(s));
}

void Builder::set_origin(std::uint32_t origin) {
  origin_ = 0;
  if (origin == 0) return;
  auto& table = kernel_.origins;
  auto it = std::find(table.begin(), table.end(), origin);
  origin_ = 1 + static_cast<std::uint32_t>(it - table.begin());
  if (it == table.end()) table.push_back(origin);
}

// Emission and folding.

StmtId Builder::append(Stmt stmt, BlockId block) {
  for (ValueId v : stmt.operands) AG_CHECK(kernel_.values.contains(v), "an operand that is no value");
  stmt.origin = origin_;
  StmtId id = kernel_.stmts.push(std::move(stmt));
  kernel_.blocks[block].stmts.push_back(id);
  return id;
}

Builder::Values Builder::emit(Stmt stmt, const std::vector<VType>& types, BlockId block) {
  StmtId id = append(std::move(stmt), block);
  std::uint32_t level = memo_->level(block);
  Values results;
  for (std::size_t i = 0; i < types.size(); ++i) {
    results.push_back(kernel_.values.push({types[i], id, {}, static_cast<std::uint32_t>(i)}));
    memo_->set_level(results.back(), level);
  }
  kernel_.stmts[id].results = results;
  return results;
}

/// Index of the open block where a pure statement goes.
std::size_t Builder::home(const Stmt& stmt) const {
  std::size_t here = memo_->scopes.size() - 1;
  OpClass cls = describe(stmt.op).cls;
  if (!hoist_ || !(is_elementwise(cls) || cls == OpClass::leaf || stmt.op == Op::broadcast)) return here;
  std::size_t deepest = 0;
  for (ValueId v : stmt.operands) deepest = std::max<std::size_t>(deepest, memo_->level(v));
  while (here > deepest && memo_->scopes[here].loop) --here;
  return here;
}

ValueId Builder::emit(Stmt stmt, VType t) {
  auto constant_param = [&](BufferId b) {
    const Buffer& buffer = kernel_.buffers[b.index];
    return buffer.scope == Scope::param && buffer.access == Access::read && buffer.noalias;
  };
  bool pure = is_pure(describe(stmt.op).cls) && stmt.op != Op::shuffle_xor;
  if (stmt.op == Op::load || stmt.op == Op::load_tile) pure = constant_param(stmt.attr.buffer);
  if (!pure) return emit(std::move(stmt), std::vector{t})[0];
  Key key{stmt.op, t, stmt.attr, stmt.operands};
  if (ValueId found = memo_->find(key)) return found;
  Memo::Scope& scope = memo_->scopes[home(stmt)];
  ValueId v = emit(std::move(stmt), std::vector{t}, scope.block)[0];
  scope.values.emplace(std::move(key), v);
  return v;
}

Builder::Values Builder::repeat(const Kernel& from, const Stmt& s, std::span<const ValueId> operands) {
  AG_CHECK(s.blocks.empty(), "repeat() is for statements without nested blocks");
  if (is_elementwise(describe(s.op).cls) && s.op != Op::cast && s.op != Op::bitcast) return {op(s.op, operands)};
  std::vector<VType> types;
  for (ValueId v : s.results) types.push_back(from.type(v));
  Stmt copy{s.op, s.attr, Values(operands.begin(), operands.end())};
  return types.size() == 1 ? Values{emit(std::move(copy), types[0])} : emit(std::move(copy), types);
}

std::optional<std::uint64_t> Builder::splat(ValueId v) const {
  StmtId def = kernel_.values[v].def;
  if (!def || kernel_.stmts[def].op != Op::constant) return std::nullopt;
  return kernel_.stmts[def].attr.imm;
}

std::optional<std::int64_t> Builder::int_value(ValueId v) const {
  auto bits = splat(v);
  if (!bits || is_float(type(v).elem)) return std::nullopt;
  return bits_to_int(type(v).elem, *bits);
}

ValueId Builder::fold(Op op, VType t, std::span<const ValueId> operands) {
  DType operand = type(operands.back()).elem;
  if (op == Op::select) {
    auto as_result = [&](ValueId v) { return type(v) == t ? v : ValueId{}; };
    if (operands[1] == operands[2]) return as_result(operands[1]);
    if (auto c = splat(operands[0])) return as_result(operands[*c ? 1 : 2]);
  }
  if (is_float(operand) || is_float(t.elem)) return {};
  std::vector<std::uint64_t> bits;
  for (ValueId v : operands)
    if (auto c = splat(v)) bits.push_back(*c);
  if (bits.size() == operands.size())
    if (auto r = fold_int(op, t.elem, operand, bits)) return constant_bits(t, *r);
  return operands.size() == 2 ? fold_binary(op, t, operands[0], operands[1]) : ValueId{};
}

ValueId Builder::fold_binary(Op op, VType t, ValueId a, ValueId b) {
  auto ca = int_value(a), cb = int_value(b);
  if (ca && !cb && is_commutative_int(op)) return this->op(op, {b, a});
  if (a == b && type(a) == t) {
    if (op == Op::sub || op == Op::xor_) return constant_bits(t, 0);
    if (op == Op::min || op == Op::max || op == Op::and_ || op == Op::or_) return a;
  }
  if (a == b && describe(op).cls == OpClass::compare)
    return constant_bits(t, op == Op::cmp_eq || op == Op::cmp_le || op == Op::cmp_ge);
  if (!cb) return {};
  bool zero = *cb == 0, one = *cb == 1, is_bool = type(b).elem == DType::boolean;
  bool all_ones = is_bool ? one : loop::constant_bits(type(b).elem, std::int64_t{-1}) == *splat(b);
  if (type(a) == t) {
    if (zero && (op == Op::add || op == Op::sub || op == Op::or_ || op == Op::xor_ || op == Op::shl || op == Op::shr))
      return a;
    if (one && (op == Op::mul || op == Op::div)) return a;
    if (all_ones && op == Op::and_) return a;
  }
  if (zero && (op == Op::mul || op == Op::and_)) return constant_bits(t, 0);
  if (one && op == Op::rem) return constant_bits(t, 0);
  if (all_ones && op == Op::or_) return constant_bits(t, *splat(b));
  if (op == Op::sub) return add(a, constant_bits(type(b), *fold_int(Op::neg, t.elem, t.elem, std::array{*splat(b)})));
  // (x op c1) op c2 = x op (c1 op c2): exact in wrapping arithmetic.
  StmtId def = kernel_.values[a].def;
  if (op != Op::add && op != Op::mul && op != Op::and_ && op != Op::or_) return {};
  if (!def || kernel_.stmts[def].op != op || type(a) != t) return {};
  ValueId x = kernel_.stmts[def].operands[0], c = kernel_.stmts[def].operands[1];
  if (!splat(c)) return {};
  return this->op(op, {x, this->op(op, {c, b})});
}

}  // namespace ag::loop

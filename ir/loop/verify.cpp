#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "ir/loop/elementwise.hpp"
#include "ir/loop/fold.hpp"
#include "ir/loop/text.hpp"

namespace ag::loop {
namespace {

/// Which element types an elementwise op takes.
bool element_ok(Op op, DType t) {
  OpClass c = describe(op).cls;
  if (c == OpClass::math) return is_float(t);
  if (c == OpClass::compare || op == Op::cast || op == Op::bitcast || op == Op::select) return true;
  return elementwise_fn(op, t, t) != nullptr;  // the interpreter's table is the table
}

class Verifier {
 public:
  Verifier(const Kernel& k, bool mapped)
      : k_(k),
        mapped_(mapped),
        visible_(k.values.size(), 0),
        seen_blocks_(k.blocks.size(), 0),
        seen_stmts_(k.stmts.size(), 0) {}

  std::optional<Finding> run() {
    if (k_.blocks.size() == 0) {
      fail(Code::AG1803, "the kernel has no top block");
    } else if (buffers() && k_.blocks[k_.top()].args.empty()) {
      seen_blocks_[k_.top()] = 1;
      block(k_.top(), 0);
    } else if (!found_) {
      fail(Code::AG1803, "the top block takes no arguments");
    }
    return std::move(found_);
  }

 private:
  const Kernel& k_;
  bool mapped_;
  std::optional<Finding> found_;
  StmtId at_;
  IdMap<ValueId, char> visible_;
  IdMap<BlockId, char> seen_blocks_;
  IdMap<StmtId, char> seen_stmts_;
  int tile_loops_ = 0;

  bool fail(Code code, std::string message) {
    if (!found_) found_ = Finding{at_, code, std::move(message)};
    return false;
  }
  template <class... Args>
  bool check(bool ok, Code code, fmt::format_string<Args...> format, Args&&... args) {
    return ok || fail(code, fmt::format(format, std::forward<Args>(args)...));
  }

  bool size_ok(const Dim& d) {
    if (!check(d.valid(), Code::AG1805, "a size overflows")) return false;
    std::set<std::string> symbols;
    d.collect_symbols(symbols);
    for (const std::string& s : symbols)
      if (!check(std::find(k_.dims.begin(), k_.dims.end(), s) != k_.dims.end(), Code::AG1801,
                 "size symbol `{}` is not in the kernel's dims", s))
        return false;
    return true;
  }

  bool buffers() {
    std::size_t params = k_.param_count();
    for (std::size_t i = 0; i < k_.buffers.size(); ++i) {
      const Buffer& b = k_.buffers[i];
      if (!size_ok(b.elems)) return false;
      if (!check(i < params || b.scope != Scope::param, Code::AG1805, "parameter b{} follows a local buffer", i))
        return false;
      if (!check(!b.elems.is_const() || b.elems.value() >= 0, Code::AG1805, "buffer b{} has a negative size", i))
        return false;
      bool fixed = b.scope != Scope::local && b.scope != Scope::shared;
      if (!check(fixed || b.elems.is_const(), Code::AG1805, "local buffer b{} must have a constant size", i))
        return false;
    }
    return size_ok(k_.tiles) && size_ok(k_.flops) && size_ok(k_.bytes) &&
           std::all_of(k_.grid.begin(), k_.grid.end(), [&](const Dim& d) { return size_ok(d); });
  }

  bool define(ValueId v) {
    visible_[v] = 1;
    return true;
  }

  bool block(BlockId id, int nesting) {
    if (!check(nesting <= max_nesting, Code::AG1803, "blocks nest deeper than {}", max_nesting)) return false;
    const Block& b = k_.blocks[id];
    for (std::size_t i = 0; i < b.args.size(); ++i) {
      bool ok = k_.values.contains(b.args[i]) && k_.values[b.args[i]].block == id && !k_.values[b.args[i]].def &&
                k_.values[b.args[i]].result == i;
      if (!check(ok, Code::AG1803, "argument {} of a block does not know its block", i)) return false;
      define(b.args[i]);
    }
    for (std::size_t i = 0; i < b.stmts.size(); ++i) {
      StmtId s = b.stmts[i];
      if (!check(k_.stmts.contains(s) && !seen_stmts_[s], Code::AG1803, "a statement id is invalid or used twice"))
        return false;
      seen_stmts_[s] = 1;
      at_ = s;
      bool last = i + 1 == b.stmts.size() && id != k_.top();
      if (!check((k_.stmts[s].op == Op::yield) == last, Code::AG1803,
                 "`yield` ends each nested block, and stands nowhere else"))
        return false;
      if (!statement(k_.stmts[s], s, nesting)) return false;
    }
    if (!check(id == k_.top() || !b.stmts.empty(), Code::AG1803, "a nested block must end with `yield`")) return false;
    for (ValueId v : b.args) visible_[v] = 0;
    for (StmtId s : b.stmts)
      for (ValueId v : k_.stmts[s].results) visible_[v] = 0;
    return true;
  }

  bool statement(const Stmt& s, StmtId id, int nesting) {
    const OpDesc& d = describe(s.op);
    for (ValueId v : s.operands)
      if (!check(k_.values.contains(v) && visible_[v], Code::AG1801,
                 "an operand is not defined before its use, in this block or in one around it"))
        return false;
    int n = static_cast<int>(s.operands.size());
    if (!check(d.operands < 0 || n == d.operands, Code::AG1803, "`{}` takes {} operands, not {}", d.name, d.operands,
               n))
      return false;
    if (!check(s.origin <= k_.origins.size(), Code::AG1803, "origin {} is not in the kernel's table", s.origin))
      return false;
    std::size_t blocks = s.op == Op::for_ ? 1 : s.op == Op::while_ || s.op == Op::if_ ? 2 : 0;
    if (!check(s.blocks.size() == blocks, Code::AG1803, "`{}` has {} nested blocks", d.name, blocks)) return false;
    for (std::size_t i = 0; i < s.results.size(); ++i) {
      ValueId v = s.results[i];
      bool ok = k_.values.contains(v) && k_.values[v].def == id && k_.values[v].result == i && !visible_[v];
      if (!check(ok, Code::AG1803, "result {} does not know its statement", i)) return false;
      const VType& t = k_.type(v);
      if (!check(t.rows > 0 && t.lanes > 0, Code::AG2801, "a result has an empty tile type")) return false;
    }
    if (!rule(s, nesting)) return false;
    at_ = id;
    for (ValueId v : s.results) define(v);
    return true;
  }

  const VType& type(const Stmt& s, std::size_t operand) const { return k_.type(s.operands[operand]); }

  bool result_is(const Stmt& s, VType want) {
    return check(k_.type(s.results[0]) == want, Code::AG2801, "`{}` gives {} here, not {}", describe(s.op).name,
                 print(want), print(k_.type(s.results[0])));
  }
  bool operand_is(const Stmt& s, std::size_t i, VType want, std::string_view what) {
    return check(type(s, i) == want, Code::AG2801, "{} of `{}` must have type {}, not {}", what, describe(s.op).name,
                 print(want), print(type(s, i)));
  }

  bool rule(const Stmt& s, int nesting) {
    OpClass cls = describe(s.op).cls;
    bool control = cls == OpClass::control || cls == OpClass::sync;
    bool stores = s.op == Op::store || s.op == Op::store_tile;
    std::size_t results = control || stores ? 0 : 1;
    if (cls == OpClass::control && s.op != Op::yield) results = s.results.size();
    if (!check(s.results.size() == results, Code::AG1803, "`{}` has {} results, not {}", describe(s.op).name, results,
               s.results.size()))
      return false;
    if (is_elementwise(cls)) return elementwise(s);
    switch (cls) {
      case OpClass::leaf: return leaf(s);
      case OpClass::lanes: return lanes(s);
      case OpClass::memory: return memory(s);
      default: break;
    }
    switch (s.op) {
      case Op::for_: return for_loop(s, nesting);
      case Op::while_: return while_loop(s, nesting);
      case Op::if_: return conditional(s, nesting);
      case Op::trap: return trap(s);
      case Op::prefetch: return prefetch(s);
      default: return check(s.op == Op::yield || s.operands.empty(), Code::AG1803, "no operands are allowed here");
    }
  }

  bool leaf(const Stmt& s) {
    const VType& t = k_.type(s.results[0]);
    switch (s.op) {
      case Op::constant: {
        std::size_t bytes = dtype_bytes(t.elem);
        std::uint64_t max = t.elem == DType::boolean ? 1 : bytes == 8 ? ~0ull : (1ull << (8 * bytes)) - 1;
        return check(s.attr.imm <= max, Code::AG2801, "the constant's bits do not fit {}", dtype_name(t.elem));
      }
      case Op::dim:
        return check(s.attr.index < k_.dims.size(), Code::AG1801, "dim {} is not in the kernel's dims", s.attr.index) &&
               result_is(s, index_type);
      default: {
        bool shape = s.op == Op::lane_iota ? t.rows == 1 : t.lanes == 1;
        return check(shape && is_int(t.elem), Code::AG2801,
                     "an iota is an integer row (lane_iota) or column (row_iota)");
      }
    }
  }

  bool elementwise(const Stmt& s) {
    std::size_t main = s.op == Op::select ? 1 : 0;
    VType t = type(s, main);
    for (std::size_t i = 0; i < s.operands.size(); ++i) {
      const VType& o = type(s, i);
      bool fits =
          (o.rows == t.rows || o.rows == 1 || t.rows == 1) && (o.lanes == t.lanes || o.lanes == 1 || t.lanes == 1);
      if (!check(fits, Code::AG2801, "tile shapes {} and {} do not broadcast", print(o), print(t))) return false;
      t.rows = std::max(t.rows, o.rows), t.lanes = std::max(t.lanes, o.lanes);
      DType want = t.elem;
      if (s.op == Op::select && i == 0) want = DType::boolean;
      if (s.op == Op::ldexp && i == 1) want = t.elem == DType::f64 ? DType::i64 : DType::i32;
      if (!check(o.elem == want, Code::AG2801, "operand {} of `{}` must have element type {}, not {}", i + 1,
                 describe(s.op).name, dtype_name(want), dtype_name(o.elem)))
        return false;
    }
    if (!check(element_ok(s.op, t.elem), Code::AG2801, "`{}` is not defined on {}", describe(s.op).name,
               dtype_name(t.elem)))
      return false;
    DType out = k_.type(s.results[0]).elem;
    if (s.op == Op::cast) return result_is(s, t.with(out));
    if (s.op == Op::bitcast)
      return check(dtype_bytes(out) == dtype_bytes(t.elem) && (out == DType::boolean) == (t.elem == DType::boolean),
                   Code::AG2801, "`bitcast` needs element types of the same size") &&
             result_is(s, t.with(out));
    return result_is(s, describe(s.op).cls == OpClass::compare ? t.with(DType::boolean) : t);
  }

  bool lanes(const Stmt& s) {
    VType t = type(s, 0), r = k_.type(s.results[0]);
    switch (s.op) {
      case Op::reduce_lanes:
      case Op::reduce_rows: {
        bool logical = s.attr.reduce == ReduceKind::and_ || s.attr.reduce == ReduceKind::or_;
        if (!check(logical ? !is_float(t.elem) : t.elem != DType::boolean, Code::AG2801,
                   "this reduction is not defined on {}", dtype_name(t.elem)))
          return false;
        bool power = (t.lanes & (t.lanes - 1)) == 0;
        if (s.op == Op::reduce_rows) return result_is(s, {t.elem, 1, t.lanes});
        return check(power, Code::AG2801, "`reduce_lanes` needs a power of two of lanes") &&
               result_is(s, {t.elem, t.rows, 1});
      }
      case Op::transpose: return result_is(s, {t.elem, t.lanes, t.rows});
      case Op::contract: {
        VType a = type(s, 1), b = type(s, 2);
        bool ok = a.elem == t.elem && b.elem == t.elem && a.rows == t.rows && a.lanes == b.rows && b.lanes == t.lanes;
        return check(ok && t.elem != DType::boolean, Code::AG2801, "`contract` of {}, {} and {}", print(t), print(a),
                     print(b)) &&
               result_is(s, t);
      }
      case Op::broadcast: {
        bool ok = r.elem == t.elem && (t.rows == r.rows || t.rows == 1) && (t.lanes == r.lanes || t.lanes == 1);
        return check(ok, Code::AG2801, "{} does not broadcast to {}", print(t), print(r));
      }
      case Op::extract:
        return check(s.attr.index < t.lanes, Code::AG2801, "lane {} of {}", s.attr.index, print(t)) &&
               result_is(s, {t.elem, t.rows, 1});
      default: return result_is(s, t);
    }
  }

  bool memory(const Stmt& s) {
    bool tile = s.op == Op::load_tile || s.op == Op::store_tile;
    bool stores = s.op == Op::store || s.op == Op::store_tile;
    if (!check(stores || !s.attr.nontemporal, Code::AG1803, "only stores go around the caches")) return false;
    std::size_t fixed = (tile ? 3 : 1) + (stores ? 1 : 0), n = s.operands.size();
    if (!check(n == fixed || n == fixed + 1, Code::AG1803, "`{}` takes {} operands and a mask", describe(s.op).name,
               fixed))
      return false;
    if (!check(s.attr.buffer.index < k_.buffers.size(), Code::AG1805, "there is no such buffer")) return false;
    const Buffer& b = k_.buffers[s.attr.buffer.index];
    VType t = stores ? type(s, fixed - 1) : k_.type(s.results[0]);
    if (!check(t.elem == b.dtype, Code::AG2801, "buffer b{} holds {}, not {}", s.attr.buffer.index, dtype_name(b.dtype),
               dtype_name(t.elem)))
      return false;
    Access forbidden = stores ? Access::read : Access::write;
    if (!check(b.scope != Scope::param || b.access != forbidden, Code::AG1805, "b{} is a {} parameter",
               s.attr.buffer.index, access_name(b.access)))
      return false;
    for (std::size_t i = 0; tile && i < 3; ++i)
      if (!operand_is(s, i, index_type, "base and strides")) return false;
    if (!tile && !operand_is(s, 0, t.with(DType::i64), "the index")) return false;
    return n == fixed || operand_is(s, n - 1, t.with(DType::boolean), "the mask");
  }

  bool prefetch(const Stmt& s) {
    return check(s.attr.buffer.index < k_.buffers.size(), Code::AG1805, "there is no such buffer") &&
           check(s.attr.index >= 1 && s.attr.index <= 3, Code::AG1803, "there is no cache level {}", s.attr.index) &&
           operand_is(s, 0, index_type, "the index");
  }

  bool trap(const Stmt& s) {
    std::size_t n = s.operands.size();
    return check(n == 1 || n == 2, Code::AG1803, "`trap` takes a condition and a detail") &&
           operand_is(s, 0, {DType::boolean, 1, 1}, "the condition") &&
           (n == 1 || operand_is(s, 1, index_type, "the detail"));
  }

  /// Enters a nested block whose arguments must have the given types, and checks what it yields.
  bool nested(BlockId id, const std::vector<VType>& args, const std::vector<VType>& yields, int nesting) {
    if (!check(k_.blocks.contains(id) && !seen_blocks_[id], Code::AG1803,
               "a nested block's id is invalid or used twice"))
      return false;
    seen_blocks_[id] = 1;
    StmtId outer = at_;
    const Block& b = k_.blocks[id];
    if (!match(b.args, args, "a nested block's arguments")) return false;
    if (!block(id, nesting + 1)) return false;
    at_ = b.stmts.back();
    if (!match(k_.stmts[at_].operands, yields, "the yielded values")) return false;
    at_ = outer;
    return true;
  }

  bool match(const std::vector<ValueId>& values, const std::vector<VType>& types, std::string_view what) {
    if (!check(values.size() == types.size(), Code::AG1803, "{}: {} expected, {} found", what, types.size(),
               values.size()))
      return false;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!check(k_.values.contains(values[i]), Code::AG1803, "an invalid value id")) return false;
      if (!check(k_.type(values[i]) == types[i], Code::AG2801, "{}: number {} must have type {}, not {}", what, i + 1,
                 print(types[i]), print(k_.type(values[i]))))
        return false;
    }
    return true;
  }

  std::vector<VType> types(const std::vector<ValueId>& values, std::size_t from = 0) const {
    std::vector<VType> out;
    for (std::size_t i = from; i < values.size(); ++i) out.push_back(k_.type(values[i]));
    return out;
  }

  std::optional<std::int64_t> constant(ValueId v) const {
    StmtId def = k_.values[v].def;
    if (!def || k_.stmts[def].op != Op::constant) return std::nullopt;
    return bits_to_int(k_.type(v).elem, k_.stmts[def].attr.imm);
  }

  bool for_loop(const Stmt& s, int nesting) {
    if (!check(s.operands.size() >= 3, Code::AG1803, "a loop needs bounds and a step")) return false;
    for (std::size_t i = 0; i < 3; ++i)
      if (!operand_is(s, i, index_type, "bounds and step")) return false;
    if (!mapping(s, nesting)) return false;
    std::vector<VType> carried = types(s.operands, 3), args = carried;
    args.insert(args.begin(), index_type);
    if (!match(s.results, carried, "the results of a loop")) return false;
    return nested(s.blocks[0], args, carried, nesting);
  }

  bool mapping(const Stmt& s, int nesting) {
    Mapping m = s.attr.mapping;
    auto lo = constant(s.operands[0]), hi = constant(s.operands[1]), step = constant(s.operands[2]);
    if (!check(!step || *step > 0, Code::AG1804, "a loop's step must be positive")) return false;
    bool widened = m == Mapping::vector || m == Mapping::rows;
    if (mapped_ &&
        !check(!widened && m != Mapping::parallel, Code::AG1804, "a {} loop is left after scheduling", mapping_name(m)))
      return false;
    if (widened && !check(s.attr.width > 0 && step && *step == s.attr.width, Code::AG1804,
                          "a {} loop steps by its width", mapping_name(m)))
      return false;
    if (m == Mapping::unrolled) return check(lo && hi && step, Code::AG1804, "an unrolled loop has constant bounds");
    if (m == Mapping::tile) {
      if (!check(nesting == 0 && ++tile_loops_ == 1 && step == 1, Code::AG1804,
                 "a kernel has at most one tile loop, at top level, by step 1"))
        return false;
    }
    bool carries = s.operands.size() > 3;
    bool may_carry = m == Mapping::serial || m == Mapping::vector || m == Mapping::unrolled;
    return check(!carries || may_carry, Code::AG1804, "a {} loop carries nothing", mapping_name(m));
  }

  bool while_loop(const Stmt& s, int nesting) {
    std::vector<VType> init = types(s.operands), passed = types(s.results), yields = passed;
    yields.insert(yields.begin(), {DType::boolean, 1, 1});
    return nested(s.blocks[0], init, yields, nesting) && nested(s.blocks[1], passed, init, nesting);
  }

  bool conditional(const Stmt& s, int nesting) {
    if (!check(s.operands.size() == 1, Code::AG1803, "`if` takes one condition")) return false;
    std::vector<VType> results = types(s.results);
    return operand_is(s, 0, {DType::boolean, 1, 1}, "the condition") && nested(s.blocks[0], {}, results, nesting) &&
           nested(s.blocks[1], {}, results, nesting);
  }
};

}  // namespace

std::optional<Finding> find_fault(const Kernel& kernel, bool mapped) { return Verifier(kernel, mapped).run(); }

Status verify(const Kernel& kernel, bool mapped) {
  auto fault = find_fault(kernel, mapped);
  if (!fault) return {};
  Diag d = error(fault->code, {}, fmt::format("kernel @{}: {}", kernel.name, fault->message));
  if (fault->stmt) d.note(fmt::format("in `{}`", print_stmt(kernel, fault->stmt)));
  return ag::fail(std::move(d));
}

}  // namespace ag::loop

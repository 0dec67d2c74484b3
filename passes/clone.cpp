#include "passes/clone.hpp"

#include <unordered_set>

namespace ag::passes {

using loop::BlockId;
using loop::Op;
using loop::OpClass;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;

bool is_pure(const Stmt& s) {
  switch (describe(s.op).cls) {
    case OpClass::memory:
    case OpClass::control:
    case OpClass::sync: return false;
    default: return s.op != Op::shuffle_xor;
  }
}

void KernelCloner::clone_buffers(const std::function<bool(loop::BufferId)>& keep) {
  for (std::size_t i = 0; i < from_.buffers.size(); ++i) {
    if (keep && !keep(loop::BufferId(i))) continue;
    const loop::Buffer& b = from_.buffers[i];
    loop::BufferId id =
        b.scope == loop::Scope::param ? b_.param(b.dtype, b.elems, b.access) : b_.alloc(b.dtype, b.elems, b.scope);
    b_.kernel().buffers[id.index].noalias = b.noalias;
    buffers_[loop::BufferId(i)] = id;
  }
  for (const std::string& d : from_.dims) b_.dim_param(d);
  b_.kernel().flops = from_.flops;
  b_.kernel().bytes = from_.bytes;
  b_.kernel().origins = from_.origins;
}

void KernelCloner::set_origin(const Stmt& s) { b_.set_origin(s.origin ? from_.origins[s.origin - 1] : 0); }

LV KernelCloner::get(LV v) {
  if (!v) return v;
  if (auto it = values_.find(v); it != values_.end()) return it->second;
  // A pure definition that nobody cloned yet (index arithmetic above a loop): clone it on demand.
  StmtId def = from_.values[v].def;
  AG_CHECK(def.valid() && is_pure(from_.stmts[def]));
  clone(def);
  return values_.at(v);
}

std::vector<LV> KernelCloner::yielded(BlockId block) {
  std::vector<LV> out;
  const Stmt& y = from_.stmts[from_.blocks[block].stmts.back()];
  AG_CHECK(y.op == Op::yield);
  for (LV v : y.operands) out.push_back(get(v));
  return out;
}

void KernelCloner::clone_block(BlockId block, const std::function<bool(StmtId)>& skip) {
  for (StmtId id : from_.blocks[block].stmts)
    if (from_.stmts[id].op != Op::yield && !(skip && skip(id)) && !(instead && instead(id))) clone(id);
}

void KernelCloner::clone(StmtId id) {
  const Stmt& s = from_.stmts[id];
  OpClass cls = describe(s.op).cls;
  if (is_pure(s) && values_.contains(s.results[0])) return;
  if (cls == OpClass::control) return clone_control(s);
  set_origin(s);
  if (cls == OpClass::memory) return clone_memory(s);
  if (s.op == Op::barrier) return b_.barrier();
  if (s.op == Op::poll) return b_.poll();
  if (s.op == Op::prefetch) return b_.prefetch(buffers_.at(s.attr.buffer), get(s.operands[0]), s.attr.index);
  if (s.op == Op::trap)
    return b_.trap(get(s.operands[0]), s.attr.index, s.operands.size() > 1 ? get(s.operands[1]) : LV{});
  const loop::VType& t = from_.type(s.results[0]);
  LV out;
  switch (s.op) {
    case Op::constant: out = b_.constant_bits(t, s.attr.imm); break;
    case Op::dim: out = b_.dim_param(from_.dims[s.attr.index]); break;
    case Op::lane_iota: out = b_.lane_iota(t.elem, t.lanes); break;
    case Op::row_iota: out = b_.row_iota(t.elem, t.rows); break;
    case Op::cast: out = b_.cast(get(s.operands[0]), t.elem); break;
    case Op::bitcast: out = b_.bitcast(get(s.operands[0]), t.elem); break;
    case Op::broadcast: out = b_.broadcast(get(s.operands[0]), t.rows, t.lanes); break;
    case Op::reduce_lanes: out = b_.reduce_lanes(s.attr.reduce, get(s.operands[0])); break;
    case Op::reduce_rows: out = b_.reduce_rows(s.attr.reduce, get(s.operands[0])); break;
    default: {
      std::vector<LV> operands;
      for (LV v : s.operands) operands.push_back(get(v));
      out = b_.op(s.op, operands);
    }
  }
  values_[s.results[0]] = out;
}

void KernelCloner::clone_memory(const Stmt& s) {
  auto at = [&](std::size_t i) { return i < s.operands.size() ? get(s.operands[i]) : LV{}; };
  if (on_load && (s.op == Op::load || s.op == Op::load_tile))
    if (LV v = on_load(s)) {
      values_[s.results[0]] = v;
      return;
    }
  loop::BufferId buffer = buffers_.at(s.attr.buffer);
  set_origin(s);
  switch (s.op) {
    case Op::load: values_[s.results[0]] = b_.load(buffer, at(0), at(1)); break;
    case Op::store: b_.store(buffer, at(0), at(1), at(2)); break;
    case Op::load_tile:
      values_[s.results[0]] = b_.load_tile(buffer, from_.type(s.results[0]), at(0), at(1), at(2), at(3));
      break;
    default: b_.store_tile(buffer, at(0), at(1), at(2), at(3), at(4)); break;
  }
}

void KernelCloner::clone_control(const Stmt& s) {
  using Values = loop::Builder::Values;
  auto bind_args = [&](BlockId block, const Values& args, std::size_t skip = 0) {
    const std::vector<LV>& old = from_.blocks[block].args;
    for (std::size_t i = 0; i < args.size(); ++i) values_[old[i + skip]] = args[i];
  };
  Values results;
  if (s.op == Op::for_) {
    Values init;
    for (std::size_t i = 3; i < s.operands.size(); ++i) init.push_back(get(s.operands[i]));
    loop::ForOptions options{
        .mapping = s.attr.mapping, .role = s.attr.role, .width = s.attr.width, .reassociate = s.attr.reassociate};
    LV lo = get(s.operands[0]), hi = get(s.operands[1]), step = get(s.operands[2]);
    if (on_for) on_for(s, options, step);
    results = b_.for_(lo, hi, step, options, init, [&](LV iv, const Values& carried) {
      values_[from_.blocks[s.blocks[0]].args[0]] = iv;
      bind_args(s.blocks[0], carried, 1);
      clone_block(s.blocks[0]);
      return yielded(s.blocks[0]);
    });
  } else if (s.op == Op::if_) {
    auto branch = [&](std::size_t i) {
      return [&, i] {
        clone_block(s.blocks[i]);
        return yielded(s.blocks[i]);
      };
    };
    results = b_.if_(get(s.operands[0]), branch(0), branch(1));
  } else if (s.op == Op::while_) {
    Values init;
    for (LV v : s.operands) init.push_back(get(v));
    results = b_.while_(
        init,
        [&](const Values& args) {
          bind_args(s.blocks[0], args);
          clone_block(s.blocks[0]);
          Values y = yielded(s.blocks[0]);
          return std::pair<LV, Values>(y[0], Values(y.begin() + 1, y.end()));
        },
        [&](const Values& args) {
          bind_args(s.blocks[1], args);
          clone_block(s.blocks[1]);
          return yielded(s.blocks[1]);
        });
  }
  for (std::size_t i = 0; i < results.size(); ++i) values_[s.results[i]] = results[i];
}

// ---- hoisting ---------------------------------------------------------------------------------------------------

namespace {

class Hoister {
 public:
  explicit Hoister(loop::Kernel k) : k_(std::move(k)) {}

  loop::Kernel run() {
    visit(k_.top());
    return std::move(k_);
  }

 private:
  loop::Kernel k_;

  /// Handles the loops inside a block, innermost first, and moves what they do not change in front of them.
  void visit(BlockId block) {
    std::vector<StmtId> out;
    std::vector<StmtId> stmts = k_.blocks[block].stmts;
    for (StmtId id : stmts) {
      std::vector<BlockId> inner = k_.stmts[id].blocks;
      for (BlockId b : inner) visit(b);
      if (k_.stmts[id].op == Op::for_ || k_.stmts[id].op == Op::while_)
        for (BlockId b : inner) lift(b, out, inner);
      out.push_back(id);
    }
    k_.blocks[block].stmts = std::move(out);
  }

  void lift(BlockId body, std::vector<StmtId>& before, const std::vector<BlockId>& blocks) {
    std::unordered_set<LV> inside;
    for (BlockId b : blocks) collect(b, inside);
    std::vector<StmtId> rest;
    for (StmtId id : k_.blocks[body].stmts) {
      const Stmt& s = k_.stmts[id];
      bool invariant = is_pure(s);
      for (LV v : s.operands) invariant = invariant && !inside.contains(v);
      if (!invariant) {
        rest.push_back(id);
        continue;
      }
      for (LV r : s.results) inside.erase(r);
      before.push_back(id);
    }
    k_.blocks[body].stmts = std::move(rest);
  }

  void collect(BlockId block, std::unordered_set<LV>& out) const {
    for (LV v : k_.blocks[block].args) out.insert(v);
    for (StmtId id : k_.blocks[block].stmts) {
      for (LV v : k_.stmts[id].results) out.insert(v);
      for (BlockId b : k_.stmts[id].blocks) collect(b, out);
    }
  }
};

}  // namespace

loop::Kernel hoist_invariants(const loop::Kernel& kernel) { return Hoister(kernel).run(); }

namespace {

const Stmt* defining(const loop::Kernel& k, LV v, Op op) {
  StmtId def = k.values[v].def;
  return def && k.stmts[def].op == op ? &k.stmts[def] : nullptr;
}

std::optional<std::int64_t> constant(const loop::Kernel& k, LV v) {
  const Stmt* s = defining(k, v, Op::constant);
  return s ? std::optional(loop::bits_to_int(k.type(v).elem, s->attr.imm)) : std::nullopt;
}

/// If `v` says that the division behind the remainder `rem` was inexact and of operands of different signs: its
/// operands. Builder::dim makes floordiv and mod of that.
std::optional<std::pair<LV, LV>> rounds_down(const loop::Kernel& k, LV v, LV rem) {
  const Stmt *both = defining(k, v, Op::and_), *r = defining(k, rem, Op::rem);
  if (!both || !r) return std::nullopt;
  const Stmt *inexact = defining(k, both->operands[0], Op::cmp_ne), *below = defining(k, both->operands[1], Op::cmp_lt);
  const Stmt* signs = below ? defining(k, below->operands[0], Op::xor_) : nullptr;
  if (!inexact || !signs || inexact->operands[0] != rem || constant(k, inexact->operands[1]) != 0 ||
      constant(k, below->operands[1]) != 0 || signs->operands != std::vector{rem, r->operands[1]})
    return std::nullopt;
  return std::pair{r->operands[0], r->operands[1]};
}

struct DimReader {
  const loop::Kernel& k;
  const std::function<std::optional<Dim>(LV)>& leaf;

  template <class F>
  std::optional<Dim> two(LV a, LV b, F f) const {
    auto x = as_dim(k, a, leaf), y = as_dim(k, b, leaf);
    return x && y ? std::optional<Dim>(f(*x, *y)) : std::nullopt;
  }

  /// floordiv of Builder::dim: a / b, less one where that rounded up.
  std::optional<Dim> division(const Stmt& sub) const {
    const Stmt *quotient = defining(k, sub.operands[0], Op::div), *cast = defining(k, sub.operands[1], Op::cast);
    const Stmt* both = cast ? defining(k, cast->operands[0], Op::and_) : nullptr;
    const Stmt* inexact = both ? defining(k, both->operands[0], Op::cmp_ne) : nullptr;
    if (!quotient || !inexact) return std::nullopt;
    auto of = rounds_down(k, cast->operands[0], inexact->operands[0]);
    if (!of || quotient->operands != std::vector{of->first, of->second}) return std::nullopt;
    return two(of->first, of->second, [](const Dim& a, const Dim& b) { return floordiv(a, b); });
  }

  /// mod of Builder::dim: the remainder, plus b where the signs differ.
  std::optional<Dim> modulus(const Stmt& add) const {
    const Stmt* choice = defining(k, add.operands[1], Op::select);
    auto of = choice ? rounds_down(k, choice->operands[0], add.operands[0]) : std::nullopt;
    if (!of || choice->operands[1] != of->second || constant(k, choice->operands[2]) != 0) return std::nullopt;
    return two(of->first, of->second, [](const Dim& a, const Dim& b) { return mod(a, b); });
  }

  /// bcast of Builder::dim: b where a is 1, else a.
  std::optional<Dim> broadcast(const Stmt& select) const {
    const Stmt* is_one = defining(k, select.operands[0], Op::cmp_eq);
    if (!is_one || is_one->operands[0] != select.operands[2] || constant(k, is_one->operands[1]) != 1)
      return std::nullopt;
    return two(select.operands[2], select.operands[1], [](const Dim& a, const Dim& b) { return Dim::bcast(a, b); });
  }

  std::optional<Dim> read(const Stmt& s) const {
    auto both = [&](auto f) { return two(s.operands[0], s.operands[1], f); };
    auto by_power = [&](auto f) -> std::optional<Dim> {
      auto a = as_dim(k, s.operands[0], leaf);
      auto n = constant(k, s.operands[1]);
      return a && n ? f(*a, *n) : std::nullopt;
    };
    switch (s.op) {
      case Op::add:
        if (auto m = modulus(s)) return m;
        return both([](const Dim& a, const Dim& b) { return a + b; });
      case Op::sub:
        if (auto q = division(s)) return q;
        return both([](const Dim& a, const Dim& b) { return a - b; });
      case Op::mul: return both([](const Dim& a, const Dim& b) { return a * b; });
      case Op::min: return both([](const Dim& a, const Dim& b) { return min(a, b); });
      case Op::max: return both([](const Dim& a, const Dim& b) { return max(a, b); });
      case Op::select: return broadcast(s);
      case Op::shr:
        return by_power([](const Dim& a, std::int64_t n) -> std::optional<Dim> {
          return n >= 0 && n < 63 ? std::optional(floordiv(a, Dim(std::int64_t{1} << n))) : std::nullopt;
        });
      case Op::and_:
        return by_power([](const Dim& a, std::int64_t n) -> std::optional<Dim> {
          return n > 0 && (n & (n + 1)) == 0 ? std::optional(mod(a, Dim(n + 1))) : std::nullopt;
        });
      default: return std::nullopt;
    }
  }
};

}  // namespace

std::optional<Dim> as_dim(const loop::Kernel& k, LV v, const std::function<std::optional<Dim>(LV)>& leaf) {
  if (leaf)
    if (auto d = leaf(v)) return d;
  StmtId def = k.values[v].def;
  if (!def.valid()) return std::nullopt;
  const Stmt& s = k.stmts[def];
  if (s.op == Op::constant) return Dim(loop::bits_to_int(k.type(v).elem, s.attr.imm));
  if (s.op == Op::dim) return Dim::symbol(k.dims[s.attr.index]);
  return DimReader{k, leaf}.read(s);
}

}  // namespace ag::passes

// Two loops, one right inside the other, become one where every access of memory moves through them as through one: its
// stride along the outer loop is the inner loop's extent times its stride along the inner one. Images of a batch, rows
// and columns of pixels become one axis of pixels, the taps and channels of a filter one axis of terms. The order of a
// sum stays as it is.
#include <algorithm>
#include <set>

#include "passes/clone.hpp"
#include "passes/layout.hpp"
#include "passes/loop_nest.hpp"

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::BlockId;
using loop::Mapping;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;

class Collapser {
 public:
  explicit Collapser(const loop::Kernel& k) : k_(k) {}

  /// The kernel with all pairs of loops collapsed that may be; the same if there are none.
  loop::Kernel run() {
    has_rows_ = false;
    for (const NestLoop& l : find_nest(k_).loops) has_rows_ = has_rows_ || l.role == AxisRole::row;
    bool changed = false;
    while (collapse_in(k_.top())) changed = true;
    if (!changed) return std::move(k_);
    loop::Builder b(k_.name);
    KernelCloner clone(k_, b);
    clone.clone_buffers();
    clone.clone_block(k_.top());
    return std::move(b).finish();
  }

 private:
  loop::Kernel k_;
  bool has_rows_ = false;

  LV iv(StmtId loop_stmt) const { return k_.blocks[k_.stmts[loop_stmt].blocks[0]].args[0]; }
  static std::string symbol(LV v) { return "%" + std::to_string(v.index); }

  bool collapse_in(BlockId block) {
    const std::vector<StmtId> stmts = k_.blocks[block].stmts;
    for (StmtId id : stmts) {
      if (k_.stmts[id].op == Op::for_)
        if (StmtId inner = only_loop_in(id); inner && roles_fit(id, inner) && accesses_fit(id, inner)) {
          merge(block, id, inner);
          return true;
        }
      const std::vector<BlockId> blocks = k_.stmts[id].blocks;
      for (BlockId b : blocks)
        if (collapse_in(b)) return true;
    }
    return false;
  }

  /// The loop that is all a loop does, index arithmetic aside: it starts from what the outer one carries, and its
  /// results are carried on.
  StmtId only_loop_in(StmtId outer) const {
    const loop::Block& body = k_.blocks[k_.stmts[outer].blocks[0]];
    StmtId only;
    for (StmtId id : body.stmts) {
      if (is_pure(k_.stmts[id]) || k_.stmts[id].op == Op::yield) continue;
      if (only || k_.stmts[id].op != Op::for_) return {};
      only = id;
    }
    if (!only) return {};
    const Stmt &inner = k_.stmts[only], &yield = k_.stmts[body.stmts.back()];
    auto carried = [&](std::size_t i) { return inner.operands[3 + i] == body.args[1 + i]; };
    if (inner.operands.size() != 3 + yield.operands.size() || yield.operands != inner.results) return {};
    for (std::size_t i = 0; i < yield.operands.size(); ++i)
      if (!carried(i)) return {};
    return only;
  }

  bool roles_fit(StmtId outer, StmtId inner) const {
    const loop::Attr &o = k_.stmts[outer].attr, &i = k_.stmts[inner].attr;
    if (o.mapping != i.mapping || o.reassociate || i.reassociate) return false;
    if (o.role == AxisRole::reduce || i.role == AxisRole::reduce)
      return o.role == i.role && o.mapping == Mapping::serial;
    if (o.mapping != Mapping::parallel || o.role != AxisRole::batch) return false;
    return i.role == AxisRole::batch || i.role == AxisRole::row || (i.role == AxisRole::col && !has_rows_);
  }

  std::optional<Dim> extent(StmtId loop_stmt) const {
    const Stmt& s = k_.stmts[loop_stmt];
    auto lo = as_dim(k_, s.operands[0]), hi = as_dim(k_, s.operands[1]), step = as_dim(k_, s.operands[2]);
    return lo && lo->is(0) && step && step->is(1) ? hi : std::nullopt;
  }

  // -- what depends on the two indices ------------------------------------------------------------------------
  /// Whether a value follows from one of the indices by arithmetic, not by way of memory.
  bool depends(LV v, LV a, LV b, std::unordered_map<LV, bool>& known) const {
    if (v == a || v == b) return true;
    StmtId def = v ? k_.values[v].def : StmtId{};
    if (!def || !is_pure(k_.stmts[def])) return false;
    if (auto it = known.find(v); it != known.end()) return it->second;
    bool any = false;
    for (LV x : k_.stmts[def].operands) any = any || depends(x, a, b, known);
    return known[v] = any;
  }

  bool accesses_fit(StmtId outer, StmtId inner) const {
    auto rows = extent(outer), columns = extent(inner);
    if (!rows || !columns) return false;
    std::unordered_map<LV, bool> known;
    return block_fits(k_.stmts[inner].blocks[0], iv(outer), iv(inner), *columns, known);
  }

  bool block_fits(BlockId block, LV o, LV i, const Dim& columns, std::unordered_map<LV, bool>& known) const {
    for (StmtId id : k_.blocks[block].stmts) {
      const Stmt& s = k_.stmts[id];
      if (is_pure(s)) continue;
      bool access = s.op == Op::load || s.op == Op::store;
      for (std::size_t n = 0; n < s.operands.size(); ++n) {
        if (!depends(s.operands[n], o, i, known)) continue;
        if (!access || n != 0 || !moves_as_one(s.operands[0], o, i, columns)) return false;
      }
      for (BlockId b : s.blocks)
        if (!block_fits(b, o, i, columns, known)) return false;
    }
    return true;
  }

  bool moves_as_one(LV index, LV o, LV i, const Dim& columns) const {
    auto loop_index = [&](LV v) -> std::optional<Dim> {
      bool loop = k_.values[v].block.valid();  // an argument of some loop
      return loop ? std::optional(Dim::symbol(symbol(v))) : std::nullopt;
    };
    auto at = as_dim(k_, index, loop_index);
    if (!at) return false;
    auto stride = [&](LV v) { return at->substitute({{symbol(v), Dim::symbol(symbol(v)) + 1}}) - *at; };
    Dim along = stride(o), across = stride(i);
    std::set<std::string> used;
    along.collect_symbols(used), across.collect_symbols(used);
    bool constant = std::none_of(used.begin(), used.end(), [](const std::string& s) { return s.starts_with('%'); });
    return along.valid() && across.valid() && constant && along == across * columns;
  }

  // -- the change --------------------------------------------------------------------------------------------
  /// The outer loop gets the inner one's body and runs over both extents. With the outer index 0 and the inner one that
  /// of both, every access finds its place.
  void merge(BlockId block, StmtId outer, StmtId inner) {
    const LV old = iv(outer), zero = append(Op::constant, {}, block, outer);
    for (std::size_t s = 0; s < k_.stmts.size(); ++s)
      for (LV& v : k_.stmts[StmtId(s)].operands)
        if (v == old) v = zero;
    const std::vector<StmtId> moved = k_.blocks[k_.stmts[outer].blocks[0]].stmts;
    for (StmtId id : moved)
      if (is_pure(k_.stmts[id])) insert(id, block, outer);
    LV both = append(Op::mul, {k_.stmts[outer].operands[1], k_.stmts[inner].operands[1]}, block, outer);
    Stmt& o = k_.stmts[outer];
    const Stmt& i = k_.stmts[inner];
    o.operands[1] = both;
    o.attr.role = i.attr.role;
    o.blocks = i.blocks;
    o.origin = i.origin;
  }

  void insert(StmtId id, BlockId block, StmtId before) {
    auto& stmts = k_.blocks[block].stmts;
    stmts.insert(std::find(stmts.begin(), stmts.end(), before), id);
  }

  LV append(Op op, std::vector<LV> operands, BlockId block, StmtId before) {
    StmtId id = k_.stmts.push(Stmt{.op = op, .attr = {}, .operands = std::move(operands), .blocks = {}, .results = {}});
    LV v = k_.values.push(loop::Value{.type = loop::index_type, .def = id, .block = {}});
    k_.stmts[id].results = {v};
    insert(id, block, before);
    return v;
  }
};

Result<loop::Program> run(loop::Program program, PassContext&) {
  for (loop::Kernel& k : program.kernels) k = Collapser(k).run();
  return program;
}

}  // namespace

const Pass collapse = {
    .name = "collapse", .summary = "two loops that walk memory as one become one", .on_program = run};

}  // namespace ag::passes

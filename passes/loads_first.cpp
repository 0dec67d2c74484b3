#include "passes/loads_first.hpp"

#include <algorithm>
#include <vector>

#include "passes/clone.hpp"

namespace ag::passes {

using loop::Op;
using loop::Stmt;
using loop::StmtId;

loop::Kernel loads_first(loop::Kernel k, const TargetSpec& target) {
  auto one_buffer = [&](loop::BufferId b) {
    return k.buffers[b.index].scope != loop::Scope::param || k.buffers[b.index].noalias;
  };
  for (loop::Block& block : k.blocks) {
    bool stores = false;
    int bytes = 0;
    const bool straight = std::all_of(block.stmts.begin(), block.stmts.end(), [&](StmtId id) {
      const Stmt& s = k.stmts[id];
      const bool load = s.op == Op::load || s.op == Op::load_tile, store = s.op == Op::store_tile;
      stores = stores || store;
      if (store) bytes += k.type(s.operands[3]).count() * static_cast<int>(dtype_bytes(k.type(s.operands[3]).elem));
      return is_pure(s) || s.op == Op::yield || s.op == Op::prefetch || ((load || store) && one_buffer(s.attr.buffer));
    });
    if (!straight || !stores || bytes * 8 > target.vector_bits * target.vector_registers / 2) continue;
    // A load of what this block has stored already stays behind the store, and so do all stores before that.
    std::vector<StmtId> order, held;
    for (StmtId id : block.stmts) {
      const Stmt& s = k.stmts[id];
      const bool same =
          (s.op == Op::load || s.op == Op::load_tile) &&
          std::any_of(held.begin(), held.end(), [&](StmtId h) { return k.stmts[h].attr.buffer == s.attr.buffer; });
      if (same || s.op == Op::yield) {
        order.insert(order.end(), held.begin(), held.end());
        held.clear();
      }
      (s.op == Op::store_tile ? held : order).push_back(id);
    }
    order.insert(order.end(), held.begin(), held.end());
    block.stmts = std::move(order);
  }
  return k;
}

}  // namespace ag::passes

// Lines of memory that a product asks for ahead of their use, where hardware does not look: rows that lie side by side
// touch another line at each step of depth, often a page away from the last; what maps behind a sum read beside it is
// touched once a tile, all rows at once. Both wait for the shared cache or memory otherwise, and copying such rows
// first (so that a row's terms lie one after another) is no faster than asking in time.
#pragma once
#include <vector>

#include "ir/loop/builder.hpp"
#include "passes/clone.hpp"
#include "passes/contraction_body.hpp"
#include "passes/contraction_model.hpp"

namespace ag::passes {

class LinesAhead {
 public:
  /// Rows among the sum's `loads` that lie side by side along `row`, with steps of depth on lines of their own.
  void pick_rows(const loop::Kernel& k, const IndexSteps& steps, const std::vector<loop::StmtId>& loads,
                 loop::ValueId row, const ContractionBody& body, const ContractionSizes& sizes);
  /// Loads of `block` outside the sum with an element for each of the result, `width` of a row one after another.
  void pick_beside(const loop::Kernel& k, const IndexSteps& steps, loop::BlockId block, loop::ValueId row,
                   loop::ValueId column, int width);

  bool of_rows() const { return !rows_.empty(); }
  /// Asks for rows some steps of the innermost contracted loop, which is at `depth`, ahead.
  void ask_rows(loop::Builder& b, const KernelCloner& at, loop::ValueId depth) const;
  /// Asks for what is read beside the sum of this cell.
  void ask_beside(loop::Builder& b, const KernelCloner& cell) const;

 private:
  const loop::Kernel* k_ = nullptr;
  loop::ValueId innermost_;
  std::vector<loop::StmtId> rows_, beside_;

  void ask(loop::Builder& b, KernelCloner at, loop::StmtId load) const;
};

}  // namespace ag::passes

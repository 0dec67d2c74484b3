// What a schedule must know of a contraction's body: its contracted loops and how its loads move through memory.
#pragma once
#include <optional>
#include <vector>

#include "ir/loop/kernel.hpp"
#include "passes/loop_nest.hpp"

namespace ag::passes {

/// How a value changes with one loop index while all others stay.
class IndexSteps {
 public:
  explicit IndexSteps(const loop::Kernel& kernel) : k_(kernel) {}

  /// True unless it is known that `v` does not depend on the loop index `iv`.
  bool depends(loop::ValueId v, loop::ValueId iv) const;
  /// v(iv + 1) - v(iv), if it is the same everywhere within blocks of `within` indices that begin at a multiple of it.
  std::optional<Dim> step(loop::ValueId v, loop::ValueId iv, std::int64_t within) const;
  /// The common divisor of the constants by which `iv` is divided on the way to `v`; 0 if it is not.
  std::int64_t divisor(loop::ValueId v, loop::ValueId iv) const;

 private:
  const loop::Kernel& k_;
  bool is_multiple(loop::ValueId v, std::int64_t n) const;
  bool congruent(loop::ValueId v, loop::ValueId iv, std::int64_t n) const;
};

/// Division or remainder of an index by a constant n > 1; as shifts and masks too.
struct IndexDivision {
  bool remainder;
  std::int64_t by;
};
std::optional<IndexDivision> index_division(const loop::Kernel& kernel, const loop::Stmt& s);

/// True of what is made of loops' indices, sizes and small constants by adding, multiplying and dividing: far from
/// where integers wrap. Data are not.
bool bounded_index(const loop::Kernel& kernel, loop::ValueId v);

/// Loops over contracted axes, outermost first, each carrying one sum and the only loop in the one around it.
struct ContractionBody {
  std::vector<loop::StmtId> loops;
  std::vector<Dim> extents;  ///< of `loops`
  std::vector<loop::StmtId> loads;  ///< in the loops, of no condition
  loop::ValueId iv(const loop::Kernel& k, std::size_t loop) const { return k.blocks[block(k, loop)].args[0]; }
  loop::BlockId block(const loop::Kernel& k, std::size_t loop) const { return k.stmts[loops[loop]].blocks[0]; }
};
/// Empty if the block is not of that form.
ContractionBody find_contraction(const loop::Kernel& kernel, loop::BlockId block);

/// About how many instructions `block` has behind the contracted loops, for a register of results.
int epilogue_statements(const loop::Kernel& kernel, loop::BlockId block, const ContractionBody& body);

}  // namespace ag::passes

// Sums of squared deviations in the pass that sums the values themselves.
//
// Norms walk a row for its mean and again for sum((x - m)^2). With d = x - c, c the row's first element, one pass gives
// sum(d) and sum(d^2), and sum((x - m)^2) = sum(d^2) - 2 (m - c) sum(d) + n (m - c)^2 for any m. If m is the mean,
// which m - c = sum(d) / n says as well, that is sum(d^2) - sum(d)^2 / n and waits for no m. Where much cancels in
// that (the first element is far from m: rare), the second pass is made after all, so the relative error is that of
// sums of numbers of one sign times some 16. The data alone decide, so the bits are those of any schedule.
#pragma once
#include <map>

#include "passes/clone.hpp"

namespace ag::passes {

/// The pairs of such loops in a block and those inside of it. The first loop of a pair may have other sums too.
class Moments {
 public:
  Moments(const loop::Kernel& kernel, loop::BlockId block);
  bool empty() const { return pairs_.empty(); }
  /// Emits what stands for a statement of the block through `c`, if it is a loop of a pair; false if it is none.
  bool emit(loop::StmtId id, KernelCloner& c, loop::Builder& b);

  /// Whether a loop along a row has sums and nothing else but stores.
  bool sums(const loop::Stmt& loop) const;
  /// What such a loop adds up in one of its results.
  std::optional<loop::ValueId> summed(const loop::Stmt& loop, std::size_t result = 0) const;
  /// x and m of a loop that sums up (x - m)^2.
  std::optional<std::pair<loop::ValueId, loop::ValueId>> squared(const loop::Stmt& loop) const;
  /// Whether two values in the bodies of two loops over the same range are the same in each iteration.
  bool same(loop::ValueId x, const loop::Stmt& in_x, loop::ValueId y, const loop::Stmt& in_y, int depth = 0) const;

 private:
  struct Pair {
    loop::StmtId sum, squares;
    std::size_t result;  ///< of `sum`
    loop::ValueId summed;  ///< in the body of `sum`
    loop::ValueId centre;  ///< m
    loop::ValueId given;  ///< what the first loop takes as c already, if it subtracts something
    loop::ValueId first, d, d2;  ///< in the new kernel: c and the sums over d
  };
  const loop::Kernel& k_;
  std::vector<Pair> pairs_;

  void find(loop::BlockId block);
  loop::ValueId subtracted(loop::ValueId x, const loop::Stmt& loop) const;
  loop::ValueId stored(const loop::Stmt& loop, const loop::Stmt& load, const loop::Stmt& other) const;
  void emit_sums(Pair& p, KernelCloner& c, loop::Builder& b);
  loop::ValueId counted(const Pair& p) const;
  loop::ValueId deviations(const Pair& p, KernelCloner& c, loop::Builder& b) const;
  void emit_squares(const Pair& p, KernelCloner& c, loop::Builder& b);
};

}  // namespace ag::passes

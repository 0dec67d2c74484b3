// What the pass vectorise decides before it rewrites: which vector and rows loops can be widened, and which values
// then differ from lane to lane or from row to row.
#pragma once
#include <map>
#include <set>
#include <vector>

#include "ir/loop/kernel.hpp"

namespace ag::passes {

/// On which widened loops a value depends.
using Dependence = std::uint8_t;
inline constexpr Dependence on_rows = 1, on_lanes = 2;

class WideningPlan {
 public:
  explicit WideningPlan(const loop::Kernel& kernel);

  /// A loop mapped to vector or rows that will be widened; the others run serially.
  bool widened(loop::StmtId loop) const { return candidates_.contains(loop) && !refused_.contains(loop); }
  Dependence dependence(loop::ValueId v) const { return depends_[v]; }
  /// Of a widened vector loop: the reduction that each carried value is.
  const std::vector<loop::ReduceKind>& reductions(loop::StmtId loop) const { return reductions_.at(loop); }
  /// Lanes of the loop are reduced with reduce_lanes where the body has traps or conditions: widths are powers of two.
  bool keeps_power_of_two(loop::StmtId loop) const { return power_of_two_.contains(loop); }

 private:
  struct Scope {
    loop::StmtId rows, lanes;  ///< the widened loops around a statement
  };

  const loop::Kernel& k_;
  std::set<loop::StmtId> candidates_, refused_, power_of_two_;
  std::map<loop::StmtId, std::vector<loop::ReduceKind>> reductions_;
  IdMap<loop::ValueId, Dependence> depends_;
  IdMap<loop::ValueId, std::uint32_t> uses_;
  bool changed_ = false, checking_ = false;

  void count_uses();
  void add(loop::ValueId v, Dependence d);
  void refuse(const Scope& scope, Dependence d);
  void walk(loop::BlockId block, const Scope& scope);
  void visit(loop::StmtId id, const Scope& scope);
  void visit_for(loop::StmtId id, const Scope& scope);
  void visit_while(const loop::Stmt& s, const Scope& scope);
  void visit_if(const loop::Stmt& s, const Scope& scope);
  void need_any(const Scope& scope, Dependence d);
  Dependence of(const std::vector<loop::ValueId>& values) const;
  const std::vector<loop::ValueId>& yields(loop::BlockId block) const;
  std::optional<loop::ReduceKind> reduction(loop::ValueId carried, loop::ValueId yielded) const;
  bool recognise(loop::StmtId id);
};

}  // namespace ag::passes

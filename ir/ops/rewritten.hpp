// Ops that are others in disguise: one function gives the results in terms of other ops; the type rule, the known
// integers and the decomposition all follow from it. For older spellings and for ops without a rule of their own.
#pragma once
#include "ir/ops/dims.hpp"

namespace ag::ops {

/// What such a function sees: a graph to build in, the operands there, and how the node was written.
struct Rewriting {
  Builder& b;
  const OpInfo& op;
  std::span<const ValueId> operands;  ///< invalid where left out
  const Attrs& attrs;
  std::size_t wanted;                 ///< results that the node names; 0 where its types are worked out
  std::span<const Type> results;      ///< their types where they are known already: in decompositions

  bool has(std::size_t i) const { return i < operands.size() && operands[i].valid(); }
  Expr in(std::size_t i) const { return {b, operands[i]}; }
  Type type(std::size_t i) const { return b.type(operands[i]); }
  std::int64_t integer(std::string_view name, std::int64_t otherwise = 0) const {
    return attr_int(attrs, name, otherwise);
  }
  /// The elements of an integer operand, as far as they are known.
  std::optional<Dims> ints(std::size_t i) const;
  /// A checked node and its results. What the user may have got wrong goes through this or fail().
  Result<std::vector<ValueId>> nodes(std::string_view name, std::vector<ValueId> in, Attrs a = {}) const;
  Result<Expr> node(std::string_view name, std::vector<ValueId> in, Attrs a = {}) const;
  std::unexpected<Diags> fail(Code code, std::string message, std::string label = {}) const;
};
using Rewrite = Result<std::vector<ValueId>> (*)(const Rewriting&);

Types infer_rewritten(const InferCtx& c, Rewrite rewrite);
std::optional<Dims> known_rewritten(const View& n, Rewrite rewrite);
std::vector<ValueId> build_rewritten(Builder& b, const View& n, Rewrite rewrite);

/// A composite that is `rewrite`; the op may bring a type rule of its own.
template <Rewrite rewrite>
OpInfo rewritten(OpInfo o) {
  o = composite(std::move(o));
  if (!o.infer) {
    o.infer = [](const InferCtx& c) { return infer_rewritten(c, rewrite); };
    o.known_ints = [](const View& n) { return known_rewritten(n, rewrite); };
  }
  o.decompose = [](Builder& b, const View& n) { return build_rewritten(b, n, rewrite); };
  return o;
}

}  // namespace ag::ops

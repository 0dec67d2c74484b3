// Rewrite rules as rows: a name, a pattern, what replaces it, and how exact the replacement is.
//
// A pattern is a tree of op names over wildcards and constants. Wildcards bind any value; the same wildcard twice
// must bind the same value. Operands of commutative ops match in both orders. The law for rules: README.md.
#pragma once
#include <string>
#include <vector>

#include "ir/op.hpp"
#include "passes/pass.hpp"

namespace ag::passes {

struct Pattern {
  enum class Kind : std::uint8_t { wildcard, constant, op } kind = Kind::wildcard;
  int index = 0;                  ///< wildcard
  double value = 0;               ///< constant: every element equals it, the sign of zero included
  std::string op;
  std::vector<Pattern> operands;
};

/// A node that is about to be built.
struct Candidate {
  const OpInfo& op;
  const std::vector<ValueId>& operands;
  const Attrs& attrs;
  const Type& type;               ///< of its only result
};

struct RewriteRule {
  std::string_view name;
  Exactness exactness;
  DTypeSet dtypes = any_dtype;    ///< of the result
  Pattern from, to;               ///< pattern rules
  /// Rules that patterns cannot say: the replacement, or an invalid id.
  ValueId (*apply)(GraphBuilder&, const Candidate&) = nullptr;
};
const std::vector<RewriteRule>& rewrite_rules();
std::vector<RewriteRule> movement_rules();  ///< of them: those about elements that only move
std::vector<RewriteRule> convolution_rules();  ///< and about convolutions

bool commutative(std::string_view op);
/// Matches a candidate's root; `bound` receives the wildcards.
bool matches(GraphBuilder& b, const Pattern& p, const Candidate& c, std::vector<ValueId>& bound);
/// Builds the replacement for bound wildcards; constants take dtype `t`.
ValueId instantiate(GraphBuilder& b, const Pattern& p, const std::vector<ValueId>& bound, DType t);

}  // namespace ag::passes

// The checks that an op record's specs imply, one function for builders and the verifier.
#pragma once
#include "ir/op.hpp"

namespace ag {

/// Operand counts and dtypes against OpInfo::operands.
Status check_operands(const Graph& graph, const OpInfo& op, std::span<const ValueId> operands,
                      std::span<const Loc> locs);
/// Attributes against OpInfo::attrs. Fills in defaults and converts what may be converted (integer to number, 0 and 1
/// to bool, integers to dims, an empty list to any list).
Status check_attrs(const OpInfo& op, Attrs& attrs, std::span<const Loc> locs);
/// The specification of operand i; the last one repeats if it is variadic.
const OperandSpec* operand_spec(const OpInfo& op, std::size_t i);
/// Structural equality of two closed graphs, without names and places.
bool same_computation(const Graph& a, const Graph& b);
/// Pairs bare symbols of `from` with dims of `to` where `from`'s are not bound yet; then tells whether `from`,
/// substituted, equals `to`.
bool unify(const Type& from, const Type& to, std::map<std::string, Dim, std::less<>>& symbols,
           const std::function<bool(const std::string&)>& may_bind);
std::string_view attr_kind_name(AttrKind kind);  ///< "a list of integers": for messages

}  // namespace ag

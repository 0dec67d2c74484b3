// Which ops take storage types: those whose operands are of any type, since they only move elements.
#pragma once
#include "ir/op.hpp"

namespace ag {

/// Every type that is computed with, and no storage type: `any_dtype` with a mark.
inline constexpr DTypeSet computed{any_dtype.bits | 1u << 31};

/// Whether an operand specified by `set` may be of type t.
constexpr bool takes(DTypeSet set, DType t) { return set.has(t) || (is_storage(t) && set.bits == any_dtype.bits); }

}  // namespace ag

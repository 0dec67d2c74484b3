// Bits of integers: and, or, xor, not, shifts, casts of bits.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> bitwise_ops() { return {}; }

}  // namespace ag

// Spellings of older opsets, each in terms of today's.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> legacy_ops() { return {}; }

}  // namespace ag

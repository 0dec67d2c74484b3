// Sorting and what is made of it: TopK, Unique.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> sort_ops() { return {}; }

}  // namespace ag

// Scans along an axis: cumulative sum, product, extrema.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> cumulative_ops() { return {}; }

}  // namespace ag

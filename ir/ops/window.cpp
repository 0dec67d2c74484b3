// Reductions over sliding windows and their gradients; pooling.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> window_ops() { return {}; }

}  // namespace ag

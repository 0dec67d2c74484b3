// Results whose size only the data knows: NonZero, Compress.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> dynamic_ops() { return {}; }

}  // namespace ag

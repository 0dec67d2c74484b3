// Sampling images at other places: Resize, GridSample, AffineGrid, RoiAlign.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> spatial_ops() { return {}; }

}  // namespace ag

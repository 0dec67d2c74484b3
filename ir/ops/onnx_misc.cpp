// ONNX ops that belong to no other family.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> onnx_misc_ops() { return {}; }

}  // namespace ag

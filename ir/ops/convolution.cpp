// Convolutions: one primitive with a role, and the ONNX ops made of it.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> convolution_ops() { return {}; }

}  // namespace ag

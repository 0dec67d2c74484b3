// ai.onnx.preview.training: Adam, Adagrad, Momentum, Gradient.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> training_ops() { return {}; }

}  // namespace ag

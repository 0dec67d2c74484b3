// ai.onnx.ml: Binarizer, ArrayFeatureExtractor, TreeEnsemble.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> ml_ops() { return {}; }

}  // namespace ag

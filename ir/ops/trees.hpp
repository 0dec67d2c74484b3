#pragma once
#include "ir/op.hpp"

namespace ag::ops {

/// ai.onnx.ml's TreeEnsemble (version 5) and the older TreeEnsembleRegressor.
std::vector<OpInfo> tree_ops();

}  // namespace ag::ops

// Constants that scale or shift the channels of a convolution or product move into its constant weights.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

/// Graph -> Graph, an `algorithm` rewrite: weights times a constant of the channel are computed in f64 and rounded
/// once, so the result stays within the error bound of the product and the operations that it replaces.
extern const Pass fold_affine;

}  // namespace ag::passes

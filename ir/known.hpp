#pragma once
#include "ir/graph.hpp"

namespace ag {

/// The elements of a node's first result if they are integers (or bools) that follow from known elements of its
/// operands: by the op's own rule, through its decomposition, or by evaluating it. Null if they do not, or are many.
std::shared_ptr<const Dims> known_elements(const NodeView& node);

}  // namespace ag

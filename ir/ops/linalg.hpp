// Linear algebra beyond products: a part of the family `spectral`.
#pragma once
#include <vector>

#include "ir/op.hpp"

namespace ag {
std::vector<OpInfo> linalg_ops();
}  // namespace ag

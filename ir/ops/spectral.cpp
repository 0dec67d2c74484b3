// Fourier transforms and window functions.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> spectral_ops() { return {}; }

}  // namespace ag

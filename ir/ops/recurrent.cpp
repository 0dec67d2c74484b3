// RNN, GRU, LSTM.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {

std::vector<OpInfo> recurrent_ops() { return {}; }

}  // namespace ag

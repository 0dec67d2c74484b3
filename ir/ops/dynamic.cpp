// Ops whose results have a size that only the data knows.
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/tfidf.hpp"

namespace ag {

std::vector<OpInfo> dynamic_ops() { return {tfidf_op()}; }

}  // namespace ag

// The families of the op table, one file each. A new family is a function here and a line in `families`.
#pragma once
#include <vector>

#include "ir/op.hpp"

namespace ag {

std::vector<OpInfo> source_ops();  ///< input, constant
std::vector<OpInfo> elementwise_unary_ops();
std::vector<OpInfo> elementwise_binary_ops();
std::vector<OpInfo> compare_select_ops();

using OpFamily = std::vector<OpInfo> (*)();
inline constexpr OpFamily op_families[] = {
    source_ops, elementwise_unary_ops, elementwise_binary_ops, compare_select_ops,
};

}  // namespace ag

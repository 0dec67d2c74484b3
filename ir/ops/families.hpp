// The families of the op table, one file each. A new family is a function here and a line in `families`.
#pragma once
#include <vector>

#include "ir/op.hpp"

namespace ag {

std::vector<OpInfo> elementwise_unary_ops();
std::vector<OpInfo> elementwise_binary_ops();
std::vector<OpInfo> compare_select_ops();
std::vector<OpInfo> source_ops();
std::vector<OpInfo> movement_ops();
std::vector<OpInfo> reduce_ops();
std::vector<OpInfo> contraction_ops();
std::vector<OpInfo> indexing_ops();
std::vector<OpInfo> activation_ops();
std::vector<OpInfo> matmul_ops();
std::vector<OpInfo> reduce_composite_ops();
std::vector<OpInfo> shape_ops();
std::vector<OpInfo> onnx_elementwise_ops();
std::vector<OpInfo> slicing_ops();
std::vector<OpInfo> onnx_indexing_ops();
std::vector<OpInfo> norm_ops();
std::vector<OpInfo> loss_ops();
std::vector<OpInfo> control_ops();
std::vector<OpInfo> attention_ops();
std::vector<OpInfo> einsum_ops();
std::vector<OpInfo> convolution_ops();
std::vector<OpInfo> window_ops();
std::vector<OpInfo> cumulative_ops();
std::vector<OpInfo> sort_ops();
std::vector<OpInfo> random_ops();
std::vector<OpInfo> block_ops();
std::vector<OpInfo> spectral_ops();
std::vector<OpInfo> dynamic_ops();
std::vector<OpInfo> spatial_ops();
std::vector<OpInfo> recurrent_ops();
std::vector<OpInfo> quantize_ops();
std::vector<OpInfo> training_ops();
std::vector<OpInfo> ml_ops();
std::vector<OpInfo> legacy_ops();
std::vector<OpInfo> onnx_misc_ops();
std::vector<OpInfo> image_ops();

using OpFamily = std::vector<OpInfo> (*)();
inline constexpr OpFamily op_families[] = {
    elementwise_unary_ops,
    elementwise_binary_ops,
    compare_select_ops,
    source_ops,
    movement_ops,
    reduce_ops,
    contraction_ops,
    indexing_ops,
    activation_ops,
    matmul_ops,
    reduce_composite_ops,
    shape_ops,
    onnx_elementwise_ops,
    slicing_ops,
    onnx_indexing_ops,
    norm_ops,
    loss_ops,
    control_ops,
    attention_ops,
    einsum_ops,
    convolution_ops,
    window_ops,
    cumulative_ops,
    sort_ops,
    random_ops,
    block_ops,
    spectral_ops,
    dynamic_ops,
    spatial_ops,
    recurrent_ops,
    quantize_ops,
    training_ops,
    ml_ops,
    legacy_ops,
    onnx_misc_ops,
    image_ops,
};

}  // namespace ag

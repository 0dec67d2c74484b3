// What the rewrites of primitives as ONNX operators share (frontend/onnx/legalise*.cpp).
#pragma once
#include "ir/ops/dims.hpp"

namespace ag::onnx {

/// Files are written in this opset at least: axes are operands of all reductions, Scatter* knows max and min.
inline constexpr int least_opset = 18;

/// A node's results in ONNX's operators; the node itself, already part of the graph, goes.
using Rewrite = std::vector<ValueId> (*)(GraphBuilder&, const NodeView&);

/// One operator of ONNX's own domain.
ops::Expr onnx(GraphBuilder& b, std::string_view type, std::vector<ValueId> operands, Attrs attrs = {});
ops::Expr reshape_to(ops::Expr x, const Dims& shape);
ops::Expr permute(ops::Expr x, const ops::Ints& perm);
/// As broadcast_in_dim: axis i of x is axis dims[i] of the result.
ops::Expr broadcast(ops::Expr x, const Dims& shape, const ops::Ints& dims);
ops::Expr slice_of(ops::Expr x, const Dims& start, const Dims& limit, const ops::Ints& stride);
/// 0, 1, ..., n - 1 as i64.
ops::Expr ramp(GraphBuilder& b, const Dim& n);

// Windows and convolutions (legalise_windows.cpp).
std::vector<ValueId> rewrite_unfold(GraphBuilder& b, const NodeView& n);
std::vector<ValueId> rewrite_fold(GraphBuilder& b, const NodeView& n);
std::vector<ValueId> rewrite_window_gather(GraphBuilder& b, const NodeView& n);
std::vector<ValueId> rewrite_window_scatter(GraphBuilder& b, const NodeView& n);
std::vector<ValueId> rewrite_conv(GraphBuilder& b, const NodeView& n);

// Sorting and scans (legalise_algorithms.cpp).
std::vector<ValueId> rewrite_argsort(GraphBuilder& b, const NodeView& n);
std::vector<ValueId> rewrite_searchsorted(GraphBuilder& b, const NodeView& n);
std::vector<ValueId> rewrite_scan(GraphBuilder& b, const NodeView& n);

}  // namespace ag::onnx

// A graph in which every op is one that ONNX files can say: primitives are written in ONNX's operators, composites
// that ONNX lacks are taken apart.
#pragma once
#include "ir/graph.hpp"

namespace ag::onnx {

/// Whether ONNX has this op, spelled so in this opset of its own domain.
bool is_spelled(const OpInfo& op, int opset);
/// The graph itself if every op is spelled in its opset; else in that opset, but 18 at least. AG0024 for an op that
/// nothing expresses. Types may be those of the new ops: the same values, shapes and element types.
Result<Graph> legalise(const Graph& graph);

}  // namespace ag::onnx

// Sizes that are computed from data: what type rules know of them, and how decompositions name them. A type rule gives
// InferCtx::unbacked(axis) for a size that it cannot tell; the decomposition computes it as an i64 vector and calls
// define_sizes (ops/dims.hpp).
#pragma once
#include "ir/ops/dims.hpp"

namespace ag::ops {

using PartDims = std::vector<std::optional<Dim>>;

/// Elements of an integer vector as far as the compiler knows them. Nothing if not even their number is known.
std::optional<PartDims> partly_known(const Graph& graph, ValueId v);
/// The same of operand i of a node under construction; AG2207 if their number is not known.
Result<PartDims> sizes_of(const InferCtx& c, std::size_t i);

/// Whether the decomposition has to name sizes of the result: they follow neither from the operands' types nor from
/// integers that the compiler knows (what it learnt since the type was made does not count).
bool names_sizes(const View& n);

/// Operand values as a vector i64[n].
Expr as_sizes(Builder& b, ValueId values);
/// Names the elements of an i64 vector by new symbols.
Dims fresh_sizes(Builder& b, Expr values);
/// A vector of one number.
Expr one_of(Builder& b, std::int64_t value);
/// The elements of `values` that belong to axes 0, ..., rank-1 where `axes` (i64[k], negative from the end) names an
/// axis for each, `otherwise` (i64[rank] or i64[1]) for the other axes.
Expr by_axis(Expr values, Expr axes, std::int64_t rank, Expr otherwise);

// The dynamic cases of ONNX's ops: types where operands are not known, and what they decompose into.
Types infer_reshape_by_data(const InferCtx& c);
std::vector<ValueId> reshape_by_data(Builder& b, const View& n);
Types infer_expand_by_data(const InferCtx& c);
std::vector<ValueId> expand_by_data(Builder& b, const View& n);
Types infer_tile_by_data(const InferCtx& c);
std::vector<ValueId> tile_by_data(Builder& b, const View& n);
std::vector<ValueId> range_by_data(Builder& b, const View& n);
Types infer_slice_by_data(const InferCtx& c);
std::vector<ValueId> slice_by_data(Builder& b, const View& n);
Types infer_split_by_data(const InferCtx& c);
std::vector<ValueId> split_by_data(Builder& b, const View& n);
Types infer_pad_by_data(const InferCtx& c);
/// What stands before the elements of each axis; may be negative. The sizes after it follow from the result's.
Dims pad_by_data(Builder& b, const View& n);

}  // namespace ag::ops

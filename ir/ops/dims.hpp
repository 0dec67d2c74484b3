// Sizes as values, and selecting along an axis: shared by ONNX's shape-taking and indexing ops.
#pragma once
#include "ir/ops/common.hpp"

namespace ag::ops {

/// A size as a scalar of dtype t.
inline Expr size_value(Builder& b, const Dim& d, DType t) {
  if (d.is_const()) return {b, is_float(t) ? b.scalar(t, static_cast<double>(d.value())) : b.scalar_int(t, d.value())};
  return {b, b.convert(b.reshape(b.add_op("dims", std::vector<ValueId>{}, {{"values", Dims{d}}}), {}), t)};
}

/// Sizes as a vector i64[n].
inline Expr size_vector(Builder& b, const Dims& d) {
  if (auto constants = as_constants(d)) return {b, b.ints(*constants)};
  return {b, b.add_op("dims", std::vector<ValueId>{}, {{"values", d}})};
}

/// Makes symbols of a result's type known: symbols[i] is element i of `values` (i64[n]), checked when it runs. For
/// decompositions of ops whose type rule named those sizes by InferCtx::unbacked(); what is not a bare unbacked symbol
/// (a size known after all) is compared by the ops that use it. From here on ordinary ops may mention the symbols.
void define_sizes(Builder& b, ValueId values, const Dims& symbols);

/// Number of elements that a reduction over `axes` of `shape` combines.
inline Dim reduced_count(const Dims& shape, const Ints& axes) {
  Dim n = 1;
  for (std::int64_t a : axes) n = n * shape[static_cast<std::size_t>(a)];
  return n;
}

/// The mean over axes, which are kept with size 1 if asked.
inline Expr mean(Expr x, const Ints& axes, bool keepdims = false) {
  Expr count = size_value(x.builder(), reduced_count(x.type().shape, axes), x.dtype());
  return reduce("reduce_sum", x, axes, keepdims) / count;
}

/// Inserts axes of size 1 so that `axes` of the result are new.
inline Dims with_unit_axis(Dims shape, std::size_t axis) {
  shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(axis), Dim(1));
  return shape;
}

/// numpy.take: x[..., indices, ...] at `axis`; indices are in range.
inline Expr take(Expr x, Expr indices, std::int64_t axis) {
  Type t = x.type();
  std::int64_t r = t.rank(), q = indices.type().rank();
  Ints offset = iota_ints(axis);
  for (std::int64_t d = axis + 1; d < r; ++d) offset.push_back(d - 1 + q);
  Dims sizes = t.shape;
  sizes[static_cast<std::size_t>(axis)] = 1;
  return x.with(x.builder().add_op("gather", {x.id(), indices.id()},
                                   {{"offset_dims", offset},
                                    {"collapsed_slice_dims", Ints{axis}},
                                    {"operand_batching_dims", Ints{}},
                                    {"start_indices_batching_dims", Ints{}},
                                    {"start_index_map", Ints{axis}},
                                    {"index_vector_dim", q},
                                    {"slice_sizes", sizes}}));
}

/// Negative indices count from the end of a size.
inline Expr wrap_negative(Expr indices, Expr size) {
  if (is_unsigned_int(indices.dtype())) return indices;
  return select(indices < indices.lit(0), indices + size, indices);
}

inline OpInfo composite(OpInfo o) {
  o.tier = Tier::composite;
  if (o.onnx.empty()) o.onnx = o.name;
  return o;
}
inline OperandSpec int_operand(std::string_view name, bool optional = false) {
  return {.name = name,
          .type_var = name,
          .dtypes = set_of(DType::i64) | set_of(DType::i32),
          .optional = optional,
          .constant_ints = true};
}

}  // namespace ag::ops

// Picking and placing along one axis, all other axes being batches: torch.gather, scatter_add; and moving along it.
#pragma once
#include "ir/ops/dims.hpp"

namespace ag::ops {

/// y[.., i, ..] = x[.., indices[.., i, ..], ..] along `axis`; the other sizes are equal and indices are in range.
inline Expr take_along(Expr x, Expr indices, std::int64_t axis) {
  std::int64_t rank = x.type().rank();
  Ints others;
  for (std::int64_t d = 0; d < rank; ++d)
    if (d != axis) others.push_back(d);
  return x.with(x.builder().add_op("gather", {x.id(), indices.id()},
                                   {{"offset_dims", Ints{}},
                                    {"collapsed_slice_dims", Ints{axis}},
                                    {"operand_batching_dims", others},
                                    {"start_indices_batching_dims", others},
                                    {"start_index_map", Ints{axis}},
                                    {"index_vector_dim", rank},
                                    {"slice_sizes", Dims(static_cast<std::size_t>(rank), 1)}}));
}

/// `into` with updates combined in at indices along `axis`: the transpose of take_along for the kind "add".
inline Expr scatter_along(Expr into, Expr indices, Expr updates, std::int64_t axis, const std::string& kind) {
  std::int64_t rank = into.type().rank();
  Ints others;
  for (std::int64_t d = 0; d < rank; ++d)
    if (d != axis) others.push_back(d);
  return into.with(into.builder().add_op("scatter", {into.id(), indices.id(), updates.id()},
                                         {{"update_window_dims", Ints{}},
                                          {"inserted_window_dims", Ints{axis}},
                                          {"input_batching_dims", others},
                                          {"scatter_indices_batching_dims", others},
                                          {"scatter_dims_to_operand_dims", Ints{axis}},
                                          {"index_vector_dim", rank},
                                          {"kind", kind}}));
}

/// y[i] = x[i - by] along `axis` (by is 1 or -1), `fill` where there is none.
inline Expr shifted(Expr x, std::int64_t axis, std::int64_t by, double fill = 0) {
  Dims shape = x.type().shape, low(shape.size(), 0), high(shape.size(), 0);
  auto d = static_cast<std::size_t>(axis);
  if (shape[d].is(0)) return x;
  low[d] = by;
  high[d] = -by;
  Ints interior(shape.size(), 0);
  return x.with(
      x.builder().add_op("pad", {x.id(), x.lit(fill).id()}, {{"low", low}, {"high", high}, {"interior", interior}}));
}

/// Elements [from, to) along `axis`.
inline Expr slice_along(Expr x, std::int64_t axis, const Dim& from, const Dim& to) {
  Dims limit = x.type().shape, start(limit.size(), 0);
  start[static_cast<std::size_t>(axis)] = from;
  limit[static_cast<std::size_t>(axis)] = to;
  return x.with(x.builder().slice(x, start, limit));
}

/// What `along(axis)` gives for the axis that an integer operand names when it runs; one outside [-rank, rank) is a
/// run-time error if there are several. All alternatives are computed.
template <class F>
Expr by_data_axis(Expr axis, std::int64_t rank, F along) {
  GraphBuilder& b = axis.builder();
  axis = axis.with(b.reshape(axis, {})).to(DType::i64);
  axis = wrap_negative(axis, axis.with(b.scalar_int(DType::i64, rank)));
  axis = take(axis.with(b.ints(iota_ints(rank))), axis, 0);  // checks the range
  Expr out = along(0);
  for (std::int64_t d = 1; d < rank; ++d) out = select(axis == axis.with(b.scalar_int(DType::i64, d)), along(d), out);
  return out;
}

/// Samples like one in each dtype of a set: of the operands that have the first one's.
inline std::vector<OpSample> in_dtypes(std::vector<OpSample> samples, const OpSample& like, DTypeSet set) {
  for (int i = 0; i < dtype_count; ++i) {
    const auto t = static_cast<DType>(i);
    if (!set.has(t)) continue;
    OpSample s = like;
    for (OpSample::Operand& o : s.operands) {
      if (o.literal || o.type.dtype != like.operands[0].type.dtype) continue;
      o.type.dtype = t;
      if (is_unsigned_int(t)) o.low = std::max(o.low, 0.0);
    }
    samples.push_back(std::move(s));
  }
  return samples;
}

/// For batching rules: an operand that has no batch axis, repeated along it.
inline ValueId with_batch(GraphBuilder& b, const BatchArgs& args, std::size_t i) {
  ValueId v = args.operands[i];
  if (args.batched[i]) return v;
  Dims shape = b.type(v).shape;
  shape.insert(shape.begin(), args.size);
  return b.broadcast_to(v, shape);
}
/// The batching rule of an op whose first axes are batches anyway.
inline std::vector<ValueId> batch_in_front(GraphBuilder& b, const NodeView& n, const BatchArgs& args) {
  std::vector<ValueId> operands;
  for (std::size_t i = 0; i < args.operands.size(); ++i) operands.push_back(with_batch(b, args, i));
  return b.add_multi(n.node().op->name, operands, n.attrs());
}

/// 0, 1, ... along `axis` as i64 in the shape of x.
inline Expr places_along(Expr x, std::int64_t axis) {
  return x.with(x.builder().iota(x.type().with(DType::i64), axis));
}

}  // namespace ag::ops

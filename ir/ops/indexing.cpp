// gather and scatter with StableHLO's dimension numbers. An index out of range is a run-time error (StableHLO clamps
// or drops it). Updates are applied in row-major order of `updates`: with equal indices the last `set` wins.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ir/ops/batching.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Both ops' dimension numbers, under gather's names. `windowed` is gather's result or scatter's updates: its axes
/// are the window's (offset) ones, and the batch axes, which are those of the indices without the index vector.
struct Numbers {
  Ints offset, collapsed, operand_batching, indices_batching, index_map;
  std::int64_t index_vector_dim = 0;

  /// Axes of the windowed value that are batch axes.
  Ints batch(std::size_t rank) const {
    Ints out;
    for (std::size_t d = 0; d < rank; ++d)
      if (!contains(offset, static_cast<std::int64_t>(d))) out.push_back(static_cast<std::int64_t>(d));
    return out;
  }
  /// Operand axes that the window runs over, in order.
  Ints window(std::size_t operand_rank) const {
    Ints out;
    for (std::size_t d = 0; d < operand_rank; ++d) {
      auto k = static_cast<std::int64_t>(d);
      if (!contains(collapsed, k) && !contains(operand_batching, k)) out.push_back(k);
    }
    return out;
  }
  /// Which batch axis indices axis `d` is.
  std::int64_t batch_of(std::int64_t d) const { return d - (index_vector_dim < d ? 1 : 0); }
};

Numbers gather_numbers(const Attrs& a) {
  return {attr_ints(a, "offset_dims"),           attr_ints(a, "collapsed_slice_dims"),
          attr_ints(a, "operand_batching_dims"), attr_ints(a, "start_indices_batching_dims"),
          attr_ints(a, "start_index_map"),       attr_int(a, "index_vector_dim", 0)};
}
Numbers scatter_numbers(const Attrs& a) {
  return {attr_ints(a, "update_window_dims"),           attr_ints(a, "inserted_window_dims"),
          attr_ints(a, "input_batching_dims"),          attr_ints(a, "scatter_indices_batching_dims"),
          attr_ints(a, "scatter_dims_to_operand_dims"), attr_int(a, "index_vector_dim", 0)};
}
Attrs gather_attrs(const Numbers& n, Dims sizes) {
  return {{"offset_dims", n.offset},
          {"collapsed_slice_dims", n.collapsed},
          {"operand_batching_dims", n.operand_batching},
          {"start_indices_batching_dims", n.indices_batching},
          {"start_index_map", n.index_map},
          {"index_vector_dim", n.index_vector_dim},
          {"slice_sizes", std::move(sizes)}};
}
Attrs scatter_attrs(const Numbers& n, std::string kind) {
  return {{"update_window_dims", n.offset},
          {"inserted_window_dims", n.collapsed},
          {"input_batching_dims", n.operand_batching},
          {"scatter_indices_batching_dims", n.indices_batching},
          {"scatter_dims_to_operand_dims", n.index_map},
          {"index_vector_dim", n.index_vector_dim},
          {"kind", std::move(kind)}};
}

bool distinct_in_range(Ints v, std::int64_t rank) {
  std::sort(v.begin(), v.end());
  return std::adjacent_find(v.begin(), v.end()) == v.end() && (v.empty() || (v.front() >= 0 && v.back() < rank));
}

/// What makes dimension numbers meaningless, in words; empty if they are sound.
std::string flaw(const Numbers& n, const Type& operand, const Type& indices, std::size_t windowed_rank) {
  std::int64_t rank = operand.rank(), indices_rank = indices.rank();
  Ints gone = n.collapsed;
  gone.insert(gone.end(), n.operand_batching.begin(), n.operand_batching.end());
  if (!distinct_in_range(gone, rank)) return "collapsed and batching axes must be distinct axes of the operand";
  if (!distinct_in_range(n.index_map, rank)) return "the index map must name distinct axes of the operand";
  for (std::int64_t d : n.index_map)
    if (contains(n.operand_batching, d)) return "a batching axis cannot be indexed";
  if (n.index_vector_dim < 0 || n.index_vector_dim > indices_rank)
    return "the index vector's axis is not one of the indices'";
  Dim length = n.index_vector_dim < indices_rank ? indices.shape[at(n.index_vector_dim)] : Dim(1);
  if (!length.is(static_cast<std::int64_t>(n.index_map.size())))
    return "the index vector's length must be constant and that of the index map";
  if (!distinct_in_range(n.indices_batching, indices_rank) || contains(n.indices_batching, n.index_vector_dim))
    return "batching axes of the indices must be distinct axes";
  if (n.indices_batching.size() != n.operand_batching.size()) return "operand and indices need as many batching axes";
  if (!distinct_in_range(n.offset, static_cast<std::int64_t>(windowed_rank)))
    return "window axes must be distinct axes";
  if (n.offset.size() != at(rank) - gone.size())
    return "there must be as many window axes as axes of the operand that are neither collapsed nor batching";
  return {};
}

/// Batch sizes: the indices' axes without the index vector.
Dims batch_sizes(const Numbers& n, const Type& indices) {
  Dims out;
  for (std::int64_t d = 0; d < indices.rank(); ++d)
    if (d != n.index_vector_dim) out.push_back(indices.shape[at(d)]);
  return out;
}

std::size_t windowed_rank(const Numbers& n, const Type& indices) {
  return batch_sizes(n, indices).size() + n.offset.size();
}

Types infer_gather(const InferCtx& c) {
  Numbers n = gather_numbers(c.attrs());
  Dims sizes = attr_dims(c.attrs(), "slice_sizes");
  const Type &operand = c.in(0), &indices = c.in(1);
  std::size_t rank = windowed_rank(n, indices);
  if (std::string why = flaw(n, operand, indices, rank); !why.empty())
    return c.error(Code::AG2206, "`gather`: " + why, {}, {0, 1});
  if (sizes.size() != operand.shape.size())
    return c.error(Code::AG2206,
                   fmt::format("`gather`: `slice_sizes` has {} entries for rank {}", sizes.size(), operand.rank()), {},
                   {0});
  for (std::size_t d = 0; d < sizes.size(); ++d) {
    auto k = static_cast<std::int64_t>(d);
    bool single = contains(n.collapsed, k) || contains(n.operand_batching, k);
    Dim room = operand.shape[d] - sizes[d];
    if ((single && !sizes[d].is(1)) || (room.is_const() && room.value() < 0 && !(single && operand.shape[d].is(0))))
      return c.error(
          Code::AG2206,
          fmt::format("`gather`: a slice of {} on axis {} of size {}", sizes[d].str(), d, operand.shape[d].str()), {},
          {0});
  }
  Dims batch = batch_sizes(n, indices), shape(rank);
  Ints batch_axes = n.batch(rank), window = n.window(operand.shape.size());
  for (std::size_t i = 0; i < batch_axes.size(); ++i) shape[at(batch_axes[i])] = batch[i];
  for (std::size_t i = 0; i < n.offset.size(); ++i) shape[at(n.offset[i])] = sizes[at(window[i])];
  AG_TRY_(checked_shape(c, shape));
  return std::vector<Type>{{operand.dtype, std::move(shape)}};
}

// ---- Indices of one element -------------------------------------------------------------------------------

/// Position in the indices of component `k` of the index vector that belongs to a windowed index.
template <class V>
std::vector<V> indices_position(const Numbers& n, std::size_t indices_rank, std::span<const V> index, V k) {
  std::vector<V> out;
  for (std::int64_t d : n.batch(index.size())) out.push_back(index[at(d)]);
  if (at(n.index_vector_dim) < indices_rank) out.insert(out.begin() + n.index_vector_dim, k);
  return out;
}

loop::ValueId gather_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  View node = c.node();
  Numbers n = gather_numbers(node.attrs());
  Dims operand = node.in(0).shape, sizes = attr_dims(node.attrs(), "slice_sizes");
  std::size_t indices_rank = node.in(1).shape.size();
  std::vector<loop::ValueId> position(operand.size(), b.index(0));
  Ints window = n.window(operand.size()), batch = n.batch(index.size());
  for (std::size_t i = 0; i < window.size(); ++i) position[at(window[i])] = index[at(n.offset[i])];
  for (std::size_t i = 0; i < n.operand_batching.size(); ++i)
    position[at(n.operand_batching[i])] = index[at(batch[at(n.batch_of(n.indices_batching[i]))])];
  for (std::size_t k = 0; k < n.index_map.size(); ++k) {
    std::size_t axis = at(n.index_map[k]);
    loop::ValueId start = b.cast(
        c.operand(1, indices_position(n, indices_rank, index, b.index(static_cast<std::int64_t>(k)))), DType::i64);
    loop::ValueId last = b.dim(operand[axis] - sizes[axis]), zero = b.index(0);
    c.trap(b.op(L::or_, {b.op(L::cmp_lt, {start, zero}), b.op(L::cmp_gt, {start, last})}),
           static_cast<std::uint32_t>(loop::Trap::index_out_of_range), start);
    loop::ValueId safe = b.op(L::max, {b.op(L::min, {start, last}), zero});
    position[axis] = b.add(position[axis], safe);
  }
  return c.operand(0, position);
}

struct OutOfRange {
  std::int64_t index, bound;
};
Diag out_of_range(const EvalCtx& c, OutOfRange o) {
  return error(Code::AG5012, place(c),
               fmt::format("index {} is out of range: indices of `{}` are 0 to {}", o.index, c.node.node().op->name,
                           o.bound - 1));
}

/// Operand offset of a windowed index, or what is wrong with its index vector. `sizes` are the window's.
std::expected<std::int64_t, OutOfRange> operand_offset(const Numbers& n, const Shape& index, const Array& operand,
                                                       const Array& indices, const Shape& sizes) {
  Shape strides = row_major_strides(operand.shape()), indices_strides = row_major_strides(indices.shape());
  Ints window = n.window(operand.shape().size()), batch = n.batch(index.size());
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < window.size(); ++i) sum += index[at(n.offset[i])] * strides[at(window[i])];
  for (std::size_t i = 0; i < n.operand_batching.size(); ++i)
    sum += index[at(batch[at(n.batch_of(n.indices_batching[i]))])] * strides[at(n.operand_batching[i])];
  for (std::size_t k = 0; k < n.index_map.size(); ++k) {
    std::size_t axis = at(n.index_map[k]);
    Shape where =
        indices_position<std::int64_t>(n, indices.shape().size(), std::span(index), static_cast<std::int64_t>(k));
    std::int64_t start = indices.get_int(flat_index(where, indices_strides)),
                 count = operand.shape()[axis] - sizes[axis] + 1;
    if (start < 0 || start >= count) return std::unexpected(OutOfRange{start, count});
    sum += start * strides[axis];
  }
  return sum;
}

Result<std::vector<Array>> gather_eval(const EvalCtx& c) {
  Numbers n = gather_numbers(c.node.attrs());
  Shape sizes = concrete(c, attr_dims(c.node.attrs(), "slice_sizes"));
  std::optional<OutOfRange> bad;
  Array out = copy_elements(c.in[0], c.out_shapes[0], [&](const Shape& index) {
    auto offset = operand_offset(n, index, c.in[0], c.in[1], sizes);
    if (!offset && !bad) bad = offset.error();
    return offset ? *offset : -1;
  });
  if (bad) return fail(out_of_range(c, *bad));
  return one(std::move(out));
}

ValueId gather_transpose(Builder& b, const View& n, std::size_t, ValueId ct) {
  return b.add_op("scatter", {b.zeros(Type(n.in(0))), n.operand(1), ct},
                  scatter_attrs(gather_numbers(n.attrs()), "add"));
}

// ---- scatter ----------------------------------------------------------------------------------------------

/// The window's size on each axis of the operand, from the shape of the updates.
Dims window_sizes(const Numbers& n, const Dims& operand, const Dims& updates) {
  Dims sizes(operand.size(), 1);
  Ints window = n.window(operand.size());
  for (std::size_t i = 0; i < window.size(); ++i) sizes[at(window[i])] = updates[at(n.offset[i])];
  return sizes;
}

Types infer_scatter(const InferCtx& c) {
  if (is_storage(c.in(0).dtype) && attr_string(c.attrs(), "kind", "set") != "set")
    return c.error(Code::AG2101, fmt::format("`scatter` combines no elements of {}", dtype_name(c.in(0).dtype)),
                   "storage types are only written", {0});
  Numbers n = scatter_numbers(c.attrs());
  const Type &operand = c.in(0), &indices = c.in(1), &updates = c.in(2);
  std::size_t rank = windowed_rank(n, indices);
  if (updates.shape.size() != rank)
    return c.error(Code::AG2204,
                   fmt::format("`scatter` needs updates of rank {} for these indices: {} is {}", rank,
                               operand_name(c, 2), updates.str()),
                   {}, {1, 2});
  if (std::string why = flaw(n, operand, indices, rank); !why.empty())
    return c.error(Code::AG2206, "`scatter`: " + why, {}, {0, 1, 2});
  Dims batch = batch_sizes(n, indices), sizes = window_sizes(n, operand.shape, updates.shape);
  Ints batch_axes = n.batch(rank);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const Dim& u = updates.shape[at(batch_axes[i])];
    if (u.is_const() && batch[i].is_const() && u != batch[i])
      return c.error(Code::AG2208,
                     fmt::format("`scatter`: axis {} of the updates {} is {}, the indices have {}", batch_axes[i],
                                 updates.str(), u.str(), batch[i].str()),
                     {}, {1, 2});
  }
  for (std::size_t d = 0; d < sizes.size(); ++d)
    if (Dim room = operand.shape[d] - sizes[d];
        sizes[d].is_const() && !sizes[d].is(1) && room.is_const() && room.value() < 0)
      return c.error(Code::AG2208,
                     fmt::format("`scatter`: updates {} do not fit {} on axis {}", updates.str(), operand.str(), d), {},
                     {0, 2});
  return std::vector<Type>{operand};
}

double combine(const std::string& kind, double a, double u) {
  if (kind == "add") return a + u;
  if (kind == "mul") return a * u;
  if (std::isnan(a) || std::isnan(u)) return std::numeric_limits<double>::quiet_NaN();
  bool take_u = kind == "max" ? u > a || (u == a && std::signbit(a)) : u < a || (u == a && std::signbit(u));
  return take_u ? u : a;
}

std::int64_t combine(const std::string& kind, std::int64_t a, std::int64_t u, bool is_unsigned) {
  if (kind == "add") return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(u));
  if (kind == "mul") return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(u));
  bool less = is_unsigned ? static_cast<std::uint64_t>(u) < static_cast<std::uint64_t>(a) : u < a;
  return (kind == "min") == less ? u : a;
}

/// Updates in row-major order; f16 and bf16 combine in f32 and round once at the end.
Result<std::vector<Array>> scatter_eval(const EvalCtx& c) {
  Numbers n = scatter_numbers(c.node.attrs());
  std::string kind = attr_string(c.node.attrs(), "kind", "set");
  const Array &updates = c.in[2], &operand = c.in[0];
  DType t = operand.dtype();
  Array acc = operand;
  if (t != accumulator_dtype(t)) {
    acc = Array(accumulator_dtype(t), operand.shape());
    for (std::int64_t i = 0; i < acc.elems(); ++i) acc.set_double(i, operand.get_double(i));
  }
  Dims sizes = window_sizes(n, Dims(operand.shape().begin(), operand.shape().end()),
                            Dims(updates.shape().begin(), updates.shape().end()));
  Shape window = concrete(c, sizes);
  std::optional<OutOfRange> bad;
  for_each_index(updates.shape(), [&](const Shape& index, std::int64_t flat) {
    auto offset = operand_offset(n, index, operand, c.in[1], window);
    if (!offset) {
      if (!bad) bad = offset.error();
    } else if (is_float(t)) {
      acc.set_double(*offset, kind == "set" ? updates.get_double(flat)
                                            : combine(kind, acc.get_double(*offset), updates.get_double(flat)));
    } else {
      acc.set_int(*offset, kind == "set"
                               ? updates.get_int(flat)
                               : combine(kind, acc.get_int(*offset), updates.get_int(flat), is_unsigned_int(t)));
    }
  });
  if (bad) return fail(out_of_range(c, *bad));
  if (acc.dtype() == t) return one(std::move(acc));
  Array out(t, operand.shape());
  for (std::int64_t i = 0; i < out.elems(); ++i) out.set_double(i, acc.get_double(i));
  return one(std::move(out));
}

/// Graph-building view of a scatter node: the same dimension numbers with other values.
struct Scatter {
  Builder& b;
  Numbers n;
  std::string kind;
  Expr x, indices, u, y;
  Dims sizes;

  Scatter(Builder& builder, const View& v)
      : b(builder),
        n(scatter_numbers(v.attrs())),
        kind(attr_string(v.attrs(), "kind", "set")),
        x(b, v.operand(0)),
        indices(b, v.operand(1)),
        u(b, v.operand(2)),
        y(b, v.result()),
        sizes(window_sizes(n, v.in(0).shape, v.in(2).shape)) {}
  Expr into(Expr operand, Expr updates, const char* how) const {
    return x.with(b.add_op("scatter", {operand.id(), indices.id(), updates.id()}, scatter_attrs(n, how)));
  }
  Expr from(Expr operand) const {
    return x.with(b.add_op("gather", {operand.id(), indices.id()}, gather_attrs(n, sizes)));
  }
  Expr zeros(Expr like) const { return x.with(b.zeros(like.type())); }

  /// dy/dx and dy/du, elementwise at their own places (`u` gathers from y).
  std::pair<Expr, Expr> slopes() const {
    if (kind == "add") return {x.lit(1), x.lit(1)};
    if (kind == "set") {
      // Each element of the result takes the last update that meets it: mark it by the update's number.
      Expr number = x.with(
          b.add(b.reshape(b.iota({DType::i64, {u.type().elems()}}, 0), u.type().shape), b.scalar_int(DType::i64, 1)));
      Expr last = into(x.with(b.zeros(x.type().with(DType::i64))), number, "max");
      return {(last == last.lit(0)).to(x.dtype()), (from(last) == number).to(x.dtype())};
    }
    if (kind == "mul") return product_slopes();
    Expr won_x = (x == y).to(x.dtype()), won_u = (u == from(y)).to(x.dtype());
    Expr share = into(won_x, won_u, "add");
    return {won_x / max(share, share.lit(1)), won_u / from(max(share, share.lit(1)))};
  }

  /// The product of all other factors, right with any number of zeros.
  std::pair<Expr, Expr> product_slopes() const {
    Expr zero_x = x == 0.0, zero_u = u == 0.0;
    Expr zeros = into(zero_x.to(x.dtype()), zero_u.to(x.dtype()), "add");
    Expr rest = into(select(zero_x, 1, x), select(zero_u, 1, u), "mul");
    auto slope = [](Expr factor, Expr zero, Expr count, Expr all) {
      return select(zero, select(count == 1.0, all, 0), select(count == 0.0, all / select(zero, 1, factor), 0));
    };
    return {slope(x, zero_x, zeros, rest), slope(u, zero_u, from(zeros), from(rest))};
  }
};

void scatter_vjp(Builder& b, const View& v, Cotangents ct, Grads& grads) {
  Scatter s(b, v);
  Expr g(b, ct[0]);
  auto [dx, du] = s.slopes();
  grads[0] = g * dx;
  grads[2] = s.from(g) * du;
}

void scatter_jvp(Builder& b, const View& v, Cotangents t, std::vector<ValueId>& out) {
  Scatter s(b, v);
  auto [dx, du] = s.slopes();
  Expr tx = t[0] ? Expr(b, t[0]) * dx : s.zeros(s.x), tu = t[2] ? Expr(b, t[2]) * du : s.zeros(s.u);
  out[0] = s.into(tx, tu, "add");
}

// ---- Batching ---------------------------------------------------------------------------------------------

/// Numbers for one more axis in front: of the operand and the windowed value (a window axis) if only those are
/// batched, of the indices if only they are, of all (a batching axis) otherwise.
Numbers batched_numbers(Numbers n, bool operand, bool indices) {
  n.offset = behind_batch(n.offset);
  if (operand) {
    n.collapsed = behind_batch(n.collapsed);
    n.operand_batching = behind_batch(n.operand_batching);
    n.index_map = behind_batch(n.index_map);
  }
  if (indices) {
    n.indices_batching = behind_batch(n.indices_batching);
    ++n.index_vector_dim;
  }
  if (operand && indices) {
    n.operand_batching.insert(n.operand_batching.begin(), 0);
    n.indices_batching.insert(n.indices_batching.begin(), 0);
  } else if (operand) {
    n.offset.insert(n.offset.begin(), 0);
  }
  return n;
}

std::vector<ValueId> gather_batch(Builder& b, const View& v, const BatchArgs& a) {
  Dims sizes = attr_dims(v.attrs(), "slice_sizes");
  if (a.batched[0]) sizes.insert(sizes.begin(), a.batched[1] ? Dim(1) : a.size);
  Numbers n = batched_numbers(gather_numbers(v.attrs()), a.batched[0], a.batched[1]);
  return {b.add_op("gather", {a.operands[0], a.operands[1]}, gather_attrs(n, std::move(sizes)))};
}

std::vector<ValueId> scatter_batch(Builder& b, const View& v, const BatchArgs& a) {
  Numbers n = batched_numbers(scatter_numbers(v.attrs()), true, a.batched[1]);
  return {b.add_op("scatter", {with_batch_axis(b, v, a, 0), a.operands[1], with_batch_axis(b, v, a, 2)},
                   scatter_attrs(n, attr_string(v.attrs(), "kind", "set")))};
}

// ---- Samples ----------------------------------------------------------------------------------------------

OpSample::Operand index_operand(std::string_view type, const Ints& values) {
  Type t = sample_type(type);
  return {t, make_literal(Array::of<std::int64_t>(t.dtype, *static_shape(t.shape), values))};
}

std::vector<OpSample> gather_samples() {
  OpSample rows{{sample_operand("f64[4,3]"), index_operand("i64[2]", {3, 1})},
                gather_attrs({{1}, {0}, {}, {}, {0}, 1}, {1, 3})};
  OpSample points{{sample_operand("f64[4,3]"), index_operand("i32[3,2]", {3, 1, 0, 2, 3, 1})},
                  gather_attrs({{}, {0, 1}, {}, {}, {0, 1}, 1}, {1, 1})};
  OpSample windows{{sample_operand("f64[4,3]"), index_operand("i64[2,1]", {2, 0})},
                   gather_attrs({{1, 2}, {}, {}, {}, {0}, 1}, {2, 3})};
  OpSample batched{{sample_operand("f64[2,4]"), index_operand("i64[2,3]", {3, 0, 0, 1, 1, 2})},
                   gather_attrs({{}, {1}, {0}, {0}, {1}, 2}, {1, 1})};
  OpSample none{{sample_operand("f32[4,3]"), index_operand("i64[0]", {})},
                gather_attrs({{1}, {0}, {}, {}, {0}, 1}, {1, 3})};
  return {rows, points, windows, batched, none};
}

std::vector<OpSample> scatter_samples() {
  std::vector<OpSample> out;
  for (const char* kind : {"set", "add", "mul", "min", "max"}) {
    out.push_back({{sample_operand("f64[4,3]"), index_operand("i64[3]", {3, 1, 3}), sample_operand("f64[3,3]")},
                   scatter_attrs({{1}, {0}, {}, {}, {0}, 1}, kind)});
    out.push_back(
        {{sample_operand("i32[4]", -9, 9), index_operand("i64[2,1]", {2, 2}), sample_operand("i32[2]", -9, 9)},
         scatter_attrs({{}, {0}, {}, {}, {0}, 1}, kind)});
  }
  out.push_back(
      {{sample_operand("f64[2,4]"), index_operand("i64[2,3]", {3, 0, 0, 1, 1, 2}), sample_operand("f64[2,3]")},
       scatter_attrs({{}, {1}, {0}, {0}, {1}, 2}, "add")});
  return out;
}

}  // namespace

std::vector<OpInfo> indexing_ops() {
  OpInfo gather{
      .name = "gather", .lower_class = LowerClass::index, .summary = "windows of the operand at computed places"};
  gather.operands = {{.name = "operand"}, {.name = "indices", .type_var = "I", .dtypes = ints}};
  gather.attrs = {
      {"offset_dims", AttrKind::ints, true, "axes of the result that run over the window"},
      {"collapsed_slice_dims", AttrKind::ints, true, "axes of the operand of window size 1 that are dropped"},
      {"operand_batching_dims", AttrKind::ints},
      {"start_indices_batching_dims", AttrKind::ints},
      {"start_index_map", AttrKind::ints, true, "the operand axis that each component of an index vector indexes"},
      {"index_vector_dim", AttrKind::integer, true,
       "axis of the indices that holds index vectors; their rank if they are scalars"},
      {"slice_sizes", AttrKind::dims, true, "the window"}};
  gather.infer = infer_gather;
  gather.eval = gather_eval;
  gather.linearity = Linearity::each;
  gather.linear_in = 1;
  gather.transpose = gather_transpose;
  gather.element = gather_element;
  gather.batch = gather_batch;
  gather.samples = gather_samples;

  OpInfo scatter{.name = "scatter",
                 .lower_class = LowerClass::scatter,
                 .summary = "the operand with updates combined in at computed places"};
  scatter.operands = {{.name = "operand", .dtypes = any_dtype},
                      {.name = "indices", .type_var = "I", .dtypes = ints},
                      {.name = "updates", .dtypes = any_dtype}};
  scatter.attrs = {
      {"update_window_dims", AttrKind::ints, true, "axes of the updates that run over the window"},
      {"inserted_window_dims", AttrKind::ints, true, "axes of the operand of window size 1 that the updates lack"},
      {"input_batching_dims", AttrKind::ints},
      {"scatter_indices_batching_dims", AttrKind::ints},
      {"scatter_dims_to_operand_dims", AttrKind::ints, true,
       "the operand axis that each component of an index vector indexes"},
      {"index_vector_dim", AttrKind::integer, true,
       "axis of the indices that holds index vectors; their rank if they are scalars"},
      choice_attr("kind", {"set", "add", "mul", "min", "max"})};
  scatter.infer = infer_scatter;
  scatter.eval = scatter_eval;
  scatter.vjp = scatter_vjp;
  scatter.jvp = scatter_jvp;
  scatter.batch = scatter_batch;
  scatter.samples = scatter_samples;
  return {gather, scatter};
}

}  // namespace ag

#include "ir/ops/data_sizes.hpp"

#include "ir/symbols.hpp"

namespace ag::ops {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
constexpr int max_walk = 32;

std::optional<PartDims> walk(const Graph& g, ValueId v, int depth) {
  const Type& t = g.type(v);
  if (const auto& known = g.value(v).known_ints) return PartDims(known->begin(), known->end());
  if (!t.elems().is_const() || t.rank() > 1 || t.elems().value() > 64) return std::nullopt;
  const Node& n = g.def(v);
  if (depth < max_walk && t.rank() == 1 && (n.op->name == "Concat" || n.op->name == "concat")) {
    PartDims out;
    for (ValueId part : n.operands) {
      auto some = walk(g, part, depth + 1);
      if (!some) return std::nullopt;
      out.insert(out.end(), some->begin(), some->end());
    }
    return out;
  }
  return PartDims(at(t.elems().value()));
}

/// True where an operand of this rank-1 kind can be worked with at all.
std::unexpected<Diags> unknown_number(const InferCtx& c, std::size_t i) {
  std::string_view what = c.op().operands[std::min(i, c.op().operands.size() - 1)].name;
  return c.error(Code::AG2207,
                 fmt::format("`{}` needs to know how many elements `{}` has, and {} is {}", op_title(c), what,
                             operand_name(c, i), c.in(i).str()),
                 "decides the rank of the result", {i});
}

Expr vector_of(Expr scalar) { return scalar.with(scalar.builder().reshape(scalar, {1})); }
Expr shape_vector(Builder& b, const Dims& shape) { return size_vector(b, shape); }

}  // namespace

std::optional<PartDims> partly_known(const Graph& graph, ValueId v) { return walk(graph, v, 0); }

Result<PartDims> sizes_of(const InferCtx& c, std::size_t i) {
  if (auto some = partly_known(c.graph(), c.operand(i))) return std::move(*some);
  return unknown_number(c, i);
}

bool names_sizes(const View& n) {
  std::set<std::string> given;
  for (std::size_t i = 0; i < n.operand_count(); ++i) {
    if (!n.has(i)) continue;
    for (const Dim& d : n.in(i).shape) d.collect_symbols(given);
    if (auto ints = known(n, i))
      for (const Dim& d : *ints) d.collect_symbols(given);
  }
  for (std::uint32_t r = 0; r < n.node().result_count; ++r)
    for (const Dim& d : n.out(r).shape)
      if (auto s = d.as_symbol(); s && is_unbacked(*s) && !given.contains(*s)) return true;
  return false;
}

Expr as_sizes(Builder& b, ValueId values) {
  Expr v = Expr(b, values).to(DType::i64);
  return v.type().rank() == 1 ? v : v.with(b.reshape(v, {v.type().elems()}));
}

Dims fresh_sizes(Builder& b, Expr values) {
  Dims out;
  for (ValueId v : b.add_multi("sizes", {values.id()})) out.push_back(b.type(v).shape[0]);
  return out;
}

Expr one_of(Builder& b, std::int64_t value) { return {b, b.ints(std::span(&value, 1))}; }

Expr by_axis(Expr values, Expr axes, std::int64_t rank, Expr otherwise) {
  Builder& b = values.builder();
  const Dim k = values.type().shape[0];
  axes = select(axes < 0.0, axes + static_cast<double>(rank), axes);
  Type grid{DType::i64, {Dim(rank), k}};
  Expr hit = values.with(b.iota(grid, 0)) == values.with(b.broadcast_to(axes, grid.shape));
  Expr spread = values.with(b.broadcast_to(values, grid.shape));
  Expr picked = reduce("reduce_sum", select(hit, spread, 0), {1});
  Expr any = reduce("reduce_sum", hit.to(DType::i64), {1}) > 0.0;
  return select(any, picked, values.with(b.broadcast_to(otherwise, {Dim(rank)})));
}

// ---- Reshape ----------------------------------------------------------------------------------------------

Types infer_reshape_by_data(const InferCtx& c) {
  AG_TRY(PartDims wanted, sizes_of(c, 1));
  bool allow_zero = attr_int(c.attrs(), "allowzero", 0) != 0;
  const Dims& from = c.in(0).shape;
  Type t{c.in(0).dtype, {}};
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto& w = wanted[i];
    if (w && w->is(0) && !allow_zero && i < from.size())
      t.shape.push_back(from[i]);
    else if (w && !(w->is_const() && w->value() < 0))
      t.shape.push_back(*w);
    else
      t.shape.push_back(c.unbacked(i));
  }
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

std::vector<ValueId> reshape_by_data(Builder& b, const View& n) {
  Dims from = n.in(0).shape, to = n.out().shape;
  Expr wanted = as_sizes(b, n.operand(1));
  std::size_t k = to.size();
  if (attr_int(n.attrs(), "allowzero", 0) == 0) {
    // 0 copies a size; where there is none to copy it is an error, as a negative size is.
    Dims copied;
    for (std::size_t i = 0; i < k; ++i) copied.push_back(i < from.size() ? from[i] : Dim(-2));
    wanted = select(wanted == 0.0, shape_vector(b, copied), wanted);
  }
  Expr open = wanted == -1.0;
  Expr others = reduce("reduce_prod", select(open, 1, wanted), {0});
  Expr rest = size_value(b, product(from), DType::i64) / max(others, others.lit(1));
  Expr sizes = select(open, wanted.with(b.broadcast_to(rest, {Dim(static_cast<std::int64_t>(k))})), wanted);
  define_sizes(b, sizes, to);
  return {b.reshape(n.operand(0), to)};
}

// ---- Expand, Tile -----------------------------------------------------------------------------------------

Types infer_expand_by_data(const InferCtx& c) {
  AG_TRY(PartDims wanted, sizes_of(c, 1));
  const Dims& from = c.in(0).shape;
  std::size_t rank = std::max(from.size(), wanted.size());
  Type t{c.in(0).dtype, Dims(rank)};
  for (std::size_t d = 0; d < rank; ++d) {
    std::optional<Dim> have = Dim(1), want = Dim(1);
    if (d + from.size() >= rank) have = from[d + from.size() - rank];
    if (d + wanted.size() >= rank) want = wanted[d + wanted.size() - rank];
    if (!want) {
      t.shape[d] = c.unbacked(d);
      continue;
    }
    auto both = broadcast_shapes({*have}, {*want});
    if (!both)
      return c.error(Code::AG2201, fmt::format("`Expand` cannot broadcast {} with {}", have->str(), want->str()), {},
                     {0, 1});
    t.shape[d] = (*both)[0];
  }
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

std::vector<ValueId> expand_by_data(Builder& b, const View& n) {
  Dims from = n.in(0).shape, to = n.out().shape;
  Expr wanted = as_sizes(b, n.operand(1));
  std::size_t rank = to.size(), k = at(wanted.type().shape[0].value());
  Dims have(rank - from.size(), 1);
  have.insert(have.end(), from.begin(), from.end());
  if (k < rank) {
    Ints ones(rank - k, 1);
    wanted = wanted.with(b.concat({b.ints(ones), wanted}, 0));
  }
  Expr size = shape_vector(b, have);
  Expr fits = select(either(wanted == 1.0, wanted == size), size, select(size == 1.0, wanted, wanted.lit(-1)));
  define_sizes(b, fits, to);
  return {b.broadcast_to(n.operand(0), to)};
}

Types infer_tile_by_data(const InferCtx& c) {
  AG_TRY(PartDims repeats, sizes_of(c, 1));
  if (repeats.size() != c.in(0).shape.size())
    return c.error(Code::AG2206,
                   fmt::format("`Tile` needs a repeat for each axis: {} for {}", repeats.size(), c.in(0).str()), {},
                   {0, 1});
  Type t = c.in(0);
  for (std::size_t d = 0; d < repeats.size(); ++d) t.shape[d] = repeats[d] ? t.shape[d] * *repeats[d] : c.unbacked(d);
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

std::vector<ValueId> tile_by_data(Builder& b, const View& n) {
  Dims from = n.in(0).shape, to = n.out().shape, split;
  Expr repeats = as_sizes(b, n.operand(1));
  Dims times = fresh_sizes(b, repeats);
  define_sizes(b, repeats * shape_vector(b, from), to);
  Ints dims;
  for (std::size_t d = 0; d < from.size(); ++d) {
    split.push_back(times[d]);
    split.push_back(from[d]);
    dims.push_back(static_cast<std::int64_t>(2 * d + 1));
  }
  return {b.reshape(b.broadcast_in_dim(n.operand(0), split, dims), to)};
}

// ---- Range ------------------------------------------------------------------------------------------------

std::vector<ValueId> range_by_data(Builder& b, const View& n) {
  auto scalar = [&](std::size_t i) { return Expr(b, b.reshape(n.operand(i), {})); };
  Expr start = scalar(0), limit = scalar(1), delta = scalar(2), count;
  if (is_float(start.dtype())) {
    auto wide = [](Expr x) { return x.to(DType::f64); };
    Expr steps = call("ceil", (wide(limit) - wide(start)) / wide(delta));
    count = max(steps, steps.lit(0)).to(DType::i64);
  } else {
    auto wide = [](Expr x) { return x.to(DType::i64); };
    Expr s = wide(start), e = wide(limit), d = wide(delta), up = d > 0.0;
    Expr width = select(up, e - s, s - e), step = abs(d);
    count = select(width > 0.0, (width + step - 1.0) / step, 0);
    count = select(d == 0.0, -1, count);  // no size: an error
  }
  Type t = n.out();
  define_sizes(b, vector_of(count), t.shape);
  return {start + start.with(b.iota(t, 0)) * delta};
}

// ---- Slice ------------------------------------------------------------------------------------------------

namespace {

constexpr double far = 1e12;  // beyond every size; no sum of two overflows

/// Axes that may be cut: those named, or all if the compiler does not know them.
std::optional<Ints> axes_of(const Graph& g, ValueId axes, std::size_t count, std::int64_t rank) {
  Ints out;
  if (!axes) {
    for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<std::int64_t>(i));
    return out;
  }
  auto known = g.value(axes).known_ints;
  if (!known) return std::nullopt;
  for (const Dim& d : *known) {
    auto axis = d.is_const() ? normalize_axis(d.value(), static_cast<int>(rank)) : std::nullopt;
    if (!axis) return std::nullopt;
    out.push_back(*axis);
  }
  return out;
}

ValueId operand_or_none(const View& n, std::size_t i) { return n.has(i) ? n.operand(i) : ValueId{}; }

bool unit_steps(const View& n) {
  if (!n.has(4)) return true;
  auto steps = known_constants(n, 4);
  return steps && std::all_of(steps->begin(), steps->end(), [](std::int64_t s) { return s == 1; });
}

}  // namespace

Types infer_slice_by_data(const InferCtx& c) {
  const Dim n = c.in(1).elems(), rank = c.in(0).rank();
  if (!n.is_const()) return unknown_number(c, 1);
  for (std::size_t i = 2; i < 5; ++i)
    if (c.has(i) && c.in(i).elems() != n)
      return c.error(Code::AG2206,
                     fmt::format("`Slice` of {}: {} starts and {} of another operand", c.in(0).str(), n.str(),
                                 c.in(i).elems().str()),
                     "as many of each", {1, i});
  auto axes = axes_of(c.graph(), c.has(3) ? c.operand(3) : ValueId{}, at(n.value()), rank.value());
  if (axes && (!c.has(3) && n.value() > rank.value()))
    return c.error(Code::AG2206, fmt::format("`Slice` of {}: {} starts are too many", c.in(0).str(), n.str()), {}, {1});
  Type t = c.in(0);
  for (std::size_t d = 0; d < t.shape.size(); ++d)
    if (!axes || contains(*axes, static_cast<std::int64_t>(d))) t.shape[d] = c.unbacked(d);
  return std::vector<Type>{std::move(t)};
}

std::vector<ValueId> slice_by_data(Builder& b, const View& n) {
  Dims from = n.in(0).shape, to = n.out().shape;
  std::int64_t rank = n.in(0).rank(), count = n.in(1).elems().value();
  auto clipped = [&](Expr v) { return min(max(v, v.lit(-far)), v.lit(far)); };
  Expr axes = n.has(3) ? as_sizes(b, n.operand(3)) : Expr(b, b.ints(iota_ints(count)));
  Expr size = size_vector(b, from);
  Expr start = by_axis(clipped(as_sizes(b, n.operand(1))), axes, rank, one_of(b, 0));
  Expr stop = by_axis(clipped(as_sizes(b, n.operand(2))), axes, rank, one_of(b, static_cast<std::int64_t>(far)));
  Expr step = n.has(4) ? by_axis(clipped(as_sizes(b, n.operand(4))), axes, rank, one_of(b, 1))
                       : Expr(b, b.ints(Ints(at(rank), 1)));
  Expr up = step > 0.0, zero = size.lit(0);
  auto bounded = [&](Expr v) {  // numpy's clamping: to [0, size], backwards to [-1, size - 1]
    v = select(v < 0.0, v + size, v);
    return select(up, min(max(v, zero), size), min(max(v, size.lit(-1)), size - 1.0));
  };
  start = bounded(start), stop = bounded(stop);
  Expr width = select(up, stop - start, start - stop);
  Expr length = select(width > 0.0, (width + abs(step) - 1.0) / abs(step), 0);
  length = select(step == 0.0, -1, length);  // no size: an error
  define_sizes(b, length, to);
  auto known_axes = axes_of(n.graph, operand_or_none(n, 3), at(count), rank);
  if (unit_steps(n)) {
    Dims first = fresh_sizes(b, start), low, high;
    for (std::size_t d = 0; d < from.size(); ++d) {
      bool cut = !known_axes || contains(*known_axes, static_cast<std::int64_t>(d));
      low.push_back(cut ? first[d] : Dim(0));
      high.push_back(cut ? first[d] + to[d] : from[d]);
    }
    return {b.slice(n.operand(0), low, high)};
  }
  Expr x(b, n.operand(0));
  for (std::int64_t d = 0; d < rank; ++d) {
    if (known_axes && !contains(*known_axes, d)) continue;
    auto element = [&](Expr v) { return v.with(b.reshape(b.slice(v, {Dim(d)}, {Dim(d + 1)}), {})); };
    Expr ramp = x.with(b.iota({DType::i64, {to[at(d)]}}, 0));
    x = take(x, element(start) + ramp * element(step), d);
  }
  return {x};
}

// ---- Split ------------------------------------------------------------------------------------------------

Types infer_split_by_data(const InferCtx& c) {
  AG_TRY(int axis, checked_axis(c, attr_int(c.attrs(), "axis", 0), c.in(0).rank()));
  AG_TRY(PartDims sizes, sizes_of(c, 1));
  if (sizes.empty()) return c.error(Code::AG2206, "`Split` into no parts", "at least one is needed");
  std::vector<Type> types;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    Type t = c.in(0);
    t.shape[at(axis)] = sizes[i] ? *sizes[i] : c.unbacked(i);
    AG_TRY_(checked_shape(c, t.shape));
    types.push_back(std::move(t));
  }
  return types;
}

std::vector<ValueId> split_by_data(Builder& b, const View& n) {
  std::size_t axis = at(*normalize_axis(attr_int(n.attrs(), "axis", 0), n.in(0).rank()));
  Dims parts, start(n.in(0).shape.size(), 0), limit = n.in(0).shape;
  for (std::uint32_t r = 0; r < n.node().result_count; ++r) parts.push_back(n.out(r).shape[axis]);
  Expr sizes = as_sizes(b, n.operand(1));
  if (Dim all = sizes.type().shape[0]; all != Dim(static_cast<std::int64_t>(parts.size())))
    sizes = sizes.with(b.slice(sizes, {0}, {static_cast<std::int64_t>(parts.size())}));  // trailing parts not wanted
  define_sizes(b, sizes, parts);
  std::vector<ValueId> out;
  for (const Dim& size : parts) {
    limit[axis] = start[axis] + size;
    out.push_back(b.slice(n.operand(0), start, limit));
    start[axis] = limit[axis];
  }
  return out;
}

// ---- Pad --------------------------------------------------------------------------------------------------

Types infer_pad_by_data(const InferCtx& c) {
  const Dim n = c.in(1).elems();
  if (!n.is_const()) return unknown_number(c, 1);
  Type t = c.in(0);
  std::int64_t count = n.value() / 2;
  if (n.value() % 2 || (c.has(3) ? !c.in(3).elems().is(count) : count != t.rank()))
    return c.error(Code::AG2206, fmt::format("`Pad` of {}: {} pads are two for each axis", t.str(), n.str()), {},
                   {0, 1});
  auto axes = axes_of(c.graph(), c.has(3) ? c.operand(3) : ValueId{}, at(count), t.rank());
  for (std::size_t d = 0; d < t.shape.size(); ++d)
    if (!axes || contains(*axes, static_cast<std::int64_t>(d))) t.shape[d] = c.unbacked(d);
  return std::vector<Type>{std::move(t)};
}

Dims pad_by_data(Builder& b, const View& n) {
  Dims from = n.in(0).shape, to = n.out().shape, out;
  std::int64_t rank = n.in(0).rank(), count = n.in(1).elems().value() / 2;
  Expr pads = as_sizes(b, n.operand(1));
  Expr axes = n.has(3) ? as_sizes(b, n.operand(3)) : Expr(b, b.ints(iota_ints(count)));
  auto half = [&](std::int64_t from) {
    return by_axis(pads.with(b.slice(pads, {Dim(from)}, {Dim(from + count)})), axes, rank, one_of(b, 0));
  };
  Expr low = half(0), high = half(count), zero = low.lit(0);
  define_sizes(b, low + size_vector(b, from) + high, to);
  Dims more = fresh_sizes(b, max(low, zero)), less = fresh_sizes(b, max(-low, zero));
  auto known_axes = axes_of(n.graph, operand_or_none(n, 3), at(count), rank);
  for (std::size_t d = 0; d < from.size(); ++d) {
    bool grows = !known_axes || contains(*known_axes, static_cast<std::int64_t>(d));
    out.push_back(grows ? more[d] - less[d] : Dim(0));
  }
  return out;
}

}  // namespace ag::ops

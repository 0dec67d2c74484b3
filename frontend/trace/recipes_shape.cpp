// Recipes that move elements.
#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>

#include "frontend/trace/recipes.hpp"
#include "ir/op.hpp"

namespace ag::rec::r {
namespace {

using Values = std::vector<ValueId>;
using In = std::span<const ValueId>;
using Ints = std::vector<std::int64_t>;

/// A node even where nothing changes: the result has a gradient function of its own.
ValueId reshaped(Emit& e, ValueId x, Dims shape) {
  if (shape == e.type(x).shape) return e.op("Identity", {x});
  return e.b().reshape(x, std::move(shape));
}

Values build_view(Emit& e, In in, Params p) {
  const Type& t = e.type(in[0]);
  Dims shape(p.begin(), p.end());
  Dim rest = 1;
  std::size_t open = shape.size();
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (p[i] >= 0) {
      rest = rest * shape[i];
    } else if (open != shape.size()) {
      e.reject(Code::AG2205, "only one dimension can be inferred");
    } else {
      open = i;
    }
  }
  const Dim count = t.elems();
  const std::string wanted = "shape '" + shape_str(shape) + "' is invalid for input of size " + count.str();
  if (open != shape.size()) {
    if (rest.is(0)) e.reject(Code::AG2205, wanted);
    shape[open] = floordiv(count, rest);
    rest = rest * shape[open];
  }
  if (rest.is_const() && count.is_const() && rest != count) e.reject(Code::AG2205, wanted);
  return {reshaped(e, in[0], std::move(shape))};
}

Values build_permute(Emit& e, In in, Params p) {
  const int rank = e.rank(in[0]);
  Ints perm;
  for (std::int64_t a : p) perm.push_back(e.axis(a, rank));
  Ints sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  if (static_cast<int>(perm.size()) != rank || std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    e.reject(Code::AG2202, "permute(): the axes must be each axis of the tensor once");
  return {e.op("transpose", {in[0]}, {{"perm", perm}})};
}
Values build_transpose(Emit& e, In in, Params p) {
  const int rank = e.rank(in[0]);
  const auto a = e.axis(p[0], rank), b = e.axis(p[1], rank);
  if (rank == 0) return {e.op("Identity", {in[0]})};
  Ints perm(static_cast<std::size_t>(rank));
  for (int i = 0; i < rank; ++i) perm[static_cast<std::size_t>(i)] = i;
  std::swap(perm[static_cast<std::size_t>(a)], perm[static_cast<std::size_t>(b)]);
  return {e.op("transpose", {in[0]}, {{"perm", perm}})};
}
Values build_t(Emit& e, In in, Params) {
  if (e.rank(in[0]) > 2)
    e.reject(Code::AG2204,
             "t() expects a tensor with <= 2 dimensions, but self is " + std::to_string(e.rank(in[0])) + "D");
  if (e.rank(in[0]) < 2) return {e.op("Identity", {in[0]})};
  return {e.op("transpose", {in[0]}, {{"perm", Ints{1, 0}}})};
}

Values build_expand(Emit& e, In in, Params p) {
  const Dims& from = e.type(in[0]).shape;
  if (p.size() < from.size())
    e.reject(Code::AG2201, "expand: the number of sizes provided (" + std::to_string(p.size()) +
                               ") must be greater or equal to the number of dimensions in the tensor (" +
                               std::to_string(from.size()) + ")");
  Dims to(p.begin(), p.end());
  const std::size_t extra = p.size() - from.size();
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (p[i] < 0) to[i] = i < extra ? Dim(1) : from[i - extra];
    if (i < extra) continue;
    const Dim& old = from[i - extra];
    if (old.is_const() && to[i].is_const() && !old.is(1) && old != to[i])
      e.reject(Code::AG2201, "The expanded size of the tensor (" + to[i].str() + ") must match the existing size (" +
                                 old.str() + ") at non-singleton dimension " + std::to_string(i));
  }
  if (to == from) return {e.op("Identity", {in[0]})};
  return {e.b().broadcast_to(in[0], std::move(to))};
}

Values build_squeeze(Emit& e, In in, Params) {
  Dims shape;
  for (const Dim& d : e.type(in[0]).shape)
    if (!d.is(1)) shape.push_back(d);
  return {reshaped(e, in[0], std::move(shape))};
}
Values build_squeeze_dim(Emit& e, In in, Params p) {
  Dims shape = e.type(in[0]).shape;
  const auto a = e.axis(p[0], e.rank(in[0]));
  if (!shape.empty() && shape[static_cast<std::size_t>(a)].is(1)) shape.erase(shape.begin() + a);
  return {reshaped(e, in[0], std::move(shape))};
}
Values build_unsqueeze(Emit& e, In in, Params p) {
  Dims shape = e.type(in[0]).shape;
  shape.insert(shape.begin() + e.axis(p[0], e.rank(in[0]) + 1), Dim(1));
  return {reshaped(e, in[0], std::move(shape))};
}
Values build_flatten(Emit& e, In in, Params p) {
  const Dims& from = e.type(in[0]).shape;
  if (from.empty()) return {reshaped(e, in[0], {Dim(1)})};
  const auto first = e.axis(p[0], e.rank(in[0])), last = e.axis(p[1], e.rank(in[0]));
  if (first > last) e.reject(Code::AG2206, "flatten() has invalid args: start_dim cannot come after end_dim");
  Dims shape(from.begin(), from.begin() + first);
  Dim mid = 1;
  for (auto i = first; i <= last; ++i) mid = mid * from[static_cast<std::size_t>(i)];
  shape.push_back(mid);
  shape.insert(shape.end(), from.begin() + last + 1, from.end());
  return {reshaped(e, in[0], std::move(shape))};
}

Values build_cat(Emit& e, In in, Params p) {
  const auto axis = e.axis(p[0], e.rank(in[0]));
  if (e.rank(in[0]) == 0) e.reject(Code::AG2204, "zero-dimensional tensor (at position 0) cannot be concatenated");
  if (in.size() == 1) return {e.op("Identity", {in[0]})};
  return {e.op("concat", Values(in.begin(), in.end()), {{"axis", axis}})};
}
Values build_stack(Emit& e, In in, Params p) {
  const auto axis = e.axis(p[0], e.rank(in[0]) + 1);
  Values parts;
  for (ValueId x : in) {
    if (e.type(x).shape != e.type(in[0]).shape)
      e.reject(Code::AG2208, "stack expects each tensor to be equal size, but got " + shape_str(e.type(in[0]).shape) +
                                 " at entry 0 and " + shape_str(e.type(x).shape) + " at entry " +
                                 std::to_string(parts.size()));
    Dims shape = e.type(x).shape;
    shape.insert(shape.begin() + axis, Dim(1));
    parts.push_back(e.b().reshape(x, std::move(shape)));
  }
  if (parts.size() == 1) return {parts[0] == in[0] ? e.op("Identity", {in[0]}) : parts[0]};
  return {e.op("concat", parts, {{"axis", axis}})};
}

/// Elements [start, stop) by step of one axis, clamped as in Python.
ValueId cut(Emit& e, ValueId x, std::int64_t axis, std::int64_t start, std::int64_t stop, std::int64_t step) {
  const Dims shape = e.type(x).shape;
  const Dim size = shape[static_cast<std::size_t>(axis)];
  if (step <= 0) e.reject(Code::AG2206, "slice step must be positive");
  auto place = [&](std::int64_t at) -> Dim {
    if (size.is_const()) return std::clamp(at < 0 ? at + size.value() : at, std::int64_t{0}, size.value());
    return at < 0 ? max(size + Dim(at), Dim(0)) : min(Dim(at), size);
  };
  Dims from(shape.size(), Dim(0)), to = shape;
  Ints strides(shape.size(), 1);
  from[static_cast<std::size_t>(axis)] = place(start);
  to[static_cast<std::size_t>(axis)] = stop == std::numeric_limits<std::int64_t>::max() ? size : place(stop);
  const Dim &lo = from[static_cast<std::size_t>(axis)], &hi = to[static_cast<std::size_t>(axis)];
  if (lo.is_const() && hi.is_const() && hi.value() < lo.value()) to[static_cast<std::size_t>(axis)] = lo;
  strides[static_cast<std::size_t>(axis)] = step;
  ValueId y = e.b().slice(x, from, to, strides);
  return y == x ? e.op("Identity", {x}) : y;
}
Values build_slice(Emit& e, In in, Params p) {
  if (e.rank(in[0]) == 0) e.reject(Code::AG2204, "slice() cannot be applied to a 0-dim tensor.");
  return {cut(e, in[0], e.axis(p[0], e.rank(in[0])), p[1], p[2], p[3])};
}
Values build_narrow(Emit& e, In in, Params p) {
  const auto axis = e.axis(p[0], e.rank(in[0]));
  const Dim& size = e.type(in[0]).shape[static_cast<std::size_t>(axis)];
  const auto start = p[1] < 0 && size.is_const() ? p[1] + size.value() : p[1];
  if (size.is_const() && (start < 0 || p[2] < 0 || start + p[2] > size.value()))
    e.reject(Code::AG2206, "start (" + std::to_string(p[1]) + ") + length (" + std::to_string(p[2]) +
                               ") exceeds dimension size (" + size.str() + ").");
  return {cut(e, in[0], axis, start, start + p[2], 1)};
}
Values build_select(Emit& e, In in, Params p) {
  if (e.rank(in[0]) == 0) e.reject(Code::AG2204, "select() cannot be applied to a 0-dim tensor.");
  const auto axis = e.axis(p[0], e.rank(in[0]));
  Dims shape = e.type(in[0]).shape;
  const Dim size = shape[static_cast<std::size_t>(axis)];
  if (size.is_const() && (p[1] < -size.value() || p[1] >= size.value()))
    e.reject(Code::AG2206, "index " + std::to_string(p[1]) + " is out of bounds for dimension " + std::to_string(axis) +
                               " with size " + size.str());
  Dims from(shape.size(), Dim(0)), to = shape;
  from[static_cast<std::size_t>(axis)] = p[1] < 0 ? size + Dim(p[1]) : Dim(p[1]);
  to[static_cast<std::size_t>(axis)] = from[static_cast<std::size_t>(axis)] + Dim(1);
  ValueId y = e.b().slice(in[0], from, to);
  shape.erase(shape.begin() + axis);
  return {reshaped(e, y, std::move(shape))};
}
Values build_split(Emit& e, In in, Params p) {
  const auto axis = e.axis(p[0], e.rank(in[0]));
  const Dim& size = e.type(in[0]).shape[static_cast<std::size_t>(axis)];
  Values parts;
  std::int64_t at = 0;
  for (std::int64_t n : p.subspan(1)) parts.push_back(cut(e, in[0], axis, at, at + n, 1)), at += n;
  if (size.is_const() && at != size.value())
    e.reject(Code::AG2206, "split_with_sizes expects split_sizes to sum exactly to " + size.str() +
                               " (input tensor's size at dimension " + std::to_string(axis) + ")");
  return parts;
}

Values build_flip(Emit& e, In in, Params p) {
  Ints axes;
  for (std::int64_t a : p) axes.push_back(e.axis(a, e.rank(in[0])));
  return {e.op("rev", {in[0]}, {{"axes", axes}})};
}
Values build_roll(Emit& e, In in, Params p) {
  const auto axis = e.axis(p[1], e.rank(in[0]));
  const Dim& size = e.type(in[0]).shape[static_cast<std::size_t>(axis)];
  if (!size.is_const()) e.reject(Code::AG2211, "roll along a symbolic size is not supported yet");
  const auto n = size.value(), shift = n ? ((p[0] % n) + n) % n : 0;
  if (!shift) return {e.op("Identity", {in[0]})};
  return {
      e.op("concat", {cut(e, in[0], axis, n - shift, n, 1), cut(e, in[0], axis, 0, n - shift, 1)}, {{"axis", axis}})};
}
Values build_repeat(Emit& e, In in, Params p) {
  ValueId x = in[0];
  Dims shape = e.type(x).shape;
  if (p.size() < shape.size())
    e.reject(Code::AG2206,
             "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor");
  shape.insert(shape.begin(), p.size() - shape.size(), Dim(1));
  return {e.op("Tile", {e.b().reshape(x, shape), e.b().ints(p)})};
}
template <bool upper>
Values build_triangle(Emit& e, In in, Params p) {
  return {e.op("Trilu", {in[0], e.b().scalar_int(DType::i64, p[0])}, {{"upper", std::int64_t{upper}}})};
}
Values build_diag(Emit& e, In in, Params) {
  const Type t = e.type(in[0]);
  const Dim n = t.shape[0];
  ValueId row = e.b().iota({DType::i64, {n, n}}, 0), col = e.b().iota({DType::i64, {n, n}}, 1);
  ValueId on = e.op("eq", {row, col}), zero = e.b().scalar(t.dtype, 0);
  if (t.rank() == 1) return {e.op("select", {on, in[0], zero})};
  if (t.rank() != 2) e.reject(Code::AG2204, "diag(): Supports 1D or 2D tensors. Got " + std::to_string(t.rank()) + "D");
  return {e.op("reduce_sum", {e.op("select", {on, in[0], zero})}, {{"axes", Ints{1}}})};
}
Values build_pad(Emit& e, In in, Params p) {
  const auto rank = static_cast<std::size_t>(e.rank(in[0]));
  if (p.size() % 2 || p.size() / 2 > rank)
    e.reject(Code::AG2206,
             "Padding length must be divisible by 2 and at most twice the number of dimensions of the input");
  Dims low(rank, Dim(0)), high(rank, Dim(0));
  for (std::size_t i = 0; i < p.size() / 2; ++i) low[rank - 1 - i] = p[2 * i], high[rank - 1 - i] = p[2 * i + 1];
  return {e.op("pad", {in[0], e.b().convert(in[1], e.type(in[0]).dtype)},
               {{"low", low}, {"high", high}, {"interior", Ints(rank, 0)}})};
}

/// Negative indices count from the end.
ValueId from_front(Emit& e, ValueId indices, const Dim& size) {
  DType t = e.type(indices).dtype;
  if (!is_signed_int(t) || !size.is_const()) return indices;
  ValueId zero = e.b().scalar_int(t, 0), n = e.b().scalar_int(t, size.value());
  return e.op("select", {e.op("lt", {indices, zero}), e.op("add", {indices, n}), indices});
}

Values build_index_select(Emit& e, In in, Params p) {
  const auto axis = e.axis(p[0], e.rank(in[0]));
  return {e.op("Gather", {in[0], in[1]}, {{"axis", axis}})};
}
/// Index vectors of the leading axes, from one broadcastable tensor an axis.
ValueId index_vectors(Emit& e, ValueId x, In indices) {
  Dims shape;
  for (ValueId i : indices) {
    auto wide = broadcast_shapes(shape, e.type(i).shape);
    if (!wide) e.reject(Code::AG2201, "shape mismatch: indexing tensors could not be broadcast together");
    shape = *wide;
  }
  Values columns;
  for (std::size_t a = 0; a < indices.size(); ++a) {
    ValueId i = e.b().convert(from_front(e, indices[a], e.type(x).shape[a]), DType::i64);
    Dims column = shape;
    column.push_back(1);
    columns.push_back(e.b().reshape(e.b().broadcast_to(i, shape), column));
  }
  return columns.size() == 1 ? columns[0]
                             : e.op("concat", columns, {{"axis", static_cast<std::int64_t>(shape.size())}});
}
Values build_index(Emit& e, In in, Params) {
  In indices = in.subspan(1);
  if (static_cast<int>(indices.size()) > e.rank(in[0]))
    e.reject(Code::AG2204, "too many indices for tensor of dimension " + std::to_string(e.rank(in[0])));
  if (indices.size() == 1)
    return {e.op("Gather", {in[0], from_front(e, indices[0], e.type(in[0]).shape[0])}, {{"axis", std::int64_t{0}}})};
  return {e.op("GatherND", {in[0], index_vectors(e, in[0], indices)})};
}
Values build_index_put(Emit& e, In in, Params p) {
  In indices = in.subspan(1, in.size() - 2);
  ValueId at = index_vectors(e, in[0], indices);
  Dims shape = e.type(at).shape;
  shape.pop_back();
  const Dims& base = e.type(in[0]).shape;
  shape.insert(shape.end(), base.begin() + static_cast<std::ptrdiff_t>(indices.size()), base.end());
  ValueId values = e.b().broadcast_to(e.b().convert(in.back(), e.type(in[0]).dtype), shape);
  return {e.op("ScatterND", {in[0], at, values}, {{"reduction", std::string(p[0] ? "add" : "none")}})};
}
Values build_gather(Emit& e, In in, Params p) {
  return {e.op("GatherElements", {in[0], in[1]}, {{"axis", e.axis(p[0], e.rank(in[0]))}})};
}
template <bool add>
Values build_scatter(Emit& e, In in, Params p) {
  ValueId values = e.b().convert(in[2], e.type(in[0]).dtype);
  if (e.rank(values) == 0) values = e.b().broadcast_to(values, e.type(in[1]).shape);
  return {e.op("ScatterElements", {in[0], in[1], values},
               {{"axis", e.axis(p[0], e.rank(in[0]))}, {"reduction", std::string(add ? "add" : "none")}})};
}
Values build_one_hot(Emit& e, In in, Params p) {
  ValueId values = e.b().ints(std::array<std::int64_t, 2>{0, 1});
  return {e.op("OneHot", {in[0], e.b().scalar_int(DType::i64, p[0]), values}, {{"axis", std::int64_t{-1}}})};
}

/// The base with the elements that a view shows replaced: the view's own transposes put the new values, and a mask of
/// ones, in their places.
template <const Recipe* view_recipe>
Values build_write_back(Emit& e, In in, Params p) {
  Graph& g = e.b().graph();
  const DType t = e.type(in[0]).dtype;
  const std::size_t first = g.node_count();
  ValueId seen = view_recipe->build(e, in.subspan(0, 1), p)[0];
  std::vector<NodeId> path;  // from the view back to the base
  for (ValueId v = seen; v != in[0]; v = g.def(v).operands[0]) path.push_back(g.value(v).node);
  (void)first;
  ValueId value = e.b().broadcast_to(e.b().convert(in[1], t), e.type(seen).shape);
  ValueId mask = e.b().full({DType::f32, e.type(seen).shape}, 1);
  for (NodeId id : path) {
    const Node n = g.node(id);
    if (n.op->name == "Identity") continue;
    if (!n.op->transpose) e.reject(Code::AG2211, "writing through this view is not supported yet");
    value = n.op->transpose(e.b(), NodeView{g, id}, 0, value);
    mask = n.op->transpose(e.b(), NodeView{g, id}, 0, mask);
  }
  ValueId hit = e.op("ne", {mask, e.b().scalar(DType::f32, 0)});
  return {e.op("select", {hit, value, in[0]})};
}

}  // namespace

const Recipe view{"view", "ViewBackward0", build_view};
const Recipe reshape{"reshape", "ViewBackward0", build_view};
const Recipe transpose{"transpose", "TransposeBackward0", build_transpose};
const Recipe t{"t", "TBackward0", build_t};
const Recipe permute{"permute", "PermuteBackward0", build_permute};
const Recipe expand{"expand", "ExpandBackward0", build_expand};
const Recipe squeeze{"squeeze", "SqueezeBackward0", build_squeeze};
const Recipe squeeze_dim{"squeeze", "SqueezeBackward1", build_squeeze_dim};
const Recipe unsqueeze{"unsqueeze", "UnsqueezeBackward0", build_unsqueeze};
const Recipe flatten{"flatten", "ViewBackward0", build_flatten};
const Recipe cat{"cat", "CatBackward0", build_cat};
const Recipe stack{"stack", "StackBackward0", build_stack};
const Recipe select{"select", "SelectBackward0", build_select};
const Recipe slice{"slice", "SliceBackward0", build_slice};
const Recipe narrow{"narrow", "SliceBackward0", build_narrow};
const Recipe split{"split", "SplitBackward0", build_split};
const Recipe flip{"flip", "FlipBackward0", build_flip};
const Recipe roll{"roll", "RollBackward0", build_roll};
const Recipe repeat{"repeat", "RepeatBackward0", build_repeat};
const Recipe tril{"tril", "TrilBackward0", build_triangle<false>};
const Recipe triu{"triu", "TriuBackward0", build_triangle<true>};
const Recipe diag{"diag", "DiagonalBackward0_copy", build_diag};
const Recipe pad{"pad", "ConstantPadNdBackward0", build_pad};
const Recipe index_select{"index_select", "IndexSelectBackward0", build_index_select};
const Recipe index{"index", "IndexBackward0", build_index};
const Recipe index_put{"index_put", "IndexPutBackward0", build_index_put};
const Recipe gather{"gather", "GatherBackward0", build_gather};
const Recipe scatter{"scatter", "ScatterBackward0", build_scatter<false>};
const Recipe scatter_add{"scatter_add", "ScatterAddBackward0", build_scatter<true>};
const Recipe one_hot{"one_hot", "", build_one_hot};

const Recipe* write_back(const Recipe& v) {
  static const Recipe backs[] = {
      {"copy_", "CopySlices", build_write_back<&view>},      {"copy_", "CopySlices", build_write_back<&transpose>},
      {"copy_", "CopySlices", build_write_back<&t>},         {"copy_", "CopySlices", build_write_back<&permute>},
      {"copy_", "CopySlices", build_write_back<&squeeze>},   {"copy_", "CopySlices", build_write_back<&squeeze_dim>},
      {"copy_", "CopySlices", build_write_back<&unsqueeze>}, {"copy_", "CopySlices", build_write_back<&flatten>},
      {"copy_", "CopySlices", build_write_back<&select>},    {"copy_", "CopySlices", build_write_back<&slice>},
      {"copy_", "CopySlices", build_write_back<&narrow>},
  };
  static const Recipe* const views[] = {&view,      &transpose, &t,      &permute, &squeeze, &squeeze_dim,
                                        &unsqueeze, &flatten,   &select, &slice,   &narrow};
  for (std::size_t i = 0; i < std::size(views); ++i)
    if (views[i]->build == v.build) return &backs[i];
  return nullptr;
}

}  // namespace ag::rec::r

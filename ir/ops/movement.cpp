// Ops that move elements: every element of the result is an element of an operand. All are linear.
#include <algorithm>

#include "ir/ops/batching.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/move_axes.hpp"
#include "ir/ops/reshape.hpp"

namespace ag {
using namespace ops;
namespace {

using Elements = std::vector<loop::ValueId>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

OpInfo movement(OpInfo o) {
  o.lower_class = LowerClass::index;
  if (o.operands.empty()) o.operands = {{.name = "x"}};
  if (o.linearity == Linearity::none) o.linearity = Linearity::each;
  if (!o.linear_in) o.linear_in = 1;
  return o;
}

// ---- transpose --------------------------------------------------------------------------------------------

Ints perm_of(const Attrs& a, int rank) {
  if (const Ints* p = a.get<Ints>("perm")) return *p;
  Ints perm = iota_ints(rank);
  std::reverse(perm.begin(), perm.end());
  return perm;
}

Types infer_transpose(const InferCtx& c) {
  Ints perm = perm_of(c.attrs(), c.in(0).rank());
  Ints sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  if (sorted != iota_ints(c.in(0).rank()))
    return c.error(Code::AG2206,
                   fmt::format("`perm` [{}] is no permutation of the {} axes of {}", fmt::join(perm, ", "),
                               c.in(0).rank(), operand_name(c, 0)),
                   "each axis exactly once", {0});
  Type t{c.in(0).dtype, {}};
  for (std::int64_t p : perm) t.shape.push_back(c.in(0).shape[at(p)]);
  return std::vector<Type>{std::move(t)};
}

ValueId transpose_transpose(Builder& b, const View& n, std::size_t, ValueId ct) {
  Ints perm = perm_of(n.attrs(), n.in(0).rank()), inverse(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i) inverse[at(perm[i])] = static_cast<std::int64_t>(i);
  return b.transpose(ct, inverse);
}

loop::ValueId transpose_element(ElementCtx& c, LoopValues index) {
  Ints perm = perm_of(c.node().attrs(), c.node().in(0).rank());
  Elements out(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i) out[at(perm[i])] = index[i];
  return c.operand(0, out);
}

Result<std::vector<Array>> transpose_eval(const EvalCtx& c) {
  return one(transposed(c.in[0], perm_of(c.node.attrs(), c.node.in(0).rank())));
}

// ---- broadcast_in_dim and its transpose -------------------------------------------------------------------

Types infer_broadcast(const InferCtx& c) {
  AG_TRY(Dims shape, checked_shape(c, attr_dims(c.attrs(), "shape")));
  Ints dims = attr_ints(c.attrs(), "dims");
  const Dims& from = c.in(0).shape;
  if (dims.size() != from.size())
    return c.error(Code::AG2206,
                   fmt::format("`dims` of `broadcast_in_dim` has {} entries for rank {}", dims.size(), from.size()), {},
                   {0});
  AG_TRY(Ints sorted, checked_axes(c, dims, static_cast<int>(shape.size())));
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const Dim &have = from[i], &want = shape[at(dims[i])];
    if (have.is_const() && want.is_const() && have != want && !have.is(1))
      return c.error(Code::AG2201,
                     fmt::format("cannot broadcast {} to {}: axis {} is {}, and {} is wanted", shape_str(from),
                                 shape_str(shape), i, have.str(), want.str()),
                     {}, {0});
  }
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

loop::ValueId broadcast_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  Ints dims = attr_ints(c.node().attrs(), "dims");
  Dims from = c.node().in(0).shape, to = c.node().out().shape;
  Elements out;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    loop::ValueId v = index[at(dims[i])];
    if (from[i].is(1))
      v = b.index(0);
    else if (from[i] != to[at(dims[i])])  // known at run time: a size of 1 repeats
      v = b.select(b.op(L::cmp_eq, {b.dim(from[i]), b.index(1)}), b.index(0), v);
    out.push_back(v);
  }
  return c.operand(0, out);
}

Result<std::vector<Array>> broadcast_eval(const EvalCtx& c) {
  Ints dims = attr_ints(c.node.attrs(), "dims");
  const Shape& from = c.in[0].shape();
  Shape strides = row_major_strides(from), spread(c.out_shapes[0].size(), 0);
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (from[i] != 1 && from[i] != c.out_shapes[0][at(dims[i])])
      return fail(Code::AG2201, place(c),
                  fmt::format("cannot broadcast a size of {} to {}", from[i], c.out_shapes[0][at(dims[i])]));
    if (from[i] != 1) spread[at(dims[i])] = strides[i];
  }
  return one(copy_elements(c.in[0], c.out_shapes[0], [&](const Shape& i) { return flat_index(i, spread); }));
}

ValueId broadcast_transpose(Builder& b, const View& n, std::size_t, ValueId ct) {
  Ints dims = attr_ints(n.attrs(), "dims");
  Dims from = n.in(0).shape, to = n.out().shape;
  Ints summed, order = dims;
  for (std::size_t d = 0; d < to.size(); ++d) {
    auto i = std::find(dims.begin(), dims.end(), static_cast<std::int64_t>(d)) - dims.begin();
    if (i == static_cast<std::ptrdiff_t>(dims.size()) || (from[at(i)].is(1) && !to[d].is(1)))
      summed.push_back(static_cast<std::int64_t>(d));
  }
  ct = b.reduce("reduce_sum", ct, summed);
  std::sort(order.begin(), order.end());
  if (order != dims) {  // axes that are left stand in the result's order: bring them into the operand's
    Ints kept, perm;
    for (std::int64_t d : order)
      if (!contains(summed, d)) kept.push_back(d);
    for (std::int64_t d : dims)
      if (!contains(summed, d)) perm.push_back(std::find(kept.begin(), kept.end(), d) - kept.begin());
    ct = b.transpose(ct, perm);
  }
  Dims with_ones = from;
  for (std::size_t i = 0; i < dims.size(); ++i)
    if (!from[i].is(1)) with_ones[i] = to[at(dims[i])];
  return b.sum_to(b.reshape(ct, with_ones), from);
}

// ---- slice, reverse, pad ----------------------------------------------------------------------------------

Types infer_slice(const InferCtx& c) {
  Dims start = attr_dims(c.attrs(), "start"), limit = attr_dims(c.attrs(), "limit");
  Ints stride = attr_ints(c.attrs(), "stride");
  const Dims& from = c.in(0).shape;
  if (start.size() != from.size() || limit.size() != from.size() || stride.size() != from.size())
    return c.error(
        Code::AG2206,
        fmt::format("`slice` of rank {} needs as many entries in `start`, `limit` and `stride`", from.size()), {}, {0});
  Type t{c.in(0).dtype, {}};
  for (std::size_t d = 0; d < from.size(); ++d) {
    auto bad = [](const Dim& k) { return !k.valid() || (k.is_const() && k.value() < 0); };
    if (stride[d] < 1 || bad(start[d]) || bad(limit[d] - start[d]) || bad(from[d] - limit[d]))
      return c.error(Code::AG2206,
                     fmt::format("`slice` [{}:{}:{}] does not fit axis {} of size {}", start[d].str(), limit[d].str(),
                                 stride[d], d, from[d].str()),
                     {}, {0});
    t.shape.push_back(ceildiv(limit[d] - start[d], stride[d]));
  }
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

std::optional<Dims> slice_known(const View& n) {
  auto all = known(n, 0);
  auto start = as_constants(attr_dims(n.attrs(), "start"));
  if (!all || !start || n.out().rank() != 1 || !n.out().shape[0].is_const()) return std::nullopt;
  Dims out;
  for (std::int64_t i = 0; i < n.out().shape[0].value(); ++i)
    out.push_back((*all)[at((*start)[0] + i * attr_ints(n.attrs(), "stride")[0])]);
  return out;
}

ValueId slice_transpose(Builder& b, const View& n, std::size_t, ValueId ct) {
  Dims start = attr_dims(n.attrs(), "start"), from = n.in(0).shape, to = n.out().shape, high;
  Ints stride = attr_ints(n.attrs(), "stride"), interior;
  for (std::size_t d = 0; d < from.size(); ++d) {
    interior.push_back(stride[d] - 1);
    high.push_back(from[d] - start[d] - to[d] - max(to[d] - 1, 0) * (stride[d] - 1));
  }
  return b.add_op("pad", {ct, b.scalar(b.type(ct).dtype, 0)}, {{"low", start}, {"high", high}, {"interior", interior}});
}

loop::ValueId slice_element(ElementCtx& c, LoopValues index) {
  Dims start = attr_dims(c.node().attrs(), "start");
  Ints stride = attr_ints(c.node().attrs(), "stride");
  Elements out;
  for (std::size_t d = 0; d < start.size(); ++d)
    out.push_back(c.b().add(c.b().mul(index[d], c.b().index(stride[d])), c.b().dim(start[d])));
  return c.operand(0, out);
}

Result<std::vector<Array>> slice_eval(const EvalCtx& c) {
  Shape start = concrete(c, attr_dims(c.node.attrs(), "start")), strides = row_major_strides(c.in[0].shape());
  Ints step = attr_ints(c.node.attrs(), "stride");
  for (std::size_t d = 0; d < start.size(); ++d)
    if (std::int64_t n = c.out_shapes[0][d];
        n > 0 && (start[d] < 0 || start[d] + (n - 1) * step[d] >= c.in[0].shape()[d]))
      return fail(
          Code::AG2206, place(c),
          fmt::format("a slice from {} with {} elements does not fit a size of {}", start[d], n, c.in[0].shape()[d]));
  return one(copy_elements(c.in[0], c.out_shapes[0], [&](const Shape& i) {
    std::int64_t sum = 0;
    for (std::size_t d = 0; d < i.size(); ++d) sum += (start[d] + i[d] * step[d]) * strides[d];
    return sum;
  }));
}

Types infer_rev(const InferCtx& c) {
  AG_TRY_(checked_axes(c, attr_ints(c.attrs(), "axes"), c.in(0).rank()));
  return infer_same(c);
}

loop::ValueId rev_element(ElementCtx& c, LoopValues index) {
  Elements out(index.begin(), index.end());
  for (std::int64_t a : attr_ints(c.node().attrs(), "axes"))
    out[at(a)] = c.b().sub(c.b().dim(c.node().in(0).shape[at(a)] - 1), out[at(a)]);
  return c.operand(0, out);
}

Result<std::vector<Array>> rev_eval(const EvalCtx& c) {
  const Shape& shape = c.in[0].shape();
  Shape strides = row_major_strides(shape);
  Ints axes = attr_ints(c.node.attrs(), "axes");
  return one(copy_elements(c.in[0], shape, [&](const Shape& i) {
    std::int64_t sum = 0;
    for (std::size_t d = 0; d < i.size(); ++d)
      sum += (contains(axes, static_cast<std::int64_t>(d)) ? shape[d] - 1 - i[d] : i[d]) * strides[d];
    return sum;
  }));
}

Types infer_pad(const InferCtx& c) {
  Dims low = attr_dims(c.attrs(), "low"), high = attr_dims(c.attrs(), "high");
  Ints interior = attr_ints(c.attrs(), "interior");
  const Dims& from = c.in(0).shape;
  if (low.size() != from.size() || high.size() != from.size() || interior.size() != from.size())
    return c.error(Code::AG2206,
                   fmt::format("`pad` of rank {} needs as many entries in `low`, `high` and `interior`", from.size()),
                   {}, {0});
  if (c.in(1).rank() != 0)
    return c.error(Code::AG2204, fmt::format("the padding value of `pad` is a scalar, not {}", c.in(1).str()), {}, {1});
  Type t{c.in(0).dtype, {}};
  for (std::size_t d = 0; d < from.size(); ++d) {
    if (interior[d] < 0)
      return c.error(Code::AG2206, fmt::format("`interior` of `pad` is {} on axis {}", interior[d], d), {}, {0});
    Dim gaps = interior[d] ? max(from[d] - 1, 0) * interior[d] : Dim(0);
    t.shape.push_back(low[d] + from[d] + gaps + high[d]);
  }
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

ValueId pad_transpose_x(Builder& b, const View& n, ValueId ct) {
  Dims low = attr_dims(n.attrs(), "low"), high = attr_dims(n.attrs(), "high"), from = n.in(0).shape, start, limit;
  Ints interior = attr_ints(n.attrs(), "interior"), stride;
  bool crops = false;
  for (std::size_t d = 0; d < from.size(); ++d) {
    for (const Dim* k : {&low[d], &high[d]}) crops = crops || (k->is_const() && k->value() < 0);
    low[d] = Dim(0) - low[d];
    high[d] = Dim(0) - high[d];
    stride.push_back(interior[d] + 1);
    start.push_back(crops ? Dim(0) : Dim(0) - low[d]);
  }
  // Where the padding is not negative, undoing it is a slice; else what was cropped comes back as zeros.
  if (crops) {
    ct = b.add_op("pad", {ct, b.scalar(b.type(ct).dtype, 0)},
                  {{"low", low}, {"high", high}, {"interior", Ints(from.size(), 0)}});
    start.assign(from.size(), 0);
  }
  for (std::size_t d = 0; d < from.size(); ++d)
    limit.push_back(start[d] + from[d] + (interior[d] ? max(from[d] - 1, 0) * interior[d] : Dim(0)));
  return b.slice(ct, start, limit, stride);
}

ValueId pad_transpose(Builder& b, const View& n, std::size_t i, ValueId ct) {
  ValueId inside = pad_transpose_x(b, n, ct);
  if (i == 0) return inside;
  ValueId all = b.reduce("reduce_sum", ct, iota_ints(b.type(ct).rank()));
  return b.sub(all, b.reduce("reduce_sum", inside, iota_ints(b.type(inside).rank())));
}

loop::ValueId pad_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  Dims low = attr_dims(c.node().attrs(), "low"), high = attr_dims(c.node().attrs(), "high"),
       from = c.node().in(0).shape;
  Ints interior = attr_ints(c.node().attrs(), "interior");
  auto crops = [](const Dim& d) { return d.is_const() && d.value() <= 0; };
  for (const Dim& d : from)
    if (d.is(0)) return c.operand(1, {});
  loop::ValueId inside = b.constant_int(DType::boolean, 1), zero = b.index(0);
  auto require = [&](loop::ValueId cond) { inside = b.op(L::and_, {inside, cond}); };
  Elements out;
  for (std::size_t d = 0; d < from.size(); ++d) {
    loop::ValueId i = b.sub(index[d], b.dim(low[d]));
    if (interior[d] == 0 && crops(low[d]) && crops(high[d])) {
      out.push_back(i);
      continue;
    }
    require(b.op(L::cmp_ge, {i, zero}));
    if (interior[d]) {
      loop::ValueId step = b.index(interior[d] + 1);
      require(b.op(L::cmp_eq, {b.op(L::rem, {i, step}), zero}));
      i = b.op(L::div, {i, step});
    }
    require(b.op(L::cmp_lt, {i, b.dim(from[d])}));
    out.push_back(i);
  }
  if (b.int_value(inside) == 1) return c.operand(0, out);
  // A branch where whole rows are padding; along lanes a masked load of neighbours.
  return b.if_(inside, [&] { return Elements{c.operand(0, out)}; }, [&] { return Elements{c.operand(1, {})}; })[0];
}

Result<std::vector<Array>> pad_eval(const EvalCtx& c) {
  Shape low = concrete(c, attr_dims(c.node.attrs(), "low")), strides = row_major_strides(c.in[0].shape());
  Ints interior = attr_ints(c.node.attrs(), "interior");
  auto source = [&](const Shape& index) {
    std::int64_t sum = 0;
    for (std::size_t d = 0; d < index.size(); ++d) {
      std::int64_t i = index[d] - low[d], step = interior[d] + 1;
      if (i < 0 || i % step != 0 || i / step >= c.in[0].shape()[d]) return std::int64_t{-1};
      sum += i / step * strides[d];
    }
    return sum;
  };
  return one(copy_elements(c.in[0], c.out_shapes[0], source, &c.in[1]));
}

// ---- concat -----------------------------------------------------------------------------------------------

std::size_t concat_axis(const View& n) { return at(*normalize_axis(attr_int(n.attrs(), "axis", 0), n.in(0).rank())); }

Types infer_concat(const InferCtx& c) {
  Type t = c.in(0);
  if (t.rank() == 0)
    return c.error(Code::AG2204, fmt::format("`{}` of scalars: they have no axis", c.op().onnx), {}, {0});
  AG_TRY(int axis, checked_axis(c, attr_int(c.attrs(), "axis", 0), t.rank()));
  for (std::size_t i = 1; i < c.operand_count(); ++i) {
    const Dims& s = c.in(i).shape;
    if (s.size() != t.shape.size())
      return c.error(Code::AG2204,
                     fmt::format("`{}` needs operands of equal rank: {} is {}, {} is {}", c.op().onnx,
                                 operand_name(c, 0), c.in(0).str(), operand_name(c, i), c.in(i).str()),
                     {}, {0, i});
    for (std::size_t d = 0; d < s.size(); ++d) {
      if (d == at(axis)) continue;
      if (s[d].is_const() && t.shape[d].is_const() && s[d] != t.shape[d])
        return c.error(Code::AG2208,
                       fmt::format("`{}` along axis {}: axis {} is {} in {} and {} in {}", c.op().onnx, axis, d,
                                   t.shape[d].str(), operand_name(c, 0), s[d].str(), operand_name(c, i)),
                       "all other axes must agree", {0, i});
      if (s[d].is_const()) t.shape[d] = s[d];
    }
    t.shape[at(axis)] = t.shape[at(axis)] + s[at(axis)];
  }
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

std::optional<Dims> concat_known(const View& n) {
  if (n.out().rank() != 1) return std::nullopt;
  Dims out;
  for (std::size_t i = 0; i < n.operand_count(); ++i) {
    auto part = known(n, i);
    if (!part) return std::nullopt;
    out.insert(out.end(), part->begin(), part->end());
  }
  return out;
}

ValueId concat_transpose(Builder& b, const View& n, std::size_t i, ValueId ct) {
  std::size_t axis = concat_axis(n);
  Dims start(n.out().shape.size(), 0), limit = n.out().shape;
  for (std::size_t k = 0; k < i; ++k) start[axis] = start[axis] + n.in(k).shape[axis];
  limit[axis] = start[axis] + n.in(i).shape[axis];
  return b.slice(ct, start, limit);
}

loop::ValueId concat_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  View n = c.node();
  std::size_t axis = concat_axis(n);
  struct Part {
    loop::ValueId value, end;
  };
  std::vector<Part> parts;
  Dim offset = 0;
  for (std::size_t i = 0; i < n.operand_count(); ++i) {
    Dim size = n.in(i).shape[axis];
    if (size.is(0)) continue;
    // The index is clamped into the part, so that reading it is safe where another part is meant.
    Elements at_part(index.begin(), index.end());
    loop::ValueId local = b.sub(index[axis], b.dim(offset));
    at_part[axis] = b.op(L::max, {b.op(L::min, {local, b.dim(size - 1)}), b.index(0)});
    offset = offset + size;
    parts.push_back({c.operand(i, at_part), b.dim(offset)});
  }
  if (parts.empty()) return b.constant_int(n.out().dtype, 0);
  loop::ValueId out = parts.back().value;
  for (std::size_t i = parts.size() - 1; i-- > 0;)
    out = b.select(b.op(L::cmp_lt, {index[axis], parts[i].end}), parts[i].value, out);
  return out;
}

Result<std::vector<Array>> concat_eval(const EvalCtx& c) {
  std::size_t axis = concat_axis(c.node);
  Array out(c.in[0].dtype(), c.out_shapes[0]);
  std::size_t inner = dtype_bytes(out.dtype()), outer = 1, row = 0, offset = 0;
  for (std::size_t d = 0; d < c.out_shapes[0].size(); ++d)
    (d <= axis ? (d == axis ? row : outer) : inner) *= static_cast<std::size_t>(c.out_shapes[0][d]);
  row = static_cast<std::size_t>(c.out_shapes[0][axis]) * inner;
  for (const Array& part : c.in) {
    for (std::size_t d = 0; d < part.shape().size(); ++d)
      if (d != axis && part.shape()[d] != c.out_shapes[0][d])
        return fail(Code::AG2208, place(c),
                    fmt::format("parts of a concatenation differ on axis {}: {} and {}", d, part.shape()[d],
                                c.out_shapes[0][d]));
    std::size_t piece = static_cast<std::size_t>(part.shape()[axis]) * inner;
    for (std::size_t o = 0; o < outer && piece; ++o)
      std::memcpy(out.mutable_bytes().data() + o * row + offset, part.bytes().data() + o * piece, piece);
    offset += piece;
  }
  return one(std::move(out));
}

std::vector<OpSample> pad_samples() {
  auto pads = [](Dims low, Dims high, Ints interior) {
    return Attrs{{"low", low}, {"high", high}, {"interior", interior}};
  };
  return {sample({"f64[2,3]", "f64[]"}, pads({1, 0}, {0, 2}, {0, 0})),
          sample({"f64[2,3]", "f64[]"}, pads({0, 1}, {1, 0}, {1, 2})),
          sample({"f64[4,3]", "f64[]"}, pads({-1, 1}, {-1, -1}, {0, 1})),
          sample({"i32[0]", "i32[]"}, pads({1}, {2}, {0}))};
}

std::vector<OpSample> slice_samples() {
  auto bounds = [](Dims start, Dims limit, Ints stride) {
    return Attrs{{"start", start}, {"limit", limit}, {"stride", stride}};
  };
  return {sample({"f64[4,5]"}, bounds({1, 0}, {3, 5}, {1, 2})), sample({"f64[5]"}, bounds({0}, {5}, {3})),
          sample({"i64[4]"}, bounds({2}, {2}, {1})), sample({"f64[]"}, bounds({}, {}, {}))};
}

// ---- Batching ---------------------------------------------------------------------------------------------

Dims with_size(Dims dims, const Dim& size) {
  dims.insert(dims.begin(), size);
  return dims;
}

std::vector<ValueId> transpose_batch(Builder& b, const View& n, const BatchArgs& a) {
  Ints perm = behind_batch(perm_of(n.attrs(), n.in(0).rank()));
  perm.insert(perm.begin(), 0);
  return {b.transpose(a.operands[0], perm)};
}

std::vector<ValueId> broadcast_batch(Builder& b, const View& n, const BatchArgs& a) {
  Ints dims = behind_batch(attr_ints(n.attrs(), "dims"));
  dims.insert(dims.begin(), 0);
  return {b.broadcast_in_dim(a.operands[0], with_size(attr_dims(n.attrs(), "shape"), a.size), dims)};
}

std::vector<ValueId> slice_batch(Builder& b, const View& n, const BatchArgs& a) {
  Ints stride = attr_ints(n.attrs(), "stride");
  stride.insert(stride.begin(), 1);
  return {b.slice(a.operands[0], with_size(attr_dims(n.attrs(), "start"), 0),
                  with_size(attr_dims(n.attrs(), "limit"), a.size), stride)};
}

/// A padding value of each member's own: padded with zeros, then put where nothing else is.
std::vector<ValueId> pad_batch(Builder& b, const View& n, const BatchArgs& a) {
  Ints interior = attr_ints(n.attrs(), "interior");
  interior.insert(interior.begin(), 0);
  Attrs attrs{{"low", with_size(attr_dims(n.attrs(), "low"), 0)},
              {"high", with_size(attr_dims(n.attrs(), "high"), 0)},
              {"interior", interior}};
  ValueId x = with_batch_axis(b, n, a, 0);
  if (!a.batched[1]) return {b.add_op("pad", {x, a.operands[1]}, attrs)};
  DType t = n.in(0).dtype;
  ValueId padded = b.add_op("pad", {x, b.convert(b.scalar(DType::f32, 0), t)}, attrs);
  ValueId inside = b.add_op("pad", {b.full({DType::boolean, b.type(x).shape}, 1), b.scalar(DType::boolean, 0)}, attrs);
  ValueId value = b.broadcast_in_dim(a.operands[1], b.type(padded).shape, {0});
  return {b.select(inside, padded, value)};
}

}  // namespace

std::vector<OpInfo> movement_ops() {
  return {
      reshape_op(),
      movement({.name = "transpose",
                .onnx = "Transpose",
                .summary = "axes permuted; axis i of the result is axis perm[i]; reversed without `perm`",
                .attrs = {{"perm", AttrKind::ints}},
                .infer = infer_transpose,
                .eval = transpose_eval,
                .transpose = transpose_transpose,
                .batch = transpose_batch,
                .element = transpose_element,
                .inlined = true,
                .samples =
                    [] {
                      return std::vector<OpSample>{sample({"f64[2,3,4]"}, {{"perm", Ints{2, 0, 1}}}),
                                                   sample({"f64[2,3]"}), sample({"f32[]"}),
                                                   sample({"i8[0,2]"}, {{"perm", Ints{1, 0}}})};
                    }}),
      movement({.name = "broadcast_in_dim",
                .summary = "repeats: operand axis i becomes axis dims[i]; sizes are equal or 1, other axes are new",
                .attrs = {{"shape", AttrKind::dims, true}, {"dims", AttrKind::ints, true}},
                .infer = infer_broadcast,
                .eval = broadcast_eval,
                .transpose = broadcast_transpose,
                .batch = broadcast_batch,
                .element = broadcast_element,
                .inlined = true,
                .samples =
                    [] {
                      return std::vector<OpSample>{
                          sample({"f64[3]"}, {{"shape", Dims{2, 3}}, {"dims", Ints{1}}}),
                          sample({"f64[3,1]"}, {{"shape", Dims{4, 3, 2}}, {"dims", Ints{1, 2}}}),
                          sample({"f64[]"}, {{"shape", Dims{2, 2}}, {"dims", Ints{}}}),
                          sample({"f64[2,3]"}, {{"shape", Dims{3, 4, 2}}, {"dims", Ints{2, 0}}}),
                          sample({"i32[1]"}, {{"shape", Dims{0}}, {"dims", Ints{0}}})};
                    }}),
      movement({.name = "slice",
                .summary = "elements start, start + stride, ... below limit on each axis",
                .attrs = {{"start", AttrKind::dims, true},
                          {"limit", AttrKind::dims, true},
                          {"stride", AttrKind::ints, true}},
                .infer = infer_slice,
                .known_ints = slice_known,
                .eval = slice_eval,
                .transpose = slice_transpose,
                .batch = slice_batch,
                .element = slice_element,
                .inlined = true,
                .samples = slice_samples}),
      movement({.name = "rev",
                .summary = "reversed along axes",
                .attrs = {{"axes", AttrKind::ints, true}},
                .infer = infer_rev,
                .eval = rev_eval,
                .transpose = [](Builder& b, const View& n, std::size_t,
                                ValueId ct) { return b.add_op("rev", {ct}, n.attrs()); },
                .batch = batch_along_axes,
                .element = rev_element,
                .inlined = true,
                .samples =
                    [] {
                      return std::vector<OpSample>{sample({"f64[2,3]"}, {{"axes", Ints{1}}}),
                                                   sample({"f64[4]"}, {{"axes", Ints{0}}}),
                                                   sample({"i32[0]"}, {{"axes", Ints{0}}})};
                    }}),
      movement(
          {.name = "pad",
           .summary = "a value before, after and between the elements; negative `low` and `high` crop",
           .operands = {{.name = "x"}, {.name = "value"}},
           .attrs = {{"low", AttrKind::dims, true}, {"high", AttrKind::dims, true}, {"interior", AttrKind::ints, true}},
           .infer = infer_pad,
           .eval = pad_eval,
           .linearity = Linearity::joint,
           .linear_in = 3,
           .transpose = pad_transpose,
           .batch = pad_batch,
           .element = pad_element,
           .samples = pad_samples}),
      movement({.name = "concat",
                .onnx = "Concat",
                .summary = "operands one after another along an axis",
                .operands = {{.name = "inputs", .variadic = true}},
                .attrs = {{"axis", AttrKind::integer, true}},
                .infer = infer_concat,
                .known_ints = concat_known,
                .eval = concat_eval,
                .linearity = Linearity::joint,
                .linear_in = 1u << 31,
                .transpose = concat_transpose,
                .batch = batch_along_axes,
                .element = concat_element,
                .samples =
                    [] {
                      return std::vector<OpSample>{
                          sample({"f64[2,3]", "f64[1,3]", "f64[2,3]"}, {{"axis", std::int64_t{0}}}),
                          sample({"f64[2,1]", "f64[2,2]"}, {{"axis", std::int64_t{-1}}}),
                          sample({"i32[0]", "i32[2]"}, {{"axis", std::int64_t{0}}})};
                    }}),
  };
}

}  // namespace ag

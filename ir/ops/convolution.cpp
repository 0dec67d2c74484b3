// Convolution: one op with a role. The sums over batch n, group g, output channel m, channel c, tap k and position o of
// x[n,gc,o*stride+k*dilation-low] * w[gm,c,k] * y[n,gm,o] are linear in each of x, w and y; leaving one of them out
// gives the output (y), the input gradient (x) and the filter gradient (w). So the derivatives of each role are the
// other roles, at every order. The default layout is ONNX's; the pass `layout` brings networks into channels_last
// (convolution.hpp).
//
// It is taken apart late into padding, a view of windows and a product of matrices, which nothing materialises but the
// padded operand: convolution_first.cpp and convolution_last.cpp.
#include "ir/ops/convolution.hpp"

#include <cmath>

#include "ir/ops/depthwise.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/move_axes.hpp"
#include "ir/ops/winograd.hpp"

namespace ag {
using namespace ops;

namespace ops {

ConvRole conv_role_of(const Attrs& a) {
  std::string r = attr_string(a, "role", "output");
  return r == "input" ? ConvRole::input : r == "filter" ? ConvRole::filter : ConvRole::output;
}
ConvLayout conv_layout_of(const Attrs& a) {
  bool last = attr_string(a, "layout", "channels_first") == "channels_last";
  return last ? ConvLayout::channels_last : ConvLayout::channels_first;
}
std::string_view conv_role_name(ConvRole r) {
  return r == ConvRole::input ? "input" : r == ConvRole::filter ? "filter" : "output";
}

ConvValue conv_value(ConvRole role, std::size_t i) {
  using V = ConvValue;
  constexpr V values[3][3] = {
      {V::image, V::filters, V::output}, {V::output, V::filters, V::image}, {V::image, V::output, V::filters}};
  return values[static_cast<std::size_t>(role)][i];
}

Ints channels_last_perm(ConvValue value, std::int64_t rank) {
  Ints perm = iota_ints(rank - 2, 2);
  if (value == ConvValue::filters) {
    perm.push_back(1), perm.push_back(0);
  } else {
    perm.insert(perm.begin(), 0), perm.push_back(1);
  }
  return perm;
}
Ints channels_first_perm(ConvValue value, std::int64_t rank) {
  Ints last = channels_last_perm(value, rank), perm(last.size());
  for (std::size_t i = 0; i < last.size(); ++i) perm[static_cast<std::size_t>(last[i])] = static_cast<std::int64_t>(i);
  return perm;
}
Dims permuted(const Dims& shape, const Ints& perm) {
  Dims out;
  for (std::int64_t d : perm) out.push_back(shape[static_cast<std::size_t>(d)]);
  return out;
}

ConvParts conv_parts(const Attrs& a, const Dims& given_p, const Dims& given_q) {
  ConvParts c{conv_role_of(a), conv_layout_of(a), {}, {}, attr_dims(a, "groups")[0]};
  Dims p = given_p, q = given_q, size = attr_dims(a, "size");
  if (c.layout == ConvLayout::channels_last) {
    p = permuted(p, channels_first_perm(conv_value(c.role, 0), static_cast<std::int64_t>(p.size())));
    q = permuted(q, channels_first_perm(conv_value(c.role, 1), static_cast<std::int64_t>(q.size())));
  }
  switch (c.role) {
    case ConvRole::output: c.shapes = {p, q, joined({p[0], q[0]}, size)}; break;
    case ConvRole::input: c.shapes = {joined({p[0], q[1] * c.groups}, size), q, p}; break;
    case ConvRole::filter: c.shapes = {p, joined({q[1], floordiv(p[1], c.groups)}, size), q}; break;
  }
  c.window = {dims_from(c.shapes.x, 2), dims_from(c.shapes.w, 2), dims_from(c.shapes.y, 2),
              attr_dims(a, "low"),      attr_ints(a, "strides"),  attr_ints(a, "dilations")};
  return c;
}

ValueId make_conv(GraphBuilder& b, ConvRole role, ConvLayout layout, ValueId p, ValueId q, const Window& w,
                  const Dim& groups, Dims size) {
  Attrs a = window_attrs(
      w, {{"role", std::string(conv_role_name(role))}, {"size", std::move(size)}, {"groups", Dims{groups}}});
  if (layout == ConvLayout::channels_last) a.set("layout", std::string("channels_last"));
  return b.add_op("conv", {p, q}, a);
}

ValueId conv_between_transposes(GraphBuilder& b, const NodeView& n) {
  const ConvParts c = conv_parts(n);
  auto first = [&](std::size_t i) {
    return b.transpose(n.operand(i), channels_first_perm(conv_value(c.role, i), n.in(i).rank()));
  };
  const ValueId p = first(0), q = first(1);
  ValueId v = make_conv(b, c.role, ConvLayout::channels_first, p, q, c.window, c.groups, attr_dims(n.attrs(), "size"));
  return b.transpose(v, channels_last_perm(conv_value(c.role, 2), b.type(v).rank()));
}

}  // namespace ops

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Types infer_conv(const InferCtx& c) {
  const Type &p = c.in(0), &q = c.in(1);
  std::size_t r = attr_dims(c.attrs(), "size").size();
  if (attr_dims(c.attrs(), "groups").size() != 1) return c.error(Code::AG2206, "`groups` of `conv` is one number");
  for (std::size_t i : {0u, 1u})
    if (c.in(i).shape.size() != r + 2)
      return c.error(Code::AG2204,
                     fmt::format("`conv` over {} axes needs operands of rank {}: {} is {}", r, r + 2,
                                 operand_name(c, i), c.in(i).str()),
                     {}, {i});
  AG_TRY_(check_window_attrs(c, r, p.rank()));
  ConvParts parts = conv_parts(c.attrs(), p.shape, q.shape);
  const ConvShapes& s = parts.shapes;
  const Dim& groups = parts.groups;
  bool known = groups.is_const() && groups.value() > 0;
  auto divides = [&](const Dim& d) { return !d.is_const() || !known || d.value() % groups.value() == 0; };
  auto equal = [](const Dim& a, const Dim& b) { return !a.is_const() || !b.is_const() || a == b; };
  ConvRole role = parts.role;
  bool fits = known || !groups.is_const();
  if (fits && role == ConvRole::output) fits = divides(s.w[0]) && equal(s.x[1], s.w[1] * groups);
  if (fits && role == ConvRole::input) fits = divides(s.w[0]) && equal(s.y[1], s.w[0]);
  if (fits && role == ConvRole::filter) fits = divides(s.x[1]) && divides(s.y[1]) && equal(s.x[0], s.y[0]);
  if (!fits)
    return c.error(Code::AG2203,
                   fmt::format("`conv` ({}) in {} groups: the channels of {} and {} do not fit", conv_role_name(role),
                               groups.str(), p.str(), q.str()),
                   {}, {0, 1});
  Dims result = role == ConvRole::output ? s.y : role == ConvRole::input ? s.x : s.w;
  if (parts.layout == ConvLayout::channels_last)
    result = permuted(result, channels_last_perm(conv_value(role, 2), static_cast<std::int64_t>(result.size())));
  AG_TRY(Dims shape, checked_shape(c, std::move(result)));
  return std::vector<Type>{{p.dtype, std::move(shape)}};
}

ValueId conv_transpose(Builder& b, const View& n, std::size_t i, ValueId ct) {
  const ConvParts c = conv_parts(n);
  const Window& w = c.window;
  ValueId other = n.operand(1 - i);
  auto output = [&](ValueId x, ValueId f) {
    return make_conv(b, ConvRole::output, c.layout, x, f, w, c.groups, w.count);
  };
  auto input = [&](ValueId y, ValueId f) {
    return make_conv(b, ConvRole::input, c.layout, y, f, w, c.groups, w.space);
  };
  auto filter = [&](ValueId x, ValueId y) {
    return make_conv(b, ConvRole::filter, c.layout, x, y, w, c.groups, w.taps);
  };
  switch (c.role) {  // operands: (x, w), (y, w), (x, y)
    case ConvRole::output: return i == 0 ? input(ct, other) : filter(other, ct);
    case ConvRole::input: return i == 0 ? output(ct, other) : filter(ct, other);
    default: return i == 0 ? input(other, ct) : output(other, ct);
  }
}

// ---- Reference values -------------------------------------------------------------------------------------

/// Offsets into the spaces of x and y of each pair that a tap joins.
struct Pair {
  std::int64_t x, y;
};
std::vector<std::vector<Pair>> tap_pairs(const Shape& space, const Shape& taps, const Shape& count, const Shape& low,
                                         const Window& w) {
  std::vector<std::vector<Pair>> out;
  for_each_index(taps, [&](const Shape& tap, std::int64_t) {
    auto& pairs = out.emplace_back();
    for_each_index(count, [&](const Shape& o, std::int64_t y) {
      std::int64_t x = 0;
      for (std::size_t d = 0; d < space.size(); ++d) {
        std::int64_t p = o[d] * w.strides[d] + tap[d] * w.dilations[d] - low[d];
        if (p < 0 || p >= space[d]) return;
        x = x * space[d] + p;
      }
      pairs.push_back({x, y});
    });
  });
  return out;
}

struct Sizes {
  std::int64_t n, groups, m, c, space, taps, count;  // m and c of a group
};

/// sums[target] += a * b over all terms, channels before taps, or behind them where channels are last; `step(x, w, y)`
/// gets flat offsets.
template <class Step>
void for_each_term(const Sizes& z, ConvLayout layout, const std::vector<std::vector<Pair>>& pairs, Step step) {
  auto terms = [&](std::int64_t n, std::int64_t g, std::int64_t m, std::int64_t c, std::size_t k) {
    std::int64_t x = ((n * z.groups + g) * z.c + c) * z.space, y = ((n * z.groups + g) * z.m + m) * z.count,
                 w = ((g * z.m + m) * z.c + c) * z.taps;
    for (const Pair& p : pairs[k]) step(x + p.x, w + static_cast<std::int64_t>(k), y + p.y);
  };
  for (std::int64_t n = 0; n < z.n; ++n)
    for (std::int64_t g = 0; g < z.groups; ++g)
      for (std::int64_t m = 0; m < z.m; ++m)
        if (layout == ConvLayout::channels_first) {
          for (std::int64_t c = 0; c < z.c; ++c)
            for (std::size_t k = 0; k < pairs.size(); ++k) terms(n, g, m, c, k);
        } else {
          for (std::size_t k = 0; k < pairs.size(); ++k)
            for (std::int64_t c = 0; c < z.c; ++c) terms(n, g, m, c, k);
        }
}

template <class T, class Acc>
Array conv_array(ConvRole role, ConvLayout layout, const Array& p, const Array& q, const Shape& out_shape,
                 const Sizes& z, const std::vector<std::vector<Pair>>& pairs) {
  Array out(p.dtype(), out_shape);
  std::vector<Acc> sums(static_cast<std::size_t>(out.elems()));
  const T *a = p.as<T>().data(), *b = q.as<T>().data();
  auto add = [&](std::int64_t to, std::int64_t i, std::int64_t j) {
    Acc l = static_cast<Acc>(a[i]), r = static_cast<Acc>(b[j]);
    if constexpr (std::is_floating_point_v<Acc>)
      sums[at(to)] = std::fma(l, r, sums[at(to)]);
    else
      sums[at(to)] += l * r;
  };
  if (role == ConvRole::output)
    for_each_term(z, layout, pairs, [&](std::int64_t x, std::int64_t w, std::int64_t y) { add(y, x, w); });
  else if (role == ConvRole::input)
    for_each_term(z, layout, pairs, [&](std::int64_t x, std::int64_t w, std::int64_t y) { add(x, y, w); });
  else
    for_each_term(z, layout, pairs, [&](std::int64_t x, std::int64_t w, std::int64_t y) { add(w, x, y); });
  T* to = out.as_mutable<T>().data();
  for (Acc s : sums) *to++ = static_cast<T>(s);
  return out;
}

Result<std::vector<Array>> conv_eval(const EvalCtx& c) {
  const ConvParts parts = conv_parts(c.node);
  const ConvShapes& s = parts.shapes;
  const Window& w = parts.window;
  const ConvRole role = parts.role;
  const bool last = parts.layout == ConvLayout::channels_last;
  Shape x = concrete(c, s.x), f = concrete(c, s.w), y = concrete(c, s.y), low = concrete(c, w.low);
  auto spatial = [](const Shape& v) { return Shape(v.begin() + 2, v.end()); };
  auto elems = [](const Shape& v) {
    std::int64_t n = 1;
    for (std::int64_t d : v) n *= d;
    return n;
  };
  auto rank = static_cast<std::int64_t>(x.size());
  auto first = [&](std::size_t i) { return transposed(c.in[i], channels_first_perm(conv_value(role, i), rank)); };
  const Array a = last ? first(0) : c.in[0], b = last ? first(1) : c.in[1];
  std::int64_t groups = concrete(c, {parts.groups})[0];
  const Shape &p = a.shape(), &q = b.shape();
  bool fits = groups > 0 && (role == ConvRole::output  ? p[1] == q[1] * groups && q[0] % groups == 0
                             : role == ConvRole::input ? p[1] == q[0] && q[0] % groups == 0
                                                       : p[0] == q[0] && p[1] % groups == 0 && q[1] % groups == 0);
  if (!fits) return fail(Code::AG2203, place(c), "the channels of a convolution do not fit");
  Sizes z{x[0], groups, f[0] / groups, f[1], elems(spatial(x)), elems(spatial(f)), elems(spatial(y))};
  auto pairs = tap_pairs(spatial(x), spatial(f), spatial(y), low, w);
  const Shape& result = role == ConvRole::output ? y : role == ConvRole::input ? x : f;
  Array out = dispatch_dtype(a.dtype(), [&]<class T>() {
    using Acc = std::conditional_t<std::is_same_v<T, double>, double,
                                   std::conditional_t<std::is_integral_v<T>, std::uint64_t, float>>;
    return conv_array<T, Acc>(role, parts.layout, a, b, result, z, pairs);
  });
  return one(last ? transposed(out, channels_last_perm(conv_value(role, 2), rank)) : std::move(out));
}

// ---- Parts ------------------------------------------------------------------------------------------------

std::vector<ValueId> conv_lowering(Builder& b, const View& n) {
  const ConvParts c = conv_parts(n);
  const Dims result = n.out().shape;
  Expr p(b, n.operand(0)), q(b, n.operand(1));
  for (const Dims* shape : {&c.shapes.x, &c.shapes.w, &c.shapes.y})
    for (const Dim& d : *shape)
      if (d.is(0)) return {b.zeros(Type(n.out()))};
  if (c.layout == ConvLayout::channels_first) return {lower_channels_first(b, c, p, q, result)};
  if (ValueId v = lower_channels_last(b, c, p, q)) return {v};
  return {conv_between_transposes(b, n)};
}

// ---- Batching ---------------------------------------------------------------------------------------------

/// A batch of convolutions is one with as many more groups. Where only one operand is batched the other is repeated,
/// except for x (or y) over the same filters, whose batch simply grows.
std::vector<ValueId> conv_batch(Builder& b, const View& n, const BatchArgs& a) {
  const ConvParts c = conv_parts(n);
  const bool last = c.layout == ConvLayout::channels_last;
  Attrs attrs = n.attrs();
  const Dims result = n.out().shape;
  if (c.role != ConvRole::filter && a.batched[0] && !a.batched[1]) {
    Dims s = b.type(a.operands[0]).shape;
    ValueId p = b.reshape(a.operands[0], joined({s[0] * s[1]}, dims_from(s, 2)));
    ValueId v = b.add_op("conv", {p, a.operands[1]}, attrs);
    return {b.reshape(v, joined({a.size}, result))};
  }
  // Where the batch axis goes: before the channels, of filters before the output channels.
  auto channels = [&](ConvValue v, std::size_t rank) {
    return v == ConvValue::filters ? (last ? rank - 1 : 0) : (last ? rank - 1 : 1);
  };
  auto merged = [&](std::size_t i) {
    ValueId v = a.operands[i];
    if (!a.batched[i]) v = b.broadcast_to(v, joined({a.size}, b.type(v).shape));
    Dims s = b.type(v).shape;
    std::size_t to = channels(conv_value(c.role, i), s.size() - 1);
    Ints perm = iota_ints(static_cast<std::int64_t>(s.size()) - 1, 1);
    perm.insert(perm.begin() + static_cast<std::ptrdiff_t>(to), 0);
    Dims shape = dims_from(s, 1);
    shape[to] = s[0] * shape[to];
    return b.reshape(b.transpose(v, perm), shape);
  };
  attrs.set("groups", Dims{c.groups * a.size});
  ValueId v = b.add_op("conv", {merged(0), merged(1)}, attrs);
  std::size_t from = channels(conv_value(c.role, 2), result.size());
  Dims apart = result;
  apart.insert(apart.begin() + static_cast<std::ptrdiff_t>(from), a.size);
  Ints perm = iota_ints(static_cast<std::int64_t>(apart.size()));
  perm.erase(perm.begin() + static_cast<std::ptrdiff_t>(from));
  perm.insert(perm.begin(), static_cast<std::int64_t>(from));
  return {b.transpose(b.reshape(v, apart), perm)};
}

// ---- The table --------------------------------------------------------------------------------------------

std::vector<OpSample> conv_samples() {
  auto with = [](std::string role, Dims size, Dims low, Ints strides, Ints dilations, std::int64_t groups) {
    return Attrs{{"role", role},       {"size", size},           {"low", low},
                 {"strides", strides}, {"dilations", dilations}, {"groups", Dims{groups}}};
  };
  auto last = [&](std::string role, Dims size, Dims low, Ints strides, Ints dilations, std::int64_t groups) {
    Attrs a = with(role, size, low, strides, dilations, groups);
    a.set("layout", std::string("channels_last"));
    return a;
  };
  return {sample({"f64[2,3,5]", "f64[4,3,3]"}, with("output", {5}, {1}, {1}, {1}, 1)),
          sample({"f64[1,2,5,6]", "f64[3,2,2,3]"}, with("output", {3, 4}, {1, 1}, {2, 1}, {1, 2}, 1)),
          sample({"f64[1,4,4,4]", "f64[4,2,2,2]"}, with("output", {3, 3}, {0, 0}, {1, 1}, {1, 1}, 2)),
          sample({"f64[2,3,4,4]", "f64[3,1,3,3]"}, with("output", {4, 4}, {1, 1}, {1, 1}, {1, 1}, 3)),
          sample({"f64[2,3,3,4]", "f64[4,3,1,1]"}, with("output", {3, 4}, {0, 0}, {1, 1}, {1, 1}, 1)),
          sample({"f64[1,1,3,3,3]", "f64[2,1,2,2,2]"}, with("output", {2, 2, 2}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}, 1)),
          sample({"f64[2,4,3]", "f64[4,3,3]"}, with("input", {5}, {1}, {2}, {1}, 1)),
          sample({"f64[1,4,3,2]", "f64[4,1,2,2]"}, with("input", {5, 5}, {0, 1}, {2, 3}, {1, 2}, 2)),
          sample({"f64[2,3,5]", "f64[2,4,3]"}, with("filter", {3}, {1}, {2}, {1}, 1)),
          sample({"f64[1,4,5,4]", "f64[1,4,4,3]"}, with("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 2)),
          sample({"f64[1,2,4,4]", "f64[1,16,3,3]"}, with("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 1)),
          sample({"f64[2,2,24,24]", "f64[2,8,23,23]"}, with("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 1)),
          sample({"f64[2,2,24,24]", "f64[2,2,23,23]"}, with("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 2)),
          sample({"f16[1,2,4,4]", "f16[3,2,3,3]"}, with("output", {4, 4}, {1, 1}, {1, 1}, {1, 1}, 1)),
          sample({"i32[1,2,4]", "i32[2,2,2]"}, with("output", {3}, {0}, {1}, {1}, 1), -9, 9),
          sample({"f32[0,2,4]", "f32[2,2,2]"}, with("output", {3}, {0}, {1}, {1}, 1)),
          sample({"f32[2,3]", "f32[4,3]"}, with("output", {}, {}, {}, {}, 1)),
          sample({"f64[2,5,3]", "f64[3,3,4]"}, last("output", {5}, {1}, {1}, {1}, 1)),
          sample({"f64[1,5,6,2]", "f64[2,3,2,3]"}, last("output", {3, 4}, {1, 1}, {2, 1}, {1, 2}, 1)),
          sample({"f64[1,4,4,6]", "f64[2,2,3,4]"}, last("output", {3, 3}, {0, 0}, {1, 1}, {1, 1}, 2)),
          sample({"f64[2,4,4,3]", "f64[3,3,1,3]"}, last("output", {4, 4}, {1, 1}, {1, 1}, {1, 1}, 3)),
          sample({"f64[1,5,4,3]", "f64[3,3,1,6]"}, last("output", {3, 2}, {1, 1}, {2, 2}, {1, 1}, 3)),
          sample({"f64[2,3,4,3]", "f64[1,1,3,4]"}, last("output", {3, 4}, {0, 0}, {1, 1}, {1, 1}, 1)),
          sample({"f64[1,3,3,3,1]", "f64[2,2,2,1,2]"}, last("output", {2, 2, 2}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}, 1)),
          sample({"f64[2,3,4]", "f64[3,3,4]"}, last("input", {5}, {1}, {2}, {1}, 1)),
          sample({"f64[1,3,2,4]", "f64[2,2,1,4]"}, last("input", {5, 5}, {0, 1}, {2, 3}, {1, 2}, 2)),
          sample({"f64[1,3,2,4]", "f64[1,1,3,4]"}, last("input", {5, 4}, {0, 0}, {2, 2}, {1, 1}, 1)),
          sample({"f64[1,3,3,4]", "f64[3,3,1,4]"}, last("input", {3, 3}, {1, 1}, {1, 1}, {1, 1}, 4)),
          sample({"f64[2,5,3]", "f64[2,3,4]"}, last("filter", {3}, {1}, {2}, {1}, 1)),
          sample({"f64[1,5,4,4]", "f64[1,4,3,4]"}, last("filter", {2, 2}, {0, 0}, {1, 1}, {1, 1}, 2)),
          sample({"f64[2,5,4,4]", "f64[2,5,4,4]"}, last("filter", {3, 3}, {1, 1}, {1, 1}, {1, 1}, 4)),
          sample({"f16[1,4,4,2]", "f16[3,3,2,3]"}, last("output", {4, 4}, {1, 1}, {1, 1}, {1, 1}, 1)),
          sample({"f16[1,4,4,2]", "f16[3,3,1,2]"}, last("output", {4, 4}, {1, 1}, {1, 1}, {1, 1}, 2)),
          sample({"i32[1,4,2]", "i32[2,2,2]"}, last("output", {3}, {0}, {1}, {1}, 1), -9, 9),
          sample({"f32[2,3]", "f32[3,4]"}, last("output", {}, {}, {}, {}, 1))};
}

OpInfo conv_op() {
  OpInfo o{.name = "conv",
           .tier = Tier::composite,
           .summary = "convolution over any number of axes, or its gradient with respect to input or filter",
           .operands = {{.name = "p", .dtypes = numeric}, {.name = "q", .dtypes = numeric}},
           .infer = infer_conv,
           .eval = conv_eval,
           .decompose = conv_lowering,
           .linearity = Linearity::each,
           .linear_in = 3,
           .transpose = conv_transpose,
           .batch = conv_batch,
           .samples = conv_samples};
  o.attrs = window_attr_specs(
      {choice_attr("role", {"output", "input", "filter"}, "of x, w and y the one that is computed from the others"),
       {"size", AttrKind::dims, true, "spatial sizes of the result"},
       {"groups", AttrKind::dims, true, "one number, which divides the channels"},
       choice_attr("layout", {"channels_first", "channels_last"},
                   "of all three: x [N,C,...], w [M,C/groups,...] or x [N,...,C], w [...,C/groups,M]")});
  return o;
}

OpInfo materialize_op() {
  return {.name = "materialize",
          .lower_class = LowerClass::index,
          .summary = "the operand in memory of its own: what several passes over a view should read",
          .operands = {{.name = "x"}},
          .attrs = {{"apart", AttrKind::boolean, false, "no kernel that computes it reads it", AttrValue(false)}},
          .infer = infer_same,
          .eval = [](const EvalCtx& c) { return one(c.in[0]); },
          .linearity = Linearity::each,
          .linear_in = 1,
          .transpose = [](Builder&, const View&, std::size_t, ValueId ct) { return ct; },
          .batch = [](Builder& b, const View&, const BatchArgs& a) -> std::vector<ValueId> {
            return {b.add_op("materialize", {a.operands[0]})};
          },
          .element = [](ElementCtx& c, LoopValues index) { return c.operand(0, index); },
          .samples = [] { return std::vector<OpSample>{sample({"f64[2,3]"}), sample({"i8[0,2]"})}; }};
}

}  // namespace

std::vector<OpInfo> convolution_ops() {
  std::vector<OpInfo> all{conv_op(), materialize_op()};
  for (OpInfo& o : convolution_layer_ops()) all.push_back(std::move(o));
  for (OpInfo& o : winograd_ops()) all.push_back(std::move(o));
  for (OpInfo& o : depthwise_ops()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag

// ONNX's pools, LRN and MaxUnpool, by reductions over windows.
#include "ir/ops/data_sizes.hpp"
#include "ir/ops/windows.hpp"

namespace ag::ops {
namespace {

Dims spatial(const Dims& shape) { return dims_from(shape, 2); }

Dims kernel_of(const Attrs& a) {
  Ints k = attr_ints(a, "kernel_shape");
  return Dims(k.begin(), k.end());
}

Window window_of(const View& n) { return onnx_window(n.attrs(), spatial(n.in(0).shape), kernel_of(n.attrs())); }

Types infer_pool(const InferCtx& c) {
  Dims kernel = kernel_of(c.attrs());
  if (c.in(0).rank() < 3 || kernel.size() + 2 != c.in(0).shape.size())
    return c.error(
        Code::AG2204,
        fmt::format("`{}` needs batch, channel and an axis for each of the {} sizes of `kernel_shape`: {} is {}",
                    c.op().onnx, kernel.size(), operand_name(c, 0), c.in(0).str()),
        {}, {0});
  AG_TRY_(check_onnx_window(c, kernel.size()));
  Window w = onnx_window(c.attrs(), spatial(c.in(0).shape), kernel);
  Type t{c.in(0).dtype, joined(dims_between(c.in(0).shape, 0, 2), w.count)};
  AG_TRY_(checked_shape(c, t.shape));
  if (c.op().name != "MaxPool") return std::vector<Type>{t};
  return std::vector<Type>{t, t.with(DType::i64)};
}

// ---- MaxPool ----------------------------------------------------------------------------------------------

/// The places of the winning taps as flat indices into X: row-major, or with the last spatial axes the other way.
Expr flat_winners(Expr first, const Dims& shape, const Window& w, bool column_major) {
  Builder& b = first.builder();
  Type t = first.type();
  std::size_t r = w.rank();
  auto axis = [&](std::size_t d) { return first.with(b.iota(t, static_cast<std::int64_t>(d))); };
  auto size = [&](const Dim& d) { return size_value(b, d, DType::i64); };
  std::vector<Expr> places(r);
  for (std::size_t d = r; d-- > 0;) {
    Expr tap = d == 0 ? first : call("rem", first, size(w.taps[d]));
    if (d > 0) first = first / size(w.taps[d]);
    Expr start = axis(2 + d) * first.with(b.scalar_int(DType::i64, w.strides[d])) - size(w.low[d]);
    places[d] = start + tap * first.with(b.scalar_int(DType::i64, w.dilations[d]));
  }
  Expr flat = axis(0) * size(shape[1]) + axis(1), inner = places[column_major ? r - 1 : 0];
  for (std::size_t k = 1; k < r; ++k) {
    std::size_t d = column_major ? r - 1 - k : k;
    inner = inner * size(w.space[d]) + places[d];
  }
  return flat * size(product(w.space)) + inner;
}

std::vector<ValueId> max_pool(Builder& b, const View& n) {
  Window w = window_of(n);
  Dims shape = n.in(0).shape;
  Expr x(b, n.operand(0)), y = reduce_window("max", x, w);
  std::vector<ValueId> out{y};
  if (n.node().result_count < 2) return out;
  bool column_major = attr_int(n.attrs(), "storage_order", 0) != 0;
  out.push_back(flat_winners(first_winner(x, y, w, "max").to(DType::i64), shape, w, column_major));
  return out;
}

// ---- AveragePool, LpPool ----------------------------------------------------------------------------------

/// How many elements each window averages, [count...]: what it covers of x, with padding if that is counted. Never
/// more than the padded axis, even where rounding up made the last window longer.
Expr window_sizes(Expr x, const Window& w, const Dims& high, bool padding) {
  Builder& b = x.builder();
  Expr all;
  for (std::size_t d = 0; d < w.rank(); ++d) {
    Window one{{w.space[d]}, {w.taps[d]}, {w.count[d]}, {w.low[d]}, {w.strides[d]}, {w.dilations[d]}};
    if (padding) one.space[0] = w.space[d] + w.low[d] + high[d], one.low[0] = 0;
    Expr covered = reduce_window("sum", x.with(b.ones({x.dtype(), one.space})), one);
    Dims shape(w.rank(), 1);
    shape[d] = w.count[d];
    covered = x.with(b.reshape(covered, shape));
    all = d == 0 ? covered : all * covered;
  }
  return all;
}

std::vector<ValueId> average_pool(Builder& b, const View& n) {
  Window w = window_of(n);
  bool padding = attr_int(n.attrs(), "count_include_pad", 0) != 0;
  Expr x(b, n.operand(0)), sum = reduce_window("sum", x, w);
  if (w.inside()) return {sum / size_value(b, product(w.taps), x.dtype())};
  return {sum / window_sizes(x, w, onnx_high_pads(n.attrs(), w), padding)};
}

/// The p-th root, whose slope at 0 is 0.
Expr root(Expr sum, std::int64_t p) {
  if (p == 1) return sum;
  Expr none = sum == 0.0, safe = select(none, 1, sum);
  return select(none, 0, p == 2 ? sqrt(safe) : call("pow", safe, 1.0 / static_cast<double>(p)));
}
Expr power(Expr x, std::int64_t p) {
  if (p == 1) return abs(x);
  if (p == 2) return call("square", x);
  return call("pow", abs(x), static_cast<double>(p));
}

std::vector<ValueId> lp_pool(Builder& b, const View& n) {
  std::int64_t p = attr_int(n.attrs(), "p", 2);
  return {root(reduce_window("sum", power(Expr(b, n.operand(0)), p), window_of(n)), p)};
}

// ---- Global pools -----------------------------------------------------------------------------------------

Types infer_global(const InferCtx& c) {
  if (c.in(0).rank() < 2)
    return c.error(
        Code::AG2204,
        fmt::format("`{}` needs batch and channel: {} is {}", c.op().onnx, operand_name(c, 0), c.in(0).str()), {}, {0});
  Type t = c.in(0);
  for (std::size_t d = 2; d < t.shape.size(); ++d) t.shape[d] = 1;
  return std::vector<Type>{std::move(t)};
}
Ints spatial_axes(const View& n) { return iota_ints(n.in(0).rank() - 2, 2); }

std::vector<ValueId> global_average(Builder& b, const View& n) {
  return {mean(Expr(b, n.operand(0)), spatial_axes(n), true)};
}
/// As max pooling over everything: the first winner takes the gradient.
std::vector<ValueId> global_max(Builder& b, const View& n) {
  Dims space = spatial(n.in(0).shape);
  std::size_t r = space.size();
  Expr x(b, n.operand(0));
  if (r == 0) return {x};
  return {reduce_window("max", x, {space, space, Dims(r, 1), Dims(r, 0), Ints(r, 1), Ints(r, 1)})};
}
std::vector<ValueId> global_lp(Builder& b, const View& n) {
  std::int64_t p = attr_int(n.attrs(), "p", 2);
  return {root(reduce("reduce_sum", power(Expr(b, n.operand(0)), p), spatial_axes(n), true), p)};
}

// ---- LRN --------------------------------------------------------------------------------------------------

Types infer_lrn(const InferCtx& c) {
  if (c.in(0).rank() < 2)
    return c.error(Code::AG2204,
                   fmt::format("`LRN` needs batch and channel: {} is {}", operand_name(c, 0), c.in(0).str()), {}, {0});
  if (attr_int(c.attrs(), "size", 1) < 1) return c.error(Code::AG2206, "`LRN`: `size` is at least 1");
  return infer_same(c);
}

std::vector<ValueId> lrn(Builder& b, const View& n) {
  std::int64_t size = attr_int(n.attrs(), "size", 1);
  Dims shape = n.in(0).shape;
  Expr x(b, n.operand(0));
  Dim rest = product(spatial(shape));
  Expr flat = x.with(b.reshape(x, {shape[0], shape[1], rest}));
  Window w{{shape[1], rest}, {size, 1}, {shape[1], rest}, {(size - 1) / 2, 0}, {1, 1}, {1, 1}};
  Expr sum = reduce_window("sum", call("square", flat), w);
  double alpha = attr_number(n.attrs(), "alpha", 1e-4), bias = attr_number(n.attrs(), "bias", 1);
  Expr scale = sum * (alpha / static_cast<double>(size)) + bias;
  Expr y = flat / call("pow", scale, attr_number(n.attrs(), "beta", 0.75));
  return {b.reshape(y, shape)};
}

// ---- MaxUnpool --------------------------------------------------------------------------------------------

Dims unpooled(const Attrs& a, const Dims& x) {
  Dims out = dims_between(x, 0, 2);
  Ints kernel = attr_ints(a, "kernel_shape"), strides = attr_ints(a, "strides"), pads = attr_ints(a, "pads");
  for (std::size_t d = 0; d < kernel.size(); ++d) {
    std::int64_t stride = strides.empty() ? 1 : strides[d];
    std::int64_t pad = pads.empty() ? 0 : pads[d] + pads[kernel.size() + d];
    out.push_back((x[2 + d] - 1) * stride + kernel[d] - pad);
  }
  return out;
}

Types infer_unpool(const InferCtx& c) {
  Ints kernel = attr_ints(c.attrs(), "kernel_shape");
  if (kernel.size() + 2 != c.in(0).shape.size() || c.in(1).rank() != c.in(0).rank())
    return c.error(Code::AG2204,
                   fmt::format("`MaxUnpool`: {} and indices {} do not fit a kernel of {} axes", c.in(0).str(),
                               c.in(1).str(), kernel.size()),
                   {}, {0, 1});
  AG_TRY_(check_onnx_window(c, kernel.size()));
  Dims shape = unpooled(c.attrs(), c.in(0).shape);
  if (c.has(2)) {
    AG_TRY(PartDims some, sizes_of(c, 2));
    shape.clear();
    for (std::size_t i = 0; i < some.size(); ++i) shape.push_back(some[i] ? *some[i] : c.unbacked(i));
    if (shape.size() != c.in(0).shape.size())
      return c.error(Code::AG2206,
                     fmt::format("`MaxUnpool`: `output_shape` has {} sizes for {}", shape.size(), c.in(0).str()), {},
                     {2});
  }
  AG_TRY(shape, checked_shape(c, std::move(shape)));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

/// Indices point into the shape that the attributes give; a larger `output_shape` adds zeros behind.
std::vector<ValueId> max_unpool(Builder& b, const View& n) {
  Dims inner = unpooled(n.attrs(), n.in(0).shape), shape = n.out().shape;
  if (n.has(2) && (!known(n, 2) || names_sizes(n))) define_sizes(b, as_sizes(b, n.operand(2)), shape);
  Expr x(b, n.operand(0));
  Dim count = n.in(0).elems();
  ValueId values = b.reshape(x, {count}), places = b.reshape(n.operand(1), {count});
  ValueId flat = b.add_op("scatter", {b.zeros({x.dtype(), {product(inner)}}), places, values},
                          {{"update_window_dims", Ints{}},
                           {"inserted_window_dims", Ints{0}},
                           {"input_batching_dims", Ints{}},
                           {"scatter_indices_batching_dims", Ints{}},
                           {"scatter_dims_to_operand_dims", Ints{0}},
                           {"index_vector_dim", std::int64_t{1}},
                           {"kind", std::string("set")}});
  ValueId y = b.reshape(flat, inner);
  if (inner == shape) return {y};
  Dims high;
  for (std::size_t d = 0; d < shape.size(); ++d) high.push_back(shape[d] - inner[d]);
  return {b.add_op("pad", {y, b.zeros({x.dtype(), {}})},
                   {{"low", Dims(shape.size(), 0)}, {"high", high}, {"interior", Ints(shape.size(), 0)}})};
}

// ---- Samples ----------------------------------------------------------------------------------------------

std::vector<OpSample> pool_samples() {
  auto k = [](Ints kernel, std::vector<std::pair<std::string, AttrValue>> more = {}) {
    Attrs a{{"kernel_shape", kernel}};
    for (auto& [name, v] : more) a.set(name, std::move(v));
    return a;
  };
  return {
      sample({"f64[1,2,5]"}, k({3}, {{"strides", Ints{2}}, {"pads", Ints{1, 1}}})),
      sample({"f64[1,2,4,5]"}, k({2, 3}, {{"pads", Ints{0, 1, 1, 1}}})),
      sample({"f64[1,1,6,5]"}, k({2, 2}, {{"strides", Ints{2, 3}}, {"auto_pad", std::string("SAME_UPPER")}})),
      sample({"f64[1,1,5,5]"}, k({3, 3}, {{"strides", Ints{2, 2}}, {"auto_pad", std::string("SAME_LOWER")}})),
      sample({"f64[1,1,5,5]"}, k({2, 2}, {{"auto_pad", std::string("VALID")}})),
      sample({"f32[2,3,6,6]"}, k({3, 3}, {{"strides", Ints{2, 2}}})),
      sample({"f16[1,2,5,5]"}, k({3, 3}, {{"pads", Ints{1, 1, 1, 1}}})),
      sample({"f64[1,1,3,4,3]"}, k({2, 2, 2})),
      sample({"f64[1,1,6]"}, k({2}, {{"dilations", Ints{2}}, {"ceil_mode", std::int64_t{1}}, {"strides", Ints{3}}}))};
}
std::vector<OpSample> max_pool_samples() {
  std::vector<OpSample> all = pool_samples();
  all.push_back(sample({"f64[2,2,4,5]"}, {{"kernel_shape", Ints{2, 2}}, {"storage_order", std::int64_t{1}}}));
  all.push_back(sample({"i8[1,1,4,4]"}, {{"kernel_shape", Ints{3, 3}}, {"pads", Ints{1, 1, 1, 1}}}, -9, 9));
  all.push_back(sample({"u8[1,1,4,4]"}, {{"kernel_shape", Ints{2, 2}}}, 0, 9));
  return all;
}
std::vector<OpSample> average_samples() {
  std::vector<OpSample> all = pool_samples();
  for (std::int64_t ceil : {0, 1})
    all.push_back(sample({"f64[1,1,5,6]"}, {{"kernel_shape", Ints{3, 2}},
                                            {"pads", Ints{1, 0, 1, 1}},
                                            {"strides", Ints{2, 2}},
                                            {"ceil_mode", ceil},
                                            {"count_include_pad", std::int64_t{1}}}));
  return all;
}
std::vector<OpSample> lp_samples() {
  std::vector<OpSample> all = pool_samples();
  for (std::int64_t p : {1, 3})
    all.push_back(sample({"f64[1,1,4,4]"}, {{"kernel_shape", Ints{2, 2}}, {"p", p}}, 0.5, 2));
  return all;
}
std::vector<OpSample> global_samples() {
  return {sample({"f64[2,3,4,2]"}), sample({"f32[1,2,5]"}), sample({"f64[2,3]"})};
}

OpInfo pool(std::string_view name, std::string_view summary, std::vector<ValueId> (*decompose)(Builder&, const View&)) {
  OpInfo o = composite({.name = name, .summary = summary});
  o.operands = {{.name = "X", .dtypes = floats}};
  o.infer = infer_pool;
  o.decompose = decompose;
  o.attrs = onnx_window_attrs({{"kernel_shape", AttrKind::ints, true}, int_attr("ceil_mode", 0)});
  o.samples = pool_samples;
  return o;
}

OpInfo global(std::string_view name, std::string_view summary,
              std::vector<ValueId> (*decompose)(Builder&, const View&)) {
  OpInfo o = composite({.name = name, .summary = summary});
  o.operands = {{.name = "X", .dtypes = floats}};
  o.infer = infer_global;
  o.decompose = decompose;
  o.samples = global_samples;
  return o;
}

OpInfo unpool_op() {
  OpInfo o = composite({.name = "MaxUnpool", .summary = "values back to where a max pool found them, zeros elsewhere"});
  o.operands = {{.name = "X", .dtypes = floats},
                {.name = "I", .type_var = "I", .dtypes = set_of(DType::i64)},
                int_operand("output_shape", true)};
  o.attrs = {{"kernel_shape", AttrKind::ints, true}, {"strides", AttrKind::ints}, {"pads", AttrKind::ints}};
  o.infer = infer_unpool;
  o.decompose = max_unpool;
  o.samples = [] {
    OpSample::Operand places{sample_type("i64[1,1,2,2]"),
                             make_literal(Array::of<std::int64_t>(DType::i64, {1, 1, 2, 2}, Ints{5, 7, 13, 15}))};
    Attrs a{{"kernel_shape", Ints{2, 2}}, {"strides", Ints{2, 2}}};
    return std::vector<OpSample>{{{sample_operand("f64[1,1,2,2]"), places}, a},
                                 {{sample_operand("f64[1,1,2,2]"), places, sample_ints({1, 1, 5, 6})}, a}};
  };
  return o;
}

}  // namespace

// ---- ONNX's spatial attributes ----------------------------------------------------------------------------

Window onnx_window(const Attrs& a, const Dims& space, const Dims& taps) {
  std::size_t r = space.size();
  Window w{space, taps, {}, {}, a.get_or<Ints>("strides", Ints(r, 1)), a.get_or<Ints>("dilations", Ints(r, 1))};
  Ints pads = a.get_or<Ints>("pads", Ints(2 * r, 0));
  std::string mode = attr_string(a, "auto_pad", "NOTSET");
  bool ceil = attr_int(a, "ceil_mode", 0) != 0;
  for (std::size_t d = 0; d < r; ++d) {
    Dim span = (taps[d] - 1) * w.dilations[d] + 1, count, low = 0;
    if (mode.starts_with("SAME")) {
      count = ceildiv(space[d], w.strides[d]);
      Dim padding = max((count - 1) * w.strides[d] + span - space[d], 0);
      low = mode == "SAME_UPPER" ? floordiv(padding, 2) : ceildiv(padding, 2);
    } else {
      Dim high = 0;
      if (mode == "NOTSET") low = pads[d], high = pads[r + d];
      Dim room = space[d] + low + high - span;
      count = floordiv(room, w.strides[d]) + 1;
      // The last window starts inside the axis or its padding in front.
      if (ceil) count = min(ceildiv(room, w.strides[d]) + 1, ceildiv(space[d] + low, w.strides[d]));
    }
    w.count.push_back(count);
    w.low.push_back(low);
  }
  return w;
}

Dims onnx_high_pads(const Attrs& a, const Window& w) {
  std::size_t r = w.rank();
  Ints pads = a.get_or<Ints>("pads", Ints(2 * r, 0));
  std::string mode = attr_string(a, "auto_pad", "NOTSET");
  Dims high;
  for (std::size_t d = 0; d < r; ++d) {
    Dim same = max((w.count[d] - 1) * w.strides[d] + (w.taps[d] - 1) * w.dilations[d] + 1 - w.space[d], 0) - w.low[d];
    high.push_back(mode == "NOTSET" ? Dim(pads[r + d]) : mode == "VALID" ? Dim(0) : same);
  }
  return high;
}

Status check_onnx_window(const InferCtx& c, std::size_t axes) {
  auto wrong = [&](std::string_view name, std::size_t want) -> Status {
    const Ints* v = c.attrs().get<Ints>(name);
    if (!v || v->size() == want) return {};
    return c.error(Code::AG2206, fmt::format("`{}` of `{}` has {} entries; {} axes need {}", name, op_title(c),
                                             v->size(), axes, want));
  };
  for (std::string_view name : {"strides", "dilations", "kernel_shape"}) {
    AG_TRY_(wrong(name, axes));
    for (std::int64_t v : attr_ints(c.attrs(), name))
      if (v < 1)
        return c.error(Code::AG2206, fmt::format("`{}` of `{}` is {}; it is at least 1", name, op_title(c), v));
  }
  AG_TRY_(wrong("pads", 2 * axes));
  return {};
}

std::vector<AttrSpec> onnx_window_attrs(std::vector<AttrSpec> more) {
  more.push_back(choice_attr("auto_pad", {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"}));
  more.push_back({"pads", AttrKind::ints, false, "before each axis, then behind each"});
  more.push_back({"strides", AttrKind::ints});
  more.push_back({"dilations", AttrKind::ints});
  return more;
}

std::vector<OpInfo> pooling_ops() {
  OpInfo max = pool("MaxPool", "maxima of windows; the first winner takes the gradient", max_pool);
  max.operands[0].dtypes = floats | set_of(DType::i8) | set_of(DType::u8);
  max.results = {{"Y"}, {"Indices", "I", true}};
  max.attrs.push_back(int_attr("storage_order", 0));
  max.samples = max_pool_samples;
  OpInfo average = pool("AveragePool", "means of windows", average_pool);
  average.attrs.push_back(int_attr("count_include_pad", 0));
  average.samples = average_samples;
  OpInfo lp = pool("LpPool", "p-norms of windows", lp_pool);
  lp.attrs.push_back(int_attr("p", 2));
  lp.samples = lp_samples;
  OpInfo global_p = global("GlobalLpPool", "p-norm over the spatial axes", global_lp);
  global_p.attrs = {int_attr("p", 2)};
  OpInfo response = composite({.name = "LRN", .summary = "over a power of the mean square of neighbouring channels"});
  response.operands = {{.name = "X", .dtypes = floats}};
  response.attrs = {
      {"size", AttrKind::integer, true}, number_attr("alpha", 1e-4), number_attr("beta", 0.75), number_attr("bias", 1)};
  response.infer = infer_lrn;
  response.decompose = lrn;
  response.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,5,2,3]"}, {{"size", std::int64_t{3}}, {"alpha", 0.1}}),
                                 sample({"f32[1,4,3]"}, {{"size", std::int64_t{2}}, {"alpha", 0.5}, {"beta", 0.5}})};
  };
  return {max,
          average,
          lp,
          global("GlobalAveragePool", "mean over the spatial axes", global_average),
          global("GlobalMaxPool", "maximum over the spatial axes; the first winner takes the gradient", global_max),
          global_p,
          response,
          unpool_op()};
}

}  // namespace ag::ops

// ONNX's Slice, Split and Pad.
#include "ir/ops/common.hpp"
#include "ir/ops/data_sizes.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// ---- Slice ------------------------------------------------------------------------------------------------

/// One axis of a Slice in terms of the primitives: reversed or not, then [start, limit) by stride.
struct Cut {
  bool reversed = false;
  Dim start = 0, limit, size;
  std::int64_t stride = 1;
};

bool beyond(const Dim& d) { return d.is_const() && d.value() >= 0x7fffffff; }  ///< exporters' "to the end"

/// numpy's clamping of a bound to [low, size + high].
Dim bound(const Dim& v, const Dim& size, std::int64_t low, std::int64_t high) {
  if (beyond(v)) return size + Dim(high);
  Dim from_front = v.is_const() && v.value() < 0 ? (v.value() < -0x7fffffff ? Dim(low) : v + size) : v;
  if (from_front == size && high == 0) return size;
  if (from_front.is(0) && low == 0) return 0;
  return min(max(from_front, low), size + Dim(high));
}

Cut cut(const Dim& size, const Dim& start, const Dim& end, std::int64_t step) {
  Cut c;
  if (step > 0) {
    c.stride = step;
    c.start = bound(start, size, 0, 0);
    Dim stop = bound(end, size, 0, 0);
    Dim length = c.start.is(0) ? stop : max(stop - c.start, 0);
    c.limit = c.start + length;
    c.size = ceildiv(length, step);
    return c;
  }
  // Backwards: from size-1-start in the reversed axis.
  c.reversed = true;
  c.stride = -step;
  Dim first = bound(start, size, -1, -1), stop = bound(end, size, -1, -1);
  Dim length = max(first - stop, 0);
  c.start = size - Dim(1) - first;
  c.limit = c.start + length;
  c.size = ceildiv(length, c.stride);
  return c;
}

/// All axes of `shape`, given the operands' elements. Empty if they do not fit together.
std::optional<std::vector<Cut>> cuts(const Dims& shape, const Dims& starts, const Dims& ends,
                                     const std::optional<Ints>& axes, const std::optional<Ints>& steps) {
  if (starts.size() != ends.size() || (axes && axes->size() != starts.size()) ||
      (steps && steps->size() != starts.size()))
    return std::nullopt;
  if (!axes && starts.size() > shape.size()) return std::nullopt;
  std::vector<Cut> out;
  for (const Dim& d : shape) out.push_back({.limit = d, .size = d});
  Ints seen;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    auto axis = normalize_axis(axes ? (*axes)[i] : static_cast<std::int64_t>(i), static_cast<int>(shape.size()));
    std::int64_t step = steps ? (*steps)[i] : 1;
    if (!axis || step == 0 || contains(seen, *axis)) return std::nullopt;
    if (step < -0x7fffffff) step = -0x7fffffff;
    if (step > 0x7fffffff) step = 0x7fffffff;
    seen.push_back(*axis);
    out[at(*axis)] = cut(shape[at(*axis)], starts[i], ends[i], step);
  }
  return out;
}

/// Whether the compiler knows what a Slice cuts out.
template <class Known, class Constants>
bool known_cuts(Known known, Constants constants, bool axes, bool steps) {
  return known(1) && known(2) && (!axes || constants(3)) && (!steps || constants(4));
}

Types infer_slice(const InferCtx& c) {
  auto constants = [&](std::size_t i) { return as_constants(c.ints(i)).has_value(); };
  if (!known_cuts([&](std::size_t i) { return c.ints(i).has_value(); }, constants, c.has(3), c.has(4)))
    return infer_slice_by_data(c);
  AG_TRY(Dims starts, required_ints(c, 1));
  AG_TRY(Dims ends, required_ints(c, 2));
  std::optional<Ints> axes, steps;
  if (c.has(3)) {
    AG_TRY(axes, required_constants(c, 3));
  }
  if (c.has(4)) {
    AG_TRY(steps, required_constants(c, 4));
  }
  auto all = cuts(c.in(0).shape, starts, ends, axes, steps);
  if (!all)
    return c.error(
        Code::AG2206,
        fmt::format("`Slice` of {}: starts {}, ends {}{}{} do not fit together", c.in(0).str(), shape_str(starts),
                    shape_str(ends), axes ? fmt::format(", axes [{}]", fmt::join(*axes, ", ")) : "",
                    steps ? fmt::format(", steps [{}]", fmt::join(*steps, ", ")) : ""),
        "as many of each, distinct axes in range, no step of 0", {0});
  Type t{c.in(0).dtype, {}};
  for (const Cut& k : *all) t.shape.push_back(k.size);
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

std::vector<Cut> cuts_of(const View& n) {
  return *cuts(n.in(0).shape, *known(n, 1), *known(n, 2), known_constants(n, 3), known_constants(n, 4));
}

bool cuts_known(const View& n) {
  auto constants = [&](std::size_t i) { return known_constants(n, i).has_value(); };
  return known_cuts([&](std::size_t i) { return known(n, i).has_value(); }, constants, n.has(3), n.has(4));
}

std::vector<ValueId> slice(Builder& b, const View& n) {
  if (!cuts_known(n) || names_sizes(n)) return slice_by_data(b, n);
  Ints reversed, stride;
  Dims start, limit;
  std::vector<Cut> all = cuts_of(n);
  for (std::size_t d = 0; d < all.size(); ++d) {
    if (all[d].reversed) reversed.push_back(static_cast<std::int64_t>(d));
    start.push_back(all[d].start);
    limit.push_back(all[d].limit);
    stride.push_back(all[d].stride);
  }
  ValueId x = n.operand(0);
  if (!reversed.empty()) x = b.add_op("rev", {x}, {{"axes", reversed}});
  return {b.slice(x, start, limit, stride)};
}

std::optional<Dims> slice_known(const View& n) {
  auto v = known(n, 0);
  if (!v || n.out().rank() != 1 || !cuts_known(n)) return std::nullopt;
  Cut k = cuts_of(n)[0];
  if (!k.start.is_const() || !k.size.is_const()) return std::nullopt;
  if (k.reversed) std::reverse(v->begin(), v->end());
  Dims out;
  for (std::int64_t i = 0; i < k.size.value(); ++i) out.push_back((*v)[at(k.start.value() + i * k.stride)]);
  return out;
}

// ---- Split ------------------------------------------------------------------------------------------------

Result<Dims> split_sizes(const InferCtx& c, const Dim& size) {
  if (c.has(1)) return required_ints(c, 1);
  std::int64_t n = attr_int(c.attrs(), "num_outputs", 0);
  if (n <= 0 || n > 65536) return c.error(Code::AG2206, "`Split` needs `split` or `num_outputs`", "how many parts?");
  Dim part = ceildiv(size, n);
  Dims sizes(at(n - 1), part);
  sizes.push_back(size - part * Dim(n - 1));
  return sizes;
}

Types infer_split(const InferCtx& c) {
  if (c.has(1) && !c.ints(1)) return infer_split_by_data(c);
  AG_TRY(int axis, checked_axis(c, attr_int(c.attrs(), "axis", 0), c.in(0).rank()));
  const Dim& size = c.in(0).shape[at(axis)];
  AG_TRY(Dims sizes, split_sizes(c, size));
  if (sizes.empty()) return c.error(Code::AG2206, "`Split` into no parts", "at least one is needed");
  Dim sum = 0;
  for (const Dim& s : sizes) sum = sum + s;
  if (Dim rest = sum - size; rest.is_const() && !rest.is(0))
    return c.error(Code::AG2206,
                   fmt::format("`Split` into {}: the sum is {}, axis {} of {} is {}", shape_str(sizes), sum.str(), axis,
                               operand_name(c, 0), size.str()),
                   {}, {0});
  std::vector<Type> types;
  for (const Dim& s : sizes) {
    Type t = c.in(0);
    t.shape[at(axis)] = s;
    AG_TRY_(checked_shape(c, t.shape));
    types.push_back(std::move(t));
  }
  return types;
}

std::vector<ValueId> split(Builder& b, const View& n) {
  if (n.has(1) && (!known(n, 1) || names_sizes(n))) return split_by_data(b, n);
  std::size_t axis = at(*normalize_axis(attr_int(n.attrs(), "axis", 0), n.in(0).rank()));
  Dims start(n.in(0).shape.size(), 0), limit = n.in(0).shape, sizes;
  for (std::uint32_t r = 0; r < n.node().result_count; ++r) sizes.push_back(n.out(r).shape[axis]);
  std::vector<ValueId> out;
  for (const Dim& s : sizes) {
    limit[axis] = start[axis] + s;
    out.push_back(b.slice(n.operand(0), start, limit));
    start[axis] = limit[axis];
  }
  return out;
}

// ---- Pad --------------------------------------------------------------------------------------------------

struct Padding {
  Dims low, high;
};
std::optional<Padding> padding(std::size_t rank, const Dims& pads, const std::optional<Ints>& axes) {
  std::size_t n = axes ? axes->size() : rank;
  if (pads.size() != 2 * n) return std::nullopt;
  Padding p{Dims(rank, 0), Dims(rank, 0)};
  for (std::size_t i = 0; i < n; ++i) {
    auto axis = normalize_axis(axes ? (*axes)[i] : static_cast<std::int64_t>(i), static_cast<int>(rank));
    if (!axis) return std::nullopt;
    p.low[at(*axis)] = pads[i];
    p.high[at(*axis)] = pads[n + i];
  }
  return p;
}

Types infer_pad(const InferCtx& c) {
  if (!c.ints(1) || (c.has(3) && !as_constants(c.ints(3)))) return infer_pad_by_data(c);
  AG_TRY(Dims pads, required_ints(c, 1));
  std::optional<Ints> axes;
  if (c.has(3)) {
    AG_TRY(axes, required_constants(c, 3));
  }
  auto p = padding(c.in(0).shape.size(), pads, axes);
  if (!p)
    return c.error(Code::AG2206, fmt::format("`Pad` of {}: {} pads are two for each axis", c.in(0).str(), pads.size()),
                   {}, {0, 1});
  std::string mode = attr_string(c.attrs(), "mode", "constant");
  Type t = c.in(0);
  for (std::size_t d = 0; d < t.shape.size(); ++d) {
    bool grows = !p->low[d].is(0) || !p->high[d].is(0);
    if (mode != "constant" && grows && t.shape[d].is(0))
      return c.error(Code::AG2206, fmt::format("`Pad` in mode {} of axis {} with no elements", mode, d), {}, {0});
    t.shape[d] = t.shape[d] + p->low[d] + p->high[d];
  }
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

/// Source of each element along a padded axis: the edge, its mirror image, or from the other end.
Expr source_index(Builder& b, const std::string& mode, const Dim& size, const Dim& low, const Dim& out) {
  Expr i(b, b.iota({DType::i64, {out}}, 0));
  i = i - size_value(b, low, DType::i64);
  Expr n = size_value(b, size, DType::i64), last = n - i.with(b.scalar_int(DType::i64, 1)),
       zero = i.with(b.scalar_int(DType::i64, 0));
  auto modulo = [&](Expr a, Expr m) {
    Expr r = call("rem", a, m);
    return select(r < zero, r + m, r);
  };
  if (mode == "edge") return min(max(i, zero), last);
  if (mode == "wrap") return modulo(i, n);
  Expr period = max(last + last, i.with(b.scalar_int(DType::i64, 1)));
  Expr r = modulo(i, period);
  return min(min(r, period - r), last);
}

std::vector<ValueId> pad(Builder& b, const View& n) {
  Dims from = n.in(0).shape, to = n.out().shape;
  Padding p;
  if (known(n, 1) && (!n.has(3) || known_constants(n, 3)) && !names_sizes(n)) {
    p = *padding(from.size(), *known(n, 1), known_constants(n, 3));
  } else {
    p.low = pad_by_data(b, n);
    for (std::size_t d = 0; d < from.size(); ++d) p.high.push_back(to[d] - from[d] - p.low[d]);
  }
  std::string mode = attr_string(n.attrs(), "mode", "constant");
  Expr x(b, n.operand(0));
  if (mode == "constant") {
    Expr value = n.has(2) ? x.with(b.reshape(n.operand(2), {})) : x.lit(0);
    return {
        b.add_op("pad", {x.id(), value.id()}, {{"low", p.low}, {"high", p.high}, {"interior", Ints(from.size(), 0)}})};
  }
  for (std::size_t d = 0; d < from.size(); ++d)
    if (!p.low[d].is(0) || !p.high[d].is(0))
      x = take(x, source_index(b, mode, from[d], p.low[d], to[d]), static_cast<std::int64_t>(d));
  return {x};
}

OpSample with_ints(std::string_view type, std::initializer_list<Ints> operands, Attrs attrs = {}) {
  OpSample s = sample({type}, std::move(attrs));
  for (const Ints& v : operands) s.operands.push_back(sample_ints(v));
  return s;
}

OpSample pad_sample(std::string_view type, const Ints& pads, std::string mode) {
  return with_ints(type, {pads}, {{"mode", std::move(mode)}});
}

}  // namespace

std::vector<OpInfo> slicing_ops() {
  AttrSpec mode = choice_attr("mode", {"constant", "reflect", "edge", "wrap"});
  OperandSpec value{.name = "constant_value", .optional = true};
  std::vector<OpInfo> all = {
      composite({.name = "Slice",
                 .since = 10,
                 .summary = "elements from start to end by step along axes",
                 .operands = {{.name = "data"},
                              int_operand("starts"),
                              int_operand("ends"),
                              int_operand("axes", true),
                              int_operand("steps", true)},
                 .infer = infer_slice,
                 .known_ints = slice_known,
                 .decompose = slice,
                 .samples =
                     [] {
                       return std::vector<OpSample>{with_ints("f64[5,4]", {{1, 0}, {4, -1}}),
                                                    with_ints("f64[5,4]", {{-1}, {INT64_MIN}, {0}, {-2}}),
                                                    with_ints("f64[6]", {{1}, {INT64_MAX}, {-1}, {2}}),
                                                    with_ints("i32[4]", {{3}, {1}})};
                     }}),
      composite({.name = "Split",
                 .since = 13,
                 .summary = "parts along an axis",
                 .operands = {{.name = "input"}, int_operand("split", true)},
                 .results = {{.name = "outputs", .variadic = true}},
                 .attrs = {int_attr("axis", 0), {"num_outputs", AttrKind::integer}},
                 .infer = infer_split,
                 .decompose = split,
                 .samples =
                     [] {
                       return std::vector<OpSample>{with_ints("f64[2,5]", {{2, 3}}, {{"axis", std::int64_t{1}}}),
                                                    sample({"f64[7]"}, {{"num_outputs", std::int64_t{3}}})};
                     }}),
      composite({.name = "Pad",
                 .since = 11,
                 .summary = "elements before and after: a constant, the edge, its mirror image, or from the other end",
                 .operands = {{.name = "data"}, int_operand("pads"), value, int_operand("axes", true)},
                 .attrs = {mode},
                 .infer = infer_pad,
                 .decompose = pad,
                 .samples =
                     [] {
                       OpSample axes = with_ints("f64[2,3]", {{1, 2}});
                       axes.operands.push_back(sample_operand("f64[]"));
                       axes.operands.push_back(sample_ints({1}));
                       return std::vector<OpSample>{
                           pad_sample("f64[2,3]", {0, 1, 1, 0}, "constant"), pad_sample("f64[3]", {2, 2}, "reflect"),
                           pad_sample("f64[3,2]", {1, 0, 2, 1}, "edge"),     pad_sample("f64[3]", {2, 4}, "wrap"),
                           pad_sample("f64[4]", {-1, 2}, "constant"),        axes};
                     }}),
  };
  return all;
}

}  // namespace ag

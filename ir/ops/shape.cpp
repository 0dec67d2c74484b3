// ONNX ops that take, give or change shapes. Their integer operands must follow from constants and shapes.
#include <array>
#include <cmath>

#include "ir/ops/common.hpp"
#include "ir/ops/data_sizes.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
std::optional<Dims> same_ints(const View& n) { return known(n, 0); }
std::vector<ValueId> reshape_to_result(Builder& b, const View& n) {
  return {b.reshape(n.operand(0), Dims(n.out().shape))};
}

OpSample with_ints(std::string_view type, std::initializer_list<Ints> operands, Attrs attrs = {}) {
  OpSample s = sample({type}, std::move(attrs));
  for (const Ints& v : operands) s.operands.push_back(sample_ints(v));
  return s;
}

// ---- Reshape ----------------------------------------------------------------------------------------------

/// The quotient of two element counts, with equal sizes cancelled first (a symbol may be 0).
Dim remaining(Dims all, Dims taken) {
  for (auto t = taken.begin(); t != taken.end();) {
    auto same = std::find(all.begin(), all.end(), *t);
    if (same == all.end() || t->is_const()) {
      ++t;
      continue;
    }
    all.erase(same);
    t = taken.erase(t);
  }
  Dim rest = product(taken);
  return rest.is(1) ? product(all) : floordiv(product(all), rest);
}

Types infer_reshape(const InferCtx& c) {
  if (!c.ints(1)) return infer_reshape_by_data(c);
  const Dims& from = c.in(0).shape;
  AG_TRY(Dims wanted, required_ints(c, 1));
  bool allow_zero = attr_int(c.attrs(), "allowzero", 0) != 0;
  Dims shape, others;
  std::optional<std::size_t> open;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    Dim d = wanted[i];
    if (d.is(0) && !allow_zero) {
      if (i >= from.size())
        return c.error(Code::AG2205,
                       fmt::format("`Reshape`: 0 at place {} copies an axis that {} does not have", i, c.in(0).str()),
                       {}, {0, 1});
      d = from[i];
    }
    if (d.is(-1)) {
      if (open)
        return c.error(Code::AG2205, fmt::format("`Reshape` to {}: only one size can be -1", shape_str(wanted)), {},
                       {1});
      open = i;
    } else if (d.is_const() && d.value() < 0) {
      return c.error(Code::AG2205, fmt::format("`Reshape` to {}: {} is no size", shape_str(wanted), d.str()), {}, {1});
    } else {
      others.push_back(d);
    }
    shape.push_back(d);
  }
  if (open) {
    Dim rest = product(others);
    if (rest.is(0))
      return c.error(Code::AG2205,
                     fmt::format("`Reshape` of {} to {}: -1 cannot be computed where another size is 0", c.in(0).str(),
                                 shape_str(wanted)),
                     {}, {0, 1});
    shape[*open] = remaining(from, others);
  }
  Dim difference = product(shape) - c.in(0).elems();
  if (difference.is_const() && !difference.is(0))
    return c.error(
        Code::AG2205,
        fmt::format("`Reshape` of {} to {}: {} elements cannot become {}", c.in(0).str(), shape_str(wanted),
                    c.in(0).elems().str(), open ? "a multiple of " + product(others).str() : product(shape).str()),
        "a reshape keeps every element", {0, 1});
  AG_TRY(shape, checked_shape(c, shape));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

// ---- Squeeze, Unsqueeze, Flatten, Expand, Tile ------------------------------------------------------------

Types infer_squeeze(const InferCtx& c) {
  const Dims& from = c.in(0).shape;
  Ints axes = attr_ints(c.attrs(), "axes");
  bool given = c.attrs().find("axes") || c.has(1);
  if (c.has(1)) {
    AG_TRY(axes, required_constants(c, 1));
  }
  AG_TRY(axes, checked_axes(c, axes, c.in(0).rank()));
  Type t{c.in(0).dtype, {}};
  for (std::size_t d = 0; d < from.size(); ++d) {
    bool drop = given ? contains(axes, static_cast<std::int64_t>(d)) : from[d].is(1);
    if (drop && from[d].is_const() && !from[d].is(1))
      return c.error(Code::AG2206,
                     fmt::format("`Squeeze` of axis {} of {}: its size is {}, not 1", d, c.in(0).str(), from[d].str()),
                     {}, {0});
    if (!drop) t.shape.push_back(from[d]);
  }
  return std::vector<Type>{std::move(t)};
}

Types infer_unsqueeze(const InferCtx& c) {
  Ints axes = attr_ints(c.attrs(), "axes");
  if (c.has(1)) {
    AG_TRY(axes, required_constants(c, 1));
  }
  int rank = c.in(0).rank() + static_cast<int>(axes.size());
  AG_TRY(axes, checked_axes(c, axes, rank));
  Type t{c.in(0).dtype, {}};
  auto next = c.in(0).shape.begin();
  for (int d = 0; d < rank; ++d) t.shape.push_back(contains(axes, d) ? Dim(1) : *next++);
  return std::vector<Type>{std::move(t)};
}

Types infer_flatten(const InferCtx& c) {
  std::int64_t axis = attr_int(c.attrs(), "axis", 1), rank = c.in(0).rank();
  if (axis < -rank || axis > rank)
    return c.error(Code::AG2202, fmt::format("`Flatten` at axis {} of {}", axis, c.in(0).str()), {}, {0});
  if (axis < 0) axis += rank;
  const Dims& s = c.in(0).shape;
  return std::vector<Type>{
      {c.in(0).dtype, {product(Dims(s.begin(), s.begin() + axis)), product(Dims(s.begin() + axis, s.end()))}}};
}

Types infer_expand(const InferCtx& c) {
  if (!c.ints(1)) return infer_expand_by_data(c);
  AG_TRY(Dims wanted, required_ints(c, 1));
  AG_TRY(wanted, checked_shape(c, wanted));
  auto shape = broadcast_shapes(c.in(0).shape, wanted);
  if (!shape)
    return c.error(Code::AG2201,
                   fmt::format("`Expand` cannot broadcast {} with {}", shape_str(c.in(0).shape), shape_str(wanted)), {},
                   {0, 1});
  AG_TRY(*shape, checked_shape(c, *shape));
  return std::vector<Type>{{c.in(0).dtype, std::move(*shape)}};
}
std::optional<Dims> expand_known(const View& n) {
  auto v = known(n, 0);
  if (!v || v->size() != 1 || !n.out().elems().is_const() || n.out().elems().value() > 1024) return std::nullopt;
  return Dims(at(n.out().elems().value()), (*v)[0]);
}

Types infer_tile(const InferCtx& c) {
  if (!c.ints(1)) return infer_tile_by_data(c);
  AG_TRY(Dims repeats, required_ints(c, 1));
  if (repeats.size() != c.in(0).shape.size())
    return c.error(Code::AG2206,
                   fmt::format("`Tile` needs a repeat for each axis: {} for {}", repeats.size(), c.in(0).str()), {},
                   {0, 1});
  Type t = c.in(0);
  for (std::size_t d = 0; d < repeats.size(); ++d) t.shape[d] = t.shape[d] * repeats[d];
  AG_TRY_(checked_shape(c, repeats));
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

std::vector<ValueId> tile(Builder& b, const View& n) {
  if (!known(n, 1) || names_sizes(n)) return tile_by_data(b, n);
  Dims from = n.in(0).shape, repeats = *known(n, 1), split;
  Ints dims;
  for (std::size_t d = 0; d < from.size(); ++d) {
    split.push_back(repeats[d]);
    split.push_back(from[d]);
    dims.push_back(static_cast<std::int64_t>(2 * d + 1));
  }
  Dims out = n.out().shape;
  return {b.reshape(b.broadcast_in_dim(n.operand(0), split, dims), out)};
}

// ---- Shape, Size, Constant, ConstantOfShape, Range, EyeLike -----------------------------------------------

Dims shape_part(const Attrs& a, const Dims& shape) {
  std::int64_t rank = static_cast<std::int64_t>(shape.size()), start = attr_int(a, "start", 0),
               end = attr_int(a, "end", rank);
  auto clamp = [&](std::int64_t v) { return std::clamp<std::int64_t>(v < 0 ? v + rank : v, 0, rank); };
  start = clamp(start), end = std::max(start, clamp(end));
  return Dims(shape.begin() + start, shape.begin() + end);
}

Types infer_shape(const InferCtx& c) {
  return std::vector<Type>{{DType::i64, {Dim(static_cast<std::int64_t>(shape_part(c.attrs(), c.in(0).shape).size()))}}};
}
Types infer_size(const InferCtx&) { return std::vector<Type>{{DType::i64, {}}}; }

/// The literal of ONNX's Constant, however it was given.
LiteralPtr constant_literal(const Attrs& a) {
  if (auto* l = a.get<LiteralPtr>("value")) return *l;
  auto vector = [](std::size_t n) { return std::vector<std::int64_t>{static_cast<std::int64_t>(n)}; };
  if (auto* v = a.get<std::int64_t>("value_int"))
    return make_literal(Array::of<std::int64_t>(DType::i64, {}, std::span(v, 1)));
  if (auto* v = a.get<double>("value_float")) return make_literal(Array::of<double>(DType::f32, {}, std::span(v, 1)));
  if (auto* v = a.get<Ints>("value_ints"))
    return make_literal(Array::of<std::int64_t>(DType::i64, vector(v->size()), *v));
  if (auto* v = a.get<std::vector<double>>("value_floats"))
    return make_literal(Array::of<double>(DType::f32, vector(v->size()), *v));
  return nullptr;
}

Types infer_constant(const InferCtx& c) {
  LiteralPtr l = constant_literal(c.attrs());
  if (!l)
    return c.error(Code::AG2206,
                   "`Constant` needs one of `value`, `value_int`, `value_float`, `value_ints`, `value_floats`");
  return std::vector<Type>{{l->dtype, Dims(l->shape.begin(), l->shape.end())}};
}
std::optional<Dims> constant_known(const View& n) {
  if (!n.out().elems().is_const() || n.out().elems().value() > 1024) return std::nullopt;
  Array a = constant_literal(n.attrs())->materialize();
  Dims out;
  for (std::int64_t i = 0; i < a.elems(); ++i) out.push_back(a.get_int(i));
  return out;
}

LiteralPtr fill_literal(const Attrs& a) {
  auto* l = a.get<LiteralPtr>("value");
  return l ? *l : make_literal(Array::scalar(DType::f32, 0));
}

Types infer_constant_of_shape(const InferCtx& c) {
  AG_TRY(PartDims some, sizes_of(c, 0));
  Dims shape;
  for (std::size_t i = 0; i < some.size(); ++i) shape.push_back(some[i] ? *some[i] : c.unbacked(i));
  AG_TRY(shape, checked_shape(c, shape));
  LiteralPtr l = fill_literal(c.attrs());
  if (l->materialize().elems() != 1) return c.error(Code::AG2206, "`value` of `ConstantOfShape` has one element");
  return std::vector<Type>{{l->dtype, std::move(shape)}};
}
std::vector<ValueId> constant_of_shape(Builder& b, const View& n) {
  Dims shape = n.out().shape;
  if (!known(n, 0) || names_sizes(n)) define_sizes(b, as_sizes(b, n.operand(0)), shape);
  ValueId one = b.constant(make_literal(fill_literal(n.attrs())->materialize().reshaped({})));
  return {b.broadcast_to(one, shape)};
}
std::optional<Dims> constant_of_shape_known(const View& n) {
  if (!n.out().elems().is_const() || n.out().elems().value() > 1024) return std::nullopt;
  return Dims(at(n.out().elems().value()), Dim(fill_literal(n.attrs())->materialize().get_int(0)));
}

/// The three scalars of a Range of floats, if they are constants.
std::optional<std::array<double, 3>> float_range(const Graph& g, const std::array<ValueId, 3>& operands) {
  std::array<double, 3> v;
  for (std::size_t i = 0; i < 3; ++i) {
    const Node& def = g.def(operands[i]);
    const LiteralPtr* l = def.op->name == "constant" ? def.attrs.get<LiteralPtr>("value") : nullptr;
    if (!l || (*l)->materialize().elems() != 1) return std::nullopt;
    v[i] = (*l)->materialize().get_double(0);
  }
  return v;
}

/// Whether the compiler can tell the number of elements.
bool known_range(const Graph& g, const std::array<ValueId, 3>& operands) {
  if (is_float(g.type(operands[0]).dtype)) return float_range(g, operands).has_value();
  for (ValueId v : operands)
    if (!g.value(v).known_ints) return false;
  const Dims& step = *g.value(operands[2]).known_ints;
  return step.size() == 1 && step[0].is_const();
}

/// Number of elements of Range: from integers, from constant floats, or a size that the data tell.
Result<Dim> range_length(const InferCtx& c) {
  std::array<ValueId, 3> operands{c.operand(0), c.operand(1), c.operand(2)};
  for (std::size_t i = 0; i < 3; ++i)
    if (Dim n = c.in(i).elems(); n.is_const() && !n.is(1))
      return c.error(Code::AG2204, "`Range` takes scalars", {}, {i});
  if (!known_range(c.graph(), operands)) return c.unbacked(0);
  if (is_float(c.in(0).dtype)) {
    auto v = *float_range(c.graph(), operands);
    double n = std::ceil((v[1] - v[0]) / v[2]);
    if (!(n < 9e15))
      return c.error(Code::AG2206, fmt::format("`Range` from {} to {} by {} has no end", v[0], v[1], v[2]));
    return Dim(static_cast<std::int64_t>(std::max(n, 0.0)));
  }
  Dim start = (*c.ints(0))[0], limit = (*c.ints(1))[0], step = (*c.ints(2))[0];
  if (step.is(0)) return c.error(Code::AG2206, "`Range` with a step of 0", "a constant other than 0 is needed", {2});
  Dim n = step.value() > 0 ? ceildiv(limit - start, step) : ceildiv(start - limit, Dim(0) - step);
  return start.is(0) && step.is(1) && !n.is_const() ? n : max(n, 0);
}
Types infer_range(const InferCtx& c) {
  AG_TRY(Dim n, range_length(c));
  AG_TRY(Dims shape, checked_shape(c, {n}));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}
std::vector<ValueId> range(Builder& b, const View& n) {
  if (!known_range(n.graph, {n.operand(0), n.operand(1), n.operand(2)}) || names_sizes(n)) return range_by_data(b, n);
  Expr start(b, b.reshape(n.operand(0), {})), delta(b, b.reshape(n.operand(2), {}));
  Type t = n.out();
  Expr ramp(b, b.iota(t, 0));
  return {start + ramp * delta};
}
std::optional<Dims> range_known(const View& n) {
  auto start = known(n, 0), delta = known(n, 2);
  if (!start || !delta || !n.out().shape[0].is_const() || n.out().shape[0].value() > 1024) return std::nullopt;
  Dims out;
  for (std::int64_t i = 0; i < n.out().shape[0].value(); ++i) out.push_back((*start)[0] + (*delta)[0] * Dim(i));
  return out;
}

Types infer_eye(const InferCtx& c) {
  if (c.in(0).rank() != 2)
    return c.error(Code::AG2204, fmt::format("`EyeLike` needs a matrix: {} is {}", operand_name(c, 0), c.in(0).str()),
                   {}, {0});
  return std::vector<Type>{c.in(0).with(c.attrs().get_or<DType>("dtype", c.in(0).dtype))};
}
std::vector<ValueId> eye(Builder& b, const View& n) {
  Type t = n.out(), places = t.with(DType::i64);
  Expr row(b, b.iota(places, 0)), column(b, b.iota(places, 1));
  return {(row + row.with(b.scalar_int(DType::i64, attr_int(n.attrs(), "k", 0))) == column).to(t.dtype)};
}

Types infer_trilu(const InferCtx& c) {
  if (c.in(0).rank() < 2)
    return c.error(Code::AG2204, fmt::format("`Trilu` needs matrices: {} is {}", operand_name(c, 0), c.in(0).str()), {},
                   {0});
  return infer_same(c);
}
std::vector<ValueId> trilu(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  Type t = x.type();
  Type places{DType::i64, {t.shape[t.shape.size() - 2], t.shape.back()}};
  Expr row(b, b.iota(places, 0)), column(b, b.iota(places, 1));
  if (n.has(1)) row = row + Expr(b, b.reshape(n.operand(1), {}));
  return {select(attr_int(n.attrs(), "upper", 1) ? column >= row : column <= row, x, 0)};
}

// ---- The table --------------------------------------------------------------------------------------------

std::vector<OpInfo> reshaping() {
  OperandSpec data{.name = "data"};
  return {
      composite({.name = "Reshape",
                 .since = 5,
                 .summary = "the same elements in another shape; 0 copies a size, -1 follows from the others",
                 .operands = {data, int_operand("shape")},
                 .attrs = {int_attr("allowzero", 0)},
                 .infer = infer_reshape,
                 .known_ints = same_ints,
                 .decompose =
                     [](Builder& b, const View& n) {
                       return !known(n, 1) || names_sizes(n) ? reshape_by_data(b, n) : reshape_to_result(b, n);
                     },
                 .samples =
                     [] {
                       return std::vector<OpSample>{with_ints("f64[2,6]", {{3, -1}}),
                                                    with_ints("f64[2,3]", {{0, 3, 1}}),
                                                    with_ints("i32[0,3]", {{3, 0}}, {{"allowzero", std::int64_t{1}}}),
                                                    with_ints("f64[1]", {{}})};
                     }}),
      composite(
          {.name = "Squeeze",
           .since = 13,
           .summary = "drops axes of size 1",
           .operands = {data, int_operand("axes", true)},
           .infer = infer_squeeze,
           .known_ints = same_ints,
           .decompose = reshape_to_result,
           .samples =
               [] { return std::vector<OpSample>{with_ints("f64[1,3,1]", {{0}}), with_ints("f64[1,3,1]", {})}; }}),
      composite({.name = "Squeeze_1",
                 .onnx = "Squeeze",
                 .until = 12,
                 .summary = "drops axes of size 1",
                 .operands = {data},
                 .attrs = {{"axes", AttrKind::ints}},
                 .infer = infer_squeeze,
                 .known_ints = same_ints,
                 .decompose = reshape_to_result,
                 .samples = [] { return std::vector<OpSample>{sample({"f64[1,3]"}, {{"axes", Ints{0}}})}; }}),
      composite(
          {.name = "Unsqueeze",
           .since = 13,
           .summary = "inserts axes of size 1",
           .operands = {data, int_operand("axes")},
           .infer = infer_unsqueeze,
           .known_ints = same_ints,
           .decompose = reshape_to_result,
           .samples =
               [] { return std::vector<OpSample>{with_ints("f64[2,3]", {{0, -1}}), with_ints("f64[]", {{0}})}; }}),
      composite({.name = "Unsqueeze_1",
                 .onnx = "Unsqueeze",
                 .until = 12,
                 .summary = "inserts axes of size 1",
                 .operands = {data},
                 .attrs = {{"axes", AttrKind::ints, true}},
                 .infer = infer_unsqueeze,
                 .known_ints = same_ints,
                 .decompose = reshape_to_result,
                 .samples = [] { return std::vector<OpSample>{sample({"f64[3]"}, {{"axes", Ints{0}}})}; }}),
      composite({.name = "Flatten",
                 .summary = "a matrix: axes before `axis`, and the others",
                 .operands = {data},
                 .attrs = {int_attr("axis", 1)},
                 .infer = infer_flatten,
                 .decompose = reshape_to_result,
                 .samples =
                     [] {
                       return std::vector<OpSample>{sample({"f64[2,3,4]"}),
                                                    sample({"f64[2,3]"}, {{"axis", std::int64_t{0}}})};
                     }}),
      composite(
          {.name = "Expand",
           .since = 8,
           .summary = "broadcast together with a shape",
           .operands = {data, int_operand("shape")},
           .infer = infer_expand,
           .known_ints = expand_known,
           .decompose =
               [](Builder& b, const View& n) {
                 if (!known(n, 1) || names_sizes(n)) return expand_by_data(b, n);
                 return std::vector<ValueId>{b.broadcast_to(n.operand(0), Dims(n.out().shape))};
               },
           .samples =
               [] { return std::vector<OpSample>{with_ints("f64[3,1]", {{2, 1, 4}}), with_ints("f64[2,3]", {{1}})}; }}),
      composite(
          {.name = "Tile",
           .since = 6,
           .summary = "repeated along each axis",
           .operands = {data, int_operand("repeats")},
           .infer = infer_tile,
           .decompose = tile,
           .samples =
               [] { return std::vector<OpSample>{with_ints("f64[2,3]", {{2, 3}}), with_ints("i32[3]", {{0}})}; }}),
      composite({.name = "Identity",
                 .summary = "x",
                 .operands = {{.name = "input"}},
                 .infer = infer_same,
                 .known_ints = same_ints,
                 .decompose = [](Builder&, const View& n) { return std::vector<ValueId>{n.operand(0)}; },
                 .samples = [] { return std::vector<OpSample>{sample({"f64[2]"})}; }}),
      composite({.name = "Trilu",
                 .since = 14,
                 .summary = "the upper or lower triangle, zeros elsewhere",
                 .operands = {{.name = "input"},
                              {.name = "k", .type_var = "K", .dtypes = set_of(DType::i64), .optional = true}},
                 .attrs = {int_attr("upper", 1)},
                 .infer = infer_trilu,
                 .decompose = trilu,
                 .samples =
                     [] {
                       return std::vector<OpSample>{sample({"f64[3,4]"}),
                                                    with_ints("f64[2,3,3]", {{1}}, {{"upper", std::int64_t{0}}})};
                     }}),
  };
}

std::vector<OpInfo> making() {
  return {
      composite({.name = "Shape",
                 .summary = "the sizes of x",
                 .operands = {{.name = "data"}},
                 .results = {{"shape", "I"}},
                 .attrs = {int_attr("start", 0), {"end", AttrKind::integer}},
                 .infer = infer_shape,
                 .known_ints = [](const View& n) { return std::optional(shape_part(n.attrs(), n.in(0).shape)); },
                 .decompose =
                     [](Builder& b, const View& n) {
                       return std::vector<ValueId>{size_vector(b, shape_part(n.attrs(), n.in(0).shape))};
                     },
                 .zero_gradient = true,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           sample({"f64[2,3,4]"}),
                           sample({"f32[2,0,4]"}, {{"start", std::int64_t{-2}}, {"end", std::int64_t{3}}})};
                     }}),
      composite(
          {.name = "Size",
           .summary = "the number of elements of x",
           .operands = {{.name = "data"}},
           .results = {{"size", "I"}},
           .infer = infer_size,
           .known_ints = [](const View& n) { return std::optional(Dims{n.in(0).elems()}); },
           .decompose = [](Builder& b,
                           const View& n) { return std::vector<ValueId>{size_value(b, n.in(0).elems(), DType::i64)}; },
           .zero_gradient = true,
           .samples = [] { return std::vector<OpSample>{sample({"f64[2,3]"})}; }}),
      composite(
          {.name = "Constant",
           .summary = "a value known at compile time",
           .results = {{"output", "T"}},
           .attrs = {{"value", AttrKind::literal},
                     {"value_int", AttrKind::integer},
                     {"value_float", AttrKind::number},
                     {"value_ints", AttrKind::ints},
                     {"value_floats", AttrKind::numbers}},
           .infer = infer_constant,
           .known_ints = constant_known,
           .decompose = [](Builder& b,
                           const View& n) { return std::vector<ValueId>{b.constant(constant_literal(n.attrs()))}; },
           .zero_gradient = true,
           .samples =
               [] {
                 return std::vector<OpSample>{sample({}, {{"value_ints", Ints{1, 2}}}),
                                              sample({}, {{"value_float", 0.5}})};
               }}),
      composite({.name = "ConstantOfShape",
                 .since = 9,
                 .summary = "one value everywhere",
                 .operands = {int_operand("input")},
                 .results = {{"output", "R"}},
                 .attrs = {{"value", AttrKind::literal}},
                 .infer = infer_constant_of_shape,
                 .known_ints = constant_of_shape_known,
                 .decompose = constant_of_shape,
                 .zero_gradient = true,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           OpSample{{sample_ints({2, 3})}, {}},
                           OpSample{{sample_ints({2})},
                                    {{"value", make_literal(Array::ints(std::vector<std::int64_t>{7}))}}}};
                     }}),
      composite({.name = "Range",
                 .since = 11,
                 .summary = "start, start + delta, ... up to limit",
                 .operands = {{.name = "start", .dtypes = numeric, .constant_ints = true},
                              {.name = "limit", .dtypes = numeric, .constant_ints = true},
                              {.name = "delta", .dtypes = numeric, .constant_ints = true}},
                 .attrs = {int_attr("stash_type", 1)},
                 .infer = infer_range,
                 .known_ints = range_known,
                 .decompose = range,
                 .zero_gradient = true,
                 .samples =
                     [] {
                       auto s = [](DType t, double v) {
                         return OpSample::Operand{{t, {}}, make_literal(Array::scalar(t, v))};
                       };
                       return std::vector<OpSample>{
                           OpSample{{s(DType::i64, 2), s(DType::i64, 9), s(DType::i64, 3)}, {}},
                           OpSample{{s(DType::f32, 1), s(DType::f32, -1), s(DType::f32, -0.5)}, {}}};
                     }}),
      composite({.name = "EyeLike",
                 .since = 9,
                 .summary = "ones on a diagonal",
                 .operands = {{.name = "input"}},
                 .results = {{"output", "R"}},
                 .attrs = {{"dtype", AttrKind::dtype}, int_attr("k", 0)},
                 .infer = infer_eye,
                 .decompose = eye,
                 .zero_gradient = true,
                 .samples = [] { return std::vector<OpSample>{sample({"f64[3,4]"}, {{"k", std::int64_t{1}}})}; }}),
  };
}

}  // namespace

std::vector<OpInfo> shape_ops() {
  std::vector<OpInfo> all = reshaping();
  for (OpInfo& o : making()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag

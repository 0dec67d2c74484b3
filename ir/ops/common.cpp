#include "ir/ops/common.hpp"

#include <algorithm>

#include "ir/ops/dims.hpp"

namespace ag::ops {

std::string_view op_title(const InferCtx& c) { return c.op().onnx.empty() ? c.op().name : c.op().onnx; }
std::string operand_name(const InferCtx& c, std::size_t i) { return c.graph().display(c.operand(i)); }

Result<Dims> broadcast_operands(const InferCtx& c, std::size_t first) {
  Dims shape;
  bool any = false;
  for (std::size_t i = first; i < c.operand_count(); ++i) {
    if (!c.has(i)) continue;
    auto next = any ? broadcast_shapes(shape, c.in(i).shape) : std::optional(c.in(i).shape);
    if (!next) {
      const Dims& s = c.in(i).shape;
      int rank = static_cast<int>(std::max(shape.size(), s.size())), axis = -1;
      for (int k = 1; k <= static_cast<int>(std::min(shape.size(), s.size())); ++k) {
        const Dim &p = shape[shape.size() - k], &q = s[s.size() - k];
        if (p.is_const() && q.is_const() && p != q && !p.is(1) && !q.is(1)) axis = rank - k;
      }
      const Dim &p = shape[shape.size() - (rank - axis)], &q = s[s.size() - (rank - axis)];
      return c.error(Code::AG2201,
                     fmt::format("`{}` cannot broadcast {} with {}: axis {} is {} and {}", op_title(c),
                                 shape_str(shape), shape_str(s), axis, p.str(), q.str()),
                     "shapes are aligned at the last axis; sizes must be equal or 1", {first, i});
    }
    shape = std::move(*next);
    any = true;
  }
  return checked_shape(c, std::move(shape));
}

Types infer_elementwise(const InferCtx& c) {
  AG_TRY(Dims shape, broadcast_operands(c));
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

Types infer_compare(const InferCtx& c) {
  AG_TRY(Dims shape, broadcast_operands(c));
  return std::vector<Type>{{DType::boolean, std::move(shape)}};
}

Types infer_same(const InferCtx& c) { return std::vector<Type>{c.in(0)}; }

Result<int> checked_axis(const InferCtx& c, std::int64_t axis, int rank, std::size_t i) {
  if (auto a = normalize_axis(axis, rank)) return *a;
  std::string range =
      rank == 0 ? "a value of rank 0 has no axes" : fmt::format("axes of rank {} are {} to {}", rank, -rank, rank - 1);
  return c.error(Code::AG2202, fmt::format("`{}` has no axis {}: {}", op_title(c), axis, range), "axis out of range",
                 {i});
}

Result<Ints> checked_axes(const InferCtx& c, const Ints& axes, int rank, std::size_t i) {
  Ints out;
  for (std::int64_t a : axes) {
    AG_TRY(int axis, checked_axis(c, a, rank, i));
    if (contains(out, axis))
      return c.error(Code::AG2202, fmt::format("`{}` is given axis {} twice", op_title(c), axis), "duplicate axis",
                     {i});
    out.push_back(axis);
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<Dims> checked_shape(const InferCtx& c, Dims shape) {
  for (const Dim& d : shape) {
    if (!d.valid()) return c.error(Code::AG2209, fmt::format("a size of `{}`'s result overflows 64 bits", op_title(c)));
    if (d.is_const() && d.value() < 0)
      return c.error(Code::AG2209, fmt::format("`{}` would give the shape {}, which has a negative size", op_title(c),
                                               shape_str(shape)));
  }
  if (!product(shape).valid())
    return c.error(Code::AG2209, fmt::format("`{}` would give the shape {}, whose number of elements overflows 64 bits",
                                             op_title(c), shape_str(shape)));
  return shape;
}

Result<Dims> required_ints(const InferCtx& c, std::size_t i) {
  if (auto v = c.ints(i)) return std::move(*v);
  std::string_view what = c.op().operands[std::min(i, c.op().operands.size() - 1)].name;
  return c.error(Code::AG2207,
                 fmt::format("`{}` needs to know the values of `{}` when it is compiled, and {} is computed from data",
                             op_title(c), what, operand_name(c, i)),
                 fmt::format("`{}` decides the shape of the result", what), {i});
}

Result<Ints> required_constants(const InferCtx& c, std::size_t i) {
  AG_TRY(Dims dims, required_ints(c, i));
  if (auto v = as_constants(dims)) return std::move(*v);
  std::string_view what = c.op().operands[std::min(i, c.op().operands.size() - 1)].name;
  return c.error(Code::AG2207,
                 fmt::format("`{}` needs constant integers as `{}`, and {} is {}", op_title(c), what,
                             operand_name(c, i), shape_str(dims)),
                 "depends on a symbolic size", {i});
}

std::optional<Dims> known(const View& n, std::size_t i) {
  if (!n.has(i) || !n.graph.value(n.operand(i)).known_ints) return std::nullopt;
  return *n.graph.value(n.operand(i)).known_ints;
}

std::optional<Ints> as_constants(const std::optional<Dims>& dims) {
  if (!dims) return std::nullopt;
  Ints out;
  for (const Dim& d : *dims) {
    if (!d.is_const()) return std::nullopt;
    out.push_back(d.value());
  }
  return out;
}

std::optional<Ints> known_constants(const View& n, std::size_t i) { return as_constants(known(n, i)); }

namespace {
OpInfo elementwise(OpInfo o, std::vector<std::string_view> operands, DTypeSet set) {
  o.lower_class = LowerClass::map;
  for (std::string_view name : operands) o.operands.push_back({.name = name, .dtypes = set});
  if (!o.infer) o.infer = infer_elementwise;
  return o;
}
}  // namespace

OpInfo unary(OpInfo o, DTypeSet set) { return elementwise(std::move(o), {"x"}, set); }
OpInfo binary(OpInfo o, DTypeSet set) { return elementwise(std::move(o), {"a", "b"}, set); }
OpInfo comparison(OpInfo o, DTypeSet set) {
  o.infer = infer_compare;
  o.zero_gradient = true;
  o.results = {{.name = "y", .type_var = "B"}};
  return binary(std::move(o), set);
}

Type sample_type(std::string_view text) {
  auto t = Type::parse(text);
  AG_CHECK(t, "type of a sample");
  return *t;
}

void define_sizes(Builder& b, ValueId values, const Dims& symbols) {
  GraphBuilder::NodeArgs args;
  args.operands = {values};
  for (const Dim& d : symbols) args.stated.push_back({DType::boolean, {d, 0}});
  if (auto made = b.try_add(op("sizes"), std::move(args)); !made)
    internal_error("sizes that cannot be named: " + made.error()[0].message, __FILE__, __LINE__);
}

OpSample::Operand sample_operand(std::string_view type, double low, double high) {
  return {sample_type(type), nullptr, low, high};
}

OpSample sample(std::initializer_list<std::string_view> types, Attrs attrs, double low, double high) {
  OpSample s;
  for (std::string_view t : types) s.operands.push_back(sample_operand(t, low, high));
  s.attrs = std::move(attrs);
  return s;
}

OpSample::Operand sample_ints(const Ints& values, DType t) {
  Array a = Array::of<std::int64_t>(t, {static_cast<std::int64_t>(values.size())}, values);
  return {{t, {Dim(static_cast<std::int64_t>(values.size()))}}, make_literal(std::move(a))};
}

}  // namespace ag::ops

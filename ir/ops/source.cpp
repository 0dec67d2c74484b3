// Values that come from nowhere: inputs, constants, index ramps, sizes.
#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

Types infer_input(const InferCtx& c) {
  const Type* t = c.attrs().get<Type>("type");
  if (!t) return c.error(Code::AG2206, "`input` needs the attribute `type`");
  AG_TRY_(checked_shape(c, t->shape));
  return std::vector<Type>{*t};
}

Types infer_constant(const InferCtx& c) {
  const LiteralPtr* l = c.attrs().get<LiteralPtr>("value");
  if (!l || !*l) return c.error(Code::AG2206, "`constant` needs the attribute `value`");
  AG_TRY_(checked_shape(c, Dims((*l)->shape.begin(), (*l)->shape.end())));
  return std::vector<Type>{{(*l)->dtype, Dims((*l)->shape.begin(), (*l)->shape.end())}};
}

constexpr std::int64_t max_known_ints = 1024;

std::optional<Dims> constant_known(const View& n) {
  const Literal& l = **n.attrs().get<LiteralPtr>("value");
  if (!(is_int(l.dtype) || l.dtype == DType::boolean) || l.form == Literal::Form::random) return std::nullopt;
  auto bytes = Array::byte_size(DType::u8, l.shape);
  if (!bytes || *bytes > max_known_ints) return std::nullopt;
  Array a = l.materialize();
  Dims out;
  for (std::int64_t i = 0; i < a.elems(); ++i) out.push_back(a.get_int(i));
  return out;
}

Types infer_iota(const InferCtx& c) {
  const Type* t = c.attrs().get<Type>("type");
  if (!t) return c.error(Code::AG2206, "`iota` needs the attribute `type`");
  std::int64_t axis = attr_int(c.attrs(), "axis", 0);
  if (axis < 0 || axis >= t->rank())
    return c.error(Code::AG2202, fmt::format("`iota` of type {} has no axis {}", t->str(), axis));
  AG_TRY_(checked_shape(c, t->shape));
  return std::vector<Type>{*t};
}

std::optional<Dims> iota_known(const View& n) {
  const Type& t = n.out();
  if (t.rank() != 1 || !t.shape[0].is_const() || t.shape[0].value() > max_known_ints || dtype_bytes(t.dtype) < 4)
    return std::nullopt;
  Dims out;
  for (std::int64_t i = 0; i < t.shape[0].value(); ++i) out.push_back(i);
  return out;
}

loop::ValueId iota_element(ElementCtx& c, LoopValues index) {
  View n = c.node();
  return c.b().cast(index[static_cast<std::size_t>(attr_int(n.attrs(), "axis", 0))], n.out().dtype);
}

Result<std::vector<Array>> iota_eval(const EvalCtx& c) {
  Array out(c.node.out().dtype, c.out_shapes[0]);
  auto axis = static_cast<std::size_t>(attr_int(c.node.attrs(), "axis", 0));
  for_each_index(c.out_shapes[0], [&](const Shape& index, std::int64_t flat) { out.set_int(flat, index[axis]); });
  return one(std::move(out));
}

Types infer_dims(const InferCtx& c) {
  const Dims* d = c.attrs().get<Dims>("values");
  if (!d) return c.error(Code::AG2206, "`dims` needs the attribute `values`");
  for (const Dim& v : *d)
    if (!v.valid()) return c.error(Code::AG2209, "a size overflows 64 bits");
  return std::vector<Type>{{DType::i64, {Dim(static_cast<std::int64_t>(d->size()))}}};
}

loop::ValueId dims_element(ElementCtx& c, LoopValues index) {
  Dims values = attr_dims(c.node().attrs(), "values");
  loop::ValueId out = c.b().index(0);
  for (std::size_t i = values.size(); i-- > 0;) {
    loop::ValueId v = c.b().dim(values[i]);
    out = i + 1 == values.size()
              ? v
              : c.b().select(c.b().op(L::cmp_eq, {index[0], c.b().index(static_cast<std::int64_t>(i))}), v, out);
  }
  return out;
}

Result<std::vector<Array>> dims_eval(const EvalCtx& c) {
  return one(Array::ints(concrete(c, attr_dims(c.node.attrs(), "values"))));
}

// ---- sizes: the other way round ---------------------------------------------------------------------------

constexpr std::int64_t max_sizes = 64, max_size = std::int64_t{1} << 48;

Types infer_sizes(const InferCtx& c) {
  const Type& t = c.in(0);
  Dim n = t.rank() == 0 ? Dim(1) : t.shape[0];
  if (t.dtype != DType::i64 || t.rank() > 1 || !n.is_const() || n.value() < 1 || n.value() > max_sizes)
    return c.error(Code::AG2204,
                   fmt::format("`sizes` takes a vector i64[n] of up to {} sizes: {} is {}", max_sizes,
                               operand_name(c, 0), t.str()),
                   {}, {0});
  std::vector<Type> types;
  for (std::int64_t i = 0; i < n.value(); ++i)
    types.push_back({DType::boolean, {c.unbacked(static_cast<std::size_t>(i)), 0}});
  return types;
}

Result<std::vector<Array>> sizes_eval(const EvalCtx& c) {
  std::vector<Array> out;
  for (std::int64_t i = 0; i < c.in[0].elems(); ++i) {
    std::int64_t n = c.in[0].get_int(i);
    if (n < 0 || n > max_size) return fail(Code::AG5021, place(c), fmt::format("a size computed from data is {}", n));
    out.emplace_back(DType::boolean, Shape{n, 0});
  }
  return out;
}

}  // namespace

std::vector<OpInfo> source_ops() {
  return {
      {.name = "input",
       .lower_class = LowerClass::source,
       .summary = "an input of the graph",
       .attrs = {{"type", AttrKind::type, true, "dtype and shape"},
                 {"state", AttrKind::string, false, "what a step changes: the output that holds its next value"},
                 {"axes", AttrKind::ints, false, "where the axes of a state lie, as its owner sees them"}},
       .infer = infer_input,
       .zero_gradient = true},
      {.name = "constant",
       .lower_class = LowerClass::source,
       .summary = "a value known at compile time",
       .attrs = {{"value", AttrKind::literal, true},
                 {"trainable", AttrKind::boolean, false, "a parameter: what `wrt: \"trainable\"` means", false}},
       .infer = infer_constant,
       .known_ints = constant_known,
       .eval = [](const EvalCtx& c) { return one((*c.node.attrs().get<LiteralPtr>("value"))->materialize()); },
       .zero_gradient = true},
      {.name = "iota",
       .lower_class = LowerClass::index,
       .summary = "each element is its own index along an axis",
       .attrs = {{"type", AttrKind::type, true}, {"axis", AttrKind::integer, true}},
       .infer = infer_iota,
       .known_ints = iota_known,
       .eval = iota_eval,
       .zero_gradient = true,
       .element = iota_element,
       .inlined = true,
       .samples =
           [] {
             return std::vector<OpSample>{sample({}, {{"type", sample_type("f32[2,3]")}, {"axis", std::int64_t{1}}}),
                                          sample({}, {{"type", sample_type("i64[4]")}, {"axis", std::int64_t{0}}}),
                                          sample({}, {{"type", sample_type("u8[0,3]")}, {"axis", std::int64_t{0}}})};
           }},
      {.name = "dims",
       .lower_class = LowerClass::index,
       .summary = "sizes as an i64 vector",
       .attrs = {{"values", AttrKind::dims, true}},
       .infer = infer_dims,
       .known_ints = [](const View& n) { return std::optional(attr_dims(n.attrs(), "values")); },
       .eval = dims_eval,
       .zero_gradient = true,
       .element = dims_element,
       .inlined = true,
       .samples =
           [] {
             return std::vector<OpSample>{sample({}, {{"values", Dims{2, 3, 4}}}), sample({}, {{"values", Dims{}}})};
           }},
      {.name = "sizes",
       .lower_class = LowerClass::control,
       .summary = "names the elements of a vector as sizes: empty results, whose first axes have those sizes",
       .operands = {{"values", "I", set_of(DType::i64)}},
       .results = {{.name = "witnesses", .type_var = "B", .variadic = true}},
       .infer = infer_sizes,
       .eval = sizes_eval,
       .zero_gradient = true,
       .samples = [] { return std::vector<OpSample>{OpSample{{sample_ints({3, 0})}, {}}}; }},
  };
}

}  // namespace ag

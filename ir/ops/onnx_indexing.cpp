// ONNX's gathers and scatters: negative indices count from the end, others out of range are run-time errors.
#include "ir/ops/common.hpp"
#include "ir/ops/data_sizes.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Indices of operand i in [0, size); no arithmetic where they are known not to be negative.
Expr nonnegative(Builder& b, const View& n, std::size_t i, const Dim& size) {
  Expr indices(b, n.operand(i));
  if (auto all = known_constants(n, i);
      all && std::all_of(all->begin(), all->end(), [](std::int64_t v) { return v >= 0; }))
    return indices;
  return wrap_negative(indices, size_value(b, size, indices.dtype()));
}

/// Constant indices that cannot be in range are errors before anything runs.
Status check_constants(const InferCtx& c, std::size_t i, const Dim& size) {
  auto all = as_constants(c.ints(i));
  if (!all || !size.is_const()) return {};
  for (std::int64_t v : *all)
    if (v < -size.value() || v >= size.value())
      return c.error(Code::AG2206,
                     fmt::format("`{}`: index {} is out of range for a size of {}", c.op().onnx, v, size.str()),
                     "indices are -size to size-1", {0, i});
  return {};
}

Result<std::size_t> axis_of(const InferCtx& c) {
  AG_TRY(int axis, checked_axis(c, attr_int(c.attrs(), "axis", 0), c.in(0).rank()));
  return at(axis);
}
std::size_t axis_of(const View& n) { return at(*normalize_axis(attr_int(n.attrs(), "axis", 0), n.in(0).rank())); }

// ---- Gather -----------------------------------------------------------------------------------------------

Types infer_gather(const InferCtx& c) {
  AG_TRY(std::size_t axis, axis_of(c));
  const Dims& from = c.in(0).shape;
  AG_TRY_(check_constants(c, 1, from[axis]));
  Type t{c.in(0).dtype, Dims(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(axis))};
  t.shape.insert(t.shape.end(), c.in(1).shape.begin(), c.in(1).shape.end());
  t.shape.insert(t.shape.end(), from.begin() + static_cast<std::ptrdiff_t>(axis) + 1, from.end());
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

std::vector<ValueId> gather(Builder& b, const View& n) {
  std::size_t axis = axis_of(n);
  Dim size = n.in(0).shape[axis];
  return {take(Expr(b, n.operand(0)), nonnegative(b, n, 1, size), static_cast<std::int64_t>(axis))};
}

std::optional<Dims> gather_known(const View& n) {
  auto data = known(n, 0);
  auto indices = known_constants(n, 1);
  if (!data || !indices || n.in(0).rank() != 1) return std::nullopt;
  Dims out;
  for (std::int64_t i : *indices) {
    if (i < 0) i += static_cast<std::int64_t>(data->size());
    if (i < 0 || at(i) >= data->size()) return std::nullopt;
    out.push_back((*data)[at(i)]);
  }
  return out;
}

// ---- GatherElements, ScatterElements ----------------------------------------------------------------------

/// Both work along one axis; all others are batching axes.
struct Along {
  Ints others, axis;
  std::int64_t rank;
  Along(std::size_t a, int r) : axis{static_cast<std::int64_t>(a)}, rank(r) {
    for (std::int64_t d = 0; d < r; ++d)
      if (d != axis[0]) others.push_back(d);
  }
};

Status check_elements(const InferCtx& c, std::size_t axis) {
  const Type &data = c.in(0), &indices = c.in(1);
  if (data.rank() != indices.rank())
    return c.error(
        Code::AG2204,
        fmt::format("`{}` needs indices of the data's rank: {} and {}", c.op().onnx, data.str(), indices.str()), {},
        {0, 1});
  for (std::size_t d = 0; d < data.shape.size(); ++d) {
    Dim room = data.shape[d] - indices.shape[d];
    if (d != axis && room.is_const() && room.value() < 0)
      return c.error(Code::AG2208,
                     fmt::format("`{}`: axis {} of the indices {} is larger than that of {}", c.op().onnx, d,
                                 indices.str(), data.str()),
                     {}, {0, 1});
  }
  return check_constants(c, 1, data.shape[axis]);
}

Types infer_gather_elements(const InferCtx& c) {
  AG_TRY(std::size_t axis, axis_of(c));
  AG_TRY_(check_elements(c, axis));
  return std::vector<Type>{{c.in(0).dtype, c.in(1).shape}};
}

std::vector<ValueId> gather_elements(Builder& b, const View& n) {
  Along a(axis_of(n), n.in(0).rank());
  Expr indices = nonnegative(b, n, 1, Dim(n.in(0).shape[at(a.axis[0])]));
  return {b.add_op("gather", {n.operand(0), indices.id()},
                   {{"offset_dims", Ints{}},
                    {"collapsed_slice_dims", a.axis},
                    {"operand_batching_dims", a.others},
                    {"start_indices_batching_dims", a.others},
                    {"start_index_map", a.axis},
                    {"index_vector_dim", a.rank},
                    {"slice_sizes", Dims(at(a.rank), 1)}})};
}

std::string scatter_kind(const Attrs& a) {
  std::string kind = attr_string(a, "reduction", "none");
  return kind == "none" ? "set" : kind;
}

Types infer_scatter_elements(const InferCtx& c) {
  AG_TRY(std::size_t axis, axis_of(c));
  AG_TRY_(check_elements(c, axis));
  if (c.in(1).rank() != c.in(2).rank())
    return c.error(
        Code::AG2204,
        fmt::format("`ScatterElements` needs an update for each index: {} and {}", c.in(1).str(), c.in(2).str()), {},
        {1, 2});
  return infer_same(c);
}

std::vector<ValueId> scatter_elements(Builder& b, const View& n) {
  Along a(axis_of(n), n.in(0).rank());
  Expr indices = nonnegative(b, n, 1, Dim(n.in(0).shape[at(a.axis[0])]));
  return {b.add_op("scatter", {n.operand(0), indices.id(), n.operand(2)},
                   {{"update_window_dims", Ints{}},
                    {"inserted_window_dims", a.axis},
                    {"input_batching_dims", a.others},
                    {"scatter_indices_batching_dims", a.others},
                    {"scatter_dims_to_operand_dims", a.axis},
                    {"index_vector_dim", a.rank},
                    {"kind", scatter_kind(n.attrs())}})};
}

// ---- GatherND, ScatterND ----------------------------------------------------------------------------------

/// Length of the index vectors: the last size of the indices.
Result<std::int64_t> vector_length(const InferCtx& c, std::int64_t batch) {
  const Type &data = c.in(0), &indices = c.in(1);
  if (indices.rank() == 0 || !indices.shape.back().is_const())
    return c.error(Code::AG2204,
                   fmt::format("`{}` needs indices whose last size is constant: {} is {}", c.op().onnx,
                               operand_name(c, 1), indices.str()),
                   {}, {1});
  std::int64_t k = indices.shape.back().value();
  if (batch < 0 || batch >= indices.rank() || k + batch > data.rank())
    return c.error(Code::AG2206,
                   fmt::format("`{}`: {} batch axes and index vectors of {} do not fit {} and {}", c.op().onnx, batch,
                               k, data.str(), indices.str()),
                   {}, {0, 1});
  return k;
}

Types infer_gather_nd(const InferCtx& c) {
  std::int64_t batch = attr_int(c.attrs(), "batch_dims", 0);
  AG_TRY(std::int64_t k, vector_length(c, batch));
  Type t{c.in(0).dtype, Dims(c.in(1).shape.begin(), c.in(1).shape.end() - 1)};
  t.shape.insert(t.shape.end(), c.in(0).shape.begin() + batch + k, c.in(0).shape.end());
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

/// Index vectors with negative components wrapped by the sizes of axes [from, from + k) of the data.
Expr wrapped_vectors(Builder& b, const View& n, std::int64_t from, std::int64_t k) {
  Dims shape = n.in(0).shape;
  Expr indices(b, n.operand(1));
  if (auto all = known_constants(n, 1);
      all && std::all_of(all->begin(), all->end(), [](std::int64_t v) { return v >= 0; }))
    return indices;
  return wrap_negative(indices,
                       size_vector(b, Dims(shape.begin() + from, shape.begin() + from + k)).to(indices.dtype()));
}

std::vector<ValueId> gather_nd(Builder& b, const View& n) {
  std::int64_t batch = attr_int(n.attrs(), "batch_dims", 0), q = n.in(1).rank(), k = n.in(1).shape.back().value(),
               r = n.in(0).rank();
  Dims sizes(at(batch + k), 1), from = n.in(0).shape;
  sizes.insert(sizes.end(), from.begin() + batch + k, from.end());
  Expr indices = wrapped_vectors(b, n, batch, k);
  return {b.add_op("gather", {n.operand(0), indices.id()},
                   {{"offset_dims", iota_ints(r - batch - k, q - 1)},
                    {"collapsed_slice_dims", iota_ints(k, batch)},
                    {"operand_batching_dims", iota_ints(batch)},
                    {"start_indices_batching_dims", iota_ints(batch)},
                    {"start_index_map", iota_ints(k, batch)},
                    {"index_vector_dim", q - 1},
                    {"slice_sizes", sizes}})};
}

Types infer_scatter_nd(const InferCtx& c) {
  AG_TRY(std::int64_t k, vector_length(c, 0));
  Dims want(c.in(1).shape.begin(), c.in(1).shape.end() - 1);
  want.insert(want.end(), c.in(0).shape.begin() + k, c.in(0).shape.end());
  const Dims& have = c.in(2).shape;
  bool fits = have.size() == want.size();
  for (std::size_t d = 0; fits && d < want.size(); ++d)
    fits = !have[d].is_const() || !want[d].is_const() || have[d] == want[d];
  if (!fits)
    return c.error(Code::AG2208,
                   fmt::format("`ScatterND` of indices {} into {} needs updates of shape {}, not {}", c.in(1).str(),
                               c.in(0).str(), shape_str(want), c.in(2).str()),
                   {}, {0, 1, 2});
  return infer_same(c);
}

std::vector<ValueId> scatter_nd(Builder& b, const View& n) {
  std::int64_t q = n.in(1).rank(), k = n.in(1).shape.back().value(), r = n.in(0).rank();
  Expr indices = wrapped_vectors(b, n, 0, k);
  return {b.add_op("scatter", {n.operand(0), indices.id(), n.operand(2)},
                   {{"update_window_dims", iota_ints(r - k, q - 1)},
                    {"inserted_window_dims", iota_ints(k)},
                    {"input_batching_dims", Ints{}},
                    {"scatter_indices_batching_dims", Ints{}},
                    {"scatter_dims_to_operand_dims", iota_ints(k)},
                    {"index_vector_dim", q - 1},
                    {"kind", scatter_kind(n.attrs())}})};
}

// ---- OneHot -----------------------------------------------------------------------------------------------

/// The depth if the compiler knows it.
std::optional<Dim> depth_of(const Graph& g, ValueId v) {
  if (const auto& known = g.value(v).known_ints; known && known->size() == 1) return (*known)[0];
  const Node& def = g.def(v);
  const LiteralPtr* l = def.op->name == "constant" ? def.attrs.get<LiteralPtr>("value") : nullptr;
  if (l && (*l)->materialize().elems() == 1) return Dim((*l)->materialize().get_int(0));
  return std::nullopt;
}

Types infer_one_hot(const InferCtx& c) {
  if (!c.in(1).elems().is(1))
    return c.error(Code::AG2204,
                   fmt::format("`depth` of `OneHot` is a scalar: {} is {}", operand_name(c, 1), c.in(1).str()), {},
                   {1});
  Dim depth = depth_of(c.graph(), c.operand(1)).value_or(c.unbacked(0));
  AG_TRY(int axis, checked_axis(c, attr_int(c.attrs(), "axis", -1), c.in(0).rank() + 1));
  if (c.in(2).rank() != 1 || (c.in(2).shape[0].is_const() && !c.in(2).shape[0].is(2)))
    return c.error(Code::AG2204,
                   fmt::format("`values` of `OneHot` are two, off and on: {} is {}", operand_name(c, 2), c.in(2).str()),
                   {}, {2});
  Dims shape = with_unit_axis(c.in(0).shape, at(axis));
  shape[at(axis)] = depth;
  AG_TRY(shape, checked_shape(c, shape));
  return std::vector<Type>{{c.in(2).dtype, std::move(shape)}};
}

std::vector<ValueId> one_hot(Builder& b, const View& n) {
  Type t = n.out();
  std::size_t axis = at(*normalize_axis(attr_int(n.attrs(), "axis", -1), t.rank()));
  if (!depth_of(n.graph, n.operand(1)) || names_sizes(n)) define_sizes(b, as_sizes(b, n.operand(1)), {t.shape[axis]});
  Expr indices = Expr(b, n.operand(0)).to(DType::i64), values(b, n.operand(2));
  indices = wrap_negative(indices, size_value(b, t.shape[axis], DType::i64));
  indices = indices.with(b.reshape(indices, with_unit_axis(indices.type().shape, axis)));
  auto value = [&](std::int64_t i) { return values.with(b.reshape(b.slice(values, {i}, {i + 1}), {})); };
  return {
      select(indices == indices.with(b.iota(t.with(DType::i64), static_cast<std::int64_t>(axis))), value(1), value(0))};
}

// ---- The table --------------------------------------------------------------------------------------------

OpSample::Operand indices(std::string_view type, const Ints& values) {
  Type t = sample_type(type);
  return {t, make_literal(Array::of<std::int64_t>(t.dtype, *static_shape(t.shape), values))};
}

std::vector<OpSample> scatter_elements_samples() {
  std::vector<OpSample> out;
  for (const char* kind : {"none", "add", "mul", "max", "min"})
    out.push_back({{sample_operand("f64[3,4]"), indices("i64[2,3]", {0, 2, 1, -1, 0, 2}), sample_operand("f64[2,3]")},
                   {{"reduction", std::string(kind)}}});
  out.push_back({{sample_operand("f64[2,4]"), indices("i32[2,2]", {3, 3, 0, 1}), sample_operand("f64[2,2]")},
                 {{"axis", std::int64_t{1}}, {"reduction", std::string("add")}}});
  return out;
}

}  // namespace

std::vector<OpInfo> onnx_indexing_ops() {
  DTypeSet index_types = set_of(DType::i64) | set_of(DType::i32);
  OperandSpec data{.name = "data"}, index{.name = "indices", .type_var = "I", .dtypes = index_types},
      updates{.name = "updates"};
  AttrSpec axis = int_attr("axis", 0), reduction = choice_attr("reduction", {"none", "add", "mul", "max", "min"});
  return {
      composite({.name = "Gather",
                 .summary = "slices at indices along an axis",
                 .operands = {data, index},
                 .attrs = {axis},
                 .infer = infer_gather,
                 .known_ints = gather_known,
                 .decompose = gather,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           OpSample{{sample_operand("f64[4,3]"), indices("i64[2,2]", {0, -1, 3, 3})}, {}},
                           OpSample{{sample_operand("f64[2,3]"), indices("i32[]", {1})}, {{"axis", std::int64_t{1}}}},
                           OpSample{{sample_operand("f32[4,3]"), indices("i64[0]", {})}, {}}};
                     }}),
      composite({.name = "GatherElements",
                 .since = 11,
                 .summary = "one element for each index along an axis",
                 .operands = {data, index},
                 .attrs = {axis},
                 .infer = infer_gather_elements,
                 .decompose = gather_elements,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           OpSample{{sample_operand("f64[3,2]"), indices("i64[2,2]", {0, 2, -1, 1})}, {}},
                           OpSample{{sample_operand("f64[2,3]"), indices("i32[2,1]", {2, 0})},
                                    {{"axis", std::int64_t{1}}}}};
                     }}),
      composite({.name = "ScatterElements",
                 .since = 11,
                 .summary = "updates written or combined at one index each along an axis",
                 .operands = {data, index, updates},
                 .attrs = {axis, reduction},
                 .infer = infer_scatter_elements,
                 .decompose = scatter_elements,
                 .samples = scatter_elements_samples}),
      composite({.name = "GatherND",
                 .since = 11,
                 .summary = "slices at index vectors",
                 .operands = {data, index},
                 .attrs = {int_attr("batch_dims", 0)},
                 .infer = infer_gather_nd,
                 .decompose = gather_nd,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           OpSample{{sample_operand("f64[2,3,2]"), indices("i64[2,2]", {1, 0, 0, -1})}, {}},
                           OpSample{{sample_operand("f64[2,3,2]"), indices("i64[2,1]", {2, 0})},
                                    {{"batch_dims", std::int64_t{1}}}}};
                     }}),
      composite(
          {.name = "ScatterND",
           .since = 11,
           .summary = "updates written or combined at index vectors",
           .operands = {data, index, updates},
           .attrs = {reduction},
           .infer = infer_scatter_nd,
           .decompose = scatter_nd,
           .samples =
               [] {
                 return std::vector<OpSample>{
                     OpSample{{sample_operand("f64[4,2]"), indices("i64[2,1]", {3, 1}), sample_operand("f64[2,2]")},
                              {}},
                     OpSample{{sample_operand("f64[4]"), indices("i64[3,1]", {1, -1, 1}), sample_operand("f64[3]")},
                              {{"reduction", std::string("add")}}}};
               }}),
      composite({.name = "OneHot",
                 .since = 9,
                 .summary = "on at the index along a new axis, off elsewhere",
                 .operands = {{.name = "indices", .type_var = "I", .dtypes = numeric},
                              {.name = "depth", .type_var = "D", .dtypes = numeric, .constant_ints = true},
                              {.name = "values"}},
                 .results = {{"output", "T"}},
                 .attrs = {int_attr("axis", -1)},
                 .infer = infer_one_hot,
                 .decompose = one_hot,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           OpSample{{sample_operand("i64[3]", -4, 3), sample_ints({4}), sample_operand("f64[2]")}, {}},
                           OpSample{{sample_operand("i32[2,2]", 0, 2), sample_ints({3}), sample_operand("f32[2]")},
                                    {{"axis", std::int64_t{0}}}}};
                     }}),
  };
}

}  // namespace ag

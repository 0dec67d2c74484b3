// The classical models of ai.onnx.ml that work on numbers.
#include "ir/ops/families.hpp"
#include "ir/ops/rewritten.hpp"
#include "ir/ops/trees.hpp"

namespace ag {
using namespace ops;
namespace {

using Values = Result<std::vector<ValueId>>;
constexpr std::string_view ml = "ai.onnx.ml";
constexpr DTypeSet ml_types = set_of(DType::f64) | set_of(DType::f32) | set_of(DType::i64) | set_of(DType::i32);

Expr vector(Builder& b, DType t, const std::vector<double>& v) {
  return {b, b.constant(make_literal(Array::of<double>(t, {static_cast<std::int64_t>(v.size())}, v)))};
}
std::vector<double> numbers(const Rewriting& r, std::string_view name) {
  return r.attrs.get_or<std::vector<double>>(name, {});
}

// ---- Binarizer, ArrayFeatureExtractor, Scaler, Normalizer, LinearRegressor --------------------------------

Values binarizer(const Rewriting& r) {
  Expr x = r.in(0), threshold = x.lit(attr_number(r.attrs, "threshold", 0));
  if (is_int(x.dtype())) threshold = Expr(r.b, r.b.scalar(DType::f64, attr_number(r.attrs, "threshold", 0)));
  return std::vector<ValueId>{(x.to(threshold.dtype()) > threshold).to(x.dtype())};
}

/// The elements at indices of the last axis; a vector counts as one row.
Values feature_extractor(const Rewriting& r) {
  Expr x = r.in(0), at = r.in(1);
  if (x.type().rank() == 0) return r.fail(Code::AG2204, "`ArrayFeatureExtractor` of a scalar");
  at = at.with(r.b.reshape(at, {at.type().elems()}));
  if (x.type().rank() == 1) x = x.with(r.b.reshape(x, {1, x.type().shape[0]}));
  return r.nodes("Gather", {x.id(), at.id()}, {{"axis", std::int64_t{-1}}});
}

Values scaler(const Rewriting& r) {
  Expr x = r.in(0).to(DType::f32);
  std::vector<double> offset = numbers(r, "offset"), scale = numbers(r, "scale");
  Dims shape = x.type().shape;
  auto fits = [&](const std::vector<double>& v) {
    auto both = broadcast_shapes(shape, {Dim(static_cast<std::int64_t>(v.size()))});
    return v.size() <= 1 || (both && *both == shape);
  };
  if (!fits(offset) || !fits(scale))
    return r.fail(Code::AG2206, fmt::format("`Scaler` of {}: {} offsets and {} factors", r.type(0).str(), offset.size(),
                                            scale.size()));
  auto factor = [&](const std::vector<double>& v) { return v.size() == 1 ? x.lit(v[0]) : vector(r.b, DType::f32, v); };
  if (!offset.empty()) x = x - factor(offset);
  if (!scale.empty()) x = x * factor(scale);
  return std::vector<ValueId>{x};
}

Values normalizer(const Rewriting& r) {
  Expr x = r.in(0).to(DType::f32);
  if (x.type().rank() == 0) return r.fail(Code::AG2204, "`Normalizer` of a scalar");
  Ints last{x.type().rank() - 1};
  std::string norm = attr_string(r.attrs, "norm", "MAX");
  Expr divisor = norm == "MAX"  ? reduce("reduce_max", x, last, true)
                 : norm == "L1" ? reduce("reduce_sum", abs(x), last, true)
                                : sqrt(reduce("reduce_sum", call("square", x), last, true));
  return std::vector<ValueId>{x / select(divisor == divisor.lit(0), 1, divisor)};
}

Values linear_regressor(const Rewriting& r) {
  Expr x = r.in(0).to(DType::f32);
  std::int64_t targets = r.integer("targets", 1);
  std::vector<double> coefficients = numbers(r, "coefficients"), intercepts = numbers(r, "intercepts");
  auto n = static_cast<std::int64_t>(coefficients.size());
  if (x.type().rank() == 1) x = x.with(r.b.reshape(x, {1, x.type().shape[0]}));
  if (x.type().rank() != 2 || targets < 1 || n % targets != 0 ||
      (!intercepts.empty() && static_cast<std::int64_t>(intercepts.size()) != targets))
    return r.fail(Code::AG2206, fmt::format("`LinearRegressor` of {}: {} coefficients and {} intercepts for {} targets",
                                            r.type(0).str(), n, intercepts.size(), targets));
  Expr w = vector(r.b, DType::f32, coefficients);
  AG_TRY(Expr y, r.node("MatMul", {x.id(), r.b.transpose(r.b.reshape(w, {targets, n / targets}), {1, 0})}));
  if (!intercepts.empty()) y = y + vector(r.b, DType::f32, intercepts);
  std::string post = attr_string(r.attrs, "post_transform", "NONE");
  if (post == "LOGISTIC") return std::vector<ValueId>{call("sigmoid", y)};
  if (post == "SOFTMAX") return r.nodes("Softmax", {y.id()}, {{"axis", std::int64_t{-1}}});
  if (post != "NONE")
    return r.fail(Code::AG2211, fmt::format("`LinearRegressor` with post_transform {} is not supported yet", post));
  return std::vector<ValueId>{y};
}

// ---- LabelEncoder between numbers -------------------------------------------------------------------------

/// A table given as a tensor, as integers or as numbers; none if it is of strings or not there.
std::optional<Array> table(const Rewriting& r, std::string_view what) {
  auto name = [&](std::string_view suffix) { return fmt::format("{}_{}", what, suffix); };
  if (const auto* l = r.attrs.get<LiteralPtr>(name("tensor"))) {
    Array a = (*l)->materialize();
    std::int64_t n = a.elems();
    return a.reshaped({n});
  }
  if (const auto* v = r.attrs.get<Ints>(name("int64s")))
    return Array::of<std::int64_t>(DType::i64, {static_cast<std::int64_t>(v->size())}, *v);
  if (const auto* v = r.attrs.get<std::vector<double>>(name("floats")))
    return Array::of<double>(DType::f32, {static_cast<std::int64_t>(v->size())}, *v);
  return std::nullopt;
}

Values label_encoder(const Rewriting& r) {
  auto keys = table(r, "keys"), values = table(r, "values");
  if (!keys || !values) return r.fail(Code::AG2211, "`LabelEncoder` between strings is not supported yet");
  if (keys->dtype() != r.type(0).dtype || keys->elems() != values->elems() || keys->elems() == 0)
    return r.fail(Code::AG2206, fmt::format("`LabelEncoder` of {}: {} keys of {} for {} values", r.type(0).str(),
                                            keys->elems(), dtype_name(keys->dtype()), values->elems()));
  Array otherwise(values->dtype(), {});
  const auto* given = r.attrs.get<LiteralPtr>("default_tensor");
  if (given && (*given)->dtype == values->dtype() && (*given)->materialize().elems() == 1)
    otherwise = (*given)->materialize().reshaped({});
  else if (is_float(values->dtype()))
    otherwise.set_double(0, attr_number(r.attrs, "default_float", -0.0));
  else
    otherwise.set_int(0, r.integer("default_int64", -1));
  Expr x = r.in(0), place, none;
  // Whichever key is equal: a NaN is one too.
  Expr column = x.with(r.b.reshape(x, with_unit_axis(x.type().shape, x.type().shape.size())));
  Expr key(r.b, r.b.constant(make_literal(*keys))), same = column == key;
  if (is_float(x.dtype())) same = either(same, both(call("is_nan", column), call("is_nan", key)));
  std::int64_t last = x.type().rank();
  Expr hit = same.to(DType::i32);
  AG_TRY(place, r.node("ArgMax", {hit.id()}, {{"axis", last}, {"keepdims", std::int64_t{0}}}));
  Expr found = reduce("reduce_max", hit, {last}) > hit.with(r.b.scalar_int(DType::i32, 0));
  return std::vector<ValueId>{select(found, take(Expr(r.b, r.b.constant(make_literal(*values))), place, 0),
                                     Expr(r.b, r.b.constant(make_literal(otherwise))))};
}

// ---- The table --------------------------------------------------------------------------------------------

OpInfo label_encoder_op() {
  OpInfo o = rewritten<label_encoder>(
      {.name = "LabelEncoder", .domain = ml, .summary = "a value for each key, another for what is no key"});
  o.operands = {{.name = "X", .dtypes = ml_types | set_of(DType::i16)}};
  o.results = {{"Y", "V"}};
  for (std::string_view name : {"keys_tensor", "values_tensor", "default_tensor"})
    o.attrs.push_back({name, AttrKind::literal});
  for (std::string_view name : {"keys_int64s", "values_int64s"}) o.attrs.push_back({name, AttrKind::ints});
  for (std::string_view name : {"keys_floats", "values_floats"}) o.attrs.push_back({name, AttrKind::numbers});
  for (std::string_view name : {"keys_strings", "values_strings"}) o.attrs.push_back({name, AttrKind::strings});
  o.attrs.push_back(int_attr("default_int64", -1));
  o.attrs.push_back(number_attr("default_float", -0.0));
  o.attrs.push_back({"default_string", AttrKind::string});
  o.zero_gradient = true;
  o.samples = [] {
    return std::vector<OpSample>{sample(
        {"i64[2,3]"}, {{"keys_int64s", Ints{1, 2, 5}}, {"values_floats", std::vector<double>{0.5, -1, 2}}}, 0, 5)};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> ml_ops() {
  std::vector<OpInfo> all;
  auto add = [&](OpInfo o) {
    o.operands.insert(o.operands.begin(), {.name = "X", .dtypes = ml_types});
    all.push_back(std::move(o));
  };
  OpInfo o = rewritten<binarizer>({.name = "Binarizer", .domain = ml, .summary = "1 above a threshold, else 0"});
  o.attrs = {number_attr("threshold", 0)};
  o.zero_gradient = true;
  o.samples = [] {
    return std::vector<OpSample>{sample({"f32[2,3]"}, {{"threshold", 0.5}}), sample({"i64[4]"}, {}, -3, 3)};
  };
  add(o);

  o = rewritten<feature_extractor>(
      {.name = "ArrayFeatureExtractor", .domain = ml, .summary = "elements at indices of the last axis"});
  o.operands = {{.name = "Y", .type_var = "I", .dtypes = set_of(DType::i64)}};
  o.samples = [] {
    OpSample s = sample({"f64[2,4]"});
    s.operands.push_back(sample_ints({3, 0, 3}));
    return std::vector<OpSample>{s};
  };
  add(o);

  o = rewritten<scaler>({.name = "Scaler", .domain = ml, .summary = "(x - offset) scale, in f32"});
  o.results = {{"Y", "F"}};
  o.attrs = {{"offset", AttrKind::numbers}, {"scale", AttrKind::numbers}};
  o.samples = [] {
    return std::vector<OpSample>{
        sample({"f32[2,3]"}, {{"offset", std::vector<double>{0.5}}, {"scale", std::vector<double>{1, 2, 3}}})};
  };
  add(o);

  o = rewritten<normalizer>({.name = "Normalizer", .domain = ml, .summary = "each row over its norm, in f32"});
  o.results = {{"Y", "F"}};
  o.attrs = {choice_attr("norm", {"MAX", "L1", "L2"})};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f32[2,3]"}, {{"norm", std::string("L2")}}), sample({"i64[2,3]"}, {}, 1, 5)};
  };
  add(o);

  o = rewritten<linear_regressor>({.name = "LinearRegressor", .domain = ml, .summary = "x W + b, in f32"});
  o.results = {{"Y", "F"}};
  o.attrs = {{"coefficients", AttrKind::numbers},
             {"intercepts", AttrKind::numbers},
             int_attr("targets", 1),
             choice_attr("post_transform", {"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"})};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f32[3,2]"}, {{"coefficients", std::vector<double>{1, -2, 0.5, 3}},
                                                       {"intercepts", std::vector<double>{0.5, 1}},
                                                       {"targets", std::int64_t{2}}})};
  };
  add(o);
  all.push_back(label_encoder_op());
  for (OpInfo& t : tree_ops()) all.push_back(std::move(t));
  return all;
}

}  // namespace ag

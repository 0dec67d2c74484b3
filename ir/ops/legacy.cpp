// Spellings of older opsets (6 and later), each in terms of today's op.
#include "ir/dtype_sets.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/rewritten.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
using Values = Result<std::vector<ValueId>>;

/// Today's op of the same ONNX name.
std::string_view modern(const Rewriting& r) { return op_table().find_onnx("", r.op.onnx, 28)->name; }

Attrs copied(const Rewriting& r, std::initializer_list<std::string_view> names) {
  Attrs out;
  for (std::string_view name : names)
    if (const AttrValue* v = r.attrs.find(name)) out.set(name, *v);
  return out;
}

// ---- Elementwise ops of opset 6: B meets A's axes from `axis` on, if `broadcast` is set --------------------

Values with_axis(const Rewriting& r) {
  Expr b = r.in(1);
  std::int64_t rank = r.type(0).rank(), own = b.type().rank();
  const Attrs& a = r.attrs;
  if (r.integer("broadcast") && a.find("axis")) {
    auto axis = normalize_axis(r.integer("axis"), static_cast<int>(rank));
    if (!axis || *axis + own > rank)
      return r.fail(Code::AG2202, fmt::format("`{}`: {} does not fit {} from axis {} on", r.op.onnx, b.type().str(),
                                              r.type(0).str(), r.integer("axis")));
    Dims shape = b.type().shape;
    shape.insert(shape.end(), at(rank - *axis - own), Dim(1));
    b = b.with(r.b.reshape(b, shape));
  }
  return r.nodes(modern(r), {r.operands[0], b.id()});
}

OpInfo binary_6(std::string_view name, std::string_view onnx, DTypeSet set, std::string_view summary, double low = -2) {
  OpInfo o = rewritten<with_axis>({.name = name, .onnx = onnx, .until = 6, .summary = summary});
  o.operands = {{.name = "A", .dtypes = set}, {.name = "B", .dtypes = set}};
  o.attrs = {{"axis", AttrKind::integer}, int_attr("broadcast", 0)};
  DType t = set.has(DType::f64) ? DType::f64 : DType::boolean;
  if (t == DType::f64)
    o.samples = low > 0 ? [] {
      Attrs a{{"broadcast", std::int64_t{1}}, {"axis", std::int64_t{1}}};
      return std::vector<OpSample>{sample({"f64[2,3,4]", "f64[3]"}, a, 0.4, 2)};
    } : [] {
      Attrs a{{"broadcast", std::int64_t{1}}, {"axis", std::int64_t{1}}};
      return std::vector<OpSample>{sample({"f64[2,3,4]", "f64[3]"}, a), sample({"f32[2]", "f32[2]"})};
    };
  else
    o.samples = [] {
      Attrs a{{"broadcast", std::int64_t{1}}, {"axis", std::int64_t{0}}};
      return std::vector<OpSample>{sample({"bool[2,3]", "bool[2]"}, a)};
    };
  return o;
}

/// One slope, or one a channel (axis 1).
Values prelu_6(const Rewriting& r) {
  Expr slope = r.in(1);
  if (slope.type().rank() == 1 && !slope.type().shape[0].is(1) && r.type(0).rank() > 2) {
    Dims shape(at(r.type(0).rank() - 1), 1);
    shape[0] = slope.type().shape[0];
    slope = slope.with(r.b.reshape(slope, shape));
  }
  return r.nodes("PRelu", {r.operands[0], slope.id()});
}

// ---- Attributes that became operands ----------------------------------------------------------------------

Values clip_6(const Rewriting& r) {
  auto bound = [&](std::string_view name) {
    const double* v = r.attrs.get<double>(name);
    return v ? r.b.scalar(r.type(0).dtype, *v) : ValueId();
  };
  return r.nodes("Clip", {r.operands[0], bound("min"), bound("max")});
}

Values slice_1(const Rewriting& r) {
  Ints starts = attr_ints(r.attrs, "starts"), ends = attr_ints(r.attrs, "ends");
  std::vector<ValueId> in{r.operands[0], r.b.ints(starts), r.b.ints(ends)};
  if (r.attrs.find("axes")) in.push_back(r.b.ints(attr_ints(r.attrs, "axes")));
  return r.nodes("Slice", std::move(in));
}

Values pad_2(const Rewriting& r) {
  return r.nodes("Pad",
                 {r.operands[0], r.b.ints(attr_ints(r.attrs, "pads")),
                  r.b.scalar(r.type(0).dtype, attr_number(r.attrs, "value", 0))},
                 copied(r, {"mode"}));
}

Values split_2(const Rewriting& r) {
  Attrs a = copied(r, {"axis"});
  if (r.attrs.find("split")) return r.nodes("Split", {r.operands[0], r.b.ints(attr_ints(r.attrs, "split"))}, a);
  return r.nodes("Split", {r.operands[0]}, copied(r, {"axis", "num_outputs"}));
}

Values scatter_9(const Rewriting& r) {
  return r.nodes("ScatterElements", {r.operands[0], r.operands[1], r.operands[2]}, copied(r, {"axis"}));
}

// ---- Softmax and its like: over all axes from `axis` on together ------------------------------------------

Values flattened(const Rewriting& r) {
  Type t = r.type(0);
  AG_TRY(Expr matrix, r.node("Flatten", {r.operands[0]}, {{"axis", r.integer("axis", 1)}}));
  AG_TRY(Expr y, r.node(modern(r), {matrix.id()}, {{"axis", std::int64_t{-1}}}));
  return std::vector<ValueId>{r.b.reshape(y, t.shape)};
}

OpInfo flattened_op(std::string_view name, std::string_view onnx, std::string_view summary) {
  OpInfo o = rewritten<flattened>({.name = name, .onnx = onnx, .until = 12, .summary = summary});
  o.operands = {{.name = "input", .dtypes = floats}};
  o.attrs = {int_attr("axis", 1)};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,3,2]"}), sample({"f64[2,3]"}, {{"axis", std::int64_t{0}}}),
                                 sample({"f32[2,3,4]"}, {{"axis", std::int64_t{-1}}})};
  };
  return o;
}

// ---- Dropout, BatchNormalization, Gemm --------------------------------------------------------------------

/// Before opset 7 an attribute says whether it trains; afterwards it never does. The mask is a bool from opset 10 on.
Values dropout_old(const Rewriting& r) {
  bool trains = r.op.until < 7 && !r.integer("is_test");
  DType t = r.type(0).dtype;
  std::vector<ValueId> in{r.operands[0]};
  if (trains)
    in = {r.operands[0], r.b.scalar(t, attr_number(r.attrs, "ratio", 0.5)), r.b.scalar_int(DType::boolean, 1)};
  AG_TRY(std::vector<ValueId> y, r.nodes("Dropout", std::move(in)));
  if (r.op.until < 10) y[1] = r.b.convert(y[1], t);
  return y;
}

/// Training if statistics are asked for: a node that does not train takes the first type alone. The saved statistics,
/// the batch's own, are computed again.
Values batch_norm_old(const Rewriting& r) {
  Attrs a = copied(r, {"epsilon", "momentum"});
  bool training = r.wanted != 1 && !r.integer("is_test");
  a.set("training_mode", std::int64_t{training});
  Type t = r.type(0);
  std::vector<ValueId> in(r.operands.begin(), r.operands.end());
  std::vector<Type> given;
  for (ValueId v : in) given.push_back(r.b.type(v));
  bool per_feature = !r.integer("spatial", 1) && t.rank() > 2;
  if (per_feature) {  // every place of an instance is a channel of its own
    in[0] = r.b.reshape(in[0], {t.shape[0], product(Dims(t.shape.begin() + 1, t.shape.end()))});
    for (std::size_t i = 1; i < in.size(); ++i) in[i] = r.b.reshape(in[i], {given[i].elems()});
  }
  AG_TRY(std::vector<ValueId> y, r.nodes("BatchNormalization", in, a));
  if (training) {
    Expr x(r.b, in[0]);
    Ints axes{0};
    for (std::int64_t d = 2; d < x.type().rank(); ++d) axes.push_back(d);
    Expr m = mean(x, axes, true), v = mean(call("square", x - m), axes);
    y.push_back(r.b.reshape(m, v.type().shape));
    y.push_back(v);
  }
  if (per_feature)
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = r.b.reshape(y[i], i == 0 ? t.shape : given[3].shape);
  return y;
}

OpInfo batch_norm_op(OpInfo o) {
  o = rewritten<batch_norm_old>(std::move(o));
  for (std::string_view name : {"X", "scale", "B", "mean", "var"}) o.operands.push_back({name, "T", floats});
  o.results = {{"Y"}, {"mean", "T", true}, {"var", "T", true}, {"saved_mean", "T", true}, {"saved_var", "T", true}};
  o.attrs.push_back(number_attr("epsilon", 1e-5));
  o.attrs.push_back(number_attr("momentum", 0.9));
  return o;
}

std::vector<OpSample> norm_samples(std::string_view x, std::string_view statistic, Attrs a) {
  OpSample s = sample({x, statistic, statistic, statistic}, std::move(a));
  s.operands.push_back(sample_operand(statistic, 0.5, 2));
  return {s};
}

Values gemm_6(const Rewriting& r) {
  return r.nodes("Gemm", {r.operands.begin(), r.operands.end()}, copied(r, {"alpha", "beta", "transA", "transB"}));
}

// ---- The table --------------------------------------------------------------------------------------------

std::vector<OpInfo> elementwise() {
  std::vector<OpInfo> all = {
      binary_6("Add_6", "Add", numeric, "a + b; b broadcasts from an axis on if asked to"),
      binary_6("Sub_6", "Sub", numeric, "a - b; b broadcasts from an axis on if asked to"),
      binary_6("Mul_6", "Mul", numeric, "a b; b broadcasts from an axis on if asked to"),
      binary_6("Div_6", "Div", numeric, "a / b; b broadcasts from an axis on if asked to", 0.4),
      binary_6("Pow_6", "Pow", numeric, "a to the power b; b broadcasts from an axis on if asked to", 0.4),
      binary_6("And_6", "And", bools, "logical and; b broadcasts from an axis on if asked to"),
      binary_6("Or_6", "Or", bools, "logical or; b broadcasts from an axis on if asked to"),
      binary_6("Xor_6", "Xor", bools, "logical exclusive or; b broadcasts from an axis on if asked to"),
      binary_6("Equal_6", "Equal", computed, "a == b; b broadcasts from an axis on if asked to"),
      binary_6("Less_6", "Less", numeric, "a < b; b broadcasts from an axis on if asked to"),
      binary_6("Greater_6", "Greater", numeric, "a > b; b broadcasts from an axis on if asked to"),
  };
  for (OpInfo& o : all)
    if (o.name == "Equal_6" || o.name == "Less_6" || o.name == "Greater_6") o.results = {{"C", "B"}};
  OpInfo prelu = rewritten<prelu_6>(
      {.name = "PRelu_6", .onnx = "PRelu", .until = 6, .summary = "x, or a channel's slope x where negative"});
  prelu.operands = {{.name = "X", .dtypes = floats}, {.name = "slope", .dtypes = floats}};
  prelu.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,3,2]", "f64[3]"}), sample({"f64[2,3]", "f64[1]"})};
  };
  all.push_back(std::move(prelu));
  return all;
}

std::vector<OpInfo> attributes_to_operands() {
  auto ints = [](std::string_view name, bool required) { return AttrSpec{name, AttrKind::ints, required}; };
  OperandSpec data{.name = "data"};
  std::vector<OpInfo> all;
  OpInfo o = rewritten<clip_6>({.name = "Clip_6", .onnx = "Clip", .since = 6, .until = 10, .summary = "x in bounds"});
  o.operands = {{.name = "input", .dtypes = floats}};
  o.attrs = {{"min", AttrKind::number}, {"max", AttrKind::number}};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[3,4]"}, {{"min", -0.5}, {"max", 1.0}}), sample({"f64[3]"}),
                                 sample({"f32[5]"}, {{"max", 0.0}})};
  };
  all.push_back(o);

  o = rewritten<slice_1>(
      {.name = "Slice_1", .onnx = "Slice", .until = 9, .summary = "elements from start to end along axes"});
  o.operands = {data};
  o.attrs = {ints("starts", true), ints("ends", true), ints("axes", false)};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[4,5]"}, {{"starts", Ints{1, 0}}, {"ends", Ints{3, -1}}}),
                                 sample({"f64[4,5]"}, {{"starts", Ints{-3}}, {"ends", Ints{1000}}, {"axes", Ints{1}}})};
  };
  all.push_back(o);

  o = rewritten<pad_2>({.name = "Pad_2",
                        .onnx = "Pad",
                        .since = 2,
                        .until = 10,
                        .summary = "elements before and after: a constant, the edge, or its mirror image"});
  o.operands = {{.name = "data", .dtypes = floats}};
  o.attrs = {ints("pads", true), number_attr("value", 0), choice_attr("mode", {"constant", "reflect", "edge"})};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,3]"}, {{"pads", Ints{0, 1, 1, 2}}, {"value", 1.5}}),
                                 sample({"f64[2,3]"}, {{"pads", Ints{0, 2, 1, 0}}, {"mode", std::string("reflect")}})};
  };
  all.push_back(o);

  o = rewritten<split_2>(
      {.name = "Split_2", .onnx = "Split", .since = 2, .until = 12, .summary = "parts along an axis"});
  o.operands = {{.name = "input"}};
  o.results = {{.name = "outputs", .variadic = true}};
  o.attrs = {int_attr("axis", 0),
             ints("split", false),
             {"num_outputs", AttrKind::integer, false, "how many if no sizes are given"}};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,5]"}, {{"axis", std::int64_t{1}}, {"split", Ints{2, 3}}})};
  };
  all.push_back(o);

  o = rewritten<scatter_9>({.name = "Scatter_9",
                            .onnx = "Scatter",
                            .since = 9,
                            .until = 10,
                            .summary = "updates written at one index each along an axis"});
  o.operands = {data,
                {.name = "indices", .type_var = "I", .dtypes = set_of(DType::i64) | set_of(DType::i32)},
                {.name = "updates"}};
  o.attrs = {int_attr("axis", 0)};
  o.samples = [] {
    OpSample s{{sample_operand("f64[3]"), sample_ints({2, 0}), sample_operand("f64[2]")}, {}};
    return std::vector<OpSample>{s};
  };
  all.push_back(o);
  return all;
}

std::vector<OpInfo> with_modes() {
  std::vector<OpInfo> all = {
      flattened_op("Softmax_1", "Softmax", "e^x, normalised over all axes from `axis` on"),
      flattened_op("LogSoftmax_1", "LogSoftmax", "logarithm of Softmax over all axes from `axis` on"),
      flattened_op("Hardmax_1", "Hardmax", "1 at the first maximum over all axes from `axis` on, else 0"),
  };
  for (auto [name, since, until] : {std::tuple{"Dropout_6", 6, 6}, {"Dropout_7", 7, 9}, {"Dropout_10", 10, 11}}) {
    OpInfo o = rewritten<dropout_old>({.name = name, .onnx = "Dropout", .since = since, .until = until});
    o.summary = since == 6 ? "x, or if it trains some elements dropped and the others scaled" : "x (inference)";
    o.operands = {{.name = "data", .dtypes = floats}};
    o.results = {{"output"}, {"mask", since < 10 ? "T" : "B", true}};
    o.attrs = {number_attr("ratio", 0.5)};
    if (since == 6) o.attrs.push_back(int_attr("is_test", 0));
    o.samples = since == 6 ? [] { return std::vector<OpSample>{sample({"f64[2,3]"}, {{"is_test", std::int64_t{1}}})}; }
                           : [] { return std::vector<OpSample>{sample({"f64[2,3]"}), sample({"f32[3]"})}; };
    all.push_back(o);
  }
  std::string_view summary = "normalised a channel by given statistics, or by the batch's if its statistics are wanted";
  OpInfo o = batch_norm_op({.name = "BatchNormalization_6", .onnx = "BatchNormalization", .until = 6});
  o.summary = summary;
  o.attrs.push_back(int_attr("spatial", 1));
  o.attrs.push_back(int_attr("is_test", 0));
  o.samples = [] { return norm_samples("f64[2,3,4]", "f64[3]", {{"is_test", std::int64_t{1}}}); };
  all.push_back(o);
  o = batch_norm_op({.name = "BatchNormalization_7", .onnx = "BatchNormalization", .since = 7, .until = 8});
  o.summary = summary;
  o.attrs.push_back(int_attr("spatial", 1));
  o.samples = [] { return norm_samples("f64[2,3,2]", "f64[3,2]", {{"spatial", std::int64_t{0}}}); };
  all.push_back(o);
  o = batch_norm_op({.name = "BatchNormalization_9", .onnx = "BatchNormalization", .since = 9, .until = 13});
  o.summary = summary;
  o.samples = [] { return norm_samples("f64[2,3,4]", "f64[3]", {}); };
  all.push_back(o);
  o = rewritten<gemm_6>({.name = "Gemm_6", .onnx = "Gemm", .until = 6, .summary = "alpha A B + beta C"});
  o.operands = {{.name = "A", .dtypes = floats}, {.name = "B", .dtypes = floats}, {.name = "C", .dtypes = floats}};
  o.attrs = {number_attr("alpha", 1), number_attr("beta", 1), int_attr("broadcast", 0), int_attr("transA", 0),
             int_attr("transB", 0)};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,3]", "f64[4,3]", "f64[4]"},
                                        {{"transB", std::int64_t{1}}, {"broadcast", std::int64_t{1}}, {"beta", 0.5}})};
  };
  all.push_back(o);
  return all;
}

}  // namespace

std::vector<OpInfo> legacy_ops() {
  std::vector<OpInfo> all;
  for (auto* part : {elementwise, attributes_to_operands, with_modes})
    for (OpInfo& o : part()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag

// Normalisations. f16 and bf16 are normalised in f32 (ONNX's stash_type); f64 stays f64. Variances are of the
// population, computed from the centred values.
#include "ir/ops/norm.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"

namespace ag {

namespace ops {

Normalised normalise(Expr x, const Ints& axes, double eps) {
  Expr m = mean(x, axes, true), d = x - m;
  return {d, call("rsqrt", mean(call("square", d), axes, true) + eps), m};
}

Expr per_channel(Expr v, int rank) {
  Dims shape(static_cast<std::size_t>(rank), 1);
  shape[1] = v.type().shape[0];
  return v.with(v.builder().reshape(v, shape));
}

Ints layer_norm_axes(const View& n) {
  std::int64_t rank = n.in(0).rank(), axis = *normalize_axis(attr_int(n.attrs(), "axis", -1), static_cast<int>(rank));
  return iota_ints(rank - axis, axis);
}

Ints batch_norm_axes(const View& n) {
  Ints axes{0};
  for (std::int64_t d = 2; d < n.in(0).rank(); ++d) axes.push_back(d);
  return axes;
}

bool in_training(const View& n) { return attr_int(n.attrs(), "training_mode", 0) != 0; }
DType batch_norm_dtype(const View& n) {
  DType t = n.in(0).dtype;
  return n.in(3).dtype == t ? t : accumulator_dtype(n.in(3).dtype);
}
BatchStatistics batch_statistics(Builder& b, const View& n, Expr x) {
  if (!in_training(n)) return {Expr(b, n.operand(3)).to(x.dtype()), Expr(b, n.operand(4)).to(x.dtype())};
  Ints axes = batch_norm_axes(n);
  Expr m = mean(x, axes);
  return {m, mean(call("square", x - per_channel(m, n.in(0).rank())), axes)};
}

}  // namespace ops

using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
double epsilon(const View& n) { return norm_epsilon(n); }
AttrSpec epsilon_attr() { return number_attr("epsilon", 1e-5); }

Status check_channels(const InferCtx& c, std::size_t first) {
  if (c.in(0).rank() < 2)
    return c.error(Code::AG2204,
                   fmt::format("`{}` needs at least two axes, batch and channel: {} is {}", c.op().onnx,
                               operand_name(c, 0), c.in(0).str()),
                   {}, {0});
  for (std::size_t i = first; i < c.operand_count(); ++i) {
    const Type& t = c.in(i);
    Dim room = t.rank() == 1 ? t.shape[0] - c.in(0).shape[1] : Dim(1);
    if (room.is_const() && !room.is(0))
      return c.error(Code::AG2208,
                     fmt::format("`{}` needs one value a channel: {} is {}, {} has {} channels", c.op().onnx,
                                 operand_name(c, i), t.str(), operand_name(c, 0), c.in(0).shape[1].str()),
                     {}, {0, i});
  }
  return {};
}

// ---- LayerNormalization, RMSNormalization -----------------------------------------------------------------

Types infer_layer_norm(const InferCtx& c) {
  const Type& x = c.in(0);
  AG_TRY(int axis, checked_axis(c, attr_int(c.attrs(), "axis", -1), x.rank()));
  for (std::size_t i = 1; i < c.operand_count(); ++i) {
    if (!c.has(i)) continue;
    auto shape = broadcast_shapes(c.in(i).shape, x.shape);
    if (!shape || *shape != x.shape)
      return c.error(Code::AG2201,
                     fmt::format("`{}`: {} is {}, which does not broadcast to {}", c.op().onnx, operand_name(c, i),
                                 c.in(i).str(), x.str()),
                     {}, {0, i});
  }
  Type y = x.with(c.in(1).dtype);
  if (c.op().name != "LayerNormalization") return std::vector<Type>{y};
  Type statistic{accumulator_dtype(x.dtype), x.shape};
  for (std::size_t d = at(axis); d < x.shape.size(); ++d) statistic.shape[d] = 1;
  return std::vector<Type>{y, statistic, statistic};
}

std::vector<ValueId> layer_norm(Builder& b, const View& n) {
  Expr x(b, n.operand(0)), scale(b, n.operand(1));
  Normalised z = normalise(x.to(accumulator_dtype(x.dtype())), layer_norm_axes(n), epsilon(n));
  Expr y = z.y().to(x.dtype()) * scale;
  if (n.has(2)) y = y + Expr(b, n.operand(2));
  return {y, z.mean, z.inverse};
}

std::vector<ValueId> rms_norm(Builder& b, const View& n) {
  Expr x(b, n.operand(0)), scale(b, n.operand(1)), wide = x.to(accumulator_dtype(x.dtype()));
  Expr y = wide * call("rsqrt", mean(call("square", wide), layer_norm_axes(n), true) + epsilon(n));
  return {y.to(scale.dtype()) * scale};
}

// ---- BatchNormalization -----------------------------------------------------------------------------------

Types infer_batch_norm(const InferCtx& c) {
  AG_TRY_(check_channels(c, 1));
  if (!attr_int(c.attrs(), "training_mode", 0)) return std::vector<Type>{c.in(0)};
  return std::vector<Type>{c.in(0), c.in(3), c.in(4)};
}

std::vector<ValueId> batch_norm(Builder& b, const View& n) {
  int rank = n.in(0).rank();
  DType t = n.in(0).dtype, wide = batch_norm_dtype(n);
  bool training = in_training(n);
  auto operand = [&](std::size_t i) { return Expr(b, n.operand(i)).to(wide); };
  Expr x = operand(0);
  auto [m, v] = batch_statistics(b, n, x);
  Expr inverse = call("rsqrt", v + epsilon(n));
  Expr y = (x - per_channel(m, rank)) * per_channel(inverse * operand(1), rank) + per_channel(operand(2), rank);
  std::vector<ValueId> out{y.to(t)};
  if (training) {
    double momentum = attr_number(n.attrs(), "momentum", 0.9);
    out.push_back((operand(3) * momentum + m * (1 - momentum)).to(n.in(3).dtype));
    out.push_back((operand(4) * momentum + v * (1 - momentum)).to(n.in(4).dtype));
  }
  return out;
}

// ---- InstanceNormalization, GroupNormalization, MeanVarianceNormalization, LpNormalization ----------------

Types infer_instance_norm(const InferCtx& c) {
  AG_TRY_(check_channels(c, 1));
  return infer_same(c);
}

std::vector<ValueId> instance_norm(Builder& b, const View& n) {
  int rank = n.in(0).rank();
  Expr x(b, n.operand(0));
  Expr y = normalise(x.to(accumulator_dtype(x.dtype())), iota_ints(rank - 2, 2), epsilon(n)).y().to(x.dtype());
  return {y * per_channel(Expr(b, n.operand(1)), rank) + per_channel(Expr(b, n.operand(2)), rank)};
}

Types infer_group_norm(const InferCtx& c) {
  bool per_group = c.op().name == "GroupNormalization_18";
  AG_TRY_(check_channels(c, per_group ? 3 : 1));
  std::int64_t groups = attr_int(c.attrs(), "num_groups", 0);
  const Dim& channels = c.in(0).shape[1];
  if (groups <= 0 || (channels.is_const() && channels.value() % groups != 0))
    return c.error(
        Code::AG2206,
        fmt::format("`GroupNormalization`: {} groups do not divide the channels of {}", groups, c.in(0).str()), {},
        {0});
  if (per_group)
    for (std::size_t i : {1u, 2u})
      if (c.in(i).rank() != 1 || (c.in(i).shape[0].is_const() && !c.in(i).shape[0].is(groups)))
        return c.error(Code::AG2208,
                       fmt::format("`GroupNormalization` before opset 21 takes one scale and bias a group: {} is {}",
                                   operand_name(c, i), c.in(i).str()),
                       {}, {i});
  return infer_same(c);
}

std::vector<ValueId> group_norm(Builder& b, const View& n) {
  Expr x(b, n.operand(0)), scale(b, n.operand(1)), bias(b, n.operand(2));
  Dims shape = x.type().shape, grouped{shape[0], attr_int(n.attrs(), "num_groups", 1),
                                       floordiv(shape[1], attr_int(n.attrs(), "num_groups", 1))};
  grouped.insert(grouped.end(), shape.begin() + 2, shape.end());
  Expr g = x.with(b.reshape(x, grouped)).to(accumulator_dtype(x.dtype()));
  Expr y = normalise(g, iota_ints(static_cast<std::int64_t>(grouped.size()) - 2, 2), epsilon(n)).y().to(x.dtype());
  int rank = static_cast<int>(shape.size());
  if (n.node().op->name == "GroupNormalization_18")
    return {b.reshape(y * per_channel(scale, rank + 1) + per_channel(bias, rank + 1), shape)};
  return {y.with(b.reshape(y, shape)) * per_channel(scale, rank) + per_channel(bias, rank)};
}

Types infer_mean_variance(const InferCtx& c) {
  AG_TRY_(checked_axes(c, c.attrs().get_or<Ints>("axes", {0, 2, 3}), c.in(0).rank()));
  return infer_same(c);
}
std::vector<ValueId> mean_variance(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  Ints axes = n.attrs().get_or<Ints>("axes", {0, 2, 3});
  for (std::int64_t& a : axes) a = *normalize_axis(a, x.type().rank());
  Expr d = x - mean(x, axes, true);
  return {d / (sqrt(mean(call("square", d), axes, true)) + 1e-9)};
}

Types infer_lp(const InferCtx& c) {
  AG_TRY_(checked_axis(c, attr_int(c.attrs(), "axis", -1), c.in(0).rank()));
  std::int64_t p = attr_int(c.attrs(), "p", 2);
  if (p != 1 && p != 2) return c.error(Code::AG2206, fmt::format("`LpNormalization` with p = {}", p), "p is 1 or 2");
  return infer_same(c);
}
/// x over its norm; zeros where that is 0.
std::vector<ValueId> lp_norm(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  std::int64_t axis = *normalize_axis(attr_int(n.attrs(), "axis", -1), x.type().rank());
  Attrs keep{{"keepdims", std::int64_t{1}}};
  Expr norm =
      x.with(b.add_op(attr_int(n.attrs(), "p", 2) == 1 ? "ReduceL1" : "ReduceL2", {x.id(), b.ints(Ints{axis})}, keep));
  return {x / select(norm == 0.0, 1, norm)};
}

}  // namespace

std::vector<OpInfo> norm_ops() {
  OperandSpec x{.name = "X", .dtypes = floats}, scale{.name = "scale", .dtypes = floats},
      bias{.name = "B", .dtypes = floats};
  OperandSpec scale1{.name = "scale", .type_var = "T1", .dtypes = floats},
      bias1{.name = "B", .type_var = "T1", .dtypes = floats};
  OperandSpec optional_bias{.name = "B", .dtypes = floats, .optional = true};
  std::vector<OpInfo> all = {
      composite({.name = "LayerNormalization",
                 .since = 17,
                 .summary = "normalised over the axes from `axis` on, then scaled and shifted",
                 .operands = {x, scale, optional_bias},
                 .results = {{"Y"}, {"Mean", "U", true}, {"InvStdDev", "U", true}},
                 .attrs = {int_attr("axis", -1), epsilon_attr(), int_attr("stash_type", 1)},
                 .infer = infer_layer_norm,
                 .decompose = layer_norm,
                 .vjp = layer_norm_vjp,
                 .samples =
                     [] {
                       return std::vector<OpSample>{sample({"f64[3,4]", "f64[4]", "f64[4]"}),
                                                    sample({"f64[2,3,4]", "f64[3,4]"}, {{"axis", std::int64_t{1}}}),
                                                    sample({"f16[2,4]", "f16[4]", "f16[4]"})};
                     }}),
      composite(
          {.name = "RMSNormalization",
           .since = 23,
           .summary = "over its root mean square, then scaled",
           .operands = {x, {.name = "scale", .type_var = "V", .dtypes = floats}},
           .results = {{"Y", "V"}},
           .attrs = {int_attr("axis", -1), epsilon_attr(), int_attr("stash_type", 1)},
           .infer = infer_layer_norm,
           .decompose = rms_norm,
           .samples =
               [] { return std::vector<OpSample>{sample({"f64[3,4]", "f64[4]"}), sample({"f32[2,3]", "f32[3]"})}; }}),
      composite({.name = "BatchNormalization",
                 .since = 14,
                 .summary = "normalised a channel by given statistics, or in training mode by the batch's",
                 .operands = {x,
                              scale1,
                              bias1,
                              {.name = "input_mean", .type_var = "T2", .dtypes = floats},
                              {.name = "input_var", .type_var = "T2", .dtypes = floats}},
                 .results = {{"Y"}, {"running_mean", "T2", true}, {"running_var", "T2", true}},
                 .attrs = {epsilon_attr(), number_attr("momentum", 0.9), int_attr("training_mode", 0)},
                 .infer = infer_batch_norm,
                 .decompose = batch_norm,
                 .vjp = batch_norm_vjp,
                 .samples =
                     [] {
                       OpSample given = sample({"f64[2,3,4]", "f64[3]", "f64[3]", "f64[3]"});
                       given.operands.push_back(sample_operand("f64[3]", 0.5, 2));
                       OpSample training = given;
                       training.attrs = {{"training_mode", std::int64_t{1}}};
                       return std::vector<OpSample>{given, training};
                     }}),
      composite({.name = "InstanceNormalization",
                 .since = 6,
                 .summary = "normalised over the spatial axes of each instance and channel",
                 .operands = {x, scale, bias},
                 .attrs = {epsilon_attr()},
                 .infer = infer_instance_norm,
                 .decompose = instance_norm,
                 .samples = [] { return std::vector<OpSample>{sample({"f64[2,3,4]", "f64[3]", "f64[3]"})}; }}),
      composite({.name = "GroupNormalization",
                 .since = 21,
                 .summary = "normalised over groups of channels; scale and bias a channel",
                 .operands = {x, scale, bias},
                 .attrs = {epsilon_attr(), {"num_groups", AttrKind::integer, true}, int_attr("stash_type", 1)},
                 .infer = infer_group_norm,
                 .decompose = group_norm,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           sample({"f64[2,4,3]", "f64[4]", "f64[4]"}, {{"num_groups", std::int64_t{2}}})};
                     }}),
      composite({.name = "GroupNormalization_18",
                 .onnx = "GroupNormalization",
                 .since = 18,
                 .until = 20,
                 .summary = "normalised over groups of channels; scale and bias a group",
                 .operands = {x, scale, bias},
                 .attrs = {epsilon_attr(), {"num_groups", AttrKind::integer, true}},
                 .infer = infer_group_norm,
                 .decompose = group_norm,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           sample({"f64[2,4,3]", "f64[2]", "f64[2]"}, {{"num_groups", std::int64_t{2}}})};
                     }}),
      composite({.name = "MeanVarianceNormalization",
                 .since = 9,
                 .summary = "centred and over the standard deviation",
                 .operands = {x},
                 .attrs = {{"axes", AttrKind::ints}},
                 .infer = infer_mean_variance,
                 .decompose = mean_variance,
                 .samples =
                     [] {
                       return std::vector<OpSample>{sample({"f64[2,3,2,2]"}),
                                                    sample({"f32[3,4]"}, {{"axes", Ints{1}}})};
                     }}),
      composite({.name = "LpNormalization",
                 .summary = "over its norm along an axis",
                 .operands = {x},
                 .attrs = {int_attr("axis", -1), int_attr("p", 2)},
                 .infer = infer_lp,
                 .decompose = lp_norm,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           sample({"f64[3,4]"}),
                           sample({"f64[3,4]"}, {{"p", std::int64_t{1}}, {"axis", std::int64_t{0}}})};
                     }}),
  };
  return all;
}

}  // namespace ag

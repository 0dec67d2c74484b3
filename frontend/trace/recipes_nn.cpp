// Networks: activations over an axis, losses, convolution, pooling, normalisation.
#include <cmath>
#include <limits>

#include "frontend/trace/recipes.hpp"
#include "ir/op.hpp"

namespace ag::rec::r {
namespace {

using Values = std::vector<ValueId>;
using In = std::span<const ValueId>;
using Ints = std::vector<std::int64_t>;

std::string reduction(std::int64_t p) { return p == 0 ? "none" : p == 1 ? "mean" : "sum"; }
Ints ints(Params p) { return Ints(p.begin(), p.end()); }

/// The mean, sum, or all of elementwise losses.
Values reduced(Emit& e, ValueId loss, std::int64_t how) {
  const int rank = e.rank(loss);
  if (how == 0 || rank == 0) return {loss};
  Ints axes;
  for (int i = 0; i < rank; ++i) axes.push_back(i);
  if (how == 2) return {e.op("reduce_sum", {loss}, {{"axes", axes}})};
  return {e.op("ReduceMean", {loss, e.b().ints(axes)}, {{"keepdims", std::int64_t{0}}})};
}

Values build_softmax(Emit& e, In in, Params p) {
  if (e.rank(in[0]) == 0) return {e.b().ones(e.type(in[0]))};
  return {e.op("Softmax", {in[0]}, {{"axis", e.axis(p[0], e.rank(in[0]))}})};
}
Values build_log_softmax(Emit& e, In in, Params p) {
  if (e.rank(in[0]) == 0) return {e.b().zeros(e.type(in[0]))};
  return {e.op("LogSoftmax", {in[0]}, {{"axis", e.axis(p[0], e.rank(in[0]))}})};
}

/// Scores of one example gain a batch axis, which the loss then drops.
Values build_class_loss(Emit& e, std::string_view op, In in, Params p) {
  Values args(in.begin(), in.end());
  const bool single = e.rank(in[0]) == 1;
  if (single) {
    args[0] = e.b().reshape(in[0], {1, e.type(in[0]).shape[0]});
    args[1] = e.b().reshape(in[1], {1});
  }
  Attrs attrs{{"reduction", reduction(p[0])}};
  attrs.set("ignore_index", p[1]);
  ValueId loss = e.op(op, args, std::move(attrs));
  if (single && p[0] == 0) loss = e.b().reshape(loss, {});
  return {loss};
}
Values build_cross_entropy(Emit& e, In in, Params p) { return build_class_loss(e, "SoftmaxCrossEntropyLoss", in, p); }
Values build_nll(Emit& e, In in, Params p) { return build_class_loss(e, "NegativeLogLikelihoodLoss", in, p); }

/// Labels that are probabilities: -sum(y log softmax(x)) over the classes, averaged over the rest.
Values build_soft_cross_entropy(Emit& e, In in, Params p) {
  const std::int64_t axis = e.rank(in[0]) == 1 ? 0 : 1;
  ValueId logs = e.op("LogSoftmax", {in[0]}, {{"axis", axis}});
  ValueId each = e.op("neg", {e.op("reduce_sum", {e.op("mul", {logs, in[1]})}, {{"axes", Ints{axis}}})});
  return reduced(e, each, p[0]);
}

void need_same_shape(Emit& e, std::string_view what, ValueId x, ValueId y) {
  if (e.type(x).shape != e.type(y).shape)
    e.reject(Code::AG2208, std::string(what) + ": Target size (" + shape_str(e.type(y).shape) +
                               ") must be the same as input size (" + shape_str(e.type(x).shape) + ")");
}
Values build_bce_with_logits(Emit& e, In in, Params p) {
  need_same_shape(e, "binary_cross_entropy_with_logits", in[0], in[1]);
  return {e.op("BinaryCrossEntropyWithLogits", {in[0], in[1]}, {{"reduction", reduction(p[0])}})};
}
/// Logarithms no smaller than -100, as torch has them.
Values build_bce(Emit& e, In in, Params p) {
  need_same_shape(e, "binary_cross_entropy", in[0], in[1]);
  const DType t = e.type(in[0]).dtype;
  ValueId one = e.b().scalar(t, 1), low = e.b().scalar(t, -100);
  auto log = [&](ValueId x) { return e.op("max", {e.op("log", {x}), low}); };
  ValueId yes = e.op("mul", {in[1], log(in[0])});
  ValueId no = e.op("mul", {e.op("sub", {one, in[1]}), log(e.op("sub", {one, in[0]}))});
  return reduced(e, e.op("neg", {e.op("add", {yes, no})}), p[0]);
}
Values build_mse(Emit& e, In in, Params p) { return reduced(e, e.op("square", {e.op("sub", {in[0], in[1]})}), p[0]); }
Values build_l1(Emit& e, In in, Params p) { return reduced(e, e.op("abs", {e.op("sub", {in[0], in[1]})}), p[0]); }
Values build_smooth_l1(Emit& e, In in, Params p) {
  const DType t = e.type(in[0]).dtype;
  const double beta = real(p[1]);
  ValueId d = e.op("abs", {e.op("sub", {in[0], in[1]})});
  ValueId inner = e.op("mul", {e.op("square", {d}), e.b().scalar(t, 0.5 / beta)});
  ValueId outer = e.op("sub", {d, e.b().scalar(t, 0.5 * beta)});
  return reduced(e, e.op("select", {e.op("lt", {d, e.b().scalar(t, beta)}), inner, outer}), p[0]);
}

Values build_conv(Emit& e, In in, Params p) {
  const auto n = static_cast<std::size_t>(p[1]);
  if (e.rank(in[0]) != static_cast<int>(n) + 2)
    e.reject(Code::AG2204, "Expected " + std::to_string(n + 2) + "D (batched) input to conv" + std::to_string(n) +
                               "d, but got input of size: " + shape_str(e.type(in[0]).shape));
  Ints pads = ints(p.subspan(2 + n, n));
  pads.insert(pads.end(), p.begin() + 2 + static_cast<std::ptrdiff_t>(n),
              p.begin() + 2 + static_cast<std::ptrdiff_t>(2 * n));
  Attrs attrs{{"group", p[0]}, {"strides", ints(p.subspan(2, n))}, {"pads", pads}};
  attrs.set("dilations", ints(p.subspan(2 + 2 * n, n)));
  return {e.op("Conv", Values(in.begin(), in.end()), std::move(attrs))};
}
Ints both_sides(Params pads) {
  Ints out = ints(pads);
  out.insert(out.end(), pads.begin(), pads.end());
  return out;
}
Values build_max_pool(Emit& e, In in, Params p) {
  const auto n = static_cast<std::size_t>(p[0]);
  Attrs attrs{{"kernel_shape", ints(p.subspan(1, n))}, {"strides", ints(p.subspan(1 + n, n))}};
  attrs.set("pads", both_sides(p.subspan(1 + 2 * n, n)));
  attrs.set("dilations", ints(p.subspan(1 + 3 * n, n)));
  attrs.set("ceil_mode", p[1 + 4 * n]);
  return {e.op("MaxPool", {in[0]}, std::move(attrs))};
}
Values build_avg_pool(Emit& e, In in, Params p) {
  const auto n = static_cast<std::size_t>(p[0]);
  Attrs attrs{{"kernel_shape", ints(p.subspan(1, n))}, {"strides", ints(p.subspan(1 + n, n))}};
  attrs.set("pads", both_sides(p.subspan(1 + 2 * n, n)));
  attrs.set("ceil_mode", p[1 + 3 * n]);
  attrs.set("count_include_pad", p[2 + 3 * n]);
  return {e.op("AveragePool", {in[0]}, std::move(attrs))};
}

Dims trailing(Emit& e, ValueId x, std::int64_t n) {
  const Dims& shape = e.type(x).shape;
  if (n < 1 || n > static_cast<std::int64_t>(shape.size()))
    e.reject(Code::AG2204, "normalized_shape does not fit an input of shape " + shape_str(shape));
  return Dims(shape.end() - n, shape.end());
}
Values build_layer_norm(Emit& e, In in, Params p) {
  const Type t{e.type(in[0]).dtype, trailing(e, in[0], p[1])};
  Values args{in[0], in.size() > 1 ? in[1] : e.b().ones(t)};
  if (in.size() > 2) args.push_back(in[2]);
  return {e.op("LayerNormalization", args, {{"axis", -p[1]}, {"epsilon", real(p[0])}})};
}
Values build_rms_norm(Emit& e, In in, Params p) {
  const Type t{e.type(in[0]).dtype, trailing(e, in[0], p[1])};
  return {e.op("RMSNormalization", {in[0], in.size() > 1 ? in[1] : e.b().ones(t)},
               {{"axis", -p[1]}, {"epsilon", real(p[0])}})};
}
Values build_batch_norm(Emit& e, In in, Params p) {
  return {e.op("BatchNormalization", Values(in.begin(), in.end()), {{"epsilon", real(p[0])}})};
}
/// With the batch's own statistics; gives them too, the variance unbiased as running statistics want it.
Values build_batch_norm_train(Emit& e, In in, Params p) {
  ValueId x = in[0];
  const Type t = e.type(x);
  Ints axes;
  Dims channel(t.shape.size(), Dim(1));
  Dim count = 1;
  for (int i = 0; i < t.rank(); ++i) {
    if (i == 1) continue;
    axes.push_back(i);
    count = count * t.shape[static_cast<std::size_t>(i)];
  }
  channel[1] = t.shape[1];
  auto mean_of = [&](ValueId v) { return e.op("ReduceMean", {v, e.b().ints(axes)}, {{"keepdims", std::int64_t{1}}}); };
  ValueId mean = mean_of(x), centred = e.op("sub", {x, mean});
  ValueId var = mean_of(e.op("square", {centred}));
  ValueId scale = e.op("rsqrt", {e.op("add", {var, e.b().scalar(t.dtype, real(p[0]))})});
  ValueId y = e.op("mul", {centred, scale});
  if (in.size() > 1) y = e.op("mul", {y, e.b().reshape(in[1], channel)});
  if (in.size() > 2) y = e.op("add", {y, e.b().reshape(in[2], channel)});
  ValueId unbiased = var;
  if (count.is_const() && count.value() > 1) {
    const double n = static_cast<double>(count.value());
    unbiased = e.op("mul", {var, e.b().scalar(t.dtype, n / (n - 1))});
  }
  return {y, e.b().reshape(mean, {t.shape[1]}), e.b().reshape(unbiased, {t.shape[1]})};
}
Values build_group_norm(Emit& e, In in, Params p) {
  const Type c{e.type(in[0]).dtype, {e.type(in[0]).shape[1]}};
  Values args{in[0], in.size() > 1 ? in[1] : e.b().ones(c), in.size() > 2 ? in[2] : e.b().zeros(c)};
  return {e.op("GroupNormalization", args, {{"num_groups", p[1]}, {"epsilon", real(p[0])}})};
}
Values build_embedding(Emit& e, In in, Params) { return {e.op("Gather", {in[0], in[1]}, {{"axis", std::int64_t{0}}})}; }

/// softmax(q k^T scale + mask) v on the last two axes.
Values build_attention(Emit& e, In in, Params p) {
  ValueId q = in[0], k = in[1];
  const DType t = e.type(q).dtype;
  const int rank = e.rank(q);
  if (rank < 2 || e.rank(k) != rank)
    e.reject(Code::AG2204, "scaled_dot_product_attention: query and key need the same number (at least 2) of axes");
  double scale = real(p[2]);
  if (!p[1]) {
    const Dim& d = e.type(q).shape.back();
    if (!d.is_const()) e.reject(Code::AG2211, "attention over a symbolic head size needs a scale");
    scale = 1 / std::sqrt(static_cast<double>(d.value()));
  }
  Ints perm;
  for (int i = 0; i < rank; ++i) perm.push_back(i);
  std::swap(perm[static_cast<std::size_t>(rank) - 1], perm[static_cast<std::size_t>(rank) - 2]);
  ValueId s = e.op("MatMul", {e.op("mul", {q, e.b().scalar(t, scale)}), e.b().transpose(k, perm)});
  ValueId minus = e.b().scalar(t, -std::numeric_limits<double>::infinity());
  if (p[0]) {
    const Dims& shape = e.type(s).shape;
    const Dims square{shape[shape.size() - 2], shape.back()};
    ValueId row = e.b().iota({DType::i64, square}, 0), col = e.b().iota({DType::i64, square}, 1);
    s = e.op("select", {e.op("ge", {row, col}), s, minus});
  }
  if (in.size() > 3)
    s = e.type(in[3]).dtype == DType::boolean ? e.op("select", {in[3], s, minus})
                                              : e.op("add", {s, e.b().convert(in[3], t)});
  return {e.op("MatMul", {e.op("Softmax", {s}, {{"axis", std::int64_t{-1}}}), in[2]})};
}

}  // namespace

const Recipe softmax{"softmax", "SoftmaxBackward0", build_softmax};
const Recipe log_softmax{"log_softmax", "LogSoftmaxBackward0", build_log_softmax};
const Recipe nll_loss{"nll_loss", "NllLossBackward0", build_nll};
const Recipe cross_entropy{"cross_entropy", "NllLossBackward0", build_cross_entropy};
const Recipe soft_cross_entropy{"cross_entropy", "DivBackward1", build_soft_cross_entropy};
const Recipe bce_with_logits{"binary_cross_entropy_with_logits", "BinaryCrossEntropyWithLogitsBackward0",
                             build_bce_with_logits};
const Recipe bce{"binary_cross_entropy", "BinaryCrossEntropyBackward0", build_bce};
const Recipe mse_loss{"mse_loss", "MseLossBackward0", build_mse};
const Recipe l1_loss{"l1_loss", "MeanBackward0", build_l1};
const Recipe smooth_l1{"smooth_l1_loss", "SmoothL1LossBackward0", build_smooth_l1};
const Recipe conv{"conv", "ConvolutionBackward0", build_conv};
const Recipe max_pool{"max_pool2d", "MaxPool2DWithIndicesBackward0", build_max_pool};
const Recipe avg_pool{"avg_pool2d", "AvgPool2DBackward0", build_avg_pool};
const Recipe layer_norm{"layer_norm", "NativeLayerNormBackward0", build_layer_norm};
const Recipe rms_norm{"rms_norm", "MulBackward0", build_rms_norm};
const Recipe batch_norm{"batch_norm", "NativeBatchNormBackward0", build_batch_norm};
const Recipe batch_norm_train{"batch_norm", "NativeBatchNormBackward0", build_batch_norm_train};
const Recipe group_norm{"group_norm", "NativeGroupNormBackward0", build_group_norm};
const Recipe embedding{"embedding", "EmbeddingBackward0", build_embedding};
const Recipe attention{"scaled_dot_product_attention", "ScaledDotProductFlashAttentionForCpuBackward0",
                       build_attention};

}  // namespace ag::rec::r

// Functions of networks: what torch keeps in torch.nn.functional.
#include "frontend/trace/recipes.hpp"
#include "runtime/api/tensor_impl.hpp"

namespace ag::api {
namespace {

namespace r = rec::r;
using lazy::apply;
using lazy::Arg;
using lazy::raise;
using lazy::value_of;
using rec::bits;
using Ints = std::vector<std::int64_t>;

/// Operands that are given, in order; one that is undefined ends the list.
Tensor with_optional(const rec::Recipe& recipe, std::initializer_list<const Tensor*> operands, const Ints& params,
                     const Place& place) {
  std::vector<Arg> args;
  for (const Tensor* t : operands) {
    if (!t->defined() && !args.empty()) break;
    args.push_back(lazy::arg_of(*t, place));
  }
  return apply(recipe, args, params, place);
}
std::int64_t how(Reduction reduction) { return static_cast<std::int64_t>(reduction); }
Ints spread(const IntList& list, std::size_t n) { return list.size() == 1 ? Ints(n, list[0]) : list.values(); }
void append(Ints& to, const Ints& more) { to.insert(to.end(), more.begin(), more.end()); }

}  // namespace

Tensor softmax(const Tensor& x, std::int64_t axis, Place place) { return apply(r::softmax, {&x}, {axis}, place); }
Tensor log_softmax(const Tensor& x, std::int64_t axis, Place place) {
  return apply(r::log_softmax, {&x}, {axis}, place);
}
Tensor Tensor::softmax(std::int64_t axis, Place place) const { return api::softmax(*this, axis, place); }
Tensor Tensor::log_softmax(std::int64_t axis, Place place) const { return api::log_softmax(*this, axis, place); }

Tensor cross_entropy(const Tensor& scores, const Tensor& labels, Reduction reduction, std::int64_t ignore_index,
                     Place place) {
  if (labels.is_floating_point()) return apply(r::soft_cross_entropy, {&scores, &labels}, {how(reduction)}, place);
  return apply(r::cross_entropy, {&scores, &labels}, {how(reduction), ignore_index}, place);
}
Tensor nll_loss(const Tensor& log_probs, const Tensor& labels, Reduction reduction, std::int64_t ignore_index,
                Place place) {
  return apply(r::nll_loss, {&log_probs, &labels}, {how(reduction), ignore_index}, place);
}
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& y, Reduction reduction, Place place) {
  return apply(r::bce_with_logits, {&x, &y}, {how(reduction)}, place);
}
Tensor binary_cross_entropy(const Tensor& p, const Tensor& y, Reduction reduction, Place place) {
  return apply(r::bce, {&p, &y}, {how(reduction)}, place);
}
Tensor mse_loss(const Tensor& x, const Tensor& y, Reduction reduction, Place place) {
  return apply(r::mse_loss, {&x, &y}, {how(reduction)}, place);
}
Tensor l1_loss(const Tensor& x, const Tensor& y, Reduction reduction, Place place) {
  return apply(r::l1_loss, {&x, &y}, {how(reduction)}, place);
}
Tensor smooth_l1_loss(const Tensor& x, const Tensor& y, Reduction reduction, double beta, Place place) {
  if (beta == 0) return l1_loss(x, y, reduction, place);
  return apply(r::smooth_l1, {&x, &y}, {how(reduction), bits(beta)}, place);
}
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Place place) {
  static const rec::Recipe plain{"linear", "MmBackward0", r::linear.build};
  static const rec::Recipe wide{"linear", "UnsafeViewBackward0", r::linear.build};
  static const rec::Recipe row{"linear", "SqueezeBackward4", r::linear.build};
  const int rank = value_of(x, "linear", place).type->type.rank();
  const rec::Recipe& flat = rank == 1 && !bias.defined() ? row : wide;
  return with_optional(rank != 2 ? flat : bias.defined() ? r::linear : plain, {&x, &weight, &bias}, {}, place);
}

namespace {
Tensor convolution(std::size_t n, const Tensor& x, const Tensor& weight, const Tensor& bias, const IntList& stride,
                   const IntList& padding, const IntList& dilation, std::int64_t groups, const Place& place) {
  Ints params{groups, static_cast<std::int64_t>(n)};
  append(params, spread(stride, n));
  append(params, spread(padding, n));
  append(params, spread(dilation, n));
  if (params.size() != 2 + 3 * n)
    raise(Code::AG5404,
          "conv" + std::to_string(n) + "d takes one number or " + std::to_string(n) +
              " for its stride, padding and dilation",
          place);
  return with_optional(r::conv, {&x, &weight, &bias}, params, place);
}
}  // namespace
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, IntList stride, IntList padding,
              IntList dilation, std::int64_t groups, Place place) {
  return convolution(1, x, weight, bias, stride, padding, dilation, groups, place);
}
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, IntList stride, IntList padding,
              IntList dilation, std::int64_t groups, Place place) {
  return convolution(2, x, weight, bias, stride, padding, dilation, groups, place);
}
Tensor max_pool2d(const Tensor& x, IntList kernel, IntList stride, IntList padding, IntList dilation, bool ceil_mode,
                  Place place) {
  Ints params{2};
  append(params, spread(kernel, 2));
  append(params, spread(stride.size() ? stride : kernel, 2));
  append(params, spread(padding, 2));
  append(params, spread(dilation, 2));
  params.push_back(ceil_mode);
  return with_optional(r::max_pool, {&x}, params, place);
}
Tensor avg_pool2d(const Tensor& x, IntList kernel, IntList stride, IntList padding, bool ceil_mode,
                  bool count_include_pad, Place place) {
  Ints params{2};
  append(params, spread(kernel, 2));
  append(params, spread(stride.size() ? stride : kernel, 2));
  append(params, spread(padding, 2));
  params.push_back(ceil_mode);
  params.push_back(count_include_pad);
  return with_optional(r::avg_pool, {&x}, params, place);
}

Tensor layer_norm(const Tensor& x, IntList normalized, const Tensor& weight, const Tensor& bias, double eps,
                  Place place) {
  return with_optional(r::layer_norm, {&x, &weight, &bias}, {bits(eps), static_cast<std::int64_t>(normalized.size())},
                       place);
}
Tensor rms_norm(const Tensor& x, IntList normalized, const Tensor& weight, double eps, Place place) {
  return with_optional(r::rms_norm, {&x, &weight}, {bits(eps), static_cast<std::int64_t>(normalized.size())}, place);
}
Tensor group_norm(const Tensor& x, std::int64_t groups, const Tensor& weight, const Tensor& bias, double eps,
                  Place place) {
  return with_optional(r::group_norm, {&x, &weight, &bias}, {bits(eps), groups}, place);
}
/// In training the batch's statistics are used, and the running ones move towards them in place.
Tensor batch_norm(const Tensor& x, const Tensor& mean, const Tensor& variance, const Tensor& weight, const Tensor& bias,
                  bool training, double momentum, double eps, Place place) {
  if (!training) {
    Tensor w = weight.defined() ? weight : ones_like(mean, {}, place);
    Tensor b = bias.defined() ? bias : zeros_like(mean, {}, place);
    return with_optional(r::batch_norm, {&x, &w, &b, &mean, &variance}, {bits(eps)}, place);
  }
  std::vector<Arg> args{lazy::arg_of(x, place)};
  if (weight.defined()) args.push_back(lazy::arg_of(weight, place));
  if (weight.defined() && bias.defined()) args.push_back(lazy::arg_of(bias, place));
  auto all = lazy::apply_all(&r::batch_norm_train, nullptr, args, Ints{bits(eps)}, place);
  if (mean.defined()) {
    NoGradGuard guard;
    Tensor m = mean, v = variance;
    m.copy_(m * (1 - momentum) + all[1].detach() * momentum);
    v.copy_(v * (1 - momentum) + all[2].detach() * momentum);
  }
  return all[0];
}
Tensor embedding(const Tensor& weight, const Tensor& indices, Place place) {
  return apply(r::embedding, {&weight, &indices}, {}, place);
}
Tensor one_hot(const Tensor& indices, std::int64_t classes, Place place) {
  return apply(r::one_hot, {&indices}, {classes}, place);
}
/// The mask is drawn from the session's generator (in a trace: when it runs); elements that stay are scaled up.
Tensor dropout(const Tensor& x, double p, bool training, Place place) {
  if (p < 0 || p > 1)
    raise(Code::AG5404, "dropout probability has to be between 0 and 1, but got " + std::to_string(p), place);
  if (!training || p == 0) return x;
  if (p == 1) return x * 0.0;
  Tensor mask = rand_like(x, f32);
  return x * (Operand(mask, place) >= Operand(p, place)).to(x.dtype(), place) * (1 / (1 - p));
}
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask,
                                    bool is_causal, std::optional<double> scale, Place place) {
  static const rec::Recipe flat{"scaled_dot_product_attention", "MmBackward0", r::attention.build};
  const bool matrix = value_of(q, "attention", place).type->type.rank() == 2;
  return with_optional(matrix ? flat : r::attention, {&q, &k, &v, &mask},
                       {is_causal, scale.has_value(), bits(scale.value_or(0))}, place);
}

}  // namespace ag::api

// Gradients of normalisations in closed form. With z = (x - mean) r and r = 1/sqrt(variance + epsilon), a cotangent g
// of z becomes r (g - mean(g) - z mean(g z)); taking the decomposition apart instead needs a third sum, which is
// nothing but rounding, and another pass over x.
#include "ir/ops/norm.hpp"

namespace ag::ops {
namespace {

Expr sum(Expr x, const Ints& axes, bool keepdims = false) { return reduce("reduce_sum", x, axes, keepdims); }

/// The sum of what is there.
struct Sum {
  Expr value;
  bool any = false;
  void add(Expr x) {
    value = any ? value + x : x;
    any = true;
  }
};

}  // namespace

void layer_norm_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  const Ints axes = layer_norm_axes(n);
  const Expr x(b, n.operand(0)), scale(b, n.operand(1));
  const DType wide = accumulator_dtype(x.dtype());
  const Normalised z = normalise(x.to(wide), axes, norm_epsilon(n));
  Sum dx;
  if (ct[0]) {
    const Expr g(b, ct[0]), y = z.y();
    if (n.has(2)) grads[2] = b.sum_to(g, n.in(2).shape);
    grads[1] = b.sum_to(g * y.to(x.dtype()), n.in(1).shape);
    const Expr gz = (g * scale).to(wide);
    dx.add((gz - mean(gz, axes, true) - y * mean(gz * y, axes, true)) * z.inverse);
  }
  const Expr count = size_value(b, reduced_count(x.type().shape, axes), wide);
  if (ct.size() > 1 && ct[1]) dx.add(Expr(b, ct[1]) / count);
  if (ct.size() > 2 && ct[2]) dx.add(-(Expr(b, ct[2]) * z.inverse * z.inverse * z.inverse / count) * z.centred);
  if (dx.any) grads[0] = b.broadcast_to(dx.value.to(x.dtype()), x.type().shape);
}

void batch_norm_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads) {
  const Ints axes = batch_norm_axes(n);
  const int rank = n.in(0).rank();
  const DType wide = batch_norm_dtype(n);
  const bool training = in_training(n);
  auto operand = [&](std::size_t i) { return Expr(b, n.operand(i)).to(wide); };
  auto give = [&](std::size_t i, Expr g) { grads[i] = g.to(n.in(i).dtype); };
  const Expr x = operand(0);
  const BatchStatistics s = batch_statistics(b, n, x);
  const Expr centred = x - per_channel(s.mean, rank), inverse = call("rsqrt", s.variance + norm_epsilon(n));
  Sum dx;
  if (ct[0]) {
    const Expr g = Expr(b, ct[0]).to(wide), slope = inverse * operand(1);
    const Expr total = sum(g, axes), along = sum(g * centred, axes);
    give(2, total);
    give(1, along * inverse);
    if (training) {
      const Expr part = mean(g * centred, axes) * inverse * inverse;
      dx.add((g - per_channel(mean(g, axes), rank) - centred * per_channel(part, rank)) * per_channel(slope, rank));
    } else {
      dx.add(g * per_channel(slope, rank));
      give(3, -(total * slope));
      give(4, along * operand(1) * inverse * inverse * inverse * -0.5);
    }
  }
  const double momentum = attr_number(n.attrs(), "momentum", 0.9);
  auto running = [&](std::size_t result) { return ct.size() > result && ct[result].valid(); };
  auto share = [&](std::size_t result) {  // of each element in a statistic of the batch
    const Expr count = size_value(b, reduced_count(x.type().shape, axes), wide);
    return Expr(b, ct[result]).to(wide) * (1 - momentum) / count;
  };
  for (std::size_t result : {1u, 2u})
    if (running(result)) give(result + 2, Expr(b, ct[result]).to(wide) * momentum);
  if (running(1)) dx.add(per_channel(share(1), rank));
  if (running(2)) dx.add(centred * per_channel(share(2) * 2.0, rank));
  if (dx.any) give(0, Expr(b, b.broadcast_to(dx.value, x.type().shape)));
}

}  // namespace ag::ops

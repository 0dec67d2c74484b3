// What the normalisations and their gradients share.
#pragma once
#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"

namespace ag::ops {

inline double norm_epsilon(const View& n) { return attr_number(n.attrs(), "epsilon", 1e-5); }

struct Normalised {
  Expr centred, inverse, mean;  ///< x - mean, 1/sqrt(variance + epsilon), mean; axes are kept
  Expr y() const { return centred * inverse; }
};
Normalised normalise(Expr x, const Ints& axes, double eps);

/// A vector of one value a channel (axis 1), ready to meet a value of that rank.
Expr per_channel(Expr v, int rank);

/// The axes that a layer norm ranges over, and those of a batch norm: all but axis 1.
Ints layer_norm_axes(const View& n);
Ints batch_norm_axes(const View& n);

/// The statistics that a batch norm normalises by: in training mode the batch's, else the given ones.
struct BatchStatistics {
  Expr mean, variance;
};
BatchStatistics batch_statistics(Builder& b, const View& n, Expr x);
bool in_training(const View& n);
/// The type that a batch norm is computed in.
DType batch_norm_dtype(const View& n);

/// Closed forms: two sums over the axes, then one pass.
void layer_norm_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads);
void batch_norm_vjp(Builder& b, const View& n, Cotangents ct, Grads& grads);

}  // namespace ag::ops

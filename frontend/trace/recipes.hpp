// The operations of the C++ library, as recipes. Names and gradient names are torch's. Parameters are listed beside
// each; `T` stands for an element type as an integer, `axes` for a list up to the end.
#pragma once
#include "frontend/trace/recipe.hpp"

namespace ag::rec::r {

// Elementwise. Operands are converted to the type T first, then broadcast.
extern const Recipe add, sub, mul, div, pow, maximum, minimum, fmod, remainder, atan2;   // T
extern const Recipe floor_div;                                                           // T
extern const Recipe eq, ne, lt, le, gt, ge;                                              // T: results are bool
extern const Recipe logical_and, logical_or, logical_xor, logical_not;                   //
extern const Recipe bitwise_and, bitwise_or, bitwise_xor;                                // T
extern const Recipe pow_const;                                                           // exponent (real), T
extern const Recipe neg, abs, sign, square, reciprocal, sqrt, rsqrt, exp, exp2, expm1, log, log2, log10, log1p, sin,
    cos, tan, asin, acos, atan, sinh, cosh, tanh, asinh, acosh, atanh, sigmoid, erf, erfc, floor, ceil, round, trunc,
    relu, isnan, isinf, isfinite;                                                        // T
extern const Recipe gelu;                                                                // T, tanh?
extern const Recipe silu, softplus, mish, selu, hardsigmoid, hardswish, log_sigmoid, softsign;    // T
extern const Recipe leaky_relu, elu, celu;                                               // T, alpha (real)
extern const Recipe clamp;             // T, has low, has high; operands x, [low], [high]
extern const Recipe where;             // T; operands condition, a, b
extern const Recipe masked_fill;       // T; operands x, mask, value
extern const Recipe to;                // T
extern const Recipe clone, stop;       //
extern const Recipe lerp, addcmul;     // T

// Sources.
extern const Recipe full;              // T, value (real), sizes
extern const Recipe full_like;         // T, value (real); operand gives the shape
extern const Recipe arange;            // T, n; operands start, step

// Random numbers. The generator's key moves on by key_step with each draw. Parameters: number of the draw, T,
// distribution, a, b (reals; integers: the lowest and how many), whether an operand gives the shape, sizes. Operands:
// key (u64), [that operand], trip numbers of the loops around.
enum class Random : std::uint8_t { uniform, normal, integers };
inline constexpr std::uint64_t key_step = 0x9e3779b97f4a7c15ull;
extern const Recipe random;

// Reductions: keepdim, axes.
extern const Recipe sum, sum_dim, mean, mean_dim, prod, prod_dim, amax, amax_all, amin, amin_all, all, any, logsumexp;
extern const Recipe var, stddev;       // correction (real), keepdim, axes
extern const Recipe norm;              // p (real), keepdim, axes
extern const Recipe max_dim, min_dim;  // axis, keepdim: values, indices
extern const Recipe argmax, argmin;    // axis, keepdim
extern const Recipe argsort, sort, topk;  // axis, descending; topk: k
extern const Recipe cumsum;            // axis
extern const Recipe cumprod;           // axis

// Products.
extern const Recipe dot, mv, mm, bmm, matmul, outer;
extern const Recipe linear;            // operands x, weight, [bias]
extern const Recipe addmm;             // operands bias, a, b

// Shapes.
extern const Recipe view, reshape;     // sizes, one may be -1
extern const Recipe transpose;         // axis, axis
extern const Recipe t;
extern const Recipe permute;           // axes
extern const Recipe expand;            // sizes, -1 keeps
extern const Recipe squeeze, squeeze_dim;  // [axis]
extern const Recipe unsqueeze;         // axis
extern const Recipe flatten;           // first, last
extern const Recipe cat, stack;        // axis
extern const Recipe select;            // axis, index
extern const Recipe slice;             // axis, start, stop, step
extern const Recipe narrow;            // axis, start, length
extern const Recipe split;             // axis, sizes
extern const Recipe flip;              // axes
extern const Recipe roll;              // shift, axis
extern const Recipe repeat;            // counts
extern const Recipe tril, triu, diag;  // k
extern const Recipe pad;               // low and high of the last axes, last first; operands x, value
extern const Recipe index_select;      // axis; operands x, indices
extern const Recipe index;             // number of index tensors; operands x, indices of the leading axes
extern const Recipe index_put;         // accumulate; operands x, index vectors, values
extern const Recipe gather;            // axis; operands x, indices
extern const Recipe scatter, scatter_add;  // axis; operands x, indices, values
extern const Recipe one_hot;           // classes
/// Writes a view back: operands base, value; parameters: those of the view. One recipe for each view.
const Recipe* write_back(const Recipe& view);

// Networks.
extern const Recipe softmax, log_softmax;  // axis
extern const Recipe nll_loss, cross_entropy;  // reduction (0 none, 1 mean, 2 sum), ignore_index; scores, labels, [w]
extern const Recipe soft_cross_entropy;    // reduction; operands scores, probabilities
extern const Recipe bce_with_logits, bce, mse_loss, l1_loss;  // reduction
extern const Recipe smooth_l1;             // reduction, beta (real)
extern const Recipe conv;  // groups, spatial rank n, n strides, n paddings, n dilations; x, w, [bias]
extern const Recipe max_pool;  // n, n kernel, n strides, n paddings, n dilations, ceil
extern const Recipe avg_pool;  // n, n kernel, n strides, n paddings, ceil, count padding
extern const Recipe layer_norm;  // eps (real), number of axes; operands x, [weight, [bias]]
extern const Recipe rms_norm;  // eps (real), number of axes; operands x, weight
extern const Recipe batch_norm;  // eps (real); operands x, weight, bias, mean, variance
extern const Recipe batch_norm_train;  // eps (real); operands x, weight, bias: y, mean, unbiased variance
extern const Recipe group_norm;  // eps (real), groups; operands x, weight, bias
extern const Recipe embedding;  // operands weight, indices
extern const Recipe attention;  // is_causal, has scale, scale; operands q, k, v, [mask]

}  // namespace ag::rec::r

// Elementary functions whose algorithm is the same in f32 and f64 up to constants and polynomials, which P supplies.
//
// V is a value: Num<float>, Num<double>, or a type that emits statements. Everything is branch-free, and every
// rounding is explicit. Polynomials are minimax fits, computed for ag with mpmath in 50 digits.
#pragma once
#include <cstdint>
#include <limits>

namespace ag::loop::math {

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// c[0] + c[1] x + ...; Horner's scheme in fused multiply-adds.
template <class V, std::size_t n>
V polynomial(V x, const double (&c)[n]) {
  V p = fma(x, c[n - 1], c[n - 2]);
  for (std::size_t i = n - 2; i-- > 0;) p = fma(p, x, c[i]);
  return p;
}

/// The coefficients of -p(-x).
template <std::size_t n>
struct Mirrored {
  double c[n];
  constexpr explicit Mirrored(const double (&p)[n]) : c{} {
    for (std::size_t i = 0; i < n; ++i) c[i] = i % 2 ? p[i] : -p[i];
  }
};

template <class V, class I>
struct Scaled {  // value * 2^exponent
  V value;
  I exponent;
};

template <class P>
struct Common {
  /// n and r with x = n ln 2 + r, |r| <= ln(2)/2; n also as an integer. Adding 1.5 * 2^(digits - 1) rounds to an
  /// integer, which then stands in the low bits. A NaN gives a NaN in r and any n.
  template <class V>
  static auto reduce_exp(V x) {
    V t = fma(x, 1.4426950408889634, P::magic);
    V n = t - P::magic;
    V r = fma(n, -P::ln2_lo, fma(n, -P::ln2_hi, x));
    auto k = as_int(t) - P::magic_bits;
    return Scaled<V, decltype(k)>{r, k};
  }
  template <class V>
  static V clamp(V x, double lo, double hi) {  // keeps NaN
    x = select(x < lo, lo, x);
    return select(x > hi, hi, x);
  }
  /// e^x as value * 2^exponent, value in [0.7, 1.42]; x must be clamped.
  template <class V>
  static auto exp_parts(V x) {
    auto [r, k] = reduce_exp(x);
    return Scaled<V, decltype(k)>{exp_reduced(r), k};
  }
  template <class V>
  static V exp_reduced(V r) {
    return fma(r, fma(r, polynomial(r, P::exp_poly), 1.0), 1.0);
  }
  template <class V>
  static V expm1_reduced(V r) {
    return fma(r * r, polynomial(r, P::expm1_poly), r);
  }
  /// 2^k for k within the normal exponents; k may be the bits of magic + k, of which none but k's own are left.
  template <class I>
  static auto power_of_two(I k) {
    return as_float(shl(k, P::mantissa) + (P::bias << P::mantissa));
  }

  template <class V>
  static V exp(V x) {
    auto [p, k] = exp_parts(clamp(x, P::exp_min, P::exp_max));
    return ldexp(p, k);
  }

  template <class V>
  static V exp2(V x) {
    return exp2_bounded(clamp(x, P::exp2_min, P::exp2_max));
  }
  /// For x that is not far beyond the exponents.
  template <class V>
  static V exp2_bounded(V x) {
    V t = x + P::magic;
    V r = x - (t - P::magic);
    return ldexp(fma(r, polynomial(r, P::exp2_poly), 1.0), as_int(t) - P::magic_bits);
  }

  /// scale * (e^x - 1) for scale * 2^k = power_of_two(k + log_scale), as 2^k r + (2^k - 1), which is nearly exact, plus
  /// the small rest 2^k (e^r - 1 - r), into which the rounding error of r goes.
  template <class V>
  static V expm1_scaled(V x, std::int64_t log_scale) {
    V t = fma(x, 1.4426950408889634, P::magic);
    V n = t - P::magic;
    V first = fma(n, -P::ln2_hi, x), r = fma(n, -P::ln2_lo, first);
    V lost = fma(n, -P::ln2_lo, first - r);
    V rest = fma(r * r, polynomial(r, P::expm1_poly), lost);
    V s = power_of_two(as_int(t) + log_scale);
    return fma(s, rest, fma(s, r, s - (log_scale == 0 ? 1.0 : 0.5)));
  }
  /// At half its size, so that 2^k cannot overflow.
  template <class V>
  static V expm1(V x) {
    V y = expm1_scaled(clamp(x, P::expm1_min, P::exp_max), -1) * 2.0;
    return select(abs(x) < P::tiny, x, y);
  }

  /// With e = 1 - exp(-2|x|): e / (2 - e). 2^k p is exact, so e and 2 - e are each rounded once. Where that is not
  /// enough, what the roundings lost is added, divided by d in [1, 2] to one digit.
  template <class V>
  static V tanh(V x) {
    V a = abs(x), y = select(a > P::tanh_max, P::tanh_max, a);
    y = y + y;
    V t = fma(y, -1.4426950408889634, P::magic), n = t - P::magic;  // -2|x| = n ln 2 - r
    V r = fma(n, P::ln2_lo, fma(n, P::ln2_hi, y));
    static constexpr Mirrored poly(P::expm1_poly);
    V s = power_of_two(as_int(t));
    V p = s * fma(r * r, polynomial(r, poly.c), r);
    V one_less = V(1.0) - s, one_more = s + 1.0, e = p + one_less, d = one_more - p, q = e / d;
    if constexpr (P::tanh_corrected) {
      V e_lo = (one_less - e) + p, d_lo = (one_more - d) - p;
      q = fma(fma(-q, d, e) + fma(-q, d_lo, e_lo), fma(d, -8.0 / 17, 24.0 / 17), q);
    }
    return copysign(q, x);
  }

  /// Both sides from exp(-|x|), which cannot overflow and keeps the tail's subnormals.
  template <class V>
  static V sigmoid(V x) {
    V a = -abs(x);
    auto [p, k] = exp_parts(select(a < P::exp_min, P::exp_min, a));
    V e = ldexp(p, k);
    return select(x < 0.0, e, 1.0) / (e + 1.0);
  }

  /// x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for finite x > 0.
  template <class V>
  static auto split(V x) {
    auto below = x < P::min_normal;
    auto bits = as_int(select(below, x * P::subnormal_scale, x));
    auto k = shr(bits - P::sqrt_half_bits, P::mantissa);
    V f = as_float(bits - shl(k, P::mantissa)) - 1.0;
    struct Split {
      V f, k_float;
      decltype(k) k_int;  // without the correction for subnormals
    };
    return Split{f, P::integer_to_float(k) - select(below, like(x, P::subnormal_bits), like(x, 0.0)), k};
  }
  /// log(x)'s values where it has no finite one, else r.
  template <class V>
  static V log_domain(V x, V r) {
    r = select(x < infinity, r, x);
    return select(x > 0.0, r, select(x == 0.0, like(x, -infinity), like(x, not_a_number)));
  }
  /// k ln 2 + log(1 + f)
  template <class V>
  static V log_sum(V k, V f) {
    return fma(k, P::ln2_hi, f + fma(k, P::ln2_lo, P::log1p_tail(f)));
  }

  template <class V>
  static V log(V x) {
    auto s = split(x);
    return log_domain(x, log_sum(s.k_float, s.f));
  }

  template <class V>
  static V log2(V x) {
    auto s = split(x);
    V t = P::log1p_tail(s.f);
    V r = fma(s.f, P::log2e_hi, fma(t, P::log2e_hi, s.f * P::log2e_lo));
    return log_domain(x, s.k_float + r);
  }

  /// log(u + c), u finite and positive, |c| at most half an ulp of u; `add` counts further factors of 2.
  template <class V>
  static V log_with_correction(V u, V c, V add) {
    auto s = split(u);
    // c 2^-k; where 2^-k would leave the normal exponents, c no longer matters.
    V scaled = c * select(u > P::correction_limit, 0.0, as_float(shl(like(s.k_int, P::bias) - s.k_int, P::mantissa)));
    return log_sum(s.k_float + add, s.f + scaled);
  }

  template <class V>
  static V log1p(V x) {
    V u = x + 1.0;
    V c = select(x < 1.0, x - (u - 1.0), V(1.0) - (u - x));
    V y = log_domain(u, log_with_correction(u, c, V(0.0)));
    return select(abs(x) < P::tiny, x, y);
  }

  template <class V>
  static V rsqrt(V x) {
    return V(1.0) / sqrt(x);
  }
};

}  // namespace ag::loop::math

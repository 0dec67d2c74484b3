// Elementary functions in f32: at most 2 ulp (sigmoid 3). The ones that networks spend their time in are native;
// the others go through f64 and round once.
#pragma once
#include "ir/loop/math_f64.hpp"

namespace ag::loop::math {

struct F32 : Common<F32> {
  static constexpr double magic = 0x1.8p23;
  static constexpr std::int64_t magic_bits = 0x4b400000, bias = 127, mantissa = 23;
  static constexpr double ln2_hi = 0x1.62e43p-1, ln2_lo = -1.904654299957768e-09;
  static constexpr double log2e_hi = 0x1.715476p0, log2e_lo = 1.9259629911266175e-08;
  static constexpr double exp_min = -104, exp_max = 89, exp2_min = -151, exp2_max = 129, expm1_min = -18;
  static constexpr double tanh_max = 10, tiny = 0x1p-25, correction_limit = 0x1p60;
  static constexpr bool tanh_corrected = false;
  static constexpr double min_normal = 0x1p-126, subnormal_scale = 0x1p23, subnormal_bits = 23;
  static constexpr std::int64_t sqrt_half_bits = 0x3f3504f3;
  // As in F64; log: (log(1 + f) - f + f^2/2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1].
  static constexpr double exp_poly[] = {0.49999994, 0.166665182, 0.0416682437, 0.00836894475, 0.0013822763};
  static constexpr double expm1_poly[] = {0.5, 0.166666657, 0.0416664779, 0.00833356753, 0.00139336882, 0.000197424233};
  static constexpr double exp2_poly[] = {0.693147182,   0.240226448,   0.0555035919,
                                         0.00961884111, 0.00133911369, 0.00015238006};
  static constexpr double log_poly[] = {0.333333135,  -0.250000209, 0.200020671,  -0.166673243, 0.142200172,
                                        -0.124176309, 0.11896953,   -0.116082005, 0.0664569587};
  // erf(x) / x - 1 in x^2 on [0, 1]; log2(erfc(x)) / x on [1, 3.95].
  static constexpr double erf_poly[] = {0.128379166,   -0.37612626,     0.112835824,   -0.0268536434,
                                        0.00518796267, -0.000800679321, 7.84228832e-05};
  static constexpr double erfc_poly[] = {-1.6283617,     -0.916066825,   -0.153693616,   0.034641996,
                                         -0.00542270765, 0.000506369397, -2.02135525e-05};
  // For |r| <= pi/4, evaluated in f64.
  static constexpr double sin_poly[] = {-0.16666666641613412, 0.0083333293835973939, -0.00019839333998785836,
                                        2.7183030684391209e-06};
  static constexpr double cos_poly[] = {0.041666666622791587, -0.0013888883750006625, 2.4799519073216241e-05,
                                        -2.7210158628259983e-07};

  template <class I>
  static auto integer_to_float(I k) {
    return to_float(k);
  }
  template <class V>
  static V log1p_tail(V f) {
    return f * f * fma(f, polynomial(f, log_poly), -0.5);
  }

  /// Near 0 a polynomial, else 1 - 2^(a p(a)).
  template <class V>
  static V erf(V x) {
    V a = abs(x);
    V small = fma(x, polynomial(x * x, erf_poly), x);
    V b = select(a > 4.0, 4.0, a);
    V e = exp2_bounded(b * polynomial(b, erfc_poly));
    return select(a < 1.0, small, copysign(V(1.0) - e, x));
  }

  // ---- sin, cos, tan: reduced and evaluated in f64 ----

  /// For |x| >= 2^30: Payne and Hanek with x = m 2^e, m of 24 bits; see F64::reduce_huge.
  static constexpr double huge_angle = 0x1p30;
  template <class V>
  static auto reduce_huge(V x) {
    auto huge = abs(x) >= huge_angle;
    static constexpr std::uint64_t two_over_pi[] = {0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041,
                                                    0xfe5163abdebbc561};
    auto bits = as_int(x);
    auto m = as_unsigned(widen((bits & 0x7fffff) | 0x800000));
    using U = decltype(m);
    auto start = widen(select(huge, (shr(bits, 23) & 255) - 152, like(bits, 0)));
    auto second = start >= 64;
    auto shift = as_unsigned(start & 63);
    U back = like(m, std::uint64_t{64}) - shift;
    U w[3];
    for (std::size_t i = 0; i < 3; ++i) w[i] = select(second, like(m, two_over_pi[i + 1]), like(m, two_over_pi[i]));
    for (std::size_t i = 0; i < 2; ++i) w[i] = shl(w[i], shift) | shr(w[i + 1], back);
    U high = m * w[0] + mulhi(m, w[1]);
    U quadrant = shr(high + (std::uint64_t{1} << 61), std::uint64_t{62});
    auto r = to_float(as_signed(high - shl(quadrant, std::uint64_t{62}))) * 0x1.921fb54442d18p-62;
    auto q = as_signed(quadrant);
    auto negative = x < 0.0;
    return F64::Angle<decltype(r), decltype(q)>{select(negative, -r, r), r, select(negative, like(q, 0) - q, q)};
  }
  template <class V>
  static auto sin_cos(V x) {
    auto d = widen(x);
    using D = decltype(d);
    D t = fma(d, 0.6366197723675814, F64::magic), n = t - F64::magic;
    D near = fma(n, -F64::half_pi_lo, fma(n, -F64::half_pi_hi, d));
    auto q = as_int(t);
    auto huge = abs(x) >= huge_angle;
    auto far = rarely(huge, x, [](const V& a) { return reduce_huge(a); }, F64::Angle<D, decltype(q)>{near, near, q});
    D r = select(huge, far.hi, near), z = r * r;
    q = select(huge, far.quadrant, q);
    D s = fma(r * z, polynomial(z, sin_poly), r);
    D c = fma(z * z, polynomial(z, cos_poly), fma(z, -0.5, 1.0));
    return F64::SinCos<D, decltype(q)>{s, c, q};
  }
  template <class V>
  static V sin(V x) {
    return select(abs(x) < 0x1p-12, x, narrow(F64::turn(widen(x), sin_cos(x))));
  }
  template <class V>
  static V cos(V x) {
    auto a = sin_cos(x);
    a.quadrant = a.quadrant + 1;
    return narrow(F64::turn(widen(x), a));
  }
  template <class V>
  static V tan(V x) {
    return select(abs(x) < 0x1p-13, x, narrow(F64::tan_of(widen(x), sin_cos(x))));
  }

  // ---- through f64 ----

  template <class V>
  static V erfc(V x) {
    return narrow(F64::erfc(widen(x)));
  }
  template <class V>
  static V asin(V x) {
    return narrow(F64::asin(widen(x)));
  }
  template <class V>
  static V acos(V x) {
    return narrow(F64::acos(widen(x)));
  }
  template <class V>
  static V atan(V x) {
    return narrow(F64::atan(widen(x)));
  }
  template <class V>
  static V atan2(V y, V x) {
    return narrow(F64::atan2(widen(y), widen(x)));
  }
  template <class V>
  static V sinh(V x) {
    return narrow(F64::sinh(widen(x)));
  }
  template <class V>
  static V cosh(V x) {
    return narrow(F64::cosh(widen(x)));
  }
  template <class V>
  static V asinh(V x) {
    return narrow(F64::asinh(widen(x)));
  }
  template <class V>
  static V acosh(V x) {
    return narrow(F64::acosh(widen(x)));
  }
  template <class V>
  static V atanh(V x) {
    return narrow(F64::atanh(widen(x)));
  }
  template <class V>
  static V cbrt(V x) {
    return narrow(F64::cbrt(widen(x)));
  }
  template <class V>
  static V pow(V x, V y) {
    auto dx = widen(x), dy = widen(y);
    auto l = F64::log2(abs(dx));
    return narrow(F64::pow_of_log(dx, dy, {l, l * 0.0}));
  }
};

}  // namespace ag::loop::math

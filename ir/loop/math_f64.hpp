// Elementary functions in f64: at most 2 ulp (sigmoid 3, tan and atanh 2.5), all special values as in C99.
#pragma once
#include <array>

#include "ir/loop/math_common.hpp"

namespace ag::loop::math {

struct F64 : Common<F64> {
  static constexpr double magic = 0x1.8p52;
  static constexpr std::int64_t magic_bits = 0x4338000000000000, bias = 1023, mantissa = 52;
  static constexpr double ln2_hi = 0x1.62e42fefa39efp-1, ln2_lo = 2.3190468138462996e-17;
  static constexpr double log2e_hi = 0x1.71547652b82fep0, log2e_lo = 2.0355273740931033e-17;
  static constexpr double exp_min = -746, exp_max = 710, exp2_min = -1076, exp2_max = 1025, expm1_min = -38;
  static constexpr double tanh_max = 20, tiny = 0x1p-54, correction_limit = 0x1p60;
  static constexpr bool tanh_corrected = true;
  static constexpr double min_normal = 0x1p-1022, subnormal_scale = 0x1p54, subnormal_bits = 54;
  static constexpr std::int64_t sqrt_half_bits = 0x3fe6a09e667f3bcd;
  // (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, relative to e^r and to e^r - 1; (2^r - 1) / r on |r| <= 1/2.
  static constexpr double exp_poly[] = {0.49999999999999983,    0.16666666666666211,    0.041666666666613165,
                                        0.0083333333336330605,  0.0013888888925014044,  0.00019841269192950834,
                                        2.4801510139344696e-05, 2.7557875035442805e-06, 2.7624757601055996e-07,
                                        2.490671365259849e-08};
  static constexpr double expm1_poly[] = {0.5,
                                          0.16666666666666677,
                                          0.041666666666666602,
                                          0.0083333333333214712,
                                          0.0013888888888928333,
                                          0.00019841269886447537,
                                          2.480158722754041e-05,
                                          2.7557243943457765e-06,
                                          2.7557361980285237e-07,
                                          2.5109114724115248e-08,
                                          2.0886571094445199e-09};
  static constexpr double exp2_poly[] = {0.69314718055994529,    0.24022650695910069,    0.05550410866482295,
                                         0.0096181291076295992,  0.0013333558146159863,  0.00015403530391221599,
                                         1.5252734041783236e-05, 1.3215488580835712e-06, 1.0177983417857839e-07,
                                         7.054239354941898e-09,  4.4658873455370468e-10, 2.6633733840973865e-11};
  // With s = f / (2 + f), z = s^2: (log(1 + f) - 2s) / s^3, and after the term 2/3 s^3 the rest by s^5.
  static constexpr double log_poly[] = {0.6666666666666734,  0.39999999999417019, 0.28571428741904431,
                                        0.22222198619814679, 0.18183562032072667, 0.15314106324436899,
                                        0.14795418112427214};
  static constexpr double log_rest_poly[] = {0.40000000000000002, 0.28571428571427088, 0.22222222222620724,
                                             0.18181818124356205, 0.15384620344019809, 0.13333065727151283,
                                             0.11773762788427267, 0.10341273915420282, 0.11568048422540736};
  static constexpr double sin_poly[] = {-0.16666666666666632,   0.0083333333333224877,   -0.00019841269829855163,
                                        2.7557313705724471e-06, -2.5050759992898205e-08, 1.589689237837315e-10};
  static constexpr double cos_poly[] = {0.041666666666666602,    -0.001388888888887448,  2.4801587289677192e-05,
                                        -2.7557314402796595e-07, 2.0875729517274676e-09, -1.1359945671842755e-11};
  static constexpr double atan_poly[] = {-0.33333333333333198,  0.19999999999953605,   -0.14285714280189102,
                                         0.11111110782864712,   -0.090908977375899522, 0.076920598348858102,
                                         -0.066630996814102561, 0.058478579943221011,  -0.050391679470449389,
                                         0.03806123094386215,   -0.017903745063094612};
  static constexpr double asin_poly[] = {0.16666666666665383,  0.075000000003390091,  0.044642856828452822,
                                         0.030381959087871727, 0.022371759908364295,  0.01735966982449209,
                                         0.013885627905091489, 0.012166416399836878,  0.0065407336430383404,
                                         0.019492056167328794, -0.016166016595570997, 0.031871691891942215};
  static constexpr double cbrt_poly[] = {0.50698077649146411, 0.7181335897115797, -0.3005731550352253,
                                         0.086066291605443906, -0.010598497512566465};
  // erf(x) / x - 1 in x^2 on [0, 1].
  static constexpr double erf_poly[] = {0.12837916709551259,     -0.37612638903183876,    0.11283791670958743,
                                        -0.026866170645619539,   0.0052239776290956578,   -0.00085483271896066339,
                                        0.00012055337777811536,  -1.4925738504223073e-05, 1.6463087095203242e-06,
                                        -1.6370638295448202e-07, 1.4786548451873052e-08,  -1.1830590606600502e-09,
                                        6.6848310755803017e-11};
  // (1 + 2x) e^(x^2) erfc(x) in t = (x - 4) / (x + 4), for x in [1/2, 28].
  static constexpr double erfc_first = 1.2329951186255526;  // the rest of the polynomial by t
  static constexpr double erfc_poly[] = {
      -0.1396211168405625,     0.015379652102613044,    0.068097054254690786,    -0.10103906603601183,
      0.093732834998431061,    -0.066330365818130774,   0.037167515535771363,    -0.016197733991236699,
      0.0050319699982863796,   -0.00075777374724395594, -0.00019925684226944668, 0.00015062371044259238,
      -2.439852265758543e-05,  -1.1227965842456925e-05, 5.7075964953317217e-06,  3.0514415185803682e-07,
      -8.2109993110504598e-07, 6.0999322824574867e-08,  1.0453808966646956e-07,  -8.5478454372501749e-09,
      -1.0092995868498699e-08, -9.6543560240298922e-10};
  // (sinh(x) / x - 1) / x^2 in x^2: Taylor's series, for |x| < 1.
  static constexpr double sinh_poly[] = {0.16666666666666666,    0.008333333333333333,   0.0001984126984126984,
                                         2.7557319223985893e-06, 2.505210838544172e-08,  1.6059043836821613e-10,
                                         7.647163731819816e-13,  2.8114572543455206e-15, 8.22063524662433e-18};
  static constexpr double half_pi_hi = 0x1.921fb54442d18p0, half_pi_lo = 6.123233995736766e-17;
  static constexpr double pi_hi = 0x1.921fb54442d18p1, pi_lo = 1.2246467991473532e-16;

  /// By the same trick as in reduce_exp: cheap everywhere, for |k| < 2^51.
  template <class I>
  static auto integer_to_float(I k) {
    return as_float(k + magic_bits) - magic;
  }

  /// log(1 + f) - f: with s = f / (2 + f), log(1 + f) = 2s + s^3 p(s^2) = f - f^2/2 + s (f^2/2 + s^2 p(s^2)).
  template <class V>
  static V log1p_tail(V f) {
    V s = f / (f + 2.0), z = s * s, half = f * f * 0.5;
    return fma(s, fma(z, polynomial(z, log_poly), half), -half);
  }

  // ---- sin, cos, tan ----

  static constexpr double huge_angle = 0x1p20;
  template <class V, class I>
  struct Angle {  // hi + lo + quadrant * pi/2, |hi| <= pi/4
    V hi, lo;
    I quadrant;
    template <class F>
    Angle map(F f) const {
      return {f(hi), f(lo), f(quadrant)};
    }
  };

  /// pi/2 in three parts, of which the first two have 33 bits so that their products with n < 2^20 are exact.
  template <class V>
  static auto reduce_moderate(V x) {
    constexpr double p1 = 0x1.921fb544p0, p2 = 0x1.0b4611a6p-34, p3 = 2.0222662487959506e-21;
    V t = fma(x, 0.6366197723675814, magic), n = t - magic;
    V a = fma(n, -p1, x), w = n * p2;
    V d = a - w, back = d - a;
    V error = (a - (d - back)) - (w + back);
    V rest = fma(n, -p3, error);
    V hi = d + rest;
    return Angle<V, decltype(as_int(t))>{hi, (d - hi) + rest, as_int(t)};
  }

  /// Payne and Hanek: |x| = m 2^e times the bits of 2/pi from weight 2^(1 - e) on, modulo 4, in integers.
  template <class V>
  static auto reduce_huge(V x) {
    auto huge = abs(x) >= huge_angle;
    static constexpr std::uint64_t two_over_pi[] = {
        0x0000000000000000, 0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041, 0xfe5163abdebbc561,
        0xb7246e3a424dd2e0, 0x06492eea09d1921c, 0xfe1deb1cb129a73e, 0xe88235f52ebb4484, 0xe99c7026b45f7e41,
        0x3991d639835339f4, 0x9c845f8bbdf9283b, 0x1ff897ffde05980f, 0xef2f118b5a0a6d1f, 0x6d367ecf27cb09b7,
        0x4f463f669e5fea2d, 0x7527bac7ebe5f17b, 0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08, 0x56033046fc7b6bab};
    auto bits = as_int(x);
    auto m = as_unsigned((bits & 0xfffffffffffff) | 0x10000000000000);
    using U = decltype(m);
    // The table begins with 64 zero bits; x = m 2^(exponent - 1075).
    auto start = select(huge, (shr(bits, 52) & 2047) - 1013, like(bits, 0));
    auto word = shr(start, 6);
    std::array<U, 20> w;
    for (std::size_t i = 0; i < 20; ++i) w[i] = like(m, two_over_pi[i]);
    for (std::size_t step = 16; step > 0; step /= 2) {
      auto set = (word & static_cast<std::int64_t>(step)) != 0;
      for (std::size_t j = 0; j < 3 + step && j + step < 20; ++j) w[j] = select(set, w[j + step], w[j]);
    }
    auto shift = as_unsigned(start & 63);
    U back = like(m, std::uint64_t{64}) - shift;
    for (std::size_t i = 0; i < 3; ++i) w[i] = shl(w[i], shift) | shr(w[i + 1], back);
    U low = m * w[1], mid = low + mulhi(m, w[2]);
    U high = m * w[0] + mulhi(m, w[1]) + select(mid < low, like(m, std::uint64_t{1}), like(m, std::uint64_t{0}));
    // high * 2^-62 + mid * 2^-126, modulo 4: the nearest integer, then a signed fraction.
    U quadrant = shr(high + (std::uint64_t{1} << 61), std::uint64_t{62});
    auto fraction = as_signed(high - shl(quadrant, std::uint64_t{62}));
    V a = to_float(shr(fraction, 32)) * 0x1p-30, b = to_float(fraction & 0xffffffff) * 0x1p-62;
    V c = to_float(as_signed(shr(mid, std::uint64_t{11}))) * 0x1p-115;
    V s = a + b, e = ((a - s) + b) + c;
    V h = s + e, l = (s - h) + e;
    V hi = h * half_pi_hi;
    V lo = fma(h, half_pi_hi, -hi) + fma(h, half_pi_lo, l * half_pi_hi);
    auto q = as_signed(quadrant);
    auto negative = x < 0.0;
    return Angle<V, decltype(q)>{select(negative, -hi, hi), select(negative, -lo, lo),
                                 select(negative, like(q, 0) - q, q)};
  }

  template <class V, class I>
  struct SinCos {
    V sin, cos;  // of the angle without its quadrant
    I quadrant;
  };
  template <class V>
  static auto sin_cos(V x) {
    auto huge = abs(x) >= huge_angle;
    auto near = reduce_moderate(x);
    auto far = rarely(huge, x, [](const V& a) { return reduce_huge(a); }, near);
    V h = select(huge, far.hi, near.hi), l = select(huge, far.lo, near.lo);
    auto q = select(huge, far.quadrant, near.quadrant);
    V z = h * h, half = z * 0.5, w = V(1.0) - half;
    V s = h + fma(h * z, polynomial(z, sin_poly), l * fma(z, -0.5, 1.0));
    V c = w + (((V(1.0) - w) - half) + fma(z * z, polynomial(z, cos_poly), -(h * l)));
    return SinCos<V, decltype(q)>{s, c, q};
  }
  /// Result of sin for a quadrant; infinities give NaN.
  template <class V, class W, class I>
  static V turn(V x, SinCos<W, I> a) {
    V r = select((a.quadrant & 1) != 0, a.cos, a.sin);
    r = select((a.quadrant & 2) != 0, -r, r);
    return select(abs(x) < infinity, r, x - x);
  }
  template <class V>
  static V sin(V x) {
    return select(abs(x) < 0x1p-28, x, turn(x, sin_cos(x)));
  }
  template <class V>
  static V cos(V x) {
    auto a = sin_cos(x);
    a.quadrant = a.quadrant + 1;
    return turn(x, a);
  }
  template <class V, class W, class I>
  static V tan_of(V x, SinCos<W, I> a) {
    auto odd = (a.quadrant & 1) != 0;
    V r = select(odd, -a.cos, a.sin) / select(odd, a.sin, a.cos);
    return select(abs(x) < infinity, r, x - x);
  }
  template <class V>
  static V tan(V x) {
    return select(abs(x) < 0x1p-28, x, tan_of(x, sin_cos(x)));
  }

  // ---- inverse trigonometric functions ----

  /// atan(n / d) for n, d >= 0 and at most 2^1020: the angle is turned by 0, pi/4 or pi/2 to below pi/8.
  template <class V>
  static V atan_ratio(V n, V d) {
    constexpr double tan1 = 0.4142135623730951, tan3 = 2.414213562373095;
    auto above1 = n > d * tan1, above3 = n > d * tan3;
    V num = select(above3, -d, select(above1, n - d, n)), den = select(above3, n, select(above1, n + d, d));
    V hi = select(above3, like(n, half_pi_hi), select(above1, like(n, half_pi_hi / 2), like(n, 0.0)));
    V lo = select(above3, like(n, half_pi_lo), select(above1, like(n, half_pi_lo / 2), like(n, 0.0)));
    V t = num / den, z = t * t;
    return hi + (t + fma(t * z, polynomial(z, atan_poly), lo));
  }
  template <class V>
  static V atan(V x) {
    return copysign(atan_ratio(abs(x), like(x, 1.0)), x);
  }
  template <class V>
  static V atan2(V y, V x) {
    V n = abs(y), d = abs(x);
    V scale = select((n > 0x1p1000) | (d > 0x1p1000), like(n, 0x1p-8), like(n, 1.0));
    auto both_infinite = (n == infinity) & (d == infinity);
    auto both_zero = (n == 0.0) & (d == 0.0);
    n = select(both_infinite, 1.0, n * scale);
    d = select(both_infinite | both_zero, 1.0, d * scale);
    V r = atan_ratio(n, d);
    return copysign(select(as_int(x) < 0, V(pi_hi) - (r - pi_lo), r), y);
  }

  /// For |x| > 1/2 with z = (1 - |x|) / 2: asin = pi/2 - 2 asin(sqrt z), acos = 2 asin(sqrt z).
  template <class V, class Flag>
  struct ArcSine {
    Flag large;
    V s, w;  // asin(s) = s + w, with s = |x| or sqrt z
  };
  template <class V>
  static auto arc_sine(V x) {
    V a = abs(x);
    auto large = a > 0.5;
    V z = select(large, (V(1.0) - a) * 0.5, a * a);
    V s = select(large, sqrt(z), a);
    return ArcSine<V, decltype(large)>{large, s, s * z * polynomial(z, asin_poly)};
  }
  template <class V>
  static V asin(V x) {
    auto a = arc_sine(x);
    V twice = a.s * 2.0, h = V(half_pi_hi) - twice, lost = (V(half_pi_hi) - h) - twice;
    return copysign(select(a.large, h + (lost - fma(a.w, 2.0, -half_pi_lo)), a.s + a.w), x);
  }
  template <class V>
  static V acos(V x) {
    auto a = arc_sine(x);
    V twice = (a.s + a.w) * 2.0;
    V small = V(half_pi_hi) - (x - (V(half_pi_lo) - copysign(a.w, x)));
    return select(a.large, select(x < 0.0, V(pi_hi) - (twice - pi_lo), twice), small);
  }

  // ---- hyperbolic functions ----

  template <class V>
  static V sinh(V x) {
    V a = abs(x);
    auto [p, k] = exp_parts(select(a > 711.0, 711.0, a));
    V t = expm1_scaled(select(a > 22.0, 22.0, a), 0), z = x * x;
    V large = copysign(select(a > 22.0, ldexp(p, k - 1), (t + t / (t + 1.0)) * 0.5), x);
    return select(a < 1.0, fma(x * z, polynomial(z, sinh_poly), x), large);
  }
  template <class V>
  static V cosh(V x) {
    V a = abs(x);
    auto [p, k] = exp_parts(select(a > 711.0, 711.0, a));
    V h = ldexp(p, k - 1);
    return h + V(0.25) / h;
  }
  /// log(1 + w) or, where `large`, log(x) + ln 2.
  template <class V, class Flag>
  static V log_one_plus(V w, V x, Flag large) {
    V sum = w + 1.0;
    V c = select(w < 1.0, w - (sum - 1.0), V(1.0) - (sum - w));
    V u = select(large, x, sum);
    V y = log_with_correction(u, select(large, 0.0, c), select(large, like(x, 1.0), like(x, 0.0)));
    return select(u < infinity, y, u);
  }
  template <class V>
  static V asinh(V x) {
    V a = abs(x), q = a * a;
    V w = a + q / (sqrt(q + 1.0) + 1.0);
    V y = log_one_plus(w, a, a > 0x1p28);
    return copysign(select(a < 0x1p-28, a, y), x);
  }
  template <class V>
  static V acosh(V x) {
    V t = x - 1.0;
    V y = log_one_plus(t + sqrt(fma(t, t, t * 2.0)), x, x > 0x1p28);
    return select(x < 1.0, not_a_number, y);
  }
  template <class V>
  static V atanh(V x) {
    V a = abs(x), w = a * 2.0 / (V(1.0) - a);
    V sum = w + 1.0;
    V c = select(w < 1.0, w - (sum - 1.0), V(1.0) - (sum - w));
    V y = log_domain(sum, log_with_correction(sum, c, V(0.0))) * 0.5;
    return copysign(select(a < 0x1p-28, a, y), x);
  }

  // ---- erf ----

  template <class V>
  static V erf_small(V x) {
    return fma(x, polynomial(x * x, erf_poly), x);
  }
  /// erfc(a) for a >= 1/2 (0 above 28): e^(-a^2) with the rounding error of a^2 put into the exponential's argument.
  template <class V>
  static V erfc_tail(V a) {
    a = select(a > 28.0, 28.0, a);
    V t = (a - 4.0) / (a + 4.0);
    V square = a * a, low = fma(a, a, -square);
    auto [r, k] = reduce_exp(-square);
    V u = t * polynomial(t, erfc_poly), g = u + erfc_first, g_lo = (V(erfc_first) - g) + u, e = r - low;
    V h = e * fma(e, polynomial(e, exp_poly), 1.0);
    // (g + g_lo) (1 + h) / (1 + 2a), with what each rounding lost.
    V p = fma(g, h, g), p_lo = fma(g, h, g - p) + g_lo;
    V d = fma(a, 2.0, 1.0), d_lo = fma(a, 2.0, -d) + 1.0;
    V q = p / d;
    return ldexp(q + (fma(-q, d, p) + fma(-q, d_lo, p_lo)) / d, k);
  }
  template <class V>
  static V erf(V x) {
    V a = abs(x);
    return select(a < 1.0, erf_small(x), copysign(V(1.0) - erfc_tail(a), x));
  }
  template <class V>
  static V erfc(V x) {
    V a = abs(x), tail = erfc_tail(a);
    return select(a < 0.75, V(1.0) - erf_small(x), select(x < 0.0, V(2.0) - tail, tail));
  }

  // ---- powers ----

  /// x = m 2^(3q + j): a polynomial for the root of m, a step of Halley's method, one of Newton's with the exact
  /// residual.
  template <class V>
  static V cbrt(V x) {
    V a = abs(x);
    auto below = a < min_normal;
    auto bits = as_int(select(below, a * subnormal_scale, a));
    V m = as_float((bits & 0xfffffffffffff) | 0x3ff0000000000000);
    V e = integer_to_float(shr(bits, 52) - 1023);
    V q = floor((e + 0.5) * 0.3333333333333333);
    V j = e - q * 3.0;
    V c = m * select(j == 0.0, like(m, 1.0), select(j == 1.0, like(m, 2.0), like(m, 4.0)));
    V y = polynomial(m, cbrt_poly) *
          select(j == 0.0, like(m, 1.0), select(j == 1.0, like(m, 1.2599210498948732), like(m, 1.5874010519681994)));
    V cube = y * y * y;
    y = y * (cube + c * 2.0) / (cube * 2.0 + c);
    V square = y * y, low = fma(y, y, -square);
    V residual = fma(-y, square, c) - y * low;
    y = y + residual / (square * 3.0);
    V scaled = ldexp(y, as_int(q + magic) - magic_bits) * select(below, like(m, 0x1p-18), like(m, 1.0));
    return select((a < infinity) & (a > 0.0), copysign(scaled, x), x + x);
  }

  template <class V>
  struct Pair {  // hi + lo
    V hi, lo;
  };
  /// log2(a) to about 64 bits, for finite a > 0, in pairs of doubles: log((1+s)/(1-s)) = 2s + s^3 (2/3 + s^2 t(s^2)).
  template <class V>
  static Pair<V> log2_pair(V a) {
    constexpr double c_hi = 0x1.5555555555555p-1, c_lo = 3.700743415417188e-17;
    auto [f, k, k_int] = split(a);
    V t = f + 2.0, t_lo = f - (t - 2.0), inverse = V(1.0) / t;
    V s = f * inverse, s_lo = fma(-s, t_lo, fma(-s, t, f)) * inverse;
    V z = s * s, z_lo = fma(s, s, -z) + s * s_lo * 2.0;
    V rest = z * polynomial(z, log_rest_poly);
    V c = rest + c_hi, c_rest = ((V(c_hi) - c) + rest) + c_lo;
    V q = z * c, q_lo = fma(z, c, -q) + fma(z, c_rest, z_lo * c);
    V u = s * q, u_lo = fma(s, q, -u) + fma(s, q_lo, s_lo * q);
    V twice = s * 2.0;
    V l = twice + u, l_lo = ((twice - l) + u) + fma(s_lo, 2.0, u_lo);
    V b = l * log2e_hi, b_lo = fma(l, log2e_hi, -b) + fma(l, log2e_lo, l_lo * log2e_hi);
    V hi = k + b;
    return {hi, ((k - hi) + b) + b_lo};
  }
  /// x^y given log2|x|, with the special cases of C99.
  template <class V>
  static V pow_of_log(V x, V y, Pair<V> log) {
    V a = abs(x);
    V l = select(a == 0.0, -infinity, select(a < infinity, log.hi, a));
    V p = y * l, p_lo = fma(y, l, -p) + y * log.lo;
    p_lo = select(abs(p) < 2000.0, p_lo, 0.0);
    p = clamp(p, -1200.0, 1200.0);
    V t = p + magic, r = (p - (t - magic)) + p_lo;
    V power = ldexp(fma(r, polynomial(r, exp2_poly), 1.0), as_int(t) - magic_bits);
    power = select(a == 1.0, 1.0, power);
    V half = y * 0.5;
    auto integer = floor(y) == y, odd = integer & (floor(half) != half);
    power = select((as_int(x) < 0) & odd, -power, power);
    power = select((x < 0.0) & (a < infinity) & !integer, not_a_number, power);
    power = select((x != x) | (y != y), not_a_number, power);
    return select((x == 1.0) | (y == 0.0), 1.0, power);
  }
  template <class V>
  static V pow(V x, V y) {
    return pow_of_log(x, y, log2_pair(abs(x)));
  }
};

}  // namespace ag::loop::math

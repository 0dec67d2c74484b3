// References for the elementary functions, and distances in units of the last place.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "ir/loop/elementwise.hpp"

namespace ag::test {

/// Wide enough that its own error does not count: double for float, 80-bit long double for double.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;

/// |got - want| in units of the last place of `want` as a T. Beyond the largest finite T everything is 2^max.
template <class T>
double ulp_error(T got, Wide<T> want) {
  using W = Wide<T>;
  using L = std::numeric_limits<T>;
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got) ? 0 : 1e30;
  const W top = std::ldexp(W(1), L::max_exponent);
  auto clamp = [&](W x) { return x > top ? top : x < -top ? -top : x; };
  W g = clamp(W(got)), w = clamp(want);
  int e = w == 0 ? L::min_exponent : std::max(std::ilogb(w) + 1, L::min_exponent);
  return static_cast<double>(std::ldexp(std::fabs(g - w), L::digits - e));
}

struct Function {
  loop::Op op;
  double (*f)(double);
  long double (*fl)(long double);
  double max_ulp_f32, max_ulp_f64;
  bool everywhere = false;  ///< what networks and optimisers call: tested on many more values
};
inline double wide_rsqrt(double x) { return 1 / std::sqrt(x); }
inline long double wide_rsqrtl(long double x) { return 1 / std::sqrt(x); }
inline double wide_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline long double wide_sigmoidl(long double x) { return 1 / (1 + std::exp(-x)); }

inline const std::vector<Function>& functions() {
  using loop::Op;
  static const std::vector<Function> table = {
      {Op::exp, std::exp, std::exp, 2, 2, true},       {Op::exp2, std::exp2, std::exp2, 2, 2, true},
      {Op::expm1, std::expm1, std::expm1, 2, 2, true}, {Op::log, std::log, std::log, 2, 2, true},
      {Op::log2, std::log2, std::log2, 2, 2, true},    {Op::log1p, std::log1p, std::log1p, 2, 2, true},
      {Op::tanh, std::tanh, std::tanh, 2, 2, true},    {Op::sigmoid, wide_sigmoid, wide_sigmoidl, 3, 3, true},
      {Op::erf, std::erf, std::erf, 2, 2, true},       {Op::erfc, std::erfc, std::erfc, 2, 2},
      {Op::sin, std::sin, std::sin, 2, 2, true},       {Op::cos, std::cos, std::cos, 2, 2, true},
      {Op::tan, std::tan, std::tan, 2, 2.5},           {Op::asin, std::asin, std::asin, 2, 2},
      {Op::acos, std::acos, std::acos, 2, 2},          {Op::atan, std::atan, std::atan, 2, 2},
      {Op::sinh, std::sinh, std::sinh, 2, 2},          {Op::cosh, std::cosh, std::cosh, 2, 2},
      {Op::asinh, std::asinh, std::asinh, 2, 2},       {Op::acosh, std::acosh, std::acosh, 2, 2},
      {Op::atanh, std::atanh, std::atanh, 2, 2.5},     {Op::rsqrt, wide_rsqrt, wide_rsqrtl, 2, 2, true},
      {Op::cbrt, std::cbrt, std::cbrt, 2, 2},
  };
  return table;
}

/// Every `stride`th bit pattern, and the values where functions change their ways.
inline std::vector<float> floats(std::uint32_t stride) {
  std::vector<float> out;
  for (std::uint64_t b = 0; b < (std::uint64_t{1} << 32); b += stride) {
    auto u = static_cast<std::uint32_t>(b);
    float x;
    std::memcpy(&x, &u, 4);
    out.push_back(x);
  }
  for (double d : {0.0,      1.0,         0.5,      2.0,        3.0,   10.0,      88.72283,    88.8,       103.97,
                   104.0,    127.0,       128.0,    149.0,      150.0, 1e-45,     1e-38,       0.70710677, 1.4142135,
                   0.693147, 0.785398,    1.570796, 3.14159274, 1e5,   1e10,      1.0737418e9, 1e30,       3.4028235e38,
                   8.3886e6, 1.6777216e7, 9.0,      4.0,        3.9,   0.9999999, 1.0000001,   5.9e-8,     2.9e-8})
    for (int s : {-1, 1})
      for (int step = -2; step <= 2; ++step) {
        float x = static_cast<float>(s * d);
        for (int i = 0; i < std::abs(step); ++i) x = std::nextafter(x, step < 0 ? -HUGE_VALF : HUGE_VALF);
        out.push_back(x);
      }
  for (float x : {-0.0f, HUGE_VALF, -HUGE_VALF, std::nanf("")}) out.push_back(x);
  return out;
}

/// For each exponent `per_exponent` significands of each sign, more where functions change.
inline std::vector<double> doubles(int per_exponent) {
  std::vector<double> out;
  std::uint64_t state = 0x9e3779b97f4a7c15;
  auto next = [&state] {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
  };
  for (int e = 0; e < 2047; ++e) {
    int n = e > 1000 && e < 1040 ? 50 * per_exponent : per_exponent;
    for (int i = 0; i < n; ++i) {
      std::uint64_t bits = (next() & 0x800fffffffffffff) | (static_cast<std::uint64_t>(e) << 52);
      double x;
      std::memcpy(&x, &bits, 8);
      out.push_back(x);
    }
  }
  for (double d : {0.0,
                   1.0,
                   0.5,
                   2.0,
                   709.78,
                   745.1,
                   745.2,
                   1022.0,
                   1023.0,
                   1024.0,
                   1074.0,
                   1075.0,
                   0.7071067811865475,
                   1.4142135623730951,
                   1.5707963267948966,
                   3.141592653589793,
                   0.7853981633974483,
                   1048576.0,
                   1e22,
                   26.5,
                   27.2,
                   28.0,
                   1.1e-16,
                   5.5e-17,
                   22.0,
                   710.4,
                   4.9e-324,
                   2.2250738585072014e-308,
                   6381956970095103.0 * 0x1p797})
    for (int s : {-1, 1})
      for (int step = -2; step <= 2; ++step) {
        double x = s * d;
        for (int i = 0; i < std::abs(step); ++i) x = std::nextafter(x, step < 0 ? -HUGE_VAL : HUGE_VAL);
        out.push_back(x);
      }
  for (double x : {-0.0, HUGE_VAL, -HUGE_VAL, std::nan("")}) out.push_back(x);
  return out;
}

template <class T>
std::vector<T> apply(loop::Op op, DType t, const std::vector<T>& x, const std::vector<T>& y = {}) {
  std::vector<T> out(x.size());
  loop::ElemFn fn = loop::math_fn(op, t);
  fn({out.data(), {x.data(), y.empty() ? nullptr : y.data()}, {1, 1}, static_cast<std::ptrdiff_t>(x.size())});
  return out;
}

}  // namespace ag::test

#include "ir/random.hpp"

#include <cmath>

namespace ag {
namespace {

/// Natural logarithm of x in (0, 1), normal. x = m 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s) with
/// s = (m-1)/(m+1), |s| < 0.172: eleven terms of the series leave less than 2^-58.
double log_unit(double x) {
  int e = 0;
  double m = std::frexp(x, &e);  // exact
  if (m < 0.70710678118654752) {
    m *= 2;
    --e;
  }
  double s = (m - 1) / (m + 1), q = s * s, sum = 0;
  for (int k = 21; k >= 1; k -= 2) sum = sum * q + 1.0 / k;
  return e * 0.693147180559945309 + 2 * s * sum;
}

/// cos and sin of 2 pi u for u in [0, 1]: the nearest quarter turn is taken off exactly, the rest, at most pi/4, goes
/// through the Taylor series (to degree 18 and 19: below 2^-60).
void cos_sin_turn(double u, double& c, double& s) {
  double quarters = std::floor(u * 4 + 0.5);
  double a = (u * 4 - quarters) * 1.57079632679489662, q = a * a, cosine = 0, sine = 0;
  for (int k = 18; k >= 2; k -= 2) {
    cosine = (1 + cosine) * (-q / (k * (k - 1)));
    sine = (1 + sine) * (-q / (k * (k + 1)));
  }
  cosine += 1;
  sine = a * (1 + sine);
  switch (static_cast<int>(quarters) & 3) {
    case 0: c = cosine, s = sine; break;
    case 1: c = -sine, s = cosine; break;
    case 2: c = -cosine, s = -sine; break;
    default: c = sine, s = -cosine; break;
  }
}

double unit(std::uint32_t word) { return (word + 0.5) * 0x1p-32; }

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::uint64_t key, std::uint64_t counter) {
  std::array<std::uint32_t, 4> x{static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), 0, 0};
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    std::uint64_t a = std::uint64_t{0xD2511F53u} * x[0], b = std::uint64_t{0xCD9E8D57u} * x[2];
    x = {static_cast<std::uint32_t>(b >> 32) ^ x[1] ^ k0, static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ x[3] ^ k1, static_cast<std::uint32_t>(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return x;
}

std::optional<Distribution> parse_distribution(std::string_view name) {
  if (name == "normal") return Distribution::normal;
  if (name == "uniform") return Distribution::uniform;
  return std::nullopt;
}

void fill_random(Array& a, Distribution distribution, double scale, std::uint64_t key) {
  for (std::int64_t i = 0; i < a.elems(); i += 4) {
    auto words = philox4x32(key, static_cast<std::uint64_t>(i) / 4);
    double v[4];
    if (distribution == Distribution::uniform) {
      for (int j = 0; j < 4; ++j) v[j] = (2 * unit(words[j]) - 1) * scale;
    } else {
      for (int j = 0; j < 4; j += 2) {
        double radius = std::sqrt(-2 * log_unit(unit(words[j]))) * scale, c = 0, s = 0;
        cos_sin_turn(unit(words[j + 1]), c, s);
        v[j] = radius * c;
        v[j + 1] = radius * s;
      }
    }
    for (std::int64_t j = 0; j < 4 && i + j < a.elems(); ++j) a.set_double(i + j, v[j]);
  }
}

}  // namespace ag

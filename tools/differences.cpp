#include "tools/differences.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace ag::tools {
namespace {

/// "2, 0, 1" of a flat index.
std::string index_text(std::int64_t flat, const std::vector<std::int64_t>& shape) {
  std::string out;
  for (std::size_t d = shape.size(); d-- > 0; flat /= shape[d]) {
    out = std::to_string(flat % shape[d]) + (out.empty() ? "" : ", ") + out;
  }
  return out;
}

}  // namespace

Tolerance default_tolerance(DType t) {
  switch (t) {
    case DType::f64: return {1e-10, 1e-10};
    case DType::f32: return {2e-5, 2e-5};
    case DType::f16: return {4e-3, 4e-3};
    case DType::bf16: return {3e-2, 3e-2};
    default: return {0, 0};
  }
}

std::string compare_arrays(const Array& got, const Array& want, Tolerance t) {
  if (got.shape() != want.shape()) return "the shapes differ";
  double scale = 0;
  for (std::int64_t i = 0; i < want.elems(); ++i)
    if (double w = std::abs(want.get_double(i)); std::isfinite(w)) scale = std::max(scale, w);
  std::int64_t bad = 0;
  double worst_abs = 0, worst_rel = 0;
  std::string first;
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double g = got.get_double(i), w = want.get_double(i);
    if (g == w || (std::isnan(g) && std::isnan(w))) continue;
    double diff = std::abs(g - w);
    if (std::isfinite(w) && diff <= t.relative * std::abs(w) + t.absolute * scale) continue;
    worst_abs = std::max(worst_abs, diff);
    worst_rel = std::max(worst_rel, diff / std::abs(w));
    if (++bad > 5) continue;
    first += fmt::format("\n    [{}]  got {}  expected {}", index_text(i, want.shape()), g, w);
  }
  if (!bad) return {};
  return fmt::format("{} of {} elements differ: at most {:.3g} absolute, {:.3g} relative{}", bad, want.elems(),
                     worst_abs, worst_rel, first);
}

void GradientLine::add(std::int64_t index, double analytic_value, double numeric_value, double scale) {
  double error = std::abs(numeric_value - analytic_value) / scale;
  if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
  if (checked++ > 0 && error <= worst) return;
  worst = error;
  worst_index = index;
  analytic = analytic_value;
  numeric = numeric_value;
}

std::string gradient_table(const std::vector<GradientLine>& lines, double tolerance) {
  std::size_t name = 8, type = 4, checked = 7;
  std::vector<std::string> counts;
  for (const GradientLine& l : lines) {
    counts.push_back(fmt::format("{}/{}", l.checked, l.elems));
    name = std::max(name, l.name.size());
    type = std::max(type, l.type.size());
    checked = std::max(checked, counts.back().size());
  }
  std::string out = fmt::format("  {:<{}}  {:<{}}  {:>{}}  {:>11}  {:>16}  {:>16}\n", "variable", name, "type", type,
                                "checked", checked, "worst error", "analytic", "numeric");
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const GradientLine& l = lines[i];
    bool good = l.good(tolerance);
    out += fmt::format("  {:<{}}  {:<{}}  {:>{}}  {:>11.1e}  {:>16.9g}  {:>16.9g}  {}\n", l.name, name, l.type, type,
                       counts[i], checked, l.worst, l.analytic, l.numeric,
                       good ? std::string("ok") : fmt::format("WRONG at element {}", l.worst_index));
  }
  return out;
}

}  // namespace ag::tools

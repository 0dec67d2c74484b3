// Comparison of numbers: results against a reference, gradients against difference quotients.
#pragma once
#include <string>
#include <vector>

#include "ir/array.hpp"

namespace ag::tools {

struct Tolerance {
  double relative, absolute;
};
/// What results of a dtype may differ from the interpreter's. The absolute part scales with the largest reference
/// element. Integers and booleans must agree.
Tolerance default_tolerance(DType t);

/// Empty if all elements agree (any NaN agrees with any NaN), else a report: how many differ, by how much, and the
/// first five with their indices.
std::string compare_arrays(const Array& got, const Array& want, Tolerance t);

/// The elements of one variable's gradient that were compared with difference quotients.
struct GradientLine {
  std::string name, type;
  std::int64_t elems = 0, checked = 0;
  std::int64_t worst_index = 0;             ///< flat index of the element that agrees least
  double worst = 0, analytic = 0, numeric = 0;

  /// Errors are relative to `scale`, the largest element of the gradient. What is no finite number is infinitely wrong.
  void add(std::int64_t index, double analytic_value, double numeric_value, double scale);
  bool good(double tolerance) const { return checked > 0 ? worst <= tolerance : elems == 0; }
};

/// One line a variable, in aligned columns, with a heading.
std::string gradient_table(const std::vector<GradientLine>& lines, double tolerance);

}  // namespace ag::tools

#include "passes/inner_tile.hpp"

#include <algorithm>

namespace ag::passes {
namespace {

/// Rows of unknown number are taken to be many, and to come in multiples of 8.
constexpr std::int64_t many_rows = 96, many_columns = 4;
constexpr int fma_latency = 4;

double cycles(int rows, int registers) {
  double products = rows * registers, loads = registers + 0.5 * rows;
  return std::max({products, loads, double(fma_latency)}) + 0.05 * loads;
}

double cost(std::int64_t m, std::int64_t n, int rows, int registers) {
  double total = 0;
  auto columns = [&](int r) {
    double full = static_cast<double>(n / registers) * cycles(r, registers);
    return full + (n % registers ? cycles(r, static_cast<int>(n % registers)) : 0);
  };
  total += static_cast<double>(m / rows) * columns(rows);
  if (m % rows) total += columns(static_cast<int>(m % rows)) + 0.5 * static_cast<double>(n);  // another body
  return total;
}

}  // namespace

InnerTile pick_inner_tile(std::optional<std::int64_t> rows, std::optional<std::int64_t> columns, bool sums, int lanes,
                          int vector_registers) {
  if (!sums) return {lanes, 1};
  std::int64_t m = rows.value_or(many_rows), n = columns ? (*columns + lanes - 1) / lanes : many_columns;
  InnerTile best{1, 1};
  double least = 0;
  const int spare = vector_registers >= 32 ? 3 : 1;
  for (int c = 1; c <= 4; ++c)
    for (int r = 1; r * c + c + spare <= vector_registers && r <= 14; ++r) {
      if (!rows && r != 4 && r != 8) continue;
      double now = cost(m, std::max<std::int64_t>(n, 1), r, c);
      if (least == 0 || now < least) best = {r, c}, least = now;
    }
  return best;
}

}  // namespace ag::passes

#include "tools/kernel_times.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

namespace ag::tools {

KernelTimes kernel_times(const runtime::CompileReport& report) {
  std::vector<double> ms;
  for (const runtime::KernelReport& k : report.kernels)
    if (!k.cached) ms.push_back(k.codegen_ms);
  if (ms.empty()) return {};
  std::sort(ms.begin(), ms.end());
  auto at = [&](std::size_t percent) { return ms[(ms.size() - 1) * percent / 100]; };
  return {ms.size(), at(50), at(90), ms.back(), std::accumulate(ms.begin(), ms.end(), 0.0)};
}

}  // namespace ag::tools

// What the kernels of a compilation cost, for reports.
#pragma once
#include <cstddef>

#include "runtime/engine.hpp"

namespace ag::tools {

/// Of the kernels that were compiled, not cached: processor time of a thread for each, in ms.
struct KernelTimes {
  std::size_t compiled = 0;
  double median = 0, p90 = 0, max = 0, sum = 0;
};
KernelTimes kernel_times(const runtime::CompileReport& report);

}  // namespace ag::tools

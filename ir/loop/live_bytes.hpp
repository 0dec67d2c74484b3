// What a memory plan is measured against.
#pragma once
#include <cstdint>
#include <optional>

#include "ir/loop/program.hpp"

namespace ag::loop {

/// The largest sum of bytes (each temp rounded up to the arena's alignment) that are alive at the same step: no plan of
/// this schedule needs less. Nothing if the size of a temp is not a constant or the program's storage is invalid.
std::optional<std::int64_t> peak_live_bytes(const Program& program);

}  // namespace ag::loop

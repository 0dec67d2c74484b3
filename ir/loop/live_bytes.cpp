#include "ir/loop/live_bytes.hpp"

#include <algorithm>
#include <map>

#include "ir/loop/storage.hpp"

namespace ag::loop {

std::optional<std::int64_t> peak_live_bytes(const Program& program) {
  const auto storage = resolve_storage(program);
  if (!storage) return std::nullopt;
  const auto live = live_ranges(program, *storage);
  std::map<std::uint32_t, std::int64_t> change;  // by step
  for (std::size_t i = 0; i < program.buffers.size(); ++i) {
    const ProgramBufferId id(i);
    const ProgramBuffer& b = program.buffers[id];
    if (b.kind != BufferKind::temp || b.place != Place::arena || storage->home[id] != id || live[id].empty()) continue;
    const Dim bytes = ceildiv(byte_size(b), Dim(buffer_alignment)) * Dim(buffer_alignment);
    if (!bytes.is_const()) return std::nullopt;
    change[live[id].first] += bytes.value();
    change[live[id].last + 1] -= bytes.value();
  }
  std::int64_t now = 0, peak = 0;
  for (const auto& [step, bytes] : change) peak = std::max(peak, now += bytes);
  return peak;
}

}  // namespace ag::loop

#include "ir/loop/scratch.hpp"

namespace ag::loop {
namespace {

Dim end_of(const Kernel& kernel, std::size_t count) {
  Dim end;
  for (std::size_t i = 0; i < count; ++i) {
    const Buffer& b = kernel.buffers[i];
    if (b.scope != Scope::scratch) continue;
    end = end + Dim(64) * ceildiv(b.elems * Dim(static_cast<std::int64_t>(dtype_bytes(b.dtype))), Dim(64));
  }
  return end;
}

}  // namespace

Dim scratch_offset(const Kernel& kernel, BufferId b) { return end_of(kernel, b.index); }
Dim scratch_bytes(const Kernel& kernel) { return end_of(kernel, kernel.buffers.size()); }

}  // namespace ag::loop

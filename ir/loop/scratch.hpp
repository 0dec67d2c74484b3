// Where a kernel's scratch buffers lie in the thread's scratch memory.
#pragma once
#include "ir/loop/kernel.hpp"

namespace ag::loop {

/// Byte offset of buffer `b` (Scope::scratch) from KernelArgs::scratch, over Kernel::dims; a multiple of 64.
/// Buffers follow one another in the order of Kernel::buffers.
Dim scratch_offset(const Kernel& kernel, BufferId b);
/// Bytes that one thread needs for the kernel's scratch buffers, over Kernel::dims; a multiple of 64, 0 without any.
Dim scratch_bytes(const Kernel& kernel);

}  // namespace ag::loop

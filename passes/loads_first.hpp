#pragma once
#include "ir/loop/kernel.hpp"
#include "ir/loop/target.hpp"

namespace ag::passes {

/// In straight code, stores behind the loads of other buffers: a load waits for an older store whose address differs by
/// a multiple of 4 KiB, as those of arrays that begin on a page do. Stores keep their order; those of many registers,
/// which would have to be kept meanwhile, stay where they are.
loop::Kernel loads_first(loop::Kernel kernel, const TargetSpec& target);

}  // namespace ag::passes

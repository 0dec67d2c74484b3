// Widens loops mapped to vector and rows into explicit tile values.
#pragma once
#include "ir/loop/kernel.hpp"
#include "ir/loop/target.hpp"

namespace ag::passes {

/// The kernel with every vector loop by lanes and every rows loop by rows: in their bodies a value that depends on
/// the rows loop's iv becomes [R x 1], on the vector loop's iv [1 x C], on both [R x C], on neither it stays a
/// scalar. Indices that are affine in the ivs make load_tile and store_tile, all others gather and scatter. A
/// vector loop gets an unmasked main part and, unless its extent is a known multiple of the width, one masked tail; a
/// rows loop gets a main part and a tail of single rows (of constant extent: of the rows that are left). A vector loop
/// with carried values accumulates in lanes, in `unroll` accumulators; the order is a function of the extent and the
/// loop's attributes alone. Loops that cannot be widened (bounds or a while that differ between lanes, races,
/// reductions that are not recognised) become serial loops by 1.
loop::Kernel vectorise_kernel(const loop::Kernel& kernel, const TargetSpec& target);

}  // namespace ag::passes

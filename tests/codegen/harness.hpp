// Emitted code against the loop interpreter: same buffers, same bits.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ir/loop/builder.hpp"

namespace ag::test {

using Bytes = std::vector<std::uint8_t>;

/// Elements of type t: every pair of interesting values turns up at some place, the rest is random bits.
Bytes sample(DType t, std::size_t count, std::uint64_t seed);

/// The targets that kernels are run for: native (with AVX-512 where the machine has it) and x86-64-v3 (AVX2).
const std::vector<std::string>& targets();

/// Interprets `kernel` and runs its emitted code for every target; buffers that it writes must agree in every bit,
/// but any NaN equals any NaN. `params` holds one per parameter buffer. "" if all agree, else the first difference.
std::string compare(const loop::Kernel& kernel, const std::vector<Bytes>& params,
                    const std::vector<std::int64_t>& dims = {});

}  // namespace ag::test

// Counter-based random numbers: element i of key k is a function of (k, i) alone, on every machine, in any order.
//
// Source: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The counter of
// elements 4b .. 4b+3 is (b mod 2^32, b / 2^32, 0, 0), the key is (k mod 2^32, k / 2^32); word j belongs to element
// 4b + j and stands for u = (word + 1/2) / 2^32, inside (0, 1).
//   uniform  (2 u - 1) * scale, inside (-scale, scale)
//   normal   Box-Muller on the words (0, 1) and (2, 3) of a block, times scale: mean 0, standard deviation scale.
// Values are computed in f64 with +, -, *, / and sqrt alone (own log, sin and cos) and rounded once to the dtype;
// integers truncate.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "ir/array.hpp"

namespace ag {

/// The four words of block `counter` under `key`.
std::array<std::uint32_t, 4> philox4x32(std::uint64_t key, std::uint64_t counter);

enum class Distribution : std::uint8_t { normal, uniform };
std::optional<Distribution> parse_distribution(std::string_view name);  ///< "normal", "uniform"

/// Fills `a` with elements 0, 1, ... of `key`.
void fill_random(Array& a, Distribution distribution, double scale, std::uint64_t key);

}  // namespace ag

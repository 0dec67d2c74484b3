// SHA-256 (FIPS 180-4): names of resources and cache entries by content.
#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace ag {

/// 64 hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> data);

}  // namespace ag

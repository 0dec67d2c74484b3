#include <charconv>

#include "ir/base/sha256.hpp"
#include "ir/loop/text.hpp"

namespace ag::loop {

std::array<std::uint64_t, 2> structural_hash(const Kernel& kernel) {
  // The canonical text determines the machine code, and nothing else does. A cryptographic hash: kernels with equal
  // hashes share machine code, and nobody shall be able to make up two of them.
  std::string text;
  print_kernel(kernel, {.canonical = true}, text);
  const std::string hex = sha256_hex(std::as_bytes(std::span(text)));
  std::array<std::uint64_t, 2> out{};
  for (std::size_t i = 0; i < 2; ++i) std::from_chars(hex.data() + 16 * i, hex.data() + 16 * i + 16, out[i], 16);
  return out;
}

}  // namespace ag::loop

#include "ir/base/sha256.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace ag {
namespace {

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes, found by integer arithmetic.
constexpr std::array<std::uint32_t, 64> round_constants() {
  std::array<std::uint32_t, 64> out{};
  unsigned prime = 1;
  for (std::uint32_t& k : out) {
    for (bool found = false; !found;) {
      ++prime;
      found = true;
      for (unsigned d = 2; d * d <= prime; ++d) found = found && prime % d != 0;
    }
    // floor(cbrt(prime) * 2^32) by bisection; the cube needs 105 bits.
    unsigned __int128 target = static_cast<unsigned __int128>(prime) << 96;
    std::uint64_t low = 0, high = std::uint64_t{8} << 32;
    while (high - low > 1) {
      std::uint64_t mid = low + (high - low) / 2;
      unsigned __int128 cube = static_cast<unsigned __int128>(mid) * mid * mid;
      (cube <= target ? low : high) = mid;
    }
    k = static_cast<std::uint32_t>(low);
  }
  return out;
}
constexpr auto k = round_constants();
static_assert(k[0] == 0x428a2f98u && k[63] == 0xc67178f2u);

void compress(std::array<std::uint32_t, 8>& h, const unsigned char* block) {
  std::uint32_t w[64];
  for (int i = 0; i < 16; ++i)
    w[i] = std::uint32_t{block[4 * i]} << 24 | std::uint32_t{block[4 * i + 1]} << 16 |
           std::uint32_t{block[4 * i + 2]} << 8 | block[4 * i + 3];
  for (int i = 16; i < 64; ++i) {
    std::uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3)) + w[i - 7] +
           (std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10));
  }
  auto v = h;
  for (int i = 0; i < 64; ++i) {
    std::uint32_t t1 = v[7] + (std::rotr(v[4], 6) ^ std::rotr(v[4], 11) ^ std::rotr(v[4], 25)) +
                       ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
    std::uint32_t t2 = (std::rotr(v[0], 2) ^ std::rotr(v[0], 13) ^ std::rotr(v[0], 22)) +
                       ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
    v = {t1 + t2, v[0], v[1], v[2], v[3] + t1, v[4], v[5], v[6]};
  }
  for (int i = 0; i < 8; ++i) h[i] += v[i];
}

}  // namespace

std::string sha256_hex(std::span<const std::byte> data) {
  std::array<std::uint32_t, 8> h{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto* p = reinterpret_cast<const unsigned char*>(data.data());
  std::size_t whole = data.size() / 64 * 64, rest = data.size() - whole;
  for (std::size_t i = 0; i < whole; i += 64) compress(h, p + i);
  unsigned char tail[128] = {};
  if (rest) std::memcpy(tail, p + whole, rest);
  tail[rest] = 0x80;
  std::size_t length = rest < 56 ? 64 : 128;
  std::uint64_t bits = std::uint64_t{data.size()} * 8;
  for (int i = 0; i < 8; ++i) tail[length - 1 - i] = static_cast<unsigned char>(bits >> (8 * i));
  for (std::size_t i = 0; i < length; i += 64) compress(h, tail + i);
  std::string out;
  for (std::uint32_t word : h)
    for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[word >> shift & 15];
  return out;
}

}  // namespace ag

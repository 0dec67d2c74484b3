#include "ir/base/sha256.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

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

using State = std::array<std::uint32_t, 8>;

void compress_all(State& h, const unsigned char* data, std::size_t blocks) {
  for (std::size_t i = 0; i < blocks; ++i) compress(h, data + 64 * i);
}

#if defined(__x86_64__)
/// The same by the processor's instructions, some five times as fast. Two rounds an instruction, on the halves
/// {a, b, e, f} and {c, d, g, h} of the state.
__attribute__((target("sha,sse4.1"))) void compress_all_sha(State& h, const unsigned char* data, std::size_t blocks) {
  auto word = [](std::uint32_t v) { return static_cast<int>(v); };
  __m128i abef = _mm_set_epi32(word(h[0]), word(h[1]), word(h[4]), word(h[5]));
  __m128i cdgh = _mm_set_epi32(word(h[2]), word(h[3]), word(h[6]), word(h[7]));
  const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  for (std::size_t n = 0; n < blocks; ++n, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 16; ++i) {
      __m128i& now = w[i & 3];
      if (i < 4) {
        now = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data) + i), swap);
      } else {
        const __m128i last = w[(i + 3) & 3];
        const __m128i sum =
            _mm_add_epi32(_mm_sha256msg1_epu32(now, w[(i + 1) & 3]), _mm_alignr_epi8(last, w[(i + 2) & 3], 4));
        now = _mm_sha256msg2_epu32(sum, last);
      }
      const __m128i sum = _mm_add_epi32(now, _mm_loadu_si128(reinterpret_cast<const __m128i*>(k.data()) + i));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  std::uint32_t x[4], y[4];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(x), abef);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y), cdgh);
  h = {x[3], x[2], y[3], y[2], x[1], x[0], y[1], y[0]};
}

bool has_sha() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool extensions = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
  return extensions && __get_cpuid(1, &a, &b, &c, &d) && (c >> 19 & 1);  // sse4.1
}
#endif

void compress_blocks(State& h, const unsigned char* data, std::size_t blocks) {
#if defined(__x86_64__)
  static const bool fast = has_sha();
  if (fast) return compress_all_sha(h, data, blocks);
#endif
  compress_all(h, data, blocks);
}

}  // namespace

std::string sha256_hex(std::span<const std::byte> data) {
  std::array<std::uint32_t, 8> h{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto* p = reinterpret_cast<const unsigned char*>(data.data());
  std::size_t whole = data.size() / 64 * 64, rest = data.size() - whole;
  compress_blocks(h, p, whole / 64);
  unsigned char tail[128] = {};
  if (rest) std::memcpy(tail, p + whole, rest);
  tail[rest] = 0x80;
  std::size_t length = rest < 56 ? 64 : 128;
  std::uint64_t bits = std::uint64_t{data.size()} * 8;
  for (int i = 0; i < 8; ++i) tail[length - 1 - i] = static_cast<unsigned char>(bits >> (8 * i));
  compress_blocks(h, tail, length / 64);
  std::string out;
  for (std::uint32_t word : h)
    for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[word >> shift & 15];
  return out;
}

}  // namespace ag

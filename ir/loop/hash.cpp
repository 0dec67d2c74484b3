#include <bit>
#include <cstring>

#include "ir/loop/text.hpp"

namespace ag::loop {
namespace {

std::uint64_t mix(std::uint64_t x) {  // the finalizer of splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

std::array<std::uint64_t, 2> structural_hash(const Kernel& kernel) {
  // The canonical text determines the machine code, and nothing else does.
  std::string text;
  print_kernel(kernel, {.canonical = true}, text);
  std::uint64_t a = 0x9e3779b97f4a7c15u ^ text.size(), b = 0xd1b54a32d192ed03u + text.size();
  for (std::size_t i = 0; i < text.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + i, std::min<std::size_t>(8, text.size() - i));
    a = mix(a + word) + 0x9e3779b97f4a7c15u;
    b = std::rotl(b, 23) ^ mix(word * 0xff51afd7ed558ccdu + b);
  }
  return {mix(a ^ std::rotl(b, 32)), mix(b + a)};
}

}  // namespace ag::loop

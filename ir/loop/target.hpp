// What passes and emitters may know about a machine: plain facts, no backend types.
#pragma once
#include <string>
#include <string_view>

#include "ir/base/diag.hpp"

namespace ag {

struct TargetSpec {
  enum class Kind : std::uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  std::string name;          ///< as given: "cpu:native", "cpu:x86-64-v3", "cuda:sm_80"
  std::string cpu;           ///< LLVM's name: "znver4", "x86-64-v3", "sm_80"
  std::string features;      ///< LLVM feature string
  int vector_bits = 256;     ///< width of a vector register
  int vector_registers = 16;
  bool masked_ops = false;   ///< AVX-512: masked loads and stores cost nothing
  long l1_bytes = 32 << 10, l2_bytes = 1 << 20, l3_bytes = 16 << 20;
  int threads = 1;           ///< cores to plan for
  int ptx_version = 0;
  int warp = 32;
  long shared_bytes = 0;

  int lanes(std::size_t element_bytes) const { return static_cast<int>(vector_bits / 8 / element_bytes); }
};

}  // namespace ag

// The floating-point environment of kernels: round to nearest even, subnormals kept, no traps.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace ag::runtime {

/// Sets the environment that kernels assume; the destructor restores the caller's.
class FpState {
 public:
#if defined(__x86_64__)
  FpState() : saved_(_mm_getcsr()) {
    if (foreign()) _mm_setcsr(wanted);
  }
  ~FpState() {
    if (foreign()) _mm_setcsr(saved_);
  }

 private:
  static constexpr unsigned sticky_flags = 0x3f;
  static constexpr unsigned wanted = 0x1f80;  // all exceptions masked, nearest, no FTZ, no DAZ
  bool foreign() const { return (saved_ & ~sticky_flags) != wanted; }
  unsigned saved_;

 public:
#else
  FpState() = default;
#endif
  FpState(const FpState&) = delete;
  FpState& operator=(const FpState&) = delete;
};

}  // namespace ag::runtime

#include "ir/loop/elementwise.hpp"

#include <algorithm>

#include "ir/loop/element.hpp"
#include "ir/loop/interp.hpp"

namespace ag::loop {
namespace {

/// Unsigned type in which wrapping arithmetic on I has no undefined behaviour (no promotion to int).
template <class I>
using Wrap = std::conditional_t<sizeof(I) < 4, std::uint32_t, std::make_unsigned_t<I>>;
template <class I>
inline constexpr int bits_v = static_cast<int>(sizeof(I) * 8);

// Each functor is one row of the semantics table. `ok<T>` says for which elements it is defined; operator() works
// in Compute<T>.
template <class T>
inline constexpr bool number = !std::is_same_v<T, Bool8>;
template <class T>
inline constexpr bool integer = std::is_integral_v<T>;
template <class T>
inline constexpr bool bitlike = !is_float_v<T>;

struct Neg {
  template <class T>
  static constexpr bool ok = number<T>;
  template <class C>
  C operator()(C a) const {
    if constexpr (std::is_integral_v<C>)
      return static_cast<C>(Wrap<C>(0) - static_cast<Wrap<C>>(a));
    else
      return -a;
  }
};
struct Abs {
  template <class T>
  static constexpr bool ok = number<T>;
  template <class C>
  C operator()(C a) const {
    if constexpr (std::is_unsigned_v<C>)
      return a;
    else if constexpr (std::is_integral_v<C>)
      return a < 0 ? Neg()(a) : a;
    else
      return std::fabs(a);
  }
};
struct Sqrt {
  template <class T>
  static constexpr bool ok = is_float_v<T>;
  template <class C>
  C operator()(C a) const {
    return std::sqrt(a);
  }
};
struct Floor {
  template <class T>
  static constexpr bool ok = is_float_v<T>;
  template <class C>
  C operator()(C a) const {
    return std::floor(a);
  }
};
struct Ceil {
  template <class T>
  static constexpr bool ok = is_float_v<T>;
  template <class C>
  C operator()(C a) const {
    return std::ceil(a);
  }
};
struct Trunc {
  template <class T>
  static constexpr bool ok = is_float_v<T>;
  template <class C>
  C operator()(C a) const {
    return std::trunc(a);
  }
};
struct RoundEven {
  template <class T>
  static constexpr bool ok = is_float_v<T>;
  template <class C>
  C operator()(C a) const {
    return std::nearbyint(a);
  }
};
struct Popcount {
  template <class T>
  static constexpr bool ok = integer<T>;
  template <class C>
  C operator()(C a) const {
    return static_cast<C>(__builtin_popcountll(static_cast<std::uint64_t>(static_cast<std::make_unsigned_t<C>>(a))));
  }
};
struct Add {
  template <class T>
  static constexpr bool ok = number<T>;
  template <class C>
  C operator()(C a, C b) const {
    if constexpr (std::is_integral_v<C>)
      return static_cast<C>(static_cast<Wrap<C>>(a) + static_cast<Wrap<C>>(b));
    else
      return a + b;
  }
};
struct Sub {
  template <class T>
  static constexpr bool ok = number<T>;
  template <class C>
  C operator()(C a, C b) const {
    if constexpr (std::is_integral_v<C>)
      return static_cast<C>(static_cast<Wrap<C>>(a) - static_cast<Wrap<C>>(b));
    else
      return a - b;
  }
};
struct Mul {
  template <class T>
  static constexpr bool ok = number<T>;
  template <class C>
  C operator()(C a, C b) const {
    if constexpr (std::is_integral_v<C>)
      return static_cast<C>(static_cast<Wrap<C>>(a) * static_cast<Wrap<C>>(b));
    else
      return a * b;
  }
};
struct Div {
  template <class T>
  static constexpr bool ok = number<T>;
  template <class C>
  C operator()(C a, C b) const {
    if constexpr (std::is_integral_v<C>) {
      if (b == 0) return 0;
      if (std::is_signed_v<C> && b == static_cast<C>(-1)) return Neg()(a);
      return static_cast<C>(a / b);
    } else {
      return a / b;
    }
  }
};
struct Rem {
  template <class T>
  static constexpr bool ok = number<T>;
  template <class C>
  C operator()(C a, C b) const {
    if constexpr (std::is_integral_v<C>) {
      if (b == 0) return a;
      if (std::is_signed_v<C> && b == static_cast<C>(-1)) return 0;
      return static_cast<C>(a % b);
    } else {
      return std::fmod(a, b);
    }
  }
};
struct Min {
  template <class T>
  static constexpr bool ok = true;
  template <class C>
  C operator()(C a, C b) const {
    if constexpr (std::is_floating_point_v<C>) {
      if (a != a || b != b) return a + b;
      if (a == b) return std::signbit(a) ? a : b;
    }
    return a < b ? a : b;
  }
};
struct Max {
  template <class T>
  static constexpr bool ok = true;
  template <class C>
  C operator()(C a, C b) const {
    if constexpr (std::is_floating_point_v<C>) {
      if (a != a || b != b) return a + b;
      if (a == b) return std::signbit(a) ? b : a;
    }
    return a < b ? b : a;
  }
};
struct And {
  template <class T>
  static constexpr bool ok = bitlike<T>;
  template <class C>
  C operator()(C a, C b) const {
    return static_cast<C>(a & b);
  }
};
struct Or {
  template <class T>
  static constexpr bool ok = bitlike<T>;
  template <class C>
  C operator()(C a, C b) const {
    return static_cast<C>(a | b);
  }
};
struct Xor {
  template <class T>
  static constexpr bool ok = bitlike<T>;
  template <class C>
  C operator()(C a, C b) const {
    return static_cast<C>(a ^ b);
  }
};
struct Shl {
  template <class T>
  static constexpr bool ok = integer<T>;
  template <class C>
  C operator()(C a, C n) const {
    if (n < 0 || n >= bits_v<C>) return 0;
    return static_cast<C>(static_cast<Wrap<C>>(a) << n);
  }
};
struct Shr {
  template <class T>
  static constexpr bool ok = integer<T>;
  template <class C>
  C operator()(C a, C n) const {
    if (n < 0 || n >= bits_v<C>) return static_cast<C>(a < 0 ? -1 : 0);
    return static_cast<C>(a >> n);
  }
};
struct CopySign {
  template <class T>
  static constexpr bool ok = is_float_v<T>;
  template <class C>
  C operator()(C a, C b) const {
    return std::copysign(a, b);
  }
};
struct MulHi {
  template <class T>
  static constexpr bool ok = std::is_same_v<T, std::uint32_t> || std::is_same_v<T, std::uint64_t>;
  template <class C>
  C operator()(C a, C b) const {
    return static_cast<C>((static_cast<unsigned __int128>(a) * b) >> bits_v<C>);
  }
};
struct Fma {
  template <class T>
  static constexpr bool ok = number<T>;
  template <class C>
  C operator()(C a, C b, C c) const {
    if constexpr (std::is_integral_v<C>)
      return Add()(Mul()(a, b), c);
    else
      return std::fma(a, b, c);
  }
};
struct Eq {
  template <class C>
  bool operator()(C a, C b) const {
    return a == b;
  }
};
struct Ne {
  template <class C>
  bool operator()(C a, C b) const {
    return a != b;
  }
};
struct Lt {
  template <class C>
  bool operator()(C a, C b) const {
    return a < b;
  }
};
struct Le {
  template <class C>
  bool operator()(C a, C b) const {
    return a <= b;
  }
};
struct Gt {
  template <class C>
  bool operator()(C a, C b) const {
    return a > b;
  }
};
struct Ge {
  template <class C>
  bool operator()(C a, C b) const {
    return a >= b;
  }
};

template <class T>
const T* in(const ElemArgs& a, int i) {
  return static_cast<const T*>(a.in[i]);
}

template <class F, class T>
void run_unary(const ElemArgs& a) {
  auto* out = static_cast<T*>(a.out);
  const T* x = in<T>(a, 0);
  for (std::ptrdiff_t i = 0; i < a.n; ++i) out[i] = from_compute<T>(F()(to_compute(x[i * a.stride[0]])));
}
template <class F, class T>
void run_binary(const ElemArgs& a) {
  auto* out = static_cast<T*>(a.out);
  const T *x = in<T>(a, 0), *y = in<T>(a, 1);
  for (std::ptrdiff_t i = 0; i < a.n; ++i)
    out[i] = from_compute<T>(F()(to_compute(x[i * a.stride[0]]), to_compute(y[i * a.stride[1]])));
}
template <class F, class T>
void run_ternary(const ElemArgs& a) {
  auto* out = static_cast<T*>(a.out);
  const T *x = in<T>(a, 0), *y = in<T>(a, 1), *z = in<T>(a, 2);
  for (std::ptrdiff_t i = 0; i < a.n; ++i)
    out[i] = from_compute<T>(
        F()(to_compute(x[i * a.stride[0]]), to_compute(y[i * a.stride[1]]), to_compute(z[i * a.stride[2]])));
}
#if defined(__x86_64__)
/// The machine's fma, many times faster than a call of the library's. Same bits.
template <class T>
__attribute__((target("avx2,fma"), optimize("O3"))) void run_fma_hardware(const ElemArgs& a) {
  auto* out = static_cast<T*>(a.out);
  const T *x = in<T>(a, 0), *y = in<T>(a, 1), *z = in<T>(a, 2);
  auto one = [](T p, T q, T r) __attribute__((target("avx2,fma"), always_inline)) {
    if constexpr (sizeof(T) == 4)
      return __builtin_fmaf(p, q, r);
    else
      return __builtin_fma(p, q, r);
  };
  if (a.stride[0] == 0 && a.stride[1] == 1 && a.stride[2] == 1) {
    const T p = *x;
    for (std::ptrdiff_t i = 0; i < a.n; ++i) out[i] = one(p, y[i], z[i]);
  } else if (a.stride[0] == 1 && a.stride[1] == 1 && a.stride[2] == 1) {
    for (std::ptrdiff_t i = 0; i < a.n; ++i) out[i] = one(x[i], y[i], z[i]);
  } else {
    for (std::ptrdiff_t i = 0; i < a.n; ++i) out[i] = one(x[i * a.stride[0]], y[i * a.stride[1]], z[i * a.stride[2]]);
  }
}
bool has_fma() {
  static const bool yes = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return yes;
}
#endif
template <class T>
ElemFn fma_fn() {
#if defined(__x86_64__)
  if constexpr (std::is_floating_point_v<T>)
    if (has_fma()) return run_fma_hardware<T>;
#endif
  return run_ternary<Fma, T>;
}

template <class F, class T>
void run_compare(const ElemArgs& a) {
  auto* out = static_cast<Bool8*>(a.out);
  const T *x = in<T>(a, 0), *y = in<T>(a, 1);
  for (std::ptrdiff_t i = 0; i < a.n; ++i)
    out[i].v = F()(to_compute(x[i * a.stride[0]]), to_compute(y[i * a.stride[1]])) ? 1 : 0;
}
template <class To, class From>
void run_cast(const ElemArgs& a) {
  auto* out = static_cast<To*>(a.out);
  const From* x = in<From>(a, 0);
  for (std::ptrdiff_t i = 0; i < a.n; ++i) out[i] = convert<To>(x[i * a.stride[0]]);
}
/// Moves of bits: U is an unsigned integer of the element's size.
template <class U>
void run_select(const ElemArgs& a) {
  auto* out = static_cast<U*>(a.out);
  const auto* c = in<std::uint8_t>(a, 0);
  const U *x = in<U>(a, 1), *y = in<U>(a, 2);
  for (std::ptrdiff_t i = 0; i < a.n; ++i) out[i] = c[i * a.stride[0]] ? x[i * a.stride[1]] : y[i * a.stride[2]];
}
template <class U>
void run_copy(const ElemArgs& a) {
  auto* out = static_cast<U*>(a.out);
  const U* x = in<U>(a, 0);
  for (std::ptrdiff_t i = 0; i < a.n; ++i) out[i] = x[i * a.stride[0]];
}
void run_not_bool(const ElemArgs& a) {
  auto* out = static_cast<std::uint8_t*>(a.out);
  const auto* x = in<std::uint8_t>(a, 0);
  for (std::ptrdiff_t i = 0; i < a.n; ++i) out[i] = x[i * a.stride[0]] ? 0 : 1;
}
struct Not {
  template <class T>
  static constexpr bool ok = integer<T>;
  template <class C>
  C operator()(C a) const {
    return static_cast<C>(~a);
  }
};
/// (x * 2^(k - a)) * 2^a with a = k clamped to the normal exponents: rounded once, as the first product is exact or
/// the result is 0 or infinite anyway. k itself is clamped to twice those exponents.
template <class T, class K>
void run_ldexp(const ElemArgs& a) {
  using C = Compute<T>;
  constexpr K top = sizeof(C) == 8 ? 1023 : 127, bottom = 1 - top;
  auto clamp = [=](K k) { return static_cast<int>(std::min(std::max(k, bottom), top)); };
  auto* out = static_cast<T*>(a.out);
  const T* x = in<T>(a, 0);
  const K* e = in<K>(a, 1);
  for (std::ptrdiff_t i = 0; i < a.n; ++i) {
    K k = std::min(std::max(e[i * a.stride[1]], 2 * bottom), 2 * top);
    int last = clamp(k);
    C y = to_compute(x[i * a.stride[0]]) * std::ldexp(C(1), static_cast<int>(k) - last);
    out[i] = from_compute<T>(y * std::ldexp(C(1), last));
  }
}

template <class F>
ElemFn unary(DType t) {
  return with_element(t, [](auto e) -> ElemFn {
    using T = decltype(e);
    if constexpr (F::template ok<T>)
      return run_unary<F, T>;
    else
      return nullptr;
  });
}
template <class F>
ElemFn binary(DType t) {
  return with_element(t, [](auto e) -> ElemFn {
    using T = decltype(e);
    if constexpr (F::template ok<T>)
      return run_binary<F, T>;
    else
      return nullptr;
  });
}
template <class F>
ElemFn compare(DType t) {
  return with_element(t, [](auto e) -> ElemFn { return run_compare<F, decltype(e)>; });
}
ElemFn by_size(std::size_t bytes, ElemFn f1, ElemFn f2, ElemFn f4, ElemFn f8) {
  return bytes == 1 ? f1 : bytes == 2 ? f2 : bytes == 4 ? f4 : f8;
}
ElemFn copy_fn(DType t) {
  return by_size(dtype_bytes(t), run_copy<std::uint8_t>, run_copy<std::uint16_t>, run_copy<std::uint32_t>,
                 run_copy<std::uint64_t>);
}
ElemFn cast_fn(DType to, DType from) {
  return with_element(to, [from](auto t) {
    return with_element(from, [](auto f) -> ElemFn { return run_cast<decltype(t), decltype(f)>; });
  });
}
ElemFn ldexp_fn(DType t) {
  return with_element(t, [](auto e) -> ElemFn {
    using T = decltype(e);
    if constexpr (std::is_same_v<T, double>)
      return run_ldexp<T, std::int64_t>;
    else if constexpr (is_float_v<T>)
      return run_ldexp<T, std::int32_t>;
    else
      return nullptr;
  });
}

}  // namespace

ElemFn elementwise_fn(Op op, DType result, DType operand) {
  const DType t = operand;
  switch (op) {
    case Op::neg: return unary<Neg>(t);
    case Op::abs: return unary<Abs>(t);
    case Op::not_: return t == DType::boolean ? run_not_bool : unary<Not>(t);
    case Op::sqrt: return unary<Sqrt>(t);
    case Op::floor: return unary<Floor>(t);
    case Op::ceil: return unary<Ceil>(t);
    case Op::trunc: return unary<Trunc>(t);
    case Op::round_even: return unary<RoundEven>(t);
    case Op::popcount: return unary<Popcount>(t);
    case Op::cast: return cast_fn(result, operand);
    case Op::bitcast: return dtype_bytes(result) == dtype_bytes(operand) ? copy_fn(t) : nullptr;
    case Op::add: return binary<Add>(t);
    case Op::sub: return binary<Sub>(t);
    case Op::mul: return binary<Mul>(t);
    case Op::div: return binary<Div>(t);
    case Op::rem: return binary<Rem>(t);
    case Op::min: return binary<Min>(t);
    case Op::max: return binary<Max>(t);
    case Op::and_: return binary<And>(t);
    case Op::or_: return binary<Or>(t);
    case Op::xor_: return binary<Xor>(t);
    case Op::shl: return binary<Shl>(t);
    case Op::shr: return binary<Shr>(t);
    case Op::copysign: return binary<CopySign>(t);
    case Op::mulhi: return binary<MulHi>(t);
    case Op::ldexp: return ldexp_fn(t);
    case Op::cmp_eq: return compare<Eq>(t);
    case Op::cmp_ne: return compare<Ne>(t);
    case Op::cmp_lt: return compare<Lt>(t);
    case Op::cmp_le: return compare<Le>(t);
    case Op::cmp_gt: return compare<Gt>(t);
    case Op::cmp_ge: return compare<Ge>(t);
    case Op::fma:
      return with_element(t, [](auto e) -> ElemFn {
        using T = decltype(e);
        if constexpr (Fma::ok<T>)
          return fma_fn<T>();
        else
          return nullptr;
      });
    case Op::select:
      return by_size(dtype_bytes(t), run_select<std::uint8_t>, run_select<std::uint16_t>, run_select<std::uint32_t>,
                     run_select<std::uint64_t>);
    case Op::broadcast: return copy_fn(t);
    default: return describe(op).cls == OpClass::math ? math_fn(op, t) : nullptr;
  }
}

ElemFn accumulate_fn(ReduceKind kind, DType type) { return elementwise_fn(reduce_op(kind), type, type); }

std::uint64_t eval_scalar(Op op, DType result, DType operand, std::span<const std::uint64_t> operands) {
  ElemFn fn = elementwise_fn(op, result, operand);
  AG_CHECK(fn && operands.size() <= 3, "eval_scalar: op not defined on these types");
  // Little-endian: the low bytes of a 64-bit pattern are the element.
  std::uint64_t out = 0;
  ElemArgs args;
  args.out = &out;
  for (std::size_t i = 0; i < operands.size(); ++i) args.in[i] = &operands[i];
  fn(args);
  return out;
}

}  // namespace ag::loop

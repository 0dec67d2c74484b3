#include "ir/loop/fold.hpp"

#include <algorithm>
#include <limits>

namespace ag::loop {
namespace {

template <class T>
std::optional<T> arithmetic(Op op, T a, T b, int bits) {
  using U = std::uint64_t;
  bool count_ok = b >= 0 && static_cast<U>(b) < static_cast<U>(bits);
  switch (op) {
    case Op::add: return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    case Op::sub: return static_cast<T>(static_cast<U>(a) - static_cast<U>(b));
    case Op::mul: return static_cast<T>(static_cast<U>(a) * static_cast<U>(b));
    case Op::div:
      if (b == 0) return T{0};
      return b == static_cast<T>(-1) && std::is_signed_v<T> ? static_cast<T>(U{0} - static_cast<U>(a)) : a / b;
    case Op::rem:
      if (b == 0) return a;
      return b == static_cast<T>(-1) && std::is_signed_v<T> ? T{0} : a % b;
    case Op::min: return std::min(a, b);
    case Op::max: return std::max(a, b);
    case Op::and_: return a & b;
    case Op::or_: return a | b;
    case Op::xor_: return a ^ b;
    case Op::shl: return count_ok ? static_cast<T>(static_cast<U>(a) << b) : T{0};
    case Op::shr: return count_ok ? static_cast<T>(a >> b) : static_cast<T>(a < 0 ? -1 : 0);
    default: return std::nullopt;
  }
}

template <class T>
std::optional<bool> compare(Op op, T a, T b) {
  switch (op) {
    case Op::cmp_eq: return a == b;
    case Op::cmp_ne: return a != b;
    case Op::cmp_lt: return a < b;
    case Op::cmp_le: return a <= b;
    case Op::cmp_gt: return a > b;
    case Op::cmp_ge: return a >= b;
    default: return std::nullopt;
  }
}

template <class T>
std::optional<std::uint64_t> binary(Op op, DType result, DType operand, std::span<const std::uint64_t> in) {
  T a = static_cast<T>(bits_to_int(operand, in[0])), b = static_cast<T>(bits_to_int(operand, in[1]));
  if (describe(op).cls == OpClass::compare) {
    auto r = compare(op, a, b);
    return r ? std::optional<std::uint64_t>(*r) : std::nullopt;
  }
  auto r = arithmetic(op, a, b, static_cast<int>(dtype_bytes(operand)) * 8);
  return r ? std::optional(constant_bits(result, static_cast<std::int64_t>(*r))) : std::nullopt;
}

}  // namespace

std::optional<std::uint64_t> fold_int(Op op, DType result, DType operand, std::span<const std::uint64_t> in) {
  if (is_float(result) || is_float(operand)) return std::nullopt;
  if (op == Op::select) return in[0] ? in[1] : in[2];
  if (in.size() == 1) {
    std::int64_t a = bits_to_int(operand, in[0]);
    auto wrapped = [&](std::uint64_t v) { return constant_bits(result, static_cast<std::int64_t>(v)); };
    if (op == Op::cast) return wrapped(static_cast<std::uint64_t>(a));
    if (op == Op::neg) return wrapped(std::uint64_t{0} - static_cast<std::uint64_t>(a));
    if (op == Op::not_) return operand == DType::boolean ? static_cast<std::uint64_t>(a == 0) : wrapped(~static_cast<std::uint64_t>(a));
    return std::nullopt;
  }
  if (in.size() != 2) return std::nullopt;
  return operand == DType::u64 ? binary<std::uint64_t>(op, result, operand, in)
                               : binary<std::int64_t>(op, result, operand, in);
}

}  // namespace ag::loop

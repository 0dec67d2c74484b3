#include "ir/loop/element.hpp"
#include "ir/loop/elementwise.hpp"

namespace ag::loop {
namespace {

template <class T, double (*f)(double)>
void run1(const ElemArgs& a) {
  auto* out = static_cast<T*>(a.out);
  const T* x = static_cast<const T*>(a.in[0]);
  for (std::ptrdiff_t i = 0; i < a.n; ++i)
    out[i] = static_cast<T>(static_cast<Compute<T>>(f(static_cast<double>(to_compute(x[i * a.stride[0]])))));
}
template <class T, double (*f)(double, double)>
void run2(const ElemArgs& a) {
  auto* out = static_cast<T*>(a.out);
  const T *x = static_cast<const T*>(a.in[0]), *y = static_cast<const T*>(a.in[1]);
  for (std::ptrdiff_t i = 0; i < a.n; ++i)
    out[i] = static_cast<T>(static_cast<Compute<T>>(
        f(static_cast<double>(to_compute(x[i * a.stride[0]])), static_cast<double>(to_compute(y[i * a.stride[1]])))));
}
template <double (*f)(double)>
ElemFn unary(DType t) {
  return with_element(t, [](auto e) -> ElemFn {
    if constexpr (is_float_v<decltype(e)>)
      return run1<decltype(e), f>;
    else
      return nullptr;
  });
}
template <double (*f)(double, double)>
ElemFn binary(DType t) {
  return with_element(t, [](auto e) -> ElemFn {
    if constexpr (is_float_v<decltype(e)>)
      return run2<decltype(e), f>;
    else
      return nullptr;
  });
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double rsqrt(double x) { return 1 / std::sqrt(x); }

}  // namespace

ElemFn math_fn(Op op, DType t) {
  switch (op) {
    case Op::exp:
      return unary<std::exp>(t);
    case Op::exp2:
      return unary<std::exp2>(t);
    case Op::expm1:
      return unary<std::expm1>(t);
    case Op::log:
      return unary<std::log>(t);
    case Op::log2:
      return unary<std::log2>(t);
    case Op::log1p:
      return unary<std::log1p>(t);
    case Op::tanh:
      return unary<std::tanh>(t);
    case Op::sigmoid:
      return unary<sigmoid>(t);
    case Op::erf:
      return unary<std::erf>(t);
    case Op::erfc:
      return unary<std::erfc>(t);
    case Op::sin:
      return unary<std::sin>(t);
    case Op::cos:
      return unary<std::cos>(t);
    case Op::tan:
      return unary<std::tan>(t);
    case Op::asin:
      return unary<std::asin>(t);
    case Op::acos:
      return unary<std::acos>(t);
    case Op::atan:
      return unary<std::atan>(t);
    case Op::sinh:
      return unary<std::sinh>(t);
    case Op::cosh:
      return unary<std::cosh>(t);
    case Op::asinh:
      return unary<std::asinh>(t);
    case Op::acosh:
      return unary<std::acosh>(t);
    case Op::atanh:
      return unary<std::atanh>(t);
    case Op::rsqrt:
      return unary<rsqrt>(t);
    case Op::cbrt:
      return unary<std::cbrt>(t);
    case Op::pow:
      return binary<std::pow>(t);
    case Op::atan2:
      return binary<std::atan2>(t);
    default:
      return nullptr;
  }
}

}  // namespace ag::loop

#include "ir/loop/element.hpp"
#include "ir/loop/elementwise.hpp"
#include "ir/loop/math.hpp"
#include "ir/loop/math_num.hpp"

namespace ag::loop {
namespace {

template <Op op, class T>
void run(const ElemArgs& a) {
  using C = Compute<T>;
  using P = std::conditional_t<std::is_same_v<C, double>, math::F64, math::F32>;
  auto* out = static_cast<T*>(a.out);
  const T *x = static_cast<const T*>(a.in[0]), *y = static_cast<const T*>(a.in[1] ? a.in[1] : a.in[0]);
  for (std::ptrdiff_t i = 0; i < a.n; ++i) {
    math::Num<C> r = math::evaluate<op, P>(math::Num<C>(to_compute(x[i * a.stride[0]])),
                                           math::Num<C>(to_compute(y[i * a.stride[1]])));
    out[i] = from_compute<T>(r.v);
  }
}

}  // namespace

ElemFn math_fn(Op op, DType t) {
  ElemFn fn = nullptr;
  math::with_math_op(op, [&]<Op o>() {
    fn = with_element(t, [](auto e) -> ElemFn {
      if constexpr (is_float_v<decltype(e)>)
        return run<o, decltype(e)>;
      else
        return nullptr;
    });
  });
  return fn;
}

}  // namespace ag::loop

// Kernels that several tests use, built with the Builder.
#pragma once
#include "ir/loop/builder.hpp"

namespace ag::loop::samples {

/// y[i] = x[i] * x[i] + 1, with a symbolic size.
inline Kernel square_plus_one() {
  Builder b("square");
  BufferId x = b.param(DType::f32, Dim::symbol("N"), Access::read);
  BufferId y = b.param(DType::f32, Dim::symbol("N"), Access::write);
  b.set_origin(7);
  b.for_each(b.dim(Dim::symbol("N")), {.mapping = Mapping::parallel, .role = AxisRole::col}, [&](ValueId i) {
    ValueId v = b.load(x, i);
    b.store(y, i, b.op(Op::fma, {v, v, b.constant(DType::f32, 1.0)}));
  });
  return std::move(b).finish();
}

/// c[m, n] = sum over k of a[m, k] * b[k, n], by the naive nest with the given mappings of m and n.
inline Kernel matmul(Dim m, Dim n, Dim k, ForOptions rows = {.mapping = Mapping::parallel},
                     ForOptions cols = {.mapping = Mapping::parallel}, DType t = DType::f32) {
  Builder b("matmul");
  BufferId pa = b.param(t, m * k, Access::read), pb = b.param(t, k * n, Access::read);
  BufferId pc = b.param(t, m * n, Access::write);
  ValueId vm = b.dim(m), vn = b.dim(n), vk = b.dim(k), zero = b.index(0), one = b.index(1);
  auto step = [&](ForOptions o) { return b.index(o.width ? o.width : 1); };
  b.for_(zero, vm, step(rows), rows, {}, [&](ValueId im, const Builder::Values&) {
    b.for_(zero, vn, step(cols), cols, {}, [&](ValueId in, const Builder::Values&) {
      auto sum = b.for_(zero, vk, one, {.role = AxisRole::reduce}, {b.constant(t, 0.0)},
                        [&](ValueId ik, const Builder::Values& acc) {
                          ValueId x = b.load(pa, b.add(b.mul(im, vk), ik));
                          ValueId y = b.load(pb, b.add(b.mul(ik, vn), in));
                          return Builder::Values{b.op(Op::fma, {x, y, acc[0]})};
                        });
      b.store(pc, b.add(b.mul(im, vn), in), sum[0]);
      return Builder::Values{};
    });
    return Builder::Values{};
  });
  return std::move(b).finish();
}

}  // namespace ag::loop::samples

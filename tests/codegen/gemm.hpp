// The micro-kernel of a matrix product in tile form, as scheduling writes it: C[m x n] += A[m x k] * B[k x n] by
// tiles of rows x lanes that stay in registers over all of k.
#pragma once
#include "ir/loop/builder.hpp"

namespace ag::test {

/// One tile of C a call (tiles = (m / rows) * (n / lanes), row tiles innermost). `packed`: B lies as [n /
/// lanes][k][lanes].
inline loop::Kernel gemm_kernel(std::int64_t m, std::int64_t n, std::int64_t k, int rows, int lanes, bool packed,
                                DType t = DType::f32) {
  using namespace loop;
  Builder b("k0");
  BufferId x = b.param(t, m * k, Access::read), y = b.param(t, k * n, Access::read);
  BufferId z = b.param(t, m * n, Access::read_write);
  std::int64_t row_tiles = m / rows;
  auto r = static_cast<std::uint16_t>(rows), l = static_cast<std::uint16_t>(lanes);
  b.for_each(b.index(row_tiles * (n / lanes)), {.mapping = Mapping::tile}, [&](ValueId tile) {
    ValueId i = b.mul(b.op(Op::rem, {tile, b.index(row_tiles)}), b.index(rows));
    ValueId j = b.mul(b.op(Op::div, {tile, b.index(row_tiles)}), b.index(lanes));
    ValueId out = b.add(b.mul(i, b.index(n)), j), one = b.index(1);
    ValueId a0 = b.mul(i, b.index(k)), b0 = packed ? b.mul(j, b.index(k)) : j;
    ValueId acc = b.load_tile(z, {t, r, l}, out, b.index(n), one);
    auto sums = b.for_(b.index(0), b.index(k), b.index(1), {}, {acc}, [&](ValueId p, const Builder::Values& carried) {
      ValueId left = b.load_tile(x, {t, r, 1}, b.add(a0, p), b.index(k), b.index(0));
      ValueId right = b.load_tile(y, {t, 1, l}, b.add(b0, b.mul(p, b.index(packed ? lanes : n))), b.index(0), one);
      return Builder::Values{b.op(Op::contract, {carried[0], left, right})};
    });
    b.store_tile(z, out, b.index(n), one, sums[0]);
  });
  b.kernel().tiles = row_tiles * (n / lanes);
  return std::move(b).finish();
}

}  // namespace ag::test

// A kernel that uses a little of everything, compiled for what that leaves behind in LLVM.
#include "codegen/llvm/emit_internal.hpp"
#include "codegen/llvm/generator_internal.hpp"
#include "ir/loop/builder.hpp"

namespace ag::codegen {
namespace {

using namespace loop;

/// Sums of rows of tiles: loops, vectors, masks, conversions, comparisons, a reduction across lanes.
Kernel sample(int lanes) {
  Builder b("k");
  const BufferId x = b.param(DType::f32, Dim::symbol("n"), Access::read);
  const BufferId y = b.param(DType::f32, Dim::symbol("n"), Access::write);
  const VType tile{DType::f32, 4, static_cast<std::uint16_t>(lanes)};
  const ValueId n = b.dim(Dim::symbol("n")), width = b.index(lanes), one = b.index(1), zero = b.index(0);
  b.for_each(b.op(Op::div, {n, width}), {.mapping = Mapping::tile}, [&](ValueId i) {
    const ValueId none = b.broadcast(b.constant(DType::f32, 0), tile.rows, lanes);
    const auto sums = b.for_(zero, n, width, {}, {none}, [&](ValueId at, const Builder::Values& carried) {
      const ValueId inside = b.op(Op::cmp_lt, {b.lane_iota(DType::i64, lanes), b.sub(n, at)});
      const ValueId v = b.load_tile(x, tile, b.add(b.mul(i, n), at), n, one, b.broadcast(inside, tile.rows, lanes));
      const ValueId whole = b.cast(b.op(Op::floor, {v}), DType::i32);
      const ValueId scaled = b.op(Op::fma, {v, b.cast(whole, DType::f32), carried[0]});
      return Builder::Values{b.select(b.op(Op::cmp_gt, {v, none}), scaled, b.op(Op::div, {scaled, v}))};
    });
    b.store_tile(y, b.mul(i, width), one, one, b.reduce_lanes(ReduceKind::sum, sums[0]));
  });
  b.kernel().tiles = Dim::symbol("n");
  return std::move(b).finish();
}

}  // namespace

bool warm(const TargetSpec& target) { return generator_made(target); }

void warm_up(const TargetSpec& target, int opt_level) {
  if (target.kind != TargetSpec::Kind::cpu) return;
  const EmitOptions options{.opt_level = opt_level};
  try {
    (void)cpu_backend.emit(sample(target.vector_bits / 32), target, EmitKind::object, options);
  } catch (...) {  // a bug: the real kernels will tell
  }
}

}  // namespace ag::codegen

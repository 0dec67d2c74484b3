// LU factors and their systems -> kernels, matrices in parallel; no memory but the results.
#include "ir/loop/abi.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {
namespace {

using loop::Op;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

struct Loops {
  OwnKernel& k;
  loop::Builder& b = k.builder();

  void each(LV from, LV to, const std::function<void(LV)>& body) const {
    b.for_(from, to, b.index(1), {}, {}, [&](LV iv, const LVs&) { return body(iv), LVs{}; });
  }
  /// Independent iterations: they may go to lanes.
  void row(LV from, LV to, const std::function<void(LV)>& body) const {
    loop::ForOptions o{.mapping = loop::Mapping::parallel, .role = loop::AxisRole::reduce, .reassociate = true};
    b.for_(from, to, b.index(1), o, {}, [&](LV iv, const LVs&) { return body(iv), LVs{}; });
  }
  LV fold(LV from, LV to, LV init, const std::function<LV(LV, LV)>& body) const {
    return b.for_(from, to, b.index(1), {}, {init}, [&](LV iv, const LVs& v) { return LVs{body(iv, v[0])}; })[0];
  }
};

std::vector<std::size_t> first_axes(std::size_t n) {
  std::vector<std::size_t> out;
  for (std::size_t d = 0; d < n; ++d) out.push_back(d);
  return out;
}

}  // namespace

Result<std::vector<LoweredKernel>> lower_lu(const Graph& g, NodeId id) {
  OwnKernel k(g, id);
  Loops loops{k};
  loop::Builder& b = k.builder();
  k.read(0);
  loop::BufferId lu = k.result(0, loop::Access::read_write), rows = k.result(1, loop::Access::read_write),
                 sign = k.result(2, loop::Access::write);
  const Dims shape = k.type().shape;
  const DType t = k.type().dtype;
  const std::size_t rank = shape.size();
  LVs at(rank);
  k.nest(first_axes(rank - 2), shape, at, false, [&] {
    LV n = b.dim(shape.back()), zero = b.index(0), one = b.index(1);
    const LVs batch(at.begin(), at.end() - 2);
    auto place = [&](LV i, LV j) {
      LVs where = batch;
      where.insert(where.end(), {i, j});
      return k.at_result(0, where);
    };
    auto row_place = [&](LV i) {
      LVs where = batch;
      where.push_back(i);
      return k.at_result(1, where);
    };
    auto swap = [&](loop::BufferId buffer, LV p, LV q) {
      LV x = b.load(buffer, p), y = b.load(buffer, q);
      b.store(buffer, p, y);
      b.store(buffer, q, x);
    };
    loops.each(zero, n, [&](LV i) {
      b.store(rows, row_place(i), i);
      loops.each(zero, n, [&](LV j) {
        LVs where = batch;
        where.insert(where.end(), {i, j});
        b.store(lu, place(i, j), k.operand(0, where));
      });
    });
    LV parity = loops.fold(zero, n, b.constant(t, 1.0), [&](LV step, LV parity) {
      LV next = b.add(step, one);
      LV best = b.op(Op::abs, {b.load(lu, place(step, step))});
      LV pivot_row = b.for_(next, n, one, {}, {best, step}, [&](LV i, const LVs& v) {
        LV x = b.op(Op::abs, {b.load(lu, place(i, step))}), larger = b.op(Op::cmp_gt, {x, v[0]});
        return LVs{b.select(larger, x, v[0]), b.select(larger, i, v[1])};
      })[1];
      LV moved = b.op(Op::cmp_ne, {pivot_row, step});
      b.if_(
          moved,
          [&] {
            swap(rows, row_place(step), row_place(pivot_row));
            loops.each(zero, n, [&](LV j) { swap(lu, place(step, j), place(pivot_row, j)); });
            return LVs{};
          },
          [] { return LVs{}; });
      LV pivot = b.load(lu, place(step, step)), none = b.constant(t, 0.0);
      loops.each(next, n, [&](LV i) {
        LV f = b.op(Op::div, {b.load(lu, place(i, step)), pivot});
        f = b.select(b.op(Op::cmp_eq, {pivot, none}), none, f);
        b.store(lu, place(i, step), f);
        loops.row(next, n, [&](LV j) {
          LV update = b.mul(f, b.load(lu, place(step, j)));
          b.store(lu, place(i, j), b.sub(b.load(lu, place(i, j)), update));
        });
      });
      return b.select(moved, b.op(Op::neg, {parity}), parity);
    });
    b.store(sign, k.at_result(2, batch), parity);
  });
  std::vector<LoweredKernel> kernels;
  kernels.push_back(k.finish("lu", k.type().elems() * shape.back()));
  return kernels;
}

Result<std::vector<LoweredKernel>> lower_lu_solve(const Graph& g, NodeId id) {
  OwnKernel k(g, id);
  Loops loops{k};
  loop::Builder& b = k.builder();
  for (std::size_t i = 0; i < 3; ++i) k.read(i);
  loop::BufferId out = k.result(0, loop::Access::read_write);
  const Dims shape = k.type().shape;
  const std::size_t rank = shape.size();
  LVs at(rank);
  k.nest(axes_without(rank, rank - 2), shape, at, true, [&] {
    LV n = b.dim(shape[rank - 2]), zero = b.index(0), one = b.index(1), last = b.sub(n, one);
    const LVs batch(at.begin(), at.end() - 2);
    auto place = [&](LV i) {
      LVs where = at;
      where[rank - 2] = i;
      return where;
    };
    auto factor = [&](LV i, LV j) {
      LVs where = batch;
      where.insert(where.end(), {i, j});
      return k.operand(0, where);
    };
    auto without = [&](LV i, LV from, LV to, LV start) {
      return loops.fold(from, to, start, [&](LV j, LV s) {
        return b.sub(s, b.mul(factor(i, j), b.load(out, k.at_result(0, place(j)))));
      });
    };
    loops.each(zero, n, [&](LV i) {
      LVs where = batch;
      where.push_back(i);
      LV row = k.operand(1, where);
      LV bad = b.op(Op::or_, {b.op(Op::cmp_lt, {row, zero}), b.op(Op::cmp_gt, {row, last})});
      b.trap(bad, static_cast<std::uint32_t>(loop::Trap::index_out_of_range), row);
      row = b.op(Op::max, {b.op(Op::min, {row, last}), zero});
      b.store(out, k.at_result(0, place(i)), without(i, zero, i, k.operand(2, place(row))));
    });
    loops.each(zero, n, [&](LV step) {
      LV i = b.sub(last, step);
      LV s = without(i, b.add(i, one), n, b.load(out, k.at_result(0, place(i))));
      b.store(out, k.at_result(0, place(i)), b.op(Op::div, {s, factor(i, i)}));
    });
  });
  std::vector<LoweredKernel> kernels;
  kernels.push_back(k.finish("lu_solve", k.type().elems() * shape[rank - 2] * Dim(2)));
  return kernels;
}

}  // namespace ag::passes

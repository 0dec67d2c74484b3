// Greedy suppression of overlapping boxes: rows in parallel; within a row each box meets those kept before it.
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {
namespace {

using loop::Op;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

class SuppressKernel {
 public:
  SuppressKernel(const Graph& g, NodeId id) : k_(g, id), b_(k_.builder()) {
    for (std::size_t i = 0; i < 4; ++i) k_.read(i);
    keep_ = k_.result(0, loop::Access::read_write);
  }

  LoweredKernel run() {
    const Dims shape = k_.type().shape;
    LVs at(2);
    k_.nest({0}, shape, at, false, [&] {
      LV n = b_.dim(shape[1]), zero = b_.index(0), one = b_.index(1);
      LV limit = k_.operand(2, {}), threshold = k_.operand(3, {});
      b_.for_(zero, n, one, {}, {zero}, [&](LV i, const LVs& count) {
        LVs mine{at[0], i};
        LV wanted = b_.op(Op::and_, {k_.operand(1, mine), b_.op(Op::cmp_lt, {count[0], limit})});
        Box box = load(mine);
        LV no = b_.constant_int(DType::boolean, 0);
        LV met = b_.while_(
            {b_.select(wanted, zero, i), no},
            [&](const LVs& v) {
              return std::pair{b_.op(Op::and_, {b_.op(Op::cmp_lt, {v[0], i}), b_.op(Op::not_, {v[1]})}), v};
            },
            [&](const LVs& v) {
              LVs other{at[0], v[0]};
              LV kept = b_.load(keep_, k_.at_result(0, other));
              return LVs{b_.add(v[0], one), b_.op(Op::and_, {kept, overlap(box, load(other), threshold)})};
            })[1];
        LV chosen = b_.op(Op::and_, {wanted, b_.op(Op::not_, {met})});
        b_.store(keep_, k_.at_result(0, mine), chosen);
        return LVs{b_.add(count[0], b_.cast(chosen, DType::i64))};
      });
    });
    return k_.finish("suppress", k_.type().elems() * shape[1] * Dim(16));
  }

 private:
  using Box = std::array<LV, 4>;  // x0, y0, x1, y1
  OwnKernel k_;
  loop::Builder& b_;
  loop::BufferId keep_;

  Box load(const LVs& place) {
    Box box;
    for (std::int64_t c = 0; c < 4; ++c)
      box[static_cast<std::size_t>(c)] = k_.operand(0, LVs{place[0], place[1], b_.index(c)});
    return box;
  }
  LV area(const Box& x) { return b_.mul(b_.sub(x[2], x[0]), b_.sub(x[3], x[1])); }

  /// Intersection over union above the threshold; boxes without an area overlap nothing.
  LV overlap(const Box& p, const Box& q, LV threshold) {
    Box inside{b_.op(Op::max, {p[0], q[0]}), b_.op(Op::max, {p[1], q[1]}), b_.op(Op::min, {p[2], q[2]}),
               b_.op(Op::min, {p[3], q[3]})};
    LV zero = b_.constant(b_.type(p[0]).elem, 0.0);
    LV common = area(inside), a = area(p), b = area(q), all = b_.sub(b_.add(a, b), common);
    LV yes = b_.op(Op::cmp_gt, {b_.op(Op::div, {common, all}), threshold});
    for (LV positive : {common, a, b, all}) yes = b_.op(Op::and_, {yes, b_.op(Op::cmp_gt, {positive, zero})});
    yes = b_.op(Op::and_, {yes, b_.op(Op::cmp_gt, {inside[2], inside[0]})});
    return b_.op(Op::and_, {yes, b_.op(Op::cmp_gt, {inside[3], inside[1]})});
  }
};

}  // namespace

Result<std::vector<LoweredKernel>> lower_suppress(const Graph& g, NodeId id) {
  std::vector<LoweredKernel> kernels;
  kernels.push_back(SuppressKernel(g, id).run());
  return kernels;
}

}  // namespace ag::passes

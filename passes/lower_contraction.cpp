#include "passes/lower_contraction.hpp"

#include <algorithm>
#include <functional>

namespace ag::passes {

using loop::AxisRole;
using loop::ForOptions;
using loop::Mapping;
using LV = loop::ValueId;
using LVs = std::vector<loop::ValueId>;

namespace {

ContractionDesc desc_of(const Graph& g, NodeId id) { return g.node(id).op->contraction(NodeView{g, id}); }

std::vector<int> free_dims(int rank, const std::vector<int>& batch, const std::vector<int>& contract) {
  std::vector<int> out;
  for (int d = 0; d < rank; ++d)
    if (std::find(batch.begin(), batch.end(), d) == batch.end() &&
        std::find(contract.begin(), contract.end(), d) == contract.end())
      out.push_back(d);
  return out;
}

/// Rows that only the run can count may be few.
bool sums_in_lanes(const Attrs& attrs, const Dims& lhs, const std::vector<int>& free) {
  Dim rows = 1;
  for (int d : free) rows = rows * lhs[static_cast<std::size_t>(d)];
  const bool all = !rows.is_const() || rows.value() <= attrs.get_or<std::int64_t>("lanes_rows", rows.value());
  return attrs.get_or<std::int64_t>("lanes", 1) > 1 && all;
}

}  // namespace

ContractionAxes contraction_axes(const Graph& g, NodeId id, const Dims& result) {
  ContractionDesc desc = desc_of(g, id);
  std::size_t batch = desc.lhs_batch.size();
  int lhs_rank = g.type(g.node(id).operands[0]).rank();
  std::size_t lhs_free = static_cast<std::size_t>(lhs_rank) - batch - desc.lhs_contract.size();
  std::vector<AxisRole> roles(result.size(), AxisRole::batch);
  auto last_in = [&](std::size_t from, std::size_t to) {
    for (std::size_t i = to; i-- > from;)
      if (!result[i].is(1)) return static_cast<int>(i);
    return -1;
  };
  int row = last_in(batch, batch + lhs_free), col = last_in(batch + lhs_free, result.size());
  if (row >= 0) roles[row] = AxisRole::row;
  if (col >= 0) roles[col] = AxisRole::col;
  bool dot = col < 0;
  if (dot && row >= 0) roles[row] = AxisRole::batch;
  const Dims& left = g.type(g.node(id).operands[0]).shape;
  const bool sums = std::any_of(desc.lhs_contract.begin(), desc.lhs_contract.end(),
                                [&](int d) { return !left[static_cast<std::size_t>(d)].is(1); });
  if (dot && !sums) {  // a map: products of an element each
    dot = false;
    if (int last = last_in(0, result.size()); last >= 0) roles[static_cast<std::size_t>(last)] = AxisRole::col;
  }
  return {std::move(roles), dot};
}

LV lower_contraction(ElementSource& source, NodeId id, std::span<const LV> at, bool dot) {
  const Graph& g = source.graph();
  loop::Builder& b = source.builder();
  ContractionDesc desc = desc_of(g, id);
  ValueId lhs = g.node(id).operands[0], rhs = g.node(id).operands[1];
  std::vector<int> lfree = free_dims(g.type(lhs).rank(), desc.lhs_batch, desc.lhs_contract);
  std::vector<int> rfree = free_dims(g.type(rhs).rank(), desc.rhs_batch, desc.rhs_contract);
  LVs li(g.type(lhs).rank()), ri(g.type(rhs).rank());
  std::size_t out = 0;
  for (std::size_t i = 0; i < desc.lhs_batch.size(); ++i, ++out) {
    li[desc.lhs_batch[i]] = at[out];
    ri[desc.rhs_batch[i]] = at[out];
  }
  for (int d : lfree) li[d] = at[out++];
  for (int d : rfree) ri[d] = at[out++];
  DType acc = accumulator_dtype(g.type(lhs).dtype);
  const bool in_lanes = sums_in_lanes(g.node(id).attrs, g.type(lhs).shape, lfree);
  source.origin(id);
  LV init = b.constant_int(acc, 0);
  if (is_float(acc)) init = b.constant(acc, 0.0);
  std::function<LV(std::size_t, LV)> loops = [&](std::size_t k, LV carry) -> LV {
    if (k == desc.lhs_contract.size()) {
      LV a = b.cast(source.element(lhs, li), acc), x = b.cast(source.element(rhs, ri), acc);
      source.origin(id);
      if (acc == DType::boolean) return b.op(loop::Op::or_, {carry, b.op(loop::Op::and_, {a, x})});
      return is_float(acc) ? b.op(loop::Op::fma, {a, x, carry}) : b.add(carry, b.mul(a, x));
    }
    const Dim& extent = g.type(lhs).shape[desc.lhs_contract[k]];
    auto step = [&](LV iv, LV c) {
      li[desc.lhs_contract[k]] = iv;
      ri[desc.rhs_contract[k]] = iv;
      return loops(k + 1, c);
    };
    if (extent.is(1)) return step(b.index(0), carry);
    ForOptions options{.mapping = Mapping::serial, .role = AxisRole::reduce, .reassociate = dot || in_lanes};
    return b.for_(b.index(0), b.dim(extent), b.index(1), options, {carry},
                  [&](LV iv, const LVs& c) { return LVs{step(iv, c[0])}; })[0];
  };
  return b.cast(loops(0, init), g.type(g.node(id).result()).dtype);
}

}  // namespace ag::passes

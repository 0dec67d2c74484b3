#include "passes/panels.hpp"

#include <algorithm>
#include <numeric>

#include "ir/attr.hpp"
#include "ir/op.hpp"
#include "passes/strided_view.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

std::optional<Int> number(const Dim& d) { return d.is_const() ? std::optional(d.value()) : std::nullopt; }

Ints ints(const Node& n, const char* name) { return n.attrs.get_or<Ints>(name, {}); }

/// One axis of rows, of a number that the run knows, each with its terms (axis `contracted`) one after another.
bool counted_rows(const Graph& g, ValueId v, Int contracted) {
  const Dims& shape = g.type(v).shape;
  if (contracted + 1 != static_cast<Int>(shape.size()) || !shape.back().is_const()) return false;
  int axes = 0;
  for (std::size_t d = 0; d + 1 < shape.size(); ++d)
    if (!shape[d].is(1)) axes += shape[d].is_const() ? 2 : 1;
  if (axes != 1) return false;
  const Node* n = &g.def(v);
  while (n->op->name == "reshape" && g.type(n->operands[0]).shape.back() == shape.back()) n = &g.def(n->operands[0]);
  return n->op->name != "transpose";
}

bool has(const Ints& axes, Int d) { return std::find(axes.begin(), axes.end(), d) != axes.end(); }

}  // namespace

RightAxes right_axes(const Graph&, const Node& dot, int rank) {
  RightAxes out{ints(dot, "rhs_batch"), ints(dot, "rhs_contract"), {}};
  for (Int d = 0; d < rank; ++d)
    if (!has(out.contract, d) && !has(out.batch, d)) out.free.push_back(d);
  return out;
}

ContractionSizes product_sizes(const Graph& g, const Node& dot, const TargetSpec& target) {
  const Type &lhs = g.type(dot.operands[0]), &rhs = g.type(dot.operands[1]);
  const Ints contract = ints(dot, "lhs_contract"), batch = ints(dot, "lhs_batch");
  const RightAxes right = right_axes(g, dot, rhs.rank());
  ContractionSizes s{.rows = 1, .cols = 1, .depth = 1};
  if (!right.free.empty()) s.cols = number(rhs.shape[static_cast<std::size_t>(right.free.back())]);
  Dim depth = 1;
  for (Int d : right.contract) depth = depth * rhs.shape[static_cast<std::size_t>(d)];
  s.depth = number(depth);
  // Rows that lie one after another in memory become one axis (pass `collapse`).
  const bool one_axis = contract.size() == 1 && contract[0] == lhs.rank() - 1;
  for (Int d = 0; d < lhs.rank(); ++d) {
    const Dim& size = lhs.shape[static_cast<std::size_t>(d)];
    if (has(contract, d) || has(batch, d) || size.is(1)) continue;
    auto rows = number(size);
    s.rows = one_axis && s.rows && rows ? std::optional(*s.rows * *rows) : rows;
  }
  s.element_bytes = dtype_bytes(rhs.dtype) == 8 ? 8 : 4;
  s.lanes = target.lanes(static_cast<std::size_t>(s.element_bytes));
  auto pitch = lhs.shape.empty() ? std::nullopt : number(lhs.shape.back());
  s.rows_collide = pitch && *pitch * static_cast<Int>(dtype_bytes(lhs.dtype)) % 4096 == 0;
  return s;
}

FewSide few_side(const Graph& g, const Node& dot, const TargetSpec& target) {
  const DType t = g.type(dot.operands[1]).dtype;
  const Ints left_contract = ints(dot, "lhs_contract"), right_contract = ints(dot, "rhs_contract");
  if (!is_float(t) || is_storage(t) || g.type(dot.operands[0]).dtype != t) return FewSide::none;
  if (left_contract.size() != 1 || !ints(dot, "lhs_batch").empty()) return FewSide::none;
  auto left = strided_view(g, dot.operands[0]), right = strided_view(g, dot.operands[1]);
  if (!right) return FewSide::none;
  auto at = [](const Ints& from, Int i) { return from[static_cast<std::size_t>(i)]; };
  auto free = [&](const StridedView& v, Int contracted) {  // elements of the other axes; 0 if there are several
    Int size = 1;
    for (Int d = 0; d < static_cast<Int>(v.shape.size()); ++d)
      if (d != contracted && at(v.shape, d) != 1) size = size == 1 ? at(v.shape, d) : 0;
    return size;
  };
  const Int l = left_contract[0], r = right_contract[0], depth = at(right->shape, r);
  const Int cols = free(*right, r), bytes = static_cast<Int>(dtype_bytes(t));
  if (!left) {
    const bool counted = at(right->strides, r) == 1 && counted_rows(g, dot.operands[0], l);
    return counted && few_rows(1, cols, depth, bytes, target) ? FewSide::counted_rows : FewSide::none;
  }
  if (at(left->strides, l) != 1) return FewSide::none;
  const Int rows = free(*left, l);
  if (at(right->strides, r) == 1 && few_rows(rows, cols, depth, bytes, target)) return FewSide::rows;
  return few_columns(rows, cols, depth, bytes, target) ? FewSide::columns : FewSide::none;
}

ValueId product_of_panels(GraphBuilder& b, const Graph& g, NodeId id, ValueId left, ValueId panels) {
  const Node& n = g.node(id);
  const Type& rhs = g.type(n.operands[1]);
  const RightAxes axes = right_axes(g, n, rhs.rank());
  const std::size_t batch = axes.batch.size(), outer = batch + axes.free.size() - 1, contract = axes.contract.size();
  const Dim columns = rhs.shape[static_cast<std::size_t>(axes.free.back())];
  auto order = [&](std::size_t from, std::size_t count, Ints& perm) {
    for (std::size_t i = 0; i < count; ++i) perm.push_back(static_cast<Int>(from + i));
  };
  Ints perm;
  order(0, batch, perm);
  order(outer + 1, contract, perm);
  order(batch, outer - batch, perm);
  perm.push_back(static_cast<Int>(outer));
  perm.push_back(static_cast<Int>(outer + 1 + contract));
  ValueId right = b.transpose(panels, perm);
  Dims shape = b.type(right).shape;
  const Dim padded = shape[shape.size() - 2] * shape.back();
  shape.pop_back();
  shape.back() = padded;
  right = b.reshape(right, shape);
  if (padded != columns) {
    Dims start(shape.size(), Dim(0)), limit = shape;
    limit.back() = columns;
    right = b.slice(right, start, limit);
  }
  Ints rhs_batch(batch), rhs_contract(contract);
  std::iota(rhs_batch.begin(), rhs_batch.end(), 0);
  std::iota(rhs_contract.begin(), rhs_contract.end(), static_cast<Int>(batch));
  return b.dot_general(left, right, ints(n, "lhs_contract"), rhs_contract, ints(n, "lhs_batch"), rhs_batch);
}

}  // namespace ag::passes

// depthwise -> one kernel, scheduled here: a task owns a band of output rows of an image and a panel of channels
// (depthwise_rows.hpp).
#include <algorithm>
#include <cstdlib>

#include "passes/depthwise.hpp"
#include "passes/depthwise_rows.hpp"
#include "passes/lower_own.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

LoweredKernel lower_one(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target) {
  const std::vector<NodeId>& before = plan.groups[gid].before;
  OwnKernel k(g, plan, gid);
  loop::Builder& b = k.builder();
  const NodeId id = plan.groups[gid].members[0];
  DepthwiseRows r(k, id, before, target);
  const DepthwiseCut by = pick_cut(r.sizes(), given_width(g, before), target);
  if (before.empty())
    k.read(0);
  else
    k.read_before();
  k.read(1);
  k.members();
  r.allocate(by.width, 1);
  const Dim tasks = r.desc().batch * Dim(by.bands * r.panels());
  b.kernel().tiles = tasks;
  stepped(b, b.index(0), b.dim(tasks), {.mapping = loop::Mapping::tile}, [&](LV task) {
    b.poll();
    LV panel = take_digit(b, task, r.panels()), band = take_digit(b, task, by.bands);
    const Int rows = (r.height() + by.bands - 1) / by.bands;
    LV begin = b.mul(band, b.index(rows));
    LV end = b.op(loop::Op::min, {b.add(begin, b.index(rows)), b.index(r.height())});
    r.with_panel(panel, {}, [&](const DepthwiseRows::Panel& p) {
      r.start(p);
      r.rows({task, begin, end}, p, begin, end, [&](const LVs& at, LV sum) { k.finish_element(at, sum); });
    });
  });
  return k.finish("depthwise", r.flops());
}

}  // namespace

bool has_depthwise_kernel(const Graph& g, NodeId id) {
  const DepthwiseDesc d = describe_depthwise(NodeView{g, id});
  auto known = [](const Dim& s) { return s.is_const() && s.value() > 0 && s.value() <= 1 << 24; };
  auto fits = [](const Dim& s) { return s.is_const() && std::abs(s.value()) <= 1 << 24; };
  for (std::size_t a : {0u, 1u})
    if (!known(d.size[a]) || !known(d.count[a]) || !fits(d.low[a]) || d.reach(a) > 1 << 12 || d.strides[a] > 1 << 12)
      return false;
  return known(d.channels) && d.taps[0] > 0 && d.taps[1] > 0 && d.taps[0] * d.taps[1] <= 1 << 10;
}

std::optional<ColumnPanels> column_panels(const Graph& g, NodeId product) {
  const Node& n = g.node(product);
  const ContractionDesc desc = n.op->contraction(NodeView{g, product});
  const std::size_t depth = desc.rhs_contract.size();
  ValueId v = n.operands[1];
  if (!desc.rhs_batch.empty() || g.type(v).shape.size() != depth + 1) return std::nullopt;
  for (std::size_t i = 0; i < depth; ++i)
    if (desc.rhs_contract[i] != static_cast<int>(i)) return std::nullopt;
  auto at = [&](std::string_view op) { return g.def(v).op->name == op; };
  auto ints = [&](const char* name) { return g.def(v).attrs.get_or<std::vector<Int>>(name, {}); };
  auto all = [](const auto& values, Int x) {
    return std::all_of(values.begin(), values.end(), [x](const auto& s) { return s == x; });
  };
  if (!is_virtual(g, g.value(v).node) || g.def(v).operands.empty()) return ColumnPanels{};
  if (at("slice")) {
    if (!all(g.def(v).attrs.get_or<Dims>("start", {}), 0) || !all(ints("stride"), 1)) return std::nullopt;
    v = g.def(v).operands[0];
  }
  if (!at("reshape")) return std::nullopt;
  const Dims& to = g.type(v).shape;
  v = g.def(v).operands[0];
  const Dims& from = g.type(v).shape;
  if (!at("transpose") || from.size() != depth + 2 || to.size() != depth + 1 ||
      !std::equal(to.begin(), to.end() - 1, from.begin()) || !from.back().is_const())
    return std::nullopt;
  std::vector<Int> perm = ints("perm"), want;
  for (std::size_t i = 1; i <= depth; ++i) want.push_back(static_cast<Int>(i));
  want.push_back(0), want.push_back(static_cast<Int>(depth) + 1);
  const Node& base = g.def(g.def(v).operands[0]);
  if (perm != want || (is_virtual(g, g.value(g.def(v).operands[0]).node) && !base.operands.empty()))
    return std::nullopt;
  return ColumnPanels{from.back().value()};
}

bool makes_rows(const Graph& g, NodeId product) {
  const Node& n = g.node(product);
  const Type& y = g.type(n.result());
  const ContractionDesc desc = n.op->contraction(NodeView{g, product});
  if (y.rank() != 4 || !desc.lhs_batch.empty() || desc.lhs_contract.empty() || y.dtype != g.type(n.operands[0]).dtype)
    return false;
  if (g.type(n.operands[0]).rank() != 3 + static_cast<int>(desc.lhs_contract.size())) return false;
  auto panels = column_panels(g, product);
  return panels && panels->width <= 128;
}

Int product_panel(const Graph& g, NodeId product, const TargetSpec& target) {
  const Type& y = g.type(g.node(product).result());
  const auto panels = column_panels(g, product);
  if (panels && panels->width) return panels->width;
  return std::min<Int>(y.shape[3].value(), 3 * target.lanes(dtype_bytes(y.dtype)));
}

Result<std::vector<LoweredKernel>> lower_depthwise(const Graph& g, const Plan& plan, GroupId gid,
                                                   const TargetSpec& target) {
  std::vector<LoweredKernel> kernels;
  kernels.push_back(lower_one(g, plan, gid, target));
  return kernels;
}

}  // namespace ag::passes

#include "passes/strided_view.hpp"

#include "ir/attr.hpp"
#include "ir/op.hpp"
#include "ir/rebuild.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

/// Views between a value and what it is a view of.
constexpr int max_views = 16;

Ints row_major(const Ints& shape) {
  Ints strides(shape.size());
  Int step = 1;
  for (std::size_t d = shape.size(); d-- > 0; step *= shape[d]) strides[d] = step;
  return strides;
}

/// Strides of the same elements in another shape, if they have any.
std::optional<Ints> reshaped(const Ints& shape, const Ints& strides, const Ints& to) {
  Ints out(to.size());
  std::size_t i = 0, j = 0;
  while (i < shape.size() || j < to.size()) {  // the shortest runs of axes with equal products
    std::size_t i0 = i, j0 = j;
    Int a = i < shape.size() ? shape[i++] : 1, b = j < to.size() ? to[j++] : 1;
    while (a != b) {
      if (a < b && i < shape.size())
        a *= shape[i++];
      else if (b < a && j < to.size())
        b *= to[j++];
      else
        return std::nullopt;
    }
    Int step = 0, expected = -1;
    for (std::size_t d = i; d-- > i0;) {  // one run of elements?
      if (shape[d] == 1) continue;
      if (expected < 0)
        step = strides[d];
      else if (strides[d] != expected)
        return std::nullopt;
      expected = strides[d] * shape[d];
    }
    for (std::size_t d = j; d-- > j0; step *= to[d]) out[d] = step;
  }
  return out;
}

/// The node's view of what is seen as `v`.
bool look_through(const Graph& g, const Node& view, StridedView& v) {
  auto shape = static_shape(g.type(view.result()).shape);
  if (!shape) return false;
  if (view.op->name == "transpose") {
    const Ints perm = view.attrs.get_or<Ints>("perm", {});
    const StridedView from = v;
    for (std::size_t d = 0; d < perm.size(); ++d) v.strides[d] = from.strides[static_cast<std::size_t>(perm[d])];
  } else if (view.op->name == "slice") {
    const Ints steps = view.attrs.get_or<Ints>("stride", {});
    for (Int s : steps)
      if (s != 1) return false;
    v.whole = v.whole && *shape == v.shape;
  } else {
    auto strides = reshaped(v.shape, v.strides, *shape);
    if (!strides) return false;
    v.strides = std::move(*strides);
  }
  v.shape = std::move(*shape);
  return true;
}

}  // namespace

std::optional<StridedView> strided_view(const Graph& g, ValueId v) {
  std::vector<NodeId> views;
  while (true) {
    const Node& n = g.def(v);
    if (n.op->name != "transpose" && n.op->name != "reshape" && n.op->name != "slice") break;
    if (views.size() == max_views) return std::nullopt;
    views.push_back(g.value(v).node);
    v = n.operands[0];
  }
  auto shape = static_shape(g.type(v).shape);
  if (!shape) return std::nullopt;
  StridedView out{.source = v, .whole = true, .shape = *shape, .strides = row_major(*shape)};
  for (std::size_t i = views.size(); i-- > 0;)
    if (!look_through(g, g.node(views[i]), out)) return std::nullopt;
  return out;
}

}  // namespace ag::passes

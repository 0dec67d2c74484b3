#include "ir/ops/batching.hpp"

namespace ag::ops {

ValueId with_batch_axis(Builder& b, const View& n, const BatchArgs& a, std::size_t i) {
  if (a.batched[i]) return a.operands[i];
  Dims shape = n.in(i).shape;
  shape.insert(shape.begin(), a.size);
  return b.broadcast_to(a.operands[i], shape);
}

std::vector<ValueId> with_batch_axes(Builder& b, const View& n, const BatchArgs& a) {
  std::vector<ValueId> out;
  for (std::size_t i = 0; i < a.operands.size(); ++i)
    out.push_back(a.operands[i] ? with_batch_axis(b, n, a, i) : ValueId{});
  return out;
}

Ints behind_batch(Ints axes) {
  for (std::int64_t& d : axes) ++d;
  return axes;
}

std::vector<ValueId> batch_along_axes(Builder& b, const View& n, const BatchArgs& a) {
  Attrs attrs = n.attrs();
  if (const Ints* axes = attrs.get<Ints>("axes")) attrs.set("axes", behind_batch(*axes));
  if (const std::int64_t* axis = attrs.get<std::int64_t>("axis")) {
    std::int64_t at = *axis < 0 ? *axis + n.in(0).rank() : *axis;
    attrs.set("axis", at + 1);
  }
  return b.add_multi(n.node().op->name, with_batch_axes(b, n, a), std::move(attrs));
}

}  // namespace ag::ops

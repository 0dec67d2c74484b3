// What the pass `layout` and its rules share. An order lists the old axes of a value as they lie in the new one: the
// new value is the old one transposed by it.
#pragma once
#include <map>

#include "ir/op.hpp"
#include "ir/ops/convolution.hpp"

namespace ag::passes {

using Order = std::vector<std::int64_t>;

bool is_identity(const Order& order);
/// Where each old axis lies: inverse[order[i]] = i.
Order inverse(const Order& order);
/// `axes` of the old value as axes of the new one.
Order moved(const Order& axes, const Order& order);
template <class T>
std::vector<T> arranged(const std::vector<T>& by_axis, const Order& order) {
  std::vector<T> out;
  for (std::int64_t d : order) out.push_back(by_axis[static_cast<std::size_t>(d)]);
  return out;
}

/// The new graph as it grows, and how the values of the old one lie in it.
class Layouts {
 public:
  struct Placed {
    ValueId id;
    Order order;
    bool light = false;  ///< computed where it is used, so that any order will do: a constant, a broadcast
  };

  explicit Layouts(const Graph& g);

  const Graph& old;
  Graph graph;
  GraphBuilder b;
  std::vector<Order> hints;  ///< by old value: the order its users would like; empty for none

  const Placed& at(ValueId v) const { return placed_[v.index]; }
  const Order& order(ValueId v) const { return placed_[v.index].order; }
  bool is_moved(ValueId v) const { return v && !is_identity(order(v)); }
  /// The old value in the order that is wanted.
  ValueId take(ValueId v, const Order& wanted);
  /// The same as one that stands in memory in that order: for kernels that read it more than once.
  ValueId take_in_memory(ValueId v, const Order& wanted);
  /// Operands that broadcast with a result of `rank` axes in `order`.
  ValueId take_broadcast(ValueId v, const Order& order);
  void put(ValueId old_value, ValueId id, Order order);
  void put(const NodeView& n, ValueId id, Order order) { put(n.result(), id, std::move(order)); }
  /// The node as it was, its operands as they were.
  void copy(const NodeView& n);
  /// Makes the nodes that follow stand for this one.
  void begin(const NodeView& n);
  /// An op of the same name.
  ValueId add(const NodeView& n, std::vector<ValueId> operands, Attrs attrs);

  double moved_elements() const { return moved_elements_; }

 private:
  std::vector<Placed> placed_;
  std::map<std::pair<ValueId, Order>, ValueId> taken_, in_memory_;
  double moved_elements_ = 0;  ///< that transposes have to carry

  bool is_light(const NodeView& n) const;
};

/// Elements of a shape for a comparison of costs; a symbol counts as a few.
double estimated(const Dims& shape);

/// Does the node in the order that suits its operands; false if it has to be as it was.
using LayoutRule = bool (*)(Layouts&, const NodeView&);
/// How the op takes a permutation of the axes of its operands; none if it does not.
LayoutRule layout_rule(const OpInfo& op);
/// The order that operand i would best have if the result's users like `order`; empty for none.
Order hint_for(const NodeView& n, std::size_t i, const Order& order);
/// Whether a convolution is worth the other layout.
bool prefers_channels_last(const NodeView& conv, bool image_is_moved);

}  // namespace ag::passes

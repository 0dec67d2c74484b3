// Emits elements of values by pulling: element i of a node is computed from elements of its operands.
#pragma once
#include "ir/op.hpp"

namespace ag::passes {

/// Walks through virtual nodes and splat constants; what it cannot walk through goes to leaf().
class ElementSource {
 public:
  virtual ~ElementSource() = default;
  virtual loop::Builder& builder() = 0;
  virtual const Graph& graph() const = 0;
  /// An element of a value that is neither virtual nor a splat.
  virtual loop::ValueId leaf(ValueId v, std::span<const loop::ValueId> index) = 0;
  /// The statements that follow stand for this node.
  virtual void origin(NodeId) {}
  virtual void trap(NodeId node, loop::ValueId cond, std::uint32_t kind, loop::ValueId detail) = 0;

  /// Element `index` of `v`.
  loop::ValueId element(ValueId v, std::span<const loop::ValueId> index);
  /// Element `index` of a map or index node, from its operands, whether it is virtual or not.
  loop::ValueId compute(NodeId id, std::span<const loop::ValueId> index);
};

/// Collects the leaves (values that are not virtual) that an element of a node touches, with their indices.
class LeafProbe : public ElementSource {
 public:
  explicit LeafProbe(const Graph& g) : g_(g), builder_("probe") {}
  struct Leaf {
    ValueId value;
    std::vector<loop::ValueId> index;
  };
  std::vector<Leaf> leaves;

  loop::Builder& builder() override { return builder_; }
  const Graph& graph() const override { return g_; }
  loop::ValueId leaf(ValueId v, std::span<const loop::ValueId> index) override {
    leaves.push_back({v, {index.begin(), index.end()}});
    return dummy(g_.type(v).dtype);
  }
  void trap(NodeId, loop::ValueId, std::uint32_t, loop::ValueId) override {}

  /// One opaque index per dim; constant 0 for dims of size one.
  std::vector<loop::ValueId> indices(const Dims& shape) {
    std::vector<loop::ValueId> out;
    for (std::size_t d = 0; d < shape.size(); ++d)
      out.push_back(shape[d].is(1) ? builder_.index(0) : builder_.dim_param("i" + std::to_string(d)));
    return out;
  }

 private:
  const Graph& g_;
  loop::Builder builder_;
  int dummies_ = 0;
  loop::ValueId dummy(DType t) {  // distinct opaque values, so that nothing folds
    return builder_.cast(builder_.dim_param("v" + std::to_string(dummies_++)), t);
  }
};

/// Row-major offset of an index in a shape; `within`: in the memory of a larger value, of which that shape is a part.
loop::ValueId linear_index(loop::Builder& b, const Dims& shape, std::span<const loop::ValueId> index,
                           const Dims& within);
loop::ValueId linear_index(loop::Builder& b, const Dims& shape, std::span<const loop::ValueId> index);
/// The index of an operand of `shape` under numpy broadcasting from an index of the (larger) result.
std::vector<loop::ValueId> broadcast_index(loop::Builder& b, const Dims& shape, const Dims& result_shape,
                                           std::span<const loop::ValueId> index);

}  // namespace ag::passes

#include "passes/element.hpp"

#include <cstring>

#include "passes/plan.hpp"

namespace ag::passes {

loop::ValueId linear_index(loop::Builder& b, const Dims& shape, std::span<const loop::ValueId> index) {
  loop::ValueId sum = b.index(0);
  Dim stride = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    if (!shape[d].is(1)) sum = b.add(b.mul(index[d], b.dim(stride)), sum);
    stride = stride * shape[d];
  }
  return sum;
}

std::vector<loop::ValueId> broadcast_index(loop::Builder& b, const Dims& shape, const Dims& result_shape,
                                           std::span<const loop::ValueId> index) {
  std::vector<loop::ValueId> out;
  std::size_t lead = result_shape.size() - shape.size();
  for (std::size_t d = 0; d < shape.size(); ++d) {
    loop::ValueId i = index[lead + d];
    if (shape[d].is(1))
      out.push_back(b.index(0));
    else if (shape[d] == result_shape[lead + d])
      out.push_back(i);
    else {  // size known at run time only: 1 repeats, anything else must match
      loop::ValueId is_one = b.op(loop::Op::cmp_eq, {b.dim(shape[d]), b.index(1)});
      out.push_back(b.select(is_one, b.index(0), i));
    }
  }
  return out;
}

namespace {

class Ctx : public ElementCtx {
 public:
  Ctx(ElementSource& source, NodeId id) : source_(source), id_(id) {}
  loop::Builder& b() override { return source_.builder(); }
  NodeView node() const override { return NodeView{source_.graph(), id_}; }
  loop::ValueId operand(std::size_t i, std::span<const loop::ValueId> index) override {
    return source_.element(source_.graph().node(id_).operands[i], index);
  }
  void trap(loop::ValueId cond, std::uint32_t kind, loop::ValueId detail) override {
    source_.trap(id_, cond, kind, detail);
  }

 private:
  ElementSource& source_;
  NodeId id_;
};

}  // namespace

loop::ValueId ElementSource::compute(NodeId id, std::span<const loop::ValueId> index) {
  const Graph& g = graph();
  const Node& n = g.node(id);
  if (n.op->lower_class == LowerClass::map) {
    std::vector<loop::ValueId> operands;
    const Dims& shape = g.type(n.result()).shape;
    for (ValueId v : n.operands)
      operands.push_back(v ? element(v, broadcast_index(builder(), g.type(v).shape, shape, index)) : loop::ValueId{});
    origin(id);
    return n.op->scalar(builder(), NodeView{g, id}, operands);
  }
  AG_CHECK(n.op->element != nullptr);
  origin(id);
  Ctx ctx(*this, id);
  return n.op->element(ctx, index);
}

loop::ValueId ElementSource::element(ValueId v, std::span<const loop::ValueId> index) {
  const Graph& g = graph();
  NodeId id = g.value(v).node;
  const Node& n = g.node(id);
  if (n.op->lower_class == LowerClass::source) {
    const LiteralPtr* literal = n.attrs.get<LiteralPtr>("value");
    if (!literal) return leaf(v, index);
    const Literal& lit = **literal;
    loop::VType type{lit.dtype, 1, 1};
    if (lit.form == Literal::Form::splat) return builder().constant_bits(type, lit.bits);
    if (lit.form == Literal::Form::dense && lit.array.elems() == 1) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, lit.array.bytes().data(), dtype_bytes(lit.dtype));
      return builder().constant_bits(type, bits);
    }
    return leaf(v, index);
  }
  if (is_virtual(g, id)) return compute(id, index);
  return leaf(v, index);
}

}  // namespace ag::passes

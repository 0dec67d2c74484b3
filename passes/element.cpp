#include "passes/element.hpp"

#include <cstring>

#include "passes/plan.hpp"

namespace ag::passes {

namespace {

const loop::Stmt* defining(const loop::Builder& b, loop::ValueId v) {
  loop::StmtId def = b.kernel().values[v].def;
  return def ? &b.kernel().stmts[def] : nullptr;
}

/// The dividend if `v` is the remainder by this size.
std::optional<loop::ValueId> remainder_of(const loop::Builder& b, loop::ValueId v, loop::ValueId size) {
  const loop::Stmt* s = defining(b, v);
  return s && s->op == loop::Op::rem && s->operands[1] == size ? std::optional(s->operands[0]) : std::nullopt;
}

/// If `v` is t + x div size: t, an invalid id for 0.
std::optional<loop::ValueId> quotient_rest(loop::Builder& b, loop::ValueId v, loop::ValueId x, loop::ValueId size) {
  const loop::Stmt* s = defining(b, v);
  if (!s) return std::nullopt;
  const loop::Op op = s->op;
  const std::vector<loop::ValueId> operands = s->operands;
  if (op == loop::Op::div && operands[0] == x && operands[1] == size) return loop::ValueId{};
  if (op != loop::Op::add) return std::nullopt;
  for (std::size_t i : {0u, 1u})
    if (auto rest = quotient_rest(b, operands[i], x, size))
      return *rest ? b.add(operands[1 - i], *rest) : operands[1 - i];
  return std::nullopt;
}

}  // namespace

/// A reshape makes components by dividing a flat index; where they stand together again, the flat index is taken: with
/// q = t + f div n, q * n + f rem n is t * n + f, and (q rem m) * n + f rem n is (t * n + f) rem (m * n).
loop::ValueId linear_index(loop::Builder& b, const Dims& shape, std::span<const loop::ValueId> index,
                           const Dims& within) {
  std::vector<std::size_t> axes;
  for (std::size_t d = 0; d < shape.size(); ++d)
    if (!within[d].is(1)) axes.push_back(d);
  loop::ValueId sum = b.index(0);
  Dim stride = 1;
  while (!axes.empty()) {
    Dim extent = shape[axes.back()], room = within[axes.back()];
    if (extent.is(1)) {
      stride = stride * room;
      axes.pop_back();
      continue;
    }
    loop::ValueId component = index[axes.back()], size = b.dim(extent);
    axes.pop_back();
    auto divided = remainder_of(b, component, size);
    loop::ValueId flat = divided.value_or(component);
    while (divided && !axes.empty() && extent == room && !shape[axes.back()].is(1)) {
      loop::ValueId outer = index[axes.back()], outer_size = b.dim(shape[axes.back()]);
      auto part = remainder_of(b, outer, outer_size);
      auto more = quotient_rest(b, part.value_or(outer), *divided, size);
      if (!more) break;
      if (*more) flat = b.add(b.mul(*more, b.dim(extent)), flat);
      extent = extent * shape[axes.back()], room = room * within[axes.back()];
      component = part ? b.op(loop::Op::rem, {flat, b.dim(extent)}) : flat;
      divided = part;
      size = outer_size;
      axes.pop_back();
    }
    sum = b.add(b.mul(component, b.dim(stride)), sum);
    stride = stride * room;
  }
  return sum;
}

loop::ValueId linear_index(loop::Builder& b, const Dims& shape, std::span<const loop::ValueId> index) {
  return linear_index(b, shape, index, shape);
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

// Where values come from: graph inputs and constants.
#include "ir/ops/families.hpp"

namespace ag {
namespace {

Result<std::vector<Type>> infer_input(const InferCtx& c) { return std::vector<Type>{*c.attrs().get<Type>("type")}; }

Result<std::vector<Type>> infer_constant(const InferCtx& c) {
  const Literal& l = **c.attrs().get<LiteralPtr>("value");
  if (!Array::byte_size(l.dtype, l.shape)) return c.error(Code::AG2103, "the size of a constant overflows");
  return std::vector<Type>{Type{l.dtype, Dims(l.shape.begin(), l.shape.end())}};
}

Result<std::vector<Array>> eval_constant(const EvalCtx& c) {
  return std::vector<Array>{(*c.node.attrs().get<LiteralPtr>("value"))->materialize()};
}

OpInfo input_op() {
  OpInfo op;
  op.name = "input";
  op.summary = "A value that the caller gives; its name is the value's name.";
  op.lower_class = LowerClass::source;
  op.attrs = {{"type", AttrKind::type, true, "dtype and shape"}};
  op.infer = infer_input;
  op.no_gradient = "an input has no operands";
  return op;
}

OpInfo constant_op() {
  OpInfo op;
  op.name = "constant";
  op.summary = "A value known at compile time: a literal, a weight.";
  op.lower_class = LowerClass::source;
  op.attrs = {{"value", AttrKind::literal, true, "the elements and how they were given"},
              {"trainable", AttrKind::boolean, false, "a parameter: what `wrt: \"trainable\"` means", false}};
  op.infer = infer_constant;
  op.eval = eval_constant;
  op.zero_gradient = true;
  return op;
}

}  // namespace

std::vector<OpInfo> source_ops() { return {input_op(), constant_op()}; }

}  // namespace ag

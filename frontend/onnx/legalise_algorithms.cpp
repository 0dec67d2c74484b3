// Sorting, searching and scans as ONNX operators: a stable sort is TopK of all, a scan that ONNX lacks is a Scan.
#include "frontend/onnx/legalise_ops.hpp"
#include "ir/ops/lowering.hpp"

namespace ag::onnx {
using namespace ops;

namespace {

Expr call2(std::string_view type, Expr a, Expr b) { return onnx(a.builder(), type, {a, b}); }
Expr cast(Expr x, DType t) { return x.dtype() == t ? x : onnx(x.builder(), "Cast", {x}, {{"to", t}}); }

/// One trip: the state and the element (factor and term of a recurrence) give the next state and what is gathered.
Graph scan_body(const CumulativeDesc& desc, const Type& element, int opset) {
  Graph body;
  body.opset = opset;
  GraphBuilder b(body);
  Expr state(b, b.input("state", element)), next = state;
  if (desc.recurrence) next = call2("Mul", Expr(b, b.input("factor", element)), state);
  Expr x(b, b.input("x", element));
  switch (desc.kind) {
    case loop::ReduceKind::prod: next = call2("Mul", next, x); break;
    case loop::ReduceKind::max: next = call2("Max", next, x); break;
    case loop::ReduceKind::min: next = call2("Min", next, x); break;
    default: next = call2("Add", next, x); break;
  }
  Expr gathered = onnx(b, "Identity", {desc.exclusive ? state : next});
  body.outputs = {{"next", next, {}}, {"gathered", gathered, {}}};
  return body;
}

}  // namespace

/// Of equal elements TopK takes the first, as a stable sort does.
std::vector<ValueId> rewrite_argsort(Builder& b, const NodeView& n) {
  const std::int64_t axis = attr_int(n.attrs(), "axis", 0), largest = n.attrs().get_or<bool>("descending", false);
  const Dim count = n.out().shape[static_cast<std::size_t>(axis)];
  Expr x(b, n.operand(0));
  if (x.dtype() == DType::boolean) x = cast(x, DType::i32);
  const OpInfo* top = op_table().find_onnx("", "TopK", std::max(least_opset, b.graph().opset));
  return {b.add_multi(top->name, {x, size_vector(b, {count})},
                      {{"axis", axis}, {"largest", largest}, {"sorted", std::int64_t{1}}})[1]};
}

/// Counts what is below each value: n m comparisons.
std::vector<ValueId> rewrite_searchsorted(Builder& b, const NodeView& n) {
  const bool right = n.attrs().get_or<bool>("right", false);
  Dims sorted = n.in(0).shape, values = n.in(1).shape;
  sorted.insert(sorted.end() - 1, Dim(1));
  values.push_back(1);
  Expr a = reshape_to(Expr(b, n.operand(0)), sorted), v = reshape_to(Expr(b, n.operand(1)), values);
  Expr below = cast(call2(right ? "LessOrEqual" : "Less", a, v), DType::i64);
  const auto last = static_cast<std::int64_t>(sorted.size()) - 1;
  return {onnx(b, "ReduceSum", {below, b.ints(std::span(&last, 1))}, {{"keepdims", std::int64_t{0}}})};
}

std::vector<ValueId> rewrite_scan(Builder& b, const NodeView& n) {
  const CumulativeDesc desc = describe_cumulative(n);
  Type element = n.out();
  element.shape.erase(element.shape.begin() + static_cast<std::ptrdiff_t>(desc.axis));
  Literal first;
  first.form = Literal::Form::splat;
  first.dtype = element.dtype;
  first.bits = loop::reduce_identity(desc.kind, element.dtype);
  GraphBuilder::NodeArgs args;
  args.operands = {broadcast(Expr(b, b.constant(std::make_shared<const Literal>(first))), element.shape, {})};
  for (std::size_t i = 0; i < n.operand_count(); ++i) args.operands.push_back(n.operand(i));
  const Ints axes(n.operand_count(), static_cast<std::int64_t>(desc.axis)), ways(n.operand_count(), desc.reverse);
  args.attrs = {{"num_scan_inputs", static_cast<std::int64_t>(n.operand_count())},
                {"scan_input_axes", axes},
                {"scan_input_directions", ways},
                {"scan_output_axes", Ints{axes[0]}},
                {"scan_output_directions", Ints{ways[0]}}};
  const int opset = std::max(least_opset, b.graph().opset);
  args.regions = {std::make_shared<const Graph>(scan_body(desc, element, opset))};
  auto made = b.try_add(*op_table().find_onnx("", "Scan", opset), std::move(args));
  if (!made) internal_error("a scan that does not fit: " + made.error()[0].message, __FILE__, __LINE__);
  return {b.graph().node(*made).result(1)};
}

}  // namespace ag::onnx

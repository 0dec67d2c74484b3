// If, Loop and Scan with ONNX's signatures. Regions are closed: the values that they capture are the last `captures`
// operands of the node and the last inputs of each region.
#include <set>

#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t captures_of(const Attrs& a) { return static_cast<std::size_t>(std::max<std::int64_t>(0, attr_int(a, "captures", 0))); }
AttrSpec captures_attr() { return int_attr("captures", 0, "how many of the last operands the regions capture"); }

/// Types of region outputs as the node gives them: a size that a region made up becomes unbacked.
class Exported {
 public:
  explicit Exported(const InferCtx& c) : c_(c) {
    for (std::size_t i = 0; i < c.operand_count(); ++i)
      if (c.has(i))
        for (const Dim& d : c.in(i).shape) d.collect_symbols(known_);
  }
  Dim fresh() { return c_.unbacked(next_++); }
  Type type(Type t) {
    for (Dim& d : t.shape) {
      std::set<std::string> symbols;
      d.collect_symbols(symbols);
      for (const std::string& s : symbols)
        if (!known_.contains(s)) {
          d = fresh();
          break;
        }
    }
    return t;
  }

 private:
  const InferCtx& c_;
  std::set<std::string> known_;
  std::size_t next_ = 0;
};

std::unexpected<Diags> misfit(const InferCtx& c, std::string message) { return c.error(Code::AG2210, fmt::format("`{}`: {}", c.op().onnx, message), "the region does not fit"); }

/// The region's inputs are of these types, then those of the captured operands.
Status check_inputs(const InferCtx& c, const Graph& region, std::string_view name, std::vector<Type> want) {
  for (std::size_t i = c.operand_count() - std::min(captures_of(c.attrs()), c.operand_count()); i < c.operand_count(); ++i) want.push_back(c.in(i));
  if (region.inputs.size() != want.size()) return misfit(c, fmt::format("the region `{}` has {} inputs, and {} are given", name, region.inputs.size(), want.size()));
  for (std::size_t i = 0; i < want.size(); ++i)
    if (const Type& have = region.type(region.inputs[i]); have != want[i])
      return misfit(c, fmt::format("input {} of the region `{}` is {}, and {} is given", i, name, have.str(), want[i].str()));
  return {};
}

Type output_type(const Graph& region, std::size_t i) { return region.type(region.outputs[i].value); }

bool is_flag(const Type& t) { return t.dtype == DType::boolean && t.elems().is(1); }

// ---- If ---------------------------------------------------------------------------------------------------

Types infer_if(const InferCtx& c) {
  const Graph &yes = *c.regions()[0], &no = *c.regions()[1];
  if (!is_flag(c.in(0))) return misfit(c, fmt::format("the condition is {}, not one bool", c.in(0).str()));
  AG_TRY_(check_inputs(c, yes, "then_branch", {}));
  AG_TRY_(check_inputs(c, no, "else_branch", {}));
  if (yes.outputs.size() != no.outputs.size()) return misfit(c, fmt::format("then_branch has {} outputs, else_branch {}", yes.outputs.size(), no.outputs.size()));
  std::vector<Type> types;
  Exported exported(c);
  for (std::size_t i = 0; i < yes.outputs.size(); ++i) {
    Type a = output_type(yes, i), b = output_type(no, i);
    if (a.dtype != b.dtype || a.rank() != b.rank()) return misfit(c, fmt::format("output {} is {} in then_branch and {} in else_branch", i, a.str(), b.str()));
    a = exported.type(std::move(a));
    for (std::size_t d = 0; d < a.shape.size(); ++d)
      if (a.shape[d] != b.shape[d]) a.shape[d] = exported.fresh();
    types.push_back(std::move(a));
  }
  return types;
}

Result<std::vector<Array>> if_eval(const EvalCtx& c) { return c.run(*c.node.node().regions[c.in[0].get_int(0) ? 0 : 1], c.in.subspan(1)); }

// ---- Loop -------------------------------------------------------------------------------------------------

std::size_t carried_count(std::size_t operands, const Attrs& a) { return operands - std::min(operands, 2 + captures_of(a)); }

/// The body says "go on" for ever: its condition is what it was given, or a constant true.
bool never_stops(const Graph& body) {
  ValueId v = body.outputs[0].value;
  for (int depth = 0; depth < 64 && body.def(v).op->name == "Identity"; ++depth) v = body.def(v).operands[0];
  if (v == body.inputs[1]) return true;
  const LiteralPtr* l = body.def(v).attrs.get<LiteralPtr>("value");
  return l && body.def(v).op->name == "constant" && (*l)->materialize().get_int(0) != 0;
}

Types infer_loop(const InferCtx& c) {
  const Graph& body = *c.regions()[0];
  std::size_t carried = carried_count(c.operand_count(), c.attrs());
  if (c.has(1) && !is_flag(c.in(1))) return misfit(c, fmt::format("the condition is {}, not one bool", c.in(1).str()));
  if (c.has(0) && (c.in(0).dtype != DType::i64 || !c.in(0).elems().is(1))) return misfit(c, fmt::format("the trip count is {}, not one i64", c.in(0).str()));
  std::vector<Type> want{{DType::i64, {}}, {DType::boolean, {}}};
  for (std::size_t i = 0; i < carried; ++i) want.push_back(c.in(2 + i));
  AG_TRY_(check_inputs(c, body, "body", want));
  if (body.outputs.size() < 1 + carried) return misfit(c, fmt::format("the body has {} outputs; it needs the condition and {} carried values", body.outputs.size(), carried));
  if (!is_flag(output_type(body, 0))) return misfit(c, fmt::format("the body's first output is the condition, one bool, not {}", output_type(body, 0).str()));
  Exported exported(c);
  std::vector<Type> types;
  for (std::size_t i = 0; i < carried; ++i) {
    Type t = output_type(body, 1 + i);
    if (t != c.in(2 + i))
      return c.error(t.dtype == c.in(2 + i).dtype ? Code::AG2211 : Code::AG2210, fmt::format("`Loop`: carried value {} enters as {} and leaves the body as {}", i, c.in(2 + i).str(), t.str()),
                     "a carried value keeps its type", {2 + i});
    types.push_back(std::move(t));
  }
  if (body.outputs.size() == 1 + carried) return types;
  auto count = c.has(0) ? c.ints(0) : std::nullopt;
  const Literal* cond = c.has(1) ? c.literal(1) : nullptr;
  bool fixed = count && count->size() == 1 && never_stops(body) && (!c.has(1) || (cond && cond->materialize().get_int(0)));
  Dim trips = fixed ? ((*count)[0].is_const() ? max((*count)[0], 0) : (*count)[0]) : exported.fresh();
  for (std::size_t i = 1 + carried; i < body.outputs.size(); ++i) {
    Type t = exported.type(output_type(body, i));
    t.shape.insert(t.shape.begin(), trips);
    types.push_back(std::move(t));
  }
  return types;
}

/// Slices written one after another along an axis.
class Stack {
 public:
  void push(Array a) { parts_.push_back(std::move(a)); }
  /// `slice`: the type of one slice, for a stack of none.
  Array finish(DType t, Shape slice, std::size_t axis, bool reversed) const {
    if (!parts_.empty()) slice = parts_[0].shape();
    Shape shape = slice;
    shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(axis), static_cast<std::int64_t>(parts_.size()));
    Array out(t, shape);
    std::size_t inner = dtype_bytes(t), outer = 1;
    for (std::size_t d = 0; d < slice.size(); ++d) (d < axis ? outer : inner) *= static_cast<std::size_t>(slice[d]);
    for (std::size_t k = 0; k < parts_.size() && inner; ++k)
      for (std::size_t o = 0; o < outer; ++o) {
        std::size_t place = reversed ? parts_.size() - 1 - k : k;
        std::memcpy(out.mutable_bytes().data() + (o * parts_.size() + place) * inner, parts_[k].bytes().data() + o * inner, inner);
      }
    return out;
  }
  std::optional<Shape> shape() const { return parts_.empty() ? std::nullopt : std::optional(parts_[0].shape()); }

 private:
  std::vector<Array> parts_;
};

/// Sizes of a type, 0 where a symbol is open (the stack is empty there).
Shape sizes_or_zero(const EvalCtx& c, const Type& t, std::size_t without_axis) {
  Shape s;
  for (std::size_t d = 0; d < t.shape.size(); ++d)
    if (d != without_axis) s.push_back(c.value(t.shape[d]).value_or(0));
  return s;
}

Result<std::vector<Array>> loop_eval(const EvalCtx& c) {
  const Graph& body = *c.node.node().regions[0];
  std::size_t carried = carried_count(c.in.size(), c.node.attrs());
  std::int64_t limit = c.node.has(0) ? c.in[0].get_int(0) : INT64_MAX;
  bool go = !c.node.has(1) || c.in[1].get_int(0) != 0;
  std::size_t state_from = std::min<std::size_t>(2, c.in.size());
  std::vector<Array> state(c.in.begin() + static_cast<std::ptrdiff_t>(state_from), c.in.begin() + static_cast<std::ptrdiff_t>(state_from + carried));
  std::vector<Stack> stacks(body.outputs.size() - 1 - carried);
  for (std::int64_t trip = 0; go && trip < limit; ++trip) {
    if (trip >= c.options.max_trips) return c.error(Code::AG5209, fmt::format("ran {} trips and has not ended", trip));
    std::vector<Array> inputs{Array(DType::i64, {}), Array::scalar(DType::boolean, 1)};
    inputs[0].set_int(0, trip);
    inputs.insert(inputs.end(), state.begin(), state.end());
    inputs.insert(inputs.end(), c.in.begin() + static_cast<std::ptrdiff_t>(state_from + carried), c.in.end());
    AG_TRY(std::vector<Array> out, c.run(body, inputs));
    go = out[0].get_int(0) != 0;
    for (std::size_t i = 0; i < carried; ++i) state[i] = std::move(out[1 + i]);
    for (std::size_t i = 0; i < stacks.size(); ++i) stacks[i].push(std::move(out[1 + carried + i]));
  }
  for (std::size_t i = 0; i < stacks.size(); ++i) {
    auto r = static_cast<std::uint32_t>(carried + i);
    if (r < c.node.node().result_count) state.push_back(stacks[i].finish(c.node.out(r).dtype, sizes_or_zero(c, c.node.out(r), 0), 0, false));
  }
  return state;
}

// ---- Scan -------------------------------------------------------------------------------------------------

/// How a Scan divides its operands and outputs.
struct ScanShape {
  std::size_t states, scanned;
  Ints in_axes, in_directions, out_axes, out_directions;
  ScanShape(std::size_t operands, const Attrs& a)
      : scanned(static_cast<std::size_t>(std::max<std::int64_t>(0, attr_int(a, "num_scan_inputs", 0)))), in_axes(attr_ints(a, "scan_input_axes")), in_directions(attr_ints(a, "scan_input_directions")),
        out_axes(attr_ints(a, "scan_output_axes")), out_directions(attr_ints(a, "scan_output_directions")) {
    operands -= std::min(operands, captures_of(a));
    scanned = std::min(scanned, operands);
    states = operands - scanned;
  }
  std::optional<int> in_axis(std::size_t i, int rank) const { return normalize_axis(i < in_axes.size() ? in_axes[i] : 0, rank); }
  std::optional<int> out_axis(std::size_t i, int rank) const { return normalize_axis(i < out_axes.size() ? out_axes[i] : 0, rank); }
  bool in_reversed(std::size_t i) const { return i < in_directions.size() && in_directions[i] != 0; }
  bool out_reversed(std::size_t i) const { return i < out_directions.size() && out_directions[i] != 0; }
};

Types infer_scan(const InferCtx& c) {
  const Graph& body = *c.regions()[0];
  ScanShape s(c.operand_count(), c.attrs());
  if (s.scanned == 0) return misfit(c, "it needs at least one scanned input");
  std::vector<Type> want;
  for (std::size_t i = 0; i < s.states; ++i) want.push_back(c.in(i));
  Dim length;
  for (std::size_t i = 0; i < s.scanned; ++i) {
    Type t = c.in(s.states + i);
    auto axis = s.in_axis(i, t.rank());
    if (!axis) return misfit(c, fmt::format("scanned input {} is {}, which has no such axis", i, t.str()));
    const Dim n = t.shape[static_cast<std::size_t>(*axis)];
    if (i && n.is_const() && length.is_const() && n != length) return misfit(c, fmt::format("scanned inputs have {} and {} elements", length.str(), n.str()));
    if (i == 0 || n.is_const()) length = n;
    t.shape.erase(t.shape.begin() + *axis);
    want.push_back(std::move(t));
  }
  AG_TRY_(check_inputs(c, body, "body", want));
  if (body.outputs.size() < s.states) return misfit(c, fmt::format("the body has {} outputs for {} states", body.outputs.size(), s.states));
  Exported exported(c);
  std::vector<Type> types;
  for (std::size_t i = 0; i < s.states; ++i) {
    if (output_type(body, i) != c.in(i)) return misfit(c, fmt::format("state {} enters as {} and leaves the body as {}", i, c.in(i).str(), output_type(body, i).str()));
    types.push_back(c.in(i));
  }
  for (std::size_t i = s.states; i < body.outputs.size(); ++i) {
    Type t = exported.type(output_type(body, i));
    auto axis = s.out_axis(i - s.states, t.rank() + 1);
    if (!axis) return misfit(c, fmt::format("scanned output {} has no such axis", i - s.states));
    t.shape.insert(t.shape.begin() + *axis, length);
    types.push_back(std::move(t));
  }
  return types;
}

Array slice_at(const Array& a, std::size_t axis, std::int64_t i) {
  Shape shape = a.shape(), strides = row_major_strides(shape);
  std::int64_t base = i * strides[axis];
  shape.erase(shape.begin() + static_cast<std::ptrdiff_t>(axis));
  strides.erase(strides.begin() + static_cast<std::ptrdiff_t>(axis));
  return copy_elements(a, shape, [&](const Shape& index) { return base + flat_index(index, strides); });
}

Result<std::vector<Array>> scan_eval(const EvalCtx& c) {
  const Graph& body = *c.node.node().regions[0];
  ScanShape s(c.in.size(), c.node.attrs());
  std::vector<Array> state(c.in.begin(), c.in.begin() + static_cast<std::ptrdiff_t>(s.states));
  std::vector<Stack> stacks(body.outputs.size() - s.states);
  auto axis = [&](std::size_t i) { return static_cast<std::size_t>(*s.in_axis(i, static_cast<int>(c.in[s.states + i].shape().size()))); };
  std::int64_t length = c.in[s.states].shape()[axis(0)];
  for (std::size_t i = 1; i < s.scanned; ++i)
    if (c.in[s.states + i].shape()[axis(i)] != length) return c.error(Code::AG5203, "scans inputs of different lengths");
  for (std::int64_t trip = 0; trip < length; ++trip) {
    std::vector<Array> inputs = state;
    for (std::size_t i = 0; i < s.scanned; ++i) inputs.push_back(slice_at(c.in[s.states + i], axis(i), s.in_reversed(i) ? length - 1 - trip : trip));
    inputs.insert(inputs.end(), c.in.begin() + static_cast<std::ptrdiff_t>(s.states + s.scanned), c.in.end());
    AG_TRY(std::vector<Array> out, c.run(body, inputs));
    for (std::size_t i = 0; i < s.states; ++i) state[i] = std::move(out[i]);
    for (std::size_t i = 0; i < stacks.size(); ++i) stacks[i].push(std::move(out[s.states + i]));
  }
  for (std::size_t i = 0; i < stacks.size(); ++i) {
    auto r = static_cast<std::uint32_t>(s.states + i);
    if (r >= c.node.node().result_count) break;
    auto out_axis = static_cast<std::size_t>(*s.out_axis(i, c.node.out(r).rank()));
    state.push_back(stacks[i].finish(c.node.out(r).dtype, sizes_or_zero(c, c.node.out(r), out_axis), out_axis, s.out_reversed(i)));
  }
  return state;
}

}  // namespace

std::vector<OpInfo> control_ops() {
  OperandSpec any{.name = "values", .type_var = "", .optional = true, .variadic = true};
  OpInfo branch{.name = "If", .onnx = "If", .lower_class = LowerClass::control, .summary = "the results of one of two regions"};
  branch.operands = {{.name = "cond", .type_var = "B", .dtypes = bools}, any};
  branch.results = {{.name = "outputs", .type_var = "", .variadic = true}};
  branch.attrs = {captures_attr()};
  branch.regions = {{"then_branch"}, {"else_branch"}};
  branch.infer = infer_if;
  branch.eval = if_eval;
  branch.no_gradient = "gradients through If are not supported yet";

  OpInfo repeat{.name = "Loop", .onnx = "Loop", .lower_class = LowerClass::control, .summary = "a region repeated up to M times while the condition holds; further outputs of each trip are stacked"};
  repeat.operands = {{.name = "M", .type_var = "I", .dtypes = set_of(DType::i64), .optional = true}, {.name = "cond", .type_var = "B", .dtypes = bools, .optional = true}, any};
  repeat.results = {{.name = "outputs", .type_var = "", .optional = true, .variadic = true}};
  repeat.attrs = {captures_attr()};
  repeat.regions = {{"body"}};
  repeat.infer = infer_loop;
  repeat.eval = loop_eval;
  repeat.no_gradient = "gradients through Loop are not supported yet";

  OpInfo scan{.name = "Scan", .onnx = "Scan", .since = 9, .lower_class = LowerClass::control, .summary = "a region run over slices of its inputs, with states carried along"};
  scan.operands = {any};
  scan.results = {{.name = "outputs", .type_var = "", .variadic = true}};
  scan.attrs = {captures_attr(), {"num_scan_inputs", AttrKind::integer, true}, {"scan_input_axes", AttrKind::ints}, {"scan_input_directions", AttrKind::ints},
                {"scan_output_axes", AttrKind::ints}, {"scan_output_directions", AttrKind::ints}};
  scan.regions = {{"body"}};
  scan.infer = infer_scan;
  scan.eval = scan_eval;
  scan.no_gradient = "gradients through Scan are not supported yet";
  return {branch, repeat, scan};
}

}  // namespace ag

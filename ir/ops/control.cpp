// If, Loop and Scan with ONNX's signatures. What a region uses from outside is an explicit operand behind the op's own
// ones; the attribute `captures` counts them, and they are the last inputs of every region. Their derivatives are those
// of their regions: passes/autodiff_control.cpp.
#include <cstring>
#include <limits>
#include <set>

#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

using Arrays = std::vector<Array>;
using SymbolMap = std::map<std::string, Dim, std::less<>>;

std::size_t capture_count(const Attrs& a) {
  return static_cast<std::size_t>(std::max<std::int64_t>(0, attr_int(a, "captures", 0)));
}

/// A region's dims in terms of the sizes outside: symbols of its inputs stand for the operands' dims. A symbol that no
/// input of the region gives has the value that it has outside, if it is known there.
class Outside {
 public:
  explicit Outside(const InferCtx& c) : c_(c) {
    for (std::size_t i = 0; i < c.operand_count(); ++i)
      if (c.has(i))
        for (const Dim& d : c.in(i).shape) d.collect_symbols(around_);
  }

  /// The region's input takes such operands in every trip.
  void bind(const Type& input, const Type& operand) {
    for (std::size_t i = 0; i < input.shape.size() && i < operand.shape.size(); ++i) {
      if (auto s = input.shape[i].as_symbol()) symbols_.emplace(*s, operand.shape[i]);
      own(input.shape[i]);
    }
  }
  /// The region's input has sizes that change from trip to trip.
  void own(const Dim& inside) { inside.collect_symbols(own_); }
  /// The dim outside, or an unbacked symbol: numbered by result and axis.
  Dim dim(const Dim& inside, std::size_t result, std::size_t axis) const {
    std::set<std::string> used;
    inside.collect_symbols(used);
    for (const std::string& s : used) {
      // Unbacked symbols are numbered graph by graph: one of the region is none of those outside.
      bool outer = around_.contains(s) && !own_.contains(s) && s.find('.') == std::string::npos;
      if (!symbols_.contains(s) && !outer) return c_.unbacked(result * 100 + axis);
    }
    return inside.substitute(symbols_);
  }

 private:
  const InferCtx& c_;
  SymbolMap symbols_;
  std::set<std::string> around_, own_;
};

std::unexpected<Diags> misfit(const InferCtx& c, std::string message) {
  return c.error(Code::AG2210, "`" + std::string(c.op().name) + "`: " + message, "the region does not fit");
}

/// dtype, rank and constant sizes agree; symbols of the region are free.
bool accepts(const Type& input, const Type& operand) {
  if (input.dtype != operand.dtype || input.rank() != operand.rank()) return false;
  for (std::size_t i = 0; i < input.shape.size(); ++i)
    if (input.shape[i].is_const() && operand.shape[i].is_const() && input.shape[i] != operand.shape[i]) return false;
  return true;
}

Status check_region_input(const InferCtx& c, const Graph& region, std::size_t input, const Type& operand,
                          std::string_view what) {
  const Type& t = region.type(region.inputs[input]);
  if (accepts(t, operand)) return {};
  return misfit(c, fmt::format("input {} of the region is {}, but {} is {}", input, t.str(), what, operand.str()));
}

const Type& output_type(const Graph& g, std::size_t i) { return g.type(g.outputs[i].value); }

/// The captures, as the last inputs of the region; binds their sizes.
Status check_captures(const InferCtx& c, const Graph& region, std::size_t own, Outside& outside) {
  std::size_t captures = capture_count(c.attrs());
  if (captures > c.operand_count()) return misfit(c, "there are more captures than operands");
  if (region.inputs.size() != own + captures)
    return misfit(c, fmt::format("the region has {} inputs; {} of its own and {} captured values are needed",
                                 region.inputs.size(), own, captures));
  for (std::size_t i = 0; i < captures; ++i) {
    std::size_t operand = c.operand_count() - captures + i;
    if (!c.has(operand)) return misfit(c, "a captured value is missing");
    AG_TRY_(check_region_input(c, region, own + i, c.in(operand), "the captured value"));
    outside.bind(region.type(region.inputs[own + i]), c.in(operand));
  }
  return {};
}

// ---- If ----------------------------------------------------------------------------------------------------

Types infer_if(const InferCtx& c) {
  if (!c.in(0).elems().is(1)) return misfit(c, "the condition must be a scalar, but is " + c.in(0).str());
  const Graph &a = *c.regions()[0], &b = *c.regions()[1];
  if (a.outputs.size() != b.outputs.size())
    return misfit(c, fmt::format("one branch gives {} values, the other {}", a.outputs.size(), b.outputs.size()));
  Outside of_a(c), of_b(c);
  AG_TRY_(check_captures(c, a, 0, of_a));
  AG_TRY_(check_captures(c, b, 0, of_b));
  std::vector<Type> out;
  for (std::size_t r = 0; r < a.outputs.size(); ++r) {
    const Type &x = output_type(a, r), &y = output_type(b, r);
    if (x.dtype != y.dtype || x.rank() != y.rank())
      return misfit(c, fmt::format("result {} is {} in one branch and {} in the other", r, x.str(), y.str()));
    Type t{x.dtype, {}};
    for (std::size_t i = 0; i < x.shape.size(); ++i) {
      Dim p = of_a.dim(x.shape[i], r, i), q = of_b.dim(y.shape[i], r, i);
      t.shape.push_back(p == q ? p : c.unbacked(r * 100 + i));
    }
    out.push_back(std::move(t));
  }
  return out;
}

Result<Arrays> eval_if(const EvalCtx& c) {
  return c.run(*c.node.node().regions[c.in[0].get_int(0) ? 0 : 1], c.in.subspan(1));
}

// ---- Loop: trip count?, condition?, carried..., captures... ------------------------------------------------------

struct LoopShape {
  std::size_t carried = 0, scans = 0;
};
std::optional<LoopShape> loop_shape(const Graph& body, std::size_t operands, std::size_t captures) {
  std::size_t given = std::max<std::size_t>(operands, 2 + captures);
  LoopShape s{given - 2 - captures, 0};
  if (body.outputs.size() < 1 + s.carried) return std::nullopt;
  s.scans = body.outputs.size() - 1 - s.carried;
  return s;
}

/// The body says "go on" for ever: its condition is what it was given, or a constant true.
bool never_stops(const Graph& body) {
  ValueId v = body.outputs[0].value;
  while (body.def(v).op->name == "Identity") v = body.def(v).operands[0];
  if (v == body.inputs[1]) return true;
  const LiteralPtr* l = body.def(v).attrs.get<LiteralPtr>("value");
  return l && body.def(v).op->name == "constant" && (*l)->materialize().get_int(0) != 0;
}

/// The trip count where the compiler knows it: a known count, and a condition that is always true.
std::optional<Dim> known_trips(const InferCtx& c, const Graph& body) {
  auto count = c.ints(0);
  const Literal* first = c.literal(1);
  if (!count || count->size() != 1 || !never_stops(body) || (c.has(1) && !(first && first->materialize().get_int(0))))
    return std::nullopt;
  return (*count)[0].is_const() ? Dim(std::max<std::int64_t>(0, (*count)[0].value())) : (*count)[0];
}

Types infer_loop(const InferCtx& c) {
  const Graph& body = *c.regions()[0];
  auto shape = loop_shape(body, c.operand_count(), capture_count(c.attrs()));
  if (!shape)
    return misfit(
        c, fmt::format("the body gives {} values; a condition and the carried values are needed", body.outputs.size()));
  Outside outside(c);
  AG_TRY_(check_captures(c, body, 2 + shape->carried, outside));
  AG_TRY_(check_region_input(c, body, 0, {DType::i64, {}}, "the trip number"));
  AG_TRY_(check_region_input(c, body, 1, {DType::boolean, {}}, "the condition"));
  const Type& again = output_type(body, 0);
  if (again.dtype != DType::boolean || (again.rank() != 0 && !again.elems().is(1)))
    return misfit(c, "the body's first output is the condition, bool[], but is " + again.str());
  for (std::size_t i = 0; i < 2; ++i)
    if (c.has(i) && c.in(i).rank() != 0 && !c.in(i).elems().is(1))
      return misfit(c, fmt::format("operand {} must be a scalar, but is {}", i, c.in(i).str()));
  std::vector<std::vector<bool>> kept;  // sizes that no trip changes
  for (std::size_t i = 0; i < shape->carried; ++i) {
    if (!c.has(2 + i)) return misfit(c, "a carried value is missing");
    const Type &in = body.type(body.inputs[2 + i]), &next = output_type(body, 1 + i), &first = c.in(2 + i);
    AG_TRY_(check_region_input(c, body, 2 + i, first, "the carried value"));
    if (!accepts(in, next))
      return misfit(
          c, fmt::format("carried value {} is {} at the start of a trip and {} at its end", i, in.str(), next.str()));
    auto& k = kept.emplace_back();
    Type fixed = in;
    for (std::size_t d = 0; d < in.shape.size(); ++d) {
      k.push_back(in.shape[d] == next.shape[d]);
      if (!k.back()) {
        outside.own(in.shape[d]);
        fixed.shape[d] = 0;  // not to be bound
      }
    }
    outside.bind(fixed, first);
  }
  std::vector<Type> out;
  for (std::size_t i = 0; i < shape->carried; ++i) {
    Type t = c.in(2 + i);
    for (std::size_t d = 0; d < t.shape.size(); ++d)
      if (!kept[i][d]) t.shape[d] = c.unbacked(i * 100 + d);
    out.push_back(std::move(t));
  }
  auto trips = known_trips(c, body);
  for (std::size_t s = 0; s < shape->scans; ++s) {
    const Type& each = output_type(body, 1 + shape->carried + s);
    std::size_t r = shape->carried + s;
    Type t{each.dtype, {trips ? *trips : c.unbacked(99)}};  // all scan outputs are of one length
    for (std::size_t d = 0; d < each.shape.size(); ++d) t.shape.push_back(outside.dim(each.shape[d], r, d));
    out.push_back(std::move(t));
  }
  return out;
}

/// Stacks equal arrays along a new axis; `shape` is that of one where there is none.
Result<Array> stack(const EvalCtx& c, const Arrays& parts, const Type& each, std::size_t axis) {
  std::vector<std::int64_t> shape;
  if (parts.empty()) {
    for (const Dim& d : each.shape) shape.push_back(c.value(d).value_or(0));
  } else {
    shape = parts[0].shape();
  }
  for (const Array& p : parts)
    if (p.shape() != shape) return c.error(Code::AG5203, "stacks values of different sizes");
  std::size_t outer = 1;
  for (std::size_t i = 0; i < axis; ++i) outer *= static_cast<std::size_t>(shape[i]);
  shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(axis), static_cast<std::int64_t>(parts.size()));
  auto size = Array::byte_size(each.dtype, shape);
  if (!size || *size > c.options.max_bytes) return c.error(Code::AG5206, "stacks more bytes than the limit");
  Array out(each.dtype, shape);
  if (out.elems() == 0) return out;
  std::size_t row = *size / outer / parts.size();
  std::byte* to = out.mutable_bytes().data();
  for (std::size_t o = 0; o < outer; ++o)
    for (const Array& p : parts) {
      std::memcpy(to, p.bytes().data() + o * row, row);
      to += row;
    }
  return out;
}

Result<Arrays> eval_loop(const EvalCtx& c) {
  const Graph& body = *c.node.node().regions[0];
  std::size_t captures = capture_count(c.node.attrs());
  LoopShape shape = *loop_shape(body, c.in.size(), captures);
  bool counted = c.node.has(0), go = !c.node.has(1) || c.in[1].get_int(0);
  std::int64_t trips = counted ? c.in[0].get_int(0) : std::numeric_limits<std::int64_t>::max();
  Arrays in(2), out;
  in[0] = Array(DType::i64, {});
  in[1] = Array::scalar(DType::boolean, 1);
  for (std::size_t i = 2; i < c.in.size(); ++i) in.push_back(c.in[i]);
  std::vector<Arrays> scans(shape.scans);
  std::size_t scan_bytes = 0;
  for (std::int64_t trip = 0; trip < trips && go; ++trip) {
    if (trip >= c.options.max_trips)
      return c.error(Code::AG5209, fmt::format("ran {} trips, which is the limit", trip));
    in[0].set_int(0, trip);
    AG_TRY(Arrays results, c.run(body, in));
    go = results[0].get_int(0);
    in[1] = results[0].reshaped({});
    for (std::size_t i = 0; i < shape.carried; ++i) in[2 + i] = std::move(results[1 + i]);
    for (std::size_t s = 0; s < shape.scans; ++s) {
      scan_bytes += results[1 + shape.carried + s].bytes_size();
      scans[s].push_back(std::move(results[1 + shape.carried + s]));
    }
    if (scan_bytes > c.options.max_bytes)
      return c.error(Code::AG5206, fmt::format("has gathered {} bytes in {} trips", scan_bytes, trip + 1));
  }
  for (std::size_t i = 0; i < shape.carried; ++i) out.push_back(std::move(in[2 + i]));
  for (std::size_t s = 0; s < shape.scans; ++s) {
    AG_TRY(Array a, stack(c, scans[s], output_type(body, 1 + shape.carried + s), 0));
    out.push_back(std::move(a));
  }
  return out;
}

// ---- Scan: states..., sequences..., captures... ----------------------------------------------------------------

struct ScanShape {
  std::size_t states = 0, sequences = 0, outputs = 0;
};
std::optional<ScanShape> scan_shape(const Graph& body, std::size_t operands, const Attrs& attrs) {
  std::size_t captures = capture_count(attrs);
  std::int64_t m = attr_int(attrs, "num_scan_inputs", 0);
  if (m < 1 || static_cast<std::size_t>(m) + captures > operands) return std::nullopt;
  ScanShape s{operands - captures - static_cast<std::size_t>(m), static_cast<std::size_t>(m), 0};
  if (body.outputs.size() < s.states) return std::nullopt;
  s.outputs = body.outputs.size() - s.states;
  return s;
}

std::int64_t entry(const Attrs& a, std::string_view name, std::size_t i) {
  Ints list = attr_ints(a, name);
  return i < list.size() ? list[i] : 0;
}

Types infer_scan(const InferCtx& c) {
  const Graph& body = *c.regions()[0];
  auto shape = scan_shape(body, c.operand_count(), c.attrs());
  if (!shape) return misfit(c, "num_scan_inputs does not fit the operands and the body");
  Outside outside(c);
  AG_TRY_(check_captures(c, body, shape->states + shape->sequences, outside));
  std::vector<Type> out;
  for (std::size_t i = 0; i < shape->states; ++i) {
    const Type &in = body.type(body.inputs[i]), &next = output_type(body, i);
    AG_TRY_(check_region_input(c, body, i, c.in(i), "the state"));
    if (in != next)
      return misfit(c, fmt::format("state {} is {} at the start of a trip and {} at its end", i, in.str(), next.str()));
    outside.bind(in, c.in(i));
    out.push_back(c.in(i));
  }
  std::optional<Dim> length;
  for (std::size_t i = 0; i < shape->sequences; ++i) {
    Type each = c.in(shape->states + i);
    AG_TRY(int axis, checked_axis(c, entry(c.attrs(), "scan_input_axes", i), each.rank(), shape->states + i));
    const Dim& n = each.shape[static_cast<std::size_t>(axis)];
    if (!length) length = n;
    if (*length != n && length->is_const() && n.is_const()) return misfit(c, "the sequences have different lengths");
    each.shape.erase(each.shape.begin() + axis);
    AG_TRY_(check_region_input(c, body, shape->states + i, each, "an element of the sequence"));
    outside.bind(body.type(body.inputs[shape->states + i]), each);
  }
  for (std::size_t s = 0; s < shape->outputs; ++s) {
    const Type& each = output_type(body, shape->states + s);
    Type t{each.dtype, {}};
    for (std::size_t d = 0; d < each.shape.size(); ++d)
      t.shape.push_back(outside.dim(each.shape[d], shape->states + s, d));
    AG_TRY(int axis, checked_axis(c, entry(c.attrs(), "scan_output_axes", s), each.rank() + 1, 0));
    t.shape.insert(t.shape.begin() + axis, *length);
    out.push_back(std::move(t));
  }
  return out;
}

/// Element i along an axis, that axis gone.
Array element_of(const Array& a, std::size_t axis, std::int64_t i) {
  std::vector<std::int64_t> shape = a.shape();
  auto length = static_cast<std::size_t>(shape[axis]);
  std::size_t outer = 1;
  for (std::size_t d = 0; d < axis; ++d) outer *= static_cast<std::size_t>(shape[d]);
  shape.erase(shape.begin() + static_cast<std::ptrdiff_t>(axis));
  Array out(a.dtype(), shape);
  if (out.elems() == 0) return out;
  std::size_t row = out.bytes_size() / outer;
  for (std::size_t o = 0; o < outer; ++o)
    std::memcpy(out.mutable_bytes().data() + o * row,
                a.bytes().data() + (o * length + static_cast<std::size_t>(i)) * row, row);
  return out;
}

Result<Arrays> eval_scan(const EvalCtx& c) {
  const Graph& body = *c.node.node().regions[0];
  const Attrs& attrs = c.node.attrs();
  ScanShape shape = *scan_shape(body, c.in.size(), attrs);
  std::vector<std::size_t> axes;
  std::int64_t length = -1;
  for (std::size_t i = 0; i < shape.sequences; ++i) {
    const Array& a = c.in[shape.states + i];
    axes.push_back(static_cast<std::size_t>(
        *normalize_axis(entry(attrs, "scan_input_axes", i), static_cast<int>(a.shape().size()))));
    if (length >= 0 && length != a.shape()[axes[i]])
      return c.error(Code::AG5203, "runs over sequences of different lengths");
    length = a.shape()[axes[i]];
  }
  if (length > c.options.max_trips)
    return c.error(Code::AG5209, fmt::format("would run {} trips, which is above the limit", length));
  Arrays in(c.in.begin(), c.in.end()), out;
  std::vector<Arrays> gathered(shape.outputs);
  for (std::int64_t trip = 0; trip < length; ++trip) {
    for (std::size_t i = 0; i < shape.sequences; ++i) {
      bool back = entry(attrs, "scan_input_directions", i) != 0;
      in[shape.states + i] = element_of(c.in[shape.states + i], axes[i], back ? length - 1 - trip : trip);
    }
    AG_TRY(Arrays results, c.run(body, in));
    for (std::size_t i = 0; i < shape.states; ++i) in[i] = std::move(results[i]);
    for (std::size_t s = 0; s < shape.outputs; ++s) gathered[s].push_back(std::move(results[shape.states + s]));
  }
  for (std::size_t i = 0; i < shape.states; ++i) out.push_back(std::move(in[i]));
  for (std::size_t s = 0; s < shape.outputs; ++s) {
    if (entry(attrs, "scan_output_directions", s)) std::ranges::reverse(gathered[s]);
    const Type& each = output_type(body, shape.states + s);
    int axis = *normalize_axis(entry(attrs, "scan_output_axes", s), each.rank() + 1);
    AG_TRY(Array a, stack(c, gathered[s], each, static_cast<std::size_t>(axis)));
    out.push_back(std::move(a));
  }
  return out;
}

// ---- Scan of opset 8: over a batch --------------------------------------------------------------------------------

/// What one element of the batch runs: a Scan of today, its states, sequences and captures as inputs of the graph.
Result<Graph> scan_of_one(std::span<const Type> operands, std::size_t captures, const Attrs& attrs, GraphPtr body,
                          std::span<const Loc> locs) {
  Graph g;
  GraphBuilder b(g);
  GraphBuilder::NodeArgs args;
  for (const Type& t : operands) args.operands.push_back(b.input("", t));
  args.attrs.set("num_scan_inputs", attr_int(attrs, "num_scan_inputs", 0));
  args.attrs.set("scan_input_directions", attr_ints(attrs, "directions"));
  args.attrs.set("captures", static_cast<std::int64_t>(captures));
  args.regions = {std::move(body)};
  args.locs.assign(locs.begin(), locs.end());
  AG_TRY(NodeId id, b.try_add(op("Scan"), std::move(args)));
  for (std::uint32_t r = 0; r < g.node(id).result_count; ++r)
    g.outputs.push_back({"o" + std::to_string(r), g.node(id).result(r), {}});
  return g;
}

/// Types of one element of the batch, from those of the operands behind sequence_lens; nothing if one is a scalar.
std::optional<std::vector<Type>> of_one(std::vector<Type> operands, std::size_t captures) {
  for (std::size_t i = 0; i + captures < operands.size(); ++i) {
    if (operands[i].rank() == 0) return std::nullopt;
    operands[i].shape.erase(operands[i].shape.begin());
  }
  return operands;
}

Types infer_scan_8(const InferCtx& c) {
  std::size_t captures = capture_count(c.attrs());
  if (c.has(0)) return misfit(c, "sequence_lens of opset 8 are not taken; pad the sequences to one length");
  std::vector<Type> operands;
  for (std::size_t i = 1; i < c.operand_count(); ++i) {
    if (!c.has(i)) return misfit(c, "an operand is missing");
    operands.push_back(c.in(i));
  }
  auto one = of_one(operands, captures);
  if (!one || operands.size() <= captures) return misfit(c, "states and sequences need a batch axis");
  AG_TRY(Graph g, scan_of_one(*one, captures, c.attrs(), c.regions()[0], {}));
  std::vector<Type> out;
  for (std::size_t r = 0; r < g.outputs.size(); ++r) {
    Type t = output_type(g, r);
    for (const Dim& d : t.shape)
      if (auto s = d.as_symbol(); s && s->find('.') != std::string::npos)
        return misfit(c, "an output has a size that only the data know");
    t.shape.insert(t.shape.begin(), operands[0].shape[0]);
    out.push_back(std::move(t));
  }
  return out;
}

std::vector<ValueId> scan_8(Builder& b, const View& n) {
  std::size_t captures = capture_count(n.attrs()), given = n.operand_count() - 1;
  std::vector<Type> operands;
  std::vector<ValueId> values;
  for (std::size_t i = 1; i <= given; ++i) {
    operands.push_back(n.in(i));
    values.push_back(n.operand(i));
  }
  Graph one = *scan_of_one(*of_one(operands, captures), captures, n.attrs(), n.node().regions[0], n.node().locs);
  GraphBuilder::NodeArgs args;
  args.operands = values;
  args.attrs.set("num_scan_inputs", static_cast<std::int64_t>(given - captures));
  args.attrs.set("captures", static_cast<std::int64_t>(captures));
  args.regions = {std::make_shared<const Graph>(std::move(one))};
  auto id = b.try_add(op("Scan"), std::move(args));
  AG_CHECK(id.has_value(), "a batch of scans");
  std::vector<ValueId> out;
  for (std::uint32_t r = 0; r < b.graph().node(*id).result_count; ++r) out.push_back(b.graph().node(*id).result(r));
  return out;
}

// ---- Records -----------------------------------------------------------------------------------------------

OpInfo control(std::string_view name, std::string_view summary) {
  OpInfo op;
  op.name = op.onnx = name;
  op.summary = summary;
  op.lower_class = LowerClass::control;
  op.attrs = {int_attr("captures", 0, "how many of the last operands the regions use from outside")};
  return op;
}

OpInfo if_op() {
  OpInfo op = control("If", "One of two regions, by a scalar condition.");
  op.operands = {{"cond", "B", bools}, {"captures", "", any_dtype, true, true}};
  op.results = {{"outputs", "", false, true}};
  op.regions = {{"then_branch"}, {"else_branch"}};
  op.infer = infer_if;
  op.eval = eval_if;
  return op;
}

OpInfo loop_op() {
  OpInfo op = control("Loop",
                      "A counted loop, a while loop, or both: body(trip, condition, carried...) gives (condition, "
                      "carried..., scanned...).");
  op.operands = {
      {"M", "I", set_of(DType::i64), true}, {"cond", "B", bools, true}, {"v_initial", "", any_dtype, true, true}};
  op.results = {{"v_final_and_scan_outputs", "", false, true}};
  op.regions = {{"body"}};
  op.infer = infer_loop;
  op.eval = eval_loop;
  return op;
}

OpInfo scan_op() {
  OpInfo op = control(
      "Scan", "Runs body(states..., elements...) over sequences; gives the last states and the stacked outputs.");
  op.since = 9;
  op.operands = {{"initial_state_and_scan_inputs", "", any_dtype, false, true}};
  op.results = {{"final_state_and_scan_outputs", "", false, true}};
  op.attrs.push_back({"num_scan_inputs", AttrKind::integer, true, "how many of the operands are sequences"});
  op.attrs.push_back({"scan_input_axes", AttrKind::ints, false, "axis along which each sequence runs; 0"});
  op.attrs.push_back({"scan_input_directions", AttrKind::ints, false, "1: from the end"});
  op.attrs.push_back({"scan_output_axes", AttrKind::ints, false, "axis along which each output is stacked; 0"});
  op.attrs.push_back({"scan_output_directions", AttrKind::ints, false, "1: prepended"});
  op.regions = {{"body"}};
  op.infer = infer_scan;
  op.eval = eval_scan;
  return op;
}

// ---- Gradient: xs..., zs..., captures... ------------------------------------------------------------------------

std::size_t variable_count(const Attrs& a) { return a.get_or<std::vector<std::string>>("xs", {}).size(); }

Types infer_gradient(const InferCtx& c) {
  const Graph& body = *c.regions()[0];
  Outside outside(c);
  AG_TRY_(check_captures(c, body, c.operand_count() - std::min(capture_count(c.attrs()), c.operand_count()), outside));
  std::size_t count = variable_count(c.attrs());
  if (body.outputs.size() != 1 || count == 0 || count > c.operand_count())
    return misfit(c, "it differentiates one value with respect to at least one of its operands");
  std::vector<Type> out;
  for (std::size_t i = 0; i < count; ++i) {
    if (!c.has(i)) return misfit(c, "a variable is missing");
    AG_TRY_(check_region_input(c, body, i, c.in(i), "the variable"));
    out.push_back(c.in(i));
  }
  return out;
}

OpInfo gradient_op() {
  OpInfo op =
      control("Gradient",
              "The gradient of what the region computes with respect to its first inputs; the pass autodiff puts "
              "it in place.");
  op.domain = "ai.onnx.preview.training";
  op.operands = {{"Inputs", "", any_dtype, false, true}};
  op.results = {{"Outputs", "", false, true}};
  op.attrs.push_back({"xs", AttrKind::strings, true, "names of the variables, which are the first operands"});
  op.attrs.push_back({"zs", AttrKind::strings, false, "names of further operands that stand for values of the graph"});
  op.attrs.push_back({"y", AttrKind::string, true, "name of the value that is differentiated"});
  op.regions = {{"body"}};
  op.infer = infer_gradient;
  op.no_gradient = "it is put in place before anything else is differentiated";
  op.eval = [](const EvalCtx& c) -> Result<Arrays> {
    return c.error(Code::AG5210, "is evaluated once the pass autodiff has put it in place");
  };
  return op;
}

OpInfo scan_8_op() {
  OpInfo op = control("Scan_8", "Scan of opset 8: for each element of a batch.");
  op.onnx = "Scan";
  op.since = op.until = 8;
  op.tier = Tier::composite;
  op.lower_class = LowerClass::none;
  op.operands = {{"sequence_lens", "I", set_of(DType::i64), true},
                 {"initial_state_and_scan_inputs", "", any_dtype, true, true}};
  op.results = {{"final_state_and_scan_outputs", "", false, true}};
  op.attrs.push_back({"num_scan_inputs", AttrKind::integer, true, "how many of the operands are sequences"});
  op.attrs.push_back({"directions", AttrKind::ints, false, "1: from the end"});
  op.regions = {{"body"}};
  op.infer = infer_scan_8;
  op.decompose = scan_8;
  return op;
}

}  // namespace

std::vector<OpInfo> control_ops() { return {if_op(), loop_op(), scan_op(), scan_8_op(), gradient_op()}; }

}  // namespace ag

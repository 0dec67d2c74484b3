// If, Loop and Scan as steps. Regions are lowered into the same program; what they capture are buffers that are there
// already. Carried values have two places each, which the end of a trip exchanges; elements of sequences and outputs
// that are gathered are slots of the whole: nothing is copied from trip to trip. A carried value whose size changes,
// and what is gathered over a number of trips that only the data know, lie in memory that grows.
#include <algorithm>
#include <cstring>

#include "ir/loop/abi.hpp"
#include "ir/symbols.hpp"
#include "passes/lower_graph.hpp"
#include "passes/regions.hpp"

namespace ag::passes {

using loop::Access;
using loop::BufferKind;
using loop::DimGuard;
using loop::Place;
using loop::ProgramBufferId;
using loop::SegmentId;
using loop::Seq;
using Buffers = std::vector<ProgramBufferId>;

namespace {

void add_symbols(const Dims& dims, std::set<std::string>& out) {
  for (const Dim& d : dims) d.collect_symbols(out);
}

/// A constant buffer of one bool.
ProgramBufferId constant_true(loop::Program& p) {
  loop::ProgramBuffer b{.kind = BufferKind::constant, .dtype = DType::boolean, .shape = {}};
  b.constant = std::make_shared<const std::uint8_t>(std::uint8_t{1});
  return p.buffers.push(std::move(b));
}

bool is_constant_true(const Graph& g, ValueId v) {
  const LiteralPtr* l = g.def(v).attrs.get<LiteralPtr>("value");
  return l && g.def(v).op->name == "constant" && (*l)->materialize().get_int(0) != 0;
}

}  // namespace

/// A region with its symbols in terms of the program's, ready to be lowered.
struct GraphLowering::Region {
  Graph g;
  SymbolMap symbols;             ///< of the region as it stood: what they mean in the program
  loop::CheckStep requirements;  ///< sizes that the region takes for equal
};

/// Binds the region's inputs to dims of the program; `fixed[i]` are those of input i, an empty list leaves it out.
Result<std::unique_ptr<GraphLowering::Region>> GraphLowering::region(NodeId id, std::size_t index,
                                                                     const std::vector<std::optional<Dims>>& given,
                                                                     SymbolMap own) {
  auto r = std::make_unique<Region>();
  AG_TRY(Graph g, prepare_region(*g_.node(id).regions[index], p_.context));
  r->symbols = std::move(own);
  auto require = [&](const Dim& a, const Dim& b) {
    if (a != b)
      r->requirements.guards.push_back(
          {a, b, DimGuard::Rel::eq, "sizes that a region takes for equal", source(id) + 1});
  };
  std::vector<std::pair<Dim, Dim>> later;
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (!given[i]) continue;
    const Dims& shape = g.type(g.inputs[i]).shape;
    for (std::size_t d = 0; d < shape.size(); ++d) {
      auto s = shape[d].as_symbol();
      if (s && r->symbols.emplace(*s, (*given[i])[d]).second) continue;
      later.emplace_back(shape[d], (*given[i])[d]);
    }
  }
  for (const auto& [name, node] : unbacked_definitions(g))
    if (!r->symbols.contains(name)) r->symbols.emplace(name, Dim::symbol(p_.fresh_symbol()));
  for (const auto& [inside, outside] : later) require(inside.substitute(r->symbols), outside);
  r->g = substitute_symbols(g, r->symbols);
  return r;
}

// ---- If ----------------------------------------------------------------------------------------------------

Status GraphLowering::lower_if(NodeId id) {
  const Node& n = g_.node(id);
  Buffers captures;
  std::vector<std::optional<Dims>> shapes;
  for (std::size_t i = 1; i < n.operands.size(); ++i) {
    captures.push_back(buffer(n.operands[i]));
    shapes.emplace_back(g_.type(n.operands[i]).shape);
  }
  struct Branch {
    std::unique_ptr<Region> region;
    std::shared_ptr<Seq> steps = std::make_shared<Seq>();
    std::unique_ptr<GraphLowering> lowering;
  } branches[2];
  // Sizes that the branches tell become known at their ends.
  std::vector<std::string> names;
  std::vector<std::pair<std::uint32_t, std::size_t>> places;
  Buffers results, targets;
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    std::set<std::string> used;
    const Dims& shape = g_.type(n.result(r)).shape;
    add_symbols(shape, used);
    bool open = std::any_of(used.begin(), used.end(), [&](const std::string& s) { return !p_.known.contains(s); });
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (auto s = shape[d].as_symbol();
          s && !p_.known.contains(*s) && std::find(names.begin(), names.end(), *s) == names.end()) {
        names.push_back(*s);
        places.emplace_back(r, d);
      }
    results.push_back(buffer(n.result(r)));
    targets.push_back(open ? ProgramBufferId{} : results.back());
  }
  for (std::size_t k = 0; k < 2; ++k) {
    Branch& b = branches[k];
    AG_TRY(b.region, region(id, k, shapes, {}));
    if (!b.region->requirements.guards.empty()) b.steps->steps.push_back({b.region->requirements});
    b.lowering = std::make_unique<GraphLowering>(b.region->g, p_, *b.steps, true);
    AG_TRY_(b.lowering->check());
    AG_TRY_(b.lowering->run(captures, targets));
  }
  const SegmentId segment = names.empty() ? SegmentId{} : p_.add_segment(names);
  for (Branch& b : branches) {
    if (names.empty()) break;
    Dims exprs;
    for (auto [r, d] : places) exprs.push_back(b.region->g.type(b.region->g.outputs[r].value).shape[d]);
    b.steps->steps.push_back({loop::BindStep{segment, {}, std::move(exprs), source(id) + 1, "If"}});
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      if (!targets[r])
        b.lowering->copy(b.lowering->output(r), results[r], b.region->g.value(b.region->g.outputs[r].value).node);
  }
  own_segments_.insert(segment.index);
  steps_.steps.push_back({loop::IfStep{buffer(n.operands[0]), branches[0].steps, branches[1].steps}});
  return {};
}

// ---- What Loop and Scan share --------------------------------------------------------------------------------

/// A loop under construction: the number of the trip, whether there is a next one, carried and gathered values.
struct GraphLowering::Trips {
  NodeId id;
  ProgramBufferId trip, again;             ///< i64[], bool[]
  ProgramBufferId count;                   ///< i64: the number of trips, or
  std::optional<Dim> length;               ///< as a size
  std::shared_ptr<Seq> body = std::make_shared<Seq>();
  Buffers inputs, targets;                 ///< of the region
  std::vector<loop::SwapStep> swaps;
};

/// trip = 0 or trip + 1; again = the condition holds and the count is not reached.
void GraphLowering::advance(const Trips& t, ProgramBufferId condition, bool first, std::uint32_t place) {
  loop::Builder b(first ? "begin" : "advance");
  auto trip = b.param(DType::i64, 1, first ? Access::write : Access::read_write);
  auto again = b.param(DType::boolean, 1, Access::write);
  Buffers buffers{t.trip, t.again};
  loop::BufferId count, go;
  if (t.count) {
    count = b.param(DType::i64, 1, Access::read);
    buffers.push_back(t.count);
  }
  if (condition) {
    go = b.param(DType::boolean, 1, Access::read);
    buffers.push_back(condition);
  }
  b.set_origin(1);
  loop::ValueId zero = b.index(0);
  loop::ValueId next = first ? zero : b.add(b.load(trip, zero), b.index(1));
  loop::ValueId result = b.constant_int(DType::boolean, 1);
  if (condition) result = b.load(go, zero);
  std::optional<loop::ValueId> limit;
  if (t.count) limit = b.load(count, zero);
  if (t.length) limit = b.dim(*t.length);
  if (limit) result = b.op(loop::Op::and_, {result, b.op(loop::Op::cmp_lt, {next, *limit})});
  b.store(trip, zero, next);
  b.store(again, zero, result);
  LoweredKernel k;
  k.kernel = std::move(b).finish();
  k.label = first ? "begin" : "advance";
  call_at(std::move(k), std::move(buffers), place);
}

/// A carried value that starts as that operand, whose shape in the region is `shape`, and `next` after a trip.
ProgramBufferId GraphLowering::carry(Trips& t, std::size_t operand, const Dims& shape, const Dims& next, bool grows,
                                     bool kept) {
  ProgramBufferId from = buffer(g_.node(t.id).operands[operand]), now = from;
  DType dtype = program().buffers[from].dtype;
  if (!kept || !takes_over(t.id, operand)) {
    now = p_.temp(dtype, shape, "carried");
    if (grows) program().buffers[now].place = Place::growable;
    copy(from, now, t.id);
  }
  t.inputs.push_back(now);
  ProgramBufferId then;
  if (!kept) {
    then = p_.temp(dtype, next, "next");
    if (grows) program().buffers[then].place = Place::growable;
    t.swaps.push_back({now, then});
  }
  t.targets.push_back(then);
  return now;
}

/// Part number trip of `of`, for reading or writing.
ProgramBufferId GraphLowering::slot(Trips& t, ProgramBufferId of, const Dims& shape, bool backwards, Seq& where) {
  ProgramBufferId view = p_.temp(program().buffers[of].dtype, shape, "slot");
  program().buffers[view].place = Place::slot;
  loop::SlotStep step{view, of, t.trip, backwards, backwards ? *t.length : Dim(0), source(t.id) + 1};
  where.steps.push_back({std::move(step)});
  return view;
}

/// Output `o` of the body is part of `all` in each trip: written there, or copied if its size is known too late.
void GraphLowering::gather(Trips& t, const Graph& body, std::size_t o, ProgramBufferId all, bool backwards,
                           Late& late) {
  const Dims& each = body.type(body.outputs[o].value).shape;
  std::set<std::string> used;
  add_symbols(each, used);
  bool known = std::all_of(used.begin(), used.end(), [&](const std::string& s) { return p_.known.contains(s); });
  if (known) {
    t.targets.push_back(slot(t, all, each, backwards, *t.body));
  } else {
    t.targets.emplace_back();
    late.push_back({o, all, backwards});
  }
}

/// The body, its end, and the loop around it.
Status GraphLowering::run_body(Trips& t, GraphLowering& body, const Late& late, ProgramBufferId condition) {
  for (auto [o, all, backwards] : late) {
    ValueId v = body.graph().outputs[o].value;
    ProgramBufferId part = slot(t, all, body.graph().type(v).shape, backwards, *t.body);
    body.copy(body.output(o), part, body.graph().value(v).node);
  }
  body.advance(t, condition, false, source(t.id));
  for (const loop::SwapStep& s : t.swaps) t.body->steps.push_back({s});
  steps_.steps.push_back({loop::WhileStep{t.again, std::make_shared<Seq>(), t.body}});
  return {};
}

// ---- Loop --------------------------------------------------------------------------------------------------

/// Sizes of carried values that change from trip to trip: they get symbols of their own. All other symbols of the body
/// stand for sizes outside.
struct GraphLowering::CarriedSizes {
  struct Tied {
    std::size_t value, axis;
    bool symbol;  ///< or a constant
  };
  SymbolMap own;  ///< by the body's names
  std::vector<std::string> names;
  std::vector<std::pair<std::size_t, std::size_t>> places;  ///< of the names: carried value, axis
  std::vector<Tied> tied;  ///< changing sizes that the body takes for equal to a named one, or to a constant
  std::vector<bool> grows;
};

GraphLowering::CarriedSizes GraphLowering::carried_sizes(const Graph& body, std::size_t carried) {
  CarriedSizes sizes;
  sizes.grows.resize(carried);
  for (std::size_t i = 0; i < carried; ++i) {
    const Dims& inside = body.type(body.inputs[2 + i]).shape;
    for (std::size_t d = 0; d < inside.size(); ++d) {
      if (inside[d] == body.type(body.outputs[1 + i].value).shape[d]) continue;
      sizes.grows[i] = true;
      auto s = inside[d].as_symbol();
      if (!s || sizes.own.contains(*s)) {
        sizes.tied.push_back({i, d, s.has_value()});
        continue;
      }
      sizes.names.push_back(p_.fresh_symbol());
      sizes.own.emplace(*s, Dim::symbol(sizes.names.back()));
      sizes.places.emplace_back(i, d);
    }
  }
  return sizes;
}

/// What must hold of tied sizes before the loop, and at the end of each trip. `first`: shapes of the initial values.
std::pair<loop::CheckStep, loop::CheckStep> GraphLowering::tied_checks(NodeId id, const CarriedSizes& sizes,
                                                                       const Graph& body,
                                                                       const std::vector<Dims>& first) {
  auto next = [&](std::size_t i, std::size_t d) { return body.type(body.outputs[1 + i].value).shape[d]; };
  loop::CheckStep before, after;
  for (const CarriedSizes::Tied& x : sizes.tied) {
    Dim inside = body.type(body.inputs[2 + x.value]).shape[x.axis], wanted = inside;
    for (std::size_t k = 0; k < sizes.names.size() && x.symbol; ++k)
      if (inside == Dim::symbol(sizes.names[k])) wanted = next(sizes.places[k].first, sizes.places[k].second);
    auto guard = [&](const Dim& a, const Dim& b) {
      return DimGuard{a, b, DimGuard::Rel::eq, "sizes of carried values that the body takes for equal", source(id) + 1};
    };
    before.guards.push_back(guard(first[x.value][x.axis], inside));
    after.guards.push_back(guard(next(x.value, x.axis), wanted));
  }
  return {std::move(before), std::move(after)};
}

Status GraphLowering::lower_loop(NodeId id) {
  const Node& n = g_.node(id);
  const std::size_t captures = capture_count(n);
  const std::size_t given = std::max<std::size_t>(n.operands.size(), 2 + captures), carried = given - 2 - captures;
  auto operand = [&](std::size_t i) { return i < n.operands.size() ? n.operands[i] : ValueId{}; };
  const CarriedSizes sizes = carried_sizes(*n.regions[0], carried);
  std::vector<Dims> first;
  std::vector<std::optional<Dims>> shapes(n.regions[0]->inputs.size());
  for (std::size_t i = 0; i < carried; ++i) {
    first.push_back(g_.type(operand(2 + i)).shape);
    Dims inside = n.regions[0]->type(n.regions[0]->inputs[2 + i]).shape, shape = first[i];
    for (std::size_t d = 0; d < inside.size(); ++d)
      if (auto s = inside[d].as_symbol(); s && sizes.own.contains(*s)) shape[d] = sizes.own.at(*s);
    shapes[2 + i] = std::move(shape);
  }
  for (std::size_t i = 0; i < captures; ++i) shapes[2 + carried + i] = g_.type(operand(given - captures + i)).shape;
  AG_TRY(std::unique_ptr<Region> r, region(id, 0, shapes, sizes.own));
  if (!r->requirements.guards.empty()) steps_.steps.push_back({r->requirements});

  Trips t{.id = id,
          .trip = p_.temp(DType::i64, {}, "trip"),
          .again = p_.temp(DType::boolean, {}, "again"),
          .count = {},
          .length = {}};
  if (operand(0)) t.count = buffer(operand(0));
  SegmentId segment;
  if (!sizes.names.empty()) {
    Dims exprs;
    for (auto [i, d] : sizes.places) exprs.push_back(first[i][d]);
    segment = p_.add_segment(sizes.names);
    bind(segment, {}, std::move(exprs), id);
  }
  auto [before, after] = tied_checks(id, sizes, r->g, first);
  if (!sizes.tied.empty()) steps_.steps.push_back({std::move(before)});
  const Graph& body = r->g;
  auto output_shape = [&](std::size_t o) -> const Dims& { return body.type(body.outputs[o].value).shape; };
  t.inputs = {t.trip, constant_true(program())};
  t.targets = {ProgramBufferId{}};
  GraphLowering inside(body, p_, *t.body, true);
  for (std::size_t i = 0; i < carried; ++i)
    if (!sizes.grows[i]) inside.own(body.inputs[2 + i]);
  std::vector<ProgramBufferId> results;
  for (std::size_t i = 0; i < carried; ++i) {
    bool kept = inside.in_place_root(body.outputs[1 + i].value) == body.inputs[2 + i];
    results.push_back(carry(t, 2 + i, body.type(body.inputs[2 + i]).shape, output_shape(1 + i), sizes.grows[i], kept));
  }
  for (std::size_t i = 0; i < captures; ++i) t.inputs.push_back(buffer(operand(given - captures + i)));

  Late late;
  for (std::size_t o = 1 + carried; o < body.outputs.size(); ++o) {
    std::size_t result = o - 1;
    if (result >= n.result_count) {
      t.targets.emplace_back();
      continue;
    }
    results.push_back(buffer(n.result(static_cast<std::uint32_t>(result))));
    if (is_open(program().buffers[results.back()].shape)) program().buffers[results.back()].place = Place::growable;
    gather(t, body, o, results.back(), false, late);
  }
  advance(t, operand(1) ? buffer(operand(1)) : ProgramBufferId{}, true, source(id));
  AG_TRY_(inside.check());
  AG_TRY_(inside.run(t.inputs, t.targets));
  ValueId go = body.outputs[0].value;
  bool always = go == body.inputs[1] || is_constant_true(body, go);
  AG_TRY_(run_body(t, inside, late, always ? ProgramBufferId{} : inside.output(0)));
  if (!sizes.tied.empty()) t.body->steps.push_back({std::move(after)});
  if (!sizes.names.empty()) {
    Dims next;
    for (auto [i, d] : sizes.places) next.push_back(output_shape(1 + i)[d]);
    t.body->steps.push_back({loop::BindStep{segment, {}, std::move(next), source(id) + 1, "Loop"}});
  }
  name_loop_results(id, body, carried, results, t.trip, 1, std::vector<std::size_t>(n.result_count, 0));
  return {};
}

/// Whether the data alone tell a size of the shape, and have not yet.
bool GraphLowering::is_open(const Dims& shape) const {
  std::set<std::string> used;
  add_symbols(shape, used);
  return std::any_of(used.begin(), used.end(), [&](const std::string& s) { return !p_.known.contains(s); });
}

/// After the loop: the sizes of its results become known, and its buffers are the results'. Output `first` of the body
/// belongs to result 0; `axes[r]` is the axis along which result `carried` + r is gathered.
void GraphLowering::name_loop_results(NodeId id, const Graph& body, std::size_t carried, const Buffers& results,
                                      ProgramBufferId trip, std::size_t first, const std::vector<std::size_t>& axes) {
  const Node& n = g_.node(id);
  std::vector<std::string> names, lengths;
  Dims exprs;
  auto open = [&](const Dim& d) { return d.as_symbol() && !p_.known.contains(*d.as_symbol()); };
  Dim length = 0;
  for (std::uint32_t r = static_cast<std::uint32_t>(carried); r < n.result_count; ++r) {
    length = g_.type(n.result(r)).shape[axes[r - carried]];
    if (!open(length)) continue;
    lengths = {*length.as_symbol()};  // all have the same
    bind(p_.add_segment(lengths), trip, {}, id);
  }
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    const Dims& shape = g_.type(n.result(r)).shape;
    for (std::size_t d = 0; d < shape.size(); ++d) {
      if (!open(shape[d]) || std::find(names.begin(), names.end(), *shape[d].as_symbol()) != names.end()) continue;
      names.push_back(*shape[d].as_symbol());
      if (r < carried) {
        exprs.push_back(body.type(body.inputs[2 + r]).shape[d]);
      } else {  // without a trip no size is known: 0
        std::size_t inside = d < axes[r - carried] ? d : d - 1;
        Dim inner = body.type(body.outputs[first + r].value).shape[inside];
        exprs.push_back(min(inner, length * Dim(std::int64_t{1} << 40)));
      }
    }
  }
  if (!names.empty()) bind(p_.add_segment(names), {}, std::move(exprs), id);
  for (std::uint32_t r = 0; r < n.result_count && r < carried; ++r) {
    const Type& type = g_.type(n.result(r));
    if (program().buffers[results[r]].place != Place::growable) {
      buffer_of_[n.result(r).index] = results[r];
      continue;
    }
    ProgramBufferId alias = p_.temp(type.dtype, type.shape, g_.value(n.result(r)).name);
    program().buffers[alias].alias_of = results[r];
    buffer_of_[n.result(r).index] = alias;
  }
}

// ---- Scan --------------------------------------------------------------------------------------------------

/// A copy of `from` (shape `shape`) with one axis moved.
ProgramBufferId GraphLowering::move_axis(ProgramBufferId from, const Dims& shape, std::size_t axis, std::size_t to,
                                         ProgramBufferId target, NodeId why) {
  Dims moved = shape;
  Dim size = moved[axis];
  moved.erase(moved.begin() + static_cast<std::ptrdiff_t>(axis));
  moved.insert(moved.begin() + static_cast<std::ptrdiff_t>(to), size);
  DType dtype = program().buffers[from].dtype;
  if (!target) target = p_.temp(dtype, moved, "moved");
  loop::Builder b("move");
  auto source = b.param(dtype, product(shape), Access::read), out = b.param(dtype, product(moved), Access::write);
  b.set_origin(1);
  std::vector<loop::ValueId> at;
  std::function<void()> nest = [&] {
    if (at.size() == moved.size()) {
      std::vector<loop::ValueId> index = at;
      loop::ValueId i = index[to];
      index.erase(index.begin() + static_cast<std::ptrdiff_t>(to));
      index.insert(index.begin() + static_cast<std::ptrdiff_t>(axis), i);
      b.store(out, linear_index(b, moved, at), b.load(source, linear_index(b, shape, index)));
      return;
    }
    auto role = at.size() + 1 == moved.size() ? loop::AxisRole::col : loop::AxisRole::batch;
    b.for_each(b.dim(moved[at.size()]), {.mapping = loop::Mapping::parallel, .role = role}, [&](loop::ValueId i) {
      at.push_back(i);
      nest();
      at.pop_back();
    });
  };
  nest();
  LoweredKernel k;
  k.kernel = std::move(b).finish();
  k.origins = {why};
  k.label = "transpose";
  call(std::move(k), {from, target});
  return target;
}

Status GraphLowering::lower_scan(NodeId id) {
  const Node& n = g_.node(id);
  const std::size_t captures = capture_count(n),
                    sequences = static_cast<std::size_t>(n.attrs.get_or<std::int64_t>("num_scan_inputs", 0)),
                    states = n.operands.size() - captures - sequences;
  auto entry = [&](std::string_view name, std::size_t i) {
    auto list = n.attrs.get_or<std::vector<std::int64_t>>(name, {});
    return i < list.size() ? list[i] : 0;
  };
  auto axis_of = [&](std::string_view name, std::size_t i, int rank) {
    return static_cast<std::size_t>(normalize_axis(entry(name, i), rank).value_or(0));
  };
  Trips t{.id = id,
          .trip = p_.temp(DType::i64, {}, "trip"),
          .again = p_.temp(DType::boolean, {}, "again"),
          .count = {},
          .length = {}};
  loop::CheckStep equal;
  std::vector<std::optional<Dims>> shapes;
  for (std::size_t i = 0; i < n.operands.size(); ++i) {
    Dims shape = g_.type(n.operands[i]).shape;
    if (i >= states && i < states + sequences) {
      std::size_t axis = axis_of("scan_input_axes", i - states, static_cast<int>(shape.size()));
      if (!t.length) t.length = shape[axis];
      if (*t.length != shape[axis])
        equal.guards.push_back(
            {*t.length, shape[axis], DimGuard::Rel::eq, "the sequences have one length", source(id) + 1});
      shape.erase(shape.begin() + static_cast<std::ptrdiff_t>(axis));
    }
    shapes.emplace_back(std::move(shape));
  }
  AG_TRY(std::unique_ptr<Region> r, region(id, 0, shapes, {}));
  const Graph& body = r->g;
  GraphLowering inside(body, p_, *t.body, true);
  for (auto& g : r->requirements.guards) equal.guards.push_back(std::move(g));
  if (!equal.guards.empty()) steps_.steps.push_back({std::move(equal)});
  Buffers carries;
  for (std::size_t i = 0; i < states; ++i) {
    const Dims& shape = body.type(body.inputs[i]).shape;
    inside.own(body.inputs[i]);
    bool kept = inside.in_place_root(body.outputs[i].value) == body.inputs[i];
    ProgramBufferId c = carry(t, i, shape, shape, false, kept);
    carries.push_back(c);
  }
  for (std::size_t i = 0; i < sequences; ++i) {
    ValueId v = n.operands[states + i];
    const Dims& whole = g_.type(v).shape;
    std::size_t axis = axis_of("scan_input_axes", i, static_cast<int>(whole.size()));
    ProgramBufferId all = buffer(v);
    if (axis) all = move_axis(all, whole, axis, 0, {}, id);
    t.inputs.push_back(
        slot(t, all, body.type(body.inputs[states + i]).shape, entry("scan_input_directions", i) != 0, *t.body));
  }
  for (std::size_t i = 0; i < captures; ++i) t.inputs.push_back(buffer(n.operands[states + sequences + i]));
  struct Moved {
    ProgramBufferId from, to;
    Dims shape;
    std::size_t axis;
  };
  std::vector<Moved> moved;
  std::vector<std::size_t> axes;
  Late late;
  for (std::size_t o = states; o < body.outputs.size(); ++o) {
    if (o >= n.result_count) {
      t.targets.emplace_back();
      continue;
    }
    ProgramBufferId all = buffer(n.result(static_cast<std::uint32_t>(o)));
    Dims shape = program().buffers[all].shape;
    std::size_t axis = axis_of("scan_output_axes", o - states, static_cast<int>(shape.size()));
    if (axis) {
      Dims front = shape;
      std::rotate(front.begin(), front.begin() + static_cast<std::ptrdiff_t>(axis),
                  front.begin() + static_cast<std::ptrdiff_t>(axis) + 1);
      ProgramBufferId gathered = p_.temp(program().buffers[all].dtype, front, "gathered");
      moved.push_back({gathered, all, front, axis});
      all = gathered;
    }
    axes.push_back(axis);
    if (is_open(shape)) program().buffers[all].place = Place::growable;
    gather(t, body, o, all, entry("scan_output_directions", o - states) != 0, late);
  }
  advance(t, {}, true, source(id));
  AG_TRY_(inside.check());
  AG_TRY_(inside.run(t.inputs, t.targets));
  AG_TRY_(run_body(t, inside, late, {}));
  name_loop_results(id, body, states, carries, t.trip, 0, axes);
  for (const Moved& m : moved) move_axis(m.from, m.shape, 0, m.axis, m.to, id);
  return {};
}

}  // namespace ag::passes

// Loops with checkpoints, and the loops over segments that take the place of what read their stacks.
//
// The root counts its trips in segments of `stride`: at the start of each it writes its carries into a slot (otherwise
// into one slot more, which nobody reads). Where the number of trips is known beforehand, so is the stride. Else it
// begins with 1; when all K slots (a power of two) are full, the stride doubles, and the slots of the odd segments are
// free. Segment k at stride 2^e lies in slot rotate_left(k, e): what stays is where it was.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "passes/checkpoint.hpp"

namespace ag::passes::ckpt {
namespace {

using ad::Bits;
using ad::Recurrence;

/// i64 scalars as expressions.
struct Ints {
  GraphBuilder& b;
  ValueId of(std::int64_t v) const { return b.scalar_int(DType::i64, v); }
  ValueId op(std::string_view name, ValueId x, ValueId y) const { return b.add_op(name, {x, y}); }
  ValueId add(ValueId x, ValueId y) const { return op("add", x, y); }
  ValueId sub(ValueId x, ValueId y) const { return op("sub", x, y); }
  ValueId mul(ValueId x, ValueId y) const { return op("mul", x, y); }
  ValueId div(ValueId x, ValueId y) const { return op("div", x, y); }
  ValueId rem(ValueId x, ValueId y) const { return op("rem", x, y); }
  ValueId min(ValueId x, ValueId y) const { return op("min", x, y); }
  ValueId max(ValueId x, ValueId y) const { return op("max", x, y); }
  ValueId ceil_div(ValueId x, ValueId y) const { return div(sub(add(x, y), of(1)), y); }
};

Axes all_axes(int rank) {
  Axes all;
  for (int d = 0; d < rank; ++d) all.push_back(d);
  return all;
}

/// The slices `sizes` of `v` along all axes, from `start` (i64[1]) on along `axis`; `drop`: of size 1, and gone.
ValueId read_window(GraphBuilder& b, ValueId v, ValueId start, std::int64_t axis, Dims sizes, bool drop) {
  return b.add_op("gather", {v, start},
                  {{"offset_dims", all_axes(b.type(v).rank() - (drop ? 1 : 0))},
                   {"collapsed_slice_dims", drop ? Axes{axis} : Axes{}},
                   {"operand_batching_dims", Axes{}},
                   {"start_indices_batching_dims", Axes{}},
                   {"start_index_map", Axes{axis}},
                   {"index_vector_dim", std::int64_t{0}},
                   {"slice_sizes", std::move(sizes)}});
}

/// `v` with `part` written at `start` along `axis`; `drop`: the part lacks the axis.
ValueId write_window(GraphBuilder& b, ValueId v, ValueId start, ValueId part, std::int64_t axis, bool drop) {
  return b.add_op("scatter", {v, start, part},
                  {{"update_window_dims", all_axes(b.type(part).rank())},
                   {"inserted_window_dims", drop ? Axes{axis} : Axes{}},
                   {"input_batching_dims", Axes{}},
                   {"scatter_indices_batching_dims", Axes{}},
                   {"scatter_dims_to_operand_dims", Axes{axis}},
                   {"index_vector_dim", std::int64_t{0}},
                   {"kind", std::string("set")}});
}

ValueId vector_of(GraphBuilder& b, ValueId scalar) { return b.reshape(scalar, {Dim(1)}); }

/// A number that is a constant, or a value of the graph around.
struct Number {
  std::optional<std::int64_t> constant;
  ValueId value;
};

/// What the sweeps of a family share.
struct Course {
  std::int64_t slots = 0;           ///< K
  bool doubling = false;
  Number trips, stride, segments;
  ValueId rotation;                 ///< with doubling: 2^e
  std::map<NodeId, std::vector<ValueId>> kept;  ///< slots by member, as its `carries`
};

class Rewriter {
 public:
  Rewriter(Graph g, const Families& families, std::int64_t share)
      : g_(std::move(g)), b_(g_), families_(families), share_(share) {
    for (std::size_t i = 0; i < g_.value_count(); ++i) instead_.push_back(ValueId(i));
    dropped_.resize(g_.node_count());
  }

  Result<Graph> run() {
    for (const Family& f : families_.list) {
      Course c;
      AG_TRY_(plan(f, c));
      for (NodeId id : f.members) {
        b_.set_origin(g_.node(id).locs, g_.node(id).grad_of);
        const Member& m = families_.members.at(id);
        m.reads.empty() ? add_root(m, c) : add_sweep(m, c);
        dropped_[id.index] = true;
        for (NodeId p : m.products) dropped_[p.index] = true;
      }
    }
    instead_.resize(g_.value_count());
    dropped_.resize(g_.node_count());
    for (std::size_t i = 0; i < instead_.size(); ++i)
      if (!instead_[i]) instead_[i] = ValueId(i);
    ValueMap map;
    return ad::redirect(g_, instead_, dropped_, map);
  }

 private:
  Graph g_;
  GraphBuilder b_;
  const Families& families_;
  std::int64_t share_;
  std::vector<ValueId> instead_;
  Bits dropped_;

  ValueId now(ValueId v) const { return v && v.index < instead_.size() && instead_[v.index] ? instead_[v.index] : v; }

  // ---- How many slots ---------------------------------------------------------------------------------------

  Status too_large(const Family& f, std::int64_t bytes) const {
    return fail(error(Code::AG5009, g_.loc(g_.node(f.root).result()),
                      fmt::format("the gradient of this loop needs {} bytes of checkpoints and saved values, its share "
                                  "of the limit is {}",
                                  bytes, share_),
                      "runs too long, or carries too much"));
  }

  Status plan(const Family& f, Course& c) const {
    const double carry = static_cast<double>(std::max<std::int64_t>(1, f.carry_bytes.value_or(1))),
                 trip = static_cast<double>(std::max<std::int64_t>(1, f.trip_bytes.value_or(1)));
    const bool sized = f.carry_bytes && f.trip_bytes;
    if (f.trips) {
      const std::int64_t n = std::max<std::int64_t>(1, *f.trips);
      // carry * slots + trip * stride is least where both terms are equal
      double best = f.by_root ? std::sqrt(static_cast<double>(n)) : std::sqrt(static_cast<double>(n) * trip / carry);
      auto k = static_cast<std::int64_t>(std::clamp(std::ceil(best), 1.0, static_cast<double>(n)));
      const std::int64_t stride = (n + k - 1) / k;
      c.slots = (n + stride - 1) / stride;
      c.trips.constant = *f.trips;
      c.stride.constant = stride;
      double bytes = carry * static_cast<double>(c.slots + 1) + trip * static_cast<double>(stride);
      if (sized && !f.by_root && bytes > static_cast<double>(share_))
        return too_large(f, static_cast<std::int64_t>(bytes));
      return {};
    }
    c.slots = 256;
    if (sized && !f.by_root) {  // less than half for the slots: a segment grows with the number of trips
      const double room = 0.4 * static_cast<double>(share_) / carry;
      while (c.slots < 65536 && static_cast<double>(c.slots) * 2 <= room) c.slots *= 2;
      while (c.slots > 2 && static_cast<double>(c.slots) > room) c.slots /= 2;
    }
    if (double bytes = carry * static_cast<double>(c.slots + 1) + trip;
        sized && !f.by_root && bytes > static_cast<double>(share_))
      return too_large(f, static_cast<std::int64_t>(bytes));
    return {};
  }

  /// Zeros of their own, so that a loop may write over them.
  ValueId fresh_zeros(const Type& t) {
    ValueId v = b_.zeros(t);
    g_.node(g_.value(v).node).remat = ++zeros_;
    return v;
  }
  std::uint32_t zeros_ = 0;

  // ---- The root -----------------------------------------------------------------------------------------------

  /// The number of trips, if it is known before the first.
  ValueId trips_before(const Node& n, const Recurrence& r) {
    const Ints i{b_};
    if (!r.loop) {
      const Type& t = b_.type(n.operands[r.sequence(0)]);
      const Dim& d = t.shape[static_cast<std::size_t>(along(n, true, 0, t.rank()).axis)];
      return b_.reshape(b_.add_op("dims", std::vector<ValueId>{}, {{"values", Dims{d}}}), {});
    }
    return ad::runs_out(g_, n) ? i.max(b_.reshape(b_.convert(n.operands[0], DType::i64), {}), i.of(0)) : ValueId{};
  }

  Type slots_type(ValueId carry, const Course& c) const {
    Type t = g_.type(carry);
    t.shape.insert(t.shape.begin(), Dim(c.slots + 1));
    return t;
  }

  /// Which slot of the root takes the carries at the start of this trip; and the next stride and rotation.
  struct Choice {
    ValueId slot, stride, rotation;
  };
  static Choice choose_slot(GraphBuilder& b, const Course& c, ValueId trip, ValueId stride, ValueId rotation) {
    const Ints i{b};
    const ValueId k = i.of(c.slots), one = i.of(1);
    if (c.doubling) {
      ValueId full = b.compare("eq", trip, i.mul(k, stride)), twice = i.add(rotation, rotation);
      stride = b.select(full, i.add(stride, stride), stride);
      rotation = b.select(full, b.select(b.compare("eq", twice, k), one, twice), rotation);
    }
    const ValueId segment = i.div(trip, stride), begins = b.compare("eq", i.mul(segment, stride), trip);
    ValueId slot = segment;
    if (c.doubling) {
      ValueId turned = i.mul(segment, rotation);
      slot = i.add(i.rem(turned, k), i.div(turned, k));
    }
    return {b.select(begins, slot, k), stride, rotation};
  }

  void add_root(const Member& m, Course& c) {
    const Node n = mapped(m.id);
    const Recurrence& r = m.r;
    const Ints out{b_};
    if (!c.trips.constant) c.trips.value = trips_before(n, r);
    c.doubling = !c.trips.constant && !c.trips.value;
    if (!c.doubling && !c.stride.constant)
      c.stride.value = out.max(out.ceil_div(c.trips.value, out.of(c.slots)), out.of(1));

    const Graph body = ad::instantiate(g_, n, r);
    Graph w;
    w.opset = body.opset, w.ag_opset = body.ag_opset;
    GraphBuilder b(w);
    const Ints in{b};
    std::vector<ValueId> args,
        outer(n.operands.begin(), n.operands.begin() + static_cast<std::ptrdiff_t>(r.sequence(0)));
    auto copy_input = [&](std::size_t i) {
      ValueId v = body.inputs[i];
      args.push_back(b.input(body.value(v).name, body.type(v), body.loc(v)));
    };
    auto state = [&](ValueId initial) {
      outer.push_back(initial);
      return b.input("", Type(g_.type(initial)));
    };
    for (std::size_t i = 0; i < r.sequence(0); ++i) copy_input(i);
    std::vector<ValueId> slots;
    for (std::size_t k : m.carries) slots.push_back(state(fresh_zeros(slots_type(n.operands[r.first() + k], c))));
    ValueId stride, rotation, counted;
    const bool counts = c.doubling || !r.loop;
    if (c.doubling) stride = state(out.of(1)), rotation = state(out.of(1));
    if (counts) counted = state(out.of(0));
    for (std::size_t i = r.sequence(0); i < body.inputs.size(); ++i) copy_input(i);
    outer.insert(outer.end(), n.operands.begin() + static_cast<std::ptrdiff_t>(r.sequence(0)), n.operands.end());
    std::int64_t captures = static_cast<std::int64_t>(r.captures);
    if (c.stride.constant) stride = in.of(*c.stride.constant);
    if (c.stride.value) stride = state(c.stride.value), ++captures;

    const ValueId trip = r.loop ? args[0] : counted;
    const Choice choice = choose_slot(b, c, trip, stride, rotation);
    const ValueId at = vector_of(b, choice.slot);
    const std::vector<ValueId> results = b.inline_graph(body, args);
    std::vector<ValueId> outputs(results.begin(), results.begin() + static_cast<std::ptrdiff_t>(r.output(r.carries)));
    for (std::size_t k = 0; k < slots.size(); ++k)
      outputs.push_back(write_window(b, slots[k], at, args[r.first() + m.carries[k]], 0, true));
    if (c.doubling) outputs.push_back(choice.stride), outputs.push_back(choice.rotation);
    if (counts) outputs.push_back(in.add(trip, in.of(1)));
    const std::size_t more = outputs.size() - r.output(r.carries);

    GraphBuilder::NodeArgs node;
    std::vector<std::size_t> kept;
    Axes axes, back;
    for (std::size_t k = r.carries; k < n.result_count; ++k) {
      if (std::ranges::find(m.dropped, k) != m.dropped.end()) continue;
      kept.push_back(k);
      outputs.push_back(results[r.output(k)]);
      axes.push_back(entry(n, "scan_output_axes", k - r.carries));
      back.push_back(entry(n, "scan_output_directions", k - r.carries));
    }
    for (ValueId v : outputs) w.outputs.push_back({"", v, {}});
    for (std::size_t k = 0; k < r.carries; ++k) node.stated.push_back(g_.type(n.result(static_cast<std::uint32_t>(k))));
    for (std::size_t k = 0; k < more; ++k) node.stated.push_back(g_.type(outer[r.sequence(0) + k]));
    for (std::size_t k : kept) node.stated.push_back(g_.type(n.result(static_cast<std::uint32_t>(k))));
    node.operands = std::move(outer);
    node.attrs = n.attrs;
    node.attrs.set("captures", captures);
    if (!r.loop) node.attrs.set("scan_output_axes", axes), node.attrs.set("scan_output_directions", back);
    NodeId fresh = place(n, std::move(node), std::move(w));

    auto result = [&](std::size_t k) { return g_.node(fresh).result(static_cast<std::uint32_t>(k)); };
    for (std::size_t k = 0; k < r.carries; ++k) replace(n.result(static_cast<std::uint32_t>(k)), result(k));
    std::size_t next = r.carries;
    for (std::size_t k = 0; k < slots.size(); ++k) c.kept[m.id].push_back(result(next++));
    if (c.doubling) c.stride.value = result(next++), c.rotation = result(next++);
    if (counts && c.doubling) c.trips.value = result(next);
    if (counts) ++next;
    for (std::size_t k : kept) replace(n.result(static_cast<std::uint32_t>(k)), result(next++));
    if (c.trips.constant)
      c.segments.constant = (*c.trips.constant + *c.stride.constant - 1) / *c.stride.constant;
    else
      c.segments.value = out.ceil_div(c.trips.value, c.stride.value);
  }

  Node mapped(NodeId id) const {
    Node n = g_.node(id);
    for (ValueId& v : n.operands) v = now(v);
    if (Recurrence r(n); n.operands.size() < r.first()) n.operands.resize(r.first());
    return n;
  }
  void replace(ValueId old, ValueId fresh) {
    instead_.resize(std::max(instead_.size(), g_.value_count()));
    instead_[old.index] = fresh;
  }

  NodeId place(const Node& old, GraphBuilder::NodeArgs args, Graph region) {
    args.regions = {std::make_shared<const Graph>(std::move(region))};
    args.name = old.name;
    args.locs = old.locs;
    args.grad_of = old.grad_of;
    args.remat = old.remat;
    return ad::must_add(b_, *old.op, std::move(args));
  }

  // ---- Segments -------------------------------------------------------------------------------------------------

  /// The body of the loop over segments, under construction.
  struct Inner {
    Graph g;
    GraphBuilder b{g};
    std::map<ValueId, ValueId> captured;
    std::vector<ValueId> captures;      ///< values outside
    ValueId segment, start, length;     ///< i64[]
    ValueId trips;
    Dim size;                           ///< the length, as a size
    std::map<ValueId, ValueId> stacks;  ///< this segment of each dropped stack
  };

  ValueId capture(Inner& in, ValueId v) const {
    auto [at, fresh] = in.captured.emplace(v, ValueId{});
    if (!fresh) return at->second;
    if (const Node& def = g_.def(v); def.op->name == "constant" && g_.type(v).elems().is(1)) {
      const LiteralPtr* l = def.attrs.get<LiteralPtr>("value");
      return at->second = in.b.constant(*l);
    }
    in.captures.push_back(v);
    return at->second = in.b.input("", Type(g_.type(v)));
  }
  ValueId number(Inner& in, const Number& n) const {
    return n.constant ? in.b.scalar_int(DType::i64, *n.constant) : capture(in, n.value);
  }

  /// Where the part of a whole sequence lies that belongs to the segment.
  ValueId part_start(Inner& in, bool backward, bool back) const {
    if (backward == back) return vector_of(in.b, in.start);
    const Ints i{in.b};
    return vector_of(in.b, i.sub(in.trips, i.add(in.start, in.length)));
  }

  ValueId part_of(Inner& in, ValueId v, Along a, bool backward) const {
    if (auto at = in.stacks.find(v); at != in.stacks.end()) return at->second;
    ValueId whole = capture(in, now(v));
    Dims sizes = in.b.type(whole).shape;
    sizes[static_cast<std::size_t>(a.axis)] = in.size;
    return read_window(in.b, whole, part_start(in, backward, a.back), a.axis, std::move(sizes), false);
  }

  /// Runs a member over the segment: with the carries `which`, for the scan results `scans`. Their next values, then
  /// the segment of each of those results.
  std::vector<ValueId> run(Inner& in, const Member& m, const std::vector<std::size_t>& which,
                           std::vector<ValueId> carries, const std::vector<std::size_t>& scans) const {
    const Node n = g_.node(m.id);
    const Recurrence& r = m.r;
    Graph body = ad::instantiate(g_, n, r);
    GraphBuilder::NodeArgs node;
    std::vector<ValueId> inputs, results;
    if (r.loop) {
      Graph w;
      w.opset = body.opset, w.ag_opset = body.ag_opset;
      GraphBuilder b(w);
      std::vector<ValueId> args;
      for (ValueId v : body.inputs) args.push_back(b.input(body.value(v).name, body.type(v), body.loc(v)));
      ValueId trip = args[0], base = b.input("", {DType::i64, {}});
      args[0] = b.add(trip, base);
      results = b.inline_graph(body, args);
      args[0] = trip;
      args.push_back(base);
      node.operands = {in.length, {}};
      inputs = std::move(args);
      body = std::move(w);
      results[0] = inputs[1];
    } else {
      inputs = body.inputs;
      for (const Output& o : body.outputs) results.push_back(o.value);
    }
    std::vector<ValueId> given(inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(r.first())), gives;
    if (r.loop) gives.push_back(results[0]);
    for (std::size_t k = 0; k < which.size(); ++k) {
      given.push_back(inputs[r.first() + which[k]]);
      gives.push_back(results[r.output(which[k])]);
      node.operands.push_back(carries[k]);
    }
    Axes in_axes, in_back, out_axes, out_back;
    for (std::size_t k = 0; k < r.sequences; ++k) {
      ValueId v = n.operands[r.sequence(k)];
      Along a = along(n, true, k, g_.type(v).rank());
      node.operands.push_back(part_of(in, v, a, m.backward));
      in_axes.push_back(a.axis), in_back.push_back(a.back);
    }
    std::size_t own = node.operands.size();
    for (std::size_t k = 0; k < r.captures; ++k) node.operands.push_back(capture(in, now(n.operands[r.capture(k)])));
    if (r.loop) node.operands.push_back(in.start);
    given.insert(given.end(), inputs.begin() + static_cast<std::ptrdiff_t>(r.sequence(0)), inputs.end());
    for (std::size_t k : scans) {
      gives.push_back(results[r.output(k)]);
      out_axes.push_back(entry(n, "scan_output_axes", k - r.carries));
      out_back.push_back(entry(n, "scan_output_directions", k - r.carries));
    }
    Graph region = ad::extract(body, given, gives);
    add_sizes(in, n, region, node.operands);
    node.attrs.set("captures", static_cast<std::int64_t>(node.operands.size() - own));
    if (!r.loop) {
      node.attrs.set("num_scan_inputs", static_cast<std::int64_t>(r.sequences));
      node.attrs.set("scan_input_axes", in_axes), node.attrs.set("scan_input_directions", in_back);
      node.attrs.set("scan_output_axes", out_axes), node.attrs.set("scan_output_directions", out_back);
    }
    node.regions = {std::make_shared<const Graph>(std::move(region))};
    node.locs = n.locs;
    NodeId id = ad::must_add(in.b, *n.op, std::move(node));
    std::vector<ValueId> out;
    for (std::uint32_t k = 0; k < in.g.node(id).result_count; ++k) out.push_back(in.g.node(id).result(k));
    return out;
  }

  /// A size that no operand has is captured with a value that has it.
  void add_sizes(Inner& in, const Node& n, Graph& region, std::vector<ValueId>& operands) const {
    std::set<std::string> used = ad::symbols_of_graph(region), given;
    for (ValueId v : operands)
      if (v) given.merge(ad::symbols_of(in.b.type(v)));
    for (ValueId v : n.operands) {
      if (!v || families_.maker.contains(v)) continue;
      std::set<std::string> more = ad::symbols_of(g_.type(v));
      if (!std::ranges::any_of(more, [&](const auto& s) { return used.contains(s) && !given.contains(s); })) continue;
      given.merge(more);
      GraphBuilder(region).input("", Type(g_.type(v)));
      operands.push_back(capture(in, now(v)));
    }
  }

  /// This segment of the dropped stacks of a loop, from its checkpoint.
  void compute_again(Inner& in, const Member& m, const Course& c) const {
    const Ints i{in.b};
    ValueId slot = in.segment;
    if (c.doubling && m.reads.empty()) {
      ValueId k = i.of(c.slots), turned = i.mul(slot, capture(in, c.rotation));
      slot = i.add(i.rem(turned, k), i.div(turned, k));
    }
    std::vector<ValueId> carries;
    for (ValueId outside : c.kept.at(m.id)) {
      ValueId slots = capture(in, outside);
      Dims sizes = in.b.type(slots).shape;
      sizes[0] = 1;
      carries.push_back(read_window(in.b, slots, vector_of(in.b, slot), 0, std::move(sizes), true));
    }
    keep_stacks(in, m, run(in, m, m.carries, std::move(carries), m.dropped), m.carries.size(), m.dropped);
  }
  void keep_stacks(Inner& in, const Member& m, const std::vector<ValueId>& results, std::size_t at,
                   const std::vector<std::size_t>& scans) const {
    for (std::size_t k : scans) in.stacks[g_.node(m.id).result(static_cast<std::uint32_t>(k))] = results[at++];
  }

  /// The segment that trip `trip` of the sweep is about.
  void begin_segment(Inner& in, const Member& m, const Course& c, ValueId trip) const {
    const Ints i{in.b};
    in.trips = number(in, c.trips);
    ValueId stride = number(in, c.stride);
    in.segment = m.backward ? i.sub(i.sub(number(in, c.segments), i.of(1)), trip) : trip;
    in.start = i.mul(in.segment, stride);
    if (c.trips.constant && *c.trips.constant % *c.stride.constant == 0) {
      in.size = *c.stride.constant;
      in.length = stride;
      return;
    }
    ValueId length = i.min(stride, i.sub(in.trips, in.start));
    in.size = in.b.type(in.b.add_multi("sizes", {vector_of(in.b, length)})[0]).shape[0];
    in.length = in.b.reshape(in.b.add_op("dims", std::vector<ValueId>{}, {{"values", Dims{in.size}}}), {});
  }

  /// A loop over segments takes the place of a loop that reads dropped stacks, and of the products of its sweep.
  void add_sweep(const Member& m, Course& c) {
    const Node n = mapped(m.id);
    const Recurrence& r = m.r;
    Inner in;
    std::vector<ValueId> outer, carries, slots, wholes, sums;
    ValueId trip = in.b.input("", {DType::i64, {}}), on = in.b.input("", {DType::boolean, {}});
    auto state = [&](ValueId initial) {
      outer.push_back(initial);
      return in.b.input("", Type(g_.type(initial)));
    };
    std::vector<std::size_t> all, whole_results, scans;
    for (std::size_t k = 0; k < r.carries; ++k) all.push_back(k), carries.push_back(state(n.operands[r.first() + k]));
    if (m.is_source)
      for (std::size_t k : m.carries) slots.push_back(state(fresh_zeros(slots_type(n.operands[r.first() + k], c))));
    for (std::size_t k = r.carries; k < n.result_count; ++k) {
      if (std::ranges::find(m.dropped, k) != m.dropped.end()) continue;
      whole_results.push_back(k);
      wholes.push_back(state(fresh_zeros(Type(g_.type(n.result(static_cast<std::uint32_t>(k)))))));
    }
    for (NodeId p : m.products) sums.push_back(state(b_.zeros(Type(g_.type(g_.node(p).result())))));

    begin_segment(in, m, c, trip);
    for (NodeId up : m.upstream) compute_again(in, families_.members.at(up), c);
    scans = whole_results;
    if (!m.products.empty()) scans.insert(scans.end(), m.dropped.begin(), m.dropped.end());
    std::vector<ValueId> outputs{on};
    std::vector<ValueId> results = run(in, m, all, carries, scans);
    outputs.insert(outputs.end(), results.begin(), results.begin() + static_cast<std::ptrdiff_t>(r.carries));
    if (!m.products.empty()) keep_stacks(in, m, results, r.carries + whole_results.size(), m.dropped);
    ValueId segment = vector_of(in.b, in.segment);
    for (std::size_t k = 0; k < slots.size(); ++k)
      outputs.push_back(write_window(in.b, slots[k], segment, carries[m.carries[k]], 0, true));
    for (std::size_t k = 0; k < wholes.size(); ++k) {
      Along a = along(n, false, whole_results[k] - r.carries, in.b.type(wholes[k]).rank());
      ValueId at = part_start(in, m.backward, a.back);
      outputs.push_back(write_window(in.b, wholes[k], at, results[r.carries + k], a.axis, false));
    }
    for (std::size_t k = 0; k < sums.size(); ++k) {
      const Node& p = g_.node(m.products[k]);
      std::vector<ValueId> parts;
      for (ValueId v : p.operands) parts.push_back(part_of(in, v, {0, m.backward}, m.backward));
      outputs.push_back(in.b.add(sums[k], in.b.add_op("dot_general", parts, p.attrs)));
    }
    finish_sweep(m, c, in, std::move(outer), outputs, whole_results, slots.size());
  }

  void finish_sweep(const Member& m, Course& c, Inner& in, std::vector<ValueId> states,
                    const std::vector<ValueId>& outputs, const std::vector<std::size_t>& wholes, std::size_t slots) {
    const Node n = g_.node(m.id);
    for (ValueId v : outputs) in.g.outputs.push_back({"", v, {}});
    GraphBuilder::NodeArgs node;
    node.operands = {c.segments.constant ? b_.scalar_int(DType::i64, *c.segments.constant) : c.segments.value, {}};
    for (ValueId v : states) node.stated.push_back(g_.type(v));
    node.operands.insert(node.operands.end(), states.begin(), states.end());
    node.operands.insert(node.operands.end(), in.captures.begin(), in.captures.end());
    node.attrs.set("captures", static_cast<std::int64_t>(in.captures.size()));
    node.regions = {std::make_shared<const Graph>(std::move(in.g))};
    node.locs = n.locs;
    node.grad_of = n.grad_of;
    NodeId fresh = ad::must_add(b_, op("Loop"), std::move(node));
    std::uint32_t next = 0;
    auto result = [&] { return g_.node(fresh).result(next++); };
    for (std::size_t k = 0; k < m.r.carries; ++k) replace(n.result(static_cast<std::uint32_t>(k)), result());
    for (std::size_t k = 0; k < slots; ++k) c.kept[m.id].push_back(result());
    for (std::size_t k : wholes) replace(n.result(static_cast<std::uint32_t>(k)), result());
    for (NodeId p : m.products) replace(g_.node(p).result(), result());
  }
};

}  // namespace

Result<Graph> rewrite_families(Graph g, const Families& families, std::int64_t share) {
  return Rewriter(std::move(g), families, share).run();
}

}  // namespace ag::passes::ckpt

// Reverse mode of If, Loop and Scan.
//
// The gradient of an If is an If with the same predicate, whose branches compute what they need again. A Loop or Scan
// hands out, trip by trip, the values that its reverse needs (residuals), as further scan outputs; the reverse is a
// Scan over them from the end, which carries the cotangents of the carries and sums up those of captured values (of
// weights, mostly: those are one product over all trips behind it). A Loop
// whose reverse needs nothing of a trip but its number hands out the number of trips alone; its reverse is a Loop.
//
// Checkpoints under a memory limit belong behind the choice of residuals (`Residuals`): where the residuals of all
// trips would exceed the limit, a pass after all differentiation is to keep the carries of every s-th trip in fixed
// slots and to run the trips in between again.
#include <algorithm>
#include <set>

#include "passes/autodiff_residuals.hpp"

namespace ag::passes::ad {
namespace {

Joint differentiate(Graph region, const std::vector<std::size_t>& outputs, const std::vector<std::size_t>& wanted,
                    bool guarded) {
  Joint j{std::move(region), 0, {}, {}};
  j.own = j.g.inputs.size();
  GraphBuilder b(j.g);
  std::vector<Seed> seeds;
  std::vector<ValueId> wrt;
  for (std::size_t o : outputs) {
    Type t = j.g.type(j.output(o));
    seeds.push_back({j.output(o), b.input("", std::move(t)), guarded});
  }
  for (std::size_t i : wanted) wrt.push_back(j.input(i));
  Appended a = append_reverse(j.g, std::move(seeds), std::move(wrt), {});
  j.grads = std::move(a.values);
  j.primal = std::move(a.primal);
  return j;
}

// ---- If -----------------------------------------------------------------------------------------------------

/// Inputs of the graph that the values depend on.
void mark_needed_inputs(const Graph& g, const std::vector<ValueId>& values, Bits& needed) {
  Bits live(g.node_count());
  auto need = [&](ValueId v) {
    if (v) live[g.value(v).node.index] = true;
  };
  std::ranges::for_each(values, need);
  for (std::size_t i = g.node_count(); i-- > 0;)
    if (live[i]) std::ranges::for_each(g.node(NodeId(i)).operands, need);
  for (std::size_t i = 0; i < needed.size(); ++i)
    if (live[g.value(g.inputs[i]).node.index]) needed[i] = true;
}

/// Captures that the branches must be given so that every size in them is known.
void mark_sizes(const Graph& g, Bits& needed) {
  std::set<std::string> used = symbols_of_graph(g), given;
  for (std::size_t i = 0; i < needed.size(); ++i)
    if (needed[i]) given.merge(symbols_of(g.type(g.inputs[i])));
  for (std::size_t i = 0; i < needed.size(); ++i) {
    std::set<std::string> more = symbols_of(g.type(g.inputs[i]));
    bool helps = std::ranges::any_of(more, [&](const auto& s) { return used.contains(s) && !given.contains(s); });
    if (needed[i] || !helps) continue;
    needed[i] = true;
    given.merge(more);
  }
}

}  // namespace

void reverse_if(ControlReverse& c) {
  const Node n = c.b.graph().node(c.id);
  std::vector<std::size_t> outputs, wanted;
  for (std::size_t r = 0; r < c.cotangents.size(); ++r)
    if (c.cotangents[r]) outputs.push_back(r);
  for (std::size_t i = 1; i < n.operands.size(); ++i)
    if (c.wants[i]) wanted.push_back(i - 1);
  std::vector<Joint> joints;
  for (const GraphPtr& region : n.regions) joints.push_back(differentiate(*region, outputs, wanted, c.guarded));
  // What either branch has a gradient for, both give.
  std::vector<std::size_t> given;  // places in `wanted`
  for (std::size_t k = 0; k < wanted.size(); ++k)
    if (joints[0].grads[k] || joints[1].grads[k]) given.push_back(k);
  if (given.empty()) return;
  std::size_t captures = n.operands.size() - 1;
  Bits needed(captures);
  std::vector<std::vector<ValueId>> results(2);
  for (std::size_t side = 0; side < 2; ++side) {
    Joint& j = joints[side];
    GraphBuilder b(j.g);
    for (std::size_t k : given)
      results[side].push_back(j.grads[k] ? j.grads[k] : b.zeros(Type(j.g.type(j.input(wanted[k])))));
    mark_needed_inputs(j.g, results[side], needed);
    mark_sizes(j.g, needed);
  }
  GraphBuilder::NodeArgs args;
  args.operands = {n.operands[0]};
  for (std::size_t i = 0; i < captures; ++i)
    if (needed[i]) args.operands.push_back(n.operands[1 + i]);
  for (std::size_t o : outputs) args.operands.push_back(c.cotangents[o]);
  args.attrs = {{"captures", static_cast<std::int64_t>(args.operands.size() - 1)}};
  for (std::size_t side = 0; side < 2; ++side) {
    Joint& j = joints[side];
    std::vector<ValueId> inputs;
    for (std::size_t i = 0; i < captures; ++i)
      if (needed[i]) inputs.push_back(j.input(i));
    for (std::size_t o = 0; o < outputs.size(); ++o) inputs.push_back(j.cotangent(o));
    args.regions.push_back(std::make_shared<const Graph>(extract(j.g, inputs, results[side])));
  }
  for (std::size_t k : given) args.stated.push_back(c.b.type(n.operands[1 + wanted[k]]));
  args.result_count = static_cast<std::uint32_t>(given.size());
  NodeId id = must_add(c.b, *n.op, std::move(args));
  for (std::size_t k = 0; k < given.size(); ++k)
    c.grads[1 + wanted[given[k]]] = c.b.graph().node(id).result(static_cast<std::uint32_t>(k));
}

namespace {

// ---- Loop and Scan ------------------------------------------------------------------------------------------------

Axes list_attr(const Node& n, std::string_view name, std::size_t count) {
  Axes list = n.attrs.get_or<Axes>(name, {});
  list.resize(count, 0);
  return list;
}

/// Builds the reverse Scan of one Loop or Scan.
class ReverseRecurrence {
 public:
  explicit ReverseRecurrence(ControlReverse& c) : c_(c), n_(c.b.graph().node(c.id)), r_(n_) {}

  void run() {
    find_active();
    if (outputs_.empty() || wanted_.empty()) return;
    j_ = differentiate(instantiate(c_.b.graph(), n_, r_), outputs_, wanted_, c_.guarded || r_.carries > 0);
    close_carries();
    if (results_.empty()) return;
    Residuals residuals(j_, r_);
    residuals.choose(results_);
    saved_ = residuals.saved();
    bool number_only = saved_.empty() || (saved_.size() == 1 && saved_[0] == j_.input(0));
    if (r_.loop && scans_.empty() && products_.empty() && number_only) {
      saved_.clear();
      add_loop(count_trips());
    } else {
      if (r_.loop && saved_.empty() && scans_.empty()) saved_ = {j_.input(0)};
      find_factors();
      add_larger_node();
      add_scan();
      add_products();
    }
  }

 private:
  /// A term of a captured value's gradient that is a product of a value of the trip and a cotangent: one contraction
  /// over all trips takes the place of their sum.
  struct Product {
    std::size_t input;  ///< of the region: the captured value
    NodeId dot;
    Axes perm;          ///< of its result; empty for none
  };

  ControlReverse& c_;
  const Node n_;
  const Recurrence r_;
  std::vector<std::size_t> carries_;   ///< carries with a cotangent
  std::vector<std::size_t> scans_;     ///< results (behind the carries) with a cotangent
  std::vector<std::size_t> outputs_;   ///< outputs of the region for both
  std::vector<std::size_t> wanted_;    ///< inputs of the region: the carries, then elements and captures
  Joint j_;
  std::vector<ValueId> accumulators_;  ///< inputs of j_, one per captured gradient
  std::vector<std::size_t> captured_, elements_;  ///< inputs of the region with a gradient
  std::vector<ValueId> results_;       ///< of the reverse region: carries, accumulators, elements
  std::vector<ValueId> saved_;
  std::vector<Product> products_;
  std::vector<ValueId> factors_;       ///< of products, values of the reverse: they leave it trip by trip
  std::vector<ValueId> kept_;          ///< of products, values of the trip that the reverse itself does not read
  std::map<ValueId, ValueId> stacks_;  ///< a factor and its values of all trips
  NodeId larger_;
  std::uint32_t first_residual_ = 0;

  void find_active() {
    Bits results(n_.result_count);
    for (std::size_t k = 0; k < results.size(); ++k) results[k] = c_.cotangents[k].valid();
    RecurrenceActivity act = close_recurrence(n_, c_.wants, results);
    for (std::size_t i = 0; i < r_.carries; ++i)
      if (act.results[i] && act.carried[i]) carries_.push_back(i);
    for (std::size_t k = r_.carries; k < results.size(); ++k)
      if (results[k]) scans_.push_back(k);
    for (std::size_t i : carries_) outputs_.push_back(r_.output(i)), wanted_.push_back(r_.first() + i);
    for (std::size_t k : scans_) outputs_.push_back(r_.output(k));
    for (std::size_t i = r_.sequence(0); i < act.inputs.size(); ++i)
      if (act.inputs[i] && c_.wants[i]) wanted_.push_back(i);
  }

  /// Cotangents that a trip does not touch are zeros; captured ones are summed up.
  void close_carries() {
    GraphBuilder b(j_.g);
    std::size_t nodes = j_.g.node_count();
    std::vector<ValueId> sums, elements;
    for (std::size_t w = 0; w < wanted_.size(); ++w) {
      ValueId grad = j_.grads[w];
      Type t = j_.g.type(j_.input(wanted_[w]));
      if (w < carries_.size()) {
        results_.push_back(grad ? grad : b.zeros(t));
      } else if (grad && wanted_[w] < r_.capture(0)) {
        elements_.push_back(wanted_[w]);
        elements.push_back(grad);
      } else if (grad) {
        std::vector<ValueId> rest;
        for (ValueId term : terms_of(grad))
          if (!take_product(wanted_[w], term)) rest.push_back(term);
        if (rest.empty()) continue;
        captured_.push_back(wanted_[w]);
        accumulators_.push_back(b.input("", t));
        ValueId sum = accumulators_.back();
        for (ValueId term : rest) sum = b.add(sum, term);
        sums.push_back(sum);
      }
    }
    results_.insert(results_.end(), sums.begin(), sums.end());
    results_.insert(results_.end(), elements.begin(), elements.end());
    results_.insert(results_.end(), factors_.begin(), factors_.end());
    j_.primal.resize(j_.g.node_count(), false);
    for (std::size_t i = nodes; i < j_.g.node_count(); ++i) j_.primal[i] = false;
  }

  bool is_forward(ValueId v) const {
    std::size_t node = j_.g.value(v).node.index;
    bool given =
        std::find(j_.g.inputs.begin() + static_cast<std::ptrdiff_t>(j_.own), j_.g.inputs.end(), v) != j_.g.inputs.end();
    return node < j_.primal.size() && j_.primal[node] && !given;
  }

  /// The terms of a sum that the reverse makes, in order.
  std::vector<ValueId> terms_of(ValueId v) const {
    std::vector<ValueId> open{v}, out;
    while (!open.empty()) {
      ValueId t = open.back();
      open.pop_back();
      const Node& n = j_.g.def(t);
      bool sum = n.op->name == "add" && !is_forward(t);
      for (ValueId o : n.operands) sum = sum && j_.g.type(o) == j_.g.type(t);
      if (sum)
        open.insert(open.end(), n.operands.rbegin(), n.operands.rend());
      else
        out.push_back(t);
    }
    return out;
  }

  bool take_product(std::size_t input, ValueId term) {
    Product p{input, j_.g.value(term).node, {}};
    if (const Node& n = j_.g.node(p.dot); n.op->name == "transpose") {
      p.perm = n.attrs.get_or<Axes>("perm", {});
      if (p.perm.empty()) return false;
      p.dot = j_.g.value(n.operands[0]).node;
    }
    const Node& dot = j_.g.node(p.dot);
    if (dot.op->name != "dot_general" || is_forward(dot.result())) return false;
    bool first = is_forward(dot.operands[0]);
    if (first == is_forward(dot.operands[1])) return false;
    if (free_.empty()) free_ = free_values(j_, r_), sizes_ = outer_sizes(j_, r_);
    ValueId value = dot.operands[first ? 0 : 1], factor = dot.operands[first ? 1 : 0];
    if (free_[value.index] || !is_stackable(j_.g.type(value), sizes_) || !is_stackable(j_.g.type(factor), sizes_))
      return false;
    // Stacking much more than the sum takes is no gain.
    Dim stacked = j_.g.type(value).elems() + j_.g.type(factor).elems(), sum = j_.g.type(term).elems();
    if (stacked.is_const() && sum.is_const() && stacked.value() / 4 > sum.value()) return false;
    if (std::ranges::find(factors_, factor) == factors_.end()) factors_.push_back(factor);
    products_.push_back(std::move(p));
    return true;
  }
  Bits free_;
  std::set<std::string> sizes_;

  /// Values of the trip that products need: residuals, sequences as they are, or further outputs of the forward loop.
  void find_factors() {
    Axes axes = list_attr(n_, "scan_input_axes", r_.sequences),
         back = list_attr(n_, "scan_input_directions", r_.sequences);
    for (const Product& p : products_)
      for (ValueId v : j_.g.node(p.dot).operands) {
        if (!is_forward(v) || stacks_.contains(v)) continue;
        bool there = std::ranges::find(saved_, v) != saved_.end() || std::ranges::find(kept_, v) != kept_.end();
        for (std::size_t k = 0; k < r_.sequences; ++k)
          if (j_.input(r_.sequence(k)) == v && axes[k] == 0 && back[k] == 0) stacks_[v] = n_.operands[r_.sequence(k)];
        if (!there && !stacks_.contains(v)) kept_.push_back(v);
      }
  }

  void add_products() {
    GraphBuilder& b = c_.b;
    for (const Product& p : products_) {
      const Node& dot = j_.g.node(p.dot);
      auto axes = [&](std::string_view name, bool trip) {
        Axes out = dot.attrs.get_or<Axes>(name, {});
        for (std::int64_t& d : out) ++d;
        if (trip) out.insert(out.begin(), 0);
        return out;
      };
      ValueId sum = b.dot_general(stacks_.at(dot.operands[0]), stacks_.at(dot.operands[1]), axes("lhs_contract", true),
                                  axes("rhs_contract", true), axes("lhs_batch", false), axes("rhs_batch", false));
      if (!p.perm.empty()) sum = b.transpose(sum, p.perm);
      ValueId& grad = c_.grads[p.input];
      grad = grad ? b.add(grad, sum) : sum;
    }
  }

  void add_larger_node() {
    std::vector<ValueId> inputs(j_.g.inputs.begin(), j_.g.inputs.begin() + static_cast<std::ptrdiff_t>(j_.own)),
        outputs;
    for (const Output& o : j_.g.outputs) outputs.push_back(o.value);
    first_residual_ = static_cast<std::uint32_t>(r_.results());
    outputs.insert(outputs.end(), saved_.begin(), saved_.end());
    outputs.insert(outputs.end(), kept_.begin(), kept_.end());
    Graph region = extract(j_.g, inputs, outputs);
    for (std::size_t i = 0; i < j_.g.outputs.size(); ++i) region.outputs[i].name = j_.g.outputs[i].name;
    std::vector<std::uint32_t> kept;
    for (std::uint32_t k = 0; k < n_.result_count; ++k) kept.push_back(k);
    larger_ =
        add_larger(c_.b, c_.id, {n_.operands, n_.attrs, {std::make_shared<const Graph>(std::move(region))}, kept});
    c_.swaps.push_back({c_.id, larger_, kept});
    std::uint32_t r = first_residual_;
    for (const auto* list : {&saved_, &kept_})
      for (ValueId v : *list) stacks_.emplace(v, c_.b.graph().node(larger_).result(r++));
  }

  /// The number of trips: the operand if nothing stops the loop before, else carried by a larger Loop.
  ValueId count_trips() {
    if (runs_out(c_.b.graph(), n_)) return n_.operands[0];
    GraphBuilder b(j_.g);
    ValueId next = b.add(j_.input(0), b.scalar_int(DType::i64, 1)), before = b.input("", {DType::i64, {}});
    std::vector<ValueId> inputs(j_.g.inputs.begin(), j_.g.inputs.begin() + static_cast<std::ptrdiff_t>(j_.own)),
        outputs;
    inputs.insert(inputs.begin() + static_cast<std::ptrdiff_t>(r_.capture(0)), before);
    for (const Output& o : j_.g.outputs) outputs.push_back(o.value);
    outputs.insert(outputs.begin() + static_cast<std::ptrdiff_t>(r_.output(r_.carries)), next);
    Larger larger{n_.operands, n_.attrs, {std::make_shared<const Graph>(extract(j_.g, inputs, outputs))}, {}};
    larger.operands.resize(std::max(larger.operands.size(), r_.first()));
    larger.operands.insert(larger.operands.begin() + static_cast<std::ptrdiff_t>(r_.capture(0)),
                           c_.b.scalar_int(DType::i64, 0));
    for (std::uint32_t k = 0; k < n_.result_count; ++k) larger.kept.push_back(k < r_.carries ? k : k + 1);
    std::vector<std::uint32_t> kept = larger.kept;
    larger_ = add_larger(c_.b, c_.id, std::move(larger));
    c_.swaps.push_back({c_.id, larger_, kept});
    return c_.b.graph().node(larger_).result(static_cast<std::uint32_t>(r_.carries));
  }

  /// The reverse as a Loop of so many trips; the number of the trip that it reverses is carried where it is needed.
  void add_loop(ValueId count) {
    Bits needed = needed_inputs();
    GraphBuilder b(j_.g);
    ValueId trip = b.input("", {DType::i64, {}}), on = b.input("", {DType::boolean, {}}), number = j_.input(0);
    std::vector<ValueId> inputs{trip, on}, outputs{on};
    GraphBuilder::NodeArgs args;
    args.operands = {count, {}};
    for (const Slot& s : states()) inputs.push_back(s.inside), args.operands.push_back(s.operand);
    outputs.insert(outputs.end(), results_.begin(), results_.end());
    for (std::size_t i : carries_) args.stated.push_back(c_.b.type(n_.operands[r_.first() + i]));
    for (std::size_t i : captured_) args.stated.push_back(c_.b.type(n_.operands[i]));
    if (needed[0]) {
      inputs.push_back(number);
      outputs.push_back(b.sub(number, b.scalar_int(DType::i64, 1)));
      args.operands.push_back(c_.b.reshape(c_.b.sub(count, c_.b.scalar_int(DType::i64, 1)), {}));
      args.stated.push_back({DType::i64, {}});
    }
    std::size_t own = args.operands.size();
    for (std::size_t k = 0; k < r_.captures; ++k)
      if (needed[r_.capture(k)])
        inputs.push_back(j_.input(r_.capture(k))), args.operands.push_back(n_.operands[r_.capture(k)]);
    Graph region = extract(j_.g, inputs, outputs);
    add_sizes(region, args.operands);
    args.attrs = {{"captures", static_cast<std::int64_t>(args.operands.size() - own)}};
    args.regions = {std::make_shared<const Graph>(std::move(region))};
    set_grads(must_add(c_.b, *n_.op, std::move(args)));
  }

  void set_grads(NodeId id) {
    std::uint32_t r = 0;
    const Node& n = c_.b.graph().node(id);
    for (std::size_t i : carries_) c_.grads[r_.first() + i] = n.result(r++);
    for (std::size_t i : captured_) c_.grads[i] = n.result(r++);
    for (std::size_t i : elements_) c_.grads[i] = n.result(r++);
    for (ValueId v : factors_) stacks_[v] = n.result(r++);
  }

  /// One operand of the reverse and the value of j_ that it is in the region.
  struct Slot {
    ValueId operand, inside;
    std::int64_t axis = 0, direction = 0;
  };

  std::vector<Slot> states() {
    std::vector<Slot> out;
    for (std::size_t k = 0; k < carries_.size(); ++k) {
      ValueId ct = c_.cotangents.size() > carries_[k] ? c_.cotangents[carries_[k]] : ValueId{};
      if (!ct) ct = c_.b.zeros(Type(c_.b.type(n_.operands[r_.first() + carries_[k]])));
      out.push_back({ct, j_.cotangent(k)});
    }
    for (std::size_t k = 0; k < captured_.size(); ++k)
      out.push_back({c_.b.zeros(Type(c_.b.type(n_.operands[captured_[k]]))), accumulators_[k]});
    return out;
  }

  std::vector<Slot> sequences(const Bits& needed) {
    std::vector<Slot> out;
    Axes in_axes = list_attr(n_, "scan_input_axes", r_.sequences),
         in_back = list_attr(n_, "scan_input_directions", r_.sequences),
         out_axes = list_attr(n_, "scan_output_axes", r_.scans),
         out_back = list_attr(n_, "scan_output_directions", r_.scans);
    for (std::size_t k = 0; k < saved_.size(); ++k)
      out.push_back(
          {c_.b.graph().node(larger_).result(first_residual_ + static_cast<std::uint32_t>(k)), saved_[k], 0, 1});
    for (std::size_t k = 0; k < scans_.size(); ++k) {
      std::size_t s = scans_[k] - r_.carries;
      out.push_back({c_.cotangents[scans_[k]], j_.cotangent(carries_.size() + k), out_axes[s], 1 - out_back[s]});
    }
    for (std::size_t k = 0; k < r_.sequences; ++k)
      if (std::size_t i = r_.sequence(k); needed[i] || (out.empty() && k + 1 == r_.sequences))
        out.push_back({n_.operands[i], j_.input(i), in_axes[k], 1 - in_back[k]});
    return out;
  }

  /// Inputs of the region that the reverse reads itself.
  Bits needed_inputs() const {
    Bits live(j_.g.node_count()), cut(j_.g.value_count()), needed(j_.own);
    for (ValueId v : saved_) cut[v.index] = true;
    auto need = [&](ValueId v) {
      if (v && !cut[v.index]) live[j_.g.value(v).node.index] = true;
    };
    std::ranges::for_each(results_, need);
    for (std::size_t i = j_.g.node_count(); i-- > 0;)
      if (live[i]) std::ranges::for_each(j_.g.node(NodeId(i)).operands, need);
    for (std::size_t i = 0; i < j_.own; ++i) needed[i] = live[j_.g.value(j_.input(i)).node.index];
    return needed;
  }

  void add_scan() {
    Bits needed = needed_inputs();
    std::vector<Slot> slots = states(), run_over = sequences(needed);
    std::size_t state_count = slots.size(), sequence_count = run_over.size();
    slots.insert(slots.end(), run_over.begin(), run_over.end());
    for (std::size_t k = 0; k < r_.captures; ++k)
      if (needed[r_.capture(k)]) slots.push_back({n_.operands[r_.capture(k)], j_.input(r_.capture(k))});
    std::vector<ValueId> inputs;
    for (const Slot& s : slots) inputs.push_back(s.inside);
    Graph region = extract(j_.g, inputs, results_);
    GraphBuilder::NodeArgs args;
    for (const Slot& s : slots) args.operands.push_back(s.operand);
    add_sizes(region, args.operands);
    Axes axes, back, out_axes, out_back, in_axes = list_attr(n_, "scan_input_axes", r_.sequences),
                                         in_back = list_attr(n_, "scan_input_directions", r_.sequences);
    for (std::size_t k = 0; k < sequence_count; ++k)
      axes.push_back(slots[state_count + k].axis), back.push_back(slots[state_count + k].direction);
    for (std::size_t i : elements_)
      out_axes.push_back(in_axes[i - r_.sequence(0)]), out_back.push_back(1 - in_back[i - r_.sequence(0)]);
    out_axes.resize(out_axes.size() + factors_.size(), 0);
    out_back.resize(out_back.size() + factors_.size(), 1);
    args.attrs = {{"captures", static_cast<std::int64_t>(args.operands.size() - state_count - sequence_count)},
                  {"num_scan_inputs", static_cast<std::int64_t>(sequence_count)},
                  {"scan_input_axes", axes},
                  {"scan_input_directions", back},
                  {"scan_output_axes", out_axes},
                  {"scan_output_directions", out_back}};
    args.regions = {std::make_shared<const Graph>(std::move(region))};
    for (std::size_t i : carries_) args.stated.push_back(c_.b.type(n_.operands[r_.first() + i]));
    for (std::size_t i : captured_) args.stated.push_back(c_.b.type(n_.operands[i]));
    for (std::size_t i : elements_) args.stated.push_back(c_.b.type(n_.operands[i]));
    const Slot& over = run_over[0];
    Dim trips =
        c_.b.type(over.operand)
            .shape[static_cast<std::size_t>(over.axis < 0 ? over.axis + c_.b.type(over.operand).rank() : over.axis)];
    for (ValueId v : factors_) {
      Type t = j_.g.type(v);
      t.shape.insert(t.shape.begin(), trips);
      args.stated.push_back(std::move(t));
    }
    set_grads(must_add(c_.b, op("Scan"), std::move(args)));
  }

  /// A size that no operand has is captured with a value that has it.
  void add_sizes(Graph& region, std::vector<ValueId>& operands) {
    std::set<std::string> used = symbols_of_graph(region), given;
    for (ValueId v : operands)
      if (v) given.merge(symbols_of(c_.b.type(v)));
    for (ValueId v : n_.operands) {
      if (!v) continue;
      std::set<std::string> more = symbols_of(c_.b.type(v));
      if (!std::ranges::any_of(more, [&](const auto& s) { return used.contains(s) && !given.contains(s); })) continue;
      given.merge(more);
      GraphBuilder(region).input("", Type(c_.b.type(v)));
      operands.push_back(v);
    }
  }
};

}  // namespace

void reverse_recurrence(ControlReverse& c) { ReverseRecurrence(c).run(); }

}  // namespace ag::passes::ad

// Forward mode of If, Loop and Scan: the node with the tangents beside the values, in the place of the node.
#include <algorithm>

#include "passes/autodiff_internal.hpp"

namespace ag::passes::ad {
namespace {

/// A region with tangents of some of its inputs as further inputs (behind the own ones), and those of outputs.
struct Joint {
  Graph g;
  std::size_t own = 0;
  std::vector<ValueId> tangents;  ///< one per output asked for, invalid where absent

  ValueId input(std::size_t i) const { return g.inputs[i]; }
  ValueId tangent_input(std::size_t i) const { return g.inputs[own + i]; }
};

Joint differentiate(const Graph& region, const std::vector<std::size_t>& inputs,
                    const std::vector<std::size_t>& outputs) {
  Joint j{region, region.inputs.size(), {}};
  GraphBuilder b(j.g);
  std::vector<ValueId> ins, given, outs;
  for (std::size_t i : inputs) {
    ins.push_back(j.input(i));
    given.push_back(b.input("", Type(j.g.type(j.input(i)))));
  }
  for (std::size_t o : outputs) outs.push_back(j.g.outputs[o].value);
  j.tangents = append_forward(j.g, std::move(ins), std::move(given), std::move(outs)).values;
  return j;
}

bool is_real(const Graph& g, ValueId v) { return is_float(g.type(v).dtype); }

GraphPtr finish(const Joint& j, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs) {
  return std::make_shared<const Graph>(extract(j.g, inputs, outputs));
}

}  // namespace

void forward_if(ControlForward& c) {
  const Node n = c.b.graph().node(c.id);
  std::vector<std::size_t> inputs, outputs;
  Larger larger{.operands = n.operands, .attrs = n.attrs, .regions = {}, .kept = {}};
  for (std::size_t i = 1; i < n.operands.size(); ++i) {
    if (!c.tangents[i]) continue;
    inputs.push_back(i - 1);
    larger.operands.push_back(c.tangents[i]);
  }
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    larger.kept.push_back(r);
    if (is_real(c.b.graph(), n.result(r))) outputs.push_back(r);
  }
  std::vector<Joint> joints;
  for (const GraphPtr& region : n.regions) joints.push_back(differentiate(*region, inputs, outputs));
  std::vector<std::size_t> given;  // places in `outputs` that some branch has a tangent for
  for (std::size_t k = 0; k < outputs.size(); ++k)
    if (joints[0].tangents[k] || joints[1].tangents[k]) given.push_back(k);
  if (given.empty()) return;
  for (Joint& j : joints) {
    GraphBuilder b(j.g);
    std::vector<ValueId> results;
    for (const Output& o : j.g.outputs) results.push_back(o.value);
    for (std::size_t k : given)
      results.push_back(j.tangents[k] ? j.tangents[k] : b.zeros(Type(j.g.type(j.g.outputs[outputs[k]].value))));
    larger.regions.push_back(finish(j, j.g.inputs, results));
  }
  for (std::size_t k = 0; k < given.size(); ++k)
    larger.like.push_back({n.regions[0]->outputs.size() + k, static_cast<std::uint32_t>(outputs[given[k]])});
  larger.attrs.set("captures", static_cast<std::int64_t>(larger.operands.size() - 1));
  std::vector<std::uint32_t> kept = larger.kept;
  NodeId fresh = add_larger(c.b, c.id, std::move(larger));
  c.swaps.push_back({c.id, fresh, kept});
  auto first = static_cast<std::uint32_t>(n.regions[0]->outputs.size());
  for (std::size_t k = 0; k < given.size(); ++k)
    c.out[outputs[given[k]]] = c.b.graph().node(fresh).result(first + static_cast<std::uint32_t>(k));
}

namespace {

/// The Loop or Scan that carries tangents beside its values.
class ForwardRecurrence {
 public:
  explicit ForwardRecurrence(ControlForward& c) : c_(c), n_(c.b.graph().node(c.id)), r_(n_) {}

  void run() {
    find_active();
    std::vector<std::size_t> inputs, outputs;
    for (std::size_t i : carries_) inputs.push_back(r_.first() + i), outputs.push_back(r_.output(i));
    inputs.insert(inputs.end(), elements_.begin(), elements_.end());
    inputs.insert(inputs.end(), captured_.begin(), captured_.end());
    for (std::size_t k : scans_) outputs.push_back(r_.output(k));
    j_ = differentiate(*n_.regions[0], inputs, outputs);
    drop_absent_scans();
    if (carries_.empty() && scans_.empty()) return;
    Larger larger;
    larger.operands = operands();
    larger.attrs = attrs();
    larger.regions = {finish(j_, region_inputs(), region_outputs())};
    auto d = static_cast<std::uint32_t>(carries_.size());
    for (std::uint32_t r = 0; r < n_.result_count; ++r) larger.kept.push_back(r < r_.carries ? r : r + d);
    for (std::uint32_t k = 0; k < d; ++k)
      if (carries_[k] < n_.result_count)
        larger.like.push_back({static_cast<std::uint32_t>(r_.carries) + k, static_cast<std::uint32_t>(carries_[k])});
    auto first_scan = static_cast<std::uint32_t>(r_.results()) + d;
    for (std::uint32_t k = 0; k < scans_.size(); ++k)
      larger.like.push_back({first_scan + k, static_cast<std::uint32_t>(scans_[k])});
    std::vector<std::uint32_t> kept = larger.kept;
    NodeId fresh = add_larger(c_.b, c_.id, std::move(larger));
    c_.swaps.push_back({c_.id, fresh, kept});
    const Node& node = c_.b.graph().node(fresh);
    for (std::uint32_t k = 0; k < d; ++k)
      if (carries_[k] < n_.result_count) c_.out[carries_[k]] = node.result(static_cast<std::uint32_t>(r_.carries) + k);
    for (std::uint32_t k = 0; k < scans_.size(); ++k) c_.out[scans_[k]] = node.result(first_scan + k);
  }

 private:
  ControlForward& c_;
  const Node n_;
  const Recurrence r_;
  Joint j_;
  std::vector<std::size_t> carries_, elements_, captured_;  ///< with a tangent; inputs of the region the last two
  std::vector<std::size_t> scans_;                          ///< results behind the carries with a tangent

  void find_active() {
    Bits operands, results(n_.result_count, true);
    for (ValueId t : c_.tangents) operands.push_back(t.valid());
    operands.resize(n_.regions[0]->inputs.size());
    RecurrenceActivity act = close_recurrence(n_, operands, results);
    for (std::size_t i = 0; i < r_.carries; ++i)
      if (act.carried[i]) carries_.push_back(i);
    for (std::size_t i = r_.sequence(0); i < operands.size(); ++i)
      if (operands[i]) (i < r_.capture(0) ? elements_ : captured_).push_back(i);
    for (std::uint32_t k = static_cast<std::uint32_t>(r_.carries); k < n_.result_count; ++k)
      if (is_real(c_.b.graph(), n_.result(k))) scans_.push_back(k);
  }

  void drop_absent_scans() {
    std::vector<std::size_t> kept;
    std::vector<ValueId> tangents(j_.tangents.begin(),
                                  j_.tangents.begin() + static_cast<std::ptrdiff_t>(carries_.size()));
    for (std::size_t k = 0; k < scans_.size(); ++k)
      if (ValueId t = j_.tangents[carries_.size() + k]) {
        kept.push_back(scans_[k]);
        tangents.push_back(t);
      }
    scans_ = kept;
    j_.tangents = tangents;
  }

  ValueId tangent_of(std::size_t operand) {
    if (c_.tangents[operand]) return c_.tangents[operand];
    return c_.b.zeros(Type(c_.b.type(n_.operands[operand])));
  }

  std::vector<ValueId> operands() {
    std::vector<ValueId> out(
        n_.operands.begin(),
        n_.operands.begin() + static_cast<std::ptrdiff_t>(std::min(n_.operands.size(), r_.first() + r_.carries)));
    out.resize(r_.first() + r_.carries);
    for (std::size_t i : carries_) out.push_back(tangent_of(r_.first() + i));
    for (std::size_t k = 0; k < r_.sequences; ++k) out.push_back(n_.operands[r_.sequence(k)]);
    for (std::size_t i : elements_) out.push_back(c_.tangents[i]);
    for (std::size_t k = 0; k < r_.captures; ++k) out.push_back(n_.operands[r_.capture(k)]);
    for (std::size_t i : captured_) out.push_back(c_.tangents[i]);
    return out;
  }

  std::vector<ValueId> region_inputs() const {
    std::vector<ValueId> out;
    std::size_t next = 0;
    for (std::size_t i = 0; i < r_.first() + r_.carries; ++i) out.push_back(j_.input(i));
    for (std::size_t k = 0; k < carries_.size(); ++k) out.push_back(j_.tangent_input(next++));
    for (std::size_t k = 0; k < r_.sequences; ++k) out.push_back(j_.input(r_.sequence(k)));
    for (std::size_t k = 0; k < elements_.size(); ++k) out.push_back(j_.tangent_input(next++));
    for (std::size_t k = 0; k < r_.captures; ++k) out.push_back(j_.input(r_.capture(k)));
    for (std::size_t k = 0; k < captured_.size(); ++k) out.push_back(j_.tangent_input(next++));
    return out;
  }

  std::vector<ValueId> region_outputs() {
    GraphBuilder b(j_.g);
    std::vector<ValueId> out;
    std::size_t first_scan = r_.output(r_.carries);
    for (std::size_t i = 0; i < first_scan; ++i) out.push_back(j_.g.outputs[i].value);
    for (std::size_t k = 0; k < carries_.size(); ++k) {
      ValueId t = j_.tangents[k];
      out.push_back(t ? t : b.zeros(Type(j_.g.type(j_.input(r_.first() + carries_[k])))));
    }
    for (std::size_t i = first_scan; i < j_.g.outputs.size(); ++i) out.push_back(j_.g.outputs[i].value);
    for (std::size_t k = 0; k < scans_.size(); ++k) out.push_back(j_.tangents[carries_.size() + k]);
    return out;
  }

  Attrs attrs() const {
    Attrs a = n_.attrs;
    a.set("captures", static_cast<std::int64_t>(r_.captures + captured_.size()));
    if (r_.loop) return a;
    a.set("num_scan_inputs", static_cast<std::int64_t>(r_.sequences + elements_.size()));
    auto extend = [&](std::string_view name, std::size_t own, const std::vector<std::size_t>& more, std::size_t from) {
      auto list = a.get_or<std::vector<std::int64_t>>(name, {});
      if (list.empty()) return;
      list.resize(own, 0);
      for (std::size_t i : more) list.push_back(list[i - from]);
      a.set(name, std::move(list));
    };
    extend("scan_input_axes", r_.sequences, elements_, r_.sequence(0));
    extend("scan_input_directions", r_.sequences, elements_, r_.sequence(0));
    extend("scan_output_axes", r_.scans, scans_, r_.carries);
    extend("scan_output_directions", r_.scans, scans_, r_.carries);
    return a;
  }
};

}  // namespace

void forward_recurrence(ControlForward& c) { ForwardRecurrence(c).run(); }

}  // namespace ag::passes::ad

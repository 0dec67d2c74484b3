// What a trip of a Loop or Scan hands to its reverse. Only autodiff_control.cpp includes this.
#pragma once
#include <algorithm>

#include "passes/autodiff_internal.hpp"

namespace ag::passes::ad {

using Axes = std::vector<std::int64_t>;

/// A region with the cotangents of some of its outputs as further inputs, and those of some inputs computed.
struct Joint {
  Graph g;
  std::size_t own = 0;          ///< inputs of the region itself; cotangents follow
  std::vector<ValueId> grads;   ///< one per wanted input, invalid where absent
  Bits primal;

  ValueId input(std::size_t i) const { return g.inputs[i]; }
  ValueId output(std::size_t i) const { return g.outputs[i].value; }
  ValueId cotangent(std::size_t i) const { return g.inputs[own + i]; }
};

/// Functions of captures and the trip number alone.
inline Bits free_values(const Joint& j, const Recurrence& r) {
  Bits free(j.g.value_count());
  for (std::size_t k = 0; k < r.captures; ++k) free[j.input(r.capture(k)).index] = true;
  if (r.loop) free[j.input(0).index] = true;
  for (NodeId id : j.g.node_ids()) {
    const Node& n = j.g.node(id);
    bool all = n.op->name != "input";
    for (ValueId v : n.operands) all = all && (!v || free[v.index]);
    for (std::uint32_t k = 0; all && k < n.result_count; ++k) free[n.result(k).index] = true;
  }
  return free;
}

/// Sizes that are known outside the region.
inline std::set<std::string> outer_sizes(const Joint& j, const Recurrence& r) {
  std::set<std::string> out;
  for (std::size_t i = r.first(); i < j.own; ++i) out.merge(symbols_of(j.g.type(j.input(i))));
  return out;
}

inline bool is_stackable(const Type& t, const std::set<std::string>& sizes) {
  return std::ranges::all_of(symbols_of(t), [&](const std::string& s) { return sizes.contains(s); });
}

/// Chooses what a trip hands to its reverse: `saved`, values that become scan outputs. Everything else that the
/// reverse needs it takes from captures and elements, or computes again: functions of captures alone, what is cheap
/// given values that are there anyway, and what has a size that only the trip knows.
class Residuals {
 public:
  Residuals(const Joint& j, const Recurrence& r) : j_(j), r_(r), free_(free_values(j, r)), sizes_(outer_sizes(j, r)) {}

  /// For these results of the reverse.
  void choose(const std::vector<ValueId>& results) {
    start(results);
    while (!open_.empty()) {
      ValueId v = *open_.begin();
      open_.erase(open_.begin());
      if (is_input(v)) {
        if (!given(v)) saved_.push_back(v);
      } else if (again(v)) {
        for (ValueId o : j_.g.def(v).operands) need(o);
      } else {
        saved_.push_back(v);
      }
    }
    std::ranges::sort(saved_);
  }
  const std::vector<ValueId>& saved() const { return saved_; }

 private:
  const Joint& j_;
  const Recurrence& r_;
  Bits free_;
  std::set<std::string> sizes_;
  std::set<ValueId, std::greater<>> open_;
  Bits needed_;
  std::vector<ValueId> saved_;

  bool is_input(ValueId v) const { return j_.g.def(v).op->name == "input"; }
  bool is_primal(ValueId v) const { return j_.primal[j_.g.value(v).node.index]; }

  /// Captures, elements and cotangents.
  bool given(ValueId v) const {
    auto at = static_cast<std::size_t>(std::ranges::find(j_.g.inputs, v) - j_.g.inputs.begin());
    return at >= r_.sequence(0);
  }

  void need(ValueId v) {
    if (!v || needed_[v.index]) return;
    needed_[v.index] = true;
    open_.insert(v);
  }

  void start(const std::vector<ValueId>& results) {
    needed_.assign(j_.g.value_count(), false);
    Bits live(j_.g.node_count());
    auto visit = [&](ValueId v) {
      if (v && is_primal(v)) need(v);
      if (v) live[j_.g.value(v).node.index] = true;
    };
    std::ranges::for_each(results, visit);
    for (std::size_t i = j_.g.node_count(); i-- > 0;)
      if (live[i] && !j_.primal[i]) std::ranges::for_each(j_.g.node(NodeId(i)).operands, visit);
  }

  bool again(ValueId v) const {
    const Node& n = j_.g.def(v);
    if (free_[v.index] || !is_stackable(j_.g.type(v), sizes_)) return true;
    bool view = n.op->name == "broadcast_in_dim" || n.op->name == "reshape" || n.op->name == "transpose";
    if (view) return true;
    bool cheap = (n.op->lower_class == LowerClass::map && n.op->cost <= 2) || n.op->inlined;
    return cheap && std::ranges::all_of(n.operands, [&](ValueId o) {
             return !o || free_[o.index] || needed_[o.index] || (is_input(o) && given(o));
           });
  }
};

}  // namespace ag::passes::ad

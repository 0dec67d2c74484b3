// Checkpoints of loops under a memory limit: after all differentiation, loops that hand values of all trips (stacks) to
// others, mostly a loop and its reverse, are rewritten where the stacks may take more than their share of the limit.
// The loop keeps the carries of every s-th trip in fixed slots instead; whatever reads the stacks runs segment by
// segment, and computes the part of the stacks that a segment needs again (checkpoint_sweep.cpp).
//
// A family is closed: every use of such a stack is a sequence of a loop, or a contraction over all trips. Gradients of
// gradients are families of four and more loops, each with checkpoints of its own.
#include <algorithm>

#include "passes/checkpoint.hpp"
#include "passes/pass.hpp"
#include "passes/users.hpp"

namespace ag::passes {
namespace ckpt {
namespace {

using ad::Bits;
using ad::Recurrence;

std::optional<std::int64_t> bytes_of(const Type& t, std::size_t from = 0) {
  std::int64_t n = static_cast<std::int64_t>(dtype_bytes(t.dtype));
  for (std::size_t i = from; i < t.shape.size(); ++i) {
    if (!t.shape[i].is_const() || __builtin_mul_overflow(n, t.shape[i].value(), &n)) return std::nullopt;
  }
  return n;
}

std::optional<std::int64_t> sum(std::optional<std::int64_t> a, std::optional<std::int64_t> b) {
  if (!a || !b || *a > (std::int64_t{1} << 61) || *b > (std::int64_t{1} << 61)) return std::nullopt;
  return *a + *b;
}

class Finder {
 public:
  Finder(const Graph& g, std::int64_t limit)
      : g_(g), limit_(limit), users_(g.value_count()), output_(output_values(g)) {
    for (NodeId id : g.node_ids())
      for (std::size_t i = 0; i < g.node(id).operands.size(); ++i)
        if (ValueId v = g.node(id).operands[i]) users_[v.index].emplace_back(id, i);
  }

  Families run() {
    for (NodeId id : g_.node_ids())
      if (ad::is_recurrence(g_.node(id)) && ad::keeps_sizes(g_.node(id))) {
        const Recurrence r(g_.node(id));
        for (std::size_t k = r.carries; k < g_.node(id).result_count; ++k)
          if (ValueId v = g_.node(id).result(static_cast<std::uint32_t>(k)); may_drop(v, k - r.carries, id))
            maker_[v] = id;
      }
    while (!maker_.empty() && !consistent()) {
    }
    out_.maker = std::move(maker_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  std::int64_t limit_;
  std::vector<std::vector<std::pair<NodeId, std::size_t>>> users_;
  Bits output_;
  std::map<ValueId, NodeId> maker_;
  Families out_;

  /// A contraction over the first axes of both operands.
  bool is_product(NodeId id) const {
    const Node& n = g_.node(id);
    if (n.op->name != "dot_general" || n.operands[0] == n.operands[1]) return false;
    Axes a = n.attrs.get_or<Axes>("lhs_contract", {}), b = n.attrs.get_or<Axes>("rhs_contract", {});
    for (std::size_t i = 0; i < a.size() && i < b.size(); ++i)
      if (a[i] == 0 && b[i] == 0) return true;
    return false;
  }

  bool may_drop(ValueId v, std::size_t scan, NodeId by) const {
    const Node& n = g_.node(by);
    if (output_[v.index] || users_[v.index].empty() || along(n, false, scan, g_.type(v).rank()).axis != 0) return false;
    return std::ranges::all_of(users_[v.index], [&](const auto& use) {
      const Node& user = g_.node(use.first);
      if (is_product(use.first)) return true;
      if (!ad::is_recurrence(user) || !ad::keeps_sizes(user)) return false;
      const Recurrence r(user);
      return use.second >= r.sequence(0) && use.second < r.capture(0) &&
             along(user, true, use.second - r.sequence(0), g_.type(v).rank()).axis == 0;
    });
  }

  /// Stacks that must be kept after all. False: look again.
  bool keep(const std::vector<ValueId>& stacks) {
    for (ValueId v : stacks) maker_.erase(v);
    return false;
  }
  bool keep_family(NodeId root) {
    std::vector<ValueId> all;
    for (const auto& [v, by] : maker_)
      if (root_.at(by) == root) all.push_back(v);
    return keep(all);
  }
  std::map<NodeId, NodeId> root_;  ///< of each member

  std::vector<ValueId> stacks_read(NodeId id) const {
    std::vector<ValueId> out;
    for (ValueId v : g_.node(id).operands)
      if (v && maker_.contains(v)) out.push_back(v);
    return out;
  }

  bool consistent() {
    out_ = {};
    root_.clear();
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (ad::is_recurrence(n)) {
        if (!add_member(id)) return false;
      } else if (std::vector<ValueId> reads = stacks_read(id); !reads.empty() && !add_product(id, reads)) {
        return false;
      }
    }
    for (auto& [id, m] : out_.members)
      for (NodeId up : m.upstream) out_.members.at(up).is_source = true;
    for (auto& [id, m] : out_.members)
      if (m.is_source) m.carries = carries_for_stacks(m);
    for (auto& [id, root] : root_)
      if (id == root && !add_family(root)) return false;
    return true;
  }

  bool add_member(NodeId id) {
    const Node& n = g_.node(id);
    Member m{.id = id, .r = Recurrence(n)};
    std::optional<bool> backward;
    std::optional<NodeId> root;
    std::set<NodeId> upstream;
    std::vector<ValueId> own;
    for (std::size_t k = m.r.carries; k < n.result_count; ++k)
      if (maker_.contains(n.result(static_cast<std::uint32_t>(k)))) {
        m.dropped.push_back(k);
        own.push_back(n.result(static_cast<std::uint32_t>(k)));
      }
    for (std::size_t k = 0; k < m.r.sequences; ++k) {
      ValueId v = n.operands[m.r.sequence(k)];
      auto by = maker_.find(v);
      if (by == maker_.end()) continue;
      bool back = along(n, true, k, g_.type(v).rank()).back;
      m.reads.push_back(v);
      if ((backward && *backward != back) || (root && *root != root_.at(by->second))) return keep(m.reads);
      backward = back;
      root = root_.at(by->second);
      upstream.insert(by->second);
      for (NodeId up : out_.members.at(by->second).upstream) upstream.insert(up);
    }
    if (m.reads.empty() && own.empty()) return true;
    if (m.reads.empty() && n.result_count == 0) return keep(own);
    m.backward = backward.value_or(false);
    m.upstream.assign(upstream.begin(), upstream.end());
    std::vector<ValueId> wrong;
    for (std::size_t k : m.dropped)
      if (ValueId v = n.result(static_cast<std::uint32_t>(k));
          along(n, false, k - m.r.carries, g_.type(v).rank()).back != m.backward)
        wrong.push_back(v);
    if (!wrong.empty()) return keep(wrong);
    root_[id] = root.value_or(id);
    out_.members.emplace(id, std::move(m));
    return true;
  }

  /// The last loop before, in whose sweep all of the stacks are at hand, sums the product up.
  bool add_product(NodeId id, const std::vector<ValueId>& reads) {
    Member* host = nullptr;
    for (auto& [at, m] : out_.members) {
      if (at.index > id.index || m.reads.empty()) continue;
      bool all = std::ranges::all_of(reads, [&](ValueId v) {
        NodeId by = maker_.at(v);
        return by == at || std::ranges::find(m.upstream, by) != m.upstream.end();
      });
      for (ValueId v : g_.node(id).operands)
        if (!maker_.contains(v) && g_.value(v).node.index >= at.index) all = false;
      if (all) host = &m;
    }
    if (!host) return keep(reads);
    host->products.push_back(id);
    out_.host[id] = host->id;
    return true;
  }

  /// Carries that the dropped stacks of a loop depend on, after any number of trips.
  std::vector<std::size_t> carries_for_stacks(const Member& m) const {
    const Graph& body = *g_.node(m.id).regions[0];
    Bits live(body.node_count()), carried(m.r.carries);
    auto need = [&](ValueId v) {
      if (v) live[body.value(v).node.index] = true;
    };
    for (std::size_t k : m.dropped) need(body.outputs[m.r.output(k)].value);
    for (bool more = true; more;) {
      more = false;
      for (std::size_t i = body.node_count(); i-- > 0;)
        if (live[i]) std::ranges::for_each(body.node(NodeId(i)).operands, need);
      for (std::size_t i = 0; i < m.r.carries; ++i)
        if (!carried[i] && live[body.value(body.inputs[m.r.first() + i]).node.index]) {
          carried[i] = more = true;
          need(body.outputs[m.r.output(i)].value);
        }
    }
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < m.r.carries; ++i)
      if (carried[i]) out.push_back(i);
    return out;
  }

  bool add_family(NodeId root) {
    Family f{.root = root, .members = {}, .trips = {}, .carry_bytes = 0, .trip_bytes = 0};
    std::optional<Dim> length;
    std::set<ValueId> stacks;
    for (const auto& [id, m] : out_.members) {
      if (root_.at(id) != root) continue;
      f.members.push_back(id);
      const Node& n = g_.node(id);
      for (std::size_t k : m.dropped) {
        ValueId v = n.result(static_cast<std::uint32_t>(k));
        stacks.insert(v);
        if (!length) length = g_.type(v).shape[0];
        f.trip_bytes = sum(f.trip_bytes, bytes_of(g_.type(v), 1));
      }
      for (std::size_t i : m.carries)
        f.carry_bytes = sum(f.carry_bytes, bytes_of(g_.type(n.result(static_cast<std::uint32_t>(i)))));
    }
    if (!length || length_needed(*length, stacks, root)) return keep_family(root);
    if (length->is_const()) f.trips = length->value();
    std::string policy;
    for (const auto& [key, text] : g_.node(root).extras)
      if (key == "x-checkpoint") policy = text;
    f.by_root = policy == "\"sqrt\"";
    std::int64_t all = 0;
    bool fits = f.trips && f.trip_bytes && !__builtin_mul_overflow(*f.trips, *f.trip_bytes, &all) && all <= limit_ / 4;
    if (policy == "\"none\"" || (f.by_root ? f.trips && *f.trips < 4 : limit_ <= 0 || fits)) return keep_family(root);
    out_.list.push_back(std::move(f));
    return true;
  }

  /// A number of trips that only the data knows is a size of something else, which no other output of the loop gives.
  bool length_needed(const Dim& length, const std::set<ValueId>& stacks, NodeId root) const {
    auto name = length.as_symbol();
    if (!name || name->find('.') == std::string::npos) return false;
    auto mentions = [&](const Type& t) { return ad::symbols_of(t).contains(*name); };
    const Node& n = g_.node(root);
    for (std::uint32_t k = 0; k < n.result_count; ++k)
      if (!stacks.contains(n.result(k)) && mentions(g_.type(n.result(k)))) return false;
    for (std::size_t v = 0; v < g_.value_count(); ++v)
      if (!stacks.contains(ValueId(v)) && mentions(g_.type(ValueId(v)))) return true;
    for (NodeId id : g_.node_ids())
      for (const auto& [key, value] : g_.node(id).attrs) {
        const auto* dims = std::get_if<Dims>(&value);
        if (dims && mentions({DType::i64, *dims})) return true;
      }
    return false;
  }
};

}  // namespace

Families find_families(const Graph& g, std::int64_t limit) { return Finder(g, limit).run(); }

}  // namespace ckpt

namespace {

/// Loops in regions first: what a body does in one trip must fit too. False if nothing had to be done.
Result<bool> bound_stacks(Graph& g, std::int64_t limit, int depth) {
  bool changed = false;
  for (NodeId id : g.node_ids())
    for (GraphPtr& r : g.node(id).regions) {
      if (depth >= 64) return fail(Code::AG1108, g.loc(g.node(id).result()), "regions are nested too deeply");
      Graph inner = *r;
      AG_TRY(bool other, bound_stacks(inner, limit / 4, depth + 1));
      if (other) r = std::make_shared<const Graph>(std::move(inner));
      changed = changed || other;
    }
  ckpt::Families families = ckpt::find_families(g, limit);
  if (families.list.empty()) return changed;
  const std::int64_t share = limit / static_cast<std::int64_t>(families.list.size());
  AG_TRY(g, ckpt::rewrite_families(std::move(g), families, share));
  return true;
}

Result<Graph> run(const Graph& g, PassContext& context) {
  Graph out = g;
  AG_TRY(bool changed, bound_stacks(out, context.memory_limit, 0));
  (void)changed;
  out.stage = "checkpoint";
  return out;
}

}  // namespace

const Pass checkpoint = {
    .name = "checkpoint", .summary = "loops keep checkpoints instead of every trip, under a limit", .on_graph = run};

}  // namespace ag::passes

// The one choke point for graphs: whatever passes verify() may be believed by passes and interpreters.
#include <fmt/format.h>

#include <unordered_set>

#include "ir/check.hpp"
#include "ir/op.hpp"

namespace ag {
namespace {

constexpr int max_depth = 64;
constexpr std::size_t max_reports = 100;

class Verifier {
 public:
  Verifier(const Graph& g, int depth, Diags& diags) : g_(g), depth_(depth), diags_(diags) {}

  void run() {
    if (depth_ > max_depth)
      return report(Code::AG1108, {}, fmt::format("regions are nested more than {} deep", max_depth));
    for (NodeId id : g_.node_ids()) {
      if (diags_.size() > max_reports) return;
      node(id);
    }
    names();
    signature();
  }

 private:
  const Graph& g_;
  int depth_;
  Diags& diags_;

  void report(Code code, Loc loc, std::string message) {
    diags_.push_back(error(code, std::move(loc), std::move(message)));
  }
  void add(Diags more) {
    diags_.insert(diags_.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  Loc loc(const Node& n) const { return n.locs.empty() ? Loc{} : n.locs[0]; }
  bool exists(ValueId v) const { return v.index < g_.value_count(); }

  void node(NodeId id) {
    const Node& n = g_.node(id);
    if (!n.op || op_table().find(n.op->name) != n.op)
      return report(Code::AG1107, loc(n), fmt::format("node {} has an op that is not in the table", id.index));
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      const ValueId v = n.result(r);
      if (!exists(v) || g_.value(v).node != id || g_.value(v).result != r)
        return report(Code::AG1107, loc(n), fmt::format("the results of node {} are not its own", id.index));
      for (const Dim& d : g_.type(v).shape)
        if (!d.valid() || (d.is_const() && d.value() < 0))
          return report(Code::AG2103, loc(n),
                        fmt::format("{} has an invalid size: {}", g_.display(v), g_.type(v).str()));
    }
    if (n.grad_of && !exists(n.grad_of))
      report(Code::AG1107, loc(n), fmt::format("node {} is the gradient of a value that does not exist", id.index));
    for (ValueId v : n.operands)
      if (v && v >= n.first_result)
        return report(Code::AG1107, loc(n), fmt::format("%{} is used before it is defined", v.index));
    rule(id, n);
    for (const GraphPtr& region : n.regions) {
      if (!region)
        report(Code::AG1107, loc(n), "a region is missing");
      else
        Verifier(*region, depth_ + 1, diags_).run();
    }
  }

  /// Specs and the op's own rule. The rule names fresh unbacked symbols; the graph's stand for them.
  void rule(NodeId id, const Node& n) {
    std::size_t before = diags_.size();
    if (Status ok = check_operands(g_, *n.op, n.operands, n.locs); !ok) add(std::move(ok).error());
    Attrs attrs = n.attrs;
    if (Status ok = check_attrs(*n.op, attrs, n.locs); !ok) add(std::move(ok).error());
    if (n.regions.size() != n.op->regions.size())
      report(Code::AG1106, loc(n),
             fmt::format("`{}` has {} regions, not {}", n.op->name, n.op->regions.size(), n.regions.size()));
    for (const GraphPtr& r : n.regions)
      if (!r) return;
    if (diags_.size() != before) return;
    auto types = n.op->infer(InferCtx(g_, *n.op, n.operands, attrs, n.regions, n.locs));
    if (!types) return add(std::move(types).error());
    if (types->size() < n.result_count || n.result_count == 0)
      return report(Code::AG1107, loc(n),
                    fmt::format("node {} has {} results, its op gives {}", id.index, n.result_count, types->size()));
    std::map<std::string, Dim, std::less<>> symbols;
    std::string fresh = fmt::format("u{}.", g_.next_unbacked());
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      const Type& stated = g_.type(n.result(r));
      if (!unify((*types)[r], stated, symbols, [&](const std::string& s) { return s.starts_with(fresh); }))
        report(Code::AG2103, loc(n),
               fmt::format("{} is stated to be {}, but `{}` gives {}", g_.display(n.result(r)), stated.str(),
                           n.op->name, (*types)[r].str()));
    }
  }

  void names() {
    std::unordered_set<std::string> seen;
    for (std::size_t i = 0; i < g_.value_count(); ++i) {
      const std::string& name = g_.value(ValueId(i)).name;
      if (name.empty()) continue;
      if (!seen.insert(name).second || g_.find(name) != ValueId(i))
        report(Code::AG1107, g_.loc(ValueId(i)), fmt::format("the name `{}` is taken", name));
    }
  }

  void signature() {
    std::unordered_set<std::uint32_t> listed;
    for (ValueId v : g_.inputs) {
      if (!exists(v) || g_.def(v).op->name != "input")
        report(Code::AG1107, {}, fmt::format("the graph's input %{} is no input node", v.index));
      else if (!listed.insert(v.index).second)
        report(Code::AG1107, g_.loc(v), fmt::format("{} is listed twice as an input", g_.display(v)));
    }
    for (NodeId id : g_.node_ids())
      if (g_.node(id).op && g_.node(id).op->name == "input" && !listed.contains(g_.node(id).first_result.index))
        report(Code::AG1107, loc(g_.node(id)),
               fmt::format("{} is not listed as an input", g_.display(g_.node(id).result())));
    std::unordered_set<std::string> outputs;
    for (const Output& o : g_.outputs) {
      if (!exists(o.value))
        report(Code::AG1107, o.loc, fmt::format("the output `{}` does not exist", o.name));
      else if (!o.name.empty() && !outputs.insert(o.name).second)
        report(Code::AG1107, o.loc, fmt::format("two outputs are named `{}`", o.name));
    }
  }
};

}  // namespace

Status verify(const Graph& graph) {
  Diags diags;
  Verifier(graph, 0, diags).run();
  if (!diags.empty()) return fail(std::move(diags));
  return {};
}

}  // namespace ag

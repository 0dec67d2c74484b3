// The derivative of one recorded operation, as a graph of its own: the op's reverse rule run once, then cut at the
// operation's results, so that what the rule uses of them is saved rather than computed again.
#include "ir/op.hpp"
#include "passes/autodiff.hpp"
#include "runtime/api/session.hpp"

namespace ag::lazy {
namespace {

/// Torch's name for the gradient function of a node of the table.
std::string grad_name(const Node& n) {
  static const std::map<std::string_view, std::string_view> special = {{"reduce_sum", "SumBackward1"},
                                                                       {"broadcast_in_dim", "ExpandBackward0"},
                                                                       {"dot_general", "MmBackward0"},
                                                                       {"select", "WhereBackward0"},
                                                                       {"reshape", "ViewBackward0"},
                                                                       {"square", "PowBackward0"},
                                                                       {"transpose", "PermuteBackward0"},
                                                                       {"convert", "ToCopyBackward0"},
                                                                       {"concat", "CatBackward0"},
                                                                       {"pad", "ConstantPadNdBackward0"},
                                                                       {"max", "MaximumBackward0"},
                                                                       {"min", "MinimumBackward0"},
                                                                       {"sum_to_shape", "SumBackward1"},
                                                                       {"MatMul", "MmBackward0"},
                                                                       {"Identity", "CloneBackward0"},
                                                                       {"gather", "IndexBackward0"},
                                                                       {"scatter", "IndexPutBackward0"},
                                                                       {"rev", "FlipBackward0"},
                                                                       {"reduce_max", "AmaxBackward0"},
                                                                       {"reduce_min", "AminBackward0"},
                                                                       {"pow", "PowBackward1"}};
  if (auto it = special.find(n.op->name); it != special.end()) return std::string(it->second);
  std::string name;
  bool up = true;
  for (char c : n.op->name) {
    if (c == '_') {
      up = true;
      continue;
    }
    name += up ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    up = false;
  }
  return name + "Backward0";
}

class Builder {
 public:
  Builder(std::span<const TypePtr> operands, std::uint64_t wanted) : operands_(operands), wanted_(wanted) {}

  Result<Vjp> build(const rec::Recipe* recipe, const rec::Call* call, rec::Params params, const Loc& loc) {
    GraphBuilder b(g_);
    for (const TypePtr& t : operands_) ids_.push_back(b.input("x" + std::to_string(ids_.size()), t->type));
    rec::Emit e(g_, loc);
    results_ = call ? b.inline_graph(*call->graph, ids_) : recipe->build(e, ids_, params);
    for (ValueId r : results_)
      cts_.push_back(is_float(g_.type(r).dtype) ? b.input("ct" + std::to_string(cts_.size()), g_.type(r)) : ValueId{});
    for (std::size_t i = 0; i < operands_.size(); ++i)
      if ((i >= 64 || wanted_ >> i & 1u) && is_float(operands_[i]->type.dtype)) wrt_.push_back(i);
    grads_.resize(wrt_.size());
    for (std::size_t k = 0; k < results_.size(); ++k)
      if (cts_[k]) AG_TRY_(reverse_one(k, loc));
    // Functions that are flat almost everywhere (floor, sign) have gradients, which are zero.
    if (recipe) {
      GraphBuilder zeros(g_);
      for (std::size_t i = 0; i < wrt_.size(); ++i)
        if (!grads_[i]) grads_[i] = zeros.zeros(operands_[wrt_[i]]->type);
    }
    return cut();
  }

 private:
  std::span<const TypePtr> operands_;
  std::uint64_t wanted_;
  Graph g_;
  std::vector<ValueId> ids_, results_, cts_, grads_;
  std::vector<std::size_t> wrt_;

  Status reverse_one(std::size_t k, const Loc& loc) {
    passes::ReverseSpec spec{.of = results_[k], .seed = cts_[k], .wrt = {}, .stop = {}};
    for (std::size_t i : wrt_) spec.wrt.push_back(ids_[i]);
    std::vector<ValueId> map;
    AG_TRY(std::vector<ValueId> grads, passes::reverse(g_, spec, loc, &map));
    auto remap = [&](std::vector<ValueId>& ids) {
      for (ValueId& v : ids)
        if (v && v.index < map.size()) v = map[v.index];
    };
    if (!map.empty()) remap(ids_), remap(results_), remap(cts_), remap(grads_);
    GraphBuilder b(g_);
    for (std::size_t i = 0; i < grads.size(); ++i)
      if (grads[i]) grads_[i] = grads_[i] ? b.add(grads_[i], grads[i]) : grads[i];
    return {};
  }

  /// What the gradients need, with the operation's operands and results as inputs.
  Result<Vjp> cut() {
    using Kind = Vjp::Source::Kind;
    Vjp out;
    out.outputs.assign(operands_.size(), -1);
    std::vector<std::optional<Vjp::Source>> source(g_.value_count());
    // A result that is one of the operands is taken as the operand.
    for (std::size_t i = results_.size(); i-- > 0;) source[results_[i].index] = {Kind::result, std::uint32_t(i)};
    for (std::size_t i = cts_.size(); i-- > 0;)
      if (cts_[i]) source[cts_[i].index] = {Kind::cotangent, std::uint32_t(i)};
    for (std::size_t i = ids_.size(); i-- > 0;) source[ids_[i].index] = {Kind::operand, std::uint32_t(i)};
    std::vector<bool> needed(g_.value_count());
    for (ValueId v : grads_)
      if (v) needed[v.index] = true;
    for (std::size_t n = g_.node_count(); n-- > 0;) {
      const Node& node = g_.node(NodeId(n));
      bool any = false;
      for (std::uint32_t r = 0; r < node.result_count; ++r)
        any |= needed[node.result(r).index] && !source[node.result(r).index];
      if (any)
        for (ValueId v : node.operands)
          if (v) needed[v.index] = true;
    }
    auto call = std::make_shared<rec::Call>();
    Graph to;
    to.name = "derivative";
    GraphBuilder b(to);
    std::vector<ValueId> map(g_.value_count());
    auto map_of = [&](ValueId v) { return v ? map[v.index] : v; };
    for (NodeId id : g_.node_ids()) {
      const Node& node = g_.node(id);
      bool any = false;
      for (std::uint32_t r = 0; r < node.result_count; ++r) {
        const ValueId v = node.result(r);
        if (!needed[v.index]) continue;
        if (!source[v.index]) {
          any = true;
          continue;
        }
        map[v.index] = b.input("s" + std::to_string(out.inputs.size()), g_.type(v));
        out.inputs.push_back(*source[v.index]);
      }
      if (!any) continue;
      const NodeId copy = b.copy(g_, id, map_of);
      for (std::uint32_t r = 0; r < node.result_count; ++r)
        if (const ValueId v = node.result(r); !source[v.index]) map[v.index] = to.node(copy).result(r);
    }
    for (std::size_t i = 0; i < wrt_.size(); ++i) {
      if (!grads_[i]) continue;
      out.outputs[wrt_[i]] = static_cast<int>(to.outputs.size());
      const ValueId v = map[grads_[i].index];
      to.outputs.push_back({"g" + std::to_string(to.outputs.size()), v, {}});
      call->grads.push_back(grad_name(to.def(v)));
    }
    call->name = "backward";
    call->graph = std::make_shared<const Graph>(std::move(to));
    out.call = std::move(call);
    return out;
  }
};

}  // namespace

VjpPtr Session::derivative(rec::TrieNode* node, const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                           std::span<const TypePtr> operands, rec::Params params, std::uint64_t wanted,
                           const Place& place) {
  Known* known = nullptr;
  if (node) {
    if (!node->attachment) node->attachment = std::make_unique<Known>();
    known = static_cast<Known*>(node->attachment.get());
    for (const auto& [mask, vjp] : known->derivatives)
      if (mask == wanted) return vjp;
  }
  // The same operation elsewhere has the same derivative.
  std::string key(reinterpret_cast<const char*>(&wanted), sizeof wanted);
  const void* what = recipe ? static_cast<const void*>(recipe) : call.get();
  key.append(reinterpret_cast<const char*>(&what), sizeof what);
  key.append(reinterpret_cast<const char*>(params.data()), params.size_bytes());
  for (const TypePtr& t : operands) key += t->type.str();
  VjpPtr& made = derivatives_[key];
  if (!made) {
    auto built = [&]() -> Result<Vjp> {
      try {
        return Builder(operands, wanted).build(recipe, call.get(), params, loc_of(place));
      } catch (const rec::Rejected& r) {
        return fail(r.diags);
      } catch (const InternalError& e) {
        return fail(Code::AG9001, loc_of(place), e.message + " (" + e.file + ":" + std::to_string(e.line) + ")");
      }
    }();
    auto vjp = std::make_shared<Vjp>();
    if (built) {
      *vjp = std::move(*built);
    } else {
      vjp->refused = std::make_shared<const Diags>(std::move(built).error());
      vjp->outputs.assign(operands.size(), -1);
    }
    vjp->of = call;
    made = vjp;
  }
  if (known) known->derivatives.emplace_back(wanted, made);
  return made;
}

}  // namespace ag::lazy

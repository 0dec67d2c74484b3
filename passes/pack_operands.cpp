// How large products read their operands.
//
// Copies left operands that lie transposed, so that a row's terms lie one after another, by a kernel of their own. Rows
// side by side are read a few at a step of depth; where steps are a large power of two apart, their lines share few
// sets of the cache and each is fetched for every tile of rows that it has elements of. Which products gain is
// contraction_model's to say. Values are copied, never computed with: every bit is kept.
//
// Products of a few rows whose right operand lies with its terms one after another are sums of products along lanes
// (attribute `lanes`): each line of the large operand is read once, in order, and nothing is turned. That is another
// order of the same terms (class `algorithm`), which follows from the op, its sizes and the instruction set alone.
#include <algorithm>
#include <map>

#include "ir/op.hpp"
#include "passes/pack_operands.hpp"
#include "passes/panels.hpp"
#include "passes/rebuild.hpp"
#include "passes/strided_view.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

Int at(const Ints& from, Int i) { return from[static_cast<std::size_t>(i)]; }

class Packer {
 public:
  Packer(const Graph& g, const TargetSpec& target) : g_(g), target_(target), out_(empty_like(g)), b_(out_) {}

  Graph run() {
    map_.resize(g_.value_count());
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (n.op->name == "dot_general" && product(id)) continue;
      copy_node(b_, g_, id, map_);
    }
    map_signature(g_, map_, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  const TargetSpec& target_;
  Graph out_;
  GraphBuilder b_;
  ValueMap map_;
  std::map<std::pair<ValueId, Ints>, ValueId> copies_;  // by value and order of axes

  bool product(NodeId id) {
    const Node& n = g_.node(id);
    const Type &lhs = g_.type(n.operands[0]), &rhs = g_.type(n.operands[1]);
    if (!is_float(lhs.dtype) || lhs.dtype != rhs.dtype || is_storage(lhs.dtype)) return false;
    b_.set_origin(n.locs, n.grad_of ? map_[n.grad_of.index] : ValueId{});
    const ValueId left = rows(n, product_sizes(g_, n, target_));
    const bool dots = !left && sums_along_lanes(n);
    if (!left && !dots) return false;
    Attrs attrs = n.attrs;
    if (dots) attrs.set("lanes", static_cast<Int>(target_.lanes(dtype_bytes(rhs.dtype))));
    ValueId z = b_.add_op("dot_general", {left ? left : map_[n.operands[0].index], map_[n.operands[1].index]}, attrs);
    bind(g_, n.result(), out_, z, map_);
    return true;
  }

  bool is_constant(ValueId v) const { return g_.def(v).attrs.get<LiteralPtr>("value") && g_.def(v).operands.empty(); }

  /// Whether both operands lie with their terms one after another, the left one has few rows, and the right one is so
  /// large that reading it is what takes time.
  bool sums_along_lanes(const Node& n) const {
    const Ints lhs_contract = n.attrs.get_or<Ints>("lhs_contract", {}),
               rhs_contract = n.attrs.get_or<Ints>("rhs_contract", {});
    if (lhs_contract.size() != 1 || !n.attrs.get_or<Ints>("lhs_batch", {}).empty()) return false;
    auto left = strided_view(g_, n.operands[0]), right = strided_view(g_, n.operands[1]);
    if (!left || !right || at(left->strides, lhs_contract[0]) != 1 || at(right->strides, rhs_contract[0]) != 1)
      return false;
    auto free = [](const StridedView& v, Int contracted) {  // elements of the other axes; 0 if there are several
      Int size = 1;
      for (Int d = 0; d < static_cast<Int>(v.shape.size()); ++d)
        if (d != contracted && at(v.shape, d) != 1) size = size == 1 ? at(v.shape, d) : 0;
      return size;
    };
    return few_rows(free(*left, lhs_contract[0]), free(*right, rhs_contract[0]), at(left->shape, lhs_contract[0]),
                    static_cast<Int>(dtype_bytes(g_.type(n.operands[1]).dtype)), target_);
  }

  /// The left operand with its contracted axes innermost in memory, if it gains by that.
  ValueId rows(const Node& n, const ContractionSizes& sizes) {
    auto view = strided_view(g_, n.operands[0]);
    if (!view || is_constant(view->source)) return {};
    const Ints contract = n.attrs.get_or<Ints>("lhs_contract", {}), batch = n.attrs.get_or<Ints>("lhs_batch", {});
    auto is_in = [](const Ints& axes, Int d) { return std::find(axes.begin(), axes.end(), d) != axes.end(); };
    Ints perm = batch;
    for (Int d = 0; d < static_cast<Int>(view->shape.size()); ++d)
      if (!is_in(contract, d) && !is_in(batch, d)) perm.push_back(d);
    if (contract.empty() || perm.size() == batch.size() || at(view->strides, perm.back()) != 1) return {};
    const Int step = std::abs(at(view->strides, contract.back()));
    if (!rows_ahead(sizes, step * sizes.element_bytes, target_)) return {};
    perm.insert(perm.end(), contract.begin(), contract.end());
    ValueId v = map_[n.operands[0].index];
    ValueId& copy = copies_[{v, perm}];
    if (!copy) copy = b_.add_op("materialize", {b_.transpose(v, perm)});
    Ints back(perm.size());
    for (std::size_t i = 0; i < perm.size(); ++i) back[static_cast<std::size_t>(perm[i])] = static_cast<Int>(i);
    return b_.transpose(copy, back);
  }
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (context.target.kind != TargetSpec::Kind::cpu) return g;
  return Packer(g, context.target).run();
}

}  // namespace

const Pass pack_operands = {
    .name = "pack_operands", .summary = "copy transposed left operands of large products, order sums", .on_graph = run};

}  // namespace ag::passes

// Which products are sums along lanes.
//
// Products of a few rows whose right operand lies with its terms one after another are sums of products along lanes
// (attribute `lanes`): each line of the large operand is read once, in order, and nothing is turned. That is another
// order of the same terms (class `algorithm`), which follows from the op, its sizes and the instruction set alone. So
// are products of a few columns, which leave lanes empty otherwise; such columns are copied if need be. Where only the
// run knows how many rows there are, it decides (attribute `lanes_rows`): the order is that of the sizes, known or not.
#include "passes/order_sums.hpp"

#include <map>

#include "ir/op.hpp"
#include "passes/panels.hpp"
#include "passes/rebuild.hpp"
#include "passes/strided_view.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

class Ordering {
 public:
  Ordering(const Graph& g, const TargetSpec& target) : g_(g), target_(target), out_(empty_like(g)), b_(out_) {}

  Graph run() {
    map_.resize(g_.value_count());
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      const FewSide few = n.op->name == "dot_general" ? few_side(g_, n, target_) : FewSide::none;
      if (few == FewSide::none) {
        copy_node(b_, g_, id, map_);
        continue;
      }
      b_.set_origin(n.locs, n.grad_of ? map_[n.grad_of.index] : ValueId{});
      Attrs attrs = n.attrs;
      attrs.set("lanes", static_cast<Int>(target_.lanes(dtype_bytes(g_.type(n.operands[1]).dtype))));
      if (few == FewSide::counted_rows) attrs.set("lanes_rows", most_few_rows);
      const ValueId left = map_[n.operands[0].index],
                    right = few == FewSide::columns ? columns(n) : map_[n.operands[1].index];
      bind(g_, n.result(), out_, b_.add_op("dot_general", {left, right}, attrs), map_);
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
  std::map<std::pair<ValueId, Int>, ValueId> copies_;  // by value and contracted axis

  /// The right operand with its terms one after another.
  ValueId columns(const Node& n) {
    const ValueId v = map_[n.operands[1].index];
    const Int contracted = n.attrs.get_or<Ints>("rhs_contract", {})[0];
    auto view = strided_view(g_, n.operands[1]);
    if (!view || view->strides[static_cast<std::size_t>(contracted)] == 1) return v;
    Ints perm, back(view->shape.size());
    for (Int d = 0; d < static_cast<Int>(view->shape.size()); ++d)
      if (d != contracted) perm.push_back(d);
    perm.push_back(contracted);
    for (std::size_t i = 0; i < perm.size(); ++i) back[static_cast<std::size_t>(perm[i])] = static_cast<Int>(i);
    ValueId& copy = copies_[{v, contracted}];
    if (!copy) copy = b_.add_op("materialize", {b_.transpose(v, perm)});
    return b_.transpose(copy, back);
  }
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (context.target.kind != TargetSpec::Kind::cpu) return g;
  return Ordering(g, context.target).run();
}

}  // namespace

const Pass order_sums = {
    .name = "order_sums", .summary = "products of a few rows or columns become sums along lanes", .on_graph = run};

}  // namespace ag::passes

// Products side by side: several products of one value with constant matrices become one product with the matrices
// joined, and views of its columns. Queries, keys and values are the usual case.
//
// It pays where nothing is lost: what follows a product would be computed in its kernel, and the columns of a joined
// product go different ways. So products are joined only if, but for a constant bias each, they are read by views,
// other products and kernels of their own. Joining parameters of a training step would copy them at each step, for less
// than one joined product saves: they stay apart.
#include "passes/horizontal.hpp"

#include <algorithm>
#include <map>

#include "ir/op.hpp"
#include "passes/attention.hpp"
#include "passes/constants.hpp"
#include "passes/rebuild.hpp"
#include "passes/users.hpp"

namespace ag::passes {
namespace {

using Ints = std::vector<std::int64_t>;

/// Bytes of constants that one compilation may make anew.
constexpr std::size_t max_bytes = std::size_t{4} << 30;

class Joiner {
 public:
  Joiner(const Graph& g, PassContext& context)
      : g_(g), context_(context), users_(users_of(g, live_nodes(g))), join_of_(g.node_count()) {
    for (const Output& o : g.outputs) users_[o.value.index].push_back(NodeId{});
  }

  Graph run() {
    find();
    if (joins_.empty()) return copy_if(g_, [](NodeId) { return true; });
    Graph out = empty_like(g_);
    GraphBuilder b(out);
    ValueMap map(g_.value_count());
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (map[n.result().index]) continue;
      if (std::size_t j = join_of_[id.index]) {
        build(joins_[j - 1], b, map);
        continue;
      }
      copy_node(b, g_, id, map);
    }
    map_signature(g_, map, out);
    return out;
  }

 private:
  struct Part {
    NodeId product, sum;  ///< sum: the product plus its bias, if there is one
    ValueId bias;
  };
  struct Join {
    std::vector<Part> parts;
    bool transposed = false;  ///< matrices are [columns, depth]
  };

  const Graph& g_;
  PassContext& context_;
  Users users_;  // an invalid one is an output
  std::vector<Join> joins_;
  std::vector<std::size_t> join_of_;  ///< 1 + index, of products
  std::size_t bytes_ = 0;

  const Literal* dense(ValueId v) const {
    const Node& n = g_.def(v);
    const LiteralPtr* l = n.attrs.get<LiteralPtr>("value");
    bool parameter = n.attrs.get_or<bool>("trainable", false);
    if (!l || parameter || !n.operands.empty() || n.op->name != "constant") return nullptr;
    return (*l)->form == Literal::Form::random ? nullptr : l->get();
  }

  /// The product with a constant matrix that can be joined, by what it must share with others.
  using Key = std::tuple<ValueId, bool, DType>;
  std::optional<Key> key_of(NodeId id) const {
    const Node& n = g_.node(id);
    if (n.op->name != "dot_general") return std::nullopt;
    const Type &x = g_.type(n.operands[0]), &w = g_.type(n.operands[1]);
    auto ints = [&](const char* name) { return n.attrs.get_or<Ints>(name, {}); };
    Ints c = ints("rhs_contract");
    if (!ints("lhs_batch").empty() || ints("lhs_contract") != Ints{x.rank() - 1} || w.rank() != 2 || c.size() != 1)
      return std::nullopt;
    if (!is_float(x.dtype) || dtype_bytes(x.dtype) < 2 || !dense(n.operands[1]) || !w.is_static()) return std::nullopt;
    return Key{n.operands[0], c[0] == 1, w.dtype};
  }

  static bool is_view(const OpInfo& op) { return op.lower_class == LowerClass::index && op.inlined; }

  /// Nothing that reads `v` would be computed in the product's kernel.
  bool read_apart(ValueId v, int depth = 0) const {
    const auto& users = users_[v.index];
    return depth < 8 && std::all_of(
                            users.begin(), users.end(),
                            [&](NodeId u) {
                              if (!u) return true;
                              const Node& n = g_.node(u);
                              if (is_view(*n.op)) return read_apart(n.result(), depth + 1);
                              return n.op->lower_class == LowerClass::contraction || is_attention(*n.op);
                            });
  }

  std::optional<Part> part_of(NodeId id) const {
    Part p{id, {}, {}};
    ValueId y = g_.node(id).result();
    if (users_[y.index].size() == 1 && users_[y.index][0]) {
      const Node& n = g_.node(users_[y.index][0]);
      if (n.op->name == "add" && g_.type(n.result()) == g_.type(y)) {
        ValueId other = n.operands[n.operands[0] == y ? 1 : 0];
        const Type& t = g_.type(other);
        if (dense(other) && t.rank() == 1 && t.shape[0] == g_.type(y).shape.back())
          p.sum = users_[y.index][0], p.bias = other;
      }
    }
    ValueId last = p.sum ? g_.node(p.sum).result() : y;
    return !users_[last.index].empty() && read_apart(last) ? std::optional(p) : std::nullopt;
  }

  void find() {
    std::map<Key, std::vector<NodeId>> found;
    for (NodeId id : g_.node_ids())
      if (auto key = key_of(id)) found[*key].push_back(id);
    for (const auto& [key, products] : found) {
      Join join;
      join.transposed = std::get<1>(key);
      std::size_t bytes = 0;
      for (NodeId id : products) {
        auto part = part_of(id);
        if (!part || (!join.parts.empty() && part->bias.valid() != join.parts[0].bias.valid())) continue;
        join.parts.push_back(*part);
        bytes += *Array::byte_size(std::get<2>(key), *static_shape(g_.type(g_.node(id).operands[1]).shape));
      }
      if (join.parts.size() < 2 || bytes_ + bytes > max_bytes) continue;
      bytes_ += bytes;
      joins_.push_back(join);
      for (const Part& p : join.parts) join_of_[p.product.index] = joins_.size();
    }
  }

  /// Matrices beside one another (the last axis grows) or vectors end to end; or matrices below one another.
  LiteralPtr joined(const std::vector<ValueId>& values, bool below) const {
    Graph sub;
    GraphBuilder b(sub);
    std::vector<ValueId> parts;
    for (ValueId v : values)
      parts.push_back(sub.node(b.copy(g_, g_.value(v).node, [](ValueId x) { return x; })).result());
    sub.outputs.push_back({"", b.concat(parts, below ? 0 : g_.type(values[0]).rank() - 1), {}});
    auto made = evaluate_constants(sub, context_);
    AG_CHECK(made.has_value(), "constants side by side");
    return (*made)[0];
  }

  void build(const Join& join, GraphBuilder& b, ValueMap& map) const {
    std::vector<ValueId> matrices, biases;
    std::vector<Loc> locs;
    for (const Part& p : join.parts) {
      matrices.push_back(g_.node(p.product).operands[1]);
      if (p.bias) biases.push_back(p.bias);
      const auto& l = g_.node(p.product).locs;
      locs.insert(locs.end(), l.begin(), l.end());
    }
    const Node& first = g_.node(join.parts[0].product);
    b.set_origin(locs);
    ValueId w = b.constant(joined(matrices, join.transposed));
    ValueId y = b.add_op("dot_general", {map[first.operands[0].index], w}, first.attrs);
    if (!biases.empty()) y = b.add(y, b.constant(joined(biases, false)));
    Dims start(b.type(y).shape.size(), 0), limit = b.type(y).shape;
    limit.back() = 0;
    for (const Part& p : join.parts) {
      ValueId last = p.sum ? g_.node(p.sum).result() : g_.node(p.product).result();
      limit.back() = start.back() + g_.type(last).shape.back();
      ValueId part = b.slice(y, start, limit);
      start.back() = limit.back();
      map[last.index] = part;
      map[g_.node(p.product).result().index] = part;  // a sum reads it no more
      if (const std::string& name = g_.value(last).name; !name.empty() && !b.graph().find(name))
        b.graph().set_name(part, name);
    }
    b.set_origin({});
  }
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (!context.fuse) return copy_if(g, [](NodeId) { return true; });
  return Joiner(g, context).run();
}

}  // namespace

const Pass horizontal = {
    .name = "horizontal", .summary = "products of one value with several constants become one", .on_graph = run};

}  // namespace ag::passes

// A batch norm with constant statistics, or any chain of sums and products with a constant a channel, behind a
// convolution or a product with constant weights becomes part of them: w * s, and one sum with a constant. The same
// before a convolution: a factor of an input channel always, a term only where nothing is padded, since padding is 0
// behind it.
#include "passes/rewrite/fold_affine.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "ir/op.hpp"
#include "ir/ops/convolution.hpp"
#include "passes/constants.hpp"
#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

using ops::ConvParts;
using ops::ConvRole;
using Ints = std::vector<std::int64_t>;
using Numbers = std::vector<double>;

/// Nodes of a constant expression, and elements of what it is made of.
constexpr std::size_t max_cone = 32;
constexpr std::int64_t max_elems = 1 << 20;
/// Bytes of all weights that are written anew.
constexpr std::size_t max_bytes = 1u << 30;

/// y = x * scale + shift a channel; both have one number for all channels, or one each.
struct Affine {
  Numbers scale{1}, shift{0};

  static double at(const Numbers& v, std::size_t i) { return v.size() == 1 ? v[0] : v[i]; }
  static Numbers combine(const Numbers& a, const Numbers& b, double (*f)(double, double)) {
    Numbers out(std::max(a.size(), b.size()));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = f(at(a, i), at(b, i));
    return out;
  }
  void times(const Numbers& c) {
    auto f = [](double a, double b) { return a * b; };
    scale = combine(scale, c, f), shift = combine(shift, c, f);
  }
  void plus(const Numbers& c) {
    shift = combine(shift, c, [](double a, double b) { return a + b; });
  }
  bool scales() const {
    return std::any_of(scale.begin(), scale.end(), [](double s) { return s != 1; });
  }
  bool shifts() const {
    return std::any_of(shift.begin(), shift.end(), [](double s) { return s != 0; });
  }
};

/// A node that is one step of such a chain: of value `x`, with constant `c` (none for a negation).
struct Step {
  ValueId x, c;
  bool x_first = true;
};

class Folder {
 public:
  Folder(const Graph& g, PassContext& context)
      : g_(g), context_(context), out_(empty_like(g)), b_(out_), map_(g.value_count()) {
    uses_.resize(g.value_count());
    user_.resize(g.value_count());
    for (NodeId id : g.node_ids())
      for (ValueId v : g.node(id).operands)
        if (v) ++uses_[v.index], user_[v.index] = id;
    for (const Output& o : g.outputs) uses_[o.value.index] += 2;
  }

  Graph run() {
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      b_.set_origin(n.locs, n.grad_of ? map_[n.grad_of.index] : ValueId{});
      ValueId folded = n.op->name == "conv" ? before(id) : last_of_chain(id) ? behind(id) : ValueId{};
      if (folded) {
        bind(g_, n.result(), out_, folded, map_);
        continue;
      }
      copy_node(b_, g_, id, map_);
    }
    map_signature(g_, map_, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  PassContext& context_;
  Graph out_;
  GraphBuilder b_;
  ValueMap map_;
  std::vector<int> uses_;
  std::vector<NodeId> user_;  // the last one
  std::map<ValueId, std::optional<Array>> constants_;
  std::size_t bytes_ = 0;

  // -- constants ----------------------------------------------------------------------------------------------------
  const Literal* literal(ValueId v) const {
    const Node& n = g_.def(v);
    const LiteralPtr* p = n.attrs.get<LiteralPtr>("value");
    const bool input = std::find(g_.inputs.begin(), g_.inputs.end(), v) != g_.inputs.end();
    return p && n.operands.empty() && !input && !n.attrs.get_or<bool>("trainable", false) ? p->get() : nullptr;
  }

  /// Whether v depends on constants alone, by few ops that have one meaning in every float type.
  bool constant_cone(ValueId v, std::set<NodeId>& cone) const {
    static const std::set<std::string_view> known{"add",
                                                  "sub",
                                                  "mul",
                                                  "div",
                                                  "neg",
                                                  "sqrt",
                                                  "rsqrt",
                                                  "reshape",
                                                  "convert",
                                                  "transpose",
                                                  "cast",
                                                  "recip",
                                                  "broadcast_in_dim"};
    std::vector<ValueId> work{v};
    while (!work.empty()) {
      const NodeId id = g_.value(work.back()).node;
      const Node& n = g_.node(id);
      const Literal* value = literal(work.back());
      const Type& t = g_.type(work.back());
      work.pop_back();
      auto shape = static_shape(t.shape);
      if (!shape || !is_float(t.dtype) || (value ? false : !known.contains(n.op->name) || n.operands.empty()))
        return false;
      const auto elems = Array::byte_size(DType::i8, *shape);
      if (!elems || *elems > static_cast<std::size_t>(max_elems)) return false;
      if (!cone.insert(id).second) continue;
      if (cone.size() > max_cone) return false;
      for (ValueId operand : n.operands)
        if (operand) work.push_back(operand);
    }
    return true;
  }

  /// The constant's elements, computed in f64.
  const std::optional<Array>& constant(ValueId v) {
    auto [it, fresh] = constants_.try_emplace(v);
    if (fresh) it->second = evaluate(v);
    return it->second;
  }

  std::optional<Array> evaluate(ValueId v) const {
    std::set<NodeId> cone;
    if (!constant_cone(v, cone)) return std::nullopt;
    Graph sub;
    GraphBuilder b(sub);
    std::map<ValueId, ValueId> wide;
    for (NodeId id : cone) {
      const Node& n = g_.node(id);
      if (const Literal* value = literal(n.result())) {
        const Array from = value->materialize();
        Array to(DType::f64, from.shape());
        for (std::int64_t i = 0; i < from.elems(); ++i) to.set_double(i, from.get_double(i));
        wide[n.result()] = b.constant(make_literal(std::move(to)));
        continue;
      }
      if (n.op->name == "convert" || n.op->name == "cast") {
        wide[n.result()] = wide[n.operands[0]];
        continue;
      }
      GraphBuilder::NodeArgs args;
      for (ValueId o : n.operands) args.operands.push_back(wide[o]);
      args.attrs = n.attrs;
      args.result_count = n.result_count;
      auto copy = b.try_add(*n.op, std::move(args));
      if (!copy) return std::nullopt;
      wide[n.result()] = sub.node(*copy).result();
    }
    sub.outputs.push_back({"c", wide[v], {}});
    auto values = interpret(sub, {});
    if (!values) return std::nullopt;
    return std::move((*values)[0]);
  }

  /// A constant as numbers for axis `axis` of a value of rank `rank`, or for all of it.
  std::optional<Numbers> along(ValueId c, std::size_t axis, std::size_t rank) {
    const Dims& shape = g_.type(c).shape;
    if (shape.size() > rank) return std::nullopt;
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (!shape[d].is(1) && d + rank - shape.size() != axis) return std::nullopt;
    const std::optional<Array>& a = constant(c);
    if (!a || a->elems() == 0) return std::nullopt;
    Numbers out;
    for (std::int64_t i = 0; i < a->elems(); ++i) out.push_back(a->get_double(i));
    return out;
  }

  // -- chains -------------------------------------------------------------------------------------------------------
  std::optional<Step> step(NodeId id) {
    const Node& n = g_.node(id);
    const std::string_view op = n.op->name;
    if (n.result_count != 1 || (g_.type(n.result()).dtype != DType::f32 && g_.type(n.result()).dtype != DType::f64))
      return std::nullopt;
    if (op == "neg") return Step{n.operands[0], {}};
    if (op != "mul" && op != "add" && op != "sub" && op != "div") return std::nullopt;
    for (bool x_first : {true, false}) {
      ValueId x = n.operands[x_first ? 0 : 1], c = n.operands[x_first ? 1 : 0];
      if ((op == "div" && !x_first) || g_.type(x) != g_.type(n.result())) continue;
      std::set<NodeId> cone;
      if (constant_cone(c, cone)) return Step{x, c, x_first};
    }
    return std::nullopt;
  }

  bool last_of_chain(NodeId id) {
    if (!step(id)) return false;
    const ValueId v = g_.node(id).result();
    if (uses_[v.index] != 1) return true;
    auto next = step(user_[v.index]);
    return !next || next->x != v;
  }

  /// The steps of the chain that ends with value v and begins with `x`, whose channels lie on `axis`.
  struct Chain {
    ValueId x;
    std::vector<NodeId> steps;  // the last one first
  };
  Chain chain_to(ValueId v) {
    Chain c{v, {}};
    while (auto s = step(g_.value(c.x).node)) {
      if (!c.steps.empty() && uses_[c.x.index] != 1) break;
      c.steps.push_back(g_.value(c.x).node);
      c.x = s->x;
    }
    return c;
  }

  std::optional<Affine> affine(const Chain& chain, std::size_t axis) {
    Affine a;
    for (std::size_t i = chain.steps.size(); i-- > 0;) {
      const Node& n = g_.node(chain.steps[i]);
      const Step s = *step(chain.steps[i]);
      const std::string_view op = n.op->name;
      if (op == "neg") {
        a.times({-1});
        continue;
      }
      auto c = along(s.c, axis, static_cast<std::size_t>(g_.type(s.x).rank()));
      if (!c) return std::nullopt;
      auto mapped = [&](double (*f)(double)) {
        Numbers out = *c;
        for (double& v : out) v = f(v);
        return out;
      };
      if (op == "mul") a.times(*c);
      if (op == "div") a.times(mapped([](double v) { return 1 / v; }));
      if (op == "sub" && !s.x_first) a.times({-1});
      if (op == "add" || (op == "sub" && !s.x_first)) a.plus(*c);
      if (op == "sub" && s.x_first) a.plus(mapped([](double v) { return -v; }));
    }
    auto finite = [](const Numbers& v) {
      return std::all_of(v.begin(), v.end(), [](double x) { return std::isfinite(x); });
    };
    return finite(a.scale) && finite(a.shift) ? std::optional(std::move(a)) : std::nullopt;
  }

  // -- weights ------------------------------------------------------------------------------------------------------
  /// Weights that are a literal seen through transposes.
  struct Weights {
    LiteralPtr literal;
    Ints axis;  // for each axis of the literal, the axis of the value
    std::vector<Ints> perms;  // from the value to the literal
  };
  std::optional<Weights> weights(ValueId v) {
    Weights w;
    for (; g_.def(v).op->name == "transpose"; v = g_.def(v).operands[0])
      w.perms.push_back(g_.def(v).attrs.get_or<Ints>("perm", {}));
    const Type& t = g_.type(v);
    auto shape = static_shape(t.shape);
    if (!literal(v) || !shape || (t.dtype != DType::f32 && t.dtype != DType::f64)) return std::nullopt;
    bytes_ += Array::byte_size(t.dtype, *shape).value_or(max_bytes);
    if (bytes_ > max_bytes) return std::nullopt;
    w.literal = *g_.def(v).attrs.get<LiteralPtr>("value");
    w.axis.resize(shape->size());
    for (std::size_t d = 0; d < w.axis.size(); ++d) w.axis[d] = static_cast<std::int64_t>(d);
    // An axis d of the value is axis perm[d] of what it is a transpose of.
    Ints of_value = w.axis;
    for (const Ints& perm : w.perms)
      for (std::int64_t& d : of_value) d = perm[static_cast<std::size_t>(d)];
    for (std::size_t d = 0; d < of_value.size(); ++d)
      w.axis[static_cast<std::size_t>(of_value[d])] = static_cast<std::int64_t>(d);
    return w;
  }

  using Index = std::vector<std::size_t>;  // in the value

  /// f(number, index in the value) for all places of an array whose axis d is axis `axis[d]` of the value.
  template <class F>
  static void each(const Ints& shape, const Ints& axis, F f) {
    Index at(shape.size()), in_value(shape.size());
    std::int64_t count = 1;
    for (std::int64_t extent : shape) count *= extent;
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::size_t d = 0; d < at.size(); ++d) in_value[static_cast<std::size_t>(axis[d])] = at[d];
      f(i, in_value);
      for (std::size_t d = at.size(); d-- > 0;) {
        if (++at[d] < static_cast<std::size_t>(shape[d])) break;
        at[d] = 0;
      }
    }
  }

  /// Each element times factor(index in the value), which depends on some axes of the value only; rounded once. None
  /// if that is not finite.
  template <class Factor>
  ValueId scaled(const Weights& w, const Ints& varies, Factor factor) {
    Ints shape = w.literal->shape;
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (std::find(varies.begin(), varies.end(), w.axis[d]) == varies.end()) shape[d] = 1;
    Array factors(DType::f64, shape);
    each(shape, w.axis, [&](std::int64_t i, const Index& at) { factors.set_double(i, factor(at)); });
    LiteralPtr made = make_scaled(w.literal, std::move(factors), context_);
    if (!made) return {};
    ValueId v = b_.constant(std::move(made));
    for (std::size_t i = w.perms.size(); i-- > 0;) v = b_.transpose(v, w.perms[i]);
    return v;
  }

  /// v + shift along an axis.
  ValueId shifted(ValueId v, const Numbers& shift, std::size_t axis) {
    const Type t = b_.type(v);
    std::vector<std::int64_t> shape(shift.size() == 1 ? 0 : t.shape.size() - axis, 1);
    if (!shape.empty()) shape[0] = static_cast<std::int64_t>(shift.size());
    Array c(t.dtype, shape);
    for (std::size_t i = 0; i < shift.size(); ++i) c.set_double(static_cast<std::int64_t>(i), shift[i]);
    return b_.add(v, b_.constant(make_literal(std::move(c))));
  }

  ValueId core(NodeId id, std::size_t operand, ValueId w) {
    std::vector<ValueId> operands;
    for (ValueId v : g_.node(id).operands) operands.push_back(map_[v.index]);
    operands[operand] = w;
    return b_.add_op(g_.node(id).op->name, operands, g_.node(id).attrs);
  }

  /// Axes of a filter that say which channel of a group, and which group if there are several.
  static Ints channel_axes(const ConvParts& c) { return c.groups.is(1) ? Ints{1} : Ints{0, 1}; }

  // -- behind a product -----------------------------------------------------------------------------------------------
  ValueId behind(NodeId id) {
    const Chain chain = chain_to(g_.node(id).result());
    const NodeId from = g_.value(chain.x).node;
    if (uses_[chain.x.index] != 1) return {};
    if (g_.node(from).op->name == "conv") return behind_conv(from, chain);
    if (g_.node(from).op->name == "dot_general") return behind_product(from, chain);
    return {};
  }

  /// Whether there is something to gain: a factor, or terms that become one.
  static bool pays(const Affine& a, const Chain& chain) { return a.scales() || chain.steps.size() > 1; }

  ValueId behind_conv(NodeId id, const Chain& chain) {
    const NodeView n{g_, id};
    const ConvParts c = ops::conv_parts(n);
    if (c.role == ConvRole::filter || c.layout != ops::ConvLayout::channels_first || !c.groups.is_const()) return {};
    auto a = affine(chain, 1);
    if (!a || !pays(*a, chain)) return {};
    auto w = weights(n.operand(1));
    if (!w) return {};
    ValueId v;
    if (c.role == ConvRole::output) {
      v = scaled(*w, {0}, [&](const Index& at) { return Affine::at(a->scale, at[0]); });
    } else {  // filters [M, C/groups, ...] of results with C channels
      const auto& s = n.in(1).shape;
      if (!s[0].is_const() || !s[1].is_const() || s[0].value() == 0) return {};
      const auto per = static_cast<std::size_t>(s[0].value() / c.groups.value()),
                 count = static_cast<std::size_t>(s[1].value());
      v = scaled(*w, channel_axes(c),
                 [&](const Index& at) { return Affine::at(a->scale, at[0] / per * count + at[1]); });
    }
    if (!v) return {};
    v = core(id, 1, v);
    return a->shifts() ? shifted(v, a->shift, 1) : v;
  }

  /// A product whose result's last axis is the last free axis of one constant operand.
  ValueId behind_product(NodeId id, const Chain& chain) {
    const NodeView n{g_, id};
    const auto rank = static_cast<std::size_t>(n.out().rank());
    if (rank == 0) return {};
    auto ints = [&](std::string_view name) { return n.attrs().get_or<Ints>(name, {}); };
    const Ints contract = ints("rhs_contract"), batch = ints("rhs_batch");
    std::int64_t column = -1;  // the last axis of the right operand that is in the result
    for (std::int64_t d = 0; d < n.in(1).rank(); ++d)
      if (std::find(contract.begin(), contract.end(), d) == contract.end() &&
          std::find(batch.begin(), batch.end(), d) == batch.end())
        column = d;
    if (column < 0) return {};
    auto a = affine(chain, rank - 1);
    if (!a || !pays(*a, chain)) return {};
    auto w = weights(n.operand(1));
    if (!w) return {};
    ValueId v = scaled(*w, {column},
                       [&](const Index& at) { return Affine::at(a->scale, at[static_cast<std::size_t>(column)]); });
    if (!v) return {};
    v = core(id, 1, v);
    return a->shifts() ? shifted(v, a->shift, rank - 1) : v;
  }

  // -- before a convolution -------------------------------------------------------------------------------------------
  ValueId before(NodeId id) {
    const NodeView n{g_, id};
    const ConvParts c = ops::conv_parts(n);
    if (c.role != ConvRole::output || c.layout != ops::ConvLayout::channels_first || !c.groups.is_const()) return {};
    if (uses_[n.operand(0).index] != 1) return {};
    const Chain chain = chain_to(n.operand(0));
    if (chain.steps.empty()) return {};
    auto a = affine(chain, 1);
    if (!a || (a->shifts() && !c.window.inside())) return {};
    auto w = weights(n.operand(1));
    const auto& s = n.in(1).shape;
    if (!w || !s[0].is_const() || !s[1].is_const() || s[0].value() == 0) return {};
    const auto per = static_cast<std::size_t>(s[0].value() / c.groups.value()),
               count = static_cast<std::size_t>(s[1].value());
    auto channel = [&](const Index& at) { return at[0] / per * count + at[1]; };
    Numbers shift(static_cast<std::size_t>(s[0].value()));
    if (a->shifts()) {
      const Array from = w->literal->materialize();
      each(from.shape(), w->axis, [&](std::int64_t i, const Index& at) {
        shift[at[0]] += from.get_double(i) * Affine::at(a->shift, channel(at));
      });
    }
    ValueId v = scaled(*w, channel_axes(c), [&](const Index& at) { return Affine::at(a->scale, channel(at)); });
    if (!v) return {};
    v = b_.add_op("conv", {map_[chain.x.index], v}, n.attrs());
    return a->shifts() ? shifted(v, shift, 1) : v;
  }
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (!context.fuse) return copy_if(g, [](NodeId) { return true; });
  return Folder(g, context).run();
}

}  // namespace

const Pass fold_affine = {.name = "fold_affine",
                          .summary = "constant factors and terms of channels become part of constant weights",
                          .on_graph = run};

}  // namespace ag::passes

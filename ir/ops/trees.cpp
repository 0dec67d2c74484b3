// Ensembles of decision trees. The trees are tables that the compiler knows: every tree of every row walks one level at
// a time, by gathers, until all are at leaves, which stay where they are.
#include "ir/ops/trees.hpp"

#include <limits>
#include <map>
#include <set>

#include "ir/ops/rewritten.hpp"

namespace ag::ops {
namespace {

using Values = Result<std::vector<ValueId>>;
constexpr std::size_t max_depth = 256;
constexpr std::size_t max_entries = std::size_t{1} << 28;  ///< of a table
constexpr std::string_view ml = "ai.onnx.ml";

enum Mode : std::int64_t { leq, lt, gte, gt, eq, neq, member };
enum class Aggregate : std::int64_t { average, sum, min, max };

/// Interior nodes, then leaves, whose successors are themselves.
struct Forest {
  Ints feature, mode, on_true, on_false, missing_true;
  std::vector<double> split;
  std::map<std::size_t, std::vector<double>> members;  ///< of nodes of mode `member`
  Ints roots;
  std::size_t interior = 0;
  std::int64_t targets = 1;
  struct Vote {
    std::size_t leaf;
    std::int64_t target;
    double weight;
  };
  std::vector<Vote> votes;
  std::vector<double> base;  ///< added to each target; empty for none
  Aggregate aggregate = Aggregate::sum;
  std::string post = "NONE";

  std::size_t leaves() const { return on_true.size() - interior; }
  void add_leaf() {
    auto self = static_cast<std::int64_t>(on_true.size());
    for (Ints* table : {&feature, &mode, &missing_true}) table->push_back(0);
    split.push_back(0);
    on_true.push_back(self);
    on_false.push_back(self);
  }
};

std::unexpected<Diags> malformed(const Rewriting& r, std::string why) {
  return r.fail(Code::AG2206, fmt::format("`{}`: {}", r.op.onnx, why));
}

/// Levels until every tree is at a leaf; an error for a cycle, an index out of range, or too deep a tree.
Result<std::size_t> depth_of(const Rewriting& r, const Forest& f) {
  auto n = static_cast<std::int64_t>(f.on_true.size());
  auto sound = [&](std::int64_t i) { return i >= 0 && i < n; };
  for (std::size_t i = 0; i < f.on_true.size(); ++i)
    if (!sound(f.on_true[i]) || !sound(f.on_false[i]))
      return malformed(r, fmt::format("node {} leads to a node that does not exist", i));
  std::set<std::int64_t> level;
  for (std::int64_t root : f.roots) {
    if (!sound(root)) return malformed(r, fmt::format("there is no node {} to be a root", root));
    level.insert(root);
  }
  for (std::size_t depth = 0;; ++depth) {
    std::set<std::int64_t> next;
    for (std::int64_t i : level) {
      if (static_cast<std::size_t>(i) >= f.interior) continue;
      next.insert(f.on_true[static_cast<std::size_t>(i)]);
      next.insert(f.on_false[static_cast<std::size_t>(i)]);
    }
    if (next.empty()) return depth;
    if (depth == max_depth) return malformed(r, fmt::format("a tree is deeper than {} levels, or a cycle", max_depth));
    level = std::move(next);
  }
}

template <class T>
Expr table(Builder& b, DType t, std::span<const T> values) {
  return {b, b.constant(make_literal(Array::of<T>(t, {static_cast<std::int64_t>(values.size())}, values)))};
}

/// Whether the node's comparison holds, for each row and tree.
Expr holds(const Forest& f, Expr at, Expr value) {
  Builder& b = at.builder();
  auto entry = [&](const Ints& v) { return take(table<std::int64_t>(b, DType::i64, v), at, 0); };
  Expr split = take(table<double>(b, value.dtype(), f.split), at, 0), mode, result;
  std::set<std::int64_t> used(f.mode.begin(), f.mode.begin() + static_cast<std::ptrdiff_t>(f.interior));
  for (std::int64_t m : used) {
    Expr now;
    if (m == leq) now = value <= split;
    if (m == lt) now = value < split;
    if (m == gte) now = value >= split;
    if (m == gt) now = value > split;
    if (m == eq) now = value == split;
    if (m == neq) now = value != split;
    if (m == member) {
      // One row of members a node; NaN, which equals nothing, where there are fewer.
      std::size_t width = 1, n = f.on_true.size();
      for (const auto& [node, list] : f.members) width = std::max(width, list.size());
      Array rows(value.dtype(), {static_cast<std::int64_t>(n), static_cast<std::int64_t>(width)});
      for (std::size_t i = 0; i < n; ++i) {
        auto it = f.members.find(i);
        for (std::size_t k = 0; k < width; ++k)
          rows.set_double(static_cast<std::int64_t>(i * width + k), it != f.members.end() && k < it->second.size()
                                                                        ? it->second[k]
                                                                        : std::numeric_limits<double>::quiet_NaN());
      }
      Expr all = take(Expr(b, b.constant(make_literal(std::move(rows)))), at, 0);
      Expr same = all == value.with(b.reshape(value, with_unit_axis(value.type().shape, 2)));
      now = same.with(b.add_op("ReduceMax", {same.id(), b.ints(Ints{2})}, {{"keepdims", std::int64_t{0}}}));
    }
    if (result.id() && !mode.id()) mode = entry(f.mode);
    result = result.id() ? select(mode == mode.with(b.scalar_int(DType::i64, m)), now, result) : now;
  }
  if (std::ranges::find(f.missing_true, 1) != f.missing_true.end()) {
    Expr tracks = entry(f.missing_true) != at.with(b.scalar_int(DType::i64, 0));
    result = either(result, both(call("is_nan", value), tracks));
  }
  return result;
}

Result<Expr> transformed(const Rewriting& r, Expr y, const std::string& how) {
  Attrs last{{"axis", std::int64_t{-1}}};
  if (how == "NONE") return y;
  if (how == "LOGISTIC") return call("sigmoid", y);
  if (how == "SOFTMAX") return r.node("Softmax", {y.id()}, last);
  if (how == "SOFTMAX_ZERO") {  // zeros stay and do not count
    Expr some = y != y.lit(0);
    AG_TRY(Expr p, r.node("Softmax", {select(some, y, -std::numeric_limits<double>::infinity()).id()}, last));
    return select(some, p, 0);
  }
  return r.fail(Code::AG2211, fmt::format("`{}` with post_transform {} is not supported yet", r.op.onnx, how));
}

/// x [rows, features] to [rows, targets].
Values run(const Rewriting& r, const Forest& f, Expr x) {
  Builder& b = r.b;
  if (x.type().rank() != 2) return malformed(r, fmt::format("{} is not [rows, features]", x.type().str()));
  if (f.roots.empty() || f.targets < 1 || f.targets > 65536) return malformed(r, "there is no tree or no target");
  std::size_t width = static_cast<std::size_t>(f.targets);
  for (const auto& [node, list] : f.members) width = std::max(width, list.size());
  if (f.on_true.size() > max_entries / width) return malformed(r, "the tables of the trees are too large");
  Dim features = x.type().shape[1];
  for (std::size_t i = 0; i < f.interior; ++i) {
    if (f.feature[i] < 0 || (features.is_const() && f.feature[i] >= features.value()))
      return malformed(r, fmt::format("node {} asks for feature {} of {}", i, f.feature[i], x.type().str()));
    if (f.mode[i] < leq || f.mode[i] > member) return malformed(r, fmt::format("node {} has no known mode", i));
  }
  AG_TRY(std::size_t depth, depth_of(r, f));
  auto trees = static_cast<std::int64_t>(f.roots.size());
  Dims walk{x.type().shape[0], trees};
  Expr at = x.with(b.broadcast_in_dim(table<std::int64_t>(b, DType::i64, f.roots), walk, {1}));
  auto next = [&](const Ints& v) { return take(table<std::int64_t>(b, DType::i64, v), at, 0); };
  for (std::size_t level = 0; level < depth; ++level) {
    Expr feature = next(f.feature);
    AG_TRY(Expr value, r.node("GatherElements", {x.id(), feature.id()}, {{"axis", std::int64_t{1}}}));
    at = select(holds(f, at, value), next(f.on_true), next(f.on_false));
  }
  // A row of weights a leaf; what a leaf does not vote for is neutral.
  double worst = x.dtype() == DType::f64   ? std::numeric_limits<double>::max()
                 : x.dtype() == DType::f16 ? 65504
                                           : std::numeric_limits<float>::max();
  double neutral = f.aggregate == Aggregate::min ? worst : f.aggregate == Aggregate::max ? -worst : 0;
  std::vector<double> weights(f.on_true.size() * static_cast<std::size_t>(f.targets), neutral);
  for (const Forest::Vote& v : f.votes) {
    if (v.target < 0 || v.target >= f.targets) return malformed(r, fmt::format("there is no target {}", v.target));
    double& w = weights[v.leaf * static_cast<std::size_t>(f.targets) + static_cast<std::size_t>(v.target)];
    w = neutral == 0 ? w + v.weight : f.aggregate == Aggregate::min ? std::min(w, v.weight) : std::max(w, v.weight);
  }
  Expr rows = table<double>(b, x.dtype(), weights);
  rows = rows.with(b.reshape(rows, {static_cast<std::int64_t>(f.on_true.size()), f.targets}));
  Expr votes = take(rows, at, 0);
  Expr y = reduce(f.aggregate == Aggregate::min   ? "reduce_min"
                  : f.aggregate == Aggregate::max ? "reduce_max"
                                                  : "reduce_sum",
                  votes, {1});
  if (f.aggregate == Aggregate::average) y = y / static_cast<double>(trees);
  if (!f.base.empty()) y = y + table<double>(b, x.dtype(), f.base);
  AG_TRY(y, transformed(r, y, f.post));
  return std::vector<ValueId>{y};
}

std::vector<double> numbers(const Attrs& a, std::string_view name) {
  if (const auto* l = a.get<LiteralPtr>(name)) {
    Array v = (*l)->materialize();
    std::vector<double> out;
    for (std::int64_t i = 0; i < v.elems(); ++i) out.push_back(v.get_double(i));
    return out;
  }
  return a.get_or<std::vector<double>>(name, {});
}

// ---- TreeEnsemble -----------------------------------------------------------------------------------------

Values tree_ensemble(const Rewriting& r) {
  Forest f;
  const Attrs& a = r.attrs;
  Ints feature = attr_ints(a, "nodes_featureids"), on_true = attr_ints(a, "nodes_truenodeids"),
       on_false = attr_ints(a, "nodes_falsenodeids"), true_leaf = attr_ints(a, "nodes_trueleafs"),
       false_leaf = attr_ints(a, "nodes_falseleafs"), tracks = attr_ints(a, "nodes_missing_value_tracks_true"),
       targets = attr_ints(a, "leaf_targetids");
  std::vector<double> modes = numbers(a, "nodes_modes"), splits = numbers(a, "nodes_splits"),
                      weights = numbers(a, "leaf_weights"), set_members = numbers(a, "membership_values");
  std::size_t n = feature.size();
  bool fits = on_true.size() == n && on_false.size() == n && true_leaf.size() == n && false_leaf.size() == n &&
              modes.size() == n && splits.size() == n && (tracks.empty() || tracks.size() == n) &&
              targets.size() == weights.size();
  if (!fits) return malformed(r, "the nodes_* lists, or the leaf_* lists, differ in length");
  tracks.resize(n);
  auto base = static_cast<std::int64_t>(n);
  auto place = [&](std::int64_t id, std::int64_t leaf) {
    return leaf && id >= 0 && id < (std::int64_t{1} << 40) ? base + id : id;
  };
  f.feature = feature;
  f.missing_true = tracks;
  f.split = splits;
  f.interior = n;
  std::size_t member_at = 0;
  for (std::size_t i = 0; i < n; ++i) {
    f.mode.push_back(modes[i] >= 0 && modes[i] <= 6 ? static_cast<std::int64_t>(modes[i]) : -1);
    f.on_true.push_back(place(on_true[i], true_leaf[i]));
    f.on_false.push_back(place(on_false[i], false_leaf[i]));
    if (f.mode[i] != member) continue;
    auto& list = f.members[i];
    while (member_at < set_members.size() && set_members[member_at] == set_members[member_at])
      list.push_back(set_members[member_at++]);
    ++member_at;  // the NaN that ends a set
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    f.votes.push_back({n + i, targets[i], weights[i]});
    f.add_leaf();
  }
  for (std::int64_t root : attr_ints(a, "tree_roots")) {
    auto i = static_cast<std::size_t>(root);
    bool leaf = root >= 0 && i < n && true_leaf[i] && false_leaf[i] && on_true[i] == on_false[i];
    f.roots.push_back(leaf ? f.on_true[i] : root);
  }
  f.targets = r.integer("n_targets", 1);
  std::int64_t how = r.integer("aggregate_function", 1), post = r.integer("post_transform");
  constexpr std::string_view posts[] = {"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"};
  if (how < 0 || how > 3 || post < 0 || post > 4) return malformed(r, "no such aggregate or post_transform");
  f.aggregate = static_cast<Aggregate>(how);
  f.post = posts[post];
  return run(r, f, r.in(0));
}

// ---- TreeEnsembleRegressor: nodes by tree and number, leaves among them -----------------------------------

Values tree_regressor(const Rewriting& r) {
  const Attrs& a = r.attrs;
  Ints trees = attr_ints(a, "nodes_treeids"), ids = attr_ints(a, "nodes_nodeids"),
       feature = attr_ints(a, "nodes_featureids"), on_true = attr_ints(a, "nodes_truenodeids"),
       on_false = attr_ints(a, "nodes_falsenodeids"), tracks = attr_ints(a, "nodes_missing_value_tracks_true"),
       vote_tree = attr_ints(a, "target_treeids"), vote_node = attr_ints(a, "target_nodeids"),
       vote_target = attr_ints(a, "target_ids");
  auto either_of = [&](std::string_view name) {
    std::vector<double> v = numbers(a, fmt::format("{}_as_tensor", name));
    return v.empty() ? numbers(a, name) : v;
  };
  std::vector<double> splits = either_of("nodes_values"), weights = either_of("target_weights");
  auto modes = a.get_or<std::vector<std::string>>("nodes_modes", {});
  std::size_t n = ids.size(), votes = weights.size();
  bool fits = trees.size() == n && feature.size() == n && on_true.size() == n && on_false.size() == n &&
              splits.size() == n && modes.size() == n && (tracks.empty() || tracks.size() == n) &&
              vote_tree.size() == votes && vote_node.size() == votes && vote_target.size() == votes;
  if (!fits) return malformed(r, "the nodes_* lists, or the target_* lists, differ in length");
  tracks.resize(n);
  const std::map<std::string, std::int64_t> known = {{"BRANCH_LEQ", leq}, {"BRANCH_LT", lt}, {"BRANCH_GTE", gte},
                                                     {"BRANCH_GT", gt},   {"BRANCH_EQ", eq}, {"BRANCH_NEQ", neq}};
  Forest f;
  // Interior nodes first, then leaves.
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> place;
  std::set<std::int64_t> seen;
  for (bool leaves : {false, true})
    for (std::size_t i = 0; i < n; ++i)
      if ((modes[i] == "LEAF") == leaves)
        place.emplace(std::pair(trees[i], ids[i]), static_cast<std::int64_t>(place.size()));
  if (place.size() != n) return malformed(r, "a node is there twice");
  auto find = [&](std::int64_t tree, std::int64_t id) {
    auto it = place.find({tree, id});
    return it == place.end() ? -1 : it->second;
  };
  for (std::size_t i = 0; i < n; ++i) {
    if (seen.insert(trees[i]).second) f.roots.push_back(find(trees[i], ids[i]));
    if (modes[i] == "LEAF") continue;
    auto mode = known.find(modes[i]);
    f.mode.push_back(mode == known.end() ? -1 : mode->second);
    f.feature.push_back(feature[i]);
    f.missing_true.push_back(tracks[i]);
    f.split.push_back(splits[i]);
    f.on_true.push_back(find(trees[i], on_true[i]));
    f.on_false.push_back(find(trees[i], on_false[i]));
  }
  f.interior = f.mode.size();
  while (f.on_true.size() < n) f.add_leaf();
  for (std::size_t i = 0; i < votes; ++i) {
    std::int64_t leaf = find(vote_tree[i], vote_node[i]);
    if (leaf < static_cast<std::int64_t>(f.interior)) return malformed(r, fmt::format("vote {} is of no leaf", i));
    f.votes.push_back({static_cast<std::size_t>(leaf), vote_target[i], weights[i]});
  }
  f.targets = r.integer("n_targets", 1);
  f.base = either_of("base_values");
  if (!f.base.empty() && f.base.size() != 1 && static_cast<std::int64_t>(f.base.size()) != f.targets)
    return malformed(r, "base_values are one for each target");
  std::string how = attr_string(a, "aggregate_function", "SUM");
  f.aggregate = how == "AVERAGE" ? Aggregate::average
                : how == "MIN"   ? Aggregate::min
                : how == "MAX"   ? Aggregate::max
                                 : Aggregate::sum;
  f.post = attr_string(a, "post_transform", "NONE");
  Expr x = r.in(0);
  if (x.dtype() != DType::f64) x = x.to(DType::f32);
  AG_TRY(std::vector<ValueId> y, run(r, f, x));
  return std::vector<ValueId>{r.b.convert(y[0], DType::f32)};
}

// ---- The table --------------------------------------------------------------------------------------------

LiteralPtr literal(DType t, std::vector<double> v) {
  return make_literal(Array::of<double>(t, {static_cast<std::int64_t>(v.size())}, v));
}

OpInfo ensemble_op() {
  OpInfo o = rewritten<tree_ensemble>(
      {.name = "TreeEnsemble", .domain = ml, .summary = "decision trees: the leaves' weights, combined a target"});
  o.operands = {{.name = "X", .dtypes = floats}};
  o.results = {{"Y"}};
  for (std::string_view name : {"nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids", "nodes_trueleafs",
                                "nodes_falseleafs", "leaf_targetids", "tree_roots"})
    o.attrs.push_back({name, AttrKind::ints, true});
  for (std::string_view name : {"nodes_modes", "nodes_splits", "leaf_weights"})
    o.attrs.push_back({name, AttrKind::literal, true});
  for (std::string_view name : {"nodes_hitrates", "membership_values"}) o.attrs.push_back({name, AttrKind::literal});
  o.attrs.push_back({"nodes_missing_value_tracks_true", AttrKind::ints});
  o.attrs.push_back(int_attr("n_targets", 1));
  o.attrs.push_back(int_attr("aggregate_function", 1));
  o.attrs.push_back(int_attr("post_transform", 0));
  o.zero_gradient = true;
  o.samples = [] {
    Attrs a{{"nodes_featureids", Ints{0, 1, 0}},
            {"nodes_truenodeids", Ints{1, 0, 3}},
            {"nodes_falsenodeids", Ints{2, 1, 2}},
            {"nodes_trueleafs", Ints{0, 1, 1}},
            {"nodes_falseleafs", Ints{0, 1, 1}},
            {"leaf_targetids", Ints{0, 1, 0, 1}},
            {"tree_roots", Ints{0, 1}},
            {"nodes_modes", literal(DType::u8, {0, 3, 5})},
            {"nodes_splits", literal(DType::f64, {0.3, -0.2, 1})},
            {"leaf_weights", literal(DType::f64, {5.2, 12.1, -12.2, 7.2})},
            {"n_targets", std::int64_t{2}}},
        least = a;
    least.set("aggregate_function", std::int64_t{2});
    return std::vector<OpSample>{sample({"f64[5,2]"}, a), sample({"f64[3,2]"}, least)};
  };
  return o;
}

OpInfo regressor_op() {
  OpInfo o = rewritten<tree_regressor>({.name = "TreeEnsembleRegressor",
                                        .domain = ml,
                                        .summary = "decision trees: the leaves' votes, combined a target"});
  o.operands = {
      {.name = "X", .dtypes = set_of(DType::f64) | set_of(DType::f32) | set_of(DType::i64) | set_of(DType::i32)}};
  o.results = {{"Y", "F"}};
  for (std::string_view name :
       {"nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids",
        "nodes_missing_value_tracks_true", "target_treeids", "target_nodeids", "target_ids"})
    o.attrs.push_back({name, AttrKind::ints});
  for (std::string_view name : {"nodes_values", "nodes_hitrates", "target_weights", "base_values"})
    o.attrs.push_back({name, AttrKind::numbers});
  for (std::string_view name :
       {"nodes_values_as_tensor", "nodes_hitrates_as_tensor", "target_weights_as_tensor", "base_values_as_tensor"})
    o.attrs.push_back({name, AttrKind::literal});
  o.attrs.push_back({"nodes_modes", AttrKind::strings});
  o.attrs.push_back(int_attr("n_targets", 1));
  o.attrs.push_back(choice_attr("aggregate_function", {"SUM", "AVERAGE", "MIN", "MAX"}));
  o.attrs.push_back(choice_attr("post_transform", {"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"}));
  o.zero_gradient = true;
  o.samples = [] {
    Attrs a{{"nodes_treeids", Ints{0, 0, 0}},
            {"nodes_nodeids", Ints{0, 1, 2}},
            {"nodes_featureids", Ints{1, 0, 0}},
            {"nodes_truenodeids", Ints{1, 0, 0}},
            {"nodes_falsenodeids", Ints{2, 0, 0}},
            {"nodes_values", std::vector<double>{0.25, 0, 0}},
            {"nodes_modes", std::vector<std::string>{"BRANCH_LEQ", "LEAF", "LEAF"}},
            {"target_treeids", Ints{0, 0}},
            {"target_nodeids", Ints{1, 2}},
            {"target_ids", Ints{0, 0}},
            {"target_weights", std::vector<double>{-1.5, 2.5}},
            {"base_values", std::vector<double>{0.5}}};
    return std::vector<OpSample>{sample({"f32[4,2]"}, a)};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> tree_ops() { return {ensemble_op(), regressor_op()}; }

}  // namespace ag::ops

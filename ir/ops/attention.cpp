// ONNX's Attention (opset 23 to 25): scaled dot products of queries and keys, masked, through a softmax, times values.
// Key and value heads may serve several query heads each.
#include <cmath>
#include <limits>

#include "ir/ops/attend.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();
enum Operand : std::size_t { query, key, value, mask, past_key, past_value, nonpad };

/// [batch, heads, length, size], whether given so or as [batch, length, heads * size].
struct Heads {
  Dim batch, count, length, size;
  Dims shape() const { return {batch, count, length, size}; }
};

std::optional<Heads> heads(const Type& t, std::int64_t count) {
  if (t.rank() == 4) return Heads{t.shape[0], t.shape[1], t.shape[2], t.shape[3]};
  if (t.rank() != 3 || count <= 0 || (t.shape[2].is_const() && t.shape[2].value() % count != 0)) return std::nullopt;
  return Heads{t.shape[0], count, t.shape[1], floordiv(t.shape[2], count)};
}

struct Shapes {
  Heads q, k, v;
  Dim total;  ///< keys, past ones included
};

template <class Node>
std::optional<Shapes> shapes_of(const Node& n) {
  std::int64_t q_heads = attr_int(n.attrs(), "q_num_heads", 0), kv_heads = attr_int(n.attrs(), "kv_num_heads", 0);
  auto q = heads(n.in(query), q_heads), k = heads(n.in(key), kv_heads), v = heads(n.in(value), kv_heads);
  if (!q || !k || !v) return std::nullopt;
  Dim total = n.has(past_key) && n.in(past_key).rank() == 4 ? n.in(past_key).shape[2] + k->length : k->length;
  return Shapes{*q, *k, *v, total};
}

Types infer_attention(const InferCtx& c) {
  auto s = shapes_of(c);
  if (!s || c.in(query).rank() != c.in(key).rank() || c.in(key).rank() != c.in(value).rank())
    return c.error(Code::AG2204,
                   fmt::format("`Attention` needs [batch, heads, length, size], or [batch, length, heads * size] with "
                               "q_num_heads and kv_num_heads: {}, {}, {}",
                               c.in(query).str(), c.in(key).str(), c.in(value).str()),
                   {}, {query, key, value});
  auto differ = [](const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; };
  if (differ(s->q.size, s->k.size) || differ(s->k.length, s->v.length) || differ(s->k.count, s->v.count) ||
      differ(s->q.batch, s->k.batch) || differ(s->k.batch, s->v.batch))
    return c.error(Code::AG2208,
                   fmt::format("`Attention`: queries {}, keys {} and values {} do not fit together",
                               shape_str(s->q.shape()), shape_str(s->k.shape()), shape_str(s->v.shape())),
                   "as [batch, heads, length, size]", {query, key, value});
  if (s->q.count.is_const() && s->k.count.is_const() &&
      (s->k.count.is(0) || s->q.count.value() % s->k.count.value() != 0))
    return c.error(
        Code::AG2206,
        fmt::format("`Attention`: {} query heads are no multiple of {} key heads", s->q.count.str(), s->k.count.str()),
        {}, {query, key});
  if (c.has(nonpad) && (c.in(nonpad).rank() != 1 || differ(c.in(nonpad).shape[0], s->q.batch)))
    return c.error(Code::AG2208,
                   fmt::format("`Attention` needs one nonpad_kv_seqlen a batch: {} is {}", operand_name(c, nonpad),
                               c.in(nonpad).str()),
                   {}, {query, nonpad});
  if (c.has(past_key) != c.has(past_value))
    return c.error(Code::AG2206, "`Attention` takes past_key and past_value together");
  Dims scores{s->q.batch, s->q.count, s->q.length, s->total};
  if (c.has(mask)) {
    Dims m = c.in(mask).shape;
    if (!m.empty() && m.back().is_const() && scores[3].is_const() && m.back().value() < scores[3].value())
      m.back() = scores[3];
    auto all = broadcast_shapes(m, scores);
    if (!all || *all != scores)
      return c.error(
          Code::AG2201,
          fmt::format("`Attention`: the mask {} does not broadcast to {}", c.in(mask).str(), shape_str(scores)), {},
          {mask});
  }
  DType t = c.in(query).dtype;
  Dims y = c.in(query).rank() == 4 ? Dims{s->q.batch, s->q.count, s->q.length, s->v.size}
                                   : Dims{s->q.batch, s->q.length, s->q.count * s->v.size};
  return std::vector<Type>{{t, y},
                           {t, {s->k.batch, s->k.count, s->total, s->k.size}},
                           {c.in(value).dtype, {s->v.batch, s->v.count, s->total, s->v.size}},
                           {t, scores}};
}

Expr split_heads(Builder& b, const View& n, std::size_t i, const Heads& h) {
  Expr x(b, n.operand(i));
  if (x.type().rank() == 4) return x;
  return x.with(b.transpose(b.reshape(x, {h.batch, h.length, h.count, h.size}), {0, 2, 1, 3}));
}

/// Which keys a query may see by its position: causal, in a window, not padding. Invalid if all.
Expr allowed(Builder& b, const View& n, const Shapes& s) {
  std::int64_t left = attr_int(n.attrs(), "left_window_size", -1), right = attr_int(n.attrs(), "right_window_size", -1);
  Expr all;
  auto require = [&](Expr e) { all = all.id() ? both(all, e) : e; };
  Type places{DType::i64, {s.q.length, s.total}};
  Expr row(b, b.iota(places, 0)), column(b, b.iota(places, 1));
  // A query's position is its place among the keys: after the past ones, or at the end of those that are no padding.
  if (n.has(past_key)) row = row + size_value(b, s.total - s.k.length, DType::i64);
  if (n.has(nonpad)) {
    Expr length(b, b.reshape(n.operand(nonpad), {s.q.batch, 1, 1, 1}));
    if (!n.has(past_key)) row = row + (length - size_value(b, s.q.length, DType::i64));
    require(column < length);
  }
  auto limit = [&](std::int64_t v) { return row.with(b.scalar_int(DType::i64, v)); };
  if (attr_int(n.attrs(), "is_causal", 0)) require(column <= row);
  if (left >= 0) require(row - column <= limit(left));
  if (right >= 0) require(column - row <= limit(right));
  return all;
}

/// What is added to the scores: -inf where a key may not be seen. Invalid if nothing is masked.
Expr bias(Builder& b, const View& n, const Shapes& s, DType t) {
  Expr sum;
  if (n.has(mask)) {
    Expr m(b, n.operand(mask));
    m = m.dtype() == DType::boolean ? select(m, m.with(b.scalar(t, 0)), m.with(b.scalar(t, minus_infinity))) : m.to(t);
    Type have = m.type();
    if (Dim missing = have.rank() ? s.total - have.shape.back() : Dim(0);
        missing.is_const() && missing.value() > 0 && !have.shape.back().is(1)) {
      Dims low(have.shape.size(), 0), high = low;
      high.back() = missing;
      m = m.with(b.add_op("pad", {m.id(), b.scalar(t, minus_infinity)},
                          {{"low", low}, {"high", high}, {"interior", Ints(low.size(), 0)}}));
    }
    sum = m;
  }
  if (Expr seen = allowed(b, n, s); seen.id()) {
    Expr hidden = select(seen, seen.with(b.scalar(t, 0)), seen.with(b.scalar(t, minus_infinity)));
    sum = sum.id() ? sum + hidden : hidden;
  }
  return sum;
}

/// x [batch, query heads, ...] times y [batch, key heads, ...] over one axis each, a key head for its group of queries.
Expr grouped_product(Expr x, Expr y, std::int64_t x_axis, std::int64_t y_axis, const Heads& k) {
  Builder& b = x.builder();
  Dims from = x.type().shape;
  if (from[1] == k.count) return x.with(b.dot_general(x, y, {x_axis}, {y_axis}, {0, 1}, {0, 1}));
  Dim group = floordiv(from[1], k.count);
  Expr split = x.with(b.reshape(x, {from[0], k.count, group, from[2], from[3]}));
  Expr r = x.with(b.dot_general(split, y, {x_axis + 1}, {y_axis}, {0, 1}, {0, 1}));
  Dims to = r.type().shape;
  return r.with(b.reshape(r, {to[0], from[1], to[3], to[4]}));
}

/// The result through the op that has kernels, unless scores are wanted or changed in ways that it has no words for.
Expr attended(Builder& b, const View& n, const Shapes& s, Expr q, Expr k, Expr v) {
  const DType t = q.dtype();
  const bool other = attr_number(n.attrs(), "softcap", 0) > 0 || n.node().result_count > 3 || t != v.dtype() ||
                     accumulator_dtype(t) != t || n.attrs().get_or<DType>("softmax_precision", t) != t;
  if (other || !s.q.count.is_const() || !s.k.count.is_const() || !s.q.size.is_const() || s.q.size.is(0)) return {};
  const double* given = n.attrs().get<double>("scale");
  Attrs attrs{{"scale", given ? *given : 1 / std::sqrt(static_cast<double>(s.q.size.value()))},
              {"empty_zero", std::int64_t{1}}};
  const bool bounded = n.has(nonpad) || attr_int(n.attrs(), "left_window_size", -1) >= 0 ||
                       attr_int(n.attrs(), "right_window_size", -1) >= 0;
  Expr added;
  if (n.has(mask) || bounded)
    added = bias(b, n, s, t);
  else if (attr_int(n.attrs(), "is_causal", 0))
    attrs.set("causal", Dims{s.total - s.k.length});
  Dims shape = q.type().shape;
  if (s.q.count != s.k.count) {  // [batch, key heads, group, length, size]: keys and values repeat over the group
    const Dim groups = floordiv(s.q.count, s.k.count);
    auto split = [&](Expr x, const Dim& heads, const Dim& group) {
      Dims d = x.type().shape;
      return x.with(b.reshape(x, {d[0], heads, group, d[2], d[3]}));
    };
    q = split(q, s.k.count, groups), k = split(k, s.k.count, 1), v = split(v, s.k.count, 1);
    if (added.id() && added.type().rank() > 2) {
      Dims d = added.type().shape;
      while (d.size() < 4) d.insert(d.begin(), Dim(1));
      added = added.with(b.reshape(added, d));
      added = d[1].is(1) ? split(added, 1, 1) : split(added, s.k.count, groups);
    }
  }
  std::vector<ValueId> operands{q, k, v};
  if (added.id()) operands.push_back(added);
  shape.back() = v.type().shape.back();
  Expr y = q.with(b.add_op("attend", operands, attrs));
  return y.with(b.reshape(y, shape));
}

std::vector<ValueId> attention(Builder& b, const View& n) {
  Shapes s = *shapes_of(n);
  Expr q = split_heads(b, n, query, s.q), k = split_heads(b, n, key, s.k), v = split_heads(b, n, value, s.v);
  if (n.has(past_key)) {
    k = k.with(b.concat({n.operand(past_key), k}, 2));
    v = v.with(b.concat({n.operand(past_value), v}, 2));
  }
  auto result = [&](Expr y) {
    Dims out = n.out().shape;
    return out.size() == 3 ? y.with(b.reshape(b.transpose(y, {0, 2, 1, 3}), out)) : y;
  };
  if (Expr y = attended(b, n, s, q, k, v); y.id()) return {result(y), k, v, ValueId{}};
  // The scale is spread over both factors, as ONNX's definition does, so that half types do not overflow.
  DType t = q.dtype();
  const double* given = n.attrs().get<double>("scale");
  Expr root =
      given ? q.lit(std::sqrt(*given)) : call("rsqrt", sqrt(size_value(b, s.q.size, accumulator_dtype(t)))).to(t);
  Expr scores = grouped_product(q * root, k * root, 3, 3, s.k);
  if (double cap = attr_number(n.attrs(), "softcap", 0); cap > 0) scores = cap * call("tanh", scores / cap);
  std::int64_t mode = attr_int(n.attrs(), "qk_matmul_output_mode", 0);
  Expr shown = scores, blocked;
  if (Expr added = bias(b, n, s, t); added.id()) {
    scores = scores + added;
    if (mode == 2) shown = scores;
    // A row that sees nothing gives zeros; its scores are replaced so that no NaN arises.
    blocked = reduce("reduce_max", added, {added.type().rank() - 1}, true) == minus_infinity;
    scores = select(blocked, 0, scores);
  }
  Expr p = scores.to(n.attrs().get_or<DType>("softmax_precision", t));
  p = p.with(b.add_op("Softmax", {p.id()}, {{"axis", std::int64_t{-1}}})).to(t);
  if (blocked.id()) p = select(blocked, 0, p);
  if (mode == 3) shown = p;
  Expr y = grouped_product(p.to(v.dtype()), v, 3, 2, s.k).to(t);
  return {result(y), k, v, shown};
}

std::vector<OpSample> attention_samples() {
  Attrs causal{{"is_causal", std::int64_t{1}}},
      flat{{"q_num_heads", std::int64_t{2}}, {"kv_num_heads", std::int64_t{1}}, {"softcap", 2.0}};
  return {sample({"f64[1,2,3,4]", "f64[1,2,5,4]", "f64[1,2,5,2]"}),
          sample({"f64[1,2,3,4]", "f64[1,2,3,4]", "f64[1,2,3,2]"}, causal),
          sample({"f64[1,3,8]", "f64[1,5,4]", "f64[1,5,4]"}, flat),
          sample({"f64[1,4,3,2]", "f64[1,2,3,2]", "f64[1,2,3,2]", "f64[3,3]"}),
          sample({"f64[1,1,2,2]", "f64[1,1,2,2]", "f64[1,1,2,2]", "bool[2,3]", "f64[1,1,1,2]", "f64[1,1,1,2]"})};
}

// ---- FlexAttention: what modifies scores and probabilities are regions ------------------------------------

std::size_t captured(const Attrs& a) { return static_cast<std::size_t>(attr_int(a, "captures", 0)); }

DType softmax_dtype(const Attrs& a, DType t) { return a.get_or<DType>("softmax_precision", accumulator_dtype(t)); }

Types infer_flex(const InferCtx& c) {
  auto differ = [](const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; };
  std::size_t captures = captured(c.attrs());
  if (attr_int(c.attrs(), "captures", 0) < 0 || c.operand_count() != 3 + captures)
    return c.error(Code::AG2210, "`FlexAttention`: the captures are not the operands that follow Q, K and V");
  const Type &q = c.in(query), &k = c.in(key), &v = c.in(value);
  if (q.rank() != 4 || k.rank() != 4 || v.rank() != 4)
    return c.error(
        Code::AG2204,
        fmt::format("`FlexAttention` needs [batch, heads, length, size]: {}, {}, {}", q.str(), k.str(), v.str()), {},
        {query, key, value});
  const Dim &heads = q.shape[1], &shared = k.shape[1];
  bool groups = heads.is_const() && shared.is_const() && (shared.is(0) || heads.value() % shared.value() != 0);
  if (groups || differ(q.shape[3], k.shape[3]) || differ(k.shape[2], v.shape[2]) || differ(shared, v.shape[1]) ||
      differ(q.shape[0], k.shape[0]) || differ(k.shape[0], v.shape[0]))
    return c.error(Code::AG2208,
                   fmt::format("`FlexAttention`: {}, {} and {} do not fit together", q.str(), k.str(), v.str()), {},
                   {query, key, value});
  Type scores{softmax_dtype(c.attrs(), q.dtype), {q.shape[0], heads, q.shape[2], k.shape[2]}};
  auto fits = [&](const Type& t) {
    bool same = t.dtype == scores.dtype && t.rank() == 4;
    for (std::size_t d = 0; same && d < 4; ++d) same = !differ(t.shape[d], scores.shape[d]);
    return same;
  };
  for (const GraphPtr& r : c.regions())
    if (r->inputs.size() != 1 + captures || r->outputs.size() != 1 || !fits(r->type(r->inputs[0])) ||
        !fits(r->type(r->outputs[0].value)))
      return c.error(Code::AG2210,
                     fmt::format("a region of `FlexAttention` takes {} and gives the same", scores.str()));
  return std::vector<Type>{{v.dtype, {q.shape[0], heads, q.shape[2], v.shape[3]}}};
}

std::vector<ValueId> flex_attention(Builder& b, const View& n) {
  Expr q(b, n.operand(query)), k(b, n.operand(key)), v(b, n.operand(value));
  Dims ks = k.type().shape;
  Heads of_keys{ks[0], ks[1], ks[2], ks[3]};
  DType t = softmax_dtype(n.attrs(), q.dtype());
  const double* given = n.attrs().get<double>("scale");
  Expr root = given ? q.lit(std::sqrt(*given))
                    : call("rsqrt", sqrt(size_value(b, ks[3], accumulator_dtype(q.dtype())))).to(q.dtype());
  std::vector<ValueId> outside(n.node().operands.begin() + 3, n.node().operands.end());
  std::vector<GraphPtr> regions = n.node().regions;
  auto modified = [&](Expr x, const Graph& region) {
    std::vector<ValueId> in{x.id()};
    in.insert(in.end(), outside.begin(), outside.end());
    return x.with(b.inline_graph(region, in)[0]);
  };
  Expr scores = modified(grouped_product(q * root, k * root, 3, 3, of_keys).to(t), *regions[0]);
  Expr p = modified(scores.with(b.add_op("Softmax", {scores.id()}, {{"axis", std::int64_t{-1}}})), *regions[1]);
  return {grouped_product(p, v.to(t), 3, 2, of_keys).to(v.dtype())};
}

OpInfo flex_op() {
  OpInfo o = composite(
      {.name = "FlexAttention", .domain = "ai.onnx.preview", .summary = "prob_mod(softmax(score_mod(Q K^T scale))) V"});
  o.operands = {{.name = "Q", .dtypes = floats},
                {.name = "K", .dtypes = floats},
                {.name = "V", .dtypes = floats},
                {"captures", "", any_dtype, true, true}};
  o.results = {{"Y"}};
  o.attrs = {{"scale", AttrKind::number},
             {"softmax_precision", AttrKind::dtype},
             int_attr("captures", 0, "how many of the last operands the regions use from outside")};
  o.regions = {{"score_mod"}, {"prob_mod"}};
  o.infer = infer_flex;
  o.decompose = flex_attention;
  return o;
}

}  // namespace

std::vector<OpInfo> attention_ops() {
  OpInfo o = composite({.name = "Attention", .since = 23, .summary = "softmax(Q K^T scale + mask) V"});
  o.operands = {{.name = "Q", .dtypes = floats},
                {.name = "K", .dtypes = floats},
                {.name = "V", .type_var = "T2", .dtypes = floats},
                {.name = "attn_mask", .type_var = "U", .optional = true},
                {.name = "past_key", .dtypes = floats, .optional = true},
                {.name = "past_value", .type_var = "T2", .dtypes = floats, .optional = true},
                {.name = "nonpad_kv_seqlen", .type_var = "I", .dtypes = set_of(DType::i64), .optional = true}};
  o.results = {{"Y"}, {"present_key", "T", true}, {"present_value", "T2", true}, {"qk_matmul_output", "T", true}};
  o.attrs = {int_attr("is_causal", 0),
             {"scale", AttrKind::number},
             number_attr("softcap", 0),
             {"q_num_heads", AttrKind::integer},
             {"kv_num_heads", AttrKind::integer},
             {"softmax_precision", AttrKind::dtype},
             int_attr("qk_matmul_output_mode", 0),
             int_attr("left_window_size", -1),
             int_attr("right_window_size", -1)};
  o.infer = infer_attention;
  o.decompose = attention;
  o.samples = attention_samples;
  std::vector<OpInfo> all{o, flex_op()};
  for (OpInfo& a : attend_ops()) all.push_back(std::move(a));
  return all;
}

}  // namespace ag

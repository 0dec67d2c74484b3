// LinearAttention (opset 27): S_t = exp(g_t) S_(t-1) + k_t (x) (b_t (v_t - (exp(g_t) S_(t-1))^T k_t)), read as
// scale q_t^T S_t; without g it does not decay, without b the value is written as it is. Short sequences are
// written out; longer ones are a Scan over places.
#include "ir/ops/linear_attention.hpp"

#include <cmath>

#include "ir/ops/rewritten.hpp"

namespace ag::ops {
namespace {

using Values = Result<std::vector<ValueId>>;
enum Operand : std::size_t { query, key, value, past, decay, beta };
constexpr std::int64_t written_out = 8;  ///< places

struct Heads {
  std::int64_t queries, keys;
  Dim batch, length, key_size, value_size;
};

bool differ(const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; }

std::unexpected<Diags> wrong(const Rewriting& r, std::string why) {
  return r.fail(Code::AG2206, "`LinearAttention`: " + std::move(why));
}

Result<Heads> heads_of(const Rewriting& r) {
  std::int64_t q = r.integer("q_num_heads"), k = r.integer("kv_num_heads");
  if (q <= 0 || k <= 0 || q % k != 0) return wrong(r, fmt::format("{} query heads are no multiple of {}", q, k));
  for (std::size_t i : {query, key, value}) {
    Type t = r.type(i);
    std::int64_t n = i == query ? q : k;
    if (t.rank() != 3 || (t.shape[2].is_const() && t.shape[2].value() % n != 0))
      return wrong(r, fmt::format("{} is no [batch, length, {} heads * size]", t.str(), n));
    if (differ(t.shape[0], r.type(query).shape[0]) || differ(t.shape[1], r.type(query).shape[1]))
      return wrong(r, fmt::format("{} and {} differ in batch or length", r.type(query).str(), t.str()));
  }
  Heads h{q,
          k,
          r.type(query).shape[0],
          r.type(query).shape[1],
          floordiv(r.type(key).shape[2], k),
          floordiv(r.type(value).shape[2], k)};
  if (differ(floordiv(r.type(query).shape[2], q), h.key_size)) return wrong(r, "queries and keys differ in size");
  return h;
}

/// [batch, length, ...]: what a place brings, a head's parts apart.
Expr by_head(const Rewriting& r, std::size_t i, std::int64_t heads, const Dim& size, DType wide) {
  Expr x = r.in(i).to(wide);
  Dims t = x.type().shape;
  return x.with(r.b.reshape(x, {t[0], t[1], heads, size}));
}

/// One place: q [B,Hk,G,Dk], k [B,Hk,Dk], v [B,Hk,Dv], g [B,Hk,Dk or 1], b [B,Hk or 1,1]; the state [B,Hk,Dk,Dv].
struct Place {
  Expr q, k, v, g, b;
};
struct Step {
  Expr state, read;
};
Step step(Expr state, const Place& p) {
  Builder& b = state.builder();
  auto with_axis = [&](Expr x, std::size_t axis) { return x.with(b.reshape(x, with_unit_axis(x.type().shape, axis))); };
  Expr v = p.v;
  if (p.g.id()) state = state * with_axis(exp(p.g), 3);
  if (p.b.id()) v = p.b * (v - state.with(b.dot_general(p.k, state, {2}, {2}, {0, 1}, {0, 1})));
  state = state + with_axis(p.k, 3) * with_axis(v, 2);
  return {state, state.with(b.dot_general(p.q, state, {3}, {2}, {0, 1}, {0, 1}))};
}

/// Place i of each sequence [B, T, ...], or nothing where there is none.
Expr place_of(Expr x, std::int64_t i) {
  if (!x.id()) return x;
  Dims shape = x.type().shape, low(shape.size(), 0), high = shape;
  low[1] = i;
  high[1] = i + 1;
  Expr one = x.with(x.builder().slice(x, low, high));
  shape.erase(shape.begin() + 1);
  return x.with(x.builder().reshape(one, shape));
}

Values by_scan(const Rewriting& r, Expr state, const std::vector<Expr>& sequences) {
  auto body = std::make_shared<Graph>();
  body->opset = r.b.graph().opset;
  Builder b(*body);
  Expr s(b, b.input("state", state.type()));
  std::vector<Expr> in;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (!sequences[i].id()) {
      in.emplace_back();
      continue;
    }
    Type t = sequences[i].type();
    t.shape.erase(t.shape.begin() + 1);
    in.emplace_back(b, b.input("x" + std::to_string(i), t));
  }
  Step next = step(s, {in[0], in[1], in[2], in[3], in[4]});
  body->outputs = {{"next", next.state, {}}, {"read", next.read, {}}};
  Builder::NodeArgs args;
  args.operands = {state.id()};
  for (Expr e : sequences)
    if (e.id()) args.operands.push_back(e.id());
  std::int64_t n = static_cast<std::int64_t>(args.operands.size()) - 1;
  args.attrs = {
      {"num_scan_inputs", n}, {"scan_input_axes", Ints(static_cast<std::size_t>(n), 1)}, {"scan_output_axes", Ints{1}}};
  args.regions = {body};
  AG_TRY(NodeId id, r.b.try_add(op("Scan"), std::move(args)));
  const Node& node = r.b.graph().node(id);
  return std::vector<ValueId>{node.result(0), node.result(1)};
}

Values linear_attention(const Rewriting& r) {
  AG_TRY(Heads h, heads_of(r));
  std::string rule = attr_string(r.attrs, "update_rule", "gated_delta");
  bool gated = rule.starts_with("gated"), delta = rule.ends_with("delta");
  if (gated != r.has(decay) || delta != r.has(beta))
    return wrong(r, fmt::format("update_rule {} {} `decay` and {} `beta`", rule, gated ? "needs" : "forbids",
                                delta ? "needs" : "forbids"));
  DType t = r.type(query).dtype, wide = accumulator_dtype(t), kept = r.has(past) ? r.type(past).dtype : t;
  Dims shape{h.batch, h.keys, h.key_size, h.value_size};
  if (r.has(past))
    for (std::size_t d = 0; d < 4; ++d)
      if (r.type(past).rank() != 4 || differ(r.type(past).shape[d], shape[d]))
        return wrong(r, fmt::format("past_state {} is not {}", r.type(past).str(), shape_str(shape)));
  Expr q = by_head(r, query, h.queries, h.key_size, wide), g, b;
  double scale = attr_number(r.attrs, "scale", 0);
  q = scale != 0 ? q * scale : q * call("rsqrt", size_value(r.b, h.key_size, wide));
  q = q.with(r.b.reshape(q, {h.batch, h.length, h.keys, h.queries / h.keys, h.key_size}));
  for (std::size_t i : {decay, beta}) {
    if (!r.has(i)) continue;
    Type given = r.type(i);
    Dim last = given.rank() == 3 ? given.shape[2] : Dim(0);
    bool a_head = last.is(h.keys), one = i == beta && last.is(1);
    if (given.rank() == 3 && (differ(given.shape[0], h.batch) || differ(given.shape[1], h.length)))
      return wrong(r, fmt::format("{} and {} differ in batch or length", r.type(query).str(), given.str()));
    if (given.rank() != 3 || (!a_head && !one && (i == beta || differ(last, h.key_size * Dim(h.keys)))))
      return wrong(r, fmt::format("{} is not one value a head", given.str()));
    (i == decay ? g : b) = by_head(r, i, one ? 1 : h.keys, a_head || one ? Dim(1) : h.key_size, wide);
  }
  std::vector<Expr> sequences = {q, by_head(r, key, h.keys, h.key_size, wide),
                                 by_head(r, value, h.keys, h.value_size, wide), g, b};
  Expr state = r.has(past) ? r.in(past).to(wide) : Expr(r.b, r.b.zeros({wide, shape})), read;
  if (h.length.is_const() && h.length.value() > 0 && h.length.value() <= written_out) {
    std::vector<ValueId> reads;
    for (std::int64_t i = 0; i < h.length.value(); ++i) {
      Place p{place_of(q, i), place_of(sequences[1], i), place_of(sequences[2], i), place_of(g, i), place_of(b, i)};
      Step next = step(state, p);
      state = next.state;
      reads.push_back(r.b.reshape(next.read, with_unit_axis(next.read.type().shape, 1)));
    }
    read = state.with(r.b.concat(std::move(reads), 1));
  } else {
    AG_TRY(std::vector<ValueId> both, by_scan(r, state, sequences));
    state = state.with(both[0]), read = state.with(both[1]);
  }
  Dims out{h.batch, h.length, h.value_size * Dim(h.queries)};
  return std::vector<ValueId>{r.b.reshape(read.to(t), out), state.to(kept)};
}

}  // namespace

OpInfo linear_attention_op() {
  OpInfo o = rewritten<linear_attention>(
      {.name = "LinearAttention", .since = 27, .summary = "a decaying sum of keys by values, read by queries"});
  o.operands = {{.name = "query", .dtypes = floats},
                {.name = "key", .dtypes = floats},
                {.name = "value", .dtypes = floats},
                {.name = "past_state", .type_var = "S", .dtypes = floats, .optional = true},
                {.name = "decay", .dtypes = floats, .optional = true},
                {.name = "beta", .dtypes = floats, .optional = true}};
  o.results = {{"output"}, {"present_state", "S", true}};
  o.attrs = {{"q_num_heads", AttrKind::integer, true},
             {"kv_num_heads", AttrKind::integer, true},
             number_attr("scale", 0),
             int_attr("chunk_size", 64),
             choice_attr("update_rule", {"gated_delta", "linear", "gated", "delta"})};
  o.samples = [] {
    Attrs heads{{"q_num_heads", std::int64_t{2}}, {"kv_num_heads", std::int64_t{1}}}, plain = heads;
    plain.set("update_rule", std::string("linear"));
    plain.set("scale", 0.7);
    return std::vector<OpSample>{
        sample({"f64[1,3,4]", "f64[1,3,2]", "f64[1,3,2]", "f64[1,1,2,2]", "f64[1,3,2]", "f64[1,3,1]"}, heads, -1, 1),
        sample({"f64[2,2,4]", "f64[2,2,2]", "f64[2,2,3]"}, plain)};
  };
  return o;
}

}  // namespace ag::ops

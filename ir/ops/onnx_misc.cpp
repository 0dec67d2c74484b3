// ONNX ops that fit no other family: caches and embeddings of language models, crops, normalisation across channels.
#include "ir/ops/families.hpp"
#include "ir/ops/linear_attention.hpp"
#include "ir/ops/rewritten.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
using Values = Result<std::vector<ValueId>>;

std::unexpected<Diags> wrong_shapes(const Rewriting& r, std::string_view wanted) {
  std::string have;
  for (std::size_t i = 0; i < r.operands.size(); ++i)
    if (r.has(i)) have += (have.empty() ? "" : ", ") + r.type(i).str();
  return r.fail(Code::AG2206, fmt::format("`{}` of {}: {}", r.op.onnx, have, wanted));
}

bool differ(const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; }

/// Elements [from, to) along an axis.
Expr part(Expr x, std::size_t axis, const Dim& from, const Dim& to, std::int64_t step = 1) {
  Dims shape = x.type().shape, low(shape.size(), 0), high = shape;
  low[axis] = from;
  high[axis] = to;
  Ints stride(shape.size(), 1);
  stride[axis] = step;
  return x.with(x.builder().slice(x, low, high, stride));
}

Expr padded(Expr x, const Dims& low, const Dims& high) {
  return x.with(x.builder().add_op("pad", {x.id(), x.builder().scalar(x.dtype(), 0)},
                                   {{"low", low}, {"high", high}, {"interior", Ints(low.size(), 0)}}));
}

// ---- SwiGLU, RotaryEmbedding ------------------------------------------------------------------------------

Values swiglu(const Rewriting& r) {
  if (r.type(0) != r.type(1)) return wrong_shapes(r, "the gate and the value have one shape");
  AG_TRY(Expr gate, r.node("Swish", {r.operands[0]}, {{"alpha", attr_number(r.attrs, "alpha", 1)}}));
  return std::vector<ValueId>{gate * r.in(1)};
}

/// Pairs of elements turned by an angle that follows from the position. Pairs are the two halves of a head, or
/// neighbours.
Values rotary(const Rewriting& r) {
  Expr x = r.in(0), cosine = r.in(1), sine = r.in(2);
  Dims given = x.type().shape;
  bool flat = given.size() == 3;  // [batch, length, heads * size], else [batch, heads, length, size]
  std::int64_t heads = r.integer("num_heads");
  if ((flat && heads <= 0) || (!flat && given.size() != 4))
    return wrong_shapes(r, "four axes, or three and num_heads, are needed");
  if (flat && given[2].is_const() && given[2].value() % heads != 0)
    return wrong_shapes(r, fmt::format("{} heads do not divide the last size", heads));
  if (flat) x = x.with(r.b.reshape(x, {given[0], given[1], heads, floordiv(given[2], heads)}));
  if (r.has(3)) {
    if (cosine.type().rank() != 2 || sine.type().rank() != 2 || r.type(3).rank() != 2)
      return wrong_shapes(r, "with positions, the caches have two axes and the positions two");
    cosine = take(cosine, r.in(3), 0);
    sine = take(sine, r.in(3), 0);
  }
  if (cosine.type().rank() != 3 || sine.type().rank() != 3)
    return wrong_shapes(r, "without positions, the caches have three axes");
  Dim size = x.type().shape[3];
  Dim turned = r.integer("rotary_embedding_dim") ? Dim(r.integer("rotary_embedding_dim")) : size;
  Dim half = floordiv(turned, 2);
  if (differ(cosine.type().shape[2], half) || differ(sine.type().shape[2], half) ||
      (turned.is_const() && (turned.value() % 2 != 0 || turned.value() < 0)) ||
      (turned.is_const() && size.is_const() && turned.value() > size.value()))
    return wrong_shapes(r, "the caches are half as long as what is turned");
  std::size_t heads_axis = flat ? 2 : 1;
  auto over_heads = [&](Expr c) { return c.with(r.b.reshape(c, with_unit_axis(c.type().shape, heads_axis))); };
  cosine = over_heads(cosine), sine = over_heads(sine);
  bool interleaved = r.integer("interleaved") != 0;
  Expr even = interleaved ? part(x, 3, 0, turned, 2) : part(x, 3, 0, half);
  Expr odd = interleaved ? part(x, 3, 1, turned, 2) : part(x, 3, half, turned);
  for (Expr c : {cosine, sine})
    if (auto both = broadcast_shapes(c.type().shape, even.type().shape); !both || *both != even.type().shape)
      return wrong_shapes(r, "the caches do not fit the input");
  Expr real = cosine * even - sine * odd, imaginary = sine * even + cosine * odd;
  Expr y;
  if (interleaved) {
    Dims pairs = real.type().shape, joined = pairs;
    joined[3] = turned;
    pairs.push_back(1);
    y = x.with(r.b.reshape(r.b.concat({r.b.reshape(real, pairs), r.b.reshape(imaginary, pairs)}, 4), joined));
  } else {
    y = x.with(r.b.concat({real, imaginary}, 3));
  }
  if (turned != size) y = x.with(r.b.concat({y, part(x, 3, turned, size)}, 3));
  return std::vector<ValueId>{r.b.reshape(y, given)};
}

// ---- TensorScatter ----------------------------------------------------------------------------------------

/// Each place of the cache looks whether an update lands there: no scatter, any order gives the same.
Values tensor_scatter(const Rewriting& r) {
  Expr past = r.in(0), update = r.in(1);
  Type t = past.type(), u = update.type();
  auto axis = normalize_axis(r.integer("axis", -2), t.rank());
  if (!axis || *axis == 0 || u.rank() != t.rank())
    return wrong_shapes(r, "the axis is one of the cache, not the first");
  std::size_t a = at(*axis);
  for (std::size_t d = 0; d < t.shape.size(); ++d)
    if (d == a ? t.shape[d].is_const() && u.shape[d].is_const() && u.shape[d].value() > t.shape[d].value()
               : differ(t.shape[d], u.shape[d]))
      return wrong_shapes(r, "the update has the cache's sizes, and at most its length");
  if (u.shape[a].is(0)) return std::vector<ValueId>{past};
  auto number = [&](std::int64_t v) { return past.with(r.b.scalar_int(DType::i64, v)); };
  Expr place = past.with(r.b.iota(t.with(DType::i64), *axis));
  Expr length = size_value(r.b, u.shape[a], DType::i64), room = size_value(r.b, t.shape[a], DType::i64);
  Expr from = place;
  if (r.has(2)) {
    Expr start = r.in(2);
    if (start.type().rank() != 1 || differ(start.type().shape[0], t.shape[0]))
      return wrong_shapes(r, "one write index a batch is needed");
    Dims shape(t.shape.size(), 1);
    shape[0] = start.type().shape[0];
    from = place - start.with(r.b.reshape(start, shape));
  }
  if (attr_string(r.attrs, "mode", "linear") == "circular") {
    Expr rest = call("rem", from, room);
    from = select(rest < number(0), rest + room, rest);
  }
  Expr hit = both(from >= number(0), from < length);
  Expr source = max(min(from, length - number(1)), number(0));
  AG_TRY(Expr written, r.node("GatherElements", {update.id(), source.id()}, {{"axis", *axis}}));
  return std::vector<ValueId>{select(hit, written, past)};
}

// ---- ReverseSequence -----------------------------------------------------------------------

Values reverse_sequence(const Rewriting& r) {
  Expr x = r.in(0), lengths = r.in(1);
  std::int64_t time = r.integer("time_axis", 0), batch = r.integer("batch_axis", 1);
  Type t = x.type();
  if (t.rank() < 2 || time == batch || time < 0 || time > 1 || batch < 0 || batch > 1)
    return wrong_shapes(r, "the time axis and the batch axis are 0 and 1");
  if (lengths.type().rank() != 1 || differ(lengths.type().shape[0], t.shape[at(batch)]))
    return wrong_shapes(r, "one length a batch is needed");
  Dims shape(t.shape.size(), 1);
  shape[at(batch)] = lengths.type().shape[0];
  Expr length = x.with(r.b.reshape(lengths.to(DType::i64), shape)), place(r.b, r.b.iota(t.with(DType::i64), time));
  Expr source = select(place < length, length - place - 1.0, place);
  return r.nodes("GatherElements", {x.id(), source.id()}, {{"axis", time}});
}

// ---- Optionals of plain tensors ---------------------------------------------------------------------------

Values has_element(const Rewriting& r) { return std::vector<ValueId>{r.b.scalar_int(DType::boolean, r.has(0))}; }
Values get_element(const Rewriting& r) { return std::vector<ValueId>{r.operands[0]}; }

// ---- The table --------------------------------------------------------------------------------------------

std::vector<OpInfo> of_language_models() {
  std::vector<OpInfo> all;
  OpInfo o = rewritten<swiglu>({.name = "SwiGLU", .since = 28, .summary = "a sigmoid(alpha a) b"});
  o.operands = {{.name = "A", .dtypes = floats}, {.name = "B", .dtypes = floats}};
  o.attrs = {number_attr("alpha", 1)};
  o.samples = [] {
    return std::vector<OpSample>{sample({"f64[2,3]", "f64[2,3]"}), sample({"f64[4]", "f64[4]"}, {{"alpha", 1.7}})};
  };
  all.push_back(o);

  o = rewritten<rotary>(
      {.name = "RotaryEmbedding", .since = 23, .summary = "pairs of elements turned by an angle of their position"});
  o.operands = {{.name = "X", .dtypes = floats},
                {.name = "cos_cache", .dtypes = floats},
                {.name = "sin_cache", .dtypes = floats},
                {.name = "position_ids", .type_var = "M", .dtypes = set_of(DType::i64), .optional = true}};
  o.attrs = {int_attr("interleaved", 0), int_attr("rotary_embedding_dim", 0), {"num_heads", AttrKind::integer}};
  o.samples = [] {
    std::int64_t places[] = {0, 4, 2, 1, 3, 3};
    OpSample::Operand ids{sample_type("i64[2,3]"), make_literal(Array::of<std::int64_t>(DType::i64, {2, 3}, places))};
    OpSample with_ids = sample({"f64[2,2,3,4]", "f64[5,2]", "f64[5,2]"});
    with_ids.operands.push_back(ids);
    return std::vector<OpSample>{
        with_ids,
        sample({"f64[2,3,8]", "f64[2,3,1]", "f64[2,3,1]"},
               {{"num_heads", std::int64_t{2}}, {"rotary_embedding_dim", std::int64_t{2}}}),
        sample({"f64[1,2,3,4]", "f64[1,3,2]", "f64[1,3,2]"}, {{"interleaved", std::int64_t{1}}})};
  };
  all.push_back(o);

  o = rewritten<tensor_scatter>({.name = "TensorScatter",
                                 .since = 24,
                                 .summary = "a cache with an update written from an index of each batch on"});
  o.operands = {{.name = "past_cache"},
                {.name = "update"},
                {.name = "write_indices", .type_var = "I", .dtypes = set_of(DType::i64), .optional = true}};
  o.attrs = {int_attr("axis", -2), choice_attr("mode", {"linear", "circular"})};
  o.samples = [] {
    OpSample linear = sample({"f64[2,4,3]", "f64[2,2,3]"}), circular = linear;
    linear.operands.push_back(sample_ints({1, 2}));
    circular.operands.push_back(sample_ints({3, 0}));
    circular.attrs = {{"mode", std::string("circular")}};
    return std::vector<OpSample>{linear, circular, sample({"f32[2,4]", "f32[2,3]"}, {{"axis", std::int64_t{-1}}})};
  };
  all.push_back(o);
  return all;
}

std::vector<OpInfo> others() {
  std::vector<OpInfo> all;
  OpInfo o = rewritten<reverse_sequence>(
      {.name = "ReverseSequence", .since = 10, .summary = "the first elements of each batch in reverse order"});
  o.operands = {{.name = "input"}, {.name = "sequence_lens", .type_var = "I", .dtypes = set_of(DType::i64)}};
  o.attrs = {int_attr("time_axis", 0), int_attr("batch_axis", 1)};
  o.samples = [] {
    OpSample plain = sample({"f64[4,3]"}), turned = sample({"f64[2,3,2]"});
    plain.operands.push_back(sample_ints({1, 4, 2}));
    turned.operands.push_back(sample_ints({3, 2}));
    turned.attrs = {{"time_axis", std::int64_t{1}}, {"batch_axis", std::int64_t{0}}};
    return std::vector<OpSample>{plain, turned};
  };
  all.push_back(o);

  o = rewritten<has_element>({.name = "OptionalHasElement", .since = 15, .summary = "whether there is a tensor"});
  o.operands = {{.name = "input", .optional = true}};
  o.results = {{"output", "B"}};
  o.zero_gradient = true;
  o.samples = [] { return std::vector<OpSample>{sample({"f64[2]"}), sample({})}; };
  all.push_back(o);
  o = rewritten<get_element>({.name = "OptionalGetElement", .since = 15, .summary = "the tensor that is there"});
  o.operands = {{.name = "input"}};
  o.samples = [] { return std::vector<OpSample>{sample({"f64[2,3]"})}; };
  all.push_back(o);
  return all;
}

}  // namespace

std::vector<OpInfo> onnx_misc_ops() {
  std::vector<OpInfo> all = of_language_models();
  for (OpInfo& o : others()) all.push_back(std::move(o));
  all.push_back(linear_attention_op());
  return all;
}

}  // namespace ag

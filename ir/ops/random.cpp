// Random numbers from explicit keys: rng_bits is Philox (ir/random.hpp) element by element; distributions are
// composites over it. The key of an ONNX op follows from its `seed`, or without one from its node's number in the
// graph, so that two nodes differ and each run repeats; the optional operand `key` (an extension: a step counter, say)
// is added to it.
#include <bit>
#include <numbers>

#include "ir/ops/along.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"
#include "ir/random.hpp"

namespace ag {
using namespace ops;
namespace {

// ---- rng_bits ---------------------------------------------------------------------------------------------

Types infer_bits(const InferCtx& c) {
  const Type* t = c.attrs().get<Type>("type");
  if (!t || (t->dtype != DType::u32 && t->dtype != DType::u64))
    return c.error(Code::AG2206, "`rng_bits` gives u32 or u64");
  if (c.has(0)) {  // a key for each index of the first axes
    const Dims& keys = c.in(0).shape;
    if (keys.size() > t->shape.size() || !std::equal(keys.begin(), keys.end(), t->shape.begin()))
      return c.error(Code::AG2204,
                     fmt::format("the key of `rng_bits` {} is a scalar, or one for each index of the first axes: {}",
                                 t->str(), c.in(0).str()),
                     {}, {0});
  }
  AG_TRY_(checked_shape(c, t->shape));
  return std::vector<Type>{*t};
}

Result<std::vector<Array>> bits_eval(const EvalCtx& c) {
  Array out(c.node.out().dtype, c.out_shapes[0]);
  const auto base = static_cast<std::uint64_t>(attr_int(c.node.attrs(), "key", 0));
  const std::int64_t each = out.dtype() == DType::u32 ? 4 : 2, keys = c.node.has(0) ? c.in[0].elems() : 1,
                     count = keys ? out.elems() / keys : 0;
  for (std::int64_t row = 0; row < keys; ++row) {
    const std::uint64_t key = base + (c.node.has(0) ? static_cast<std::uint64_t>(c.in[0].get_int(row)) : 0);
    for (std::int64_t i = 0; i < count; i += each) {
      auto words = philox4x32(key, static_cast<std::uint64_t>(i / each));
      for (std::int64_t j = 0; j < each && i + j < count; ++j) {
        auto w = static_cast<std::size_t>(j);
        std::uint64_t bits = each == 4 ? words[w] : words[2 * w] | std::uint64_t{words[2 * w + 1]} << 32;
        out.set_int(row * count + i + j, std::bit_cast<std::int64_t>(bits));
      }
    }
  }
  return one(std::move(out));
}

using Words = std::array<loop::ValueId, 4>;

/// philox4x32 of ir/random.cpp as statements.
Words philox(loop::Builder& b, loop::ValueId key, loop::ValueId counter) {
  auto u32 = [&](std::uint32_t v) { return b.constant_int(DType::u32, v); };
  auto halves = [&](loop::ValueId v) {
    loop::ValueId high = b.op(L::shr, {v, b.constant_int(DType::u64, 32)});
    return std::pair{b.cast(v, DType::u32), b.cast(high, DType::u32)};
  };
  auto [x0, x1] = halves(counter);
  auto [k0, k1] = halves(key);
  Words x{x0, x1, u32(0), u32(0)};
  loop::ValueId m0 = u32(0xD2511F53u), m1 = u32(0xCD9E8D57u);
  for (int round = 0; round < 10; ++round) {
    loop::ValueId a = b.op(L::mulhi, {m0, x[0]}), c = b.op(L::mulhi, {m1, x[2]});
    x = {b.op(L::xor_, {b.op(L::xor_, {c, x[1]}), k0}), b.mul(m1, x[2]), b.op(L::xor_, {b.op(L::xor_, {a, x[3]}), k1}),
         b.mul(m0, x[0])};
    k0 = b.add(k0, u32(0x9E3779B9u));
    k1 = b.add(k1, u32(0xBB67AE85u));
  }
  return x;
}

loop::ValueId bits_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  const Dims shape = c.node().out().shape;
  loop::ValueId flat = b.index(0);
  const std::size_t keyed = c.node().has(0) ? c.node().in(0).shape.size() : 0;
  for (std::size_t d = keyed; d < shape.size(); ++d) flat = b.add(b.mul(flat, b.dim(shape[d])), index[d]);
  flat = b.cast(flat, DType::u64);
  loop::ValueId key = b.constant_int(DType::u64, attr_int(c.node().attrs(), "key", 0));
  if (c.node().has(0)) key = b.add(key, c.operand(0, index.first(keyed)));
  const bool narrow = c.node().out().dtype == DType::u32;
  auto u64 = [&](std::int64_t v) { return b.constant_int(DType::u64, v); };
  Words w = philox(b, key, b.op(L::shr, {flat, u64(narrow ? 2 : 1)}));
  loop::ValueId part = b.cast(b.op(L::and_, {flat, u64(narrow ? 3 : 1)}), DType::u32);
  auto is = [&](std::int64_t k) { return b.op(L::cmp_eq, {part, b.constant_int(DType::u32, k)}); };
  if (narrow) return b.select(is(0), w[0], b.select(is(1), w[1], b.select(is(2), w[2], w[3])));
  loop::ValueId low = b.select(is(0), w[0], w[2]), high = b.select(is(0), w[1], w[3]);
  return b.op(L::or_, {b.cast(low, DType::u64), b.op(L::shl, {b.cast(high, DType::u64), u64(32)})});
}

/// A key for each of the batch.
std::vector<ValueId> bits_batch(Builder& b, const View& n, const BatchArgs& args) {
  Attrs attrs = n.attrs();
  Type t = n.out();
  t.shape.insert(t.shape.begin(), args.size);
  attrs.set("type", t);
  return {b.add_op("rng_bits", {args.operands[0]}, attrs)};
}

// ---- Keys and distributions -------------------------------------------------------------------------------

std::uint64_t mixed(std::uint64_t z) {  // SplitMix64
  z += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

/// The numbers of one node: independent streams 0, 1, ... of its key.
class Source {
 public:
  /// `key`: which operand may hold one.
  Source(Builder& b, const View& n, std::size_t key) : b_(b) {
    if (const double* seed = n.attrs().get<double>("seed"))
      key_ = mixed(std::bit_cast<std::uint64_t>(*seed));
    else if (const auto* number = n.attrs().get<std::int64_t>("seed"))
      key_ = mixed(std::bit_cast<std::uint64_t>(static_cast<double>(*number)));
    else
      key_ = mixed(~static_cast<std::uint64_t>(attr_int(n.attrs(), "ordinal", 0)));
    if (n.has(key)) operand_ = n.operand(key);
  }

  Expr bits(DType t, const Dims& shape, std::uint64_t stream) const {
    Attrs attrs{{"type", Type{t, shape}}, {"key", static_cast<std::int64_t>(stream ? mixed(key_ + stream) : key_)}};
    return {b_, b_.add_op("rng_bits", operand_ ? std::vector<ValueId>{operand_} : std::vector<ValueId>{}, attrs)};
  }
  /// In [0, 1), every multiple of 2^-24 (2^-53 for f64) equally likely; f32 for the narrower types.
  Expr uniform(DType t, const Dims& shape, std::uint64_t stream = 0) const {
    if (t == DType::f64) return call("shift_right", bits(DType::u64, shape, stream), 11).to(t) * 0x1p-53;
    return call("shift_right", bits(DType::u32, shape, stream), 8).to(DType::f32) * 0x1p-24;
  }
  /// Box-Muller, one number of each pair.
  Expr normal(DType t, const Dims& shape) const {
    Expr radius = sqrt(log(1 - uniform(t, shape, 0)) * -2.0);
    return radius * call("cos", uniform(t, shape, 1) * (2 * std::numbers::pi));
  }

 private:
  Builder& b_;
  std::uint64_t key_ = 0;
  ValueId operand_;
};

DType real_of(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

bool scalar_key(const InferCtx& c, std::size_t i) { return !c.has(i) || c.in(i).elems().is(1); }

/// The result's type: a shape attribute or the operand's shape, the attribute `dtype` or the operand's.
Types infer_random(const InferCtx& c) {
  const bool like = c.op().operands.size() == 2;
  Type t{DType::f32, {}};
  if (like) {
    t = c.in(0);
  } else {
    for (std::int64_t d : attr_ints(c.attrs(), "shape")) t.shape.push_back(d);
    AG_TRY_(checked_shape(c, t.shape));
  }
  t.dtype = c.attrs().get_or<DType>("dtype", t.dtype);
  const bool real = c.op().name != "Bernoulli";
  if ((real && !is_float(t.dtype)) || is_storage(t.dtype))
    return c.error(Code::AG2206, fmt::format("`{}` gives floats, not {}", op_title(c), dtype_name(t.dtype)),
                   "set `dtype`");
  if (!scalar_key(c, c.op().operands.size() - 1))
    return c.error(Code::AG2204, fmt::format("the key of `{}` is one number", op_title(c)), {});
  return std::vector<Type>{std::move(t)};
}

std::vector<ValueId> random_normal(Builder& b, const View& n) {
  Type t = n.out();
  Source source(b, n, n.node().op->operands.size() - 1);
  Expr x = source.normal(t.dtype, t.shape);
  return {(x * attr_number(n.attrs(), "scale", 1) + attr_number(n.attrs(), "mean", 0)).to(t.dtype)};
}

std::vector<ValueId> random_uniform(Builder& b, const View& n) {
  Type t = n.out();
  double low = attr_number(n.attrs(), "low", 0), high = attr_number(n.attrs(), "high", 1);
  Source source(b, n, n.node().op->operands.size() - 1);
  return {(source.uniform(t.dtype, t.shape) * (high - low) + low).to(t.dtype)};
}

std::vector<ValueId> bernoulli(Builder& b, const View& n) {
  Type t = n.out();
  Expr p(b, n.operand(0));
  DType real = real_of(p.dtype());
  return {(Source(b, n, 1).uniform(real, t.shape) < p.to(real)).to(t.dtype)};
}

// ---- Multinomial ------------------------------------------------------------------------------------------

Types infer_multinomial(const InferCtx& c) {
  if (c.in(0).rank() != 2)
    return c.error(Code::AG2204, "`Multinomial` needs [batch, class] scores, not " + c.in(0).str(), {}, {0});
  DType t = c.attrs().get_or<DType>("dtype", DType::i32);
  std::int64_t samples = attr_int(c.attrs(), "sample_size", 1);
  if ((t != DType::i32 && t != DType::i64) || samples < 0)
    return c.error(Code::AG2206, "`Multinomial` gives i32 or i64, and as many samples as `sample_size`");
  if (c.in(0).shape[1].is(0)) return c.error(Code::AG2206, "`Multinomial` of no classes", {}, {0});
  return std::vector<Type>{{t, {c.in(0).shape[0], samples}}};
}

/// The class in which a uniform number falls when their probabilities are laid end to end.
std::vector<ValueId> multinomial(Builder& b, const View& n) {
  Type t = n.out();
  Expr x = Expr(b, n.operand(0));
  x = x.to(real_of(x.dtype()));
  Expr top = reduce("reduce_max", x, {1}, true);
  Expr ends(b, b.add_op("cumulative_sum", {exp(x - top).id()}, {{"axis", std::int64_t{1}}}));
  Dim classes = x.type().shape[1];
  Expr total = slice_along(ends, 1, classes - Dim(1), classes);
  Expr u = Source(b, n, 1).uniform(x.dtype(), t.shape) * total;
  Expr place(b, b.add_op("searchsorted", {ends.id(), u.id()}, {{"right", true}}));
  Expr last = size_value(b, classes - Dim(1), DType::i64);
  return {min(place, last).to(t.dtype)};
}

// ---- Dropout ----------------------------------------------------------------------------------------------

Types infer_dropout(const InferCtx& c) {
  for (std::size_t i : {std::size_t{1}, std::size_t{2}, std::size_t{3}})
    if (c.has(i) && !c.in(i).elems().is(1))
      return c.error(Code::AG2204,
                     fmt::format("`{}` of `Dropout` is one value: {} is {}", c.op().operands[i].name,
                                 operand_name(c, i), c.in(i).str()),
                     {}, {i});
  return std::vector<Type>{c.in(0), c.in(0).with(DType::boolean)};
}

/// Training: an element is kept where a uniform number is at least `ratio`, and divided by 1 - ratio.
std::vector<ValueId> dropout(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  Type t = x.type();
  auto mode = known_constants(n, 2);
  if (!n.has(2) || (mode && (*mode)[0] == 0)) return {x, b.ones(t.with(DType::boolean))};
  DType real = real_of(t.dtype);
  Expr ratio = n.has(1) ? Expr(b, b.reshape(n.operand(1), {})).to(real) : Expr(b, b.scalar(real, 0.5));
  Expr keep = Source(b, n, 3).uniform(real, t.shape) >= ratio, scale = 1 / (1 - ratio);
  if (!mode) {
    Expr training(b, b.reshape(n.operand(2), {}));
    keep = either(keep, call("not", training));
    scale = select(training, scale, 1);
  }
  return {select(keep, x * scale.to(t.dtype), 0), keep};
}

// ---- The table --------------------------------------------------------------------------------------------

OperandSpec key_operand() { return {.name = "key", .type_var = "K", .dtypes = set_of(DType::u64), .optional = true}; }
AttrSpec ordinal_attr() {
  return {"ordinal", AttrKind::integer, false, "number of the node, set when it is made: its key if there is no seed"};
}

OpInfo random_op(std::string_view name, int since, std::string_view summary, bool like,
                 std::vector<ValueId> (*decompose)(Builder&, const View&)) {
  OpInfo o = composite({.name = name, .since = since, .summary = summary});
  if (like) o.operands.push_back({.name = "input", .dtypes = any_dtype});
  o.operands.push_back(key_operand());
  o.results = {{"output", "R"}};
  o.attrs = {{"dtype", AttrKind::dtype}, {"seed", AttrKind::number}, ordinal_attr()};
  if (!like) o.attrs.push_back({"shape", AttrKind::ints, true});
  o.infer = infer_random;
  o.decompose = decompose;
  o.zero_gradient = true;
  return o;
}

std::vector<OpSample> shape_samples() {
  return {sample({}, {{"shape", Ints{3, 5}}, {"seed", 1.5}}), sample({}, {{"shape", Ints{17}}, {"dtype", DType::f64}}),
          sample({}, {{"shape", Ints{2, 3}}, {"dtype", DType::f16}}),
          sample({}, {{"shape", Ints{0, 3}}, {"dtype", DType::bf16}}),
          OpSample{{sample_operand("u64[]", 0, 9)}, {{"shape", Ints{9}}}}};
}
std::vector<OpSample> like_samples() {
  return in_dtypes({sample({"f32[3,5]"}, {{"seed", 2.0}}), sample({"f64[2,3]"}), sample({"bf16[3]"}),
                    OpSample{{sample_operand("f16[4]"), sample_operand("u64[]", 0, 9)}, {}}},
                   sample({"i32[7]"}, {{"dtype", DType::f32}}, 0, 1), any_dtype);
}

std::vector<OpSample> dropout_samples() {
  auto training = [](std::string_view type, double ratio, Attrs attrs) {
    OpSample s = sample({type}, std::move(attrs));
    s.operands.push_back({sample_type("f64[]"), make_literal(Array::scalar(DType::f64, ratio))});
    s.operands.push_back({sample_type("bool[]"), make_literal(Array::scalar(DType::boolean, 1))});
    return s;
  };
  OpSample dynamic = sample({"f64[8]"}, {{"seed", std::int64_t{3}}});
  dynamic.operands.push_back({sample_type("f64[]"), make_literal(Array::scalar(DType::f64, 0.25))});
  dynamic.operands.push_back(sample_operand("bool[]"));
  return {sample({"f64[2,3]"}),
          sample({"f32[3]", "f32[]"}),
          training("f64[4,6]", 0.5, {{"seed", std::int64_t{7}}}),
          training("f64[9]", 0, {}),
          training("f16[12]", 0.75, {}),
          training("bf16[12]", 0.25, {}),
          dynamic};
}

OpInfo bits_op() {
  OpInfo o{.name = "rng_bits",
           .lower_class = LowerClass::index,
           .summary = "random bits: words of Philox4x32-10 under a key, in row-major order",
           .zero_gradient = true};
  o.operands = {key_operand()};
  o.results = {{"bits", "B"}};
  o.attrs = {{"type", AttrKind::type, true, "u32 or u64, and the shape"},
             int_attr("key", 0, "added to the operand; its 64 bits")};
  o.infer = infer_bits;
  o.eval = bits_eval;
  o.element = bits_element;
  o.batch = bits_batch;
  o.cost = 80;
  o.samples = [] {
    return std::vector<OpSample>{sample({}, {{"type", sample_type("u32[3,7]")}, {"key", std::int64_t{-5}}}),
                                 sample({}, {{"type", sample_type("u64[11]")}, {"key", std::int64_t{1} << 40}}),
                                 sample({}, {{"type", sample_type("u32[0]")}}),
                                 OpSample{{sample_operand("u64[]", 0, 1000)}, {{"type", sample_type("u32[4,2]")}}},
                                 OpSample{{sample_operand("u64[3]", 0, 9)}, {{"type", sample_type("u64[3,5]")}}}};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> random_ops() {
  OpInfo normal = random_op("RandomNormal", 1, "normally distributed numbers", false, random_normal),
         uniform = random_op("RandomUniform", 1, "numbers in [low, high)", false, random_uniform),
         normal_like = random_op("RandomNormalLike", 1, "normally distributed numbers", true, random_normal),
         uniform_like = random_op("RandomUniformLike", 1, "numbers in [low, high)", true, random_uniform),
         coin = random_op("Bernoulli", 15, "1 with the probability that the element is", true, bernoulli);
  for (OpInfo* o : {&normal, &normal_like})
    o->attrs.insert(o->attrs.end(), {number_attr("mean", 0), number_attr("scale", 1)});
  for (OpInfo* o : {&uniform, &uniform_like})
    o->attrs.insert(o->attrs.end(), {number_attr("low", 0), number_attr("high", 1)});
  for (OpInfo* o : {&normal, &uniform}) o->samples = shape_samples;
  for (OpInfo* o : {&normal_like, &uniform_like}) o->samples = like_samples;
  coin.operands[0].dtypes = floats;
  coin.samples = [] {
    return in_dtypes(
        {sample({"f32[3,5]"}, {{"seed", 1.0}}, 0, 1), sample({"f16[4]"}, {{"dtype", DType::boolean}}, 0, 1),
         sample({"f32[4]"}, {{"dtype", DType::i32}}, 0, 1)},
        sample({"f64[9]"}, {}, 0, 1), floats);
  };

  OpInfo classes =
      composite({.name = "Multinomial", .since = 7, .summary = "classes drawn by their log-probabilities"});
  classes.operands = {{.name = "input", .dtypes = floats}, key_operand()};
  classes.results = {{"output", "I"}};
  classes.attrs = {{"dtype", AttrKind::dtype}, int_attr("sample_size", 1), {"seed", AttrKind::number}, ordinal_attr()};
  classes.infer = infer_multinomial;
  classes.decompose = multinomial;
  classes.zero_gradient = true;
  classes.samples = [] {
    return in_dtypes({sample({"f64[3,1]"}, {{"dtype", DType::i64}, {"seed", 4.0}})},
                     sample({"f32[2,5]"}, {{"sample_size", std::int64_t{6}}}), floats);
  };

  OpInfo drop =
      composite({.name = "Dropout",
                 .since = 12,
                 .summary = "in training mode zero with probability `ratio`, scaled up else; the mask of those kept"});
  drop.operands = {{.name = "data", .dtypes = floats},
                   {.name = "ratio", .type_var = "R", .dtypes = floats, .optional = true},
                   {.name = "training_mode", .type_var = "B", .dtypes = bools, .optional = true},
                   key_operand()};
  drop.results = {{"output"}, {"mask", "B", true}};
  drop.attrs = {{"seed", AttrKind::integer}, ordinal_attr()};
  drop.infer = infer_dropout;
  drop.decompose = dropout;
  drop.samples = dropout_samples;
  return {bits_op(), normal, uniform, normal_like, uniform_like, coin, classes, drop};
}

}  // namespace ag

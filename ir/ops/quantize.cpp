// Quantisation to few bits and back, and products of quantised matrices (ONNX's definitions; rounding is to nearest,
// ties to even). Quantised values are integers or storage floats, so gradients end there; scales keep theirs.
#include "ir/ops/families.hpp"
#include "ir/ops/rewritten.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
using Values = Result<std::vector<ValueId>>;

constexpr DTypeSet integers = set_of(DType::i8) | set_of(DType::u8) | set_of(DType::i16) | set_of(DType::u16) |
                              set_of(DType::i4) | set_of(DType::u4) | set_of(DType::i2) | set_of(DType::u2);
constexpr DTypeSet float8s =
    set_of(DType::f8e4m3fn) | set_of(DType::f8e4m3fnuz) | set_of(DType::f8e5m2) | set_of(DType::f8e5m2fnuz);
constexpr DTypeSet quantised = integers | float8s | set_of(DType::f4e2m1);
constexpr DTypeSet scales = floats | set_of(DType::f8e8m0);

struct Limits {
  std::int64_t low, high;
};
Limits limits(DType t) {
  switch (t) {
    case DType::i8: return {-128, 127};
    case DType::i16: return {-32768, 32767};
    case DType::u16: return {0, 65535};
    case DType::i4: return {-8, 7};
    case DType::u4: return {0, 15};
    case DType::i2: return {-2, 1};
    case DType::u2: return {0, 3};
    default: return {0, 255};
  }
}

Expr cast(Expr x, DType t) { return x.to(t); }

// ---- Scales and zero points -------------------------------------------------------------------------------

/// A scale or zero point ready to meet x: one for all, one for each place along an axis, or one a block of that axis.
Result<Expr> spread(const Rewriting& r, std::size_t i) {
  Expr v = r.in(i);
  Type t = v.type(), x = r.type(0);
  if (t.rank() == 0) return v;
  if (t.rank() == 1 && t.shape[0].is(1)) return v.with(r.b.reshape(v, {}));
  auto axis = normalize_axis(x.rank() == 1 ? 0 : r.integer("axis", 1), x.rank());
  if (!axis)
    return r.fail(Code::AG2202, fmt::format("`{}` has no axis {} in {}", r.op.onnx, r.integer("axis", 1), x.str()));
  std::size_t a = at(*axis);
  std::int64_t block = r.integer("block_size");
  auto mismatch = [&] {
    return r.fail(Code::AG2208, fmt::format("`{}`: a scale or zero point {} does not fit axis {} of {}", r.op.onnx,
                                            t.str(), *axis, x.str()));
  };
  if (block < 0 || block > std::int64_t{1} << 31) return mismatch();
  if (block == 0) {
    if (t.rank() != 1 || (t.shape[0].is_const() && x.shape[a].is_const() && t.shape[0] != x.shape[a]))
      return mismatch();
    Dims shape(x.shape.size(), 1);
    shape[a] = t.shape[0];
    return v.with(r.b.reshape(v, shape));
  }
  if (t.rank() != x.rank()) return mismatch();
  for (std::size_t d = 0; d < x.shape.size(); ++d) {
    Dim want = d == a ? ceildiv(x.shape[d], block) : x.shape[d];
    if (want.is_const() && t.shape[d].is_const() && want != t.shape[d]) return mismatch();
  }
  // Each scale `block` times, then what is too much is cut off.
  Dims split = with_unit_axis(t.shape, a + 1), low(x.shape.size(), 0);
  split[a + 1] = block;
  Ints dims;
  for (std::size_t d = 0; d < t.shape.size(); ++d) dims.push_back(static_cast<std::int64_t>(d + (d > a)));
  Dims joined = t.shape;
  joined[a] = t.shape[a] * Dim(block);
  Expr repeated = v.with(r.b.reshape(r.b.broadcast_in_dim(v, split, dims), joined));
  joined[a] = x.shape[a];
  return repeated.with(r.b.slice(repeated, low, joined));
}

/// Rounded to integers and shifted by the zero point, within the limits of dtype t.
Expr to_integers(Expr x, const Expr* zero, DType t) {
  DType real = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  // Beyond any limit, zero point included, and exact as i32.
  Expr r = cast(call("round", x), real);
  Expr q = cast(min(max(r, r.lit(-0x1p20)), r.lit(0x1p20)), DType::i32);
  if (zero) q = q + cast(*zero, DType::i32);
  Limits l = limits(t);
  auto bound = [&](std::int64_t v) { return q.with(q.builder().scalar_int(DType::i32, v)); };
  return cast(min(max(q, bound(l.low)), bound(l.high)), t);
}

Expr to_floats(Expr x, DType t, bool saturate) {
  if (saturate) return cast(x, t);
  return x.with(x.builder().add_op("convert", {x.id()}, {{"to", t}, {"saturate", std::int64_t{0}}}));
}

// ---- QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear ----------------------------------------------

Values quantize(const Rewriting& r) {
  DType t = r.has(2) ? r.type(2).dtype : r.attrs.get_or<DType>("output_dtype", DType::u8);
  if (!quantised.has(t) || t != r.attrs.get_or<DType>("output_dtype", t))
    return r.fail(Code::AG2101, fmt::format("`QuantizeLinear` to {}: not a quantised type, or not the zero point's",
                                            dtype_name(r.attrs.get_or<DType>("output_dtype", t))));
  Expr x = r.in(0), zero;
  AG_TRY(Expr scale, spread(r, 1));
  if (r.has(2)) {
    AG_TRY(zero, spread(r, 2));
  }
  // The precision of the division: as asked for, else the scale's.
  DType given = scale.dtype() == DType::f8e8m0 ? x.dtype() : scale.dtype();
  DType precision = r.attrs.get_or<DType>("precision", given);
  if (!is_float(precision)) precision = DType::f64;
  Expr ratio = cast(x, precision) / cast(scale, precision);
  Type out = ratio.type();
  if (out.shape != x.type().shape)
    return r.fail(Code::AG2201,
                  fmt::format("`QuantizeLinear`: the scale {} does not fit {}", r.type(1).str(), r.type(0).str()));
  if (integers.has(t)) return std::vector<ValueId>{to_integers(ratio, r.has(2) ? &zero : nullptr, t)};
  if (t == DType::f4e2m1 && r.has(2)) ratio = ratio + cast(zero, precision);
  return std::vector<ValueId>{to_floats(ratio, t, r.integer("saturate", 1) != 0)};
}

Values dequantize(const Rewriting& r) {
  Expr x = r.in(0), zero;
  AG_TRY(Expr scale, spread(r, 1));
  if (r.has(2)) {
    AG_TRY(zero, spread(r, 2));
  }
  DType given = scale.dtype() == DType::f8e8m0 ? DType::f32 : scale.dtype();
  DType t = r.attrs.get_or<DType>("output_dtype", given);
  DType wide = x.dtype() == DType::i32 || given == DType::f64 ? DType::f64 : DType::f32;
  // Storage floats have a zero point for form's sake, which is 0.
  bool shifted = r.has(2) && !float8s.has(x.dtype());
  Expr value = cast(x, wide);
  if (shifted && integers.has(x.dtype()))
    value = cast(cast(x, DType::i32) - cast(zero, DType::i32), wide);
  else if (shifted)
    value = value - cast(zero, wide);
  return std::vector<ValueId>{cast(value * cast(scale, wide), t)};
}

/// u8 over the range of x, which is stretched to take in 0.
Values dynamic_quantize(const Rewriting& r) {
  Expr x = r.in(0), zero = x.lit(0);
  Ints axes = iota_ints(x.type().rank());
  Expr high = max(reduce("reduce_max", x, axes), zero), low = min(reduce("reduce_min", x, axes), zero);
  Expr scale = select(high == low, 1, high - low) / 255;
  Expr offset = call("round", min(max(zero - low / scale, zero), x.lit(255)));
  Expr y = min(max(call("round", x / scale) + offset, zero), x.lit(255));
  return std::vector<ValueId>{cast(y, DType::u8), scale, cast(offset, DType::u8)};
}

// ---- Products ---------------------------------------------------------------------------------------------

/// A scale or zero point of a factor: a vector is one a row (of the left factor) or one a column.
Expr per_row(Expr v, bool rows) {
  Type t = v.type();
  if (!rows || t.rank() != 1 || t.shape[0].is(1)) return v;
  return v.with(v.builder().reshape(v, {t.shape[0], 1}));
}

/// Quantised integers as i32, storage floats as f32, less the zero point.
Result<Expr> centred(const Rewriting& r, std::size_t i, std::size_t zero, bool rows) {
  DType wide = integers.has(r.type(i).dtype) ? DType::i32 : DType::f32;
  Expr x = cast(r.in(i), wide);
  if (!r.has(zero) || wide != DType::i32) return x;
  return r.node("sub", {x.id(), cast(per_row(r.in(zero), rows && x.type().rank() > 1), wide).id()});
}

Values matmul_integer(const Rewriting& r) {
  AG_TRY(Expr a, centred(r, 0, 2, true));
  AG_TRY(Expr b, centred(r, 1, 3, false));
  return r.nodes("MatMul", {a.id(), b.id()});
}

Values quantised_matmul(const Rewriting& r) {
  AG_TRY(Expr a, centred(r, 0, 2, true));
  AG_TRY(Expr b, centred(r, 3, 5, false));
  if (a.dtype() != b.dtype()) a = cast(a, DType::f32), b = cast(b, DType::f32);
  AG_TRY(Expr product, r.node("MatMul", {a.id(), b.id()}));
  auto scale = [&](std::size_t i, bool rows) { return cast(per_row(r.in(i), rows), DType::f32); };
  bool rows = r.type(0).rank() > 1;
  AG_TRY(Expr factor, r.node("mul", {scale(1, rows).id(), scale(4, false).id()}));
  AG_TRY(factor, r.node("div", {factor.id(), scale(6, rows).id()}));
  AG_TRY(Expr y, r.node("mul", {cast(product, DType::f32).id(), factor.id()}));
  DType t = r.type(7).dtype;
  if (y.type().shape != product.type().shape)
    return r.fail(Code::AG2201, "`QLinearMatMul`: a scale does not fit the product");
  if (!integers.has(t)) return std::vector<ValueId>{to_floats(y, t, true)};
  Expr zero = per_row(r.in(7), rows);
  if (auto both = broadcast_shapes(y.type().shape, zero.type().shape); !both || *both != y.type().shape)
    return r.fail(Code::AG2201, "`QLinearMatMul`: the zero point does not fit the product");
  return std::vector<ValueId>{to_integers(y, &zero, t)};
}

// ---- The table --------------------------------------------------------------------------------------------

OpSample::Operand scale_operand(std::string_view type) { return sample_operand(type, 0.1, 0.5); }

OpInfo quantize_op() {
  OpInfo o = rewritten<quantize>(
      {.name = "QuantizeLinear", .since = 10, .summary = "round(x / scale) + zero point, saturated to few bits"});
  o.operands = {{.name = "x", .dtypes = floats | set_of(DType::i32)},
                {.name = "y_scale", .type_var = "S", .dtypes = scales | set_of(DType::i32)},
                {.name = "y_zero_point", .type_var = "Z", .dtypes = quantised, .optional = true}};
  o.results = {{"y", "Z"}};
  o.attrs = {int_attr("axis", 1),
             int_attr("saturate", 1),
             int_attr("block_size", 0),
             {"output_dtype", AttrKind::dtype},
             {"precision", AttrKind::dtype}};
  o.zero_gradient = true;
  o.samples = [] {
    OpSample blocks{{sample_operand("f32[2,5]", -9, 9), scale_operand("f32[2,3]"), sample_operand("u16[2,3]", 0, 9)},
                    {{"block_size", std::int64_t{2}}}};
    return std::vector<OpSample>{
        OpSample{{sample_operand("f32[3,4]", -90, 90), scale_operand("f32[]"), sample_operand("u8[]", 100, 140)}, {}},
        OpSample{{sample_operand("f32[2,3]", -9, 9), scale_operand("f32[3]"), sample_operand("i8[3]", -9, 9)}, {}},
        OpSample{{sample_operand("f16[4]", -9, 9), scale_operand("f16[]")}, {{"output_dtype", DType::i16}}},
        blocks,
        OpSample{{sample_operand("f32[2,3]", -9, 9), scale_operand("f32[3]"), sample_operand("i4[3]", -2, 2)}, {}},
        OpSample{{sample_operand("f32[4]", -9, 9), scale_operand("f32[]")}, {{"output_dtype", DType::f8e4m3fn}}}};
  };
  return o;
}

OpInfo dequantize_op() {
  OpInfo o = rewritten<dequantize>(
      {.name = "DequantizeLinear", .since = 10, .summary = "(x - zero point) scale: quantised values as real ones"});
  o.operands = {{.name = "x", .dtypes = quantised | set_of(DType::i32)},
                {.name = "x_scale", .type_var = "S", .dtypes = scales},
                {.name = "x_zero_point", .dtypes = quantised | set_of(DType::i32), .optional = true}};
  o.results = {{"y", "S"}};
  o.attrs = {int_attr("axis", 1), int_attr("block_size", 0), {"output_dtype", AttrKind::dtype}};
  o.samples = [] {
    return std::vector<OpSample>{
        OpSample{{sample_operand("u8[3,4]", 0, 255), scale_operand("f32[]"), sample_operand("u8[]", 100, 140)}, {}},
        OpSample{{sample_operand("i8[2,3]", -9, 9), scale_operand("f64[3]"), sample_operand("i8[3]", -9, 9)}, {}},
        OpSample{{sample_operand("i32[4]", -999, 999), scale_operand("f16[]")}, {}},
        OpSample{{sample_operand("u16[2,5]", 0, 99), scale_operand("f32[2,3]"), sample_operand("u16[2,3]", 0, 9)},
                 {{"block_size", std::int64_t{2}}}},
        OpSample{{sample_operand("f8e5m2[2,3]"), scale_operand("f64[3]")}, {}},
        OpSample{{sample_operand("u4[4]", 0, 15), scale_operand("f32[]"), sample_operand("u4[]", 3, 9)}, {}}};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> quantize_ops() {
  std::vector<OpInfo> all = {quantize_op(), dequantize_op()};
  OpInfo o = rewritten<dynamic_quantize>({.name = "DynamicQuantizeLinear",
                                          .since = 11,
                                          .summary = "quantised to u8 over its own range; the scale and zero point"});
  o.operands = {{.name = "x", .dtypes = floats}};
  o.results = {{"y", "Z"}, {"y_scale"}, {"y_zero_point", "Z"}};
  o.samples = [] { return std::vector<OpSample>{sample({"f32[3,4]"}), sample({"f32[5]"}, {}, 1, 3)}; };
  all.push_back(o);

  DTypeSet bytes = set_of(DType::i8) | set_of(DType::u8);
  o = rewritten<matmul_integer>(
      {.name = "MatMulInteger", .since = 10, .summary = "product of quantised matrices, in i32"});
  o.operands = {{.name = "A", .type_var = "T1", .dtypes = bytes},
                {.name = "B", .type_var = "T2", .dtypes = bytes},
                {.name = "a_zero_point", .type_var = "T1", .dtypes = bytes, .optional = true},
                {.name = "b_zero_point", .type_var = "T2", .dtypes = bytes, .optional = true}};
  o.results = {{"Y", "T3"}};
  o.samples = [] {
    return std::vector<OpSample>{OpSample{{sample_operand("u8[2,3]", 0, 255), sample_operand("i8[3,4]", -9, 9),
                                           sample_operand("u8[2]", 0, 9), sample_operand("i8[4]", -9, 9)},
                                          {}},
                                 OpSample{{sample_operand("u8[3]", 0, 9), sample_operand("u8[2,3,4]", 0, 9)}, {}}};
  };
  all.push_back(o);

  o = rewritten<quantised_matmul>(
      {.name = "QLinearMatMul", .since = 10, .summary = "product of quantised matrices, quantised again"});
  for (auto [name, var] : {std::pair{"a", "T1"}, {"b", "T2"}, {"y", "T3"}}) {
    DTypeSet set = bytes | float8s;
    std::string_view n = name;
    if (n != "y") o.operands.push_back({.name = name, .type_var = var, .dtypes = set});
    o.operands.push_back({.name = n == "a"   ? "a_scale"
                                  : n == "b" ? "b_scale"
                                             : "y_scale",
                          .type_var = "S",
                          .dtypes = floats});
    o.operands.push_back({.name = n == "a"   ? "a_zero_point"
                                  : n == "b" ? "b_zero_point"
                                             : "y_zero_point",
                          .type_var = var,
                          .dtypes = set});
  }
  o.results = {{"y", "T3"}};
  o.zero_gradient = true;
  o.samples = [] {
    auto q = [](std::string_view t) { return sample_operand(t, 0, 9); };
    return std::vector<OpSample>{OpSample{{q("u8[2,3]"), scale_operand("f32[]"), q("u8[]"), q("i8[3,4]"),
                                           scale_operand("f32[4]"), q("i8[4]"), scale_operand("f32[]"), q("u8[]")},
                                          {}}};
  };
  all.push_back(o);
  return all;
}

}  // namespace ag

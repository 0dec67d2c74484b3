#include "ir/loop/kernel.hpp"

#include <bit>
#include <cmath>
#include <limits>

#include "ir/base/half.hpp"

namespace ag::loop {
namespace {

constexpr int varies = -1;
constexpr OpDesc op_table[] = {
#define AG_LOOP_OP(name, operands, cls) {#name, operands == -1 ? varies : operands, OpClass::cls},
#include "ir/loop/ops.def"
#undef AG_LOOP_OP
};

/// `and_` is written `and`: the underscore only avoids C++'s keywords.
constexpr std::string_view text_name(std::string_view name) {
  if (name.ends_with('_')) name.remove_suffix(1);
  return name;
}

constexpr auto make_ops() {
  std::array<OpDesc, std::size(op_table)> ops{};
  for (std::size_t i = 0; i < ops.size(); ++i)
    ops[i] = {text_name(op_table[i].name), op_table[i].operands, op_table[i].cls};
  return ops;
}
constexpr auto ops = make_ops();

int dtype_bits(DType t) { return static_cast<int>(dtype_bytes(t)) * 8; }

std::uint64_t low_bits(std::uint64_t v, int bits) { return bits == 64 ? v : v & ((std::uint64_t{1} << bits) - 1); }

/// A float's bits from a double, rounded once.
std::uint64_t float_bits(DType t, double v) {
  switch (t) {
    case DType::f64: return std::bit_cast<std::uint64_t>(v);
    case DType::f32: return std::bit_cast<std::uint32_t>(static_cast<float>(v));
    case DType::f16: return std::bit_cast<std::uint16_t>(static_cast<f16>(v));
    default: return bf16(v).bits;
  }
}

/// Truncates and saturates; NaN gives 0.
std::uint64_t saturate(DType t, double v) {
  if (std::isnan(v)) return 0;
  int bits = dtype_bits(t);
  bool is_signed = is_signed_int(t);
  double high = std::ldexp(1.0, is_signed ? bits - 1 : bits), low = is_signed ? -high : 0.0;
  std::uint64_t max_bits = low_bits(~std::uint64_t{0}, is_signed ? bits - 1 : bits);
  std::uint64_t min_bits = is_signed ? std::uint64_t{1} << (bits - 1) : 0;
  if (v >= high) return max_bits;
  if (v <= low) return min_bits;
  if (is_signed) return low_bits(static_cast<std::uint64_t>(static_cast<std::int64_t>(v)), bits);
  return static_cast<std::uint64_t>(std::trunc(v));
}

}  // namespace

const OpDesc& describe(Op op) { return ops[static_cast<std::size_t>(op)]; }

std::string_view mapping_name(Mapping m) {
  constexpr std::string_view names[] = {"serial", "parallel", "tile",    "vector",  "rows",    "unrolled", "grid_x",
                                        "grid_y", "grid_z",   "block_x", "block_y", "block_z", "lane"};
  return names[static_cast<std::size_t>(m)];
}

Op reduce_op(ReduceKind kind) {
  constexpr Op table[] = {Op::add, Op::mul, Op::min, Op::max, Op::and_, Op::or_};
  return table[static_cast<std::size_t>(kind)];
}

std::uint64_t reduce_identity(ReduceKind kind, DType t) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  switch (kind) {
    // -0 + x = x for every x; +0 would turn a sum of nothing but -0 into +0.
    case ReduceKind::sum: return is_float(t) ? constant_bits(t, -0.0) : 0;
    case ReduceKind::prod: return constant_bits(t, 1.0);
    case ReduceKind::min: return t == DType::boolean ? 1 : constant_bits(t, inf);
    case ReduceKind::max: return t == DType::boolean ? 0 : constant_bits(t, -inf);
    case ReduceKind::and_: return t == DType::boolean ? 1 : low_bits(~std::uint64_t{0}, dtype_bits(t));
    case ReduceKind::or_: return 0;
  }
  return 0;
}

std::size_t Kernel::param_count() const {
  std::size_t n = 0;
  while (n < buffers.size() && buffers[n].scope == Scope::param) ++n;
  return n;
}

std::uint64_t constant_bits(DType t, double v) {
  if (t == DType::boolean) return v != 0;
  return is_float(t) ? float_bits(t, v) : saturate(t, v);
}

std::uint64_t constant_bits(DType t, std::int64_t v) {
  if (t == DType::boolean) return v != 0;
  if (!is_float(t)) return low_bits(static_cast<std::uint64_t>(v), dtype_bits(t));
  if (t == DType::f32) return std::bit_cast<std::uint32_t>(static_cast<float>(v));
  double d = static_cast<double>(v);
  if (t == DType::f64) return std::bit_cast<std::uint64_t>(d);
  // Round to odd first, so that the second rounding is the only one that counts. 2^63 itself is exact enough.
  if (std::fabs(d) < 0x1p63 && static_cast<std::int64_t>(d) != v) {
    bool over = v > 0 ? static_cast<std::int64_t>(d) > v : static_cast<std::int64_t>(d) < v;
    auto bits = std::bit_cast<std::uint64_t>(d) - (over ? 1 : 0);
    d = std::bit_cast<double>(bits | 1);
  }
  return float_bits(t, d);
}

double bits_to_double(DType t, std::uint64_t bits) {
  switch (t) {
    case DType::f64: return std::bit_cast<double>(bits);
    case DType::f32: return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    case DType::f16: return static_cast<double>(std::bit_cast<f16>(static_cast<std::uint16_t>(bits)));
    case DType::bf16: {
      bf16 x;
      x.bits = static_cast<std::uint16_t>(bits);
      return static_cast<float>(x);
    }
    case DType::boolean: return bits != 0;
    case DType::u64: return static_cast<double>(bits);
    default: return static_cast<double>(bits_to_int(t, bits));
  }
}

std::int64_t bits_to_int(DType t, std::uint64_t bits) {
  if (t == DType::boolean) return bits != 0;
  if (is_float(t)) return static_cast<std::int64_t>(saturate(DType::i64, bits_to_double(t, bits)));
  int width = dtype_bits(t);
  if (is_signed_int(t) && width < 64) {
    int shift = 64 - width;
    return static_cast<std::int64_t>(bits << shift) >> shift;
  }
  return static_cast<std::int64_t>(low_bits(bits, width));
}

}  // namespace ag::loop

// Random numbers from a key that is an operand: what a generator draws, the same in a compiled graph and at once.
#include <numbers>

#include "frontend/trace/recipes.hpp"

namespace ag::rec::r {
namespace {

using Values = std::vector<ValueId>;
using In = std::span<const ValueId>;

/// Words of one stream: under the key, which the trip numbers of the loops around move, each loop by an odd number of
/// its own.
struct Source {
  Emit& e;
  ValueId key;
  std::int64_t draw;
  Dims shape;

  Source(Emit& emit, In in, Params p, std::size_t first_trip) : e(emit), key(in[0]), draw(p[0]) {
    std::uint64_t step = 0xd1b54a32d192ed03ull;
    for (std::size_t i = first_trip; i < in.size(); ++i, step = step * 0x2545f4914f6cdd1dull + 2) {
      ValueId trip = e.b().convert(in[i], DType::u64);
      key = e.op("add", {key, e.op("mul", {trip, e.b().scalar_int(DType::u64, static_cast<std::int64_t>(step))})});
    }
  }

  ValueId words(DType t, std::uint64_t stream) const {
    std::uint64_t k = static_cast<std::uint64_t>(draw) * key_step + stream * 0xa0761d6478bd642full;
    return e.op("rng_bits", {key}, {{"type", Type{t, shape}}, {"key", static_cast<std::int64_t>(k)}});
  }
  ValueId scalar(DType t, double v) const { return e.b().broadcast_to(e.b().scalar(t, v), shape); }
  ValueId shift(ValueId v, std::int64_t by) const {
    return e.op("shift_right", {v, e.b().broadcast_to(e.b().scalar_int(e.type(v).dtype, by), shape)});
  }
  /// In [0, 1): every multiple of 2^-24 (f64: 2^-53) is equally likely.
  ValueId uniform(DType real, std::uint64_t stream = 0) const {
    const bool wide = real == DType::f64;
    ValueId w = shift(words(wide ? DType::u64 : DType::u32, stream), wide ? 11 : 8);
    return e.op("mul", {e.b().convert(w, real), scalar(real, wide ? 0x1p-53 : 0x1p-24)});
  }
};

/// p: draw, T, distribution, a, b, like?, sizes. Operands: key, [what gives the shape,] trip numbers.
Values build_random(Emit& e, In in, Params p) {
  const auto t = static_cast<DType>(p[1]);
  const bool like = p[5] != 0;
  Source s(e, in, p, like ? 2 : 1);
  if (like)
    s.shape = e.type(in[1]).shape;
  else
    s.shape.assign(p.begin() + 6, p.end());
  const DType real_type = t == DType::f64 ? DType::f64 : DType::f32;
  switch (static_cast<Random>(p[2])) {
    case Random::uniform: return {e.b().convert(s.uniform(real_type), t)};
    case Random::normal: {  // Box-Muller, one number of each pair; a: mean, b: standard deviation
      ValueId u = e.op("sub", {s.scalar(real_type, 1), s.uniform(real_type, 0)});
      ValueId radius =
          e.op("sqrt", {e.op("mul", {e.op("log", {u}), s.scalar(real_type, -2 * real(p[4]) * real(p[4]))})});
      ValueId turn = e.op("cos", {e.op("mul", {s.uniform(real_type, 1), s.scalar(real_type, 2 * std::numbers::pi)})});
      ValueId x = e.op("mul", {radius, turn});
      if (real(p[3]) != 0) x = e.op("add", {x, s.scalar(real_type, real(p[3]))});
      return {e.b().convert(x, t)};
    }
    case Random::integers: {  // a + word mod b: the bias is below b / 2^63
      ValueId w = e.b().convert(s.shift(s.words(DType::u64, 0), 1), DType::i64);
      auto number = [&](std::int64_t v) { return e.b().broadcast_to(e.b().scalar_int(DType::i64, v), s.shape); };
      return {e.b().convert(e.op("add", {e.op("rem", {w, number(p[4])}), number(p[3])}), t)};
    }
  }
  e.reject(Code::AG2211, "a distribution that is not known");
}

}  // namespace

const Recipe random{"random", "", build_random};

}  // namespace ag::rec::r

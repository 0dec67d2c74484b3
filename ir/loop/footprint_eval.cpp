// Footprints at given sizes: intervals of all atoms, for a few tiles at a time.
#include <algorithm>
#include <limits>

#include "ir/loop/footprint.hpp"

namespace ag::loop {
namespace {

/// Both ends included. The smallest and the largest number mean: no bound.
using Interval = std::pair<std::int64_t, std::int64_t>;
constexpr std::int64_t below = std::numeric_limits<std::int64_t>::min(),
                       above = std::numeric_limits<std::int64_t>::max();
constexpr Interval anything{below, above};

bool bounded(const Interval& i) { return i.first != below && i.second != above; }

/// `unbounded` where the sum has no bound or exceeds 64 bits.
std::int64_t sum(std::int64_t a, std::int64_t b, std::int64_t unbounded) {
  std::int64_t out;
  return a == unbounded || b == unbounded || __builtin_add_overflow(a, b, &out) ? unbounded : out;
}
Interval add(const Interval& a, const Interval& b) {
  return {sum(a.first, b.first, below), sum(a.second, b.second, above)};
}

/// One end times a factor, as the end `unbounded` of the product.
std::int64_t scaled(std::int64_t end, std::int64_t factor, std::int64_t unbounded) {
  std::int64_t out;
  return end == below || end == above || __builtin_mul_overflow(end, factor, &out) ? unbounded : out;
}
Interval scale(const Interval& i, std::int64_t factor) {
  if (factor >= 0) return {scaled(i.first, factor, below), scaled(i.second, factor, above)};
  return {scaled(i.second, factor, below), scaled(i.first, factor, above)};
}

/// The hull of f at the corners, for f monotone in each operand.
template <class F>
Interval corners(const Interval& a, const Interval& b, F f) {
  Interval out{above, below};
  for (std::int64_t x : {a.first, a.second})
    for (std::int64_t y : {b.first, b.second}) {
      std::int64_t v;
      if (!f(x, y, v)) return anything;
      out = {std::min(out.first, v), std::max(out.second, v)};
    }
  return out;
}

Interval product(const Interval& a, const Interval& b) {
  if (!bounded(a) || !bounded(b)) return anything;
  return corners(a, b, [](auto x, auto y, auto& v) { return !__builtin_mul_overflow(x, y, &v); });
}
Interval quotient(const Interval& a, const Interval& b) {
  if (!bounded(a) || !bounded(b) || b.first < 1) return anything;
  return corners(a, b, [](auto x, auto y, auto& v) { return v = x / y, true; });
}
Interval remainder(const Interval& a, const Interval& b) {
  if (b.first < 1 || b.second == above) return anything;
  if (a.first < 0) return {1 - b.second, b.second - 1};
  if (b.first == b.second && a.second != above && a.first / b.first == a.second / b.first)
    return {a.first % b.first, a.second % b.first};
  return {0, std::min(a.second, b.second - 1)};
}

class Evaluator {
 public:
  Evaluator(const Footprint& f, std::span<const std::int64_t> dims, std::vector<Interval>& values)
      : footprint_(f), values_(values) {
    values_.resize(std::max(values_.size(), f.atoms.size()));
    for (std::size_t i = 0; i < f.atoms.size(); ++i)
      if (f.atoms[i].kind == FootprintAtom::Kind::dim) values_[i] = {dims[f.atoms[i].id], dims[f.atoms[i].id]};
  }

  void set_tiles(std::int64_t lo, std::int64_t hi) {
    for (std::size_t i = 0; i < footprint_.atoms.size(); ++i)
      if (const FootprintAtom& a = footprint_.atoms[i]; a.kind != FootprintAtom::Kind::dim)
        values_[i] = a.kind == FootprintAtom::Kind::tile ? Interval{lo, hi - 1} : value(a);
  }

  ElementRange range(const Touch& t, std::int64_t elems) const {
    for (const Affine& c : t.conditions)
      if (value(c).first > 0) return {};
    std::int64_t lo = 0, last = elems - 1;
    for (const Affine& a : t.lower) lo = std::max(lo, value(a).first);
    for (const Affine& a : t.upper) last = std::min(last, value(a).second);
    return lo <= last ? ElementRange{lo, last + 1} : ElementRange{};
  }

 private:
  const Footprint& footprint_;
  std::vector<Interval>& values_;

  Interval value(const Affine& a) const {
    Interval out{a.constant, a.constant};
    for (const auto& [atom, factor] : a.terms) out = add(out, scale(values_[atom], factor));
    return out;
  }

  Interval value(const FootprintAtom& a) const {
    using Kind = FootprintAtom::Kind;
    if (a.kind == Kind::unknown) return anything;
    Interval out = value(a.operands[0]);
    if (a.kind == Kind::count) {
      std::int64_t end = out.second;
      for (const Affine& o : a.operands) end = std::min(end, value(o).second);
      if (end == above) return {0, above};
      return {0, end < 1 ? 0 : (end - 1) / a.step * a.step};
    }
    for (std::size_t i = 1; i < a.operands.size(); ++i) {
      const Interval o = value(a.operands[i]);
      switch (a.kind) {
        case Kind::product: out = product(out, o); break;
        case Kind::quotient: out = quotient(out, o); break;
        case Kind::remainder: out = remainder(out, o); break;
        case Kind::min: out = {std::min(out.first, o.first), std::min(out.second, o.second)}; break;
        case Kind::max: out = {std::max(out.first, o.first), std::max(out.second, o.second)}; break;
        default: out = {std::min(out.first, o.first), std::max(out.second, o.second)};
      }
    }
    return out;
  }
};

}  // namespace

/// Tiles at both ends are looked at one by one, those between in pieces that grow with the distance from the ends: what
/// an interval tells too much about a piece lies within what the ends reach.
void touched(const Footprint& f, std::span<const std::int64_t> dims, std::span<const std::int64_t> elems,
             std::int64_t tile_lo, std::int64_t tile_hi, std::span<TouchedRange> out, FootprintMemory& memory) {
  std::fill(out.begin(), out.end(), TouchedRange{});
  Evaluator e(f, dims, memory.values);
  for (std::int64_t at = tile_lo; at < tile_hi;) {
    const std::int64_t next = at + std::max<std::int64_t>(1, std::min(at - tile_lo, tile_hi - at) / 5);
    e.set_tiles(at, next);
    for (std::size_t p = 0; p < f.params.size(); ++p) {
      for (const Touch& t : f.params[p].reads) out[p].read.include(e.range(t, elems[p]));
      for (const Touch& t : f.params[p].writes) out[p].written.include(e.range(t, elems[p]));
    }
    at = next;
  }
}

bool fits(const Footprint& f, const Kernel& kernel) {
  using Kind = FootprintAtom::Kind;
  auto known = [](const Affine& a, std::size_t atoms) {
    return std::all_of(a.terms.begin(), a.terms.end(), [&](const auto& t) { return t.first < atoms; });
  };
  for (std::size_t i = 0; i < f.atoms.size(); ++i) {
    const FootprintAtom& a = f.atoms[i];
    const bool leaf = a.kind == Kind::tile || a.kind == Kind::dim || a.kind == Kind::unknown;
    if (a.kind > Kind::unknown || a.step < 1 || (a.operands.empty() && !leaf)) return false;
    if (a.kind == Kind::dim && a.id >= kernel.dims.size()) return false;
    if (!std::all_of(a.operands.begin(), a.operands.end(), [&](const Affine& o) { return known(o, i); })) return false;
  }
  for (const Footprint::Param& p : f.params)
    for (const auto* touches : {&p.reads, &p.writes})
      for (const Touch& t : *touches)
        for (const auto* bounds : {&t.lower, &t.upper, &t.conditions})
          for (const Affine& a : *bounds)
            if (!known(a, f.atoms.size())) return false;
  return f.params.empty() || f.params.size() == kernel.param_count();
}

}  // namespace ag::loop

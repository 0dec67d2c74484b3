// Footprints from kernels: every index as a sum of atoms, every access as bounds of its index.
#include "ir/loop/footprint.hpp"

#include <algorithm>
#include <optional>

namespace ag::loop {
namespace {

/// What is larger is not worth the time.
constexpr std::size_t max_atoms = 400, max_touches = 200, max_conditions = 6, max_bounds = 4;

class Reader {
 public:
  explicit Reader(const Kernel& k) : k_(k), values_(k.values.size()) { out_.params.resize(k.param_count()); }

  Footprint run() {
    frames_.push_back({k_.top(), 0, 0});
    while (!frames_.empty() && !given_up_) {
      Frame& f = frames_.back();
      const auto& stmts = k_.blocks[f.block].stmts;
      if (f.at == stmts.size()) {
        conditions_.resize(f.conditions);
        frames_.pop_back();
      } else {
        read(k_.stmts[stmts[f.at++]]);
      }
    }
    return given_up_ || !tiled_ ? Footprint{} : std::move(out_);
  }

 private:
  using Kind = FootprintAtom::Kind;
  struct Frame {
    BlockId block;
    std::size_t at, conditions;  ///< how many held around it
  };

  const Kernel& k_;
  Footprint out_;
  std::vector<std::optional<Affine>> values_;  ///< of integers
  std::vector<Affine> conditions_;             ///< not above 0 where the walk is
  std::vector<Frame> frames_;
  std::size_t touches_ = 0;
  bool tiled_ = false, given_up_ = false;

  static Affine number(std::int64_t c) { return {c, {}}; }

  /// a + factor * b.
  Affine sum(const Affine& a, const Affine& b, std::int64_t factor) {
    Affine out;
    auto multiply_add = [&](std::int64_t x, std::int64_t y) {
      std::int64_t p, s;
      if (!__builtin_mul_overflow(y, factor, &p) && !__builtin_add_overflow(x, p, &s)) return s;
      given_up_ = true;
      return std::int64_t{0};
    };
    out.constant = multiply_add(a.constant, b.constant);
    auto push = [&](std::uint32_t atom, std::int64_t f) {
      if (f != 0) out.terms.emplace_back(atom, f);
    };
    auto x = a.terms.begin();
    for (const auto& [atom, f] : b.terms) {
      while (x != a.terms.end() && x->first < atom) out.terms.push_back(*x++);
      const bool both = x != a.terms.end() && x->first == atom;
      push(atom, multiply_add(both ? x->second : 0, f));
      if (both) ++x;
    }
    out.terms.insert(out.terms.end(), x, a.terms.end());
    return out;
  }
  Affine scaled(const Affine& a, std::int64_t factor) { return sum(number(0), a, factor); }

  Affine atom(FootprintAtom a) {
    auto at = std::find(out_.atoms.begin(), out_.atoms.end(), a);
    if (at == out_.atoms.end()) {
      given_up_ = given_up_ || out_.atoms.size() == max_atoms;
      at = out_.atoms.insert(at, std::move(a));
    }
    return {0, {{static_cast<std::uint32_t>(at - out_.atoms.begin()), 1}}};
  }
  Affine unknown(ValueId v) { return atom({.id = v.index}); }
  /// Lanes or rows of a tile of registers: the same atom wherever there are as many.
  Affine across(std::uint32_t which, std::int64_t n) {
    if (n == 1) return number(0);
    const auto ids = static_cast<std::uint32_t>(k_.stmts.size());
    return atom({.kind = Kind::count, .id = ids + which, .operands = {number(n)}});
  }
  Affine lanes(const VType& t) { return across(0, t.lanes); }
  Affine rows(const VType& t) { return across(1, t.rows); }

  const Affine& value(ValueId v) {
    if (!values_[v.index]) values_[v.index] = unknown(v);
    return *values_[v.index];
  }

  Affine combined(Kind kind, const Affine& a, const Affine& b) {
    const bool constants = a.terms.empty() && b.terms.empty();
    switch (kind) {
      case Kind::product:
        if (b.terms.empty()) return scaled(a, b.constant);
        if (a.terms.empty()) return scaled(b, a.constant);
        break;
      case Kind::quotient:
        if (b == number(1)) return a;
        if (constants && b.constant > 0) return number(a.constant / b.constant);
        break;
      case Kind::remainder:
        if (b == number(1)) return number(0);
        if (constants && b.constant > 0) return number(a.constant % b.constant);
        break;
      default:
        if (a == b) return a;
        if (constants && kind != Kind::either)
          return number(kind == Kind::min ? std::min(a.constant, b.constant) : std::max(a.constant, b.constant));
    }
    return atom({.kind = kind, .operands = {a, b}});
  }

  /// The value of an integer statement. Casts between integers are taken to keep the number.
  Affine computed(const Stmt& s) {
    const VType& type = k_.type(s.results[0]);
    auto in = [&](std::size_t i) -> const Affine& { return value(s.operands[i]); };
    switch (s.op) {
      case Op::constant: return number(bits_to_int(type.elem, s.attr.imm));
      case Op::dim: return atom({.kind = Kind::dim, .id = s.attr.index});
      case Op::lane_iota: return lanes(type);
      case Op::row_iota: return rows(type);
      case Op::broadcast: return in(0);
      case Op::cast:
        if (const DType from = k_.type(s.operands[0]).elem; is_int(from) && from != DType::boolean) return in(0);
        break;
      case Op::neg: return scaled(in(0), -1);
      case Op::add: return sum(in(0), in(1), 1);
      case Op::sub: return sum(in(0), in(1), -1);
      case Op::mul: return combined(Kind::product, in(0), in(1));
      case Op::div: return combined(Kind::quotient, in(0), in(1));
      case Op::rem: return combined(Kind::remainder, in(0), in(1));
      case Op::min: return combined(Kind::min, in(0), in(1));
      case Op::max: return combined(Kind::max, in(0), in(1));
      case Op::select: return combined(Kind::either, in(1), in(2));
      default: break;
    }
    return unknown(s.results[0]);
  }

  /// Sums that are not above 0 where a condition holds.
  std::vector<Affine> facts(ValueId condition) {
    std::vector<Affine> out;
    std::vector<ValueId> open{condition};
    while (!open.empty() && out.size() < max_conditions) {
      const StmtId def = k_.values[open.back()].def;
      open.pop_back();
      if (!def) continue;
      const Stmt& s = k_.stmts[def];
      auto below = [&](std::size_t a, std::size_t b, std::int64_t by) {
        out.push_back(sum(sum(value(s.operands[a]), value(s.operands[b]), -1), number(by), 1));
      };
      if (s.op == Op::and_ || s.op == Op::broadcast) open.insert(open.end(), s.operands.begin(), s.operands.end());
      if (describe(s.op).cls != OpClass::compare || !is_int(k_.type(s.operands[0]).elem)) continue;
      switch (s.op) {
        case Op::cmp_lt: below(0, 1, 1); break;
        case Op::cmp_le: below(0, 1, 0); break;
        case Op::cmp_gt: below(1, 0, 1); break;
        case Op::cmp_ge: below(1, 0, 0); break;
        case Op::cmp_eq: below(0, 1, 0), below(1, 0, 0); break;
        default: break;
      }
    }
    std::erase_if(out, [](const Affine& a) { return a.terms.empty(); });
    return out;
  }

  /// A bound of `index` by a condition, index - f * condition for the f that lets an atom vanish.
  void bound_by(const Affine& condition, const Affine& index, Touch& t) {
    for (auto c = condition.terms.rbegin(); c != condition.terms.rend(); ++c) {
      const auto x = std::find_if(index.terms.begin(), index.terms.end(), [&](auto& i) { return i.first == c->first; });
      if (x == index.terms.end() || x->second % c->second != 0) continue;
      const std::int64_t factor = x->second / c->second;
      auto& bounds = factor > 0 ? t.upper : t.lower;
      if (bounds.size() < max_bounds) bounds.push_back(sum(index, condition, -factor));
      return;
    }
  }

  void touch(BufferId buffer, bool write, const Affine& index, ValueId mask) {
    if (buffer.index >= out_.params.size()) return;
    Touch t{{index}, {index}, {}};
    if (mask)
      for (const Affine& c : facts(mask)) bound_by(c, index, t), t.conditions.push_back(c);
    for (auto c = conditions_.rbegin(); c != conditions_.rend() && t.conditions.size() < max_conditions; ++c)
      bound_by(*c, index, t), t.conditions.push_back(*c);
    auto& list = write ? out_.params[buffer.index].writes : out_.params[buffer.index].reads;
    if (std::any_of(list.begin(), list.end(), [&](Touch& other) { return join(other, t); })) return;
    given_up_ = given_up_ || ++touches_ > max_touches;
    list.push_back(std::move(t));
  }

  /// Takes a touch into one that differs from it in constants.
  static bool join(Touch& into, const Touch& t) {
    auto alike = [](const std::vector<Affine>& a, const std::vector<Affine>& b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](auto& x, auto& y) { return x.terms == y.terms; });
    };
    if (!alike(into.lower, t.lower) || !alike(into.upper, t.upper) || !alike(into.conditions, t.conditions))
      return false;
    auto take = [](std::vector<Affine>& a, const std::vector<Affine>& b, bool least) {
      for (std::size_t i = 0; i < a.size(); ++i)
        a[i].constant = least ? std::min(a[i].constant, b[i].constant) : std::max(a[i].constant, b[i].constant);
    };
    take(into.lower, t.lower, true), take(into.upper, t.upper, false), take(into.conditions, t.conditions, true);
    return true;
  }

  void enter(BlockId block, const std::vector<Affine>& facts) {
    frames_.push_back({block, 0, conditions_.size()});
    for (const Affine& f : facts)
      if (!f.terms.empty()) conditions_.push_back(f);
  }

  /// What `b - a` is at most: where `b` is a least value, one sum for each of its operands.
  std::vector<Affine> spans(const Affine& a, const Affine& b) {
    std::vector<Affine> ends{b};
    if (b.constant == 0 && b.terms.size() == 1 && b.terms[0].second == 1)
      if (const FootprintAtom& m = out_.atoms[b.terms[0].first]; m.kind == Kind::min) ends = m.operands;
    for (Affine& e : ends) e = sum(e, a, -1);
    return ends;
  }

  void enter_loop(const Stmt& s, std::uint32_t id) {
    const BlockId body = s.blocks[0];
    const ValueId iv = k_.blocks[body].args[0];
    if (s.attr.mapping == Mapping::tile) {
      tiled_ = true;
      values_[iv.index] = atom({.kind = Kind::tile});
      return enter(body, {});
    }
    const Affine lo = value(s.operands[0]), step = value(s.operands[2]);
    const bool in_steps =
        s.attr.mapping != Mapping::vector && s.attr.mapping != Mapping::rows && step.terms.empty() && step.constant > 0;
    std::vector<Affine> ends = spans(lo, value(s.operands[1])), facts;
    for (const Affine& e : ends) facts.push_back(sum(number(1), e, -1));
    values_[iv.index] = sum(
        lo, atom({.kind = Kind::count, .id = id, .step = in_steps ? step.constant : 1, .operands = std::move(ends)}),
        1);
    enter(body, facts);
  }

  void read(const Stmt& s) {
    // Operands of a tile access: base, row stride, lane stride, of stores the value, maybe a mask.
    auto tile_access = [&](std::size_t fixed) {
      const VType& type = s.op == Op::load_tile ? k_.type(s.results[0]) : k_.type(s.operands[3]);
      Affine index = value(s.operands[0]);
      index = sum(index, combined(Kind::product, rows(type), value(s.operands[1])), 1);
      index = sum(index, combined(Kind::product, lanes(type), value(s.operands[2])), 1);
      touch(s.attr.buffer, s.op == Op::store_tile, index, s.operands.size() > fixed ? s.operands[fixed] : ValueId{});
    };
    switch (s.op) {
      case Op::load:
        return touch(s.attr.buffer, false, value(s.operands[0]), s.operands.size() > 1 ? s.operands[1] : ValueId{});
      case Op::store:
        return touch(s.attr.buffer, true, value(s.operands[0]), s.operands.size() > 2 ? s.operands[2] : ValueId{});
      case Op::load_tile: return tile_access(3);
      case Op::store_tile: return tile_access(4);
      case Op::for_: return enter_loop(s, static_cast<std::uint32_t>(&s - &*k_.stmts.begin()));
      case Op::while_: enter(s.blocks[1], {}); return enter(s.blocks[0], {});
      case Op::if_: enter(s.blocks[1], {}); return enter(s.blocks[0], facts(s.operands[0]));
      default: break;
    }
    if (s.results.size() != 1) return;
    const DType type = k_.type(s.results[0]).elem;
    if (is_int(type) && type != DType::boolean) values_[s.results[0].index] = computed(s);
  }
};

}  // namespace

Footprint footprint(const Kernel& kernel) {
  if (kernel.tiles.is(1)) return {};
  return Reader(kernel).run();
}

}  // namespace ag::loop

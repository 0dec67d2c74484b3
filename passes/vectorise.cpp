#include "passes/vectorise.hpp"

#include <algorithm>
#include <bit>
#include <map>

#include "ir/loop/builder.hpp"
#include "passes/clone.hpp"
#include "passes/contraction_body.hpp"
#include "passes/index_facts.hpp"
#include "passes/loads_first.hpp"
#include "passes/pass.hpp"
#include "passes/vectorise_plan.hpp"

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::BlockId;
using loop::Builder;
using loop::ForOptions;
using loop::Kernel;
using loop::Mapping;
using loop::Op;
using loop::Program;
using loop::ReduceKind;
using loop::Stmt;
using loop::StmtId;
using loop::ValueId;
using loop::VType;
using Values = Builder::Values;

/// An old value in the new kernel: a tile or, for indices, base + r * row_stride + l * lane_stride (an absent stride
/// is 0), which becomes a tile only where it is used as a number.
struct Wide {
  ValueId value;
  ValueId base, row_stride, lane_stride;
  bool affine() const { return base.valid(); }
};

/// The widened loops around a statement.
struct Context {
  int rows = 1, lanes = 1;
  ValueId tail;       ///< [1 x lanes] bool: lanes that exist; at least one does. None: all
  ValueId condition;  ///< conjunction of the conditions around, of any shape; none: true
};

Kernel shell(const Kernel& k) {
  Kernel out;
  out.name = k.name, out.buffers = k.buffers, out.dims = k.dims, out.tiles = k.tiles;
  out.grid = k.grid, out.block = k.block, out.flops = k.flops, out.bytes = k.bytes, out.origins = k.origins;
  return out;
}

class Vectoriser {
 public:
  Vectoriser(const Kernel& k, const TargetSpec& target)
      : k_(k), plan_(k), target_(target), b_(shell(k)), map_(k.values.size()) {
    b_.hoist_invariants(true);
  }

  Kernel run() {
    block(k_.top(), {});
    return std::move(b_).finish();
  }

 private:
  const Kernel& k_;
  WideningPlan plan_;
  const TargetSpec& target_;
  Builder b_;
  IdMap<ValueId, Wide> map_;
  IndexFacts indices_{b_};  // of loops that are open or were

  // -- values ---------------------------------------------------------------------------------------------------
  void set(ValueId old, ValueId value) { map_[old] = Wide{value, {}, {}, {}}; }

  /// A stride times row or lane numbers, in i64.
  ValueId scaled(ValueId numbers, ValueId stride) { return b_.mul(numbers, stride); }

  ValueId tile(ValueId old, const Context& c) {
    const Wide& w = map_[old];
    if (!w.affine()) return w.value;
    ValueId v = w.base;
    if (w.row_stride) v = b_.add(v, scaled(b_.row_iota(DType::i64, c.rows), w.row_stride));
    if (w.lane_stride) v = b_.add(v, scaled(b_.lane_iota(DType::i64, c.lanes), w.lane_stride));
    return v;
  }
  ValueId scalar(ValueId old) const {
    AG_CHECK(!map_[old].affine() && map_[old].value, "a value that must be a scalar");
    return map_[old].value;
  }
  /// Rows and lanes that a value has wherever blocks meet.
  VType shape(ValueId old, const Context& c) const {
    VType t = k_.type(old);
    if (!t.scalar()) return t;
    Dependence d = plan_.dependence(old);
    if (d & on_rows) t.rows = static_cast<std::uint16_t>(c.rows);
    if (d & on_lanes) t.lanes = static_cast<std::uint16_t>(c.lanes);
    return t;
  }
  ValueId broadcast(ValueId v, VType t) { return b_.broadcast(v, t.rows, t.lanes); }
  /// `old` in the shape of `as`.
  ValueId shaped(ValueId old, ValueId as, const Context& c) { return broadcast(tile(old, c), shape(as, c)); }
  Values shaped(const Values& old, std::size_t from, const Values& as, std::size_t as_from, const Context& c) {
    Values out;
    for (std::size_t i = 0; i + from < old.size(); ++i) out.push_back(shaped(old[i + from], as[i + as_from], c));
    return out;
  }

  // -- statements -------------------------------------------------------------------------------------------------
  const Values& yields(BlockId block) const { return k_.stmts[k_.blocks[block].stmts.back()].operands; }

  void block(BlockId id, const Context& c) {
    for (StmtId s : k_.blocks[id].stmts)
      if (k_.stmts[s].op != Op::yield) statement(s, c);
  }

  void statement(StmtId id, const Context& c) {
    const Stmt& s = k_.stmts[id];
    b_.set_origin(s.origin ? k_.origins[s.origin - 1] : 0);
    bool plain = std::all_of(s.operands.begin(), s.operands.end(), [&](ValueId v) { return !map_[v].affine(); });
    switch (s.op) {
      case Op::for_: return loop(id, c);
      case Op::while_: return while_loop(s, c);
      case Op::if_: return conditional(s, c);
      default: break;
    }
    bool scalars = c.rows == 1 && c.lanes == 1 && !c.condition;
    if (!scalars && s.op == Op::load) return load(s, c);
    if (!scalars && s.op == Op::store) return store(s, c);
    if (!scalars && s.op == Op::trap) return trap(s, c);
    if (!scalars && s.op == Op::prefetch) return prefetch(s, c);
    if (!plain && (affine(s) || divided(s, c) || compared(s, c))) return;
    Values operands;
    for (ValueId v : s.operands) operands.push_back(tile(v, c));
    if (s.op == Op::cast || s.op == Op::bitcast) {
      DType t = k_.type(s.results[0]).elem;
      return set(s.results[0], s.op == Op::cast ? b_.cast(operands[0], t) : b_.bitcast(operands[0], t));
    }
    Values results = b_.repeat(k_, s, operands);
    for (std::size_t i = 0; i < results.size(); ++i) set(s.results[i], results[i]);
  }

  /// Index arithmetic that stays affine: exact, because integers wrap.
  bool affine(const Stmt& s) {
    if (s.op != Op::add && s.op != Op::sub && s.op != Op::mul) return false;
    Wide x = map_[s.operands[0]], y = map_[s.operands[1]];
    for (Wide* w : {&x, &y}) {
      if (w->affine()) continue;
      if (b_.type(w->value) != loop::index_type) return false;
      *w = Wide{{}, w->value, {}, {}};
    }
    auto constant = [](const Wide& w) { return !w.row_stride && !w.lane_stride; };
    Wide out;
    if (s.op == Op::mul) {
      if (constant(x)) std::swap(x, y);
      if (!constant(y)) return false;
      auto times = [&](ValueId v) { return v ? b_.mul(v, y.base) : v; };
      out = Wide{{}, times(x.base), times(x.row_stride), times(x.lane_stride)};
    } else {
      auto combine = [&](ValueId a, ValueId b) {
        if (s.op == Op::add) return !a ? b : !b ? a : b_.add(a, b);
        return !b ? a : b_.sub(a ? a : b_.index(0), b);
      };
      out =
          Wide{{}, combine(x.base, y.base), combine(x.row_stride, y.row_stride), combine(x.lane_stride, y.lane_stride)};
    }
    if (constant(out)) out = Wide{out.base, {}, {}, {}};
    map_[s.results[0]] = out;
    return true;
  }

  /// Quotient and remainder by a constant of an index all of whose rows and lanes lie in one block of the divisor: the
  /// quotient is the same for all, and the remainder moves as the index does.
  bool divided(const Stmt& s, const Context& c) {
    auto division = index_division(k_, s);
    Wide x = map_[s.operands[0]];
    if (!division || !x.affine() || division->by > INT32_MAX) return false;
    auto stride = [&](ValueId v) { return v ? b_.int_value(v) : std::optional<std::int64_t>(0); };
    auto rows = stride(x.row_stride), lanes = stride(x.lane_stride);
    if (!rows || !lanes || *rows < 0 || *lanes < 0 || !indices_.not_negative(x.base)) return false;
    if (*rows > division->by || *lanes > division->by) return false;
    const std::int64_t span = *rows * (c.rows - 1) + *lanes * (c.lanes - 1);
    // Within a part of the block they are within the block.
    constexpr std::int64_t most_parts = 1024;
    std::optional<std::int64_t> first;
    std::int64_t part = 0;
    for (std::int64_t parts = 1; !(first && *first + span < part); ++parts) {
      if (parts > most_parts || division->by / parts <= span) return false;
      first.reset();
      if (division->by % parts == 0) part = division->by / parts, first = indices_.residue(x.base, part);
    }
    const ValueId by = b_.index(division->by);
    if (division->remainder) {
      ValueId rest = part == division->by ? b_.index(*first) : b_.op(Op::rem, {x.base, by});
      map_[s.results[0]] = Wide{{}, rest, x.row_stride, x.lane_stride};
    } else {
      map_[s.results[0]] = Wide{b_.op(Op::div, {x.base, by}), {}, {}, {}};
    }
    return true;
  }

  /// Comparisons of indices as numbers of rows and lanes in 32 bits, which fill half the registers: x < y + l is
  /// x - y < l, and what differs by more than any tile is compared as if it differed by so much.
  bool compared(const Stmt& s, const Context& c) {
    constexpr std::int64_t far = 1 << 30, most = 1 << 14;
    if (loop::describe(s.op).cls != loop::OpClass::compare || k_.type(s.operands[0]) != loop::index_type) return false;
    const bool equality = s.op == Op::cmp_eq || s.op == Op::cmp_ne;
    Wide sides[2];
    for (std::size_t i : {0, 1}) {
      sides[i] = map_[s.operands[i]];
      if (!sides[i].affine()) sides[i] = Wide{{}, sides[i].value, {}, {}};
      if (b_.type(sides[i].base) != loop::index_type) return false;
      if (!equality && !bounded_index(k_, s.operands[i])) return false;  // a difference might wrap
    }
    auto step = [&](ValueId Wide::* stride) -> std::optional<std::int64_t> {
      std::int64_t by[2] = {0, 0};
      for (std::size_t i : {0, 1})
        if (sides[i].*stride) {
          auto n = b_.int_value(sides[i].*stride);
          if (!n || *n > most || *n < -most) return std::nullopt;
          by[i] = *n;
        }
      return by[0] - by[1];
    };
    auto rows = step(&Wide::row_stride), lanes = step(&Wide::lane_stride);
    if (!rows || !lanes || (*rows == 0 && *lanes == 0)) return false;
    const bool right = *lanes < 0 || (*lanes == 0 && *rows < 0);  // it is the right side that moves
    auto numbers = [&](ValueId n, std::int64_t by) {
      if (right) by = -by;
      return by == 1 ? n : b_.mul(n, b_.constant_int(DType::i32, by));
    };
    ValueId place;
    if (*lanes != 0) place = numbers(b_.lane_iota(DType::i32, c.lanes), *lanes);
    if (*rows != 0) {
      ValueId row = numbers(b_.row_iota(DType::i32, c.rows), *rows);
      place = place ? b_.add(place, row) : row;
    }
    ValueId apart = b_.sub(sides[right ? 0 : 1].base, sides[right ? 1 : 0].base);
    apart = b_.op(Op::min, {b_.op(Op::max, {apart, b_.index(-far)}), b_.index(far)});
    apart = b_.cast(apart, DType::i32);
    set(s.results[0], b_.op(s.op, right ? Values{apart, place} : Values{place, apart}));
    return true;
  }

  // -- memory -----------------------------------------------------------------------------------------------------
  /// The mask of an access of this shape; none if all of it is done. An access that is the same for all lanes is done
  /// if any lane does it.
  ValueId mask(VType t, const Context& c, ValueId own = {}) {
    ValueId m = conditions(t.lanes > 1, c, own);
    if (!m) return m;
    if (t.lanes == 1) m = b_.reduce_lanes(ReduceKind::or_, m);
    if (t.rows == 1) m = b_.reduce_rows(ReduceKind::or_, m);
    return broadcast(m, t);
  }

  /// `own` and all conditions around, the tail's only where lanes matter.
  ValueId conditions(bool lanes, const Context& c, ValueId own) {
    ValueId m = c.condition && own ? b_.op(Op::and_, {c.condition, own}) : own ? own : c.condition;
    if (!c.tail || !(lanes || (m && b_.type(m).lanes > 1))) return m;
    return m ? b_.op(Op::and_, {m, c.tail}) : c.tail;
  }

  ValueId zero_or(ValueId stride) { return stride ? stride : b_.index(0); }

  void load(const Stmt& s, const Context& c) {
    const Wide& index = map_[s.operands[0]];
    ValueId own = s.operands.size() > 1 ? tile(s.operands[1], c) : ValueId{};
    VType t = own ? shape(s.results[0], c) : k_.type(s.results[0]);
    DType e = t.elem;
    if (index.affine()) {
      t = VType{e, static_cast<std::uint16_t>(index.row_stride || t.rows > 1 ? c.rows : 1),
                static_cast<std::uint16_t>(index.lane_stride || t.lanes > 1 ? c.lanes : 1)};
      return set(s.results[0], b_.load_tile(s.attr.buffer, t, index.base, zero_or(index.row_stride),
                                            zero_or(index.lane_stride), mask(t, c, own)));
    }
    if (!own) t = b_.type(index.value).with(e);
    set(s.results[0], b_.load(s.attr.buffer, broadcast(index.value, t), mask(t, c, own)));
  }

  void store(const Stmt& s, const Context& c) {
    const Wide& index = map_[s.operands[0]];
    ValueId value = tile(s.operands[1], c), own = s.operands.size() > 2 ? tile(s.operands[2], c) : ValueId{};
    if (index.affine()) {
      VType t{k_.type(s.operands[1]).elem, static_cast<std::uint16_t>(index.row_stride ? c.rows : 1),
              static_cast<std::uint16_t>(index.lane_stride ? c.lanes : 1)};
      return b_.store_tile(s.attr.buffer, index.base, zero_or(index.row_stride), zero_or(index.lane_stride),
                           broadcast(value, t), mask(t, c, own));
    }
    VType t = b_.type(index.value);
    b_.store(s.attr.buffer, index.value, broadcast(value, t), mask(t, c, own));
  }

  /// One hint for each line of each row, and one for several rows of a line; scattered elements are not asked for.
  void prefetch(const Stmt& s, const Context& c) {
    const Wide& index = map_[s.operands[0]];
    if (!index.affine() && !b_.type(index.value).scalar()) return;
    const ValueId base = index.affine() ? index.base : index.value;
    const auto line = static_cast<int>(64 / dtype_bytes(k_.buffers[s.attr.buffer.index].dtype));
    const bool along = index.lane_stride && b_.int_value(index.lane_stride) == 1;
    const int rows = index.row_stride ? c.rows : 1;
    const bool side_by_side = rows > 1 && b_.int_value(index.row_stride) == 1;
    for (int r = 0; r < rows;) {
      ValueId row = r ? b_.add(base, b_.mul(b_.index(r), index.row_stride)) : base;
      for (int l = 0; l < (along ? c.lanes : 1); l += line)
        b_.prefetch(s.attr.buffer, b_.add(row, b_.index(l)), s.attr.index);
      // The last of rows side by side may lie in the next line.
      r = side_by_side && r + 1 < rows ? std::min(r + line, rows - 1) : r + 1;
    }
  }

  /// A trap is one for all elements: it reports the detail of the first, row by row.
  void trap(const Stmt& s, const Context& c) {
    ValueId detail = s.operands.size() > 1 ? tile(s.operands[1], c) : ValueId{};
    bool lanes = detail && b_.type(detail).lanes > 1;
    ValueId cond = conditions(lanes, c, tile(s.operands[0], c));
    VType t = b_.type(cond);
    if (detail) t.rows = std::max(t.rows, b_.type(detail).rows), t.lanes = std::max(t.lanes, b_.type(detail).lanes);
    if (t.scalar()) return b_.trap(cond, s.attr.index, detail);
    auto any = [&](ReduceKind kind, ValueId v) {
      return b_.reduce_rows(kind, b_.reduce_lanes(kind, broadcast(v, t.with(b_.type(v).elem))));
    };
    b_.if_(any(ReduceKind::or_, cond),
           [&] {
             ValueId yes = b_.constant_int(DType::boolean, 1);
             if (!detail) return b_.trap(yes, s.attr.index), Values{};
             ValueId place =
                 b_.add(b_.mul(b_.row_iota(DType::i64, t.rows), b_.index(t.lanes)), b_.lane_iota(DType::i64, t.lanes));
             ValueId first = any(ReduceKind::min, b_.select(cond, place, b_.index(INT64_MAX)));
             ValueId chosen = b_.op(Op::cmp_eq, {place, first});
             b_.trap(yes, s.attr.index, any(ReduceKind::max, b_.select(chosen, detail, b_.index(INT64_MIN))));
             return Values{};
           },
           {});
  }

  // -- control ----------------------------------------------------------------------------------------------------
  void set_all(const Values& old, std::size_t from, const Values& values, std::size_t values_from = 0) {
    for (std::size_t i = 0; i + from < old.size(); ++i) set(old[i + from], values[i + values_from]);
  }

  void while_loop(const Stmt& s, const Context& c) {
    BlockId b0 = s.blocks[0], b1 = s.blocks[1];
    const Values a0 = k_.blocks[b0].args, a1 = k_.blocks[b1].args;
    Values results = b_.while_(
        shaped(s.operands, 0, a0, 0, c),
        [&](const Values& v) {
          set_all(a0, 0, v);
          block(b0, c);
          return std::pair{scalar(yields(b0)[0]), shaped(yields(b0), 1, a1, 0, c)};
        },
        [&](const Values& v) {
          set_all(a1, 0, v);
          block(b1, c);
          return shaped(yields(b1), 0, a0, 0, c);
        });
    set_all(s.results, 0, results);
  }

  void conditional(const Stmt& s, const Context& c) {
    ValueId cond = tile(s.operands[0], c);
    if (b_.type(cond).scalar()) {
      auto branch = [&](std::size_t i) {
        return [&, i] {
          block(s.blocks[i], c);
          return shaped(yields(s.blocks[i]), 0, s.results, 0, c);
        };
      };
      return set_all(s.results, 0, b_.if_(cond, branch(0), branch(1)));
    }
    // Both branches run, under masks.
    Values sides[2];
    for (std::size_t i : {0, 1}) {
      Context inner = c;
      inner.condition = i == 0 ? cond : b_.op(Op::not_, {cond});
      if (c.condition) inner.condition = b_.op(Op::and_, {inner.condition, c.condition});
      block(s.blocks[i], inner);
      sides[i] = shaped(yields(s.blocks[i]), 0, s.results, 0, c);
    }
    for (std::size_t i = 0; i < s.results.size(); ++i) set(s.results[i], b_.select(cond, sides[0][i], sides[1][i]));
  }

  void loop(StmtId id, const Context& c) {
    const Stmt& s = k_.stmts[id];
    if (plan_.widened(id)) return s.attr.mapping == Mapping::rows ? rows_loop(s, c) : vector_loop(id, c);
    bool by_one = s.attr.mapping == Mapping::vector || s.attr.mapping == Mapping::rows;
    bool inside = c.rows > 1 || c.lanes > 1;
    ForOptions o{s.attr.mapping, s.attr.role};
    if (by_one || (inside && o.mapping == Mapping::parallel)) o.mapping = Mapping::serial;
    BlockId body = s.blocks[0];
    const Values args = k_.blocks[body].args;
    ValueId step = by_one ? b_.index(1) : scalar(s.operands[2]);
    ValueId lo = scalar(s.operands[0]);
    Values results = b_.for_(lo, scalar(s.operands[1]), step, o, shaped(s.operands, 3, args, 1, c),
                             [&](ValueId iv, const Values& carried) {
                               indices_.add(iv, lo, b_.int_value(step).value_or(1));
                               set(args[0], iv);
                               set_all(args, 1, carried);
                               block(body, c);
                               return shaped(yields(body), 0, args, 1, c);
                             });
    set_all(s.results, 0, results);
  }

  // -- widened loops ----------------------------------------------------------------------------------------------
  /// The end of the whole blocks of `width` in [lo, hi).
  ValueId whole(ValueId lo, ValueId hi, int width) {
    IndexFacts::Extent e = indices_.extent(lo, hi);
    if (e.value) return b_.add(lo, b_.index(*e.value / width * width));
    if (e.divisor % width == 0) return hi;
    ValueId w = b_.index(width);
    return b_.add(lo, b_.mul(b_.op(Op::div, {b_.sub(hi, lo), w}), w));
  }

  using Body = std::function<Values(ValueId iv, const Values& carried)>;

  /// Serial loop over [lo, hi), a multiple of `step`; inline if it is known to run once or never.
  Values blocks(ValueId lo, ValueId hi, int step, AxisRole role, Values carried, const Body& body) {
    IndexFacts::Extent e = indices_.extent(lo, hi);
    if (e.value && *e.value == 0) return carried;
    if (e.value && *e.value == step) return body(lo, carried);
    return b_.for_(lo, hi, b_.index(step), {.role = role}, std::move(carried), [&](ValueId iv, const Values& v) {
      indices_.add(iv, lo, step);
      return body(iv, v);
    });
  }

  void rows_loop(const Stmt& s, const Context& outer) {
    ValueId lo = scalar(s.operands[0]), hi = scalar(s.operands[1]);
    int width = s.attr.width;
    auto body = [&](int rows) -> Body {
      return [&, rows](ValueId iv, const Values&) {
        Context c = outer;
        c.rows = rows;
        map_[k_.blocks[s.blocks[0]].args[0]] = rows > 1 ? Wide{{}, iv, b_.index(1), {}} : Wide{iv, {}, {}, {}};
        block(s.blocks[0], c);
        return Values{};
      };
    };
    ValueId middle = whole(lo, hi, width);
    blocks(lo, middle, width, s.attr.role, {}, body(width));
    IndexFacts::Extent rest = indices_.extent(middle, hi);
    if (rest.value) {
      if (*rest.value > 0) body(static_cast<int>(*rest.value))(middle, {});
    } else if (middle != hi) {
      blocks(middle, hi, 1, s.attr.role, {}, body(1));
    }
  }

  /// Lanes for a tail of a constant number of elements: whole registers, or half ones of 512 bits, which take half the
  /// time where such a register is computed in two halves and no more elsewhere.
  int tail_lanes(StmtId id, std::int64_t rest) const {
    int width = k_.stmts[id].attr.width, part = std::max(1, std::min(target_.lanes(4), 8));
    auto lanes = static_cast<int>((rest + part - 1) / part * part);
    if (plan_.keeps_power_of_two(id)) lanes = static_cast<int>(std::bit_ceil(static_cast<unsigned>(lanes)));
    return std::min(lanes, width);
  }

  /// One block of a vector loop's body; carried values stay as they were in lanes that do not exist.
  Values lanes_body(const Stmt& s, const Context& c, ValueId iv, const Values& carried) {
    const Values args = k_.blocks[s.blocks[0]].args;
    map_[args[0]] = c.lanes > 1 ? Wide{{}, iv, {}, b_.index(1)} : Wide{iv, {}, {}, {}};
    set_all(args, 1, carried);
    block(s.blocks[0], c);
    Values next = shaped(yields(s.blocks[0]), 0, args, 1, c);
    if (c.tail)
      for (std::size_t i = 0; i < next.size(); ++i) next[i] = b_.select(c.tail, next[i], carried[i]);
    return next;
  }

  /// The tail [middle, hi) of a vector loop: masked, shorter than `lanes`.
  Values lanes_tail(const Stmt& s, Context c, ValueId middle, ValueId hi, const Values& carried) {
    ValueId count = b_.cast(b_.sub(hi, middle), DType::i32);
    c.tail = b_.op(Op::cmp_lt, {b_.lane_iota(DType::i32, c.lanes), count});
    return lanes_body(s, c, middle, carried);
  }

  void vector_loop(StmtId id, const Context& outer) {
    const Stmt& s = k_.stmts[id];
    const Values args = k_.blocks[s.blocks[0]].args;
    ValueId lo = scalar(s.operands[0]), hi = scalar(s.operands[1]);
    Context c = outer;
    c.lanes = s.attr.width;
    std::size_t carried = s.operands.size() - 3;
    std::size_t unroll = carried ? std::max<std::size_t>(1, s.attr.unroll) : 1;

    Values start;
    for (std::size_t u = 0; u < unroll; ++u)
      for (std::size_t i = 0; i < carried; ++i) {
        VType t = shape(args[i + 1], c);
        start.push_back(b_.constant_bits(t, loop::reduce_identity(plan_.reductions(id)[i], t.elem)));
      }
    ValueId from = lo;
    if (unroll > 1) {
      int all = static_cast<int>(unroll) * c.lanes;
      ValueId end = whole(lo, hi, all);
      start = blocks(lo, end, all, s.attr.role, start, [&](ValueId iv, const Values& v) {
        Values next;
        for (std::size_t u = 0; u < unroll; ++u) {
          auto mine = v.begin() + static_cast<std::ptrdiff_t>(u * carried);
          Values part = lanes_body(s, c, b_.add(iv, b_.index(static_cast<int>(u) * c.lanes)),
                                   Values(mine, mine + static_cast<std::ptrdiff_t>(carried)));
          next.insert(next.end(), part.begin(), part.end());
        }
        return next;
      });
      from = end;
    }
    Values first(start.begin(), start.begin() + static_cast<std::ptrdiff_t>(carried));
    ValueId middle = whole(from, hi, c.lanes);
    first = blocks(from, middle, c.lanes, s.attr.role, first,
                   [&](ValueId iv, const Values& v) { return lanes_body(s, c, iv, v); });
    first = tail(id, c, middle, hi, first);
    std::copy(first.begin(), first.end(), start.begin());
    for (std::size_t i = 0; i < carried; ++i) finish(id, i, start, unroll, outer);
  }

  Values tail(StmtId id, Context c, ValueId middle, ValueId hi, const Values& carried) {
    const Stmt& s = k_.stmts[id];
    if (middle == hi) return carried;
    IndexFacts::Extent rest = indices_.extent(middle, hi);
    if (!rest.value)
      return b_.if_(
          b_.op(Op::cmp_lt, {middle, hi}), [&] { return lanes_tail(s, c, middle, hi, carried); },
          [&] { return carried; });
    if (*rest.value == 0) return carried;
    if (carried.empty()) c.lanes = tail_lanes(id, *rest.value);
    if (*rest.value == c.lanes) return lanes_body(s, c, middle, carried);
    return lanes_tail(s, c, middle, hi, carried);
  }

  /// Accumulators by a tree of halves, then lanes likewise, then the initial value.
  void finish(StmtId id, std::size_t i, const Values& accumulators, std::size_t unroll, const Context& outer) {
    const Stmt& s = k_.stmts[id];
    std::size_t carried = s.results.size();
    ReduceKind kind = plan_.reductions(id)[i];
    Op op = loop::reduce_op(kind);
    Values v;
    for (std::size_t u = 0; u < unroll; ++u) v.push_back(accumulators[u * carried + i]);
    while (v.size() > 1) {
      std::size_t half = (v.size() + 1) / 2;
      for (std::size_t u = half; u < v.size(); ++u) v[u - half] = b_.op(op, {v[u - half], v[u]});
      v.resize(half);
    }
    ValueId total = b_.reduce_lanes(kind, v[0]);
    set(s.results[i], broadcast(b_.op(op, {tile(s.operands[i + 3], outer), total}), shape(s.results[i], outer)));
  }
};

Result<Program> run(Program program, PassContext& context) {
  for (Kernel& k : program.kernels) k = vectorise_kernel(k, context.target);
  return program;
}

}  // namespace

Kernel vectorise_kernel(const Kernel& kernel, const TargetSpec& target) {
  return loads_first(Vectoriser(kernel, target).run(), target);
}

const Pass vectorise = {
    .name = "vectorise", .summary = "vector and rows loops become tiles in registers", .on_program = run};

}  // namespace ag::passes

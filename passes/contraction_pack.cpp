#include "passes/contraction_pack.hpp"

#include <algorithm>

#include "passes/schedule_internal.hpp"

namespace ag::passes {

using loop::AxisRole;
using loop::Builder;
using loop::ForOptions;
using loop::Mapping;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using loop::VType;
using LV = loop::ValueId;
using Values = Builder::Values;

namespace {

/// Steps of depth between a copy and the hint for what it will read.
constexpr std::int64_t steps_ahead = 64;
/// The bytes of a line of memory.
constexpr std::int64_t line_bytes = 64;

void serial(Builder& b, LV lo, LV hi, std::int64_t step, const std::function<void(LV)>& body) {
  b.for_(lo, hi, b.index(step), {}, {}, [&](LV iv, const Values&) { return body(iv), Values{}; });
}

void lanes(Builder& b, LV lo, LV hi, int width, const std::function<void(LV)>& body) {
  ForOptions o{.mapping = Mapping::vector, .role = AxisRole::col, .width = static_cast<std::uint16_t>(width)};
  b.for_(lo, hi, b.index(width), o, {}, [&](LV iv, const Values&) { return body(iv), Values{}; });
}

/// hi - lo if both are numbers apart.
std::optional<std::int64_t> distance(const Builder& b, LV lo, LV hi) {
  if (auto x = b.int_value(lo), y = b.int_value(hi); x && y) return *y - *x;
  const loop::Kernel& k = b.kernel();
  StmtId def = k.values[hi].def;
  if (!def || k.stmts[def].op != Op::add || k.stmts[def].operands[0] != lo) return std::nullopt;
  return b.int_value(k.stmts[def].operands[1]);
}

}  // namespace

OperandLayout columns_layout(const loop::Kernel& k, const IndexSteps& steps, const std::vector<StmtId>& loads,
                             const NestLoop& col, const ContractionBody& body, int width) {
  OperandLayout out;
  out.present = !loads.empty() && !body.loops.empty();
  if (!out.present) return out;
  for (StmtId l : loads) {
    LV index = k.stmts[l].operands[0];
    auto next = steps.step(index, col.iv, width), deeper = steps.step(index, body.iv(k, body.loops.size() - 1), 0);
    const auto bytes = static_cast<std::int64_t>(dtype_bytes(k.buffers[k.stmts[l].attr.buffer.index].dtype));
    if (deeper && deeper->is_const())
      out.step = std::max<std::int64_t>(out.step.value_or(0), std::abs(deeper->value()) * bytes);
    if (next && next->is(1)) continue;
    bool transposed = next && deeper && deeper->is(1);
    out.run = transposed && out.run != OperandLayout::Run::scattered ? OperandLayout::Run::transposed
                                                                     : OperandLayout::Run::scattered;
  }
  return out;
}

void PackedColumns::add(const loop::Kernel& k, const std::vector<StmtId>& loads, const IndexSteps& steps,
                        const NestLoop& col, const ContractionBody& body, int width, int lanes) {
  k_ = &k, body_ = &body, col_ = &col, width_ = width, lanes_ = lanes;
  for (StmtId l : loads) {
    LV index = k.stmts[l].operands[0];
    auto next = steps.step(index, col.iv, width), deeper = steps.step(index, body.iv(k, body.loops.size() - 1), 0);
    Panel p{.load = l, .way = Way::scattered, .column_step = next.value_or(Dim(0)), .scratch = {}};
    std::size_t bytes = dtype_bytes(k.buffers[k.stmts[l].attr.buffer.index].dtype);
    if (next && next->is(1))
      p.way = Way::contiguous;
    else if (next && deeper && deeper->is(1) && bytes >= 4)
      p.way = Way::transposed;
    columns_.push_back(p);
  }
}

void PackedColumns::allocate(Builder& b, const Dim& depth, std::int64_t panels) {
  panels_ = panels, depth_ = depth;
  auto type = [&](const Panel& p) { return k_->buffers[k_->stmts[p.load].attr.buffer.index].dtype; };
  bool turned = std::any_of(columns_.begin(), columns_.end(), [](const Panel& p) { return p.way == Way::transposed; });
  if (turned) depth_ = depth_ + Dim(lanes_);  // its blocks write whole registers of depth
  for (Panel& p : columns_) p.scratch = b.alloc(type(p), Dim(panels_) * depth_ * Dim(width_), loop::Scope::scratch);
}

/// Position in depth: contracted indices in row-major order, counted from the range's first.
LV PackedColumns::depth_index(Builder& b, KernelCloner& c, const DepthRange& range) const {
  LV flat = b.sub(c.get(body_->iv(*k_, range.loop)), range.lo);
  for (std::size_t i = range.loop + 1; i < body_->loops.size(); ++i)
    flat = b.add(b.mul(flat, extent(b, i)), c.get(body_->iv(*k_, i)));
  return flat;
}

LV PackedColumns::column_index(Builder& b, KernelCloner& c, const DepthRange& range, LV column) const {
  LV width = b.index(width_), step = depth_index(b, c, range);
  if (panels_ > 1) {
    step = b.add(b.mul(b.op(Op::div, {column, width}), b.dim(depth_)), step);
    column = b.op(Op::rem, {column, width});
  }
  return b.add(b.mul(step, width), column);
}

void PackedColumns::over_depth(Builder& b, const KernelCloner& from, const DepthRange& range, std::size_t loop,
                               const Innermost& body) const {
  LV lo = loop == range.loop ? range.lo : b.index(0), hi = loop == range.loop ? range.hi : extent(b, loop);
  if (loop + 1 == body_->loops.size()) {
    KernelCloner c = from;
    return body(c, lo, hi);
  }
  serial(b, lo, hi, 1, [&](LV iv) {
    KernelCloner c = from;
    c.set(body_->iv(*k_, loop), iv);
    over_depth(b, c, range, loop + 1, body);
  });
}

void PackedColumns::pack(Builder& b, const KernelCloner& from, const DepthRange& range, LV n_lo, LV n_hi) const {
  for (const Panel& p : columns_)
    over_depth(b, from, range, range.loop, [&](KernelCloner& c, LV lo, LV hi) {
      switch (p.way) {
        case Way::contiguous: return copy(b, p, c, range, n_lo, n_hi, lo, hi);
        case Way::transposed: return transpose(b, p, c, range, n_lo, n_hi, lo, hi);
        case Way::scattered: return gather(b, p, c, range, n_lo, n_hi, lo, hi);
      }
    });
}

/// Asks for the lines of neighbouring columns from `n_lo` on at one step of the innermost contracted loop.
void PackedColumns::ask(Builder& b, const Panel& p, KernelCloner at, LV step, LV n_lo, std::int64_t columns) const {
  const Stmt& load = k_->stmts[p.load];
  at.set(body_->iv(*k_, body_->loops.size() - 1), step);
  at.set(col_->iv, n_lo);
  const auto line = line_bytes / static_cast<std::int64_t>(dtype_bytes(k_->buffers[load.attr.buffer.index].dtype));
  LV from = at.get(load.operands[0]);
  for (std::int64_t n = 0; n < columns; n += line) b.prefetch(at.get(load.attr.buffer), b.add(from, b.index(n)), 2);
}

void PackedColumns::ask_next(Builder& b, const KernelCloner& c, LV row, std::int64_t share, LV n_lo) const {
  if (body_->loops.size() != 1) return;
  LV first = b.mul(row, b.index(share)), next = b.add(n_lo, b.index(width_));
  for (const Panel& p : columns_)
    for (std::int64_t i = 0; i < share && p.way == Way::contiguous; ++i)
      ask(b, p, c, b.add(first, b.index(i)), next, width_);
}

void PackedColumns::copy(Builder& b, const Panel& p, KernelCloner& c, const DepthRange& range, LV n_lo, LV n_hi, LV lo,
                         LV hi) const {
  const Stmt& load = k_->stmts[p.load];
  serial(b, lo, hi, 1, [&](LV k) {
    KernelCloner at = c;
    at.set(body_->iv(*k_, body_->loops.size() - 1), k);
    auto panel = [&](LV from, LV to) {
      lanes(b, from, to, width_, [&](LV n) {
        KernelCloner inner = at;
        inner.set(col_->iv, n);
        b.store(p.scratch, column_index(b, inner, range, b.sub(n, n_lo)),
                b.load(inner.get(load.attr.buffer), inner.get(load.operands[0])));
      });
    };
    // Steps of depth lie on pages of their own, where hardware does not look ahead.
    ask(b, p, c, b.add(k, b.index(steps_ahead)), n_lo, panels_ * width_);
    auto columns = distance(b, n_lo, n_hi);
    if (panels_ == 1 || (columns && *columns <= width_)) return panel(n_lo, n_hi);
    serial(b, n_lo, n_hi, width_, [&](LV n) { panel(n, b.add(n, b.index(width_))); });
  });
}

/// Blocks loaded along depth and turned in registers; those that share lines one after the other.
void PackedColumns::transpose(Builder& b, const Panel& p, KernelCloner& c, const DepthRange& range, LV n_lo, LV n_hi,
                              LV lo, LV hi) const {
  const Stmt& load = k_->stmts[p.load];
  const int side = std::min(lanes_, turned_block);
  VType block{k_->buffers[load.attr.buffer.index].dtype, static_cast<std::uint16_t>(side),
              static_cast<std::uint16_t>(side)};
  // Both blocks of a line from one load of it: columns a multiple of 4 KiB apart drive each other out of the cache.
  const VType two{block.elem, block.rows, static_cast<std::uint16_t>(2 * side)};
  const Dim& last = body_->extents.back();
  auto columns = distance(b, n_lo, n_hi);
  std::int64_t depth = range.loop + 1 == body_->loops.size() ? range.multiple : last.is_const() ? last.value() : 1;
  bool whole = ((columns && *columns % side == 0) || (panels_ > 1 && !columns)) && depth % side == 0;
  auto turn = [&](LV k, LV n, VType block) {
    KernelCloner at = c;
    at.set(body_->iv(*k_, body_->loops.size() - 1), k);
    at.set(col_->iv, n);
    LV base = at.get(load.operands[0]), to = column_index(b, at, range, b.sub(n, n_lo)), one = b.index(1);
    auto copy = [&](LV mask) {
      LV tile = b.load_tile(at.get(load.attr.buffer), block, base, b.dim(p.column_step), one, mask);
      b.store_tile(p.scratch, to, b.index(width_), one, b.op(Op::transpose, std::array{tile}));
      return Values{};
    };
    if (whole) return void(copy({}));
    LV columns_left = b.sub(n_hi, n), depth_left = b.sub(hi, k), size = b.index(side);
    LV full = b.op(Op::and_, {b.op(Op::cmp_le, {size, columns_left}), b.op(Op::cmp_le, {size, depth_left})});
    b.if_(
        full, [&] { return copy({}); },
        [&] {
          LV row = b.op(Op::cmp_lt, {b.row_iota(DType::i64, side), columns_left});
          LV lane = b.op(Op::cmp_lt, {b.lane_iota(DType::i64, side), depth_left});
          return copy(b.op(Op::and_, {row, lane}));
        });
  };
  // Columns are more streams than hardware follows.
  auto ask = [&](LV k, LV n) {
    KernelCloner ahead = c;
    ahead.set(body_->iv(*k_, body_->loops.size() - 1), b.add(k, b.index(steps_ahead)));
    ahead.set(col_->iv, n);
    LV base = ahead.get(load.operands[0]), step = b.dim(p.column_step);
    const auto line = line_bytes / static_cast<std::int64_t>(dtype_bytes(block.elem));
    for (int i = 0; i < side; ++i)
      for (std::int64_t e = 0; e < 2 * side; e += line)
        b.prefetch(ahead.get(load.attr.buffer), b.add(b.add(base, b.mul(step, b.index(i))), b.index(e)), 2);
  };
  serial(b, lo, hi, 2 * side, [&](LV k) {
    LV end = b.add(k, b.index(2 * side));
    if (!whole || depth % (2 * side) != 0) end = b.op(Op::min, {end, hi});
    serial(b, n_lo, n_hi, side, [&](LV n) {
      ask(k, n);
      if (whole && depth % (2 * side) == 0) return turn(k, n, two);
      serial(b, k, end, side, [&](LV at) { turn(at, n, block); });
    });
  });
}

/// Element by element; columns beyond the last repeat it, and nobody looks at them.
void PackedColumns::gather(Builder& b, const Panel& p, KernelCloner& c, const DepthRange& range, LV n_lo, LV n_hi,
                           LV lo, LV hi) const {
  const Stmt& load = k_->stmts[p.load];
  serial(b, n_lo, n_hi, 1, [&](LV n) {
    KernelCloner column = c;
    column.set(col_->iv, n);
    lanes(b, lo, hi, lanes_, [&](LV k) {
      KernelCloner at = column;
      at.set(body_->iv(*k_, body_->loops.size() - 1), k);
      b.store(p.scratch, column_index(b, at, range, b.sub(n, n_lo)),
              b.load(at.get(load.attr.buffer), at.get(load.operands[0])));
    });
  });
}

void PackedColumns::read(Builder& b, KernelCloner& c, const DepthRange& range, LV n_lo) const {
  if (columns_.empty()) return;
  c.on_load = [this, &b, &c, range, n_lo](const Stmt& load) -> LV {
    for (const Panel& p : columns_)
      if (&k_->stmts[p.load] == &load)
        return b.load(p.scratch, column_index(b, c, range, b.sub(c.get(col_->iv), n_lo)));
    return {};
  };
}

}  // namespace ag::passes

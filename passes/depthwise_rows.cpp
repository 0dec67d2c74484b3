#include "passes/depthwise_rows.hpp"

#include <algorithm>

#include "passes/depthwise.hpp"
#include "passes/lower_contraction.hpp"

namespace ag::passes {

using loop::Mapping;
using loop::Op;
using Int = std::int64_t;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

namespace {

/// Neighbours of a tile of sums at most, and multiply-adds of a tile that are written out; more become a loop over rows
/// of taps.
constexpr Int most_neighbours = 7, most_unrolled = 196;
/// Terms of a product of unknown depth in estimates.
constexpr Int usual_depth = 256;

/// Terms of the product.
Dim depth_of(const Graph& g, NodeId product) {
  const Node& n = g.node(product);
  Dim k = 1;
  for (int d : n.op->contraction(NodeView{g, product}).lhs_contract)
    k = k * g.type(n.operands[0]).shape[static_cast<std::size_t>(d)];
  return k;
}

}  // namespace

DepthwiseSizes depthwise_sizes(const Graph& g, NodeId id, std::span<const NodeId> before) {
  const Dim depth = before.empty() ? Dim(0) : depth_of(g, before.front());
  Int maps = 0;
  for (std::size_t i = 1; i < before.size(); ++i) maps += g.node(before[i]).op->cost;
  return depthwise_sizes(describe_depthwise(NodeView{g, id}), dtype_bytes(g.type(g.node(id).result()).dtype),
                         depth.is_const() ? depth.value() : usual_depth, maps);
}

std::optional<Int> given_width(const Graph& g, std::span<const NodeId> before) {
  if (before.empty()) return std::nullopt;
  auto panels = column_panels(g, before.front());
  return panels && panels->width ? std::optional(panels->width) : std::nullopt;
}

DepthwiseRows::DepthwiseRows(OwnKernel& k, NodeId id, std::span<const NodeId> before, const TargetSpec& target)
    : k_(k),
      g_(k.graph()),
      id_(id),
      before_(before),
      b_(k.builder()),
      d_(describe_depthwise(NodeView{g_, id})),
      sizes_(depthwise_sizes(g_, id, before)),
      target_(target),
      t_(g_.type(g_.node(id).result()).dtype),
      lanes_(target.lanes(dtype_bytes(t_))),
      channels_(d_.channels.value()) {
  for (std::size_t a : {0u, 1u}) {
    size_[a] = d_.size[a].value(), count_[a] = d_.count[a].value(), low_[a] = d_.low[a].value();
    reach_[a] = d_.reach(a);
  }
  pitch_ = (count_[1] - 1) * d_.strides[1] + reach_[1];
  first_ = std::clamp<Int>(low_[1], 0, pitch_), last_ = std::clamp<Int>(low_[1] + size_[1], first_, pitch_);
}

Dim DepthwiseRows::flops() const {
  Dim flops = g_.type(g_.node(id_).result()).elems() * Dim(2 * d_.taps[0] * d_.taps[1]);
  return before_.empty() ? flops
                         : flops + g_.type(g_.node(id_).operands[0]).elems() * depth_of(g_, before_.front()) * Dim(2);
}

LV DepthwiseRows::operand(std::size_t i, std::span<const LV> index) {
  const LV v = k_.element(g_.node(id_).operands[i], index);
  k_.origin(id_);
  return v;
}

// -- panels and rows --------------------------------------------------------------------------------------------------

void DepthwiseRows::allocate(Int width, Int rings) {
  width_ = width, rings_ = rings;
  ring_ = b_.alloc(t_, rings * reach_[0] * pitch_ * width_, loop::Scope::scratch);
}

void DepthwiseRows::with_panel(LV panel, LV ring, const std::function<void(const Panel&)>& body) {
  const Int full = channels_ / width_;
  auto whole = [&] { return body({times(panel, width_), width_, ring}), LVs{}; };
  auto rest = [&] { return body({b_.index(full * width_), channels_ - full * width_, ring}), LVs{}; };
  if (full == panels())
    whole();
  else if (full == 0)
    rest();
  else
    b_.if_(b_.op(Op::cmp_lt, {panel, b_.index(full)}), whole, rest);
}

void DepthwiseRows::start(const Panel& panel) {
  panel_ = panel;
  if (first_ == 0 && last_ == pitch_) return;
  each(reach_[0], [&](LV slot) {
    zeros(slot, 0, first_);
    zeros(slot, last_, pitch_);
  });
}

void DepthwiseRows::rows(const Task& task, const Panel& panel, LV first, LV end, const Sink& sink) {
  task_ = task, panel_ = panel;
  stepped(b_, first, end, {.role = loop::AxisRole::batch}, [&](LV h) {
    const Int skip = std::max<Int>(reach_[0] - d_.strides[0], 0);
    LV at = times(b_.sub(h, task.begin), d_.strides[0]), next = plus(at, skip);
    LV lo = b_.select(b_.op(Op::cmp_eq, {h, task.begin}), b_.index(0), next);
    stepped(b_, lo, plus(at, reach_[0]), {.role = loop::AxisRole::batch}, [&](LV row) { fill(row); });
    sums(h, at, sink);
  });
}

// -- rows of the image ------------------------------------------------------------------------------------------------

void DepthwiseRows::each(Int n, const std::function<void(LV)>& body) {
  stepped(b_, b_.index(0), b_.index(n), {}, body);
}

void DepthwiseRows::lanes(Int width, const std::function<void(LV)>& body) {
  stepped(b_, panel_.from, b_.add(panel_.from, b_.index(panel_.channels)),
          {.mapping = Mapping::vector, .role = loop::AxisRole::col, .width = static_cast<std::uint16_t>(width)}, body);
}

/// Where a channel of a pixel lies; row r of those that the task makes is in slot r % reach.
LV DepthwiseRows::ring_at(LV slot, LV pixel, LV channel) {
  LV row = rings_ == 1 ? slot : b_.add(times(panel_.ring, reach_[0]), slot);
  return b_.add(times(b_.add(times(row, pitch_), pixel), width_), b_.sub(channel, panel_.from));
}

void DepthwiseRows::zeros(LV slot, Int from, Int to) {
  if (from >= to) return;
  stepped(b_, b_.index(from), b_.index(to), {}, [&](LV pixel) {
    lanes(lanes_, [&](LV c) { b_.store(ring_, ring_at(slot, pixel, c), b_.constant(t_, 0.0)); });
  });
}

void DepthwiseRows::fill(LV row) {
  LV h = b_.sub(b_.add(times(task_.begin, d_.strides[0]), row), b_.index(low_[0])), slot = slot_of(row);
  auto there = [&] {
    if (first_ < last_) before_.empty() ? copy(h, slot) : compute(h, slot);
    return LVs{};
  };
  // Whether padding is ever read.
  if (low_[0] <= 0 && (count_[0] - 1) * d_.strides[0] + reach_[0] - low_[0] <= size_[0]) return void(there());
  LV inside = b_.op(Op::and_, {b_.op(Op::cmp_le, {b_.index(0), h}), b_.op(Op::cmp_lt, {h, b_.index(size_[0])})});
  b_.if_(inside, there, [&] {
    zeros(slot, first_, last_);
    return LVs{};
  });
}

void DepthwiseRows::copy(LV h, LV slot) {
  stepped(b_, b_.index(first_), b_.index(last_), {}, [&](LV pixel) {
    lanes(2 * lanes_, [&](LV c) {
      LV x = operand(0, LVs{task_.image, h, b_.sub(pixel, b_.index(low_[1])), c});
      b_.store(ring_, ring_at(slot, pixel, c), x);
    });
  });
}

/// Register tiles of pixels and the panel's channels.
void DepthwiseRows::compute(LV h, LV slot) {
  const Int registers = (panel_.channels + lanes_ - 1) / lanes_;
  const Pieces tiles = pieces(last_ - first_, most_pixels(registers, target_, map_registers(sizes_.map_cost)), 0.5);
  const auto width = static_cast<std::uint16_t>(tiles.length);
  auto tile = [&](LV start) {
    stepped(b_, start, plus(start, tiles.length),
            {.mapping = Mapping::rows, .role = loop::AxisRole::row, .width = width}, [&](LV pixel) {
              lanes(registers * lanes_, [&](LV c) {
                LVs at{task_.image, h, b_.sub(pixel, b_.index(low_[1])), c};
                LV x = k_.element_of(before_.front(), lower_contraction(k_, before_.front(), at, false), before_.back(),
                                     at);
                b_.store(ring_, ring_at(slot, pixel, c), x);
              });
            });
  };
  over(tiles, last_ - first_, [&](LV start) { tile(plus(start, first_)); });
}

/// The first place of each piece of n places.
void DepthwiseRows::over(const Pieces& p, Int n, const std::function<void(LV)>& body) {
  if (p.count == 1) return body(b_.index(0));
  each(p.count, [&](LV i) {
    LV start = times(i, p.length);
    if (p.count * p.length > n) start = b_.op(Op::min, {start, b_.index(n - p.length)});
    body(start);
  });
}

// -- sums over taps -------------------------------------------------------------------------------------------------

/// Row h of the result; its window begins at row `at` of those that the task has made.
void DepthwiseRows::sums(LV h, LV at, const Sink& sink) {
  const Pieces tiles = pieces(count_[1], most_neighbours, 0.5);
  const Int n = tiles.length;
  const bool unrolled = d_.taps[0] * d_.taps[1] * n <= most_unrolled;
  LVs rows;
  if (unrolled)
    for (Int i = 0; i < d_.taps[0]; ++i) rows.push_back(slot_of(plus(at, i * d_.dilations[0])));
  over(tiles, count_[1], [&](LV start) {
    lanes(lanes_, [&](LV c) {
      LVs sum(static_cast<std::size_t>(n), b_.constant(t_, 0.0));
      LV pixel = times(start, d_.strides[1]);
      if (unrolled)
        for (Int i = 0; i < d_.taps[0]; ++i) taps(rows[static_cast<std::size_t>(i)], b_.index(i), pixel, c, sum);
      else
        sum = b_.for_(b_.index(0), b_.index(d_.taps[0]), b_.index(1), {.role = loop::AxisRole::reduce}, sum,
                      [&](LV i, const LVs& carried) {
                        LVs next = carried;
                        taps(slot_of(b_.add(at, times(i, d_.dilations[0]))), i, pixel, c, next);
                        return next;
                      });
      for (Int i = 0; i < n; ++i) sink(LVs{task_.image, h, plus(start, i), c}, sum[static_cast<std::size_t>(i)]);
    });
  });
}

/// Adds what row i of the taps finds in a row of the ring from `pixel` on to the sums of neighbours.
void DepthwiseRows::taps(LV slot, LV i, LV pixel, LV c, LVs& sum) {
  const auto n = static_cast<Int>(sum.size()), s = d_.strides[1], dilation = d_.dilations[1];
  LV base = ring_at(slot, pixel, c);
  LVs w;
  for (Int j = 0; j < d_.taps[1]; ++j) w.push_back(operand(1, LVs{i, b_.index(j), c}));
  for (Int p = 0; p < (n - 1) * s + reach_[1]; ++p) {
    LV x;
    for (Int o = 0; o < n; ++o) {
      const Int tap = p - o * s;
      if (tap < 0 || tap % dilation != 0 || tap / dilation >= d_.taps[1]) continue;
      if (!x) x = b_.load(ring_, plus(base, p * width_));
      LV& y = sum[static_cast<std::size_t>(o)];
      y = b_.op(Op::fma, {x, w[static_cast<std::size_t>(tap / dilation)], y});
    }
  }
}

}  // namespace ag::passes

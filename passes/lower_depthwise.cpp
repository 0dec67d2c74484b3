// depthwise -> one kernel, scheduled here. A task owns a band of output rows of an image and a panel of channels. It
// keeps the rows of the image that the window needs in scratch memory, a ring of [rows][pixels][channels] with zeros
// where the image ends, so that no tap is ever asked whether it lies inside. A row gets there when a window first
// touches it: copied, or computed there and then by the product in front of it (Group::before). Sums of a tile of
// neighbours stay in registers over all taps; a loaded pixel serves all the taps that it lies under.
//
// Every element is the sum of its terms in the order of taps, however the work is cut.
#include <algorithm>
#include <cstdlib>

#include "passes/depthwise.hpp"
#include "passes/depthwise_model.hpp"
#include "passes/lower_contraction.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {
namespace {

using loop::Mapping;
using loop::Op;
using Int = std::int64_t;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

/// Neighbours of a tile of sums at most, and multiply-adds of a tile that are written out; more become a loop over rows
/// of taps.
constexpr Int most_neighbours = 7, most_unrolled = 196;
/// Terms of a product of unknown depth in estimates.
constexpr Int usual_depth = 256;

class DepthwiseKernel {
 public:
  DepthwiseKernel(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target)
      : g_(g),
        before_(plan.groups[gid].before),
        k_(g, plan, gid),
        b_(k_.builder()),
        d_(describe_depthwise(k_.view())),
        target_(target),
        t_(k_.type().dtype),
        lanes_(target.lanes(dtype_bytes(t_))),
        channels_(d_.channels.value()) {
    for (std::size_t a : {0u, 1u}) {
      size_[a] = d_.size[a].value(), count_[a] = d_.count[a].value(), low_[a] = d_.low[a].value();
      reach_[a] = d_.reach(a);
    }
    pitch_ = (count_[1] - 1) * d_.strides[1] + reach_[1];
    first_ = std::clamp<Int>(low_[1], 0, pitch_), last_ = std::clamp<Int>(low_[1] + size_[1], first_, pitch_);
    const DepthwiseCut by = cut();
    width_ = by.width, bands_ = by.bands;
  }

  LoweredKernel run() {
    if (before_.empty())
      k_.read(0);
    else
      k_.read_before();
    k_.read(1);
    k_.members();
    ring_ = b_.alloc(t_, reach_[0] * pitch_ * width_, loop::Scope::scratch);
    const Int panels = (channels_ + width_ - 1) / width_, full = channels_ / width_;
    const Dim tasks = d_.batch * Dim(bands_ * panels);
    b_.kernel().tiles = tasks;
    loop(b_.index(0), b_.dim(tasks), {.mapping = Mapping::tile}, [&](LV task) {
      b_.poll();
      LV panel = take_digit(b_, task, panels), band = take_digit(b_, task, bands_);
      const Int rows = (count_[0] + bands_ - 1) / bands_;
      image_ = task;
      begin_ = b_.mul(band, b_.index(rows));
      end_ = b_.op(Op::min, {b_.add(begin_, b_.index(rows)), b_.index(count_[0])});
      auto whole = [&] { return panel_of(b_.mul(panel, b_.index(width_)), width_), LVs{}; };
      auto rest = [&] { return panel_of(b_.index(full * width_), channels_ - full * width_), LVs{}; };
      if (full == panels)
        whole();
      else if (full == 0)
        rest();
      else
        b_.if_(b_.op(Op::cmp_lt, {panel, b_.index(full)}), whole, rest);
    });
    Dim flops = k_.type().elems() * Dim(2 * d_.taps[0] * d_.taps[1]);
    if (!before_.empty()) {
      const Type& x = k_.in(0);
      flops = flops + x.elems() * depth() * Dim(2);
    }
    return k_.finish("depthwise", flops);
  }

 private:
  const Graph& g_;
  const std::vector<NodeId>& before_;
  OwnKernel k_;
  loop::Builder& b_;
  DepthwiseDesc d_;
  const TargetSpec& target_;
  DType t_;
  Int lanes_, channels_;
  Int size_[2], count_[2], low_[2], reach_[2];
  Int pitch_;  // pixels of a row of the ring
  Int first_, last_;  // those of them that lie in the image
  Int width_, bands_;  // channels of a panel, tasks along the height
  loop::BufferId ring_;
  LV image_, begin_, end_;  // of the task: image, output rows
  LV from_;  // first channel of the panel
  Int panel_ = 0;  // its channels

  // -- choices ------------------------------------------------------------------------------------------------
  Dim depth() const {
    const Node& n = g_.node(before_.front());
    Dim k = 1;
    for (int d : n.op->contraction(NodeView{g_, before_.front()}).lhs_contract)
      k = k * g_.type(n.operands[0]).shape[static_cast<std::size_t>(d)];
    return k;
  }

  /// The operand of columns says how wide panels are, if it lies in panels.
  DepthwiseCut cut() const {
    const Int terms = before_.empty() ? 0 : depth().is_const() ? depth().value() : usual_depth;
    std::optional<Int> width;
    if (!before_.empty())
      if (auto panels = column_panels(g_, before_.front()); panels && panels->width) width = panels->width;
    Int maps = 0;
    for (std::size_t i = 1; i < before_.size(); ++i) maps += g_.node(before_[i]).op->cost;
    return pick_cut(depthwise_sizes(d_, dtype_bytes(t_), terms, maps), width, target_);
  }

  // -- loops --------------------------------------------------------------------------------------------------
  void loop(LV lo, LV hi, loop::ForOptions options, const std::function<void(LV)>& body) {
    stepped(b_, lo, hi, options, body);
  }
  void each(Int n, const std::function<void(LV)>& body) { loop(b_.index(0), b_.index(n), {}, body); }
  /// Channels of the panel, `width` at a time.
  void lanes(Int width, const std::function<void(LV)>& body) {
    loop(from_, b_.add(from_, b_.index(panel_)),
         {.mapping = Mapping::vector, .role = loop::AxisRole::col, .width = static_cast<std::uint16_t>(width)}, body);
  }
  LV times(LV a, Int n) { return b_.mul(a, b_.index(n)); }
  LV plus(LV a, Int n) { return b_.add(a, b_.index(n)); }

  // -- rows of the image --------------------------------------------------------------------------------------
  void panel_of(LV from, Int channels) {
    from_ = from, panel_ = channels;
    if (first_ > 0 || last_ < pitch_)
      each(reach_[0], [&](LV slot) {
        zeros(slot, 0, first_);
        zeros(slot, last_, pitch_);
      });
    loop(begin_, end_, {.role = loop::AxisRole::batch}, [&](LV h) {
      const Int skip = std::max<Int>(reach_[0] - d_.strides[0], 0);
      LV at = times(b_.sub(h, begin_), d_.strides[0]), next = plus(at, skip);
      LV lo = b_.select(b_.op(Op::cmp_eq, {h, begin_}), b_.index(0), next);
      loop(lo, plus(at, reach_[0]), {.role = loop::AxisRole::batch}, [&](LV row) { fill(row); });
      sums(h, at);
    });
  }

  /// Where row `row`, counted from the task's first, lies in the ring.
  LV slot_of(LV row) { return b_.op(Op::rem, {row, b_.index(reach_[0])}); }
  LV ring_at(LV slot, LV pixel, LV channel) {
    return b_.add(times(b_.add(times(slot, pitch_), pixel), width_), b_.sub(channel, from_));
  }

  void zeros(LV slot, Int from, Int to) {
    if (from >= to) return;
    loop(b_.index(from), b_.index(to), {}, [&](LV pixel) {
      lanes(lanes_, [&](LV c) { b_.store(ring_, ring_at(slot, pixel, c), b_.constant(t_, 0.0)); });
    });
  }

  void fill(LV row) {
    LV h = b_.sub(b_.add(times(begin_, d_.strides[0]), row), b_.index(low_[0])), slot = slot_of(row);
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

  void copy(LV h, LV slot) {
    loop(b_.index(first_), b_.index(last_), {}, [&](LV pixel) {
      lanes(2 * lanes_, [&](LV c) {
        LV x = k_.operand(0, LVs{image_, h, b_.sub(pixel, b_.index(low_[1])), c});
        b_.store(ring_, ring_at(slot, pixel, c), x);
      });
    });
  }

  /// Register tiles of pixels and the panel's channels.
  void compute(LV h, LV slot) {
    const Int registers = (panel_ + lanes_ - 1) / lanes_;
    const Pieces tiles = pieces(last_ - first_, most_pixels(registers, target_), 0.5);
    const auto width = static_cast<std::uint16_t>(tiles.length);
    auto tile = [&](LV start) {
      loop(start, plus(start, tiles.length), {.mapping = Mapping::rows, .role = loop::AxisRole::row, .width = width},
           [&](LV pixel) {
             lanes(registers * lanes_, [&](LV c) {
               LVs at{image_, h, b_.sub(pixel, b_.index(low_[1])), c};
               LV x = k_.before_element(at, lower_contraction(k_, before_.front(), at, false));
               b_.store(ring_, ring_at(slot, pixel, c), x);
             });
           });
    };
    over(tiles, last_ - first_, [&](LV start) { tile(plus(start, first_)); });
  }

  /// The first place of each piece of n places.
  void over(const Pieces& p, Int n, const std::function<void(LV)>& body) {
    if (p.count == 1) return body(b_.index(0));
    each(p.count, [&](LV i) {
      LV start = times(i, p.length);
      if (p.count * p.length > n) start = b_.op(Op::min, {start, b_.index(n - p.length)});
      body(start);
    });
  }

  // -- sums over taps -----------------------------------------------------------------------------------------
  /// Row h of the result; its window begins at row `at` of those that the task has made.
  void sums(LV h, LV at) {
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
        for (Int i = 0; i < n; ++i)
          k_.finish_element(LVs{image_, h, plus(start, i), c}, sum[static_cast<std::size_t>(i)]);
      });
    });
  }

  /// Adds what row i of the taps finds in a row of the ring from `pixel` on to the sums of neighbours.
  void taps(LV slot, LV i, LV pixel, LV c, LVs& sum) {
    const auto n = static_cast<Int>(sum.size()), s = d_.strides[1], dilation = d_.dilations[1];
    LV base = ring_at(slot, pixel, c);
    LVs w;
    for (Int j = 0; j < d_.taps[1]; ++j) w.push_back(k_.operand(1, LVs{i, b_.index(j), c}));
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
};

}  // namespace

bool has_depthwise_kernel(const Graph& g, NodeId id) {
  const DepthwiseDesc d = describe_depthwise(NodeView{g, id});
  auto known = [](const Dim& s) { return s.is_const() && s.value() > 0 && s.value() <= 1 << 24; };
  auto fits = [](const Dim& s) { return s.is_const() && std::abs(s.value()) <= 1 << 24; };
  for (std::size_t a : {0u, 1u})
    if (!known(d.size[a]) || !known(d.count[a]) || !fits(d.low[a]) || d.reach(a) > 1 << 12 || d.strides[a] > 1 << 12)
      return false;
  return known(d.channels) && d.taps[0] > 0 && d.taps[1] > 0 && d.taps[0] * d.taps[1] <= 1 << 10;
}

std::optional<ColumnPanels> column_panels(const Graph& g, NodeId product) {
  const Node& n = g.node(product);
  const ContractionDesc desc = n.op->contraction(NodeView{g, product});
  const std::size_t depth = desc.rhs_contract.size();
  ValueId v = n.operands[1];
  if (!desc.rhs_batch.empty() || g.type(v).shape.size() != depth + 1) return std::nullopt;
  for (std::size_t i = 0; i < depth; ++i)
    if (desc.rhs_contract[i] != static_cast<int>(i)) return std::nullopt;
  auto at = [&](std::string_view op) { return g.def(v).op->name == op; };
  auto ints = [&](const char* name) { return g.def(v).attrs.get_or<std::vector<Int>>(name, {}); };
  auto all = [](const auto& values, Int x) {
    return std::all_of(values.begin(), values.end(), [x](const auto& s) { return s == x; });
  };
  if (!is_virtual(g, g.value(v).node) || g.def(v).operands.empty()) return ColumnPanels{};
  if (at("slice")) {
    if (!all(g.def(v).attrs.get_or<Dims>("start", {}), 0) || !all(ints("stride"), 1)) return std::nullopt;
    v = g.def(v).operands[0];
  }
  if (!at("reshape")) return std::nullopt;
  const Dims& to = g.type(v).shape;
  v = g.def(v).operands[0];
  const Dims& from = g.type(v).shape;
  if (!at("transpose") || from.size() != depth + 2 || to.size() != depth + 1 ||
      !std::equal(to.begin(), to.end() - 1, from.begin()) || !from.back().is_const())
    return std::nullopt;
  std::vector<Int> perm = ints("perm"), want;
  for (std::size_t i = 1; i <= depth; ++i) want.push_back(static_cast<Int>(i));
  want.push_back(0), want.push_back(static_cast<Int>(depth) + 1);
  const Node& base = g.def(g.def(v).operands[0]);
  if (perm != want || (is_virtual(g, g.value(g.def(v).operands[0]).node) && !base.operands.empty()))
    return std::nullopt;
  return ColumnPanels{from.back().value()};
}

bool makes_rows(const Graph& g, NodeId product) {
  const Node& n = g.node(product);
  const Type& y = g.type(n.result());
  const ContractionDesc desc = n.op->contraction(NodeView{g, product});
  if (y.rank() != 4 || !desc.lhs_batch.empty() || desc.lhs_contract.empty() || y.dtype != g.type(n.operands[0]).dtype)
    return false;
  if (g.type(n.operands[0]).rank() != 3 + static_cast<int>(desc.lhs_contract.size())) return false;
  auto panels = column_panels(g, product);
  return panels && panels->width <= 128;
}

Result<std::vector<LoweredKernel>> lower_depthwise(const Graph& g, const Plan& plan, GroupId gid,
                                                   const TargetSpec& target) {
  std::vector<LoweredKernel> kernels;
  kernels.push_back(DepthwiseKernel(g, plan, gid, target).run());
  return kernels;
}

}  // namespace ag::passes

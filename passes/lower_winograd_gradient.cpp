// Filter gradient by Winograd -> one kernel, scheduled here. A task owns a block of channels by a block of filters and
// a part of the tiles. Chunk by chunk it transforms those tiles of image and cotangent into scratch memory,
// V[e][tile][channel] and Z[e][tile][filter], and adds points^2 products to S[e][channel][filter]; S is transformed to
// taps at last. If there is but one chunk, S is as small as a register tile, and each becomes taps at once.
#include "ir/ops/winograd.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"
#include "passes/winograd.hpp"
#include "passes/winograd_tiles.hpp"

namespace ag::passes {
namespace {

using loop::Mapping;
using loop::Op;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

class GradientKernel {
 public:
  GradientKernel(const Graph& g, NodeId id, const TargetSpec& target)
      : k_(g, id),
        b_(k_.builder()),
        combine_(b_),
        d_(describe_winograd_gradient(k_.view())),
        f_(winograd_transform(d_.tile)),
        parts_(k_.node().attrs.get_or<std::int64_t>("parts", 1)),
        blocking_(winograd_gradient_blocking(d_, parts_, k_.type().dtype, target)),
        registers_(target.lanes(dtype_bytes(k_.type().dtype))),
        tiles_(k_, d_, registers_, blocking_.channels),
        single_(blocking_.single(d_, parts_)) {}

  LoweredKernel run() {
    k_.read(0);
    k_.read(1);
    out_ = k_.result(0, loop::Access::write);
    const DType t = k_.type().dtype;
    const std::int64_t squares = f_.points * f_.points, pad = 16;
    v_step_ = blocking_.chunk * blocking_.channels + pad;
    z_step_ = blocking_.chunk * blocking_.filters + pad;
    s_step_ = (single_ ? blocking_.rows * blocking_.columns : blocking_.channels * blocking_.filters) + pad;
    v_ = b_.alloc(t, Dim(squares * v_step_), loop::Scope::scratch);
    z_ = b_.alloc(t, Dim(squares * z_step_), loop::Scope::scratch);
    s_ = b_.alloc(t, Dim(squares * s_step_), loop::Scope::scratch);
    const Dim channel_blocks = ceildiv(d_.channels, Dim(blocking_.channels)),
              filter_blocks = ceildiv(d_.filters, Dim(blocking_.filters));
    const Dim tasks = channel_blocks * filter_blocks * Dim(parts_);
    b_.kernel().tiles = tasks;
    tiles_.loop(b_.index(0), b_.dim(tasks), {.mapping = Mapping::tile}, [&](LV task) {
      b_.poll();
      auto next = [&](const Dim& size) {
        LV digit = size.is(1) ? b_.index(0) : b_.op(Op::rem, {task, b_.dim(size)});
        if (!size.is(1)) task = b_.op(Op::div, {task, b_.dim(size)});
        return digit;
      };
      channels_ = range(next(channel_blocks), blocking_.channels, d_.channels);
      filters_ = range(next(filter_blocks), blocking_.filters, d_.filters);
      const Range part = range(task, winograd_part(d_.tiles(), parts_), d_.tiles());
      clear();
      if (single_) {
        tiles_in(part.lo, b_.sub(part.hi, part.lo));
        cells_to_taps(b_.sub(part.hi, part.lo), task);
        return;
      }
      b_.for_(part.lo, part.hi, b_.index(blocking_.chunk), {}, {}, [&](LV first, const LVs&) {
        LV count = b_.op(Op::min, {b_.index(blocking_.chunk), b_.sub(part.hi, first)});
        tiles_in(first, count);
        products(count);
        return LVs{};
      });
      taps({b_.index(0), b_.index(blocking_.channels)}, {b_.index(0), b_.index(blocking_.filters)}, sums_of_block(),
           task);
    });
    Dim flops = d_.tiles() * Dim(squares) * d_.channels * d_.filters * Dim(2);
    return k_.finish("winograd_gradient", flops + d_.tiles() * Dim(squares * 8) * (d_.channels + d_.filters));
  }

 private:
  OwnKernel k_;
  loop::Builder& b_;
  WinogradCombination combine_;
  WinogradDesc d_;
  const WinogradTransform& f_;
  std::int64_t parts_;
  WinogradGradientBlocking blocking_;
  int registers_;  // elements that fill a register
  WinogradTiles tiles_;
  bool single_;
  std::int64_t v_step_ = 0, z_step_ = 0, s_step_ = 0;
  loop::BufferId v_, z_, s_, out_;

  struct Range {
    LV lo, hi;
  };
  Range channels_, filters_;  // of the task

  Range range(LV number, const Dim& size, const Dim& all) {
    Range r{b_.mul(number, b_.dim(size)), {}};
    r.hi = b_.add(r.lo, b_.dim(size));
    if (!mod(all, size).is(0)) {
      r.hi = b_.op(Op::min, {r.hi, b_.dim(all)});
      if (size.is_const() && all.is_const()) return r;
      r.lo = b_.op(Op::min, {r.lo, r.hi});
    }
    return r;
  }

  void fill(loop::BufferId buffer, std::int64_t count) {
    tiles_.lanes(b_.index(0), b_.index(count), 2 * registers_,
                 [&](LV i) { b_.store(buffer, i, b_.constant(k_.type().dtype, 0.0)); });
  }
  /// Sums begin at 0; lanes of a block that no channel or filter is for are never written, so they are cleared too.
  void clear() {
    const std::int64_t squares = f_.points * f_.points;
    if (!single_) fill(s_, squares * s_step_);
    if (!mod(d_.channels, Dim(blocking_.channels)).is(0)) fill(v_, squares * v_step_);
    if (!mod(d_.filters, Dim(blocking_.filters)).is(0)) fill(z_, squares * z_step_);
  }

  /// V and Z of tiles [first, first + count).
  void tiles_in(LV first, LV count) {
    tiles_.loop(b_.index(0), count, {}, [&](LV i) {
      const WinogradTiles::Place p = tiles_.place(b_.add(first, i), false);
      tiles_.image(p, channels_.lo, channels_.hi, v_, b_.mul(i, b_.index(blocking_.channels)), Dim(v_step_));
      cotangent(p, i);
    });
  }

  /// The result's tile at p, zero beyond its borders, transformed into Z.
  void cotangent(const WinogradTiles::Place& p, LV i) {
    tiles_.lanes(filters_.lo, filters_.hi, registers_, [&](LV m) {
      LVs y;
      for (std::int64_t h = 0; h < d_.tile; ++h)
        for (std::int64_t w = 0; w < d_.tile; ++w) {
          LV row = b_.add(p.row, b_.index(h)), column = b_.add(p.column, b_.index(w)), there;
          if (h && !mod(d_.out_height, Dim(d_.tile)).is(0)) there = b_.op(Op::cmp_lt, {row, b_.dim(d_.out_height)});
          if (w && !mod(d_.out_width, Dim(d_.tile)).is(0))
            there = tiles_.both(there, b_.op(Op::cmp_lt, {column, b_.dim(d_.out_width)}));
          const LVs at{p.image, row, column, m};
          auto load = [&] { return LVs{k_.operand(1, at)}; };
          y.push_back(there ? b_.if_(there, load, [&] { return LVs{b_.constant(k_.in(1).dtype, 0.0)}; })[0]
                            : load()[0]);
        }
      const LVs z = combine_.both_axes(transposed(f_.at), y);
      LV to = b_.add(b_.mul(i, b_.index(blocking_.filters)), b_.sub(m, filters_.lo));
      for (std::size_t e = 0; e < z.size(); ++e)
        b_.store(z_, b_.add(to, b_.index(static_cast<std::int64_t>(e) * z_step_)), z[e]);
    });
  }

  /// What part of a block S holds: rows and columns from here on.
  struct Sums {
    LV row, column;
    std::int64_t pitch;
  };
  Sums sums_of_block() { return {b_.index(0), b_.index(0), blocking_.filters}; }
  LV place(const Sums& sums, LV c, LV m) {
    return b_.add(b_.mul(b_.sub(c, sums.row), b_.index(sums.pitch)), b_.sub(m, sums.column));
  }

  /// Sums of point e over `count` tiles for a register tile of channels from c on and filters from `panel` on.
  void cell(LV e, LV c_lo, LV panel, LV count, const Sums& sums, bool add) {
    const loop::ForOptions rows{
        .mapping = Mapping::rows, .role = loop::AxisRole::row, .width = static_cast<std::uint16_t>(blocking_.rows)};
    tiles_.loop(c_lo, b_.add(c_lo, b_.index(blocking_.rows)), rows, [&](LV c) {
      tiles_.lanes(panel, b_.add(panel, b_.index(blocking_.columns)), blocking_.columns, [&](LV m) {
        LV v = b_.add(b_.mul(e, b_.index(v_step_)), c), z = b_.add(b_.mul(e, b_.index(z_step_)), m);
        LV s = b_.add(b_.mul(e, b_.index(s_step_)), place(sums, c, m));
        LV start = add ? b_.load(s_, s) : b_.constant(k_.type().dtype, 0.0);
        LV sum = b_.for_(b_.index(0), count, b_.index(1), {.role = loop::AxisRole::reduce}, {start},
                         [&](LV i, const LVs& so_far) {
                           LV l = b_.load(v_, b_.add(v, b_.mul(i, b_.index(blocking_.channels))));
                           LV r = b_.load(z_, b_.add(z, b_.mul(i, b_.index(blocking_.filters))));
                           return LVs{b_.op(Op::fma, {l, r, so_far[0]})};
                         })[0];
        b_.store(s_, s, sum);
      });
    });
  }

  void each_cell(const std::function<void(LV c, LV panel)>& body) {
    auto steps = [&](std::int64_t size, std::int64_t step, const std::function<void(LV)>& at) {
      b_.for_(b_.index(0), b_.index(size), b_.index(step), {}, {}, [&](LV i, const LVs&) { return at(i), LVs{}; });
    };
    steps(blocking_.filters, blocking_.columns,
          [&](LV panel) { steps(blocking_.channels, blocking_.rows, [&](LV c) { body(c, panel); }); });
  }

  /// S += V^T Z of each point.
  void products(LV count) {
    tiles_.each(f_.points * f_.points,
                [&](LV e) { each_cell([&](LV c, LV panel) { cell(e, c, panel, count, sums_of_block(), true); }); });
  }

  void cells_to_taps(LV count, LV part) {
    each_cell([&](LV c, LV panel) {
      const Sums sums{c, panel, blocking_.columns};
      tiles_.each(f_.points * f_.points, [&](LV e) { cell(e, c, panel, count, sums, false); });
      taps({c, b_.add(c, b_.index(blocking_.rows))}, {panel, b_.add(panel, b_.index(blocking_.columns))}, sums, part);
    });
  }

  /// Taps of these channels and filters of the block, as far as there are such.
  void taps(const Range& channels, const Range& filters, const Sums& sums, LV part) {
    auto within = [&](LV hi, const Range& all, const Dim& size, std::int64_t block) {
      return mod(size, Dim(block)).is(0) ? hi : b_.op(Op::min, {hi, b_.sub(all.hi, all.lo)});
    };
    LV c_hi = within(channels.hi, channels_, d_.channels, blocking_.channels),
       m_hi = within(filters.hi, filters_, d_.filters, blocking_.filters);
    tiles_.loop(channels.lo, c_hi, {}, [&](LV c) {
      tiles_.lanes(filters.lo, m_hi, registers_, [&](LV m) {
        LV from = place(sums, c, m);
        LVs s;
        for (std::int64_t e = 0; e < f_.points * f_.points; ++e)
          s.push_back(b_.load(s_, b_.add(from, b_.index(e * s_step_))));
        const LVs w = combine_.both_axes(transposed(f_.g), s);
        for (std::int64_t i = 0; i < 9; ++i)
          b_.store(out_,
                   k_.at_result(
                       0, LVs{part, b_.index(i / 3), b_.index(i % 3), b_.add(channels_.lo, c), b_.add(filters_.lo, m)}),
                   w[static_cast<std::size_t>(i)]);
      });
    });
  }
};

}  // namespace

Result<std::vector<LoweredKernel>> lower_winograd_gradient(const Graph& g, NodeId id, const TargetSpec& target) {
  std::vector<LoweredKernel> kernels;
  kernels.push_back(GradientKernel(g, id, target).run());
  return kernels;
}

}  // namespace ag::passes

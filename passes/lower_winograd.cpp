// Winograd convolution -> one kernel, scheduled here. A task owns a block of tiles and a share of the panels of 32
// output channels. It transforms its tiles of the image into scratch memory, V[e][tile][C], all channels at once; then
// for each panel it makes points^2 products [tiles x C] * [C x 32] into M[e][tile][32], and transforms those back, with
// the maps fused into the group. Widths, pitches and the recipe: docs/decisions.md.
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

class WinogradKernel {
 public:
  WinogradKernel(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target)
      : k_(g, plan, gid),
        b_(k_.builder()),
        combine_(b_),
        d_(describe_winograd(k_.view())),
        f_(winograd_transform(d_.tile)),
        form_(winograd_filters_of(k_.node().attrs)),
        blocking_(winograd_blocking(d_, form_, k_.type().dtype, target)),
        registers_(target.lanes(dtype_bytes(k_.type().dtype))),
        tiles_(k_, d_, registers_, d_.channels),
        taps_(k_, 1, d_.tile, form_ == WinogradFilters::turned, registers_, blocking_.chunk) {}

  LoweredKernel run() {
    k_.read(0);
    k_.read(1);
    k_.members();
    const Dim squares = f_.points * f_.points, block(blocking_.block);
    pitch_ = ceildiv(d_.channels, Dim(16)) * Dim(16) + Dim(16);
    v_step_ = block * pitch_ + Dim(16);
    m_step_ = block * Dim(winograd_panel) + Dim(16);
    v_ = b_.alloc(k_.type().dtype, squares * v_step_, loop::Scope::scratch);
    m_ = b_.alloc(k_.type().dtype, squares * m_step_, loop::Scope::scratch);
    if (blocking_.chunk) {
      u_step_ = blocking_.chunk * winograd_panel + 16;
      u_ = b_.alloc(k_.type().dtype, squares * Dim(u_step_), loop::Scope::scratch);
    }
    const Dim blocks = ceildiv(d_.tiles(), block), tasks = blocks * Dim(blocking_.shares);
    b_.kernel().tiles = tasks;
    loop(b_.index(0), b_.dim(tasks), {.mapping = Mapping::tile}, [&](LV task) {
      b_.poll();
      first_ = b_.mul(b_.op(Op::rem, {task, b_.dim(blocks)}), b_.dim(block));
      each(blocking_.block, [&](LV i) { tile_in(i); });
      LV from = b_.index(0), to = b_.dim(d_.panels());
      if (blocking_.shares > 1) {
        LV share = b_.op(Op::div, {task, b_.dim(blocks)}), panels = b_.dim(ceildiv(d_.panels(), blocking_.shares));
        from = b_.mul(share, panels);
        to = b_.op(Op::min, {b_.add(from, panels), to});
      }
      loop(from, to, {}, [&](LV p) {
        form_ == WinogradFilters::transformed ? products(p) : products_of_chunks(p);
        each(blocking_.block, [&](LV i) { tile_out(p, i); });
      });
    });
    Dim flops = d_.tiles() * squares * d_.channels * d_.filters * Dim(2);
    return k_.finish("winograd", flops + d_.tiles() * squares * Dim(8) * (d_.channels + d_.filters));
  }

 private:
  OwnKernel k_;
  loop::Builder& b_;
  WinogradCombination combine_;
  WinogradDesc d_;
  const WinogradTransform& f_;
  WinogradFilters form_;
  WinogradBlocking blocking_;
  int registers_;  // elements that fill a register
  WinogradTiles tiles_;
  WinogradTaps taps_;
  Dim pitch_, v_step_, m_step_;
  std::int64_t u_step_ = 0;
  loop::BufferId v_, m_, u_;
  LV first_;  // tile of the task

  void loop(LV lo, LV hi, loop::ForOptions options, const std::function<void(LV)>& body) {
    tiles_.loop(lo, hi, options, body);
  }
  void each(std::int64_t n, const std::function<void(LV)>& body) { tiles_.each(n, body); }
  void lanes(LV lo, LV hi, int width, const std::function<void(LV)>& body) { tiles_.lanes(lo, hi, width, body); }

  using Place = WinogradTiles::Place;
  /// Of tile `i` of the block.
  Place place(LV i) { return tiles_.place(b_.add(first_, i), !mod(d_.tiles(), Dim(blocking_.block)).is(0)); }
  void tile_in(LV i) {
    tiles_.image(place(i), b_.index(0), b_.dim(d_.channels), v_, b_.mul(i, b_.dim(pitch_)), v_step_);
  }

  // -- V, U -> M --------------------------------------------------------------------------------------------------
  /// M = V * U, or M += V * U, over channels [0, count) from `first` on; `filter` is element (e, channel, m) of U.
  void product(LV first, LV count, bool add, const std::function<LV(LV e, LV c, LV m)>& filter) {
    const DType t = k_.type().dtype;
    each(f_.points * f_.points, [&](LV e) {
      loop::ForOptions rows{
          .mapping = Mapping::rows, .role = loop::AxisRole::row, .width = static_cast<std::uint16_t>(blocking_.rows)};
      loop(b_.index(0), b_.index(blocking_.block), rows, [&](LV i) {
        lanes(b_.index(0), b_.index(winograd_panel), blocking_.columns, [&](LV m) {
          LV v = b_.add(b_.add(b_.mul(e, b_.dim(v_step_)), b_.mul(i, b_.dim(pitch_))), first);
          LV at = b_.add(b_.add(b_.mul(e, b_.dim(m_step_)), b_.mul(i, b_.index(winograd_panel))), m);
          LV sum = b_.for_(b_.index(0), count, b_.index(1), {.role = loop::AxisRole::reduce},
                           {add ? b_.load(m_, at) : b_.constant(t, 0.0)}, [&](LV c, const LVs& s) {
                             return LVs{b_.op(Op::fma, {b_.load(v_, b_.add(v, c)), filter(e, c, m), s[0]})};
                           })[0];
          b_.store(m_, at, sum);
        });
      });
    });
  }

  void products(LV p) {
    product(b_.index(0), b_.dim(d_.channels), false, [&](LV e, LV c, LV m) { return k_.operand(1, LVs{p, e, c, m}); });
  }

  /// Filters are transformed a few channels at a time, so that they stay in the cache.
  void products_of_chunks(LV p) {
    const Dim chunk(blocking_.chunk);
    const bool one = ceildiv(d_.channels, chunk).is(1);
    if (!one)
      lanes(b_.index(0), b_.dim(Dim(f_.points * f_.points) * m_step_), 2 * registers_,
            [&](LV i) { b_.store(m_, i, b_.constant(k_.type().dtype, 0.0)); });
    auto piece = [&](LV first, LV count) {
      taps_.transform(tiles_, p, first, count, u_, b_.index(0), Dim(u_step_));
      product(first, count, !one, [&](LV e, LV c, LV m) {
        LV row = b_.add(b_.mul(e, b_.index(u_step_)), b_.mul(c, b_.index(winograd_panel)));
        return b_.load(u_, b_.add(row, m));
      });
    };
    if (one) return piece(b_.index(0), b_.dim(d_.channels));
    b_.for_(b_.index(0), b_.dim(d_.channels), b_.dim(chunk), {}, {}, [&](LV first, const LVs&) {
      LV count = b_.dim(chunk);
      if (!mod(d_.channels, chunk).is(0)) count = b_.op(Op::min, {count, b_.sub(b_.dim(d_.channels), first)});
      piece(first, count);
      return LVs{};
    });
  }

  // -- M -> result ------------------------------------------------------------------------------------------------
  void tile_out(LV panel, LV i) {
    Place p = place(i);
    auto body = [&] {
      LV from = b_.mul(panel, b_.index(winograd_panel)), to = b_.add(from, b_.index(winograd_panel));
      if (!mod(d_.filters, Dim(winograd_panel)).is(0)) to = b_.op(Op::min, {to, b_.dim(d_.filters)});
      LV start = b_.sub(b_.mul(i, b_.index(winograd_panel)), from);
      lanes(from, to, registers_, [&](LV m) {
        LVs z;
        LV at = b_.add(start, m);
        for (std::int64_t e = 0; e < f_.points * f_.points; ++e)
          z.push_back(b_.load(m_, b_.add(at, b_.dim(m_step_ * Dim(e)))));
        LVs y = combine_.both_axes(f_.at, z);
        for (std::int64_t h = 0; h < d_.tile; ++h)
          for (std::int64_t w = 0; w < d_.tile; ++w) finish(p, h, w, m, y[static_cast<std::size_t>(h * d_.tile + w)]);
      });
      return LVs{};
    };
    if (p.exists)
      b_.if_(p.exists, body, [] { return LVs{}; });
    else
      body();
  }

  void finish(const Place& p, std::int64_t h, std::int64_t w, LV m, LV y) {
    LV row = b_.add(p.row, b_.index(h)), column = b_.add(p.column, b_.index(w)), there;
    if (h && !mod(d_.out_height, Dim(d_.tile)).is(0)) there = b_.op(Op::cmp_lt, {row, b_.dim(d_.out_height)});
    if (w && !mod(d_.out_width, Dim(d_.tile)).is(0))
      there = tiles_.both(there, b_.op(Op::cmp_lt, {column, b_.dim(d_.out_width)}));
    auto store = [&] {
      k_.finish_element(LVs{p.image, row, column, m}, y);
      return LVs{};
    };
    if (there)
      b_.if_(there, store, [] { return LVs{}; });
    else
      store();
  }
};

}  // namespace

Result<std::vector<LoweredKernel>> lower_winograd(const Graph& g, const Plan& plan, GroupId gid,
                                                  const TargetSpec& target) {
  std::vector<LoweredKernel> kernels;
  kernels.push_back(WinogradKernel(g, plan, gid, target).run());
  return kernels;
}

/// A task transforms a panel of filters for a few channels.
Result<std::vector<LoweredKernel>> lower_winograd_filter(const Graph& g, NodeId id, const TargetSpec& target) {
  OwnKernel k(g, id);
  loop::Builder& b = k.builder();
  k.read(0);
  const loop::BufferId out = k.result(0, loop::Access::write);
  const std::int64_t tile = k.node().attrs.get_or<std::int64_t>("tile", 2);
  const bool turned = winograd_filters_of(k.node().attrs) == WinogradFilters::turned;
  const Dims& u = k.type().shape;  // [panels, points, channels, 32]
  const std::int64_t chunk = transform_chunk(u[2]);
  const int registers = target.lanes(dtype_bytes(k.type().dtype));
  // Points of the result lie a power of two apart, often: they are gathered where they do not.
  const std::int64_t points = winograd_transform(tile).points * winograd_transform(tile).points,
                     step = chunk * winograd_panel + 16;
  const loop::BufferId scratch = b.alloc(k.type().dtype, Dim(points * step), loop::Scope::scratch);
  WinogradTiles loops(k, {}, registers, 0);
  WinogradTaps taps(k, 0, tile, turned, registers, chunk);
  const Dim chunks = ceildiv(u[2], Dim(chunk)), tasks = u[0] * chunks;
  b.kernel().tiles = tasks;
  loops.loop(b.index(0), b.dim(tasks), {.mapping = Mapping::tile}, [&](LV task) {
    b.poll();
    LV panel = b.op(Op::div, {task, b.dim(chunks)}),
       first = b.mul(b.op(Op::rem, {task, b.dim(chunks)}), b.index(chunk)), count = b.index(chunk);
    if (!mod(u[2], Dim(chunk)).is(0)) count = b.op(Op::min, {count, b.sub(b.dim(u[2]), first)});
    taps.transform(loops, panel, first, count, scratch, b.index(0), Dim(step));
    LV to = b.add(b.mul(panel, b.dim(u[1] * u[2] * Dim(winograd_panel))), b.mul(first, b.index(winograd_panel)));
    loops.each(points, [&](LV e) {
      LV from = b.mul(e, b.index(step)), there = b.add(to, b.mul(e, b.dim(u[2] * Dim(winograd_panel))));
      loops.lanes(b.index(0), b.mul(count, b.index(winograd_panel)), 2 * registers,
                  [&](LV i) { b.store(out, b.add(there, i), b.load(scratch, b.add(from, i))); });
    });
  });
  std::vector<LoweredKernel> kernels;
  kernels.push_back(k.finish("winograd_filter", k.type().elems() * Dim(4)));
  return kernels;
}

}  // namespace ag::passes

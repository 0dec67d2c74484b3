// Winograd convolution -> one kernel, scheduled here. A task owns a block of tiles and a share of the panels of 32
// output channels. It transforms its tiles of the image into scratch memory, V[e][tile][C], all channels at once; then
// for each panel it makes points^2 products [tiles x C] * [C x 32] into M[e][tile][32], and transforms those back, with
// the maps fused into the group. Widths, pitches and the recipe: docs/decisions.md.
#include <cmath>
#include <utility>

#include "ir/ops/winograd.hpp"
#include "passes/lower_own.hpp"
#include "passes/own_kernel.hpp"
#include "passes/winograd.hpp"

namespace ag::passes {
namespace {

using loop::Mapping;
using loop::Op;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

/// Matrices with few distinct numbers times vectors of statements.
struct Combination {
  loop::Builder& b;

  LV times(double c, LV x) const { return b.mul(b.constant(b.type(x).elem, c), x); }
  LV plus(LV sum, double c, LV x) const {
    if (!sum) return c == 1 ? x : times(c, x);
    if (c == 1) return b.add(sum, x);
    if (c == -1) return b.sub(sum, x);
    return b.op(Op::fma, {b.constant(b.type(x).elem, c), x, sum});
  }
  /// The sum of c[k] * x[k]; what needs no product first.
  LV sum(const std::vector<double>& c, const LVs& x) const {
    LV s;
    for (bool ones : {true, false})
      for (std::size_t k = 0; k < c.size(); ++k)
        if (c[k] != 0 && (c[k] == 1) == ones) s = plus(s, c[k], x[k]);
    return s;
  }

  /// m * x. Rows r, r + 1 that differ in the signs of some columns share two sums; so do columns in pairs.
  LVs product(WinogradMatrix m, LVs x) const {
    pair_columns(m, x);
    LVs y;
    for (std::size_t r = 0; r < m.size(); ++r) {
      std::vector<double> same(x.size()), opposite(x.size());
      if (r + 1 == m.size() || !split(m[r], m[r + 1], same, opposite)) {
        y.push_back(sum(m[r], x));
        continue;
      }
      double scale = common_factor(opposite);
      for (double& c : opposite) c /= scale;
      LV s = sum(same, x), d = sum(opposite, x);
      y.push_back(plus(s, scale, d));
      y.push_back(plus(s, -scale, d));
      ++r;
    }
    return y;
  }

  static double common_factor(const std::vector<double>& c) {
    double factor = 0;
    for (double v : c) {
      if (v == 0) continue;
      if (factor != 0 && std::abs(v) != factor) return 1;
      factor = std::abs(v);
    }
    return factor == 0 ? 1 : factor;
  }

  static bool split(const std::vector<double>& p, const std::vector<double>& q, std::vector<double>& same,
                    std::vector<double>& opposite) {
    bool differ = false, agree = false;
    for (std::size_t k = 0; k < p.size(); ++k) {
      if (std::abs(p[k]) != std::abs(q[k])) return false;
      if (p[k] == 0) continue;
      (p[k] == q[k] ? same : opposite)[k] = p[k];
      (p[k] == q[k] ? agree : differ) = true;
    }
    return agree && differ;
  }

  /// Columns whose numbers are equal up to signs become a sum and a difference.
  void pair_columns(WinogradMatrix& m, LVs& x) const {
    for (std::size_t c = 0; c + 1 < x.size(); ++c) {
      bool equal = true, agree = false, differ = false;
      for (const auto& row : m) {
        equal = equal && std::abs(row[c]) == std::abs(row[c + 1]);
        agree = agree || (row[c] != 0 && row[c] == row[c + 1]);
        differ = differ || (row[c] != 0 && row[c] == -row[c + 1]);
      }
      if (!equal || !agree || !differ) continue;
      LV sum = b.add(x[c], x[c + 1]), difference = b.sub(x[c], x[c + 1]);
      x[c] = sum, x[c + 1] = difference;
      for (auto& row : m)
        if (row[c] == row[c + 1])
          row[c + 1] = 0;
        else
          row[c + 1] = std::exchange(row[c], 0);
      ++c;
    }
  }

  /// m * x * m^T of a square of values, row by row.
  LVs both_axes(const WinogradMatrix& m, const LVs& x) const {
    const std::size_t n = m[0].size(), rows = m.size();
    LVs half(rows * n), out(rows * rows);
    for (std::size_t j = 0; j < n; ++j) {
      LVs column;
      for (std::size_t i = 0; i < n; ++i) column.push_back(x[i * n + j]);
      column = product(m, column);
      for (std::size_t i = 0; i < rows; ++i) half[i * n + j] = column[i];
    }
    for (std::size_t i = 0; i < rows; ++i) {
      LVs row(half.begin() + static_cast<std::ptrdiff_t>(i * n), half.begin() + static_cast<std::ptrdiff_t>(i * n + n));
      row = product(m, row);
      for (std::size_t j = 0; j < rows; ++j) out[i * rows + j] = row[j];
    }
    return out;
  }
};

class WinogradKernel {
 public:
  WinogradKernel(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target)
      : k_(g, plan, gid),
        b_(k_.builder()),
        combine_{b_},
        d_(describe_winograd(k_.view())),
        f_(winograd_transform(d_.tile)),
        blocking_(winograd_blocking(d_, k_.type().dtype, target)) {
    registers_ = target.lanes(dtype_bytes(k_.type().dtype));
  }

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
    patch_ = b_.alloc(k_.type().dtype, squares * pitch_, loop::Scope::scratch);
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
        products(p);
        each(blocking_.block, [&](LV i) { tile_out(p, i); });
      });
    });
    Dim flops = d_.tiles() * squares * d_.channels * d_.filters * Dim(2);
    return k_.finish("winograd", flops + d_.tiles() * squares * Dim(8) * (d_.channels + d_.filters));
  }

 private:
  OwnKernel k_;
  loop::Builder& b_;
  Combination combine_;
  WinogradDesc d_;
  const WinogradTransform& f_;
  WinogradBlocking blocking_;
  int registers_;  // elements that fill a register
  Dim pitch_, v_step_, m_step_;
  loop::BufferId v_, m_, patch_;  // patch_: the pixels of one tile
  LV first_;  // tile of the task

  void loop(LV lo, LV hi, loop::ForOptions options, const std::function<void(LV)>& body) {
    b_.for_(lo, hi, b_.index(options.width ? options.width : 1), options, {}, [&](LV iv, const LVs&) {
      body(iv);
      return LVs{};
    });
  }
  void each(std::int64_t n, const std::function<void(LV)>& body) { loop(b_.index(0), b_.index(n), {}, body); }
  void lanes(LV lo, LV hi, int width, const std::function<void(LV)>& body) {
    loop(lo, hi, {.mapping = Mapping::vector, .role = loop::AxisRole::col, .width = static_cast<std::uint16_t>(width)},
         body);
  }
  LV both(LV a, LV c) { return !a ? c : b_.op(Op::and_, {a, c}); }
  LV within(LV at, const Dim& size) {
    return both(b_.op(Op::cmp_le, {b_.index(0), at}), b_.op(Op::cmp_lt, {at, b_.dim(size)}));
  }

  /// Where tile `i` of the block lies: its image, and its first row and column in the result.
  struct Place {
    LV exists, image, row, column;
  };
  Place place(LV i) {
    LV tile = b_.add(first_, i), rows = b_.dim(d_.rows()), columns = b_.dim(d_.columns()), t = b_.index(d_.tile);
    LV line = b_.op(Op::div, {tile, columns});
    Place p;
    if (!mod(d_.tiles(), Dim(blocking_.block)).is(0)) p.exists = b_.op(Op::cmp_lt, {tile, b_.dim(d_.tiles())});
    p.image = d_.batch.is(1) ? b_.index(0) : b_.op(Op::div, {line, rows});
    p.row = b_.mul(d_.batch.is(1) ? line : b_.op(Op::rem, {line, rows}), t);
    p.column = b_.mul(b_.op(Op::rem, {tile, columns}), t);
    return p;
  }

  // -- image -> V -------------------------------------------------------------------------------------------------
  /// Tiles that no border cuts are read where they lie; others, and what is a view, through a copy with zeros around.
  void tile_in(LV i) {
    Place p = place(i);
    const Corner corner{p.image, b_.sub(p.row, b_.dim(d_.low[0])), b_.sub(p.column, b_.dim(d_.low[1])), p.exists};
    auto buffer = k_.buffer_of(0);
    auto copied = [&] {
      copy(corner);
      transform(i, patch_, b_.index(0),
                [&](std::int64_t h, std::int64_t w) { return Dim(h * f_.points + w) * pitch_; });
      return LVs{};
    };
    if (!buffer) {
      copied();
      return;
    }
    LV last = b_.index(f_.points - 1);
    LV inside = both(both(within(corner.row, d_.height), within(b_.add(corner.row, last), d_.height)),
                     both(within(corner.column, d_.width), within(b_.add(corner.column, last), d_.width)));
    if (p.exists) inside = both(p.exists, inside);
    b_.if_(
        inside,
        [&] {
          LV pixel =
              b_.add(b_.mul(b_.add(b_.mul(p.image, b_.dim(d_.height)), corner.row), b_.dim(d_.width)), corner.column);
          transform(i, *buffer, b_.mul(pixel, b_.dim(d_.channels)),
                    [&](std::int64_t h, std::int64_t w) { return (d_.width * Dim(h) + Dim(w)) * d_.channels; });
          return LVs{};
        },
        copied);
  }

  /// Where a tile begins in the image, outside of it perhaps.
  struct Corner {
    LV image, row, column, exists;
  };
  void copy(const Corner& at) {
    each(f_.points, [&](LV i) {
      LV h = b_.add(at.row, i), row_there = within(h, d_.height);
      if (at.exists) row_there = both(at.exists, row_there);
      each(f_.points, [&](LV j) {
        LV w = b_.add(at.column, j), to = b_.mul(b_.add(b_.mul(i, b_.index(f_.points)), j), b_.dim(pitch_));
        auto fill = [&](bool there) {
          return [&, there] {
            lanes(b_.index(0), b_.dim(d_.channels), 2 * registers_, [&](LV c) {
              LV x = there ? k_.operand(0, LVs{at.image, h, w, c}) : b_.constant(k_.type().dtype, 0.0);
              b_.store(patch_, b_.add(to, c), x);
            });
            return LVs{};
          };
        };
        b_.if_(both(row_there, within(w, d_.width)), fill(true), fill(false));
      });
    });
  }

  /// Tile i of V from elements of `buffer`: `offset` of a pixel of the tile is part of the address.
  void transform(LV i, loop::BufferId buffer, LV corner, const std::function<Dim(std::int64_t, std::int64_t)>& offset) {
    lanes(b_.index(0), b_.dim(d_.channels), registers_, [&](LV c) {
      LVs x;
      LV from = b_.add(corner, c), to = b_.add(b_.mul(i, b_.dim(pitch_)), c);
      for (std::int64_t h = 0; h < f_.points; ++h)
        for (std::int64_t w = 0; w < f_.points; ++w) x.push_back(b_.load(buffer, b_.add(from, b_.dim(offset(h, w)))));
      LVs v = combine_.both_axes(f_.bt, x);
      for (std::size_t e = 0; e < v.size(); ++e)
        b_.store(v_, b_.add(to, b_.dim(v_step_ * Dim(static_cast<std::int64_t>(e)))), v[e]);
    });
  }

  // -- V, U -> M --------------------------------------------------------------------------------------------------
  void products(LV p) {
    const DType t = k_.type().dtype;
    each(f_.points * f_.points, [&](LV e) {
      loop::ForOptions rows{
          .mapping = Mapping::rows, .role = loop::AxisRole::row, .width = static_cast<std::uint16_t>(blocking_.rows)};
      loop(b_.index(0), b_.index(blocking_.block), rows, [&](LV i) {
        lanes(b_.index(0), b_.index(winograd_panel), blocking_.columns, [&](LV m) {
          LV v = b_.add(b_.mul(e, b_.dim(v_step_)), b_.mul(i, b_.dim(pitch_)));
          LV sum = b_.for_(b_.index(0), b_.dim(d_.channels), b_.index(1), {.role = loop::AxisRole::reduce},
                           {b_.constant(t, 0.0)}, [&](LV c, const LVs& s) {
                             LV u = k_.operand(1, LVs{p, e, c, m});
                             return LVs{b_.op(Op::fma, {b_.load(v_, b_.add(v, c)), u, s[0]})};
                           })[0];
          LV at = b_.add(b_.mul(e, b_.dim(m_step_)), b_.mul(i, b_.index(winograd_panel)));
          b_.store(m_, b_.add(at, m), sum);
        });
      });
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
      there = both(there, b_.op(Op::cmp_lt, {column, b_.dim(d_.out_width)}));
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

/// All points of one channel of 32 filters at a time: lanes run over the filters.
Result<std::vector<LoweredKernel>> lower_winograd_filter(const Graph& g, NodeId id) {
  OwnKernel k(g, id);
  loop::Builder& b = k.builder();
  k.read(0);
  loop::BufferId out = k.result(0, loop::Access::write);
  const WinogradTransform& f = winograd_transform(k.node().attrs.get_or<std::int64_t>("tile", 2));
  const Dim filters = k.in(0).shape[3];
  LVs at(4);
  k.nest({0, 2, 3}, k.type().shape, at, true, [&] {
    LV m = b.add(b.mul(at[0], b.index(winograd_panel)), at[3]), there;
    if (!mod(filters, Dim(winograd_panel)).is(0)) there = b.op(Op::cmp_lt, {m, b.dim(filters)});
    LVs taps;
    for (std::int64_t i = 0; i < 9; ++i) {
      LVs index{b.index(i / 3), b.index(i % 3), at[2], m};
      taps.push_back(there ? k.operand_where(0, index, there) : k.operand(0, index));
    }
    LVs u = Combination{b}.both_axes(f.g, taps);
    for (std::size_t e = 0; e < u.size(); ++e) {
      at[1] = b.index(static_cast<std::int64_t>(e));
      b.store(out, k.at_result(0, at), u[e]);
    }
  });
  std::vector<LoweredKernel> kernels;
  kernels.push_back(k.finish("winograd_filter", k.type().elems() * Dim(4)));
  return kernels;
}

}  // namespace ag::passes

#include "passes/winograd_tiles.hpp"

#include <cmath>
#include <utility>

namespace ag::passes {

using loop::Op;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

namespace {

double common_factor(const std::vector<double>& c) {
  double factor = 0;
  for (double v : c) {
    if (v == 0) continue;
    if (factor != 0 && std::abs(v) != factor) return 1;
    factor = std::abs(v);
  }
  return factor == 0 ? 1 : factor;
}

bool split(const std::vector<double>& p, const std::vector<double>& q, std::vector<double>& same,
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

}  // namespace

LV WinogradCombination::times(double c, LV x) const { return b_.mul(b_.constant(b_.type(x).elem, c), x); }
LV WinogradCombination::plus(LV sum, double c, LV x) const {
  if (!sum) return c == 1 ? x : times(c, x);
  if (c == 1) return b_.add(sum, x);
  if (c == -1) return b_.sub(sum, x);
  return b_.op(Op::fma, {b_.constant(b_.type(x).elem, c), x, sum});
}
/// The sum of c[k] * x[k]; what needs no product first.
LV WinogradCombination::sum(const std::vector<double>& c, const LVs& x) const {
  LV s;
  for (bool ones : {true, false})
    for (std::size_t k = 0; k < c.size(); ++k)
      if (c[k] != 0 && (c[k] == 1) == ones) s = plus(s, c[k], x[k]);
  return s;
}

/// m * x. Rows r, r + 1 that differ in the signs of some columns share two sums; so do columns in pairs.
LVs WinogradCombination::product(WinogradMatrix m, LVs x) const {
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

/// Columns whose numbers are equal up to signs become a sum and a difference.
void WinogradCombination::pair_columns(WinogradMatrix& m, LVs& x) const {
  for (std::size_t c = 0; c + 1 < x.size(); ++c) {
    bool equal = true, agree = false, differ = false;
    for (const auto& row : m) {
      equal = equal && std::abs(row[c]) == std::abs(row[c + 1]);
      agree = agree || (row[c] != 0 && row[c] == row[c + 1]);
      differ = differ || (row[c] != 0 && row[c] == -row[c + 1]);
    }
    if (!equal || !agree || !differ) continue;
    LV sum = b_.add(x[c], x[c + 1]), difference = b_.sub(x[c], x[c + 1]);
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
LVs WinogradCombination::both_axes(const WinogradMatrix& m, const LVs& x) const {
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

// -- tiles --------------------------------------------------------------------------------------------------------

WinogradTiles::WinogradTiles(OwnKernel& k, const WinogradDesc& d, int registers, const Dim& channels)
    : k_(k),
      b_(k.builder()),
      combine_(b_),
      d_(d),
      f_(winograd_transform(d.tile)),
      registers_(registers),
      pitch_(ceildiv(channels, Dim(16)) * Dim(16) + Dim(16)) {}

void WinogradTiles::loop(LV lo, LV hi, loop::ForOptions options, const std::function<void(LV)>& body) {
  b_.for_(lo, hi, b_.index(options.width ? options.width : 1), options, {}, [&](LV iv, const LVs&) {
    body(iv);
    return LVs{};
  });
}

void WinogradTiles::lanes(LV lo, LV hi, int width, const std::function<void(LV)>& body) {
  loop(lo, hi,
       {.mapping = loop::Mapping::vector, .role = loop::AxisRole::col, .width = static_cast<std::uint16_t>(width)},
       body);
}

LV WinogradTiles::within(LV at, const Dim& size) {
  return both(b_.op(Op::cmp_le, {b_.index(0), at}), b_.op(Op::cmp_lt, {at, b_.dim(size)}));
}

WinogradTiles::Place WinogradTiles::place(LV tile, bool perhaps_beyond) {
  LV rows = b_.dim(d_.rows()), columns = b_.dim(d_.columns()), t = b_.index(d_.tile);
  LV line = b_.op(Op::div, {tile, columns});
  Place p;
  if (perhaps_beyond) p.exists = b_.op(Op::cmp_lt, {tile, b_.dim(d_.tiles())});
  p.image = d_.batch.is(1) ? b_.index(0) : b_.op(Op::div, {line, rows});
  p.row = b_.mul(d_.batch.is(1) ? line : b_.op(Op::rem, {line, rows}), t);
  p.column = b_.mul(b_.op(Op::rem, {tile, columns}), t);
  return p;
}

/// Tiles that no border cuts are read where they lie; others, and what is a view, through a copy with zeros around.
void WinogradTiles::image(const Place& p, LV first, LV last, loop::BufferId v, LV to, const Dim& step) {
  const Corner corner{p.image, b_.sub(p.row, b_.dim(d_.low[0])), b_.sub(p.column, b_.dim(d_.low[1])), p.exists, first,
                      last};
  auto transform = [&](loop::BufferId buffer, LV from, const std::function<Dim(std::int64_t, std::int64_t)>& offset) {
    lanes(first, last, registers_, [&](LV c) {
      LVs x;
      LV at = b_.add(from, c), place = b_.add(to, b_.sub(c, first));
      for (std::int64_t h = 0; h < f_.points; ++h)
        for (std::int64_t w = 0; w < f_.points; ++w) x.push_back(b_.load(buffer, b_.add(at, b_.dim(offset(h, w)))));
      LVs y = combine_.both_axes(f_.bt, x);
      for (std::size_t e = 0; e < y.size(); ++e)
        b_.store(v, b_.add(place, b_.dim(step * Dim(static_cast<std::int64_t>(e)))), y[e]);
    });
    return LVs{};
  };
  auto copied = [&] {
    if (!patch_) patch_ = b_.alloc(k_.in(0).dtype, Dim(f_.points * f_.points) * pitch_, loop::Scope::scratch);
    copy(corner);
    return transform(*patch_, b_.sub(b_.index(0), first),
                     [&](std::int64_t h, std::int64_t w) { return Dim(h * f_.points + w) * pitch_; });
  };
  auto buffer = k_.buffer_of(0);
  if (!buffer) {
    copied();
    return;
  }
  LV end = b_.index(f_.points - 1);
  LV inside = both(both(within(corner.row, d_.height), within(b_.add(corner.row, end), d_.height)),
                   both(within(corner.column, d_.width), within(b_.add(corner.column, end), d_.width)));
  if (p.exists) inside = both(p.exists, inside);
  b_.if_(
      inside,
      [&] {
        LV pixel =
            b_.add(b_.mul(b_.add(b_.mul(p.image, b_.dim(d_.height)), corner.row), b_.dim(d_.width)), corner.column);
        return transform(*buffer, b_.mul(pixel, b_.dim(d_.channels)),
                         [&](std::int64_t h, std::int64_t w) { return (d_.width * Dim(h) + Dim(w)) * d_.channels; });
      },
      copied);
}

void WinogradTiles::copy(const Corner& at) {
  each(f_.points, [&](LV i) {
    LV h = b_.add(at.row, i), row_there = within(h, d_.height);
    if (at.exists) row_there = both(at.exists, row_there);
    each(f_.points, [&](LV j) {
      LV w = b_.add(at.column, j), to = b_.mul(b_.add(b_.mul(i, b_.index(f_.points)), j), b_.dim(pitch_));
      auto fill = [&](bool there) {
        return [&, there] {
          lanes(at.first, at.last, 2 * registers_, [&](LV c) {
            LV x = there ? k_.operand(0, LVs{at.image, h, w, c}) : b_.constant(k_.in(0).dtype, 0.0);
            b_.store(*patch_, b_.add(to, b_.sub(c, at.first)), x);
          });
          return LVs{};
        };
      };
      b_.if_(both(row_there, within(w, d_.width)), fill(true), fill(false));
    });
  });
}

namespace {
/// Channels between those that are transformed and those that are asked for.
constexpr std::int64_t ahead = 8;
/// Pieces of a row of filters that are fetched together.
constexpr std::int64_t run_of_pieces = 4;
}  // namespace

// -- filters ------------------------------------------------------------------------------------------------------

WinogradTaps::WinogradTaps(OwnKernel& k, std::size_t operand, std::int64_t tile, bool turned, int registers,
                           std::int64_t channels)
    : k_(k),
      b_(k.builder()),
      combine_(b_),
      operand_(operand),
      f_(winograd_transform(tile)),
      turned_(turned),
      registers_(registers),
      channels_(channels),
      filters_(k.in(operand).shape[turned ? 2 : 3]) {}

/// Asks for `count` elements of the last axis, of filters that will be needed next: pieces of rows that lie far apart.
/// Where a run of pieces begins it asks for all of them, since memory gives neighbours at once what it gives slowly
/// piece by piece; the others then come from a cache.
void WinogradTaps::prefetch(WinogradTiles& loops, LV tap, LV row, LV column, std::int64_t count) {
  const auto buffer = k_.buffer_of(operand_);
  if (!buffer) return;
  const Type& t = k_.in(operand_);
  const auto line = static_cast<std::int64_t>(64 / dtype_bytes(t.dtype));
  LV at = b_.add(b_.mul(b_.add(b_.mul(tap, b_.dim(t.shape[2])), row), b_.dim(t.shape[3])), column);
  auto ask = [&](std::int64_t elements) {
    loops.each((elements + line - 1) / line,
               [&](LV i) { b_.prefetch(*buffer, b_.add(at, b_.mul(i, b_.index(line)))); });
    return LVs{};
  };
  LV begins = b_.op(Op::cmp_eq, {b_.op(Op::rem, {column, b_.index(run_of_pieces * count)}), b_.index(0)});
  b_.if_(begins, [&] { return ask(run_of_pieces * count); }, [&] { return ask(count); });
}

/// Blocks of registers x registers change places of filters and channels. What lies beyond the last filter stays.
void WinogradTaps::turn(WinogradTiles& loops, LV panel, LV first, LV count) {
  const DType t = k_.in(operand_).dtype;
  if (!across_) across_ = b_.alloc(t, Dim(9 * channels_ * winograd_panel), loop::Scope::scratch);
  LV from = b_.mul(panel, b_.index(winograd_panel)), filters = b_.index(winograd_panel);
  if (!mod(filters_, Dim(winograd_panel)).is(0)) {
    filters = b_.op(Op::min, {filters, b_.sub(b_.dim(filters_), from)});
    loops.lanes(b_.index(0), b_.index(9 * channels_ * winograd_panel), 2 * registers_,
                [&](LV i) { b_.store(*across_, i, b_.constant(t, 0.0)); });
  }
  loops.each(9, [&](LV tap) {
    LV i = b_.op(Op::div, {tap, b_.index(3)}), j = b_.op(Op::rem, {tap, b_.index(3)}), two = b_.index(2);
    const loop::ForOptions rows{
        .mapping = loop::Mapping::rows, .role = loop::AxisRole::row, .width = static_cast<std::uint16_t>(registers_)};
    loops.loop(b_.index(0), filters, rows, [&](LV m) {
      prefetch(loops, b_.sub(b_.index(7), tap), b_.add(from, m), first, channels_);
      loops.lanes(b_.index(0), count, registers_, [&](LV c) {
        LV x = k_.operand(operand_, LVs{b_.sub(two, i), b_.sub(two, j), b_.add(from, m), b_.add(first, c)});
        LV to = b_.add(b_.mul(tap, b_.index(channels_ * winograd_panel)), b_.mul(c, b_.index(winograd_panel)));
        b_.store(*across_, b_.add(to, m), x);
      });
    });
  });
}

void WinogradTaps::transform(WinogradTiles& loops, LV panel, LV first, LV count, loop::BufferId u, LV to,
                             const Dim& step) {
  if (turned_) turn(loops, panel, first, count);
  LV from = b_.mul(panel, b_.index(winograd_panel));
  loops.loop(b_.index(0), count, {}, [&](LV c) {
    if (!turned_)
      loops.each(9, [&](LV k) { prefetch(loops, k, b_.add(b_.add(first, c), b_.index(ahead)), from, winograd_panel); });
    loops.lanes(b_.index(0), b_.index(winograd_panel), registers_, [&](LV m) {
      LV filter = b_.add(from, m), there, row = b_.add(b_.mul(c, b_.index(winograd_panel)), m);
      if (!mod(filters_, Dim(winograd_panel)).is(0)) there = b_.op(Op::cmp_lt, {filter, b_.dim(filters_)});
      LVs taps;
      for (std::int64_t k = 0; k < 9; ++k) {
        if (turned_) {
          taps.push_back(b_.load(*across_, b_.add(row, b_.index(k * channels_ * winograd_panel))));
          continue;
        }
        const LVs at{b_.index(k / 3), b_.index(k % 3), b_.add(first, c), filter};
        taps.push_back(there ? k_.operand_where(operand_, at, there) : k_.operand(operand_, at));
      }
      const LVs y = combine_.both_axes(f_.g, taps);
      for (std::size_t e = 0; e < y.size(); ++e)
        b_.store(u, b_.add(b_.add(to, row), b_.dim(step * Dim(static_cast<std::int64_t>(e)))), y[e]);
    });
  });
}

}  // namespace ag::passes

// Schedules kernels for a CPU: which loops become tiles for threads, rows and lanes of registers.
//
// A kernel is a nest of parallel loops around a body. The nest's `col` loop goes to lanes; with a `row` loop beside it
// (contractions) the two become a register tile; without a `col` loop the body's own loops over the reduced axes
// go to lanes. All other loops are flattened into the kernel's tile range. Which loop plays which role was
// fixed by lowering from the op alone, so the order of every reduction is the same however sizes are known.
#include <algorithm>
#include <bit>
#include <map>
#include <numeric>

#include "passes/inner_tile.hpp"
#include "passes/schedule_internal.hpp"

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::BlockId;
using loop::Builder;
using loop::ForOptions;
using loop::Mapping;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;

/// Tiles of a long axis: more would not balance better.
constexpr std::int64_t most_tiles = 512;

class CpuScheduler : public CpuNest {
 public:
  using CpuNest::CpuNest;

  loop::Kernel run() {
    begin();
    clone_.on_for = [this](const Stmt& s, ForOptions& o, LV& step) { inner_loop(s, o, step); };
    if (nest_.loops.empty()) {
      body();
    } else if (!all_sized()) {
      serial_nest(0);
    } else {
      elementwise();
    }
    return finish();
  }

 private:
  // -- the nest -----------------------------------------------------------------------------------------------
  void serial_nest(std::size_t i) {
    if (i == nest_.loops.size()) return body();
    b_.for_each(clone_.get(nest_.loops[i].extent), {.mapping = Mapping::serial, .role = nest_.loops[i].role},
                [&](LV iv) {
                  clone_.set(nest_.loops[i].iv, iv);
                  serial_nest(i + 1);
                });
  }

  // -- lanes ------------------------------------------------------------------------------------------------------
  /// Loops over reduced axes: four accumulators of a register each hide the latency of an addition.
  void inner_loop(const Stmt& s, ForOptions& o, LV& step) {
    if (o.mapping == Mapping::parallel && !col_ && inner_tile(s, o, step)) return;
    if (o.mapping == Mapping::parallel) o.mapping = Mapping::serial;
    if (col_ || s.attr.role != AxisRole::reduce || !s.attr.reassociate || !innermost_loop(s)) return;
    bool carries = s.operands.size() > 3;
    int width = width_for(as_dim(k_, s.operands[1]), carries ? 4 : light(s.blocks[0]) ? 4 : 2);
    o.mapping = Mapping::vector;
    o.width = static_cast<std::uint16_t>(width);
    step = b_.index(width);
  }

  // -- tiles inside a body that lowering has blocked --------------------------------------------------------------
  std::map<StmtId, int> registers_;  // of a tile, by its loop over columns

  /// The loop over columns right inside one over rows.
  StmtId columns_inside(const Stmt& rows) const {
    for (StmtId id : k_.blocks[rows.blocks[0]].stmts)
      if (k_.stmts[id].op == Op::for_ && k_.stmts[id].attr.role == AxisRole::col) return id;
    return {};
  }
  std::optional<std::int64_t> trips(const Stmt& loop) const {
    auto d = as_dim(k_, loop.operands[1]);
    return d && d->is_const() ? std::optional(d->value()) : std::nullopt;
  }

  /// A loop over rows around one over columns becomes a register tile; one over columns alone goes to lanes.
  bool inner_tile(const Stmt& s, ForOptions& o, LV& step) {
    int width = 1;
    if (s.attr.role == AxisRole::row) {
      StmtId columns = columns_inside(s);
      if (!columns) return false;
      const Stmt& c = k_.stmts[columns];
      InnerTile tile =
          pick_inner_tile(trips(s), trips(c), has_inner_loop(c.blocks[0]), lanes(), target_.vector_registers);
      registers_[columns] = tile.registers;
      width = tile.rows;
      o.mapping = Mapping::rows;
    } else if (s.attr.role == AxisRole::col) {
      auto tile =
          std::find_if(registers_.begin(), registers_.end(), [&](const auto& t) { return &k_.stmts[t.first] == &s; });
      width = tile != registers_.end() ? tile->second * lanes() : width_for(as_dim(k_, s.operands[1]), 2);
      o.mapping = Mapping::vector;
    } else {
      return false;
    }
    o.width = static_cast<std::uint16_t>(width);
    step = b_.index(width);
    return true;
  }

  bool innermost_loop(const Stmt& s) const {
    for (StmtId id : k_.blocks[s.blocks[0]].stmts)
      if (k_.stmts[id].op == Op::for_ || k_.stmts[id].op == Op::while_) return false;
    return true;
  }

  // -- maps and reductions -----------------------------------------------------------------------------------------
  /// Work of one iteration of all nest loops together, if the estimate is a plain number.
  Dim work_per_point() const {
    Dim points = 1;
    for (const NestLoop& l : nest_.loops) points = points * *l.size;
    return max(floordiv(k_.flops, max(points, Dim(1))), Dim(1));
  }

  /// The same in numbers, for sizes of some thousand where they are not known.
  static std::int64_t typical(const Dim& work) {
    std::set<std::string> symbols;
    work.collect_symbols(symbols);
    DimEnv env;
    for (const std::string& s : symbols) env.emplace(s, 4096);
    return std::clamp<std::int64_t>(work.eval(env).value_or(1), 1, tile_work);
  }

  /// About `chunk` of `count`, a multiple of `unit`, so that there are as many tiles as a power of two, of equal size
  /// where that is possible: kernels over the same rows are then divided among threads at the same rows.
  static Dim even(const Dim& chunk, const Dim& count, std::int64_t unit = 1) {
    if (!chunk.is_const() || !count.is_const() || chunk.value() >= count.value()) return chunk;
    const auto tiles = std::bit_ceil(static_cast<std::uint64_t>((count.value() - 1) / chunk.value() + 1));
    return ceildiv(ceildiv(count, Dim(static_cast<std::int64_t>(tiles))), Dim(unit)) * Dim(unit);
  }

  void elementwise() {
    int width = col_ ? within_parts(width_for(col_->size, registers_in(nest_.body))) : 1;
    Dim work = work_per_point();
    if (outer_.empty()) {  // one long axis
      const Dim least = std::max<std::int64_t>(tile_work / typical(work) / width, 1) * width;
      const Dim most = floordiv(*col_->size, Dim(most_tiles * width)) * Dim(width);
      const Dim chunk = even(max(least, most), *col_->size, width);
      tiles(ceildiv(*col_->size, chunk), [&](LV t) {
        LV lo = b_.mul(t, b_.dim(chunk));
        LV hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(*col_->size)});
        vector_loop(lo, hi, width, [&](LV iv) {
          clone_.set(col_->iv, iv);
          body();
        });
      });
      return;
    }
    if (col_ && few_taps(nest_.body)) return taps(work);
    if (const NestLoop* along = turned_axis()) {
      if (fills_lanes(*along->size) && fills_lanes(*col_->size)) return transposed(*along, work);
      if (fills_lanes(*along->size) && col_->size->is_const() && col_->size->value() <= 8 && is_woven(*along))
        return woven(*along, work);
      return turned(*along, work, width);
    }
    if (!col_ && sums_ahead(work)) return;
    Dim per_row = work * (col_ ? *col_->size : Dim(1));
    const Dim rows = outer_size(), chunk = even(max(floordiv(Dim(tile_work), max(per_row, Dim(1))), Dim(1)), rows);
    tiles(ceildiv(rows, chunk), [&](LV t) {
      LV lo = b_.mul(t, b_.dim(chunk));
      LV hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(rows)});
      b_.for_(lo, hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
              [&](LV flat, const Builder::Values&) {
                decode(flat);
                if (col_)
                  vector_loop(b_.index(0), b_.dim(*col_->size), width, [&](LV iv) {
                    clone_.set(col_->iv, iv);
                    body();
                  });
                else
                  body();
                return Builder::Values{};
              });
    });
  }

  // -- short rows ------------------------------------------------------------------------------------------------
  /// What a short row's last pass waits for (ends of sums, a root, quotients) takes as long as the row itself, and the
  /// processor does not look beyond the pass. So the sums of a row are taken before the last pass over the one above.
  bool sums_ahead(const Dim& work) {
    StmtId last;
    std::set<LV> made;
    for (StmtId id : k_.blocks[nest_.body].stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.op == Op::yield) continue;
      const bool loop = s.op == Op::for_;
      if (last || (loop ? !short_pass(s) : !is_pure(s) && s.op != Op::load)) return false;
      if (loop && s.results.empty()) {
        last = id;
        continue;
      }
      if (loop || s.op == Op::load ||
          std::any_of(s.operands.begin(), s.operands.end(), [&](LV v) { return made.contains(v); }))
        made.insert(s.results.begin(), s.results.end());
    }
    const Dim rows = outer_size();
    if (!last || made.empty() || (rows.is_const() && rows.value() < least_rows_ahead)) return false;
    std::set<LV> used(k_.stmts[last].operands.begin(), k_.stmts[last].operands.end());
    for (StmtId id : k_.blocks[k_.stmts[last].blocks[0]].stmts)
      used.insert(k_.stmts[id].operands.begin(), k_.stmts[id].operands.end());
    Builder::Values waited;
    std::copy_if(made.begin(), made.end(), std::back_inserter(waited), [&](LV v) { return used.contains(v); });
    if (waited.empty()) return false;
    Dim chunk = rows_ahead;
    if (rows.is_const()) chunk = std::clamp<std::int64_t>(rows.value() / 32, 8, rows_ahead);
    emit_ahead(last, waited, even(max(chunk, floordiv(Dim(tile_work), work)), rows), rows);
    return true;
  }
  static constexpr std::int64_t least_rows_ahead = 64, rows_ahead = 32, most_registers_ahead = 24;

  /// A loop along a row of at most some registers, without elementary functions, which take longer than what they wait
  /// for.
  bool short_pass(const Stmt& s) const {
    const auto n = trips(s);
    if (s.attr.role != AxisRole::reduce || !s.attr.reassociate || !n || *n > most_registers_ahead * lanes())
      return false;
    const auto& stmts = k_.blocks[s.blocks[0]].stmts;
    return std::all_of(stmts.begin(), stmts.end(), [&](StmtId id) {
      const Stmt& inner = k_.stmts[id];
      if (inner.op == Op::load || inner.op == Op::store)
        return k_.buffers[inner.attr.buffer.index].scope == loop::Scope::param;
      return inner.op == Op::yield || (is_pure(inner) && describe(inner.op).cls != loop::OpClass::math);
    });
  }

  void emit_ahead(StmtId last, const Builder::Values& waited, const Dim& chunk, const Dim& rows) {
    tiles(ceildiv(rows, chunk), [&](LV t) {
      LV lo = b_.mul(t, b_.dim(chunk)), hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(rows)});
      Builder::Values none;
      for (LV v : waited) none.push_back(b_.constant_bits(k_.type(v), 0));
      auto sums = [&](LV row) {
        decode(row);
        KernelCloner c = clone_;
        c.instead = [&](StmtId id) { return moments_.emit(id, c, b_); };
        for (const NestLoop& l : nest_.loops)
          c.clone_block(k_.stmts[l.stmt].blocks[0], [&](StmtId id) { return id == last || nest_.contains(id); });
        Builder::Values out;
        for (LV v : waited) out.push_back(c.get(v));
        return out;
      };
      auto rest = [&](LV row, const Builder::Values& values) {
        decode(row);
        KernelCloner c = clone_;
        for (std::size_t i = 0; i < waited.size(); ++i) c.set(waited[i], values[i]);
        c.clone(last);
        return Builder::Values{};
      };
      b_.for_(b_.sub(lo, b_.index(1)), hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, none,
              [&](LV row, const Builder::Values& values) {
                LV next = b_.add(row, b_.index(1));
                auto ahead = b_.if_(b_.op(Op::cmp_lt, {next, hi}), [&] { return sums(next); }, [&] { return none; });
                b_.if_(
                    b_.op(Op::cmp_ge, {row, lo}), [&] { return rest(row, values); }, [&] { return Builder::Values{}; });
                return ahead;
              });
    });
  }

  // -- sums over few taps ----------------------------------------------------------------------------------------
  /// Trips of all loops in a body together, if it has sums and nothing else and its trips are known.
  std::int64_t trips_in(BlockId block) const {
    std::int64_t all = 1;
    for (StmtId id : k_.blocks[block].stmts)
      if (const Stmt& s = k_.stmts[id]; s.op == Op::for_)
        all = std::min<std::int64_t>(all * trips(s).value_or(1 << 20) * trips_in(s.blocks[0]), 1 << 20);
    return all;
  }
  /// Windows and depthwise convolutions: neighbours along the last outer axis share taps or weights.
  bool few_taps(BlockId block) const {
    const std::int64_t all = trips_in(block);
    const auto& size = outer_.back()->size;
    return all > 1 && all <= 64 && registers_in(block) > 1 && size->is_const() && size->value() >= 3;
  }

  /// A tile of some neighbours times two registers of lanes; a tile of threads takes whole lines of neighbours.
  void taps(const Dim& work) {
    const NestLoop* line = outer_.back();
    outer_.pop_back();
    const bool many = target_.vector_registers >= 32;
    const std::int64_t n = line->size->value(), most = many ? 6 : 4, blocks = (n + most - 1) / most;
    const int rows = static_cast<int>((n + blocks - 1) / blocks), width = width_for(col_->size, many ? 2 : 1);
    const Dim lines = outer_size(), per_line = work * *col_->size * *line->size,
              chunk = even(max(floordiv(Dim(tile_work), max(per_line, Dim(1))), Dim(1)), lines);
    tiles(ceildiv(lines, chunk), [&](LV t) {
      LV lo = b_.mul(t, b_.dim(chunk)), hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(lines)});
      b_.for_(lo, hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
              [&](LV flat, const Builder::Values&) {
                decode(flat);
                ForOptions o{
                    .mapping = Mapping::rows, .role = AxisRole::row, .width = static_cast<std::uint16_t>(rows)};
                b_.for_(b_.index(0), b_.index(n), b_.index(rows), o, {}, [&](LV r, const Builder::Values&) {
                  vector_loop(b_.index(0), b_.dim(*col_->size), width, [&](LV iv) {
                    clone_.set(line->iv, r);
                    clone_.set(col_->iv, iv);
                    body();
                  });
                  return Builder::Values{};
                });
                return Builder::Values{};
              });
    });
  }

  /// No wider than the parts into which indices take the axis of columns: elements of several would be gathered.
  int within_parts(int width) const {
    const IndexSteps steps(k_);
    std::int64_t by = 0;
    for (StmtId id : k_.blocks[nest_.body].stmts)
      if (const Stmt& s = k_.stmts[id]; s.op == Op::load || s.op == Op::store)
        by = std::gcd(by, steps.divisor(s.operands[0], col_->iv));
    if (by % lanes() != 0) return width;
    while (width > lanes() && by % width != 0) width -= lanes();
    return width;
  }

  /// Registers of lanes that a body is computed for at once: without loops two; sums along them have up to four
  /// accumulators.
  int registers_in(BlockId block) const {
    std::size_t carried = 0;
    for (StmtId id : k_.blocks[block].stmts)
      if (const Stmt& s = k_.stmts[id]; s.op == Op::for_) {
        if (!only_sums(s.blocks[0])) return 1;
        carried += std::max<std::size_t>(s.results.size(), 1);
      }
    return carried == 0   ? ((light(block) && streams(block) < 2) || waits_for_divider(block) ? 4 : 2)
           : carried == 1 ? 8
           : carried == 2 ? 4
           : carried <= 4 ? 2
                          : 1;
  }
  std::ptrdiff_t streams(BlockId block) const {
    const auto& stmts = k_.blocks[block].stmts;
    return std::count_if(stmts.begin(), stmts.end(), [&](StmtId id) { return k_.stmts[id].op == Op::load; });
  }
  /// Some arithmetic between loads and stores, all within the registers at four of lanes: memory is what it waits for.
  bool light(BlockId block) const {
    int work = 0;
    for (StmtId id : k_.blocks[block].stmts) {
      const Stmt& s = k_.stmts[id];
      if (describe(s.op).cls == loop::OpClass::math ||
          !(is_pure(s) || s.op == Op::load || s.op == Op::store || s.op == Op::yield || s.op == Op::prefetch))
        return false;
      work += s.results.empty() || k_.type(s.results[0]).elem != DType::i64;
    }
    return work <= target_.vector_registers / 2;
  }
  /// The divider has more to do than all other units. Of four registers of roots the emitter leaves one to the
  /// multipliers.
  bool waits_for_divider(BlockId block) const {
    constexpr int a_root = 10, a_quotient = 7;  // cycles for a register of 512 bits; of f32
    int divider = 0, others = 0, roots = 0;
    for (StmtId id : k_.blocks[block].stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.results.size() != 1 || !is_float(k_.type(s.results[0]).elem)) continue;
      if (k_.type(s.results[0]).elem != DType::f32) return false;
      const bool root = s.op == Op::sqrt || s.op == Op::rsqrt, quotient = s.op == Op::div || s.op == Op::rsqrt;
      if (describe(s.op).cls == loop::OpClass::math && !root) return false;
      roots += root;
      divider += (root ? a_root : 0) + (quotient ? a_quotient : 0);
      others += !root && !quotient && is_pure(s) && !s.operands.empty();
    }
    return roots > 0 && target_.vector_bits == 512 && others <= divider;
  }
  /// Loops, arithmetic and memory only.
  bool only_sums(BlockId block) const {
    return std::all_of(k_.blocks[block].stmts.begin(), k_.blocks[block].stmts.end(), [&](StmtId id) {
      const Stmt& s = k_.stmts[id];
      if (s.op == Op::for_) return only_sums(s.blocks[0]);
      return is_pure(s) || s.op == Op::load || s.op == Op::store || s.op == Op::yield;
    });
  }

  // -- transposes --------------------------------------------------------------------------------------------------
  /// Whether neighbours along a loop are `step` apart in memory at this access; an unknown place is no neighbour.
  std::optional<Dim> step_along(const Stmt& access, const NestLoop& loop) const {
    auto symbol = [](LV v) { return "%" + std::to_string(v.index); };
    auto leaf = [&](LV v) -> std::optional<Dim> {
      bool index = std::any_of(nest_.loops.begin(), nest_.loops.end(), [&](const NestLoop& l) { return l.iv == v; });
      return index ? std::optional(Dim::symbol(symbol(v))) : std::nullopt;
    };
    auto at = as_dim(k_, access.operands[0], leaf);
    if (!at) return std::nullopt;
    return at->substitute({{symbol(loop.iv), Dim::symbol(symbol(loop.iv)) + 1}}) - *at;
  }

  /// The loop whose neighbours share a line of memory in a load that goes far along the columns.
  const NestLoop* turned_axis() const {
    if (!col_ || has_inner_loop(nest_.body)) return nullptr;
    for (StmtId id : k_.blocks[nest_.body].stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.op != Op::load || s.operands.size() != 1) continue;
      auto across = step_along(s, *col_);
      if (!across || !across->is_const() || std::abs(across->value()) * 4 < line_elements()) continue;
      for (const NestLoop* l : outer_)
        if (auto step = step_along(s, *l); step && step->is(1)) return l;
    }
    return nullptr;
  }
  std::int64_t line_elements() const { return 64 / static_cast<std::int64_t>(element_bytes()); }

  bool fills_lanes(const Dim& size) const { return !size.is_const() || size.value() >= lanes(); }

  /// Square register tiles of columns and of neighbours along `axis`, which share lines of memory: the emitter loads
  /// and stores whole lines and turns the tiles in registers. Reads go on along `axis`, as the prefetcher wants them.
  void transposed(const NestLoop& axis, const Dim& work) {
    const auto side = static_cast<std::uint16_t>(lanes());
    const Dim along = 32 * lanes(), parts = ceildiv(*axis.size, along), lines = ceildiv(*col_->size, Dim(side));
    std::erase(outer_, &axis);
    const Dim count = outer_size() * lines * parts;
    const Dim chunk = even(max(floordiv(Dim(tile_work), max(work * along * Dim(side), Dim(1))), Dim(1)), count);
    auto range = [&](LV block, const Dim& size, const Dim& all) {
      LV from = b_.mul(block, b_.dim(size));
      return std::pair{from, b_.op(Op::min, {b_.add(from, b_.dim(size)), b_.dim(all)})};
    };
    tiles(ceildiv(count, chunk), [&](LV t) {
      auto [lo, hi] = range(t, chunk, count);
      b_.for_(lo, hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
              [&](LV flat, const Builder::Values&) {
                LV line = b_.op(Op::div, {flat, b_.dim(parts)});
                auto [from, to] = range(b_.op(Op::rem, {flat, b_.dim(parts)}), along, *axis.size);
                auto [first, end] = range(b_.op(Op::rem, {line, b_.dim(lines)}), side, *col_->size);
                decode(b_.op(Op::div, {line, b_.dim(lines)}));
                ForOptions o{.mapping = Mapping::rows, .role = AxisRole::row, .width = side};
                b_.for_(first, end, b_.index(side), o, {}, [&](LV r, const Builder::Values&) {
                  clone_.set(col_->iv, r);
                  vector_loop(from, to, side, [&](LV iv) {
                    clone_.set(axis.iv, iv);
                    body();
                  });
                  return Builder::Values{};
                });
                return Builder::Values{};
              });
    });
  }

  /// A few columns, and neighbours along `axis`, that all lie one after another where they are stored.
  bool is_woven(const NestLoop& axis) const {
    for (StmtId id : k_.blocks[nest_.body].stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.op != Op::store) continue;
      auto column = step_along(s, *col_), row = step_along(s, axis);
      if (s.operands.size() != 2 || !column || !column->is(1) || !row || *row != *col_->size) return false;
    }
    return true;
  }

  /// Lanes go along `axis`, one register for each column; the emitter weaves them together when it stores.
  void woven(const NestLoop& axis, const Dim& work) {
    std::erase(outer_, &axis);
    const Dim rows = outer_size(),
              chunk = max(floordiv(Dim(tile_work), max(work * *col_->size * *axis.size, Dim(1))), Dim(1));
    tiles(ceildiv(rows, chunk), [&](LV t) {
      LV lo = b_.mul(t, b_.dim(chunk)), hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(rows)});
      b_.for_(lo, hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
              [&](LV flat, const Builder::Values&) {
                decode(flat);
                const auto columns = static_cast<std::uint16_t>(col_->size->value());
                ForOptions o{.mapping = Mapping::rows, .role = AxisRole::row, .width = columns};
                b_.for_(b_.index(0), b_.index(columns), b_.index(columns), o, {}, [&](LV r, const Builder::Values&) {
                  clone_.set(col_->iv, r);
                  vector_loop(b_.index(0), b_.dim(*axis.size), lanes(), [&](LV iv) {
                    clone_.set(axis.iv, iv);
                    body();
                  });
                  return Builder::Values{};
                });
                return Builder::Values{};
              });
    });
  }

  /// All columns for as many neighbours along `axis` as share a line, one after the other, while it is in the cache.
  void turned(const NestLoop& axis, const Dim& work, int width) {
    const Dim block = line_elements(), blocks = ceildiv(*axis.size, block), per_row = work * *col_->size * block;
    std::erase(outer_, &axis);
    const Dim rows = outer_size() * blocks;
    const Dim chunk = even(max(floordiv(Dim(tile_work), max(per_row, Dim(1))), Dim(1)), rows);
    tiles(ceildiv(rows, chunk), [&](LV t) {
      LV lo = b_.mul(t, b_.dim(chunk));
      LV hi = b_.op(Op::min, {b_.add(lo, b_.dim(chunk)), b_.dim(rows)});
      b_.for_(lo, hi, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
              [&](LV flat, const Builder::Values&) {
                LV others = b_.dim(outer_size());
                decode(b_.op(Op::rem, {flat, others}));
                LV from = b_.mul(b_.op(Op::div, {flat, others}), b_.dim(block));
                LV to = b_.op(Op::min, {b_.add(from, b_.dim(block)), b_.dim(*axis.size)});
                columns_in_blocks([&](LV first, LV end) {
                  b_.for_(from, to, b_.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
                          [&](LV at, const Builder::Values&) {
                            clone_.set(axis.iv, at);
                            vector_loop(first, end, width, [&](LV iv) {
                              clone_.set(col_->iv, iv);
                              body();
                            });
                            return Builder::Values{};
                          });
                });
                return Builder::Values{};
              });
    });
  }

  /// Ranges of columns whose lines stay in the first-level cache.
  void columns_in_blocks(const std::function<void(LV, LV)>& step) {
    constexpr std::int64_t block = 128;
    const Dim& n = *col_->size;
    if (n.is_const() && n.value() <= block) return step(b_.index(0), b_.dim(n));
    b_.for_(b_.index(0), b_.dim(n), b_.index(block), {.mapping = Mapping::serial, .role = AxisRole::batch}, {},
            [&](LV first, const Builder::Values&) {
              step(first, b_.op(Op::min, {b_.add(first, b_.index(block)), b_.dim(n)}));
              return Builder::Values{};
            });
  }

  bool has_inner_loop(BlockId block) const {
    for (StmtId id : k_.blocks[block].stmts)
      if (k_.stmts[id].op == Op::for_) return true;
    return false;
  }
};

/// Kernels that lowering has scheduled itself stay as they are.
bool has_tiles(const loop::Kernel& k) {
  return std::any_of(k.blocks[k.top()].stmts.begin(), k.blocks[k.top()].stmts.end(), [&](StmtId id) {
    return k.stmts[id].op == Op::for_ && k.stmts[id].attr.mapping == Mapping::tile;
  });
}

Result<loop::Program> run(loop::Program program, PassContext& context) {
  for (loop::Kernel& k : program.kernels)
    if (has_tiles(k))
      continue;
    else if (CpuNest(k, context.target).is_contraction())
      k = schedule_contraction(k, context.target);
    else if (auto pipelined = schedule_pipeline(k, context.target))
      k = std::move(*pipelined);
    else if (auto sums = schedule_sums(k, context.target))
      k = std::move(*sums);
    else
      k = CpuScheduler(k, context.target).run();
  return program;
}

}  // namespace

const Pass schedule = {
    .name = "schedule", .summary = "tiles for threads, rows and lanes of registers", .on_program = run};

}  // namespace ag::passes

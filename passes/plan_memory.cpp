// Gives every temp its place in the arena. Temps of constant size: greedy, each at the lowest offset where nothing
// alive at the same time lies, in the best of a few orders (largest first is mostly it, arXiv 2001.03288). Temps of
// symbolic size follow. Those whose sizes are multiples of one expression (a batch of any size: so and so many bytes of
// each element) are placed as exactly, in units of it. The rest goes into slots, one after the other; a slot serves all
// temps of the same size whose lives do not meet, and its offset is the sum of the sizes before it. Temps whose sizes
// become known only while the program runs lie in the arena of their segment, in the same way.
#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "ir/loop/scratch.hpp"
#include "ir/loop/storage.hpp"
#include "passes/pass.hpp"

namespace ag::passes {
namespace {

using loop::LiveRange;
using loop::Program;
using loop::ProgramBufferId;

constexpr std::int64_t alignment = loop::buffer_alignment;
constexpr std::size_t many_items = 3000, attempts = 24;

struct Item {
  ProgramBufferId id;
  LiveRange live;
  Dim bytes;
  std::int64_t begin = 0, end = 0;  // of those of constant size
};

Dim aligned(const Dim& bytes) { return ceildiv(bytes, Dim(alignment)) * Dim(alignment); }

/// Sets begin and end of all items, one after the other; returns the end of the highest. Nothing if it exceeds 64 bits.
std::optional<std::int64_t> place_in_order(std::vector<Item>& items) {
  std::vector<const Item*> placed;  // by begin
  std::int64_t top = 0;
  for (Item& item : items) {
    const Dim size = aligned(item.bytes);
    if (!size.valid()) return std::nullopt;
    std::int64_t at = 0;
    for (const Item* other : placed) {
      if (!other->live.overlaps(item.live)) continue;
      if (other->begin >= at && other->begin - at >= size.value()) break;  // fits below it
      at = std::max(at, other->end);
    }
    const auto end = checked_add(at, size.value());
    if (!end) return std::nullopt;
    item.begin = at, item.end = *end;
    top = std::max(top, *end);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &item,
                                   [](const Item* a, const Item* b) { return a->begin < b->begin; }),
                  &item);
  }
  return top;
}

/// The best of a few orders: by size, by the room taken in bytes times steps, by when life begins or how long it is.
std::optional<std::int64_t> place_constant(std::vector<Item>& items) {
  using Key = std::tuple<double, std::int64_t, std::uint32_t, std::size_t>;
  auto length = [](const Item& i) { return double(i.live.last) - double(i.live.first) + 1; };
  const std::function<Key(const Item&)> orders[] = {
      [](const Item& i) { return Key(0, -i.bytes.value(), i.live.first, i.id.index); },
      [&](const Item& i) { return Key(-length(i) * double(i.bytes.value()), 0, i.live.first, i.id.index); },
      [](const Item& i) { return Key(i.live.first, -i.bytes.value(), 0, i.id.index); },
      [&](const Item& i) { return Key(-length(i), -i.bytes.value(), i.live.first, i.id.index); },
  };
  std::vector<Item> best;
  std::optional<std::int64_t> top;
  for (const auto& order : orders) {
    std::sort(items.begin(), items.end(), [&](const Item& a, const Item& b) { return order(a) < order(b); });
    const auto end = place_in_order(items);
    if (end && (!top || *end < *top)) top = end, best = items;
    if (items.size() > many_items) break;  // each order costs the square of their number
  }
  items = best;
  // What ends highest is placed first in the next attempt.
  for (std::size_t attempt = 0; top && attempt < attempts && attempt * items.size() < many_items; ++attempt) {
    const auto highest =
        std::max_element(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.end < b.end; });
    if (highest == items.begin() || highest == items.end()) break;
    std::rotate(items.begin(), highest, highest + 1);
    const auto end = place_in_order(items);
    if (end && *end < *top) top = end, best = items;
  }
  items = std::move(best);
  return top;
}

/// A size as bytes of a unit, if rounding the bytes up to the alignment costs little.
struct Multiple {
  std::int64_t bytes;
  Dim unit;
};
std::optional<Multiple> multiple_of(const Dim& size) {
  std::int64_t bytes = 0;
  for (const Dim::Term& t : size.terms()) bytes = std::gcd(bytes, t.coeff);
  if (bytes <= 0 || (bytes % alignment != 0 && bytes < 16 * alignment)) return std::nullopt;
  Dim unit = floordiv(size, Dim(bytes));
  if (unit * Dim(bytes) != size || bytes > std::numeric_limits<std::int64_t>::max() - alignment) return std::nullopt;
  return Multiple{(bytes + alignment - 1) / alignment * alignment, unit};
}

/// Places what is a multiple of one unit, for each unit that several items share; returns the end. The others stay in
/// `items`.
Dim place_multiples(Program& p, std::vector<Item>& items, Dim base) {
  std::map<Dim, std::vector<Item>> groups;
  for (const Item& item : items)
    if (auto m = multiple_of(item.bytes)) groups[m->unit].push_back({item.id, item.live, Dim(m->bytes)});
  std::set<ProgramBufferId> done;
  for (auto& [unit, group] : groups) {
    if (group.size() < 2) continue;
    const auto top = place_constant(group);
    if (!top) continue;
    for (const Item& item : group) {
      p.buffers[item.id].offset = base + Dim(item.begin) * unit;
      done.insert(item.id);
    }
    base = base + Dim(*top) * unit;
  }
  std::erase_if(items, [&](const Item& item) { return done.contains(item.id); });
  return base;
}

/// Sets the offsets of items of symbolic size, from `base` up; returns the end of the last slot.
Dim place_symbolic(Program& p, std::vector<Item>& items, Dim base) {
  base = place_multiples(p, items, base);
  struct Slot {
    Dim bytes, offset;
    std::vector<LiveRange> used;
  };
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return std::tuple(a.live.first, a.id.index) < std::tuple(b.live.first, b.id.index);
  });
  std::vector<Slot> slots;
  for (const Item& item : items) {
    auto slot = std::find_if(slots.begin(), slots.end(), [&](const Slot& s) {
      return s.bytes == item.bytes &&
             std::none_of(s.used.begin(), s.used.end(), [&](const LiveRange& r) { return r.overlaps(item.live); });
    });
    if (slot == slots.end()) {
      slot = slots.insert(slots.end(), {item.bytes, base, {}});
      base = base + aligned(item.bytes);
    }
    slot->used.push_back(item.live);
    p.buffers[item.id].offset = slot->offset;
  }
  return base;
}

/// Scratch that the kernels of each segment need, of one thread.
std::vector<Dim> scratch_needs(const Program& p, const loop::SegmentIndex& segments) {
  std::vector<std::set<Dim>> sizes(p.segments.size() + 1);
  loop::for_each_step(p.body, [&](const loop::Step& step) {
    const auto* call = std::get_if<loop::KernelCall>(&step.value);
    if (!call) return;
    const loop::Kernel& k = p.kernels[call->kernel];
    std::map<std::string, Dim, std::less<>> env;
    for (std::size_t i = 0; i < k.dims.size(); ++i) env.emplace(k.dims[i], call->dims[i]);
    Dim bytes = scratch_bytes(k).substitute(env);
    sizes[segments.of(bytes)].insert(bytes);
  });
  std::vector<Dim> out;
  for (const std::set<Dim>& all : sizes) {
    out.push_back(0);
    for (const Dim& d : all) out.back() = max(out.back(), d);
  }
  return out;
}

Result<Program> run(Program p, PassContext&) {
  AG_TRY(const loop::Storage storage, loop::resolve_storage(p));
  const auto live = loop::live_ranges(p, storage);
  const loop::SegmentIndex segments(p);
  std::vector<Item> constant;
  std::vector<std::vector<Item>> symbolic(p.segments.size() + 1);
  for (std::size_t i = 0; i < p.buffers.size(); ++i) {
    const ProgramBufferId id(i);
    auto& b = p.buffers[id];
    if (b.kind != loop::BufferKind::temp) continue;
    b.planned = true;
    if (!b.alias_of) b.offset = 0;
    if (storage.home[id] != id || b.place != loop::Place::arena || live[id].empty()) continue;
    const Dim bytes = byte_size(b);
    if (!bytes.valid() || (bytes.is_const() && bytes.value() < 0))
      return fail(Code::AG1093, {}, "the size of temp `" + b.name + "` exceeds 64 bits");
    (bytes.is_const() ? constant : symbolic[segments.of(b.shape)]).push_back({id, live[id], bytes});
  }
  const auto top = place_constant(constant);
  if (!top) return fail(Code::AG1093, {}, "the temporaries of the program exceed 64 bits");
  for (const Item& item : constant) p.buffers[item.id].offset = item.begin;
  const std::vector<Dim> scratch = scratch_needs(p, segments);
  p.arena_bytes = place_symbolic(p, symbolic[0], *top);
  p.scratch_bytes = scratch[0];
  for (std::size_t i = 0; i < p.segments.size(); ++i) {
    loop::Segment& s = p.segments[loop::SegmentId(i)];
    s.arena_bytes = place_symbolic(p, symbolic[i + 1], 0);
    s.scratch_bytes = scratch[i + 1];
  }
  return p;
}

}  // namespace

extern const Pass plan_memory{
    .name = "plan_memory", .summary = "gives temporaries their places in the arena", .on_program = run};

}  // namespace ag::passes

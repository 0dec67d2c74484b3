// Gives every temp its place in the arena. Temps of constant size: greedy by size, largest first, each at the
// lowest offset where nothing alive at the same time lies (within about a tenth of the best known heuristics,
// arXiv 2001.03288). Temps of symbolic size follow in slots, one after the other; a slot serves all temps of the
// same size whose lives do not meet, and its offset is the sum of the sizes before it.
#include <algorithm>
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

struct Item {
  ProgramBufferId id;
  LiveRange live;
  Dim bytes;
  std::int64_t begin = 0, end = 0;  // of those of constant size
};

Dim aligned(const Dim& bytes) { return ceildiv(bytes, Dim(alignment)) * Dim(alignment); }

/// Sets begin and end of all items; returns the end of the highest. Nothing if it exceeds 64 bits.
std::optional<std::int64_t> place_constant(std::vector<Item>& items) {
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return std::tuple(-a.bytes.value(), a.live.first, a.id.index) <
           std::tuple(-b.bytes.value(), b.live.first, b.id.index);
  });
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

/// Sets the offsets of items of symbolic size, from `base` up; returns the end of the last slot.
Dim place_symbolic(Program& p, std::vector<Item>& items, Dim base) {
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

void collect_scratch(const loop::Seq& seq, const Program& p, std::set<Dim>& sizes) {
  auto nested = [&](const std::shared_ptr<loop::Seq>& s) {
    if (s) collect_scratch(*s, p, sizes);
  };
  for (const auto& step : seq.steps) {
    if (const auto* call = std::get_if<loop::KernelCall>(&step.value)) {
      const loop::Kernel& k = p.kernels[call->kernel];
      std::map<std::string, Dim, std::less<>> env;
      for (std::size_t i = 0; i < k.dims.size(); ++i) env.emplace(k.dims[i], call->dims[i]);
      sizes.insert(scratch_bytes(k).substitute(env));
    } else if (const auto* branch = std::get_if<loop::IfStep>(&step.value)) {
      nested(branch->then), nested(branch->otherwise);
    } else if (const auto* loop = std::get_if<loop::WhileStep>(&step.value)) {
      nested(loop->cond), nested(loop->body);
    }
  }
}

Result<Program> run(Program p, PassContext&) {
  AG_TRY(const loop::Storage storage, loop::resolve_storage(p));
  const auto live = loop::live_ranges(p, storage);
  std::vector<Item> constant, symbolic;
  for (std::size_t i = 0; i < p.buffers.size(); ++i) {
    const ProgramBufferId id(i);
    auto& b = p.buffers[id];
    if (b.kind != loop::BufferKind::temp) continue;
    b.planned = true;
    b.offset = 0;
    if (storage.home[id] != id || live[id].empty()) continue;
    const Dim bytes = byte_size(b);
    if (!bytes.valid() || (bytes.is_const() && bytes.value() < 0))
      return fail(Code::AG1093, {}, "the size of temp `" + b.name + "` exceeds 64 bits");
    (bytes.is_const() ? constant : symbolic).push_back({id, live[id], bytes});
  }
  const auto top = place_constant(constant);
  if (!top) return fail(Code::AG1093, {}, "the temporaries of the program exceed 64 bits");
  for (const Item& item : constant) p.buffers[item.id].offset = item.begin;
  p.arena_bytes = place_symbolic(p, symbolic, *top);
  for (std::size_t i = 0; i < p.buffers.size(); ++i) {  // aliases show the place of their home
    const ProgramBufferId id(i), home = storage.home[id];
    if (p.buffers[id].kind == loop::BufferKind::temp) p.buffers[id].offset = p.buffers[home].offset;
  }
  std::set<Dim> scratch;
  collect_scratch(p.body, p, scratch);
  p.scratch_bytes = 0;
  for (const Dim& d : scratch) p.scratch_bytes = max(p.scratch_bytes, d);
  return p;
}

}  // namespace

extern const Pass plan_memory{
    .name = "plan_memory", .summary = "gives temporaries their places in the arena", .on_program = run};

}  // namespace ag::passes

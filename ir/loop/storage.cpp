#include "ir/loop/storage.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <set>

namespace ag::loop {
namespace {

/// Whether a <= b for all sizes, as far as can be told simply.
bool provably_fits(const Dim& a, const Dim& b) {
  return a == b || (a.is_const() && b.is_const() && a.value() <= b.value());
}

bool has_own_memory(BufferKind kind) { return kind != BufferKind::temp && kind != BufferKind::output; }

/// A state may be a part of a larger one.
bool may_share(BufferKind kind, BufferKind with) {
  return !has_own_memory(kind) || (kind == BufferKind::state && with == BufferKind::state);
}

std::string display(const Program& p, ProgramBufferId id) {
  return p.buffers[id].name.empty() ? fmt::format("#{}", id.index) : p.buffers[id].name;
}

/// Walks the step table in order and notes every access. Nesting is limited by verify().
class LiveWalk {
 public:
  LiveWalk(const Program& program, const Storage& storage)
      : program_(program), storage_(storage), ranges_(program.buffers.size()), uses_(program.buffers.size()) {}

  IdMap<ProgramBufferId, LiveRange> run() {
    seq(program_.body, nullptr);
    ++now_;
    for (auto id : program_.outputs) touch(id, Touch::read, nullptr);
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const Use& use = uses_[ProgramBufferId(i)];
      for (const Loop* loop : use.opener && !use.escapes ? use.inner : use.outermost) {
        LiveRange& r = ranges_[ProgramBufferId(i)];
        r = {std::min(r.first, loop->range.first), std::max(r.last, loop->range.last)};
      }
    }
    for (bool changed = true; changed;) {  // what exchanges its memory needs both places all the time
      changed = false;
      for (auto [a, b] : swapped_) {
        const LiveRange both{std::min(ranges_[a].first, ranges_[b].first), std::max(ranges_[a].last, ranges_[b].last)};
        for (ProgramBufferId id : {a, b}) {
          changed = changed || ranges_[id].first != both.first || ranges_[id].last != both.last;
          ranges_[id] = both;
        }
      }
    }
    return std::move(ranges_);
  }

 private:
  enum class Touch { read, write, opening_write };
  struct Loop {
    const Seq* body;
    const Loop* outer;
    LiveRange range;
  };
  /// A home is first written directly in the body of `opener`: then each trip of that loop begins it anew, and it
  /// need not survive from trip to trip. Loops inside the opener may still read it in each of their trips. One that
  /// is used elsewhere too may hold the value of an earlier trip there, so it `escapes`; but not after an outermost
  /// loop, where it holds what the last trip wrote (what the loop's `cond` touches is live throughout the loop).
  struct Use {
    bool touched = false, escapes = false;
    const Loop* opener = nullptr;
    std::vector<const Loop*> outermost, inner;  // the outermost around accesses, and those just inside the opener
  };

  static void add(std::vector<const Loop*>& to, const Loop* loop) {
    if (to.empty() || to.back() != loop) to.push_back(loop);  // in order of position: equal ones are neighbours
  }

  void touch(ProgramBufferId id, Touch how, const Loop* loop) {
    if (!program_.buffers.contains(id)) return;
    const ProgramBufferId home = storage_.home[id];
    if (byte_size(program_.buffers[id]) != byte_size(program_.buffers[home]))
      how = Touch::read;  // a part opens nothing
    LiveRange& r = ranges_[home];
    r = r.empty() ? LiveRange{now_, now_} : LiveRange{std::min(r.first, now_), std::max(r.last, now_)};
    Use& use = uses_[home];
    if (!use.touched && how == Touch::opening_write) use.opener = loop;
    use.touched = true;
    const Loop *top = loop, *child = nullptr, *at = loop;
    while (top && top->outer) top = top->outer;
    if (top) add(use.outermost, top);
    if (!use.opener) return;
    for (; at && at != use.opener; at = at->outer) child = at;
    if (!at)
      use.escapes = use.escapes || loop || use.opener->outer;
    else if (child)
      add(use.inner, child);
  }

  void seq(const Seq& s, const Loop* loop) {
    for (const Step& step : s.steps) {
      ++now_;
      const bool opens = loop && loop->body == &s;  // runs in every trip of that loop
      std::visit([&](const auto& st) { visit(st, loop, opens ? Touch::opening_write : Touch::write); }, step.value);
    }
  }
  void seq(const std::shared_ptr<Seq>& s, const Loop* loop) {
    if (s) seq(*s, loop);
  }

  void visit(const KernelCall& c, const Loop* loop, Touch write) {
    if (!program_.kernels.contains(c.kernel)) return;
    const Kernel& k = program_.kernels[c.kernel];
    const std::size_t n = std::min(c.buffers.size(), k.buffers.size());
    for (std::size_t i = 0; i < n; ++i)  // reads first: what a call reads and writes does not begin there
      if (k.buffers[i].access != Access::write) touch(c.buffers[i], Touch::read, loop);
    for (std::size_t i = 0; i < n; ++i)
      if (k.buffers[i].access == Access::write) touch(c.buffers[i], write, loop);
  }
  void visit(const HostCall& c, const Loop* loop, Touch write) {
    for (auto id : c.inputs) touch(id, Touch::read, loop);
    for (auto id : c.outputs) touch(id, write, loop);
  }
  void visit(const CheckStep&, const Loop*, Touch) {}
  void visit(const BindStep& s, const Loop* loop, Touch) {
    if (s.values) touch(s.values, Touch::read, loop);
  }
  void visit(const SwapStep& s, const Loop* loop, Touch) {
    for (auto id : {s.a, s.b}) touch(id, Touch::read, loop);
    if (program_.buffers.contains(s.a) && program_.buffers.contains(s.b))
      swapped_.emplace_back(storage_.home[s.a], storage_.home[s.b]);
  }
  void visit(const SlotStep& s, const Loop* loop, Touch) {
    for (auto id : {s.of, s.index, s.view}) touch(id, Touch::read, loop);
  }
  void visit(const IfStep& s, const Loop* loop, Touch) {
    touch(s.predicate, Touch::read, loop);
    seq(s.then, loop);
    seq(s.otherwise, loop);
  }
  void visit(const WhileStep& s, const Loop* outer, Touch) {
    auto& loop = *loops_.emplace_back(std::make_unique<Loop>(Loop{s.body.get(), outer, {now_, now_}}));
    seq(s.cond, &loop);  // first, therefore what it touches is never taken for a value of one trip
    ++now_;
    touch(s.predicate, Touch::read, &loop);
    seq(s.body, &loop);
    loop.range.last = ++now_;
  }

  const Program& program_;
  const Storage& storage_;
  IdMap<ProgramBufferId, LiveRange> ranges_;
  IdMap<ProgramBufferId, Use> uses_;
  std::vector<std::unique_ptr<Loop>> loops_;
  std::vector<std::pair<ProgramBufferId, ProgramBufferId>> swapped_;
  std::uint32_t now_ = 0;
};

}  // namespace

Dim byte_size(const ProgramBuffer& b) {
  return product(b.shape) * Dim(static_cast<std::int64_t>(dtype_bytes(b.dtype)));
}

Result<Storage> resolve_storage(const Program& program) {
  const auto& buffers = program.buffers;
  const std::size_t n = buffers.size();
  Storage s{IdMap<ProgramBufferId, ProgramBufferId>(n), IdMap<ProgramBufferId, std::int64_t>(n),
            std::vector<bool>(program.outputs.size(), true)};
  for (std::size_t i = 0; i < n; ++i) {
    const ProgramBufferId id(i);
    ProgramBufferId root = id;
    Dim begin = 0;
    for (std::size_t hops = 0; buffers[root].alias_of.valid(); ++hops) {
      begin = begin + buffers[root].offset;
      root = buffers[root].alias_of;
      if (!buffers.contains(root) || hops == n)
        return fail(Code::AG1091, {},
                    fmt::format("buffer `{}` is an alias of itself or of nothing", display(program, id)));
    }
    if (!begin.is_const() || begin.value() < 0 ||
        begin.value() % static_cast<std::int64_t>(dtype_bytes(buffers[id].dtype)) != 0)
      return fail(Code::AG1091, {},
                  fmt::format("buffer `{}` begins at byte `{}` of `{}`", display(program, id), begin.str(),
                              display(program, root)));
    if (root != id && !may_share(buffers[id].kind, buffers[root].kind))
      return fail(Code::AG1091, {},
                  fmt::format("buffer `{}` has memory of its own and cannot be an alias", display(program, id)));
    if (buffers[root].place != Place::growable &&
        !provably_fits(begin + byte_size(buffers[id]), byte_size(buffers[root])))
      return fail(Code::AG1091, {},
                  fmt::format("buffer `{}` does not fit into `{}`, whose memory it shares", display(program, id),
                              display(program, root)));
    s.home[id] = root;
    s.begin[id] = begin.value();
  }
  // The first output among temps that share memory gives them its array, if it is surely large enough.
  IdMap<ProgramBufferId, ProgramBufferId> moved(n);
  for (std::size_t o = 0; o < program.outputs.size(); ++o) {
    const ProgramBufferId id = program.outputs[o];
    if (!buffers.contains(id)) return fail(Code::AG1091, {}, fmt::format("output {} is no buffer", o));
    const ProgramBufferId root = s.home[id];
    if (buffers[id].kind != BufferKind::output || has_own_memory(buffers[root].kind) || moved[root].valid()) continue;
    if (buffers[root].place != Place::arena || s.begin[id] != 0) continue;
    if (!provably_fits(byte_size(buffers[root]), byte_size(buffers[id]))) continue;
    moved[root] = id;
    s.copied[o] = false;
  }
  for (std::size_t i = 0; i < n; ++i) {
    ProgramBufferId& home = s.home[ProgramBufferId(i)];
    if (moved[home].valid())
      home = moved[home];
    else if (buffers[home].kind == BufferKind::output)
      return fail(Code::AG1091, {}, fmt::format("output buffer `{}` is not among the outputs", display(program, home)));
  }
  return s;
}

std::vector<ProgramBufferId> state_homes(const Program& program) {
  std::vector<ProgramBufferId> homes;
  for (std::size_t i = 0; i < program.buffers.size(); ++i)
    if (const auto& b = program.buffers[ProgramBufferId(i)]; b.kind == BufferKind::state && !b.alias_of)
      homes.push_back(ProgramBufferId(i));
  std::stable_sort(homes.begin(), homes.end(), [&](ProgramBufferId a, ProgramBufferId b) {
    return program.buffers[a].index < program.buffers[b].index;
  });
  return homes;
}

IdMap<ProgramBufferId, LiveRange> live_ranges(const Program& program, const Storage& storage) {
  return LiveWalk(program, storage).run();
}

Status check_memory_plan(const Program& program, const Storage& storage, const DimEnv& env) {
  struct Placed {
    std::size_t segment;
    std::int64_t begin, end;
    ProgramBufferId id;
  };
  const auto live = live_ranges(program, storage);
  const SegmentIndex segments(program);
  std::vector<std::int64_t> arenas;
  for (std::size_t i = 0; i <= program.segments.size(); ++i) {
    const Dim& bytes = i ? program.segments[SegmentId(i - 1)].arena_bytes : program.arena_bytes;
    const auto arena = bytes.eval(env);
    if (!arena) return fail(Code::AG1093, {}, fmt::format("arena size `{}` cannot be computed", bytes.str()));
    arenas.push_back(*arena);
  }
  std::vector<Placed> placed;
  for (std::size_t i = 0; i < program.buffers.size(); ++i) {
    const ProgramBufferId id(i);
    const ProgramBuffer& b = program.buffers[id];
    if (storage.home[id] != id || b.kind != BufferKind::temp || b.place != Place::arena || live[id].empty()) continue;
    if (!b.planned)
      return fail(Code::AG1092, {}, fmt::format("temp `{}` has no place in the arena", display(program, id)));
    const auto bytes = byte_size(b).eval(env), begin = b.offset.eval(env);
    const auto end = bytes && begin ? checked_add(*begin, *bytes) : std::nullopt;
    if (!end || *bytes < 0)
      return fail(Code::AG1093, {},
                  fmt::format("size `{}` or offset `{}` of temp `{}` cannot be computed", byte_size(b).str(),
                              b.offset.str(), display(program, id)));
    const std::size_t segment = segments.of(b.shape);
    if (*begin < 0 || *begin % buffer_alignment != 0 || *end > arenas[segment])
      return fail(Code::AG1092, {},
                  fmt::format("temp `{}` at {} to {} is misaligned or outside the arena of {} bytes",
                              display(program, id), *begin, *end, arenas[segment]));
    if (*bytes > 0) placed.push_back({segment, *begin, *end, id});
  }
  std::sort(placed.begin(), placed.end(),
            [](auto& a, auto& b) { return std::tie(a.segment, a.begin) < std::tie(b.segment, b.begin); });
  for (std::size_t i = 0; i < placed.size(); ++i)
    for (std::size_t j = i + 1;
         j < placed.size() && placed[j].segment == placed[i].segment && placed[j].begin < placed[i].end; ++j)
      if (live[placed[i].id].overlaps(live[placed[j].id]))
        return fail(Code::AG1092, {},
                    fmt::format("temps `{}` and `{}` live at the same time and overlap in the arena",
                                display(program, placed[i].id), display(program, placed[j].id)));
  return {};
}

Status verify_storage(const Program& program) {
  AG_TRY(const Storage storage, resolve_storage(program));
  bool planned = false;
  std::set<std::string> symbols;
  program.arena_bytes.collect_symbols(symbols);
  for (const Segment& segment : program.segments) segment.arena_bytes.collect_symbols(symbols);
  for (const ProgramBuffer& b : program.buffers) {
    planned = planned || b.planned;
    byte_size(b).collect_symbols(symbols);
    b.offset.collect_symbols(symbols);
  }
  if (!planned) return {};
  for (std::int64_t sample : {1, 2, 63, 1000}) {
    DimEnv env;
    for (const auto& s : symbols) env.emplace(s, sample + 7 * static_cast<std::int64_t>(env.size()));
    auto status = check_memory_plan(program, storage, env);
    // Sizes that cannot be computed: the sample is impossible, or the run will tell.
    if (!status && (symbols.empty() || status.error().front().code == Code::AG1092)) return status;
    if (symbols.empty()) break;
  }
  return {};
}

}  // namespace ag::loop

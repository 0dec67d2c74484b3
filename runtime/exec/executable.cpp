#include "runtime/exec/executable.hpp"

#include <fmt/format.h>

#include <set>

namespace ag::runtime {
namespace {

using loop::BufferKind;
using loop::Program;
using loop::ProgramBufferId;

constexpr int max_depth = 200;  // of nested If and While steps

std::unexpected<Diags> unfit(std::string what) { return fail(Code::AG5020, {}, std::move(what)); }

Status check_sizes(const Program& p) {
  std::set<std::string> known, used;
  for (const auto& s : p.dim_sources) {
    if (s.input >= p.inputs.size() || s.axis >= p.buffers[p.inputs[s.input]].shape.size())
      return unfit(
          fmt::format("size `{}` is read from axis {} of input {}, which does not exist", s.symbol, s.axis, s.input));
    known.insert(s.symbol);
  }
  for (const auto& s : p.segments) {
    known.insert(s.symbols.begin(), s.symbols.end());
    for (const auto& g : s.guards) g.lhs.collect_symbols(used), g.rhs.collect_symbols(used);
    s.arena_bytes.collect_symbols(used), s.scratch_bytes.collect_symbols(used);
  }
  for (const auto& b : p.buffers) {
    for (const auto& d : b.shape) d.collect_symbols(used);
    b.offset.collect_symbols(used);
  }
  for (const auto& g : p.guards) g.lhs.collect_symbols(used), g.rhs.collect_symbols(used);
  p.arena_bytes.collect_symbols(used), p.scratch_bytes.collect_symbols(used);
  for (const auto& s : used)
    if (!known.contains(s)) return unfit(fmt::format("no input tells the size `{}`", s));
  return {};
}

}  // namespace

Result<std::shared_ptr<const Executable>> Executable::create(Program program, KernelCode code,
                                                             std::vector<HostFn> host) {
  std::shared_ptr<Executable> e(new Executable);
  e->program_ = std::move(program);
  e->code_ = std::move(code);
  e->host_ = std::move(host);
  const Program& p = e->program_;
  for (const auto* ids : {&p.inputs, &p.outputs})
    for (auto id : *ids)
      if (!p.buffers.contains(id)) return unfit("an input or output is no buffer");
  AG_TRY_(check_sizes(p));
  AG_TRY(e->storage_, loop::resolve_storage(p));
  AG_TRY_(e->flatten(p.body, 0));
  e->index_runs();
  AG_TRY_(e->check());
  bool constant = p.arena_bytes.is_const();
  for (const auto& b : p.buffers) constant = constant && byte_size(b).is_const() && b.offset.is_const();
  if (constant) AG_TRY_(loop::check_memory_plan(p, e->storage_, {}));
  e->fixed_plan_ = constant;
  e->index_slots();
  e->index_segments();
  return e;
}

Status Executable::flatten(const loop::Seq& seq, int depth) {
  using Kind = Entry::Kind;
  if (depth > max_depth) return unfit(fmt::format("steps are nested deeper than {}", max_depth));
  auto here = [&] { return static_cast<std::uint32_t>(table_.size()); };
  auto nested = [&](const std::shared_ptr<loop::Seq>& s) { return s ? flatten(*s, depth + 1) : Status{}; };
  for (const auto& step : seq.steps) {
    if (const auto* call = std::get_if<loop::KernelCall>(&step.value)) {
      table_.push_back({Kind::kernel, static_cast<std::uint32_t>(calls_.size()), 0});
      calls_.push_back(call);
    } else if (const auto* host = std::get_if<loop::HostCall>(&step.value)) {
      table_.push_back({Kind::host, static_cast<std::uint32_t>(host_calls_.size()), 0});
      host_calls_.push_back(host);
    } else if (const auto* branch = std::get_if<loop::IfStep>(&step.value)) {
      const auto test = here();
      table_.push_back({Kind::jump_if_false, branch->predicate.index, 0});
      AG_TRY_(nested(branch->then));
      const auto skip = here();
      table_.push_back({Kind::jump, 0, 0});
      table_[test].target = here();
      AG_TRY_(nested(branch->otherwise));
      table_[skip].target = here();
    } else if (const auto* loop = std::get_if<loop::WhileStep>(&step.value)) {
      const auto top = here();
      AG_TRY_(nested(loop->cond));
      const auto test = here();
      table_.push_back({Kind::jump_if_false, loop->predicate.index, 0});
      AG_TRY_(nested(loop->body));
      table_.push_back({Kind::jump, 0, top});
      table_[test].target = here();
    } else if (const auto* bind = std::get_if<loop::BindStep>(&step.value)) {
      table_.push_back({Kind::bind, static_cast<std::uint32_t>(binds_.size()), 0});
      binds_.push_back(bind);
    } else if (const auto* swap = std::get_if<loop::SwapStep>(&step.value)) {
      table_.push_back({Kind::swap, static_cast<std::uint32_t>(swaps_.size()), 0});
      swaps_.push_back(swap);
    } else if (const auto* slot = std::get_if<loop::SlotStep>(&step.value)) {
      table_.push_back({Kind::slot, static_cast<std::uint32_t>(slot_steps_.size()), 0});
      slot_steps_.push_back(slot);
    } else if (const auto* check = std::get_if<loop::CheckStep>(&step.value)) {
      table_.push_back({Kind::check, static_cast<std::uint32_t>(checks_.size()), 0});
      checks_.push_back(check);
    }
  }
  return {};
}

void Executable::index_runs() {
  run_end_.resize(calls_.size());
  for (std::size_t i = table_.size(), end = 0; i-- > 0;) {
    if (table_[i].kind != Entry::Kind::kernel) continue;
    if (i + 1 == table_.size() || table_[i + 1].kind != Entry::Kind::kernel) end = table_[i].index + 1;
    run_end_[table_[i].index] = static_cast<std::uint32_t>(end);
  }
}

Status Executable::check() const {
  const Program& p = program_;
  if (code_.functions.size() != p.kernels.size())
    return unfit(
        fmt::format("the program has {} kernels, code was given for {}", p.kernels.size(), code_.functions.size()));
  if (!code_.footprints.empty() && code_.footprints.size() != p.kernels.size())
    return unfit(
        fmt::format("the program has {} kernels, {} have footprints", p.kernels.size(), code_.footprints.size()));
  for (std::size_t i = 0; i < code_.footprints.size(); ++i)
    if (!loop::fits(code_.footprints[i], p.kernels[loop::KernelId(i)]))
      return unfit(fmt::format("the footprint of kernel {} is another kernel's", i));
  for (const auto* c : calls_) {
    if (!p.kernels.contains(c->kernel) || !code_.functions[c->kernel.index])
      return unfit(fmt::format("there is no code for kernel `{}`", c->label));
    const auto& k = p.kernels[c->kernel];
    if (c->buffers.size() != k.param_count() || c->dims.size() != k.dims.size())
      return unfit(fmt::format("kernel `{}` takes {} buffers and {} sizes, not {} and {}", c->label, k.param_count(),
                               k.dims.size(), c->buffers.size(), c->dims.size()));
    for (std::size_t i = 0; i < c->buffers.size(); ++i) {
      if (!p.buffers.contains(c->buffers[i]))
        return unfit(fmt::format("kernel `{}` takes a buffer that is none", c->label));
      const auto home = p.buffers[storage_.home[c->buffers[i]]].kind;
      if (k.buffers[i].access != loop::Access::read && (home == BufferKind::input || home == BufferKind::constant))
        return unfit(
            fmt::format("kernel `{}` writes to the input or constant `{}`", c->label, p.buffers[c->buffers[i]].name));
    }
  }
  for (const auto* c : host_calls_) {
    if (c->function >= host_.size() || !host_[c->function])
      return unfit(fmt::format("there is no host function for `{}`", c->label));
    for (const auto* ids : {&c->inputs, &c->outputs})
      for (auto id : *ids)
        if (!p.buffers.contains(id)) return unfit(fmt::format("host call `{}` takes a buffer that is none", c->label));
  }
  AG_TRY_(check_data_steps());
  for (const auto& entry : table_)
    if (entry.kind == Entry::Kind::jump_if_false) {
      const ProgramBufferId id{std::size_t{entry.index}};
      if (!p.buffers.contains(id) || p.buffers[id].dtype != DType::boolean)
        return unfit("a predicate is not a boolean buffer");
    }
  for (std::size_t i = 0; i < p.buffers.size(); ++i) {
    const auto& b = p.buffers[ProgramBufferId(i)];
    if (b.kind == BufferKind::constant && !b.constant) return unfit(fmt::format("constant `{}` has no data", b.name));
    const bool planned = b.planned || b.place != loop::Place::arena;
    if (b.kind == BufferKind::temp && storage_.home[ProgramBufferId(i)].index == i && !planned)
      return unfit(fmt::format("temp `{}` has no place in the arena: the pass plan_memory has not run", b.name));
  }
  return {};
}

Status Executable::check_data_steps() const {
  const Program& p = program_;
  for (const auto* b : binds_) {
    if (!p.segments.contains(b->segment)) return unfit("a bind step has no segment");
    if (!b->values && b->exprs.size() == p.segments[b->segment].symbols.size()) continue;
    if (!p.buffers.contains(b->values)) return unfit("a bind step has no buffer");
    const Dim bytes = byte_size(p.buffers[b->values]);
    if (p.buffers[b->values].dtype != DType::i64 || !bytes.is_const() ||
        bytes.value() / 8 < static_cast<std::int64_t>(p.segments[b->segment].symbols.size()))
      return unfit("a bind step's buffer does not hold its sizes");
  }
  for (const auto* s : swaps_) {
    if (!p.buffers.contains(s->a) || !p.buffers.contains(s->b)) return unfit("a swap step has no buffer");
    const auto &a = p.buffers[s->a], &b = p.buffers[s->b];
    if (a.kind != BufferKind::temp || b.kind != BufferKind::temp || a.place != b.place ||
        a.place == loop::Place::slot || storage_.home[s->a] != s->a || storage_.home[s->b] != s->b)
      return unfit(fmt::format("temps `{}` and `{}` cannot exchange their memory", a.name, b.name));
  }
  for (const auto* s : slot_steps_) {
    if (!p.buffers.contains(s->view) || !p.buffers.contains(s->of) || !p.buffers.contains(s->index))
      return unfit("a slot step has no buffer");
    const auto &view = p.buffers[s->view], &index = p.buffers[s->index];
    if (view.kind != BufferKind::temp || view.place != loop::Place::slot || storage_.home[s->view] != s->view ||
        index.dtype != DType::i64 || byte_size(index).is(0))
      return unfit(fmt::format("temp `{}` cannot be a slot", view.name));
  }
  return {};
}

/// Which buffers, calls and outputs each segment makes known.
void Executable::index_segments() {
  const Program& p = program_;
  const loop::SegmentIndex index(p);
  segments_.resize(p.segments.size() + 1);
  growable_of_.resize(p.buffers.size());
  moves_.resize(p.buffers.size());
  for (const auto* s : swaps_) moves_[s->a.index] = moves_[s->b.index] = true;
  for (std::uint32_t i = 0; i < p.buffers.size(); ++i) {
    const auto& b = p.buffers[ProgramBufferId(std::size_t{i})];
    segment_of_.push_back(static_cast<std::uint32_t>(index.of(b.shape)));
    Members& members = segments_[segment_of_.back()];
    members.buffers.push_back(i);
    if (b.place != loop::Place::arena) moves_[i] = true;
    if (b.place != loop::Place::growable) continue;
    growable_of_[i] = static_cast<std::uint32_t>(growable_.size());
    growable_.push_back(i);
    members.growable.push_back(i);
  }
  auto of_buffers = [&](const std::vector<ProgramBufferId>& ids) {
    std::size_t last = 0;
    for (auto id : ids) last = std::max(last, index.of(p.buffers[id].shape));
    return last;
  };
  for (std::uint32_t i = 0; i < calls_.size(); ++i)
    segments_[std::max(index.of(calls_[i]->dims), of_buffers(calls_[i]->buffers))].calls.push_back(i);
  for (std::uint32_t i = 0; i < host_calls_.size(); ++i)
    segments_[std::max(of_buffers(host_calls_[i]->inputs), of_buffers(host_calls_[i]->outputs))].hosts.push_back(i);
  for (std::uint32_t i = 0; i < p.outputs.size(); ++i) {
    output_segment_.push_back(static_cast<std::uint32_t>(index.of(p.buffers[p.outputs[i]].shape)));
    segments_[output_segment_[i]].outputs.push_back(i);
  }
  for (std::size_t s = 1; s < segments_.size(); ++s) {
    std::set<std::string> used;
    for (std::uint32_t i : segments_[s].buffers)
      for (const Dim& d : p.buffers[ProgramBufferId(std::size_t{i})].shape) d.collect_symbols(used);
    for (std::uint32_t i : segments_[s].calls)
      for (const Dim& d : calls_[i]->dims) d.collect_symbols(used);
    for (const auto& g : p.segments[loop::SegmentId(s - 1)].guards)
      g.lhs.collect_symbols(used), g.rhs.collect_symbols(used);
    std::set<std::uint32_t> needs;
    for (const std::string& name : used)
      if (auto t = index.of(Dim::symbol(name)); t > 0 && t < s) needs.insert(static_cast<std::uint32_t>(t - 1));
    segments_[s].needs.assign(needs.begin(), needs.end());
  }
}

void Executable::index_slots() {
  std::vector<std::vector<std::uint32_t>> by_home(program_.buffers.size());
  std::uint32_t slot = 0;
  for (const auto* c : calls_) {
    call_slots_.push_back(slot);
    for (auto id : c->buffers) {
      by_home[storage_.home[id].index].push_back(slot++);
      slot_offsets_.push_back(storage_.begin[id]);
    }
  }
  for (const auto& list : by_home) {
    slots_begin_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.insert(slots_.end(), list.begin(), list.end());
  }
  slots_begin_.push_back(slot);
}

}  // namespace ag::runtime

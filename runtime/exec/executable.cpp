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
  AG_TRY_(e->check());
  bool constant = p.arena_bytes.is_const();
  for (const auto& b : p.buffers) constant = constant && byte_size(b).is_const() && b.offset.is_const();
  if (constant) AG_TRY_(loop::check_memory_plan(p, e->storage_, {}));
  e->fixed_plan_ = constant;
  e->index_slots();
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
    }
  }
  return {};
}

Status Executable::check() const {
  const Program& p = program_;
  if (code_.functions.size() != p.kernels.size())
    return unfit(
        fmt::format("the program has {} kernels, code was given for {}", p.kernels.size(), code_.functions.size()));
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
  for (const auto& entry : table_)
    if (entry.kind == Entry::Kind::jump_if_false) {
      const ProgramBufferId id{std::size_t{entry.index}};
      if (!p.buffers.contains(id) || p.buffers[id].dtype != DType::boolean)
        return unfit("a predicate is not a boolean buffer");
    }
  for (std::size_t i = 0; i < p.buffers.size(); ++i) {
    const auto& b = p.buffers[ProgramBufferId(i)];
    if (b.kind == BufferKind::constant && !b.constant) return unfit(fmt::format("constant `{}` has no data", b.name));
    if (b.kind == BufferKind::temp && storage_.home[ProgramBufferId(i)].index == i && !b.planned)
      return unfit(fmt::format("temp `{}` has no place in the arena: the pass plan_memory has not run", b.name));
  }
  return {};
}

void Executable::index_slots() {
  std::vector<std::vector<std::uint32_t>> by_home(program_.buffers.size());
  std::uint32_t slot = 0;
  for (const auto* c : calls_) {
    call_slots_.push_back(slot);
    for (auto id : c->buffers) by_home[storage_.home[id].index].push_back(slot++);
  }
  for (const auto& list : by_home) {
    slots_begin_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.insert(slots_.end(), list.begin(), list.end());
  }
  slots_begin_.push_back(slot);
}

}  // namespace ag::runtime

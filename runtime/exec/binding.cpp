#include "runtime/exec/binding.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace ag::runtime {
namespace {

using loop::DimGuard;
using loop::Program;
using loop::ProgramBuffer;
using loop::ProgramBufferId;

constexpr std::int64_t cache_line = 64;

std::string env_text(const DimEnv& env) {
  std::vector<std::string> parts;
  for (const auto& [symbol, value] : env) parts.push_back(fmt::format("{} = {}", symbol, value));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string shape_text(DType dtype, const Dims& shape) {
  std::vector<std::string> parts;
  for (const auto& d : shape) parts.push_back(d.str());
  return fmt::format("{}[{}]", dtype_name(dtype), fmt::join(parts, ","));
}

Result<std::int64_t> size_of(const Dim& d, const DimEnv& env, std::string_view what, std::string_view name) {
  auto value = d.eval(env);
  if (value && *value >= 0) return *value;
  return fail(Code::AG5008, {},
              fmt::format("{} `{}` of `{}` {}{}{}", what, d.str(), name,
                          value ? fmt::format("is {}", *value) : std::string("cannot be computed in 64 bits"),
                          env.empty() ? "" : " with ", env_text(env)));
}

}  // namespace

Status check_rank(std::string_view role, const ProgramBuffer& b, const HostArray& array) {
  if (array.dtype != b.dtype)
    return fail(Code::AG5002, {},
                fmt::format("{} `{}` is {}, the program takes {}", role, b.name, describe(array.dtype, array.shape),
                            shape_text(b.dtype, b.shape)));
  if (array.shape.size() != b.shape.size())
    return fail(Code::AG5003, {},
                fmt::format("{} `{}` is {}, of rank {}; the program takes {}, of rank {}", role, b.name,
                            describe(array.dtype, array.shape), array.shape.size(), shape_text(b.dtype, b.shape),
                            b.shape.size()));
  for (std::size_t axis = 0; axis < array.shape.size(); ++axis)
    if (array.shape[axis] < 0)
      return fail(Code::AG5004, {},
                  fmt::format("{} `{}` has the size {} on axis {}", role, b.name, array.shape[axis], axis));
  return {};
}

Loc source_of(const Program& program, std::uint32_t source) {
  return source > 0 && source <= program.sources.size() ? program.sources[source - 1] : Loc{};
}

Status check_guard(const Program& program, const DimGuard& g, const DimEnv& env, Code code) {
  const auto lhs = g.lhs.eval(env), rhs = g.rhs.eval(env);
  bool holds = lhs && rhs;
  const char* relation = "equal";
  if (holds) {
    switch (g.rel) {
      case DimGuard::Rel::eq: holds = *lhs == *rhs; break;
      case DimGuard::Rel::le:
        holds = *lhs <= *rhs;
        relation = "be at most";
        break;
      case DimGuard::Rel::divides:
        holds = *lhs != 0 && *rhs % *lhs == 0;
        relation = "divide";
        break;
    }
  }
  if (holds) return {};
  auto value = [](const Dim& d, std::optional<std::int64_t> v) {
    return d.is_const() ? d.str() : fmt::format("`{}` ({})", d.str(), v ? fmt::to_string(*v) : "too large");
  };
  Diag d = error(code, source_of(program, g.source),
                 g.text.empty() ? "the sizes of the inputs do not fit together" : g.text);
  if (g.lhs == g.rhs && !lhs) {  // the expression itself is the requirement: it has a value only if sizes broadcast
    std::set<std::string> symbols;
    g.lhs.collect_symbols(symbols);
    DimEnv used;
    for (const std::string& s : symbols)
      if (auto at = env.find(s); at != env.end()) used.insert(*at);
    return fail(std::move(d).note(fmt::format("`{}` has no value with {}", g.lhs.str(), env_text(used))));
  }
  return fail(std::move(d).note(fmt::format("{} must {} {}", value(g.lhs, lhs), relation, value(g.rhs, rhs))));
}

Status check_count(std::string_view role, std::size_t wanted, std::size_t passed) {
  if (wanted == passed) return {};
  return fail(Code::AG5001, {},
              fmt::format("{} {}{} passed, the program has {}", passed, role, passed == 1 ? " was" : "s were", wanted));
}

Result<DimEnv> bind_sizes(const Program& program, std::span<const HostArray> inputs) {
  AG_TRY_(check_count("input", program.inputs.size(), inputs.size()));
  for (std::size_t i = 0; i < inputs.size(); ++i)
    AG_TRY_(check_rank("input", program.buffers[program.inputs[i]], inputs[i]));
  DimEnv env;
  for (const auto& s : program.dim_sources) {
    const std::int64_t size = inputs[s.input].shape[s.axis];
    auto [at, fresh] = env.emplace(s.symbol, size);
    if (fresh || at->second == size) continue;
    const auto first = std::find_if(program.dim_sources.begin(), program.dim_sources.end(),
                                    [&](const auto& o) { return o.symbol == s.symbol; });
    return fail(Code::AG5005, {},
                fmt::format("`{}` is {} on axis {} of input `{}` but {} on axis {} of input `{}`", s.symbol, at->second,
                            first->axis, program.buffers[program.inputs[first->input]].name, size, s.axis,
                            program.buffers[program.inputs[s.input]].name));
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const ProgramBuffer& b = program.buffers[program.inputs[i]];
    AG_TRY_(check_array(program, "input", b, {}, inputs[i], env));
  }
  for (const auto& g : program.guards) AG_TRY_(check_guard(program, g, env, Code::AG5006));
  return env;
}

Status check_array(const Program& program, std::string_view role, const ProgramBuffer& b,
                   std::span<const std::int64_t> shape, const HostArray& array, const DimEnv& env) {
  AG_TRY_(check_rank(role, b, array));
  for (std::size_t axis = 0; axis < b.shape.size(); ++axis) {
    const Dim& want = b.shape[axis];
    std::int64_t size;
    if (shape.empty()) {
      AG_TRY(size, size_of(want, env, "size", b.name));
    } else {
      size = shape[axis];
    }
    if (array.shape[axis] == size) continue;
    std::string why;
    std::set<std::string> symbols;
    want.collect_symbols(symbols);
    for (const auto& s : program.dim_sources) {
      if (!symbols.erase(s.symbol)) continue;
      why += fmt::format("{}`{}` is {} by axis {} of input `{}`", why.empty() ? "" : ", ", s.symbol,
                         env.find(s.symbol)->second, s.axis, program.buffers[program.inputs[s.input]].name);
    }
    Diag d = error(Code::AG5004, {},
                   fmt::format("{} `{}` has size {} on axis {}, expected {}{}", role, b.name, array.shape[axis], axis,
                               size, want.is_const() ? "" : fmt::format(" (`{}`)", want.str())));
    if (!why.empty()) d.note(why);
    return fail(std::move(d));
  }
  return {};
}

bool memory_ok(std::int64_t bytes, const HostArray& a) {
  if (bytes == 0) return true;
  return a.data != nullptr && a.bytes >= static_cast<std::size_t>(bytes) &&
         reinterpret_cast<std::uintptr_t>(a.data) % dtype_bytes(a.dtype) == 0;
}

Status check_memory(std::string_view role, const ProgramBuffer& b, std::int64_t bytes, const HostArray& a) {
  if (memory_ok(bytes, a)) return {};
  std::string what = fmt::format("is not aligned to the {} bytes of {}", dtype_bytes(a.dtype), dtype_name(a.dtype));
  if (a.data == nullptr)
    what = "is a null pointer";
  else if (a.bytes < static_cast<std::size_t>(bytes))
    what = fmt::format("has {} bytes, its shape needs {}", a.bytes, bytes);
  return fail(Code::AG5007, {}, fmt::format("the memory of {} `{}` {}", role, b.name, what));
}

Result<std::unique_ptr<Binding>> Binding::make(const Executable& e, DimEnv env, int threads) {
  const Program& p = e.program_;
  auto b = std::make_unique<Binding>();
  b->env = std::move(env);
  b->segments.resize(p.segments.size());
  for (std::size_t s = 0; s < p.segments.size(); ++s) {
    const auto& symbols = p.segments[loop::SegmentId(s)].symbols;
    for (const std::string& name : symbols) b->env[name] = 0;
    b->segments[s].values.resize(symbols.size());
    b->segments[s].next.resize(symbols.size());
  }
  const std::size_t n = p.buffers.size();
  b->shapes.resize(n), b->bytes.resize(n), b->offsets.resize(n), b->home_data.resize(n);
  for (std::size_t i = 0; i < n; ++i) b->shapes[i].reserve(p.buffers[ProgramBufferId(i)].shape.size());
  for (std::uint32_t i : e.segments_[0].buffers) AG_TRY_(b->set_buffer(e, i));
  AG_TRY(b->arena_bytes, size_of(p.arena_bytes, b->env, "arena size", p.name));
  AG_TRY(const std::int64_t scratch, size_of(p.scratch_bytes, b->env, "scratch size", p.name));
  b->scratch_bytes = scratch / cache_line * cache_line + (scratch % cache_line ? cache_line : 0);
  if (!e.fixed_plan_) AG_TRY_(loop::check_memory_plan(p, e.storage_, b->env));
  b->prepare_calls(e, threads);
  for (const auto& entry : e.table_)
    if (entry.kind == Executable::Entry::Kind::jump_if_false && b->bytes[entry.index] == 0)
      return fail(Code::AG5020, {}, "a predicate has no element");
  for (std::uint32_t i : e.segments_[0].calls) AG_TRY_(b->set_call(e, i, threads));
  b->plan_waits(e, e.segments_[0].calls);
  b->set_passed(e);
  auto views = [&](const std::vector<ProgramBufferId>& ids) {
    std::vector<HostArray> out;
    for (auto id : ids) out.push_back({p.buffers[id].dtype, b->shapes[id.index], nullptr, 0});
    return out;
  };
  for (const auto* call : e.host_calls_) b->host.push_back({views(call->inputs), views(call->outputs)});
  b->set_hosts(e, 0);
  return b;
}

bool Binding::is_bound(const Executable& e, std::size_t segment, const std::int64_t* values) const {
  const SegmentState& s = segments[segment];
  if (!s.bound || !std::equal(s.values.begin(), s.values.end(), values)) return false;
  return std::all_of(e.segments_[segment + 1].needs.begin(), e.segments_[segment + 1].needs.end(),
                     [&](std::uint32_t d) { return segments[d].changed <= s.evaluated; });
}

Status Binding::update(const Executable& e, const loop::BindStep& step, const std::int64_t* values, int threads) {
  constexpr std::int64_t max_size = std::int64_t{1} << 48;
  const Program& p = e.program_;
  const loop::Segment& segment = p.segments[step.segment];
  const Executable::Members& members = e.segments_[step.segment.index + 1];
  SegmentState& s = segments[step.segment.index];
  s.bound = false;
  for (std::size_t i = 0; i < s.values.size(); ++i) {
    if (values[i] < 0 || values[i] > max_size)
      return fail(error(Code::AG5021, source_of(p, step.source),
                        fmt::format("a size{} computed from data is {}",
                                    step.label.empty() ? "" : " of `" + step.label + "`", values[i]))
                      .note(fmt::format("it is called `{}`", segment.symbols[i])));
    s.values[i] = values[i];
    env.find(segment.symbols[i])->second = values[i];
  }
  s.changed = s.evaluated = ++clock_;
  for (const DimGuard& g : segment.guards) AG_TRY_(check_guard(p, g, env, Code::AG5014));
  // What cannot be computed may be part of a branch that is not taken: the error comes if it runs.
  for (std::uint32_t i : members.buffers)
    if (!set_buffer(e, i)) bytes[i] = -1;
  AG_TRY(s.arena_bytes, size_of(segment.arena_bytes, env, "arena size", p.name));
  AG_TRY(const std::int64_t scratch, size_of(segment.scratch_bytes, env, "scratch size", p.name));
  s.scratch_bytes = scratch / cache_line * cache_line + (scratch % cache_line ? cache_line : 0);
  for (std::uint32_t i : members.calls)
    if (!set_call(e, i, threads)) calls[i].fn = nullptr;
  plan_waits(e, members.calls);
  set_hosts(e, step.segment.index + 1);
  s.bound = true;
  return {};
}

Status Binding::set_buffer(const Executable& e, std::size_t i) {
  const ProgramBufferId id(i);
  const ProgramBuffer& b = e.program_.buffers[id];
  std::optional<std::int64_t> total = static_cast<std::int64_t>(dtype_bytes(b.dtype));
  shapes[i].clear();
  for (const Dim& d : b.shape) {
    AG_TRY(const std::int64_t size, size_of(d, env, "size", b.name));
    shapes[i].push_back(size);
    total = total ? checked_mul(*total, size) : total;
  }
  if (!total)
    return fail(Code::AG5008, {},
                fmt::format("buffer `{}`, {}, is too large for this machine", b.name, describe(b.dtype, shapes[i])));
  bytes[i] = *total;
  const ProgramBufferId home = e.storage_.home[id];
  if (b.kind == loop::BufferKind::temp && home == id) {
    AG_TRY(offsets[i], size_of(b.offset, env, "offset", b.name));
  }
  // An alias is as large as its home for all sizes, or was proved to fit.
  const bool own_memory = e.program_.buffers[home].place == loop::Place::growable;
  AG_CHECK(own_memory || home.index > i || bytes[i] <= bytes[home.index], "an alias outgrows its home");
  return {};
}

void Binding::set_hosts(const Executable& e, std::size_t segment) {
  auto set = [&](const std::vector<ProgramBufferId>& ids, std::vector<HostArray>& arrays) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      arrays[i].shape = shapes[ids[i].index];
      arrays[i].bytes = static_cast<std::size_t>(std::max<std::int64_t>(0, bytes[ids[i].index]));
    }
  };
  for (std::uint32_t i : e.segments_[segment].hosts) {
    set(e.host_calls_[i]->inputs, host[i].inputs);
    set(e.host_calls_[i]->outputs, host[i].outputs);
  }
}

void Binding::set_passed(const Executable& e) {
  const Program& p = e.program_;
  for (std::size_t i = 0; i < p.buffers.size(); ++i) {
    const ProgramBuffer& b = p.buffers[ProgramBufferId(i)];
    if (b.kind == loop::BufferKind::constant) {
      // Never written: Executable::create refuses kernels that would.
      set_home(e, static_cast<std::uint32_t>(i), const_cast<void*>(b.constant.get()));
    }
  }
  states = loop::state_homes(p);
  for (auto id : p.inputs) passed.push_back({id, "input", false, nullptr, bytes[id.index]});
  for (auto id : p.outputs) passed.push_back({id, "output", true, nullptr, bytes[id.index]});
  for (auto id : states) passed.push_back({id, "state", true, nullptr, bytes[id.index]});
  by_address_.resize(passed.size());
}

Status Binding::check_overlap(const Program& program) {
  auto begin = [&](std::uint32_t i) { return reinterpret_cast<std::uintptr_t>(passed[i].data); };
  auto end = [&](std::uint32_t i) { return begin(i) + static_cast<std::uintptr_t>(passed[i].bytes); };
  std::uint32_t n = 0;
  for (std::uint32_t i = 0; i < passed.size(); ++i)
    if (passed[i].bytes > 0) by_address_[n++] = i;
  std::sort(by_address_.begin(), by_address_.begin() + n, [&](auto a, auto b) { return begin(a) < begin(b); });
  // Of the arrays that begin earlier, those that end last: any, and a writable one.
  std::optional<std::uint32_t> any, written;
  for (std::uint32_t k = 0; k < n; ++k) {
    const std::uint32_t i = by_address_[k];
    const auto rival = passed[i].writable ? any : written;
    if (rival && begin(i) < end(*rival))
      return fail(
          Code::AG5017, {},
          fmt::format("{} `{}` and {} `{}` overlap in memory", passed[*rival].role,
                      program.buffers[passed[*rival].id].name, passed[i].role, program.buffers[passed[i].id].name));
    if (!any || end(i) > end(*any)) any = i;
    if (passed[i].writable && (!written || end(i) > end(*written))) written = i;
  }
  return {};
}

/// Calls keep pointers into `slots` and `dims`, which never move.
void Binding::prepare_calls(const Executable& e, int threads) {
  std::size_t dim_count = 0, touched_count = 0, most_buffers = 0, most_atoms = 0;
  for (const auto* c : e.calls_) {
    dim_count += c->dims.size();
    const loop::Footprint* f = e.footprint(*c);
    touched_count += c->buffers.size() * static_cast<std::size_t>(f ? threads : 1);
    most_buffers = std::max(most_buffers, c->buffers.size());
    if (f) most_atoms = std::max(most_atoms, f->atoms.size());
  }
  touched.resize(touched_count);
  elems_.resize(most_buffers);
  footprints_.values.resize(most_atoms);
  dims.resize(dim_count);
  slots.resize(e.slots_.size());
  calls.resize(e.calls_.size());
  entries.resize(e.calls_.size());
  call_envs.resize(e.calls_.size());
  std::size_t at = 0;
  std::uint32_t touched_at = 0;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const loop::KernelCall& c = *e.calls_[i];
    calls[i].args = {slots.data() + e.call_slots_[i], dims.data() + at, nullptr, nullptr};
    at += c.dims.size();
    calls[i].touched = touched_at;
    touched_at +=
        static_cast<std::uint32_t>(c.buffers.size()) * static_cast<std::uint32_t>(e.footprint(c) ? threads : 1);
    for (const std::string& name : e.program_.kernels[c.kernel].dims) call_envs[i].emplace(name, 0);
  }
}

Status Binding::set_call(const Executable& e, std::size_t index, int threads) {
  const loop::KernelCall& c = *e.calls_[index];
  const loop::Kernel& k = e.program_.kernels[c.kernel];
  BoundCall& call = calls[index];
  call.fn = nullptr;
  const std::size_t dims_begin = static_cast<std::size_t>(call.args.dims - dims.data());
  DimEnv& kernel_env = call_envs[index];
  for (std::size_t d = 0; d < c.dims.size(); ++d) {
    AG_TRY(const std::int64_t value, size_of(c.dims[d], env, "size argument", c.label));
    dims[dims_begin + d] = value;
    kernel_env.find(k.dims[d])->second = value;
  }
  std::int64_t moved = 0;
  for (std::size_t i = 0; i < c.buffers.size(); ++i) {
    const auto& b = e.program_.buffers[c.buffers[i]];
    AG_TRY(const std::int64_t elems, size_of(k.buffers[i].elems, kernel_env, "extent", c.label));
    const auto need = checked_mul(elems, static_cast<std::int64_t>(dtype_bytes(k.buffers[i].dtype)));
    if (bytes[c.buffers[i].index] < 0)
      return fail(Code::AG5008, {},
                  fmt::format("the size of `{}`, {}, cannot be computed", b.name, shape_text(b.dtype, b.shape)));
    if (!need || *need > bytes[c.buffers[i].index])
      return fail(Code::AG5020, {},
                  fmt::format("kernel `{}` accesses {} elements of `{}`, which is {}", c.label, elems, b.name,
                              describe(b.dtype, shapes[c.buffers[i].index])));
    moved += std::min<std::int64_t>(*need, INT64_MAX / 1024);
    elems_[i] = elems;
  }
  AG_TRY(const std::int64_t tiles, size_of(k.tiles, kernel_env, "number of tiles", c.label));
  // Estimates only: one that overflows is simply large.
  auto estimate = [&](const Dim& d) {
    return static_cast<double>(std::max<std::int64_t>(0, d.eval(kernel_env).value_or(INT64_MAX)));
  };
  double traffic = estimate(k.bytes);
  if (traffic == 0) traffic = static_cast<double>(moved);
  const double cost = estimate(k.flops) / flops_per_ns + traffic / bytes_per_ns;
  const double parts = std::min({static_cast<double>(threads), static_cast<double>(tiles),
                                 std::floor(cost / min_part_ns), static_cast<double>(UINT16_MAX)});
  call.tiles = tiles;
  call.cost_ns = cost;
  entries[index].parts = static_cast<std::uint16_t>(std::max(1.0, parts));
  set_touched(e, index);
  call.fn = e.code_.functions[c.kernel.index];
  return {};
}

/// Notes what each part of a call touches; elems_ has the sizes of its buffers.
void Binding::set_touched(const Executable& e, std::size_t index) {
  const loop::KernelCall& c = *e.calls_[index];
  const loop::Kernel& k = e.program_.kernels[c.kernel];
  const BoundCall& call = calls[index];
  const std::size_t n = c.buffers.size();
  const loop::Footprint* f = e.footprint(c);
  const int parts = f ? entries[index].parts : 1;
  for (int part = 0; part < parts; ++part) {
    const auto out = std::span(touched).subspan(call.touched + n * static_cast<std::size_t>(part), n);
    const TileRange tiles = tile_range(call.tiles, part, parts);
    if (f && parts > 1)
      loop::touched(*f, {call.args.dims, c.dims.size()}, elems_, tiles.lo, tiles.hi, out, footprints_);
    for (std::size_t i = 0; i < n; ++i) {
      const loop::Access access = k.buffers[i].access;
      const loop::ElementRange all{0, elems_[i]}, none;
      if (!f || parts == 1)
        out[i] = {access == loop::Access::write ? none : all, access == loop::Access::read ? none : all};
      for (loop::ElementRange* r : {&out[i].read, &out[i].written}) {
        const auto bytes = static_cast<std::int64_t>(dtype_bytes(k.buffers[i].dtype));
        r->lo = e.storage_.begin[c.buffers[i]] + r->lo * bytes, r->hi = e.storage_.begin[c.buffers[i]] + r->hi * bytes;
      }
    }
  }
}

/// How far back a call looks for one that it need not wait for.
constexpr std::size_t max_behind = 16;

/// Whether some part of a call touches what another part of an earlier call touches in one of its buffers, and one of
/// them writes there. `distance`: bytes from where the home of the earlier one's buffer `x` begins to that of `y`.
bool Binding::parts_meet(const Executable& e, std::size_t earlier, std::size_t x, std::size_t later, std::size_t y,
                         std::int64_t distance) const {
  auto at = [&](std::size_t call, int part, std::size_t buffer) -> const loop::TouchedRange& {
    const loop::KernelCall& c = *e.calls_[call];
    return touched[calls[call].touched + (e.footprint(c) ? static_cast<std::size_t>(part) * c.buffers.size() : 0) +
                   buffer];
  };
  const int before = entries[earlier].parts, after = entries[later].parts;
  loop::TouchedRange others;  // of the earlier call
  auto take = [&](int part) {
    others.read.include(at(earlier, part, x).read);
    others.written.include(at(earlier, part, x).written);
  };
  auto meets = [&](int part) {
    loop::TouchedRange own = at(later, part, y);
    for (loop::ElementRange* r : {&own.read, &own.written}) r->lo += distance, r->hi += distance;
    return own.written.meets(others.read) || own.written.meets(others.written) || own.read.meets(others.written);
  };
  for (int part = 0; part < after; ++part) {  // those below it
    if (meets(part)) return true;
    if (part < before) take(part);
  }
  others = {};
  for (int part = std::max(before, after) - 1; part >= 0; --part) {  // those above it
    if (part < after && meets(part)) return true;
    if (part < before) take(part);
  }
  return false;
}

/// Whether the order of two calls matters between threads. Calls that one thread does are in order anyway, and so is
/// what one part of both touches. Places in an arena are compared, so memory that was given to another temp counts.
bool Binding::must_wait(const Executable& e, std::size_t earlier, std::size_t later) const {
  if (entries[earlier].parts == 1 && entries[later].parts == 1) return false;
  if (!calls[earlier].fn || !calls[later].fn) return true;
  const Program& p = e.program_;
  const loop::KernelCall &x = *e.calls_[earlier], &y = *e.calls_[later];
  const loop::Kernel &kx = p.kernels[x.kernel], &ky = p.kernels[y.kernel];
  auto meet = [&](std::size_t i, std::size_t j) {
    const ProgramBufferId ha = e.storage_.home[x.buffers[i]], hb = e.storage_.home[y.buffers[j]];
    if (ha == hb) return parts_meet(e, earlier, i, later, j, 0);
    if (e.moves_[ha.index] || e.moves_[hb.index]) return true;
    const ProgramBuffer &ba = p.buffers[ha], &bb = p.buffers[hb];
    if (ba.kind != loop::BufferKind::temp || bb.kind != loop::BufferKind::temp) return false;
    if (e.segment_of_[ha.index] != e.segment_of_[hb.index]) return false;
    return offsets[ha.index] < offsets[hb.index] + bytes[hb.index] &&
           offsets[hb.index] < offsets[ha.index] + bytes[ha.index] &&
           parts_meet(e, earlier, i, later, j, offsets[hb.index] - offsets[ha.index]);
  };
  for (std::size_t i = 0; i < x.buffers.size(); ++i)
    for (std::size_t j = 0; j < y.buffers.size(); ++j) {
      const bool only_read = kx.buffers[i].access == loop::Access::read && ky.buffers[j].access == loop::Access::read;
      if (!only_read && meet(i, j)) return true;
    }
  return false;
}

/// Branches of a network that stand side by side need no barrier between them, nor do kernels whose parts match.
/// `changed`: in ascending order.
void Binding::plan_waits(const Executable& e, std::span<const std::uint32_t> changed) {
  for (std::size_t at = 0, first = 0; at < changed.size() && first < entries.size(); first = e.run_end_[first]) {
    if (changed[at] >= e.run_end_[first]) continue;
    for (std::size_t i = first; i < e.run_end_[first]; ++i) {
      std::size_t behind = 1;
      while (behind < max_behind && i >= first + behind && !must_wait(e, i - behind, i)) ++behind;
      entries[i].behind = static_cast<std::uint16_t>(behind);
    }
    while (at < changed.size() && changed[at] < e.run_end_[first]) ++at;
  }
}

void Binding::set_home(const Executable& e, std::uint32_t home, void* data) {
  if (home_data[home] == data) return;
  home_data[home] = data;
  for (auto s = e.slots_begin_[home]; s < e.slots_begin_[home + 1]; ++s)
    slots[e.slots_[s]] = static_cast<char*>(data) + e.slot_offsets_[e.slots_[s]];
}

}  // namespace ag::runtime

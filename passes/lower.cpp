// Graph of primitives -> Program of schedule-free kernels: plan, one kernel a group, buffers, steps. Equal kernels are
// shared.
#include <algorithm>

#include "ir/symbols.hpp"
#include "passes/constants.hpp"
#include "passes/lower_graph.hpp"
#include "passes/rebuild.hpp"
#include "passes/train.hpp"

namespace ag::passes {

using loop::BufferKind;
using loop::DimGuard;
using loop::KernelCall;
using loop::KernelId;
using loop::ProgramBuffer;
using loop::ProgramBufferId;
using loop::SegmentId;

SegmentId ProgramLowering::add_segment(std::vector<std::string> symbols) {
  for (const std::string& s : symbols) {
    known.insert(s);
    segment_of[s] = program.segments.size();
  }
  return program.segments.push({.symbols = std::move(symbols), .guards = {}, .arena_bytes = 0, .scratch_bytes = 0});
}

ProgramBufferId ProgramLowering::temp(DType dtype, Dims shape, std::string name) {
  ProgramBuffer b{.kind = BufferKind::temp, .dtype = dtype, .shape = std::move(shape)};
  b.name = std::move(name);
  return program.buffers.push(std::move(b));
}

GraphLowering::GraphLowering(const Graph& g, ProgramLowering& program, loop::Seq& steps, bool is_region)
    : g_(g),
      p_(program),
      steps_(steps),
      first_(steps.steps.size()),
      is_region_(is_region),
      plan_(make_plan(g, program.context.fuse, program.context.target)),
      buffer_of_(g.value_count()) {
  auto& notes = p_.context.fusion_notes;
  notes.insert(notes.end(), plan_.notes.begin(), plan_.notes.end());
}

Status GraphLowering::run(std::span<const ProgramBufferId> inputs, std::span<const ProgramBufferId> targets) {
  for (std::size_t i = 0; i < inputs.size(); ++i) buffer_of_[g_.inputs[i].index] = inputs[i];
  claim_targets(targets);
  find_states();
  for (GroupId gid : plan_.order) AG_TRY_(group(gid));
  finish_states();
  join_updates();
  for (std::size_t i = 0; i < targets.size(); ++i)
    if (ProgramBufferId from = output(i); targets[i] && from != targets[i])
      copy(from, targets[i], g_.value(g_.outputs[i].value).node);
  add_guards();
  return {};
}

/// Outputs that are computed here go straight where they are wanted.
void GraphLowering::claim_targets(std::span<const ProgramBufferId> targets) {
  for (std::size_t i = 0; i < targets.size(); ++i) {
    ValueId v = g_.outputs[i].value;
    if (!targets[i] || buffer_of_[v.index] || g_.def(v).op->lower_class == LowerClass::source) continue;
    if (g_.type(v).shape == program().buffers[targets[i]].shape) buffer_of_[v.index] = targets[i];
  }
}

// -- what cannot be lowered --------------------------------------------------------------------------------------

Status GraphLowering::check() const {
  Diags diags;
  std::set<std::string> known = p_.known;
  const std::vector<bool> live = live_nodes(g_);
  for (NodeId id : g_.node_ids()) {
    const Node& n = g_.node(id);
    Loc loc = g_.loc(n.result());
    if (!live[id.index]) continue;
    if (n.op->tier == Tier::composite && !has_kernel(NodeView{g_, id}, p_.context)) {
      diags.push_back(error(
          Code::AG4010, loc,
          "`" + std::string(n.op->name) + "` cannot be compiled yet: it has no decomposition into primitives here"));
      continue;
    }
    const bool names_sizes = n.op->lower_class == LowerClass::control;
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      std::set<std::string> symbols;
      for (const Dim& d : g_.type(n.result(r)).shape) {
        if (auto s = d.as_symbol(); s && names_sizes) known.insert(*s);
        d.collect_symbols(symbols);
      }
      if (std::all_of(symbols.begin(), symbols.end(), [&](const std::string& s) { return known.contains(s); }))
        continue;
      diags.push_back(error(Code::AG4011, loc,
                            "the size of `" + std::string(n.op->name) +
                                "`'s result is known only from the data; such graphs are not compiled yet",
                            "its type is " + g_.type(n.result(r)).str()));
      break;
    }
  }
  if (!diags.empty()) return fail(std::move(diags));
  return {};
}

// -- guards ------------------------------------------------------------------------------------------------------

void GraphLowering::add_guards() {
  const std::vector<bool> live = live_nodes(g_);
  std::set<std::tuple<Dim, int, Dim>> done;
  loop::CheckStep here;
  for (NodeId id : g_.node_ids()) {
    if (!live[id.index]) continue;
    node_guards(g_, id, [&](Dim lhs, DimGuard::Rel rel, Dim rhs, std::string text) {
      if (!done.insert({lhs, static_cast<int>(rel), rhs}).second) return;
      std::set<std::string> symbols;
      lhs.collect_symbols(symbols), rhs.collect_symbols(symbols);
      std::size_t last = 0;  // 1 + segment
      bool own = false;
      for (const std::string& s : symbols)
        if (auto it = p_.segment_of.find(s); it != p_.segment_of.end() && it->second + 1 > last)
          last = it->second + 1, own = own_segments_.contains(it->second);
      DimGuard guard{std::move(lhs), std::move(rhs), rel, std::move(text), source(id) + 1};
      if (last > 0 && (own || !is_region_))
        program().segments[SegmentId(last - 1)].guards.push_back(std::move(guard));
      else
        (is_region_ ? here.guards : program().guards).push_back(std::move(guard));
    });
  }
  if (!here.guards.empty())
    steps_.steps.insert(steps_.steps.begin() + static_cast<std::ptrdiff_t>(first_), {std::move(here)});
}

// -- buffers -----------------------------------------------------------------------------------------------------

ProgramBufferId GraphLowering::buffer(ValueId v) {
  ProgramBufferId& slot = buffer_of_[v.index];
  if (slot) return slot;
  if (const auto at = plan_.placed.find(v); at != plan_.placed.end()) return slot = buffer(at->second.root);
  slot = p_.temp(g_.type(v).dtype, g_.type(v).shape, g_.value(v).name);
  if (const LiteralPtr* literal = g_.def(v).attrs.get<LiteralPtr>("value")) {
    ProgramBuffer& b = program().buffers[slot];
    b.kind = BufferKind::constant;
    Array array = (*literal)->materialize();
    b.constant = std::shared_ptr<const void>(array.shared_bytes(), array.bytes().data());
    if (p_.context.recipes) p_.context.recipes->placed(b.constant.get(), *literal);
  }
  return slot;
}

// -- steps -------------------------------------------------------------------------------------------------------

std::uint32_t GraphLowering::source(NodeId id) {
  auto [it, fresh] = source_of_.try_emplace(id, static_cast<std::uint32_t>(program().sources.size()));
  if (fresh) program().sources.push_back(g_.loc(g_.node(id).result()));
  return it->second;
}

namespace {

/// Sizes that only the extents of buffers and the estimates mention are dims of the kernel too.
void declare_dims(loop::Kernel& k) {
  std::set<std::string> used;
  for (const loop::Buffer& b : k.buffers) b.elems.collect_symbols(used);
  for (const Dim* d : {&k.flops, &k.bytes, &k.tiles}) d->collect_symbols(used);
  for (const std::string& d : k.dims) used.erase(d);
  k.dims.insert(k.dims.end(), used.begin(), used.end());
}

}  // namespace

void GraphLowering::call(LoweredKernel lowered, std::vector<ProgramBufferId> buffers) {
  if (buffers.empty())
    for (ValueId v : lowered.buffers) buffers.push_back(buffer(v));
  KernelCall call;
  for (NodeId id : lowered.origins) call.origins.push_back(source(id));
  add_call(std::move(lowered), std::move(buffers), std::move(call));
}

void GraphLowering::call_at(LoweredKernel lowered, std::vector<ProgramBufferId> buffers, std::uint32_t place) {
  KernelCall call;
  call.origins = {place};
  add_call(std::move(lowered), std::move(buffers), std::move(call));
}

void GraphLowering::add_call(LoweredKernel lowered, std::vector<ProgramBufferId> buffers, KernelCall call) {
  declare_dims(lowered.kernel);
  call.buffers = std::move(buffers);
  call.dims = std::move(lowered.dims);
  for (std::size_t i = call.dims.size(); i < lowered.kernel.dims.size(); ++i)
    call.dims.push_back(Dim::symbol(lowered.kernel.dims[i]));
  lowered.kernel.origins.clear();
  for (std::size_t i = 0; i < call.origins.size(); ++i)
    lowered.kernel.origins.push_back(static_cast<std::uint32_t>(i) + 1);
  call.label = lowered.label;
  auto [it, fresh] = p_.kernels.try_emplace(loop::structural_hash(lowered.kernel), KernelId{});
  if (fresh) {
    lowered.kernel.name = "k" + std::to_string(program().kernels.size());
    it->second = program().kernels.push(std::move(lowered.kernel));
  }
  call.kernel = it->second;
  steps_.steps.push_back({std::move(call)});
}

void GraphLowering::copy(ProgramBufferId from, ProgramBufferId to, NodeId why) {
  const ProgramBuffer& b = program().buffers[from];
  const Dim elems = product(b.shape);
  LoweredKernel k;
  loop::Builder builder("copy");
  auto source = builder.param(b.dtype, elems, loop::Access::read),
       target = builder.param(b.dtype, elems, loop::Access::write);
  builder.set_origin(1);
  if (elems.is(1)) {
    builder.store(target, builder.index(0), builder.load(source, builder.index(0)));
  } else {
    builder.for_each(builder.dim(elems), {.mapping = loop::Mapping::parallel, .role = loop::AxisRole::col},
                     [&](loop::ValueId i) { builder.store(target, i, builder.load(source, i)); });
  }
  builder.kernel().bytes = elems * Dim(2 * static_cast<std::int64_t>(dtype_bytes(b.dtype)));
  builder.kernel().flops = 0;
  k.kernel = std::move(builder).finish();
  k.origins = {why};
  k.label = "copy";
  call(std::move(k), {from, to});
}

void GraphLowering::bind(SegmentId segment, ProgramBufferId values, Dims exprs, NodeId why) {
  own_segments_.insert(segment.index);
  loop::BindStep step{segment, values, std::move(exprs), source(why) + 1, std::string(g_.node(why).op->name)};
  if (!g_.node(why).name.empty()) step.label = g_.node(why).name;
  steps_.steps.push_back({std::move(step)});
}

Status GraphLowering::group(GroupId gid) {
  const Group& group = plan_.groups[gid];
  if (group.kind == GroupKind::host) return control(group.members[0]);
  const bool gpu = p_.context.target.kind == TargetSpec::Kind::cuda;
  if (group.kind == GroupKind::own) {
    const Node& n = g_.node(group.members[0]);
    AG_TRY(std::vector<LoweredKernel> kernels, lower_own(g_, plan_, gid, p_.context.target));
    if (!buffer_of_[n.result().index] && updates_in_place(group.members[0]) &&
        program().buffers[buffer(n.operands[0])].kind == BufferKind::temp) {
      buffer_of_[n.result().index] = buffer(n.operands[0]);
      kernels.erase(kernels.begin());  // the copy of the operand
    }
    for (LoweredKernel& k : kernels) call(std::move(k));
    return {};
  }
  LoweredKernel lowered = lower_group(g_, plan_, gid, gpu ? std::optional(gpu_row_bytes) : std::nullopt);
  claim_states(gid, lowered);
  call(std::move(lowered));
  return {};
}

Status GraphLowering::control(NodeId id) {
  const std::string_view op = g_.node(id).op->name;
  if (op == "sizes") return sizes(id);
  if (op == "If") return lower_if(id);
  if (op == "Loop") return lower_loop(id);
  if (op == "Scan") return lower_scan(id);
  return host(id);
}

/// The elements of a vector become sizes.
Status GraphLowering::sizes(NodeId id) {
  const Node& n = g_.node(id);
  std::vector<std::string> symbols;
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    const Dim& d = g_.type(n.result(r)).shape[0];
    auto s = d.as_symbol();
    if (s && is_unbacked(*s) && !p_.known.contains(*s)) {
      symbols.push_back(*s);
      continue;
    }
    symbols.push_back(p_.fresh_symbol());  // a size known after all: it must be that
  }
  const SegmentId segment = p_.add_segment(symbols);
  for (std::uint32_t r = 0; r < n.result_count; ++r)
    if (const Dim& d = g_.type(n.result(r)).shape[0]; d != Dim::symbol(symbols[r]))
      program().segments[segment].guards.push_back(
          {Dim::symbol(symbols[r]), d, DimGuard::Rel::eq, "the data give the size that is known", source(id) + 1});
  bind(segment, buffer(n.operands[0]), {}, id);
  return {};
}

/// A node that the host evaluates: its own little graph, which the engine runs by the interpreter.
Status GraphLowering::host(NodeId id) {
  const Node& n = g_.node(id);
  for (std::uint32_t r = 0; r < n.result_count; ++r)
    for (const Dim& d : g_.type(n.result(r)).shape) {
      std::set<std::string> symbols;
      d.collect_symbols(symbols);
      for (const std::string& s : symbols)
        if (!p_.known.contains(s))
          return fail(error(Code::AG4011, g_.loc(n.result()),
                            "the size of `" + std::string(n.op->name) +
                                "`'s result is known only from the data; such graphs are not compiled yet",
                            "its type is " + g_.type(n.result(r)).str()));
    }
  loop::HostCall call;
  call.label = std::string(n.op->name);
  call.function = static_cast<std::uint32_t>(p_.context.host_graphs.size());
  Graph sub;
  GraphBuilder b(sub);
  std::map<ValueId, ValueId> inputs;
  for (ValueId v : n.operands) {
    if (!v || inputs.contains(v)) continue;
    inputs[v] = b.input("i" + std::to_string(inputs.size()), g_.type(v));
    call.inputs.push_back(buffer(v));
  }
  NodeId copy = b.copy(g_, id, [&](ValueId v) { return inputs.contains(v) ? inputs[v] : ValueId{}; });
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    sub.outputs.push_back({"o" + std::to_string(r), sub.node(copy).result(r), {}});
    call.outputs.push_back(buffer(n.result(r)));
  }
  p_.context.host_graphs.push_back(std::make_shared<const Graph>(std::move(sub)));
  steps_.steps.push_back({std::move(call)});
  return {};
}

// -- the whole program ---------------------------------------------------------------------------------------------

namespace {

void add_dims(const Graph& g, ProgramLowering& p) {
  std::uint32_t input = 0;
  for (ValueId v : g.inputs) {
    if (next_of_state(g, v)) continue;  // those have constant sizes
    const Dims& shape = g.type(v).shape;
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (auto s = shape[d].as_symbol(); s && p.known.insert(*s).second)
        p.program.dim_sources.push_back({*s, input, static_cast<std::uint32_t>(d)});
    ++input;
  }
  using Rel = DimGuard::Rel;
  auto& guards = p.program.guards;
  for (const SymbolInfo& s : g.symbols) {
    Dim d = Dim::symbol(s.name);
    if (s.min) guards.push_back({Dim(*s.min), d, Rel::le, s.name + " is at least " + std::to_string(*s.min)});
    if (s.max) guards.push_back({d, Dim(*s.max), Rel::le, s.name + " is at most " + std::to_string(*s.max)});
    if (s.multiple_of)
      guards.push_back(
          {Dim(*s.multiple_of), d, Rel::divides, s.name + " is a multiple of " + std::to_string(*s.multiple_of)});
  }
}

std::vector<ProgramBufferId> add_inputs(const Graph& g, loop::Program& p) {
  std::vector<ProgramBufferId> all;
  std::uint32_t states = 0;
  for (ValueId v : g.inputs) {
    const bool state = next_of_state(g, v) != nullptr;
    ProgramBuffer b{.name = g.value(v).name,
                    .kind = state ? BufferKind::state : BufferKind::input,
                    .dtype = g.type(v).dtype,
                    .shape = g.type(v).shape};
    b.axes = g.def(v).attrs.get_or<std::vector<std::int64_t>>("axes", {});
    b.index = state ? states++ : static_cast<std::uint32_t>(p.inputs.size());
    all.push_back(p.buffers.push(std::move(b)));
    if (!state) p.inputs.push_back(all.back());
  }
  return all;
}

bool moves(const loop::Program& p, ProgramBufferId id) {
  bool found = p.buffers[id].place != loop::Place::arena || p.buffers[id].alias_of;
  loop::for_each_step(p.body, [&](const loop::Step& step) {
    if (auto* swap = std::get_if<loop::SwapStep>(&step.value)) found = found || swap->a == id || swap->b == id;
  });
  return found;
}

/// Each output gets a buffer of its own: the value's if it is computed here, stays where it is and is no output yet.
void add_outputs(GraphLowering& graph) {
  const Graph& g = graph.graph();
  loop::Program& p = graph.program();
  std::set<std::uint32_t> taken;
  std::set<std::string> next;  // outputs that are next values of states
  for (ValueId v : g.inputs)
    if (const std::string* name = next_of_state(g, v)) next.insert(*name);
  for (std::size_t i = 0; i < g.outputs.size(); ++i) {
    if (next.contains(g.outputs[i].name)) continue;
    ValueId v = g.outputs[i].value;
    ProgramBufferId id = graph.buffer(v);
    if (p.buffers[id].kind != BufferKind::temp || moves(p, id) || !taken.insert(id.index).second) {
      ProgramBufferId to = graph.shared().temp(g.type(v).dtype, g.type(v).shape);
      graph.copy(id, to, g.value(v).node);
      id = to;
    }
    ProgramBuffer& b = p.buffers[id];
    b.kind = BufferKind::output;
    b.name = g.outputs[i].name;
    b.index = static_cast<std::uint32_t>(p.outputs.size());
    p.outputs.push_back(id);
  }
}

Result<loop::Program> run(const Graph& g, PassContext& context) {
  ProgramLowering p(context);
  p.program.name = g.name;
  p.next_symbol = g.next_unbacked();
  add_dims(g, p);
  GraphLowering graph(g, p, p.program.body, false);
  AG_TRY_(graph.check());
  std::vector<ProgramBufferId> inputs = add_inputs(g, p.program);
  AG_TRY_(graph.run(inputs, {}));
  add_outputs(graph);
  return std::move(p.program);
}

}  // namespace

const Pass lower = {.name = "lower", .summary = "fuse groups of primitives into loop kernels", .lower = run};

}  // namespace ag::passes

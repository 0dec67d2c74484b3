// Graph of primitives -> Program of schedule-free kernels: plan, one kernel a group, buffers, steps. Equal kernels are
// shared.
#include <algorithm>
#include <map>
#include <set>

#include "passes/lower_kernel.hpp"
#include "passes/lower_own.hpp"
#include "passes/pass.hpp"

namespace ag::passes {
namespace {

using loop::BufferKind;
using loop::KernelCall;
using loop::KernelId;
using loop::ProgramBuffer;
using loop::ProgramBufferId;

class Lowering {
 public:
  Lowering(const Graph& g, PassContext& context)
      : g_(g), context_(context), plan_(make_plan(g, context.fuse)), buffer_of_(g.value_count()) {}

  Result<loop::Program> run() {
    program_.name = g_.name;
    add_dims();
    AG_TRY_(check());
    for (ValueId v : g_.inputs) program_.inputs.push_back(input(v));
    for (GroupId gid : plan_.order) AG_TRY_(group(gid));
    add_outputs();
    context_.fusion_notes = plan_.notes;
    return std::move(program_);
  }

 private:
  const Graph& g_;
  PassContext& context_;
  Plan plan_;
  loop::Program program_;
  std::vector<ProgramBufferId> buffer_of_;
  std::map<std::array<std::uint64_t, 2>, KernelId> shared_;
  std::map<NodeId, std::uint32_t> source_of_;
  std::set<std::string> bound_;  // symbols that the shapes of inputs give

  // -- what cannot be lowered ----------------------------------------------------------------------------------
  Status check() const {
    Diags diags;
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      Loc loc = g_.loc(n.result());
      if (n.op->tier == Tier::composite) {
        diags.push_back(error(
            Code::AG4010, loc,
            "`" + std::string(n.op->name) + "` cannot be compiled yet: it has no decomposition into primitives here"));
        continue;
      }
      for (std::uint32_t r = 0; r < n.result_count; ++r) {
        std::set<std::string> symbols;
        for (const Dim& d : g_.type(n.result(r)).shape) d.collect_symbols(symbols);
        bool known =
            std::all_of(symbols.begin(), symbols.end(), [&](const std::string& s) { return bound_.contains(s); });
        if (known) continue;
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

  // -- sizes ------------------------------------------------------------------------------------------------------
  void add_dims() {
    for (std::size_t i = 0; i < g_.inputs.size(); ++i) {
      const Dims& shape = g_.type(g_.inputs[i]).shape;
      for (std::size_t d = 0; d < shape.size(); ++d)
        if (auto s = shape[d].as_symbol(); s && bound_.insert(*s).second)
          program_.dim_sources.push_back({*s, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(d)});
    }
    using Rel = loop::DimGuard::Rel;
    for (const SymbolInfo& s : g_.symbols) {
      Dim d = Dim::symbol(s.name);
      if (s.min)
        program_.guards.push_back({Dim(*s.min), d, Rel::le, s.name + " is at least " + std::to_string(*s.min)});
      if (s.max) program_.guards.push_back({d, Dim(*s.max), Rel::le, s.name + " is at most " + std::to_string(*s.max)});
      if (s.multiple_of)
        program_.guards.push_back(
            {Dim(*s.multiple_of), d, Rel::divides, s.name + " is a multiple of " + std::to_string(*s.multiple_of)});
    }
    add_broadcast_guards();
  }

  /// bcast(N, M) has a value only if N == M or one of them is 1: evaluating it is the check.
  void add_broadcast_guards() {
    std::set<Dim> done;
    for (NodeId id : g_.node_ids())
      for (std::uint32_t r = 0; r < g_.node(id).result_count; ++r)
        for (const Dim& d : g_.type(g_.node(id).result(r)).shape)
          for (const Dim::Term& t : d.terms())
            for (const Dim::Factor& f : t.factors)
              if (f.kind == Dim::Atom::bcast) {
                Dim whole = Dim::bcast(f.args[0], f.args[1]);
                if (done.insert(whole).second)
                  program_.guards.push_back({whole, whole, loop::DimGuard::Rel::eq,
                                             "sizes " + f.args[0].str() + " and " + f.args[1].str() + " broadcast"});
              }
  }

  // -- buffers --------------------------------------------------------------------------------------------------
  ProgramBufferId input(ValueId v) {
    ProgramBuffer b{
        .name = g_.value(v).name, .kind = BufferKind::input, .dtype = g_.type(v).dtype, .shape = g_.type(v).shape};
    b.index = static_cast<std::uint32_t>(program_.inputs.size());
    return buffer_of_[v.index] = program_.buffers.push(std::move(b));
  }

  ProgramBufferId buffer(ValueId v) {
    ProgramBufferId& slot = buffer_of_[v.index];
    if (slot) return slot;
    ProgramBuffer b{.kind = BufferKind::temp, .dtype = g_.type(v).dtype, .shape = g_.type(v).shape};
    b.name = g_.value(v).name;
    if (const LiteralPtr* literal = g_.def(v).attrs.get<LiteralPtr>("value")) {
      b.kind = BufferKind::constant;
      Array array = (*literal)->materialize();
      b.constant = std::shared_ptr<const void>(array.shared_bytes(), array.bytes().data());
    }
    return slot = program_.buffers.push(std::move(b));
  }

  /// Each output gets a buffer of its own: the value's if it is computed here and is not an output already.
  void add_outputs() {
    std::set<std::uint32_t> taken;
    for (std::size_t i = 0; i < g_.outputs.size(); ++i) {
      ValueId v = g_.outputs[i].value;
      ProgramBufferId id = buffer(v);
      if (program_.buffers[id].kind != BufferKind::temp || !taken.insert(id.index).second) {
        ProgramBuffer copy{.kind = BufferKind::temp, .dtype = g_.type(v).dtype, .shape = g_.type(v).shape};
        ProgramBufferId to = program_.buffers.push(std::move(copy));
        emit(lower_copy(g_, v), {id, to});
        id = to;
      }
      ProgramBuffer& b = program_.buffers[id];
      b.kind = BufferKind::output;
      b.name = g_.outputs[i].name;
      b.index = static_cast<std::uint32_t>(i);
      program_.outputs.push_back(id);
    }
  }

  // -- steps ----------------------------------------------------------------------------------------------------
  std::uint32_t source(NodeId id) {
    auto [it, fresh] = source_of_.try_emplace(id, static_cast<std::uint32_t>(program_.sources.size()));
    if (fresh) program_.sources.push_back(g_.loc(g_.node(id).result()));
    return it->second;
  }

  void emit(LoweredKernel lowered, std::vector<ProgramBufferId> buffers = {}) {
    KernelCall call;
    if (buffers.empty())
      for (ValueId v : lowered.buffers) buffers.push_back(buffer(v));
    call.buffers = std::move(buffers);
    for (const std::string& s : lowered.kernel.dims) call.dims.push_back(Dim::symbol(s));
    lowered.kernel.origins.clear();
    for (std::size_t i = 0; i < lowered.origins.size(); ++i) {
      lowered.kernel.origins.push_back(static_cast<std::uint32_t>(i) + 1);
      call.origins.push_back(source(lowered.origins[i]));
    }
    call.label = lowered.label;
    auto [it, fresh] = shared_.try_emplace(loop::structural_hash(lowered.kernel), KernelId{});
    if (fresh) {
      lowered.kernel.name = "k" + std::to_string(program_.kernels.size());
      it->second = program_.kernels.push(std::move(lowered.kernel));
    }
    call.kernel = it->second;
    program_.body.steps.push_back({std::move(call)});
  }

  Status group(GroupId gid) {
    const Group& group = plan_.groups[gid];
    if (group.kind == GroupKind::host) return host(group.members[0]);
    const bool gpu = context_.target.kind == TargetSpec::Kind::cuda;
    if (group.kind == GroupKind::own) {
      AG_TRY(std::vector<LoweredKernel> kernels, lower_own(g_, group.members[0], gpu));
      for (LoweredKernel& k : kernels) emit(std::move(k));
      return {};
    }
    emit(lower_group(g_, plan_, gid, gpu ? std::optional(gpu_row_bytes) : std::nullopt));
    return {};
  }

  /// A node that the host evaluates: its own little graph, which the engine runs by the interpreter.
  Status host(NodeId id) {
    const Node& n = g_.node(id);
    loop::HostCall call;
    call.label = std::string(n.op->name);
    call.function = static_cast<std::uint32_t>(context_.host_graphs.size());
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
    context_.host_graphs.push_back(std::make_shared<const Graph>(std::move(sub)));
    program_.body.steps.push_back({std::move(call)});
    return {};
  }
};

Result<loop::Program> run(const Graph& g, PassContext& context) { return Lowering(g, context).run(); }

}  // namespace

const Pass lower = {.name = "lower", .summary = "fuse groups of primitives into loop kernels", .lower = run};

}  // namespace ag::passes

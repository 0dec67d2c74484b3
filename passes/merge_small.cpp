// Small kernels that follow one another become one, with the branches and loops around them: a region that one thread
// would run anyway is one call, whatever number of trips it takes. What may be merged is bounded in statements, so
// that compiling takes no longer for it: kernels that many calls share stay shared where merging would copy them often.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "passes/pass.hpp"
#include "passes/small_region.hpp"

namespace ag::passes {
namespace {

using loop::Access;
using loop::KernelCall;
using loop::KernelId;
using loop::ProgramBufferId;
using loop::Step;

/// A call whose estimate is below this runs on one thread whatever its tiles (runtime/exec/binding.hpp divides work
/// into parts of a microsecond), and some 10 ns for its entry in the step table are worth saving.
constexpr double max_call_ns = 1500;
constexpr double flops_per_ns = 16, bytes_per_ns = 16;
constexpr std::size_t max_kernel_stmts = 400, max_region_stmts = 800, max_program_stmts = 2400;
constexpr std::size_t max_params = 24, max_label = 60;
constexpr std::int64_t max_swap_bytes = 8192, max_local_bytes = 32768;

class Merger {
 public:
  explicit Merger(loop::Program program) : p_(std::move(program)) {}

  Result<loop::Program> run() {
    AG_TRY(storage_, loop::resolve_storage(p_));
    owners_ = slot_owners(p_);
    count_uses(p_.body, nullptr);
    p_.body = *merged(p_.body);
    drop_unused();
    return std::move(p_);
  }

 private:
  /// What steps would bring into a region.
  struct Size {
    bool fits = false;
    std::size_t stmts = 0, calls = 0;
    std::int64_t local_bytes = 0;
    bool control = false, loops = false, traps = false;
    std::set<ProgramBufferId> params;  ///< homes
    std::set<ProgramBufferId> slots;  ///< that its steps choose
    std::map<ProgramBufferId, ProgramBufferId> memory;  ///< the parameter in it
  };

  // ---- What is small.

  std::optional<double> cost(const KernelCall& c) const {
    const loop::Kernel& k = p_.kernels[c.kernel];
    std::map<std::string, Dim, std::less<>> env;
    for (std::size_t i = 0; i < k.dims.size(); ++i) env.emplace(k.dims[i], c.dims[i]);
    auto known = [&](const Dim& d) -> std::optional<double> {
      const Dim value = d.substitute(env);
      return value.is_const() ? std::optional<double>(static_cast<double>(value.value())) : std::nullopt;
    };
    const auto flops = known(k.flops), bytes = known(k.bytes), tiles = known(k.tiles);
    if (!flops || !bytes || !tiles) return std::nullopt;
    double moved = *bytes;
    if (moved == 0)
      for (std::size_t i = 0; i < c.buffers.size(); ++i) {
        const auto elems = known(k.buffers[i].elems);
        if (!elems) return std::nullopt;
        moved += *elems * static_cast<double>(dtype_bytes(k.buffers[i].dtype));
      }
    return *flops / flops_per_ns + moved / bytes_per_ns;
  }

  /// The home that the kernel would take for a buffer: of a slot that the region itself chooses that is the whole.
  ProgramBufferId param_of(ProgramBufferId id, const Size& size) const {
    const ProgramBufferId home = storage_.home[id];
    return size.slots.contains(home) ? storage_.home[owners_.at(home)] : home;
  }

  bool add_param(ProgramBufferId id, Size& size) const {
    if (storage_.begin[id] != 0) return false;  // a part of a whole
    const ProgramBufferId home = param_of(id, size);
    const auto slot = owners_.find(home);
    const bool is_slot = slot != owners_.end();  // chosen before the region
    const loop::ProgramBuffer& b = p_.buffers[home];
    if (b.place == loop::Place::growable || (b.place == loop::Place::slot && !is_slot)) return false;
    if (element_dtype(b.dtype) != b.dtype) return false;
    // Two parameters in the same memory would be taken for separate ones.
    const auto [at, fresh] = size.memory.emplace(is_slot ? storage_.home[slot->second] : home, home);
    if (at->second != home) return false;
    size.params.insert(home);
    return size.params.size() <= max_params;
  }

  /// Adds a step to what a region has; false if it cannot be part of one. `inside`: of a branch or loop.
  bool add(const Step& step, bool inside, Size& size) const {
    if (const auto* c = std::get_if<KernelCall>(&step.value)) return add_call(*c, size);
    if (const auto* s = std::get_if<loop::IfStep>(&step.value)) {
      size.control = true;
      return add_param(s->predicate, size) && add(*s->then, true, size) && add(*s->otherwise, true, size);
    }
    if (const auto* s = std::get_if<loop::WhileStep>(&step.value)) {
      size.control = size.loops = true;
      return add_param(s->predicate, size) && add(*s->cond, true, size) && add(*s->body, true, size);
    }
    if (const auto* s = std::get_if<loop::SwapStep>(&step.value)) return inside && add_swap(*s, size);
    return false;
  }
  bool add(const loop::Seq& seq, bool inside, Size& size) const {
    for (std::size_t i = 0; i < seq.steps.size(); ++i) {
      const auto* slot = std::get_if<loop::SlotStep>(&seq.steps[i].value);
      if (slot ? !inside || !add_slot(*slot, seq, i, size) : !add(seq.steps[i], inside, size)) return false;
    }
    return true;
  }

  bool add_call(const KernelCall& c, Size& size) const {
    const loop::Kernel& k = p_.kernels[c.kernel];
    const auto ns = cost(c);
    if (!ns || *ns > max_call_ns || k.stmts.size() > max_kernel_stmts) return false;
    for (std::size_t i = 0; i < k.buffers.size(); ++i) {
      const loop::Buffer& b = k.buffers[i];
      if (b.scope == loop::Scope::param) {
        if (!b.noalias || !add_param(c.buffers[i], size)) return false;
        if (p_.buffers[param_of(c.buffers[i], size)].dtype != b.dtype) return false;
      } else if (b.elems.is_const() && b.scope != loop::Scope::shared) {
        size.local_bytes += b.elems.value() * static_cast<std::int64_t>(dtype_bytes(b.dtype));
      } else {
        return false;
      }
    }
    for (const loop::Stmt& s : k.stmts) {
      if (s.op == loop::Op::barrier) return false;
      size.traps = size.traps || s.op == loop::Op::trap;
    }
    size.stmts += k.stmts.size();
    ++size.calls;
    return size.stmts <= max_region_stmts && size.local_bytes <= max_local_bytes;
  }
  bool add_swap(const loop::SwapStep& s, Size& size) const {
    const Dim bytes = byte_size(p_.buffers[s.a]);
    size.stmts += 12;
    return bytes.is_const() && bytes.value() <= max_swap_bytes && !owners_.contains(s.a) && !owners_.contains(s.b) &&
           add_param(s.a, size) && add_param(s.b, size);
  }

  /// A slot becomes an offset, which only the steps after it in its sequence know.
  bool add_slot(const loop::SlotStep& s, const loop::Seq& seq, std::size_t at, Size& size) const {
    const Dim row = product(p_.buffers[s.view].shape), whole = product(p_.buffers[s.of].shape);
    if (!row.is_const() || row.value() <= 0 || !whole.valid() || !s.count.valid()) return false;
    if (p_.buffers[s.of].dtype != p_.buffers[s.view].dtype || owners_.at(storage_.home[s.view]) != s.of) return false;
    std::size_t later = 0;
    for (std::size_t i = at; i < seq.steps.size(); ++i) later += touches(seq.steps[i], s.view);
    if (later != uses_.at(storage_.home[s.view]).total) return false;
    size.stmts += 10;
    size.slots.insert(storage_.home[s.view]);
    return add_param(s.index, size) && add_param(s.view, size);
  }

  // ---- Where buffers are used.

  struct Use {
    std::size_t total = 0;  ///< mentions in steps
    const loop::Seq* opener = nullptr;  ///< body of the loop whose trips begin by writing it whole
    bool touched = false;
  };

  template <class F>
  static void mentions(const Step& step, const loop::Program& p, F f) {
    if (const auto* c = std::get_if<KernelCall>(&step.value)) {
      const loop::Kernel& k = p.kernels[c->kernel];
      for (std::size_t i = 0; i < c->buffers.size(); ++i) f(c->buffers[i], k.buffers[i].access);
    } else if (const auto* h = std::get_if<loop::HostCall>(&step.value)) {
      for (const auto* ids : {&h->inputs, &h->outputs})
        for (ProgramBufferId id : *ids) f(id, Access::read_write);
    } else if (const auto* s = std::get_if<loop::IfStep>(&step.value)) {
      f(s->predicate, Access::read);
    } else if (const auto* s = std::get_if<loop::WhileStep>(&step.value)) {
      f(s->predicate, Access::read);
    } else if (const auto* s = std::get_if<loop::BindStep>(&step.value)) {
      if (s->values) f(s->values, Access::read);
    } else if (const auto* s = std::get_if<loop::SwapStep>(&step.value)) {
      f(s->a, Access::read_write), f(s->b, Access::read_write);
    } else if (const auto* s = std::get_if<loop::SlotStep>(&step.value)) {
      f(s->view, Access::read_write), f(s->of, Access::read_write), f(s->index, Access::read);
    }
  }

  /// How often a step, or what is nested in it, mentions a buffer.
  std::size_t touches(const Step& step, ProgramBufferId id) const {
    std::size_t n = 0;
    loop::for_each_step(loop::Seq{{step}}, [&](const Step& s) {
      mentions(s, p_, [&](ProgramBufferId b, Access) { n += storage_.home[b] == storage_.home[id]; });
    });
    return n;
  }

  void count_uses(const loop::Seq& seq, const loop::Seq* body) {
    for (const Step& step : seq.steps) {
      std::set<ProgramBufferId> read;  // by this step: what it also writes does not begin here
      mentions(step, p_, [&](ProgramBufferId id, Access a) {
        if (a != Access::write) read.insert(storage_.home[id]);
      });
      mentions(step, p_, [&](ProgramBufferId id, Access a) {
        const ProgramBufferId home = storage_.home[id];
        Use& use = uses_[home];
        if (!use.touched && a == Access::write && !read.contains(home)) use.opener = body;
        use.touched = true;
        ++use.total;
      });
      auto nested = [&](const std::shared_ptr<loop::Seq>& s, const loop::Seq* loop_body) {
        if (s) count_uses(*s, loop_body);
      };
      if (const auto* s = std::get_if<loop::IfStep>(&step.value)) {
        nested(s->then, nullptr), nested(s->otherwise, nullptr);
      } else if (const auto* s = std::get_if<loop::WhileStep>(&step.value)) {
        nested(s->cond, nullptr), nested(s->body, s->body.get());
      }
    }
  }

  /// Buffers of an exchange in a loop's body that each trip writes before it reads them, and nobody else knows.
  void find_dead(const loop::Seq& seq, std::set<ProgramBufferId>& dead) const {
    loop::for_each_step(seq, [&](const Step& step) {
      const auto* loop = std::get_if<loop::WhileStep>(&step.value);
      if (!loop) return;
      for (const Step& s : loop->body->steps) {
        const auto* swap = std::get_if<loop::SwapStep>(&s.value);
        if (!swap) continue;
        for (ProgramBufferId id : {swap->a, swap->b}) {
          const Use& use = uses_.at(id);
          const bool output = std::any_of(p_.outputs.begin(), p_.outputs.end(),
                                          [&](ProgramBufferId o) { return storage_.home[o] == id; });
          std::size_t inside = 0;
          for (const Step& t : loop->body->steps) inside += touches(t, id);
          if (use.opener == loop->body.get() && use.total == inside && !output) dead.insert(id);
        }
      }
    });
  }

  // ---- Merging.

  /// Sequences are shared with other copies of the program: a new one is made.
  std::shared_ptr<loop::Seq> merged(const loop::Seq& seq) {
    std::vector<Step> out;
    for (std::size_t i = 0; i < seq.steps.size();) {
      Size size;
      std::size_t end = i;
      for (; end < seq.steps.size(); ++end) {
        Size more = size;
        if (!add(seq.steps[end], false, more) || merged_ + more.stmts > max_program_stmts) break;
        if (more.traps && more.loops) break;  // a trap ends a step, but not a kernel: the loop might go on for ever
        size = std::move(more);
      }
      if (end > i && (size.calls > 1 || size.control) && size.calls > 0) {
        out.push_back(region({seq.steps.begin() + static_cast<std::ptrdiff_t>(i),
                              seq.steps.begin() + static_cast<std::ptrdiff_t>(end)}));
        merged_ += size.stmts;
        i = end;
        continue;
      }
      for (const std::size_t stop = std::max(end, i + 1); i < stop; ++i) {
        Step step = seq.steps[i];
        if (auto* s = std::get_if<loop::IfStep>(&step.value)) {
          s->then = merged(*s->then), s->otherwise = merged(*s->otherwise);
        } else if (auto* s = std::get_if<loop::WhileStep>(&step.value)) {
          s->cond = merged(*s->cond), s->body = merged(*s->body);
        }
        out.push_back(std::move(step));
      }
    }
    return std::make_shared<loop::Seq>(loop::Seq{std::move(out)});
  }

  Step region(std::span<const Step> steps) {
    loop::Seq all{{steps.begin(), steps.end()}};
    std::set<ProgramBufferId> dead;
    find_dead(all, dead);
    SmallRegion::Made made = SmallRegion(p_, storage_, owners_).make(all.steps, dead);
    std::string label;
    std::size_t calls = 0;
    loop::for_each_step(all, [&](const Step& step) {
      if (std::holds_alternative<loop::WhileStep>(step.value)) label += label.empty() ? "loop" : ", loop";
      const auto* c = std::get_if<KernelCall>(&step.value);
      if (!c) return;
      ++calls;
      if (label.size() + c->label.size() <= max_label) label += (label.empty() ? "" : ", ") + c->label;
    });
    made.call.label = fmt::format("{} ({} kernels)", label, calls);
    made.call.kernel = p_.kernels.push(std::move(made.kernel));
    return {std::move(made.call)};
  }

  /// Leaves the kernels out that no step calls any more.
  void drop_unused() {
    std::vector<KernelId> new_id(p_.kernels.size());
    IdMap<KernelId, loop::Kernel> kept;
    loop::for_each_step(p_.body, [&](const Step& step) {
      const auto* c = std::get_if<KernelCall>(&step.value);
      if (c && !new_id[c->kernel.index]) new_id[c->kernel.index] = KernelId(std::size_t{0});
    });
    for (std::size_t i = 0; i < new_id.size(); ++i)
      if (new_id[i]) new_id[i] = kept.push(std::move(p_.kernels[KernelId(i)]));
    p_.body = *renumbered(p_.body, new_id);
    p_.kernels = std::move(kept);
  }
  static std::shared_ptr<loop::Seq> renumbered(loop::Seq seq, const std::vector<KernelId>& new_id) {
    for (Step& step : seq.steps) {
      if (auto* c = std::get_if<KernelCall>(&step.value)) {
        c->kernel = new_id[c->kernel.index];
      } else if (auto* s = std::get_if<loop::IfStep>(&step.value)) {
        s->then = renumbered(*s->then, new_id), s->otherwise = renumbered(*s->otherwise, new_id);
      } else if (auto* s = std::get_if<loop::WhileStep>(&step.value)) {
        s->cond = renumbered(*s->cond, new_id), s->body = renumbered(*s->body, new_id);
      }
    }
    return std::make_shared<loop::Seq>(std::move(seq));
  }

  loop::Program p_;
  loop::Storage storage_;
  std::map<ProgramBufferId, ProgramBufferId> owners_;
  std::map<ProgramBufferId, Use> uses_;  ///< by home
  std::size_t merged_ = 0;
};

Result<loop::Program> run(loop::Program p, PassContext& context) {
  if (!context.fuse) return p;  // -O0: an op a kernel
  return Merger(std::move(p)).run();
}

}  // namespace

extern const Pass merge_small{
    .name = "merge_small", .summary = "makes one kernel of small ones that follow one another", .on_program = run};

}  // namespace ag::passes

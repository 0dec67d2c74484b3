// Stores around the caches, where what is stored would leave them before anybody reads it. An ordinary store of a line
// first reads it from memory and later writes it back, having pushed another line out on its way; one around the caches
// is written once. What a kernel stores is gone from the shared cache if, from the store of an element to the next read
// of it, several times as many bytes move as the cache holds. In programs of known sizes that is a sum over the calls
// in between; a reader walks its operand in the order in which it was written, so the kernel that stores counts as a
// whole. What only the caller reads, after the program, goes around sooner.
//
// Only kernels that wait for memory are asked: a product's stores cost nothing beside its arithmetic. Sizes that only
// the run knows: never.
#include "passes/stream_stores.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "ir/loop/storage.hpp"

namespace ag::passes {
namespace {

using loop::Access;
using loop::KernelCall;
using loop::KernelId;
using loop::Op;
using loop::ProgramBufferId;
using loop::Step;

/// Additions a byte up to which memory is what a kernel waits for.
constexpr std::int64_t most_work_a_byte = 16;
/// Times that the shared cache must be filled between a store and the next read in the program, in quarters. Much of
/// what lies in a cache survives when it is filled once (docs/decisions.md has the measurements).
constexpr std::int64_t read_quarters = 12;
/// The same for what the program never reads: kept in the cache, it would only push out what the next run reads. The
/// longer a kernel takes for its bytes, the more of them other programs push out meanwhile, so sums and then another
/// pass have less; where functions are computed, lines arrive behind them, and what was pushed out costs nothing.
constexpr std::int64_t unread_quarters = 5, unread_quarters_of_sums = 4;
constexpr std::int64_t work_a_byte_of_sums = 1;
constexpr std::ptrdiff_t statements_of_functions = 24;

class StreamStores {
 public:
  StreamStores(loop::Program p, std::int64_t cache_bytes, loop::Storage storage)
      : p_(std::move(p)), cache_bytes_(cache_bytes), storage_(std::move(storage)) {}

  loop::Program run() {
    std::vector<Step>& steps = p_.body.steps;
    for (const Step& step : steps) traffic_.push_back(traffic(step));
    loop::for_each_step(p_.body, [&](const Step& step) {
      if (const auto* call = std::get_if<KernelCall>(&step.value)) ++calls_[call->kernel];
    });
    for (std::size_t i = 0; i < steps.size(); ++i)
      if (const auto* call = std::get_if<KernelCall>(&steps[i].value))
        if (std::set<std::uint32_t> buffers = streamed(*call, i); !buffers.empty())
          chosen_[{call->kernel, std::move(buffers)}].push_back(i);
    for (const auto& [what, where] : chosen_) {
      const KernelId kernel = variant(what.first, what.second, where.size() == calls_[what.first]);
      for (std::size_t step : where) std::get<KernelCall>(steps[step].value).kernel = kernel;
    }
    return std::move(p_);
  }

 private:
  loop::Program p_;
  const std::int64_t cache_bytes_;
  const loop::Storage storage_;
  std::vector<std::int64_t> traffic_;  // bytes that each step moves, 0 if they are not known
  std::map<KernelId, std::size_t> calls_;
  std::map<std::pair<KernelId, std::set<std::uint32_t>>, std::vector<std::size_t>> chosen_;  // steps, by what they want

  std::int64_t bytes_of(ProgramBufferId id) const {
    const Dim bytes = loop::byte_size(p_.buffers[id]);
    return bytes.is_const() ? bytes.value() : 0;
  }

  std::int64_t traffic(const Step& step) const {
    const auto* call = std::get_if<KernelCall>(&step.value);
    if (!call) return 0;
    std::int64_t bytes = 0;
    for (ProgramBufferId id : std::set<ProgramBufferId>(call->buffers.begin(), call->buffers.end())) {
      if (bytes_of(id) == 0) return 0;
      bytes += bytes_of(id);
    }
    return bytes;
  }

  bool touches(const Step& step, ProgramBufferId home) const {
    bool found = false;
    auto is = [&](ProgramBufferId b) { found = found || (b && storage_.home[b] == home); };
    loop::Seq one;
    one.steps.push_back(step);
    loop::for_each_step(one, [&](const Step& s) {
      if (const auto* c = std::get_if<KernelCall>(&s.value)) {
        for (ProgramBufferId b : c->buffers) is(b);
      } else if (const auto* h = std::get_if<loop::HostCall>(&s.value)) {
        for (const auto* list : {&h->inputs, &h->outputs})
          for (ProgramBufferId b : *list) is(b);
      } else if (const auto* i = std::get_if<loop::IfStep>(&s.value)) {
        is(i->predicate);
      } else if (const auto* w = std::get_if<loop::WhileStep>(&s.value)) {
        is(w->predicate);
      } else if (const auto* b = std::get_if<loop::BindStep>(&s.value)) {
        is(b->values);
      } else if (const auto* x = std::get_if<loop::SwapStep>(&s.value)) {
        is(x->a), is(x->b);
      } else if (const auto* v = std::get_if<loop::SlotStep>(&s.value)) {
        is(v->view), is(v->of), is(v->index);
      }
    });
    return found;
  }

  /// Whether it computes more than sums of a row and what follows from them.
  static bool functions(const loop::Kernel& k) {
    return std::count_if(k.stmts.begin(), k.stmts.end(), [&](const loop::Stmt& s) {
             const loop::OpClass cls = loop::describe(s.op).cls;
             return (cls == loop::OpClass::unary || cls == loop::OpClass::binary || cls == loop::OpClass::ternary) &&
                    k.type(s.results[0]).lanes > 1;
           }) > statements_of_functions;
  }

  /// Parameters of the call at `step` whose stores go around the caches.
  std::set<std::uint32_t> streamed(const KernelCall& call, std::size_t step) const {
    std::set<std::uint32_t> out;
    const loop::Kernel& k = p_.kernels[call.kernel];
    const std::int64_t own = traffic_[step];
    if (own == 0 || !k.flops.is_const() || k.flops.value() > own * most_work_a_byte) return out;
    for (std::uint32_t i = 0; i < call.buffers.size(); ++i) {
      if (k.buffers[i].access != Access::write || bytes_of(call.buffers[i]) * 8 < cache_bytes_) continue;
      const ProgramBufferId home = storage_.home[call.buffers[i]];
      const std::int64_t quarter = cache_bytes_ / 4;
      std::int64_t between = own;
      std::size_t next = step + 1;
      for (; next < traffic_.size() && between < read_quarters * quarter; ++next) {
        if (touches(p_.body.steps[next], home)) break;
        between += traffic_[next];
      }
      const bool read = next < traffic_.size(), sums = k.flops.value() >= own * work_a_byte_of_sums && !functions(k);
      if (between >= quarter * (read ? read_quarters : sums ? unread_quarters_of_sums : unread_quarters)) out.insert(i);
    }
    return out;
  }

  /// The kernel with such stores to these buffers: a new one if there are calls that want others.
  KernelId variant(KernelId id, const std::set<std::uint32_t>& buffers, bool for_all) {
    loop::Kernel k = p_.kernels[id];
    bool any = false;
    for (loop::Stmt& s : k.stmts)
      if (s.op == Op::store_tile && buffers.contains(s.attr.buffer.index)) s.attr.nontemporal = any = true;
    if (!any) return id;
    if (!for_all) return p_.kernels.push(std::move(k));
    p_.kernels[id] = std::move(k);
    return id;
  }
};

Result<loop::Program> run(loop::Program p, PassContext& context) {
  AG_TRY(loop::Storage storage, loop::resolve_storage(p));
  return StreamStores(std::move(p), context.target.l3_bytes, std::move(storage)).run();
}

}  // namespace

const Pass stream_stores = {
    .name = "stream_stores", .summary = "stores around the caches of what is read much later", .on_program = run};

}  // namespace ag::passes

// Reductions that lowering takes in parts (terms_per_part in plan.hpp) have few results or none side by side. Each
// kernel that does nothing else becomes two: the first computes all parts, which are independent, the second adds them
// up in order. Where the parts are depends on shapes alone, and a kernel that stays whole takes them in the same order,
// so the bits are those of the kernel as it was, at any number of threads. What a loop calls for sizes that only the
// run tells stays whole: most such loops are short programs over small data, and a second call each trip slows them.
#include <algorithm>
#include <map>
#include <set>

#include "ir/loop/builder.hpp"
#include "passes/clone.hpp"
#include "passes/loop_nest.hpp"
#include "passes/split_reductions.hpp"

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::BufferId;
using loop::Builder;
using loop::Kernel;
using loop::Mapping;
using loop::Op;
using loop::Stmt;
using loop::StmtId;
using LV = loop::ValueId;
using Values = Builder::Values;

class Splitter {
  using Set = std::set<BufferId>;

 public:
  explicit Splitter(const Kernel& k) : k_(k), nest_(find_nest(k)) {}

  /// A loop over parts, and around it only what is cheap.
  bool applies() {
    for (const loop::Buffer& b : k_.buffers)
      if (b.scope != loop::Scope::param) return false;
    for (const NestLoop& l : nest_.loops)
      if (!l.size) return false;
    Set of_parts;
    for (StmtId id : k_.blocks[nest_.body].stmts) {
      const Stmt& s = k_.stmts[id];
      if (s.op == Op::yield) continue;
      if (s.op == Op::for_) {
        if (parts_ || s.attr.role != AxisRole::batch || s.operands.size() <= 3) return false;
        parts_ = id;
        collect(parts_, of_parts);
        continue;
      }
      // What is updated in place behind the parts is not read by them.
      const bool load = s.op == Op::load && (k_.buffers[s.attr.buffer.index].access == loop::Access::read ||
                                             (parts_ && !of_parts.contains(s.attr.buffer)));
      if (!is_pure(s) && !load && !(parts_ && s.op == Op::store)) return false;
      (parts_ ? after_ : before_).push_back(id);
    }
    if (!parts_) return false;
    auto count = as_dim(k_, k_.stmts[parts_].operands[1]);
    if (!count) return false;
    count_ = *count;
    for (const NestLoop& l : nest_.loops) results_ = results_ * *l.size;
    return find_partials();
  }

  /// The kernel of the parts; its last parameters, one a reduction, take them.
  Kernel first() {
    Builder b(k_.name);
    KernelCloner c(k_, b);
    Set used = buffers_in(before_);
    collect(parts_, used);
    c.clone_buffers([&](BufferId id) { return used.contains(id); });
    std::vector<BufferId> out;
    for (LV v : partials_) out.push_back(b.param(k_.type(v).elem, partial_elems(), loop::Access::write));
    b.for_each(b.dim(count_), {.mapping = Mapping::parallel, .role = AxisRole::batch}, [&](LV part) {
      loops(b, c, 0, [&] {
        for (StmtId id : before_) c.clone(id);
        const loop::BlockId block = k_.stmts[parts_].blocks[0];
        c.set(k_.blocks[block].args[0], part);
        for (StmtId id : k_.blocks[block].stmts)
          if (k_.stmts[id].op == Op::for_) c.clone(id);
        for (std::size_t i = 0; i < out.size(); ++i) b.store(out[i], place(b, c, part), c.get(partials_[i]));
      });
    });
    return std::move(b).finish();
  }

  /// The kernel that adds up the parts, which are its last parameters, and goes on with the results.
  Kernel second() {
    Builder b(k_.name);
    KernelCloner c(k_, b);
    Set used = buffers_in(before_), later = buffers_in(after_);
    used.insert(later.begin(), later.end());
    c.clone_buffers([&](BufferId id) { return used.contains(id); });
    std::vector<BufferId> in;
    for (LV v : partials_) in.push_back(b.param(k_.type(v).elem, partial_elems(), loop::Access::read));
    b.kernel().flops = b.kernel().bytes = partial_elems() * Dim(static_cast<std::int64_t>(in.size()));
    loops(b, c, 0, [&] {
      for (StmtId id : before_) c.clone(id);
      const Stmt& parts = k_.stmts[parts_];
      Values init;
      for (std::size_t i = 3; i < parts.operands.size(); ++i) init.push_back(c.get(parts.operands[i]));
      Values sums = b.for_(b.index(0), b.dim(count_), b.index(1), {.mapping = Mapping::serial, .role = AxisRole::batch},
                           init, [&](LV part, const Values& carried) {
                             Values next;
                             for (std::size_t i = 0; i < in.size(); ++i)
                               next.push_back(b.op(combine_[i], {carried[i], b.load(in[i], place(b, c, part))}));
                             return next;
                           });
      for (std::size_t i = 0; i < sums.size(); ++i) c.set(parts.results[i], sums[i]);
      for (StmtId id : after_) c.clone(id);
    });
    return std::move(b).finish();
  }

  /// Parameters of the old kernel that the new one has, in order.
  std::vector<std::size_t> kept(bool of_first) const {
    Set used = buffers_in(before_);
    if (of_first) collect(parts_, used);
    if (!of_first)
      for (BufferId id : buffers_in(after_)) used.insert(id);
    std::vector<std::size_t> out;
    for (BufferId id : used) out.push_back(id.index);
    return out;
  }
  Dim partial_elems() const { return count_ * results_; }
  bool known_count() const { return count_.is_const(); }
  std::vector<DType> partial_types() const {
    std::vector<DType> out;
    for (LV v : partials_) out.push_back(k_.type(v).elem);
    return out;
  }

 private:
  const Kernel& k_;
  LoopNest nest_;
  std::vector<StmtId> before_, after_;
  StmtId parts_;
  Dim count_, results_ = 1;
  Values partials_;  // what the loop over parts adds to each carried value
  std::vector<Op> combine_;  // and how

  bool find_partials() {
    const auto& block = k_.blocks[k_.stmts[parts_].blocks[0]];
    const auto& yielded = k_.stmts[block.stmts.back()].operands;
    for (std::size_t i = 0; i < yielded.size(); ++i) {
      StmtId def = k_.values[yielded[i]].def;
      if (!def || k_.stmts[def].operands.size() != 2 || k_.stmts[def].operands[0] != block.args[i + 1]) return false;
      partials_.push_back(k_.stmts[def].operands[1]);
      combine_.push_back(k_.stmts[def].op);
    }
    return true;
  }

  void collect(StmtId id, Set& out) const {
    const Stmt& s = k_.stmts[id];
    if (describe(s.op).cls == loop::OpClass::memory) out.insert(s.attr.buffer);
    for (loop::BlockId block : s.blocks)
      for (StmtId inner : k_.blocks[block].stmts) collect(inner, out);
  }
  Set buffers_in(const std::vector<StmtId>& stmts) const {
    Set out;
    for (StmtId id : stmts) collect(id, out);
    return out;
  }

  void loops(Builder& b, KernelCloner& c, std::size_t i, const std::function<void()>& body) {
    if (i == nest_.loops.size()) return body();
    const NestLoop& l = nest_.loops[i];
    b.for_each(b.dim(*l.size), {.mapping = Mapping::parallel, .role = l.role}, [&](LV iv) {
      c.set(l.iv, iv);
      loops(b, c, i + 1, body);
    });
  }

  LV place(Builder& b, KernelCloner& c, LV part) const {
    LV at = part;
    for (const NestLoop& l : nest_.loops) at = b.add(b.mul(at, b.dim(*l.size)), c.get(l.iv));
    return at;
  }
};

struct Split {
  loop::KernelId second;
  std::vector<std::size_t> first_params, second_params;
  std::vector<std::string> dims;
  Dim elems;
  std::vector<DType> types;
};

void split_calls(loop::Program& p, loop::Seq& seq, const std::map<std::size_t, Split>& splits) {
  std::vector<loop::Step> steps;
  for (loop::Step& step : seq.steps) {
    if (auto* s = std::get_if<loop::IfStep>(&step.value)) {
      split_calls(p, *s->then, splits);
      split_calls(p, *s->otherwise, splits);
    } else if (auto* w = std::get_if<loop::WhileStep>(&step.value)) {
      split_calls(p, *w->cond, splits);
      split_calls(p, *w->body, splits);
    }
    auto* call = std::get_if<loop::KernelCall>(&step.value);
    auto it = call ? splits.find(call->kernel.index) : splits.end();
    if (it == splits.end()) {
      steps.push_back(std::move(step));
      continue;
    }
    const Split& split = it->second;
    loop::KernelCall first = *call, second = *call;
    first.buffers.clear(), second.buffers.clear();
    second.kernel = split.second;
    first.label += " (parts)", second.label += " (of parts)";
    for (std::size_t i : split.first_params) first.buffers.push_back(call->buffers[i]);
    for (std::size_t i : split.second_params) second.buffers.push_back(call->buffers[i]);
    std::map<std::string, Dim, std::less<>> sizes;
    for (std::size_t i = 0; i < split.dims.size(); ++i) sizes[split.dims[i]] = call->dims[i];
    for (DType t : split.types) {
      loop::ProgramBuffer b{.kind = loop::BufferKind::temp, .dtype = t, .shape = {split.elems.substitute(sizes)}};
      b.name = "parts";
      loop::ProgramBufferId id = p.buffers.push(std::move(b));
      first.buffers.push_back(id), second.buffers.push_back(id);
    }
    steps.push_back({std::move(first)});
    steps.push_back({std::move(second)});
  }
  seq.steps = std::move(steps);
}

/// Kernels called by the trips of a loop.
void collect_repeated(const loop::Seq& seq, bool repeated, std::set<loop::KernelId>& out) {
  for (const loop::Step& step : seq.steps) {
    if (auto* s = std::get_if<loop::IfStep>(&step.value)) {
      collect_repeated(*s->then, repeated, out);
      collect_repeated(*s->otherwise, repeated, out);
    } else if (auto* w = std::get_if<loop::WhileStep>(&step.value)) {
      collect_repeated(*w->cond, true, out);
      collect_repeated(*w->body, true, out);
    } else if (auto* call = std::get_if<loop::KernelCall>(&step.value); call && repeated) {
      out.insert(call->kernel);
    }
  }
}

Result<loop::Program> run(loop::Program program, PassContext&) {
  std::set<loop::KernelId> repeated;
  collect_repeated(program.body, false, repeated);
  std::map<std::size_t, Split> splits;
  for (std::size_t i = 0, n = program.kernels.size(); i < n; ++i) {
    const Kernel whole = program.kernels[loop::KernelId(i)];
    Splitter s(whole);
    if (!s.applies() || (!s.known_count() && repeated.contains(loop::KernelId(i)))) continue;
    Kernel second = s.second();
    second.name = "k" + std::to_string(program.kernels.size());
    program.kernels[loop::KernelId(i)] = s.first();
    splits[i] = {program.kernels.push(std::move(second)),
                 s.kept(true),
                 s.kept(false),
                 whole.dims,
                 s.partial_elems(),
                 s.partial_types()};
  }
  if (!splits.empty()) split_calls(program, program.body, splits);
  return program;
}

}  // namespace

const Pass split_reductions = {.name = "split_reductions",
                               .summary = "reductions with few results are taken in parts, side by side",
                               .on_program = run};

}  // namespace ag::passes

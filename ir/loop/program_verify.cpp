// What holds of every program, and the walks that others share.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "ir/base/small_float.hpp"
#include "ir/loop/storage.hpp"
#include "ir/loop/text.hpp"

namespace ag::loop {
namespace {

class ProgramVerifier {
 public:
  ProgramVerifier(const Program& p, bool mapped) : p_(p), mapped_(mapped) {}

  Status run() {
    for (const Kernel& k : p_.kernels) AG_TRY_(verify(k, mapped_));
    AG_TRY_(segments());
    std::size_t i = 0;
    for (const ProgramBuffer& b : p_.buffers) AG_TRY_(buffer(b, i++));
    for (auto [list, kind] : {std::pair{&p_.inputs, BufferKind::input}, {&p_.outputs, BufferKind::output}})
      for (ProgramBufferId id : *list) AG_TRY_(reference(id, kind == BufferKind::input ? "an input" : "an output"));
    for (const DimSource& d : p_.dim_sources)
      AG_TRY_(check(d.input < p_.inputs.size() && d.axis < p_.buffers[p_.inputs[d.input]].shape.size(),
                    "size `{}` is read from input {}, axis {}, which does not exist", d.symbol, d.input, d.axis));
    AG_TRY_(seq(p_.body, 0));
    return verify_storage(p_);
  }

 private:
  const Program& p_;
  bool mapped_;

  template <class... Args>
  Status check(bool ok, fmt::format_string<Args...> format, Args&&... args) {
    if (ok) return {};
    return fail(Code::AG1806, {},
                fmt::format("program `{}`: ", p_.name) + fmt::format(format, std::forward<Args>(args)...));
  }

  Status segments() {
    std::set<std::string> seen;
    for (const DimSource& d : p_.dim_sources) seen.insert(d.symbol);
    for (const Segment& s : p_.segments) {
      AG_TRY_(check(!s.symbols.empty(), "a segment has no symbol"));
      for (const std::string& name : s.symbols)
        AG_TRY_(check(seen.insert(name).second, "size `{}` is known from two places", name));
      AG_TRY_(check(s.arena_bytes.valid() && s.scratch_bytes.valid(), "the size of a segment overflows"));
    }
    return {};
  }

  Status bind(const BindStep& s) {
    AG_TRY_(check(p_.segments.contains(s.segment), "a step binds segment {}, which does not exist", s.segment.index));
    if (!s.values) {
      for (const Dim& d : s.exprs) AG_TRY_(check(d.valid(), "a size that a step binds overflows"));
      return check(s.exprs.size() == p_.segments[s.segment].symbols.size(),
                   "a step binds segment {} to {} sizes; it has {}", s.segment.index, s.exprs.size(),
                   p_.segments[s.segment].symbols.size());
    }
    AG_TRY_(reference(s.values, "a bind step"));
    const ProgramBuffer& b = p_.buffers[s.values];
    Dim n = product(b.shape);
    return check(b.dtype == DType::i64 && n.is_const() &&
                     n.value() >= static_cast<std::int64_t>(p_.segments[s.segment].symbols.size()),
                 "sizes are bound to buffer p{}, which does not hold as many i64", s.values.index);
  }

  Status swap(const SwapStep& s) {
    for (ProgramBufferId id : {s.a, s.b}) AG_TRY_(reference(id, "a swap"));
    const ProgramBuffer &a = p_.buffers[s.a], &b = p_.buffers[s.b];
    bool temps = a.kind == BufferKind::temp && b.kind == BufferKind::temp && !a.alias_of && !b.alias_of;
    bool fit = a.place == b.place && a.place != Place::slot && a.dtype == b.dtype &&
               (a.place == Place::growable || product(a.shape) == product(b.shape));
    return check(temps && fit, "buffers p{} and p{} cannot exchange their memory", s.a.index, s.b.index);
  }

  Status slot(const SlotStep& s) {
    for (ProgramBufferId id : {s.view, s.of, s.index}) AG_TRY_(reference(id, "a slot"));
    const ProgramBuffer &view = p_.buffers[s.view], &of = p_.buffers[s.of], &index = p_.buffers[s.index];
    return check(view.kind == BufferKind::temp && view.place == Place::slot && !view.alias_of &&
                     view.dtype == of.dtype && index.dtype == DType::i64 && s.count.valid(),
                 "p{} cannot be a slot of p{}", s.view.index, s.of.index);
  }

  Status reference(ProgramBufferId id, std::string_view what) {
    return check(p_.buffers.contains(id), "{} refers to buffer {}, which does not exist", what, id.index);
  }

  Status buffer(const ProgramBuffer& b, std::size_t i) {
    for (const Dim& d : b.shape)
      AG_TRY_(check(d.valid() && !(d.is_const() && d.value() < 0), "buffer p{} has a malformed size", i));
    AG_TRY_(check(product(b.shape).valid() && b.offset.valid(), "the size of buffer p{} overflows", i));
    AG_TRY_(check(!b.alias_of || (p_.buffers.contains(b.alias_of) && b.alias_of.index != i),
                  "buffer p{} shares memory with itself or with nothing", i));
    return check(!b.constant || byte_size(b).is_const(), "constant p{} has no constant size", i);
  }

  Status call(const KernelCall& c) {
    AG_TRY_(check(p_.kernels.contains(c.kernel), "a call of kernel {}, which does not exist", c.kernel.index));
    const Kernel& k = p_.kernels[c.kernel];
    AG_TRY_(check(c.buffers.size() == k.param_count(), "kernel {} (@{}) takes {} buffers, a call gives {}",
                  c.kernel.index, k.name, k.param_count(), c.buffers.size()));
    AG_TRY_(check(c.dims.size() == k.dims.size(), "kernel {} (@{}) takes {} sizes, a call gives {}", c.kernel.index,
                  k.name, k.dims.size(), c.dims.size()));
    for (std::size_t i = 0; i < c.buffers.size(); ++i) {
      AG_TRY_(reference(c.buffers[i], "a call"));
      DType have = p_.buffers[c.buffers[i]].dtype, want = k.buffers[i].dtype;
      AG_TRY_(check(element_dtype(have) == want, "parameter {} of kernel {} (@{}) is {}, the call gives {}", i,
                    c.kernel.index, k.name, dtype_name(want), dtype_name(have)));
    }
    for (const Dim& d : c.dims) AG_TRY_(check(d.valid(), "a size given to kernel {} overflows", c.kernel.index));
    for (std::uint32_t o : c.origins)
      AG_TRY_(check(p_.sources.empty() || o < p_.sources.size(),
                    "a call's origin refers to source {}, which does not exist", o));
    return {};
  }

  Status predicate(ProgramBufferId id) {
    AG_TRY_(reference(id, "a predicate"));
    return check(p_.buffers[id].dtype == DType::boolean, "predicate p{} is not a bool", id.index);
  }

  Status nested(const std::shared_ptr<Seq>& s, int depth) {
    AG_TRY_(check(s != nullptr, "a branch or loop lacks a sequence"));
    return seq(*s, depth + 1);
  }

  Status seq(const Seq& s, int depth) {
    AG_TRY_(check(depth <= max_nesting, "steps nest deeper than {}", max_nesting));
    for (const Step& step : s.steps) {
      if (auto* c = std::get_if<KernelCall>(&step.value)) {
        AG_TRY_(call(*c));
      } else if (auto* h = std::get_if<HostCall>(&step.value)) {
        for (ProgramBufferId id : h->inputs) AG_TRY_(reference(id, "a host call"));
        for (ProgramBufferId id : h->outputs) AG_TRY_(reference(id, "a host call"));
      } else if (auto* i = std::get_if<IfStep>(&step.value)) {
        AG_TRY_(predicate(i->predicate));
        AG_TRY_(nested(i->then, depth));
        AG_TRY_(nested(i->otherwise, depth));
      } else if (auto* w = std::get_if<WhileStep>(&step.value)) {
        AG_TRY_(predicate(w->predicate));
        AG_TRY_(nested(w->cond, depth));
        AG_TRY_(nested(w->body, depth));
      } else if (auto* b = std::get_if<BindStep>(&step.value)) {
        AG_TRY_(bind(*b));
      } else if (auto* x = std::get_if<SwapStep>(&step.value)) {
        AG_TRY_(swap(*x));
      } else if (auto* v = std::get_if<SlotStep>(&step.value)) {
        AG_TRY_(slot(*v));
      }
    }
    return {};
  }
};

}  // namespace

SegmentIndex::SegmentIndex(const Program& program) {
  for (std::size_t i = 0; i < program.segments.size(); ++i)
    for (const std::string& s : program.segments[SegmentId(i)].symbols) segment_of_.emplace(s, i + 1);
}

std::size_t SegmentIndex::of(const Dim& d) const {
  if (segment_of_.empty() || d.is_const()) return 0;
  std::set<std::string> symbols;
  d.collect_symbols(symbols);
  std::size_t last = 0;
  for (const std::string& s : symbols)
    if (auto it = segment_of_.find(s); it != segment_of_.end()) last = std::max(last, it->second);
  return last;
}

std::size_t SegmentIndex::of(const Dims& dims) const {
  std::size_t last = 0;
  for (const Dim& d : dims) last = std::max(last, of(d));
  return last;
}

void for_each_step(const Seq& seq, const std::function<void(const Step&)>& f) {
  for (const Step& step : seq.steps) {
    f(step);
    if (auto* branch = std::get_if<IfStep>(&step.value)) {
      if (branch->then) for_each_step(*branch->then, f);
      if (branch->otherwise) for_each_step(*branch->otherwise, f);
    } else if (auto* loop = std::get_if<WhileStep>(&step.value)) {
      if (loop->cond) for_each_step(*loop->cond, f);
      if (loop->body) for_each_step(*loop->body, f);
    }
  }
}

Status verify(const Program& program, bool mapped) { return ProgramVerifier(program, mapped).run(); }

}  // namespace ag::loop

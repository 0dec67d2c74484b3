#include "passes/small_region.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "ir/loop/abi.hpp"

namespace ag::passes {

using loop::Access;
using loop::Attr;
using loop::BlockId;
using loop::BufferId;
using loop::Kernel;
using loop::KernelCall;
using loop::Mapping;
using loop::Op;
using loop::ProgramBufferId;
using loop::Scope;
using loop::Step;
using loop::Stmt;
using loop::StmtId;
using loop::VType;
using LV = loop::ValueId;

namespace {

constexpr VType bool_type{DType::boolean, 1, 1};

template <class I>
I moved(I id, std::size_t by) {
  return id.valid() ? I(id.index + by) : id;
}

}  // namespace

SmallRegion::Made SmallRegion::make(std::span<const Step> steps, const std::set<ProgramBufferId>& dead_after_swap) {
  dead_ = dead_after_swap;
  k_.name = "region";
  k_.blocks.push({});
  loop::Seq all{{steps.begin(), steps.end()}};
  declare(all);
  add_local_buffers(all);
  std::vector<StmtId> top;
  out_ = &top;
  const LV ok = seq(all.steps, {});
  if (has_slot_ && ok) {
    Stmt trap{Op::trap};
    trap.attr.index = static_cast<std::uint32_t>(loop::Trap::size_mismatch);
    trap.operands = {emit(Op::not_, bool_type, {ok})};
    trap.origin = slot_origin_;
    top.push_back(k_.stmts.push(std::move(trap)));
  }
  k_.blocks[k_.top()].stmts = std::move(top);
  for_each_step(all, [&](const Step& step) {
    const auto* c = std::get_if<KernelCall>(&step.value);
    if (c && p_.kernels[c->kernel].flops.is_const()) k_.flops = k_.flops + p_.kernels[c->kernel].flops;
  });
  return {std::move(k_), std::move(call_)};
}

// ---- parameters -----------------------------------------------------------------------------------------------------

void SmallRegion::declare(ProgramBufferId id, Access access) {
  const ProgramBufferId home = storage_.home[id];
  const loop::ProgramBuffer& b = p_.buffers[home];
  auto [at, fresh] = params_.try_emplace(home, BufferId(k_.buffers.size()));
  if (fresh) {
    k_.buffers.push_back({fmt::format("b{}", k_.buffers.size()), element_dtype(b.dtype), Scope::param, access,
                          in_kernel(product(b.shape)), true});
    call_.buffers.push_back(home);
  }
  loop::Buffer& param = k_.buffers[at->second.index];
  if (param.access != access) param.access = Access::read_write;
}

/// Finds every buffer that the steps touch: parameters come before local buffers. Of a slot that the steps choose that
/// is the whole.
void SmallRegion::declare(const loop::Seq& seq) {
  std::set<ProgramBufferId> chosen;
  for_each_step(seq, [&](const Step& step) {
    if (const auto* s = std::get_if<loop::SlotStep>(&step.value)) chosen.insert(storage_.home[s->view]);
  });
  auto owner = [&](ProgramBufferId id) {
    return chosen.contains(storage_.home[id]) ? owners_.at(storage_.home[id]) : id;
  };
  for_each_step(seq, [&](const Step& step) {
    if (const auto* c = std::get_if<KernelCall>(&step.value)) {
      const Kernel& k = p_.kernels[c->kernel];
      for (std::size_t i = 0; i < c->buffers.size(); ++i) declare(owner(c->buffers[i]), k.buffers[i].access);
    } else if (const auto* s = std::get_if<loop::IfStep>(&step.value)) {
      declare(s->predicate, Access::read);
    } else if (const auto* s = std::get_if<loop::WhileStep>(&step.value)) {
      declare(s->predicate, Access::read);
    } else if (const auto* s = std::get_if<loop::SwapStep>(&step.value)) {
      for (ProgramBufferId id : {s->a, s->b}) declare(id, Access::read_write);
    } else if (const auto* s = std::get_if<loop::SlotStep>(&step.value)) {
      declare(s->index, Access::read);
    }
  });
}

void SmallRegion::add_local_buffers(const loop::Seq& seq) {
  for_each_step(seq, [&](const Step& step) {
    const auto* c = std::get_if<KernelCall>(&step.value);
    if (!c) return;
    const Kernel& k = p_.kernels[c->kernel];
    std::map<std::string, Dim, std::less<>> env;
    for (std::size_t i = 0; i < k.dims.size(); ++i) env.emplace(k.dims[i], in_kernel(c->dims[i]));
    auto& ids = locals_[c];
    for (std::size_t i = k.param_count(); i < k.buffers.size(); ++i) {
      loop::Buffer b = k.buffers[i];
      b.name = fmt::format("b{}", k_.buffers.size());
      b.elems = b.elems.substitute(env);
      ids.push_back(BufferId(k_.buffers.size()));
      k_.buffers.push_back(std::move(b));
    }
  });
}

SmallRegion::Window SmallRegion::window(ProgramBufferId id) const {
  const ProgramBufferId home = storage_.home[id];
  if (auto slot = offsets_.find(home); slot != offsets_.end()) {
    return {params_.at(storage_.home[owners_.at(home)]), slot->second};
  }
  return {params_.at(home), {}};
}

/// The name under which the kernel is passed the value of a size expression of the program.
std::string SmallRegion::dim_name(const Dim& d) {
  const auto it = std::find(call_.dims.begin(), call_.dims.end(), d);
  const auto i = static_cast<std::size_t>(it - call_.dims.begin());
  if (it == call_.dims.end()) {
    call_.dims.push_back(d);
    k_.dims.push_back(fmt::format("d{}", i));
  }
  return k_.dims[i];
}

Dim SmallRegion::in_kernel(const Dim& d) { return d.is_const() ? d : Dim::symbol(dim_name(d)); }

// ---- statements -----------------------------------------------------------------------------------------------------

std::vector<LV> SmallRegion::control(Op op, std::vector<LV> operands, std::vector<BlockId> blocks,
                                     const std::vector<VType>& results, Attr attr) {
  Stmt s{op};
  s.attr = attr;
  s.operands = std::move(operands);
  s.blocks = std::move(blocks);
  for (const VType& type : results) {
    loop::Value value{type};
    value.def = StmtId(k_.stmts.size());
    value.result = static_cast<std::uint32_t>(s.results.size());
    s.results.push_back(k_.values.push(value));
  }
  std::vector<LV> out = s.results;
  out_->push_back(k_.stmts.push(std::move(s)));
  return out;
}

LV SmallRegion::emit(Op op, VType type, std::vector<LV> operands, Attr attr) {
  return control(op, std::move(operands), {}, {type}, attr)[0];
}

/// A block of what `body` writes, given the block's arguments; it yields what `body` returns.
template <class Body>
BlockId SmallRegion::block(const std::vector<VType>& args, Body body) {
  const BlockId id = k_.blocks.push({});
  for (const VType& type : args) {
    loop::Value value{type};
    value.block = id;
    k_.blocks[id].args.push_back(k_.values.push(value));
  }
  std::vector<StmtId> stmts;
  std::vector<StmtId>* outer = std::exchange(out_, &stmts);
  control(Op::yield, body(std::vector<LV>(k_.blocks[id].args)), {}, {});
  out_ = outer;
  k_.blocks[id].stmts = std::move(stmts);
  return id;
}

LV SmallRegion::constant(VType type, std::uint64_t bits) { return emit(Op::constant, type, {}, {.imm = bits}); }

LV SmallRegion::size(const Dim& d) {
  if (d.is_const()) return index(d.value());
  const std::string name = dim_name(d);
  const auto i = std::find(k_.dims.begin(), k_.dims.end(), name) - k_.dims.begin();
  return emit(Op::dim, loop::index_type, {}, {.index = static_cast<std::uint32_t>(i)});
}

LV SmallRegion::load_first(ProgramBufferId id, DType type) {
  return emit(Op::load, {type, 1, 1}, {index(0)}, {.buffer = window(id).param});
}

// ---- steps ----------------------------------------------------------------------------------------------------------

/// Writes the steps. `ok`: whether all slots so far lay within their buffers; returns the same after these steps.
LV SmallRegion::seq(std::span<const Step> steps, LV ok) {
  for (const Step& step : steps) {
    if (const auto* c = std::get_if<KernelCall>(&step.value))
      call(*c);
    else if (const auto* s = std::get_if<loop::IfStep>(&step.value))
      ok = branch(*s, ok);
    else if (const auto* s = std::get_if<loop::WhileStep>(&step.value))
      ok = loop(*s, ok);
    else if (const auto* s = std::get_if<loop::SwapStep>(&step.value))
      swap(*s);
    else if (const auto* s = std::get_if<loop::SlotStep>(&step.value))
      ok = slot(*s, ok);
  }
  return ok;
}

/// Origins of the call's statements are told apart from those of the others.
void SmallRegion::note_origins(const Kernel& from, const KernelCall& c) {
  copy_.origins = static_cast<std::uint32_t>(k_.origins.size());
  copy_.has_origins = !from.origins.empty() && c.origins.size() == from.origins.size();
  if (!copy_.has_origins) return;
  for (std::size_t i = 0; i < from.origins.size(); ++i) {
    k_.origins.push_back(static_cast<std::uint32_t>(k_.origins.size()));
    call_.origins.push_back(c.origins[i]);
  }
}

void SmallRegion::call(const KernelCall& c) {
  const Kernel& from = p_.kernels[c.kernel];
  copy_ = {.call = &c, .values = k_.values.size(), .stmts = k_.stmts.size(), .blocks = k_.blocks.size()};
  for (ProgramBufferId id : c.buffers) copy_.buffers.push_back(window(id));
  for (BufferId id : locals_.at(&c)) copy_.buffers.push_back({id, {}});
  note_origins(from, c);
  for (const loop::Value& v : from.values) {
    loop::Value copy = v;
    copy.def = moved(v.def, copy_.stmts);
    copy.block = moved(v.block, copy_.blocks);  // never the top block: it has no arguments
    k_.values.push(copy);
  }
  for (const Stmt& s : from.stmts) {
    Stmt copy = s;
    for (LV& v : copy.operands) v = moved(v, copy_.values);
    for (LV& v : copy.results) v = moved(v, copy_.values);
    for (BlockId& b : copy.blocks) b = moved(b, copy_.blocks);
    if (s.attr.buffer) copy.attr.buffer = copy_.buffers[s.attr.buffer.index].param;
    if (copy.op == Op::for_ && copy.attr.mapping == Mapping::tile) copy.attr.mapping = Mapping::serial;
    copy.origin = s.origin && copy_.has_origins ? s.origin + copy_.origins : 0;
    if (s.op == Op::dim) {
      const Dim& d = c.dims[s.attr.index];
      if (d.is_const()) {
        copy.op = Op::constant;
        copy.attr = {.imm = static_cast<std::uint64_t>(d.value())};
      } else {
        const std::string name = dim_name(d);
        copy.attr.index = static_cast<std::uint32_t>(std::find(k_.dims.begin(), k_.dims.end(), name) - k_.dims.begin());
      }
    }
    k_.stmts.push(std::move(copy));
  }
  for (std::size_t i = 0; i < from.blocks.size(); ++i) {
    loop::Block copy;
    for (LV v : from.blocks[BlockId(i)].args) copy.args.push_back(moved(v, copy_.values));
    k_.blocks.push(std::move(copy));
  }
  for (std::size_t i = 1; i < from.blocks.size(); ++i) {
    std::vector<StmtId> stmts;
    copy_block(from, BlockId(i), stmts);
    k_.blocks[BlockId(i + copy_.blocks)].stmts = std::move(stmts);
  }
  copy_block(from, from.top(), *out_);
}

/// The statements of a block, accesses to slots moved to where the slots begin.
void SmallRegion::copy_block(const Kernel& from, BlockId block, std::vector<StmtId>& out) {
  std::vector<StmtId>* outer = std::exchange(out_, &out);
  for (StmtId id : from.blocks[block].stmts) {
    const StmtId at = moved(id, copy_.stmts);
    const Stmt& s = from.stmts[id];
    if (s.attr.buffer)
      if (const LV offset = copy_.buffers[s.attr.buffer.index].offset) {
        const LV base = k_.stmts[at].operands[0];
        const LV sum = emit(Op::add, k_.values[base].type, {base, offset});
        k_.stmts[at].operands[0] = sum;
      }
    out.push_back(at);
  }
  out_ = outer;
}

LV SmallRegion::branch(const loop::IfStep& s, LV ok) {
  const bool carries = ok.valid();
  const LV predicate = load_first(s.predicate, DType::boolean);
  auto arm = [&](const loop::Seq& steps) {
    return block({}, [&](const std::vector<LV>&) {
      const LV after = seq(steps.steps, ok);
      return carries ? std::vector{after} : std::vector<LV>{};
    });
  };
  const BlockId then = arm(*s.then), otherwise = arm(*s.otherwise);
  const auto out =
      control(Op::if_, {predicate}, {then, otherwise}, carries ? std::vector{bool_type} : std::vector<VType>{});
  return carries ? out[0] : ok;
}

/// The loop ends at once where a slot lies outside its buffer; the trap follows at the end of the kernel.
LV SmallRegion::loop(const loop::WhileStep& s, LV ok) {
  if (!ok) ok = constant(bool_type, 1);
  const BlockId cond = block({bool_type}, [&](const std::vector<LV>& args) {
    const LV after = seq(s.cond->steps, args[0]);
    const LV go_on = load_first(s.predicate, DType::boolean);
    return std::vector{emit(Op::and_, bool_type, {go_on, after}), after};
  });
  const BlockId body = block({bool_type}, [&](const std::vector<LV>& args) {
    control(Op::poll, {}, {}, {});
    return std::vector{seq(s.body->steps, args[0])};
  });
  return control(Op::while_, {ok}, {cond, body}, {bool_type})[0];
}

/// The values change places, in pieces of a vector; of one that is not read again only half of that.
void SmallRegion::swap(const loop::SwapStep& s) {
  ProgramBufferId a = s.a, b = s.b;
  if (dead_.contains(a)) std::swap(a, b);
  const bool both = !dead_.contains(b);
  const BufferId first = window(a).param, second = window(b).param;
  const DType type = k_.buffers[first.index].dtype;
  const std::int64_t count = product(p_.buffers[a].shape).value();
  auto piece = [&](LV at, int lanes) {
    const VType tile{type, 1, static_cast<std::uint16_t>(lanes)};
    const LV zero = index(0), one = index(1);
    auto load = [&](BufferId from) {
      return lanes == 1 ? emit(Op::load, tile, {at}, {.buffer = from})
                        : emit(Op::load_tile, tile, {at, zero, one}, {.buffer = from});
    };
    auto store = [&](BufferId to, LV value) {
      if (lanes == 1)
        control(Op::store, {at, value}, {}, {}, {.buffer = to});
      else
        control(Op::store_tile, {at, zero, one, value}, {}, {}, {.buffer = to});
    };
    const LV new_a = load(second), new_b = both ? load(first) : LV{};
    store(first, new_a);
    if (both) store(second, new_b);
  };
  const int widest = type == DType::boolean ? 1 : static_cast<int>(std::max<std::size_t>(1, 64 / dtype_bytes(type)));
  const std::int64_t whole = count / widest * widest;
  if (count <= 4 * widest) {
    for (std::int64_t i = 0; i < whole; i += widest) piece(index(i), widest);
  } else {
    const BlockId body = block({loop::index_type}, [&](const std::vector<LV>& args) {
      piece(args[0], widest);
      return std::vector<LV>{};
    });
    control(Op::for_, {index(0), index(whole), index(widest)}, {body}, {}, {.mapping = Mapping::serial});
  }
  for (std::int64_t i = whole; i < count;) {
    int lanes = widest;
    while (lanes > count - i) lanes /= 2;
    piece(index(i), lanes);
    i += lanes;
  }
}

LV SmallRegion::slot(const loop::SlotStep& s, LV ok) {
  has_slot_ = true;
  if (s.source && !slot_origin_) {
    k_.origins.push_back(static_cast<std::uint32_t>(k_.origins.size()));
    call_.origins.push_back(s.source - 1);
    slot_origin_ = static_cast<std::uint32_t>(k_.origins.size());
  }
  const Dim row = product(p_.buffers[s.view].shape);
  LV at = load_first(s.index, DType::i64);
  if (s.backwards) {
    const LV last = emit(Op::sub, loop::index_type, {size(s.count), index(1)});
    at = emit(Op::sub, loop::index_type, {last, at});
  }
  const LV parts = size(floordiv(product(p_.buffers[s.of].shape), row));
  const LV inside = emit(Op::and_, bool_type,
                         {emit(Op::cmp_ge, bool_type, {at, index(0)}), emit(Op::cmp_lt, bool_type, {at, parts})});
  at = emit(Op::select, loop::index_type, {inside, at, index(0)});
  offsets_[storage_.home[s.view]] = emit(Op::mul, loop::index_type, {at, index(row.value())});
  return ok ? emit(Op::and_, bool_type, {ok, inside}) : inside;
}

std::map<ProgramBufferId, ProgramBufferId> slot_owners(const loop::Program& program) {
  std::map<ProgramBufferId, ProgramBufferId> of;
  for_each_step(program.body, [&](const Step& step) {
    if (const auto* s = std::get_if<loop::SlotStep>(&step.value)) of.emplace(s->view, s->of);
  });
  return of;
}

}  // namespace ag::passes

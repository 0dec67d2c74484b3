#include <fmt/format.h>

#include <cstdlib>
#include <cstring>

#include "ir/loop/element.hpp"
#include "ir/loop/interp_code.hpp"

namespace ag::loop::detail {

void CFree::operator()(void* p) const { std::free(p); }

std::uint8_t* zeroed_bytes(std::size_t count, std::size_t size) {
  return static_cast<std::uint8_t*>(std::calloc(std::max<std::size_t>(count, 1), size));
}

std::string place_of(const Kernel& kernel, StmtId stmt) {
  const Stmt& s = kernel.stmts[stmt];
  std::string origin = s.origin ? fmt::format(", origin {}", s.origin) : "";
  return fmt::format("kernel {}, statement {} ({}{})", kernel.name, stmt.index, describe(s.op).name, origin);
}

namespace {

constexpr std::int64_t max_bytes = std::int64_t{1} << 36;
constexpr int max_nesting = 200;

bool is_gpu(Mapping m) { return m >= Mapping::grid_x; }

struct Decoder {
  const Kernel& k;
  std::span<const BufferView> params;
  std::span<const std::int64_t> dims;
  const InterpOptions& options;
  DimEnv env;
  std::unique_ptr<Decoded> code = std::make_unique<Decoded>();
  std::vector<Slot> slots;  // by value

  std::unexpected<Diags> bad(const std::string& what) const {
    return fail(Code::AG5106, {}, fmt::format("kernel {}: {}", k.name, what));
  }

  Status launch_shape() {
    std::int64_t threads = 1;
    for (auto b : k.block) {
      if (b == 0 || b > 1024 || (threads *= b) > 1024) return bad("a block must have 1 to 1024 threads");
    }
    code->threads = static_cast<int>(threads);
    code->lockstep = threads > 1;
    for (int i = 0; i < 3; ++i) {
      auto n = k.grid[i].eval(env);
      if (!n || *n < 0) return bad(fmt::format("grid size {} has no value", k.grid[i].str()));
      code->grid[i] = *n;
      code->lockstep |= *n != 1;
    }
    for (const Stmt& s : k.stmts) code->lockstep |= s.op == Op::for_ && is_gpu(s.attr.mapping);
    return {};
  }

  Result<std::int64_t> elements(const Buffer& b) const {
    auto n = b.elems.eval(env);
    if (!n || *n < 0) return bad(fmt::format("size {} of buffer {} has no value", b.elems.str(), b.name));
    auto bytes = checked_mul(*n, static_cast<std::int64_t>(dtype_bytes(b.dtype)) * code->threads);
    if (!bytes || *bytes > max_bytes) return bad(fmt::format("buffer {} is too large", b.name));
    return *n;
  }

  Result<Shadow*> shadow(std::int64_t elems) {
    auto* p = zeroed_bytes(static_cast<std::size_t>(elems), sizeof(Shadow));
    if (!p) return bad("out of memory");
    code->owned.emplace_back(p);
    return reinterpret_cast<Shadow*>(p);
  }

  Status memories() {
    std::size_t n_params = 0;
    for (const Buffer& b : k.buffers) n_params += b.scope == Scope::param;
    if (params.size() != n_params) return bad(fmt::format("{} buffers given, {} expected", params.size(), n_params));
    for (std::size_t i = 0; i < k.buffers.size(); ++i) {
      const Buffer& b = k.buffers[i];
      Memory m;
      AG_TRY(m.elems, elements(b));
      m.elem_bytes = static_cast<std::uint32_t>(dtype_bytes(b.dtype));
      m.scope = b.scope;
      if (b.scope == Scope::param) {
        if (params[i].elems < m.elems)
          return bad(fmt::format("buffer {} has {} elements, {} needed", b.name, params[i].elems, m.elems));
        m.data = static_cast<std::uint8_t*>(params[i].data);
        m.track_init = b.access == Access::write;
        if (!m.data && m.elems) return bad(fmt::format("buffer {} has no memory", b.name));
        AG_TRY_(param_shadow(i, m));
      } else {
        m.is_private = b.scope != Scope::shared;
        m.track_init = true;
        std::int64_t copies = m.is_private ? code->threads : 1;
        m.thread_stride = m.is_private && code->threads > 1 ? m.elems : 0;
        auto* p = zeroed_bytes(static_cast<std::size_t>(m.elems * copies), m.elem_bytes);
        if (!p) return bad("out of memory");
        code->owned.emplace_back(p);
        m.data = p;
        AG_TRY(m.shadow, shadow(m.elems * copies));
      }
      code->memory.push_back(m);
    }
    return {};
  }

  /// Parameters that are written need a shadow; views of the same memory share it.
  Status param_shadow(std::size_t index, Memory& m) {
    auto end = [](const Memory& x) { return x.data + x.elems * x.elem_bytes; };
    bool written = k.buffers[index].access != Access::read;
    bool found = false;
    for (std::size_t j = 0; j < index; ++j) {
      Memory& o = code->memory[j];
      bool overlap = o.data < end(m) && m.data < end(o);
      bool o_written = k.buffers[j].access != Access::read;
      if (!overlap || (!written && !o_written)) continue;
      if (k.buffers[j].noalias && k.buffers[index].noalias)
        return fail(Code::AG5107, {},
                    fmt::format("kernel {}: buffers {} and {} overlap but are declared not to", k.name,
                                k.buffers[j].name, k.buffers[index].name));
      if (o.data != m.data || o.elems != m.elems || o.elem_bytes != m.elem_bytes) continue;
      if (options.detect_races && !o.shadow) {
        AG_TRY(o.shadow, shadow(o.elems));
      }
      m.shadow = o.shadow;
      m.track_init = false;
      found = true;
    }
    if (!found && written && (options.detect_races || m.track_init)) {
      AG_TRY(m.shadow, shadow(m.elems));
    }
    return {};
  }

  Status value_slots() {
    std::int64_t total = 0;
    std::vector<std::int64_t> offset(k.values.size());
    for (std::size_t i = 0; i < k.values.size(); ++i) {
      const VType& t = k.values[ValueId(i)].type;
      offset[i] = total;
      auto bytes = static_cast<std::int64_t>(dtype_bytes(t.elem)) * t.rows * t.lanes * code->threads;
      total += (bytes + 7) / 8 * 8;
      if (total > max_bytes) return bad("values take too much memory");
    }
    auto* base = zeroed_bytes(static_cast<std::size_t>(total), 1);
    if (!base) return bad("out of memory");
    code->values.reset(base);
    for (std::size_t i = 0; i < k.values.size(); ++i) {
      const VType& t = k.values[ValueId(i)].type;
      slots.push_back({base + offset[i], static_cast<std::uint32_t>(dtype_bytes(t.elem) * t.rows * t.lanes), t});
    }
    return {};
  }

  std::vector<Slot> slots_of(const std::vector<ValueId>& values, std::size_t from = 0) const {
    std::vector<Slot> out;
    for (std::size_t i = from; i < values.size(); ++i) out.push_back(slots[values[i].index]);
    return out;
  }

  /// Leaves have the same value for the whole run: written here, never executed.
  bool leaf(const Stmt& s) {
    if (describe(s.op).cls != OpClass::leaf) return false;
    const Slot& out = slots[s.results[0].index];
    std::size_t size = dtype_bytes(out.type.elem);
    for (int t = 0; t < code->threads; ++t)
      for (int i = 0; i < out.type.count(); ++i) {
        std::uint64_t bits = s.attr.imm;
        if (s.op == Op::dim) bits = static_cast<std::uint64_t>(dims[s.attr.index]);
        if (s.op == Op::lane_iota) bits = constant_bits(out.type.elem, std::int64_t{i % out.type.lanes});
        if (s.op == Op::row_iota) bits = constant_bits(out.type.elem, std::int64_t{i / out.type.lanes});
        std::memcpy(out.data + static_cast<std::size_t>(t) * out.bytes + static_cast<std::size_t>(i) * size, &bits,
                    size);
      }
    return true;
  }

  Status elementwise(Instr& in, const Stmt& s) {
    Elementwise& e = in.elem;
    const DType operand = in.in[s.op == Op::select ? 1 : 0].type.elem;
    e.fn = elementwise_fn(s.op, in.out.type.elem, operand);
    if (!e.fn) return bad(fmt::format("{} is not defined on {}", describe(s.op).name, dtype_name(operand)));
    e.inputs = static_cast<int>(s.operands.size());
    e.args.out = in.out.data;
    const VType rt = in.out.type;
    bool flat = true;
    for (int i = 0; i < e.inputs; ++i) {
      const VType t = in.in[i].type;
      bool same = t.rows == rt.rows && t.lanes == rt.lanes;
      flat &= same || (code->threads == 1 && t.scalar());
      auto size = static_cast<std::ptrdiff_t>(dtype_bytes(t.elem));
      e.args.in[i] = in.in[i].data;
      e.args.stride[i] = same || (t.lanes == rt.lanes && t.lanes > 1) ? 1 : 0;
      e.in_thread[i] = in.in[i].bytes;
      e.in_row[i] = t.rows == rt.rows && t.rows > 1 ? size * t.lanes : 0;
    }
    if (flat) {
      e.args.n = static_cast<std::ptrdiff_t>(rt.count()) * code->threads;
      return {};
    }
    e.threads = code->threads;
    e.rows = rt.rows;
    e.args.n = rt.lanes;
    e.out_thread = in.out.bytes;
    e.out_row = static_cast<std::ptrdiff_t>(dtype_bytes(rt.elem)) * rt.lanes;
    return {};
  }

  Status accumulation(Instr& in, const Stmt& s) {
    DType from = in.in[s.op == Op::contract ? 1 : 0].type.elem, acc = accumulator_dtype(in.out.type.elem);
    in.combine = s.op == Op::contract ? elementwise_fn(Op::fma, acc, acc) : accumulate_fn(s.attr.reduce, acc);
    in.widen = elementwise_fn(Op::cast, acc, from);
    in.narrow = elementwise_fn(Op::cast, in.out.type.elem, acc);
    if (!in.combine) return bad(fmt::format("{} is not defined on {}", describe(s.op).name, dtype_name(acc)));
    return {};
  }

  Status operands(Instr& in, const Stmt& s) {
    const bool has_mask =
        (s.op == Op::load && s.operands.size() == 2) || (s.op == Op::store && s.operands.size() == 3) ||
        (s.op == Op::load_tile && s.operands.size() == 4) || (s.op == Op::store_tile && s.operands.size() == 5);
    // Loads and stores keep the mask in in[4], so that it is found in one place.
    std::size_t n = s.operands.size() - (has_mask ? 1 : 0);
    if (describe(s.op).cls == OpClass::control) return {};
    if (n > 5 || (has_mask && n > 4)) return bad("a statement has too many operands");
    for (std::size_t i = 0; i < n; ++i) in.in[i] = slots[s.operands[i].index];
    if (has_mask) in.in[4] = slots[s.operands.back().index];
    if (!s.results.empty()) in.out = slots[s.results[0].index];
    return {};
  }

  Status block(BlockId id, BlockCode& out, int depth) {
    if (depth > max_nesting) return bad("blocks are nested too deeply");
    const Block& b = k.blocks[id];
    out.args = slots_of(b.args);
    std::vector<Instr> list;
    for (StmtId sid : b.stmts) {
      const Stmt& s = k.stmts[sid];
      if (s.op == Op::yield) {
        out.yields = slots_of(s.operands);
        continue;
      }
      if (leaf(s)) continue;
      Instr in;
      in.op = s.op;
      in.stmt = sid;
      AG_TRY_(operands(in, s));
      if (s.attr.buffer.valid()) in.buffer = s.attr.buffer.index;
      auto cls = describe(s.op).cls;
      if (cls == OpClass::control) {
        AG_TRY_(control(in, s, depth));
      } else if (cls != OpClass::lanes && cls != OpClass::memory && cls != OpClass::sync) {
        AG_TRY_(elementwise(in, s));
      } else if (s.op == Op::broadcast) {
        AG_TRY_(elementwise(in, s));
      } else if (s.op == Op::reduce_lanes || s.op == Op::reduce_rows || s.op == Op::contract) {
        AG_TRY_(accumulation(in, s));
      }
      list.push_back(in);
    }
    out.begin = static_cast<std::uint32_t>(code->instrs.size());
    for (Instr& i : list) {
      code->steps.push_back(step(i));
      code->instrs.push_back(i);
    }
    out.end = static_cast<std::uint32_t>(code->instrs.size());
    return {};
  }

  Step step(const Instr& in) const {
    Step s{Quick::none,  static_cast<std::uint32_t>(code->instrs.size()), in.out.data, in.in[0].data, in.in[1].data,
           in.in[2].data};
    if (code->threads > 1 || !in.out.data || !in.out.type.scalar()) return s;
    for (const Slot& operand : in.in)
      if (operand.data && !operand.type.scalar()) return s;
    const DType t = in.out.type.elem;
    const bool f32 = t == DType::f32, i64 = t == DType::i64;
    switch (in.op) {
      case Op::add: s.quick = i64 ? Quick::add_i64 : f32 ? Quick::add_f32 : Quick::none; break;
      case Op::sub: s.quick = i64 ? Quick::sub_i64 : f32 ? Quick::sub_f32 : Quick::none; break;
      case Op::mul: s.quick = i64 ? Quick::mul_i64 : f32 ? Quick::mul_f32 : Quick::none; break;
      case Op::fma: s.quick = f32 ? Quick::fma_f32 : Quick::none; break;
      case Op::load: {
        const Memory& m = code->memory[in.buffer];
        if (m.elem_bytes == 4 && !m.shadow && !in.in[4].data) s.quick = Quick::load4;
        break;
      }
      default: break;
    }
    return s;
  }

  Status control(Instr& in, const Stmt& s, int depth) {
    in.control = static_cast<std::uint32_t>(code->controls.size());
    code->controls.emplace_back();
    Control c;
    std::size_t fixed = s.op == Op::for_ ? 3 : s.op == Op::if_ ? 1 : 0;
    for (std::size_t i = 0; i < fixed; ++i) in.in[i] = slots[s.operands[i].index];
    c.init = slots_of(s.operands, fixed);
    c.results = slots_of(s.results);
    c.mapping = s.attr.mapping;
    for (std::size_t i = 0; i < s.blocks.size() && i < 2; ++i) AG_TRY_(block(s.blocks[i], c.blocks[i], depth + 1));
    auto n = static_cast<std::size_t>(code->threads);
    if (code->lockstep) {
      c.iv.resize(n), c.hi.resize(n), c.step.resize(n), c.mask.resize(n), c.other_mask.resize(n);
    }
    std::size_t temp = 0;
    for (int i = 0; i < 2; ++i) {
      std::size_t bytes = 0;
      for (const Slot& y : c.blocks[i].yields) bytes += y.bytes * n;
      temp = std::max(temp, bytes);
    }
    c.temp.resize(temp);
    code->controls[in.control] = std::move(c);
    return {};
  }
};

}  // namespace

Result<std::unique_ptr<Decoded>> decode(const Kernel& kernel, std::span<const BufferView> params,
                                        std::span<const std::int64_t> dims, const InterpOptions& options) {
  Decoder d{kernel, params, dims, options};
  d.code->kernel = &kernel;
  if (dims.size() != kernel.dims.size())
    return d.bad(fmt::format("{} dims given, {} expected", dims.size(), kernel.dims.size()));
  for (std::size_t i = 0; i < dims.size(); ++i) d.env[kernel.dims[i]] = dims[i];
  AG_TRY_(d.launch_shape());
  AG_TRY_(d.memories());
  AG_TRY_(d.value_slots());
  AG_TRY_(d.block(kernel.top(), d.code->top, 0));
  return std::move(d.code);
}

}  // namespace ag::loop::detail

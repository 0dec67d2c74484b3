#include "runtime/exec/program_file.hpp"

namespace ag::runtime {
namespace {

using namespace loop;

constexpr int max_depth = 200;  // of nested If and While steps, as in Executable

// Whoever adds a member here adds it to the functions below, and then changes these.
static_assert(sizeof(ProgramBuffer) == 160 && sizeof(KernelCall) == 112 && sizeof(DimGuard) == 96 &&
              sizeof(Segment) == 96 && sizeof(loop::Buffer) == 72 && sizeof(Kernel) == 336 && sizeof(Program) == 328);

class Writer {
 public:
  Writer(ByteWriter& out, const std::function<void(const Loc&)>& place) : w_(out), place_(place) {}

  void program(const Program& p) {
    w_.text(p.name);
    w_.text(p.stage);
    w_.list(p.buffers, [&](const ProgramBuffer& b) { buffer(b); });
    ids(p.inputs), ids(p.outputs);
    w_.list(p.kernels, [&](const Kernel& k) { kernel(k); });
    w_.list(p.segments, [&](const Segment& s) { segment(s); });
    w_.list(p.sources, place_);
    w_.list(p.dim_sources, [&](const DimSource& s) { w_.text(s.symbol), w_.number(s.input), w_.number(s.axis); });
    guards(p.guards);
    w_.dim(p.arena_bytes);
    w_.dim(p.scratch_bytes);
    sequence(p.body);
  }

 private:
  ByteWriter& w_;
  const std::function<void(const Loc&)>& place_;

  template <class I>
  void id(I i) {
    w_.number(i ? std::uint64_t{i.index} + 1 : 0);
  }
  void ids(const std::vector<ProgramBufferId>& list) {
    w_.list(list, [&](ProgramBufferId b) { id(b); });
  }
  template <class E>
  void choice(E e) {
    w_.number(static_cast<std::uint64_t>(e));
  }

  void buffer(const ProgramBuffer& b) {
    w_.text(b.name);
    choice(b.kind), choice(b.dtype), choice(b.place);
    w_.dims(b.shape);
    w_.number(b.index);
    w_.dim(b.offset);
    w_.number(b.planned);
    w_.integers(b.axes);
    id(b.alias_of);
  }

  void kernel(const Kernel& k) {
    w_.text(k.name);
    w_.list(k.buffers, [&](const loop::Buffer& b) {
      w_.text(b.name);
      choice(b.dtype), choice(b.scope), choice(b.access);
      w_.dim(b.elems);
      w_.number(b.noalias);
    });
    w_.list(k.dims, [&](const std::string& d) { w_.text(d); });
    for (const Dim* d : {&k.tiles, &k.flops, &k.bytes}) w_.dim(*d);
    w_.list(k.origins, [&](std::uint32_t o) { w_.number(o); });
  }

  void guards(const std::vector<DimGuard>& list) {
    w_.list(list, [&](const DimGuard& g) {
      w_.dim(g.lhs), w_.dim(g.rhs);
      choice(g.rel);
      w_.text(g.text);
      w_.number(g.source);
    });
  }

  void segment(const Segment& s) {
    w_.list(s.symbols, [&](const std::string& n) { w_.text(n); });
    guards(s.guards);
    w_.dim(s.arena_bytes), w_.dim(s.scratch_bytes);
  }

  void sequence(const Seq& seq) {
    w_.list(seq.steps, [&](const Step& s) {
      w_.number(s.value.index());
      std::visit([&](const auto& step) { write(step); }, s.value);
    });
  }
  void nested(const std::shared_ptr<Seq>& seq) { sequence(seq ? *seq : Seq{}); }

  void write(const KernelCall& c) {
    id(c.kernel);
    ids(c.buffers);
    w_.dims(c.dims);
    w_.list(c.origins, [&](std::uint32_t o) { w_.number(o); });
    w_.text(c.label);
  }
  void write(const HostCall& c) {
    w_.number(c.function);
    ids(c.inputs), ids(c.outputs);
    w_.text(c.label);
  }
  void write(const IfStep& s) { id(s.predicate), nested(s.then), nested(s.otherwise); }
  void write(const WhileStep& s) { id(s.predicate), nested(s.cond), nested(s.body); }
  void write(const BindStep& s) {
    id(s.segment), id(s.values);
    w_.dims(s.exprs);
    w_.number(s.source);
    w_.text(s.label);
  }
  void write(const SwapStep& s) { id(s.a), id(s.b); }
  void write(const SlotStep& s) {
    id(s.view), id(s.of), id(s.index);
    w_.number(s.backwards);
    w_.dim(s.count);
    w_.number(s.source);
  }
  void write(const CheckStep& s) { guards(s.guards); }
};

class Reader {
 public:
  Reader(ByteReader& in, const std::function<Loc()>& place) : r_(in), place_(place) {}

  Program program() {
    Program p;
    p.name = r_.text();
    p.stage = r_.text();
    for (ProgramBuffer& b : r_.list([&] { return buffer(); })) p.buffers.push(std::move(b));
    buffers_ = p.buffers.size();
    for (const ProgramBuffer& b : p.buffers)
      if (b.index >= buffers_ || (b.alias_of && b.alias_of.index >= buffers_)) r_.refuse();
    p.inputs = ids(), p.outputs = ids();
    for (Kernel& k : r_.list([&] { return kernel(); })) p.kernels.push(std::move(k));
    for (Segment& s : r_.list([&] { return segment(); })) p.segments.push(std::move(s));
    kernels_ = p.kernels.size(), segments_ = p.segments.size();
    p.sources = r_.list(place_);
    p.dim_sources = r_.list([&] {
      std::string symbol = r_.text();
      const auto input = r_.index();
      return DimSource{std::move(symbol), input, r_.index()};
    });
    p.guards = guards();
    p.arena_bytes = r_.dim();
    p.scratch_bytes = r_.dim();
    p.body = sequence(0);
    return p;
  }

 private:
  ByteReader& r_;
  const std::function<Loc()>& place_;
  std::size_t buffers_ = 0, kernels_ = 0, segments_ = 0;

  template <class I>
  I id(std::size_t count) {
    const std::uint64_t n = r_.number(count);
    return n ? I(n - 1) : I{};
  }
  ProgramBufferId any() { return id<ProgramBufferId>(buffers_); }
  ProgramBufferId buffer_id() {
    const ProgramBufferId b = any();
    if (!b) r_.refuse();
    return b;
  }
  std::vector<ProgramBufferId> ids() {
    return r_.list([&] { return buffer_id(); });
  }
  std::vector<std::uint32_t> indices() {
    return r_.list([&] { return r_.index(); });
  }

  ProgramBuffer buffer() {
    ProgramBuffer b;
    b.name = r_.text();
    b.kind = r_.choice(BufferKind::state);
    b.dtype = r_.choice(static_cast<DType>(dtype_count_stored - 1));
    b.place = r_.choice(Place::slot);
    b.shape = r_.dims();
    b.index = r_.index();
    b.offset = r_.dim();
    b.planned = r_.flag();
    b.axes = r_.integers();
    b.alias_of = id<ProgramBufferId>(ProgramBufferId::none_index - 1);
    std::vector<bool> seen(b.shape.size());
    for (std::int64_t a : b.axes) {  // a permutation
      if (b.axes.size() != seen.size() || a < 0 || a >= static_cast<std::int64_t>(seen.size()) ||
          seen[static_cast<std::size_t>(a)])
        return r_.refuse(), b;
      seen[static_cast<std::size_t>(a)] = true;
    }
    return b;
  }

  Kernel kernel() {
    Kernel k;
    k.name = r_.text();
    k.buffers = r_.list([&] {
      loop::Buffer b;
      b.name = r_.text();
      b.dtype = r_.choice(static_cast<DType>(dtype_count_stored - 1));
      b.scope = r_.choice(Scope::shared);
      b.access = r_.choice(Access::read_write);
      b.elems = r_.dim();
      b.noalias = r_.flag();
      return b;
    });
    k.dims = r_.list([&] { return r_.text(); });
    for (Dim* d : {&k.tiles, &k.flops, &k.bytes}) *d = r_.dim();
    k.origins = indices();
    return k;
  }

  std::vector<DimGuard> guards() {
    return r_.list([&] {
      DimGuard g;
      g.lhs = r_.dim(), g.rhs = r_.dim();
      g.rel = r_.choice(DimGuard::Rel::divides);
      g.text = r_.text();
      g.source = r_.index();
      return g;
    });
  }

  Segment segment() {
    Segment s;
    s.symbols = r_.list([&] { return r_.text(); });
    s.guards = guards();
    s.arena_bytes = r_.dim(), s.scratch_bytes = r_.dim();
    return s;
  }

  Seq sequence(int depth) {
    if (depth > max_depth) return r_.refuse(), Seq{};
    return {r_.list([&] { return step(depth); })};
  }
  std::shared_ptr<Seq> nested(int depth) { return std::make_shared<Seq>(sequence(depth + 1)); }

  Step step(int depth) {
    switch (r_.number(7)) {
      case 0: {
        KernelCall c;
        c.kernel = id<KernelId>(kernels_);
        if (!c.kernel) r_.refuse();
        c.buffers = ids();
        c.dims = r_.dims();
        c.origins = indices();
        c.label = r_.text();
        return {std::move(c)};
      }
      case 1: {
        HostCall c;
        c.function = r_.index();
        c.inputs = ids(), c.outputs = ids();
        c.label = r_.text();
        return {std::move(c)};
      }
      case 2: {
        IfStep s{buffer_id(), {}, {}};
        s.then = nested(depth), s.otherwise = nested(depth);
        return {std::move(s)};
      }
      case 3: {
        WhileStep s{buffer_id(), {}, {}};
        s.cond = nested(depth), s.body = nested(depth);
        return {std::move(s)};
      }
      case 4: {
        BindStep s;
        s.segment = id<SegmentId>(segments_);
        if (!s.segment) r_.refuse();
        s.values = any();
        s.exprs = r_.dims();
        s.source = r_.index();
        s.label = r_.text();
        return {std::move(s)};
      }
      case 5: {
        SwapStep s;
        s.a = buffer_id(), s.b = buffer_id();
        return {s};
      }
      case 6: {
        SlotStep s;
        s.view = buffer_id(), s.of = buffer_id(), s.index = buffer_id();
        s.backwards = r_.flag();
        s.count = r_.dim();
        s.source = r_.index();
        return {std::move(s)};
      }
      default: return {CheckStep{guards()}};
    }
  }
};

}  // namespace

void write_program(ByteWriter& out, const Program& program, const std::function<void(const Loc&)>& place) {
  Writer(out, place).program(program);
}

Program read_program(ByteReader& in, const std::function<Loc()>& place) { return Reader(in, place).program(); }

void write_footprint(ByteWriter& w, const Footprint& f) {
  auto sums = [&](const std::vector<Affine>& list) {
    w.list(list, [&](const Affine& a) {
      w.integer(a.constant);
      w.list(a.terms, [&](const auto& t) { w.number(t.first), w.integer(t.second); });
    });
  };
  auto touches = [&](const std::vector<Touch>& list) {
    w.list(list, [&](const Touch& t) { sums(t.lower), sums(t.upper), sums(t.conditions); });
  };
  w.list(f.atoms, [&](const FootprintAtom& a) {
    w.number(static_cast<std::uint64_t>(a.kind)), w.number(a.id), w.integer(a.step);
    sums(a.operands);
  });
  w.list(f.params, [&](const Footprint::Param& p) { touches(p.reads), touches(p.writes); });
}

Footprint read_footprint(ByteReader& r) {
  auto sums = [&] {
    return r.list([&] {
      Affine a{r.integer(), {}};
      a.terms = r.list([&] {
        const std::uint32_t atom = r.index();
        return std::pair(atom, r.integer());
      });
      return a;
    });
  };
  auto touches = [&] {
    return r.list([&] {
      Touch t;
      t.lower = sums(), t.upper = sums(), t.conditions = sums();
      return t;
    });
  };
  Footprint f;
  f.atoms = r.list([&] {
    FootprintAtom a;
    a.kind = r.choice(FootprintAtom::Kind::unknown), a.id = r.index(), a.step = r.integer();
    a.operands = sums();
    return a;
  });
  f.params = r.list([&] {
    Footprint::Param p;
    p.reads = touches(), p.writes = touches();
    return p;
  });
  return f;
}

}  // namespace ag::runtime

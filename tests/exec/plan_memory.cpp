// Memory plans are checked twice: by the planner's own checker, and by running the step table on a model of the
// arena in which each byte remembers who wrote it last.
#include <random>

#include "ir/loop/live_bytes.hpp"
#include "passes/pass.hpp"
#include "tests/exec/programs.hpp"

using namespace ag;
using namespace ag::runtime::test;
using loop::LiveRange;
using loop::Program;

namespace {

class RandomProgram {
 public:
  explicit RandomProgram(unsigned seed) : gen_(seed) {
    // Half of the programs are small and dense: few buffers of one size, many loops, nearly each step matters.
    dense_ = roll(2) == 0;
    symbolic_ = !dense_ && roll(3) == 0;
    const int n = 3 + roll(dense_ ? 3 : 12);
    for (int i = 0; i < n; ++i) add_buffer();
    predicate_ = m_.temp("p", {}, DType::boolean);
    for (auto access : {Access::read, Access::write, Access::read_write})
      kernels_.push_back(m_.kernel(nullptr, {{DType::f32, access, 0}}, 1, 0, false));
    m_.p.body = seq(0, 4 + roll(dense_ ? 8 : 20));
  }
  Program& program() { return m_.p; }
  ProgramBufferId predicate() const { return predicate_; }

 private:
  int roll(int n) { return static_cast<int>(gen_() % static_cast<unsigned>(n)); }

  void add_buffer() {
    static const std::int64_t sizes[] = {1, 15, 16, 17, 100, 1000};
    Dim d = dense_ ? 16 : sizes[roll(6)];
    if (symbolic_ && roll(2)) d = roll(2) ? Dim::symbol("N") : Dim::symbol("N") * d + Dim::symbol("M");
    const int kind = roll(8);
    ProgramBufferId id;
    if (kind == 0) {
      id = m_.output("y" + std::to_string(buffers_.size()), {d});
    } else {
      id = m_.temp("t" + std::to_string(buffers_.size()), {d});
    }
    if (!buffers_.empty() && roll(6) == 0) {  // in place: the same size as an earlier one, or smaller
      const auto of = buffers_[roll(static_cast<int>(buffers_.size()))];
      auto &shape = m_.p.buffers[id].shape, &whole = m_.p.buffers[of].shape;
      shape = whole[0].is_const() && roll(2) ? Dims{whole[0].value() / 2} : whole;
      m_.p.buffers[id].alias_of = of;
    }
    buffers_.push_back(id);
  }

  loop::Step kernel_step() {
    const auto k = kernels_[roll(3)];
    return m_.call(k, {buffers_[roll(static_cast<int>(buffers_.size()))]}, {});
  }
  loop::Seq seq(int depth, int steps) {
    loop::Seq s;
    for (int i = 0; i < steps; ++i) {
      const int kind = depth < 3 ? roll(dense_ ? 6 : 10) : 9;
      auto nested = [&] { return std::make_shared<loop::Seq>(seq(depth + 1, roll(dense_ ? 4 : 6))); };
      if (kind == 0)
        s.steps.push_back({loop::IfStep{predicate_, nested(), nested()}});
      else if (kind == 1)
        s.steps.push_back({loop::WhileStep{predicate_, nested(), nested()}});
      else
        s.steps.push_back(kernel_step());
    }
    return s;
  }

  std::mt19937 gen_;
  bool dense_, symbolic_;
  ProgramMaker m_;
  std::vector<ProgramBufferId> buffers_;
  std::vector<loop::KernelId> kernels_;
  ProgramBufferId predicate_;
};

/// Runs the steps: a write puts a new token into the buffer's bytes, a read of a buffer that was written before
/// must find the token of that write.
class ArenaModel {
 public:
  ArenaModel(const Program& p, const DimEnv& env, unsigned seed)
      : p_(p),
        storage_(*resolve_storage(p)),
        env_(env),
        gen_(seed),
        arena_(*p.arena_bytes.eval(env)),
        tokens_(p.buffers.size()) {}

  bool run() {
    walk(p_.body);
    for (std::size_t o = 0; o < p_.outputs.size(); ++o)
      if (storage_.copied[o]) read(p_.outputs[o]);
    return ok_;
  }

 private:
  void walk(const loop::Seq& s) {
    for (const auto& step : s.steps) {
      if (const auto* call = std::get_if<loop::KernelCall>(&step.value)) {
        const auto access = p_.kernels[call->kernel].buffers[0].access;
        if (access != Access::write) read(call->buffers[0]);
        if (access != Access::read) write(call->buffers[0]);
      } else if (const auto* branch = std::get_if<loop::IfStep>(&step.value)) {
        walk(gen_() % 2 ? *branch->then : *branch->otherwise);
      } else if (const auto* loop = std::get_if<loop::WhileStep>(&step.value)) {
        const int trips = static_cast<int>(gen_() % 4);
        for (int i = 0; i < trips; ++i) walk(*loop->cond), walk(*loop->body);
        walk(*loop->cond);
      }
    }
  }
  void write(ProgramBufferId id) {
    const auto home = storage_.home[id];
    tokens_[home.index] = ++next_;
    each_byte(home, [&](long& b) { b = next_; });
  }
  void read(ProgramBufferId id) {
    const auto home = storage_.home[id];
    if (tokens_[home.index] == 0) return;
    each_byte(home, [&](long& b) { ok_ = ok_ && b == tokens_[home.index]; });
  }
  template <class F>
  void each_byte(ProgramBufferId home, F f) {
    const auto& b = p_.buffers[home];
    if (b.kind != BufferKind::temp) return;
    const auto begin = *b.offset.eval(env_), bytes = *byte_size(b).eval(env_);
    for (auto i = begin; i < begin + bytes; ++i) f(arena_.at(static_cast<std::size_t>(i)));
  }

  const Program& p_;
  loop::Storage storage_;
  DimEnv env_;
  std::mt19937 gen_;
  std::vector<long> arena_;
  std::vector<long> tokens_;
  long next_ = 0;
  bool ok_ = true;
};

Program planned(Program p) {
  passes::PassContext context;
  auto result = passes::plan_memory.on_program(std::move(p), context);
  INFO(message_of(result));
  REQUIRE(result);
  return std::move(*result);
}

}  // namespace

TEST_CASE("random programs keep every value until its last reader") {
  std::int64_t arena = 0, sum = 0;
  for (unsigned seed = 0; seed < 6000; ++seed) {
    RandomProgram random(seed);
    const Program p = planned(random.program());
    const auto storage = resolve_storage(p);
    REQUIRE(storage);
    for (std::int64_t n : {0, 1, 7, 100}) {
      const DimEnv env{{"N", n}, {"M", 3 * n}};
      INFO("seed " << seed << ", N = " << n);
      REQUIRE(verify_storage(p));
      auto status = check_memory_plan(p, *storage, env);
      INFO(message_of(status));
      REQUIRE(status);
      for (unsigned run = 0; run < 4; ++run) REQUIRE(ArenaModel(p, env, run).run());
      arena += *p.arena_bytes.eval(env);
      for (const auto& b : p.buffers) sum += b.kind == BufferKind::temp ? *byte_size(b).eval(env) : 0;
    }
  }
  CHECK(arena < sum / 10 * 8);  // and memory is shared, as far as random lives allow
}

TEST_CASE("the checker finds overlaps, misalignment and what lies outside") {
  ProgramMaker m;
  const auto a = m.temp("a", {16}), b = m.temp("b", {16}), c = m.temp("c", {16}), y = m.output("y", {16});
  const auto k = m.kernel(nullptr, {{DType::f32, Access::read, 16}, {DType::f32, Access::write, 16}}, 1, 0, false);
  m.add(m.call(k, {a, b}, {}));
  m.add(m.call(k, {b, c}, {}));
  m.add(m.call(k, {c, y}, {}));
  Program p = planned(m.p);
  CHECK(p.arena_bytes.is(128));  // a and c share
  CHECK(p.buffers[a].offset == p.buffers[c].offset);
  const auto storage = resolve_storage(p);
  CHECK(check_memory_plan(p, *storage, {}));
  std::string said;
  auto broken = [&](auto spoil) {
    Program q = p;
    spoil(q);
    CHECK_FALSE(verify_storage(q));
    said += text_of(check_memory_plan(q, *storage, {}));
    return message_of(check_memory_plan(q, *storage, {}));
  };
  using Catch::Contains;
  CHECK_THAT(broken([&](Program& q) { q.buffers[b].offset = q.buffers[a].offset; }), Contains("live at the same time"));
  CHECK_THAT(broken([&](Program& q) { q.buffers[b].offset = 32; }), Contains("misaligned"));
  CHECK_THAT(broken([&](Program& q) { q.buffers[b].offset = 128; }), Contains("outside"));
  CHECK_THAT(broken([&](Program& q) { q.buffers[b].offset = -64; }), Contains("outside"));
  CHECK_THAT(broken([&](Program& q) { q.buffers[b].planned = false; }), Contains("no place"));
  CHECK_THAT(broken([&](Program& q) { q.buffers[b].offset = Dim::symbol("Q"); }), Contains("cannot be computed"));
  auto alias = [&](auto spoil) {
    Program q = p;
    spoil(q);
    auto bad = resolve_storage(q);
    CHECK(code_of(bad) == "AG1091");
    CHECK_FALSE(verify_storage(q));
    said += text_of(bad);
  };
  alias([&](Program& q) { q.buffers[a].alias_of = b, q.buffers[b].alias_of = a; });
  alias([&](Program& q) { q.buffers[a].alias_of = ProgramBufferId(std::size_t{99}); });
  alias([&](Program& q) { q.buffers[b].alias_of = a, q.buffers[b].shape = {17}; });
  alias([&](Program& q) { q.buffers[a].kind = BufferKind::input, q.buffers[a].alias_of = b; });
  alias([&](Program& q) { q.outputs.clear(); });
  check_golden("exec_plans.txt", said);
}

TEST_CASE("temporaries of one trip share memory, carried ones do not") {
  // while (p) { t = f(c); u = f(t); c = f(u) }: t and u live within a trip, c from trip to trip.
  ProgramMaker m;
  const auto x = m.input("x", {64}), y = m.output("y", {64});
  const auto c = m.temp("c", {64}), t = m.temp("t", {64}), u = m.temp("u", {64}), v = m.temp("v", {64});
  const auto p = m.temp("p", {}, DType::boolean);
  const auto k = m.kernel(nullptr, {{DType::f32, Access::read, 64}, {DType::f32, Access::write, 64}}, 1, 0, false);
  const auto test =
      m.kernel(nullptr, {{DType::f32, Access::read, 64}, {DType::boolean, Access::write, 1}}, 1, 0, false);
  auto seq = [](std::vector<loop::Step> steps) { return std::make_shared<loop::Seq>(loop::Seq{std::move(steps)}); };
  m.add(m.call(k, {x, c}, {}));
  m.add({loop::WhileStep{
      p, seq({m.call(test, {c, p}, {})}),
      seq({m.call(k, {c, t}, {}), m.call(k, {t, u}, {}), m.call(k, {u, v}, {}), m.call(k, {v, c}, {})})}});
  m.add(m.call(k, {c, y}, {}));
  const Program q = planned(m.p);
  CHECK(q.arena_bytes.is(3 * 256 + 64));  // c, p, and two for t, u and v
  CHECK(q.buffers[t].offset == q.buffers[v].offset);
}

TEST_CASE("what an inner loop reads survives all of its trips") {
  // while (p) { t = f(x); while (q) { u = f(t); w = f(u); } }: w must not take the place of t.
  ProgramMaker m;
  const auto x = m.input("x", {64});
  const auto t = m.temp("t", {64}), u = m.temp("u", {64}), w = m.temp("w", {64});
  const auto p = m.temp("p", {}, DType::boolean), q = m.temp("q", {}, DType::boolean);
  const auto k = m.kernel(nullptr, {{DType::f32, Access::read, 64}, {DType::f32, Access::write, 64}}, 1, 0, false);
  auto seq = [](std::vector<loop::Step> steps) { return std::make_shared<loop::Seq>(loop::Seq{std::move(steps)}); };
  auto inner = seq({m.call(k, {t, u}, {}), m.call(k, {u, w}, {})});
  m.add({loop::WhileStep{p, seq({}), seq({m.call(k, {x, t}, {}), {loop::WhileStep{q, seq({}), inner}}})}});
  const Program planned_program = planned(m.p);
  CHECK(planned_program.buffers[t].offset != planned_program.buffers[w].offset);
}

TEST_CASE("a value of an inner loop that is read later survives trips in which that loop does nothing") {
  // while (p) { u = f(x); w = f(u); while (q) { t = f(x) } }; y = f(t)
  ProgramMaker m;
  const auto x = m.input("x", {64}), y = m.output("y", {64});
  const auto t = m.temp("t", {64}), u = m.temp("u", {64}), w = m.temp("w", {64});
  const auto p = m.temp("p", {}, DType::boolean), q = m.temp("q", {}, DType::boolean);
  const auto k = m.kernel(nullptr, {{DType::f32, Access::read, 64}, {DType::f32, Access::write, 64}}, 1, 0, false);
  auto seq = [](std::vector<loop::Step> steps) { return std::make_shared<loop::Seq>(loop::Seq{std::move(steps)}); };
  m.add({loop::WhileStep{p, seq({}),
                         seq({m.call(k, {x, u}, {}),
                              m.call(k, {u, w}, {}),
                              {loop::WhileStep{q, seq({}), seq({m.call(k, {x, t}, {})})}}})}});
  m.add(m.call(k, {t, y}, {}));
  const Program planned_program = planned(m.p);
  CHECK(planned_program.arena_bytes.is(3 * 256 + 2 * 64));
}

TEST_CASE("scratch is what the hungriest kernel needs, over the program's sizes") {
  ProgramMaker m;
  const Dim N = Dim::symbol("N"), n = Dim::symbol("n");
  const auto x = m.input("x", {N});
  for (int lines : {1, 5, 3}) {
    const auto k = m.kernel(nullptr, {{DType::f32, Access::read, n}}, 1);
    m.p.kernels[k].buffers.push_back(
        {.dtype = DType::f32, .scope = loop::Scope::scratch, .elems = n * Dim(16 * lines)});
    m.add(m.call(k, {x}, {N}));
  }
  CHECK(planned(m.p).scratch_bytes.eval({{"N", 10}}) == 10 * 5 * 64);
}

namespace {

/// Temps of a net of layers as (first step, last step, bytes), one kernel a step.
struct Lives {
  struct Temp {
    int first, last;
    std::int64_t bytes;
  };
  std::string name;
  std::vector<Temp> temps;

  Program program() const {
    ProgramMaker m;
    const auto x = m.input("x", {16});
    const auto y = m.output("y", {16});
    int steps = 0;
    std::vector<ProgramBufferId> ids;
    for (const Temp& t : temps) {
      ids.push_back(m.temp("t" + std::to_string(ids.size()), {Dim(t.bytes / 4)}));
      steps = std::max(steps, t.last + 1);
    }
    for (int s = 0; s < steps; ++s) {
      std::vector<ProgramBufferId> used{x, y};
      std::vector<ProgramMaker::Param> params{{DType::f32, Access::read, 16}, {DType::f32, Access::write, 16}};
      for (std::size_t i = 0; i < temps.size(); ++i)
        if (temps[i].first == s || temps[i].last == s) {
          used.push_back(ids[i]);
          params.push_back({DType::f32, temps[i].first == s ? Access::write : Access::read, Dim(temps[i].bytes / 4)});
        }
      m.add(ProgramMaker::call(m.kernel(nullptr, params, 1, 0, false), used, {}));
    }
    return m.p;
  }
};

/// Nets as they occur: the sizes of activations shrink with depth, some are kept for later.
std::vector<Lives> nets() {
  Lives chain{"chain", {}}, residual{"residual", {}}, dense{"dense", {}}, unet{"unet", {}}, training{"training", {}};
  const auto size = [](int layer) { return std::int64_t{4096} * (200 - 3 * layer) / (1 + layer / 8) / 64 * 64; };
  for (int i = 0; i < 40; ++i) chain.temps.push_back({i, i + 1, size(i)});
  for (int i = 0; i < 40; ++i) residual.temps.push_back({i, i % 3 == 0 ? i + 3 : i + 1, size(i)});
  for (int i = 0; i < 40; ++i) {
    dense.temps.push_back({2 * i, (i / 10 + 1) * 20, size(i) / 8});  // a layer's features, read to the block's end
    dense.temps.push_back({2 * i, 2 * i + 1, size(i / 10 * 10) * (i % 10)});  // what they are gathered in
  }
  for (int i = 0; i < 20; ++i) {
    unet.temps.push_back({i, 40 - i, size(2 * i)});
    unet.temps.push_back({i, i + 1, size(2 * i) * 2});
    unet.temps.push_back({40 - i, 41 - i, size(2 * i) * 2});
  }
  for (int i = 0; i < 30; ++i) {
    training.temps.push_back({i, 60 - i, size(i)});
    training.temps.push_back({60 - i, 62 - i, size(i)});
    training.temps.push_back({60 - i, 61 - i, size(29 - i) / 2});
  }
  return {chain, residual, dense, unet, training};
}

}  // namespace

TEST_CASE("the arena is at most a tenth larger than the largest sum of live bytes") {
  for (const Lives& net : nets()) {
    const Program p = planned(net.program());
    const auto live = loop::peak_live_bytes(p);
    REQUIRE(live);
    CAPTURE(net.name, *live, p.arena_bytes.value());
    CHECK(p.arena_bytes.value() >= *live);
    CHECK(static_cast<double>(p.arena_bytes.value()) <= 1.1 * static_cast<double>(*live));
  }
}

TEST_CASE("live bytes count what is alive at one step, aligned, once per home") {
  Lives lives{"", {{0, 2, 100}, {1, 3, 4096}, {4, 5, 4224}, {5, 6, 64}}};
  CHECK(loop::peak_live_bytes(lives.program()) == 4288);
}

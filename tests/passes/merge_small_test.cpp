// Merged regions do what the steps did: random programs of small kernels, branches, loops, exchanges and slots, run by
// the loop interpreter before and after.
#include <catch2/catch.hpp>
#include <random>

#include "ir/loop/builder.hpp"
#include "passes/small_region.hpp"
#include "tests/lower/run_program.hpp"

using namespace ag;
using loop::Access;
using loop::KernelId;
using loop::ProgramBufferId;
using loop::Step;

namespace {

constexpr std::int64_t lanes = 16, rows = 8;

class RandomSteps {
 public:
  explicit RandomSteps(unsigned seed) : gen_(seed) {
    table_ = buffer(loop::BufferKind::input, DType::f32, {rows, lanes});
    p_.inputs.push_back(table_);
    for (int i = 0; i < 4; ++i) values_.push_back(buffer(loop::BufferKind::temp, DType::f32, {lanes}));
    for (int i = 0; i < 2; ++i) {
      values_.push_back(buffer(loop::BufferKind::output, DType::f32, {lanes}));
      p_.outputs.push_back(values_.back());
    }
    gathered_ = buffer(loop::BufferKind::output, DType::f32, {rows, lanes});
    p_.outputs.push_back(gathered_);
    mix_ = mix();
    fill_ = fill();
    less_ = less();
    begin_ = begin();
    advance_ = advance();
    for (ProgramBufferId v : values_) p_.body.steps.push_back(call(fill_, {v}));
    for (std::int64_t i = 0; i < rows; ++i) {  // so that all of it is written
      const ProgramBufferId at = counter(i), view = buffer(loop::BufferKind::temp, DType::f32, {lanes});
      p_.buffers[view].place = loop::Place::slot;
      p_.body.steps.push_back({loop::SlotStep{view, gathered_, at}});
      p_.body.steps.push_back(call(fill_, {view}));
    }
    for (Step& s : steps(0, 6 + roll(8), {})) p_.body.steps.push_back(std::move(s));
  }
  loop::Program take() { return std::move(p_); }

 private:
  int roll(int n) { return static_cast<int>(gen_() % static_cast<unsigned>(n)); }
  ProgramBufferId value() { return values_[static_cast<std::size_t>(roll(static_cast<int>(values_.size())))]; }

  ProgramBufferId buffer(loop::BufferKind kind, DType type, Dims shape) {
    loop::ProgramBuffer b{.kind = kind, .dtype = type, .shape = std::move(shape)};
    if (kind == loop::BufferKind::input) b.index = static_cast<std::uint32_t>(p_.inputs.size());
    if (kind == loop::BufferKind::output) b.index = static_cast<std::uint32_t>(p_.outputs.size());
    return p_.buffers.push(std::move(b));
  }
  ProgramBufferId counter(std::int64_t value) {
    const ProgramBufferId id = buffer(loop::BufferKind::constant, DType::i64, {});
    p_.buffers[id].constant = std::make_shared<std::int64_t>(value);
    return id;
  }
  static Step call(KernelId k, std::vector<ProgramBufferId> buffers) {
    return {loop::KernelCall{k, std::move(buffers), {}, {}, "k"}};
  }

  using B = loop::Builder;
  KernelId finish(B b) {
    b.kernel().flops = 16;
    return p_.kernels.push(std::move(b).finish());
  }
  /// c = a * 0.75 + b, in a tile loop of two.
  KernelId mix() {
    B b("mix");
    const auto x = b.param(DType::f32, lanes, Access::read), y = b.param(DType::f32, lanes, Access::read),
               z = b.param(DType::f32, lanes, Access::write);
    for (loop::BufferId id : {x, y, z}) b.kernel().buffers[id.index].noalias = true;
    b.kernel().tiles = 2;
    b.for_each(b.index(2), {.mapping = loop::Mapping::tile}, [&](loop::ValueId iv) {
      const auto at = b.mul(iv, b.index(8)), zero = b.index(0), one = b.index(1);
      const loop::VType t{DType::f32, 1, 8};
      const auto u = b.load_tile(x, t, at, zero, one), v = b.load_tile(y, t, at, zero, one);
      b.store_tile(z, at, zero, one, b.add(b.mul(u, b.constant(DType::f32, 0.75)), v));
    });
    return finish(std::move(b));
  }
  KernelId fill() {
    B b("fill");
    const auto x = b.param(DType::f32, lanes, Access::write);
    b.for_each(b.index(lanes), {}, [&](loop::ValueId iv) { b.store(x, iv, b.cast(iv, DType::f32)); });
    return finish(std::move(b));
  }
  KernelId less() {
    B b("less");
    const auto x = b.param(DType::f32, lanes, Access::read), y = b.param(DType::f32, lanes, Access::read),
               p = b.param(DType::boolean, 1, Access::write);
    b.store(p, b.index(0), b.op(loop::Op::cmp_lt, {b.load(x, b.index(3)), b.load(y, b.index(5))}));
    return finish(std::move(b));
  }
  KernelId begin() {
    B b("begin");
    const auto i = b.param(DType::i64, 1, Access::write), p = b.param(DType::boolean, 1, Access::write);
    b.store(i, b.index(0), b.index(0));
    b.store(p, b.index(0), b.constant_bits({DType::boolean, 1, 1}, 1));
    return finish(std::move(b));
  }
  KernelId advance() {
    B b("advance");
    const auto i = b.param(DType::i64, 1, Access::read_write), p = b.param(DType::boolean, 1, Access::write);
    const auto next = b.add(b.load(i, b.index(0)), b.index(1));
    b.store(i, b.index(0), next);
    b.store(p, b.index(0), b.op(loop::Op::cmp_lt, {next, b.index(3)}));
    return finish(std::move(b));
  }

  std::vector<Step> steps(int depth, int count, ProgramBufferId trip) {
    std::vector<Step> out;
    auto nested = [&](std::vector<Step> s) { return std::make_shared<loop::Seq>(loop::Seq{std::move(s)}); };
    for (int i = 0; i < count; ++i) {
      const int kind = depth < 3 ? roll(10) : 9;
      if (kind == 0) {
        const ProgramBufferId p = buffer(loop::BufferKind::temp, DType::boolean, {});
        out.push_back(call(less_, {value(), value(), p}));
        out.push_back(
            {loop::IfStep{p, nested(steps(depth + 1, roll(4), trip)), nested(steps(depth + 1, roll(4), trip))}});
      } else if (kind <= 2) {
        loop_step(depth, out);
      } else if (kind == 3 && trip) {  // temps only
        out.push_back({loop::SwapStep{values_[static_cast<std::size_t>(roll(2))],
                                      values_[2 + static_cast<std::size_t>(roll(2))]}});
      } else if (kind == 4 && trip) {
        slot(trip, out);
      } else {
        const ProgramBufferId to = value();
        ProgramBufferId a = value(), b = value();
        while (a == to) a = value();
        while (b == to) b = value();
        out.push_back(call(mix_, {a, b, to}));
      }
    }
    return out;
  }
  void loop_step(int depth, std::vector<Step>& out) {
    const ProgramBufferId i = buffer(loop::BufferKind::temp, DType::i64, {}),
                          go = buffer(loop::BufferKind::temp, DType::boolean, {});
    out.push_back(call(begin_, {i, go}));
    std::vector<Step> body = steps(depth + 1, 1 + roll(5), i);
    body.push_back(call(advance_, {i, go}));
    out.push_back({loop::WhileStep{go, std::make_shared<loop::Seq>(), std::make_shared<loop::Seq>(loop::Seq{body})}});
  }
  void slot(ProgramBufferId trip, std::vector<Step>& out) {
    const ProgramBufferId view = buffer(loop::BufferKind::temp, DType::f32, {lanes});
    p_.buffers[view].place = loop::Place::slot;
    const bool reads = roll(2) == 0, backwards = roll(2) == 0;
    out.push_back({loop::SlotStep{view, reads ? table_ : gathered_, trip, backwards, backwards ? Dim(rows) : Dim()}});
    ProgramBufferId a = value(), to = value();
    while (a == to) a = value();
    out.push_back(reads ? call(mix_, {view, a, to}) : call(mix_, {a, to, view}));
  }

  std::mt19937 gen_;
  loop::Program p_;
  ProgramBufferId table_, gathered_;
  std::vector<ProgramBufferId> values_;
  KernelId mix_, fill_, less_, begin_, advance_;
};

std::size_t count_steps(const loop::Program& p) {
  std::size_t n = 0;
  loop::for_each_step(p.body, [&](const Step&) { ++n; });
  return n;
}

}  // namespace

TEST_CASE("small kernels, branches and loops merge into kernels that do the same") {
  std::vector<float> numbers(rows * lanes);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i % 13) - 6;
  Array table(DType::f32, {rows, lanes});
  std::memcpy(table.mutable_bytes().data(), numbers.data(), table.bytes_size());
  std::size_t steps_before = 0, steps_after = 0;
  for (unsigned seed = 0; seed < 400; ++seed) {
    INFO("seed " << seed);
    const loop::Program before = RandomSteps(seed).take();
    REQUIRE(loop::verify(before));
    passes::PassContext context;
    auto after = passes::merge_small.on_program(before, context);
    REQUIRE(after);
    auto valid = loop::verify(*after);
    INFO((valid ? std::string() : valid.error().front().message));
    REQUIRE(valid);
    REQUIRE(loop::print(before) == loop::print(RandomSteps(seed).take()));  // shared sequences are left alone
    auto want = test::run_program(before, {table}), have = test::run_program(*after, {table});
    INFO((want ? std::string() : want.error().front().message));
    REQUIRE(want);
    INFO((have ? std::string() : have.error().front().message));
    REQUIRE(have);
    for (std::size_t i = 0; i < want->size(); ++i)
      REQUIRE(std::memcmp((*want)[i].bytes().data(), (*have)[i].bytes().data(), (*want)[i].bytes_size()) == 0);
    steps_before += count_steps(before), steps_after += count_steps(*after);
  }
  CHECK(steps_after * 3 < steps_before);
}

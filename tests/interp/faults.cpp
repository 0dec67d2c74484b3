// What the interpreter refuses: accesses out of bounds, uninitialised reads, races, divergent barriers. Each kernel is
// wrong in one way; its messages are in faults.txt. Beside each stands a right one that must run.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>

#include "tests/interp/run.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;
using Values = Builder::Values;

namespace {

struct Case {
  std::string name;
  bool fails;
  std::function<void(Builder&)> build;  // parameters: b0, f32[16], read; b1, f32[16], read and written
  std::uint32_t threads = 1;
  std::int64_t blocks = 1;
};
const BufferId in{std::size_t{0}}, out{std::size_t{1}};
const ForOptions parallel{.mapping = Mapping::parallel}, tiled{.mapping = Mapping::tile},
    block{.mapping = Mapping::block_x}, grid{.mapping = Mapping::grid_x};

/// for i < 16: out[i] = f(i)
auto map16(ForOptions o, std::function<ValueId(Builder&, ValueId)> f) {
  return [=](Builder& b) { b.for_each(b.index(16), o, [&](ValueId i) { b.store(out, i, f(b, i)); }); };
}
auto shifted_store(ForOptions o, std::int64_t modulus) {
  return [=](Builder& b) {
    b.for_each(b.index(16), o, [&](ValueId i) { b.store(out, b.op(Op::rem, {i, b.index(modulus)}), b.load(in, i)); });
  };
}
/// A scratch buffer written at `w(i)` and read at `r(i)` in each iteration, in one or two phases.
auto through(Scope scope, ForOptions o, std::int64_t read_offset, bool two_phases, bool barrier) {
  return [=](Builder& b) {
    BufferId s = b.alloc(DType::f32, 16, scope);
    auto write = [&](ValueId i) { b.store(s, i, b.load(in, i)); };
    auto read = [&](ValueId i) {
      b.store(out, i, b.load(s, b.op(Op::and_, {b.add(i, b.index(read_offset)), b.index(15)})));
    };
    b.for_each(b.index(16), o, [&](ValueId i) {
      write(i);
      if (barrier && !two_phases) b.barrier();
      if (!two_phases) read(i);
    });
    if (barrier && two_phases) b.barrier();
    if (two_phases) b.for_each(b.index(16), o, read);
  };
}
void nested(Builder& b, std::int64_t inner_stride) {
  b.for_each(b.index(4), parallel, [&](ValueId i) {
    b.for_each(b.index(4), parallel,
               [&](ValueId j) { b.store(out, b.add(b.mul(i, b.index(inner_stride)), j), b.load(in, j)); });
  });
}
void two_inner_loops(Builder& b, std::int64_t offset) {
  // Inside one outer iteration two parallel loops follow each other: ordered, whatever they touch of their own row.
  b.for_each(b.index(4), parallel, [&](ValueId i) {
    auto at = [&](ValueId j, std::int64_t o) {
      return b.op(Op::and_, {b.add(b.add(b.mul(i, b.index(4)), j), b.index(o)), b.index(15)});
    };
    b.for_each(b.index(4), parallel, [&](ValueId j) { b.store(out, at(j, 0), b.load(in, j)); });
    b.for_each(b.index(4), parallel, [&](ValueId j) { b.load(out, at(b.op(Op::xor_, {j, b.index(3)}), offset)); });
  });
}
void barrier_in_branch(Builder& b, std::int64_t below) {
  b.for_each(b.index(16), block, [&](ValueId i) {
    b.if_(
        b.op(Op::cmp_lt, {i, b.index(below)}),
        [&] {
          b.barrier();
          return Values{};
        },
        [&] { return Values{}; });
  });
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"load in bounds", false, map16({}, [](Builder& b, ValueId i) { return b.load(in, i); })},
      {"load above", true, map16({}, [](Builder& b, ValueId i) { return b.load(in, b.add(i, b.index(1))); })},
      {"load below", true, map16({}, [](Builder& b, ValueId i) { return b.load(in, b.sub(i, b.index(3))); })},
      {"tile store beyond the end", true,
       [](Builder& b) {
         ValueId v = b.broadcast(b.constant(DType::f32, 1), 2, 8);
         b.store_tile(out, b.index(1), b.index(8), b.index(1), v);
       }},
      {"masked tile store beyond the end", false,
       [](Builder& b) {
         ValueId v = b.broadcast(b.constant(DType::f32, 1), 2, 8);
         ValueId m = b.op(Op::cmp_lt, {b.broadcast(b.lane_iota(DType::i32, 8), 2, 8), b.constant_int(DType::i32, 7)});
         b.store_tile(out, b.index(1), b.index(8), b.index(1), v, m);
       }},
      {"scratch written, then read", false, through(Scope::scratch, {}, 0, false, false)},
      {"scratch read ahead of its writes", true, through(Scope::scratch, {}, 1, false, false)},
      {"scratch in two serial phases", false, through(Scope::scratch, {}, 1, true, false)},
      {"local of one iteration", false, through(Scope::local, parallel, 0, false, false)},
      {"local read by another iteration", true, through(Scope::local, parallel, 15, false, false)},
      {"parallel writes, each its own", false, shifted_store(parallel, 16)},
      {"parallel writes to shared elements", true, shifted_store(parallel, 7)},
      {"serial writes to shared elements", false, shifted_store({}, 7)},
      {"tiles that write each other's elements", true, shifted_store(tiled, 15)},
      {"parallel update in place", false, map16(parallel, [](Builder& b, ValueId i) { return b.load(out, i); })},
      {"parallel read of the element before", true,
       map16(parallel,
             [](Builder& b, ValueId i) { return b.load(out, b.op(Op::max, {b.sub(i, b.index(1)), b.index(0)})); })},
      {"parallel read of the element after", true,
       map16(parallel,
             [](Builder& b, ValueId i) { return b.load(out, b.op(Op::min, {b.add(i, b.index(1)), b.index(15)})); })},
      {"nested parallel loops over a matrix", false, [](Builder& b) { nested(b, 4); }},
      {"nested parallel loops that overlap", true, [](Builder& b) { nested(b, 3); }},
      {"two parallel loops in an iteration, own row", false, [](Builder& b) { two_inner_loops(b, 0); }},
      {"two parallel loops in an iteration, next row", true, [](Builder& b) { two_inner_loops(b, 4); }},
      {"threads write each their own", false, shifted_store(block, 16), 16},
      {"threads write the same", true, shifted_store(block, 8), 16},
      {"one thread writes all", false, shifted_store(block, 8), 1},
      {"blocks write the same", true, shifted_store(grid, 8), 1, 16},
      {"shared memory with a barrier", false, through(Scope::shared, block, 1, true, true), 16},
      {"shared memory with a barrier in the loop", false, through(Scope::shared, block, 1, false, true), 16},
      {"shared memory without a barrier", true, through(Scope::shared, block, 1, true, false), 16},
      {"scratch of another thread", true, through(Scope::scratch, block, 1, true, true), 16},
      {"barrier that all threads reach", false, [](Builder& b) { barrier_in_branch(b, 16); }, 16},
      {"barrier that some threads reach", true, [](Builder& b) { barrier_in_branch(b, 9); }, 16},
      {"barrier in a loop with a ragged end", true, through(Scope::shared, block, 0, false, true), 12},
      {"shuffle within the warp", false,
       map16(block, [](Builder& b, ValueId i) { return b.shuffle_xor(b.load(in, i), 5); }), 16},
      {"shuffle with a thread that is not there", true,
       map16(block, [](Builder& b, ValueId i) { return b.shuffle_xor(b.load(in, i), 16); }), 16},
  };
  return all;
}

std::string read_text(const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  std::ostringstream s;
  s << f.rdbuf();
  return s.str();
}

Kernel build(const Case& c) {
  Builder b("k");
  b.param(DType::f32, 16, Access::read);
  b.param(DType::f32, 16, Access::read_write);
  b.set_origin(0);
  c.build(b);
  Kernel k = std::move(b).finish();
  k.block = {c.threads, 1, 1};
  k.grid = {c.blocks, 1, 1};
  return k;
}

}  // namespace

TEST_CASE("each wrong kernel is refused with its message, each right one runs") {
  std::string messages;
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    std::vector<float> x(16, 1.0f), y(16, 2.0f);
    std::string error = run(build(c), x, y);
    CAPTURE(error);
    CHECK(c.fails == !error.empty());
    if (!error.empty()) messages += c.name + ": " + error + "\n";
  }
  const std::string path = std::string(AG_SOURCE_DIR) + "/tests/interp/faults.txt";
  if (std::getenv("AG_BLESS")) std::ofstream(path, std::ios::binary) << messages;
  INFO("AG_BLESS=1 rewrites tests/interp/faults.txt\n" << messages);
  CHECK((messages == read_text(path)));
}

TEST_CASE("arguments that do not fit and runs without end are refused") {
  Kernel k = samples::square_plus_one();
  std::vector<float> x(8, 2.0f), y(8);
  BufferView two[] = {{x.data(), 8}, {y.data(), 8}}, same[] = {{x.data(), 8}, {x.data(), 8}};
  const std::int64_t n = 8, more = 9;
  auto code = [](const Result<TrapRecord>& r) { return r ? "ok" : code_name(r.error()[0].code); };
  CHECK(code(interpret(k, two, {&n, 1})) == "ok");
  CHECK(y == std::vector<float>(8, 5.0f));
  CHECK(code(interpret(k, two, {})) == "AG5106");
  CHECK(code(interpret(k, {two, 1}, {&n, 1})) == "AG5106");
  CHECK(code(interpret(k, two, {&more, 1})) == "AG5106");
  CHECK(code(interpret(k, same, {&n, 1})) == "AG5107");
  CHECK(code(interpret(k, two, {&n, 1}, {.max_steps = 20})) == "AG5105");
}

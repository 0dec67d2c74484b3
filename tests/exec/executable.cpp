#include "runtime/exec/executable.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <random>
#include <thread>

#include "passes/pass.hpp"
#include "tests/exec/programs.hpp"

// Counts what the test program's own thread allocates, and what all threads do.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
thread_local long allocations = 0;
std::atomic<long> all_allocations{0};
void* operator new(std::size_t n) {
  ++allocations, ++all_allocations;
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
void* operator new(std::size_t n, std::align_val_t a) {
  ++allocations, ++all_allocations;
  const auto align = static_cast<std::size_t>(a);
  if (void* p = std::aligned_alloc(align, (n + align - 1) / align * align)) return p;
  throw std::bad_alloc();
}
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  ++allocations, ++all_allocations;
  return std::malloc(n ? n : 1);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

using namespace ag;
using namespace ag::runtime;
using namespace ag::runtime::test;
using Catch::Contains;
using Clock = std::chrono::steady_clock;

TEST_CASE("a program over a symbolic size runs at several sizes") {
  ExecContext ctx(small_program().must());
  for (std::int64_t n : {3, 1000, 3, 0, 1, 5000, 3}) {
    std::vector<float> x(n), y(n, -1);
    for (std::int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(i);
    auto in = view(x, {n}), out = view(y, {n});
    auto status = ctx.run({&in, 1}, {&out, 1});
    INFO(message_of(status));
    REQUIRE(status);
    for (std::int64_t i = 0; i < n; ++i) REQUIRE(y[i] == static_cast<float>(3 * i + 1));
    auto arrays = ctx.run_allocating({&in, 1});
    REQUIRE(arrays);
    CHECK(arrays->at(0).view().shape == std::vector<std::int64_t>{n});
    CHECK(std::equal(y.begin(), y.end(), arrays->at(0).data<float>()));
    CHECK(reinterpret_cast<std::uintptr_t>(arrays->at(0).data<float>()) % 64 == 0);
    CHECK(ctx.output_shapes({&in, 1})->at(0) == std::vector<std::int64_t>{n});
  }
}

TEST_CASE("the second run at given sizes allocates nothing") {
  for (int threads : {1, 2}) {
    ExecContext ctx(small_program(true).must(), {.threads = threads});
    std::vector<float> x(100, 1), y(100), y2(100), x3(7), y3(7);
    auto in = view(x), out = view(y), out2 = view(y2), in3 = view(x3), out3 = view(y3);
    REQUIRE(ctx.run({&in, 1}, {&out, 1}));
    REQUIRE(ctx.run({&in3, 1}, {&out3, 1}));
    const long before = allocations, before_all = all_allocations;
    bool ok = true;
    for (int i = 0; i < 20; ++i) {
      ok = ok && ctx.run({&in, 1}, {&out, 1}).has_value();
      ok = ok && ctx.run({&in, 1}, {&out2, 1}).has_value();   // other arrays
      ok = ok && ctx.run({&in3, 1}, {&out3, 1}).has_value();  // sizes seen before
    }
    CHECK(allocations == before);
    CHECK(all_allocations == before_all);  // the workers neither
    CHECK(ok);
    CHECK(y2[0] == 4);
    auto* p = new int(1);
    CHECK(allocations > before);  // the counter counts
    delete p;
  }
}

namespace {
struct Wrong {
  const char *name, *code, *text;
  std::function<void(std::vector<HostArray>&, std::vector<HostArray>&)> spoil;
};
}  // namespace

TEST_CASE("arrays that do not fit are errors that name the array and both sizes") {
  ProgramMaker m;
  const Dim N = Dim::symbol("N"), n = Dim::symbol("n");
  const auto x = m.input("x", {N, 2}), w = m.input("w", {N * Dim(2)}), z = m.input("z", {3, N});
  const auto y = m.output("y", {N, 2});
  m.p.guards.push_back({N, 1000, loop::DimGuard::Rel::le, "N is at most 1000"});
  m.p.guards.push_back({2, N, loop::DimGuard::Rel::divides, ""});
  const auto k = m.kernel(
      test::add, {{DType::f32, Access::read, n}, {DType::f32, Access::read, n}, {DType::f32, Access::write, n}}, n);
  m.add(m.call(k, {x, w, y}, {N * Dim(2)}));
  (void)z;
  ExecContext ctx(m.must());
  std::vector<float> fx(8), fw(8), fz(12), fy(8), big(8000);
  auto inputs = [&] { return std::vector<HostArray>{view(fx, {4, 2}), view(fw), view(fz, {3, 4})}; };
  auto outputs = [&] { return std::vector<HostArray>{view(fy, {4, 2})}; };
  using V = std::vector<HostArray>;
  const Wrong wrong[] = {
      {"missing input", "AG5001", "2 inputs were passed, the program has 3", [](V& i, V&) { i.pop_back(); }},
      {"missing output", "AG5001", "0 outputs were passed, the program has 1", [](V&, V& o) { o.pop_back(); }},
      {"dtype", "AG5002", "input `w` is f64[8], the program takes f32[2*N]", [](V& i, V&) { i[1].dtype = DType::f64; }},
      {"output dtype", "AG5002", "output `y` is i32[4,2], the program takes f32[N,2]",
       [](V&, V& o) { o[0].dtype = DType::i32; }},
      {"rank", "AG5003", "input `x` is f32[8], of rank 1; the program takes f32[N,2], of rank 2",
       [](V& i, V&) { i[0].shape = {8}; }},
      {"constant size", "AG5004", "input `x` has size 3 on axis 1, expected 2", [](V& i, V&) { i[0].shape = {4, 3}; }},
      {"expression", "AG5004", "input `w` has size 7 on axis 0, expected 8 (`2*N`)\n`N` is 4 by axis 0 of input `x`",
       [](V& i, V&) { i[1].shape = {7}; }},
      {"negative size", "AG5004", "input `x` has the size -4 on axis 0", [](V& i, V&) { i[0].shape = {-4, 2}; }},
      {"two sizes", "AG5005", "`N` is 4 on axis 0 of input `x` but 3 on axis 1 of input `z`",
       [](V& i, V&) { i[2].shape = {3, 3}; }},
      {"guard", "AG5006", "N is at most 1000\n`N` (1002) must be at most 1000",
       [](V& i, V&) { i[0].shape = {1002, 2}, i[1].shape = {2004}, i[2].shape = {3, 1002}; }},
      {"divides", "AG5006", "2 must divide `N` (3)",
       [](V& i, V&) { i[0].shape = {3, 2}, i[1].shape = {6}, i[2].shape = {3, 3}; }},
      {"null", "AG5007", "input `w` is a null pointer", [](V& i, V&) { i[1].data = nullptr; }},
      {"null output", "AG5007", "output `y` is a null pointer", [](V&, V& o) { o[0].data = nullptr; }},
      {"short", "AG5007", "input `x` has 31 bytes, its shape needs 32", [](V& i, V&) { i[0].bytes = 31; }},
      {"misaligned", "AG5007", "not aligned to the 4 bytes of f32",
       [](V& i, V&) {
         i[0].data = static_cast<char*>(i[0].data) + 1, i[0].shape = {2, 2}, i[1].shape = {4}, i[2].shape = {3, 2};
       }},
      {"output shape", "AG5004", "output `y` has size 2 on axis 0, expected 4", [](V&, V& o) { o[0].shape = {2, 2}; }},
      {"in place", "AG5017", "`y` overlap", [](V& i, V& o) { o[0].data = i[0].data; }},
      {"overlap", "AG5017", "overlap in memory",
       [&](V& i, V& o) { i[0].data = big.data(), o[0].data = big.data() + 7; }},
  };
  std::string said;
  for (const auto& c : wrong) {
    auto in = inputs(), out = outputs();
    INFO(c.name);
    REQUIRE(ctx.run(in, out));
    c.spoil(in, out);
    for (int again = 0; again < 2; ++again) {
      auto status = ctx.run(in, out);
      CHECK(code_of(status) == c.code);
      CHECK_THAT(message_of(status), Contains(c.text));
      if (again == 0) said += text_of(status);
    }
  }
  check_golden("exec_arrays.txt", said);
  // Two inputs may share memory, adjacent arrays do not overlap.
  auto in = inputs(), out = outputs();
  in[1].data = in[0].data, in[0].data = big.data(), out[0].data = big.data() + 8;
  CHECK(ctx.run(in, out));
}

TEST_CASE("sizes that overflow are errors") {
  ProgramMaker m;
  const Dim N = Dim::symbol("N"), M = Dim::symbol("M");
  m.input("a", {N, 0}), m.input("b", {M, 0});
  const auto t = m.temp("t", {N, M});
  m.p.buffers[t].planned = true;
  ExecContext ctx(m.must());
  std::vector<float> none;
  const std::int64_t big = std::int64_t{1} << 40;
  HostArray in[] = {view(none, {big, 0}), view(none, {big, 0})};
  auto status = ctx.run(in, std::span<const HostArray>{});
  CHECK(code_of(status) == "AG5008");
  CHECK_THAT(message_of(status), Contains("`t`") && Contains("f32[1099511627776,1099511627776]"));
  // An array that no machine has, and one that the type of sizes cannot count.
  auto none_left = OwnedArray::allocate(DType::u8, {std::int64_t{1} << 62}),
       countless = OwnedArray::allocate(DType::f64, {big, big});
  CHECK(code_of(none_left) == "AG5010");
  CHECK(code_of(countless) == "AG5008");
  check_golden("exec_sizes.txt", text_of(status) + text_of(none_left) + text_of(countless));
}

TEST_CASE("the memory limit is checked before anything is allocated") {
  auto m = small_program();
  ExecContext ctx(m.must(), {.memory_limit = 5000});
  std::vector<float> x(2000), y(2000);
  auto in = view(x), out = view(y);
  auto status = ctx.run({&in, 1}, {&out, 1});
  CHECK(code_of(status) == "AG5009");
  CHECK_THAT(message_of(status),
             Contains("needs 8000 bytes, the limit is 5000") && Contains("`t` f32[2000] (8000 bytes)"));
  check_golden("exec_limit.txt", text_of(status));
  CHECK(ctx.arena_bytes() == 0);
  in.shape = out.shape = {1000};
  CHECK(ctx.run({&in, 1}, {&out, 1}));
  CHECK(code_of(ctx.run_allocating({&in, 1})) == "AG5009");  // now the output counts too
}

TEST_CASE("a program that lacks something is refused") {
  std::string said;
  auto lacks = [&](auto spoil) {
    auto m = small_program();
    spoil(m);
    said += text_of(m.make());
    return message_of(m.make());
  };
  CHECK_THAT(lacks([](auto& m) { m.code.functions.pop_back(); }), Contains("has 2 kernels, code was given for 1"));
  CHECK_THAT(lacks([](auto& m) { m.code.functions[1] = nullptr; }), Contains("no code for kernel `add`"));
  CHECK_THAT(lacks([](auto& m) { m.p.buffers[ProgramBufferId(2u)].planned = false; }), Contains("plan_memory"));
  CHECK_THAT(lacks([](auto& m) { m.p.dim_sources.clear(); }), Contains("no input tells the size `N`"));
  CHECK_THAT(lacks([](auto& m) { std::get<loop::KernelCall>(m.p.body.steps[0].value).buffers.pop_back(); }),
             Contains("`twice` takes 2 buffers and 1 sizes, not 1 and 1"));
  CHECK_THAT(
      lacks([](auto& m) { std::get<loop::KernelCall>(m.p.body.steps[0].value).buffers[1] = ProgramBufferId(0u); }),
      Contains("writes to the input or constant `x`"));
  CHECK_THAT(lacks([](auto& m) { m.add({loop::HostCall{0, {}, {}, "h"}}); }), Contains("no host function for `h`"));
  // An arena that is too small for the sizes of a run, and a kernel that would run past its buffer.
  auto m = small_program();
  m.p.arena_bytes = 64;
  ExecContext ctx(m.must());
  std::vector<float> x(100), y(100);
  auto in = view(x), out = view(y);
  CHECK(code_of(ctx.run({&in, 1}, {&out, 1})) == "AG1092");
  m = small_program();
  m.p.kernels[loop::KernelId(0u)].buffers[1].elems = Dim::symbol("n") + Dim(1);
  ExecContext ctx2(m.must());
  auto status = ctx2.run({&in, 1}, {&out, 1});
  CHECK_THAT(message_of(status), Contains("accesses 101 elements of `t`, which is f32[100]"));
  check_golden("exec_unfit.txt", said + text_of(status));
}

namespace {
/// Gather with a check, as emitted code does it: the first trap stays.
void gather(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  for (auto i = lo; i < hi; ++i) {
    const auto index = ptr<std::int64_t>(a, 0)[i];
    if (index < 0 || index >= a->dims[0]) {
      std::uint32_t none = 0;
      if (a->context->trap_kind.compare_exchange_strong(none, 1))
        a->context->trap_origin = 2, a->context->trap_detail = index;
      return;
    }
  }
}
}  // namespace

TEST_CASE("a trap becomes an error at the place that this call of the kernel serves") {
  ProgramMaker m;
  const Dim N = Dim::symbol("N"), n = Dim::symbol("n");
  const auto x = m.input("x", {N}, DType::i64), y = m.input("y", {N}, DType::i64);
  const auto k = m.kernel(gather, {{DType::i64, Access::read, n}}, n);
  m.p.sources = {make_loc("m.json", 3, 1), make_loc("m.json", 4, 1), make_loc("m.json", 5, 1)};
  m.add(m.call(k, {x}, {N}, "gather"));
  m.add(m.call(k, {y}, {N}, "gather"));
  std::get<loop::KernelCall>(m.p.body.steps[0].value).origins = {0, 1};
  std::get<loop::KernelCall>(m.p.body.steps[1].value).origins = {0, 2};
  ExecContext ctx(m.must());
  std::vector<std::int64_t> good{0, 1, 2}, bad{0, 7, 2};
  HostArray a[] = {view(good), view(good)}, b[] = {view(bad), view(good)}, c[] = {view(good), view(bad)};
  const std::span<const HostArray> none;
  CHECK(ctx.run(a, none));
  auto first = ctx.run(b, none), second = ctx.run(c, none);
  CHECK(code_of(first) == "AG5012");
  CHECK_THAT(message_of(first), Contains("index 7 is out of range in `gather`"));
  CHECK(first.error()[0].spans.at(0).loc.str() == "m.json:4:1");
  CHECK(second.error()[0].spans.at(0).loc.str() == "m.json:5:1");
  CHECK(ctx.run(a, none));
  check_golden("exec_trap.txt", text_of(first) + text_of(second));
}

TEST_CASE("every kind of trap has its error") {
  ProgramMaker m;
  const auto x = m.input("kind", {1}, DType::i64);
  const auto k = m.kernel(
      [](const KernelArgs* a, std::int64_t, std::int64_t) {
        a->context->trap_kind = static_cast<std::uint32_t>(*ptr<std::int64_t>(a, 0));
        a->context->trap_origin = 0, a->context->trap_detail = 12;
      },
      {{DType::i64, Access::read, 1}}, 1, 0, false);
  m.add(m.call(k, {x}, {}, "the kernel"));
  ExecContext ctx(m.must());
  std::string said;
  for (std::int64_t kind = 1; kind <= 4; ++kind) {
    std::vector<std::int64_t> v{kind};
    auto in = view(v);
    auto status = ctx.run({&in, 1}, std::span<const HostArray>{});
    CHECK(code_of(status) == "AG501" + std::to_string(kind + 1));
    said += text_of(status);
  }
  check_golden("exec_traps.txt", said);
}

namespace {
// A loop: while (i < n) { if (i is odd) sum += i; else sum += 100; i += 1 }. The state is {i, sum, n}.
void loop_cond(const KernelArgs* a, std::int64_t, std::int64_t) {
  *ptr<bool>(a, 1) = ptr<std::int64_t>(a, 0)[0] < ptr<std::int64_t>(a, 0)[2];
}
void is_odd(const KernelArgs* a, std::int64_t, std::int64_t) { *ptr<bool>(a, 1) = ptr<std::int64_t>(a, 0)[0] % 2; }
void add_i(const KernelArgs* a, std::int64_t, std::int64_t) {
  ptr<std::int64_t>(a, 0)[1] += ptr<std::int64_t>(a, 0)[0];
}
void add_100(const KernelArgs* a, std::int64_t, std::int64_t) { ptr<std::int64_t>(a, 0)[1] += 100; }
void next(const KernelArgs* a, std::int64_t, std::int64_t) { ++ptr<std::int64_t>(a, 0)[0]; }
}  // namespace

TEST_CASE("loops, branches, host calls, constants, aliases and copied outputs") {
  ProgramMaker m;
  const auto n = m.input("n", {1}, DType::i64);
  const auto result = m.output("result", {3}, DType::i64), again = m.output("again", {3}, DType::i64);
  const auto start = m.buffer(BufferKind::constant, "start", DType::i64, {3});
  static const std::int64_t start_data[] = {0, 1000, 0};
  m.p.buffers[start].constant = std::shared_ptr<const void>(start_data, [](auto*) {});
  const auto state = m.temp("state", {3}, DType::i64), go = m.temp("go", {}, DType::boolean),
             odd = m.temp("odd", {}, DType::boolean);
  m.p.buffers[result].alias_of = state;  // the loop runs in the caller's array
  m.p.buffers[again].alias_of = state;   // a second name of it is copied
  m.p.outputs.push_back(n);              // an output that is an input
  m.p.outputs.push_back(start);          // ... and one that is a constant
  m.p.buffers[go].planned = m.p.buffers[odd].planned = true;
  m.p.buffers[odd].offset = 64;
  m.p.arena_bytes = 128;
  const DType i = DType::i64, b = DType::boolean;
  auto k = [&](loop::KernelFn f, bool predicate) {
    std::vector<ProgramMaker::Param> params{{i, Access::read_write, 3}};
    if (predicate) params = {{i, Access::read, 3}, {b, Access::write, 1}};
    return m.kernel(f, params, 1, 0, false);
  };
  m.host.push_back([](const HostCallArgs& h) -> Status {
    auto* s = static_cast<std::int64_t*>(h.outputs[0].data);
    std::memcpy(s, h.inputs[0].data, 24);
    s[2] = *static_cast<std::int64_t*>(h.inputs[1].data);
    if (h.inputs[0].shape != std::vector<std::int64_t>{3}) return fail(Code::AG5015, {}, "wrong shape");
    if (s[2] < 0) return fail(Code::AG5015, {}, "negative trip count");
    if (s[2] == 99) throw std::runtime_error("ninety-nine");
    return {};
  });
  auto seq = [](std::vector<loop::Step> steps) { return std::make_shared<loop::Seq>(loop::Seq{std::move(steps)}); };
  m.add({loop::HostCall{0, {start, n}, {state}, "init"}});
  m.add({loop::WhileStep{go, seq({m.call(k(loop_cond, true), {state, go}, {})}),
                         seq({m.call(k(is_odd, true), {state, odd}, {}),
                              {loop::IfStep{odd, seq({m.call(k(add_i, false), {state}, {})}),
                                            seq({m.call(k(add_100, false), {state}, {})})}},
                              m.call(k(next, false), {state}, {})})}});
  ExecContext ctx(m.must());
  for (std::int64_t trips : {0, 1, 2, 5, 10}) {
    std::vector<std::int64_t> count{trips};
    auto in = view(count);
    auto out = ctx.run_allocating({&in, 1});
    INFO(message_of(out));
    REQUIRE(out);
    std::int64_t sum = 1000;
    for (std::int64_t j = 0; j < trips; ++j) sum += j % 2 ? j : 100;
    for (int o : {0, 1}) {
      const auto* r = out->at(o).data<std::int64_t>();
      CHECK(r[0] == trips);
      CHECK(r[1] == sum);
      CHECK(r[2] == trips);
    }
    CHECK(out->at(2).data<std::int64_t>()[0] == trips);
    CHECK(out->at(3).data<std::int64_t>()[1] == 1000);
  }
  std::vector<std::int64_t> count{-1};
  auto in = view(count);
  CHECK(message_of(ctx.run_allocating({&in, 1})) == "negative trip count");
  count[0] = 99;
  CHECK_THAT(message_of(ctx.run_allocating({&in, 1})), Contains("`init` threw: ninety-nine"));
  // A loop without end, whose kernels never poll, ends when it is cancelled: the table is watched too.
  count[0] = INT64_MAX;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ctx.cancel();
  });
  CHECK(code_of(ctx.run_allocating({&in, 1})) == "AG5011");
  other.join();
}

TEST_CASE("states are read and written in place") {
  ProgramMaker m;
  const Dim n = Dim::symbol("n");
  const auto x = m.input("x", {4});
  const auto s = m.buffer(BufferKind::state, "s", DType::f32, {4});
  m.add(m.call(m.kernel(
                   [](const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
                     for (auto i = lo; i < hi; ++i) ptr<float>(a, 1)[i] += ptr<float>(a, 0)[i];
                   },
                   {{DType::f32, Access::read, n}, {DType::f32, Access::read_write, n}}, n),
               {x, s}, {4}));
  ExecContext ctx(m.must());
  std::vector<float> fx{1, 2, 3, 4}, fs{10, 20, 30, 40};
  auto in = view(fx), state = view(fs);
  for (int i = 0; i < 3; ++i) REQUIRE(ctx.run({&in, 1}, std::span<const HostArray>{}, {&state, 1}));
  CHECK(fs == std::vector<float>{13, 26, 39, 52});
  CHECK(code_of(ctx.run({&in, 1}, std::span<const HostArray>{})) == "AG5001");
  CHECK(code_of(ctx.run({&in, 1}, std::span<const HostArray>{}, {&in, 1})) == "AG5017");
}

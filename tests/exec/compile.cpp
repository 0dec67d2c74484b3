#include "runtime/exec/compile_cache.hpp"

#include <atomic>
#include <cstring>
#include <map>
#include <thread>

#include "codegen/backend.hpp"
#include "ir/loop/builder.hpp"
#include "runtime/cpu/loader.hpp"
#include "tests/exec/programs.hpp"

using namespace ag;
using namespace ag::runtime;
using namespace ag::runtime::test;
using Catch::Contains;
using loop::Builder;
using loop::Kernel;

namespace {

TargetSpec native() {
  auto t = codegen::describe_target("cpu:native");
  REQUIRE(t);
  return *t;
}

/// y[i] = x[i] * factor + 1, a tile an element.
Kernel scale(double factor, std::string name = "scale") {
  Builder b(std::move(name));
  const auto x = b.param(DType::f32, Dim::symbol("n"), Access::read),
             y = b.param(DType::f32, Dim::symbol("n"), Access::write);
  b.for_each(b.dim(Dim::symbol("n")), {.mapping = loop::Mapping::tile}, [&](loop::ValueId i) {
    const auto v = b.op(loop::Op::fma, {b.load(x, i), b.constant(DType::f32, factor), b.constant(DType::f32, 1)});
    b.store(y, i, v);
  });
  b.kernel().tiles = Dim::symbol("n");
  return std::move(b).finish();
}

/// Traps with x[i] where x[i] >= n.
Kernel bounded() {
  Builder b("bounded");
  const auto x = b.param(DType::i64, Dim::symbol("n"), Access::read);
  const auto n = b.dim(Dim::symbol("n"));
  b.for_each(n, {.mapping = loop::Mapping::tile}, [&](loop::ValueId i) {
    const auto v = b.load(x, i);
    b.set_origin(7);
    b.trap(b.op(loop::Op::cmp_ge, {v, n}), static_cast<std::uint32_t>(loop::Trap::index_out_of_range), v);
    b.set_origin(0);
  });
  b.kernel().tiles = Dim::symbol("n");
  return std::move(b).finish();
}

CompiledKernels must_compile(std::span<const Kernel> kernels, const CompileOptions& options = {}) {
  auto c = compile_kernels(kernels, native(), options);
  INFO(message_of(c));
  REQUIRE(c);
  return std::move(*c);
}
KernelCode must_load(Loader& loader, std::span<const CompiledKernelRef> objects) {
  auto code = loader.load(objects);
  INFO(message_of(code));
  REQUIRE(code);
  return std::move(*code);
}
std::shared_ptr<Loader> must_create() {
  auto loader = Loader::create();
  REQUIRE(loader);
  return *loader;
}
float call(loop::KernelFn f, float x) {
  float y = 0;
  void* buffers[] = {&x, &y};
  const std::int64_t dims[] = {1};
  loop::ContextBlock block;
  loop::KernelArgs args{buffers, dims, &block, nullptr};
  f(&args, 0, 1);
  return y;
}

}  // namespace

TEST_CASE("kernels are compiled, linked, run and unloaded") {
  const Kernel kernels[] = {scale(2), scale(3), scale(2, "other name")};
  auto compiled = must_compile(kernels, {.threads = 2});
  CHECK(compiled.compiled == 2);
  CHECK(compiled.kernels[0] == compiled.kernels[2]);
  CHECK(compiled.compile_ms[0] > 0);
  CHECK(compiled.compile_ms[2] == 0);
  auto loader = must_create();
  std::weak_ptr<const void> unloaded;
  {
    auto code = must_load(*loader, compiled.kernels);
    CHECK(code.functions[0] == code.functions[2]);
    CHECK(call(code.functions[0], 5) == 11);
    CHECK(call(code.functions[1], 5) == 16);
    auto again = must_load(*loader, compiled.kernels);  // the same symbols in another place
    CHECK(again.functions[0] != code.functions[0]);
    unloaded = code.owner;
    code = {};
    CHECK(unloaded.expired());
    CHECK(call(again.functions[1], 1) == 4);
  }
  // Code outlives the loader's last user.
  auto code = must_load(*loader, compiled.kernels);
  loader.reset();
  CHECK(call(code.functions[1], 2) == 7);
}

TEST_CASE("an executable of compiled kernels; a trap of emitted code has its place") {
  ProgramMaker m;
  const Dim N = Dim::symbol("N");
  const auto x = m.input("x", {N}), y = m.output("y", {N}), t = m.temp("t", {N});
  const auto ids = m.input("ids", {N}, DType::i64);
  const auto k = m.p.kernels.push(scale(2)), k2 = m.p.kernels.push(bounded());
  m.add(m.call(k, {x, t}, {N}, "first"));
  m.add(m.call(k2, {ids}, {N}, "gather"));
  m.add(m.call(k, {t, y}, {N}, "second"));
  m.p.sources = {make_loc("m.json", 3, 7), make_loc("m.json", 9, 5)};
  std::get<loop::KernelCall>(m.p.body.steps[1].value).origins = {1};
  m.p.buffers[t].planned = true;
  m.p.arena_bytes = ceildiv(N * Dim(4), 64) * Dim(64);
  auto compiled = must_compile(std::vector<Kernel>(m.p.kernels.begin(), m.p.kernels.end()));
  m.code = must_load(*must_create(), compiled.kernels);
  std::vector<float> fx(1001), fy(1001), expected(1001);
  for (std::size_t i = 0; i < fx.size(); ++i)
    fx[i] = static_cast<float>(i), expected[i] = static_cast<float>(4 * i + 3);
  for (int threads : {1, 2, 3}) {
    m.p.kernels[k].flops = 100000000;
    ExecContext ctx(m.must(), {.threads = threads});
    std::vector<std::int64_t> good(1001, 0);
    HostArray in[] = {view(fx), view(good)}, out[] = {view(fy)};
    REQUIRE(ctx.run(in, out));
    CHECK(fy == expected);
    good[500] = 1001;
    auto status = ctx.run(in, out);
    CHECK(code_of(status) == "AG5012");
    CHECK_THAT(message_of(status), Contains("index 1001 is out of range in `gather`"));
    CHECK(status.error()[0].spans.at(0).loc.str() == "m.json:9:5");
  }
}

TEST_CASE("damaged and foreign objects are errors") {
  const Kernel kernels[] = {scale(2)};
  auto good = must_compile(kernels).kernels[0];
  auto loader = must_create();
  auto refused = [&](std::string symbol, std::string bytes) {
    CompiledKernelRef object = std::make_shared<CompiledKernel>(CompiledKernel{std::move(symbol), std::move(bytes)});
    return code_of(loader->load({&object, 1}));
  };
  CHECK(refused(good->symbol, "") == "AG4101");
  CHECK(refused(good->symbol, "not an object") == "AG4101");
  CHECK(refused(good->symbol, good->bytes.substr(0, 100)) == "AG4101");
  CHECK(refused("another_symbol", good->bytes) == "AG4101");
  CompiledKernelRef empty = std::make_shared<CompiledKernel>(CompiledKernel{"k", ""});
  auto status = loader->load({&empty, 1});
  CHECK_THAT(message_of(status), Contains("machine code cannot be linked: "));
  check_golden("exec_link.txt", code_of(status) + "\n");  // LLVM's own words follow, which may change
  CHECK(refused(good->symbol, good->bytes) == "ok");
  CHECK(call(must_load(*loader, {&good, 1}).functions[0], 1) == 3);  // and the loader still works
}

TEST_CASE("the cache compiles once, is keyed by all that matters, and forgets the oldest") {
  CompileCache cache;
  const Kernel kernels[] = {scale(2), scale(3)};
  CHECK(must_compile(kernels, {.cache = &cache}).compiled == 2);
  CHECK(must_compile(kernels, {.cache = &cache}).compiled == 0);
  CHECK(must_compile(kernels, {.opt_level = 0, .cache = &cache}).compiled == 2);
  CHECK(cache.entries() == 4);
  TargetSpec other = native(), named = native();
  other.features += ",-avx512f";
  named.cpu = "x86-64-v3";
  CHECK(compile_key(kernels[0], other, {}) != compile_key(kernels[0], native(), {}));
  CHECK(compile_key(kernels[0], named, {}) != compile_key(kernels[0], native(), {}));
  // Emitted code contains the origins of traps, and with line info those of all statements.
  Kernel a = bounded(), b = bounded();
  for (auto& s : b.stmts)
    if (s.op == loop::Op::trap) s.origin = 0;
  CHECK(compile_key(a, native(), {}) != compile_key(b, native(), {}));
  CHECK(compile_symbol(a, {}) != compile_symbol(b, {}));
  b = a;
  for (auto& s : b.stmts)
    if (s.op == loop::Op::load) s.origin = 1;
  CHECK(compile_key(a, native(), {}) == compile_key(b, native(), {}));
  CHECK(compile_key(a, native(), {.line_info = true}) != compile_key(b, native(), {.line_info = true}));
  CHECK(compile_symbol(a, {.line_info = true}) != compile_symbol(b, {.line_info = true}));

  CompileCache tiny(1000);
  std::atomic<int> made{0};
  auto get = [&](const std::string& key) {
    return tiny.get(key, "s", nullptr, [&]() -> Result<std::string> {
      ++made;
      return std::string(400, 'x');
    });
  };
  for (const char* key : {"a", "b", "a", "c", "a"}) REQUIRE(get(key));
  CHECK(made == 3);
  CHECK(tiny.bytes() == 800);
  REQUIRE(get("b"));  // was used longest ago
  CHECK(made == 4);
}

TEST_CASE("threads that want the same object wait for one compilation; failures are not kept") {
  CompileCache cache;
  std::atomic<int> made{0}, good{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      auto r = cache.get("k", "s", nullptr, [&]() -> Result<std::string> {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        if (++made == 1) return fail(Code::AG9001, {}, "the first one fails");
        return std::string("bytes");
      });
      good += r.has_value();
    });
  for (auto& t : threads) t.join();
  CHECK(made == 2);
  CHECK(good == 7);
}

TEST_CASE("a store behind the cache is asked first and told of what is new") {
  struct Store : ObjectStore {
    std::map<std::string, std::string> files;
    int saves = 0;
    std::optional<std::string> load(const std::string& key) override {
      auto at = files.find(key);
      return at == files.end() ? std::nullopt : std::optional(at->second);
    }
    void save(const std::string& key, const std::string& bytes) override { files[key] = bytes, ++saves; }
  };
  auto store = std::make_shared<Store>();
  const Kernel kernels[] = {scale(2)};
  CompileCache first, second;
  CHECK(must_compile(kernels, {.cache = &first, .store = store.get()}).compiled == 1);
  auto stored = must_compile(kernels, {.cache = &second, .store = store.get()});
  CHECK(stored.compiled == 0);
  CHECK(store->saves == 1);
  CHECK(call(must_load(*must_create(), stored.kernels).functions[0], 2) == 5);
}

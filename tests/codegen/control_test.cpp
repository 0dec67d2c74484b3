// Loops, branches, traps and polls; what the emitter refuses.
#include <catch2/catch.hpp>

#include "codegen/backend.hpp"
#include "harness.hpp"
#include "loader.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;

namespace {

using Values = Builder::Values;

/// The sum of a function of the index over [0, N), carried as a tile, by a loop of each mapping.
Kernel sums(Mapping mapping, std::int64_t lo, std::int64_t hi, std::int64_t step) {
  Builder b("k0");
  BufferId x = b.param(DType::f32, 64, Access::read), out = b.param(DType::f32, 64, Access::write);
  ValueId zero = b.index(0), one = b.index(1);
  ValueId init = b.load_tile(x, {DType::f32, 2, 20}, zero, b.index(20), one);
  ValueId count = b.index(3);
  auto r = b.for_(b.index(lo), b.index(hi), b.index(step), {.mapping = mapping}, {init, count},
                  [&](ValueId iv, const Values& c) {
                    ValueId v = b.cast(b.load(x, iv), DType::f32);
                    return Values{b.op(Op::fma, {c[0], v, b.cast(iv, DType::f32)}), b.add(c[1], iv)};
                  });
  b.store_tile(out, zero, b.index(20), one, b.add(r[0], b.cast(r[1], DType::f32)));
  return std::move(b).finish();
}

}  // namespace

TEST_CASE("loops carry tiles") {
  for (Mapping m : {Mapping::serial, Mapping::unrolled})
    for (auto [lo, hi, step] : {std::tuple{0L, 5L, 1L}, {3L, 40L, 7L}, {4L, 4L, 1L}, {9L, 2L, 1L}, {0L, 1L, 100L}}) {
      INFO(mapping_name(m) << " " << lo << " " << hi << " " << step);
      CHECK(compare(sums(m, lo, hi, step), {sample(DType::f32, 64, 2), sample(DType::f32, 64, 5)}) == "");
    }
}

TEST_CASE("loops with bounds that only the caller knows, nested") {
  Builder b("k0");
  ValueId n = b.dim_param("N"), m = b.dim_param("M");
  BufferId x = b.param(DType::i32, 64, Access::read), out = b.param(DType::i32, 256, Access::write);
  b.for_each(n, {.mapping = Mapping::tile}, [&](ValueId i) {
    auto r = b.for_(b.index(0), m, b.index(2), {}, {b.constant_int(DType::i32, 1)}, [&](ValueId j, const Values& c) {
      auto inner = b.for_(j, m, b.index(1), {}, {c[0]}, [&](ValueId k, const Values& d) {
        return Values{
            b.add(b.mul(d[0], b.constant_int(DType::i32, 31)), b.load(x, b.op(Op::rem, {b.add(i, k), b.index(64)})))};
      });
      return inner;
    });
    b.store(out, i, r[0]);
  });
  b.kernel().tiles = Dim::symbol("N");
  Kernel k = std::move(b).finish();
  for (std::int64_t n : {0, 1, 9, 200})
    for (std::int64_t m : {0, 1, 2, 5})
      CHECK(compare(k, {sample(DType::i32, 64, 1), sample(DType::i32, 256, 2)}, {n, m}) == "");
}

TEST_CASE("while and if") {
  Builder b("k0");
  BufferId x = b.param(DType::i64, 40, Access::read), out = b.param(DType::i64, 80, Access::write);
  b.for_each(b.index(40), {.mapping = Mapping::tile}, [&](ValueId i) {
    // The length of the Collatz sequence from |x| % 1000 + 1.
    ValueId start = b.add(b.op(Op::rem, {b.op(Op::and_, {b.load(x, i), b.index(0xffff)}), b.index(1000)}), b.index(1));
    auto r = b.while_(
        {start, b.index(0)}, [&](const Values& c) { return std::pair{b.op(Op::cmp_gt, {c[0], b.index(1)}), c}; },
        [&](const Values& c) {
          ValueId odd = b.op(Op::cmp_eq, {b.op(Op::and_, {c[0], b.index(1)}), b.index(1)});
          auto next = b.if_(
              odd, [&] { return Values{b.add(b.mul(c[0], b.index(3)), b.index(1))}; },
              [&] { return Values{b.op(Op::div, {c[0], b.index(2)})}; });
          return Values{next[0], b.add(c[1], b.index(1))};
        });
    b.store(out, i, r[1]);
    b.if_(
        b.op(Op::cmp_gt, {r[1], b.index(50)}), [&] { return b.store(out, b.add(i, b.index(40)), r[0]), Values{}; },
        [] { return Values{}; });
  });
  b.kernel().tiles = 40;
  CHECK(compare(std::move(b).finish(), {sample(DType::i64, 40, 1), sample(DType::i64, 80, 2)}) == "");
}

TEST_CASE("the first trap is kept") {
  Builder b("k0");
  BufferId x = b.param(DType::i64, 40, Access::read), out = b.param(DType::i64, 40, Access::write);
  b.for_each(b.index(40), {.mapping = Mapping::tile}, [&](ValueId i) {
    ValueId v = b.load(x, i);
    b.set_origin(5);
    b.trap(b.op(Op::cmp_eq, {i, b.index(7)}), 2, b.add(i, b.index(1000)));
    b.set_origin(6);
    b.trap(b.op(Op::cmp_gt, {i, b.index(3)}), 1);
    b.store(out, i, v);
  });
  b.kernel().tiles = 40;
  CHECK(compare(std::move(b).finish(), {sample(DType::i64, 40, 1), sample(DType::i64, 40, 2)}) == "");
}

TEST_CASE("prefetches of any address change nothing") {
  Builder b("k0");
  BufferId x = b.param(DType::f32, 64, Access::read), out = b.param(DType::f32, 64, Access::write);
  b.for_each(b.index(64), {}, [&](ValueId i) {
    for (std::uint32_t level : {1, 2, 3}) b.prefetch(x, b.mul(i, b.index(1'000'003)), level);
    b.prefetch(x, b.sub(b.index(-5), i));
    b.store(out, i, b.load(x, i));
  });
  Kernel k = std::move(b).finish();
  auto target = codegen::describe_target("cpu");
  auto text = codegen::backend_of(*target).emit(k, *target, codegen::EmitKind::assembly, {});
  REQUIRE(text.has_value());
  for (const char* hint : {"prefetcht0", "prefetcht1", "prefetcht2"}) CHECK(text->find(hint) != std::string::npos);
  CHECK(compare(k, {sample(DType::f32, 64, 1), sample(DType::f32, 64, 2)}) == "");
}

TEST_CASE("a poll leaves a cancelled kernel") {
  Builder b("k0");
  BufferId out = b.param(DType::i64, 4, Access::write);
  b.for_each(b.index(4), {.mapping = Mapping::tile}, [&](ValueId i) {
    b.store(out, i, b.index(1));
    b.poll();
  });
  b.kernel().tiles = 4;
  Kernel k = std::move(b).finish();
  auto target = codegen::describe_target("cpu");
  REQUIRE(target.has_value());
  auto object = codegen::backend_of(*target).emit(k, *target, codegen::EmitKind::object, {});
  REQUIRE(object.has_value());
  test::Code code(*object, "k");
  REQUIRE(code.problem == "");
  for (bool cancelled : {false, true}) {
    std::int64_t data[4] = {};
    void* buffers[] = {data};
    ContextBlock context;
    context.cancelled = cancelled;
    KernelArgs args{buffers, nullptr, &context, nullptr};
    code.fn(&args, 0, 4);
    CHECK(data[0] == 1);
    CHECK(data[1] == (cancelled ? 0 : 1));
    CHECK(data[3] == (cancelled ? 0 : 1));
  }
}

TEST_CASE("targets are named, described and refused") {
  CHECK(codegen::describe_target("cpu")->name == "cpu:native");
  auto v3 = codegen::describe_target("cpu:x86-64-v3");
  CHECK((v3->vector_bits == 256 && v3->vector_registers == 16 && !v3->masked_ops));
  auto v4 = codegen::describe_target("cpu:x86-64-v4");
  CHECK((v4->vector_bits == 512 && v4->vector_registers == 32 && v4->masked_ops));
  for (const auto* backend : codegen::backends())
    for (const std::string& name : backend->known_targets()) {
      INFO(name);
      if (name != "native") CHECK(backend->describe(name).has_value());
    }
  for (const char* name : {"", "tpu", "cpu:i486x", "cuda:sm_35", "cuda"}) {
    INFO(name);
    auto t = codegen::describe_target(name);
    REQUIRE(!t.has_value());
    CHECK(t.error()[0].code == ag::Code::AG4001);
    CHECK(!t.error()[0].children.empty());
  }
  CHECK(codegen::describe_target("cpu:x86-64-v2").error()[0].code == ag::Code::AG4002);
}

TEST_CASE("what a target cannot run is refused with a reason") {
  auto cpu = *codegen::describe_target("cpu");
  auto gpu = *codegen::describe_target("cuda:sm_80");
  auto code_of = [](const TargetSpec& t, Kernel k, codegen::EmitKind kind) {
    auto r = codegen::backend_of(t).emit(k, t, kind, {});
    return r ? ag::Code{} : r.error()[0].code;
  };
  auto kernel = [](auto&& body) {
    Builder b("k0");
    body(b);
    return std::move(b).finish();
  };
  auto object = codegen::EmitKind::object;
  auto ptx = codegen::EmitKind::ptx;
  Kernel empty = kernel([](Builder&) {});
  CHECK(code_of(cpu, empty, object) == ag::Code{});
  CHECK(code_of(cpu, empty, ptx) == ag::Code::AG4004);
  CHECK(code_of(gpu, empty, object) == ag::Code::AG4004);
  CHECK(code_of(gpu, empty, ptx) == ag::Code{});
  Kernel math = kernel([](Builder& b) {
    BufferId x = b.param(DType::f32, 1, Access::read_write);
    b.store(x, b.index(0), b.op(Op::exp, {b.load(x, b.index(0))}));
  });
  CHECK(code_of(cpu, math, object) == ag::Code::AG4005);
  Kernel scratch = kernel([](Builder& b) { b.alloc(DType::f32, 4, Scope::scratch); });
  CHECK(code_of(gpu, scratch, ptx) == ag::Code::AG4005);
  Kernel large = kernel([](Builder& b) { b.alloc(DType::f32, 1 << 20, Scope::local); });
  CHECK(code_of(cpu, large, object) == ag::Code::AG4005);
  Kernel unrolled = kernel([](Builder& b) {
    BufferId x = b.param(DType::i64, 1024, Access::write);
    auto nest = [&](auto&& self, int depth) -> void {
      b.for_each(b.index(1000), {.mapping = Mapping::unrolled}, [&](ValueId i) {
        if (depth == 0)
          b.store(x, i, i);
        else
          self(self, depth - 1);
      });
    };
    nest(nest, 3);
  });
  CHECK(code_of(cpu, unrolled, object) == ag::Code::AG4005);
}

TEST_CASE("emission is deterministic and knows its levels and kinds") {
  auto cpu = *codegen::describe_target("cpu:x86-64-v3");
  Kernel k = sums(Mapping::serial, 0, 5, 1);
  const auto& backend = codegen::backend_of(cpu);
  for (auto kind : {codegen::EmitKind::llvm, codegen::EmitKind::assembly, codegen::EmitKind::object})
    for (int level : {0, 2})
      for (bool lines : {false, true}) {
        codegen::EmitOptions o{.opt_level = level, .symbol = "k7", .line_info = lines};
        auto first = backend.emit(k, cpu, kind, o), second = backend.emit(k, cpu, kind, o);
        REQUIRE(first.has_value());
        CHECK(*first == *second);
        CHECK(first->find("k7") != std::string::npos);
      }
  auto debug = backend.emit(k, cpu, codegen::EmitKind::object, {.line_info = true});
  CHECK(debug->find(".debug_line") != std::string::npos);
}
